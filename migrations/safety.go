package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3/database"
)

// firstRelease is the newest migration of the first release: nothing ever served from an older shape, so that migrations up to
// it are safe whatever they do.
const firstRelease = 22

// nobody serves: there is nothing to be careful of.
const nobody int64 = -1

// mostRows is how many rows of a table that serves a migration may change: they stay locked until it ends. More are for
// statements in batches, outside migrations.
const mostRows = 10_000

// judge looks at each migration when it has done its work and is not yet committed, and refuses what the version that serves
// meanwhile does not survive, so that it is rolled back: a table that is rewritten, scanned or indexed while nobody may write
// to it, and whatever that version may still use or still writes. It compares the catalogue within the migration's
// transaction with what everybody else still sees, and so judges what a statement did, not how it is written.
//
// A migration excuses a finding in a line of its own,
//
//	-- safe: index app.notices: a few rows, and nobody waits for it
//
// and what it takes away by naming the migration since which no version uses it. Such a one is refused until every version
// that serves knows that migration:
//
//	-- contract: 00023
type judge struct {
	db      *sql.DB // for the view from outside
	files   fs.FS
	serving int64 // the newest migration that every version which serves knows, or nobody
}

// errUnsafe is the class of refusals.
var errUnsafe = errors.New("not safe under the version that serves")

func (j judge) allow(ctx context.Context, db database.DBTxConn, version int64) error {
	if version <= firstRelease || j.serving == nobody {
		return nil
	}
	tx, ok := db.(*sql.Tx)
	if !ok {
		return nil // outsiders has looked at it
	}
	text, err := j.text(version)
	if err != nil {
		return err
	}
	// Names are written as both see them.
	if _, err := tx.ExecContext(ctx, "RESET search_path"); err != nil {
		return err
	}
	before, err := read(ctx, j.db)
	if err != nil {
		return err
	}
	after, err := read(ctx, tx)
	if err != nil {
		return err
	}
	rows, err := touched(ctx, tx)
	if err != nil {
		return err
	}
	return excuse(text, append(findings(before, after), rows...), j.serving)
}

// outsiders refuses migrations outside a transaction, before any runs: what they do cannot be taken back.
func (j judge) outsiders(versions []int64) error {
	for _, version := range versions {
		text, err := j.text(version)
		if err != nil {
			return err
		}
		if !outside.MatchString(text) {
			continue
		}
		if err := concurrently(text); err != nil {
			return fmt.Errorf("migration %05d: %w", version, err)
		}
	}
	return nil
}

func (j judge) text(version int64) (string, error) {
	names, err := fs.Glob(j.files, fmt.Sprintf("%05d_*.sql", version))
	if err != nil || len(names) != 1 {
		return "", fmt.Errorf("migration %d is %d files: %w", version, len(names), err)
	}
	text, err := fs.ReadFile(j.files, names[0])
	return string(text), err
}

var (
	safeLine     = regexp.MustCompile(`(?m)^-- safe: (\w+) ([^:]+(?:::[^:]+)*): \S`)
	contractLine = regexp.MustCompile(`(?m)^-- contract: (\d{5})$`)
	outside      = regexp.MustCompile(`(?m)^-- \+goose NO TRANSACTION\s*$`)
	statements   = regexp.MustCompile(`(?s)-- \+goose Up(.*?)(?:-- \+goose Down|$)`)
	comments     = regexp.MustCompile(`(?m)--.*$`)
	online       = regexp.MustCompile(`(?i)^(CREATE (UNIQUE )?INDEX CONCURRENTLY|DROP INDEX CONCURRENTLY|ALTER TABLE \S+ VALIDATE CONSTRAINT)\s`)
	ifNotExists  = regexp.MustCompile(`(?i)CONCURRENTLY IF NOT EXISTS`)
)

// concurrently says whether a migration outside a transaction has only statements that let others work meanwhile, and that
// may be begun again.
func concurrently(text string) error {
	up := statements.FindStringSubmatch(text)
	if up == nil {
		return errors.New("a migration without an Up")
	}
	for statement := range strings.SplitSeq(comments.ReplaceAllString(up[1], ""), ";") {
		statement = strings.TrimSpace(statement)
		if statement == "" || strings.HasPrefix(strings.ToUpper(statement), "RESET ROLE") || strings.HasPrefix(strings.ToUpper(statement), "SET ROLE") {
			continue
		}
		if !online.MatchString(statement) {
			return fmt.Errorf("%w: outside a transaction may be only CREATE or DROP INDEX CONCURRENTLY and VALIDATE CONSTRAINT, not %q", errUnsafe, statement)
		}
		if ifNotExists.MatchString(statement) {
			return fmt.Errorf("%w: an index that was begun and not ended exists and is no good: DROP INDEX CONCURRENTLY IF EXISTS first, then CREATE: %q", errUnsafe, statement)
		}
	}
	return nil
}

// finding is something that a migration did to what was there before.
type finding struct {
	kind   string // rewrite, scan, index, rows: how long others wait; drop, narrow: what others may still use
	object string
	advice string
}

