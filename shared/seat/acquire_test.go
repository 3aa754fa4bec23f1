package seat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// insistently asks until the answer is no error.
func (w *world) insistently(p *Pools, license uuid.UUID, h Holder) Grant {
	var g Grant
	testenv.Eventually(w.t, soon, func() (err error) {
		g, err = p.Acquire(w.ctx(), w.tenant, license, h, Ask{})
		return err
	})
	return g
}

func TestAHolderThatAsksManyTimesAtOnceGetsOneSession(t *testing.T) {
	w := newWorld(t, 25)
	var mu sync.Mutex
	refs := map[Ref]int{}
	var wg sync.WaitGroup
	for range 25 {
		wg.Go(func() {
			g := w.insistently(w.Pools, w.license, device("one"))
			mu.Lock()
			defer mu.Unlock()
			refs[g.Ref]++
		})
	}
	wg.Wait()
	if len(refs) != 1 {
		t.Fatalf("sessions of one holder: %v, want one", refs)
	}
	for ref := range maps.Keys(refs) {
		w.hasRows(ref.Session)
		w.alive(ref)
	}
}

func TestOfAHundredHoldersExactlyAsManySitAsThereAreSeats(t *testing.T) {
	w := newWorld(t, 25)
	others := []*Pools{w.Pools, w.pools("usher_acquire"), w.pools("usher_acquire")}
	var mu sync.Mutex
	seats := map[int]uuid.UUID{}
	var full atomic.Int64
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			g := w.insistently(others[i%len(others)], w.license, device(fmt.Sprint(i)))
			switch g.Verdict {
			case Granted, Existing:
				mu.Lock()
				defer mu.Unlock()
				if other, taken := seats[g.Ref.Seat]; taken {
					t.Errorf("seat %d was given to %s and to %s", g.Ref.Seat, other, g.Ref.Session)
				}
				seats[g.Ref.Seat] = g.Ref.Session
			case Full:
				full.Add(1)
			default:
				t.Errorf("%+v", g)
			}
		})
	}
	wg.Wait()
	if len(seats) != 25 || full.Load() != 75 {
		t.Errorf("%d sit and %d do not, want 25 and 75", len(seats), full.Load())
	}
	if rows := w.openRows(); len(rows) != 25 {
		t.Errorf("%d open rows, want 25", len(rows))
	}
	for n := 1; n <= 25; n++ {
		if _, ok := seats[n]; !ok {
			t.Errorf("nobody sits on seat %d", n)
		}
	}
}

func TestLicencesDoNotDisturbEachOther(t *testing.T) {
	w := newWorld(t, 1)
	licenses := make([]uuid.UUID, 20)
	for i := range licenses {
		licenses[i] = uuid.New()
		w.sell(licenses[i], 3)
	}
	var sitting [20]atomic.Int64
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			g := w.insistently(w.Pools, licenses[i%20], device(fmt.Sprint(i)))
			if g.Verdict == Granted {
				sitting[i%20].Add(1)
			}
		})
	}
	wg.Wait()
	for i := range sitting {
		if n := sitting[i].Load(); n != 3 {
			t.Errorf("%d of 5 holders sit on licence %d with 3 seats", n, i)
		}
	}
}

func TestTheLowestFreeSeatIsTaken(t *testing.T) {
	w := newWorld(t, 4)
	var refs []Ref
	for n := range 4 {
		ref := w.sit(fmt.Sprint(n))
		if ref.Seat != n+1 {
			t.Errorf("holder %d sits on seat %d", n, ref.Seat)
		}
		refs = append(refs, ref)
	}
	w.release(refs[2])
	w.release(refs[1])
	if ref := w.sit("five"); ref.Seat != 2 {
		t.Errorf("seat %d was taken while 2 was free", ref.Seat)
	}
	if ref := w.sit("six"); ref.Seat != 3 {
		t.Errorf("seat %d was taken while 3 was free", ref.Seat)
	}
	w.full()
}

func TestFencesOnlyGrow(t *testing.T) {
	w := newWorld(t, 1)
	var last Fence
	for i := range 6 {
		ref := w.sit(fmt.Sprint(i))
		f := ref.Fence()
		if f.Epoch < last.Epoch || f.Epoch == last.Epoch && f.Counter <= last.Counter {
			t.Errorf("fence %s after %s", f, last)
		}
		last = f
		w.release(ref)
		if i%2 == 1 {
			w.redis.Do(t, "FLUSHALL")
		}
	}
}

