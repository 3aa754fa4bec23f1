package billing

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stripe/stripe-go/v76"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/tenancy"
)

// Origins are the sites to which a person may be sent back.
type Origins []string

// OriginsConfig says which sites those are.
type OriginsConfig struct {
	// Origins are as in https://app.example.com, with commas between them.
	Origins Origins `env:"BILLING_ORIGINS,required"`
}

// OpenOrigins reads OriginsConfig from the environment.
func OpenOrigins(getenv func(string) string) (Origins, error) {
	var cfg OriginsConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	for _, origin := range cfg.Origins {
		if u, err := url.Parse(origin); err != nil || originOf(u) != origin {
			return nil, &config.Fault{Variable: "BILLING_ORIGINS", Problem: "has a part that is no origin such as https://app.example.com"}
		}
	}
	return cfg.Origins, nil
}

func originOf(u *url.URL) string {
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// Fault is what is wrong with an address to which a person is to be sent; nil is nothing.
func (o Origins) Fault(field, address string) []fault.Field {
	u, err := url.Parse(address)
	if err != nil || !slices.Contains(o, originOf(u)) {
		return []fault.Field{{Field: field, Code: "not_allowed", Detail: "It must lead to a site of this service's (BILLING_ORIGINS)."}}
	}
	return nil
}

// Desk starts purchases and changes them at Stripe. It is safe for concurrent use.
type Desk struct {
	DB     *tenancy.DB
	Stripe *Stripe
	// Coupon is what is offered to who cancels, by its id at Stripe; "" is nothing.
	Coupon string
}

// Order is what a tenant wants to subscribe to.
type Order struct {
	Plan, Cycle           string
	Seats                 int
	SuccessURL, CancelURL string
}

// Session is a page of Stripe's at which the order can be paid, until it expires.
type Session struct {
	URL       string
	ExpiresAt time.Time
}

// ErrSubscribed says that the tenant has a subscription that lives.
var ErrSubscribed = fault.Conflict("already_subscribed", "The organisation has a subscription already. Change or cancel that one.")

// Customer makes sure that the tenant is known at Stripe: first by a row of ours, then there, then by its id on the row.
// Safe to repeat: it takes up where it stopped.
func (d *Desk) Customer(ctx context.Context, tenant tenancy.ID) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("number a customer: %w", err)
	}
	var known, name string
	err = d.DB.As(ctx, tenant, func(tx tenancy.Tx) error {
		if _, err := tx.Exec(ctx, `
			INSERT INTO app.billing_customers (tenant_id, id) VALUES ($1, $2)
			ON CONFLICT (tenant_id) WHERE deleted_at IS NULL DO NOTHING`, tenant.UUID(), id); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			SELECT c.id, coalesce(c.stripe_id, ''), t.name
			  FROM app.billing_customers c JOIN app.tenants t ON t.id = c.tenant_id
			 WHERE c.tenant_id = $1 AND c.deleted_at IS NULL`, tenant.UUID()).Scan(&id, &known, &name)
	})
	if err != nil {
		return fmt.Errorf("write the customer of tenant %s: %w", tenant, err)
	}
	if known != "" {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, d.Stripe.timeout)
	defer cancel()
	made, err := d.Stripe.customer(asking, tenant, name, id)
	if err != nil {
		return err
	}
	err = d.DB.As(ctx, tenant, func(tx tenancy.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE app.billing_customers SET stripe_id = $3, updated_at = now()
			 WHERE tenant_id = $1 AND id = $2 AND stripe_id IS NULL`, tenant.UUID(), id, made)
		return err
	})
	if err != nil {
		return fmt.Errorf("write customer %s of tenant %s: %w", made, tenant, err)
	}
	return nil
}

