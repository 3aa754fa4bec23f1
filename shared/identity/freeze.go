package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// frozenBy marks a tenant that was suspended by being frozen: what is suspended for another reason is not reinstated by being
// frozen no more.
const frozenBy = "freeze"

// Freeze suspends a customer until Unfreeze, in the caller's transaction of that tenant, and says whether it was not suspended
// before. The database numbers every licence anew and leaves word in the outbox; the caller tells the pools. It needs the role
// of function incident. A tenant that is not there is a fault.NotFound.
func Freeze(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, reason string) (bool, error) {
	return setFrozen(ctx, tx, tenant, `
		UPDATE app.tenants
		   SET status = 'suspended', status_reason = $2, status_by = $3, updated_at = now()
		 WHERE id = $1 AND kind = 'customer' AND status = 'active'`, reason)
}

// Unfreeze reinstates a customer that Freeze suspended, and says whether it did. One that is suspended for another reason
// stays so. Else it is as Freeze.
func Unfreeze(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, reason string) (bool, error) {
	return setFrozen(ctx, tx, tenant, `
		UPDATE app.tenants
		   SET status = 'active', status_reason = nullif($2, ''), status_by = $3, updated_at = now()
		 WHERE id = $1 AND kind = 'customer' AND status = 'suspended' AND status_by = $3`, reason)
}

func setFrozen(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, sql, reason string) (bool, error) {
	tag, err := tx.Exec(ctx, sql, tenant.UUID(), reason, frozenBy)
	if err != nil {
		return false, fmt.Errorf("freeze or unfreeze tenant %s: %w", tenant, err)
	}
	return tag.RowsAffected() > 0, nil
}

var errFrozen = fault.Conflict("tenant_frozen", "The tenant is frozen. Take it off frozen_tenants with PUT /v1/switches, or resolve its incident with unfreeze.")

// Customer is a tenant that an incident or a switch is about; fault.NotFound when there is none of that id, or it is the
// operator's own.
func (v *Verifier) Customer(ctx context.Context, id uuid.UUID) (tenancy.ID, error) {
	if id == uuid.Nil || id == OperatorID {
		return tenancy.ID{}, errNoTenant
	}
	return v.For(ctx, Principal{Tenant: tenancy.Verified(OperatorID), Operator: true}, id)
}

// OwnerOf is the customer whose a licence, a user or an API key is; what is uuid.Nil is not looked for. It is fault.NotFound
// when one is not there, is the operator's, or they are not all of the same. It needs the role of function incident.
func (v *Verifier) OwnerOf(ctx context.Context, license, user, apiKey uuid.UUID) (tenancy.ID, error) {
	wanted := 0
	for _, id := range []uuid.UUID{license, user, apiKey} {
		if id != uuid.Nil {
			wanted++
		}
	}
	var owners []uuid.UUID
	err := v.db.Across(ctx, "an incident: whose a thing is", func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT tenant_id FROM app.incident_tenant($1, $2, $3)`, license, user, apiKey)
		if err != nil {
			return err
		}
		owners, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	if err != nil {
		return tenancy.ID{}, fmt.Errorf("find whose a thing is: %w", err)
	}
	if len(owners) < wanted || wanted == 0 {
		return tenancy.ID{}, errNoThing
	}
	for _, owner := range owners {
		if owner != owners[0] {
			return tenancy.ID{}, errNoThing
		}
	}
	return tenancy.Verified(owners[0]), nil
}

var errNoThing = fault.NotFound("not_found", "What the scope names is not there, or not all of it is one tenant's.")

// Operator is the tenant whose the operator's own things are.
func Operator() tenancy.ID { return tenancy.Verified(OperatorID) }

// UserNames are the names by which an application may tell of a user's sessions: the address and the id.
func UserNames(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, user uuid.UUID) ([]string, error) {
	var email string
	err := tx.QueryRow(ctx, `SELECT email FROM app.users WHERE tenant_id = $1 AND id = $2`, tenant.UUID(), user).Scan(&email)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fault.NotFound("not_found", "There is no such user.")
	case err != nil:
		return nil, fmt.Errorf("read user %s: %w", user, err)
	}
	return []string{email, user.String()}, nil
}

// RevokeAPIKeys ends keys of a tenant at once and for good: all of them, or those that a user made. It answers those that it
// ended and that had not ended before.
func RevokeAPIKeys(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, madeBy uuid.UUID) ([]uuid.UUID, error) {
	by := ""
	if madeBy != uuid.Nil {
		by = Principal{User: madeBy}.By()
	}
	rows, err := tx.Query(ctx, `
		UPDATE app.api_keys
		   SET revoked_at = now()
		 WHERE tenant_id = $1 AND revoked_at IS NULL AND ($2 = '' OR created_by = $2)
		RETURNING id`, tenant.UUID(), by)
	if err != nil {
		return nil, fmt.Errorf("revoke API keys of tenant %s: %w", tenant, err)
	}
	ended, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("revoke API keys of tenant %s: %w", tenant, err)
	}
	return ended, nil
}
