package secret

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
)

// Peppers hash keys. They are a Ring whose names are version numbers, written
// like "2:base64,1:base64": new keys are hashed with the first, and a key
// hashed with any of them is found, so a pepper is retired when the last key
// that was hashed with it is gone.
type Peppers struct {
	ring     Ring
	versions []int
}

// Hash is the keyed hash of a key, and the version of the pepper that made it.
type Hash struct {
	Version int
	MAC     []byte
}

// NewPeppers wants names of the ring that are numbers from 1 to 32767.
func NewPeppers(ring Ring) (Peppers, error) {
	if ring.Len() == 0 {
		return Peppers{}, errors.New("peppers need at least one version:base64 entry")
	}
	p := Peppers{ring: ring}
	for name := range ring.All() {
		version, err := strconv.ParseInt(name, 10, 16)
		if err != nil || version < 1 {
			return Peppers{}, fmt.Errorf("entry %d of the peppers is not named by a version number from 1 to 32767", len(p.versions)+1)
		}
		p.versions = append(p.versions, int(version))
	}
	return p, nil
}

// UnmarshalText reads peppers from a variable.
func (p *Peppers) UnmarshalText(text []byte) error {
	ring, err := ParseRing(string(text))
	if err != nil {
		return err
	}
	peppers, err := NewPeppers(ring)
	if err != nil {
		return err
	}
	*p = peppers
	return nil
}

// Hash hashes a key with the pepper in use.
func (p Peppers) Hash(k Key) Hash {
	return p.hashes(k.canonical(), 1)[0]
}

// Hashes hashes a key with every pepper, the one in use first. One of them is
// what was stored when the key was made.
func (p Peppers) Hashes(k Key) []Hash { return p.hashes(k.canonical(), len(p.versions)) }

// HashesOfText hashes a text that is no key, for a look-up that is made only so
// that guessing costs the same whether or not the guess is well written. It
// equals no key's hashes: their texts parse, and this one's does not.
func (p Peppers) HashesOfText(text string) []Hash { return p.hashes("no key:"+text, len(p.versions)) }

func (p Peppers) hashes(text string, limit int) []Hash {
	out := make([]Hash, 0, limit)
	for _, pepper := range p.ring.All() {
		if len(out) == limit {
			break
		}
		mac := hmac.New(sha256.New, pepper)
		_, _ = mac.Write([]byte(text))
		out = append(out, Hash{Version: p.versions[len(out)], MAC: mac.Sum(nil)})
	}
	return out
}

// MACs are the bare hashes, for a query.
func MACs(hashes []Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i, h := range hashes {
		out[i] = h.MAC
	}
	return out
}

// String hides the peppers.
func (Peppers) String() string { return hidden }

// Format hides the peppers from every verb of fmt.
func (Peppers) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(hidden)) }

// LogValue hides the peppers from logs.
func (Peppers) LogValue() slog.Value { return hiddenValue }

// MarshalText hides the peppers from JSON.
func (Peppers) MarshalText() ([]byte, error) { return []byte(hidden), nil }
