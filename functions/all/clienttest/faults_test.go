package clienttest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client"
	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

// lease is that of these tests, and beat the pace of heartbeats that the service asks for.
const (
	lease = 9 * time.Second
	beat  = lease / 3
)

var faults = map[string]fault{
	"cuts the connection before it is asked": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cut(w) },
	"cuts the connection when it has done what was asked": func(w http.ResponseWriter, r *http.Request, functions http.Handler) {
		answerOf(functions, r)
		cut(w)
	},
	"cuts the connection in the middle of its answer": func(w http.ResponseWriter, r *http.Request, functions http.Handler) {
		answer := answerOf(functions, r)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
		_ = http.NewResponseController(w).Flush()
		cut(w)
	},
	"hangs": func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body) // so that it notices when the client goes
		<-r.Context().Done()
	},
	"is slow": func(w http.ResponseWriter, r *http.Request, functions http.Handler) {
		answer := answerOf(functions, r)
		time.Sleep(lease + time.Second)
		pass(w, answer)
	},
	"answers a page": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		_, _ = io.WriteString(w, "<html>Welcome to our hotel</html>")
	},
	"answers a page of a proxy's": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "<html>Bad gateway</html>", http.StatusBadGateway)
	},
	"is gone, says a proxy": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		http.Error(w, "<html>Gone</html>", http.StatusGone)
	},
	"has a store that is out": problem(http.StatusServiceUnavailable, "store_unavailable"),
	"is asked too often":      problem(http.StatusTooManyRequests, "rate_limited"),
	"redirects": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, "http://elsewhere.invalid/login", http.StatusTemporaryRedirect)
	},
	"answers without end": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"x":"`)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
				return
			}
		}
	},
}

