//go:build !unix

package client

import "os"

// raise ends the process, where nobody can send a signal to himself, with the code of a program that was interrupted.
func raise(os.Signal) { os.Exit(interrupted) }

// interrupted is what Windows itself answers: STATUS_CONTROL_C_EXIT.
const interrupted = -0x3ffffec6
