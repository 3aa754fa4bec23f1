package auditchain

import (
	"fmt"
	"iter"
	"time"
)

// Checkpoint is what a chain's head was at one time, kept outside the database that holds the chain. Signed says so in a form
// that package receipt verifies; the other fields are worth as much as whoever told them.
type Checkpoint struct {
	// Number counts a tenant's checkpoints from 1, without a gap. Those that are older than CheckpointsKept may be gone.
	Number int64     `json:"number"`
	Tenant string    `json:"tenant_id"`
	Seq    int64     `json:"seq"`
	Hash   Hash      `json:"hash"`
	At     time.Time `json:"at"`
	// Signed is a compact JWS.
	Signed string `json:"signed"`
}

// Link is the entry that was the head.
func (c Checkpoint) Link() Link { return Link{c.Seq, c.Hash} }

// Disagreement is a checkpoint that a chain does not agree with: the entry that it names was rewritten, or is not there any
// more, after the checkpoint was written.
type Disagreement struct {
	Checkpoint Checkpoint
	// Found is what the chain has at that number; the zero Hash when it has nothing there.
	Found Hash
}

// String names the checkpoint and the entry.
func (d Disagreement) String() string {
	what := "the entry is not there"
	if d.Found != (Hash{}) {
		what = "the entry was rewritten"
	}
	return fmt.Sprintf("checkpoint %d of %s disagrees at entry %d: %s", d.Checkpoint.Number, d.Checkpoint.At.UTC().Format(time.RFC3339), d.Checkpoint.Seq, what)
}

const (
	// Kept is for how long entries are kept at least.
	Kept = 90 * 24 * time.Hour
	// Due is how old an entry may be without a checkpoint. One is written each minute; what is more is for a watch that is late.
	Due = 10 * time.Minute
	// CheckpointsKept is for how long checkpoints are kept at least: eleven years, longer than any entry, of which none is kept for
	// more than 3,660 days and the rest of its month.
	CheckpointsKept = 11 * 365 * 24 * time.Hour
)

// FollowsExpired says whether checkpoints in front of this one may be gone, as of now, because they were old. Its time must be one that
// a root signed. One that is younger than CheckpointsKept has its predecessor: of whatever lies in front of it, somebody took it away.
func (c Checkpoint) FollowsExpired(now time.Time) bool { return now.Sub(c.At) > CheckpointsKept }

// Comparison compares a chain with its checkpoints while the chain is verified.
type Comparison struct {
	// Compared is how many checkpoints there were an entry for, or should have been. Those of entries that were dropped because
	// they were old are not.
	Compared int
	// First is the first checkpoint that disagrees; nil when none does.
	First *Disagreement
	// Dropped is the last checkpoint of an entry that is not kept any more; nil when there is none.
	Dropped *Checkpoint
	// Uncovered is when the first entry beyond the last checkpoint was written; the zero Time when there is none. From is its number.
	Uncovered time.Time
	From      int64
}

// Problems are what does not agree, as of now, in words: the first checkpoint that disagrees, entries that were dropped before
// they were old, and entries that should have a checkpoint by now and have none, which whoever rewrote them may have seen to.
func (c *Comparison) Problems(now time.Time) (all []string) {
	if c.First != nil {
		all = append(all, c.First.String())
	}
	if d := c.Dropped; d != nil && now.Sub(d.At) < Kept {
		all = append(all, fmt.Sprintf("checkpoint %d of %s: the entry %d was dropped before it was old", d.Number, d.At.UTC().Format(time.RFC3339), d.Seq))
	}
	if !c.Uncovered.IsZero() && now.Sub(c.Uncovered) > Due {
		all = append(all, fmt.Sprintf("entry %d of %s and what follows have no checkpoint: the watch does not write them, or somebody kept it from it", c.From, c.Uncovered.UTC().Format(time.RFC3339)))
	}
	return all
}

// Compare passes entries on, in the order of the chain, and compares them with the checkpoints, which are in theirs. The
// comparison is complete when the entries have been read to their end.
func Compare(chain Chain, points []Checkpoint, entries iter.Seq2[Entry, error]) (*Comparison, iter.Seq2[Entry, error]) {
	c := &Comparison{}
	judge := func(p Checkpoint, found Hash) {
		c.Compared++
		if found != p.Hash && c.First == nil {
			c.First = &Disagreement{p, found}
		}
	}
	return c, func(yield func(Entry, error) bool) {
		rest := points
		last := int64(0)
		if len(points) > 0 {
			last = points[len(points)-1].Seq
		}
		for len(rest) > 0 && rest[0].Seq <= chain.Start.Seq {
			if rest[0].Seq == chain.Start.Seq {
				judge(rest[0], chain.Start.Hash)
			} else {
				c.Dropped = &rest[0]
			}
			rest = rest[1:]
		}
		for e, err := range entries {
			if err != nil {
				yield(e, err)
				return
			}
			for len(rest) > 0 && rest[0].Seq < e.Seq {
				judge(rest[0], Hash{})
				rest = rest[1:]
			}
			// What the entry says counts, and not only what it says its hash is.
			for len(rest) > 0 && rest[0].Seq == e.Seq {
				judge(rest[0], Sum(chain.Tenant, &e))
				rest = rest[1:]
			}
			if e.Seq > last && c.From == 0 {
				c.Uncovered, c.From = e.At, e.Seq
			}
			if !yield(e, nil) {
				return
			}
		}
		for _, p := range rest {
			judge(p, Hash{})
		}
	}
}
