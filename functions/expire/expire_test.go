package expire_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/expire"
	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/httpx/httpxtest"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

const (
	tenant    = "01890000-0000-7000-8000-000000000001"
	audience  = "https://expire.example"
	scheduler = "scheduler@example.com"
	key       = "sk_test_expire"
	ring      = "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

// world is the function, as its environment opens it, without a Redis: the pools are told by the sweep.
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
	w.db.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('free', 'editor', 'Free')`)
	w.db.Exec(t, `INSERT INTO app.plans (code, product_code, name, max_seats, trial_falls_to) VALUES ('pro', 'editor', 'Pro', 5, 'free')`)
	w.db.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'Acme', 'acme')`, tenant)
	w.db.Exec(t, `INSERT INTO app.users (tenant_id, id, email, role, status, issuer, subject, joined_at)
		VALUES ($1, gen_random_uuid(), 'olivia@example.com', 'owner', 'active', 'x', 'olivia', now())`, tenant)
	var err error
	w.stripe, err = stripesim.New(stripesim.Options{Key: key, Prices: []stripesim.Price{
		{ID: "price_seat", Amount: 5800, Currency: "usd", Interval: "month"},
		{ID: "price_calls", Amount: 1, Currency: "usd", Interval: "month", Meter: "calls_used"},
		{ID: "price_pages", Amount: 1, Currency: "usd", Interval: "month", UsageRecords: true},
	}})
	w.must(err)
	server := httptest.NewServer(w.stripe)
	t.Cleanup(server.Close)
	env := map[string]string{
		"DATABASE_URL": w.db.URL("usher_expire"), "REDIS_URL": "redis://127.0.0.1:1/0", "LICENSE_KEY_PEPPERS": ring, "NOTIFY_KEYS": ring,
		"STRIPE_API_KEY": key, "STRIPE_URL": server.URL, "STRIPE_TIMEOUT": "1s",
		"STRIPE_CATALOG": `{"pro": {"currency": "usd", "monthly": {"seat": {"id": "price_seat", "amount": 5800},
			"metered": [{"id": "price_pages", "amount": 1, "metric": "pages", "usage_records": true}]}}}`,
		"SCHEDULER_ISSUER": w.issuer.URL(), "SCHEDULER_AUDIENCE": audience, "SCHEDULER_EMAIL": scheduler,
	}
	f, err := expire.Open(t.Context(), func(name string) string { return env[name] }, w.log.Logger)
	w.must(err)
	t.Cleanup(f.Close)
	document, err := httpx.OpenAPI("expire", "test", f.Routes)
	w.must(err)
	w.handler = httpxtest.Check(t, document)(httpx.New(httpx.Service{Name: "expire", Version: "test", Log: w.log.Logger}, f.Routes...))
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// run calls the function as the scheduler does.
func (w *world) run(want int) expire.Answer {
	w.t.Helper()
	token, err := w.issuer.Token(map[string]any{"aud": audience, "sub": "s", "email": scheduler, "email_verified": true}, time.Hour)
	w.must(err)
	r := httptest.NewRequestWithContext(w.t.Context(), "POST", "/tasks/expire", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, r)
	if recorder.Code != want {
		w.t.Fatalf("answered %d %s", recorder.Code, recorder.Body)
	}
	var a expire.Answer
	if want == 200 {
		w.must(json.Unmarshal(recorder.Body.Bytes(), &a))
	}
	return a
}

