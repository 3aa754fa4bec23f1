package incident

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// Limits say how often something must be seen in a minute to be an incident.
type Limits struct {
	// UnknownKeys are licence keys that nobody has, from everywhere together: key_guessing, P2.
	UnknownKeys int64 `env:"WATCH_UNKNOWN_KEYS" envDefault:"200"`
	// BadCredentials are refused API keys and ID tokens, from everywhere together: bad_credentials, P3.
	BadCredentials int64 `env:"WATCH_BAD_CREDENTIALS" envDefault:"100"`
	// CrossTenant are requests of one tenant for what is another's: cross_tenant, P2.
	CrossTenant int64 `env:"WATCH_CROSS_TENANT" envDefault:"10"`
	// OverBudget are requests of one licence's holders that come faster than an honest client asks: seat_churn, P3.
	OverBudget int64 `env:"WATCH_OVER_BUDGET" envDefault:"200"`
}

// OpenLimits reads Limits from the environment.
func OpenLimits(getenv func(string) string) (Limits, error) {
	var l Limits
	if err := config.Load(&l, getenv); err != nil {
		return l, err
	}
	var faults []error
	for variable, n := range map[string]int64{
		"WATCH_UNKNOWN_KEYS": l.UnknownKeys, "WATCH_BAD_CREDENTIALS": l.BadCredentials, "WATCH_CROSS_TENANT": l.CrossTenant, "WATCH_OVER_BUDGET": l.OverBudget,
	} {
		if n <= 0 {
			faults = append(faults, &config.Fault{Variable: variable, Problem: "must be positive"})
		}
	}
	return l, errors.Join(faults...)
}

// WatchAnswer is the body of a 200.
type WatchAnswer struct {
	// Opened are incidents that were opened for what was seen, Imported those that came from the journal.
	Opened   int `json:"opened"`
	Imported int `json:"imported"`
	// Acted are actions that were pending, and are no more.
	Acted int `json:"acted"`
	// Journaled entries of timelines waited for the journal.
	Journaled int `json:"journaled"`
	// Frozen are tenants that were frozen or unfrozen as the switches say.
	Frozen      int            `json:"frozen"`
	Checkpoints journal.Report `json:"checkpoints"`
}

// watcher is who does what nobody asked for.
var watcher = actor{by: "watch"}

func (d Deps) watch(c *httpx.Call) (httpx.Reply, error) {
	token, _ := c.Bearer()
	if err := d.Scheduler.Verify(c.Context(), token); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	// The parts do not need each other: one that fails must not keep the others from their work.
	ctx := c.Context()
	who := watcher
	who.request = c.ID()
	var answer WatchAnswer
	var errs [6]error
	answer.Opened, errs[0] = d.detect(ctx, who)
	answer.Imported, errs[1] = d.bring(ctx, who)
	answer.Acted, errs[2] = d.finish(ctx, who)
	answer.Frozen, errs[3] = d.reconcile(ctx, who)
	answer.Journaled, errs[4] = d.flush(ctx, uuid.Nil)
	answer.Checkpoints, errs[5] = d.Checkpoints.Run(ctx)
	rewritten, err := d.rewritten(ctx, who, answer.Checkpoints.Rewritten)
	answer.Opened += rewritten
	c.Note(slog.Any("watched", answer))
	if err := errors.Join(append(errs[:], err)...); err != nil {
		d.Log.ErrorContext(ctx, watchFailed, slog.Any("error", err))
		return httpx.Reply{}, err
	}
	d.Log.InfoContext(ctx, watchRan)
	return httpx.Reply{Body: answer}, nil
}

// The log says one of these of each run. They are what an alert goes by, when the one is there or the other is not: docs/incidents.md
// names them.
const (
	watchRan    = "the watch ran"
	watchFailed = "the watch failed"
)

// suspicion is something that is seen too often, of somebody.
type suspicion struct {
	kind, severity, summary string
	// of names whom it is about; "" is the whole deployment.
	of     string
	limit  int64
	counts []budget.Count
	// once says that it is seen for ever after: no second incident is opened for it, whatever becomes of the first.
	once bool
}

// name is what there is one open incident of.
func (s *suspicion) name() string { return strings.TrimSpace(s.kind + " " + s.of) }

// worst is the most that was seen in a minute.
func (s *suspicion) worst() int64 {
	minutes := map[time.Time]int64{}
	worst := int64(0)
	for _, c := range s.counts {
		minutes[c.Minute] += c.N
		worst = max(worst, minutes[c.Minute])
	}
	return worst
}

const (
	// lookBack is how far back the watch looks each minute: a run may be late, or fail.
	lookBack = 10 * time.Minute
	// mostOpened bounds the incidents that one run opens, so that an attack under many names is no storm of them.
	mostOpened = 20
)

