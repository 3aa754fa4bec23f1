package register_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coditect/usher/functions/register"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/httpx/httpxtest"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

const audience = "usher-test"

// world is the function on a real database, with a free plan.
type world struct {
	t       *testing.T
	db      *testenv.DB
	log     *testenv.LogCapture
	issuer  *localenv.Issuer
	deps    register.Deps
	handler http.Handler
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, testenv.Postgres(t))
}

func newWorldOn(t *testing.T, db *testenv.DB) *world {
	t.Helper()
	w := &world{t: t, db: db, log: testenv.Logs(t), issuer: testenv.Issuer(t)}
	db.Exec(t, `INSERT INTO app.products (code, name) VALUES ('editor', 'Editor')`)
	db.Exec(t, `INSERT INTO app.plans (code, product_code, name, max_seats, features) VALUES ('free', 'editor', 'Free', 2, '{export}')`)
	url, err := tenancy.OpenURL(t.Context(), db.URL("usher_register"), tenancy.Config{}, w.log.Logger)
	w.must(err)
	t.Cleanup(url.Close)
	var peppers secret.Peppers
	w.must(peppers.UnmarshalText([]byte("1:" + strings.Repeat("A", 43) + "=")))
	registry, err := license.NewRegistry(license.RegistryConfig{Peppers: peppers, ShortestTTLSeconds: 1})
	w.must(err)
	w.deps = register.Deps{DB: url, People: w.people(url), Registry: registry, Plan: "free", Log: w.log.Logger}
	document, err := httpx.OpenAPI("register", "test", register.Routes(w.deps))
	w.must(err)
	w.handler = httpxtest.Check(t, document)(register.New(w.deps))
	return w
}

func (w *world) people(db *tenancy.DB) *identity.People {
	return identity.NewPeople(identity.NewIDTokens(identity.IDTokenConfig{Issuer: w.issuer.URL(), Audience: audience}, time.Now), db)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// token is an ID token of somebody; changes are pairs of a claim and its value.
func (w *world) token(name string, changes ...any) string {
	w.t.Helper()
	claims := map[string]any{"aud": audience, "sub": name, "email": name + "@example.com", "email_verified": true, "name": strings.ToUpper(name)}
	for i := 0; i < len(changes); i += 2 {
		claims[changes[i].(string)] = changes[i+1]
	}
	token, err := w.issuer.Token(claims, time.Hour)
	w.must(err)
	return token
}

type answer struct {
	status int
	header http.Header
	raw    string
	register.Answer
	Code   string
	Errors []struct{ Field, Code string }
}

// register sends a request; key is its Idempotency-Key, "" for none.
func (w *world) register(token, body, key string) answer {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), "POST", "/v1/register", strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, r)
	a := answer{status: recorder.Code, header: recorder.Header(), raw: recorder.Body.String()}
	if err := json.Unmarshal(recorder.Body.Bytes(), &a); err != nil {
		w.t.Fatalf("answered no JSON: %s", a.raw)
	}
	if a.LicenseKey != "" {
		w.log.Hides(w.t, a.LicenseKey, token)
	}
	return a
}

func (a answer) refused(t *testing.T, status int, code string) {
	t.Helper()
	if a.status != status || a.Code != code {
		t.Errorf("answered %d %s, want %d %s", a.status, a.raw, status, code)
	}
}

const acme = `{"organization_name":"Acme Robotics"}`

