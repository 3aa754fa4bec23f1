// Package incident is what is done on the day that something goes wrong: incidents with what is to be done about them at once,
// their timeline, and the kill switches. It also watches for what deserves an incident by itself.
//
//	GET  /v1/incidents                ?status=
//	POST /v1/incidents                {severity, kind, summary, scope: {tenant_id?, license_id?, user_id?, api_key_id?, signing_key_id?}, actions[]}
//	GET  /v1/incidents/{id}           with its timeline
//	POST /v1/incidents/{id}/notes     {text}
//	POST /v1/incidents/{id}/resolve   {resolution, unfreeze?}
//	GET  /v1/incidents/{id}/export    one signed file
//	GET  /v1/switches   PUT           {freeze_admissions, read_only, frozen_tenants[], reason}
//	GET  /v1/checkpoints              ?tenant_id=   of its audit chain, from the journal
//	GET  /v1/checkpoints/tenants      who has any
//	POST /tasks/watch                 Authorization: Bearer <OIDC token of the scheduler>; body {} or none
//
// All but the last are the operator's: its API keys with the scopes incidents:read and incidents:write, its people from viewer
// and from admin.
//
//	401  api_key_invalid, id_token_… (docs/people.md), scheduler_token_invalid
//	403  forbidden, email_not_verified, membership_missing, membership_revoked
//	404  not_found
//	409  journal_off: switches and checkpoints are kept in the journal; switches_changed, idempotency_in_flight
//	422  invalid_request, idempotency_key_reused
//	503  store_unavailable
//
// An incident is opened first, and then acted upon. Each action may be done again without doing more, has an outcome of its own
// (done, failed, pending) and takes effect everywhere within five seconds: at the next heartbeat, the next token check, the next
// validate. What is pending, because a store was out, the watch does, each minute.
//
// Opening and acting are recorded in the audit log, in the transaction that does them, and in the journal outside the database.
// While the journal is out its entries wait in the database; while the database is out, incidents, notes and switches are written
// to the journal alone, by whoever shows an ID token with the verified claim usher_operator, and come to the database afterwards.
package incident

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/rotation"
	"github.com/coditect/usher/shared/tenancy"
)

// Deps is what the function works with.
type Deps struct {
	// DB logs in as usher_incident.
	DB       *tenancy.DB
	Keys     *identity.Verifier
	People   *identity.People
	Seats    *seat.Pools
	Budgets  *budget.Budgets
	Journal  *journal.Journal
	Rotation *rotation.Rotation
	// Checkpoints are of the Journal, and kept as long as the instance.
	Checkpoints *journal.Checkpoints
	// Roots sign exported incidents and checkpoints, in the name of Issuer.
	Roots     *signing.Roots
	Issuer    string
	Scheduler *identity.SchedulerVerifier
	Limits    Limits
	Now       func() time.Time
	Log       *slog.Logger
}

// Scope says whom an incident is about.
type Scope struct {
	TenantID     *uuid.UUID `json:"tenant_id,omitempty"`
	LicenseID    *uuid.UUID `json:"license_id,omitempty"`
	UserID       *uuid.UUID `json:"user_id,omitempty"`
	APIKeyID     *uuid.UUID `json:"api_key_id,omitempty"`
	SigningKeyID string     `json:"signing_key_id,omitempty" minLength:"1" maxLength:"64" doc:"The kid of a signing key."`
}

// Request opens an incident.
type Request struct {
	Severity string   `json:"severity" enum:"P0,P1,P2,P3" doc:"Somebody looks at it within 5 minutes, 15 minutes, 1 hour or 4 hours."`
	Kind     string   `json:"kind" pattern:"^[a-z][a-z0-9_]{0,59}$" doc:"A word for what happened, such as key_leaked."`
	Summary  string   `json:"summary" minLength:"1" maxLength:"500"`
	Scope    Scope    `json:"scope,omitzero" doc:"Whom it is about; left out, the whole deployment."`
	Actions  []string `json:"actions,omitempty" maxItems:"6" enum:"freeze_tenant,end_sessions,revoke_licenses,revoke_api_keys,revoke_signing_key,rotate_signing_key" doc:"What to do at once, in this order. Sessions, licences and API keys are those of the scope: of the licence, the user or the key that it names, else of the tenant."`
}

