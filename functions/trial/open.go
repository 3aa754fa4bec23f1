package trial

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, BUDGET_*, IDENTITY_*, JOURNAL_*, LICENSE_KEY_PEPPERS and
// LICENSE_MIN_TTL_SECONDS as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	people, err2 := identity.OpenPeople(getenv, db)
	registry, err3 := license.OpenRegistry(getenv)
	switches, err4 := journal.OpenCache(ctx, getenv, log)
	budgets, err5 := budget.Open(getenv, log)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name:   "trial",
		Routes: httpx.Watched(budgets.Refused, httpx.Gated(switches.Writable, Routes(Deps{DB: db, People: people, Registry: registry, Log: log}))),
		Ready:  []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close:  func() { _ = switches.Close(); _ = budgets.Close(); db.Close() },
	}, nil
}
