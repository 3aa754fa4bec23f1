package admin

import (
	"log/slog"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// rule says who may use a route, and whose things the route is about.
type rule struct {
	identity.Need
	// own is the least role of a person who may do it to what is theirs; "" is nobody's to do.
	own identity.Role
	// guest opens the route to everybody who signs in, member of a tenant or not, and to nobody else.
	guest bool
	about subject
}

// subject is whose things a route is about.
type subject uint8

const (
	// nobody: the route is not about things that a tenant has.
	nobody subject = iota
	// aTenant: the caller's own, or the one that the operator must name by ?tenant_id=.
	aTenant
	// aTenantOrOperator: as aTenant, but the operator that names none means itself.
	aTenantOrOperator
)

// needs is a rule for a scope of API keys and a least role of people.
func needs(scope identity.Scope, role identity.Role, about subject) rule {
	return rule{Need: identity.Need{Scope: scope, Role: role}, about: about}
}

// operators is such a rule for the operator's keys, and its own people.
func operators(scope identity.Scope, role identity.Role, about subject) rule {
	return rule{Need: identity.Need{Scope: scope, Role: role, Operator: true}, about: about}
}

// rules says who may do what. It is the one place that does.
var rules = map[string]rule{
	"show_me": needs("", identity.Viewer, nobody),

	"list_tenants":  operators(identity.TenantsRead, identity.Viewer, nobody),
	"create_tenant": operators(identity.TenantsWrite, identity.Admin, nobody),
	"show_tenant":   operators(identity.TenantsRead, identity.Viewer, nobody),
	"change_tenant": operators(identity.TenantsWrite, identity.Admin, nobody),

	"show_product": operators(identity.CatalogRead, identity.Viewer, nobody),
	"put_product":  operators(identity.CatalogWrite, identity.Admin, nobody),
	"show_plan":    operators(identity.CatalogRead, identity.Viewer, nobody),
	"put_plan":     operators(identity.CatalogWrite, identity.Admin, nobody),

	"list_licenses":       needs(identity.LicensesRead, identity.Viewer, aTenant),
	"show_license":        needs(identity.LicensesRead, identity.Viewer, aTenant),
	"create_license":      operators(identity.LicensesWrite, identity.Admin, aTenant),
	"change_license":      operators(identity.LicensesWrite, identity.Admin, aTenant),
	"suspend_license":     operators(identity.LicensesWrite, identity.Admin, aTenant),
	"reinstate_license":   operators(identity.LicensesWrite, identity.Admin, aTenant),
	"revoke_license":      operators(identity.LicensesWrite, identity.Admin, aTenant),
	"rotate_license_key":  needs(identity.LicensesWrite, identity.Admin, aTenant),
	"create_license_file": needs(identity.LicensesWrite, identity.Admin, aTenant),
	"list_devices":        needs(identity.LicensesRead, identity.Admin, aTenant),
	"remove_device":       needs(identity.LicensesWrite, identity.Admin, aTenant),

	"list_sessions": needs(identity.SessionsRead, identity.Viewer, aTenant),
	"evict_session": {Need: identity.Need{Scope: identity.SessionsWrite, Role: identity.Admin}, own: identity.Member, about: aTenant},

	"list_api_keys":  needs(identity.UsersRead, identity.Admin, aTenantOrOperator),
	"create_api_key": needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),
	"rotate_api_key": needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),
	"revoke_api_key": needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),

	"list_users":  needs(identity.UsersRead, identity.Admin, aTenantOrOperator),
	"show_user":   needs(identity.UsersRead, identity.Admin, aTenantOrOperator),
	"create_user": needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),
	"change_user": needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),
	"remove_user": needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),

	"list_invitations":    needs(identity.UsersRead, identity.Admin, aTenantOrOperator),
	"create_invitation":   needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),
	"show_invitation":     needs(identity.UsersRead, identity.Admin, aTenantOrOperator),
	"withdraw_invitation": needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),
	"accept_invitation":   {guest: true},

	"list_webhooks":           needs(identity.UsersRead, identity.Admin, aTenantOrOperator),
	"create_webhook":          needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),
	"show_webhook":            needs(identity.UsersRead, identity.Admin, aTenantOrOperator),
	"change_webhook":          needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),
	"delete_webhook":          needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),
	"rotate_webhook_secret":   needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),
	"list_webhook_deliveries": needs(identity.UsersRead, identity.Admin, aTenantOrOperator),
	"redeliver_webhook":       needs(identity.UsersWrite, identity.Admin, aTenantOrOperator),

	"list_audit":   needs(identity.AuditRead, identity.Admin, aTenantOrOperator),
	"report_seats": needs(identity.ReportsRead, identity.Viewer, aTenant),
}

