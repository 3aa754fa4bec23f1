//go:build unix

package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// document is what the tests need of docs/openapi.json.
type document struct {
	Paths map[string]map[string]struct {
		Parameters  []struct{ Name, In string }
		RequestBody struct {
			Content map[string]struct{ Schema schema }
		}
		Responses map[string]struct {
			Content map[string]struct{ Schema schema }
		}
	}
	Components struct{ Schemas map[string]schema }
}

type schema struct {
	Ref        string `json:"$ref"`
	Type       any
	Required   []string
	Properties map[string]schema
	Items      *schema
	Format     string
}

func (d *document) schema(s schema) schema {
	if s.Ref == "" {
		return s
	}
	return d.Components.Schemas[s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]]
}

// fits says whether the flags of a kind give what the schema wants.
func (s schema) fits(f field) bool {
	types, ok := s.Type.([]any)
	if !ok {
		types = []any{s.Type}
	}
	want := map[kind]string{ofText: "string", ofNumber: "integer", ofList: "array", ofDuration: "integer", ofMoment: "string", ofMetrics: "array"}[f.kind]
	return slices.Contains(types, any(want)) && f.open == slices.Contains(types, any("null")) &&
		(f.kind == ofMoment) == (s.Format == "date-time") && (f.kind == ofDuration) == strings.HasSuffix(f.name, "_seconds")
}

