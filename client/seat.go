package client

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"
)

// Seat is a seat that is held, and kept by heartbeats. Its methods may be called by several goroutines.
type Seat struct {
	line   *line
	drawer *drawer
	ctx    context.Context // the seat's life
	leave  context.CancelFunc
	events chan Event
	done   chan struct{}
	kick   chan struct{} // wakes the keeper: the clock has run on

	mu     sync.Mutex
	until  instant // the end of the promise; 0 = there is none
	token  string
	status Status
	err    error // why there is no promise
	stays  bool  // the seat is over, and its session stays borrowed
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
// on a clock that runs while the machine sleeps, has not run out. It asks nobody, and costs next to nothing.
func (s *Seat) Valid() bool {
	s.mu.Lock()
	until := s.until
	s.mu.Unlock()
	if s.line.now() < until {
		return true
	}
	select {
	case s.kick <- struct{}{}:
	default: // it has been woken
	}
	return false
}

// Status tells of the seat as of the last answer.
func (s *Seat) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Events tells what happens to the seat. Nobody has to listen: when sixteen events are waiting, the oldest makes room. It is
// closed after Lost or Released.
func (s *Seat) Events() <-chan Event { return s.events }

// Done is closed when the seat is over: given back, or lost for good.
func (s *Seat) Done() <-chan struct{} { return s.done }

// Err says why the seat is not valid; nil when it is. It is ErrLapsed while the seat is asked for again, ErrReleased when it
// was given back, and a Refusal when it is lost.
func (s *Seat) Err() error {
	if s.Valid() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		return ErrLapsed // a moment ago
	}
	return s.err
}

// Release gives the seat back at once and ends the heartbeats; again, it does nothing. It takes at most five seconds: when the
// service cannot be told, the seat comes free by itself at the end of its lease. A borrowed seat stays borrowed; Return ends
// that.
func (s *Seat) Release() {
	s.leave()
	<-s.done
}

// believe takes a grant's promise. What the session was promised before holds as well.
func (s *Seat) believe(g *grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := g.status
	if g.session == s.status.SessionID {
		g.until = max(g.until, s.until)
		next.BorrowedUntil = s.status.BorrowedUntil
		next.Receipt = cmp.Or(next.Receipt, s.status.Receipt)
	}
	s.until, s.token, s.status, s.err = g.until, g.token, next, nil
}

// doubt ends the promise, for a reason.
func (s *Seat) doubt(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until, s.err = 0, err
	s.status.BorrowedUntil, s.status.Offline = time.Time{}, false
}

// end ends the promise for good, for a reason, and answers which session there was, with its token. A Borrow
// whose answer comes later finds no session.
func (s *Seat) end(kind Kind, err error) (session, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token = s.token
	s.stays = kind == Released && !s.status.BorrowedUntil.IsZero()
	s.until, s.token, s.err = 0, "", err
	s.status.BorrowedUntil, s.status.Offline = time.Time{}, false
	return s.status.SessionID, token
}

// session is the one that the service can be asked about, with its token; "" = there is none at the moment.
func (s *Seat) session() (id, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.SessionID, s.token
}

func (s *Seat) promise() instant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until
}

func (s *Seat) bearer() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

// lapsed is ErrLapsed with what is behind it.
func lapsed(err error) error {
	if err == nil {
		return ErrLapsed
	}
	return errors.Join(ErrLapsed, err)
}
