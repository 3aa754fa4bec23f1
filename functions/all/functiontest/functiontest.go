// Package functiontest gives the functions' tests a small deployment: one tenant with a catalogue on real stores, the
// functions opened on them as their own login roles, and what an operator would do to its licences. Every exchange is
// held to the OpenAPI document that the function's routes make.
//
// It is for tests only, and beside functions/all the only package that may know several functions.
package functiontest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// The times of the seat protocol in tests: long enough for a slow machine, short enough to wait for.
const (
	Reservation    = 4 * time.Second
	ConnectionLife = 500 * time.Millisecond
	ClockAllowance = 200 * time.Millisecond
	Poll           = time.Second
)

// Floor is how long after a loss of Redis every lease of that length that was believed in has ended.
func Floor(lease time.Duration) time.Duration { return lease + ConnectionLife + ClockAllowance }

// The catalogue.
const (
	Product = "editor"
	Plan    = "pro"
)

// Issuer is the "iss" of the deployment's receipts.
const Issuer = "https://usher.test"

// The keys in Cloud KMS and the secret in Secret Manager that are the deployment's.
const (
	RootKey     = "projects/usher/locations/test/keyRings/usher/cryptoKeys/roots"
	WrappingKey = "projects/usher/locations/test/keyRings/usher/cryptoKeys/receipt-keys"
	TokenSecret = "projects/usher/secrets/seat-token-keys"
)

// SchedulerEmail is the scheduler's service account, SchedulerAudience the sweep's URL.
const (
	SchedulerEmail    = "scheduler@usher.test"
	SchedulerAudience = "https://sweep.usher.test"
)

// PeopleAudience is whom ID tokens are for. They are of the same issuer as the scheduler's.
const PeopleAudience = "usher-test"

// Options change a World from the usual one.
type Options struct {
	// PrivatePostgres gives the world a PostgreSQL of its own, as World.Postgres, which the test may stop.
	PrivatePostgres bool
	// Guarded makes it one that is reached over TCP as Cloud SQL is, too.
	Guarded bool
	// Scheduler stands in for the issuer of the scheduler's tokens; nil starts one.
	Scheduler *localenv.Issuer
	// Env is added to the functions' environment.
	Env map[string]string
	// Pooled puts PgBouncer, in transaction mode, between the functions and PostgreSQL.
	Pooled bool
	// Firestore holds the deployment's journal; nil, and the journal is off.
	Firestore *testenv.FirestoreServer
	// Binary is the test binary whose functions run as processes; empty = this one. Its TestMain is Main, too.
	Binary string
}

// World is a deployment in small. Its methods fail the test by themselves.
type World struct {
	DB        *testenv.DB
	Postgres  *testenv.PrivateDB // nil unless asked for
	Redis     *testenv.RedisServer
	Log       *testenv.LogCapture
	Scheduler *localenv.Issuer
	// Cloud stands in for Cloud KMS and Secret Manager.
	Cloud *localenv.Cloud
	// Tenant is the customer that every licence is sold to.
	Tenant tenancy.ID

	env      map[string]string
	url      func(role string) string // of the database, as functions reach it
	binary   string
	clock    func() time.Time // of functions
	later    time.Duration    // how far the store's clock, as far as signing keys go by it, is ahead
	secrets  []string
	admin    *tenancy.DB // as function admin logs in
	operator *tenancy.DB
	seats    *seat.Pools // as function admin has them
	registry *license.Registry
}

