package functiontest_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/acquire"
	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

// ledger knows when which session's holder believed that it has a seat.
type ledger struct {
	mu      sync.Mutex
	beliefs map[uuid.UUID]*belief
}

type belief struct{ from, until time.Time }

// believe notes that the holder heard yes just now, to a request that it had sent then.
func (b *ledger) believe(session uuid.UUID, sent time.Time, lease time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.beliefs == nil {
		b.beliefs = map[uuid.UUID]*belief{}
	}
	until := sent.Add(lease)
	switch old := b.beliefs[session]; {
	case old == nil:
		b.beliefs[session] = &belief{time.Now(), until}
	case until.After(old.until):
		old.until = until
	}
}

// stop notes that the holder does not believe any more, and says whether it had until now.
func (b *ledger) stop(session uuid.UUID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	believed := b.beliefs[session].until.After(now)
	if believed {
		b.beliefs[session].until = now
	}
	return believed
}

// most is the largest number of holders that believed at the same time.
func (b *ledger) most() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	most := 0
	for _, at := range b.beliefs { // the number is largest at the beginning of some belief
		n := 0
		for _, other := range b.beliefs {
			if !other.from.After(at.from) && other.until.After(at.from) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// holder is an honest client: it beats while it believes, and asks for a seat when it has none.
type holder struct {
	*Seating
	license License
	device  string
	lease   time.Duration
	leaves  bool // gives its seat back now and then, and asks for another
	ledger  *ledger
	beats   atomic.Int64 // heartbeats answered yes
	seated  atomic.Bool
}

func (h *holder) live(t *testing.T, stop <-chan struct{}) {
	t.Helper()
	for {
		select {
		case <-stop:
			return
		case <-time.After(50 * time.Millisecond): // the pace of a request
		}
		sent := time.Now()
		r := h.Acquire.Send(t, Message{Body: Ask(h.license, h.device)})
		switch {
		case r.Status == http.StatusCreated || r.Status == http.StatusOK:
			a := Read[acquire.Answer](t, r)
			h.ledger.believe(a.SessionID, sent, h.lease)
			h.sit(t, a, stop)
		case r.Status == http.StatusServiceUnavailable:
		case r.Status == http.StatusConflict && r.Code() == "no_seats_available":
		default:
			t.Errorf("%s asked for a seat and was answered %d %s", h.device, r.Status, r.Body)
		}
	}
}

// sit beats until the seat is given back, or lost.
func (h *holder) sit(t *testing.T, a acquire.Answer, stop <-chan struct{}) {
	t.Helper()
	h.seated.Store(true)
	defer h.seated.Store(false)
	for n := 1; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(150 * time.Millisecond): // the pace of the heart
		}
		if h.leaves && n%10 == 0 {
			h.ledger.stop(a.SessionID)
			if r := h.Release.Insist(t, Message{Token: a.SeatToken}); r.Status != http.StatusOK {
				t.Errorf("%s gave its seat back and was answered %d %s", h.device, r.Status, r.Body)
			}
			return
		}
		sent := time.Now()
		switch r := h.Heartbeat.Send(t, Message{Token: a.SeatToken}); r.Status {
		case http.StatusOK:
			h.ledger.believe(a.SessionID, sent, h.lease)
			h.beats.Add(1)
		case http.StatusServiceUnavailable:
		default:
			if h.ledger.stop(a.SessionID) {
				t.Errorf("%s beat while it believed, and was answered %d %s", h.device, r.Status, r.Body)
			}
			return
		}
	}
}

func TestRedisLostUnderLoadCostsNoHolderItsSeatAndGivesNobodyOneTooMany(t *testing.T) {
	t.Parallel()
	const seats, clients, lease = 8, 20, 6 * time.Second
	w := New(t)
	p, l := w.StartSeating(t), w.Seats(t, seats, lease)

	// Two clients take a seat and are never heard of again.
	var book ledger
	for i := range 2 {
		sent := time.Now()
		a := p.Doors[i].Sit(t, l, "crashed-"+Device(i))
		book.believe(a.SessionID, sent, lease)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	holders := make([]*holder, clients)
	for i := range holders {
		holders[i] = &holder{Seating: p.Doors[i%2], license: l, device: Device(i), lease: lease, leaves: i%4 == 0, ledger: &book}
		running.Go(func() { holders[i].live(t, stop) })
	}
	end := sync.OnceFunc(func() { close(stop); running.Wait() })
	defer end()

	// goOn waits until the seats that are not a crashed client's are taken, and each of their holders has beaten twice more.
	goOn := func(least int) {
		t.Helper()
		before := make([]int64, clients)
		for i, h := range holders {
			before[i] = h.beats.Load()
		}
		testenv.Eventually(t, 60*time.Second, func() error {
			n := 0
			for i, h := range holders {
				if h.seated.Load() && h.beats.Load() >= before[i]+2 {
					n++
				}
			}
			if n < least {
				return fmt.Errorf("%d holders live on, want %d", n, least)
			}
			return nil
		})
	}
	goOn(seats - 4) // some are just giving theirs back
	w.Redis.Do(t, "FLUSHALL")
	goOn(seats - 4)
	w.Redis.Do(t, "SCRIPT", "FLUSH")
	w.Redis.Do(t, "FLUSHALL")
	w.Redis.RestartEmpty(t)
	goOn(seats - 4)
	w.Redis.Kill(t)
	w.Redis.Start(t)
	w.Redis.Do(t, "FLUSHALL")
	goOn(seats - 4)
	end()

	if n := book.most(); n > seats {
		t.Errorf("%d holders believed at the same time, with %d seats", n, seats)
	} else if n < seats-2 {
		t.Errorf("at most %d holders believed at the same time: the test has lost its load", n)
	}

	// Everybody is gone now: in time, all seats can be had again.
	testenv.Eventually(t, Floor(lease)+60*time.Second, func() error {
		for i := range seats {
			r := p.Doors[i%2].Acquire.Send(t, Message{Body: Ask(l, "later-"+Device(i))})
			if r.Status != http.StatusCreated && r.Status != http.StatusOK {
				return fmt.Errorf("answered %d %s", r.Status, r.Body)
			}
		}
		return nil
	})
	if r := p.Doors[0].Acquire.Insist(t, Message{Body: Ask(l, "one more")}); r.Status != http.StatusConflict {
		t.Errorf("one more was answered %d %s", r.Status, r.Body)
	}
}
