// Package all serves every function on one port, at the public paths. It is for one machine: `make run`, the demo, the
// end-to-end tests and the OpenAPI document. It is never deployed, and nothing imports it.
//
// The functions stay apart even here: each is opened by its own Open in an environment of its own, with its own login
// role and its own connections.
package all

//go:generate go run ./cmd/openapi ../../docs/openapi.json

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/coditect/usher/functions/acquire"
	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/functions/borrow"
	"github.com/coditect/usher/functions/checkout"
	"github.com/coditect/usher/functions/deliver"
	"github.com/coditect/usher/functions/expire"
	"github.com/coditect/usher/functions/heartbeat"
	"github.com/coditect/usher/functions/keys"
	"github.com/coditect/usher/functions/meter"
	"github.com/coditect/usher/functions/register"
	"github.com/coditect/usher/functions/release"
	"github.com/coditect/usher/functions/rotate"
	"github.com/coditect/usher/functions/subscription"
	"github.com/coditect/usher/functions/sweep"
	"github.com/coditect/usher/functions/trial"
	"github.com/coditect/usher/functions/usage"
	"github.com/coditect/usher/functions/validate"
	"github.com/coditect/usher/functions/webhook"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
)

// Name is the service's name when it is all functions in one.
const Name = "all"

// function is one of them.
type function struct {
	name string
	open func(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error)
}

// functions is every function there is, in the order of the OpenAPI document.
var functions = []function{
	{"validate", validate.Open},
	{"acquire", acquire.Open},
	{"heartbeat", heartbeat.Open},
	{"release", release.Open},
	{"borrow", borrow.Open},
	{"keys", keys.Open},
	{"register", register.Open},
	{"trial", trial.Open},
	{"checkout", checkout.Open},
	{"subscription", subscription.Open},
	{"webhook", webhook.Open},
	{"usage", usage.Open},
	{"meter", meter.Open},
	{"sweep", sweep.Open},
	{"deliver", deliver.Open},
	{"expire", expire.Open},
	{"rotate", rotate.Open},
	{"admin", admin.Open},
}

// Names lists the functions.
func Names() []string {
	names := make([]string, len(functions))
	for i, f := range functions {
		names[i] = f.name
	}
	return names
}

// Environment is how a function reads its variables, by the function's name.
type Environment func(function string) func(variable string) string

// Open opens every function in its own environment and joins them to one, which serves all their routes and is ready
// when all their stores answer. Like a function's own Open it does not wait for the stores. The error names the function.
func Open(ctx context.Context, env Environment, log *slog.Logger) (*serve.Function, error) {
	joined := &serve.Function{Name: Name}
	var opened []*serve.Function
	var faults []error
	for _, f := range functions {
		one, err := f.open(ctx, env(f.name), log)
		if err != nil {
			faults = append(faults, fmt.Errorf("open function %s: %w", f.name, err))
			continue
		}
		opened = append(opened, one)
		joined.Routes = append(joined.Routes, one.Routes...)
	}
	joined.Ready = ready(opened)
	joined.Close = func() {
		for _, f := range opened {
			if f.Close != nil {
				f.Close()
			}
		}
	}
	if err := errors.Join(faults...); err != nil {
		joined.Close()
		return nil, err
	}
	return joined, nil
}

// ready makes one check of each store, which asks on behalf of every function that uses it: each logs in by itself.
func ready(opened []*serve.Function) []httpx.Check {
	var checks []httpx.Check
	pings := map[string][]func(context.Context) error{}
	for _, f := range opened {
		for _, check := range f.Ready {
			if pings[check.Name] == nil {
				checks = append(checks, httpx.Check{Name: check.Name, Ping: func(ctx context.Context) error {
					return together(ctx, pings[check.Name])
				}})
			}
			pings[check.Name] = append(pings[check.Name], func(ctx context.Context) error {
				if err := check.Ping(ctx); err != nil {
					return fmt.Errorf("function %s: %w", f.Name, err)
				}
				return nil
			})
		}
	}
	return checks
}

// together pings at once and joins the errors.
func together(ctx context.Context, pings []func(context.Context) error) error {
	answers := make(chan error, len(pings))
	for _, ping := range pings {
		go func() { answers <- ping(ctx) }()
	}
	var errs []error
	for range pings {
		errs = append(errs, <-answers)
	}
	return errors.Join(errs...)
}

// Document is the OpenAPI document of all functions: what docs/openapi.json holds. The functions are opened on stores
// that do not exist, which nothing here asks.
func Document(ctx context.Context) ([]byte, error) {
	f, err := Open(ctx, func(string) func(string) string { return nowhere }, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return httpx.OpenAPI("Usher", "1", f.Routes)
}

// nowhere is an environment in which every function opens: addresses where nothing is, and secrets made up.
func nowhere(variable string) string {
	switch {
	case strings.HasSuffix(variable, "DATABASE_URL"):
		return "postgres://usher@127.0.0.1:1/usher"
	case strings.HasSuffix(variable, "REDIS_URL"):
		return "redis://127.0.0.1:1/0"
	case strings.HasSuffix(variable, "_PEPPERS"), variable == "SEAT_TOKEN_KEYS", variable == "NOTIFY_KEYS":
		return "1:" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	case variable == "KMS_ROOT_KEY", variable == "KMS_WRAPPING_KEY":
		return "projects/usher/locations/nowhere/keyRings/usher/cryptoKeys/usher"
	case variable == "SEAT_TOKEN_SECRET":
		return "projects/usher/secrets/usher"
	case variable == "RECEIPT_ISSUER", variable == "SCHEDULER_AUDIENCE", variable == "IDENTITY_ISSUER", variable == "IDENTITY_AUDIENCE",
		variable == "BILLING_ORIGINS":
		return "https://usher.example"
	case variable == "STRIPE_API_KEY":
		return "sk_test_nowhere"
	case variable == "STRIPE_CATALOG":
		return "{}"
	case variable == "STRIPE_WEBHOOK_SECRETS":
		return "whsec_nowhere"
	case variable == "SCHEDULER_EMAIL":
		return "scheduler@usher.example"
	case variable == "SMTP_HOST":
		return "smtp.usher.example"
	case variable == "MAIL_FROM":
		return "usher@usher.example"
	}
	return ""
}
