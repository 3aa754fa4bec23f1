package signing_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// ringText writes a ring; a key's secret is the last letter of its name, 32 times.
func ringText(names ...string) string {
	entries := make([]string, len(names))
	for i, name := range names {
		entries[i] = name + ":" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{name[len(name)-1]}, 32))
	}
	return strings.Join(entries, ",")
}

func tokens(t testing.TB, names ...string) *signing.Tokens {
	t.Helper()
	ring, err := secret.ParseRing(ringText(names...))
	if err != nil {
		t.Fatal(err)
	}
	made, err := signing.NewTokens(signing.TokenConfig{Keys: ring}, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func someClaims() signing.Claims {
	return signing.Claims{
		Tenant: tenancy.Verified(uuid.New()), License: uuid.New(), Session: uuid.New(),
		Seat: 7, Epoch: 1_790_000_000, Counter: 42,
	}
}

func TestATokenNamesWhatItWasMintedFor(t *testing.T) {
	t.Parallel()
	ring := tokens(t, "k1")
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Custom(func(t *rapid.T) uuid.UUID {
			return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		})
		want := signing.Claims{
			Tenant: tenancy.Verified(id.Draw(t, "tenant")), License: id.Draw(t, "licence"), Session: id.Draw(t, "session"),
			Seat:  rapid.IntRange(1, math.MaxInt32).Draw(t, "seat"),
			Epoch: rapid.Int64().Draw(t, "epoch"), Counter: rapid.Int64().Draw(t, "counter"),
		}
		token := ring.Mint(want)
		if !strings.HasPrefix(token, "ust_") {
			t.Fatalf("the token %q does not begin with ust_", token)
		}
		got, err := ring.Verify(token)
		if err != nil || got != want {
			t.Fatalf("Verify(Mint(%+v)) = %+v, %v", want, got, err)
		}
	})
}

