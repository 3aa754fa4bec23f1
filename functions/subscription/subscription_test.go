package subscription_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/subscription"
	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/httpx/httpxtest"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

const (
	tenant = "01890000-0000-7000-8000-000000000001"
	site   = "https://shop.example"
	key    = "sk_test_subscription"
	ring   = "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

// world is the function, as its environment opens it, without a Redis: the pools are told by the sweep.
type world struct {
	t        *testing.T
	db       *testenv.DB
	log      *testenv.LogCapture
	issuer   *localenv.Issuer
	stripe   *stripesim.Sim
	customer string
	handler  http.Handler
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: testenv.Postgres(t), log: testenv.Logs(t), issuer: testenv.Issuer(t)}
	w.db.Exec(t, `INSERT INTO app.products (code, name) VALUES ('editor', 'Editor')`)
	w.db.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('pro', 'editor', 'Pro')`)
	w.db.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'Acme', 'acme')`, tenant)
	for _, role := range []string{"owner", "admin"} {
		w.db.Exec(t, `INSERT INTO app.users (tenant_id, id, email, role, status, issuer, subject, joined_at)
			VALUES ($1, gen_random_uuid(), $2 || '@example.com', $2, 'active', $3, $2, now())`, tenant, role, w.issuer.URL())
	}
	var err error
	w.stripe, err = stripesim.New(stripesim.Options{Key: key, Coupon: "stay", Prices: []stripesim.Price{
		{ID: "price_seat", Amount: 5800, Currency: "usd", Interval: "month"},
		{ID: "price_calls", Amount: 2, Currency: "usd", Interval: "month", Meter: "calls_used"},
	}})
	w.must(err)
	server := httptest.NewServer(w.stripe)
	t.Cleanup(server.Close)
	env := map[string]string{
		"DATABASE_URL": w.db.URL("usher_subscription"), "BUDGET_REDIS_URL": "redis://127.0.0.1:1/1", "REDIS_URL": "redis://127.0.0.1:1/0", "LICENSE_KEY_PEPPERS": ring, "NOTIFY_KEYS": ring,
		"IDENTITY_ISSUER": w.issuer.URL(), "IDENTITY_AUDIENCE": "usher-test", "STRIPE_API_KEY": key, "STRIPE_URL": server.URL, "STRIPE_TIMEOUT": "1s",
		"STRIPE_CATALOG": `{"pro": {"currency": "usd", "monthly": {"seat": {"id": "price_seat", "amount": 5800},
			"metered": [{"id": "price_calls", "amount": 2, "metric": "calls", "event_name": "calls_used"}]}}}`,
		"BILLING_ORIGINS": site, "STRIPE_RETENTION_COUPON": "stay",
	}
	f, err := subscription.Open(t.Context(), func(name string) string { return env[name] }, w.log.Logger)
	w.must(err)
	t.Cleanup(f.Close)
	document, err := httpx.OpenAPI("subscription", "test", f.Routes)
	w.must(err)
	w.handler = httpxtest.Check(t, document)(httpx.New(httpx.Service{Name: "subscription", Version: "test", Log: w.log.Logger}, f.Routes...))
	return w
}

// buy makes a subscription of three seats, and of metered prices, of which the webhook has not heard yet but for its row.
func (w *world) buy(metered ...string) {
	w.t.Helper()
	api := func(path, form string) (made struct{ ID string }) {
		r := httptest.NewRequestWithContext(w.t.Context(), "POST", path, strings.NewReader(form))
		r.Header.Set("Authorization", "Bearer "+key)
		recorder := httptest.NewRecorder()
		w.stripe.ServeHTTP(recorder, r)
		w.must(json.Unmarshal(recorder.Body.Bytes(), &made))
		return made
	}
	w.customer = api("/v1/customers", "name=Acme").ID
	id := uuid.Must(uuid.NewV7())
	w.db.Exec(w.t, `INSERT INTO app.billing_customers (tenant_id, id, stripe_id) VALUES ($1, $2, $3)`, tenant, id, w.customer)
	form := "mode=subscription&success_url=x&customer=" + w.customer + "&line_items[0][price]=price_seat&line_items[0][quantity]=3"
	for i, price := range metered {
		form += fmt.Sprintf("&line_items[%d][price]=%s", i+1, price)
	}
	session := api("/v1/checkout/sessions", form)
	sub := w.stripe.Complete(session.ID, false)
	w.db.Exec(w.t, `INSERT INTO app.subscriptions (tenant_id, id, customer_id, status, plan_code, cycle, seats, next_seats, period_start, period_end, cancel_at_period_end)
		VALUES ($1, $2, $3, 'incomplete', 'pro', 'monthly', 3, 3, now(), now() + interval '1 month', false)`, tenant, sub, id)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

type answer struct {
	status int
	raw    string
	subscription.Subscription
	URL  string
	Code string
}

func (w *world) call(who, method, path, body string) answer {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), method, "/v1/subscription"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if who != "" {
		token, err := w.issuer.Token(map[string]any{"aud": "usher-test", "sub": who, "email": who + "@example.com", "email_verified": true}, time.Hour)
		w.must(err)
		r.Header.Set("Authorization", "Bearer "+token)
	}
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, r)
	a := answer{status: recorder.Code, raw: recorder.Body.String()}
	if a.status < 300 {
		w.must(json.Unmarshal(recorder.Body.Bytes(), &a))
		return a
	}
	var problem struct{ Code string } // whose status is a number
	w.must(json.Unmarshal(recorder.Body.Bytes(), &problem))
	a.Code = problem.Code
	return a
}

