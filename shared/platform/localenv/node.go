package localenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// InstallNode copies a Node.js project (a folder with a package-lock.json, and scripts) into a folder of its own below
// cache, with the packages that the lock pins, and answers where that is. It installs Node.js, too, when it is missing.
// A project that has not changed since is there already.
func InstallNode(ctx context.Context, log io.Writer, project, cache string) (string, error) {
	if err := Install(ctx, log, Node); err != nil {
		return "", err
	}
	name, err := fingerprint(project)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", project, err)
	}
	done := filepath.Join(cache, filepath.Base(project)+"-"+name)
	if _, err := os.Stat(done); err == nil {
		return done, nil
	}
	if _, err := fmt.Fprintf(log, "installing the packages of %s ...\n", project); err != nil {
		return "", fmt.Errorf("report progress: %w", err)
	}
	if err := installProject(ctx, project, cache, done); err != nil {
		return "", fmt.Errorf("install the packages of %s: %w", project, err)
	}
	return done, nil
}

// installProject makes the folder beside its place, so that whoever finds it finds it whole.
func installProject(ctx context.Context, project, cache, done string) (err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	making, err := os.MkdirTemp(cache, ".making-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(making)) }()
	if err := os.CopyFS(making, os.DirFS(project)); err != nil {
		return err
	}
	npm, err := Find("npm")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	var trouble tail
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir, cmd.Stdout, cmd.Stderr = making, &trouble, &trouble
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, &trouble)
	}
	err = os.Rename(making, done)
	if errors.Is(err, fs.ErrExist) {
		return nil // somebody else was faster
	}
	return err
}

// fingerprint names the content of a folder.
func fingerprint(folder string) (string, error) {
	sum := sha256.New()
	tree := os.DirFS(folder)
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(tree, path)
		if err == nil {
			_, err = fmt.Fprintf(sum, "%s %d %s", path, len(text), text)
		}
		return err
	})
	return hex.EncodeToString(sum.Sum(nil)[:8]), err
}
