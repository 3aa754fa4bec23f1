package httpx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/telemetry"
)

// New returns a handler that serves the routes, /health and /health/ready. A single route is served at "/" too. New
// panics on routes that contradict each other or themselves: that is a mistake in the program, seen at its first start.
func New(s Service, routes ...Route) http.Handler {
	if s.Log == nil {
		panic("httpx: a Service needs a Log")
	}
	h := &handler{Service: s, mux: http.NewServeMux()}
	sch := newSchemas()
	rules := &compiler{registry: sch.registry, done: map[string]*rule{}}
	endpoints := map[string]*endpoint{}
	add := func(path string, r *route) {
		e := endpoints[path]
		if e == nil {
			e = &endpoint{handler: h, routes: map[string]*route{}}
			endpoints[path] = e
		}
		for _, method := range r.methods() {
			if e.routes[method] != nil {
				panic(fmt.Sprintf("httpx: two routes serve %s %s", method, path))
			}
			e.routes[method] = r
		}
	}
	for _, r := range routes {
		made := newRoute(r, sch, rules)
		add(r.Path, made)
		if len(routes) == 1 && !strings.Contains(r.Path, "{") && r.Path != "/{$}" {
			add("/{$}", made)
		}
	}
	for _, r := range healthRoutes(s) {
		made := newRoute(r, sch, rules)
		made.level = slog.LevelDebug
		add(r.Path, made)
	}
	for path, e := range endpoints {
		e.allow = strings.Join(slices.Sorted(maps.Keys(e.routes)), ", ")
		h.mux.Handle(path, e)
	}
	h.nowhere = &endpoint{handler: h}
	h.mux.Handle("/", h.nowhere)
	return h
}

// route is a Route made ready to serve.
type route struct {
	Route
	bodyType  reflect.Type // a pointer to Body's type; nil when the route takes none
	body      *rule
	queryType reflect.Type
	query     *query
	level     slog.Level // of the log line of a success
}

var noBody = &rule{kind: "object", longest: -1}

func newRoute(r Route, s *schemas, c *compiler) *route {
	switch {
	case r.Handle == nil || r.ID == "":
		panic(fmt.Sprintf("httpx: the route %s %s needs an ID and a Handle", r.Method, r.Path))
	case !slices.Contains([]string{"GET", "POST", "PUT", "PATCH", "DELETE"}, r.Method):
		panic(fmt.Sprintf("httpx: the route %s has the method %q", r.ID, r.Method))
	case !strings.HasPrefix(r.Path, "/"):
		panic(fmt.Sprintf("httpx: the route %s has the path %q", r.ID, r.Path))
	}
	if r.BodyLimit == 0 {
		r.BodyLimit = DefaultBodyLimit
	}
	if r.Timeout == 0 {
		r.Timeout = DefaultTimeout
	}
	made := &route{Route: r, body: noBody}
	if r.Body != nil {
		t := reflect.TypeOf(r.Body)
		made.bodyType = reflect.PointerTo(t)
		made.body = c.compile(s.of(t, r.ID+"_request"))
	}
	if r.Query != nil {
		t := reflect.TypeOf(r.Query)
		made.queryType = reflect.PointerTo(t)
		made.query = newQuery(s, c, t)
	}
	return made
}

func (r *route) methods() []string {
	if r.Method == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{r.Method}
}

type handler struct {
	Service
	mux     *http.ServeMux
	nowhere *endpoint
}

// ServeHTTP keeps away from the mux what it would answer by itself, with a redirect or in plain text, and from the routes a path
// that no text can be: nothing has such a name, and no store would take the question.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p := r.URL.Path; p == "" || p[0] != '/' || path.Clean(p) != p || !utf8.ValidString(p) || control(p) {
		h.nowhere.ServeHTTP(w, r)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// endpoint is what is served at one path.
type endpoint struct {
	*handler
	routes map[string]*route // by method; none at the paths nobody serves
	allow  string
}

var (
	nosniff     = []string{"nosniff"}
	noStore     = []string{"no-store"}
	jsonType    = []string{"application/json"}
	problemType = []string{"application/problem+json"}
	challenge   = []string{"Bearer"}
)

// ServeHTTP answers one request and writes its log line.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	c := &Call{w: w, r: r, id: requestID(r), route: e.routes[r.Method], hops: e.TrustedHops}
	c.notes = c.first[:0]
	w.Header()["X-Request-Id"] = []string{c.id}
	pattern := ""
	if c.route != nil {
		pattern = c.route.Path
	}
	var span telemetry.ServerSpan
	c.ctx, span = telemetry.Serve(r.Context(), r.Header, r.Method, pattern)

	var done outcome
	switch {
	case e.routes == nil:
		done = c.refuse(fault.NotFound("not_found", "There is nothing at this path."))
	case c.route == nil:
		w.Header()["Allow"] = []string{e.allow}
		done = c.refuse(fault.MethodNotAllowed("method_not_allowed", "This path does not answer this method; the Allow header lists those it does."))
	default:
		ctx, cancel := context.WithTimeout(c.ctx, c.route.Timeout)
		defer cancel()
		c.ctx = ctx
		done = c.answer()
	}
	took := time.Since(start)
	span.End(done.status, done.code)
	e.measure(c, done, took)
	e.log(c, done, took)
	if done.abort {
		panic(http.ErrAbortHandler)
	}
}

// outcome is what became of a request.
type outcome struct {
	status int
	code   string
	err    error  // why, for the log
	stack  []byte // of a panic
	abort  bool   // the handler asked for the connection to be cut
}

