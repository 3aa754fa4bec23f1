package admin_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/seat"
)

// call is how a route is called: its path with A's or B's ids, and a body that is good.
type call struct {
	method, path, body string
	scope              identity.Scope
	role               identity.Role // the least of a person
	own                identity.Role // the least of a person, of what is theirs
	operator           bool          // for the operator alone
	tenant             bool          // about what a tenant has: the operator says whose
}

// calls is the contract, a line for each route.
func calls(c customer, session, device string) map[string]call {
	return map[string]call{
		"show_me":                 {method: "GET", path: "/v1/me", role: "viewer"},
		"list_tenants":            {method: "GET", path: "/v1/tenants", scope: "tenants:read", operator: true, role: "viewer"},
		"create_tenant":           {method: "POST", path: "/v1/tenants", body: `{"name":"Third"}`, scope: "tenants:write", operator: true, role: "admin"},
		"show_tenant":             {method: "GET", path: "/v1/tenants/" + c.id, scope: "tenants:read", operator: true, role: "viewer"},
		"change_tenant":           {method: "PATCH", path: "/v1/tenants/" + c.id, body: `{"name":"Other"}`, scope: "tenants:write", operator: true, role: "admin"},
		"show_product":            {method: "GET", path: "/v1/catalog/products/editor", scope: "catalog:read", operator: true, role: "viewer"},
		"put_product":             {method: "PUT", path: "/v1/catalog/products/editor", body: `{"name":"Editor 2"}`, scope: "catalog:write", operator: true, role: "admin"},
		"show_plan":               {method: "GET", path: "/v1/catalog/plans/team", scope: "catalog:read", operator: true, role: "viewer"},
		"put_plan":                {method: "PUT", path: "/v1/catalog/plans/team", body: `{"product":"editor"}`, scope: "catalog:write", operator: true, role: "admin"},
		"list_licenses":           {method: "GET", path: "/v1/licenses", scope: "licenses:read", tenant: true, role: "viewer"},
		"show_license":            {method: "GET", path: "/v1/licenses/" + c.license, scope: "licenses:read", tenant: true, role: "viewer"},
		"create_license":          {method: "POST", path: "/v1/licenses", body: `{"plan":"team","max_seats":1}`, scope: "licenses:write", operator: true, tenant: true, role: "admin"},
		"change_license":          {method: "PATCH", path: "/v1/licenses/" + c.license, body: `{"max_seats":9}`, scope: "licenses:write", operator: true, tenant: true, role: "admin"},
		"suspend_license":         {method: "POST", path: "/v1/licenses/" + c.license + "/suspend", body: `{"reason":"unpaid"}`, scope: "licenses:write", operator: true, tenant: true, role: "admin"},
		"reinstate_license":       {method: "POST", path: "/v1/licenses/" + c.license + "/reinstate", scope: "licenses:write", operator: true, tenant: true, role: "admin"},
		"revoke_license":          {method: "POST", path: "/v1/licenses/" + c.license + "/revoke", body: `{"reason":"fraud"}`, scope: "licenses:write", operator: true, tenant: true, role: "admin"},
		"rotate_license_key":      {method: "POST", path: "/v1/licenses/" + c.license + "/rotate-key", body: `{}`, scope: "licenses:write", tenant: true, role: "admin"},
		"create_license_file":     {method: "POST", path: "/v1/licenses/" + c.license + "/file", body: `{"hardware_id":"press","expires_at":"2199-01-01T00:00:00Z"}`, scope: "licenses:write", tenant: true, role: "admin"},
		"list_devices":            {method: "GET", path: "/v1/licenses/" + c.license + "/devices", scope: "licenses:read", tenant: true, role: "admin"},
		"remove_device":           {method: "DELETE", path: "/v1/licenses/" + c.license + "/devices/" + device, scope: "licenses:write", tenant: true, role: "admin"},
		"list_sessions":           {method: "GET", path: "/v1/sessions?license_id=" + c.license, scope: "sessions:read", tenant: true, role: "viewer"},
		"evict_session":           {method: "POST", path: "/v1/sessions/" + session + "/evict", body: `{"reason":"left"}`, scope: "sessions:write", tenant: true, role: "admin", own: "member"},
		"list_api_keys":           {method: "GET", path: "/v1/api-keys", scope: "users:read", tenant: true, role: "admin"},
		"create_api_key":          {method: "POST", path: "/v1/api-keys", body: `{"name":"x","scopes":["licenses:read"]}`, scope: "users:write", tenant: true, role: "admin"},
		"revoke_api_key":          {method: "DELETE", path: "/v1/api-keys/" + c.keyID, scope: "users:write", tenant: true, role: "admin"},
		"rotate_api_key":          {method: "POST", path: "/v1/api-keys/" + c.keyID + "/rotate", body: `{"overlap_seconds":60}`, scope: "users:write", tenant: true, role: "admin"},
		"list_users":              {method: "GET", path: "/v1/users", scope: "users:read", tenant: true, role: "admin"},
		"create_user":             {method: "POST", path: "/v1/users", body: `{"email":"new@example.com","role":"viewer","name":"New"}`, scope: "users:write", tenant: true, role: "admin"},
		"show_user":               {method: "GET", path: "/v1/users/" + c.user, scope: "users:read", tenant: true, role: "admin"},
		"change_user":             {method: "PATCH", path: "/v1/users/" + c.user, body: `{"name":"Olivia"}`, scope: "users:write", tenant: true, role: "admin"},
		"remove_user":             {method: "DELETE", path: "/v1/users/" + c.user, scope: "users:write", tenant: true, role: "admin"},
		"list_invitations":        {method: "GET", path: "/v1/invitations", scope: "users:read", tenant: true, role: "admin"},
		"create_invitation":       {method: "POST", path: "/v1/invitations", body: `{"email":"other@example.com","role":"viewer","name":"Other"}`, scope: "users:write", tenant: true, role: "admin"},
		"show_invitation":         {method: "GET", path: "/v1/invitations/" + c.invitation, scope: "users:read", tenant: true, role: "admin"},
		"withdraw_invitation":     {method: "DELETE", path: "/v1/invitations/" + c.invitation, scope: "users:write", tenant: true, role: "admin"},
		"accept_invitation":       {method: "POST", path: "/v1/invitations/accept", body: `{"token":"usi_0"}`, role: guest},
		"list_webhooks":           {method: "GET", path: "/v1/webhooks", scope: "users:read", tenant: true, role: "admin"},
		"create_webhook":          {method: "POST", path: "/v1/webhooks", body: `{"url":"https://hooks.example.com/usher","events":["seat.*"]}`, scope: "users:write", tenant: true, role: "admin"},
		"show_webhook":            {method: "GET", path: "/v1/webhooks/" + c.webhook, scope: "users:read", tenant: true, role: "admin"},
		"change_webhook":          {method: "PATCH", path: "/v1/webhooks/" + c.webhook, body: `{"events":["*"]}`, scope: "users:write", tenant: true, role: "admin"},
		"delete_webhook":          {method: "DELETE", path: "/v1/webhooks/" + c.webhook, scope: "users:write", tenant: true, role: "admin"},
		"rotate_webhook_secret":   {method: "POST", path: "/v1/webhooks/" + c.webhook + "/rotate-secret", body: `{}`, scope: "users:write", tenant: true, role: "admin"},
		"list_webhook_deliveries": {method: "GET", path: "/v1/webhooks/" + c.webhook + "/deliveries", scope: "users:read", tenant: true, role: "admin"},
		"redeliver_webhook":       {method: "POST", path: "/v1/webhooks/deliveries/" + c.delivery + "/redeliver", scope: "users:write", tenant: true, role: "admin"},
		"list_audit":              {method: "GET", path: "/v1/audit", scope: "audit:read", tenant: true, role: "admin"},
		"report_seats":            {method: "GET", path: "/v1/reports/seats?license_id=" + c.license, scope: "reports:read", tenant: true, role: "viewer"},
	}
}

// guest is the role of whoever signs in; no API key has it.
const guest = identity.Role("guest")

// of is the path for a tenant that the operator names.
func (c call) of(tenant string) string {
	if strings.Contains(c.path, "?") {
		return c.path + "&tenant_id=" + tenant
	}
	return c.path + "?tenant_id=" + tenant
}

func TestTheContractNamesEveryRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want := slices.Sorted(maps.Keys(calls(w.a, uuid.NewString(), uuid.NewString())))
	var have []string
	for _, r := range admin.Routes(w.deps) {
		have = append(have, r.ID)
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("routes %v, want %v", have, want)
	}
}

