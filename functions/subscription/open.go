package subscription

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
)

// Config says what is offered to whoever cancels.
type Config struct {
	// Coupon is a coupon's id at Stripe; "" offers nothing.
	Coupon string `env:"STRIPE_RETENTION_COUPON"`
}

// Open puts the function together from its environment: DATABASE_*, BUDGET_*, REDIS_*, SEAT_*, IDENTITY_*, LICENSE_KEY_PEPPERS,
// LICENSE_MIN_TTL_SECONDS, NOTIFY_KEYS, JOURNAL_*, STRIPE_API_KEY, STRIPE_URL, STRIPE_TIMEOUT, STRIPE_CATALOG and BILLING_ORIGINS as their
// packages say, and Config.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	var cfg Config
	err0 := config.Load(&cfg, getenv)
	db, err1 := billing.OpenDB(ctx, getenv, log)
	seats, err2 := seat.Open(getenv, db, log)
	people, err3 := identity.OpenPeople(getenv, db)
	registry, err4 := license.OpenRegistry(getenv)
	stripe, err5 := billing.OpenStripe(getenv)
	origins, err6 := billing.OpenOrigins(getenv)
	notices, err7 := notify.OpenKeys(getenv)
	switches, err8 := journal.OpenCache(ctx, getenv, log)
	budgets, err9 := budget.Open(getenv, log)
	if err := errors.Join(err0, err1, err2, err3, err4, err5, err6, err7, err8, err9); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name: "subscription",
		Routes: httpx.Watched(budgets.Refused, httpx.Gated(switches.Writable, Routes(Deps{
			DB: db, People: people, Desk: &billing.Desk{DB: db, Stripe: stripe, Coupon: cfg.Coupon}, Seats: seats, Origins: origins, Log: log,
			Meter: billing.NewMeter(billing.MeterDeps{DB: db, Stripe: stripe, Log: log}),
			Books: billing.NewBooks(billing.BooksDeps{DB: db, Stripe: stripe, Registry: registry, Notices: notices, Now: billing.StoreTime, Log: log}),
		}))),
		// Redis is not asked: what it is to be told it is told by the sweep.
		Ready: []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close: func() { _ = switches.Close(); _ = budgets.Close(); _ = seats.Close(); db.Close() },
	}, nil
}
