package acquire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

// afterwards is how long the remembering of an answer may take when the time of its request is over.
const afterwards = 2 * time.Second

// once takes a seat under an Idempotency-Key: a repetition gets the first answer while that session lives, and a seat of
// its own otherwise. What was not answered with a seat is not remembered.
func (d Deps) once(c *httpx.Call, name string, facts *license.Facts, q *Request, holder seat.Holder) (httpx.Reply, error) {
	ctx, tenant := c.Context(), facts.License.Tenant
	body, err := c.Body()
	if err != nil {
		return httpx.Reply{}, err
	}
	request := idempotency.Request{Tenant: tenant, Scope: "POST /v1/acquire " + facts.License.ID.String(), Key: name, Body: body}
	var claim *idempotency.Claim
	var first *idempotency.Answer
	err = d.DB.As(ctx, tenant, func(tx tenancy.Tx) error {
		claim, first, err = idempotency.Begin(ctx, tx, request)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	if first != nil {
		lives, err := d.renew(c, first)
		if err != nil {
			return httpx.Reply{}, err
		}
		if lives {
			return httpx.Reply{
				Status: first.Status, Body: httpx.Raw(first.Body), Header: http.Header{idempotency.ReplayedHeader: {"true"}},
			}, nil
		}
		err = d.DB.As(ctx, tenant, func(tx tenancy.Tx) error { return claim.Restart(ctx, tx, *first) })
		if err != nil {
			return httpx.Reply{}, err
		}
	}

	reply, failed := d.seat(c, facts, q, holder)
	answer, seated := reply.Body.(Answer)
	// A client that has gone will ask again, and must not find its own first request still in flight.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	err = d.DB.As(ctx, tenant, func(tx tenancy.Tx) error {
		if failed != nil || !seated {
			return claim.Abandon(ctx, tx)
		}
		text, err := idempotency.Encode(answer)
		if err != nil {
			return err
		}
		return claim.Complete(ctx, tx, idempotency.Answer{Status: reply.Status, Body: text, Session: answer.SessionID})
	})
	if failed != nil {
		return httpx.Reply{}, errors.Join(failed, err)
	}
	if err != nil {
		// The seat is held all the same, and a repetition gets it as its holder's own.
		c.Note(slog.String("not_remembered", err.Error()))
	}
	return reply, nil
}

// renew says whether the session of a remembered answer lives, and may be promised for as long again as that answer says, and extends
// its lease: whoever hears the answer again believes for a whole lease from asking again.
func (d Deps) renew(c *httpx.Call, first *idempotency.Answer) (bool, error) {
	var answer struct {
		SessionID uuid.UUID `json:"session_id"`
		SeatToken string    `json:"seat_token"`
		TTL       int64     `json:"ttl_seconds"`
	}
	if err := json.Unmarshal(first.Body, &answer); err != nil {
		return false, fmt.Errorf("read a remembered answer: %w", err)
	}
	claims, err := d.Tokens.Verify(answer.SeatToken)
	if err != nil {
		return false, nil //nolint:nilerr // its key is off the ring: the token is of no use to anybody
	}
	beat, err := d.Seats.Heartbeat(c.Context(), seat.Ref(claims))
	return beat.Alive && beat.TTL >= time.Duration(answer.TTL)*time.Second, err
}
