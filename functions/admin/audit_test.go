package admin_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
)

// acts reads a tenant's whole audit log by pages, as a client does, the oldest first; tenant "" is the operator's own.
func (w *world) acts(key, tenant, query string) (auditchain.Chain, []auditchain.Entry) {
	w.t.Helper()
	var chain auditchain.Chain
	var all []auditchain.Entry
	path := "/v1/audit?limit=3" + query
	if tenant != "" {
		path += "&tenant_id=" + tenant
	}
	for cursor := ""; ; {
		a := w.call(key, "GET", path+cursor, "").want(w.t, http.StatusOK)
		var page struct {
			Items      []auditchain.Entry `json:"items"`
			NextCursor *string            `json:"next_cursor"`
			Chain      auditchain.Chain   `json:"chain"`
		}
		w.must(json.Unmarshal([]byte(a.raw), &page))
		if cursor == "" {
			chain = page.Chain
		}
		all = append(all, page.Items...)
		if page.NextCursor == nil {
			slices.Reverse(all)
			return chain, all
		}
		cursor = "&cursor=" + *page.NextCursor
	}
}

// whole fails the test unless the log, as a client reads it, is a whole chain.
func (w *world) whole(key, tenant string) []auditchain.Entry {
	w.t.Helper()
	chain, all := w.acts(key, tenant, "")
	result, err := auditchain.Verify(chain, func(yield func(auditchain.Entry, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	})
	w.must(err)
	if len(result.Problems) != 0 || result.Entries != chain.Head.Seq {
		w.t.Errorf("the chain of %q has %d entries and problems %v, and ends with %d", tenant, result.Entries, result.Problems, chain.Head.Seq)
	}
	return all
}

func actions(all []auditchain.Entry) (names []string) {
	for _, e := range all {
		names = append(names, e.Action)
	}
	return names
}

func TestEveryActIsRecordedWithWhoDidIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	session := w.sit(w.a, "desk").Session.String()
	removed := w.sit(w.a, "laptop").Session.String()
	device := testenv.Value[uuid.UUID](t, w.db, `SELECT id FROM app.devices WHERE hardware_id = 'laptop'`).String()
	of := "?tenant_id=" + w.a.id
	guest := w.invite(w.a.owner, "", "eve@example.com", identity.Viewer)
	eve := w.token("eve")
	_, member := w.join(w.a.id, "max", identity.Member)
	spare := w.makeKey(w.a.key, "", identity.LicensesRead)
	w.hidden(spare.text("api_key"))
	// Which routes change anything, and were seen to be recorded.
	routes, unseen := http.NewServeMux(), map[string]bool{}
	for _, r := range admin.Routes(w.deps) {
		pattern := r.Method + " " + r.Path
		routes.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
		if r.Method != "GET" {
			unseen[pattern] = true
		}
	}
	for _, act := range []struct{ key, method, path, body, action, subject string }{
		{w.operator, "POST", "/v1/tenants", `{"name":"Third"}`, "tenant.created", ""},
		{w.operator, "PUT", "/v1/catalog/products/viewer", `{"name":"Viewer"}`, "catalog.product_put", ""},
		{w.operator, "PUT", "/v1/catalog/plans/solo", `{"product":"editor","name":"Solo","max_seats":1,"ttl_seconds":60}`, "catalog.plan_put", ""},
		{w.operator, "POST", "/v1/licenses" + of, `{"plan":"team","max_seats":1}`, "license.created", ""},
		{w.a.owner, "POST", "/v1/users", `{"email":"una@example.com","role":"viewer"}`, "invitation.created", ""},
		{w.a.owner, "POST", "/v1/invitations", `{"email":"ines@example.com","role":"viewer"}`, "invitation.created", ""},
		{w.a.owner, "DELETE", "/v1/invitations/" + w.a.invitation, ``, "invitation.withdrawn", "user:" + w.a.invitation},
		{eve, "POST", "/v1/invitations/accept", `{"token":"` + guest.text("token") + `"}`, "invitation.accepted", "user:" + guest.text("id")},
		{w.a.owner, "PATCH", "/v1/users/" + member, `{"role":"viewer"}`, "user.changed", "user:" + member},
		{w.a.owner, "DELETE", "/v1/users/" + member, ``, "user.removed", "user:" + member},
		{w.a.key, "POST", "/v1/sessions/" + session + "/evict", `{"reason":"left"}`, "session.evicted", "session:" + session},
		{w.a.key, "POST", "/v1/api-keys/" + spare.text("id") + "/rotate", `{}`, "api_key.rotated", "api_key:" + spare.text("id")},
		{w.operator, "PATCH", "/v1/tenants/" + w.a.id, `{"name":"Acme Ltd"}`, "tenant.changed", "tenant:" + w.a.id},
		{w.operator, "PATCH", "/v1/licenses/" + w.a.license + of, `{"max_seats":5}`, "license.changed", "license:" + w.a.license},
		{w.operator, "POST", "/v1/licenses/" + w.a.license + "/suspend" + of, `{"reason":"unpaid"}`, "license.suspended", "license:" + w.a.license},
		{w.operator, "POST", "/v1/licenses/" + w.a.license + "/reinstate" + of, ``, "license.reinstated", "license:" + w.a.license},
		{w.a.key, "POST", "/v1/licenses/" + w.a.license + "/rotate-key", `{}`, "license_key.rotated", "license:" + w.a.license},
		{w.a.key, "POST", "/v1/api-keys", `{"name":"x","scopes":["licenses:read"]}`, "api_key.created", ""},
		{w.a.key, "DELETE", "/v1/licenses/" + w.a.license + "/devices/" + device, ``, "device.removed", "device:" + device},
		{w.operator, "POST", "/v1/licenses/" + w.a.license + "/revoke" + of, `{"reason":"fraud"}`, "license.revoked", "license:" + w.a.license},
		{w.operator, "PATCH", "/v1/tenants/" + w.a.id, `{"status":"suspended","reason":"unpaid"}`, "tenant.suspended", "tenant:" + w.a.id},
		{w.operator, "PATCH", "/v1/tenants/" + w.a.id, `{"status":"active"}`, "tenant.reinstated", "tenant:" + w.a.id},
		{w.a.owner, "POST", "/v1/webhooks", `{"url":"https://hooks.example/","events":["*"]}`, "webhook.created", ""},
		{w.a.owner, "PATCH", "/v1/webhooks/" + w.a.webhook, `{"events":["seat.*"]}`, "webhook.changed", "webhook:" + w.a.webhook},
		{w.a.owner, "POST", "/v1/webhooks/" + w.a.webhook + "/rotate-secret", `{}`, "webhook.secret_rotated", "webhook:" + w.a.webhook},
		{w.a.owner, "POST", "/v1/webhooks/deliveries/" + w.a.delivery + "/redeliver", ``, "webhook.redelivered", "webhook:" + w.a.webhook},
		{w.a.owner, "DELETE", "/v1/webhooks/" + w.a.webhook, ``, "webhook.deleted", "webhook:" + w.a.webhook},
		{w.a.key, "DELETE", "/v1/api-keys/" + w.a.keyID, ``, "api_key.revoked", "api_key:" + w.a.keyID},
	} {
		a := w.call(act.key, act.method, act.path, act.body, "X-Request-Id", "req-"+act.action)
		if a.status != http.StatusOK && a.status != http.StatusCreated {
			t.Fatalf("%s answered %d: %s", a.what, a.status, a.raw)
		}
		if secret := a.text("api_key") + a.text("license_key") + a.text("token") + a.text("secret"); secret != "" {
			w.hidden(secret)
		}
		_, pattern := routes.Handler(httptest.NewRequestWithContext(t.Context(), act.method, act.path, nil))
		delete(unseen, pattern)
		tenant := w.a.id
		switch {
		case act.path == "/v1/tenants":
			tenant = a.text("id")
		case strings.HasPrefix(act.path, "/v1/catalog/"):
			tenant = ""
		}
		_, last := w.acts(w.operator, tenant, "")
		e := last[len(last)-1]
		credential := e.Actor
		switch act.key {
		case w.a.owner:
			credential = "id_token"
			if e.Actor != "user:"+w.a.user {
				t.Errorf("%s by the owner is recorded as %s's", a.what, e.Actor)
			}
		case eve:
			credential = "id_token"
			if e.Actor != act.subject {
				t.Errorf("%s by who is invited is recorded as %s's", a.what, e.Actor)
			}
		default:
			if !strings.HasPrefix(e.Actor, "api_key:") {
				t.Errorf("%s by an API key is recorded as %s's", a.what, e.Actor)
			}
		}
		if e.Action != act.action || act.subject != "" && e.Subject != act.subject || e.Outcome != "done" || e.RequestID != "req-"+act.action ||
			e.Credential != credential || e.ByOperator != (act.key == w.operator) || e.Address == "" {
			t.Errorf("%s is recorded as %+v", a.what, e)
		}
	}
	delete(unseen, "POST /v1/licenses/{id}/file") // TestALicenceFileHoldsASeatUntilItsSessionIsEvicted has seen it
	for route := range unseen {
		t.Errorf("nobody has seen that %s is recorded", route)
	}
	all := w.whole(w.operator, w.a.id)
	for _, secret := range w.secrets {
		if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.audit_entries e WHERE position($1 IN e::text) > 0`, secret); n != 0 {
			t.Errorf("%d entries hold a secret", n)
		}
	}
	if i := slices.IndexFunc(all, func(e auditchain.Entry) bool { return e.Action == "user.changed" }); all[i].Details["role_was"] != "member" || all[i].Details["role"] != "viewer" {
		t.Errorf("the change's details are %v", all[i].Details)
	}
	if got := actions(all[:3]); !slices.Equal(got, []string{"tenant.created", "license.created", "api_key.created"}) {
		t.Errorf("it began with %v", got)
	}
	if i := slices.IndexFunc(all, func(e auditchain.Entry) bool { return e.Action == "license.suspended" }); all[i].Details["request"] != `{"reason":"unpaid"}` {
		t.Errorf("the suspension's details are %v", all[i].Details)
	}
	// One was evicted; the suspension of the licence had ended the other before its device was removed.
	if n := len(slices.DeleteFunc(all, func(e auditchain.Entry) bool { return e.Action != "session.evicted" })); n != 1 {
		t.Errorf("%d evictions are recorded, of %s and %s", n, session, removed)
	}
	if got := actions(w.whole(w.operator, "")); !slices.Equal(got, []string{"api_key.created", "catalog.product_put", "catalog.plan_put", "catalog.product_put", "catalog.plan_put"}) {
		t.Errorf("the operator's own are %v", got)
	}
	if got := actions(w.whole(w.b.key, "")); !slices.Equal(got, []string{
		"tenant.created", "license.created", "api_key.created",
		"invitation.created", "invitation.accepted", "invitation.created", "webhook.created",
	}) {
		t.Errorf("the other tenant's are %v", got)
	}
}

func TestAnEvictionIsRecordedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	session, other := w.sit(w.a, "desk").Session.String(), w.sit(w.a, "laptop").Session.String()
	for range 2 {
		w.call(w.a.key, "POST", "/v1/sessions/"+session+"/evict", `{"reason":"left"}`).want(t, http.StatusOK)
	}
	device := testenv.Value[uuid.UUID](t, w.db, `SELECT id FROM app.devices WHERE hardware_id = 'laptop'`).String()
	w.call(w.a.key, "DELETE", "/v1/licenses/"+w.a.license+"/devices/"+device, "").want(t, http.StatusOK)
	_, all := w.acts(w.a.key, "", "&action=session.evicted")
	if len(all) != 2 || all[0].Subject != "session:"+session || all[0].Details["reason"] != "left" ||
		all[1].Subject != "session:"+other || all[1].Details["reason"] != "device_removed" {
		t.Errorf("recorded are %+v", all)
	}
}

func TestTheAuditLogIsFiltered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.call(w.a.key, "GET", "/v1/tenants", "").refused(t, http.StatusForbidden, "forbidden")
	w.call(w.a.key, "POST", "/v1/licenses/"+w.a.license+"/rotate-key", `{}`).want(t, http.StatusOK)
	_, all := w.acts(w.a.key, "", "")
	last := all[len(all)-1]
	at := func(d time.Duration) string { return url.QueryEscape(last.At.Add(d).Format(time.RFC3339Nano)) }
	for query, want := range map[string]int{
		"": 9, "&action=license_key.rotated": 1, "&action=nothing": 0, "&actor=api_key:" + w.a.keyID: 3, "&subject=license:" + w.a.license: 2,
		"&outcome=refused": 1, "&outcome=done": 8, "&from=" + at(0) + "&to=" + at(time.Millisecond): 1, "&to=" + at(0): 8,
		"&from=" + at(time.Hour): 0, "&actor=api_key:" + w.a.keyID + "&outcome=done&action=license_key.rotated": 1,
	} {
		if _, got := w.acts(w.a.key, "", query); len(got) != want {
			t.Errorf("%s: %d entries %v, want %d", query, len(got), actions(got), want)
		}
	}
	for _, cursor := range []string{"AAAA", "x"} {
		w.call(w.a.key, "GET", "/v1/audit?cursor="+cursor, "").refused(t, http.StatusUnprocessableEntity, "invalid_request")
	}
	for _, cursor := range []string{"_____________________w", "AAAAAAAAAAAAAAAAAAAAAA"} {
		w.call(w.a.key, "GET", "/v1/audit?cursor="+cursor, "").want(t, http.StatusOK)
	}
}

func TestARefusedCredentialIsRecordedOnceAnHour(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spent := w.makeKey(w.a.key, "", identity.LicensesRead)
	weak := w.makeKey(w.a.key, "", identity.LicensesRead)
	w.hidden(spent.text("api_key"))
	w.hidden(weak.text("api_key"))
	w.call(w.a.key, "DELETE", "/v1/api-keys/"+spent.text("id"), "").want(t, http.StatusOK)
	for range 3 {
		w.call(spent.text("api_key"), "GET", "/v1/licenses", "").refused(t, http.StatusUnauthorized, "api_key_invalid")
		w.call(weak.text("api_key"), "GET", "/v1/sessions", "").refused(t, http.StatusForbidden, "forbidden")
		w.call("ush_"+strings.Repeat("0", 33), "GET", "/v1/licenses", "").refused(t, http.StatusUnauthorized, "api_key_invalid")
	}
	_, all := w.acts(w.a.key, "", "&outcome=refused")
	if len(all) != 2 || all[0].Action != "credential.used" || all[0].Actor != "api_key:"+spent.text("id") || all[0].Details["code"] != "api_key_invalid" ||
		all[1].Action != "access.tried" || all[1].Actor != "api_key:"+weak.text("id") || all[1].Details["request"] != "GET /v1/sessions" {
		t.Errorf("recorded are %+v", all)
	}
	w.whole(w.a.key, "")
}

func TestARefusedIDTokenIsRecordedOnceAnHour(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gone, id := w.join(w.a.id, "max", identity.Member)
	w.call(w.a.owner, "DELETE", "/v1/users/"+id, "").want(t, http.StatusOK)
	stale, stranger := w.token("acme-owner", map[string]any{"role": "viewer"}), w.token("stranger")
	for range 3 {
		w.call(gone, "GET", "/v1/licenses", "").refused(t, http.StatusForbidden, "membership_revoked")
		w.call(stale, "GET", "/v1/licenses", "").refused(t, http.StatusUnauthorized, "id_token_claims_disagree")
		w.call(stranger, "GET", "/v1/licenses", "").refused(t, http.StatusForbidden, "membership_missing")
		w.call(w.a.owner, "DELETE", "/v1/users/"+id, "").want(t, http.StatusOK) // changes nothing
	}
	_, all := w.acts(w.a.key, "", "&outcome=refused")
	if len(all) != 2 || all[0].Action != "credential.used" || all[0].Actor != "user:"+id || all[0].Credential != "id_token" ||
		all[0].Details["code"] != "membership_revoked" || all[1].Actor != "user:"+w.a.user || all[1].Details["code"] != "id_token_claims_disagree" {
		t.Errorf("recorded are %+v", all)
	}
	if _, removed := w.acts(w.a.key, "", "&action=user.removed"); len(removed) != 1 {
		t.Errorf("the removal is recorded %d times", len(removed))
	}
	w.operate("PATCH", "/v1/tenants/"+w.a.id, `{"status":"suspended","reason":"unpaid"}`).want(t, http.StatusOK)
	w.call(w.a.owner, "GET", "/v1/licenses", "").refused(t, http.StatusForbidden, "tenant_suspended")
	w.whole(w.operator, w.a.id)
}

func TestAReportSaysHourByHourHowSeatsWereUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.Exec(t, `INSERT INTO app.seat_hours (tenant_id, license_id, hour, peak, denials, seats_needed)
		SELECT $1, $2, '2025-01-01Z'::timestamptz + n * interval '1 hour', 1 + n % 3, n % 2, 3 + n % 2 FROM generate_series(0, 8759) n`, w.a.id, w.a.license)
	report := func(query string) answer {
		t.Helper()
		return w.call(w.a.key, "GET", "/v1/reports/seats?license_id="+w.a.license+query, "")
	}
	got := report("&from=2025-01-01T01:30:00Z&to=2025-01-01T04:00:00Z").want(t, http.StatusOK)
	if hours, _ := got.at("hours").([]any); len(hours) != 3 || got.text("hours.0.hour") != "2025-01-01T01:00:00.000Z" || got.number("hours.0.peak") != 2 ||
		got.number("hours.0.denials") != 1 || got.number("hours.0.seats_needed") != 4 ||
		got.number("peak") != 3 || got.number("denials") != 2 || got.number("seats_needed") != 4 || got.text("to") != "2025-01-01T04:00:00.000Z" {
		t.Errorf("the report is %s", got.raw)
	}
	if got := report("").want(t, http.StatusOK); got.number("peak") != 0 || got.text("hours") != "" {
		t.Errorf("of the last week: %s", got.raw)
	}
	for _, query := range []string{"&from=2025-01-02T00:00:00Z&to=2025-01-01T00:00:00Z", "&from=2024-01-01T00:00:00Z&to=2025-06-01T00:00:00Z", "&from=soon"} {
		report(query).refused(t, http.StatusUnprocessableEntity, "invalid_request")
	}
	w.call(w.a.key, "GET", "/v1/reports/seats", "").refused(t, http.StatusUnprocessableEntity, "invalid_request")
	w.call(w.a.key, "GET", "/v1/reports/seats?license_id="+w.b.license, "").refused(t, http.StatusNotFound, "not_found")

	// Without what the tests' own look at each answer takes.
	plain, least := admin.New(w.deps), time.Hour
	for range 10 {
		r := httptest.NewRequestWithContext(t.Context(), "GET",
			"/v1/reports/seats?license_id="+w.a.license+"&from=2025-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", nil)
		r.Header.Set("Authorization", "Bearer "+w.a.key)
		recorder := httptest.NewRecorder()
		began := time.Now()
		plain.ServeHTTP(recorder, r)
		least = min(least, time.Since(began))
		if n := strings.Count(recorder.Body.String(), `"hour":`); n != 8760 {
			t.Fatalf("a year has %d hours: %.200s", n, recorder.Body)
		}
	}
	// Under the race detector, beside other tests, it means little: only a run by itself is held to it.
	t.Logf("a year of a busy licence took %s (wanted: less than 200ms)", least)
	if testenv.Full() && least > 200*time.Millisecond {
		t.Errorf("a year of a busy licence took %s, want less than 200ms", least)
	}
}
