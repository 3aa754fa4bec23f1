package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

const binary = "ko-app/cmd"

// largest is what an image may have in the registry, and an instance may have to fetch when it starts, in bytes.
const largest = 25 << 20

// image is one that `make images` built.
func image(t *testing.T, name string) v1.Image {
	t.Helper()
	path, err := layout.FromPath(filepath.Join("..", "..", "..", "bin", "images"))
	if err != nil {
		t.Fatalf("%v: make images builds them", err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifest.Manifests {
		if match.Annotation(refName, name)(m) {
			img, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return img
		}
	}
	t.Fatalf("there is no image of %s: make images builds it", name)
	return nil
}

// names are what was built: IMAGES, or all that is deployed.
func names(t *testing.T) []string {
	t.Helper()
	if some := strings.Fields(os.Getenv("IMAGES")); some != nil {
		return some
	}
	found, err := programs(filepath.Join("..", "..", ".."))
	if err != nil || len(found) < 2 {
		t.Fatalf("what is deployed: %v, %v", found, err)
	}
	return slices.Sorted(maps.Keys(found))
}

// unpack writes an image's files to a directory and returns their headers by name.
func unpack(t *testing.T, img v1.Image, to string) map[string]*tar.Header {
	t.Helper()
	stream := mutate.Extract(img)
	defer func() { _ = stream.Close() }()
	headers := map[string]*tar.Header{}
	for r := tar.NewReader(stream); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.Trim(filepath.Clean(header.Name), "/")
		headers[name] = header
		path := filepath.Join(to, name)
		if header.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var text []byte
			if text, err = io.ReadAll(r); err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, header.FileInfo().Mode().Perm()))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// command is a binary of an unpacked image, run as the platform runs it as far as whoever tests is allowed to: by nobody, in
// a root of its own.
func command(ctx context.Context, root string, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(root, binary))
	cmd.Env, cmd.Dir = append([]string{}, env...), root
	if os.Geteuid() == 0 {
		cmd.Path, cmd.Args, cmd.Dir = "/"+binary, []string{"/" + binary}, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	}
	return cmd
}

func TestEachImageHoldsItsBinaryAndNothingElseThatRuns(t *testing.T) {
	t.Parallel()
	want := []string{"etc", "etc/group", "etc/passwd", "etc/ssl", "etc/ssl/certs", "etc/ssl/certs/ca-certificates.crt", "ko-app", binary, "tmp"}
	for _, name := range names(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := image(t, name)
			config, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if config.Config.User != "65532:65532" || !slices.Equal(config.Config.Entrypoint, []string{"/" + binary}) || len(config.Config.ExposedPorts) > 0 {
				t.Errorf("it runs %v as %q", config.Config.Entrypoint, config.Config.User)
			}
			if config.OS != "linux" || config.Architecture != "amd64" {
				t.Errorf("it is for %s on %s", config.OS, config.Architecture)
			}
			manifest, err := img.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			size := manifest.Config.Size
			for _, layer := range manifest.Layers {
				size += layer.Size
			}
			if size > largest {
				t.Errorf("it has %d bytes, and may have %d", size, largest)
			}
			root := t.TempDir()
			headers := unpack(t, img, root)
			// ko also makes a folder for files that a program brings, which none does.
			delete(headers, "var")
			delete(headers, "var/run")
			delete(headers, "var/run/ko")
			if got := slices.Sorted(maps.Keys(headers)); !slices.Equal(got, want) {
				t.Errorf("it holds\n\t%v\nand should hold\n\t%v", got, want)
			}
			for path, header := range headers {
				mode := header.FileInfo().Mode()
				if mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 || mode.Perm()&0o022 != 0 && path != "tmp" {
					t.Errorf("%s has the mode %v", path, mode)
				}
				if runs := mode.IsRegular() && mode.Perm()&0o111 != 0; runs != (path == binary) {
					t.Errorf("%s has the mode %v", path, mode)
				}
			}

			// Without an environment it says what it misses, and ends.
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			says, err := command(ctx, root).CombinedOutput()
			exit, wrong := errors.AsType[*exec.ExitError](err)
			if !wrong || !bytes.Contains(says, []byte("DATABASE_URL")) {
				t.Fatalf("without an environment it ends with %v and says\n%s", err, says)
			}
			if code := exit.ExitCode(); name != "migrate" && code != 2 {
				t.Errorf("without an environment it exits with %d", code)
			}
		})
	}
}

