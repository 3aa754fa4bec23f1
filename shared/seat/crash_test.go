package seat

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/testenv"
)

// These tests are the crash table of the protocol, line by line: each stops at the point that its line names, by calling
// the steps one by one and no further, and checks what is left, what repairs it, and within what bound.

// A1
func TestAnAcquireThatDiesBeforeRedisLeavesNothing(t *testing.T) {
	w := newWorld(t, 1)
	dead, cancel := context.WithCancel(w.ctx())
	cancel()
	_, err := w.Acquire(dead, w.tenant, w.license, device("one"), Ask{})
	w.isUnavailable(err)
	w.hasRows()
	w.sit("two")
}

// A2
func TestAReservationThatNobodyOpenedExpires(t *testing.T) {
	w := newWorld(t, 1, brisk)
	before := time.Now()
	w.reserves("one")
	w.hasRows()
	second := w.comesFree("two")
	if after := time.Since(before); after < reservedFor {
		t.Errorf("the seat was given away after %s, before the reservation ended", after)
	}
	w.hasRows(second.Session)
}

// A3
func TestAnAcquireWhoseCommitWasInDoubtEndsInOneSession(t *testing.T) {
	t.Parallel()
	for name, committed := range map[string]bool{"committed": true, "not committed": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			r := w.reserves("one")
			if committed {
				w.opens(r, "ok")
			}
			g := w.ask("one")
			if g.Ref.Session != r.session || g.Ref.Fence() != r.fence || g.Ref.Seat != 1 {
				t.Errorf("retry: %+v, want the session of the first attempt", g)
			}
			w.hasRows(r.session)
			w.alive(g.Ref)
		})
	}
}

// A4
func TestARowWithoutAConfirmedLeaseIsDisplacedByTheNextTaker(t *testing.T) {
	w := newWorld(t, 1)
	r := w.reserves("one")
	w.opens(r, "ok")
	w.full()
	w.expire(r.session)
	second := w.sit("two")
	w.hasRows(second.Session)
	w.ended(r.session, Lapsed, ReasonLeaseExpired, "")
}

// A4
func TestARowWithoutAConfirmedLeaseIsClosedByTheSweep(t *testing.T) {
	w := newWorld(t, 2)
	r := w.reserves("one")
	w.opens(r, "ok")
	w.expire(r.session)
	if report := w.sweep(); report.Closed != 1 || report.Lapsed != 1 || !report.Complete {
		t.Errorf("sweep: %+v, want one lapsed and closed", report)
	}
	w.hasRows()
	w.ended(r.session, Lapsed, ReasonLeaseExpired, "")
	w.opens(r, "ended") // however late, what has ended is not opened again
}

// A5
func TestAnAcquireWhoseAnswerWasLostIsAnsweredAgain(t *testing.T) {
	w := newWorld(t, 1)
	lost := w.sit("one")
	g := w.ask("one")
	if g.Verdict != Existing || g.Ref != lost {
		t.Errorf("retry: %+v, want the session that there is", g)
	}
	w.hasRows(lost.Session)
}

