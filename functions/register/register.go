// Package register founds a tenant for a person who has none: the tenant, its owner and a free licence, all at once or
// not at all.
//
//	POST /v1/register   {organization_name}, with an ID token whose e-mail address is verified
//
//	201  {tenant, user, license, license_key}; the key is shown this once
//	401  id_token_missing, id_token_… (docs/people.md)
//	403  email_not_verified
//	409  already_registered: one tenant for each identity, idempotency_in_flight
//	422  invalid_request, idempotency_key_reused
//	503  store_unavailable: PostgreSQL, or the issuer of the token, cannot answer
//
// The licence's seat pool is built when its first seat is asked for: Redis is not needed.
package register

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/tenancy"
)

// Deps is what the function works with.
type Deps struct {
	// DB logs in as usher_register.
	DB       *tenancy.DB
	People   *identity.People
	Registry *license.Registry
	// Plan is the plan of the free licence.
	Plan string
	Log  *slog.Logger
}

// Request founds a tenant.
type Request struct {
	OrganizationName string `json:"organization_name" minLength:"1" maxLength:"200"`
}

// Answer is the body of a 201.
type Answer struct {
	Tenant     Tenant  `json:"tenant"`
	User       User    `json:"user"`
	License    License `json:"license"`
	LicenseKey string  `json:"license_key" doc:"Shown this once."`
}

// Tenant is the organisation that was founded.
type Tenant struct {
	ID        uuid.UUID  `json:"id"`
	Name      string     `json:"name"`
	Slug      string     `json:"slug" doc:"Made of the name."`
	Status    string     `json:"status" enum:"active"`
	CreatedAt httpx.Time `json:"created_at"`
}

// User is its owner.
type User struct {
	ID        uuid.UUID  `json:"id"`
	Email     string     `json:"email"`
	Name      *string    `json:"name"`
	Role      string     `json:"role" enum:"owner"`
	Status    string     `json:"status" enum:"active"`
	CreatedAt httpx.Time `json:"created_at"`
}

// License is its free licence, as function admin shows it.
type License struct {
	ID              uuid.UUID   `json:"id"`
	TenantID        uuid.UUID   `json:"tenant_id"`
	Product         string      `json:"product"`
	Plan            string      `json:"plan"`
	Status          string      `json:"status" enum:"active"`
	EffectiveStatus string      `json:"effective_status" enum:"active"`
	MaxSeats        int         `json:"max_seats"`
	OverdraftSeats  int         `json:"overdraft_seats"`
	ActiveSeats     int         `json:"active_seats" doc:"None yet."`
	TTLSeconds      int64       `json:"ttl_seconds"`
	SeatPer         string      `json:"seat_per" enum:"device,user,instance"`
	Features        []string    `json:"features"`
	Versions        string      `json:"versions"`
	MaxDevices      *int        `json:"max_devices" doc:"Null: no limit."`
	StartsAt        *httpx.Time `json:"starts_at"`
	ExpiresAt       *httpx.Time `json:"expires_at"`
	GraceUntil      *httpx.Time `json:"grace_until"`
	KeyHint         string      `json:"key_hint"`
	CreatedAt       httpx.Time  `json:"created_at"`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "register", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/v1/register", ID: "register", Tag: "register",
		Summary:     "Found an organisation",
		Description: "Makes a tenant, whose owner the person who signed in becomes, and its free licence. By anybody with a verified e-mail address who has no organisation yet.",
		Credentials: []httpx.Credential{httpx.IDToken},
		Body:        Request{}, Idempotent: true,
		Replies:  []httpx.Doc{{Status: http.StatusCreated, Body: Answer{}}},
		Problems: []int{http.StatusForbidden},
		Handle:   d.register,
	}}
}

func (d Deps) register(c *httpx.Call) (httpx.Reply, error) {
	ctx := c.Context()
	bearer, _ := c.Bearer()
	who, err := d.People.Identify(ctx, bearer)
	if err != nil {
		return httpx.Reply{}, err
	}
	var q Request
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	request := idempotency.Request{Scope: who.By() + " POST /v1/register"}
	if request.Key, err = idempotency.KeyOf(c.Request().Header); err != nil {
		return httpx.Reply{}, err
	}
	if request.Body, err = c.Body(); err != nil {
		return httpx.Reply{}, err
	}

	// Who registers for the first time does so in a tenant of a new number. Whoever has registered meanwhile, by the same
	// request sent twice or by another, is found on a second look.
	request.Tenant, err = d.People.Home(ctx, who)
	if errors.Is(err, identity.ErrNoHome) {
		var reply httpx.Reply
		reply, err = d.found(c, request, who, q.OrganizationName)
		if !errors.Is(err, identity.ErrRegistered) {
			return reply, err
		}
		request.Tenant, err = d.People.Home(ctx, who)
	}
	if err != nil {
		return httpx.Reply{}, err
	}
	return d.again(ctx, request)
}

