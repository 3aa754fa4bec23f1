package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/secret/secretmanager"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/signing/rotation"
	"github.com/coditect/usher/shared/tenancy"
)

// The deployment's keys and its secret, as infra/ would make them.
const (
	rootKey     = "projects/usher/locations/local/keyRings/usher/cryptoKeys/roots"
	wrappingKey = "projects/usher/locations/local/keyRings/usher/cryptoKeys/receipt-keys"
	tokenSecret = "projects/usher/secrets/seat-token-keys"
)

// StartCloud stands in for Cloud KMS and Secret Manager, with keys that are kept in dir, and answers the settings by which
// functions find it.
func StartCloud(ctx context.Context, dir string) (*localenv.Cloud, map[string]string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("find the folder for local data: %w", err)
	}
	ring := filepath.Join(dir, "seat-token-keys")
	c, err := localenv.StartCloud(ctx, localenv.CloudOptions{
		File: filepath.Join(dir, "cloud.json"), Mounts: map[string]string{tokenSecret: ring},
	})
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(c.MakeSigningKey(rootKey), c.MakeEncryptionKey(wrappingKey), c.MakeSecret(tokenSecret)); err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, map[string]string{
		"CLOUD_EMULATOR": c.Addr(), "KMS_ROOT_KEY": rootKey, "KMS_WRAPPING_KEY": wrappingKey,
		"SEAT_TOKEN_SECRET": tokenSecret, "SEAT_TOKEN_KEYS_FILE": ring,
	}, nil
}

// makeKeys does what is due with signing keys, in the environment of function rotate: the first time, it makes them all.
// It writes the roots that an application is built with.
func makeKeys(ctx context.Context, getenv func(string) string, path string, log *slog.Logger) (err error) {
	db, err := tenancy.Open(ctx, getenv, log)
	if err != nil {
		return err
	}
	defer db.Close()
	vault, err1 := kms.Open(getenv, kms.Wrap|kms.Rotate)
	ring, err2 := secretmanager.Open(getenv)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ring.Close(), vault.Close()) }()
	if _, err := rotation.New(rotation.Deps{DB: db, Vault: vault, Ring: ring, Now: db.Now, Log: log}).Run(ctx); err != nil {
		return fmt.Errorf("make the signing keys: %w", err)
	}
	roots, err := signing.PinnedRoots(ctx, db)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, roots, 0o644); err != nil {
		return fmt.Errorf("write the roots: %w", err)
	}
	return nil
}
