package secret

import (
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
)

// MinBytes is the least length of a secret in a ring.
const MinBytes = 32

// Ring is an ordered set of named secrets. The first is in use; the others are
// recognised until they are taken off.
//
// It is written as "name:base64" entries divided by commas or white space, so
// that it fits into a variable as well as, one a line, into a file. The zero
// Ring is empty. It prints as "[hidden]".
type Ring struct{ entries []entry }

type entry struct {
	name   string
	secret []byte
}

// ParseRing reads a ring. It wants at least one entry, names of 1 to 8 letters,
// digits, '-' or '_', no name twice, and secrets of at least MinBytes bytes in
// base64 (either alphabet, padded or not). Its errors name the place of the
// fault, never what stands there.
func ParseRing(text string) (Ring, error) {
	fields := strings.FieldsFunc(text, func(r rune) bool {
		return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t'
	})
	if len(fields) == 0 {
		return Ring{}, errors.New("a key ring needs at least one name:base64 entry")
	}
	var ring Ring
	var faults []error
	seen := map[string]bool{}
	for i, field := range fields {
		name, encoded, ok := strings.Cut(field, ":")
		if !ok || !isName(name) {
			faults = append(faults, fmt.Errorf("entry %d of the key ring is not name:base64 with a name of 1 to 8 letters, digits, '-' or '_'", i+1))
			continue
		}
		secret, err := decode(encoded)
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("entry %d of the key ring is not base64", i+1))
		case len(secret) < MinBytes:
			faults = append(faults, fmt.Errorf("entry %d of the key ring has %d bytes and needs at least %d", i+1, len(secret), MinBytes))
		case seen[name]:
			faults = append(faults, fmt.Errorf("entry %d of the key ring repeats a name", i+1))
		}
		seen[name] = true
		ring.entries = append(ring.entries, entry{name, secret})
	}
	if err := errors.Join(faults...); err != nil {
		return Ring{}, err
	}
	return ring, nil
}

// UnmarshalText reads a ring from a variable, as ParseRing does.
func (r *Ring) UnmarshalText(text []byte) error {
	ring, err := ParseRing(string(text))
	if err != nil {
		return err
	}
	*r = ring
	return nil
}

// Len is the number of secrets.
func (r Ring) Len() int { return len(r.entries) }

// All walks the ring, the one in use first. The secrets must not be changed.
func (r Ring) All() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, e := range r.entries {
			if !yield(e.name, e.secret) {
				return
			}
		}
	}
}

// Names are the names of the secrets, the one in use first.
func (r Ring) Names() []string {
	names := make([]string, len(r.entries))
	for i, e := range r.entries {
		names[i] = e.name
	}
	return names
}

// With is the ring with one more secret, which is used from now on, or only recognised.
func (r Ring) With(name string, secret []byte, inUse bool) (Ring, error) {
	place := len(r.entries)
	if inUse {
		place = 0
	}
	return checked(slices.Insert(slices.Clone(r.entries), place, entry{name, secret}))
}

// Fronted is the ring with the secret of that name in use.
func (r Ring) Fronted(name string) (Ring, error) {
	i := slices.Index(r.Names(), name)
	if i < 0 {
		return Ring{}, fmt.Errorf("the key ring has no entry %.8q", name)
	}
	rest := slices.Delete(slices.Clone(r.entries), i, i+1)
	return Ring{slices.Insert(rest, 0, r.entries[i])}, nil
}

// Without is the ring without the secret of that name, which must not be the only one.
func (r Ring) Without(name string) (Ring, error) {
	return checked(slices.DeleteFunc(slices.Clone(r.entries), func(e entry) bool { return e.name == name }))
}

// checked is the ring of these entries, if it is one.
func checked(entries []entry) (Ring, error) { return ParseRing(Ring{entries}.Reveal()) }

// Reveal writes the ring as ParseRing reads it, one entry a line. Whoever calls it answers for where it goes.
func (r Ring) Reveal() string {
	var text strings.Builder
	for _, e := range r.entries {
		text.WriteString(e.name + ":" + base64.StdEncoding.EncodeToString(e.secret) + "\n")
	}
	return text.String()
}

// String hides the ring.
func (Ring) String() string { return hidden }

// Format hides the ring from every verb of fmt.
func (Ring) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(hidden)) }

// LogValue hides the ring from logs.
func (Ring) LogValue() slog.Value { return hiddenValue }

// MarshalText hides the ring from JSON.
func (Ring) MarshalText() ([]byte, error) { return []byte(hidden), nil }

func isName(s string) bool {
	if len(s) < 1 || len(s) > 8 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// decode reads base64 in either alphabet, padded or not.
func decode(s string) ([]byte, error) {
	s = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(s, "="))
	return base64.RawURLEncoding.Strict().DecodeString(s)
}
