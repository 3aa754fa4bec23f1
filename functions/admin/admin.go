// Package admin is administration: the operator's tenants and catalogue, and what a tenant has: licences, their devices
// and sessions, people and their invitations, API keys, webhooks, the audit log and reports.
//
//	GET    /v1/me                                  who this credential is
//	GET    /v1/tenants          POST               {name, slug?}
//	GET    /v1/tenants/{id}     PATCH              {name?, status?, reason?}
//	GET    /v1/catalog/products/{code}  PUT        {name?}
//	GET    /v1/catalog/plans/{code}     PUT        {product, name?, max_seats?, ...}
//	GET    /v1/licenses         POST               {plan, max_seats, ...}
//	GET    /v1/licenses/{id}    PATCH              the same fields
//	POST   /v1/licenses/{id}/suspend               {reason}
//	POST   /v1/licenses/{id}/reinstate
//	POST   /v1/licenses/{id}/revoke                {reason}
//	POST   /v1/licenses/{id}/rotate-key            {overlap_seconds?}
//	POST   /v1/licenses/{id}/file                  {hardware_id, version?, user?, instance_id?, expires_at?}
//	GET    /v1/licenses/{id}/devices
//	DELETE /v1/licenses/{id}/devices/{device_id}   its sessions are evicted with the reason device_removed
//	GET    /v1/sessions                            ?license_id=&status=
//	POST   /v1/sessions/{id}/evict                 {reason}
//	GET    /v1/api-keys         POST               {name, scopes[], expires_at?}
//	POST   /v1/api-keys/{id}/rotate                {overlap_seconds?}
//	DELETE /v1/api-keys/{id}
//	GET    /v1/users            POST               {email, role, name?}
//	GET    /v1/users/{id}       PATCH, DELETE      {name?, role?}
//	GET    /v1/invitations      POST               {email, role, name?}
//	GET    /v1/invitations/{id} DELETE
//	POST   /v1/invitations/accept                  {token}; an ID token of whoever was invited
//	GET    /v1/webhooks         POST               {url, events[], description?}
//	GET    /v1/webhooks/{id}    PATCH, DELETE      {url?, events?, description?, status?}
//	POST   /v1/webhooks/{id}/rotate-secret         {overlap_seconds?}
//	GET    /v1/webhooks/{id}/deliveries            ?status=
//	POST   /v1/webhooks/deliveries/{id}/redeliver
//	GET    /v1/audit                               ?action=&actor=&subject=&outcome=&from=&to=
//	GET    /v1/reports/seats                       ?license_id=&from=&to=
//
// A caller shows an API key or an ID token; the table rules says which scope each route wants of the one, and which role
// of the other's owner. A tenant's caller acts for its tenant; the operator's says by ?tenant_id= for whom. What is decided
// first: 401, then 403, 404, 400 and 422, and 409 last. Role and scopes are those of the request's beginning; changes of
// people look again in the transaction that makes them.
// Verbs, PATCH and DELETE answer 200 with the resource as it is afterwards (DELETE of a device: as it was); making
// something answers 201. Lists answer {items, next_cursor} and take ?limit= and ?cursor=.
//
//	401  api_key_invalid, id_token_… (docs/people.md)
//	403  of a licence file: the code of the licence's first failing check
//	403  forbidden, tenant_suspended, email_not_verified, membership_missing, membership_revoked, invitation_for_another
//	404  not_found: not there, or not yours
//	409  slug_taken, tenant_frozen, license_revoked, api_key_ended, last_owner, already_member, user_removed, already_registered,
//	     invitation_used, too_many_invitations, too_many_webhooks, webhook_not_active, idempotency_in_flight; of a licence file: no_seats_available, borrow_limit_reached, license_changed
//	410  invitation_expired, invitation_withdrawn
//	422  invalid_request, idempotency_key_reused
//	429  rate_limited: invitations, of a tenant or to one address
//	503  store_unavailable: PostgreSQL cannot answer; of a licence file: nor Redis, or Cloud KMS does not sign
//
// A change is committed to PostgreSQL and then told to the seat pools in Redis. When that fails the change holds all the
// same, and the sweep tells them: administration goes on without Redis. Only a licence
// file needs it, and Cloud KMS: it holds a seat, and is signed by a root.
//
// Every change is recorded in the audit log, in its own transaction; so is a refused credential, once an hour.
package admin

import (
	"fmt"
	"log/slog"
	"net/http"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/notify/webhook"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// Deps is what the function works with.
type Deps struct {
	// DB logs in as usher_admin, for what tenants have.
	DB *tenancy.DB
	// Operator logs in as usher_operator, for the tenants themselves and the catalogue.
	Operator *tenancy.DB
	Keys     *identity.Verifier
	People   *identity.People
	Registry *license.Registry
	Seats    *seat.Pools
	// Budgets count credentials that are refused, and those that are tried on another tenant.
	Budgets *budget.Budgets
	// Roots sign licence files, in the name of Issuer.
	Roots  *signing.Roots
	Issuer string
	// Notices seal what mails say in secret, and make the secrets of webhooks; Hooks says where those may lead.
	Notices notify.Keys
	Hooks   *webhook.Guard
	Log     *slog.Logger
}

// tenants is the operator's way to its customers.
func (d Deps) tenants() *identity.Tenants { return identity.NewTenants(d.Operator) }

// endpoint is a route and what it does once its rule is kept. The route's Handle is made of both.
type endpoint struct {
	httpx.Route
	do func(Deps, *httpx.Call, caller) (httpx.Reply, error)
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "admin", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	var routes []httpx.Route
	for _, group := range [][]endpoint{meRoutes, tenantRoutes, catalogRoutes, licenseRoutes, fileRoutes, deviceRoutes, sessionRoutes, apiKeyRoutes, userRoutes, invitationRoutes, webhookRoutes, auditRoutes, reportRoutes} {
		for _, e := range group {
			r, ruled := rules[e.ID]
			if !ruled {
				panic(fmt.Sprintf("admin: no rule says who may use %s", e.ID))
			}
			route := e.Route
			route.Tag = "admin"
			r.document(&route)
			// Every route reads its query, if only to refuse parameters that it does not have.
			route.Problems = append(route.Problems, http.StatusForbidden, http.StatusBadRequest, http.StatusUnprocessableEntity)
			if r.about != nobody {
				route.Problems = append(route.Problems, http.StatusNotFound)
			}
			route.Handle = func(c *httpx.Call) (httpx.Reply, error) {
				who, err := d.caller(c, r)
				if err != nil {
					return httpx.Reply{}, err
				}
				return e.do(d, c, who)
			}
			routes = append(routes, route)
		}
	}
	return httpx.Watched(d.Budgets.Refused, routes)
}
