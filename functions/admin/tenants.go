package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// Tenant is a customer organisation.
type Tenant struct {
	ID           uuid.UUID  `json:"id"`
	Name         string     `json:"name"`
	Slug         string     `json:"slug"`
	Status       string     `json:"status" enum:"active,suspended"`
	StatusReason *string    `json:"status_reason" doc:"Why the status is what it is, when somebody said so."`
	CreatedAt    httpx.Time `json:"created_at"`
	UpdatedAt    httpx.Time `json:"updated_at"`
}

// TenantRequest makes a tenant.
type TenantRequest struct {
	Name string `json:"name" minLength:"1" maxLength:"200"`
	Slug string `json:"slug,omitempty" minLength:"1" maxLength:"63" doc:"Lower-case letters, digits and hyphens; made of the name when left out."`
}

// TenantChange alters a tenant; what is left out stays as it is.
type TenantChange struct {
	Name   *string `json:"name,omitempty" minLength:"1" maxLength:"200"`
	Status *string `json:"status,omitempty" enum:"active,suspended" doc:"Suspending ends every session of the tenant and refuses its API keys."`
	Reason *string `json:"reason,omitempty" minLength:"1" maxLength:"500" doc:"Goes with a status."`
}

var tenantRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/tenants", ID: "list_tenants",
		Summary: "List the tenants", Description: "In the order of their ids.",
		Query:   Paging{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Page[Tenant]{}}},
	}, do: Deps.listTenants,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/tenants", ID: "create_tenant",
		Summary: "Make a tenant",
		Body:    TenantRequest{}, Idempotent: true,
		Replies:  []httpx.Doc{{Status: http.StatusCreated, Body: Tenant{}}},
		Problems: []int{http.StatusConflict},
	}, do: Deps.createTenant,
}, {
	Route: httpx.Route{
		Method: "GET", Path: "/v1/tenants/{id}", ID: "show_tenant",
		Summary: "Show a tenant",
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Tenant{}}},
	}, do: Deps.showTenant,
}, {
	Route: httpx.Route{
		Method: "PATCH", Path: "/v1/tenants/{id}", ID: "change_tenant",
		Summary: "Change, suspend or reinstate a tenant", Description: "One that an incident or a switch froze is not reinstated here: 409. Suspending it keeps it suspended when it is frozen no more.",
		Body:     TenantChange{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: Tenant{}}},
		Problems: []int{http.StatusConflict},
		Timeout:  15 * time.Second,
	}, do: Deps.changeTenant,
}}

func tenantOf(t *identity.Tenant) Tenant {
	return Tenant{
		ID: t.ID, Name: t.Name, Slug: t.Slug, Status: t.Status, StatusReason: orNull(t.StatusReason),
		CreatedAt: httpx.At(t.CreatedAt), UpdatedAt: httpx.At(t.UpdatedAt),
	}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (d Deps) listTenants(c *httpx.Call, _ caller) (httpx.Reply, error) {
	var q Paging
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	after, err := q.after(uuid.Nil)
	if err != nil {
		return httpx.Reply{}, err
	}
	rows, err := d.tenants().List(c.Context(), after, q.more())
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: pageOf(rows, q, func(t *identity.Tenant) uuid.UUID { return t.ID }, tenantOf)}, nil
}

func (d Deps) createTenant(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q TenantRequest
	if err := decode(c, nil, &q); err != nil {
		return httpx.Reply{}, err
	}
	request, err := requestOf(c, who)
	if err != nil {
		return httpx.Reply{}, err
	}
	// The tenant's row is the operator role's to write, so it is committed by itself, just before the answer is
	// remembered. After a crash between the two a repetition finds the tenant by its number.
	return d.onceOf(c, request, func(tenancy.Tx) (int, any, error) {
		made, err := d.tenants().Recording(who.onTenant(c, "")).Create(c.Context(), request.ID(), q.Name, q.Slug)
		return http.StatusCreated, tenantOf(&made), err
	})
}

func (d Deps) showTenant(c *httpx.Call, _ caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	t, err := d.tenants().Read(c.Context(), id)
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: tenantOf(&t)}, nil
}

func (d Deps) changeTenant(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var q TenantChange
	if err := q.decode(c); err != nil {
		return httpx.Reply{}, unlessMissing(err, func() error {
			_, err := d.tenants().Read(c.Context(), id)
			return err
		})
	}
	change := identity.TenantChange{Name: q.Name, Status: q.Status, By: who.By()}
	if q.Reason != nil {
		change.Reason = *q.Reason
	}
	changed, err := d.tenants().Recording(who.onTenant(c, change.Reason)).Change(c.Context(), id, change)
	if err != nil {
		return httpx.Reply{}, err
	}
	if q.Status != nil {
		d.tellPoolsOf(c.Context(), who, id)
	}
	return httpx.Reply{Body: tenantOf(&changed)}, nil
}

func (q *TenantChange) decode(c *httpx.Call) error {
	if err := c.DecodeQuery(nil); err != nil {
		return err
	}
	if err := c.Decode(q); err != nil {
		return err
	}
	if q.Reason != nil && q.Status == nil {
		return fault.Invalid("The change is not valid.", fault.Field{Field: "reason", Code: "not_allowed", Detail: "A reason goes with a status."})
	}
	return nil
}

const (
	// atOnce is how many seat pools are asked or told at one time.
	atOnce = 8
	// tellFor is how long a request tells the pools of a tenant, before it leaves the rest to the sweep.
	tellFor = 8 * time.Second
)

// tellPoolsOf tells the pool of every licence of a tenant that the tenant's status changed. It is committed, and in the
// outbox: what cannot be told now the sweep tells.
func (d Deps) tellPoolsOf(ctx context.Context, who caller, id uuid.UUID) {
	ctx, cancel := context.WithTimeout(ctx, tellFor)
	defer cancel()
	err := func() error {
		tenant, err := d.Keys.For(ctx, who.Principal, id)
		if err != nil {
			return err
		}
		licenses, err := d.licensesOf(ctx, tenant)
		if err != nil {
			return err
		}
		tell, ctx := errgroup.WithContext(ctx)
		tell.SetLimit(atOnce)
		for _, license := range licenses {
			tell.Go(func() error { return d.Seats.Changed(ctx, tenant, license) })
		}
		return tell.Wait()
	}()
	if err != nil {
		d.Log.WarnContext(ctx, "not every seat pool was told of a tenant's status yet", slog.String("tenant", id.String()), slog.Any("error", err))
	}
}

// licensesOf is the ids of all licences of a tenant.
func (d Deps) licensesOf(ctx context.Context, tenant tenancy.ID) (ids []uuid.UUID, err error) {
	err = d.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id FROM app.licenses WHERE tenant_id = $1 ORDER BY id`, tenant.UUID())
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the licenses of tenant %s: %w", tenant, err)
	}
	return ids, nil
}
