package main

import (
	"strings"
	"testing"

	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestUpGrantsServiceAccountsTheirRolesAndRefusesABadListFirst(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	db.Exec(t, `create role "fn-sweep@usher-test.iam" login`)
	up := func(logins string) error {
		env := map[string]string{"DATABASE_URL": db.URL(localenv.Superuser), "DATABASE_LOGINS": logins}
		return run(t.Context(), []string{"up"}, func(name string) string { return env[name] })
	}
	for _, bad := range []string{`usher_sweep`, `{"postgres": ["usher_sweep"]}`} {
		if err := up(bad); err == nil || !strings.Contains(err.Error(), "DATABASE_LOGINS") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	const member = `select pg_has_role('fn-sweep@usher-test.iam', 'usher_sweep', 'member')`
	for _, step := range []struct {
		logins string
		want   bool
	}{
		{``, false}, // nobody is asked for
		{`{"fn-sweep@usher-test.iam": ["usher_sweep"]}`, true},
		{``, true}, // and nothing is taken back
		{`{}`, false},
	} {
		if err := up(step.logins); err != nil {
			t.Fatal(err)
		}
		if got := testenv.Value[bool](t, db, member); got != step.want {
			t.Errorf("after up with %q the account may act: %v, want %v", step.logins, got, step.want)
		}
	}
}
