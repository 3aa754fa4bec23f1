// Package usage counts what is used, and shows what was.
//
//	POST /v1/usage   {events: [{id, metric, quantity, occurred_at}], license_id?}, with a seat token or an API key of usage:write
//	GET  /v1/usage   ?month=&license_id=&limit=&cursor=, with either, an API key of reports:read, or a viewer's ID token
//
//	202  {accepted, duplicates, warnings}: counted, each id once
//	200  {items, next_cursor}: by licence and metric, the month's total, quota and cap
//	401  seat_token_invalid, api_key_invalid, id_token_…
//	402  usage_cap_reached: a hard cap would be passed; nothing was counted
//	403  forbidden, tenant_suspended, license_suspended, license_revoked, usage_not_counted
//	404  not_found: no such licence
//	410  seat_lapsed, seat_released, seat_evicted
//	413  body_too_large: over 1 MiB
//	422  invalid_request: names each event that cannot be counted; nothing was counted
//	429  rate_limited
//	503  store_unavailable; send the same events again
//
// PostgreSQL is all it needs: a session is known by its row, so that Redis may be out. Whether a lapsed lease has been swept
// up decides nothing but whether its last events still count.
package usage

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/metering"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// bodyLimit is how many bytes a request may have: 1 MiB.
const bodyLimit = 1 << 20

// Deps is what the function works with.
type Deps struct {
	// DB logs in as usher_usage.
	DB     *tenancy.DB
	Tokens *signing.Tokens
	Keys   *identity.Verifier
	People *identity.People
	// Beats bound how often each session may ask.
	Beats *budget.Beats
	Log   *slog.Logger
}

// Request is what was used.
type Request struct {
	Events    []Event    `json:"events" minItems:"1" maxItems:"500"`
	LicenseID *uuid.UUID `json:"license_id,omitempty" doc:"For an API key: whose use it is. When left out, the licence of the subscription, or else the oldest whose plan counts usage. A seat token says it itself."`
}

// Event is one use.
type Event struct {
	ID         string     `json:"id" minLength:"1" maxLength:"100" doc:"The sender's own; within a tenant an id counts once."`
	Metric     string     `json:"metric" minLength:"1" maxLength:"63" doc:"One of the plan's."`
	Quantity   int64      `json:"quantity" minimum:"1" maximum:"1000000000"`
	OccurredAt httpx.Time `json:"occurred_at" doc:"At most 7 days ago, and 5 minutes ahead."`
}

// Answer is the body of a 202.
type Answer struct {
	Accepted   int       `json:"accepted" doc:"Events that were counted now."`
	Duplicates int       `json:"duplicates" doc:"Events whose id was counted before, or stands twice in the request."`
	Warnings   []Warning `json:"warnings"`
}

// Warning says that a soft cap is passed.
type Warning struct {
	Code   string     `json:"code" enum:"usage_cap_passed"`
	Metric string     `json:"metric"`
	Month  httpx.Time `json:"month" doc:"When it began."`
	Cap    int64      `json:"cap"`
	Used   int64      `json:"used"`
	Detail string     `json:"detail"`
}

// Query says what is to be shown.
type Query struct {
	Month     string    `query:"month" pattern:"^20[0-9]{2}-(0[1-9]|1[0-2])$" patternDescription:"a month such as 2030-01" doc:"A calendar month (UTC); the one that runs when left out."`
	LicenseID uuid.UUID `query:"license_id" doc:"One licence; every one of the tenant's when left out. A seat token shows its own alone."`
	Limit     int       `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many licences to answer at most."`
	Cursor    string    `query:"cursor" maxLength:"64" doc:"The next_cursor of the page before."`
}

// Totals is the body of a 200.
type Totals struct {
	Items      []Total `json:"items"`
	NextCursor *string `json:"next_cursor" doc:"Asks for the licences after these; null when there are none."`
}

// Total is what a licence used of a metric in a month.
type Total struct {
	LicenseID   uuid.UUID  `json:"license_id"`
	Plan        string     `json:"plan"`
	Metric      string     `json:"metric"`
	PeriodStart httpx.Time `json:"period_start" doc:"The calendar month's, UTC. Quota and cap are for it."`
	PeriodEnd   httpx.Time `json:"period_end"`
	Quantity    int64      `json:"quantity"`
	Reported    int64      `json:"reported" doc:"So much of it Stripe has acknowledged."`
	Quota       *int64     `json:"quota" doc:"Null: none. Owners are warned at 80 and 100 %."`
	Cap         *int64     `json:"cap" doc:"Null: none."`
	CapType     *string    `json:"cap_type" doc:"hard: more is refused. soft: more is counted, with a warning. null: there is no cap."`
	Billing     *Billing   `json:"billing" doc:"What the subscription's current period has in it; null without a subscription."`
}