// Action is what became of something that was to be done.
type Action struct {
	Action  string      `json:"action" enum:"freeze_tenant,end_sessions,revoke_licenses,revoke_api_keys,revoke_signing_key,rotate_signing_key,unfreeze_tenant"`
	Outcome string      `json:"outcome" enum:"done,failed,pending" doc:"What is pending the next run of the watch does, a minute later."`
	Detail  string      `json:"detail" doc:"How much was done, or why it was not."`
	At      *httpx.Time `json:"at" doc:"When it was decided; null while it is pending."`
}

// Incident is an incident as it is now.
type Incident struct {
	ID          uuid.UUID   `json:"id"`
	Severity    string      `json:"severity" enum:"P0,P1,P2,P3"`
	Kind        string      `json:"kind"`
	Summary     string      `json:"summary"`
	Status      string      `json:"status" enum:"open,resolved"`
	Scope       About       `json:"scope"`
	Actions     []Action    `json:"actions"`
	Evidence    []Evidence  `json:"evidence" doc:"What an incident that opened by itself was opened for, the most first."`
	OpenedBy    string      `json:"opened_by"`
	OpenedAt    httpx.Time  `json:"opened_at"`
	RespondBy   httpx.Time  `json:"respond_by" doc:"When somebody should have looked at it."`
	RespondedAt *httpx.Time `json:"responded_at" doc:"When a person first did something about it."`
	ResolvedAt  *httpx.Time `json:"resolved_at"`
	ResolvedBy  *string     `json:"resolved_by"`
	Resolution  *string     `json:"resolution"`
	Offline     bool        `json:"offline" doc:"It was opened while the database was out."`
	// Journal is whether what happened so far stands in the journal.
	Journal string `json:"journal" enum:"written,waiting,off" doc:"Whether its entries stand in the journal, outside the database, too."`
}

// About is whom an incident is about, as it is shown.
type About struct {
	TenantID     *uuid.UUID `json:"tenant_id"`
	LicenseID    *uuid.UUID `json:"license_id"`
	UserID       *uuid.UUID `json:"user_id"`
	APIKeyID     *uuid.UUID `json:"api_key_id"`
	SigningKeyID *string    `json:"signing_key_id"`
}

// Evidence is how often something was seen, and of whom.
type Evidence struct {
	Source    string     `json:"source" doc:"address:…, tenant:… or license:…; others are those that were too many to keep apart."`
	Count     int64      `json:"count"`
	FirstSeen httpx.Time `json:"first_seen" doc:"The minute in which it was first seen."`
	LastSeen  httpx.Time `json:"last_seen"`
}

// Shown is an incident with its timeline.
type Shown struct {
	Incident
	Timeline []Event `json:"timeline" doc:"The oldest first."`
}

// Event is a part of a timeline.
type Event struct {
	At   httpx.Time `json:"at"`
	What string     `json:"what" doc:"opened, acted, failed, noted, resolved; of what else was done to the tenant meanwhile the audit log's action."`
	By   string     `json:"by"`
	Text string     `json:"text"`
	// RecordedIn names where it stands.
	RecordedIn []string          `json:"recorded_in" doc:"audit, journal, or both. What the journal alone has was written while the database was out, or is not in the database any more."`
	Seq        *int64            `json:"seq" doc:"Of the entry in the audit log."`
	Details    map[string]string `json:"details"`
}

// Note is something that is to be remembered.
type Note struct {
	Text string `json:"text" minLength:"1" maxLength:"2000"`
}

// Resolution ends an incident.
type Resolution struct {
	Resolution string `json:"resolution" minLength:"1" maxLength:"2000" doc:"What it was, and what was done about it."`
	Unfreeze   bool   `json:"unfreeze,omitempty" doc:"Whether to undo the freeze of its tenant; else the tenant stays frozen."`
}

