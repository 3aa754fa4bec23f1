// Package trial lets an organisation try a product: 14 days of its trial tier, without a card.
//
//	POST /v1/trial   {product, hardware_id}, with the ID token of an owner or admin, whose e-mail address is verified
//
//	201  {license, license_key}; the key is shown this once
//	401  id_token_missing, id_token_…
//	403  email_not_verified, forbidden: neither owner nor admin; membership_…, tenant_suspended
//	404  not_found: the product has no trial tier
//	409  trial_already_used: by the organisation, the address or the device; idempotency_in_flight
//	422  invalid_request, idempotency_key_reused
//	503  store_unavailable: PostgreSQL, or the issuer of the token, cannot answer
//
// Function expire reminds its owners and lets it fall to the free tier; a subscription takes it over (package billing).
package trial

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/receipt"
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
	// DB logs in as usher_trial.
	DB       *tenancy.DB
	People   *identity.People
	Registry *license.Registry
	Log      *slog.Logger
}

// Request says what is to be tried, and where.
type Request struct {
	Product    string `json:"product" minLength:"1" maxLength:"63"`
	HardwareID string `json:"hardware_id" minLength:"1" maxLength:"255" doc:"The device on which it is tried. The licence is not bound to it."`
}

// Answer is the body of a 201.
type Answer struct {
	License    License `json:"license"`
	LicenseKey string  `json:"license_key" doc:"Shown this once."`
}

// License is the licence of a trial; function admin shows more of it.
type License struct {
	ID              uuid.UUID  `json:"id"`
	TenantID        uuid.UUID  `json:"tenant_id"`
	Product         string     `json:"product"`
	Plan            string     `json:"plan"`
	Status          string     `json:"status" enum:"active"`
	EffectiveStatus string     `json:"effective_status" enum:"trialing"`
	OnTrial         bool       `json:"on_trial"`
	MaxSeats        int        `json:"max_seats"`
	OverdraftSeats  int        `json:"overdraft_seats"`
	ActiveSeats     int        `json:"active_seats" doc:"None yet."`
	TTLSeconds      int64      `json:"ttl_seconds"`
	SeatPer         string     `json:"seat_per" enum:"device,user,instance"`
	Features        []string   `json:"features"`
	Versions        string     `json:"versions"`
	MaxDevices      *int       `json:"max_devices" doc:"Null: no limit."`
	ExpiresAt       httpx.Time `json:"expires_at" doc:"When the trial ends: in 14 days."`
	KeyHint         string     `json:"key_hint"`
	CreatedAt       httpx.Time `json:"created_at"`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "trial", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/v1/trial", ID: "start_trial", Tag: "trial",
		Summary:     "Try a product",
		Description: "Makes a licence of the product's trial tier for 14 days, without a card: once for each organisation, each verified e-mail address and each device. Then it falls to the free tier.",
		Credentials: []httpx.Credential{httpx.IDToken},
		Needs:       map[httpx.Credential]string{httpx.IDToken: string(identity.Admin)},
		Body:        Request{}, Idempotent: true,
		Replies:  []httpx.Doc{{Status: http.StatusCreated, Body: Answer{}}},
		Problems: []int{http.StatusForbidden, http.StatusNotFound, http.StatusConflict},
		Handle:   d.start,
	}}
}

func (d Deps) start(c *httpx.Call) (httpx.Reply, error) {
	ctx := c.Context()
	bearer, _ := c.Bearer()
	who, p, err := d.People.SignIn(ctx, bearer)
	if err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.String("tenant", p.Tenant.String()), slog.String("user", p.User.String()))
	if err := p.Allow(identity.Need{Role: identity.Admin}); err != nil {
		return httpx.Reply{}, err
	}
	if p.Operator {
		return httpx.Reply{}, fault.Forbidden("forbidden", "The operator tries nothing of its own.")
	}
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	var q Request
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	request := idempotency.Request{Tenant: p.Tenant, Scope: p.By() + " POST /v1/trial"}
	if request.Key, err = idempotency.KeyOf(c.Request().Header); err != nil {
		return httpx.Reply{}, err
	}
	if request.Body, err = c.Body(); err != nil {
		return httpx.Reply{}, err
	}
	var answer idempotency.Answer
	var replayed bool
	err = d.DB.As(ctx, p.Tenant, func(tx tenancy.Tx) (err error) {
		answer, replayed, err = idempotency.Do(ctx, tx, request, func() (int, any, error) {
			made, err := d.make(c, tx, p, who.Email, q)
			return http.StatusCreated, made, err
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

func (d Deps) make(c *httpx.Call, tx tenancy.Tx, p identity.Principal, email string, q Request) (Answer, error) {
	ctx := c.Context()
	l, key, err := d.Registry.StartTrial(ctx, tx, p.Tenant, q.Product, email, q.HardwareID)
	if err != nil {
		return Answer{}, err
	}
	subject := "license:" + l.ID.String()
	for _, typ := range []string{"trial.started", "license.created"} {
		if err := notify.Event(ctx, tx, typ, subject, l.Snapshot(l.CreatedAt)); err != nil {
			return Answer{}, err
		}
	}
	err = audit.Record(ctx, tx, audit.Entry{
		Action: "trial.started", Actor: p.By(), Credential: "id_token", Address: c.Address(), Subject: subject,
		RequestID: c.ID(), Details: map[string]string{"plan": l.Plan, "hardware_id": receipt.HashHardware(q.HardwareID)},
	})
	made := License{
		ID: l.ID, TenantID: l.Tenant.UUID(), Product: l.Product, Plan: l.Plan, Status: l.Status, EffectiveStatus: l.EffectiveStatus(l.CreatedAt),
		OnTrial: l.OnTrial, MaxSeats: l.MaxSeats, OverdraftSeats: l.OverdraftSeats, TTLSeconds: int64(l.TTL / time.Second), SeatPer: l.SeatPer,
		Features: l.Features, Versions: l.Versions, ExpiresAt: httpx.At(*l.ExpiresAt), KeyHint: l.KeyHint, CreatedAt: httpx.At(l.CreatedAt),
	}
	if l.MaxDevices > 0 {
		made.MaxDevices = &l.MaxDevices
	}
	return Answer{License: made, LicenseKey: key.Reveal()}, err
}