// Billing is what a period of a subscription has in it. An hour belongs to the period in which its last second lies.
type Billing struct {
	SubscriptionID string     `json:"subscription_id"`
	PeriodStart    httpx.Time `json:"period_start"`
	PeriodEnd      httpx.Time `json:"period_end"`
	Quantity       int64      `json:"quantity"`
	Reported       int64      `json:"reported" doc:"So much of it Stripe has acknowledged, and will bill if it has a price."`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "usage", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/v1/usage", ID: "record_usage", Tag: "usage",
		Summary:     "Report what was used",
		Description: "Counts all events of the request that were not counted before, or none. May be repeated: an id counts once.",
		Credentials: []httpx.Credential{httpx.SeatToken, httpx.APIKey},
		Needs:       map[httpx.Credential]string{httpx.APIKey: string(identity.UsageWrite)},
		Body:        Request{}, BodyLimit: bodyLimit,
		Replies:  []httpx.Doc{{Status: http.StatusAccepted, Body: Answer{}, Description: "The events are counted."}},
		Problems: []int{http.StatusPaymentRequired, http.StatusForbidden, http.StatusNotFound, http.StatusGone, http.StatusTooManyRequests},
		Handle:   d.record,
	}, {
		Method: "GET", Path: "/v1/usage", ID: "show_usage", Tag: "usage",
		Summary:     "Show what was used",
		Description: "By licence and metric: the month's total, the plan's quota and cap, and what the subscription's period has in it. An API key of usage:write will do, too.",
		Credentials: []httpx.Credential{httpx.SeatToken, httpx.APIKey, httpx.IDToken},
		Needs:       map[httpx.Credential]string{httpx.APIKey: string(identity.ReportsRead), httpx.IDToken: string(identity.Viewer)},
		Query:       Query{},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Totals{}}},
		Problems:    []int{http.StatusForbidden, http.StatusGone, http.StatusTooManyRequests},
		Handle:      d.show,
	}}
}

// caller is who asks: the holder of a session, or a principal.
type caller struct {
	tenant tenancy.ID
	// session is the holder's; its Session is uuid.Nil for a principal.
	session seat.Ref
	apiKey  uuid.UUID
}

// caller decides 401, 403 and, for a session, 429. One of the scopes will do for an API key; a person needs the role, and may not when
// there is none.
func (d Deps) caller(c *httpx.Call, person identity.Role, scopes ...identity.Scope) (caller, error) {
	bearer, ok := c.Bearer()
	switch {
	case !ok:
		return caller{}, fault.Unauthenticated("seat_token_invalid", "The request needs a seat token or an API key, sent once as Authorization: Bearer …")
	case strings.HasPrefix(bearer, "ust_"):
		claims, err := d.Tokens.Verify(bearer)
		if err != nil {
			return caller{}, fault.Unauthenticated("seat_token_invalid", "The seat token is not valid. Acquire a seat to get one.").Because(err)
		}
		c.Note(slog.String("tenant", claims.Tenant.String()), slog.String("license", claims.License.String()), slog.String("session", claims.Session.String()))
		return caller{tenant: claims.Tenant, session: seat.Ref(claims)}, d.Beats.Session(claims.Session)
	}
	p, err := d.principal(c, bearer)
	if err != nil {
		return caller{}, err
	}
	c.Note(slog.String("tenant", p.Tenant.String()), slog.String("by", p.By()))
	if p.Operator {
		return caller{}, fault.Forbidden("forbidden", "The operator uses nothing. Ask with a key of the tenant's.")
	}
	if p.IsPerson() && person == "" {
		return caller{}, fault.Forbidden("forbidden", "Usage is reported with a seat token or an API key.")
	}
	for _, scope := range scopes {
		if err = p.Allow(identity.Need{Scope: scope, Role: person}); err == nil {
			break
		}
	}
	if err != nil {
		return caller{}, err
	}
	return caller{tenant: p.Tenant, apiKey: p.APIKey}, nil
}

func (d Deps) principal(c *httpx.Call, bearer string) (identity.Principal, error) {
	if !identity.IsIDToken(bearer) {
		return d.Keys.APIKey(c.Context(), bearer)
	}
	_, p, err := d.People.SignIn(c.Context(), bearer)
	return p, err
}

