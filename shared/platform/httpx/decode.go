package httpx

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/coditect/usher/shared/fault"
)

// maxDepth is how deep a request's JSON may nest.
const maxDepth = 32

var decoders = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

// withDecoder runs fn with a decoder that reads text.
func withDecoder(text []byte, fn func(*jsontext.Decoder) error) error {
	d := decoders.Get().(*jsontext.Decoder)
	defer decoders.Put(d)
	d.Reset(bytes.NewBuffer(text))
	return fn(d)
}

// syntax returns a 400 unless text is exactly one JSON value in UTF-8, with no object that names a member twice and no
// nesting deeper than [maxDepth].
func syntax(text []byte) error {
	err := withDecoder(text, func(d *jsontext.Decoder) error {
		if _, err := readDepth(d); err != nil {
			return err
		}
		switch _, err := d.ReadToken(); {
		case err == nil:
			return errTrailing
		case !errors.Is(err, io.EOF):
			return err
		}
		return nil
	})
	var detail string
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTooDeep):
		detail = "The body nests deeper than 32 levels."
	case errors.Is(err, errTrailing):
		detail = "The body holds more than one JSON value."
	case errors.Is(err, jsontext.ErrDuplicateName):
		detail = "An object in the body has two members of the same name."
	default:
		detail = "The body is not JSON in UTF-8."
	}
	return fault.Malformed("malformed_json", detail)
}

var (
	errTooDeep  = errors.New("nested too deeply")
	errTrailing = errors.New("more than one value")
)

// readDepth reads one value, token by token, and returns how deep it nests.
func readDepth(d *jsontext.Decoder) (deepest int, err error) {
	for {
		if _, err := d.ReadToken(); err != nil {
			return deepest, err
		}
		depth := d.StackDepth()
		if depth == 0 {
			return deepest, nil
		}
		if deepest = max(deepest, depth); deepest > maxDepth {
			return deepest, errTooDeep
		}
	}
}

// topString returns the string member of that name of the object that text is, or "".
func topString(text []byte, member string) (found string) {
	_ = withDecoder(text, func(d *jsontext.Decoder) error {
		if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
			return err
		}
		for d.PeekKind() == '"' {
			name, err := d.ReadToken()
			if err != nil {
				return err
			}
			if name.String() != member {
				if err := d.SkipValue(); err != nil {
					return err
				}
				continue
			}
			if d.PeekKind() == '"' {
				if value, err := d.ReadToken(); err == nil {
					found = value.String()
				}
			}
			return nil
		}
		return nil
	})
	return found
}

// check returns a 422 that lists what in the well-formed text does not follow the rule.
func (r *rule) check(text []byte) error {
	var faults []fault.Field
	err := withDecoder(text, func(d *jsontext.Decoder) error {
		i := inspection{in: d}
		err := i.value(r)
		faults = i.faults
		return err
	})
	if err != nil { // cannot be: the syntax has been checked
		return fault.Malformed("malformed_json", "The body is not JSON in UTF-8.")
	}
	return invalid(faults)
}

func invalid(faults []fault.Field) error {
	if len(faults) == 0 {
		return nil
	}
	return fault.Invalid("The request is not valid. What is wrong with which field is listed in errors.", faults...)
}

// decode checks the well-formed text along the rule and stores it in dst.
func decode(text []byte, r *rule, dst any) error {
	if err := r.check(text); err != nil {
		return err
	}
	err := json.Unmarshal(text, dst, json.RejectUnknownMembers(true))
	if err == nil {
		return nil
	}
	// The rule found nothing, but the type itself is stricter: an UnmarshalText of its own, say.
	f := fault.Field{Code: codeBadFormat, Detail: "This value cannot be used here."}
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		f.Field = fieldOf(e.JSONPointer)
	}
	return invalid([]fault.Field{f})
}

// fieldOf turns a JSON pointer into a path as field errors write it.
func fieldOf(p jsontext.Pointer) string {
	var i inspection
	for token := range p.Tokens() {
		if token != "" && strings.Trim(token, "0123456789") == "" {
			i.path = append(append(append(i.path, '['), token...), ']')
			continue
		}
		i.push([]byte(token))
	}
	return string(i.path)
}
