package seat

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// Verdict is what became of an attempt to take a seat.
type Verdict uint8

// The verdicts.
const (
	// Granted: a new session holds a seat.
	Granted Verdict = iota + 1
	// Existing: the holder had a session already; its lease was extended.
	Existing
	// Full: no seat is free.
	Full
	// Queued: no seat is free, and the holder has a place in the queue.
	Queued
	// Refused: the licence grants no seats, or not to this device; Code says why.
	Refused
)

// Grant answers an attempt to take a seat. Which fields are set depends on the verdict.
type Grant struct {
	Verdict Verdict
	Counts  Counts

	// Ref, Overdraft, TTL, At and ExpiresAt are set when a seat was granted. The holder may believe for TTL counted from
	// sending its request; ExpiresAt is for display. Times are the store's clock.
	Ref       Ref
	Overdraft bool
	TTL       time.Duration
	At        time.Time
	ExpiresAt time.Time

	// RetryAfter is set when Full: when the earliest lease ends, unless its holder renews it.
	RetryAfter time.Duration

	// Position (from 1), Poll and ETA are set when Queued. ETA is a guess from how often seats came free lately, or zero
	// when nothing is known.
	Position int
	Poll     time.Duration
	ETA      time.Duration

	// Code is set when Refused: too_many_devices, or the state of the licence (license_suspended, …).
	Code string
}

// Ask says how a seat is asked for.
type Ask struct {
	// Wait asks for a place in the queue when the licence is full.
	Wait bool
	// PoolVersion is that of the licence's facts by which the caller was let in. When the pool knows newer ones, Recheck is
	// called with that version before the session is opened; an error from it gives the reservation back and comes back from
	// Acquire.
	PoolVersion int64
	Recheck     func(ctx context.Context, version int64) error
}

// tries bounds how often one call starts again after losing a race.
const tries = 5

// errAgain says that the world changed while the seat was being taken.
var errAgain = errors.New("seat: lost a race")

// Acquire takes a seat of the licence for the holder, or says why not. A holder that has a seat gets that one, never a
// second. It costs a script, a batch to PostgreSQL and a script; an error leaves at most a reservation behind, which
// expires by itself, and asking again is always safe. Errors are fault.Unavailable (admissions_frozen while SetAdmissions says
// so), ErrUnknownLicense, or Recheck's.
func (p *Pools) Acquire(ctx context.Context, tenant tenancy.ID, license uuid.UUID, h Holder, ask Ask) (grant Grant, err error) {
	begun := time.Now()
	defer func() {
		verdict := verdicts[grant.Verdict]
		if err != nil {
			verdict = "failed"
		}
		acquisitions.Record(ctx, time.Since(begun).Seconds(), verdict)
	}()
	l := pool{tenant: tenant, license: license}
	for try := range tries {
		if try > 0 {
			if err := pause(ctx, try); err != nil {
				return Grant{}, err
			}
		}
		grant, err = p.acquireOnce(ctx, l, h, ask, try == 0)
		if !errors.Is(err, errAgain) {
			return grant, err
		}
	}
	return Grant{}, fault.Unavailable(fmt.Errorf("acquire seat of license %s: lost %d races", license, tries))
}

// pause waits a little longer, and less predictably, before each further try.
func pause(ctx context.Context, try int) error {
	return rest(ctx, time.Duration(try)*(2+time.Duration(rand.IntN(8)))*time.Millisecond) //nolint:gosec // jitter is no secret
}

// rest waits so long.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fault.Unavailable(ctx.Err())
	case <-t.C:
		return nil
	}
}

