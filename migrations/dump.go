package migrations

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// versionTable is goose's own, of no interest in a schema.
const versionTable = "public.goose_db_version"

// Dump writes down the schema of the migrated database at ownerURL, with pgDump (the path of the program): every
// object, policy and grant, then the roles and what they may do. The text depends neither on the machine nor on the
// minor version of PostgreSQL.
func Dump(ctx context.Context, ownerURL, pgDump string) (string, error) {
	cmd := exec.CommandContext(ctx, pgDump, //nolint:gosec // the caller's own program
		"--schema-only", "--no-tablespaces", "--exclude-table="+versionTable,
		"--exclude-table="+versionTable+"_id_seq", "--dbname="+ownerURL)
	var out, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &trouble
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("dump the schema: %w\n%s", err, &trouble)
	}
	roles, err := dumpRoles(ctx, ownerURL)
	if err != nil {
		return "", err
	}
	return "-- Made by `make generate` from the migrations. Do not edit.\n\n" + normalise(out.String()) + "\n" + roles, nil
}

var (
	// What depends on the version or on chance, and settings of the session that would load the dump.
	noise = regexp.MustCompile(`(?m)^(-- Dumped .*|-- PostgreSQL database dump.*|--|\\(un)?restrict .*|SET .*;|SELECT pg_catalog\.set_config.*)\n`)
	// "-- Name: x; Type: TABLE; Schema: app; Owner: usher_owner" says what the statement below it says.
	heading = regexp.MustCompile(`(?m)^-- Name: (.*); Type: (.*); Schema: .*; Owner: .*$`)
	gaps    = regexp.MustCompile(`\n{3,}`)
)

// normalise takes out of a dump what differs between machines, and what is only noise.
func normalise(dump string) string {
	dump = noise.ReplaceAllString(dump, "")
	dump = heading.ReplaceAllString(dump, "-- $2 $1")
	return strings.TrimSpace(gaps.ReplaceAllString(dump, "\n\n")) + "\n"
}

// rolesQuery answers one statement a row that would make Usher's roles again: pg_dump leaves roles out, since they
// belong to the whole cluster, yet they are half of what keeps tenants apart.
const rolesQuery = `
WITH ours AS (SELECT * FROM pg_roles WHERE rolname LIKE 'usher\_%')
SELECT statement FROM (
    SELECT 1 AS part, rolname AS name, format('CREATE ROLE %I %s%s%s%s%s%s%s;', rolname,
               CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
               CASE WHEN rolinherit THEN '' ELSE ' NOINHERIT' END,
               CASE WHEN rolsuper THEN ' SUPERUSER' ELSE '' END,
               CASE WHEN rolbypassrls THEN ' BYPASSRLS' ELSE '' END,
               CASE WHEN rolcreaterole THEN ' CREATEROLE' ELSE '' END,
               CASE WHEN rolcreatedb THEN ' CREATEDB' ELSE '' END,
               CASE WHEN rolreplication THEN ' REPLICATION' ELSE '' END) AS statement
      FROM ours
    UNION ALL
    SELECT 2, rolname, format('ALTER ROLE %I SET %s;', rolname, setting) FROM ours, unnest(rolconfig) AS setting
    UNION ALL
    SELECT 3, g.rolname, format('GRANT %I TO %I;', g.rolname, m.rolname)
      FROM pg_auth_members a JOIN ours g ON g.oid = a.roleid JOIN ours m ON m.oid = a.member
) AS s ORDER BY part, name COLLATE "C", statement COLLATE "C"`

func dumpRoles(ctx context.Context, ownerURL string) (text string, err error) {
	conn, err := pgx.Connect(ctx, ownerURL)
	if err != nil {
		return "", fmt.Errorf("dump the roles: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	rows, err := conn.Query(ctx, rolesQuery)
	if err != nil {
		return "", fmt.Errorf("dump the roles: %w", err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("dump the roles: %w", err)
	}
	return "-- ROLES\n\n" + strings.Join(statements, "\n") + "\n", nil
}
