package functiontest

import (
	"log/slog"
	"net/http"
	"testing"

	"github.com/coditect/usher/functions/acquire"
	"github.com/coditect/usher/functions/borrow"
	"github.com/coditect/usher/functions/heartbeat"
	"github.com/coditect/usher/functions/incident"
	"github.com/coditect/usher/functions/keys"
	"github.com/coditect/usher/functions/release"
	"github.com/coditect/usher/functions/rotate"
	"github.com/coditect/usher/functions/sweep"
	"github.com/coditect/usher/functions/validate"
	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/httpx/httpxtest"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/secret/secretmanager"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/signing/rotation"
	"github.com/coditect/usher/shared/tenancy"
)

// parts are what functions share, each opened as one of them.
type parts struct {
	db       *tenancy.DB
	licenses *license.Directory
	seats    *seat.Pools
	tokens   *signing.Tokens
	receipts *signing.Keys
	budgets  *budget.Budgets
	log      *slog.Logger
}

// open opens what a function works with, at the world's clock.
func (w *World) open(t testing.TB, function string) parts {
	t.Helper()
	getenv, log := w.Getenv(function), w.Log.Logger
	p := parts{db: w.database(t, function), log: log}
	var err error
	p.seats, err = seat.Open(getenv, p.db, log)
	must(t, err)
	t.Cleanup(func() { _ = p.seats.Close() })
	var directory license.DirectoryConfig
	must(t, config.Load(&directory, getenv))
	p.licenses, err = license.NewDirectory(directory, p.db, w.clock)
	must(t, err)
	var tokens signing.TokenConfig
	must(t, config.Load(&tokens, getenv))
	p.tokens, err = signing.NewTokens(tokens, w.clock, log)
	must(t, err)
	p.receipts = signing.NewKeys(signing.KeysConfig{Issuer: Issuer}, p.db, w.vault(t, function, kms.Wrap).Unwrap, w.store(p.db), w.clock, log)
	var budgets budget.Config
	must(t, config.Load(&budgets, getenv))
	p.budgets, err = budget.New(budgets, w.clock, log)
	must(t, err)
	t.Cleanup(func() { _ = p.budgets.Close() })
	return p
}

// ValidateDeps are a new instance's.
func (w *World) ValidateDeps(t testing.TB) validate.Deps {
	t.Helper()
	p := w.open(t, "validate")
	return validate.Deps{Licenses: p.licenses, Seats: p.seats, Receipts: p.receipts, Budgets: p.budgets, Now: w.clock, Log: p.log}
}

// AcquireDeps are a new instance's.
func (w *World) AcquireDeps(t testing.TB) acquire.Deps {
	t.Helper()
	p := w.open(t, "acquire")
	return acquire.Deps{
		DB: p.db, Licenses: p.licenses, Seats: p.seats, Tokens: p.tokens, Receipts: p.receipts, Budgets: p.budgets, Now: w.clock, Log: p.log,
	}
}

// HeartbeatDeps are a new instance's.
func (w *World) HeartbeatDeps(t testing.TB) heartbeat.Deps {
	t.Helper()
	p := w.open(t, "heartbeat")
	return heartbeat.Deps{Seats: p.seats, Tokens: p.tokens, Beats: w.beats(t, "heartbeat"), Log: p.log}
}

// beats are the budgets of sessions, as a function has them.
func (w *World) beats(t testing.TB, function string) *budget.Beats {
	t.Helper()
	var limits budget.Limits
	must(t, config.Load(&limits, w.Getenv(function)))
	beats, err := budget.NewBeats(limits, w.clock)
	must(t, err)
	return beats
}

// BorrowDeps are a new instance's.
func (w *World) BorrowDeps(t testing.TB) borrow.Deps {
	t.Helper()
	p := w.open(t, "borrow")
	return borrow.Deps{DB: p.db, Seats: p.seats, Tokens: p.tokens, Receipts: p.receipts, Beats: w.beats(t, "borrow"), Log: p.log}
}

// ReleaseDeps are a new instance's.
func (w *World) ReleaseDeps(t testing.TB) release.Deps {
	t.Helper()
	p := w.open(t, "release")
	return release.Deps{Licenses: p.licenses, Seats: p.seats, Tokens: p.tokens, Budgets: p.budgets, Log: p.log}
}

// SweepDeps are a new instance's.
func (w *World) SweepDeps(t testing.TB) sweep.Deps {
	t.Helper()
	p := w.open(t, "sweep")
	var scheduler identity.SchedulerConfig
	must(t, config.Load(&scheduler, w.Getenv("sweep")))
	return sweep.Deps{Seats: p.seats, DB: p.db, Scheduler: identity.NewScheduler(scheduler, w.clock), Log: p.log}
}

// vault is Cloud KMS as a function has it.
func (w *World) vault(t testing.TB, function string, use kms.Use) *kms.Vault {
	t.Helper()
	vault, err := kms.Open(w.Getenv(function), use)
	must(t, err)
	t.Cleanup(func() { _ = vault.Close() })
	return vault
}

// KeysDeps are a new instance's.
func (w *World) KeysDeps(t testing.TB) keys.Deps {
	t.Helper()
	db := w.database(t, "keys")
	roots := signing.NewRoots(db, w.vault(t, "keys", kms.Sign).Signer)
	return keys.Deps{Publisher: signing.NewPublisher(signing.KeysConfig{Issuer: Issuer}, db, roots, w.store(db), w.clock, w.Log.Logger), Log: w.Log.Logger}
}

