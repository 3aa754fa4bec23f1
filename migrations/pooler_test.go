package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// Through a pooler that gives each transaction another connection, and pgx's ways of sending statements that work there:
// what one transaction said of its tenant is gone with it, however it ended.
func TestNoTenantIsLeftOnAPooledConnection(t *testing.T) {
	t.Parallel()
	w := settle(t, testenv.Postgres(t))
	pooled := testenv.PgBouncer(t, w.db)
	for _, mode := range []string{"cache_describe", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			db, err := tenancy.OpenURL(t.Context(), pooled.URL("usher_acquire"), tenancy.Config{ExecMode: mode, MaxConns: 8}, testenv.Logs(t).Logger)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(db.Close)
			var all sync.WaitGroup
			for n, tenant := range []string{w.a, w.b, w.a, w.b, "", ""} {
				all.Go(func() {
					for round := range 15 {
						if err := visits(t.Context(), db, tenant, (n+round)%4); err != nil {
							t.Errorf("tenant %q: %v", tenant, err)
							return
						}
					}
				})
			}
			all.Wait()
		})
	}
}

// everything is whose rows are seen in all tables of tenants that acquire may read.
const everything = `
SELECT coalesce(string_agg(DISTINCT t::text, ' '), '') FROM (
    SELECT id AS t FROM app.tenants UNION ALL SELECT tenant_id FROM app.licenses UNION ALL SELECT tenant_id FROM app.license_keys UNION ALL
    SELECT tenant_id FROM app.devices UNION ALL SELECT tenant_id FROM app.open_sessions UNION ALL SELECT tenant_id FROM app.ended_sessions UNION ALL
    SELECT tenant_id FROM app.outbox UNION ALL SELECT tenant_id FROM app.idempotency_keys) s`

var errUndone = errors.New("undone")

// visits does one transaction as the tenant, or as nobody (""), in one of four ways, and checks whose rows it sees.
func visits(ctx context.Context, db *tenancy.DB, tenant string, way int) error {
	check := func(row pgx.Row) error {
		var seen string
		if err := row.Scan(&seen); err != nil {
			return err
		}
		if seen != tenant {
			return fmt.Errorf("way %d: seen are rows of %q", way, seen)
		}
		return nil
	}
	look := func(tx tenancy.Tx) error { return check(tx.QueryRow(ctx, everything)) }
	if tenant == "" {
		return db.Across(ctx, "test: nobody", look)
	}
	id := tenancy.Verified(uuid.MustParse(tenant))
	switch way {
	case 0:
		return db.Batch(ctx, id, func(b *tenancy.Batch) { b.Queue(everything).QueryRow(check) })
	case 1: // rolled back
		var seen error
		err := db.As(ctx, id, func(tx tenancy.Tx) error {
			seen = look(tx)
			return errUndone
		})
		if errors.Is(err, errUndone) {
			return seen
		}
		return err
	case 2: // failed in the database
		err := db.As(ctx, id, func(tx tenancy.Tx) error {
			if err := look(tx); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `SELECT 1 / 0`)
			return err
		})
		if tenancy.Code(err) == "22012" {
			return nil
		}
		return fmt.Errorf("a failing statement answers %w", err)
	default:
		return db.AsReadOnly(ctx, id, look)
	}
}
