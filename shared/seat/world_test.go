package seat

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// brisk are the protocol's times, small enough to watch.
var brisk = Config{
	Connections: 50, Reservation: 300 * time.Millisecond, ConnectionLife: 300 * time.Millisecond,
	ClockAllowance: 100 * time.Millisecond, Poll: time.Second,
}

// world is one tenant with one licence on stores of its own.
type world struct {
	*Pools
	t       *testing.T
	db      *testenv.DB
	redis   *testenv.RedisServer
	tenant  tenancy.ID
	license uuid.UUID
}

func newWorld(t *testing.T, seats int, change ...func(*Config)) *world {
	t.Helper()
	t.Parallel()
	w := &world{t: t, db: testenv.Postgres(t), redis: testenv.Redis(t)}
	cfg := brisk
	cfg.URL = config.Secret(w.redis.URL())
	for _, c := range change {
		c(&cfg)
	}
	w.Pools = w.pools(cfg, "usher_admin")
	w.tenant, w.license = tenancy.Verified(uuid.New()), uuid.New()
	w.db.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'Acme', $2)`, w.tenant.UUID(), "acme-"+w.tenant.String())
	w.db.Exec(t, `INSERT INTO app.products (code, name) VALUES ('editor', 'Editor')`)
	w.db.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('pro', 'editor', 'Pro')`)
	w.sell(w.license, seats)
	if err := w.Changed(t.Context(), w.tenant, w.license); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) sell(license uuid.UUID, seats int) {
	w.t.Helper()
	w.db.Exec(w.t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, ttl_seconds, seat_per,
		offline_grace_seconds, drain_seconds) VALUES ($1, $2, 'editor', 'pro', $3, 1, 'device', 86400, 86400)`,
		w.tenant.UUID(), license, seats)
}

// pools are further pools on the same stores, as another function has them.
func (w *world) pools(cfg Config, role string) *Pools {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := tenancy.OpenURL(w.t.Context(), w.db.URL(role), tenancy.Config{MaxConns: 8}, log)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(db.Close)
	p, err := New(cfg, db, log)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = p.Close() })
	return p
}

func device(name string) Holder {
	return Holder{Key: "device:" + name, HardwareID: name, Version: "1.0.0"}
}

func (w *world) ask(holder string) Grant {
	w.t.Helper()
	g, err := w.Acquire(w.t.Context(), w.tenant, w.license, device(holder), Ask{})
	if err != nil {
		w.t.Fatalf("acquire for %s: %v", holder, err)
	}
	return g
}

func (w *world) sit(holder string) Ref {
	w.t.Helper()
	g := w.ask(holder)
	if g.Verdict != Granted && g.Verdict != Existing {
		w.t.Fatalf("acquire for %s: %+v, want a seat", holder, g)
	}
	return g.Ref
}

func (w *world) beat(ref Ref) Beat {
	w.t.Helper()
	b, err := w.Heartbeat(w.t.Context(), ref)
	if err != nil {
		w.t.Fatalf("heartbeat: %v", err)
	}
	return b
}

func (w *world) release(ref Ref) Ending {
	w.t.Helper()
	e, err := w.Release(w.t.Context(), ref)
	if err != nil {
		w.t.Fatalf("release: %v", err)
	}
	return e
}

func (w *world) sweep() Report {
	w.t.Helper()
	p := w.pools(w.cfg, "usher_sweep")
	r, err := p.Sweep(context.Background())
	if err != nil {
		w.t.Fatalf("sweep: %v", err)
	}
	return r
}
