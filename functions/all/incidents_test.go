package all_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

// build builds the command line, and answers where it is.
func (*service) build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "usher")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/coditect/usher/client/cmd/usher").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return binary
}

// commandLine answers what types usher for the holder of an API key: what it shows, and what it exits with.
func (s *service) commandLine(t *testing.T, key string) func(args ...string) (string, int) {
	t.Helper()
	binary, dir := s.build(t), t.TempDir()
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

func TestTheRootsShownForApplicationsAreTheOneThatSignsAndTheNext(t *testing.T) {
	t.Parallel()
	s := start(t)
	_, operator := s.sell(t, 1)
	usher := s.commandLine(t, operator)
	for rotations := range 3 {
		if rotations > 0 {
			if out, code := usher("admin", "signing-keys", "rotate", "--kind", "root"); code != 0 {
				t.Fatal(out)
			}
		}
		want, err := os.ReadFile(s.rootsFile(t))
		if err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, time.Minute, func() error { // a key set may be some seconds old
			if out, code := usher("receipt", "roots"); code != 0 || out != string(want) {
				return fmt.Errorf("after %d rotations (exit code %d) it shows\n%s, want\n%s", rotations, code, out, want)
			}
			return nil
		})
	}
}

// The page is a script: of each part of it the incidents are opened, and then the commands are run, by a shell.
func TestTheRunbooksCommandsWorkAsTheyStand(t *testing.T) {
	t.Parallel()
	s := start(t, journaled(testenv.Firestore(t)))
	_, operator := s.sell(t, 2)
	binary := s.build(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".local"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".local", "demo.json"), []byte(`{"operator_api_key": "`+operator+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.rootsFile(t), filepath.Join(dir, "roots.pem")); err != nil {
		t.Fatal(err)
	}
	tenant := testenv.Value[uuid.UUID](t, s.postgres, `SELECT id FROM app.tenants WHERE kind = 'customer'`)
	for _, name := range []string{"taken", "honest"} {
		s.postgres.Exec(t, `INSERT INTO app.users (tenant_id, id, email, role, status, issuer, subject) VALUES ($1, gen_random_uuid(), $2::text || '@x.test', 'owner', 'active', 'i', $2)`, tenant, name)
	}
	key := s.must(t, 201, operator, "POST", "/v1/api-keys?tenant_id="+tenant.String(), object{"name": "ci", "scopes": []string{"licenses:read"}}).ID
	s.must(t, 200, s.token(schedulerClaims), "POST", "/tasks/watch", nil)
	ids := strings.NewReplacer(
		"APIKEY", key.String(), "LICENSE", testenv.Value[uuid.UUID](t, s.postgres, `SELECT id FROM app.licenses`).String(), "TENANT", tenant.String(), "http://127.0.0.1:8080", s.url,
		"PERSON", testenv.Value[uuid.UUID](t, s.postgres, `SELECT id FROM app.users WHERE subject = 'taken'`).String(),
		"KID", testenv.Value[string](t, s.postgres, `SELECT kid FROM app.signing_keys WHERE kind = 'receipt' AND not_before <= now()`),
	)
	parts := strings.Split(pages(t)["docs/incidents.md"], "\n## ")
	block := regexp.MustCompile("(?s)```(json|sh)\n(.*?)```")
	setUp, ran := "set -euo pipefail\n", 0
	opened := s.must(t, 201, operator, "POST", "/v1/incidents", object{"severity": "P3", "kind": "drill", "summary": "A drill.", "actions": []string{}}).ID
	for n, part := range parts {
		title, _, _ := strings.Cut(part, "\n")
		for i, b := range block.FindAllStringSubmatch(part, -1) {
			text := ids.Replace(b[2])
			switch {
			case b[1] == "json":
				var body object
				if err := json.Unmarshal([]byte(text), &body); err != nil {
					t.Fatal(err)
				}
				opened = s.must(t, 201, operator, "POST", "/v1/incidents", body).ID
				continue
			case n == 0 && i == 0: // what the others need
				setUp += text
				continue
			}
			ran += strings.Count(text, "\n")
			cmd := exec.CommandContext(t.Context(), "bash", "-xc", setUp+strings.ReplaceAll(text, "INCIDENT", opened.String()))
			cmd.Dir = dir
			cmd.Env = []string{"PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH"), "HOME=" + dir, "OWNER_URL=" + s.postgres.URL("postgres")}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", title, err, out)
			}
		}
	}
	if ran < 20 {
		t.Errorf("%d commands were run", ran)
	}
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