// New makes a world: stores of its own, a tenant and a catalogue.
func New(t testing.TB, options ...Options) *World {
	t.Helper()
	var o Options
	if len(options) > 0 {
		o = options[0]
	}
	w := &World{Redis: testenv.Redis(t), Log: testenv.Logs(t), Cloud: testenv.Cloud(t), Scheduler: o.Scheduler, binary: o.Binary, clock: time.Now}
	must(t, w.Cloud.MakeSigningKey(RootKey))
	must(t, w.Cloud.MakeEncryptionKey(WrappingKey))
	must(t, w.Cloud.MakeSecret(TokenSecret))
	switch {
	case o.Guarded:
		w.Postgres = testenv.GuardedPostgres(t)
		w.DB = w.Postgres.DB
	case o.PrivatePostgres:
		w.Postgres = testenv.PrivatePostgres(t)
		w.DB = w.Postgres.DB
	default:
		w.DB = testenv.Postgres(t)
	}
	w.url = w.DB.URL
	if o.Pooled {
		w.url = testenv.PgBouncer(t, w.DB).URL
	}
	if w.Scheduler == nil {
		w.Scheduler = testenv.Issuer(t)
	}
	w.env = w.environment()
	if o.Firestore != nil {
		w.env["JOURNAL_PROJECT"], w.env["JOURNAL_EMULATOR"], w.env["JOURNAL_TIMEOUT"] = o.Firestore.Project(), o.Firestore.Addr(), "30s"
	}
	maps.Copy(w.env, o.Env)
	w.MakeKeys(t)

	w.admin, w.operator = w.database(t, "admin"), w.database(t, "operator")
	var err error
	w.seats, err = seat.Open(w.Getenv("admin"), w.admin, w.Log.Logger)
	must(t, err)
	t.Cleanup(func() { _ = w.seats.Close() })
	w.registry, err = license.OpenRegistry(w.Getenv("admin"))
	must(t, err)
	w.found(t, "Acme")
	must(t, w.operator.As(t.Context(), w.Tenant, func(tx tenancy.Tx) error {
		if _, err := license.PutProduct(t.Context(), tx, license.Product{Code: Product, Name: "Editor"}); err != nil {
			return err
		}
		_, err := license.PutPlan(t.Context(), tx, license.Plan{
			Code: Plan, Product: Product, Name: "Pro", MaxSeats: 3, TTL: time.Minute, SeatPer: license.PerDevice,
			OfflineGrace: 72 * time.Hour, Drain: time.Hour,
		}, time.Second)
		return err
	}))
	return w
}

// found makes the tenant.
func (w *World) found(t testing.TB, name string) {
	t.Helper()
	tenant, err := identity.NewTenants(w.operator).Create(t.Context(), uuid.Nil, name, "")
	must(t, err)
	w.Tenant = tenancy.Verified(tenant.ID)
}

// Beside is the same world, whose licences are sold to another, new tenant.
func (w *World) Beside(t testing.TB, name string) *World {
	t.Helper()
	other := *w
	other.found(t, name)
	return &other
}

// Moved is the same world, whose functions reach the database at another place: one that was restored.
func (w *World) Moved(url func(role string) string) *World {
	other := *w
	other.url = url
	return &other
}

// environment is what every function reads; DATABASE_URL is each function's own.
func (w *World) environment() map[string]string {
	pepper, mac := random(), random()
	w.secrets = append(w.secrets, pepper, mac)
	return map[string]string{
		"REDIS_URL":               w.Redis.Database(0),
		"BUDGET_REDIS_URL":        w.Redis.Database(1),
		"BUDGET_TIMEOUT":          "2s", // a slow machine must not lift the budgets
		"BUDGET_HOLDER_BURST":     "100000",
		"BUDGET_LICENSE_BASE":     "100000",
		"LICENSE_KEY_PEPPERS":     "1:" + pepper,
		"LICENSE_MIN_TTL_SECONDS": "1",
		"SEAT_TOKEN_KEYS":         "k1:" + mac,
		"API_KEY_PEPPERS":         "1:" + pepper,
		"CLOUD_EMULATOR":          w.Cloud.Addr(),
		"KMS_ROOT_KEY":            RootKey,
		"KMS_WRAPPING_KEY":        WrappingKey,
		"KMS_TIMEOUT":             "10s", // a slow machine must not look like one without keys
		"SEAT_TOKEN_SECRET":       TokenSecret,
		"RECEIPT_ISSUER":          Issuer,
		"SCHEDULER_ISSUER":        w.Scheduler.URL(),
		"SCHEDULER_AUDIENCE":      SchedulerAudience,
		"SCHEDULER_EMAIL":         SchedulerEmail,
		"IDENTITY_ISSUER":         w.Scheduler.URL(),
		"IDENTITY_AUDIENCE":       PeopleAudience,
		"SEAT_RESERVATION":        Reservation.String(),
		"SEAT_CONNECTION_LIFE":    ConnectionLife.String(),
		"SEAT_CLOCK_ALLOWANCE":    ClockAllowance.String(),
		"SEAT_POLL":               Poll.String(),
	}
}