// nobody is a customer of whom nothing is there.
func nobody() customer {
	return customer{id: uuid.NewString(), license: uuid.NewString(), keyID: uuid.NewString(), user: uuid.NewString(), invitation: uuid.NewString(), webhook: uuid.NewString(), delivery: uuid.NewString()}
}

func TestAKeyOpensTheRoutesOfItsScopeAndNoOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	routes := calls(nobody(), uuid.NewString(), uuid.NewString())
	for _, scope := range identity.OperatorScopes() {
		operator := w.hidden(w.makeKey(w.operator, "", scope).text("api_key"))
		keys := map[string]string{operator: w.a.id}
		if slices.Contains(identity.TenantScopes(), scope) {
			keys[w.hidden(w.makeKey(w.operator, w.a.id, scope).text("api_key"))] = ""
		}
		for key, tenant := range keys {
			for id, r := range routes {
				path := r.path
				if tenant != "" && r.tenant {
					path = r.of(tenant)
				}
				if id == "create_api_key" { // nobody gives what they do not have
					r.body = fmt.Sprintf(`{"name":"x","scopes":[%q]}`, "users:write")
				}
				allowed := r.role != guest && (r.scope == "" || r.scope == scope && (!r.operator || tenant != ""))
				a := w.call(key, r.method, path, r.body)
				if forbidden := a.status == http.StatusForbidden; forbidden == allowed || forbidden && a.text("code") != "forbidden" {
					t.Errorf("%s with scope %s (operator: %v) answered %d %s", id, scope, tenant != "", a.status, a.text("code"))
				}
			}
		}
	}
}

func TestNothingAnswersWithoutAGoodKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spent := w.makeKey(w.operator, w.a.id, identity.LicensesRead)
	w.operate("DELETE", "/v1/api-keys/"+spent.text("id")+"?tenant_id="+w.a.id, "").want(t, http.StatusOK)
	for id, r := range calls(w.a, uuid.NewString(), uuid.NewString()) {
		for name, key := range map[string]string{
			"none": "", "no key": "hello", "unknown": "ush_" + strings.Repeat("0", 33), "a licence key": w.a.licenseKey, "revoked": spent.text("api_key"),
		} {
			a := w.call(key, r.method, r.path, r.body)
			a.refused(t, http.StatusUnauthorized, "api_key_invalid")
			if a.header.Get("Www-Authenticate") == "" {
				t.Errorf("%s with %s: there is no challenge", id, name)
			}
		}
	}
}

func TestNobodyReachesWhatAnotherTenantHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	session := w.sit(w.b, "desk").Session.String()
	w.sit(w.a, "desk")
	device := testenv.Value[uuid.UUID](t, w.db, `SELECT id FROM app.devices WHERE license_id = $1`, w.b.license).String()
	before := w.stored()
	other := map[bool]int{true: http.StatusForbidden, false: http.StatusNotFound}
	for id, r := range calls(w.b, session, device) {
		again := []string{"Idempotency-Key", "walk-" + id}
		bs := slices.ContainsFunc([]string{w.b.license, w.b.keyID, w.b.user, w.b.invitation, session}, func(id string) bool { return strings.Contains(r.path, id) })
		for name, credential := range map[string]string{"A's key": w.a.key, "A's owner": w.a.owner} {
			for _, body := range []string{r.body, `{"wrong":`, `{"wrong":1}`} {
				if r.body == "" && body != "" || r.method == "GET" && body != "" || !bs && !r.operator {
					continue
				}
				if a := w.call(credential, r.method, r.path, body, again...); a.status != other[r.operator] {
					t.Errorf("%s with %s and B's id answered %d: %s", id, name, a.status, a.raw)
				}
			}
			if !r.tenant {
				continue
			}
			if a := w.call(credential, r.method, r.of(w.b.id), r.body, again...); a.status != other[r.operator] {
				t.Errorf("%s with %s for tenant B answered %d: %s", id, name, a.status, a.raw)
			}
		}
		if r.tenant {
			for name, tenant := range map[string]string{"nobody": uuid.NewString(), "the nil id": uuid.Nil.String(), "the operator itself": identity.OperatorID.String()} {
				if a := w.operate(r.method, r.of(tenant), r.body, again...); a.status != http.StatusNotFound {
					t.Errorf("%s by the operator for %s answered %d: %s", id, name, a.status, a.raw)
				}
			}
		}
		if r.tenant && bs {
			if a := w.operate(r.method, r.of(w.a.id), r.body, again...); a.status != http.StatusNotFound {
				t.Errorf("%s by the operator for A with B's id answered %d: %s", id, a.status, a.raw)
			}
		}
	}
	for table, content := range w.stored() {
		if content != before[table] {
			t.Errorf("table %s has changed:\n%s\nwas\n%s", table, content, before[table])
		}
	}
	w.call(w.a.key, "GET", "/v1/sessions?license_id="+uuid.Nil.String(), "").refused(t, http.StatusNotFound, "not_found")
	w.call(w.a.key, "GET", "/v1/licenses?tenant_id="+uuid.Nil.String(), "").refused(t, http.StatusNotFound, "not_found")
	if got := w.call(w.a.key, "GET", "/v1/sessions", "").want(t, http.StatusOK); len(got.texts("id")) != 1 || got.text("items.0.id") == session {
		t.Errorf("A sees sessions %v", got.texts("id"))
	}
	// It was counted who tried, for function incident; and so is a credential that nobody has.
	w.call("ush_nobody", "GET", "/v1/sessions", "").want(t, http.StatusUnauthorized)
	counts, err := w.deps.Budgets.Seen(t.Context(), time.Now().Add(-10*time.Minute))
	w.must(err)
	seen := map[budget.Kind]map[string]int64{budget.CrossTenant: {}, budget.BadCredentials: {}}
	for _, c := range counts {
		seen[c.Kind][c.Source] += c.N
	}
	if cross := seen[budget.CrossTenant]; cross["tenant:"+w.a.id] < 20 || len(cross) != 1 || len(seen[budget.BadCredentials]) != 1 {
		t.Errorf("counted is %v", seen)
	}
}

func TestTheOperatorSaysForWhom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for id, r := range calls(w.a, uuid.NewString(), uuid.NewString()) {
		if !r.tenant || strings.Contains(id, "api_key") || strings.Contains(id, "user") || strings.Contains(id, "invitation") || strings.Contains(id, "webhook") || id == "list_audit" {
			continue
		}
		a := w.operate(r.method, r.path, r.body).refused(t, http.StatusUnprocessableEntity, "invalid_request")
		if got := a.wrong(); !slices.Equal(got, []string{"tenant_id required"}) {
			t.Errorf("%s: wrong is %v", id, got)
		}
		r.path = strings.SplitN(r.path, "?", 2)[0] + "?tenant_id="
		for bad, code := range map[string]string{"x": "bad_format", "": "bad_format", w.a.id + "&tenant_id=" + w.a.id: "not_allowed", "{" + w.a.id + "}": "bad_format"} {
			if got := w.operate(r.method, r.path+bad, r.body).wrong(); !slices.Equal(got, []string{"tenant_id " + code}) {
				t.Errorf("%s of %q: wrong is %v", id, bad, got)
			}
		}
	}
	mine := w.call(w.a.key, "GET", "/v1/licenses?tenant_id="+w.a.id, "").want(t, http.StatusOK)
	if got := mine.texts("id"); !slices.Equal(got, []string{w.a.license}) {
		t.Errorf("A's licences are %v", got)
	}
}

func TestACredentialIsToldWhoItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me := w.call(w.a.key, "GET", "/v1/me", "").want(t, http.StatusOK)
	if me.text("tenant_id") != w.a.id || me.text("tenant_name") != "acme" || me.at("operator") != false || me.text("api_key_id") != w.a.keyID ||
		len(me.at("scopes").([]any)) != len(identity.TenantScopes()) {
		t.Errorf("me is %s", me.raw)
	}
	me = w.operate("GET", "/v1/me", "").want(t, http.StatusOK)
	if me.at("tenant_id") != nil || me.at("operator") != true || len(me.at("scopes").([]any)) != len(identity.OperatorScopes()) {
		t.Errorf("the operator's me is %s", me.raw)
	}
}

func TestATenantIsMadeShownAndChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.operate("POST", "/v1/tenants", `{"name":"Grün & Söhne","slug":"gruen"}`).want(t, http.StatusCreated)
	if made.text("slug") != "gruen" || made.text("status") != "active" || made.at("status_reason") != nil {
		t.Errorf("made %s", made.raw)
	}
	path := "/v1/tenants/" + made.text("id")
	if shown := w.operate("GET", path, "").want(t, http.StatusOK); shown.raw != made.raw {
		t.Errorf("shown %s, made %s", shown.raw, made.raw)
	}
	w.operate("POST", "/v1/tenants", `{"name":"Other","slug":"gruen"}`).refused(t, http.StatusConflict, "slug_taken")
	changed := w.operate("PATCH", path, `{"name":"Grün","status":"suspended","reason":"unpaid"}`).want(t, http.StatusOK)
	if changed.text("name") != "Grün" || changed.text("status") != "suspended" || changed.text("status_reason") != "unpaid" || changed.text("slug") != "gruen" {
		t.Errorf("changed %s", changed.raw)
	}
	if same := w.operate("PATCH", path, `{}`).want(t, http.StatusOK); same.text("status_reason") != "unpaid" {
		t.Errorf("unchanged %s", same.raw)
	}
	w.operate("GET", "/v1/tenants/"+identity.OperatorID.String(), "").refused(t, http.StatusNotFound, "not_found")
	w.operate("PATCH", "/v1/tenants/"+identity.OperatorID.String(), `{"status":"suspended"}`).refused(t, http.StatusNotFound, "not_found")
}

func TestTheCatalogueIsMadeShownAndChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.operate("PUT", "/v1/catalog/products/viewer", `{}`).want(t, http.StatusOK)
	if made.text("name") != "viewer" {
		t.Errorf("made %s", made.raw)
	}
	w.operate("PUT", "/v1/catalog/products/viewer", `{"name":"Viewer"}`).want(t, http.StatusOK)
	if shown := w.operate("GET", "/v1/catalog/products/viewer", ""); shown.text("name") != "Viewer" {
		t.Errorf("shown %s", shown.raw)
	}
	plan := w.operate("PUT", "/v1/catalog/plans/free", `{"product":"viewer","max_devices":null}`).want(t, http.StatusOK)
	for member, want := range map[string]any{
		"code": "free", "product": "viewer", "name": "free", "max_seats": 1.0, "overdraft_seats": 0.0, "borrow_reserve_seats": 0.0, "ttl_seconds": 360.0, "seat_per": "device",
		"versions": "", "max_devices": nil, "offline_grace_seconds": 86400.0, "drain_seconds": 86400.0,
	} {
		if plan.at(member) != want {
			t.Errorf("%s of a plan with defaults is %v", member, plan.at(member))
		}
	}
	plan = w.operate("PUT", "/v1/catalog/plans/free", `{"product":"viewer","max_seats":7,"borrow_reserve_seats":2,"max_devices":9,"seat_per":"user","features":["a"]}`).want(t, http.StatusOK)
	if plan.number("max_seats") != 7 || plan.number("borrow_reserve_seats") != 2 || plan.number("max_devices") != 9 || plan.text("seat_per") != "user" || plan.text("features.0") != "a" {
		t.Errorf("changed %s", plan.raw)
	}
	if shown := w.operate("GET", "/v1/catalog/plans/free", ""); shown.raw != plan.raw {
		t.Errorf("shown %s", shown.raw)
	}
	w.operate("GET", "/v1/catalog/plans/none", "").refused(t, http.StatusNotFound, "not_found")
	w.operate("GET", "/v1/catalog/products/none", "").refused(t, http.StatusNotFound, "not_found")
}

func TestALicenceIsSoldShownAndChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sold := w.operate("POST", "/v1/licenses?tenant_id="+w.a.id, `{"plan":"team","max_seats":5,"overdraft_seats":2,"borrow_reserve_seats":3,"ttl_seconds":120,"seat_per":"user",
		"features":["export","print"],"versions":"<9","max_devices":4,"allowed_hardware":["hw-1","hw-2"],
		"starts_at":"2024-01-01T00:00:00Z","expires_at":"2024-06-01T02:00:00+02:00","grace_until":"2999-01-01T00:00:00.5Z"}`).want(t, http.StatusCreated)
	key := w.hidden(sold.text("license_key"))
	path := "/v1/licenses/" + sold.text("license.id")
	shown := w.call(w.a.key, "GET", path, "").want(t, http.StatusOK)
	for member, want := range map[string]any{
		"tenant_id": w.a.id, "product": "editor", "plan": "team", "status": "active", "effective_status": "in_grace", "status_reason": nil,
		"max_seats": 5.0, "overdraft_seats": 2.0, "borrow_reserve_seats": 3.0, "active_seats": 0.0, "ttl_seconds": 120.0, "seat_per": "user", "features.1": "print",
		"versions": "<9", "max_devices": 4.0, "allowed_hardware.1": "hw-2", "starts_at": "2024-01-01T00:00:00.000Z",
		"expires_at": "2024-06-01T00:00:00.000Z", "grace_until": "2999-01-01T00:00:00.500Z", "key_hint": key[:8] + "…" + key[len(key)-4:],
	} {
		if shown.at(member) != want {
			t.Errorf("%s is %v, want %v", member, shown.at(member), want)
		}
		if sold.at("license."+member) != want {
			t.Errorf("%s was sold as %v, want %v", member, sold.at("license."+member), want)
		}
	}
	changed := w.operate("PATCH", path+"?tenant_id="+w.a.id, `{"max_seats":6,"borrow_reserve_seats":1,"max_devices":null,"grace_until":null,"allowed_hardware":[],"features":[]}`).want(t, http.StatusOK)
	if changed.number("max_seats") != 6 || changed.number("borrow_reserve_seats") != 1 || changed.at("max_devices") != nil || changed.at("grace_until") != nil || changed.text("effective_status") != "expired" ||
		len(changed.at("allowed_hardware").([]any)) != 0 || changed.text("expires_at") != "2024-06-01T00:00:00.000Z" || changed.text("versions") != "<9" {
		t.Errorf("changed %s", changed.raw)
	}
	changed = w.operate("PATCH", path+"?tenant_id="+w.a.id, `{"expires_at":null,"starts_at":"2999-01-01T00:00:00Z"}`).want(t, http.StatusOK)
	if changed.text("effective_status") != "not_started" {
		t.Errorf("changed %s", changed.raw)
	}
	unsaid := w.operate("POST", "/v1/licenses?tenant_id="+w.a.id, `{"plan":"team","max_seats":1,"max_devices":null,"expires_at":null}`).want(t, http.StatusCreated)
	if unsaid.text("license.versions") != ">=2.0 <4.0" || unsaid.text("license.features.0") != "export" || unsaid.number("license.ttl_seconds") != 60 {
		t.Errorf("what is not said is not the plan's: %s", unsaid.raw)
	}
}

