package receipt_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/coditect/usher/client/receipt"
)

// lineage is roots, each certified by the one before, and a receipt key certified by the last.
type lineage struct {
	roots        []*ecdsa.PrivateKey
	certificates [][]byte // of the roots but the first
	key          *ecdsa.PrivateKey
	certificate  []byte
}

func newLineage(t testing.TB, length int) *lineage {
	t.Helper()
	l := &lineage{key: newKey(t)}
	for i := range length {
		l.roots = append(l.roots, newKey(t))
		if i > 0 {
			l.certificates = append(l.certificates, certifyRoot(t, l.roots[i], l.roots[i-1]))
		}
	}
	l.certificate = certifyReceiptKey(t, l.key, l.roots[length-1], noon.Add(-time.Hour), noon.Add(time.Hour))
	return l
}

// back is the certificates from a root back to the one after the first.
func (l *lineage) back(from int) [][]byte {
	var chain [][]byte
	for i := from - 1; i >= 0; i-- {
		chain = append(chain, l.certificates[i])
	}
	return chain
}

func TestAClientThatPinsAnOldRootBelievesANewerOneByItsCertificates(t *testing.T) {
	t.Parallel()
	l := newLineage(t, 4)
	inReceipt := sign(t, l.key, receipt.TypeReceipt, thumbprint(t, l.key), someReceipt(), append([][]byte{l.certificate}, l.back(3)...)...)
	short := sign(t, l.key, receipt.TypeReceipt, thumbprint(t, l.key), someReceipt(), l.certificate)
	bare := sign(t, l.key, receipt.TypeReceipt, thumbprint(t, l.key), someReceipt())
	file := receipt.EncodeLicenseFile(sign(t, l.roots[3], receipt.TypeLicenseFile, thumbprint(t, l.roots[3]), someLicenseFile(), l.back(3)...))
	keys := []receipt.Key{published(t, l.key, l.certificate)}
	for i, root := range l.roots {
		keys = append(keys, published(t, root, l.back(i)...))
	}
	set := jwks(t, receipt.NewKeySet(keys...))
	ownSet := jwks(t, receipt.NewKeySet(published(t, l.key, l.certificate), published(t, l.roots[3], l.certificates[2]),
		published(t, l.roots[2], l.certificates[1]), published(t, l.roots[1], l.certificates[0])))
	for pinned := range l.roots {
		v := &receipt.Verifier{Roots: pin(t, l.roots[pinned]), Now: at(noon)}
		if _, err := v.Receipt(inReceipt); err != nil {
			t.Errorf("root %d is pinned, the chain in the receipt: %v", pinned, err)
		}
		if _, err := v.LicenseFile(file); err != nil {
			t.Errorf("root %d is pinned, the chain in the licence file: %v", pinned, err)
		}
		if _, err := v.Receipt(short); pinned < 3 && !errors.Is(err, receipt.ErrUnknownKey) {
			t.Errorf("root %d is pinned, no chain: %v", pinned, err)
		}
		for name, keys := range map[string]receipt.KeySet{"whole chains": set, "one certificate each": ownSet} {
			v.Keys = keys
			for _, text := range []string{short, bare} {
				if _, err := v.Receipt(text); err != nil {
					t.Errorf("root %d is pinned, %s in the key set: %v", pinned, name, err)
				}
			}
		}
	}
	// What came later vouches for nothing before it.
	first := newLineage(t, 1)
	later := certifyRoot(t, l.roots[1], l.roots[0])
	old := sign(t, first.key, receipt.TypeReceipt, thumbprint(t, first.key), someReceipt(), first.certificate, later)
	v := &receipt.Verifier{Roots: pin(t, l.roots[1]), Now: at(noon)}
	if _, err := v.Receipt(old); !errors.Is(err, receipt.ErrUnknownKey) {
		t.Errorf("a certificate beside the way: %v", err)
	}
}

