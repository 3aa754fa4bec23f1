package wholefile_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coditect/usher/client/internal/wholefile"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := wholefile.Write(path, text); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != text {
		t.Errorf("there is %q, %v, want %q", got, err, text)
	}
}

// alone fails when there is more in a folder than the one name.
func alone(t *testing.T, path string) {
	t.Helper()
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); err != nil || len(left) != 1 {
		t.Errorf("there is %s, %v", left, err)
	}
}

func TestAFileIsReplacedAndItsOwnersAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "old")
	write(t, path, "new")
	alone(t, path)
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("it is %v, %v", info.Mode(), err)
	}
}

// A folder of that name is in the way, as on Windows a program that has the file open.
func TestAPlaceThatIsTakenForAMomentIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := wholefile.Write(path, "text"); err == nil {
			t.Error("it replaced a folder")
		}
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("that took %s", took)
		}
		alone(t, path)
		go func() {
			time.Sleep(100 * time.Millisecond)
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}()
		write(t, path, "text")
	})
}
