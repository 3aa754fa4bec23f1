//go:build !linux

package client

import "time"

// newClock counts.
func newClock() func() instant {
	c := new(counted)
	return func() instant { return c.read(time.Now()) }
}
