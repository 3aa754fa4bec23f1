package all_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/all"
	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/platform/httpx"
)

// It goes through all routes there are, so that a function that counts nothing is found.
func TestEveryRefusedCredentialIsCountedByEveryRoute(t *testing.T) {
	t.Parallel()
	s := start(t)
	f, err := all.Open(t.Context(), s.env, s.log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	budgets, err := budget.Open(s.env("admin"), s.log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = budgets.Close() }()
	began := time.Now()
	counted := func() (n int64) {
		t.Helper()
		all, err := budgets.Seen(t.Context(), began)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if c.Kind == budget.BadCredentials {
				n += c.N
			}
		}
		return n
	}
	routes := 0
	for _, r := range f.Routes {
		for credential, bearer := range map[httpx.Credential]string{httpx.APIKey: "ush_wrong", httpx.IDToken: "not.a.token"} {
			if !slices.Contains(r.Credentials, credential) {
				continue
			}
			routes++
			path := strings.NewReplacer("{id}", uuid.NewString(), "{kid}", "k", "{code}", "team", "{device_id}", uuid.NewString()).Replace(r.Path)
			before := counted()
			if status, got := s.call(t, bearer, r.Method, path, nil); status != http.StatusUnauthorized {
				t.Errorf("%s %s answered %d %s to a bad credential", r.Method, r.Path, status, got.Code)
			}
			if n := counted() - before; n != 1 {
				t.Errorf("%s %s counted a bad credential %d times", r.Method, r.Path, n)
			}
		}
	}
	if routes < 50 {
		t.Errorf("tried are %d routes", routes)
	}
	before := counted()
	s.must(t, 401, "", "GET", "/v1/me", nil)
	if n := counted() - before; n != 0 {
		t.Errorf("who shows no credential was counted %d times", n)
	}
}
