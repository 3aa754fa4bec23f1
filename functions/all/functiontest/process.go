package functiontest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/functions/acquire"
	"github.com/coditect/usher/functions/borrow"
	"github.com/coditect/usher/functions/deliver"
	"github.com/coditect/usher/functions/heartbeat"
	"github.com/coditect/usher/functions/keys"
	"github.com/coditect/usher/functions/release"
	"github.com/coditect/usher/functions/rotate"
	"github.com/coditect/usher/functions/sweep"
	"github.com/coditect/usher/functions/validate"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/platform/testenv"
)

// Open are the functions' own ways to be put together from an environment.
var Open = map[string]func(context.Context, func(string) string, *slog.Logger) (*serve.Function, error){
	"validate": validate.Open, "acquire": acquire.Open, "heartbeat": heartbeat.Open, "release": release.Open,
	"borrow": borrow.Open,
	"sweep":  sweep.Open, "keys": keys.Open, "rotate": rotate.Open, "deliver": deliver.Open,
}

// Main is the body of TestMain of tests that start functions, and honest clients, as processes of their own.
func Main(m *testing.M) {
	programs := map[string]func(){partyProgram: party}
	for name, open := range Open {
		programs[name] = func() { serve.Main(name, open) }
	}
	testenv.Main(m, programs)
}

// Process is a function in a process of its own, as it is deployed, on a loopback port.
type Process struct {
	*testenv.Proc
	URL string
}

// client has a connection for each of many clients.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConns: 500, MaxIdleConnsPerHost: 200}}

// Start runs a function as a process and waits until it is ready.
func (w *World) Start(t testing.TB, function string) *Process {
	t.Helper()
	return w.start(t, function, nil)
}

// start is Start with some variables changed.
func (w *World) start(t testing.TB, function string, change map[string]string) *Process {
	t.Helper()
	env := map[string]string{"HOST": "127.0.0.1", "LOG_LEVEL": "debug", "FUNCTION_TARGET": "", "DATABASE_URL": w.Getenv(function)("DATABASE_URL")}
	maps.Copy(env, w.env)
	maps.Copy(env, change)
	for {
		port := freePort(t)
		env["PORT"] = port
		p := &Process{URL: "http://127.0.0.1:" + port}
		if w.binary == "" {
			p.Proc = testenv.Process(t, function, env)
		} else {
			p.Proc = testenv.ProcessOf(t, w.binary, function, env)
		}
		taken := false
		testenv.Eventually(t, 2*time.Minute, func() error { // a store may be out, and the machine busy
			if taken = strings.Contains(p.Output(), "address already in use"); taken {
				return nil // somebody was faster; another port is tried
			}
			r, err := p.get(t, "/health/ready")
			switch {
			case err != nil:
				return err
			case r != http.StatusOK:
				return fmt.Errorf("%s is not ready: %d\n%s", function, r, p.Output())
			}
			return nil
		})
		if !taken {
			return p
		}
	}
}

func (p *Process) get(t testing.TB, path string) (int, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL+path, nil)
	must(t, err)
	answer, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, errors.Join(err, answer.Body.Close())
}

func freePort(t testing.TB) string {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, errors.Join(err, l.Close()))
	return port
}

// Processes are the seating functions as processes, and acquire twice.
type Processes struct {
	Acquires           [2]*Process
	Heartbeat, Release *Process
	// Doors lead to them over loopback: clients with an even number go to the first acquire, the others to the second.
	Doors [2]*Seating
}

// StartSeating starts the seating functions as four processes.
func (w *World) StartSeating(t testing.TB) *Processes {
	t.Helper()
	p := &Processes{
		Acquires:  [2]*Process{w.Start(t, "acquire"), w.Start(t, "acquire")},
		Heartbeat: w.Start(t, "heartbeat"), Release: w.Start(t, "release"),
	}
	inside := w.Seating(t) // for its documents
	for i, a := range p.Acquires {
		p.Doors[i] = &Seating{
			Acquire: inside.Acquire.at(t, a), Heartbeat: inside.Heartbeat.at(t, p.Heartbeat), Release: inside.Release.at(t, p.Release),
		}
	}
	return p
}

// Each calls do with every process.
func (p *Processes) Each(do func(*Process)) {
	for _, each := range []*Process{p.Acquires[0], p.Acquires[1], p.Heartbeat, p.Release} {
		do(each)
	}
}

// at is the same door, of a process.
func (d *Door) at(t testing.TB, p *Process) *Door {
	t.Helper()
	forward := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		must(t, err)
		out, err := http.NewRequestWithContext(r.Context(), r.Method, p.URL+r.URL.Path, bytes.NewReader(body)) //nolint:gosec // a test's own process on loopback
		must(t, err)
		out.Header = r.Header.Clone()
		answer, err := client.Do(out) //nolint:gosec // as above
		if err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = answer.Body.Close() }()
		maps.Copy(w.Header(), answer.Header)
		w.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(w, answer.Body) // what is missing does not follow the document
	})
	return &Door{Method: d.Method, Path: d.Path, Handler: d.check(forward), Bare: forward}
}
