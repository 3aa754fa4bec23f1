// Package borrow lends a holder its seat for a while, during which it may be offline.
//
//	POST /v1/borrow   Authorization: Bearer <seat token>  {until}
//
//	200  the seat stays taken, without heartbeats, until borrowed_until; release returns it early
//	401  seat_token_invalid
//	409  borrow_limit_reached
//	410  seat_lapsed, seat_released, seat_evicted: with reason, ended_at and ended_by, as a heartbeat says them
//	422  invalid_request: until is not in the future
//	429  rate_limited
//	503  store_unavailable: the seat may be borrowed already; send the same request again
package borrow

import (
	"fmt"
	"log/slog"
	"net/http"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/fault"
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
	Seats    *seat.Pools
	Tokens   *signing.Tokens
	Receipts *signing.Keys
	Beats    *budget.Beats
	Log      *slog.Logger
}

// Request is what is asked.
type Request struct {
	Until httpx.Time `json:"until" doc:"When the borrow is to end: in the future. Where the licence allows no borrow as long as that, it ends earlier."`
}

// Answer is the body of a 200.
type Answer struct {
	BorrowedUntil httpx.Time `json:"borrowed_until" doc:"When the borrow ends, unless the seat is released before. Never earlier than what was answered for this session before."`
	Receipt       string     `json:"receipt" doc:"Signed; verifiable offline until the borrow ends, on the device that the session was opened on."`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "borrow", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/v1/borrow", ID: "borrow_seat", Tag: "borrow",
		Summary:     "Borrow a seat",
		Description: "Keeps the seat of the session that the seat token names taken, without heartbeats, until the borrow ends. Release returns it early.",
		Credentials: []httpx.Credential{httpx.SeatToken},
		Body:        Request{},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Answer{}, Description: "The seat is borrowed."}},
		Problems:    []int{http.StatusConflict, http.StatusGone, http.StatusTooManyRequests},
		Handle:      d.borrow,
	}}
}

func (d Deps) borrow(c *httpx.Call) (httpx.Reply, error) {
	token, _ := c.Bearer()
	claims, err := d.Tokens.Verify(token)
	if err != nil {
		return httpx.Reply{}, fault.Unauthenticated("seat_token_invalid", "The seat token is missing or not valid. Acquire a seat to get one.").Because(err)
	}
	c.Note(slog.String("tenant", claims.Tenant.String()), slog.String("license", claims.License.String()), slog.String("session", claims.Session.String()))
	if err := d.Beats.Session(claims.Session); err != nil {
		return httpx.Reply{}, err
	}
	var q Request
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	// Whoever borrows needs the receipt: where none can be signed, nothing is lent.
	receipts, err := d.Receipts.Current(c.Context())
	if err != nil {
		return httpx.Reply{}, err
	}
	loan, err := d.Seats.Borrow(c.Context(), seat.Ref(claims), seat.Term{Until: q.Until.Time})
	if err != nil {
		return httpx.Reply{}, err
	}
	switch loan.Verdict {
	case seat.Lent:
		return d.lent(c, claims, loan, receipts)
	case seat.LimitReached:
		return httpx.Reply{}, fault.Conflict("borrow_limit_reached",
			"This seat cannot be borrowed now: the licence allows no more borrowed seats at once, or no borrow at all. Keep it with heartbeats.")
	case seat.NotInFuture:
		return httpx.Reply{}, fault.Invalid("The borrow is not valid.", fault.Field{
			Field: "until", Code: "out_of_range", Detail: "A borrow ends in the future.",
		})
	case seat.Ended:
		return httpx.Reply{}, loan.Ending.Gone()
	default:
		return httpx.Reply{}, fmt.Errorf("borrow: verdict %d", loan.Verdict)
	}
}

// lent answers a borrow with its receipt.
func (d Deps) lent(c *httpx.Call, claims signing.Claims, loan seat.Loan, receipts *signing.Signer) (httpx.Reply, error) {
	var l license.License
	err := d.DB.AsReadOnly(c.Context(), claims.Tenant, func(tx tenancy.Tx) (err error) {
		l, err = license.Read(c.Context(), tx, claims.Tenant, claims.License)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	text, err := receipts.Sign(receipt.Receipt{
		License: l.ID.String(), Product: l.Product, Tenant: l.Tenant.String(), IssuedAt: loan.At, OfflineUntil: loan.Until,
		Session: claims.Session.String(), Seat: loan.Seat,
		HardwareHash: receipt.HashHardware(loan.HardwareID), Plan: l.Plan, Features: l.Features, Versions: l.Versions,
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: Answer{BorrowedUntil: httpx.At(loan.Until), Receipt: text}}, nil
}
