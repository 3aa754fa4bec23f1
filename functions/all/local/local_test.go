package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/local"
	"github.com/coditect/usher/shared/platform/testenv"
)

// Make run is a process of its own here, as it is for those who type it.
func TestMain(m *testing.M) {
	testenv.Main(m, map[string]func(){"run": func() {
		if err := os.Chdir(os.Getenv("RUN_IN")); err != nil {
			panic(err)
		}
		os.Exit(local.Run(os.Getenv, os.Stdout))
	}})
}

// folder is a place to run in: its data ends with the test.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		if target, err := os.Readlink(filepath.Join(dir, ".local", "postgres")); err == nil {
			if err := os.RemoveAll(target); err != nil {
				t.Error(err)
			}
		}
	})
	return dir
}

// run starts make run in a folder, without a journal. Port "" is a free one.
func run(t *testing.T, dir, port string) *testenv.Proc {
	t.Helper()
	return runWith(t, dir, port, map[string]string{"JOURNAL": "off"})
}

func runWith(t *testing.T, dir, port string, settings map[string]string) *testenv.Proc {
	t.Helper()
	if port == "" {
		port = "0"
	}
	env := map[string]string{
		"RUN_IN": dir, "PORT": port, "NO_COLOR": "1", "DATABASE_URL": "", "REDIS_URL": "", "JOURNAL": "", "JOURNAL_PROJECT": "", "OTEL_EXPORTER_OTLP_ENDPOINT": "",
	}
	maps.Copy(env, settings)
	return testenv.Process(t, "run", env)
}

