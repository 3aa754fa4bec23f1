package acquire_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/functions/acquire"
	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/testenv"
)

type (
	body    = functiontest.Body
	message = functiontest.Message
)

func seated(t *testing.T, r functiontest.Reply) acquire.Answer {
	t.Helper()
	if r.Status != http.StatusCreated && r.Status != http.StatusOK {
		t.Fatalf("answered %d %s, want a seat", r.Status, r.Body)
	}
	return functiontest.Read[acquire.Answer](t, r)
}

func ask(l functiontest.License, hardware string) message {
	return message{Body: functiontest.Ask(l, hardware)}
}

func TestAHolderGetsASeatAndTheSameSeatWhenItAsksAgain(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door, l := w.Acquire(t), w.Seats(t, 3, 30*time.Second)
	began := time.Now()

	first := seated(t, door.Send(t, ask(l, "a")).Want(t, http.StatusCreated))
	if first.SeatNo != 1 || first.Overdraft || first.ActiveSeats != 1 || first.MaxSeats != 3 || first.TTLSeconds != 30 {
		t.Errorf("the first holder got %+v", first)
	}
	if h := first.HeartbeatAfterSeconds; h < 9 || h > 11 {
		t.Errorf("the first heartbeat is to come after %d s of a lease of 30", h)
	}
	if d := first.ExpiresAt.Sub(began); d < 28*time.Second || d > 45*time.Second {
		t.Errorf("the lease of 30 s is shown to end in %s", d)
	}
	again := seated(t, door.Send(t, ask(l, "a")).Want(t, http.StatusOK))
	if again.SessionID != first.SessionID || again.SeatNo != 1 || again.ActiveSeats != 1 {
		t.Errorf("asking again got %+v, want session %s", again, first.SessionID)
	}
	second := seated(t, w.Acquire(t).Send(t, ask(l, "b")).Want(t, http.StatusCreated))
	if second.SeatNo != 2 || second.ActiveSeats != 2 || second.SessionID == first.SessionID {
		t.Errorf("the second holder got %+v", second)
	}
	if rows := w.OpenRows(t, l); rows != 2 {
		t.Errorf("%d sessions have a row, want 2", rows)
	}
}

func TestTheReceiptOfASeatVerifiesWithThePublishedKeysAndEndsWithTheLease(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	l := w.Seats(t, 3, 30*time.Second)
	got := seated(t, w.Acquire(t).Send(t, ask(l, "a")))
	r := w.Verify(t, got.Receipt, time.Now())
	if r.Session != got.SessionID.String() || r.Seat != got.SeatNo || r.License != l.ID.String() || r.HardwareHash != receipt.HashHardware("a") ||
		!r.OfflineUntil.Equal(got.ExpiresAt.Time) {
		t.Errorf("the receipt says %+v of %+v", r, got)
	}
}

func TestWhatTheClientToldOfItselfIsKeptWithItsSession(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	l := w.Seats(t, 3, time.Minute)
	seated(t, w.Acquire(t).Send(t, message{Body: body{
		"license_key": l.Key, "hardware_id": "a", "version": "1.2.3", "product": functiontest.Product, "user": "ada", "instance_id": "7",
		"hostname": "host", "metadata": json.RawMessage(`{"n":9007199254740993,"e":1e-300,"deep":[{"y":"é","x":null}],"a":"\u00e9"}`),
	}}))
	row := testenv.Value[string](t, w.DB, `SELECT concat_ws(' ', holder, hardware_id, hostname, user_name, instance_id, version, metadata)
	    FROM app.open_sessions WHERE license_id = $1`, l.ID)
	if want := `device:a a host ada 7 1.2.3 {"n":9007199254740993,"e":1e-300,"deep":[{"y":"é","x":null}],"a":"\u00e9"}`; row != want {
		t.Errorf("kept is %s, want %s", row, want)
	}
}

