package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

func TestTheCommandNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	operator, err := tenancy.OpenURL(t.Context(), db.URL("usher_operator"), tenancy.Config{}, testenv.Logs(t).Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close()
	tenants := identity.NewTenants(operator)
	acts, err := tenants.EnsureOperator(t.Context(), "Operator")
	if err != nil {
		t.Fatal(err)
	}
	made, err := tenants.Create(t.Context(), uuid.Nil, "Acme", "")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := operator.As(t.Context(), acts, func(tx tenancy.Tx) error {
			return audit.Record(t.Context(), tx, audit.Entry{Action: "catalog.plan_put", Actor: "api_key:1", Subject: "plan:team"})
		}); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		code := run(t.Context(), args, func(name string) string {
			return map[string]string{"OPERATOR_DATABASE_URL": db.URL("usher_operator")}[name]
		}, &out, io.Discard)
		if code != want {
			t.Fatalf("exit code %d, want %d: %s", code, want, &out)
		}
		return out.String()
	}
	if out := verify(0); !strings.Contains(out, identity.OperatorID.String()+": 3 entries, head 3 ") || !strings.Contains(out, made.ID.String()+": 0 entries, head 0 ") {
		t.Errorf("said is %s", out)
	}
	db.Exec(t, `DELETE FROM app.audit_entries WHERE seq = 2`)
	if out := verify(1); !strings.Contains(out, identity.OperatorID.String()+": entry 2 is missing\n") {
		t.Errorf("said is %s", out)
	}
	verify(0, "-tenant", made.ID.String())
	verify(1, "-tenant", uuid.NewString())
	verify(2, "-tenant", "x")
}
