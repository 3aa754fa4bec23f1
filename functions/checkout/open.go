package checkout

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
)

// Open puts the function together from its environment: DATABASE_*, BUDGET_*, IDENTITY_*, JOURNAL_*, STRIPE_API_KEY, STRIPE_URL,
// STRIPE_TIMEOUT, STRIPE_CATALOG and BILLING_ORIGINS as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := billing.OpenDB(ctx, getenv, log)
	people, err2 := identity.OpenPeople(getenv, db)
	stripe, err3 := billing.OpenStripe(getenv)
	origins, err4 := billing.OpenOrigins(getenv)
	switches, err5 := journal.OpenCache(ctx, getenv, log)
	budgets, err6 := budget.Open(getenv, log)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name:   "checkout",
		Routes: httpx.Watched(budgets.Refused, httpx.Gated(switches.Writable, Routes(Deps{DB: db, People: people, Desk: &billing.Desk{DB: db, Stripe: stripe}, Origins: origins, Log: log}))),
		Ready:  []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close:  func() { _ = switches.Close(); _ = budgets.Close(); db.Close() },
	}, nil
}
