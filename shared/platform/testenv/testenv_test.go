package testenv_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m, map[string]func(){
		"greet": func() {
			fmt.Println("hello", os.Getenv("GREETING"))
			select {}
		},
		"fail": func() { os.Exit(7) },
		"hold": hold,
	})
}

// hold starts stores and prints where they are, and holds on to them.
func hold() {
	ctx := context.Background()
	p, err := localenv.StartPostgres(ctx, localenv.PostgresOptions{})
	if err != nil {
		panic(err)
	}
	r, err := localenv.StartRedis(ctx, localenv.RedisOptions{})
	if err != nil {
		panic(err)
	}
	fmt.Println("postgres", p.URL("postgres", localenv.Superuser))
	fmt.Println("redis", r.Addr())
	select {}
}

func TestStoresEndWithTheirProcess(t *testing.T) {
	t.Parallel()
	p := testenv.Process(t, "hold", nil)
	address, err := url.Parse(p.Await(t, "postgres "))
	if err != nil {
		t.Fatal(err)
	}
	dir, redis := address.Query().Get("host"), p.Await(t, "redis ")
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	p.Kill(t)
	testenv.Eventually(t, 20*time.Second, func() error {
		if conn, err := net.Dial("tcp", redis); err == nil {
			_ = conn.Close()
			return errors.New("Redis is still there")
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("PostgreSQL's directory is still there (%w)", err)
		}
		return nil
	})
}

func TestKeptDataIsThereAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/kept" // its parents let nobody but us in: as root, PostgreSQL's data must be kept elsewhere
	ctx := t.Context()
	for run := range 2 {
		p, err := localenv.StartPostgres(ctx, localenv.PostgresOptions{Dir: dir, Fsync: true})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.Connect(ctx, p.URL("postgres", localenv.Superuser))
		if err != nil {
			t.Fatal(err)
		}
		statement := `create table kept ()`
		if run > 0 {
			statement = `drop table kept`
		}
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Errorf("run %d: %v", run, err)
		}
		if err := errors.Join(conn.Close(ctx), p.Close()); err != nil {
			t.Errorf("run %d: %v", run, err)
		}
	}
	if target, err := os.Readlink(dir); err == nil {
		if err := os.RemoveAll(target); err != nil {
			t.Error(err)
		}
	}

	rdir := t.TempDir()
	for run := range 2 {
		r, err := localenv.StartRedis(ctx, localenv.RedisOptions{Dir: rdir, AppendOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		n, err := r.Do(ctx, "INCR", "runs")
		if err != nil || n != int64(run+1) {
			t.Errorf("run %d: INCR answers %v (%v)", run, n, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAnIssuersKeyIsKept(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/issuer/key.pem"
	first, err := localenv.KeepIssuerKey(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := localenv.KeepIssuerKey(path)
	if err != nil || !first.Equal(second) {
		t.Errorf("the key is another one (%v)", err)
	}
}

func TestPostgresIsMigratedAndItsOwn(t *testing.T) {
	t.Parallel()
	a, b := testenv.Postgres(t), testenv.Postgres(t)
	a.Exec(t, `create table public.mine (n int)`)
	const find = `select count(*) from pg_tables where tablename = $1`
	if testenv.Value[int](t, a, find, "tenants") != 1 {
		t.Error("the database is not migrated")
	}
	if testenv.Value[int](t, b, find, "mine") != 0 {
		t.Error("two tests share a database")
	}
}

func TestPostgresLetsLoginRolesIn(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	conn := db.Connect(t, "usher_acquire")
	var user, timeout string
	err := conn.QueryRow(t.Context(), `select current_user::text, current_setting('statement_timeout')`).Scan(&user, &timeout)
	if err != nil || user != "usher_acquire" || timeout != "3s" {
		t.Errorf("user %q with statement_timeout %q (%v), want usher_acquire with 3s", user, timeout, err)
	}
}

func TestPrivatePostgresStopsAndStarts(t *testing.T) {
	t.Parallel()
	db := testenv.PrivatePostgres(t)
	db.Exec(t, `create table public.kept (n int)`)
	db.Stop(t)
	if _, err := pgx.Connect(t.Context(), db.URL("usher_acquire")); err == nil {
		t.Error("a stopped server answers")
	}
	db.Start(t)
	conn := db.Connect(t, "postgres")
	if _, err := conn.Exec(t.Context(), `insert into public.kept values (1)`); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	db.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := conn.Ping(ctx); err == nil {
		t.Error("a frozen server answers")
	}
	db.Resume(t)
	if _, err := db.Connect(t, "postgres").Exec(t.Context(), `insert into public.kept values (2)`); err != nil {
		t.Errorf("after the frost: %v", err)
	}
}

func TestPgBouncerSharesConnections(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	pooled := testenv.PgBouncer(t, db)
	for range 8 {
		config, err := pgx.ParseConfig(pooled.URL("usher_acquire"))
		if err != nil {
			t.Fatal(err)
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(context.Background()) }()
		if _, err := conn.Exec(t.Context(), `select 1`); err != nil {
			t.Fatal(err)
		}
	}
	n := testenv.Value[int](t, db, `select count(*) from pg_stat_activity where usename = 'usher_acquire' and datname = current_database()`)
	if n < 1 || n > 3 {
		t.Errorf("8 clients of the pooler hold %d connections, want 1 to 3", n)
	}
}

func TestRedisRestartsEmptyAtTheSameAddress(t *testing.T) {
	t.Parallel()
	r := testenv.Redis(t)
	r.Do(t, "SET", "k", "v")
	if got := r.Do(t, "GET", "k"); got != "v" {
		t.Fatalf("GET answers %v", got)
	}
	addr := r.Addr()
	r.RestartEmpty(t)
	if got := r.Do(t, "GET", "k"); got != nil || r.Addr() != addr {
		t.Errorf("after the restart k = %v at %s, want nothing at %s", got, r.Addr(), addr)
	}
	if got := r.Do(t, "CONFIG", "GET", "maxmemory-policy"); !strings.Contains(fmt.Sprint(got), "noeviction") {
		t.Errorf("maxmemory-policy is %v", got)
	}
}

func TestRedisClusterRefusesKeysOfTwoSlots(t *testing.T) {
	t.Parallel()
	r := testenv.RedisCluster(t)
	mget := func(a, b string) any {
		return r.Do(t, "EVAL", `return redis.pcall('MGET', unpack(ARGV))['err'] or 'allowed'`, 0, a, b)
	}
	if got := mget("{a}1", "{a}2"); got != "allowed" {
		t.Errorf("keys of one slot: %v", got)
	}
	if got := mget("{a}1", "{b}1"); got == "allowed" {
		t.Error("keys of two slots are allowed")
	}
}

func TestRedisPairFailsOverToAStaleReplica(t *testing.T) {
	t.Parallel()
	p := testenv.RedisPair(t)
	p.Primary.Do(t, "SET", "k", "old")
	p.AwaitReplica(t)
	p.CutReplication()
	p.Primary.Do(t, "SET", "k", "new")
	p.Failover(t)
	if got := p.Replica.Do(t, "GET", "k"); got != "old" {
		t.Errorf("the promoted replica holds %v, want what it had before the cut", got)
	}
	p.Replica.Do(t, "SET", "k", "newest") // fails the test while it is a replica
}

func TestIssuerIsBelieved(t *testing.T) {
	t.Parallel()
	issuer := testenv.Issuer(t)
	provider, err := oidc.NewProvider(t.Context(), issuer.URL())
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: "us"})
	token, err := issuer.Token(map[string]any{"aud": "us", "sub": "someone"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(t.Context(), token); err != nil {
		t.Errorf("a good token: %v", err)
	}
	token, err = issuer.Token(map[string]any{"aud": "us"}, -time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(t.Context(), token); err == nil {
		t.Error("an expired token is believed")
	}
}

func TestProcessRunsThisBinary(t *testing.T) {
	t.Parallel()
	p := testenv.Process(t, "greet", map[string]string{"GREETING": "world"})
	if got := p.Await(t, "hello "); got != "world" {
		t.Errorf("the process greets %q", got)
	}
	p.Kill(t)
	if code := testenv.Process(t, "fail", nil).Wait(t, 30*time.Second); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
}

func TestEventuallyAsksAgain(t *testing.T) {
	t.Parallel()
	n := 0
	testenv.Eventually(t, time.Second, func() error {
		if n++; n < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if n != 3 {
		t.Errorf("asked %d times", n)
	}
}
