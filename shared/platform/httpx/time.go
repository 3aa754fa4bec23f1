package httpx

import (
	"errors"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// timeLayout is how the contract writes a time: RFC 3339 in UTC with milliseconds.
const timeLayout = "2006-01-02T15:04:05.000Z"

// Time is a moment as the contract writes it: RFC 3339 in UTC with milliseconds, "2026-03-01T09:30:00.000Z". What comes
// in may have any offset and any precision, or none; it is kept in UTC, cut to milliseconds.
type Time struct{ time.Time }

// At returns t as a [Time].
func At(t time.Time) Time { return Time{t.UTC().Truncate(time.Millisecond)} }

// AtOrNull returns t as a [Time], or nil, which is written as null, when t is nil.
func AtOrNull(t *time.Time) *Time {
	if t == nil {
		return nil
	}
	at := At(*t)
	return &at
}

// Or returns the moment t points to, or nil when t is nil: the way back from [AtOrNull].
func (t *Time) Or() *time.Time {
	if t == nil {
		return nil
	}
	return &t.Time
}

var errNotATime = errors.New("not an RFC 3339 time of the years 1 to 9999")

// parseTime reads RFC 3339 as strictly as JSON Schema's date-time; time.Parse alone takes a comma before the fraction
// and a one-digit hour.
func parseTime(s string) (time.Time, error) {
	if len(s) < len("2006-01-02T15:04:05Z") || s[13] != ':' || s[10] != 'T' {
		return time.Time{}, errNotATime
	}
	if s[19] == ',' {
		return time.Time{}, errNotATime
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, errNotATime
	}
	t = t.UTC().Truncate(time.Millisecond)
	if y := t.Year(); y < 1 || y > 9999 {
		return time.Time{}, errNotATime
	}
	return t, nil
}

// AppendText appends the moment as the contract writes it.
func (t Time) AppendText(b []byte) ([]byte, error) { return t.UTC().AppendFormat(b, timeLayout), nil }

// MarshalText returns the moment as the contract writes it.
func (t Time) MarshalText() ([]byte, error) { return t.AppendText(nil) }

// UnmarshalText reads an RFC 3339 time.
func (t *Time) UnmarshalText(b []byte) (err error) {
	t.Time, err = parseTime(string(b))
	return err
}

// MarshalJSON returns the moment as a JSON string.
func (t Time) MarshalJSON() ([]byte, error) {
	return append(t.UTC().AppendFormat([]byte{'"'}, timeLayout), '"'), nil
}

// MarshalJSONTo writes the moment as a JSON string.
func (t Time) MarshalJSONTo(e *jsontext.Encoder) error {
	b := t.UTC().AppendFormat(append(e.AvailableBuffer(), '"'), timeLayout)
	return e.WriteValue(append(b, '"'))
}

// UnmarshalJSON reads a JSON string that holds an RFC 3339 time.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return errNotATime
	}
	return t.UnmarshalText([]byte(s))
}

// Schema describes a [Time] in the OpenAPI document.
func (Time) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Examples: []any{"2026-03-01T09:30:00.000Z"}}
}

// Change is a field of a PATCH: it may be left out (leave as it is), null (clear), or a value (set). Tag it
// `json:"name,omitzero"`.
type Change[T any] struct {
	// Given is whether the request has the field.
	Given bool
	// Value is what to set, or nil to clear. It means nothing unless Given.
	Value *T
}

// IsZero reports whether the field was left out.
func (c Change[T]) IsZero() bool { return !c.Given }

// Apply sets *dst to what was given, and leaves it alone when nothing was.
func (c Change[T]) Apply(dst **T) {
	if c.Given {
		*dst = c.Value
	}
}

// MarshalJSON returns the value, or null.
func (c Change[T]) MarshalJSON() ([]byte, error) { return json.Marshal(c.Value) }

// UnmarshalJSON reads a value or null.
func (c *Change[T]) UnmarshalJSON(b []byte) error {
	c.Given, c.Value = true, nil
	return json.Unmarshal(b, &c.Value)
}

// Schema describes the field in the OpenAPI document as a T or null.
func (Change[T]) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[T](), true, "")
}

func (Change[T]) nullable() bool { return true }
