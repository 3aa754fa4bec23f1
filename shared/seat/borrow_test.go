package seat

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/testenv"
)

// borrow asks to borrow the session's seat for so long.
func (w *world) borrow(ref Ref, last time.Duration) Loan {
	w.t.Helper()
	loan, err := w.Borrow(w.ctx(), ref, Term{Until: time.Now().Add(last)})
	if err != nil {
		w.t.Fatalf("borrow: %v", err)
	}
	return loan
}

// lends checks that the session's seat is lent.
func (w *world) lends(ref Ref, last time.Duration) Loan {
	w.t.Helper()
	loan := w.borrow(ref, last)
	if loan.Verdict != Lent || loan.Seat != ref.Seat {
		w.t.Fatalf("borrow: %+v, want seat %d lent", loan, ref.Seat)
	}
	return loan
}

// borrowedUntil is what the session's row says; zero when it is not borrowed.
func (w *world) borrowedUntil(session uuid.UUID) time.Time {
	w.t.Helper()
	until := testenv.Value[*time.Time](w.t, w.db, `SELECT borrowed_until FROM app.open_sessions WHERE id = $1`, session)
	if until == nil {
		return time.Time{}
	}
	return until.UTC()
}

// revoked is until when the revocation list names the session, once; zero when it does not.
func (w *world) revoked(session uuid.UUID) time.Time {
	w.t.Helper()
	if n := testenv.Value[int](w.t, w.db, `SELECT count(*)::int FROM app.revocations WHERE subject = $1`, session); n == 0 {
		return time.Time{}
	} else if n > 1 {
		w.t.Errorf("session %s is revoked %d times", session, n)
	}
	return testenv.Value[time.Time](w.t, w.db, `SELECT ends_at FROM app.revocations WHERE kind = 'session' AND subject = $1 AND license_id = $2`,
		session, w.license).UTC()
}

// reapAt is when the pool reaps the session, in ms of the store's clock.
func (w *world) reapAt(session uuid.UUID) time.Time {
	w.t.Helper()
	return time.UnixMilli(int64(w.redis.Do(w.t, "ZSCORE", w.key("leases"), session.String()).(float64)))
}

// pass lets time pass for the licence's sessions: whatever ends is so much nearer to its end.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.shift(d)
	w.db.Exec(w.t, `UPDATE app.open_sessions SET borrowed_until = borrowed_until - make_interval(secs => $2::float8)
		 WHERE license_id = $1 AND borrowed_until IS NOT NULL`, w.license, d.Seconds())
}

// shift is pass for the pool.
func (w *world) shift(d time.Duration) {
	w.t.Helper()
	ms := -d.Milliseconds()
	for _, session := range w.redis.Do(w.t, "ZRANGE", w.key("leases"), 0, -1).([]any) {
		w.redis.Do(w.t, "ZINCRBY", w.key("leases"), ms, session)
	}
	if w.redis.Do(w.t, "EXISTS", w.key("meta")) == int64(1) {
		w.redis.Do(w.t, "HINCRBY", w.key("meta"), "fu", ms)
	}
}

// isTaken checks that the pool keeps the seat of a borrowed session until its borrow has ended, and with it the allowance.
func (w *world) isTaken(ref Ref, loan Loan) {
	w.t.Helper()
	if at := w.reapAt(ref.Session); at.Before(loan.Until.Add(w.cfg.ClockAllowance)) {
		w.t.Errorf("reaped at %s, and borrowed until %s", at, loan.Until)
	}
}

func TestABorrowedSeatStaysTakenWithoutHeartbeats(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	loan := w.lends(ref, time.Hour)
	if until := w.borrowedUntil(ref.Session); !until.Equal(loan.Until) || loan.HardwareID != "one" || loan.At.IsZero() {
		t.Errorf("lent: %+v, and the row says %s", loan, until)
	}
	w.isTaken(ref, loan)
	w.pass(50 * time.Minute)
	w.full()
	w.pass(11 * time.Minute)
	second := w.sit("two")
	w.hasRows(second.Session)
	w.ended(ref.Session, Lapsed, ReasonLeaseExpired, "")
	if at := w.revoked(ref.Session); !at.IsZero() {
		t.Errorf("a borrow that ended by itself is revoked until %s", at)
	}
}

