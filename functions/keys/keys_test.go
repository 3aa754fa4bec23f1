package keys_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/keys"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/signing"
)

func TestThePublishedKeysMayBeCachedForAnHourAndHoldNothingSecret(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door := w.Keys(t)
	for _, path := range []string{"/.well-known/jwks.json", "/"} {
		r := door.Send(t, functiontest.Message{Path: path}).Want(t, http.StatusOK)
		if c := r.Header.Get("Cache-Control"); c != "max-age=3600" {
			t.Errorf("Cache-Control is %q", c)
		}
		set := functiontest.Read[keys.KeySet](t, r)
		if len(set.Keys) != 1 || set.Keys[0].Algorithm != "ES256" || set.Keys[0].Use != "sig" || set.Keys[0].KeyID == "" {
			t.Errorf("published is %+v", set)
		}
		if strings.Contains(string(r.Body), `"d"`) {
			t.Error("a private key is published")
		}
	}
	w.Hides(t)
}

func TestAReceiptVerifiesWithThePublishedKeysOnly(t *testing.T) {
	t.Parallel()
	w, foreign := functiontest.New(t), functiontest.New(t)
	receipt := w.Seating(t).Sit(t, w.Seats(t, 1, time.Minute), "a").Receipt
	for name, c := range map[string]struct {
		published *functiontest.Door
		ok        bool
	}{"ours": {w.Keys(t), true}, "another deployment's": {foreign.Keys(t), false}} {
		set, err := signing.ParseKeySet(c.published.Send(t, functiontest.Message{}).Body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.Verify(receipt, time.Now()); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEd25519KeysArePublishedToo(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	log := testenv.Logs(t)
	f, err := keys.Open(t.Context(), func(name string) string {
		return map[string]string{"RECEIPT_PUBLIC_KEYS": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}[name]
	}, log.Logger)
	must(t, err)
	door := functiontest.NewDoor(t, f.Routes, log.Logger)
	set, err := signing.ParseKeySet(door.Send(t, functiontest.Message{}).Want(t, http.StatusOK).Body)
	must(t, err)
	signer, err := signing.NewSigner(private, functiontest.Issuer)
	must(t, err)
	receipt, err := signer.Sign(signing.Receipt{License: uuid.New(), Tenant: uuid.New(), IssuedAt: time.Now(), OfflineUntil: time.Now().Add(time.Hour)})
	must(t, err)
	if _, err := set.Verify(receipt, time.Now()); err != nil {
		t.Error(err)
	}
}

func TestWithoutAKeyTheFunctionDoesNotOpen(t *testing.T) {
	t.Parallel()
	if _, err := keys.Open(t.Context(), func(string) string { return "" }, testenv.Logs(t).Logger); err == nil {
		t.Error("it opened")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
