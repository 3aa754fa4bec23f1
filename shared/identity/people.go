package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// People recognises people. It needs the role of function admin or register, and
// is safe for concurrent use.
type People struct {
	db     *tenancy.DB
	tokens *IDTokens
}

// OpenPeople reads IDTokenConfig from the environment.
func OpenPeople(getenv func(string) string, db *tenancy.DB) (*People, error) {
	tokens, err := OpenIDTokens(getenv)
	if err != nil {
		return nil, err
	}
	return NewPeople(tokens, db), nil
}

// NewPeople makes People.
func NewPeople(tokens *IDTokens, db *tenancy.DB) *People { return &People{db: db, tokens: tokens} }

// IsIDToken is whether a bearer credential is to be taken for an ID token: it is written like one.
func IsIDToken(bearer string) bool { return strings.Count(bearer, ".") == 2 }

// Identify answers who an ID token is of, member of a tenant or not. Its
// refusals are those of IDTokens.Verify; "" is fault.Unauthenticated id_token_missing.
func (p *People) Identify(ctx context.Context, token string) (Identity, error) {
	if token == "" {
		return Identity{}, errNoToken
	}
	return p.tokens.Verify(ctx, token)
}

var errNoToken = fault.Unauthenticated("id_token_missing", "The request needs an ID token, sent once as Authorization: Bearer …")

// SignIn is Identify, and then Person.
func (p *People) SignIn(ctx context.Context, token string) (Identity, Principal, error) {
	who, err := p.Identify(ctx, token)
	if err != nil {
		return Identity{}, Principal{}, err
	}
	person, err := p.Person(ctx, who)
	return who, person, err
}

// Person answers the membership of an identity, as it is now. One that has none
// is fault.Forbidden membership_missing, one whose membership was ended
// membership_revoked, one of a suspended tenant tenant_suspended. A token whose
// claims do not agree with the membership is fault.Unauthenticated: a newer
// one may. All but the first are Refused.
func (p *People) Person(ctx context.Context, who Identity) (Principal, error) {
	tenant, id, err := p.find(ctx, who)
	if err != nil {
		return Principal{}, err
	}
	if id == uuid.Nil {
		return Principal{}, fault.Forbidden("membership_missing", "You belong to no organisation here. Register one, or accept an invitation.")
	}
	person := Principal{Tenant: tenant, User: id}
	var status, kind, tenantStatus string
	err = p.db.Batch(ctx, tenant, func(b *tenancy.Batch) {
		b.Queue(`
			SELECT u.role, u.email, coalesce(u.name, ''), u.status, t.kind, t.status
			  FROM app.users u JOIN app.tenants t ON t.id = u.tenant_id
			 WHERE u.tenant_id = $1 AND u.id = $2`,
			tenant.UUID(), id,
		).QueryRow(func(row pgx.Row) error {
			return row.Scan(&person.Role, &person.Email, &person.Name, &status, &kind, &tenantStatus)
		})
	})
	person.Operator = kind == kindOperator
	refused := &Refused{Tenant: tenant, User: id, Operator: person.Operator}
	switch {
	case err != nil:
		return Principal{}, fmt.Errorf("read user %s: %w", id, err)
	case status != UserActive:
		return Principal{}, errRevoked.Because(refused)
	case tenantStatus != StatusActive:
		return Principal{}, errSuspended.Because(refused)
	case who.tenant != nil && *who.tenant != tenant.String(), who.role != nil && *who.role != string(person.Role):
		return Principal{}, fault.Unauthenticated("id_token_claims_disagree", "The ID token says another organisation or role than you have now. Get a new token.").Because(refused)
	}
	return person, nil
}

var (
	errRevoked   = fault.Forbidden("membership_revoked", "You were removed from the organisation. Ask one of its owners.")
	errSuspended = fault.Forbidden("tenant_suspended", "The organisation is suspended. Ask the vendor why.")
)