func TestOverdraftSeatsAreGivenAndFlagged(t *testing.T) {
	w := newWorld(t, 1)
	w.change(`overdraft_seats = 1`)
	if g := w.ask("one"); g.Verdict != Granted || g.Overdraft || g.Counts != (Counts{Active: 1, Max: 1, Overdraft: 1}) {
		t.Errorf("first: %+v", g)
	}
	g := w.ask("two")
	if g.Verdict != Granted || !g.Overdraft || g.Ref.Seat != 2 {
		t.Errorf("second: %+v, want an overdraft seat", g)
	}
	if !testenv.Value[bool](t, w.db, `SELECT overdraft FROM app.open_sessions WHERE id = $1`, g.Ref.Session) {
		t.Error("the row does not say that it is an overdraft seat")
	}
	w.full()
}

func TestAFullLicenceSaysWhenToAskAgain(t *testing.T) {
	w := newWorld(t, 2)
	w.sit("one")
	w.sit("two")
	g := w.ask("three")
	if g.Verdict != Full || g.Counts != (Counts{Active: 2, Max: 2}) || g.RetryAfter <= 0 || g.RetryAfter > longLease+allowance {
		t.Errorf("%+v, want full, and within a lease", g)
	}
}

func TestALapsedSeatIsFreeOnTimeWithoutASweepAndNotEarlier(t *testing.T) {
	w := newWorld(t, 1, brisk)
	ref := w.sit("one")
	sent := time.Now()
	w.alive(ref)
	answered := time.Now()
	second := w.comesFree("two")
	if early := time.Until(sent.Add(lease + allowance)); early > 0 {
		t.Errorf("the seat was given away %s before V + σ had passed", early)
	}
	if late := time.Since(answered.Add(lease + allowance)); late > 5*time.Second {
		t.Errorf("the seat came free %s late", late)
	}
	if second.Seat != ref.Seat {
		t.Errorf("seat %d, want %d", second.Seat, ref.Seat)
	}
	w.over(ref, Lapsed, ReasonLeaseExpired)
	e := w.ended(ref.Session, Lapsed, ReasonLeaseExpired, "")
	if first, last := sent.Add(lease+allowance), answered.Add(lease+allowance); e.At.Before(first.Add(-time.Millisecond)) || e.At.After(last.Add(time.Millisecond)) {
		t.Errorf("the history says that it ended at %s, want between %s and %s", e.At, first, last)
	}
}

func TestAReservationLongerThanTheLeaseEndsWithTheConfirmation(t *testing.T) {
	w := newWorld(t, 1, brisk, func(s *site) { s.cfg.Reservation = time.Hour })
	w.sit("one")
	before := time.Now()
	w.comesFree("two")
	if after := time.Since(before); after > 10*time.Second {
		t.Errorf("the seat of a crashed holder came free after %s", after)
	}
}

func TestTheSessionsRowSaysWhoSits(t *testing.T) {
	w := newWorld(t, 1)
	h := Holder{
		Key: "instance:a|b", HardwareID: "hw-1", Hostname: "büro", User: "ada", InstanceID: "a|b", Version: "2.1.0-rc.1",
		Metadata: json.RawMessage(`{"os": "plan9", "cores": [1, 2]}`),
	}
	g, err := w.Acquire(w.ctx(), w.tenant, w.license, h, Ask{})
	w.must(err)
	const want = `instance:a|b hw-1 büro ada a|b 2.1.0-rc.1 plan9 2`
	got := testenv.Value[string](t, w.db, `SELECT concat_ws(' ', holder, hardware_id, hostname, user_name, instance_id, version,
		metadata ->> 'os', metadata -> 'cores' ->> 1) FROM app.open_sessions WHERE id = $1`, g.Ref.Session)
	if got != want {
		t.Errorf("row: %s, want %s", got, want)
	}
	w.redis.Do(t, "FLUSHALL")
	again, err := w.Acquire(w.ctx(), w.tenant, w.license, h, Ask{})
	if err != nil || again.Verdict != Existing || again.Ref != g.Ref {
		t.Errorf("after a rebuild: %+v, %v, want the same session", again, err)
	}
	w.release(g.Ref)
	kept := testenv.Value[string](t, w.db, `SELECT concat_ws(' ', holder, hardware_id, hostname, user_name, instance_id, version,
		metadata ->> 'os', metadata -> 'cores' ->> 1) FROM app.ended_sessions WHERE id = $1`, g.Ref.Session)
	if kept != want {
		t.Errorf("history: %s, want %s", kept, want)
	}
}

