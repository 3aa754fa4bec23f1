package incident

import (
	"log/slog"
	"net/netip"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/httpx"
)

// caller is who asks.
type caller struct {
	actor
	// offline says that the database is out, and that only what the journal can do is to be done.
	offline bool
}

// actor is who does something, as it is recorded.
type actor struct {
	by, credential, request string
	address                 netip.Addr
	// person: not the watch.
	person bool
}

// act is something that the actor does, to be recorded.
func (a actor) act(action, subject string, details map[string]string) audit.Entry {
	return audit.Entry{
		Action: action, Actor: a.by, ByOperator: true, Credential: a.credential, Address: a.address,
		Subject: subject, RequestID: a.request, Details: details,
	}
}

// caller decides 401 and 403.
func (d Deps) caller(c *httpx.Call, need identity.Need) (caller, error) {
	bearer, ok := c.Bearer()
	if !ok {
		return caller{}, fault.Unauthenticated("api_key_invalid", "The request needs an API key or an ID token, sent once as Authorization: Bearer …")
	}
	who := caller{actor: actor{request: c.ID(), address: c.Address(), person: true}}
	p, err := d.principal(c, bearer)
	if f := fault.As(err); f != nil && f.Kind == fault.KindUnavailable && identity.IsIDToken(bearer) {
		return d.offline(c, bearer, who, err)
	}
	if err != nil {
		return caller{}, err
	}
	who.by, who.credential = p.By(), "api_key:"+p.APIKey.String()
	if p.IsPerson() {
		who.credential = "id_token"
	}
	c.Note(slog.String("by", who.by))
	return who, p.Allow(need)
}

// principal is whose credential it is.
func (d Deps) principal(c *httpx.Call, bearer string) (identity.Principal, error) {
	if !identity.IsIDToken(bearer) {
		return d.Keys.APIKey(c.Context(), bearer)
	}
	_, p, err := d.People.SignIn(c.Context(), bearer)
	return p, err
}

// offline is a caller while the database is out: nobody can say what they are but the issuer of their token. Because is how the
// database failed.
func (d Deps) offline(c *httpx.Call, bearer string, who caller, because error) (caller, error) {
	person, err := d.People.Identify(c.Context(), bearer)
	if err != nil {
		return caller{}, err
	}
	if !person.Operator || d.Journal.Off() {
		return caller{}, because
	}
	who.by, who.credential, who.offline = person.By(), "id_token", true
	c.Note(slog.String("by", who.by), slog.Bool("offline", true))
	d.Log.WarnContext(c.Context(), "the database is out; an operator's ID token is taken at its word", "by", who.by, "error", because)
	return who, nil
}

// online is nil unless the database is out.
func (who caller) online() error {
	if who.offline {
		return fault.Unavailable(errOffline)
	}
	return nil
}