func (c *Call) answer() outcome {
	reply, stack, err := c.handle()
	switch {
	case errors.Is(err, http.ErrAbortHandler):
		return outcome{err: err, abort: true}
	case err != nil:
		done := c.refuse(err)
		done.stack = stack
		return done
	}
	c.giveUpBody()
	h := c.w.Header()
	maps.Copy(h, reply.Header)
	if reply.Status == 0 {
		reply.Status = http.StatusOK
	}
	if h["Content-Type"] == nil && reply.Body != nil {
		h["Content-Type"] = jsonType
	}
	if err := write(c.w, c.r, reply.Status, reply.Body); err != nil {
		for name := range reply.Header {
			delete(h, name)
		}
		return c.refuse(fmt.Errorf("encode the answer of %s: %w", c.route.ID, err))
	}
	return outcome{status: reply.Status}
}

// handle runs the route and turns a panic into an error.
func (c *Call) handle() (reply Reply, stack []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			if cause, ok := p.(error); ok {
				err = fmt.Errorf("panic: %w", cause)
			} else {
				err = fmt.Errorf("panic: %v", p)
			}
			if !errors.Is(err, http.ErrAbortHandler) {
				err, stack = fault.Internal(err), debug.Stack()
			}
		}
	}()
	reply, err = c.route.Handle(c)
	return reply, nil, err
}

func (c *Call) refuse(err error) outcome {
	c.giveUpBody()
	e := asFault(err)
	writeProblem(c.w, c.r, e, c.id)
	done := outcome{status: Status(e.Kind), code: e.Code}
	if e.Err != nil || done.status >= http.StatusInternalServerError {
		done.err = err
	}
	return done
}

var (
	requests = telemetry.NewHistogram("http.server.request.duration",
		"Requests, and how long each took, of all routes but /health and /health/ready.",
		"usher.function", "http.request.method", "http.route", "http.response.status_code")
	problems = telemetry.NewCounter("usher.problems", "{problem}",
		"Answers that were a problem document, by its code.",
		"usher.function", "error.type", "http.response.status_code")
)

// measure counts the request. What has no route is the service's: a path that nobody serves is not a label.
func (e *endpoint) measure(c *Call, done outcome, took time.Duration) {
	if done.abort {
		return
	}
	function, method, pattern := e.Name, "_OTHER", ""
	if c.route != nil {
		if c.route.level == slog.LevelDebug {
			return // the platform's, to see whether we live
		}
		function, method, pattern = c.route.Tag, c.route.Method, c.route.Path
	}
	status := statusText(done.status)
	requests.Record(c.ctx, took.Seconds(), function, method, pattern, status)
	if done.code != "" {
		problems.Add(c.ctx, 1, function, done.code, status)
	}
}

// statusText is the status in digits, without garbage for those that are answered all day.
func statusText(status int) string {
	switch status {
	case http.StatusOK:
		return "200"
	case http.StatusCreated:
		return "201"
	}
	return strconv.Itoa(status)
}

// log writes the request's one line: never the body, the query or the Authorization header.
func (e *endpoint) log(c *Call, done outcome, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case done.abort || c.r.Context().Err() != nil: // the client has gone; what we answered nobody read
	case done.status >= http.StatusInternalServerError:
		level = slog.LevelError
	case done.status == http.StatusTooManyRequests:
		level = slog.LevelWarn
	case done.status < http.StatusBadRequest && c.route != nil:
		level = c.route.level
	}
	if !e.Log.Enabled(c.ctx, level) {
		return
	}
	pattern := ""
	if c.route != nil {
		pattern = c.route.Path
	}
	attrs := append(c.notes,
		slog.String("method", c.r.Method),
		slog.String("route", pattern),
		slog.Int("status", done.status),
		slog.Float64("ms", float64(took.Microseconds())/1000),
		slog.String("request_id", c.id),
	)
	if done.code != "" {
		attrs = append(attrs, slog.String("code", done.code))
	}
	if done.err != nil {
		attrs = append(attrs, slog.String("error", done.err.Error()))
	}
	if done.stack != nil {
		attrs = append(attrs, slog.String("stack_trace", string(done.stack)))
	}
	e.Log.LogAttrs(c.ctx, level, "request", attrs...)
}

// requestID takes the caller's id when it is harmless, and makes one otherwise.
func requestID(r *http.Request) string {
	if given := r.Header["X-Request-Id"]; len(given) == 1 && goodRequestID(given[0]) {
		return given[0]
	}
	return uuid.Must(uuid.NewV7()).String()
}

func goodRequestID(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxKept is how large a buffer may have grown and still be kept for the next answer.
const maxKept = 64 << 10

// encoded is how answers are written: maps in order, so that the same answer is the same bytes, and omitempty as
// everybody knows it from encoding/json, where zero and false are empty.
var encoded = json.JoinOptions(json.Deterministic(true), jsonv1.OmitEmptyWithLegacySemantics(true))

// write encodes the body and sends the answer; it sends nothing when the body cannot be encoded.
func write(w http.ResponseWriter, r *http.Request, status int, body any) error {
	var text []byte
	switch body := body.(type) {
	case nil:
	case Raw:
		text = body
	default:
		b := buffers.Get().(*bytes.Buffer)
		b.Reset()
		defer func() {
			if b.Cap() <= maxKept {
				buffers.Put(b)
			}
		}()
		if err := json.MarshalWrite(b, body, encoded); err != nil {
			return err
		}
		text = b.Bytes()
	}
	h := w.Header()
	h["X-Content-Type-Options"] = nosniff
	if h["Cache-Control"] == nil || status >= http.StatusBadRequest {
		h["Cache-Control"] = noStore
	}
	if status != http.StatusNoContent {
		h["Content-Length"] = []string{strconv.Itoa(len(text))}
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead && len(text) > 0 {
		_, _ = w.Write(text) //nolint:gosec // G705: it is JSON, and says so with nosniff; a client that has gone is no error of ours
	}
	return nil
}