// found founds the tenant, unless the identity has one by then: identity.ErrRegistered.
func (d Deps) found(c *httpx.Call, request idempotency.Request, who identity.Identity, name string) (httpx.Reply, error) {
	ctx := c.Context()
	var err error
	if request.Tenant, err = identity.NewTenantID(); err != nil {
		return httpx.Reply{}, err
	}
	var answer idempotency.Answer
	err = d.DB.As(ctx, request.Tenant, func(tx tenancy.Tx) error {
		tenant, err := identity.Found(ctx, tx, request.Tenant, name)
		if err != nil {
			return err
		}
		answer, _, err = idempotency.Do(ctx, tx, request, func() (int, any, error) {
			made, err := d.settle(c, tx, request.Tenant, &tenant, who)
			return http.StatusCreated, made, err
		})
		return err
	})
	if errors.Is(err, identity.ErrRegistered) {
		return httpx.Reply{}, identity.ErrRegistered
	}
	if err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.String("tenant", request.Tenant.String()))
	return httpx.Reply{Status: answer.Status, Body: httpx.Raw(answer.Body)}, nil
}

// settle gives the tenant its owner and its licence.
func (d Deps) settle(c *httpx.Call, tx tenancy.Tx, id tenancy.ID, tenant *identity.Tenant, who identity.Identity) (Answer, error) {
	ctx := c.Context()
	owner, err := identity.FoundOwner(ctx, tx, id, who)
	if err != nil {
		return Answer{}, err
	}
	plan, err := license.ReadPlan(ctx, tx, d.Plan)
	if err != nil {
		return Answer{}, unfit(d.Plan, err)
	}
	sold, key, err := d.Registry.Create(ctx, tx, id, plan.Terms())
	if err != nil {
		return Answer{}, unfit(d.Plan, err)
	}
	answer := Answer{
		Tenant:     Tenant{ID: tenant.ID, Name: tenant.Name, Slug: tenant.Slug, Status: tenant.Status, CreatedAt: httpx.At(tenant.CreatedAt)},
		User:       User{ID: owner.ID, Email: owner.Email, Role: string(owner.Role), Status: owner.Status, CreatedAt: httpx.At(owner.CreatedAt)},
		License:    licenseOf(&sold),
		LicenseKey: key.Reveal(),
	}
	if owner.Name != "" {
		answer.User.Name = &owner.Name
	}
	err = notify.Queue(ctx, tx, notify.Mail{
		Kind: notify.Welcome, To: owner.Email, Key: "welcome", Data: map[string]string{"organization": tenant.Name},
	})
	if err != nil {
		return Answer{}, err
	}
	if err := notify.Event(ctx, tx, "license.created", "license:"+sold.ID.String(), sold.Snapshot(sold.CreatedAt)); err != nil {
		return Answer{}, err
	}
	return answer, record(c, tx, tenant, &owner, &sold)
}

// record records what was made, and that its owner made it.
func record(c *httpx.Call, tx tenancy.Tx, tenant *identity.Tenant, owner *identity.User, sold *license.License) error {
	by := "user:" + owner.ID.String()
	for _, made := range []struct {
		action, subject string
		details         map[string]string
	}{
		{"tenant.created", "tenant:" + tenant.ID.String(), map[string]string{"name": tenant.Name, "slug": tenant.Slug}},
		{"user.created", by, map[string]string{"email": owner.Email, "role": string(owner.Role)}},
		{"license.created", "license:" + sold.ID.String(), map[string]string{"plan": sold.Plan}},
	} {
		err := audit.Record(c.Context(), tx, audit.Entry{
			Action: made.action, Actor: by, Credential: "id_token", Address: c.Address(),
			Subject: made.subject, RequestID: c.ID(), Details: made.details,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// unfit says of a plan that cannot be sold that it is the operator's to mend, not the caller's.
func unfit(plan string, err error) error {
	if f := fault.As(err); f != nil && (f.Kind == fault.KindNotFound || f.Kind == fault.KindInvalid) {
		return fault.Internal(fmt.Errorf("sell the plan %q that REGISTER_PLAN names: %w", plan, err))
	}
	return err
}

func licenseOf(l *license.License) License {
	made := License{
		ID: l.ID, TenantID: l.Tenant.UUID(), Product: l.Product, Plan: l.Plan, Status: l.Status, EffectiveStatus: l.Status,
		MaxSeats: l.MaxSeats, OverdraftSeats: l.OverdraftSeats, TTLSeconds: int64(l.TTL / time.Second), SeatPer: l.SeatPer,
		Features: l.Features, Versions: l.Versions, KeyHint: l.KeyHint, CreatedAt: httpx.At(l.CreatedAt),
		StartsAt: httpx.AtOrNull(l.StartsAt), ExpiresAt: httpx.AtOrNull(l.ExpiresAt), GraceUntil: httpx.AtOrNull(l.GraceUntil),
	}
	if l.MaxDevices > 0 {
		made.MaxDevices = &l.MaxDevices
	}
	return made
}

// again answers somebody who has a tenant: with what the same request was answered before, and else that they have one.
func (d Deps) again(ctx context.Context, request idempotency.Request) (httpx.Reply, error) {
	if request.Key == "" {
		return httpx.Reply{}, identity.ErrRegistered
	}
	var first idempotency.Answer
	err := d.DB.As(ctx, request.Tenant, func(tx tenancy.Tx) (err error) {
		first, _, err = idempotency.Do(ctx, tx, request, func() (int, any, error) { return 0, nil, identity.ErrRegistered })
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{
		Status: first.Status, Body: httpx.Raw(first.Body),
		Header: http.Header{idempotency.ReplayedHeader: {"true"}},
	}, nil
}
