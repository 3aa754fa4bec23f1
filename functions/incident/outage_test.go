package incident_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/incident"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

func TestWhileTheDatabaseIsOutIncidentsAreOpenedAndDoneWhenItIsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, functiontest.Options{
		Firestore: testenv.Firestore(t), PrivatePostgres: true, Env: map[string]string{"DATABASE_TIMEOUT": "1s", "DATABASE_CONNECT_TIMEOUT": "500ms"},
	})
	l := w.Seats(t, 3, time.Minute)
	seating := w.Seating(t)
	seat := seating.Sit(t, l, "a")
	operator, stranger := w.person(t, map[string]any{"usher_operator": true}), w.person(t, map[string]any{"usher_operator": "true"})
	body := functiontest.Body{
		"severity": "P0", "kind": "database_lost", "summary": "All is dark.", "scope": functiontest.Body{"tenant_id": w.Tenant.UUID()}, "actions": []string{"freeze_tenant"},
	}
	open := func(token string) functiontest.Reply {
		return w.door.Send(t, functiontest.Message{Method: "POST", Path: "/v1/incidents", Token: token, Body: body, Header: map[string]string{"Idempotency-Key": "dark"}})
	}
	// While the database is there, the claim is nothing: it knows nobody of that name.
	open(operator).Want(t, http.StatusForbidden, "membership_missing")
	w.Postgres.Stop(t)
	open(w.key).Want(t, http.StatusServiceUnavailable, "store_unavailable")
	open(stranger).Want(t, http.StatusServiceUnavailable, "store_unavailable")
	opened := functiontest.Read[incident.Incident](t, open(operator).Want(t, http.StatusCreated))
	again := functiontest.Read[incident.Incident](t, open(operator).Want(t, http.StatusCreated))
	if opened.ID != again.ID || !opened.Offline || outcomes(opened)["freeze_tenant"] != "pending" || opened.Journal != "written" {
		t.Fatalf("opened are %+v and %+v", opened, again)
	}
	path := "/v1/incidents/" + opened.ID.String()
	w.door.Send(t, functiontest.Message{Method: "POST", Path: path + "/notes", Token: operator, Body: functiontest.Body{"text": "The disk is full."}}).Want(t, http.StatusCreated)
	w.door.Send(t, functiontest.Message{Method: "POST", Path: path + "/resolve", Token: operator, Body: functiontest.Body{"resolution": "x"}}).Want(t, http.StatusServiceUnavailable)
	shown := functiontest.Read[incident.Shown](t, w.door.Send(t, functiontest.Message{Method: "GET", Path: path, Token: operator}).Want(t, http.StatusOK))
	if len(shown.Timeline) != 2 || fmt.Sprint(shown.Timeline[1].RecordedIn) != "[journal]" {
		t.Errorf("the timeline is %+v", shown.Timeline)
	}
	// Nobody new gets in, at once.
	w.door.Send(t, functiontest.Message{Method: "PUT", Path: "/v1/switches", Token: operator, Body: functiontest.Body{
		"freeze_admissions": true, "read_only": false, "frozen_tenants": []string{}, "reason": "dark",
	}}).Want(t, http.StatusOK)
	w.Postgres.Start(t)

	// The answer to the first that asks may still be about a connection that is gone.
	testenv.Eventually(t, 20*time.Second, func() error {
		if r := w.watchWith(t); r.Status != http.StatusOK {
			return fmt.Errorf("the watch answers %d %s", r.Status, r.Body)
		}
		return nil
	})
	done := w.shown(t, opened)
	if outcomes(done.Incident)["freeze_tenant"] != "done" || done.OpenedBy[:len("identity:")] != "identity:" {
		t.Errorf("afterwards it is %+v", done.Incident)
	}
	seating.Heartbeat.Insist(t, functiontest.Message{Token: seat.SeatToken}).Want(t, http.StatusGone, "seat_evicted")
	if n := testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.incidents`); n != 1 {
		t.Errorf("there are %d incidents", n)
	}
	if r := w.watch(t); r.Imported != 0 || r.Acted != 0 {
		t.Errorf("the next watch: %+v", r)
	}
}

func TestWhileTheJournalIsOutActsGoOnAndItsEntriesWait(t *testing.T) {
	t.Parallel()
	firestore := testenv.PrivateFirestore(t)
	w := newWorld(t, functiontest.Options{Firestore: firestore})
	slow := w.door
	testenv.Eventually(t, time.Minute, func() error { // its first answers take longer than is waited for below
		if r := w.watchWith(t); r.Status != http.StatusOK {
			return errors.New("not yet")
		}
		return nil
	})
	w.Set("JOURNAL_TIMEOUT", "300ms")
	w.door = w.Incident(t)
	firestore.Pause(t)
	opened := w.opened(t, functiontest.Body{
		"severity": "P1", "kind": "key_leaked", "summary": "A key is out.", "scope": functiontest.Body{"tenant_id": w.Tenant.UUID()}, "actions": []string{"freeze_tenant", "revoke_api_keys"},
	})
	if got := outcomes(opened); got["freeze_tenant"] != "done" || got["revoke_api_keys"] != "done" || opened.Journal != "waiting" {
		t.Errorf("opened is %+v", opened)
	}
	for _, e := range w.shown(t, opened).Timeline {
		if fmt.Sprint(e.RecordedIn) != "[audit]" {
			t.Errorf("%s is recorded in %v", e.What, e.RecordedIn)
		}
	}
	before := len(w.Log.Text())
	w.watchWith(t).Want(t, http.StatusServiceUnavailable)
	// Alerts go by these words.
	if log := w.Log.Text()[before:]; strings.Count(log, `"msg":"the watch failed"`) != 1 || strings.Contains(log, `"msg":"the watch ran"`) {
		t.Error("the log does not say that the watch failed")
	}
	firestore.Resume(t)
	w.door = slow
	if r := w.watch(t); r.Journaled != 3 {
		t.Errorf("the watch: %+v", r)
	}
	if log := w.Log.Text()[before:]; strings.Count(log, `"msg":"the watch failed"`) != 1 || strings.Count(log, `"msg":"the watch ran"`) != 1 {
		t.Error("the log does not say that the watch ran")
	}
	shown := w.shown(t, opened)
	for _, e := range shown.Timeline {
		if fmt.Sprint(e.RecordedIn) != "[audit journal]" {
			t.Errorf("%s is recorded in %v", e.What, e.RecordedIn)
		}
	}
	if s := functiontest.Read[incident.Switches](t, w.call(t, "GET", "/v1/switches", nil)); len(shown.Timeline) != 3 || len(s.FrozenTenants) != 1 {
		t.Errorf("%d events, and the switches say %+v", len(shown.Timeline), s)
	}
}

func TestSwitchesFreezeAdmissionsAndTenants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, functiontest.Options{Firestore: testenv.Firestore(t)})
	l := w.Seats(t, 200, time.Minute)
	seating := w.Seating(t)
	seat := seating.Sit(t, l, "a")
	set := func(admissions bool, frozen ...any) incident.Switches {
		t.Helper()
		return functiontest.Read[incident.Switches](t, w.call(t, "PUT", "/v1/switches", functiontest.Body{
			"freeze_admissions": admissions, "read_only": false, "frozen_tenants": append([]any{}, frozen...), "reason": "drill",
		}).Want(t, http.StatusOK))
	}
	began := time.Now()
	if s := set(true); s.Version != 1 || !s.FreezeAdmissions || *s.Reason != "drill" {
		t.Errorf("set is %+v", s)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if r := seating.Acquire.Send(t, functiontest.Message{Body: functiontest.Ask(l, fmt.Sprint("b", time.Now()))}); r.Code() != "admissions_frozen" {
			time.Sleep(100 * time.Millisecond) // each of them takes a seat
			return fmt.Errorf("acquire answers %d %s", r.Status, r.Body)
		}
		return nil
	})
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("it held %s later", took)
	}
	// Who sits goes on, also by asking again.
	seating.Beat(t, seat.SeatToken).Want(t, http.StatusOK)
	seating.Acquire.Send(t, functiontest.Message{Body: functiontest.Ask(l, "a")}).Want(t, http.StatusOK)
	// Redis forgets it; the watch tells it again.
	w.Redis.Do(t, "DEL", "seat:switches")
	w.watch(t)
	if got := w.Redis.Do(t, "HGET", "seat:switches", "frozen"); got != "1" {
		t.Errorf("Redis knows %v", got)
	}
	set(false, w.Tenant.UUID())
	seating.Beat(t, seat.SeatToken).Want(t, http.StatusGone, "seat_evicted")
	set(false)
	w.Acquire(t).Send(t, functiontest.Message{Body: functiontest.Ask(l, "c")}).Want(t, http.StatusCreated) // an instance that knows nothing yet asks at once
	set(false)
	if n := testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.audit_entries WHERE action = 'switches.set'`); n != 4 {
		t.Errorf("%d settings are recorded", n)
	}
}

