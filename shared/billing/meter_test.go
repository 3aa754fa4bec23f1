package billing_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/metering"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// buyer is a tenant that pays for calls and pages, and for clicks not.
type buyer struct {
	tenant, license uuid.UUID
	customer        string
}

// metered is a database, a Stripe with two meters, and a meter between them that can be killed.
type metered struct {
	t      *testing.T
	db     *testenv.DB
	log    *testenv.LogCapture
	usage  *tenancy.DB
	sim    *stripesim.Sim
	wire   *testenv.Wire // to PostgreSQL
	url    string        // of Stripe
	stripe *billing.Stripe
	buyers []buyer

	mu    sync.Mutex
	step  string // at which the meter dies, for the nth time that it comes there; "": it lives
	nth   int
	dead  bool
	steps map[string]int // at which it died, and how often
}

var meteredPrices = append(slices.Clone(prices), stripesim.Price{ID: "price_calls", Amount: 2, Currency: "usd", Interval: "month", Meter: "calls_used"},
	stripesim.Price{ID: "price_pages", Amount: 3, Currency: "usd", Interval: "month", Meter: "pages_used"},
	stripesim.Price{ID: "price_overdraft", Amount: 7, Currency: "usd", Interval: "month", Meter: "overdraft_seat_hours_used"})

const meteredCatalog = `{"team": {"included_seats": 5, "currency": "usd", "monthly": {
	"base": {"id": "price_base", "amount": 29000}, "metered": [
	    {"id": "price_calls", "amount": 2, "metric": "calls", "event_name": "calls_used"},
	    {"id": "price_pages", "amount": 3, "metric": "pages", "event_name": "pages_used"},
	    {"id": "price_overdraft", "amount": 7, "metric": "overdraft_seat_hours", "event_name": "overdraft_seat_hours_used"}]}}}`

// withRecords are the same prices in Stripe's older form.
var withRecords = []stripesim.Price{
	prices[0],
	{ID: "price_calls", Amount: 2, Currency: "usd", Interval: "month", UsageRecords: true},
	{ID: "price_pages", Amount: 3, Currency: "usd", Interval: "month", UsageRecords: true},
	{ID: "price_overdraft", Amount: 7, Currency: "usd", Interval: "month", UsageRecords: true},
}

var recordsCatalog = strings.NewReplacer(`"event_name": "calls_used"`, `"usage_records": true`, `"event_name": "pages_used"`, `"usage_records": true`,
	`"event_name": "overdraft_seat_hours_used"`, `"usage_records": true`).Replace(meteredCatalog)

// has is what Stripe has of a metric of a buyer's within [from, to), in either form.
func (w *metered) has(b buyer, metric string, from, to time.Time) int64 {
	price := map[string]string{"calls": "price_calls", "pages": "price_pages", metering.OverdraftSeatHours: "price_overdraft"}[metric]
	return w.sim.Used(b.customer, metric+"_used", from, to) + w.sim.Used(b.customer, price, from, to)
}

func newMetered(t *testing.T, buyers int) *metered {
	t.Helper()
	return newMeteredBy(t, buyers, meteredPrices, meteredCatalog, 20*24*time.Hour)
}

