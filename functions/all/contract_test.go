package all_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/coditect/usher/shared/platform/testenv"
)

// asked are the requests that Stripe was asked.
type asked struct {
	mu  sync.Mutex
	all map[string]*http.Request // one of each kind, by method, path without ids, and the names that it sends
}

// before notes each request before next answers it.
func (a *asked) before(next http.Handler) http.Handler {
	a.all = map[string]*http.Request{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		kind := r.Method
		for part := range strings.SplitSeq(r.URL.Path, "/") {
			if !strings.Contains(part, "_sim") { // as the stand-in's ids are
				kind += "/" + part
			}
		}
		for pair := range strings.SplitSeq(string(body)+"&"+r.URL.RawQuery, "&") {
			name, _, _ := strings.Cut(pair, "=")
			kind += " " + name
		}
		copied := r.Clone(context.WithoutCancel(r.Context()))
		copied.Body = io.NopCloser(bytes.NewReader(body))
		a.mu.Lock()
		a.all[kind] = copied
		a.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

// holdToStripe sends them to stripe-mock, which knows Stripe's specification of the version that we pin and refuses what it
// does not allow: a path, a name, a type.
func (a *asked) holdToStripe(t *testing.T) {
	t.Helper()
	url := stripeMock(t)
	a.mu.Lock()
	defer a.mu.Unlock()
	for kind, r := range a.all {
		if strings.Contains(r.URL.Path, "/billing/meter") { // younger than what stripe-mock knows
			continue
		}
		again, err := http.NewRequestWithContext(t.Context(), r.Method, url+r.URL.RequestURI(), r.Body)
		if err != nil {
			t.Fatal(err)
		}
		again.Header = r.Header
		answer, err := http.DefaultClient.Do(again)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("Stripe's specification does not allow %s: %d %s", kind, answer.StatusCode, text)
		}
	}
	if len(a.all) < 10 {
		t.Errorf("only %d kinds of requests were made", len(a.all))
	}
}

// stripeMock starts Stripe's own mock, and answers its address.
func stripeMock(t *testing.T) string {
	t.Helper()
	mock := exec.CommandContext(t.Context(), "go", "tool", "-modfile="+filepath.Join("tools", "go.mod"), "stripe-mock", "-strict-version-check", "-http-addr", "127.0.0.1:0", "-https-addr", "127.0.0.1:0")
	mock.Dir, mock.Stderr = testenv.Root(t), os.Stderr
	mock.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	mock.Cancel = func() error { return syscall.Kill(-mock.Process.Pid, syscall.SIGKILL) }
	out, err := mock.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := mock.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mock.Wait() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if address, ok := strings.CutPrefix(lines.Text(), "Listening for HTTP at address: "); ok {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return "http://" + address
		}
	}
	t.Fatal("stripe-mock does not say where it listens")
	return ""
}
