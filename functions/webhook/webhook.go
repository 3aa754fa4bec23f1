// Package webhook hears from Stripe what became of what is sold.
//
//	POST /v1/stripe/webhook               an event of Stripe's, at most 1 MiB, with its Stripe-Signature
//	POST /v1/stripe/events/{id}/replay    the operator has an event handled again
//
//	200  {result}: done, the event is stored with its effect; duplicate, it was before; ignored, it is about nothing of ours
//	400  signature_invalid: no secret of ours signed it, or not now; livemode_refused; event_refused: it contradicts Stripe
//	401, 403, 404  (replay) not the operator's credential; no such event
//	413  body_too_large
//	503  store_unavailable: PostgreSQL or Stripe cannot answer; Stripe sends the event again
//
// The event is only the trigger: what it is about is fetched from Stripe (package billing).
package webhook

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
)

// Deps is what the function works with. Its databases log in as usher_webhook.
type Deps struct {
	Books   *billing.Books
	Secrets billing.Secrets
	Seats   *seat.Pools
	Keys    *identity.Verifier
	People  *identity.People
	// Now is the clock that signatures are held against.
	Now func() time.Time
	Log *slog.Logger
}

// Answer is the body of a 200.
type Answer struct {
	Result string `json:"result" enum:"done,duplicate,ignored" doc:"done: stored with its effect. duplicate: it was before. ignored: about nothing of ours."`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "webhook", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/v1/stripe/webhook", ID: "receive_stripe_event", Tag: "webhook",
		Summary:     "Take in an event of Stripe's",
		Description: "For Stripe, which signs what it sends in the header Stripe-Signature. May be repeated.",
		Body:        httpx.Object{}, BodyLimit: billing.EventLimit,
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Answer{}}},
		Handle:  d.receive,
	}, {
		Method: "POST", Path: "/v1/stripe/events/{id}/replay", ID: "replay_stripe_event", Tag: "webhook",
		Summary:     "Have an event of Stripe's handled again",
		Description: "What it is about is fetched from Stripe and applied, whatever became of the event before.",
		Credentials: []httpx.Credential{httpx.APIKey, httpx.IDToken}, OperatorOnly: true,
		Needs:    map[httpx.Credential]string{httpx.APIKey: string(identity.LicensesWrite), httpx.IDToken: string(identity.Admin)},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: Answer{}}},
		Problems: []int{http.StatusForbidden},
		Handle:   d.replay,
	}}
}

func (d Deps) receive(c *httpx.Call) (httpx.Reply, error) {
	// The body is read as it was sent, and nothing is made of it before its signature is good.
	body, err := c.Body()
	if f := fault.As(err); f != nil && f.Kind != fault.KindTooLarge {
		return httpx.Reply{}, billing.ErrSignature.Because(err) // Stripe signs JSON alone
	} else if err != nil {
		return httpx.Reply{}, err
	}
	headers := c.Request().Header["Stripe-Signature"]
	if len(headers) != 1 {
		return httpx.Reply{}, billing.ErrSignature
	}
	if err := d.Secrets.Verify(body, headers[0], d.Now()); err != nil {
		return httpx.Reply{}, err
	}
	e, err := billing.ParseEvent(body)
	if err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.String("event", e.ID), slog.String("type", e.Type))
	out, err := d.Books.Receive(c.Context(), e)
	return d.answer(c, out, err)
}

func (d Deps) replay(c *httpx.Call) (httpx.Reply, error) {
	bearer, ok := c.Bearer()
	if !ok {
		return httpx.Reply{}, fault.Unauthenticated("api_key_invalid", "The request needs an API key or an ID token, sent once as Authorization: Bearer …")
	}
	p, err := d.principal(c, bearer)
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := p.Allow(identity.Need{Scope: identity.LicensesWrite, Role: identity.Admin, Operator: true}); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.String("event", c.PathValue("id")), slog.String("by", p.By()))
	out, err := d.Books.Replay(c.Context(), c.PathValue("id"))
	return d.answer(c, out, err)
}

func (d Deps) principal(c *httpx.Call, bearer string) (identity.Principal, error) {
	if !identity.IsIDToken(bearer) {
		return d.Keys.APIKey(c.Context(), bearer)
	}
	_, p, err := d.People.SignIn(c.Context(), bearer)
	return p, err
}

// answer tells the pools of what was done, and Stripe or the operator. A fault of ours is answered as one that passes:
// Stripe sends the event again, and meanwhile it stands in the ledger as failed.
func (d Deps) answer(c *httpx.Call, out billing.Outcome, err error) (httpx.Reply, error) {
	if err != nil {
		if fault.As(err) == nil {
			err = fault.Unavailable(err)
		}
		return httpx.Reply{}, err
	}
	if out.Result != billing.Ignored {
		c.Note(slog.String("tenant", out.Tenant.String()))
	}
	for _, l := range out.Licenses {
		if err := d.Seats.Changed(c.Context(), out.Tenant, l); err != nil {
			// It is committed, and the sweep tells the pool again.
			d.Log.WarnContext(c.Context(), "seat pool not told of a change yet", slog.String("license", l.String()), slog.Any("error", err))
		}
	}
	c.Note(slog.String("result", out.Result))
	return httpx.Reply{Body: Answer{Result: out.Result}}, nil
}