// A6
func TestOfTwoWhoOpenOneSeatOneWins(t *testing.T) {
	t.Parallel()
	t.Run("the earlier stalled", func(t *testing.T) {
		w := newWorld(t, 1)
		stalled := w.reserves("one")
		w.expire(stalled.session)
		r := w.reserves("two")
		w.opens(r, "ok")
		epoch := w.epoch()
		w.opens(stalled, "seat_held")
		w.must(w.lostSeat(w.ctx(), w.pool(), stalled.reservation))
		if w.epoch() != epoch {
			t.Error("losing a race to a faster holder rebuilt the pool")
		}
		beat, err := w.confirm(w.ctx(), w.pool(), r.reservation)
		if err != nil || !beat.Alive {
			t.Errorf("confirm the winner: %+v, %v", beat, err)
		}
		w.hasRows(r.session)
		w.full()
	})
	t.Run("the earlier came back in time", func(t *testing.T) {
		w := newWorld(t, 1)
		stalled := w.reserves("one")
		w.expire(stalled.session)
		r := w.reserves("two")
		w.opens(stalled, "ok")
		w.opens(r, "ok") // the pool said that the seat is taken from the stalled one
		beat, err := w.confirm(w.ctx(), w.pool(), stalled.reservation)
		if err != nil || beat.Alive {
			t.Errorf("confirm the loser: %+v, %v", beat, err)
		}
		w.hasRows(r.session)
	})
	t.Run("neither knows of the other", func(t *testing.T) {
		w := newWorld(t, 1)
		stalled := w.reserves("one")
		w.expire(stalled.session)
		s, err := w.tidy(w.ctx(), w.pool(), nil, nil) // the sweep finds it, has no row to close, and acknowledges it
		w.must(err)
		_, err = w.tidy(w.ctx(), w.pool(), s.dirty, nil)
		w.must(err)
		r := w.reserves("two")
		if len(r.from) != 0 {
			t.Fatalf("the seat is taken from %v", r.from)
		}
		w.opens(stalled, "ok")
		w.opens(r, "seat_held")
		w.must(w.lostSeat(w.ctx(), w.pool(), r.reservation)) // the row is right: the pool is rebuilt from it
		w.full()
		w.hasRows(stalled.session)
	})
}

// R1
func TestAReleaseThatDiesBeforeRedisLeavesTheSeatHeld(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	dead, cancel := context.WithCancel(w.ctx())
	cancel()
	_, err := w.Release(dead, ref)
	w.isUnavailable(err)
	w.full()
	w.alive(ref)
	w.release(ref)
	w.sit("two")
}

// halfRelease makes a session whose release died between Redis and PostgreSQL.
func (w *world) halfRelease() Ref {
	w.t.Helper()
	ref := w.sit("one")
	w.must(w.letGo(w.ctx(), w.pool(), ref.Session, ref.Fence()))
	w.hasRows(ref.Session)
	return ref
}

// R2
func TestAReleaseThatDiesBeforePostgreSQLFreesTheSeatAtOnce(t *testing.T) {
	t.Parallel()
	t.Run("the next taker closes the row", func(t *testing.T) {
		w := newWorld(t, 1)
		ref := w.halfRelease()
		second := w.sit("two")
		w.hasRows(second.Session)
		w.ended(ref.Session, Released, ReasonReleased, "holder")
	})
	t.Run("the sweep closes the row", func(t *testing.T) {
		w := newWorld(t, 1)
		ref := w.halfRelease()
		if report := w.sweep(); report.Closed != 1 || report.Lapsed != 0 {
			t.Errorf("sweep: %+v, want one closed", report)
		}
		w.ended(ref.Session, Released, ReasonReleased, "holder")
	})
	t.Run("the retry closes the row", func(t *testing.T) {
		w := newWorld(t, 1)
		ref := w.halfRelease()
		w.over(ref, Released, ReasonReleased)
		w.release(ref)
		w.hasRows()
		w.ended(ref.Session, Released, ReasonReleased, "holder")
	})
}

// R3
func TestAReleaseWhoseAnswerWasLostIsAnsweredAgain(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	first := w.release(ref)
	second := w.sit("two")
	again := w.release(ref)
	if again != first || again.Status != Released || again.At.IsZero() {
		t.Errorf("released: %+v, and again: %+v", first, again)
	}
	w.alive(second)
}

// R4
func TestAHalfReleaseThatRedisForgotIsLateNotLost(t *testing.T) {
	w := newWorld(t, 1, brisk)
	ref := w.halfRelease()
	w.redis.RestartEmpty(t)
	before := time.Now() // the rebuild cannot know
	second := w.comesFree("two")
	if after := time.Since(before); after < floor {
		t.Errorf("a restored session was reaped after %s, before the floor of %s", after, floor)
	}
	w.hasRows(second.Session)
	w.ended(ref.Session, Lapsed, ReasonLeaseExpired, "")
}