// ready waits until make run has said where it serves, and answers what it told tools.
func ready(t *testing.T, p *testenv.Proc, dir string) (local.Demo, local.API) {
	t.Helper()
	p.Await(t, "Usher serves on http://")
	d, err := local.ReadDemo(filepath.Join(dir, ".local", "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	api := local.API{URL: d.BaseURL}
	if _, err := api.Call(t.Context(), http.MethodGet, "/health/ready", nil, nil); err != nil {
		t.Fatal(err)
	}
	return d, api
}

// journaled fails unless the journal is on where the Firestore emulator is on this machine, and said to be off elsewhere.
func journaled(t *testing.T, api local.API, d local.Demo) {
	t.Helper()
	var health struct{ Off []string }
	if _, err := api.Call(t.Context(), http.MethodGet, "/health/ready", nil, &health); err != nil {
		t.Error(err)
	}
	var opened struct{ Journal string }
	_, err := api.As(d.OperatorAPIKey).Call(t.Context(), http.MethodPost, "/v1/incidents", map[string]any{"severity": "P3", "kind": "drill", "summary": "A drill."}, &opened)
	want := "written"
	if slices.Contains(health.Off, "journal") {
		want = "off"
		if os.Getenv("CI") == "true" {
			t.Error("the Firestore emulator is missing")
		}
	}
	if err != nil || opened.Journal != want {
		t.Errorf("an incident is opened, and the journal is %q, want %q: %v", opened.Journal, want, err)
	}
}

// interrupt is Ctrl-C, after which nothing may be left.
func interrupt(t *testing.T, p *testenv.Proc, d local.Demo) {
	t.Helper()
	p.Signal(t, syscall.SIGINT)
	if code := p.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("after Ctrl-C it exits with %d", code)
	}
	if _, err := (local.API{URL: d.BaseURL}).Call(t.Context(), http.MethodGet, "/health", nil, nil); err == nil {
		t.Error("after Ctrl-C it still serves")
	}
}

func TestRunServesWhatTheContractSaysAndKeepsItsData(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := run(t, dir, "")
	d, api := ready(t, p, dir)
	seat := acquire(t, api, d.LicenseKey, "laptop", http.StatusCreated)
	acquire(t, api, d.LicenseKey, "desktop", http.StatusConflict)
	interrupt(t, p, d)

	// The same port, so that the tokens of before are still for this service.
	told := testenv.NewReceiver(t)
	again := runWith(t, dir, d.BaseURL[strings.LastIndexByte(d.BaseURL, ':')+1:], map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": told.URL})
	kept, api := ready(t, again, dir)
	journaled(t, api, kept)
	if kept.SchedulerToken == "" || kept.Issuer != d.Issuer {
		t.Errorf("the issuer was %s and is %s", d.Issuer, kept.Issuer)
	}
	for _, token := range []string{d.SchedulerToken, kept.SchedulerToken} {
		must(t, api.As(token), http.MethodPost, "/tasks/sweep", nil)
	}
	for _, tokens := range []local.IDTokens{d.IDTokens, kept.IDTokens} {
		for role, token := range map[string]string{"owner": tokens.Owner, "admin": tokens.Admin, "member": tokens.Member, "viewer": tokens.Viewer} {
			var me struct {
				Role     string
				TenantID string `json:"tenant_id"`
			}
			if _, err := api.As(token).Call(t.Context(), http.MethodGet, "/v1/me", nil, &me); err != nil || me.Role != role || me.TenantID != d.TenantID.String() {
				t.Errorf("the %s is told %+v, %v", role, me, err)
			}
		}
	}
	kept.SchedulerToken, kept.IDTokens = d.SchedulerToken, d.IDTokens
	if kept != d {
		t.Errorf("after a restart demo.json says\n%+v, and said\n%+v", kept, d)
	}
	must(t, api.As(d.OperatorAPIKey), http.MethodGet, "/v1/tenants/"+d.TenantID.String(), nil)
	must(t, api.As(d.TenantAPIKey), http.MethodGet, "/v1/licenses/"+d.LicenseID.String(), nil)
	must(t, api.As(seat), http.MethodPost, "/v1/heartbeat", nil)
	must(t, api.As(seat), http.MethodPost, "/v1/release", nil)
	interrupt(t, again, kept)
	// What was not pushed yet is pushed at the end.
	if beats := told.Sum("http.server.request.duration", "http.route", "/v1/heartbeat", "http.response.status_code", "200"); beats != 1 || told.From("service.name") != "all" {
		t.Errorf("the receiver of telemetry heard of %v heartbeats, from %s", beats, told.From("service.name"))
	}
}

func TestRunTellsToolsWhatTheyNeed(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := run(t, dir, "")
	d, api := ready(t, p, dir)

	text, err := os.ReadFile(filepath.Join(dir, ".local", "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var told map[string]any
	if err := json.Unmarshal(text, &told); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{
		"base_url", "operator_api_key", "tenant_id", "tenant_api_key", "license_key", "license_id", "product", "plan",
		"scheduler_token", "stripe_webhook_secret", "issuer", "id_tokens",
	} {
		if told[field] == "" || told[field] == nil {
			t.Errorf("demo.json does not tell %s", field)
		}
		delete(told, field)
	}
	if len(told) != 0 {
		t.Errorf("demo.json tells more than the contract says: %v", told)
	}
	for _, file := range []string{"demo.json", "secrets.json", "issuer.pem", "cloud.json", "seat-token-keys", "usher.log"} {
		if info, err := os.Stat(filepath.Join(dir, ".local", file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("others may read %s: %v, %v", file, info.Mode(), err)
		}
	}

	// The plan limits nothing, and the shortest lease is short enough to watch.
	var plan struct {
		Product    string
		Versions   string
		MaxDevices *int   `json:"max_devices"`
		SeatPer    string `json:"seat_per"`
	}
	operator := api.As(d.OperatorAPIKey)
	if _, err := operator.Call(t.Context(), http.MethodGet, "/v1/catalog/plans/"+d.Plan, nil, &plan); err != nil {
		t.Fatal(err)
	}
	if plan.Product != d.Product || plan.Versions != "" || plan.MaxDevices != nil || plan.SeatPer != "device" {
		t.Errorf("the plan %s is %+v", d.Plan, plan)
	}
	must(t, operator, http.MethodPost, "/v1/licenses?tenant_id="+d.TenantID.String(), map[string]any{"plan": d.Plan, "max_seats": 3, "ttl_seconds": 2})
	for _, name := range []string{"free", "pro", "team"} {
		must(t, operator, http.MethodGet, "/v1/catalog/plans/"+name, nil)
	}

	second := run(t, dir, "")
	if code := second.Wait(t, 30*time.Second); code != 2 || !strings.Contains(second.Output(), "it runs already") {
		t.Errorf("a second one in the same folder exits with %d and says:\n%s", code, second.Output())
	}
	third := run(t, folder(t), d.BaseURL[strings.LastIndexByte(d.BaseURL, ':')+1:])
	if code := third.Wait(t, 30*time.Second); code != 2 || !strings.Contains(third.Output(), "choose another, for example: PORT=") {
		t.Errorf("one on a port that is taken exits with %d and says:\n%s", code, third.Output())
	}
	interrupt(t, p, d)
}

// TestRunPrintsCommandsThatWork pastes them into a shell, which needs curl.
func TestRunPrintsCommandsThatWork(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := run(t, dir, "")
	d, _ := ready(t, p, dir)
	p.Await(t, "in .local/ until") // the last line
	readme, err := os.ReadFile(filepath.Join(testenv.Root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`USH-[0-9A-Z-]+`)
	screen := strings.ReplaceAll(p.Output(), d.BaseURL, "http://127.0.0.1:8080")
	screen = strings.ReplaceAll(screen, d.LicenseKey, key.FindString(string(readme)))
	screen = strings.ReplaceAll(screen, "the journal is off, as JOURNAL says", "starting the Firestore emulator") // as on a machine that has it
	if !strings.Contains(string(readme), "$ make run\n"+screen) {
		t.Errorf("README.md does not show what make run prints:\n%s", screen)
	}
	var commands []string
	for line := range strings.Lines(p.Output()) {
		if strings.HasPrefix(line, "curl ") || strings.HasPrefix(line, "TOKEN=") {
			commands = append(commands, line)
		}
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", strings.Join(commands, "")).CombinedOutput()
	if err != nil {
		t.Fatalf("the commands fail: %v\n%s", err, out)
	}
	answers := strings.Split(strings.TrimSpace(string(out)), "\n")
	wants := []string{"ust_", `"heartbeat_after_seconds":`, `"code":"no_seats_available"`, `"accepted":1`, `"quantity":3`, `"end_reason":"released"`}
	if len(answers) != len(wants) {
		t.Fatalf("%d commands were answered with\n%s", len(commands), out)
	}
	for i, want := range wants {
		if !strings.Contains(answers[i], want) {
			t.Errorf("%sis answered %s, without %s", commands[i], answers[i], want)
		}
	}
	interrupt(t, p, d)
}

func TestAStoreThatIsKilledIsStartedAgainAndHoldersNeverNotice(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := run(t, dir, "")
	d, api := ready(t, p, dir)
	seat := acquire(t, api, d.LicenseKey, "laptop", http.StatusCreated)
	log, err := os.ReadFile(filepath.Join(dir, ".local", "redis.log"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.SplitN(string(log), ":", 2)[0]) // each line begins with it
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Await(t, "· Redis has ended; starting it again")
	testenv.Eventually(t, 20*time.Second, func() error {
		_, err := api.As(seat).Call(t.Context(), http.MethodPost, "/v1/heartbeat", nil, nil)
		return err
	})
	acquire(t, api, d.LicenseKey, "desktop", http.StatusConflict)
	interrupt(t, p, d)
}

func TestTheStoresOfTheEnvironmentAreUsed(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	postgres, redis := testenv.EmptyPostgres(t), testenv.Redis(t)
	set := map[string]string{
		"PORT":         "0",
		"DATABASE_URL": strings.Replace(postgres.URL("postgres"), "postgres@", "postgres:secret@", 1), "REDIS_URL": redis.Database(2),
	}
	u, err := local.Start(t.Context(), local.Options{
		Dir: filepath.Join(dir, ".local"), Getenv: func(name string) string { return set[name] }, Progress: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	acquire(t, local.API{URL: u.Demo().BaseURL}, u.Demo().LicenseKey, "laptop", http.StatusCreated)
	// A wrong key takes from a budget, which Redis forgets as soon as it is full again.
	wrong := map[string]any{"license_key": "USH-NOBODYS", "hardware_id": "laptop", "version": "1.0.0"}
	testenv.Eventually(t, 20*time.Second, func() error {
		_, _ = local.API{URL: u.Demo().BaseURL}.Call(t.Context(), http.MethodPost, "/v1/acquire", wrong, nil)
		if space := fmt.Sprint(redis.Do(t, "INFO", "keyspace")); !strings.Contains(space, "db2:") || !strings.Contains(space, "db3:") {
			return fmt.Errorf("redis has keys in %s, want pools in db2 and budgets in db3", space)
		}
		return nil
	})
	if err := u.Close(); err != nil {
		t.Error(err)
	}
	if n := testenv.Value[int](t, postgres, `SELECT count(*) FROM app.open_sessions`); n != 1 {
		t.Errorf("the database has %d open sessions", n)
	}
}

func TestStartGivesUpWhenItIsInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := local.Start(ctx, local.Options{
		Dir: filepath.Join(folder(t), ".local"), Getenv: func(string) string { return "" }, Progress: t.Logf,
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it says %v", err)
	}
}

func TestWhatIsWrongWithTheEnvironmentIsSaid(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	for name, c := range map[string]struct{ variable, value, says string }{
		"no port":       {"PORT", "http", "PORT is not a port number"},
		"a taken port":  {"PORT", strconv.Itoa(taken.Addr().(*net.TCPAddr).Port), "is taken by another program"},
		"no level":      {"LOG_LEVEL", "loud", "LOG_LEVEL is none of"},
		"no database":   {"DATABASE_URL", "s3cr3t", "DATABASE_URL is not a URL such as"},
		"no Redis":      {"REDIS_URL", "s3cr3t:%zz", "REDIS_URL is not a URL such as"},
		"no such Redis": {"REDIS_URL", "redis://127.0.0.1:6379/s3cr3t", "set BUDGET_REDIS_URL too"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := map[string]string{"PORT": "0", c.variable: c.value}
			_, err := local.Start(t.Context(), local.Options{
				Dir: filepath.Join(folder(t), ".local"), Getenv: func(name string) string { return set[name] }, Progress: t.Logf,
			})
			if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("it says %v, want %s", err, c.says)
			}
		})
	}
}

func must(t *testing.T, api local.API, method, path string, body any) {
	t.Helper()
	if _, err := api.Call(t.Context(), method, path, body, nil); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
}

// acquire asks for a seat and answers its token, if that is what the status means.
func acquire(t *testing.T, api local.API, key, device string, status int) (token string) {
	t.Helper()
	var got struct {
		SeatToken string `json:"seat_token"`
	}
	question := map[string]any{"license_key": key, "hardware_id": device, "version": "1.0.0"}
	have, err := api.Call(t.Context(), http.MethodPost, "/v1/acquire", question, &got)
	if have != status {
		t.Fatalf("%s was answered %d (%v), want %d", device, have, err, status)
	}
	return got.SeatToken
}
