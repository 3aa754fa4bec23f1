package incident

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// errOffline is why what needs the database cannot be done.
var errOffline = errors.New("the database is out, and the journal does not do")

// What a timeline says that happened.
const (
	whatOpened   = "opened"
	whatActed    = "acted"
	whatFailed   = "failed"
	whatNoted    = "noted"
	whatResolved = "resolved"
)

func subjectOf(incident uuid.UUID) string { return "incident:" + incident.String() }

// newEntry is an entry of the timeline, by its doer, as of now.
func newEntry(incident uuid.UUID, at time.Time, what, by, text string, details map[string]string) (journal.Entry, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return journal.Entry{}, err
	}
	return journal.Entry{ID: id, Incident: incident, At: at.UTC().Truncate(time.Millisecond), What: what, By: by, Text: text, Details: details}, nil
}

// record keeps an entry: in the audit log, in the chain of the transaction's tenant, as the act on the subject; and for the
// journal, which is told afterwards. It is the last thing to do in the transaction.
func (d Deps) record(ctx context.Context, tx tenancy.Tx, who actor, e journal.Entry, action, subject string) error {
	if !d.Journal.Off() {
		body, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO app.incident_entries (id, incident_id, body) VALUES ($1, $2, $3::text::jsonb)`, e.ID, e.Incident, string(body))
		if err != nil {
			return fmt.Errorf("keep an entry of incident %s: %w", e.Incident, err)
		}
	}
	details := map[string]string{"incident": e.Incident.String(), "entry": e.ID.String(), "what": e.What, "text": e.Text}
	maps.Copy(details, e.Details)
	return audit.Record(ctx, tx, who.act(action, subject, details))
}

// flushAtOnce is how many entries are read at once that wait for the journal.
const flushAtOnce = 100

// flush tells the journal the entries that wait for it: those of one incident, or of all with uuid.Nil. Two at once do no
// harm, because an entry is created under its own name.
func (d Deps) flush(ctx context.Context, incident uuid.UUID) (written int, err error) {
	if d.Journal.Off() {
		return 0, nil
	}
	for {
		var waiting []journal.Entry
		err := d.DB.AsReadOnly(ctx, tenancy.ID{}, func(tx tenancy.Tx) error {
			rows, err := tx.Query(ctx, `
				SELECT body::text FROM app.incident_entries
				 WHERE $1 = '00000000-0000-0000-0000-000000000000'::uuid OR incident_id = $1
				 ORDER BY id LIMIT $2`, incident, flushAtOnce)
			if err != nil {
				return err
			}
			waiting, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e journal.Entry, err error) {
				var body string
				if err = row.Scan(&body); err == nil {
					err = json.Unmarshal([]byte(body), &e)
				}
				return e, err
			})
			return err
		})
		if err != nil {
			return written, fmt.Errorf("read what waits for the journal: %w", err)
		}
		var done []string
		for _, e := range waiting {
			if err = d.Journal.WriteEntry(ctx, e); err != nil {
				break
			}
			done = append(done, e.ID.String())
		}
		if len(done) > 0 {
			written += len(done)
			err = errors.Join(err, d.DB.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
				b.Queue(`DELETE FROM app.incident_entries WHERE id = ANY ($1::text[]::uuid[])`, done)
			}))
		}
		if err != nil || len(waiting) < flushAtOnce {
			return written, err
		}
	}
}

// tell is flush in a request: what the journal cannot take now the watch tells it.
func (d Deps) tell(ctx context.Context, incident uuid.UUID) {
	if _, err := d.flush(ctx, incident); err != nil {
		d.Log.WarnContext(ctx, "the journal was not told of an incident yet", slog.String("incident", incident.String()), slog.Any("error", err))
	}
}

// row is an incident as the database has it.
type row struct {
	Incident
	detectedAs *string
}

const columns = `
	i.id, i.severity, i.kind, i.summary, i.status, i.about_tenant, i.about_license, i.about_user, i.about_api_key, i.about_kid,
	i.opened_by, i.opened_at, i.respond_by, i.responded_at, i.resolved_at, i.resolved_by, i.resolution, i.offline, i.detected_as,
	EXISTS (SELECT FROM app.incident_entries e WHERE e.incident_id = i.id)`

func (d Deps) scan(from pgx.Row) (row, error) {
	var r row
	var opened, respond time.Time
	var responded, resolved *time.Time
	waits := false
	err := from.Scan(&r.ID, &r.Severity, &r.Kind, &r.Summary, &r.Status, &r.Scope.TenantID, &r.Scope.LicenseID, &r.Scope.UserID, &r.Scope.APIKeyID,
		&r.Scope.SigningKeyID, &r.OpenedBy, &opened, &respond, &responded, &resolved, &r.ResolvedBy, &r.Resolution, &r.Offline, &r.detectedAs, &waits)
	r.OpenedAt, r.RespondBy = httpx.At(opened), httpx.At(respond)
	r.RespondedAt, r.ResolvedAt = httpx.AtOrNull(responded), httpx.AtOrNull(resolved)
	r.Actions, r.Evidence = []Action{}, []Evidence{}
	switch {
	case d.Journal.Off():
		r.Journal = "off"
	case waits:
		r.Journal = "waiting"
	default:
		r.Journal = "written"
	}
	return r, err
}

var errNoIncident = fault.NotFound("not_found", "There is no such incident.")

// read answers an incident as it is now.
func (d Deps) read(ctx context.Context, id uuid.UUID) (r row, err error) {
	err = d.DB.AsReadOnly(ctx, tenancy.ID{}, func(tx tenancy.Tx) error {
		r, err = d.scan(tx.QueryRow(ctx, `SELECT`+columns+` FROM app.incidents i WHERE i.id = $1`, id))
		if err != nil {
			return err
		}
		if r.Actions, err = readActions(ctx, tx, id); err != nil {
			return err
		}
		r.Evidence, err = readEvidence(ctx, tx, id)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return row{}, errNoIncident
	}
	if err != nil {
		return row{}, fmt.Errorf("read incident %s: %w", id, err)
	}
	return r, nil
}

func readActions(ctx context.Context, tx tenancy.Tx, id uuid.UUID) ([]Action, error) {
	rows, err := tx.Query(ctx, `SELECT action, outcome, detail, at FROM app.incident_actions WHERE incident_id = $1 ORDER BY place`, id)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a Action, err error) {
		var at *time.Time
		err = row.Scan(&a.Action, &a.Outcome, &a.Detail, &at)
		a.At = httpx.AtOrNull(at)
		return a, err
	})
	if all == nil {
		all = []Action{}
	}
	return all, err
}

// mostEvidence is how many sources are shown.
const mostEvidence = 50

func readEvidence(ctx context.Context, tx tenancy.Tx, id uuid.UUID) ([]Evidence, error) {
	rows, err := tx.Query(ctx, `
		SELECT source, sum(count)::bigint, min(minute), max(minute) FROM app.incident_evidence
		 WHERE incident_id = $1 GROUP BY source ORDER BY 2 DESC, 1 LIMIT $2`, id, mostEvidence)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Evidence, err error) {
		var first, last time.Time
		err = row.Scan(&e.Source, &e.Count, &first, &last)
		e.FirstSeen, e.LastSeen = httpx.At(first), httpx.At(last)
		return e, err
	})
	if all == nil {
		all = []Evidence{}
	}
	return all, err
}

// insert makes the incident's row and its actions, unless they are there, and says whether it did. It records the opening.
func (d Deps) insert(ctx context.Context, tx tenancy.Tx, who actor, i *journal.Incident, scope About, detectedAs *string) (bool, error) {
	var responded *time.Time
	if who.person {
		responded = &i.At
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO app.incidents (id, severity, kind, summary, about_tenant, about_license, about_user, about_api_key, about_kid,
		                           opened_by, opened_at, respond_by, responded_at, offline, detected_as)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
		ON CONFLICT DO NOTHING`,
		i.ID, i.Severity, i.Kind, i.Summary, scope.TenantID, scope.LicenseID, scope.UserID, scope.APIKeyID, scope.SigningKeyID,
		i.By, i.At, i.RespondBy, responded, i.Offline, detectedAs)
	if err != nil {
		return false, fmt.Errorf("open incident %s: %w", i.ID, err)
	}
	if tag.RowsAffected() == 0 {
		return false, nil
	}
	for place, action := range i.Actions {
		_, err := tx.Exec(ctx, `INSERT INTO app.incident_actions (incident_id, action, place) VALUES ($1, $2, $3)`, i.ID, action, place)
		if err != nil {
			return false, fmt.Errorf("open incident %s: %w", i.ID, err)
		}
	}
	e, err := newEntry(i.ID, i.At, whatOpened, i.By, i.Summary, openingDetails(i))
	if err != nil {
		return false, err
	}
	e.Opening = i
	if err := tellOpened(ctx, tx, i, scope); err != nil {
		return false, err
	}
	return true, d.record(ctx, tx, who, e, "incident.opened", subjectOf(i.ID))
}

