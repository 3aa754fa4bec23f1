package seat

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// Beat answers a heartbeat.
type Beat struct {
	// Alive says that the lease was extended. Otherwise Ending says how the session ended, and nothing else is set.
	Alive  bool
	Ending Ending

	// TTL is how long the holder may believe, counted from sending its request.
	TTL time.Duration
	// At and ExpiresAt are by the store's clock; for display.
	At, ExpiresAt time.Time
	// Seat is the seat's number.
	Seat int
	// DrainUntil is when the session will be evicted because the licence shrank; zero when it is not to drain.
	DrainUntil time.Time
	Counts     Counts
}

// touched is what touch.lua answered.
type touched struct {
	kind  string
	beat  Beat
	epoch int64 // of the pool, when it does not know the session by this fence
}

func (p *Pools) touch(ctx context.Context, l pool, args ...any) (touched, error) {
	rep, err := p.run(ctx, touchScript, l.keys(), args...)
	if err != nil {
		return touched{}, err
	}
	t := touched{kind: rep.str()}
	switch t.kind {
	case "ok":
		b := Beat{Alive: true, At: rep.at(), TTL: rep.millis()}
		b.ExpiresAt = b.At.Add(b.TTL)
		b.Counts = Counts{Active: int(rep.int()), Max: int(rep.int()), Overdraft: int(rep.int())}
		b.DrainUntil = rep.at()
		b.Seat = int(rep.int())
		t.beat = b
	case "ended":
		t.beat = Beat{Ending: rep.ending()}
	case "unknown", "stale":
		t.epoch = rep.int()
	case "reserved", "rebuild":
	default:
		rep.fail("begins with %q", t.kind)
	}
	return t, rep.err
}

// Heartbeat extends the session's lease, or says how the session ended. It is one script; only when the pool was lost
// does it read PostgreSQL, so that a live holder never hears "lapsed" from a Redis that forgot.
func (p *Pools) Heartbeat(ctx context.Context, ref Ref) (Beat, error) {
	l := pool{tenant: ref.Tenant, license: ref.License}
	id, fence := ref.Session.String(), ref.Fence().String()
	for try := range tries {
		if try > 0 {
			if err := pause(ctx, try); err != nil {
				return Beat{}, err
			}
		}
		t, err := p.touch(ctx, l, id, fence, "beat")
		if err != nil {
			return Beat{}, fmt.Errorf("renew session %s: %w", ref.Session, err)
		}
		switch t.kind {
		case "ok":
			return t.beat, nil
		case "ended":
			if t.beat.Ending.At.IsZero() { // its tombstone is gone; the row may know better
				return p.beatOfRow(ctx, ref, t.beat.Ending)
			}
			return t.beat, nil
		case "rebuild":
			if err := p.rebuild(ctx, l, 0); err != nil {
				if errors.Is(err, ErrUnknownLicense) {
					return p.beatOfRow(ctx, ref, forgotten)
				}
				return Beat{}, err
			}
		case "unknown", "stale":
			row, err := p.row(ctx, ref)
			if err != nil {
				return Beat{}, err
			}
			if !row.openBy(ref.Fence()) {
				return Beat{Ending: row.endingOr(forgotten)}, nil
			}
			if err := p.rebuild(ctx, l, t.epoch); err != nil {
				return Beat{}, err
			}
		case "reserved":
			// Only a holder whose acquire is still under way can get here, and it has not been told yes.
		}
	}
	return Beat{}, fault.Unavailable(fmt.Errorf("renew session %s: lost %d races", ref.Session, tries))
}

// forgotten is how a session ended of which nothing is remembered: long ago.
var forgotten = Ending{Status: Lapsed, Reason: ReasonLeaseExpired}

// beatOfRow answers a refusal with what PostgreSQL knows of the session's end, or else with known.
func (p *Pools) beatOfRow(ctx context.Context, ref Ref, known Ending) (Beat, error) {
	row, err := p.row(ctx, ref)
	if err != nil {
		return Beat{}, err
	}
	return Beat{Ending: row.endingOr(known)}, nil
}

// rowState is what PostgreSQL knows of a session.
type rowState struct {
	open   bool
	fence  Fence // when open
	ended  bool
	ending Ending // when ended
}

// openBy says whether the session is open, and that of this fence.
func (s *rowState) openBy(fence Fence) bool { return s.open && s.fence == fence }

func (s *rowState) endingOr(otherwise Ending) Ending {
	if s.ended {
		return s.ending
	}
	return otherwise
}

func (s *rowState) queue(b *tenancy.Batch, session uuid.UUID) {
	b.Queue(`SELECT true, fence_epoch, fence_counter, '', '', '', now() FROM app.open_sessions
	          WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid
	         UNION ALL
	         SELECT false, 0, 0, status, end_reason, ended_by, ended_at FROM app.ended_sessions
	          WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid
	         LIMIT 1`, session.String(),
	).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			e := &s.ending
			if err := rows.Scan(&s.open, &s.fence.Epoch, &s.fence.Counter, &e.Status, &e.Reason, &e.By, &e.At); err != nil {
				return err
			}
			s.ended, e.At = !s.open, e.At.UTC()
		}
		return rows.Err()
	})
}

// row reads the session's row, or its history.
func (p *Pools) row(ctx context.Context, ref Ref) (rowState, error) {
	var s rowState
	if err := p.db.Batch(ctx, ref.Tenant, func(b *tenancy.Batch) { s.queue(b, ref.Session) }); err != nil {
		return rowState{}, fmt.Errorf("read session %s: %w", ref.Session, err)
	}
	return s, nil
}