func readDocument(t *testing.T) document {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc document
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestAdminCommandsAreWhatTheOpenAPIDocumentSays(t *testing.T) {
	t.Parallel()
	doc := readDocument(t)
	paging := []string{"cursor", "limit"}
	for _, n := range nouns {
		for _, o := range n.operations {
			name := n.name + " " + o.name
			request, ok := doc.Paths[o.path][strings.ToLower(o.method)]
			if !ok {
				t.Errorf("%s: there is no %s %s", name, o.method, o.path)
				continue
			}
			var query []string
			for _, p := range request.Parameters {
				if p.In == "query" {
					query = append(query, p.Name)
				}
			}
			if o.ofTenant != slices.Contains(query, "tenant_id") {
				t.Errorf("%s: whether it takes a tenant", name)
			}
			if (o.columns != nil) != slices.Contains(query, "cursor") {
				t.Errorf("%s: whether it is a list", name)
			}
			if o.columns != nil {
				var have []string
				for _, f := range o.fields {
					have = append(have, f.name)
				}
				want := slices.DeleteFunc(query, func(q string) bool { return q == "tenant_id" || slices.Contains(paging, q) })
				slices.Sort(have)
				slices.Sort(want)
				if !slices.Equal(have, want) {
					t.Errorf("%s asks for %v, want %v", name, have, want)
				}
				answer := doc.schema(request.Responses["200"].Content["application/json"].Schema)
				item := doc.schema(*answer.Properties["items"].Items)
				for _, c := range o.columns {
					if _, ok := item.Properties[c]; !ok {
						t.Errorf("%s shows %s, which is not there", name, c)
					}
				}
				continue
			}
			body := doc.schema(request.RequestBody.Content["application/json"].Schema)
			said := map[string]bool{}
			for _, f := range o.fields {
				said[f.name] = true
				property, ok := body.Properties[f.name]
				if !ok || !doc.schema(property).fits(f) {
					t.Errorf("%s: %s is not what the document says: %+v", name, f.name, property)
				}
			}
			for fixed := range o.fixed {
				said[fixed] = true
				if _, ok := body.Properties[fixed]; !ok {
					t.Errorf("%s says %s, which is not there", name, fixed)
				}
			}
			for _, required := range body.Required {
				i := slices.IndexFunc(o.fields, func(f field) bool { return f.name == required })
				if i < 0 || !o.fields[i].required {
					t.Errorf("%s does not want %s", name, required)
				}
			}
			for property := range body.Properties {
				if !said[property] && o.path != "/v1/tenants/{id}" { // a tenant's change is three commands
					t.Errorf("%s has no flag for %s", name, property)
				}
			}
		}
	}
}

func TestWhatAdminDoesIsThereAfterwards(t *testing.T) {
	t.Parallel()
	w := operator(t)

	type thing = map[string]any
	me := read[thing](t, w.usher(t, "admin", "whoami", "--json"))
	if me["operator"] != true {
		t.Errorf("whoami says %v", me)
	}

	tenant := read[thing](t, w.usher(t, "admin", "tenants", "create", "--name", "Round & Trip", "--json"))
	id := tenant["id"].(string)
	w.usher(t, "admin", "tenants", "show", id).want(t, exitOK).shows(t, "Round & Trip")
	w.usher(t, "admin", "tenants", "update", id, "--name", "Round Trip").want(t, exitOK).shows(t, "Round Trip")
	w.usher(t, "admin", "tenants", "list", "--limit", "0").want(t, exitOK).shows(t, id)
	w.usher(t, "admin", "tenants", "suspend", id, "--reason", "unpaid").want(t, exitOK).shows(t, "suspended")
	w.usher(t, "admin", "tenants", "reinstate", id).want(t, exitOK).shows(t, "active")

	w.usher(t, "admin", "products", "put", "cad", "--name", "CAD").want(t, exitOK)
	w.usher(t, "admin", "products", "show", "cad").want(t, exitOK).shows(t, "CAD")
	w.usher(t, "admin", "plans", "put", "cad-pro", "--product", "cad", "--max-seats", "4", "--features", "2d,3d",
		"--ttl", "6m", "--offline-grace", "3d", "--seat-per", "device", "--max-devices", "none", "--metrics", "calls:1000:2000:hard, pages::50:soft, clicks").want(t, exitOK).shows(t, "calls")
	plan := read[thing](t, w.usher(t, "admin", "plans", "show", "cad-pro", "--json"))
	if metrics, err := json.Marshal(plan["metrics"]); err != nil || string(metrics) != `[{"cap":2000,"cap_type":"hard","metric":"calls","quota":1000},`+
		`{"cap":null,"cap_type":null,"metric":"clicks","quota":null},{"cap":50,"cap_type":"soft","metric":"pages","quota":null}]` {
		t.Errorf("the plan counts %s, %v", metrics, err)
	}
	w.usher(t, "admin", "plans", "put", "cad-pro", "--product", "cad", "--metrics", "calls:1:2").want(t, exitUsage)
	if plan["offline_grace_seconds"] != 259200.0 || plan["ttl_seconds"] != 360.0 {
		t.Errorf("the plan is %v", plan)
	}

	mine := w.with("USHER_TENANT_ID", id)
	sold := mine.sell(t, 2, 30*time.Second, "--expires-at", "2199-01-31", "--features", "")
	shown := read[thing](t, mine.usher(t, "admin", "licenses", "show", sold.ID, "--json"))
	if shown["expires_at"] != "2199-01-31T00:00:00.000Z" || len(shown["features"].([]any)) != 0 || shown["ttl_seconds"] != 30.0 {
		t.Errorf("the licence is %v", shown)
	}
	changed := read[thing](t, mine.usher(t, "admin", "licenses", "update", sold.ID, "--max-seats", "3", "--expires-at", "none", "--json"))
	if changed["expires_at"] != nil || changed["max_seats"] != 3.0 {
		t.Errorf("the licence is %v", changed)
	}
	mine.usher(t, "admin", "licenses", "suspend", sold.ID, "--reason", "unpaid").want(t, exitOK).shows(t, "suspended")
	mine.usher(t, "admin", "licenses", "reinstate", sold.ID).want(t, exitOK).shows(t, "active")
	rotated := mine.usher(t, "admin", "licenses", "rotate-key", sold.ID, "--overlap", "1h").want(t, exitOK)
	rotated.shows(t, "license_key  USH-").says(t, "shown this once")
	mine.usher(t, "admin", "licenses", "revoke", sold.ID, "--reason", "fraud").want(t, exitOK).shows(t, "revoked")
	mine.usher(t, "admin", "licenses", "reinstate", sold.ID).want(t, exitNo).says(t, "(license_revoked)")
	mine.usher(t, "admin", "licenses", "list").want(t, exitOK).shows(t, sold.ID)
	w.usher(t, "admin", "licenses", "show", sold.ID, "--json").want(t, exitNo).says(t, `{"error":{"code":"not_found"`)

	made := read[thing](t, mine.usher(t, "admin", "api-keys", "create", "--name", "ci", "--scopes", "licenses:read, sessions:read",
		"--expires-at", "2199-01-31T12:00:00Z", "--json"))
	key := made["api_key"].(string)
	tenants := mine.with("USHER_API_KEY", key, "USHER_TENANT_ID", "")
	tenants.usher(t, "admin", "licenses", "list").want(t, exitOK).shows(t, sold.ID)
	tenants.usher(t, "admin", "tenants", "list").want(t, exitNo)
	mine.usher(t, "admin", "api-keys", "list").want(t, exitOK).shows(t, "licenses:read,sessions:read")
	mine.usher(t, "admin", "api-keys", "revoke", made["id"].(string)).want(t, exitOK)
	tenants.usher(t, "admin", "licenses", "list").want(t, exitNo)
}

func TestAListStopsAtItsLimitAndSaysSo(t *testing.T) {
	t.Parallel()
	w := operator(t)
	tenant := read[map[string]any](t, w.usher(t, "admin", "tenants", "create", "--name", "Many Licences", "--json"))
	w = w.with("USHER_TENANT_ID", tenant["id"].(string))
	for range 3 {
		w.sell(t, 1, time.Minute)
	}
	type things struct {
		Items  []any
		Cursor *string `json:"next_cursor"`
	}
	two := w.usher(t, "admin", "licenses", "list", "--limit", "2", "--json").says(t, "there are more than these 2")
	if all := read[things](t, two); len(all.Items) != 2 || all.Cursor == nil {
		t.Errorf("with a limit of 2 it shows %s", two.out)
	}
	every := w.usher(t, "admin", "licenses", "list", "--limit", "0", "--json")
	if all := read[things](t, every); len(all.Items) != 3 || all.Cursor != nil || every.err != "" {
		t.Errorf("without a limit it shows %s and says %s", every.out, every.err)
	}
}

func TestACommandLineThatIsWrongExitsWith2(t *testing.T) {
	t.Parallel()
	key := "USH-9MQJJ-HBXXN-WMX7Z-Q7FM7-N4374-AKHNB"
	w := world{map[string]string{"USHER_URL": "http://127.0.0.1:1", "USHER_API_KEY": "ush_x"}}
	for _, at := range []struct {
		says string
		args []string
	}{
		{"there is no such command of usher", []string{"frobnicate"}},
		{"there is no such command of usher admin licenses", []string{"admin", "licenses", "sell"}},
		{"unknown flag: --licence-key", []string{"version", "--licence-key=" + key}},
		{"usher version takes no arguments", []string{"version", key}},
		{"usher admin licenses show wants ID", []string{"admin", "licenses", "show"}},
		{"usher admin devices remove wants ID and DEVICE_ID, and was given 1 argument", []string{"admin", "devices", "remove", "x"}},
		{"say --reason", []string{"admin", "licenses", "revoke", "x"}},
		{"--max-seats wants a whole number", []string{"admin", "licenses", "create", "--plan", "pro", "--max-seats", "many"}},
		{"--ttl wants a duration", []string{"admin", "licenses", "update", "x", "--ttl", "10"}},
		{"--ttl wants a duration", []string{"admin", "licenses", "update", "x", "--ttl", "1500ms"}},
		{"--expires-at wants a day", []string{"admin", "licenses", "update", "x", "--expires-at", "tomorrow"}},
		{"--limit wants a number", []string{"admin", "tenants", "list", "--limit", "-1"}},
		{"the service's URL must look like", []string{"admin", "whoami", "--url", "licences.example.com"}},
		{"the service's URL must look like", []string{"admin", "whoami", "--url", "https://user:hunter2@licences.example.com"}},
	} {
		r := w.usher(t, at.args...).want(t, exitUsage).says(t, at.says).says(t, "--help")
		if r.out != "" || strings.Contains(r.err, key[5:]) || strings.Contains(r.err, "hunter2") {
			t.Errorf("usher %v writes %s%s", at.args, r.out, r.err)
		}
	}
	w.with("USHER_API_KEY", "").usher(t, "admin", "whoami").want(t, exitUsage).says(t, "USHER_API_KEY")
	w.with("USHER_URL", "").usher(t, "admin", "whoami").want(t, exitUsage).says(t, "USHER_URL")
}

func TestAServiceThatCannotBeReachedExitsWith3(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + closed.Addr().String()
	_ = closed.Close()
	answer := func(status int, kind, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	for says, service := range map[string]string{
		"cannot be reached": nobody,
		"answers with status 502, and not as Usher does": answer(http.StatusBadGateway, "text/html", "<h1>Bad gateway</h1>"),
		"answers with status 200, and not as Usher does": answer(http.StatusOK, "text/html", "<h1>Welcome</h1>"),
		"Try again soon. (store_unavailable)": answer(http.StatusServiceUnavailable, "application/problem+json",
			`{"status":503,"code":"store_unavailable","detail":"Try again soon.","retry_after_seconds":0}`),
	} {
		w := world{map[string]string{"USHER_URL": service, "USHER_API_KEY": "ush_secret-of-somebody"}}
		w.usher(t, "admin", "whoami").want(t, exitUnreachable).says(t, says)
		w.usher(t, "admin", "whoami", "--json").want(t, exitUnreachable).says(t, `"exit_code":3`)
	}
}

func TestWhatIsCreatedIsCreatedOnceThoughItsAnswerIsLost(t *testing.T) {
	t.Parallel()
	w := operator(t)
	lost := false
	proxy := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		r, err := http.NewRequestWithContext(in.Context(), in.Method, service.BaseURL+in.URL.String(), in.Body)
		if err != nil {
			t.Error(err)
			return
		}
		r.Header = in.Header.Clone()
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = answer.Body.Close() }()
		if in.Method == http.MethodPost && !lost {
			lost = true
			panic(http.ErrAbortHandler) // the service has done it, and its answer does not arrive
		}
		out.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(out, answer.Body)
	}))
	t.Cleanup(proxy.Close)
	tenant := read[map[string]any](t, w.usher(t, "admin", "tenants", "create", "--name", "Once", "--json"))
	w = w.with("USHER_TENANT_ID", tenant["id"].(string))
	through := w.with("USHER_URL", proxy.URL)
	through.usher(t, "admin", "licenses", "create", "--plan", service.Plan, "--max-seats", "1").want(t, exitOK).shows(t, "USH-")
	if all := read[struct{ Items []any }](t, w.usher(t, "admin", "licenses", "list", "--json")); !lost || len(all.Items) != 1 {
		t.Errorf("one licence was sold, and there are %d", len(all.Items))
	}
}
