package usage

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, SEAT_TOKEN_*, API_KEY_PEPPERS, IDENTITY_* and
// BUDGET_* as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	tokens, err2 := signing.OpenTokens(getenv, log)
	keys, err3 := identity.Open(getenv, db)
	people, err4 := identity.OpenPeople(getenv, db)
	beats, err5 := budget.OpenBeats(getenv)
	budgets, err6 := budget.Open(getenv, log)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name:   "usage",
		Routes: httpx.Watched(budgets.Refused, Routes(Deps{DB: db, Tokens: tokens, Keys: keys, People: people, Beats: beats, Log: log})),
		Ready:  []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close:  func() { _ = budgets.Close(); db.Close() },
	}, nil
}
