package admin

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// act is what the caller does, to be recorded.
func (who caller) act(c *httpx.Call, action, subject string, details map[string]string) audit.Entry {
	credential := "id_token"
	if who.APIKey != uuid.Nil {
		credential = "api_key:" + who.APIKey.String()
	}
	return audit.Entry{
		Action: action, Actor: who.By(), ByOperator: who.Operator, Credential: credential, Address: c.Address(),
		Subject: subject, RequestID: c.ID(), Details: details,
	}
}

// asSent is the body of a request that holds no secret, as a detail of an act.
func asSent(c *httpx.Call) map[string]string {
	body, err := c.Body()
	if err != nil || len(body) == 0 {
		return nil
	}
	return map[string]string{"request": string(body)}
}

func licenseSubject(id uuid.UUID) string { return "license:" + id.String() }

func userSubject(id uuid.UUID) string { return "user:" + id.String() }

// removal records that a user is removed or, who never came, is invited no more; not again of one who was before.
func (who caller) removal(c *httpx.Call, tx tenancy.Tx, was, is *identity.User) error {
	if was.Status == is.Status {
		return nil
	}
	action := "user.removed"
	if is.JoinedAt == nil {
		action = "invitation.withdrawn"
	}
	return audit.Record(c.Context(), tx, who.act(c, action, userSubject(is.ID), map[string]string{"email": is.Email, "role": string(is.Role)}))
}

// eviction records that a session is evicted.
func (who caller) eviction(c *httpx.Call, session uuid.UUID, reason string) func(tenancy.Tx) error {
	return func(tx tenancy.Tx) error {
		return audit.Record(c.Context(), tx, who.act(c, "session.evicted", "session:"+session.String(), map[string]string{"reason": reason}))
	}
}

// onTenant records what becomes of a tenant, in its own chain.
func (who caller) onTenant(c *httpx.Call, reason string) identity.Recorder {
	return func(ctx context.Context, tx tenancy.Tx, was *identity.Tenant, is identity.Tenant) error {
		action, details := "tenant.changed", map[string]string{"name": is.Name, "slug": is.Slug}
		switch {
		case was == nil:
			action = "tenant.created"
		case was.Status != is.Status && is.Status == identity.StatusSuspended:
			action = "tenant.suspended"
		case was.Status != is.Status:
			action = "tenant.reinstated"
		}
		if reason != "" {
			details["reason"] = reason
		}
		if action == "tenant.suspended" {
			// Each of the owners that there are now: of each suspension, once.
			err := notify.QueueToOwners(ctx, tx, notify.Mail{
				Kind: notify.TenantSuspended, Data: map[string]string{"organization": is.Name, "reason": reason},
			})
			if err != nil {
				return err
			}
		}
		return audit.Record(ctx, tx, who.act(c, action, "tenant:"+is.ID.String(), details))
	}
}

// refusalsRest is for how long a refusal is not recorded again: whoever has no right to anything must not be able to fill
// the database.
const refusalsRest = time.Hour

// refuseCredential records that a credential was refused, in the chain of the tenant that it was made for. One that nobody
// has is in the log of requests alone: there is no tenant to tell, and no end to them.
func (d Deps) refuseCredential(c *httpx.Call, because error) {
	if r, ok := errors.AsType[*identity.Refused](because); ok {
		d.recordRefusal(c, identity.Principal{Tenant: r.Tenant, APIKey: r.APIKey, User: r.User, Operator: r.Operator}, "credential.used", because)
	}
}

// recordRefusal records that somebody who is known was refused, once in a while.
func (d Deps) recordRefusal(c *httpx.Call, p identity.Principal, action string, because error) {
	f := fault.As(because)
	if f == nil {
		return
	}
	who := caller{Principal: p, tenant: p.Tenant}
	e := who.act(c, action, "tenant:"+p.Tenant.String(), map[string]string{
		"code": f.Code, "request": c.Request().Method + " " + c.Request().URL.Path,
	})
	e.Refused = true
	err := d.DB.As(c.Context(), p.Tenant, func(tx tenancy.Tx) error { return audit.RecordOnce(c.Context(), tx, e, refusalsRest) })
	if err != nil { // the refusal holds all the same
		d.Log.WarnContext(c.Context(), "a refusal was not recorded", slog.String("tenant", p.Tenant.String()), slog.Any("error", err))
	}
}

