package httpx

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
)

type subject struct {
	Name     string            `json:"name" minLength:"1" maxLength:"20"`
	Kind     string            `json:"kind,omitempty" enum:"device,user,instance"`
	Count    int               `json:"count,omitempty" minimum:"0" maximum:"1000"`
	Small    int8              `json:"small,omitempty" minimum:"-128" maximum:"127"`
	Tags     []string          `json:"tags,omitempty" maxItems:"4" uniqueItems:"true" maxLength:"8"`
	At       *Time             `json:"at,omitempty"`
	ID       *uuid.UUID        `json:"id,omitempty"`
	Self     *subject          `json:"self,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Anything json.RawMessage   `json:"anything,omitempty"`
	Note     Change[string]    `json:"note,omitzero" maxLength:"9"`
}

func ruleFor(t testing.TB, v any) *rule {
	t.Helper()
	s := newSchemas()
	c := &compiler{registry: s.registry, done: map[string]*rule{}}
	return c.compile(s.of(reflect.TypeOf(v), ""))
}

// FuzzDecode holds the strict decoder to its promises, whatever is sent: it never panics; it refuses with a 400 or a 422
// and nothing else; what it refuses it does not repeat; what encoding/json cannot read at all it refuses; and what it
// takes is what encoding/json reads, is well within its limits, and holds no control character.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"name":"a"}`, `{"name":"a","name":"b"}`, `{"name":"\u0000"}`, `{"name":null}`, `[]`, ``, `{"name":"a"}{}`,
		`{"name":"a","self":{"name":"b","self":{"name":"c"}}}`, "{\"name\":\"\xff\"}", `{"name":"\ud800"}`,
		`{"name":"a","count":1e2,"tags":["x","x"],"at":"2026-03-01T00:00:00Z","id":"0198a000-0000-7000-8000-000000000001"}`,
		`{"name":"a","anything":[[[[{"a":"\t"}]]]],"labels":{"a":"b"},"kind":"user","note":null,"small":128}`,
	} {
		f.Add([]byte(seed))
	}
	rule := ruleFor(f, subject{})
	f.Fuzz(func(t *testing.T, text []byte) {
		var got subject
		err := syntax(text)
		if err == nil {
			err = decode(text, rule, &got)
		}
		if err != nil {
			e := fault.As(err)
			if e == nil || e.Kind != fault.KindMalformed && e.Kind != fault.KindInvalid {
				t.Fatalf("%q: refused with %v", text, err)
			}
			if e.Kind == fault.KindInvalid && (len(e.Fields) == 0 || len(e.Fields) > maxFieldErrors) {
				t.Fatalf("%q: refused for %d reasons", text, len(e.Fields))
			}
			return
		}
		if !json.Valid(text) {
			t.Fatalf("%q: taken, and is no JSON", text)
		}
		var again subject
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%q: taken, and encoding/json says %v", text, err)
		}
		if got.Name != again.Name || got.Kind != again.Kind || got.Count != again.Count || len(got.Tags) != len(again.Tags) {
			t.Fatalf("%q: read as %+v, by encoding/json as %+v", text, got, again)
		}
		for s := &got; s != nil; s = s.Self {
			if n := len([]rune(s.Name)); n < 1 || n > 20 || s.Count < 0 || s.Count > 1000 || len(s.Tags) > 4 {
				t.Fatalf("%q: taken beyond its limits: %+v", text, s)
			}
			for _, part := range append([]string{s.Name, s.Kind}, s.Tags...) {
				if strings.ContainsFunc(part, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
					t.Fatalf("%q: taken with a control character", text)
				}
			}
		}
	})
}

// FuzzTime holds that a time that is taken is written in the contract's one form, which reads as the same time.
func FuzzTime(f *testing.F) {
	for _, seed := range []string{"2026-03-01T09:30:00Z", "2026-03-01T09:30:00.123456789+14:00", "2026-03-01T09:30:00,5Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-00:01", "2026-03-01 09:30:00Z", "2026-03-01T9:30:00Z"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := parseTime(s)
		if err != nil {
			return
		}
		b, _ := Time{at}.MarshalText()
		if len(b) != len(timeLayout) {
			t.Fatalf("%q is written %s", s, b)
		}
		again, err := parseTime(string(b))
		if err != nil || !again.Equal(at) {
			t.Fatalf("%q is written %s and read %v, %v", s, b, again, err)
		}
	})
}

