package seat

import (
	"math/rand/v2"
	"time"
)

// HeartbeatAfter is when a holder should beat next: a third of its lease, give or take a tenth, so that clients that
// started together do not beat together. Whole seconds, at least one.
func HeartbeatAfter(lease time.Duration) time.Duration {
	third := float64(lease) / 3
	after := time.Duration(third * (0.9 + 0.2*rand.Float64())) //nolint:gosec // jitter is no secret
	return max(after.Round(time.Second), time.Second)
}
