package hardware

import (
	"context"
	"os"
	"strings"
)

// machineID is what systemd or D-Bus made when the system was installed.
func machineID(_ context.Context, root string) (string, error) {
	for _, path := range []string{"etc/machine-id", "var/lib/dbus/machine-id"} {
		text, err := os.ReadFile(root + path)
		if id := strings.TrimSpace(string(text)); err == nil && id != "" && id != "uninitialized" {
			return id, nil
		}
	}
	return "", ErrNone
}
