package sweep

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, REDIS_*, SEAT_* and SCHEDULER_* as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	seats, err2 := seat.Open(getenv, db, log)
	scheduler, err3 := identity.OpenScheduler(getenv)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name:   "sweep",
		Routes: Routes(Deps{Seats: seats, DB: db, Scheduler: scheduler, Log: log}),
		Ready:  []httpx.Check{{Name: "postgresql", Ping: db.Ping}, {Name: "redis", Ping: seats.Ping}},
		Close:  func() { _ = seats.Close(); db.Close() },
	}, nil
}
