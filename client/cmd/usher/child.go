package main

import (
	"os/exec"
	"runtime"
)

// child is the command that runs while usher holds the seat.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	terminal *terminal // the one that usher runs in; nil = none
}

func newChild(cmd *exec.Cmd) *child {
	c := &child{cmd: cmd, done: make(chan struct{}), terminal: openTerminal()}
	cmd.SysProcAttr = c.attributes()
	return c
}

// start starts the command. The thread that did lives until the command has ended: on Linux its death is told to the
// command as usher's.
func (c *child) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // the exit code tells
			close(c.done)
		}
	}()
	return <-started
}
