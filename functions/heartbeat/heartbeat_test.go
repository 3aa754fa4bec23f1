package heartbeat_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/heartbeat"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/signing"
)

type message = functiontest.Message

// end is what a 410 tells.
type end struct {
	Code    string
	Reason  string
	EndedAt *time.Time `json:"ended_at"`
	EndedBy *string    `json:"ended_by"`
}

func gone(t *testing.T, r functiontest.Reply, code string) end {
	t.Helper()
	e := functiontest.Read[end](t, r.Want(t, http.StatusGone, code))
	for _, member := range []string{"reason", "ended_at", "ended_by"} {
		if _, ok := r.Object(t)[member]; !ok {
			t.Errorf("%s is missing: %s", member, r.Body)
		}
	}
	return e
}

func TestAHeartbeatExtendsTheLeaseAndSaysWhenToBeatNext(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 3, 30*time.Second)
	a := s.Sit(t, l, "a")
	s.Sit(t, l, "b")
	for name, m := range map[string]message{
		"an empty object": {Token: a.SeatToken, Body: "{}"},
		"no body":         {Token: a.SeatToken},
		"white space":     {Token: a.SeatToken, Body: " {\n} "},
		"at the root":     {Token: a.SeatToken, Path: "/"},
	} {
		began := time.Now()
		got := functiontest.Read[heartbeat.Answer](t, s.Heartbeat.Send(t, m).Want(t, http.StatusOK))
		if got.SessionID != a.SessionID || got.SeatNo != a.SeatNo || got.TTLSeconds != 30 || got.ActiveSeats != 2 || got.MaxSeats != 3 ||
			got.Draining || got.DrainUntil != nil {
			t.Errorf("%s: answered %+v", name, got)
		}
		if h := got.HeartbeatAfterSeconds; h < 9 || h > 11 {
			t.Errorf("%s: the next heartbeat is to come after %d s of a lease of 30", name, h)
		}
		if d := got.ExpiresAt.Sub(began); d < 29*time.Second || d > 40*time.Second {
			t.Errorf("%s: the lease of 30 s is shown to end in %s", name, d)
		}
	}
}

func TestHeartbeatsKeepASeatBeyondItsFirstLease(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, 2*time.Second)
	a := s.Sit(t, l, "a")
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		s.Beat(t, a.SeatToken).Want(t, http.StatusOK)
		s.Acquire.Send(t, message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusConflict, "no_seats_available")
		<-time.After(100 * time.Millisecond) // the pace of the heart
	}
}

func TestATokenThatIsNotOursIsUnauthorised(t *testing.T) {
	t.Parallel()
	w, foreign := functiontest.New(t), functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	token := s.Sit(t, l, "a").SeatToken
	theirs := foreign.Seating(t).Sit(t, foreign.Seats(t, 1, time.Minute), "a").SeatToken
	for name, m := range map[string]message{
		"none":                 {},
		"not ours":             {Token: theirs},
		"cut short":            {Token: token[:len(token)-1]},
		"one letter changed":   {Token: flip(token, len(token)/2)},
		"another MAC":          {Token: flip(token, len(token)-5)},
		"a licence key":        {Token: l.Key},
		"another scheme":       {Header: map[string]string{"Authorization": "Basic " + token}},
		"two words":            {Header: map[string]string{"Authorization": "Bearer " + token + " x"}},
		"with a faulty body":   {Token: flip(token, 30), Body: `{"unknown":1}`},
		"with much of a token": {Token: strings.Repeat("A", 4000)},
	} {
		r := s.Heartbeat.Send(t, m)
		if r.Status != http.StatusUnauthorized || r.Code() != "seat_token_invalid" || r.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: answered %d %s", name, r.Status, r.Body)
		}
	}
	w.Hides(t, token, theirs, l.Key)
}

// flip changes one letter of a token.
func flip(token string, at int) string {
	c := byte('A')
	if token[at] == c {
		c = 'B'
	}
	return token[:at] + string(c) + token[at+1:]
}