// P1, P2
func TestWhatASweepThatDiedLeftIsDoneByTheNext(t *testing.T) {
	w := newWorld(t, 2)
	one := w.sit("one")
	two := w.sit("two")
	w.expire(one.Session)
	w.expire(two.Session)
	s, err := w.tidy(w.ctx(), w.pool(), nil, w.openRows())
	w.must(err)
	if len(s.dirty) != 2 || len(s.unknown) != 0 { // it dies here with both
		t.Fatalf("evidence: %+v, want two dirty", s)
	}
	closed, err := w.closeRows(w.ctx(), w.pool(), s.epoch, s.dirty[:1])
	if err != nil || closed != 1 { // and another dies here, with one closed and not acknowledged
		t.Fatalf("close: %d, %v", closed, err)
	}
	if report := w.sweep(); report.Closed != 1 {
		t.Errorf("sweep: %+v, want the other closed", report)
	}
	w.hasRows()
	w.ended(one.Session, Lapsed, ReasonLeaseExpired, "")
	w.ended(two.Session, Lapsed, ReasonLeaseExpired, "")
	if n := w.redis.Do(t, "ZCARD", w.key("dirty")); n != int64(0) {
		t.Errorf("%v sessions are dirty after the sweep", n)
	}
	if report := w.sweep(); report.Closed != 0 || report.Licenses != 0 {
		t.Errorf("the sweep after it: %+v, want nothing to do", report)
	}
}

// P3, and the safeguard "epoch"
func TestASweepThatStalledAcrossALossOfRedisClosesNothing(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.expire(ref.Session)
	s, err := w.tidy(w.ctx(), w.pool(), nil, w.openRows())
	w.must(err)
	w.redis.RestartEmpty(t)
	w.alive(ref) // the row was open, so the session is
	if _, err := w.closeRows(w.ctx(), w.pool(), s.epoch, s.dirty); !errors.Is(err, errEpoch) {
		t.Errorf("close on evidence of the lost world: %v, want it refused", err)
	}
	w.hasRows(ref.Session)
	w.alive(ref)
	w.full()
}

// Y1
func TestARebuildThatDiesBeforeItsCommitLeavesThePoolCold(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.redis.RestartEmpty(t)
	before := w.epoch()
	dead, cancel := context.WithCancel(w.ctx())
	cancel()
	if _, err := w.snapshot(dead, w.pool(), 0); err == nil {
		t.Error("a cancelled snapshot succeeded")
	}
	if w.epoch() != before {
		t.Error("the epoch moved without a commit")
	}
	w.full()
	w.alive(ref)
}

// Y2
func TestARebuildThatDiesAfterItsCommitIsDoneByTheNextCaller(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.redis.RestartEmpty(t)
	s, err := w.snapshot(w.ctx(), w.pool(), 0)
	w.must(err)
	if s == nil || w.epoch() != s.limits.epoch {
		t.Fatalf("snapshot: %+v in epoch %d", s, w.epoch())
	}
	w.alive(ref)
	w.full()
	if w.epoch() <= s.limits.epoch {
		t.Error("the next caller built no newer pool")
	}
}

// Y2, where the pool of the older epoch still answers
func TestAPoolOfAnOlderEpochThanItsRowIsRebuilt(t *testing.T) {
	w := newWorld(t, 2)
	ref := w.sit("one")
	s, err := w.snapshot(w.ctx(), w.pool(), w.epoch()) // somebody distrusted the pool, and died
	w.must(err)
	r := w.reserves("two")
	w.opens(r, "epoch")
	two := w.ask("two")
	if two.Verdict != Granted && two.Verdict != Existing || two.Ref.Epoch <= s.limits.epoch {
		t.Errorf("acquire: %+v, want a seat in an epoch after %d", two, s.limits.epoch)
	}
	w.alive(ref)
	w.full()
}

// Y3
func TestOfTwoRebuildersTheOlderIsRefused(t *testing.T) {
	w := newWorld(t, 2)
	one := w.sit("one")
	w.redis.RestartEmpty(t)
	older, err := w.snapshot(w.ctx(), w.pool(), 0)
	w.must(err)
	two := w.sit("two") // by a newer rebuild
	kind, err := w.install(w.ctx(), w.pool(), older)
	if err != nil || kind != "old" {
		t.Errorf("the older rebuild: %s, %v, want old", kind, err)
	}
	w.alive(one)
	w.alive(two)
	w.full()
}

