package tenancy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Batch collects statements that travel together.
type Batch struct{ batch pgx.Batch }

// Queue adds a statement. What it answers takes a callback for the result: QueryRow, Query or Exec.
func (b *Batch) Queue(sql string, args ...any) *pgx.QueuedQuery { return b.batch.Queue(sql, args...) }

// Batch runs the statements that fn queues as one tenant, in one transaction and one round trip, and commits them: all
// of them or, when a statement fails, none. A callback sees its result after the fact: its error comes back from Batch,
// and stops further callbacks, but undoes nothing. When the connection was lost before the answer came,
// errors.Is(err, ErrInDoubt).
func (db *DB) Batch(ctx context.Context, id ID, fn func(b *Batch)) error {
	return faultOf(db.deliver(ctx, func(b *Batch) {
		b.batch.Queue(setTenant, id.String())
		fn(b)
	}))
}

// deliver sends a batch that sets its tenants itself.
func (db *DB) deliver(ctx context.Context, fn func(b *Batch)) (err error) {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	ctx, measured := measure(ctx)
	defer func() { measured(err) }()
	err = db.send(ctx, fn)
	if isBroken(err) && !errors.Is(err, ErrInDoubt) && ctx.Err() == nil {
		// Nothing was sent: the connection had died while it lay in the pool (the database was restarted).
		db.pool.Reset()
		err = db.send(ctx, fn)
	}
	return err
}

func (db *DB) send(ctx context.Context, fn func(b *Batch)) error {
	b := &Batch{}
	fn(b)
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer conn.Release()
	// No BEGIN and no COMMIT: statements sent together are one transaction, which ends with the last of them.
	return batchError(conn.SendBatch(ctx, &b.batch).Close())
}

// batchError marks an error after which nobody can know whether the batch was committed.
func batchError(err error) error {
	if _, early := errors.AsType[pgx.ErrPreprocessingBatch](err); early || pgconn.SafeToRetry(err) || !isBroken(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrInDoubt, err)
}

// commitError marks an error after which nobody can know whether the transaction was committed.
func commitError(err error) error {
	switch {
	case err == nil:
		return nil
	case pgconn.SafeToRetry(err) || !isBroken(err):
		return fmt.Errorf("commit: %w", err)
	default:
		return fmt.Errorf("commit: %w: %w", ErrInDoubt, err)
	}
}
