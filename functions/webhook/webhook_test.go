package webhook_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/functions/webhook"
	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/httpx/httpxtest"
	"github.com/coditect/usher/shared/platform/testenv"
)

const (
	tenant   = "01890000-0000-7000-8000-000000000001"
	customer = "cus_acme"
	secret   = "whsec_of_the_webhook"
	ring     = "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

// world is the function, as its environment opens it, beside a Stripe that is out.
type world struct {
	t       *testing.T
	db      *testenv.DB
	log     *testenv.LogCapture
	handler http.Handler
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: testenv.Postgres(t), log: testenv.Logs(t)}
	w.db.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'Acme', 'acme')`, tenant)
	w.db.Exec(t, `INSERT INTO app.billing_customers (tenant_id, id, stripe_id) VALUES ($1, gen_random_uuid(), $2)`, tenant, customer)
	stripe, err := stripesim.New(stripesim.Options{Key: "sk_test_webhook"})
	if err != nil {
		t.Fatal(err)
	}
	stripe.Fault(stripesim.Faults{Down: true})
	server := httptest.NewServer(stripe)
	t.Cleanup(server.Close)
	env := map[string]string{
		"DATABASE_URL": w.db.URL("usher_webhook"), "BUDGET_REDIS_URL": "redis://127.0.0.1:1/1", "REDIS_URL": "redis://127.0.0.1:1/0", "API_KEY_PEPPERS": ring, "LICENSE_KEY_PEPPERS": ring, "NOTIFY_KEYS": ring,
		"IDENTITY_ISSUER": "https://issuer.example", "IDENTITY_AUDIENCE": "usher-test", "STRIPE_API_KEY": "sk_test_webhook", "STRIPE_URL": server.URL,
		"STRIPE_CATALOG": "{}", "STRIPE_WEBHOOK_SECRETS": secret + ",whsec_the_one_before",
	}
	f, err := webhook.Open(t.Context(), func(name string) string { return env[name] }, w.log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	document, err := httpx.OpenAPI("webhook", "test", f.Routes)
	if err != nil {
		t.Fatal(err)
	}
	w.handler = httpxtest.Check(t, document)(httpx.New(httpx.Service{Name: "webhook", Version: "test", Log: w.log.Logger}, f.Routes...))
	return w
}

func (w *world) send(path, body string, header ...string) (status int, code string) {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), "POST", path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, r)
	var answer struct{ Code, Result string }
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil {
		w.t.Fatalf("answered %s", recorder.Body)
	}
	return recorder.Code, answer.Code + answer.Result
}

// event signs and sends an event, by a secret and at an age.
func (w *world) event(body, by string, age time.Duration) (status int, code string) {
	w.t.Helper()
	return w.send("/v1/stripe/webhook", body, "Stripe-Signature", stripesim.Sign([]byte(body), time.Now().Add(-age), by))
}

func event(kind, live string) string {
	return `{"id":"evt_1","object":"event","type":"` + kind + `","api_version":"2023-10-16","created":1,"livemode":` + live +
		`,"data":{"object":{"id":"sub_1","object":"subscription","customer":"` + customer + `"}}}`
}

func TestWhatStripeDidNotSignNowIsRefusedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := event("customer.subscription.updated", "false")
	for name, c := range map[string]struct {
		send   func() (int, string)
		status int
		code   string
	}{
		"forged":       {func() (int, string) { return w.event(good, "whsec_somebody_else", 0) }, 400, "signature_invalid"},
		"replayed":     {func() (int, string) { return w.event(good, secret, 6*time.Minute) }, 400, "signature_invalid"},
		"future-dated": {func() (int, string) { return w.event(good, secret, -2*time.Minute) }, 400, "signature_invalid"},
		"unsigned":     {func() (int, string) { return w.send("/v1/stripe/webhook", good) }, 400, "signature_invalid"},
		"no JSON":      {func() (int, string) { return w.event("{", secret, 0) }, 400, "signature_invalid"},
		"oversized": {func() (int, string) {
			return w.event(`{"id":"`+strings.Repeat("x", billing.EventLimit)+`"}`, secret, 0)
		}, 413, "body_too_large"},
		"of the other mode": {func() (int, string) { return w.event(event("customer.subscription.updated", "true"), secret, 0) }, 400, "livemode_refused"},
		"no event":          {func() (int, string) { return w.event("{}", secret, 0) }, 400, "event_invalid"},
		"of no use":         {func() (int, string) { return w.event(event("product.created", "false"), secret, 0) }, 200, "ignored"},
		"of no customer of ours": {func() (int, string) {
			return w.event(strings.Replace(good, customer, "cus_nobody", 1), secret, 0)
		}, 200, "ignored"},
	} {
		if status, code := c.send(); status != c.status || code != c.code {
			t.Errorf("%s: answered %d %s, want %d %s", name, status, code, c.status, c.code)
		}
	}
	if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.stripe_events`); n != 0 {
		t.Errorf("%d events are stored", n)
	}
	w.log.Hides(t, secret)
}

// Outcome: Stripe is told to send it again, and what failed is there to see.
func TestWithoutStripeAnEventIsToBeSentAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 2 {
		if status, code := w.event(event("customer.subscription.updated", "false"), "whsec_the_one_before", 0); status != 503 || code != "store_unavailable" {
			t.Errorf("answered %d %s", status, code)
		}
	}
	if kept := testenv.Value[string](t, w.db, `SELECT concat_ws(' ', id, type, status, attempts, subscription_id) FROM app.stripe_events`); kept != "evt_1 customer.subscription.updated failed 2 sub_1" {
		t.Errorf("kept is %s", kept)
	}
}

func TestOnlyTheOperatorReplays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for bearer, want := range map[string]string{"": "api_key_invalid", "Bearer ush_nobodys": "api_key_invalid"} {
		if status, code := w.send("/v1/stripe/events/evt_1/replay", "", "Authorization", bearer); status != 401 || code != want {
			t.Errorf("%q: answered %d %s", bearer, status, code)
		}
	}
}
