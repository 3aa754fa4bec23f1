// Package hardware names the machine that a program runs on: the same name at every start, another name on another machine,
// and none from which the machine's own identity can be read.
//
// On Cloud Run it is the instance, in a container the container on its host, elsewhere the machine.
//
// The package must not know what the name is for.
package hardware

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"
)

// ErrNone says that the machine has nothing that names it.
var ErrNone = errors.New("this machine has no identity that can be found")

// metadataPatience is how long the metadata server may take: it is on the same machine.
const metadataPatience = 2 * time.Second

// ID names the machine to one application. Two applications, each with a name of its own, see different ids.
func ID(ctx context.Context, application string) (string, error) {
	return source{root: "/", getenv: os.Getenv, hostname: os.Hostname, machine: machineID}.id(ctx, application)
}

// source is what ID reads.
type source struct {
	root     string // of the files
	getenv   func(string) string
	hostname func() (string, error)
	machine  func(ctx context.Context, root string) (string, error)
}

func (s source) id(ctx context.Context, application string) (string, error) {
	if s.getenv("K_SERVICE") != "" {
		instance, err := s.cloudRun(ctx)
		if err != nil {
			return "", fmt.Errorf("name this instance of Cloud Run: %w", err)
		}
		return hash(application, "cloud run", instance), nil
	}
	machine, err := s.machine(ctx, s.root)
	container, contained := s.container()
	switch {
	case contained:
		// The machine's id may be that of the host, or of the image: all its containers share it.
		return hash(application, "container", machine, container), nil
	case err != nil:
		return "", err
	default:
		return hash(application, "machine", machine), nil
	}
}

// cloudRun is the instance's number, which the metadata server knows.
func (s source) cloudRun(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataPatience)
	defer cancel()
	host := s.getenv("GCE_METADATA_HOST")
	if host == "" {
		host = "metadata.google.internal"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/computeMetadata/v1/instance/id", nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Metadata-Flavor", "Google")
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy: the server is on the machine
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK || response.Header.Get("Metadata-Flavor") != "Google" || len(text) == 0 {
		return "", fmt.Errorf("the metadata server answered %d", response.StatusCode)
	}
	return string(text), nil
}

var (
	containerSigns = []string{".dockerenv", "run/.containerenv"}
	controlGroup   = regexp.MustCompile(`docker|kubepods|containerd|libpod|/lxc/`)
	containerID    = regexp.MustCompile(`(?:containers|docker|kubepods|libpod|sandboxes)[^\s]*?([0-9a-f]{64})`)
)

// container is what tells a container from the others of its host, if this is one.
func (s source) container() (string, bool) {
	groups := s.file("proc/self/cgroup") + s.file("proc/1/cgroup")
	pod := s.getenv("KUBERNETES_SERVICE_HOST") != ""
	contained := pod || controlGroup.MatchString(groups) || s.getenv("container") != ""
	for _, sign := range containerSigns {
		_, err := os.Stat(s.root + sign)
		contained = contained || err == nil
	}
	if !contained {
		return "", false
	}
	// The runtime's id stays when a container is restarted, but not in Kubernetes, where the pod's name does.
	found := containerID.FindStringSubmatch(groups + s.file("proc/self/mountinfo"))
	if found != nil && !pod {
		return found[1], true
	}
	name, err := s.hostname()
	return name, err == nil
}

// file is a file's text, "" when there is none.
func (s source) file(path string) string {
	text, err := os.ReadFile(s.root + path)
	if err != nil {
		return ""
	}
	return string(text)
}

// hash is an identity as one application sees it.
func hash(application string, parts ...string) string {
	mac := hmac.New(sha256.New, []byte("usher hardware id\x00"+application))
	_, _ = mac.Write([]byte(strings.Join(parts, "\x00")))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:20])
}
