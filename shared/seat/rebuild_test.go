package seat

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// occupy opens sessions on these seats in PostgreSQL alone, in one epoch long ago.
func (w *world) occupy(seats []int) {
	w.t.Helper()
	w.db.Exec(w.t, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id)
		SELECT $1, gen_random_uuid(), $2, n, 1, n, 'device:d' || n, 'd' || n FROM unnest($3::int[]) n`,
		w.tenant.UUID(), w.license, seats)
}

// numbers are a sorted set's members, which are numbers.
func (w *world) numbers(key string) []int {
	w.t.Helper()
	var all []int
	for _, member := range w.redis.Do(w.t, "ZRANGE", w.key(key), 0, -1).([]any) {
		var n int
		if _, err := fmt.Sscan(member.(string), &n); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// many are seats with gaps, more of both than one part of a rebuild takes.
func many() (seats, free []int) {
	for n := 1; n <= 2*partSeats+partRows; n++ {
		if n <= 2*partRows && n%7 != 0 || n%(partSeats+333) == 0 {
			seats = append(seats, n)
		} else if n < 2*partSeats {
			free = append(free, n)
		}
	}
	last := slices.Max(seats)
	return seats, slices.DeleteFunc(free, func(n int) bool { return n > last })
}

func TestALargePoolIsRebuiltWholeFromManyParts(t *testing.T) {
	w := newWorld(t, 10_000)
	seats, free := many()
	w.occupy(seats)
	w.must(w.rebuild(w.ctx(), w.pool(), w.epoch()))
	for _, key := range []string{"leases", "sessions", "holders"} {
		count := map[string]string{"leases": "ZCARD", "sessions": "HLEN", "holders": "HLEN"}[key]
		if n := w.redis.Do(t, count, w.key(key)); n != int64(len(seats)) {
			t.Errorf("%d %s, want %d", n, key, len(seats))
		}
	}
	if got := w.numbers("freed"); !slices.Equal(got, free) {
		t.Errorf("the free seats are %v,\nwant %v", got, free)
	}
	for _, key := range append(keyNames[:], "building") {
		if ttl := w.redis.Do(t, "PTTL", w.key(key)); ttl.(int64) > 0 {
			t.Errorf("%s ends in %d ms", key, ttl)
		}
	}
	if left := w.redis.Do(t, "KEYS", w.key("*:*")); len(left.([]any)) != 0 {
		t.Errorf("staged keys were left: %v", left)
	}
	if g := w.ask("d1"); g.Verdict != Existing || g.Ref.Seat != 1 {
		t.Errorf("who sits on seat 1 asked and got %+v", g)
	}
	if ref := w.sit("new"); ref.Seat != free[0] {
		t.Errorf("a newcomer sits on seat %d, want the lowest free one, %d", ref.Seat, free[0])
	}
}

func TestARebuildThatLostWhatItStagedLeavesThePoolAlone(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(w *world, epoch int64){
		"all of it": func(w *world, _ int64) { w.redis.Do(w.t, "FLUSHALL") },
		"one session": func(w *world, epoch int64) {
			leases := fmt.Sprintf("%s%d:leases", w.pool().head(), epoch)
			first := w.redis.Do(w.t, "ZRANGE", leases, 0, 0).([]any)[0]
			w.redis.Do(w.t, "ZREM", leases, first)
		},
		"its notes": func(w *world, epoch int64) {
			w.redis.Do(w.t, "DEL", fmt.Sprintf("%s%d:staged", w.pool().head(), epoch))
		},
		"its time": func(w *world, epoch int64) {
			w.redis.Do(w.t, "HSET", fmt.Sprintf("%s%d:staged", w.pool().head(), epoch), "al", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			one := w.sit("one")
			s, err := w.snapshot(w.ctx(), w.pool(), w.epoch())
			w.must(err)
			kind, err := w.stage(w.ctx(), w.pool(), s)
			w.must(err)
			if kind != "ok" {
				t.Fatalf("staging: %s", kind)
			}
			lose(w, s.limits.epoch)
			if kind, err := w.finish(w.ctx(), w.pool(), s); err != nil || kind != "moved" {
				t.Errorf("the rebuild: %s, %v, want moved", kind, err)
			}
			w.alive(one) // by the old pool, or by another rebuild
			w.hasRows(one.Session)
		})
	}
}

func TestAPartStagedTwiceIsStagedOnce(t *testing.T) {
	w := newWorld(t, 3)
	one, two := w.sit("one"), w.sit("two")
	s, err := w.snapshot(w.ctx(), w.pool(), w.epoch())
	w.must(err)
	for range 2 { // as a client does that lost the answer
		if kind, err := w.stage(w.ctx(), w.pool(), s); err != nil || kind != "ok" {
			t.Fatalf("staging: %s, %v", kind, err)
		}
	}
	if kind, err := w.finish(w.ctx(), w.pool(), s); err != nil || kind != "ok" {
		t.Fatalf("the rebuild: %s, %v", kind, err)
	}
	w.alive(one)
	w.alive(two)
}

func TestAHolderWithTwoOpenRowsGetsTheLaterSession(t *testing.T) {
	t.Parallel()
	for name, seats := range map[string][2]int{"on the higher seat": {1, 2}, "on the lower seat": {2, 1}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			ids := [2]uuid.UUID{uuid.New(), uuid.New()}
			for i, id := range ids {
				w.db.Exec(t, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id)
					VALUES ($1, $2, $3, $4, 1, $5, 'device:one', 'one')`, w.tenant.UUID(), id, w.license, seats[i], 9+i) // 9, then 10
			}
			w.must(w.rebuild(w.ctx(), w.pool(), w.epoch()))
			if g := w.ask("one"); g.Verdict != Existing || g.Ref.Session != ids[1] {
				t.Errorf("the holder got %+v, want session %s", g, ids[1])
			}
		})
	}
}

