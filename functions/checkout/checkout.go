// Package checkout sends an owner to Stripe, to subscribe to a plan.
//
//	POST /v1/checkout   {plan, cycle, seats, success_url, cancel_url}, with an owner's ID token
//
//	201  {checkout_url, expires_at}
//	401  id_token_missing, id_token_…
//	403  forbidden: not an owner; membership_…, tenant_suspended
//	409  already_subscribed, idempotency_in_flight
//	422  invalid_request: not for sale, or an address that is not of this service's sites; idempotency_key_reused
//	503  store_unavailable: PostgreSQL or Stripe cannot answer; sent again, the request takes up where it stopped
//
// Nothing is sold here. What is paid at Stripe is heard of by function webhook.
package checkout

import (
	"log/slog"
	"net/http"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/tenancy"
)

// Deps is what the function works with.
type Deps struct {
	// DB logs in as usher_checkout.
	DB     *tenancy.DB
	People *identity.People
	Desk   *billing.Desk
	// Origins are the sites to which a person may be sent back.
	Origins billing.Origins
	Log     *slog.Logger
}

// Request says what is to be bought.
type Request struct {
	Plan       string `json:"plan" minLength:"1" maxLength:"63"`
	Cycle      string `json:"cycle" enum:"monthly,annual"`
	Seats      int    `json:"seats" minimum:"1" maximum:"100000"`
	SuccessURL string `json:"success_url" minLength:"1" maxLength:"2000" doc:"Where the person goes after paying: a site of this service's."`
	CancelURL  string `json:"cancel_url" minLength:"1" maxLength:"2000" doc:"Where the person goes instead."`
}

// Answer is the body of a 201.
type Answer struct {
	CheckoutURL string     `json:"checkout_url" doc:"The page at which to pay."`
	ExpiresAt   httpx.Time `json:"expires_at" doc:"Until when that page is open."`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "checkout", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/v1/checkout", ID: "start_checkout", Tag: "checkout",
		Summary:     "Subscribe to a plan",
		Description: "Answers a page of Stripe's at which an owner pays. A page that was answered before is closed. The licence appears when Stripe has the money.",
		Credentials: []httpx.Credential{httpx.IDToken},
		Needs:       map[httpx.Credential]string{httpx.IDToken: string(identity.Owner)},
		Body:        Request{}, Idempotent: true,
		Replies:  []httpx.Doc{{Status: http.StatusCreated, Body: Answer{}}},
		Problems: []int{http.StatusForbidden, http.StatusConflict},
		Handle:   d.checkout,
	}}
}

func (d Deps) checkout(c *httpx.Call) (httpx.Reply, error) {
	ctx := c.Context()
	bearer, _ := c.Bearer()
	_, p, err := d.People.SignIn(ctx, bearer)
	if err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.String("tenant", p.Tenant.String()), slog.String("user", p.User.String()))
	if err := p.Allow(identity.Need{Role: identity.Owner}); err != nil {
		return httpx.Reply{}, err
	}
	if p.Operator {
		return httpx.Reply{}, fault.Forbidden("forbidden", "The operator buys nothing from itself.")
	}
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	var q Request
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	if wrong := append(d.Origins.Fault("success_url", q.SuccessURL), d.Origins.Fault("cancel_url", q.CancelURL)...); wrong != nil {
		return httpx.Reply{}, fault.Invalid("The addresses are not valid.", wrong...)
	}
	order := billing.Order{Plan: q.Plan, Cycle: q.Cycle, Seats: q.Seats, SuccessURL: q.SuccessURL, CancelURL: q.CancelURL}
	if err := d.Desk.Check(order); err != nil {
		return httpx.Reply{}, err
	}
	request := idempotency.Request{Tenant: p.Tenant, Scope: p.By() + " POST /v1/checkout"}
	if request.Key, err = idempotency.KeyOf(c.Request().Header); err != nil {
		return httpx.Reply{}, err
	}
	if request.Body, err = c.Body(); err != nil {
		return httpx.Reply{}, err
	}
	attempt := request.ID()
	if attempt == uuid.Nil {
		if attempt, err = uuid.NewV7(); err != nil {
			return httpx.Reply{}, err
		}
	}
	if err := d.Desk.Customer(ctx, p.Tenant); err != nil {
		return httpx.Reply{}, err
	}
	var answer idempotency.Answer
	var replayed bool
	err = d.DB.As(ctx, p.Tenant, func(tx tenancy.Tx) (err error) {
		answer, replayed, err = idempotency.Do(ctx, tx, request, func() (int, any, error) {
			made, err := d.Desk.Checkout(ctx, tx, p.Tenant, attempt, order)
			if err != nil {
				return 0, nil, err
			}
			err = audit.Record(ctx, tx, audit.Entry{
				Action: "checkout.started", Actor: p.By(), Credential: "id_token", Address: c.Address(), Subject: "tenant:" + p.Tenant.String(),
				RequestID: c.ID(), Details: map[string]string{"plan": q.Plan, "cycle": q.Cycle},
			})
			return http.StatusCreated, Answer{CheckoutURL: made.URL, ExpiresAt: httpx.At(made.ExpiresAt)}, err
		})
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	reply := httpx.Reply{Status: answer.Status, Body: httpx.Raw(answer.Body)}
	if replayed {
		reply.Header = http.Header{idempotency.ReplayedHeader: {"true"}}
	}
	return reply, nil
}
