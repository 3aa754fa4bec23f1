package hardware

import (
	"context"
	"strings"
)

// machineID is what systemd or D-Bus made when the system was installed.
func machineID(_ context.Context, root string) (string, error) {
	for _, path := range []string{"etc/machine-id", "var/lib/dbus/machine-id"} {
		text, err := file(root + path)
		if err != nil {
			return "", err
		}
		if id := strings.TrimSpace(text); id != "" && id != "uninitialized" {
			return id, nil
		}
	}
	return "", ErrNone
}