// Release gives the session's seat back and answers how the session ended: by this call, or before and otherwise. The
// seat is free as soon as Redis heard of it; the error fault.Unavailable says that the row could not be closed yet, and
// that the same call should be repeated.
func (p *Pools) Release(ctx context.Context, ref Ref) (Ending, error) {
	l := pool{tenant: ref.Tenant, license: ref.License}
	rep, err := p.run(ctx, releaseScript, l.keys(), ref.Session.String(), ref.Fence().String())
	if err != nil {
		return Ending{}, fmt.Errorf("release session %s: %w", ref.Session, err)
	}
	ending := Ending{Status: Released, Reason: ReasonReleased, By: "holder"}
	known := forgotten
	switch kind := rep.str(); kind {
	case "ended":
		ending = rep.ending()
		known = ending
	case "unknown", "rebuild":
	case "stale": // another's, unless the row says that it is the pool that is wrong
		row, err := p.row(ctx, ref)
		if err != nil || !row.openBy(ref.Fence()) {
			return row.endingOr(forgotten), err
		}
	default:
		rep.fail("begins with %q", kind)
	}
	if rep.err != nil {
		return Ending{}, rep.err
	}
	// The holder's own word needs no epoch: whatever the pool forgot, the row of this session may be closed.
	c := &closing{license: l.license, gone: gone{ref.Session, ending}, ended: known}
	err = tenancy.Share(ctx, p.db, ref.Tenant, closings, l.license.String()+ref.Session.String(), c)
	if err == nil && c.busy {
		// Somebody holds the row, as who suspends the licence does. It is waited for alone.
		err = p.db.Batch(ctx, ref.Tenant, func(b *tenancy.Batch) { queueClosings(b, "app.sessions_release", []*closing{c}) })
	}
	if err != nil {
		return Ending{}, fmt.Errorf("close session %s: %w", ref.Session, err)
	}
	return c.ended, nil
}

// closing is a session whose row is to be closed on its holder's word. What PostgreSQL knows of its end becomes ended.
type closing struct {
	license uuid.UUID
	gone    gone
	ended   Ending
	busy    bool
}

// closings closes the rows of sessions together, but for those that somebody holds: these are busy.
var closings = &tenancy.Joint[*closing]{Together: func(b *tenancy.Batch, all []*closing) {
	queueClosings(b, "app.sessions_release_unlocked", all)
}}

func queueClosings(b *tenancy.Batch, function string, all []*closing) {
	licenses, sessions := make([]string, len(all)), make([]gone, len(all))
	for i, c := range all {
		licenses[i], sessions[i] = c.license.String(), c.gone
	}
	ids, statuses, reasons, bys, ats := columns(sessions)
	b.Queue(`SELECT session_id, status, end_reason, ended_by, ended_at
	       FROM `+function+`($1::text[]::uuid[], $2::text[]::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])`,
		licenses, ids, statuses, reasons, bys, ats,
	).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var session uuid.UUID
			var e Ending
			if err := rows.Scan(&session, &e.Status, &e.Reason, &e.By, &e.At); err != nil {
				return err
			}
			e.At = e.At.UTC()
			for _, c := range all {
				switch {
				case c.gone.session != session:
				case e.Status == "busy":
					c.busy = true
				default:
					c.ended = e
				}
			}
		}
		return rows.Err()
	})
}

// Leave gives up a waiter's place in the queue and says whether it had one.
func (p *Pools) Leave(ctx context.Context, tenant tenancy.ID, license uuid.UUID, holder string) (bool, error) {
	rep, err := p.run(ctx, leaveScript, pool{tenant: tenant, license: license}.keys(), holder)
	if err != nil {
		return false, fmt.Errorf("leave queue of license %s: %w", license, err)
	}
	return rep.int() == 1, rep.err
}

// errEpoch says that what was decided in an older world was refused by a newer one.
var errEpoch = errors.New("seat: decided in another epoch")

// closeRows moves the rows of those sessions that are open to history, on evidence of the epoch, and says how many they
// were. In another epoch it does nothing and answers errEpoch.
func (p *Pools) closeRows(ctx context.Context, l pool, epoch int64, sessions []gone) (closed int, err error) {
	ids := make([]string, len(sessions))
	for i, g := range sessions {
		ids[i] = g.session.String()
	}
	var verdict string
	err = p.db.Batch(ctx, l.tenant, func(b *tenancy.Batch) {
		b.Queue(`SELECT count(*) FROM app.open_sessions WHERE tenant_id = (SELECT app.tenant()) AND id = ANY ($1::text[]::uuid[])`, ids).
			QueryRow(func(row pgx.Row) error { return row.Scan(&closed) })
		queueClose(b, l, epoch, sessions, &verdict)
	})
	if err != nil {
		return 0, fmt.Errorf("close %d sessions of license %s: %w", len(sessions), l.license, err)
	}
	if verdict != "ok" {
		return 0, errEpoch
	}
	return closed, nil
}

func queueClose(b *tenancy.Batch, l pool, epoch int64, sessions []gone, verdict *string) {
	ids, statuses, reasons, bys, ats := columns(sessions)
	var evidence *int64
	if epoch != 0 {
		evidence = &epoch
	}
	b.Queue(`SELECT app.session_close($1::uuid, $2::bigint, $3::text[]::uuid[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])`,
		l.license.String(), evidence, ids, statuses, reasons, bys, ats,
	).QueryRow(func(row pgx.Row) error { return row.Scan(verdict) })
}
