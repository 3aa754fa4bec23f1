package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

// Session is one holder's stay on a seat.
type Session struct {
	ID            uuid.UUID    `json:"id"`
	LicenseID     uuid.UUID    `json:"license_id"`
	Status        string       `json:"status" enum:"active,released,lapsed,evicted"`
	SeatNo        int          `json:"seat_no"`
	Overdraft     bool         `json:"overdraft" doc:"The seat was beyond max_seats."`
	Holder        string       `json:"holder" doc:"device:…, user:… or instance:…, as the licence's seat_per says."`
	HardwareID    string       `json:"hardware_id"`
	Hostname      *string      `json:"hostname"`
	User          *string      `json:"user"`
	InstanceID    *string      `json:"instance_id"`
	Version       string       `json:"version"`
	Metadata      httpx.Object `json:"metadata" doc:"As the application gave it."`
	AcquiredAt    httpx.Time   `json:"acquired_at"`
	BorrowedUntil *httpx.Time  `json:"borrowed_until" doc:"Until when its holder may be offline; null when the seat is not borrowed now."`
	EndedAt       *httpx.Time  `json:"ended_at" doc:"Null while it is active, and until a lapse is recorded (a minute or so)."`
	EndReason     *string      `json:"end_reason"`
	EndedBy       *string      `json:"ended_by" doc:"Who ended it: holder, or an administrator's credential; null when nobody did."`
}

// SessionQuery says which sessions are asked for.
type SessionQuery struct {
	TenantPaging
	LicenseID *uuid.UUID `query:"license_id" doc:"Of this licence alone."`
	Status    string     `query:"status" enum:"active,released,lapsed,evicted" doc:"Of this status alone."`
}

var sessionRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/sessions", ID: "list_sessions",
		Summary:     "List sessions, the newest first",
		Description: "Those that ended, too. Where a thousand sessions of other statuses lie between, a page may be shorter than its limit and not be the last: next_cursor says which is.",
		Query:       SessionQuery{},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Page[Session]{}}},
	}, do: Deps.listSessions,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/sessions/{id}/evict", ID: "evict_session",
		Summary:     "End a session against its holder's will",
		Description: "The holder is told the reason. Its seat stays taken until its lease or borrow has run out, or the holder gives it back or asks for another: until then it may not have heard. A session that ended before stays as it ended. A member may evict sessions whose user is their e-mail address or their id.",
		Query:       TenantQuery{}, Body: Reason{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Session{}}},
	}, do: Deps.evict,
}}

func (d Deps) listSessions(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q SessionQuery
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	before, err := q.after(uuid.Max)
	if err != nil {
		return httpx.Reply{}, err
	}
	if q.LicenseID != nil {
		if err := d.findLicense(c, who, *q.LicenseID)(); err != nil {
			return httpx.Reply{}, err
		}
	}
	rows, next, err := d.sessions(c.Context(), who.tenant, &q, before)
	if err != nil {
		return httpx.Reply{}, err
	}
	page := Page[Session]{Items: make([]Session, len(rows)), NextCursor: next}
	for i := range rows {
		page.Items[i] = rows[i].Session
	}
	return httpx.Reply{Body: page}, nil
}

// reads bounds how many times one request reads on to fill a page with sessions of one status.
const reads = 10

// sessions fills a page, from the session before the given id on. Which status an open session has its lease says, so more
// may have to be read than is shown.
func (d Deps) sessions(ctx context.Context, tenant tenancy.ID, q *SessionQuery, before uuid.UUID) (shown []session, next *string, err error) {
	size := q.more()
	if q.Status != "" {
		size = 100
	}
	for range reads {
		var rows []session
		err = d.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) (err error) {
			rows, err = querySessions(ctx, tx, tenant, q, before, size)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		read := len(rows)
		if read > 0 {
			before = rows[read-1].ID
		}
		d.seeLapses(ctx, tenant, rows)
		if q.Status != "" {
			rows = slices.DeleteFunc(rows, func(s session) bool { return s.Status != q.Status })
		}
		shown = append(shown, rows...)
		if read < size || len(shown) > q.Limit {
			shown, next = cut(shown, q.Paging, func(s *session) uuid.UUID { return s.ID })
			return shown, next, nil
		}
	}
	return shown, cursorOf(before), nil
}

