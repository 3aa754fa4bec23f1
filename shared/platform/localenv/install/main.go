// Command install provides what the tests stand on: PostgreSQL, Redis, PgBouncer, a C compiler for the race detector, and
// the model checker Spin. What is there already it leaves alone.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/coditect/usher/shared/platform/localenv"
)

func main() {
	err := localenv.Install(context.Background(), os.Stderr,
		localenv.PostgreSQL, localenv.Redis, localenv.PgBouncer, localenv.CCompiler, localenv.Spin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
