package seat

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/testenv"
)

// waits checks the holder's place.
func (w *world) waits(holder string, position, length int) Grant {
	w.t.Helper()
	g := w.queue(holder)
	if g.Verdict != Queued || g.Position != position || g.Counts.Queue != length || g.Poll != w.at.cfg.Poll {
		w.t.Fatalf("%s: %+v, want place %d of %d", holder, g, position, length)
	}
	return g
}

func TestWaitersSitInTheOrderInWhichTheyCame(t *testing.T) {
	w := newWorld(t, 1)
	sitting := w.sit("sitting")
	if g := w.waits("first", 1, 1); g.ETA != 0 {
		t.Errorf("a guess from nothing: %s", g.ETA)
	}
	w.waits("second", 2, 2)
	w.waits("third", 3, 3)
	w.waits("first", 1, 3) // asking again keeps the place
	w.release(sitting)
	w.waits("third", 3, 3)
	w.waits("second", 2, 3)
	if g := w.ask("overtaker"); g.Verdict != Full || g.Counts.Queue != 3 {
		t.Fatalf("overtaker: %+v, want full: the free seat is the first waiter's", g)
	}
	g := w.queue("first")
	if g.Verdict != Granted || g.Ref.Seat != 1 {
		t.Fatalf("first: %+v, want the seat", g)
	}
	w.waits("second", 1, 2)
	w.release(g.Ref)
	w.waits("third", 2, 2)
	if g = w.queue("second"); g.Verdict != Granted {
		t.Fatalf("second: %+v, want the seat", g)
	}
	if g := w.waits("third", 1, 1); g.ETA <= 0 {
		t.Error("no guess, though two seats came free")
	}
}

func TestAWaiterThatLeavesMakesRoom(t *testing.T) {
	w := newWorld(t, 1)
	sitting := w.sit("sitting")
	w.waits("first", 1, 1)
	w.waits("second", 2, 2)
	for _, want := range []bool{true, false} {
		if left, err := w.Leave(w.ctx(), w.tenant, w.license, "device:first"); err != nil || left != want {
			t.Errorf("leave: %v, %v, want %v", left, err, want)
		}
	}
	w.waits("second", 1, 1)
	w.release(sitting)
	if g := w.queue("second"); g.Verdict != Granted {
		t.Errorf("second: %+v, want the seat", g)
	}
}

func TestADeadWaiterDelaysNobodyBeyondThreePolls(t *testing.T) {
	w := newWorld(t, 1, func(s *site) { s.cfg.Poll = time.Second })
	sitting := w.sit("sitting")
	w.waits("dead", 1, 1)
	died := time.Now()
	w.waits("alive", 2, 2)
	w.release(sitting)
	testenv.Eventually(t, soon, func() error {
		if g := w.queue("alive"); g.Verdict != Granted {
			return fmt.Errorf("%+v", g)
		}
		return nil
	})
	if after := time.Since(died); after < 2900*time.Millisecond || after > 10*time.Second {
		t.Errorf("the seat came after %s, want three polls", after)
	}
	w.waits("dead", 1, 1) // at the end of the queue again
}

func TestTheQueueNeverGrantsMoreThanTheSeats(t *testing.T) {
	w := newWorld(t, 3)
	var mu sync.Mutex
	seats := map[int]bool{}
	most := 0
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			var ref Ref
			testenv.Eventually(t, 30*time.Second, func() error {
				g, err := w.Acquire(w.ctx(), w.tenant, w.license, device(fmt.Sprint(i)), Ask{Wait: true})
				if err != nil {
					return err
				}
				if g.Verdict != Granted {
					until(time.Now().Add(10 * time.Millisecond))
					return fmt.Errorf("%+v", g)
				}
				ref = g.Ref
				return nil
			})
			mu.Lock()
			if seats[ref.Seat] {
				t.Errorf("seat %d was granted twice", ref.Seat)
			}
			seats[ref.Seat] = true
			most = max(most, len(seats))
			mu.Unlock()
			until(time.Now().Add(30 * time.Millisecond))
			mu.Lock()
			delete(seats, ref.Seat)
			mu.Unlock()
			testenv.Eventually(t, soon, func() error { _, err := w.Release(w.ctx(), ref); return err })
		})
	}
	wg.Wait()
	if most > 3 {
		t.Errorf("%d sat at once on 3 seats", most)
	}
}

func TestAQueueSurvivesARebuildOfThePool(t *testing.T) {
	w := newWorld(t, 1)
	w.sit("sitting")
	w.waits("first", 1, 1)
	w.waits("second", 2, 2)
	w.must(w.rebuild(w.ctx(), w.pool(), w.epoch()))
	w.waits("second", 2, 2)
	w.waits("third", 3, 3)
	w.waits("first", 1, 3)
}
