package httpx_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/httpx/httpxtest"
	"github.com/coditect/usher/shared/platform/telemetry"
)

// SitDown and its like are the types of a small service that uses all that the adapter offers.
type SitDown struct {
	LicenseKey string            `json:"license_key" minLength:"1" maxLength:"64"`
	Kind       string            `json:"kind,omitempty" enum:"device,user"`
	Count      int               `json:"count,omitempty" minimum:"1" maximum:"10"`
	Features   []string          `json:"features,omitempty" maxItems:"3" uniqueItems:"true" minLength:"2"`
	Until      *httpx.Time       `json:"until,omitempty"`
	Owner      *uuid.UUID        `json:"owner,omitempty"`
	Mail       string            `json:"mail,omitempty" format:"email"`
	Home       string            `json:"home,omitempty" format:"uri"`
	Code       string            `json:"code,omitempty" pattern:"^[a-z]+$" patternDescription:"lower-case letters"`
	Wait       bool              `json:"wait,omitempty"`
	Share      float64           `json:"share,omitempty" exclusiveMinimum:"0" exclusiveMaximum:"1"`
	Nested     *Nested           `json:"nested,omitempty"`
	Labels     map[string]string `json:"labels,omitempty" maxProperties:"2"`
	Metadata   json.RawMessage   `json:"metadata,omitempty"`
	Proof      []byte            `json:"proof,omitempty" maxLength:"40"`
}

type Nested struct {
	TenantID uuid.UUID `json:"tenant_id"`
	Deeper   *Nested   `json:"deeper,omitempty"`
}

type Seat struct {
	ID      uuid.UUID   `json:"id"`
	No      int         `json:"no"`
	Since   httpx.Time  `json:"since"`
	Until   *httpx.Time `json:"until"`
	Holder  *Nested     `json:"holder"`
	Note    *string     `json:"note"`
	Kind    *string     `json:"kind" enum:"device,user"`
	Labels  []string    `json:"labels"`
	Sent    *SitDown    `json:"sent,omitempty"`
	Replays int         `json:"replays,omitempty"`
}

type Alter struct {
	Until httpx.Change[httpx.Time] `json:"until,omitzero"`
	Note  httpx.Change[string]     `json:"note,omitzero" maxLength:"5"`
}

type Paging struct {
	Limit  int        `query:"limit" minimum:"1" maximum:"100" default:"20"`
	Cursor string     `query:"cursor" maxLength:"20"`
	Status string     `query:"status" enum:"active,ended"`
	Of     *uuid.UUID `query:"license_id"`
	Deep   bool       `query:"deep"`
	After  httpx.Time `query:"after"`
}

var seatID = uuid.MustParse("0198a000-0000-7000-8000-000000000001")

func seat() Seat {
	return Seat{ID: seatID, No: 1, Since: httpx.At(time.Date(2026, 3, 1, 10, 30, 0, 123_999_999, time.FixedZone("", 3600)))}
}

