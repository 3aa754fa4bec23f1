package identity_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

// store is a database with the operator and two customers.
type store struct {
	*testenv.DB
	admin    *tenancy.DB // as function admin logs in
	tenants  *identity.Tenants
	verifier *identity.Verifier
	operator tenancy.ID
	a, b     tenancy.ID
	log      *testenv.LogCapture
}

func peppers(t testing.TB, versions ...int) secret.Peppers {
	t.Helper()
	entries := make([]string, len(versions))
	for i, v := range versions {
		entries[i] = fmt.Sprintf("%d:%s", v, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(v)}, 32)))
	}
	var p secret.Peppers
	must(t, p.UnmarshalText([]byte(strings.Join(entries, ","))))
	return p
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := &store{DB: testenv.Postgres(t), log: testenv.Logs(t)}
	s.admin = s.as(t, "usher_admin")
	s.tenants = identity.NewTenants(s.as(t, "usher_operator"))
	s.verifier = identity.New(identity.Config{Peppers: peppers(t, 1)}, s.admin)
	var err error
	s.operator, err = s.tenants.EnsureOperator(t.Context(), "The vendor")
	must(t, err)
	s.a, s.b = s.customer(t, "A"), s.customer(t, "B")
	return s
}

func (s *store) as(t testing.TB, role string) *tenancy.DB {
	t.Helper()
	db, err := tenancy.OpenURL(context.Background(), s.URL(role), tenancy.Config{}, s.log.Logger)
	must(t, err)
	t.Cleanup(db.Close)
	return db
}

func (s *store) customer(t testing.TB, name string) tenancy.ID {
	t.Helper()
	made, err := s.tenants.Create(t.Context(), uuid.Nil, name, "")
	must(t, err)
	return tenancy.Verified(made.ID)
}

// key makes an API key and answers what its owner is shown.
func (s *store) key(t testing.TB, tenant tenancy.ID, expires *time.Time, scopes ...identity.Scope) (identity.APIKey, string) {
	t.Helper()
	var made identity.APIKey
	var key secret.Key
	must(t, s.admin.As(t.Context(), tenant, func(tx tenancy.Tx) (err error) {
		made, key, err = s.verifier.CreateAPIKey(t.Context(), tx, tenant, "robot", scopes, expires, "test")
		return err
	}))
	return made, key.Reveal()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFault(t testing.TB, err error, kind fault.Kind, code string) *fault.Error {
	t.Helper()
	f := fault.As(err)
	if f == nil || f.Kind != kind || f.Code != code {
		t.Fatalf("error %v, want %s %s", err, kind, code)
	}
	return f
}

func TestAnAPIKeyNamesItsTenantAndScopes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, key := s.key(t, s.a, nil, identity.LicensesRead, identity.SessionsWrite)
	if !strings.HasPrefix(key, "ush_") || made.Hint != key[:8]+"…"+key[len(key)-4:] {
		t.Errorf("made %+v", made)
	}
	p, err := s.verifier.APIKey(t.Context(), key)
	must(t, err)
	if p.Tenant != s.a || p.Operator || p.APIKey != made.ID || p.Name != "robot" || p.By() != "api_key:"+made.ID.String() {
		t.Errorf("principal %+v", p)
	}
	must(t, p.Allow(identity.Need{Scope: identity.LicensesRead, Role: identity.Owner}))
	must(t, p.Allow(identity.Need{Scope: identity.SessionsWrite}))
	wantFault(t, p.Allow(identity.Need{Scope: identity.LicensesWrite}), fault.KindForbidden, "forbidden")
	wantFault(t, p.Allow(identity.Need{Scope: identity.LicensesRead, Operator: true}), fault.KindForbidden, "forbidden")
	s.log.Hides(t, key)
	if stored := testenv.Value[string](t, s.DB, `SELECT string_agg(k::text, ' ') FROM app.api_keys k`); strings.Contains(stored, key[8:28]) {
		t.Error("the key is stored as it is")
	}
}

func TestTheOperatorsKeyIsTheOperators(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, key := s.key(t, s.operator, nil, identity.OperatorScopes()...)
	p, err := s.verifier.APIKey(t.Context(), key)
	must(t, err)
	if !p.Operator || p.Tenant.UUID() != identity.OperatorID {
		t.Errorf("principal %+v", p)
	}
	must(t, p.Allow(identity.Need{Scope: identity.CatalogWrite, Operator: true}))
	wantFault(t, identity.Principal{Operator: true}.Allow(identity.Need{Scope: identity.CatalogWrite, Operator: true}), fault.KindForbidden, "forbidden")
	again, err := s.tenants.EnsureOperator(t.Context(), "The vendor")
	if err != nil || again != s.operator {
		t.Errorf("the operator is made again: %v, %v", again, err)
	}
}

func TestABadAPIKeyIsRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	soon := time.Now().Add(300 * time.Millisecond)
	_, expiring := s.key(t, s.a, &soon, identity.LicensesRead)
	revoked, revokedKey := s.key(t, s.a, nil, identity.LicensesRead)
	for range 2 { // again is the same
		must(t, s.admin.As(t.Context(), s.a, func(tx tenancy.Tx) error {
			_, err := identity.RevokeAPIKey(t.Context(), tx, s.a, revoked.ID)
			return err
		}))
	}
	_, good := s.key(t, s.a, nil, identity.LicensesRead)
	for name, key := range map[string]string{
		"none": "", "no key": "hello", "a licence key": "USH-00000-00000-00000-00000-00000-00000",
		"a seat token": "ust_" + strings.Repeat("A", 146), "mistyped": "ush_0" + good[4:len(good)-1], "revoked": revokedKey,
	} {
		p, err := s.verifier.APIKey(t.Context(), key)
		wantFault(t, err, fault.KindUnauthenticated, "api_key_invalid")
		if p.Tenant != (tenancy.ID{}) || p.Operator || p.Scopes != nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
	testenv.Eventually(t, 5*time.Second, func() error {
		_, err := s.verifier.APIKey(t.Context(), expiring)
		if f := fault.As(err); f != nil && f.Code == "api_key_invalid" && strings.Contains(f.Detail, "expired") {
			return nil
		}
		return fmt.Errorf("an expired key answers %w", err)
	})
	status := "suspended"
	_, err := s.tenants.Change(t.Context(), s.a.UUID(), identity.TenantChange{Status: &status, Reason: "unpaid", By: "test"})
	must(t, err)
	_, err = s.verifier.APIKey(t.Context(), good)
	wantFault(t, err, fault.KindForbidden, "tenant_suspended")
}

