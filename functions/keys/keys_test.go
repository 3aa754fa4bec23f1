package keys_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/keys"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestThePublishedKeysMayBeCachedForAnHourAndHoldNothingSecret(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	r := w.Keys(t).Send(t, functiontest.Message{}).Want(t, http.StatusOK)
	if c := r.Header.Get("Cache-Control"); c != "max-age=3600" {
		t.Errorf("Cache-Control is %q", c)
	}
	set := functiontest.Read[keys.KeySet](t, r)
	if n := len(set.Keys); n < 4 || n >= 20 {
		t.Errorf("%d keys are published", n)
	}
	first := 0
	for _, k := range set.Keys {
		if k.Algorithm != "ES256" || k.Use != "sig" || k.KeyID == "" || k.Curve != "P-256" {
			t.Errorf("published is %+v", k)
		}
		if len(k.Chain) == 0 {
			first++
		}
	}
	if first != 1 {
		t.Errorf("nobody vouches for %d keys, want the first root alone", first)
	}
	if strings.Contains(string(r.Body), `"d"`) {
		t.Error("a private key is published")
	}
	w.Hides(t)
}

func TestAReceiptVerifiesWithThePublishedKeysOnly(t *testing.T) {
	t.Parallel()
	w, foreign := functiontest.New(t), functiontest.New(t)
	text := w.Seating(t).Sit(t, w.Seats(t, 1, time.Minute), "a").Receipt
	w.Verify(t, text, time.Now())
	if _, err := foreign.Verifier(t, time.Now()).Receipt(text); !errors.Is(err, receipt.ErrUnknownKey) {
		t.Errorf("with another deployment's keys: %v", err)
	}
	pinned := &receipt.Verifier{Roots: w.Roots(t)}
	if _, err := pinned.Receipt(text); err != nil {
		t.Errorf("with the roots alone: %v", err)
	}
}

// list reads the revocation list, and the shard that would name a licence, as a client does.
func list(t *testing.T, w *functiontest.World, door *functiontest.Door, license string) *receipt.Revocations {
	t.Helper()
	v := &receipt.Verifier{Roots: w.Roots(t)}
	r := door.Send(t, functiontest.Message{Path: "/v1/revocations"}).Want(t, http.StatusOK)
	known, err := v.RevocationList(r.Body)
	must(t, err)
	if known.Shards > 0 {
		v.Revocations = known
		path := fmt.Sprintf("/v1/revocations?shard=%d", receipt.ShardOf(license, known.Shards))
		r := door.Send(t, functiontest.Message{Path: path}).Want(t, http.StatusOK)
		if len(r.Body) > 32<<10 {
			t.Errorf("a shard has %d bytes", len(r.Body))
		}
		known, err = v.RevocationList(r.Body)
		must(t, err)
	}
	return known
}

func TestTheReceiptOfARevokedLicenceIsRefused(t *testing.T) {
	t.Parallel()
	for _, others := range []int{0, 3000} {
		w := functiontest.New(t)
		revoked, kept := w.Seats(t, 1, time.Hour), w.Seats(t, 1, time.Hour)
		s := w.Seating(t)
		bad, good := s.Sit(t, revoked, "a").Receipt, s.Sit(t, kept, "a").Receipt
		w.DB.Exec(t, `
			INSERT INTO app.revocations (kind, subject, license_id, ends_at)
			SELECT 'license', id, id, now() + interval '1 hour' FROM (SELECT app.new_id() AS id FROM generate_series(1, $1)) AS s`, others)
		w.Revoke(t, revoked)
		w.Revoke(t, revoked) // again
		door := w.Keys(t)
		v := w.Verifier(t, time.Now())
		v.Revocations = list(t, w, door, revoked.ID.String())
		if _, err := v.Receipt(bad); !errors.Is(err, receipt.ErrRevoked) {
			t.Errorf("beside %d others: %v", others, err)
		}
		v.Revocations = list(t, w, door, kept.ID.String())
		if _, err := v.Receipt(good); err != nil {
			t.Errorf("another licence's receipt, beside %d others: %v", others, err)
		}
		door.Send(t, functiontest.Message{Path: "/v1/revocations?shard=100000"}).Want(t, http.StatusNotFound, "not_found")
		door.Send(t, functiontest.Message{Path: "/v1/revocations?shard=-1"}).Want(t, http.StatusUnprocessableEntity)
	}
}

func TestARevocationEndsWithTheLongestPromise(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	l := w.Seats(t, 1, time.Hour)
	w.Revoke(t, l)
	if ends := testenv.Value[time.Time](t, w.DB, `SELECT ends_at FROM app.revocations WHERE license_id = $1`, l.ID); time.Until(ends) < 71*time.Hour || time.Until(ends) > 73*time.Hour {
		t.Errorf("it ends at %s; the plan's offline grace is 72 h", ends)
	}
}

func TestWithoutCloudKMSWhatWasPublishedIsServed(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	before := w.Keys(t).Send(t, functiontest.Message{Path: "/v1/revocations"}).Want(t, http.StatusOK)
	w.Cloud.Interfere(func(string, bool) error { return status.Error(codes.PermissionDenied, "not now") })
	w.Revoke(t, w.Seats(t, 1, time.Hour))
	door := w.Keys(t)
	after := door.Send(t, functiontest.Message{Path: "/v1/revocations"}).Want(t, http.StatusOK)
	if string(before.Body) != string(after.Body) {
		t.Errorf("served is %s, and was %s", after.Body, before.Body)
	}
	door.Send(t, functiontest.Message{}).Want(t, http.StatusOK)
	var answer keys.List
	must(t, json.Unmarshal(after.Body, &answer))
	if age := time.Since(time.Unix(answer.Version, 0)).Abs(); age > time.Hour {
		t.Errorf("the first list has version %d, and not its time", answer.Version)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