// Y4, and the safeguard "incarnation"
func TestARebuilderThatStalledAcrossASecondLossIsRefused(t *testing.T) {
	w := newWorld(t, 2)
	one := w.sit("one")
	w.redis.RestartEmpty(t)
	stalled, err := w.snapshot(w.ctx(), w.pool(), 0)
	w.must(err)
	two := w.sit("two")
	w.redis.RestartEmpty(t)
	kind, err := w.install(w.ctx(), w.pool(), stalled) // it does not know of two
	if err != nil || kind != "moved" {
		t.Errorf("the stalled rebuild: %s, %v, want moved", kind, err)
	}
	w.full()
	w.alive(one)
	w.alive(two)
}

// Y4, where Redis was flushed and so kept its incarnation: the epoch refuses what the incarnation cannot
func TestAnOldSnapshotInAFlushedRedisGrantsNothing(t *testing.T) {
	w := newWorld(t, 2)
	one := w.sit("one")
	w.redis.Do(t, "FLUSHALL")
	stalled, err := w.snapshot(w.ctx(), w.pool(), 0)
	w.must(err)
	two := w.sit("two")
	w.redis.Do(t, "FLUSHALL")
	kind, err := w.install(w.ctx(), w.pool(), stalled)
	if err != nil || kind != "ok" {
		t.Fatalf("the stalled rebuild: %s, %v", kind, err)
	}
	w.opens(w.reserves("three"), "epoch")
	w.full()
	w.alive(one)
	w.alive(two)
}

// ghost makes a session that was released between a rebuild's snapshot and its script.
func ghost(t *testing.T, change ...func(*site)) (*world, Ref) {
	t.Helper()
	w := newWorld(t, 1, change...)
	ref := w.sit("one")
	w.redis.RestartEmpty(t)
	s, err := w.snapshot(w.ctx(), w.pool(), 0)
	w.must(err)
	w.release(ref)
	kind, err := w.install(w.ctx(), w.pool(), s)
	if err != nil || kind != "ok" {
		t.Fatalf("rebuild: %s, %v", kind, err)
	}
	w.hasRows()
	return w, ref
}

// Y5
func TestAGhostLeavesByItself(t *testing.T) {
	w, _ := ghost(t, brisk)
	second := w.comesFree("two")
	w.hasRows(second.Session)
}

// Y5
func TestAGhostIsFoundByTheSweep(t *testing.T) {
	w, ghost := ghost(t)
	report, err := w.sweepLicense(w.ctx(), w.pool())
	if err != nil || report.Ghosts != 1 {
		t.Errorf("sweep: %+v, %v, want one ghost", report, err)
	}
	w.sit("two")
	w.ended(ghost.Session, Released, ReasonReleased, "holder")
}

// Y5: whoever is told yes has a row
func TestAGhostsHolderGetsASessionWithARow(t *testing.T) {
	w, ghost := ghost(t)
	ref := w.sit("one")
	if ref.Session == ghost.Session {
		t.Error("the holder sits as a session that has ended")
	}
	w.hasRows(ref.Session)
	w.redis.RestartEmpty(t)
	w.full()
	w.alive(ref)
}

// F1
func TestLiveHoldersNeverNoticeThatRedisCameBackEmpty(t *testing.T) {
	t.Parallel()
	first := map[string]func(w *world, one, two Ref){
		"heartbeat": func(w *world, one, _ Ref) { w.alive(one) },
		"acquire":   func(w *world, _, _ Ref) { w.full() },
		"sweep": func(w *world, _, _ Ref) {
			if report := w.sweep(); report.Rebuilt != 1 || report.Closed != 0 {
				w.t.Errorf("sweep: %+v, want one pool rebuilt", report)
			}
		},
		"release of another": func(w *world, _, two Ref) { w.release(two); w.alive(w.sit("three")) },
	}
	for name, call := range first {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			one, two := w.sit("one"), w.sit("two")
			w.redis.RestartEmpty(t)
			call(w, one, two)
			w.alive(one)
			w.full()
		})
	}
}

