package incident_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/incident"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

func TestProofIncidentsAFrozenTenantIsStoppedUnderLoadAndNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, functiontest.Options{Firestore: testenv.Firestore(t)})
	sessions := 100
	if testenv.Full() {
		sessions = 1000
	}
	other := w.Beside(t, "Umbrella")
	mine, theirs := w.Seats(t, sessions, time.Minute), other.Seats(t, 20, time.Minute)
	seating := w.Seating(t)
	var tokens []string
	for n := range sessions {
		tokens = append(tokens, seating.Sit(t, mine, functiontest.Device(n)).SeatToken)
	}
	var others []string
	for n := range 20 {
		others = append(others, seating.Sit(t, theirs, functiontest.Device(n)).SeatToken)
	}
	their := others[0]
	load := underLoad(t, seating.Heartbeat, tokens, others)
	beat := func(token string) functiontest.Reply {
		return seating.Heartbeat.Send(t, functiontest.Message{Token: token})
	}

	for _, tenant := range []tenancy.ID{w.Tenant, other.Tenant} {
		w.DB.Exec(t, `INSERT INTO app.users (tenant_id, id, email, role, status, issuer, subject) VALUES ($1::uuid, gen_random_uuid(), $1::text || '@x.test', 'owner', 'active', 'i', $1::text)`, tenant.UUID().String())
	}
	opened := w.opened(t, functiontest.Body{
		"severity": "P1", "kind": "key_leaked", "summary": "A key is on a forum.", "scope": functiontest.Body{"tenant_id": w.Tenant.UUID()},
		"actions": []string{"freeze_tenant"},
	})
	if got := outcomes(opened); got["freeze_tenant"] != "done" || opened.Journal != "written" || opened.RespondBy.Sub(opened.OpenedAt.Time) != 15*time.Minute {
		t.Fatalf("opened is %+v", opened)
	}
	late, disturbed, beats := load()
	if late > 0 || disturbed > 0 {
		t.Errorf("of %d heartbeats %d came through after the answer, and %d of another tenant were refused", beats, late, disturbed)
	}
	testenv.Proved(t, "incidents", "a tenant with %d sessions was frozen among %d heartbeats: none came through after the answer, and none of another tenant was refused", sessions, beats)
	// The pools were told before the answer: no heartbeat passes, and each says why.
	for n, token := range tokens {
		r := beat(token).Want(t, http.StatusGone, "seat_evicted")
		if !strings.Contains(string(r.Body), `"reason":"tenant_suspended"`) {
			t.Fatalf("session %d: %s", n, r.Body)
		}
	}
	seating.Acquire.Send(t, functiontest.Message{Body: functiontest.Ask(mine, "new")}).Want(t, http.StatusForbidden, "tenant_suspended")
	beat(their).Want(t, http.StatusOK)
	if s := functiontest.Read[incident.Switches](t, w.call(t, "GET", "/v1/switches", nil).Want(t, http.StatusOK)); len(s.FrozenTenants) != 1 || s.FrozenTenants[0] != w.Tenant.UUID() {
		t.Errorf("the switches say %+v", s)
	}

	// Resolved without being told to, it stays frozen.
	path := "/v1/incidents/" + opened.ID.String()
	resolved := functiontest.Read[incident.Incident](t, w.call(t, "POST", path+"/resolve", functiontest.Body{"resolution": "The key was rotated."}).Want(t, http.StatusOK))
	if resolved.Status != "resolved" || resolved.ResolvedAt == nil {
		t.Errorf("resolved is %+v", resolved)
	}
	seating.Acquire.Send(t, functiontest.Message{Body: functiontest.Ask(mine, "new")}).Want(t, http.StatusForbidden, "tenant_suspended")

	again := w.opened(t, functiontest.Body{
		"severity": "P3", "kind": "key_leaked", "summary": "The same.", "scope": functiontest.Body{"tenant_id": w.Tenant.UUID()}, "actions": []string{"freeze_tenant"},
	})
	unfrozen := functiontest.Read[incident.Incident](t, w.call(t, "POST", "/v1/incidents/"+again.ID.String()+"/resolve", functiontest.Body{"resolution": "Over.", "unfreeze": true}).Want(t, http.StatusOK))
	if outcomes(unfrozen)["unfreeze_tenant"] != "done" {
		t.Errorf("unfrozen is %+v", unfrozen)
	}
	for n := range sessions { // an ended session stays ended, and its device comes back by asking
		beat(tokens[n]).Want(t, http.StatusGone)
		seating.Acquire.Send(t, functiontest.Message{Body: functiontest.Ask(mine, functiontest.Device(n))}).Want(t, http.StatusCreated)
	}
	beat(their).Want(t, http.StatusOK)
	// Its owners heard of it, once; nobody else did.
	if to := testenv.Values[string](t, w.DB, `SELECT recipient FROM app.mails WHERE kind = 'tenant_suspended'`); !slices.Equal(to, []string{w.Tenant.String() + "@x.test"}) {
		t.Errorf("mailed are %v", to)
	}
	if s := functiontest.Read[incident.Switches](t, w.call(t, "GET", "/v1/switches", nil).Want(t, http.StatusOK)); len(s.FrozenTenants) != 0 {
		t.Errorf("the switches say %+v", s)
	}
	w.Hides(t)
}

