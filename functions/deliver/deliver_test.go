package deliver_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/deliver"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/notify/webhook"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// world is a deployment in small, with a mail server and a role that acts.
type world struct {
	*functiontest.World
	t        *testing.T
	admin    *tenancy.DB
	operator tenancy.ID
	mails    string // where the mail server keeps what it takes
	env      map[string]string
	keys     notify.Keys
	guard    *webhook.Guard
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: functiontest.New(t), t: t, mails: t.TempDir()}
	server, err := localenv.StartMailServer(w.mails, nil)
	w.must(err)
	t.Cleanup(func() { _ = server.Close() })
	w.env = map[string]string{
		"SMTP_HOST": "127.0.0.1", "SMTP_PORT": server.Port(), "SMTP_SECURITY": "none", "SMTP_TIMEOUT": "5s",
		"MAIL_FROM": "Usher <usher@vendor.example>", "WEBHOOK_ALLOW_PRIVATE": "true", "WEBHOOK_TIMEOUT": "1s",
		"NOTIFY_KEYS": "a:YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=",
	}
	w.admin, err = tenancy.OpenURL(t.Context(), w.DB.URL("usher_admin"), tenancy.Config{}, w.Log.Logger)
	w.must(err)
	t.Cleanup(w.admin.Close)
	operator, err := tenancy.OpenURL(t.Context(), w.DB.URL("usher_operator"), tenancy.Config{}, w.Log.Logger)
	w.must(err)
	t.Cleanup(operator.Close)
	w.operator, err = identity.NewTenants(operator).EnsureOperator(t.Context(), "Operator")
	w.must(err)
	w.keys, err = notify.OpenKeys(w.getenv(nil))
	w.must(err)
	w.guard, err = webhook.OpenGuard(w.getenv(nil))
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// getenv is the function's environment, with these variables instead.
func (w *world) getenv(instead map[string]string) func(string) string {
	all := maps.Clone(w.env)
	maps.Copy(all, instead)
	return func(name string) string {
		if value, ok := all[name]; ok {
			return value
		}
		return w.Getenv("deliver")(name)
	}
}

// door is a new instance of the function.
func (w *world) door(instead map[string]string) *functiontest.Door {
	w.t.Helper()
	f, err := deliver.Open(w.t.Context(), w.getenv(instead), w.Log.Logger)
	w.must(err)
	w.t.Cleanup(f.Close)
	return functiontest.NewDoor(w.t, f.Routes, w.Log.Logger)
}

// run calls the function as the scheduler does.
func (w *world) run(door *functiontest.Door) deliver.Answer {
	w.t.Helper()
	token, err := w.Scheduler.Token(map[string]any{
		"aud": functiontest.SchedulerAudience, "sub": "1", "email": functiontest.SchedulerEmail, "email_verified": true,
	}, time.Minute)
	w.must(err)
	return functiontest.Read[deliver.Answer](w.t, door.Send(w.t, functiontest.Message{Token: token}).Want(w.t, http.StatusOK))
}

// act does something in a transaction of the tenant's.
func (w *world) act(tenant tenancy.ID, what func(tx tenancy.Tx) error) {
	w.t.Helper()
	w.must(w.admin.As(w.t.Context(), tenant, what))
}

func (w *world) event(tenant tenancy.ID, typ string) {
	w.t.Helper()
	w.act(tenant, func(tx tenancy.Tx) error {
		return notify.Event(w.t.Context(), tx, typ, "license:1", map[string]any{"n": 1})
	})
}

func (w *world) invite(to string) {
	w.t.Helper()
	sealed, err := w.keys.Seal(to, "usi_geheim")
	w.must(err)
	w.act(w.Tenant, func(tx tenancy.Tx) error {
		return notify.Queue(w.t.Context(), tx, notify.Mail{Kind: notify.Invitation, To: to, Data: map[string]string{
			"organization": "Äcme", "role": "member", "token": sealed, "expires_at": "tomorrow",
		}})
	})
}

