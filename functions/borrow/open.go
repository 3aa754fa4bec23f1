package borrow

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, REDIS_*, SEAT_*, SEAT_TOKEN_*, KMS_*, RECEIPT_* and
// BUDGET_* as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	seats, err2 := seat.Open(getenv, db, log)
	tokens, err3 := signing.OpenTokens(getenv, log)
	vault, err4 := kms.Open(getenv, kms.Wrap)
	receipts, err5 := signing.OpenKeys(getenv, db, vault.Unwrap, log)
	beats, err6 := budget.OpenBeats(getenv)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name:   "borrow",
		Routes: Routes(Deps{DB: db, Seats: seats, Tokens: tokens, Receipts: receipts, Beats: beats, Log: log}),
		Ready:  []httpx.Check{{Name: "postgresql", Ping: db.Ping}, {Name: "redis", Ping: seats.Ping}, {Name: "kms", Ping: receipts.Ready}},
		Close:  func() { _ = vault.Close(); _ = seats.Close(); db.Close() },
	}, nil
}
