package checkout_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coditect/usher/functions/checkout"
	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/httpx/httpxtest"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

const (
	audience = "usher-test"
	site     = "https://shop.example"
	tenant   = "01890000-0000-7000-8000-000000000001"
	key      = "sk_test_checkout"
)

type world struct {
	t       *testing.T
	db      *testenv.DB
	log     *testenv.LogCapture
	issuer  *localenv.Issuer
	stripe  *stripesim.Sim
	handler http.Handler
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
	w.stripe, err = stripesim.New(stripesim.Options{Key: key, Prices: []stripesim.Price{{ID: "price_seat", Amount: 5800, Currency: "usd", Interval: "month"}}})
	w.must(err)
	server := httptest.NewServer(w.stripe)
	t.Cleanup(server.Close)
	var catalog billing.Catalog
	w.must(catalog.UnmarshalText([]byte(`{"pro": {"currency": "usd", "monthly": {"seat": {"id": "price_seat", "amount": 5800}}}, "enterprise": {"by_invoice": true}}`)))
	stripe, err := billing.NewStripe(billing.Config{APIKey: config.Secret(key), URL: server.URL, Timeout: time.Second, Catalog: catalog})
	w.must(err)
	db, err := tenancy.OpenURL(t.Context(), w.db.URL("usher_checkout"), tenancy.Config{Timeout: 9 * time.Second}, w.log.Logger)
	w.must(err)
	t.Cleanup(db.Close)
	d := checkout.Deps{
		DB: db, Desk: &billing.Desk{DB: db, Stripe: stripe}, Origins: billing.Origins{site}, Log: w.log.Logger,
		People: identity.NewPeople(identity.NewIDTokens(identity.IDTokenConfig{Issuer: w.issuer.URL(), Audience: audience}, time.Now), db),
	}
	document, err := httpx.OpenAPI("checkout", "test", checkout.Routes(d))
	w.must(err)
	w.handler = httpxtest.Check(t, document)(checkout.New(d))
	return w
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
	checkout.Answer
	Code   string
	Errors []struct{ Field, Code string }
}

func (w *world) order(who, idempotency string, changes ...any) answer {
	w.t.Helper()
	body := map[string]any{"plan": "pro", "cycle": "monthly", "seats": 3, "success_url": site + "/thanks", "cancel_url": site + "/"}
	for i := 0; i < len(changes); i += 2 {
		body[changes[i].(string)] = changes[i+1]
	}
	text, err := json.Marshal(body)
	w.must(err)
	r := httptest.NewRequestWithContext(w.t.Context(), "POST", "/v1/checkout", strings.NewReader(string(text)))
	r.Header.Set("Content-Type", "application/json")
	if who != "" {
		token, err := w.issuer.Token(map[string]any{"aud": audience, "sub": who, "email": who + "@example.com", "email_verified": true}, time.Hour)
		w.must(err)
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if idempotency != "" {
		r.Header.Set("Idempotency-Key", idempotency)
	}
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, r)
	a := answer{status: recorder.Code, raw: recorder.Body.String()}
	w.must(json.Unmarshal(recorder.Body.Bytes(), &a))
	return a
}

func (a answer) refused(t *testing.T, status int, code string) {
	t.Helper()
	if a.status != status || a.Code != code {
		t.Errorf("answered %d %s, want %d %s", a.status, a.raw, status, code)
	}
}

func (w *world) open() (open []string) {
	for _, id := range w.stripe.Find("checkout.session", "") {
		if w.stripe.Get(id)["status"] == "open" {
			open = append(open, id)
		}
	}
	return open
}

