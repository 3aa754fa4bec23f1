//go:build linux || darwin

package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that are the command's.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
}

// ends says whether a signal ends a program that does nothing about it in order to live.
func ends(s os.Signal) bool { return s != syscall.SIGUSR1 && s != syscall.SIGUSR2 }

// signalNumber is a signal's number.
func signalNumber(s os.Signal) int {
	n, _ := s.(syscall.Signal)
	return int(n)
}

// terminal is the one that usher runs in.
type terminal struct{ file *os.File }

func openTerminal() *terminal {
	file, err := os.Open("/dev/tty")
	if err != nil {
		return nil
	}
	return &terminal{file}
}

// ours says whether what is typed into the terminal goes to usher's process group.
func (t *terminal) ours() bool {
	group, err := unix.IoctlGetInt(int(t.file.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// In a terminal the command shares usher's process group: it may read what is typed, Ctrl-Z stops both and fg continues both,
// and other programs of a pipeline keep their terminal. Without one the command has a group of its own, so that a signal
// reaches what the command has started, too.
func (c *child) attributes() *syscall.SysProcAttr {
	attributes := deathSignal()
	attributes.Setpgid = c.terminal == nil
	return attributes
}

// forward hands a signal on. What is typed (Ctrl-C, Ctrl-\) the terminal has given to the command as well.
func (c *child) forward(s os.Signal) {
	if (s == syscall.SIGINT || s == syscall.SIGQUIT) && c.terminal != nil && c.terminal.ours() {
		return
	}
	n, _ := s.(syscall.Signal)
	c.signal(n)
}

// terminate asks the command to end.
func (c *child) terminate() {
	c.signal(syscall.SIGTERM)
	c.signal(syscall.SIGCONT) // it may be stopped
}

// kill ends the command.
func (c *child) kill() { c.signal(syscall.SIGKILL) }

func (c *child) signal(s syscall.Signal) {
	select {
	case <-c.done:
		return // its number may be another's
	default:
	}
	to := c.cmd.Process.Pid
	if c.terminal == nil {
		to = -to
	}
	_ = syscall.Kill(to, s) // it may have ended
}

// exitCode is the command's, or 128 and the number of the signal that ended it.
func (c *child) exitCode() int {
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return exitSignal + int(status.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}