func TestASuspendedLicenceEndsItsSessionsUntilItIsReinstated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := func(verb string) string { return "/v1/licenses/" + w.a.license + verb + "?tenant_id=" + w.a.id }
	ref := w.sit(w.a, "desk")
	if shown := w.call(w.a.key, "GET", at(""), "").want(t, http.StatusOK); shown.number("active_seats") != 1 {
		t.Errorf("shown %s", shown.raw)
	}
	suspended := w.operate("POST", at("/suspend"), `{"reason":"unpaid"}`).want(t, http.StatusOK)
	if suspended.text("status") != "suspended" || suspended.text("effective_status") != "suspended" || suspended.text("status_reason") != "unpaid" {
		t.Errorf("suspended %s", suspended.raw)
	}
	if b := w.beat(ref); b.Alive || b.Ending.Status != seat.Evicted || b.Ending.Reason != "license_suspended" {
		t.Errorf("the holder hears %+v", b)
	}
	if again := w.operate("POST", at("/suspend"), `{"reason":"other"}`).want(t, http.StatusOK); again.text("status_reason") != "unpaid" {
		t.Errorf("suspended again: %s", again.raw)
	}
	if back := w.operate("POST", at("/reinstate"), "").want(t, http.StatusOK); back.text("status") != "active" || back.at("status_reason") != nil {
		t.Errorf("reinstated %s", back.raw)
	}
	w.sit(w.a, "desk")
	w.operate("POST", at("/revoke"), `{"reason":"fraud"}`).want(t, http.StatusOK)
	w.operate("POST", at("/reinstate"), `{}`).refused(t, http.StatusConflict, "license_revoked")
	w.operate("POST", at("/suspend"), `{"reason":"x"}`).refused(t, http.StatusConflict, "license_revoked")
	w.operate("PATCH", at(""), `{"max_seats":1}`).refused(t, http.StatusConflict, "license_revoked")
	w.operate("POST", at("/rotate-key"), "").refused(t, http.StatusConflict, "license_revoked")
	if left := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.outbox WHERE topic = 'license.changed'`); left != 0 {
		t.Errorf("%d pools were not told", left)
	}
}

func TestASuspendedTenantIsShutOutAndItsSessionsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := w.a
	second.license = w.operate("POST", "/v1/licenses?tenant_id="+w.a.id, `{"plan":"team","max_seats":3}`).want(t, http.StatusCreated).text("license.id")
	refs := []seat.Ref{w.sit(w.a, "desk"), w.sit(second, "desk")}
	other := w.sit(w.b, "desk")
	w.operate("PATCH", "/v1/tenants/"+w.a.id, `{"status":"suspended","reason":"unpaid"}`).want(t, http.StatusOK)
	for _, ref := range refs {
		if b := w.beat(ref); b.Alive || b.Ending.Reason != "tenant_suspended" {
			t.Errorf("the holder hears %+v", b)
		}
	}
	if b := w.beat(other); !b.Alive {
		t.Errorf("another tenant's holder hears %+v", b)
	}
	for id, r := range calls(w.a, uuid.NewString(), uuid.NewString()) {
		if a := w.call(w.a.key, r.method, r.path, r.body); a.status != http.StatusForbidden || a.text("code") != "tenant_suspended" {
			t.Errorf("%s for a suspended tenant answered %d %s", id, a.status, a.text("code"))
		}
		if a := w.call(w.a.owner, r.method, r.path, r.body); r.role != guest && (a.status != http.StatusForbidden || a.text("code") != "tenant_suspended") {
			t.Errorf("%s for the owner of a suspended tenant answered %d %s", id, a.status, a.text("code"))
		}
	}
	if shown := w.operate("GET", "/v1/licenses?tenant_id="+w.a.id, "").want(t, http.StatusOK); len(shown.texts("id")) != 2 {
		t.Errorf("the operator sees %s", shown.raw)
	}
	w.operate("PATCH", "/v1/tenants/"+w.a.id, `{"status":"active"}`).want(t, http.StatusOK)
	w.sit(w.a, "desk")
	w.call(w.a.key, "GET", "/v1/licenses", "").want(t, http.StatusOK)
}

func TestARotatedKeyLivesOnForTheOverlap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := "/v1/licenses/" + w.a.license + "/rotate-key"
	first := w.call(w.a.key, "POST", path, `{"overlap_seconds":3600}`).want(t, http.StatusOK)
	key := w.hidden(first.text("license_key"))
	if key == w.a.licenseKey || first.text("license.id") != w.a.license || first.text("license.key_hint")[:8] != key[:8] {
		t.Errorf("rotated: %s", first.raw)
	}
	living := `SELECT count(*) FROM app.license_keys WHERE license_id = $1 AND (expires_at IS NULL OR expires_at > now())`
	if n := testenv.Value[int64](t, w.db, living, w.a.license); n != 2 {
		t.Errorf("%d keys live after a rotation with overlap", n)
	}
	w.hidden(w.call(w.a.key, "POST", path, "").want(t, http.StatusOK).text("license_key"))
	if n := testenv.Value[int64](t, w.db, living, w.a.license); n != 3 {
		t.Errorf("%d keys live after a rotation that names no overlap", n)
	}
	w.hidden(w.call(w.a.key, "POST", path, `{"overlap_seconds":0}`).want(t, http.StatusOK).text("license_key"))
	if n := testenv.Value[int64](t, w.db, living, w.a.license); n != 1 {
		t.Errorf("%d keys live after a rotation without overlap", n)
	}
}

func TestADeviceIsRemovedWithItsSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	desk, laptop := w.sit(w.a, "desk"), w.sit(w.a, "laptop")
	path := "/v1/licenses/" + w.a.license + "/devices"
	devices := w.call(w.a.key, "GET", path, "").want(t, http.StatusOK)
	hardware := devices.texts("hardware_id")
	i := slices.Index(hardware, "desk")
	if len(hardware) != 2 || i < 0 || devices.text(fmt.Sprintf("items.%d.hostname", i)) != "desk.local" {
		t.Fatalf("devices %s", devices.raw)
	}
	path += "/" + devices.texts("id")[i]
	removed := w.call(w.a.key, "DELETE", path, "").want(t, http.StatusOK)
	if removed.text("hardware_id") != "desk" {
		t.Errorf("removed %s", removed.raw)
	}
	if b := w.beat(desk); b.Alive || b.Ending.Status != seat.Evicted || b.Ending.Reason != "device_removed" || b.Ending.By != "api_key:"+w.a.keyID {
		t.Errorf("the removed device hears %+v", b)
	}
	if b := w.beat(laptop); !b.Alive {
		t.Errorf("another device hears %+v", b)
	}
	w.call(w.a.key, "DELETE", path, "").refused(t, http.StatusNotFound, "not_found")
}

func TestSessionsAreListedByWhatBecameOfThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.operate("PATCH", "/v1/licenses/"+w.a.license+"?tenant_id="+w.a.id, `{"max_seats":9,"ttl_seconds":1}`).want(t, http.StatusOK)
	crashed := w.sit(w.a, "crashed").Session.String()
	testenv.Eventually(t, 5*time.Second, func() error {
		shown := w.call(w.a.key, "GET", "/v1/sessions?status=lapsed", "").want(t, http.StatusOK)
		if got := shown.texts("id"); !slices.Equal(got, []string{crashed}) {
			return fmt.Errorf("lapsed are %v", got)
		}
		if shown.text("items.0.end_reason") != "lease_expired" || shown.at("items.0.ended_at") != nil {
			return fmt.Errorf("lapsed: %s", shown.raw)
		}
		return nil
	})
	if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.open_sessions`); n != 1 {
		t.Errorf("%d rows are open: the sweep has not run", n)
	}
	if shown := w.call(w.a.key, "GET", "/v1/licenses/"+w.a.license, ""); shown.number("active_seats") != 0 {
		t.Errorf("a lapsed session counts: %s", shown.raw)
	}

	w.operate("PATCH", "/v1/licenses/"+w.a.license+"?tenant_id="+w.a.id, `{"ttl_seconds":60}`).want(t, http.StatusOK)
	left := w.sit(w.a, "left")
	if _, err := w.seats.Release(t.Context(), left); err != nil {
		t.Fatal(err)
	}
	thrown, stays := w.sit(w.a, "thrown").Session.String(), w.sit(w.a, "stays").Session.String()
	evicted := w.call(w.a.key, "POST", "/v1/sessions/"+thrown+"/evict", `{"reason":"lunch"}`).want(t, http.StatusOK)
	if evicted.text("status") != "evicted" || evicted.text("end_reason") != "lunch" || evicted.text("ended_by") != "api_key:"+w.a.keyID || evicted.text("ended_at") == "" {
		t.Errorf("evicted %s", evicted.raw)
	}
	if again := w.call(w.a.key, "POST", "/v1/sessions/"+thrown+"/evict", `{"reason":"dinner"}`).want(t, http.StatusOK); again.raw != evicted.raw {
		t.Errorf("evicted again: %s", again.raw)
	}
	if ended := w.call(w.a.key, "POST", "/v1/sessions/"+left.Session.String()+"/evict", `{"reason":"late"}`).want(t, http.StatusOK); ended.text("status") != "released" {
		t.Errorf("evicted after its end: %s", ended.raw)
	}
	for status, want := range map[string][]string{
		"active": {stays}, "released": {left.Session.String()}, "evicted": {thrown}, "lapsed": {crashed},
	} {
		for _, license := range []string{"", "&license_id=" + w.a.license} {
			if got := w.call(w.a.key, "GET", "/v1/sessions?status="+status+license, "").want(t, http.StatusOK).texts("id"); !slices.Equal(got, want) {
				t.Errorf("%s are %v, want %v", status, got, want)
			}
		}
	}
	all := w.call(w.a.key, "GET", "/v1/sessions", "").want(t, http.StatusOK)
	if got, want := all.texts("id"), []string{stays, thrown, left.Session.String(), crashed}; !slices.Equal(got, want) {
		t.Errorf("all are %v, want %v", got, want)
	}
	if all.text("items.0.holder") != "device:stays" || all.number("items.0.metadata.room") != 12 ||
		!strings.Contains(all.raw, `"badge":9007199254740993}`) || all.text("items.0.hostname") != "stays.local" {
		t.Errorf("shown %s", all.raw)
	}
}