// hook makes a webhook, and answers its id and secret.
func (w *world) hook(tenant tenancy.ID, url string, events ...string) (uuid.UUID, string) {
	w.t.Helper()
	var made webhook.Webhook
	var secret string
	w.act(tenant, func(tx tenancy.Tx) (err error) {
		made, secret, err = webhook.Create(w.t.Context(), tx, tenant, w.keys, w.guard, webhook.Terms{URL: url, Events: events}, "test")
		return err
	})
	return made.ID, secret
}

// due makes everything that waits due now.
func (w *world) due() {
	w.t.Helper()
	w.DB.Exec(w.t, `UPDATE app.webhook_deliveries SET next_at = now() WHERE status = 'pending'`)
	w.DB.Exec(w.t, `UPDATE app.mails SET next_at = now() WHERE status = 'pending'`)
}

func (w *world) sent() []*mail.Message {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.mails, "*.eml"))
	w.must(err)
	var all []*mail.Message
	for _, f := range files {
		text, err := os.ReadFile(f)
		w.must(err)
		m, err := mail.ReadMessage(strings.NewReader(string(text)))
		w.must(err)
		all = append(all, m)
	}
	return all
}

// sink is a system that hears of events.
type sink struct {
	*httptest.Server
	mu     sync.Mutex
	heard  []webhook.Message
	status int
	raw    []*http.Request
	bodies [][]byte
}

func newSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{status: http.StatusNoContent}
	s.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var m webhook.Message
		_ = json.Unmarshal(body, &m)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.heard, s.raw, s.bodies = append(s.heard, m), append(s.raw, r), append(s.bodies, body)
		rw.WriteHeader(s.status)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) types() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, m := range s.heard {
		all = append(all, m.Type)
	}
	slices.Sort(all)
	return all
}