func (d Deps) evict(c *httpx.Call, who caller) (httpx.Reply, error) {
	ctx := c.Context()
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if who.onlyOwn {
		s, err := d.readSession(ctx, who.tenant, id)
		if err != nil {
			return httpx.Reply{}, err
		}
		if !who.sits(&s.Session) {
			return httpx.Reply{}, fault.Forbidden("forbidden", "You may evict your own sessions only; an administrator may evict others.")
		}
	}
	var q Reason
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, unlessMissing(err, func() error {
			_, err := d.readSession(ctx, who.tenant, id)
			return err
		})
	}
	c.Note(slog.String("session", id.String()))
	if err := d.Seats.Evict(ctx, who.tenant, id, q.Reason, who.By(), who.eviction(c, id, q.Reason)); err != nil && !errors.Is(err, seat.ErrUnknownSession) {
		return httpx.Reply{}, err
	}
	s, err := d.readSession(ctx, who.tenant, id)
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: s.Session}, nil
}

// sits is whether a session is the person's own: its application gave their e-mail address or their id as its user.
func (who caller) sits(s *Session) bool {
	return s.User != nil && (strings.EqualFold(*s.User, who.Email) || *s.User == who.User.String())
}

// session is what PostgreSQL knows of a session.
type session struct {
	Session
	// fence of an open session.
	fence seat.Fence
	// state is the licence's: active, or the code of why it grants no seats.
	state string
}

// An open session that was evicted is shown as what it will be in history; nothing can undo it.
const (
	licenseState = `app.license_state(t.status, l.status, l.starts_at, l.expires_at, l.grace_until, now())`
	openSessions = `
		SELECT o.id, o.license_id, CASE WHEN o.evicted_at IS NULL THEN 'active' ELSE 'evicted' END AS status, o.seat_no, o.overdraft,
		       o.holder, o.hardware_id, o.hostname, o.user_name, o.instance_id, o.version, coalesce(o.metadata, '{}') AS metadata,
		       o.acquired_at, CASE WHEN o.borrowed_until > now() THEN o.borrowed_until END AS borrowed_until,
		       o.evicted_at AS ended_at, o.evict_reason AS end_reason, o.evicted_by AS ended_by,
		       o.fence_epoch, o.fence_counter,
		       ` + licenseState + ` AS state
		  FROM app.open_sessions o
		  JOIN app.licenses l ON l.tenant_id = o.tenant_id AND l.id = o.license_id
		  JOIN app.tenants t ON t.id = o.tenant_id
		 WHERE o.tenant_id = $1`
	endedSessions = `
		SELECT e.id, e.license_id, e.status, e.seat_no, e.overdraft,
		       e.holder, e.hardware_id, e.hostname, e.user_name, e.instance_id, e.version, coalesce(e.metadata, '{}'),
		       e.acquired_at, NULL::timestamptz, e.ended_at, e.end_reason, nullif(e.ended_by, ''),
		       0, 0, ''
		  FROM app.ended_sessions e
		 WHERE e.tenant_id = $1`
)

