package admin

import (
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// Me is who a credential is.
type Me struct {
	Operator   bool             `json:"operator" doc:"Whether it may act for any tenant."`
	TenantID   *uuid.UUID       `json:"tenant_id" doc:"Null for the operator."`
	TenantName *string          `json:"tenant_name"`
	APIKeyID   *uuid.UUID       `json:"api_key_id" doc:"Null for a person."`
	UserID     *uuid.UUID       `json:"user_id" doc:"Null for an API key."`
	Name       *string          `json:"name" doc:"What the key was called when it was made, or what the person is called."`
	Email      *string          `json:"email" doc:"Null for an API key."`
	Role       *string          `json:"role" enum:"owner,admin,member,viewer" nullable:"true" doc:"What the person may do; null for an API key."`
	Scopes     []identity.Scope `json:"scopes" doc:"What the API key may do; empty for a person, whose role says it."`
}

var meRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/me", ID: "show_me",
		Summary: "Who this credential is",
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Me{}}},
	}, do: Deps.me,
}}

func (d Deps) me(c *httpx.Call, who caller) (httpx.Reply, error) {
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	me := Me{Operator: who.Operator, Name: orNull(who.Name), Scopes: []identity.Scope{}}
	if who.IsPerson() {
		me.UserID, me.Email, me.Role = &who.User, &who.Email, new(string(who.Role))
	} else {
		me.APIKeyID, me.Scopes = &who.APIKey, who.Scopes
	}
	if !who.Operator {
		id, name := who.Tenant.UUID(), ""
		err := d.DB.AsReadOnly(c.Context(), who.Tenant, func(tx tenancy.Tx) error {
			return tx.QueryRow(c.Context(), `SELECT name FROM app.tenants WHERE id = $1`, id).Scan(&name)
		})
		if err != nil {
			return httpx.Reply{}, fmt.Errorf("read tenant %s: %w", id, err)
		}
		me.TenantID, me.TenantName = &id, &name
	}
	return httpx.Reply{Body: me}, nil
}
