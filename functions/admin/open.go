package admin

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/notify/webhook"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, OPERATOR_DATABASE_URL, REDIS_*, SEAT_*,
// API_KEY_PEPPERS, IDENTITY_*, LICENSE_KEY_PEPPERS, LICENSE_MIN_TTL_SECONDS, RECEIPT_ISSUER, KMS_*, NOTIFY_KEYS and WEBHOOK_* as their
// packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	operator, err2 := OpenOperator(ctx, getenv, log)
	seats, err3 := seat.Open(getenv, db, log)
	keys, err4 := identity.Open(getenv, db)
	people, err5 := identity.OpenPeople(getenv, db)
	registry, err6 := license.OpenRegistry(getenv)
	vault, err7 := kms.Open(getenv, kms.Sign)
	var name signing.KeysConfig
	err8 := config.Load(&name, getenv)
	notices, err9 := notify.OpenKeys(getenv)
	guard, err10 := webhook.OpenGuard(getenv)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9, err10); err != nil {
		return nil, err
	}
	roots := signing.NewRoots(db, vault.Signer)
	return &serve.Function{
		Name: "admin",
		Routes: Routes(Deps{
			DB: db, Operator: operator, Keys: keys, People: people, Registry: registry, Seats: seats,
			Roots: roots, Issuer: name.Issuer, Notices: notices, Hooks: guard, Log: log,
		}),
		// Redis is not asked: administration goes on without it.
		Ready: []httpx.Check{{Name: "postgresql", Ping: func(ctx context.Context) error {
			return errors.Join(db.Ping(ctx), operator.Ping(ctx))
		}}},
		Close: func() { _ = vault.Close(); _ = seats.Close(); operator.Close(); db.Close() },
	}, nil
}

// OpenOperator is the database as the operator's role, usher_operator, sees it: at OPERATOR_DATABASE_URL, with the other
// settings of DATABASE_*. DATABASE_URL is for the role usher_admin.
func OpenOperator(ctx context.Context, getenv func(string) string, log *slog.Logger) (*tenancy.DB, error) {
	return tenancy.OpenAt(ctx, "OPERATOR_DATABASE_URL", getenv, log)
}