func TestOfTwoNewDevicesOneIsTheLast(t *testing.T) {
	w := newWorld(t, 10)
	w.change(`max_devices = 3`)
	known := w.sit("known")
	w.release(known)
	w.sit("second")
	var granted, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			g := w.insistently(w.Pools, w.license, device(fmt.Sprint("new ", i)))
			switch {
			case g.Verdict == Granted:
				granted.Add(1)
			case g.Verdict == Refused && g.Code == "too_many_devices":
				refused.Add(1)
			default:
				t.Errorf("%+v", g)
			}
		})
	}
	wg.Wait()
	if granted.Load() != 1 || refused.Load() != 7 {
		t.Errorf("%d new devices were let in and %d refused, want 1 and 7", granted.Load(), refused.Load())
	}
	w.sit("known") // is no new device
	if c := w.beat(w.ask("second").Ref).Counts; c.Active != 3 {
		t.Errorf("%d are active: the refused kept their reservations", c.Active)
	}
}

func TestANewerLicenceIsCheckedAgainBeforeASeatIsGiven(t *testing.T) {
	w := newWorld(t, 1)
	refusal := errors.New("the plan has no such feature any more")
	ask := Ask{Recheck: func(context.Context, int64) error { return refusal }}
	if _, err := w.Acquire(w.ctx(), w.tenant, w.license, device("one"), ask); !errors.Is(err, refusal) {
		t.Errorf("acquire on outdated facts: %v, want the check's error", err)
	}
	w.hasRows()
	sight, err := w.Peek(w.ctx(), w.tenant, w.license)
	if err != nil || sight.Counts.Active != 0 {
		t.Errorf("peek: %+v, %v: the reservation was not given back", sight, err)
	}
	ask.PoolVersion = sight.PoolVersion
	g, err := w.Acquire(w.ctx(), w.tenant, w.license, device("one"), ask)
	if err != nil || g.Verdict != Granted {
		t.Errorf("acquire on current facts: %+v, %v", g, err)
	}
}

// Two requests of one holder share one reservation: the one that is refused may not give back what the other was told that it has.
func TestWhoWasToldYesKeepsTheSeatWhenAnotherRequestOfTheHolderIsRefused(t *testing.T) {
	w := newWorld(t, 1)
	refusal := errors.New("the plan has no such feature any more")
	var told Grant
	ask := Ask{Recheck: func(context.Context, int64) error {
		told = w.try("one", false)
		return refusal
	}}
	if _, err := w.Acquire(w.ctx(), w.tenant, w.license, device("one"), ask); !errors.Is(err, refusal) {
		t.Errorf("acquire on outdated facts: %v, want the check's error", err)
	}
	if told.Verdict != Existing {
		t.Fatalf("the other request heard %+v", told)
	}
	w.alive(told.Ref)
	w.full()
	w.hasRows(told.Ref.Session)
}

func TestADeviceThatSharesTheSeatOfItsUserIsCounted(t *testing.T) {
	w := newWorld(t, 2)
	w.change(`seat_per = 'user', max_devices = 2`)
	on := func(device string) Grant {
		t.Helper()
		g, err := w.Acquire(w.ctx(), w.tenant, w.license, Holder{Key: "user:ada", HardwareID: device, Version: "1.0.0"}, Ask{})
		w.must(err)
		return g
	}
	first := on("desktop")
	if g := on("laptop"); g.Verdict != Existing || g.Ref != first.Ref {
		t.Errorf("on the second device: %+v", g)
	}
	if g := on("tablet"); g.Verdict != Refused || g.Code != "too_many_devices" {
		t.Errorf("on the third device of two: %+v", g)
	}
	w.alive(first.Ref) // who is refused ends nobody's session
	if g := on("laptop"); g.Verdict != Existing {
		t.Errorf("on the second device again: %+v", g)
	}
}

