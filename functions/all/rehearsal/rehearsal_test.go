//go:build rehearsal

// Package rehearsal_test goes through a release as far as one machine can: the images that `make images` built, with the
// variables that infra/ gives them, on private stores. `make pipeline-dry-run` runs it.
package rehearsal_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/local"
	"github.com/coditect/usher/functions/all/smoke"
	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

const (
	binary    = "ko-app/cmd"
	scheduler = "scheduler@usher.test"
	ready     = 30 * time.Second // a machine may be busy
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, json.Unmarshal(text, into))
}

// unpack writes the binary of each image in the layout to a folder, and answers where they are.
func unpack(t *testing.T) map[string]string {
	t.Helper()
	images := filepath.Join(testenv.Root(t), "bin", "images")
	blob := func(digest string) string {
		return filepath.Join(images, "blobs", strings.Replace(digest, ":", "/", 1))
	}
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	readJSON(t, filepath.Join(images, "index.json"), &index)
	found := map[string]string{}
	for _, m := range index.Manifests {
		name := m.Annotations["org.opencontainers.image.ref.name"]
		var manifest struct{ Layers []struct{ Digest string } }
		readJSON(t, blob(m.Digest), &manifest)
		for _, layer := range manifest.Layers {
			if path := extract(t, blob(layer.Digest), filepath.Join(t.TempDir(), name)); path != "" {
				found[name] = path
			}
		}
	}
	return found
}

// extract writes the binary in a layer to a path; "" when it has none.
func extract(t *testing.T, layer, to string) string {
	t.Helper()
	file, err := os.Open(layer)
	must(t, err)
	defer func() { _ = file.Close() }()
	text, err := gzip.NewReader(file)
	must(t, err)
	for r := tar.NewReader(text); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return ""
		}
		must(t, err)
		if strings.TrimPrefix(header.Name, "/") != binary {
			continue
		}
		program, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
		must(t, err)
		_, err = io.Copy(program, r)
		must(t, errors.Join(err, program.Close()))
		return to
	}
}

// row is what is read of a function's row.
type row struct {
	Caller   string
	Paths    []string
	Schedule *struct{ Path string }
}

// planned is the table of infra/ and, for each function, the variables that staging gives it: those in clear with their
// values, and those that only the cloud knows with none.
func planned(t *testing.T) (map[string]row, map[string]map[string]string) {
	t.Helper()
	var plan struct {
		Planned struct {
			Outputs struct {
				Functions struct{ Value map[string]row }
			}
			Root struct {
				Resources []struct {
					Type, Name string
					Index      any
					Values     struct {
						Template []struct {
							Containers []struct {
								Env []struct{ Name, Value string }
							}
						}
					}
				}
			} `json:"root_module"`
		} `json:"planned_values"`
	}
	text, err := os.ReadFile(filepath.Join(testenv.Root(t), "bin", "infra", "plan-staging.json"))
	must(t, err)
	// Other resources have other values in the same places.
	var raw struct {
		Planned struct {
			Root struct {
				Resources []json.RawMessage
			} `json:"root_module"`
			Outputs json.RawMessage
		} `json:"planned_values"`
	}
	must(t, json.Unmarshal(text, &raw))
	must(t, json.Unmarshal(raw.Planned.Outputs, &plan.Planned.Outputs))
	variables := map[string]map[string]string{}
	for _, resource := range raw.Planned.Root.Resources {
		if !bytes.Contains(resource, []byte(`"type":"google_cloud_run_v2_service",`)) {
			continue
		}
		one := plan.Planned.Root.Resources
		must(t, json.Unmarshal([]byte("["+string(resource)+"]"), &one))
		given := map[string]string{}
		for _, e := range one[0].Values.Template[0].Containers[0].Env {
			given[e.Name] = e.Value
		}
		variables[one[0].Index.(string)] = given
	}
	return plan.Planned.Outputs.Functions.Value, variables
}

// process is a binary that runs.
type process struct {
	cmd *exec.Cmd
	out bytes.Buffer
	url *url.URL
}

func run(t *testing.T, path string, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(context.Background(), path, args...)}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if t.Failed() {
			said := p.out.String()
			t.Logf("%s %s said:\n%s", filepath.Base(path), strings.Join(args, " "), said[max(0, len(said)-2000):])
		}
	})
	return p
}

// serve starts a function and waits until its stores answer, as Cloud Run's start-up probe does.
func serve(t *testing.T, name, path string, env []string) *process {
	t.Helper()
	var listen net.ListenConfig
	free, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	address := free.Addr().String()
	must(t, free.Close())
	_, port, err := net.SplitHostPort(address)
	must(t, err)
	p := run(t, path, append(env, "HOST=127.0.0.1", "PORT="+port))
	p.url = &url.URL{Scheme: "http", Host: address}
	testenv.Eventually(t, ready, func() error {
		status, err := ask(t, http.MethodGet, p.url.String()+"/health/ready", "")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("function %s is not ready: %d", name, status)
		}
		return err
	})
	return p
}

var client = &http.Client{Timeout: ready}

func ask(t *testing.T, method, address, bearer string) (int, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, http.NoBody)
	must(t, err)
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, answer.Body.Close()
}

