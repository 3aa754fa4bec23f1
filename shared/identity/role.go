package identity

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
)

// Role is what a person is in a tenant.
type Role string

// The roles, each of which may do what those before it may.
const (
	Viewer Role = "viewer"
	Member Role = "member"
	Admin  Role = "admin"
	Owner  Role = "owner"
)

// Roles lists the roles, the least first.
func Roles() []Role { return []Role{Viewer, Member, Admin, Owner} }

// AtLeast is whether the role may do what the other may. What is no role may nothing.
func (r Role) AtLeast(least Role) bool {
	return slices.Contains(Roles(), r) && slices.Index(Roles(), r) >= slices.Index(Roles(), least)
}

// Need is what something asks of whoever does it: a scope of an API key, a least
// role of a person.
type Need struct {
	// Scope is what an API key must have; "" is nothing but to be good.
	Scope Scope
	// Role is the least that a person must be.
	Role Role
	// Operator keeps it for the operator: its keys, and its own people.
	Operator bool
}

// Allow is nil when the caller has what is needed, else fault.Forbidden.
func (p Principal) Allow(n Need) error {
	switch {
	case n.Operator && !p.Operator:
		return fault.Forbidden("forbidden", "Only the operator may do this.")
	case p.IsPerson() && !p.Role.AtLeast(n.Role):
		return fault.Forbidden("forbidden", fmt.Sprintf("This needs the role %s, or a higher one.", n.Role))
	case !p.IsPerson() && n.Scope != "" && !slices.Contains(p.Scopes, n.Scope):
		return fault.Forbidden("forbidden", fmt.Sprintf("This needs an API key with the scope %s.", n.Scope))
	}
	return nil
}

// IsPerson is whether the caller signed in, rather than showed an API key.
func (p Principal) IsPerson() bool { return p.User != uuid.Nil }

// has is whether the caller may give the scope to an API key. An administrator has every scope of their tenant.
func (p Principal) has(scope Scope) bool {
	if !p.IsPerson() {
		return slices.Contains(p.Scopes, scope)
	}
	return p.Role.AtLeast(Admin) && (p.Operator || slices.Contains(TenantScopes(), scope))
}

// rank is the highest role that the caller may give, and whose bearers it may
// manage: their own for people. A tenant's key ranks with its administrators,
// the operator's with the owners.
func (p Principal) rank() Role {
	switch {
	case p.IsPerson():
		return p.Role
	case p.Operator:
		return Owner
	}
	return Admin
}