func TestAFullLicenceSaysHowManySitAndWhenToComeBack(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door, l := w.Acquire(t), w.Seats(t, 2, 30*time.Second)
	seated(t, door.Send(t, ask(l, "a")))
	seated(t, door.Send(t, ask(l, "b")))
	r := door.Send(t, ask(l, "c")).Want(t, http.StatusConflict, "no_seats_available")
	p := functiontest.Read[struct {
		ActiveSeats int `json:"active_seats"`
		MaxSeats    int `json:"max_seats"`
		RetryAfter  int `json:"retry_after_seconds"`
	}](t, r)
	if p.ActiveSeats != 2 || p.MaxSeats != 2 || p.RetryAfter < 1 || p.RetryAfter > 32 {
		t.Errorf("answered %s", r.Body)
	}
	if r.Header.Get("Retry-After") != fmt.Sprint(p.RetryAfter) {
		t.Errorf("Retry-After is %q and retry_after_seconds %d", r.Header.Get("Retry-After"), p.RetryAfter)
	}
}

func TestOverdraftSeatsAreGivenOutLastAndSaySo(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door := w.Acquire(t)
	l := w.Sell(t, func(terms *license.Terms) { terms.MaxSeats, terms.OverdraftSeats = 1, 1 })
	if got := seated(t, door.Send(t, ask(l, "a"))); got.Overdraft {
		t.Errorf("the first seat is an overdraft: %+v", got)
	}
	if got := seated(t, door.Send(t, ask(l, "b"))); !got.Overdraft || got.MaxSeats != 1 || got.ActiveSeats != 2 {
		t.Errorf("the second seat is none: %+v", got)
	}
	door.Send(t, ask(l, "c")).Want(t, http.StatusConflict, "no_seats_available")
}

func TestAnAbandonedSeatIsGivenAwayWithoutASweepAndNotBeforeItsLeaseEnds(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, 2*time.Second)
	sent := time.Now()
	gone := s.Sit(t, l, "a")
	believed := sent.Add(2 * time.Second)
	testenv.Eventually(t, 20*time.Second, func() error {
		r := s.Acquire.Send(t, ask(l, "b"))
		if r.Status == http.StatusCreated {
			if time.Now().Before(believed) {
				t.Error("the seat was given away while its holder believed")
			}
			return nil
		}
		return fmt.Errorf("answered %d %s", r.Status, r.Body)
	})
	s.Beat(t, gone.SeatToken).Want(t, http.StatusGone, "seat_lapsed")
}

func TestWhoIsAHolderFollowsTheLicence(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door := w.Acquire(t)
	send := func(l functiontest.License, hardware, user, instance string) functiontest.Reply {
		b := functiontest.Ask(l, hardware)
		if user != "" {
			b["user"] = user
		}
		if instance != "" {
			b["instance_id"] = instance
		}
		return door.Send(t, message{Body: b})
	}
	missing := func(r functiontest.Reply, field string) {
		t.Helper()
		r.Want(t, http.StatusUnprocessableEntity, "invalid_request")
		if !strings.Contains(string(r.Body), `"field":"`+field+`"`) {
			t.Errorf("answered %s, which does not name %s", r.Body, field)
		}
	}
	per := func(what string) functiontest.License {
		return w.Sell(t, func(terms *license.Terms) { terms.SeatPer = what })
	}
	user := per(license.PerUser)
	missing(send(user, "a", "", "1"), "user")
	one := seated(t, send(user, "a", "ada", ""))
	if other := seated(t, send(user, "b", "ada", "").Want(t, http.StatusOK)); other.SessionID != one.SessionID {
		t.Error("one user on two devices has two seats")
	}
	seated(t, send(user, "a", "bob", "").Want(t, http.StatusCreated))

	instance := per(license.PerInstance)
	missing(send(instance, "a", "ada", ""), "instance_id")
	seated(t, send(instance, "a", "", "1").Want(t, http.StatusCreated))
	seated(t, send(instance, "a", "", "2").Want(t, http.StatusCreated))
	seated(t, send(instance, "b", "", "1").Want(t, http.StatusCreated))
	seated(t, send(instance, "b", "", "1").Want(t, http.StatusOK))

	// A change of what is counted is heard of by the next request, also where it is remembered otherwise.
	w.Change(t, user, func(terms *license.Terms) { terms.SeatPer = license.PerDevice })
	seated(t, send(user, "c", "", ""))
	holders := testenv.Values[string](t, w.DB, `SELECT holder FROM app.open_sessions WHERE license_id = $1 ORDER BY seat_no`, user.ID)
	if !slices.Equal(holders, []string{"user:ada", "user:bob", "device:c"}) {
		t.Errorf("the holders are %v", holders)
	}
}

