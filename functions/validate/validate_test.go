package validate_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/validate"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/testenv"
)

type (
	body    = functiontest.Body
	message = functiontest.Message
)

// answer asks and reads the answer, which is always a 200.
func answer(t *testing.T, d *functiontest.Door, b body) validate.Answer {
	t.Helper()
	return functiontest.Read[validate.Answer](t, d.Send(t, message{Body: b}).Want(t, http.StatusOK))
}

func TestAGoodKeyIsValidAndItsReceiptVerifiesWithThePublishedKeysAlone(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	l := w.Sell(t, func(terms *license.Terms) { terms.Features, terms.Versions = []string{"export"}, ">=1.0 <2.0" })
	w.Seating(t).Sit(t, l, "here")
	began := time.Now()

	got := answer(t, w.Validate(t), body{
		"license_key": l.Key, "hardware_id": "here", "version": "1.2.0", "product": functiontest.Product,
		"features": []string{"export"}, "nonce": "n-1",
	})
	if !got.Valid || got.Code != "valid" || got.Receipt == nil || got.Nonce == nil || *got.Nonce != "n-1" {
		t.Fatalf("answered %+v", got)
	}
	if l := got.License; l == nil || l.Status != "active" || l.ActiveSeats != 1 || l.MaxSeats != 3 || l.Plan != functiontest.Plan ||
		!slices.Equal(l.Features, []string{"export"}) || l.ExpiresAt != nil || l.GraceUntil != nil {
		t.Errorf("the licence is told as %+v", l)
	}

	r := w.Verify(t, *got.Receipt, began)
	if r.Issuer != functiontest.Issuer || r.License != l.ID.String() || r.Product != functiontest.Product || r.Tenant != w.Tenant.String() ||
		r.HardwareHash != receipt.HashHardware("here") || r.Nonce != "n-1" || r.Plan != functiontest.Plan || r.Versions != ">=1.0 <2.0" {
		t.Errorf("the receipt says %+v", r)
	}
	if r.Session != "" || r.Seat != 0 {
		t.Errorf("a validate receipt names the seat %d of session %s", r.Seat, r.Session)
	}
	if d := r.OfflineUntil.Sub(began); d < 71*time.Hour || d > 73*time.Hour {
		t.Errorf("the receipt lives for %s, want the plan's offline grace of 72 h", d)
	}
	if _, err := w.Verifier(t, began.Add(74*time.Hour)).Receipt(*got.Receipt); !errors.Is(err, receipt.ErrExpired) {
		t.Errorf("when it has expired, the receipt is refused with %v", err)
	}
}

func TestAReceiptNeverOutlivesItsLicence(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	ends := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	l := w.Sell(t, func(terms *license.Terms) { terms.ExpiresAt = &ends })
	got := answer(t, w.Validate(t), functiontest.Ask(l, "here"))
	r := w.Verify(t, *got.Receipt, time.Now())
	if r.OfflineUntil.After(ends) {
		t.Errorf("the receipt is good until %s, the licence until %s", r.OfflineUntil, ends)
	}
}

// names are the checks in the order of the contract's codes.
var names = []string{
	"license_key", "tenant", "revocation", "suspension", "start", "expiry", "product", "version", "features", "hardware", "devices",
}

