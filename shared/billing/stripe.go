package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/telemetry"
	"github.com/coditect/usher/shared/tenancy"
)

// Config says how Stripe is reached and what is sold there.
type Config struct {
	// APIKey is Stripe's secret or restricted key. One of the test mode sees and believes test events alone.
	APIKey config.Secret `env:"STRIPE_API_KEY,required"`
	// URL is where the API is.
	URL string `env:"STRIPE_URL" envDefault:"https://api.stripe.com"`
	// Timeout bounds all that is asked of Stripe in one transaction. It must stay under the five seconds for which a
	// transaction may be idle.
	Timeout time.Duration `env:"STRIPE_TIMEOUT" envDefault:"4s"`
	// Catalog maps plans to prices, as JSON (docs/operations.md).
	Catalog Catalog `env:"STRIPE_CATALOG,required"`
}

// Stripe is the client of Stripe's API. It is safe for concurrent use.
type Stripe struct {
	api     *client.API
	catalog Catalog
	timeout time.Duration
	live    bool
}

// OpenStripe reads Config from the environment. It does not connect.
func OpenStripe(getenv func(string) string) (*Stripe, error) {
	var cfg Config
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	return NewStripe(cfg)
}

// NewStripe makes a Stripe.
func NewStripe(cfg Config) (*Stripe, error) {
	var faults []error
	key := cfg.APIKey.Reveal()
	live := strings.HasPrefix(key, "sk_live_") || strings.HasPrefix(key, "rk_live_")
	if !live && !strings.HasPrefix(key, "sk_test_") && !strings.HasPrefix(key, "rk_test_") {
		faults = append(faults, &config.Fault{Variable: "STRIPE_API_KEY", Problem: "is no secret or restricted key of Stripe's"})
	}
	if !strings.HasPrefix(cfg.URL, "https://") && !strings.HasPrefix(cfg.URL, "http://127.0.0.1:") {
		faults = append(faults, &config.Fault{Variable: "STRIPE_URL", Problem: "is no https address"})
	}
	if cfg.Timeout <= 0 || cfg.Timeout >= 5*time.Second {
		faults = append(faults, &config.Fault{Variable: "STRIPE_TIMEOUT", Problem: "must be positive and under 5s"})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL:           new(cfg.URL),
		HTTPClient:    &http.Client{Timeout: cfg.Timeout, Transport: measured{}},
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
		// What is safe to repeat is repeated by whoever asked, under the same key.
		MaxNetworkRetries: stripe.Int64(0),
		EnableTelemetry:   new(false),
	})
	return &Stripe{
		api: client.New(key, &stripe.Backends{API: backend, Connect: backend, Uploads: backend}), catalog: cfg.Catalog,
		timeout: cfg.Timeout, live: live,
	}, nil
}

var requests = telemetry.NewHistogram("usher.stripe.duration",
	"Requests to Stripe, and how long each took to be answered: by the kind of thing asked for, and the status, 0 when there was none.",
	"usher.resource", "http.request.method", "http.response.status_code")

// measured is HTTP, with each request measured.
type measured struct{}

// RoundTrip sends one request.
func (measured) RoundTrip(r *http.Request) (*http.Response, error) {
	// Of /v1/customers/cus_123/… the kind of thing alone: ids are as many as customers.
	kind, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
	ctx, end := telemetry.Span(r.Context(), "Stripe "+r.Method+" "+kind)
	begun := time.Now()
	resp, err := http.DefaultTransport.RoundTrip(r)
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	end(err)
	requests.Record(ctx, time.Since(begun).Seconds(), kind, r.Method, strconv.Itoa(status))
	return resp, err
}

// OpenDB is tenancy.Open for a function that asks Stripe within its transactions: unless DATABASE_TIMEOUT says
// otherwise, one may take 9 s.
func OpenDB(ctx context.Context, getenv func(string) string, log *slog.Logger) (*tenancy.DB, error) {
	return tenancy.Open(ctx, func(variable string) string {
		if value := getenv(variable); value != "" || variable != "DATABASE_TIMEOUT" {
			return value
		}
		return "9s"
	}, log)
}

// params are what every request carries: the deadline and, where something is made or changed, the idempotency key.
func params(ctx context.Context, key string) stripe.Params {
	p := stripe.Params{Context: ctx}
	if key != "" {
		p.IdempotencyKey = new(key)
	}
	return p
}

// asked turns an error of Stripe's into ours: what may succeed when it is sent again is fault.Unavailable.
func asked(what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s at Stripe: %w", what, err)
	refusal, ok := errors.AsType[*stripe.Error](err)
	switch {
	case !ok, refusal.HTTPStatusCode >= 500, refusal.HTTPStatusCode == http.StatusTooManyRequests, refusal.HTTPStatusCode == http.StatusConflict:
		return fault.Unavailable(err)
	}
	return err
}

