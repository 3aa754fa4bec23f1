package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/coditect/usher/client/hardware"
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
	// Version is the application's, a semantic version; "" = that of the main module, or 0.0.0 where the build does not know it.
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
	// ReceiptFile is where Borrow keeps its receipt, and where an Acquire that reaches nobody looks for one; "" = nowhere. A
	// seal lies beside it, in a file of the same name with .seal at the end.
	ReceiptFile string
	// Roots are the vendor's root keys, as PEM, which the program brings with it. Without them no receipt is believed offline.
	Roots string
	// HTTP sends the requests; nil = a client of one's own. Redirects are not followed, whatever it says.
	HTTP *http.Client

	clock func() instant // nil = the system's
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

// patience is how long an Acquire that does not wait goes on asking a service that does not answer.
const patience = 15 * time.Second

// longestPause bounds what a waiting Acquire believes about when to come again.
const longestPause = time.Minute

// Acquire takes a seat and keeps it, with heartbeats in the background, until ctx ends or the seat is released.
//
// When no seat is free, the error is ErrNoSeats; with Wait, Acquire asks until there is one or ctx ends. It goes on asking,
// too, when nobody answers: with Wait as long as ctx lives, without it for fifteen seconds, and the error is then
// ErrUnreachable. A Refusal says what else the service had against it. When ctx ends first, the place in the queue is given
// up, which takes at most five seconds.
func (c *Client) Acquire(ctx context.Context) (*Seat, error) {
	q, err := c.question(ctx)
	if err != nil {
		return nil, err
	}
	q.Wait = c.Wait
	body, err := encode(q)
	if err != nil {
		return nil, err
	}
	now := c.clock
	if now == nil {
		now = newClock()
	}
	l, err := newLine(c.url(), c.HTTP, now)
	if err != nil {
		return nil, err
	}
	d, err := c.drawer(q.HardwareID)
	if err != nil {
		return nil, err
	}
	ctx, leave := context.WithCancelCause(ctx)
	done := make(chan struct{})
	if len(c.Signals) > 0 {
		c.heed(leave, done)
	}
	first := newQuest(l, body)
	g, err := c.ask(ctx, first, d)
	if err != nil {
		leave(nil)
		l.hang()
		close(done)
		return nil, err
	}
	s := &Seat{
		line: l, drawer: d, ctx: ctx, leave: func() { leave(nil) },
		events: make(chan Event, 16), done: done, kick: make(chan struct{}, 1),
	}
	s.believe(g)
	go newKeeper(s, body, first, g.beat).keep()
	return s, nil
}

// ask is the first quest.
func (c *Client) ask(ctx context.Context, q *quest, d *drawer) (*grant, error) {
	began, asking := q.line.now(), ctx
	if !c.Wait {
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	for try := 0; ; try++ {
		g, place, pause, err := q.ask(asking)
		switch {
		case g != nil:
			_, _ = d.recheck(asking, q.line, g.session, g.beat/2) // it has thrown away what it names
			d.recall(ctx, g, q.line.now())
			return g, nil // if ctx has ended meanwhile, its keeper gives it back
		case ctx.Err() != nil:
			q.giveUp(ctx)
			return nil, context.Cause(ctx)
		case errors.Is(err, ErrUnreachable):
			if g, err := d.offline(ctx, q.line.now()); err == nil {
				return g, nil
			}
		}
		switch {
		case place != nil:
			if c.Queued != nil {
				c.Queued(*place)
			}
			_, _ = d.recheck(asking, q.line, "", pause)
		default:
			pause = max(min(retryAfter(err), longestPause), min(soonest/2<<min(try, 10), latest))
			if refusal, ok := errors.AsType[*Refusal](err); ok {
				if refusal.withdrawn() {
					d.empty()
				}
				_, _ = d.recheck(asking, q.line, "", leaving)
			}
			if !c.worthwhile(err, q.line.now().add(pause)-began) {
				q.giveUp(ctx)
				return nil, err
			}
		}
		if !sleep(ctx, pause) {
			q.giveUp(ctx)
			return nil, context.Cause(ctx)
		}
	}
}

// worthwhile says whether to ask again after an error, when that would be so long after the first time.
func (c *Client) worthwhile(err error, after instant) bool {
	if quiet, ok := errors.AsType[*silence](err); ok {
		return !quiet.futile && (c.Wait || after < instant(patience))
	}
	if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.final() {
		return false
	}
	return c.Wait || !errors.Is(err, ErrNoSeats) && after < instant(patience)
}

// heed gives the seat back when a signal comes, and then lets it end the program.
func (c *Client) heed(leave context.CancelCauseFunc, done <-chan struct{}) {
	came := make(chan os.Signal, 1)
	signal.Notify(came, c.Signals...)
	go func() {
		defer signal.Stop(came)
		select {
		case s := <-came:
			leave(fmt.Errorf("usher: the program was told to end: %s", s))
			<-done
			signal.Stop(came)
			raise(s)
		case <-done:
		}
	}()
}

// instance names this process where nobody named it: whoever asks twice from one program is one holder.
var instance = sync.OnceValue(rand.Text)

// question is who asks.
func (c *Client) question(ctx context.Context) (request, error) {
	r := request{
		LicenseKey: cmp.Or(c.LicenseKey, os.Getenv(EnvLicenseKey)), HardwareID: cmp.Or(c.HardwareID, os.Getenv(EnvHardwareID)),
		Version: cmp.Or(c.Version, version()), Product: c.Product, User: c.User, InstanceID: cmp.Or(c.InstanceID, instance()), Metadata: c.Metadata,
	}
	if r.LicenseKey == "" {
		return request{}, errors.New("usher: there is no licence key: set " + EnvLicenseKey)
	}
	if r.HardwareID == "" {
		id, err := hardware.ID(ctx, "usher")
		if err != nil {
			return request{}, fmt.Errorf("usher: %w: set %s", err, EnvHardwareID)
		}
		r.HardwareID = id
	}
	if name, err := os.Hostname(); err == nil {
		r.Hostname = name
	}
	return r, nil
}

func (c *Client) url() string { return cmp.Or(c.URL, os.Getenv(EnvURL)) }

// version is what the build knows of the program's, without the v of Go. A service demands one even where a licence is for all.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "0.0.0"
	}
	return strings.TrimPrefix(info.Main.Version, "v")
}

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

// Validate asks whether the licence is good here. It takes no seat. The error is a Refusal or ErrUnreachable: a licence that is
// not good is no error.
func (c *Client) Validate(ctx context.Context, q Question) (*Validation, error) {
	r, err := c.question(ctx)
	if err != nil {
		return nil, err
	}
	body, err := encode(request{
		LicenseKey: r.LicenseKey, HardwareID: r.HardwareID, Version: r.Version, Product: r.Product, Features: q.Features, Nonce: q.Nonce,
	})
	if err != nil {
		return nil, err
	}
	l, err := newLine(c.url(), c.HTTP, newClock())
	if err != nil {
		return nil, err
	}
	defer l.hang()
	v := new(Validation)
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	if _, _, err := l.send(ctx, message{path: "/v1/validate", body: body}, v); err != nil {
		return nil, err
	}
	if v.Code == "" {
		return nil, &silence{cause: errors.New("it answered with JSON that is no validation")}
	}
	return v, nil
}