func (p *Pools) acquireOnce(ctx context.Context, l pool, h Holder, ask Ask, first bool) (Grant, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Grant{}, err
	}
	r, err := p.reserve(ctx, l, id, h.Key, ask.Wait)
	if err != nil {
		return Grant{}, err
	}
	switch {
	case r.cold:
		return Grant{}, again(p.rebuild(ctx, l, 0))
	case r.answer.Verdict == Refused && first:
		// The caller's facts let it in: a date may have passed that nobody told the pool of.
		return Grant{}, again(p.changed(ctx, l, true))
	case r.answer.Verdict == Refused:
		return p.refused(ctx, l, r.answer)
	case r.answer.Verdict != 0:
		return r.answer, nil
	}
	if ask.Recheck != nil && r.version > ask.PoolVersion {
		if err := ask.Recheck(ctx, r.version); err != nil {
			if r.session == id {
				err = errors.Join(err, p.giveBack(ctx, l, r))
			}
			return Grant{}, err
		}
	}
	// A session that the pool has already is opened, too: opening is idempotent, and nobody hears yes without a row.
	verdict, err := p.open(ctx, l, r, h)
	if err != nil {
		return Grant{}, err // the reservation stays: the commit may be in doubt
	}
	switch verdict {
	case "ok":
	case "epoch":
		return Grant{}, again(p.rebuild(ctx, l, r.epoch))
	case "seat_held":
		return Grant{}, again(p.lostSeat(ctx, l, r))
	case "limit", "suspended":
		if err := p.changed(ctx, l, true); err != nil {
			return Grant{}, err
		}
		return Grant{}, again(p.giveBack(ctx, l, r))
	case "ended":
		return Grant{}, again(p.letGo(ctx, l, r.session, r.fence))
	default: // too_many_devices
		return Grant{Verdict: Refused, Code: verdict}, p.giveBack(ctx, l, r)
	}
	beat, err := p.confirm(ctx, l, r)
	if err != nil {
		return Grant{}, err
	}
	if !beat.Alive {
		// It lapsed, was evicted or its pool suspended before the confirmation. Its row is not ours to close, because another
		// request of this holder may have found the session and been told yes: the seat's next taker does it, or the sweep.
		return Grant{}, errAgain
	}
	grant := Grant{
		Verdict: Existing, Counts: beat.Counts, TTL: beat.TTL, At: beat.At, ExpiresAt: beat.ExpiresAt,
		Ref:       Ref{Tenant: l.tenant, License: l.license, Session: r.session, Seat: r.seat, Epoch: r.fence.Epoch, Counter: r.fence.Counter},
		Overdraft: r.seat > beat.Counts.Max,
	}
	if r.session == id {
		grant.Verdict = Granted
	}
	return grant, nil
}

// again says that the caller should start anew, unless it could not be made ready for that.
func again(err error) error {
	if err != nil {
		return err
	}
	return errAgain
}

// refused checks a pool's refusal with the licence's row: a date may have passed that nobody told the pool of.
func (p *Pools) refused(ctx context.Context, l pool, answer Grant) (Grant, error) {
	var row limits
	err := p.db.Batch(ctx, l.tenant, func(b *tenancy.Batch) {
		b.Queue(selectLimits, l.license.String()).QueryRow(func(r pgx.Row) (err error) {
			row, err = scanLimits(r)
			return err
		})
	})
	if err != nil {
		return Grant{}, fmt.Errorf("read limits of license %s: %w", l.license, err)
	}
	if row.state == answer.Code {
		return answer, nil
	}
	return Grant{}, again(p.changed(ctx, l, true))
}

// lostSeat prepares the next try after a row was found on the reserved seat. When the reservation has expired meanwhile,
// somebody else was merely faster; otherwise pool and rows disagree about who sits, and the rows are right.
func (p *Pools) lostSeat(ctx context.Context, l pool, r reservation) error {
	s, err := p.peek(ctx, l, r.session)
	if err != nil || !s.lives {
		return err
	}
	return p.rebuild(ctx, l, r.epoch)
}

// gone is a session that left the pool, and how.
type gone struct {
	session uuid.UUID
	ending  Ending
}

// reservation is what acquire.lua answered.
type reservation struct {
	cold    bool  // the pool must be rebuilt first
	answer  Grant // with its verdict set: the attempt ends here
	version int64 // pool version
	session uuid.UUID
	fence   Fence
	epoch   int64 // the pool's, in which this was decided
	seat    int
	from    []gone // the sessions that the seat is taken from
}