func TestAHundredCallersOfFourProcessesCauseOneRebuild(t *testing.T) {
	w := newWorld(t, 200)
	refs := make([]Ref, 100)
	for i := range refs {
		refs[i] = w.sit(fmt.Sprint("holder ", i))
	}
	processes := make([]*Pools, 4)
	for i := range processes {
		processes[i] = w.pools("usher_heartbeat")
	}
	for range 3 {
		before := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.open_sessions`)
		w.redis.Do(t, "FLUSHALL")
		rebuilt := w.epochBumps(func() {
			var all sync.WaitGroup
			for i, ref := range refs {
				all.Go(func() {
					if beat, err := processes[i%4].Heartbeat(t.Context(), ref); err != nil || !beat.Alive {
						t.Errorf("holder %d: %+v, %v", i, beat, err)
					}
				})
			}
			all.Wait()
		})
		if rebuilt != 1 || before != 100 {
			t.Errorf("%d rebuilds for %d holders, want 1", rebuilt, before)
		}
	}
}

// epochBumps counts the rebuilds of the licence's pool that fn causes.
func (w *world) epochBumps(fn func()) int64 {
	w.t.Helper()
	w.db.Exec(w.t, `CREATE TABLE IF NOT EXISTS bumps (epoch bigint)`)
	w.db.Exec(w.t, `CREATE OR REPLACE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
		'BEGIN INSERT INTO public.bumps VALUES (NEW.seat_epoch); RETURN NEW; END'`)
	w.db.Exec(w.t, `CREATE OR REPLACE TRIGGER bump AFTER UPDATE OF seat_epoch ON app.licenses FOR EACH ROW EXECUTE FUNCTION bump()`)
	before := testenv.Value[int64](w.t, w.db, `SELECT count(*) FROM bumps`)
	fn()
	return testenv.Value[int64](w.t, w.db, `SELECT count(*) FROM bumps`) - before
}

func TestALicenceWhoseRowIsLockedHoldsUpNobodyElse(t *testing.T) {
	w := newWorld(t, 100)
	locked, other := w.license, uuid.New()
	w.sell(other, 100)
	p := w.pools("usher_acquire")
	w.must(w.Pools.db.As(w.ctx(), w.tenant, func(tx tenancy.Tx) error {
		if _, err := scanLimits(tx.QueryRow(w.ctx(), lockLimits, locked.String())); err != nil {
			return err
		}
		var all sync.WaitGroup
		for i := range 20 {
			holder := device(fmt.Sprint("holder ", i))
			if i == 0 { // gives up when the lock has not come in time
				all.Go(func() {
					if g, err := p.Acquire(w.ctx(), w.tenant, locked, holder, Ask{}); err == nil {
						t.Errorf("a seat of the locked licence: %+v", g)
					}
				})
				continue
			}
			all.Go(func() {
				if g, err := p.Acquire(w.ctx(), w.tenant, other, holder, Ask{}); err != nil || g.Verdict != Granted {
					t.Errorf("holder %d of the other licence: %+v, %v", i, g, err)
				}
			})
		}
		all.Wait()
		return nil
	}))
}
