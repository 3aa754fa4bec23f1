package incident

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

func (d Deps) list(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q ListQuery
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	if err := who.online(); err != nil {
		return httpx.Reply{}, err
	}
	before := uuid.Max
	if q.Cursor != "" {
		id, err := base64.RawURLEncoding.Strict().DecodeString(q.Cursor)
		if err != nil || len(id) != len(before) {
			return httpx.Reply{}, fault.Invalid("The cursor is not valid.", fault.Field{Field: "cursor", Code: "bad_format", Detail: "Must be the next_cursor of the page before."})
		}
		before = uuid.UUID(id)
	}
	page := List{Items: []Incident{}}
	err := d.DB.AsReadOnly(c.Context(), tenancy.ID{}, func(tx tenancy.Tx) error {
		rows, err := tx.Query(c.Context(), `SELECT`+columns+` FROM app.incidents i
			 WHERE i.id < $1 AND ($2 = '' OR i.status = $2) ORDER BY i.id DESC LIMIT $3`, before, q.Status, q.Limit+1)
		if err != nil {
			return err
		}
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (row, error) { return d.scan(row) })
		if err != nil {
			return err
		}
		if len(found) > q.Limit {
			found = found[:q.Limit]
			next := base64.RawURLEncoding.EncodeToString(found[q.Limit-1].ID[:])
			page.NextCursor = &next
		}
		for i := range found {
			r := &found[i]
			if r.Actions, err = readActions(c.Context(), tx, r.ID); err != nil {
				return err
			}
			if r.Evidence, err = readEvidence(c.Context(), tx, r.ID); err != nil {
				return err
			}
			page.Items = append(page.Items, r.Incident)
		}
		return nil
	})
	if err != nil {
		return httpx.Reply{}, fmt.Errorf("list incidents: %w", err)
	}
	return httpx.Reply{Body: page}, nil
}

func (d Deps) show(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	shown, err := d.whole(c.Context(), who, id)
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: shown}, nil
}

// whole is an incident with its timeline.
func (d Deps) whole(ctx context.Context, who caller, id uuid.UUID) (Shown, error) {
	if who.offline {
		return d.wholeOffline(ctx, id)
	}
	r, err := d.read(ctx, id)
	if fault.As(err) == errNoIncident && !d.Journal.Off() {
		return d.wholeOffline(ctx, id) // it was opened while the database was out, and the watch has not brought it here yet
	}
	if err != nil {
		return Shown{}, err
	}
	entries, err := d.Journal.Entries(ctx, id)
	if err != nil && !errors.Is(err, journal.ErrOff) {
		d.Log.WarnContext(ctx, "the timeline is shown without the journal", slog.String("incident", id.String()), slog.Any("error", err))
	}
	recorded, err := d.recorded(ctx, &r)
	if err != nil {
		return Shown{}, err
	}
	return Shown{Incident: r.Incident, Timeline: merge(id, recorded, entries)}, nil
}

func (d Deps) wholeOffline(ctx context.Context, id uuid.UUID) (Shown, error) {
	i, err := d.Journal.ReadIncident(ctx, id)
	if err != nil {
		return Shown{}, err
	}
	entries, err := d.Journal.Entries(ctx, id)
	if err != nil {
		return Shown{}, err
	}
	shown, err := offlineIncident(&i)
	return Shown{Incident: shown, Timeline: merge(id, nil, entries)}, err
}

// mostRecorded is how many entries of an audit chain are shown.
const mostRecorded = 500

// recorded is what the audit log has: of the incident in the operator's chain, and all that was done to its tenant while it was
// open.
func (d Deps) recorded(ctx context.Context, r *row) ([]auditchain.Entry, error) {
	var all []auditchain.Entry
	read := func(tenant tenancy.ID, f audit.Filter) error {
		return d.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
			some, err := audit.List(ctx, tx, tenant, f, audit.End(), mostRecorded)
			all = append(all, some...)
			return err
		})
	}
	from, to := r.OpenedAt.Time, r.ResolvedAt.Or()
	if err := read(identity.Operator(), audit.Filter{Subject: subjectOf(r.ID)}); err != nil {
		return nil, err
	}
	if kid := r.Scope.SigningKeyID; kid != nil {
		if err := read(identity.Operator(), audit.Filter{Subject: "signing_key:" + *kid, From: &from, To: to}); err != nil {
			return nil, err
		}
	}
	if id := r.Scope.TenantID; id != nil {
		tenant, err := d.Keys.Customer(ctx, *id)
		if f := fault.As(err); f != nil && f.Kind == fault.KindNotFound { // the operator's own, or gone
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		return all, read(tenant, audit.Filter{From: &from, To: to})
	}
	return all, nil
}

