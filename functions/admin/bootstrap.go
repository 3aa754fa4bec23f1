package admin

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

// Bootstrap makes the operator, with which a deployment begins, and its first API key, which has every scope. An operator
// that has a key gets no other one, unless further is set: then the key is the zero Key. Operator logs in as
// usher_operator. Two at once make one operator and one key.
func Bootstrap(ctx context.Context, operator *tenancy.DB, keys *identity.Verifier, further bool) (key secret.Key, err error) {
	id, err := identity.NewTenants(operator).EnsureOperator(ctx, "Operator")
	if err != nil {
		return secret.Key{}, fmt.Errorf("make the operator: %w", err)
	}
	err = operator.As(ctx, id, func(tx tenancy.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT FROM app.tenants WHERE id = $1 FOR NO KEY UPDATE`, id.UUID()); err != nil {
			return err
		}
		if !further {
			known, err := identity.ListAPIKeys(ctx, tx, id, uuid.Nil, 1)
			if err != nil || len(known) > 0 {
				return err
			}
		}
		var made identity.APIKey
		if made, key, err = keys.CreateAPIKey(ctx, tx, id, "bootstrap", identity.OperatorScopes(), nil, "bootstrap"); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Entry{
			Action: "api_key.created", Actor: "bootstrap", ByOperator: true, Subject: "api_key:" + made.ID.String(),
		})
	})
	if err != nil {
		return secret.Key{}, fmt.Errorf("make the operator's API key: %w", err)
	}
	return key, nil
}
