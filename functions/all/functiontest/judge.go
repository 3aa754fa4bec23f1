package functiontest

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Verdict is what a judge says of many lives.
type Verdict struct {
	// Lives and Beliefs are how many there were, and how many holders at most believed at one moment in one licence.
	Lives, Most int
	// Over is how many times a licence got a believing holder beyond its seats, and Shared how many times a holder got a seat
	// in which another one believed. Example describes the first of them.
	Over, Shared int
	Example      string
	// Lost are live holders that were told no although they had not been evicted, with what they were told.
	Lost []string
	// Revived are sessions that were renewed after their release or eviction had been answered. Recalled is how many were renewed
	// so by a Redis that had just been promoted, or demoted, and did not know of it, or in a pool just built from rows read before
	// that; Untold how many evicted ones before the sweep could have told their pool.
	Revived          []string
	Recalled, Untold int
	// Released and Evicted are how many of both were answered, Starved how many holders stopped by themselves because they
	// were told to try later for a whole lease.
	Released, Evicted, Starved int
}

// Eviction is one that an administrator tried.
type Eviction struct {
	Session  uuid.UUID
	Answered Instant // 0 = it failed, and may have been done all the same
}

// Span is a time.
type Span struct{ From, To Instant }

// Case is what a judge goes by: what holders wrote down, how many seats each licence has, which sessions an administrator tried
// to evict, and when a pool may have been one that did not know what had been answered.
type Case struct {
	Lives     []Life
	Seats     map[uuid.UUID]int
	Evictions []Eviction
	Failovers []Span
	// Told is how long after an eviction was answered the sweep may have to tell the pool, when that could not be told at once.
	Told time.Duration
}

// Judge judges a case.
func Judge(c Case) Verdict {
	v := Verdict{Lives: len(c.Lives)}
	forgot := func(at Instant) bool {
		return slices.ContainsFunc(c.Failovers, func(s Span) bool { return at >= s.From && at <= s.To })
	}
	evicted := map[uuid.UUID]Instant{}
	for _, e := range c.Evictions {
		evicted[e.Session] = max(evicted[e.Session], e.Answered)
		if e.Answered != 0 {
			v.Evicted++
		}
	}
	believed := map[uuid.UUID][]Life{}
	for _, l := range c.Lives {
		at, tried := evicted[l.Session]
		if l.Refused != "" && !tried {
			v.Lost = append(v.Lost, fmt.Sprintf("session %s on seat %d heard %s", l.Session, l.Seat, l.Refused))
		}
		switch {
		case l.Revived != 0 && forgot(l.Revived), at != 0 && l.Renewed > at && forgot(l.Renewed):
			v.Recalled++
		case at != 0 && l.Renewed > at && l.Renewed <= at.Add(c.Told):
			v.Untold++
		case l.Revived != 0, at != 0 && l.Renewed > at:
			v.Revived = append(v.Revived, fmt.Sprintf("session %s was renewed %s after its eviction or %s after it began to give its seat back",
				l.Session, time.Duration(l.Renewed-at), time.Duration(l.Revived-l.Until)))
		}
		if l.Released {
			v.Released++
		}
		if l.Starved {
			v.Starved++
		}
		believed[l.License] = append(believed[l.License], l)
	}
	for license, lives := range believed {
		v.crowd(lives, c.Seats[license])
	}
	return v
}

// crowd walks through the beliefs of a licence in the order of time.
func (v *Verdict) crowd(lives []Life, seats int) {
	type edge struct {
		at    Instant
		begin bool
		life  *Life
	}
	var edges []edge
	for i := range lives {
		if l := &lives[i]; l.Until > l.From {
			edges = append(edges, edge{l.From, true, l}, edge{l.Until, false, l})
		}
	}
	rank := map[bool]int{false: 0, true: 1} // who stops at a moment makes room for who begins at it
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(rank[a.begin], rank[b.begin])) })
	sits, sessions := map[int]*Life{}, map[uuid.UUID]int{}
	for _, e := range edges {
		if !e.begin {
			if sessions[e.life.Session]--; sessions[e.life.Session] == 0 {
				delete(sessions, e.life.Session)
			}
			if sits[e.life.Seat] == e.life {
				delete(sits, e.life.Seat)
			}
			continue
		}
		sessions[e.life.Session]++
		v.Most = max(v.Most, len(sessions))
		other := sits[e.life.Seat]
		sits[e.life.Seat] = e.life
		over := len(sessions) > seats && sessions[e.life.Session] == 1
		shared := other != nil && other.Session != e.life.Session
		if over {
			v.Over++
		}
		if shared {
			v.Shared++
		}
		if (over || shared) && v.Example == "" {
			v.Example = fmt.Sprintf("%d believed in %d seats when session %s began on seat %d", len(sessions), seats, e.life.Session, e.life.Seat)
			if shared {
				v.Example += fmt.Sprintf(", in which session %s still believed for %s", other.Session, time.Duration(other.Until-e.at))
			}
		}
	}
}

// Holds says whether the promise was kept: nobody too many, nobody lost, and nothing that ended came back. Of what the protocol
// leaves open, Recalled, Untold and Unheard tell.
func (v *Verdict) Holds() bool {
	return v.Over == 0 && v.Shared == 0 && len(v.Lost) == 0 && len(v.Revived) == 0
}
