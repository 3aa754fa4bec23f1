package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/migrations"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/tenancy"
)

// stores are PostgreSQL, Redis and Firestore: private ones, or those of the environment.
type stores struct {
	owner   string                   // address of the database for a user that may create roles
	role    func(name string) string // the same for a login role
	pools   string                   // address of the Redis that holds the pools
	budgets string
	journal map[string]string // settings by which functions find the journal; none when it is off

	private []private
	logs    []io.Closer
	watch   sync.WaitGroup
}

// private is a store that we started.
type private struct {
	name  string
	done  func() <-chan struct{}
	start func(context.Context) error
	close func() error
}

// startStores starts the stores that the environment does not name, with data that is kept in dir.
func startStores(ctx context.Context, dir string, getenv func(string) string, progress func(string, ...any)) (*stores, error) {
	s := &stores{}
	if err := s.start(ctx, dir, getenv, progress); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *stores) start(ctx context.Context, dir string, getenv func(string) string, progress func(string, ...any)) error {
	database, redis := getenv("DATABASE_URL"), getenv("REDIS_URL")
	var missing []localenv.Software
	if database == "" {
		missing = append(missing, localenv.PostgreSQL)
	} else if err := s.usePostgres(database); err != nil {
		return err
	}
	if redis == "" {
		missing = append(missing, localenv.Redis)
	} else if err := s.useRedis(redis, getenv("BUDGET_REDIS_URL")); err != nil {
		return err
	}
	if err := localenv.Install(ctx, writer(progress), missing...); err != nil {
		return err
	}
	if database == "" {
		progress("starting PostgreSQL")
		if err := s.startPostgres(ctx, dir); err != nil {
			return err
		}
	}
	if redis == "" {
		progress("starting Redis")
		if err := s.startRedis(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// startJournal starts the Firestore emulator where it is on this machine, unless the environment names a journal or wants none. What
// it holds ends with it.
func (s *stores) startJournal(ctx context.Context, dir string, getenv func(string) string, progress func(string, ...any)) error {
	if getenv("JOURNAL_PROJECT") != "" {
		return nil
	}
	if getenv("JOURNAL") == "off" {
		progress("the journal is off, as JOURNAL says")
		return nil
	}
	log, err := s.log(dir, "firestore.log")
	if err != nil {
		return err
	}
	progress("starting the Firestore emulator")
	server, err := localenv.StartFirestore(ctx, log)
	if errors.Is(err, localenv.ErrNoFirestore) {
		progress("the journal is off: %v", localenv.ErrNoFirestore)
		return nil
	}
	if err != nil {
		return err
	}
	s.private = append(s.private, private{"Firestore", server.Done, server.Start, server.Close})
	s.journal = map[string]string{"JOURNAL_PROJECT": "usher-local", "JOURNAL_EMULATOR": server.Addr()}
	return nil
}

func (s *stores) startPostgres(ctx context.Context, dir string) error {
	log, err := s.log(dir, "postgresql.log")
	if err != nil {
		return err
	}
	server, err := localenv.StartPostgres(ctx, localenv.PostgresOptions{Dir: filepath.Join(dir, "postgres"), Fsync: true, Log: log})
	if err != nil {
		return err
	}
	s.private = append(s.private, private{"PostgreSQL", server.Done, server.Start, server.Close})
	s.owner = server.URL("postgres", localenv.Superuser)
	s.role = func(name string) string { return server.URL("postgres", name) }
	return nil
}

func (s *stores) startRedis(ctx context.Context, dir string) error {
	log, err := s.log(dir, "redis.log")
	if err != nil {
		return err
	}
	server, err := localenv.StartRedis(ctx, localenv.RedisOptions{Dir: filepath.Join(dir, "redis"), AppendOnly: true, Log: log})
	if err != nil {
		return err
	}
	s.private = append(s.private, private{"Redis", server.Done, server.Start, server.Close})
	s.pools, s.budgets = server.URL(0), server.URL(1)
	return nil
}

// log makes the file that a store's own log goes to, empty at each start.
func (s *stores) log(dir, name string) (io.Writer, error) {
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write a log: %w", err)
	}
	s.logs = append(s.logs, file)
	return file, nil
}

// usePostgres takes the server of DATABASE_URL. The login roles use its password, when it has one.
func (s *stores) usePostgres(database string) error {
	address, err := url.Parse(database)
	if err != nil || address.Scheme != "postgres" && address.Scheme != "postgresql" {
		// The parser's own error may quote a password.
		return &SettingError{"DATABASE_URL is not a URL such as postgres://user@host:5432/database"}
	}
	s.owner = database
	s.role = func(name string) string {
		as := *address
		as.User = url.User(name)
		if password, ok := address.User.Password(); ok {
			as.User = url.UserPassword(name, password)
		}
		return as.String()
	}
	return nil
}

// useRedis takes the Redis of REDIS_URL. Budgets are apart from pools: in the next database, unless they have a URL.
func (s *stores) useRedis(pools, budgets string) error {
	address, err := url.Parse(pools)
	if err != nil || address.Scheme != "redis" && address.Scheme != "rediss" {
		// The parser's own error may quote a password.
		return &SettingError{"REDIS_URL is not a URL such as redis://host:6379/0"}
	}
	s.pools, s.budgets = pools, budgets
	if budgets != "" {
		return nil
	}
	database := 0
	if path := strings.Trim(address.Path, "/"); path != "" {
		if database, err = strconv.Atoi(path); err != nil {
			return &SettingError{"REDIS_URL does not end in the number of a database: set BUDGET_REDIS_URL too"}
		}
	}
	address.Path = "/" + strconv.Itoa(database+1)
	s.budgets = address.String()
	return nil
}

// migrate brings the database to the shape that the functions need, and lets their roles log in.
func (s *stores) migrate(ctx context.Context, progress func(string, ...any)) error {
	have, newest, err := migrations.Version(ctx, s.owner)
	if err != nil {
		return err
	}
	if have < newest {
		progress("migrating the database from version %d to %d", have, newest)
	}
	if err := migrations.Up(ctx, s.owner, io.Discard); err != nil {
		return err
	}
	address, err := url.Parse(s.owner)
	if err != nil {
		return errors.New("the address of the database cannot be read") // the parser's error may quote a password
	}
	if password, ok := address.User.Password(); ok {
		return s.givePassword(ctx, password)
	}
	return nil
}

// givePassword makes the login roles of a server that asks for passwords use that of DATABASE_URL.
func (s *stores) givePassword(ctx context.Context, password string) error {
	db, err := tenancy.OpenURL(ctx, s.owner, tenancy.Config{Application: "make run"}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer db.Close()
	err = db.Across(ctx, "make run gives the login roles a password", func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT format('ALTER ROLE %I PASSWORD %L', rolname, $1::text)
			  FROM pg_roles
			 WHERE rolcanlogin AND starts_with(rolname, 'usher_')`, password)
		if err != nil {
			return err
		}
		statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, statement := range statements {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.New("DATABASE_URL has a password, and its user may not give the login roles one") // the error may quote it
	}
	return nil
}

// supervise starts a store again that ended by itself, until the context is over; failed is told when that is in vain.
func (s *stores) supervise(ctx context.Context, progress func(string, ...any), failed chan<- error) {
	for _, p := range s.private {
		s.watch.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-p.done():
				}
				if ctx.Err() != nil {
					return
				}
				progress("%s has ended; starting it again", p.name)
				if err := p.restart(ctx); err != nil {
					if ctx.Err() == nil {
						failed <- fmt.Errorf("%s has ended and does not start again: %w", p.name, err)
					}
					return
				}
			}
		})
	}
}

// restart tries for a while: what is left of a killed server may hold its data for a moment.
func (p private) restart(ctx context.Context) error {
	err := p.start(ctx)
	for try := 0; err != nil && try < 10 && ctx.Err() == nil; try++ {
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
			err = p.start(ctx)
		}
	}
	return err
}

// close stops what was started; the data stays. The context of supervise is over by then.
func (s *stores) close() error {
	s.watch.Wait()
	var errs []error
	for _, p := range s.private {
		errs = append(errs, p.close())
	}
	for _, log := range s.logs {
		errs = append(errs, log.Close())
	}
	return errors.Join(errs...)
}

// writer passes lines on to progress.
type writer func(string, ...any)

// Write takes whole lines.
func (w writer) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		w("%s", strings.TrimSuffix(line, "\n"))
	}
	return len(b), nil
}