func routes() []httpx.Route {
	return []httpx.Route{{
		Method: "POST", Path: "/v1/seats", ID: "sit_down", Summary: "Sit down", Tag: "seats", Idempotent: true,
		Credentials: []httpx.Credential{httpx.LicenseKey},
		Body:        SitDown{},
		Replies:     []httpx.Doc{{Status: 201, Body: Seat{}}, {Status: 200, Body: Seat{}}},
		Problems:    []int{404, 409, 429},
		Handle: func(c *httpx.Call) (httpx.Reply, error) {
			if _, err := c.Body(); err != nil {
				return httpx.Reply{}, err
			}
			switch c.Peek("license_key") {
			case "nobody's":
				return httpx.Reply{}, fault.NotFound("license_not_found", "There is no such licence.")
			case "full":
				return httpx.Reply{}, fault.Conflict("no_seats_available", "All seats are taken.").
					With("active_seats", 3).With("max_seats", 3).Retry(1500 * time.Millisecond)
			}
			var in SitDown
			if err := c.Decode(&in); err != nil {
				return httpx.Reply{}, err
			}
			out := seat()
			out.Sent = &in
			c.Note(slog.String("tenant", "acme"))
			return httpx.Reply{Status: 201, Body: out}, nil
		},
	}, {
		Method: "GET", Path: "/v1/seats", ID: "list_seats", Query: Paging{}, Credentials: []httpx.Credential{httpx.APIKey},
		Replies: []httpx.Doc{{Status: 200, Body: struct {
			Asked string `json:"asked"`
		}{}}},
		Handle: func(c *httpx.Call) (httpx.Reply, error) {
			var in Paging
			if err := c.DecodeQuery(&in); err != nil {
				return httpx.Reply{}, err
			}
			asked := fmt.Sprintf("%d %s %s %v %v %s", in.Limit, in.Cursor, in.Status, in.Of, in.Deep, in.After.Format(time.RFC3339))
			return httpx.Reply{Body: struct {
				Asked string `json:"asked"`
			}{asked}}, nil
		},
	}, {
		Method: "GET", Path: "/v1/seats/{id}", ID: "get_seat", Credentials: []httpx.Credential{httpx.SeatToken, httpx.APIKey},
		Replies: []httpx.Doc{{Status: 200, Body: Seat{}}},
		Handle: func(c *httpx.Call) (httpx.Reply, error) {
			if _, ok := c.Bearer(); !ok {
				return httpx.Reply{}, fault.Unauthenticated("seat_token_invalid", "The seat token is not good.")
			}
			id, err := c.PathUUID("id")
			if err != nil {
				return httpx.Reply{}, err
			}
			out := seat()
			out.ID = id
			return httpx.Reply{Body: out, Header: http.Header{"Cache-Control": {"max-age=60"}}}, nil
		},
	}, {
		Method: "PATCH", Path: "/v1/seats/{id}", ID: "change_seat", Body: Alter{},
		Replies: []httpx.Doc{{Status: 200, Body: Seat{}}},
		Handle: func(c *httpx.Call) (httpx.Reply, error) {
			var in Alter
			if err := c.Decode(&in); err != nil {
				return httpx.Reply{}, err
			}
			before := "before"
			out := seat()
			out.Note = &before
			in.Note.Apply(&out.Note)
			in.Until.Apply(&out.Until)
			return httpx.Reply{Body: out}, nil
		},
	}, {
		Method: "DELETE", Path: "/v1/seats/{id}", ID: "clear_seat", Replies: []httpx.Doc{{Status: 204}},
		Handle: func(*httpx.Call) (httpx.Reply, error) { return httpx.Reply{Status: 204}, nil },
	}, {
		Method: "POST", Path: "/v1/beat", ID: "beat", Replies: []httpx.Doc{{Status: 200, Body: Seat{}}}, Problems: []int{429},
		Timeout: 200 * time.Millisecond,
		Handle: func(c *httpx.Call) (httpx.Reply, error) {
			if err := c.Decode(nil); err != nil {
				return httpx.Reply{}, err
			}
			switch c.Request().Header.Get("X-Please") {
			case "panic":
				panic("the secret is 42")
			case "abort":
				panic(http.ErrAbortHandler)
			case "fail":
				return httpx.Reply{}, errors.New("the secret is 42")
			case "hang":
				<-c.Context().Done()
				return httpx.Reply{}, fmt.Errorf("ask the store: %w", c.Context().Err())
			case "hurry":
				return httpx.Reply{}, fault.RateLimited(time.Millisecond)
			case "wait":
				return httpx.Reply{}, &fault.Error{Kind: fault.KindUnavailable, Code: "switched_off", Detail: "This is switched off."}
			case "nonsense":
				return httpx.Reply{Body: func() {}, Header: http.Header{"X-Left": {"over"}}}, nil
			}
			return httpx.Reply{Body: seat()}, nil
		},
	}, {
		Method: "GET", Path: "/.well-known/raw.json", ID: "raw",
		Replies: []httpx.Doc{{Status: 200, Body: map[string]any{}, ContentType: "application/jwk-set+json"}},
		Handle: func(*httpx.Call) (httpx.Reply, error) {
			return httpx.Reply{Body: httpx.Raw(`{"keys":[]}`), Header: http.Header{"Content-Type": {"application/jwk-set+json"}}}, nil
		},
	}}
}

// service is the routes above behind the validator, and what they logged.
type service struct {
	http.Handler
	log *logged
}

type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newService(t testing.TB, change ...func(*httpx.Service)) service {
	t.Helper()
	log := new(logged)
	s := httpx.Service{Name: "seats", Version: "v1", Log: telemetry.New(log, "seats", "proj", slog.LevelInfo)}
	for _, fn := range change {
		fn(&s)
	}
	spec, err := httpx.OpenAPI("Seats", "1", routes())
	if err != nil {
		t.Fatal(err)
	}
	return service{httpxtest.Check(t, spec)(httpx.New(s, routes()...)), log}
}

// answer is an answer with its body read.
type answer struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

func (s service) do(t testing.TB, method, target, body string, header ...string) answer {
	t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, in)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Del(header[i])
		if header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	return s.send(t, r)
}

func (s service) send(t testing.TB, r *http.Request) answer {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	a := answer{status: w.Code, header: w.Header(), text: w.Body.String()}
	if a.text != "" {
		if err := json.Unmarshal([]byte(a.text), &a.body); err != nil {
			t.Fatalf("%s %s answered %q: %v", r.Method, r.URL, a.text, err)
		}
	}
	return a
}

func (a answer) code() string { s, _ := a.body["code"].(string); return s }

// fields returns the field errors as "field code", comma-separated.
func (a answer) fields() string {
	var out []string
	list, _ := a.body["errors"].([]any)
	for _, e := range list {
		e := e.(map[string]any)
		out = append(out, fmt.Sprint(e["field"], " ", e["code"]))
	}
	return strings.Join(out, ", ")
}

