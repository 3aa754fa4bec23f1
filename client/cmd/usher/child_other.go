//go:build !linux && !darwin

package main

import (
	"os"
	"syscall"
)

// forwarded are the signals that are the command's.
var forwarded = []os.Signal{os.Interrupt, syscall.SIGTERM}

// ends says whether a signal ends a program that does nothing about it in order to live.
func ends(os.Signal) bool { return true }

// signalNumber is a signal's number.
func signalNumber(s os.Signal) int {
	n, _ := s.(syscall.Signal)
	return int(n)
}

// terminal is the console: the command shares it, and hears what is typed by itself.
type terminal struct{}

func openTerminal() *terminal { return nil }

func (c *child) attributes() *syscall.SysProcAttr { return nil }

// forward hands a signal on: what is typed the console has given to the command, and any other can only end it.
func (c *child) forward(s os.Signal) {
	if s != os.Interrupt {
		c.terminate()
	}
}

// terminate ends the command, which cannot be asked to.
func (c *child) terminate() { c.kill() }

// kill ends the command.
func (c *child) kill() { _ = c.cmd.Process.Kill() } // it may have ended

// exitCode is the command's.
func (c *child) exitCode() int { return c.cmd.ProcessState.ExitCode() }