// reserve reserves a seat for the new session id, or finds the session that the holder has.
func (p *Pools) reserve(ctx context.Context, l pool, id uuid.UUID, holder string, wait bool) (reservation, error) {
	flag := ""
	if wait {
		flag = "1"
	}
	frozen := ""
	if p.admissions.frozen(ctx, p) {
		frozen = "1"
	}
	rep, err := p.run(ctx, acquireScript, l.demandKeys(), id.String(), holder, flag, frozen)
	if err != nil {
		return reservation{}, fmt.Errorf("reserve seat of license %s: %w", l.license, err)
	}
	var r reservation
	switch kind := rep.str(); kind {
	case "rebuild":
		r.cold = true
	case "frozen":
		return r, errFrozen
	case "refused":
		r.answer = Grant{Verdict: Refused, Code: rep.str()}
	case "full":
		c := Counts{Active: int(rep.int()), Max: int(rep.int()), Overdraft: int(rep.int()), Queue: int(rep.int())}
		r.answer = Grant{Verdict: Full, Counts: c, RetryAfter: rep.millis()}
	case "queued":
		g := Grant{Verdict: Queued, Position: int(rep.int())}
		g.Counts.Queue = int(rep.int())
		g.Poll = rep.millis()
		if gap := rep.millis(); gap >= 0 {
			g.ETA = gap * time.Duration(g.Position)
		}
		g.Counts.Active, g.Counts.Max, g.Counts.Overdraft = int(rep.int()), int(rep.int()), int(rep.int())
		r.answer = g
	case "seat":
		r.session, r.fence, r.seat = rep.uuid(), rep.fence(), int(rep.int())
		r.epoch, r.version = rep.int(), rep.int()
		for rep.more() {
			r.from = append(r.from, gone{rep.uuid(), rep.ending()})
		}
	default:
		rep.fail("begins with %q", kind)
	}
	return r, rep.err
}

// open writes who sits: one of seat_open's verdicts, committed before it answers, in one round trip that other openings may
// share.
func (p *Pools) open(ctx context.Context, l pool, r reservation, h Holder) (string, error) {
	o := &opening{pool: l, reservation: r, holder: h}
	err := tenancy.Share(ctx, p.db, l.tenant, openings, l.license.String()+h.HardwareID, o)
	if err == nil && o.verdict == "busy" {
		// Somebody holds the licence's row, as a rebuild does. It is waited for alone.
		err = p.db.Batch(ctx, l.tenant, o.alone)
	}
	if err != nil {
		return "", fmt.Errorf("open session %s: %w", r.session, err)
	}
	return o.verdict, nil
}

// opening is a session that is to be opened.
type opening struct {
	pool
	reservation
	holder  Holder
	verdict string
}

func (o *opening) metadata() *string {
	if len(o.holder.Metadata) == 0 {
		return nil
	}
	m := string(o.holder.Metadata)
	return &m
}

// alone opens the session, and waits for the licence's row.
func (o *opening) alone(b *tenancy.Batch) {
	h := &o.holder
	ids, statuses, reasons, bys, ats := columns(o.from)
	b.Queue(`SELECT app.seat_open($1::uuid, $2::uuid, $3::int, $4::bigint, $5::bigint, $6::text, $7::text, $8::text, $9::text,
	       $10::text, $11::text, $12::json, $13::text[]::uuid[], $14::text[], $15::text[], $16::text[], $17::timestamptz[])`,
		o.license.String(), o.session.String(), o.seat, o.epoch, o.fence.Counter,
		h.Key, h.HardwareID, nullable(h.Hostname), nullable(h.User), nullable(h.InstanceID), h.Version, o.metadata(),
		ids, statuses, reasons, bys, ats,
	).QueryRow(func(row pgx.Row) error { return row.Scan(&o.verdict) })
}

