package admin

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// User is a person in a tenant.
type User struct {
	ID        uuid.UUID   `json:"id"`
	Email     string      `json:"email"`
	Name      *string     `json:"name"`
	Role      string      `json:"role" enum:"owner,admin,member,viewer" doc:"What they may do; of an invited one, what they will."`
	Status    string      `json:"status" enum:"invited,active,removed"`
	InvitedBy *string     `json:"invited_by" doc:"Null for who registered the organisation."`
	CreatedAt httpx.Time  `json:"created_at"`
	UpdatedAt httpx.Time  `json:"updated_at"`
	JoinedAt  *httpx.Time `json:"joined_at"`
	RemovedAt *httpx.Time `json:"removed_at"`
	RemovedBy *string     `json:"removed_by"`
}

// NewUser is a user who was just invited.
type NewUser struct {
	User
	ExpiresAt httpx.Time `json:"invitation_expires_at"`
	Token     string     `json:"token" doc:"Of the invitation, for POST /v1/invitations/accept. Shown this once."`
}

// Newcomer is who is to be invited.
type Newcomer struct {
	Email string  `json:"email" minLength:"3" maxLength:"254" doc:"Only who signs in with this address, verified, can accept."`
	Role  string  `json:"role" enum:"owner,admin,member,viewer" doc:"No higher than that of who invites; an API key ranks with admin, the operator's with owner."`
	Name  *string `json:"name,omitempty" minLength:"1" maxLength:"200" doc:"What the person is called; what they call themselves when left out."`
}

// UserChange alters a user; what is left out stays as it is.
type UserChange struct {
	Role *string              `json:"role,omitempty" enum:"owner,admin,member,viewer"`
	Name httpx.Change[string] `json:"name,omitzero" minLength:"1" maxLength:"200"`
}

// UserQuery says which users are asked for.
type UserQuery struct {
	TenantPaging
	Role   string `query:"role" enum:"owner,admin,member,viewer" doc:"Of this role alone."`
	Status string `query:"status" enum:"invited,active,removed" doc:"Of this status alone."`
	Email  string `query:"email" maxLength:"254" doc:"With this address alone."`
}

var userRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/users", ID: "list_users",
		Summary: "List users", Description: "In the order in which they were made, invited and removed ones too. The operator that names no tenant gets its own people.",
		Query:   UserQuery{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Page[User]{}}},
	}, do: Deps.listUsers,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/users", ID: "create_user",
		Summary: "Invite a user", Description: "As POST /v1/invitations; answers the user that the invitation is for, who becomes active by accepting it.",
		Query: TenantQuery{}, Body: Newcomer{}, Idempotent: true,
		Replies:  []httpx.Doc{{Status: http.StatusCreated, Body: NewUser{}}},
		Problems: []int{http.StatusConflict, http.StatusTooManyRequests},
	}, do: Deps.createUser,
}, {
	Route: httpx.Route{
		Method: "GET", Path: "/v1/users/{id}", ID: "show_user",
		Summary: "Show a user",
		Query:   TenantQuery{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: User{}}},
	}, do: Deps.showUser,
}, {
	Route: httpx.Route{
		Method: "PATCH", Path: "/v1/users/{id}", ID: "change_user",
		Summary: "Change a user's role or name", Description: "From the next request on. Nobody gives or takes a role above their own. The last owner stays one.",
		Query: TenantQuery{}, Body: UserChange{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: User{}}},
		Problems: []int{http.StatusConflict},
	}, do: Deps.changeUser,
}, {
	Route: httpx.Route{
		Method: "DELETE", Path: "/v1/users/{id}", ID: "remove_user",
		Summary: "Remove a user", Description: "At once: their next request is refused. The API keys that they made stay. The last owner cannot be removed; an invited user's invitation is withdrawn.",
		Query:    TenantQuery{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: User{}}},
		Problems: []int{http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, do: Deps.removeUser,
}}

func userOf(u *identity.User) User {
	return User{
		ID: u.ID, Email: u.Email, Name: orNull(u.Name), Role: string(u.Role), Status: u.Status, InvitedBy: orNull(u.InvitedBy),
		CreatedAt: httpx.At(u.CreatedAt), UpdatedAt: httpx.At(u.UpdatedAt),
		JoinedAt: httpx.AtOrNull(u.JoinedAt), RemovedAt: httpx.AtOrNull(u.RemovedAt), RemovedBy: orNull(u.RemovedBy),
	}
}

