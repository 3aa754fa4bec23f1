package admin_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

func TestARoleOpensTheRoutesThatItMayAndNoOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	routes := calls(nobody(), uuid.NewString(), uuid.NewString())
	for _, role := range identity.Roles() {
		ours, _ := w.join(w.a.id, "a-"+string(role), role)
		staff, _ := w.join("", "staff-"+string(role), role)
		for token, tenant := range map[string]string{ours: "", staff: w.a.id} {
			for id, r := range routes {
				path := r.path
				if tenant != "" && r.tenant {
					path = r.of(tenant)
				}
				allowed := r.role == guest || (role.AtLeast(r.role) || r.own != "" && role.AtLeast(r.own)) && (!r.operator || tenant != "")
				a := w.call(token, r.method, path, r.body)
				if forbidden := a.status == http.StatusForbidden; forbidden == allowed || forbidden && a.text("code") != "forbidden" || a.status == http.StatusUnauthorized {
					t.Errorf("%s as %s (operator: %v) answered %d %s", id, role, tenant != "", a.status, a.raw)
				}
			}
		}
	}
	stranger := w.token("stranger")
	for id, r := range routes {
		a := w.call(stranger, r.method, r.path, r.body)
		if r.role == guest {
			a.refused(t, http.StatusNotFound, "not_found")
		} else if a.status != http.StatusForbidden || a.text("code") != "membership_missing" {
			t.Errorf("%s for a stranger answered %d %s", id, a.status, a.raw)
		}
	}
}

func TestTheDocumentShowsWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, err := httpx.OpenAPI("admin", "test", admin.Routes(w.deps))
	w.must(err)
	var document struct {
		Paths map[string]map[string]struct {
			ID       string                `json:"operationId"`
			Security []map[string][]string `json:"security"`
			Operator bool                  `json:"x-operator-only"`
			Own      identity.Role         `json:"x-own-role"`
		}
	}
	w.must(json.Unmarshal(text, &document))
	found := 0
	want := calls(w.a, uuid.NewString(), uuid.NewString())
	for _, operations := range document.Paths {
		for _, o := range operations {
			r, ok := want[o.ID]
			if !ok {
				continue
			}
			found++
			says := map[string]string{}
			for _, requirement := range o.Security {
				for scheme, needs := range requirement {
					says[scheme] = strings.Join(needs, " ")
				}
			}
			needs := map[string]string{"api_key": string(r.scope), "id_token": string(r.role)}
			if r.role == guest {
				needs = map[string]string{"id_token": ""}
			}
			if fmt.Sprint(says) != fmt.Sprint(needs) || o.Operator != r.operator || o.Own != r.own {
				t.Errorf("%s needs %v (operator only: %v, own: %q), the document says %v (%v, %q)", o.ID, needs, r.operator, r.own, says, o.Operator, o.Own)
			}
		}
	}
	if found != len(want) {
		t.Errorf("%d operations of %d are documented", found, len(want))
	}
}

func TestAPersonIsToldWhoTheyAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me := w.call(w.a.owner, "GET", "/v1/me", "").want(t, http.StatusOK)
	if me.text("tenant_id") != w.a.id || me.text("tenant_name") != "acme" || me.at("operator") != false || me.at("api_key_id") != nil ||
		me.text("user_id") != w.a.user || me.text("email") != "acme-owner@example.com" || me.text("role") != "owner" {
		t.Errorf("me is %s", me.raw)
	}
	staff, id := w.join("", "vera", identity.Viewer)
	me = w.call(staff, "GET", "/v1/me", "").want(t, http.StatusOK)
	if me.at("tenant_id") != nil || me.at("operator") != true || me.text("user_id") != id || me.text("role") != "viewer" {
		t.Errorf("me is %s", me.raw)
	}
}

