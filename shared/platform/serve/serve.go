// Package serve turns a function into a process: it reads the environment, opens the function, registers it with the
// functions framework, and ends in order when the platform says so.
//
// The package must not know what any function does.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/otlp"
	"github.com/coditect/usher/shared/platform/telemetry"
)

// Function is one function, opened and ready to serve.
type Function struct {
	// Name is the function's one name: folder, package, binary and service.
	Name string
	// Routes is what it serves.
	Routes []httpx.Route
	// Ready is what /health/ready asks.
	Ready []httpx.Check
	// Close lets go of the stores when no request is in flight any more; nil when there is nothing to let go of.
	Close func()
	// Lean keeps the process small rather than the collector idle: many instances of it are to cost little.
	Lean bool
}

// collector sets how often the garbage collector runs, unless the environment says (GOGC, GOMEMLIMIT). A function's live heap is a
// few megabytes: at Go's own pace a tenth of acquire's CPU was spent on collecting it. The limit is below the memory of the
// smallest instance (256 MiB in infra/functions.tf), for the collector to work harder before the platform kills.
func collector(getenv func(string) string, lean bool) {
	if getenv("GOGC") == "" && !lean {
		debug.SetGCPercent(400)
	}
	if getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(200 << 20)
	}
}

// Config is what every function reads from its environment, beside its own.
type Config struct {
	// Host is the address to listen on; empty for all.
	Host string `env:"HOST"`
	// Port is the port to listen on.
	Port uint16 `env:"PORT" envDefault:"8080"`
	// Target is the function the platform wants; it must be the one this binary is.
	Target string `env:"FUNCTION_TARGET"`
	// Version is what is running, for /health. Cloud Run's revision stands in for it.
	Version string `env:"VERSION"`
	// Revision is the name Cloud Run gave this revision of the service.
	Revision string `env:"K_REVISION"`
	// Project is the Google Cloud project that traces belong to.
	Project string `env:"GOOGLE_CLOUD_PROJECT"`
	// TrustedHops is how many proxies in front of the service append to X-Forwarded-For.
	TrustedHops uint8 `env:"TRUSTED_HOPS" envDefault:"0"`
	// LogLevel is the lowest severity that is logged: debug, info, warn or error.
	LogLevel slog.Level `env:"LOG_LEVEL" envDefault:"info"`
}

func (c *Config) version() string {
	switch {
	case c.Version != "":
		return c.Version
	case c.Revision != "":
		return c.Revision
	}
	return "development"
}

// Grace is how long requests in flight may take to end after the platform said to stop: Cloud Run kills after ten
// seconds, and letting go of the stores takes a moment too.
const Grace = 9 * time.Second

// last is how much longer telemetry may take to leave when the requests in flight took all of Grace.
const last = 500 * time.Millisecond

// The ways a process ends.
const (
	exitOK     = 0
	exitFault  = 1 // something failed
	exitConfig = 2 // the environment is not what it must be; starting again will not help
)

// Main runs the function called name until the platform says to stop, and exits: 0 after an orderly end, 2 when the
// configuration is wrong (a [config.Fault] in what open returns, or the switch of an SDK's emulator), with every fault
// named on the log, and 1 when anything else failed. Open's context ends with the first signal, not with open.
func Main(name string, open func(ctx context.Context, getenv func(string) string, log *slog.Logger) (*Function, error)) {
	os.Exit(run(name, open, os.Getenv, os.Environ(), os.Stdout))
}

func run(name string, open func(context.Context, func(string) string, *slog.Logger) (*Function, error), getenv func(string) string, environ []string, out io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	var cfg Config
	err := config.Load(&cfg, getenv)
	log := telemetry.New(out, name, cfg.Project, cfg.LogLevel)
	slog.SetDefault(log)
	if cfg.Target != "" && cfg.Target != name {
		err = errors.Join(err, &config.Fault{Variable: "FUNCTION_TARGET", Problem: fmt.Sprintf("names another function than %s, which this binary is", name)})
	}
	if err := errors.Join(err, emulators(environ)); err != nil {
		return refuse(log, err)
	}
	push, err1 := otlp.Open(ctx, name, cfg.version(), getenv, log)
	f, err2 := open(ctx, getenv, log)
	if err := errors.Join(err1, err2); err != nil {
		return refuse(log, err)
	}
	if f.Close != nil {
		defer f.Close()
	}
	collector(getenv, f.Lean)

	// The framework serves the function that this variable names, and without it would serve none at "/".
	// With K_SERVICE, which Cloud Run sets, it would write an empty line to both outputs after each request, as a platform of
	// old needed: two system calls, and two entries in the log.
	if err := errors.Join(os.Setenv("FUNCTION_TARGET", name), os.Unsetenv("K_SERVICE")); err != nil {
		log.Error("cannot start", "error", err)
		return exitFault
	}
	d := &drain{next: handler(f, log, &cfg), push: push, scheduled: scheduled(f.Routes)}
	functions.HTTP(name, d.ServeHTTP)
	failed := make(chan error, 1)
	go func() { failed <- funcframework.StartHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))) }()
	log.Info("serving", "port", cfg.Port, "version", cfg.version())

	select {
	case err := <-failed:
		log.Error("the server stopped", "error", err)
		return exitFault
	case <-ctx.Done():
	}
	stop() // a second signal ends the process at once
	log.Info("stopping")
	ended, cancel := context.WithTimeout(context.Background(), Grace+last)
	defer cancel()
	onTime := d.wait(Grace)
	push.Close(ended)
	if !onTime {
		log.Error("requests were still in flight when the time to stop had passed")
		return exitFault
	}
	log.Info("stopped")
	return exitOK
}

// scheduled are the paths that only the scheduler calls.
func scheduled(routes []httpx.Route) map[string]bool {
	paths := map[string]bool{}
	for _, r := range routes {
		if slices.Equal(r.Credentials, []httpx.Credential{httpx.SchedulerToken}) {
			paths[r.Path] = true
		}
	}
	if len(routes) == 1 && paths[routes[0].Path] {
		paths["/"] = true // where httpx serves it, too
	}
	return paths
}

// emulators names every switch that turns an SDK to an emulator, which takes anybody's word for who they are. A deployed
// function obeys none.
func emulators(environ []string) error {
	var faults []error
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if value != "" && strings.HasSuffix(strings.ToUpper(name), "_EMULATOR_HOST") {
			faults = append(faults, &config.Fault{Variable: name, Problem: "turns to an emulator, which a deployed function must not: unset it"})
		}
	}
	return errors.Join(faults...)
}

// refuse logs why the function cannot start, a line for each fault, and returns how to exit.
func refuse(log *slog.Logger, err error) int {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		code := exitFault
		for _, err := range many.Unwrap() {
			code = max(code, refuse(log, err))
		}
		return code
	}
	log.Error("cannot start", "error", err.Error())
	if _, ok := errors.AsType[*config.Fault](err); ok {
		return exitConfig
	}
	return exitFault
}

// Handler returns the function's handler as Main serves it, but for the drain: with the version and the trusted hops of
// the environment. Its error names every variable that is wrong.
func Handler(f *Function, log *slog.Logger, getenv func(string) string) (http.Handler, error) {
	var cfg Config
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	return handler(f, log, &cfg), nil
}

func handler(f *Function, log *slog.Logger, cfg *Config) http.Handler {
	return httpx.New(httpx.Service{
		Name: f.Name, Version: cfg.version(), Log: log, Ready: f.Ready, TrustedHops: int(cfg.TrustedHops),
	}, f.Routes...)
}
