package httpx

import (
	"bytes"
	"errors"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"
)

// Object is a JSON object of the client's own: it is kept as it was sent, to the last digit and space, and never looked
// into. The zero Object is none; it is written as {}.
type Object []byte

var errNotAnObject = errors.New("not a JSON object")

// UnmarshalJSON keeps an object.
func (o *Object) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '{' {
		return errNotAnObject
	}
	*o = bytes.Clone(b)
	return nil
}

// MarshalJSON returns the object.
func (o Object) MarshalJSON() ([]byte, error) {
	if len(o) == 0 {
		return []byte(emptyObject), nil
	}
	return o, nil
}

// MarshalJSONTo writes the object.
func (o Object) MarshalJSONTo(e *jsontext.Encoder) error {
	if len(o) == 0 {
		return e.WriteValue(jsontext.Value(emptyObject))
	}
	return e.WriteValue(jsontext.Value(o))
}

// Schema describes an [Object] in the OpenAPI document: any members.
func (Object) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: &huma.Schema{}}
}