// underLoad beats for sessions that are to be stopped and for others that are not, from several clients at once. What it answers is
// called when the first were stopped: it goes on for a moment, and says how many of the first came through that were sent since,
// how many of the others were refused, and how many heartbeats there were.
func underLoad(t *testing.T, door *functiontest.Door, stopped, others []string) func() (late, disturbed, beats int64) {
	t.Helper()
	var lates, disturbs, all, since atomic.Int64
	done := make(chan struct{})
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for n := client; ; n++ {
				select {
				case <-done:
					return
				case <-time.After(2 * time.Millisecond):
				}
				token, mine := stopped[n*7%len(stopped)], n%4 != 0
				if !mine {
					token = others[n%len(others)]
				}
				after := since.Load()
				status := door.SendBare(t, functiontest.Message{Token: token}).Status
				all.Add(1)
				if mine && after > 0 && status != http.StatusGone {
					lates.Add(1)
				}
				if !mine && status != http.StatusOK {
					disturbs.Add(1)
				}
			}
		})
	}
	return func() (late, disturbed, beats int64) {
		t.Helper()
		since.Store(1)
		before := all.Load()
		testenv.Eventually(t, 10*time.Second, func() error {
			if all.Load() < before+100 {
				return errors.New("too few heartbeats")
			}
			return nil
		})
		close(done)
		clients.Wait()
		return lates.Load(), disturbs.Load(), all.Load()
	}
}