// suspicions are what was counted, by what it may be an incident of. Where it comes from counts together where an attacker
// chooses it freely, as addresses are; whose credential or licence it was does not.
func (l Limits) suspicions(counts []budget.Count) []suspicion {
	by := map[string]*suspicion{}
	var all []*suspicion
	for _, c := range counts {
		s := suspicion{}
		switch c.Kind {
		case budget.UnknownKeys:
			s = suspicion{kind: "key_guessing", severity: "P2", limit: l.UnknownKeys, summary: "Somebody tries licence keys that nobody has."}
		case budget.BadCredentials:
			s = suspicion{kind: "bad_credentials", severity: "P3", limit: l.BadCredentials, summary: "API keys or ID tokens are refused in great number."}
		case budget.CrossTenant:
			s = suspicion{kind: "cross_tenant", severity: "P2", limit: l.CrossTenant, of: c.Source, summary: "A tenant's credential is used to ask for what is another tenant's."}
		case budget.OverBudget:
			s = suspicion{kind: "seat_churn", severity: "P3", limit: l.OverBudget, of: c.Source, summary: "Holders of a licence ask faster than an honest client does."}
		default:
			continue
		}
		known := by[s.name()]
		if known == nil {
			known = &s
			by[s.name()] = known
			all = append(all, known)
		}
		known.counts = append(known.counts, c)
	}
	var over []suspicion
	for _, s := range all {
		if s.worst() >= s.limit {
			over = append(over, *s)
		}
	}
	slices.SortFunc(over, func(a, b suspicion) int {
		return cmp.Or(cmp.Compare(b.worst(), a.worst()), strings.Compare(a.name(), b.name()))
	})
	return over
}

// detect opens an incident for what is seen too often, unless one is open, to which it adds its evidence; and says how many it
// opened.
func (d Deps) detect(ctx context.Context, who actor) (opened int, err error) {
	counts, err := d.Budgets.Seen(ctx, d.Now().Add(-lookBack))
	if err != nil {
		return 0, err
	}
	var errs []error
	for i, s := range d.Limits.suspicions(counts) {
		if i >= mostOpened {
			d.Log.ErrorContext(ctx, "more is seen than incidents are opened for", slog.String("first", s.name()))
			break
		}
		is, err := d.suspect(ctx, who, &s)
		if err != nil {
			errs = append(errs, fmt.Errorf("open an incident for %s: %w", s.name(), err))
		} else if is {
			opened++
		}
	}
	return opened, errors.Join(errs...)
}

// rewritten opens an incident for each tenant whose audit chain is not the one of its last checkpoint any more.
func (d Deps) rewritten(ctx context.Context, who actor, tenants []tenancy.ID) (opened int, err error) {
	var errs []error
	for _, tenant := range tenants {
		of := "tenant:" + tenant.String()
		is, err := d.suspect(ctx, who, &suspicion{
			kind: "history_rewritten", severity: "P0", of: of, limit: 1, once: true,
			summary: "An audit chain is not the one of its last checkpoint in the journal: somebody has written to the database what no function writes.",
			counts:  []budget.Count{{Minute: d.Now().UTC().Truncate(time.Minute), Source: of, N: 1}},
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("open an incident for the chain of tenant %s: %w", tenant, err))
		} else if is {
			opened++
		}
	}
	return opened, errors.Join(errs...)
}

// suspect opens an incident for a suspicion, if none is open and it was not over when the last one was resolved.
func (d Deps) suspect(ctx context.Context, who actor, s *suspicion) (opened bool, err error) {
	scope, err := d.scopeOf(ctx, s.of)
	if err != nil {
		return false, err
	}
	name := s.name()
	err = d.DB.As(ctx, identity.Operator(), func(tx tenancy.Tx) error {
		var now time.Time
		var resolved *time.Time
		err := tx.QueryRow(ctx, `SELECT now(), (SELECT max(resolved_at) FROM app.incidents WHERE detected_as = $1)`, name).Scan(&now, &resolved)
		if err != nil {
			return err
		}
		if resolved != nil && s.once {
			return nil
		}
		if resolved != nil { // what was seen before is dealt with
			s.counts = slices.DeleteFunc(s.counts, func(c budget.Count) bool { return !c.Minute.After(*resolved) })
		}
		var id uuid.UUID
		err = tx.QueryRow(ctx, `SELECT id FROM app.incidents WHERE detected_as = $1 AND status = 'open'`, name).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			if s.worst() < s.limit {
				return nil
			}
			if id, err = uuid.NewV7(); err != nil {
				return err
			}
			now = now.UTC().Truncate(time.Millisecond)
			i := journal.Incident{
				ID: id, Severity: s.severity, Kind: s.kind, Summary: s.summary, Scope: scope.texts(), Actions: []string{}, By: who.by, At: now,
				RespondBy: now.Add(respondWithin[s.severity]),
			}
			maps := scope.texts()
			maps["seen_in_a_minute"] = fmt.Sprint(s.worst())
			i.Scope = maps
			if opened, err = d.insert(ctx, tx, who, &i, scope, &name); err != nil || !opened {
				return err // another run was faster: its next adds the evidence
			}
		} else if err != nil {
			return err
		}
		return evidence(ctx, tx, id, s.counts)
	})
	return opened, err
}