func TestClaimsThatDisagreeWithTheMembershipAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, c := range map[string]struct {
		claims map[string]any
		good   bool
	}{
		"both agree":             {map[string]any{"tenant_id": w.a.id, "role": "owner"}, true},
		"one is left out":        {map[string]any{"role": "owner"}, true},
		"null says nothing":      {map[string]any{"tenant_id": nil}, true},
		"another tenant":         {map[string]any{"tenant_id": w.b.id, "role": "owner"}, false},
		"another role":           {map[string]any{"tenant_id": w.a.id, "role": "admin"}, false},
		"no role there is":       {map[string]any{"role": "operator"}, false},
		"no text":                {map[string]any{"role": []string{"owner"}}, false},
		"nothing is not nothing": {map[string]any{"tenant_id": ""}, false},
	} {
		a := w.call(w.token("acme-owner", c.claims), "GET", "/v1/licenses", "")
		if c.good && a.status != http.StatusOK {
			t.Errorf("%s: answered %d: %s", name, a.status, a.raw)
		} else if !c.good {
			a.refused(t, http.StatusUnauthorized, "id_token_claims_disagree")
		}
	}
}

func TestABadIDTokenIsRefusedOnEveryRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tokens := map[string]string{
		"id_token_invalid":        "a.b.c",
		"id_token_wrong_audience": w.token("acme-owner", map[string]any{"aud": "other"}),
		"id_token_wrong_issuer":   w.token("acme-owner", map[string]any{"iss": "https://other.example"}),
		"id_token_expired":        w.token("acme-owner", map[string]any{"exp": time.Now().Add(-time.Second).Unix()}),
		"id_token_not_yet_valid":  w.token("acme-owner", map[string]any{"iat": time.Now().Add(time.Hour).Unix()}),
	}
	for id, r := range calls(w.a, uuid.NewString(), uuid.NewString()) {
		for code, token := range tokens {
			if a := w.call(token, r.method, r.path, r.body); a.status != http.StatusUnauthorized || a.text("code") != code {
				t.Errorf("%s answered %d %s, want %s", id, a.status, a.text("code"), code)
			}
		}
		w.call(w.token("acme-owner", map[string]any{"email_verified": false}), r.method, r.path, r.body).refused(t, http.StatusForbidden, "email_not_verified")
	}
}

