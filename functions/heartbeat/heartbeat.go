// Package heartbeat renews the lease of a session.
//
//	POST /v1/heartbeat   Authorization: Bearer <seat token>; body {} or none
//
//	200  the lease was extended; when to beat next, and whether the seat is to drain
//	401  seat_token_invalid
//	410  seat_lapsed, seat_released, seat_evicted: with reason, ended_at and ended_by
//	429  rate_limited
//	503  store_unavailable: Redis cannot answer; the lease runs on, try again
//
// It is the hot path: the token is checked in memory, the lease is extended by one script in Redis, and nothing else is
// asked. PostgreSQL is read only when Redis has forgotten the session.
package heartbeat

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
)

// Deps is what the function works with.
type Deps struct {
	Seats  *seat.Pools
	Tokens *signing.Tokens
	Beats  *budget.Beats
	Log    *slog.Logger
}

// Answer is the body of a 200.
type Answer struct {
	SessionID             uuid.UUID   `json:"session_id"`
	SeatNo                int         `json:"seat_no" minimum:"1"`
	ExpiresAt             httpx.Time  `json:"expires_at" doc:"For display: the holder believes for ttl_seconds from sending its request."`
	TTLSeconds            int64       `json:"ttl_seconds" minimum:"1"`
	HeartbeatAfterSeconds int64       `json:"heartbeat_after_seconds" minimum:"1" doc:"When to beat next."`
	Draining              bool        `json:"draining" doc:"The licence has fewer seats now: finish and release."`
	DrainUntil            *httpx.Time `json:"drain_until,omitempty" doc:"When a draining session is evicted."`
	ActiveSeats           int         `json:"active_seats" minimum:"0"`
	MaxSeats              int         `json:"max_seats" minimum:"0"`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "heartbeat", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/v1/heartbeat", ID: "renew_seat", Tag: "heartbeat",
		Summary:     "Keep a seat",
		Description: "Extends the lease of the session that the seat token names. A holder that lost its seat is told why, by whom and when.",
		Credentials: []httpx.Credential{httpx.SeatToken},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Answer{}, Description: "The lease was extended."}},
		Problems:    []int{http.StatusGone, http.StatusTooManyRequests},
		Handle:      d.beat,
	}}
}

func (d Deps) beat(c *httpx.Call) (httpx.Reply, error) {
	token, _ := c.Bearer()
	claims, err := d.Tokens.Verify(token)
	if err != nil {
		return httpx.Reply{}, fault.Unauthenticated("seat_token_invalid", "The seat token is missing or not valid. Acquire a seat to get one.").Because(err)
	}
	c.Note(slog.String("tenant", claims.Tenant.String()), slog.String("license", claims.License.String()), slog.String("session", claims.Session.String()))
	if err := d.Beats.Session(claims.Session); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	beat, err := d.Seats.Heartbeat(c.Context(), seat.Ref(claims))
	if err != nil {
		return httpx.Reply{}, err
	}
	if !beat.Alive {
		return httpx.Reply{}, beat.Ending.Gone()
	}
	answer := &Answer{
		SessionID: claims.Session, SeatNo: beat.Seat, ExpiresAt: httpx.At(beat.ExpiresAt), TTLSeconds: int64(beat.TTL / time.Second),
		HeartbeatAfterSeconds: int64(seat.HeartbeatAfter(beat.TTL) / time.Second),
		ActiveSeats:           beat.Counts.Active, MaxSeats: beat.Counts.Max,
	}
	if !beat.DrainUntil.IsZero() {
		until := httpx.At(beat.DrainUntil)
		answer.Draining, answer.DrainUntil = true, &until
	}
	return httpx.Reply{Body: answer}, nil
}
