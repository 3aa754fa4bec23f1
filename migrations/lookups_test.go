package migrations_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/platform/testenv"
)

// What looks across tenants: it answers what it is for, in order and in bounds.

func TestLookUpsAnswerNoMoreThanWhoseItIs(t *testing.T) {
	t.Parallel()
	w := settle(t, testenv.Postgres(t))
	w.db.Exec(t, `UPDATE app.api_keys SET key_hash = sha256(tenant_id::text::bytea)`)
	w.db.Exec(t, `UPDATE app.users SET token_hash = sha256(tenant_id::text::bytea), subject = tenant_id::text`)
	w.db.Exec(t, `ALTER TABLE app.license_keys DISABLE TRIGGER keys_changed`)
	w.db.Exec(t, `UPDATE app.license_keys SET key_hash = sha256(tenant_id::text::bytea)`)
	b := w.rows[w.b]
	hash := fmt.Sprintf(`ARRAY[sha256('unknown'), sha256('%s')]`, w.b)
	for _, look := range []struct{ role, sql, want string }{
		{"usher_acquire", `SELECT concat_ws(' ', k) FROM app.find_license_key(` + hash + `) k`, fmt.Sprintf("(%s,%s,)", w.b, b["app.licenses"]["id"])},
		{"usher_acquire", `SELECT concat_ws(' ', k) FROM app.find_license_key(ARRAY[sha256('unknown')]) k`, ""},
		{"usher_admin", `SELECT concat_ws(' ', k) FROM app.find_api_key(` + hash + `) k`, fmt.Sprintf("(%s,%s)", w.b, b["app.api_keys"]["id"])},
		{"usher_admin", `SELECT concat_ws(' ', k) FROM app.find_api_key('{}') k`, ""},
		{"usher_admin", `SELECT concat_ws(' ', k) FROM app.find_invitation(` + hash + `) k`, fmt.Sprintf("(%s,%s)", w.b, b["app.users"]["id"])},
		{"usher_admin", `SELECT concat_ws(' ', k) FROM app.find_invitation('{}') k`, ""},
		{"usher_register", fmt.Sprintf(`SELECT concat_ws(' ', k) FROM app.find_user('https://issuer.example', '%s') k`, w.b), fmt.Sprintf("(%s,%s)", w.b, b["app.users"]["id"])},
		{"usher_register", fmt.Sprintf(`SELECT concat_ws(' ', k) FROM app.find_user('https://other.example', '%s') k`, w.b), ""},
		{"usher_operator", fmt.Sprintf(`SELECT string_agg(id::text, ' ') FROM app.operator_tenants('%s', 5)`, w.a), w.b},
		{"usher_operator", `SELECT string_agg(id::text, ' ') FROM app.operator_tenants(NULL, 5)`, w.a + " " + w.b},
		{"usher_operator", `SELECT string_agg(id::text, ' ') FROM app.operator_tenants(NULL, 1)`, w.a},
		{"usher_sweep", `SELECT string_agg(tenant_id::text, ' ') FROM app.sweep_licenses('00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 5)`, w.a + " " + w.b},
		{"usher_sweep", fmt.Sprintf(`SELECT string_agg(tenant_id::text, ' ') FROM app.sweep_licenses('%s', '%s', 5)`, w.a, w.rows[w.a]["app.licenses"]["id"]), w.b},
	} {
		o := w.visit(look.role).try(unset, true, look.sql)
		if got := strings.Join(o.rows, " "); got != look.want {
			t.Errorf("%s: %s answers %q (SQLSTATE %q), want %q", look.role, look.sql, got, o.code, look.want)
		}
	}
	w.db.Exec(t, `UPDATE app.license_keys SET expires_at = now()`)
	if o := w.visit("usher_acquire").try(unset, true, `SELECT tenant_id FROM app.find_license_key(`+hash+`)`); len(o.rows) != 0 {
		t.Errorf("an expired key opens %q", o.rows)
	}
}

