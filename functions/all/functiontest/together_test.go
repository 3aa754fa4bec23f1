package functiontest_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coditect/usher/functions/acquire"
	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestMain(m *testing.M) { Main(m) }

// tally is what became of many clients.
type tally struct {
	mu     sync.Mutex
	seated []acquire.Answer
	full   int
	other  []string
}

// crowd lets n clients ask for a seat of the licence at the same time, over both instances of acquire.
func crowd(t *testing.T, p *Processes, l License, n int) *tally {
	t.Helper()
	var got tally
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			r := p.Doors[i%2].Acquire.Insist(t, Message{Body: Ask(l, Device(i))})
			got.mu.Lock()
			defer got.mu.Unlock()
			switch {
			case r.Status == http.StatusCreated:
				got.seated = append(got.seated, Read[acquire.Answer](t, r))
			case r.Status == http.StatusConflict && r.Code() == "no_seats_available":
				got.full++
			case r.Status == http.StatusOK: // its first attempt was answered 503 and had taken the seat
				got.seated = append(got.seated, Read[acquire.Answer](t, r))
			default:
				got.other = append(got.other, fmt.Sprintf("%d %s", r.Status, r.Body))
			}
		})
	}
	clients.Wait()
	return &got
}

// check wants so many seated, on the seats from 1 on, and the others refused.
func (c *tally) check(t *testing.T, seats, refused int) {
	t.Helper()
	if len(c.seated) != seats || c.full != refused || len(c.other) > 0 {
		t.Errorf("%d clients hold a seat and %d heard that there is none, want %d and %d; others heard %v",
			len(c.seated), c.full, seats, refused, c.other)
	}
	var numbers []int
	for _, a := range c.seated {
		numbers = append(numbers, a.SeatNo)
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != i+1 {
			t.Errorf("the seats taken are %v", numbers)
			return
		}
	}
}

func TestManyClientsOfSeveralProcessesNeverHoldMoreSeatsThanThereAre(t *testing.T) {
	t.Parallel()
	w := New(t)
	p := w.StartSeating(t)

	one := w.Seats(t, 25, 2*time.Minute)
	hundred := crowd(t, p, one, 100)
	hundred.check(t, 25, 75)
	if rows := w.OpenRows(t, one); rows != 25 {
		t.Errorf("%d sessions have a row, want 25", rows)
	}

	licenses := make([]License, 100)
	for i := range licenses {
		licenses[i] = w.Seats(t, 2, 2*time.Minute)
	}
	tallies := make([]*tally, len(licenses))
	var crowds sync.WaitGroup
	for i, l := range licenses {
		crowds.Go(func() { tallies[i] = crowd(t, p, l, 4) })
	}
	crowds.Wait()
	for _, c := range tallies {
		c.check(t, 2, 2)
	}

	// All 25 are alive, give their seats back, and 25 of the others take them.
	var holders sync.WaitGroup
	for i, a := range hundred.seated {
		holders.Go(func() {
			if r := p.Doors[i%2].Heartbeat.Insist(t, Message{Token: a.SeatToken}); r.Status != http.StatusOK {
				t.Errorf("a heartbeat was answered %d %s", r.Status, r.Body)
			}
			if r := p.Doors[i%2].Release.Insist(t, Message{Token: a.SeatToken}); r.Status != http.StatusOK {
				t.Errorf("a release was answered %d %s", r.Status, r.Body)
			}
		})
	}
	holders.Wait()
	second := crowd(t, p, one, 50)
	second.check(t, 25, 25)

	// Nothing that any process logged, at any level, shows a secret.
	secrets := []string{one.Key, licenses[0].Key}
	for _, a := range append(hundred.seated, second.seated...) {
		secrets = append(secrets, a.SeatToken)
	}
	p.Each(func(each *Process) {
		text := each.Output()
		if !strings.Contains(text, `"tenant":"`+w.Tenant.String()) {
			t.Error("a process logged nothing of its requests")
		}
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("a process logged the secret %q", secret)
			}
		}
		if strings.Contains(text, "Bearer") || strings.Contains(text, w.Getenv("acquire")("SEAT_TOKEN_KEYS")) {
			t.Error("a process logged a credential")
		}
	})
	p.Each(func(each *Process) {
		if code := each.Stop(t); code != 0 {
			t.Errorf("a process ended with %d", code)
		}
	})
}

