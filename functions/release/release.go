// Package release gives a seat back at once, or a waiter's place in the queue.
//
//	POST /v1/release   Authorization: Bearer <seat token>; body {} or none
//	POST /v1/release   {license_key, hardware_id, user?, instance_id?} of a waiter
//
//	200  how the session ended: by this call, or before and otherwise; never somebody else's
//	401  seat_token_invalid
//	404  license_not_found
//	422  invalid_request
//	429  rate_limited
//	503  store_unavailable: the seat may be free already; send the same request again
package release

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
)

// Deps is what the function works with.
type Deps struct {
	Licenses *license.Directory
	Seats    *seat.Pools
	Tokens   *signing.Tokens
	Budgets  *budget.Budgets
	Log      *slog.Logger
}

// Request names a waiter, who may send what it acquired with. With a seat token it is left out.
type Request struct {
	LicenseKey string       `json:"license_key,omitempty" maxLength:"255"`
	HardwareID string       `json:"hardware_id,omitempty" maxLength:"255"`
	User       string       `json:"user,omitempty" maxLength:"255"`
	InstanceID string       `json:"instance_id,omitempty" maxLength:"255"`
	Version    string       `json:"version,omitempty" maxLength:"50" doc:"Not looked at."`
	Product    string       `json:"product,omitempty" maxLength:"63" doc:"Not looked at."`
	Hostname   string       `json:"hostname,omitempty" maxLength:"255" doc:"Not looked at."`
	Metadata   httpx.Object `json:"metadata,omitempty" maxProperties:"50" doc:"Not looked at."`
	Wait       bool         `json:"wait,omitempty" doc:"Not looked at."`
}

// Answer is the body of a 200.
type Answer struct {
	SessionID *uuid.UUID  `json:"session_id" doc:"null for a waiter, who has none."`
	Status    string      `json:"status" enum:"released,lapsed,evicted,left_queue" doc:"How it ended."`
	EndedAt   *httpx.Time `json:"ended_at" doc:"null when that is not known any more."`
	EndReason string      `json:"end_reason"`
	EndedBy   *string     `json:"ended_by" doc:"null when nobody did: the lease ran out."`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "release", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/v1/release", ID: "release_seat", Tag: "release",
		Summary:     "Give a seat back",
		Description: "Frees the seat of the session that the seat token names; again, or after it ended otherwise, answers how it ended. Without a token, gives up a waiter's place in the queue.",
		Credentials: []httpx.Credential{httpx.SeatToken, httpx.LicenseKey},
		Body:        Request{}, BodyOptional: true,
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: Answer{}, Description: "How the session ended."}},
		Problems: []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusTooManyRequests},
		Handle:   d.release,
	}}
}

func (d Deps) release(c *httpx.Call) (httpx.Reply, error) {
	token, ok := c.Bearer()
	if !ok && c.Request().Header.Get("Authorization") == "" {
		// A waiter has no token: its credential is in the body.
		body, err := c.Body()
		if err != nil {
			return httpx.Reply{}, err
		}
		if body != nil && !license.KeyCanBe(c.Peek("license_key")) {
			if err := c.Decode(&Request{}); err != nil {
				return httpx.Reply{}, err
			}
		} else if body != nil {
			return d.leave(c)
		}
	}
	claims, err := d.Tokens.Verify(token)
	if err != nil {
		return httpx.Reply{}, fault.Unauthenticated("seat_token_invalid", "The seat token is missing or not valid.").Because(err)
	}
	c.Note(slog.String("tenant", claims.Tenant.String()), slog.String("license", claims.License.String()), slog.String("session", claims.Session.String()))
	if err := c.Decode(&Request{}); err != nil {
		return httpx.Reply{}, err
	}
	ending, err := d.Seats.Release(c.Context(), seat.Ref(claims))
	if err != nil {
		return httpx.Reply{}, err
	}
	answer := Answer{SessionID: &claims.Session, Status: ending.Status, EndReason: ending.Reason}
	if !ending.At.IsZero() {
		answer.EndedAt = httpx.AtOrNull(&ending.At)
	}
	if ending.By != "" {
		answer.EndedBy = &ending.By
	}
	return httpx.Reply{Body: answer}, nil
}

// leave gives up a waiter's place. It says the same whether there was one: the outcome is that there is none.
func (d Deps) leave(c *httpx.Call) (httpx.Reply, error) {
	facts, err := d.Licenses.Find(c.Context(), c.Peek("license_key"))
	if errors.Is(err, license.ErrUnknownKey) {
		if err := d.Budgets.UnknownKey(c.Context(), c.Address()); err != nil {
			return httpx.Reply{}, err
		}
		return httpx.Reply{}, fault.NotFound("license_not_found", "There is no licence with this key.")
	}
	if err != nil {
		return httpx.Reply{}, err
	}
	l := &facts.License
	c.Note(slog.String("tenant", l.Tenant.String()), slog.String("license", l.ID.String()))
	var q Request
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	if q.HardwareID == "" {
		return httpx.Reply{}, fault.Invalid("A waiter is named as it acquired.", fault.Field{
			Field: "hardware_id", Code: "required", Detail: "Send the hardware_id that the place was asked with.",
		})
	}
	holder, err := l.HolderKey(q.HardwareID, q.User, q.InstanceID)
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := d.Budgets.Holder(c.Context(), l.ID, l.MaxSeats+l.OverdraftSeats, holder); err != nil {
		return httpx.Reply{}, err
	}
	if _, err := d.Seats.Leave(c.Context(), l.Tenant, l.ID, holder); err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: Answer{Status: "left_queue", EndReason: "left_queue"}}, nil
}
