package receipt_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/coditect/usher/client/receipt"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// kept is a verifier of the documents in testdata, whose keys are gone.
func kept(t testing.TB) *receipt.Verifier {
	t.Helper()
	roots, err := receipt.ParseRoots(readFile(t, "roots.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return &receipt.Verifier{Roots: roots, Product: "editor", HardwareID: "device-1", Now: at(noon)}
}

func TestWhatWasSignedOnceIsBelievedByEveryLaterVersion(t *testing.T) {
	t.Parallel()
	v := kept(t)
	if r, err := v.Receipt(string(readFile(t, "receipt.jws"))); err != nil || !reflect.DeepEqual(r, someReceipt()) {
		t.Errorf("the receipt: %+v, %v", r, err)
	}
	if l, err := v.LicenseFile(readFile(t, "licence.pem")); err != nil || !reflect.DeepEqual(l, someLicenseFile()) {
		t.Errorf("the licence file: %+v, %v", l, err)
	}
	if list, err := v.RevocationList(readFile(t, "revocations.json")); err != nil || list.Version != 7 || list.Shards != 2 {
		t.Errorf("the revocation list: %+v, %v", list, err)
	}
}

// FuzzDocuments finds no other text than the kept ones that is believed, and no answer but a refusal.
func FuzzDocuments(f *testing.F) {
	texts := []string{string(readFile(f, "receipt.jws")), string(readFile(f, "licence.pem")), string(readFile(f, "revocations.json"))}
	for _, text := range append(texts, "..", "eyJhbGciOiJFUzI1NiJ9.e30.", "{}") {
		f.Add(text)
	}
	v := kept(f)
	f.Fuzz(func(t *testing.T, text string) {
		receiptOf, err := v.Receipt(text)
		refused(t, err)
		if err == nil && text != texts[0] {
			t.Errorf("%q is believed as %+v", text, receiptOf)
		}
		file, err := v.LicenseFile([]byte(text))
		refused(t, err)
		if err == nil && !reflect.DeepEqual(file, someLicenseFile()) {
			t.Errorf("%q is believed as %+v", text, file)
		}
		list, err := v.RevocationList([]byte(text))
		refused(t, err)
		if err == nil && list.Version != 7 {
			t.Errorf("%q is believed as %+v", text, list)
		}
	})
}

// refused fails for an error that is no refusal.
func refused(t *testing.T, err error) {
	t.Helper()
	if _, refused := errors.AsType[*receipt.Refusal](err); err != nil && !refused {
		t.Errorf("an error that is no refusal: %v", err)
	}
}

// FuzzClaims writes again what it could read, and reads the same.
func FuzzClaims(f *testing.F) {
	for _, claims := range []json.Marshaler{someReceipt(), someLicenseFile(), someRevocations()} {
		text, err := claims.MarshalJSON()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		same[receipt.Receipt](t, text)
		same[receipt.LicenseFile](t, text)
		same[receipt.Revocations](t, text)
	})
}

func same[Claims any](t *testing.T, text []byte) {
	t.Helper()
	var first, second Claims
	if json.Unmarshal(text, &first) != nil {
		return
	}
	again, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &second); err != nil {
		t.Fatalf("%s cannot be read: %v", again, err)
	}
	third, err := json.Marshal(second)
	if err != nil || string(third) != string(again) {
		t.Fatalf("%s became %s, %v", again, third, err)
	}
}