func TestAPersonRegistersATenantWithAnOwnerAndAFreeLicence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.register(w.token("ada"), acme, "")
	if a.status != http.StatusCreated {
		t.Fatalf("answered %d %s", a.status, a.raw)
	}
	if a.Tenant.Name != "Acme Robotics" || a.Tenant.Slug != "acme-robotics" || a.Tenant.Status != "active" ||
		a.User.Email != "ada@example.com" || a.User.Role != "owner" || *a.User.Name != "ADA" ||
		a.License.TenantID != a.Tenant.ID || a.License.Plan != "free" || a.License.MaxSeats != 2 || a.License.Features[0] != "export" ||
		!strings.HasPrefix(a.LicenseKey, "USH-") || a.License.KeyHint != a.LicenseKey[:8]+"…"+a.LicenseKey[len(a.LicenseKey)-4:] {
		t.Errorf("answered %s", a.raw)
	}
	var recorded []string
	for _, made := range []struct{ action, subject string }{
		{"tenant.created", "tenant:" + a.Tenant.ID.String()}, {"user.created", "user:" + a.User.ID.String()}, {"license.created", "license:" + a.License.ID.String()},
	} {
		recorded = append(recorded, fmt.Sprintf("%s %s done user:%s id_token", made.action, made.subject, a.User.ID))
	}
	if got := testenv.Value[string](t, w.db, `
		SELECT string_agg(concat_ws(' ', action, subject, outcome, actor, credential), '; ' ORDER BY seq)
		  FROM app.audit_entries WHERE tenant_id = $1`, a.Tenant.ID); got != strings.Join(recorded, "; ") {
		t.Errorf("recorded are %s", got)
	}
	// Whom the database takes for the owner may do what owners may.
	admin, err := tenancy.OpenURL(t.Context(), w.db.URL("usher_admin"), tenancy.Config{}, w.log.Logger)
	w.must(err)
	t.Cleanup(admin.Close)
	people := w.people(admin)
	who, err := people.Identify(t.Context(), w.token("ada"))
	w.must(err)
	person, err := people.Person(t.Context(), who)
	if err != nil || person.Tenant.UUID() != a.Tenant.ID || person.User != a.User.ID || person.Role != identity.Owner || person.Operator {
		t.Errorf("the owner is %+v, %v", person, err)
	}
	// Another organisation of the name has another slug.
	if b := w.register(w.token("bob"), acme, ""); b.status != http.StatusCreated || !strings.HasPrefix(b.Tenant.Slug, "acme-robotics-") {
		t.Errorf("answered %d %s", b.status, b.raw)
	}
}

func TestAnIdentityRegistersOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.register(w.token("ada"), acme, "k1")
	for _, key := range []string{"", "k2"} {
		w.register(w.token("ada"), acme, key).refused(t, http.StatusConflict, "already_registered")
		w.register(w.token("ada", "email", "other@example.com"), acme, key).refused(t, http.StatusConflict, "already_registered")
	}
	again := w.register(w.token("ada"), acme, "k1")
	if first.status != http.StatusCreated || again.status != http.StatusCreated || again.raw != first.raw || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("answered %d %s, first %s", again.status, again.raw, first.raw)
	}
	w.register(w.token("ada"), `{"organization_name":"Other"}`, "k1").refused(t, http.StatusUnprocessableEntity, "idempotency_key_reused")
	// Somebody else's key of the same name is another request.
	if b := w.register(w.token("bob"), acme, "k1"); b.status != http.StatusCreated || b.Tenant.ID == first.Tenant.ID {
		t.Errorf("answered %d %s", b.status, b.raw)
	}
	// Also who has left what they founded.
	w.db.Exec(t, `UPDATE app.users SET status = 'removed', removed_at = now() WHERE id = $1`, first.User.ID)
	w.register(w.token("ada"), acme, "").refused(t, http.StatusConflict, "already_registered")
	// Who was only a guest elsewhere may.
	w.db.Exec(t, `UPDATE app.users SET founder = false WHERE id = $1`, first.User.ID)
	if a := w.register(w.token("ada"), acme, ""); a.status != http.StatusCreated {
		t.Errorf("answered %d %s", a.status, a.raw)
	}
	if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.tenants`); n != 3 {
		t.Errorf("%d tenants", n)
	}
}

// Outcome: one tenant. Requests with one Idempotency-Key all get it, of the others one does.
func TestOfRegistrationsAtOnceOneIsMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		name, key string
		created   func(int) bool
	}{
		{"ada", "", func(n int) bool { return n == 1 }},
		{"bob", "same", func(n int) bool { return n >= 1 }},
	} {
		token := w.token(c.name)
		answers := make([]answer, 6)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() { answers[i] = w.register(token, acme, c.key) })
		}
		all.Wait()
		created, tenants := 0, map[string]bool{}
		for _, a := range answers {
			switch {
			case a.status == http.StatusCreated:
				created++
				tenants[a.raw] = true
			case a.status == http.StatusServiceUnavailable: // it waited for the first for too long, and may be sent again
			case c.key == "":
				a.refused(t, http.StatusConflict, "already_registered")
			default:
				a.refused(t, http.StatusConflict, "idempotency_in_flight")
			}
		}
		if !c.created(created) || len(tenants) != 1 {
			t.Errorf("%s: %d were made: %v", c.name, created, tenants)
		}
		if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.users WHERE subject = $1`, c.name); n != 1 {
			t.Errorf("%s is %d users", c.name, n)
		}
	}
	if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.tenants`); n != 2 {
		t.Errorf("%d tenants", n)
	}
}

func TestWithoutAGoodTokenNobodyRegisters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, c := range map[string]struct {
		token  string
		status int
		code   string
	}{
		"none":                {"", http.StatusUnauthorized, "id_token_missing"},
		"an API key":          {"ush_" + strings.Repeat("0", 33), http.StatusUnauthorized, "id_token_invalid"},
		"expired":             {w.token("ada", "exp", time.Now().Add(-time.Minute).Unix()), http.StatusUnauthorized, "id_token_expired"},
		"another audience":    {w.token("ada", "aud", "other"), http.StatusUnauthorized, "id_token_wrong_audience"},
		"another issuer":      {w.token("ada", "iss", "https://other.example"), http.StatusUnauthorized, "id_token_wrong_issuer"},
		"from the future":     {w.token("ada", "iat", time.Now().Add(time.Hour).Unix()), http.StatusUnauthorized, "id_token_not_yet_valid"},
		"an unverified email": {w.token("ada", "email_verified", false), http.StatusForbidden, "email_not_verified"},
	} {
		for _, body := range []string{acme, `{"wrong":`, ""} {
			if a := w.register(c.token, body, ""); a.status != c.status || a.Code != c.code {
				t.Errorf("%s: answered %d %s", name, a.status, a.raw)
			}
		}
	}
	if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.tenants`); n != 0 {
		t.Errorf("%d tenants", n)
	}
}

func TestABadRequestRegistersNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for body, want := range map[string]string{
		`{}`:                       "organization_name required",
		`{"organization_name":""}`: "organization_name too_short",
		`{"organization_name":7}`:  "organization_name wrong_type",
		`{"organization_name":"x","tenant_id":"y"}`:                       "tenant_id unknown_field",
		fmt.Sprintf(`{"organization_name":%q}`, strings.Repeat("x", 201)): "organization_name too_long",
	} {
		a := w.register(w.token("ada"), body, "")
		if a.status != http.StatusUnprocessableEntity || len(a.Errors) != 1 || a.Errors[0].Field+" "+a.Errors[0].Code != want {
			t.Errorf("%s: answered %d %s, want %s", body, a.status, a.raw, want)
		}
	}
	w.register(w.token("ada"), `{`, "").refused(t, http.StatusBadRequest, "malformed_json")
	w.register(w.token("ada"), acme, "two words").refused(t, http.StatusBadRequest, "idempotency_key_invalid")
}

func TestWithoutAFreePlanNothingIsMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.Exec(t, `DELETE FROM app.plans`)
	w.register(w.token("ada"), acme, "k").refused(t, http.StatusInternalServerError, "internal_error")
	for _, table := range []string{"tenants", "users", "licenses", "idempotency_keys"} {
		if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.`+table); n != 0 {
			t.Errorf("%d rows in %s", n, table)
		}
	}
	if !strings.Contains(w.log.Text(), "REGISTER_PLAN") {
		t.Error("the log does not say which setting is wrong")
	}
}

func TestWithoutPostgreSQLTheRetryRegisters(t *testing.T) {
	t.Parallel()
	private := testenv.PrivatePostgres(t)
	w := newWorldOn(t, private.DB)
	private.Stop(t)
	a := w.register(w.token("ada"), acme, "k")
	a.refused(t, http.StatusServiceUnavailable, "store_unavailable")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	private.Start(t)
	testenv.Eventually(t, 20*time.Second, func() error {
		if a := w.register(w.token("ada"), acme, "k"); a.status != http.StatusCreated {
			return fmt.Errorf("answered %d %s", a.status, a.raw)
		}
		return nil
	})
}

func TestOpenServesFromItsEnvironment(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"DATABASE_URL": testenv.Postgres(t).URL("usher_register"), "BUDGET_REDIS_URL": "redis://127.0.0.1:1/1", "LICENSE_KEY_PEPPERS": "1:" + strings.Repeat("A", 43) + "=",
		"IDENTITY_ISSUER": "https://issuer.example", "IDENTITY_AUDIENCE": audience,
	}
	getenv := func(name string) string { return env[name] }
	f, err := register.Open(t.Context(), getenv, testenv.Logs(t).Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	for _, check := range f.Ready {
		if err := check.Ping(t.Context()); err != nil {
			t.Errorf("%s: %v", check.Name, err)
		}
	}
	if f.Name != "register" || len(f.Routes) != 1 {
		t.Errorf("opened %s with %d routes", f.Name, len(f.Routes))
	}
	_, err = register.Open(t.Context(), func(string) string { return "" }, testenv.Logs(t).Logger)
	for variable := range env {
		if err == nil || !strings.Contains(err.Error(), variable) {
			t.Errorf("%s is not named: %v", variable, err)
		}
	}
}
