package receipt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// coordinates are the two halves of a P-256 public key, in base64url.
func coordinates(key *ecdsa.PublicKey) (x, y string, err error) {
	if key == nil || key.Curve != elliptic.P256() {
		return "", "", errors.New("a key on another curve than P-256")
	}
	point, err := key.Bytes()
	if err != nil {
		return "", "", fmt.Errorf("read a key: %w", err)
	}
	return encoding.EncodeToString(point[1:33]), encoding.EncodeToString(point[33:]), nil
}

// RawThumbprint is the SHA-256 thumbprint of RFC 7638 as bytes: the subject key
// id of a key's certificate.
func RawThumbprint(key *ecdsa.PublicKey) ([]byte, error) {
	x, y, err := coordinates(key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`))
	return sum[:], nil
}

// Thumbprint is the "kid" of a key: RawThumbprint in unpadded base64url.
func Thumbprint(key *ecdsa.PublicKey) (string, error) {
	raw, err := RawThumbprint(key)
	return encoding.EncodeToString(raw), err
}

// Key is a public key as a key set publishes it.
type Key struct {
	// ID is its Thumbprint.
	ID     string
	Public *ecdsa.PublicKey
	// Chain is certificates in DER, the key's own first. It is empty for the first
	// root, for which nobody vouches.
	Chain [][]byte
}

// NewKey describes a public key.
func NewKey(public *ecdsa.PublicKey, chain ...[]byte) (Key, error) {
	id, err := Thumbprint(public)
	if err != nil {
		return Key{}, err
	}
	return Key{ID: id, Public: public, Chain: chain}, nil
}

// KeySet is a set of public keys: a JSON Web Key Set (JWKS). The zero KeySet is empty.
type KeySet struct{ keys []Key }

// NewKeySet makes a set of keys, each of them once.
func NewKeySet(keys ...Key) KeySet {
	var set KeySet
	for _, key := range keys {
		if _, twice := set.Find(key.ID); !twice {
			set.keys = append(set.keys, key)
		}
	}
	return set
}

// Find answers the key of an id.
func (k KeySet) Find(id string) (Key, bool) {
	i := slices.IndexFunc(k.keys, func(key Key) bool { return key.ID == id })
	if i < 0 {
		return Key{}, false
	}
	return k.keys[i], true
}

// Keys lists the keys in their order.
func (k KeySet) Keys() []Key { return slices.Clone(k.keys) }

// Roots lists the root keys, in their order. A service publishes the one that signs first, then the one that follows it, then
// those that are retired.
func (k KeySet) Roots() []Key {
	return slices.DeleteFunc(k.Keys(), func(key Key) bool {
		if len(key.Chain) == 0 {
			return false // the first root
		}
		_, err := parseCertificate(key.Chain[0], ScopeRoot)
		return err != nil
	})
}

// jwk is a key's JSON.
type jwk struct {
	Kind      string   `json:"kty"`
	Curve     string   `json:"crv"`
	X         string   `json:"x"`
	Y         string   `json:"y"`
	ID        string   `json:"kid"`
	Algorithm string   `json:"alg"`
	Use       string   `json:"use"`
	Chain     [][]byte `json:"x5c,omitempty"`
	// Private is never written, and refused where it is read.
	Private string `json:"d,omitempty"`
}

// MarshalJSON writes the set as a JWKS.
func (k KeySet) MarshalJSON() ([]byte, error) {
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	for _, key := range k.keys {
		x, y, err := coordinates(key.Public)
		if err != nil {
			return nil, fmt.Errorf("write key %s: %w", key.ID, err)
		}
		set.Keys = append(set.Keys, jwk{
			Kind: "EC", Curve: "P-256", X: x, Y: y, ID: key.ID, Algorithm: Algorithm, Use: "sig", Chain: key.Chain,
		})
	}
	return json.Marshal(set)
}

// ParseKeySet reads a published JWKS. Keys of other kinds than ours it leaves
// out, as RFC 7517 wants; private keys, and keys of our kind whose id is not
// their thumbprint, it refuses with ErrMalformed.
func ParseKeySet(text []byte) (KeySet, error) {
	var set struct {
		Keys *[]jwk `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return KeySet{}, fmt.Errorf("read a key set: %w: %w", ErrMalformed, err)
	}
	if set.Keys == nil {
		return KeySet{}, fmt.Errorf("read a key set: %w: it has no keys", ErrMalformed)
	}
	var keys []Key
	for _, j := range *set.Keys {
		if j.Private != "" {
			return KeySet{}, fmt.Errorf("read a key set: %w: it holds a private key", ErrMalformed)
		}
		if j.Kind != "EC" || j.Curve != "P-256" || j.Algorithm != Algorithm || j.Use != "sig" {
			continue
		}
		key, err := j.key()
		if err != nil {
			return KeySet{}, fmt.Errorf("read a key set: key %.64q: %w: %w", j.ID, ErrMalformed, err)
		}
		keys = append(keys, key)
	}
	return NewKeySet(keys...), nil
}

