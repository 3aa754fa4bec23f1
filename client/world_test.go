package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// In these tests time is that of a synctest bubble: it stands still while anything runs, so that every moment is exact.

// script is a service that answers as the test says, and writes down what it was asked.
type script struct {
	t     *testing.T
	began time.Time

	mu     sync.Mutex
	answer func(asked) reply
	asked  []asked
	slept  time.Duration // how long the machine was suspended
}

// asked is a request as it came.
type asked struct {
	path, query, key, token string
	body                    map[string]any // nil = a GET
	// at is when, since the test began.
	at time.Duration
}

// reply is an answer: a status and a body with headers, or an error of the network, after a delay.
type reply struct {
	status int
	body   any
	header map[string]string
	err    error
	delay  time.Duration
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	q := asked{path: r.URL.Path, query: r.URL.RawQuery, key: r.Header.Get("Idempotency-Key"), token: r.Header.Get("Authorization"), at: time.Since(s.began)}
	if r.Method == http.MethodGet && len(text) == 0 {
		text = []byte("null")
	}
	if err := json.Unmarshal(text, &q.body); err != nil {
		s.t.Errorf("%s was asked %q", q.path, text)
	}
	s.mu.Lock()
	s.asked = append(s.asked, q)
	answer := s.answer
	s.mu.Unlock()
	a := answer(q)
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-time.After(a.delay):
	}
	if a.err != nil {
		return nil, a.err
	}
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	if a.status >= 400 {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.status)
	switch body := a.body.(type) {
	case string:
		_, _ = io.WriteString(w, body)
	default:
		var b bytes.Buffer
		if err := json.NewEncoder(&b).Encode(body); err != nil {
			s.t.Error(err)
		}
		_, _ = w.Write(b.Bytes())
	}
	return w.Result(), nil
}

// says changes what is answered from now on.
func (s *script) says(answer func(asked) reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// suspends the machine: the clock runs on, and no timer.
func (s *script) suspends(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slept += d
}

func (s *script) now() instant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return instant(time.Since(s.began) + s.slept + time.Hour)
}

// paths are what was asked, in order, from the nth on.
func (s *script) paths(from int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var paths []string
	for _, q := range s.asked[from:] {
		paths = append(paths, q.path)
	}
	return paths
}

func (s *script) all() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

type object = map[string]any

// seat is the answer to an acquire: a lease of a minute, with a heartbeat each 20 s.
func seatOf(session string) reply {
	return reply{status: 201, body: object{
		"session_id": session, "seat_token": "token of " + session, "seat_no": 1, "overdraft": false, "active_seats": 1, "max_seats": 3,
		"expires_at": "2030-01-01T00:00:00.000Z", "ttl_seconds": 60, "heartbeat_after_seconds": 20, "receipt": "r." + session,
	}}
}

func beatOf(session string) reply {
	return reply{status: 200, body: object{
		"session_id": session, "seat_no": 1, "expires_at": "2030-01-01T00:00:00.000Z", "ttl_seconds": 60, "heartbeat_after_seconds": 20,
		"draining": false, "active_seats": 1, "max_seats": 3,
	}}
}

func problem(status int, code string, more object) reply {
	body := object{"type": "urn:usher:problem:" + code, "title": "T", "status": status, "detail": "A sentence.", "code": code, "request_id": "r-1"}
	maps.Copy(body, more)
	return reply{status: status, body: body}
}

func (r reply) retry(seconds int) reply {
	r.header = map[string]string{"Retry-After": strconv.Itoa(seconds)}
	return r
}

func (r reply) after(d time.Duration) reply { r.delay = d; return r }

var (
	released = reply{status: 200, body: object{"session_id": "s1", "status": "released"}}
	huge     = `{"x":"` + strings.Repeat("x", longestAnswer) + `"}`
	refused  = reply{err: errors.New("connection refused")}
)

// works is a service that gives session s1 to whoever asks, and keeps it.
func works(q asked) reply {
	switch q.path {
	case "/v1/acquire":
		return seatOf("s1")
	case "/v1/heartbeat":
		return beatOf("s1")
	default:
		return released
	}
}

// down is a service that is not there.
func down(asked) reply { return refused }

// inside is a test inside a bubble.
type inside struct{ *testing.T }

// bubble runs a test in one, with a service that works.
func bubble(t *testing.T, test func(t inside, s *script, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &script{t: t, began: time.Now(), answer: works}
		c := &Client{URL: "https://usher.test", LicenseKey: "KEY", HardwareID: "laptop", Version: "1.2.3", HTTP: &http.Client{Transport: s}, clock: s.now}
		test(inside{t}, s, c)
	})
}

func acquire(t testing.TB, c *Client) *Seat {
	t.Helper()
	seat, err := c.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !seat.Valid() || seat.Err() != nil {
		t.Fatalf("a seat that was just taken is not valid: %v", seat.Err())
	}
	return seat
}

// heard are the events that have come so far.
func heard(s *Seat) []Event {
	var events []Event
	for {
		select {
		case e, ok := <-s.Events():
			if !ok {
				return events
			}
			events = append(events, e)
		default:
			return events
		}
	}
}

// kinds names events, with the codes of those that have one.
func kinds(events []Event) []string {
	names := []string{}
	for _, e := range events {
		name := string(e.Kind)
		if e.Code != "" {
			name += " " + e.Code
		}
		names = append(names, name)
	}
	return names
}

func wantKinds(t testing.TB, got []Event, want ...string) {
	t.Helper()
	if !slices.Equal(kinds(got), want) {
		t.Errorf("the host heard %q, want %q", kinds(got), want)
	}
}

func wantValid(t testing.TB, s *Seat, want bool) {
	t.Helper()
	if s.Valid() != want {
		t.Errorf("valid is %v, want %v", !want, want)
	}
}

// pass lets time pass, and everything settle.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
