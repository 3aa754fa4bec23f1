package tenancy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/telemetry"
)

// Config says how a function reaches PostgreSQL. The zero value of each field but URL means its default.
type Config struct {
	// URL is where the database is and who logs in. It may hold a password.
	URL config.Secret `env:"DATABASE_URL"`
	// ExecMode is pgx's way of sending statements: cache_statement (the fastest; needs connections of our own),
	// cache_describe, exec or simple_protocol (these three work through a transaction pooler such as PgBouncer).
	ExecMode string `env:"DATABASE_EXEC_MODE" envDefault:"cache_statement"`
	// MaxConns is how many connections one instance may hold. They are opened when first needed.
	MaxConns int32 `env:"DATABASE_MAX_CONNS" envDefault:"4"`
	// Timeout bounds one call of As, AsReadOnly, Batch or Across, from waiting for a connection to the commit.
	Timeout time.Duration `env:"DATABASE_TIMEOUT" envDefault:"3s"`
	// ConnectTimeout bounds the making of one connection.
	ConnectTimeout time.Duration `env:"DATABASE_CONNECT_TIMEOUT" envDefault:"2s"`
	// IAM says that the login in the URL is the service account that the process runs as, at Cloud SQL: its password is an
	// OAuth token that the metadata server hands out. The URL then names the role to act as (role=usher_acquire), of which the
	// login is a member, and a way of TLS by which the server is verified.
	IAM bool `env:"DATABASE_IAM"`
	// Application is the name that the database shows for our connections: the function's.
	Application string `env:"FUNCTION_TARGET"`
}

// DB is one function's way to PostgreSQL: a small pool of connections, opened when first needed. It is safe for
// concurrent use.
type DB struct {
	pool    *pgxpool.Pool
	log     *slog.Logger
	timeout time.Duration
	commits commits
	unwatch func() // what measures the pool
}

var (
	transactions = telemetry.NewHistogram("db.client.operation.duration",
		"Transactions, and how long each took, from waiting for a connection to the commit.", "db.system.name", "usher.outcome")
	connections = telemetry.NewGauge("db.client.connection.count", "{connection}",
		"Connections of an instance, idle or used at the moment of the push.", "db.client.connection.pool.name", "db.client.connection.state")
	mostConnections = telemetry.NewGauge("db.client.connection.max", "{connection}",
		"The most connections that an instance opens.", "db.client.connection.pool.name")
)

// watch measures the pool of a function's role, until it is told to stop.
func watch(role string, pool *pgxpool.Pool) (stop func()) {
	stop1 := connections.From(func(put func(float64, ...string)) {
		s := pool.Stat()
		put(float64(s.AcquiredConns()+s.ConstructingConns()), role, "used")
		put(float64(s.IdleConns()), role, "idle")
	})
	stop2 := mostConnections.From(func(put func(float64, ...string)) { put(float64(pool.Stat().MaxConns()), role) })
	return func() { stop1(); stop2() }
}

var execModes = map[string]pgx.QueryExecMode{
	"cache_statement": pgx.QueryExecModeCacheStatement,
	"cache_describe":  pgx.QueryExecModeCacheDescribe,
	"exec":            pgx.QueryExecModeExec,
	"simple_protocol": pgx.QueryExecModeSimpleProtocol,
}

// Open reads the Config from the environment and prepares a DB. It does not connect: a database that is out at the
// start is found out by Ping. The caller closes it.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*DB, error) {
	return OpenAt(ctx, "DATABASE_URL", getenv, log)
}

// OpenAt is Open for a function with a second database or a second role: the URL is another variable's, the rest of the
// Config is shared.
func OpenAt(ctx context.Context, variable string, getenv func(string) string, log *slog.Logger) (*DB, error) {
	var c Config
	err := config.Load(&c, getenv)
	url := getenv(variable)
	if url == "" {
		err = errors.Join(err, &config.Fault{Variable: variable, Problem: "is required and not set"})
	}
	if err != nil {
		return nil, err
	}
	return open(ctx, variable, url, c, log)
}

// OpenURL prepares a DB at the URL, which stands in for the Config's.
func OpenURL(ctx context.Context, url string, c Config, log *slog.Logger) (*DB, error) {
	return open(ctx, "DATABASE_URL", url, c, log)
}

// open prepares a DB. Its faults say of the URL that it is the variable's.
func open(ctx context.Context, variable, url string, c Config, log *slog.Logger) (*DB, error) {
	var faults []error
	pool, err := pgxpool.ParseConfig(url)
	if err != nil { // the parser's own message quotes the URL, password and all
		faults = append(faults, &config.Fault{Variable: variable, Problem: "is no PostgreSQL connection string"})
	}
	mode, ok := execModes[cmp.Or(c.ExecMode, "cache_statement")]
	if !ok {
		faults = append(faults, &config.Fault{Variable: "DATABASE_EXEC_MODE", Problem: "is none of cache_statement, cache_describe, exec, simple_protocol"})
	}
	for _, at := range []struct {
		variable string
		negative bool
	}{
		{"DATABASE_MAX_CONNS", c.MaxConns < 0},
		{"DATABASE_TIMEOUT", c.Timeout < 0},
		{"DATABASE_CONNECT_TIMEOUT", c.ConnectTimeout < 0},
	} {
		if at.negative {
			faults = append(faults, &config.Fault{Variable: at.variable, Problem: "must not be negative"})
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	pool.ConnConfig.ConnectTimeout = cmp.Or(c.ConnectTimeout, 2*time.Second)
	if c.IAM {
		if err := byIAM(variable, pool); err != nil {
			return nil, err
		}
	}
	pool.MaxConns = cmp.Or(c.MaxConns, 4)
	pool.MinConns = 0
	pool.MaxConnIdleTime = 5 * time.Minute
	pool.ConnConfig.DefaultQueryExecMode = mode
	if c.Application != "" {
		pool.ConnConfig.RuntimeParams["application_name"] = c.Application
	}
	p, err := pgxpool.NewWithConfig(ctx, pool)
	if err != nil {
		return nil, fmt.Errorf("prepare the pool of PostgreSQL connections: %w", err)
	}
	role := cmp.Or(pool.ConnConfig.RuntimeParams["role"], pool.ConnConfig.User)
	return &DB{pool: p, log: log, timeout: cmp.Or(c.Timeout, 3*time.Second), unwatch: watch(role, p)}, nil
}

// Close waits for the transactions that run, and closes the connections.
func (db *DB) Close() {
	db.unwatch()
	db.pool.Close()
}

// Now is the time by the clock of PostgreSQL, which all instances share.
func (db *DB) Now(ctx context.Context) (now time.Time, err error) {
	err = db.Batch(ctx, ID{}, func(b *Batch) {
		b.Queue(`SELECT now()`).QueryRow(func(row pgx.Row) error { return row.Scan(&now) })
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("read the store's clock: %w", err)
	}
	return now, nil
}

// Ping reports whether the database answers now.
func (db *DB) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	if err := db.pool.Ping(ctx); err != nil {
		return faultOf(fmt.Errorf("ping PostgreSQL: %w", err))
	}
	return nil
}
