package seat

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// backup remembers the rows as they are. Restored, those opened since are not there, and those that ended since are open.
func (w *world) backup() (restore func()) {
	w.t.Helper()
	for _, table := range []string{"open_sessions", "ended_sessions", "licenses"} {
		w.db.Exec(w.t, `CREATE TABLE public.`+table+` AS SELECT * FROM app.`+table)
	}
	return func() {
		w.t.Helper()
		for _, table := range []string{"open_sessions", "ended_sessions"} {
			w.db.Exec(w.t, `DELETE FROM app.`+table)
			w.db.Exec(w.t, `INSERT INTO app.`+table+` SELECT * FROM public.`+table)
		}
		w.db.Exec(w.t, `UPDATE app.licenses l SET seat_epoch = o.seat_epoch, pool_version = o.pool_version
			FROM public.licenses o WHERE o.id = l.id`)
	}
}

// G3
func TestAfterPostgreSQLWasRestoredTheRowsAreRecoveredFromThePools(t *testing.T) {
	w := newWorld(t, 4)
	stayed, left := w.sit("stayed"), w.sit("left")
	evicted := w.sit("evicted")
	restore := w.backup()
	w.release(left)
	came := w.sit("came")
	if came.Seat != left.Seat {
		t.Fatalf("seat %d, want the one that came free", came.Seat)
	}
	w.evict(evicted)
	late := w.sit("late")
	w.rebuildNow() // the epoch of the lost time is ahead of the restored one
	restore()
	w.hasRows(stayed.Session, left.Session, evicted.Session)

	w.alive(came) // heartbeats go on meanwhile
	recovery, err := w.pools("usher_sweep").Recover(w.ctx())
	w.must(err)
	if recovery.Licenses != 1 || recovery.Restored != 2 || recovery.Closed != 1 || recovery.Cold != 0 || len(recovery.Unknown) != 0 {
		t.Errorf("%+v, want two restored and one closed", recovery)
	}
	w.hasRows(stayed.Session, came.Session, evicted.Session, late.Session)
	w.alive(stayed)
	w.alive(came)
	w.alive(late)
	w.full()
	again, err := w.pools("usher_sweep").Recover(w.ctx())
	if err != nil || again.Restored != 0 || again.Closed != 0 {
		t.Errorf("again: %+v, %v, want nothing left to do", again, err)
	}
	w.redis.RestartEmpty(t) // now the rows know what the pools knew
	w.alive(stayed)
	w.alive(came)
	w.alive(late)
	w.full()
	w.over(evicted, Evicted, "abuse")
	w.ended(left.Session, Lapsed, ReasonLeaseExpired, "")
	w.release(evicted)
	w.sit("five")
}

// rebuildNow rebuilds the pool, whether it needs that or not.
func (w *world) rebuildNow() {
	w.t.Helper()
	w.must(w.rebuild(w.ctx(), w.pool(), w.epoch()))
}

func TestARestoredPostgreSQLThatNobodyRecoveredStillGivesNoSeatTwice(t *testing.T) {
	w := newWorld(t, 2)
	restore := w.backup()
	one := w.sit("one")
	restore()
	w.hasRows()
	if g := w.ask("one"); g.Verdict != Existing || g.Ref != one { // and has a row again
		t.Errorf("acquire: %+v, want the session that the pool has", g)
	}
	w.hasRows(one.Session)
	w.alive(one)
}

func TestABorrowOutlivesARestoreOfPostgreSQL(t *testing.T) {
	w := newWorld(t, 2)
	kept := w.sit("kept")
	w.alive(w.sit("not borrowed"))
	restore := w.backup()
	loan := w.lends(kept, time.Hour)
	restore()
	if until := w.borrowedUntil(kept.Session); !until.IsZero() {
		t.Fatalf("the restored row says until %s", until)
	}
	_, err := w.pools("usher_sweep").Recover(w.ctx())
	w.must(err)
	if until := w.borrowedUntil(kept.Session); until.Before(loan.Until.Add(-time.Millisecond)) {
		t.Errorf("the recovered row says until %s, want %s", until, loan.Until)
	}
	if n := testenv.Value[int](t, w.db, `SELECT count(*)::int FROM app.open_sessions WHERE borrowed_until IS NOT NULL`); n != 1 {
		t.Errorf("%d rows are borrowed, want one", n)
	}
	w.redis.RestartEmpty(t)
	w.alive(kept)
	w.isTaken(kept, Loan{Until: loan.Until.Add(-time.Millisecond)})
}