func TestAnswerFollowsTheContract(t *testing.T) {
	t.Parallel()
	s := newService(t)
	a := s.do(t, "GET", "/v1/seats/"+seatID.String(), "", "Authorization", "bearer x", "X-Request-Id", "mine-1")
	if a.status != 200 {
		t.Fatal(a.status, a.text)
	}
	want := `{"id":"0198a000-0000-7000-8000-000000000001","no":1,"since":"2026-03-01T09:30:00.123Z","until":null,"holder":null,"note":null,"kind":null,"labels":[]}`
	if a.text != want {
		t.Errorf("body is %s\nwant    %s", a.text, want)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Cache-Control": "max-age=60",
		"X-Request-Id": "mine-1", "Content-Length": fmt.Sprint(len(want)),
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestProblemDocument(t *testing.T) {
	t.Parallel()
	s := newService(t)
	a := s.do(t, "POST", "/v1/seats?x=1", `{"license_key":"full"}`, "X-Request-Id", "mine-2")
	want := map[string]any{
		"type": "urn:usher:problem:no_seats_available", "title": "Conflict", "status": 409.0, "detail": "All seats are taken.",
		"instance": "/v1/seats", "code": "no_seats_available", "request_id": "mine-2", "retry_after_seconds": 2.0,
		"active_seats": 3.0, "max_seats": 3.0,
	}
	if got, want := fmt.Sprint(a.body), fmt.Sprint(want); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if a.header.Get("Retry-After") != "2" || a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("Cache-Control") != "no-store" {
		t.Error(a.header)
	}
}

func TestBodyThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newService(t)
	deep := strings.Repeat(`{"a":`, 32) + `1` + strings.Repeat(`}`, 32)
	for name, c := range map[string]struct {
		body, contentType string
		status            int
		code              string
	}{
		"nothing":             {"", "application/json", 400, "body_missing"},
		"not JSON":            {`{"license_key"`, "application/json", 400, "malformed_json"},
		"single quotes":       {`{'license_key':'a'}`, "application/json", 400, "malformed_json"},
		"two values":          {`{"license_key":"a"} {}`, "application/json", 400, "malformed_json"},
		"a member twice":      {`{"license_key":"a","license_key":"b"}`, "application/json", 400, "malformed_json"},
		"twice by escape":     {`{"license_key":"a","license\u005fkey":"b"}`, "application/json", 400, "malformed_json"},
		"twice, deep":         {`{"metadata":{"a":1,"a":1}}`, "application/json", 400, "malformed_json"},
		"bad UTF-8":           {"{\"license_key\":\"\xff\"}", "application/json", 400, "malformed_json"},
		"half a surrogate":    {`{"license_key":"\ud800"}`, "application/json", 400, "malformed_json"},
		"a byte order mark":   {"\ufeff{}", "application/json", 400, "malformed_json"},
		"a bare line feed":    {"{\"license_key\":\"\n\"}", "application/json", 400, "malformed_json"},
		"33 levels":           {`{"metadata":` + deep + `}`, "application/json", 400, "malformed_json"},
		"too large":           {`{"license_key":"` + strings.Repeat("a", 64<<10) + `"}`, "application/json", 413, "body_too_large"},
		"no content type":     {`{"license_key":"a"}`, "", 415, "unsupported_media_type"},
		"a form":              {`license_key=a`, "application/x-www-form-urlencoded", 415, "unsupported_media_type"},
		"Latin-1":             {`{"license_key":"a"}`, "application/json; charset=latin1", 415, "unsupported_media_type"},
		"UTF-8":               {`{"license_key":"a"}`, "Application/JSON; charset=UTF-8", 201, ""},
		"a suffix":            {`{"license_key":"a"}`, "application/vnd.api+json", 201, ""},
		"syntax before 404":   {`{"license_key":"nobody's",}`, "application/json", 400, "malformed_json"},
		"404 before 422":      {`{"license_key":"nobody's","what":1}`, "application/json", 404, "license_not_found"},
		"32 levels":           {`{"license_key":"a","metadata":` + deep[len(`{"a":`):len(deep)-1] + `}`, "application/json", 201, ""},
		"not an object":       {`["license_key"]`, "application/json", 422, "invalid_request"},
		"a number by itself":  {` 7 `, "application/json", 422, "invalid_request"},
		"nothing but null":    {`null`, "application/json", 422, "invalid_request"},
		"an escaped name":     {`{"license\u005fkey":"a"}`, "application/json", 201, ""},
		"space all around it": {" \r\n\t{ \"license_key\" : \"a\" } \n", "application/json", 201, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := s
			if name == "a suffix" { // the document says application/json only, so the validator would object
				s = service{httpx.New(httpx.Service{Log: slog.New(slog.DiscardHandler)}, routes()...), nil}
			}
			a := s.do(t, "POST", "/v1/seats", c.body, "Content-Type", c.contentType)
			if a.status != c.status || a.code() != c.code {
				t.Errorf("answered %d %s: %s", a.status, a.code(), a.text)
			}
		})
	}
}

func TestBodyOfUnknownLengthIsLimitedToo(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for size, status := range map[int]int{100: 201, 60 << 10: 422, 65 << 10: 413} {
		r := httptest.NewRequest("POST", "/v1/seats", io.MultiReader(strings.NewReader(`{"license_key":"a","metadata":"`), strings.NewReader(strings.Repeat("a", size)+`","x":1}`)))
		if status == 201 {
			r = httptest.NewRequest("POST", "/v1/seats", io.MultiReader(strings.NewReader(`{"license_key":"a"`), strings.NewReader(`}`)))
		}
		r.ContentLength = -1
		r.Header.Set("Content-Type", "application/json")
		if a := s.send(t, r); a.status != status {
			t.Errorf("%d bytes: answered %d %s", size, a.status, a.text)
		}
	}
}

