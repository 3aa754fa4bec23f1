package acquire_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coditect/usher/functions/acquire"
	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

func wait(l functiontest.License, hardware string) message {
	return message{Body: functiontest.With(functiontest.Ask(l, hardware), "wait", true)}
}

// place wants a place in the queue.
func place(t *testing.T, r functiontest.Reply, position, length int) acquire.Queued {
	t.Helper()
	q := functiontest.Read[acquire.Queued](t, r.Want(t, http.StatusAccepted))
	if q.Position != position || q.QueueLength != length || q.PollAfterSeconds != 1 {
		t.Fatalf("the place is %+v, want %d of %d and a poll of 1 s", q, position, length)
	}
	return q
}

func TestWaitersAreServedInTheirOrderAndNobodyOvertakes(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, other, l := w.Seating(t), w.Acquire(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	if q := place(t, other.Send(t, wait(l, "b")), 1, 1); q.ETASeconds != nil {
		t.Errorf("an ETA of %d s was guessed from nothing", *q.ETASeconds)
	}
	place(t, s.Acquire.Send(t, wait(l, "c")), 2, 2)
	place(t, s.Acquire.Send(t, wait(l, "b")), 1, 2) // asking again keeps the place
	s.Acquire.Send(t, ask(l, "d")).Want(t, http.StatusConflict, "no_seats_available")

	s.Leave(t, a.SeatToken).Want(t, http.StatusOK)
	other.Send(t, ask(l, "d")).Want(t, http.StatusConflict, "no_seats_available") // the free seat is b's
	place(t, other.Send(t, wait(l, "c")), 2, 2)
	b := seated(t, s.Acquire.Send(t, wait(l, "b")).Want(t, http.StatusCreated))
	s.Leave(t, b.SeatToken).Want(t, http.StatusOK)
	place(t, other.Send(t, wait(l, "e")), 2, 2)
	other.Send(t, wait(l, "c")).Want(t, http.StatusCreated)
	q := place(t, other.Send(t, wait(l, "e")), 1, 1)
	if q.ETASeconds == nil || *q.ETASeconds < 1 {
		t.Errorf("after two seats came free the ETA is %v", q.ETASeconds)
	}
}

func TestAWaiterGivesItsPlaceUpWithWhatItAskedWith(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	s.Sit(t, l, "a")
	place(t, s.Acquire.Send(t, wait(l, "b")), 1, 1)
	place(t, s.Acquire.Send(t, wait(l, "c")), 2, 2)
	r := s.Release.Send(t, wait(l, "b")).Want(t, http.StatusOK)
	if o := r.Object(t); o["status"] != "left_queue" || o["session_id"] != nil {
		t.Errorf("answered %s", r.Body)
	}
	place(t, s.Acquire.Send(t, wait(l, "c")), 1, 1)
	s.Release.Send(t, message{Body: body{"license_key": l.Key, "hardware_id": "b"}}).Want(t, http.StatusOK) // again
	place(t, s.Acquire.Send(t, wait(l, "b")), 2, 2)                                                         // at the end now
}

func TestADeadWaiterDelaysNobodyBeyondThreePolls(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	last := time.Now()
	place(t, s.Acquire.Send(t, wait(l, "dead")), 1, 1)
	place(t, s.Acquire.Send(t, wait(l, "c")), 2, 2)
	s.Leave(t, a.SeatToken).Want(t, http.StatusOK)
	testenv.Eventually(t, 20*time.Second, func() error {
		switch r := s.Acquire.Send(t, wait(l, "c")); r.Status {
		case http.StatusCreated:
			if waited := time.Since(last); waited < 3*functiontest.Poll {
				t.Errorf("the place was lost after %s", waited)
			}
			return nil
		default:
			<-time.After(100 * time.Millisecond) // polling is within the budget
			return fmt.Errorf("answered %d %s", r.Status, r.Body)
		}
	})
	s.Acquire.Send(t, wait(l, "dead")).Want(t, http.StatusAccepted)
}

func TestALostRedisForgetsPlacesButNeverSeats(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	place(t, s.Acquire.Send(t, wait(l, "b")), 1, 1)
	w.Redis.RestartEmpty(t)
	testenv.Eventually(t, 20*time.Second, func() error {
		if r := s.Acquire.Send(t, wait(l, "c")); r.Status != http.StatusAccepted {
			return fmt.Errorf("answered %d %s", r.Status, r.Body)
		}
		return nil
	})
	s.Beat(t, a.SeatToken).Want(t, http.StatusOK)
}
