package all_test

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/functions/all"
	"github.com/coditect/usher/functions/all/local"
	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/httpx/httpxtest"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestOpenAPIDocumentIsWhatTheCodeSays(t *testing.T) {
	t.Parallel()
	want, err := all.Document(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("docs/openapi.json is not what the code says: make generate writes it anew")
	}
}

func TestEveryFunctionIsServed(t *testing.T) {
	t.Parallel()
	binaries, err := filepath.Glob(filepath.Join(testenv.Root(t), "functions", "*", "cmd", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, main := range binaries {
		if name := filepath.Base(filepath.Dir(filepath.Dir(main))); name != all.Name {
			want = append(want, name)
		}
	}
	have := all.Names()
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("served are %v, and the functions are %v", have, want)
	}
}

func TestARequestThatIsRepeatedIsNotTakenForDeadBeforeItsDeadline(t *testing.T) {
	t.Parallel()
	f, err := all.Open(t.Context(), func(string) func(string) string {
		return func(variable string) string { return goodEnvironment()[variable] }
	}, testenv.Logs(t).Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const afterwards = 2 * time.Second // for which a function may still put things right
	seen := 0
	for i := range f.Routes {
		r := &f.Routes[i]
		if !r.Idempotent {
			continue
		}
		seen++
		if deadline := cmp.Or(r.Timeout, httpx.DefaultTimeout) + afterwards; deadline >= idempotency.Hold {
			t.Errorf("%s %s may take %s, and its Idempotency-Key is held for %s", r.Method, r.Path, deadline, idempotency.Hold)
		}
	}
	if seen < 10 {
		t.Errorf("seen are %d routes", seen)
	}
}

func TestAFunctionThatCannotOpenIsNamed(t *testing.T) {
	t.Parallel()
	_, err := all.Open(t.Context(), func(string) func(string) string { return func(string) string { return "" } }, testenv.Logs(t).Logger)
	for _, name := range all.Names() {
		if err == nil || !strings.Contains(err.Error(), "open function "+name) {
			t.Errorf("the error does not name function %s: %v", name, err)
		}
	}
}

// goodEnvironment is one in which every function opens, on stores that do not exist.
func goodEnvironment() map[string]string {
	return map[string]string{
		"DATABASE_URL": "postgres://usher@127.0.0.1:1/usher", "OPERATOR_DATABASE_URL": "postgres://usher@127.0.0.1:1/usher",
		"REDIS_URL": "redis://127.0.0.1:1/0", "BUDGET_REDIS_URL": "redis://127.0.0.1:1/1",
		"LICENSE_KEY_PEPPERS": ring(), "API_KEY_PEPPERS": ring(), "SEAT_TOKEN_KEYS": ring(), "NOTIFY_KEYS": ring(),
		"KMS_ROOT_KEY": rootKey, "KMS_WRAPPING_KEY": wrappingKey, "SEAT_TOKEN_SECRET": tokenSecret, "RECEIPT_ISSUER": audience,
		"SCHEDULER_AUDIENCE": audience, "SCHEDULER_EMAIL": scheduler, "IDENTITY_ISSUER": audience, "IDENTITY_AUDIENCE": audience,
		"SMTP_HOST": "smtp.example", "MAIL_FROM": "usher@example.com",
		"STRIPE_API_KEY": "sk_test_1", "STRIPE_CATALOG": "{}", "STRIPE_WEBHOOK_SECRETS": "whsec_12345678", "BILLING_ORIGINS": audience,
	}
}

func TestABadVariableIsNamedAndItsValueIsNot(t *testing.T) {
	t.Parallel()
	good := goodEnvironment()
	stores := []string{"validate", "acquire", "heartbeat", "release", "borrow", "sweep", "admin", "webhook", "subscription", "expire", "incident"}
	databases := append(slices.Clone(stores), "keys", "rotate", "register", "deliver", "checkout", "trial", "usage", "meter")
	stripe := []string{"checkout", "subscription", "webhook", "expire", "meter"}
	people := []string{"checkout", "subscription", "webhook", "admin", "register", "trial", "incident", "usage"}
	budgets := []string{"validate", "acquire", "release", "register", "admin", "checkout", "subscription", "webhook", "trial", "usage", "rotate", "incident"}
	journals := []string{"checkout", "subscription", "webhook", "admin", "register", "trial", "incident", "rotate"}
	for _, at := range []struct {
		variable, value string
		functions       []string // that read it
	}{
		{"DATABASE_URL", "postgres://u:hunter2@:no-port/x", databases},
		{"DATABASE_EXEC_MODE", "hunter2", databases},
		{"DATABASE_MAX_CONNS", "-29713", databases},
		{"DATABASE_TIMEOUT", "-29713s", databases},
		{"DATABASE_CONNECT_TIMEOUT", "-29713s", databases},
		{"OPERATOR_DATABASE_URL", "postgres://u:hunter2@:no-port/x", []string{"admin"}},
		{"OPERATOR_DATABASE_URL", "", []string{"admin"}},
		{"REDIS_URL", "hunter2", stores},
		{"REDIS_CLUSTER", "hunter2", stores},
		{"REDIS_POOL_SIZE", "-29713", stores},
		{"REDIS_TIMEOUT", "-29713s", stores},
		{"SEAT_RESERVATION", "-29713s", stores},
		{"SEAT_CONNECTION_LIFE", "-29713s", stores},
		{"SEAT_CLOCK_ALLOWANCE", "-29713s", stores},
		{"SEAT_POLL", "29713us", stores},
		{"LICENSE_KEY_PEPPERS", "hunter2", []string{"validate", "acquire", "release", "admin", "register", "subscription", "webhook", "expire", "trial"}},
		{"LICENSE_MIN_TTL_SECONDS", "-29713", []string{"admin", "register", "subscription", "webhook", "expire", "trial"}},
		{"API_KEY_PEPPERS", "hunter2", []string{"rotate", "admin", "webhook", "incident", "usage"}},
		{"SEAT_TOKEN_KEYS", "hunter2", []string{"acquire", "heartbeat", "release", "borrow", "usage"}},
		{"SEAT_TOKEN_KEYS", "", []string{"acquire", "heartbeat", "release", "borrow", "usage"}},
		{"KMS_WRAPPING_KEY", "hunter2", []string{"validate", "acquire", "borrow", "rotate", "incident"}},
		{"KMS_ROOT_KEY", "", []string{"rotate", "incident"}},
		{"KMS_TIMEOUT", "-29713s", []string{"validate", "acquire", "borrow", "keys", "rotate", "admin", "incident"}},
		{"CLOUD_EMULATOR", "hunter2:1", []string{"validate", "acquire", "borrow", "keys", "rotate", "admin", "incident"}},
		{"SEAT_TOKEN_SECRET", "hunter2", []string{"rotate", "incident"}},
		{"RECEIPT_ISSUER", "", []string{"validate", "acquire", "borrow", "keys", "admin", "incident"}},
		{"BUDGET_REDIS_URL", "hunter2", budgets},
		{"BUDGET_TIMEOUT", "-29713s", budgets},
		{"BUDGET_REST", "-29713s", budgets},
		{"BUDGET_HOLDER_PER_SECOND", "29713000000", append(slices.Clone(budgets), "heartbeat", "borrow")},
		{"BUDGET_HOLDER_BURST", "-29713", append(slices.Clone(budgets), "heartbeat", "borrow")},
		{"BUDGET_UNKNOWN_BURST", "-29713", append(slices.Clone(budgets), "heartbeat", "borrow")},
		{"SCHEDULER_ISSUER", "hunter2", []string{"sweep", "rotate", "deliver", "expire", "incident", "meter"}},
		{"SCHEDULER_EMAIL", "", []string{"sweep", "rotate", "deliver", "expire", "incident", "meter"}},
		{"NOTIFY_KEYS", "hunter2", []string{"admin", "deliver", "subscription", "webhook", "expire"}},
		{"WEBHOOK_TIMEOUT", "-29713s", []string{"admin", "deliver"}},
		{"WEBHOOK_ALLOW_PRIVATE", "hunter2", []string{"admin", "deliver"}},
		{"SMTP_HOST", "", []string{"deliver"}},
		{"SMTP_PORT", "29713000", []string{"deliver"}},
		{"SMTP_SECURITY", "hunter2", []string{"deliver"}},
		{"SMTP_SECURITY", "none", []string{"deliver"}}, // for a server elsewhere
		{"SMTP_TIMEOUT", "-29713s", []string{"deliver"}},
		{"MAIL_FROM", "hunter2", []string{"deliver"}},
		{"MAIL_INVITATION_URL", "hunter2", []string{"deliver"}},
		{"IDENTITY_ISSUER", "hunter2", people},
		{"IDENTITY_ISSUER", "", people},
		{"STRIPE_API_KEY", "hunter2", stripe},
		{"STRIPE_URL", "hunter2", stripe},
		{"STRIPE_TIMEOUT", "29713s", stripe},
		{"STRIPE_CATALOG", `{"hunter2":{}}`, stripe},
		{"RETENTION_SESSION_DAYS", "-29713", []string{"expire"}},
		{"RETENTION_AUDIT_DAYS", "-29713", []string{"expire"}},
		{"STRIPE_WEBHOOK_SECRETS", "hunter2", []string{"webhook"}},
		{"BILLING_ORIGINS", "hunter2", []string{"checkout", "subscription"}},
		{"IDENTITY_AUDIENCE", "", people},
		{"JOURNAL_EMULATOR", "hunter2:1", journals},
		{"JOURNAL_TIMEOUT", "-29713s", journals},
		{"WATCH_UNKNOWN_KEYS", "-29713", []string{"incident"}},
	} {
		getenv := func(variable string) string {
			if variable == at.variable {
				return at.value
			}
			return good[variable]
		}
		_, err := all.Open(t.Context(), func(string) func(string) string { return getenv }, testenv.Logs(t).Logger)
		var refused []string
		for _, one := range leaves(err) {
			name, _, _ := strings.Cut(strings.TrimPrefix(one.Error(), "open function "), ":")
			refused = append(refused, name)
			for _, leaf := range leaves(errors.Unwrap(one)) {
				if f, ok := errors.AsType[*config.Fault](leaf); !ok || f.Variable != at.variable {
					t.Errorf("%s=%q: function %s says %v", at.variable, at.value, name, leaf)
				}
			}
		}
		slices.Sort(refused)
		slices.Sort(at.functions)
		if !slices.Equal(refused, at.functions) {
			t.Errorf("%s=%q: refused by %v, want %v", at.variable, at.value, refused, at.functions)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "29713")) {
			t.Errorf("%s: the value is told: %v", at.variable, err)
		}
	}
}

// leaves are the errors that were joined to one.
func leaves(err error) []error {
	many, ok := err.(interface{ Unwrap() []error })
	switch {
	case ok:
		var out []error
		for _, one := range many.Unwrap() {
			out = append(out, leaves(one)...)
		}
		return out
	case err == nil:
		return nil
	default:
		return []error{err}
	}
}

// service is every function on one port, on real stores, with every exchange held to the OpenAPI document.
type service struct {
	operatorKey string // when operator was asked for
	url         string
	postgres    *testenv.DB
	redis       *testenv.RedisServer
	env         all.Environment
	token       func(claims map[string]any) string // of the local issuer
	stripe      *stripesim.Sim
	asked       asked // of Stripe
	log         *testenv.LogCapture
}

const (
	lease     = 3 * time.Second
	allowance = 300 * time.Millisecond
	audience  = "https://usher.test"
	people    = "usher-test"
	scheduler = "scheduler@usher.test"

	rootKey     = "projects/usher/locations/test/keyRings/usher/cryptoKeys/roots"
	wrappingKey = "projects/usher/locations/test/keyRings/usher/cryptoKeys/receipt-keys"
	tokenSecret = "projects/usher/secrets/seat-token-keys"
)

var schedulerClaims = object{"aud": audience, "email": scheduler, "email_verified": true}

func start(t *testing.T, more ...map[string]string) *service {
	t.Helper()
	s := &service{postgres: testenv.Postgres(t), redis: testenv.Redis(t), log: testenv.Logs(t)}
	issuer := testenv.Issuer(t)
	s.token = func(claims map[string]any) string {
		token, err := issuer.Token(claims, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	cloud := testenv.Cloud(t)
	for _, err := range []error{cloud.MakeSigningKey(rootKey), cloud.MakeEncryptionKey(wrappingKey), cloud.MakeSecret(tokenSecret)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.stripe, err = stripesim.New(stripesim.Options{Key: stripeKey, Prices: stripePrices, Coupon: "stay"}); err != nil {
		t.Fatal(err)
	}
	stripe := httptest.NewServer(s.asked.before(s.stripe))
	t.Cleanup(stripe.Close)
	settings := map[string]string{
		"STRIPE_API_KEY": stripeKey, "STRIPE_URL": stripe.URL, "STRIPE_CATALOG": stripeCatalog, "STRIPE_WEBHOOK_SECRETS": stripeSecret, "BILLING_ORIGINS": audience, "STRIPE_RETENTION_COUPON": "stay",
		"CLOUD_EMULATOR": cloud.Addr(), "KMS_ROOT_KEY": rootKey, "KMS_WRAPPING_KEY": wrappingKey, "SEAT_TOKEN_SECRET": tokenSecret,
		"OPERATOR_DATABASE_URL": s.postgres.URL("usher_operator"),
		"REDIS_URL":             s.redis.Database(0), "BUDGET_REDIS_URL": s.redis.Database(1),
		"BUDGET_TIMEOUT":      "2s", // a slow machine must not lift the budgets, or leave a refusal uncounted
		"LICENSE_KEY_PEPPERS": ring(), "API_KEY_PEPPERS": ring(), "SEAT_TOKEN_KEYS": ring(), "NOTIFY_KEYS": ring(),
		"SMTP_HOST": "127.0.0.1", "SMTP_PORT": "1", "SMTP_SECURITY": "none", "MAIL_FROM": "usher@example.com",
		"RECEIPT_ISSUER":   audience,
		"SCHEDULER_ISSUER": issuer.URL(), "SCHEDULER_AUDIENCE": audience, "SCHEDULER_EMAIL": scheduler,
		"IDENTITY_ISSUER": issuer.URL(), "IDENTITY_AUDIENCE": people,
		"LICENSE_MIN_TTL_SECONDS": "2", "SEAT_POLL": "1s",
		"SEAT_RESERVATION": "5s", "SEAT_CONNECTION_LIFE": "5s", "SEAT_CLOCK_ALLOWANCE": allowance.String(),
	}
	for _, m := range more {
		maps.Copy(settings, m)
	}
	s.env = func(function string) func(string) string {
		return func(variable string) string {
			if variable == "DATABASE_URL" {
				return s.postgres.URL("usher_" + function)
			}
			return settings[variable]
		}
	}
	f, err := all.Open(t.Context(), s.env, s.log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	handler, err := serve.Handler(f, s.log.Logger, s.env(all.Name))
	if err != nil {
		t.Fatal(err)
	}
	document, err := all.Document(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(httpxtest.Check(t, document)(handler))
	t.Cleanup(server.Close)
	s.url = server.URL
	s.must(t, 200, s.token(schedulerClaims), "POST", "/tasks/rotate", nil)
	return s
}

// call sends a request and answers its status and its body, of which every problem is one as well.
func (s *service) call(t *testing.T, bearer, method, path string, body any) (int, answer) {
	t.Helper()
	var got answer
	status, err := local.API{URL: s.url, Bearer: bearer}.Call(t.Context(), method, path, body, &got)
	var refusal *local.Refusal
	if err != nil && !errors.As(err, &refusal) {
		t.Fatal(err)
	}
	if refusal != nil {
		got.Code, got.Detail, got.RetryAfterSeconds = refusal.Code, refusal.Detail, refusal.RetryAfterSeconds
	}
	return status, got
}

// must is call, for what has to answer a status.
func (s *service) must(t *testing.T, status int, bearer, method, path string, body any) answer {
	t.Helper()
	have, got := s.call(t, bearer, method, path, body)
	if have != status {
		t.Fatalf("%s %s answered %d %s (%s), want %d", method, path, have, got.Code, got.Detail, status)
	}
	return got
}

// answer is what the tests look at, of every answer there is.
type answer struct {
	Code              string
	Detail            string
	RetryAfterSeconds int `json:"retry_after_seconds"`

	ID         uuid.UUID
	LicenseKey string                 `json:"license_key"`
	License    struct{ ID uuid.UUID } `json:"license"`

	SeatToken   string    `json:"seat_token"`
	SessionID   uuid.UUID `json:"session_id"`
	SeatNo      int       `json:"seat_no"`
	ActiveSeats int       `json:"active_seats"`
	MaxSeats    int       `json:"max_seats"`
	TTLSeconds  int       `json:"ttl_seconds"`
	EndReason   string    `json:"end_reason"`
	Position    int
	Receipt     string
	Valid       bool

	BorrowedUntil time.Time `json:"borrowed_until"`

	Status string
	Closed int
}

// operator makes the operator, and answers its key.
func (s *service) operator(t *testing.T) string {
	t.Helper()
	if s.operatorKey != "" {
		return s.operatorKey
	}
	getenv := s.env("admin")
	operator, err := admin.OpenOperator(t.Context(), getenv, s.log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close()
	keys, err := identity.Open(getenv, operator)
	if err != nil {
		t.Fatal(err)
	}
	key, err := admin.Bootstrap(t.Context(), operator, keys, false)
	if err != nil {
		t.Fatal(err)
	}
	s.operatorKey = key.Reveal()
	return s.operatorKey
}

// sell makes a tenant with a licence, as the operator would, and answers the licence's key and the operator's.
func (s *service) sell(t *testing.T, seats int) (key, operator string) {
	t.Helper()
	operator = s.operator(t)
	s.must(t, 200, operator, "PUT", "/v1/catalog/products/editor", object{"name": "Editor"})
	s.must(t, 200, operator, "PUT", "/v1/catalog/plans/pro", object{"product": "editor", "name": "Pro"})
	tenant := s.must(t, 201, operator, "POST", "/v1/tenants", object{"name": "Acme"})
	sold := s.must(t, 201, operator, "POST", "/v1/licenses?tenant_id="+tenant.ID.String(),
		object{"plan": "pro", "max_seats": seats, "ttl_seconds": int(lease / time.Second)})
	return sold.LicenseKey, operator
}

type object = map[string]any

func question(key, device string) object {
	return object{"license_key": key, "hardware_id": device, "version": "1.0.0"}
}

func TestASeatIsTakenKeptRefusedAndGivenBack(t *testing.T) {
	t.Parallel()
	s := start(t)
	key, _ := s.sell(t, 1)

	if got := s.must(t, 200, "", "POST", "/v1/validate", question(key, "laptop")); !got.Valid {
		t.Errorf("the key is not valid: %s", got.Code)
	}
	first := s.must(t, 201, "", "POST", "/v1/acquire", question(key, "laptop"))
	if first.SeatNo != 1 || first.ActiveSeats != 1 || first.MaxSeats != 1 || first.TTLSeconds != 3 {
		t.Errorf("the first client was answered %+v", first)
	}
	if again := s.must(t, 200, "", "POST", "/v1/acquire", question(key, "laptop")); again.SessionID != first.SessionID {
		t.Errorf("asking again made session %s of session %s", again.SessionID, first.SessionID)
	}
	s.must(t, 200, first.SeatToken, "POST", "/v1/heartbeat", nil)
	if refused := s.must(t, 409, "", "POST", "/v1/acquire", question(key, "desktop")); refused.Code != "no_seats_available" || refused.RetryAfterSeconds < 1 {
		t.Errorf("the second client was answered %+v", refused)
	}
	ended := s.must(t, 200, first.SeatToken, "POST", "/v1/release", nil)
	if ended.SessionID != first.SessionID || ended.EndReason != "released" {
		t.Errorf("the release was answered %+v", ended)
	}
	second := s.must(t, 201, "", "POST", "/v1/acquire", question(key, "desktop"))
	if lost := s.must(t, 410, first.SeatToken, "POST", "/v1/heartbeat", nil); lost.Code != "seat_released" {
		t.Errorf("the first client's heartbeat was answered %s", lost.Code)
	}
	s.must(t, 200, first.SeatToken, "POST", "/v1/release", nil)
	s.must(t, 200, second.SeatToken, "POST", "/v1/heartbeat", nil)
	s.log.Hides(t, key, first.SeatToken, second.SeatToken)
}

func TestABorrowedSeatStaysTakenWithoutHeartbeatsUntilItIsReturned(t *testing.T) {
	t.Parallel()
	s := start(t)
	key, _ := s.sell(t, 2)
	borrower := s.must(t, 201, "", "POST", "/v1/acquire", question(key, "laptop"))
	lent := s.must(t, 200, borrower.SeatToken, "POST", "/v1/borrow", object{"until": time.Now().Add(time.Hour)})
	if lent.BorrowedUntil.Before(time.Now().Add(50*time.Minute)) || lent.Receipt == "" {
		t.Errorf("the borrow was answered %+v", lent)
	}
	time.Sleep(lease + allowance)
	other := s.must(t, 201, "", "POST", "/v1/acquire", question(key, "desktop"))
	if refused := s.must(t, 409, "", "POST", "/v1/acquire", question(key, "tablet")); refused.Code != "no_seats_available" {
		t.Errorf("a third client was answered %s", refused.Code)
	}
	s.must(t, 422, other.SeatToken, "POST", "/v1/borrow", object{"until": time.Now().Add(-time.Hour)})
	s.must(t, 200, borrower.SeatToken, "POST", "/v1/release", nil)
	if over := s.must(t, 410, borrower.SeatToken, "POST", "/v1/borrow", object{"until": time.Now().Add(time.Hour)}); over.Code != "seat_released" {
		t.Errorf("borrowing what was returned was answered %s", over.Code)
	}
	s.must(t, 201, "", "POST", "/v1/acquire", question(key, "tablet"))
	s.log.Hides(t, key, borrower.SeatToken)
}

func TestACrashedClientsSeatComesFreeWithoutASweep(t *testing.T) {
	t.Parallel()
	s := start(t)
	key, _ := s.sell(t, 1)
	began := time.Now()
	crashed := s.must(t, 201, "", "POST", "/v1/acquire", question(key, "laptop"))
	var next answer
	testenv.Eventually(t, lease+allowance+10*time.Second, func() error {
		status, got := s.call(t, "", "POST", "/v1/acquire", question(key, "desktop"))
		if status != 201 {
			return fmt.Errorf("answered %d %s", status, got.Code)
		}
		next = got
		return nil
	})
	if early := time.Since(began); early < lease {
		t.Errorf("the seat was given away after %s, within the lease", early)
	}
	if lost := s.must(t, 410, crashed.SeatToken, "POST", "/v1/heartbeat", nil); lost.Code != "seat_lapsed" {
		t.Errorf("the crashed client was answered %s", lost.Code)
	}
	s.must(t, 200, next.SeatToken, "POST", "/v1/heartbeat", nil)
}

func TestAWaiterGetsTheSeatThatIsGivenBackAndNobodyOvertakes(t *testing.T) {
	t.Parallel()
	s := start(t)
	key, _ := s.sell(t, 1)
	holder := s.must(t, 201, "", "POST", "/v1/acquire", question(key, "laptop"))
	waiting := question(key, "desktop")
	waiting["wait"] = true
	if got := s.must(t, 202, "", "POST", "/v1/acquire", waiting); got.Position != 1 {
		t.Errorf("the waiter has place %d", got.Position)
	}
	s.must(t, 200, holder.SeatToken, "POST", "/v1/release", nil)
	s.must(t, 409, "", "POST", "/v1/acquire", question(key, "phone"))
	s.must(t, 201, "", "POST", "/v1/acquire", waiting)
}

func TestAReceiptIsVerifiedWithThePublishedKeys(t *testing.T) {
	t.Parallel()
	s := start(t)
	key, _ := s.sell(t, 1)
	seat := s.must(t, 201, "", "POST", "/v1/acquire", question(key, "laptop"))
	response, err := http.Get(s.url + "/.well-known/jwks.json")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := receipt.ParseKeySet(text)
	if err != nil {
		t.Fatal(err)
	}
	r, err := (&receipt.Verifier{Keys: keys, Product: "editor", HardwareID: "laptop"}).Receipt(seat.Receipt)
	if err != nil || r.Session != seat.SessionID.String() {
		t.Errorf("the receipt says %+v, %v", r, err)
	}
	// A stock library needs the URL of the key set alone. The receipt of a seat ends with its lease, which is short here.
	valid := s.must(t, 200, "", "POST", "/v1/validate", question(key, "laptop"))
	if said := testenv.AskJose(t, s.url+"/.well-known/jwks.json", receipt.TypeReceipt, valid.Receipt)[0]; said.Code != "" || !strings.Contains(string(said.Claims), `"plan":"pro"`) {
		t.Errorf("jose says %s of it, and reads %s", said.Code, said.Claims)
	}
}

func TestTheSweepIsForTheSchedulerAlone(t *testing.T) {
	t.Parallel()
	s := start(t)
	key, operator := s.sell(t, 1)
	s.must(t, 201, "", "POST", "/v1/acquire", question(key, "laptop"))
	s.must(t, 401, "", "POST", "/tasks/sweep", nil)
	s.must(t, 401, operator, "POST", "/tasks/sweep", nil)
	s.must(t, 401, s.token(object{"aud": audience, "email": "somebody@usher.test", "email_verified": true}), "POST", "/tasks/sweep", nil)
	testenv.Eventually(t, lease+allowance+10*time.Second, func() error {
		if swept := s.must(t, 200, s.token(schedulerClaims), "POST", "/tasks/sweep", nil); swept.Closed != 1 {
			return fmt.Errorf("closed %d sessions", swept.Closed)
		}
		return nil
	})
}

func TestReadyNamesTheStoreThatIsOut(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.must(t, 200, "", "GET", "/health/ready", nil)
	s.redis.Kill(t)
	response, err := http.Get(s.url + "/health/ready")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var problem struct{ Stores []string }
	if err := json.NewDecoder(response.Body).Decode(&problem); err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 503 || !slices.Equal(problem.Stores, []string{"redis"}) {
		t.Errorf("without Redis it answers %d and names %v", response.StatusCode, problem.Stores)
	}
}

func ring() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	return "1:" + base64.StdEncoding.EncodeToString(secret)
}