func TestARequestInFlightIsAnsweredBeforeItsProcessEndsInOrder(t *testing.T) {
	t.Parallel()
	w := New(t)
	p, l := w.Start(t, "acquire"), w.Seats(t, 1, time.Minute)
	text := fmt.Sprintf(`{"license_key":%q,"hardware_id":"a","version":"1"}`, l.Key)

	// The body is held back until the function asks for it, so it is certain that the request is in its hands.
	inHand := make(chan struct{})
	body, write := io.Pipe()
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got100Continue: func() { close(inHand) },
	}), http.MethodPost, p.URL+"/v1/acquire", body)
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = int64(len(text))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Expect", "100-continue")
	patient := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}, Timeout: time.Minute}
	answered := make(chan Reply, 1)
	go func() {
		answer, err := patient.Do(r)
		if err != nil {
			t.Errorf("the request in flight: %v", err)
			answered <- Reply{}
			return
		}
		defer func() { _ = answer.Body.Close() }()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Errorf("the answer: %v", err)
		}
		answered <- Reply{Status: answer.StatusCode, Header: answer.Header, Body: text}
	}()
	if _, err := io.WriteString(write, text[:10]); err != nil {
		t.Fatal(err)
	}
	<-inHand
	began := time.Now()
	p.Signal(t, syscall.SIGTERM)
	testenv.Eventually(t, 10*time.Second, func() error {
		if !strings.Contains(p.Output(), `"message":"stopping"`) {
			return errors.New("the process takes no notice of SIGTERM")
		}
		return nil
	})
	late := &http.Client{Timeout: 10 * time.Second}
	if r, err := late.Get(p.URL + "/health"); err == nil {
		_ = r.Body.Close()
		if r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("a request after SIGTERM was answered %d", r.StatusCode)
		}
	}
	if _, err := io.WriteString(write, text[10:]); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	got := <-answered
	got.Want(t, http.StatusCreated)
	if code := p.Wait(t, 20*time.Second); code != 0 {
		t.Errorf("the process ended with %d", code)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the process took %s to end", took)
	}
	w.Seating(t).Beat(t, Read[acquire.Answer](t, got).SeatToken).Want(t, http.StatusOK)
}

func TestGoodClientsAreNotSlowedByGuessesFromTheirAddress(t *testing.T) {
	t.Parallel()
	w := New(t, Options{Env: map[string]string{"BUDGET_HOLDER_BURST": "", "BUDGET_LICENSE_BASE": ""}}) // as in production
	s, validate := w.Seating(t), w.Validate(t)
	const address = "192.0.2.7"

	// good lets fifty clients work, and answers how long their requests took.
	good := func() []time.Duration {
		l := w.Seats(t, 50, time.Minute)
		var mu sync.Mutex
		var took []time.Duration
		timed := func(d *Door, m Message) Reply {
			m.From = address
			began := time.Now()
			r := d.Insist(t, m) // a store that is slow to answer on a busy machine is no refusal
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(began))
			if r.Status != http.StatusOK && r.Status != http.StatusCreated {
				t.Errorf("a good client was answered %d %s", r.Status, r.Body)
			}
			return r
		}
		var clients sync.WaitGroup
		for i := range 50 {
			clients.Go(func() {
				ask := Message{Body: Ask(l, Device(i))}
				timed(validate, ask)
				a := Read[acquire.Answer](t, timed(s.Acquire, ask))
				for range 3 {
					timed(s.Heartbeat, Message{Token: a.SeatToken})
				}
				timed(s.Release, Message{Token: a.SeatToken})
			})
		}
		clients.Wait()
		slices.Sort(took)
		return took
	}
	alone := good()

	began := time.Now()
	var mu sync.Mutex
	heard := map[int]int{}
	var guessers sync.WaitGroup
	for range 20 {
		guessers.Go(func() {
			for range 20 {
				r := s.Acquire.Send(t, Message{Body: Body{"license_key": license.NewKey().Reveal(), "hardware_id": "x", "version": "1"}, From: address})
				mu.Lock()
				heard[r.Status]++
				mu.Unlock()
			}
		})
	}
	beside := good()
	guessers.Wait()

	budget := 20 + int(20*time.Since(began).Seconds()) + 1
	answered, refused := heard[http.StatusNotFound], heard[http.StatusTooManyRequests]
	if answered > budget || refused < 400-budget-heard[http.StatusServiceUnavailable] || answered+refused+heard[http.StatusServiceUnavailable] != 400 {
		t.Errorf("the guesses heard %v, with a budget of %d", heard, budget)
	}
	before, after := alone[len(alone)/2], beside[len(beside)/2]
	t.Logf("the median of %d requests was %s alone and %s beside the guesses", len(alone), before, after)
	if after > 10*before+500*time.Millisecond {
		t.Errorf("the median was %s alone and %s beside the guesses", before, after)
	}
}

