package httpxtest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const spec = `{"openapi":"3.1.0","info":{"title":"t","version":"1"},"paths":{
  "/a":{"post":{"operationId":"a",
    "requestBody":{"required":true,"content":{"application/json":{"schema":{"type":"object","required":["x"],"properties":{"x":{"type":["string","null"]}},"additionalProperties":false}}}},
    "responses":{"200":{"description":"ok","content":{"application/json":{"schema":{"type":"object","properties":{"y":{"type":"integer"}},"additionalProperties":false}}}},
                 "204":{"description":"nothing"}}}},
  "/health":{"get":{"operationId":"h","responses":{"200":{"description":"ok"}}}}}}`

func TestExchangesThatDoNotFollowTheDocumentAreFound(t *testing.T) {
	t.Parallel()
	d, err := load([]byte(spec))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		media, answer      string
		want               string // part of the complaint; empty when there is none
	}{
		"good":               {"POST", "/a", `{"x":"1"}`, 200, "application/json", `{"y":1}`, ""},
		"null":               {"POST", "/a", `{"x":null}`, 200, "application/json", `{"y":1}`, ""},
		"at the root":        {"POST", "/", `{"x":"1"}`, 200, "application/json", `{"y":1}`, ""},
		"no content":         {"POST", "/a", `{"x":"1"}`, 204, "", "", ""},
		"nowhere":            {"POST", "/b", "", 404, "text/plain", "no", ""},
		"somewhere unknown":  {"POST", "/b", "", 200, "text/plain", "no", "no such operation"},
		"unknown status":     {"POST", "/a", `{"x":"1"}`, 418, "application/json", `{}`, "status is not supported"},
		"wrong media type":   {"POST", "/a", `{"x":"1"}`, 200, "text/plain", `{"y":1}`, "Content-Type"},
		"wrong type":         {"POST", "/a", `{"x":"1"}`, 200, "application/json", `{"y":"1"}`, "doesn't match schema"},
		"undocumented field": {"POST", "/a", `{"x":"1"}`, 200, "application/json", `{"z":1}`, "doesn't match schema"},
		"body not described": {"GET", "/health", "", 200, "application/json", `{"y":1}`, "describes none"},
		"accepted wrongly":   {"POST", "/a", `{"x":1}`, 200, "application/json", `{"y":1}`, "was accepted"},
		"accepted nothing":   {"POST", "/a", "", 200, "application/json", `{"y":1}`, "was accepted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", c.media)
				w.WriteHeader(c.status)
				if c.answer != "" {
					_, _ = w.Write([]byte(c.answer))
				}
			})
			r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			err := d.exchange(h, w, r)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("complained %v, want %q", err, c.want)
			}
			if w.Code != c.status || w.Body.String() != c.answer {
				t.Errorf("passed on %d %s", w.Code, w.Body)
			}
		})
	}
}

func TestDocumentsThatAreNotOpenAPI31AreRefused(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{
		``, `{}`, strings.Replace(spec, "3.1.0", "3.0.3", 1), strings.Replace(spec, `"description":"ok",`, "", 1),
	} {
		if _, err := load([]byte(spec)); err == nil {
			t.Errorf("accepted %s", spec)
		}
	}
}
