package incident

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// What can be done about an incident.
const (
	freezeTenant     = "freeze_tenant"
	endSessions      = "end_sessions"
	revokeLicenses   = "revoke_licenses"
	revokeAPIKeys    = "revoke_api_keys"
	revokeSigningKey = "revoke_signing_key"
	rotateSigningKey = "rotate_signing_key"
	unfreezeTenant   = "unfreeze_tenant"
)

// respondWithin is how soon somebody looks at an incident.
var respondWithin = map[string]time.Duration{"P0": 5 * time.Minute, "P1": 15 * time.Minute, "P2": time.Hour, "P3": 4 * time.Hour}

// afterwards is how long putting things right may take when the time of a request is over.
const afterwards = 2 * time.Second

func (d Deps) open(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q Request
	if err := decode(c, &q); err != nil {
		return httpx.Reply{}, err
	}
	if err := q.check(); err != nil {
		return httpx.Reply{}, err
	}
	request, err := requestOf(c, who)
	if err != nil {
		return httpx.Reply{}, err
	}
	if who.offline {
		return d.openOffline(c, who, &q, request.ID())
	}
	scope, err := d.scope(c.Context(), q.Scope)
	if err != nil {
		return httpx.Reply{}, err
	}
	return d.once(c, request, func(ctx context.Context, id uuid.UUID) (any, error) {
		i, err := d.incidentOf(ctx, who, &q, id)
		if err != nil {
			return nil, err
		}
		i.Scope = scope.texts()
		err = d.DB.As(ctx, identity.Operator(), func(tx tenancy.Tx) error {
			_, err := d.insert(ctx, tx, who.actor, &i, scope, nil)
			return err
		})
		if err != nil {
			return nil, err
		}
		c.Note(slog.String("incident", i.ID.String()), slog.String("severity", i.Severity))
		opened, err := d.read(ctx, i.ID)
		if err != nil {
			return nil, err
		}
		d.actAll(ctx, who.actor, &opened)
		d.tell(ctx, i.ID)
		opened, err = d.read(ctx, i.ID)
		return opened.Incident, err
	})
}

// decode reads a body, of a route without a query.
func decode(c *httpx.Call, body any) error {
	if err := c.DecodeQuery(nil); err != nil {
		return err
	}
	return c.Decode(body)
}

// check says what is wrong with a request that is well-formed.
func (q *Request) check() error {
	var faults []fault.Field
	s := q.Scope
	ofTenant := s.TenantID != nil || s.LicenseID != nil || s.UserID != nil || s.APIKeyID != nil
	for n, action := range q.Actions {
		wants, named := "tenant_id", ofTenant
		switch action {
		case revokeSigningKey:
			wants, named = "signing_key_id", s.SigningKeyID != ""
		case rotateSigningKey:
			named = true
		}
		if !named {
			faults = append(faults, fault.Field{Field: "scope." + wants, Code: "required", Detail: "The action " + action + " needs to know whose."})
		}
		if slices.Contains(q.Actions[:n], action) {
			faults = append(faults, fault.Field{Field: "actions", Code: "not_allowed", Detail: "An action is named twice."})
		}
	}
	if faults != nil {
		return fault.Invalid("The incident is not valid.", faults...)
	}
	return nil
}

// scope is whom an incident is about, with the tenant whose the things are that it names.
func (d Deps) scope(ctx context.Context, q Scope) (About, error) {
	s := About{TenantID: q.TenantID, LicenseID: q.LicenseID, UserID: q.UserID, APIKeyID: q.APIKeyID}
	if q.SigningKeyID != "" {
		s.SigningKeyID = &q.SigningKeyID
	}
	wrong := func(field string, err error) error {
		if f := fault.As(err); f == nil || f.Kind != fault.KindNotFound {
			return err
		}
		return fault.Invalid("The incident is not valid.", fault.Field{Field: field, Code: "not_allowed", Detail: "There is no such thing, or it is not this tenant's."})
	}
	if q.LicenseID != nil || q.UserID != nil || q.APIKeyID != nil {
		owner, err := d.Keys.OwnerOf(ctx, orNil(q.LicenseID), orNil(q.UserID), orNil(q.APIKeyID))
		if err != nil {
			return s, wrong("scope", err)
		}
		id := owner.UUID()
		if q.TenantID != nil && *q.TenantID != id {
			return s, wrong("scope.tenant_id", fault.NotFound("not_found", ""))
		}
		s.TenantID = &id
		return s, nil
	}
	if q.TenantID != nil {
		if _, err := d.Keys.Customer(ctx, *q.TenantID); err != nil {
			return s, wrong("scope.tenant_id", err)
		}
	}
	return s, nil
}

func orNil(id *uuid.UUID) uuid.UUID {
	if id == nil {
		return uuid.Nil
	}
	return *id
}

// texts is the scope as the journal has it.
func (s About) texts() map[string]string {
	texts := map[string]string{}
	for name, id := range map[string]*uuid.UUID{"tenant_id": s.TenantID, "license_id": s.LicenseID, "user_id": s.UserID, "api_key_id": s.APIKeyID} {
		if id != nil {
			texts[name] = id.String()
		}
	}
	if s.SigningKeyID != nil {
		texts["signing_key_id"] = *s.SigningKeyID
	}
	return texts
}

// scopeOf is the way back from texts.
func scopeOf(texts map[string]string) (q Scope, err error) {
	for name, to := range map[string]**uuid.UUID{"tenant_id": &q.TenantID, "license_id": &q.LicenseID, "user_id": &q.UserID, "api_key_id": &q.APIKeyID} {
		text, named := texts[name]
		if !named {
			continue
		}
		id, err := uuid.Parse(text)
		if err != nil {
			return q, err
		}
		*to = &id
	}
	q.SigningKeyID = texts["signing_key_id"]
	return q, nil
}

