// Command install provides what the tests stand on: PostgreSQL, Redis, PgBouncer, a C compiler for the race detector, the
// model checker Spin, a browser, and Node.js with the JOSE library that receipts are shown to. What is there already it leaves alone.
// It runs in the top folder of the repository.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/coditect/usher/shared/platform/localenv"
)

func main() {
	ctx := context.Background()
	err := localenv.Install(ctx, os.Stderr,
		localenv.PostgreSQL, localenv.Redis, localenv.PgBouncer, localenv.CCompiler, localenv.Spin, localenv.Chromium)
	if err == nil {
		_, err = localenv.InstallNode(ctx, os.Stderr, "tools/jose", ".local/node")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
