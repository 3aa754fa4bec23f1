package seat

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

func (w *world) evict(ref Ref) {
	w.t.Helper()
	w.must(w.Evict(w.ctx(), w.tenant, ref.Session, "abuse", "key:42"))
}

func TestAnEvictedHoldersSeatIsNotGivenAwayWhileItBelieves(t *testing.T) {
	w := newWorld(t, 1, brisk)
	ref := w.sit("one")
	sent := time.Now()
	w.alive(ref)
	w.evict(ref)
	w.comesFree("two") // the holder never asks again
	if early := time.Until(sent.Add(lease)); early > 0 {
		t.Errorf("the seat was given away %s before its holder stopped believing", early)
	}
	w.ended(ref.Session, Evicted, "abuse", "key:42")
	w.over(ref, Evicted, "abuse")
}

func TestAnEvictedHoldersSeatIsTakenUntilItGivesItBack(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.evict(ref)
	w.full()
	e := w.over(ref, Evicted, "abuse")
	if e.By != "key:42" || e.At.IsZero() {
		t.Errorf("the holder heard %+v", e)
	}
	w.full() // the answer may have been lost
	w.over(ref, Evicted, "abuse")
	for range 2 {
		if e := w.release(ref); e.Status != Evicted || e.Reason != "abuse" {
			t.Errorf("release after an eviction: %+v", e)
		}
	}
	h := w.ended(ref.Session, Evicted, "abuse", "key:42")
	if d := h.At.Sub(e.At); d < -time.Second || d > time.Second {
		t.Errorf("the history says that it ended at %s, and the holder heard %s", h.At, e.At)
	}
	w.sit("two")
}

func TestAnEvictedHolderThatAsksAgainGetsASeatInsteadOfTheOld(t *testing.T) {
	w := newWorld(t, 1)
	old := w.sit("one")
	w.evict(old)
	w.full()
	g := w.ask("one") // so it does not believe in the old one any more
	if g.Verdict != Granted || g.Ref.Session == old.Session {
		t.Fatalf("acquire: %+v, want a new session", g)
	}
	w.over(old, Evicted, "abuse")
	w.alive(g.Ref)
	if again := w.ask("one"); again.Ref != g.Ref {
		t.Errorf("acquire again: %+v, want the new session", again)
	}
	w.full()
	w.ended(old.Session, Evicted, "abuse", "key:42")
}

func TestAnEvictionOnceAnsweredIsNeverUndone(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.evict(ref)
	w.must(w.Evict(w.ctx(), w.tenant, ref.Session, "another reason", "another key")) // keeps the first
	w.redis.RestartEmpty(t)
	w.full()
	w.over(ref, Evicted, "abuse")
	w.release(ref)
	w.sit("two")
	w.ended(ref.Session, Evicted, "abuse", "key:42")
	if err := w.Evict(w.ctx(), w.tenant, ref.Session, "abuse", "key:42"); !errors.Is(err, ErrUnknownSession) {
		t.Errorf("evict an ended session: %v, want ErrUnknownSession", err)
	}
	if err := w.Evict(w.ctx(), w.tenant, uuid.New(), "abuse", "key:42"); !errors.Is(err, ErrUnknownSession) {
		t.Errorf("evict nobody: %v, want ErrUnknownSession", err)
	}
}

func TestAnEvictionDuringARebuildIsNotLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]bool{"of a lost pool": true, "of a distrusted pool": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			ref := w.sit("one")
			distrusted := w.epoch()
			if lose {
				w.redis.RestartEmpty(t)
			}
			s, err := w.snapshot(w.ctx(), w.pool(), distrusted) // reads the row before it is marked
			w.must(err)
			w.evict(ref)
			_, err = w.install(w.ctx(), w.pool(), s) // and tells the pool after that was told
			w.must(err)
			w.over(ref, Evicted, "abuse")
		})
	}
}

func TestAnEvictionThatRedisCouldNotBeToldIsToldByTheSweep(t *testing.T) {
	w := newWorld(t, 1, func(s *site) { s.cfg.Timeout = time.Second })
	ref := w.sit("one")
	w.redis.Pause(t)
	w.evict(ref)
	w.redis.Resume(t)
	if report := w.sweep(); report.Told != 1 {
		t.Errorf("sweep: %+v, want one pool told", report)
	}
	w.over(ref, Evicted, "abuse")
	w.release(ref)
	w.sit("two")
}

