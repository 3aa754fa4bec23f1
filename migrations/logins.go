package migrations

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Logins says as which functions' roles service accounts may act, by the name that an account has in the database:
// fn-acquire@PROJECT.iam, usher_acquire. It is all there is: a membership that it does not have is taken back.
type Logins map[string][]string

var (
	account = regexp.MustCompile(`^[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z0-9.:-]+\.iam$`)
	ofOurs  = regexp.MustCompile(`^usher_[a-z]+$`)
)

// ParseLogins reads them from JSON, as in {"fn-acquire@PROJECT.iam": ["usher_acquire"]}. A name that is no service account's,
// and a role that is not called as ours are, is refused.
func ParseLogins(text string) (Logins, error) {
	var logins Logins
	if err := json.Unmarshal([]byte(text), &logins); err != nil {
		return nil, fmt.Errorf("it is no JSON object of lists of roles: %w", err)
	}
	var faults []error
	for login, roles := range logins {
		if !account.MatchString(login) {
			faults = append(faults, fmt.Errorf("%q is not how Cloud SQL calls a service account: NAME@PROJECT.iam", login))
		}
		for _, role := range roles {
			if !ofOurs.MatchString(role) {
				faults = append(faults, fmt.Errorf("%q is no role of a function: usher_…", role))
			}
		}
	}
	return logins, errors.Join(faults...)
}

const (
	// functionsRole says whether a role is one that a function acts as: these log in, and the owner and the groups do not.
	functionsRole = `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolname LIKE 'usher\_%' AND rolcanlogin
		AND NOT (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication))`
	// memberships are those of service accounts in roles of ours, whichever.
	memberships = `SELECT m.rolname, g.rolname FROM pg_auth_members a
		JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
		WHERE g.rolname LIKE 'usher\_%' AND m.rolname LIKE '%@%.iam'`
)

// Grant makes service accounts members of the roles that they act as, and takes back what is not in logins; one line for
// each change is written to log. It is all or nothing, and may be repeated. The accounts are users of the database already,
// made by IAM; the roles are the migrations'. What is neither is refused.
func Grant(ctx context.Context, ownerURL string, logins Logins, log io.Writer) (err error) {
	config, err := parse(ownerURL)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to grant roles: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	var done []string
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Two jobs at once wait for each other; the roles are the whole server's.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('usher logins'))`); err != nil {
			return fmt.Errorf("wait for another job: %w", err)
		}
		rows, err := tx.Query(ctx, memberships)
		if err != nil {
			return fmt.Errorf("read who may act as whom: %w", err)
		}
		type membership struct{ Login, Role string }
		have, err := pgx.CollectRows(rows, pgx.RowToStructByPos[membership])
		if err != nil {
			return fmt.Errorf("read who may act as whom: %w", err)
		}
		change := func(verb, role, joint, login string) error {
			if _, err := tx.Exec(ctx, verb+" "+pgx.Identifier{role}.Sanitize()+" "+joint+" "+pgx.Identifier{login}.Sanitize()); err != nil {
				return fmt.Errorf("%s %s %s %s: %w", verb, role, joint, login, err)
			}
			done = append(done, strings.Join([]string{verb, role, joint, login}, " "))
			return nil
		}
		for _, m := range have {
			if !slices.Contains(logins[m.Login], m.Role) {
				if err := change("REVOKE", m.Role, "FROM", m.Login); err != nil {
					return err
				}
			}
		}
		for _, login := range slices.Sorted(maps.Keys(logins)) {
			for _, role := range logins[login] {
				if slices.Contains(have, membership{login, role}) {
					continue
				}
				var known bool
				if err := tx.QueryRow(ctx, functionsRole, role).Scan(&known); err != nil {
					return fmt.Errorf("read the roles: %w", err)
				}
				if !known {
					return fmt.Errorf("%s is no role that a function acts as: no service account may", role)
				}
				if err := change("GRANT", role, "TO", login); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil || len(done) == 0 {
		return err
	}
	_, err = fmt.Fprintln(log, strings.Join(done, "\n"))
	return err
}