func TestEveryFaultyFieldIsListedAndNoValueRepeated(t *testing.T) {
	t.Parallel()
	s := newService(t)
	const secret = "s3cr3t"
	for name, c := range map[string]struct{ body, fields string }{
		"required":             {`{}`, "license_key required"},
		"null for a string":    {`{"license_key":null}`, "license_key wrong_type"},
		"all at once":          {`{"kind":"s3cr3t","count":11,"who":"s3cr3t"}`, "kind not_allowed, count out_of_range, who unknown_field, license_key required"},
		"case matters":         {`{"License_Key":"s3cr3t"}`, "License_Key unknown_field, license_key required"},
		"a name like a secret": {`{"license_key":"a","USH-s3cr3t":1}`, "? unknown_field"},
		"wrong types":          {`{"license_key":7,"count":"s3cr3t","features":"s3cr3t","wait":"true","nested":[],"share":true,"labels":3}`, "license_key wrong_type, count wrong_type, features wrong_type, wait wrong_type, nested wrong_type, share wrong_type, labels wrong_type"},
		"too short":            {`{"license_key":""}`, "license_key too_short"},
		"too long":             {`{"license_key":"` + strings.Repeat("é", 65) + `"}`, "license_key too_long"},
		"items":                {`{"license_key":"a","features":["aa",3,"b"]}`, "features[1] wrong_type, features[2] too_short"},
		"too many items":       {`{"license_key":"a","features":["aa","bb","cc","dd"]}`, "features too_long"},
		"an item twice":        {`{"license_key":"a","features":["aa","bb","\u0061a"]}`, "features not_allowed"},
		"objects as items":     {`{"license_key":"a","features":[{},{}]}`, "features[0] wrong_type, features[1] wrong_type"},
		"a fraction":           {`{"license_key":"a","count":1.5}`, "count wrong_type"},
		"an exponent":          {`{"license_key":"a","count":1e1}`, "count wrong_type"},
		"beyond 2^53":          {`{"license_key":"a","count":9007199254740993}`, "count out_of_range"},
		"beyond float64":       {`{"license_key":"a","share":1e999}`, "share out_of_range"},
		"bounds excluded":      {`{"license_key":"a","share":1}`, "share out_of_range"},
		"bound of zero":        {`{"license_key":"a","share":0}`, "share out_of_range"},
		"no time":              {`{"license_key":"a","until":"2026-02-30T00:00:00Z"}`, "until bad_format"},
		"no zone":              {`{"license_key":"a","until":"2026-02-03T00:00:00"}`, "until bad_format"},
		"no UUID":              {`{"license_key":"a","owner":"{0198a000-0000-7000-8000-000000000001}"}`, "owner bad_format"},
		"no mail":              {`{"license_key":"a","mail":"Ann <s3cr3t@example.com>"}`, "mail bad_format"},
		"no URL":               {`{"license_key":"a","home":"/s3cr3t"}`, "home bad_format"},
		"pattern":              {`{"license_key":"a","code":"A"}`, "code bad_format"},
		"base64":               {`{"license_key":"a","proof":"a"}`, "proof bad_format"},
		"nested":               {`{"license_key":"a","nested":{"tenant_id":"x","deeper":{"more":1}}}`, "nested.tenant_id bad_format, nested.deeper.more unknown_field, nested.deeper.tenant_id required"},
		"null where absent":    {`{"license_key":"a","nested":null}`, "nested wrong_type"},
		"map values":           {`{"license_key":"a","labels":{"x":1}}`, "labels.x wrong_type"},
		"map size":             {`{"license_key":"a","labels":{"x":"","y":"","z":""}}`, "labels too_long"},
		"control character":    {`{"license_key":"s3cr3t\u0000"}`, "license_key control_character"},
		"delete":               {`{"license_key":"s3cr3t\u007f"}`, "license_key control_character"},
		"control in anything":  {`{"license_key":"a","metadata":{"a":[1,{"b":"\n"}]}}`, "metadata control_character"},
		"control in a name":    {`{"license_key":"a","metadata":{"a\t":1}}`, "metadata control_character"},
		"control in a map":     {`{"license_key":"a","labels":{"a\t":""}}`, "labels.? control_character"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := s.do(t, "POST", "/v1/seats", c.body)
			if a.status != 422 || a.code() != "invalid_request" || a.fields() != c.fields {
				t.Errorf("answered %d %s: %s\nwant %s\nhave %s", a.status, a.code(), a.body["detail"], c.fields, a.fields())
			}
			if strings.Contains(a.text, secret) || strings.Contains(s.log.String(), secret) {
				t.Errorf("a value was repeated: %s", a.text)
			}
		})
	}
}

func TestFieldErrorsAreBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`{"license_key":"a"`)
	for i := range 1000 {
		fmt.Fprintf(&b, `,"x%d":1`, i)
	}
	b.WriteString(`}`)
	a := newService(t).do(t, "POST", "/v1/seats", b.String())
	if n := len(a.body["errors"].([]any)); a.status != 422 || n != 32 {
		t.Errorf("answered %d with %d errors", a.status, n)
	}
}