// AuditEntry is an act in the audit log.
type AuditEntry struct {
	Seq          int64             `json:"seq" doc:"Counts a tenant's entries from 1, without a gap."`
	At           httpx.Time        `json:"at" doc:"Never earlier than the entry before."`
	Action       string            `json:"action" doc:"A thing and what was done with it, such as license.suspended."`
	Outcome      string            `json:"outcome" enum:"done,refused"`
	Actor        string            `json:"actor" doc:"Who did it: api_key:…, user:…, or a command such as bootstrap."`
	ByOperator   bool              `json:"by_operator" doc:"The actor acted for the operator."`
	Credential   string            `json:"credential" doc:"What the actor showed; empty for a command."`
	Address      string            `json:"address" doc:"Where the request came from; empty for a command."`
	Subject      string            `json:"subject" doc:"What it was done to: license:…, session:…, tenant:…"`
	RequestID    string            `json:"request_id" doc:"What the logs know the request by."`
	Details      map[string]string `json:"details" doc:"What more there is to say, by name."`
	PreviousHash auditchain.Hash   `json:"previous_hash" doc:"The hash of the entry before, in hexadecimal."`
	Hash         auditchain.Hash   `json:"hash" doc:"SHA-256 over everything above, as docs/audit.md says."`
}

// AuditPage is a part of the audit log.
type AuditPage struct {
	Page[AuditEntry]
	Chain auditchain.Chain `json:"chain" doc:"Where the tenant's entries begin and end; what is between can be verified."`
}

// AuditQuery says which entries are asked for.
type AuditQuery struct {
	TenantPaging
	Action  string      `query:"action" maxLength:"81" doc:"Of this action alone."`
	Actor   string      `query:"actor" maxLength:"300" doc:"By this actor alone."`
	Subject string      `query:"subject" maxLength:"300" doc:"About this alone."`
	Outcome string      `query:"outcome" enum:"done,refused" doc:"Of this outcome alone."`
	From    *httpx.Time `query:"from" doc:"Not before this time."`
	To      *httpx.Time `query:"to" doc:"Before this time."`
}

var auditRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/audit", ID: "list_audit",
		Summary:     "List what was done, the newest first",
		Description: "Every security- or money-relevant act. The operator that names no tenant gets its own acts: the catalogue's, and those on its own keys.",
		Query:       AuditQuery{},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: AuditPage{}}},
	}, do: Deps.listAudit,
}}

func (d Deps) listAudit(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q AuditQuery
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	cursor, err := q.after(uuid.Nil)
	if err != nil {
		return httpx.Reply{}, err
	}
	before := audit.End()
	if q.Cursor != "" {
		before = placeOf(cursor)
	}
	filter := audit.Filter{Action: q.Action, Actor: q.Actor, Subject: q.Subject, Outcome: q.Outcome, From: q.From.Or(), To: q.To.Or()}
	var rows []auditchain.Entry
	var chain auditchain.Chain
	err = d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		// The ends first: no entry up to them can be missing in a page that is read later.
		if chain, err = audit.ReadChain(c.Context(), tx, who.tenant); err != nil {
			return err
		}
		rows, err = audit.List(c.Context(), tx, who.tenant, filter, before, q.more())
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: AuditPage{pageOf(rows, q.Paging, cursorAt, auditEntryOf), chain}}, nil
}

func auditEntryOf(e *auditchain.Entry) AuditEntry {
	return AuditEntry{
		Seq: e.Seq, At: httpx.At(e.At), Action: e.Action, Outcome: e.Outcome, Actor: e.Actor, ByOperator: e.ByOperator,
		Credential: e.Credential, Address: e.Address, Subject: e.Subject, RequestID: e.RequestID, Details: e.Details,
		PreviousHash: e.Previous, Hash: e.Hash,
	}
}

// cursorAt writes an entry's place in the 16 bytes of a cursor: its time and its number.
func cursorAt(e *auditchain.Entry) (cursor uuid.UUID) {
	binary.BigEndian.PutUint64(cursor[:8], uint64(e.At.UnixMilli()))
	binary.BigEndian.PutUint64(cursor[8:], uint64(e.Seq))
	return cursor
}

// placeOf is the way back from cursorAt. What no entry has is a place, too: one where nothing is, or all.
func placeOf(cursor uuid.UUID) audit.Place {
	ms := binary.BigEndian.Uint64(cursor[:8])
	return audit.Place{At: time.UnixMilli(int64(min(ms, uint64(audit.End().At.UnixMilli())))).UTC(), Seq: int64(binary.BigEndian.Uint64(cursor[8:]))}
}