func TestParallelRequestsOfOneHolderGetOneSession(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	doors, l := []*functiontest.Door{w.Acquire(t), w.Acquire(t)}, w.Seats(t, 5, time.Minute)
	sessions := make([]uuid.UUID, 25)
	var running sync.WaitGroup
	for i := range sessions {
		running.Go(func() {
			r := doors[i%2].Send(t, ask(l, "a"))
			for r.Status == http.StatusServiceUnavailable { // a race lost five times is answered so, and asked again
				r = doors[i%2].Send(t, ask(l, "a"))
			}
			sessions[i] = functiontest.Read[acquire.Answer](t, r).SessionID
		})
	}
	running.Wait()
	if all := slices.Compact(slices.Clone(sessions)); len(all) != 1 {
		t.Errorf("one holder has the sessions %v", all)
	}
	if rows := w.OpenRows(t, l); rows != 1 {
		t.Errorf("%d sessions have a row, want 1", rows)
	}
}

func TestALicenceThatDoesNotValidateIsForbiddenUnderTheCheckCode(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door := w.Acquire(t)
	past, before, future := time.Now().Add(-time.Hour), time.Now().Add(-2*time.Hour), time.Now().Add(time.Hour)
	for code, c := range map[string]struct {
		terms func(*license.Terms)
		act   func(functiontest.License)
		ask   body
	}{
		"license_revoked":      {act: func(l functiontest.License) { w.Revoke(t, l) }},
		"license_suspended":    {act: func(l functiontest.License) { w.Suspend(t, l) }},
		"license_not_started":  {terms: func(l *license.Terms) { l.StartsAt = &future }},
		"license_expired":      {terms: func(l *license.Terms) { l.ExpiresAt, l.GraceUntil = &before, &past }},
		"product_mismatch":     {ask: body{"product": "another"}},
		"version_not_entitled": {terms: func(l *license.Terms) { l.Versions = ">=2.0" }},
		"hardware_not_allowed": {terms: func(l *license.Terms) { l.AllowedHardware = []string{"there"} }},
		"too_many_devices": {
			terms: func(l *license.Terms) { l.MaxDevices = 1 },
			act:   func(l functiontest.License) { seated(t, door.Send(t, ask(l, "another"))) },
		},
	} {
		l := w.Sell(t, c.terms)
		if c.act != nil {
			c.act(l)
		}
		b := functiontest.Ask(l, "here")
		maps.Copy(b, c.ask)
		if r := door.Send(t, message{Body: b}); r.Status != http.StatusForbidden || r.Code() != code {
			t.Errorf("answered %d %s, want 403 %s", r.Status, r.Body, code)
		}
	}
	last := w.Seats(t, 1, time.Minute)
	seated(t, door.Send(t, ask(last, "here")))
	w.SetTenant(t, "suspended", last)
	door.Send(t, ask(last, "here")).Want(t, http.StatusForbidden, "tenant_suspended")
}

func TestALicenceInItsGraceGrantsSeats(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	l := w.Sell(t, func(l *license.Terms) { l.ExpiresAt, l.GraceUntil = &past, &future })
	w.Acquire(t).Send(t, ask(l, "a")).Want(t, http.StatusCreated)
}

func TestDevicesOfALimitedLicenceThatSatBeforeMaySitAgain(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s := w.Seating(t)
	l := w.Sell(t, func(l *license.Terms) { l.MaxDevices = 1 })
	s.Leave(t, s.Sit(t, l, "a").SeatToken).Want(t, http.StatusOK)
	s.Acquire.Send(t, ask(l, "b")).Want(t, http.StatusForbidden, "too_many_devices")
	s.Acquire.Send(t, ask(l, "a")).Want(t, http.StatusCreated)
}

