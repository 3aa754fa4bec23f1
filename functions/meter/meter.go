// Package meter reports to Stripe, each hour, what was used.
//
//	POST /tasks/meter   Authorization: Bearer <OIDC token of the scheduler>; body {} or none
//
//	200  what it did, in numbers
//	401  scheduler_token_invalid
//	503  store_unavailable: PostgreSQL or Stripe does not answer; the next run takes up where this one stopped
//
// One run ends within 50 s. It may be delivered twice, or at once with itself: each unit is billed once (package billing).
package meter

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
)

// deadline is within what the scheduler waits for (60 s).
const deadline = 50 * time.Second

// Deps is what the function works with.
type Deps struct {
	Meter     *billing.Meter
	Scheduler *identity.SchedulerVerifier
	Log       *slog.Logger
}

// Answer is the body of a 200.
type Answer struct{ billing.MeterReport }

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "meter", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/tasks/meter", ID: "meter", Tag: "meter",
		Summary:     "Report to Stripe what was used",
		Description: "Called by the scheduler each hour. Each unit is billed once, however often and wherever a run is ended.",
		Credentials: []httpx.Credential{httpx.SchedulerToken},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Answer{}, Description: "What was done."}},
		Timeout:     deadline,
		Handle:      d.meter,
	}}
}

func (d Deps) meter(c *httpx.Call) (httpx.Reply, error) {
	token, _ := c.Bearer()
	if err := d.Scheduler.Verify(c.Context(), token); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	report, err := d.Meter.Run(c.Context())
	c.Note(slog.Any("metered", report))
	return httpx.Reply{Body: Answer{report}}, err
}
