package testenv

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/coditect/usher/migrations"
	"github.com/coditect/usher/shared/platform/localenv"
)

// Making a database cluster takes three seconds of CPU with the migrations, and a run of all tests wants fifty of them. So
// one is made, and kept in .local/tests under a name that says of what; every server begins with a copy.

// emptyCluster is a cluster without the migrations.
func emptyCluster(ctx context.Context) (string, error) {
	return kept(ctx, "empty", func(*localenv.Postgres) error { return nil })
}

// migratedCluster is a cluster with a migrated database, template.
func migratedCluster(ctx context.Context) (string, error) {
	fingerprint, err := migrations.Fingerprint()
	if err != nil {
		return "", err
	}
	return kept(ctx, "migrated-"+fingerprint[:16], func(server *localenv.Postgres) error {
		if err := createDatabase(ctx, server, template, "template0"); err != nil {
			return err
		}
		return migrations.Up(ctx, server.URL(template, localenv.Superuser), io.Discard)
	})
}

// kept is the data directory of the stopped cluster of that name. The first to ask makes it; others wait.
func kept(ctx context.Context, name string, fill func(*localenv.Postgres) error) (string, error) {
	root, err := findRoot()
	if err != nil {
		return "", err
	}
	program, err := localenv.Find("postgres")
	if err != nil {
		return "", err
	}
	version, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask PostgreSQL for its version: %w", err)
	}
	dir := filepath.Join(root, ".local", "tests")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	kind, _, _ := strings.Cut(name, "-")
	lock, err := os.OpenFile(filepath.Join(dir, kind+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // and so gives it back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("wait for the cluster that tests copy: %w", err)
	}
	data := filepath.Join(dir, fmt.Sprintf("%s-%.8x", name, sha256.Sum256(version)))
	if _, err := os.Stat(data); err == nil {
		return data, nil
	}
	old, err := filepath.Glob(filepath.Join(dir, kind+"-*"))
	if err != nil {
		return "", err
	}
	for _, path := range old { // of other migrations, or half made
		if err := os.RemoveAll(path); err != nil {
			return "", err
		}
	}
	server, err := localenv.StartPostgres(ctx, localenv.PostgresOptions{})
	if err != nil {
		return "", err
	}
	half := data + ".half"
	err = fill(server)
	if err == nil {
		err = server.Keep(half)
	}
	if err = errors.Join(err, server.Close()); err != nil {
		return "", err
	}
	return data, os.Rename(half, data)
}