func TestAFreezeAndASuspensionDoNotUndoEachOther(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]functiontest.Options{"with a journal": {Firestore: testenv.Firestore(t)}, "without": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, o)
			db, err := tenancy.Open(t.Context(), w.Getenv("operator"), w.Log.Logger)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(db.Close)
			// set is what PATCH /v1/tenants/{id} does.
			set := func(to, reason, code string) {
				t.Helper()
				_, err := identity.NewTenants(db).Change(t.Context(), w.Tenant.UUID(), identity.TenantChange{Status: &to, Reason: reason, By: "operator:test"})
				if f := fault.As(err); (err != nil || code != "") && (f == nil || f.Kind != fault.KindConflict || f.Code != code) {
					t.Errorf("set to %s: %v, want %q", to, err, code)
				}
			}
			status := func() string {
				t.Helper()
				return testenv.Value[string](t, w.DB, `SELECT status || ' ' || coalesce(status_reason, '') FROM app.tenants WHERE id = '`+w.Tenant.String()+`'`)
			}
			i := w.opened(t, functiontest.Body{
				"severity": "P1", "kind": "license_shared", "summary": "Drill.", "scope": functiontest.Body{"tenant_id": w.Tenant.UUID()}, "actions": []string{"freeze_tenant"},
			})
			set("active", "", "tenant_frozen")
			// It is suspended for another reason as well, and reinstated from that: frozen it stays.
			set("suspended", "unpaid", "")
			if got := status(); got != "suspended unpaid" {
				t.Errorf("suspended while frozen it is %q", got)
			}
			set("active", "", "")
			if n := w.watch(t).Frozen; n != 1 {
				t.Errorf("the watch froze %d", n)
			}
			if n := w.watch(t).Frozen; n != 0 {
				t.Errorf("the watch after it froze %d", n)
			}
			set("active", "", "tenant_frozen")
			if o.Firestore != nil {
				set("suspended", "unpaid", "")
				set("active", "", "")
				w.call(t, "PUT", "/v1/switches", functiontest.Body{
					"freeze_admissions": false, "read_only": false, "frozen_tenants": []any{w.Tenant.UUID()}, "reason": "drill",
				}).Want(t, http.StatusOK)
				set("active", "", "tenant_frozen")
			}
			set("suspended", "unpaid", "")
			w.call(t, "POST", "/v1/incidents/"+i.ID.String()+"/resolve", functiontest.Body{"resolution": "Over.", "unfreeze": true}).Want(t, http.StatusOK)
			if got := status(); got != "suspended unpaid" {
				t.Errorf("frozen no more it is %q", got)
			}
			set("active", "", "")
			if n := w.watch(t).Frozen; n != 0 || status() != "active " {
				t.Errorf("the watch froze %d, and it is %q", n, status())
			}
		})
	}
}

