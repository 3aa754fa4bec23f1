package tenancy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/coditect/usher/shared/platform/telemetry"
)

// setTenant makes the transaction one tenant's. The setting is local: it ends with the transaction, so that nothing of
// it is left on a pooled connection.
const setTenant = `select set_config('app.current_tenant_id', $1, true)`

// Tx is a transaction on behalf of one tenant. It is good only inside the function that was given it. Its statements
// end at the transaction's deadline even if their context has a later one.
type Tx struct {
	tx       pgx.Tx
	deadline time.Time
}

// As runs fn in a transaction that sees and writes the rows of one tenant alone, and commits it when fn returns nil;
// otherwise, and when fn panics, it is rolled back. Errors of fn come back as they are, except that one which means
// "the database cannot answer" (IsUnavailable) comes back as fault.Unavailable. When the connection was lost during the
// commit, errors.Is(err, ErrInDoubt).
func (db *DB) As(ctx context.Context, id ID, fn func(tx Tx) error) error {
	return db.transact(ctx, id.String(), pgx.TxOptions{}, fn)
}

// AsReadOnly is As, except that the database refuses every write.
func (db *DB) AsReadOnly(ctx context.Context, id ID, fn func(tx Tx) error) error {
	return db.transact(ctx, id.String(), pgx.TxOptions{AccessMode: pgx.ReadOnly}, fn)
}

// Across is As without a tenant: no tenant's rows are seen, unless the role has been given a policy or a SECURITY
// DEFINER function for exactly that. The reason is logged, once a call; it must not be empty.
func (db *DB) Across(ctx context.Context, reason string, fn func(tx Tx) error) error {
	if reason == "" {
		return errors.New("work across tenants needs a reason")
	}
	db.log.LogAttrs(ctx, slog.LevelInfo, "work across tenants", slog.String("reason", reason))
	return db.transact(ctx, "", pgx.TxOptions{}, fn)
}

// transact runs fn in a transaction with the setting that policies read.
func (db *DB) transact(ctx context.Context, tenant string, options pgx.TxOptions, fn func(tx Tx) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	ctx, measured := measure(ctx)
	defer func() { measured(err) }()
	tx, err := db.begin(ctx, tenant, options)
	if err != nil {
		return faultOf(fmt.Errorf("begin a transaction: %w", err))
	}
	done := false
	defer func() {
		if !done {
			rollback(ctx, tx)
		}
	}()
	deadline, _ := ctx.Deadline()
	if err := fn(Tx{tx, deadline}); err != nil {
		return faultOf(err)
	}
	done = true // Commit gives the connection back, whatever comes of it
	return faultOf(commitError(tx.Commit(ctx)))
}

// measure begins to measure a transaction. The caller says how it ended: it failed when the database could not answer, and not
// when whoever asked decided otherwise.
func measure(ctx context.Context) (_ context.Context, measured func(error)) {
	begun := time.Now()
	ctx, end := telemetry.Span(ctx, "PostgreSQL transaction")
	return ctx, func(err error) {
		outcome := "ok"
		if IsUnavailable(err) {
			outcome = "failed"
		}
		end(err)
		transactions.Record(ctx, time.Since(begun).Seconds(), "postgresql", outcome)
	}
}

// begin starts a transaction and sets its tenant, in one round trip. A connection that died while it lay in the pool
// (the database was restarted) is found out here, before anything has been done: then the pool is emptied and the
// beginning made once more.
func (db *DB) begin(ctx context.Context, tenant string, options pgx.TxOptions) (pgx.Tx, error) {
	tx, err := db.beginOnce(ctx, tenant, options)
	if err != nil && isBroken(err) && ctx.Err() == nil {
		db.pool.Reset()
		tx, err = db.beginOnce(ctx, tenant, options)
	}
	return tx, err
}

func (db *DB) beginOnce(ctx context.Context, tenant string, options pgx.TxOptions) (pgx.Tx, error) {
	b := &pgx.Batch{}
	b.BeginTx(options)
	b.Queue(setTenant, tenant)
	results := db.pool.SendBatch(ctx, b)
	tx := results.Tx()
	if err := results.Close(); err != nil {
		rollback(ctx, tx)
		return nil, err
	}
	return tx, nil
}

// rollback ends the transaction and gives its connection back, also when ctx is over. What goes wrong here closes the
// connection, and the database rolls back by itself.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = tx.Rollback(ctx) // see above
}

// Query runs a statement and answers its rows, which pgx.CollectRows and its kin read. An error shows when they are
// read.
func (tx Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, cancel := context.WithDeadline(ctx, tx.deadline)
	r, err := tx.tx.Query(ctx, sql, args...)
	if err != nil {
		cancel() // whoever gets an error closes no rows
	}
	return rows{r, cancel}, err
}

// QueryRow runs a statement and answers its first row, or pgx.ErrNoRows when that is scanned.
func (tx Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	ctx, cancel := context.WithDeadline(ctx, tx.deadline)
	return row{tx.tx.QueryRow(ctx, sql, args...), cancel}
}

// Exec runs a statement and answers how many rows it touched.
func (tx Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel := context.WithDeadline(ctx, tx.deadline)
	defer cancel()
	return tx.tx.Exec(ctx, sql, args...)
}

// Batch runs the statements that fn queues, in one round trip. An error, of a statement or of a callback, is for the
// caller to return, and so to roll everything back.
func (tx Tx) Batch(ctx context.Context, fn func(b *Batch)) error {
	ctx, cancel := context.WithDeadline(ctx, tx.deadline)
	defer cancel()
	b := &Batch{}
	fn(b)
	return tx.tx.SendBatch(ctx, &b.batch).Close()
}

// rows are a query's rows without the way from them to the connection.
type rows struct {
	pgx.Rows
	cancel context.CancelFunc
}

func (r rows) Conn() *pgx.Conn { return nil }

func (r rows) Close() {
	r.Rows.Close()
	r.cancel()
}

// row is a query's first row; reading it ends its context.
type row struct {
	pgx.Row
	cancel context.CancelFunc
}

func (r row) Scan(dest ...any) error {
	defer r.cancel()
	return r.Row.Scan(dest...)
}