// Export is an incident to be handed to somebody outside.
type Export struct {
	IncidentFile string `json:"incident_file" doc:"PEM, signed by a root: the incident and its timeline as they are now."`
}

// List is a part of the incidents.
type List struct {
	Items      []Incident `json:"items"`
	NextCursor *string    `json:"next_cursor" doc:"Asks for the page after this one; null when there is none."`
}

// ListQuery says which incidents are asked for.
type ListQuery struct {
	Status string `query:"status" enum:"open,resolved" doc:"Of this status alone."`
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many to answer at most."`
	Cursor string `query:"cursor" maxLength:"64" doc:"The next_cursor of the page before."`
}

// Switches are the kill switches.
type Switches struct {
	FreezeAdmissions bool        `json:"freeze_admissions" doc:"Nobody gets a seat who has none. Who sits keeps it."`
	ReadOnly         bool        `json:"read_only" doc:"No person and no automation changes anything; seats are taken, kept and given back."`
	FrozenTenants    []uuid.UUID `json:"frozen_tenants" maxItems:"1000" doc:"Tenants that are suspended until they are taken off this list."`
	Version          int64       `json:"version" doc:"Counts the settings."`
	Reason           *string     `json:"reason"`
	SetBy            *string     `json:"set_by"`
	SetAt            *httpx.Time `json:"set_at"`
	Journal          string      `json:"journal" enum:"written,off" doc:"The switches are kept in the journal; while it is off there are none."`
}

// SwitchesRequest sets the switches, all of them.
type SwitchesRequest struct {
	FreezeAdmissions bool        `json:"freeze_admissions"`
	ReadOnly         bool        `json:"read_only"`
	FrozenTenants    []uuid.UUID `json:"frozen_tenants,omitempty" maxItems:"1000" doc:"Exactly these are frozen then; left out, those that are."`
	Version          *int64      `json:"version,omitempty" doc:"That of the switches as they were read: others that were set since are not overwritten, but 409 switches_changed."`
	Reason           string      `json:"reason" minLength:"1" maxLength:"500"`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "incident", Version: "development", Log: d.Log}, Routes(d)...)
}