// merge makes one timeline of what the audit log and the journal have.
func merge(incident uuid.UUID, recorded []auditchain.Entry, entries []journal.Entry) []Event {
	events := make([]Event, 0, len(recorded)+len(entries))
	at := map[string]int{}
	for i := range recorded {
		e := &recorded[i]
		event := Event{At: httpx.At(e.At), What: e.Action, By: e.Actor, RecordedIn: []string{"audit"}, Seq: &e.Seq, Details: e.Details}
		if id := e.Details["entry"]; id != "" && e.Details["incident"] == incident.String() {
			if _, twice := at[id]; twice {
				continue
			}
			event.What, event.Text = e.Details["what"], e.Details["text"]
			event.Details = without(e.Details, "entry", "incident", "what", "text")
			at[id] = len(events)
		}
		if event.Details == nil {
			event.Details = map[string]string{}
		}
		events = append(events, event)
	}
	for i := range entries {
		e := &entries[i]
		if n, both := at[e.ID.String()]; both {
			events[n].RecordedIn = append(events[n].RecordedIn, "journal")
			continue
		}
		events = append(events, eventOf(e, "journal"))
	}
	slices.SortStableFunc(events, func(a, b Event) int { return a.At.Compare(b.At.Time) })
	return events
}

func eventOf(e *journal.Entry, recordedIn ...string) Event {
	return Event{At: httpx.At(e.At), What: e.What, By: e.By, Text: e.Text, RecordedIn: recordedIn, Details: without(e.Details)}
}

// without is a copy of details that lacks these names.
func without(details map[string]string, names ...string) map[string]string {
	rest := make(map[string]string, len(details))
	for name, text := range details {
		if !slices.Contains(names, name) {
			rest[name] = text
		}
	}
	return rest
}

