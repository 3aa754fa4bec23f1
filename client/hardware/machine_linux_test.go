package hardware

import (
	"errors"
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