func (d Deps) listUsers(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q UserQuery
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	filter := identity.UserFilter{Role: identity.Role(q.Role), Status: q.Status, Email: q.Email}
	rows, err := d.users(c.Context(), who, q.Paging, filter)
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: pageOf(rows, q.Paging, userID, userOf)}, nil
}

func userID(u *identity.User) uuid.UUID { return u.ID }

// users reads a page of users, and one more.
func (d Deps) users(ctx context.Context, who caller, p Paging, f identity.UserFilter) (rows []identity.User, err error) {
	after, err := p.after(uuid.Nil)
	if err != nil {
		return nil, err
	}
	err = d.DB.AsReadOnly(ctx, who.tenant, func(tx tenancy.Tx) (err error) {
		rows, err = identity.ListUsers(ctx, tx, who.tenant, f, after, p.more())
		return err
	})
	return rows, err
}

func (d Deps) createUser(c *httpx.Call, who caller) (httpx.Reply, error) {
	return d.invite(c, who, func(u *identity.User, token string) any {
		return NewUser{User: userOf(u), ExpiresAt: httpx.At(*u.InvitationExpiresAt), Token: token}
	})
}

// invite invites whom the body names, and answers what show makes of it.
func (d Deps) invite(c *httpx.Call, who caller, show func(u *identity.User, token string) any) (httpx.Reply, error) {
	var q Newcomer
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, err
	}
	newcomer := identity.Newcomer{Email: q.Email, Name: or(q.Name, ""), Role: identity.Role(q.Role)}
	return d.once(c, who, func(tx tenancy.Tx) (int, any, error) {
		u, token, err := d.Keys.Invite(c.Context(), tx, who.tenant, who.Principal, newcomer)
		if err != nil {
			return 0, nil, err
		}
		if !who.Operator {
			if err := invitesTooMuch(c.Context(), tx, &u); err != nil {
				return 0, nil, err
			}
		}
		if err := d.invitationMail(c.Context(), tx, &u, token.Reveal()); err != nil {
			return 0, nil, err
		}
		err = audit.Record(c.Context(), tx, who.act(c, "invitation.created", userSubject(u.ID), asSent(c)))
		return http.StatusCreated, show(&u, token.Reveal()), err
	})
}

// What a tenant may have sent, since anybody can found one: each invitation is a mail to somebody who did not ask for it, and in the
// same queue as everybody's. The operator is not limited.
const (
	// mostInvitations is how many of a tenant's invitations may wait to be accepted.
	mostInvitations = 100
	// mostInvitationMails is how many invitations a tenant makes in invitationMailsIn, those that renew one too.
	mostInvitationMails = 200
	// mostToOne is how many of them go to one address.
	mostToOne         = 5
	invitationMailsIn = 24 * time.Hour
)

// invitesTooMuch is what is wrong with an invitation that was just made, and is not recorded yet: of too many that nobody has accepted
// it is a fault.Conflict (too_many_invitations), of too many in a day a fault.RateLimited. The tenant's owners are locked, so nobody
// else is counting.
func invitesTooMuch(ctx context.Context, tx tenancy.Tx, u *identity.User) error {
	var open, mails, toOne int
	var wait, waitOne float64 // seconds until one more may be sent
	err := tx.Batch(ctx, func(b *tenancy.Batch) {
		b.Queue(`
			SELECT count(*)
			  FROM app.users
			 WHERE tenant_id = (SELECT app.tenant()) AND status = 'invited' AND invitation_expires_at > now()`,
		).QueryRow(func(row pgx.Row) error { return row.Scan(&open) })
		b.Queue(`
			WITH made AS (
			    SELECT e.at, e.subject IN (
			               SELECT 'user:' || o.id FROM app.users o WHERE o.tenant_id = (SELECT app.tenant()) AND o.email = $1) AS to_one
			      FROM app.audit_entries e
			     WHERE e.tenant_id = (SELECT app.tenant()) AND e.action = 'invitation.created' AND e.outcome = 'done' AND e.at > now() - $2::interval)
			SELECT count(*), count(*) FILTER (WHERE to_one),
			       coalesce(extract(epoch FROM min(at) + $2::interval - now()), 0)::float8,
			       coalesce(extract(epoch FROM min(at) FILTER (WHERE to_one) + $2::interval - now()), 0)::float8
			  FROM made`, u.Email, invitationMailsIn,
		).QueryRow(func(row pgx.Row) error { return row.Scan(&mails, &toOne, &wait, &waitOne) })
	})
	if err != nil {
		return fmt.Errorf("count invitations: %w", err)
	}
	limited := func(detail string, wait float64) error {
		f := fault.RateLimited(max(time.Duration(wait*float64(time.Second)), time.Second))
		f.Detail = detail
		return f
	}
	switch {
	case open > mostInvitations:
		return fault.Conflict("too_many_invitations", fmt.Sprintf("%d invitations wait to be accepted. Withdraw one first, or wait until one is accepted.", mostInvitations))
	case toOne >= mostToOne:
		return limited(fmt.Sprintf("This address was invited %d times within a day. Wait for retry_after_seconds, then try again.", mostToOne), waitOne)
	case mails >= mostInvitationMails:
		return limited(fmt.Sprintf("An organisation invites at most %d times a day. Wait for retry_after_seconds, then try again.", mostInvitationMails), wait)
	}
	return nil
}

