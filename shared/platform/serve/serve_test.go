package serve_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/platform/testenv"
)

// The tests run Main as it runs in production: in a process of its own, which is this test binary again.
func TestMain(m *testing.M) {
	if os.Getenv("SERVE_TEST_CHILD") != "" {
		serve.Main("greet", open)
	}
	os.Exit(m.Run())
}

type greeting struct {
	Word  string        `env:"GREETING,required"`
	Delay time.Duration `env:"DELAY"`
	Fail  bool          `env:"FAIL"`
}

func open(_ context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	var cfg greeting
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	if cfg.Fail {
		return nil, errors.New("the store is of another version")
	}
	return &serve.Function{
		Name:   "greet",
		Routes: []httpx.Route{route(cfg.Word, cfg.Delay, log), scheduled(log)},
		Close:  func() { log.Info("closed") },
	}, nil
}

func route(word string, delay time.Duration, log *slog.Logger) httpx.Route {
	return httpx.Route{
		Method: "POST", Path: "/v1/greet", ID: "greet", Tag: "greet",
		Handle: func(c *httpx.Call) (httpx.Reply, error) {
			log.Info("greeting")
			select { // the delay is what the test is about: a request that takes its time
			case <-time.After(delay):
				return httpx.Reply{Body: word}, nil
			case <-c.Context().Done():
				return httpx.Reply{}, c.Context().Err()
			}
		},
	}
}

func scheduled(log *slog.Logger) httpx.Route {
	r := route("done", 0, log)
	r.Path, r.ID, r.Credentials = "/tasks/greet", "greet_all", []httpx.Credential{httpx.SchedulerToken}
	return r
}

// process is Main in a process of its own.
type process struct {
	cmd  *exec.Cmd
	url  string
	mu   sync.Mutex
	log  strings.Builder
	done chan struct{}
	code int
}

func start(t *testing.T, env ...string) *process {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(self), url: fmt.Sprintf("http://127.0.0.1:%d", port), done: make(chan struct{})}
	p.cmd.Env = append([]string{"SERVE_TEST_CHILD=1", "HOST=127.0.0.1", fmt.Sprintf("PORT=%d", port)}, env...)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.done })
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.mu.Lock()
			p.log.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
		}
		_ = p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.done)
	}()
	return p
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// exit waits for the process to end and returns its exit code.
func (p *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
		return p.code
	case <-time.After(20 * time.Second):
		t.Fatalf("still running; logged:\n%s", p.logged())
		return -1
	}
}

