package borrow_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/borrow"
	"github.com/coditect/usher/shared/license"
)

type (
	body    = functiontest.Body
	message = functiontest.Message
)

func until(d time.Duration) body { return body{"until": time.Now().Add(d)} }

func lent(t *testing.T, r functiontest.Reply) borrow.Answer {
	t.Helper()
	return functiontest.Read[borrow.Answer](t, r.Want(t, http.StatusOK))
}

func TestABorrowIsAnsweredWithAReceiptThatEndsWithIt(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, door, l := w.Seating(t), w.Borrow(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	got := lent(t, door.Send(t, message{Token: a.SeatToken, Body: until(10 * time.Hour)}))
	if d := time.Until(got.BorrowedUntil.Time); d < 9*time.Hour || d > 10*time.Hour {
		t.Errorf("borrowed until %s", got.BorrowedUntil)
	}
	r := w.Verify(t, got.Receipt, time.Now())
	if r.Session != a.SessionID.String() || r.Seat != a.SeatNo || r.License != l.ID.String() || r.HardwareHash != receipt.HashHardware("a") ||
		!r.OfflineUntil.Equal(got.BorrowedUntil.Time) {
		t.Errorf("the receipt says %+v of %+v", r, got)
	}
	again := lent(t, door.Send(t, message{Token: a.SeatToken, Body: until(time.Hour)}))
	if !again.BorrowedUntil.Equal(got.BorrowedUntil.Time) {
		t.Errorf("borrowed until %s, and asked again until %s", got.BorrowedUntil, again.BorrowedUntil)
	}
	longest := lent(t, door.Send(t, message{Token: a.SeatToken, Body: until(10_000 * time.Hour)}))
	if d := time.Until(longest.BorrowedUntil.Time); d < 71*time.Hour || d > 72*time.Hour {
		t.Errorf("the longest borrow is until %s, want 72 hours", longest.BorrowedUntil)
	}
	s.Beat(t, a.SeatToken).Want(t, http.StatusOK)
	s.Acquire.Send(t, message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusConflict, "no_seats_available")
	s.Leave(t, a.SeatToken).Want(t, http.StatusOK)
	door.Send(t, message{Token: a.SeatToken, Body: until(time.Hour)}).Want(t, http.StatusGone, "seat_released")
	s.Acquire.Send(t, message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusCreated)
	w.Hides(t, a.SeatToken, l.Key)
}

func TestABorrowBelowTheLowWaterMarkIsRefused(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, door := w.Seating(t), w.Borrow(t)
	l := w.Sell(t, func(terms *license.Terms) { terms.MaxSeats, terms.BorrowReserve = 2, 1 })
	a, b := s.Sit(t, l, "a"), s.Sit(t, l, "b")
	lent(t, door.Send(t, message{Token: a.SeatToken, Body: until(time.Hour)}))
	door.Send(t, message{Token: b.SeatToken, Body: until(time.Hour)}).Want(t, http.StatusConflict, "borrow_limit_reached")
	s.Beat(t, b.SeatToken).Want(t, http.StatusOK)
}

func TestAHolderThatLostItsSeatHearsHowInsteadOfBorrowing(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, door, l := w.Seating(t), w.Borrow(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	lent(t, door.Send(t, message{Token: a.SeatToken, Body: until(time.Hour)}))
	w.Evict(t, a.SessionID, "moved")
	for _, r := range []functiontest.Reply{s.Beat(t, a.SeatToken), door.Send(t, message{Token: a.SeatToken, Body: until(time.Hour)})} {
		if o := r.Want(t, http.StatusGone, "seat_evicted").Object(t); o["reason"] != "moved" || o["ended_by"] != "user:admin" || o["ended_at"] == nil {
			t.Errorf("answered %s", r.Body)
		}
	}
	s.Acquire.Send(t, message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusConflict, "no_seats_available") // a believes, offline
}

func TestABadBorrowIsRefused(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, door, l := w.Seating(t), w.Borrow(t), w.Seats(t, 1, time.Minute)
	token := s.Sit(t, l, "a").SeatToken
	for name, bad := range map[string]any{
		"now":          until(-time.Millisecond),
		"long ago":     body{"until": "0001-01-01T00:00:00Z"},
		"no time":      body{"until": "tomorrow"},
		"nothing":      body{},
		"a time":       body{"until": 17},
		"another word": body{"until": time.Now().Add(time.Hour), "hardware_id": "b"},
	} {
		if r := door.Send(t, message{Token: token, Body: bad}); r.Status != http.StatusUnprocessableEntity || r.Code() != "invalid_request" {
			t.Errorf("%s: answered %d %s", name, r.Status, r.Body)
		}
	}
	for name, m := range map[string]message{
		"no token":      {Body: until(time.Hour)},
		"another token": {Token: token[:40] + "AAAA" + token[44:], Body: until(time.Hour)},
		"a licence key": {Token: l.Key, Body: until(time.Hour)},
	} {
		if r := door.Send(t, m); r.Status != http.StatusUnauthorized || r.Code() != "seat_token_invalid" {
			t.Errorf("%s: answered %d %s", name, r.Status, r.Body)
		}
	}
}

func TestASessionThatBorrowsTooOftenWaits(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{Env: map[string]string{"BUDGET_HOLDER_BURST": "2", "BUDGET_HOLDER_PER_SECOND": "0.01"}})
	s, door, l := w.Seating(t), w.Borrow(t), w.Seats(t, 1, time.Minute)
	token := s.Sit(t, l, "a").SeatToken
	lent(t, door.Send(t, message{Token: token, Body: until(time.Hour)}))
	lent(t, door.Send(t, message{Token: token, Body: until(time.Hour)}))
	door.Send(t, message{Token: token, Body: until(time.Hour)}).Want(t, http.StatusTooManyRequests, "rate_limited")
}

func TestWithoutAStoreNothingIsLentAndTheRetryLends(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{PrivatePostgres: true})
	s, door, l := w.Seating(t), w.Borrow(t), w.Seats(t, 1, time.Minute)
	token := s.Sit(t, l, "a").SeatToken
	w.Postgres.Stop(t)
	r := door.Send(t, message{Token: token, Body: until(time.Hour)}).Want(t, http.StatusServiceUnavailable, "store_unavailable")
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w.Postgres.Start(t)
	lent(t, door.Insist(t, message{Token: token, Body: until(time.Hour)}))
	w.Redis.Kill(t)
	door.Send(t, message{Token: token, Body: until(time.Hour)}).Want(t, http.StatusServiceUnavailable, "store_unavailable")
}

func FuzzBody(f *testing.F) {
	w := functiontest.New(f)
	s, l := w.Seating(f), w.Seats(f, 1, time.Minute)
	f.Add(`{"until":"2999-01-01T00:00:00Z"}`)
	f.Add(`{"until":"0000-00-00T00:00:00Z","until":null}`)
	w.Borrow(f).Fuzz(f, s.Sit(f, l, "a").SeatToken, l)
}
