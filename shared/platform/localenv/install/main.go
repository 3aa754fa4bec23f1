// Command install provides what the tests stand on: PostgreSQL, Redis, PgBouncer, a C compiler for the race detector, the
// model checker Spin, a browser, Node.js with the JOSE library that receipts are shown to, and Java where the emulator of Firestore is.
// What is there already it leaves alone.
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
	wanted := []localenv.Software{localenv.PostgreSQL, localenv.Redis, localenv.PgBouncer, localenv.CCompiler, localenv.Spin, localenv.Chromium}
	if localenv.HasFirestore() {
		wanted = append(wanted, localenv.Java)
	}
	err := localenv.Install(ctx, os.Stderr, wanted...)
	if err == nil {
		_, err = localenv.InstallNode(ctx, os.Stderr, "tools/jose", ".local/node")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
