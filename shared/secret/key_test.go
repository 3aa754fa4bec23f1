package secret_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/coditect/usher/shared/secret"
)

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

var formats = []secret.Format{
	{Prefix: "USH-", Random: 29, Group: 5},
	{Prefix: "ush_", Random: 32, Lower: true},
}

func TestANewKeyIsWrittenInItsFormat(t *testing.T) {
	t.Parallel()
	grouped := formats[0].New().Reveal()
	if len(grouped) != len("USH-")+6*5+5 || strings.Count(grouped, "-") != 6 {
		t.Errorf("the key %q is not six groups of five", grouped)
	}
	plain := formats[1].New().Reveal()
	if len(plain) != len("ush_")+33 || plain != strings.ToLower(plain) {
		t.Errorf("the key %q is not one lower-case piece", plain)
	}
}

func TestAKeyIsReadHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom(formats).Draw(t, "format")
		key := f.New()
		var b strings.Builder
		for _, c := range key.Reveal() {
			c := string(c)
			switch c {
			case "0":
				c = rapid.SampledFrom([]string{"0", "O", "o"}).Draw(t, "zero")
			case "1":
				c = rapid.SampledFrom([]string{"1", "I", "l", "L", "i"}).Draw(t, "one")
			case "-":
				c = rapid.SampledFrom([]string{"-", ""}).Draw(t, "hyphen")
			}
			if rapid.Bool().Draw(t, "lower") {
				c = strings.ToLower(c)
			} else {
				c = strings.ToUpper(c)
			}
			b.WriteString(c)
			if rapid.IntRange(0, 9).Draw(t, "extra") == 0 {
				b.WriteByte('-')
			}
		}
		read, err := f.Parse(b.String())
		if err != nil {
			t.Fatalf("parse %q: %v", b.String(), err)
		}
		if read != key || read.Reveal() != key.Reveal() {
			t.Fatalf("%q was read as another key", b.String())
		}
	})
}

func TestAnyOneWrongSymbolIsNoticed(t *testing.T) {
	t.Parallel()
	for _, f := range formats {
		for range 20 {
			text := f.New().Reveal()
			for at := len(f.Prefix); at < len(text); at++ {
				if text[at] == '-' {
					continue
				}
				for _, c := range alphabet {
					if strings.EqualFold(string(c), text[at:at+1]) {
						continue
					}
					wrong := text[:at] + string(c) + text[at+1:]
					if _, err := f.Parse(wrong); !errors.Is(err, secret.ErrNoKey) {
						t.Fatalf("%q was accepted, written wrongly for %q: %v", wrong, text, err)
					}
				}
			}
		}
	}
}

func TestNeighboursInTheWrongOrderAreNoticed(t *testing.T) {
	t.Parallel()
	for _, f := range formats {
		for range 500 {
			text := strings.ReplaceAll(f.New().Reveal()[len(f.Prefix):], "-", "")
			for at := range len(text) - 1 {
				if text[at] == text[at+1] {
					continue
				}
				wrong := f.Prefix + text[:at] + string(text[at+1]) + string(text[at]) + text[at+2:]
				if _, err := f.Parse(wrong); !errors.Is(err, secret.ErrNoKey) {
					t.Fatalf("%q was accepted with two neighbours exchanged: %v", wrong, err)
				}
			}
		}
	}
}

func TestWhatIsNoKeyIsRefused(t *testing.T) {
	t.Parallel()
	f := formats[0]
	good := f.New().Reveal()
	for _, text := range []string{
		"", "-", "USH", "USH-", "ush", "U", good[:len(good)-1], good + "0", "X" + good, good[4:],
		strings.Replace(good, "USH", "USX", 1), strings.Replace(good, "USH-", "ush_", 1),
		good + strings.Repeat("-", 256), good + "\x00", good + "é", " " + good, formats[1].New().Reveal(),
	} {
		if _, err := f.Parse(text); !errors.Is(err, secret.ErrNoKey) {
			t.Errorf("Parse(%q) = %v, want ErrNoKey", text, err)
		}
	}
}

func TestKeysAreNeverTheSame(t *testing.T) {
	t.Parallel()
	seen := map[secret.Key]bool{}
	for range 10_000 {
		k := formats[0].New()
		if seen[k] {
			t.Fatal("a key was made twice")
		}
		seen[k] = true
	}
}

func TestAHintShowsOnlyTheEnds(t *testing.T) {
	t.Parallel()
	k := formats[0].New()
	text := k.Reveal()
	if want := text[:8] + "…" + text[len(text)-4:]; k.Hint() != want {
		t.Errorf("Hint() = %q, want %q", k.Hint(), want)
	}
	if (secret.Key{}).Hint() != "" || (secret.Key{}).Reveal() != "" || !(secret.Key{}).IsZero() {
		t.Error("the zero key is not nothing")
	}
}

func TestSecretsDoNotPrintThemselves(t *testing.T) {
	t.Parallel()
	key := formats[0].New()
	ring, err := secret.ParseRing("k1:" + strings.Repeat("QUJD", 11))
	if err != nil {
		t.Fatal(err)
	}
	peppers := mustPeppers(t, 1)
	for _, v := range []any{key, ring, peppers} {
		var log strings.Builder
		slog.New(slog.NewJSONHandler(&log, nil)).Info("made", "it", v, "in", struct{ V any }{v})
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		all := log.String() + string(text) + fmt.Sprintf("%v %+v %#v %s %q %x %d", v, v, v, v, v, v, v)
		for _, leak := range []string{"QUJD", "ABC", strings.ReplaceAll(key.Reveal(), "-", "")[3:], key.Reveal()[4:9]} {
			if strings.Contains(all, leak) {
				t.Errorf("%T shows itself: %s", v, all)
			}
		}
		if !strings.Contains(all, "[hidden]") {
			t.Errorf("%T does not say that it is hidden: %s", v, all)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, format := range formats {
		f.Add(format.New().Reveal())
	}
	for _, s := range []string{"", "USH-", "ush_", "-U-S-H-", "USH-\xff\xfe", "ＵＳＨ-00000", "USH-OOOOO-IIIII-LLLLL-00000-11111-0000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range formats {
			key, err := format.Parse(text)
			if err != nil {
				if !errors.Is(err, secret.ErrNoKey) || !key.IsZero() {
					t.Fatalf("Parse(%q) = %v, %v", text, key.Reveal(), err)
				}
				continue
			}
			again, err := format.Parse(key.Reveal())
			if err != nil || again != key {
				t.Fatalf("%q reads as %q, which does not read back: %v", text, key.Reveal(), err)
			}
		}
	})
}