func TestProofIncidentsAnAttackOfWrongKeysIsOneAndGoodClientsNoticeNothing(t *testing.T) {
	t.Parallel()
	attempts := 400
	if testenv.Full() {
		attempts = 10_000
	}
	w := newWorld(t, functiontest.Options{Firestore: testenv.Firestore(t), Env: map[string]string{"WATCH_UNKNOWN_KEYS": fmt.Sprint(attempts / 4)}})
	l := w.Seats(t, 2, time.Minute)
	seating, validate := w.Seating(t), w.Validate(t)
	seat := seating.Sit(t, l, "good")
	refused, opened := 0, 0
	for n := range attempts {
		body := functiontest.Body{"license_key": fmt.Sprintf("USH-AAAAA-BBBBB-CCCCC-DDDDD-EEEEE-%05d", n), "hardware_id": "x", "version": "1.0.0"}
		if r := validate.SendBare(t, functiontest.Message{Body: body, From: fmt.Sprintf("192.0.2.%d", n%10)}); r.Status == http.StatusTooManyRequests {
			refused++
		}
		if n%(attempts/10) == 0 { // the good one sits behind the same address
			r := validate.SendBare(t, functiontest.Message{Body: functiontest.Body{"license_key": l.Key, "hardware_id": "good", "version": "1.0.0"}, From: "192.0.2.1"})
			if r.Status != http.StatusOK || functiontest.Read[functiontest.Body](t, r)["valid"] != true {
				t.Fatalf("a good key is answered %d %s", r.Status, r.Body)
			}
			seating.Beat(t, seat.SeatToken).Want(t, http.StatusOK)
			opened += w.watch(t).Opened
		}
	}
	opened += w.watch(t).Opened
	page := functiontest.Read[incident.List](t, w.call(t, "GET", "/v1/incidents", nil))
	if opened != 1 || len(page.Items) != 1 || page.Items[0].Kind != "key_guessing" || page.Items[0].Severity != "P2" || page.Items[0].OpenedBy != "watch" {
		t.Fatalf("%d were opened: %+v", opened, page.Items)
	}
	seen := int64(0)
	for _, e := range page.Items[0].Evidence {
		seen += e.Count
	}
	if seen != int64(attempts) || len(page.Items[0].Evidence) != 10 {
		t.Errorf("its evidence is %+v, of %d attempts", page.Items[0].Evidence, attempts)
	}
	testenv.Proved(t, "incidents", "%d wrong keys from 10 addresses, %d of them refused: %d incident, with %d in its evidence", attempts, refused, opened, seen)
	// Resolved, it is dealt with.
	w.call(t, "POST", "/v1/incidents/"+page.Items[0].ID.String()+"/resolve", functiontest.Body{"resolution": "Blocked."}).Want(t, http.StatusOK)
	if r := w.watch(t); r.Opened != 0 {
		t.Errorf("the next watch: %+v", r)
	}
}

func TestWatchesAtOnceOpenOneIncident(t *testing.T) {
	t.Parallel()
	w := newWorld(t, functiontest.Options{Env: map[string]string{"WATCH_BAD_CREDENTIALS": "5"}})
	for range 6 {
		w.door.Send(t, functiontest.Message{Method: "GET", Path: "/v1/incidents", Token: "ush_wrong", From: "192.0.2.9"}).Want(t, http.StatusUnauthorized)
	}
	answers := make(chan incident.WatchAnswer, 4)
	for range cap(answers) {
		go func() { answers <- functiontest.Read[incident.WatchAnswer](t, w.watchWith(t)) }()
	}
	opened := 0
	for range cap(answers) {
		opened += (<-answers).Opened
	}
	if n := testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.incidents WHERE kind = 'bad_credentials' AND severity = 'P3'`); opened != 1 || n != 1 {
		t.Errorf("%d say that they opened one, and there are %d", opened, n)
	}
}
