package httpx

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"net/mail"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
)

// The codes of a [fault.Field].
const (
	codeUnknownField = "unknown_field"
	codeWrongType    = "wrong_type"
	codeRequired     = "required"
	codeTooLong      = "too_long"
	codeTooShort     = "too_short"
	codeOutOfRange   = "out_of_range"
	codeNotAllowed   = "not_allowed"
	codeBadFormat    = "bad_format"
	codeControl      = "control_character"
)

// maxFieldErrors is how many field errors one answer lists; whoever sends more mistakes learns of the rest next time.
const maxFieldErrors = 32

// maxSafeInteger is the largest integer every JSON implementation reads alike (RFC 8259, section 6).
const maxSafeInteger = 1<<53 - 1

// rule is a JSON schema made ready to check values of a JSON text as they stream by. It never keeps or repeats a value.
//
// huma's own Validate is not used: it repeats values in its errors, matches names in any case, and panics on a
// uniqueItems array of objects.
type rule struct {
	kind     string // one of huma's types, or "" for any value
	nullable bool

	integer      bool
	min, max     float64 // -Inf and +Inf when there is none
	above, below float64 // exclusive bounds; -Inf and +Inf when there is none
	shortest     int     // of characters, items or members
	longest      int     // -1 when there is none
	pattern      *regexp.Regexp
	patternSays  string
	format       string
	base64       bool
	enum         []string
	items        *rule
	unique       bool
	members      map[string]member
	required     []string // names of the members that must be there, by bit
	open         bool     // other members are allowed
	others       *rule    // what they must be; nil for anything
}

type member struct {
	rule *rule
	bit  int // index in required, or -1
}

// compiler turns schemas into rules, once per component, so that a type may hold itself.
type compiler struct {
	registry huma.Registry
	done     map[string]*rule
}

