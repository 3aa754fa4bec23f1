package main

import "syscall"

// deathSignal asks the kernel to end the command when usher dies without a word: nobody keeps its seat any more.
func deathSignal() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
