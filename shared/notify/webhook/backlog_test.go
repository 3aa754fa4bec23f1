package webhook

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// What is due is found by key alone, however much is due, waits for its next attempt, or was delivered, and whatever statistics say: they know nothing
// of a table that fills within minutes.
func TestABacklogIsNotReadToFindWhatIsDue(t *testing.T) {
	t.Parallel()
	for _, statistics := range []string{"SELECT", "ANALYZE app.webhook_deliveries"} {
		t.Run(statistics, func(t *testing.T) {
			t.Parallel()
			backlog(t, statistics)
		})
	}
}

func backlog(t *testing.T, statistics string) {
	t.Helper()
	const many = 2000
	ctx, db := t.Context(), testenv.Postgres(t)
	tenant := uuid.Must(uuid.NewV7())
	db.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'Acme', 'acme')`, tenant)
	var hooks []reference // by when they are due: each fails, but for the last
	for i := range 3 {
		w := reference{tenancy.Verified(tenant), uuid.Must(uuid.NewV7())}
		db.Exec(t, `INSERT INTO app.webhooks (tenant_id, id, url, events, key_name, created_by, failing_since)
			VALUES ($1, $2, 'https://hooks.example', '{*}', 'a', 'test', CASE WHEN $3 THEN now() END)`, tenant, w.id, i < 2)
		hooks = append(hooks, w)
	}
	fill := func(w reference, n int, status, next string) {
		db.Exec(t, fmt.Sprintf(`INSERT INTO app.webhook_deliveries (tenant_id, webhook_id, event_id, type, body, status, finished_at, next_at)
			SELECT $1, $2, gen_random_uuid(), 'x.y', n::text, $3, CASE WHEN $3 <> 'pending' THEN now() END, %s FROM generate_series(1, $4::int) n`, next), tenant, w.id, status, n)
	}
	fill(hooks[0], many/10, "delivered", `now()`)
	fill(hooks[0], many, "pending", `now() + interval '1 hour'`)
	fill(hooks[0], many, "pending", `now() - interval '1 hour' + n * interval '1 ms'`)
	fill(hooks[1], 1, "pending", `now() - interval '1 minute'`)
	fill(hooks[2], 1, "pending", `now()`)
	db.Exec(t, `
		WITH others AS (
		    INSERT INTO app.tenants (id, name, slug) SELECT gen_random_uuid(), 'x', 'x-' || n FROM generate_series(1, 500) n RETURNING id
		), hooks AS (
		    INSERT INTO app.webhooks (tenant_id, id, url, events, key_name, created_by)
		    SELECT id, gen_random_uuid(), 'https://hooks.example', '{*}', 'a', 'test' FROM others RETURNING tenant_id, id
		)
		INSERT INTO app.webhook_deliveries (tenant_id, webhook_id, event_id, type, body, status, finished_at)
		SELECT tenant_id, id, gen_random_uuid(), 'x.y', '{}', 'delivered', now() FROM hooks`)
	db.Exec(t, statistics)
	sender, err := tenancy.OpenURL(ctx, db.URL("usher_deliver"), tenancy.Config{MaxConns: 1}, testenv.Logs(t).Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sender.Close)
	s := &Sender{db: sender}
	read := func() int64 {
		t.Helper()
		err := sender.Across(ctx, "test: what was read is counted", func(tx tenancy.Tx) error {
			_, err := tx.Exec(ctx, `SELECT pg_stat_force_next_flush()`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return testenv.Value[int64](t, db, `
			SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname = 'webhook_deliveries')::bigint
			     + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'webhook_deliveries')::bigint`)
	}
	before := read()
	due, err := s.due(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if want := []reference{hooks[2], hooks[0], hooks[1]}; !slices.Equal(due, want) {
		t.Errorf("due are %v, want %v", due, want)
	}
	if n := read() - before; n == 0 || n > 20 {
		t.Errorf("three webhooks were found due by reading %d rows", n)
	}
	before = read()
	for range 5 {
		if _, ours, err := s.claim(ctx, hooks[0]); err != nil || !ours {
			t.Fatalf("nothing was taken: %v", err)
		}
	}
	if n := read() - before; n == 0 || n > 50 {
		t.Errorf("five deliveries were taken by reading %d rows", n)
	}
	if taken := testenv.Values[string](t, db, `SELECT body FROM app.webhook_deliveries WHERE attempts > 0 ORDER BY body`); !slices.Equal(taken, []string{"1", "2", "3", "4", "5"}) {
		t.Errorf("taken are %v, not those that wait the longest", taken)
	}
	// What the sweep measures is the same.

	if waiting := testenv.Value[int64](t, db, `SELECT count(*) FROM app.waiting() WHERE seconds > 3000`); waiting != 1 {
		t.Errorf("%d queues wait for an hour, not one", waiting)
	}
}

// What is left of a webhook that is switched off is given up together.
func TestTheBacklogOfAWebhookThatIsSwitchedOffGoesAtOnce(t *testing.T) {
	t.Parallel()
	ctx, db := t.Context(), testenv.Postgres(t)
	w := reference{tenancy.Verified(uuid.Must(uuid.NewV7())), uuid.Must(uuid.NewV7())}
	db.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'Acme', 'acme')`, w.tenant.UUID())
	db.Exec(t, `INSERT INTO app.webhooks (tenant_id, id, url, events, key_name, created_by) VALUES ($1, $2, 'https://hooks.example', '{*}', 'a', 'test')`, w.tenant.UUID(), w.id)
	db.Exec(t, `INSERT INTO app.webhook_deliveries (tenant_id, webhook_id, event_id, type, body, next_at)
		SELECT $1, $2, gen_random_uuid(), 'x.y', '{}', now() + CASE WHEN n > $3 THEN interval '1 hour' ELSE interval '0' END
		  FROM generate_series(1, $3 + 1) n`, w.tenant.UUID(), w.id, abandonedTogether+2)
	sender, err := tenancy.OpenURL(ctx, db.URL("usher_deliver"), tenancy.Config{}, testenv.Logs(t).Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sender.Close)
	s := &Sender{db: sender}
	if n, err := s.abandon(ctx, w, Try{Error: "x"}); err != nil || n != 0 {
		t.Errorf("%d of one that is switched on were given up (%v)", n, err)
	}
	db.Exec(t, `UPDATE app.webhooks SET status = 'disabled', disabled_reason = 'x', disabled_at = now()`)
	var done tally
	if more, err := s.serve(ctx, time.Now().Add(time.Minute), w, &done); err != nil || more {
		t.Errorf("more is due: %v, %v", more, err)
	}
	left := testenv.Value[int](t, db, `SELECT count(*) FROM app.webhook_deliveries WHERE status = 'pending'`)
	whole := testenv.Value[int](t, db, `SELECT count(*) FROM app.webhook_deliveries WHERE status = 'failed' AND tries @> '[{"error": "the webhook is switched off"}]'`)
	if left != 1 || whole != abandonedTogether+2 || done.givenUp.Load() != abandonedTogether+2 {
		t.Errorf("%d are left, %d say why they failed, %d are counted", left, whole, done.givenUp.Load())
	}
}
