package testenv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/coditect/usher/shared/platform/localenv"
)

const template = "usher_template"

// cluster is the PostgreSQL that the tests of this process share, with a migrated database to copy.
var cluster = sync.OnceValues(func() (*localenv.Postgres, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return startMigrated(ctx)
})

// startMigrated starts a server that has the database template.
func startMigrated(ctx context.Context) (*localenv.Postgres, error) {
	return startMigratedAs(ctx, localenv.PostgresOptions{})
}

func startMigratedAs(ctx context.Context, o localenv.PostgresOptions) (_ *localenv.Postgres, err error) {
	if o.Seed, err = migratedCluster(ctx); err != nil {
		return nil, err
	}
	return localenv.StartPostgres(ctx, o)
}

var databases atomic.Int64 // made so far in this process

// DB is a migrated database of one test. The code under test logs in as the roles of the migrations, through URL; the
// other methods act as the superuser, for setting up and for looking.
type DB struct {
	name   string
	server *localenv.Postgres
	owner  func() (*pgxpool.Pool, error)
}

// Postgres makes a fresh database on the cluster that the process shares. Nothing the test does in it is seen by
// another; roles, though, are the cluster's, and must be left alone. It goes with the cluster: to drop it would cost half
// of what it costs to make.
func Postgres(t testing.TB) *DB {
	t.Helper()
	ctx := setUp(t)
	need(ctx, t, localenv.PostgreSQL)
	server, err := cluster()
	must(t, err)
	name := fmt.Sprintf("test_%d", databases.Add(1))
	must(t, createDatabase(ctx, server, name, template))
	return newDB(t, name, server)
}

// EmptyPostgres makes a database without the migrations, for tests of these.
func EmptyPostgres(t testing.TB) *DB {
	t.Helper()
	ctx := setUp(t)
	need(ctx, t, localenv.PostgreSQL)
	seed, err := emptyCluster(ctx)
	must(t, err)
	server, err := localenv.StartPostgres(ctx, localenv.PostgresOptions{Seed: seed})
	must(t, err)
	closeAfter(t, server.Close)
	return newDB(t, "postgres", server)
}

// PrivatePostgres makes a migrated database on a server of its own, which the test may stop, freeze and start.
func PrivatePostgres(t testing.TB) *PrivateDB {
	t.Helper()
	ctx := setUp(t)
	need(ctx, t, localenv.PostgreSQL)
	server, err := startMigrated(ctx)
	must(t, err)
	closeAfter(t, server.Close)
	return &PrivateDB{newDB(t, template, server)}
}

// GuardedPostgres makes a migrated database on a server of its own, which is reached at GuardedURL as Cloud SQL is.
func GuardedPostgres(t testing.TB) *PrivateDB {
	t.Helper()
	ctx := setUp(t)
	need(ctx, t, localenv.PostgreSQL)
	server, err := startMigratedAs(ctx, localenv.PostgresOptions{Guard: true})
	must(t, err)
	closeAfter(t, server.Close)
	return &PrivateDB{newDB(t, template, server)}
}

func newDB(t testing.TB, name string, server *localenv.Postgres) *DB {
	t.Helper()
	db := &DB{name: name, server: server}
	db.owner = sync.OnceValues(func() (*pgxpool.Pool, error) {
		config, err := pgxpool.ParseConfig(db.URL(localenv.Superuser))
		if err != nil {
			return nil, err
		}
		config.MaxConns = 2
		pool, err := pgxpool.NewWithConfig(context.Background(), config)
		if err == nil {
			t.Cleanup(pool.Close)
		}
		return pool, err
	})
	return db
}

// createDatabase makes a database as a copy of another, in half the CPU of the usual strategy, which writes it to the log.
func createDatabase(ctx context.Context, server *localenv.Postgres, name, source string) error {
	return administer(ctx, server, "CREATE DATABASE "+name+" TEMPLATE "+source+" STRATEGY file_copy")
}