func TestAnUnknownKeyIsNotFoundBeforeTheBodyIsLookedAt(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door := w.Acquire(t)
	for _, m := range []message{
		{Body: body{"license_key": license.NewKey().Reveal(), "hardware_id": "a", "version": "1"}},
		{Body: body{"license_key": "no key", "unknown": 1}},
	} {
		door.Send(t, m).Want(t, http.StatusNotFound, "license_not_found")
	}
	for _, m := range []message{
		{Body: body{"license_key": 7}}, {Body: body{"license_key": strings.Repeat("A", 256)}}, {Body: body{}}, {Body: `[]`},
	} {
		door.Send(t, m).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	}
	suspended := w.Seats(t, 1, time.Minute)
	w.Suspend(t, suspended)
	door.Send(t, message{Body: body{"license_key": suspended.Key, "unknown": 1}}).Want(t, http.StatusForbidden, "license_suspended")
}

func TestAChangeOfALicenceIsHeardOfByTheNextRequestOfEveryInstance(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	l := w.Seats(t, 1, time.Minute)
	s, other := w.Seating(t), w.Acquire(t)
	both := func(hardware string, status int, code string) {
		t.Helper()
		for _, d := range []*functiontest.Door{s.Acquire, other} {
			d.Send(t, ask(l, hardware)).Want(t, status, code)
		}
	}
	sitting := s.Sit(t, l, "a")
	both("b", http.StatusConflict, "no_seats_available")
	w.Suspend(t, l)
	both("b", http.StatusForbidden, "license_suspended")
	s.Beat(t, sitting.SeatToken).Want(t, http.StatusGone, "seat_evicted")
	w.Reinstate(t, l)
	s.Acquire.Send(t, ask(l, "a")).Want(t, http.StatusCreated)
	both("b", http.StatusConflict, "no_seats_available")
	w.Change(t, l, func(terms *license.Terms) { terms.MaxSeats, terms.Versions = 2, ">=2.0" })
	both("b", http.StatusForbidden, "version_not_entitled")
	w.Change(t, l, func(terms *license.Terms) { terms.Versions = "" })
	other.Send(t, ask(l, "b")).Want(t, http.StatusCreated)
	old := l
	l = w.RotateKey(t, l)
	both("b", http.StatusOK, "")
	for _, d := range []*functiontest.Door{s.Acquire, other} {
		d.Send(t, ask(old, "a")).Want(t, http.StatusNotFound, "license_not_found")
	}
}

func TestAFunctionWhoseClockIsWrongChangesNothing(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	soon, justNow := time.Now().Add(2*time.Minute), time.Now().Add(-2*time.Minute)
	for _, off := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		wrong := w.At(func() time.Time { return time.Now().Add(off) })
		s := wrong.Seating(t)
		l := w.Sell(t, func(l *license.Terms) { l.MaxSeats, l.TTL, l.ExpiresAt = 1, 2*time.Second, &soon })
		ended := w.Sell(t, func(l *license.Terms) { l.ExpiresAt = &justNow })
		for range 2 { // the second from memory
			s.Acquire.Send(t, ask(ended, "a")).Want(t, http.StatusForbidden, "license_expired")
		}
		began := time.Now()
		a := s.Sit(t, l, "a")
		if d := a.ExpiresAt.Sub(began); d < time.Second || d > 20*time.Second {
			t.Errorf("off by %s: a lease of 2 s is shown to end in %s", off, d)
		}
		s.Acquire.Send(t, ask(l, "b")).Want(t, http.StatusConflict, "no_seats_available")
		s.Beat(t, a.SeatToken).Want(t, http.StatusOK)
		testenv.Eventually(t, 20*time.Second, func() error {
			if r := s.Acquire.Send(t, ask(l, "b")); r.Status != http.StatusCreated {
				return fmt.Errorf("off by %s: answered %d", off, r.Status)
			}
			return nil
		})
		s.Beat(t, a.SeatToken).Want(t, http.StatusGone, "seat_lapsed")
		s.Leave(t, s.Sit(t, l, "b").SeatToken).Want(t, http.StatusOK)
	}
}