func TestSessionsOfAStatusAreFoundBehindManyOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.operate("PATCH", "/v1/licenses/"+w.a.license+"?tenant_id="+w.a.id, `{"max_seats":1000}`).want(t, http.StatusOK)
	first := w.sit(w.a, "first")
	if _, err := w.seats.Release(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	// Rows that nobody believes in: the pool does not know them.
	w.db.Exec(t, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id)
		SELECT $1, ('ffffffff-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, $2, n + 10, 1, n, 'device:' || n, 'hw' FROM generate_series(1, 250) n`,
		w.a.id, w.a.license)
	stays := w.sit(w.a, "stays").Session.String()
	for status, want := range map[string]string{"active": stays, "released": first.Session.String()} {
		if got := w.call(w.a.key, "GET", "/v1/sessions?limit=1&status="+status, "").want(t, http.StatusOK); !slices.Equal(got.texts("id"), []string{want}) {
			t.Errorf("%s: %s", status, got.raw)
		}
	}
	n, cursor := 0, ""
	for range 20 {
		page := w.call(w.a.key, "GET", "/v1/sessions?limit=33&status=lapsed"+cursor, "").want(t, http.StatusOK)
		n += len(page.texts("id"))
		if page.at("next_cursor") == nil {
			break
		}
		cursor = "&cursor=" + page.text("next_cursor")
	}
	if n != 250 {
		t.Errorf("%d lapsed sessions were listed, of 250", n)
	}
	// In a suspended licence that is how they are evicted.
	w.operate("POST", "/v1/licenses/"+w.a.license+"/suspend?tenant_id="+w.a.id, `{"reason":"unpaid"}`).want(t, http.StatusOK)
	if got := w.call(w.a.key, "GET", "/v1/sessions?limit=2&status=evicted", "").want(t, http.StatusOK); len(got.texts("id")) != 2 || got.text("items.0.end_reason") != "license_suspended" {
		t.Errorf("evicted: %s", got.raw)
	}
	if got := w.call(w.a.key, "GET", "/v1/sessions?status=lapsed", "").want(t, http.StatusOK); len(got.texts("id")) != 0 {
		t.Errorf("lapsed: %s", got.raw)
	}
}

func TestARareStatusIsFoundInALongHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rare := w.sit(w.a, "rare")
	w.operate("POST", "/v1/sessions/"+rare.Session.String()+"/evict?tenant_id="+w.a.id, `{"reason":"x"}`).want(t, http.StatusOK)
	if _, err := w.seats.Release(t.Context(), rare); err != nil {
		t.Fatal(err)
	}
	w.db.Exec(t, `INSERT INTO app.ended_sessions (tenant_id, id, license_id, seat_no, overdraft, holder, hardware_id, version, acquired_at, status, end_reason, ended_by, ended_at)
		SELECT $1, ('ffffffff-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, $2, 1, false, 'device:' || n, 'hw', '', now(), 'released', 'released', 'holder', now()
		  FROM generate_series(1, 2500) n`, w.a.id, w.a.license)
	// All over the history it is found at once.
	first := w.call(w.a.key, "GET", "/v1/sessions?status=evicted", "").want(t, http.StatusOK)
	if !slices.Equal(first.texts("id"), []string{rare.Session.String()}) || first.at("next_cursor") != nil {
		t.Errorf("answered %s", first.raw)
	}
	// Within one licence a request reads a thousand sessions, and says where to go on.
	found, cursor, pages := []string{}, "", 0
	for ; pages < 10; pages++ {
		page := w.call(w.a.key, "GET", "/v1/sessions?status=evicted&license_id="+w.a.license+cursor, "").want(t, http.StatusOK)
		found = append(found, page.texts("id")...)
		if page.at("next_cursor") == nil {
			break
		}
		cursor = "&cursor=" + page.text("next_cursor")
	}
	if pages != 2 || !slices.Equal(found, []string{rare.Session.String()}) {
		t.Errorf("on page %d: %v", pages, found)
	}
}

func TestOpenNamesEveryVariableThatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := admin.Open(t.Context(), func(string) string { return "" }, testenv.Logs(t).Logger)
	for _, variable := range []string{"DATABASE_URL", "OPERATOR_DATABASE_URL", "REDIS_URL", "API_KEY_PEPPERS", "IDENTITY_ISSUER", "IDENTITY_AUDIENCE", "LICENSE_KEY_PEPPERS", "NOTIFY_KEYS", "BUDGET_REDIS_URL"} {
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+variable+" ") {
			t.Errorf("%s is not named: %v", variable, err)
		}
	}
}

