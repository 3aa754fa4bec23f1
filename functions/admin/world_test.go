package admin_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/notify/webhook"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/httpx/httpxtest"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/secret/secretmanager"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/signing/rotation"
	"github.com/coditect/usher/shared/tenancy"
)

// world is the function on real stores, with a catalogue and two tenants, each of which has a licence and a key with
// every scope. Every exchange is held to the OpenAPI document.
type world struct {
	t       *testing.T
	db      *testenv.DB
	redis   *testenv.RedisServer
	log     *testenv.LogCapture
	handler http.Handler
	deps    admin.Deps
	seats   *seat.Pools // as function acquire has them
	a, b    customer
	issuer  *localenv.Issuer
	cloud   *localenv.Cloud
	// operator is the operator's first API key.
	operator string
	secrets  []string
}

type customer struct {
	id, license, licenseKey, key, keyID string
	// user is the id of the tenant's owner, owner their ID token, invitation one that nobody has accepted.
	user, owner, invitation string
	// webhook is one that wants everything, delivery something that is to be sent to it.
	webhook, delivery string
}

const audience = "usher-test"

// The keys in Cloud KMS, and the secret in Secret Manager; makeKeys makes them.
const (
	rootKey     = "projects/usher/locations/test/keyRings/usher/cryptoKeys/roots"
	wrappingKey = "projects/usher/locations/test/keyRings/usher/cryptoKeys/receipt-keys"
	tokenSecret = "projects/usher/secrets/seat-token-keys"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, testenv.Postgres(t))
}

