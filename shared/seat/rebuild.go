package seat

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// limits is what a licence's row says to its pool. Durations, never times: each store has its own clock.
type limits struct {
	epoch   int64
	version int64
	state   string // active, or the code that says why no seat is granted
	by      string
	max     int
	over    int
	lease   time.Duration
	longest time.Duration // the longest lease that somebody may still believe in
	drain   time.Duration // until drained sessions are evicted; -1 ms when none is to drain
	ends    int64         // ms until the licence stops granting by its dates, which may be further off than a Duration goes, or -1
	told    bool          // no shorter lease waits for the pool to hear of it
}

const limitColumns = `
	l.seat_epoch, l.pool_version,
	app.license_state(t.status, l.status, l.starts_at, l.expires_at, l.grace_until, now()),
	coalesce(CASE WHEN t.status <> 'active' THEN t.status_by WHEN l.status <> 'active' THEN l.status_by END, ''),
	l.max_seats, l.overdraft_seats, l.ttl_seconds,
	greatest(l.ttl_seconds, CASE WHEN l.ttl_floor_until > now() THEN l.ttl_floor_seconds ELSE 0 END),
	CASE WHEN l.drain_until IS NULL THEN -1
	     ELSE greatest(0, (extract(epoch FROM l.drain_until - now()) * 1000)::bigint) END,
	CASE WHEN l.expires_at IS NULL THEN -1
	     ELSE greatest(0, ceil(extract(epoch FROM greatest(l.expires_at, l.grace_until) - now()) * 1000)::bigint) END,
	l.ttl_floor_until <> 'infinity'`

// selectLimits reads a licence's limits; lockLimits also locks its row against openings and other rebuilds.
const (
	selectLimits = `SELECT ` + limitColumns + `
	  FROM app.licenses l JOIN app.tenants t ON t.id = l.tenant_id
	 WHERE l.tenant_id = (SELECT app.tenant()) AND l.id = $1::uuid`
	lockLimits = selectLimits + ` FOR NO KEY UPDATE OF l`
)

func scanLimits(row pgx.Row) (limits, error) {
	var s limits
	var lease, longest, drain int64
	err := row.Scan(&s.epoch, &s.version, &s.state, &s.by, &s.max, &s.over, &lease, &longest, &drain, &s.ends, &s.told)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, ErrUnknownLicense
	}
	s.lease, s.longest = time.Duration(lease)*time.Second, time.Duration(longest)*time.Second
	s.drain = time.Duration(drain) * time.Millisecond
	return s, err
}

// settings are the arguments that resize.lua and rebuild.lua share, from the pool version on.
func (p *Pools) settings(s limits) []any {
	return []any{
		s.version, s.state, s.by, s.max, s.over, s.lease.Milliseconds(), p.allowance(s.lease).Milliseconds(),
		p.cfg.Reservation.Milliseconds(), p.cfg.Poll.Milliseconds(), s.drain.Milliseconds(), s.ends,
	}
}

// snapshot is what a rebuild read from PostgreSQL under the licence's row lock, and the incarnation that answered before
// it read: a pool of any other must not be built from it.
type snapshot struct {
	limits      limits
	incarnation string
	rows        []openRow // in the order of seats
}

// openRow is an open session, as a rebuild restores it.
type openRow struct {
	seat int64
	args [rowArgs]any // of stage.lua
}

const (
	// rowArgs is how many arguments of stage.lua a session takes.
	rowArgs = 8
	// partRows and partSeats bound what one script stages: Redis serves nobody else meanwhile.
	partRows, partSeats = 100, 400
	// buildingLife is how long others wait for a rebuild of which they hear nothing.
	buildingLife = time.Second
	// stagedLife is how long what was staged stays when its rebuild has died.
	stagedLife = time.Minute
)

// lockNotAvailable is the SQLSTATE of a row lock that was waited for too long: others are at the licence's row.
const lockNotAvailable = "55P03"

// errBeingBuilt says that somebody else is about the pool's rebuild.
var errBeingBuilt = errors.New("seat: the pool is being rebuilt")