func TestRecoveryTellsWhatItCannotRecover(t *testing.T) {
	w := newWorld(t, 1)
	lost := w.license
	w.sit("one")
	w.license = uuid.New()
	w.sell(w.license, 1)
	two := w.sit("two")
	// The first licence was sold in the lost time; the second one's pool was lost, too.
	w.db.Exec(t, `DELETE FROM app.open_sessions WHERE license_id = $1`, lost)
	w.db.Exec(t, `DELETE FROM app.devices WHERE license_id = $1`, lost)
	w.db.Exec(t, `DELETE FROM app.licenses WHERE id = $1`, lost)
	w.redis.Do(t, "HSET", w.key("meta"), "inc", "of another time")
	w.redis.Do(t, "SET", "seat:{not a pool}:meta", "x")
	recovery, err := w.pools("usher_sweep").Recover(w.ctx())
	w.must(err)
	if recovery.Licenses != 2 || recovery.Cold != 1 || !slices.Equal(recovery.Unknown, []uuid.UUID{lost}) {
		t.Errorf("%+v, want one cold and one unknown", recovery)
	}
	w.alive(two)
	w.full()
}

func TestALargePoolIsSweptRebuiltAndRecovered(t *testing.T) {
	const n = 2*sweepPage + 7
	w := newWorld(t, n)
	restore := w.backup()
	// The rows of sessions that the pool will know, written at once.
	w.db.Exec(t, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id)
		SELECT $1, gen_random_uuid(), $2, n, 1, n, 'device:' || n, n FROM generate_series(1, $3::int) n`, w.tenant.UUID(), w.license, n)
	w.rebuildNow()
	w.full()
	if report := w.sweep(); report.Closed != 0 || report.Ghosts != 0 || report.Licenses != 1 {
		t.Errorf("sweep of what agrees: %+v", report)
	}
	restore()
	w.hasRows()
	recovery, err := w.pools("usher_sweep").Recover(w.ctx())
	if err != nil || recovery.Restored != n {
		t.Errorf("recovery: %+v, %v, want %d restored", recovery, err, n)
	}
	w.full()
	// All of them lapse at once.
	w.redis.Do(t, "EVAL", `local z = redis.call('ZRANGE', KEYS[1], 0, -1)
		for i = 1, #z do redis.call('ZADD', KEYS[1], 1, z[i]) end`, "1", w.key("leases"))
	for closed, lapsed := 0, 0; lapsed < n || closed < n; {
		report := w.sweep()
		if report.Closed == 0 && report.Lapsed == 0 {
			t.Fatalf("the sweeps report %d closed and %d lapsed of %d", closed, lapsed, n)
		}
		closed, lapsed = closed+report.Closed, lapsed+report.Lapsed
	}
	w.hasRows()
	ref := w.sit("one")
	if ref.Seat != 1 {
		t.Errorf("seat %d", ref.Seat)
	}
}

