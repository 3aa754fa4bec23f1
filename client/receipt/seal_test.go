package receipt_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coditect/usher/client/receipt"
)

func newSeal(t *testing.T) *receipt.Seal {
	t.Helper()
	return &receipt.Seal{Path: filepath.Join(t.TempDir(), "receipt.seal"), Fingerprint: "machine-1"}
}

// sealed is a verifier on a machine that received the receipt at noon and keeps it.
func sealed(t *testing.T, w *world) *receipt.Verifier {
	t.Helper()
	v := w.offline()
	v.Seal = newSeal(t)
	if err := v.Seal.Set(someReceipt().ID, noon); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAClockThatWasSetBackIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.receipt(t, someReceipt())
	v := sealed(t, w)
	for _, step := range []struct {
		at   time.Duration
		want error
	}{
		{0, nil},
		{3 * time.Minute, nil},
		{2*time.Minute + 1*time.Second, nil}, // set right by less than a minute
		{2*time.Minute - 1*time.Second, receipt.ErrClockSetBack},
		{-time.Hour, receipt.ErrClockSetBack},
		{5 * time.Minute, nil},
		{6 * time.Minute, receipt.ErrExpired},
		{5 * time.Minute, nil}, // within the minute of what was seen
		{3 * time.Hour, receipt.ErrExpired},
		{5 * time.Minute, receipt.ErrClockSetBack}, // what was seen counts, though it was refused
	} {
		v.Now = at(noon.Add(step.at))
		if _, err := v.Receipt(text); !errors.Is(err, step.want) {
			t.Errorf("%s after noon: %v, want %v", step.at, err, step.want)
		}
	}
}

func TestAReceiptThatWasCopiedIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.receipt(t, someReceipt())
	for name, copied := range map[string]func(v *receipt.Verifier){
		"with its seal":          func(v *receipt.Verifier) { v.Seal.Fingerprint = "machine-2" },
		"without its seal":       func(v *receipt.Verifier) { os.Remove(v.Seal.Path) },
		"an empty seal":          func(v *receipt.Verifier) { os.WriteFile(v.Seal.Path, nil, 0o600) },
		"another receipt's seal": func(v *receipt.Verifier) { v.Seal.Set("another", noon) },
	} {
		v := sealed(t, w)
		if _, err := v.Receipt(text); err != nil {
			t.Fatal(err)
		}
		copied(v)
		if _, err := v.Receipt(text); !errors.Is(err, receipt.ErrCopied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAlteredSealIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.receipt(t, someReceipt())
	v := sealed(t, w)
	seal, err := os.ReadFile(v.Seal.Path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range seal {
		altered := bytes.Clone(seal)
		altered[i] ^= 1 << (i % 8)
		if err := os.WriteFile(v.Seal.Path, altered, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Receipt(text); !errors.Is(err, receipt.ErrCopied) {
			t.Fatalf("byte %d is altered: %v", i, err)
		}
	}
	earlier := strings.Replace(string(seal), "T12:", "T11:", 1)
	if err := os.WriteFile(v.Seal.Path, []byte(earlier), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Receipt(text); !errors.Is(err, receipt.ErrCopied) {
		t.Errorf("an earlier time: %v", err)
	}
}

func TestASealThatCannotBeKeptIsNoBelief(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.receipt(t, someReceipt())
	v := sealed(t, w)
	v.Seal.Path = filepath.Dir(v.Seal.Path) // a directory is no seal
	_, err := v.Receipt(text)
	if _, refusal := errors.AsType[*receipt.Refusal](err); err == nil || refusal {
		t.Errorf("a seal that cannot be read: %v", err)
	}
	nowhere := receipt.Seal{Path: filepath.Join(t.TempDir(), "absent", "seal"), Fingerprint: "machine-1"}
	if err := nowhere.Set("id", noon); err == nil {
		t.Error("a seal in no directory was made")
	}
}

func TestManyProgramsMayLookAtOneSeal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.receipt(t, someReceipt())
	v := sealed(t, w)
	var wait sync.WaitGroup
	for worker := range 4 {
		wait.Go(func() {
			own := &receipt.Verifier{Roots: v.Roots, Seal: v.Seal}
			for i := range 25 {
				own.Now = at(noon.Add(time.Duration(worker+4*i) * time.Second))
				if _, err := own.Receipt(text); err != nil && !errors.Is(err, receipt.ErrClockSetBack) {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	left, err := os.ReadDir(filepath.Dir(v.Seal.Path))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the seal there are %d files, %v", len(left)-1, err)
	}
}
