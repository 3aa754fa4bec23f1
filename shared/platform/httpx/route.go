package httpx

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// Credential names how a caller proves who they are. It documents a route; the route's Handle does the proving.
type Credential string

// The credentials of the contract.
const (
	LicenseKey     Credential = "license_key"     // license_key in the body
	SeatToken      Credential = "seat_token"      // Authorization: Bearer ust_…
	APIKey         Credential = "api_key"         // Authorization: Bearer ush_…
	IDToken        Credential = "id_token"        // Authorization: Bearer, an RS256 JWT of the configured issuer
	SchedulerToken Credential = "scheduler_token" // Authorization: Bearer, a Google OIDC token of Cloud Scheduler
)

// Route is one operation: what it takes, what it answers, and the function that does it. The OpenAPI document, the
// validation of what comes in and the shape of what goes out all follow from the same Go types.
type Route struct {
	// Method is "GET", "POST", "PUT", "PATCH" or "DELETE". A GET route answers HEAD too.
	Method string
	// Path is a pattern of net/http without a method, such as "/v1/licenses/{id}/suspend".
	Path string

	// ID is the operation's name in the OpenAPI document, such as "acquire_seat".
	ID string
	// Summary says in a few words what the operation does.
	Summary string
	// Description says the rest.
	Description string
	// Tag is the name of the function that serves the route.
	Tag string
	// Credentials lists what a caller may prove themselves with, any one of them; none means that the route is public.
	Credentials []Credential
	// Needs documents what a credential must be good for: the scope of an API key, the least role of a person.
	Needs map[Credential]string
	// OperatorOnly documents that the operator's credentials alone will do.
	OperatorOnly bool
	// Own documents the least role of a person who may do this to what is theirs; "" when that is no different.
	Own string

	// Query is the zero value of a struct whose fields are tagged `query:"limit"` and carry huma's validation tags, or nil.
	Query any
	// Body is the zero value of the request's type, with json and huma's validation tags, or nil when the route takes
	// none. A request without a body must then be empty or {}.
	Body any
	// BodyOptional lets a request leave the body out altogether.
	BodyOptional bool
	// BodyLimit is the most bytes a body may have; zero means [DefaultBodyLimit].
	BodyLimit int64
	// Idempotent documents that the Idempotency-Key header is honoured.
	Idempotent bool

	// Replies documents the answers of success.
	Replies []Doc
	// Problems lists the statuses this operation answers with a problem document, beyond those every route has (500, 503)
	// and those that follow from its input and credentials (400, 401, 404, 413, 415, 422).
	Problems []int

	// Timeout is how long the whole request may take; zero means [DefaultTimeout].
	Timeout time.Duration
	// Handle does the work. What it returns is written by the one adapter in this package: a Reply when the error is nil,
	// and otherwise a problem document made from the [fault.Error] in the error's tree.
	Handle func(*Call) (Reply, error)
}

// DefaultBodyLimit is how many bytes a body may have when its route does not say: 64 KiB.
const DefaultBodyLimit = 64 << 10

// DefaultTimeout is how long a request may take when its route does not say.
const DefaultTimeout = 10 * time.Second

// Doc documents one answer of a route.
type Doc struct {
	// Status is the answer's status.
	Status int
	// Body is the zero value of the answer's type, or nil when it has no body.
	Body any
	// Description says when this is the answer; the status text when empty.
	Description string
	// ContentType is the answer's media type; application/json when empty.
	ContentType string
}

// Reply is an answer of success.
type Reply struct {
	// Status is 200 when zero.
	Status int
	// Body is encoded as JSON, unless it is [Raw] or nil (no body).
	Body any
	// Header holds further headers. Content-Type and Cache-Control win over the usual ones.
	Header http.Header
}

// Raw is a body that is already encoded: it is written as it is.
type Raw []byte

// Check asks one store whether it answers.
type Check struct {
	// Name is what /health/ready calls the store when it is out, such as "redis".
	Name string
	// Ping returns nil when the store answers. Its context ends after two seconds.
	Ping func(context.Context) error
	// Off says that the service works without the store, because none is configured. It is named in the answer.
	Off bool
}

// Service is what all routes of one handler share.
type Service struct {
	// Name is the service's name, as /health tells it.
	Name string
	// Version is what is running, as /health tells it.
	Version string
	// Log receives one line for each request.
	Log *slog.Logger
	// Ready is what /health/ready asks.
	Ready []Check
	// TrustedHops is how many proxies in front of the service append to X-Forwarded-For. Zero means that the header is
	// not believed at all.
	TrustedHops int
}