func (s *sink) answers(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func TestAMailIsSentInItsWordsAndNothingOfThemIsLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	door := w.door(nil)
	w.invite("zoe@example.com")
	if got := testenv.Value[string](t, w.DB, `SELECT data::text FROM app.mails`); strings.Contains(got, "geheim") {
		t.Errorf("the secret is stored as it is: %s", got)
	}
	w.act(w.Tenant, func(tx tenancy.Tx) error {
		mail := notify.Mail{Kind: notify.Invitation, To: "a@example.com", Data: map[string]string{"organization": "Acme", "role": "member", "token": "usi_x", "expires_at": "tomorrow"}}
		if notify.Queue(t.Context(), tx, mail) == nil {
			t.Error("a token is queued as it is")
		}
		return nil
	})
	for range 2 {
		w.act(w.Tenant, func(tx tenancy.Tx) error {
			return notify.Queue(t.Context(), tx, notify.Mail{Kind: notify.Welcome, To: "a@example.com", Key: "welcome", Data: map[string]string{"organization": "Acme"}})
		})
	}
	if got := w.run(door); got.Mails.Sent != 2 || got.Mails.Postponed+got.Mails.GivenUp != 0 {
		t.Errorf("the run did %+v", got)
	}
	if got := w.run(door); got.Mails.Sent != 0 {
		t.Errorf("the next run did %+v", got)
	}
	all := w.sent()
	if len(all) != 2 {
		t.Fatalf("%d mails arrived", len(all))
	}
	for _, m := range all {
		if m.Header.Get("To") != "<zoe@example.com>" {
			continue
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
		w.must(err)
		body, err := io.ReadAll(m.Body)
		w.must(err)
		id := testenv.Value[string](t, w.DB, `SELECT id::text FROM app.mails WHERE kind = 'invitation'`)
		if subject != "You are invited to Äcme" || m.Header.Get("Message-ID") != "<"+id+"@vendor.example>" || m.Header.Get("From") != `"Usher" <usher@vendor.example>` {
			t.Errorf("the head is %v", m.Header)
		}
		if text := string(body); !strings.Contains(text, "usi_geheim") || !strings.Contains(text, "text/plain") || !strings.Contains(text, "text/html") {
			t.Errorf("the body is %s", text)
		}
	}
	if left := testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.mails WHERE data <> '{}' OR status <> 'sent' OR mails::text LIKE '%geheim%'`); left != 0 {
		t.Errorf("%d mails have something left", left)
	}
	w.Hides(t, "usi_geheim")
}

func TestRunsAtTheSameTimeSendNothingTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newSink(t)
	w.hook(w.Tenant, s.URL, "*")
	w.hook(w.operator, s.URL, "license.*")
	const n = 25
	for i := range n {
		w.invite(fmt.Sprintf("guest%d@example.com", i))
		w.event(w.Tenant, "license.changed")
	}
	doors := []*functiontest.Door{w.door(nil), w.door(nil), w.door(nil)}
	for range 3 {
		var runs sync.WaitGroup
		for _, d := range doors {
			runs.Go(func() { w.run(d) })
		}
		runs.Wait()
	}
	if got := len(w.sent()); got != n {
		t.Errorf("%d mails arrived, want %d", got, n)
	}
	if got := len(s.types()); got != 2*n {
		t.Errorf("%d events arrived, want %d", got, 2*n)
	}
	if open := testenv.Value[int64](t, w.DB, `SELECT (SELECT count(*) FROM app.webhook_deliveries WHERE attempts <> 1 OR status <> 'delivered') + (SELECT count(*) FROM app.mails WHERE attempts <> 1 OR status <> 'sent')`); open != 0 {
		t.Errorf("%d were not sent at their first attempt", open)
	}
}

func TestAMailServerThatRefusesOrHangsLosesNothingAndHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newSink(t)
	w.hook(w.Tenant, s.URL, "*")
	hung, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	w.must(err)
	t.Cleanup(func() { _ = hung.Close() })
	_, hungPort, err := net.SplitHostPort(hung.Addr().String())
	w.must(err)
	w.invite("zoe@example.com")
	for _, port := range []string{"1", hungPort} {
		w.event(w.Tenant, "license.changed")
		w.due()
		began := time.Now()
		got := w.run(w.door(map[string]string{"SMTP_PORT": port, "SMTP_TIMEOUT": "500ms"}))
		if got.Mails.Sent != 0 || got.Mails.Postponed != 1 || got.Webhooks.Delivered != 1 {
			t.Errorf("port %s: the run did %+v", port, got)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("port %s: the run took %s", port, took)
		}
	}
	if got := w.run(w.door(nil)); got.Mails.Sent != 0 {
		t.Errorf("a mail was sent before its time: %+v", got)
	}
	w.due()
	if got := w.run(w.door(nil)); got.Mails.Sent != 1 || len(w.sent()) != 1 {
		t.Errorf("the run did %+v", got)
	}
}

func TestSinksThatHangRefuseOrRedirectHoldUpNobodyElseAndLoseNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	release := make(chan struct{})
	hung := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(hung.Close)
	t.Cleanup(sync.OnceFunc(func() { close(release) }))
	good, inside := newSink(t), newSink(t)
	redirects := httptest.NewServer(http.RedirectHandler(inside.URL, http.StatusPermanentRedirect))
	t.Cleanup(redirects.Close)
	bad := map[string]string{
		"it did not answer in time":                      hung.URL,
		"the connection was refused":                     "http://127.0.0.1:1/",
		"the name could not be looked up":                "http://nowhere.invalid/",
		"it answered 308; redirects are not followed":    redirects.URL,
		"the URL leads to an address that is not public": "",
	}
	hooks := map[string]uuid.UUID{}
	for why, url := range bad {
		if url != "" {
			hooks[why], _ = w.hook(w.Tenant, url, "*")
		}
	}
	w.hook(w.Tenant, good.URL, "*")
	for range 3 {
		w.event(w.Tenant, "license.changed")
	}
	if got := w.run(w.door(nil)); got.Webhooks.Delivered != 3 || got.Webhooks.Postponed != 4 || got.Webhooks.Deliveries != 15 {
		t.Errorf("the run did %+v", got)
	}
	for why, hook := range hooks {
		tried := testenv.Values[string](t, w.DB, `SELECT tries->-1->>'error' FROM app.webhook_deliveries WHERE webhook_id = $1 AND jsonb_array_length(tries) > 0`, hook)
		if len(tried) != 1 || tried[0] != why {
			t.Errorf("%s: the attempts ended by %q", why, tried)
		}
	}
	// The same, where private addresses are not allowed: the names and addresses are judged when they are connected to.
	w.due()
	w.event(w.Tenant, "license.changed")
	if got := w.run(w.door(map[string]string{"WEBHOOK_ALLOW_PRIVATE": "false"})); got.Webhooks.Delivered != 0 {
		t.Errorf("something private was reached: %+v", got)
	}
	if len(inside.types()) != 0 || len(good.types()) != 3 {
		t.Error("something private was reached")
	}
	// All of them mend.
	for _, hook := range hooks {
		w.DB.Exec(t, `UPDATE app.webhooks SET url = $2 WHERE id = $1`, hook, good.URL)
	}
	w.due()
	w.run(w.door(nil))
	if got := len(good.types()); got != 20 {
		t.Errorf("%d of 20 deliveries arrived", got)
	}
	if left := testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.webhooks WHERE failing_since IS NOT NULL`); left != 0 {
		t.Errorf("%d webhooks fail", left)
	}
}

