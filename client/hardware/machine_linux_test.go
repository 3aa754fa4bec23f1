package hardware

import (
	"errors"
	"os"
	"testing"
)

func TestTheMachineIDIsWhatTheInstallationMade(t *testing.T) {
	t.Parallel()
	s := computer(t)
	if _, err := machineID(t.Context(), s.root); !errors.Is(err, ErrNone) {
		t.Errorf("without a file: %v", err)
	}
	for path, text := range map[string]string{"var/lib/dbus/machine-id": "abc\n", "etc/machine-id": "uninitialized\n"} {
		s.with(t, path, text)
	}
	if got, err := machineID(t.Context(), s.root); err != nil || got != "abc" {
		t.Errorf("it is %q, %v", got, err)
	}
	s.with(t, "etc/machine-id", "def\n")
	if got, err := machineID(t.Context(), s.root); err != nil || got != "def" {
		t.Errorf("it is %q, %v", got, err)
	}
}

// A file that leads to itself cannot be read, and is there: as when the program has too many files open.
func TestAMachineThatCannotBeAskedNowIsNotTakenForAnother(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"etc/machine-id", "proc/self/cgroup", "proc/self/mountinfo"} {
		s := computer(t).with(t, ".dockerenv", "").with(t, "var/lib/dbus/machine-id", "other\n").with(t, path, "x")
		s.machine = machineID
		if _, err := s.id(t.Context(), "app"); err != nil {
			t.Fatal(err)
		}
		for _, step := range []error{os.Remove(s.root + path), os.Symlink(s.root+path, s.root+path)} {
			if step != nil {
				t.Fatal(step)
			}
		}
		if text, err := s.id(t.Context(), "app"); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("without %s it is %q, %v", path, text, err)
		}
	}
}
