package client

import "time"

// Kind is what happened to a seat.
type Kind string

// What the holder of a seat hears.
const (
	// Unreachable: a heartbeat was not answered. The seat is believed in until Event.Until.
	Unreachable Kind = "unreachable"
	// Lapsed: the seat is not believed in any more, and asked for again. It is told anew when the reason changes.
	Lapsed Kind = "lapsed"
	// Waiting: the seat is asked for again and has a place in the queue. It is told anew when the place changes.
	Waiting Kind = "waiting"
	// Confirmed: the service answers again, and the session is the same as before.
	Confirmed Kind = "confirmed"
	// Reacquired: there is a seat again, in another session than before.
	Reacquired Kind = "reacquired"
	// Draining: the licence has fewer seats now. Finish and release; at Event.Until the session is ended.
	Draining Kind = "draining"
	// Lost: somebody ended the session, or the licence grants no seats any more. It is over.
	Lost Kind = "lost"
	// Released: the seat was given back, or its context has ended. It is over.
	Released Kind = "released"
)

// Event is something that happened to a seat.
type Event struct {
	Kind Kind
	// Code and Reason say why: Code is the service's word, such as "seat_evicted", and Reason what is behind it, such as
	// "license_suspended". Both are "" where the service said nothing.
	Code, Reason string
	// By says who did it, as the service names them; "" = nobody.
	By string
	// At is when: by the service's clock where it said so, otherwise by this machine's.
	At time.Time
	// Until is when what is told of ends, by this machine's clock for Unreachable; zero = that is not known.
	Until time.Time
	// Place is that of Waiting.
	Place Place
	// Err is what was answered, or why nothing was; nil for good news.
	Err error
}