// F1: the safeguard "floor"
func TestASilentHolderIsNotReapedBeforeTheFloor(t *testing.T) {
	w := newWorld(t, 1, brisk)
	ref := w.sit("one")
	w.gone(ref.Session)
	w.redis.RestartEmpty(t)
	before := time.Now()
	w.must(w.rebuild(w.ctx(), w.pool(), 0)) // however old its lease was: its holder may have been promised more by what was lost
	w.gone(ref.Session)
	if after := time.Since(before); after < floor {
		t.Errorf("reaped after %s, before the floor of %s", after, floor)
	}
	w.over(ref, Lapsed, ReasonLeaseExpired)
	w.sit("two")
}

// F2
func TestAFailoverThatLostItsTailIsNotNoticed(t *testing.T) {
	var pair *testenv.Pair
	w := newWorld(t, 3, onPair(t, &pair))
	one := w.sit("one")
	r := w.reserves("two") // the replica will know the reservation, and not its confirmation
	pair.AwaitReplica(t)
	pair.CutReplication()
	w.alive(one)
	w.opens(r, "ok")
	beat, err := w.confirm(w.ctx(), w.pool(), r.reservation)
	if err != nil || !beat.Alive {
		t.Fatalf("confirm: %+v, %v", beat, err)
	}
	two := Ref{Tenant: w.tenant, License: w.license, Session: r.session, Seat: r.seat, Epoch: r.fence.Epoch, Counter: r.fence.Counter}
	three := w.sit("three") // the replica will know nothing of it
	pair.Failover(t)
	w.alive(two)
	w.alive(three)
	w.alive(one)
	w.full()
	w.hasRows(one.Session, two.Session, three.Session)
}

// F2: the safeguard "incarnation": a replica's pool looks whole, and is not believed
func TestAPromotedReplicaIsNotBelievedWhatItKnows(t *testing.T) {
	var pair *testenv.Pair
	w := newWorld(t, 1, onPair(t, &pair))
	pair.AwaitReplica(t)
	pair.CutReplication()
	ref := w.sit("one")
	pair.Failover(t)
	r, err := w.reserve(w.ctx(), w.pool(), ref.License, "device:two", false)
	if err != nil || !r.cold {
		t.Errorf("reserve on the replica, which has a free seat: %+v, %v, want the pool called cold", r, err)
	}
	s, err := w.tidy(w.ctx(), w.pool(), nil, w.openRows())
	if err != nil || !s.rebuild {
		t.Errorf("tidy on the replica, which does not know the session: %+v, %v, want the pool called cold", s, err)
	}
	w.full()
	w.alive(ref)
}

// F3
func TestAClientOfALostAcquireBeatsFirst(t *testing.T) {
	var pair *testenv.Pair
	w := newWorld(t, 1, onPair(t, &pair))
	pair.AwaitReplica(t)
	pair.CutReplication()
	ref := w.sit("one")
	pair.Failover(t)
	w.alive(ref)
	w.full()
}

// F4
func TestAnOldPrimaryThatStillAnswersCannotGrantTwice(t *testing.T) {
	var pair *testenv.Pair
	w := newWorld(t, 2, onPair(t, &pair))
	cfg := w.at.cfg
	cfg.URL = config.Secret(pair.Primary.URL())
	old := w.poolsAt(cfg, "usher_acquire")
	one := w.sit("one")
	pair.AwaitReplica(t)
	pair.CutReplication()
	pair.Promote(t)
	two := w.sit("two") // on the new primary: the licence is full

	id := two.License
	r, err := old.reserve(w.ctx(), w.pool(), id, "device:three", false)
	if err != nil || r.session != id {
		t.Fatalf("reserve on the old primary: %+v, %v, want a seat", r, err)
	}
	verdict, err := old.open(w.ctx(), w.pool(), r, device("three"))
	if err != nil || verdict != "epoch" {
		t.Errorf("open what the old primary gave: %s, %v, want epoch", verdict, err)
	}
	for _, p := range []*Pools{old, w.Pools, old, w.Pools} {
		testenv.Eventually(t, soon, func() error { // each rebuilds what the other has made old
			g, err := p.Acquire(w.ctx(), w.tenant, w.license, device("three"), Ask{})
			if g.Verdict == Granted || g.Verdict == Existing {
				t.Fatalf("a third holder was granted a seat of two: %+v", g)
			}
			return err
		})
		for _, ref := range []Ref{one, two} {
			if b, err := p.Heartbeat(w.ctx(), ref); err != nil || !b.Alive {
				t.Errorf("heartbeat: %+v, %v", b, err)
			}
		}
	}
	w.hasRows(one.Session, two.Session)
}

