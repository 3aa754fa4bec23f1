package seat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/coditect/usher/shared/tenancy"
)

// Recovery says what Recover did.
type Recovery struct {
	// Licenses whose pools were read.
	Licenses int `json:"licenses"`
	// Restored rows: sessions that lived in a pool and had none.
	Restored int `json:"restored"`
	// Closed rows: sessions that had ended in the time that PostgreSQL lost.
	Closed int `json:"closed"`
	// Cold pools tell nothing; their licences are rebuilt from what rows there are.
	Cold int `json:"cold"`
	// Unknown licences have a pool and no row: they were created in the time that PostgreSQL lost.
	Unknown []uuid.UUID `json:"unknown"`
}

// Recover is the operator's step after PostgreSQL was restored to an earlier time, before any function runs again: it
// writes the rows of the lost time anew from the pools in Redis, which still know who sits, and bumps every epoch so that
// nothing decided before the restore can touch the restored world. Safe to repeat.
func (p *Pools) Recover(ctx context.Context) (Recovery, error) {
	pools, err := p.all(ctx)
	if err != nil {
		return Recovery{}, err
	}
	var report Recovery
	for _, l := range pools {
		report.Licenses++
		err := p.recoverPool(ctx, l, &report)
		if errors.Is(err, ErrUnknownLicense) {
			report.Unknown = append(report.Unknown, l.license)
			continue
		}
		if err != nil {
			return report, fmt.Errorf("recover license %s: %w", l.license, err)
		}
	}
	return report, nil
}

// all lists the pools there are, warm or cold.
func (p *Pools) all(ctx context.Context) ([]pool, error) {
	var mu sync.Mutex // a cluster's nodes are scanned at once
	seen := map[pool]bool{}
	scan := func(ctx context.Context, c *redis.Client) error {
		keys := c.Scan(ctx, 0, keyPrefix+"*"+metaSuffix, sweepPage).Iterator()
		for keys.Next(ctx) {
			if l, ok := parsePool(keys.Val()); ok {
				mu.Lock()
				seen[l] = true // a scan may answer a key twice
				mu.Unlock()
			}
		}
		if err := keys.Err(); err != nil {
			return unavailable(fmt.Errorf("list pools: %w", err))
		}
		return nil
	}
	var err error
	switch c := p.rdb.(type) {
	case *redis.ClusterClient:
		err = c.ForEachMaster(ctx, scan)
	case *redis.Client:
		err = scan(ctx, c)
	default:
		err = fmt.Errorf("redis: unexpected client %T", c)
	}
	return slices.Collect(maps.Keys(seen)), err
}

func (p *Pools) recoverPool(ctx context.Context, l pool, report *Recovery) error {
	sessions, cold, err := p.list(ctx, l)
	if err != nil {
		return err
	}
	if cold {
		report.Cold++
		return p.rebuild(ctx, l, 0)
	}
	var restored, closed int
	err = p.db.As(ctx, l.tenant, func(tx tenancy.Tx) error {
		restored = 0
		row, err := scanLimits(tx.QueryRow(ctx, lockLimits, l.license.String()))
		if err != nil {
			return err
		}
		// Rows that no pool knows ended in the lost time; they go first, because their seats may have new holders.
		if closed, err = closeOthers(ctx, tx, l, sessions); err != nil {
			return err
		}
		for page := range slices.Chunk(sessions, sweepPage) {
			n, err := restore(ctx, tx, l, page)
			if err != nil {
				return err
			}
			restored += n
			if err := p.lendAgain(ctx, tx, row, page); err != nil {
				return err
			}
		}
		_, err = nextEpoch(ctx, tx, l)
		return err
	})
	if err != nil {
		return err
	}
	report.Restored += restored
	report.Closed += closed
	return p.rebuild(ctx, l, 0)
}

