package client

import (
	"sync"
	"time"
)

// An instant is a reading of a clock that runs while the machine sleeps and that nobody can set back, since some moment of
// its own. Timers stand still while the machine sleeps, and time.Time goes by what somebody set.
type instant time.Duration

func (i instant) add(d time.Duration) instant       { return i + instant(d) }
func (i instant) until(later instant) time.Duration { return time.Duration(later - i) }

// counted is such a clock where the system has none: it adds up, from reading to reading, the greater of what the monotonic
// clock and the wall clock say has passed.
type counted struct {
	mu    sync.Mutex
	last  time.Time
	total time.Duration
}

func (c *counted) read(now time.Time) instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.IsZero() {
		c.total += max(now.Sub(c.last), now.Round(0).Sub(c.last.Round(0)), 0)
	}
	c.last = now
	return instant(c.total)
}