func TestEveryReasonToRefuseIsToldUnderItsCodeBesideAllOtherChecks(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door, seating := w.Validate(t), w.Seating(t)
	past, before, future := time.Now().Add(-time.Hour), time.Now().Add(-2*time.Hour), time.Now().Add(time.Hour)
	for code, c := range map[string]struct {
		terms func(*license.Terms)
		act   func(functiontest.License)
		ask   body
		check string
	}{
		"license_revoked":     {act: func(l functiontest.License) { w.Revoke(t, l) }, check: "revocation"},
		"license_suspended":   {act: func(l functiontest.License) { w.Suspend(t, l) }, check: "suspension"},
		"license_not_started": {terms: func(l *license.Terms) { l.StartsAt = &future }, check: "start"},
		"license_expired":     {terms: func(l *license.Terms) { l.ExpiresAt, l.GraceUntil = &before, &past }, check: "expiry"},
		"product_mismatch":    {ask: body{"product": "another"}, check: "product"},
		"version_not_entitled": {
			terms: func(l *license.Terms) { l.Versions = ">=2.0 <4.0" }, ask: body{"version": "4.0.0"}, check: "version",
		},
		"feature_not_entitled": {
			terms: func(l *license.Terms) { l.Features = []string{"export"} }, ask: body{"features": []string{"export", "print"}}, check: "features",
		},
		"hardware_not_allowed": {terms: func(l *license.Terms) { l.AllowedHardware = []string{"there"} }, check: "hardware"},
		"too_many_devices": {
			terms: func(l *license.Terms) { l.MaxDevices = 1 },
			act:   func(l functiontest.License) { seating.Sit(t, l, "another") }, check: "devices",
		},
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			l := w.Sell(t, c.terms)
			if c.act != nil {
				c.act(l)
			}
			ask := functiontest.Ask(l, "here")
			maps.Copy(ask, c.ask)
			got := answer(t, door, ask)
			if got.Valid || got.Code != code || got.Receipt != nil || got.License == nil {
				t.Errorf("answered %+v", got)
			}
			wantOnlyFailing(t, got.Checks, c.check, code)
		})
	}
}

// wantOnlyFailing wants all checks in order, and one of them failing.
func wantOnlyFailing(t *testing.T, checks []license.Check, failing, code string) {
	t.Helper()
	var got []string
	for _, c := range checks {
		got = append(got, c.Name)
		if ok := c.Name != failing; c.OK != ok || ok && c.Code != "valid" || !ok && c.Code != code || c.Detail == "" {
			t.Errorf("the check %+v; only %s is to fail", c, failing)
		}
	}
	if !slices.Equal(got, names) {
		t.Errorf("the checks are %v, want %v", got, names)
	}
}

func TestASuspendedTenantsLicenceIsRefusedUntilTheTenantIsReinstated(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door, l := w.Validate(t), w.Seats(t, 1, time.Minute)
	w.SetTenant(t, "suspended", l)
	got := answer(t, door, functiontest.Ask(l, "here"))
	if got.Valid || got.Code != "tenant_suspended" {
		t.Errorf("answered %+v", got)
	}
	wantOnlyFailing(t, got.Checks, "tenant", "tenant_suspended")
	w.SetTenant(t, "active", l)
	if got := answer(t, door, functiontest.Ask(l, "here")); !got.Valid {
		t.Errorf("answered %+v after the tenant was reinstated", got)
	}
}

func TestEveryFailingCheckIsToldAtOnceAndTheFirstGivesTheCode(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	before, past := time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	l := w.Sell(t, func(l *license.Terms) {
		l.ExpiresAt, l.GraceUntil, l.Versions, l.AllowedHardware = &before, &past, "<2.0", []string{"there"}
	})
	w.Suspend(t, l)
	got := answer(t, w.Validate(t), body{
		"license_key": l.Key, "hardware_id": "here", "version": "not a version", "product": "another", "features": []string{"print"},
	})
	if got.Code != "license_suspended" || got.Valid {
		t.Errorf("answered %s, want the first failing check's code", got.Code)
	}
	var failing []string
	for _, c := range got.Checks {
		if !c.OK {
			failing = append(failing, c.Name)
		}
	}
	if want := []string{"suspension", "expiry", "product", "version", "features", "hardware"}; !slices.Equal(failing, want) {
		t.Errorf("failing are %v, want %v", failing, want)
	}
}

func TestALicenceInItsGraceIsValidAndSaysSo(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	l := w.Sell(t, func(l *license.Terms) { l.ExpiresAt, l.GraceUntil = &past, &future })
	got := answer(t, w.Validate(t), functiontest.Ask(l, "here"))
	if !got.Valid || got.Code != "in_grace" || got.License.Status != "in_grace" || got.Receipt == nil {
		t.Errorf("answered %+v", got)
	}
}

