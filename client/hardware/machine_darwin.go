package hardware

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"time"
)

var platformUUID = regexp.MustCompile(`"IOPlatformUUID" = "([^"]+)"`)

// machineID is the hardware's UUID.
func machineID(ctx context.Context, _ string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, "/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice").Output()
	if err != nil && !absent(err) {
		return "", fmt.Errorf("ask ioreg: %w", errors.Join(err, ctx.Err()))
	}
	found := platformUUID.FindSubmatch(text)
	if found == nil {
		return "", ErrNone
	}
	return string(found[1]), nil
}