// rebuild builds the licence's pool from the rows, when the pool is cold, of another incarnation, or not of the row's
// epoch. distrusted is an epoch in which pool and rows were seen to disagree: a pool still of that epoch is rebuilt, too.
// A hundred callers cause one rebuild: those of this process wait for the first one's, those of others for the row's lock.
func (p *Pools) rebuild(ctx context.Context, l pool, distrusted int64) error {
	done := p.rebuilds.DoChan(fmt.Sprint(l.tenant, l.license, distrusted), func() (any, error) {
		// It serves the others, too, so it does not end with the call that came first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rebuildDeadline)
		defer cancel()
		return nil, p.rebuildOnce(ctx, l, distrusted)
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return fault.Unavailable(fmt.Errorf("rebuild pool of license %s: %w", l.license, ctx.Err()))
	}
}

func (p *Pools) rebuildOnce(ctx context.Context, l pool, distrusted int64) error {
	for lost := 0; lost < tries; {
		s, err := p.snapshot(ctx, l, distrusted)
		if errors.Is(err, errBeingBuilt) || tenancy.Code(err) == lockNotAvailable {
			if err := pause(ctx, 3); err != nil {
				return fmt.Errorf("wait for the rebuild of license %s: %w", l.license, err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("rebuild pool of license %s: %w", l.license, err)
		}
		if s == nil {
			return nil
		}
		kind, err := p.install(ctx, l, s)
		if err != nil {
			return fmt.Errorf("rebuild pool of license %s: %w", l.license, err)
		}
		switch kind {
		case "ok":
			p.log.InfoContext(ctx, "seat pool rebuilt", "license", l.license, "epoch", s.limits.epoch, "sessions", len(s.rows))
			return nil
		case "old":
			return nil // a newer rebuild was faster
		case "moved": // Redis was lost again meanwhile
			lost++
		}
	}
	return fault.Unavailable(fmt.Errorf("rebuild pool of license %s: Redis changed %d times", l.license, tries))
}

// snapshot locks the licence's row, looks at the pool again, and takes the next epoch and the open rows; nil when there
// is nothing to do any more, errBeingBuilt when somebody else is doing it.
func (p *Pools) snapshot(ctx context.Context, l pool, distrusted int64) (*snapshot, error) {
	var s *snapshot
	err := p.db.As(ctx, l.tenant, func(tx tenancy.Tx) error {
		s = nil
		row, err := scanLimits(tx.QueryRow(ctx, lockLimits, l.license.String()))
		if err != nil {
			return err
		}
		seen, err := p.peek(ctx, l, uuid.Nil)
		if err != nil {
			return err
		}
		if seen.warm && seen.epoch == row.epoch && (distrusted == 0 || seen.epoch != distrusted) {
			return nil
		}
		if seen.building != 0 && seen.building == row.epoch {
			return errBeingBuilt
		}
		s = &snapshot{limits: row, incarnation: seen.incarnation}
		if s.limits.epoch, err = nextEpoch(ctx, tx, l); err != nil {
			return err
		}
		if s.rows, err = openRows(ctx, tx, l); err != nil {
			return err
		}
		// Before the commit lets others at the row, they must see that the rebuild is under way.
		if err := p.rdb.Set(ctx, l.buildingKey(), s.limits.epoch, buildingLife).Err(); err != nil {
			return unavailable(err)
		}
		return nil
	})
	return s, err
}

// nextEpoch begins a new epoch: what was decided in an older one is refused from the commit on.
func nextEpoch(ctx context.Context, tx tenancy.Tx, l pool) (epoch int64, err error) {
	err = tx.QueryRow(ctx, `UPDATE app.licenses
	       SET seat_epoch = greatest(seat_epoch + 1, extract(epoch FROM now())::bigint)
	     WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid RETURNING seat_epoch`, l.license.String(),
	).Scan(&epoch)
	return epoch, err
}

// openRows reads the licence's open sessions in the order of seats.
func openRows(ctx context.Context, tx tenancy.Tx, l pool) ([]openRow, error) {
	rows, err := tx.Query(ctx, `SELECT id, seat_no, fence_epoch, fence_counter, holder,
	       greatest(0, coalesce((extract(epoch FROM borrowed_until - now()) * 1000)::bigint, 0)),
	       coalesce(evict_reason, ''), coalesce(evicted_by, ''), coalesce((extract(epoch FROM evicted_at) * 1000)::bigint, 0)
	  FROM app.open_sessions WHERE tenant_id = (SELECT app.tenant()) AND license_id = $1::uuid
	 ORDER BY seat_no`, l.license.String())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (openRow, error) {
		var (
			id                        uuid.UUID
			seat, borrowed, evicted   int64
			fence                     Fence
			holder, reason, evictedBy string
		)
		err := row.Scan(&id, &seat, &fence.Epoch, &fence.Counter, &holder, &borrowed, &reason, &evictedBy, &evicted)
		return openRow{seat, [rowArgs]any{id.String(), seat, fence.String(), holder, borrowed, reason, evictedBy, evicted}}, err
	})
}

// install gives the snapshot to the pool and answers rebuild.lua's verdict. Until its last script the pool is what it was.
func (p *Pools) install(ctx context.Context, l pool, s *snapshot) (string, error) {
	if kind, err := p.stage(ctx, l, s); kind != "ok" || err != nil {
		return kind, err
	}
	return p.finish(ctx, l, s)
}

// stage puts the rows beside the pool, a part at a time, so that Redis serves others in between. It answers ok, or
// stage.lua's verdict on the part that failed.
func (p *Pools) stage(ctx context.Context, l pool, s *snapshot) (string, error) {
	keys := l.stagedKeys(s.limits.epoch)
	parts := slices.Collect(partsOf(s.rows))
	budget := time.Second + time.Duration(len(parts))*15*time.Millisecond
	staged := 0
	for i, part := range parts {
		began := time.Now()
		args := make([]any, 0, 8+rowArgs*len(part.rows))
		args = append(args, s.limits.epoch, s.incarnation, staged, part.upto, budget.Milliseconds(),
			p.floor(s.limits.longest).Milliseconds(), p.allowance(s.limits.lease).Milliseconds(), stagedLife.Milliseconds())
		for i := range part.rows {
			args = append(args, part.rows[i].args[:]...)
		}
		rep, err := p.runAlone(ctx, rebuildTimeout, stageScript, keys, args...)
		if err != nil {
			return "", err
		}
		if kind := rep.str(); kind != "ok" || rep.err != nil {
			return kind, rep.err
		}
		staged += len(part.rows)
		// Others have Redis and the processors for as long as the part had them, while there is time.
		if end, ok := ctx.Deadline(); i < len(parts)-1 && (!ok || time.Until(end) > rebuildDeadline/2) {
			if err := rest(ctx, min(time.Since(began), mostRest)); err != nil {
				return "", err
			}
		}
	}
	return "ok", nil
}

// mostRest is how long a rebuild stands back after a part at most, in the first half of its time.
const mostRest = 4 * time.Millisecond

// finish makes what was staged the pool.
func (p *Pools) finish(ctx context.Context, l pool, s *snapshot) (string, error) {
	args := append([]any{s.limits.epoch, s.incarnation}, p.settings(s.limits)...)
	args = append(args, p.floor(s.limits.longest).Milliseconds(), len(s.rows))
	rep, err := p.runAlone(ctx, rebuildTimeout, rebuildScript, l.stagedKeys(s.limits.epoch), args...)
	if err != nil {
		return "", err
	}
	return rep.str(), rep.err
}

// part is what one script stages: these rows, and the free seats among those up to upto.
type part struct {
	rows []openRow
	upto int64
}

// partsOf cuts rows, which are in the order of seats, so that no part is large.
func partsOf(rows []openRow) iter.Seq[part] {
	return func(yield func(part) bool) {
		var covered int64
		for len(rows) > 0 {
			p := part{upto: covered + partSeats}
			n := 0
			for n < len(rows) && n < partRows && rows[n].seat <= p.upto {
				n++
			}
			p.rows, rows = rows[:n], rows[n:]
			if n == partRows || len(rows) == 0 {
				p.upto = p.rows[n-1].seat
			}
			if !yield(p) {
				return
			}
			covered = p.upto
		}
	}
}

// seen is what peek.lua answered.
type seen struct {
	incarnation string
	epoch       int64
	warm        bool // built under the incarnation that answers
	version     int64
	state       string
	counts      Counts
	lives       bool
	building    int64 // epoch of the rebuild that somebody is about, or 0
}

func (p *Pools) peek(ctx context.Context, l pool, session uuid.UUID) (seen, error) {
	arg := ""
	if session != uuid.Nil {
		arg = session.String()
	}
	rep, err := p.run(ctx, peekScript, append(l.keys(), l.buildingKey()), arg)
	if err != nil {
		return seen{}, fmt.Errorf("look at pool of license %s: %w", l.license, err)
	}
	s := seen{incarnation: rep.str(), epoch: rep.intOr0()}
	s.warm = rep.int() == 1
	s.version, s.state = rep.int(), rep.str()
	s.counts = Counts{Active: int(rep.int()), Max: int(rep.int()), Overdraft: int(rep.int()), Queue: int(rep.int())}
	s.lives = rep.int() == 1
	s.building = rep.intOr0()
	return s, rep.err
}

// Sight is what Peek saw.
type Sight struct {
	// Counts; when the pool is cold, only Active is known, from PostgreSQL. All are zero for a licence that there is not.
	Counts Counts
	// PoolVersion of the licence's facts that the pool was told of, or that PostgreSQL has when the pool is cold.
	PoolVersion int64
}

// Peek looks at a licence's pool without changing it, in one round trip to Redis; when the pool is cold it asks PostgreSQL.
// In both cases somebody whose facts have that version need not read them again.
func (p *Pools) Peek(ctx context.Context, tenant tenancy.ID, license uuid.UUID) (Sight, error) {
	l := pool{tenant: tenant, license: license}
	s, err := p.peek(ctx, l, uuid.Nil)
	if err != nil {
		return Sight{}, err
	}
	sight := Sight{Counts: s.counts, PoolVersion: s.version}
	if !s.warm {
		sight = Sight{}
		err = p.db.Batch(ctx, tenant, func(b *tenancy.Batch) {
			b.Queue(`SELECT coalesce((SELECT pool_version FROM app.licenses WHERE tenant_id = (SELECT app.tenant()) AND id = $1::uuid), 0), count(*)
				  FROM app.open_sessions WHERE tenant_id = (SELECT app.tenant()) AND license_id = $1::uuid`,
				license.String()).QueryRow(func(row pgx.Row) error { return row.Scan(&sight.PoolVersion, &sight.Counts.Active) })
		})
	}
	return sight, err
}

// Lives says whether the session holds its seat now.
func (p *Pools) Lives(ctx context.Context, ref Ref) (bool, error) {
	l := pool{tenant: ref.Tenant, license: ref.License}
	s, err := p.peek(ctx, l, ref.Session)
	if err != nil || s.warm {
		return s.lives, err
	}
	row, err := p.row(ctx, ref)
	return row.open, err
}
