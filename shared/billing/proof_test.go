package billing_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

const key = "sk_test_billing"

var prices = []stripesim.Price{
	{ID: "price_base", Amount: 29000, Currency: "usd", Interval: "month"}, {ID: "price_seat", Amount: 5000, Currency: "usd", Interval: "month"},
}

// world is the database in which histories happen, each to a tenant of its own.
type world struct {
	t        *testing.T
	db       *testenv.DB
	pool     *tenancy.DB
	registry *license.Registry
	notices  notify.Keys
	catalog  billing.Catalog
	log      *testenv.LogCapture

	cut, killed atomic.Int64 // deliveries that came to nothing, and those of them that were ended by time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: testenv.Postgres(t), log: testenv.Logs(t)}
	w.db.Exec(t, `INSERT INTO app.products (code, name) VALUES ('editor', 'Editor')`)
	w.db.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('team', 'editor', 'Team')`)
	var err error
	w.pool, err = tenancy.OpenURL(t.Context(), w.db.URL("usher_webhook"), tenancy.Config{Timeout: 9 * time.Second, MaxConns: 12}, w.log.Logger)
	must(t, err)
	t.Cleanup(w.pool.Close)
	var peppers secret.Peppers
	must(t, peppers.UnmarshalText([]byte("1:"+strings.Repeat("A", 43)+"=")))
	w.registry, err = license.NewRegistry(license.RegistryConfig{Peppers: peppers, ShortestTTLSeconds: 1})
	must(t, err)
	var ring secret.Ring
	must(t, ring.UnmarshalText([]byte("1:"+strings.Repeat("A", 43)+"=")))
	w.notices = notify.NewKeys(ring)
	must(t, w.catalog.UnmarshalText([]byte(`{"team": {"included_seats": 5, "currency": "usd", "monthly": {
		"base": {"id": "price_base", "amount": 29000}, "seat": {"id": "price_seat", "amount": 5000}}}}`)))
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// history is one tenant, whose Stripe is its own.
type history struct {
	*world
	tenant    uuid.UUID
	sim       *stripesim.Sim
	stripe    *billing.Stripe
	books     *billing.Books
	customer  string
	session   string
	sub       string
	delivered map[string]bool
	server    *httptest.Server

	crash  atomic.Int64 // a request to Stripe that is to be lost, counted down; 0 for none
	crashN atomic.Int64 // the same of looks at the clock, which lie between reading and writing
}

func (w *world) begin() *history {
	h := &history{world: w, tenant: uuid.Must(uuid.NewV7()), delivered: map[string]bool{}}
	var err error
	h.sim, err = stripesim.New(stripesim.Options{Key: key, Prices: prices, Frozen: epoch})
	must(w.t, err)
	h.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if h.crash.Load() > 0 && h.crash.Add(-1) == 0 {
			panic(http.ErrAbortHandler)
		}
		h.sim.ServeHTTP(rw, r)
	}))
	w.t.Cleanup(h.server.Close)
	h.stripe, err = billing.NewStripe(billing.Config{APIKey: config.Secret(key), URL: h.server.URL, Timeout: 4 * time.Second, Catalog: w.catalog})
	must(w.t, err)
	h.books = billing.NewBooks(billing.BooksDeps{DB: w.pool, Stripe: h.stripe, Registry: w.registry, Notices: w.notices, Now: h.now, Log: w.log.Logger})
	h.customer = h.made("/v1/customers", "name=Acme")
	w.db.Exec(w.t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'Acme', $2)`, h.tenant, "t-"+h.tenant.String())
	w.db.Exec(w.t, `INSERT INTO app.billing_customers (tenant_id, id, stripe_id) VALUES ($1, gen_random_uuid(), $2)`, h.tenant, h.customer)
	h.session = h.made("/v1/checkout/sessions", "mode=subscription&success_url=x&customer="+h.customer+
		"&line_items[0][price]=price_base&line_items[0][quantity]=1&line_items[1][price]=price_seat&line_items[1][quantity]=1")
	return h
}

// made makes something at Stripe, as nobody but a test would.
func (h *history) made(path, form string) string {
	r := httptest.NewRequest("POST", path, strings.NewReader(form))
	r.Header.Set("Authorization", "Bearer "+key)
	recorder := httptest.NewRecorder()
	h.sim.ServeHTTP(recorder, r)
	_, rest, ok := strings.Cut(recorder.Body.String(), `"id":"`)
	id, _, _ := strings.Cut(rest, `"`)
	if !ok || recorder.Code != 200 {
		h.t.Fatalf("%s answered %s", path, recorder.Body)
	}
	return id
}