// license makes one that ends after so long; "" is never.
func (w *world) license(ends, grace string, onTrial bool) uuid.UUID {
	w.t.Helper()
	id := uuid.Must(uuid.NewV7())
	w.db.Exec(w.t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, ttl_seconds, seat_per, offline_grace_seconds, drain_seconds, expires_at, grace_until, on_trial)
		VALUES ($1, $2, 'editor', 'pro', 5, 360, 'device', 86400, 86400, now() + nullif($3, '')::interval, now() + nullif($4, '')::interval, $5)`, tenant, id, ends, grace, onTrial)
	return id
}

// mails are those that were queued since the last look, by licence.
func (w *world) mails(names map[uuid.UUID]string) string {
	w.t.Helper()
	var all []string
	for id, name := range names {
		for _, m := range testenv.Values[string](w.t, w.db, `SELECT kind || coalesce(' ' || (data->>'days'), '') FROM app.mails WHERE key LIKE '%' || $1 || '%' ORDER BY created_at, kind`, id) {
			all = append(all, name+": "+m)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func TestEachNoticeOfAnEndIsGivenOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	names := map[uuid.UUID]string{
		w.license("29 days 12:00", "", false): "month", w.license("6 days 12:00", "", false): "week", w.license("20:00", "", false): "day",
		w.license("-1:00", "", false): "over", w.license("-1:00", "2 days", false): "grace", w.license("31 days", "", false): "later",
		w.license("", "", false): "never", w.license("-40 days", "", false): "long over",
	}
	renewing, ending := w.license("6 days 12:00", "", false), w.license("6 days 12:00", "", false)
	names[renewing], names[ending] = "renewing", "cancelled"
	customer := uuid.Must(uuid.NewV7())
	w.db.Exec(t, `INSERT INTO app.billing_customers (tenant_id, id) VALUES ($1, $2)`, tenant, customer)
	for l, cancelled := range map[uuid.UUID]bool{renewing: false, ending: true} {
		w.db.Exec(t, `INSERT INTO app.subscriptions (tenant_id, id, customer_id, license_id, status, plan_code, cycle, seats, next_seats, period_start, period_end, cancel_at_period_end)
			VALUES ($1, $2, $3, $4, 'active', 'pro', 'monthly', 1, 1, now(), now(), $5)`, tenant, "sub_"+l.String(), customer, l, cancelled)
	}
	if a := w.run(200); a.Noticed != 6 || a.Stripe.Unsettled != 2 {
		t.Errorf("did %+v", a)
	}
	want := "cancelled: renewal_notice 7 days, day: renewal_notice a day, grace: renewal_notice a day, month: renewal_notice 30 days, over: license_expired, week: renewal_notice 7 days"
	if have := w.mails(names); have != want {
		t.Errorf("mails are\n%s, want\n%s", have, want)
	}
	if a := w.run(200); a.Noticed != 0 || a.Stripe.Compared+a.Stripe.Unsettled != 2 {
		t.Errorf("the second run did %+v", a)
	}
	// A date that moves is another end.
	w.db.Exec(t, `SELECT set_config('app.current_tenant_id', '`+tenant+`', true); UPDATE app.licenses SET expires_at = now() + interval '12 hours' WHERE expires_at > now() + interval '25 days'`)
	if a := w.run(200); a.Noticed != 2 {
		t.Errorf("after a move it did %+v", a)
	}
}

func TestATrialIsRemindedOfAndFallsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	names := map[uuid.UUID]string{}
	for name, ends := range map[string]string{"early": "4 days", "three": "2 days 12:00", "one": "20:00", "over": "-1:00"} {
		id := w.license(ends, ends, true)
		names[id] = name
		w.db.Exec(t, `INSERT INTO app.trials (tenant_id, license_id, product_code, falls_to, email_hash, hardware_hash)
			VALUES ($1, $2, 'editor', 'free', sha256($3), sha256($3))`, tenant, id, []byte(name))
	}
	if a := w.run(200); a.Reminded != 2 || a.Fallen != 1 || a.Noticed != 0 {
		t.Errorf("did %+v", a)
	}
	if have := w.mails(names); have != "one: trial_ending a day, over: trial_ended, three: trial_ending 3 days" {
		t.Errorf("mails are %s", have)
	}
	if a := w.run(200); a.Reminded+a.Fallen != 0 {
		t.Errorf("the second run did %+v", a)
	}
	if fallen := testenv.Values[string](t, w.db, `SELECT concat_ws(' ', plan_code, max_seats, status, expires_at, grace_until, on_trial) FROM app.licenses WHERE plan_code = 'free'`); fmt.Sprint(fallen) != "[free 1 active f]" {
		t.Errorf("fallen are %v", fallen)
	}
}

// api asks Stripe for something as its owner would.
func (w *world) api(path, form string) string {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), "POST", path, strings.NewReader(form))
	r.Header.Set("Authorization", "Bearer "+key)
	recorder := httptest.NewRecorder()
	w.stripe.ServeHTTP(recorder, r)
	var made struct{ ID string }
	w.must(json.Unmarshal(recorder.Body.Bytes(), &made))
	return made.ID
}

// Outcome: not one event has come, and what was sold is what was paid.
func TestWithoutAnyEventWhatWasSoldAgreesWithStripeByTheMorning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	customer := w.api("/v1/customers", "name=Acme")
	w.db.Exec(t, `INSERT INTO app.billing_customers (tenant_id, id, stripe_id) VALUES ($1, gen_random_uuid(), $2)`, tenant, customer)
	session := w.api("/v1/checkout/sessions", "mode=subscription&success_url=x&customer="+customer+"&line_items[0][price]=price_seat&line_items[0][quantity]=3&line_items[1][price]=price_pages")
	w.stripe.Advance(-24 * time.Hour)
	sub := w.stripe.Complete(session, false)
	w.stripe.Rewind()
	licensed := func() string {
		return fmt.Sprint(testenv.Values[string](t, w.db, `SELECT concat_ws(' ', status, status_reason, max_seats) FROM app.licenses`))
	}

	w.stripe.Fault(stripesim.Faults{Down: true})
	w.run(503)
	w.stripe.Fault(stripesim.Faults{})
	if a := w.run(200); a.Stripe.Compared != 1 || a.Stripe.Repaired != 1 || !a.Stripe.Whole || licensed() != "[active 3]" {
		t.Errorf("unheard of: did %+v, licences are %s", a, licensed())
	}
	if a := w.run(200); a.Stripe.Compared != 1 || a.Stripe.Repaired != 0 {
		t.Errorf("as it should be: did %+v", a)
	}

	// What Stripe took in and dropped later is noticed: its meter has less than was reported.
	hour := time.Now().UTC().Truncate(time.Hour).Add(-5 * time.Hour)
	for _, at := range []time.Time{hour, hour.Add(time.Hour)} {
		w.api("/v1/billing/meter_events", fmt.Sprintf("event_name=calls_used&identifier=%d&timestamp=%[1]d&payload[stripe_customer_id]=%s&payload[value]=7", at.Add(59*time.Minute).Unix(), customer))
		w.db.Exec(t, `INSERT INTO app.usage_hours (tenant_id, license_id, metric, hour, quantity, settled) SELECT $1, license_id, 'calls', $2, 7, 7 FROM app.subscriptions`, tenant, at)
		w.db.Exec(t, `INSERT INTO app.usage_reports (tenant_id, id, license_id, metric, hour, quantity, customer, event_name, status, sent_at, finished_at)
			SELECT $1, gen_random_uuid(), license_id, 'calls', $2, 7, $3, 'calls_used', 'acknowledged', now() - interval '3 hours', now() - interval '3 hours' FROM app.subscriptions`, tenant, at, customer)
	}
	if a := w.run(200); a.Stripe.MeterDifferences != 0 {
		t.Errorf("meters that agree: did %+v", a)
	}
	w.stripe.Forget("calls_used", hour, hour.Add(time.Hour))
	if a := w.run(200); a.Stripe.MeterDifferences != 1 || a.Stripe.Unsettled != 0 || !strings.Contains(w.log.Text(), `"at_stripe":7,"reported":14`) {
		t.Errorf("a meter that lost an event: did %+v", a)
	}

	// So are usage records: those of the period that runs.
	item := w.stripe.Get(sub)["items"].(map[string]any)["data"].([]any)[1].(map[string]any)["id"]
	w.api(fmt.Sprintf("/v1/subscription_items/%s/usage_records", item), fmt.Sprintf("action=set&quantity=5&timestamp=%d", hour.Add(time.Hour-time.Second).Unix()))
	w.db.Exec(t, `INSERT INTO app.usage_hours (tenant_id, license_id, metric, hour, quantity, settled) SELECT $1, license_id, 'pages', $2, 5, 5 FROM app.subscriptions`, tenant, hour)
	w.db.Exec(t, `INSERT INTO app.usage_reports (tenant_id, id, license_id, metric, hour, quantity, customer, event_name, subscription_id, told_at, status, sent_at, finished_at)
		SELECT tenant_id, gen_random_uuid(), license_id, 'pages', $1, 5, $2, 'price_pages', id, $1::timestamptz + interval '3599 s', 'acknowledged', now() - interval '3 hours', now() - interval '3 hours'
		  FROM app.subscriptions`, hour, customer)
	if a := w.run(200); a.Stripe.MeterDifferences != 1 {
		t.Errorf("records that agree: did %+v", a)
	}
	w.stripe.Forget("price_pages", hour, hour.Add(time.Hour))
	if a := w.run(200); a.Stripe.MeterDifferences != 2 || a.Stripe.Unsettled != 0 || !strings.Contains(w.log.Text(), `"price":"price_pages","at_stripe":0,"reported":5`) {
		t.Errorf("records that are lost: did %+v", a)
	}

	w.stripe.Refund(customer, 0)
	if a := w.run(200); a.Stripe.Repaired != 1 || licensed() != "[suspended payment_refunded 3]" {
		t.Errorf("refunded: did %+v, licences are %s", a, licensed())
	}

	// An event that failed is taken in again, when it is not just now that it did.
	w.db.Exec(t, `INSERT INTO app.stripe_events (tenant_id, id, type, api_version, object_id, subscription_id, status, error, created_at, handled_at)
		VALUES ($1, 'evt_1', 'invoice.paid', '2023-10-16', 'in_1', $2, 'failed', 'it failed', now(), now() - interval '1 hour')`, tenant, sub)
	if a := w.run(200); a.Stripe.Retried != 1 || testenv.Value[string](t, w.db, `SELECT status FROM app.stripe_events`) != "done" {
		t.Errorf("a failed event: did %+v", a)
	}
}

func TestMonthsOfHistoryAreDroppedWhenAllOfThemIsOld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, month := range []string{"2020-01", "2020-02"} {
		from, err := time.Parse("2006-01", month)
		w.must(err)
		w.db.Exec(t, fmt.Sprintf(`CREATE TABLE app.ended_sessions_%s PARTITION OF app.ended_sessions FOR VALUES FROM ('%s') TO ('%s')`,
			strings.ReplaceAll(month, "-", "_"), from.Format(time.RFC3339), from.AddDate(0, 1, 0).Format(time.RFC3339)))
	}
	w.db.Exec(t, `ALTER TABLE app.ended_sessions_2020_01 OWNER TO usher_owner; ALTER TABLE app.ended_sessions_2020_02 OWNER TO usher_owner;
		SELECT app.make_history_partitions(1)`)
	if a := w.run(200); a.MonthsDropped != 2 {
		t.Errorf("did %+v", a)
	}
	if left := testenv.Value[int64](t, w.db, `SELECT count(*) FROM pg_inherits WHERE inhparent = 'app.ended_sessions'::regclass`); left != 2 {
		t.Errorf("%d partitions are left, want next month's and the default", left)
	}
}

func TestATenantWhoseOldActsCannotBeDroppedKeepsNobodyElses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.Exec(t, `CREATE TABLE app.audit_entries_2020_01 PARTITION OF app.audit_entries FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z');
		ALTER TABLE app.audit_entries_2020_01 OWNER TO usher_owner`)
	const first = "00000000-0000-7000-8000-000000000000" // in order, as tenants are taken
	w.db.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'First', 'first')`, first)
	w.db.Exec(t, `INSERT INTO app.audit_chains (tenant_id, seq) SELECT id, 3 FROM app.tenants`)
	w.db.Exec(t, `INSERT INTO app.audit_entries (tenant_id, at, seq, action, outcome, actor, by_operator, credential, address, subject, request_id, details, previous, hash)
		SELECT c.tenant_id, '2020-01-05Z', n, 'x.y', 'done', 'a', false, '', '', 's', '', '{}', sha256(''), sha256('') FROM app.audit_chains c, generate_series(1, 3) n`)
	w.db.Exec(t, `UPDATE app.audit_chains SET seq = 2 WHERE tenant_id = $1`, first) // somebody took its head back
	w.run(500)
	left := func() []string {
		return testenv.Values[string](t, w.db, `SELECT tenant_id::text FROM app.audit_entries GROUP BY tenant_id`)
	}
	if have := left(); !slices.Equal(have, []string{first}) {
		t.Errorf("entries are left of %q", have)
	}
	if start := testenv.Value[int64](t, w.db, `SELECT start_seq FROM app.audit_chains WHERE tenant_id <> $1`, first); start != 3 {
		t.Errorf("the other's chain starts at %d", start)
	}
	w.db.Exec(t, `UPDATE app.audit_chains SET seq = 3`)
	if a := w.run(200); a.AuditEntriesDropped != 3 || a.AuditMonthsDropped != 1 || len(left()) != 0 {
		t.Errorf("did %+v, and entries are left of %q", a, left())
	}
}