// querySessions reads sessions with a lower id, which grows with time, the highest first. What PostgreSQL takes for active
// may have lapsed: it is among the candidates for both. Each condition that is asked for has its index; of a licence's own
// history not the status, which is for the caller to look at, so that one read is bounded whatever lies in it.
func querySessions(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, q *SessionQuery, before uuid.UUID, limit int) ([]session, error) {
	args := []any{tenant.UUID(), before.String(), limit}
	open, ended := openSessions+` AND o.id < $2::uuid`, endedSessions+` AND e.id < $2::uuid`
	switch {
	case q.LicenseID != nil:
		args = append(args, q.LicenseID.String())
		open += ` AND o.license_id = $4::uuid`
		ended += ` AND e.license_id = $4::uuid`
	case q.Status != "" && q.Status != statusActive:
		args = append(args, q.Status)
		ended += ` AND e.status = $4`
	}
	switch q.Status {
	case statusActive, seat.Lapsed:
		open += ` AND o.evicted_at IS NULL`
	case seat.Evicted:
		open += ` AND (o.evicted_at IS NOT NULL OR ` + licenseState + ` <> 'active')`
	}
	const newest = ` ORDER BY id DESC LIMIT $3`
	var sql string
	switch q.Status {
	case statusActive:
		sql = open + newest
	case seat.Released:
		sql = ended + newest
	default:
		sql = `(` + open + newest + `) UNION ALL (` + ended + newest + `)` + newest
	}
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanSession)
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return all, nil
}

// readSession reads one session; fault.NotFound when the tenant has none of that id.
func (d Deps) readSession(ctx context.Context, tenant tenancy.ID, id uuid.UUID) (session, error) {
	var s session
	err := d.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, openSessions+` AND o.id = $2::uuid UNION ALL `+endedSessions+` AND e.id = $2::uuid`, tenant.UUID(), id.String())
		if err != nil {
			return err
		}
		s, err = pgx.CollectOneRow(rows, scanSession)
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return session{}, fault.NotFound("not_found", "There is no such session.")
	case err != nil:
		return session{}, fmt.Errorf("read session %s: %w", id, err)
	}
	one := []session{s}
	d.seeLapses(ctx, tenant, one)
	return one[0], nil
}

func scanSession(row pgx.CollectableRow) (session, error) {
	var s session
	var acquired time.Time
	var borrowed, ended *time.Time
	err := row.Scan(&s.ID, &s.LicenseID, &s.Status, &s.SeatNo, &s.Overdraft,
		&s.Holder, &s.HardwareID, &s.Hostname, &s.User, &s.InstanceID, &s.Version, &s.Metadata,
		&acquired, &borrowed, &ended, &s.EndReason, &s.EndedBy,
		&s.fence.Epoch, &s.fence.Counter, &s.state)
	s.AcquiredAt, s.BorrowedUntil, s.EndedAt = httpx.At(acquired), httpx.AtOrNull(borrowed), httpx.AtOrNull(ended)
	return s, err
}

// seeLapses marks the sessions whose lease has run out and whose rows nobody has closed yet: a seat is free when its
// lease ends, not when the sweep has seen it. Without Redis they are left as their rows say.
func (d Deps) seeLapses(ctx context.Context, tenant tenancy.ID, sessions []session) {
	look, lookCtx := errgroup.WithContext(ctx)
	look.SetLimit(atOnce)
	for i := range sessions {
		s := &sessions[i]
		if s.Status != statusActive {
			continue
		}
		look.Go(func() error {
			lives, err := d.Seats.Lives(lookCtx, seat.Ref{Tenant: tenant, License: s.LicenseID, Session: s.ID, Seat: s.SeatNo, Epoch: s.fence.Epoch, Counter: s.fence.Counter})
			if err != nil || lives {
				return err
			}
			// As the sweep will record it: in a licence that grants no seats, that is how its sessions are evicted.
			reason := seat.ReasonLeaseExpired
			s.Status = seat.Lapsed
			if s.state != statusActive {
				s.Status, reason = seat.Evicted, s.state
			}
			s.EndReason = &reason
			return nil
		})
	}
	if err := look.Wait(); err != nil {
		d.Log.WarnContext(ctx, "sessions are shown without their leases", slog.Any("error", err))
	}
}

// statusActive is a session's status while it holds its seat, and a licence's state while it grants seats.
const statusActive = "active"