func TestGoodBodyArrivesWhole(t *testing.T) {
	t.Parallel()
	body := `{"license_key":"a","kind":"user","count":10,"features":["aa","bb"],"until":"2026-03-01T12:00:00.123456+02:00",` +
		`"owner":"0198a000-0000-7000-8000-000000000001","mail":"ann@example.com","home":"https://example.com/x?y=<z>",` +
		`"code":"abc","wait":true,"share":0.5,"nested":{"tenant_id":"0198a000-0000-7000-8000-000000000001"},` +
		`"labels":{"x":"é"},"metadata":{"any":[1,null,"thing"]},"proof":"AAEC"}`
	a := newService(t).do(t, "POST", "/v1/seats", body)
	if a.status != 201 {
		t.Fatal(a.status, a.text)
	}
	want := strings.Replace(body, "2026-03-01T12:00:00.123456+02:00", "2026-03-01T10:00:00.123Z", 1)
	if !strings.Contains(a.text, `"sent":`+want) {
		t.Errorf("sent %s\nhave %s", want, a.text)
	}
}

func TestPatchTellsAbsentFromNull(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for body, want := range map[string]string{
		`{}`:                                 `"until":null,"holder":null,"note":"before"`,
		`{"note":null}`:                      `"note":null`,
		`{"note":"after"}`:                   `"note":"after"`,
		`{"until":"2026-03-01T00:00:00Z"}`:   `"until":"2026-03-01T00:00:00.000Z"`,
		`{"until":null,"note":"x"}`:          `"until":null`,
		`{"until":"2026-03-01T00:00:00.1Z"}`: `"until":"2026-03-01T00:00:00.100Z"`,
	} {
		if a := s.do(t, "PATCH", "/v1/seats/"+seatID.String(), body); a.status != 200 || !strings.Contains(a.text, want) {
			t.Errorf("%s: answered %d %s, want %s", body, a.status, a.text, want)
		}
	}
	if a := s.do(t, "PATCH", "/v1/seats/"+seatID.String(), `{"note":"longer","until":7}`); a.fields() != "note too_long, until wrong_type" {
		t.Errorf("answered %d %s", a.status, a.text)
	}
}

func TestQuery(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for target, want := range map[string]string{
		"/v1/seats": "20    false 0001-01-01T00:00:00Z",
		"/v1/seats?limit=5&cursor=abc&status=active&license_id=" + seatID.String() + "&deep=true&after=2026-03-01T00:00:00Z": "5 abc active " + seatID.String() + " true 2026-03-01T00:00:00Z",
	} {
		want = strings.Replace(want, "    ", "   <nil> ", 1)
		if a := s.do(t, "GET", target, "", "Authorization", "Bearer x"); a.status != 200 || a.body["asked"] != want {
			t.Errorf("%s: answered %d %s, want %q", target, a.status, a.text, want)
		}
	}
	for query, fields := range map[string]string{
		"limit=0":          "limit out_of_range",
		"limit=101":        "limit out_of_range",
		"limit=":           "limit wrong_type",
		"limit=+5":         "limit wrong_type",
		"limit=5%0A":       "limit wrong_type",
		"limit=1e1":        "limit wrong_type",
		"limit=x&deep=yes": "deep wrong_type, limit wrong_type",
		"limit=1&limit=2":  "limit not_allowed",
		"what=1&status=x":  "status not_allowed, what unknown_field",
		"license_id=x":     "license_id bad_format",
		"after=yesterday":  "after bad_format",
		"cursor=%00":       "cursor control_character",
		"cursor=%FF":       "cursor bad_format",
		"%FF=1":            "? unknown_field",
		"USH-XXXX=1":       "? unknown_field",
	} {
		if a := s.do(t, "GET", "/v1/seats?"+query, "", "Authorization", "Bearer x"); a.status != 422 || a.fields() != fields {
			t.Errorf("%s: answered %d %s, want %s", query, a.status, a.text, fields)
		}
	}
	for _, query := range []string{"limit=%zz", "a=1;b=2"} {
		r := httptest.NewRequest("GET", "/v1/seats", nil)
		r.URL.RawQuery = query
		if a := s.send(t, r); a.status != 400 || a.code() != "malformed_query" {
			t.Errorf("%s: answered %d %s", query, a.status, a.text)
		}
	}
}

func TestRouteWithoutBodyTakesNothingOrAnEmptyObject(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for body, status := range map[string]int{"": 200, "{}": 200, " { } ": 200, `{"a":1}`: 422, "[]": 422, "null": 422, "{": 400} {
		if a := s.do(t, "POST", "/v1/beat", body); a.status != status {
			t.Errorf("%q: answered %d %s", body, a.status, a.text)
		}
	}
	if a := s.do(t, "POST", "/v1/beat", "{}", "Content-Type", "text/plain"); a.status != 415 {
		t.Errorf("text/plain: answered %d", a.status)
	}
}

