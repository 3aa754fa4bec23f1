package billing

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

// by is who changes licences here, in records of who did what. Who suspends one adds why, so that its holders are told it.
const by = license.ByBilling

// BooksDeps is what Books work with.
type BooksDeps struct {
	// DB logs in as usher_webhook or usher_subscription; OpenDB opens it.
	DB       *tenancy.DB
	Stripe   *Stripe
	Registry *license.Registry
	// Notices seal the keys of licences in the mails that bring them.
	Notices notify.Keys
	// Now is the clock by which a grace is over: StoreTime.
	Now func(context.Context, tenancy.Tx) (time.Time, error)
	Log *slog.Logger
}

// Books are kept in agreement with Stripe. They are safe for concurrent use.
type Books struct{ BooksDeps }

// NewBooks makes Books.
func NewBooks(d BooksDeps) *Books { return &Books{d} }

// StoreTime is the clock of PostgreSQL, which all instances share.
func StoreTime(ctx context.Context, tx tenancy.Tx) (now time.Time, err error) {
	if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return now, fmt.Errorf("read the database's clock: %w", err)
	}
	return now, nil
}

// Outcome is what became of an event.
type Outcome struct {
	// Result is done, duplicate, or ignored.
	Result string
	// Tenant and Licenses are whose licences were touched, whose pools are to be told. They are told again for a
	// duplicate: the first time it may not have come to that.
	Tenant   tenancy.ID
	Licenses []uuid.UUID
}

// The results.
const (
	Done      = "done"
	Duplicate = "duplicate"
	Ignored   = "ignored"
)

// ErrRefused says that an event contradicts what Stripe itself says: it names another customer than its object has.
var ErrRefused = fault.Malformed("event_refused", "The event is not about what it says it is about.")

// ErrLive says that an event is of the other mode than our key.
var ErrLive = fault.Malformed("livemode_refused", "The event is of another mode than this service: test events belong to test keys, live ones to live keys.")

// Receive takes in an event whose signature was verified. Its errors are ErrRefused, ErrLive, and fault.Unavailable when
// it is to be sent again; any other is a fault of ours or of the catalogue, after which the event stays in the ledger as
// failed, and may be sent again, too.
func (b *Books) Receive(ctx context.Context, e Event) (Outcome, error) {
	return b.take(ctx, e, false)
}

// Replay takes in an event again that the ledger has, whatever became of it. One that it does not have is a
// fault.NotFound.
func (b *Books) Replay(ctx context.Context, id string) (Outcome, error) {
	var owner uuid.UUID
	err := b.DB.Across(ctx, "find an event of Stripe's by its id, for the operator", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT tenant_id FROM app.find_stripe_event($1)`, id).Scan(&owner)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return Outcome{}, fault.NotFound("not_found", "There is no such event.")
	} else if err != nil {
		return Outcome{}, fmt.Errorf("find event %s: %w", id, err)
	}
	tenant := tenancy.Verified(owner)
	e := Event{ID: id, Live: b.Stripe.live}
	err = b.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT type, api_version, object_id, coalesce(subscription_id, ''), created_at
			  FROM app.stripe_events
			 WHERE tenant_id = $1 AND id = $2`, tenant.UUID(), id).
			Scan(&e.Type, &e.APIVersion, &e.Object, &e.Subscription, &e.CreatedAt)
	})
	if err != nil {
		return Outcome{}, fmt.Errorf("read event %s: %w", id, err)
	}
	return b.post(ctx, tenant, e, true)
}