// incidentOf is the incident that a request opens, as of now.
func (d Deps) incidentOf(ctx context.Context, who caller, q *Request, id uuid.UUID) (journal.Incident, error) {
	now := d.Now()
	if !who.offline {
		var err error
		if now, err = d.DB.Now(ctx); err != nil {
			return journal.Incident{}, err
		}
	}
	if id == uuid.Nil {
		var err error
		if id, err = uuid.NewV7(); err != nil {
			return journal.Incident{}, err
		}
	}
	now = now.UTC().Truncate(time.Millisecond)
	return journal.Incident{
		ID: id, Severity: q.Severity, Kind: q.Kind, Summary: q.Summary, Actions: append([]string{}, q.Actions...), By: who.by, At: now,
		RespondBy: now.Add(respondWithin[q.Severity]), Offline: who.offline,
	}, nil
}

// openOffline writes an incident to the journal alone. What it is about is looked up when the database is back.
func (d Deps) openOffline(c *httpx.Call, who caller, q *Request, id uuid.UUID) (httpx.Reply, error) {
	ctx := c.Context()
	i, err := d.incidentOf(ctx, who, q, id)
	if err != nil {
		return httpx.Reply{}, err
	}
	scope := About{TenantID: q.Scope.TenantID, LicenseID: q.Scope.LicenseID, UserID: q.Scope.UserID, APIKeyID: q.Scope.APIKeyID}
	if q.Scope.SigningKeyID != "" {
		scope.SigningKeyID = &q.Scope.SigningKeyID
	}
	i.Scope = scope.texts()
	e, err := newEntry(i.ID, i.At, whatOpened, who.by, i.Summary, openingDetails(&i))
	if err != nil {
		return httpx.Reply{}, err
	}
	if id != uuid.Nil { // a repetition writes nothing new
		e.ID = id
	}
	e.Opening = &i
	if err := d.Journal.WriteEntry(ctx, e); err != nil {
		return httpx.Reply{}, err
	}
	kept, err := d.Journal.ReadIncident(ctx, i.ID)
	if err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.String("incident", i.ID.String()), slog.String("severity", i.Severity))
	shown, err := offlineIncident(&kept)
	return httpx.Reply{Status: http.StatusCreated, Body: shown}, err
}

// offlineIncident is an incident as the journal alone knows it.
func offlineIncident(i *journal.Incident) (Incident, error) {
	q, err := scopeOf(i.Scope)
	if err != nil {
		return Incident{}, err
	}
	shown := Incident{
		ID: i.ID, Severity: i.Severity, Kind: i.Kind, Summary: i.Summary, Status: "open", Actions: []Action{}, Evidence: []Evidence{},
		OpenedBy: i.By, OpenedAt: httpx.At(i.At), RespondBy: httpx.At(i.RespondBy), Offline: i.Offline, Journal: "written",
		Scope: About{TenantID: q.TenantID, LicenseID: q.LicenseID, UserID: q.UserID, APIKeyID: q.APIKeyID},
	}
	if q.SigningKeyID != "" {
		shown.Scope.SigningKeyID = &q.SigningKeyID
	}
	for _, action := range i.Actions {
		shown.Actions = append(shown.Actions, Action{Action: action, Outcome: pending, Detail: "The database cannot be reached: what became of it is known, or it is done, when that is back."})
	}
	return shown, nil
}

// requestOf is a POST as it may be repeated.
func requestOf(c *httpx.Call, who caller) (idempotency.Request, error) {
	key, err := idempotency.KeyOf(c.Request().Header)
	if err != nil {
		return idempotency.Request{}, err
	}
	body, err := c.Body()
	if err != nil {
		return idempotency.Request{}, err
	}
	return idempotency.Request{Tenant: identity.Operator(), Scope: who.by + " POST " + c.Request().URL.Path, Key: key, Body: body}, nil
}

// once answers a POST that makes something of the request's number with 201, and a repetition with the first answer. What was made
// when the answer could not be remembered is found again under that number. No transaction lasts while it is made.
func (d Deps) once(c *httpx.Call, request idempotency.Request, do func(ctx context.Context, id uuid.UUID) (any, error)) (httpx.Reply, error) {
	ctx := c.Context()
	var claim *idempotency.Claim
	if request.Key != "" {
		var first *idempotency.Answer
		err := d.DB.As(ctx, request.Tenant, func(tx tenancy.Tx) (err error) {
			claim, first, err = idempotency.Begin(ctx, tx, request)
			return err
		})
		if err != nil {
			return httpx.Reply{}, err
		}
		if first != nil {
			return httpx.Reply{
				Status: first.Status, Body: httpx.Raw(first.Body), Header: http.Header{idempotency.ReplayedHeader: {"true"}},
			}, nil
		}
	}
	made, err := do(ctx, request.ID())
	if claim == nil {
		return httpx.Reply{Status: http.StatusCreated, Body: made}, err
	}
	later, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	if err != nil {
		return httpx.Reply{}, errors.Join(err, d.DB.As(later, request.Tenant, func(tx tenancy.Tx) error { return claim.Abandon(later, tx) }))
	}
	body, err := idempotency.Encode(made)
	if err != nil {
		return httpx.Reply{}, err
	}
	err = d.DB.As(later, request.Tenant, func(tx tenancy.Tx) error {
		return claim.Complete(later, tx, idempotency.Answer{Status: http.StatusCreated, Body: body})
	})
	return httpx.Reply{Status: http.StatusCreated, Body: httpx.Raw(body)}, err
}
