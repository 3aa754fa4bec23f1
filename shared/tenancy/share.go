package tenancy

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// patience is how long a shared transaction is waited for before another leaves beside it. The more come together in
	// one, the less each of them costs.
	patience = 20 * time.Millisecond
	// commitsAtOnce is how many shared transactions may be under way: one that stalls does not keep everybody.
	commitsAtOnce = 2
	// shareMost is how many calls one transaction may carry, so that the last does not make the first wait for long.
	shareMost = 64
)

// commits are the shared transactions of a DB.
type commits struct {
	mu       sync.Mutex
	waiting  []*sharer
	underWay int
	left     time.Time // the latest
}

// Joint is work that is done for many calls at once. Together queues it for calls of one tenant: for all that a shared
// transaction carries, or for one alone.
type Joint[C any] struct {
	Together func(b *Batch, calls []C)
}

// sharer is one call of Share.
type sharer struct {
	ctx   context.Context
	id    ID
	order string
	joint any // whose call it is
	call  any
	queue func(b *Batch, aboard []*sharer)
	done  chan error // takes one
}

// Share is Batch for a call of the joint work, but the transaction may be shared with other such calls that come at the
// same time, of other tenants too: committing costs more than the work itself, and many can share one commit. The calls of
// one tenant are done together; the statements of each tenant run with that tenant set and see its rows alone. A call that
// comes alone does not wait for others.
//
// What is shared must be safe to repeat, because when a statement of somebody fails, everybody's work is done again by
// itself. It must not wait for locks that are held for longer than a commit: all would wait with it. Calls that lock the
// same rows give an order, by which those of one tenant are sorted, so that two transactions do not deadlock.
// When Share fails, what callbacks write to must not be looked at: a call that gave up waiting may still be carried out,
// so that its error is one of those with errors.Is(err, ErrInDoubt).
func Share[C any](ctx context.Context, db *DB, id ID, joint *Joint[C], order string, call C) error {
	queue := func(b *Batch, aboard []*sharer) {
		calls := make([]C, len(aboard))
		for i, s := range aboard {
			calls[i], _ = s.call.(C)
		}
		joint.Together(b, calls)
	}
	return db.share(&sharer{ctx, id, order, joint, call, queue, make(chan error, 1)})
}

func (db *DB) share(s *sharer) error {
	c := &db.commits
	c.mu.Lock()
	c.waiting = append(c.waiting, s)
	leaves := c.underWay == 0 || c.underWay < commitsAtOnce && time.Since(c.left) > patience
	if leaves {
		c.underWay++
	}
	c.mu.Unlock()
	if leaves {
		go db.commit()
	}
	select {
	case err := <-s.done:
		return err
	case <-s.ctx.Done():
		return faultOf(fmt.Errorf("%w: %w", ErrInDoubt, s.ctx.Err()))
	}
}

// commit commits what waits, until nothing does.
func (db *DB) commit() {
	c := &db.commits
	for {
		c.mu.Lock()
		n := min(len(c.waiting), shareMost)
		aboard := c.waiting[:n:n]
		c.waiting = c.waiting[n:]
		if n == 0 {
			c.waiting = nil
			c.underWay--
			c.mu.Unlock()
			return
		}
		c.left = time.Now()
		c.mu.Unlock()
		impatient := time.AfterFunc(patience, db.another)
		db.commitTogether(aboard)
		impatient.Stop()
	}
}

// another starts a transaction beside one that keeps somebody waiting.
func (db *DB) another() {
	c := &db.commits
	c.mu.Lock()
	leaves := len(c.waiting) > 0 && c.underWay < commitsAtOnce
	if leaves {
		c.underWay++
	}
	c.mu.Unlock()
	if leaves {
		db.commit()
	}
}

func (db *DB) commitTogether(aboard []*sharer) {
	aboard = slices.DeleteFunc(aboard, func(s *sharer) bool { return s.ctx.Err() != nil }) // nobody waits for these
	if len(aboard) == 1 {
		db.commitAlone(aboard[0])
		return
	}
	slices.SortStableFunc(aboard, func(a, b *sharer) int {
		return cmp.Or(bytes.Compare(a.id.id[:], b.id.id[:]), strings.Compare(a.order, b.order))
	})
	err := db.deliver(context.Background(), func(b *Batch) {
		for of := range groups(aboard) {
			b.batch.Queue(setTenant, of[0].id.String())
			of[0].queue(b, of)
		}
	})
	if err == nil || isBroken(err) {
		for _, s := range aboard {
			s.done <- faultOf(err)
		}
		return
	}
	// Somebody's statement failed, or a callback did: alone, each gets its own answer.
	for _, s := range aboard {
		go db.commitAlone(s)
	}
}

func (db *DB) commitAlone(s *sharer) {
	s.done <- db.Batch(s.ctx, s.id, func(b *Batch) { s.queue(b, []*sharer{s}) })
}

// groups are the runs of calls of one joint work and one tenant.
func groups(aboard []*sharer) iter.Seq[[]*sharer] {
	return func(yield func([]*sharer) bool) {
		for len(aboard) > 0 {
			n := 1
			for n < len(aboard) && aboard[n].id == aboard[0].id && aboard[n].joint == aboard[0].joint {
				n++
			}
			if !yield(aboard[:n:n]) {
				return
			}
			aboard = aboard[n:]
		}
	}
}
