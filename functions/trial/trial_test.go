package trial_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/functions/trial"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/httpx/httpxtest"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

const (
	audience = "usher-test"
	ring     = "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

// world is the function, as its environment opens it, with a product that has a trial tier.
type world struct {
	t       *testing.T
	db      *testenv.DB
	log     *testenv.LogCapture
	issuer  *localenv.Issuer
	handler http.Handler
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: testenv.Postgres(t), log: testenv.Logs(t), issuer: testenv.Issuer(t)}
	w.db.Exec(t, `INSERT INTO app.products (code, name) VALUES ('editor', 'Editor'), ('viewer', 'Viewer')`)
	w.db.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('free', 'editor', 'Free')`)
	w.db.Exec(t, `INSERT INTO app.plans (code, product_code, name, max_seats, trial_falls_to) VALUES ('pro', 'editor', 'Pro', 5, 'free')`)
	env := map[string]string{
		"DATABASE_URL": w.db.URL("usher_trial"), "BUDGET_REDIS_URL": "redis://127.0.0.1:1/1", "LICENSE_KEY_PEPPERS": ring, "IDENTITY_ISSUER": w.issuer.URL(), "IDENTITY_AUDIENCE": audience,
	}
	f, err := trial.Open(t.Context(), func(name string) string { return env[name] }, w.log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	document, err := httpx.OpenAPI("trial", "test", f.Routes)
	if err != nil {
		t.Fatal(err)
	}
	w.handler = httpxtest.Check(t, document)(httpx.New(httpx.Service{Name: "trial", Version: "test", Log: w.log.Logger}, f.Routes...))
	return w
}

// person is somebody in a new organisation, by the subject of their token.
func (w *world) person(subject, email, role string) {
	w.t.Helper()
	tenant := uuid.Must(uuid.NewV7())
	w.db.Exec(w.t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, $2, $2)`, tenant, subject)
	w.db.Exec(w.t, `INSERT INTO app.users (tenant_id, id, email, role, status, issuer, subject, joined_at)
		VALUES ($1, gen_random_uuid(), $2, $3, 'active', $4, $5, now())`, tenant, email, role, w.issuer.URL(), subject)
}

type answer struct {
	status int
	raw    string
	trial.Answer
	Code string
}

func (w *world) start(subject, email, body string, header ...string) answer {
	w.t.Helper()
	token, err := w.issuer.Token(map[string]any{"aud": audience, "sub": subject, "email": email, "email_verified": subject != "unverified"}, time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(w.t.Context(), "POST", "/v1/trial", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if subject != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, r)
	a := answer{status: recorder.Code, raw: recorder.Body.String()}
	if err := json.Unmarshal(recorder.Body.Bytes(), &a); err != nil {
		w.t.Errorf("answered %s", a.raw)
	}
	return a
}

func on(hardware string) string { return `{"product":"editor","hardware_id":"` + hardware + `"}` }

func TestATrialLastsFourteenDaysAndIsShownOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.person("ada", "ada@example.com", "admin")
	a := w.start("ada", "ada@example.com", on("laptop"), "Idempotency-Key", "k")
	if a.status != 201 || a.License.Plan != "pro" || a.License.EffectiveStatus != "trialing" || a.License.MaxSeats != 5 || !strings.HasPrefix(a.LicenseKey, "USH-") {
		t.Fatalf("answered %d %s", a.status, a.raw)
	}
	if length := a.License.ExpiresAt.Sub(a.License.CreatedAt.Time); length != 14*24*time.Hour {
		t.Errorf("it lasts %s", length)
	}
	if again := w.start("ada", "ada@example.com", on("laptop"), "Idempotency-Key", "k"); again.raw != a.raw {
		t.Errorf("the same request was answered %d %s", again.status, again.raw)
	}
	if told := testenv.Values[string](t, w.db, `SELECT type FROM app.events ORDER BY id`); fmt.Sprint(told) != "[trial.started license.created]" {
		t.Errorf("told is %v", told)
	}
	if kept := testenv.Value[string](t, w.db, `SELECT details::text FROM app.audit_entries WHERE action = 'trial.started'`); strings.Contains(kept, "laptop") || !strings.Contains(kept, receipt.HashHardware("laptop")) {
		t.Errorf("the audit log keeps %s of the device, want its hash alone", kept)
	}
	w.log.Hides(t, a.LicenseKey, "laptop")
}

func TestATrialIsOnceForEachOrganisationAddressAndDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for subject, email := range map[string]string{
		"ada": "ada@example.com", "alias": "ada+second@example.com", "bob": "bob@example.com", "eve": "eve@example.com", "member": "m@example.com",
	} {
		role := "owner"
		if subject == "member" {
			role = "member"
		}
		w.person(subject, email, role)
	}
	for _, c := range []struct {
		name, subject, email, body string
		status                     int
		code                       string
	}{
		{"by nobody", "", "", on("laptop"), 401, "id_token_missing"},
		{"by an address that is not verified", "unverified", "u@example.com", on("laptop"), 403, "email_not_verified"},
		{"by a member", "member", "m@example.com", on("laptop"), 403, "forbidden"},
		{"of a product without a trial tier", "ada", "ada@example.com", `{"product":"viewer","hardware_id":"laptop"}`, 404, "not_found"},
		{"of nothing", "ada", "ada@example.com", `{}`, 422, "invalid_request"},
		{"the first", "ada", "ada@example.com", on("laptop"), 201, ""},
		{"the organisation's second", "ada", "ada@example.com", on("desktop"), 409, "trial_already_used"},
		{"the address's second", "alias", "Ada+second@Example.com", on("desktop"), 409, "trial_already_used"},
		{"the device's second", "bob", "bob@example.com", on("laptop"), 409, "trial_already_used"},
		{"another's", "bob", "bob@example.com", on("desktop"), 201, ""},
	} {
		if a := w.start(c.subject, c.email, c.body); a.status != c.status || a.Code != c.code {
			t.Errorf("%s: answered %d %s, want %d %s", c.name, a.status, a.raw, c.status, c.code)
		}
	}
	var all sync.WaitGroup
	statuses := make([]int, 12)
	for i := range statuses {
		all.Go(func() { statuses[i] = w.start("eve", "eve@example.com", on(fmt.Sprint("machine-", i))).status })
	}
	all.Wait()
	made := 0
	for _, s := range statuses {
		if s == 201 {
			made++
		} else if s != 409 {
			t.Errorf("one of many at once was answered %d", s)
		}
	}
	if trials := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.licenses`); made != 1 || trials != 3 {
		t.Errorf("%d of many at once were made, and there are %d licences in all", made, trials)
	}
}
