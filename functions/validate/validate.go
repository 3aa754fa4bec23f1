// Package validate answers whether a licence key is good for this hardware, product, version and these features.
//
//	POST /v1/validate  {license_key, hardware_id, version, product?, features?, nonce?}
//
//	200  always, when the request is well-formed: every check, not just the first that fails; with a signed receipt when valid
//	422  invalid_request
//	429  rate_limited: too many unknown keys from one address, or too many questions of one holder
//	503  store_unavailable
package validate

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// Deps is what the function works with.
type Deps struct {
	Licenses *license.Directory
	Seats    *seat.Pools
	Receipts *signing.Keys
	Budgets  *budget.Budgets
	Now      func() time.Time
	Log      *slog.Logger
}

// Request is what is asked.
type Request struct {
	LicenseKey string   `json:"license_key" minLength:"1" maxLength:"255"`
	HardwareID string   `json:"hardware_id" minLength:"1" maxLength:"255" doc:"Names the device, the same at every start."`
	Version    string   `json:"version" maxLength:"50" doc:"The application's version, a semantic version such as 2.1.0."`
	Product    string   `json:"product,omitempty" maxLength:"63"`
	Features   []string `json:"features,omitempty" maxItems:"100" doc:"Features that the application wants to use."`
	Nonce      string   `json:"nonce,omitempty" maxLength:"255" doc:"Comes back in the answer and in the receipt."`
}

// License is what the answer tells of the licence.
type License struct {
	ID          uuid.UUID   `json:"id"`
	Product     string      `json:"product"`
	Plan        string      `json:"plan"`
	Status      string      `json:"status" doc:"The effective status."`
	Features    []string    `json:"features"`
	MaxSeats    int         `json:"max_seats"`
	ActiveSeats int         `json:"active_seats"`
	ExpiresAt   *httpx.Time `json:"expires_at"`
	GraceUntil  *httpx.Time `json:"grace_until"`
}

// Answer is the body of a 200.
type Answer struct {
	Valid   bool            `json:"valid"`
	Code    string          `json:"code" doc:"valid, in_grace, or the first failing check's."`
	Checks  []license.Check `json:"checks" doc:"Every check, in order."`
	License *License        `json:"license" doc:"null for an unknown key."`
	Nonce   *string         `json:"nonce"`
	Receipt *string         `json:"receipt" doc:"Signed; present when valid. Proves entitlement offline, and names no seat."`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "validate", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/v1/validate", ID: "validate_license", Tag: "validate",
		Summary:     "Is this key good here?",
		Description: "Answers every check, not just the first that fails, and a signed receipt when all are good. Takes no seat.",
		Credentials: []httpx.Credential{httpx.LicenseKey},
		Body:        Request{},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Answer{}, Description: "What was found, good or bad."}},
		Problems:    []int{http.StatusTooManyRequests},
		Handle:      d.validate,
	}}
}

func (d Deps) validate(c *httpx.Call) (httpx.Reply, error) {
	var q Request
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	facts, err := d.Licenses.Find(c.Context(), q.LicenseKey)
	if errors.Is(err, license.ErrUnknownKey) {
		return d.unknown(c, q)
	}
	if err != nil {
		return httpx.Reply{}, err
	}
	l := &facts.License
	c.Note(slog.String("tenant", l.Tenant.String()), slog.String("license", l.ID.String()))
	if err := d.Budgets.Holder(c.Context(), l.ID, l.MaxSeats+l.OverdraftSeats, "device:"+q.HardwareID); err != nil {
		return httpx.Reply{}, err
	}
	sight, err := d.Seats.Peek(c.Context(), l.Tenant, l.ID)
	if err != nil {
		return httpx.Reply{}, err
	}
	if sight.PoolVersion > l.PoolVersion {
		// The licence was changed after these facts were read.
		if facts, err = d.Licenses.FindAtLeast(c.Context(), q.LicenseKey, sight.PoolVersion); errors.Is(err, license.ErrUnknownKey) {
			return d.unknown(c, q)
		} else if err != nil {
			return httpx.Reply{}, err
		}
		l = &facts.License
	}
	known, devices, err := d.Licenses.Devices(c.Context(), l, q.HardwareID)
	if err != nil {
		return httpx.Reply{}, err
	}
	now := facts.Now(d.Now())
	answer := Answer{
		Nonce: optional(q.Nonce),
		Checks: l.Checks(license.Question{
			Hardware: q.HardwareID, Version: q.Version, Product: q.Product, Features: q.Features, KnownDevice: known, Devices: devices,
		}, now),
		License: &License{
			ID: l.ID, Product: l.Product, Plan: l.Plan, Status: l.EffectiveStatus(now), Features: append([]string{}, l.Features...),
			MaxSeats: l.MaxSeats, ActiveSeats: sight.Counts.Active, ExpiresAt: httpx.AtOrNull(l.ExpiresAt), GraceUntil: httpx.AtOrNull(l.GraceUntil),
		},
	}
	answer.Valid, answer.Code = license.Verdict(answer.Checks)
	if answer.Valid {
		until := now.Add(l.OfflineGrace)
		if end := l.Until(); end != nil && end.Before(until) {
			until = *end
		}
		receipts, err := d.Receipts.Current(c.Context())
		if err != nil {
			return httpx.Reply{}, err
		}
		text, err := receipts.Sign(receipt.Receipt{
			License: l.ID.String(), Product: l.Product, Tenant: l.Tenant.String(), IssuedAt: now, OfflineUntil: until,
			HardwareHash: receipt.HashHardware(q.HardwareID), Plan: l.Plan, Features: l.Features, Versions: l.Versions, Nonce: q.Nonce,
		})
		if err != nil {
			return httpx.Reply{}, err
		}
		answer.Receipt = &text
	}
	c.Note(slog.String("code", answer.Code))
	return httpx.Reply{Body: answer}, nil
}

// unknown answers for a key that opens nothing, after the same look-ups as for one that does.
func (d Deps) unknown(c *httpx.Call, q Request) (httpx.Reply, error) {
	if err := d.Budgets.UnknownKey(c.Context(), c.Address()); err != nil {
		return httpx.Reply{}, err
	}
	if _, err := d.Seats.Peek(c.Context(), tenancy.ID{}, uuid.Nil); err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.String("code", license.CodeNotFound))
	return httpx.Reply{Body: Answer{Code: license.CodeNotFound, Checks: license.UnknownKey(), Nonce: optional(q.Nonce)}}, nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