func TestMetadataMayFillWhatASessionKeepsAndNoMore(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door := w.Acquire(t)
	l := w.Seats(t, 10, time.Minute)
	n := 0
	send := func(metadata any) functiontest.Reply {
		n++
		return door.Send(t, message{Body: functiontest.With(functiontest.Ask(l, functiontest.Device(n)), "metadata", metadata)})
	}
	many := func(count int, element any) body { return body{"list": slices.Repeat([]any{element}, count)} }
	// As it is sent, {"k":"…"} has eight bytes around the text.
	send(body{"k": strings.Repeat("x", 16<<10-8)}).Want(t, http.StatusCreated)
	send(body{"k": strings.Repeat(`"`, (16<<10-8)/2)}).Want(t, http.StatusCreated)
	send(many((16<<10-10)/2, 1)).Want(t, http.StatusCreated)
	send(many(1000, json.Number("1e308"))).Want(t, http.StatusCreated)
	for name, metadata := range map[string]any{
		"one byte more":           body{"k": strings.Repeat("x", 16<<10-7)},
		"quotes that are escaped": body{"k": strings.Repeat(`"`, 16<<10-8)},
		"too many elements":       many((16<<10-10)/2+1, 1),
		"more than fifty members": func() body {
			b := body{}
			for i := range 51 {
				b[functiontest.Device(i)] = i
			}
			return b
		}(),
		"no object":             []any{},
		"null":                  nil,
		"a control character":   body{"k": "\u0000"},
		"one in a name":         body{"a\u0001": 1},
		"one deep inside of it": body{"k": []any{body{"k": "\u007f"}}},
	} {
		if r := send(metadata); r.Status != http.StatusUnprocessableEntity {
			t.Errorf("%s: answered %d %.200s", name, r.Status, r.Body)
		}
	}
}

func TestBudgetsStopWhoAsksTooOftenAndNobodyElse(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{Env: map[string]string{
		"BUDGET_HOLDER_BURST": "3", "BUDGET_HOLDER_PER_SECOND": "0.1", "BUDGET_UNKNOWN_BURST": "2", "BUDGET_UNKNOWN_PER_SECOND": "0.1",
		"BUDGET_LICENSE_BASE": "4", "BUDGET_LICENSE_PER_SEAT": "1", "BUDGET_LICENSE_REFILL": "1h",
	}})
	door, l := w.Acquire(t), w.Seats(t, 2, time.Minute)
	limited := func(m message) {
		t.Helper()
		r := door.Send(t, m).Want(t, http.StatusTooManyRequests, "rate_limited")
		if r.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	for range 3 {
		seated(t, door.Send(t, ask(l, "a")))
	}
	limited(ask(l, "a"))
	for i := range 3 { // six in all: the licence's budget
		door.Send(t, ask(l, functiontest.Device(i)))
	}
	limited(ask(l, "z"))
	seated(t, door.Send(t, ask(w.Seats(t, 2, time.Minute), "a")))

	guess := func(from string) message {
		return message{Body: body{"license_key": license.NewKey().Reveal()}, From: from}
	}
	for range 2 {
		door.Send(t, guess("192.0.2.1")).Want(t, http.StatusNotFound)
	}
	limited(guess("192.0.2.1"))
	door.Send(t, guess("192.0.2.2")).Want(t, http.StatusNotFound)
	good := ask(w.Seats(t, 2, time.Minute), "a")
	good.From = "192.0.2.1"
	seated(t, door.Send(t, good))
}

