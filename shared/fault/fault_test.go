package fault_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/shared/fault"
)

func TestCopiesLeaveTheOriginalAlone(t *testing.T) {
	t.Parallel()
	original := fault.Conflict("no_seats_available", "All seats are taken.").With("max_seats", 3)
	changed := original.With("active_seats", 3).With("max_seats", 4).Retry(time.Second).Because(io.EOF)
	if len(original.Extra) != 1 || original.Extra["max_seats"] != 3 || original.RetryAfter != 0 || original.Err != nil {
		t.Errorf("the original is now %+v", original)
	}
	if changed.Extra["active_seats"] != 3 || changed.Extra["max_seats"] != 4 || changed.RetryAfter != time.Second || !errors.Is(changed, io.EOF) {
		t.Errorf("the copy is %+v", changed)
	}
}

func TestAsFindsTheFaultThatWasWrapped(t *testing.T) {
	t.Parallel()
	e := fault.Gone("seat_lapsed", "The seat lapsed.")
	if got := fault.As(fmt.Errorf("heartbeat: %w", errors.Join(io.EOF, e))); got != e {
		t.Errorf("found %v", got)
	}
	if got := fault.As(io.EOF); got != nil {
		t.Errorf("found %v", got)
	}
	if got := fault.As(nil); got != nil {
		t.Errorf("found %v", got)
	}
}

func TestErrorIsTheLogsSide(t *testing.T) {
	t.Parallel()
	if got := fault.Unavailable(io.ErrUnexpectedEOF).Error(); got != "store_unavailable: unexpected EOF" {
		t.Error(got)
	}
	if got := fault.NotFound("not_found", "There is nothing here.").Error(); got != "not_found: There is nothing here." {
		t.Error(got)
	}
}

func TestEveryConstructorMakesItsKind(t *testing.T) {
	t.Parallel()
	for kind, e := range map[fault.Kind]*fault.Error{
		fault.KindInternal:         fault.Internal(io.EOF),
		fault.KindMalformed:        fault.Malformed("a", "b"),
		fault.KindUnauthenticated:  fault.Unauthenticated("a", "b"),
		fault.KindPaymentRequired:  fault.PaymentRequired("a", "b"),
		fault.KindForbidden:        fault.Forbidden("a", "b"),
		fault.KindNotFound:         fault.NotFound("a", "b"),
		fault.KindMethodNotAllowed: fault.MethodNotAllowed("a", "b"),
		fault.KindConflict:         fault.Conflict("a", "b"),
		fault.KindGone:             fault.Gone("a", "b"),
		fault.KindTooLarge:         fault.TooLarge("a", "b"),
		fault.KindUnsupportedMedia: fault.UnsupportedMedia("a", "b"),
		fault.KindInvalid:          fault.Invalid("b", fault.Field{Field: "x", Code: "required"}),
		fault.KindRateLimited:      fault.RateLimited(time.Second),
		fault.KindUnavailable:      fault.Unavailable(io.EOF),
	} {
		if e.Kind != kind || e.Code == "" || e.Detail == "" {
			t.Errorf("%v: %+v", kind, e)
		}
		if s := kind.String(); s == "" || strings.HasPrefix(s, "kind ") {
			t.Errorf("kind %d has no name", kind)
		}
	}
	if got := fault.Kind(200).String(); got != "kind 200" {
		t.Error(got)
	}
}
