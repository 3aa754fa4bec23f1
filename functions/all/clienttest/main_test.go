// Package clienttest_test holds the SDK to what it promises against real functions on real stores, with a network between
// them that does whatever networks do.
package clienttest_test

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coditect/usher/client"
	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, map[string]func(){"holder": holder}) }

// slack is how much later than it should something may be seen on a busy machine.
const slack = 20 * time.Second

// service is the functions that a client meets, on one port, and what lies between them and it.
type service struct {
	*httptest.Server

	functions http.Handler
	mu        sync.Mutex
	fault     fault
}

// A fault stands between a client and the functions.
type fault func(w http.ResponseWriter, r *http.Request, functions http.Handler)

// serve starts the world's functions.
func serve(t *testing.T, w *World) *service {
	t.Helper()
	mux := http.NewServeMux()
	s := w.Seating(t)
	for _, door := range []*Door{s.Acquire, s.Heartbeat, s.Release, w.Validate(t), w.Borrow(t)} {
		mux.Handle(door.Path, door.Handler)
	}
	mux.Handle("/v1/revocations", w.Keys(t).Handler)
	return front(t, mux)
}

// front is another way to the same functions, with a fault of its own.
func front(t *testing.T, functions http.Handler) *service {
	t.Helper()
	s := &service{functions: functions}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	f := s.fault
	s.mu.Unlock()
	if f == nil {
		s.functions.ServeHTTP(w, r)
		return
	}
	f(w, r, s.functions)
}

// breaks lets a fault stand between; nil removes it.
func (s *service) breaks(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// cut ends the connection without an answer.
func cut(http.ResponseWriter) { panic(http.ErrAbortHandler) }

// answerOf lets the functions do what is asked, and holds their answer back.
func answerOf(functions http.Handler, r *http.Request) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	functions.ServeHTTP(answer, r.WithContext(r.Context()))
	return answer
}

// pass passes an answer on.
func pass(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = io.Copy(w, bytes.NewReader(answer.Body.Bytes())) // the client may have gone
}

// clientOf is a client of a licence, as one device.
func clientOf(s *service, l License, device string) *client.Client {
	return &client.Client{URL: s.URL, LicenseKey: l.Key, HardwareID: device, Version: "1.0.0"}
}

// acquire takes a seat. It is released when the test is over.
func acquire(t *testing.T, c *client.Client) *client.Seat {
	t.Helper()
	seat, err := c.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(seat.Release)
	return seat
}

// await waits until the seat is valid, or is not.
func await(t *testing.T, seat *client.Seat, valid bool, within time.Duration) {
	t.Helper()
	began := time.Now()
	for seat.Valid() != valid {
		if time.Since(began) > within {
			t.Fatalf("after %s the seat's validity is still %v: %v", within, !valid, seat.Err())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// active is how many seats of a licence are taken, as the service says.
func active(t *testing.T, s *service, l License) int {
	t.Helper()
	var v *client.Validation
	testenv.Eventually(t, slack, func() (err error) { // a store may be slow on a busy machine
		v, err = clientOf(s, l, "observer").Validate(t.Context(), client.Question{})
		return err
	})
	return v.License.ActiveSeats
}

// ours are the stacks of goroutines that run the SDK.
func ours() []string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var found []string
	for one := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(one, "usher/client.") && !strings.Contains(one, "runtime.Stack") {
			found = append(found, one)
		}
	}
	return found
}