// lines is what a process printed so far.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestAnImageServesAndEndsInOrder(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	unpack(t, image(t, "heartbeat"), root)
	var listen net.ListenConfig
	free, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	// No store is there: it starts without, and says so.
	cmd := command(t.Context(), root, "HOST=127.0.0.1", "PORT="+port, "K_REVISION=heartbeat-00007-abc",
		"DATABASE_URL=postgres://usher_heartbeat@127.0.0.1:1/usher", "REDIS_URL=redis://127.0.0.1:1",
		"SEAT_TOKEN_KEYS=a:"+strings.Repeat("QUFB", 11)+"QQ==")
	var out lines
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ask := func(path string) (int, map[string]any) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, nil
		}
		defer func() { _ = answer.Body.Close() }()
		body := map[string]any{}
		if err := json.NewDecoder(answer.Body).Decode(&body); err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, body
	}
	var status int
	var health map[string]any
	for deadline := time.Now().Add(20 * time.Second); status == 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		status, health = ask("/health")
	}
	if status != http.StatusOK || health["service"] != "heartbeat" || health["version"] != "heartbeat-00007-abc" {
		t.Errorf("/health answers %d %v\n%s", status, health, &out)
	}
	if status, body := ask("/health/ready"); status != http.StatusServiceUnavailable {
		t.Errorf("/health/ready answers %d %v", status, body)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || !strings.Contains(out.String(), "stopped") {
		t.Errorf("told to stop it ended with %v and said\n%s", err, &out)
	}
}

// A copy of the sources in another place, built at another time.
func TestTwoBuildsGiveTheSameDigest(t *testing.T) {
	t.Parallel()
	elsewhere := t.TempDir()
	for _, part := range []string{"client", "go.mod", "go.sum", "functions", "migrations", "shared"} {
		if err := exec.CommandContext(t.Context(), "cp", "-r", filepath.Join("..", "..", "..", part), elsewhere).Run(); err != nil {
			t.Fatalf("copy %s: %v", part, err)
		}
	}
	again, err := imageOf(t.Context(), elsewhere, "functions/heartbeat/cmd", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Digest()
	if err != nil {
		t.Fatal(err)
	}
	want, err := image(t, "heartbeat").Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("one build gave %s, another %s", want, got)
	}
}

func TestTheCertificatesAreThoseThatGoogleAndStripeShow(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	unpack(t, image(t, "heartbeat"), root)
	text, err := os.ReadFile(filepath.Join(root, "etc/ssl/certs/ca-certificates.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("there are no certificates")
	}
	for _, authority := range []string{"GTS Root R1", "DigiCert Global Root G2", "ISRG Root X1"} {
		if !slices.ContainsFunc(pool.Subjects(), func(s []byte) bool { return bytes.Contains(s, []byte(authority)) }) { //nolint:staticcheck // the pool is of a file
			t.Errorf("%s is not among them", authority)
		}
	}
}

func TestEachImageHasABillOfMaterials(t *testing.T) {
	t.Parallel()
	for _, name := range names(t) {
		files, err := filepath.Glob(filepath.Join("..", "..", "..", "bin", "sbom", name, "*.spdx.json"))
		if err != nil || len(files) != 1 {
			t.Errorf("%s has the bills %v, %v", name, files, err)
			continue
		}
		text, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		var bill struct {
			SPDXVersion string `json:"spdxVersion"`
			Packages    []struct{ Name string }
		}
		if err := json.Unmarshal(text, &bill); err != nil || !strings.HasPrefix(bill.SPDXVersion, "SPDX-") {
			t.Errorf("the bill of %s is of version %q: %v", name, bill.SPDXVersion, err)
		}
		if !slices.ContainsFunc(bill.Packages, func(p struct{ Name string }) bool { return strings.Contains(p.Name, "github.com/jackc/pgx/v5") }) {
			t.Errorf("the bill of %s does not name pgx", name)
		}
	}
}
