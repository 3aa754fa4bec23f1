package clienttest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coditect/usher/client"
	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

// holder is a small program that holds a seat: it prints whether it is valid whenever that changes, and never ends by itself.
func holder() {
	c := client.Client{Version: "1.0.0", Wait: os.Getenv("WAIT") != "", Signals: []os.Signal{syscall.SIGTERM}}
	c.Queued = func(p client.Place) { fmt.Println("place", p.Position) }
	fmt.Println("asking")
	seat, err := c.Acquire(context.Background())
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	go func() {
		for e := range seat.Events() {
			fmt.Println("event", e.Kind, e.Code)
		}
	}()
	for was := false; ; time.Sleep(time.Millisecond) {
		if is := seat.Valid(); is != was {
			fmt.Println("valid", is)
			was = is
		}
	}
}

// start starts the program, on a device of its own, and waits until it has a seat.
func start(t *testing.T, s *service, l License, device string) *testenv.Proc {
	t.Helper()
	p := testenv.Process(t, "holder", map[string]string{client.EnvURL: s.URL, client.EnvLicenseKey: l.Key, client.EnvHardwareID: device})
	p.Await(t, "valid true")
	return p
}

// free waits until a seat of the only one can be taken, takes it, and says how long that took.
func free(t *testing.T, s *service, l License, device string, within time.Duration) (*client.Seat, time.Duration) {
	t.Helper()
	began := time.Now()
	var seat *client.Seat
	testenv.Eventually(t, within, func() error {
		var err error
		seat, err = clientOf(s, l, device).Acquire(t.Context())
		return err
	})
	t.Cleanup(seat.Release)
	return seat, time.Since(began)
}

func TestAKilledProgramsSeatComesFreeAtTheEndOfItsLease(t *testing.T) {
	t.Parallel()
	w := New(t)
	s, l := serve(t, w), w.Seats(t, 1, lease)
	p := start(t, s, l, "laptop")
	p.Kill(t)
	if _, err := clientOf(s, l, "desktop").Acquire(t.Context()); !errors.Is(err, client.ErrNoSeats) {
		t.Errorf("at once the desktop heard %v", err)
	}
	free(t, s, l, "desktop", lease+slack)
}

func TestAProgramThatIsAskedToEndGivesItsSeatBackAtOnceAndEnds(t *testing.T) {
	t.Parallel()
	w := New(t)
	s, l := serve(t, w), w.Seats(t, 1, time.Hour)
	p := start(t, s, l, "laptop")
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t, slack); code != -1 {
		t.Errorf("it ended with %d, and not of the signal", code)
	}
	free(t, s, l, "desktop", 0)
}

func TestAWaitingProgramThatIsAskedToEndGivesItsPlaceUp(t *testing.T) {
	t.Parallel()
	w := New(t)
	s, l := serve(t, w), w.Seats(t, 1, time.Hour)
	seat := acquire(t, clientOf(s, l, "desktop"))
	p := testenv.Process(t, "holder", map[string]string{client.EnvURL: s.URL, client.EnvLicenseKey: l.Key, client.EnvHardwareID: "laptop", "WAIT": "1"})
	p.Await(t, "place 1")
	p.Signal(t, syscall.SIGTERM)
	p.Wait(t, slack) // of the signal, or because Acquire told it
	seat.Release()
	free(t, s, l, "phone", 0) // nobody is before it
}

func TestAStoppedProgramAsksBeforeItBelievesAgain(t *testing.T) {
	t.Parallel()
	w := New(t)
	s, l := serve(t, w), w.Seats(t, 1, lease)
	p := start(t, s, l, "laptop")
	p.Signal(t, syscall.SIGSTOP)
	seat, took := free(t, s, l, "desktop", lease+slack)
	t.Logf("the seat of the stopped program came free after %s", took)
	before := p.Output()
	p.Signal(t, syscall.SIGCONT)
	p.Await(t, "event lapsed no_seats_available")
	if woken := strings.TrimPrefix(p.Output(), before); strings.Contains(woken, "valid true") {
		t.Errorf("on waking it believed:\n%s", woken)
	}
	if !seat.Valid() {
		t.Error("the other holder lost its seat")
	}

	// With a free seat it believes again, once it was told.
	seat.Release()
	testenv.Eventually(t, time.Minute+slack, func() error {
		woken := strings.TrimPrefix(p.Output(), before)
		lapsed, valid := strings.Index(woken, "valid false"), strings.Index(woken, "valid true")
		if valid < 0 || lapsed < 0 || valid < lapsed {
			return fmt.Errorf("since it woke:\n%s", woken)
		}
		return nil
	})
}
