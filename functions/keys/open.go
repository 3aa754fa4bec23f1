package keys

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, RECEIPT_* and KMS_* as their packages say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	vault, err2 := kms.Open(getenv, kms.Sign)
	publisher, err3 := signing.OpenPublisher(getenv, db, vault.Signer, log)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name:   "keys",
		Routes: Routes(Deps{Publisher: publisher, Log: log}),
		// Cloud KMS is not asked: what was signed is served without it.
		Ready: []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close: func() { _ = vault.Close(); db.Close() },
	}, nil
}