const (
	// taskDeadline is within what the scheduler waits for (60 s).
	taskDeadline = 50 * time.Second
	// actDeadline is how long opening an incident may take, with all that it does.
	actDeadline = 25 * time.Second
)

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	operators := func(r httpx.Route, need identity.Need, do func(*httpx.Call, caller) (httpx.Reply, error)) httpx.Route {
		r.Tag = "incident"
		r.Credentials = []httpx.Credential{httpx.APIKey, httpx.IDToken}
		r.Needs = map[httpx.Credential]string{httpx.APIKey: string(need.Scope), httpx.IDToken: string(need.Role)}
		r.OperatorOnly = true
		r.Problems = append(r.Problems, http.StatusForbidden, http.StatusBadRequest, http.StatusUnprocessableEntity)
		r.Handle = func(c *httpx.Call) (httpx.Reply, error) {
			who, err := d.caller(c, need)
			if err != nil {
				return httpx.Reply{}, err
			}
			return do(c, who)
		}
		return r
	}
	return httpx.Watched(d.Budgets.Refused, []httpx.Route{
		operators(httpx.Route{
			Method: "GET", Path: "/v1/incidents", ID: "list_incidents",
			Summary: "List the incidents, the newest first",
			Query:   ListQuery{},
			Replies: []httpx.Doc{{Status: http.StatusOK, Body: List{}}},
		}, reads, d.list),
		operators(httpx.Route{
			Method: "POST", Path: "/v1/incidents", ID: "open_incident",
			Summary:     "Open an incident, and act",
			Description: "Each action takes effect within five seconds, everywhere. While the database is out the incident is written to the journal, and its actions are done when the database is back.",
			Body:        Request{}, Idempotent: true,
			Replies:  []httpx.Doc{{Status: http.StatusCreated, Body: Incident{}}},
			Problems: []int{http.StatusConflict},
			Timeout:  actDeadline,
		}, writes, d.open),
		operators(httpx.Route{
			Method: "GET", Path: "/v1/incidents/{id}", ID: "show_incident",
			Summary:     "Show an incident with its timeline",
			Description: "From the audit log and the journal, and what else was done to its tenant while it was open.",
			Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Shown{}}},
		}, reads, d.show),
		operators(httpx.Route{
			Method: "POST", Path: "/v1/incidents/{id}/notes", ID: "note_incident",
			Summary: "Note something about an incident",
			Body:    Note{}, Idempotent: true,
			Replies:  []httpx.Doc{{Status: http.StatusCreated, Body: Event{}}},
			Problems: []int{http.StatusConflict},
		}, writes, d.note),
		operators(httpx.Route{
			Method: "POST", Path: "/v1/incidents/{id}/resolve", ID: "resolve_incident",
			Summary:     "Resolve an incident",
			Description: "What was ended and revoked stays so; the tenant stays frozen unless unfreeze is true, and while another open incident keeps it frozen. One that is resolved already stays as it is.",
			Body:        Resolution{},
			Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Incident{}}},
			Timeout:     actDeadline,
		}, writes, d.resolve),
		operators(httpx.Route{
			Method: "GET", Path: "/v1/incidents/{id}/export", ID: "export_incident",
			Summary:     "Export an incident as one signed file",
			Description: "Signed as licence files are: whoever has the key set verifies it.",
			Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Export{}}},
		}, reads, d.export),
		operators(httpx.Route{
			Method: "GET", Path: "/v1/switches", ID: "show_switches",
			Summary: "Show the kill switches",
			Replies: []httpx.Doc{{Status: http.StatusOK, Body: Switches{}}},
		}, reads, d.showSwitches),
		operators(httpx.Route{
			Method: "PUT", Path: "/v1/switches", ID: "set_switches",
			Summary:     "Set the kill switches",
			Description: "All of them: what is not on is off. Within five seconds they hold everywhere.",
			Body:        SwitchesRequest{},
			Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Switches{}}},
			Problems:    []int{http.StatusConflict},
			Timeout:     actDeadline,
		}, writes, d.setSwitches),
		operators(httpx.Route{
			Method: "GET", Path: "/v1/checkpoints", ID: "list_checkpoints",
			Summary:     "List the checkpoints of a tenant's audit chain, the oldest first",
			Description: "From the journal, each signed by a root. Whoever keeps the roots' public keys compares the chain of GET /v1/audit with them, and need not believe the service.",
			Query:       CheckpointQuery{},
			Replies:     []httpx.Doc{{Status: http.StatusOK, Body: CheckpointPage{}}},
			Problems:    []int{http.StatusConflict},
		}, reads, d.listCheckpoints),
		operators(httpx.Route{
			Method: "GET", Path: "/v1/checkpoints/tenants", ID: "list_checkpointed_tenants",
			Summary:     "List the tenants that have checkpoints",
			Description: "From the journal: those too that are not in the database any more.",
			Query:       CheckpointedQuery{},
			Replies:     []httpx.Doc{{Status: http.StatusOK, Body: CheckpointedPage{}}},
			Problems:    []int{http.StatusConflict},
		}, reads, d.listCheckpointed),
		{
			Method: "POST", Path: "/tasks/watch", ID: "watch", Tag: "incident",
			Summary:     "See what deserves an incident, and finish what waits",
			Description: "Called by the scheduler each minute.",
			Credentials: []httpx.Credential{httpx.SchedulerToken},
			Replies:     []httpx.Doc{{Status: http.StatusOK, Body: WatchAnswer{}, Description: "What was done."}},
			Timeout:     taskDeadline,
			Handle:      d.watch,
		},
	})
}

var (
	reads  = identity.Need{Scope: identity.IncidentsRead, Role: identity.Viewer, Operator: true}
	writes = identity.Need{Scope: identity.IncidentsWrite, Role: identity.Admin, Operator: true}
)