// closeOthers closes the open rows of sessions that are not among those given, and says how many.
func closeOthers(ctx context.Context, tx tenancy.Tx, l pool, sessions []pooled) (int, error) {
	ids := make([]string, len(sessions))
	for i, s := range sessions {
		ids[i] = s.session.String()
	}
	rows, err := tx.Query(ctx, `SELECT id FROM app.open_sessions
	     WHERE tenant_id = (SELECT app.tenant()) AND license_id = $1::uuid AND id <> ALL ($2::text[]::uuid[])`, l.license.String(), ids)
	if err != nil {
		return 0, err
	}
	others, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(others) == 0 {
		return 0, err
	}
	ended := make([]gone, len(others))
	for i, id := range others {
		ended[i] = gone{id, forgotten}
	}
	var verdict string
	err = tx.Batch(ctx, func(b *tenancy.Batch) { queueClose(b, l, 0, ended, &verdict) })
	return len(others), err
}

// restore writes the rows of sessions that have none, and marks the evictions that rows lost. It says how many rows it
// wrote anew.
func restore(ctx context.Context, tx tenancy.Tx, l pool, sessions []pooled) (int, error) {
	var ids, holders, hardware []string
	var seats, epochs, counters []int64
	var evicted []gone
	for _, s := range sessions {
		// The pool does not know the device of a user or of an instance.
		device, isDevice := strings.CutPrefix(s.holder, "device:")
		if !isDevice {
			device = ""
		}
		ids, holders, hardware = append(ids, s.session.String()), append(holders, s.holder), append(hardware, device)
		seats, epochs, counters = append(seats, int64(s.seat)), append(epochs, s.fence.Epoch), append(counters, s.fence.Counter)
		if s.evicted {
			evicted = append(evicted, gone{s.session, s.ending})
		}
	}
	tag, err := tx.Exec(ctx, `INSERT INTO app.open_sessions
	       (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, overdraft, holder, hardware_id)
	SELECT l.tenant_id, s.id, l.id, s.seat, s.epoch, s.counter, s.seat > l.max_seats, s.holder, s.hardware
	  FROM app.licenses l, unnest($2::text[]::uuid[], $3::bigint[]::int[], $4::bigint[], $5::bigint[], $6::text[], $7::text[])
	       AS s (id, seat, epoch, counter, holder, hardware)
	 WHERE l.tenant_id = (SELECT app.tenant()) AND l.id = $1::uuid
	   AND NOT EXISTS (SELECT FROM app.ended_sessions e WHERE e.tenant_id = l.tenant_id AND e.id = s.id)
	    ON CONFLICT (tenant_id, id) DO NOTHING`, l.license.String(), ids, seats, epochs, counters, holders, hardware)
	if err != nil || len(evicted) == 0 {
		return int(tag.RowsAffected()), err
	}
	lost, _, reasons, bys, ats := columns(evicted)
	_, err = tx.Exec(ctx, `UPDATE app.open_sessions o SET evicted_at = coalesce(s.at, now()), evict_reason = s.reason, evicted_by = s.by
	  FROM unnest($1::text[]::uuid[], $2::text[], $3::text[], $4::timestamptz[]) AS s (id, reason, by, at)
	 WHERE o.tenant_id = (SELECT app.tenant()) AND o.id = s.id AND o.evicted_at IS NULL`, lost, reasons, bys, ats)
	return int(tag.RowsAffected()), err
}

// lendAgain writes on the rows of sessions that the pool keeps for longer than any rebuild would until when they are borrowed:
// a restore may have lost that. (Those that a rebuild restored a moment ago look the same, for that moment.)
func (p *Pools) lendAgain(ctx context.Context, tx tenancy.Tx, row limits, sessions []pooled) error {
	var ids []string
	var left []int64
	for _, s := range sessions {
		if s.left > p.floor(row.longest).Milliseconds() {
			ids, left = append(ids, s.session.String()), append(left, s.left-p.allowance(row.lease).Milliseconds())
		}
	}
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `UPDATE app.open_sessions o SET borrowed_until = now() + make_interval(secs => s.ms / 1000.0)
	  FROM unnest($1::text[]::uuid[], $2::bigint[]) AS s (id, ms)
	 WHERE o.tenant_id = (SELECT app.tenant()) AND o.id = s.id
	   AND coalesce(o.borrowed_until, '-infinity') < now() + make_interval(secs => s.ms / 1000.0)`, ids, left)
	return err
}
