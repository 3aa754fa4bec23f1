package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/tenancy"
)

const (
	// eventsAtATime is how many events of a tenant are made into deliveries together.
	eventsAtATime = 200
	// tenantsAtATime is how many tenants with events are looked up together.
	tenantsAtATime = 500
	// slack is how much of what was read is read again: longer than a transaction may take, whose rows bear the time at which it
	// began. What is read twice is recorded once, by its id.
	slack = time.Minute
	// stride is how much time of a backlog is read together.
	stride = 5 * time.Minute
)

// wanted are the types that the operator's webhooks want, of every tenant.
func (s *Sender) wanted(ctx context.Context) (all []Webhook, err error) {
	err = s.db.AsReadOnly(ctx, tenancy.Verified(s.operator), func(tx tenancy.Tx) (err error) {
		all, err = active(ctx, tx, tenancy.Verified(s.operator))
		return err
	})
	return all, err
}

// active lists a tenant's webhooks that are switched on.
func active(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID) ([]Webhook, error) {
	rows, err := tx.Query(ctx, `SELECT`+columns+`FROM app.webhooks WHERE tenant_id = $1 AND status = 'active' ORDER BY id`, tenant.UUID())
	if err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Webhook, error) { return scan(row) })
	if err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	return all, nil
}

// Message is what a webhook gets.
type Message struct {
	// ID is the event's, and Webhook-Id: the same at every attempt.
	ID uuid.UUID `json:"id"`
	// Type is a thing and what became of it: seat.denied.
	Type string `json:"type"`
	// Timestamp is when it happened.
	Timestamp time.Time `json:"timestamp"`
	// TenantID is in whose tenant.
	TenantID uuid.UUID `json:"tenant_id"`
	// Subject names the thing: license:ID.
	Subject string `json:"subject"`
	// Data is what there is to say of it.
	Data json.RawMessage `json:"data"`
}

// dispatch makes of each event a delivery for each webhook that wants it, and answers how many those are. A webhook that was
// made later than the event was recorded does not hear of it.
func (s *Sender) dispatch(ctx context.Context, until time.Time) (made int64, err error) {
	operators, err := s.wanted(ctx)
	if err != nil {
		return 0, err
	}
	for seen := 1; seen > 0 && time.Now().Before(until); {
		var tenants []uuid.UUID
		err := s.db.Across(ctx, "deliver: tenants with events that nobody was told of", func(tx tenancy.Tx) (err error) {
			tenants, err = tenantsOf(tx.Query(ctx, `SELECT tenant_id FROM app.waiting_events($1)`, tenantsAtATime))
			return err
		})
		if err != nil {
			return made, fmt.Errorf("look up tenants with events: %w", err)
		}
		if len(tenants) == 0 {
			return made, nil
		}
		seen = 0 // another run may be at all of them
		for _, tenant := range tenants {
			n, events, err := s.dispatchOf(ctx, tenancy.Verified(tenant), operators)
			made += n
			seen += events
			if err != nil {
				return made, err
			}
		}
	}
	return made, nil
}