// compile panics when the schema says something a rule cannot check: better at start than a promise nobody keeps.
func (c *compiler) compile(s *huma.Schema) *rule {
	if s.Ref != "" {
		if r := c.done[s.Ref]; r != nil {
			return r
		}
		r := new(rule)
		c.done[s.Ref] = r
		*r = *c.compile(c.registry.SchemaFromRef(s.Ref))
		return r
	}
	if len(s.AnyOf) == 2 && s.AnyOf[1].Type == "null" { // as made by orNull
		r := *c.compile(s.AnyOf[0])
		r.nullable = true
		return &r
	}
	if s.OneOf != nil || s.AnyOf != nil || s.AllOf != nil || s.Not != nil || len(s.DependentRequired) > 0 || s.MultipleOf != nil {
		panic("httpx: a request's schema uses oneOf, anyOf, allOf, not, dependentRequired or multipleOf, which no rule checks")
	}
	r := &rule{
		kind: s.Type, nullable: s.Nullable || s.Type == "", integer: s.Type == huma.TypeInteger,
		min: or(s.Minimum, math.Inf(-1)), max: or(s.Maximum, math.Inf(1)),
		above: or(s.ExclusiveMinimum, math.Inf(-1)), below: or(s.ExclusiveMaximum, math.Inf(1)),
		longest: -1, unique: s.UniqueItems, base64: s.ContentEncoding == "base64",
	}
	switch s.Type {
	case huma.TypeString:
		r.shortest, r.longest = or(s.MinLength, 0), or(s.MaxLength, -1)
		switch s.Format {
		case "", "date-time", "uuid", "email", "uri":
			r.format = s.Format
		default:
			panic(fmt.Sprintf("httpx: no rule checks the format %q", s.Format))
		}
		if s.Pattern != "" {
			r.pattern = regexp.MustCompile(s.Pattern)
			r.patternSays, _ = s.Extensions[patternSays].(string)
		}
		for _, v := range s.Enum {
			if v, ok := v.(string); ok {
				r.enum = append(r.enum, v)
			}
		}
	case huma.TypeArray:
		r.shortest, r.longest = or(s.MinItems, 0), or(s.MaxItems, -1)
		r.items = c.compile(s.Items)
		if r.unique && r.items.kind != huma.TypeString {
			panic("httpx: only arrays of strings may have uniqueItems in a request")
		}
	case huma.TypeObject:
		r.shortest, r.longest = or(s.MinProperties, 0), or(s.MaxProperties, -1)
		r.required = s.Required
		r.members = make(map[string]member, len(s.Properties))
		for name, p := range s.Properties {
			r.members[name] = member{c.compile(p), slices.Index(s.Required, name)}
		}
		switch more := s.AdditionalProperties.(type) {
		case nil:
			r.open = true
		case bool:
			r.open = more
		case *huma.Schema:
			r.open, r.others = true, c.compile(more)
		}
	case huma.TypeBoolean, huma.TypeInteger, huma.TypeNumber, "":
		if len(s.Enum) > 0 {
			panic("httpx: only strings may have an enum in a request")
		}
	default:
		panic(fmt.Sprintf("httpx: no rule checks the type %q", s.Type))
	}
	if len(r.required) > 64 {
		panic("httpx: a request's object has more than 64 required members")
	}
	return r
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// inspection walks one JSON text along a rule and gathers what is wrong with it.
type inspection struct {
	in     *jsontext.Decoder
	path   []byte
	faults []fault.Field
	text   []byte // scratch for unquoting
	last   []byte // the content of the string just read; good until the next read
}

func (i *inspection) add(code, detail string) {
	if len(i.faults) < maxFieldErrors {
		i.faults = append(i.faults, fault.Field{Field: string(i.path), Code: code, Detail: detail})
	}
}

// value checks the next value of the text. The text is known to be well-formed.
func (i *inspection) value(r *rule) error {
	switch kind := i.in.PeekKind(); kind {
	case '{':
		if r.kind == huma.TypeObject {
			return i.object(r)
		}
	case '[':
		if r.kind == huma.TypeArray {
			return i.array(r)
		}
	case '"':
		if r.kind == huma.TypeString {
			return i.string(r)
		}
	case '0':
		if r.kind == huma.TypeInteger || r.kind == huma.TypeNumber {
			return i.number(r)
		}
	case 't', 'f':
		if r.kind == huma.TypeBoolean {
			return i.in.SkipValue()
		}
	case 'n':
		if r.nullable {
			return i.in.SkipValue()
		}
	}
	if r.kind == "" {
		return i.anything()
	}
	i.add(codeWrongType, "Must be "+kindWords(r)+".")
	return i.in.SkipValue()
}

func kindWords(r *rule) string {
	var words string
	switch r.kind {
	case huma.TypeObject:
		words = "an object"
	case huma.TypeArray:
		words = "an array"
	case huma.TypeString:
		words = "a string"
	case huma.TypeInteger:
		words = "an integer"
	case huma.TypeNumber:
		words = "a number"
	case huma.TypeBoolean:
		words = "true or false"
	}
	if r.nullable {
		words += " or null"
	}
	return words
}

func (i *inspection) object(r *rule) error {
	if _, err := i.in.ReadToken(); err != nil {
		return err
	}
	var seen uint64
	base, n := len(i.path), 0
	for i.in.PeekKind() != '}' {
		name, err := i.name()
		if err != nil {
			return err
		}
		n++
		m, known := r.members[string(name)] // does not allocate
		if known && m.bit >= 0 {
			seen |= 1 << m.bit
		}
		sub := m.rule
		if !known {
			sub = r.others
		}
		i.push(name)
		switch {
		case !known && !r.open:
			i.add(codeUnknownField, "There is no such field.")
			err = i.in.SkipValue()
		case !known && control(name):
			i.add(codeControl, "The name of a field must not contain control characters.")
			err = i.in.SkipValue()
		case sub == nil:
			err = i.anything()
		default:
			err = i.value(sub)
		}
		i.path = i.path[:base]
		if err != nil {
			return err
		}
	}
	if _, err := i.in.ReadToken(); err != nil {
		return err
	}
	for bit, name := range r.required {
		if seen&(1<<bit) == 0 {
			i.push([]byte(name))
			i.add(codeRequired, "This field is required.")
			i.path = i.path[:base]
		}
	}
	i.size(r, n, "members")
	return nil
}

func (i *inspection) array(r *rule) error {
	if _, err := i.in.ReadToken(); err != nil {
		return err
	}
	base, n, twice := len(i.path), 0, false
	var seen map[string]struct{}
	if r.unique {
		seen = map[string]struct{}{}
	}
	for i.in.PeekKind() != ']' {
		i.path = append(i.path, '[')
		i.path = strconv.AppendInt(i.path, int64(n), 10)
		i.path = append(i.path, ']')
		n++
		i.last = nil
		err := i.value(r.items)
		i.path = i.path[:base]
		if err != nil {
			return err
		}
		if r.unique && i.last != nil {
			_, again := seen[string(i.last)]
			twice = twice || again
			seen[string(i.last)] = struct{}{}
		}
	}
	if _, err := i.in.ReadToken(); err != nil {
		return err
	}
	if twice {
		i.add(codeNotAllowed, "Must not hold the same item twice.")
	}
	i.size(r, n, "items")
	return nil
}

// size checks how many items or members there were.
func (i *inspection) size(r *rule, n int, what string) {
	if n < r.shortest {
		i.add(codeTooShort, fmt.Sprintf("Must have at least %d %s.", r.shortest, what))
	}
	if r.longest >= 0 && n > r.longest {
		i.add(codeTooLong, fmt.Sprintf("Must have at most %d %s.", r.longest, what))
	}
}

func (i *inspection) string(r *rule) error {
	raw, err := i.in.ReadValue()
	if err != nil {
		return err
	}
	s, err := i.unquote(raw)
	if err != nil {
		return err
	}
	i.last = s
	i.characters(r, s)
	return nil
}

// characters checks the content of a string. At most one fault is told: the first that matters.
func (i *inspection) characters(r *rule, s []byte) {
	n := utf8.RuneCount(s)
	switch {
	case !utf8.Valid(s): // a query's; JSON that is not UTF-8 is not well-formed
		i.add(codeBadFormat, "Must be UTF-8.")
	case control(s):
		i.add(codeControl, "Must not contain control characters.")
	case r.longest >= 0 && n > r.longest:
		i.add(codeTooLong, fmt.Sprintf("Must have at most %d characters.", r.longest))
	case n < r.shortest:
		i.add(codeTooShort, fmt.Sprintf("Must have at least %d characters.", r.shortest))
	case r.enum != nil && !slices.Contains(r.enum, string(s)):
		i.add(codeNotAllowed, "Must be one of: "+strings.Join(r.enum, ", ")+".")
	case r.pattern != nil && !r.pattern.Match(s):
		says := r.patternSays
		if says == "" {
			says = "a string that matches " + r.pattern.String()
		}
		i.add(codeBadFormat, "Must be "+says+".")
	case r.format != "":
		if says := formatFault(r.format, string(s)); says != "" {
			i.add(codeBadFormat, says)
		}
	case r.base64:
		if _, err := base64.StdEncoding.Strict().DecodeString(string(s)); err != nil {
			i.add(codeBadFormat, "Must be base64 with padding.")
		}
	}
}

// formatFault says what s must be, or nothing when it is.
func formatFault(format, s string) string {
	switch format {
	case "date-time":
		if _, err := parseTime(s); err != nil {
			return "Must be an RFC 3339 time, such as 2026-03-01T09:30:00.000Z."
		}
	case "uuid":
		if _, ok := parseUUID(s); !ok {
			return "Must be a UUID."
		}
	case "email":
		if a, err := mail.ParseAddress(s); err != nil || a.Address != s {
			return "Must be an e-mail address."
		}
	case "uri":
		if u, err := url.Parse(s); err != nil || !u.IsAbs() || u.Host == "" {
			return "Must be an absolute URL."
		}
	}
	return ""
}

// parseUUID reads the one form of a UUID that the contract knows, of the four that uuid.Parse does.
func parseUUID(s string) (uuid.UUID, bool) {
	if len(s) != 36 {
		return uuid.UUID{}, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}

func (i *inspection) number(r *rule) error {
	raw, err := i.in.ReadValue()
	if err != nil {
		return err
	}
	i.quantity(r, string(raw))
	return nil
}

// quantity checks a number that is written as JSON writes numbers.
func (i *inspection) quantity(r *rule, s string) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		i.add(codeOutOfRange, "The number is too large.")
		return
	}
	if r.integer {
		if strings.ContainsAny(s, ".eE") {
			i.add(codeWrongType, "Must be an integer, written without fraction or exponent.")
			return
		}
		if math.Abs(f) > maxSafeInteger {
			i.add(codeOutOfRange, "The number is too large.")
			return
		}
	}
	switch {
	case f < r.min:
		i.add(codeOutOfRange, "Must be at least "+strconv.FormatFloat(r.min, 'f', -1, 64)+".")
	case f > r.max:
		i.add(codeOutOfRange, "Must be at most "+strconv.FormatFloat(r.max, 'f', -1, 64)+".")
	case f <= r.above:
		i.add(codeOutOfRange, "Must be more than "+strconv.FormatFloat(r.above, 'f', -1, 64)+".")
	case f >= r.below:
		i.add(codeOutOfRange, "Must be less than "+strconv.FormatFloat(r.below, 'f', -1, 64)+".")
	}
}

