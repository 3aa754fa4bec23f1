package seat

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// LoanVerdict is what became of a request to borrow a seat.
type LoanVerdict uint8

// The verdicts on a borrow.
const (
	// Lent: the holder may believe, without heartbeats, until Loan.Until.
	Lent LoanVerdict = iota + 1
	// LimitReached: as many seats are borrowed as the licence allows at once, or this one is not to be.
	LimitReached
	// NotInFuture: the time that was asked for has passed.
	NotInFuture
	// Ended: the session has ended; Loan.Ending says how.
	Ended
)

// Loan answers a request to borrow a seat. Which fields are set depends on the verdict.
type Loan struct {
	Verdict LoanVerdict
	Ending  Ending // when Ended

	// Until is when the borrow ends, in whole milliseconds by PostgreSQL's clock: as asked, or earlier where the licence
	// allows no more, or later when the seat is borrowed for longer already. At is when it was lent, by the pool's.
	Until, At time.Time
	// Seat is the seat's number, HardwareID the device that the session was opened on.
	Seat       int
	HardwareID string
}

// Term says for how long a seat is to be borrowed.
type Term struct {
	// Until is when the borrow is to end.
	Until time.Time
	// BeyondLongest is an administrator's word that the licence's longest borrow does not bound this one. When the licence
	// stops granting still does.
	BeyondLongest bool
}

// Borrow keeps the session's seat taken, without heartbeats, until the end of the term or of what the licence allows. The
// row says so before the pool is asked, and the pool before the holder hears of it, so that no loss of either makes a
// borrow end early; a borrow that lasts is never shortened. Asking again is always safe: an error leaves the seat taken
// until the end of the borrow at most, and Release returns it. Errors are fault.Unavailable.
func (p *Pools) Borrow(ctx context.Context, ref Ref, term Term) (Loan, error) {
	l := pool{tenant: ref.Tenant, license: ref.License}
	for try := range tries {
		if try > 0 {
			if err := pause(ctx, try); err != nil {
				return Loan{}, err
			}
		}
		// Whoever may not beat may not borrow, and hears the same.
		beat, err := p.Heartbeat(ctx, ref)
		if err != nil {
			return Loan{}, err
		}
		if !beat.Alive {
			return Loan{Verdict: Ended, Ending: beat.Ending}, nil
		}
		b, err := p.writeBorrow(ctx, l, ref, term)
		if err != nil || b.loan.Verdict != Lent {
			return b.loan, err
		}
		switch kind, err := p.lend(ctx, l, ref, b); {
		case err != nil:
			return Loan{}, err
		case kind == "ok":
			b.loan.Seat, b.loan.At = beat.Seat, beat.At
			return b.loan, nil
		case kind == "rebuild":
			if err := p.rebuild(ctx, l, 0); err != nil {
				return Loan{}, err
			}
		}
	}
	return Loan{}, fault.Unavailable(fmt.Errorf("borrow seat of session %s: lost %d races", ref.Session, tries))
}

// borrow is a borrow as the session's row has it.
type borrow struct {
	loan      Loan  // without what the pool knows
	epoch     int64 // in which the row was written
	remaining int64 // ms until it ends, which may be further off than a Duration goes
}

// writeBorrow writes on the session's row until when it is borrowed, or says why not.
func (p *Pools) writeBorrow(ctx context.Context, l pool, ref Ref, term Term) (borrow, error) {
	var b borrow
	var verdict string
	var epoch, remaining *int64
	var until, endedAt *time.Time
	var hardware, reason, by *string
	err := p.db.Batch(ctx, l.tenant, func(q *tenancy.Batch) {
		q.Queue(`SELECT verdict, epoch, borrowed_until, remaining_ms, hardware_id, reason, ended_by, ended_at
		       FROM app.session_borrow($1::uuid, $2::uuid, $3::bigint, $4::bigint, $5::timestamptz, $6::bool)`,
			l.license.String(), ref.Session.String(), ref.Epoch, ref.Counter, term.Until, term.BeyondLongest,
		).QueryRow(func(row pgx.Row) error {
			return row.Scan(&verdict, &epoch, &until, &remaining, &hardware, &reason, &by, &endedAt)
		})
	})
	if err != nil {
		return borrow{}, fmt.Errorf("write borrow of session %s: %w", ref.Session, err)
	}
	switch verdict {
	case "ok":
		b.loan = Loan{Verdict: Lent, Until: until.UTC(), HardwareID: *hardware}
		b.epoch, b.remaining = *epoch, *remaining
	case "limit":
		b.loan.Verdict = LimitReached
	case "past":
		b.loan.Verdict = NotInFuture
	case "evicted": // its pool was not told yet
		b.loan = Loan{Verdict: Ended, Ending: Ending{Status: Evicted, Reason: *reason}}
		if by != nil {
			b.loan.Ending.By = *by
		}
		if endedAt != nil {
			b.loan.Ending.At = endedAt.UTC()
		}
	default: // ended: what the pool has of it is a ghost
		beat, err := p.beatOfRow(ctx, ref, forgotten)
		b.loan = Loan{Verdict: Ended, Ending: beat.Ending}
		return b, err
	}
	return b, nil
}

// lend makes the lease of the session last as long as its row says, and answers borrow.lua's verdict.
func (p *Pools) lend(ctx context.Context, l pool, ref Ref, b borrow) (string, error) {
	rep, err := p.run(ctx, borrowScript, l.keys(), ref.Session.String(), ref.Fence().String(), b.epoch, b.remaining)
	if err != nil {
		return "", fmt.Errorf("borrow seat of session %s: %w", ref.Session, err)
	}
	return rep.str(), rep.err
}
