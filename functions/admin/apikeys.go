package admin

import (
	"net/http"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// APIKey is what is kept of an API key.
type APIKey struct {
	ID         uuid.UUID        `json:"id"`
	Name       string           `json:"name"`
	Scopes     []identity.Scope `json:"scopes"`
	Hint       string           `json:"hint" doc:"Its first and last characters."`
	CreatedBy  string           `json:"created_by"`
	CreatedAt  httpx.Time       `json:"created_at"`
	ExpiresAt  *httpx.Time      `json:"expires_at"`
	RotatedAt  *httpx.Time      `json:"rotated_at" doc:"When another key took its place; it lives on until expires_at."`
	RevokedAt  *httpx.Time      `json:"revoked_at"`
	LastUsedAt *httpx.Time      `json:"last_used_at" doc:"Exact to the minute."`
}

// NewAPIKey is an API key that was just made.
type NewAPIKey struct {
	APIKey
	Key string `json:"api_key" doc:"Shown this once."`
}

// APIKeyRequest makes an API key.
type APIKeyRequest struct {
	Name      string                   `json:"name" minLength:"1" maxLength:"200"`
	Scopes    []identity.Scope         `json:"scopes" minItems:"1" maxItems:"20" enum:"licenses:read,licenses:write,sessions:read,sessions:write,usage:write,users:read,users:write,audit:read,reports:read,tenants:read,tenants:write,catalog:read,catalog:write,signing:write,incidents:read,incidents:write" doc:"What the key may do; nothing that its maker may not. Those of tenants, catalog, signing and incidents are for the operator's own keys."`
	ExpiresAt httpx.Change[httpx.Time] `json:"expires_at,omitzero" doc:"Never when null or left out. No later than the key that makes it."`
}

var apiKeyRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/api-keys", ID: "list_api_keys",
		Summary: "List API keys", Description: "In the order in which they were made, revoked ones too. The operator that names no tenant gets its own.",
		Query:   TenantPaging{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Page[APIKey]{}}},
	}, do: Deps.listAPIKeys,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/api-keys", ID: "create_api_key",
		Summary: "Make an API key", Description: "The operator that names no tenant makes one of its own.",
		Query: TenantQuery{}, Body: APIKeyRequest{}, Idempotent: true,
		Replies: []httpx.Doc{{Status: http.StatusCreated, Body: NewAPIKey{}}},
	}, do: Deps.createAPIKey,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/api-keys/{id}/rotate", ID: "rotate_api_key",
		Summary: "Replace an API key", Description: "Makes one of the same name, scopes and expiry. The old one lives on for overlap_seconds, and cannot be rotated again.",
		Query: TenantQuery{}, Body: Rotation{}, BodyOptional: true, Idempotent: true,
		Replies: []httpx.Doc{{Status: http.StatusCreated, Body: NewAPIKey{}}},
	}, do: Deps.rotateAPIKey,
}, {
	Route: httpx.Route{
		Method: "DELETE", Path: "/v1/api-keys/{id}", ID: "revoke_api_key",
		Summary: "Revoke an API key", Description: "At once and for good.",
		Query:    TenantQuery{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: APIKey{}}},
		Problems: []int{http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, do: Deps.revokeAPIKey,
}}

func apiKeyOf(k *identity.APIKey) APIKey {
	return APIKey{
		ID: k.ID, Name: k.Name, Scopes: k.Scopes, Hint: k.Hint, CreatedBy: k.CreatedBy, CreatedAt: httpx.At(k.CreatedAt),
		ExpiresAt: httpx.AtOrNull(k.ExpiresAt), RotatedAt: httpx.AtOrNull(k.RotatedAt), RevokedAt: httpx.AtOrNull(k.RevokedAt), LastUsedAt: httpx.AtOrNull(k.LastUsedAt),
	}
}

func (d Deps) listAPIKeys(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q TenantPaging
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	after, err := q.after(uuid.Nil)
	if err != nil {
		return httpx.Reply{}, err
	}
	var rows []identity.APIKey
	err = d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		rows, err = identity.ListAPIKeys(c.Context(), tx, who.tenant, after, q.more())
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: pageOf(rows, q.Paging, func(k *identity.APIKey) uuid.UUID { return k.ID }, apiKeyOf)}, nil
}

func (d Deps) createAPIKey(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q APIKeyRequest
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, err
	}
	forOperator := who.Operator && who.tenant == who.Tenant
	if err := who.AllowGrant(q.Scopes, forOperator); err != nil {
		return httpx.Reply{}, err
	}
	if err := who.AllowExpiry(q.ExpiresAt.Value.Or()); err != nil {
		return httpx.Reply{}, err
	}
	return d.once(c, who, func(tx tenancy.Tx) (int, any, error) {
		made, key, err := d.Keys.CreateAPIKey(c.Context(), tx, who.tenant, q.Name, q.Scopes, q.ExpiresAt.Value.Or(), who.By())
		if err != nil {
			return 0, nil, err
		}
		err = audit.Record(c.Context(), tx, who.act(c, "api_key.created", "api_key:"+made.ID.String(), asSent(c)))
		return http.StatusCreated, NewAPIKey{APIKey: apiKeyOf(&made), Key: key.Reveal()}, err
	})
}

func (d Deps) rotateAPIKey(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var q Rotation
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.findAPIKey(c, who, id))
	}
	return d.once(c, who, func(tx tenancy.Tx) (int, any, error) {
		made, key, err := d.Keys.RotateAPIKey(c.Context(), tx, who.tenant, id, duration(q.OverlapSeconds, usualOverlap), who.Principal)
		if err != nil {
			return 0, nil, err
		}
		err = audit.Record(c.Context(), tx, who.act(c, "api_key.rotated", "api_key:"+id.String(), map[string]string{"next": "api_key:" + made.ID.String()}))
		return http.StatusCreated, NewAPIKey{APIKey: apiKeyOf(&made), Key: key.Reveal()}, err
	})
}

// findAPIKey says whether the key is there.
func (d Deps) findAPIKey(c *httpx.Call, who caller, id uuid.UUID) func() error {
	return func() error {
		return d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) error {
			_, err := identity.ReadAPIKey(c.Context(), tx, who.tenant, id)
			return err
		})
	}
}

func (d Deps) revokeAPIKey(c *httpx.Call, who caller) (httpx.Reply, error) {
	ctx := c.Context()
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var k identity.APIKey
	if err := decode(c, &TenantQuery{}, nil); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.findAPIKey(c, who, id))
	}
	err = d.DB.As(ctx, who.tenant, func(tx tenancy.Tx) (err error) {
		if k, err = identity.RevokeAPIKey(ctx, tx, who.tenant, id); err != nil {
			return err
		}
		return audit.Record(ctx, tx, who.act(c, "api_key.revoked", "api_key:"+id.String(), nil))
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: apiKeyOf(&k)}, nil
}