// code is the code of a refusal.
func code(err error) string {
	if f := fault.As(err); f != nil {
		return f.Code
	}
	return ""
}

var errCrash = errors.New("crash")

// now is Stripe's clock. It is looked at between what was read and what is written.
func (h *history) now(context.Context, tenancy.Tx) (time.Time, error) {
	if h.crashN.Load() > 0 && h.crashN.Add(-1) == 0 {
		return time.Time{}, errCrash
	}
	return h.sim.Now(), nil
}

// receive delivers an event, in one of the shapes that events have, until it was taken in.
func (h *history) receive(random *rand.Rand, id string, crashes bool) {
	version := stripesim.Version
	if random.IntN(3) == 0 {
		version = stripesim.NewerVersion
	}
	for attempt := 0; ; attempt++ {
		ctx, cancel := context.WithCancel(h.t.Context())
		if crashes && attempt < 3 {
			switch random.IntN(4) {
			case 0: // at Stripe
				h.crash.Store(1 + random.Int64N(4))
			case 1: // before anything is written
				h.crashN.Store(1 + random.Int64N(2))
			case 2: // anywhere, the commit included; seldom, because PostgreSQL then has a new session to begin
				if random.IntN(8) != 0 {
					break
				}
				timer := time.AfterFunc(time.Duration(random.IntN(15000))*time.Microsecond, cancel)
				defer timer.Stop()
			}
		}
		e, err := billing.ParseEvent(h.sim.Payload(id, version))
		if err == nil {
			_, err = h.books.Receive(ctx, e)
		}
		if err != nil && ctx.Err() != nil {
			h.killed.Add(1)
		}
		cancel()
		if err == nil {
			return
		}
		h.cut.Add(1)
		if f := fault.As(err); !errors.Is(err, errCrash) && (f == nil || f.Kind != fault.KindUnavailable) {
			h.t.Errorf("event %s %s: %v", id, e.Type, err)
			return
		}
		if attempt > 200 {
			h.t.Errorf("event %s %s never succeeds: %v", id, e.Type, err)
			return
		}
	}
}

// some delivers some of the events that there are.
func (h *history) some(random *rand.Rand) {
	for _, e := range h.sim.Events() {
		if random.IntN(3) == 0 {
			h.delivered[e.ID] = true
			h.receive(random, e.ID, random.IntN(4) == 0)
		}
	}
	h.crash.Store(0) // what was not come to is not for the next step of the story
	h.crashN.Store(0)
}

// rest delivers all that were not delivered, one to three times, in any order, some at once.
func (h *history) rest(random *rand.Rand) int {
	var queue []string
	events := h.sim.Events()
	for _, e := range events {
		n := random.IntN(3)
		if !h.delivered[e.ID] {
			n++
		}
		for range n {
			queue = append(queue, e.ID)
		}
	}
	random.Shuffle(len(queue), func(i, j int) { queue[i], queue[j] = queue[j], queue[i] })
	lanes := 1 + random.IntN(3)
	crashes := random.IntN(2) == 0
	var all sync.WaitGroup
	for lane := range lanes {
		mine := rand.New(rand.NewPCG(random.Uint64(), 1))
		all.Go(func() {
			for i := lane; i < len(queue); i += lanes {
				h.receive(mine, queue[i], crashes)
			}
		})
	}
	all.Wait()
	return len(queue)
}

// state is all that is left of a history.
func (h *history) state() string {
	return testenv.Value[string](h.t, h.db, `
		SELECT format('%s sold %s of %s', (SELECT count(*) FROM app.subscriptions WHERE tenant_id = $1), (SELECT count(*) FROM app.licenses WHERE tenant_id = $1), coalesce((
		       SELECT concat_ws(' ', s.status, s.seats, s.next_seats, 'paid', s.paid_through, 'grace', s.grace_until, s.trouble, s.cancel_at_period_end, 'ended', s.ended_at,
		              'license', l.status, l.status_reason, l.max_seats, l.expires_at, l.grace_until)
		         FROM app.subscriptions s LEFT JOIN app.licenses l ON l.tenant_id = s.tenant_id AND l.id = s.license_id WHERE s.tenant_id = $1), 'nothing'))
		       || (SELECT coalesce(string_agg(' FAILED ' || type || ': ' || error, ''), '') FROM app.stripe_events WHERE tenant_id = $1 AND status <> 'done')`, h.tenant)
}

// story is what happens at Stripe, step by step.
type story struct {
	name  string
	steps []func(h *history)
	// want is a part of what is left of it.
	want string
}

