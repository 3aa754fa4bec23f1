// Package stripesim plays Stripe: at the wire, as far as package billing speaks with it, with a state, a clock that can be
// moved, and signed webhooks. It is for tests and for `make run`; nothing that is deployed links it, and it links nothing
// of Stripe's, so that a misunderstanding cannot be in both.
//
// It knows customers, prices, Checkout Sessions with a small page to pay at, subscriptions, invoices, charges, refunds,
// disputes, meter events, events, and the billing portal, in the shapes of the API version 2023-10-16. Events can be delivered in the
// shapes of 2025-03-31.basil, too, in any order and as often as somebody likes.
package stripesim

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// The versions of the API whose shapes events may have.
const (
	Version      = "2023-10-16"
	NewerVersion = "2025-03-31.basil"
)

// Price is one that can be bought.
type Price struct {
	ID       string
	Amount   int64 // for a unit and interval, in minor units
	Currency string
	Interval string // month or year
	// Meter is the name of the meter events whose values are billed when a period is over; "" for a price that is paid ahead.
	Meter string
	// UsageRecords says that it bills by usage records, the older form, when a period is over.
	UsageRecords bool
}

// Options say what is played.
type Options struct {
	// URL is where the pages are, for people.
	URL string
	// Key is the secret key that is accepted: sk_test_…
	Key    string
	Prices []Price
	// Coupon is the id of a coupon of 20 percent for three months; "" for none.
	Coupon string
	// File keeps the state; "" for none.
	File string
	// Frozen is the time at which the clock stands until it is moved; zero for the real time, which may be moved, too.
	Frozen time.Time
	// Webhook is where events are sent, signed with Secret; "" for nowhere: tests fetch them.
	Webhook, Secret string
}

type object = map[string]any

// Sim is the stand-in. It is safe for concurrent use.
type Sim struct {
	options Options
	mux     *http.ServeMux
	meters  map[string]bool // by their event names

	mu      sync.Mutex
	st      state
	faults  Faults
	pending chan struct{} // something is to be delivered
}

// state is all that is kept.
type state struct {
	Frozen int64 // 0: the clock goes
	Offset int64 // seconds that it was moved
	Count  int
	// Things are by their id: what a real account has.
	Things map[string]object
	Order  []string // the ids, as they were made
	// Replies are the answers to requests, by their idempotency keys.
	Replies map[string]reply
	// Used are meter events, by their identifiers.
	Used map[string]used
	// Queue are events that are still to be delivered, by their ids, and when.
	Queue []delivery
}

type reply struct {
	Request string
	Status  int
	Body    json.RawMessage
}

type delivery struct {
	Event    string
	At       int64 // in real milliseconds
	Attempts int
}

// Faults are what goes wrong. The zero value is nothing.
type Faults struct {
	// Down answers 500 to everything asked of the API; Hang does not answer until the client goes.
	Down, Hang bool
	// Lose does what it is asked, and answers 500: so often.
	Lose int
	// Slow answers the sum of a meter without what came within the last minute: so often.
	Slow int
	// Duplicate delivers each event so many times more; Reverse delivers each event after the next one; Delay delivers
	// later; Drop loses the first delivery of every n-th event, so that it comes with Stripe's repetition only.
	Duplicate int
	Reverse   bool
	Delay     time.Duration
	Drop      int
}

// New plays Stripe, from where the file says it stopped.
func New(o Options) (*Sim, error) {
	s := &Sim{options: o, pending: make(chan struct{}, 1), meters: map[string]bool{}}
	s.st = state{Things: map[string]object{}, Replies: map[string]reply{}, Used: map[string]used{}}
	if !o.Frozen.IsZero() {
		s.st.Frozen = o.Frozen.Unix()
	}
	if o.File != "" {
		text, err := os.ReadFile(o.File)
		if err == nil {
			err = json.Unmarshal(text, &s.st)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read Stripe's state: %w", err)
		}
	}
	for _, p := range o.Prices {
		s.st.Things[p.ID] = object{
			"id": p.ID, "object": "price", "active": true, "currency": p.Currency, "unit_amount": p.Amount, "livemode": false, "type": "recurring",
			"billing_scheme": "per_unit", "product": "prod_" + p.ID,
			"recurring": object{"interval": p.Interval, "interval_count": 1, "usage_type": "licensed"},
		}
		if p.UsageRecords {
			s.st.Things[p.ID]["recurring"] = object{
				"interval": p.Interval, "interval_count": 1, "usage_type": "metered", "aggregate_usage": "sum", "meter": nil, "sim_event_name": p.ID,
			}
		}
		if p.Meter != "" {
			s.meters[p.Meter] = true
			if s.st.Things["mtr_"+p.Meter] == nil {
				s.st.Order = append(s.st.Order, "mtr_"+p.Meter)
			}
			s.st.Things["mtr_"+p.Meter] = object{
				"id": "mtr_" + p.Meter, "object": "billing.meter", "event_name": p.Meter, "status": "active", "livemode": false,
				"default_aggregation": object{"formula": "sum"}, "value_settings": object{"event_payload_key": "value"},
				"customer_mapping": object{"type": "by_id", "event_payload_key": "stripe_customer_id"},
			}
			s.st.Things[p.ID]["recurring"] = object{"interval": p.Interval, "interval_count": 1, "usage_type": "metered", "meter": "mtr_" + p.Meter, "sim_event_name": p.Meter}
		}
	}
	if o.Coupon != "" {
		s.st.Things[o.Coupon] = object{
			"id": o.Coupon, "object": "coupon", "percent_off": 20, "duration": "repeating", "duration_in_months": 3, "valid": true,
		}
	}
	s.mux = s.routes()
	return s, nil
}