func TestAnyFlippedBitIsRefused(t *testing.T) {
	t.Parallel()
	ring := tokens(t, "k1")
	token := ring.Mint(someClaims())
	for at := range len(token) {
		for bit := range 8 {
			forged := []byte(token)
			forged[at] ^= 1 << bit
			if claims, err := ring.Verify(string(forged)); !errors.Is(err, signing.ErrToken) || claims != (signing.Claims{}) {
				t.Fatalf("character %d, bit %d: accepted as %+v, %v", at, bit, claims, err)
			}
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(token[4:])
	if err != nil {
		t.Fatal(err)
	}
	for at := range raw {
		for value := range 255 {
			forged := bytes.Clone(raw)
			forged[at] += byte(value + 1)
			if _, err := ring.Verify("ust_" + base64.RawURLEncoding.EncodeToString(forged)); !errors.Is(err, signing.ErrToken) {
				t.Fatalf("byte %d plus %d: accepted", at, value+1)
			}
		}
	}
}

func TestATokenHasOneText(t *testing.T) {
	t.Parallel()
	ring := tokens(t, "k1")
	token := ring.Mint(someClaims())
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", token[len(token)-1])
	for name, other := range map[string]string{
		"nothing":          "",
		"the prefix":       "ust_",
		"cut short":        token[:len(token)-1],
		"longer":           token + "A",
		"padded":           token + "==",
		"a line break":     token[:50] + "\n" + token[50:],
		"a break inside":   token[:50] + "\n" + token[51:],
		"two breaks":       token[:50] + "\r\n" + token[52:],
		"another prefix":   "ush_" + token[4:],
		"unused bits":      token[:len(token)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last^1]),
		"leading space":    " " + token,
		"an API key":       "ush_" + strings.Repeat("0", 33),
		"the other base64": "ust_" + strings.NewReplacer("-", "+", "_", "/").Replace(token[4:]) + "=",
	} {
		if _, err := ring.Verify(other); !errors.Is(err, signing.ErrToken) {
			t.Errorf("%s: accepted (%q)", name, other)
		}
	}
}

func TestARetiredKeysTokensAreRefusedOnceItIsOffTheRing(t *testing.T) {
	t.Parallel()
	old := tokens(t, "k1").Mint(someClaims())
	if _, err := tokens(t, "k2", "k1").Verify(old); err != nil {
		t.Errorf("the token of a key still on the ring is refused: %v", err)
	}
	if _, err := tokens(t, "k2").Verify(old); !errors.Is(err, signing.ErrToken) {
		t.Errorf("the token of a key off the ring: %v", err)
	}
	fresh := tokens(t, "k2", "k1").Mint(someClaims())
	if _, err := tokens(t, "k1").Verify(fresh); !errors.Is(err, signing.ErrToken) {
		t.Error("the first key of the ring does not sign")
	}
}

func TestAKeyOfTheSameNameButAnotherSecretIsRefused(t *testing.T) {
	t.Parallel()
	token := tokens(t, "k1").Mint(someClaims())
	other, err := secret.ParseRing("k1:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := signing.NewTokens(signing.TokenConfig{Keys: other}, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Verify(token); !errors.Is(err, signing.ErrToken) {
		t.Errorf("accepted: %v", err)
	}
}

// clock is a clock that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAChangedKeyFileIsReadAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, ringText("k1"))
	clock := &clock{at: time.Now()}
	var log strings.Builder
	ring, err := signing.NewTokens(signing.TokenConfig{KeysFile: path}, clock.now, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	old := ring.Mint(someClaims())

	writeFile(t, path, ringText("k2", "k1"))
	if _, err := tokens(t, "k1").Verify(ring.Mint(someClaims())); err != nil {
		t.Error("the file was read again at once")
	}
	clock.move(2 * time.Second)
	if _, err := ring.Verify(tokens(t, "k2").Mint(someClaims())); err != nil {
		t.Errorf("a token under a key of the new file is refused: %v", err)
	}
	if _, err := ring.Verify(old); err != nil {
		t.Errorf("a token under a key still in the file is refused: %v", err)
	}
	if _, err := tokens(t, "k2").Verify(ring.Mint(someClaims())); err != nil {
		t.Error("the new first key does not sign")
	}

	for _, broken := range []string{"", "k3:short", "k2:" + strings.Repeat("QUJD", 5)} {
		writeFile(t, path, broken)
		clock.move(11 * time.Second)
		if _, err := ring.Verify(old); err != nil {
			t.Errorf("with a broken file the keys in use are forgotten: %v", err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	clock.move(11 * time.Second)
	if _, err := ring.Verify(old); err != nil {
		t.Errorf("without a file the keys in use are forgotten: %v", err)
	}
	if n := strings.Count(log.String(), "cannot be read again"); n != 4 || strings.Contains(log.String(), "QUJD") {
		t.Errorf("the log names the fault %d times, want 4, and no secret: %s", n, log.String())
	}

	writeFile(t, path, ringText("k2"))
	clock.move(11 * time.Second)
	if _, err := ring.Verify(old); !errors.Is(err, signing.ErrToken) {
		t.Errorf("a token under a key taken out of the file: %v", err)
	}
	clock.move(-time.Hour)
	writeFile(t, path, ringText("k3"))
	if _, err := ring.Verify(tokens(t, "k3").Mint(someClaims())); err != nil {
		t.Errorf("after the clock went back the file is not read: %v", err)
	}
}

func TestManyMayVerifyWhileTheFileChanges(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, ringText("k1"))
	clock := &clock{at: time.Now()}
	ring, err := signing.NewTokens(signing.TokenConfig{KeysFile: path}, clock.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	token := ring.Mint(someClaims())
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 200 {
				if _, err := ring.Verify(token); err != nil {
					t.Error(err)
					return
				}
				ring.Mint(someClaims())
			}
		})
	}
	for range 20 {
		replaceFile(t, path, ringText("k2", "k1"))
		clock.move(11 * time.Second)
		replaceFile(t, path, ringText("k1"))
		clock.move(11 * time.Second)
	}
	wait.Wait()
}

// replaceFile changes a file in one step, as mounted secrets are.
func replaceFile(t *testing.T, path, text string) {
	t.Helper()
	writeFile(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestTheKeysComeFromOnePlace(t *testing.T) {
	t.Parallel()
	env := func(pairs map[string]string) func(string) string {
		return func(name string) string { return pairs[name] }
	}
	discard := slog.New(slog.DiscardHandler)
	if _, err := signing.OpenTokens(env(map[string]string{"SEAT_TOKEN_KEYS": ringText("k2", "k1")}), discard); err != nil {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, ringText("k1"))
	if _, err := signing.OpenTokens(env(map[string]string{"SEAT_TOKEN_KEYS_FILE": path}), discard); err != nil {
		t.Error(err)
	}
	for name, pairs := range map[string]map[string]string{
		"neither":      {},
		"both":         {"SEAT_TOKEN_KEYS": ringText("k1"), "SEAT_TOKEN_KEYS_FILE": path},
		"faulty":       {"SEAT_TOKEN_KEYS": "k1:c2hvcnQ="},
		"no such file": {"SEAT_TOKEN_KEYS_FILE": path + ".absent"},
	} {
		_, err := signing.OpenTokens(env(pairs), discard)
		if err == nil || !strings.Contains(err.Error(), "SEAT_TOKEN_KEYS") {
			t.Errorf("%s: the error names no variable: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "c2hvcnQ") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	ring := tokens(f, "k1")
	good := ring.Mint(someClaims())
	f.Add(good)
	f.Add("ust_")
	f.Add("")
	f.Add(strings.Repeat("A", len(good)))
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := ring.Verify(token)
		if err != nil {
			if !errors.Is(err, signing.ErrToken) {
				t.Fatal(err)
			}
			return
		}
		if ring.Mint(claims) != token {
			t.Fatalf("%q was accepted and is not what we mint", token)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	ring := tokens(b, "k2", "k1")
	token := ring.Mint(someClaims())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ring.Verify(token); err != nil {
			b.Fatal(err)
		}
	}
}