// F5
func TestAFullRedisStopsAdmissionsOnly(t *testing.T) {
	w := newWorld(t, 4)
	one, two, three := w.sit("one"), w.sit("two"), w.sit("three")
	w.redis.Do(t, "CONFIG", "SET", "maxmemory", "1")
	_, err := w.Acquire(w.ctx(), w.tenant, w.license, device("four"), Ask{})
	w.isUnavailable(err)
	w.alive(one)
	if e := w.release(two); e.Status != Released {
		t.Errorf("release: %+v", e)
	}
	w.must(w.Evict(w.ctx(), w.tenant, three.Session, "abuse", "admin"))
	w.over(three, Evicted, "abuse")
	w.sweep()
	w.release(three)
	w.must(w.Changed(w.ctx(), w.tenant, w.license))
	w.alive(one)
	w.redis.Do(t, "CONFIG", "SET", "maxmemory", "0")
	w.sit("four")
}

// F7
func TestAClockThatGoesBackReapsNobodyEarlyAndIsReported(t *testing.T) {
	log := testenv.Logs(t)
	w := newWorld(t, 2, brisk, func(s *site) { s.log = log.Logger })
	ahead := time.Now().Add(3 * time.Second) // the highest that the pool saw, before the clock went back
	w.redis.Do(t, "HSET", w.key("meta"), "ck", ahead.UnixMilli())
	one := w.ask("one")
	if one.At.Before(ahead.Truncate(time.Millisecond)) {
		t.Errorf("the lease began at %s, before %s: time went back", one.At, ahead)
	}
	w.sweep()
	if !strings.Contains(log.Text(), "clock of Redis went back") {
		t.Errorf("the sweep did not report the clock:\n%s", log.Text())
	}
	testenv.Eventually(t, soon, func() error { // at no moment is it ended before its own clock says so
		s, err := w.peek(w.ctx(), w.pool(), one.Ref.Session)
		if err != nil {
			return err
		}
		if s.lives {
			return errors.New("the lease runs")
		}
		if now := time.Now(); now.Before(one.ExpiresAt) { // the pool's clock stands still until this one has caught up
			t.Fatalf("the lease until %s was over at %s", one.ExpiresAt, now)
		}
		return nil
	})
	if now := time.Now(); now.Before(ahead.Add(lease)) {
		t.Errorf("the lease ended %s before it should", ahead.Add(lease).Sub(now))
	}
}

// G1
func TestWithoutPostgreSQLHeartbeatsGoOnAndReleasesFreeTheSeat(t *testing.T) {
	var db *testenv.PrivateDB
	w := newWorld(t, 2, onPrivate(t, &db))
	one, two := w.sit("one"), w.sit("two")
	db.Stop(t)
	_, err := w.Acquire(w.ctx(), w.tenant, w.license, device("three"), Ask{})
	if err != nil {
		t.Errorf("a full licence needs no PostgreSQL to say so: %v", err)
	}
	_, err = w.Release(w.ctx(), two)
	w.isUnavailable(err)
	w.over(two, Released, ReasonReleased) // Redis has heard
	_, err = w.Acquire(w.ctx(), w.tenant, w.license, device("three"), Ask{})
	w.isUnavailable(err)
	_, err = w.pools("usher_sweep").Sweep(w.ctx())
	w.isUnavailable(err)
	w.alive(one)
	db.Start(t)
	w.alive(one)
	if e := w.release(two); e.Status != Released {
		t.Errorf("release again: %+v", e)
	}
	w.ended(two.Session, Released, ReasonReleased, "holder")
	if g := w.ask("three"); g.Verdict != Existing || g.Ref.Seat != two.Seat { // the reservation that it left behind
		t.Errorf("acquire again: %+v", g)
	}
	w.full()
}