func TestAHolderThatLostItsSeatIsToldWhyByWhomAndWhen(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s := w.Seating(t)
	began := time.Now().Add(-time.Second)
	check := func(name string, r functiontest.Reply, code, reason, by string) {
		t.Helper()
		e := gone(t, r, code)
		if e.Reason != reason || e.EndedAt == nil || e.EndedAt.Before(began) || e.EndedAt.After(time.Now().Add(time.Second)) {
			t.Errorf("%s: told %s", name, r.Body)
		}
		if by == "" && e.EndedBy != nil || by != "" && (e.EndedBy == nil || *e.EndedBy != by) {
			t.Errorf("%s: told that %v did it, want %q: %s", name, e.EndedBy, by, r.Body)
		}
	}
	released := s.Sit(t, w.Seats(t, 1, time.Minute), "a").SeatToken
	s.Leave(t, released).Want(t, http.StatusOK)

	evicting := s.Sit(t, w.Seats(t, 1, time.Minute), "a")
	w.Evict(t, evicting.SessionID, "moved to another team")

	suspended := w.Seats(t, 1, time.Minute)
	suspending := s.Sit(t, suspended, "a").SeatToken
	w.Suspend(t, suspended)

	revoked := w.Seats(t, 1, time.Minute)
	revoking := s.Sit(t, revoked, "a").SeatToken
	w.Revoke(t, revoked)

	brief := w.Seats(t, 1, time.Second)
	lapsing := s.Sit(t, brief, "a").SeatToken
	testenv.Eventually(t, 20*time.Second, func() error {
		if r := s.Acquire.Send(t, message{Body: functiontest.Ask(brief, "b")}); r.Status != http.StatusCreated {
			return fmt.Errorf("answered %d", r.Status)
		}
		return nil
	})

	frozen := w.Seats(t, 1, time.Minute)
	freezing := s.Sit(t, frozen, "a").SeatToken
	w.SetTenant(t, "suspended", frozen)

	for range 2 { // a second time, from the tombstone
		check("released", s.Beat(t, released), "seat_released", "released", "holder")
		check("evicted", s.Beat(t, evicting.SeatToken), "seat_evicted", "moved to another team", "user:admin")
		check("suspended", s.Beat(t, suspending), "seat_evicted", "license_suspended", "operator:test")
		check("revoked", s.Beat(t, revoking), "seat_evicted", "license_revoked", "operator:test")
		check("lapsed", s.Beat(t, lapsing), "seat_lapsed", "lease_expired", "")
		check("frozen", s.Beat(t, freezing), "seat_evicted", "tenant_suspended", "operator:test")
	}
}

func TestAnEndedSessionsTokenTouchesNobodyElsesSeat(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	old := s.Sit(t, l, "a").SeatToken
	s.Leave(t, old).Want(t, http.StatusOK)
	present := s.Sit(t, l, "b")
	w.Redis.Do(t, "FLUSHALL") // the tombstones are gone; only the rows know
	gone(t, s.Beat(t, old), "seat_released")
	if r := s.Leave(t, old).Want(t, http.StatusOK); r.Object(t)["status"] != "released" {
		t.Errorf("released as %s", r.Body)
	}
	s.Beat(t, present.SeatToken).Want(t, http.StatusOK)
	s.Acquire.Send(t, message{Body: functiontest.Ask(l, "c")}).Want(t, http.StatusConflict, "no_seats_available")
}

func TestAnEvictedHoldersSeatIsTakenUntilItGivesItBack(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	w.Evict(t, a.SessionID, "moved")
	s.Acquire.Send(t, message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusConflict, "no_seats_available")
	for range 2 { // the first answer may have been lost
		gone(t, s.Beat(t, a.SeatToken), "seat_evicted")
		s.Acquire.Send(t, message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusConflict, "no_seats_available")
	}
	if r := s.Leave(t, a.SeatToken).Want(t, http.StatusOK); r.Object(t)["status"] != "evicted" {
		t.Errorf("released as %s", r.Body)
	}
	s.Acquire.Send(t, message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusCreated)
}

func TestAHolderBeyondAReducedNumberOfSeatsIsToldToDrain(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 2, time.Minute)
	stays, drains := s.Sit(t, l, "a"), s.Sit(t, l, "b")
	w.Change(t, l, func(terms *license.Terms) { terms.MaxSeats = 1 })
	got := functiontest.Read[heartbeat.Answer](t, s.Beat(t, drains.SeatToken).Want(t, http.StatusOK))
	if !got.Draining || got.DrainUntil == nil || got.MaxSeats != 1 || got.ActiveSeats != 2 {
		t.Errorf("answered %+v", got)
	} else if d := time.Until(got.DrainUntil.Time); d < 58*time.Minute || d > time.Hour {
		t.Errorf("the seat drains for %s, want the plan's hour", d)
	}
	if got := functiontest.Read[heartbeat.Answer](t, s.Beat(t, stays.SeatToken)); got.Draining || got.DrainUntil != nil {
		t.Errorf("seat 1 is to drain: %+v", got)
	}
	s.Leave(t, drains.SeatToken).Want(t, http.StatusOK)
	s.Acquire.Send(t, message{Body: functiontest.Ask(l, "c")}).Want(t, http.StatusConflict, "no_seats_available")
}

