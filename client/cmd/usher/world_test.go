//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests type command lines: they run the built usher against everything that make run serves, with private stores.

// built is where the two programs are, and the service's folder; TestMain makes and removes it.
var built string

func TestMain(m *testing.M) {
	code := 1
	var err error
	if built, err = os.MkdirTemp("", "usher-cli"); err == nil {
		code = m.Run()
		err = errors.Join(service.stop(), os.RemoveAll(built))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// build builds a program of the module.
func build(name, path string, flags ...string) (string, error) {
	to := filepath.Join(built, name)
	cmd := exec.Command("go", slices.Concat([]string{"build", "-o", to}, flags, []string{path})...)
	cmd.Dir = filepath.Join("..", "..", "..")
	cmd.Env = os.Environ()
	if name == "usher" { // static, as it is released
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", path, err, text)
	}
	return to, nil
}

var program = sync.OnceValues(func() (string, error) {
	return build("usher", "./client/cmd/usher", "-ldflags", "-X main.released=v0.0.0-test")
})

// running is what make run serves.
type running struct {
	once    sync.Once
	err     error
	cmd     *exec.Cmd
	output  bytes.Buffer
	BaseURL string `json:"base_url"`
	APIKey  string `json:"operator_api_key"`
	Tenant  string `json:"tenant_id"`
	Product string `json:"product"`
	Plan    string `json:"plan"`
}

var service running

func (r *running) start() error {
	binary, err := build("service", "./functions/all/cmd")
	if err != nil {
		return err
	}
	dir := filepath.Join(built, "run")
	if err := os.Chmod(built, 0o755); err != nil { // PostgreSQL may have to run as another user
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	r.cmd = exec.Command(binary)
	r.cmd.Dir = dir
	r.cmd.Env = append(os.Environ(), "PORT=0", "NO_COLOR=1", "DATABASE_URL=", "REDIS_URL=")
	r.cmd.Stdout, r.cmd.Stderr = &r.output, &r.output
	r.cmd.WaitDelay = 5 * time.Second
	if err := r.cmd.Start(); err != nil {
		return err
	}
	told := filepath.Join(dir, ".local", "demo.json")
	for until := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		text, err := os.ReadFile(told)
		if err == nil && json.Unmarshal(text, r) == nil {
			return nil
		}
		if time.Now().After(until) || r.cmd.Process.Signal(syscall.Signal(0)) != nil {
			return fmt.Errorf("make run is not ready: %w", err)
		}
	}
}

func (r *running) stop() error {
	if r.cmd == nil || r.cmd.Process == nil {
		return nil
	}
	err := r.cmd.Process.Signal(os.Interrupt)
	if waited := r.cmd.Wait(); waited != nil {
		err = errors.Join(err, waited, errors.New(r.output.String()))
	}
	if data, linked := os.Readlink(filepath.Join(r.cmd.Dir, ".local", "postgres")); linked == nil {
		err = errors.Join(err, os.RemoveAll(data))
	}
	return err
}

// world is the service and the command line, as somebody with these variables has them.
type world struct {
	env map[string]string
}

// operator is a world whose USHER_API_KEY is the operator's.
func operator(t *testing.T) world {
	t.Helper()
	service.once.Do(func() { service.err = service.start() })
	if service.err != nil {
		t.Fatal(service.err)
	}
	return world{map[string]string{"USHER_URL": service.BaseURL, "USHER_API_KEY": service.APIKey, "USHER_TENANT_ID": service.Tenant}}
}

// with is the world with a variable more; "" takes it away.
func (w world) with(variables ...string) world {
	env := map[string]string{}
	maps.Copy(env, w.env)
	for i := 0; i < len(variables); i += 2 {
		env[variables[i]] = variables[i+1]
	}
	return world{env}
}

// command is usher, ready to start. What the tests' own environment says of Usher it does not see.
func (w world) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	for name, value := range w.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// result is what became of a command line.
type result struct {
	args     []string
	code     int
	out, err string
}

// usher runs a command line to its end. No credential that it was given may be in what it writes.
func (w world) usher(t *testing.T, args ...string) result {
	t.Helper()
	cmd := w.command(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("usher %v: %v", args, err)
	}
	r := result{args, cmd.ProcessState.ExitCode(), out.String(), errs.String()}
	w.hides(t, r.out+r.err)
	return r
}

// hides fails the test when a credential of the world is in a text.
func (w world) hides(t *testing.T, written string) {
	t.Helper()
	for _, name := range []string{"USHER_API_KEY", "USHER_LICENSE_KEY"} {
		if secret := w.env[name]; secret != "" && strings.Contains(written, secret) {
			t.Errorf("the %s is written: %s", name, written)
		}
	}
}

// want fails the test when usher ended with another exit code.
func (r result) want(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("usher %v exits with %d, want %d\n%s%s", r.args, r.code, code, r.out, r.err)
	}
	return r
}

// says fails the test when a text is missing on standard error.
func (r result) says(t *testing.T, what string) result {
	t.Helper()
	if !strings.Contains(r.err, what) {
		t.Errorf("usher %v does not say %q but:\n%s", r.args, what, r.err)
	}
	return r
}

// shows fails the test when a text is missing on standard output.
func (r result) shows(t *testing.T, what string) result {
	t.Helper()
	if !strings.Contains(r.out, what) {
		t.Errorf("usher %v does not show %q but:\n%s", r.args, what, r.out)
	}
	return r
}

// read reads standard output as one JSON document.
func read[T any](t *testing.T, r result) T {
	t.Helper()
	r.want(t, exitOK)
	var v T
	d := json.NewDecoder(strings.NewReader(r.out))
	if err := d.Decode(&v); err != nil {
		t.Fatalf("usher %v: %v in %s", r.args, err, r.out)
	}
	if d.More() {
		t.Errorf("usher %v writes more than one document: %s", r.args, r.out)
	}
	return v
}

// license is one that was sold.
type license struct {
	ID  string
	Key string
}

// sell sells a licence with so many seats, and a lease that a test can wait for.
func (w world) sell(t *testing.T, seats int, lease time.Duration, more ...string) license {
	t.Helper()
	args := append([]string{
		"admin", "licenses", "create", "--json", "--plan", service.Plan, "--max-seats", fmt.Sprint(seats), "--ttl", lease.String(),
	}, more...)
	sold := read[struct {
		License    struct{ ID string }
		LicenseKey string `json:"license_key"`
	}](t, w.usher(t, args...))
	return license{sold.License.ID, sold.LicenseKey}
}

// holder is somebody with a licence key and no API key.
func (w world) holder(l license) world {
	return w.with("USHER_API_KEY", "", "USHER_TENANT_ID", "", "USHER_LICENSE_KEY", l.Key)
}

// eventually tries until it succeeds.
func eventually(t *testing.T, within time.Duration, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %v", within, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
