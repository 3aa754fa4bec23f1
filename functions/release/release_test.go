package release_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/release"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/testenv"
)

type (
	body    = functiontest.Body
	message = functiontest.Message
)

func ended(t *testing.T, r functiontest.Reply) release.Answer {
	t.Helper()
	return functiontest.Read[release.Answer](t, r.Want(t, http.StatusOK))
}

func TestAReleasedSeatIsFreeAtOnceAndReleasingAgainSaysTheSame(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	began := time.Now().Add(-time.Second)
	a := s.Sit(t, l, "a")
	first := ended(t, s.Leave(t, a.SeatToken))
	if first.SessionID == nil || *first.SessionID != a.SessionID || first.Status != "released" || first.EndReason != "released" ||
		first.EndedAt == nil || first.EndedAt.Before(began) || first.EndedBy == nil || *first.EndedBy != "holder" {
		t.Errorf("answered %+v", first)
	}
	s.Acquire.Send(t, message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusCreated)
	for name, m := range map[string]message{
		"again":           {Token: a.SeatToken, Body: "{}"},
		"without a body":  {Token: a.SeatToken},
		"another replica": {Token: a.SeatToken, Path: "/"},
	} {
		again := ended(t, s.Release.Send(t, m))
		if *again.SessionID != a.SessionID || again.Status != "released" || !again.EndedAt.Equal(first.EndedAt.Time) {
			t.Errorf("%s: answered %+v, first %+v", name, again, first)
		}
	}
	s.Acquire.Send(t, message{Body: functiontest.Ask(l, "c")}).Want(t, http.StatusConflict, "no_seats_available") // b was not freed
	if rows := w.OpenRows(t, l); rows != 1 {
		t.Errorf("%d sessions have a row, want b's", rows)
	}
}

func TestASessionThatEndedOtherwiseIsReleasedByTellingHow(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s := w.Seating(t)

	brief := w.Seats(t, 1, time.Second)
	lapsed := s.Sit(t, brief, "a")
	testenv.Eventually(t, 20*time.Second, func() error {
		if r := s.Acquire.Send(t, message{Body: functiontest.Ask(brief, "b")}); r.Status != http.StatusCreated {
			return fmt.Errorf("answered %d", r.Status)
		}
		return nil
	})
	evicted := s.Sit(t, w.Seats(t, 1, time.Minute), "a")
	w.Evict(t, evicted.SessionID, "moved")
	suspended := w.Seats(t, 1, time.Minute)
	stopped := s.Sit(t, suspended, "a")
	w.Suspend(t, suspended)

	for range 2 {
		if got := ended(t, s.Leave(t, lapsed.SeatToken)); got.Status != "lapsed" || got.EndReason != "lease_expired" || got.EndedBy != nil || got.EndedAt == nil {
			t.Errorf("the lapsed one: %+v", got)
		}
		if got := ended(t, s.Leave(t, evicted.SeatToken)); got.Status != "evicted" || got.EndReason != "moved" || got.EndedBy == nil || *got.EndedBy != "user:admin" {
			t.Errorf("the evicted one: %+v", got)
		}
		if got := ended(t, s.Leave(t, stopped.SeatToken)); got.Status != "released" && got.Status != "evicted" {
			t.Errorf("the one of a suspended licence: %+v", got)
		}
	}
}

func TestWithoutACredentialNothingIsReleased(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	token := s.Sit(t, l, "a").SeatToken
	for name, m := range map[string]message{
		"nothing at all":           {},
		"an empty object":          {Body: "{}"},
		"another token":            {Token: token[:40] + "AAAA" + token[44:]},
		"a bad token with a key":   {Token: "nonsense", Body: body{"license_key": l.Key, "hardware_id": "a"}},
		"another scheme and a key": {Header: map[string]string{"Authorization": "Basic eDp5"}, Body: body{"license_key": l.Key, "hardware_id": "a"}},
		"a bad token, a bad body":  {Token: "nonsense", Body: `{"unknown":1}`},
	} {
		if r := s.Release.Send(t, m); r.Status != http.StatusUnauthorized || r.Code() != "seat_token_invalid" {
			t.Errorf("%s: answered %d %s", name, r.Status, r.Body)
		}
	}
	// A licence key gives up places, never seats.
	ended(t, s.Release.Send(t, message{Body: body{"license_key": l.Key, "hardware_id": "a"}}))
	s.Beat(t, token).Want(t, http.StatusOK)
	w.Hides(t, token, l.Key)
}

