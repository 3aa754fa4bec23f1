package functiontest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/coditect/usher/functions/acquire"
)

// Instant is a moment by the machine's own monotonic clock, which every process of the machine reads alike and nobody can
// set, in nanoseconds.
type Instant int64

// Now reads the machine's monotonic clock.
func Now() Instant {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // there is no machine without it
	}
	return Instant(t.Nano())
}

// Add is the instant so much later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Life is one session as its holder lived it.
type Life struct {
	License uuid.UUID `json:"license"`
	Session uuid.UUID `json:"session"`
	Seat    int       `json:"seat"`
	// The holder believed From hearing yes Until its lease, counted from sending, ran out, or it heard no, or it sent that it
	// gives its seat back.
	From, Until Instant
	// Renewed is when it sent the last heartbeat that was answered yes.
	Renewed Instant `json:",omitzero"`
	// Refused is what a heartbeat was answered while the holder believed; "" when that never happened.
	Refused string `json:",omitempty"`
	// Released says that the release was answered, Revived is when the session was renewed after that.
	Released bool    `json:",omitempty"`
	Revived  Instant `json:",omitzero"`
	// Starved says that the holder beat, was always told to try again, and stopped by itself when its lease was over.
	Starved bool `json:",omitempty"`
}

// Send sends a message to one of the functions of the seating, which is named as its path is, and answers the status and the
// body; an error when no answer came.
type Send func(function string, m Message) (int, []byte, error)

// Manner is how a holder lives.
type Manner struct {
	// Pace is how long it waits, on average, before it asks for a seat again, and Beat between heartbeats.
	Pace, Beat time.Duration
	// Stay is how long it keeps a seat on average; 0 = for ever.
	Stay time.Duration
	// Vanishes is how often, of a hundred times, it does not give its seat back and is never heard of again, but believes.
	Vanishes int
	// Credulous is by how many times it believes longer than it was told: 0 in an honest holder.
	Credulous int
}

// Holder is an honest client: it beats while it believes, asks for a seat when it has none, and asks again when it is told to
// try later or hears nothing.
type Holder struct {
	License License
	Name    string // of its device; a life later it comes with another
	Manner  Manner
	Send    Send
	// Each is called with every life that is over.
	Each func(Life)
	// Strange is called with what no holder should be answered.
	Strange func(string)

	// Seated says that it has a seat, Beats how many heartbeats were answered yes, and Later how often it was told to try later
	// or heard nothing.
	Seated atomic.Bool
	Beats  atomic.Int64
	Later  atomic.Int64
}

// Live lives life after life until stop is closed.
func (h *Holder) Live(stop <-chan struct{}) {
	for life := 0; ; {
		if !wait(stop, h.Manner.Pace) {
			return
		}
		sent := Now()
		status, body, err := h.Send("acquire", Message{Body: Ask(h.License, fmt.Sprint(h.Name, ".", life))})
		switch {
		case err != nil, status == http.StatusServiceUnavailable, status == http.StatusConflict && code(body) == "no_seats_available":
			if status != http.StatusConflict {
				h.Later.Add(1)
			}
		case status == http.StatusCreated || status == http.StatusOK:
			var a acquire.Answer
			if err := json.Unmarshal(body, &a); err != nil {
				h.Strange(fmt.Sprintf("acquire answered %.200s", body))
				continue
			}
			h.sit(a, sent, stop)
			life++
		default:
			h.Strange(fmt.Sprintf("acquire answered %d %.300s", status, body))
		}
	}
}

// wait waits about so long, and says whether to go on.
func wait(stop <-chan struct{}, about time.Duration) bool {
	t := time.NewTimer(about/2 + rand.N(about)) //nolint:gosec // a pace is no secret
	defer t.Stop()
	select {
	case <-stop:
		return false
	case <-t.C:
		return true
	}
}

// sit is a life.
func (h *Holder) sit(a acquire.Answer, sent Instant, stop <-chan struct{}) {
	h.Seated.Store(true)
	defer h.Seated.Store(false)
	lease := time.Duration(a.TTLSeconds) * time.Second * time.Duration(1+h.Manner.Credulous)
	life := Life{License: h.License.ID, Session: a.SessionID, Seat: a.SeatNo, From: Now(), Until: sent.Add(lease)}
	defer func() { h.Each(life) }()
	leaves := Instant(1<<63 - 1)
	if h.Manner.Stay > 0 {
		leaves = Now().Add(rand.N(2 * h.Manner.Stay)) //nolint:gosec // as above
	}
	m := Message{Token: a.SeatToken, Body: "{}"}
	for pace := h.Manner.Beat; ; {
		if !wait(stop, pace) {
			return // it believes until its lease is over
		}
		pace = h.Manner.Beat
		now := Now()
		switch {
		case now >= life.Until:
			life.Starved = true
			return
		case now >= leaves && rand.IntN(100) < h.Manner.Vanishes: //nolint:gosec // as above
			return
		case now >= leaves:
			life.Until = now
			h.leave(m, &life, stop)
			return
		}
		status, body, err := h.Send("heartbeat", m)
		switch {
		case err != nil, status == http.StatusServiceUnavailable:
			h.Later.Add(1)
			pace = min(pace, 100*time.Millisecond)
		case status == http.StatusOK:
			h.Beats.Add(1)
			life.Renewed = now
			life.Until = max(life.Until, now.Add(lease))
		case status == http.StatusGone:
			if heard := Now(); heard < life.Until {
				life.Refused = fmt.Sprintf("%d %s, %s before its lease was over: %s", status, code(body), time.Duration(life.Until-heard), body)
				life.Until = heard
			}
			return
		default:
			h.Strange(fmt.Sprintf("heartbeat answered %d %.300s", status, body))
			return
		}
	}
}

// leave gives the seat back, and tries again until that is answered. Now and then it beats after that.
func (h *Holder) leave(m Message, life *Life, stop <-chan struct{}) {
	for {
		status, body, err := h.Send("release", m)
		switch {
		case err != nil, status == http.StatusServiceUnavailable:
			h.Later.Add(1)
			if !wait(stop, 100*time.Millisecond) {
				return
			}
			continue
		case status != http.StatusOK:
			h.Strange(fmt.Sprintf("release answered %d %.300s", status, body))
			return
		}
		break
	}
	life.Released = true
	if rand.IntN(4) == 0 { //nolint:gosec // as above
		wait(stop, h.Manner.Beat)
		sent := Now()
		switch status, body, err := h.Send("heartbeat", m); {
		case err == nil && status == http.StatusOK:
			life.Revived = sent
		case err == nil && status != http.StatusGone && status != http.StatusServiceUnavailable:
			h.Strange(fmt.Sprintf("heartbeat after a release answered %d %.300s", status, body))
		}
	}
}

func code(body []byte) string { return Reply{Body: body}.Code() }

// Book holds the lives of many holders.
type Book struct {
	mu    sync.Mutex
	lives []Life
}

// Add adds a life.
func (b *Book) Add(l Life) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lives = append(b.lives, l)
}

// Lives are all lives that were added.
func (b *Book) Lives() []Life {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Life(nil), b.lives...)
}
