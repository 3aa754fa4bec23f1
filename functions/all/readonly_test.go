package all_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/all"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/platform/testenv"
)

// It goes through all routes there are, so that a function that forgets the switch is found. Their stores are out: what is refused
// is refused before anything is asked.
func TestWhileTheServiceIsReadOnlyNobodyChangesAnything(t *testing.T) {
	t.Parallel()
	firestore := testenv.Firestore(t)
	outside, err := journal.New(t.Context(), journal.Config{Project: firestore.Project(), Database: "(default)", Emulator: firestore.Addr(), Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outside.Close() }()
	set := func(readOnly bool) {
		t.Helper()
		_, err := outside.SetSwitches(t.Context(), "user:1", "drill", time.Now(), func(s *journal.Switches) error { s.ReadOnly = readOnly; return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	getenv := func(variable string) string {
		switch variable {
		case "JOURNAL_PROJECT":
			return firestore.Project()
		case "JOURNAL_EMULATOR":
			return firestore.Addr()
		}
		return goodEnvironment()[variable]
	}
	f, err := all.Open(t.Context(), func(string) func(string) string { return getenv }, testenv.Logs(t).Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	handler, err := serve.Handler(f, testenv.Logs(t).Logger, getenv)
	if err != nil {
		t.Fatal(err)
	}
	readOnly := func(r *httpx.Route) bool {
		t.Helper()
		w := httptest.NewRecorder()
		path := strings.NewReplacer("{id}", uuid.NewString(), "{kid}", "k", "{code}", "team", "{hardware_hash}", "h").Replace(r.Path)
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), r.Method, path, strings.NewReader("{}")))
		return w.Code == http.StatusServiceUnavailable && strings.Contains(w.Body.String(), `"code":"read_only"`) && w.Header().Get("Retry-After") != ""
	}
	set(true)
	refused := 0
	for i := range f.Routes {
		r := &f.Routes[i]
		changes := r.Method != http.MethodGet && r.Tag != "incident" && len(r.Credentials) > 0 && !slices.ContainsFunc(r.Credentials, func(c httpx.Credential) bool {
			return c != httpx.APIKey && c != httpx.IDToken
		})
		if have := readOnly(r); have != changes {
			t.Errorf("%s %s of %s: refused is %v, want %v", r.Method, r.Path, r.Tag, have, changes)
		}
		if changes {
			refused++
		}
	}
	if refused < 30 {
		t.Errorf("only %d routes change something", refused)
	}
	set(false)
	testenv.Eventually(t, 10*time.Second, func() error {
		for i := range f.Routes {
			if r := &f.Routes[i]; r.ID == "create_license" && readOnly(r) {
				time.Sleep(100 * time.Millisecond)
				return errors.New("it is read-only still")
			}
		}
		return nil
	})
}