// administer runs a statement that belongs to no database.
func administer(ctx context.Context, server *localenv.Postgres, sql string) error {
	conn, err := pgx.Connect(ctx, server.URL("postgres", localenv.Superuser))
	if err != nil {
		return fmt.Errorf("connect to the tests' PostgreSQL: %w", err)
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// URL is the address of the database for a login role, such as "usher_acquire".
func (db *DB) URL(role string) string { return db.server.URL(db.name, role) }

// Socket is the path of the unix socket at which the server listens, for a Wire to it.
func (db *DB) Socket() string { return db.server.Socket() }

// Over is the address of the database for a login role at the end of a wire that leads to Socket.
func (db *DB) Over(w *Wire, role string) string {
	return "postgres://" + role + "@" + w.Addr() + "/" + db.name + "?sslmode=disable"
}

// Owner is a connection of the superuser, closed when the test is over. Row-level security does not hold for it.
func (db *DB) Owner(t testing.TB) *pgx.Conn {
	t.Helper()
	return db.Connect(t, localenv.Superuser)
}

// Connect is a connection as a login role, closed when the test is over: for tests of what the database itself permits.
func (db *DB) Connect(t testing.TB, role string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(setUp(t), db.URL(role))
	must(t, err)
	closeAfter(t, func() error { return conn.Close(context.Background()) })
	return conn
}

// Exec runs a statement as the superuser, and answers how many rows it touched.
func (db *DB) Exec(t testing.TB, sql string, args ...any) int64 {
	t.Helper()
	pool, err := db.owner()
	must(t, err)
	tag, err := pool.Exec(setUp(t), sql, args...)
	must(t, err)
	return tag.RowsAffected()
}

// Value is the one value that a query as the superuser answers; no row fails the test.
func Value[T any](t testing.TB, db *DB, sql string, args ...any) T {
	t.Helper()
	values := Values[T](t, db, sql, args...)
	if len(values) != 1 {
		t.Fatalf("%d rows instead of one: %s", len(values), sql)
	}
	return values[0]
}

// Values is the one column that a query as the superuser answers.
func Values[T any](t testing.TB, db *DB, sql string, args ...any) []T {
	t.Helper()
	pool, err := db.owner()
	must(t, err)
	rows, err := pool.Query(setUp(t), sql, args...)
	must(t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	must(t, err)
	return values
}

// PrivateDB is a database whose server the test may disturb.
type PrivateDB struct{ *DB }

// Stop ends the server at once, as a crash does: every connection is cut and new ones are refused. What was committed
// stays.
func (db *PrivateDB) Stop(t testing.TB) {
	t.Helper()
	must(t, db.server.Stop())
}

// Start runs the server again.
func (db *PrivateDB) Start(t testing.TB) {
	t.Helper()
	must(t, db.server.Start(setUp(t)))
}

// GuardedURL is the address of the database for a user over TLS, with the server's certificate verified; only a
// GuardedPostgres listens there. Whoever connects needs a password.
func (db *PrivateDB) GuardedURL(user string) string { return db.server.GuardedURL(db.name, user) }

// Pause freezes the server: connections stay open, and nothing answers.
func (db *PrivateDB) Pause(t testing.TB) {
	t.Helper()
	must(t, db.server.Pause())
}

// Resume lets a frozen server go on.
func (db *PrivateDB) Resume(t testing.TB) {
	t.Helper()
	must(t, db.server.Resume())
}

// Pooled is a database behind a PgBouncer.
type Pooled struct {
	db     *DB
	pooler *localenv.Pooler
}

// PgBouncer puts a pooler in transaction mode before the database, with three connections for each role: fewer than
// the test has callers, so that they share them.
func PgBouncer(t testing.TB, db *DB) *Pooled {
	t.Helper()
	ctx := setUp(t)
	need(ctx, t, localenv.PgBouncer)
	pooler, err := localenv.StartPgBouncer(ctx, db.server, 3)
	must(t, err)
	closeAfter(t, pooler.Close)
	return &Pooled{db, pooler}
}

// URL is the address of the database for a login role, through the pooler.
func (p *Pooled) URL(role string) string { return p.pooler.URL(p.db.name, role) }
