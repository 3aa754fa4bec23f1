package seat

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/coditect/usher/shared/fault"
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

// changed is Changed. With dated, the row may say something that no change announced, because a date has passed: then it
// gets a new version when the pool heard of this one already.
func (p *Pools) changed(ctx context.Context, l pool, dated bool) error {
	var row limits
	var pending []uuid.UUID
	var evicted []any
	err := p.db.As(ctx, l.tenant, func(tx tenancy.Tx) error {
		if dated {
			seen, err := p.peek(ctx, l, uuid.Nil)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `UPDATE app.licenses l SET pool_version = l.pool_version + 1 FROM app.tenants t
				 WHERE l.tenant_id = (SELECT app.tenant()) AND l.id = $1::uuid AND t.id = l.tenant_id AND l.pool_version <= $2
				   AND app.license_state(t.status, l.status, l.starts_at, l.expires_at, l.grace_until, now()) <> $3`,
				l.license.String(), seen.version, seen.state); err != nil {
				return err
			}
		}
		// First: what is committed between these statements is not settled by what they miss of it.
		var err error
		if pending, err = undelivered(ctx, tx, topicLicenseChanged, l.license); err != nil {
			return err
		}
		if row, err = scanLimits(tx.QueryRow(ctx, selectLimits, l.license.String())); err != nil {
			return err
		}
		evicted, err = evictedRows(ctx, tx, l)
		return err
	})
	if err != nil {
		return fmt.Errorf("read limits of license %s: %w", l.license, err)
	}
	// What a suspension ended first: when it was lifted already, the pool never hears of it otherwise.
	for some := range slices.Chunk(evicted, evictArgs*sweepPage) {
		if err := p.tell(ctx, l, evictScript, some...); err != nil {
			return fmt.Errorf("evict sessions of license %s: %w", l.license, err)
		}
	}
	if err := p.tell(ctx, l, resizeScript, p.settings(row)...); err != nil {
		return fmt.Errorf("resize pool of license %s: %w", l.license, err)
	}
	if len(pending) == 0 && row.told {
		return nil
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
	if err != nil {
		return fmt.Errorf("settle change of license %s: %w", l.license, err)
	}
	return nil
}

// evictArgs is how many arguments of evict.lua a session takes.
const evictArgs = 3

// evictedRows reads the licence's sessions that are evicted and not gone yet, as arguments of evict.lua.
func evictedRows(ctx context.Context, tx tenancy.Tx, l pool) ([]any, error) {
	rows, err := tx.Query(ctx, `SELECT id::text, evict_reason, coalesce(evicted_by, '') FROM app.open_sessions
	     WHERE tenant_id = (SELECT app.tenant()) AND license_id = $1::uuid AND evicted_at IS NOT NULL`, l.license.String())
	if err != nil {
		return nil, err
	}
	var args []any
	var id, reason, by string
	_, err = pgx.ForEachRow(rows, []any{&id, &reason, &by}, func() error {
		args = append(args, id, reason, by)
		return nil
	})
	return args, err
}

// tell runs a script that tells the pool what is committed in PostgreSQL, until the pool it told is the one of the row's
// epoch: a rebuild under way may have read the rows before that commit, and would undo what the pool was told.
func (p *Pools) tell(ctx context.Context, l pool, s *redis.Script, args ...any) error {
	for range tries {
		rep, err := p.run(ctx, s, l.keys(), args...)
		if err != nil {
			return err
		}
		var told, distrusted int64
		switch kind := rep.str(); kind {
		case "ok":
			told = rep.int()
		case "rebuild":
		case "unknown":
			distrusted = rep.int()
		default:
			rep.fail("begins with %q", kind)
		}
		if rep.err != nil {
			return rep.err
		}
		if told != 0 {
			epoch, err := p.rowEpoch(ctx, l)
			if err != nil || epoch == told {
				return err
			}
		}
		if err := p.rebuild(ctx, l, distrusted); err != nil {
			return err
		}
	}
	return fault.Unavailable(fmt.Errorf("tell pool of license %s: it was rebuilt %d times meanwhile", l.license, tries))
}

// rowEpoch reads the epoch of the licence's row.
func (p *Pools) rowEpoch(ctx context.Context, l pool) (epoch int64, err error) {
	err = p.db.Batch(ctx, l.tenant, func(b *tenancy.Batch) {
		b.Queue(`SELECT seat_epoch FROM app.licenses WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid`,
			l.license.String()).QueryRow(func(row pgx.Row) error { return row.Scan(&epoch) })
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, ErrUnknownLicense
	}
	return epoch, err
}

// undelivered reads what the outbox still has to tell a pool of the subject.
func undelivered(ctx context.Context, tx tenancy.Tx, topic string, subject uuid.UUID) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, `SELECT id FROM app.outbox
	     WHERE tenant_id = (SELECT app.tenant()) AND subject_id = $1::uuid AND topic = $2`,
		subject.String(), topic)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// queueDone forgets messages that were delivered.
