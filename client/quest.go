package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	// attempt bounds one question, leaving what is done to be polite when it is over.
	attempt = 10 * time.Second
	leaving = 5 * time.Second
)

// request is the body of every question about a licence.
type request struct {
	LicenseKey string         `json:"license_key"`
	HardwareID string         `json:"hardware_id"`
	Version    string         `json:"version"`
	Product    string         `json:"product,omitempty"`
	User       string         `json:"user,omitempty"`
	InstanceID string         `json:"instance_id,omitempty"`
	Hostname   string         `json:"hostname,omitempty"`
	Metadata   map[string]any `json:"metadata,omitempty"`
	Wait       bool           `json:"wait,omitempty"`
	Features   []string       `json:"features,omitempty"`
	Nonce      string         `json:"nonce,omitempty"`
}

// grant is a seat that was given.
type grant struct {
	session string
	token   string
	status  Status
	// until is when the promise ends, beat how long the service wants to hear nothing.
	until instant
	beat  time.Duration
}

// quest is one wish for a seat. All its questions have the same body and the same Idempotency-Key, and name the same holder:
// however often it asks, and whatever becomes of the answers, it gets one seat.
type quest struct {
	line *line
	body []byte
	key  string
	// open says that there may be a seat, or a place in the queue, that nobody was told of.
	open bool
}

func newQuest(l *line, body []byte) *quest {
	return &quest{line: l, body: body, key: rand.Text()}
}

// seated is the answer to a quest: of a 200 or 201, or of a 202.
type seated struct {
	SessionID             string    `json:"session_id"`
	SeatToken             string    `json:"seat_token"`
	SeatNo                int       `json:"seat_no"`
	Overdraft             bool      `json:"overdraft"`
	ActiveSeats           int       `json:"active_seats"`
	MaxSeats              int       `json:"max_seats"`
	ExpiresAt             time.Time `json:"expires_at"`
	TTLSeconds            int64     `json:"ttl_seconds"`
	HeartbeatAfterSeconds int64     `json:"heartbeat_after_seconds"`
	Receipt               string    `json:"receipt"`

	Position         int   `json:"position"`
	QueueLength      int   `json:"queue_length"`
	ETASeconds       int64 `json:"eta_seconds"`
	PollAfterSeconds int64 `json:"poll_after_seconds"`
}

// ask asks once: there is a grant, or a place in the queue and how long to wait before asking again, or an error.
func (q *quest) ask(ctx context.Context) (*grant, *Place, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	var a seated
	status, sent, err := q.line.send(ctx, message{path: "/v1/acquire", body: q.body, key: q.key}, &a)
	var refusal *Refusal
	var quiet *silence
	switch {
	case errors.As(err, &quiet):
		q.open = q.open || !quiet.futile
		return nil, nil, 0, err
	case errors.As(err, &refusal):
		// Whoever has a seat already hears neither.
		q.open = q.open && !refusal.final() && !errors.Is(err, ErrNoSeats) || refusal.Code == "idempotency_in_flight"
		return nil, nil, 0, err
	case status == 202:
		q.open = true
		return nil, &Place{Position: a.Position, Length: a.QueueLength, ETA: seconds(a.ETASeconds)}, seconds(max(a.PollAfterSeconds, 1)), nil
	case a.SeatToken == "" || a.SessionID == "" || a.TTLSeconds < 1:
		q.open = true
		return nil, nil, 0, &silence{cause: fmt.Errorf("it answered %d with JSON that is no seat", status)}
	}
	g := &grant{
		session: a.SessionID, token: a.SeatToken, until: sent.add(seconds(a.TTLSeconds)), beat: seconds(max(a.HeartbeatAfterSeconds, 1)),
		status: Status{
			SessionID: a.SessionID, SeatNo: a.SeatNo, Overdraft: a.Overdraft, ActiveSeats: a.ActiveSeats, MaxSeats: a.MaxSeats,
			TTL: seconds(a.TTLSeconds), ExpiresAt: a.ExpiresAt, Receipt: a.Receipt,
		},
	}
	if q.line.now() >= g.until {
		q.open = true
		return nil, nil, 0, &silence{cause: errors.New("its answer came when the lease was over")}
	}
	q.open = false
	return g, nil, 0, nil
}

// giveUp gives back what there may be: a place in the queue, or a seat whose answer was lost. In vain, a place is lost and a
// seat comes free by itself.
func (q *quest) giveUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer cancel()
	for try := 0; q.open && try < 3; try++ {
		g, place, _, err := q.ask(ctx)
		switch {
		case g != nil:
			_ = release(ctx, q.line, g.token)
			return
		case place != nil:
			_, _, _ = q.line.send(ctx, message{path: "/v1/release", body: q.body}, &struct{}{})
			return
		case !sleep(ctx, max(retryAfter(err), soonest/2<<try)):
			return
		}
	}
}

// release gives a session's seat back.
func release(ctx context.Context, l *line, token string) error {
	_, _, err := l.send(ctx, message{path: "/v1/release", body: []byte("{}"), token: token}, &struct{}{})
	return err
}

// sleep waits, and says whether it was not interrupted.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// encode writes a question.
func encode(question any) ([]byte, error) {
	body, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("usher: write the question: %w", err)
	}
	return body, nil
}
