package admin

import (
	"log/slog"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// rule says who may use a route, and whose things the route is about.
type rule struct {
	// scope is what the API key must have; "" is nothing but to be good.
	scope identity.Scope
	// operator keeps the route for the operator's keys.
	operator bool
	about    subject
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

// rules says who may do what.
var rules = map[string]rule{
	"show_me": {},

	"list_tenants":  {scope: identity.TenantsRead, operator: true},
	"create_tenant": {scope: identity.TenantsWrite, operator: true},
	"show_tenant":   {scope: identity.TenantsRead, operator: true},
	"change_tenant": {scope: identity.TenantsWrite, operator: true},

	"show_product": {scope: identity.CatalogRead, operator: true},
	"put_product":  {scope: identity.CatalogWrite, operator: true},
	"show_plan":    {scope: identity.CatalogRead, operator: true},
	"put_plan":     {scope: identity.CatalogWrite, operator: true},

	"list_licenses":      {scope: identity.LicensesRead, about: aTenant},
	"show_license":       {scope: identity.LicensesRead, about: aTenant},
	"create_license":     {scope: identity.LicensesWrite, operator: true, about: aTenant},
	"change_license":     {scope: identity.LicensesWrite, operator: true, about: aTenant},
	"suspend_license":    {scope: identity.LicensesWrite, operator: true, about: aTenant},
	"reinstate_license":  {scope: identity.LicensesWrite, operator: true, about: aTenant},
	"revoke_license":     {scope: identity.LicensesWrite, operator: true, about: aTenant},
	"rotate_license_key": {scope: identity.LicensesWrite, about: aTenant},
	"list_devices":       {scope: identity.LicensesRead, about: aTenant},
	"remove_device":      {scope: identity.LicensesWrite, about: aTenant},

	"list_sessions": {scope: identity.SessionsRead, about: aTenant},
	"evict_session": {scope: identity.SessionsWrite, about: aTenant},

	"list_api_keys":  {scope: identity.UsersRead, about: aTenantOrOperator},
	"create_api_key": {scope: identity.UsersWrite, about: aTenantOrOperator},
	"revoke_api_key": {scope: identity.UsersWrite, about: aTenantOrOperator},

	"list_audit":   {scope: identity.AuditRead, about: aTenantOrOperator},
	"report_seats": {scope: identity.ReportsRead, about: aTenant},
}

// caller is who asks, and for whom.
type caller struct {
	identity.Principal
	// tenant is whose things the request is about; the caller's own where a route is about nobody's.
	tenant tenancy.ID
}

// caller decides 401 and 403, and the 404 of the tenant.
func (d Deps) caller(c *httpx.Call, r rule) (caller, error) {
	bearer, ok := c.Bearer()
	if !ok {
		return caller{}, fault.Unauthenticated("api_key_invalid", "The request needs an API key, sent once as Authorization: Bearer ush_…")
	}
	p, err := d.Keys.APIKey(c.Context(), bearer)
	if err != nil {
		d.refuseCredential(c, err)
		return caller{}, err
	}
	c.Note(slog.String("api_key", p.APIKey.String()))
	switch {
	case r.operator:
		err = p.AllowOperator(r.scope)
	case r.scope != "":
		err = p.Allow(r.scope)
	}
	if err != nil {
		d.recordRefusal(c, p, "access.tried", err)
		return caller{}, err
	}
	who := caller{Principal: p, tenant: p.Tenant}
	if r.about != nobody {
		if who.tenant, err = d.tenant(c, p, r.about); err != nil {
			return caller{}, err
		}
	}
	c.Note(slog.String("tenant", who.tenant.String()))
	return who, nil
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
	return d.Keys.For(c.Context(), p, named)
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
