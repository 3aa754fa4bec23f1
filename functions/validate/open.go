package validate

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, REDIS_*, SEAT_*, LICENSE_*, KMS_*, RECEIPT_* and BUDGET_* as
// their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	seats, err2 := seat.Open(getenv, db, log)
	licenses, err3 := license.OpenDirectory(getenv, db)
	vault, err4 := kms.Open(getenv, kms.Wrap)
	budgets, err5 := budget.Open(getenv, log)
	receipts, err6 := signing.OpenKeys(getenv, db, vault.Unwrap, log)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name:   "validate",
		Routes: Routes(Deps{Licenses: licenses, Seats: seats, Receipts: receipts, Budgets: budgets, Now: time.Now, Log: log}),
		Ready:  []httpx.Check{{Name: "postgresql", Ping: db.Ping}, {Name: "redis", Ping: seats.Ping}, {Name: "kms", Ping: receipts.Ready}},
		Close:  func() { _ = vault.Close(); _ = budgets.Close(); _ = seats.Close(); db.Close() },
	}, nil
}
