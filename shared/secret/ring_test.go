package secret_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/coditect/usher/shared/secret"
)

// ringText writes a ring of secrets of 32 equal bytes.
func ringText(names ...string) string {
	entries := make([]string, len(names))
	for i, name := range names {
		entries[i] = name + ":" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{name[len(name)-1]}, 32))
	}
	return strings.Join(entries, ",")
}

func mustPeppers(t *testing.T, versions ...int) secret.Peppers {
	t.Helper()
	names := make([]string, len(versions))
	for i, v := range versions {
		names[i] = strconv.Itoa(v)
	}
	var p secret.Peppers
	if err := p.UnmarshalText([]byte(ringText(names...))); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestARingKeepsItsOrder(t *testing.T) {
	t.Parallel()
	text := ringText("k2", "k1")
	for _, written := range []string{text, strings.Replace(text, ",", "\n", 1) + "\n", " " + text + " ", strings.ReplaceAll(text, "=", "")} {
		ring, err := secret.ParseRing(written)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for name, key := range ring.All() {
			names = append(names, name)
			if !bytes.Equal(key, bytes.Repeat([]byte{name[1]}, 32)) {
				t.Errorf("the secret of %s is not what was written", name)
			}
		}
		if strings.Join(names, " ") != "k2 k1" || ring.Len() != 2 {
			t.Errorf("the ring holds %v", names)
		}
	}
}

func TestAFaultyRingIsRefusedWithoutShowingIt(t *testing.T) {
	t.Parallel()
	secret32 := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{'s'}, 32))
	for name, text := range map[string]string{
		"empty":        "",
		"only commas":  " , ,\n",
		"no name":      ":" + secret32,
		"no colon":     secret32,
		"long name":    "ninechars:" + secret32,
		"odd name":     "k.1:" + secret32,
		"not base64":   "k1:" + secret32[:20] + "!" + secret32[20:],
		"short":        "k1:" + secret32[:40],
		"a name twice": "k1:" + secret32 + ",k1:" + secret32,
	} {
		_, err := secret.ParseRing(text)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if strings.Contains(err.Error(), secret32[:12]) {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
	_, err := secret.ParseRing("a.b:xx,k1:" + secret32[:40])
	if err == nil || !strings.Contains(err.Error(), "entry 1") || !strings.Contains(err.Error(), "entry 2") {
		t.Errorf("not every fault is named at once: %v", err)
	}
}

func TestPeppersAreNamedByVersion(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"k1", "0", "-1", "40000"} {
		var p secret.Peppers
		if err := p.UnmarshalText([]byte(ringText(name))); err == nil {
			t.Errorf("a pepper named %q was accepted", name)
		}
	}
	if _, err := secret.NewPeppers(secret.Ring{}); err == nil {
		t.Error("no peppers at all were accepted")
	}
}

func TestANewPepperStillFindsOldKeys(t *testing.T) {
	t.Parallel()
	key := formats[0].New()
	before := mustPeppers(t, 1).Hash(key)
	after := mustPeppers(t, 2, 1)
	if now := after.Hash(key); now.Version != 2 || bytes.Equal(now.MAC, before.MAC) {
		t.Errorf("the new pepper is not in use: version %d", now.Version)
	}
	hashes := after.Hashes(key)
	if len(hashes) != 2 || hashes[1].Version != 1 || !bytes.Equal(hashes[1].MAC, before.MAC) {
		t.Error("the old hash is not among the hashes that are looked for")
	}
	if macs := secret.MACs(hashes); !bytes.Equal(macs[0], hashes[0].MAC) || !bytes.Equal(macs[1], before.MAC) {
		t.Error("MACs are not the hashes")
	}
	retired := mustPeppers(t, 2)
	if bytes.Equal(retired.Hashes(key)[0].MAC, before.MAC) {
		t.Error("a retired pepper's hash is still found")
	}
}

func TestOneKeyHasOneHashHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	f := formats[0]
	key := f.New()
	other, err := f.Parse(strings.ToLower(strings.ReplaceAll(key.Reveal(), "-", "")))
	if err != nil {
		t.Fatal(err)
	}
	p := mustPeppers(t, 1)
	if !bytes.Equal(p.Hash(key).MAC, p.Hash(other).MAC) {
		t.Error("two spellings of one key have two hashes")
	}
	if bytes.Equal(p.Hash(key).MAC, p.HashesOfText(key.Reveal())[0].MAC) {
		t.Error("a text that is no key hashes like a key")
	}
}

func FuzzParseRing(f *testing.F) {
	f.Add(ringText("k2", "k1"))
	f.Add("k1:,")
	f.Add("k1:====")
	f.Fuzz(func(t *testing.T, text string) {
		ring, err := secret.ParseRing(text)
		if err != nil {
			return
		}
		if ring.Len() == 0 {
			t.Fatal("an empty ring was accepted")
		}
		for name, key := range ring.All() {
			if name == "" || len(key) < secret.MinBytes {
				t.Fatalf("entry %q with %d bytes was accepted", name, len(key))
			}
		}
		if _, err := secret.NewPeppers(ring); err != nil && errors.Unwrap(err) != nil {
			t.Fatal(err)
		}
	})
}
