// Package rotate replaces signing keys: each day the key of receipts, every ninety days the root and the key of seat
// tokens. It is also where a key is revoked, or replaced before its time.
//
//	POST /tasks/rotate                   Authorization: Bearer <OIDC token of the scheduler>; body {} or none
//	POST /v1/signing-keys/{kid}/revoke   {reason}; the operator's API key
//	POST /v1/signing-keys/rotate         {kind}; the operator's API key
//
//	200  what it did, in numbers
//	401  scheduler_token_invalid; api_key_invalid
//	403  forbidden
//	404  not_found: there is no such key
//	503  store_unavailable: what could not be done is done when it is called again; a revocation holds already
//
// What an operator does to a key is in the operator's audit log. A run may be delivered twice, or at once with another, for
// which it waits; and it takes up where one that was cut short stopped.
package rotate

import (
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/rotation"
	"github.com/coditect/usher/shared/tenancy"
)

// deadline is within what the scheduler waits for (60 s).
const deadline = 50 * time.Second

// Deps is what the function works with.
type Deps struct {
	Rotation  *rotation.Rotation
	Keys      *identity.Verifier
	Scheduler *identity.SchedulerVerifier
	Log       *slog.Logger
}

// Answer is the body of a 200.
type Answer struct {
	// Steps is how many steps were done, Done how often each.
	Steps int            `json:"steps"`
	Done  map[string]int `json:"done" doc:"How often each step was done: create_root, make_receipt_key and so on."`
}

// Emergency is the body of a 200 of what an operator asks for.
type Emergency struct {
	Answer
	// KeyIDs are the keys that the call took out of use.
	KeyIDs []string `json:"kids" doc:"The keys that this call took out of use; none when that had been done before."`
}

// RevokeRequest says why.
type RevokeRequest struct {
	Reason string `json:"reason" minLength:"1" maxLength:"500"`
}

// RotateRequest says which keys.
type RotateRequest struct {
	Kind signing.Kind `json:"kind" enum:"root,receipt,mac"`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "rotate", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/tasks/rotate", ID: "rotate", Tag: "rotate",
		Summary:     "Do what is due with signing keys",
		Description: "Called by the scheduler each day, or more often.",
		Credentials: []httpx.Credential{httpx.SchedulerToken},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Answer{}, Description: "What was done."}},
		Timeout:     deadline,
		Handle:      d.rotate,
	}, {
		Method: "POST", Path: "/v1/signing-keys/{kid}/revoke", ID: "revoke_signing_key", Tag: "rotate",
		Summary: "Revoke a signing key",
		Description: "At once and for good: nothing that it signed is believed any more, by whoever has the key set and the revocation list of " +
			"now. With a root go the receipt keys that it certified. The next key signs at once, and what is missing is made.",
		Credentials: []httpx.Credential{httpx.APIKey},
		Body:        RevokeRequest{},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Emergency{}, Description: "It is revoked."}},
		Problems:    []int{http.StatusForbidden, http.StatusNotFound},
		Timeout:     deadline,
		Handle:      d.revoke,
	}, {
		Method: "POST", Path: "/v1/signing-keys/rotate", ID: "rotate_signing_keys", Tag: "rotate",
		Summary:     "Replace the key of a kind now",
		Description: "The key that signs is retired, and the next signs at once. What was signed before stays good.",
		Credentials: []httpx.Credential{httpx.APIKey},
		Body:        RotateRequest{},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Emergency{}, Description: "The next key signs."}},
		Problems:    []int{http.StatusForbidden},
		Timeout:     deadline,
		Handle:      d.replace,
	}}
}

func (d Deps) rotate(c *httpx.Call) (httpx.Reply, error) {
	token, _ := c.Bearer()
	if err := d.Scheduler.Verify(c.Context(), token); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	answer, err := d.run(c)
	return httpx.Reply{Body: answer}, err
}

// run does what is due.
func (d Deps) run(c *httpx.Call) (Answer, error) {
	report, err := d.Rotation.Run(c.Context())
	answer := Answer{Done: map[string]int{}}
	for _, deed := range slices.Sorted(maps.Keys(report.Done)) {
		answer.Done[string(deed)] = report.Done[deed]
		answer.Steps += report.Done[deed]
	}
	c.Note(slog.Any("rotated", answer.Done))
	return answer, err
}

// operator is who asks for an emergency.
func (d Deps) operator(c *httpx.Call) (identity.Principal, error) {
	bearer, ok := c.Bearer()
	if !ok {
		return identity.Principal{}, fault.Unauthenticated("api_key_invalid", "The request needs an API key, sent once as Authorization: Bearer ush_…")
	}
	who, err := d.Keys.APIKey(c.Context(), bearer)
	if err != nil {
		return identity.Principal{}, err
	}
	c.Note(slog.String("api_key", who.APIKey.String()))
	return who, who.Allow(identity.Need{Scope: identity.SigningWrite, Role: identity.Admin, Operator: true})
}

func (d Deps) revoke(c *httpx.Call) (httpx.Reply, error) {
	who, err := d.operator(c)
	if err != nil {
		return httpx.Reply{}, err
	}
	var q RevokeRequest
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	return d.emergency(c, func() ([]string, error) {
		return d.Rotation.Revoke(c.Context(), c.Request().PathValue("kid"), order(c, who, "signing_key.revoked", q.Reason))
	})
}

func (d Deps) replace(c *httpx.Call) (httpx.Reply, error) {
	who, err := d.operator(c)
	if err != nil {
		return httpx.Reply{}, err
	}
	var q RotateRequest
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	return d.emergency(c, func() ([]string, error) {
		return d.Rotation.Retire(c.Context(), q.Kind, order(c, who, "signing_key.retired", ""))
	})
}

// order is what the operator asks for, with an entry in its audit log for each key.
func order(c *httpx.Call, who identity.Principal, action, reason string) rotation.Order {
	return rotation.Order{
		Tenant: who.Tenant, Reason: reason, By: who.By(),
		Record: func(tx tenancy.Tx, kids []string) error {
			for _, kid := range kids {
				e := audit.Entry{
					Action: action, Actor: who.By(), ByOperator: true, Credential: "api_key:" + who.APIKey.String(), Address: c.Address(),
					Subject: "signing_key:" + kid, RequestID: c.ID(),
				}
				if reason != "" {
					e.Details = map[string]string{"reason": reason}
				}
				if err := audit.Record(c.Context(), tx, e); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// emergency takes keys out of use, and does what is due then.
func (d Deps) emergency(c *httpx.Call, takeOut func() ([]string, error)) (httpx.Reply, error) {
	kids, err := takeOut()
	if err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.Any("kids", kids))
	answer, err := d.run(c)
	return httpx.Reply{Body: Emergency{Answer: answer, KeyIDs: append([]string{}, kids...)}}, err
}
