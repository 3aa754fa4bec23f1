package seat

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/testenv"
)

func TestASeatIsTakenKeptRefusedAndGivenBack(t *testing.T) {
	w := newWorld(t, 1)
	first := w.sit("one")
	b := w.alive(first)
	if b.Counts != (Counts{Active: 1, Max: 1}) || b.TTL != longLease || b.ExpiresAt.Sub(b.At) != longLease || !b.DrainUntil.IsZero() {
		t.Errorf("heartbeat: %+v, want one of one active, for a minute", b)
	}
	w.full()
	if e := w.release(first); e.Status != Released || e.Reason != ReasonReleased || e.By != "holder" || e.At.IsZero() {
		t.Errorf("release: %+v", e)
	}
	w.sit("two")
}

func TestHeartbeatsKeepASeatForAsLongAsTheyCome(t *testing.T) {
	w := newWorld(t, 1, func(s *site) { s.lease = 2 * lease })
	ref := w.sit("one")
	for end := time.Now().Add(5 * lease); time.Now().Before(end); until(time.Now().Add(lease / 4)) {
		w.alive(ref)
		w.full()
	}
}

func TestAnEndedSessionCanNeitherRenewNorReleaseItsSuccessor(t *testing.T) {
	t.Parallel()
	ends := map[string]func(w *world, ref Ref) (status string){
		"released": func(w *world, ref Ref) string { w.release(ref); return Released },
		"lapsed":   func(w *world, ref Ref) string { w.expire(ref.Session); return Lapsed },
		"evicted": func(w *world, ref Ref) string {
			w.must(w.Evict(w.ctx(), w.tenant, ref.Session, "abuse", "admin"))
			w.over(ref, Evicted, "abuse")
			w.release(ref)
			return Evicted
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			old := w.sit("one")
			want := end(w, old)
			next := w.sit("two")
			for range 2 {
				if b := w.beat(old); b.Alive || b.Ending.Status != want {
					t.Errorf("heartbeat of the old session: %+v, want %s", b, want)
				}
				if e := w.release(old); e.Status != want {
					t.Errorf("release of the old session: %+v, want %s", e, want)
				}
			}
			w.alive(next)
			w.full()
			w.hasRows(next.Session)
			if h := w.history(old.Session); h.Status != want || h.At.IsZero() {
				t.Errorf("history: %+v, want %s", h, want)
			}
			w.redis.Do(t, "FLUSHALL") // PostgreSQL alone knows it, too
			if b := w.beat(old); b.Alive || b.Ending.Status != want || b.Ending.At.IsZero() {
				t.Errorf("heartbeat of the old session after a loss of Redis: %+v, want %s", b, want)
			}
			if e := w.release(old); e.Status != want {
				t.Errorf("release of the old session after a loss of Redis: %+v, want %s", e, want)
			}
			w.alive(next)
		})
	}
}

func TestAFenceThatIsNotTheSessionsIsRefused(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	forged := ref
	forged.Counter++
	for range 2 { // with the pool warm, and after a loss of Redis
		if b := w.beat(forged); b.Alive {
			t.Errorf("heartbeat with another fence: %+v", b)
		}
		if e := w.release(forged); e.Status != Lapsed {
			t.Errorf("release with another fence: %+v", e)
		}
		w.hasRows(ref.Session)
		w.alive(ref)
		w.full()
		w.redis.Do(t, "FLUSHALL")
		w.alive(ref)
	}
}

func TestASessionOfWhichNothingIsKnownHasLapsed(t *testing.T) {
	w := newWorld(t, 1)
	ref := Ref{Tenant: w.tenant, License: w.license, Session: uuid.New(), Seat: 1, Epoch: 1, Counter: 1}
	w.over(ref, Lapsed, ReasonLeaseExpired)
	if e := w.release(ref); e.Status != Lapsed {
		t.Errorf("release: %+v", e)
	}
	ref.License = uuid.New()
	w.over(ref, Lapsed, ReasonLeaseExpired)
}

func TestAReservationIsNotRenewedByAHeartbeat(t *testing.T) {
	w := newWorld(t, 1)
	r := w.reserves("one")
	ref := Ref{Tenant: w.tenant, License: w.license, Session: r.session, Seat: r.seat, Epoch: r.fence.Epoch, Counter: r.fence.Counter}
	_, err := w.Heartbeat(w.ctx(), ref)
	w.isUnavailable(err)
	w.expire(r.session)
	w.sit("two")
}

func TestAPoolThatRedisLostIsRebuiltOnceForAllWhoAsk(t *testing.T) {
	log := testenv.Logs(t)
	w := newWorld(t, 20, func(s *site) { s.log = log.Logger })
	var refs []Ref
	for i := range 20 {
		refs = append(refs, w.sit(fmt.Sprint(i)))
	}
	w.redis.RestartEmpty(t)
	before := strings.Count(log.Text(), "seat pool rebuilt")
	var wg sync.WaitGroup
	for _, ref := range refs {
		wg.Go(func() {
			testenv.Eventually(t, soon, func() error { // the rebuild may keep some waiting for too long
				b, err := w.Heartbeat(w.ctx(), ref)
				if err == nil && !b.Alive {
					t.Errorf("a live holder heard %+v", b.Ending)
				}
				return err
			})
		})
	}
	wg.Wait()
	if n := strings.Count(log.Text(), "seat pool rebuilt") - before; n != 1 {
		t.Errorf("the pool was rebuilt %d times, want once", n)
	}
}

func TestAPoolRemembersSoManyEndingsAndPostgreSQLTheOthers(t *testing.T) {
	w := newWorld(t, 2)
	old, dirty := w.sit("old"), w.sit("dirty")
	w.release(old)
	w.must(w.letGo(w.ctx(), w.pool(), dirty.Session, dirty.Fence())) // its row stays open
	w.redis.Do(t, "ZREM", w.key("dirty"), old.Session.String())      // as the next taker of its seat would
	w.redis.Do(t, "EVAL", `for i = 1, 10000 do
		redis.call('ZADD', KEYS[1], ARGV[1] + i, i)
		redis.call('HSET', KEYS[2], i, 'of others')
	end`, "2", w.key("tombs"), w.key("ends"), time.Now().Add(48*time.Hour).UnixMilli())
	w.release(w.sit("one more"))
	for key, want := range map[string]int64{"ZCARD tombs": 10_002, "HLEN ends": 10_002} {
		command, name, _ := strings.Cut(key, " ")
		if n := w.redis.Do(t, command, w.key(name)); n != want {
			t.Errorf("%s: %v, want %d: one of three too many is dirty", key, n, want)
		}
	}
	if n := w.redis.Do(t, "HEXISTS", w.key("ends"), old.Session.String()); n != int64(0) {
		t.Error("the oldest is still remembered")
	}
	w.over(old, Released, ReasonReleased)
	w.sweep()
	w.ended(dirty.Session, Released, ReasonReleased, "holder")
}
