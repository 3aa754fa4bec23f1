package seat

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

func TestMain(m *testing.M) {
	// These tests spend their time waiting for leases to end, so more of them fit on a machine than it has processors.
	set := map[string]string{"test.parallel": "10"}
	if !testenv.Full() {
		set["rapid.checks"] = "12"
	}
	for name, value := range set {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	testenv.Main(m, nil)
}

// The protocol's times. In most worlds leases, reservations and polls last so long that nothing ends by itself while a test
// looks, however busy the machine is; expire ends a lease. Where time itself is the claim, the world is brisk.
const (
	longLease   = time.Minute
	lease       = time.Second            // V, when brisk
	reservedFor = 300 * time.Millisecond // P, when brisk
	allowance   = 100 * time.Millisecond // σ
	connections = 300 * time.Millisecond // R
	floor       = lease + connections + allowance
	// soon is how late something may come that has no bound of its own.
	soon = 20 * time.Second
)

// site is where a world lies.
type site struct {
	cfg      Config
	lease    time.Duration
	redis    *testenv.RedisServer
	db       *testenv.DB
	dbURL    func(role string) string
	execMode string
	log      *slog.Logger
}

// world is one tenant with one licence on stores of its own.
type world struct {
	*Pools
	at      site
	t       testing.TB
	db      *testenv.DB
	redis   *testenv.RedisServer
	tenant  tenancy.ID
	license uuid.UUID
}

func newWorld(t *testing.T, seats int, change ...func(*site)) *world {
	t.Helper()
	t.Parallel()
	return settle(t, seats, change...)
}

// settle is newWorld for benchmarks. Changes run when the test does: what they start is not there before.
func settle(t testing.TB, seats int, change ...func(*site)) *world {
	t.Helper()
	s := site{
		cfg: Config{
			Connections: 50, Timeout: 10 * time.Second, Reservation: time.Minute, ConnectionLife: connections, ClockAllowance: allowance, Poll: time.Minute,
		},
		lease: longLease,
		log:   slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, c := range change {
		c(&s)
	}
	if s.redis == nil {
		s.redis = testenv.Redis(t)
	}
	if s.cfg.URL == "" {
		s.cfg.URL = config.Secret(s.redis.URL())
	}
	if s.db == nil {
		s.db = testenv.Postgres(t)
	}
	if s.dbURL == nil {
		s.dbURL = s.db.URL
	}
	w := &world{at: s, t: t, db: s.db, redis: s.redis, tenant: tenancy.Verified(uuid.New()), license: uuid.New()}
	w.Pools = w.pools("usher_admin")
	w.db.Exec(t, `INSERT INTO app.products (code, name) VALUES ('editor', 'Editor')`)
	w.db.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('pro', 'editor', 'Pro')`)
	w.found(w.tenant)
	w.sell(w.license, seats)
	return w
}

// brisk makes leases, reservations and polls end before long.
func brisk(s *site) {
	s.lease, s.cfg.Reservation, s.cfg.Poll = lease, reservedFor, time.Second
}

func onCluster(t testing.TB) func(*site) {
	t.Helper()
	return func(s *site) { s.redis, s.cfg.Cluster = testenv.RedisCluster(t), true }
}

func onPair(t testing.TB, pair **testenv.Pair) func(*site) {
	t.Helper()
	return func(s *site) {
		*pair = testenv.RedisPair(t)
		s.redis, s.cfg.URL = (*pair).Primary, config.Secret((*pair).URL())
	}
}

func onPrivate(t testing.TB, db **testenv.PrivateDB) func(*site) {
	t.Helper()
	return func(s *site) {
		*db = testenv.PrivatePostgres(t)
		s.db = (*db).DB
	}
}

func throughPgBouncer(t testing.TB, mode string) func(*site) {
	t.Helper()
	return func(s *site) {
		s.db = testenv.Postgres(t)
		s.dbURL, s.execMode = testenv.PgBouncer(t, s.db).URL, mode
	}
}

// found makes a tenant.
func (w *world) found(tenant tenancy.ID) {
	w.t.Helper()
	w.db.Exec(w.t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'Acme', $2)`, tenant.UUID(), "acme-"+tenant.String())
}

// sell sells the tenant a licence, and builds its pool.
func (w *world) sell(license uuid.UUID, seats int) {
	w.t.Helper()
	w.db.Exec(w.t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, ttl_seconds, seat_per,
		offline_grace_seconds, drain_seconds) VALUES ($1, $2, 'editor', 'pro', $3, $4, 'device', 86400, 86400)`,
		w.tenant.UUID(), license, seats, int(w.at.lease.Seconds()))
	w.must(w.Changed(context.Background(), w.tenant, license))
}

// alter changes columns of the licence's row as the function admin does, and tells nobody.
func (w *world) alter(set string, args ...any) {
	w.t.Helper()
	w.must(w.Pools.db.As(context.Background(), w.tenant, func(tx tenancy.Tx) error {
		_, err := tx.Exec(context.Background(), `UPDATE app.licenses SET `+set+fmt.Sprintf(` WHERE id = $%d`, len(args)+1), append(args, w.license)...)
		return err
	}))
}

// change changes columns of the licence's row, and tells the pool.
func (w *world) change(set string, args ...any) {
	w.t.Helper()
	w.alter(set, args...)
	w.must(w.Changed(w.ctx(), w.tenant, w.license))
}

func (w *world) ctx() context.Context { return w.t.Context() }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// pools are further pools on the same stores, as the function of the role has them.
func (w *world) pools(role string) *Pools {
	w.t.Helper()
	return w.poolsAt(w.at.cfg, role)
}

func (w *world) poolsAt(cfg Config, role string) *Pools {
	w.t.Helper()
	db, err := tenancy.OpenURL(context.Background(), w.at.dbURL(role), tenancy.Config{MaxConns: 8, Timeout: 10 * time.Second, ExecMode: w.at.execMode}, w.at.log)
	w.must(err)
	w.t.Cleanup(db.Close)
	p, err := New(cfg, db, w.at.log)
	w.must(err)
	w.t.Cleanup(func() {
		if err := p.Close(); err != nil {
			w.t.Errorf("close pools: %v", err)
		}
	})
	return p
}

// pool is the licence's.
func (w *world) pool() pool { return pool{tenant: w.tenant, license: w.license} }

func device(name string) Holder {
	return Holder{Key: "device:" + name, HardwareID: name, Version: "1.0.0"}
}

func (w *world) try(holder string, wait bool) Grant {
	w.t.Helper()
	g, err := w.Acquire(w.ctx(), w.tenant, w.license, device(holder), Ask{Wait: wait})
	if err != nil {
		w.t.Fatalf("acquire for %s: %v", holder, err)
	}
	return g
}

// ask asks for a seat.
func (w *world) ask(holder string) Grant { w.t.Helper(); return w.try(holder, false) }

// queue asks for a seat or a place in the queue.
func (w *world) queue(holder string) Grant { w.t.Helper(); return w.try(holder, true) }

// sit takes a seat.
func (w *world) sit(holder string) Ref {
	w.t.Helper()
	g := w.ask(holder)
	if g.Verdict != Granted {
		w.t.Fatalf("acquire for %s: %+v, want a seat", holder, g)
	}
	return g.Ref
}

// full checks that there is no seat for one more.
func (w *world) full() {
	w.t.Helper()
	if g := w.ask("one more"); g.Verdict != Full {
		w.t.Fatalf("one more holder: %+v, want full", g)
	}
}

// comesFree waits until there is a seat for the holder.
func (w *world) comesFree(holder string) Ref {
	w.t.Helper()
	var ref Ref
	testenv.Eventually(w.t, soon, func() error {
		g, err := w.Acquire(w.ctx(), w.tenant, w.license, device(holder), Ask{})
		if err == nil && g.Verdict != Granted {
			err = fmt.Errorf("%+v", g)
		}
		ref = g.Ref
		return err
	})
	return ref
}

func (w *world) beat(ref Ref) Beat {
	w.t.Helper()
	b, err := w.Heartbeat(w.ctx(), ref)
	if err != nil {
		w.t.Fatalf("heartbeat: %v", err)
	}
	return b
}

// alive checks that the session is renewed.
func (w *world) alive(ref Ref) Beat {
	w.t.Helper()
	b := w.beat(ref)
	if !b.Alive || b.Seat != ref.Seat {
		w.t.Fatalf("heartbeat: %+v, want alive on seat %d", b, ref.Seat)
	}
	return b
}

// over checks that the session is not renewed, and why.
func (w *world) over(ref Ref, status, reason string) Ending {
	w.t.Helper()
	b := w.beat(ref)
	if b.Alive || b.Ending.Status != status || b.Ending.Reason != reason {
		w.t.Fatalf("heartbeat: %+v, want %s because of %s", b, status, reason)
	}
	return b.Ending
}

func (w *world) release(ref Ref) Ending {
	w.t.Helper()
	e, err := w.Release(w.ctx(), ref)
	if err != nil {
		w.t.Fatalf("release: %v", err)
	}
	return e
}

func (w *world) sweep() Report {
	w.t.Helper()
	r, err := w.pools("usher_sweep").Sweep(w.ctx())
	if err != nil || r.Failed > 0 {
		w.t.Fatalf("sweep: %+v, %v", r, err)
	}
	return r
}

// The steps of Acquire, for those that go no further.

func (w *world) reserves(holder string) reservationOf {
	w.t.Helper()
	id, err := uuid.NewV7()
	w.must(err)
	r, err := w.reserve(w.ctx(), w.pool(), id, "device:"+holder, false)
	w.must(err)
	if r.cold || r.answer.Verdict != 0 {
		w.t.Fatalf("reserve for %s: %+v, want a seat", holder, r)
	}
	return reservationOf{r, device(holder)}
}

type reservationOf struct {
	reservation
	holder Holder
}

func (w *world) opens(r reservationOf, want string) {
	w.t.Helper()
	verdict, err := w.open(w.ctx(), w.pool(), r.reservation, r.holder)
	w.must(err)
	if verdict != want {
		w.t.Fatalf("open session of %s: %s, want %s", r.holder.Key, verdict, want)
	}
}

// expire ends the lease of a session that nobody has reaped yet.
func (w *world) expire(session uuid.UUID) {
	w.t.Helper()
	w.redis.Do(w.t, "ZADD", w.key("leases"), "XX", time.Now().UnixMilli()-1, session.String())
}

// gone waits until the pool has no lease of the session any more, on the store's clock.
func (w *world) gone(session uuid.UUID) {
	w.t.Helper()
	testenv.Eventually(w.t, soon, func() error {
		s, err := w.peek(w.ctx(), w.pool(), session)
		if err == nil && s.lives {
			err = errors.New("the lease still runs")
		}
		return err
	})
}

// openRows are the sessions that PostgreSQL has as open, by seat.
func (w *world) openRows() (ids []uuid.UUID) {
	w.t.Helper()
	w.must(w.Pools.db.As(w.ctx(), w.tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(w.ctx(), `SELECT id FROM app.open_sessions WHERE license_id = $1::uuid ORDER BY seat_no`, w.license.String())
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	}))
	return ids
}

// hasRows checks which sessions are open, in the order of seats.
func (w *world) hasRows(want ...uuid.UUID) {
	w.t.Helper()
	if got := w.openRows(); fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Fatalf("open rows %v, want %v", got, want)
	}
}

// history is how a session ended, as PostgreSQL tells it: exactly once.
func (w *world) history(session uuid.UUID) Ending {
	w.t.Helper()
	var endings []Ending
	w.must(w.Pools.db.As(w.ctx(), w.tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(w.ctx(), `SELECT status, end_reason, ended_by, ended_at FROM app.ended_sessions WHERE id = $1::uuid`, session.String())
		if err != nil {
			return err
		}
		endings, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Ending, err error) {
			return e, row.Scan(&e.Status, &e.Reason, &e.By, &e.At)
		})
		return err
	}))
	if len(endings) != 1 {
		w.t.Fatalf("session %s is in the history %d times: %+v", session, len(endings), endings)
	}
	endings[0].At = endings[0].At.UTC()
	return endings[0]
}

// ended checks how a session ended, as PostgreSQL tells it.
func (w *world) ended(session uuid.UUID, status, reason, by string) Ending {
	w.t.Helper()
	e := w.history(session)
	if e.Status != status || e.Reason != reason || e.By != by {
		w.t.Fatalf("history: %+v, want %s because of %s by %q", e, status, reason, by)
	}
	return e
}

func (w *world) epoch() int64 {
	w.t.Helper()
	return testenv.Value[int64](w.t, w.db, `SELECT seat_epoch FROM app.licenses WHERE id = $1`, w.license)
}

// key is one of the pool's keys in Redis.
func (w *world) key(name string) string {
	return "seat:{" + w.tenant.String() + "/" + w.license.String() + "}:" + name
}

// until waits for a moment.
func until(at time.Time) { time.Sleep(time.Until(at)) }

// isUnavailable checks that the error tells the caller to ask again.
func (w *world) isUnavailable(err error) {
	w.t.Helper()
	if f := fault.As(err); f == nil || f.Kind != fault.KindUnavailable {
		w.t.Fatalf("error %v, want unavailable", err)
	}
}