func eventually(t *testing.T, what string, p *process, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s; logged:\n%s", what, p.logged())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (p *process) ready(t *testing.T) {
	t.Helper()
	eventually(t, "ready", p, func() bool {
		resp, err := http.Get(p.url + "/health/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (p *process) post(path string) (status int, body string, err error) {
	resp, err := http.Post(p.url+path, "application/json", nil)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestServesAndEndsInOrder(t *testing.T) {
	t.Parallel()
	p := start(t, "GREETING=hello", "DELAY=1s", "VERSION=v7")
	p.ready(t)
	type result struct {
		status int
		body   string
		err    error
	}
	results := make(chan result, 2)
	for _, path := range []string{"/v1/greet", "/v1/greet"} {
		go func() {
			status, body, err := p.post(path)
			results <- result{status, body, err}
		}()
	}
	eventually(t, "two requests in flight", p, func() bool { return strings.Count(p.logged(), `"greeting"`) == 2 })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "stopping", p, func() bool { return strings.Contains(p.logged(), `"stopping"`) })
	resp, err := http.Get(p.url + "/health")
	if err != nil {
		t.Fatal(err)
	}
	var problem httpx.Problem
	err = json.NewDecoder(resp.Body).Decode(&problem)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != 503 || problem.Code != "shutting_down" || !resp.Close || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("while stopping: %d %+v %v, close %v", resp.StatusCode, problem, err, resp.Close)
	}
	for range 2 {
		if r := <-results; r.err != nil || r.status != 200 || r.body != `"hello"` {
			t.Errorf("the request in flight: %+v", r)
		}
	}
	if code := p.exit(t); code != 0 || !strings.Contains(p.logged(), `"closed"`) {
		t.Errorf("exit code %d; logged:\n%s", code, p.logged())
	}
}

func TestEveryAnswerArrivesWhenTheProcessEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := start(t, "GREETING=hello", "DELAY=20ms")
	p.ready(t)
	results := make(chan error, 50)
	for range cap(results) {
		go func() {
			status, body, err := p.post("/v1/greet")
			if err == nil && status != 200 {
				err = fmt.Errorf("answered %d %s", status, body)
			}
			results <- err
		}()
	}
	eventually(t, "requests in flight", p, func() bool { return strings.Count(p.logged(), `"greeting"`) == cap(results) })
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestEndsWhenRequestsDoNot(t *testing.T) {
	t.Parallel()
	p := start(t, "GREETING=hello", "DELAY=1h")
	p.ready(t)
	go func() { _, _, _ = p.post("/v1/greet") }()
	eventually(t, "a request in flight", p, func() bool { return strings.Contains(p.logged(), `"greeting"`) })
	begin := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 1 || time.Since(begin) > serve.Grace+time.Second {
		t.Errorf("exit code %d after %v", code, time.Since(begin))
	}
}

func TestWrongConfigurationIsToldAtOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env   []string
		code  int
		wants []string
	}{
		"missing and unreadable": {[]string{"DELAY=s3cr3t"}, 2, []string{"GREETING is required", "DELAY is no valid"}},
		"the process's own":      {[]string{"GREETING=x", "PORT=s3cr3t", "LOG_LEVEL=s3cr3t"}, 2, []string{"PORT is no valid", "LOG_LEVEL is no valid"}},
		"emulators":              {[]string{"GREETING=x", "FIREBASE_AUTH_EMULATOR_HOST=s3cr3t:9099", "FIRESTORE_EMULATOR_HOST=s3cr3t"}, 2, []string{"FIREBASE_AUTH_EMULATOR_HOST turns to an emulator", "FIRESTORE_EMULATOR_HOST turns to an emulator"}},
		"another target":         {[]string{"GREETING=x", "FUNCTION_TARGET=acquire"}, 2, []string{"FUNCTION_TARGET names another function"}},
		"open fails":             {[]string{"GREETING=x", "FAIL=true"}, 1, []string{"the store is of another version"}},
		"a receiver's address":   {[]string{"GREETING=x", "OTEL_EXPORTER_OTLP_ENDPOINT=s3cr3t"}, 2, []string{"OTEL_EXPORTER_OTLP_ENDPOINT is no"}},
		"unknown address":        {[]string{"GREETING=x", "HOST=192.0.2.1"}, 1, []string{"the server stopped"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, c.env...)
			if code := p.exit(t); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.wants {
				if !strings.Contains(p.logged(), want) {
					t.Errorf("no %q in\n%s", want, p.logged())
				}
			}
			if strings.Contains(p.logged(), "s3cr3t") {
				t.Errorf("a value was told:\n%s", p.logged())
			}
		})
	}
}

func TestRightTargetIsServed(t *testing.T) {
	t.Parallel()
	p := start(t, "GREETING=hello", "FUNCTION_TARGET=greet")
	p.ready(t)
	if status, body, err := p.post("/v1/greet"); err != nil || status != 200 || body != `"hello"` {
		t.Error(status, body, err)
	}
}

