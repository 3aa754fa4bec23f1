package metering

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/tenancy"
)

// OverdraftSeatHours is the metric of seats beyond a licence's own. Its unit is one such seat in one hour in UTC: a seat that
// was taken at any time within the hour is one unit, however many held it one after the other. No plan lists it and nobody
// reports it: CountOverdraft counts it from the rows of sessions.
const OverdraftSeatHours = "overdraft_seat_hours"

// CountOverdraft counts, in the transaction, the tenant's overdraft seats of the hours that have been over for five minutes,
// by when the sweep has closed what lapsed in them. It goes on where it stopped, and a week back at most, and answers for
// how many licences and hours something was counted. It may be repeated: an hour that is counted again counts no less, and
// nothing twice. With running, the hour that runs is counted, too, as far as it has come, but for its first five minutes: when it
// is over it is counted again.
//
// A seat that the licence has of its own by now is not counted: who buys further seats does not pay for the hour twice.
func CountOverdraft(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, running bool) (hours int64, err error) {
	var from, to time.Time
	// Whoever counts the same tenant waits here, and then finds that it is done.
	err = tx.QueryRow(ctx, `
		WITH mine AS (
		    INSERT INTO app.overdraft_counts (tenant_id, counted_to) VALUES ($1, date_trunc('hour', now() - interval '5 minutes', 'UTC'))
		    ON CONFLICT DO NOTHING RETURNING counted_to
		)
		SELECT counted_to, coalesce((SELECT max(counted_to) FROM app.overdraft_counts WHERE tenant_id = $1),
		                            date_trunc('hour', now() - interval '7 days', 'UTC')) FROM mine`, tenant.UUID()).Scan(&to, &from)
	counted := errors.Is(err, pgx.ErrNoRows)
	switch {
	case counted && !running:
		return 0, nil
	case counted:
		err = tx.QueryRow(ctx, `SELECT date_trunc('hour', now() - interval '5 minutes', 'UTC')`).Scan(&from)
		to = from
	}
	if err != nil {
		return 0, fmt.Errorf("read up to where overdraft seats are counted: %w", err)
	}
	last := to
	if running {
		last = to.Add(time.Hour)
	}
	tag, err := tx.Exec(ctx, `
		WITH seats AS (
		    SELECT license_id, seat_no, acquired_at, coalesce(evicted_at, 'infinity') AS ended_at
		      FROM app.open_sessions WHERE tenant_id = $1 AND overdraft
		    UNION ALL
		    SELECT license_id, seat_no, acquired_at, ended_at
		      FROM app.ended_sessions WHERE tenant_id = $1 AND overdraft AND recorded_at >= $2 AND ended_at > $2
		)
		INSERT INTO app.usage_hours AS u (tenant_id, license_id, metric, hour, quantity)
		SELECT $1, s.license_id, $4, h.hour, count(DISTINCT s.seat_no)
		  FROM seats s
		  JOIN app.licenses l ON l.tenant_id = $1 AND l.id = s.license_id AND s.seat_no > l.max_seats
		 CROSS JOIN generate_series(greatest(date_trunc('hour', s.acquired_at, 'UTC'), $2), least(s.ended_at, $3, now()) - interval '1 microsecond', interval '1 hour') AS h (hour)
		 GROUP BY s.license_id, h.hour
		ON CONFLICT (tenant_id, license_id, metric, hour) DO UPDATE SET quantity = excluded.quantity WHERE excluded.quantity > u.quantity`,
		tenant.UUID(), from, last, OverdraftSeatHours)
	if err == nil && tag.RowsAffected() > 0 {
		_, err = tx.Exec(ctx, `
			INSERT INTO app.usage_months (tenant_id, license_id, metric, month, quantity)
			SELECT tenant_id, license_id, metric, date_trunc('month', hour, 'UTC') AS month, sum(quantity)
			  FROM app.usage_hours WHERE tenant_id = $1 AND metric = $2 AND hour >= date_trunc('month', $3::timestamptz, 'UTC')
			 GROUP BY tenant_id, license_id, metric, month
			ON CONFLICT (tenant_id, license_id, metric, month) DO UPDATE SET quantity = excluded.quantity`,
			tenant.UUID(), OverdraftSeatHours, from)
	}
	if err == nil && !counted {
		_, err = tx.Exec(ctx, `DELETE FROM app.overdraft_counts WHERE tenant_id = $1 AND counted_to < $2`, tenant.UUID(), to)
	}
	if err != nil {
		return 0, fmt.Errorf("count overdraft seats: %w", err)
	}
	return tag.RowsAffected(), nil
}
