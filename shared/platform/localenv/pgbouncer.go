package localenv

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Pooler is a private PgBouncer in transaction mode: each transaction may run on another connection, as behind every
// managed pooler.
type Pooler struct {
	run    string
	server *process
}

// StartPgBouncer starts a pooler before a private PostgreSQL and waits until it answers. It knows the roles that exist
// now, and holds at most poolSize connections for each database and role.
func StartPgBouncer(ctx context.Context, behind *Postgres, poolSize int) (*Pooler, error) {
	program, err := Find("pgbouncer")
	if err != nil {
		return nil, err
	}
	roles, err := loginRoles(ctx, behind)
	if err != nil {
		return nil, err
	}
	a := behind.account
	run, err := a.temporary("pgb")
	if err != nil {
		return nil, err
	}
	b := &Pooler{run: run}
	users := filepath.Join(run, "users.txt")
	settings := filepath.Join(run, "pgbouncer.ini")
	var list strings.Builder
	for _, role := range roles {
		fmt.Fprintf(&list, "%q \"\"\n", role)
	}
	ini := fmt.Sprintf(`[databases]
* = host=%s port=%d

[pgbouncer]
unix_socket_dir = %s
listen_addr =
listen_port = 6432
auth_type = trust
auth_file = %s
pool_mode = transaction
default_pool_size = %d
max_client_conn = 1000
ignore_startup_parameters = extra_float_digits
`, behind.run, behind.port(), run, users, poolSize)
	for path, text := range map[string]string{users: list.String(), settings: ini} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, errors.Join(fmt.Errorf("write the settings of PgBouncer: %w", err), os.RemoveAll(run))
		}
	}
	if b.server, err = a.start("PgBouncer", program, []string{settings}, run, nil, run); err != nil {
		return nil, errors.Join(err, os.RemoveAll(run))
	}
	err = b.server.ready(ctx, func(ctx context.Context) error {
		config, err := pgx.ParseConfig(b.URL("postgres", Superuser))
		if err != nil {
			return err
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return err
		}
		return errors.Join(conn.Ping(ctx), conn.Close(ctx))
	})
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func loginRoles(ctx context.Context, p *Postgres) ([]string, error) {
	conn, err := pgx.Connect(ctx, p.URL("postgres", Superuser))
	if err != nil {
		return nil, fmt.Errorf("read the login roles: %w", err)
	}
	rows, err := conn.Query(ctx, `select rolname::text from pg_roles where rolcanlogin order by rolname`)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the login roles: %w", err), conn.Close(ctx))
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return roles, errors.Join(err, conn.Close(ctx))
}

// URL is the address of a database for a user, through the pooler.
func (b *Pooler) URL(database, user string) string {
	u := url.URL{Scheme: "postgres", User: url.User(user), Path: "/" + database}
	u.RawQuery = url.Values{"host": {b.run}, "port": {strconv.Itoa(6432)}}.Encode()
	return u.String()
}

// Close stops the pooler and deletes what was temporary.
func (b *Pooler) Close() error {
	return errors.Join(b.server.end(syscall.SIGTERM), os.RemoveAll(b.run))
}