func (f finding) contracts() bool { return f.kind == "drop" || f.kind == "narrow" }

// excuse is an error that names the findings which the migration's text does not answer for.
func excuse(text string, found []finding, serving int64) error {
	safe := map[string]bool{}
	for _, m := range safeLine.FindAllStringSubmatch(text, -1) {
		safe[m[1]+" "+m[2]] = true
	}
	var since int64
	if m := contractLine.FindStringSubmatch(text); m != nil {
		since, _ = strconv.ParseInt(m[1], 10, 64)
	}
	var refusals []string
	for _, f := range found {
		switch {
		case safe[f.kind+" "+f.object]:
		case !f.contracts():
			refusals = append(refusals, fmt.Sprintf("%s %s: %s", f.kind, f.object, f.advice))
		case since == 0:
			refusals = append(refusals, fmt.Sprintf("%s %s: %s. Let a version serve that does not need it, and name the migration it came with: -- contract: NNNNN", f.kind, f.object, f.advice))
		case serving < since:
			refusals = append(refusals, fmt.Sprintf("%s %s: versions serve that know migrations up to %05d only, and those before %05d may use it", f.kind, f.object, serving, since))
		}
	}
	if refusals == nil {
		return nil
	}
	slices.Sort(refusals)
	return fmt.Errorf("%w:\n  %s", errUnsafe, strings.Join(slices.Compact(refusals), "\n  "))
}

// fact is one thing that the catalogue knows: of is the table it belongs to, if it does; state is what must not change.
type fact struct{ of, state string }

// facts are by kind and name, as in "column app.sessions.id".
type facts map[string]fact

// querier is a database, or a transaction in it.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// It asks for no expression in words: that would wait for tables which the migration has locked.
const catalogue = `
WITH ours AS (SELECT c.* FROM pg_class c WHERE c.relnamespace = 'app'::regnamespace)
SELECT 'table ' || oid::regclass, oid::regclass::text, relfilenode::text FROM ours WHERE relkind IN ('r', 'p', 'v', 'm')
UNION ALL
SELECT format('column %s.%s', a.attrelid::regclass, a.attname), a.attrelid::regclass::text,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod),
           CASE WHEN a.attnotnull THEN CASE WHEN a.atthasdef OR a.attidentity <> '' THEN 'given' ELSE 'required' END ELSE 'optional' END)
  FROM pg_attribute a JOIN ours ON ours.oid = a.attrelid WHERE a.attnum > 0 AND NOT a.attisdropped AND ours.relkind IN ('r', 'p', 'v', 'm')
UNION ALL
SELECT format('constraint %s on %s', conname, conrelid::regclass), conrelid::regclass::text,
       concat_ws(' ', contype, CASE WHEN convalidated THEN 'valid' ELSE 'later' END, conkey, confrelid::regclass, confkey, conbin)
  FROM pg_constraint JOIN ours ON ours.oid = conrelid WHERE contype IN ('c', 'f', 'x')
UNION ALL
SELECT 'index ' || indexrelid::regclass, indrelid::regclass::text, concat_ws(' ', CASE WHEN indisunique THEN 'unique' ELSE 'plain' END, indkey, indpred, indexprs)
  FROM pg_index JOIN ours ON ours.oid = indrelid
UNION ALL
SELECT 'function ' || oid::regprocedure, '', pg_get_function_result(oid) FROM pg_proc WHERE pronamespace = 'app'::regnamespace
UNION ALL
SELECT format('policy %s on %s', polname, polrelid::regclass), polrelid::regclass::text,
       concat_ws(' ', CASE WHEN polpermissive THEN 'permits' ELSE 'restricts' END, polcmd, polroles, polqual, polwithcheck)
  FROM pg_policy JOIN ours ON ours.oid = polrelid
UNION ALL
SELECT format('grant %s on %s to %s', a.privilege_type, ours.oid::regclass, a.grantee::regrole), ours.oid::regclass::text, ''
  FROM ours, aclexplode(ours.relacl) a WHERE a.grantee <> ours.relowner AND a.grantee <> 0
UNION ALL
SELECT format('grant %s on %s.%s to %s', a.privilege_type, attrelid::regclass, attname, a.grantee::regrole), attrelid::regclass::text, ''
  FROM pg_attribute JOIN ours ON ours.oid = attrelid, aclexplode(attacl) a WHERE a.grantee <> ours.relowner AND a.grantee <> 0 AND NOT attisdropped
UNION ALL
SELECT format('grant %s on %s to %s', a.privilege_type, p.oid::regprocedure, a.grantee::regrole), '', ''
  FROM pg_proc p, aclexplode(p.proacl) a WHERE pronamespace = 'app'::regnamespace AND a.grantee <> p.proowner AND a.grantee <> 0`

