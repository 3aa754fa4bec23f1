// Package subscription shows an owner what the organisation subscribes to, and changes it.
//
//	GET  /v1/subscription           the subscription that lives, else the one that ended last
//	POST /v1/subscription/seats     {seats}: more at once, for money; fewer from the next period on
//	POST /v1/subscription/cancel    {cancel_type, reason?, feedback?, accept_offer?}: with the period, or at once; or, instead of
//	                                either, a discount that was offered to whoever cancels, once
//	POST /v1/subscription/resume    takes a cancellation back, until it has come true
//	POST /v1/subscription/portal    {return_url?} → {url}: invoices and payment method, at Stripe
//
//	200  the subscription, as Stripe says then
//	401  id_token_missing, id_token_…
//	403  forbidden: not an owner; membership_…, tenant_suspended
//	404  not_found: there is no subscription
//	409  subscription_ended; no_offer: none is made, or it was taken before; payment_failed: the further seats could not be paid, and nothing has changed
//	422  invalid_request
//	503  store_unavailable: PostgreSQL or Stripe cannot answer; who cancels at once: or Stripe has not taken in yet what was used
//
// Each verb may be sent again: it asks Stripe for a state, and takes in what Stripe says then, as function webhook does.
package subscription

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

// Deps is what the function works with.
type Deps struct {
	// DB logs in as usher_subscription, as do the databases of the others.
	DB     *tenancy.DB
	People *identity.People
	Desk   *billing.Desk
	Books  *billing.Books
	Meter  *billing.Meter
	Seats  *seat.Pools
	// Origins are the sites to which a person may be sent back; the first is where they go when nobody says.
	Origins billing.Origins
	Log     *slog.Logger
}

// Subscription is what the organisation pays for, as Stripe said when it was last asked.
type Subscription struct {
	ID                 string      `json:"id" doc:"Stripe's own."`
	LicenseID          *uuid.UUID  `json:"license_id" doc:"The licence that was made for it; null until something was paid."`
	Status             string      `json:"status" enum:"incomplete,incomplete_expired,trialing,active,past_due,canceled,unpaid,paused" doc:"Stripe's."`
	Plan               string      `json:"plan"`
	Cycle              string      `json:"cycle" enum:"monthly,annual"`
	Seats              int         `json:"seats" doc:"Until the end of this period."`
	NextSeats          int         `json:"next_seats" doc:"From the next period on."`
	CurrentPeriodStart httpx.Time  `json:"current_period_start"`
	CurrentPeriodEnd   httpx.Time  `json:"current_period_end"`
	PaidThrough        *httpx.Time `json:"paid_through" doc:"The end of the newest period that is paid."`
	GraceUntil         *httpx.Time `json:"grace_until" doc:"How long the licence goes on beyond that, as things stand."`
	Trouble            *string     `json:"trouble" doc:"payment_failed, payment_refunded, payment_disputed or subscription_paused; null for none."`
	CancelAtPeriodEnd  bool        `json:"cancel_at_period_end"`
	CanceledAt         *httpx.Time `json:"canceled_at" doc:"When somebody cancelled it."`
	EndedAt            *httpx.Time `json:"ended_at"`
	CancelReason       *string     `json:"cancel_reason"`
	CancelFeedback     *string     `json:"cancel_feedback"`
	Offer              *Offer      `json:"offer,omitempty" doc:"Only in the answer to a cancellation: what is offered to who stays. Cancel again with accept_offer to take it."`
}

// Offer is a discount for who stays.
type Offer struct {
	PercentOff float64 `json:"percent_off,omitempty"`
	AmountOff  int64   `json:"amount_off,omitempty" doc:"In minor units of the currency."`
	Currency   string  `json:"currency,omitempty"`
	Duration   string  `json:"duration" enum:"forever,once,repeating"`
	Months     int64   `json:"months,omitempty" doc:"How many, when it repeats."`
}

// SeatsRequest asks for a number of seats.
type SeatsRequest struct {
	Seats int `json:"seats" minimum:"1" maximum:"100000"`
}

// CancelRequest cancels.
type CancelRequest struct {
	CancelType  string `json:"cancel_type,omitempty" enum:"at_period_end,immediate" doc:"at_period_end when left out."`
	Reason      string `json:"reason,omitempty" maxLength:"500"`
	Feedback    string `json:"feedback,omitempty" maxLength:"2000"`
	AcceptOffer bool   `json:"accept_offer,omitempty" doc:"Take the offer and stay: nothing is cancelled, and a cancellation that has not come true is taken back."`
}

// PortalRequest says where a person comes back to.
type PortalRequest struct {
	ReturnURL string `json:"return_url,omitempty" maxLength:"2000" doc:"A site of this service's."`
}

