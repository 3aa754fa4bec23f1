package webhook

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
)

// Open puts the function together from its environment: DATABASE_*, BUDGET_*, REDIS_*, SEAT_*, API_KEY_PEPPERS, IDENTITY_*,
// LICENSE_KEY_PEPPERS, LICENSE_MIN_TTL_SECONDS, NOTIFY_KEYS, JOURNAL_* and STRIPE_* as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := billing.OpenDB(ctx, getenv, log)
	seats, err2 := seat.Open(getenv, db, log)
	keys, err3 := identity.Open(getenv, db)
	people, err4 := identity.OpenPeople(getenv, db)
	registry, err5 := license.OpenRegistry(getenv)
	stripe, err6 := billing.OpenStripe(getenv)
	secrets, err7 := billing.OpenSecrets(getenv)
	notices, err8 := notify.OpenKeys(getenv)
	switches, err9 := journal.OpenCache(ctx, getenv, log)
	budgets, err10 := budget.Open(getenv, log)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9, err10); err != nil {
		return nil, err
	}
	books := billing.NewBooks(billing.BooksDeps{DB: db, Stripe: stripe, Registry: registry, Notices: notices, Now: billing.StoreTime, Log: log})
	return &serve.Function{
		Name:   "webhook",
		Routes: httpx.Watched(budgets.Refused, httpx.Gated(switches.Writable, Routes(Deps{Books: books, Secrets: secrets, Seats: seats, Keys: keys, People: people, Now: time.Now, Log: log}))),
		// Redis is not asked: what it is to be told it is told by the sweep.
		Ready: []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close: func() { _ = switches.Close(); _ = budgets.Close(); _ = seats.Close(); db.Close() },
	}, nil
}
