package seat

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// race lets openings and closings run against new epochs, on PostgreSQL alone: as after a loss of Redis whose pools give
// every seat away again at once.
//
// What is checked is checked from the rows. A row carries the epoch in which its opening was decided (as its version) and
// the epoch of the evidence on which it was closed (as its reason). A new epoch begins in a transaction that, like every
// rebuild, then reads what is open; this one also counts what was opened, and closed, in the epoch that it ends. Nothing of
// an epoch may be committed after that count: it was never built upon.
type race struct {
	w      *world
	seats  int
	epoch  atomic.Int64
	racers int
	every  int64 // so many openings, and a new epoch begins

	mu      sync.Mutex
	sits    map[int]uuid.UUID    // who was last heard to sit where
	heard   map[uuid.UUID]string // what the opening of a session was answered; inDoubt when nothing
	counted map[int64]counts     // by the epoch that was ended
	faults  []string

	openings, epochs, closings                   atomic.Int64
	lateOpenings, lateClosings, held, ownClosing atomic.Int64
	stalls                                       atomic.Int64
}

// counts are the rows of an epoch.
type counts struct{ opened, closed int64 }

// inDoubt is the verdict of a commit whose answer never came.
const inDoubt = "in doubt"

func evidence(epoch int64) string { return fmt.Sprint("evidence of ", epoch) }

func newRace(t *testing.T) *race {
	t.Helper()
	r := &race{
		w: settle(t, 24), seats: 24, racers: 8, every: 20,
		sits: map[int]uuid.UUID{}, heard: map[uuid.UUID]string{}, counted: map[int64]counts{},
	}
	r.w.db.Exec(t, `CREATE INDEX race_opened ON app.ended_sessions (version)`)
	r.w.db.Exec(t, `CREATE INDEX race_closed ON app.ended_sessions (end_reason)`)
	return r
}

// edit replaces a place in the source of a function of this race's database.
func (r *race) edit(function, was, is string) {
	r.w.t.Helper()
	source := testenv.Value[string](r.w.t, r.w.db, `SELECT pg_get_functiondef($1::regproc)`, function)
	if n := strings.Count(source, was); n != 1 {
		r.w.t.Fatalf("%s has %d places that read %q, want one", function, n, was)
	}
	r.w.db.Exec(r.w.t, strings.Replace(source, was, is, 1))
}

