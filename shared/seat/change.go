package seat

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/tenancy"
)

// Topics of the outbox that the pools listen to.
const (
	topicLicenseChanged = "license.changed"
	topicSessionEvicted = "session.evicted"
)

// Changed tells a licence's pool what its row says now: after the licence was created, changed, suspended, reinstated
// or revoked, or its tenant was, and that is committed. Then it settles the outbox. Safe to repeat; when it fails, the
// sweep repeats it, and until then opening a session checks the row anyway.
func (p *Pools) Changed(ctx context.Context, tenant tenancy.ID, license uuid.UUID) error {
	return p.changed(ctx, pool{tenant: tenant, license: license}, false)
}

// changed is Changed. With dated, the row is known to say something that no change announced (a date has passed), so it
// gets a new version when the pool heard of this one already.
func (p *Pools) changed(ctx context.Context, l pool, dated bool) error {
	var row limits
	var pending []uuid.UUID
	err := p.db.As(ctx, l.tenant, func(tx tenancy.Tx) error {
		if dated {
			seen, err := p.peek(ctx, l, uuid.Nil)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `UPDATE app.licenses SET pool_version = pool_version + 1
				 WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid AND pool_version <= $2`, l.license.String(), seen.version); err != nil {
				return err
			}
		}
		var err error
		if row, err = scanLimits(tx.QueryRow(ctx, `SELECT `+limitColumns+`
			  FROM app.licenses l JOIN app.tenants t ON t.id = l.tenant_id
			 WHERE l.tenant_id = (SELECT app.tenant()) AND l.id = $1::uuid`, l.license.String())); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT id FROM app.outbox
			 WHERE tenant_id = (SELECT app.tenant()) AND subject_id = $1::uuid AND topic = $2 AND done_at IS NULL`,
			l.license.String(), topicLicenseChanged)
		if err != nil {
			return err
		}
		pending, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	if err != nil {
		return fmt.Errorf("read limits of license %s: %w", l.license, err)
	}
	rep, err := p.run(ctx, resizeScript, l, p.settings(row)...)
	if err != nil {
		return fmt.Errorf("resize pool of license %s: %w", l.license, err)
	}
	if rep.str() == "rebuild" {
		if err := p.rebuild(ctx, l, 0); err != nil {
			return err
		}
	}
	if len(pending) == 0 && row.told {
		return rep.err
	}
	err = p.db.Batch(ctx, l.tenant, func(b *tenancy.Batch) {
		queueDone(b, pending)
		if !row.told {
			// From now on nobody is promised the longer lease; what was promised ends within it and the floor.
			b.Queue(`UPDATE app.licenses SET ttl_floor_until = now() + make_interval(secs => $3::float8)
			          WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid AND pool_version = $2 AND ttl_floor_until = 'infinity'`,
				l.license.String(), row.version, p.floor(row.longest).Seconds())
		}
	})
	return errors.Join(rep.err, err)
}

func queueDone(b *tenancy.Batch, ids []uuid.UUID) {
	done := make([]string, len(ids))
	for i, id := range ids {
		done[i] = id.String()
	}
	b.Queue(`UPDATE app.outbox SET done_at = now() WHERE tenant_id = (SELECT app.tenant()) AND id = ANY ($1::text[]::uuid[])`, done)
}

// ErrUnknownSession says that the session is not open, or not this tenant's.
var ErrUnknownSession = errors.New("seat: no such open session")

// Evict ends an open session against its holder's will. The row is marked and committed first, so that an eviction once
// answered is never undone; then the pool refuses the session's heartbeats. Its seat stays taken until the holder heard
// of it or its lease has run out. Repeating it keeps the first reason. Errors: ErrUnknownSession, fault.Unavailable.
func (p *Pools) Evict(ctx context.Context, tenant tenancy.ID, session uuid.UUID, reason, by string) error {
	err := p.db.As(ctx, tenant, func(tx tenancy.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE app.open_sessions SET evicted_at = now(), evict_reason = $2, evicted_by = $3
			 WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid AND evicted_at IS NULL`, session.String(), reason, by)
		if err != nil {
			return err
		}
		if tag.RowsAffected() > 0 {
			_, err = tx.Exec(ctx, `INSERT INTO app.outbox (tenant_id, topic, subject_id) VALUES (app.tenant(), $2, $1::uuid)`,
				session.String(), topicSessionEvicted)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("evict session %s: %w", session, err)
	}
	if err := p.tellEviction(ctx, tenant, session); err != nil {
		if errors.Is(err, ErrUnknownSession) {
			return err
		}
		// It is committed, and the sweep tells the pool again.
		p.log.WarnContext(ctx, "seat pool not told of an eviction yet", "session", session, "error", err)
	}
	return nil
}

// tellEviction tells the pool of an eviction that is marked on the row, and settles the outbox.
func (p *Pools) tellEviction(ctx context.Context, tenant tenancy.ID, session uuid.UUID) error {
	l := pool{tenant: tenant}
	var reason, by string
	var marked bool
	var pending []uuid.UUID
	err := p.db.As(ctx, tenant, func(tx tenancy.Tx) error {
		err := tx.QueryRow(ctx, `SELECT license_id, evicted_at IS NOT NULL, coalesce(evict_reason, ''), coalesce(evicted_by, '')
			  FROM app.open_sessions WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid`, session.String(),
		).Scan(&l.license, &marked, &reason, &by)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT id FROM app.outbox
			 WHERE tenant_id = (SELECT app.tenant()) AND subject_id = $1::uuid AND topic = $2 AND done_at IS NULL`,
			session.String(), topicSessionEvicted)
		if err != nil {
			return err
		}
		pending, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	if err != nil {
		return fmt.Errorf("read eviction of session %s: %w", session, err)
	}
	if marked {
		rep, err := p.run(ctx, evictScript, l, session.String(), reason, by)
		if err != nil {
			return fmt.Errorf("evict session %s: %w", session, err)
		}
		switch rep.str() {
		case "rebuild":
			err = p.rebuild(ctx, l, 0)
		case "unknown":
			err = p.rebuild(ctx, l, rep.int())
		}
		if err := errors.Join(rep.err, err); err != nil {
			return err
		}
	}
	if len(pending) > 0 {
		if err := p.db.Batch(ctx, tenant, func(b *tenancy.Batch) { queueDone(b, pending) }); err != nil {
			return fmt.Errorf("settle eviction of session %s: %w", session, err)
		}
	}
	if !marked && len(pending) == 0 {
		return ErrUnknownSession
	}
	return nil
}
