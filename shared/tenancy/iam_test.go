package tenancy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// login is how Cloud SQL names a service account.
const login = "fn-acquire@usher-test.iam"

// metadataServer stands in for the server that tells an instance's service account its tokens, and speaks as it does.
type metadataServer struct {
	*httptest.Server

	mu      sync.Mutex
	token   string
	seconds int
	asked   int
}

// newMetadataServer takes the place of the metadata server for the whole process: such a test is not parallel.
func newMetadataServer(t *testing.T) *metadataServer {
	t.Helper()
	m := &metadataServer{}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	t.Setenv("GCE_METADATA_HOST", m.Listener.Addr().String())
	return m
}

func (m *metadataServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w.Header().Set("Metadata-Flavor", "Google")
	switch {
	case r.Header.Get("Metadata-Flavor") != "Google":
		http.Error(w, "Missing required header: Metadata-Flavor", http.StatusForbidden)
	case r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/token" ||
		r.URL.Query().Get("scopes") != "https://www.googleapis.com/auth/sqlservice.login":
		http.NotFound(w, r)
	default:
		m.asked++
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"expires_in":%d,"token_type":"Bearer"}`, m.token, m.seconds)
	}
}

// hand makes the token the password of the login in the database, as Cloud SQL believes the newest, and hands it out.
func (m *metadataServer) hand(t *testing.T, db *testenv.PrivateDB, token string, seconds int) {
	t.Helper()
	db.Exec(t, `alter role `+pgx.Identifier{login}.Sanitize()+` password '`+token+`'`)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.token, m.seconds = token, seconds
}

func (m *metadataServer) times() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
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
	db, m := newIAM(t), newMetadataServer(t)

	t.Run("a session acts as the function's role, with its deadlines, and sees one tenant", func(t *testing.T) {
		m.hand(t, db, "ya29.first", 3600)
		b := open(t, db.GuardedURL(login)+as("usher_acquire"), tenancy.Config{IAM: true})
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
		m.hand(t, db, "ya29.second", 3600)
		b := open(t, db.GuardedURL(login)+as("usher_acquire"), tenancy.Config{IAM: true, MaxConns: 1})
		before := m.times()
		for range 3 {
			if err := b.db.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			cut(t, db)
			_ = b.db.Ping(t.Context()) // finds out
		}
		if asked := m.times() - before; asked != 1 {
			t.Errorf("a good token was fetched %d times", asked)
		}

		m.hand(t, db, "ya29.third", 30) // less than a connection is begun with
		b = open(t, db.GuardedURL(login)+as("usher_acquire"), tenancy.Config{IAM: true, MaxConns: 1})
		if err := b.db.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.hand(t, db, "ya29.fourth", 3600)
		cut(t, db)
		testenv.Eventually(t, 10*time.Second, func() error { return b.db.Ping(t.Context()) })
		if err := onlyOwn(t.Context(), b.db, b.a); err != nil {
			t.Error(err)
		}
	})

	t.Run("without the metadata server the database is unavailable and open connections stay", func(t *testing.T) {
		m.hand(t, db, "ya29.fifth", 30)
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
		m.hand(t, db, "ya29.sixth", 3600)
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
		m.hand(t, db, "ya29.seventh", 3600)
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
