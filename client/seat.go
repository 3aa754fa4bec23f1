package client

import (
	"context"
	"time"
)

// Seat is a seat that is held, and kept by heartbeats. Its methods may be called by several goroutines.
type Seat struct {
	events chan Event
	done   chan struct{}
}

// Status is what is known of a seat at a moment.
type Status struct {
	SessionID string
	SeatNo    int
	// Overdraft says that the seat is beyond the licence's own number.
	Overdraft             bool
	ActiveSeats, MaxSeats int
	// TTL is how long an answer is believed, from sending the question.
	TTL time.Duration
	// ExpiresAt is the end of the lease by the service's clock, for display.
	ExpiresAt time.Time
	// Draining says that the licence has fewer seats now; DrainUntil when the session will be ended.
	Draining   bool
	DrainUntil time.Time
	// BorrowedUntil is when a borrowed seat comes back; zero = it is not borrowed.
	BorrowedUntil time.Time
	// Offline says that the seat is believed because of a receipt alone.
	Offline bool
	// Receipt is the last signed statement about the seat.
	Receipt string
}

// Valid says whether the seat is believed in now: an answer promised it, and the promise, counted from sending the question
// on a clock that runs while the machine sleeps, has not run out. It asks nobody.
func (s *Seat) Valid() bool { return false }

// Status tells of the seat as of the last answer.
func (s *Seat) Status() Status { return Status{} }

// Events tells what happens to the seat. Nobody has to listen: when sixteen are waiting, the oldest makes room. It is
// closed after Lost or Released.
func (s *Seat) Events() <-chan Event { return s.events }

// Done is closed when the seat is over: released, or lost for good.
func (s *Seat) Done() <-chan struct{} { return s.done }

// Err says why the seat is not valid: nil while it is and when it was released, ErrLapsed while it is asked for again, and a
// Refusal when it is lost.
func (s *Seat) Err() error { return nil }

// Release gives the seat back at once and ends the heartbeats; again, it does nothing. It takes at most five seconds; with
// an error, the seat comes free by itself when its lease is over. A borrowed seat stays borrowed: Return ends that.
func (s *Seat) Release() error { return nil }

// Borrowed is a seat that needs no heartbeats for a while.
type Borrowed struct {
	Until time.Time
	// Receipt proves it offline.
	Receipt string
}

// Borrow keeps the seat until then without heartbeats, for a machine that goes offline, and writes the receipt to the
// client's ReceiptFile, where it has one.
func (s *Seat) Borrow(ctx context.Context, until time.Time) (Borrowed, error) { return Borrowed{}, nil }

// Return gives a seat back that may be borrowed, and removes its receipt.
func (s *Seat) Return(ctx context.Context) error { return nil }
