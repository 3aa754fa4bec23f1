package receipt

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Hash is a hash of a Merkle tree. Its text is unpadded base64url.
type Hash [sha256.Size]byte

// MarshalText writes the hash.
func (h Hash) MarshalText() ([]byte, error) {
	return encoding.AppendEncode(nil, h[:]), nil
}

// UnmarshalText reads a hash.
func (h *Hash) UnmarshalText(text []byte) error {
	raw, err := decode(string(text))
	if err != nil {
		return err
	}
	if len(raw) != len(h) {
		return base64.CorruptInputError(len(text))
	}
	copy(h[:], raw)
	return nil
}

// Tree is a binary Merkle tree over shards, as many as a power of two: one hash
// stands for all of them, and a short proof for one of them against that hash.
type Tree struct {
	// levels are the hashes from the leaves up to the root alone.
	levels [][]Hash
}

// NewTree builds the tree of the hashes of all shards, in their order. It panics
// when their number is no power of two.
func NewTree(leaves []Hash) *Tree {
	if bits.OnesCount(uint(len(leaves))) != 1 {
		panic(fmt.Sprintf("receipt: a tree of %d shards", len(leaves)))
	}
	tree := &Tree{levels: [][]Hash{leaves}}
	for level := leaves; len(level) > 1; {
		above := make([]Hash, len(level)/2)
		for i := range above {
			above[i] = node(level[2*i], level[2*i+1])
		}
		tree.levels = append(tree.levels, above)
		level = above
	}
	return tree
}

// Root is the hash that stands for all shards.
func (t *Tree) Root() Hash { return t.levels[len(t.levels)-1][0] }

// Proof is the hashes beside the way from a shard up to the root.
func (t *Tree) Proof(shard int) []Hash {
	proof := make([]Hash, 0, len(t.levels)-1)
	for _, level := range t.levels[:len(t.levels)-1] {
		proof = append(proof, level[shard^1])
		shard /= 2
	}
	return proof
}

// proves reports whether a proof leads from a shard's hash, at its place among as many, to the root.
func proves(root, leaf Hash, shard, shards int, proof []Hash) bool {
	if shard < 0 || shard >= shards || len(proof) != bits.TrailingZeros(uint(shards)) {
		return false
	}
	at := leaf
	for _, beside := range proof {
		if shard%2 == 0 {
			at = node(at, beside)
		} else {
			at = node(beside, at)
		}
		shard /= 2
	}
	return at == root
}

// Leaves and nodes are hashed apart, so that neither passes for the other.
const (
	leafLabel = 0
	nodeLabel = 1
)

func node(left, right Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = nodeLabel
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// leaf hashes lists of texts: how many, and each with its length, so that no two lists give the same bytes.
func leaf(lists ...[]string) Hash {
	h := sha256.New()
	_, _ = h.Write([]byte{leafLabel})
	var number [8]byte
	write := func(n int) {
		binary.BigEndian.PutUint64(number[:], uint64(n))
		_, _ = h.Write(number[:])
	}
	for _, list := range lists {
		write(len(list))
		for _, text := range list {
			write(len(text))
			_, _ = h.Write([]byte(text))
		}
	}
	return Hash(h.Sum(nil))
}