func TestACertificateInTheChainThatItsRootDidNotSignIsRefused(t *testing.T) {
	t.Parallel()
	l := newLineage(t, 3)
	kid := thumbprint(t, l.key)
	v := &receipt.Verifier{Roots: pin(t, l.roots[0]), Now: at(noon)}
	for i, certificate := range append([][]byte{l.certificate}, l.back(2)...) {
		chain := append([][]byte{l.certificate}, l.back(2)...)
		forged := append([]byte(nil), certificate...)
		forged[len(forged)-1] ^= 1 // the signature's last byte
		chain[i] = forged
		if _, err := v.Receipt(sign(t, l.key, receipt.TypeReceipt, kid, someReceipt(), chain...)); !errors.Is(err, receipt.ErrSignature) {
			t.Errorf("certificate %d is altered: %v", i, err)
		}
	}
	// A certificate that leads back to itself ends, too.
	loop := certifyRoot(t, l.roots[2], l.roots[2])
	chain := [][]byte{l.certificate}
	for range 40 {
		chain = append(chain, loop)
	}
	if _, err := v.Receipt(sign(t, l.key, receipt.TypeReceipt, kid, someReceipt(), chain...)); !errors.Is(err, receipt.ErrUnknownKey) {
		t.Errorf("a loop: %v", err)
	}
}

func TestTheKeySetIsNotBelievedOnceRootsArePinned(t *testing.T) {
	t.Parallel()
	w, thief := newWorld(t), newWorld(t)
	v := w.offline()
	v.Keys = jwks(t, thief.keys)
	if _, err := v.Receipt(thief.receipt(t, someReceipt())); !errors.Is(err, receipt.ErrUnknownKey) {
		t.Errorf("the receipt of a foreign key set: %v", err)
	}
	if _, err := v.LicenseFile(thief.licenseFile(t, someLicenseFile())); !errors.Is(err, receipt.ErrUnknownKey) {
		t.Errorf("the licence file of a foreign key set: %v", err)
	}
}

func TestAReceiptKeySignsReceiptsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := receipt.EncodeLicenseFile(sign(t, w.key, receipt.TypeLicenseFile, w.keyID, someLicenseFile(), w.certificate))
	list := answer(t, receipt.RevocationsAnswer{List: sign(t, w.key, receipt.TypeRevocations, w.keyID, someRevocations(), w.certificate)})
	for way, v := range w.verifiers(t) {
		if _, err := v.LicenseFile(file); !errors.Is(err, receipt.ErrScope) {
			t.Errorf("%s, a licence file: %v", way, err)
		}
		if _, err := v.RevocationList(list); !errors.Is(err, receipt.ErrScope) {
			t.Errorf("%s, a revocation list: %v", way, err)
		}
	}
	// Nor does it vouch for other keys.
	child := newKey(t)
	certificate := certifyReceiptKey(t, child, w.key, noon.Add(-time.Hour), noon.Add(time.Hour))
	text := sign(t, child, receipt.TypeReceipt, thumbprint(t, child), someReceipt(), certificate, w.certificate)
	if _, err := w.offline().Receipt(text); !errors.Is(err, receipt.ErrScope) {
		t.Errorf("a key that a receipt key vouches for: %v", err)
	}
}

func TestALicenceFileIsBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := w.licenseFile(t, someLicenseFile())
	windows := []byte("\r\n" + strings.ReplaceAll(string(file), "\n", "\r\n") + "\r\n")
	for way, v := range w.verifiers(t) {
		for name, text := range map[string][]byte{"as made": file, "with other line ends": windows} {
			if l, err := v.LicenseFile(text); err != nil || !reflect.DeepEqual(l, someLicenseFile()) {
				t.Errorf("%s, %s: %+v, %v", way, name, l, err)
			}
		}
	}
}

func TestALicenceFileIsRefusedForWhatItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := w.licenseFile(t, someLicenseFile())
	compact := sign(t, w.root, receipt.TypeLicenseFile, w.rootID, someLicenseFile())
	empty := someLicenseFile()
	empty.License = ""
	type change = func(v *receipt.Verifier)
	for name, c := range map[string]struct {
		text   []byte
		want   error
		change change
	}{
		"expired":            {file, receipt.ErrExpired, func(v *receipt.Verifier) { v.Now = at(noon.AddDate(1, 0, 0)) }},
		"from the future":    {file, receipt.ErrNotYetValid, func(v *receipt.Verifier) { v.Now = at(noon.AddDate(0, 0, -1)) }},
		"of another product": {file, receipt.ErrWrongProduct, func(v *receipt.Verifier) { v.Product = "viewer" }},
		"on another device":  {file, receipt.ErrWrongHardware, func(v *receipt.Verifier) { v.HardwareID = "device-2" }},
		"a receipt":          {receipt.EncodeLicenseFile(w.receipt(t, someReceipt())), receipt.ErrMalformed, nil},
		"the bare JWS":       {[]byte(compact), receipt.ErrMalformed, nil},
		"another block":      {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(compact)}), receipt.ErrMalformed, nil},
		"two blocks":         {append(append([]byte(nil), file...), file...), receipt.ErrMalformed, nil},
		"a word before it":   {append([]byte("look:\n"), file...), receipt.ErrMalformed, nil},
		"a header in it": {pem.EncodeToMemory(&pem.Block{
			Type: "USHER LICENSE FILE", Headers: map[string]string{"Owner": "me"}, Bytes: []byte(compact),
		}), receipt.ErrMalformed, nil},
		"nothing":       {nil, receipt.ErrMalformed, nil},
		"endless":       {make([]byte, 3<<20), receipt.ErrMalformed, nil},
		"of no licence": {w.licenseFile(t, empty), receipt.ErrMalformed, nil},
	} {
		for way, v := range w.verifiers(t) {
			if c.change != nil {
				c.change(v)
			}
			if l, err := v.LicenseFile(c.text); !errors.Is(err, c.want) || l.ID != "" {
				t.Errorf("%s, %s: %+v, %v; want %v", name, way, l, err, c.want)
			}
		}
	}
}

