package seat

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/coditect/usher/shared/tenancy"
)

// used is the hours that were carried, each as its peak, denials and seats needed.
func (w *world) used() (all []string) {
	w.t.Helper()
	w.must(w.Pools.db.AsReadOnly(w.ctx(), w.tenant, func(tx tenancy.Tx) error {
		hours, err := ListHours(w.ctx(), tx, w.tenant, w.license, time.Unix(0, 0), time.Now().Add(24*time.Hour))
		for _, h := range hours {
			all = append(all, fmt.Sprintf("%d %d %d", h.Peak, h.Denials, h.Needed))
		}
		return err
	}))
	return all
}

// hasUsed sweeps, and checks which hours were carried then.
func (w *world) hasUsed(want ...string) {
	w.t.Helper()
	w.sweep()
	if got := w.used(); !slices.Equal(got, want) {
		w.t.Fatalf("hours are %q, want %q", got, want)
	}
}

// hourPasses makes of the hour that runs the one before it.
func (w *world) hourPasses() {
	w.t.Helper()
	w.redis.Do(w.t, "HINCRBY", w.key("demand"), "h", "-1")
}

// steadily waits for the next hour where one is about to end: half a minute at most, so that a test is about one alone.
func steadily(t *testing.T) {
	t.Helper()
	if left := time.Until(time.Now().Truncate(time.Hour).Add(time.Hour)); left < 30*time.Second {
		time.Sleep(left + 100*time.Millisecond)
	}
}

func TestAnHourHasItsPeakAndWhoWasDenied(t *testing.T) {
	w := newWorld(t, 2)
	steadily(t)
	a := w.sit("a")
	w.hasUsed("1 0 1")
	w.sit("b")
	for range 3 { // however often it asks
		w.ask("c")
		w.queue("d")
	}
	w.hasUsed("2 2 4")
	w.release(a)
	w.ask("c") // behind d
	w.queue("d")
	w.hasUsed("2 2 4")
	w.ask("c") // wants a seat still
	w.ask("e")
	w.hasUsed("2 3 4")
	w.ask("f")
	w.hasUsed("2 4 5")
	if again := w.sweep(); again.Hours != 0 {
		t.Errorf("a sweep with nothing new carried %d hours", again.Hours)
	}
}

func TestAHolderThatGotASeatIsDeniedAgain(t *testing.T) {
	w := newWorld(t, 1)
	steadily(t)
	a := w.sit("a")
	w.ask("b")
	w.release(a)
	b := w.sit("b")
	w.ask("a")
	w.release(b)
	w.sit("a")
	w.ask("b")
	w.hasUsed("1 2 2") // there were never more than two at a time
}

func TestANewHourBeginsWithWhoSits(t *testing.T) {
	w := newWorld(t, 3)
	steadily(t)
	a := w.sit("a")
	w.sit("b")
	w.sit("c")
	w.ask("d")
	w.release(a)
	w.hourPasses() // and is carried late
	w.ask("e")     // which gets a seat in the next
	w.hasUsed("3 1 4", "3 0 3")
}

func TestAnHourInWhichNobodyAskedHasWhoSat(t *testing.T) {
	w := newWorld(t, 3)
	steadily(t)
	w.sit("a")
	w.sit("b")
	w.ask("a")
	w.hourPasses()
	w.hasUsed("2 0 2", "2 0 2")
}

func TestWhatWasCarriedOutlivesThePool(t *testing.T) {
	w := newWorld(t, 2)
	steadily(t)
	w.sit("a")
	w.sit("b")
	w.ask("c")
	w.hasUsed("2 1 3")
	w.redis.Do(t, "FLUSHALL")
	w.sweep() // rebuilds
	w.ask("c")
	w.hasUsed("2 1 3")
}

func TestWhoIsDeniedIsCountedUpToABound(t *testing.T) {
	w := newWorld(t, 1)
	steadily(t)
	w.sit("a")
	w.ask("b")
	for i := range 4096 {
		w.redis.Do(t, "HSET", w.key("denied"), fmt.Sprint(i), "1")
	}
	w.ask("c")
	w.hasUsed("1 1 2")
}
