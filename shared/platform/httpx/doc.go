// Package httpx is the one adapter between HTTP and what the functions do. A function says what it serves as a list of
// [Route]; each handles a [Call] and returns a [Reply] or an error; this package reads, checks and limits what comes in,
// and writes every answer: JSON, or the problem document of a [fault.Error].
//
// The contract's general rules live here: strict JSON (an unknown field, a field named twice, bad UTF-8 and control
// characters are refused), field errors that never repeat a value, request ids, trace context, one log line for each
// request, /health and /health/ready. From the same Go types that check the requests, [OpenAPI] makes the document that
// describes them.
//
// A Handle looks at the credential first, then finds the thing, and only then calls [Call.Decode], because the contract
// decides 401, 403 and 404 before the body is validated, and 422 before 409.
//
// The package must not know what any route is about, nor any store.
package httpx