// isMissing says that Stripe knows no such thing.
func isMissing(err error) bool {
	refusal, ok := errors.AsType[*stripe.Error](err)
	return ok && refusal.Code == stripe.ErrorCodeResourceMissing
}

// isDeclined says that a payment method was refused.
func isDeclined(err error) bool {
	refusal, ok := errors.AsType[*stripe.Error](err)
	return ok && (refusal.Type == stripe.ErrorTypeCard || refusal.HTTPStatusCode == http.StatusPaymentRequired)
}

// Metadata of our subscriptions, customers and sessions at Stripe. It is for people who look there, but for held: the
// seats that were paid for a period, and until when they hold although fewer are paid from then on.
const (
	metaTenant    = "tenant_id"
	metaPlan      = "plan"
	metaSeats     = "seats"
	metaHeld      = "usher_held_seats"
	metaHeldUntil = "usher_held_until"
)

// customer makes a customer.
func (s *Stripe) customer(ctx context.Context, tenant tenancy.ID, name string, row uuid.UUID) (string, error) {
	made, err := s.api.Customers.New(&stripe.CustomerParams{
		Params: params(ctx, "customer-"+row.String()), Name: new(name), Metadata: map[string]string{metaTenant: tenant.String()},
	})
	if err != nil {
		return "", asked("make a customer", err)
	}
	return made.ID, nil
}

// session makes a Checkout Session.
func (s *Stripe) session(ctx context.Context, tenant tenancy.ID, customer, key string, o Order, lines []Line) (*stripe.CheckoutSession, error) {
	meta := map[string]string{metaTenant: tenant.String(), metaPlan: o.Plan, "cycle": o.Cycle, metaSeats: strconv.Itoa(o.Seats)}
	p := &stripe.CheckoutSessionParams{
		Params: params(ctx, key), Mode: stripe.String(string(stripe.CheckoutSessionModeSubscription)), Customer: new(customer),
		SuccessURL: new(o.SuccessURL), CancelURL: new(o.CancelURL), ClientReferenceID: new(tenant.String()),
		Metadata: meta, SubscriptionData: &stripe.CheckoutSessionSubscriptionDataParams{Metadata: meta},
	}
	for _, line := range lines {
		p.LineItems = append(p.LineItems, &stripe.CheckoutSessionLineItemParams{Price: new(line.Price), Quantity: line.quantity()})
	}
	made, err := s.api.CheckoutSessions.New(p)
	return made, asked("make a checkout session", err)
}

// quantity is what Stripe is told: nothing for a metered price.
func (l Line) quantity() *int64 {
	if l.Quantity == 0 {
		return nil
	}
	return &l.Quantity
}

// alreadyExists is how Stripe says in words, and not always by a code, that it has a meter event of that identifier.
const alreadyExists = "already exists with identifier"

// use reports usage, in the form that its price is of. The error is fault.Unavailable when nobody knows whether it came; any other
// says that it was refused, and counts nothing.
func (s *Stripe) use(ctx context.Context, r *usageReport) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if r.subscription != "" {
		return s.setUse(ctx, r)
	}
	return s.addUse(ctx, r)
}

// addUse reports usage as a meter event, whose identifier counts once however often it is told.
func (s *Stripe) addUse(ctx context.Context, r *usageReport) error {
	_, err := s.api.BillingMeterEvents.New(&stripe.BillingMeterEventParams{
		Params: params(ctx, ""), EventName: new(r.target), Identifier: new(r.id), Timestamp: new(r.at.Unix()),
		Payload: map[string]string{"stripe_customer_id": r.customer, "value": strconv.FormatInt(r.quantity, 10)},
	})
	if refusal, ok := errors.AsType[*stripe.Error](err); ok &&
		(refusal.Code == "duplicate_meter_event" || strings.Contains(refusal.Msg, alreadyExists)) {
		return nil
	}
	return asked("report usage", err)
}

// setUse sets the usage record of a second, which is the same however often it is told.
func (s *Stripe) setUse(ctx context.Context, r *usageReport) error {
	item, err := s.item(ctx, r.subscription, r.target)
	if err != nil {
		return err
	}
	_, err = s.api.UsageRecords.New(&stripe.UsageRecordParams{
		Params: params(ctx, ""), SubscriptionItem: new(item), Action: new(stripe.UsageRecordActionSet),
		Quantity: new(r.quantity), Timestamp: new(r.at.Unix()),
	})
	return asked("report usage", err)
}