func TestEveryFunctionNamesAllThatItsEnvironmentLacks(t *testing.T) {
	t.Parallel()
	w := New(t)
	for function, variables := range map[string][]string{
		"validate":  {"DATABASE_URL", "REDIS_URL", "LICENSE_KEY_PEPPERS", "KMS_WRAPPING_KEY", "RECEIPT_ISSUER", "BUDGET_REDIS_URL"},
		"acquire":   {"DATABASE_URL", "REDIS_URL", "LICENSE_KEY_PEPPERS", "KMS_WRAPPING_KEY", "RECEIPT_ISSUER", "BUDGET_REDIS_URL", "SEAT_TOKEN_KEYS"},
		"heartbeat": {"DATABASE_URL", "REDIS_URL", "SEAT_TOKEN_KEYS"},
		"release":   {"DATABASE_URL", "REDIS_URL", "LICENSE_KEY_PEPPERS", "BUDGET_REDIS_URL", "SEAT_TOKEN_KEYS"},
		"sweep":     {"DATABASE_URL", "REDIS_URL", "SCHEDULER_AUDIENCE", "SCHEDULER_EMAIL"},
		"keys":      {"DATABASE_URL", "RECEIPT_ISSUER"},
		"rotate":    {"DATABASE_URL", "KMS_ROOT_KEY", "KMS_WRAPPING_KEY", "SEAT_TOKEN_SECRET", "API_KEY_PEPPERS", "SCHEDULER_AUDIENCE", "SCHEDULER_EMAIL"},
	} {
		_, err := Open[function](t.Context(), func(string) string { return "" }, w.Log.Logger)
		if err == nil {
			t.Errorf("%s opened without an environment", function)
			continue
		}
		for _, v := range variables {
			if !strings.Contains(err.Error(), v) {
				t.Errorf("%s does not say that it lacks %s: %v", function, v, err)
			}
		}
		f, err := Open[function](t.Context(), w.Getenv(function), w.Log.Logger)
		if err != nil {
			t.Errorf("%s did not open: %v", function, err)
			continue
		}
		if f.Name != function || len(f.Routes) == 0 || f.Routes[0].Tag != function {
			t.Errorf("%s opened as %q with %d routes", function, f.Name, len(f.Routes))
		}
		for _, check := range f.Ready {
			if err := check.Ping(t.Context()); err != nil {
				t.Errorf("%s: %s is out: %v", function, check.Name, err)
			}
		}
		if f.Close != nil {
			f.Close()
		}
	}
}

func TestABadVariableEndsTheProcessWithCode2(t *testing.T) {
	t.Parallel()
	w := New(t)
	env := map[string]string{"SEAT_POLL": "29713us", "FUNCTION_TARGET": ""}
	for _, variable := range []string{"DATABASE_URL", "REDIS_URL", "SEAT_TOKEN_KEYS"} {
		env[variable] = w.Getenv("heartbeat")(variable)
	}
	p := testenv.Process(t, "heartbeat", env)
	if code := p.Wait(t, 30*time.Second); code != 2 || !strings.Contains(p.Output(), "SEAT_POLL must be at least 1s") || strings.Contains(p.Output(), "29713") {
		t.Errorf("exit code %d after %s", code, p.Output())
	}
}