func TestAWebhookThatFailsForDaysIsSwitchedOffWithNotice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newSink(t)
	hook, _ := w.hook(w.Tenant, s.URL, "*")
	gone, _ := w.hook(w.Tenant, s.URL, "trial.*")
	w.DB.Exec(t, `INSERT INTO app.users (tenant_id, id, email, role, status, issuer, subject, joined_at) VALUES ($1, gen_random_uuid(), 'owner@example.com', 'owner', 'active', 'i', 's', now())`, w.Tenant.UUID())
	door := w.door(nil)
	s.answers(http.StatusInternalServerError)
	w.event(w.Tenant, "license.changed")
	w.event(w.Tenant, "license.changed")
	if got := w.run(door); got.Webhooks.Postponed != 1 || got.Webhooks.Disabled != 0 {
		t.Errorf("the run did %+v", got)
	}
	w.DB.Exec(t, `UPDATE app.webhooks SET failing_since = now() - interval '5 days' WHERE id = $1`, hook)
	w.due()
	if got := w.run(door); got.Webhooks.Disabled != 1 {
		t.Errorf("the run did %+v", got)
	}
	got := w.run(door)
	if mails := w.sent(); got.Mails.Sent+int64(len(mails)) < 1 || len(mails) != 1 || mails[0].Header.Get("To") != "<owner@example.com>" {
		t.Errorf("the owner was not told: %+v", got)
	}
	w.event(w.Tenant, "license.changed")
	w.due()
	if got := w.run(door); got.Webhooks.Deliveries != 0 {
		t.Errorf("something is kept for a webhook that is switched off: %+v", got)
	}
	// What it missed is sent again when it is switched on, and somebody asks.
	s.answers(http.StatusOK)
	missed := testenv.Values[uuid.UUID](t, w.DB, `SELECT id FROM app.webhook_deliveries WHERE webhook_id = $1 AND status = 'failed'`, hook)
	if len(missed) != 2 {
		t.Fatalf("%d deliveries failed, want 2", len(missed))
	}
	on := webhook.Active
	w.act(w.Tenant, func(tx tenancy.Tx) error {
		if _, err := webhook.Redeliver(t.Context(), tx, w.Tenant, missed[0]); err == nil {
			t.Error("a delivery of a webhook that is switched off is sent again")
		}
		_, err := webhook.Alter(t.Context(), tx, w.Tenant, w.guard, hook, webhook.Change{Status: &on})
		return err
	})
	before := len(s.types())
	w.act(w.Tenant, func(tx tenancy.Tx) error {
		_, err := webhook.Redeliver(t.Context(), tx, w.Tenant, missed[0])
		return err
	})
	if got := w.run(door); got.Webhooks.Delivered != 1 || len(s.types()) != before+1 {
		t.Errorf("the run did %+v", got)
	}
	// Who says that it is gone is believed at once.
	s.answers(http.StatusGone)
	w.event(w.Tenant, "trial.started")
	if got := w.run(door); got.Webhooks.Disabled != 2 {
		t.Errorf("the run did %+v", got)
	}
	if status := testenv.Value[string](t, w.DB, `SELECT status FROM app.webhooks WHERE id = $1`, gone); status != webhook.Disabled {
		t.Errorf("it is %s", status)
	}
}

