// Package acquire takes a seat for a holder, or says why not and when to try again.
//
//	POST /v1/acquire  {license_key, hardware_id, version, product?, user?, instance_id?, hostname?, metadata?, wait?}
//
//	201  the holder has a seat, from now on
//	200  the holder has a seat, and had it before
//	202  with wait: no seat is free, and the holder has a place in the queue
//	403  the licence does not validate; code is the first failing check's
//	404  license_not_found
//	409  no_seats_available; idempotency_in_flight
//	422  invalid_request; idempotency_key_reused
//	429  rate_limited
//	503  store_unavailable
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

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// Deps is what the function works with.
type Deps struct {
	DB       *tenancy.DB
	Licenses *license.Directory
	Seats    *seat.Pools
	Tokens   *signing.Tokens
	Receipts *signing.Keys
	Budgets  *budget.Budgets
	Now      func() time.Time
	Log      *slog.Logger
}

// Request is what is asked.
type Request struct {
	LicenseKey string       `json:"license_key" minLength:"1" maxLength:"255"`
	HardwareID string       `json:"hardware_id" minLength:"1" maxLength:"255" doc:"Names the device, the same at every start."`
	Version    string       `json:"version" maxLength:"50" doc:"The application's version, a semantic version such as 2.1.0."`
	Product    string       `json:"product,omitempty" maxLength:"63"`
	User       string       `json:"user,omitempty" maxLength:"255" doc:"Who is asking; needed where the licence counts users."`
	InstanceID string       `json:"instance_id,omitempty" maxLength:"255" doc:"Names the running instance; needed where the licence counts instances."`
	Hostname   string       `json:"hostname,omitempty" maxLength:"255"`
	Metadata   httpx.Object `json:"metadata,omitempty" maxProperties:"50" doc:"Kept with the session for its administrators as it was sent, 16 KiB at most."`
	Wait       bool         `json:"wait,omitempty" doc:"When no seat is free, take a place in the queue."`
}

// maxMetadata is how many bytes of metadata a session keeps.
const maxMetadata = 16 << 10

// Answer is the body of a 200 and a 201.
type Answer struct {
	SessionID             uuid.UUID  `json:"session_id"`
	SeatToken             string     `json:"seat_token" doc:"For heartbeats and release. Opaque; keep it secret."`
	SeatNo                int        `json:"seat_no" minimum:"1"`
	Overdraft             bool       `json:"overdraft" doc:"The seat is beyond max_seats, within the licence's overdraft."`
	ActiveSeats           int        `json:"active_seats"`
	MaxSeats              int        `json:"max_seats"`
	ExpiresAt             httpx.Time `json:"expires_at" doc:"For display: the holder believes for ttl_seconds from sending its request."`
	TTLSeconds            int64      `json:"ttl_seconds" minimum:"1"`
	HeartbeatAfterSeconds int64      `json:"heartbeat_after_seconds" minimum:"1" doc:"When to beat first."`
	Receipt               string     `json:"receipt" doc:"Signed; verifiable offline until the lease ends."`
}

// Queued is the body of a 202.
type Queued struct {
	Position         int    `json:"position" minimum:"1"`
	QueueLength      int    `json:"queue_length" minimum:"1"`
	ETASeconds       *int64 `json:"eta_seconds" doc:"A guess from how often seats came free lately; null when nothing is known."`
	PollAfterSeconds int64  `json:"poll_after_seconds" minimum:"1" doc:"When to ask again. Staying away for three of these loses the place."`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "acquire", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/v1/acquire", ID: "acquire_seat", Tag: "acquire",
		Summary:     "Take a seat",
		Description: "Takes a free seat of the licence. The same holder gets its own seat back, never a second one.",
		Credentials: []httpx.Credential{httpx.LicenseKey},
		Body:        Request{}, Idempotent: true,
		Replies: []httpx.Doc{
			{Status: http.StatusCreated, Body: Answer{}, Description: "The holder has a seat, from now on."},
			{Status: http.StatusOK, Body: Answer{}, Description: "The holder has a seat, and had it before."},
			{Status: http.StatusAccepted, Body: Queued{}, Description: "No seat is free; the holder has a place in the queue."},
		},
		Problems: []int{http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusTooManyRequests},
		Handle:   d.acquire,
	}}
}