func TestAnUnknownKeyIsNotFoundWithoutALicence(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door := w.Validate(t)
	sold := w.Seats(t, 1, time.Minute)
	rotated := w.RotateKey(t, sold)
	for name, key := range map[string]string{
		"never made":   license.NewKey().Reveal(),
		"no key":       "hunter2",
		"rotated away": sold.Key,
	} {
		got := answer(t, door, body{"license_key": key, "hardware_id": "here", "version": "1", "nonce": "n"})
		if got.Valid || got.Code != "not_found" || got.License != nil || got.Receipt != nil || len(got.Checks) != 1 ||
			got.Checks[0].Code != "not_found" || got.Nonce == nil {
			t.Errorf("%s: answered %+v", name, got)
		}
	}
	if got := answer(t, door, functiontest.Ask(rotated, "here")); !got.Valid {
		t.Errorf("the new key: answered %+v", got)
	}
}

func TestAKeyIsUnderstoodAsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door, l := w.Validate(t), w.Seats(t, 1, time.Minute)
	if got := answer(t, door, body{"license_key": lower(l.Key), "hardware_id": "here", "version": "1"}); !got.Valid {
		t.Errorf("in lower case without hyphens: %+v", got)
	}
}

func lower(key string) string {
	var b []byte
	for i := range len(key) {
		switch c := key[i]; {
		case c == '-':
		case 'A' <= c && c <= 'Z':
			b = append(b, c+'a'-'A')
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

func TestAChangeOfALicenceIsSeenByTheNextRequestOfEveryInstance(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	l := w.Sell(t, nil)
	doors := []*functiontest.Door{w.Validate(t), w.Validate(t)}
	want := func(code, status string) {
		t.Helper()
		for i, d := range doors {
			got := answer(t, d, functiontest.Ask(l, "here"))
			if got.Code != code || got.License.Status != status {
				t.Errorf("instance %d answered %s of a licence %s, want %s, %s", i, got.Code, got.License.Status, code, status)
			}
		}
	}
	want("valid", "active")
	w.Suspend(t, l)
	want("license_suspended", "suspended")
	w.Reinstate(t, l)
	want("valid", "active")
	w.Change(t, l, func(terms *license.Terms) { terms.Versions = ">=2.0" })
	want("version_not_entitled", "active")
	w.Redis.Do(t, "FLUSHALL") // now nobody knows of the next change
	w.Change(t, l, func(terms *license.Terms) { terms.Versions = "" })
	w.Redis.Do(t, "FLUSHALL")
	want("valid", "active")
	w.Revoke(t, l)
	want("license_revoked", "revoked")
}

func TestAFunctionWhoseClockIsWrongJudgesDatesByTheStores(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	soon, justNow := time.Now().Add(2*time.Minute), time.Now().Add(-2*time.Minute)
	running := w.Sell(t, func(l *license.Terms) { l.ExpiresAt = &soon })
	ended := w.Sell(t, func(l *license.Terms) { l.ExpiresAt = &justNow })
	for _, off := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		door := w.At(func() time.Time { return time.Now().Add(off) }).Validate(t)
		for range 2 { // the second from memory
			if got := answer(t, door, functiontest.Ask(running, "here")); !got.Valid {
				t.Errorf("off by %s: a running licence is %s", off, got.Code)
			}
			if got := answer(t, door, functiontest.Ask(ended, "here")); got.Code != "license_expired" {
				t.Errorf("off by %s: an ended licence is %s", off, got.Code)
			}
		}
	}
}

func TestWithoutAStoreTheAnswerIsUnavailableAndComesBackByItself(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{PrivatePostgres: true})
	door, l := w.Validate(t), w.Seats(t, 1, time.Minute)
	good := message{Body: functiontest.Ask(l, "here")}
	door.Send(t, good).Want(t, http.StatusOK)
	unavailable := func(store string, m message) {
		t.Helper()
		r := door.Send(t, m).Want(t, http.StatusServiceUnavailable, "store_unavailable")
		if r.Header.Get("Retry-After") == "" || r.Object(t)["retry_after_seconds"] == nil {
			t.Errorf("%s out: no word of when to come back: %s", store, r.Body)
		}
	}
	w.Redis.Kill(t)
	unavailable("redis", good)
	w.Redis.Start(t)
	door.Insist(t, good).Want(t, http.StatusOK)
	other := message{Body: functiontest.Ask(w.Seats(t, 1, time.Minute), "here")} // not in memory
	w.Postgres.Stop(t)
	unavailable("postgresql", other)
	unavailable("postgresql", message{Body: body{"license_key": "unknown", "hardware_id": "h", "version": "1"}})
	w.Postgres.Start(t)
	door.Insist(t, other).Want(t, http.StatusOK)
}

func TestAValidationIsOneScriptAndNothingElseWhileTheLicenceIsRemembered(t *testing.T) {
	t.Parallel()
	budgets := testenv.Redis(t)
	w := functiontest.New(t, functiontest.Options{PrivatePostgres: true, Env: map[string]string{
		"BUDGET_REDIS_URL": budgets.Database(0), "LICENSE_CACHE_SECONDS": "60",
	}})
	l := w.Seats(t, 2, time.Minute)
	w.Seating(t).Sit(t, l, "holder") // warms the pool
	door := w.Validate(t)
	ask := func() { door.Send(t, message{Body: functiontest.Ask(l, "here")}).Want(t, http.StatusOK) }
	ask()
	w.Postgres.Stop(t)

	const validations = 10
	var budget []string
	commands := functiontest.Commands(t, w.Redis, func() {
		budget = functiontest.Commands(t, budgets, func() {
			for range validations {
				ask()
			}
		})
	})
	for store, sent := range map[string]struct {
		commands []string
		want     int
	}{"the pools": {commands, validations}, "the budgets": {budget, 0}} {
		if len(sent.commands) != sent.want {
			t.Errorf("%d validations sent %d commands to the Redis of %s: %v", validations, len(sent.commands), store, sent.commands)
		}
		for _, c := range sent.commands {
			if !strings.HasPrefix(strings.ToLower(c), `"evalsha"`) {
				t.Errorf("a validation sent %s", c)
			}
		}
	}
}

func TestAHolderThatAsksTooOftenIsToldWhenToComeBack(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{Env: map[string]string{"BUDGET_HOLDER_BURST": "3", "BUDGET_HOLDER_PER_SECOND": "0.1"}})
	door, l := w.Validate(t), w.Seats(t, 1, time.Minute)
	for range 3 {
		door.Send(t, message{Body: functiontest.Ask(l, "here")}).Want(t, http.StatusOK)
	}
	r := door.Send(t, message{Body: functiontest.Ask(l, "here")}).Want(t, http.StatusTooManyRequests, "rate_limited")
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	door.Send(t, message{Body: functiontest.Ask(l, "there")}).Want(t, http.StatusOK)
}

func TestAnIncompleteRequestIsRefusedFieldByField(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	r := w.Validate(t).Send(t, message{Body: body{"license_key": "", "version": 1, "licence": "x"}}).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	got := map[string]string{}
	for _, e := range functiontest.Read[struct {
		Errors []struct{ Field, Code string }
	}](t, r).Errors {
		got[e.Field] = e.Code
	}
	want := map[string]string{"license_key": "too_short", "hardware_id": "required", "version": "wrong_type", "licence": "unknown_field"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("refused %v, want %v", got, want)
	}
}

func FuzzBody(f *testing.F) {
	w := functiontest.New(f)
	door, l := w.Validate(f), w.Seats(f, 1, time.Minute)
	f.Add(`{"license_key":"KEY","hardware_id":"here","version":"1.0.0"}`)
	f.Add(`{"license_key":"KEY","hardware_id":"here","version":"1.0.0","features":["a"],"nonce":"n","product":"editor"}`)
	door.Fuzz(f, "", l)
}
