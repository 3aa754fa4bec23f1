//go:build unix

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/client/hardware"
	"github.com/coditect/usher/client/receipt"
)

// issuer has a root, and a receipt key that the root vouches for.
type issuer struct {
	root, key   *ecdsa.PrivateKey
	certificate []byte
}

// ok is what a function answers that must not fail.
func ok[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		return ok[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	}
	i := &issuer{root: key(), key: key()}
	now := time.Now()
	i.certificate = ok[[]byte](t)(receipt.CertifyReceiptKey(&i.key.PublicKey, now.Add(-13*time.Hour), now.Add(13*time.Hour), i.root))
	return i
}

// sign signs claims as a type, with the root or the receipt key.
func (i *issuer) sign(t *testing.T, key *ecdsa.PrivateKey, typ string, claims json.Marshaler) string {
	t.Helper()
	var chain [][]byte
	if key == i.key {
		chain = append(chain, i.certificate)
	}
	id := ok[string](t)(receipt.Thumbprint(&key.PublicKey))
	return ok[string](t)(receipt.Sign(ok[string](t)(receipt.EncodeHeader(typ, id, chain...)), claims, key))
}

func (i *issuer) pinned(t *testing.T) string {
	t.Helper()
	der := ok[[]byte](t)(x509.MarshalPKIXPublicKey(&i.root.PublicKey))
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (i *issuer) jwks(t *testing.T) string {
	t.Helper()
	set := receipt.NewKeySet(ok[receipt.Key](t)(receipt.NewKey(&i.root.PublicKey)), ok[receipt.Key](t)(receipt.NewKey(&i.key.PublicKey, i.certificate)))
	return string(ok[[]byte](t)(json.Marshal(set)))
}

// revocations is the answer of GET /v1/revocations, and of each of its shards.
func (i *issuer) revocations(t *testing.T, keys []receipt.RevokedKey, entries ...receipt.Entry) (string, []string) {
	t.Helper()
	now := time.Now()
	list := receipt.Revocations{Issuer: "https://usher.test", IssuedAt: now, ExpiresAt: now.Add(time.Hour), Version: 1, Keys: keys}
	shards := list.File(entries)
	signed := i.sign(t, i.root, receipt.TypeRevocations, list)
	answers := make([]string, len(shards))
	for n, s := range shards {
		answers[n] = string(ok[[]byte](t)(json.Marshal(receipt.RevocationsAnswer{ //nolint:errchkjson // ok looks
			List: signed, Number: &n, Licenses: s.Licenses, Sessions: s.Sessions, Proof: s.Proof,
		})))
	}
	return string(ok[[]byte](t)(json.Marshal(receipt.RevocationsAnswer{List: signed, Version: 1}))), answers
}

const (
	licenseID = "01a20901-033d-793b-b0e8-b9caa70a4d00"
	sessionID = "01a20901-033d-793b-b0e8-b9caa70a4d01"
)

// some is a receipt that is good on the device "laptop", until changed.
func some(change func(*receipt.Receipt)) receipt.Receipt {
	now := time.Now()
	r := receipt.Receipt{
		Issuer: "https://usher.test", ID: "01a20901-033d-793b-b0e8-b9caa70a4d02", License: licenseID, Tenant: "t", Product: "editor",
		IssuedAt: now.Add(-time.Minute), OfflineUntil: now.Add(time.Hour), Session: sessionID, Seat: 2,
		HardwareHash: receipt.HashHardware("laptop"), Plan: "pro", Features: []string{"2d"},
	}
	if change != nil {
		change(&r)
	}
	return r
}

func TestReceiptVerifyHasAnExitCodeForEachRefusal(t *testing.T) {
	t.Parallel()
	i, other := newIssuer(t), newIssuer(t)
	keyID := ok[string](t)(receipt.Thumbprint(&i.key.PublicKey))
	dir := t.TempDir()
	files := 0
	file := func(text string) string {
		files++
		path := filepath.Join(dir, "file"+string(rune('a'+files)))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sealed := func(fingerprint string, at time.Time) string {
		r := some(nil)
		path := file(i.sign(t, i.key, receipt.TypeReceipt, r))
		seal := receipt.Seal{Path: sealOf(path), Fingerprint: fingerprint}
		if err := seal.Set(r.ID, at); err != nil {
			t.Fatal(err)
		}
		return path
	}
	signed := func(change func(*receipt.Receipt)) string {
		return file(i.sign(t, i.key, receipt.TypeReceipt, some(change)))
	}
	good := signed(nil)
	text := ok[[]byte](t)(os.ReadFile(good))
	altered := strings.Replace(string(text), ".", ".A", 1)
	now := time.Now()
	license := receipt.LicenseFile{
		Issuer: "https://usher.test", ID: "x", License: licenseID, Tenant: "t", Product: "editor", IssuedAt: now, ExpiresAt: now.Add(time.Hour),
		Session: sessionID, Seat: 1, HardwareHash: receipt.HashHardware("laptop"), Plan: "pro",
	}
	licenseFile := file(string(receipt.EncodeLicenseFile(i.sign(t, i.root, receipt.TypeLicenseFile, license))))
	here := ok[string](t)(hardware.ID(t.Context(), "usher"))
	revoked, _ := i.revocations(t, nil, receipt.Entry{License: licenseID})
	ended, _ := i.revocations(t, nil, receipt.Entry{License: licenseID, Session: sessionID})
	leaked, _ := i.revocations(t, []receipt.RevokedKey{{ID: keyID, Code: receipt.KeyRevoked, At: now}})
	retired, _ := i.revocations(t, []receipt.RevokedKey{{ID: keyID, Code: receipt.KeyRetired, At: now.Add(-time.Hour)}})
	var many []receipt.Entry
	for range 1000 {
		many = append(many, receipt.Entry{License: rand.Text()})
	}
	head, shards := i.revocations(t, nil, append(many, receipt.Entry{License: licenseID})...)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch answer := head; {
		case r.URL.Path == "/.well-known/jwks.json":
			_, _ = w.Write([]byte(i.jwks(t)))
		case r.URL.Query().Has("shard"):
			_, _ = w.Write([]byte(shards[receipt.ShardOf(licenseID, len(shards))]))
		default:
			_, _ = w.Write([]byte(answer))
		}
	}))
	t.Cleanup(service.Close)

	beside := func(list string) string {
		path := signed(nil)
		if err := os.WriteFile(path+receipt.RevocationsSuffix, []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roots, jwks := "--roots="+file(i.pinned(t)), "--jwks="+file(i.jwks(t))
	w := world{map[string]string{}}
	for _, at := range []struct {
		name string
		code int
		says string
		args []string
	}{
		{"good by its roots", exitOK, "good", []string{good, roots, "--product", "editor", "--hardware-id", "laptop"}},
		{"good by the key set", exitOK, "good", []string{good, jwks}},
		{"good by the key set of a URL", exitOK, "good", []string{good, "--jwks=" + service.URL + "/.well-known/jwks.json"}},
		{"good by the service's key set", exitOK, "good", []string{good, "--url=" + service.URL}},
		{"a good licence file", exitOK, "license file", []string{licenseFile, roots}},
		{"kept here", exitOK, "good", []string{sealed(here, now), roots}},
		{"not revoked", exitOK, "good", []string{good, roots, "--revocations=" + file(first(i.revocations(t, nil)))}},
		{"no document", exitMalformed, "malformed", []string{file("hello"), roots}},
		{"altered", exitSignature, "bad_signature", []string{file(altered), roots}},
		{"another issuer's", exitUnknownKey, "unknown_key", []string{good, "--roots=" + file(other.pinned(t))}},
		{"a licence file by a receipt key", exitScope, "wrong_scope", []string{
			file(string(receipt.EncodeLicenseFile(i.sign(t, i.key, receipt.TypeLicenseFile, license)))), roots,
		}},
		{"expired", exitExpired, "expired", []string{signed(func(r *receipt.Receipt) { r.OfflineUntil = now.Add(-time.Second) }), roots}},
		{"of tomorrow", exitNotYetValid, "not_yet_valid", []string{signed(func(r *receipt.Receipt) { r.IssuedAt = now.Add(30 * time.Minute) }), roots}},
		{"for another product", exitWrongProduct, "wrong_product", []string{good, roots, "--product", "viewer"}},
		{"for another device", exitWrongHardware, "wrong_hardware", []string{good, roots, "--hardware-id", "desktop"}},
		{"of a revoked licence", exitRevoked, "revoked", []string{good, roots, "--revocations=" + file(revoked)}},
		{"of a revoked session", exitRevoked, "revoked", []string{licenseFile, roots, "--revocations=" + file(ended)}},
		{"by a revoked key", exitRevoked, "revoked", []string{good, roots, "--revocations=" + file(leaked)}},
		{"revoked in a shard", exitRevoked, "revoked", []string{good, roots, "--revocations=" + service.URL + "/v1/revocations"}},
		{"revoked by the list that is kept beside it", exitRevoked, "revoked", []string{beside(ended), roots}},
		{"good by the list that is named", exitOK, "good", []string{beside(ended), roots, "--revocations=" + file(first(i.revocations(t, nil)))}},
		{"by a key that was retired", exitRetiredKey, "retired_key", []string{good, roots, "--revocations=" + file(retired)}},
		{"with a clock set back", exitClockSetBack, "clock_set_back", []string{sealed(here, now.Add(time.Hour)), roots}},
		{"copied from elsewhere", exitCopied, "copied", []string{sealed("another machine", now), roots}},
		{"with a list without its shard", exitMissingShard, "missing_shard", []string{good, roots, "--revocations=" + file(head)}},
	} {
		t.Run(at.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"receipt", "verify"}, at.args...)
			w.usher(t, args...).want(t, at.code).shows(t, at.says)
			r := w.usher(t, append(args, "--json")...).want(t, at.code)
			var said struct {
				Valid  bool
				Code   string
				Claims struct {
					Sub string
				}
			}
			if err := json.Unmarshal([]byte(r.out), &said); err != nil || said.Valid != (at.code == exitOK) || r.err != "" {
				t.Errorf("in JSON it says %s%s", r.out, r.err)
			}
			if (said.Claims.Sub == licenseID) != said.Valid {
				t.Errorf("what is not believed is shown, or what is believed is not: %s", r.out)
			}
		})
	}

	w.usher(t, "receipt", "verify", good).want(t, exitUsage).says(t, "--roots")
	w.usher(t, "receipt", "verify", filepath.Join(dir, "missing"), roots).want(t, exitUsage).says(t, "no such file")
	w.usher(t, "receipt", "verify", beside("spoilt"), roots).want(t, exitUsage).says(t, receipt.RevocationsSuffix)
	w.usher(t, "receipt", "verify", good, "--roots="+good).want(t, exitUsage).says(t, "--roots:")
	w.usher(t, "receipt", "verify", good, "--jwks=http://127.0.0.1:1/").want(t, exitUnreachable)
	w.usher(t, "receipt", "roots").want(t, exitUsage).says(t, "USHER_URL")
	w.usher(t, "receipt", "roots", "--jwks="+good).want(t, exitUsage).says(t, "--jwks:")
}