func (r *race) finds(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// run opens sessions until so many were opened.
func (r *race) run(openings int64) {
	r.w.t.Helper()
	r.begin(r.w.Pools)
	var racers sync.WaitGroup
	for _, p := range []*Pools{r.w.pools("usher_acquire"), r.w.pools("usher_sweep")} {
		for range r.racers / 2 {
			racers.Go(func() {
				for r.openings.Load() < openings && !r.w.t.Failed() {
					r.open(p)
				}
			})
		}
	}
	racers.Wait()
	r.check()
}

// decided is the epoch in which a racer decides: the latest that it can know of, or one that is over.
func (r *race) decided() int64 { return r.epoch.Load() - int64(rand.IntN(8)/7) }

// open opens a session on some seat, often in the place of who sits there, and maybe closes it again.
func (r *race) open(p *Pools) {
	epoch, seat, id := r.decided(), 1+rand.IntN(r.seats), uuid.New()
	at := reservation{session: id, fence: Fence{epoch, 1}, epoch: epoch, seat: seat}
	r.mu.Lock()
	sits, known := r.sits[seat]
	r.mu.Unlock()
	if known && rand.IntN(4) > 0 {
		at.from = []gone{{sits, Ending{Status: Lapsed, Reason: evidence(epoch)}}}
	}
	verdict, err := p.open(r.w.ctx(), r.w.pool(), at, Holder{Key: "device:" + id.String(), HardwareID: fmt.Sprint(seat), Version: fmt.Sprint(epoch)})
	if err != nil {
		verdict = inDoubt
		r.stalled(err)
	}
	r.mu.Lock()
	r.heard[id] = verdict
	if verdict == "ok" {
		r.sits[seat] = id
	}
	r.mu.Unlock()
	switch verdict {
	case inDoubt:
	case "ok":
		if r.openings.Add(1)%r.every == 0 {
			r.begin(p)
		}
		r.close(p, id)
	case "epoch":
		r.lateOpenings.Add(1)
	case "seat_held":
		r.held.Add(1)
	default:
		r.finds("an opening was answered %s", verdict)
	}
}

// stalled counts a call that a busy machine kept waiting for too long. Any other error fails the test.
func (r *race) stalled(err error) {
	if f := fault.As(err); f == nil || f.Kind != fault.KindUnavailable {
		r.w.t.Errorf("a racer: %v", err)
	}
	r.stalls.Add(1)
}

// close closes a session on evidence, on its holder's word, or not at all.
func (r *race) close(p *Pools, id uuid.UUID) {
	epoch := r.decided()
	ending := Ending{Status: Lapsed, Reason: evidence(epoch)}
	switch rand.IntN(4) {
	case 0, 1:
	case 2:
		epoch, ending = 0, Ending{Status: Released, Reason: ReasonReleased}
	default:
		return
	}
	_, err := p.closeRows(r.w.ctx(), r.w.pool(), epoch, []gone{{id, ending}})
	switch {
	case errors.Is(err, errEpoch):
		r.lateClosings.Add(1)
	case err != nil:
		r.stalled(err)
	case epoch == 0:
		r.ownClosing.Add(1)
	default:
		r.closings.Add(1)
	}
}

// begin begins a new epoch as a rebuild does, and counts what the one before has left.
func (r *race) begin(p *Pools) {
	l := r.w.pool()
	var ended, epoch int64
	var seen counts
	err := p.db.As(r.w.ctx(), l.tenant, func(tx tenancy.Tx) error {
		row, err := scanLimits(tx.QueryRow(r.w.ctx(), lockLimits, l.license.String()))
		if err != nil {
			return err
		}
		ended = row.epoch
		if epoch, err = nextEpoch(r.w.ctx(), tx, l); err != nil {
			return err
		}
		rows, err := openRows(r.w.ctx(), tx, l)
		if err != nil {
			return err
		}
		taken := map[int64]bool{}
		for _, open := range rows {
			if taken[open.seat] {
				r.finds("epoch %d began with two on seat %d", epoch, open.seat)
			}
			taken[open.seat] = true
		}
		seen, err = r.count(tx, ended)
		return err
	})
	if err != nil {
		r.stalled(err)
		return
	}
	for known := r.epoch.Load(); known < epoch && !r.epoch.CompareAndSwap(known, epoch); known = r.epoch.Load() {
	}
	r.epochs.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counted[ended] = seen
}

func (r *race) count(tx tenancy.Tx, epoch int64) (c counts, err error) {
	err = tx.QueryRow(r.w.ctx(), `SELECT (SELECT count(*) FROM app.open_sessions WHERE fence_epoch = $1)
		 + (SELECT count(*) FROM app.ended_sessions WHERE version = $1::bigint::text),
		 (SELECT count(*) FROM app.ended_sessions WHERE end_reason = $2)`, epoch, evidence(epoch)).Scan(&c.opened, &c.closed)
	return c, err
}

// check compares the rows with what was counted when their epoch ended, and with what was answered.
func (r *race) check() {
	r.w.t.Helper()
	for epoch, then := range r.counted {
		var now counts
		r.w.must(r.w.Pools.db.As(r.w.ctx(), r.w.tenant, func(tx tenancy.Tx) (err error) {
			now, err = r.count(tx, epoch)
			return err
		}))
		if now.opened != then.opened {
			r.finds("epoch %d had opened %d sessions when it ended, and %d in the end", epoch, then.opened, now.opened)
		}
		if now.closed != then.closed {
			r.finds("evidence of epoch %d had closed %d sessions when it ended, and %d in the end", epoch, then.closed, now.closed)
		}
	}
	once := map[uuid.UUID]bool{}
	for _, id := range testenv.Values[uuid.UUID](r.w.t, r.w.db, `SELECT id FROM app.open_sessions UNION ALL SELECT id FROM app.ended_sessions`) {
		if once[id] {
			r.finds("session %s has two rows", id)
		}
		once[id] = true
	}
	for id, verdict := range r.heard {
		if verdict != inDoubt && once[id] != (verdict == "ok") {
			r.finds("session %s was answered %s; that it has a row is %t", id, verdict, once[id])
		}
	}
}

func TestProofRacesNothingOfAnEpochIsCommittedAfterItsEnd(t *testing.T) {
	t.Parallel()
	r, openings := newRace(t), int64(500)
	if testenv.Full() {
		openings, r.racers = 52_000, 16
	}
	r.run(openings)
	for i, f := range r.faults {
		if i == 20 {
			t.Errorf("and %d more", len(r.faults)-i)
			break
		}
		t.Error(f)
	}
	if r.lateOpenings.Load() == 0 || r.lateClosings.Load() == 0 || r.held.Load() == 0 || r.closings.Load() == 0 {
		t.Error("nothing was too late, or held, or closed: it was no race")
	}
	testenv.Proved(t, "races", "%d sessions opened on %d seats by %d racers while %d epochs began; %d openings and %d closings came too late and "+
		"were refused, %d found the seat held; %d rows were closed on evidence, %d on their holder's word",
		r.openings.Load(), r.seats, r.racers, r.epochs.Load(), r.lateOpenings.Load(), r.lateClosings.Load(), r.held.Load(), r.closings.Load(), r.ownClosing.Load())
	testenv.Proved(t, "races", "%d times anything else: a row of an epoch committed after the next one had read the rows, a close on older evidence, a seat "+
		"with two sessions, a row that was answered otherwise (%d calls were never answered)", len(r.faults), r.stalls.Load())
}

func TestProofRacesAreLostByAFunctionWithoutItsSafeguard(t *testing.T) {
	t.Parallel()
	const lock, compare = "without the lock", "without the comparison"
	for name, mutant := range map[string]struct{ function, was, is, finds string }{
		"opening " + lock:    {"app.seats_open", " FOR SHARE SKIP LOCKED", " OFFSET 0", "had opened"},
		"opening " + compare: {"app.seats_open", "l.seat_epoch = a.epoch", "true", "had opened"},
		"closing " + lock:    {"app.session_close", "l.seat_epoch = p_epoch FOR SHARE;", "l.seat_epoch = p_epoch;", "had closed"},
		"closing " + compare: {"app.session_close", " AND l.seat_epoch = p_epoch FOR SHARE;", " FOR SHARE;", "had closed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRace(t)
			r.edit(mutant.function, mutant.was, mutant.is)
			const step, most = 200, 20_000
			found := 0
			for openings := int64(step); found == 0 && openings <= most && !t.Failed(); openings += step {
				r.run(openings)
				for _, f := range r.faults {
					if strings.Contains(f, mutant.finds) {
						found++
					}
				}
			}
			if found == 0 {
				t.Errorf("%d openings and %d epochs found nothing", r.openings.Load(), r.epochs.Load())
			}
			testenv.Proved(t, "races", "%s: seen %d times in %d openings", name, found, r.openings.Load())
		})
	}
}