func TestAnInvitationIsForOnePersonOnceAndForAWeek(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.call(w.a.owner, "POST", "/v1/invitations", `{"email":"Ada@Example.COM","role":"member","name":"Ada L."}`).want(t, http.StatusCreated)
	token, id := w.hidden(made.text("token")), made.text("id")
	expires, err := time.Parse(time.RFC3339, made.text("expires_at"))
	if err != nil || time.Until(expires) < 7*24*time.Hour-time.Minute || time.Until(expires) > 7*24*time.Hour {
		t.Errorf("it expires %s", made.text("expires_at"))
	}
	if made.text("email") != "ada@example.com" || made.text("status") != "pending" || made.text("role") != "member" || made.text("invited_by") != "user:"+w.a.user {
		t.Errorf("made %s", made.raw)
	}
	if listed := w.call(w.a.owner, "GET", "/v1/invitations", "").want(t, http.StatusOK); !slices.Contains(listed.texts("id"), id) || strings.Contains(listed.raw, token) {
		t.Errorf("listed %s", listed.raw)
	}
	if stored := fmt.Sprint(w.stored()); strings.Contains(stored, token[4:20]) {
		t.Error("the token is stored as it is")
	}
	ada := w.token("ada")
	w.accept(w.token("eve"), token).refused(t, http.StatusForbidden, "invitation_for_another")
	w.accept(ada, "usi_"+strings.Repeat("0", 33)).refused(t, http.StatusNotFound, "not_found")
	w.accept(w.a.key, token).refused(t, http.StatusForbidden, "forbidden")
	w.accept(w.token("ada", map[string]any{"email_verified": false}), token).refused(t, http.StatusForbidden, "email_not_verified")

	body := fmt.Sprintf(`{"token":%q}`, strings.ToUpper(token))
	joined := w.call(ada, "POST", "/v1/invitations/accept", body, "Idempotency-Key", "join").want(t, http.StatusOK)
	if joined.text("tenant.id") != w.a.id || joined.text("tenant.name") != "acme" || joined.text("user.id") != id || joined.text("user.role") != "member" ||
		joined.text("user.status") != "active" || joined.text("user.name") != "Ada L." || joined.text("user.joined_at") == "" {
		t.Errorf("joined %s", joined.raw)
	}
	if again := w.call(ada, "POST", "/v1/invitations/accept", body, "Idempotency-Key", "join").want(t, http.StatusOK); again.raw != joined.raw || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("again: %s", again.raw)
	}
	w.call(ada, "GET", "/v1/sessions", "").want(t, http.StatusOK)
	w.accept(ada, token).refused(t, http.StatusConflict, "invitation_used")
	w.accept(w.token("ada", map[string]any{"sub": "another ada"}), token).refused(t, http.StatusConflict, "invitation_used")
	w.call(w.a.owner, "DELETE", "/v1/invitations/"+id, "").refused(t, http.StatusConflict, "invitation_used")
	if shown := w.call(w.a.owner, "GET", "/v1/invitations/"+id, "").want(t, http.StatusOK); shown.text("status") != "accepted" {
		t.Errorf("shown %s", shown.raw)
	}
	w.call(w.a.owner, "POST", "/v1/invitations", `{"email":"ada@example.com","role":"member"}`).refused(t, http.StatusConflict, "already_member")

	late := w.invite(w.a.key, "", "late@example.com", identity.Viewer)
	w.db.Exec(t, `UPDATE app.users SET invitation_expires_at = now() WHERE id = $1`, late.text("id"))
	w.accept(w.token("late"), late.text("token")).refused(t, http.StatusGone, "invitation_expired")
	if shown := w.call(w.a.owner, "GET", "/v1/invitations/"+late.text("id"), "").want(t, http.StatusOK); shown.text("status") != "expired" {
		t.Errorf("shown %s", shown.raw)
	}
	renewed := w.invite(w.a.key, "", "late@example.com", identity.Member)
	if renewed.text("id") != late.text("id") || renewed.text("role") != "member" {
		t.Errorf("renewed %s", renewed.raw)
	}
	w.accept(w.token("late"), late.text("token")).refused(t, http.StatusNotFound, "not_found")

	if gone := w.call(w.a.owner, "DELETE", "/v1/invitations/"+late.text("id"), "").want(t, http.StatusOK); gone.text("status") != "withdrawn" {
		t.Errorf("withdrawn %s", gone.raw)
	}
	w.accept(w.token("late"), renewed.text("token")).refused(t, http.StatusGone, "invitation_withdrawn")
	w.call(w.a.owner, "DELETE", "/v1/invitations/"+late.text("id"), "").want(t, http.StatusOK)

	// Who belongs somewhere belongs nowhere else.
	w.accept(ada, w.invite(w.b.owner, "", "ada@example.com", identity.Member).text("token")).refused(t, http.StatusConflict, "already_registered")
}

