package hardware

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// machine is one whose identity is known.
func machine(id string) func(context.Context, string) (string, error) {
	return func(context.Context, string) (string, error) { return id, nil }
}

// computer is what a laptop shows.
func computer(t *testing.T) source {
	t.Helper()
	return source{
		root: t.TempDir() + "/", getenv: func(string) string { return "" }, machine: machine("abc"),
		hostname: func() (string, error) { return "laptop", nil },
	}
}

func (s source) with(t *testing.T, path, text string) source {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.root+path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.root+path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s source) env(variables map[string]string) source {
	s.getenv = func(name string) string { return variables[name] }
	return s
}

func id(t *testing.T, s source) string {
	t.Helper()
	text, err := s.id(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTheIDOfAMachineIsStableAndItsOwnAndHidesTheMachines(t *testing.T) {
	t.Parallel()
	s := computer(t)
	first := id(t, s)
	if first == "" || strings.Contains(first, "abc") || len(first) > 64 {
		t.Errorf("the id is %q", first)
	}
	if again := id(t, s); again != first {
		t.Errorf("again it is %q", again)
	}
	s.hostname = func() (string, error) { return "renamed", nil }
	if renamed := id(t, s); renamed != first {
		t.Error("another hostname made another machine")
	}
	if other, _ := s.id(t.Context(), "other app"); other == first {
		t.Error("two applications see the same id")
	}
	s.machine = machine("def")
	if other := id(t, s); other == first {
		t.Error("two machines have the same id")
	}
}

func TestThisMachineHasAnIDOrSaysThatItHasNone(t *testing.T) {
	t.Parallel()
	first, err := ID(t.Context(), "app")
	again, err2 := ID(t.Context(), "app")
	has := err == nil && err2 == nil && first != "" && first == again
	hasNone := errors.Is(err, ErrNone) && errors.Is(err2, ErrNone) && first+again == ""
	if !has && !hasNone {
		t.Errorf("it is %q (%v), and again %q (%v)", first, err, again, err2)
	}
}

func TestContainersOfOneHostHaveIDsOfTheirOwn(t *testing.T) {
	t.Parallel()
	const a, b = "1111111111111111111111111111111111111111111111111111111111111111", "2222222222222222222222222222222222222222222222222222222222222222"
	named := func(s source, name string) source {
		s.hostname = func() (string, error) { return name, nil }
		return s
	}
	mount := func(id string) string {
		return "700 600 0:1 /var/lib/docker/containers/" + id + "/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"
	}
	kube := map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
	all := map[string]source{
		"the host":                  computer(t),
		"docker, v1":                computer(t).with(t, "proc/self/cgroup", "4:cpu:/docker/"+a+"\n"),
		"docker, v1, another":       computer(t).with(t, "proc/self/cgroup", "4:cpu:/docker/"+b+"\n"),
		"docker, v2":                named(computer(t).with(t, ".dockerenv", "").with(t, "proc/self/mountinfo", mount(b[:63]+"3")), "c"),
		"docker, v2, another":       named(computer(t).with(t, ".dockerenv", "").with(t, "proc/self/mountinfo", mount(b[:63]+"4")), "c"),
		"podman":                    named(computer(t).with(t, "run/.containerenv", ""), "p1"),
		"podman, another":           named(computer(t).with(t, "run/.containerenv", ""), "p2"),
		"a pod":                     named(computer(t).env(kube), "pod-1"),
		"another pod":               named(computer(t).env(kube), "pod-2"),
		"systemd-nspawn":            named(computer(t).env(map[string]string{"container": "systemd-nspawn"}), "n1"),
		"a container with no id":    func() source { s := named(computer(t).with(t, ".dockerenv", ""), "x"); s.machine = none; return s }(),
		"another container with no": func() source { s := named(computer(t).with(t, ".dockerenv", ""), "y"); s.machine = none; return s }(),
	}
	restarted := named(computer(t).env(kube).with(t, "proc/self/mountinfo", mount(b)), "pod-1")
	if id(t, restarted) != id(t, all["a pod"]) {
		t.Error("a pod's container that was restarted is another device")
	}
	seen := map[string]string{}
	for name, s := range all {
		text := id(t, s)
		if text != id(t, s) {
			t.Errorf("%s: another id at each look", name)
		}
		if other, twice := seen[text]; twice {
			t.Errorf("%s has the id of %s", name, other)
		}
		seen[text] = name
	}
}

func none(context.Context, string) (string, error) { return "", ErrNone }

func TestAMachineWithoutIdentitySaysSo(t *testing.T) {
	t.Parallel()
	s := computer(t)
	s.machine = none
	if text, err := s.id(t.Context(), "app"); !errors.Is(err, ErrNone) {
		t.Errorf("it is %q, %v", text, err)
	}
}

func TestOnCloudRunTheInstanceIsAsked(t *testing.T) {
	t.Parallel()
	answer := "0066d924808bcb09a1b"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/computeMetadata/v1/instance/id" || r.Header.Get("Metadata-Flavor") != "Google" {
			t.Errorf("it was asked for %s", r.URL.Path)
		}
		w.Header().Set("Metadata-Flavor", "Google")
		_, _ = w.Write([]byte(answer))
	}))
	defer server.Close()
	s := computer(t).env(map[string]string{"K_SERVICE": "editor", "GCE_METADATA_HOST": strings.TrimPrefix(server.URL, "http://")})
	first := id(t, s)
	if first != id(t, s) || first == id(t, computer(t)) || strings.Contains(first, answer) {
		t.Errorf("the id is %q", first)
	}
	answer = "another"
	if id(t, s) == first {
		t.Error("two instances have the same id")
	}
}

func TestAMetadataServerThatDoesNotAnswerIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer server.Close()
	defer close(hang)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer page.Close()
	for _, url := range []string{server.URL, page.URL} {
		s := computer(t).env(map[string]string{"K_SERVICE": "editor", "GCE_METADATA_HOST": strings.TrimPrefix(url, "http://")})
		began := time.Now()
		if text, err := s.id(t.Context(), "app"); err == nil {
			t.Errorf("the id is %q", text)
		}
		if took := time.Since(began); took > metadataPatience+5*time.Second {
			t.Errorf("it took %s", took)
		}
	}
}
