// Package local runs Usher on one machine: private PostgreSQL and Redis with data that is kept, the Firestore emulator where it
// is there, secrets that are made once, stand-ins for Cloud KMS, Secret Manager and Stripe, a demo tenant with a licence, every
// function on one loopback port, and the schedules, which call the same URLs as in the cloud with a token of a local issuer.
//
// It serves what is deployed, through the same code; what it adds is only what the cloud would bring. The package must
// not know how any function works.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coditect/usher/functions/all"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/otlp"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/platform/telemetry"
)

// Options say where and how.
type Options struct {
	// Dir keeps the data, the secrets, the logs and demo.json: ".local".
	Dir string
	// Getenv reads the environment: PORT, DATABASE_URL, REDIS_URL, JOURNAL, and every setting of a function.
	Getenv func(string) string
	// Journal starts the Firestore emulator, where it is on this machine.
	Journal bool
	// Progress is told what is being done, a line each time.
	Progress func(format string, args ...any)
}

// Usher is the running service.
type Usher struct {
	demo     Demo
	settings func(function string) map[string]string
	failed   chan error
	cancel   context.CancelFunc
	closes   []func() error // in the order of their making
}

// defaults are settings for one machine, where behaviour should be watched: short leases may be sold, and what the seat
// protocol waits for is short as well. The environment may say otherwise.
var defaults = map[string]string{
	"LICENSE_MIN_TTL_SECONDS": "2",
	"SEAT_CLOCK_ALLOWANCE":    "1s",
	"SEAT_CONNECTION_LIFE":    "5s",
	"SEAT_RESERVATION":        "5s",
	"SEAT_POLL":               "2s",
}

const (
	defaultPort    = "8080"
	schedulerEmail = "scheduler@usher.localhost"
	idAudience     = "usher-local"
	issuerPath     = "/local/issuer"
	stopTimeout    = 10 * time.Second // for requests in flight
)

// A SettingError is something in the way that the person who starts the service can clear away.
type SettingError struct{ Problem string }

// Error says what is in the way, and what to do.
func (e *SettingError) Error() string { return e.Problem }

// Start starts everything and returns when the service is ready and demo.json is written. The caller closes it.
func Start(ctx context.Context, o Options) (u *Usher, err error) {
	u = &Usher{failed: make(chan error, 4)}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	u.cancel = cancel
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Close())
		}
	}()
	// The user that PostgreSQL runs as must be able to walk through; what is secret has a mode of its own.
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return u, fmt.Errorf("make the folder for local data: %w", err)
	}
	if err := u.lock(o.Dir); err != nil {
		return u, err
	}
	listener, err := u.listen(ctx, o.Getenv("PORT"))
	if err != nil {
		return u, err
	}
	base := "http://" + listener.Addr().String()
	log, err := u.log(o)
	if err != nil {
		return u, err
	}

	s, err := startStores(ctx, o.Dir, o.Getenv, o.Progress)
	if err != nil {
		return u, err
	}
	u.closes = append(u.closes, s.close)
	if o.Journal {
		if err := s.startJournal(ctx, o.Dir, o.Getenv, o.Progress); err != nil {
			return u, err
		}
	}
	if err := s.migrate(ctx, o.Progress); err != nil {
		return u, err
	}
	secrets, err := keepSecrets(filepath.Join(o.Dir, "secrets.json"))
	if err != nil {
		return u, err
	}
	issuer, err := newIssuer(o.Dir, base+issuerPath)
	if err != nil {
		return u, err
	}

	stripe, money, err := startStripe(o.Dir, base, secrets["STRIPE_WEBHOOK_SECRETS"])
	if err != nil {
		return u, err
	}
	cloud, keys, err := StartCloud(ctx, o.Dir)
	if err != nil {
		return u, err
	}
	u.closes = append(u.closes, cloud.Close)
	mails, err := localenv.StartMailServer(filepath.Join(o.Dir, "mail"), func(path string) { log.InfoContext(running, "a mail was taken", "file", path) })
	if err != nil {
		return u, err
	}
	u.closes = append(u.closes, mails.Close)
	set := map[string]string{
		"SMTP_HOST": "127.0.0.1", "SMTP_PORT": mails.Port(), "SMTP_SECURITY": "none", "MAIL_FROM": "Usher <usher@usher.localhost>",
		"WEBHOOK_ALLOW_PRIVATE": "true",
		"REDIS_URL":             s.pools, "BUDGET_REDIS_URL": s.budgets,
		"RECEIPT_ISSUER":   base,
		"SCHEDULER_ISSUER": issuer.URL(), "SCHEDULER_AUDIENCE": base, "SCHEDULER_EMAIL": schedulerEmail,
		"IDENTITY_ISSUER": issuer.URL(), "IDENTITY_AUDIENCE": idAudience,
	}
	u.settings = func(function string) map[string]string {
		settings := map[string]string{
			"DATABASE_URL":          s.role("usher_" + function),
			"OPERATOR_DATABASE_URL": s.role("usher_operator"),
			"FUNCTION_TARGET":       function,
		}
		maps.Copy(settings, secrets)
		maps.Copy(settings, money)
		maps.Copy(settings, set)
		maps.Copy(settings, s.journal)
		maps.Copy(settings, keys)
		return settings
	}
	env := func(function string) func(string) string {
		settings := u.settings(function)
		return func(variable string) string {
			if value, ok := settings[variable]; ok {
				return value
			}
			if value := o.Getenv(variable); value != "" {
				return value
			}
			return defaults[variable]
		}
	}
	// A process measures at one place: all functions as one, named all.
	push, err := otlp.Open(ctx, all.Name, "", o.Getenv, log)
	if err != nil {
		return u, err
	}
	// What is signed needs a key, and seat tokens a ring, before anything is served.
	if err := makeKeys(ctx, env("rotate"), filepath.Join(o.Dir, "roots.pem"), log); err != nil {
		return u, err
	}
	f, err := all.Open(running, env, log)
	if err != nil {
		return u, err
	}
	u.closes = append(u.closes, func() error { f.Close(); return nil })
	var seeded atomic.Bool
	f.Ready = append(f.Ready, httpx.Check{Name: "demo", Ping: func(context.Context) error {
		if !seeded.Load() {
			return errors.New("the demo data is still being made")
		}
		return nil
	}})
	handler, err := serve.Handler(f, log, env(all.Name))
	if err != nil {
		return u, err
	}
	u.closes = append(u.closes, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		push.Close(ctx)
		return nil
	})
	u.serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		push.Tick() // scheduled work comes every 10 s
		handler.ServeHTTP(w, r)
	}), issuer, stripe)
	s.supervise(running, o.Progress, u.failed)

	path := filepath.Join(o.Dir, "demo.json")
	kept, err := ReadDemo(path)
	if err != nil {
		return u, err
	}
	kept.BaseURL, kept.Issuer = base, issuer.URL()
	u.demo, err = seed(ctx, kept, func(ctx context.Context) (string, error) {
		return newOperatorKey(ctx, env("admin"))
	}, o.Progress)
	if err != nil {
		return u, fmt.Errorf("make the demo data: %w", err)
	}
	if u.demo.IDTokens, err = idTokens(issuer, base); err != nil {
		return u, err
	}
	if err := people(ctx, u.demo, o.Progress); err != nil {
		return u, fmt.Errorf("make the demo's people: %w", err)
	}
	token := schedulerToken(issuer, base)
	u.demo.StripeWebhookSecret = secrets["STRIPE_WEBHOOK_SECRETS"]
	if u.demo.SchedulerToken, err = token(tokenLife); err != nil {
		return u, err
	}
	if err := writeJSON(path, u.demo); err != nil {
		return u, err
	}
	for _, job := range jobs {
		schedule(running, job, API{URL: base}, token, log)
	}
	seeded.Store(true)
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		stripe.Deliver(running)
	}()
	u.closes = append(u.closes, func() error { <-delivered; return nil })
	return u, nil
}

