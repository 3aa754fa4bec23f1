package functiontest_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestRedisLostUnderLoadCostsNoHolderItsSeatAndGivesNobodyOneTooMany(t *testing.T) {
	t.Parallel()
	const seats, clients, lease = 8, 20, 6 * time.Second
	w := New(t)
	p, l := w.StartSeating(t), w.Seats(t, seats, lease)

	// Two clients take a seat and are never heard of again.
	var book Book
	for i := range 2 {
		sent := Now()
		a := p.Doors[i].Sit(t, l, "crashed-"+Device(i))
		book.Add(Life{License: l.ID, Session: a.SessionID, Seat: a.SeatNo, From: Now(), Until: sent.Add(lease)})
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	holders := make([]*Holder, clients)
	for i := range holders {
		doors := map[string]*Door{"acquire": p.Doors[i%2].Acquire, "heartbeat": p.Doors[i%2].Heartbeat, "release": p.Doors[i%2].Release}
		h := &Holder{
			License: l, Name: Device(i), Manner: Manner{Pace: 50 * time.Millisecond, Beat: 150 * time.Millisecond},
			Send: func(function string, m Message) (int, []byte, error) {
				r := doors[function].Send(t, m)
				return r.Status, r.Body, nil
			},
			Each:    book.Add,
			Strange: func(what string) { t.Errorf("%s: %s", Device(i), what) },
		}
		if i%4 == 0 {
			h.Manner.Stay = 1500 * time.Millisecond
		}
		holders[i] = h
		running.Go(func() { h.Live(stop) })
	}
	end := sync.OnceFunc(func() { close(stop); running.Wait() })
	defer end()

	// goOn waits until the seats that are not a crashed client's are taken, and each of their holders has beaten twice more.
	goOn := func(least int) {
		t.Helper()
		before := make([]int64, clients)
		for i, h := range holders {
			before[i] = h.Beats.Load()
		}
		testenv.Eventually(t, 60*time.Second, func() error {
			n := 0
			for i, h := range holders {
				if h.Seated.Load() && h.Beats.Load() >= before[i]+2 {
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
	losses := Span{From: Now()}
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

	// No sweep runs here: a rebuild that read a row just before its release closed it may renew that session until the end.
	losses.To = Now()
	if v := Judge(Case{Lives: book.Lives(), Seats: map[uuid.UUID]int{l.ID: seats}, Failovers: []Span{losses}}); !v.Holds() {
		t.Errorf("the promise was broken: %+v", v)
	} else if v.Most < seats-2 {
		t.Errorf("at most %d holders believed at the same time: the test has lost its load", v.Most)
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
