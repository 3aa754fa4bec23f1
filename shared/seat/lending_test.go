package seat

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/coditect/usher/shared/platform/testenv"
)

// lending plays the honest holders of one licence on real stores, with everything that may befall them and the stores. Time
// passes because everything that has a time is moved.
type lending struct {
	*world
	rt      *rapid.T
	seats   int
	refs    map[string]Ref
	beliefs map[uuid.UUID]sitting
	granted map[uuid.UUID]int // how many seats there were when a session got its own: after a downgrade it drains
	passed  time.Duration
	stale   *stalePool
	counts  map[string]int
}

// sitting is what a holder was told: until when it sits, on which seat of how many, and whether without heartbeats.
type sitting struct {
	until       time.Time
	seat, seats int
	borrowed    time.Time
}

// stalePool is a pool as a replica has it that follows no more.
type stalePool struct {
	keys   map[string]any
	passed time.Duration
}

func (l *lending) believes(ref Ref, until time.Time) {
	s := l.beliefs[ref.Session]
	if until.After(s.until) {
		s.until = until
	}
	if _, before := l.granted[ref.Session]; !before {
		l.granted[ref.Session] = l.seats
	}
	s.seat, s.seats = ref.Seat, max(s.seats, l.seats, l.granted[ref.Session])
	l.beliefs[ref.Session] = s
}

// judge checks what is promised: whoever believes has a row, which says how long it is borrowed; no two believe in one seat;
// and never more believe than there were seats when one of them was told so, or got its seat.
func (l *lending) judge() {
	now := time.Now()
	taken := map[int]uuid.UUID{}
	most := 0
	for id, s := range l.beliefs {
		if !s.until.After(now) {
			delete(l.beliefs, id)
			continue
		}
		if n := testenv.Value[int](l.t, l.db, `SELECT count(*)::int FROM app.open_sessions WHERE id = $1 AND seat_no = $2
			AND ($3 OR borrowed_until >= $4)`, id, s.seat, s.borrowed.IsZero(), s.borrowed.Add(-time.Millisecond)); n != 1 {
			l.rt.Fatalf("%s believes in seat %d, borrowed until %s, and has no such row", id, s.seat, s.borrowed)
		}
		if other, twice := taken[s.seat]; twice {
			l.rt.Fatalf("%s and %s believe in seat %d", id, other, s.seat)
		}
		taken[s.seat] = id
		most = max(most, s.seats)
	}
	if len(taken) > most {
		l.rt.Fatalf("%d believe in %d seats", len(taken), most)
	}
}

func (l *lending) pick(label string, of ...string) string {
	return rapid.SampledFrom(of).Draw(l.rt, label)
}

// holder is one of the licence's, and the session that it knows of.
func (l *lending) holder() (string, Ref, bool) {
	h := l.pick("holder", "ann", "bob", "cat", "dan")
	ref, has := l.refs[h]
	return h, ref, has
}

func (l *lending) count(what string) { l.counts[what]++ }

// heartbeat is the holder's, which stops believing when it hears that it has no seat, borrowed or not.
func (l *lending) heartbeat(ref Ref) bool {
	sent := time.Now()
	b, err := l.Heartbeat(l.ctx(), ref)
	l.must(err)
	if !b.Alive {
		l.count("heard of its end")
		delete(l.beliefs, ref.Session)
		return false
	}
	l.count("renewed")
	l.believes(ref, sent.Add(b.TTL))
	return true
}

func (l *lending) sit() {
	h, ref, has := l.holder()
	if has && !l.heartbeat(ref) {
		delete(l.refs, h)
	}
	sent := time.Now()
	g, err := l.Acquire(l.ctx(), l.tenant, l.license, device(h), Ask{})
	l.must(err)
	if g.Verdict == Granted || g.Verdict == Existing {
		l.count("acquired")
		l.refs[h] = g.Ref
		l.believes(g.Ref, sent.Add(g.TTL))
	}
}

func (l *lending) beat() {
	if _, ref, has := l.holder(); has {
		l.heartbeat(ref)
	}
}

func (l *lending) term() Term {
	last := rapid.SampledFrom([]time.Duration{time.Hour, 5 * time.Minute, 10 * time.Hour}).Draw(l.rt, "for")
	return Term{Until: time.Now().Add(last), BeyondLongest: l.pick("whose act", "its own", "its own", "an administrator's") != "its own"}
}

func (l *lending) borrows() {
	_, ref, has := l.holder()
	if !has {
		return
	}
	term := l.term()
	if l.pick("dies", "never", "never", "never", "after the row") != "never" {
		_, err := l.writeBorrow(l.ctx(), l.pool(), ref, term)
		l.must(err)
		return
	}
	sent := time.Now()
	loan, err := l.Borrow(l.ctx(), ref, term)
	l.must(err)
	switch loan.Verdict {
	case Lent:
		l.count("borrowed")
		l.believes(ref, loan.Until)
		s := l.beliefs[ref.Session]
		s.borrowed = loan.Until
		l.beliefs[ref.Session] = s
	case Ended:
		delete(l.beliefs, ref.Session)
	case LimitReached:
		l.count("refused a borrow")
	case NotInFuture:
		l.rt.Fatalf("until %s is past at %s", term.Until, sent)
	}
}

