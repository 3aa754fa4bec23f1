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

// overdraftStep is how many hours are counted together: so few that a tenant's first count, of a week, is done in parts that
// each end in time.
const overdraftStep = 12 * time.Hour

// CountOverdraft counts, in the transaction, the tenant's overdraft seats of the hours that have been over for five minutes,
// by when the sweep has closed what lapsed in them: the first twelve that are not counted, beginning a week ago for a tenant
// of whom none was. It answers for how many licences and hours something was counted; counted is false when all hours were counted
// before. It may be repeated: an hour that is counted again counts no less, and nothing twice.
//
// A seat that the licence has of its own by now is not counted: who buys further seats does not pay for the hour twice.
func CountOverdraft(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID) (hours int64, counted bool, err error) {
	var from, to time.Time
	for {
		// Whoever counts the same hours waits here, and then finds that it is done.
		err = tx.QueryRow(ctx, `
			WITH hours AS (
			    SELECT date_trunc('hour', now() - interval '5 minutes', 'UTC') AS over,
			           coalesce((SELECT max(counted_to) FROM app.overdraft_counts WHERE tenant_id = $1),
			                    date_trunc('hour', now() - interval '7 days', 'UTC')) AS counted
			), mine AS (
			    INSERT INTO app.overdraft_counts (tenant_id, counted_to)
			    SELECT $1, least(over, counted + $2::interval) FROM hours WHERE counted < over
			    ON CONFLICT DO NOTHING RETURNING counted_to
			)
			SELECT hours.counted, mine.counted_to FROM mine, hours`, tenant.UUID(), overdraftStep).Scan(&from, &to)
		if !errors.Is(err, pgx.ErrNoRows) {
			break
		}
		var all bool
		err = tx.QueryRow(ctx, `
			SELECT coalesce(max(counted_to) >= date_trunc('hour', now() - interval '5 minutes', 'UTC'), false)
			  FROM app.overdraft_counts WHERE tenant_id = $1`, tenant.UUID()).Scan(&all)
		if err != nil || all {
			break
		}
	}
	switch {
	case err != nil:
		return 0, false, fmt.Errorf("read up to where overdraft seats are counted: %w", err)
	case to.IsZero():
		return 0, false, nil
	}
	if hours, err = countOverdraft(ctx, tx, tenant, from, to); err != nil {
		return 0, false, err
	}
	if _, err = tx.Exec(ctx, `DELETE FROM app.overdraft_counts WHERE tenant_id = $1 AND counted_to < $2`, tenant.UUID(), to); err != nil {
		return 0, false, fmt.Errorf("write up to where overdraft seats are counted: %w", err)
	}
	return hours, true, nil
}

// CountRunningOverdraft counts the hour that runs, as far as it has come, but for its first five minutes: when it is over,
// CountOverdraft counts it again. It answers for how many licences something was counted.
func CountRunningOverdraft(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID) (licenses int64, err error) {
	var from time.Time
	if err := tx.QueryRow(ctx, `SELECT date_trunc('hour', now() - interval '5 minutes', 'UTC')`).Scan(&from); err != nil {
		return 0, fmt.Errorf("read which hour runs: %w", err)
	}
	return countOverdraft(ctx, tx, tenant, from, from.Add(time.Hour))
}

// countOverdraft counts the hours that begin within [from, to).
func countOverdraft(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, from, to time.Time) (hours int64, err error) {
	tag, err := tx.Exec(ctx, `
		WITH seats AS (
		    SELECT license_id, seat_no, acquired_at, coalesce(evicted_at, 'infinity') AS ended_at
		      FROM app.open_sessions WHERE tenant_id = $1 AND overdraft AND acquired_at < $3
		    UNION ALL
		    SELECT license_id, seat_no, acquired_at, ended_at
		      FROM app.ended_sessions WHERE tenant_id = $1 AND overdraft AND recorded_at >= $2 AND ended_at > $2 AND acquired_at < $3
		)
		INSERT INTO app.usage_hours AS u (tenant_id, license_id, metric, hour, quantity)
		SELECT $1, s.license_id, $4, h.hour, count(DISTINCT s.seat_no)
		  FROM seats s
		  JOIN app.licenses l ON l.tenant_id = $1 AND l.id = s.license_id AND s.seat_no > l.max_seats
		 CROSS JOIN generate_series(greatest(date_trunc('hour', s.acquired_at, 'UTC'), $2), least(s.ended_at, $3, now()) - interval '1 microsecond', interval '1 hour') AS h (hour)
		 GROUP BY s.license_id, h.hour
		ON CONFLICT (tenant_id, license_id, metric, hour) DO UPDATE SET quantity = excluded.quantity WHERE excluded.quantity > u.quantity`,
		tenant.UUID(), from, to, OverdraftSeatHours)
	if err == nil && tag.RowsAffected() > 0 {
		_, err = tx.Exec(ctx, `
			INSERT INTO app.usage_months (tenant_id, license_id, metric, month, quantity)
			SELECT tenant_id, license_id, metric, date_trunc('month', hour, 'UTC') AS month, sum(quantity)
			  FROM app.usage_hours WHERE tenant_id = $1 AND metric = $2 AND hour >= date_trunc('month', $3::timestamptz, 'UTC')
			 GROUP BY tenant_id, license_id, metric, month
			ON CONFLICT (tenant_id, license_id, metric, month) DO UPDATE SET quantity = excluded.quantity`,
			tenant.UUID(), OverdraftSeatHours, from)
	}
	if err != nil {
		return 0, fmt.Errorf("count overdraft seats: %w", err)
	}
	return tag.RowsAffected(), nil
}
