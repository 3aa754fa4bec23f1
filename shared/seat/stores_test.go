package seat

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// life takes a licence of two seats through everything that can happen to it.
func (w *world) life() {
	w.t.Helper()
	w.must(w.Ping(w.ctx()))
	one := w.sit("one")
	h := device("two")
	h.Metadata, h.Hostname = json.RawMessage(`{"note": "it's \\ \"quoted\", 日本"}`), `a\b'c`
	g, err := w.Acquire(w.ctx(), w.tenant, w.license, h, Ask{})
	w.must(err)
	two := g.Ref
	if note := testenv.Value[string](w.t, w.db, `SELECT hostname || (metadata ->> 'note') FROM app.open_sessions WHERE id = $1`, two.Session); note != `a\b'cit's \ "quoted", 日本` {
		w.t.Errorf("metadata: %s", note)
	}
	w.full()
	w.alive(one)
	w.waits("three", 1, 1)
	if left, err := w.Leave(w.ctx(), w.tenant, w.license, "device:three"); err != nil || !left {
		w.t.Errorf("leave: %v, %v", left, err)
	}

	// A row that the next taker displaces, with its reason and time in arrays.
	w.must(w.letGo(w.ctx(), w.pool(), two.Session, two.Fence()))
	three := w.sit("three")
	w.ended(two.Session, Released, ReasonReleased, "holder")
	w.release(three)

	// A row that the sweep closes.
	r := w.reserves("four")
	w.opens(r, "ok")
	w.expire(r.session)
	if report := w.sweep(); report.Closed != 1 || report.Licenses != 1 {
		w.t.Errorf("sweep: %+v, want one closed", report)
	}
	w.ended(r.session, Lapsed, ReasonLeaseExpired, "")

	w.redis.Do(w.t, "FLUSHALL")
	w.alive(one)
	five := w.sit("five")
	w.full()
	w.evict(five)
	w.redis.Do(w.t, "FLUSHALL")
	w.over(five, Evicted, "abuse")
	w.release(five)
	w.change(`max_seats = 1`)
	w.full()
	sight, err := w.pools("usher_validate").Peek(w.ctx(), w.tenant, w.license)
	if err != nil || sight.Counts != (Counts{Active: 1, Max: 1}) || sight.PoolVersion == 0 {
		w.t.Errorf("peek: %+v, %v", sight, err)
	}
	recovery, err := w.pools("usher_sweep").Recover(w.ctx())
	if err != nil || recovery.Licenses != 1 {
		w.t.Errorf("recover: %+v, %v", recovery, err)
	}
	w.alive(one)
	w.sweep()
	if e := w.release(one); e.Status != Released {
		w.t.Errorf("release: %+v", e)
	}
	w.sit("six")
}

func TestALifeOnOneRedis(t *testing.T) { newWorld(t, 2).life() }

func TestALifeOnACluster(t *testing.T) {
	newWorld(t, 2, onCluster(t)).life()
}

func TestALifeThroughPgBouncer(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_describe", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			newWorld(t, 2, throughPgBouncer(t, mode)).life()
		})
	}
}

func TestEachFunctionsRoleMayDoItsWorkWarmAndCold(t *testing.T) {
	w := newWorld(t, 4)
	acquire, heartbeat, release := w.pools("usher_acquire"), w.pools("usher_heartbeat"), w.pools("usher_release")
	borrow := w.pools("usher_borrow")
	sweep, validate, admin := w.pools("usher_sweep"), w.pools("usher_validate"), w.pools("usher_admin")
	takes := func(holder string) Ref {
		t.Helper()
		g, err := acquire.Acquire(w.ctx(), w.tenant, w.license, device(holder), Ask{})
		if err != nil || g.Verdict != Granted {
			t.Fatalf("acquire: %+v, %v", g, err)
		}
		return g.Ref
	}
	for _, name := range []string{"warm", "cold"} {
		prepare := func() {
			if name == "cold" {
				w.redis.Do(t, "FLUSHALL")
			}
		}
		one, two, three := takes(name+" one"), takes(name+" two"), takes(name+" three")
		prepare()
		if sight, err := validate.Peek(w.ctx(), w.tenant, w.license); err != nil || sight.Counts.Active != 3 {
			t.Errorf("%s: validate: %+v, %v", name, sight, err)
		}
		prepare()
		if b, err := heartbeat.Heartbeat(w.ctx(), one); err != nil || !b.Alive {
			t.Errorf("%s: heartbeat: %+v, %v", name, b, err)
		}
		prepare()
		if loan, err := borrow.Borrow(w.ctx(), one, Term{Until: time.Now().Add(time.Minute)}); err != nil || loan.Verdict != Lent {
			t.Errorf("%s: borrow: %+v, %v", name, loan, err)
		}
		prepare()
		if loan, err := admin.Borrow(w.ctx(), two, Term{Until: time.Now().Add(1000 * time.Hour), BeyondLongest: true}); err != nil || loan.Verdict != Lent {
			t.Errorf("%s: an administrator's borrow: %+v, %v", name, loan, err)
		}
		prepare()
		if lives, err := acquire.Lives(w.ctx(), one); err != nil || !lives {
			t.Errorf("%s: lives: %v, %v", name, lives, err)
		}
		prepare()
		if e, err := release.Release(w.ctx(), one); err != nil || e.Status != Released {
			t.Errorf("%s: release: %+v, %v", name, e, err)
		}
		prepare()
		if err := admin.Evict(w.ctx(), w.tenant, two.Session, "abuse", "admin"); err != nil {
			t.Errorf("%s: evict: %v", name, err)
		}
		prepare()
		if b, err := heartbeat.Heartbeat(w.ctx(), two); err != nil || b.Alive || b.Ending.Reason != "abuse" {
			t.Errorf("%s: heartbeat of the evicted: %+v, %v", name, b, err)
		}
		prepare()
		if e, err := release.Release(w.ctx(), two); err != nil || e.Status != Evicted {
			t.Errorf("%s: release of the evicted: %+v, %v", name, e, err)
		}
		prepare()
		if err := admin.Changed(w.ctx(), w.tenant, w.license); err != nil {
			t.Errorf("%s: changed: %v", name, err)
		}
		prepare()
		if r, err := sweep.Sweep(w.ctx()); err != nil || r.Failed != 0 {
			t.Errorf("%s: sweep: %+v, %v", name, r, err)
		}
		if _, err := release.Release(w.ctx(), three); err != nil {
			t.Errorf("%s: release: %v", name, err)
		}
	}
}

// Whoever remembers a licence of this version need not read it again because its pool is cold.
func TestTheVersionOfALicenceIsToldWarmAndCold(t *testing.T) {
	w := newWorld(t, 2)
	w.sit("one")
	w.change(`max_seats = 3`)
	validate := w.pools("usher_validate")
	sees := func(tenant tenancy.ID, want Sight) {
		t.Helper()
		if got, err := validate.Peek(w.ctx(), tenant, w.license); err != nil || got != want {
			t.Errorf("peek: %+v, %v, want %+v", got, err, want)
		}
	}
	version := w.limits().version
	sees(w.tenant, Sight{Counts: Counts{Active: 1, Max: 3}, PoolVersion: version})
	w.redis.Do(t, "HSET", w.key("meta"), "inc", "of another time")
	sees(w.tenant, Sight{Counts: Counts{Active: 1}, PoolVersion: version})
	w.alter(`max_seats = 4`)
	w.redis.Do(t, "FLUSHALL")
	sees(w.tenant, Sight{Counts: Counts{Active: 1}, PoolVersion: version + 1})
	sees(tenancy.Verified(uuid.New()), Sight{})
}