// G2
func TestASeatThatPassedThroughManyHandsWithoutPostgreSQLIsTakenFromAllOfThem(t *testing.T) {
	var db *testenv.PrivateDB
	w := newWorld(t, 1, onPrivate(t, &db))
	one := w.sit("one")
	db.Stop(t)
	_, err := w.Release(w.ctx(), one)
	w.isUnavailable(err)
	for i := range 3 {
		r := w.reserves(fmt.Sprint("between ", i))
		_, err := w.open(w.ctx(), w.pool(), r.reservation, r.holder)
		w.isUnavailable(err)
		w.expire(r.session)
	}
	db.Start(t)
	r := w.reserves("last")
	if len(r.from) != 4 {
		t.Errorf("the seat is taken from %d sessions, want all 4 that had it", len(r.from))
	}
	last := w.ask("last")
	if last.Ref.Session != r.session {
		t.Errorf("the last one: %+v", last)
	}
	w.hasRows(r.session)
	w.ended(one.Session, Released, ReasonReleased, "holder")
	if n := w.redis.Do(t, "ZCARD", w.key("dirty")); n != int64(0) {
		t.Errorf("%v sessions are dirty after the confirmation", n)
	}
}

// S1
func TestLimitsThatNobodyToldRedisOfHold(t *testing.T) {
	t.Parallel()
	t.Run("fewer seats", func(t *testing.T) {
		w := newWorld(t, 2)
		one := w.sit("one")
		w.alter(`max_seats = 1`)
		w.full() // opening the session found out, and told the pool
		w.alive(one)
		w.hasRows(one.Session)
	})
	t.Run("more seats", func(t *testing.T) {
		w := newWorld(t, 1)
		w.sit("one")
		w.alter(`max_seats = 2`)
		w.full()
		if report := w.sweep(); report.Told != 1 {
			t.Errorf("sweep: %+v, want one pool told", report)
		}
		w.sit("two")
		if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.outbox`); n != 0 {
			t.Errorf("%d messages are left in the outbox", n)
		}
	})
	t.Run("suspended", func(t *testing.T) {
		w := newWorld(t, 2)
		one := w.sit("one")
		w.alter(`status = 'suspended'`)
		w.alive(one)
		if g := w.ask("two"); g.Verdict != Refused || g.Code != "license_suspended" {
			t.Errorf("acquire: %+v, want refused", g)
		}
		w.over(one, Evicted, "license_suspended") // the acquire told the pool
	})
}

// B1
func TestABorrowThatDiesBeforeItsRowLeavesNothing(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	dead, cancel := context.WithCancel(w.ctx())
	cancel()
	_, err := w.writeBorrow(dead, w.pool(), ref, Term{Until: time.Now().Add(time.Hour)})
	w.isUnavailable(err)
	if until := w.borrowedUntil(ref.Session); !until.IsZero() {
		t.Errorf("the row says until %s", until)
	}
	w.expire(ref.Session)
	w.sit("two")
}

// halfBorrow makes a session whose borrow, for an hour, died between PostgreSQL and Redis.
func (w *world) halfBorrow() (Ref, borrow) {
	w.t.Helper()
	ref := w.sit("one")
	b, err := w.writeBorrow(w.ctx(), w.pool(), ref, Term{Until: time.Now().Add(time.Hour)})
	w.must(err)
	if b.loan.Verdict != Lent || !w.borrowedUntil(ref.Session).Equal(b.loan.Until) {
		w.t.Fatalf("write borrow: %+v", b)
	}
	return ref, b
}

// B2
func TestABorrowThatDiesAfterItsRowTakesTheSeatUntilItsEndAtMost(t *testing.T) {
	t.Parallel()
	t.Run("the lease ends as before", func(t *testing.T) {
		w := newWorld(t, 1)
		ref, b := w.halfBorrow()
		w.alive(ref)
		w.pass(longLease + 2*allowance)
		w.sit("two")
		w.ended(ref.Session, Lapsed, ReasonLeaseExpired, "")
		if at := w.revoked(ref.Session); at.IsZero() || at.After(b.loan.Until) {
			t.Errorf("a receipt that nobody has is void until %s", at)
		}
	})
	t.Run("a rebuild knows the row", func(t *testing.T) {
		w := newWorld(t, 1)
		ref, b := w.halfBorrow()
		w.redis.RestartEmpty(t)
		w.full()
		w.isTaken(ref, b.loan)
		w.pass(time.Hour + time.Minute)
		w.sit("two")
	})
	t.Run("the retry completes it", func(t *testing.T) {
		w := newWorld(t, 1)
		ref, b := w.halfBorrow()
		loan := w.lends(ref, time.Minute)
		if !loan.Until.Equal(b.loan.Until) {
			t.Errorf("lent until %s, and the row said %s", loan.Until, b.loan.Until)
		}
		w.isTaken(ref, loan)
	})
}

// B3
func TestABorrowWhoseAnswerWasLostIsAnsweredAgain(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	lost := w.lends(ref, time.Hour)
	if loan := w.lends(ref, 30*time.Minute); !loan.Until.Equal(lost.Until) {
		t.Errorf("lent until %s, and again until %s", lost.Until, loan.Until)
	}
	w.alive(ref)
	w.isTaken(ref, lost)
	w.release(ref)
	w.sit("two")
}

// B4, and the safeguard "epoch": the row may have been read before it said so
func TestABorrowThatStalledAcrossARebuildIsWrittenAgain(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	s, err := w.snapshot(w.ctx(), w.pool(), w.epoch()) // of a rebuild that knows of no borrow
	w.must(err)
	b, err := w.writeBorrow(w.ctx(), w.pool(), ref, Term{Until: time.Now().Add(time.Hour)})
	w.must(err)
	if kind, err := w.lend(w.ctx(), w.pool(), ref, b); err != nil || kind != "rebuild" {
		t.Errorf("lend in the pool of the older epoch: %s, %v, want it refused", kind, err)
	}
	kind, err := w.install(w.ctx(), w.pool(), s)
	if err != nil || kind != "ok" {
		t.Fatalf("rebuild: %s, %v", kind, err)
	}
	if at := w.reapAt(ref.Session); !at.Before(b.loan.Until) {
		t.Errorf("the pool knows of the borrow already: reaped at %s", at)
	}
	loan := w.lends(ref, time.Minute)
	if !loan.Until.Equal(b.loan.Until) {
		t.Errorf("lent until %s, and the row said %s", loan.Until, b.loan.Until)
	}
	w.isTaken(ref, loan)
}

// B4, where the rebuild came after the row
func TestABorrowDecidedInAnOlderEpochIsNotLent(t *testing.T) {
	w := newWorld(t, 1)
	ref, b := w.halfBorrow()
	w.must(w.rebuild(w.ctx(), w.pool(), w.epoch()))
	if kind, err := w.lend(w.ctx(), w.pool(), ref, b); err != nil || kind != "rebuild" {
		t.Errorf("lend: %s, %v, want it refused", kind, err)
	}
	w.isTaken(ref, b.loan)
	w.lends(ref, time.Minute)
}

// B5
func TestABorrowThatRedisForgotIsRestored(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	loan := w.lends(ref, time.Hour)
	w.redis.RestartEmpty(t)
	w.full()
	w.isTaken(ref, loan)
	w.pass(50 * time.Minute)
	w.redis.Do(t, "FLUSHALL")
	w.full()
	w.alive(ref)
}

// B6
func TestAHalfReturnedBorrowThatRedisForgotIsLateNotLost(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.lends(ref, time.Hour)
	w.must(w.letGo(w.ctx(), w.pool(), ref.Session, ref.Fence()))
	w.redis.RestartEmpty(t)
	w.full() // the rebuild cannot know
	w.release(ref)
	w.sweep()
	w.sit("two")
}
