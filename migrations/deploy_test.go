package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3/lock"

	"github.com/coditect/usher/migrations"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

// deployer is who migrates: no superuser, but one who may create roles and whose the database is, by way of a role that
// he is a member of, as the first user of a managed PostgreSQL is.
func deployer(t *testing.T, db *testenv.DB, databases ...string) (urls []string) {
	t.Helper()
	db.Exec(t, `CREATE ROLE landlord NOLOGIN CREATEDB CREATEROLE`)
	db.Exec(t, `CREATE ROLE deployer LOGIN CREATEDB CREATEROLE IN ROLE landlord`)
	for _, name := range databases {
		db.Exec(t, `CREATE DATABASE `+name+` OWNER landlord`)
		urls = append(urls, strings.Replace(db.URL("deployer"), "/postgres?", "/"+name+"?", 1))
	}
	return urls
}

// superuser is the same database for the superuser.
func superuser(t *testing.T, db *testenv.DB, name string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), strings.Replace(db.URL(localenv.Superuser), "/postgres?", "/"+name+"?", 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestADeployerMigratesTwoDatabasesOfOneCluster(t *testing.T) {
	t.Parallel()
	db, ctx := testenv.EmptyPostgres(t), t.Context()
	urls := deployer(t, db, "one", "two")
	for _, url := range urls {
		up(ctx, t, url)
	}
	// One is taken back and applied again beside the other, whose roles are the same.
	_, newest := version(ctx, t, urls[0])
	for range newest {
		if err := migrations.Down(ctx, urls[0], io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	up(ctx, t, urls[0])
	for _, name := range []string{"one", "two"} {
		conn := superuser(t, db, name)
		for _, breach := range breaches(ctx, t, conn, "") {
			t.Errorf("database %s: %s", name, breach)
		}
		var made int
		_, err := conn.Exec(ctx, `SET SESSION AUTHORIZATION usher_sweep`)
		if err := errors.Join(err, conn.QueryRow(ctx, `SELECT app.make_history_partitions(1)`).Scan(&made)); err != nil || made != 1 {
			t.Errorf("database %s: the sweep makes %d partitions (%v)", name, made, err)
		}
	}
}

func TestAMigrationWaitsForTheOneThatRuns(t *testing.T) {
	t.Parallel()
	db, ctx := testenv.EmptyPostgres(t), t.Context()
	url, other := db.URL(localenv.Superuser), db.Owner(t)
	if _, err := other.Exec(ctx, `SELECT pg_advisory_lock($1)`, lock.DefaultLockID); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- migrations.Up(ctx, url, io.Discard) }()
	testenv.Eventually(t, 10*time.Second, func() error {
		if n := testenv.Value[int](t, db, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'migrate' AND query LIKE '%advisory_lock%'`); n != 1 {
			return fmt.Errorf("%d migrations ask for the lock", n)
		}
		return nil
	})
	if n := testenv.Value[int](t, db, `SELECT count(*) FROM pg_namespace WHERE nspname = 'app'`); n != 0 {
		t.Error("it does not wait")
	}
	// Somebody who waits no longer leaves nothing behind.
	impatient, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := migrations.Up(impatient, url, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled while it waits: %v", err)
	}
	if _, err := other.Exec(ctx, `SELECT pg_advisory_unlock($1)`, lock.DefaultLockID); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if have, newest := version(ctx, t, url); have != newest {
		t.Errorf("the version is %d of %d", have, newest)
	}
}
