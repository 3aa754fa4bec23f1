// Command install provides what the tests stand on: PostgreSQL, Redis, PgBouncer, a C compiler for the race detector, the
// model checker Spin, a browser, Node.js with the JOSE library that receipts are shown to, and Java where the emulator of Firestore is.
// What is there already it leaves alone.
// It runs in the top folder of the repository, and says first when the disk has no room for what comes after it.
package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/coditect/usher/shared/platform/localenv"
)

func main() {
	ctx := context.Background()
	wanted := []localenv.Software{localenv.PostgreSQL, localenv.Redis, localenv.PgBouncer, localenv.CCompiler, localenv.Spin, localenv.Chromium}
	if localenv.HasFirestore() {
		wanted = append(wanted, localenv.Java)
	}
	err := room()
	if err == nil {
		err = localenv.Install(ctx, os.Stderr, wanted...)
	}
	if err == nil {
		_, err = localenv.InstallNode(ctx, os.Stderr, "tools/jose", ".local/node")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// needed is what the tests take of the disk, in bytes: 4 GB of temporary files, most of them binaries and databases, and as much as a
// half more of Go's cache, which has 4 GB when everything was built for the first time.
const needed = 6 << 30

// room says when the disk that temporary files are on is almost full: the tests would fail one by one, with messages of others.
func room() error {
	var disk unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &disk); err != nil {
		return fmt.Errorf("look for room on the disk of %s: %w", os.TempDir(), err)
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < needed {
		return fmt.Errorf("the disk of %s has %d MiB left, and the tests need %d: `go clean -cache` frees what was built before, or name another disk in TMPDIR",
			os.TempDir(), free>>20, needed>>20)
	}
	return nil
}