func TestSeatEventsAreReadOffWhatSeatsLeaveBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.Beside(t, "Bravo")
	own, all := newSink(t), newSink(t)
	_, secret := w.hook(w.Tenant, own.URL, "seat.*")
	w.hook(w.operator, all.URL, "seat.acquired", "seat.evicted")
	door, sweep, seats := w.door(nil), w.Sweep(t), w.Seating(t)
	brief, long, foreign := w.Seats(t, 1, time.Second), w.Seats(t, 1, time.Hour), other.Seats(t, 1, time.Hour)
	seats.Sit(t, brief, "a")
	evicted := seats.Sit(t, long, "a")
	seats.Sit(t, foreign, "a")
	seats.Acquire.Send(t, functiontest.Message{Body: functiontest.Ask(long, "b")}).Want(t, http.StatusConflict)
	w.Evict(t, evicted.SessionID, "left")
	seats.Beat(t, evicted.SeatToken).Want(t, http.StatusGone)
	token, err := w.Scheduler.Token(map[string]any{
		"aud": functiontest.SchedulerAudience, "sub": "1", "email": functiontest.SchedulerEmail, "email_verified": true,
	}, time.Minute)
	w.must(err)
	want := []string{"seat.acquired", "seat.acquired", "seat.denied", "seat.evicted", "seat.lapsed"}
	testenv.Eventually(t, 30*time.Second, func() error {
		sweep.Send(t, functiontest.Message{Token: token}).Want(t, http.StatusOK)
		w.run(door)
		if got := own.types(); !slices.Equal(got, want) {
			return fmt.Errorf("the tenant heard %v", got)
		}
		return nil
	})
	w.run(door) // what was read is read again within a minute, and told once
	if got := own.types(); !slices.Equal(got, want) {
		t.Errorf("the tenant heard %v", got)
	}
	if got := all.types(); !slices.Equal(got, []string{"seat.acquired", "seat.acquired", "seat.acquired", "seat.evicted"}) {
		t.Errorf("the operator heard %v", got)
	}
	verifier, err := standardwebhooks.NewWebhook(secret)
	w.must(err)
	own.mu.Lock()
	defer own.mu.Unlock()
	for i, r := range own.raw {
		if err := verifier.Verify(own.bodies[i], r.Header); err != nil {
			t.Errorf("%s is not believed: %v", own.bodies[i], err)
		}
		m := own.heard[i]
		if m.TenantID != w.Tenant.UUID() || r.Header.Get("Webhook-Id") != m.ID.String() {
			t.Errorf("heard %s", own.bodies[i])
		}
		if m.Type == "seat.evicted" && !strings.Contains(string(m.Data), `"reason":"left"`) && !strings.Contains(string(m.Data), `"reason": "left"`) {
			t.Errorf("heard %s", own.bodies[i])
		}
	}
}

func TestARotatedSecretAndTheOneBeforeBothVerify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newSink(t)
	hook, was := w.hook(w.Tenant, s.URL, "*")
	var is string
	w.act(w.Tenant, func(tx tenancy.Tx) (err error) {
		_, is, err = webhook.Rotate(t.Context(), tx, w.Tenant, w.keys, hook, time.Hour)
		return err
	})
	door := w.door(nil)
	believed := func(secret string) bool {
		verifier, err := standardwebhooks.NewWebhook(secret)
		w.must(err)
		last := len(s.raw) - 1
		return verifier.Verify(s.bodies[last], s.raw[last].Header) == nil
	}
	w.event(w.Tenant, "license.changed")
	w.run(door)
	if is == was || !believed(is) || !believed(was) {
		t.Error("within the overlap one of the two does not verify")
	}
	w.DB.Exec(t, `UPDATE app.webhooks SET previous_until = now()`)
	w.event(w.Tenant, "license.changed")
	w.run(door)
	if !believed(is) || believed(was) {
		t.Error("after the overlap the secret before verifies")
	}
}

func TestOnlyTheSchedulerMayHaveThingsDelivered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	door := w.door(nil)
	for _, token := range []string{"", "ush_something", "a.b.c"} {
		door.Send(t, functiontest.Message{Token: token, Body: `{"unknown":1}`}).Want(t, http.StatusUnauthorized, "scheduler_token_invalid")
	}
}
