//go:build unix

package client

import (
	"os"
	"syscall"
)

// raise sends this process a signal, which nobody catches any more.
func raise(s os.Signal) {
	if number, ok := s.(syscall.Signal); ok {
		_ = syscall.Kill(syscall.Getpid(), number) // to itself a process may always send
	}
}
