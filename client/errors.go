package client

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrNoSeats says that all seats of the licence are taken. The Refusal says how many there are and when to try again.
	ErrNoSeats = errors.New("all seats of this licence are taken")
	// ErrUnreachable says that nobody answered, or somebody who is not Usher.
	ErrUnreachable = errors.New("usher cannot be reached")
	// ErrLapsed says that a seat is not believed in at the moment, and asked for again.
	ErrLapsed = errors.New("the seat is not confirmed")
	// ErrReleased says that the seat was given back.
	ErrReleased = errors.New("the seat was released")
)

// Refusal is an answer of the service that is not what was asked for. It is ErrNoSeats when it says so.
type Refusal struct {
	Status int `json:"status"`
	// Code is the stable word for it, Detail a sentence that a user can act on.
	Code      string       `json:"code"`
	Detail    string       `json:"detail"`
	RequestID string       `json:"request_id"`
	Fields    []FieldFault `json:"errors"`
	// RetryAfter is when to try again; 0 = the service does not say.
	RetryAfter time.Duration `json:"-"`
	// ActiveSeats and MaxSeats tell of a licence whose seats are taken.
	ActiveSeats int `json:"active_seats"`
	MaxSeats    int `json:"max_seats"`
	// Reason, EndedBy and EndedAt tell of a session that has ended: why, by whom and when. They are zero where that is not
	// known, or nobody did.
	Reason  string    `json:"reason"`
	EndedBy string    `json:"ended_by"`
	EndedAt time.Time `json:"ended_at"`
}

// FieldFault is what is wrong with a field of a request.
type FieldFault struct {
	Field  string `json:"field"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// Error is the service's sentence, and its code.
func (r *Refusal) Error() string { return fmt.Sprintf("usher: %s (%s)", r.Detail, r.Code) }

// Is says whether the refusal is ErrNoSeats.
func (r *Refusal) Is(target error) bool {
	return target == ErrNoSeats && r.Code == "no_seats_available"
}

// final says that asking again does not help: the question, or the licence, would have to be another.
func (r *Refusal) final() bool {
	switch r.Status {
	case 400, 403, 413, 415, 422:
		return true
	default:
		return r.Code == "license_not_found"
	}
}

// withdrawn says that what the licence promised before is not to be believed any more either.
func (r *Refusal) withdrawn() bool {
	return r.Code == "license_revoked" || r.Code == "license_suspended" || r.Code == "tenant_suspended"
}

// silence is an ErrUnreachable, with what happened instead of an answer.
type silence struct {
	cause error
	// retryAfter is what a proxy said that answered in the service's stead; 0 = nothing.
	retryAfter time.Duration
	// futile says that it is a matter of configuration.
	futile bool
}

func (s *silence) Error() string   { return fmt.Sprintf("%v: %v", ErrUnreachable, s.cause) }
func (s *silence) Unwrap() []error { return []error{ErrUnreachable, s.cause} }

// retryAfter is what an error says about trying again; 0 = nothing.
func retryAfter(err error) time.Duration {
	var quiet *silence
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal.RetryAfter
	case errors.As(err, &quiet):
		return quiet.retryAfter
	default:
		return 0
	}
}
