package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Full says that a proof is to run at its full size, because PROOF is "full", as `make prove` sets it. Otherwise it runs at
// a small size, as every other test does.
func Full() bool { return os.Getenv("PROOF") == "full" }

var proved sync.Mutex

// Proved adds a line of what a proof found to the test's log and, when PROOF_DIR is set, to the proof's page in that folder,
// from which `make prove` makes its summary. Every figure in it was counted by this run.
func Proved(t testing.TB, proof, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	t.Logf("%s: %s", proof, line)
	dir := os.Getenv("PROOF_DIR")
	if dir == "" {
		return
	}
	proved.Lock()
	defer proved.Unlock()
	must(t, os.MkdirAll(dir, 0o755))
	f, err := os.OpenFile(filepath.Join(dir, filepath.Base(proof)+".txt"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(t, err)
	_, err = fmt.Fprintln(f, line)
	must(t, err)
	must(t, f.Close())
}
