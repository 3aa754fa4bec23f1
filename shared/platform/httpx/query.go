package httpx

import (
	"encoding"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/coditect/usher/shared/fault"
)

// query is what a route takes in its query string. The nil query takes nothing.
type query struct {
	params []param
}

type param struct {
	name     string
	index    []int
	schema   *huma.Schema
	rule     *rule
	required bool
}

// newQuery reads the fields of a struct that are tagged query; it panics on a type that a query cannot hold.
func newQuery(s *schemas, c *compiler, t reflect.Type) *query {
	if t == nil {
		return nil
	}
	q := new(query)
	for _, f := range reflect.VisibleFields(t) {
		name := f.Tag.Get("query")
		if name == "" {
			if f.Anonymous {
				continue
			}
			panic(fmt.Sprintf("httpx: field %s of %s has no query tag", f.Name, t))
		}
		schema := huma.SchemaFromField(s.registry, f, "")
		schema.Nullable = false
		movePatternDescription(schema)
		p := param{name: name, index: f.Index, schema: schema, rule: c.compile(schema), required: f.Tag.Get("required") == "true"}
		switch p.rule.kind {
		case huma.TypeString, huma.TypeInteger, huma.TypeNumber, huma.TypeBoolean:
		default:
			panic(fmt.Sprintf("httpx: field %s of %s is of a type that a query cannot hold", f.Name, t))
		}
		q.params = append(q.params, p)
	}
	slices.SortFunc(q.params, func(a, b param) int { return strings.Compare(a.name, b.name) })
	return q
}

func (q *query) decode(raw string, dst any) error {
	var i inspection
	values, err := url.ParseQuery(raw)
	if err != nil {
		return fault.Malformed("malformed_query", "The query string is not well-formed.")
	}
	var into reflect.Value
	var params []param
	if q != nil {
		into, params = reflect.ValueOf(dst).Elem(), q.params
	}
	for _, p := range params {
		given := values[p.name]
		delete(values, p.name)
		i.path = append(i.path[:0], p.name...)
		var s string
		switch {
		case len(given) > 1:
			i.add(codeNotAllowed, "Must be given once.")
			continue
		case len(given) == 1:
			s = given[0]
		case p.required:
			i.add(codeRequired, "This parameter is required.")
			continue
		case p.schema.Default != nil:
			s = fmt.Sprint(reflect.Indirect(reflect.ValueOf(p.schema.Default)))
		default:
			continue
		}
		before := len(i.faults)
		i.parameter(p.rule, s)
		if len(i.faults) == before && set(into.FieldByIndex(p.index), s) != nil {
			i.add(codeBadFormat, "This value cannot be used here.")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		i.path = i.path[:0]
		i.push([]byte(name))
		i.add(codeUnknownField, "There is no such parameter.")
	}
	return invalid(i.faults)
}

// parameter checks a parameter's text along its rule.
func (i *inspection) parameter(r *rule, s string) {
	switch r.kind {
	case huma.TypeString:
		i.characters(r, []byte(s))
	case huma.TypeBoolean:
		if s != "true" && s != "false" {
			i.add(codeWrongType, "Must be true or false.")
		}
	case huma.TypeInteger, huma.TypeNumber:
		if !isNumber(s) {
			i.add(codeWrongType, "Must be "+kindWords(r)+".")
			return
		}
		i.quantity(r, s)
	}
}

// isNumber reports whether s is a number as JSON writes it.
func isNumber(s string) bool {
	b := []byte(s)
	return len(b) > 0 && (b[0] == '-' || '0' <= b[0] && b[0] <= '9') && syntax(b) == nil && b[len(b)-1] > ' '
}

// set stores the text of a parameter that follows its rule.
func set(v reflect.Value, s string) error {
	if v.Kind() == reflect.Pointer {
		p := reflect.New(v.Type().Elem())
		v.Set(p)
		v = p.Elem()
	}
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		return u.UnmarshalText([]byte(s))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		v.SetBool(s == "true")
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(s, v.Type().Bits())
		v.SetFloat(f)
		return err
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(s, 10, v.Type().Bits())
		v.SetUint(n)
		return err
	default:
		n, err := strconv.ParseInt(s, 10, v.Type().Bits())
		v.SetInt(n)
		return err
	}
	return nil
}