func TestNothingShortensABorrow(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	loan := w.lends(ref, time.Hour)
	if again := w.lends(ref, time.Minute); !again.Until.Equal(loan.Until) {
		t.Errorf("borrowed until %s, and then for a minute: %s", loan.Until, again.Until)
	}
	w.alive(ref)
	w.isTaken(ref, loan)
	if g := w.ask("one"); g.Verdict != Existing || g.Ref != ref {
		t.Errorf("acquire: %+v, want the session that there is", g)
	}
	w.isTaken(ref, loan)
	w.change(`offline_grace_seconds = 60`)
	w.sweep()
	if again := w.lends(ref, 2*time.Hour); !again.Until.Equal(loan.Until) {
		t.Errorf("under a shorter longest borrow until %s, want %s", again.Until, loan.Until)
	}
	w.isTaken(ref, loan)
	w.redis.RestartEmpty(t)
	w.alive(ref)
	w.isTaken(ref, loan)
	w.change(`offline_grace_seconds = 86400`)
	if longer := w.lends(ref, 2*time.Hour); !longer.Until.After(loan.Until) {
		t.Errorf("borrowed again for longer: %s, before %s", longer.Until, loan.Until)
	}
}

func TestABorrowEndsWithTheLongestAndWithTheLicence(t *testing.T) {
	w := newWorld(t, 2)
	one, two := w.sit("one"), w.sit("two")
	began := time.Now()
	near := func(got Loan, want time.Time) {
		t.Helper()
		if d := got.Until.Sub(want); d < -time.Minute || d > time.Minute || got.Until.Nanosecond()%int(time.Millisecond) != 0 {
			t.Errorf("lent until %s, want about %s in whole milliseconds", got.Until, want)
		}
	}
	near(w.lends(one, 1000*time.Hour), began.Add(24*time.Hour))
	ends := began.Add(200 * time.Hour)
	w.change(`expires_at = $1::timestamptz, grace_until = $2::timestamptz`, ends.Add(-time.Hour), ends)
	beyond, err := w.Borrow(w.ctx(), two, Term{Until: began.Add(100 * time.Hour), BeyondLongest: true})
	w.must(err)
	near(beyond, began.Add(100*time.Hour))
	beyond, err = w.Borrow(w.ctx(), two, Term{Until: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), BeyondLongest: true})
	w.must(err)
	near(beyond, ends)
	w.isTaken(two, beyond)
	for _, past := range []time.Time{began, {}, time.Now().Add(time.Microsecond)} {
		if loan, err := w.Borrow(w.ctx(), one, Term{Until: past}); err != nil || loan.Verdict != NotInFuture {
			t.Errorf("until %s: %+v, %v", past, loan, err)
		}
	}
}

func TestALicenceThatNeverEndsIsLentForThousandsOfYears(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	loan, err := w.Borrow(w.ctx(), ref, Term{Until: last, BeyondLongest: true})
	if err != nil || loan.Verdict != Lent || !loan.Until.Equal(last) {
		t.Fatalf("borrow: %+v, %v", loan, err)
	}
	w.isTaken(ref, loan)
	w.redis.RestartEmpty(t)
	w.alive(ref)
	w.isTaken(ref, loan)
}

func TestTheLowWaterMarkIsNeverBorrowed(t *testing.T) {
	w := newWorld(t, 3)
	w.change(`borrow_reserve_seats = 1, overdraft_seats = 1`)
	one, two, three := w.sit("one"), w.sit("two"), w.sit("three")
	w.lends(one, time.Hour)
	w.lends(two, time.Hour)
	if loan := w.borrow(three, time.Hour); loan.Verdict != LimitReached {
		t.Errorf("the third of two: %+v", loan)
	}
	if until := w.borrowedUntil(three.Session); !until.IsZero() {
		t.Errorf("it is borrowed until %s", until)
	}
	w.lends(one, 2*time.Hour) // its own is no other
	w.release(two)
	w.lends(three, time.Hour)
	w.change(`borrow_reserve_seats = 3`)
	if loan := w.borrow(w.sit("four"), time.Hour); loan.Verdict != LimitReached {
		t.Errorf("where none is to be borrowed: %+v", loan)
	}
	if loan := w.borrow(one, 3*time.Hour); loan.Verdict != LimitReached {
		t.Errorf("for longer, above the mark: %+v", loan)
	}
	w.lends(one, time.Hour) // what was lent stays lent
	w.change(`offline_grace_seconds = 0, borrow_reserve_seats = 0`)
	w.release(three)
	if loan := w.borrow(w.sit("five"), time.Hour); loan.Verdict != LimitReached {
		t.Errorf("where the longest borrow is nothing: %+v", loan)
	}
}

func TestASeatThatTheLicenceHasNoMoreIsNotLent(t *testing.T) {
	w := newWorld(t, 2)
	one, two := w.sit("one"), w.sit("two")
	w.change(`max_seats = 1`)
	if loan := w.borrow(two, time.Hour); loan.Verdict != LimitReached {
		t.Errorf("borrow of a seat that drains: %+v", loan)
	}
	w.lends(one, time.Hour)
}