// take finds whose event it is.
func (b *Books) take(ctx context.Context, e Event, again bool) (Outcome, error) {
	switch {
	case !e.Known():
		return Outcome{Result: Ignored}, nil
	case e.Live != b.Stripe.live:
		return Outcome{}, ErrLive
	}
	if e.ForeignVersion() {
		b.Log.WarnContext(ctx, "an event of Stripe's is of another version of the API; its object is fetched in ours",
			slog.String("event", e.ID), slog.String("api_version", e.APIVersion))
	}
	said := e.Customer
	var err error
	switch {
	case e.Charge != "": // a refund or dispute says nothing of the subscription
		e.Customer, e.Subscription, err = b.Stripe.ofCharge(ctx, e.Charge)
	case strings.HasPrefix(e.Type, "invoice.") && e.Subscription == "":
		e.Customer, e.Subscription, err = b.Stripe.ofInvoice(ctx, e.Object)
	}
	switch {
	case isMissing(err):
		return Outcome{}, ErrRefused.Because(err)
	case err != nil:
		return Outcome{}, err
	case said != "" && said != e.Customer:
		return Outcome{}, ErrRefused.Because(fmt.Errorf("event %s names customer %s, its object has %s", e.ID, said, e.Customer))
	case e.Customer == "":
		return Outcome{Result: Ignored}, nil
	}
	var owner uuid.UUID
	err = b.DB.Batch(ctx, tenancy.ID{}, func(batch *tenancy.Batch) {
		batch.Queue(`SELECT tenant_id FROM app.find_billing_customer($1)`, e.Customer).
			QueryRow(func(row pgx.Row) error { return row.Scan(&owner) })
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows): // of something else that is sold in the same account
		return Outcome{Result: Ignored}, nil
	case err != nil:
		return Outcome{}, fmt.Errorf("find customer %s: %w", e.Customer, err)
	}
	return b.post(ctx, tenancy.Verified(owner), e, again)
}

// post records an event of the tenant's and has its effect, both or neither.
func (b *Books) post(ctx context.Context, tenant tenancy.ID, e Event, again bool) (Outcome, error) {
	out := Outcome{Result: Done, Tenant: tenant}
	err := b.DB.As(ctx, tenant, func(tx tenancy.Tx) error {
		// Whoever delivers the same event at once waits here for this transaction.
		tag, err := tx.Exec(ctx, `
			INSERT INTO app.stripe_events AS e (tenant_id, id, type, api_version, object_id, subscription_id, status, created_at)
			VALUES ($1, $2, $3, $4, $5, nullif($6, ''), 'done', $7)
			ON CONFLICT (tenant_id, id) DO UPDATE SET status = 'done', error = NULL, attempts = e.attempts + 1, handled_at = now()
			 WHERE e.status <> 'done' OR $8`,
			tenant.UUID(), e.ID, e.Type, e.APIVersion, e.Object, e.Subscription, e.CreatedAt, again)
		if err != nil {
			return fmt.Errorf("record event %s: %w", e.ID, err)
		}
		if tag.RowsAffected() == 0 {
			out.Result = Duplicate
			out.Licenses, err = licensesOf(ctx, tx, tenant, e.Subscription)
			return err
		}
		subscriptions := []string{e.Subscription}
		switch {
		case e.Type == "customer.deleted":
			if subscriptions, err = b.forget(ctx, tx, tenant, e.Object); err != nil {
				return err
			}
		case e.Subscription == "": // a session that came to nothing, an invoice of something else
			return nil
		}
		for _, id := range subscriptions {
			sold, _, err := b.settle(ctx, tx, tenant, id, e.Customer, "event "+e.ID)
			if err != nil {
				return err
			}
			if sold != uuid.Nil {
				out.Licenses = append(out.Licenses, sold)
			}
		}
		return nil
	})
	if err != nil {
		b.keepFailed(ctx, tenant, e, err)
		return Outcome{}, err
	}
	return out, nil
}

