package functiontest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/functions/acquire"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/testenv"
)

// Door is one function as its clients meet it. It is safe for concurrent use.
type Door struct {
	Method, Path string
	// Handler holds every exchange to the OpenAPI document; Bare does not, for fuzzing and for what HTTP itself refuses.
	Handler, Bare http.Handler

	check func(http.Handler) http.Handler
}

// Message is a request. What is not set is as usual: the function's method and path, no body, no credential.
type Message struct {
	Method, Path string
	// Body is sent as JSON, or as it is when it is a string.
	Body any
	// Token is the Bearer credential.
	Token  string
	Header map[string]string
	// From is the client's address.
	From string
}

// Reply is an answer.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// Body is a JSON object.
type Body = map[string]any

// Send sends a message and waits for the answer.
func (d *Door) Send(t testing.TB, m Message) Reply {
	t.Helper()
	return Serve(d.Handler, Request(t, d.Method, d.Path, m))
}

// Insist is Send of a client that tries again when it is told that a store is out.
func (d *Door) Insist(t testing.TB, m Message) Reply {
	t.Helper()
	var r Reply
	testenv.Eventually(t, 30*time.Second, func() error {
		if r = d.Send(t, m); r.Status == http.StatusServiceUnavailable {
			return fmt.Errorf("answered %d %s", r.Status, r.Body)
		}
		return nil
	})
	return r
}

// SendBare is Send without a look at the OpenAPI document.
func (d *Door) SendBare(t testing.TB, m Message) Reply {
	t.Helper()
	return Serve(d.Bare, Request(t, d.Method, d.Path, m))
}

// Serve answers a request with a handler.
func Serve(h http.Handler, r *http.Request) Reply {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return Reply{Status: w.Code, Header: w.Header(), Body: w.Body.Bytes()}
}

// Request is the message as a request; method and path stand in for those it does not name.
func Request(t testing.TB, method, path string, m Message) *http.Request {
	t.Helper()
	method, path = cmp.Or(m.Method, method), cmp.Or(m.Path, path)
	var text []byte
	switch body := m.Body.(type) {
	case nil:
	case string:
		text = []byte(body)
	default:
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		must(t, e.Encode(body))
		text = b.Bytes()
	}
	r := httptest.NewRequestWithContext(t.Context(), method, path, bytes.NewReader(text))
	if m.Body == nil {
		r.Body = http.NoBody
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	if m.Token != "" {
		r.Header.Set("Authorization", "Bearer "+m.Token)
	}
	for name, value := range m.Header {
		r.Header.Set(name, value)
	}
	if m.From != "" {
		r.RemoteAddr = m.From + ":1234"
	}
	return r
}

// Want fails the test unless the answer has the status, and, when it is a problem, the code.
func (r Reply) Want(t testing.TB, status int, code ...string) Reply {
	t.Helper()
	if r.Status != status || len(code) > 0 && r.Code() != code[0] {
		t.Fatalf("answered %d %s, want %d %s", r.Status, r.Body, status, strings.Join(code, " "))
	}
	return r
}

// Code is the code of a problem document, or of any answer that has one; "" otherwise.
func (r Reply) Code() string {
	var has struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(r.Body, &has) // what is no object has no code
	return has.Code
}

// Object is the answer's JSON object.
func (r Reply) Object(t testing.TB) Body { t.Helper(); return Read[Body](t, r) }

// Read reads the answer's JSON.
func Read[T any](t testing.TB, r Reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(r.Body, &v); err != nil {
		t.Fatalf("read %s: %v", r.Body, err)
	}
	return v
}

// IsProblem fails the test unless the answer is a complete problem document of a client's or a passing fault, and
// never a 500.
func (r Reply) IsProblem(t testing.TB) {
	t.Helper()
	var p httpx.Problem
	switch {
	case r.Status < 400 || r.Status >= 500 && r.Status != http.StatusServiceUnavailable:
		t.Errorf("answered %d %s, want a refusal", r.Status, r.Body)
	case r.Header.Get("Content-Type") != "application/problem+json":
		t.Errorf("answered %d as %q: %s", r.Status, r.Header.Get("Content-Type"), r.Body)
	case json.Unmarshal(r.Body, &p) != nil:
		t.Errorf("answered %d with no JSON: %s", r.Status, r.Body)
	case p.Status != r.Status || p.Code == "" || p.Title == "" || p.Detail == "" || p.Type == "" || p.Instance == "" || p.RequestID == "":
		t.Errorf("answered %d with an incomplete problem: %s", r.Status, r.Body)
	case (r.Status == http.StatusTooManyRequests || r.Status == http.StatusServiceUnavailable) && r.Header.Get("Retry-After") == "":
		t.Errorf("answered %d without Retry-After: %s", r.Status, r.Body)
	}
}

// Seating are the three functions that a holder meets.
type Seating struct{ Acquire, Heartbeat, Release *Door }

// Ask is the least that a client sends to take a seat.
func Ask(l License, hardware string) Body {
	return Body{"license_key": l.Key, "hardware_id": hardware, "version": "1.0.0"}
}

// With is the body with one more member.
func With(b Body, name string, value any) Body {
	c := Body{name: value}
	for k, v := range b {
		if k != name {
			c[k] = v
		}
	}
	return c
}

// Sit takes a seat, 201 or 200.
func (s *Seating) Sit(t testing.TB, l License, hardware string) acquire.Answer {
	t.Helper()
	r := s.Acquire.Send(t, Message{Body: Ask(l, hardware)})
	if r.Status != http.StatusCreated && r.Status != http.StatusOK {
		t.Fatalf("acquire for %s answered %d %s, want a seat", hardware, r.Status, r.Body)
	}
	return Read[acquire.Answer](t, r)
}

// Beat sends a heartbeat.
func (s *Seating) Beat(t testing.TB, token string) Reply {
	t.Helper()
	return s.Heartbeat.Send(t, Message{Token: token, Body: "{}"})
}

// Leave releases a session.
func (s *Seating) Leave(t testing.TB, token string) Reply {
	t.Helper()
	return s.Release.Send(t, Message{Token: token, Body: "{}"})
}

// Fuzz sends bodies to the function: whatever they are, it answers with a success or a problem document, never a 500.
// KEY in a body stands for the licence's key, so that what lies behind the look-up is reached too.
func (d *Door) Fuzz(f *testing.F, token string, l License) {
	f.Helper()
	n := 0
	f.Fuzz(func(t *testing.T, body string) {
		n++
		m := Message{Body: strings.ReplaceAll(body, "KEY", l.Key), Token: token, From: "192.0.2." + strconv.Itoa(n%250)}
		r := d.SendBare(t, m)
		if r.Status == http.StatusOK || r.Status == http.StatusCreated || r.Status == http.StatusAccepted {
			if !json.Valid(r.Body) {
				t.Errorf("answered %d with no JSON: %s", r.Status, r.Body)
			}
			return
		}
		r.IsProblem(t)
		if bytes.Contains(r.Body, []byte(l.Key)) || token != "" && bytes.Contains(r.Body, []byte(token)) {
			t.Errorf("the problem shows a secret: %s", r.Body)
		}
	})
}
