package all_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/platform/testenv"
)

// joseIssuer is an issuer with nothing but keys, whose JWKS is served.
type joseIssuer struct {
	root, key     *ecdsa.PrivateKey
	rootID, keyID string
	certificate   []byte
	jwks          string
}

func newJoseIssuer(t *testing.T) *joseIssuer {
	t.Helper()
	i := &joseIssuer{}
	for _, made := range []struct {
		key **ecdsa.PrivateKey
		id  *string
	}{{&i.root, &i.rootID}, {&i.key, &i.keyID}} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if *made.id, err = receipt.Thumbprint(&key.PublicKey); err != nil {
			t.Fatal(err)
		}
		*made.key = key
	}
	var err error
	if i.certificate, err = receipt.CertifyReceiptKey(&i.key.PublicKey, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), i.root); err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(receipt.NewKeySet(
		receipt.Key{ID: i.rootID, Public: &i.root.PublicKey},
		receipt.Key{ID: i.keyID, Public: &i.key.PublicKey, Chain: [][]byte{i.certificate}}))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(set)
	}))
	t.Cleanup(server.Close)
	i.jwks = server.URL
	return i
}

// sign makes a compact JWS of a header and claims as they come.
func (i *joseIssuer) sign(t *testing.T, key *ecdsa.PrivateKey, header map[string]any, claims json.Marshaler) string {
	t.Helper()
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := receipt.Sign(base64.RawURLEncoding.EncodeToString(text), claims, key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestAnotherLibraryBelievesReceiptsByTheJWKSAlone(t *testing.T) {
	t.Parallel()
	i := newJoseIssuer(t)
	want := receipt.Receipt{
		Issuer: "https://licences.example", ID: "r-1", License: "l-1", Tenant: "t-1", Product: "editor",
		IssuedAt: time.Now().UTC().Truncate(time.Second), OfflineUntil: time.Now().UTC().Add(time.Hour).Truncate(time.Millisecond),
		Session: "s-1", Seat: 3, HardwareHash: receipt.HashHardware("device-1"), Plan: "team", Features: []string{"export"}, Versions: ">=2.0",
	}
	expired := want
	expired.OfflineUntil = want.IssuedAt.Add(-time.Second)
	header := func(fields ...any) map[string]any {
		h := map[string]any{"alg": "ES256", "typ": receipt.TypeReceipt, "kid": i.keyID, "x5c": [][]byte{i.certificate}}
		for at := 0; at < len(fields); at += 2 {
			h[fields[at].(string)] = fields[at+1]
		}
		return h
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := i.sign(t, i.key, header(), want)
	none := i.sign(t, i.key, header("alg", "none"), want)
	texts := []string{good}
	refused := map[string]string{
		"expired":             i.sign(t, i.key, header(), expired),
		"another typ":         i.sign(t, i.key, header("typ", receipt.TypeLicenseFile), want),
		"an unknown kid":      i.sign(t, i.key, header("kid", "x"), want),
		"another key's kid":   i.sign(t, i.key, header("kid", i.rootID), want),
		"another key":         i.sign(t, stranger, header(), want),
		"none, signed":        none,
		"none, unsigned":      none[:strings.LastIndexByte(none, '.')+1],
		"HS256":               i.sign(t, i.key, header("alg", "HS256"), want),
		"critical extensions": i.sign(t, i.key, header("crit", []string{"usher"}, "usher", 1), want),
	}
	names := []string{""}
	for name, text := range refused {
		names, texts = append(names, name), append(texts, text)
	}
	// Every character in turn, of the parts as they are written. Of the last of each part this library ignores bits.
	ends := []int{strings.IndexByte(good, '.') - 1, strings.LastIndexByte(good, '.') - 1, len(good) - 1}
	for at := range good {
		if at != ends[0] && at != ends[1] && at != ends[2] {
			replaced := byte('A')
			if good[at] == 'A' {
				replaced = 'B'
			}
			names, texts = append(names, "altered"), append(texts, good[:at]+string(replaced)+good[at+1:])
		}
	}
	answers := testenv.AskJose(t, i.jwks, receipt.TypeReceipt, texts...)
	for n, answer := range answers[1:] {
		if answer.Claims != nil || answer.Code == "" {
			t.Errorf("%s: jose believes %s as %s", names[n+1], texts[n+1], answer.Claims)
		}
	}
	var got receipt.Receipt
	if err := json.Unmarshal(answers[0].Claims, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("jose reads %+v (%v %s), want %+v", got, err, answers[0].Code, want)
	}
}