// Rotation is that of a new instance of function rotate.
func (w *World) Rotation(t testing.TB) *rotation.Rotation {
	t.Helper()
	return w.rotation(t, w.database(t, "rotate"), "rotate")
}

// rotation is that of a function.
func (w *World) rotation(t testing.TB, db *tenancy.DB, function string) *rotation.Rotation {
	t.Helper()
	ring, err := secretmanager.Open(w.Getenv(function))
	must(t, err)
	t.Cleanup(func() { _ = ring.Close() })
	return rotation.New(rotation.Deps{
		DB: db, Vault: w.vault(t, function, kms.Wrap|kms.Rotate), Ring: ring, Now: w.store(db), Log: w.Log.Logger,
	})
}

// RotateDeps are a new instance's.
func (w *World) RotateDeps(t testing.TB) rotate.Deps {
	t.Helper()
	verifier, err := identity.Open(w.Getenv("rotate"), w.database(t, "rotate"))
	must(t, err)
	var scheduler identity.SchedulerConfig
	must(t, config.Load(&scheduler, w.Getenv("rotate")))
	return rotate.Deps{Rotation: w.Rotation(t), Keys: verifier, Scheduler: identity.NewScheduler(scheduler, w.clock), Log: w.Log.Logger}
}

// IncidentDeps are a new instance's. Its journal is off, unless the world's options have a Firestore.
func (w *World) IncidentDeps(t testing.TB) incident.Deps {
	t.Helper()
	p := w.open(t, "incident")
	getenv := w.Getenv("incident")
	keys, err := identity.Open(getenv, p.db)
	must(t, err)
	people, err := identity.OpenPeople(getenv, p.db)
	must(t, err)
	outside, err := journal.Open(t.Context(), getenv)
	must(t, err)
	t.Cleanup(func() { _ = outside.Close() })
	limits, err := incident.OpenLimits(getenv)
	must(t, err)
	var scheduler identity.SchedulerConfig
	must(t, config.Load(&scheduler, getenv))
	roots := signing.NewRoots(p.db, w.vault(t, "incident", kms.Sign).Signer)
	return incident.Deps{
		DB: p.db, Keys: keys, People: people, Seats: p.seats, Budgets: p.budgets, Journal: outside, Rotation: w.rotation(t, p.db, "incident"),
		Checkpoints: &journal.Checkpoints{DB: p.db, Journal: outside, Sign: roots.Sign, Issuer: Issuer, Now: w.clock, Log: p.log},
		Roots:       roots, Issuer: Issuer,
		Scheduler: identity.NewScheduler(scheduler, w.clock), Limits: limits, Now: w.clock, Log: p.log,
	}
}

// Incident is a new instance of the function; its door is that of the list.
func (w *World) Incident(t testing.TB) *Door {
	t.Helper()
	d := w.IncidentDeps(t)
	return door(t, incident.New(d), incident.Routes(d))
}

// Validate is a new instance of the function.
func (w *World) Validate(t testing.TB) *Door {
	t.Helper()
	d := w.ValidateDeps(t)
	return door(t, validate.New(d), validate.Routes(d))
}

// Acquire is a new instance of the function.
func (w *World) Acquire(t testing.TB) *Door {
	t.Helper()
	d := w.AcquireDeps(t)
	return door(t, acquire.New(d), acquire.Routes(d))
}

// Heartbeat is a new instance of the function.
func (w *World) Heartbeat(t testing.TB) *Door {
	t.Helper()
	d := w.HeartbeatDeps(t)
	return door(t, heartbeat.New(d), heartbeat.Routes(d))
}

// Release is a new instance of the function.
func (w *World) Release(t testing.TB) *Door {
	t.Helper()
	d := w.ReleaseDeps(t)
	return door(t, release.New(d), release.Routes(d))
}

// Borrow is a new instance of the function.
func (w *World) Borrow(t testing.TB) *Door {
	t.Helper()
	d := w.BorrowDeps(t)
	return door(t, borrow.New(d), borrow.Routes(d))
}

// Sweep is a new instance of the function.
func (w *World) Sweep(t testing.TB) *Door {
	t.Helper()
	d := w.SweepDeps(t)
	return door(t, sweep.New(d), sweep.Routes(d))
}

// Keys is a new instance of the function.
func (w *World) Keys(t testing.TB) *Door {
	t.Helper()
	d := w.KeysDeps(t)
	return door(t, keys.New(d), keys.Routes(d))
}

// Rotate is a new instance of the function; its door is that of the scheduled task.
func (w *World) Rotate(t testing.TB) *Door {
	t.Helper()
	d := w.RotateDeps(t)
	return door(t, rotate.New(d), rotate.Routes(d))
}

// Seating are new instances of the three functions that a holder meets.
func (w *World) Seating(t testing.TB) *Seating {
	t.Helper()
	return &Seating{Acquire: w.Acquire(t), Heartbeat: w.Heartbeat(t), Release: w.Release(t)}
}

// NewDoor is a function of one route, held to its OpenAPI document.
func NewDoor(t testing.TB, routes []httpx.Route, log *slog.Logger) *Door {
	t.Helper()
	return door(t, httpx.New(httpx.Service{Name: "test", Version: "test", Log: log}, routes...), routes)
}

// door holds a function of one route to its OpenAPI document.
func door(t testing.TB, h http.Handler, routes []httpx.Route) *Door {
	t.Helper()
	spec, err := httpx.OpenAPI("Usher", "test", routes)
	must(t, err)
	check := httpxtest.Check(t, spec)
	return &Door{Method: routes[0].Method, Path: routes[0].Path, Handler: check(h), Bare: h, check: check}
}
