package seat

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// Fence numbers the sessions of a licence in the order in which they were admitted: the pool's epoch, then a counter
// within it. Fences of a licence only grow, so a token of an earlier session can never touch a later one's seat.
type Fence struct{ Epoch, Counter int64 }

// String returns epoch.counter, as the scripts write it.
func (f Fence) String() string {
	return strconv.FormatInt(f.Epoch, 10) + "." + strconv.FormatInt(f.Counter, 10)
}

func parseFence(s string) (Fence, error) {
	epoch, counter, ok := strings.Cut(s, ".")
	e, err1 := strconv.ParseInt(epoch, 10, 64)
	c, err2 := strconv.ParseInt(counter, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return Fence{}, fmt.Errorf("fence %q is not epoch.counter", s)
	}
	return Fence{Epoch: e, Counter: c}, nil
}

// Ref names a session and proves, by its fence, which one. It has the fields of what a seat token names, so that one
// converts into the other.
type Ref struct {
	Tenant           tenancy.ID
	License, Session uuid.UUID
	Seat             int
	// Epoch and Counter are the session's Fence.
	Epoch, Counter int64
}

// Fence is the session's.
func (r Ref) Fence() Fence { return Fence{Epoch: r.Epoch, Counter: r.Counter} }

// Holder is who sits. Key tells holders apart: one session per key and licence. The rest is kept with the session for
// people to read; none of it may hold control characters.
type Holder struct {
	// Key is "device:…", "user:…" or "instance:…", at most 600 bytes.
	Key string
	// HardwareID of the device that asked.
	HardwareID string
	// Hostname, User and InstanceID as the client gave them; empty when it did not.
	Hostname, User, InstanceID string
	// Version of the application.
	Version string
	// Metadata is a JSON object of at most 16 KiB, or nil.
	Metadata json.RawMessage
}

// Counts of a licence's pool at one moment.
type Counts struct {
	// Active sessions: those whose lease runs.
	Active int
	// Max and Overdraft are the seats of the licence.
	Max, Overdraft int
	// Queue is how many holders wait; zero where a call does not say.
	Queue int
}

// The ways a session ends.
const (
	Released = "released"
	Lapsed   = "lapsed"
	Evicted  = "evicted"
)

// Reasons that the seat package gives by itself. An administrator's eviction has the reason that was typed; a pool that
// no longer grants seats gives its state: license_suspended, license_revoked, license_expired or tenant_suspended.
const (
	ReasonReleased     = "released"
	ReasonLeaseExpired = "lease_expired"
	ReasonSeatsReduced = "seats_reduced"
)

// Ending is how a session ended.
type Ending struct {
	// Status is Released, Lapsed or Evicted.
	Status string
	// Reason is a code or an administrator's words.
	Reason string
	// By is who ended it: "holder", an administrator's credential, or "" when nobody did.
	By string
	// At is when, by the store's clock; zero when that is not known any more.
	At time.Time
}

// sentences say what a holder that lost its seat can do.
var sentences = map[string]string{
	Released: "This session was released. Acquire a seat to start another.",
	Lapsed:   "This session's lease ran out before a heartbeat arrived, and its seat may have been given to somebody else. Acquire a seat to start another.",
	Evicted:  "This session was ended by somebody else; the reason says why. Its seat stays taken until its lease has run out: release it to free the seat at once.",
}

// Gone tells a holder that it lost its seat: why, by whom and when.
func (e Ending) Gone() *fault.Error {
	var at, by *string
	if !e.At.IsZero() {
		text := e.At.UTC().Format("2006-01-02T15:04:05.000Z")
		at = &text
	}
	if e.By != "" {
		by = &e.By
	}
	return fault.Gone("seat_"+e.Status, sentences[e.Status]).With("reason", e.Reason).With("ended_at", at).With("ended_by", by)
}

// ErrUnknownLicense says that the licence has no row under this tenant.
var ErrUnknownLicense = errors.New("seat: no such licence")

// allowance is σ for a lease: how far clocks may drift apart while somebody believes in it.
func (p *Pools) allowance(lease time.Duration) time.Duration {
	return max(p.cfg.ClockAllowance, lease/1000)
}

// floor is how long after a rebuild every belief that was alive has ended, when longest is the longest lease believed in.
func (p *Pools) floor(longest time.Duration) time.Duration {
	return longest + p.cfg.ConnectionLife + p.allowance(longest)
}