// find answers where an identity is a user, or was; uuid.Nil when it never was.
func (p *People) find(ctx context.Context, who Identity) (tenancy.ID, uuid.UUID, error) {
	var tenant, id uuid.UUID
	err := p.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`SELECT tenant_id, user_id FROM app.find_user($1, $2)`, who.Issuer, who.Subject).
			QueryRow(func(row pgx.Row) error { return row.Scan(&tenant, &id) })
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return tenancy.ID{}, uuid.Nil, fmt.Errorf("find a user: %w", err)
	}
	return tenancy.Verified(tenant), id, nil
}

// ErrNoHome says that an identity may register: it belongs to no tenant, and has founded none.
var ErrNoHome = errors.New("the identity has no tenant")

// Home answers the tenant because of which an identity may not register: it
// belongs to it, or has founded it. The error is ErrNoHome when there is none.
func (p *People) Home(ctx context.Context, who Identity) (tenancy.ID, error) {
	tenant, id, err := p.find(ctx, who)
	if err != nil {
		return tenancy.ID{}, err
	}
	if id == uuid.Nil {
		return tenancy.ID{}, ErrNoHome
	}
	home := false
	err = p.db.Batch(ctx, tenant, func(b *tenancy.Batch) {
		b.Queue(`
			SELECT status = 'active' OR founder
			  FROM app.users
			 WHERE tenant_id = $1 AND id = $2`, tenant.UUID(), id,
		).QueryRow(func(row pgx.Row) error { return row.Scan(&home) })
	})
	switch {
	case err != nil:
		return tenancy.ID{}, fmt.Errorf("read user %s: %w", id, err)
	case !home:
		return tenancy.ID{}, ErrNoHome
	}
	return tenant, nil
}

// ErrRegistered says that an identity has a tenant already.
var ErrRegistered = fault.Conflict("already_registered", "You belong to an organisation already, or have registered one. One person has one organisation.")

// NewTenantID numbers a tenant that is to be founded.
func NewTenantID() (tenancy.ID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return tenancy.ID{}, fmt.Errorf("number a tenant: %w", err)
	}
	return tenancy.Verified(id), nil
}

// Found makes a tenant of a number that NewTenantID gave, in the caller's
// transaction of that tenant, with a slug made of its name. It needs the role of
// function register.
func Found(ctx context.Context, tx tenancy.Tx, id tenancy.ID, name string) (Tenant, error) {
	slug := slugOf(name)
	var made Tenant
	for _, tried := range []string{slug, anotherSlug(slug)} {
		row := tx.QueryRow(ctx, `
			INSERT INTO app.tenants (id, name, slug)
			VALUES ($1, $2, $3)
			ON CONFLICT DO NOTHING
			RETURNING id, name, slug, status, coalesce(status_reason, ''), coalesce(status_by, ''), created_at, updated_at`,
			id.UUID(), name, tried)
		var err error
		if made, err = scanTenant(row); err == nil {
			return made, nil
		} else if !errors.Is(err, pgx.ErrNoRows) {
			return Tenant{}, fmt.Errorf("found tenant %s: %w", id, err)
		}
	}
	return Tenant{}, fmt.Errorf("found tenant %s: both slugs are taken", id)
}

// FoundOwner makes the identity the first owner of the tenant that it founds. An
// identity that has one already is ErrRegistered, after which the transaction is
// of no use.
func FoundOwner(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, who Identity) (User, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return User{}, fmt.Errorf("number a user: %w", err)
	}
	made, err := scanUser(tx.QueryRow(ctx, `
		INSERT INTO app.users (tenant_id, id, email, name, role, status, issuer, subject, founder, joined_at)
		VALUES ($1, $2, $3, nullif($4, ''), 'owner', 'active', $5, $6, true, now())
		RETURNING`+userColumns,
		tenant.UUID(), id, who.Email, who.Name, who.Issuer, who.Subject))
	switch {
	case isIdentityTaken(err):
		return User{}, ErrRegistered
	case err != nil:
		return User{}, fmt.Errorf("store the founder of tenant %s: %w", tenant, err)
	}
	return made, nil
}

// isIdentityTaken is whether an identity would have had two memberships, or have founded two tenants.
func isIdentityTaken(err error) bool {
	constraint := tenancy.Constraint(err)
	return tenancy.Code(err) == uniqueViolation && (constraint == "users_identity_key" || constraint == "users_founder_key")
}
