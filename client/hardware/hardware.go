// Package hardware names the machine that a program runs on: the same name at every start, another name on another machine,
// and none from which the machine's own identity can be read.
//
// On Cloud Run it is the instance, in a container the container on its host, elsewhere the machine.
//
// The package must not know what the name is for.
package hardware

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// ErrNone says that the machine has nothing that names it. It is no matter of the moment: what cannot be asked now is another
// error.
var ErrNone = errors.New("this machine has no identity that can be found")

// metadataPatience is how long the metadata server may take: it is on the same machine.
const metadataPatience = 2 * time.Second

// ID names the machine to one application. Two applications, each with a name of its own, see different ids. The error is
// ErrNone, or what kept it from looking, such as a context that ended: then asking again may help.
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
	if err != nil && !errors.Is(err, ErrNone) {
		return "", fmt.Errorf("name this machine: %w", err)
	}
	container, contained, failed := s.container()
	switch {
	case failed != nil:
		return "", fmt.Errorf("name this container: %w", failed)
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
func (s source) container() (string, bool, error) {
	self, err := file(s.root + "proc/self/cgroup")
	first, err2 := file(s.root + "proc/1/cgroup")
	mounts, err3 := file(s.root + "proc/self/mountinfo")
	if err := cmp.Or(err, err2, err3); err != nil {
		return "", false, err
	}
	groups := self + first
	pod := s.getenv("KUBERNETES_SERVICE_HOST") != ""
	contained := pod || controlGroup.MatchString(groups) || s.getenv("container") != ""
	for _, sign := range containerSigns {
		_, err := os.Stat(s.root + sign)
		contained = contained || err == nil
	}
	if !contained {
		return "", false, nil
	}
	// The runtime's id stays when a container is restarted, but not in Kubernetes, where the pod's name does.
	found := containerID.FindStringSubmatch(groups + mounts)
	if found != nil && !pod {
		return found[1], true, nil
	}
	name, err := s.hostname()
	return name, true, err
}

// file is a file's text, "" when there is none.
func file(path string) (string, error) {
	text, err := os.ReadFile(path)
	if absent(err) {
		return "", nil
	}
	return string(text), err
}

// absent says of an error that there is nothing to be read, now and later.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR)
}

// hash is an identity as one application sees it.
func hash(application string, parts ...string) string {
	mac := hmac.New(sha256.New, []byte("usher hardware id\x00"+application))
	_, _ = mac.Write([]byte(strings.Join(parts, "\x00")))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:20])
}