func TestASweepGoesOnWhereTheLastOneStopped(t *testing.T) {
	w := newWorld(t, 1)
	first := w.license
	var last uuid.UUID
	for range licensePage + 3 {
		w.license = uuid.New()
		w.db.Exec(t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, ttl_seconds, seat_per,
			offline_grace_seconds, drain_seconds) VALUES ($1, $2, 'editor', 'pro', 1, 1, 'device', 1, 1)`, w.tenant.UUID(), w.license)
		w.db.Exec(t, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id)
			VALUES ($1, gen_random_uuid(), $2, 1, 1, 1, 'device:one', 'one')`, w.tenant.UUID(), w.license)
		if fmt.Sprint(w.license) > fmt.Sprint(last) {
			last = w.license
		}
	}
	sweeper := w.pools("usher_sweep")
	w.must(sweeper.moveCursor(w.ctx(), place{w.tenant.UUID(), last})) // behind which there is nothing
	report, err := sweeper.Sweep(w.ctx())
	if err != nil || !report.Complete || report.Licenses != licensePage+3 || report.Rebuilt != licensePage+3 {
		t.Errorf("sweep: %+v, %v, want the %d licences before the cursor", report, err, licensePage+3)
	}
	at, err := sweeper.cursor(w.ctx())
	if err != nil || at != (place{}) {
		t.Errorf("cursor: %+v, %v, want the beginning", at, err)
	}
	w.license = first
}

func TestOneLicenceThatFailsDoesNotHoldUpTheOthers(t *testing.T) {
	w := newWorld(t, 1)
	w.sit("one")
	bad := w.license
	w.license = uuid.New()
	w.sell(w.license, 1)
	ref := w.sit("two")
	w.expire(ref.Session)
	w.redis.Do(t, "DEL", fmt.Sprintf("seat:{%s/%s}:meta", w.tenant, bad))
	w.redis.Do(t, "SET", fmt.Sprintf("seat:{%s/%s}:meta", w.tenant, bad), "no hash")
	report, err := w.pools("usher_sweep").Sweep(w.ctx())
	if err != nil || report.Failed != 1 || report.Licenses != 2 || report.Closed != 1 || !report.Complete {
		t.Errorf("sweep: %+v, %v, want one failed and the other's session closed", report, err)
	}
}

func TestASweepWithoutRedisFailsLicenceByLicence(t *testing.T) {
	w := newWorld(t, 1)
	w.sit("one")
	w.redis.Kill(t)
	report, err := w.pools("usher_sweep").Sweep(w.ctx())
	if err != nil || report.Failed != 1 || report.Closed != 0 {
		t.Errorf("sweep: %+v, %v, want one failed", report, err)
	}
	w.isUnavailable(w.Ping(w.ctx()))
	_, err = w.Acquire(w.ctx(), w.tenant, w.license, device("two"), Ask{})
	w.isUnavailable(err)
	w.redis.Start(t)
	w.must(w.Ping(w.ctx()))
	w.full()
}

func TestARedisThatMayEvictIsNotReady(t *testing.T) {
	w := newWorld(t, 1)
	w.redis.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	w.isUnavailable(w.Ping(w.ctx()))
}

func TestHistoryHasAPartitionBeforeItsMonthBegins(t *testing.T) {
	w := newWorld(t, 1)
	sweeper := w.pools("usher_sweep")
	for _, want := range []int{monthsAhead, 0} {
		if made, err := sweeper.MakeHistory(w.ctx()); err != nil || made != want {
			t.Errorf("%d partitions made, %v, want %d", made, err, want)
		}
	}
	w.release(w.sit("one"))
	w.db.Exec(t, `UPDATE app.ended_sessions SET ended_at = ended_at + interval '1 month'`)
	name := testenv.Value[string](t, w.db, `SELECT tableoid::regclass::text FROM app.ended_sessions`)
	if name == "app.ended_sessions_default" {
		t.Errorf("a session of the next month is in %s", name)
	}
}

func TestASweepMakesItsRoundsAlsoWhenTheOutboxCannotBeRead(t *testing.T) {
	w := newWorld(t, 1)
	ref := w.sit("one")
	w.expire(ref.Session)
	w.db.Exec(t, `REVOKE EXECUTE ON FUNCTION app.sweep_outbox(int) FROM usher_sweep`)
	report, err := w.pools("usher_sweep").Sweep(w.ctx())
	if tenancy.Code(err) != "42501" {
		t.Errorf("sweep: %v, want it to say what failed", err)
	}
	if report.Closed != 1 || report.Lapsed != 1 || !report.Complete {
		t.Errorf("sweep: %+v, want one closed", report)
	}
}
