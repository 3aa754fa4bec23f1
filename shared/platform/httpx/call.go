package httpx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
)

// Call is one request on its way through a route. It belongs to the goroutine that handles the request, and must not be
// kept when Handle has returned.
type Call struct {
	ctx   context.Context
	w     http.ResponseWriter
	r     *http.Request
	id    string
	route *route
	hops  int

	body     []byte
	bodyErr  error
	bodyRead bool
	bodyDone bool // read to its end, or there is none

	notes []slog.Attr
	first [12]slog.Attr // where the log line's attributes are, unless they are many
}

// Context returns the request's context. It ends with the route's timeout, or when the client has gone.
func (c *Call) Context() context.Context { return c.ctx }

// ID returns what the logs know the request by.
func (c *Call) ID() string { return c.id }

// Request returns the request itself. Its body must be read with [Call.Body] only.
func (c *Call) Request() *http.Request { return c.r }

// PathValue returns the part of the path that stands for {name} in the route's Path.
func (c *Call) PathValue(name string) string { return c.r.PathValue(name) }

// PathUUID returns the part of the path that stands for {name}. What is no UUID in its usual form is not there: 404.
func (c *Call) PathUUID(name string) (uuid.UUID, error) {
	id, ok := parseUUID(c.r.PathValue(name))
	if !ok {
		return uuid.UUID{}, fault.NotFound("not_found", "There is nothing here by that id.")
	}
	return id, nil
}

// Bearer returns the credential of the Authorization header, and whether there is exactly one, of the Bearer scheme.
func (c *Call) Bearer() (string, bool) {
	headers := c.r.Header["Authorization"]
	if len(headers) != 1 {
		return "", false
	}
	const scheme = "bearer "
	h := headers[0]
	if len(h) <= len(scheme) || !strings.EqualFold(h[:len(scheme)], scheme) {
		return "", false
	}
	token := strings.Trim(h[len(scheme):], " ")
	if token == "" || strings.ContainsAny(token, " \t,") {
		return "", false
	}
	return token, true
}

// Address returns the client's address: the one that the outermost trusted proxy saw, or that of the connection when no
// proxy is trusted or the header does not hold what the proxies would have written. It is invalid only when the
// connection has no address.
func (c *Call) Address() netip.Addr {
	if c.hops > 0 {
		if a, ok := forwardedFor(c.r.Header["X-Forwarded-For"], c.hops); ok {
			return a
		}
	}
	return parseAddress(c.r.RemoteAddr)
}

// forwardedFor returns the address hops entries from the right, whatever the client wrote to the left of it.
func forwardedFor(headers []string, hops int) (netip.Addr, bool) {
	for _, rest := range slices.Backward(headers) {
		for {
			comma := strings.LastIndexByte(rest, ',')
			if hops--; hops == 0 {
				a := parseAddress(strings.TrimSpace(rest[comma+1:]))
				return a, a.IsValid()
			}
			if comma < 0 {
				break
			}
			rest = rest[:comma]
		}
	}
	return netip.Addr{}, false
}

func parseAddress(s string) netip.Addr {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

// Note adds attributes to the request's one log line. They must not hold secrets.
func (c *Call) Note(attrs ...slog.Attr) { c.notes = append(c.notes, attrs...) }

// Body returns the request's body, which is one well-formed JSON value, or nil when there is none. It reads once, at
// most the route's limit, and not beyond the route's timeout. What it refuses is a 400, 413 or 415.
func (c *Call) Body() ([]byte, error) {
	if !c.bodyRead {
		c.bodyRead = true
		c.body, c.bodyErr = c.readBody()
	}
	return c.body, c.bodyErr
}

func (c *Call) readBody() ([]byte, error) {
	body, err := c.readAll()
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		if c.route.Body != nil && !c.route.BodyOptional {
			return nil, fault.Malformed("body_missing", "The request needs a JSON body.")
		}
		return nil, nil
	}
	if !isJSON(c.r.Header) {
		return nil, fault.UnsupportedMedia("unsupported_media_type", "The body must be sent as Content-Type: application/json, in UTF-8 and not compressed.")
	}
	if string(body) == emptyObject { // the usual body of the calls that are made most often
		return body, nil
	}
	if err := syntax(body); err != nil {
		return nil, err
	}
	return body, nil
}

