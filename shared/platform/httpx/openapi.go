package httpx

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// OpenAPI returns the document that describes the routes, with /health and /health/ready: OpenAPI 3.1.0 as indented
// JSON, the same bytes for the same routes.
func OpenAPI(title, version string, routes []Route) (document []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // huma panics on a tag it cannot read
			document, err = nil, fmt.Errorf("describe the routes: %v", p)
		}
	}()
	s := newSchemas()
	rules := &compiler{registry: s.registry, done: map[string]*rule{}}
	doc := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info:    &huma.Info{Title: title, Version: version},
		Paths:   map[string]*huma.PathItem{},
		Components: &huma.Components{
			Schemas:         s.registry,
			SecuritySchemes: map[string]*huma.SecurityScheme{},
		},
	}
	for _, r := range slices.Concat(routes, healthRoutes(Service{})) {
		made := newRoute(r, s, rules)
		item := doc.Paths[r.Path]
		if item == nil {
			item = &huma.PathItem{}
			doc.Paths[r.Path] = item
		}
		slot := map[string]**huma.Operation{
			http.MethodGet: &item.Get, http.MethodPost: &item.Post, http.MethodPut: &item.Put,
			http.MethodPatch: &item.Patch, http.MethodDelete: &item.Delete,
		}[r.Method]
		if *slot != nil {
			return nil, fmt.Errorf("describe the routes: two serve %s %s", r.Method, r.Path)
		}
		*slot = s.operation(made)
		for _, c := range r.Credentials {
			if scheme, ok := schemes[c]; ok {
				doc.Components.SecuritySchemes[string(c)] = scheme
			}
		}
	}
	compact, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("write the document: %w", err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, compact, "", "  "); err != nil {
		return nil, fmt.Errorf("write the document: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// schemes describes the credentials that travel in a header. The licence key travels in the body, where it is described.
var schemes = map[Credential]*huma.SecurityScheme{
	SeatToken:      {Type: "http", Scheme: "bearer", BearerFormat: "opaque", Description: "The seat_token of an acquired seat."},
	APIKey:         {Type: "http", Scheme: "bearer", BearerFormat: "opaque", Description: "An API key of a tenant or of the operator: ush_…"},
	IDToken:        {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "An ID token of the configured issuer, RS256."},
	SchedulerToken: {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "An OIDC token of Cloud Scheduler's service account."},
}

// retryAfter describes the header that says how long to wait.
var retryAfter = map[string]*huma.Param{"Retry-After": {
	Description: "How many seconds to wait before asking again.",
	Required:    true,
	Schema:      &huma.Schema{Type: huma.TypeInteger, Minimum: new(1.0)},
}}

// What an operation's security requirement cannot say.
const (
	operatorOnly = "x-operator-only" // true: the operator's credentials alone will do
	ownRole      = "x-own-role"      // the least role of a person who may do it to what is theirs
)

func extend(op *huma.Operation, name string, value any) {
	if op.Extensions == nil {
		op.Extensions = map[string]any{}
	}
	op.Extensions[name] = value
}

var wildcard = regexp.MustCompile(`\{([a-z_]+)\}`)

// operation describes one route.
func (s *schemas) operation(r *route) *huma.Operation {
	op := &huma.Operation{
		OperationID: r.ID,
		Summary:     r.Summary,
		Description: r.Description,
		Responses:   map[string]*huma.Response{},
	}
	if r.Tag != "" {
		op.Tags = []string{r.Tag}
	}
	for _, c := range r.Credentials {
		if _, ok := schemes[c]; ok {
			needs := []string{}
			if need := r.Needs[c]; need != "" {
				needs = append(needs, need)
			}
			op.Security = append(op.Security, map[string][]string{string(c): needs})
		} else {
			op.Security = append(op.Security, map[string][]string{})
		}
	}
	if r.OperatorOnly {
		extend(op, operatorOnly, true)
	}
	if r.Own != "" {
		extend(op, ownRole, r.Own)
	}
	problems := append([]int{http.StatusInternalServerError, http.StatusServiceUnavailable}, r.Problems...)

	for _, m := range wildcard.FindAllStringSubmatch(r.Path, -1) {
		schema := &huma.Schema{Type: huma.TypeString}
		if m[1] == "id" || strings.HasSuffix(m[1], "_id") {
			schema.Format = "uuid"
		}
		op.Parameters = append(op.Parameters, &huma.Param{Name: m[1], In: "path", Required: true, Schema: schema})
		problems = append(problems, http.StatusNotFound)
	}
	if r.query != nil {
		for _, p := range r.query.params {
			op.Parameters = append(op.Parameters, &huma.Param{
				Name: p.name, In: "query", Required: p.required, Description: p.schema.Description, Schema: p.schema,
			})
		}
		problems = append(problems, http.StatusBadRequest, http.StatusUnprocessableEntity)
	}
	if r.Idempotent {
		one, most := 1, 255
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: "Idempotency-Key", In: "header",
			Description: "The same key with the same body answers the first success again, for 24 hours.",
			Schema:      &huma.Schema{Type: huma.TypeString, MinLength: &one, MaxLength: &most},
		})
		problems = append(problems, http.StatusConflict, http.StatusUnprocessableEntity)
	}
	if r.Body != nil {
		op.RequestBody = &huma.RequestBody{
			Required: !r.BodyOptional,
			Content: map[string]*huma.MediaType{
				"application/json": {Schema: s.of(reflect.TypeOf(r.Body), r.ID+"_request")},
			},
		}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodDelete || r.Body != nil {
		problems = append(problems, http.StatusBadRequest, http.StatusRequestEntityTooLarge,
			http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity)
	}
	if len(r.Credentials) > 0 && !slices.Contains(r.Credentials, LicenseKey) {
		problems = append(problems, http.StatusUnauthorized)
	}
	for _, reply := range r.Replies {
		response := &huma.Response{Description: reply.Description}
		if response.Description == "" {
			response.Description = http.StatusText(reply.Status)
		}
		if reply.Body != nil {
			media := reply.ContentType
			if media == "" {
				media = "application/json"
			}
			response.Content = map[string]*huma.MediaType{
				media: {Schema: s.of(reflect.TypeOf(reply.Body), fmt.Sprintf("%s_%d", r.ID, reply.Status))},
			}
		}
		op.Responses[strconv.Itoa(reply.Status)] = response
	}
	problem := s.of(reflect.TypeFor[Problem](), "")
	for _, status := range problems {
		response := &huma.Response{
			Description: http.StatusText(status),
			Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: problem}},
		}
		if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
			response.Headers = retryAfter
		}
		op.Responses[strconv.Itoa(status)] = response
	}
	return op
}
