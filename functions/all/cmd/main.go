// Command usher is `make run`: every function on one loopback port of this machine, with private stores and demo data.
// It exits with 0 after Ctrl-C, with 2 when something is in the way that its caller can clear away (a port that is
// taken), and with 1 when something failed.
package main

import (
	"os"

	"github.com/coditect/usher/functions/all/local"
)

func main() { os.Exit(local.Run(os.Getenv, os.Stdout)) }