func TestSweepVisitsEachLicenceOnceInOrder(t *testing.T) {
	t.Parallel()
	s := sell(t)
	s.db.Exec(t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, ttl_seconds, seat_per, offline_grace_seconds, drain_seconds)
		SELECT $1, gen_random_uuid(), 'p', 'p-1', 3, 60, 'device', 0, 0 FROM generate_series(1, 19)`, s.tenant)
	s.db.Exec(t, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id)
		SELECT tenant_id, gen_random_uuid(), id, n, 0, 0, 'h', 'h' FROM app.licenses, generate_series(1, 3) n`)
	conn, all := s.db.Connect(t, "usher_sweep"), []string(nil)
	const nobody = "00000000-0000-0000-0000-000000000000"
	for tenant, license := nobody, nobody; ; {
		rows, err := conn.Query(t.Context(), `SELECT tenant_id::text, license_id::text FROM app.sweep_licenses($1, $2, 7)`, tenant, license)
		if err != nil {
			t.Fatal(err)
		}
		before := len(all)
		if _, err := pgx.ForEachRow(rows, []any{&tenant, &license}, func() error { all = append(all, license); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(all) == before {
			break
		}
	}
	if want := testenv.Values[string](t, s.db, `SELECT id::text FROM app.licenses ORDER BY id`); !slices.Equal(all, want) {
		t.Errorf("visited are %q, want %q", all, want)
	}
}

func TestTheLongestWaitingIsToldFirst(t *testing.T) {
	t.Parallel()
	s := sell(t)
	s.db.Exec(t, `INSERT INTO app.outbox (tenant_id, topic, subject_id, created_at)
		SELECT $1, 'license.changed', ('00000000-0000-7000-8000-00000000000' || n % 5)::uuid, now() - make_interval(mins => n) FROM generate_series(1, 9) n`, s.tenant)
	s.db.Exec(t, `INSERT INTO app.outbox (tenant_id, topic, subject_id, created_at) VALUES ($1, 'mail.wanted', gen_random_uuid(), '-infinity')`, s.tenant)
	var got string
	err := s.db.Connect(t, "usher_sweep").QueryRow(t.Context(), `SELECT string_agg(right(subject_id::text, 1), ' ') FROM app.sweep_outbox(4)`).Scan(&got)
	if err != nil || got != "4 3 2 1" { // 9, 8, 7 and 6 minutes ago
		t.Errorf("told are %q (%v), want 4 3 2 1", got, err)
	}
}

func TestExpiredAnswersAreDroppedWhosesoeverTheyAre(t *testing.T) {
	t.Parallel()
	s := sell(t)
	s.db.Exec(t, `INSERT INTO app.idempotency_keys (tenant_id, scope, key_hash, body_hash, held_until, expires_at)
		SELECT $1, n::text, sha256('k'), sha256('b'), now(), now() + CASE WHEN n <= 20005 THEN '-1 minute' ELSE '1 minute' END::interval FROM generate_series(1, 20010) n`, s.tenant)
	for _, want := range []int{20000, 5, 0} {
		if got := sweepSays(t, s.db, `SELECT app.expire_idempotency_keys()`); got != want {
			t.Errorf("%d are dropped, want %d", got, want)
		}
	}
	if left := testenv.Value[int](t, s.db, `SELECT count(*) FROM app.idempotency_keys`); left != 5 {
		t.Errorf("%d are left, want 5", left)
	}
}

// Every change of what was sold is numbered and told, once, by the database itself.
func TestEveryChangeOfALicenceIsNumberedAndTold(t *testing.T) {
	t.Parallel()
	s := sell(t)
	version := func() int64 { return testenv.Value[int64](t, s.db, `SELECT pool_version FROM app.licenses`) }
	told := func() int {
		return testenv.Value[int](t, s.db, `SELECT count(*) FROM app.outbox WHERE topic = 'license.changed'`)
	}
	at := version()
	for _, step := range []struct {
		table, set string
		by         int64
	}{
		{"licenses", `status = 'suspended'`, 1},
		{"licenses", `max_seats = 1, versions = '>=2.0', updated_at = now()`, 1},
		{"licenses", `seat_epoch = seat_epoch + 1`, 0},
		{"licenses", `lock_stamp = 1, ttl_floor_until = now()`, 0},
		{"tenants", `name = 'b'`, 0},
		{"tenants", `status = 'active'`, 0},
		{"tenants", `status = 'suspended'`, 1},
		{"tenants", `status = 'active'`, 1},
	} {
		before := told()
		s.alter(step.table, step.set)
		at += step.by
		if version() != at || told() != before+int(step.by) {
			t.Errorf("after %s of %s the version is %d and %d are told, want %d and %d", step.set, step.table, version(), told(), at, before+int(step.by))
		}
	}
	if drain := testenv.Value[bool](t, s.db, `SELECT drain_until BETWEEN now() + interval '59 minutes' AND now() + interval '1 hour' FROM app.licenses`); !drain {
		t.Error("a licence that shrank by a seat does not drain within its drain_seconds")
	}
	s.alter("licenses", `ttl_seconds = 30`)
	s.alter("licenses", `ttl_seconds = 20`)
	if floor := testenv.Value[string](t, s.db, `SELECT ttl_floor_seconds || ' until ' || ttl_floor_until FROM app.licenses`); floor != "60 until infinity" {
		t.Errorf("a lease shortened from 60 to 30 to 20 s counts as %s", floor)
	}
}
