package secret

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// alphabet is Crockford's base 32: the digits and the letters without I, L, O
// and U, which are too easily taken for 1, 1, 0 and V.
const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// maxText is the longest text that ParseKey looks at, the contract's limit for
// a licence key.
const maxText = 255

// ErrNoKey says that a text is not a key of the format: another prefix, another
// length, a character outside of the alphabet, or a check character that does
// not fit, which is what a slip of the pen leaves behind.
var ErrNoKey = errors.New("not a key of this format")

// Format says how the keys of one kind are written: a prefix, then Random
// random symbols of five bits each and one check symbol, in groups of Group
// divided by hyphens (0: in one piece). Lower writes the symbols in lower case.
type Format struct {
	Prefix string
	Random int
	Group  int
	Lower  bool
}

// Key is one secret in its canonical spelling. The zero Key is none. It prints
// as "[hidden]"; Reveal shows it.
type Key struct {
	format Format
	// symbols are the random symbols and the check symbol, upper case.
	symbols string
}

// New makes a key from the system's random source.
func (f Format) New() Key {
	random := make([]byte, f.Random)
	_, _ = rand.Read(random) // never fails: the runtime stops the program first
	symbols := make([]byte, f.Random+1)
	for i, b := range random {
		symbols[i] = b & 31 // 256 is a multiple of 32: every symbol is as likely
	}
	symbols[f.Random] = checkSymbol(symbols[:f.Random])
	for i, s := range symbols {
		symbols[i] = alphabet[s]
	}
	return Key{format: f, symbols: string(symbols)}
}

// Parse reads a key as people write it: in either case, with O for 0, I or L
// for 1, and with hyphens anywhere or nowhere. It answers ErrNoKey for
// everything else, above all when the check symbol does not fit: any one wrong
// symbol and any two neighbours in the wrong order are noticed.
func (f Format) Parse(text string) (Key, error) {
	if len(text) > maxText {
		return Key{}, ErrNoKey
	}
	rest, ok := f.cutPrefix(text)
	if !ok {
		return Key{}, ErrNoKey
	}
	values := make([]byte, 0, f.Random+1)
	for i := range len(rest) {
		if rest[i] == '-' {
			continue
		}
		value := symbolValue(rest[i])
		if value < 0 || len(values) == f.Random+1 {
			return Key{}, ErrNoKey
		}
		values = append(values, byte(value))
	}
	if len(values) != f.Random+1 || checkSymbol(values[:f.Random]) != values[f.Random] {
		return Key{}, ErrNoKey
	}
	for i, value := range values {
		values[i] = alphabet[value]
	}
	return Key{format: f, symbols: string(values)}, nil
}

// cutPrefix removes the format's prefix, in either case, hyphens not counted.
func (f Format) cutPrefix(text string) (string, bool) {
	want := strings.ReplaceAll(f.Prefix, "-", "")
	for at := range len(text) {
		if want == "" {
			return text[at:], true
		}
		if text[at] == '-' {
			continue
		}
		if !strings.EqualFold(text[at:at+1], want[:1]) {
			return "", false
		}
		want = want[1:]
	}
	return "", want == ""
}

// Reveal shows the key, to be handed to its owner once.
func (k Key) Reveal() string {
	if k.symbols == "" {
		return ""
	}
	var b strings.Builder
	b.WriteString(k.format.Prefix)
	for i := range len(k.symbols) {
		if k.format.Group > 0 && i > 0 && i%k.format.Group == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(k.symbols[i])
	}
	if k.format.Lower {
		return k.format.Prefix + strings.ToLower(b.String()[len(k.format.Prefix):])
	}
	return b.String()
}

// Hint is what may be kept and shown of a key so that its owner knows which one
// it is: its first eight characters and its last four.
func (k Key) Hint() string {
	text := k.Reveal()
	if len(text) < 12 {
		return ""
	}
	return text[:8] + "…" + text[len(text)-4:]
}

// IsZero says whether this is no key at all.
func (k Key) IsZero() bool { return k.symbols == "" }

// canonical is the text that is hashed: one spelling for every way to write the
// key, and different for keys of different formats.
func (k Key) canonical() string { return k.format.Prefix + k.symbols }

// String hides the key.
func (Key) String() string { return hidden }

// Format hides the key from every verb of fmt.
func (Key) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(hidden)) }

// LogValue hides the key from logs.
func (Key) LogValue() slog.Value { return hiddenValue }

// MarshalText hides the key from JSON: whoever means to send it calls Reveal.
func (Key) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// symbolValue is the value of a written symbol, or -1.
func symbolValue(c byte) int {
	switch {
	case 'a' <= c && c <= 'z':
		c -= 'a' - 'A'
	}
	switch c {
	case 'O':
		return 0
	case 'I', 'L':
		return 1
	}
	return strings.IndexByte(alphabet, c)
}

// checkSymbol makes the weighted sum of all symbols zero, in the field of 32
// elements. Each place has its own weight, a power of the generator, with 1 for
// the check symbol itself. One wrong symbol changes the sum because no weight
// is zero; two neighbours in the wrong order change it because their weights
// differ. (A plain sum modulo 32 could promise only the first.)
func checkSymbol(values []byte) byte {
	var sum byte
	for _, value := range values {
		sum = double(sum ^ value)
	}
	return sum
}

// double multiplies by the generator x of GF(2^5), modulo x^5 + x^2 + 1.
func double(v byte) byte {
	v <<= 1
	if v&32 != 0 {
		v ^= 0b100101
	}
	return v
}
