package receipt_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"testing"
	"time"

	"github.com/coditect/usher/client/receipt"
)

// noon is when everything happens.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func thumbprint(t testing.TB, key *ecdsa.PrivateKey) string {
	t.Helper()
	id, err := receipt.Thumbprint(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// sign makes a compact JWS with a key, and says what it likes in the header.
func sign(t testing.TB, key *ecdsa.PrivateKey, typ, kid string, claims json.Marshaler, chain ...[]byte) string {
	t.Helper()
	header, err := receipt.EncodeHeader(typ, kid, chain...)
	if err != nil {
		t.Fatal(err)
	}
	return signText(t, key, header, claims)
}

func signText(t testing.TB, key crypto.Signer, header string, claims json.Marshaler) string {
	t.Helper()
	text, err := receipt.Sign(header, claims, key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// world is an issuer: a root, and a receipt key that it vouches for at noon.
type world struct {
	root, key     *ecdsa.PrivateKey
	rootID, keyID string
	certificate   []byte
	roots         receipt.Roots
	keys          receipt.KeySet
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{root: newKey(t), key: newKey(t)}
	w.rootID, w.keyID = thumbprint(t, w.root), thumbprint(t, w.key)
	w.certificate = certifyReceiptKey(t, w.key, w.root, noon.Add(-time.Hour), noon.Add(25*time.Hour))
	w.roots = pin(t, w.root)
	w.keys = receipt.NewKeySet(published(t, w.root), published(t, w.key, w.certificate))
	return w
}

func certifyReceiptKey(t testing.TB, key, root *ecdsa.PrivateKey, notBefore, notAfter time.Time) []byte {
	t.Helper()
	der, err := receipt.CertifyReceiptKey(&key.PublicKey, notBefore, notAfter, root)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func certifyRoot(t testing.TB, key, root *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := receipt.CertifyRoot(&key.PublicKey, noon.AddDate(0, -1, 0), noon.AddDate(10, 0, 0), root)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// pin reads roots as a client does that was built with them.
func pin(t testing.TB, keys ...*ecdsa.PrivateKey) receipt.Roots {
	t.Helper()
	var text []byte
	for _, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	roots, err := receipt.ParseRoots(text)
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

func published(t testing.TB, key *ecdsa.PrivateKey, chain ...[]byte) receipt.Key {
	t.Helper()
	k, err := receipt.NewKey(&key.PublicKey, chain...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// jwks is a set as a client gets it: published, and read again.
func jwks(t testing.TB, set receipt.KeySet) receipt.KeySet {
	t.Helper()
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	read, err := receipt.ParseKeySet(text)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

func (w *world) receipt(t testing.TB, r receipt.Receipt) string {
	t.Helper()
	return sign(t, w.key, receipt.TypeReceipt, w.keyID, r, w.certificate)
}

func (w *world) licenseFile(t testing.TB, l receipt.LicenseFile) []byte {
	t.Helper()
	return receipt.EncodeLicenseFile(sign(t, w.root, receipt.TypeLicenseFile, w.rootID, l))
}

// list is the answer of GET /v1/revocations.
func (w *world) list(t testing.TB, r receipt.Revocations) []byte {
	t.Helper()
	return answer(t, receipt.RevocationsAnswer{List: sign(t, w.root, receipt.TypeRevocations, w.rootID, r), Version: r.Version})
}

func answer(t testing.TB, a receipt.RevocationsAnswer) []byte {
	t.Helper()
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// offline verifies by pinned roots alone, online by the published keys alone.
func (w *world) offline() *receipt.Verifier {
	return &receipt.Verifier{Roots: w.roots, Product: "editor", HardwareID: "device-1", Now: at(noon)}
}

func (w *world) online(t testing.TB) *receipt.Verifier {
	t.Helper()
	return &receipt.Verifier{Keys: jwks(t, w.keys), Product: "editor", HardwareID: "device-1", Now: at(noon)}
}

// verifiers are both ways to trust.
func (w *world) verifiers(t testing.TB) map[string]*receipt.Verifier {
	t.Helper()
	return map[string]*receipt.Verifier{"by pinned roots": w.offline(), "by the key set": w.online(t)}
}

func someReceipt() receipt.Receipt {
	return receipt.Receipt{
		Issuer: "https://licences.example", ID: "01a20901-0000-7000-8000-000000000001",
		License: "01a20901-0000-7000-8000-000000000002", Tenant: "01a20901-0000-7000-8000-000000000003",
		Product: "editor", IssuedAt: noon, OfflineUntil: noon.Add(6*time.Minute + 987*time.Millisecond),
		Session: "01a20901-0000-7000-8000-000000000004", Seat: 3, HardwareHash: receipt.HashHardware("device-1"),
		Plan: "team", Features: []string{"export", "print"}, Versions: ">=2.0 <4.0", Nonce: "n-1", RevocationsVersion: 5,
	}
}

func someLicenseFile() receipt.LicenseFile {
	return receipt.LicenseFile{
		Issuer: "https://licences.example", ID: "01a20901-0000-7000-8000-000000000011",
		License: "01a20901-0000-7000-8000-000000000002", Tenant: "01a20901-0000-7000-8000-000000000003",
		Product: "editor", IssuedAt: noon, ExpiresAt: noon.AddDate(1, 0, 0),
		Session: "01a20901-0000-7000-8000-000000000014", Seat: 4, HardwareHash: receipt.HashHardware("device-1"),
		Plan: "team", Features: []string{"export"}, Versions: ">=2.0",
	}
}

func someRevocations() receipt.Revocations {
	return receipt.Revocations{
		Issuer: "https://licences.example", IssuedAt: noon, ExpiresAt: noon.AddDate(0, 0, 7), Version: 7,
	}
}