func buy(h *history)        { h.sub = h.sim.Complete(h.session, false) }
func buyByBank(h *history)  { h.sub = h.sim.Complete(h.session, true) }
func cardFails(h *history)  { h.sim.Card(h.customer, false) }
func cardWorks(h *history)  { h.sim.Card(h.customer, true) }
func refund(h *history)     { h.sim.Refund(h.customer, 0) }
func dispute(h *history)    { h.sim.Dispute(h.customer) }
func pay(h *history)        { h.sim.Pay(h.customer) }
func forgetThem(h *history) { h.sim.Delete(h.customer) }
func expire(h *history)     { h.sim.Advance(25 * time.Hour) }
func refundSome(h *history) { h.sim.Refund(h.customer, 100) }

func wait(days int) func(*history) {
	return func(h *history) { h.sim.Advance(time.Duration(days)*24*time.Hour + 2*time.Hour) }
}

func resolve(won bool) func(*history) {
	return func(h *history) { h.sim.Resolve(h.customer, won) }
}

func clearing(comes bool) func(*history) {
	return func(h *history) { h.sim.Clear(h.session, comes) }
}

func seats(n int) func(*history) {
	return func(h *history) {
		err := (&billing.Desk{Stripe: h.stripe}).Seats(h.t.Context(), billing.Subscribed{ID: h.sub, Plan: "team", Cycle: billing.Monthly}, n)
		if f := fault.As(err); err != nil && (f == nil || f.Code != "payment_failed") {
			h.t.Error(err)
		}
	}
}

func cancels(atOnce bool) func(*history) {
	return func(h *history) { must(h.t, (&billing.Desk{Stripe: h.stripe}).Cancel(h.t.Context(), h.sub, atOnce)) }
}

func resume(h *history) { must(h.t, (&billing.Desk{Stripe: h.stripe}).Resume(h.t.Context(), h.sub)) }

var stories = []story{
	{"purchase", []func(*history){buy}, "license active 6 2026-02-10 12:00:00+00 2026-02-13"},
	{"a page that nobody pays at", []func(*history){expire}, "0 sold 0 of nothing"},
	{"purchase by bank", []func(*history){buyByBank, wait(2), clearing(true)}, "license active 6 2026-02-10"},
	{"purchase by bank that fails", []func(*history){buyByBank, wait(2), clearing(false)}, "1 sold 0 of canceled"},
	{"renewal", []func(*history){buy, wait(32)}, "license active 6 2026-03-10"},
	{"upgrade", []func(*history){buy, wait(3), seats(9)}, "active 9 9 paid 2026-02-10"},
	{"upgrade that is declined, and expires", []func(*history){buy, cardFails, wait(3), seats(9), wait(2), cardWorks}, "active 6 6 paid 2026-02-10"},
	{"downgrade", []func(*history){buy, wait(3), seats(5)}, "active 6 5 paid 2026-02-10"},
	{"lowered, and raised beyond what is held", []func(*history){buy, wait(3), seats(5), wait(1), seats(9)}, "active 9 9 paid 2026-02-10"},
	{"lowered, and a raise that is declined", []func(*history){buy, wait(3), seats(5), cardFails, wait(1), seats(9), wait(2), cardWorks}, "active 6 5 paid 2026-02-10"},
	{"downgrade and renewal", []func(*history){buy, wait(3), seats(5), wait(30)}, "active 5 5 paid 2026-03-10"},
	{"failure and recovery", []func(*history){buy, cardFails, wait(32), cardWorks, pay}, "license active 6 2026-03-10"},
	{"a second failure", []func(*history){buy, cardFails, wait(35)}, "past_due 6 6 paid 2026-02-10 12:00:00+00 grace 2026-02-17 13:00:00+00 payment_failed"},
	{"failure to the end", []func(*history){buy, cardFails, wait(40)}, "license suspended payment_failed 6 2026-02-10"},
	{"cancelled with its period", []func(*history){buy, wait(3), cancels(false), wait(30)}, "license active 6 2026-02-10 12:00:00+00"},
	{"cancelled and resumed", []func(*history){buy, wait(3), cancels(false), resume, wait(30)}, "license active 6 2026-03-10"},
	{"cancelled at once", []func(*history){buy, wait(3), cancels(true)}, "license active 6 2026-01-13 14:00:00+00"},
	{"refund", []func(*history){buy, wait(3), refund}, "license suspended payment_refunded 6 2026-01-10"},
	{"refund of a part", []func(*history){buy, wait(3), refundSome}, "license active 6 2026-02-10"},
	{"dispute", []func(*history){buy, wait(3), dispute}, "license active 6 2026-01-10 12:00:00+00 2026-01-20 14:00:00+00"},
	{"dispute that is won", []func(*history){buy, wait(3), dispute, wait(4), resolve(true)}, "license active 6 2026-02-10"},
	{"dispute that is lost", []func(*history){buy, wait(3), dispute, wait(9), resolve(false)}, "license suspended payment_disputed 6 2026-01-10"},
	{"customer deleted", []func(*history){buy, wait(3), forgetThem}, "license active 6 2026-01-13"},
}