// PortalAnswer is where the person goes.
type PortalAnswer struct {
	URL string `json:"url"`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "subscription", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	route := func(r httpx.Route, handle func(*httpx.Call, identity.Principal) (httpx.Reply, error)) httpx.Route {
		r.Tag = "subscription"
		r.Credentials = []httpx.Credential{httpx.IDToken}
		r.Needs = map[httpx.Credential]string{httpx.IDToken: string(identity.Owner)}
		r.Problems = append(r.Problems, http.StatusForbidden, http.StatusNotFound)
		r.Handle = func(c *httpx.Call) (httpx.Reply, error) {
			p, err := d.owner(c)
			if err != nil {
				return httpx.Reply{}, err
			}
			if err := c.DecodeQuery(nil); err != nil {
				return httpx.Reply{}, err
			}
			return handle(c, p)
		}
		return r
	}
	one := []httpx.Doc{{Status: http.StatusOK, Body: Subscription{}}}
	conflict := []int{http.StatusConflict}
	return []httpx.Route{
		route(httpx.Route{
			Method: "GET", Path: "/v1/subscription", ID: "show_subscription", Summary: "Show the subscription",
			Description: "The one that lives, else the one that ended last.", Replies: one,
		}, d.show),
		route(httpx.Route{
			Method: "POST", Path: "/v1/subscription/seats", ID: "change_subscription_seats", Summary: "Change the number of seats",
			Description: "More are there at once, and paid at once for the rest of the period. Fewer hold from the next period on; sessions above them drain then.",
			Body:        SeatsRequest{}, Replies: one, Problems: conflict,
		}, d.seats),
		route(httpx.Route{
			Method: "POST", Path: "/v1/subscription/cancel", ID: "cancel_subscription", Summary: "Cancel the subscription",
			Description: "With the period, or at once. At once, what was used until then is billed first: while Stripe has not taken it in the answer is 503, and nothing is cancelled.",
			Body:        CancelRequest{}, BodyOptional: true, Replies: one, Problems: conflict, Timeout: cancelling,
		}, d.cancel),
		route(httpx.Route{
			Method: "POST", Path: "/v1/subscription/resume", ID: "resume_subscription", Summary: "Take a cancellation back",
			Description: "Until the period ends. One that was not cancelled stays as it is.", Replies: one, Problems: conflict,
		}, d.resume),
		route(httpx.Route{
			Method: "POST", Path: "/v1/subscription/portal", ID: "open_subscription_portal", Summary: "Open the portal",
			Description: "A page of Stripe's with the invoices, at which the payment method is changed.",
			Body:        PortalRequest{}, BodyOptional: true, Replies: []httpx.Doc{{Status: http.StatusOK, Body: PortalAnswer{}}},
		}, d.portal),
	}
}

// owner decides 401 and 403.
func (d Deps) owner(c *httpx.Call) (identity.Principal, error) {
	bearer, _ := c.Bearer()
	_, p, err := d.People.SignIn(c.Context(), bearer)
	if err != nil {
		return identity.Principal{}, err
	}
	c.Note(slog.String("tenant", p.Tenant.String()), slog.String("user", p.User.String()))
	return p, p.Allow(identity.Need{Role: identity.Owner})
}

// current reads the subscription, and the database's clock.
func (d Deps) current(c *httpx.Call, p identity.Principal) (s billing.Subscribed, err error) {
	err = d.DB.AsReadOnly(c.Context(), p.Tenant, func(tx tenancy.Tx) error {
		s, err = billing.Current(c.Context(), tx, p.Tenant)
		return err
	})
	return s, err
}

// cancelling is how long a cancellation may take: what was used is told before.
const cancelling = 20 * time.Second

var errEnded = fault.Conflict("subscription_ended", "The subscription has ended. Subscribe anew at the checkout.")

func (d Deps) show(c *httpx.Call, p identity.Principal) (httpx.Reply, error) {
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	s, err := d.current(c, p)
	return httpx.Reply{Body: shown(s)}, err
}

func (d Deps) seats(c *httpx.Call, p identity.Principal) (httpx.Reply, error) {
	s, err := d.current(c, p)
	if err != nil {
		return httpx.Reply{}, err
	}
	var q SeatsRequest
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	if err := d.Desk.Check(billing.Order{Plan: s.Plan, Cycle: s.Cycle, Seats: q.Seats}); err != nil {
		return httpx.Reply{}, err
	}
	if !s.Live() {
		return httpx.Reply{}, errEnded
	}
	if err := d.Desk.Seats(c.Context(), s, q.Seats); err != nil {
		return httpx.Reply{}, err
	}
	return d.settled(c, p, s.ID, nil)
}