func TestABodyThatIsNotEmptyIsRefused(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s := w.Seating(t)
	token := s.Sit(t, w.Seats(t, 1, time.Minute), "a").SeatToken
	s.Heartbeat.Send(t, message{Token: token, Body: `{"seat_no":2}`}).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	s.Heartbeat.Send(t, message{Token: token, Body: `[]`}).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	s.Heartbeat.Send(t, message{Token: token, Body: `{`}).Want(t, http.StatusBadRequest, "malformed_json")
}

func TestASessionThatBeatsTooOftenIsToldWhenToComeBackAndKeepsItsSeat(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{Env: map[string]string{"BUDGET_HOLDER_BURST": "5", "BUDGET_HOLDER_PER_SECOND": "1"}})
	s, l := w.Seating(t), w.Seats(t, 2, time.Minute)
	a, b := s.Sit(t, l, "a"), s.Sit(t, l, "b")
	limited := false
	for range 50 {
		r := s.Beat(t, a.SeatToken)
		if r.Status == http.StatusTooManyRequests {
			limited = r.Code() == "rate_limited" && r.Header.Get("Retry-After") != ""
			break
		}
	}
	if !limited {
		t.Error("fifty heartbeats at once were within a budget of five")
	}
	s.Beat(t, b.SeatToken).Want(t, http.StatusOK)
	testenv.Eventually(t, 10*time.Second, func() error {
		if r := s.Beat(t, a.SeatToken); r.Status != http.StatusOK {
			return fmt.Errorf("answered %d", r.Status)
		}
		return nil
	})
}

func TestHeartbeatsGoOnWithoutPostgreSQL(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{PrivatePostgres: true})
	s, l := w.Seating(t), w.Seats(t, 2, time.Minute)
	a := s.Sit(t, l, "a")
	left := s.Sit(t, l, "b").SeatToken
	s.Leave(t, left).Want(t, http.StatusOK)
	w.Postgres.Stop(t)
	fresh := w.Heartbeat(t) // an instance that has never spoken to PostgreSQL
	for range 5 {
		s.Beat(t, a.SeatToken).Want(t, http.StatusOK)
		fresh.Send(t, message{Token: a.SeatToken}).Want(t, http.StatusOK)
		gone(t, fresh.Send(t, message{Token: left}), "seat_released")
	}
}

func TestAHeartbeatIsOneScriptAndNothingElse(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	s.Beat(t, a.SeatToken).Want(t, http.StatusOK) // connects, and loads the script

	const beats = 10
	commands := functiontest.Commands(t, w.Redis, func() {
		for range beats {
			s.Beat(t, a.SeatToken).Want(t, http.StatusOK)
		}
	})
	if len(commands) != beats {
		t.Errorf("%d heartbeats were %d commands: %v", beats, len(commands), commands)
	}
	for _, c := range commands {
		if !strings.HasPrefix(strings.ToLower(c), `"evalsha"`) {
			t.Errorf("a heartbeat sent %s", c)
		}
	}
}

func TestWithoutRedisTheAnswerIsUnavailableAndTheSessionLivesOnAfterwards(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	w.Redis.Kill(t)
	r := s.Beat(t, a.SeatToken).Want(t, http.StatusServiceUnavailable, "store_unavailable")
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w.Redis.Start(t)
	s.Heartbeat.Insist(t, message{Token: a.SeatToken}).Want(t, http.StatusOK)
	s.Acquire.Insist(t, message{Body: functiontest.Ask(l, "b")}).Want(t, http.StatusConflict, "no_seats_available")
}

func TestATokenOfAnOldKeyIsGoodWhileTheKeyIsOnTheRing(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	token := s.Sit(t, l, "a").SeatToken
	deps := w.HeartbeatDeps(t)
	rotated := func(keys string) *signing.Tokens {
		tokens, err := signing.OpenTokens(func(name string) string { return map[string]string{"SEAT_TOKEN_KEYS": keys}[name] }, w.Log.Logger)
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	fresh := "k2:" + strings.Repeat("QUJD", 12)
	deps.Tokens = rotated(fresh + "," + w.Getenv("heartbeat")("SEAT_TOKEN_KEYS"))
	functiontest.Serve(heartbeat.New(deps), functiontest.Request(t, http.MethodPost, "/v1/heartbeat", message{Token: token})).Want(t, http.StatusOK)
	deps.Tokens = rotated(fresh)
	functiontest.Serve(heartbeat.New(deps), functiontest.Request(t, http.MethodPost, "/v1/heartbeat", message{Token: token})).Want(t, http.StatusUnauthorized)
}

func FuzzBody(f *testing.F) {
	w := functiontest.New(f)
	s, l := w.Seating(f), w.Seats(f, 1, time.Hour)
	f.Add(`{}`)
	f.Add(`{"seat_no":1}`)
	s.Heartbeat.Fuzz(f, s.Sit(f, l, "a").SeatToken, l)
}