func TestAnAcquireIsTwoScriptsAndOneRoundTripToPostgreSQL(t *testing.T) {
	t.Parallel()
	budgets := testenv.Redis(t)
	w := functiontest.New(t, functiontest.Options{Env: map[string]string{
		"BUDGET_REDIS_URL": budgets.Database(0), "LICENSE_CACHE_SECONDS": "60",
	}})
	trips := testenv.NewTrips(t, w.DB)
	f, err := acquire.Open(t.Context(), func(variable string) string {
		if variable == "DATABASE_URL" {
			return trips.URL(t, w.Getenv("acquire")(variable))
		}
		return w.Getenv("acquire")(variable)
	}, w.Log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	door, l := functiontest.NewDoor(t, f.Routes, w.Log.Logger), w.Seats(t, 50, time.Minute)
	take := func(hardware string) { door.Send(t, ask(l, hardware)).Want(t, http.StatusCreated) }
	for n := range 3 { // builds the pool, reads the licence's facts, connects, prepares statements, loads scripts
		take(fmt.Sprintf("first-%d", n))
	}

	const acquires = 10
	before := trips.Count()
	var budget []string
	commands := functiontest.Commands(t, w.Redis, func() {
		budget = functiontest.Commands(t, budgets, func() {
			for n := range acquires {
				take(fmt.Sprintf("second-%d", n))
			}
		})
	})
	if got := trips.Count() - before; got != acquires {
		t.Errorf("%d acquires were %d round trips to PostgreSQL", acquires, got)
	}
	for store, at := range map[string]struct {
		commands []string
		scripts  int
	}{"the pools": {commands, 2}, "the budgets": {budget, 0}} {
		if len(at.commands) != at.scripts*acquires {
			t.Errorf("%d acquires sent %d commands to the Redis of %s: %v", acquires, len(at.commands), store, at.commands)
		}
		for _, c := range at.commands {
			if !strings.HasPrefix(strings.ToLower(c), `"evalsha"`) {
				t.Errorf("an acquire sent %s", c)
			}
		}
	}
}

func TestAFaultyIdempotencyKeyIsRefused(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	m := ask(w.Seats(t, 1, time.Minute), "a")
	m.Header = map[string]string{"Idempotency-Key": "with a space"}
	w.Acquire(t).Send(t, m).Want(t, http.StatusBadRequest, "idempotency_key_invalid")
	m.Header = map[string]string{"Idempotency-Key": ""}
	w.Acquire(t).Send(t, m).Want(t, http.StatusBadRequest, "idempotency_key_invalid")
}

func keyed(m message, key string) message {
	m.Header = map[string]string{"Idempotency-Key": key}
	return m
}

func TestAnIdempotencyKeyRepeatsTheFirstAnswerWhileThatSessionLives(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, other, l := w.Seating(t), w.Acquire(t), w.Seats(t, 2, time.Minute)

	first := s.Acquire.Send(t, keyed(ask(l, "a"), "k-1")).Want(t, http.StatusCreated)
	again := other.Send(t, keyed(ask(l, "a"), "k-1")).Want(t, http.StatusCreated)
	if string(again.Body) != string(first.Body) || again.Header.Get("Idempotent-Replayed") != "true" || first.Header.Get("Idempotent-Replayed") != "" {
		t.Errorf("the repeated answer is %s (%v), the first was %s", again.Body, again.Header, first.Body)
	}
	other.Send(t, keyed(ask(l, "b"), "k-1")).Want(t, http.StatusUnprocessableEntity, "idempotency_key_reused")
	other.Send(t, keyed(ask(w.Seats(t, 1, time.Minute), "b"), "k-1")).Want(t, http.StatusCreated) // another licence's key is another
	existing := s.Acquire.Send(t, keyed(ask(l, "a"), "k-2")).Want(t, http.StatusOK)
	if r := other.Send(t, keyed(ask(l, "a"), "k-2")).Want(t, http.StatusOK); string(r.Body) != string(existing.Body) {
		t.Errorf("a remembered 200 is repeated as %s", r.Body)
	}

	session := seated(t, first)
	s.Leave(t, session.SeatToken).Want(t, http.StatusOK)
	anew := s.Acquire.Send(t, keyed(ask(l, "a"), "k-1")).Want(t, http.StatusCreated)
	if seated(t, anew).SessionID == session.SessionID || anew.Header.Get("Idempotent-Replayed") != "" {
		t.Errorf("the answer of a released session was repeated: %s", anew.Body)
	}
	if r := other.Send(t, keyed(ask(l, "a"), "k-1")); string(r.Body) != string(anew.Body) {
		t.Errorf("the new answer is repeated as %s", r.Body)
	}
	w.Hides(t, session.SeatToken, "k-1", l.Key)
	kept := testenv.Values[string](t, w.DB, `SELECT encode(answer, 'escape') || encode(key_hash, 'escape') FROM app.idempotency_keys WHERE answer IS NOT NULL`)
	for _, row := range kept {
		if strings.Contains(row, "seat_token") || strings.Contains(row, session.SeatToken) || strings.Contains(row, "k-1") {
			t.Errorf("an answer or its key is kept in the clear: %s", row)
		}
	}
}

func TestARepeatedAnswerExtendsTheLeaseItPromises(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, 2*time.Second)
	first := seated(t, s.Acquire.Send(t, keyed(ask(l, "a"), "k")))
	// Beyond a lease's length the session lives by repetitions alone.
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		r := s.Acquire.Send(t, keyed(ask(l, "a"), "k"))
		if r.Status != http.StatusCreated || seated(t, r).SessionID != first.SessionID {
			t.Fatalf("repeated as %d %s", r.Status, r.Body)
		}
		<-time.After(100 * time.Millisecond) // the pace of the repetitions
	}
	s.Beat(t, first.SeatToken).Want(t, http.StatusOK)
}

