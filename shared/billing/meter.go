package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/metering"
	"github.com/coditect/usher/shared/tenancy"
)

// MeterDeps is what a Meter works with.
type MeterDeps struct {
	// DB logs in as usher_meter.
	DB     *tenancy.DB
	Stripe *Stripe
	Log    *slog.Logger
}

// Meter reports to Stripe what was used. It is safe for concurrent use, and so are several at once.
type Meter struct{ MeterDeps }

// NewMeter makes a Meter.
func NewMeter(d MeterDeps) *Meter { return &Meter{d} }

// MeterReport is what a run did.
type MeterReport struct {
	// OverdraftHours are for how many licences and hours overdraft seats were counted.
	OverdraftHours int64 `json:"overdraft_hours"`
	// Reported are the reports that were made: each is one meter event, of a licence, a metric and an hour.
	Reported int `json:"reported"`
	// Unpriced are the sums of an hour that nobody pays for: the licence has no subscription, or its plan no price for the metric.
	Unpriced int `json:"unpriced"`
	// Acknowledged are the reports that Stripe has taken in, now or, by their identifier, before.
	Acknowledged int `json:"acknowledged"`
	// Refused are those that it refused, which are told again in an hour; Unanswered those of which it did not say what
	// became of them, which are told again by the next run.
	Refused    int `json:"refused"`
	Unanswered int `json:"unanswered"`
	// Doubtful are those that were given up: sent a day ago, and never acknowledged. A person decides.
	Doubtful int `json:"doubtful"`
	// ExpiredEvents were dropped.
	ExpiredEvents int64 `json:"expired_events"`
	// Complete says that nothing was left that was due.
	Complete bool `json:"complete"`
}

const (
	// meterBudget is how long a run begins something new, and countBudget how long of that it counts: who is slow to count keeps
	// nobody's usage from Stripe.
	meterBudget = 40 * time.Second
	countBudget = meterBudget / 2
	// meterTenants, hoursAtATime and reportsAtATime are how many are taken together.
	meterTenants   = 200
	hoursAtATime   = 500
	reportsAtATime = 64
	// meterCalls is how many reports are told at once: far below the thousand a second that Stripe takes.
	meterCalls = 8
	// billedAt is when within its hour usage lies at Stripe: at its last second, so that an hour is in the period in which
	// it ends. Package metering adds up by the same.
	billedAt = time.Hour - time.Second
)

// Run reports the usage of hours that are over, and tells again what was not acknowledged. It takes up what any run before
// left, wherever that ended. The error is fault.Unavailable when Stripe or the database did not answer.
func (m *Meter) Run(ctx context.Context) (done MeterReport, err error) {
	until := time.Now().Add(meterBudget)
	all, uncounted := m.count(ctx, time.Now().Add(countBudget), &done)
	var faults []error
	for time.Now().Before(until) && faults == nil {
		tenants, err := m.tenants(ctx, "meter: tenants with usage that Stripe is to be told", `SELECT tenant_id FROM app.metered_tenants($1)`, 0)
		if err != nil {
			return done, errors.Join(uncounted, err)
		}
		if len(tenants) == 0 {
			done.Complete = all
			break
		}
		moved := 0
		for _, id := range tenants {
			n, err := m.report(ctx, tenancy.Verified(id), "", until, &done)
			moved += n
			if err != nil {
				faults = append(faults, err)
			}
			if err != nil && fault.As(err) != nil || !time.Now().Before(until) {
				break // Stripe or the database is out: it is so for every tenant
			}
		}
		if moved == 0 {
			break // another run is at all of them
		}
	}
	err = m.expire(ctx, until, &done)
	return done, errors.Join(append(faults, err, uncounted)...)
}

// count counts overdraft seats of hours that are over, so that they are reported as what is counted otherwise: some hours of
// each tenant, and then the next. One that cannot be counted is left to the next run: the error is that of each such. It answers
// whether no hour is left.
func (m *Meter) count(ctx context.Context, until time.Time, done *MeterReport) (all bool, err error) {
	stuck := map[uuid.UUID]error{} // stay due for now, and must not hide the others
	failed := func() error { return errors.Join(slices.Collect(maps.Values(stuck))...) }
	for moved := true; moved; {
		moved = false
		tenants, err := m.tenants(ctx, "meter: tenants with overdraft seats", `SELECT tenant_id FROM app.overdraft_tenants($1)`, len(stuck))
		if err != nil {
			return false, errors.Join(failed(), err)
		}
		for _, id := range tenants {
			if _, ok := stuck[id]; ok {
				continue
			}
			if !time.Now().Before(until) || ctx.Err() != nil {
				return false, failed()
			}
			tenant, counted := tenancy.Verified(id), false
			err := m.DB.As(ctx, tenant, func(tx tenancy.Tx) error {
				n, more, err := metering.CountOverdraft(ctx, tx, tenant)
				done.OverdraftHours += n
				counted = more
				return err
			})
			if err != nil {
				stuck[id] = fmt.Errorf("count for tenant %s: %w", tenant, err)
			}
			moved = moved || counted
		}
	}
	return len(stuck) == 0, failed()
}