// document says in the OpenAPI document what the rule says: what each credential must be good for, and who else may.
func (r rule) document(route *httpx.Route) {
	if r.guest {
		route.Credentials = []httpx.Credential{httpx.IDToken}
		return
	}
	route.Credentials = []httpx.Credential{httpx.APIKey, httpx.IDToken}
	route.Needs = map[httpx.Credential]string{httpx.APIKey: string(r.Scope), httpx.IDToken: string(r.Role)}
	route.OperatorOnly = r.Operator
	route.Own = string(r.own)
}

// caller is who asks, and for whom.
type caller struct {
	identity.Principal
	// tenant is whose things the request is about; the caller's own where a route is about nobody's.
	tenant tenancy.ID
	// onlyOwn says that the caller may do it to what is theirs alone.
	onlyOwn bool
	// guest is who a caller is that need not be a member of anything.
	guest identity.Identity
}

// caller decides 401 and 403, and the 404 of the tenant.
func (d Deps) caller(c *httpx.Call, r rule) (caller, error) {
	bearer, ok := c.Bearer()
	if !ok {
		return caller{}, fault.Unauthenticated("api_key_invalid", "The request needs an API key or an ID token, sent once as Authorization: Bearer …")
	}
	if r.guest {
		return d.visitor(c, bearer)
	}
	p, err := d.principal(c, bearer)
	if err != nil {
		d.refuseCredential(c, err)
		return caller{}, err
	}
	who := caller{Principal: p, tenant: p.Tenant}
	if err := p.Allow(r.Need); err != nil {
		if r.own == "" || !p.IsPerson() || !p.Role.AtLeast(r.own) {
			d.recordRefusal(c, p, "access.tried", err)
			return caller{}, err
		}
		who.onlyOwn = true
	}
	if r.about != nobody {
		if who.tenant, err = d.tenant(c, p, r.about); err != nil {
			return caller{}, err
		}
	}
	c.Note(slog.String("tenant", who.tenant.String()))
	return who, nil
}

// principal is whose credential it is: a person's, if it is written like theirs, or an API key's.
func (d Deps) principal(c *httpx.Call, bearer string) (identity.Principal, error) {
	if !identity.IsIDToken(bearer) {
		p, err := d.Keys.APIKey(c.Context(), bearer)
		if err == nil {
			c.Note(slog.String("api_key", p.APIKey.String()))
		}
		return p, err
	}
	_, p, err := d.People.SignIn(c.Context(), bearer)
	if err == nil {
		c.Note(slog.String("user", p.User.String()))
	}
	return p, err
}

// visitor is a caller of whom only is known who they are.
func (d Deps) visitor(c *httpx.Call, bearer string) (caller, error) {
	if !identity.IsIDToken(bearer) {
		if _, err := d.Keys.APIKey(c.Context(), bearer); err != nil {
			d.refuseCredential(c, err)
			return caller{}, err
		}
		return caller{}, fault.Forbidden("forbidden", "Only a person may do this, who shows an ID token.")
	}
	who, err := d.People.Identify(c.Context(), bearer)
	if err != nil {
		d.refuseCredential(c, err)
	}
	return caller{guest: who}, err
}

// tenant is whose things the request is about. It reads its parameter by itself, because the tenant is looked for before
// the rest of the request is validated.
func (d Deps) tenant(c *httpx.Call, p identity.Principal, about subject) (tenancy.ID, error) {
	given := c.Request().URL.Query()["tenant_id"]
	switch {
	case len(given) > 1:
		return tenancy.ID{}, wrongTenant("not_allowed", "Must be given once.")
	case len(given) == 0 && p.Operator && about == aTenant:
		return tenancy.ID{}, wrongTenant("required", "The operator says by tenant_id for which tenant this is.")
	case len(given) == 0:
		return p.Tenant, nil
	}
	named, err := uuid.Parse(given[0])
	if err != nil || len(given[0]) != len(named.String()) {
		return tenancy.ID{}, wrongTenant("bad_format", "Must be a UUID.")
	}
	// Nobody is the tenant of the nil id, and the operator is nobody's customer.
	if named == uuid.Nil || p.Operator && named == p.Tenant.UUID() {
		return tenancy.ID{}, fault.NotFound("not_found", "There is no such tenant.")
	}
	id, err := d.Keys.For(c.Context(), p, named)
	if f := fault.As(err); f != nil && f.Kind == fault.KindNotFound && !p.Operator {
		d.Budgets.See(c.Context(), budget.CrossTenant, "tenant:"+p.Tenant.String())
	}
	return id, err
}

func wrongTenant(code, detail string) error {
	return fault.Invalid("The tenant is not named as it must be.", fault.Field{Field: "tenant_id", Code: code, Detail: detail})
}

// unlessMissing is what is wrong with a request, unless the thing that it is about is not there: that is decided first.
func unlessMissing(wrong error, find func() error) error {
	if missing := fault.As(find()); missing != nil && missing.Kind == fault.KindNotFound {
		return missing
	}
	return wrong
}

// TenantQuery is the query of what a tenant has.
type TenantQuery struct {
	TenantID uuid.UUID `query:"tenant_id" doc:"For whom the operator asks. A tenant's own key need not say it."`
}