// item is the id of a subscription's item with a price, or with one that it replaced.
func (s *Stripe) item(ctx context.Context, subscription, price string) (string, error) {
	raw, err := s.api.Subscriptions.Get(subscription, &stripe.SubscriptionParams{Params: params(ctx, "")})
	if err != nil {
		return "", asked("read subscription "+subscription, err)
	}
	i := slices.IndexFunc(raw.Items.Data, func(item *stripe.SubscriptionItem) bool { return s.catalog.same(price, item.Price.ID) })
	if i < 0 {
		return "", fmt.Errorf("subscription %s does not have price %s", subscription, price)
	}
	return raw.Items.Data[i].ID, nil
}

// closeSession expires a Checkout Session, so that nobody can pay at it any more; paid says that somebody had before.
func (s *Stripe) closeSession(ctx context.Context, id string) (paid bool, err error) {
	_, err = s.api.CheckoutSessions.Expire(id, &stripe.CheckoutSessionExpireParams{Params: params(ctx, "")})
	if err == nil || isMissing(err) {
		return false, nil
	}
	refused := asked("expire a checkout session", err)
	if f := fault.As(refused); f != nil {
		return false, refused
	}
	session, err := s.api.CheckoutSessions.Get(id, &stripe.CheckoutSessionParams{Params: params(ctx, "")})
	switch {
	case err != nil:
		return false, asked("read a checkout session", err)
	case session.Status == stripe.CheckoutSessionStatusOpen:
		return false, refused
	}
	return session.Status == stripe.CheckoutSessionStatusComplete, nil
}

// errForeign says that a subscription buys what is not in our catalogue.
var errForeign = errors.New("its prices are not those of one plan of the catalogue")

// subscription reads what Stripe says now of a subscription and of what was paid for it.
func (s *Stripe) subscription(ctx context.Context, id string) (Subscription, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	raw, err := s.api.Subscriptions.Get(id, &stripe.SubscriptionParams{Params: params(ctx, "")})
	if err != nil {
		return Subscription{}, asked("read subscription "+id, err)
	}
	read := Subscription{
		ID: raw.ID, Status: string(raw.Status), PeriodStart: at(raw.CurrentPeriodStart), PeriodEnd: at(raw.CurrentPeriodEnd),
		CancelAtPeriodEnd: raw.CancelAtPeriodEnd, CanceledAt: atOrNil(raw.CanceledAt), EndedAt: atOrNil(raw.EndedAt),
	}
	if raw.Customer != nil {
		read.Customer = raw.Customer.ID
	}
	if raw.CancelAt != 0 && raw.CancelAt <= raw.CurrentPeriodEnd {
		read.CancelAtPeriodEnd = true
	}
	var lines []Line
	if raw.Items != nil {
		for _, item := range raw.Items.Data {
			if item.Price != nil {
				lines = append(lines, Line{Price: item.Price.ID, Quantity: item.Quantity})
			}
		}
	}
	var ok bool
	if read.Plan, read.Cycle, read.NextSeats, ok = s.catalog.Reads(lines); !ok {
		return Subscription{}, fmt.Errorf("subscription %s: %w", id, errForeign)
	}
	read.Seats = max(read.NextSeats, held(raw))
	read.Invoices, err = s.invoices(ctx, id)
	return read, err
}

// held is how many seats hold until the end of this period, whatever is paid afterwards.
func held(raw *stripe.Subscription) int {
	until, err1 := strconv.ParseInt(raw.Metadata[metaHeldUntil], 10, 64)
	seats, err2 := strconv.Atoi(raw.Metadata[metaHeld])
	if err1 != nil || err2 != nil || until != raw.CurrentPeriodEnd || seats > mostSeats {
		return 0
	}
	return seats
}

// atOnce is how many invoices are asked for at once.
const atOnce = 30

// invoices reads the newest invoices for periods, back to one whose money we have. Between two there may be any number for
// changes within a period.
func (s *Stripe) invoices(ctx context.Context, subscription string) ([]Invoice, error) {
	p := &stripe.InvoiceListParams{Subscription: new(subscription)}
	p.Context, p.Limit = ctx, stripe.Int64(atOnce)
	p.AddExpand("data.charge")
	var found []Invoice
	list := s.api.Invoices.List(p)
	settled := false
	for !settled && list.Next() {
		raw := list.Invoice()
		from, to, ok, err := s.servicePeriod(ctx, raw)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		one := Invoice{ID: raw.ID, From: from, To: to, Paid: raw.Paid, Void: raw.Status == stripe.InvoiceStatusVoid}
		if err := s.payment(ctx, raw, &one); err != nil {
			return nil, err
		}
		found = append(found, one)
		settled = one.good() // what is older says nothing any more
	}
	if err := list.Err(); err != nil {
		return nil, asked("list invoices of "+subscription, err)
	}
	return found, nil
}