// Fault makes things go wrong from now on.
func (s *Sim) Fault(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// Now is Stripe's time.
func (s *Sim) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Unix(s.now(), 0).UTC()
}

func (s *Sim) now() int64 {
	if s.st.Frozen != 0 {
		return s.st.Frozen
	}
	return time.Now().Unix() + s.st.Offset
}

// save keeps the state. The caller holds the lock.
func (s *Sim) save() {
	if s.options.File == "" {
		return
	}
	text, err := json.Marshal(s.st)
	if err == nil {
		if err = os.WriteFile(s.options.File+".new", text, 0o600); err == nil {
			err = os.Rename(s.options.File+".new", s.options.File)
		}
	}
	if err != nil {
		panic(fmt.Sprintf("stripesim: keep the state: %v", err))
	}
}

// id makes an id that was never there.
func (s *Sim) id(prefix string) string {
	s.st.Count++
	noise := make([]byte, 4)
	_, _ = rand.Read(noise) // never fails
	return fmt.Sprintf("%s_sim%05d%s", prefix, s.st.Count, hex.EncodeToString(noise))
}

// add keeps a new thing.
func (s *Sim) add(o object) object {
	o["livemode"] = false
	if o["created"] == nil {
		o["created"] = s.now()
	}
	id := str(o["id"])
	s.st.Things[id] = o
	s.st.Order = append(s.st.Order, id)
	return o
}

// all are the things of a kind that a condition holds for, the newest first.
func (s *Sim) all(kind string, where func(object) bool) []object {
	var found []object
	for _, id := range slices.Backward(s.st.Order) {
		if o := s.st.Things[id]; o["object"] == kind && where(o) {
			found = append(found, o)
		}
	}
	return found
}

// The objects are what JSON makes of them, when they were read from the file.
func str(v any) string { text, _ := v.(string); return text }

func num(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case int:
		return int64(n)
	case float64:
		return int64(n)
	}
	return 0
}

func obj(v any) object { o, _ := v.(map[string]any); return o }

func list(v any) []any { l, _ := v.([]any); return l }

// clone is a copy of all that an object holds.
func clone(o object) object {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var copied object
	if err := json.Unmarshal(text, &copied); err != nil {
		panic(err)
	}
	return copied
}

// emit makes an event about an object as it is now.
func (s *Sim) emit(kind string, about object) {
	e := s.add(object{
		"id": s.id("evt"), "object": "event", "type": kind, "api_version": Version, "pending_webhooks": 1,
		"data": object{"object": clone(about)}, "request": object{"id": nil, "idempotency_key": nil},
	})
	if s.options.Webhook == "" {
		return
	}
	at := time.Now().Add(s.faults.Delay).UnixMilli()
	if s.faults.Reverse && s.st.Count%2 == 0 {
		at += 700
	}
	if s.faults.Drop > 0 && s.st.Count%s.faults.Drop == 0 {
		at += 3000
	}
	for range 1 + s.faults.Duplicate {
		s.st.Queue = append(s.st.Queue, delivery{Event: str(e["id"]), At: at})
	}
	select {
	case s.pending <- struct{}{}:
	default:
	}
}

// Event is one that was made.
type Event struct{ ID, Type, Object string }

// Events are all that were made, in their order.
func (s *Sim) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var made []Event
	for _, id := range s.st.Order {
		if o := s.st.Things[id]; o["object"] == "event" {
			made = append(made, Event{id, str(o["type"]), str(obj(obj(o["data"])["object"])["id"])})
		}
	}
	return made
}

// Payload is an event as it is delivered, in the shapes of a version.
func (s *Sim) Payload(id, version string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := clone(s.st.Things[id])
	if version == NewerVersion {
		e["api_version"] = NewerVersion
		reshape(obj(obj(e["data"])["object"]))
	}
	text, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return text
}

// reshape makes an object what newer versions of the API make of it, as far as it matters: what said of a thing to which
// subscription it belongs has moved, or is gone.
func reshape(o object) {
	switch o["object"] {
	case "invoice":
		o["parent"] = object{"type": "subscription_details", "subscription_details": object{"subscription": o["subscription"]}}
		for _, gone := range []string{"subscription", "charge", "payment_intent", "paid"} {
			delete(o, gone)
		}
	case "charge":
		delete(o, "invoice")
	case "subscription":
		for _, item := range list(obj(o["items"])["data"]) {
			obj(item)["current_period_start"], obj(item)["current_period_end"] = o["current_period_start"], o["current_period_end"]
		}
		delete(o, "current_period_start")
		delete(o, "current_period_end")
	}
}

// Get is a thing as the API shows it; nil when there is none.
func (s *Sim) Get(id string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.st.Things[id]; o != nil {
		return clone(o)
	}
	return nil
}

// Find are the ids of all things of a kind of a customer's ("" for anybody's), the newest first.
func (s *Sim) Find(kind, customer string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, o := range s.all(kind, func(o object) bool { return customer == "" || o["customer"] == customer }) {
		ids = append(ids, str(o["id"]))
	}
	return ids
}

// Change runs fn on a thing, and emits the event of that type about it, unless it is "".
func (s *Sim) Change(id, event string, fn func(map[string]any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.st.Things[id]
	fn(o)
	if event != "" {
		s.emit(event, o)
	}
	s.save()
}
