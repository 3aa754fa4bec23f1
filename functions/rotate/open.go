package rotate

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/secret/secretmanager"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/signing/rotation"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, BUDGET_*, KMS_*, SEAT_TOKEN_SECRET, API_KEY_PEPPERS,
// JOURNAL_* and SCHEDULER_* as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	vault, err2 := kms.Open(getenv, kms.Wrap|kms.Rotate)
	ring, err3 := secretmanager.Open(getenv)
	keys, err4 := identity.Open(getenv, db)
	scheduler, err5 := identity.OpenScheduler(getenv)
	switches, err6 := journal.OpenCache(ctx, getenv, log)
	budgets, err7 := budget.Open(getenv, log)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name: "rotate",
		Routes: httpx.Watched(budgets.Refused, httpx.Gated(switches.Writable, Routes(Deps{
			Rotation: rotation.New(rotation.Deps{DB: db, Vault: vault, Ring: ring, Now: db.Now, Log: log}),
			Keys:     keys, Scheduler: scheduler, Log: log,
		}))),
		Ready: []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close: func() { _ = switches.Close(); _ = budgets.Close(); _ = ring.Close(); _ = vault.Close(); db.Close() },
	}, nil
}