// newMeteredBy has buyers whose period began a while ago.
func newMeteredBy(t *testing.T, buyers int, prices []stripesim.Price, catalog string, ago time.Duration) *metered {
	t.Helper()
	w := &metered{t: t, db: testenv.Postgres(t), log: testenv.Logs(t), steps: map[string]int{}}
	w.db.Exec(t, `INSERT INTO app.products (code, name) VALUES ('editor', 'Editor')`)
	w.db.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('team', 'editor', 'Team')`)
	w.db.Exec(t, `INSERT INTO app.plan_metrics (plan_code, metric) VALUES ('team', 'calls'), ('team', 'pages'), ('team', 'clicks')`)
	var err error
	w.usage, err = tenancy.OpenURL(t.Context(), w.db.URL("usher_usage"), tenancy.Config{Timeout: 9 * time.Second, MaxConns: 4}, w.log.Logger)
	must(t, err)
	t.Cleanup(w.usage.Close)
	w.sim, err = stripesim.New(stripesim.Options{Key: key, Prices: prices})
	must(t, err)
	w.sim.Advance(-ago)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !w.lives("ask Stripe, false") {
			panic(http.ErrAbortHandler)
		}
		recorder := httptest.NewRecorder()
		w.sim.ServeHTTP(recorder, r)
		if !w.lives("ask Stripe, true") {
			panic(http.ErrAbortHandler)
		}
		rw.WriteHeader(recorder.Code)
		_, _ = rw.Write(recorder.Body.Bytes())
	}))
	t.Cleanup(server.Close)
	w.url = server.URL
	w.stripe = w.client(w.url, catalog)
	w.wire = testenv.NewPostgresTap(t, w.db.Socket(), func(sql string) string {
		for step, part := range statements {
			if strings.Contains(sql, part) {
				return step
			}
		}
		return ""
	}, func(m testenv.Moment) bool { return w.lives(fmt.Sprint(m.Request, ", ", m.Answered)) })
	for range buyers {
		b := buyer{tenant: uuid.Must(uuid.NewV7()), license: uuid.Must(uuid.NewV7())}
		b.customer = w.made("/v1/customers", "name=Acme")
		w.db.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'Acme', $2)`, b.tenant, "t-"+b.tenant.String())
		w.db.Exec(t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, overdraft_seats, ttl_seconds, seat_per, offline_grace_seconds, drain_seconds)
			VALUES ($1, $2, 'editor', 'team', 5, 6, 60, 'device', 0, 0)`, b.tenant, b.license)
		w.db.Exec(t, `INSERT INTO app.billing_customers (tenant_id, id, stripe_id) VALUES ($1, $1, $2)`, b.tenant, b.customer)
		form := "mode=subscription&success_url=x&customer=" + b.customer
		for i, p := range prices {
			if form += fmt.Sprintf("&line_items[%d][price]=%s", i, p.ID); p.Meter == "" && !p.UsageRecords {
				form += fmt.Sprintf("&line_items[%d][quantity]=1", i)
			}
		}
		sub := w.sim.Complete(w.made("/v1/checkout/sessions", form), false)
		w.db.Exec(t, `INSERT INTO app.subscriptions (tenant_id, id, customer_id, license_id, status, plan_code, cycle, seats, next_seats, period_start, period_end, cancel_at_period_end)
			VALUES ($1, $2, $1, $3, 'active', 'team', 'monthly', 5, 5, $4, now() + interval '10 days', false)`, b.tenant, sub, b.license,
			time.Unix(int64(w.sim.Get(sub)["current_period_start"].(float64)), 0))
		w.buyers = append(w.buyers, b)
	}
	w.sim.Rewind()
	return w
}

func (w *metered) client(url, catalog string) *billing.Stripe {
	w.t.Helper()
	var c billing.Catalog
	must(w.t, c.UnmarshalText([]byte(catalog)))
	stripe, err := billing.NewStripe(billing.Config{APIKey: config.Secret(key), URL: url, Timeout: 4 * time.Second, Catalog: c})
	must(w.t, err)
	return stripe
}

// made makes something at Stripe, as nobody but a test would.
func (w *metered) made(path, form string) string {
	w.t.Helper()
	r := httptest.NewRequest("POST", path, strings.NewReader(form))
	r.Header.Set("Authorization", "Bearer "+key)
	recorder := httptest.NewRecorder()
	w.sim.ServeHTTP(recorder, r)
	_, rest, _ := strings.Cut(recorder.Body.String(), `"id":"`)
	id, _, ok := strings.Cut(rest, `"`)
	if !ok || recorder.Code != 200 {
		w.t.Fatalf("%s answered %s", path, recorder.Body)
	}
	return id
}

// statements are the steps of a meter at PostgreSQL, each by what its first statement holds.
var statements = map[string]string{
	"look for overdraft": "overdraft_tenants", "count overdraft": "INTO app.overdraft_counts",
	"look for tenants": "metered_tenants", "read hours": "FOR NO KEY UPDATE OF h", "make reports": "INSERT INTO app.usage_reports", "commit": "commit",
	"claim reports": "status = 'doubtful'", "finish reports": "status = 'acknowledged'", "drop events": "expire_usage_events",
}

// lives says whether the meter goes on at that moment, or has died.
func (w *metered) lives(at string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at == w.step && !w.dead {
		if w.nth--; w.nth == 0 {
			w.dead = true
			w.steps[at]++
		}
	}
	return !w.dead
}

// process does something with the meter of a process of a function, which dies when it comes to the step for the nth time, if it
// does.
func (w *metered) process(role, step string, nth int, do func(*billing.Meter) error) error {
	w.mu.Lock()
	w.step, w.nth, w.dead = step, nth, false
	w.mu.Unlock()
	db, err := tenancy.OpenURL(w.t.Context(), w.db.Over(w.wire, role), tenancy.Config{Timeout: 9 * time.Second, MaxConns: 4}, w.log.Logger)
	must(w.t, err)
	defer db.Close()
	return do(billing.NewMeter(billing.MeterDeps{DB: db, Stripe: w.stripe, Log: w.log.Logger}))
}

// run reports usage once, as function meter does.
func (w *metered) run(step string, nth int) (report billing.MeterReport, err error) {
	err = w.process("usher_meter", step, nth, func(m *billing.Meter) error {
		report, err = m.Run(w.t.Context())
		return err
	})
	return report, err
}

