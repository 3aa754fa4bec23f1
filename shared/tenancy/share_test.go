package tenancy_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// noting is a call that writes a note and reads what it sees and in which transaction, among how many done together.
type noting struct {
	tenant            tenancy.ID
	body              string
	seen, transaction string
	together          int
}

var notes = &tenancy.Joint[*noting]{Together: func(b *tenancy.Batch, calls []*noting) {
	var bodies []string
	for _, n := range calls {
		bodies = append(bodies, n.body)
	}
	// Safe to repeat, as what is shared must be: a callback that fails undoes nothing, and all is done again.
	b.Queue(`insert into app.notes (tenant_id, id, body) select $1, gen_random_uuid(), fresh.body from unnest($2::text[]) fresh (body)
		where not exists (select from app.notes n where n.body = fresh.body)`, calls[0].tenant.UUID(), bodies)
	b.Queue(`select string_agg(distinct tenant_id::text, ' '), pg_current_xact_id()::text from app.notes`).QueryRow(func(row pgx.Row) error {
		var seen, transaction string
		if err := row.Scan(&seen, &transaction); err != nil {
			return err
		}
		for _, n := range calls {
			n.seen, n.transaction, n.together = seen, transaction, len(calls)
		}
		return nil
	})
}}

// share shares a note.
func share(ctx context.Context, db *tenancy.DB, id tenancy.ID, body string) (noting, error) {
	n := &noting{tenant: id, body: body}
	if err := tenancy.Share(ctx, db, id, notes, body, n); err != nil {
		return noting{}, err
	}
	return *n, nil
}

func TestCallsOfManyTenantsShareCommitsAndSeeTheirOwnRowsAlone(t *testing.T) {
	t.Parallel()
	store := testenv.Postgres(t)
	store.Exec(t, note)
	pooled := testenv.PgBouncer(t, store)
	for _, mode := range execModes {
		for where, url := range map[string]string{"directly": store.URL("usher_acquire"), "pooled": pooled.URL("usher_acquire")} {
			if mode == "cache_statement" && where == "pooled" {
				continue
			}
			t.Run(mode+" "+where, func(t *testing.T) {
				t.Parallel()
				const calls = 120
				b := open(t, url, tenancy.Config{ExecMode: mode, Timeout: time.Minute})
				transactions, most := map[string]bool{}, 0
				var mu sync.Mutex
				var all sync.WaitGroup
				for n := range calls {
					id := []tenancy.ID{b.a, b.b}[n%2]
					all.Go(func() {
						n, err := share(t.Context(), b.db, id, uuid.NewString())
						if err != nil || n.seen != id.String() {
							t.Errorf("as %s, seen: %s, %v", id, n.seen, err)
						}
						mu.Lock()
						defer mu.Unlock()
						transactions[n.transaction] = true
						most = max(most, n.together)
					})
				}
				all.Wait()
				if n := len(transactions); n > calls/2 {
					t.Errorf("%d concurrent calls took %d transactions", calls, n)
				}
				if most < 2 {
					t.Error("no two calls of a tenant were done together")
				}
				if n := len(b.read(t, b.a)) + len(b.read(t, b.b)); n != calls {
					t.Errorf("%d notes were kept, want %d", n, calls)
				}
				if got := b.read(t, tenancy.ID{}); len(got) != 0 {
					t.Errorf("nobody sees %d notes", len(got))
				}
			})
		}
	}
}

