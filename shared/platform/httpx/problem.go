package httpx

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/coditect/usher/shared/fault"
)

// Problem is the document that every refusal is: RFC 9457, application/problem+json.
type Problem struct {
	// Type is a URN that ends in the code; it names the kind of problem and does not resolve.
	Type string `json:"type" doc:"A URN that ends in the code."`
	// Title is the status in words.
	Title string `json:"title" doc:"The status in words."`
	// Status is the answer's status.
	Status int `json:"status" minimum:"400" maximum:"599"`
	// Detail is a sentence the caller can act on.
	Detail string `json:"detail" doc:"A sentence the caller can act on."`
	// Instance is the path that was asked for.
	Instance string `json:"instance" doc:"The path that was asked for."`
	// Code is a stable lower-case word.
	Code string `json:"code" pattern:"^[a-z][a-z0-9_]*$" doc:"A stable word to decide on."`
	// RequestID is the id that the logs know the request by.
	RequestID string `json:"request_id" doc:"What the logs know the request by."`
	// Errors lists what is wrong with which field.
	Errors []fault.Field `json:"errors,omitempty" doc:"What is wrong with which field."`
	// RetryAfter is how long to wait before asking again, in whole seconds.
	RetryAfter int64 `json:"retry_after_seconds,omitempty" minimum:"1" doc:"How long to wait before asking again; the Retry-After header says the same."`
	// Extra holds the members that only this code has.
	Extra map[string]any `json:",embed" hidden:"true"`

	_ struct{} `additionalProperties:"true"`
}

var statuses = [...]int{
	fault.KindInternal:         http.StatusInternalServerError,
	fault.KindMalformed:        http.StatusBadRequest,
	fault.KindUnauthenticated:  http.StatusUnauthorized,
	fault.KindPaymentRequired:  http.StatusPaymentRequired,
	fault.KindForbidden:        http.StatusForbidden,
	fault.KindNotFound:         http.StatusNotFound,
	fault.KindMethodNotAllowed: http.StatusMethodNotAllowed,
	fault.KindConflict:         http.StatusConflict,
	fault.KindGone:             http.StatusGone,
	fault.KindTooLarge:         http.StatusRequestEntityTooLarge,
	fault.KindUnsupportedMedia: http.StatusUnsupportedMediaType,
	fault.KindInvalid:          http.StatusUnprocessableEntity,
	fault.KindRateLimited:      http.StatusTooManyRequests,
	fault.KindUnavailable:      http.StatusServiceUnavailable,
}

// Status returns the status that answers a fault of that kind.
func Status(k fault.Kind) int {
	if int(k) < len(statuses) {
		return statuses[k]
	}
	return http.StatusInternalServerError
}

// asFault finds what the caller may see of an error: its own fault, a store that took too long, or nothing at all.
func asFault(err error) *fault.Error {
	switch e := fault.As(err); {
	case e != nil && e.Kind != fault.KindInternal:
		return e
	case e == nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		return fault.Unavailable(err)
	}
	return fault.Internal(err)
}

// problemOf writes down a fault as the answer to a request.
func problemOf(e *fault.Error, r *http.Request, requestID string) Problem {
	status := Status(e.Kind)
	retry := wholeSeconds(e.RetryAfter)
	if retry == 0 && (e.Kind == fault.KindRateLimited || e.Kind == fault.KindUnavailable) {
		retry = 1 // these always say how long
	}
	return Problem{
		Type:       "urn:usher:problem:" + e.Code,
		Title:      http.StatusText(status),
		Status:     status,
		Detail:     e.Detail,
		Instance:   r.URL.EscapedPath(),
		Code:       e.Code,
		RequestID:  requestID,
		Errors:     e.Fields,
		RetryAfter: retry,
		Extra:      e.Extra,
	}
}

// wholeSeconds rounds up, so that whoever waits so long has waited long enough.
func wholeSeconds(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return int64((d + time.Second - 1) / time.Second)
}

// Refuse answers a request with the problem document of err, outside any route: for what stands in front of a handler.
func Refuse(w http.ResponseWriter, r *http.Request, err error) {
	id := requestID(r)
	w.Header().Set("X-Request-Id", id)
	writeProblem(w, r, asFault(err), id)
}

func writeProblem(w http.ResponseWriter, r *http.Request, e *fault.Error, requestID string) {
	p := problemOf(e, r, requestID)
	h := w.Header()
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(p.RetryAfter, 10))
	}
	if p.Status == http.StatusUnauthorized {
		h["Www-Authenticate"] = challenge
	}
	h["Content-Type"] = problemType
	if write(w, r, p.Status, &p) != nil { // a member of Extra that JSON cannot say
		p.Extra = nil
		_ = write(w, r, p.Status, &p)
	}
}
