package admin_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
)

func TestALicenceFileHoldsASeatUntilItsSessionIsEvicted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := "/v1/licenses/" + w.a.license + "/file"
	active := func() int {
		return w.call(w.a.key, "GET", "/v1/licenses/"+w.a.license, "").want(t, http.StatusOK).number("active_seats")
	}
	const year = `{"hardware_id":"press","expires_at":"2199-01-01T00:00:00.900Z"}`
	w.call(w.a.key, "POST", path, year, "Idempotency-Key", "one").refused(t, http.StatusServiceUnavailable, "store_unavailable")
	if n := active(); n != 0 {
		t.Errorf("without a root, %d seats are taken", n)
	}
	roots := w.makeKeys()
	if a := w.call(w.a.key, "POST", path, `{"hardware_id":"press"}`); !slices.Equal(a.wrong(), []string{"expires_at required"}) {
		t.Errorf("a licence without an end, and a file without one: %s", a.raw)
	}
	w.call(w.a.key, "POST", path, `{"hardware_id":"press","version":"9.0.0","expires_at":"2199-01-01T00:00:00Z"}`).refused(t, http.StatusForbidden, "version_not_entitled")

	made := w.call(w.a.key, "POST", path, year, "Idempotency-Key", "one").want(t, http.StatusCreated)
	if again := w.call(w.a.key, "POST", path, year, "Idempotency-Key", "one").want(t, http.StatusCreated); again.raw != made.raw || active() != 1 {
		t.Errorf("repeated it is %s, with %d seats", again.raw, active())
	}
	file := []byte(made.text("license_file"))
	v := &receipt.Verifier{Roots: roots, Product: "editor", HardwareID: "press"}
	read, err := v.LicenseFile(file)
	end := time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC)
	if err != nil || read.License != w.a.license || read.Tenant != w.a.id || read.Session != made.text("session_id") || read.Seat != made.number("seat_no") ||
		!read.ExpiresAt.Equal(end) || read.Issuer != issuer || read.Plan != "team" || made.text("expires_at") != "2199-01-01T00:00:00.000Z" {
		t.Errorf("the file says %+v, %v; the answer %s", read, err, made.raw)
	}
	if _, err := (&receipt.Verifier{Roots: roots, HardwareID: "another"}).LicenseFile(file); !errors.Is(err, receipt.ErrWrongHardware) {
		t.Errorf("on another machine: %v", err)
	}
	if s := w.call(w.a.key, "GET", "/v1/sessions", ""); s.text("items.0.borrowed_until") != "2199-01-01T00:00:00.000Z" || s.text("items.0.status") != "active" {
		t.Errorf("the session is %s", s.raw)
	}
	_, acts := w.acts(w.operator, w.a.id, "")
	if last := acts[len(acts)-1]; last.Action != "license_file.created" || last.Details["session"] != read.Session {
		t.Errorf("the last act is %+v", last)
	}

	w.operate("PATCH", "/v1/licenses/"+w.a.license+"?tenant_id="+w.a.id, `{"expires_at":"2100-01-01T00:00:00Z","max_seats":2}`).want(t, http.StatusOK)
	if a := w.call(w.a.key, "POST", path, `{"hardware_id":"saw","expires_at":"2100-01-01T00:00:01Z"}`); !slices.Equal(a.wrong(), []string{"expires_at out_of_range"}) {
		t.Errorf("a file that outlives its licence: %s", a.raw)
	}
	w.cloud.Interfere(func(string, bool) error { return status.Error(codes.PermissionDenied, "not now") })
	w.call(w.a.key, "POST", path, `{"hardware_id":"saw"}`).refused(t, http.StatusServiceUnavailable, "store_unavailable")
	w.cloud.Interfere(nil)
	if n := active(); n != 1 {
		t.Errorf("after one that could not be signed, %d seats are taken", n)
	}
	if a := w.call(w.a.owner, "POST", path, `{"hardware_id":"saw"}`).want(t, http.StatusCreated); a.text("expires_at") != "2100-01-01T00:00:00.000Z" {
		t.Errorf("a file without an end has %s", a.raw)
	}
	w.call(w.a.key, "POST", path, `{"hardware_id":"drill"}`).refused(t, http.StatusConflict, "no_seats_available")

	w.call(w.a.key, "POST", "/v1/sessions/"+read.Session+"/evict", `{"reason":"stolen"}`).want(t, http.StatusOK)
	db := w.as("usher_keys")
	publisher := signing.NewPublisher(signing.KeysConfig{Issuer: issuer}, db, signing.NewRoots(db, w.vault(kms.Sign).Signer), db.Now, time.Now, w.log.Logger)
	list, err := publisher.List(t.Context())
	w.must(err)
	text, err := json.Marshal(receipt.RevocationsAnswer{List: list.Text, Version: list.Version})
	w.must(err)
	v.Revocations, err = v.RevocationList(text)
	w.must(err)
	if _, err := v.LicenseFile(file); !errors.Is(err, receipt.ErrRevoked) {
		t.Errorf("after its session was evicted: %v", err)
	}
	// The first answer is of no use to anybody now: a repetition gets a file of its own, and it again.
	another := w.call(w.a.key, "POST", path, year, "Idempotency-Key", "one")
	if another.text("session_id") == read.Session || another.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("repeated after the eviction it is %s", another.raw)
	}
	w.operate("PATCH", "/v1/licenses/"+w.a.license+"?tenant_id="+w.a.id, `{"expires_at":null}`).want(t, http.StatusOK)
	another = w.call(w.a.key, "POST", path, year, "Idempotency-Key", "one").want(t, http.StatusCreated)
	if again := w.call(w.a.key, "POST", path, year, "Idempotency-Key", "one"); again.raw != another.raw || another.text("session_id") == read.Session {
		t.Errorf("made anew it is %s, and repeated %s", another.raw, again.raw)
	}
}