func (d Deps) cancel(c *httpx.Call, p identity.Principal) (httpx.Reply, error) {
	s, err := d.current(c, p)
	if err != nil {
		return httpx.Reply{}, err
	}
	var q CancelRequest
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	if !s.Live() {
		return httpx.Reply{}, errEnded
	}
	if q.AcceptOffer {
		return d.stay(c, p, s.ID)
	}
	if q.CancelType == "immediate" {
		// The last invoice is made with it.
		if err := d.Meter.Close(c.Context(), p.Tenant, s.ID); err != nil {
			return httpx.Reply{}, err
		}
	}
	if err := d.Desk.Cancel(c.Context(), s.ID, q.CancelType == "immediate"); err != nil {
		return httpx.Reply{}, err
	}
	reply, err := d.settled(c, p, s.ID, func(tx tenancy.Tx) error {
		if err := billing.KeepReason(c.Context(), tx, p.Tenant, s.ID, q.Reason, q.Feedback); err != nil {
			return err
		}
		return d.record(c, tx, p, "subscription.cancelled", s.ID)
	})
	if err != nil || q.CancelType == "immediate" {
		return reply, err
	}
	// It is cancelled, whatever becomes of the offer.
	offer, offered, err := d.Desk.Offer(c.Context(), p.Tenant)
	if err != nil {
		d.Log.WarnContext(c.Context(), "no offer could be made to who cancels", slog.Any("error", err))
	} else if offered {
		body := reply.Body.(Subscription)
		body.Offer = &Offer{PercentOff: offer.PercentOff, AmountOff: offer.AmountOff, Currency: offer.Currency, Duration: offer.Duration, Months: offer.Months}
		reply.Body = body
	}
	return reply, nil
}

// stay takes the offer.
func (d Deps) stay(c *httpx.Call, p identity.Principal, id string) (httpx.Reply, error) {
	err := d.DB.As(c.Context(), p.Tenant, func(tx tenancy.Tx) error {
		if err := d.Desk.TakeOffer(c.Context(), tx, p.Tenant, id); err != nil {
			return err
		}
		return d.record(c, tx, p, "subscription.offer_taken", id)
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return d.settled(c, p, id, func(tx tenancy.Tx) error {
		return billing.KeepReason(c.Context(), tx, p.Tenant, id, "", "")
	})
}

func (d Deps) resume(c *httpx.Call, p identity.Principal) (httpx.Reply, error) {
	s, err := d.current(c, p)
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	if !s.Live() {
		return httpx.Reply{}, errEnded
	}
	if err := d.Desk.Resume(c.Context(), s.ID); err != nil {
		return httpx.Reply{}, err
	}
	return d.settled(c, p, s.ID, func(tx tenancy.Tx) error {
		if err := billing.KeepReason(c.Context(), tx, p.Tenant, s.ID, "", ""); err != nil {
			return err
		}
		return d.record(c, tx, p, "subscription.resumed", s.ID)
	})
}

func (d Deps) portal(c *httpx.Call, p identity.Principal) (httpx.Reply, error) {
	var q PortalRequest
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	if q.ReturnURL == "" {
		q.ReturnURL = d.Origins[0]
	} else if wrong := d.Origins.Fault("return_url", q.ReturnURL); wrong != nil {
		return httpx.Reply{}, fault.Invalid("The address is not valid.", wrong...)
	}
	url, err := d.Desk.Portal(c.Context(), p.Tenant, q.ReturnURL)
	return httpx.Reply{Body: PortalAnswer{URL: url}}, err
}

// settled takes in what Stripe says now, does what else belongs to it, tells the licence's pool, and answers.
func (d Deps) settled(c *httpx.Call, p identity.Principal, id string, also func(tenancy.Tx) error) (httpx.Reply, error) {
	sold, err := d.Books.Settle(c.Context(), p.Tenant, id, "asked by "+p.By()+", request "+c.ID())
	if err != nil {
		return httpx.Reply{}, err
	}
	if sold != uuid.Nil {
		if err := d.Seats.Changed(c.Context(), p.Tenant, sold); err != nil {
			// It is committed, and the sweep tells the pool again.
			d.Log.WarnContext(c.Context(), "seat pool not told of a change yet", slog.String("license", sold.String()), slog.Any("error", err))
		}
	}
	if also != nil {
		if err := d.DB.As(c.Context(), p.Tenant, also); err != nil {
			return httpx.Reply{}, err
		}
	}
	s, err := d.current(c, p)
	return httpx.Reply{Body: shown(s)}, err
}

func (d Deps) record(c *httpx.Call, tx tenancy.Tx, p identity.Principal, action, id string) error {
	return audit.Record(c.Context(), tx, audit.Entry{
		Action: action, Actor: p.By(), ByOperator: p.Operator, Credential: "id_token", Address: c.Address(), Subject: "subscription:" + id, RequestID: c.ID(),
	})
}

func shown(s billing.Subscribed) Subscription {
	date := httpx.AtOrNull
	return Subscription{
		ID: s.ID, LicenseID: s.License, Status: s.Status, Plan: s.Plan, Cycle: s.Cycle, Seats: s.Seats, NextSeats: s.NextSeats,
		CurrentPeriodStart: httpx.At(s.PeriodStart), CurrentPeriodEnd: httpx.At(s.PeriodEnd), PaidThrough: date(s.PaidThrough),
		GraceUntil: date(s.GraceUntil), Trouble: s.Trouble, CancelAtPeriodEnd: s.CancelAtPeriodEnd, CanceledAt: date(s.CanceledAt),
		EndedAt: date(s.EndedAt), CancelReason: s.CancelReason, CancelFeedback: s.CancelFeedback,
	}
}