func TestARepeatedAnswerPromisesNoLongerLeaseThanThereIs(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, 10*time.Minute)
	first := seated(t, s.Acquire.Send(t, keyed(ask(l, "a"), "k")))
	w.Change(t, l, func(terms *license.Terms) { terms.TTL = time.Minute })
	again := seated(t, s.Acquire.Send(t, keyed(ask(l, "a"), "k")))
	if again.SessionID != first.SessionID || again.TTLSeconds != 60 || again.HeartbeatAfterSeconds > 22 {
		t.Errorf("after the lease became shorter it is promised %+v", again)
	}
	if r := s.Acquire.Send(t, keyed(ask(l, "a"), "k")); r.Header.Get("Idempotent-Replayed") != "true" || seated(t, r).TTLSeconds != 60 {
		t.Errorf("the shorter promise is repeated as %s", r.Body)
	}
}

func TestWhatWasRefusedIsNotRememberedUnderItsIdempotencyKey(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, l := w.Seating(t), w.Seats(t, 1, time.Minute)
	a := s.Sit(t, l, "a")
	waiting := message{Body: functiontest.With(functiontest.Ask(l, "c"), "wait", true)}
	for range 2 {
		s.Acquire.Send(t, keyed(ask(l, "b"), "k-b")).Want(t, http.StatusConflict, "no_seats_available")
	}
	s.Acquire.Send(t, keyed(waiting, "k-c")).Want(t, http.StatusAccepted)
	s.Leave(t, a.SeatToken).Want(t, http.StatusOK)
	s.Acquire.Send(t, keyed(waiting, "k-c")).Want(t, http.StatusCreated)
	w.Change(t, l, func(terms *license.Terms) { terms.MaxSeats = 2 })
	s.Acquire.Send(t, keyed(ask(l, "b"), "k-b")).Want(t, http.StatusCreated)
}

func TestParallelRequestsUnderOneIdempotencyKeyGiveOneSession(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	doors, l := []*functiontest.Door{w.Acquire(t), w.Acquire(t)}, w.Seats(t, 5, time.Minute)
	replies := make([]functiontest.Reply, 12)
	var running sync.WaitGroup
	for i := range replies {
		running.Go(func() { replies[i] = doors[i%2].Send(t, keyed(ask(l, "a"), "k")) })
	}
	running.Wait()
	sessions := map[uuid.UUID]bool{}
	for _, r := range replies {
		switch {
		case r.Status == http.StatusCreated:
			sessions[seated(t, r).SessionID] = true
		case r.Status == http.StatusConflict && r.Code() == "idempotency_in_flight" && r.Header.Get("Retry-After") != "":
		default:
			t.Errorf("answered %d %s", r.Status, r.Body)
		}
	}
	if len(sessions) != 1 {
		t.Errorf("got the sessions %v", sessions)
	}
	if r := doors[0].Send(t, keyed(ask(l, "a"), "k")).Want(t, http.StatusCreated); !sessions[seated(t, r).SessionID] {
		t.Errorf("later it answers %s", r.Body)
	}
}

