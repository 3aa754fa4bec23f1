package client

import (
	"errors"
	"time"
)

var (
	// ErrNoSeats says that all seats of the licence are taken. The Refusal says how many there are and when to try again.
	ErrNoSeats = errors.New("all seats of this licence are taken")
	// ErrUnreachable says that nobody answered, or somebody who is not Usher.
	ErrUnreachable = errors.New("usher cannot be reached")
	// ErrLapsed says that a seat is not believed in at the moment.
	ErrLapsed = errors.New("the seat is not confirmed")
)

// Refusal is an answer of the service that is not what was asked for. It is ErrNoSeats when it says so.
type Refusal struct {
	Status int `json:"status"`
	// Code is the stable word for it, Detail a sentence that a user can act on.
	Code      string       `json:"code"`
	Detail    string       `json:"detail"`
	RequestID string       `json:"request_id"`
	Fields    []FieldFault `json:"errors"`
	// RetryAfter is when to try again; 0 = it does not help.
	RetryAfter time.Duration `json:"-"`
	// ActiveSeats and MaxSeats tell of a licence whose seats are taken.
	ActiveSeats int `json:"active_seats"`
	MaxSeats    int `json:"max_seats"`
	// Reason, EndedBy and EndedAt tell of a session that has ended: why, by whom and when.
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
func (r *Refusal) Error() string { return r.Detail + " (" + r.Code + ")" }

// Is says whether the refusal is ErrNoSeats.
func (r *Refusal) Is(target error) bool {
	return target == ErrNoSeats && r.Code == "no_seats_available" //nolint:errorlint // Is is asked about this very error
}