func newWorldOn(t *testing.T, db *testenv.DB) *world {
	t.Helper()
	w := &world{t: t, db: db, redis: testenv.Redis(t), log: testenv.Logs(t), issuer: testenv.Issuer(t), cloud: testenv.Cloud(t)}
	pools := func(db *tenancy.DB) *seat.Pools {
		p, err := seat.New(seat.Config{
			URL: config.Secret(w.redis.URL()), Connections: 20, Reservation: time.Second, ConnectionLife: time.Second,
			ClockAllowance: 100 * time.Millisecond, Poll: time.Second,
		}, db, w.log.Logger)
		w.must(err)
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	db1 := w.as("usher_admin")
	registry, err := license.NewRegistry(license.RegistryConfig{Peppers: w.peppers(), ShortestTTLSeconds: 1})
	w.must(err)
	tokens := identity.NewIDTokens(identity.IDTokenConfig{Issuer: w.issuer.URL(), Audience: audience}, time.Now)
	w.deps = admin.Deps{
		People: identity.NewPeople(tokens, db1),
		DB:     db1, Operator: w.as("usher_operator"), Keys: identity.New(identity.Config{Peppers: w.peppers()}, db1),
		Registry: registry, Seats: pools(db1), Roots: signing.NewRoots(db1, w.vault(kms.Sign).Signer), Issuer: issuer, Log: w.log.Logger,
	}
	w.deps.Notices = notify.NewKeys(w.noticeKeys())
	w.deps.Hooks, err = webhook.OpenGuard(func(string) string { return "" })
	w.must(err)
	w.seats = pools(w.as("usher_acquire"))
	document, err := httpx.OpenAPI("admin", "test", admin.Routes(w.deps))
	w.must(err)
	w.handler = httpxtest.Check(t, document)(admin.New(w.deps))

	key, err := admin.Bootstrap(t.Context(), w.deps.Operator, w.deps.Keys, false)
	w.must(err)
	w.operator = w.hidden(key.Reveal())
	w.put("/v1/catalog/products/editor", `{"name":"Editor"}`)
	w.put("/v1/catalog/plans/team", `{"product":"editor","name":"Team","max_seats":3,"ttl_seconds":60,"features":["export"],"versions":">=2.0 <4.0"}`)
	w.a, w.b = w.customer("acme"), w.customer("bravo")
	t.Cleanup(func() { w.log.Hides(t, w.secrets...) })
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// hidden is a secret that the log must not show.
func (w *world) hidden(secret string) string {
	w.t.Helper()
	if secret == "" {
		w.t.Fatal("there is no secret")
	}
	w.secrets = append(w.secrets, secret)
	return secret
}

func (w *world) peppers() secret.Peppers {
	w.t.Helper()
	var p secret.Peppers
	w.must(p.UnmarshalText([]byte("1:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))))
	return p
}

func (w *world) noticeKeys() (ring secret.Ring) {
	w.t.Helper()
	w.must(ring.UnmarshalText([]byte("a:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32)))))
	return ring
}

func (w *world) as(role string) *tenancy.DB {
	w.t.Helper()
	db, err := tenancy.OpenURL(w.t.Context(), w.db.URL(role), tenancy.Config{}, w.log.Logger)
	w.must(err)
	w.t.Cleanup(db.Close)
	return db
}

// issuer is in whose name licence files are signed.
const issuer = "https://usher.example"

func (w *world) getenv(variable string) string {
	return map[string]string{
		"CLOUD_EMULATOR": w.cloud.Addr(), "KMS_ROOT_KEY": rootKey, "KMS_WRAPPING_KEY": wrappingKey, "SEAT_TOKEN_SECRET": tokenSecret,
	}[variable]
}

// vault is Cloud KMS as a function has it.
func (w *world) vault(use kms.Use) *kms.Vault {
	w.t.Helper()
	vault, err := kms.Open(w.getenv, use)
	w.must(err)
	w.t.Cleanup(func() { _ = vault.Close() })
	return vault
}

// makeKeys makes the signing keys as function rotate does, and answers the roots that an application is built with.
func (w *world) makeKeys() receipt.Roots {
	w.t.Helper()
	w.must(errors.Join(w.cloud.MakeSigningKey(rootKey), w.cloud.MakeEncryptionKey(wrappingKey), w.cloud.MakeSecret(tokenSecret)))
	ring, err := secretmanager.Open(w.getenv)
	w.must(err)
	w.t.Cleanup(func() { _ = ring.Close() })
	db := w.as("usher_rotate")
	_, err = rotation.New(rotation.Deps{DB: db, Vault: w.vault(kms.Wrap | kms.Rotate), Ring: ring, Now: db.Now, Log: w.log.Logger}).Run(w.t.Context())
	w.must(err)
	text, err := signing.PinnedRoots(w.t.Context(), db)
	w.must(err)
	roots, err := receipt.ParseRoots(text)
	w.must(err)
	return roots
}

func (w *world) put(path, body string) {
	w.t.Helper()
	w.operate("PUT", path, body).want(w.t, http.StatusOK)
}

// customer makes a tenant with a licence of three seats and a key with every scope.
func (w *world) customer(name string) customer {
	w.t.Helper()
	var c customer
	c.id = w.operate("POST", "/v1/tenants", fmt.Sprintf(`{"name":%q}`, name)).want(w.t, http.StatusCreated).text("id")
	sold := w.operate("POST", "/v1/licenses?tenant_id="+c.id, `{"plan":"team","max_seats":3}`).want(w.t, http.StatusCreated)
	c.license, c.licenseKey = sold.text("license.id"), w.hidden(sold.text("license_key"))
	made := w.makeKey(w.operator, c.id, identity.TenantScopes()...)
	c.key, c.keyID = w.hidden(made.text("api_key")), made.text("id")
	c.owner, c.user = w.join(c.id, name+"-owner", identity.Owner)
	c.invitation = w.invite(w.operator, c.id, "guest@"+name+".example", identity.Viewer).text("id")
	hook := w.call(c.key, "POST", "/v1/webhooks", `{"url":"https://hooks.`+name+`.example/usher","events":["*"],"description":"the ledger"}`).want(w.t, http.StatusCreated)
	c.webhook = hook.text("id")
	w.hidden(hook.text("secret"))
	c.delivery = uuid.NewString()
	w.db.Exec(w.t, `INSERT INTO app.webhook_deliveries (tenant_id, id, webhook_id, event_id, type, body) VALUES ($1::text::uuid, $2::text::uuid, $3::text::uuid, gen_random_uuid(), 'seat.denied', '{"a":1}')`,
		c.id, c.delivery, c.webhook)
	return c
}

// token is an ID token of somebody, with further claims.
func (w *world) token(name string, claims ...map[string]any) string {
	w.t.Helper()
	all := map[string]any{"aud": audience, "sub": name, "email": name + "@example.com", "email_verified": true}
	for _, more := range claims {
		maps.Copy(all, more)
	}
	token, err := w.issuer.Token(all, time.Hour)
	w.must(err)
	return w.hidden(token)
}

// invite asks an address into a tenant.
func (w *world) invite(by, tenant, email string, role identity.Role) answer {
	w.t.Helper()
	path := "/v1/invitations"
	if tenant != "" {
		path += "?tenant_id=" + tenant
	}
	a := w.call(by, "POST", path, fmt.Sprintf(`{"email":%q,"role":%q}`, email, role)).want(w.t, http.StatusCreated)
	w.hidden(a.text("token"))
	return a
}

func (w *world) accept(token, invitation string) answer {
	w.t.Helper()
	return w.call(token, "POST", "/v1/invitations/accept", fmt.Sprintf(`{"token":%q}`, invitation))
}

// join makes somebody a member of a tenant, and answers their ID token and their id there. Tenant "" is the operator's.
func (w *world) join(tenant, name string, role identity.Role) (token, id string) {
	w.t.Helper()
	invitation := w.invite(w.operator, tenant, name+"@example.com", role).text("token")
	token = w.token(name)
	return token, w.accept(token, invitation).want(w.t, http.StatusOK).text("user.id")
}

// makeKey makes an API key; tenant "" is the maker's own.
func (w *world) makeKey(maker, tenant string, scopes ...identity.Scope) answer {
	w.t.Helper()
	path := "/v1/api-keys"
	if tenant != "" {
		path += "?tenant_id=" + tenant
	}
	body, err := json.Marshal(map[string]any{"name": "automation", "scopes": scopes})
	w.must(err)
	return w.call(maker, "POST", path, string(body)).want(w.t, http.StatusCreated)
}

// operate is a call of the operator.
func (w *world) operate(method, path, body string, header ...string) answer {
	w.t.Helper()
	return w.call(w.operator, method, path, body, header...)
}

// call sends a request. Header is names and values in turn.
func (w *world) call(key, method, path, body string, header ...string) answer {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), method, path, strings.NewReader(body))
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for pair := range slices.Chunk(header, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, r)
	a := answer{what: method + " " + path, status: recorder.Code, header: recorder.Header(), raw: recorder.Body.String()}
	if recorder.Body.Len() > 0 {
		if err := json.Unmarshal(recorder.Body.Bytes(), &a.body); err != nil {
			w.t.Fatalf("%s answered no JSON: %s", a.what, a.raw)
		}
	}
	if a.status == http.StatusInternalServerError {
		w.t.Errorf("%s answered 500", a.what)
	}
	return a
}

type answer struct {
	what   string
	status int
	header http.Header
	raw    string
	body   any
}

// want fails the test when the answer has another status.
func (a answer) want(t *testing.T, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("%s answered %d, want %d: %s", a.what, a.status, status, a.raw)
	}
	return a
}

// refused fails the test when the answer is not the problem of this status and code.
func (a answer) refused(t *testing.T, status int, code string) answer {
	t.Helper()
	if a.status != status || a.text("code") != code {
		t.Errorf("%s answered %d %s, want %d %s: %s", a.what, a.status, a.text("code"), status, code, a.raw)
	}
	return a
}

// at is the value at a path such as "license.id" or "items.0.id"; nil when there is none.
func (a answer) at(path string) any {
	v := a.body
	for part := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[part]
		case []any:
			var i int
			if _, err := fmt.Sscan(part, &i); err != nil || i >= len(in) {
				return nil
			}
			v = in[i]
		default:
			return nil
		}
	}
	return v
}

func (a answer) text(path string) string {
	s, _ := a.at(path).(string)
	return s
}

func (a answer) number(path string) int {
	n, _ := a.at(path).(float64)
	return int(n)
}

// wrong is the fields of a 422, with their codes.
func (a answer) wrong() []string {
	var out []string
	errors, _ := a.at("errors").([]any)
	for i := range errors {
		out = append(out, a.text(fmt.Sprintf("errors.%d.field", i))+" "+a.text(fmt.Sprintf("errors.%d.code", i)))
	}
	return out
}

// texts is one member of each item.
func (a answer) texts(member string) []string {
	out := []string{}
	items, _ := a.at("items").([]any)
	for i := range items {
		out = append(out, a.text(fmt.Sprintf("items.%d.%s", i, member)))
	}
	return out
}

// sit takes a seat for a device, and answers what its token would say.
func (w *world) sit(c customer, device string) seat.Ref {
	w.t.Helper()
	g, err := w.seats.Acquire(w.t.Context(), tenancy.Verified(uuid.MustParse(c.id)), uuid.MustParse(c.license),
		seat.Holder{Key: "device:" + device, HardwareID: device, Hostname: device + ".local", Version: "2.1", Metadata: json.RawMessage(`{"room": 12, "badge": 9007199254740993}`)}, seat.Ask{})
	w.must(err)
	if g.Verdict != seat.Granted && g.Verdict != seat.Existing {
		w.t.Fatalf("%s got no seat: %+v", device, g)
	}
	return g.Ref
}

func (w *world) beat(ref seat.Ref) seat.Beat {
	w.t.Helper()
	b, err := w.seats.Heartbeat(w.t.Context(), ref)
	w.must(err)
	return b
}

// stored is the content of every table, by its name. When a key was used last, and who was refused, is left out.
func (w *world) stored() map[string]string {
	w.t.Helper()
	content := map[string]string{}
	for _, table := range testenv.Values[string](w.t, w.db, `
		SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname = 'app' AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'audit_chains'`) {
		content[table] = testenv.Value[string](w.t, w.db, fmt.Sprintf(
			`SELECT coalesce(string_agg((to_jsonb(x) - 'last_used_at')::text, E'\n' ORDER BY x::text), '') FROM app.%s x
			 WHERE to_jsonb(x)->>'outcome' IS DISTINCT FROM 'refused'`, table))
	}
	if len(content) < 8 {
		w.t.Fatalf("only %d tables were found", len(content))
	}
	return content
}