func (d Deps) record(c *httpx.Call) (httpx.Reply, error) {
	who, err := d.caller(c, "", identity.UsageWrite)
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	var q Request
	if err := c.Decode(&q); err != nil {
		return httpx.Reply{}, err
	}
	from := metering.Source{APIKey: who.apiKey, Session: who.session.Session, License: who.session.License}
	switch {
	case q.LicenseID == nil:
	case from.Session == uuid.Nil:
		from.License = *q.LicenseID
		if from.License == uuid.Nil {
			return httpx.Reply{}, fault.NotFound("not_found", "There is no such licence.")
		}
	case *q.LicenseID != from.License:
		return httpx.Reply{}, fault.Invalid("The seat token is of another licence.", fault.Field{
			Field: "license_id", Code: "not_allowed", Detail: "A seat token says itself whose use it is. Leave this out.",
		})
	}
	events := make([]metering.Event, len(q.Events))
	for i, e := range q.Events {
		events[i] = metering.Event{ID: e.ID, Metric: e.Metric, Quantity: e.Quantity, OccurredAt: e.OccurredAt.Time}
	}
	var out metering.Outcome
	err = d.DB.As(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		if err := who.seated(c, tx); err != nil {
			return err
		}
		out, err = metering.Record(c.Context(), tx, who.tenant, from, events)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.String("license", out.License.String()), slog.Int("accepted", out.Accepted), slog.Int("duplicates", out.Duplicates))
	answer := Answer{Accepted: out.Accepted, Duplicates: out.Duplicates, Warnings: []Warning{}}
	for _, b := range out.Beyond {
		answer.Warnings = append(answer.Warnings, Warning{
			Code: "usage_cap_passed", Metric: b.Metric, Month: httpx.At(b.Month), Cap: b.Cap, Used: b.Used,
			Detail: fmt.Sprintf("More than the plan's %d of this month are used. They are counted; ask an owner for a larger plan.", b.Cap),
		})
	}
	return httpx.Reply{Status: http.StatusAccepted, Body: answer}, nil
}

// seated is nil when the caller's session is open, and for who needs none.
func (who caller) seated(c *httpx.Call, tx tenancy.Tx) error {
	if who.session.Session == uuid.Nil {
		return nil
	}
	return seat.Seated(c.Context(), tx, who.session)
}

func (d Deps) show(c *httpx.Call) (httpx.Reply, error) {
	who, err := d.caller(c, identity.Viewer, identity.UsageWrite, identity.ReportsRead)
	if err != nil {
		return httpx.Reply{}, err
	}
	var q Query
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	var month time.Time
	if q.Month != "" {
		if month, err = time.Parse("2006-01", q.Month); err != nil {
			return httpx.Reply{}, err
		}
	}
	var after uuid.UUID
	if q.Cursor != "" {
		id, err := base64.RawURLEncoding.Strict().DecodeString(q.Cursor)
		if err != nil || len(id) != len(after) {
			return httpx.Reply{}, fault.Invalid("The cursor is not valid.", fault.Field{
				Field: "cursor", Code: "bad_format", Detail: "Must be the next_cursor of the page before.",
			})
		}
		after = uuid.UUID(id)
	}
	if who.session.Session != uuid.Nil {
		q.LicenseID = who.session.License
	}
	var totals []metering.Total
	err = d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		if err := who.seated(c, tx); err != nil {
			return err
		}
		totals, month, err = metering.Totals(c.Context(), tx, who.tenant, q.LicenseID, after, month, q.Limit+1)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: pageOf(totals, month, q.Limit)}, nil
}

// pageOf shows the totals of so many licences.
func pageOf(totals []metering.Total, month time.Time, limit int) Totals {
	page := Totals{Items: []Total{}}
	licenses := 0
	for i, t := range totals {
		if i == 0 || totals[i-1].License != t.License {
			if licenses++; licenses > limit {
				last := totals[i-1].License
				cursor := base64.RawURLEncoding.EncodeToString(last[:])
				page.NextCursor = &cursor
				break
			}
		}
		one := Total{
			LicenseID: t.License, Plan: t.Plan, Metric: t.Metric, PeriodStart: httpx.At(month), PeriodEnd: httpx.At(month.AddDate(0, 1, 0)),
			Quantity: t.Quantity, Reported: t.Reported, Quota: t.Quota, Cap: t.Cap, CapType: t.CapType,
		}
		if b := t.Billing; b != nil {
			one.Billing = &Billing{
				SubscriptionID: b.Subscription, PeriodStart: httpx.At(b.From), PeriodEnd: httpx.At(b.To), Quantity: b.Quantity, Reported: b.Reported,
			}
		}
		page.Items = append(page.Items, one)
	}
	return page
}