// anything checks a value of any shape for what no string may have.
func (i *inspection) anything() error {
	depth := i.in.StackDepth()
	for {
		if k := i.in.PeekKind(); k == '"' {
			raw, err := i.in.ReadValue()
			if err != nil {
				return err
			}
			s, err := i.unquote(raw)
			if err != nil {
				return err
			}
			if control(s) {
				i.add(codeControl, "Must not contain control characters, nor may anything in it.")
				return i.leave(depth)
			}
		} else if _, err := i.in.ReadToken(); err != nil {
			return err
		}
		if i.in.StackDepth() == depth {
			return nil
		}
	}
}

// leave skips what is left of the values that were opened since the stack was so deep.
func (i *inspection) leave(depth int) error {
	for i.in.StackDepth() > depth {
		if _, err := i.in.ReadToken(); err != nil {
			return err
		}
	}
	return nil
}

// name reads the name of the next member. It is good until the next read.
func (i *inspection) name() ([]byte, error) {
	raw, err := i.in.ReadValue()
	if err != nil {
		return nil, err
	}
	return i.unquote(raw)
}

// unquote returns the content of a JSON string: a part of raw where it can, and otherwise of the scratch.
func (i *inspection) unquote(raw jsontext.Value) ([]byte, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], nil
	}
	var err error
	i.text, err = jsontext.AppendUnquote(i.text[:0], raw)
	return i.text, err
}

// push adds a member's name to the path. A name that does not look like one of ours is not repeated: somebody may have
// put a secret there.
func (i *inspection) push(name []byte) {
	if len(i.path) > 0 {
		i.path = append(i.path, '.')
	}
	if !looksLikeAName(name) {
		i.path = append(i.path, '?')
		return
	}
	i.path = append(i.path, name...)
}

func looksLikeAName(name []byte) bool {
	if len(name) == 0 || len(name) > 64 {
		return false
	}
	for n, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_':
		case '0' <= c && c <= '9' && n > 0:
		default:
			return false
		}
	}
	return true
}

// control reports whether s has a control character: U+0000 to U+001F, or U+007F.
func control[T []byte | string](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == 0x7f {
			return true
		}
	}
	return false
}