func TestOpenServesFromItsEnvironment(t *testing.T) {
	t.Parallel()
	db, redis := testenv.Postgres(t), testenv.Redis(t)
	pepper := "1:" + strings.Repeat("A", 43) + "="
	env := map[string]string{
		"DATABASE_URL": db.URL("usher_admin"), "OPERATOR_DATABASE_URL": db.URL("usher_operator"), "REDIS_URL": redis.URL(),
		"API_KEY_PEPPERS": pepper, "LICENSE_KEY_PEPPERS": pepper, "IDENTITY_ISSUER": "https://issuer.example", "IDENTITY_AUDIENCE": audience,
		"RECEIPT_ISSUER": "https://usher.example", "NOTIFY_KEYS": "a:" + strings.Repeat("A", 43) + "=", "BUDGET_REDIS_URL": redis.Database(1),
	}
	f, err := admin.Open(t.Context(), func(name string) string { return env[name] }, testenv.Logs(t).Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	for _, check := range f.Ready {
		if err := check.Ping(t.Context()); err != nil {
			t.Errorf("%s: %v", check.Name, err)
		}
	}
	if f.Name != "admin" || len(f.Routes) == 0 {
		t.Errorf("opened %s with %d routes", f.Name, len(f.Routes))
	}
}

func TestEveryListIsReadToItsEndInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.operate("PATCH", "/v1/licenses/"+w.a.license+"?tenant_id="+w.a.id, `{"max_seats":9}`).want(t, http.StatusOK)
	for i := range 4 {
		name := fmt.Sprint("n", i)
		w.operate("POST", "/v1/tenants", fmt.Sprintf(`{"name":%q}`, name)).want(t, http.StatusCreated)
		w.operate("POST", "/v1/licenses?tenant_id="+w.a.id, `{"plan":"team","max_seats":1}`).want(t, http.StatusCreated)
		w.hidden(w.makeKey(w.a.key, "", identity.LicensesRead).text("api_key"))
		w.invite(w.a.owner, "", name+"@example.com", identity.Member)
		ref := w.sit(w.a, name)
		if i%2 == 0 {
			if _, err := w.seats.Release(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, want := range map[string]int{
		"/v1/tenants?": 6, "/v1/licenses?tenant_id=" + w.a.id: 5, "/v1/api-keys?tenant_id=" + w.a.id: 5,
		"/v1/sessions?tenant_id=" + w.a.id: 4, "/v1/licenses/" + w.a.license + "/devices?tenant_id=" + w.a.id: 4,
		"/v1/users?tenant_id=" + w.a.id: 6, "/v1/users?role=member&tenant_id=" + w.a.id: 4, "/v1/users?status=active&tenant_id=" + w.a.id: 1,
		"/v1/invitations?tenant_id=" + w.a.id: 5, "/v1/users?email=N1@example.com&tenant_id=" + w.a.id: 1,
		"/v1/sessions?tenant_id=" + w.b.id: 0,
	} {
		whole := w.operate("GET", path, "").want(t, http.StatusOK)
		if whole.at("next_cursor") != nil || len(whole.texts("id")) != want {
			t.Errorf("%s: %s", path, whole.raw)
		}
		for _, limit := range []int{1, 2, 3, max(want, 1)} {
			var ids []string
			cursor := ""
			for range want + 2 {
				page := w.operate("GET", fmt.Sprintf("%s&limit=%d%s", path, limit, cursor), "").want(t, http.StatusOK)
				if len(page.texts("id")) > limit {
					t.Errorf("%s: a page of %d", path, len(page.texts("id")))
				}
				ids = append(ids, page.texts("id")...)
				if page.at("next_cursor") == nil {
					cursor = "end"
					break
				}
				cursor = "&cursor=" + page.text("next_cursor")
			}
			if cursor != "end" || !slices.Equal(ids, whole.texts("id")) && want > 0 {
				t.Errorf("%s by %d: %v, want %v", path, limit, ids, whole.texts("id"))
			}
		}
		for bad, field := range map[string]string{
			"&limit=0": "limit", "&limit=101": "limit", "&limit=x": "limit", "&cursor=x": "cursor", "&cursor=AAAA": "cursor", "&page=2": "page",
		} {
			a := w.operate("GET", path+bad, "").refused(t, http.StatusUnprocessableEntity, "invalid_request")
			if a.text("errors.0.field") != field {
				t.Errorf("%s%s: %s", path, bad, a.raw)
			}
		}
	}
}

func TestAPIKeysAreMadeListedAndRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.call(w.a.key, "POST", "/v1/api-keys", `{"name":"reader","scopes":["licenses:read"],"expires_at":"2999-01-01T00:00:00Z"}`).want(t, http.StatusCreated)
	key := w.hidden(made.text("api_key"))
	if !strings.HasPrefix(key, "ush_") || made.text("expires_at") != "2999-01-01T00:00:00.000Z" || made.text("scopes.0") != "licenses:read" || made.text("created_by") != "api_key:"+w.a.keyID {
		t.Errorf("made %s", made.raw)
	}
	w.call(key, "GET", "/v1/licenses", "").want(t, http.StatusOK)
	listed := w.call(w.a.key, "GET", "/v1/api-keys", "").want(t, http.StatusOK)
	if got := listed.texts("id"); !slices.Equal(got, []string{w.a.keyID, made.text("id")}) || strings.Contains(listed.raw, key) || listed.text("items.1.last_used_at") == "" {
		t.Errorf("listed %s", listed.raw)
	}
	revoked := w.call(w.a.key, "DELETE", "/v1/api-keys/"+made.text("id"), "").want(t, http.StatusOK)
	if revoked.text("revoked_at") == "" {
		t.Errorf("revoked %s", revoked.raw)
	}
	if again := w.call(w.a.key, "DELETE", "/v1/api-keys/"+made.text("id"), "").want(t, http.StatusOK); again.raw != revoked.raw {
		t.Errorf("revoked again: %s", again.raw)
	}
	w.call(key, "GET", "/v1/licenses", "").refused(t, http.StatusUnauthorized, "api_key_invalid")

	short := w.makeKey(w.a.key, "", identity.LicensesRead)
	w.db.Exec(t, `UPDATE app.api_keys SET expires_at = now() WHERE id = $1`, short.text("id"))
	w.call(w.hidden(short.text("api_key")), "GET", "/v1/licenses", "").refused(t, http.StatusUnauthorized, "api_key_invalid")
}

func TestNobodyGivesAKeyWhatTheyDoNotHave(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clerk := w.hidden(w.makeKey(w.a.key, "", identity.UsersWrite, identity.LicensesRead).text("api_key"))
	before := w.stored()["api_keys"]
	for body, want := range map[string]int{
		`{"name":"x","scopes":["licenses:write"]}`:                http.StatusForbidden,
		`{"name":"x","scopes":["licenses:read","users:read"]}`:    http.StatusForbidden,
		`{"name":"x","scopes":["tenants:read"]}`:                  http.StatusUnprocessableEntity,
		`{"name":"x","scopes":["all"]}`:                           http.StatusUnprocessableEntity,
		`{"name":"x","scopes":[]}`:                                http.StatusUnprocessableEntity,
		`{"name":"x","scopes":["licenses:read","licenses:read"]}`: http.StatusUnprocessableEntity,
		`{"name":"x","scopes":null}`:                              http.StatusUnprocessableEntity,
		`{"scopes":["licenses:read"]}`:                            http.StatusUnprocessableEntity,
		`{"name":"","scopes":["licenses:read"]}`:                  http.StatusUnprocessableEntity,
	} {
		w.call(clerk, "POST", "/v1/api-keys", body).want(t, want)
	}
	// A tenant's key, though the operator makes it, never has the operator's scopes.
	w.operate("POST", "/v1/api-keys?tenant_id="+w.a.id, `{"name":"x","scopes":["tenants:read"]}`).want(t, http.StatusUnprocessableEntity)
	if after := w.stored()["api_keys"]; after != before {
		t.Errorf("a key was made:\n%s\nbefore\n%s", after, before)
	}
	w.hidden(w.call(clerk, "POST", "/v1/api-keys", `{"name":"x","scopes":["licenses:read","users:write"]}`).want(t, http.StatusCreated).text("api_key"))
	w.hidden(w.operate("POST", "/v1/api-keys", `{"name":"x","scopes":["tenants:read"]}`).want(t, http.StatusCreated).text("api_key"))
	over := w.hidden(w.operate("POST", "/v1/api-keys", `{"name":"x","scopes":["tenants:read"],"expires_at":"2020-01-01T00:00:00Z"}`).want(t, http.StatusCreated).text("api_key"))
	w.call(over, "GET", "/v1/me", "").want(t, http.StatusUnauthorized)
}

func TestARepeatedPOSTGetsItsFirstAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.makeKeys()
	for id, r := range calls(w.a, uuid.NewString(), uuid.NewString()) {
		switch id {
		case "create_tenant", "create_license", "create_license_file", "rotate_license_key", "create_api_key", "rotate_api_key", "create_user", "create_invitation", "create_webhook", "rotate_webhook_secret":
		default:
			continue
		}
		key, path := w.a.owner, r.path
		if r.operator {
			key = w.operator
			if r.tenant {
				path = r.of(w.a.id)
			}
		}
		name := []string{"Idempotency-Key", "key of " + strings.ReplaceAll(id, "_", "-")}
		w.call(key, r.method, path, r.body, name...).refused(t, http.StatusBadRequest, "idempotency_key_invalid")
		name[1] = strings.ReplaceAll(name[1], " ", "-")
		first := w.call(key, r.method, path, r.body, name...)
		if first.status != http.StatusCreated && first.status != http.StatusOK || first.header.Get("Idempotent-Replayed") != "" {
			t.Fatalf("%s: %d %s", id, first.status, first.raw)
		}
		stored := w.stored()
		again := w.call(key, r.method, path, r.body, name...)
		if again.status != first.status || again.raw != first.raw || again.header.Get("Idempotent-Replayed") != "true" || again.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s again: %d %v %s, first %s", id, again.status, again.header, again.raw, first.raw)
		}
		other := strings.Replace(cmp.Or(r.body, "{}"), "{", "{ ", 1)
		w.call(key, r.method, path, other, name...).refused(t, http.StatusUnprocessableEntity, "idempotency_key_reused")
		for table, content := range w.stored() {
			if content != stored[table] && table != "outbox" {
				t.Errorf("%s again changed %s", id, table)
			}
		}
		for _, secret := range []string{first.text("api_key"), first.text("license_key"), first.text("token"), first.text("secret")} {
			if secret == "" {
				continue
			}
			w.hidden(secret)
			everything := fmt.Sprint(w.stored())
			if strings.Contains(everything, secret) || strings.Contains(everything, fmt.Sprintf("%x", secret)) || strings.Contains(everything, name[1]) {
				t.Errorf("%s: a secret, or the Idempotency-Key, is stored as it is", id)
			}
		}
	}
}

func TestAFailureIsNotRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := "/v1/tenants"
	taken := w.operate("POST", path, `{"name":"x","slug":"taken"}`).want(t, http.StatusCreated).text("id")
	w.operate("POST", path, `{"name":"y","slug":"taken"}`, "Idempotency-Key", "k").refused(t, http.StatusConflict, "slug_taken")
	w.db.Exec(t, `UPDATE app.tenants SET slug = 'freed' WHERE id = $1`, taken)
	w.operate("POST", path, `{"name":"y","slug":"taken"}`, "Idempotency-Key", "k").want(t, http.StatusCreated)
}

func TestATenantWhoseAnswerWasNotRememberedIsFoundAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, body := range []string{`{"name":"Chosen","slug":"chosen"}`, `{"name":"Not chosen"}`} {
		ask := func() string {
			return w.operate("POST", "/v1/tenants", body, "Idempotency-Key", "crash").want(t, http.StatusCreated).text("id")
		}
		first := ask()
		w.db.Exec(t, `DELETE FROM app.idempotency_keys`) // as after a crash between the two commits
		if again := ask(); again != first {
			t.Errorf("%s made %s, and again %s", body, first, again)
		}
		w.db.Exec(t, `DELETE FROM app.idempotency_keys`)
	}
}

