package signing_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/coditect/usher/shared/signing"
)

// vault is a key that only signs, as one that never leaves its vault does.
type vault struct{ key crypto.Signer }

func (v vault) Public() crypto.PublicKey { return v.key.Public() }
func (v vault) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return v.key.Sign(r, digest, opts)
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ed(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signer(t *testing.T, key crypto.Signer) *signing.Signer {
	t.Helper()
	s, err := signing.NewSigner(key, "https://licences.example")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var receiptTime = time.Date(2026, 3, 1, 12, 0, 0, 987_654_321, time.UTC)

func someReceipt() signing.Receipt {
	return signing.Receipt{
		License: uuid.New(), Product: "editor", Tenant: uuid.New(), IssuedAt: receiptTime,
		OfflineUntil: receiptTime.Add(6 * time.Minute), Session: uuid.New(), Seat: 3,
		HardwareHash: signing.HashHardware("device-1"), Plan: "team", Features: []string{"export", "print"},
		Versions: ">=2.0 <4.0", Nonce: "n-1", RevocationsVersion: 5,
	}
}

func TestAClientVerifiesAReceiptWithTheKeySetAlone(t *testing.T) {
	t.Parallel()
	for alg, key := range map[string]crypto.Signer{"ES256": p256(t), "EdDSA": ed(t), "ES256 ": vault{p256(t)}, "EdDSA ": vault{ed(t)}} {
		s := signer(t, key)
		want := someReceipt()
		text, err := s.Sign(want)
		if err != nil {
			t.Fatal(err)
		}
		published, err := json.Marshal(s.KeySet())
		if err != nil {
			t.Fatal(err)
		}
		set, err := signing.ParseKeySet(published)
		if err != nil {
			t.Fatal(err)
		}
		got, err := set.Verify(text, receiptTime)
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if got.Issuer != "https://licences.example" || uuid.Validate(got.ID) != nil {
			t.Errorf("%s: issuer %q, id %q", alg, got.Issuer, got.ID)
		}
		want.Issuer, want.ID = got.Issuer, got.ID
		want.IssuedAt = receiptTime.Truncate(time.Second)
		want.OfflineUntil = want.OfflineUntil.Truncate(time.Millisecond)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: read %+v, want %+v", alg, got, want)
		}
		header := part(t, text, 0)
		if header["alg"] != strings.TrimSpace(alg) || header["typ"] != "usher-receipt+jwt" || header["kid"] != kidOf(t, s) || len(header) != 3 {
			t.Errorf("%s: header %v", alg, header)
		}
	}
}

// part decodes a part of a compact JWS.
func part(t *testing.T, text string, n int) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[n])
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAReceiptIsWrittenAsTheContractSays(t *testing.T) {
	t.Parallel()
	s := signer(t, p256(t))
	r := someReceipt()
	text, err := s.Sign(r)
	if err != nil {
		t.Fatal(err)
	}
	claims := part(t, text, 1)
	delete(claims, "jti")
	want := map[string]any{
		"iss": "https://licences.example", "sub": r.License.String(), "aud": "editor", "iat": float64(receiptTime.Unix()),
		"exp": float64(receiptTime.Add(6 * time.Minute).Unix()), "tenant_id": r.Tenant.String(), "session_id": r.Session.String(),
		"seat_no": float64(3), "hardware_id": r.HardwareHash, "plan": "team", "features": []any{"export", "print"},
		"versions": ">=2.0 <4.0", "offline_until": "2026-03-01T12:06:00.987Z", "nonce": "n-1", "revocations_version": float64(5),
	}
	if !reflect.DeepEqual(claims, want) {
		t.Errorf("claims %v\nwant   %v", claims, want)
	}

	r.Session, r.Seat, r.Nonce, r.Features = uuid.Nil, 0, "", nil
	if text, err = s.Sign(r); err != nil {
		t.Fatal(err)
	}
	claims = part(t, text, 1)
	for _, name := range []string{"session_id", "seat_no", "nonce"} {
		if v, there := claims[name]; there {
			t.Errorf("a receipt of no session has %s %v", name, v)
		}
	}
	if f, ok := claims["features"].([]any); !ok || len(f) != 0 {
		t.Errorf("no features are written as %v", claims["features"])
	}
}

