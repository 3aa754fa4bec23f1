package receipt

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"time"
)

// ShardSize is how many entries a shard has at most on average, and how many a
// list holds itself before it has shards.
const ShardSize = 256

// maxShards is the most shards that a list is believed to have: four thousand million entries, and a number that an int of 32
// bits holds.
const maxShards = 1 << 24

// What became of a key.
const (
	// KeyRevoked is of a key in wrong hands: nothing that it signed is believed.
	KeyRevoked = "revoked"
	// KeyRetired is of a key that signs no more: what it signed before is believed.
	KeyRetired = "retired"
)

// RevokedKey says what became of a key, and when.
type RevokedKey struct {
	ID   string
	Code string
	At   time.Time
}

// Revocations is what has been withdrawn before its time. It either lists all of
// it, or names the root of a Merkle tree over its shards, so that a client fetches
// the one shard that could name its licence.
//
// Its JSON is its claims: shards are not part of them.
type Revocations struct {
	Issuer string
	// IssuedAt and ExpiresAt are in whole seconds once signed.
	IssuedAt, ExpiresAt time.Time
	// Version rises with every change.
	Version int64
	Keys    []RevokedKey
	// Total is the number of licences and sessions.
	Total int
	// Licenses and Sessions are all ids, sorted, when Shards is 0.
	Licenses, Sessions []string
	// Shards is a power of two, or 0.
	Shards int
	Root   Hash

	// fetched is the shards that were proved to belong to the list, by their number.
	fetched map[int]Shard
}

// Shard is a part of a revocation list.
type Shard struct {
	Number int `json:"shard"`
	// Licenses and Sessions are ids, sorted. A session is in the shard of its licence.
	Licenses []string `json:"licenses"`
	Sessions []string `json:"sessions"`
	// Proof is the way to the Root of the list.
	Proof []Hash `json:"proof"`
}

// Entry is something withdrawn: a licence, or one of its sessions.
type Entry struct {
	License string
	// Session is "" when the whole licence is withdrawn.
	Session string
}

// ShardsFor is how many shards a number of entries has; 0 when the list holds them itself.
func ShardsFor(total int) int {
	if total <= ShardSize {
		return 0
	}
	return 1 << bits.Len(uint((total-1)/ShardSize))
}

// ShardOf is the number of the shard that would name a licence or its sessions:
// the first bits of the SHA-256 of its id. Shards is a power of two.
func ShardOf(license string, shards int) int {
	sum := sha256.Sum256([]byte(license))
	return int(binary.BigEndian.Uint32(sum[:]) >> (32 - bits.TrailingZeros(uint(shards))))
}

// Hash is the shard's leaf in the tree. Its lists must be sorted.
func (s Shard) Hash() Hash { return leaf(s.Licenses, s.Sessions) }

// File sorts entries into a list and its shards, with their proofs. It sets the
// list's Total, and either Licenses and Sessions, or Shards and Root; then there
// are no shards or as many.
func (r *Revocations) File(entries []Entry) []Shard {
	r.Total, r.Licenses, r.Sessions = len(entries), nil, nil
	r.Shards, r.Root, r.fetched = ShardsFor(len(entries)), Hash{}, nil
	shards := make([]Shard, max(r.Shards, 1))
	for _, e := range entries {
		shard := &shards[ShardOf(e.License, len(shards))]
		if e.Session == "" {
			shard.Licenses = append(shard.Licenses, e.License)
		} else {
			shard.Sessions = append(shard.Sessions, e.Session)
		}
	}
	leaves := make([]Hash, len(shards))
	for n := range shards {
		slices.Sort(shards[n].Licenses)
		slices.Sort(shards[n].Sessions)
		shards[n].Number, leaves[n] = n, shards[n].Hash()
	}
	if r.Shards == 0 {
		r.Licenses, r.Sessions = shards[0].Licenses, shards[0].Sessions
		return nil
	}
	tree := NewTree(leaves)
	r.Root = tree.Root()
	for n := range shards {
		shards[n].Proof = tree.Proof(n)
	}
	return shards
}

// revocationsClaims is a revocation list's JSON.
type revocationsClaims struct {
	Issuer   string             `json:"iss"`
	IssuedAt int64              `json:"iat"`
	Expires  int64              `json:"exp"`
	Version  int64              `json:"version"`
	Keys     []revokedKeyClaims `json:"keys"`
	Total    int                `json:"total"`
	Licenses []string           `json:"licenses,omitempty"`
	Sessions []string           `json:"sessions,omitempty"`
	Shards   int                `json:"shards,omitempty"`
	Root     *Hash              `json:"root,omitempty"`
}

type revokedKeyClaims struct {
	ID   string `json:"kid"`
	Code string `json:"code"`
	At   int64  `json:"at"`
}