func TestAnOwnerIsSentToPayForWhatIsForSale(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.order("owner", "")
	if open := w.open(); a.status != http.StatusCreated || len(open) != 1 || a.CheckoutURL != "/pay/"+open[0] {
		t.Fatalf("answered %d %s; open are %v", a.status, a.raw, open)
	}
	session := w.stripe.Get(w.open()[0])
	if fmt.Sprint(session["metadata"]) != "map[cycle:monthly plan:pro seats:3 tenant_id:"+tenant+"]" || session["amount_total"] != 17400.0 {
		t.Errorf("the session is %v", session)
	}
	// A second order closes the first page, and is of the same customer.
	if b := w.order("owner", ""); b.status != http.StatusCreated || b.CheckoutURL == a.CheckoutURL || len(w.open()) != 1 || len(w.stripe.Find("customer", "")) != 1 {
		t.Errorf("answered %d %s; open are %v", b.status, b.raw, w.open())
	}
	// What is paid and not yet heard of counts.
	w.stripe.Complete(w.open()[0], false)
	w.order("owner", "").refused(t, http.StatusConflict, "already_subscribed")
	if open := w.open(); len(open) != 0 {
		t.Errorf("open are %v", open)
	}
	w.log.Hides(t, key)
}

func TestWhoMayNotBuyAndWhatIsNotForSaleIsRefusedBeforeStripeHearsOfIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.order("", "").refused(t, http.StatusUnauthorized, "id_token_missing")
	w.order("admin", "").refused(t, http.StatusForbidden, "forbidden")
	w.order("stranger", "").refused(t, http.StatusForbidden, "membership_missing")
	for _, c := range []struct {
		field string
		value any
		want  string
	}{
		{"plan", "free", "plan not_allowed"},
		{"plan", "enterprise", "plan not_allowed"},
		{"cycle", "annual", "cycle not_allowed"},
		{"seats", 0, "seats out_of_range"},
		{"success_url", "https://evil.example/", "success_url not_allowed"},
		{"success_url", site + ".evil.example/", "success_url not_allowed"},
		{"cancel_url", "https://shop.example@evil.example/", "cancel_url not_allowed"},
		{"cancel_url", "javascript:alert(1)", "cancel_url not_allowed"},
	} {
		a := w.order("owner", "", c.field, c.value)
		if a.status != http.StatusUnprocessableEntity || len(a.Errors) != 1 || a.Errors[0].Field != strings.Fields(c.want)[0] {
			t.Errorf("%s=%v: answered %d %s, want %s", c.field, c.value, a.status, a.raw, c.want)
		}
	}
	if n := len(w.stripe.Find("customer", "")); n != 0 {
		t.Errorf("%d customers were made", n)
	}
}

// Outcome: a 503 in time, nothing half made, and with the retry one customer and one session, the same whatever was lost.
func TestWithoutStripeTheRetryUnderTheSameKeyCompletes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, f := range []stripesim.Faults{{Down: true}, {Hang: true}, {Lose: 1}, {Lose: 1}} {
		w.stripe.Fault(f)
		begin := time.Now()
		w.order("owner", "k1").refused(t, http.StatusServiceUnavailable, "store_unavailable")
		if took := time.Since(begin); took > 9*time.Second {
			t.Errorf("%+v: answered after %s", f, took)
		}
	}
	w.stripe.Fault(stripesim.Faults{})
	a := w.order("owner", "k1")
	if b := w.order("owner", "k1"); a.status != http.StatusCreated || b.raw != a.raw {
		t.Errorf("answered %d %s, then %d %s", a.status, a.raw, b.status, b.raw)
	}
	if customers, sessions := w.stripe.Find("customer", ""), w.stripe.Find("checkout.session", ""); len(customers) != 1 || len(sessions) != 1 {
		t.Errorf("customers %v, sessions %v", customers, sessions)
	}
	w.order("owner", "k1", "seats", 4).refused(t, http.StatusUnprocessableEntity, "idempotency_key_reused")
}

func TestOfOrdersAtOnceOnePageStaysOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			if a := w.order("owner", ""); a.status != http.StatusCreated && a.status != http.StatusServiceUnavailable {
				t.Errorf("answered %d %s", a.status, a.raw)
			}
		})
	}
	all.Wait()
	if open := w.open(); len(open) != 1 || len(w.stripe.Find("customer", "")) != 1 {
		t.Errorf("open are %v, of customers %v", open, w.stripe.Find("customer", ""))
	}
}
