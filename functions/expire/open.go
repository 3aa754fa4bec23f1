package expire

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
)

// Config says how long what is over is kept.
type Config struct {
	// SessionDays is for how many days sessions that ended stay in the history; a month is dropped when all of it is older.
	SessionDays int `env:"RETENTION_SESSION_DAYS" envDefault:"30"`
	// AuditDays is for how many days, 90 at the least, entries of the audit log stay: they go when all of their month is older.
	AuditDays int `env:"RETENTION_AUDIT_DAYS" envDefault:"90"`
}

// Open puts the function together from its environment: DATABASE_*, REDIS_*, SEAT_*, LICENSE_KEY_PEPPERS,
// LICENSE_MIN_TTL_SECONDS, NOTIFY_KEYS, SCHEDULER_* and STRIPE_* as their packages say, and Config.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	var cfg Config
	err1 := config.Load(&cfg, getenv)
	if err1 == nil && (cfg.SessionDays < 1 || cfg.SessionDays > 3660) {
		err1 = &config.Fault{Variable: "RETENTION_SESSION_DAYS", Problem: "is not from 1 to 3660"}
	}
	if err1 == nil && (cfg.AuditDays < 90 || cfg.AuditDays > 3660) {
		err1 = &config.Fault{Variable: "RETENTION_AUDIT_DAYS", Problem: "is not from 90 to 3660"}
	}
	db, err2 := billing.OpenDB(ctx, getenv, log)
	seats, err3 := seat.Open(getenv, db, log)
	registry, err4 := license.OpenRegistry(getenv)
	notices, err5 := notify.OpenKeys(getenv)
	stripe, err6 := billing.OpenStripe(getenv)
	scheduler, err7 := identity.OpenScheduler(getenv)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name: "expire",
		Routes: Routes(Deps{
			DB: db, Registry: registry, Seats: seats, Scheduler: scheduler, SessionDays: cfg.SessionDays, AuditDays: cfg.AuditDays, Log: log,
			Books: billing.NewBooks(billing.BooksDeps{DB: db, Stripe: stripe, Registry: registry, Notices: notices, Now: billing.StoreTime, Log: log}),
		}),
		// Redis is not asked: what it is to be told it is told by the sweep.
		Ready: []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close: func() { _ = seats.Close(); db.Close() },
	}, nil
}