func random() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.StdEncoding.EncodeToString(b)
}

// Getenv is the environment of a function.
func (w *World) Getenv(function string) func(string) string {
	return func(name string) string {
		if name == "DATABASE_URL" {
			return w.url("usher_" + function)
		}
		return w.env[name]
	}
}

// Set changes a variable for the functions that are opened from now on.
func (w *World) Set(variable, value string) { w.env[variable] = value }

// Hides fails the test when a secret of the deployment, or one of these, stands in the log.
func (w *World) Hides(t testing.TB, secrets ...string) {
	t.Helper()
	w.Log.Hides(t, append(secrets, w.secrets...)...)
}

// MakeKeys makes the signing keys that the world's clock calls for, as function rotate does.
func (w *World) MakeKeys(t testing.TB) {
	t.Helper()
	_, err := w.Rotation(t).Run(t.Context())
	must(t, err)
}

// OperatorKey makes an API key of the operator.
func (w *World) OperatorKey(t testing.TB, scopes ...identity.Scope) string {
	t.Helper()
	verifier, err := identity.Open(w.Getenv("operator"), w.operator)
	must(t, err)
	operator, err := identity.NewTenants(w.operator).EnsureOperator(t.Context(), "Operator")
	must(t, err)
	var made string
	must(t, w.operator.As(t.Context(), operator, func(tx tenancy.Tx) error {
		_, key, err := verifier.CreateAPIKey(t.Context(), tx, operator, "test", scopes, nil, "test")
		made = key.Reveal()
		return err
	}))
	return made
}

// At is the same world, whose functions have another clock.
func (w *World) At(clock func() time.Time) *World {
	other := *w
	other.clock = clock
	return &other
}

// Later is the same world after that time, as far as signing keys go by it.
func (w *World) Later(d time.Duration) *World {
	other := w.At(func() time.Time { return w.clock().Add(d) })
	other.later = w.later + d
	return other
}

// store is the clock of the store, for signing keys.
func (w *World) store(db *tenancy.DB) signing.Clock {
	return func(ctx context.Context) (time.Time, error) {
		now, err := db.Now(ctx)
		return now.Add(w.later), err
	}
}

// License is one that was sold, with its key.
type License struct {
	ID  uuid.UUID
	Key string
}

// Sell makes a licence of the plan's terms, which change alters, and builds its pool.
func (w *World) Sell(t testing.TB, change func(*license.Terms)) License {
	t.Helper()
	var sold License
	must(t, w.admin.As(t.Context(), w.Tenant, func(tx tenancy.Tx) error {
		plan, err := license.ReadPlan(t.Context(), tx, Plan)
		if err != nil {
			return err
		}
		terms := plan.Terms()
		if change != nil {
			change(&terms)
		}
		made, key, err := w.registry.Create(t.Context(), tx, w.Tenant, terms)
		sold = License{ID: made.ID, Key: key.Reveal()}
		return err
	}))
	w.tell(t, sold)
	return sold
}

// Seats sells a licence with so many seats and so long leases.
func (w *World) Seats(t testing.TB, seats int, lease time.Duration) License {
	t.Helper()
	return w.Sell(t, func(terms *license.Terms) { terms.MaxSeats, terms.TTL = seats, lease })
}

// tell tells the licence's pool of a change, as function admin does after its commit.
func (w *World) tell(t testing.TB, l License) {
	t.Helper()
	must(t, w.seats.Changed(t.Context(), w.Tenant, l.ID))
}

