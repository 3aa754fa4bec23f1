// Package migrations is the shape of the database, step by step: goose SQL files in order, each arguing for itself in
// comments, and schema.sql, which is the result. The migrate job (cmd) applies them as a user that may create roles;
// functions never do.
//
// Forward-only in production; Down exists for development.
package migrations

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

//go:generate go run ./cmd dump schema.sql

//go:embed 0*.sql
var files embed.FS

// Fingerprint is another for other migrations.
func Fingerprint() (string, error) {
	sum := sha256.New()
	all, err := files.ReadDir(".")
	if err != nil {
		return "", err
	}
	for _, file := range all {
		text, err := files.ReadFile(file.Name())
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", file.Name(), len(text), text)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// Up applies every migration that the database at ownerURL lacks, each in its own transaction, and writes one line for
// each to log. Two runs at once wait for each other. The user must be allowed to create roles.
func Up(ctx context.Context, ownerURL string, log io.Writer) error {
	return with(ownerURL, func(p *goose.Provider) error {
		results, err := p.Up(ctx)
		return report(log, results, err)
	})
}

// Down takes the newest migration back. It is for development: it may drop tables with all that is in them.
func Down(ctx context.Context, ownerURL string, log io.Writer) error {
	return with(ownerURL, func(p *goose.Provider) error {
		result, err := p.Down(ctx)
		if errors.Is(err, goose.ErrNoNextVersion) {
			_, err = fmt.Fprintln(log, "nothing to take back")
			return err
		}
		return report(log, []*goose.MigrationResult{result}, err)
	})
}

// Version is the number of the newest migration that the database at ownerURL has, 0 for an empty one, and the number
// of the newest there is.
func Version(ctx context.Context, ownerURL string) (have, newest int64, err error) {
	err = with(ownerURL, func(p *goose.Provider) error {
		have, newest, err = p.GetVersions(ctx)
		return err
	})
	return have, newest, err
}

// Status writes a line for each migration to log: when it was applied, or that it is pending.
func Status(ctx context.Context, ownerURL string, log io.Writer) error {
	return with(ownerURL, func(p *goose.Provider) error {
		all, err := p.Status(ctx)
		if err != nil {
			return fmt.Errorf("read the state of the migrations: %w", err)
		}
		for _, m := range all {
			state := "pending"
			if m.State == goose.StateApplied {
				state = m.AppliedAt.UTC().Format(time.RFC3339)
			}
			if _, err := fmt.Fprintf(log, "%-22s %s\n", state, m.Source.Path); err != nil {
				return err
			}
		}
		return nil
	})
}

// with runs fn with goose's view of the database at ownerURL.
func with(ownerURL string, fn func(*goose.Provider) error) (err error) {
	config, err := pgx.ParseConfig(ownerURL)
	if err != nil {
		// The parser's own message quotes the URL, password and all.
		return errors.New("the database URL is not a PostgreSQL connection string")
	}
	config.ConnectTimeout = 10 * time.Second
	config.RuntimeParams["application_name"] = "migrate"
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := newProvider(db)
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	return fn(provider)
}

func newProvider(db *sql.DB) (*goose.Provider, error) {
	// One advisory lock for a database; asked for each second, for five minutes.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return nil, err
	}
	versions, err := database.NewStore(database.DialectPostgres, versionTable)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider("", db, files, goose.WithStore(store{versions}),
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
}

// store is goose's record of versions, written as the user who migrates: a migration may end as the owner of what it
// made, who has no business with goose's table.
type store struct{ database.Store }

func (s store) Insert(ctx context.Context, db database.DBTxConn, req database.InsertRequest) error {
	if _, err := db.ExecContext(ctx, "RESET ROLE"); err != nil {
		return err
	}
	return s.Store.Insert(ctx, db, req)
}

func (s store) Delete(ctx context.Context, db database.DBTxConn, version int64) error {
	if _, err := db.ExecContext(ctx, "RESET ROLE"); err != nil {
		return err
	}
	return s.Store.Delete(ctx, db, version)
}

// report writes what was done, and answers err with the migration it happened in.
func report(log io.Writer, results []*goose.MigrationResult, err error) error {
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		results = append(results, partial.Applied...)
	}
	for _, r := range results {
		if r == nil {
			continue
		}
		if _, err := fmt.Fprintf(log, "%-4s %s (%s)\n", r.Direction, r.Source.Path, r.Duration.Round(time.Millisecond)); err != nil {
			return err
		}
	}
	if partial != nil && partial.Failed != nil {
		return fmt.Errorf("migration %s: %w", partial.Failed.Source.Path, partial.Err)
	}
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
