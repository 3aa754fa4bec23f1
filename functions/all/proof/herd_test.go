package proof_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coditect/usher/functions/acquire"
	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

// patient sends a message as a client does that honours Retry-After, and answers what it heard in the end and how often it
// was told to come back.
func patient(t *testing.T, d *Door, m Message) (r Reply, waits int64) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; waits++ {
		r = d.Send(t, m)
		if r.Status != http.StatusServiceUnavailable || time.Now().After(end) {
			return r, waits
		}
		after, err := strconv.Atoi(r.Header.Get("Retry-After"))
		if err != nil || after < 1 {
			t.Errorf("a 503 without Retry-After: %s", r.Body)
			return r, waits
		}
		<-time.After(time.Duration(after) * time.Second)
	}
}

// A herd: everybody starts at once, on pools that nobody has built. Half of them hold seats already and beat; the others ask
// for one, and there are fewer seats than they are.
func TestProofHerdOnColdPoolsIsServed(t *testing.T) {
	t.Parallel()
	licenses, clients := 2, 30 // of each licence
	if testenv.Full() {
		licenses, clients = 20, 50
	}
	holders, seats := clients/2, clients/2+clients/5
	w := New(t)
	p := w.StartSeating(t)
	tokens := make([][]string, licenses)
	sold := make([]License, licenses)
	var seating sync.WaitGroup
	for i := range licenses {
		sold[i], tokens[i] = w.Seats(t, seats, 10*time.Minute), make([]string, holders)
		for n := range holders {
			seating.Go(func() {
				r, _ := patient(t, p.Doors[n%2].Acquire, Message{Body: Ask(sold[i], Device(n))})
				if r.Status != http.StatusCreated {
					t.Errorf("a seat before the herd: %d %s", r.Status, r.Body)
					return
				}
				tokens[i][n] = Read[acquire.Answer](t, r).SeatToken
			})
		}
		seating.Wait() // so that the machine is not measured before the herd comes
	}
	rebuilt := func() (n int) {
		p.Each(func(each *Process) { n += strings.Count(each.Output(), "seat pool rebuilt") })
		return n
	}
	before := rebuilt()

	w.Redis.Do(t, "FLUSHALL")
	w.Redis.Do(t, "SCRIPT", "FLUSH")
	var herd sync.WaitGroup
	var beats, granted, full, waits atomic.Int64
	for i := range licenses {
		for n := range clients {
			herd.Go(func() {
				if n < holders {
					r, w := patient(t, p.Doors[n%2].Heartbeat, Message{Token: tokens[i][n]})
					waits.Add(w)
					if r.Status != http.StatusOK {
						t.Errorf("a holder's heartbeat was answered %d %s", r.Status, r.Body)
					}
					beats.Add(1)
					return
				}
				r, w := patient(t, p.Doors[n%2].Acquire, Message{Body: Ask(sold[i], Device(n))})
				waits.Add(w)
				switch {
				case r.Status == http.StatusCreated || r.Status == http.StatusOK: // 200 when an attempt told 503 had taken it
					granted.Add(1)
				case r.Status == http.StatusConflict && r.Code() == "no_seats_available":
					full.Add(1)
				default:
					t.Errorf("a newcomer was answered %d %s", r.Status, r.Body)
				}
			})
		}
	}
	herd.Wait()
	if want := int64(licenses * (seats - holders)); granted.Load() != want || full.Load() != int64(licenses*clients)-want-beats.Load() {
		t.Errorf("%d newcomers got a seat and %d heard that there is none, want %d seats", granted.Load(), full.Load(), want)
	}
	rebuilds := rebuilt() - before
	if rebuilds != licenses {
		t.Errorf("%d rebuilds of %d pools", rebuilds, licenses)
	}
	testenv.Proved(t, "herd", "%d clients of %d licences came at once to a Redis that had lost everything: %d holders beat on and none noticed, "+
		"%d newcomers got a seat, %d heard that there is none, and nobody heard anything else but, %d times, when to come back",
		licenses*clients, licenses, beats.Load(), granted.Load(), full.Load(), waits.Load())
	testenv.Proved(t, "herd", "%d pools were rebuilt by %d rebuilds, from 4 processes", licenses, rebuilds)
}
