//go:build !linux && !darwin && !windows

package hardware

import (
	"context"
	"strings"
)

// machineID is what the BSDs made when they were installed.
func machineID(_ context.Context, root string) (string, error) {
	text, err := file(root + "etc/hostid")
	if err != nil {
		return "", err
	}
	if id := strings.TrimSpace(text); id != "" {
		return id, nil
	}
	return "", ErrNone
}