// keepFailed leaves word of an event that had no effect, unless it has had one since. It is a courtesy: Stripe sends the
// event again in any case.
func (b *Books) keepFailed(ctx context.Context, tenant tenancy.ID, e Event, why error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	status, said := "failed", "it failed on our side; the log says why"
	switch f := fault.As(why); {
	case f != nil && f.Code == ErrRefused.Code:
		status, said = "refused", ErrRefused.Detail
	case errors.Is(why, errForeign):
		said = errForeign.Error()
	case f != nil && f.Kind == fault.KindUnavailable:
		said = "a store or Stripe did not answer"
	case f != nil:
		said = f.Detail
	}
	err := b.DB.As(ctx, tenant, func(tx tenancy.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO app.stripe_events AS e (tenant_id, id, type, api_version, object_id, subscription_id, status, error, created_at)
			VALUES ($1, $2, $3, $4, $5, nullif($6, ''), $7, $8, $9)
			ON CONFLICT (tenant_id, id) DO UPDATE SET status = excluded.status, error = excluded.error, attempts = e.attempts + 1, handled_at = now()
			 WHERE e.status <> 'done'`,
			tenant.UUID(), e.ID, e.Type, e.APIVersion, e.Object, e.Subscription, status, said, e.CreatedAt)
		return err
	})
	if err != nil {
		b.Log.WarnContext(ctx, "no word could be left of an event that failed", slog.String("event", e.ID), slog.Any("error", err))
	}
}

// forget marks a customer that was deleted at Stripe, and answers its subscriptions, which ended with it.
func (b *Books) forget(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, customer string) ([]string, error) {
	if _, err := tx.Exec(ctx, `
		UPDATE app.billing_customers SET deleted_at = coalesce(deleted_at, now()), updated_at = now()
		 WHERE tenant_id = $1 AND stripe_id = $2`, tenant.UUID(), customer); err != nil {
		return nil, fmt.Errorf("forget customer %s: %w", customer, err)
	}
	rows, err := tx.Query(ctx, `
		SELECT s.id FROM app.subscriptions s JOIN app.billing_customers c ON c.tenant_id = s.tenant_id AND c.id = s.customer_id
		 WHERE s.tenant_id = $1 AND c.stripe_id = $2 ORDER BY s.id`, tenant.UUID(), customer)
	if err == nil {
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	return nil, fmt.Errorf("list subscriptions of customer %s: %w", customer, err)
}

// Settle makes what we have of a subscription what Stripe says now, for a reason that the audit log is told. It answers
// the licence whose pool is to be told, or uuid.Nil.
func (b *Books) Settle(ctx context.Context, tenant tenancy.ID, subscription, why string) (uuid.UUID, error) {
	var sold uuid.UUID
	err := b.DB.As(ctx, tenant, func(tx tenancy.Tx) (err error) {
		sold, _, err = b.settle(ctx, tx, tenant, subscription, "", why)
		return err
	})
	return sold, err
}

// settle is Settle in the caller's transaction. Nobody else settles the subscription until that ends, so that what is
// fetched here is not older than what anybody has written. Customer is whose it is said to be, "" when nobody said. Changed says
// that something was not as it should be.
func (b *Books) settle(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id, customer, why string) (sold uuid.UUID, changed bool, err error) {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockOf(id)); err != nil {
		return uuid.Nil, false, fmt.Errorf("lock subscription %s: %w", id, err)
	}
	s, err := b.Stripe.subscription(ctx, id)
	if isMissing(err) {
		return uuid.Nil, false, ErrRefused.Because(err)
	}
	if err != nil {
		return uuid.Nil, false, err
	}
	if customer != "" && customer != s.Customer {
		return uuid.Nil, false, ErrRefused.Because(fmt.Errorf("subscription %s is of customer %s, not %s", id, s.Customer, customer))
	}
	kept, row, err := b.read(ctx, tx, tenant, &s)
	if err != nil {
		return uuid.Nil, false, err
	}
	now, err := b.Now(ctx, tx)
	if err != nil {
		return uuid.Nil, false, err
	}
	change := Decide(now, s, kept)
	sold, key, err := b.write(ctx, tx, tenant, &s, row, &change)
	if err != nil {
		return uuid.Nil, false, err
	}
	if !change.Nothing() {
		if err := audit.Record(ctx, tx, entry(&s, sold, &change, why)); err != nil {
			return uuid.Nil, false, err
		}
		if err := b.tell(ctx, tx, tenant, &s, sold, key, &change, now); err != nil {
			return uuid.Nil, false, err
		}
	}
	return sold, !change.Nothing(), nil
}

func entry(s *Subscription, sold uuid.UUID, c *Change, why string) audit.Entry {
	details := map[string]string{"why": why, "status": s.Status, "plan": s.Plan, "seats": strconv.Itoa(s.Seats)}
	if sold != uuid.Nil {
		details["license"] = sold.String()
	}
	if c.Standing.Sold {
		details["paid_through"] = c.Standing.Through.Format(time.RFC3339)
	}
	if c.Standing.Trouble != "" {
		details["trouble"] = c.Standing.Trouble
	}
	var notices []string
	for _, n := range c.Notices {
		notices = append(notices, string(n))
	}
	if notices != nil {
		details["notices"] = strings.Join(notices, " ")
	}
	return audit.Entry{Action: "subscription.changed", Actor: by, Credential: "stripe", Subject: "subscription:" + s.ID, Details: details}
}

// lockOf is the number of a subscription's advisory lock.
func lockOf(id string) int64 {
	sum := sha256.Sum256([]byte("usher subscription " + id))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// kept is a row of ours.
type kept struct {
	customer uuid.UUID
	license  uuid.UUID
}

// read reads what we have of a subscription. A customer that is not the tenant's is ErrRefused.
func (b *Books) read(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, s *Subscription) (Kept, kept, error) {
	var k Kept
	var row kept
	err := tx.QueryRow(ctx, `SELECT id FROM app.billing_customers WHERE tenant_id = $1 AND stripe_id = $2`, tenant.UUID(), s.Customer).Scan(&row.customer)
	if errors.Is(err, pgx.ErrNoRows) {
		return k, row, ErrRefused.Because(fmt.Errorf("subscription %s is of customer %s, who is not this tenant's", s.ID, s.Customer))
	} else if err != nil {
		return k, row, fmt.Errorf("read customer %s: %w", s.Customer, err)
	}
	var sold *uuid.UUID
	err = tx.QueryRow(ctx, `
		SELECT license_id, paid_through, grace_until, coalesce(trouble, ''), ended_at IS NOT NULL
		  FROM app.subscriptions
		 WHERE tenant_id = $1 AND id = $2
		   FOR NO KEY UPDATE`, tenant.UUID(), s.ID).Scan(&sold, &k.PaidThrough, &k.GraceUntil, &k.Trouble, &k.Ended)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return k, row, nil
	case err != nil:
		return k, row, fmt.Errorf("read subscription %s: %w", s.ID, err)
	case sold == nil:
		return k, row, nil
	}
	row.license = *sold
	l, err := license.Read(ctx, tx, tenant, row.license)
	if err != nil {
		return k, row, err
	}
	k.License = &KeptLicense{
		Plan: l.Plan, MaxSeats: l.MaxSeats, ExpiresAt: l.ExpiresAt, GraceUntil: l.GraceUntil,
		Revoked: l.Status == license.StatusRevoked, Suspended: l.Status == license.StatusSuspended,
		Ours: license.IsByBilling(l.StatusBy), Reason: l.StatusReason,
	}
	return k, row, nil
}

// write does what was decided, and answers the licence and, when it was made, its key.
func (b *Books) write(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, s *Subscription, row kept, c *Change) (uuid.UUID, secret.Key, error) {
	var key secret.Key
	var err error
	if c.License != nil {
		if key, err = b.sell(ctx, tx, tenant, &row, c); err != nil {
			return uuid.Nil, key, err
		}
	}
	switch {
	case c.Suspend != "":
		if _, err = license.Reinstate(ctx, tx, tenant, row.license, by); err == nil { // of another reason of ours, if it was suspended
			_, err = license.Suspend(ctx, tx, tenant, row.license, c.Suspend, by+":"+c.Suspend)
		}
	case c.Reinstate:
		_, err = license.Reinstate(ctx, tx, tenant, row.license, by)
	}
	if err != nil {
		return uuid.Nil, key, err
	}
	var through, grace *time.Time
	if c.Standing.Sold {
		through, grace = &c.Standing.Through, c.Standing.Grace
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO app.subscriptions (tenant_id, id, customer_id, license_id, status, plan_code, cycle, seats, next_seats, period_start,
		                               period_end, paid_through, grace_until, trouble, cancel_at_period_end, canceled_at, ended_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, nullif($14, ''), $15, $16, $17)
		ON CONFLICT (tenant_id, id) DO UPDATE SET
		    license_id = excluded.license_id, status = excluded.status, plan_code = excluded.plan_code, cycle = excluded.cycle,
		    seats = excluded.seats, next_seats = excluded.next_seats, period_start = excluded.period_start, period_end = excluded.period_end,
		    paid_through = coalesce(excluded.paid_through, subscriptions.paid_through), grace_until = excluded.grace_until, trouble = excluded.trouble,
		    cancel_at_period_end = excluded.cancel_at_period_end, canceled_at = excluded.canceled_at, ended_at = excluded.ended_at,
		    updated_at = now()`,
		tenant.UUID(), s.ID, row.customer, orNull(row.license), s.Status, s.Plan, s.Cycle, s.Seats, s.NextSeats, s.PeriodStart,
		s.PeriodEnd, through, grace, c.Standing.Trouble, s.CancelAtPeriodEnd, s.CanceledAt, s.EndedAt)
	if err != nil {
		return uuid.Nil, key, fmt.Errorf("write subscription %s: %w", s.ID, err)
	}
	return row.license, key, nil
}

// sell makes the licence, or makes it what it is to be.
func (b *Books) sell(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, row *kept, c *Change) (secret.Key, error) {
	want := c.License
	plan, err := license.ReadPlan(ctx, tx, want.Plan)
	if err != nil {
		return secret.Key{}, err
	}
	if c.Create {
		// A trial becomes what was bought: whoever sits stays, and the key they use stays good.
		if row.license, err = license.TrialToBuy(ctx, tx, tenant, plan.Product); err != nil {
			return secret.Key{}, err
		}
		c.Trial = row.license != uuid.Nil
	}
	if !c.Create || c.Trial {
		_, err := b.Registry.Change(ctx, tx, tenant, row.license, func(t *license.Terms) error {
			if t.Plan != want.Plan || c.Trial { // what it may run, for how long and by whom is the plan's; its hardware stays its own
				hardware := t.AllowedHardware
				*t = plan.Terms()
				t.AllowedHardware = hardware
			}
			t.MaxSeats, t.ExpiresAt, t.GraceUntil = want.MaxSeats, want.ExpiresAt, want.GraceUntil
			return nil
		})
		return secret.Key{}, err
	}
	terms := plan.Terms()
	terms.MaxSeats, terms.ExpiresAt, terms.GraceUntil = want.MaxSeats, want.ExpiresAt, want.GraceUntil
	made, key, err := b.Registry.Create(ctx, tx, tenant, terms)
	row.license = made.ID
	return key, err
}

// licensesOf is the licence of a subscription, if there is one.
func licensesOf(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, subscription string) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, `
		SELECT license_id FROM app.subscriptions
		 WHERE tenant_id = $1 AND id = $2 AND license_id IS NOT NULL`, tenant.UUID(), subscription)
	if err == nil {
		return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	}
	return nil, fmt.Errorf("read the licence of subscription %s: %w", subscription, err)
}

func orNull(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