func TestAReceiptOfTheServiceIsGoodOfflineAndAfterARotation(t *testing.T) {
	t.Parallel()
	w := operator(t)
	h := w.holder(w.sell(t, 1, time.Minute))
	dir := t.TempDir()
	validated := read[struct{ Receipt string }](t, h.usher(t, "validate", "--json", "--hardware-id", "laptop"))
	file := filepath.Join(dir, "receipt.jwt")
	if err := os.WriteFile(file, []byte(validated.Receipt+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := []string{
		"receipt", "verify", file, "--product", service.Product, "--hardware-id", "laptop", "--revocations", service.BaseURL + "/v1/revocations",
	}
	h.usher(t, verify...).want(t, exitOK).shows(t, "this receipt is good until")
	w.usher(t, "admin", "signing-keys", "rotate", "--kind", "receipt").want(t, exitOK)
	h.usher(t, verify...).want(t, exitOK).shows(t, "this receipt is good until")
	h.usher(t, append(verify, "--hardware-id", "desktop")...).want(t, exitWrongHardware)

	roots := filepath.Join(dir, "roots.pem")
	shown := h.usher(t, "receipt", "roots").want(t, exitOK).out
	if err := os.WriteFile(roots, []byte(shown), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(shown, "BEGIN PUBLIC KEY"); n != 2 {
		t.Errorf("an application is to be built with %d roots, want 2:\n%s", n, shown)
	}
	h.usher(t, "receipt", "verify", file, "--roots", roots).want(t, exitOK)
	keys := read[[]struct{ KID, PEM string }](t, h.usher(t, "receipt", "roots", "--json"))
	if len(keys) != 2 || keys[0].KID == "" || keys[0].PEM+keys[1].PEM != shown {
		t.Errorf("in JSON they are %+v", keys)
	}

	tampered := strings.Replace(validated.Receipt, ".", ".e", 1)
	if err := os.WriteFile(file, []byte(tampered), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := h.usher(t, verify...); r.code != exitSignature && r.code != exitMalformed {
		t.Errorf("an altered receipt: %d %s", r.code, r.out)
	}
	h.usher(t, "admin", "signing-keys", "rotate", "--kind", "receipt").want(t, exitUsage) // without an API key
}

func TestABorrowedSeatStaysTakenUntilItIsBroughtBack(t *testing.T) {
	t.Parallel()
	w := operator(t)
	l := w.sell(t, 2, 3*time.Second)
	h := w.holder(l)
	file := filepath.Join(t.TempDir(), "seat.jwt")
	h.usher(t, "borrow", "--for", "1h", "--out", file).want(t, exitOK).shows(t, "seat 1 is borrowed until")
	for _, kept := range []string{file, sealOf(file)} {
		if info, err := os.Stat(kept); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is not kept for its owner alone: %v, %v", kept, info, err)
		}
	}
	time.Sleep(5 * time.Second) // longer than a lease, without a heartbeat
	type seats struct {
		License struct {
			Active int `json:"active_seats"`
		}
	}
	if s := read[seats](t, w.usher(t, "seats", "--json", "--license", l.ID)); s.License.Active != 1 {
		t.Errorf("%d seats are taken", s.License.Active)
	}
	eventually(t, 30*time.Second, func() error { // another test rotates the key, and a key set may be ten seconds behind
		if r := h.usher(t, "receipt", "verify", file, "--product", service.Product); r.code != exitOK || !strings.Contains(r.out, "good") {
			return fmt.Errorf("verify exits with %d: %s", r.code, r.out)
		}
		return nil
	})
	h.usher(t, "borrow", "--return", "--out", file).want(t, exitOK).shows(t, "is free again")
	if _, err := os.Stat(file); err == nil {
		t.Error("the receipt is still there")
	}
	if s := read[seats](t, w.usher(t, "seats", "--json", "--license", l.ID)); s.License.Active != 0 {
		t.Errorf("%d seats are taken", s.License.Active)
	}
	long := read[struct {
		Until time.Time `json:"borrowed_until"`
	}](t, h.usher(t, "borrow", "--json", "--for", "8760h", "--out", file).want(t, exitOK))
	if left := time.Until(long.Until); left < time.Hour || left > 168*time.Hour {
		t.Errorf("a borrow of a year ends at %s", long.Until)
	}
}

func TestBorrowWantsAnEndAndAFile(t *testing.T) {
	t.Parallel()
	w := world{map[string]string{"USHER_URL": "http://127.0.0.1:1", "USHER_LICENSE_KEY": "USH-X"}}
	for says, args := range map[string][]string{
		"Give --out":             {"--for", "1h"},
		"Give --until or --for":  {"--out", "x"},
		"and not both":           {"--out", "x", "--for", "1h", "--until", "2199-01-31"},
		"--for wants a duration": {"--out", "x", "--for", "-1h"},
		"--until wants a day":    {"--out", "x", "--until", "soon"},
		"--until is over":        {"--out", "x", "--until", "2001-01-31"},
		"leave out --until and":  {"--out", "x", "--return", "--for", "1h"},
	} {
		w.usher(t, append([]string{"borrow"}, args...)...).want(t, exitUsage).says(t, says)
	}
}

func first(answer string, _ []string) string { return answer }