func read(ctx context.Context, db querier) (facts, error) {
	rows, err := db.QueryContext(ctx, catalogue)
	if err != nil {
		return nil, fmt.Errorf("read the catalogue: %w", err)
	}
	defer func() { _ = rows.Close() }()
	all := facts{}
	for rows.Next() {
		var name string
		var f fact
		if err := rows.Scan(&name, &f.of, &f.state); err != nil {
			return nil, err
		}
		all[name] = f
	}
	return all, rows.Err()
}

// touched finds the tables of which the transaction has changed many rows.
func touched(ctx context.Context, tx *sql.Tx) ([]finding, error) {
	rows, err := tx.QueryContext(ctx, `SELECT relid::regclass::text, n_tup_upd + n_tup_del FROM pg_stat_xact_user_tables WHERE n_tup_upd + n_tup_del > $1`, mostRows)
	if err != nil {
		return nil, fmt.Errorf("count the rows that were changed: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var found []finding
	for rows.Next() {
		var table string
		var n int64
		if err := rows.Scan(&table, &n); err != nil {
			return nil, err
		}
		found = append(found, finding{"rows", table, fmt.Sprintf("%d rows change at once, and stay locked until the end: change them in batches, before this migration", n)})
	}
	return found, rows.Err()
}

// findings compares the catalogue before and after. What was made anew, and what belongs to a table that was, harms nobody.
func findings(before, after facts) []finding {
	var found []finding
	add := func(kind, object, advice string) { found = append(found, finding{kind, object, advice}) }
	for _, name := range slices.Sorted(maps.Keys(before)) {
		kind, object, _ := strings.Cut(name, " ")
		old := before[name]
		now, kept := after[name]
		_, tableKept := after["table "+old.of]
		if !kept && kind != "table" && old.of != "" && !tableKept {
			continue // said of the table
		}
		switch kind {
		case "table":
			if !kept {
				add("drop", object, "it is gone")
			} else if now.state != old.state {
				add("rewrite", object, "it is written anew while nobody may read it: add a column beside, fill it in batches, and contract later")
			}
		case "column":
			changed, was := strings.Fields(now.state), strings.Fields(old.state)
			switch {
			case !kept:
				add("drop", object, "it is gone")
			case typeOf(changed) != typeOf(was):
				add("narrow", object, "its type is another")
			case changed[len(changed)-1] == "required" && was[len(was)-1] != "required":
				add("narrow", object, "a row without it was taken before")
				if was[len(was)-1] == "optional" {
					add("scan", old.of, "NOT NULL reads the whole table while nobody may use it: validate CHECK ("+object+" IS NOT NULL) first, then excuse this")
				}
			case changed[len(changed)-1] == "given" && was[len(was)-1] == "optional":
				add("narrow", object, "NULL was taken before")
			}
		case "index":
			if !kept && strings.HasPrefix(old.state, "unique") {
				add("drop", object, "ON CONFLICT of what serves may need it")
			}
		case "function":
			if !kept {
				add("drop", object, "what serves may call it")
			} else if now.state != old.state {
				add("narrow", object, "it answers with another type")
			}
		case "policy":
			if !kept || now.state != old.state {
				add("narrow", object, "it lets others see or write other rows")
			}
		case "grant":
			if !kept && after.has(object) {
				add("narrow", object, "who serves may need the right")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		kind, object, _ := strings.Cut(name, " ")
		now := after[name]
		old, known := before[name]
		if _, tableKnown := before["table "+now.of]; !tableKnown || now.of == "" {
			continue
		}
		switch {
		case kind == "column" && !known && strings.HasSuffix(now.state, "required"):
			add("narrow", object, "what serves inserts rows without it: give it a default")
		case kind == "constraint" && !known:
			add("narrow", object, "what serves may write rows that it refuses")
			if strings.Contains(now.state, " valid") {
				add("scan", now.of, "a constraint reads the whole table while nobody may write: add it NOT VALID, and validate it in a migration without a transaction")
			}
		case kind == "index" && !known:
			add("index", now.of, "nobody may write while "+object+" is built: CREATE INDEX CONCURRENTLY, in a migration with NO TRANSACTION")
			if strings.HasPrefix(now.state, "unique") {
				add("narrow", object, "what serves may write rows that it refuses")
			}
		case kind == "policy" && !known && strings.HasPrefix(now.state, "restricts"):
			add("narrow", object, "it takes rows from sight")
		case kind == "index" && known && old.state != now.state:
			add("narrow", object, "it is another index under the same name")
		}
	}
	return found
}

// typeOf is the type in a column's state, which ends with whether it is required.
func typeOf(state []string) string {
	if len(state) == 0 {
		return ""
	}
	return strings.Join(state[:len(state)-1], " ")
}

// has says whether what a grant is on is still there: a table, a column or a function.
func (f facts) has(grant string) bool {
	_, on, _ := strings.Cut(grant, " on ")
	on, _, _ = strings.Cut(on, " to ")
	for _, kind := range []string{"table ", "column ", "function "} {
		if _, ok := f[kind+on]; ok {
			return true
		}
	}
	return false
}
