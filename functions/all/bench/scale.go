package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/valyala/fasthttp"

	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// pools opens the seat package as function acquire does: curves time its calls, one after the other, without HTTP.
func (s *stage) pools(ctx context.Context) (*seat.Pools, func(), error) {
	env, log := getenv(s.settings("acquire")), slog.New(slog.DiscardHandler)
	db, err := tenancy.Open(ctx, env, log)
	if err != nil {
		return nil, nil, err
	}
	pools, err := seat.Open(env, db, log)
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	return pools, func() { _ = pools.Close(); db.Close() }, nil // of Redis' connections, nothing is lost
}

// calls are the times of single calls at one point of the curves.
type calls struct{ acquire, heartbeat, release []time.Duration }

// time takes a seat, lets a session beat, which is that of the seat when there is no other, and releases the seat.
func (c *calls) time(ctx context.Context, pools *seat.Pools, license uuid.UUID, tenant tenancy.ID, beats *seat.Ref) error {
	holder := seat.Holder{Key: "device:" + uuid.NewString(), HardwareID: "bench", Version: "1.0.0"}
	began := time.Now()
	g, err := pools.Acquire(ctx, tenant, license, holder, seat.Ask{})
	c.acquire = append(c.acquire, time.Since(began))
	if err != nil {
		return err
	}
	if g.Verdict != seat.Granted {
		return fmt.Errorf("acquire of license %s: verdict %d", license, g.Verdict)
	}
	if beats == nil {
		beats = &g.Ref
	}
	began = time.Now()
	beat, err := pools.Heartbeat(ctx, *beats)
	c.heartbeat = append(c.heartbeat, time.Since(began))
	if err != nil {
		return err
	}
	if !beat.Alive {
		return fmt.Errorf("heartbeat of license %s: %+v", license, beat.Ending)
	}
	began = time.Now()
	_, err = pools.Release(ctx, g.Ref)
	c.release = append(c.release, time.Since(began))
	return err
}

func medianMicros(times []time.Duration) float64 {
	return micros(slices.Sorted(slices.Values(times))[len(times)/2])
}

// cloneScript gives every licence of ARGV a copy of the pool of KEYS[1], a key's name up to the licence's id.
const cloneScript = `
for _, name in ipairs({ 'meta', 'leases', 'sessions', 'freed', 'holders' }) do
  for _, license in ipairs(ARGV) do redis.call('COPY', KEYS[1] .. '}:' .. name, KEYS[2] .. license .. '}:' .. name) end
end
return #ARGV`