func TestABorrowedSeatThatIsToDrainStaysTaken(t *testing.T) {
	w := newWorld(t, 2)
	one, two := w.sit("one"), w.sit("two")
	loan := w.lends(two, time.Hour)
	w.change(`drain_seconds = 0`)
	w.change(`max_seats = 1`)
	w.over(two, Evicted, ReasonSeatsReduced)
	w.isTaken(two, loan)
	w.full()
	w.release(one)
	w.full()
	w.release(two) // the holder heard
	w.sit("three")
	if at := w.revoked(two.Session); !at.Equal(loan.Until) {
		t.Errorf("revoked until %s, want %s", at, loan.Until)
	}
}

func TestAReturnedBorrowFreesTheSeatAndVoidsItsReceipt(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	loan := w.lends(ref, time.Hour)
	w.full()
	if e := w.release(ref); e.Status != Released {
		t.Errorf("release: %+v", e)
	}
	w.release(ref)
	w.sit("two")
	if at := w.revoked(ref.Session); !at.Equal(loan.Until) {
		t.Errorf("revoked until %s, want %s", at, loan.Until)
	}
	if loan := w.borrow(ref, time.Hour); loan.Verdict != Ended || loan.Ending.Status != Released {
		t.Errorf("borrow after it was returned: %+v", loan)
	}
}

func TestAnEvictedBorrowerHoldsItsSeatUntilItsEndOrItsWord(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]func(w *world, ref Ref){
		"returned":        func(w *world, ref Ref) { w.release(ref); w.sit("two") },
		"asked for again": func(w *world, ref Ref) { w.sit("one"); w.full() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			ref := w.sit("one")
			loan := w.lends(ref, time.Hour)
			w.evict(ref)
			if at := w.revoked(ref.Session); !at.Equal(loan.Until) {
				t.Errorf("revoked until %s, want %s", at, loan.Until)
			}
			if loan := w.borrow(ref, time.Hour); loan.Verdict != Ended || loan.Ending.Reason != "abuse" {
				t.Errorf("borrow: %+v, want the eviction", loan)
			}
			w.over(ref, Evicted, "abuse")
			w.full()
			w.redis.RestartEmpty(t)
			w.full()
			w.isTaken(ref, loan)
			w.over(ref, Evicted, "abuse")
			w.full()
			back(w, ref)
			w.revoked(ref.Session) // once
		})
	}
	t.Run("over", func(t *testing.T) {
		w := newWorld(t, 1)
		ref := w.sit("one")
		w.lends(ref, time.Hour)
		w.evict(ref)
		w.pass(50 * time.Minute)
		w.full()
		w.pass(11 * time.Minute)
		w.sit("two")
		w.ended(ref.Session, Evicted, "abuse", "key:42")
	})
}

func TestABorrowOfALicenceThatIsStoppedIsVoidAndItsSeatTaken(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]struct{ stop, reason string }{
		"suspended": {`status = 'suspended', status_by = 'user:op'`, "license_suspended"},
		"revoked":   {`status = 'revoked', status_by = 'user:op'`, "license_revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			ref := w.sit("one")
			loan := w.lends(ref, time.Hour)
			w.alter(at.stop) // and the pool is not told
			untold, err := w.Borrow(w.ctx(), ref, Term{Until: time.Now().Add(time.Minute)})
			w.must(err)
			if e := untold.Ending; untold.Verdict != Ended || e.Status != Evicted || e.Reason != at.reason || e.By != "user:op" {
				t.Errorf("borrow: %+v", untold)
			}
			if at := w.revoked(ref.Session); !at.Equal(loan.Until) {
				t.Errorf("revoked until %s, want %s", at, loan.Until)
			}
			w.sweep()
			w.over(ref, Evicted, at.reason)
			w.isTaken(ref, loan)
		})
	}
	t.Run("by its dates", func(t *testing.T) {
		w := newWorld(t, 1)
		ref := w.sit("one")
		w.lends(ref, time.Hour)
		w.alter(`expires_at = now() - interval '1 second'`)
		loan, err := w.Borrow(w.ctx(), ref, Term{Until: time.Now().Add(time.Minute)})
		w.must(err)
		if loan.Verdict != Ended || loan.Ending.Reason != "license_expired" {
			t.Errorf("borrow: %+v", loan)
		}
	})
}