// TestProofMoney lets each story happen again and again, its events delivered early, late, one to three times, in any
// order and at once, with crashes at every step: at Stripe, between reading and writing, and anywhere by time. One end
// state comes of it each time, and it is the one that Stripe's last word means.
func TestProofMoney(t *testing.T) {
	t.Parallel()
	total := 3 * len(stories)
	if testenv.Full() {
		total = 10_500
	}
	w := newWorld(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var deliveries, at atomic.Int64
	var lanes sync.WaitGroup
	for range 4 {
		lanes.Go(func() {
			for {
				n := at.Add(1) - 1
				if n >= int64(total) || t.Failed() {
					return
				}
				random := rand.New(rand.NewPCG(seed, uint64(n)))
				s := stories[int(n)%len(stories)]
				h := w.begin()
				for i, step := range s.steps {
					step(h)
					if i < len(s.steps)-1 && random.IntN(2) == 0 {
						h.some(random)
					}
				}
				deliveries.Add(int64(h.rest(random)))
				if got := h.state(); !strings.Contains(got, s.want) || strings.Contains(got, "FAILED") {
					t.Errorf("history %d, %s: %s, want %s", n, s.name, got, s.want)
				} else if kept, loaded := states.LoadOrStore(s.name, got); loaded && kept != got {
					t.Errorf("history %d, %s: %s, an earlier one ended as %s", n, s.name, got, kept)
				}
				h.server.Close()
			}
		})
	}
	lanes.Wait()
	if t.Failed() {
		return
	}
	testenv.Proved(t, "money", "%d histories of %d stories, with %d deliveries of events, of which %d were cut short first, %d of those anywhere by time: one end state for each story, that of Stripe's last word",
		total, len(stories), deliveries.Load(), w.cut.Load(), w.killed.Load())
}

var states sync.Map

// TestEveryOrderOfAPurchasesEventsSellsOneLicence delivers the events of a purchase in all orders.
func TestEveryOrderOfAPurchasesEventsSellsOneLicence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	random := rand.New(rand.NewPCG(1, 1))
	var orders [][]int
	var permute func(done, left []int)
	permute = func(done, left []int) {
		if len(left) == 0 {
			orders = append(orders, append([]int(nil), done...))
		}
		for i := range left {
			rest := append(append([]int(nil), left[:i]...), left[i+1:]...)
			permute(append(append([]int(nil), done...), left[i]), rest)
		}
	}
	permute(nil, []int{0, 1, 2, 3})
	first := ""
	for _, order := range orders {
		h := w.begin()
		buy(h)
		events := h.sim.Events()
		if len(events) != len(order) {
			t.Fatalf("a purchase has the events %v", events)
		}
		for _, i := range order {
			h.receive(random, events[i].ID, false)
		}
		got := h.state()
		if first == "" {
			first = got
		}
		if got != first || !strings.Contains(got, stories[0].want) || !strings.HasPrefix(got, "1 sold 1 of") {
			t.Errorf("in the order %v: %s, in the first %s", order, got, first)
		}
	}
}

func TestFiftyDeliveriesAtOnceSellOneLicence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.begin()
	buy(h)
	events := h.sim.Events()
	var all sync.WaitGroup
	for i := range 50 {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		all.Go(func() { h.receive(random, events[i%len(events)].ID, false) })
	}
	all.Wait()
	if got := h.state(); !strings.HasPrefix(got, "1 sold 1 of") {
		t.Errorf("there are %s", got)
	}
}

