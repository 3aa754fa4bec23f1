package seat

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/testenv"
)

// belief is a time in which a holder believed that it sits.
type belief struct{ from, to time.Time }

// beliefs of all holders of a licence.
type beliefs struct {
	mu  sync.Mutex
	all []belief
}

func (b *beliefs) add(from, to time.Time) {
	if to.After(from) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.all = append(b.all, belief{from, to})
	}
}

// most is the largest number of holders that believed at one moment.
func (b *beliefs) most() (most int) {
	type edge struct {
		at   time.Time
		step int
	}
	var edges []edge
	for _, x := range b.all {
		edges = append(edges, edge{x.from, 1}, edge{x.to, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.step, b.step)) })
	now := 0
	for _, e := range edges {
		now += e.step
		most = max(most, now)
	}
	return most
}

// crowd are honest holders that take, keep, give back and forget seats until the world ends.
type crowd struct {
	w                      *world
	acquire, beat, release *Pools
	beliefs                beliefs
	granted, renewed       atomic.Int64
	over                   atomic.Bool
}

// holder sits again and again. It believes from the answer until a lease after sending what was answered; when it gives
// its seat back, until it sends that.
func (c *crowd) holder(name string) {
	ctx := c.w.ctx()
	for n := 0; !c.over.Load(); n++ {
		sent := time.Now()
		g, err := c.acquire.Acquire(ctx, c.w.tenant, c.w.license, device(fmt.Sprint(name, ".", n)), Ask{})
		if err != nil || g.Verdict != Granted {
			until(time.Now().Add(time.Duration(10+rand.IntN(40)) * time.Millisecond))
			continue
		}
		c.granted.Add(1)
		from, to := time.Now(), sent.Add(g.TTL)
		leaves := time.Now().Add(time.Duration(rand.Int64N(int64(2 * lease))))
		for {
			until(time.Now().Add(lease/6 + time.Duration(rand.Int64N(int64(lease/6)))))
			sent = time.Now()
			if sent.After(to) {
				break // it could not renew in time, and has stopped by itself
			}
			if sent.After(leaves) {
				if rand.IntN(3) > 0 {
					to = sent
					_, _ = c.release.Release(ctx, g.Ref) // answered or not, it has stopped
				}
				break // or it crashes
			}
			b, err := c.beat.Heartbeat(ctx, g.Ref)
			if err != nil {
				continue
			}
			if heard := time.Now(); !b.Alive && heard.After(to) {
				break // it asked in time, and was too late when it was heard
			}
			if !b.Alive {
				c.w.t.Errorf("a holder that believed until %s heard %+v at %s", to, b.Ending, time.Now())
				to = sent
				break
			}
			c.renewed.Add(1)
			to = sent.Add(b.TTL)
		}
		c.beliefs.add(from, to)
	}
}

// run lets as many holders as are said at the seats, with troubles meanwhile: for a while, and until there was some life.
func (c *crowd) run(holders int, during time.Duration, trouble func()) {
	c.w.t.Helper()
	least, most := time.Now().Add(during), time.Now().Add(during+2*soon)
	var wg sync.WaitGroup
	for i := range holders {
		wg.Go(func() { c.holder(fmt.Sprint(i)) })
	}
	sweeper := c.w.pools("usher_sweep")
	wg.Go(func() {
		for !c.over.Load() {
			_, _ = sweeper.Sweep(c.w.ctx()) // in the midst of trouble it may fail
			until(time.Now().Add(50 * time.Millisecond))
		}
	})
	for time.Now().Before(least) || c.lifeless() && time.Now().Before(most) {
		// Often before the floor of the last trouble has passed, which keeps dead seats taken, and often after it.
		until(time.Now().Add(time.Duration(rand.Int64N(int64(5 * floor / 2)))))
		trouble()
	}
	c.over.Store(true)
	wg.Wait()
}

func (c *crowd) lifeless() bool { return c.granted.Load() < 6 || c.renewed.Load() < 10 }

// crowded is brisk, except that a reservation outlasts an acquire on a busy machine.
func crowded(s *site) {
	brisk(s)
	s.cfg.Reservation = 3 * time.Second
}

func newCrowd(w *world) *crowd {
	return &crowd{w: w, acquire: w.pools("usher_acquire"), beat: w.pools("usher_heartbeat"), release: w.pools("usher_release")}
}

// check checks that there was life, and never too much of it.
func (c *crowd) check(seats int) {
	c.w.t.Helper()
	if most := c.beliefs.most(); most > seats {
		c.w.t.Errorf("%d holders believed at once in %d seats", most, seats)
	}
	if c.lifeless() {
		c.w.t.Errorf("%d seats granted and %d heartbeats: nothing was tested", c.granted.Load(), c.renewed.Load())
	}
	c.w.t.Logf("%d granted, %d renewed, at most %d at once, epoch grew to %d", c.granted.Load(), c.renewed.Load(), c.beliefs.most(), c.w.epoch())
}

func TestWhateverHappensToRedisNoMoreBelieveThanThereAreSeats(t *testing.T) {
	t.Parallel()
	troubles := map[string]func(w *world){
		"flushed":         func(w *world) { w.redis.Do(w.t, "FLUSHALL") },
		"restarted empty": func(w *world) { w.redis.RestartEmpty(w.t) },
		"frozen": func(w *world) {
			w.redis.Pause(w.t)
			until(time.Now().Add(200 * time.Millisecond))
			w.redis.Resume(w.t)
		},
		"scripts forgotten": func(w *world) { w.redis.Do(w.t, "SCRIPT", "FLUSH") },
	}
	for name, trouble := range troubles {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 4, crowded)
			c := newCrowd(w)
			c.run(10, 5*time.Second, func() { trouble(w) })
			c.check(4)
		})
	}
}

func TestAFailoverUnderLoadGivesNoSeatTwice(t *testing.T) {
	var pair *testenv.Pair
	w := newWorld(t, 4, crowded, onPair(t, &pair))
	c := newCrowd(w)
	step := 0
	c.run(10, 4*time.Second, func() {
		switch step++; step {
		case 2:
			pair.CutReplication()
		case 3:
			pair.Failover(t)
		}
	})
	c.check(4)
}
