package main

import "syscall"

// deathSignal is none: only Linux tells a process that its parent has died.
func deathSignal() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
