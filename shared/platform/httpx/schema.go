package httpx

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

const schemaPrefix = "#/components/schemas/"

// schemas makes the JSON schemas of Go types. The same schemas are published in the OpenAPI document and compiled into
// the rules that check a request, so that the document cannot say one thing and the code do another.
type schemas struct {
	registry huma.Registry
	settled  map[string]bool // component names whose nullability is settled
}

func newSchemas() *schemas {
	r := huma.NewMapRegistry(schemaPrefix, schemaName)
	r.RegisterTypeAlias(reflect.TypeFor[uuid.UUID](), reflect.TypeFor[uuidText]())
	r.RegisterTypeAlias(reflect.TypeFor[jsontext.Value](), reflect.TypeFor[json.RawMessage]())
	return &schemas{registry: r, settled: map[string]bool{}}
}

// uuidText stands in for uuid.UUID, of which huma knows only that it is text.
type uuidText struct{}

func (uuidText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "uuid"}
}

// schemaName names a type's component by its package and its name, because every function has a Request: "acquire" and
// "Request" make AcquireRequest, "license" and "License" make License.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	path := t.PkgPath()
	if t.Name() == "" || path == "" {
		return name
	}
	pkg := strings.TrimSuffix(path[strings.LastIndexByte(path, '/')+1:], "_test")
	pkg = strings.ToUpper(pkg[:1]) + pkg[1:]
	if pkg == "Httpx" || strings.HasPrefix(name, pkg) {
		return name
	}
	return pkg + name
}

// of returns the schema of a type: a reference for a struct, with the struct among the components.
func (s *schemas) of(t reflect.Type, hint string) *huma.Schema {
	schema := s.registry.Schema(t, true, hint)
	s.settle()
	return schema
}

// settle makes every component say null exactly where the encoder may write it and the decoder take it: a pointer that
// is never left out may be null; arrays and maps never are, because nil is written as [] and {}. The tag nullable has
// the last word.
func (s *schemas) settle() {
	for name, schema := range s.registry.Map() {
		if s.settled[name] {
			continue
		}
		s.settled[name] = true
		t := s.registry.TypeFromRef(schemaPrefix + name)
		for _, f := range reflect.VisibleFields(t) {
			if !f.IsExported() || (f.Anonymous && f.Tag.Get("json") == "") {
				continue
			}
			json, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if json == "-" || schema.Properties[json] == nil {
				continue
			}
			if dereferenced(f.Type) == reflect.TypeFor[time.Time]() {
				panic(fmt.Sprintf("httpx: field %s of %s is a time.Time, which is not written as the contract wants: use httpx.Time", f.Name, t))
			}
			property := schema.Properties[json]
			if property.Items != nil {
				movePatternDescription(property.Items)
			}
			movePatternDescription(property)
			schema.Properties[json] = orNull(property, mayBeNull(f, options))
		}
	}
}

// patternSays is the extension that says in words what a string's pattern wants.
const patternSays = "x-pattern-description"

// movePatternDescription turns huma's patternDescription, which no JSON schema knows, into an extension.
func movePatternDescription(s *huma.Schema) {
	if s.PatternDescription != "" {
		s.Extensions = map[string]any{patternSays: s.PatternDescription}
		s.PatternDescription = ""
	}
}

func mayBeNull(f reflect.StructField, options string) bool {
	switch f.Tag.Get("nullable") {
	case "true":
		return true
	case "false":
		return false
	}
	if _, ok := reflect.TypeAssert[interface{ nullable() bool }](reflect.Zero(f.Type)); ok {
		return true
	}
	return f.Type.Kind() == reflect.Pointer && !strings.Contains(options, "omit")
}

// orNull returns the schema with or without null among its values.
func orNull(s *huma.Schema, null bool) *huma.Schema {
	if s.Ref != "" {
		if !null {
			return s
		}
		return &huma.Schema{
			AnyOf:       []*huma.Schema{{Ref: s.Ref}, {Type: "null"}},
			Description: s.Description,
		}
	}
	if s.Type == "" || s.Nullable == null && s.Enum == nil {
		return s
	}
	s.Nullable = null
	if null && s.Enum != nil {
		s.Enum = append(s.Enum, nil)
	}
	return s
}

func dereferenced(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}
