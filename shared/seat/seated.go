package seat

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/tenancy"
)

// Seated is nil when the session's row is open, else the fault.Gone of how it ended. It asks PostgreSQL alone, so that it
// works without the pool: a session whose lease ran out is seated until the next taker or the sweep has closed its row. So
// it is for what happened on a seat, and never a reason to let somebody have one.
func Seated(ctx context.Context, tx tenancy.Tx, ref Ref) error {
	var open, current bool
	var e Ending
	err := tx.QueryRow(ctx, `
		SELECT evicted_at IS NULL, fence_epoch = $2 AND fence_counter = $3, 'evicted', coalesce(evict_reason, ''), coalesce(evicted_by, ''), coalesce(evicted_at, now())
		  FROM app.open_sessions
		 WHERE tenant_id = (SELECT app.tenant()) AND id = $1::text::uuid
		UNION ALL
		SELECT false, true, status, end_reason, ended_by, ended_at
		  FROM app.ended_sessions
		 WHERE tenant_id = (SELECT app.tenant()) AND id = $1::text::uuid
		 LIMIT 1`, ref.Session.String(), ref.Epoch, ref.Counter).Scan(&open, &current, &e.Status, &e.Reason, &e.By, &e.At)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && !current:
		return forgotten.Gone()
	case err != nil:
		return fmt.Errorf("read session %s: %w", ref.Session, err)
	case open:
		return nil
	}
	return e.Gone()
}