func TestWhatNobodyServes(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for _, c := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"GET", "/", 404, "not_found", ""},
		{"GET", "/v1", 404, "not_found", ""},
		{"GET", "/v1/seats/", 404, "not_found", ""},
		{"GET", "/v1//seats", 404, "not_found", ""},
		{"GET", "/v1/../v1/seats", 404, "not_found", ""},
		{"GET", "/v1/./seats", 404, "not_found", ""},
		{"GET", "/v1/seats/..", 404, "not_found", ""},
		{"GET", "/.well-known", 404, "not_found", ""},
		{"GET", "/v1/seats/not-a-uuid", 404, "not_found", ""},
		{"DELETE", "/v1/seats/%FF", 404, "not_found", ""},
		{"DELETE", "/v1/seats/a%00", 404, "not_found", ""},
		{"DELETE", "/v1/seats/a%7F", 404, "not_found", ""},
		{"GET", "/v1/seats/0198a00000007000800000000000001a", 404, "not_found", ""},
		{"PUT", "/v1/seats", 405, "method_not_allowed", "GET, HEAD, POST"},
		{"OPTIONS", "/v1/beat", 405, "method_not_allowed", "POST"},
		{"POST", "/health", 405, "method_not_allowed", "GET, HEAD"},
		{"DELETE", "/v1/seats/" + seatID.String(), 204, "", ""},
	} {
		a := s.do(t, c.method, c.path, "", "Authorization", "Bearer x")
		if a.status != c.status || a.code() != c.code || a.header.Get("Allow") != c.allow {
			t.Errorf("%s %s: answered %d %s, Allow %q", c.method, c.path, a.status, a.text, a.header.Get("Allow"))
		}
		if a.header.Get("X-Request-Id") == "" || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: %v", c.method, c.path, a.header)
		}
	}
}

func TestRawBodyIsWrittenAsItIs(t *testing.T) {
	t.Parallel()
	a := newService(t).do(t, "GET", "/.well-known/raw.json", "")
	if a.status != 200 || a.text != `{"keys":[]}` || a.header.Get("Content-Type") != "application/jwk-set+json" {
		t.Error(a.status, a.text, a.header)
	}
}

func TestHeadAnswersLikeGetWithoutBody(t *testing.T) {
	t.Parallel()
	a := newService(t).do(t, "HEAD", "/health", "")
	if a.status != 200 || a.text != "" || a.header.Get("Content-Length") == "0" || a.header.Get("Content-Type") != "application/json" {
		t.Error(a.status, a.text, a.header)
	}
}

func TestNothingInternalShows(t *testing.T) {
	t.Parallel()
	for please, want := range map[string]struct {
		status int
		code   string
	}{
		"panic": {500, "internal_error"}, "fail": {500, "internal_error"}, "nonsense": {500, "internal_error"},
		"hang": {503, "store_unavailable"}, "hurry": {429, "rate_limited"}, "wait": {503, "switched_off"},
	} {
		t.Run(please, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			a := s.do(t, "POST", "/v1/beat", "", "X-Please", please)
			if a.status != want.status || a.code() != want.code || strings.Contains(a.text, "secret") || a.header.Get("X-Left") != "" {
				t.Errorf("answered %d %s", a.status, a.text)
			}
			if want.status >= 500 && !strings.Contains(s.log.String(), `"severity":"ERROR"`) || want.status == 429 && !strings.Contains(s.log.String(), `"severity":"WARNING"`) {
				t.Errorf("logged %s", s.log)
			}
			if please == "panic" && !strings.Contains(s.log.String(), "httpx_test.go") {
				t.Errorf("no stack in %s", s.log)
			}
			if (please == "panic" || please == "fail") && !strings.Contains(s.log.String(), "the secret is 42") {
				t.Errorf("no reason in %s", s.log)
			}
			if retry := a.header.Get("Retry-After"); want.status != 500 && retry != "1" {
				t.Errorf("Retry-After is %q", retry)
			}
		})
	}
}

func TestAbortReachesTheServer(t *testing.T) {
	t.Parallel()
	defer func() {
		p := recover()
		if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
			t.Errorf("panicked with %v", p)
		}
	}()
	newService(t).do(t, "POST", "/v1/beat", "", "X-Please", "abort")
}

func TestRequestIDIsTakenOrMade(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for given, taken := range map[string]bool{
		"a": true, "A.b_c-9": true, strings.Repeat("a", 128): true, "": false, strings.Repeat("a", 129): false,
		"a b": false, "a/b:c=d": true, "ä": false, "a\tb": false,
	} {
		got := s.do(t, "GET", "/health", "", "X-Request-Id", given).header.Get("X-Request-Id")
		if taken != (got == given) {
			t.Errorf("gave %q, got %q", given, got)
		}
		if id, err := uuid.Parse(got); !taken && (err != nil || id.Version() != 7) {
			t.Errorf("gave %q, got %q, which is no UUIDv7", given, got)
		}
	}
}

func TestOneLogLineForEachRequest(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.do(t, "POST", "/v1/seats", `{"license_key":"s3cr3t"}`, "Authorization", "Bearer s3cr3t", "X-Request-Id", "r1",
		"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	s.do(t, "GET", "/health", "") // not worth a line
	line := s.log.String()
	if strings.Count(line, "\n") != 1 || strings.Contains(line, "s3cr3t") {
		t.Fatalf("logged %s", line)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"severity": "INFO", "message": "request", "method": "POST", "route": "/v1/seats", "status": 201.0, "request_id": "r1",
		"tenant": "acme", "logging.googleapis.com/trace": "projects/proj/traces/0af7651916cd43dd8448eb211c80319c",
		"logging.googleapis.com/spanId": "b7ad6b7169203331",
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v, in %s", name, got[name], want, line)
		}
	}
	if _, ok := got["ms"].(float64); !ok {
		t.Errorf("no ms in %s", line)
	}
	if s.do(t, "POST", "/v1/seats?token=s3cr3t", `{"license_key":"s3cr3t"}`); strings.Contains(s.log.String(), "s3cr3t") {
		t.Errorf("logged a query: %s", s.log.String())
	}
}