// happened is what the operator's webhooks are told of an incident. Those of the tenant that it is about hear nothing.
type happened struct {
	ID         uuid.UUID   `json:"id"`
	Severity   string      `json:"severity"`
	Kind       string      `json:"kind"`
	Summary    string      `json:"summary"`
	Status     string      `json:"status"`
	Scope      About       `json:"scope"`
	OpenedBy   string      `json:"opened_by"`
	OpenedAt   httpx.Time  `json:"opened_at"`
	RespondBy  httpx.Time  `json:"respond_by"`
	ResolvedAt *httpx.Time `json:"resolved_at"`
	ResolvedBy *string     `json:"resolved_by"`
	Resolution *string     `json:"resolution"`
}

// tellOpened calls the operator's owners by mail, and tells its webhooks, in the transaction that opens the incident.
func tellOpened(ctx context.Context, tx tenancy.Tx, i *journal.Incident, scope About) error {
	err := notify.Event(ctx, tx, "incident.opened", subjectOf(i.ID), happened{
		ID: i.ID, Severity: i.Severity, Kind: i.Kind, Summary: i.Summary, Status: "open", Scope: scope,
		OpenedBy: i.By, OpenedAt: httpx.At(i.At), RespondBy: httpx.At(i.RespondBy),
	})
	if err != nil {
		return err
	}
	name, err := notify.Organization(ctx, tx)
	if err != nil {
		return err
	}
	return notify.QueueToOwners(ctx, tx, notify.Mail{Kind: notify.Incident, Key: subjectOf(i.ID), Data: map[string]string{
		"id": i.ID.String(), "organization": name, "severity": i.Severity, "summary": i.Summary, "respond_by": notify.Date(i.RespondBy),
	}})
}

// tellResolved tells the operator's webhooks, in the transaction that resolves the incident.
func tellResolved(ctx context.Context, tx tenancy.Tx, r *row, at time.Time, by, resolution string) error {
	resolved := httpx.At(at)
	return notify.Event(ctx, tx, "incident.resolved", subjectOf(r.ID), happened{
		ID: r.ID, Severity: r.Severity, Kind: r.Kind, Summary: r.Summary, Status: "resolved", Scope: r.Scope,
		OpenedBy: r.OpenedBy, OpenedAt: r.OpenedAt, RespondBy: r.RespondBy, ResolvedAt: &resolved, ResolvedBy: &by, Resolution: &resolution,
	})
}

func openingDetails(i *journal.Incident) map[string]string {
	details := map[string]string{"severity": i.Severity, "kind": i.Kind}
	for n, action := range i.Actions {
		details[fmt.Sprintf("action_%d", n+1)] = action
	}
	if i.Offline {
		details["offline"] = "true"
	}
	maps.Copy(details, i.Scope)
	return details
}
