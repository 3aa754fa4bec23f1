package register

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/tenancy"
)

// Config says what a new tenant is given.
type Config struct {
	// Plan is the plan of its free licence, which must be in the catalogue.
	Plan string `env:"REGISTER_PLAN" envDefault:"free"`
}

// Open puts the function together from its environment: DATABASE_*, BUDGET_*, IDENTITY_*, JOURNAL_*, LICENSE_KEY_PEPPERS
// and LICENSE_MIN_TTL_SECONDS as their packages say, and Config.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	var cfg Config
	err1 := config.Load(&cfg, getenv)
	db, err2 := tenancy.Open(ctx, getenv, log)
	people, err3 := identity.OpenPeople(getenv, db)
	registry, err4 := license.OpenRegistry(getenv)
	switches, err5 := journal.OpenCache(ctx, getenv, log)
	budgets, err6 := budget.Open(getenv, log)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name:   "register",
		Routes: httpx.Watched(budgets.Refused, httpx.Gated(switches.Writable, Routes(Deps{DB: db, People: people, Registry: registry, Plan: cfg.Plan, Log: log}))),
		Ready:  []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close:  func() { _ = switches.Close(); _ = budgets.Close(); db.Close() },
	}, nil
}
