package signing_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/signing"
)

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signer signs with a new receipt key of a new root.
func signer(t testing.TB) (*signing.Signer, receipt.Roots) {
	t.Helper()
	root, key := p256(t), p256(t)
	from, until := began.Add(-time.Hour), began.Add(25*time.Hour)
	certificate, err := receipt.CertifyReceiptKey(&key.PublicKey, from, until, root)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signing.NewSigner("https://usher.test", key, [][]byte{certificate}, from, until, 7)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := receipt.NewRoots(&root.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return s, roots
}

func someReceipt() receipt.Receipt {
	return receipt.Receipt{
		License: uuid.NewString(), Product: "editor", Tenant: uuid.NewString(), IssuedAt: began, OfflineUntil: began.Add(6 * time.Minute),
		Session: uuid.NewString(), Seat: 3, HardwareHash: receipt.HashHardware("device-1"), Plan: "team",
		Features: []string{"export", "print"}, Versions: ">=2.0 <4.0", Nonce: "n-1",
	}
}

func TestAReceiptVerifiesWithThePinnedRootsAlone(t *testing.T) {
	t.Parallel()
	s, roots := signer(t)
	text, err := s.Sign(someReceipt())
	if err != nil {
		t.Fatal(err)
	}
	got, err := (&receipt.Verifier{Roots: roots, Product: "editor", HardwareID: "device-1", Now: func() time.Time { return began }}).Receipt(text)
	if err != nil {
		t.Fatal(err)
	}
	if got.Issuer != "https://usher.test" || got.RevocationsVersion != 7 || uuid.Validate(got.ID) != nil || got.Seat != 3 {
		t.Errorf("it says %+v", got)
	}
	_, others := signer(t)
	if _, err := (&receipt.Verifier{Roots: others, Now: func() time.Time { return began }}).Receipt(text); err == nil {
		t.Error("it verifies with another root")
	}
}

func BenchmarkSignReceipt(b *testing.B) {
	s, _ := signer(b)
	r := someReceipt()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sign(r); err != nil {
			b.Fatal(err)
		}
	}
}