// licenseCurve times calls among more and more licences. They are copies of one: rows made by one statement, and pools
// copied within Redis, each with one session.
func (s *stage) licenseCurve(ctx context.Context, r *Report) error {
	s.progress("calls among 1 to %d licences", s.size.Most)
	pools, closePools, err := s.pools(ctx)
	if err != nil {
		return err
	}
	defer closePools()
	first := s.held[0] // of a licence whose pool is warm
	g, err := s.oneHolder(ctx, pools)
	if err != nil {
		return err
	}
	licenses := []uuid.UUID{g.License}
	var (
		points []int
		curve  []calls
	)
	for n := 1; n <= s.size.Most; n *= 10 {
		rows, err := s.db.Query(ctx, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, ttl_seconds, seat_per,
				offline_grace_seconds, drain_seconds, seat_epoch)
			SELECT tenant_id, gen_random_uuid(), product_code, plan_code, max_seats, ttl_seconds, seat_per,
				offline_grace_seconds, drain_seconds, seat_epoch
			  FROM app.licenses, generate_series(1, $2::int) WHERE id = $1::uuid RETURNING id`, g.License.String(), n-len(licenses))
		if err != nil {
			return fmt.Errorf("copy a licence: %w", err)
		}
		copies, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return fmt.Errorf("copy a licence: %w", err)
		}
		for chunk := range slices.Chunk(copies, 200) {
			prefix := "seat:{" + first.Tenant.String() + "/"
			args := []any{"EVAL", cloneScript, 2, prefix + g.License.String(), prefix}
			for _, id := range chunk {
				args = append(args, id.String())
			}
			if _, err := s.redis.Do(ctx, args...); err != nil {
				return fmt.Errorf("copy a pool: %w", err)
			}
		}
		licenses = append(licenses, copies...)
		var c calls
		for range s.size.Calls {
			sits := g
			sits.License = licenses[rand.IntN(len(licenses))] //nolint:gosec // any will do
			if err := c.time(ctx, pools, sits.License, g.Tenant, &sits); err != nil {
				return err
			}
		}
		points, curve = append(points, n), append(curve, c)
	}
	r.curve("Time of a call among many licences", "licences", "licences", points, curve, atMost(1.5))
	return nil
}

// oneHolder seats a holder on a licence where nobody sits.
func (s *stage) oneHolder(ctx context.Context, pools *seat.Pools) (seat.Ref, error) {
	g, err := pools.Acquire(ctx, s.held[0].Tenant, s.alone.id, seat.Holder{Key: "device:first", HardwareID: "first"}, seat.Ask{})
	if err == nil && g.Verdict != seat.Granted {
		err = fmt.Errorf("verdict %d", g.Verdict)
	}
	if err != nil {
		return seat.Ref{}, fmt.Errorf("seat a holder: %w", err)
	}
	return g.Ref, nil
}

// seatCurve times calls of licences of more and more seats, all taken but one, and the first call, which rebuilds the
// pool from its rows.
func (s *stage) seatCurve(ctx context.Context, r *Report) error {
	s.progress("calls of licences of 1 to %d seats", s.size.Most)
	pools, closePools, err := s.pools(ctx)
	if err != nil {
		return err
	}
	defer closePools()
	tenant := s.held[0].Tenant
	var (
		points   []int
		rebuilds []float64
		sitting  [][]seat.Ref
	)
	for n := 1; n <= s.size.Most; n *= 10 {
		sits, err := s.seatByRows(ctx, s.bySeats[n].id, n-1)
		if err != nil {
			return err
		}
		var first calls
		if err := first.time(ctx, pools, s.bySeats[n].id, tenant, nil); err != nil {
			return err
		}
		points, rebuilds, sitting = append(points, n), append(rebuilds, millis(first.acquire[0])), append(sitting, sits)
	}
	// As PostgreSQL does by itself soon after a table has grown; this one has grown at once.
	if _, err := s.db.Exec(ctx, "ANALYZE app.open_sessions"); err != nil {
		return fmt.Errorf("analyse the sessions: %w", err)
	}
	curve := make([]calls, len(points))
	for range s.size.Calls {
		for i, n := range points {
			var beats *seat.Ref
			if len(sitting[i]) > 0 {
				beats = &sitting[i][rand.IntN(len(sitting[i]))] //nolint:gosec // any will do
			}
			if err := curve[i].time(ctx, pools, s.bySeats[n].id, tenant, beats); err != nil {
				return err
			}
		}
	}
	r.curve("Time of a call of a large licence", "seats", "seats of the licence", points, curve, nil)
	r.rebuildCurve(points, rebuilds)
	return nil
}

// seatByRows writes so many open sessions of a licence whose pool is cold, and answers some of them.
func (s *stage) seatByRows(ctx context.Context, license uuid.UUID, sessions int) ([]seat.Ref, error) {
	rows, err := s.db.Query(ctx, `WITH sits AS (
			INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id, version)
			SELECT $1::uuid, gen_random_uuid(), $2::uuid, n, 1, n, 'device:' || gen_random_uuid(), 'bench', '1.0.0'
			  FROM generate_series(1, $3::int) n RETURNING id, seat_no, fence_epoch, fence_counter)
		SELECT * FROM sits ORDER BY random() LIMIT 1000`, s.tenant.String(), license.String(), sessions)
	if err != nil {
		return nil, fmt.Errorf("write %d sessions: %w", sessions, err)
	}
	refs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (seat.Ref, error) {
		ref := seat.Ref{Tenant: s.held[0].Tenant, License: license}
		err := row.Scan(&ref.Session, &ref.Seat, &ref.Epoch, &ref.Counter)
		return ref, err
	})
	if err != nil {
		return nil, fmt.Errorf("write %d sessions: %w", sessions, err)
	}
	return refs, nil
}

const (
	// bystanders is how many heartbeats a second other licences send while a large pool is rebuilt.
	bystanders = 300
	// rebuildDeadline is what the seat package gives a rebuild, with all its tries.
	rebuildDeadline = 10 * time.Second
)

// errRebuilt ends the load of the bystanders.
var errRebuilt = errors.New("the pool is rebuilt")

// rebuilding lets another process rebuild the largest pool while other licences beat.
func (s *stage) rebuilding(ctx context.Context, r *Report) error {
	s.progress("heartbeats of others while a pool of %d seats is rebuilt", s.size.Most)
	licence := s.bySeats[s.size.Most]
	var one seat.Ref
	err := s.db.QueryRow(ctx, `SELECT id, seat_no, fence_epoch, fence_counter FROM app.open_sessions WHERE tenant_id = $1::uuid AND license_id = $2::uuid LIMIT 1`,
		s.tenant.String(), licence.id.String()).Scan(&one.Session, &one.Seat, &one.Epoch, &one.Counter)
	if err != nil {
		return fmt.Errorf("find a session of the large licence: %w", err)
	}
	one.Tenant, one.License = s.held[0].Tenant, licence.id
	rebuilder, err := s.function(ctx, "heartbeat")
	if err != nil {
		return err
	}
	large := newDoor(rebuilder.address)
	beat := bearerRequest(large, "/v1/heartbeat", s.tokens.Mint(signing.Claims(one)))

	d := newDoor(s.heartbeat.address)
	var refused atomic.Int64
	send := requests(d, inFlight, s.held, asHolder)
	tolerant := func(client, n int) error {
		err := send(client, n)
		if _, ok := errors.AsType[*refusal](err); ok {
			refused.Add(1)
			return nil
		}
		return err
	}
	before, err := openLoop(ctx, bystanders, max(s.size.Round, time.Second), tolerant)
	if err != nil {
		return err
	}
	refused.Store(0)

	var keys []any
	for _, name := range []string{"meta", "leases", "sessions", "freed", "dirty", "holders", "tombs", "ends", "queue", "polls"} {
		keys = append(keys, "seat:{"+one.Tenant.String()+"/"+licence.id.String()+"}:"+name)
	}
	if _, err := s.redis.Do(ctx, append([]any{"UNLINK"}, keys...)...); err != nil {
		return fmt.Errorf("lose the large pool: %w", err)
	}
	var done atomic.Bool
	took := make(chan time.Duration, 1)
	go func() {
		began := time.Now()
		var answer fasthttp.Response
		for time.Since(began) < 3*rebuildDeadline && ctx.Err() == nil {
			if large.send(beat, &answer, http.StatusOK) == nil {
				break
			}
		}
		took <- time.Since(began)
		done.Store(true)
	}()
	during, err := openLoop(ctx, bystanders, 3*rebuildDeadline, func(client, n int) error {
		if done.Load() {
			return errRebuilt
		}
		return tolerant(client, n)
	})
	if err != nil && !errors.Is(err, errRebuilt) {
		return err
	}
	section := fmt.Sprintf("A pool of %d seats is rebuilt", s.size.Most)
	rebuilt := <-took
	r.figure(section, "until its first heartbeat is answered, s", fmt.Sprintf("%.2f", rebuilt.Seconds()), atMost(rebuildDeadline.Seconds()), rebuilt.Seconds())
	r.figure(section, "p99 of heartbeats of other licences before, ms", fmt.Sprintf("%.1f (most %.1f)", millis(before.quantile(0.99)), millis(before.quantile(1))), nil, 0)
	r.figure(section, "and meanwhile", fmt.Sprintf("%.1f (most %.1f)", millis(during.quantile(0.99)), millis(during.quantile(1))),
		atMostOf(2, millis(before.quantile(0.99)), "2 × before"), millis(during.quantile(0.99)))
	r.figure(section, "heartbeats of other licences refused meanwhile", fmt.Sprintf("%d of %d", refused.Load(), len(during.times)), atMost(0), float64(refused.Load()))
	return nil
}