func tenantsOf(rows pgx.Rows, err error) ([]uuid.UUID, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// dispatchOf makes deliveries of a tenant's events. Those for the operator's webhooks are committed first, as the operator: when
// the tenant's transaction fails, they are found again by their webhook and event.
func (s *Sender) dispatchOf(ctx context.Context, tenant tenancy.ID, operators []Webhook) (made int64, seen int, err error) {
	operator := tenancy.Verified(s.operator)
	err = s.db.As(ctx, tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT id, type, subject, data::text, occurred_at, recorded_at
			  FROM app.events
			 WHERE tenant_id = $1 AND dispatched_at IS NULL
			 ORDER BY recorded_at, id LIMIT $2
			   FOR UPDATE SKIP LOCKED`, tenant.UUID(), eventsAtATime)
		if err != nil {
			return err
		}
		type event struct {
			Message
			recordedAt time.Time
		}
		events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e event, err error) {
			var data string
			err = row.Scan(&e.ID, &e.Type, &e.Subject, &data, &e.Timestamp, &e.recordedAt)
			e.TenantID, e.Data, e.Timestamp = tenant.UUID(), json.RawMessage(data), e.Timestamp.UTC().Truncate(time.Millisecond)
			return e, err
		})
		if err != nil || len(events) == 0 {
			return err
		}
		seen = len(events)
		var own []Webhook
		if tenant != operator {
			if own, err = active(ctx, tx, tenant); err != nil {
				return err
			}
		}
		ids := make([]string, len(events))
		var forOwn, forOperator []post
		for i := range events {
			e := &events[i]
			ids[i] = e.ID.String()
			body, err := json.Marshal(e.Message)
			if err != nil {
				return fmt.Errorf("write the event %s: %w", e.ID, err)
			}
			for _, list := range []struct {
				hooks []Webhook
				posts *[]post
			}{{own, &forOwn}, {operators, &forOperator}} {
				for j := range list.hooks {
					if h := &list.hooks[j]; wants(h.Events, e.Type) && !h.CreatedAt.After(e.recordedAt) {
						*list.posts = append(*list.posts, post{h.ID, e.ID, e.Type, string(body)})
					}
				}
			}
		}
		if len(forOperator) > 0 {
			err := s.db.As(ctx, operator, func(tx tenancy.Tx) error {
				n, err := insert(ctx, tx, operator, forOperator)
				made += n
				return err
			})
			if err != nil {
				return err
			}
		}
		n, err := insert(ctx, tx, tenant, forOwn)
		if err != nil {
			return err
		}
		made += n
		_, err = tx.Exec(ctx, `
			UPDATE app.events
			   SET dispatched_at = now()
			 WHERE tenant_id = $1 AND id = ANY ($2::text[]::uuid[])`, tenant.UUID(), ids)
		return err
	})
	if err != nil {
		return made, seen, fmt.Errorf("make deliveries of events of tenant %s: %w", tenant, err)
	}
	return made, seen, nil
}

// wants says whether who asked for these events hears of one of that type, as app.wants does.
func wants(events []string, typ string) bool {
	kind := kindOf(typ)
	for _, e := range events {
		if e == typ || e == "*" || e == kind+".*" {
			return true
		}
	}
	return false
}

func kindOf(typ string) string {
	for i := range typ {
		if typ[i] == '.' {
			return typ[:i]
		}
	}
	return typ
}

// post is a delivery that is to be made.
type post struct {
	hook, event uuid.UUID
	typ, body   string
}

func insert(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, posts []post) (int64, error) {
	if len(posts) == 0 {
		return 0, nil
	}
	var hooks, events, types, bodies []string
	for _, p := range posts {
		hooks, events = append(hooks, p.hook.String()), append(events, p.event.String())
		types, bodies = append(types, p.typ), append(bodies, p.body)
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO app.webhook_deliveries (tenant_id, webhook_id, event_id, type, body)
		SELECT $1, p.hook::uuid, p.event::uuid, p.type, p.body
		  FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS p (hook, event, type, body)
		ON CONFLICT DO NOTHING`, tenant.UUID(), hooks, events, types, bodies)
	if err != nil {
		return 0, fmt.Errorf("store deliveries: %w", err)
	}
	return tag.RowsAffected(), nil
}

// readSeats makes events of what seats left behind since the last run: seat.acquired, seat.lapsed and seat.evicted of the rows of
// sessions, seat.denied of what was counted. Only for tenants whose webhooks, or the operator's, want them.
func (s *Sender) readSeats(ctx context.Context, until time.Time) (made int64, err error) {
	operators, err := s.wanted(ctx)
	if err != nil {
		return 0, err
	}
	byOperator := wantedBy(operators)
	for time.Now().Before(until) {
		n, more, err := s.readSessions(ctx, byOperator)
		made += n
		if err != nil {
			return made, err
		}
		if !more {
			break
		}
	}
	n, err := s.readDenials(ctx, byOperator)
	return made + n, err
}

// readSessions reads one stride, and says whether more of the past is left.
func (s *Sender) readSessions(ctx context.Context, byOperator []string) (made int64, more bool, err error) {
	var from, to, now time.Time
	var tenants []uuid.UUID
	all := wants(byOperator, "seat.acquired") || wants(byOperator, "seat.lapsed") || wants(byOperator, "seat.evicted")
	err = s.db.Across(ctx, "deliver: tenants whose sessions began or ended", func(tx tenancy.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT seats_to, now() FROM app.event_cursor`).Scan(&from, &now); err != nil {
			return err
		}
		if to = from.Add(stride); !to.Before(now) {
			to = now
		}
		tenants, err = tenantsOf(tx.Query(ctx, `SELECT tenant_id FROM app.seat_event_tenants($1, $2, $3)`, from.Add(-slack), to, all))
		return err
	})
	if err != nil {
		return 0, false, fmt.Errorf("look up tenants whose sessions began or ended: %w", err)
	}
	for _, tenant := range tenants {
		n, err := s.readSessionsOf(ctx, tenancy.Verified(tenant), from.Add(-slack), to, byOperator)
		made += n
		if err != nil {
			return made, false, err
		}
	}
	err = s.db.Across(ctx, "deliver: sessions were read up to here", func(tx tenancy.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE app.event_cursor SET seats_to = greatest(seats_to, $1)`, to)
		return err
	})
	if err != nil {
		return made, false, fmt.Errorf("remember up to where sessions were read: %w", err)
	}
	return made, to.Before(now), nil
}