func TestAKeysIDIsTheThumbprintThatOtherLibrariesCompute(t *testing.T) {
	t.Parallel()
	for range 20 {
		key := newKey(t)
		want, err := (&jose.JSONWebKey{Key: &key.PublicKey}).Thumbprint(5) // crypto.SHA256
		if err != nil {
			t.Fatal(err)
		}
		got, err := receipt.RawThumbprint(&key.PublicKey)
		if err != nil || string(got) != string(want) {
			t.Errorf("%x, %v; want %x", got, err, want)
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := receipt.Thumbprint(&other.PublicKey); err == nil {
		t.Errorf("a key of P-384 is %s", id)
	}
}

func TestAKeySetIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	twice := receipt.NewKeySet(append(w.keys.Keys(), w.keys.Keys()...)...)
	if got := jwks(t, twice); !reflect.DeepEqual(got.Keys(), w.keys.Keys()) {
		t.Errorf("%+v, want %+v", got.Keys(), w.keys.Keys())
	}
	if text, err := json.Marshal(receipt.KeySet{}); err != nil || string(text) != `{"keys":[]}` {
		t.Errorf("the empty set is %s, %v", text, err)
	}
}

func TestAKeySetLeavesOutOtherKindsAndRefusesFaultsOfOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, err := json.Marshal(receipt.NewKeySet(published(t, w.root)))
	if err != nil {
		t.Fatal(err)
	}
	change := func(field string, value any) []byte {
		var set map[string][]map[string]any
		if err := json.Unmarshal(text, &set); err != nil {
			t.Fatal(err)
		}
		set["keys"][0][field] = value
		out, err := json.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for field, value := range map[string]any{"kty": "RSA", "crv": "P-384", "alg": "ES512", "use": "enc"} {
		if set, err := receipt.ParseKeySet(change(field, value)); err != nil || len(set.Keys()) != 0 {
			t.Errorf("%s %s: %d keys, %v; want it left out", field, value, len(set.Keys()), err)
		}
	}
	for name, text := range map[string][]byte{
		"a private key":           change("d", "AAAA"),
		"another key's id":        change("kid", w.keyID),
		"no point of the curve":   change("x", strings.Repeat("A", 43)),
		"a short coordinate":      change("y", "AAAA"),
		"a coordinate that is no": change("y", "!"),
		"a chain of no base64":    change("x5c", []string{"-"}),
		"no keys":                 []byte(`{}`),
		"nothing":                 nil,
		"HTML":                    []byte("<html>"),
	} {
		if set, err := receipt.ParseKeySet(text); !errors.Is(err, receipt.ErrMalformed) {
			t.Errorf("%s: %d keys, %v", name, len(set.Keys()), err)
		}
	}
}

func TestRootsAreOnlyWhatIsPinnedAsSuch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	block := func(kind string, der []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&w.root.PublicKey)
	good := block("PUBLIC KEY", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(w.root)
	private := block("PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(&other.PublicKey)
	foreign := block("PUBLIC KEY", der, err)
	for name, text := range map[string][]byte{
		"nothing": nil, "space": []byte(" \n"), "a word": []byte("x"), "a private key": private, "a certificate": block("CERTIFICATE", w.certificate, nil),
		"another curve": foreign, "a word behind it": append(append([]byte(nil), good...), 'x'), "no key": block("PUBLIC KEY", []byte("x"), nil),
	} {
		if _, err := receipt.ParseRoots(text); err == nil {
			t.Errorf("%s was read as roots", name)
		}
	}
}
