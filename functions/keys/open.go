package keys

import (
	"context"
	"log/slog"

	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/signing"
)

// Open puts the function together from its environment: RECEIPT_* as package signing says.
func Open(_ context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	keys, err := signing.OpenKeySet(getenv)
	if err != nil {
		return nil, err
	}
	return &serve.Function{Name: "keys", Routes: Routes(Deps{Keys: &keys, Log: log})}, nil
}
