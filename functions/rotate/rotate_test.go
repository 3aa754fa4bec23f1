package rotate_test

import (
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/rotate"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
)

func token(t *testing.T, w *functiontest.World, email string) string {
	t.Helper()
	signed, err := w.Scheduler.Token(map[string]any{
		"aud": functiontest.SchedulerAudience, "sub": "1", "email": email, "email_verified": true,
	}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestTheScheduledRunTellsWhatItDidInNumbers(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	later := w.Later(24 * time.Hour)
	door := later.Rotate(t)
	// The tokens of the scheduler live by the same clock.
	good, err := w.Scheduler.Token(map[string]any{
		"aud": functiontest.SchedulerAudience, "sub": "1", "email": functiontest.SchedulerEmail, "email_verified": true,
	}, 25*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	got := functiontest.Read[rotate.Answer](t, door.Send(t, functiontest.Message{Token: good, Body: "{}"}).Want(t, http.StatusOK))
	if got.Done["make_receipt_key"] != 1 || got.Steps < 1 {
		t.Errorf("a day later it did %+v", got)
	}
	again := functiontest.Read[rotate.Answer](t, door.Send(t, functiontest.Message{Token: good}).Want(t, http.StatusOK))
	if again.Steps != 0 {
		t.Errorf("again it did %+v", again)
	}
	w.Hides(t)
}

func TestOnlyTheSchedulerMayStartTheScheduledRun(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door := w.Rotate(t)
	for _, bad := range []string{"", "x", token(t, w, "somebody@usher.test"), w.OperatorKey(t, identity.SigningWrite)} {
		door.Send(t, functiontest.Message{Token: bad}).Want(t, http.StatusUnauthorized, "scheduler_token_invalid")
	}
}

func TestOnlyTheOperatorMayTakeAKeyOutOfUse(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door := w.Rotate(t)
	for _, m := range []functiontest.Message{
		{Path: "/v1/signing-keys/rotate", Body: functiontest.Body{"kind": "receipt"}},
		{Path: "/v1/signing-keys/some-key/revoke", Body: functiontest.Body{"reason": "it leaked"}},
	} {
		for bad, status := range map[string]int{
			"": http.StatusUnauthorized, "ush_x": http.StatusUnauthorized, token(t, w, functiontest.SchedulerEmail): http.StatusUnauthorized,
			w.OperatorKey(t, identity.TenantsWrite): http.StatusForbidden,
		} {
			m.Token = bad
			door.Send(t, m).Want(t, status)
		}
	}
	key := w.OperatorKey(t, identity.SigningWrite)
	door.Send(t, functiontest.Message{Path: "/v1/signing-keys/some-key/revoke", Token: key, Body: functiontest.Body{"reason": "x"}}).Want(t, http.StatusNotFound, "not_found")
	door.Send(t, functiontest.Message{Path: "/v1/signing-keys/some-key/revoke", Token: key, Body: functiontest.Body{}}).Want(t, http.StatusUnprocessableEntity)
	door.Send(t, functiontest.Message{Path: "/v1/signing-keys/rotate", Token: key, Body: functiontest.Body{"kind": "x"}}).Want(t, http.StatusUnprocessableEntity)
}

func TestOneCallRevokesAKeyAndLetsTheNextSign(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	l := w.Seats(t, 2, time.Minute)
	before := w.Seating(t).Sit(t, l, "a").Receipt
	for _, kind := range []string{"receipt", "root"} {
		kid := testenv.Value[string](t, w.DB, `
			SELECT kid FROM app.signing_keys
			 WHERE kind = $1 AND revoked_at IS NULL AND CASE kind WHEN 'root' THEN activated_at IS NOT NULL ELSE not_before <= now() END`, kind)
		m := functiontest.Message{
			Path: "/v1/signing-keys/" + kid + "/revoke", Token: w.OperatorKey(t, identity.SigningWrite), Body: functiontest.Body{"reason": "it leaked"},
		}
		got := functiontest.Read[rotate.Emergency](t, w.Rotate(t).Send(t, m).Want(t, http.StatusOK))
		if len(got.KeyIDs) == 0 || got.Done["make_receipt_key"] == 0 {
			t.Errorf("%s: it did %+v", kind, got)
		}
		if _, err := w.Verifier(t, time.Now()).Receipt(before); err == nil {
			t.Errorf("%s: a receipt of before verifies", kind)
		}
		before = w.Seating(t).Sit(t, l, "b").Receipt
		w.Verify(t, before, time.Now())
	}
	by := testenv.Value[string](t, w.DB, `SELECT string_agg(DISTINCT split_part(revoked_by, ':', 1), ' ') FROM app.signing_keys WHERE revoked_at IS NOT NULL`)
	if by != "api_key" {
		t.Errorf("who revoked them is told as %q", by)
	}
	unwritten := testenv.Value[int](t, w.DB, `
		SELECT count(*)
		  FROM app.signing_keys k
		 WHERE revoked_at IS NOT NULL AND NOT EXISTS (
		       SELECT FROM app.audit_entries e
		        WHERE e.action = 'signing_key.revoked' AND e.subject = 'signing_key:' || k.kid AND e.details->>'reason' = 'it leaked' AND e.by_operator)`)
	if unwritten != 0 {
		t.Errorf("of %d revoked keys the audit log says nothing", unwritten)
	}
}

func TestARevocationHoldsAlsoWhileCloudKMSIsOut(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	l := w.Seats(t, 2, time.Minute)
	text := w.Seating(t).Sit(t, l, "a").Receipt
	kid := testenv.Value[string](t, w.DB, `SELECT kid FROM app.signing_keys WHERE kind = 'receipt' AND not_before <= now()`)
	w.Cloud.Interfere(func(string, bool) error { return status.Error(codes.PermissionDenied, "not now") })
	m := functiontest.Message{
		Path: "/v1/signing-keys/" + kid + "/revoke", Token: w.OperatorKey(t, identity.SigningWrite), Body: functiontest.Body{"reason": "it leaked"},
	}
	door := w.Rotate(t)
	door.Send(t, m).Want(t, http.StatusServiceUnavailable, "store_unavailable")
	if _, err := w.Verifier(t, time.Now()).Receipt(text); err == nil {
		t.Error("a receipt of the key verifies")
	}
	// Nobody gets a seat without a receipt.
	r := w.Acquire(t).Send(t, functiontest.Message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusServiceUnavailable, "store_unavailable")
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if rows := w.OpenRows(t, l); rows != 1 {
		t.Errorf("%d seats are taken, want that of before", rows)
	}
	w.Cloud.Interfere(nil)
	door.Send(t, m).Want(t, http.StatusOK)
	w.Verify(t, w.Seating(t).Sit(t, l, "b").Receipt, time.Now())
}