// later is when what a dead process had taken is free again.
func (w *metered) later() {
	w.db.Exec(w.t, `UPDATE app.usage_reports SET next_at = now() WHERE finished_at IS NULL`)
}

// record counts events, as function usage does.
func (w *metered) record(ctx context.Context, b buyer, events []metering.Event) (out metering.Outcome, err error) {
	tenant := tenancy.Verified(b.tenant)
	err = w.usage.As(ctx, tenant, func(tx tenancy.Tx) error {
		out, err = metering.Record(ctx, tx, tenant, metering.Source{License: b.license, APIKey: b.tenant}, events)
		return err
	})
	return out, err
}

// TestProofMeter counts events that come in any order, some of them twice, and lets meters die at each of their steps, alone
// and beside others. Each unit is at Stripe once in the end, in its hour: as meter events, and as usage records.
func TestProofMeter(t *testing.T) {
	t.Parallel()
	t.Run("meter events", func(t *testing.T) {
		t.Parallel()
		proveMeter(t, "meter events", newMetered(t, 2))
	})
	t.Run("usage records", func(t *testing.T) {
		t.Parallel()
		proveMeter(t, "usage records", newMeteredBy(t, 2, withRecords, recordsCatalog, 20*24*time.Hour))
	})
}

func proveMeter(t *testing.T, form string, w *metered) {
	t.Helper()
	total, rounds, hours := 600, 24, 8
	if testenv.Full() {
		total, rounds, hours = 100_000, 320, 6*24
	}
	steps := []string{"ask Stripe, false", "ask Stripe, true"} // before the deed, and after it before anybody heard
	for step := range statements {
		steps = append(steps, step+", false", step+", true")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	names := []string{"calls", "pages", "clicks"}
	events := make([]metering.Event, total)
	for i := range events {
		events[i] = metering.Event{
			ID: fmt.Sprint("event ", i), Metric: names[random.IntN(3)], Quantity: 1 + random.Int64N(9),
			OccurredAt: time.Now().Add(-2*time.Hour - time.Duration(random.Int64N(int64(hours)*int64(time.Hour)))),
		}
	}
	want := map[string]int64{}
	var order []int // of sending: each once, a third twice, in any order
	for i, e := range events {
		want[fmt.Sprint(i%2, " ", e.Metric)] += e.Quantity
		order = append(order, i)
		if random.IntN(3) == 0 {
			order = append(order, i)
		}
	}
	for which := range w.buyers {
		want[fmt.Sprint(which, " ", metering.OverdraftSeatHours)] = w.overdraw(random, which, hours)
	}
	names = append(names, metering.OverdraftSeatHours)
	random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	var accepted, duplicates atomic.Int64
	deaths := 0
	for round := range rounds {
		part := order[round*len(order)/rounds : (round+1)*len(order)/rounds]
		var sending sync.WaitGroup
		for which, b := range w.buyers {
			var mine []metering.Event
			for _, i := range part {
				if i%2 == which {
					mine = append(mine, events[i])
				}
			}
			for chunk := range slices.Chunk(mine, 250) {
				sending.Go(func() {
					out, err := w.record(t.Context(), b, chunk)
					if err != nil {
						t.Error(err)
					}
					accepted.Add(int64(out.Accepted))
					duplicates.Add(int64(out.Duplicates))
				})
			}
		}
		first := round < len(steps)
		if first || round%2 == 0 {
			sending.Wait() // else the meter meets hours that grow
		}
		if !first && round%3 == 0 { // another one at the same time, for which Stripe may die, too
			sending.Go(func() { _, _ = w.beside() })
		}
		w.db.Exec(t, `DELETE FROM app.overdraft_counts`) // as if it had died before it could write that they are counted
		// Each step the first time it is come to, and later some other time.
		nth := 1
		if !first {
			nth += random.IntN(3)
		}
		if _, err := w.run(steps[round%len(steps)], nth); err != nil {
			deaths++
		}
		sending.Wait()
		w.later()
	}
	if report, err := w.run("", 0); err != nil || !report.Complete || report.Refused+report.Unanswered+report.Doubtful != 0 {
		t.Errorf("the last run: %+v, %v", report, err)
	}
	if accepted.Load() != int64(total) || accepted.Load()+duplicates.Load() != int64(len(order)) {
		t.Errorf("accepted %d and %d duplicates of %d that were sent of %d", accepted.Load(), duplicates.Load(), len(order), total)
	}
	compared := 0
	for which, b := range w.buyers {
		for _, name := range names {
			sum := testenv.Value[int64](t, w.db, `SELECT coalesce(sum(quantity), 0)::bigint FROM app.usage_hours WHERE license_id = $1 AND metric = $2`, b.license, name)
			if sum != want[fmt.Sprint(which, " ", name)] {
				t.Errorf("%s of buyer %d: counted %d, want %d", name, which, sum, want[fmt.Sprint(which, " ", name)])
			}
			if name == "clicks" {
				continue
			}
			for _, line := range testenv.Values[string](t, w.db, `SELECT extract(epoch FROM hour)::bigint || ' ' || quantity FROM app.usage_hours WHERE license_id = $1 AND metric = $2`, b.license, name) {
				var unix, quantity int64
				_, err := fmt.Sscan(line, &unix, &quantity)
				must(t, err)
				from := time.Unix(unix, 0)
				if at := w.has(b, name, from, from.Add(time.Hour)); at != quantity {
					t.Errorf("%s of buyer %d at %s: Stripe has %d, want %d", name, which, from, at, quantity)
				}
				sum -= quantity
				compared++
			}
			if all := w.has(b, name, time.Unix(0, 0), time.Now()); sum != 0 || all != want[fmt.Sprint(which, " ", name)] {
				t.Errorf("%s of buyer %d: Stripe has %d in all, want %d", name, which, all, want[fmt.Sprint(which, " ", name)])
			}
		}
	}
	if states := testenv.Value[string](t, w.db, `SELECT string_agg(DISTINCT status, ' ') FROM app.usage_reports`); states != "acknowledged" {
		t.Errorf("reports are %s", states)
	}
	if len(w.steps) != len(steps) {
		t.Errorf("the meter died at %v, want at each of %v", w.steps, steps)
	}
	testenv.Proved(t, "meter", "%d events, %d of them sent again, and %d deaths of the meter at %d different steps: %d sums of hours and every total equal at Stripe, in %d %s",
		total, duplicates.Load(), deaths, len(w.steps), compared, w.sim.Uses(), form)
}

// overdraw has a buyer's seats 6 to 8 taken, beyond its 5, at times within the hours before the last two, and answers how many
// seats that is, hour by hour.
func (w *metered) overdraw(random *rand.Rand, which, hours int) int64 {
	b, now := w.buyers[which], time.Now().UTC().Truncate(time.Hour)
	taken := map[string]bool{}
	for seat := 6; seat <= 8; seat++ {
		for at := now.Add(-time.Duration(hours) * time.Hour); ; {
			begin := at.Add(time.Duration(random.IntN(200)) * time.Minute)
			end := begin.Add(time.Duration(1+random.IntN(150)) * time.Minute)
			if random.IntN(4) == 0 {
				end = end.Truncate(time.Hour).Add(time.Hour) // to the end of an hour, and not into the next
			}
			if end.After(now.Add(-2 * time.Hour)) {
				break
			}
			w.db.Exec(w.t, `INSERT INTO app.ended_sessions (tenant_id, id, license_id, seat_no, overdraft, holder, hardware_id, version, acquired_at, status, end_reason, ended_by, ended_at)
				VALUES ($1, $2, $3, $4, true, 'device:x', 'x', '', $5, 'released', 'released', '', $6)`, b.tenant, uuid.Must(uuid.NewV7()), b.license, seat, begin, end)
			for h := begin.Truncate(time.Hour); h.Before(end); h = h.Add(time.Hour) {
				taken[fmt.Sprint(seat, h)] = true
			}
			at = end
		}
	}
	return int64(len(taken))
}

// beside runs another meter at the same time.
func (w *metered) beside() (billing.MeterReport, error) {
	db, err := tenancy.OpenURL(w.t.Context(), w.db.URL("usher_meter"), tenancy.Config{Timeout: 9 * time.Second, MaxConns: 2}, w.log.Logger)
	if err != nil {
		return billing.MeterReport{}, err
	}
	defer db.Close()
	return billing.NewMeter(billing.MeterDeps{DB: db, Stripe: w.stripe, Log: w.log.Logger}).Run(w.t.Context())
}

func TestOverdraftSeatsAreCountedByTheHourAndNoneThatIsPaidOtherwise(t *testing.T) {
	t.Parallel()
	w := newMetered(t, 1)
	b, now := w.buyers[0], time.Now().UTC().Truncate(time.Hour)
	open := func(seat int, overdraft bool, since time.Duration) {
		w.db.Exec(t, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, overdraft, holder, hardware_id, acquired_at)
			VALUES ($1, gen_random_uuid(), $2, $3::int, 0, 0, $4, 'device:' || $3::int::text, 'x', $5)`, b.tenant, b.license, seat, overdraft, now.Add(-since))
	}
	counted := func(want int64) {
		t.Helper()
		_, err := w.run("", 0)
		must(t, err)
		hours := testenv.Value[int64](t, w.db, `SELECT coalesce(sum(quantity), 0)::bigint FROM app.usage_hours WHERE metric = 'overdraft_seat_hours'`)
		months := testenv.Value[int64](t, w.db, `SELECT coalesce(sum(quantity), 0)::bigint FROM app.usage_months WHERE metric = 'overdraft_seat_hours'`)
		told := w.sim.Used(b.customer, "overdraft_seat_hours_used", time.Unix(0, 0), time.Now())
		if hours != want || months != want || told != want {
			t.Errorf("counted are %d by the hour, %d by the month, and %d at Stripe, want %d", hours, months, told, want)
		}
	}
	again := func() { w.db.Exec(t, `DELETE FROM app.overdraft_counts`) }
	open(5, false, 4*time.Hour)                // its own
	open(6, true, 4*time.Hour-time.Minute)     // beyond it in the hours before 3, 2 and, unless that ended just now, 1
	open(7, false, 4*time.Hour)                // drains after a downgrade
	open(8, true, -time.Minute)                // just now
	open(9, true, 10*24*time.Hour-time.Minute) // evicted a day ago
	w.db.Exec(t, `UPDATE app.open_sessions SET evicted_at = $1, evict_reason = 'x' WHERE seat_no = 9`, now.Add(-24*time.Hour))
	notYet := int64(0) // an hour is counted five minutes after it
	if time.Since(now) < 6*time.Minute {
		notYet = 1
	}
	counted(4 - notYet + 6*24) // of the ten days the last week
	again()
	counted(4 - notYet + 6*24)
	// The licence gets the seats: what was counted stays, and no more is.
	w.db.Exec(t, fmt.Sprintf(`SELECT set_config('app.current_tenant_id', '%s', true); UPDATE app.licenses SET max_seats = 9`, b.tenant))
	open(10, true, 3*time.Hour)
	open(11, true, 3*time.Hour)
	again()
	counted(4 + 6*24 + 3 - 2*notYet)
}

// Who cannot be counted keeps nobody's usage from Stripe, comes first in every run, and is told of.
func TestATenantWhoseOverdraftCannotBeCountedHoldsUpNobody(t *testing.T) {
	t.Parallel()
	w := newMetered(t, 3)
	now := time.Now().UTC().Truncate(time.Hour)
	w.overdraw(rand.New(rand.NewPCG(1, 1)), 0, 24)
	want := w.overdraw(rand.New(rand.NewPCG(2, 2)), 1, 24)
	_, err := w.record(t.Context(), w.buyers[0], []metering.Event{{ID: "e", Metric: "calls", Quantity: 7, OccurredAt: now.Add(-30 * time.Minute)}})
	must(t, err)
	w.db.Exec(t, `UPDATE app.usage_hours SET hour = hour - interval '2 hours'`)
	// The first waits for a lock until that takes too long; the second is written that it was counted, and so comes after it; what the
	// third's sum would be, the database refuses.
	w.db.Exec(t, `INSERT INTO app.overdraft_counts (tenant_id, counted_to) VALUES ($1, $2)`, w.buyers[1].tenant, now.Add(-30*time.Hour))
	w.overdraw(rand.New(rand.NewPCG(3, 3)), 2, 24)
	w.db.Exec(t, fmt.Sprintf(`ALTER TABLE app.usage_hours ADD CONSTRAINT refused CHECK (tenant_id <> '%s')`, w.buyers[2].tenant))
	held, err := w.db.Owner(t).Begin(t.Context())
	must(t, err)
	for step := range 15 {
		_, err = held.Exec(t.Context(), `INSERT INTO app.overdraft_counts (tenant_id, counted_to)
			VALUES ($1, date_trunc('hour', now() - interval '7 days', 'UTC') + $2 * interval '12 hours')`, w.buyers[0].tenant, step)
		must(t, err)
	}
	report, err := w.run("", 0)
	if err == nil || !strings.Contains(err.Error(), w.buyers[0].tenant.String()) || !strings.Contains(err.Error(), w.buyers[2].tenant.String()) {
		t.Errorf("the run says %v of those who were not counted", err)
	}
	if report.Complete {
		t.Errorf("the run says that nothing is left: %+v", report)
	}
	has := func(which int, metric string) int64 {
		return w.has(w.buyers[which], metric, time.Unix(0, 0), time.Now())
	}
	if calls, seats := has(0, "calls"), has(1, metering.OverdraftSeatHours); calls != 7 || seats != want {
		t.Errorf("Stripe has %d calls of the first, want 7, and %d seats of the second, want %d", calls, seats, want)
	}
	must(t, held.Rollback(t.Context()))
	w.db.Exec(t, `ALTER TABLE app.usage_hours DROP CONSTRAINT refused`)
	report, err = w.run("", 0)
	must(t, err)
	if !report.Complete || has(0, metering.OverdraftSeatHours) == 0 || has(2, metering.OverdraftSeatHours) == 0 {
		t.Errorf("the next run did %+v", report)
	}
}

// A usage record must lie in the subscription's current period: what was used before it began, and not told by then, is in the period's
// first seconds, each hour in a second of its own, however often it grows and is told.
func TestUsageRecordsOfAPeriodThatIsOverAreInTheOneThatRuns(t *testing.T) {
	t.Parallel()
	w := newMeteredBy(t, 1, withRecords, recordsCatalog, 3*time.Hour)
	b := w.buyers[0]
	began := testenv.Value[time.Time](t, w.db, `SELECT period_start FROM app.subscriptions`)
	sent := 0
	use := func(quantity int64, ago time.Duration) {
		t.Helper()
		sent++
		_, err := w.record(t.Context(), b, []metering.Event{{ID: fmt.Sprint(sent), Metric: "calls", Quantity: quantity, OccurredAt: began.Add(-ago)}})
		must(t, err)
	}
	run := func(want int64) {
		t.Helper()
		_, _ = w.run("", 0)
		w.later()
		if r, err := w.run("", 0); err != nil || r.Refused+r.Unanswered != 0 || !r.Complete {
			t.Errorf("a run: %+v, %v", r, err)
		}
		if all := w.has(b, "calls", began, time.Now()); all != want {
			t.Errorf("Stripe has %d, want %d", all, want)
		}
	}
	use(5, 2*time.Hour)
	use(7, 3*time.Hour)
	use(1, -time.Hour)
	run(13)
	use(2, 2*time.Hour) // late, and its answer is lost
	w.sim.Fault(stripesim.Faults{Lose: 1})
	run(15)
	use(4, -time.Hour)
	run(19)
	// The catalogue's check knows the form, of overdraft seats too.
	if wrong, err := w.stripe.CheckCatalog(t.Context()); err != nil || wrong != nil {
		t.Errorf("the check names %q, %v", wrong, err)
	}
	wrong, err := w.client(w.url, meteredCatalog).CheckCatalog(t.Context())
	if want := "plan team, monthly, metered price price_overdraft: its meter's event name is  at Stripe and overdraft_seat_hours_used in the catalogue"; err != nil || !slices.Contains(wrong, want) {
		t.Errorf("the check names %q, %v, want among them %q", wrong, err, want)
	}
}

func TestUsageThatStripeDoesNotTakeIsToldAgainOrLeftToAPerson(t *testing.T) {
	t.Parallel()
	w := newMetered(t, 1)
	b := w.buyers[0]
	n := 0
	use := func(metric string, quantity int64, ago time.Duration) {
		t.Helper()
		n++
		_, err := w.record(t.Context(), b, []metering.Event{{ID: fmt.Sprint(n), Metric: metric, Quantity: quantity, OccurredAt: time.Now().Add(-ago)}})
		must(t, err)
	}
	has := func() int64 { return w.sim.Used(b.customer, "calls_used", time.Unix(0, 0), time.Now()) }
	run := func(want string) {
		t.Helper()
		r, err := w.run("", 0)
		got := fmt.Sprintf("reported %d unpriced %d acknowledged %d refused %d unanswered %d doubtful %d complete %t", r.Reported, r.Unpriced, r.Acknowledged, r.Refused, r.Unanswered, r.Doubtful, r.Complete)
		if got != want || err != nil && (fault.As(err) == nil || fault.As(err).Kind != fault.KindUnavailable) || (err != nil) != (r.Unanswered > 0) {
			t.Errorf("a run: %s, %v, want %s", got, err, want)
		}
	}
	// The hour that runs is not reported, and what has no price never is.
	use("calls", 5, 3*time.Hour)
	use("calls", 100, 0)
	use("clicks", 7, 3*time.Hour)
	run("reported 1 unpriced 1 acknowledged 1 refused 0 unanswered 0 doubtful 0 complete true")
	run("reported 0 unpriced 0 acknowledged 0 refused 0 unanswered 0 doubtful 0 complete true")
	// What comes late is told by the difference.
	use("calls", 4, 3*time.Hour)
	run("reported 1 unpriced 0 acknowledged 1 refused 0 unanswered 0 doubtful 0 complete true")
	if has() != 9 {
		t.Errorf("Stripe has %d, want 9", has())
	}
	// Stripe took it, and its answer was lost: told again it counts once.
	w.sim.Fault(stripesim.Faults{Lose: 1})
	use("calls", 2, 4*time.Hour)
	run("reported 1 unpriced 0 acknowledged 0 refused 0 unanswered 1 doubtful 0 complete false")
	run("reported 0 unpriced 0 acknowledged 0 refused 0 unanswered 0 doubtful 0 complete true") // not before its time
	w.later()
	run("reported 0 unpriced 0 acknowledged 1 refused 0 unanswered 0 doubtful 0 complete true")
	if has() != 11 {
		t.Errorf("Stripe has %d, want 11", has())
	}
	// It is down.
	w.sim.Fault(stripesim.Faults{Down: true})
	use("calls", 1, 5*time.Hour)
	run("reported 1 unpriced 0 acknowledged 0 refused 0 unanswered 1 doubtful 0 complete false")
	w.sim.Fault(stripesim.Faults{})
	w.later()
	run("reported 0 unpriced 0 acknowledged 1 refused 0 unanswered 0 doubtful 0 complete true")
	// It refuses: the meter is not there. That counts nothing, and when it is there the same report goes through.
	wrong := w.stripe
	w.stripe = w.client(w.url, strings.ReplaceAll(meteredCatalog, "calls_used", "calls_missed"))
	use("calls", 6, 5*time.Hour)
	run("reported 1 unpriced 0 acknowledged 0 refused 1 unanswered 0 doubtful 0 complete true")
	w.stripe = wrong
	w.db.Exec(t, `UPDATE app.usage_reports SET event_name = 'calls_used'`)
	w.later()
	run("reported 0 unpriced 0 acknowledged 1 refused 0 unanswered 0 doubtful 0 complete true")
	if has() != 18 {
		t.Errorf("Stripe has %d, want 18", has())
	}
	// Nobody heard for a day whether it came: it is not told again, for Stripe may have forgotten that it has it.
	w.sim.Fault(stripesim.Faults{Lose: 1})
	use("calls", 3, 6*time.Hour)
	run("reported 1 unpriced 0 acknowledged 0 refused 0 unanswered 1 doubtful 0 complete false")
	w.later()
	w.db.Exec(t, `UPDATE app.usage_reports SET sent_at = now() - interval '24 hours' WHERE status = 'sent'`)
	run("reported 0 unpriced 0 acknowledged 0 refused 0 unanswered 0 doubtful 1 complete true")
	w.later()
	run("reported 0 unpriced 0 acknowledged 0 refused 0 unanswered 0 doubtful 0 complete true")
	if has() != 21 || !strings.Contains(w.log.Text(), "nobody knows whether Stripe has some usage") {
		t.Errorf("Stripe has %d, want 21 once; the log says it: %t", has(), strings.Contains(w.log.Text(), "nobody knows"))
	}
	// Whose subscription has ended pays for what was used before, and for nothing after.
	w.db.Exec(t, `UPDATE app.subscriptions SET status = 'canceled', ended_at = now() - interval '8 hours'`)
	use("calls", 1, 12*time.Hour)
	use("calls", 1, 3*time.Hour)
	run("reported 1 unpriced 1 acknowledged 1 refused 0 unanswered 0 doubtful 0 complete true")
	// Events that are over are dropped; their sums stay.
	w.db.Exec(t, `UPDATE app.usage_events SET recorded_at = now() - interval '36 days' WHERE id = '1'`)
	if r, err := w.run("", 0); err != nil || r.ExpiredEvents != 1 {
		t.Errorf("dropped %d, %v", r.ExpiredEvents, err)
	}
}

func TestACatalogueWithMeteredPricesReadsWhatItSells(t *testing.T) {
	t.Parallel()
	var c billing.Catalog
	must(t, c.UnmarshalText([]byte(meteredCatalog)))
	lines, err := c.Lines("team", billing.Monthly, 5)
	if err != nil || fmt.Sprint(lines) != "[{price_base 1 []} {price_calls 0 []} {price_pages 0 []} {price_overdraft 0 []}]" {
		t.Errorf("sells %v, %v", lines, err)
	}
	for _, bought := range [][]billing.Line{lines, lines[:2], lines[:1]} { // a price that came later is missing from older subscriptions
		if plan, cycle, seats, ok := c.Reads(bought); !ok || plan != "team" || cycle != billing.Monthly || seats != 5 {
			t.Errorf("%v reads as %s %s %d, %t", bought, plan, cycle, seats, ok)
		}
	}
	if price, ok := c.Metered("team", billing.Monthly, "pages"); price.EventName != "pages_used" || !ok {
		t.Errorf("pages are %+v", price)
	}
	if _, ok := c.Metered("team", billing.Annual, "pages"); ok {
		t.Error("what is not sold is metered")
	}
	for _, wrong := range []string{
		strings.ReplaceAll(meteredCatalog, `"metric": "pages"`, `"metric": "calls"`), strings.ReplaceAll(meteredCatalog, "pages_used", "calls_used"),
		strings.ReplaceAll(meteredCatalog, "price_pages", "price_base"), strings.ReplaceAll(meteredCatalog, `"pages_used"`, `"pages_used", "usage_records": true`),
		strings.ReplaceAll(meteredCatalog, `"pages_used"`, `""`),
	} {
		if err := new(billing.Catalog).UnmarshalText([]byte(wrong)); err == nil {
			t.Errorf("accepted %s", wrong)
		}
	}
}

// Who cancels at once pays for what was used until then, the hour that runs included, wherever the closing of it dies before it
// succeeds, and beside a meter that reports at the same time.
func TestWhatWasUsedUntilACancellationAtOnceIsOnTheLastInvoiceToTheUnit(t *testing.T) {
	t.Parallel()
	for form, w := range map[string]*metered{
		"meter events":  newMetered(t, 1),
		"usage records": newMeteredBy(t, 1, withRecords, recordsCatalog, 20*24*time.Hour),
	} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			b := w.buyers[0]
			sub := testenv.Value[string](t, w.db, `SELECT id FROM app.subscriptions`)
			sent := 0
			use := func(metric string, quantity int64, ago time.Duration) {
				t.Helper()
				sent++
				_, err := w.record(t.Context(), b, []metering.Event{{ID: fmt.Sprint(sent), Metric: metric, Quantity: quantity, OccurredAt: time.Now().Add(-ago)}})
				must(t, err)
			}
			use("calls", 5, 26*time.Hour)
			use("pages", 7, 3*time.Hour)
			use("clicks", 9, 3*time.Hour) // which have no price
			use("calls", 3, 0)
			w.db.Exec(t, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, overdraft, holder, hardware_id, acquired_at)
				VALUES ($1, gen_random_uuid(), $2, 6, 0, 0, true, 'device:x', 'x', now() - interval '3 hours')`, b.tenant, b.license)
			for _, step := range []string{"count overdraft", "read hours", "make reports", "commit", "claim reports", "ask Stripe", "finish reports"} {
				for _, answered := range []bool{false, true} {
					use("pages", 1, 0)
					if err := w.closes(sub, fmt.Sprint(step, ", ", answered), 1); err == nil && !strings.HasPrefix(step, "commit") {
						t.Errorf("it closed, and died at %s, %t", step, answered)
					}
					w.later()
				}
			}
			use("calls", 1, 0)
			w.sim.Fault(stripesim.Faults{Down: true})
			if err := w.closes(sub, "", 0); fault.As(err) == nil || fault.As(err).Kind != fault.KindUnavailable {
				t.Errorf("without Stripe it answered %v", err)
			}
			w.later()
			use("calls", 4, 2*time.Hour)
			w.sim.Fault(stripesim.Faults{Slow: 2})
			var beside sync.WaitGroup
			beside.Go(func() { _, _ = w.beside() })
			err := w.closes(sub, "", 0)
			beside.Wait()
			if form == "meter events" {
				must(t, err)
			} else if err != nil { // the one beside it was telling some of it
				w.later()
				must(t, w.closes(sub, "", 0))
			}
			must(t, (&billing.Desk{Stripe: w.stripe}).Cancel(t.Context(), sub, true))

			billed := map[string]int64{}
			for _, line := range w.sim.Get(w.sim.Find("invoice", b.customer)[0])["lines"].(map[string]any)["data"].([]any) {
				line := line.(map[string]any)
				billed[line["price"].(map[string]any)["id"].(string)] += int64(line["quantity"].(float64))
			}
			for metric, price := range map[string]string{"calls": "price_calls", "pages": "price_pages", metering.OverdraftSeatHours: "price_overdraft"} {
				used := testenv.Value[int64](t, w.db, `SELECT sum(quantity)::bigint FROM app.usage_hours WHERE metric = $1`, metric)
				if used == 0 || billed[price] != used {
					t.Errorf("%s: %d were used and %d are billed", metric, used, billed[price])
				}
			}
			if used := testenv.Value[int64](t, w.db, `SELECT sum(quantity)::bigint FROM app.usage_hours WHERE metric = 'calls'`); used != 13 {
				t.Errorf("%d calls are counted, want 13", used)
			}
			if states := testenv.Value[string](t, w.db, `SELECT string_agg(DISTINCT status, ' ') FROM app.usage_reports`); states != "acknowledged" {
				t.Errorf("reports are %s", states)
			}
		})
	}
}

// closes closes a subscription's usage, as function subscription does.
func (w *metered) closes(subscription, step string, nth int) error {
	return w.process("usher_subscription", step, nth, func(m *billing.Meter) error {
		return m.Close(w.t.Context(), tenancy.Verified(w.buyers[0].tenant), subscription)
	})
}
