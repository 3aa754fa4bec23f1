package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/coditect/usher/functions/all/local"
)

// client is one installation of the application, on a device of its own. It is honest: it works only while it believes
// in its seat.
type client struct {
	stage *stage
	name  string
	api   local.API
	key   string
	lease time.Duration
	// patient clients take a place in the queue; the others are refused and come back later.
	patient bool
	// crashAfter is when this client crashes, from the start of its life; zero is never.
	crashAfter time.Duration
}

// seated is what a client needs of the answers that keep it seated.
type seated struct {
	SeatToken             string `json:"seat_token"`
	SeatNo                int    `json:"seat_no"`
	TTLSeconds            int    `json:"ttl_seconds"`
	HeartbeatAfterSeconds int    `json:"heartbeat_after_seconds"`
	Position              int    `json:"position"`
	PollAfterSeconds      int    `json:"poll_after_seconds"`

	believes time.Time // until when
}

func (s *seated) ttl() time.Duration { return time.Duration(s.TTLSeconds) * time.Second }

// live comes and goes until the demo is over, or it crashes.
func (c *client) live(ctx context.Context) {
	crash := time.Now().Add(c.crashAfter)
	for {
		seat, ok := c.takeSeat(ctx)
		if !ok {
			c.leave()
			return
		}
		leaves := time.Now().Add(c.lease + time.Duration(rand.Int64N(int64(2*c.lease)))) //nolint:gosec // no secret
		if c.crashAfter > 0 {
			leaves = crash
		}
		lost := c.keepSeat(ctx, seat, leaves)
		switch {
		case c.crashAfter > 0 && ctx.Err() == nil && !lost:
			c.stage.crashes(c.name)
			return // without a word: nobody is told
		case !lost:
			c.giveBack(seat)
		}
		c.stage.rests(c.name)
		if !pause(ctx, c.lease/4+time.Duration(rand.Int64N(int64(c.lease)))) { //nolint:gosec // no secret
			return
		}
	}
}

// takeSeat asks until it has a seat; not ok when the demo is over first.
func (c *client) takeSeat(ctx context.Context) (seated, bool) {
	question := map[string]any{"license_key": c.key, "hardware_id": c.name, "version": "1.0.0", "wait": c.patient}
	for ctx.Err() == nil {
		var answer seated
		sent := time.Now()
		status, err := c.api.Call(ctx, http.MethodPost, "/v1/acquire", question, &answer)
		var refusal *local.Refusal
		again := time.Second
		switch {
		case errors.As(err, &refusal):
			again = max(again, time.Duration(refusal.RetryAfterSeconds)*time.Second)
			c.stage.refuses(c.name, refusal.Code, again)
		case err != nil: // the service is out, or the demo is over
		case status == http.StatusAccepted:
			again = time.Duration(answer.PollAfterSeconds) * time.Second
			c.stage.waits(c.name, answer.Position)
		default:
			answer.believes = sent.Add(answer.ttl())
			c.stage.sits(c.name, answer.SeatNo, answer.believes)
			return answer, true
		}
		pause(ctx, again)
	}
	return seated{}, false
}

// keepSeat beats until the client has done its work, and says whether it lost its seat meanwhile.
func (c *client) keepSeat(ctx context.Context, seat seated, until time.Time) (lost bool) {
	believes := seat.believes
	after := time.Duration(seat.HeartbeatAfterSeconds) * time.Second
	for {
		if !pause(ctx, min(after, time.Until(until))) || !time.Now().Before(until) {
			return false
		}
		var answer seated
		sent := time.Now()
		_, err := c.api.As(seat.SeatToken).Call(ctx, http.MethodPost, "/v1/heartbeat", nil, &answer)
		var refusal *local.Refusal
		switch {
		case err == nil:
			believes = sent.Add(answer.ttl())
			after = time.Duration(answer.HeartbeatAfterSeconds) * time.Second
			c.stage.keeps(c.name, believes)
		case errors.As(err, &refusal) && refusal.Status == http.StatusGone, time.Now().After(believes):
			c.stage.loses(c.name, err)
			return true
		default: // the lease runs on: try again soon
			after = 200 * time.Millisecond
		}
	}
}

// giveBack stops believing first, then tells.
func (c *client) giveBack(seat seated) {
	c.stage.releases(c.name)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = c.api.As(seat.SeatToken).Call(ctx, http.MethodPost, "/v1/release", nil, nil) // in vain, the lease ends by itself
}

// leave gives up a place in the queue.
func (c *client) leave() {
	c.stage.rests(c.name)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	place := map[string]any{"license_key": c.key, "hardware_id": c.name}
	_, _ = c.api.Call(ctx, http.MethodPost, "/v1/release", place, nil) // in vain, the place is lost by itself
}
