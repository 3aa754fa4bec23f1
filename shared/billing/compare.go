package billing

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stripe/stripe-go/v76"

	"github.com/coditect/usher/shared/tenancy"
)

const (
	// comparedFor is how far back meters are compared: as long as Stripe takes usage in, less a day.
	comparedFor = 34 * 24 * time.Hour
	// takenIn is how long after it was acknowledged a meter event may be missing from a meter's sum: Stripe adds up later.
	takenIn = time.Hour
)

// reported is what Stripe was told of a meter and a customer. The sum at Stripe is at least Least, what it acknowledged a while ago,
// and at most Most, with what it may have besides.
type reported struct {
	Customer, EventName string
	Least, Most         int64
	// Newest is when it last acknowledged something.
	Newest time.Time
}

// readReported reads what Stripe was told by meter events of a subscription's licence, of hours within [from, to): the least
// is what it acknowledged so long ago.
func readReported(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, subscription string, from, to time.Time, ago time.Duration) ([]reported, error) {
	rows, err := tx.Query(ctx, `
		SELECT r.customer, r.event_name,
		       coalesce(sum(r.quantity) FILTER (WHERE r.status = 'acknowledged' AND r.finished_at <= now() - make_interval(secs => $5)), 0)::bigint,
		       coalesce(sum(r.quantity) FILTER (WHERE r.status <> 'pending'), 0)::bigint,
		       coalesce(max(r.finished_at) FILTER (WHERE r.status = 'acknowledged'), 'epoch')
		  FROM app.usage_reports r JOIN app.subscriptions s ON s.tenant_id = r.tenant_id AND s.license_id = r.license_id
		 WHERE r.tenant_id = $1 AND s.id = $2 AND r.subscription_id IS NULL AND r.hour >= $3 AND r.hour < $4
		 GROUP BY r.customer, r.event_name`, tenant.UUID(), subscription, from, to, ago.Seconds())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[reported])
}

// compareMeters holds what was reported of a subscription's customer against the sums of the meters that its prices go by, and
// answers how many differ. Stripe takes in a meter event first and judges it later; what it drops then it says in events of a
// shape of their own that are not received here (docs/flows/meter.md).
func (b *Books) compareMeters(ctx context.Context, tenant tenancy.ID, subscription string) (differ int, err error) {
	to := time.Now().UTC().Truncate(time.Hour).Add(-2 * time.Hour)
	from := to.Add(-comparedFor).Truncate(time.Hour)
	var all []reported
	err = b.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) (err error) {
		all, err = readReported(ctx, tx, tenant, subscription, from, to, takenIn)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read what was reported for %s: %w", subscription, err)
	}
	if len(all) == 0 {
		return 0, nil
	}
	meters, err := b.Stripe.meters(ctx)
	if err != nil {
		return 0, err
	}
	for _, r := range all {
		has, err := b.Stripe.metered(ctx, meters[r.EventName], r.Customer, from, to)
		if err != nil {
			return differ, err
		}
		if has < r.Least || has > r.Most {
			differ++
			b.Log.ErrorContext(ctx, "a meter at Stripe does not say what was reported: see its errors in the dashboard, and report what is missing anew",
				slog.String("tenant", tenant.String()), slog.String("subscription", subscription), slog.String("customer", r.Customer),
				slog.String("event_name", r.EventName), slog.Int64("at_stripe", has), slog.Int64("reported", r.Least), slog.Int64("perhaps", r.Most))
		}
	}
	return differ, nil
}

// compareRecords holds what was told of a subscription's current period by usage records against Stripe's summaries of them, and
// answers how many prices differ.
func (b *Books) compareRecords(ctx context.Context, tenant tenancy.ID, subscription string) (differ int, err error) {
	type told struct {
		Price       string
		Least, Most int64
	}
	var all []told
	err = b.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT r.event_name,
			       coalesce(sum(r.quantity) FILTER (WHERE r.status = 'acknowledged' AND r.finished_at <= now() - make_interval(secs => $3)), 0)::bigint,
			       coalesce(sum(r.quantity) FILTER (WHERE r.status <> 'pending'), 0)::bigint
			  FROM app.usage_reports r JOIN app.subscriptions s ON s.tenant_id = r.tenant_id AND s.id = r.subscription_id
			 WHERE r.tenant_id = $1 AND s.id = $2 AND s.ended_at IS NULL AND r.told_at >= s.period_start
			 GROUP BY r.event_name`, tenant.UUID(), subscription, takenIn.Seconds())
		if err == nil {
			all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[told])
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the usage records of %s: %w", subscription, err)
	}
	for _, r := range all {
		has, err := b.Stripe.recorded(ctx, subscription, r.Price)
		if err != nil {
			return differ, err
		}
		if has < r.Least || has > r.Most {
			differ++
			b.Log.ErrorContext(ctx, "usage records at Stripe do not add up to what was told: see the subscription's item in the dashboard",
				slog.String("tenant", tenant.String()), slog.String("subscription", subscription), slog.String("price", r.Price),
				slog.Int64("at_stripe", has), slog.Int64("reported", r.Least), slog.Int64("perhaps", r.Most))
		}
	}
	return differ, nil
}

// recorded is the sum of the usage records of a price in the period that runs.
func (s *Stripe) recorded(ctx context.Context, subscription, price string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	item, err := s.item(ctx, subscription, price)
	if err != nil {
		return 0, err
	}
	p := &stripe.UsageRecordSummaryListParams{SubscriptionItem: new(item)}
	p.Context, p.Limit, p.Single = ctx, stripe.Int64(1), true
	list := s.api.UsageRecordSummaries.List(p)
	if list.Next() && list.UsageRecordSummary().Invoice == "" { // the newest, and of a period that is not over
		return list.UsageRecordSummary().TotalUsage, nil
	}
	return 0, asked("read the sum of usage records", list.Err())
}

// meters are the ids of the account's meters, by the names of their events.
func (s *Stripe) meters(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	p := &stripe.BillingMeterListParams{}
	p.Context, p.Limit = ctx, stripe.Int64(100)
	ids := map[string]string{}
	list := s.api.BillingMeters.List(p)
	for list.Next() {
		if m := list.BillingMeter(); ids[m.EventName] == "" || m.Status == stripe.BillingMeterStatusActive {
			ids[m.EventName] = m.ID
		}
	}
	return ids, asked("list meters", list.Err())
}

// metered is a meter's sum of a customer's events within [from, to), which are whole hours; 0 when there is no such meter.
func (s *Stripe) metered(ctx context.Context, meter, customer string, from, to time.Time) (int64, error) {
	if meter == "" {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	p := &stripe.BillingMeterEventSummaryListParams{ID: new(meter), Customer: new(customer), StartTime: new(from.Unix()), EndTime: new(to.Unix())}
	p.Context = ctx
	var sum int64
	list := s.api.BillingMeterEventSummaries.List(p)
	for list.Next() {
		sum += int64(list.BillingMeterEventSummary().AggregatedValue)
	}
	if err := list.Err(); err != nil && !isMissing(err) { // a customer that was deleted has none
		return 0, asked("read the sum of meter "+meter, err)
	}
	return sum, nil
}
