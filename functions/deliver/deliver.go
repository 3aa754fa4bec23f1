// Package deliver sends, each minute, what others have queued: mails to people, and events to the webhooks that want them.
//
//	POST /tasks/deliver   Authorization: Bearer <OIDC token of the scheduler>; body {} or none
//
//	200  what it did, in numbers
//	401  scheduler_token_invalid
//	503  store_unavailable
//
// It may be delivered twice, or at once with itself: nothing is sent twice by that. It begins nothing after 20 s, ends within
// 50 s, and the next run takes up where it stopped. A server that hangs costs its own attempt and nobody else's.
package deliver

import (
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/notify/mail"
	"github.com/coditect/usher/shared/notify/webhook"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
)

const (
	// deadline is within what the scheduler waits for (60 s).
	deadline = 50 * time.Second
	// beginFor is how long a run begins attempts; one takes as long as its own deadline at most.
	beginFor = 20 * time.Second
)

// Deps is what the function works with.
type Deps struct {
	Mails     *mail.Sender
	Webhooks  *webhook.Sender
	Scheduler *identity.SchedulerVerifier
	Log       *slog.Logger
}

// Answer is the body of a 200.
type Answer struct {
	Mails    mail.Report    `json:"mails"`
	Webhooks webhook.Report `json:"webhooks"`
	// Dropped are mails, events and deliveries that were over long enough.
	Dropped int64 `json:"dropped"`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "deliver", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/tasks/deliver", ID: "deliver", Tag: "deliver",
		Summary:     "Send mails and webhooks",
		Description: "Called by the scheduler each minute.",
		Credentials: []httpx.Credential{httpx.SchedulerToken},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Answer{}, Description: "What was sent."}},
		Timeout:     deadline,
		Handle:      d.deliver,
	}}
}

func (d Deps) deliver(c *httpx.Call) (httpx.Reply, error) {
	token, _ := c.Bearer()
	if err := d.Scheduler.Verify(c.Context(), token); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	// The parts do not wait for each other: a mail server that hangs must not keep webhooks from their work.
	until := time.Now().Add(beginFor)
	var answer Answer
	var err1, err2, err3 error
	var parts sync.WaitGroup
	parts.Go(func() { answer.Mails, err1 = d.Mails.Run(c.Context(), until) })
	parts.Go(func() { answer.Webhooks, err2 = d.Webhooks.Run(c.Context(), until) })
	parts.Go(func() { answer.Dropped, err3 = d.Webhooks.Expire(c.Context()) })
	parts.Wait()
	if err := errors.Join(err1, err2, err3); err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.Any("delivered", answer))
	return httpx.Reply{Body: answer}, nil
}