// invitationMail has the invitation sent to whom it is for.
func (d Deps) invitationMail(ctx context.Context, tx tenancy.Tx, u *identity.User, token string) error {
	name, err := notify.Organization(ctx, tx)
	if err != nil {
		return err
	}
	if token, err = d.Notices.Seal(u.Email, token); err != nil {
		return err
	}
	return notify.Queue(ctx, tx, notify.Mail{Kind: notify.Invitation, To: u.Email, Data: map[string]string{
		"organization": name, "role": string(u.Role), "token": token, "expires_at": notify.Date(*u.InvitationExpiresAt),
	}})
}

func (d Deps) showUser(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	u, err := d.readUser(c.Context(), who, id)
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := c.DecodeQuery(&TenantQuery{}); err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: userOf(&u)}, nil
}

func (d Deps) readUser(ctx context.Context, who caller, id uuid.UUID) (u identity.User, err error) {
	err = d.DB.AsReadOnly(ctx, who.tenant, func(tx tenancy.Tx) (err error) {
		u, err = identity.ReadUser(ctx, tx, who.tenant, id)
		return err
	})
	return u, err
}

// findUser says whether the user is there.
func (d Deps) findUser(ctx context.Context, who caller, id uuid.UUID) func() error {
	return func() error {
		_, err := d.readUser(ctx, who, id)
		return err
	}
}

func (d Deps) changeUser(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var q UserChange
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.findUser(c.Context(), who, id))
	}
	var change identity.UserChange
	if q.Role != nil {
		change.Role = new(identity.Role(*q.Role))
	}
	if q.Name.Given {
		change.Name = new(or(q.Name.Value, ""))
	}
	return d.actOnUser(c, who, id, func(ctx context.Context, tx tenancy.Tx) (identity.User, error) {
		was, is, err := identity.ChangeUser(ctx, tx, who.tenant, who.Principal, id, change)
		if err != nil {
			return identity.User{}, err
		}
		details := map[string]string{"role_was": string(was.Role), "role": string(is.Role)}
		maps.Copy(details, asSent(c))
		return is, audit.Record(ctx, tx, who.act(c, "user.changed", userSubject(id), details))
	})
}

func (d Deps) removeUser(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := decode(c, &TenantQuery{}, nil); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.findUser(c.Context(), who, id))
	}
	return d.actOnUser(c, who, id, func(ctx context.Context, tx tenancy.Tx) (identity.User, error) {
		was, is, err := identity.RemoveUser(ctx, tx, who.tenant, who.Principal, id)
		if err != nil {
			return identity.User{}, err
		}
		return is, who.removal(c, tx, &was, &is)
	})
}

// actOnUser changes a user, and answers them as they are then.
func (d Deps) actOnUser(c *httpx.Call, who caller, id uuid.UUID, act func(context.Context, tenancy.Tx) (identity.User, error)) (httpx.Reply, error) {
	c.Note(slog.String("subject_user", id.String()))
	var u identity.User
	err := d.DB.As(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		u, err = act(c.Context(), tx)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: userOf(&u)}, nil
}
