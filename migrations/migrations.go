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
	"io/fs"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
//
// What the versions which serve meanwhile do not survive is refused, by the word of the database: that they know the migrations
// it has, because what was released last serves. What came before it stays applied; a run may be repeated. A migration does
// not wait more than a few seconds for a table that somebody uses, as everybody else would wait behind it: it is tried again,
// for some minutes.
func Up(ctx context.Context, ownerURL string, log io.Writer) error {
	return up(ctx, ownerURL, files, -1, log)
}

// UpUnder is Up while versions serve of which the oldest knows the migrations up to number serving: after a rollback the
// database has more.
func UpUnder(ctx context.Context, ownerURL string, serving int64, log io.Writer) error {
	return up(ctx, ownerURL, files, serving, log)
}

// up is told by the database what serves when serving is below zero. In an empty one nobody serves.
func up(ctx context.Context, ownerURL string, files fs.FS, serving int64, log io.Writer) error {
	var have int64
	err := with(ownerURL, files, nobody, func(p *goose.Provider) (err error) {
		have, err = p.GetDBVersion(ctx)
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("read the version: %w", err)
	case have == 0:
		serving = nobody
	case serving < 0:
		serving = have
	}
	return with(ownerURL, files, serving, func(p *goose.Provider) error {
		pending, err := lacking(ctx, p)
		if err != nil {
			return err
		}
		if err := (judge{files: files}).outsiders(pending); err != nil {
			return err
		}
		for tried := 1; ; tried++ {
			results, err := p.Up(ctx)
			if busy := new(pgconn.PgError); !errors.As(err, &busy) || busy.Code != lockNotAvailable || tried == lockTries {
				return report(log, results, err)
			}
			if err := report(log, applied(results, err), nil); err != nil {
				return err
			}
			_, _ = fmt.Fprintln(log, "a table is in use: trying again")
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(lockPause):
			}
		}
	})
}

// lacking is the numbers of the migrations that the database has not.
func lacking(ctx context.Context, p *goose.Provider) (versions []int64, err error) {
	all, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the state of the migrations: %w", err)
	}
	for _, m := range all {
		if m.State == goose.StatePending {
			versions = append(versions, m.Source.Version)
		}
	}
	return versions, nil
}

// A migration that waits for a table makes everybody wait who comes after it: it gives way, and comes back.
const (
	lockWait  = 3 * time.Second
	lockPause = 2 * time.Second
	lockTries = 60

	lockNotAvailable = "55P03" // SQLSTATE
)

// Down takes the newest migration back. It is for development: it may drop tables with all that is in them.
func Down(ctx context.Context, ownerURL string, log io.Writer) error {
	return with(ownerURL, files, nobody, func(p *goose.Provider) error {
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
	err = with(ownerURL, files, nobody, func(p *goose.Provider) error {
		have, newest, err = p.GetVersions(ctx)
		return err
	})
	return have, newest, err
}

// Status writes a line for each migration to log: when it was applied, or that it is pending.
func Status(ctx context.Context, ownerURL string, log io.Writer) error {
	return with(ownerURL, files, nobody, func(p *goose.Provider) error {
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
func with(ownerURL string, files fs.FS, serving int64, fn func(*goose.Provider) error) (err error) {
	config, err := parse(ownerURL)
	if err != nil {
		return err
	}
	config.RuntimeParams["lock_timeout"] = strconv.FormatInt(lockWait.Milliseconds(), 10)
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := newProvider(db, files, serving)
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	return fn(provider)
}

func parse(ownerURL string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(ownerURL)
	if err != nil {
		// The parser's own message quotes the URL, password and all.
		return nil, errors.New("the database URL is not a PostgreSQL connection string")
	}
	config.ConnectTimeout = 10 * time.Second
	config.RuntimeParams["application_name"] = "migrate"
	return config, nil
}

func newProvider(db *sql.DB, files fs.FS, serving int64) (*goose.Provider, error) {
	// One advisory lock for a database; asked for each second, for five minutes.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return nil, err
	}
	versions, err := database.NewStore(database.DialectPostgres, versionTable)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider("", db, files, goose.WithStore(store{versions, judge{db, files, serving}}),
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
}

// store is goose's record of versions, written as the user who migrates: a migration may end as the owner of what it
// made, who has no business with goose's table. A migration that is not safe is refused before it is recorded.
type store struct {
	database.Store

	judge judge
}

func (s store) Insert(ctx context.Context, db database.DBTxConn, req database.InsertRequest) error {
	if _, err := db.ExecContext(ctx, "RESET ROLE"); err != nil {
		return err
	}
	if err := s.judge.allow(ctx, db, req.Version); err != nil {
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

// applied is what was done, also by a run that did not come to its end.
func applied(results []*goose.MigrationResult, err error) []*goose.MigrationResult {
	if partial := new(goose.PartialError); errors.As(err, &partial) {
		return append(results, partial.Applied...)
	}
	return results
}

// report writes what was done, and answers err with the migration it happened in.
func report(log io.Writer, results []*goose.MigrationResult, err error) error {
	for _, r := range applied(results, err) {
		if r == nil {
			continue
		}
		if _, err := fmt.Fprintf(log, "%-4s %s (%s)\n", r.Direction, r.Source.Path, r.Duration.Round(time.Millisecond)); err != nil {
			return err
		}
	}
	if partial := new(goose.PartialError); errors.As(err, &partial) && partial.Failed != nil {
		return fmt.Errorf("migration %s: %w", partial.Failed.Source.Path, partial.Err)
	}
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