func (a answer) refused(t *testing.T, status int, code string) {
	t.Helper()
	if a.status != status || a.Code != code {
		t.Errorf("answered %d %s, want %d %s", a.status, a.raw, status, code)
	}
}

// licensed is what the licence says.
func (w *world) licensed() string {
	w.t.Helper()
	return testenv.Value[string](w.t, w.db, `SELECT status || ' ' || max_seats FROM app.licenses`)
}

func TestMoreSeatsAreThereAtOnceAndFewerFromTheNextPeriod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.buy()
	if a := w.call("owner", "POST", "/seats", `{"seats":5}`); a.status != 200 || a.Seats != 5 || a.Status != billing.StatusActive || w.licensed() != "active 5" {
		t.Errorf("answered %d %s, the licence is %s", a.status, a.raw, w.licensed())
	}
	if a := w.call("owner", "POST", "/seats", `{"seats":2}`); a.Seats != 5 || a.NextSeats != 2 || w.licensed() != "active 5" {
		t.Errorf("answered %s, the licence is %s", a.raw, w.licensed())
	}
	// Changed minds: what is paid is not paid again.
	paid := len(w.stripe.Find("charge", w.customer))
	if a := w.call("owner", "POST", "/seats", `{"seats":5}`); a.Seats != 5 || a.NextSeats != 5 || len(w.stripe.Find("charge", w.customer)) != paid {
		t.Errorf("answered %s, with %d payments instead of %d", a.raw, len(w.stripe.Find("charge", w.customer)), paid)
	}
	w.stripe.Card(w.customer, false)
	w.call("owner", "POST", "/seats", `{"seats":9}`).refused(t, http.StatusConflict, "payment_failed")
	if a := w.call("owner", "GET", "", ""); a.Seats != 5 || w.licensed() != "active 5" {
		t.Errorf("after declined money there is %s, the licence is %s", a.raw, w.licensed())
	}
	w.call("owner", "POST", "/seats", `{"seats":0}`).refused(t, http.StatusUnprocessableEntity, "invalid_request")
	w.log.Hides(t, key)
}

func TestASubscriptionIsCancelledResumedAndEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.call("owner", "GET", "", "").refused(t, http.StatusNotFound, "not_found")
	w.call("owner", "POST", "/cancel", "").refused(t, http.StatusNotFound, "not_found")
	w.buy()
	a := w.call("owner", "POST", "/cancel", `{"cancel_type":"at_period_end","reason":"too dear","feedback":"lovely, though"}`)
	if a.status != 200 || !a.CancelAtPeriodEnd || a.GraceUntil != nil || a.CancelReason == nil || *a.CancelReason != "too dear" || *a.CancelFeedback != "lovely, though" {
		t.Errorf("answered %d %s", a.status, a.raw)
	}
	if a := w.call("owner", "POST", "/resume", ""); a.status != 200 || a.CancelAtPeriodEnd || a.CancelReason != nil || a.GraceUntil == nil {
		t.Errorf("answered %d %s", a.status, a.raw)
	}
	if a := w.call("owner", "POST", "/portal", ""); a.status != 200 || !strings.HasPrefix(a.URL, "/portal/"+w.customer) {
		t.Errorf("answered %d %s", a.status, a.raw)
	}
	w.call("owner", "POST", "/portal", `{"return_url":"https://evil.example"}`).refused(t, http.StatusUnprocessableEntity, "invalid_request")
	if a := w.call("owner", "POST", "/cancel", `{"cancel_type":"immediate"}`); a.status != 200 || a.Status != billing.StatusCanceled || a.EndedAt == nil {
		t.Errorf("answered %d %s", a.status, a.raw)
	}
	if over := testenv.Value[bool](t, w.db, `SELECT expires_at <= now() AND grace_until IS NULL FROM app.licenses`); !over {
		t.Error("the licence goes on")
	}
	for _, verb := range []string{"/cancel", "/resume"} {
		w.call("owner", "POST", verb, "").refused(t, http.StatusConflict, "subscription_ended")
	}
}

