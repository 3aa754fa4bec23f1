package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// state is what a client is doing.
type state int

const (
	rests state = iota
	sits
	waits
	turnedAway
	crashed
)

// actor is a client as the audience sees it.
type actor struct {
	name  string
	state state
	// seat, and until when it believes in it: also when it has crashed, for all that others can know.
	seat     int
	believes time.Time
	// place in the queue.
	place int
	// died is when it crashed; freed that its seat was taken by another since.
	died  time.Time
	freed bool
}

// stage is where the clients act. It keeps what each does, and counts who believes.
type stage struct {
	begun time.Time
	lease time.Duration
	tell  func(line string) // what has just happened

	mu       sync.Mutex
	actors   map[string]*actor
	most     int      // believing at once
	faults   []string // more believing than seats, or two on one
	sessions int
	released int
	lapsed   int
	refused  int
	longest  int      // queue
	freed    []string // how the seats of the crashed came free
}

func newStage(lease time.Duration) *stage {
	return &stage{begun: time.Now(), lease: lease, actors: map[string]*actor{}, tell: func(string) {}}
}

// change lets a client do something; happens is the line that tells of it, or "".
func (s *stage) change(name string, do func(a *actor) (happens string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.actors[name]
	if a == nil {
		a = &actor{name: name}
		s.actors[name] = a
	}
	if line := do(a); line != "" {
		s.tell(fmt.Sprintf("%5.1f s  %s %s", time.Since(s.begun).Seconds(), name, line))
	}
	s.count(time.Now())
}

// count is the audit: who believes now, and on which seat.
func (s *stage) count(now time.Time) int {
	believing, on := 0, map[int]string{}
	for _, a := range s.actors {
		if !now.Before(a.believes) {
			continue
		}
		believing++
		if other, ok := on[a.seat]; ok {
			s.fault(fmt.Sprintf("%s and %s both believe in seat %d", min(other, a.name), max(other, a.name), a.seat))
		}
		on[a.seat] = a.name
	}
	if believing > seats {
		s.fault(fmt.Sprintf("%d clients believe in %d seats", believing, seats))
	}
	s.most = max(s.most, believing)
	return believing
}

// fault notes what must never be, once.
func (s *stage) fault(what string) {
	if !slices.Contains(s.faults, what) {
		s.faults = append(s.faults, what)
	}
}

// overAdmitted says whether there were ever too many.
func (s *stage) overAdmitted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.faults) > 0
}

func (s *stage) sits(name string, seat int, believes time.Time) {
	s.change(name, func(a *actor) string {
		a.state, a.seat, a.believes = sits, seat, believes
		s.sessions++
		for _, dead := range s.actors {
			if dead.state == crashed && dead.seat == seat && !dead.freed {
				dead.freed = true
				how := fmt.Sprintf("%s crashed, and %.1f s later its seat %d was %s's", dead.name, time.Since(dead.died).Seconds(), seat, name)
				s.freed = append(s.freed, how)
				return fmt.Sprintf("sits on seat %d, which %s's crash left behind", seat, dead.name)
			}
		}
		return fmt.Sprintf("sits on seat %d", seat)
	})
}

func (s *stage) keeps(name string, believes time.Time) {
	s.change(name, func(a *actor) string {
		a.believes = believes
		return ""
	})
}

func (s *stage) waits(name string, place int) {
	s.change(name, func(a *actor) string {
		moved := a.state != waits || a.place != place
		a.state, a.place = waits, place
		s.longest = max(s.longest, place)
		if !moved {
			return ""
		}
		return fmt.Sprintf("waits in place %d", place)
	})
}

func (s *stage) refuses(name, code string, again time.Duration) {
	s.change(name, func(a *actor) string {
		a.state = turnedAway
		s.refused++
		return fmt.Sprintf("is refused: %s, again in %d s", code, int(again.Seconds()))
	})
}

func (s *stage) rests(name string) {
	s.change(name, func(a *actor) string {
		a.state, a.believes = rests, time.Time{}
		return ""
	})
}

func (s *stage) releases(name string) {
	s.change(name, func(a *actor) string {
		a.state, a.believes = rests, time.Time{}
		s.released++
		return fmt.Sprintf("gives seat %d back", a.seat)
	})
}

func (s *stage) loses(name string, why error) {
	s.change(name, func(a *actor) string {
		a.state, a.believes = rests, time.Time{}
		s.lapsed++
		return fmt.Sprintf("has lost seat %d: %v", a.seat, why)
	})
}

func (s *stage) crashes(name string) {
	s.change(name, func(a *actor) string {
		a.state, a.died = crashed, time.Now()
		return fmt.Sprintf("crashes on seat %d", a.seat)
	})
}

// cast lists the actors in one state, in the order of what.
func (s *stage) cast(in state, what func(a *actor) int) []*actor {
	var list []*actor
	for _, a := range s.actors {
		if a.state == in {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b *actor) int {
		if c := what(a) - what(b); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	return list
}