func problem(status int, code string) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"code":"`+code+`","detail":"Later.","status":1}`)
	}
}

func TestWhateverTheServiceDoesAHolderHasOneSeatAndLearnsTheTruthWithinAHeartbeat(t *testing.T) {
	t.Parallel()
	w := New(t)
	sound := serve(t, w)
	var all sync.WaitGroup
	defer all.Wait()
	for name, f := range faults {
		// At once, and not as many as there are processors: they wait most of the time.
		all.Go(func() { t.Run(name, func(t *testing.T) { survives(t, w, sound, f) }) })
	}
}

// survives takes a seat through a fault, keeps it through another, and is evicted behind a third.
func survives(t *testing.T, w *World, sound *service, f fault) {
	t.Helper()
	l := w.Seats(t, 3, lease)
	s := front(t, sound.functions)

	// The first question already meets it: whatever becomes of the answers, there is one seat.
	c := clientOf(s, l, "laptop")
	c.Wait = true // insists
	s.breaks(f)
	time.AfterFunc(2*time.Second, func() { s.breaks(nil) })
	seat := acquire(t, c)
	one := func() {
		t.Helper()
		if n := active(t, sound, l); n != 1 {
			t.Errorf("%d seats are taken", n)
		}
	}
	one()

	// It ends the belief, and when it is over the seat is believed in again.
	s.breaks(f)
	await(t, seat, false, lease+slack)
	if n := active(t, sound, l); n > 1 {
		t.Errorf("while the service is out of reach %d seats are taken", n)
	}
	time.Sleep(time.Second)
	s.breaks(nil)
	await(t, seat, true, beat+slack)
	one()

	// A third time it hides that the session was ended.
	s.breaks(f)
	session, err := uuid.Parse(seat.Status().SessionID)
	if err != nil {
		t.Fatal(err)
	}
	w.Evict(t, session, "moved")
	await(t, seat, false, lease+slack)
	s.breaks(nil)
	select {
	case <-seat.Done():
	case <-time.After(beat + slack):
		t.Fatal("the holder does not hear that it was evicted")
	}
	var why *client.Refusal
	if !errors.As(seat.Err(), &why) || why.Code != "seat_evicted" || why.Reason != "moved" || why.EndedBy != "user:admin" || why.EndedAt.IsZero() {
		t.Errorf("the holder heard %+v", seat.Err())
	}
	var last client.Event
	for e := range seat.Events() {
		last = e
	}
	if last.Kind != client.Lost || last.By != "user:admin" {
		t.Errorf("the last event was %+v", last)
	}
	if n := active(t, sound, l); n != 0 {
		t.Errorf("%d seats are taken after the eviction was heard", n)
	}
}

func TestABlipShorterThanTheBeliefIsNotNoticedByTheHost(t *testing.T) {
	t.Parallel()
	w := New(t)
	s := serve(t, w)
	l := w.Seats(t, 1, 20*time.Second)
	seat := acquire(t, clientOf(s, l, "laptop"))
	for name, f := range faults {
		s.breaks(f)
		time.Sleep(time.Second)
		s.breaks(nil)
		if !seat.Valid() {
			t.Errorf("when the service %s for a second, the seat is not valid: %v", name, seat.Err())
		}
	}
}

func TestARestartedServiceAndOneThatIsAwayAreMetAgain(t *testing.T) {
	t.Parallel()
	w := New(t)
	s := serve(t, w)
	l := w.Seats(t, 3, lease)
	address := func(s *service) string { return strings.TrimPrefix(s.URL, "http://") }
	wire := testenv.NewWire(t, address(s))
	c := clientOf(s, l, "laptop")
	c.URL = "http://" + wire.Addr()
	seat := acquire(t, c)

	// Restarted, at another address behind the same name.
	again := front(t, s.functions)
	wire.Lead(address(again))
	time.Sleep(2 * beat)
	if !seat.Valid() {
		t.Errorf("a restart ended the belief: %v", seat.Err())
	}

	// Away, for longer than the lease: another sits on no seat of its.
	wire.Cut()
	await(t, seat, false, lease+slack)
	before := seat.Status().SessionID
	testenv.Eventually(t, slack, func() error {
		if n := active(t, s, l); n != 0 {
			return errors.New("its seat is not free")
		}
		return nil
	})
	wire.Lead(address(again))
	await(t, seat, true, beat+slack)
	if seat.Status().SessionID == before {
		t.Error("it has its old session, which had lapsed")
	}
	if n := active(t, s, l); n != 1 {
		t.Errorf("%d seats are taken", n)
	}
	seat.Release()
	if n := active(t, s, l); n != 0 {
		t.Errorf("%d seats are taken after the release", n)
	}
}

func TestAnotherCertificateIsNotTrusted(t *testing.T) {
	t.Parallel()
	w := New(t)
	plain := serve(t, w)
	l := w.Seats(t, 1, lease)
	good := httptest.NewTLSServer(plain)
	t.Cleanup(good.Close)
	var asked bool
	bad := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	bad.TLS = &tls.Config{Certificates: []tls.Certificate{otherCertificate(t)}}
	bad.Config.ErrorLog = log.New(io.Discard, "", 0)
	bad.StartTLS()
	t.Cleanup(bad.Close)

	wire := testenv.NewWire(t, good.Listener.Addr().String())
	pool := x509.NewCertPool()
	pool.AddCert(good.Certificate())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "example.com", MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	c := clientOf(plain, l, "laptop")
	c.URL, c.HTTP = "https://"+wire.Addr(), &http.Client{Transport: transport}
	seat := acquire(t, c)
	wire.Lead(bad.Listener.Addr().String())
	await(t, seat, false, lease+slack)
	if _, err := c.Acquire(t.Context()); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("acquire behind a bad certificate answered %v", err)
	}
	wire.Lead(good.Listener.Addr().String())
	await(t, seat, true, beat+slack)
	if asked {
		t.Error("a server with a bad certificate was asked something")
	}
}

// otherCertificate is one that nobody vouches for.
func otherCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"example.com"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestThereAreNeverTwoHoldersOfOneSeat(t *testing.T) {
	t.Parallel()
	w := New(t)
	s := serve(t, w)
	l := w.Seats(t, 1, lease)
	first := front(t, s.functions)
	seat := acquire(t, clientOf(first, l, "laptop"))

	// The laptop is cut off; the desktop waits, and gets the seat when the laptop has stopped believing.
	first.breaks(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cut(w) })
	c := clientOf(s, l, "desktop")
	if _, err := c.Acquire(t.Context()); !errors.Is(err, client.ErrNoSeats) {
		t.Fatalf("the desktop heard %v", err)
	}
	c.Wait = true
	waited := false
	c.Queued = func(p client.Place) { waited = waited || p.Position == 1 }
	other := acquire(t, c)
	if seat.Valid() {
		t.Error("both believe")
	}
	if !waited {
		t.Error("the desktop heard of no place in the queue")
	}
	first.breaks(nil)
	kinds := map[string]bool{}
	for deadline := time.After(beat + slack); !kinds["lapsed no_seats_available"]; {
		select {
		case e := <-seat.Events():
			kinds[string(e.Kind)+" "+e.Code] = true
		case <-deadline:
			t.Fatalf("the laptop heard %v", kinds)
		}
	}
	if seat.Valid() || !other.Valid() {
		t.Error("the laptop believes, or the desktop does not")
	}
	other.Release()
	await(t, seat, true, time.Minute+slack)
}

func TestNothingIsLeftRunning(t *testing.T) {
	w := New(t)
	s := serve(t, w)
	l := w.Seats(t, 3, lease)
	for range 3 {
		seat, err := clientOf(s, l, "laptop").Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := clientOf(s, l, "laptop").Validate(t.Context(), client.Question{}); err != nil {
			t.Fatal(err)
		}
		seat.Release()
	}
	s.breaks(faults["answers a page"])
	if _, err := clientOf(s, l, "laptop").Acquire(t.Context()); err == nil {
		t.Fatal("a page is taken for a seat")
	}
	testenv.Eventually(t, slack, func() error {
		if left := ours(); len(left) > 0 {
			return errors.New(strings.Join(left, "\n\n"))
		}
		return nil
	})
}