func TestASuspendedLicenceEvictsAndAReinstatedOneServes(t *testing.T) {
	w := newWorld(t, 2)
	one, two := w.sit("one"), w.sit("two")
	w.change(`status = 'suspended', status_reason = 'unpaid', status_by = 'key:7'`)
	if g := w.ask("three"); g.Verdict != Refused || g.Code != "license_suspended" {
		t.Errorf("acquire: %+v, want refused", g)
	}
	if e := w.over(one, Evicted, "license_suspended"); e.By != "key:7" {
		t.Errorf("the holder heard %+v", e)
	}
	w.change(`status = 'active', status_reason = NULL, status_by = NULL`)
	w.over(one, Evicted, "license_suspended")
	w.over(two, Evicted, "license_suspended") // had not heard before it was lifted: ended all the same
	w.full()
	if again := w.sit("one"); again.Seat != one.Seat { // who asks again has heard
		t.Errorf("seat %d, want %d", again.Seat, one.Seat)
	}
	w.release(two)
	w.sit("four")
	w.ended(one.Session, Evicted, "license_suspended", "key:7")
	w.full()
}

func TestASuspensionThatWasLiftedBeforeThePoolHeardOfItEvicts(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.alter(`status = 'suspended', status_by = 'key:7'`)
	w.change(`status = 'active', status_by = NULL`)
	w.over(ref, Evicted, "license_suspended")
	w.release(ref)
	w.sit("two")
	w.ended(ref.Session, Evicted, "license_suspended", "key:7")
}

func TestTheSilentHoldersOfASuspendedLicenceWereEvicted(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.change(`status = 'revoked', status_by = 'key:7'`)
	w.expire(ref.Session)
	w.sweep()
	w.ended(ref.Session, Evicted, "license_revoked", "key:7")
}