// act changes a licence in a transaction of function admin, and tells its pool.
func (w *World) act(t testing.TB, l License, what func(ctx context.Context, tx tenancy.Tx) error) {
	t.Helper()
	must(t, w.admin.As(t.Context(), w.Tenant, func(tx tenancy.Tx) error { return what(t.Context(), tx) }))
	w.tell(t, l)
}

// Change alters a licence's terms.
func (w *World) Change(t testing.TB, l License, change func(*license.Terms)) {
	t.Helper()
	w.act(t, l, func(ctx context.Context, tx tenancy.Tx) error {
		_, err := w.registry.Change(ctx, tx, w.Tenant, l.ID, func(terms *license.Terms) error { change(terms); return nil })
		return err
	})
}

// Suspend suspends a licence.
func (w *World) Suspend(t testing.TB, l License) {
	t.Helper()
	w.act(t, l, func(ctx context.Context, tx tenancy.Tx) error {
		_, err := license.Suspend(ctx, tx, w.Tenant, l.ID, "unpaid", "operator:test")
		return err
	})
}

// Reinstate reinstates a licence.
func (w *World) Reinstate(t testing.TB, l License) {
	t.Helper()
	w.act(t, l, func(ctx context.Context, tx tenancy.Tx) error {
		_, err := license.Reinstate(ctx, tx, w.Tenant, l.ID, "operator:test")
		return err
	})
}

// Revoke revokes a licence.
func (w *World) Revoke(t testing.TB, l License) {
	t.Helper()
	w.act(t, l, func(ctx context.Context, tx tenancy.Tx) error {
		_, err := license.Revoke(ctx, tx, w.Tenant, l.ID, "fraud", "operator:test")
		return err
	})
}

// RotateKey gives a licence another key at once, and answers the licence with that.
func (w *World) RotateKey(t testing.TB, l License) License {
	t.Helper()
	w.act(t, l, func(ctx context.Context, tx tenancy.Tx) error {
		_, key, err := w.registry.RotateKey(ctx, tx, w.Tenant, l.ID, 0)
		l.Key = key.Reveal()
		return err
	})
	return l
}

// Evict ends a session, as an administrator does.
func (w *World) Evict(t testing.TB, session uuid.UUID, reason string) {
	t.Helper()
	must(t, w.seats.Evict(t.Context(), w.Tenant, session, reason, "user:admin"))
}

// EvictAny ends some open session of a licence, as an administrator does, and says which it tried; an error when it may not
// have been done.
func (w *World) EvictAny(ctx context.Context, l License, reason string) (tried uuid.UUID, err error) {
	err = w.admin.As(ctx, w.Tenant, func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT id FROM app.open_sessions WHERE license_id = $1::uuid AND evicted_at IS NULL ORDER BY random() LIMIT 1`,
			l.ID.String()).Scan(&tried)
	})
	if err != nil {
		return uuid.Nil, err
	}
	return tried, w.seats.Evict(ctx, w.Tenant, tried, reason, "user:admin")
}

// SetTenant makes the tenant active or suspended, and tells the pools of these licences.
func (w *World) SetTenant(t testing.TB, status string, licenses ...License) {
	t.Helper()
	_, err := identity.NewTenants(w.operator).Change(t.Context(), w.Tenant.UUID(),
		identity.TenantChange{Status: &status, Reason: "unpaid", By: "operator:test"})
	must(t, err)
	for _, l := range licenses {
		w.tell(t, l)
	}
}

// database is the world's database as a function logs in.
func (w *World) database(t testing.TB, function string) *tenancy.DB {
	t.Helper()
	db, err := tenancy.Open(context.Background(), w.Getenv(function), w.Log.Logger)
	must(t, err)
	t.Cleanup(db.Close)
	return db
}

// OpenRows is how many sessions of a licence have an open row.
func (w *World) OpenRows(t testing.TB, l License) int64 {
	t.Helper()
	return testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.open_sessions WHERE license_id = $1`, l.ID)
}

// Device is the hardware id of the nth device.
func Device(n int) string { return "device-" + strconv.Itoa(n) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