func (l *lending) returns() {
	h, ref, has := l.holder()
	if !has {
		return
	}
	delete(l.beliefs, ref.Session)
	if l.pick("dies", "never", "never", "half-way") != "never" {
		l.must(l.letGo(l.ctx(), l.pool(), ref.Session, ref.Fence()))
		return
	}
	l.release(ref)
	l.count("returned")
	delete(l.refs, h)
}

func (l *lending) evicts() {
	if _, ref, has := l.holder(); has && l.borrowedIsOpen(ref) {
		l.evict(ref)
		l.count("evicted")
	}
}

func (l *lending) borrowedIsOpen(ref Ref) bool {
	return testenv.Value[int](l.t, l.db, `SELECT count(*)::int FROM app.open_sessions WHERE id = $1`, ref.Session) == 1
}

func (l *lending) changes() {
	l.seats = rapid.IntRange(1, 3).Draw(l.rt, "seats")
	set := fmt.Sprintf(`max_seats = %d, borrow_reserve_seats = %d`, l.seats, rapid.IntRange(0, 1).Draw(l.rt, "reserve"))
	if status := l.pick("status", "as it is", "as it is", "suspended", "active"); status != "as it is" {
		set += `, status_by = 'admin', status = '` + status + `'`
	}
	l.alter(set)
	if l.pick("the pool hears", "now", "later") == "now" {
		l.must(l.Changed(l.ctx(), l.tenant, l.license))
	}
}

func (l *lending) sweeps() {
	_, err := l.sweepLicense(l.ctx(), l.pool())
	l.must(err)
}

func (l *lending) passes() {
	d := rapid.SampledFrom([]time.Duration{10 * time.Second, 50 * time.Second, 70 * time.Second, 6 * time.Minute, time.Hour}).Draw(l.rt, "time")
	l.pass(d)
	l.passed += d
	for id, s := range l.beliefs {
		s.until = s.until.Add(-d)
		if !s.borrowed.IsZero() {
			s.borrowed = s.borrowed.Add(-d)
		}
		l.beliefs[id] = s
	}
}

// trouble befalls Redis: it is emptied, restarts with everything, or falls back on a replica that had fallen behind.
func (l *lending) trouble() {
	switch l.pick("trouble", "emptied", "restarted", "a replica stays behind", "the replica is promoted") {
	case "emptied":
		l.redis.Do(l.t, "FLUSHALL")
		l.count("lost Redis")
	case "restarted":
		l.comesFromElsewhere()
	case "a replica stays behind":
		l.stale = &stalePool{map[string]any{}, l.passed}
		for _, name := range keyNames {
			if dump := l.redis.Do(l.t, "DUMP", l.key(name)); dump != nil {
				l.stale.keys[l.key(name)] = dump
			}
		}
	case "the replica is promoted":
		if l.stale == nil {
			return
		}
		l.redis.Do(l.t, "FLUSHALL")
		for key, dump := range l.stale.keys {
			l.redis.Do(l.t, "RESTORE", key, 0, dump)
		}
		l.shift(l.passed - l.stale.passed)
		l.comesFromElsewhere()
		l.count("lost Redis")
	}
}

// comesFromElsewhere makes the pool one that was built under another incarnation.
func (l *lending) comesFromElsewhere() {
	if l.redis.Do(l.t, "EXISTS", l.key("meta")) == int64(1) {
		l.redis.Do(l.t, "HSET", l.key("meta"), "inc", "of another time")
	}
}

func TestProofMachineLendsNoSeatTwice(t *testing.T) {
	w := newWorld(t, 2)
	counts := map[string]int{}
	times, lives := 1, 0
	if testenv.Full() {
		times = 10
	}
	for range times {
		rapid.Check(t, func(rt *rapid.T) {
			lives++
			l := &lending{world: w, rt: rt, seats: 2, refs: map[string]Ref{}, beliefs: map[uuid.UUID]sitting{}, granted: map[uuid.UUID]int{}, counts: counts}
			w.license = uuid.New()
			w.sell(w.license, 2)
			actions := map[string]func(*rapid.T){"": func(*rapid.T) { l.judge() }}
			for name, act := range map[string]func(){
				"sit": l.sit, "sit too": l.sit, "sit as well": l.sit, "beat": l.beat, "borrow": l.borrows, "borrow too": l.borrows,
				"return": l.returns, "evict": l.evicts, "change": l.changes, "sweep": l.sweeps, "pass": l.passes, "pass more": l.passes,
				"trouble": l.trouble,
			} {
				actions[name] = func(*rapid.T) { act() }
			}
			rt.Repeat(actions)
		})
	}
	testenv.Proved(t, "machine", "%d random lives of borrowed seats on Redis and PostgreSQL, in moved time, never had more believers than seats "+
		"(%d acquired, %d renewed, %d borrowed, %d refused a borrow, %d returned, %d evicted, %d losses of Redis)", lives, counts["acquired"],
		counts["renewed"], counts["borrowed"], counts["refused a borrow"], counts["returned"], counts["evicted"], counts["lost Redis"])
}
