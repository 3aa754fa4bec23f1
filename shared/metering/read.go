package metering

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/tenancy"
)

// Total is what a licence used of a metric in a calendar month, and what its plan says of that.
type Total struct {
	License uuid.UUID
	Plan    string
	Metric  string
	// Quantity is what was counted, Settled what of it is in reports to Stripe or has no price, Reported what Stripe has
	// acknowledged.
	Quantity, Settled, Reported int64
	// Quota, Cap and CapType are nil where there is none, or where the plan counts the metric no more.
	Quota, Cap *int64
	CapType    *string
	// Billing is what falls in the subscription's current period; nil without a subscription.
	Billing *Billing
}

// Billing is what a subscription's current period has in it so far. An hour is billed at its last second: it belongs to the
// period in which that lies, here as at Stripe.
type Billing struct {
	Subscription      string
	From, To          time.Time
	Quantity, Settled int64
	Reported          int64
}

// Totals reads a month of the licence, or of up to limit of the tenant's licences from the one after the given id on,
// and says for which month: that of now, by the store's clock, when month is zero. Metrics of the plan that were not used are
// there, with 0.
func Totals(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, license, after uuid.UUID, month time.Time, limit int) (all []Total, from time.Time, err error) {
	if month.IsZero() {
		if err := tx.QueryRow(ctx, `SELECT date_trunc('month', now(), 'UTC')`).Scan(&month); err != nil {
			return nil, from, fmt.Errorf("read the database's clock: %w", err)
		}
	}
	from = Month(month)
	rows, err := tx.Query(ctx, `
		WITH chosen AS (
		    SELECT l.tenant_id, l.id, l.plan_code, s.id AS subscription, s.period_start, s.period_end
		      FROM app.licenses l
		      LEFT JOIN LATERAL (
		          SELECT id, period_start, period_end FROM app.subscriptions
		           WHERE tenant_id = l.tenant_id AND license_id = l.id AND status NOT IN ('canceled', 'incomplete_expired')
		           ORDER BY created_at DESC LIMIT 1) s ON true
		     WHERE l.tenant_id = $1 AND (l.id = $2 OR $2 = '00000000-0000-0000-0000-000000000000' AND l.id > $3
		            AND (EXISTS (SELECT FROM app.plan_metrics m WHERE m.plan_code = l.plan_code)
		              OR EXISTS (SELECT FROM app.usage_months u WHERE u.tenant_id = l.tenant_id AND u.license_id = l.id AND u.month = $4)))
		     ORDER BY l.id LIMIT $6
		), named AS (
		    SELECT c.id, m.metric FROM chosen c JOIN app.plan_metrics m ON m.plan_code = c.plan_code
		    UNION
		    SELECT c.id, u.metric FROM chosen c JOIN app.usage_months u ON u.tenant_id = c.tenant_id AND u.license_id = c.id AND u.month = $4
		), hours AS (
		    SELECT h.license_id, h.metric, h.quantity, h.settled, coalesce(r.reported, 0) AS reported, h.hour >= $4 AND h.hour < $5 AS of_month,
		           h.hour + interval '3599 s' >= c.period_start AND h.hour + interval '3599 s' < c.period_end AS of_period
		      FROM chosen c JOIN app.usage_hours h ON h.tenant_id = c.tenant_id AND h.license_id = c.id
		       AND h.hour >= least($4, c.period_start - interval '1 hour') AND h.hour < greatest($5, c.period_end)
		      LEFT JOIN LATERAL (
		          SELECT sum(quantity)::bigint AS reported FROM app.usage_reports
		           WHERE tenant_id = h.tenant_id AND license_id = h.license_id AND metric = h.metric AND hour = h.hour AND status = 'acknowledged') r ON true
		), sums AS (
		    SELECT license_id, metric, sum(quantity) FILTER (WHERE of_month) AS quantity, sum(settled) FILTER (WHERE of_month) AS settled,
		           sum(reported) FILTER (WHERE of_month) AS reported, sum(quantity) FILTER (WHERE of_period) AS p_quantity,
		           sum(settled) FILTER (WHERE of_period) AS p_settled, sum(reported) FILTER (WHERE of_period) AS p_reported
		      FROM hours GROUP BY license_id, metric
		)
		SELECT c.id, c.plan_code, n.metric, coalesce(s.quantity, 0)::bigint, coalesce(s.settled, 0)::bigint, coalesce(s.reported, 0)::bigint,
		       m.quota, m.cap, m.cap_type, c.subscription, c.period_start, c.period_end,
		       coalesce(s.p_quantity, 0)::bigint, coalesce(s.p_settled, 0)::bigint, coalesce(s.p_reported, 0)::bigint
		  FROM chosen c JOIN named n ON n.id = c.id
		  LEFT JOIN app.plan_metrics m ON m.plan_code = c.plan_code AND m.metric = n.metric
		  LEFT JOIN sums s ON s.license_id = c.id AND s.metric = n.metric
		 ORDER BY c.id, n.metric`, tenant.UUID(), license, after, from, from.AddDate(0, 1, 0), limit)
	if err != nil {
		return nil, from, fmt.Errorf("read usage of tenant %s: %w", tenant, err)
	}
	all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Total, err error) {
		var b Billing
		var subscription *string
		var begins, ends *time.Time
		err = row.Scan(&t.License, &t.Plan, &t.Metric, &t.Quantity, &t.Settled, &t.Reported, &t.Quota, &t.Cap, &t.CapType,
			&subscription, &begins, &ends, &b.Quantity, &b.Settled, &b.Reported)
		if err == nil && subscription != nil {
			b.Subscription, b.From, b.To = *subscription, begins.UTC(), ends.UTC()
			t.Billing = &b
		}
		return t, err
	})
	if err != nil {
		return nil, from, fmt.Errorf("read usage of tenant %s: %w", tenant, err)
	}
	return all, from, nil
}
