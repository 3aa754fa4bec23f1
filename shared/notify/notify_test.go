package notify

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/shared/secret"
)

func keys(t *testing.T, names ...string) Keys {
	t.Helper()
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name + ":" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(name, 32))) + "\n")
	}
	ring, err := secret.ParseRing(text.String())
	if err != nil {
		t.Fatal(err)
	}
	return NewKeys(ring)
}

func TestWhatIsSealedIsForOneAddresseeAndOutlivesARotation(t *testing.T) {
	t.Parallel()
	was, is, other := keys(t, "a"), keys(t, "b", "a"), keys(t, "b")
	sealed, err := was.Seal("zoe@example.com", "usi_secret")
	if err != nil || strings.Contains(sealed, "usi_") {
		t.Fatalf("sealed %q, %v", sealed, err)
	}
	if again, err := was.Seal("zoe@example.com", "usi_secret"); err != nil || again == sealed {
		t.Error("two of the same are the same")
	}
	if text, err := is.Unseal("zoe@example.com", sealed); err != nil || text != "usi_secret" {
		t.Errorf("unsealed %q, %v", text, err)
	}
	for name, try := range map[string]func() (string, error){
		"another addressee": func() (string, error) { return is.Unseal("eve@example.com", sealed) },
		"another ring":      func() (string, error) { return other.Unseal("zoe@example.com", sealed) },
		"not sealed":        func() (string, error) { return is.Unseal("zoe@example.com", "usi_secret") },
		"cut short":         func() (string, error) { return is.Unseal("zoe@example.com", sealed[:len(sealed)-4]) },
	} {
		if text, err := try(); err == nil {
			t.Errorf("%s: unsealed %q", name, text)
		}
	}
}

func TestDelaysGrowToFourHours(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]time.Duration{-1: time.Minute, 0: time.Minute, 1: time.Minute, 2: 2 * time.Minute, 8: 128 * time.Minute, 9: 4 * time.Hour, 1000: 4 * time.Hour} {
		if got := Delay(n); got != want {
			t.Errorf("after %d attempts %s, want %s", n, got, want)
		}
	}
}
