package heartbeat

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, REDIS_*, SEAT_* and BUDGET_* as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	seats, err2 := seat.Open(getenv, db, log)
	tokens, err3 := signing.OpenTokens(getenv, log)
	beats, err4 := budget.OpenBeats(getenv)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name:   "heartbeat",
		Routes: Routes(Deps{Seats: seats, Tokens: tokens, Beats: beats, Log: log}),
		// PostgreSQL is not asked: heartbeats go on without it.
		Ready: []httpx.Check{{Name: "redis", Ping: seats.Ping}},
		Close: func() { _ = seats.Close(); db.Close() },
		Lean:  true,
	}, nil
}
