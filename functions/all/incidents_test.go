package all_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// commandLine builds usher, and answers what types it for the holder of an API key: what it shows, and what it exits with.
func (s *service) commandLine(t *testing.T, key string) func(args ...string) (string, int) {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "usher")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/coditect/usher/client/cmd/usher").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return func(args ...string) (string, int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Env = []string{"USHER_URL=" + s.url, "USHER_API_KEY=" + key, "HOME=" + dir}
		out, err := cmd.CombinedOutput()
		if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
}

// rootsFile is the file of roots that an operator has kept.
func (s *service) rootsFile(t *testing.T) string {
	t.Helper()
	db, err := tenancy.OpenURL(t.Context(), s.postgres.URL("usher_rotate"), tenancy.Config{}, s.log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	text, err := signing.PinnedRoots(context.WithoutCancel(t.Context()), db)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func journaled(firestore *testenv.FirestoreServer) map[string]string {
	return map[string]string{"JOURNAL_PROJECT": firestore.Project(), "JOURNAL_EMULATOR": firestore.Addr(), "JOURNAL_TIMEOUT": "30s"}
}

func TestTheCommandLineNamesWhoseAuditLogWasRewritten(t *testing.T) {
	t.Parallel()
	s := start(t, journaled(testenv.Firestore(t)))
	_, operator := s.sell(t, 1)
	usher := s.commandLine(t, operator)
	tenant := testenv.Value[uuid.UUID](t, s.postgres, `SELECT id FROM app.tenants WHERE kind = 'customer'`)
	watch := func() { s.must(t, 200, s.token(schedulerClaims), "POST", "/tasks/watch", nil) }
	watch()
	roots := s.rootsFile(t)
	verify := func(want int, args ...string) string {
		t.Helper()
		out, code := usher(append([]string{"audit", "verify"}, args...)...)
		if code != want {
			t.Fatalf("usher audit verify %v ends with %d, want %d: %s", args, code, want, out)
		}
		return out
	}
	if out := verify(0, "--roots", roots, "--all"); strings.Count(out, ": whole, ") != 2 || strings.Count(out, ", 1 checkpoints, ") != 2 {
		t.Errorf("it says %s", out)
	}
	verify(2)
	verify(0, "--chain-only", "--tenant", tenant.String())

	// As its owner hashes it anew, the log alone is whole, and is not what it was.
	s.postgres.Exec(t, `UPDATE app.audit_entries SET details = '{}' WHERE tenant_id = $1`, tenant)
	testenv.RewriteAudit(t, s.postgres, tenant, 1)
	verify(0, "--chain-only", "--tenant", tenant.String())
	if out := verify(1, "--roots", roots, "--tenant", tenant.String()); !strings.Contains(out, tenant.String()+": checkpoint 1 of ") || !strings.Contains(out, ": the entry was rewritten\n") {
		t.Errorf("it says %s", out)
	}
	if out := verify(1, "--roots", roots, "--all"); strings.Count(out, ": whole, ") != 1 || strings.Count(out, ": not whole, ") != 1 {
		t.Errorf("it says %s", out)
	}
	// Roots that signed nothing.
	stranger := filepath.Join(t.TempDir(), "other.pem")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stranger, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := verify(1, "--roots", stranger); !strings.Contains(out, "checkpoint 1 was not signed by a root that is known") {
		t.Errorf("it says %s", out)
	}
	// A tenant that is gone from the database.
	s.postgres.Exec(t, `SET session_replication_role = replica; DELETE FROM app.audit_entries; DELETE FROM app.audit_chains; DELETE FROM app.tenants WHERE kind = 'customer'`)
	if out := verify(1, "--roots", roots, "--all"); !strings.Contains(out, tenant.String()+": the journal has checkpoints of this tenant, and the database has no such tenant any more\n") {
		t.Errorf("it says %s", out)
	}
}