// note keeps a note: in the audit log and the journal or, while the database is out, in the journal alone.
func (d Deps) note(c *httpx.Call, who caller) (httpx.Reply, error) {
	ctx := c.Context()
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := d.find(ctx, who, id); err != nil {
		return httpx.Reply{}, err
	}
	var q Note
	if err := decode(c, &q); err != nil {
		return httpx.Reply{}, err
	}
	request, err := requestOf(c, who)
	if err != nil {
		return httpx.Reply{}, err
	}
	if who.offline {
		e, err := newEntry(id, d.Now(), whatNoted, who.by, q.Text, nil)
		if err != nil {
			return httpx.Reply{}, err
		}
		if number := request.ID(); number != uuid.Nil { // a repetition writes nothing new
			e.ID = number
		}
		if err := d.Journal.WriteEntry(ctx, e); err != nil {
			return httpx.Reply{}, err
		}
		return httpx.Reply{Status: http.StatusCreated, Body: eventOf(&e, "journal")}, nil
	}
	return d.once(c, request, func(ctx context.Context, number uuid.UUID) (any, error) {
		now, err := d.DB.Now(ctx)
		if err != nil {
			return nil, err
		}
		e, err := newEntry(id, now, whatNoted, who.by, q.Text, nil)
		if err != nil {
			return nil, err
		}
		err = d.DB.As(ctx, identity.Operator(), func(tx tenancy.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE app.incidents SET responded_at = coalesce(responded_at, now()) WHERE id = $1`, id); err != nil {
				return err
			}
			return d.record(ctx, tx, who.actor, e, "incident.noted", subjectOf(id))
		})
		if err != nil {
			return nil, err
		}
		d.tell(ctx, id)
		return eventOf(&e, "audit"), nil
	})
}

// find is nil when there is such an incident.
func (d Deps) find(ctx context.Context, who caller, id uuid.UUID) error {
	if who.offline {
		_, err := d.Journal.ReadIncident(ctx, id)
		return err
	}
	_, err := d.read(ctx, id)
	return err
}

func (d Deps) resolve(c *httpx.Call, who caller) (httpx.Reply, error) {
	ctx := c.Context()
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := who.online(); err != nil {
		return httpx.Reply{}, err
	}
	r, err := d.read(ctx, id)
	if err != nil {
		return httpx.Reply{}, err
	}
	var q Resolution
	if err := decode(c, &q); err != nil {
		return httpx.Reply{}, err
	}
	if q.Unfreeze && r.Scope.TenantID == nil {
		return httpx.Reply{}, fault.Invalid("The resolution is not valid.", fault.Field{Field: "unfreeze", Code: "not_allowed", Detail: "The incident is about no tenant."})
	}
	if err := d.end(ctx, who.actor, &r, &q); err != nil {
		return httpx.Reply{}, err
	}
	if r, err = d.read(ctx, id); err != nil {
		return httpx.Reply{}, err
	}
	d.actAll(ctx, who.actor, &r)
	d.tell(ctx, id)
	r, err = d.read(ctx, id)
	return httpx.Reply{Body: r.Incident}, err
}

// end marks an incident resolved, unless it is, and leaves word that its tenant is to be unfrozen if that is asked for.
func (d Deps) end(ctx context.Context, who actor, r *row, q *Resolution) error {
	return d.DB.As(ctx, identity.Operator(), func(tx tenancy.Tx) error {
		var now time.Time
		err := tx.QueryRow(ctx, `
			UPDATE app.incidents
			   SET status = 'resolved', resolved_at = now(), resolved_by = $2, resolution = $3, responded_at = coalesce(responded_at, now())
			 WHERE id = $1 AND status = 'open'
			RETURNING resolved_at`, r.ID, who.by, q.Resolution).Scan(&now)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("resolve incident %s: %w", r.ID, err)
		}
		details := map[string]string{"unfreeze": fmt.Sprint(q.Unfreeze)}
		if q.Unfreeze {
			// Another incident that froze the tenant, and is open, keeps it frozen.
			var kept *uuid.UUID
			err := tx.QueryRow(ctx, `
				SELECT i.id FROM app.incidents i JOIN app.incident_actions a ON a.incident_id = i.id
				 WHERE i.about_tenant = $1 AND i.id <> $2 AND i.status = 'open' AND a.action = 'freeze_tenant' AND a.outcome <> 'failed' LIMIT 1`,
				*r.Scope.TenantID, r.ID).Scan(&kept)
			switch {
			case errors.Is(err, pgx.ErrNoRows):
				_, err = tx.Exec(ctx, `INSERT INTO app.incident_actions (incident_id, action, place) VALUES ($1, $2, 100) ON CONFLICT DO NOTHING`, r.ID, unfreezeTenant)
			case err == nil:
				_, err = tx.Exec(ctx, `
					INSERT INTO app.incident_actions (incident_id, action, place, outcome, detail, at) VALUES ($1, $2, 100, 'failed', $3, now())
					ON CONFLICT DO NOTHING`, r.ID, unfreezeTenant, "The tenant stays frozen: incident "+kept.String()+" is open, and froze it, too.")
			}
			if err != nil {
				return fmt.Errorf("unfreeze the tenant of incident %s: %w", r.ID, err)
			}
		}
		// What was not done yet is not to be done any more.
		if _, err := tx.Exec(ctx, `
			UPDATE app.incident_actions SET outcome = 'failed', detail = 'The incident was resolved before it was done.', at = now()
			 WHERE incident_id = $1 AND outcome = 'pending' AND action <> $2`, r.ID, unfreezeTenant); err != nil {
			return fmt.Errorf("resolve incident %s: %w", r.ID, err)
		}
		if err := tellResolved(ctx, tx, r, now, who.by, q.Resolution); err != nil {
			return err
		}
		e, err := newEntry(r.ID, now, whatResolved, who.by, q.Resolution, details)
		if err != nil {
			return err
		}
		return d.record(ctx, tx, who, e, "incident.resolved", subjectOf(r.ID))
	})
}

func (d Deps) export(c *httpx.Call, who caller) (httpx.Reply, error) {
	ctx := c.Context()
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := who.online(); err != nil {
		return httpx.Reply{}, err
	}
	shown, err := d.whole(ctx, who, id)
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	now, err := d.DB.Now(ctx)
	if err != nil {
		return httpx.Reply{}, err
	}
	incident, err1 := json.Marshal(shown.Incident)
	timeline, err2 := json.Marshal(shown.Timeline)
	if err := errors.Join(err1, err2); err != nil {
		return httpx.Reply{}, err
	}
	text, err := d.Roots.Sign(ctx, receipt.TypeIncident, receipt.IncidentFile{
		Issuer: d.Issuer, ID: id.String(), At: now.UTC().Truncate(time.Millisecond), Incident: incident, Timeline: timeline,
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: Export{IncidentFile: string(receipt.EncodeIncidentFile(text))}}, nil
}
