// Command migrate is the job that brings a database to the shape this version of Usher needs.
//
//	migrate up                apply what is missing (the default), if what serves meanwhile survives it
//	migrate up -serving N     the same, when the oldest that serves knows the migrations up to number N alone
//	migrate down              take the newest migration back: development only
//	migrate status            say what is applied
//	migrate dump F            write the schema to file F, from a private database made for it: no DATABASE_URL needed
//
// The database is DATABASE_URL's; its user must be allowed to create roles. With DATABASE_LOGINS up ends by making service
// accounts members of the roles that they act as, as in {"fn-acquire@PROJECT.iam": ["usher_acquire"]}, and of no others.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/coditect/usher/migrations"
	"github.com/coditect/usher/shared/platform/localenv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "migrate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string) error {
	verb := "up"
	if len(args) > 0 {
		verb = args[0]
	}
	if verb == "dump" {
		if len(args) != 2 {
			return errors.New("dump: name the file to write")
		}
		return dump(ctx, args[1])
	}
	url := getenv("DATABASE_URL")
	if url == "" {
		return errors.New("DATABASE_URL is required: the database to migrate, and a user that may create roles")
	}
	switch verb {
	case "up":
		return up(ctx, args[min(1, len(args)):], url, getenv("DATABASE_LOGINS"))
	case "down":
		return migrations.Down(ctx, url, os.Stdout)
	case "status":
		return migrations.Status(ctx, url, os.Stdout)
	default:
		return fmt.Errorf("unknown verb %q: one of up, down, status, dump", verb)
	}
}

func up(ctx context.Context, args []string, url, logins string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	serving := flags.Int64("serving", -1, "the newest migration that everything knows which serves meanwhile (default what the database has)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("up: %q is no flag", flags.Arg(0))
	}
	var accounts migrations.Logins
	if logins != "" {
		var err error
		if accounts, err = migrations.ParseLogins(logins); err != nil {
			return fmt.Errorf("DATABASE_LOGINS: %w", err)
		}
	}
	migrate := migrations.Up
	if *serving >= 0 {
		migrate = func(ctx context.Context, url string, log io.Writer) error {
			return migrations.UpUnder(ctx, url, *serving, log)
		}
	}
	if err := migrate(ctx, url, os.Stdout); err != nil || accounts == nil {
		return err
	}
	return migrations.Grant(ctx, url, accounts, os.Stdout)
}

// dump writes the schema that the migrations make, on a database of its own, to the file.
func dump(ctx context.Context, file string) (err error) {
	if err := localenv.Install(ctx, os.Stderr, localenv.PostgreSQL); err != nil {
		return err
	}
	server, err := localenv.StartPostgres(ctx, localenv.PostgresOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	url := server.URL("postgres", localenv.Superuser)
	if err := migrations.Up(ctx, url, os.Stderr); err != nil {
		return err
	}
	pgDump, err := localenv.Find("pg_dump")
	if err != nil {
		return err
	}
	schema, err := migrations.Dump(ctx, url, pgDump)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(schema), 0o644) //nolint:gosec // a source file
}