func TestWhoAsksForASeatWaitsForASilentRedisNoLongerThanItMay(t *testing.T) {
	w := newWorld(t, 1)
	cfg := w.at.cfg
	cfg.Timeout = 300 * time.Millisecond
	fresh := w.poolsAt(cfg, "usher_acquire") // it knows nothing yet of admissions
	w.redis.Pause(t)
	const clients = 30 // who would need nine seconds, one after the other
	ctx, cancel := context.WithTimeout(w.ctx(), 5*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			_, err := fresh.Acquire(ctx, w.tenant, w.license, device(fmt.Sprint(i)), Ask{})
			w.isUnavailable(err)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		t.Error("they waited one after the other")
	}
}

func TestALicenceGrantsSeatsOnlyBetweenItsDates(t *testing.T) {
	w := newWorld(t, 2)
	w.alter(`starts_at = now() + interval '1 hour'`) // before the pool was told, and after
	for range 2 {
		if g := w.ask("one"); g.Verdict != Refused || g.Code != "license_not_started" {
			t.Errorf("before it starts: %+v", g)
		}
	}
	w.change(`starts_at = now() + interval '1 second'`)
	testenv.Eventually(t, soon, func() error { // nobody tells the pool that the time has come
		if g := w.ask("one"); g.Verdict != Granted && g.Verdict != Existing {
			return fmt.Errorf("after it started: %+v", g)
		}
		return nil
	})
	w.change(`starts_at = NULL, expires_at = now() - interval '1 hour', grace_until = now() + interval '1 hour'`)
	w.sit("two") // in grace
	w.change(`expires_at = now() - interval '1 hour', grace_until = NULL`)
	if g := w.ask("three"); g.Verdict != Refused || g.Code != "license_expired" {
		t.Errorf("after it expired: %+v", g)
	}
}

func TestALicenceThatDoesNotExistHasNoSeats(t *testing.T) {
	w := newWorld(t, 1)
	_, err := w.Acquire(w.ctx(), w.tenant, uuid.New(), device("one"), Ask{})
	if !errors.Is(err, ErrUnknownLicense) {
		t.Errorf("acquire: %v, want ErrUnknownLicense", err)
	}
}

func TestAnotherTenantReachesNothingOfALicence(t *testing.T) {
	w := newWorld(t, 2)
	stranger := tenancy.Verified(uuid.New())
	w.found(stranger)
	ref := w.sit("one")
	if _, err := w.Acquire(w.ctx(), stranger, w.license, device("one"), Ask{}); !errors.Is(err, ErrUnknownLicense) {
		t.Errorf("acquire on the licence: %v, want ErrUnknownLicense", err)
	}
	theirs := ref
	theirs.Tenant = stranger
	if b, err := w.Heartbeat(w.ctx(), theirs); err != nil || b.Alive {
		t.Errorf("heartbeat: %+v, %v, want nothing found", b, err)
	}
	if e, err := w.Release(w.ctx(), theirs); err != nil || e.Status != Lapsed || !e.At.IsZero() {
		t.Errorf("release: %+v, %v, want nothing found", e, err)
	}
	if err := w.Evict(w.ctx(), stranger, ref.Session, "spite", "stranger"); !errors.Is(err, ErrUnknownSession) {
		t.Errorf("evict: %v, want ErrUnknownSession", err)
	}
	if left, err := w.Leave(w.ctx(), stranger, w.license, "device:one"); err != nil || left {
		t.Errorf("leave: %v, %v", left, err)
	}
	if sight, err := w.Peek(w.ctx(), stranger, w.license); err != nil || sight.Counts.Active != 0 {
		t.Errorf("peek: %+v, %v", sight, err)
	}
	if lives, err := w.Lives(w.ctx(), theirs); err != nil || lives {
		t.Errorf("lives: %v, %v", lives, err)
	}
	if err := w.Changed(w.ctx(), stranger, w.license); !errors.Is(err, ErrUnknownLicense) {
		t.Errorf("changed: %v, want ErrUnknownLicense", err)
	}
	w.alive(ref)
	if lives, err := w.Lives(w.ctx(), ref); err != nil || !lives {
		t.Errorf("lives: %v, %v", lives, err)
	}
	w.hasRows(ref.Session)
}