// Whoever suspends a licence or ends its sessions holds their rows, in an order of their own, until all are marked.
func TestAReleaseKeepsNobodyWaitingForARowThatSomebodyHolds(t *testing.T) {
	w := newWorld(t, 3)
	held, one, two := w.sit("held"), w.sit("one"), w.sit("two")
	tx, err := w.db.Owner(t).Begin(w.ctx())
	w.must(err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(w.ctx(), `UPDATE app.open_sessions SET evicted_at = now(), evict_reason = 'misuse', evicted_by = 'ada' WHERE id = $1`, held.Session)
	w.must(err)
	late := make(chan Ending, 1)
	go func() {
		e, err := w.Release(w.ctx(), held)
		if err != nil {
			t.Error(err)
		}
		late <- e
	}()
	testenv.Eventually(t, soon, func() error { // it waits for the row
		if testenv.Value[int](t, w.db, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`) == 0 {
			return errors.New("nobody waits")
		}
		return nil
	})
	for _, ref := range []Ref{one, two} {
		if e := w.release(ref); e.Status != Released {
			t.Errorf("beside it: %+v", e)
		}
	}
	select {
	case e := <-late:
		t.Errorf("it did not wait: %+v", e)
	default:
	}
	w.must(tx.Commit(w.ctx()))
	if e := <-late; e.Status != Evicted || e.Reason != "misuse" || e.By != "ada" {
		t.Errorf("what was marked meanwhile: %+v", e)
	}
	w.hasRows()
}

func TestASuspendedTenantEvictsFromAllItsLicences(t *testing.T) {
	w := newWorld(t, 1)
	first := w.license
	one := w.sit("one")
	w.license = uuid.New()
	w.sell(w.license, 1)
	two := w.sit("two")
	operator := w.pools("usher_operator")
	set := func(status string) {
		t.Helper()
		w.must(operator.db.As(w.ctx(), w.tenant, func(tx tenancy.Tx) error {
			_, err := tx.Exec(w.ctx(), `UPDATE app.tenants SET status = $2, status_by = 'key:1' WHERE id = $1::uuid`, w.tenant.String(), status)
			return err
		}))
		if report := w.sweep(); report.Told != 2 {
			t.Errorf("sweep: %+v, want both pools told", report)
		}
	}
	set("suspended")
	w.over(one, Evicted, "tenant_suspended")
	if g := w.ask("three"); g.Verdict != Refused || g.Code != "tenant_suspended" {
		t.Errorf("acquire: %+v, want refused", g)
	}
	set("active")
	w.over(two, Evicted, "tenant_suspended")
	w.license = first
	w.full()
	w.sit("one")
}

func TestAnExpiredLicenceEndsItsSessionsWithNobodyTellingItsPool(t *testing.T) {
	w := newWorld(t, 3)
	one, silent, extended := w.sit("one"), w.sit("silent"), w.sit("extended")
	w.change(`status_by = 'key:7', expires_at = now() + interval '1 second'`)
	testenv.Eventually(t, soon, func() error {
		b := w.beat(one)
		if b.Alive {
			return errors.New("the session lives")
		}
		if b.Ending.Status != Evicted || b.Ending.Reason != "license_expired" || b.Ending.By != "" {
			t.Fatalf("heartbeat: %+v", b)
		}
		return nil
	})
	if g := w.ask("two"); g.Verdict != Refused || g.Code != "license_expired" {
		t.Errorf("acquire: %+v, want refused", g)
	}
	w.redis.Do(t, "ZADD", w.key("leases"), "XX", time.Now().UnixMilli(), silent.Session.String())
	w.sweep()
	w.release(one)
	w.ended(one.Session, Evicted, "license_expired", "")
	w.ended(silent.Session, Evicted, "license_expired", "") // its lease ended after its licence
	w.change(`expires_at = now() + interval '1 hour'`)
	w.over(one, Evicted, "license_expired")
	w.alive(extended) // had not heard, and may go on
	w.sit("two")
}

func TestALicenceThatWasExtendedInTimeGoesOn(t *testing.T) {
	t.Parallel()
	for name, extend := range map[string]string{
		"expires later":    `expires_at = expires_at + interval '1 hour'`,
		"has grace":        `grace_until = expires_at + interval '1 hour'`,
		"does not expire":  `expires_at = NULL`,
		"almost for ever":  `expires_at = '9999-12-31'`,
		"and Redis forgot": `expires_at = expires_at + interval '1 hour'`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			ref := w.sit("one")
			w.change(`expires_at = now() + interval '1 second'`)
			end := testenv.Value[time.Time](t, w.db, `SELECT expires_at FROM app.licenses WHERE id = $1`, w.license)
			w.change(extend)
			if name == "and Redis forgot" {
				w.redis.Do(t, "FLUSHALL")
			}
			until(end.Add(time.Second / 4))
			w.alive(ref)
			w.sit("two")
		})
	}
}

func TestAPoolThatCameBackDoesNotEndASessionByAnOldDate(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.redis.Do(t, "HSET", w.key("meta"), "inc", "of another time", "ex", "1")
	w.alive(ref)
	w.full()
}

func TestALicenceThatShrankDrains(t *testing.T) {
	w := newWorld(t, 3)
	w.change(`drain_seconds = 60`)
	one, two, three := w.sit("one"), w.sit("two"), w.sit("three")
	w.change(`max_seats = 1`)
	if b := w.alive(one); !b.DrainUntil.IsZero() || b.Counts != (Counts{Active: 3, Max: 1}) {
		t.Errorf("a session within the limit: %+v", b)
	}
	b := w.alive(three)
	if d := b.DrainUntil.Sub(b.At); d <= 0 || d > time.Minute+time.Second {
		t.Errorf("a session above the limit drains until %s, at %s", b.DrainUntil, b.At)
	}
	w.release(one)
	w.full() // one is free, and two are too many
	w.release(three)
	if b := w.alive(two); !b.DrainUntil.IsZero() {
		t.Errorf("the count fits, and the session is to drain: %+v", b)
	}
	w.full()
	w.release(two)
	if ref := w.sit("four"); ref.Seat != 1 {
		t.Errorf("seat %d was given", ref.Seat)
	}
}

func TestWhoeverDrainedTooLongIsEvicted(t *testing.T) {
	w := newWorld(t, 3)
	w.change(`drain_seconds = 1`)
	one, two, three := w.sit("one"), w.sit("two"), w.sit("three")
	w.change(`max_seats = 2`)
	drain := testenv.Value[time.Time](t, w.db, `SELECT drain_until FROM app.licenses WHERE id = $1`, w.license).Add(-time.Millisecond)
	testenv.Eventually(t, soon, func() error {
		b := w.beat(three)
		if b.Alive {
			return errors.New("the session lives")
		}
		if b.Ending.Status != Evicted || b.Ending.Reason != ReasonSeatsReduced || b.Ending.At.Before(drain) {
			t.Fatalf("heartbeat: %+v, want seats_reduced after %s", b, drain)
		}
		return nil
	})
	w.alive(one)
	w.alive(two)
	w.full()
	w.release(three)
	w.ended(three.Session, Evicted, ReasonSeatsReduced, "")
	w.change(`max_seats = 3`) // growth resumes
	if ref := w.sit("four"); ref.Seat != 3 {
		t.Errorf("seat %d was given", ref.Seat)
	}
}

func TestALicenceThatGrewAgainDoesNotDrain(t *testing.T) {
	w := newWorld(t, 2)
	w.change(`drain_seconds = 0`)
	w.sit("one")
	two := w.sit("two")
	w.change(`max_seats = 1`)
	w.change(`max_seats = 2`)
	if b := w.alive(two); !b.DrainUntil.IsZero() {
		t.Errorf("heartbeat: %+v", b)
	}
}

func TestAShortenedLeaseIsRememberedAsLongAsTheLongerIsBelieved(t *testing.T) {
	w := newWorld(t, 1, brisk)
	w.change(`ttl_seconds = 4`)
	ref := w.sit("one")
	believes := time.Now().Add(4 * time.Second) // at the latest
	told := w.alive(ref)
	w.alter(`ttl_seconds = 1`)
	w.redis.RestartEmpty(t) // before the pool was told
	w.full()
	w.must(w.Changed(w.ctx(), w.tenant, w.license))
	w.redis.RestartEmpty(t) // and after
	w.full()
	w.gone(ref.Session)
	if early := time.Until(told.ExpiresAt); early > 0 {
		t.Errorf("the session was reaped %s before its holder stopped believing", early)
	}
	if until := testenv.Value[time.Time](t, w.db, `SELECT ttl_floor_until FROM app.licenses WHERE id = $1`, w.license); until.Before(believes) ||
		until.After(time.Now().Add(5*time.Second)) {
		t.Errorf("the longer lease is remembered until %s, and believed until %s", until, believes)
	}
	// Once all of them have ended, the floor is the shorter one's.
	w.alter(`ttl_floor_until = now()`)
	w.redis.RestartEmpty(t)
	two := w.comesFree("two")
	w.redis.RestartEmpty(t)
	before := time.Now()
	w.full()
	w.gone(two.Session)
	if after := time.Since(before); after < floor || after > 4*time.Second {
		t.Errorf("reaped after %s, want the floor of %s", after, floor)
	}
}

func TestAPromotedReplicaRenewsNothingBeforeItIsRebuilt(t *testing.T) {
	var pair *testenv.Pair
	w := newWorld(t, 2, onPair(t, &pair))
	ref, left := w.sit("one"), w.sit("two")
	pair.AwaitReplica(t)
	pair.CutReplication()
	w.change(`ttl_seconds = 30`)
	w.release(left)
	epoch := w.epoch()
	pair.Failover(t)
	if b := w.alive(ref); b.TTL != 30*time.Second { // the replica had heard of a minute
		t.Errorf("heartbeat: %+v, want the licence's own lease", b)
	}
	if w.epoch() == epoch {
		t.Error("the heartbeat was answered from the replica's pool")
	}
	w.over(left, Released, ReasonReleased) // which the replica had not heard
}

func TestAChangeDuringARebuildIsNotLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]bool{"of a lost pool": true, "of a distrusted pool": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.sit("one")
			distrusted := w.epoch()
			if lose {
				w.redis.RestartEmpty(t)
			}
			s, err := w.snapshot(w.ctx(), w.pool(), distrusted)
			w.must(err)
			w.change(`max_seats = 2`)
			_, err = w.install(w.ctx(), w.pool(), s)
			w.must(err)
			w.sit("two")
		})
	}
}

func TestAPoolIsToldOnlyWhatIsNewer(t *testing.T) {
	w := newWorld(t, 1)
	old := w.limits()
	w.change(`max_seats = 2`)
	rep, err := w.run(w.ctx(), resizeScript, w.pool().keys(), w.settings(old)...)
	w.must(err)
	if kind := rep.str(); kind != "ok" {
		t.Errorf("resize: %s", kind)
	}
	w.sit("one")
	w.sit("two")
}

func (w *world) limits() (row limits) {
	w.t.Helper()
	w.must(w.Pools.db.As(w.ctx(), w.tenant, func(tx tenancy.Tx) (err error) {
		row, err = scanLimits(tx.QueryRow(w.ctx(), selectLimits, w.license.String()))
		return err
	}))
	return row
}

func TestSweepsAndChangesAtOnceLeaveNothingUntold(t *testing.T) {
	w := newWorld(t, 1)
	w.sit("one")
	done := make(chan error)
	go func() {
		var err error
		for i := 2; i <= 10 && err == nil; i++ {
			w.alter(fmt.Sprintf(`max_seats = %d`, i))
			err = w.Changed(context.Background(), w.tenant, w.license)
		}
		done <- err
	}()
	sweeper := w.pools("usher_sweep")
	for {
		if _, err := sweeper.Sweep(w.ctx()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			w.must(err)
			if b := w.beat(w.ask("one").Ref); b.Counts.Max != 10 {
				t.Errorf("the pool knows of %d seats, want 10", b.Counts.Max)
			}
			if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.outbox`); n != 0 {
				t.Errorf("%d messages are left in the outbox", n)
			}
			return
		default:
		}
	}
}