func TestAnUnknownAPIKeyCostsTheSameLookUps(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, good := s.key(t, s.a, nil, identity.LicensesRead)
	s.Exec(t, `REVOKE SELECT ON app.api_keys FROM usher_admin`)
	for _, key := range []string{good, "hello", good[:len(good)-1] + "~"} {
		if _, err := s.verifier.APIKey(t.Context(), key); tenancy.Code(err) != "42501" {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestTheLastUseIsKeptToTheMinute(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, key := s.key(t, s.a, nil, identity.LicensesRead)
	if made.LastUsedAt != nil {
		t.Errorf("a new key was used at %v", made.LastUsedAt)
	}
	use := func() time.Time {
		if _, err := s.verifier.APIKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		return testenv.Value[time.Time](t, s.DB, `SELECT last_used_at FROM app.api_keys WHERE id = $1`, made.ID)
	}
	first := use()
	if second := use(); !second.Equal(first) {
		t.Error("a use within the minute is written")
	}
	s.Exec(t, `UPDATE app.api_keys SET last_used_at = now() - interval '61 seconds'`)
	if third := use(); third.Before(first) {
		t.Error("a use after a minute is not written")
	}
}

func TestAKeyUnderAnOlderPepperIsKnown(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, key := s.key(t, s.a, nil, identity.LicensesRead)
	if _, err := identity.New(identity.Config{Peppers: peppers(t, 2, 1)}, s.admin).APIKey(t.Context(), key); err != nil {
		t.Error(err)
	}
	_, err := identity.New(identity.Config{Peppers: peppers(t, 2)}, s.admin).APIKey(t.Context(), key)
	wantFault(t, err, fault.KindUnauthenticated, "api_key_invalid")
}

func TestAPIKeysAreMadeListedAndRevokedWithinTheTenant(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var want []uuid.UUID
	for range 3 {
		made, _ := s.key(t, s.a, nil, identity.AuditRead, identity.UsageWrite)
		want = append(want, made.ID)
	}
	s.key(t, s.b, nil, identity.AuditRead)
	list := func(tenant tenancy.ID, after uuid.UUID, limit int) (keys []identity.APIKey) {
		must(t, s.admin.As(t.Context(), tenant, func(tx tenancy.Tx) (err error) {
			keys, err = identity.ListAPIKeys(t.Context(), tx, tenant, after, limit)
			return err
		}))
		return keys
	}
	page := append(list(s.a, uuid.Nil, 2), list(s.a, want[1], 2)...)
	if len(page) != 3 {
		t.Fatalf("listed %d", len(page))
	}
	for i, k := range page {
		if k.ID != want[i] || !slices.Equal(k.Scopes, []identity.Scope{"audit:read", "usage:write"}) || k.CreatedBy != "test" {
			t.Errorf("listed %+v", k)
		}
	}
	err := s.admin.As(t.Context(), s.b, func(tx tenancy.Tx) error {
		_, err := identity.RevokeAPIKey(t.Context(), tx, s.b, want[0])
		return err
	})
	wantFault(t, err, fault.KindNotFound, "not_found")
	for name, key := range map[string]string{"no name": "", "a long name": strings.Repeat("ä", 201)} {
		err := s.admin.As(t.Context(), s.a, func(tx tenancy.Tx) error {
			_, _, err := s.verifier.CreateAPIKey(t.Context(), tx, s.a, key, []identity.Scope{identity.AuditRead}, nil, "test")
			return err
		})
		if f := fault.As(err); f == nil || f.Kind != fault.KindInvalid || len(f.Fields) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNobodyGrantsWhatTheyDoNotHave(t *testing.T) {
	t.Parallel()
	tenant := identity.Principal{Scopes: identity.TenantScopes()}
	operator := identity.Principal{Operator: true, Scopes: identity.OperatorScopes()}
	reader := identity.Principal{Scopes: []identity.Scope{identity.UsersWrite, identity.LicensesRead}}
	must(t, tenant.AllowGrant(identity.TenantScopes(), false))
	must(t, operator.AllowGrant(identity.TenantScopes(), false))
	must(t, operator.AllowGrant(identity.OperatorScopes(), true))
	wantFault(t, reader.AllowGrant([]identity.Scope{identity.LicensesRead, identity.LicensesWrite}, false), fault.KindForbidden, "forbidden")
	for name, scopes := range map[string][]identity.Scope{
		"none": {}, "unknown": {"licenses:delete"}, "the operator's": {identity.TenantsRead}, "twice": {identity.AuditRead, identity.AuditRead},
	} {
		if f := fault.As(operator.AllowGrant(scopes, false)); f == nil || f.Kind != fault.KindInvalid || len(f.Fields) != 1 {
			t.Errorf("%s: %v", name, f)
		}
	}
}

func TestOnlyTheOperatorActsForOthers(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	operator := identity.Principal{Tenant: s.operator, Operator: true}
	tenant := identity.Principal{Tenant: s.a}
	for name, c := range map[string]struct {
		who       identity.Principal
		requested uuid.UUID
		want      tenancy.ID
	}{
		"nobody named":                {tenant, uuid.Nil, s.a},
		"oneself":                     {tenant, s.a.UUID(), s.a},
		"another":                     {tenant, s.b.UUID(), tenancy.ID{}},
		"nobody there":                {tenant, uuid.New(), tenancy.ID{}},
		"the operator":                {tenant, identity.OperatorID, tenancy.ID{}},
		"the operator for itself":     {operator, uuid.Nil, s.operator},
		"the operator for a customer": {operator, s.b.UUID(), s.b},
		"the operator for nobody":     {operator, uuid.New(), tenancy.ID{}},
	} {
		got, err := s.verifier.For(t.Context(), c.who, c.requested)
		if got != c.want || (err == nil) != (c.want != tenancy.ID{}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if err != nil {
			wantFault(t, err, fault.KindNotFound, "not_found")
		}
	}
}

func TestTenantsAreTheOperatorsToMakeAndChange(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, err := s.tenants.Create(t.Context(), uuid.Nil, "Örsted & Söhne, Inc.", "")
	if err != nil || made.Slug != "rsted-s-hne-inc" || made.Status != "active" {
		t.Errorf("made %+v, %v", made, err)
	}
	twin, err := s.tenants.Create(t.Context(), uuid.Nil, "Örsted & Söhne, Inc.", "")
	if err != nil || twin.ID == made.ID || !strings.HasPrefix(twin.Slug, "rsted-s-hne-inc-") {
		t.Errorf("its twin %+v, %v", twin, err)
	}
	long, err := s.tenants.Create(t.Context(), uuid.Nil, strings.Repeat("long name ", 20), "")
	if err != nil || len(long.Slug) > 63 {
		t.Errorf("a long name: %+v, %v", long, err)
	}
	if again, err := s.tenants.Create(t.Context(), uuid.Nil, strings.Repeat("long name ", 20), ""); err != nil || len(again.Slug) > 63 {
		t.Errorf("a long name again: %+v, %v", again, err)
	}
	if other, err := s.tenants.Create(t.Context(), uuid.Nil, "会社", ""); err != nil || other.Slug != "tenant" {
		t.Errorf("a name without ASCII: %+v, %v", other, err)
	}
	_, err = s.tenants.Create(t.Context(), uuid.Nil, "Other", made.Slug)
	wantFault(t, err, fault.KindConflict, "slug_taken")
	_, err = s.tenants.Create(t.Context(), uuid.Nil, "", "Bad Slug")
	if f := wantFault(t, err, fault.KindInvalid, "invalid_request"); len(f.Fields) != 2 {
		t.Errorf("faults %+v", f.Fields)
	}

	name, suspended, active, odd, empty := "New name", "suspended", "active", "asleep", ""
	changed, err := s.tenants.Change(t.Context(), made.ID, identity.TenantChange{Name: &name})
	if err != nil || changed.Name != name || changed.Slug != made.Slug {
		t.Errorf("changed %+v, %v", changed, err)
	}
	for _, reason := range []string{"unpaid", "again"} {
		changed, err = s.tenants.Change(t.Context(), made.ID, identity.TenantChange{Status: &suspended, Reason: reason, By: "me"})
		if err != nil || changed.Status != "suspended" || changed.StatusReason != "unpaid" || changed.StatusBy != "me" {
			t.Errorf("suspended %+v, %v", changed, err)
		}
	}
	changed, err = s.tenants.Change(t.Context(), made.ID, identity.TenantChange{Status: &active, By: "you"})
	if err != nil || changed.Status != "active" || changed.StatusReason != "" || changed.StatusBy != "you" {
		t.Errorf("reinstated %+v, %v", changed, err)
	}
	for name, change := range map[string]identity.TenantChange{"status": {Status: &odd}, "name": {Name: &empty}} {
		_, err := s.tenants.Change(t.Context(), made.ID, change)
		if f := wantFault(t, err, fault.KindInvalid, "invalid_request"); len(f.Fields) != 1 || f.Fields[0].Field != name {
			t.Errorf("faults %+v", f.Fields)
		}
	}
	if again, err := s.tenants.Create(t.Context(), made.ID, "Örsted & Söhne, Inc.", ""); err != nil || again != changed {
		t.Errorf("made again: %+v, %v, want %+v", again, err, changed)
	}
	read, err := s.tenants.Read(t.Context(), made.ID)
	if err != nil || read.Name != name || read.Slug != made.Slug {
		t.Errorf("read %+v, %v", read, err)
	}
	for _, id := range []uuid.UUID{uuid.New(), identity.OperatorID} {
		_, err := s.tenants.Read(t.Context(), id)
		wantFault(t, err, fault.KindNotFound, "not_found")
		_, err = s.tenants.Change(t.Context(), id, identity.TenantChange{Status: &suspended})
		wantFault(t, err, fault.KindNotFound, "not_found")
	}
}

func TestTenantsAreListedWithoutTheOperator(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	first, err := s.tenants.List(t.Context(), uuid.Nil, 1)
	must(t, err)
	rest, err := s.tenants.List(t.Context(), first[0].ID, 10)
	must(t, err)
	if len(first) != 1 || first[0].ID != s.a.UUID() || len(rest) != 1 || rest[0].ID != s.b.UUID() {
		t.Errorf("listed %+v, then %+v", first, rest)
	}
	if _, err := identity.NewTenants(s.admin).Create(t.Context(), uuid.Nil, "X", ""); tenancy.Code(err) != "42501" {
		t.Errorf("another role than the operator's makes a tenant: %v", err)
	}
	if _, err := identity.NewTenants(s.admin).List(t.Context(), uuid.Nil, 1); tenancy.Code(err) != "42501" {
		t.Errorf("another role than the operator's lists tenants: %v", err)
	}
}

func TestASuspendedTenantsLicencesAreNumberedAnew(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	license := uuid.New()
	s.Exec(t, `INSERT INTO app.products (code, name) VALUES ('p', 'P')`)
	s.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('p', 'p', 'P')`)
	s.Exec(t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, ttl_seconds, seat_per, offline_grace_seconds, drain_seconds)
		VALUES ($1, $2, 'p', 'p', 1, 60, 'device', 0, 0)`, s.a.UUID(), license)
	version := func() int64 {
		return testenv.Value[int64](t, s.DB, `SELECT pool_version FROM app.licenses WHERE id = $1`, license)
	}
	before := version()
	suspended := "suspended"
	_, err := s.tenants.Change(t.Context(), s.a.UUID(), identity.TenantChange{Status: &suspended, Reason: "r", By: "b"})
	must(t, err)
	words := testenv.Value[int64](t, s.DB, `SELECT count(*) FROM app.outbox WHERE subject_id = $1 AND topic = 'license.changed'`, license)
	if version() != before+1 || words != 1 {
		t.Errorf("version %d after %d, %d words in the outbox", version(), before, words)
	}
}
