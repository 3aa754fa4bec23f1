package meter_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/meter"
	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheSchedulerHasUsageReportedAndIsToldInNumbers(t *testing.T) {
	t.Parallel()
	const key, audience, email = "sk_test_meter", "https://meter.usher.test", "scheduler@usher.test"
	pg, issuer, log := testenv.Postgres(t), testenv.Issuer(t), testenv.Logs(t)
	sim, err := stripesim.New(stripesim.Options{Key: key, Prices: []stripesim.Price{{ID: "price_calls", Amount: 1, Currency: "usd", Interval: "month", Meter: "calls_used"}}})
	must(t, err)
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	var catalog billing.Catalog
	must(t, catalog.UnmarshalText([]byte(`{"team": {"currency": "usd", "monthly": {"base": {"id": "price_base", "amount": 1},
		"metered": [{"id": "price_calls", "amount": 1, "metric": "calls", "event_name": "calls_used"}]}}}`)))
	stripe, err := billing.NewStripe(billing.Config{APIKey: config.Secret(key), URL: server.URL, Timeout: 4 * time.Second, Catalog: catalog})
	must(t, err)
	db, err := tenancy.OpenURL(t.Context(), pg.URL("usher_meter"), tenancy.Config{Timeout: 5 * time.Second}, log.Logger)
	must(t, err)
	t.Cleanup(db.Close)
	door := functiontest.NewDoor(t, meter.Routes(meter.Deps{
		Meter:     billing.NewMeter(billing.MeterDeps{DB: db, Stripe: stripe, Log: log.Logger}),
		Scheduler: identity.NewScheduler(identity.SchedulerConfig{Issuer: issuer.URL(), Audience: audience, Email: email}, time.Now), Log: log.Logger,
	}), log.Logger)
	token := func(account string) string {
		signed, err := issuer.Token(map[string]any{"aud": audience, "sub": "1", "email": account, "email_verified": true}, time.Minute)
		must(t, err)
		return signed
	}
	pg.Exec(t, `INSERT INTO app.products (code, name) VALUES ('editor', 'Editor')`)
	pg.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('team', 'editor', 'Team')`)
	pg.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ('0191d000-0000-7000-8000-000000000001', 'Acme', 'acme')`)
	pg.Exec(t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, ttl_seconds, seat_per, offline_grace_seconds, drain_seconds)
		SELECT id, id, 'editor', 'team', 5, 60, 'device', 0, 0 FROM app.tenants`)
	pg.Exec(t, `INSERT INTO app.billing_customers (tenant_id, id, stripe_id) SELECT id, id, 'cus_gone' FROM app.tenants`)
	pg.Exec(t, `INSERT INTO app.subscriptions (tenant_id, id, customer_id, license_id, status, plan_code, cycle, seats, next_seats, period_start, period_end, cancel_at_period_end)
		SELECT id, 'sub_1', id, id, 'active', 'team', 'monthly', 5, 5, now() - interval '20 days', now() + interval '10 days', false FROM app.tenants`)
	pg.Exec(t, `INSERT INTO app.usage_hours (tenant_id, license_id, metric, hour, quantity)
		SELECT id, id, m, date_trunc('hour', now(), 'UTC') - interval '3 hours', 7 FROM app.tenants, unnest(ARRAY['calls', 'clicks']) m`)

	for _, bearer := range []string{"", "ush_something", token("somebody@usher.test")} {
		door.Send(t, functiontest.Message{Token: bearer, Body: `{"unknown":1}`}).Want(t, http.StatusUnauthorized, "scheduler_token_invalid")
	}
	door.Send(t, functiontest.Message{Token: token(email), Body: `{"unknown":1}`}).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	run := func() meter.Answer {
		t.Helper()
		return functiontest.Read[meter.Answer](t, door.Send(t, functiontest.Message{Token: token(email)}).Want(t, http.StatusOK))
	}
	// Stripe knows no such customer: what it refuses is in the numbers, in the log, and in the row.
	if got := run(); got.Reported != 1 || got.Unpriced != 1 || got.Refused != 1 || !got.Complete {
		t.Errorf("with an unknown customer: %+v", got)
	}
	if row := testenv.Value[string](t, pg, `SELECT status || ' ' || (error LIKE '%cus_gone%')::text FROM app.usage_reports`); row != "pending true" {
		t.Errorf("the report is %s", row)
	}
	// It is out: the scheduler is told to come again, and nothing is lost.
	server.Close()
	pg.Exec(t, `UPDATE app.usage_reports SET next_at = now()`)
	if r := door.Send(t, functiontest.Message{Token: token(email)}).Want(t, http.StatusServiceUnavailable, "store_unavailable"); r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if row := testenv.Value[string](t, pg, `SELECT string_agg(status || ' ' || quantity, ',') FROM app.usage_reports`); row != "sent 7" {
		t.Errorf("the report is %s", row)
	}
	log.Hides(t, key)
}