// MarshalJSON writes the list's claims.
func (r Revocations) MarshalJSON() ([]byte, error) {
	c := revocationsClaims{
		Issuer: r.Issuer, IssuedAt: r.IssuedAt.Unix(), Expires: r.ExpiresAt.Unix(), Version: r.Version,
		Keys: make([]revokedKeyClaims, len(r.Keys)), Total: r.Total,
	}
	for i, key := range r.Keys {
		c.Keys[i] = revokedKeyClaims{ID: key.ID, Code: key.Code, At: key.At.Unix()}
	}
	if r.Shards == 0 {
		c.Licenses, c.Sessions = r.Licenses, r.Sessions
	} else {
		c.Shards, c.Root = r.Shards, &r.Root
	}
	return json.Marshal(c)
}

// UnmarshalJSON reads the list's claims. It refuses a list that neither holds
// all its entries nor has a tree of shards.
func (r *Revocations) UnmarshalJSON(text []byte) error {
	var c revocationsClaims
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	switch {
	case c.IssuedAt == 0 || c.Expires == 0 || c.Version < 1 || c.Total < 0:
		return errors.New("iat, exp, version or total is missing")
	case c.Shards == 0 && (c.Root != nil || len(c.Licenses)+len(c.Sessions) != c.Total):
		return errors.New("the list holds not as many entries as it has")
	case c.Shards != 0 && (c.Shards < 0 || c.Shards > maxShards || bits.OnesCount(uint(c.Shards)) != 1 ||
		c.Root == nil || len(c.Licenses)+len(c.Sessions) != 0):
		return errors.New("the list has no tree of shards")
	}
	out := Revocations{
		Issuer: c.Issuer, IssuedAt: time.Unix(c.IssuedAt, 0).UTC(), ExpiresAt: time.Unix(c.Expires, 0).UTC(),
		Version: c.Version, Total: c.Total, Licenses: c.Licenses, Sessions: c.Sessions, Shards: c.Shards,
	}
	if c.Root != nil {
		out.Root = *c.Root
	}
	for _, key := range c.Keys {
		if key.Code != KeyRevoked && key.Code != KeyRetired {
			return errors.New("a key is neither revoked nor retired")
		}
		out.Keys = append(out.Keys, RevokedKey{ID: key.ID, Code: key.Code, At: time.Unix(key.At, 0).UTC()})
	}
	// Looked up by halves: whoever wrote the list need not have sorted it.
	slices.Sort(out.Licenses)
	slices.Sort(out.Sessions)
	slices.SortFunc(out.Keys, func(a, b RevokedKey) int { return cmp.Compare(a.ID, b.ID) })
	*r = out
	return nil
}

// RevocationsAnswer is the JSON of GET /v1/revocations: the signed list, and with
// ?shard=N one of its shards.
type RevocationsAnswer struct {
	// List is a compact JWS.
	List string `json:"list"`
	// Version is the list's, for readers that do not look into it.
	Version int64 `json:"version,omitempty"`
	// Number is nil in an answer without a shard.
	Number   *int     `json:"shard,omitempty"`
	Licenses []string `json:"licenses,omitempty"`
	Sessions []string `json:"sessions,omitempty"`
	Proof    []Hash   `json:"proof,omitempty"`
}

// Missing is the number of the shard that must be fetched to know whether a
// licence is withdrawn; false when the list knows already.
func (r *Revocations) Missing(license string) (int, bool) {
	if r.Shards == 0 {
		return 0, false
	}
	number := ShardOf(license, r.Shards)
	_, fetched := r.fetched[number]
	return number, !fetched
}

// refuse refuses a licence that is withdrawn, or one of its sessions.
func (r *Revocations) refuse(license, session string) error {
	if r == nil {
		return nil
	}
	licenses, sessions := r.Licenses, r.Sessions
	if r.Shards > 0 {
		number, missing := r.Missing(license)
		if missing {
			return fmt.Errorf("%w: shard %d of version %d", ErrMissingShard, number, r.Version)
		}
		licenses, sessions = r.fetched[number].Licenses, r.fetched[number].Sessions
	}
	if _, named := slices.BinarySearch(licenses, license); named {
		return fmt.Errorf("%w: licence %s", ErrRevoked, license)
	}
	if _, named := slices.BinarySearch(sessions, session); named && session != "" {
		return fmt.Errorf("%w: session %s", ErrRevoked, session)
	}
	return nil
}

// add keeps a shard that is proved to be the list's.
func (r *Revocations) add(s Shard) error {
	switch {
	case !slices.IsSorted(s.Licenses) || !slices.IsSorted(s.Sessions):
		return fmt.Errorf("%w: the shard is not sorted", ErrMalformed)
	case r.Shards == 0 || !proves(r.Root, s.Hash(), s.Number, r.Shards, s.Proof):
		return fmt.Errorf("%w: shard %d is not the list's", ErrSignature, s.Number)
	}
	r.keep(map[int]Shard{s.Number: s})
	return nil
}

// keep adds shards that were proved before.
func (r *Revocations) keep(shards map[int]Shard) {
	if r.fetched == nil {
		r.fetched = map[int]Shard{}
	}
	maps.Copy(r.fetched, shards)
}