// Checkout makes a Checkout Session in the caller's transaction, after Customer. Attempt is the same whenever the same
// request is repeated: so is the session then. A tenant orders one thing at a time: the session before this one is closed,
// and when that was paid meanwhile, or the tenant has a subscription that lives, it is ErrSubscribed. What is not for sale
// is a fault.Invalid.
func (d *Desk) Checkout(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, attempt uuid.UUID, o Order) (Session, error) {
	lines, err := d.Stripe.catalog.Lines(o.Plan, o.Cycle, o.Seats)
	if err != nil {
		return Session{}, err
	}
	var customer string
	var before *string
	err = tx.QueryRow(ctx, `
		SELECT stripe_id, checkout_session_id FROM app.billing_customers
		 WHERE tenant_id = $1 AND deleted_at IS NULL AND stripe_id IS NOT NULL
		   FOR NO KEY UPDATE`, tenant.UUID()).Scan(&customer, &before)
	if err != nil {
		return Session{}, fmt.Errorf("lock the customer of tenant %s: %w", tenant, err)
	}
	var living bool
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM app.subscriptions
		                WHERE tenant_id = $1 AND status NOT IN ('canceled', 'incomplete_expired'))`, tenant.UUID()).Scan(&living)
	if err != nil {
		return Session{}, fmt.Errorf("look for a subscription of tenant %s: %w", tenant, err)
	}
	if living {
		return Session{}, ErrSubscribed
	}
	asking, cancel := context.WithTimeout(ctx, d.Stripe.timeout)
	defer cancel()
	made, err := d.Stripe.session(asking, tenant, customer, "checkout-"+attempt.String(), o, lines)
	if err != nil {
		return Session{}, err
	}
	if before != nil && *before != made.ID {
		paid, err := d.Stripe.closeSession(asking, *before)
		if err != nil {
			return Session{}, err
		}
		if over, err := d.isOver(ctx, tx, tenant, *before, paid); err != nil {
			return Session{}, err
		} else if !over {
			if _, err := d.Stripe.closeSession(asking, made.ID); err != nil {
				return Session{}, err
			}
			return Session{}, ErrSubscribed
		}
	}
	_, err = tx.Exec(ctx, `
		UPDATE app.billing_customers SET checkout_session_id = $2, updated_at = now()
		 WHERE tenant_id = $1 AND deleted_at IS NULL`, tenant.UUID(), made.ID)
	if err != nil {
		return Session{}, fmt.Errorf("write checkout session %s: %w", made.ID, err)
	}
	return Session{URL: made.URL, ExpiresAt: at(made.ExpiresAt)}, nil
}

// isOver says of the session before this one that it was not paid, or that its subscription has ended since.
func (d *Desk) isOver(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, session string, paid bool) (bool, error) {
	if !paid {
		return true, nil
	}
	asking, cancel := context.WithTimeout(ctx, d.Stripe.timeout)
	defer cancel()
	read, err := d.Stripe.api.CheckoutSessions.Get(session, &stripe.CheckoutSessionParams{Params: params(asking, "")})
	if err != nil {
		return false, asked("read a checkout session", err)
	}
	if read.Subscription == nil {
		return true, nil
	}
	var over bool
	err = tx.QueryRow(ctx, `
		SELECT coalesce(bool_or(status IN ('canceled', 'incomplete_expired')), false) FROM app.subscriptions
		 WHERE tenant_id = $1 AND id = $2`, tenant.UUID(), read.Subscription.ID).Scan(&over)
	if err != nil {
		return false, fmt.Errorf("look for subscription %s: %w", read.Subscription.ID, err)
	}
	return over, nil
}

// Subscribed is a subscription as we have it.
type Subscribed struct {
	ID                           string
	License                      *uuid.UUID
	Status, Plan, Cycle          string
	Seats, NextSeats             int
	PeriodStart, PeriodEnd       time.Time
	PaidThrough, GraceUntil      *time.Time
	Trouble                      *string
	CancelAtPeriodEnd            bool
	CanceledAt, EndedAt          *time.Time
	CancelReason, CancelFeedback *string
	CreatedAt                    time.Time
}

// Live says that it has not ended.
func (s *Subscribed) Live() bool {
	return s.Status != StatusCanceled && s.Status != StatusIncompleteExpired
}

// errNoSubscription says that a tenant has none.
var errNoSubscription = fault.NotFound("not_found", "The organisation has no subscription.")

// Current answers the tenant's subscription: one that lives, else the one that ended last. fault.NotFound when it never had
// one.
func Current(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID) (Subscribed, error) {
	var s Subscribed
	err := tx.QueryRow(ctx, `
		SELECT id, license_id, status, plan_code, cycle, seats, next_seats, period_start, period_end, paid_through, grace_until, trouble,
		       cancel_at_period_end, canceled_at, ended_at, cancel_reason, cancel_feedback, created_at
		  FROM app.subscriptions
		 WHERE tenant_id = $1
		 ORDER BY status NOT IN ('canceled', 'incomplete_expired') DESC, created_at DESC, id DESC LIMIT 1`, tenant.UUID()).
		Scan(&s.ID, &s.License, &s.Status, &s.Plan, &s.Cycle, &s.Seats, &s.NextSeats, &s.PeriodStart, &s.PeriodEnd, &s.PaidThrough,
			&s.GraceUntil, &s.Trouble, &s.CancelAtPeriodEnd, &s.CanceledAt, &s.EndedAt, &s.CancelReason, &s.CancelFeedback, &s.CreatedAt)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return s, errNoSubscription
	case err != nil:
		return s, fmt.Errorf("read the subscription of tenant %s: %w", tenant, err)
	}
	return s, nil
}

// Seats asks Stripe for another number of seats: more at once, for money that is taken at once; fewer are paid from the
// next period on, and those that are paid for hold until then. Nothing is written here: settle it afterwards. Declined
// money is a fault.Conflict, after which nothing has changed.
func (d *Desk) Seats(ctx context.Context, s Subscribed, seats int) error {
	lines, err := d.Stripe.catalog.Lines(s.Plan, s.Cycle, seats)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d.Stripe.timeout)
	defer cancel()
	raw, err := d.Stripe.api.Subscriptions.Get(s.ID, &stripe.SubscriptionParams{Params: params(ctx, "")})
	if err != nil {
		return asked("read subscription "+s.ID, err)
	}
	paid := seatsOf(d.Stripe.catalog, raw)
	now := max(paid, held(raw))
	if seats <= now {
		_, err := d.lower(ctx, raw, lines, now, seats)
		return err
	}
	if paid < now {
		// Fewer were to be paid from the next period on. What is asked for now is beyond those that are paid for: Stripe
		// would reckon from the fewer, and take the same money again.
		before, err := d.Stripe.catalog.Lines(s.Plan, s.Cycle, now)
		if err != nil {
			return err
		}
		if raw, err = d.lower(ctx, raw, before, now, now); err != nil {
			return err
		}
	}
	changed, err := d.Stripe.api.Subscriptions.Update(s.ID, &stripe.SubscriptionParams{
		Params: params(ctx, ""), Items: itemsOf(raw, lines), ProrationBehavior: new("always_invoice"), PaymentBehavior: new("pending_if_incomplete"),
	})
	declined := isDeclined(err) || err == nil && changed.PendingUpdate != nil
	switch {
	case declined && paid < now:
		if err := d.lowerAgain(ctx, s, changed, now, paid); err != nil {
			return err
		}
		fallthrough
	case declined:
		return fault.Conflict("payment_failed", "The further seats could not be paid, so that nothing has changed. Check the payment method in the portal.")
	case err != nil:
		return asked("change the seats of "+s.ID, err)
	}
	return nil
}

// lower makes a subscription's items the lines, which buy so many seats from the next period on, and has those that are
// held now hold until then. No money moves.
func (d *Desk) lower(ctx context.Context, raw *stripe.Subscription, lines []Line, held, seats int) (*stripe.Subscription, error) {
	lowered, err := d.Stripe.api.Subscriptions.Update(raw.ID, &stripe.SubscriptionParams{
		Params: params(ctx, ""), Items: itemsOf(raw, lines), ProrationBehavior: new("none"), Metadata: map[string]string{
			metaHeld: strconv.Itoa(held), metaHeldUntil: strconv.FormatInt(raw.CurrentPeriodEnd, 10), metaSeats: strconv.Itoa(seats),
		},
	})
	return lowered, asked("change the seats of "+raw.ID, err)
}

// lowerAgain takes back a raise that was declined: its invoice is void, and from the next period on as many seats are paid as
// before. Declined is the subscription that waits for the money, nil when Stripe has taken the raise back itself.
func (d *Desk) lowerAgain(ctx context.Context, s Subscribed, declined *stripe.Subscription, held, seats int) error {
	if declined != nil && declined.PendingUpdate != nil && declined.LatestInvoice != nil {
		if _, err := d.Stripe.api.Invoices.VoidInvoice(declined.LatestInvoice.ID, &stripe.InvoiceVoidInvoiceParams{Params: params(ctx, "")}); err != nil {
			return asked("void the invoice of seats that were declined", err)
		}
	}
	lines, err := d.Stripe.catalog.Lines(s.Plan, s.Cycle, seats)
	if err != nil {
		return err
	}
	raw, err := d.Stripe.api.Subscriptions.Get(s.ID, &stripe.SubscriptionParams{Params: params(ctx, "")})
	if err != nil {
		return asked("read subscription "+s.ID, err)
	}
	_, err = d.lower(ctx, raw, lines, held, seats)
	return err
}

func seatsOf(c Catalog, raw *stripe.Subscription) int {
	var lines []Line
	for _, item := range raw.Items.Data {
		lines = append(lines, Line{Price: item.Price.ID, Quantity: item.Quantity})
	}
	_, _, seats, _ := c.Reads(lines)
	return seats
}

// itemsOf are the changes that make a subscription's items the lines. An item that was bought at a former price keeps it.
func itemsOf(raw *stripe.Subscription, lines []Line) []*stripe.SubscriptionItemsParams {
	var items []*stripe.SubscriptionItemsParams
	for _, item := range raw.Items.Data {
		i := slices.IndexFunc(lines, func(l Line) bool { return l.is(item.Price.ID) })
		switch {
		case i < 0:
			items = append(items, &stripe.SubscriptionItemsParams{ID: new(item.ID), Deleted: new(true)})
		case lines[i].Quantity != item.Quantity && lines[i].Quantity != 0:
			items = append(items, &stripe.SubscriptionItemsParams{ID: new(item.ID), Quantity: new(lines[i].Quantity)})
		}
	}
	for _, line := range lines {
		if !slices.ContainsFunc(raw.Items.Data, func(item *stripe.SubscriptionItem) bool { return line.is(item.Price.ID) }) {
			items = append(items, &stripe.SubscriptionItemsParams{Price: new(line.Price), Quantity: line.quantity()})
		}
	}
	return items
}

// Cancel asks Stripe to end a subscription: at once, or with its period. At once, what Stripe has heard of use in the period is
// billed then, and of what was paid ahead nothing is given back. Nothing is written here: settle it afterwards.
func (d *Desk) Cancel(ctx context.Context, id string, atOnce bool) error {
	ctx, cancel := context.WithTimeout(ctx, d.Stripe.timeout)
	defer cancel()
	var err error
	if atOnce {
		_, err = d.Stripe.api.Subscriptions.Cancel(id, &stripe.SubscriptionCancelParams{
			Params: params(ctx, ""), InvoiceNow: new(true), Prorate: new(false),
		})
		if isMissing(err) { // it has ended
			err = nil
		}
	} else {
		_, err = d.Stripe.api.Subscriptions.Update(id, &stripe.SubscriptionParams{Params: params(ctx, ""), CancelAtPeriodEnd: new(true)})
	}
	return asked("cancel subscription "+id, err)
}

// Resume takes back a cancellation that has not come true. Nothing is written here: settle it afterwards.
func (d *Desk) Resume(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, d.Stripe.timeout)
	defer cancel()
	_, err := d.Stripe.api.Subscriptions.Update(id, &stripe.SubscriptionParams{Params: params(ctx, ""), CancelAtPeriodEnd: new(false)})
	return asked("resume subscription "+id, err)
}

// KeepReason keeps why a subscription was cancelled, in its owner's words; empty words forget them.
func KeepReason(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id, reason, feedback string) error {
	_, err := tx.Exec(ctx, `
		UPDATE app.subscriptions SET cancel_reason = nullif($3, ''), cancel_feedback = nullif($4, '')
		 WHERE tenant_id = $1 AND id = $2`, tenant.UUID(), id, reason, feedback)
	if err != nil {
		return fmt.Errorf("keep why subscription %s was cancelled: %w", id, err)
	}
	return nil
}

// Portal makes an address at which the tenant sees its invoices and changes how it pays. A tenant that Stripe does not
// know is a fault.NotFound.
func (d *Desk) Portal(ctx context.Context, tenant tenancy.ID, back string) (string, error) {
	var customer string
	err := d.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT stripe_id FROM app.billing_customers
			 WHERE tenant_id = $1 AND deleted_at IS NULL AND stripe_id IS NOT NULL`, tenant.UUID()).Scan(&customer)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errNoSubscription
	} else if err != nil {
		return "", fmt.Errorf("read the customer of tenant %s: %w", tenant, err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.Stripe.timeout)
	defer cancel()
	made, err := d.Stripe.api.BillingPortalSessions.New(&stripe.BillingPortalSessionParams{
		Params: params(ctx, ""), Customer: new(customer), ReturnURL: new(back),
	})
	if err != nil {
		return "", asked("make a portal session", err)
	}
	return made.URL, nil
}

// Check is nil when the order is for sale, else a fault.Invalid.
func (d *Desk) Check(o Order) error {
	_, err := d.Stripe.catalog.Lines(o.Plan, o.Cycle, o.Seats)
	return err
}