func TestABodyThatNeverComesIsAnsweredAllTheSame(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(httpx.New(httpx.Service{Name: "seats", Log: slog.New(slog.DiscardHandler)}, routes()...))
	t.Cleanup(server.Close)
	for path, want := range map[string]string{"/v1/beat": "400", "/v1/nowhere": "404"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		status, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(status, " "+want+" ") {
			t.Errorf("POST %s with half a body answers %q (%v), want %s", path, status, err, want)
		}
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		hops      int
		remote    string
		forwarded []string
		want      string
	}{
		{0, "192.0.2.1:99", []string{"203.0.113.9"}, "192.0.2.1"},
		{1, "192.0.2.1:99", []string{"203.0.113.9"}, "203.0.113.9"},
		{1, "192.0.2.1:99", []string{"6.6.6.6, 203.0.113.9"}, "203.0.113.9"},
		{1, "192.0.2.1:99", []string{"6.6.6.6", "203.0.113.9"}, "203.0.113.9"},
		{2, "192.0.2.1:99", []string{"6.6.6.6, 203.0.113.9, 198.51.100.1"}, "203.0.113.9"},
		{2, "192.0.2.1:99", []string{"6.6.6.6, 203.0.113.9", "198.51.100.1"}, "203.0.113.9"},
		{2, "192.0.2.1:99", []string{"203.0.113.9"}, "192.0.2.1"},
		{1, "192.0.2.1:99", nil, "192.0.2.1"},
		{1, "192.0.2.1:99", []string{"203.0.113.9, unknown"}, "192.0.2.1"},
		{1, "192.0.2.1:99", []string{"203.0.113.9:4711"}, "203.0.113.9"},
		{1, "192.0.2.1:99", []string{"[2001:db8::1]:4711"}, "2001:db8::1"},
		{1, "192.0.2.1:99", []string{"::ffff:203.0.113.9"}, "203.0.113.9"},
		{0, "[fe80::1%eth0]:99", nil, "fe80::1"},
		{0, "@", nil, "invalid IP"},
	} {
		h := httpx.New(httpx.Service{Log: slog.New(slog.DiscardHandler), TrustedHops: c.hops}, httpx.Route{
			Method: "GET", Path: "/whoami", ID: "whoami",
			Handle: func(call *httpx.Call) (httpx.Reply, error) { return httpx.Reply{Body: call.Address().String()}, nil },
		})
		r := httptest.NewRequest("GET", "/", nil) // a single route is served at the root too
		r.RemoteAddr, r.Header["X-Forwarded-For"] = c.remote, c.forwarded
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got := strings.Trim(w.Body.String(), "\"\n"); got != c.want && c.want != "invalid IP" || w.Code != 200 {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

func TestBearer(t *testing.T) {
	t.Parallel()
	var got string
	h := httpx.New(httpx.Service{Log: slog.New(slog.DiscardHandler)}, httpx.Route{
		Method: "GET", Path: "/x", ID: "x",
		Handle: func(c *httpx.Call) (httpx.Reply, error) {
			token, ok := c.Bearer()
			got = fmt.Sprint(token, " ", ok)
			return httpx.Reply{}, nil
		},
	})
	for _, c := range []struct {
		headers []string
		want    string
	}{
		{[]string{"Bearer abc"}, "abc true"},
		{[]string{"bearer  abc "}, "abc true"},
		{[]string{"Basic abc"}, " false"},
		{[]string{"Bearer "}, " false"},
		{[]string{"Bearer"}, " false"},
		{[]string{"Bearer a b"}, " false"},
		{nil, " false"},
		{[]string{"Bearer a", "Bearer b"}, " false"},
		{[]string{"Bearer a,b"}, " false"},
	} {
		r := httptest.NewRequest("GET", "/x", nil)
		r.Header["Authorization"] = c.headers
		h.ServeHTTP(httptest.NewRecorder(), r)
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.headers, got, c.want)
		}
	}
}

func TestHealthNamesTheStoresThatAreOut(t *testing.T) {
	t.Parallel()
	good := httpx.Check{Name: "postgres", Ping: func(context.Context) error { return nil }}
	bad := httpx.Check{Name: "redis", Ping: func(context.Context) error { return errors.New("dial 10.0.0.1: s3cr3t") }}
	broken := httpx.Check{Name: "kms", Ping: func(context.Context) error { panic("s3cr3t") }}
	s := newService(t, func(s *httpx.Service) { s.Ready = []httpx.Check{good} })
	if a := s.do(t, "GET", "/health/ready", ""); a.status != 200 || a.text != `{"status":"ready","service":"seats","version":"v1"}` {
		t.Errorf("answered %d %s", a.status, a.text)
	}
	s = newService(t, func(s *httpx.Service) { s.Ready = []httpx.Check{good, bad, broken} })
	a := s.do(t, "GET", "/health/ready", "")
	if a.status != 503 || a.code() != "store_unavailable" || fmt.Sprint(a.body["stores"]) != "[redis kms]" || strings.Contains(a.text, "s3cr3t") {
		t.Errorf("answered %d %s", a.status, a.text)
	}
	if a := s.do(t, "GET", "/health", ""); a.status != 200 || a.text != `{"status":"ok","service":"seats","version":"v1"}` {
		t.Errorf("answered %d %s", a.status, a.text)
	}
}

func TestHealthDoesNotWaitForAStoreThatHangs(t *testing.T) {
	t.Parallel()
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	deaf := httpx.Check{Name: "deaf", Ping: func(context.Context) error { <-forever; return nil }}
	s := newService(t, func(s *httpx.Service) { s.Ready = []httpx.Check{deaf, deaf} })
	start := time.Now()
	if a := s.do(t, "GET", "/health/ready", ""); a.status != 503 || time.Since(start) > 4*time.Second {
		t.Errorf("answered %d after %v", a.status, time.Since(start))
	}
}

func TestSlowBodyIsCutOffButASlowAnswerIsNot(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(httpx.New(httpx.Service{Log: slog.New(slog.DiscardHandler)}, httpx.Route{
		Method: "POST", Path: "/slow", ID: "slow", Body: map[string]any{}, Timeout: 300 * time.Millisecond,
		Handle: func(c *httpx.Call) (httpx.Reply, error) {
			if _, err := c.Body(); err != nil {
				return httpx.Reply{}, err
			}
			// The body's deadline passes here; the connection and the client must not notice.
			<-c.Context().Done()
			if err := c.Request().Context().Err(); err != nil {
				return httpx.Reply{}, err
			}
			return httpx.Reply{Body: "late"}, nil
		},
	}))
	t.Cleanup(server.Close)
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	go func() { _, _ = io.WriteString(w, `{"a":`) }()
	resp, err := http.Post(server.URL+"/slow", "application/json", r)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 400 || !strings.Contains(string(body), "body_incomplete") {
		t.Errorf("answered %d %s", resp.StatusCode, body)
	}
	for range 2 { // the second on the same connection
		resp, err = http.Post(server.URL+"/slow", "application/json", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		body, _ = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("answered %d %s", resp.StatusCode, body)
		}
	}
}

func TestMistakesInRoutesPanicAtStart(t *testing.T) {
	t.Parallel()
	handle := func(*httpx.Call) (httpx.Reply, error) { return httpx.Reply{}, nil }
	for name, routes := range map[string][]httpx.Route{
		"no handle":     {{Method: "GET", Path: "/x", ID: "x"}},
		"no ID":         {{Method: "GET", Path: "/x", Handle: handle}},
		"odd method":    {{Method: "FETCH", Path: "/x", ID: "x", Handle: handle}},
		"relative path": {{Method: "GET", Path: "x", ID: "x", Handle: handle}},
		"twice":         {{Method: "GET", Path: "/x", ID: "x", Handle: handle}, {Method: "GET", Path: "/x", ID: "y", Handle: handle}},
		"health":        {{Method: "GET", Path: "/health", ID: "x", Handle: handle}},
		"unknown format": {{Method: "POST", Path: "/x", ID: "x", Handle: handle, Body: struct {
			A string `json:"a" format:"ipv4"`
		}{}}},
		"bare time": {{Method: "POST", Path: "/x", ID: "x", Handle: handle, Body: Bare{}}},
		"query of lists": {{Method: "GET", Path: "/x", ID: "x", Handle: handle, Query: struct {
			A []string `query:"a"`
		}{}}},
		"untagged query": {{Method: "GET", Path: "/x", ID: "x", Handle: handle, Query: struct{ A string }{}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if recover() == nil {
					t.Error("New did not panic")
				}
			}()
			httpx.New(httpx.Service{Log: slog.New(slog.DiscardHandler)}, routes...)
		})
	}
}