func TestAClientThatHungUpMayAskAgainAtOnceUnderItsIdempotencyKey(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	deps, l := w.AcquireDeps(t), w.Seats(t, 1, time.Minute)
	ctx, hangUp := context.WithCancel(t.Context())
	asked := 0
	deps.Now = func() time.Time {
		if asked++; asked == 1 {
			defer hangUp() // once the licence is known
		}
		return time.Now()
	}
	handler := acquire.New(deps)
	first := keyed(ask(l, "a"), "k")
	r := functiontest.Request(t, http.MethodPost, "/v1/acquire", first).WithContext(ctx)
	functiontest.Serve(handler, r)
	testenv.Eventually(t, 5*time.Second, func() error { // a retry is never told to wait for a request that nobody makes any more
		if r := functiontest.Serve(handler, functiontest.Request(t, http.MethodPost, "/v1/acquire", first)); r.Status != http.StatusCreated {
			return fmt.Errorf("the retry was answered %d %s", r.Status, r.Body)
		}
		return nil
	})
}

func TestWithoutAStoreNoSeatIsGivenAndNoneIsLost(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{PrivatePostgres: true})
	s, l := w.Seating(t), w.Seats(t, 2, time.Minute)
	a := s.Sit(t, l, "a")
	unavailable := func(m message) {
		t.Helper()
		r := s.Acquire.Send(t, m).Want(t, http.StatusServiceUnavailable, "store_unavailable")
		if r.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	w.Redis.Kill(t)
	unavailable(ask(l, "b"))
	unavailable(keyed(ask(l, "b"), "k"))
	w.Redis.Start(t) // it has forgotten everything
	s.Acquire.Insist(t, ask(l, "a"))
	if again := s.Sit(t, l, "a"); again.SessionID != a.SessionID {
		t.Errorf("the holder's session became %s", again.SessionID)
	}
	w.Postgres.Stop(t)
	unavailable(ask(l, "b"))
	unavailable(keyed(ask(l, "b"), "k-2"))
	w.Postgres.Start(t)
	s.Acquire.Insist(t, ask(l, "b"))
	s.Sit(t, l, "b")
	s.Acquire.Send(t, ask(l, "c")).Want(t, http.StatusConflict, "no_seats_available")
	if again := s.Sit(t, l, "a"); again.SessionID != a.SessionID {
		t.Errorf("the holder's session became %s", again.SessionID)
	}
}

func TestAPanicBecomesAProblemDocument(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	l := w.Seats(t, 1, time.Minute)
	deps := w.AcquireDeps(t)
	deps.Now = func() time.Time { panic(errors.New("the clock fell off the wall")) }
	r := functiontest.Serve(acquire.New(deps), functiontest.Request(t, http.MethodPost, "/v1/acquire", ask(l, "a")))
	r.Want(t, http.StatusInternalServerError, "internal_error")
	if strings.Contains(string(r.Body), "clock") {
		t.Errorf("the answer tells of the inside: %s", r.Body)
	}
	if log := w.Log.Text(); !strings.Contains(log, "fell off the wall") || !strings.Contains(log, "acquire.go") {
		t.Error("the log has no word of the panic, or of where")
	}
	w.Hides(t, l.Key)
}

func FuzzBody(f *testing.F) {
	w := functiontest.New(f)
	door, l := w.Acquire(f), w.Seats(f, 3, time.Minute)
	f.Add(`{"license_key":"KEY","hardware_id":"a","version":"1.0.0"}`)
	f.Add(`{"license_key":"KEY","hardware_id":"a","version":"1.0.0","wait":true,"metadata":{"k":[1e308,null]},"user":"u","instance_id":"i","hostname":"h"}`)
	door.Fuzz(f, "", l)
}
