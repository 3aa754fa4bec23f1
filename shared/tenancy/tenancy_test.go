package tenancy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

var execModes = []string{"cache_statement", "cache_describe", "exec", "simple_protocol"}

// note is a table of the tests' own: the smallest thing with a wall through it.
const note = `
create table app.notes (tenant_id uuid not null, id uuid not null, body text not null unique, primary key (tenant_id, id));
alter table app.notes enable row level security;
alter table app.notes force row level security;
create policy tenant on app.notes using (tenant_id = (select app.tenant())) with check (tenant_id = (select app.tenant()));
grant select, insert, update, delete on app.notes to usher_acquire;`

type bench struct {
	db   *tenancy.DB
	log  *testenv.LogCapture
	a, b tenancy.ID
}

func open(t *testing.T, url string, c tenancy.Config) bench {
	t.Helper()
	log := testenv.Logs(t)
	db, err := tenancy.OpenURL(t.Context(), url, c, log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return bench{db, log, tenancy.Verified(uuid.Must(uuid.NewV7())), tenancy.Verified(uuid.Must(uuid.NewV7()))}
}

func newBench(t *testing.T) bench {
	t.Helper()
	store := testenv.Postgres(t)
	store.Exec(t, note)
	return open(t, store.URL("usher_acquire"), tenancy.Config{})
}

func write(ctx context.Context, id tenancy.ID, body string) func(tenancy.Tx) error {
	return func(tx tenancy.Tx) error {
		_, err := tx.Exec(ctx, `insert into app.notes (tenant_id, id, body) values ($1, $2, $3)`, id.UUID(), uuid.Must(uuid.NewV7()), body)
		return err
	}
}

func (b bench) read(t *testing.T, id tenancy.ID) []string {
	t.Helper()
	var bodies []string
	err := b.db.AsReadOnly(t.Context(), id, func(tx tenancy.Tx) error {
		rows, err := tx.Query(t.Context(), `select body from app.notes order by body`)
		if err != nil {
			return err
		}
		bodies, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bodies
}

func TestATransactionSeesOneTenantInEveryExecModeAndThroughAPooler(t *testing.T) {
	t.Parallel()
	store := testenv.Postgres(t)
	store.Exec(t, note)
	pooled := testenv.PgBouncer(t, store)
	for _, mode := range execModes {
		for where, url := range map[string]string{"directly": store.URL("usher_acquire"), "pooled": pooled.URL("usher_acquire")} {
			if mode == "cache_statement" && where == "pooled" {
				continue // prepared statements do not survive a change of connection: why the mode is configuration
			}
			t.Run(mode+" "+where, func(t *testing.T) {
				t.Parallel()
				b := open(t, url, tenancy.Config{ExecMode: mode, MaxConns: 8})
				var all sync.WaitGroup
				for n := range 8 {
					id := b.a
					if n%2 == 1 {
						id = b.b
					}
					all.Go(func() {
						for range 20 {
							if err := onlyOwn(t.Context(), b.db, id); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				if got := b.read(t, tenancy.ID{}); len(got) != 0 {
					t.Errorf("nobody sees %d notes", len(got))
				}
			})
		}
	}
}

// onlyOwn writes a note and reads all it sees, through As and through Batch.
func onlyOwn(ctx context.Context, db *tenancy.DB, id tenancy.ID) error {
	check := func(seen string) error {
		if seen != id.String() {
			return fmt.Errorf("as %s, seen: %s", id, seen)
		}
		return nil
	}
	const seen = `select string_agg(distinct tenant_id::text, ' ') from app.notes`
	err := db.As(ctx, id, func(tx tenancy.Tx) error {
		if err := write(ctx, id, uuid.NewString())(tx); err != nil {
			return err
		}
		var tenants string
		if err := tx.QueryRow(ctx, seen).Scan(&tenants); err != nil {
			return err
		}
		return check(tenants)
	})
	if err != nil {
		return err
	}
	return db.Batch(ctx, id, func(b *tenancy.Batch) {
		b.Queue(`insert into app.notes (tenant_id, id, body) values ($1, $2, $3)`, id.UUID(), uuid.Must(uuid.NewV7()), uuid.NewString())
		b.Queue(seen).QueryRow(func(row pgx.Row) error {
			var tenants string
			if err := row.Scan(&tenants); err != nil {
				return err
			}
			return check(tenants)
		})
	})
}

func TestNoRowOfAnotherTenantCanBeWritten(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	if err := b.db.As(ctx, b.b, write(ctx, b.b, "b's")); err != nil {
		t.Fatal(err)
	}
	for name, as := range map[string]tenancy.ID{"another tenant": b.a, "nobody": {}} {
		if err := b.db.As(ctx, as, write(ctx, b.b, "smuggled")); tenancy.Code(err) != "42501" {
			t.Errorf("as %s, an insert answers %v, want 42501", name, err)
		}
		err := b.db.As(ctx, as, func(tx tenancy.Tx) error {
			for _, sql := range []string{`update app.notes set body = 'changed'`, `delete from app.notes`} {
				tag, err := tx.Exec(ctx, sql)
				if err != nil {
					return err
				}
				if tag.RowsAffected() != 0 {
					t.Errorf("as %s, %q touches %d rows", name, sql, tag.RowsAffected())
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := b.read(t, b.b); len(got) != 1 || got[0] != "b's" {
		t.Errorf("b's notes are %q", got)
	}
}

func TestAnErrorRollsBackAndComesBackAsItIs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	mine := fault.Conflict("no_seats_available", "Every seat is taken.")
	err := b.db.As(ctx, b.a, func(tx tenancy.Tx) error {
		if err := write(ctx, b.a, "gone")(tx); err != nil {
			return err
		}
		return mine
	})
	if !errors.Is(err, mine) {
		t.Errorf("the error is %v, want the caller's own", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic is swallowed")
			}
		}()
		_ = b.db.As(ctx, b.a, func(tx tenancy.Tx) error {
			_ = write(ctx, b.a, "gone")(tx)
			panic("oops")
		})
	}()
	if got := b.read(t, b.a); len(got) != 0 {
		t.Errorf("rolled back, and still there: %q", got)
	}
}

func TestABatchIsAllOrNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	insert := func(q *tenancy.Batch, body string) *pgx.QueuedQuery {
		return q.Queue(`insert into app.notes (tenant_id, id, body) values ($1, $2, $3)`, b.a.UUID(), uuid.Must(uuid.NewV7()), body)
	}
	err := b.db.Batch(t.Context(), b.a, func(q *tenancy.Batch) {
		insert(q, "first")
		insert(q, "first")
	})
	if tenancy.Code(err) != "23505" || tenancy.Constraint(err) != "notes_body_key" || errors.Is(err, tenancy.ErrInDoubt) {
		t.Errorf("a duplicate answers %v (constraint %q)", err, tenancy.Constraint(err))
	}
	if got := b.read(t, b.a); len(got) != 0 {
		t.Errorf("half a batch is there: %q", got)
	}
	mine := errors.New("mine")
	err = b.db.Batch(t.Context(), b.a, func(q *tenancy.Batch) {
		q.Queue(`select 1`).QueryRow(func(pgx.Row) error { return mine })
		insert(q, "kept")
	})
	if !errors.Is(err, mine) {
		t.Errorf("a callback's error comes back as %v", err)
	}
	if got := b.read(t, b.a); len(got) != 1 {
		t.Errorf("a callback's error undid the batch: %q", got)
	}
}

func TestABatchInsideATransactionIsUndoneWithIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	mine := errors.New("mine")
	err := b.db.As(t.Context(), b.a, func(tx tenancy.Tx) error {
		return tx.Batch(t.Context(), func(q *tenancy.Batch) {
			q.Queue(`insert into app.notes (tenant_id, id, body) values ($1, $2, 'x')`, b.a.UUID(), uuid.Must(uuid.NewV7()))
			q.Queue(`select 1`).QueryRow(func(pgx.Row) error { return mine })
		})
	})
	if !errors.Is(err, mine) {
		t.Errorf("the callback's error comes back as %v", err)
	}
	if got := b.read(t, b.a); len(got) != 0 {
		t.Errorf("still there: %q", got)
	}
}

func TestReadOnlyRefusesWrites(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	err := b.db.AsReadOnly(t.Context(), b.a, write(t.Context(), b.a, "x"))
	if tenancy.Code(err) != "25006" {
		t.Errorf("a write answers %v, want read_only_sql_transaction", err)
	}
}

func TestAcrossSeesNobodysRowsAndTellsWhy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	if err := b.db.As(ctx, b.a, write(ctx, b.a, "a's")); err != nil {
		t.Fatal(err)
	}
	n := -1
	err := b.db.Across(ctx, "count the notes", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `select count(*) from app.notes`).Scan(&n)
	})
	if err != nil || n != 0 {
		t.Errorf("across tenants %d notes are seen (%v)", n, err)
	}
	if !strings.Contains(b.log.Text(), "count the notes") {
		t.Error("the reason is not in the log")
	}
	if b.db.Across(ctx, "", func(tenancy.Tx) error { return nil }) == nil {
		t.Error("no reason is reason enough")
	}
}

func TestNoWayLeadsFromATransactionToItsConnection(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var kept tenancy.Tx
	err := b.db.As(t.Context(), b.a, func(tx tenancy.Tx) error {
		kept = tx
		rows, err := tx.Query(t.Context(), `select 1`)
		if err != nil {
			return err
		}
		defer rows.Close()
		if rows.Conn() != nil {
			t.Error("rows tell their connection")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kept.Exec(t.Context(), `select 1`); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("a transaction is of use after its end: %v", err)
	}
}

func TestACallEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	store := testenv.Postgres(t)
	b := open(t, store.URL("usher_acquire"), tenancy.Config{Timeout: 200 * time.Millisecond, MaxConns: 1})
	begin := time.Now()
	err := b.db.As(t.Context(), b.a, func(tx tenancy.Tx) error {
		_, err := tx.Exec(t.Context(), `select pg_sleep(30)`)
		return err
	})
	if !unavailable(err) {
		t.Errorf("a slow statement answers %v, want store_unavailable", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the call took %s", took)
	}
	// The connection is gone, and a new one may take longer than this deadline where others are at work.
	testenv.Eventually(t, 20*time.Second, func() error { return b.db.Ping(t.Context()) })
}

func TestThePoolIsBoundedAndWaitingForItToo(t *testing.T) {
	t.Parallel()
	store := testenv.Postgres(t)
	b := open(t, store.URL("usher_acquire"), tenancy.Config{Timeout: 300 * time.Millisecond, MaxConns: 1})
	err := b.db.As(t.Context(), b.a, func(tenancy.Tx) error {
		return b.db.Batch(t.Context(), b.a, func(q *tenancy.Batch) { q.Queue(`select 1`) })
	})
	if !unavailable(err) || errors.Is(err, tenancy.ErrInDoubt) {
		t.Errorf("a second connection of a pool of one: %v", err)
	}
}

func TestADatabaseThatIsOutIsUnavailableAndComesBack(t *testing.T) {
	t.Parallel()
	store := testenv.PrivatePostgres(t)
	store.Exec(t, note)
	b := open(t, store.URL("usher_acquire"), tenancy.Config{Timeout: time.Second})
	ctx := t.Context()
	work := func() error { return b.db.As(ctx, b.a, write(ctx, b.a, uuid.NewString())) }
	batch := func() error { return b.db.Batch(ctx, b.a, func(q *tenancy.Batch) { q.Queue(`select 1`) }) }
	if err := errors.Join(work(), batch()); err != nil {
		t.Fatal(err)
	}

	store.Stop(t)
	for name, err := range map[string]error{"As": work(), "Batch": batch(), "Ping": b.db.Ping(ctx)} {
		if !unavailable(err) {
			t.Errorf("stopped, %s answers %v", name, err)
		}
	}
	store.Start(t)
	if err := work(); err != nil {
		t.Errorf("started again, the first call answers %v", err)
	}

	store.Pause(t)
	if err := work(); !unavailable(err) {
		t.Errorf("frozen, As answers %v", err)
	}
	if err := batch(); !unavailable(err) {
		t.Errorf("frozen, Batch answers %v", err)
	}
	store.Resume(t)
	testenv.Eventually(t, 5*time.Second, work)
}

func TestADeadConnectionInThePoolIsNotTheCallersTrouble(t *testing.T) {
	t.Parallel()
	store := testenv.PrivatePostgres(t)
	store.Exec(t, note)
	b := open(t, store.URL("usher_acquire"), tenancy.Config{})
	ctx := t.Context()
	if err := b.db.As(ctx, b.a, write(ctx, b.a, "before")); err != nil {
		t.Fatal(err)
	}
	store.Stop(t)
	store.Start(t)
	if err := b.db.As(ctx, b.a, write(ctx, b.a, "after")); err != nil {
		t.Errorf("the first call after a restart: %v", err)
	}
}

func TestALostAnswerToACommitIsInDoubt(t *testing.T) {
	t.Parallel()
	store := testenv.PrivatePostgres(t)
	store.Exec(t, note)
	// A commit that hangs: the constraint is checked at its end, and waits.
	store.Exec(t, `create function app.wait() returns trigger language plpgsql as $$ begin perform pg_sleep(30); return null; end $$;
		create constraint trigger wait after insert on app.notes deferrable initially deferred for each row execute function app.wait()`)
	b := open(t, store.URL("usher_acquire"), tenancy.Config{Timeout: 3 * time.Second})
	ctx := t.Context()
	err := b.db.As(ctx, b.a, write(ctx, b.a, "perhaps"))
	if !unavailable(err) || !errors.Is(err, tenancy.ErrInDoubt) {
		t.Errorf("As answers %v, want store_unavailable, in doubt", err)
	}
	err = b.db.Batch(ctx, b.a, func(q *tenancy.Batch) {
		q.Queue(`insert into app.notes (tenant_id, id, body) values ($1, $1, 'perhaps')`, b.a.UUID())
	})
	if !unavailable(err) || !errors.Is(err, tenancy.ErrInDoubt) {
		t.Errorf("Batch answers %v, want store_unavailable, in doubt", err)
	}
}

func TestConfigurationFaultsAreNamedAndHideThePassword(t *testing.T) {
	t.Parallel()
	log := testenv.Logs(t)
	for name, env := range map[string]map[string]string{
		"no URL":      {},
		"a bad URL":   {"DATABASE_URL": "postgres://u:hunter2@:not-a-port/x"},
		"a bad mode":  {"DATABASE_URL": "postgres://u:hunter2@h/x", "DATABASE_EXEC_MODE": "hunter3"},
		"a bad count": {"DATABASE_URL": "postgres://u:hunter2@h/x", "DATABASE_MAX_CONNS": "-1"},
	} {
		_, err := tenancy.Open(t.Context(), func(k string) string { return env[k] }, log.Logger)
		if err == nil || !strings.Contains(err.Error(), "DATABASE_") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func unavailable(err error) bool {
	f := fault.As(err)
	return f != nil && f.Code == "store_unavailable"
}
