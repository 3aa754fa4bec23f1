package incident

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/secret/secretmanager"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/signing/rotation"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, REDIS_*, SEAT_*, BUDGET_*, JOURNAL_*, KMS_*,
// SEAT_TOKEN_SECRET, API_KEY_PEPPERS, IDENTITY_*, RECEIPT_ISSUER, SCHEDULER_* and WATCH_* as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	seats, err2 := seat.Open(getenv, db, log)
	budgets, err3 := budget.Open(getenv, log)
	outside, err4 := journal.Open(ctx, getenv)
	vault, err5 := kms.Open(getenv, kms.Sign|kms.Wrap|kms.Rotate)
	ring, err6 := secretmanager.Open(getenv)
	keys, err7 := identity.Open(getenv, db)
	people, err8 := identity.OpenPeople(getenv, db)
	scheduler, err9 := identity.OpenScheduler(getenv)
	limits, err10 := OpenLimits(getenv)
	var name signing.KeysConfig
	err11 := config.Load(&name, getenv)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9, err10, err11); err != nil {
		return nil, err
	}
	// On the worst day one of the two is enough to open an incident and write it down.
	either := func(ctx context.Context) error {
		err := db.Ping(ctx)
		if err != nil && !outside.Off() && outside.Ping(ctx) == nil {
			return nil
		}
		return err
	}
	roots := signing.NewRoots(db, vault.Signer)
	return &serve.Function{
		Name: "incident",
		Routes: Routes(Deps{
			DB: db, Keys: keys, People: people, Seats: seats, Budgets: budgets, Journal: outside,
			Rotation:    rotation.New(rotation.Deps{DB: db, Vault: vault, Ring: ring, Now: db.Now, Log: log}),
			Checkpoints: &journal.Checkpoints{DB: db, Journal: outside, Sign: roots.Sign, Issuer: name.Issuer, Now: time.Now, Log: log},
			Roots:       roots, Issuer: name.Issuer, Scheduler: scheduler, Limits: limits, Now: time.Now, Log: log,
		}),
		Ready: []httpx.Check{{Name: "postgresql", Ping: either}, {Name: "journal", Ping: either, Off: outside.Off()}},
		Close: func() {
			_ = ring.Close()
			_ = vault.Close()
			_ = outside.Close()
			_ = budgets.Close()
			_ = seats.Close()
			db.Close()
		},
	}, nil
}