// tenants looks across tenants for those who are due, as many as are taken together and so many more.
func (m *Meter) tenants(ctx context.Context, why, query string, more int) (tenants []uuid.UUID, err error) {
	err = m.DB.Across(ctx, why, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, query, meterTenants+more)
		if err == nil {
			tenants, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", why, err)
	}
	return tenants, nil
}

// report does what is due for a tenant, and answers how much it was. Of the licence of a subscription that is closing, ""
// for none, the hour that runs is due, too.
func (m *Meter) report(ctx context.Context, tenant tenancy.ID, closing string, until time.Time, done *MeterReport) (moved int, err error) {
	settle := func(ctx context.Context, tenant tenancy.ID, done *MeterReport) (int, error) {
		return m.settle(ctx, tenant, closing, done)
	}
	for _, step := range []func(context.Context, tenancy.ID, *MeterReport) (int, error){settle, m.tell} {
		for time.Now().Before(until) {
			n, err := step(ctx, tenant, done)
			moved += n
			if err != nil {
				return moved, fmt.Errorf("report usage of tenant %s: %w", tenant, err)
			}
			if n == 0 {
				break
			}
		}
	}
	return moved, nil
}

// settle makes a report of each hour's usage that is in none and has a price, and answers how many hours it settled. What
// came late, after its hour was settled, is in a report of its own.
func (m *Meter) settle(ctx context.Context, tenant tenancy.ID, closing string, done *MeterReport) (n int, err error) {
	var reported int
	err = m.DB.As(ctx, tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT h.license_id::text, h.metric, h.hour, h.quantity, h.quantity - h.settled, coalesce(s.plan_code, ''), coalesce(s.cycle, ''), coalesce(c.stripe_id, ''), coalesce(s.id, '')
			  FROM app.usage_hours h
			  LEFT JOIN LATERAL (
			      SELECT id, customer_id, plan_code, cycle FROM app.subscriptions
			       WHERE tenant_id = h.tenant_id AND license_id = h.license_id AND (ended_at IS NULL OR ended_at > h.hour + interval '3599 s')
			       ORDER BY status NOT IN ('canceled', 'incomplete_expired') DESC, created_at DESC LIMIT 1) s ON true
			  LEFT JOIN app.billing_customers c ON c.tenant_id = h.tenant_id AND c.id = s.customer_id AND c.deleted_at IS NULL
			 WHERE h.tenant_id = $1 AND h.settled < h.quantity
			   AND (h.hour <= now() - interval '1 hour'
			    OR h.license_id = (SELECT license_id FROM app.subscriptions WHERE tenant_id = $1 AND id = $3))
			 ORDER BY h.hour LIMIT $2
			   FOR NO KEY UPDATE OF h SKIP LOCKED`, tenant.UUID(), hoursAtATime, closing)
		if err != nil {
			return err
		}
		var licenses, metrics, ids, owners, names, customers, targets, subscriptions []string
		var hours, of []time.Time
		var totals, quantities []int64
		var license, metric, plan, cycle, customer, subscription string
		var hour time.Time
		var total, fresh int64
		_, err = pgx.ForEachRow(rows, []any{&license, &metric, &hour, &total, &fresh, &plan, &cycle, &customer, &subscription}, func() error {
			licenses, metrics, hours, totals = append(licenses, license), append(metrics, metric), append(hours, hour), append(totals, total)
			price, priced := m.Stripe.catalog.Metered(plan, cycle, metric)
			if !priced || customer == "" {
				return nil
			}
			id, err := uuid.NewV7()
			ids, owners, names, of, quantities = append(ids, id.String()), append(owners, license), append(names, metric), append(of, hour), append(quantities, fresh)
			if !price.UsageRecords {
				subscription = ""
			}
			customers, targets, subscriptions = append(customers, customer), append(targets, price.target()), append(subscriptions, subscription)
			return err
		})
		n, reported = len(licenses), len(ids)
		if err != nil || n == 0 {
			return err
		}
		return tx.Batch(ctx, func(b *tenancy.Batch) {
			b.Queue(`
				INSERT INTO app.usage_reports (tenant_id, id, license_id, metric, hour, quantity, customer, event_name, subscription_id)
				SELECT $1, r.id::uuid, r.license_id::uuid, r.metric, r.hour, r.quantity, r.customer, r.event_name, nullif(r.subscription_id, '')
				  FROM unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[], $7::text[], $8::text[], $9::text[])
				    AS r (id, license_id, metric, hour, quantity, customer, event_name, subscription_id)`,
				tenant.UUID(), ids, owners, names, of, quantities, customers, targets, subscriptions)
			b.Queue(`
				UPDATE app.usage_hours h
				   SET settled = n.settled
				  FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::bigint[]) AS n (license_id, metric, hour, settled)
				 WHERE h.tenant_id = $1 AND h.license_id = n.license_id::uuid AND h.metric = n.metric AND h.hour = n.hour`,
				tenant.UUID(), licenses, metrics, hours, totals)
		})
	})
	if err != nil {
		return 0, fmt.Errorf("settle hours: %w", err)
	}
	done.Reported += reported
	done.Unpriced += n - reported
	return n, nil
}

// usageReport is one that is to be told.
type usageReport struct {
	id                string
	customer, target  string
	subscription      string // for a usage record; "" for a meter event
	quantity          int64  // of a usage record: of all reports of its second
	at                time.Time
	fresh             bool // it was not told before
	told, refused     bool
	unanswered, spare bool
	err               error
}

// tell tells Stripe of reports that are due, and answers how many those were. A report is marked as sent before it is told,
// so that whoever finds it so after a crash knows that Stripe may have it, and tells it under the same identifier.
func (m *Meter) tell(ctx context.Context, tenant tenancy.ID, done *MeterReport) (int, error) {
	reports, doubtful, err := m.claim(ctx, tenant)
	if err != nil {
		return 0, fmt.Errorf("claim reports: %w", err)
	}
	done.Doubtful += doubtful
	if doubtful > 0 {
		m.Log.ErrorContext(ctx, "nobody knows whether Stripe has some usage: compare its meter with usage_reports, and decide",
			slog.String("tenant", tenant.String()), slog.Int("reports", doubtful))
	}
	var wait sync.WaitGroup
	next := make(chan *usageReport)
	var down sync.Once
	out := make(chan struct{})
	for range min(meterCalls, len(reports)) {
		wait.Go(func() {
			for r := range next {
				select {
				case <-out:
					r.spare = true
					continue
				default:
				}
				r.err = m.Stripe.use(ctx, r)
				switch {
				case r.err == nil:
					r.told = true
				case fault.As(r.err) != nil:
					r.unanswered = true
					down.Do(func() { close(out) })
				default:
					r.refused = true
				}
			}
		})
	}
	for i := range reports {
		next <- &reports[i]
	}
	close(next)
	wait.Wait()
	if len(reports) == 0 {
		return doubtful, nil
	}
	var unanswered error
	for _, r := range reports {
		switch {
		case r.told:
			done.Acknowledged++
		case r.refused:
			done.Refused++
			m.Log.ErrorContext(ctx, "Stripe refuses usage", slog.String("tenant", tenant.String()), slog.String("report", r.id), slog.Any("error", r.err))
		case r.unanswered:
			done.Unanswered++
			unanswered = r.err
		}
	}
	if err := m.finish(ctx, tenant, reports); err != nil {
		return 0, fmt.Errorf("write what became of reports: %w", err)
	}
	return len(reports) + doubtful, unanswered
}

// claim takes reports that are due, so that no other run does, and gives up those of which Stripe may know no more whether it
// has them.
func (m *Meter) claim(ctx context.Context, tenant tenancy.ID) (reports []usageReport, doubtful int, err error) {
	err = m.DB.Batch(ctx, tenant, func(b *tenancy.Batch) {
		b.Queue(`
			WITH lost AS (
			    SELECT id FROM app.usage_reports
			     WHERE tenant_id = $1 AND status = 'sent' AND next_at <= now() AND sent_at < now() - interval '23 hours'
			       FOR NO KEY UPDATE SKIP LOCKED
			)
			UPDATE app.usage_reports r SET status = 'doubtful', finished_at = now()
			  FROM lost WHERE r.tenant_id = $1 AND r.id = lost.id
			RETURNING 1`, tenant.UUID()).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				doubtful++
			}
			return rows.Err()
		})
		// Of an hour one usage record is told at a time, so that what is told later is not less. Two runs that claim at once would
		// not see each other.
		b.Queue(`SELECT pg_advisory_xact_lock(hashtextextended('app.usage_reports:' || $1::text, 0))`, tenant.String())
		b.Queue(`
			WITH due AS (
			    SELECT r.id FROM app.usage_reports r
			     WHERE r.tenant_id = $1 AND r.status IN ('pending', 'sent') AND r.next_at <= now()
			       AND (r.subscription_id IS NULL OR NOT EXISTS (
			           SELECT FROM app.usage_reports o
			            WHERE o.tenant_id = r.tenant_id AND o.license_id = r.license_id AND o.metric = r.metric AND o.hour = r.hour
			              AND o.status = 'sent' AND o.next_at > now()))
			     ORDER BY r.next_at, r.id LIMIT $2
			       FOR NO KEY UPDATE SKIP LOCKED
			)
			UPDATE app.usage_reports r
			   SET status = 'sent', attempts = attempts + 1, next_at = now() + interval '5 minutes', sent_at = coalesce(sent_at, now()),
			       told_at = coalesce(r.told_at, CASE WHEN r.hour + $3 > now() THEN
			           -- Of an hour that runs: by its end there may be no subscription any more. An odd second, and before this one,
			           -- in which the subscription may end.
			           greatest(r.hour, to_timestamp(2 * floor((floor(extract(epoch FROM now())) - 2) / 2) + 1), (
			               SELECT max(s.period_start) FROM app.subscriptions s
			                WHERE s.tenant_id = r.tenant_id AND s.license_id = r.license_id AND s.ended_at IS NULL)) ELSE (
			           -- An hour of a period that is over is billed in the next: under an even second, which no hour ends with.
			           SELECT CASE WHEN r.hour + $3 >= s.period_start THEN r.hour + $3
			                       ELSE to_timestamp(2 * ceil(extract(epoch FROM s.period_start) / 2) + 2 * ceil(extract(epoch FROM s.period_start - r.hour) / 3600)) END
			             FROM app.subscriptions s WHERE s.tenant_id = r.tenant_id AND s.id = r.subscription_id) END)
			  FROM due WHERE r.tenant_id = $1 AND r.id = due.id`, tenant.UUID(), reportsAtATime, billedAt)
		b.Queue(`
			SELECT r.id::text, r.customer, r.event_name, coalesce(r.subscription_id, ''), coalesce(r.told_at, r.hour + $2), r.sent_at = now(),
			       CASE WHEN r.subscription_id IS NULL THEN r.quantity
			            ELSE (SELECT sum(o.quantity)::bigint FROM app.usage_reports o
			                   WHERE o.tenant_id = r.tenant_id AND o.license_id = r.license_id AND o.metric = r.metric AND o.hour = r.hour
			                     AND o.subscription_id = r.subscription_id AND o.told_at = r.told_at) END
			  FROM app.usage_reports r
			 WHERE r.tenant_id = $1 AND r.status = 'sent' AND r.next_at = now() + interval '5 minutes'`, tenant.UUID(), billedAt). // those of this transaction
			Query(func(rows pgx.Rows) (err error) {
				reports, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r usageReport, err error) {
					err = row.Scan(&r.id, &r.customer, &r.target, &r.subscription, &r.at, &r.fresh, &r.quantity)
					return r, err
				})
				return err
			})
	})
	return reports, doubtful, err
}

// finish writes what became of reports. One that was not told before and was refused, or not told now, cannot be at Stripe:
// it is pending again.
func (m *Meter) finish(ctx context.Context, tenant tenancy.ID, reports []usageReport) error {
	var told, back, refused, errs []string
	var afresh []bool
	for _, r := range reports {
		switch {
		case r.told:
			told = append(told, r.id)
		case r.spare && r.fresh:
			back = append(back, r.id)
		case r.refused, r.unanswered:
			text := []rune(r.err.Error())
			refused, errs, afresh = append(refused, r.id), append(errs, string(text[:min(len(text), 500)])), append(afresh, r.refused && r.fresh)
		}
	}
	return m.DB.Batch(ctx, tenant, func(b *tenancy.Batch) {
		b.Queue(`
			UPDATE app.usage_reports SET status = 'acknowledged', finished_at = now(), error = NULL
			 WHERE tenant_id = $1 AND id = ANY ($2::text[]::uuid[]) AND status = 'sent'`, tenant.UUID(), told)
		b.Queue(`
			UPDATE app.usage_reports SET status = 'pending', sent_at = NULL, told_at = NULL, next_at = now()
			 WHERE tenant_id = $1 AND id = ANY ($2::text[]::uuid[]) AND status = 'sent'`, tenant.UUID(), back)
		b.Queue(`
			UPDATE app.usage_reports r
			   SET error = n.error, status = CASE WHEN n.afresh THEN 'pending' ELSE 'sent' END, sent_at = CASE WHEN n.afresh THEN NULL ELSE r.sent_at END,
			       told_at = CASE WHEN n.afresh THEN NULL ELSE r.told_at END,
			       next_at = CASE WHEN n.afresh THEN now() + interval '1 hour' ELSE r.next_at END
			  FROM unnest($2::text[], $3::text[], $4::boolean[]) AS n (id, error, afresh)
			 WHERE r.tenant_id = $1 AND r.id = n.id::uuid AND r.status = 'sent'`, tenant.UUID(), refused, errs, afresh)
	})
}

// Close tells Stripe of all that was used until now under a subscription, the hour that runs included, and waits until the
// meters there say so: an invoice that is made then has it. It is to come before the subscription is ended at once. What
// Stripe refuses, or nobody knows of any more whether it has it, holds nothing up. The error is fault.Unavailable when Stripe or
// the database does not answer, when Stripe has not added up yet, and while somebody else tells it of some of that: it may
// be called again.
func (m *Meter) Close(ctx context.Context, tenant tenancy.ID, subscription string) error {
	for counted := true; counted; {
		err := m.DB.As(ctx, tenant, func(tx tenancy.Tx) (err error) {
			if _, counted, err = metering.CountOverdraft(ctx, tx, tenant); err == nil && !counted {
				_, err = metering.CountRunningOverdraft(ctx, tx, tenant)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("count for tenant %s: %w", tenant, err)
		}
	}
	until := time.Now().Add(closeBudget)
	var done MeterReport
	for {
		n, err := m.report(ctx, tenant, subscription, until, &done)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	for {
		late, err := m.outstanding(ctx, tenant, subscription)
		if late == "" || err != nil {
			return err
		}
		if !time.Now().Before(until) {
			return fault.Unavailable(fmt.Errorf("close subscription %s: %s", subscription, late))
		}
		select {
		case <-ctx.Done():
			return fault.Unavailable(fmt.Errorf("close subscription %s: %s: %w", subscription, late, ctx.Err()))
		case <-time.After(closePause):
		}
	}
}

const (
	// closeBudget is how long Close goes on telling and waiting, and closePause how long it waits before it looks again.
	closeBudget = 6 * time.Second
	closePause  = 300 * time.Millisecond
)

// outstanding says what of a subscription's usage may not be on an invoice that is made now; "" for nothing.
func (m *Meter) outstanding(ctx context.Context, tenant tenancy.ID, subscription string) (string, error) {
	var told bool
	var from, now time.Time
	var sums []reported
	err := m.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
		err := tx.QueryRow(ctx, `
			SELECT now(), s.period_start, NOT EXISTS (
			           SELECT FROM app.usage_reports r WHERE r.tenant_id = s.tenant_id AND r.license_id = s.license_id AND r.status = 'sent')
			  FROM app.subscriptions s WHERE s.tenant_id = $1 AND s.id = $2`, tenant.UUID(), subscription).Scan(&now, &from, &told)
		if err != nil {
			return err
		}
		from = metering.Hour(from)
		sums, err = readReported(ctx, tx, tenant, subscription, from, now, 0)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read what was reported for %s: %w", subscription, err)
	}
	if !told {
		return "Stripe is being told of usage", nil
	}
	var meters map[string]string
	for _, r := range sums {
		if now.Sub(r.Newest) > takenIn {
			continue // whatever is missing there, waiting brings it no more
		}
		if meters == nil {
			if meters, err = m.Stripe.meters(ctx); err != nil {
				return "", err
			}
		}
		has, err := m.Stripe.metered(ctx, meters[r.EventName], r.Customer, from, now.Truncate(time.Minute).Add(time.Minute))
		if err != nil {
			return "", err
		}
		if has < r.Least {
			return "Stripe has not added usage up yet", nil
		}
	}
	return "", nil
}

// expire drops old events.
func (m *Meter) expire(ctx context.Context, until time.Time, done *MeterReport) error {
	for time.Now().Before(until) {
		var dropped int64
		err := m.DB.Across(ctx, "meter: drop usage events that are over", func(tx tenancy.Tx) error {
			return tx.QueryRow(ctx, `SELECT app.expire_usage_events()`).Scan(&dropped)
		})
		if err != nil {
			return fmt.Errorf("drop usage events that are over: %w", err)
		}
		done.ExpiredEvents += dropped
		if dropped == 0 {
			break
		}
	}
	return nil
}
