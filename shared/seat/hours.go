package seat

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/tenancy"
)

// Hour is how a licence's seats were used in an hour.
type Hour struct {
	// Start is when it began.
	Start time.Time
	// Peak is the most seats that were taken at one time.
	Peak int
	// Denials is how many holders found no seat free; each counts once, however often it asked.
	Denials int
	// Needed is how many seats would have denied nobody: the most holders that at one time sat, or had been denied within the
	// hour and not got a seat since.
	Needed int
}

// ListHours answers the hours of a licence that begin at from or later and before to, in their order. An hour in which
// nobody sat or asked has none.
func ListHours(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, license uuid.UUID, from, to time.Time) ([]Hour, error) {
	rows, err := tx.Query(ctx, `
		SELECT hour, peak, denials, seats_needed
		  FROM app.seat_hours
		 WHERE tenant_id = $1 AND license_id = $2 AND hour >= $3 AND hour < $4
		 ORDER BY hour`, tenant.UUID(), license, from, to)
	if err != nil {
		return nil, fmt.Errorf("list the hours of license %s: %w", license, err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h Hour, err error) {
		return h, row.Scan(&h.Start, &h.Peak, &h.Denials, &h.Needed)
	})
	if err != nil {
		return nil, fmt.Errorf("list the hours of license %s: %w", license, err)
	}
	return all, nil
}

// carryHours writes to PostgreSQL what the pool counted and has not told yet, and answers how many hours that were. A pool
// that must be rebuilt is left to the next sweep. What was carried before a pool was lost stays: an hour never shrinks.
func (p *Pools) carryHours(ctx context.Context, l pool) (int, error) {
	hours, err := p.countedHours(ctx, l, nil)
	if err != nil || len(hours) == 0 {
		return 0, err
	}
	err = p.db.Batch(ctx, l.tenant, func(b *tenancy.Batch) {
		for _, h := range hours {
			b.Queue(`INSERT INTO app.seat_hours AS had (tenant_id, license_id, hour, peak, denials, seats_needed)
			         VALUES ((SELECT app.tenant()), $1::uuid, $2, $3, $4, $5)
			         ON CONFLICT (tenant_id, license_id, hour) DO UPDATE
			            SET peak = greatest(had.peak, excluded.peak), denials = greatest(had.denials, excluded.denials),
			                seats_needed = greatest(had.seats_needed, excluded.seats_needed)`,
				l.license.String(), h.Start, h.Peak, h.Denials, h.Needed)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("carry hours of license %s: %w", l.license, err)
	}
	_, err = p.countedHours(ctx, l, hours)
	return len(hours), err
}

// countedHours asks the pool for the hours that it has not told as they are, after telling it which were carried.
func (p *Pools) countedHours(ctx context.Context, l pool, carried []Hour) (hours []Hour, err error) {
	args := make([]any, 0, 2*len(carried))
	for _, h := range carried {
		args = append(args, h.Start.Unix()/secondsAnHour, fmt.Sprintf("%d|%d|%d", h.Peak, h.Denials, h.Needed))
	}
	rep, err := p.run(ctx, carryScript, l.demandKeys(), args...)
	if err != nil {
		return nil, fmt.Errorf("count hours of license %s: %w", l.license, err)
	}
	switch kind := rep.str(); kind {
	case "rebuild":
	case "ok":
		for rep.more() {
			hours = append(hours, Hour{
				Start: time.Unix(rep.int()*secondsAnHour, 0).UTC(), Peak: int(rep.int()), Denials: int(rep.int()), Needed: int(rep.int()),
			})
		}
	default:
		rep.fail("begins with %q", kind)
	}
	return hours, rep.err
}

const secondsAnHour = int64(time.Hour / time.Second)