func TestTimeIsReadAsStrictlyAsItsFormatSays(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"2026-03-01T09:30:00Z":                "2026-03-01T09:30:00.000Z",
		"2026-03-01T09:30:00.1239Z":           "2026-03-01T09:30:00.123Z",
		"2026-03-01T00:30:00+01:00":           "2026-02-28T23:30:00.000Z",
		"2024-02-29T00:00:00-00:00":           "2024-02-29T00:00:00.000Z",
		"1969-12-31T23:59:59.9999Z":           "1969-12-31T23:59:59.999Z",
		"2026-03-01T09:30:00,1Z":              "",
		"2026-03-01T9:30:00Z":                 "",
		"2026-03-01t09:30:00z":                "",
		"2026-03-01 09:30:00Z":                "",
		"2026-03-01T09:30:00":                 "",
		"2026-03-01T24:00:00Z":                "",
		"2026-02-29T00:00:00Z":                "",
		"2026-03-01T09:30:00+25:00":           "",
		"10000-01-01T00:00:00Z":               "",
		"9999-12-31T23:59:59-01:00":           "",
		"0000-12-31T00:00:00Z":                "",
		"":                                    "",
		"2026-03-01T09:30:00Z\x00":            "",
		"2026-03-01T09:30:00.0000000000000Z ": "",
	} {
		at, err := parseTime(s)
		if got := (Time{at}).Format(timeLayout); want == "" && err == nil || want != "" && (err != nil || got != want) {
			t.Errorf("%q: read as %s, %v; want %q", s, got, err, want)
		}
	}
}

func TestTimeIsOneInBothJSONPackages(t *testing.T) {
	t.Parallel()
	in := struct {
		At   Time  `json:"at"`
		None *Time `json:"none"`
	}{At: At(time.Date(2026, 3, 1, 9, 30, 0, 999_999_999, time.UTC))}
	b, err := json.Marshal(in)
	if err != nil || string(b) != `{"at":"2026-03-01T09:30:00.999Z","none":null}` {
		t.Fatal(string(b), err)
	}
	out := in
	if err := json.Unmarshal([]byte(`{"at":"2026-03-01T11:30:00.5+02:00"}`), &out); err != nil || out.At.Format(timeLayout) != "2026-03-01T09:30:00.500Z" {
		t.Error(out.At, err)
	}
	if err := json.Unmarshal([]byte(`{"at":"now"}`), &out); err == nil {
		t.Error("took no time")
	}
	if AtOrNull(nil) != nil || (*Time)(nil).Or() != nil {
		t.Error("nil is something")
	}
	now := time.Now()
	if got := AtOrNull(&now).Or(); got.Sub(now).Abs() > time.Millisecond {
		t.Error(got)
	}
}

type stubborn string

func (s *stubborn) UnmarshalText([]byte) error { return errors.New("the secret is 42") }

func TestTypeMayBeStricterThanItsSchema(t *testing.T) {
	t.Parallel()
	type body struct {
		List []struct {
			Version stubborn `json:"version"`
		} `json:"list"`
	}
	err := decode([]byte(`{"list":[{"version":"1"}]}`), ruleFor(t, body{}), new(body))
	e := fault.As(err)
	if e == nil || e.Kind != fault.KindInvalid || len(e.Fields) != 1 || e.Fields[0].Field != "list[0].version" || e.Fields[0].Code != codeBadFormat {
		t.Fatalf("%+v", e)
	}
	if strings.Contains(err.Error(), "42") {
		t.Error(err)
	}
}

func BenchmarkSyntaxAndDecode(b *testing.B) {
	type acquire struct {
		LicenseKey string `json:"license_key" minLength:"1" maxLength:"64"`
		HardwareID string `json:"hardware_id" minLength:"1" maxLength:"128"`
		Version    string `json:"version" maxLength:"64"`
		Hostname   string `json:"hostname,omitempty" maxLength:"255"`
	}
	text := []byte(`{"license_key":"USH-AAAAA-BBBBB-CCCCC-DDDDD-EEEEE","hardware_id":"0198a000-0000-7000-8000-000000000001","version":"2.4.1","hostname":"build-7"}`)
	r := ruleFor(b, acquire{})
	b.ReportAllocs()
	for b.Loop() {
		if syntax(text) != nil {
			b.Fatal("refused")
		}
		var in acquire
		if decode(text, r, &in) != nil {
			b.Fatal("refused")
		}
	}
}