func TestASessionThatIsNotThereIsNotLent(t *testing.T) {
	w := newWorld(t, 2)
	ref := w.sit("one")
	other := ref
	other.Counter++
	if loan := w.borrow(other, time.Hour); loan.Verdict != Ended {
		t.Errorf("under another fence: %+v", loan)
	}
	gone := w.sit("two")
	w.release(gone)
	if loan := w.borrow(gone, time.Hour); loan.Verdict != Ended || loan.Ending.Status != Released {
		t.Errorf("released: %+v", loan)
	}
	unknown := ref
	unknown.License = uuid.New()
	if loan := w.borrow(unknown, time.Hour); loan.Verdict != Ended {
		t.Errorf("of a licence that is not there: %+v", loan)
	}
}

// A ghost is in the pool, and its row is closed: whoever believes has a row.
func TestAGhostIsNotLent(t *testing.T) {
	w, ref := ghost(t)
	if loan := w.borrow(ref, time.Hour); loan.Verdict != Ended || loan.Ending.Status != Released {
		t.Errorf("borrow: %+v", loan)
	}
}

func TestWithoutAStoreNothingIsLentAndAskingAgainIs(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	dead, cancel := context.WithCancel(w.ctx())
	cancel()
	_, err := w.Borrow(dead, ref, Term{Until: time.Now().Add(time.Hour)})
	w.isUnavailable(err)
	w.lends(ref, time.Hour)
}

func TestOfManyWhoBorrowAtOnceAsManyAsTheMarkAllowsDo(t *testing.T) {
	w := newWorld(t, 6)
	w.change(`borrow_reserve_seats = 4`)
	var refs []Ref
	for i := range 6 {
		refs = append(refs, w.sit(fmt.Sprint("holder ", i)))
	}
	var lent atomic.Int64
	var all sync.WaitGroup
	for _, ref := range refs {
		all.Go(func() {
			loan, err := w.Borrow(w.ctx(), ref, Term{Until: time.Now().Add(time.Hour)})
			switch {
			case err != nil:
				t.Errorf("borrow: %v", err)
			case loan.Verdict == Lent:
				lent.Add(1)
			case loan.Verdict != LimitReached:
				t.Errorf("borrow: %+v", loan)
			}
		})
	}
	all.Wait()
	if n := lent.Load(); n != 2 {
		t.Errorf("%d of 6 borrowed, want 2", n)
	}
}

// Whatever comes in the way of a borrow, what its holder is told is so afterwards.
func TestABorrowThatIsRacedIsWhatItsHolderHears(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]struct {
		other func(w *world, ref Ref) error
		after func(w *world, ref Ref, loan Loan)
	}{
		"by its release": {
			func(w *world, ref Ref) error { _, err := w.Release(w.ctx(), ref); return err },
			func(w *world, ref Ref, loan Loan) {
				w.hasRows()
				if at := w.revoked(ref.Session); loan.Verdict == Lent && !at.Equal(loan.Until) {
					w.t.Errorf("revoked until %s, and lent until %s", at, loan.Until)
				}
			},
		},
		"by an eviction": {
			func(w *world, ref Ref) error { return w.Evict(w.ctx(), w.tenant, ref.Session, "abuse", "admin") },
			func(w *world, ref Ref, loan Loan) {
				w.over(ref, Evicted, "abuse")
				if loan.Verdict == Lent {
					w.isTaken(ref, loan)
					if at := w.revoked(ref.Session); !at.Equal(loan.Until) {
						w.t.Errorf("revoked until %s, and lent until %s", at, loan.Until)
					}
				}
			},
		},
		"by a rebuild": {
			func(w *world, _ Ref) error { return w.rebuild(w.ctx(), w.pool(), w.epoch()) },
			func(w *world, ref Ref, loan Loan) {
				if loan.Verdict != Lent || !w.borrowedUntil(ref.Session).Equal(loan.Until) {
					w.t.Errorf("borrow: %+v, and the row says %s", loan, w.borrowedUntil(ref.Session))
				}
				w.isTaken(ref, loan)
				w.alive(ref)
			},
		},
		"by a loss of Redis": {
			func(w *world, _ Ref) error { w.redis.Do(w.t, "FLUSHALL"); return nil },
			func(w *world, ref Ref, loan Loan) {
				w.alive(ref)
				if loan.Verdict != Lent {
					w.t.Errorf("borrow: %+v", loan)
				}
				w.isTaken(ref, loan)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			for range 10 {
				w.license = uuid.New()
				w.sell(w.license, 1)
				ref := w.sit("one")
				var loan Loan
				var borrowErr, otherErr error
				var both sync.WaitGroup
				both.Go(func() { loan, borrowErr = w.Borrow(w.ctx(), ref, Term{Until: time.Now().Add(time.Hour)}) })
				both.Go(func() { otherErr = at.other(w, ref) })
				both.Wait()
				w.must(errors.Join(borrowErr, otherErr))
				at.after(w, ref, loan)
			}
		})
	}
}
