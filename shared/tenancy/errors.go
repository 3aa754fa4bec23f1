package tenancy

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/coditect/usher/shared/fault"
)

// ErrInDoubt says that the connection was lost, or the time was up, after a commit was asked for and before it was
// answered: what the transaction wrote may be there, or not.
var ErrInDoubt = errors.New("commit in doubt")

// faultOf turns an error that means "the database cannot answer" into the fault that callers may see. A fault that it
// is already, and every other error, stays what it is.
func faultOf(err error) error {
	if err == nil || fault.As(err) != nil || !IsUnavailable(err) {
		return err
	}
	return fault.Unavailable(err)
}

// IsUnavailable reports whether the error says that the database could not answer now, and might if it is asked again:
// no connection, too many of them, a shutdown, a deadline or a lock that was waited for too long, a deadlock.
func IsUnavailable(err error) bool {
	if err == nil {
		return false
	}
	switch code := Code(err); code {
	case "":
		return isBroken(err) || errors.Is(err, errNoToken)
	case "57014", // query_canceled: statement_timeout, or cancelled by us
		"55P03", // lock_not_available
		"25P03", // idle_in_transaction_session_timeout
		"40001", // serialization_failure
		"40P01": // deadlock_detected
		return true
	default:
		return brokenCode(code) || strings.HasPrefix(code, "53") // insufficient_resources
	}
}

// isBroken reports whether the error is that of a connection (or of the time we had), rather than a statement's.
func isBroken(err error) bool {
	if code := Code(err); code != "" {
		return brokenCode(code)
	}
	if errors.Is(err, errNoToken) {
		return false // whatever broke on the way to the metadata server
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		pgconn.Timeout(err) || pgconn.SafeToRetry(err)
}

// brokenCode reports whether a SQLSTATE says that the session is over.
func brokenCode(code string) bool {
	return strings.HasPrefix(code, "08") || // connection_exception; PgBouncer's own errors too
		strings.HasPrefix(code, "57P") || // shutdown, crash, starting up, database dropped, idle session
		strings.HasPrefix(code, "58") // system_error
}

// Code is the SQLSTATE of the error that PostgreSQL answered, or "" when it answered none.
func Code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// Constraint is the name of the constraint that the error says was violated, or "".
func Constraint(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.ConstraintName
	}
	return ""
}
