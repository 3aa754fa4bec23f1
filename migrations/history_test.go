package migrations_test

import (
	"slices"
	"testing"

	"github.com/coditect/usher/shared/platform/testenv"
)

// ended puts a session that ended at a moment into the history.
const ended = `
	INSERT INTO app.ended_sessions (tenant_id, id, license_id, seat_no, overdraft, holder, hardware_id, version, acquired_at, status, end_reason, ended_by, ended_at)
	SELECT l.tenant_id, gen_random_uuid(), l.id, 1, false, 'h', 'h', '', now(), 'released', 'released', 'holder', $1::text::timestamptz FROM app.licenses l`

const months = `
	SELECT c.relname || ' ' || pg_get_expr(c.relpartbound, c.oid) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
	 WHERE i.inhparent = 'app.ended_sessions'::regclass ORDER BY 1`

// sweepSays is what a query answers to the function sweep, with no tenant set.
func sweepSays(t *testing.T, db *testenv.DB, sql string) (n int) {
	t.Helper()
	if err := db.Connect(t, "usher_sweep").QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestHistoryIsPartitionedByMonthAhead(t *testing.T) {
	t.Parallel()
	db := sell(t).db
	const ahead = `SELECT app.make_history_partitions(2)`
	if made := sweepSays(t, db, ahead); made != 2 {
		t.Errorf("%d partitions are made, want 2", made)
	}
	want := testenv.Values[string](t, db, `
		SELECT format('ended_sessions_%s FOR VALUES FROM (''%s'') TO (''%s'')', to_char(m, 'YYYY_MM'),
		              to_char(m, 'YYYY-MM-DD HH24:MI:SS+00'), to_char(m + interval '1 month', 'YYYY-MM-DD HH24:MI:SS+00'))
		  FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i) AS m FROM generate_series(1, 2) i) s`)
	want = append(want, "ended_sessions_default DEFAULT")
	if got := testenv.Values[string](t, db, months); !slices.Equal(got, want) {
		t.Errorf("the partitions are %q, want %q", got, want)
	}
	if made := sweepSays(t, db, ahead); made != 0 {
		t.Errorf("made again: %d partitions, want none", made)
	}
	if made := sweepSays(t, db, `SELECT app.make_history_partitions(3)`); made != 1 {
		t.Errorf("one month further: %d partitions, want 1", made)
	}
	db.Exec(t, ended, "now")
	db.Exec(t, `INSERT INTO app.ended_sessions SELECT tenant_id, gen_random_uuid(), license_id, seat_no, overdraft, holder, hardware_id, hostname, user_name, instance_id,
		version, metadata, acquired_at, status, end_reason, ended_by, ended_at + interval '1 month' FROM app.ended_sessions`)
	if in := testenv.Values[string](t, db, `SELECT tableoid::regclass::text FROM app.ended_sessions ORDER BY 1 DESC`); len(in) != 2 || in[0] != "app.ended_sessions_default" || in[1] == in[0] {
		t.Errorf("sessions that end now and in a month are in %q", in)
	}
	// The rules hold for partitions as for every table.
	for _, breach := range breaches(t.Context(), t, db.Owner(t), "") {
		t.Error(breach)
	}
}

func TestRowsInTheDefaultPartitionDelayNoOtherMonth(t *testing.T) {
	t.Parallel()
	db := sell(t).db
	db.Exec(t, ended, "now")
	db.Exec(t, ended, testenv.Value[string](t, db, `SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '40 days')::text`)) // next month
	if made := sweepSays(t, db, `SELECT app.make_history_partitions(2)`); made != 1 {
		t.Errorf("%d partitions are made, want that of the month after next", made)
	}
	if n := testenv.Value[int](t, db, `SELECT count(*) FROM app.ended_sessions_default`); n != 2 {
		t.Errorf("%d of 2 rows are where they were", n)
	}
}

func TestABusyHistoryIsLeftAlone(t *testing.T) {
	t.Parallel()
	db := sell(t).db
	reader := db.Owner(t)
	if _, err := reader.Exec(t.Context(), `BEGIN; SELECT FROM app.ended_sessions`); err != nil {
		t.Fatal(err)
	}
	if made := sweepSays(t, db, `SELECT app.make_history_partitions(2)`); made != 0 {
		t.Errorf("%d partitions are made under a reader", made)
	}
	if _, err := reader.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if made := sweepSays(t, db, `SELECT app.make_history_partitions(2)`); made != 2 {
		t.Errorf("%d partitions are made afterwards", made)
	}
}

func TestOnlyTheSweepMakesPartitions(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	if _, err := db.Connect(t, "usher_admin").Exec(t.Context(), `SELECT app.make_history_partitions(1)`); code(err) != refused {
		t.Errorf("admin is answered %v", err)
	}
}