func TestAFailingCallSpoilsNobodyElses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const calls = 60
	failing := &tenancy.Joint[int]{Together: func(b *tenancy.Batch, calls []int) {
		b.Queue(`select 1`).QueryRow(func(pgx.Row) error { return fmt.Errorf("callback %d", calls[0]) })
	}}
	if err := b.db.As(t.Context(), b.b, write(t.Context(), b.b, "taken")); err != nil {
		t.Fatal(err)
	}
	errs := make([]error, calls)
	var all sync.WaitGroup
	for n := range calls {
		all.Go(func() {
			switch n % 10 {
			case 3: // breaks a constraint
				_, errs[n] = share(t.Context(), b.db, b.a, "taken")
			case 7: // its own callback fails
				errs[n] = tenancy.Share(t.Context(), b.db, b.a, failing, "", n)
			default:
				_, errs[n] = share(t.Context(), b.db, b.a, fmt.Sprint("note ", n))
			}
		})
	}
	all.Wait()
	for n, err := range errs {
		switch n % 10 {
		case 3:
			if tenancy.Code(err) != "23505" {
				t.Errorf("call %d, for a note that is there: %v", n, err)
			}
		case 7:
			if err == nil || err.Error() != fmt.Sprint("callback ", n) {
				t.Errorf("call %d, whose callback fails: %v", n, err)
			}
		default:
			if err != nil {
				t.Errorf("call %d: %v", n, err)
			}
		}
	}
	if n := len(b.read(t, b.a)); n != calls*8/10 {
		t.Errorf("%d notes were kept, want %d", n, calls*8/10)
	}
}

func TestASharingCallWaitsNoLongerThanItsDeadline(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.db.As(t.Context(), b.a, write(t.Context(), b.a, "one")); err != nil {
		t.Fatal(err)
	}
	update := &tenancy.Joint[int]{Together: func(b *tenancy.Batch, calls []int) {
		b.Queue(`update app.notes set body = $1`, fmt.Sprint(calls))
	}}
	// Somebody holds the row that a shared transaction wants, so that everybody aboard waits.
	err := b.db.As(t.Context(), b.a, func(tx tenancy.Tx) error {
		if _, err := tx.Exec(t.Context(), `select from app.notes for update`); err != nil {
			return err
		}
		var all sync.WaitGroup
		for n := range 10 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				began := time.Now()
				err := tenancy.Share(ctx, b.db, b.a, update, "", n)
				if f := fault.As(err); f == nil || f.Kind != fault.KindUnavailable {
					t.Errorf("call %d: %v, want unavailable", n, err)
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("call %d with 300 ms came back after %s", n, took)
				}
			})
		}
		all.Wait()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAStalledTransactionKeepsNobodyElse(t *testing.T) {
	t.Parallel()
	store := testenv.Postgres(t)
	store.Exec(t, note)
	// Nothing ends what stalls.
	patient := store.URL("usher_acquire") + "&options=-c%20lock_timeout%3D0%20-c%20statement_timeout%3D0%20-c%20idle_in_transaction_session_timeout%3D0"
	b := open(t, patient, tenancy.Config{Timeout: time.Minute})
	if err := b.db.As(t.Context(), b.a, write(t.Context(), b.a, "one")); err != nil {
		t.Fatal(err)
	}
	stall := &tenancy.Joint[string]{Together: func(b *tenancy.Batch, calls []string) { b.Queue(`update app.notes set body = $1`, calls[0]) }}
	stalled := make(chan error, 1)
	err := b.db.As(t.Context(), b.a, func(tx tenancy.Tx) error {
		if _, err := tx.Exec(t.Context(), `select from app.notes for update`); err != nil {
			return err
		}
		go func() { stalled <- tenancy.Share(t.Context(), b.db, b.a, stall, "", "two") }()
		testenv.Eventually(t, 4*time.Second, func() error {
			if testenv.Value[int](t, store, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 0 {
				return errors.New("nobody waits for the row")
			}
			return nil
		})
		var all sync.WaitGroup
		for n := range 10 {
			all.Go(func() {
				if _, err := share(t.Context(), b.db, b.b, fmt.Sprint("note ", n)); err != nil {
					t.Errorf("call %d: %v", n, err)
				}
			})
		}
		all.Wait()
		if len(stalled) > 0 {
			t.Error("the one that stalls ended first")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-stalled; err != nil {
		t.Error(err)
	}
}
