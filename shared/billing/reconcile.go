package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stripe/stripe-go/v76"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

const (
	// atATime is how many things that are due are asked for at once.
	atATime = 100
	// lookBack is how old a subscription may be at Stripe of which nothing was heard: for three days Stripe repeats events.
	lookBack = 30 * 24 * time.Hour
)

// Reconciliation is what a comparison with Stripe did, in numbers.
type Reconciliation struct {
	// Suspended are subscriptions whose grace was over and were looked at for it.
	Suspended int `json:"suspended"`
	// Retried are events that had failed and were taken in now; StillFailing those that failed again.
	Retried      int `json:"retried_events"`
	StillFailing int `json:"still_failing_events"`
	// Compared are subscriptions that were held against Stripe. Repaired of them were not as Stripe says, or unknown here;
	// they are now. Unsettled are not known at Stripe, or of no plan of the catalogue: the log says which, and somebody must look.
	Compared  int `json:"compared"`
	Repaired  int `json:"repaired"`
	Unsettled int `json:"unsettled"`
	// MeterDifferences are meters of a customer's, and prices of usage records, whose sum at Stripe is not what was reported: the
	// log says which, and by how much.
	MeterDifferences int `json:"meter_differences"`
	// Whole says that everything was compared; else the next run goes on.
	Whole bool `json:"whole"`

	unanswered int // in a row
}

// Reconcile makes what we have agree with Stripe, whatever events were lost, until the time: it suspends what is owed at the
// end of its grace, takes in events that failed, finds subscriptions of which nothing was heard, and compares each that was
// not compared since the given time. Told hears of each licence whose pool is to be told. What cannot be repaired is counted
// and logged; an error is a store or Stripe that does not answer.
func (b *Books) Reconcile(ctx context.Context, since, until time.Time, told func(tenancy.ID, uuid.UUID)) (Reconciliation, error) {
	var r Reconciliation
	for _, step := range []func(context.Context, *Reconciliation, time.Time, time.Time, func(tenancy.ID, uuid.UUID)) error{
		b.suspendOverdue, b.retryFailed, b.findUnheard, b.compare,
	} {
		if err := step(ctx, &r, since, until, told); err != nil {
			return r, err
		}
	}
	return r, nil
}

// due is a subscription whose turn it is.
type due struct {
	Tenant       uuid.UUID
	Subscription string
}

func (b *Books) due(ctx context.Context, why, query string, args ...any) (all []due, err error) {
	err = b.DB.Across(ctx, why, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, query, args...)
		if err == nil {
			all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[due])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", why, err)
	}
	return all, nil
}

// set settles one, in a transaction of its own, and does what else belongs to it there.
func (b *Books) set(ctx context.Context, tenant tenancy.ID, id, why string, also func(tenancy.Tx) error, told func(tenancy.ID, uuid.UUID)) (changed bool, err error) {
	var sold uuid.UUID
	err = b.DB.As(ctx, tenant, func(tx tenancy.Tx) (err error) {
		if sold, changed, err = b.settle(ctx, tx, tenant, id, "", why); err != nil || also == nil {
			return err
		}
		return also(tx)
	})
	if err == nil && changed && sold != uuid.Nil {
		told(tenant, sold)
	}
	return changed, err
}

// patience is how many things in a row may go without an answer before a store or Stripe is taken to be out. One alone may be
// its own trouble: with invoices without end, say.
const patience = 3

// stops says of an error that nothing more can be done now: a store or Stripe is out. Any other is one thing's own.
func (b *Books) stops(ctx context.Context, r *Reconciliation, what string, err error) bool {
	if f := fault.As(err); f != nil && f.Kind == fault.KindUnavailable {
		r.unanswered++
	} else {
		r.unanswered = 0
	}
	if ctx.Err() != nil || r.unanswered >= patience {
		return true
	}
	b.Log.ErrorContext(ctx, "a subscription cannot be made to agree with Stripe", slog.String("about", what), slog.Any("error", err))
	return false
}

func (b *Books) suspendOverdue(ctx context.Context, r *Reconciliation, _, until time.Time, told func(tenancy.ID, uuid.UUID)) error {
	seen := map[due]bool{}
	for time.Now().Before(until) {
		all, err := b.due(ctx, "expire: subscriptions whose grace is over", `SELECT * FROM app.due_suspensions($1)`, atATime+len(seen))
		if err != nil {
			return err
		}
		again := true
		for _, d := range all {
			if seen[d] { // Stripe says that nothing is owed, or it cannot be settled: by its dates it grants nothing in any case
				continue
			}
			again, seen[d] = false, true
			if _, err := b.set(ctx, tenancy.Verified(d.Tenant), d.Subscription, "its grace is over", nil, told); err == nil {
				r.Suspended++
				r.unanswered = 0
			} else if b.stops(ctx, r, d.Subscription, err) {
				return err
			}
		}
		if again {
			return nil
		}
	}
	return nil
}