// Demo is what demo.json says.
func (u *Usher) Demo() Demo { return u.demo }

// Settings are what a process of one function needs in its environment to work with the same stores and secrets. What is
// only a default of one machine is not among them.
func (u *Usher) Settings(function string) map[string]string { return u.settings(function) }

// Failed is told why the service cannot go on.
func (u *Usher) Failed() <-chan error { return u.failed }

// Close stops everything that Start started: first the requests, at last the stores. The data stays.
func (u *Usher) Close() error {
	u.cancel()
	var errs []error
	for _, end := range slices.Backward(u.closes) {
		errs = append(errs, end())
	}
	u.closes = nil
	return errors.Join(errs...)
}

// lock makes sure that one process at a time uses the data.
func (u *Usher) lock(dir string) error {
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the local data: %w", err)
	}
	u.closes = append(u.closes, file.Close)
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return &SettingError{fmt.Sprintf("it runs already with the data in %s; stop that first (Ctrl-C where it runs)", dir)}
	}
	return nil
}

// listen takes the port before anything else is done, because it is what may be taken.
func (u *Usher) listen(ctx context.Context, port string) (net.Listener, error) {
	if port == "" {
		port = defaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, &SettingError{"PORT is not a port number"}
	} else if n == 0 {
		port = "0"
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &SettingError{fmt.Sprintf("port %s is taken by another program; choose another, for example: PORT=8081 make run", port)}
	case errors.Is(err, syscall.EACCES):
		return nil, &SettingError{fmt.Sprintf("port %s needs rights that you do not have; choose another, for example: PORT=8081 make run", port)}
	case err != nil:
		return nil, fmt.Errorf("listen on port %s: %w", port, err)
	}
	u.closes = append(u.closes, func() error {
		if err := listener.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return listener, nil
}

// log makes the log of the functions, empty at each start.
func (u *Usher) log(o Options) (*slog.Logger, error) {
	file, err := os.OpenFile(filepath.Join(o.Dir, "usher.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write the log: %w", err)
	}
	u.closes = append(u.closes, file.Close)
	level := slog.LevelInfo
	if text := o.Getenv("LOG_LEVEL"); text != "" && level.UnmarshalText([]byte(text)) != nil {
		return nil, &SettingError{"LOG_LEVEL is none of debug, info, warn and error"}
	}
	return telemetry.New(file, all.Name, "", level), nil
}

// serve answers on the listener, until Close.
func (u *Usher) serve(listener net.Listener, handler http.Handler, issuer *localenv.Issuer, stripe http.Handler) {
	identity, billing := http.StripPrefix(issuerPath, issuer), http.StripPrefix(stripePath, stripe)
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, issuerPath+"/") {
				identity.ServeHTTP(w, r)
				return
			}
			if strings.HasPrefix(r.URL.Path, stripePath+"/") {
				billing.ServeHTTP(w, r)
				return
			}
			handler.ServeHTTP(w, r)
		}),
	}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			u.failed <- fmt.Errorf("serve: %w", err)
		}
	}()
	u.closes = append(u.closes, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			return errors.Join(fmt.Errorf("requests were still in flight: %w", err), server.Close())
		}
		return nil
	})
}
