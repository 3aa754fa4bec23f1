package billing_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// TestWhatStripeChargesInAPeriodIsWhatWasHeldInIt changes the number of seats up and down within periods, with cards that work
// and cards that do not. Stripe takes for a period what its first seats cost, and for each further seat that the licence got what
// it costs from then on: no unit twice, whatever was lowered in between, and whatever was declined.
func TestWhatStripeChargesInAPeriodIsWhatWasHeldInIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 6 {
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		h := w.begin()
		buy(h)
		holds := func() int64 {
			_, err := h.books.Settle(t.Context(), tenancy.Verified(h.tenant), h.sub, "test")
			must(t, err)
			return testenv.Value[int64](t, w.db, `SELECT max_seats::bigint FROM app.licenses WHERE tenant_id = $1`, h.tenant)
		}
		costs := func(seats int64) int64 { return 29000 + 5000*(seats-5) }
		period := func() (start, end int64) {
			s := h.sim.Get(h.sub)
			return int64(s["current_period_start"].(float64)), int64(s["current_period_end"].(float64))
		}
		start, end := period()
		want := map[int64]int64{start: costs(holds())}
		held := holds()
		for range 12 {
			h.sim.Card(h.customer, true)
			h.sim.Advance(time.Duration(1+random.IntN(4*24)) * time.Hour)
			if s, e := period(); s != start {
				h.sim.Advance(2 * time.Hour) // its invoice is paid
				start, end = s, e
				held = holds()
				want[start] = costs(held)
			}
			h.sim.Card(h.customer, random.IntN(4) != 0)
			seats(5 + random.IntN(6))(h)
			if now := holds(); now > held {
				want[start] += (costs(now) - costs(held)) * (end - h.sim.Now().Unix()) / (end - start)
				held = now
			} else if now < held {
				t.Errorf("seed %d: %d seats are held, %d were", seed, now, held)
			}
		}
		charged := map[int64]int64{}
		for _, id := range h.sim.Find("invoice", h.customer) {
			inv := h.sim.Get(id)
			if inv["paid"] != true {
				continue
			}
			at := int64(inv["created"].(float64))
			var of int64
			for from := range want {
				if from <= at && from > of {
					of = from
				}
			}
			charged[of] += int64(inv["total"].(float64))
		}
		for from, amount := range want {
			if charged[from] != amount {
				t.Errorf("seed %d: for the period from %s Stripe took %d, and what was held costs %d", seed, time.Unix(from, 0).UTC(), charged[from], amount)
			}
		}
	}
}

// A raise beyond what is held after a lowering is declined: the lowering stands, and a later payment of what was declined
// does not come.
func TestARaiseThatIsDeclinedLeavesALoweringAsItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.begin()
	buy(h)
	seats(5)(h)
	cardFails(h)
	seats(9)(h)
	cardWorks(h)
	if h.sim.Pay(h.customer) {
		t.Error("what was declined can still be paid")
	}
	_, err := h.books.Settle(t.Context(), tenancy.Verified(h.tenant), h.sub, "test")
	must(t, err)
	got := testenv.Value[string](t, w.db, `SELECT seats || ' ' || next_seats FROM app.subscriptions WHERE tenant_id = $1`, h.tenant)
	if got != "6 5" {
		t.Errorf("held and next are %s, want 6 5", got)
	}
}
