package all_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coditect/usher/functions/all/smoke"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestTheSmokeTestAsksEveryPublicFunctionAndHearsWhichIsNotThere(t *testing.T) {
	t.Parallel()
	s := start(t)
	if err := smoke.Test(t.Context(), s.url); err != nil {
		t.Fatalf("of a whole service it says %v", err)
	}
	behind, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	// In front of the service, all that one function serves is somebody else's.
	proxy := httputil.NewSingleHostReverseProxy(behind)
	for _, function := range smoke.Functions() {
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if slices.Contains(paths(t)[function], r.URL.Path) {
				http.NotFound(w, r)
				return
			}
			proxy.ServeHTTP(w, r)
		}))
		err := smoke.Test(t.Context(), front.URL)
		front.Close()
		if err == nil || !strings.HasPrefix(err.Error(), function+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("without %s it says %v", function, err)
		}
	}
}

// paths is what each function serves to the public, as the OpenAPI document says.
func paths(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]struct{ Tags []string }
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for path, methods := range document.Paths {
		for _, operation := range methods {
			if tag := operation.Tags[0]; tag != "health" {
				found[tag] = append(found[tag], path)
			}
		}
	}
	return found
}

func TestTheSmokeTestForgetsNoPublicFunction(t *testing.T) {
	t.Parallel()
	asked := smoke.Functions()
	for function, served := range paths(t) {
		public := slices.ContainsFunc(served, func(path string) bool { return !strings.HasPrefix(path, "/tasks/") })
		if slices.Contains(asked, function) != public {
			t.Errorf("%s serves %v, and is asked: %v", function, served, !public)
		}
	}
}