// payment reads what became of an invoice's money.
func (s *Stripe) payment(ctx context.Context, raw *stripe.Invoice, one *Invoice) error {
	if raw.Charge != nil && raw.Paid {
		one.Refunded = raw.Charge.Refunded
		if raw.Charge.Disputed {
			disputed, err := s.disputed(ctx, raw.Charge.ID)
			if err != nil {
				return err
			}
			one.Disputed = disputed
		}
	}
	if one.Paid || one.Void || raw.AttemptCount == 0 || raw.PaymentIntent == nil {
		return nil
	}
	p := &stripe.ChargeListParams{PaymentIntent: new(raw.PaymentIntent.ID)}
	p.Context, p.Single = ctx, true
	p.Limit = stripe.Int64(100)
	list := s.api.Charges.List(p)
	for list.Next() {
		if c := list.Charge(); c.Status == stripe.ChargeStatusFailed {
			one.Failures = append(one.Failures, at(c.Created))
		}
	}
	slices.SortFunc(one.Failures, time.Time.Compare)
	if err := list.Err(); err != nil {
		return asked("list charges of "+raw.ID, err)
	}
	if len(one.Failures) == 0 && raw.StatusTransitions != nil && raw.StatusTransitions.FinalizedAt != 0 {
		// It failed before any charge was made: for want of a payment method.
		one.Failures = []time.Time{at(raw.StatusTransitions.FinalizedAt)}
	}
	return nil
}

// disputed is since when a charge is disputed, nil when the disputes were won.
func (s *Stripe) disputed(ctx context.Context, charge string) (since *time.Time, err error) {
	p := &stripe.DisputeListParams{Charge: new(charge)}
	p.Context, p.Single = ctx, true
	list := s.api.Disputes.List(p)
	for list.Next() {
		d := list.Dispute()
		switch d.Status {
		case stripe.DisputeStatusWon, stripe.DisputeStatusWarningClosed, stripe.DisputeStatusWarningNeedsResponse, stripe.DisputeStatusWarningUnderReview:
			continue // the money is ours, or was not taken
		}
		if opened := at(d.Created); since == nil || opened.Before(*since) {
			since = &opened
		}
	}
	return since, asked("list disputes of "+charge, list.Err())
}

// servicePeriod is the period that an invoice asks for; not ok for one that only settles a change within a period, or what was
// used. An invoice comes with its first lines alone: the others are asked for.
func (s *Stripe) servicePeriod(ctx context.Context, raw *stripe.Invoice) (from, to time.Time, ok bool, err error) {
	if raw.Lines == nil {
		return from, to, false, nil
	}
	look := func(line *stripe.InvoiceLineItem) {
		used := line.Price != nil && line.Price.Recurring != nil && line.Price.Recurring.UsageType == stripe.PriceRecurringUsageTypeMetered
		if line.Proration || used || line.Type != stripe.InvoiceLineItemTypeSubscription || line.Period == nil {
			return
		}
		if end := at(line.Period.End); !ok || end.After(to) {
			from, to, ok = at(line.Period.Start), end, true
		}
	}
	for _, line := range raw.Lines.Data {
		look(line)
	}
	if ok || !raw.Lines.HasMore {
		return from, to, ok, nil
	}
	p := &stripe.InvoiceListLinesParams{Invoice: new(raw.ID)}
	p.Context, p.Limit = ctx, stripe.Int64(100)
	all := s.api.Invoices.ListLines(p)
	for all.Next() {
		look(all.InvoiceLineItem())
	}
	return from, to, ok, asked("list the lines of "+raw.ID, all.Err())
}

// ofCharge answers whose a charge is, and of which subscription; "" for one of none.
func (s *Stripe) ofCharge(ctx context.Context, id string) (customer, subscription string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	p := &stripe.ChargeParams{Params: params(ctx, "")}
	p.AddExpand("invoice")
	raw, err := s.api.Charges.Get(id, p)
	if err != nil {
		return "", "", asked("read charge "+id, err)
	}
	if raw.Customer != nil {
		customer = raw.Customer.ID
	}
	if raw.Invoice != nil && raw.Invoice.Subscription != nil {
		subscription = raw.Invoice.Subscription.ID
	}
	return customer, subscription, nil
}

// ofInvoice is ofCharge for an invoice.
func (s *Stripe) ofInvoice(ctx context.Context, id string) (customer, subscription string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	raw, err := s.api.Invoices.Get(id, &stripe.InvoiceParams{Params: params(ctx, "")})
	if err != nil {
		return "", "", asked("read invoice "+id, err)
	}
	if raw.Customer != nil {
		customer = raw.Customer.ID
	}
	if raw.Subscription != nil {
		subscription = raw.Subscription.ID
	}
	return customer, subscription, nil
}

func at(unix int64) time.Time { return time.Unix(unix, 0).UTC() }

func atOrNil(unix int64) *time.Time {
	if unix == 0 {
		return nil
	}
	t := at(unix)
	return &t
}