func (b *Books) retryFailed(ctx context.Context, r *Reconciliation, _, until time.Time, told func(tenancy.ID, uuid.UUID)) error {
	var ids []string
	err := b.DB.Across(ctx, "expire: events of Stripe's that failed", func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id FROM app.failed_stripe_events($1)`, atATime)
		if err == nil {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list events that failed: %w", err)
	}
	for _, id := range ids {
		if !time.Now().Before(until) {
			return nil
		}
		out, err := b.Replay(ctx, id)
		if err != nil {
			r.StillFailing++
			if b.stops(ctx, r, id, err) {
				return err
			}
			continue
		}
		r.Retried++
		r.unanswered = 0
		for _, l := range out.Licenses {
			told(out.Tenant, l)
		}
	}
	return nil
}

// findUnheard settles subscriptions at Stripe of which we have nothing: all their events were lost.
func (b *Books) findUnheard(ctx context.Context, r *Reconciliation, since, until time.Time, told func(tenancy.ID, uuid.UUID)) error {
	p := &stripe.SubscriptionListParams{Status: new("all"), CreatedRange: &stripe.RangeQueryParams{GreaterThanOrEqual: since.Add(-lookBack).Unix()}}
	p.Context, p.Limit = ctx, new(int64(atATime))
	all := b.Stripe.api.Subscriptions.List(p)
	for time.Now().Before(until) && all.Next() {
		s := all.Subscription()
		if s.Customer == nil {
			continue
		}
		var owner uuid.UUID
		err := b.DB.Batch(ctx, tenancy.ID{}, func(batch *tenancy.Batch) {
			batch.Queue(`SELECT tenant_id FROM app.find_billing_customer($1)`, s.Customer.ID).QueryRow(func(row pgx.Row) error { return row.Scan(&owner) })
		})
		if errors.Is(err, pgx.ErrNoRows) { // of something else that is sold in the same account
			continue
		} else if err != nil {
			return fmt.Errorf("find customer %s: %w", s.Customer.ID, err)
		}
		tenant := tenancy.Verified(owner)
		var known bool
		err = b.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
			return tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM app.subscriptions WHERE tenant_id = $1 AND id = $2)`, owner, s.ID).Scan(&known)
		})
		if err != nil {
			return fmt.Errorf("look for subscription %s: %w", s.ID, err)
		}
		if known {
			continue
		}
		r.Compared++
		if _, err := b.set(ctx, tenant, s.ID, "nothing was heard of it", nil, told); err == nil {
			r.Repaired++
			r.unanswered = 0
		} else if b.stops(ctx, r, s.ID, err) {
			return err
		}
	}
	return asked("list subscriptions", all.Err())
}

func (b *Books) compare(ctx context.Context, r *Reconciliation, since, until time.Time, told func(tenancy.ID, uuid.UUID)) error {
	for time.Now().Before(until) {
		all, err := b.due(ctx, "expire: subscriptions to compare", `SELECT * FROM app.subscriptions_to_check($1, $2)`, since, atATime)
		if err != nil {
			return err
		}
		for _, d := range all {
			if !time.Now().Before(until) {
				return nil
			}
			tenant := tenancy.Verified(d.Tenant)
			checked := func(tx tenancy.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE app.subscriptions SET checked_at = now() WHERE tenant_id = $1 AND id = $2`, d.Tenant, d.Subscription)
				return err
			}
			changed, err := b.set(ctx, tenant, d.Subscription, "compared with Stripe", checked, told)
			switch {
			case err == nil:
				r.Compared++
				r.unanswered = 0
				if changed {
					r.Repaired++
				}
				differences, err := b.compareMeters(ctx, tenant, d.Subscription)
				if err != nil && b.stops(ctx, r, d.Subscription, err) {
					return err
				}
				r.MeterDifferences += differences
				differences, err = b.compareRecords(ctx, tenant, d.Subscription)
				if err != nil && b.stops(ctx, r, d.Subscription, err) {
					return err
				}
				r.MeterDifferences += differences
				continue
			case b.stops(ctx, r, d.Subscription, err):
				return err
			}
			r.Unsettled++
			if err := b.DB.As(ctx, tenant, checked); err != nil { // the others have their turn
				return fmt.Errorf("note that %s was looked at: %w", d.Subscription, err)
			}
		}
		if len(all) < atATime {
			r.Whole = true
			return nil
		}
	}
	return nil
}
