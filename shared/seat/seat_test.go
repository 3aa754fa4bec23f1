package seat

import (
	"testing"
	"time"
)

func TestASeatIsTakenKeptRefusedAndGivenBack(t *testing.T) {
	w := newWorld(t, 1)
	first := w.sit("one")
	if b := w.beat(first); !b.Alive || b.Counts.Active != 1 || b.TTL != time.Second {
		t.Errorf("heartbeat: %+v, want alive, one active, one second", b)
	}
	if again := w.ask("one"); again.Verdict != Existing || again.Ref != first {
		t.Errorf("the same holder again: %+v, want the same session", again)
	}
	if g := w.ask("two"); g.Verdict != Full || g.Counts.Active != 1 || g.Counts.Max != 1 {
		t.Errorf("second holder: %+v, want full", g)
	}
	if e := w.release(first); e.Status != Released || e.At.IsZero() {
		t.Errorf("release: %+v", e)
	}
	second := w.sit("two")
	if second.Seat != 1 || second.Session == first.Session {
		t.Errorf("second holder sits as %+v", second)
	}
	if b := w.beat(first); b.Alive || b.Ending.Status != Released {
		t.Errorf("released session beats: %+v", b)
	}
	if e := w.release(first); e.Status != Released {
		t.Errorf("released again: %+v", e)
	}
	if b := w.beat(second); !b.Alive {
		t.Errorf("second holder was disturbed: %+v", b)
	}
}

func TestACrashedHoldersSeatComesFreeWithoutASweep(t *testing.T) {
	w := newWorld(t, 1)
	first := w.sit("one")
	time.Sleep(time.Until(time.Now().Add(1150 * time.Millisecond)))
	second := w.sit("two")
	if second.Seat != first.Seat {
		t.Errorf("seat %d, want the lapsed seat %d", second.Seat, first.Seat)
	}
	if b := w.beat(first); b.Alive || b.Ending.Status != Lapsed {
		t.Errorf("lapsed session beats: %+v", b)
	}
}

func TestLiveHoldersNeverNoticeThatRedisWasFlushed(t *testing.T) {
	w := newWorld(t, 2)
	first := w.sit("one")
	w.redis.Do(t, "FLUSHALL")
	if b := w.beat(first); !b.Alive {
		t.Errorf("heartbeat after FLUSHALL: %+v", b)
	}
	w.sit("two")
	if g := w.ask("three"); g.Verdict != Full {
		t.Errorf("third: %+v, want full", g)
	}
	r := w.sweep()
	if r.Licenses != 1 || r.Failed != 0 {
		t.Errorf("sweep: %+v", r)
	}
}
