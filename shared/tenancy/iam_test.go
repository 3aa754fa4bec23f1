package tenancy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// login is how Cloud SQL names a service account.
const login = "fn-acquire@usher-test.iam"

// hand makes the token the password of the login in the database, as Cloud SQL believes the newest, and hands it out.
func hand(t *testing.T, m *testenv.MetadataServer, db *testenv.PrivateDB, token string, life time.Duration) {
	t.Helper()
	db.Exec(t, `alter role `+pgx.Identifier{login}.Sanitize()+` password '`+token+`'`)
	m.Hand(token, life)
}

func as(role string) string { return "&role=" + role }

// newIAM is a database where the service account is somebody who may act as usher_acquire.
func newIAM(t *testing.T) *testenv.PrivateDB {
	t.Helper()
	db := testenv.GuardedPostgres(t)
	db.Exec(t, note)
	db.Exec(t, `create role `+pgx.Identifier{login}.Sanitize()+` login in role usher_acquire`)
	return db
}

// cut ends all sessions of the login, as Cloud SQL does when it is maintained.
func cut(t *testing.T, db *testenv.PrivateDB) {
	t.Helper()
	testenv.Values[bool](t, db.DB, `select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = $1`, login)
}

// The tests of IAM share a server and a metadata server, which is the whole process's: one after the other.
func TestByIAM(t *testing.T) {
	db, m := newIAM(t), testenv.Metadata(t)
	t.Setenv("GCE_METADATA_HOST", m.Addr())

	t.Run("a session acts as the function's role, with its deadlines, and sees one tenant", func(t *testing.T) {
		hand(t, m, db, "ya29.first", time.Hour)
		b := open(t, db.GuardedURL(login)+as("usher_acquire"), tenancy.Config{IAM: true, MaxConns: 8})
		if err := onlyOwn(t.Context(), b.db, b.a); err != nil {
			t.Error(err)
		}
		if err := onlyOwn(t.Context(), b.db, b.b); err != nil {
			t.Error(err)
		}
		if got := b.read(t, tenancy.ID{}); len(got) != 0 {
			t.Errorf("nobody sees %d notes", len(got))
		}
		var who []string
		err := b.db.AsReadOnly(t.Context(), b.a, func(tx tenancy.Tx) error {
			return tx.QueryRow(t.Context(), `select array[session_user, current_user, current_setting('statement_timeout'),
				current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'), current_setting('search_path')]`).Scan(&who)
		})
		want := []string{login, "usher_acquire", "3s", "1s", "5s", "app"}
		if err != nil || fmt.Sprint(who) != fmt.Sprint(want) {
			t.Errorf("the session is %q (%v), want %q", who, err, want)
		}
		if strings.Contains(b.log.Text(), "ya29") {
			t.Errorf("the token is in the log: %s", b.log.Text())
		}
	})

	t.Run("a token is kept while it is good and fetched anew when it is not", func(t *testing.T) {
		hand(t, m, db, "ya29.second", time.Hour)
		b := open(t, db.GuardedURL(login)+as("usher_acquire"), tenancy.Config{IAM: true, MaxConns: 1})
		before := m.Asked()
		for range 3 {
			if err := b.db.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			cut(t, db)
			_ = b.db.Ping(t.Context()) // finds out
		}
		if asked := m.Asked() - before; asked != 1 {
			t.Errorf("a good token was fetched %d times", asked)
		}

		hand(t, m, db, "ya29.third", 30*time.Second) // less than a connection is begun with
		b = open(t, db.GuardedURL(login)+as("usher_acquire"), tenancy.Config{IAM: true, MaxConns: 1})
		if err := b.db.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		hand(t, m, db, "ya29.fourth", time.Hour)
		cut(t, db)
		testenv.Eventually(t, 10*time.Second, func() error { return b.db.Ping(t.Context()) })
		if err := onlyOwn(t.Context(), b.db, b.a); err != nil {
			t.Error(err)
		}
	})

	t.Run("without the metadata server the database is unavailable and open connections stay", func(t *testing.T) {
		hand(t, m, db, "ya29.fifth", 30*time.Second)
		b := open(t, db.GuardedURL(login)+as("usher_acquire"), tenancy.Config{IAM: true, MaxConns: 2, Timeout: time.Second, ConnectTimeout: 500 * time.Millisecond})
		ctx := t.Context()
		var pid int
		const backend = `select pg_backend_pid()`
		scan := func(pid *int) func(tenancy.Tx) error {
			return func(tx tenancy.Tx) error { return tx.QueryRow(ctx, backend).Scan(pid) }
		}
		if err := b.db.As(ctx, b.a, scan(&pid)); err != nil {
			t.Fatal(err)
		}
		silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		defer silent.Close()
		gone := httptest.NewServer(nil)
		gone.Close()
		for what, address := range map[string]string{"silent": silent.Listener.Addr().String(), "gone": gone.Listener.Addr().String()} {
			t.Setenv("GCE_METADATA_HOST", address)
			begin := time.Now()
			err := b.db.As(ctx, b.a, func(tenancy.Tx) error { // holds the one connection there is
				return b.db.As(ctx, b.a, func(tenancy.Tx) error { return nil })
			})
			if !unavailable(err) {
				t.Errorf("%s, a second connection answers %v", what, err)
			}
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("%s, that took %s", what, took)
			}
		}
		var still int
		if err := b.db.As(ctx, b.a, scan(&still)); err != nil || still != pid {
			t.Errorf("the session was %d and is %d (%v)", pid, still, err)
		}
	})

	t.Run("what may bypass row-level security is refused", func(t *testing.T) {
		hand(t, m, db, "ya29.sixth", time.Hour)
		who := pgx.Identifier{login}.Sanitize()
		for name, sql := range map[string]struct{ raise, lower string }{
			"the login itself":          {`alter role ` + who + ` bypassrls`, `alter role ` + who + ` nobypassrls`},
			"a superuser":               {`alter role ` + who + ` superuser`, `alter role ` + who + ` nosuperuser`},
			"a role that it can become": {`create role above bypassrls role ` + who, `drop role above`},
		} {
			db.Exec(t, sql.raise)
			b := open(t, db.GuardedURL(login)+as("usher_acquire"), tenancy.Config{IAM: true})
			if err := b.db.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "may bypass row-level security") {
				t.Errorf("%s: %v", name, err)
			}
			db.Exec(t, sql.lower)
		}
	})

	t.Run("a role that the account was not given is refused", func(t *testing.T) {
		hand(t, m, db, "ya29.seventh", time.Hour)
		b := open(t, db.GuardedURL(login)+as("usher_operator"), tenancy.Config{IAM: true})
		if err := b.db.Ping(t.Context()); tenancy.Code(err) != "42501" {
			t.Errorf("as usher_operator: %v", err)
		}
	})
}

func TestATokenGoesOnlyToAServerThatIsVerifiedAndARoleIsNamed(t *testing.T) {
	t.Parallel()
	log := testenv.Logs(t)
	for query, want := range map[string]string{
		"sslmode=disable&role=usher_acquire": "verify-ca",
		"sslmode=prefer&role=usher_acquire":  "verify-ca",
		"sslmode=require&role=usher_acquire": "verify-ca",
		"sslmode=verify-full":                "role=usher_",
	} {
		_, err := tenancy.OpenURL(t.Context(), "postgres://fn-acquire%40p.iam@10.0.0.1/usher?"+query, tenancy.Config{IAM: true}, log.Logger)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", query, err)
		}
	}
}
