// Package testenv gives tests real stores and real processes. Each helper takes the test, fails it by itself when
// something cannot be had, and cleans up after it. What is shared by the tests of a process (one PostgreSQL cluster) is
// started when first asked for and ends with the process; what a test can disturb is its own.
//
// The package knows the migrations, so that a database is what a function finds in production; it knows nothing of
// tenants, licences or seats. Only tests may import it; the services themselves come from localenv.
package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/localenv"
)

// startTimeout bounds the making of whatever a helper makes.
const startTimeout = time.Minute

// setUp is the context of a helper's own work.
func setUp(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	t.Cleanup(cancel)
	return ctx
}

// Eventually waits until check returns nil, asking every few milliseconds, and fails the test with check's last error
// when that takes longer than within.
func Eventually(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", within, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// LogCapture is a log that a test can read.
type LogCapture struct {
	Logger *slog.Logger // writes JSON, every level

	mu   sync.Mutex
	text bytes.Buffer
}

// Logs makes a log for one test. When the test fails, it prints what was logged.
func Logs(t testing.TB) *LogCapture {
	t.Helper()
	l := &LogCapture{}
	l.Logger = slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", l.Text())
		}
	})
	return l
}

// Write adds to the log, for those that want an io.Writer.
func (l *LogCapture) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// Text is everything logged so far.
func (l *LogCapture) Text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Hides fails the test when one of the secrets stands in the log.
func (l *LogCapture) Hides(t testing.TB, secrets ...string) {
	t.Helper()
	text := l.Text()
	for _, secret := range secrets {
		if secret == "" {
			t.Error("an empty secret cannot be searched for")
		} else if strings.Contains(text, secret) {
			t.Errorf("the log shows the secret %q", secret)
		}
	}
}

// issuerKey is shared by the issuers of a process: making one takes a while, above all with the race detector.
var issuerKey = sync.OnceValues(localenv.NewIssuerKey)

// Cloud stands in for Cloud KMS and Secret Manager until the test ends.
func Cloud(t testing.TB) *localenv.Cloud {
	t.Helper()
	c, err := localenv.StartCloud(context.Background(), localenv.CloudOptions{})
	must(t, err)
	closeAfter(t, c.Close)
	return c
}

// Issuer starts an OpenID Connect issuer for one test, on loopback.
func Issuer(t testing.TB) *localenv.Issuer {
	t.Helper()
	key, err := issuerKey()
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := localenv.StartIssuer(setUp(t), 0, key)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, issuer.Close)
	return issuer
}

// closeAfter closes something when the test is over.
func closeAfter(t testing.TB, closing func() error) {
	t.Helper()
	t.Cleanup(func() {
		if err := closing(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

// must fails the test when err is one.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// need installs what a helper stands on, when it is missing.
func need(ctx context.Context, t testing.TB, wanted ...localenv.Software) {
	t.Helper()
	must(t, localenv.Install(ctx, os.Stderr, wanted...))
}

// Root is the top folder of the repository, whichever package's test asks.
func Root(t testing.TB) string {
	t.Helper()
	root, err := findRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		if _, err := os.Stat(dir + "/go.mod"); err == nil {
			return dir, nil
		}
		i := strings.LastIndexByte(dir, '/')
		if i <= 0 {
			return "", errors.New("find the repository: no go.mod above the test")
		}
		dir = dir[:i]
	}
}
