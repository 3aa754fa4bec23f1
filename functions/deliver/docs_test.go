package deliver_test

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/testenv"
)

// The receiver of docs/webhooks.md, built and run as it stands there, on another port.
func TestTheDocumentedReceiverVerifiesWhatIsSent(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs", "webhooks.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, source, _ := strings.Cut(string(page), "```go\n")
	source, _, _ = strings.Cut(source, "```")
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(strings.ReplaceAll(source, "127.0.0.1:9000", address)), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "receiver"), filepath.Join(dir, "main.go"))
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the example does not compile: %v\n%s", err, out)
	}
	w := newWorld(t)
	_, secret := w.hook(w.Tenant, "http://"+address+"/usher", "*")
	receiver := exec.CommandContext(t.Context(), filepath.Join(dir, "receiver"))
	receiver.Env = append(os.Environ(), "WEBHOOK_SECRET="+secret)
	if err := receiver.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = receiver.Process.Kill(); _ = receiver.Wait() })
	testenv.Eventually(t, 10*time.Second, func() error {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	w.event(w.Tenant, "license.changed")
	if got := w.run(w.door(nil)); got.Webhooks.Delivered != 1 {
		t.Errorf("the run did %+v", got)
	}
	forged, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/usher", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(forged)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized {
		t.Errorf("what is not signed is answered %d", response.StatusCode)
	}
}
