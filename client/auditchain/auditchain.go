// Package auditchain verifies a tenant's audit log from the entries alone, as GET /v1/audit answers them: that none was
// altered, dropped, inserted or moved. Each entry's hash covers all that it says and the hash of the entry before it.
//
// Whoever can write to the database and hashes everything anew from some entry on is not found out by this: against them
// helps a copy of an earlier head, kept elsewhere. The package knows nothing of databases and of how entries are fetched.
package auditchain

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Entry is one act, with the names of GET /v1/audit.
type Entry struct {
	// Seq counts a tenant's entries from 1, without a gap.
	Seq int64 `json:"seq"`
	// At is exact to the millisecond, and never earlier than the entry before.
	At      time.Time `json:"at"`
	Action  string    `json:"action"`
	Outcome string    `json:"outcome"`
	Actor   string    `json:"actor"`
	// ByOperator says that the actor acted for the operator.
	ByOperator bool              `json:"by_operator"`
	Credential string            `json:"credential"`
	Address    string            `json:"address"`
	Subject    string            `json:"subject"`
	RequestID  string            `json:"request_id"`
	Details    map[string]string `json:"details"`
	Previous   Hash              `json:"previous_hash"`
	Hash       Hash              `json:"hash"`
}

// Hash is a SHA-256, written in hexadecimal. The zero Hash is before the first entry.
type Hash [sha256.Size]byte

// String is the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes the hash in hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads a hash in hexadecimal.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("a hash has %d hexadecimal digits", hex.EncodedLen(len(h)))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// Link is a place in a chain: an entry's number and hash.
type Link struct {
	Seq  int64 `json:"seq"`
	Hash Hash  `json:"hash"`
}

// Chain is where a tenant's chain begins and ends, as GET /v1/audit answers it.
type Chain struct {
	// Tenant is the tenant's id, which every hash covers.
	Tenant string `json:"tenant_id"`
	// Start is the last entry that was dropped because it was old; the zero Link when none was.
	Start Link `json:"start"`
	// Head is the last entry.
	Head Link `json:"head"`
}

// Sum is the hash that the entry of the tenant must have.
func Sum(tenant string, e *Entry) Hash {
	var b []byte
	field := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	operator := "0"
	if e.ByOperator {
		operator = "1"
	}
	for _, s := range []string{
		"usher-audit-1", tenant, strconv.FormatInt(e.Seq, 10), strconv.FormatInt(e.At.UnixMilli(), 10), e.Action, e.Outcome,
		e.Actor, operator, e.Credential, e.Address, e.Subject, e.RequestID,
	} {
		field(s)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Details)) {
		field(name)
		field(e.Details[name])
	}
	return sha256.Sum256(append(b, e.Previous[:]...))
}

// Problem is what is wrong with a chain at one entry.
type Problem struct {
	// Seq is the entry's number; of missing entries that of the first, and Last that of the last.
	Seq, Last int64
	Kind      Kind
}

// Kind is what can be wrong with an entry.
type Kind string

// The kinds.
const (
	// Altered: what the entry says, or its hash, is not what was written.
	Altered Kind = "altered"
	// Missing: there is no such entry.
	Missing Kind = "missing"
	// Inserted: the entry was never written by the chain.
	Inserted Kind = "inserted"
)

// String names the entry.
func (p Problem) String() string {
	switch {
	case p.Kind == Missing && p.Last > p.Seq:
		return fmt.Sprintf("entries %d to %d are missing", p.Seq, p.Last)
	case p.Kind == Missing:
		return fmt.Sprintf("entry %d is missing", p.Seq)
	case p.Kind == Inserted:
		return fmt.Sprintf("entry %d was inserted", p.Seq)
	default:
		return fmt.Sprintf("entry %d was altered", p.Seq)
	}
}

// Result is what a verification found.
type Result struct {
	// Entries that were read.
	Entries int64
	// Problems in the order of the chain; none when all is as it was written.
	Problems []Problem
}

// Verify reads the whole of what is kept of a chain, in its order, and says what is wrong with it. An error is that of the
// entries, which then were not read to their end.
func Verify(chain Chain, entries iter.Seq2[Entry, error]) (Result, error) {
	v := verification{chain: chain, at: chain.Start.Seq}
	var before, same []Entry // of one number each; usually one
	for e, err := range entries {
		if err != nil {
			return v.Result, err
		}
		v.Entries++
		if len(same) > 0 && e.Seq != same[0].Seq {
			v.settle(before, same)
			before, same = same, nil
		}
		same = append(same, e)
	}
	v.settle(before, same)
	v.settle(same, nil)
	v.gap(chain.Head.Seq + 1)
	return v.Result, nil
}

// verification walks along a chain.
type verification struct {
	Result
	chain Chain
	// at is the number of the entry that the walk has come to.
	at int64
}

// settle judges the entries of one number, of which at most one was written by the chain; next are those after them.
func (v *verification) settle(same, next []Entry) {
	if len(same) == 0 {
		return
	}
	seq := same[0].Seq
	if seq <= v.at || seq > v.chain.Head.Seq {
		// What stands where it cannot was put there, or its time was altered.
		v.add(len(same), Problem{Seq: seq, Kind: Inserted})
		return
	}
	v.gap(seq)
	v.at = seq
	known := func(e *Entry) bool {
		return v.isFollowed(e, next) && (seq != v.chain.Start.Seq+1 || e.Previous == v.chain.Start.Hash)
	}
	whole := func(e *Entry) bool { return Sum(v.chain.Tenant, e) == e.Hash }
	written := slices.ContainsFunc(same, func(e Entry) bool { return whole(&e) && known(&e) })
	if !written {
		v.add(1, Problem{Seq: seq, Kind: Altered})
	}
	v.add(len(same)-1, Problem{Seq: seq, Kind: Inserted})
}

// isFollowed reports whether what comes after an entry was chained to it. Nothing speaks against it where the next is
// missing, or is not what was written itself.
func (v *verification) isFollowed(e *Entry, next []Entry) bool {
	if e.Seq == v.chain.Head.Seq {
		return e.Hash == v.chain.Head.Hash
	}
	judges := 0
	for i := range next {
		if n := &next[i]; n.Seq == e.Seq+1 && Sum(v.chain.Tenant, n) == n.Hash {
			if n.Previous == e.Hash {
				return true
			}
			judges++
		}
	}
	return judges == 0
}

// gap notes what is missing before the number.
func (v *verification) gap(seq int64) {
	if seq > v.at+1 {
		v.add(1, Problem{Seq: v.at + 1, Last: seq - 1, Kind: Missing})
	}
}

func (v *verification) add(times int, p Problem) {
	for range times {
		v.Problems = append(v.Problems, p)
	}
}