// openings opens sessions together. It does not wait for a rebuild or a change of a licence, nor for a licence that is not
// there: that is busy.
var openings = &tenancy.Joint[*opening]{Together: func(b *tenancy.Batch, all []*opening) {
	var licenses, sessions, holders, hardware, versions []string
	var seats, epochs, counters, goneOf []int64
	var hostnames, users, instances, metadata []*string
	var from []gone
	for i, o := range all {
		h := &o.holder
		licenses, sessions = append(licenses, o.license.String()), append(sessions, o.session.String())
		seats, epochs, counters = append(seats, int64(o.seat)), append(epochs, o.epoch), append(counters, o.fence.Counter)
		holders, hardware, versions = append(holders, h.Key), append(hardware, h.HardwareID), append(versions, h.Version)
		hostnames, users, instances = append(hostnames, nullable(h.Hostname)), append(users, nullable(h.User)), append(instances, nullable(h.InstanceID))
		metadata = append(metadata, o.metadata())
		for _, g := range o.from {
			from, goneOf = append(from, g), append(goneOf, int64(i+1))
		}
	}
	ids, statuses, reasons, bys, ats := columns(from)
	b.Queue(`SELECT app.seats_open($1::text[]::uuid[], $2::text[]::uuid[], $3::bigint[]::int[], $4::bigint[], $5::bigint[], $6::text[],
	       $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
	       $13::bigint[]::int[], $14::text[]::uuid[], $15::text[], $16::text[], $17::text[], $18::timestamptz[])`,
		licenses, sessions, seats, epochs, counters, holders, hardware, hostnames, users, instances, versions, metadata,
		goneOf, ids, statuses, reasons, bys, ats,
	).QueryRow(func(row pgx.Row) error {
		var verdicts []string
		if err := row.Scan(&verdicts); err != nil {
			return err
		}
		for i, o := range all {
			o.verdict = verdicts[i]
		}
		return nil
	})
}}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// columns turns endings into the arrays that the SQL functions take. A time that is not known is NULL: now.
func columns(sessions []gone) (ids, statuses, reasons, bys []string, ats []*time.Time) {
	ids, statuses, reasons, bys, ats = []string{}, []string{}, []string{}, []string{}, []*time.Time{}
	for _, g := range sessions {
		ids = append(ids, g.session.String())
		statuses = append(statuses, g.ending.Status)
		reasons = append(reasons, g.ending.Reason)
		bys = append(bys, g.ending.By)
		if g.ending.At.IsZero() {
			ats = append(ats, nil)
		} else {
			ats = append(ats, &g.ending.At)
		}
	}
	return ids, statuses, reasons, bys, ats
}

// confirm turns a reservation whose row is committed into a lease, or extends the lease of a session found.
func (p *Pools) confirm(ctx context.Context, l pool, r reservation) (Beat, error) {
	args := []any{r.session.String(), r.fence.String(), "confirm"}
	for _, g := range r.from {
		args = append(args, g.session.String())
	}
	t, err := p.touch(ctx, l, args...)
	if err != nil {
		return Beat{}, fmt.Errorf("confirm session %s: %w", r.session, err)
	}
	switch t.kind {
	case "ok", "ended":
		return t.beat, nil
	case "rebuild":
		if err := p.rebuild(ctx, l, 0); err != nil {
			return Beat{}, err
		}
		return Beat{}, errAgain // the row was restored with the others: the next try finds it by its holder
	default: // unknown, stale: the reservation is gone without a trace
		return Beat{Ending: Ending{Status: Lapsed, Reason: ReasonLeaseExpired}}, nil
	}
}

// giveBack frees a reservation. When that fails it expires by itself. Another request of this holder may have found the session,
// opened it and been told yes meanwhile: then it stays.
func (p *Pools) giveBack(ctx context.Context, l pool, r reservation) error {
	if _, err := p.run(ctx, releaseScript, l.keys(), r.session.String(), r.fence.String(), "reserved"); err != nil {
		return fmt.Errorf("give back seat of license %s: %w", l.license, err)
	}
	return nil
}

// letGo frees the seat of a session whose row says that it has ended.
func (p *Pools) letGo(ctx context.Context, l pool, session uuid.UUID, fence Fence) error {
	if _, err := p.run(ctx, releaseScript, l.keys(), session.String(), fence.String()); err != nil {
		return fmt.Errorf("free seat of license %s: %w", l.license, err)
	}
	return nil
}
