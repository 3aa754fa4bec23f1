// Package sweep tidies up, each minute: it marks lapsed sessions ended, tells pools what they were not told, and repairs
// what the two stores disagree on. Correctness never depends on it.
//
//	POST /tasks/sweep   Authorization: Bearer <OIDC token of the scheduler>; body {} or none
//
//	200  what it did, in numbers
//	401  scheduler_token_invalid
//	503  store_unavailable
//
// One run ends within 50 s and the next takes up where it stopped. It may be delivered twice, or at once with itself.
package sweep

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

// deadline is within what the scheduler waits for (60 s).
const deadline = 50 * time.Second

// Deps is what the function works with.
type Deps struct {
	Seats     *seat.Pools
	DB        *tenancy.DB
	Scheduler *identity.SchedulerVerifier
	Log       *slog.Logger
}

// Answer is the body of a 200.
type Answer struct {
	seat.Report
	// MonthsMade are the partitions of the session history and of the audit log that were made ahead.
	MonthsMade int `json:"months_made"`
	// ExpiredIdempotencyKeys were forgotten.
	ExpiredIdempotencyKeys int64 `json:"expired_idempotency_keys"`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "sweep", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/tasks/sweep", ID: "sweep", Tag: "sweep",
		Summary:     "Tidy up after sessions that ended",
		Description: "Called by the scheduler each minute. Seats whose lease ran out are free without it.",
		Credentials: []httpx.Credential{httpx.SchedulerToken},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Answer{}, Description: "What was done."}},
		Timeout:     deadline,
		Handle:      d.sweep,
	}}
}

func (d Deps) sweep(c *httpx.Call) (httpx.Reply, error) {
	token, _ := c.Bearer()
	if err := d.Scheduler.Verify(c.Context(), token); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	// The parts do not need each other: one that fails must not keep the others from their work.
	var answer Answer
	var err1, err2, err3 error
	answer.MonthsMade, err1 = d.Seats.MakeHistory(c.Context())
	months, err4 := audit.MakePartitions(c.Context(), d.DB)
	answer.MonthsMade += months
	answer.Report, err2 = d.Seats.Sweep(c.Context())
	answer.ExpiredIdempotencyKeys, err3 = idempotency.Expire(c.Context(), d.DB)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.Any("swept", answer))
	return httpx.Reply{Body: answer}, nil
}
