package client

import (
	"context"
	"net/http"
	"os"
	"time"
)

// The variables of the environment that stand in for what a Client does not say.
const (
	EnvURL        = "USHER_URL"
	EnvLicenseKey = "USHER_LICENSE_KEY"
	EnvHardwareID = "USHER_HARDWARE_ID"
)

// Client says where Usher is and who asks. The zero Client takes everything from the environment. It holds nothing open,
// may be used by several goroutines, and is not to be changed once it is used.
type Client struct {
	// URL is where Usher answers, such as https://usher.example.com; "" = USHER_URL.
	URL string
	// LicenseKey is the application's credential; "" = USHER_LICENSE_KEY.
	LicenseKey string
	// HardwareID names the device, the same at every start; "" = USHER_HARDWARE_ID, and without that hardware.ID.
	HardwareID string
	// Product is the code of the application's product; "" = any that the licence is for.
	Product string
	// Version is the application's; "" = the version of the main module, where the build knows it.
	Version string
	// User says who is asking, where the licence counts users.
	User string
	// InstanceID names the running instance, where the licence counts instances; "" = one made for this process.
	InstanceID string
	// Metadata is kept with the session for its administrators.
	Metadata map[string]any

	// Wait takes a place in the queue when no seat is free, and asks until there is one.
	Wait bool
	// Queued is called with each place that a waiting Acquire hears of; nil = nobody wants to know. It must not block.
	Queued func(Place)
	// Signals are those that give the seat back and then end the program as they would have done: none by default, since
	// signals are the program's. One that handles them itself gives Acquire a context of signal.NotifyContext instead.
	Signals []os.Signal
	// ReceiptFile is where Borrow keeps its receipt, and where an Acquire that reaches nobody looks for one; "" = nowhere.
	ReceiptFile string
	// HTTP sends the requests; nil = a client of one's own. Redirects are not followed, whatever it says.
	HTTP *http.Client
}

// Place is one in the queue of a licence.
type Place struct {
	// Position counts from 1.
	Position, Length int
	// ETA is the service's guess of the time left; 0 = it has none.
	ETA time.Duration
}

// Acquire takes a seat with the zero Client: everything comes from the environment.
func Acquire(ctx context.Context) (*Seat, error) { return new(Client).Acquire(ctx) }

// Acquire takes a seat and keeps it, with heartbeats in the background, until ctx ends or the seat is released.
//
// When no seat is free, the error is ErrNoSeats; with Wait, Acquire asks until there is one or ctx ends. A Refusal says what
// else the service had against it, ErrUnreachable that nobody answered.
func (c *Client) Acquire(ctx context.Context) (*Seat, error) { return nil, ErrUnreachable }

// Question is what Validate asks beyond what the Client says.
type Question struct {
	// Features are those that the application wants to use.
	Features []string
	// Nonce comes back in the answer and in the receipt.
	Nonce string
}

// Validation is what was found about a licence, good or bad.
type Validation struct {
	Valid bool `json:"valid"`
	// Code is "valid", "in_grace", or the first failing check's.
	Code    string   `json:"code"`
	Checks  []Check  `json:"checks"`
	License *License `json:"license"` // nil for an unknown key
	Nonce   string   `json:"nonce,omitempty"`
	// Receipt proves the entitlement offline; "" when not valid.
	Receipt string `json:"receipt,omitempty"`
}

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// License is what the service tells of a licence.
type License struct {
	ID          string     `json:"id"`
	Product     string     `json:"product"`
	Plan        string     `json:"plan"`
	Status      string     `json:"status"`
	Features    []string   `json:"features"`
	MaxSeats    int        `json:"max_seats"`
	ActiveSeats int        `json:"active_seats"`
	ExpiresAt   *time.Time `json:"expires_at"`
	GraceUntil  *time.Time `json:"grace_until"`
}

// Validate asks whether the licence is good here. It takes no seat.
func (c *Client) Validate(ctx context.Context, q Question) (*Validation, error) {
	return nil, ErrUnreachable
}