func TestAnAPIKeyDoesNotOutliveItsMaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	short := w.hidden(w.call(w.a.key, "POST", "/v1/api-keys", `{"name":"short","scopes":["users:write"],"expires_at":"2999-01-01T00:00:00Z"}`).want(t, http.StatusCreated).text("api_key"))
	for body, status := range map[string]int{
		`{"name":"x","scopes":["users:write"]}`:                                         http.StatusUnprocessableEntity,
		`{"name":"x","scopes":["users:write"],"expires_at":null}`:                       http.StatusUnprocessableEntity,
		`{"name":"x","scopes":["users:write"],"expires_at":"2999-01-01T00:00:00.001Z"}`: http.StatusUnprocessableEntity,
		`{"name":"x","scopes":["users:write"],"expires_at":"2999-01-01T00:00:00Z"}`:     http.StatusCreated,
		`{"name":"x","scopes":["users:write"],"expires_at":"2998-01-01T00:00:00Z"}`:     http.StatusCreated,
	} {
		made := w.call(short, "POST", "/v1/api-keys", body).want(t, status)
		if status != http.StatusCreated && !slices.Equal(made.wrong(), []string{"expires_at out_of_range"}) {
			t.Errorf("%s: %s", body, made.raw)
		}
	}
}

func TestTheSamePOSTAtOnceIsDoneOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]int{}
	for range 12 {
		all.Go(func() {
			a := w.operate("POST", "/v1/licenses?tenant_id="+w.b.id, `{"plan":"team","max_seats":1}`, "Idempotency-Key", "once")
			mu.Lock()
			defer mu.Unlock()
			if a.status == http.StatusConflict {
				a.refused(t, http.StatusConflict, "idempotency_in_flight")
				return
			}
			if a.status != http.StatusCreated {
				t.Errorf("answered %d: %s", a.status, a.raw)
			}
			ids[a.text("license.id")]++
		})
	}
	all.Wait()
	if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.licenses WHERE tenant_id = $1`, w.b.id); n != 2 || len(ids) != 1 {
		t.Errorf("%d licences of B, answered %v", n, ids)
	}
	// Another credential's key of the same name is another request.
	second := w.hidden(w.makeKey(w.operator, "", identity.LicensesWrite).text("api_key"))
	w.call(second, "POST", "/v1/licenses?tenant_id="+w.b.id, `{"plan":"team","max_seats":1}`, "Idempotency-Key", "once").want(t, http.StatusCreated)
}

func TestWhatIsDecidedFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reader := w.hidden(w.makeKey(w.a.key, "", identity.SessionsRead).text("api_key"))
	none, wrong := uuid.NewString(), `{"reason":`
	w.call("", "POST", "/v1/sessions/"+none+"/evict?x=1", wrong).want(t, http.StatusUnauthorized)
	w.call(reader, "POST", "/v1/sessions/"+none+"/evict?x=1", wrong).want(t, http.StatusForbidden)
	w.call(w.a.key, "POST", "/v1/sessions/"+none+"/evict?x=1", wrong).want(t, http.StatusNotFound)
	session := w.sit(w.a, "desk").Session.String()
	w.call(w.a.key, "POST", "/v1/sessions/"+session+"/evict?x=1", wrong).want(t, http.StatusUnprocessableEntity)
	w.call(w.a.key, "POST", "/v1/sessions/"+session+"/evict", wrong).want(t, http.StatusBadRequest)
	device := testenv.Value[uuid.UUID](t, w.db, `SELECT id FROM app.devices`).String()
	revoke := "/v1/licenses/" + w.a.license + "/revoke?tenant_id=" + w.a.id
	w.operate("POST", revoke, `{"reason":"fraud"}`).want(t, http.StatusOK)
	for id, r := range calls(w.a, session, device) {
		if r.method == "GET" || strings.HasPrefix(id, "create") || strings.HasPrefix(id, "put") || r.role == guest {
			continue
		}
		path := r.path
		if r.tenant {
			path = r.of(w.a.id)
		}
		missing := strings.NewReplacer(w.a.license, none, session, none, "/v1/tenants/"+w.a.id, "/v1/tenants/"+none, w.a.keyID, none, w.a.user, none, w.a.invitation, none, w.a.webhook, none, w.a.delivery, none).Replace(path)
		if a := w.operate(r.method, missing, `{"nonsense":1}`); a.status != http.StatusNotFound {
			t.Errorf("%s: what is not there, with a bad body, is %d: %s", id, a.status, a.raw)
		}
		if a := w.operate(r.method, path, `{"nonsense":1}`); a.status != http.StatusUnprocessableEntity {
			t.Errorf("%s: a bad body is %d: %s", id, a.status, a.raw)
		}
	}
}

// whoMay is a credential that opens the route.
func (w *world) whoMay(r call) string {
	if r.role == guest {
		return w.token("guest")
	}
	return w.operator
}

func TestAnUnknownParameterIsRefusedEverywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	session := w.sit(w.a, "desk").Session.String()
	device := testenv.Value[uuid.UUID](t, w.db, `SELECT id FROM app.devices`).String()
	before := w.stored()
	for id, r := range calls(w.a, session, device) {
		path := r.path + "?"
		if r.tenant {
			path = r.of(w.a.id) + "&"
		}
		if got := w.call(w.whoMay(r), r.method, path+"nonsense=1", r.body).refused(t, http.StatusUnprocessableEntity, "invalid_request").wrong(); !slices.Equal(got, []string{"nonsense unknown_field"}) {
			t.Errorf("%s: wrong is %v", id, got)
		}
		w.call(w.whoMay(r), r.method, path+"%zz", r.body).refused(t, http.StatusBadRequest, "malformed_query")
	}
	for table, content := range w.stored() {
		if content != before[table] {
			t.Errorf("table %s has changed", table)
		}
	}
}

func TestBadInputIsAProblemAndChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	session := w.sit(w.a, "desk").Session.String()
	device := testenv.Value[uuid.UUID](t, w.db, `SELECT id FROM app.devices`).String()
	before := w.stored()
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for id, r := range calls(w.a, session, device) {
		path := r.path
		if r.tenant {
			path = r.of(w.a.id)
		}
		for body, want := range map[string]int{
			`{`: 400, `[]`: 422, `"x"`: 422, `null`: 422, `{"a":1,"a":2}`: 400, "{\"a\":\"\xff\"}": 400, deep: 400, `{"unknown":1}`: 422,
			`{} {}`: 400, `{"` + strings.Repeat("x", 70_000) + `":1}`: 413,
		} {
			if r.method == "GET" {
				continue
			}
			if a := w.call(w.whoMay(r), r.method, path, body); a.status != want {
				t.Errorf("%s with the body %.30q answered %d, want %d: %s", id, body, a.status, want, a.raw)
			}
		}
		var members map[string]any
		_ = json.Unmarshal([]byte(r.body), &members)
		for member := range members {
			for _, value := range []any{map[string]any{}, []any{1}, true, -1, 1e30, 1.5, "a\u0000b", "a\nb", strings.Repeat("x", 5000)} {
				bad := maps.Clone(members)
				bad[member] = value
				body, err := json.Marshal(bad)
				if err != nil {
					t.Fatal(err)
				}
				if a := w.call(w.whoMay(r), r.method, path, string(body)); a.status != 422 {
					t.Errorf("%s with %s = %.40v answered %d: %s", id, member, value, a.status, a.raw)
				} else if s, ok := value.(string); ok && strings.Contains(a.raw, s) {
					t.Errorf("%s repeats the value of %s", id, member)
				}
			}
		}
	}
	for path, bodies := range map[string]map[string]string{
		"POST /v1/licenses?tenant_id=" + w.a.id: {
			`{"plan":"none","max_seats":1}`:                                                                          "plan not_allowed",
			`{"plan":"team"}`:                                                                                        "max_seats required",
			`{"plan":"team","max_seats":0}`:                                                                          "max_seats out_of_range",
			`{"plan":"team","max_seats":1000001}`:                                                                    "max_seats out_of_range",
			`{"plan":"team","max_seats":1,"ttl_seconds":0}`:                                                          "ttl_seconds out_of_range",
			`{"plan":"team","max_seats":1,"ttl_seconds":86401}`:                                                      "ttl_seconds out_of_range",
			`{"plan":"team","max_seats":1,"ttl_seconds":9007199254740991}`:                                           "ttl_seconds out_of_range",
			`{"plan":"team","max_seats":1,"seat_per":"floor"}`:                                                       "seat_per not_allowed",
			`{"plan":"team","max_seats":1,"versions":"two"}`:                                                         "versions bad_format",
			`{"plan":"team","max_seats":1,"features":["a","a"]}`:                                                     "features[1] not_allowed",
			`{"plan":"team","max_seats":1,"features":[""]}`:                                                          "features[0] too_short",
			`{"plan":"team","max_seats":1,"features":null}`:                                                          "features wrong_type",
			`{"plan":"team","max_seats":1,"allowed_hardware":[7]}`:                                                   "allowed_hardware[0] wrong_type",
			`{"plan":"team","max_seats":1,"max_devices":0}`:                                                          "max_devices out_of_range",
			`{"plan":"team","max_seats":1,"expires_at":"tomorrow"}`:                                                  "expires_at bad_format",
			`{"plan":"team","max_seats":1,"grace_until":"2030-01-01T00:00:00Z"}`:                                     "grace_until not_allowed",
			`{"plan":"team","max_seats":1,"starts_at":"2030-01-01T00:00:00Z","expires_at":"2029-01-01T00:00:00Z"}`:   "expires_at out_of_range",
			`{"plan":"team","max_seats":1,"expires_at":"2030-01-01T00:00:00Z","grace_until":"2029-01-01T00:00:00Z"}`: "grace_until out_of_range",
		},
		"PATCH /v1/licenses/" + w.a.license + "?tenant_id=" + w.a.id: {
			`{"max_seats":null}`: "max_seats wrong_type",
			`{"plan":"none"}`:    "plan not_allowed",
			`{"max_devices":0}`:  "max_devices out_of_range",
			`{"status":"x"}`:     "status unknown_field",
		},
		"POST /v1/licenses/" + w.a.license + "/rotate-key?tenant_id=" + w.a.id: {
			`{"overlap_seconds":-1}`:      "overlap_seconds out_of_range",
			`{"overlap_seconds":2592001}`: "overlap_seconds out_of_range",
		},
		"POST /v1/licenses/" + w.a.license + "/suspend?tenant_id=" + w.a.id: {`{}`: "reason required", `{"reason":""}`: "reason too_short"},
		"POST /v1/users?tenant_id=" + w.a.id: {
			`{}`:                                               "email required,role required",
			`{"email":"x","role":"owner"}`:                     "email too_short",
			`{"email":"ada","role":"owner"}`:                   "email bad_format",
			`{"email":"@ada","role":"owner"}`:                  "email bad_format",
			`{"email":"ab@","role":"owner"}`:                   "email bad_format",
			`{"email":"a b@example.com","role":"owner"}`:       "email bad_format",
			`{"email":"a@example.com","role":"operator"}`:      "role not_allowed",
			`{"email":"a@example.com","role":"Owner"}`:         "role not_allowed",
			`{"email":"a@x.example","role":"owner","name":""}`: "name too_short",
		},
		"PATCH /v1/users/" + w.a.user + "?tenant_id=" + w.a.id: {
			`{"role":null}`: "role wrong_type", `{"role":"none"}`: "role not_allowed", `{"email":"x@example.com"}`: "email unknown_field", `{"name":""}`: "name too_short",
		},
		"POST /v1/api-keys/" + w.a.keyID + "/rotate?tenant_id=" + w.a.id: {
			`{"overlap_seconds":-1}`: "overlap_seconds out_of_range", `{"overlap_seconds":2592001}`: "overlap_seconds out_of_range",
		},
		"POST /v1/tenants": {
			`{}`: "name required", `{"name":"x","slug":"No"}`: "slug bad_format", `{"name":"x","slug":"-"}`: "slug bad_format",
		},
		"PATCH /v1/tenants/" + w.a.id: {
			`{"status":"revoked"}`: "status not_allowed", `{"reason":"x"}`: "reason not_allowed", `{"name":null}`: "name wrong_type",
		},
		"PUT /v1/catalog/products/Big":   {`{}`: "code bad_format"},
		"PUT /v1/catalog/products/a%20b": {`{}`: "code bad_format"},
		"PUT /v1/catalog/plans/new": {
			`{}`: "product required", `{"product":"none"}`: "product not_allowed", `{"product":"editor","ttl_seconds":0}`: "ttl_seconds out_of_range",
			`{"product":"editor","drain_seconds":-1}`:             "drain_seconds out_of_range",
			`{"product":"editor","offline_grace_seconds":604801}`: "offline_grace_seconds out_of_range",
		},
	} {
		method, path, _ := strings.Cut(path, " ")
		for body, want := range bodies {
			if got := w.operate(method, path, body).refused(t, http.StatusUnprocessableEntity, "invalid_request").wrong(); strings.Join(got, ",") != want {
				t.Errorf("%s %s with %s: wrong is %v, want %s", method, path, body, got, want)
			}
		}
	}
	for _, path := range []string{
		"/v1/licenses/x", "/v1/licenses/%00", "/v1/licenses/{" + w.a.license + "}", "/v1/tenants/1", "/v1/catalog/plans/%00", "/v1/catalog/products/%ff",
	} {
		if a := w.operate("GET", path+"?tenant_id="+w.a.id, ""); a.status != http.StatusNotFound {
			t.Errorf("%s answered %d: %s", path, a.status, a.raw)
		}
	}
	for _, query := range []string{"license_id=x", "status=open", "status=active&status=lapsed", "license_id="} {
		w.operate("GET", "/v1/sessions?tenant_id="+w.a.id+"&"+query, "").refused(t, http.StatusUnprocessableEntity, "invalid_request")
	}
	for table, content := range w.stored() {
		if content != before[table] {
			t.Errorf("table %s has changed:\n%s\nwas\n%s", table, content, before[table])
		}
	}
}

func TestAdministrationGoesOnWithoutRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, thrown := w.sit(w.a, "desk"), w.sit(w.a, "laptop")
	w.redis.Kill(t)
	at := func(verb string) string { return "/v1/licenses/" + w.a.license + verb + "?tenant_id=" + w.a.id }
	for _, path := range []string{at(""), "/v1/licenses?tenant_id=" + w.a.id} {
		a := w.operate("GET", path, "").want(t, http.StatusOK)
		if a.number("active_seats")+a.number("items.0.active_seats") != 2 {
			t.Errorf("%s: %s", path, a.raw)
		}
	}
	if a := w.operate("GET", "/v1/sessions?status=active&tenant_id="+w.a.id, "").want(t, http.StatusOK); len(a.texts("id")) != 2 {
		t.Errorf("sessions %s", a.raw)
	}
	if a := w.operate("POST", "/v1/sessions/"+thrown.Session.String()+"/evict?tenant_id="+w.a.id, `{"reason":"late"}`).want(t, http.StatusOK); a.text("status") != "evicted" {
		t.Errorf("evicted %s", a.raw)
	}
	w.hidden(w.operate("POST", at("/rotate-key"), "").want(t, http.StatusOK).text("license_key"))
	w.operate("POST", at("/suspend"), `{"reason":"unpaid"}`).want(t, http.StatusOK)
	w.redis.Start(t)
	for holder, want := range map[seat.Ref]string{ref: "license_suspended", thrown: "late"} {
		if b := w.beat(holder); b.Alive || b.Ending.Reason != want {
			t.Errorf("a holder hears %+v, want %s", b, want)
		}
	}
}

func TestWithoutPostgreSQLTheAnswerIsToComeBack(t *testing.T) {
	t.Parallel()
	private := testenv.PrivatePostgres(t)
	w := newWorldOn(t, private.DB)
	private.Stop(t)
	for id, r := range calls(w.a, uuid.NewString(), uuid.NewString()) {
		path := r.path
		if r.tenant {
			path = r.of(w.a.id)
		}
		a := w.operate(r.method, path, r.body)
		if a.status != http.StatusServiceUnavailable || a.text("code") != "store_unavailable" || a.header.Get("Retry-After") == "" {
			t.Errorf("%s answered %d: %s", id, a.status, a.raw)
		}
	}
	private.Start(t)
	testenv.Eventually(t, 10*time.Second, func() error {
		if a := w.operate("GET", "/v1/tenants", ""); a.status != http.StatusOK {
			return fmt.Errorf("answered %d: %s", a.status, a.raw)
		}
		return nil
	})
}