// front leads to the functions as the URL map does; what it does not know is admin's.
func front(t *testing.T, table map[string]row, running map[string]*process) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := "admin"
		for name, row := range table {
			for _, pattern := range row.Paths {
				prefix, wild := strings.CutSuffix(pattern, "/*")
				if row.Caller != "scheduler" && (pattern == r.URL.Path || wild && strings.HasPrefix(r.URL.Path, prefix+"/")) {
					to = name
				}
			}
		}
		httputil.NewSingleHostReverseProxy(running[to].url).ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server
}

func ring(name string) string {
	return name + ":" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(name), 32))
}

func TestTheImagesMigrateServeAndEndWithTheVariablesThatInfraGives(t *testing.T) {
	images, db, redis, issuer := unpack(t), testenv.EmptyPostgres(t), testenv.Redis(t), testenv.Issuer(t)
	table, variables := planned(t)
	stripe, err := stripesim.New(stripesim.Options{Key: "sk_test_1"})
	must(t, err)
	money := httptest.NewServer(stripe)
	t.Cleanup(money.Close)
	journal, told := testenv.Firestore(t), testenv.NewReceiver(t)
	cloud, keys, err := local.StartCloud(t.Context(), t.TempDir())
	must(t, err)
	t.Cleanup(func() { _ = cloud.Close() })

	// Two migrate jobs at once: one works, one waits, and both are content.
	migrate := func(verb string) *process {
		return run(t, images["migrate"], []string{"DATABASE_URL=" + db.URL(localenv.Superuser)}, verb)
	}
	for _, job := range []*process{migrate("up"), migrate("up")} {
		if err := job.cmd.Wait(); err != nil {
			t.Fatalf("migrate up: %v\n%s", err, &job.out)
		}
	}

	// What stands for a secret, or for what only the cloud knows. All else has the value that infra/ gives it.
	here := map[string]string{
		"DATABASE_IAM": "false", "OPERATOR_DATABASE_URL": db.URL("usher_operator"), "REDIS_URL": redis.Database(0), "BUDGET_REDIS_URL": redis.Database(1),
		"LICENSE_KEY_PEPPERS": ring("1"), "API_KEY_PEPPERS": ring("1"), "NOTIFY_KEYS": ring("a"), "SMTP_PASSWORD": "secret",
		"STRIPE_API_KEY": "sk_test_1", "STRIPE_WEBHOOK_SECRETS": "whsec_12345678",
		"IDENTITY_ISSUER": issuer.URL(), "SCHEDULER_EMAIL": scheduler, "JOURNAL_PROJECT": journal.Project(),
		"OTEL_EXPORTER_OTLP_ENDPOINT": told.URL,
	}
	maps.Copy(here, keys)
	environment := func(function string) []string {
		// Where the stand-ins are: the only variables that infra/ does not give.
		env := []string{"CLOUD_EMULATOR=" + keys["CLOUD_EMULATOR"], "SCHEDULER_ISSUER=" + issuer.URL(), "JOURNAL_EMULATOR=" + journal.Addr(), "STRIPE_URL=" + money.URL}
		for variable, value := range variables[function] {
			if ours, ok := here[variable]; ok {
				value = ours
			}
			if variable == "DATABASE_URL" {
				value = db.URL("usher_" + function)
			}
			if value == "" {
				t.Fatalf("function %s is given %s, which nothing stands for here", function, variable)
			}
			env = append(env, variable+"="+value)
		}
		return env
	}

	// scheduled calls a function as Cloud Scheduler does.
	scheduled := func(function string, p *process) {
		token, err := issuer.Token(map[string]any{"aud": variables[function]["SCHEDULER_AUDIENCE"], "email": scheduler, "email_verified": true}, time.Hour)
		must(t, err)
		if status, err := ask(t, http.MethodPost, p.url.String()+table[function].Schedule.Path, token); err != nil || status != http.StatusOK {
			t.Fatalf("%s answers its schedule %d, %v", function, status, err)
		}
	}
	// rotate first: its first call makes all keys.
	running := map[string]*process{"rotate": serve(t, "rotate", images["rotate"], environment("rotate"))}
	scheduled("rotate", running["rotate"])
	for function := range table {
		if function != "rotate" {
			running[function] = serve(t, function, images[function], environment(function))
		}
	}
	if len(running) != len(images)-1 {
		t.Errorf("%d functions run, and there are %d images", len(running), len(images))
	}
	public := front(t, table, running)
	must(t, smoke.Test(t.Context(), public.URL))
	for function, row := range table {
		if row.Schedule != nil {
			scheduled(function, running[function])
		}
	}
	// The public reaches no scheduled work.
	for function, row := range table {
		if row.Caller == "scheduler" {
			if status, err := ask(t, http.MethodPost, public.URL+"/tasks/"+function, ""); err != nil || status != http.StatusNotFound {
				t.Errorf("through the front, %s answers %d, %v", function, status, err)
			}
		}
	}

	pushed := told.Pushes()
	for function, p := range running {
		must(t, p.cmd.Process.Signal(syscall.SIGTERM))
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("told to stop, %s ended with %v\n%s", function, err, &p.out)
		}
	}
	// Each tells at its end what it has measured.
	if last := told.Pushes() - pushed; last != len(running) {
		t.Errorf("told to stop, %d of %d functions told what they had measured", last, len(running))
	}
	// Back and forth, as in development.
	for _, verb := range []string{"down", "up", "status"} {
		job := migrate(verb)
		if err := job.cmd.Wait(); err != nil {
			t.Errorf("migrate %s: %v\n%s", verb, err, &job.out)
		}
	}
}