func queueDone(b *tenancy.Batch, ids []uuid.UUID) {
	done := make([]string, len(ids))
	for i, id := range ids {
		done[i] = id.String()
	}
	b.Queue(`DELETE FROM app.outbox WHERE tenant_id = (SELECT app.tenant()) AND id = ANY ($1::text[]::uuid[])`, done)
}

// ErrUnknownSession says that the session is not open, or not this tenant's.
var ErrUnknownSession = errors.New("seat: no such open session")

// Evict ends an open session against its holder's will. The row is marked and committed first, so that an eviction once
// answered is never undone; then the pool refuses the session's heartbeats. Its seat stays taken until the holder heard
// of it or its lease has run out. Repeating it keeps the first reason. What comes with it is done last in the transaction
// that marks the row, and not when it was marked before. Errors: ErrUnknownSession, fault.Unavailable, and with's.
func (p *Pools) Evict(ctx context.Context, tenant tenancy.ID, session uuid.UUID, reason, by string, with ...func(tenancy.Tx) error) error {
	err := p.db.As(ctx, tenant, func(tx tenancy.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE app.open_sessions SET evicted_at = now(), evict_reason = $2, evicted_by = $3
			 WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid AND evicted_at IS NULL`, session.String(), reason, by)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return nil
		}
		_, err = tx.Exec(ctx, `INSERT INTO app.outbox (tenant_id, topic, subject_id) VALUES (app.tenant(), $2, $1::uuid)`,
			session.String(), topicSessionEvicted)
		for _, do := range with {
			if err == nil {
				err = do(tx)
			}
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
		pending, err = undelivered(ctx, tx, topicSessionEvicted, session)
		return err
	})
	if err != nil {
		return fmt.Errorf("read eviction of session %s: %w", session, err)
	}
	if marked {
		if err := p.tell(ctx, l, evictScript, session.String(), reason, by); err != nil {
			return fmt.Errorf("evict session %s: %w", session, err)
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

// Whose says which sessions of a tenant are meant; what is left empty means all.
type Whose struct {
	License uuid.UUID
	// Users are names by which applications may have told of one person.
	Users []string
}

// evictionsAtOnce is how many pools are told of evictions at one time.
const evictionsAtOnce = 8

// EvictAll ends open sessions of a tenant against their holders' will, as Evict does one, in one transaction; and says how many
// it marked that were not marked before. What comes with it is done last in that transaction. Then it tells the pools; those that
// it cannot tell now the sweep tells. Errors: fault.Unavailable, and with's.
func (p *Pools) EvictAll(ctx context.Context, tenant tenancy.ID, of Whose, reason, by string, with func(tx tenancy.Tx, evicted int) error) (int, error) {
	var evicted int
	var licenses []uuid.UUID
	err := p.db.As(ctx, tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `
			WITH evicted AS (
			    UPDATE app.open_sessions SET evicted_at = now(), evict_reason = $1, evicted_by = $2
			     WHERE tenant_id = (SELECT app.tenant()) AND evicted_at IS NULL
			       AND ($3::uuid IS NULL OR license_id = $3::uuid) AND (cardinality($4::text[]) = 0 OR user_name = ANY ($4::text[]))
			    RETURNING license_id),
			of AS (SELECT license_id, count(*)::int AS n FROM evicted GROUP BY license_id),
			told AS (INSERT INTO app.outbox (tenant_id, topic, subject_id) SELECT app.tenant(), $5, license_id FROM of)
			SELECT license_id, n FROM of`, reason, by, nullableID(of.License), append([]string{}, of.Users...), topicLicenseChanged)
		if err != nil {
			return err
		}
		var license uuid.UUID
		var n int
		if _, err := pgx.ForEachRow(rows, []any{&license, &n}, func() error {
			evicted, licenses = evicted+n, append(licenses, license)
			return nil
		}); err != nil {
			return err
		}
		return with(tx, evicted)
	})
	if err != nil {
		return 0, fmt.Errorf("evict sessions of tenant %s: %w", tenant, err)
	}
	p.ChangedAll(ctx, tenant, licenses)
	return evicted, nil
}

// ChangedAll is Changed for many licences of a tenant, a few at a time. What cannot be told in the context's time the sweep tells:
// that is logged, and no error.
func (p *Pools) ChangedAll(ctx context.Context, tenant tenancy.ID, licenses []uuid.UUID) {
	var tell errgroup.Group
	tell.SetLimit(evictionsAtOnce)
	for _, license := range licenses {
		tell.Go(func() error { return p.Changed(ctx, tenant, license) })
	}
	if err := tell.Wait(); err != nil {
		p.log.WarnContext(ctx, "not every seat pool was told of a change yet", "tenant", tenant.String(), "error", err)
	}
}

// nullableID is NULL for the zero id.
func nullableID(id uuid.UUID) *string {
	if id == uuid.Nil {
		return nil
	}
	text := id.String()
	return &text
}