func TestWhoCancelsAtOnceIsBilledWhatWasUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.stripe.Advance(-2 * time.Hour)
	w.buy("price_calls")
	w.stripe.Rewind()
	w.call("owner", "POST", "/seats", `{"seats":3}`) // takes in what was bought, as the webhook does
	w.db.Exec(t, `INSERT INTO app.usage_hours (tenant_id, license_id, metric, hour, quantity)
		SELECT tenant_id, id, 'calls', date_trunc('hour', now(), 'UTC'), 42 FROM app.licenses`)
	w.stripe.Fault(stripesim.Faults{Down: true})
	w.call("owner", "POST", "/cancel", `{"cancel_type":"immediate"}`).refused(t, http.StatusServiceUnavailable, "store_unavailable")
	w.stripe.Fault(stripesim.Faults{Slow: 1})
	w.db.Exec(t, `UPDATE app.usage_reports SET next_at = now() WHERE finished_at IS NULL`) // five minutes later
	if a := w.call("owner", "POST", "/cancel", `{"cancel_type":"immediate"}`); a.status != 200 || a.Status != billing.StatusCanceled {
		t.Errorf("answered %d %s", a.status, a.raw)
	}
	last := w.stripe.Get(w.stripe.Find("invoice", w.customer)[0])
	if last["total"] != 84.0 {
		t.Errorf("the last invoice is %v", last)
	}
}

func TestWhoCancelsIsOfferedADiscountOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.buy()
	a := w.call("owner", "POST", "/cancel", `{"reason":"too dear"}`)
	if a.status != 200 || !a.CancelAtPeriodEnd || a.Offer == nil || a.Offer.PercentOff != 20 || a.Offer.Duration != "repeating" || a.Offer.Months != 3 {
		t.Fatalf("answered %d %s", a.status, a.raw)
	}
	// What Stripe did and had no time to say is not done twice.
	w.stripe.Fault(stripesim.Faults{Lose: 1})
	w.call("owner", "POST", "/cancel", `{"accept_offer":true}`).refused(t, http.StatusServiceUnavailable, "store_unavailable")
	if a := w.call("owner", "POST", "/cancel", `{"accept_offer":true}`); a.status != 200 || a.CancelAtPeriodEnd || a.Offer != nil || a.CancelReason != nil {
		t.Errorf("answered %d %s", a.status, a.raw)
	}
	w.call("owner", "POST", "/cancel", `{"accept_offer":true}`).refused(t, http.StatusConflict, "no_offer")
	if a := w.call("owner", "POST", "/cancel", ""); a.status != 200 || !a.CancelAtPeriodEnd || a.Offer != nil {
		t.Errorf("a second cancellation was answered %d %s", a.status, a.raw)
	}
}

func TestOnlyOwnersSeeAndChangeTheSubscription(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, at := range [][2]string{{"GET", ""}, {"POST", "/seats"}, {"POST", "/cancel"}, {"POST", "/resume"}, {"POST", "/portal"}} {
		w.call("", at[0], at[1], "").refused(t, http.StatusUnauthorized, "id_token_missing")
		w.call("admin", at[0], at[1], "").refused(t, http.StatusForbidden, "forbidden")
		w.call("stranger", at[0], at[1], "").refused(t, http.StatusForbidden, "membership_missing")
	}
}

func TestWithoutStripeNothingChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.buy()
	for _, f := range []stripesim.Faults{{Down: true}, {Hang: true}} {
		w.stripe.Fault(f)
		w.call("owner", "POST", "/seats", `{"seats":5}`).refused(t, http.StatusServiceUnavailable, "store_unavailable")
		w.call("owner", "POST", "/cancel", "").refused(t, http.StatusServiceUnavailable, "store_unavailable")
	}
	w.stripe.Fault(stripesim.Faults{})
	if a := w.call("owner", "GET", "", ""); a.status != 200 || a.Seats != 3 || a.CancelAtPeriodEnd {
		t.Errorf("there is %s", a.raw)
	}
	// What Stripe did and had no time to say is taken in with the repetition.
	w.stripe.Fault(stripesim.Faults{Lose: 1})
	w.call("owner", "POST", "/seats", `{"seats":5}`).refused(t, http.StatusServiceUnavailable, "store_unavailable")
	paid := len(w.stripe.Find("charge", w.customer))
	if a := w.call("owner", "POST", "/seats", `{"seats":5}`); a.status != 200 || a.Seats != 5 || len(w.stripe.Find("charge", w.customer)) != paid {
		t.Errorf("answered %d %s", a.status, a.raw)
	}
}