func TestHandlerReadsTheEnvironment(t *testing.T) {
	t.Parallel()
	f := &serve.Function{Name: "greet", Routes: []httpx.Route{route("hello", 0, slog.New(slog.DiscardHandler))}}
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"VERSION": "v7", "K_REVISION": "greet-00001"}, "v7"},
		{map[string]string{"K_REVISION": "greet-00001"}, "greet-00001"},
		{nil, "development"},
	} {
		h, err := serve.Handler(f, slog.New(slog.DiscardHandler), func(k string) string { return c.env[k] })
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/health", nil))
		if want := fmt.Sprintf(`{"status":"ok","service":"greet","version":%q}`, c.want); w.Body.String() != want {
			t.Errorf("got %s, want %s", w.Body, want)
		}
	}
	if _, err := serve.Handler(f, slog.New(slog.DiscardHandler), func(string) string { return "x" }); err == nil {
		t.Error("TRUSTED_HOPS of x was taken")
	}
}

func TestTelemetryLeavesBesideARequestAndWhenTheProcessEnds(t *testing.T) {
	t.Parallel()
	r := testenv.NewReceiver(t)
	p := start(t, "GREETING=hello", "VERSION=v7", "OTEL_EXPORTER_OTLP_ENDPOINT="+r.URL, "OTEL_METRIC_EXPORT_INTERVAL=1")
	p.ready(t)
	greet := func(traceparent string) {
		t.Helper()
		req, err := http.NewRequest("POST", p.url+"/v1/greet", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Traceparent", traceparent)
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		_ = resp.Body.Close()
	}
	const trace = "0af7651916cd43dd8448eb211c80319c"
	greet("00-" + trace + "-b7ad6b7169203331-00")
	greet("00-" + trace + "-b7ad6b7169203331-01")
	told := func() float64 {
		return r.Sum("http.server.request.duration", "usher.function", "greet", "http.request.method", "POST", "http.route", "/v1/greet", "http.response.status_code", "200")
	}
	eventually(t, "what was measured is pushed beside requests", p, func() bool {
		if told() > 0 {
			return true
		}
		greet("")
		return false
	})
	before := r.Sum("http.server.request.duration")
	greet("")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 0 {
		t.Fatalf("exit code %d; logged:\n%s", code, p.logged())
	}
	if told() <= before {
		t.Errorf("%v requests were told before the last one, %v at the end", before, told())
	}
	if r.From("service.name") != "greet" || r.From("service.version") != "v7" || r.From("service.namespace") != "usher" || r.From("service.instance.id") == "" {
		t.Error("it is not told who measured")
	}
	spans := r.Spans()
	if len(spans) != 1 || hex.EncodeToString(spans[0].GetTraceId()) != trace || spans[0].GetName() != "POST /v1/greet" {
		t.Errorf("of two requests, one of them sampled, there are the spans %v", spans)
	}
}

func TestTelemetryOfScheduledWorkLeavesBeforeItsAnswer(t *testing.T) {
	t.Parallel()
	r := testenv.NewReceiver(t)
	p := start(t, "GREETING=hello", "OTEL_EXPORTER_OTLP_ENDPOINT="+r.URL)
	p.ready(t)
	for n := range 2 {
		if status, body, err := p.post("/tasks/greet"); err != nil || status != http.StatusOK {
			t.Fatal(status, body, err)
		}
		if got := r.Sum("http.server.request.duration", "http.route", "/tasks/greet"); got != float64(n+1) {
			t.Errorf("%v runs were told after %d", got, n+1)
		}
	}
}

func TestAReceiverThatIsOutCostsNobodyTheirAnswer(t *testing.T) {
	t.Parallel()
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice that the client has gone
		<-r.Context().Done()
	}))
	t.Cleanup(hangs.Close)
	p := start(t, "GREETING=hello", "OTEL_EXPORTER_OTLP_ENDPOINT="+hangs.URL, "OTEL_METRIC_EXPORT_INTERVAL=1", "OTEL_EXPORTER_OTLP_TIMEOUT=2000")
	p.ready(t)
	begin := time.Now()
	for range 5 {
		if status, body, err := p.post("/v1/greet"); err != nil || status != http.StatusOK {
			t.Fatal(status, body, err)
		}
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("five answers took %v", took)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 0 || !strings.Contains(p.logged(), "telemetry was not delivered") {
		t.Errorf("exit code %d; logged:\n%s", code, p.logged())
	}
}
