//go:build !linux && !darwin && !windows

package hardware

import (
	"context"
	"os"
	"strings"
)

// machineID is what the BSDs made when they were installed.
func machineID(_ context.Context, root string) (string, error) {
	text, err := os.ReadFile(root + "etc/hostid")
	if id := strings.TrimSpace(string(text)); err == nil && id != "" {
		return id, nil
	}
	return "", ErrNone
}