func TestATenantInvitesNoMoreThanItsShare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	invite := func(by, email string) answer {
		t.Helper()
		return w.call(by, "POST", "/v1/invitations", fmt.Sprintf(`{"email":%q,"role":"viewer"}`, email))
	}
	mails := func() int {
		return testenv.Value[int](t, w.db, `SELECT count(*) FROM app.mails WHERE kind = 'invitation' AND tenant_id = '`+w.a.id+`'`)
	}
	for range 5 {
		invite(w.a.owner, "ada@example.com").want(t, http.StatusCreated)
	}
	before := mails()
	if a := invite(w.a.owner, "ada@example.com").refused(t, http.StatusTooManyRequests, "rate_limited"); a.number("retry_after_seconds") < 86_000 || mails() != before {
		t.Errorf("the sixth to one address: %s", a.raw)
	}
	invite(w.b.owner, "ada@example.com").want(t, http.StatusCreated)
	// Withdrawn and invited again it is the same address.
	w.db.Exec(t, `UPDATE app.users SET status = 'removed', removed_at = now(), removed_by = 'test' WHERE email = 'ada@example.com' AND tenant_id = '`+w.a.id+`'`)
	invite(w.a.key, "ada@example.com").refused(t, http.StatusTooManyRequests, "rate_limited")

	w.db.Exec(t, `
		INSERT INTO app.users (tenant_id, id, email, role, status, token_hash, pepper_version, invited_by, invitation_expires_at)
		SELECT tenant_id, gen_random_uuid(), 'n' || n || '@example.com', role, status, token_hash, pepper_version, invited_by, invitation_expires_at
		  FROM app.users, generate_series(1, 98) n
		 WHERE id = '`+w.a.invitation+`'`)
	last := invite(w.a.owner, "last@example.com").want(t, http.StatusCreated)
	invite(w.a.owner, "one.more@example.com").refused(t, http.StatusConflict, "too_many_invitations")
	w.call(w.a.owner, "DELETE", "/v1/invitations/"+last.text("id"), "").want(t, http.StatusOK)
	invite(w.a.owner, "one.more@example.com").want(t, http.StatusCreated)
	w.invite(w.operator, w.a.id, "by.the.operator@example.com", identity.Viewer)

	w.db.Exec(t, `UPDATE app.users SET invitation_expires_at = now() WHERE status = 'invited'`)
	w.db.Exec(t, `
		INSERT INTO app.audit_entries
		SELECT (jsonb_populate_record(e, jsonb_build_object('seq', e.seq + 1000 + n))).*
		  FROM app.audit_entries e, generate_series(1, 200) n
		 WHERE e.action = 'invitation.created' AND (e.tenant_id, e.seq) IN (
		       SELECT tenant_id, min(seq) FROM app.audit_entries WHERE tenant_id = '`+w.a.id+`' AND action = 'invitation.created' GROUP BY 1)`)
	invite(w.a.owner, "tomorrow@example.com").refused(t, http.StatusTooManyRequests, "rate_limited")
	w.invite(w.operator, w.a.id, "tomorrow@example.com", identity.Viewer)
}

func TestAUserIsInvitedShownChangedAndRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.call(w.a.key, "POST", "/v1/users", `{"email":"ada@example.com","role":"admin"}`).want(t, http.StatusCreated)
	path := "/v1/users/" + made.text("id")
	if made.text("status") != "invited" || made.at("name") != nil || made.text("invitation_expires_at") == "" || made.text("invited_by") != "api_key:"+w.a.keyID {
		t.Errorf("made %s", made.raw)
	}
	if changed := w.call(w.a.owner, "PATCH", path, `{"role":"member"}`).want(t, http.StatusOK); changed.text("role") != "member" || changed.text("status") != "invited" {
		t.Errorf("changed %s", changed.raw)
	}
	ada := w.token("ada", map[string]any{"name": "Ada"})
	w.accept(ada, w.hidden(made.text("token"))).want(t, http.StatusOK)
	if shown := w.call(w.a.owner, "GET", path, "").want(t, http.StatusOK); shown.text("role") != "member" || shown.text("name") != "Ada" || shown.text("status") != "active" {
		t.Errorf("shown %s", shown.raw)
	}
	w.call(ada, "GET", "/v1/users", "").refused(t, http.StatusForbidden, "forbidden")
	w.call(w.a.owner, "PATCH", path, `{"role":"admin","name":null}`).want(t, http.StatusOK)
	w.call(ada, "GET", "/v1/users", "").want(t, http.StatusOK)

	removed := w.call(w.a.owner, "DELETE", path, "").want(t, http.StatusOK)
	if removed.text("status") != "removed" || removed.text("removed_by") != "user:"+w.a.user || removed.text("removed_at") == "" {
		t.Errorf("removed %s", removed.raw)
	}
	w.call(ada, "GET", "/v1/me", "").refused(t, http.StatusForbidden, "membership_revoked")
	if again := w.call(w.a.owner, "DELETE", path, "").want(t, http.StatusOK); again.raw != removed.raw {
		t.Errorf("removed again: %s", again.raw)
	}
	w.call(w.a.owner, "PATCH", path, `{"role":"viewer"}`).refused(t, http.StatusConflict, "user_removed")

	// Who was removed may come back, and go elsewhere.
	w.accept(ada, w.invite(w.b.owner, "", "ada@example.com", identity.Viewer).text("token")).want(t, http.StatusOK)
	if me := w.call(ada, "GET", "/v1/me", "").want(t, http.StatusOK); me.text("tenant_id") != w.b.id {
		t.Errorf("me is %s", me.raw)
	}
}

func TestNobodyGivesOrTakesARoleAboveTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss, bossID := w.join(w.a.id, "boss", identity.Admin)
	owner := "/v1/users/" + w.a.user
	for name, credential := range map[string]string{"an administrator": boss, "a key": w.a.key} {
		for _, c := range []struct{ method, path, body string }{
			{"POST", "/v1/users", `{"email":"x@example.com","role":"owner"}`},
			{"POST", "/v1/invitations", `{"email":"x@example.com","role":"owner"}`},
			{"PATCH", "/v1/users/" + bossID, `{"role":"owner"}`},
			{"PATCH", owner, `{"role":"viewer"}`},
			{"PATCH", owner, `{"name":"Nobody"}`},
			{"DELETE", owner, ""},
		} {
			if a := w.call(credential, c.method, c.path, c.body); a.status != http.StatusForbidden || a.text("code") != "forbidden" {
				t.Errorf("%s: %s %s %s answered %d %s", name, c.method, c.path, c.body, a.status, a.raw)
			}
		}
	}
	// What an owner offered an administrator does not replace.
	w.invite(w.a.owner, "", "heir@example.com", identity.Owner)
	w.call(boss, "POST", "/v1/invitations", `{"email":"heir@example.com","role":"viewer"}`).refused(t, http.StatusForbidden, "forbidden")

	// An administrator may make a key with every scope of the tenant, and none of the operator's; an owner of the operator's all.
	key := w.call(boss, "POST", "/v1/api-keys", `{"name":"x","scopes":["licenses:write","audit:read"]}`).want(t, http.StatusCreated)
	w.hidden(key.text("api_key"))
	if key.text("created_by") != "user:"+bossID {
		t.Errorf("made %s", key.raw)
	}
	w.call(boss, "POST", "/v1/api-keys", `{"name":"x","scopes":["tenants:read"]}`).refused(t, http.StatusUnprocessableEntity, "invalid_request")
	staff, _ := w.join("", "staff", identity.Owner)
	w.hidden(w.call(staff, "POST", "/v1/api-keys", `{"name":"x","scopes":["tenants:read"]}`).want(t, http.StatusCreated).text("api_key"))
}

func TestTheLastOwnerStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner := "/v1/users/" + w.a.user
	w.call(w.a.owner, "PATCH", owner, `{"role":"admin"}`).refused(t, http.StatusConflict, "last_owner")
	w.call(w.a.owner, "DELETE", owner, "").refused(t, http.StatusConflict, "last_owner")
	w.operate("DELETE", owner+"?tenant_id="+w.a.id, "").refused(t, http.StatusConflict, "last_owner")
	w.invite(w.a.owner, "", "second@example.com", identity.Owner)
	w.call(w.a.owner, "DELETE", owner, "").refused(t, http.StatusConflict, "last_owner") // who is invited is none yet
	w.call(w.a.owner, "PATCH", owner, `{"name":"Olivia"}`).want(t, http.StatusOK)
	second, _ := w.join(w.a.id, "second", identity.Owner)
	w.call(w.a.owner, "PATCH", owner, `{"role":"admin"}`).want(t, http.StatusOK)
	w.call(second, "DELETE", owner, "").want(t, http.StatusOK)
}

