package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// Invitation asks a person to come into a tenant.
type Invitation struct {
	ID        uuid.UUID  `json:"id" doc:"Also of the user that its acceptance makes active."`
	Email     string     `json:"email"`
	Name      *string    `json:"name"`
	Role      string     `json:"role" enum:"owner,admin,member,viewer"`
	Status    string     `json:"status" enum:"pending,expired,accepted,withdrawn"`
	InvitedBy *string    `json:"invited_by"`
	CreatedAt httpx.Time `json:"created_at"`
	ExpiresAt httpx.Time `json:"expires_at"`
}

// NewInvitation is an invitation that was just made.
type NewInvitation struct {
	Invitation
	Token string `json:"token" doc:"For POST /v1/invitations/accept. Shown this once."`
}

// Acceptance takes an invitation up.
type Acceptance struct {
	Token string `json:"token" minLength:"1" maxLength:"255"`
}

// Joined is where an accepted invitation leads.
type Joined struct {
	Tenant JoinedTenant `json:"tenant"`
	User   User         `json:"user"`
}

// JoinedTenant is the tenant that a person is in now.
type JoinedTenant struct {
	ID   uuid.UUID `json:"id"`
	Name string    `json:"name"`
}

var invitationRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/invitations", ID: "list_invitations",
		Summary: "List invitations that nobody has accepted", Description: "In the order in which they were made, expired ones too. The operator that names no tenant gets its own.",
		Query:   TenantPaging{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Page[Invitation]{}}},
	}, do: Deps.listInvitations,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/invitations", ID: "create_invitation",
		Summary: "Invite somebody", Description: "Good for seven days, once, and for the invited e-mail address alone. Who was invited before is invited anew: the token before is good no more. At most 100 wait to be accepted (409), and in a day 200 are made, 5 of them to one address (429).",
		Query: TenantQuery{}, Body: Newcomer{}, Idempotent: true,
		Replies:  []httpx.Doc{{Status: http.StatusCreated, Body: NewInvitation{}}},
		Problems: []int{http.StatusConflict, http.StatusTooManyRequests},
	}, do: Deps.createInvitation,
}, {
	Route: httpx.Route{
		Method: "GET", Path: "/v1/invitations/{id}", ID: "show_invitation",
		Summary: "Show an invitation",
		Query:   TenantQuery{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Invitation{}}},
	}, do: Deps.showInvitation,
}, {
	Route: httpx.Route{
		Method: "DELETE", Path: "/v1/invitations/{id}", ID: "withdraw_invitation",
		Summary: "Withdraw an invitation", Description: "At once. One that was accepted cannot be: remove the user.",
		Query:    TenantQuery{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: Invitation{}}},
		Problems: []int{http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, do: Deps.withdrawInvitation,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/invitations/accept", ID: "accept_invitation",
		Summary: "Accept an invitation", Description: "By the person whom it is for, who need not belong to any organisation yet, and may belong to no other.",
		Body: Acceptance{}, Idempotent: true,
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: Joined{}}},
		Problems: []int{http.StatusNotFound, http.StatusConflict, http.StatusGone},
	}, do: Deps.acceptInvitation,
}}

// invitationOf shows the invitation of a user who came, or is to come, by one.
func invitationOf(u *identity.User) Invitation {
	i := Invitation{
		ID: u.ID, Email: u.Email, Name: orNull(u.Name), Role: string(u.Role), Status: "pending", InvitedBy: orNull(u.InvitedBy),
		CreatedAt: httpx.At(u.CreatedAt), ExpiresAt: httpx.At(*u.InvitationExpiresAt),
	}
	switch {
	case u.JoinedAt != nil:
		i.Status = "accepted"
	case u.Status == identity.UserRemoved:
		i.Status = "withdrawn"
	case u.Expired:
		i.Status = "expired"
	}
	return i
}

func (d Deps) listInvitations(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q TenantPaging
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	rows, err := d.users(c.Context(), who, q.Paging, identity.UserFilter{Status: identity.UserInvited})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: pageOf(rows, q.Paging, userID, invitationOf)}, nil
}

func (d Deps) createInvitation(c *httpx.Call, who caller) (httpx.Reply, error) {
	return d.invite(c, who, func(u *identity.User, token string) any {
		return NewInvitation{Invitation: invitationOf(u), Token: token}
	})
}

func (d Deps) showInvitation(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	u, err := d.readInvited(c.Context(), who, id)
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := c.DecodeQuery(&TenantQuery{}); err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: invitationOf(&u)}, nil
}

// readInvited reads the user of an invitation; who registered the tenant came by none.
func (d Deps) readInvited(ctx context.Context, who caller, id uuid.UUID) (identity.User, error) {
	u, err := d.readUser(ctx, who, id)
	if f := fault.As(err); f != nil && f.Kind == fault.KindNotFound || err == nil && u.InvitationExpiresAt == nil {
		return identity.User{}, fault.NotFound("not_found", "There is no such invitation.")
	}
	return u, err
}

func (d Deps) withdrawInvitation(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if _, err := d.readInvited(c.Context(), who, id); err != nil {
		return httpx.Reply{}, err
	}
	if err := decode(c, &TenantQuery{}, nil); err != nil {
		return httpx.Reply{}, err
	}
	var u identity.User
	err = d.DB.As(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		var was identity.User
		if was, u, err = identity.WithdrawInvitation(c.Context(), tx, who.tenant, who.Principal, id); err != nil {
			return err
		}
		return who.removal(c, tx, &was, &u)
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: invitationOf(&u)}, nil
}

func (d Deps) acceptInvitation(c *httpx.Call, who caller) (httpx.Reply, error) {
	ctx := c.Context()
	var q Acceptance
	if err := decode(c, nil, &q); err != nil {
		return httpx.Reply{}, err
	}
	tenant, id, err := d.Keys.FindInvitation(ctx, q.Token)
	if err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.String("tenant", tenant.String()), slog.String("user", id.String()))
	key, err := idempotency.KeyOf(c.Request().Header)
	if err != nil {
		return httpx.Reply{}, err
	}
	body, err := c.Body()
	if err != nil {
		return httpx.Reply{}, err
	}
	request := idempotency.Request{Tenant: tenant, Scope: who.guest.By() + " POST " + c.Request().URL.Path, Key: key, Body: body}
	return d.onceOf(c, request, func(tx tenancy.Tx) (int, any, error) {
		u, err := d.Keys.Accept(ctx, tx, tenant, id, q.Token, who.guest)
		if err != nil {
			return 0, nil, err
		}
		joined := Joined{Tenant: JoinedTenant{ID: tenant.UUID()}, User: userOf(&u)}
		if err := tx.QueryRow(ctx, `SELECT name FROM app.tenants WHERE id = $1`, tenant.UUID()).Scan(&joined.Tenant.Name); err != nil {
			return 0, nil, fmt.Errorf("read tenant %s: %w", tenant, err)
		}
		// Whoever accepts is the user that they become. The request is not told: it holds the token.
		newcomer := caller{Principal: identity.Principal{Tenant: tenant, User: u.ID}, tenant: tenant}
		err = audit.Record(ctx, tx, newcomer.act(c, "invitation.accepted", userSubject(u.ID), map[string]string{"email": u.Email, "role": string(u.Role)}))
		return http.StatusOK, joined, err
	})
}