func (j *jwk) key() (Key, error) {
	x, errX := decode(j.X)
	y, errY := decode(j.Y)
	if err := errors.Join(errX, errY); err != nil {
		return Key{}, err
	}
	if len(x) != 32 || len(y) != 32 {
		return Key{}, errors.New("coordinates are not of 32 bytes")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		return Key{}, err
	}
	key, err := NewKey(public, j.Chain...)
	if err == nil && key.ID != j.ID {
		err = fmt.Errorf("its thumbprint is %s", key.ID)
	}
	return key, err
}

// Roots are the root keys that a client believes without being told: pinned in
// it when it was built. The zero Roots are none.
//
// They remember which certificates they have seen a good signature on: there is a
// new one each day, and whoever verifies a receipt verifies the next under the same.
type Roots struct {
	keys []Key
	seen *sync.Map // of link, shared by copies
}

// link is a certificate, by the SHA-256 of it, and the id of the key that signed it.
type link struct {
	certificate [sha256.Size]byte
	by          string
}

// NewRoots pins public keys.
func NewRoots(keys ...*ecdsa.PublicKey) (Roots, error) {
	roots := Roots{seen: &sync.Map{}}
	for _, public := range keys {
		key, err := NewKey(public)
		if err != nil {
			return Roots{}, err
		}
		roots.keys = append(roots.keys, key)
	}
	return roots, nil
}

// ParseRoots reads PEM: one or more "PUBLIC KEY" blocks, and nothing else.
func ParseRoots(text []byte) (Roots, error) {
	var keys []*ecdsa.PublicKey
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "PUBLIC KEY" {
			return Roots{}, errors.New("read root keys: not a PEM block of type PUBLIC KEY")
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return Roots{}, fmt.Errorf("read root keys: %w", err)
		}
		public, ok := key.(*ecdsa.PublicKey)
		if !ok {
			return Roots{}, errors.New("read root keys: a key that is not P-256")
		}
		keys, text = append(keys, public), rest
	}
	if len(keys) == 0 {
		return Roots{}, errors.New("read root keys: there is none")
	}
	roots, err := NewRoots(keys...)
	if err != nil {
		return Roots{}, fmt.Errorf("read root keys: %w", err)
	}
	return roots, nil
}

// find answers the pinned key of an id.
func (r Roots) find(id string) *ecdsa.PublicKey {
	for _, key := range r.keys {
		if key.ID == id {
			return key.Public
		}
	}
	return nil
}

// signed reports whether a key signed a certificate.
func (r Roots) signed(c *certificate, id string, key *ecdsa.PublicKey) bool {
	l := link{sha256.Sum256(c.signed.Raw), id}
	if _, seen := r.seen.Load(l); seen {
		return true
	}
	if !c.signedBy(key) {
		return false
	}
	r.seen.Store(l, nil)
	return true
}
