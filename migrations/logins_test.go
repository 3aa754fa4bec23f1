package migrations_test

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/coditect/usher/migrations"
	"github.com/coditect/usher/shared/platform/testenv"
)

// acting lists who may act as whom, "login role" each.
func acting(t *testing.T, db *testenv.DB) []string {
	t.Helper()
	return testenv.Values[string](t, db, `select m.rolname || ' ' || g.rolname from pg_auth_members a join pg_roles g on g.oid = a.roleid
		join pg_roles m on m.oid = a.member where m.rolname like '%@%' order by 1`)
}

func TestServiceAccountsActAsTheRolesTheyWereGivenAndAsNoOthers(t *testing.T) {
	t.Parallel()
	db, ctx := testenv.EmptyPostgres(t), t.Context()
	url := deployer(t, db, "usher")[0]
	up(ctx, t, url)
	for _, name := range []string{"fn-acquire", "fn-admin", "fn-gone"} {
		db.Exec(t, `create role "`+name+`@usher-test.iam" login`)
	}
	db.Exec(t, `create role "anna@example.com" login in role usher_operator`)
	db.Exec(t, `grant usher_sweep, usher_owner to "fn-gone@usher-test.iam"`)

	logins, err := migrations.ParseLogins(`{"fn-acquire@usher-test.iam": ["usher_acquire"], "fn-admin@usher-test.iam": ["usher_admin", "usher_operator"]}`)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if err := migrations.Grant(ctx, url, logins, &log); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"anna@example.com usher_operator", // a person, given by hand
		"fn-acquire@usher-test.iam usher_acquire", "fn-admin@usher-test.iam usher_admin", "fn-admin@usher-test.iam usher_operator",
	}
	if got := acting(t, db); !slices.Equal(got, want) {
		t.Errorf("after the job\n\t%q\nwant\n\t%q", got, want)
	}
	if n := strings.Count(log.String(), "\n"); n != 5 {
		t.Errorf("the log has %d lines, and five things changed:\n%s", n, &log)
	}
	log.Reset()
	if err := migrations.Grant(ctx, url, logins, &log); err != nil || log.Len() > 0 {
		t.Errorf("again: %v, %q", err, &log)
	}

	for name, bad := range map[string]migrations.Logins{
		"the owner":                {"fn-acquire@usher-test.iam": {"usher_owner"}},
		"a group":                  {"fn-acquire@usher-test.iam": {"usher_facts"}},
		"who migrates":             {"fn-acquire@usher-test.iam": {"deployer"}},
		"a role that is not":       {"fn-acquire@usher-test.iam": {"usher_nobody"}},
		"an account that is not":   {"fn-nobody@usher-test.iam": {"usher_sweep"}},
		"good and bad, altogether": {"fn-acquire@usher-test.iam": {"usher_sweep", "usher_owner"}},
	} {
		if err := migrations.Grant(ctx, url, bad, io.Discard); err == nil {
			t.Errorf("%s: granted", name)
		}
		if got := acting(t, db); !slices.Equal(got, want) {
			t.Errorf("%s: now\n\t%q\nwant\n\t%q", name, got, want)
		}
	}
}

func TestOnlyNamesOfServiceAccountsAndOfOursAreRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `[]`, `{"fn-acquire@p.iam": "usher_acquire"}`, `{"postgres": ["usher_acquire"]}`, `{"usher_sweep": ["usher_acquire"]}`,
		`{"anna@example.com": ["usher_acquire"]}`, `{"fn-acquire@p.iam": ["postgres"]}`, `{"fn-acquire@p.iam": ["cloudsqlsuperuser"]}`,
		`{"fn-acquire@p.iam\"; drop schema app; --": ["usher_acquire"]}`,
	} {
		if got, err := migrations.ParseLogins(text); err == nil {
			t.Errorf("%s is read as %v", text, got)
		}
	}
}
