// Command install provides what the tests stand on: PostgreSQL, Redis, PgBouncer, and a C compiler for the race
// detector. What is there already it leaves alone.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/coditect/usher/shared/platform/localenv"
)

func main() {
	err := localenv.Install(context.Background(), os.Stderr,
		localenv.PostgreSQL, localenv.Redis, localenv.PgBouncer, localenv.CCompiler)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