// evidence keeps how often something was seen in each minute. Again it only grows.
func evidence(ctx context.Context, tx tenancy.Tx, incident uuid.UUID, counts []budget.Count) error {
	var minutes []time.Time
	var sources []string
	var ns []int64
	for _, c := range counts {
		source := c.Source
		if source == "" {
			source = "others"
		}
		minutes, sources, ns = append(minutes, c.Minute), append(sources, source), append(ns, c.N)
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO app.incident_evidence (incident_id, minute, source, count)
		SELECT $1, * FROM unnest($2::timestamptz[], $3::text[], $4::bigint[])
		ON CONFLICT (incident_id, minute, source) DO UPDATE SET count = greatest(incident_evidence.count, excluded.count)`, incident, minutes, sources, ns)
	if err != nil {
		return fmt.Errorf("keep the evidence of incident %s: %w", incident, err)
	}
	return nil
}

// scopeOf is whom a source names.
func (d Deps) scopeOf(ctx context.Context, source string) (About, error) {
	what, text, _ := strings.Cut(source, ":")
	id, err := uuid.Parse(text)
	if err != nil {
		return About{}, nil //nolint:nilerr // it names nobody
	}
	switch what {
	case "tenant":
		return About{TenantID: &id}, nil
	case "license":
		return d.scope(ctx, Scope{LicenseID: &id})
	}
	return About{}, nil
}

// bring makes rows of the incidents that were opened while the database was out.
func (d Deps) bring(ctx context.Context, who actor) (brought int, err error) {
	offline, err := d.Journal.OfflineIncidents(ctx)
	if errors.Is(err, journal.ErrOff) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var errs []error
	for n := range offline {
		i := &offline[n]
		is, err := d.bringOne(ctx, who, i)
		if err != nil {
			errs = append(errs, fmt.Errorf("bring incident %s from the journal: %w", i.ID, err))
		} else if is {
			brought++
		}
	}
	return brought, errors.Join(errs...)
}

func (d Deps) bringOne(ctx context.Context, who actor, i *journal.Incident) (brought bool, err error) {
	there := false
	err = d.DB.AsReadOnly(ctx, tenancy.ID{}, func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM app.incidents WHERE id = $1)`, i.ID).Scan(&there)
	})
	if err != nil || there {
		return false, err
	}
	q, err := scopeOf(i.Scope)
	if err != nil {
		return false, err
	}
	scope, wrong := d.scope(ctx, q)
	if wrong != nil { // it names what is not there: its actions fail, and say so
		if scope.TenantID == nil {
			scope.LicenseID, scope.UserID, scope.APIKeyID = nil, nil, nil
		}
	}
	by := actor{by: i.By, credential: "id_token", request: who.request, person: true}
	err = d.DB.As(ctx, identity.Operator(), func(tx tenancy.Tx) (err error) {
		brought, err = d.insert(ctx, tx, by, i, scope, nil)
		return err
	})
	return brought, err
}

// finish does the actions that are pending, in the name of who opened the incident.
func (d Deps) finish(ctx context.Context, who actor) (acted int, err error) {
	var ids []uuid.UUID
	err = d.DB.AsReadOnly(ctx, tenancy.ID{}, func(tx tenancy.Tx) error {
		// Those that a request is about are left to it for a while.
		rows, err := tx.Query(ctx, `
			SELECT DISTINCT i.id FROM app.incident_actions a JOIN app.incidents i ON i.id = a.incident_id
			 WHERE a.outcome = 'pending' AND (i.opened_at < now() - interval '30 seconds' OR i.offline) ORDER BY i.id LIMIT 100`)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		r, err := d.read(ctx, id)
		if err != nil {
			return acted, err
		}
		by := actor{by: r.OpenedBy, request: who.request}
		d.actAll(ctx, by, &r)
		after, err := d.read(ctx, id)
		if err != nil {
			return acted, err
		}
		acted += waiting(&r) - waiting(&after)
	}
	return acted, nil
}

// waiting is how many actions of an incident are pending.
func waiting(r *row) (n int) {
	for _, a := range r.Actions {
		if a.Outcome == pending {
			n++
		}
	}
	return n
}