func TestATimelineIsOfTheAuditLogAndTheJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, functiontest.Options{Firestore: testenv.Firestore(t)})
	l := w.Seats(t, 3, time.Minute)
	seating := w.Seating(t)
	seat := seating.Sit(t, l, "a")
	w.DB.Exec(t, `
		INSERT INTO app.users (tenant_id, id, email, role, status, issuer, subject) VALUES ($1, gen_random_uuid(), 'call@usher.test', 'owner', 'active', 'i', 's')`, identity.OperatorID)
	opened := w.opened(t, functiontest.Body{
		"severity": "P0", "kind": "license_shared", "summary": "Half the internet sits on it.", "scope": functiontest.Body{"license_id": l.ID},
		"actions": []string{"end_sessions", "revoke_licenses"},
	})
	if got := outcomes(opened); got["end_sessions"] != "done" || got["revoke_licenses"] != "done" || *opened.Scope.TenantID != w.Tenant.UUID() {
		t.Fatalf("opened is %+v", opened)
	}
	r := seating.Heartbeat.Send(t, functiontest.Message{Token: seat.SeatToken}).Want(t, http.StatusGone, "seat_evicted")
	if !strings.Contains(string(r.Body), `"reason":"incident"`) {
		t.Errorf("the holder hears %s", r.Body)
	}
	path := "/v1/incidents/" + opened.ID.String()
	w.call(t, "POST", path+"/notes", functiontest.Body{"text": "The customer was called."}).Want(t, http.StatusCreated)
	w.call(t, "POST", path+"/resolve", functiontest.Body{"resolution": "It was sold anew."}).Want(t, http.StatusOK)
	w.call(t, "POST", path+"/resolve", functiontest.Body{"resolution": "Again."}).Want(t, http.StatusOK)
	shown := w.shown(t, opened)
	var whats []string
	for _, e := range shown.Timeline {
		whats = append(whats, e.What)
		if fmt.Sprint(e.RecordedIn) != "[audit journal]" {
			t.Errorf("%s is recorded in %v", e.What, e.RecordedIn)
		}
	}
	if !slices.Equal(whats, []string{"opened", "acted", "acted", "noted", "resolved"}) || *shown.Resolution != "It was sold anew." {
		t.Errorf("the timeline is %v, of %+v", whats, shown.Incident)
	}

	file := functiontest.Read[incident.Export](t, w.call(t, "GET", path+"/export", nil).Want(t, http.StatusOK))
	signed, err := w.Verifier(t, time.Now()).IncidentFile([]byte(file.IncidentFile))
	if err != nil {
		t.Fatal(err)
	}
	var timeline []incident.Event
	if err := json.Unmarshal(signed.Timeline, &timeline); err != nil || len(timeline) != 5 || signed.ID != opened.ID.String() {
		t.Errorf("exported is %s, %v", signed.Timeline, err)
	}
	if _, err := w.Verifier(t, time.Now()).IncidentFile([]byte(strings.Replace(file.IncidentFile, "A", "B", 1))); err == nil {
		t.Error("an altered file verifies")
	}
	// The operator's webhooks hear of it, once of each; those of the tenant that it is about hear nothing.
	told := testenv.Values[string](t, w.DB, `
		SELECT format('%s of %s: %s %s', type, tenant_id, data->>'status', data->'scope'->>'license_id') FROM app.events WHERE type LIKE 'incident.%' ORDER BY id`)
	if of := identity.OperatorID.String() + ": "; !slices.Equal(told, []string{"incident.opened of " + of + "open " + l.ID.String(), "incident.resolved of " + of + "resolved " + l.ID.String()}) {
		t.Errorf("told is %v", told)
	}
	if n := testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.events WHERE type = 'license.revoked' AND tenant_id = $1 AND data->>'id' = $2`, w.Tenant.UUID(), l.ID.String()); n != 1 {
		t.Errorf("%d events say that the licence is revoked", n)
	}
	mails := testenv.Values[string](t, w.DB, `SELECT format('%s to %s: %s', kind, recipient, data->>'severity') FROM app.mails`)
	if !slices.Equal(mails, []string{"incident to call@usher.test: P0"}) {
		t.Errorf("mailed is %v", mails)
	}
	if page := functiontest.Read[incident.List](t, w.call(t, "GET", "/v1/incidents?status=resolved", nil).Want(t, http.StatusOK)); len(page.Items) != 1 {
		t.Errorf("listed are %+v", page)
	}
}

func TestARepeatedOpeningIsTheSameIncident(t *testing.T) {
	t.Parallel()
	w := newWorld(t, functiontest.Options{})
	m := functiontest.Message{
		Method: "POST", Path: "/v1/incidents", Token: w.key, Header: map[string]string{"Idempotency-Key": "once"},
		Body: functiontest.Body{"severity": "P2", "kind": "odd", "summary": "Odd.", "scope": functiontest.Body{"tenant_id": w.Tenant.UUID()}, "actions": []string{"revoke_api_keys"}},
	}
	first := functiontest.Read[incident.Incident](t, w.door.Send(t, m).Want(t, http.StatusCreated))
	if first.Journal != "off" {
		t.Errorf("the journal is %s", first.Journal)
	}
	second := functiontest.Read[incident.Incident](t, w.door.Send(t, m).Want(t, http.StatusCreated))
	if first.ID != second.ID || testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.incidents`) != 1 {
		t.Errorf("%s and %s", first.ID, second.ID)
	}
	// Its answer is forgotten, and it is still the same.
	w.DB.Exec(t, `DELETE FROM app.idempotency_keys`)
	third := functiontest.Read[incident.Incident](t, w.door.Send(t, m).Want(t, http.StatusCreated))
	if third.ID != first.ID {
		t.Errorf("%s and %s", first.ID, third.ID)
	}
}

func TestOnlyTheOperatorMayAndAllIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, functiontest.Options{})
	body := functiontest.Body{"severity": "P2", "kind": "odd", "summary": "Odd."}
	for token, status := range map[string]int{
		"": http.StatusUnauthorized, "ush_x": http.StatusUnauthorized, w.OperatorKey(t, identity.SigningWrite): http.StatusForbidden,
		w.OperatorKey(t, identity.IncidentsRead): http.StatusForbidden, w.person(t, map[string]any{"usher_operator": true}): http.StatusForbidden,
	} {
		w.door.Send(t, functiontest.Message{Method: "POST", Path: "/v1/incidents", Token: token, Body: body}).Want(t, status)
		w.door.Send(t, functiontest.Message{Method: "POST", Path: "/tasks/watch", Token: token}).Want(t, http.StatusUnauthorized, "scheduler_token_invalid")
	}
	for _, wrong := range []functiontest.Body{
		{"severity": "P9", "kind": "odd", "summary": "x"},
		{"severity": "P1", "kind": "Odd!", "summary": "x"},
		{"severity": "P1", "kind": "odd", "summary": "x", "actions": []string{"panic"}},
		{"severity": "P1", "kind": "odd", "summary": "x", "actions": []string{"freeze_tenant"}},
		{"severity": "P1", "kind": "odd", "summary": "x", "actions": []string{"revoke_signing_key"}},
		{"severity": "P1", "kind": "odd", "summary": "x", "scope": functiontest.Body{"tenant_id": uuid.New()}},
		{"severity": "P1", "kind": "odd", "summary": "x", "scope": functiontest.Body{"tenant_id": identity.OperatorID}, "actions": []string{"freeze_tenant"}},
		{"severity": "P1", "kind": "odd", "summary": "x", "scope": functiontest.Body{"license_id": uuid.New()}},
	} {
		w.call(t, "POST", "/v1/incidents", wrong).Want(t, http.StatusUnprocessableEntity)
	}
	w.call(t, "GET", "/v1/incidents/"+uuid.NewString(), nil).Want(t, http.StatusNotFound)
	w.call(t, "PUT", "/v1/switches", functiontest.Body{"freeze_admissions": true, "read_only": false, "frozen_tenants": []string{}, "reason": "x"}).Want(t, http.StatusConflict, "journal_off")
	if n := testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.incidents`); n != 0 {
		t.Errorf("%d incidents are open", n)
	}
}

func TestKeysAreRevokedAndReplacedFromOneCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, functiontest.Options{})
	l := w.Seats(t, 3, time.Minute)
	before := w.Seating(t).Sit(t, l, "a").Receipt
	kid := testenv.Value[string](t, w.DB, `SELECT kid FROM app.signing_keys WHERE kind = 'receipt' AND not_before <= now()`)
	leaked := w.OperatorKey(t, identity.TenantsRead)
	leakedID := testenv.Value[uuid.UUID](t, w.DB, `SELECT id FROM app.api_keys ORDER BY created_at DESC LIMIT 1`)
	opened := w.opened(t, functiontest.Body{
		"severity": "P0", "kind": "laptop_stolen", "summary": "With everything on it.",
		"scope": functiontest.Body{"api_key_id": leakedID, "signing_key_id": kid}, "actions": []string{"revoke_api_keys", "revoke_signing_key"},
	})
	if got := outcomes(opened); got["revoke_api_keys"] != "done" || got["revoke_signing_key"] != "done" {
		t.Fatalf("opened is %+v", opened)
	}
	w.door.Send(t, functiontest.Message{Method: "GET", Path: "/v1/incidents", Token: leaked}).Want(t, http.StatusUnauthorized, "api_key_invalid")
	if _, err := w.Verifier(t, time.Now()).Receipt(before); err == nil {
		t.Error("a receipt of before verifies")
	}
	rotated := w.opened(t, functiontest.Body{"severity": "P3", "kind": "routine", "summary": "To be sure.", "actions": []string{"rotate_signing_key"}})
	if outcomes(rotated)["rotate_signing_key"] != "done" {
		t.Errorf("opened is %+v", rotated)
	}
	const retired = `SELECT count(*) FROM app.audit_entries WHERE action = 'signing_key.retired'`
	took := testenv.Value[int](t, w.DB, retired)
	if err := w.IncidentDeps(t).ActAgain(t.Context(), rotated.ID); err != nil || took == 0 || testenv.Value[int](t, w.DB, retired) != took {
		t.Errorf("a second run at the same time took more than the first's %d keys out of use, %v", took, err)
	}
	w.Verify(t, w.Seating(t).Sit(t, l, "b").Receipt, time.Now())
}

func TestWhatAnIncidentWasResolvedBeforeIsNotDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, functiontest.Options{})
	w.Seats(t, 1, time.Minute)
	// So many that they are revoked in three transactions.
	w.DB.Exec(t, `
		CREATE TEMP TABLE more AS SELECT l.* FROM app.licenses l, generate_series(1, 100);
		UPDATE more SET id = gen_random_uuid();
		INSERT INTO app.licenses SELECT * FROM more`)
	first := testenv.Value[uuid.UUID](t, w.DB, `SELECT id FROM app.licenses ORDER BY id LIMIT 1`)
	owner := w.DB.Owner(t)
	tx, err := owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM app.licenses WHERE id = $1 FOR UPDATE`, first); err != nil {
		t.Fatal(err)
	}
	var opening sync.WaitGroup
	opening.Go(func() {
		w.door.SendBare(t, functiontest.Message{Method: "POST", Path: "/v1/incidents", Token: w.key, Body: functiontest.Body{
			"severity": "P2", "kind": "license_shared", "summary": "Too soon.", "scope": functiontest.Body{"tenant_id": w.Tenant.UUID()}, "actions": []string{"revoke_licenses"},
		}})
	})
	testenv.Eventually(t, 20*time.Second, func() error {
		if testenv.Value[int](t, w.DB, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'usher_incident' AND wait_event_type = 'Lock'`) == 0 {
			return errors.New("nothing is being revoked")
		}
		return nil
	})
	id := testenv.Value[uuid.UUID](t, w.DB, `SELECT id FROM app.incidents`)
	w.call(t, "POST", "/v1/incidents/"+id.String()+"/resolve", functiontest.Body{"resolution": "A mistake."}).Want(t, http.StatusOK)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	opening.Wait()
	if revoked := testenv.Value[int](t, w.DB, `SELECT count(*) FROM app.licenses WHERE status = 'revoked'`); revoked != 0 {
		t.Errorf("%d licences are revoked although the incident was resolved before", revoked)
	}
}

func TestTheRunbooksRequestsWork(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs", "incidents.md"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, functiontest.Options{})
	l := w.Seats(t, 3, time.Minute)
	w.Seating(t).Sit(t, l, "a")
	// An owner, who made a key, which is the one that leaks.
	user, key := uuid.New(), uuid.New()
	w.DB.Exec(t, `INSERT INTO app.users (tenant_id, id, email, role, status, issuer, subject) VALUES ($1, $2, 'o@x.test', 'owner', 'active', 'i', 'o')`, w.Tenant.UUID(), user)
	w.DB.Exec(t, `
		INSERT INTO app.api_keys (tenant_id, id, name, key_hash, pepper_version, hint, scopes, created_by)
		VALUES ($1, $2, 'ci', sha256('x'), 1, 'xxxx', '{licenses:read}', 'user:' || $3)`, w.Tenant.UUID(), key, user.String())
	ids := strings.NewReplacer(
		"LICENSE", l.ID.String(), "APIKEY", key.String(), "PERSON", user.String(), "TENANT", w.Tenant.UUID().String(),
		"KID", testenv.Value[string](t, w.DB, `SELECT kid FROM app.signing_keys WHERE kind = 'receipt' AND not_before <= now()`),
	)
	tried := map[string]bool{}
	for rest := string(page); ; {
		_, after, found := strings.Cut(rest, "```json\n")
		if !found {
			break
		}
		text, after, _ := strings.Cut(after, "```")
		rest = after
		opened := w.opened(t, functiontest.Read[functiontest.Body](t, functiontest.Reply{Body: []byte(ids.Replace(text))}))
		for action, outcome := range outcomes(opened) {
			tried[action] = true
			if outcome != "done" {
				t.Errorf("%s: %s is %s: %+v", opened.Kind, action, outcome, opened.Actions)
			}
		}
	}
	if len(tried) != 6 {
		t.Errorf("tried are %v", tried)
	}
}