// readSessionsOf makes events of the rows of a tenant's sessions. Who is evicted is told of when it is decided; the row may stay
// open until the lease has run out. An event's id is made of the session's and the type, so that
// whoever reads the row again records nothing.
func (s *Sender) readSessionsOf(ctx context.Context, tenant tenancy.ID, from, to time.Time, byOperator []string) (made int64, err error) {
	err = s.db.As(ctx, tenant, func(tx tenancy.Tx) error {
		tag, err := tx.Exec(ctx, `
			WITH wanted AS (
			    SELECT t.type FROM unnest(ARRAY['seat.acquired', 'seat.lapsed', 'seat.evicted']) AS t (type)
			     WHERE app.wants($4::text[], t.type)
			        OR EXISTS (SELECT FROM app.webhooks w WHERE w.tenant_id = $1 AND w.status = 'active' AND app.wants(w.events, t.type))
			), rows AS (
			    SELECT id, license_id, seat_no, overdraft, holder, hostname, user_name, instance_id, version, acquired_at,
			           CASE WHEN evicted_at >= $2 AND evicted_at < $3 THEN 'evicted' END AS status, evict_reason AS end_reason,
			           evicted_by AS ended_by, evicted_at AS ended_at
			      FROM app.open_sessions
			     WHERE tenant_id = $1 AND (acquired_at >= $2 AND acquired_at < $3 OR evicted_at >= $2 AND evicted_at < $3)
			    UNION ALL
			    SELECT id, license_id, seat_no, overdraft, holder, hostname, user_name, instance_id, version, acquired_at,
			           status, end_reason, ended_by, ended_at
			      FROM app.ended_sessions
			     WHERE tenant_id = $1 AND recorded_at >= $2 AND recorded_at < $3
			), found AS (
			    SELECT r.*, 'seat.acquired' AS type, acquired_at AS at FROM rows r WHERE acquired_at >= $2 AND acquired_at < $3
			    UNION ALL
			    SELECT r.*, 'seat.' || status, ended_at FROM rows r WHERE status IN ('lapsed', 'evicted')
			)
			INSERT INTO app.events (tenant_id, id, type, subject, data, occurred_at)
			SELECT $1, md5(f.id || ' ' || f.type)::uuid, f.type, 'session:' || f.id, jsonb_strip_nulls(jsonb_build_object(
			           'session_id', f.id, 'license_id', f.license_id, 'seat_no', f.seat_no, 'overdraft', f.overdraft, 'holder', f.holder,
			           'hostname', f.hostname, 'user', f.user_name, 'instance_id', f.instance_id, 'version', nullif(f.version, ''),
			           'acquired_at', to_char(f.acquired_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) ||
			       CASE WHEN f.type = 'seat.acquired' THEN '{}' ELSE jsonb_build_object(
			           'reason', f.end_reason, 'ended_by', nullif(f.ended_by, ''),
			           'ended_at', to_char(f.ended_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) END), f.at
			  FROM found f JOIN wanted USING (type)
			ON CONFLICT DO NOTHING`, tenant.UUID(), from, to, byOperator)
		made = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the sessions of tenant %s: %w", tenant, err)
	}
	return made, nil
}

// readDenials makes an event of each hour of a licence in which more holders found no seat than had been told.
func (s *Sender) readDenials(ctx context.Context, byOperator []string) (made int64, err error) {
	var tenants []uuid.UUID
	err = s.db.Across(ctx, "deliver: tenants in which somebody found no seat", func(tx tenancy.Tx) (err error) {
		tenants, err = tenantsOf(tx.Query(ctx, `SELECT tenant_id FROM app.denial_tenants($1)`, tenantsAtATime))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look up tenants in which somebody found no seat: %w", err)
	}
	for _, id := range tenants {
		tenant := tenancy.Verified(id)
		err := s.db.As(ctx, tenant, func(tx tenancy.Tx) error {
			tag, err := tx.Exec(ctx, `
				WITH more AS (
				    SELECT license_id, hour, denials, denials_told
				      FROM app.seat_hours
				     WHERE tenant_id = $1 AND denials > denials_told
				       FOR NO KEY UPDATE SKIP LOCKED
				), told AS (
				    UPDATE app.seat_hours h SET denials_told = m.denials
				      FROM more m WHERE h.tenant_id = $1 AND h.license_id = m.license_id AND h.hour = m.hour
				)
				INSERT INTO app.events (tenant_id, id, type, subject, data)
				SELECT $1, md5(m.license_id || ' seat.denied ' || extract(epoch FROM m.hour) || ' ' || m.denials)::uuid, 'seat.denied', 'license:' || m.license_id,
				       jsonb_build_object('license_id', m.license_id, 'denials', m.denials - m.denials_told, 'denials_in_hour', m.denials,
				           'hour', to_char(m.hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
				  FROM more m
				 WHERE app.wants($2::text[], 'seat.denied')
				    OR EXISTS (SELECT FROM app.webhooks w WHERE w.tenant_id = $1 AND w.status = 'active' AND app.wants(w.events, 'seat.denied'))
				ON CONFLICT DO NOTHING`, tenant.UUID(), byOperator)
			made += tag.RowsAffected()
			return err
		})
		if err != nil {
			return made, fmt.Errorf("read what was denied in tenant %s: %w", tenant, err)
		}
	}
	return made, nil
}

// Expire drops what is over: mails, events and deliveries. It answers how many rows that were.
func (s *Sender) Expire(ctx context.Context) (dropped int64, err error) {
	err = s.db.Across(ctx, "deliver: drop what is over", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT app.expire_notices() + app.expire_deliveries()`).Scan(&dropped)
	})
	if err != nil {
		return 0, fmt.Errorf("drop notices that are over: %w", err)
	}
	return dropped, nil
}
