package client

import (
	"testing"
	"time"
)

func TestTheClockRunsOn(t *testing.T) {
	t.Parallel()
	now := newClock()
	before := now()
	time.Sleep(20 * time.Millisecond)
	if passed := before.until(now()); passed < 20*time.Millisecond || passed > time.Minute {
		t.Errorf("in 20 ms %s passed", passed)
	}
}

func TestACountedClockCountsSleepAndIsNeverSetBack(t *testing.T) {
	t.Parallel()
	var c counted
	start := time.Now()
	first := c.read(start)
	elapsed := func(at time.Time) time.Duration { return first.until(c.read(at)) }

	// A time without a monotonic reading is one whose wall clock alone has run on, as in a sleep.
	if got := elapsed(start.Add(time.Second)); got != time.Second {
		t.Errorf("after a second it counts %s", got)
	}
	if got := elapsed(start.Round(0).Add(time.Hour)); got != time.Hour {
		t.Errorf("after an hour asleep it counts %s", got)
	}
	if got := elapsed(start.Round(0).Add(-time.Hour)); got != time.Hour {
		t.Errorf("set back by two hours it counts %s", got)
	}
	if got := elapsed(start.Round(0).Add(-time.Hour + time.Second)); got != time.Hour+time.Second {
		t.Errorf("a second later it counts %s", got)
	}
}