func (d Deps) acquire(c *httpx.Call) (httpx.Reply, error) {
	if _, err := c.Body(); err != nil {
		return httpx.Reply{}, err
	}
	key := c.Peek("license_key")
	if !license.KeyCanBe(key) {
		// No credential at all: there is nothing to look up, and the body says what is wrong.
		return httpx.Reply{}, c.Decode(&Request{})
	}
	facts, err := d.find(c, key)
	if err != nil {
		return httpx.Reply{}, err
	}
	for {
		reply, refusal := d.ask(c, facts)
		if !decided(refusal) {
			return reply, refusal
		}
		// Facts are remembered for seconds: what refuses must not have changed meanwhile.
		newer, err := d.newer(c, facts)
		if err != nil {
			return httpx.Reply{}, err
		}
		if newer == nil {
			return httpx.Reply{}, refusal
		}
		facts = newer
	}
}

// ask is acquire, going by these facts.
func (d Deps) ask(c *httpx.Call, facts *license.Facts) (httpx.Reply, error) {
	l := &facts.License
	if now := facts.Now(d.Now()); !l.Grants(now) {
		return httpx.Reply{}, refused(l.Checks(license.Question{}, now))
	}
	var q Request
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	holder, err := holderOf(l, &q)
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := d.Budgets.Holder(c.Context(), l.ID, l.MaxSeats+l.OverdraftSeats, holder.Key); err != nil {
		return httpx.Reply{}, err
	}
	if err := d.check(c.Context(), facts, &q); err != nil {
		return httpx.Reply{}, err
	}
	switch name, err := idempotency.KeyOf(c.Request().Header); {
	case err != nil:
		return httpx.Reply{}, err
	case name != "":
		return d.once(c, name, facts, &q, holder)
	}
	return d.seat(c, facts, &q, holder)
}

// decided says that an error was decided by the licence's facts, or may have been.
func decided(err error) bool {
	f := fault.As(err)
	return f != nil && (f.Kind == fault.KindForbidden || f.Kind == fault.KindInvalid || f.Code == errOvertaken.Code)
}

// errOvertaken says that who the holder is must be decided anew. It is answered only when that keeps happening.
var errOvertaken = &fault.Error{
	Kind: fault.KindConflict, Code: "license_changed", RetryAfter: time.Second,
	Detail: "The licence was changed while the seat was being taken. Try again.",
}

// newer are facts that overtook these, or nil.
func (d Deps) newer(c *httpx.Call, facts *license.Facts) (*license.Facts, error) {
	l := &facts.License
	sight, err := d.Seats.Peek(c.Context(), l.Tenant, l.ID)
	if err != nil || sight.PoolVersion <= l.PoolVersion {
		return nil, err
	}
	newer, err := d.atLeast(c.Context(), c.Peek("license_key"), sight.PoolVersion)
	if err != nil || newer.License.PoolVersion <= l.PoolVersion {
		return nil, err
	}
	return newer, nil
}

// atLeast is what the key opens, at this version or a later one.
func (d Deps) atLeast(ctx context.Context, key string, version int64) (*license.Facts, error) {
	facts, err := d.Licenses.FindAtLeast(ctx, key, version)
	if errors.Is(err, license.ErrUnknownKey) {
		return nil, errUnknownKey // it was rotated away meanwhile
	}
	return facts, err
}

