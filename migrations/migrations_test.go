package migrations_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/coditect/usher/migrations"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestSchemaIsWhatTheMigrationsMake(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	pgDump, err := localenv.Find("pg_dump")
	if err != nil {
		t.Fatal(err)
	}
	got, err := migrations.Dump(t.Context(), db.URL(localenv.Superuser), pgDump)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("schema.sql is out of date (run `make generate`): %s", firstDifference(string(want), got))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return "\nhave " + w[i] + "\nwant " + g[i]
		}
	}
	return "one is longer than the other"
}

func TestEveryMigrationCanBeTakenBackAndAppliedAgain(t *testing.T) {
	t.Parallel()
	db := testenv.EmptyPostgres(t)
	url, ctx := db.URL(localenv.Superuser), t.Context()
	const objects = `select count(*) from pg_class where relnamespace = to_regnamespace('app')`

	up(ctx, t, url)
	have, newest := version(ctx, t, url)
	if have != newest || newest == 0 {
		t.Fatalf("after up the version is %d of %d", have, newest)
	}
	before := testenv.Value[int](t, db, objects)
	for range newest {
		if err := migrations.Down(ctx, url, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if have, _ := version(ctx, t, url); have != 0 {
		t.Errorf("after taking all back the version is %d", have)
	}
	if left := testenv.Value[int](t, db, objects); left != 0 {
		t.Errorf("after taking all back %d objects are left", left)
	}
	if err := migrations.Down(ctx, url, io.Discard); err != nil {
		t.Errorf("taking back what is not there: %v", err)
	}
	up(ctx, t, url)
	if after := testenv.Value[int](t, db, objects); after != before {
		t.Errorf("applied again, there are %d objects instead of %d", after, before)
	}
}

func TestUpTwiceAndTwoAtOnceIsUpOnce(t *testing.T) {
	t.Parallel()
	url, ctx := testenv.EmptyPostgres(t).URL(localenv.Superuser), t.Context()
	errs := make(chan error, 3)
	for range cap(errs) {
		go func() { errs <- migrations.Up(ctx, url, io.Discard) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	var log bytes.Buffer
	if err := migrations.Up(ctx, url, &log); err != nil || log.Len() != 0 {
		t.Errorf("up again does %q (%v)", log.String(), err)
	}
	if err := migrations.Status(ctx, url, &log); err != nil || strings.Contains(log.String(), "pending") {
		t.Errorf("status (%v):\n%s", err, log.String())
	}
}

func TestAUserWhoMayCreateRolesIsEnough(t *testing.T) {
	t.Parallel()
	db := testenv.EmptyPostgres(t)
	db.Exec(t, `create role deployer login createrole`)
	db.Exec(t, `create database ours owner deployer`)
	url := strings.Replace(db.URL("deployer"), "/postgres?", "/ours?", 1)
	up(t.Context(), t, url)
	if have, newest := version(t.Context(), t, url); have != newest {
		t.Errorf("the version is %d of %d", have, newest)
	}
}

func TestASecretURLStaysOutOfErrors(t *testing.T) {
	t.Parallel()
	err := migrations.Up(t.Context(), "postgres://u:hunter2@:no-port/x", io.Discard)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error is %v", err)
	}
}

func up(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	if err := migrations.Up(ctx, url, io.Discard); err != nil {
		t.Fatal(err)
	}
}

func version(ctx context.Context, t *testing.T, url string) (have, newest int64) {
	t.Helper()
	have, newest, err := migrations.Version(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	return have, newest
}

func TestAGraceOfAYearIsAWeekAfterwards(t *testing.T) {
	t.Parallel()
	db := testenv.EmptyPostgres(t)
	url, ctx := db.URL(localenv.Superuser), t.Context()
	up(ctx, t, url)
	for have, _ := version(ctx, t, url); have > 14; have, _ = version(ctx, t, url) {
		if err := migrations.Down(ctx, url, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	const year = 365 * 86400
	db.Exec(t, `INSERT INTO app.products (code, name) VALUES ('p', 'P')`)
	db.Exec(t, `INSERT INTO app.plans (code, product_code, name, offline_grace_seconds) VALUES ('p-1', 'p', 'P', $1::int)`, year)
	db.Exec(t, `INSERT INTO app.tenants (id, kind, name, slug) VALUES ('01890000-0000-7000-8000-000000000001', 'customer', 'T', 't')`)
	db.Exec(t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, ttl_seconds, seat_per, offline_grace_seconds, drain_seconds)
		VALUES ('01890000-0000-7000-8000-000000000001', gen_random_uuid(), 'p', 'p-1', 1, 60, 'device', $1::int, 0)`, year)
	up(ctx, t, url)
	const graces = `SELECT format('%s %s', (SELECT offline_grace_seconds FROM app.plans), (SELECT offline_grace_seconds FROM app.licenses))`
	if got := testenv.Value[string](t, db, graces); got != "604800 604800" {
		t.Errorf("plan and licence have a grace of %s seconds", got)
	}
}