func TestAnEventOfAnotherTenantsThingChangesNothingAndStandsAsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.begin(), w.begin()
	buy(a)
	for _, e := range a.sim.Events() {
		a.receive(rand.New(rand.NewPCG(1, 1)), e.ID, false)
	}
	before := a.state()
	// It names b's customer, and a's subscription.
	forged := billing.Event{ID: "evt_forged", Type: "customer.subscription.deleted", APIVersion: stripesim.Version, CreatedAt: epoch, Object: a.sub, Customer: b.customer, Subscription: a.sub}
	if _, err := a.books.Receive(t.Context(), forged); code(err) != billing.ErrRefused.Code {
		t.Errorf("answered %v", err)
	}
	if got := a.state(); got != before {
		t.Errorf("a has %s, and had %s", got, before)
	}
	if got := testenv.Value[string](t, w.db, `
		SELECT (SELECT count(*) FROM app.subscriptions WHERE tenant_id = $1) || ' ' || string_agg(id || ' ' || status, ' ') FROM app.stripe_events WHERE tenant_id = $1`, b.tenant); got != "0 evt_forged refused" {
		t.Errorf("b has %s", got)
	}
	forged.Customer, forged.ID = "cus_nobody", "evt_nobody"
	if out, err := a.books.Receive(t.Context(), forged); err != nil || out.Result != billing.Ignored {
		t.Errorf("answered %+v, %v", out, err)
	}
	forged.Live = true
	if _, err := a.books.Receive(t.Context(), forged); code(err) != billing.ErrLive.Code {
		t.Errorf("a live event at a test key is answered %v", err)
	}
}

func TestAnEventThatFailedStaysUntilItIsReplayed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.begin()
	buy(h)
	w.db.Exec(t, `UPDATE app.plans SET ttl_seconds = 1 WHERE code = 'team'`)
	broken := billing.NewBooks(billing.BooksDeps{DB: w.pool, Stripe: h.stripe, Registry: strict(t), Notices: h.notices, Now: h.now, Log: w.log.Logger})
	e, err := billing.ParseEvent(h.sim.Payload(h.sim.Events()[0].ID, stripesim.Version))
	must(t, err)
	if _, err := broken.Receive(t.Context(), e); err == nil {
		t.Error("a plan that may not be sold was sold")
	}
	if got := h.state(); !strings.Contains(got, "0 sold 0") || !strings.Contains(got, "FAILED customer.subscription.created") {
		t.Errorf("there are %s", got)
	}
	if out, err := h.books.Replay(t.Context(), e.ID); err != nil || out.Result != billing.Done || len(out.Licenses) != 1 {
		t.Errorf("replayed: %+v, %v", out, err)
	}
	if got := h.state(); !strings.HasPrefix(got, "1 sold 1 of") || strings.Contains(got, "FAILED") {
		t.Errorf("there are %s", got)
	}
	if _, err := h.books.Replay(t.Context(), "evt_nobody"); fault.As(err) == nil || fault.As(err).Kind != fault.KindNotFound {
		t.Errorf("what is not there is answered %v", err)
	}
}

// strict sells no lease under a minute.
func strict(t *testing.T) *license.Registry {
	t.Helper()
	var peppers secret.Peppers
	must(t, peppers.UnmarshalText([]byte("1:"+strings.Repeat("A", 43)+"=")))
	r, err := license.NewRegistry(license.RegistryConfig{Peppers: peppers, ShortestTTLSeconds: 60})
	must(t, err)
	return r
}

func TestOnlyWhatIsSignedNowByALiveSecretIsBelieved(t *testing.T) {
	t.Parallel()
	secrets := billing.Secrets{"whsec_new_one", "whsec_old_one"}
	payload, now := []byte(`{"id":"evt_1"}`), epoch
	sign := func(age time.Duration, by ...string) string { return stripesim.Sign(payload, now.Add(-age), by...) }
	for name, c := range map[string]struct {
		header string
		good   bool
	}{
		"the new secret":       {sign(0, "whsec_new_one"), true},
		"the old secret":       {sign(0, "whsec_old_one"), true},
		"both":                 {sign(0, "whsec_old_one", "whsec_new_one"), true},
		"five minutes ago":     {sign(300*time.Second, "whsec_new_one"), true},
		"a minute ahead":       {sign(-60*time.Second, "whsec_new_one"), true},
		"older":                {sign(301*time.Second, "whsec_new_one"), false},
		"further ahead":        {sign(-61*time.Second, "whsec_new_one"), false},
		"another secret":       {sign(0, "whsec_other"), false},
		"none":                 {"", false},
		"two times":            {fmt.Sprintf("t=%d,%s", now.Unix(), sign(time.Hour, "whsec_new_one")), false},
		"another scheme alone": {strings.ReplaceAll(sign(0, "whsec_new_one"), "v1=", "v0="), false},
	} {
		if err := secrets.Verify(payload, c.header, now); (err == nil) != c.good || err != nil && code(err) != billing.ErrSignature.Code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if secrets.Verify([]byte(`{"id":"evt_2"}`), sign(0, "whsec_new_one"), now) == nil {
		t.Error("another payload passes")
	}
}