type Bare struct {
	At time.Time `json:"at"`
}

func TestDecodeIntoAnotherTypeIsOurMistake(t *testing.T) {
	t.Parallel()
	h := httpx.New(httpx.Service{Log: slog.New(slog.DiscardHandler)}, httpx.Route{
		Method: "POST", Path: "/x", ID: "x", Body: Nested{}, BodyOptional: true,
		Handle: func(c *httpx.Call) (httpx.Reply, error) { return httpx.Reply{}, c.Decode(&Seat{}) },
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/x", nil))
	if w.Code != 500 {
		t.Errorf("answered %d", w.Code)
	}
}

func TestOpenAPIIsTheSameEachTime(t *testing.T) {
	t.Parallel()
	first, err := httpx.OpenAPI("Seats", "1", routes())
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := httpx.OpenAPI("Seats", "1", routes())
		if err != nil || !bytes.Equal(first, again) {
			t.Fatal("another document", err)
		}
	}
	for _, want := range []string{`"openapi": "3.1.0"`, `"operationId": "sit_down"`, `"Idempotency-Key"`, `"seat_token": []`} {
		if !bytes.Contains(first, []byte(want)) {
			t.Errorf("no %s in %s", want, first)
		}
	}
	if _, err := httpx.OpenAPI("Seats", "1", append(routes(), routes()[0])); err == nil {
		t.Error("two operations at one place were described")
	}
}
