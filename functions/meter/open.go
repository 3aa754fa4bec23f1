package meter

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, SCHEDULER_*, STRIPE_API_KEY, STRIPE_URL, STRIPE_TIMEOUT and
// STRIPE_CATALOG as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	stripe, err2 := billing.OpenStripe(getenv)
	scheduler, err3 := identity.OpenScheduler(getenv)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name:   "meter",
		Routes: Routes(Deps{Meter: billing.NewMeter(billing.MeterDeps{DB: db, Stripe: stripe, Log: log}), Scheduler: scheduler, Log: log}),
		Ready:  []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close:  db.Close,
	}, nil
}
