package seat

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// beatAtOnce sends so many heartbeats of one session at the same time and answers what became of each.
func (w *world) beatAtOnce(ctx context.Context, ref Ref, n int) (alive int, errs []error) {
	w.t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			beat, err := w.Heartbeat(ctx, ref)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			} else if beat.Alive {
				alive++
			}
		})
	}
	all.Wait()
	return alive, errs
}

// reads is how often the store has read from a connection.
func (w *world) reads() (n int) {
	w.t.Helper()
	info := fmt.Sprint(w.redis.Do(w.t, "INFO", "stats"))
	value, ok := infoField(info, "total_reads_processed")
	if _, err := fmt.Sscan(value, &n); !ok || err != nil {
		w.t.Fatalf("no total_reads_processed in %s", info)
	}
	return n
}

func TestScriptsOfConcurrentCallsTravelTogether(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	before := w.reads()
	const calls = 500
	w.redis.Pause(t)
	begun := time.AfterFunc(500*time.Millisecond, func() { w.redis.Resume(t) }) // by then they all wait
	defer begun.Stop()
	if alive, errs := w.beatAtOnce(t.Context(), ref, calls); alive != calls {
		t.Fatalf("%d of %d heartbeats were answered: %v", alive, calls, errs)
	}
	if reads := w.reads() - before; reads > calls/2 {
		t.Errorf("Redis read %d times for %d concurrent heartbeats", reads, calls)
	}
}

func TestNoCallWaitsBeyondItsDeadlineForASilentStore(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.redis.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	alive, errs := w.beatAtOnce(ctx, ref, 50)
	took := time.Since(began)
	w.redis.Resume(t)
	if alive > 0 || len(errs) != 50 {
		t.Errorf("%d heartbeats were answered by a frozen store, %d failed", alive, len(errs))
	}
	for _, err := range errs {
		w.isUnavailable(err)
	}
	if took > w.cfg.Timeout/2 {
		t.Errorf("calls with 300 ms came back after %s", took)
	}
	w.alive(ref)
}

func TestAForgottenScriptIsLoadedAgainForEverybodyAboard(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	for range 5 {
		w.redis.Do(t, "SCRIPT", "FLUSH")
		if alive, errs := w.beatAtOnce(t.Context(), ref, 100); alive != 100 {
			t.Fatalf("%d of 100 heartbeats were answered: %v", alive, errs)
		}
	}
	if stats := fmt.Sprint(w.redis.Do(t, "INFO", "errorstats")); !strings.Contains(stats, "errorstat_NOSCRIPT") {
		t.Errorf("no script had been forgotten: %s", stats)
	}
}