func (c *Call) readAll() ([]byte, error) {
	if c.r.Body == nil || c.r.Body == http.NoBody {
		c.bodyDone = true
		return nil, nil
	}
	limit := c.route.BodyLimit
	if c.r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	// The server of the functions framework sets no deadlines. This one is for the body alone: left in place, it would
	// end the request's context while the answer is still being made.
	deadline, _ := c.ctx.Deadline()
	control := http.NewResponseController(c.w)
	if control.SetReadDeadline(deadline) == nil {
		defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	}
	size := c.r.ContentLength
	if size < 0 {
		size = 512
	}
	body, err := readInto(make([]byte, 0, size+1), http.MaxBytesReader(c.w, c.r.Body, limit))
	if err == nil {
		c.bodyDone = true
		return body, nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge(limit)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fault.Malformed("body_incomplete", "The body did not arrive in time.").Because(err)
	}
	return nil, fault.Malformed("body_incomplete", "The body could not be read to its end.").Because(err)
}

// unreadGrace is how long the rest of a body that nobody wants may take to arrive.
const unreadGrace = time.Second

// giveUpBody bounds what the server does before it sends an answer: it reads what is left of the body, and would wait for
// it for ever.
func (c *Call) giveUpBody() {
	if !c.bodyDone && c.r.Body != nil && c.r.Body != http.NoBody {
		// A connection without deadlines is one of a test.
		_ = http.NewResponseController(c.w).SetReadDeadline(time.Now().Add(unreadGrace))
	}
}

func tooLarge(limit int64) error {
	return fault.TooLarge("body_too_large", fmt.Sprintf("The body may have at most %d bytes.", limit))
}

// readInto is io.ReadAll with a buffer of the right size to begin with.
func readInto(b []byte, r io.Reader) ([]byte, error) {
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

const emptyObject = "{}"

// isJSON reports whether the headers say that the body is plain JSON in UTF-8.
func isJSON(h http.Header) bool {
	if e := h.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return false
	}
	ct := h["Content-Type"]
	if len(ct) != 1 {
		return false
	}
	if ct[0] == "application/json" {
		return true
	}
	media, params, err := mime.ParseMediaType(ct[0])
	if err != nil {
		return false
	}
	for name, value := range params {
		if name == "charset" && !strings.EqualFold(value, "utf-8") {
			return false
		}
	}
	return media == "application/json" || strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json")
}

// Peek returns the string that is the body's top-level member of that name, and "" when there is none, so that a
// credential in the body can be looked up before the body is validated. A body that cannot be read has no members:
// [Call.Body] comes first, and says why.
func (c *Call) Peek(member string) string {
	body, err := c.Body()
	if err != nil || body == nil {
		return ""
	}
	return topString(body, member)
}

// Decode stores the body in dst, a pointer to the type of the route's Body. What Body refuses comes first; then follows
// a 422 that lists every field that is wrong, without the values. An optional body that was left out leaves dst alone.
// On a route without Body, Decode(nil) refuses anything but nothing and {}; on one without Query, Decode refuses
// parameters, too.
func (c *Call) Decode(dst any) error {
	body, err := c.Body()
	if err != nil {
		return err
	}
	if t := reflect.TypeOf(dst); t != c.route.bodyType {
		return fmt.Errorf("decode the body of %s: destination is %v, the route's is %v", c.route.ID, t, c.route.bodyType)
	}
	if c.route.queryType == nil && c.r.URL.RawQuery != "" {
		if err := c.DecodeQuery(nil); err != nil {
			return err
		}
	}
	switch {
	case body == nil, dst == nil && string(body) == emptyObject:
		return nil
	case dst == nil:
		return c.route.body.check(body)
	}
	return decode(body, c.route.body, dst)
}

// DecodeQuery stores the query's parameters in dst, a pointer to the type of the route's Query. A 422 lists every
// parameter that is wrong, unknown ones among them. On a route without Query, DecodeQuery(nil) refuses any parameter.
func (c *Call) DecodeQuery(dst any) error {
	if t := reflect.TypeOf(dst); t != c.route.queryType {
		return fmt.Errorf("decode the query of %s: destination is %v, the route's is %v", c.route.ID, t, c.route.queryType)
	}
	return c.route.query.decode(c.r.URL.RawQuery, dst)
}