// Outcome: one of the two is removed, by the other; the other request is refused as that of somebody who was removed.
func TestOfTwoOwnersWhoRemoveEachOtherOneStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for round := range 8 {
		tokens, ids := [2]string{}, [2]string{}
		tenant := w.operate("POST", "/v1/tenants", fmt.Sprintf(`{"name":"round %d"}`, round)).want(t, http.StatusCreated).text("id")
		for i := range tokens {
			tokens[i], ids[i] = w.join(tenant, fmt.Sprintf("owner-%d-%d", round, i), identity.Owner)
		}
		answers := [2]answer{}
		var both sync.WaitGroup
		for i := range tokens {
			both.Go(func() { answers[i] = w.call(tokens[i], "DELETE", "/v1/users/"+ids[1-i], "") })
		}
		both.Wait()
		slices.SortFunc(answers[:], func(x, y answer) int { return x.status - y.status })
		answers[0].want(t, http.StatusOK)
		answers[1].refused(t, http.StatusForbidden, "membership_revoked")
		if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.users WHERE tenant_id = $1 AND role = 'owner' AND status = 'active'`, tenant); n != 1 {
			t.Errorf("%d owners are left", n)
		}
	}
}

// Outcome: one of them is the user, whoever is first; to the others the invitation is used.
func TestAnInvitationAcceptedTwiceAtOnceIsAcceptedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for round := range 5 {
		name := fmt.Sprint("ada-", round)
		invitation := w.invite(w.a.owner, "", name+"@example.com", identity.Member).text("token")
		twin := w.token(name, map[string]any{"sub": "twin of " + name})
		tokens := []string{w.token(name), w.token(name), twin, twin}
		accepted := w.atOnce(tokens, func(token string) answer { return w.accept(token, invitation) })
		if len(accepted) != 2 || accepted["200 "] != 1 || accepted["409 invitation_used"] != 3 {
			t.Errorf("answered %v", accepted)
		}
	}
	// One person, invited to two organisations, comes into one of them.
	a, b := w.invite(w.a.owner, "", "eve@example.com", identity.Member).text("token"), w.invite(w.b.owner, "", "eve@example.com", identity.Member).text("token")
	eve := w.token("eve")
	accepted := w.atOnce([]string{a, b}, func(invitation string) answer { return w.accept(eve, invitation) })
	if accepted["200 "] != 1 || accepted["409 already_registered"] != 1 {
		t.Errorf("answered %v", accepted)
	}
}

// atOnce makes calls at one time, and counts their answers.
func (w *world) atOnce(with []string, call func(string) answer) map[string]int {
	var all sync.WaitGroup
	var mu sync.Mutex
	count := map[string]int{}
	for _, one := range with {
		all.Go(func() {
			a := call(one)
			mu.Lock()
			defer mu.Unlock()
			count[fmt.Sprint(a.status, " ", a.text("code"))]++
		})
	}
	all.Wait()
	return count
}

// Outcome: a change of people is decided by the caller's role at the moment when it is made, everything else by that at
// the request's beginning.
func TestARoleThatChangesDuringARequestDecidesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss, bossID := w.join(w.a.id, "boss", identity.Admin)
	_, member := w.join(w.a.id, "member", identity.Member)
	for change, code := range map[string]string{
		`UPDATE app.users SET role = 'viewer' WHERE id = $1`:                                                  "forbidden",
		`UPDATE app.users SET status = 'removed', removed_at = now(), role = 'admin' WHERE id = $1`:           "membership_revoked",
		`UPDATE app.users SET status = 'active', removed_at = NULL, role = 'admin', name = 'x' WHERE id = $1`: "",
	} {
		w.db.Exec(t, `UPDATE app.users SET role = 'admin', status = 'active', removed_at = NULL WHERE id = $1`, bossID)
		other := w.db.Owner(t)
		tx, err := other.Begin(t.Context())
		w.must(err)
		_, err = tx.Exec(t.Context(), change, bossID)
		w.must(err)
		done := make(chan answer)
		go func() { done <- w.call(boss, "PATCH", "/v1/users/"+member, `{"name":"Changed"}`) }()
		testenv.Eventually(t, 900*time.Millisecond, func() error {
			if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'usher_admin' AND datname = current_database()`); n != 1 {
				return fmt.Errorf("%d requests wait", n)
			}
			return nil
		})
		w.must(tx.Commit(t.Context()))
		if a := <-done; code == "" {
			a.want(t, http.StatusOK)
		} else {
			a.refused(t, http.StatusForbidden, code)
		}
	}
}

func TestAMemberEvictsTheirOwnSessionsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, id := w.join(w.a.id, "ada", identity.Member)
	viewer, _ := w.join(w.a.id, "vera", identity.Viewer)
	sits := func(device, user string) string {
		g, err := w.seats.Acquire(t.Context(), tenancy.Verified(uuid.MustParse(w.a.id)), uuid.MustParse(w.a.license),
			seat.Holder{Key: "device:" + device, HardwareID: device, User: user, Version: "2.1"}, seat.Ask{})
		w.must(err)
		return g.Ref.Session.String()
	}
	evict := func(token, session string) answer {
		return w.call(token, "POST", "/v1/sessions/"+session+"/evict", `{"reason":"mine"}`)
	}
	byAddress, byID, others := sits("desk", "Ada@Example.com"), sits("laptop", id), sits("phone", "vera@example.com")
	evict(viewer, others).refused(t, http.StatusForbidden, "forbidden")
	evict(ada, others).refused(t, http.StatusForbidden, "forbidden")
	evict(ada, w.sit(w.b, "desk").Session.String()).refused(t, http.StatusNotFound, "not_found")
	for _, session := range []string{byAddress, byID} {
		if a := evict(ada, session).want(t, http.StatusOK); a.text("status") != "evicted" || a.text("ended_by") != "user:"+id || a.text("end_reason") != "mine" {
			t.Errorf("evicted %s", a.raw)
		}
	}
	boss, _ := w.join(w.a.id, "boss", identity.Admin)
	evict(boss, others).want(t, http.StatusOK)
}

func TestAnAPIKeyIsRotatedWithAnOverlap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := "/v1/api-keys/" + w.a.keyID
	rotated := w.call(w.a.owner, "POST", path+"/rotate", `{"overlap_seconds":3600}`).want(t, http.StatusCreated)
	key := w.hidden(rotated.text("api_key"))
	if key == w.a.key || rotated.text("id") == w.a.keyID || rotated.text("name") != "automation" || len(rotated.at("scopes").([]any)) != len(identity.TenantScopes()) || rotated.at("expires_at") != nil {
		t.Errorf("rotated %s", rotated.raw)
	}
	for _, living := range []string{w.a.key, key} {
		w.call(living, "GET", "/v1/licenses", "").want(t, http.StatusOK)
	}
	listed := w.call(w.a.owner, "GET", "/v1/api-keys", "").want(t, http.StatusOK)
	old, err := time.Parse(time.RFC3339, listed.text("items.0.expires_at"))
	if err != nil || time.Until(old) > time.Hour || time.Until(old) < 59*time.Minute || listed.text("items.0.rotated_at") == "" || listed.text("items.0.last_used_at") == "" {
		t.Errorf("listed %s", listed.raw)
	}
	w.call(w.a.owner, "POST", path+"/rotate", "").refused(t, http.StatusConflict, "api_key_ended")
	path = "/v1/api-keys/" + rotated.text("id")
	next := w.call(key, "POST", path+"/rotate", `{"overlap_seconds":0}`).want(t, http.StatusCreated)
	w.hidden(next.text("api_key"))
	w.call(key, "GET", "/v1/licenses", "").refused(t, http.StatusUnauthorized, "api_key_invalid")
	w.call(w.a.owner, "DELETE", "/v1/api-keys/"+next.text("id"), "").want(t, http.StatusOK)
	w.call(w.a.owner, "POST", "/v1/api-keys/"+next.text("id")+"/rotate", "").refused(t, http.StatusConflict, "api_key_ended")

	// Nobody rotates a key that may more than they.
	clerk := w.hidden(w.makeKey(w.a.owner, "", identity.UsersWrite).text("api_key"))
	full := w.makeKey(w.a.owner, "", identity.LicensesWrite)
	w.hidden(full.text("api_key"))
	w.call(clerk, "POST", "/v1/api-keys/"+full.text("id")+"/rotate", "").refused(t, http.StatusForbidden, "forbidden")
}
