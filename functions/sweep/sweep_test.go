package sweep_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/sweep"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

type message = functiontest.Message

// claims are the scheduler's, with these instead.
func claims(change map[string]any) map[string]any {
	c := map[string]any{"aud": functiontest.SchedulerAudience, "sub": "1", "email": functiontest.SchedulerEmail, "email_verified": true}
	maps.Copy(c, change)
	return c
}

// token is the scheduler's, with other claims.
func token(t *testing.T, w *functiontest.World, change map[string]any) string {
	t.Helper()
	signed, err := w.Scheduler.Token(claims(change), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func run(t *testing.T, w *functiontest.World, door *functiontest.Door) sweep.Answer {
	t.Helper()
	r := door.Send(t, message{Token: token(t, w, nil), Body: "{}"})
	return functiontest.Read[sweep.Answer](t, r.Want(t, http.StatusOK))
}

func TestASweepEndsLapsedSessionsAndTellsWhatItDidInNumbers(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, door := w.Seating(t), w.Sweep(t)
	brief, long := w.Seats(t, 3, time.Second), w.Seats(t, 3, time.Hour)
	gone := []string{s.Sit(t, brief, "a").SeatToken, s.Sit(t, brief, "b").SeatToken}
	sits := s.Sit(t, long, "a").SeatToken

	first := run(t, w, door)
	if first.MonthsMade < 1 || first.Licenses != 2 || !first.Complete || first.Failed != 0 {
		t.Errorf("the first sweep: %+v", first)
	}
	total := first.Closed
	testenv.Eventually(t, 20*time.Second, func() error {
		total += run(t, w, door).Closed
		if rows := w.OpenRows(t, brief); rows != 0 {
			return fmt.Errorf("%d lapsed sessions have a row", rows)
		}
		return nil
	})
	if total != 2 {
		t.Errorf("the sweeps closed %d rows, want 2", total)
	}
	for _, token := range gone {
		s.Beat(t, token).Want(t, http.StatusGone, "seat_lapsed")
	}
	s.Beat(t, sits).Want(t, http.StatusOK)
	if idle := run(t, w, door); idle.Closed != 0 || idle.Lapsed != 0 || idle.Told != 0 || idle.Rebuilt != 0 || idle.Ghosts != 0 || idle.MonthsMade != 0 || idle.Licenses != 1 {
		t.Errorf("with nothing to do: %+v", idle)
	}
}

func TestTheSweepOfALostRedisRebuildsAndEndsNobody(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s, door, l := w.Seating(t), w.Sweep(t), w.Seats(t, 2, time.Minute)
	a := s.Sit(t, l, "a").SeatToken
	w.Redis.RestartEmpty(t)
	got := functiontest.Read[sweep.Answer](t, door.Insist(t, message{Token: token(t, w, nil)}).Want(t, http.StatusOK))
	if got.Rebuilt != 1 || got.Closed != 0 || got.Lapsed != 0 {
		t.Errorf("the sweep did %+v", got)
	}
	s.Beat(t, a).Want(t, http.StatusOK)
}

func TestAReleaseThatWasCutShortIsFinishedByTheSweep(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{PrivatePostgres: true})
	s, door, l := w.Seating(t), w.Sweep(t), w.Seats(t, 2, time.Minute)
	a := s.Sit(t, l, "a").SeatToken
	w.Postgres.Stop(t)
	s.Leave(t, a).Want(t, http.StatusServiceUnavailable)
	r := door.Send(t, message{Token: token(t, w, nil)}).Want(t, http.StatusServiceUnavailable, "store_unavailable")
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w.Postgres.Start(t)
	r = door.Insist(t, message{Token: token(t, w, nil)}).Want(t, http.StatusOK)
	if got := functiontest.Read[sweep.Answer](t, r); got.Closed != 1 {
		t.Errorf("the sweep did %+v", got)
	}
	if rows := w.OpenRows(t, l); rows != 0 {
		t.Errorf("%d rows are open", rows)
	}
}

func TestSweepsAtTheSameTimeDoTheWorkOnce(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	s := w.Seating(t)
	l := w.Seats(t, 20, time.Second)
	for i := range 20 {
		s.Sit(t, l, functiontest.Device(i))
	}
	doors := []*functiontest.Door{w.Sweep(t), w.Sweep(t), w.Sweep(t)}
	testenv.Eventually(t, 20*time.Second, func() error {
		var running sync.WaitGroup
		for _, d := range doors {
			running.Go(func() {
				if r := d.Send(t, message{Token: token(t, w, nil)}); r.Status != http.StatusOK {
					t.Errorf("answered %d %s", r.Status, r.Body)
				}
			})
		}
		running.Wait()
		if rows := w.OpenRows(t, l); rows != 0 {
			return fmt.Errorf("%d rows are open", rows)
		}
		return nil
	})
	if n := testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.ended_sessions WHERE license_id = $1 AND status = 'lapsed'`, l.ID); n != 20 {
		t.Errorf("%d sessions are in the history, want 20", n)
	}
}

func TestExpiredIdempotencyKeysAreForgotten(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	l := w.Seats(t, 1, time.Minute)
	w.Acquire(t).Send(t, message{Body: functiontest.Ask(l, "a"), Header: map[string]string{"Idempotency-Key": "k"}}).Want(t, http.StatusCreated)
	door := w.Sweep(t)
	if got := run(t, w, door); got.ExpiredIdempotencyKeys != 0 {
		t.Errorf("a fresh key was forgotten: %+v", got)
	}
	w.DB.Exec(t, `UPDATE app.idempotency_keys SET expires_at = now() - interval '1 second'`)
	if got := run(t, w, door); got.ExpiredIdempotencyKeys != 1 {
		t.Errorf("an old key was kept: %+v", got)
	}
}

func TestOnlyTheSchedulerMaySweep(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	key, err := localenv.NewIssuerKey()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := localenv.NewIssuer("https://issuer.test", key)
	if err != nil {
		t.Fatal(err)
	}
	door := w.Sweep(t)
	good := token(t, w, nil)
	parts := strings.Split(good, ".")
	encode := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	unsigned := encode(map[string]any{"alg": "none", "typ": "JWT"}) + "." + parts[1] + "."
	hs256 := encode(map[string]any{"alg": "HS256", "typ": "JWT"}) + "." + parts[1]
	mac := hmac.New(sha256.New, []byte("secret"))
	mac.Write([]byte(hs256))
	hs256 += "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	other, err := foreign.Token(claims(nil), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	liar, err := foreign.Token(claims(map[string]any{"iss": w.Scheduler.URL()}), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"none":                      "",
		"no JWT":                    "ush_something",
		"another audience":          token(t, w, map[string]any{"aud": "https://other.usher.test"}),
		"no audience":               token(t, w, map[string]any{"aud": nil}),
		"another issuer":            token(t, w, map[string]any{"iss": "https://accounts.google.com"}),
		"another issuer's own":      other,
		"another's in our name":     liar,
		"another account":           token(t, w, map[string]any{"email": "someone@usher.test"}),
		"no account":                token(t, w, map[string]any{"email": nil}),
		"an address nobody vouches": token(t, w, map[string]any{"email_verified": false}),
		"expired":                   token(t, w, map[string]any{"exp": time.Now().Add(-10 * time.Minute).Unix()}),
		"without an end":            token(t, w, map[string]any{"exp": nil}),
		"unsigned":                  unsigned,
		"HS256":                     hs256,
		"claims of another":         parts[0] + "." + encode(claims(map[string]any{"iss": w.Scheduler.URL(), "exp": 1 << 40})) + "." + parts[2],
		"a signature cut short":     good[:len(good)-4],
		"a seat token":              w.Seating(t).Sit(t, w.Seats(t, 1, time.Minute), "a").SeatToken,
	}
	for name, bearer := range bad {
		for _, body := range []any{nil, `{"unknown":1}`} {
			if r := door.Send(t, message{Token: bearer, Body: body}); r.Status != http.StatusUnauthorized || r.Code() != "scheduler_token_invalid" {
				t.Errorf("%s: answered %d %s", name, r.Status, r.Body)
			}
		}
		if bearer != "" {
			w.Hides(t, bearer)
		}
	}
	door.Send(t, message{Token: good, Body: `{"unknown":1}`}).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	door.Send(t, message{Token: good, Method: http.MethodGet}).Want(t, http.StatusMethodNotAllowed)
	door.Send(t, message{Token: good}).Want(t, http.StatusOK)
	w.Hides(t, good)
}

func TestWithoutItsIssuersKeysTheSweepIsToBeTriedAgain(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t)
	door, bearer := w.Sweep(t), token(t, w, nil)
	if err := w.Scheduler.Close(); err != nil {
		t.Fatal(err)
	}
	door.Send(t, message{Token: bearer}).Want(t, http.StatusServiceUnavailable, "store_unavailable")
}