func TestAReceiptEndsWithItsPromise(t *testing.T) {
	t.Parallel()
	s := signer(t, p256(t))
	r := someReceipt()
	text, err := s.Sign(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.KeySet().Verify(text, r.OfflineUntil.Add(-time.Second)); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
	if _, err := s.KeySet().Verify(text, r.OfflineUntil); !errors.Is(err, signing.ErrReceipt) {
		t.Errorf("at its end: %v", err)
	}
}

func TestAForgedReceiptIsRefused(t *testing.T) {
	t.Parallel()
	key := p256(t)
	s := signer(t, key)
	good, err := s.Sign(someReceipt())
	if err != nil {
		t.Fatal(err)
	}
	stranger := signer(t, p256(t))
	strange, err := stranger.Sign(someReceipt())
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	forge := func(header string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + parts[1] + "." + parts[2]
	}
	published, err := json.Marshal(s.KeySet())
	if err != nil {
		t.Fatal(err)
	}
	kid := kidOf(t, s)
	for name, text := range map[string]string{
		"nothing":           "",
		"another key":       strange,
		"another's payload": parts[0] + "." + strings.Split(strange, ".")[1] + "." + parts[2],
		"no signature":      parts[0] + "." + parts[1] + ".",
		"alg none":          forge(`{"alg":"none","typ":"usher-receipt+jwt","kid":"` + kid + `"}`),
		"alg of the other":  forge(`{"alg":"EdDSA","typ":"usher-receipt+jwt","kid":"` + kid + `"}`),
		"HMAC by the key":   hmacUnder(t, published, parts[1], kid),
		"another type":      signedAs(t, key, "JWT", kid, parts[1]),
		"no key id":         signedAs(t, key, "usher-receipt+jwt", "", parts[1]),
	} {
		if r, err := s.KeySet().Verify(text, receiptTime); !errors.Is(err, signing.ErrReceipt) {
			t.Errorf("%s: accepted as %+v", name, r)
		}
	}
	for at := range len(good) - 1 {
		forged := []byte(good)
		forged[at] ^= 1
		if _, err := s.KeySet().Verify(string(forged), receiptTime); !errors.Is(err, signing.ErrReceipt) {
			t.Fatalf("character %d flipped: accepted", at)
		}
	}
}

// kidOf is the id that the signer's key is published under.
func kidOf(t *testing.T, s *signing.Signer) string {
	t.Helper()
	text, err := json.Marshal(s.KeySet())
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("published is %s: %v", text, err)
	}
	return set.Keys[0].KeyID
}

// hmacUnder signs a payload with HS256 under the published key, the classic confusion.
func hmacUnder(t *testing.T, key []byte, payload, kid string) string {
	t.Helper()
	return signedWith(t, jose.SigningKey{Algorithm: jose.HS256, Key: key}, "usher-receipt+jwt", kid, payload)
}

func signedAs(t *testing.T, key *ecdsa.PrivateKey, typ, kid, payload string) string {
	t.Helper()
	return signedWith(t, jose.SigningKey{Algorithm: jose.ES256, Key: key}, typ, kid, payload)
}

func signedWith(t *testing.T, key jose.SigningKey, typ, kid, payload string) string {
	t.Helper()
	opts := (&jose.SignerOptions{}).WithType(jose.ContentType(typ))
	if kid != "" {
		opts = opts.WithHeader("kid", kid)
	}
	s, err := jose.NewSigner(key, opts)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTheKeySetHoldsPublicKeysOnly(t *testing.T) {
	t.Parallel()
	first, second := p256(t), ed(t)
	set, err := signing.NewKeySet(first.Public(), second.Public())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	var read struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(text, &read); err != nil || len(read.Keys) != 2 {
		t.Fatalf("%s: %v", text, err)
	}
	for i, key := range read.Keys {
		if _, private := key["d"]; private {
			t.Error("a private key is published")
		}
		if key["use"] != "sig" || key["kid"] == "" || key["alg"] != []string{"ES256", "EdDSA"}[i] {
			t.Errorf("key %v", key)
		}
	}
	if empty, err := json.Marshal(signing.KeySet{}); err != nil || string(empty) != `{"keys":[]}` {
		t.Errorf("the empty set is %s, %v", empty, err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{weak, p384} {
		if _, err := signing.NewSigner(key, "x"); err == nil {
			t.Errorf("a %T signs receipts", key)
		}
	}
	private, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: first}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signing.ParseKeySet(private); err == nil {
		t.Error("a set with a private key was read")
	}
}

func TestSignerAndKeySetAreConfigured(t *testing.T) {
	t.Parallel()
	key := p256(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if der, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	s, err := signing.OpenSigner(env("RECEIPT_SIGNING_KEY", private, "RECEIPT_ISSUER", "https://licences.example"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.Sign(someReceipt())
	if err != nil {
		t.Fatal(err)
	}
	for _, getenv := range []func(string) string{env("RECEIPT_PUBLIC_KEYS", public), env("RECEIPT_PUBLIC_KEYS", public+public), env("RECEIPT_SIGNING_KEY", private)} {
		set, err := signing.OpenKeySet(getenv)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.Verify(text, receiptTime); err != nil {
			t.Errorf("the published set does not verify what is signed: %v", err)
		}
	}
	for name, getenv := range map[string]func(string) string{
		"no key":     env("RECEIPT_ISSUER", "x"),
		"no issuer":  env("RECEIPT_SIGNING_KEY", private),
		"public key": env("RECEIPT_SIGNING_KEY", public, "RECEIPT_ISSUER", "x"),
		"two keys":   env("RECEIPT_SIGNING_KEY", private+private, "RECEIPT_ISSUER", "x"),
		"not PEM":    env("RECEIPT_SIGNING_KEY", "c2VjcmV0", "RECEIPT_ISSUER", "x"),
	} {
		if _, err := signing.OpenSigner(getenv); err == nil || strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, getenv := range map[string]func(string) string{
		"nothing":     env(),
		"not PEM":     env("RECEIPT_PUBLIC_KEYS", "x"),
		"private key": env("RECEIPT_PUBLIC_KEYS", private),
	} {
		if _, err := signing.OpenKeySet(getenv); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
