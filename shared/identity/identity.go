// Package identity says who is calling when it is not an application: people by
// the ID token of their issuer, the automation of a tenant or of the operator by
// its API key, and Cloud Scheduler by its token. It also keeps what those
// credentials hang on: the tenants themselves, their users, and their API keys.
//
// An API key is a verified credential, and so is an ID token: this package is one
// of the few that make a [tenancy.ID]. The operator is a tenant row of its own
// kind, so that its keys and its people are kept like everybody's; a [Principal]
// of it may act for any customer.
//
// The package must not know what a caller wants to do: which scope or role a
// route needs is the function's to say.
package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// Scope is one thing that an API key may do.
type Scope string

// The scopes of tenants' keys.
const (
	LicensesRead  Scope = "licenses:read"
	LicensesWrite Scope = "licenses:write"
	SessionsRead  Scope = "sessions:read"
	SessionsWrite Scope = "sessions:write"
	UsageWrite    Scope = "usage:write"
	UsersRead     Scope = "users:read"
	UsersWrite    Scope = "users:write"
	AuditRead     Scope = "audit:read"
	ReportsRead   Scope = "reports:read"
)

// The scopes that only the operator's keys can have.
const (
	TenantsRead  Scope = "tenants:read"
	TenantsWrite Scope = "tenants:write"
	CatalogRead  Scope = "catalog:read"
	CatalogWrite Scope = "catalog:write"
	SigningWrite Scope = "signing:write"
	// IncidentsRead and IncidentsWrite are for incidents and the kill switches; the second is worth every other write.
	IncidentsRead  Scope = "incidents:read"
	IncidentsWrite Scope = "incidents:write"
)

// TenantScopes is every scope that a tenant's key can have.
func TenantScopes() []Scope {
	return []Scope{LicensesRead, LicensesWrite, SessionsRead, SessionsWrite, UsageWrite, UsersRead, UsersWrite, AuditRead, ReportsRead}
}

// OperatorScopes is every scope that the operator's key can have: a tenant's too.
func OperatorScopes() []Scope {
	return append(TenantScopes(), TenantsRead, TenantsWrite, CatalogRead, CatalogWrite, SigningWrite, IncidentsRead, IncidentsWrite)
}

// Principal is a verified caller.
type Principal struct {
	// Tenant is whose credential it is: a customer, or the operator itself.
	Tenant tenancy.ID
	// Operator says that the caller may act for any customer, by Verifier.For.
	Operator bool
	// APIKey is the key of automation, User the person who signed in: one of them is uuid.Nil.
	APIKey, User uuid.UUID
	// Name is what the key's owner called it, or what the person is called.
	Name string
	// Scopes are the key's, Role and Email the person's.
	Scopes []Scope
	Role   Role
	Email  string
	// ExpiresAt is when the key ends; nil is never.
	ExpiresAt *time.Time
}

// By is how the caller is named in records of who did what.
func (p Principal) By() string {
	if p.IsPerson() {
		return "user:" + p.User.String()
	}
	return "api_key:" + p.APIKey.String()
}

// AllowGrant is nil when the caller may make a key with the scopes: nobody gives
// what they do not have. A scope unknown or not for keys of the tenant is a
// fault.Invalid, one that the caller does not have fault.Forbidden. ForOperator
// says that the key is to be the operator's own.
func (p Principal) AllowGrant(scopes []Scope, forOperator bool) error {
	if err := scopesFault(scopes, forOperator); err != nil {
		return err
	}
	for _, s := range scopes {
		if !p.has(s) {
			return fault.Forbidden("forbidden", fmt.Sprintf("An API key can only be given scopes that its maker has, and you do not have %s.", s))
		}
	}
	return nil
}

// AllowExpiry is nil when the caller may make a key that ends then, nil being never: no key outlives its maker's. Else it
// is a fault.Invalid.
func (p Principal) AllowExpiry(at *time.Time) error {
	if p.ExpiresAt == nil || at != nil && !at.After(*p.ExpiresAt) {
		return nil
	}
	return fault.Invalid("The API key is not valid.", fault.Field{Field: "expires_at", Code: "out_of_range", Detail: "An API key ends no later than the one that makes it."})
}

func scopesFault(scopes []Scope, forOperator bool) error {
	allowed := TenantScopes()
	if forOperator {
		allowed = OperatorScopes()
	}
	var faults []fault.Field
	if len(scopes) == 0 {
		faults = append(faults, fault.Field{Field: "scopes", Code: "too_short", Detail: "A key needs at least one scope."})
	}
	for i, s := range scopes {
		at := fmt.Sprintf("scopes[%d]", i)
		switch {
		case !slices.Contains(allowed, s):
			faults = append(faults, fault.Field{Field: at, Code: "not_allowed", Detail: "There is no such scope for this key."})
		case slices.Contains(scopes[:i], s):
			faults = append(faults, fault.Field{Field: at, Code: "not_allowed", Detail: "It is listed before."})
		}
	}
	if faults != nil {
		return fault.Invalid("The scopes are not valid.", faults...)
	}
	return nil
}

// For is the tenant that a request is about: the caller's own when it names none
// (uuid.Nil), or the customer that the operator names. Anybody else's is a
// fault.NotFound, whether or not it is there.
func (v *Verifier) For(ctx context.Context, p Principal, requested uuid.UUID) (tenancy.ID, error) {
	if requested == uuid.Nil || requested == p.Tenant.UUID() {
		return p.Tenant, nil
	}
	if !p.Operator {
		return tenancy.ID{}, errNoTenant
	}
	id := tenancy.Verified(requested)
	err := v.db.Batch(ctx, id, func(b *tenancy.Batch) {
		b.Queue(`
			SELECT id
			  FROM app.tenants
			 WHERE id = $1 AND kind = 'customer'`, requested,
		).QueryRow(func(row pgx.Row) error { return row.Scan(&requested) })
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return tenancy.ID{}, errNoTenant
	case err != nil:
		return tenancy.ID{}, fmt.Errorf("find tenant %s: %w", requested, err)
	}
	return id, nil
}

var errNoTenant = fault.NotFound("not_found", "There is no such tenant.")
