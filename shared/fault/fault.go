// Package fault is the vocabulary of errors a caller may see: what kind of thing went wrong, a stable code, and a
// sentence the caller can act on. Everything else that went wrong travels beside it, for the log only.
//
// It must not know HTTP beyond the meaning of a [Kind] (package httpx turns a kind into a status), nor any store.
package fault

import (
	"errors"
	"fmt"
	"maps"
	"time"
)

// Kind says what went wrong in the terms of the contract's statuses. The zero kind is [Internal].
type Kind uint8

// The kinds, each with the status that package httpx answers.
const (
	KindInternal         Kind = iota // 500: ours to explain, never the caller's to see
	KindMalformed                    // 400: not JSON, or not readable at all
	KindUnauthenticated              // 401: no credential, or a bad one
	KindPaymentRequired              // 402: more than was paid for
	KindForbidden                    // 403: known, but not allowed
	KindNotFound                     // 404: not there, or not the caller's; never tells which
	KindMethodNotAllowed             // 405
	KindConflict                     // 409: the state of things forbids it
	KindGone                         // 410: it was there and has ended
	KindTooLarge                     // 413: the body is over the route's limit
	KindUnsupportedMedia             // 415: the body is of another media type
	KindInvalid                      // 422: well-formed but not valid
	KindRateLimited                  // 429: too often; has a RetryAfter
	KindUnavailable                  // 503: a store is out; has a RetryAfter
)

var kindNames = [...]string{
	KindInternal: "internal", KindMalformed: "malformed", KindUnauthenticated: "unauthenticated",
	KindPaymentRequired: "payment required", KindForbidden: "forbidden", KindNotFound: "not found", KindMethodNotAllowed: "method not allowed",
	KindConflict: "conflict", KindGone: "gone", KindTooLarge: "too large", KindUnsupportedMedia: "unsupported media type",
	KindInvalid: "invalid", KindRateLimited: "rate limited", KindUnavailable: "unavailable",
}

// String returns the kind in lower-case words.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Field is one thing wrong with one field of a request. It never holds the value that was sent.
type Field struct {
	// Field is the path of the field in the request: "license_key", "features[1]", "scope.tenant_id".
	// It is empty when the whole body is meant.
	Field string `json:"field"`
	// Code is a stable lower-case word, such as "required" or "too_long".
	Code string `json:"code"`
	// Detail is a sentence the caller can act on.
	Detail string `json:"detail"`
}

// Error is an error with two messages: Code, Detail, Fields, RetryAfter and Extra are for the caller, Err is for the log
// and is never shown to a caller. Errors are values: share them freely, and change them only through the methods, which
// return copies.
type Error struct {
	// Kind decides the status.
	Kind Kind
	// Code is a stable lower-case word, such as "no_seats_available".
	Code string
	// Detail is a sentence the caller can act on.
	Detail string
	// Fields lists what is wrong with which field, for [KindInvalid].
	Fields []Field
	// RetryAfter is how long the caller should wait before asking again; zero when waiting does not help.
	RetryAfter time.Duration
	// Extra holds further members of the answer, such as active_seats, by their JSON names.
	Extra map[string]any
	// Err is why, for the log.
	Err error
}

// Malformed says that the request could not be read.
func Malformed(code, detail string) *Error {
	return &Error{Kind: KindMalformed, Code: code, Detail: detail}
}

// Unauthenticated says that the credential is missing or not good.
func Unauthenticated(code, detail string) *Error {
	return &Error{Kind: KindUnauthenticated, Code: code, Detail: detail}
}

// PaymentRequired says that the caller wants more than was paid for.
func PaymentRequired(code, detail string) *Error {
	return &Error{Kind: KindPaymentRequired, Code: code, Detail: detail}
}

// Forbidden says that the caller is known but may not do this.
func Forbidden(code, detail string) *Error {
	return &Error{Kind: KindForbidden, Code: code, Detail: detail}
}

// NotFound says that the thing is not there or belongs to somebody else, without telling which.
func NotFound(code, detail string) *Error {
	return &Error{Kind: KindNotFound, Code: code, Detail: detail}
}

// MethodNotAllowed says that the path is known but not under this method.
func MethodNotAllowed(code, detail string) *Error {
	return &Error{Kind: KindMethodNotAllowed, Code: code, Detail: detail}
}

// Conflict says that the present state of things forbids what was asked.
func Conflict(code, detail string) *Error {
	return &Error{Kind: KindConflict, Code: code, Detail: detail}
}

// Gone says that the thing was there and has ended.
func Gone(code, detail string) *Error {
	return &Error{Kind: KindGone, Code: code, Detail: detail}
}

// TooLarge says that the body exceeds what the route takes.
func TooLarge(code, detail string) *Error {
	return &Error{Kind: KindTooLarge, Code: code, Detail: detail}
}

// UnsupportedMedia says that the body is of a media type the route does not take.
func UnsupportedMedia(code, detail string) *Error {
	return &Error{Kind: KindUnsupportedMedia, Code: code, Detail: detail}
}

// Invalid says that the request is well-formed but not valid; its code is "invalid_request".
func Invalid(detail string, fields ...Field) *Error {
	return &Error{Kind: KindInvalid, Code: "invalid_request", Detail: detail, Fields: fields}
}

// RateLimited says that the caller asks too often and may ask again after retry; its code is "rate_limited".
func RateLimited(retry time.Duration) *Error {
	return &Error{
		Kind: KindRateLimited, Code: "rate_limited", RetryAfter: retry,
		Detail: "Too many requests. Wait for retry_after_seconds, then try again.",
	}
}

// Internal says that something of ours went wrong; the caller sees one opaque sentence, the log sees err.
func Internal(err error) *Error {
	return &Error{
		Kind: KindInternal, Code: "internal_error", Err: err,
		Detail: "Something went wrong on our side. Quote the request_id when you report it.",
	}
}

// Unavailable says that a store cannot be reached, so that the caller should ask again in a second; its code is
// "store_unavailable". The log sees err.
func Unavailable(err error) *Error {
	return &Error{
		Kind: KindUnavailable, Code: "store_unavailable", RetryAfter: time.Second, Err: err,
		Detail: "The service cannot answer right now. Wait for retry_after_seconds, then try again.",
	}
}

// As returns the first Error in err's tree, or nil.
func As(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return nil
}

// With returns a copy of e whose answer has one more member. Name is its JSON name; it must not be a member that every
// answer has (type, title, status, detail, instance, code, request_id, errors, retry_after_seconds).
func (e *Error) With(name string, value any) *Error {
	c := *e
	c.Extra = maps.Clone(e.Extra)
	if c.Extra == nil {
		c.Extra = make(map[string]any, 1)
	}
	c.Extra[name] = value
	return &c
}

// Retry returns a copy of e that tells the caller to wait for d.
func (e *Error) Retry(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// Because returns a copy of e whose reason, for the log, is err.
func (e *Error) Because(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

// Error returns the log's side: the code, and why.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Code + ": " + e.Err.Error()
	}
	return e.Code + ": " + e.Detail
}

// Unwrap returns why, for errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Err }
