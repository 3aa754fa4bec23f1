package tenancy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

const (
	// commitsAtOnce is how many shared transactions may be under way: while one waits for its commit, the next is filled.
	commitsAtOnce = 2
	// shareMost is how many calls one transaction may carry, so that the last does not make the first wait for long.
	shareMost = 64
)

// commits are the shared transactions of a DB.
type commits struct {
	mu       sync.Mutex
	waiting  []*sharer
	underWay int
}

// sharer is one call of Share.
type sharer struct {
	ctx   context.Context
	id    ID
	order string
	fn    func(b *Batch)
	done  chan error // takes one
}

// Share is Batch, but the transaction may be shared with other such calls that come at the same time, of other tenants
// too: committing costs more than the work itself, and many can share one commit. Each call's statements run with its own
// tenant set and see that tenant's rows alone. A call that comes alone does not wait for others.
//
// What is shared must be safe to repeat, because when a statement of somebody fails, everybody's work is done again by
// itself. It must not wait for locks that are held for longer than a commit: all would wait with it. Calls that lock the
// same rows give an order, by which the statements of one transaction are sorted, so that two of them do not deadlock.
// When Share fails, what callbacks write to must not be looked at: a call that gave up waiting may still be carried out,
// so that its error is one of those with errors.Is(err, ErrInDoubt).
func (db *DB) Share(ctx context.Context, id ID, order string, fn func(b *Batch)) error {
	s := &sharer{ctx, id, order, fn, make(chan error, 1)}
	c := &db.commits
	c.mu.Lock()
	c.waiting = append(c.waiting, s)
	leaves := c.underWay < commitsAtOnce
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
	case <-ctx.Done():
		return faultOf(fmt.Errorf("%w: %w", ErrInDoubt, ctx.Err()))
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
		c.mu.Unlock()
		db.commitTogether(aboard)
	}
}

func (db *DB) commitTogether(aboard []*sharer) {
	aboard = slices.DeleteFunc(aboard, func(s *sharer) bool { return s.ctx.Err() != nil }) // nobody waits for these
	if len(aboard) == 1 {
		aboard[0].done <- db.Batch(aboard[0].ctx, aboard[0].id, aboard[0].fn)
		return
	}
	slices.SortStableFunc(aboard, func(a, b *sharer) int { return strings.Compare(a.order, b.order) })
	err := db.deliver(context.Background(), func(b *Batch) {
		for _, s := range aboard {
			b.batch.Queue(setTenant, s.id.String())
			s.fn(b)
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
		go func() { s.done <- db.Batch(s.ctx, s.id, s.fn) }()
	}
}