// seat takes the seat and answers.
func (d Deps) seat(c *httpx.Call, facts *license.Facts, q *Request, holder seat.Holder) (httpx.Reply, error) {
	// Whoever gets a seat gets a receipt: where none can be signed, no seat is taken.
	receipts, err := d.Receipts.Current(c.Context())
	if err != nil {
		return httpx.Reply{}, err
	}
	grant, err := d.Seats.Acquire(c.Context(), facts.License.Tenant, facts.License.ID, holder, seat.Ask{
		Wait: q.Wait, PoolVersion: facts.License.PoolVersion,
		Recheck: func(ctx context.Context, version int64) error {
			newer, err := d.atLeast(ctx, q.LicenseKey, version)
			if err != nil {
				return err
			}
			if key, err := newer.License.HolderKey(q.HardwareID, q.User, q.InstanceID); err != nil || key != holder.Key {
				return errOvertaken
			}
			facts = newer
			return d.check(ctx, facts, q)
		},
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return d.reply(c, &facts.License, q, grant, receipts)
}

var errUnknownKey = fault.NotFound("license_not_found", "There is no licence with this key. Check for a typing mistake, or ask your vendor for the key.")

// find is what the key opens. Unknown keys are counted against their address, known ones never.
func (d Deps) find(c *httpx.Call, key string) (*license.Facts, error) {
	facts, err := d.Licenses.Find(c.Context(), key)
	if errors.Is(err, license.ErrUnknownKey) {
		if err := d.Budgets.UnknownKey(c.Context(), c.Address()); err != nil {
			return nil, err
		}
		return nil, errUnknownKey
	}
	if err != nil {
		return nil, err
	}
	c.Note(slog.String("tenant", facts.License.Tenant.String()), slog.String("license", facts.License.ID.String()))
	return facts, nil
}

func holderOf(l *license.License, q *Request) (seat.Holder, error) {
	key, err := l.HolderKey(q.HardwareID, q.User, q.InstanceID)
	if err != nil {
		return seat.Holder{}, err
	}
	if len(q.Metadata) > maxMetadata {
		return seat.Holder{}, fault.Invalid("The metadata is too large.", fault.Field{
			Field: "metadata", Code: "too_long", Detail: "Metadata may have 16 KiB at most.",
		})
	}
	return seat.Holder{
		Key: key, HardwareID: q.HardwareID, Hostname: q.Hostname, User: q.User, InstanceID: q.InstanceID, Version: q.Version,
		Metadata: json.RawMessage(q.Metadata),
	}, nil
}

// check is whether the licence is good for what is asked; the fault names the first check that is not.
func (d Deps) check(ctx context.Context, facts *license.Facts, q *Request) error {
	l := &facts.License
	known, devices, err := d.Licenses.Devices(ctx, l, q.HardwareID)
	if err != nil {
		return err
	}
	return refused(l.Checks(license.Question{
		Hardware: q.HardwareID, Version: q.Version, Product: q.Product, KnownDevice: known, Devices: devices,
	}, facts.Now(d.Now())))
}

// refused is the fault for the first check that is not good, or nil.
func refused(checks []license.Check) error {
	if failed, ok := license.Refusal(checks); ok {
		return fault.Forbidden(failed.Code, failed.Detail)
	}
	return nil
}

func (d Deps) reply(c *httpx.Call, l *license.License, q *Request, g seat.Grant, receipts *signing.Signer) (httpx.Reply, error) {
	switch g.Verdict {
	case seat.Granted, seat.Existing:
		return d.seated(c, l, q, g, receipts)
	case seat.Queued:
		return httpx.Reply{Status: http.StatusAccepted, Body: queued(g)}, nil
	case seat.Full:
		return httpx.Reply{}, fault.Conflict("no_seats_available", "All seats of this licence are taken. Try again later, or ask with wait to queue.").
			With("active_seats", g.Counts.Active).With("max_seats", g.Counts.Max).Retry(min(max(g.RetryAfter, time.Second), time.Minute))
	case seat.Refused:
		detail := "This licence grants no seats now. Your administrator can ask the vendor why."
		if g.Code == license.CodeTooManyDevices {
			detail = "As many devices as this licence allows have used it. Your administrator can remove one that is not used any more."
		}
		return httpx.Reply{}, fault.Forbidden(g.Code, detail)
	default:
		return httpx.Reply{}, fmt.Errorf("acquire: verdict %d", g.Verdict)
	}
}

func queued(g seat.Grant) Queued {
	q := Queued{Position: g.Position, QueueLength: g.Counts.Queue, PollAfterSeconds: int64(g.Poll / time.Second)}
	if g.ETA > 0 {
		eta := int64((g.ETA + time.Second - 1) / time.Second)
		q.ETASeconds = &eta
	}
	return q
}

func (d Deps) seated(c *httpx.Call, l *license.License, q *Request, g seat.Grant, receipts *signing.Signer) (httpx.Reply, error) {
	c.Note(slog.String("session", g.Ref.Session.String()), slog.Int("seat", g.Ref.Seat))
	text, err := receipts.Sign(receipt.Receipt{
		License: l.ID.String(), Product: l.Product, Tenant: l.Tenant.String(), IssuedAt: g.At, OfflineUntil: g.ExpiresAt,
		Session: g.Ref.Session.String(), Seat: g.Ref.Seat,
		HardwareHash: receipt.HashHardware(q.HardwareID), Plan: l.Plan, Features: l.Features, Versions: l.Versions,
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	answer := Answer{
		SessionID: g.Ref.Session, SeatNo: g.Ref.Seat, Overdraft: g.Overdraft, Receipt: text,
		SeatToken:   d.Tokens.Mint(signing.Claims(g.Ref)),
		ActiveSeats: g.Counts.Active, MaxSeats: g.Counts.Max, ExpiresAt: httpx.At(g.ExpiresAt), TTLSeconds: int64(g.TTL / time.Second),
		HeartbeatAfterSeconds: int64(seat.HeartbeatAfter(g.TTL) / time.Second),
	}
	status := http.StatusOK
	if g.Verdict == seat.Granted {
		status = http.StatusCreated
	}
	return httpx.Reply{Status: status, Body: answer}, nil
}
