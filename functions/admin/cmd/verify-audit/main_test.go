package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/signing"
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

func TestAChainThatItsOwnerRewroteDisagreesWithItsCheckpoint(t *testing.T) {
	t.Parallel()
	firestore := testenv.Firestore(t)
	w := functiontest.New(t, functiontest.Options{Firestore: firestore})
	beside := w.Beside(t, "Umbrella")
	w.OperatorKey(t, identity.AuditRead) // with which the operator is there
	incident, err := tenancy.OpenURL(t.Context(), w.DB.URL("usher_incident"), tenancy.Config{}, w.Log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer incident.Close()
	act := func(tenant tenancy.ID) {
		t.Helper()
		if err := incident.As(t.Context(), tenant, func(tx tenancy.Tx) error {
			return audit.Record(t.Context(), tx, audit.Entry{Action: "license.revoked", Actor: "user:1", Subject: "license:1"})
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tenant := range []tenancy.ID{w.Tenant, beside.Tenant} {
		for range 4 {
			act(tenant)
		}
	}
	scheduler, err := w.Scheduler.Token(map[string]any{
		"aud": functiontest.SchedulerAudience, "sub": "1", "email": functiontest.SchedulerEmail, "email_verified": true,
	}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	watch := func() {
		t.Helper()
		w.Incident(t).Send(t, functiontest.Message{Method: "POST", Path: "/tasks/watch", Token: scheduler}).Want(t, http.StatusOK)
	}
	watch()

	rotate, err := tenancy.OpenURL(t.Context(), w.DB.URL("usher_rotate"), tenancy.Config{}, w.Log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer rotate.Close()
	text, err := signing.PinnedRoots(t.Context(), rotate)
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, text, 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(want int, args ...string) string {
		t.Helper()
		var out, messages bytes.Buffer
		code := run(t.Context(), args, func(name string) string {
			return map[string]string{
				"OPERATOR_DATABASE_URL": w.DB.URL("usher_operator"), "JOURNAL_PROJECT": firestore.Project(), "JOURNAL_EMULATOR": firestore.Addr(), "JOURNAL_TIMEOUT": "20s",
			}[name]
		}, &out, &messages)
		if code != want {
			t.Fatalf("exit code %d, want %d: %s%s", code, want, &out, &messages)
		}
		return out.String()
	}
	mine, theirs := w.Tenant.String(), beside.Tenant.String()
	if out := verify(0, "-roots", roots); !strings.Contains(out, mine+": 4 entries, 1 checkpoints, head 4 ") || !strings.Contains(out, theirs+": 4 entries, 1 checkpoints, head 4 ") {
		t.Errorf("said is %s", out)
	}
	testenv.RewriteAudit(t, w.DB, w.Tenant.UUID(), 2)
	out := verify(1)
	if strings.Count(out, mine) != 2 || !strings.Contains(out, mine+": checkpoint 1 of ") || !strings.Contains(out, " disagrees at entry 4: the entry was rewritten\n") {
		t.Errorf("said is %s", out)
	}
	if strings.Count(out, theirs) != 1 {
		t.Errorf("of another tenant it says %s", out)
	}
	// With the next act the watch finds it, too, and opens one incident.
	act(w.Tenant)
	watch()
	watch()
	if opened := testenv.Values[string](t, w.DB, `SELECT severity || ' ' || detected_as FROM app.incidents`); len(opened) != 1 || opened[0] != "P0 history_rewritten tenant:"+mine {
		t.Errorf("open are %v", opened)
	}
	// Roots that signed nothing: no checkpoint is believed.
	other := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(other, publicKey(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := verify(1, "-tenant", beside.Tenant.UUID().String(), "-roots", other); !strings.Contains(out, theirs+": checkpoint 1 was not signed by a root that is known\n") {
		t.Errorf("said is %s", out)
	}
	verify(2, "-roots", filepath.Join(t.TempDir(), "none.pem"))
	// A checkpoint may be gone when the next one is old, and a root signed that it is.
	second := func(at time.Time) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, fmt.Sprintf(
			"http://%s/v1/projects/%s/databases/(default)/documents/chains/%s/checkpoints/%012d?updateMask.fieldPaths=number&updateMask.fieldPaths=at",
			firestore.Addr(), firestore.Project(), theirs, 1,
		), strings.NewReader(fmt.Sprintf(`{"fields": {"number": {"integerValue": "2"}, "at": {"timestampValue": %q}}}`, at.UTC().Format(time.RFC3339))))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer owner") // whom the emulator lets change what is there
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := answer.Body.Close(); err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("the checkpoint could not be changed: %s, %v", answer.Status, err)
		}
	}
	missing := theirs + ": checkpoint 1 is missing from the journal\n"
	second(time.Now().Add(time.Hour - auditchain.CheckpointsKept))
	if out := verify(1, "-tenant", theirs); !strings.Contains(out, missing) {
		t.Errorf("said is %s", out)
	}
	second(time.Now().Add(-time.Hour - auditchain.CheckpointsKept))
	verify(0, "-tenant", theirs)
	if out := verify(1, "-tenant", theirs, "-roots", roots); !strings.Contains(out, missing) {
		t.Errorf("said is %s", out)
	}
	// A tenant that its owner deleted is known to the journal alone.
	for _, sql := range []string{
		`DELETE FROM app.audit_entries WHERE tenant_id = $1`, `DELETE FROM app.audit_chains WHERE tenant_id = $1`, `DELETE FROM app.tenants WHERE id = $1`,
	} {
		w.DB.Exec(t, sql, beside.Tenant.UUID())
	}
	if out := verify(1); !strings.Contains(out, theirs+": the journal has checkpoints of this tenant, and the database has no such tenant any more\n") {
		t.Errorf("said is %s", out)
	}
}

// publicKey is that of a key which signs nothing.
func publicKey(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: text})
}