func TestAWaiterIsFoundByItsKeyBeforeItsBodyIsLookedAt(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door, l := w.Release(t), w.Seats(t, 1, time.Minute)
	door.Send(t, message{Body: body{"license_key": license.NewKey().Reveal(), "unknown": 1}}).Want(t, http.StatusNotFound, "license_not_found")
	door.Send(t, message{Body: body{"license_key": l.Key, "unknown": 1}}).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	door.Send(t, message{Body: body{"license_key": l.Key}}).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	user := w.Sell(t, func(terms *license.Terms) { terms.SeatPer = license.PerUser })
	door.Send(t, message{Body: body{"license_key": user.Key, "hardware_id": "a"}}).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	door.Send(t, message{Body: body{"license_key": user.Key, "hardware_id": "a", "user": "ada"}}).Want(t, http.StatusOK)
}

func TestGuessedKeysAreLimitedByAddress(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{Env: map[string]string{"BUDGET_UNKNOWN_BURST": "2", "BUDGET_UNKNOWN_PER_SECOND": "0.1"}})
	door := w.Release(t)
	guess := func() message {
		return message{Body: body{"license_key": license.NewKey().Reveal(), "hardware_id": "a"}, From: "192.0.2.1"}
	}
	door.Send(t, guess()).Want(t, http.StatusNotFound)
	door.Send(t, guess()).Want(t, http.StatusNotFound)
	door.Send(t, guess()).Want(t, http.StatusTooManyRequests, "rate_limited")
}

func TestWithoutPostgreSQLTheSeatIsFreedAndTheRetryCompletesTheRelease(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{PrivatePostgres: true})
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	w.Postgres.Stop(t)
	for range 2 {
		r := s.Leave(t, a.SeatToken).Want(t, http.StatusServiceUnavailable, "store_unavailable")
		if r.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	s.Beat(t, a.SeatToken).Want(t, http.StatusGone, "seat_released")
	w.Postgres.Start(t)
	if rows := w.OpenRows(t, l); rows != 1 {
		t.Errorf("%d rows are open, want one that the retry is to close", rows)
	}
	if got := ended(t, s.Release.Insist(t, message{Token: a.SeatToken})); got.Status != "released" || *got.SessionID != a.SessionID {
		t.Errorf("the retry answered %+v", got)
	}
	if rows := w.OpenRows(t, l); rows != 0 {
		t.Errorf("%d rows are open after the retry", rows)
	}
	s.Acquire.Insist(t, message{Body: functiontest.Ask(l, "b")})
	s.Sit(t, l, "b")
}

func TestAReleaseThatPostgreSQLNeverHeardOfKeepsNobodyFromTheSeat(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{PrivatePostgres: true})
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	w.Postgres.Stop(t)
	s.Leave(t, a.SeatToken).Want(t, http.StatusServiceUnavailable, "store_unavailable")
	w.Postgres.Start(t)
	s.Acquire.Insist(t, message{Body: functiontest.Ask(l, "b")}) // displaces the row
	s.Sit(t, l, "b")
	if rows := w.OpenRows(t, l); rows != 1 {
		t.Errorf("%d rows are open, want b's", rows)
	}
	if got := ended(t, s.Release.Insist(t, message{Token: a.SeatToken})); got.Status != "released" {
		t.Errorf("the first holder's retry answered %+v", got)
	}
}

func TestWithoutRedisNothingIsReleasedAndTheRetryDoes(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	w.Redis.Kill(t)
	r := s.Leave(t, a.SeatToken).Want(t, http.StatusServiceUnavailable, "store_unavailable")
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.Release.Send(t, message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusServiceUnavailable, "store_unavailable")
	w.Redis.Start(t)
	if got := ended(t, s.Release.Insist(t, message{Token: a.SeatToken})); got.Status != "released" {
		t.Errorf("the retry answered %+v", got)
	}
	if rows := w.OpenRows(t, l); rows != 0 {
		t.Errorf("%d rows are open after the retry", rows)
	}
}

func FuzzBody(f *testing.F) {
	w := functiontest.New(f)
	s, l := w.Seating(f), w.Seats(f, 1, time.Minute)
	f.Add(`{"license_key":"KEY","hardware_id":"a"}`)
	f.Add(`{"license_key":"KEY","hardware_id":"a","version":"1","wait":true,"metadata":{"k":1},"user":"u","instance_id":"i"}`)
	s.Release.Fuzz(f, "", l)
}
