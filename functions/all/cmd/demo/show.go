package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coditect/usher/functions/all/local"
)

const (
	width      = 24 // of a lease's bar
	lastEvents = 6
)

// show shows the stage until the returned function is called: drawn anew again and again when a person looks, otherwise
// a line for each event.
func (s *stage) show(lasts time.Duration) (stop func()) {
	fmt.Printf("%d clients, %d seats, a lease of %d s, for %d s\n\n", clients, seats, int(s.lease.Seconds()), int(lasts.Seconds()))
	if !local.IsTerminal(os.Stdout) {
		s.tell = func(line string) { fmt.Println(line) }
		return func() {}
	}
	var events []string
	s.tell = func(line string) {
		events = append(events, line)
		events = events[max(0, len(events)-lastEvents):]
	}
	paint := os.Getenv("NO_COLOR") == ""
	height := 0
	draw := func() {
		s.mu.Lock()
		frame := s.frame(time.Now(), lasts, events, paint)
		s.mu.Unlock()
		var b strings.Builder
		if height > 0 {
			fmt.Fprintf(&b, "\x1b[%dA", height)
		}
		for _, line := range frame {
			b.WriteString(line + "\x1b[K\n")
		}
		height = len(frame)
		fmt.Print(b.String())
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-tick.C:
				draw()
			case <-quit:
				tick.Stop()
				draw()
				return
			}
		}
	}()
	return func() { close(quit); <-done; fmt.Println() }
}

// frame is what is seen now, line by line, always as many lines.
func (s *stage) frame(now time.Time, lasts time.Duration, events []string, paint bool) []string {
	style := func(code, text string) string {
		if !paint {
			return text
		}
		return "\x1b[" + code + "m" + text + "\x1b[0m"
	}
	believing := s.count(now)
	frame := []string{fmt.Sprintf("%2d of %d seats held, never more than %d           %2.0f s left",
		believing, seats, s.most, max(0, lasts-now.Sub(s.begun)).Seconds()), ""}
	onSeat := map[int]*actor{}
	for _, a := range s.actors {
		if a.state == sits || a.state == crashed && !a.freed && onSeat[a.seat] == nil {
			onSeat[a.seat] = a
		}
	}
	for seat := 1; seat <= seats; seat++ {
		line := fmt.Sprintf("  seat %2d  ", seat)
		a := onSeat[seat]
		switch {
		case a == nil:
			line += style("2", "free")
		case a.state == crashed:
			line += style("31", fmt.Sprintf("%s  %s crashed", a.name, bar(a.believes.Sub(now), s.lease)))
		default:
			line += fmt.Sprintf("%s  %s %.1f s", a.name, style("32", bar(a.believes.Sub(now), s.lease)), max(0, a.believes.Sub(now)).Seconds())
		}
		frame = append(frame, line)
	}
	frame = append(
		frame, "",
		"  waiting  "+names(s.cast(waits, func(a *actor) int { return a.place })),
		"  refused  "+style("33", names(s.cast(turnedAway, func(*actor) int { return 0 }))),
		"  resting  "+style("2", names(s.cast(rests, func(*actor) int { return 0 }))),
		"",
	)
	events = slices.Clone(events)
	for len(events) < lastEvents {
		events = append(events, "")
	}
	for _, event := range events {
		frame = append(frame, style("2", event))
	}
	for i, fault := range s.faults[:min(3, len(s.faults))] {
		frame = append(frame, style("31", fmt.Sprintf("OVER-ADMISSION %d: %s", i+1, fault)))
	}
	return frame
}

func bar(left, lease time.Duration) string {
	full := min(width, max(0, int(width*left/lease)))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// names lists clients by their numbers.
func names(cast []*actor) string {
	var list []string
	for _, a := range cast {
		list = append(list, strings.TrimPrefix(a.name, "client-"))
	}
	return strings.Join(list, " ")
}

// summary says what was seen.
func (s *stage) summary(screen *local.Screen) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.freed {
		screen.Line("%s.", line)
	}
	screen.Line("%d sessions: %d released, %d lapsed under a living client. %d refusals. The queue was %d long at most.",
		s.sessions, s.released, s.lapsed, s.refused, s.longest)
	for _, fault := range s.faults {
		screen.Line("OVER-ADMISSION: %s", fault)
	}
	if len(s.faults) == 0 {
		screen.Line("At most %d clients believed in a seat at once, of %d.", s.most, seats)
	}
}
