package migrations_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/coditect/usher/shared/platform/testenv"
)

// The wall around tenants, tried from outside: as every role that may log in, every verb on every table that holds rows
// of tenants. Tables, columns, keys and roles are read from the catalogue, so that what a later migration adds is tried
// without anybody thinking of it.

// seeds are the values that a row needs where one of the column's type will not do, as SQL. A foreign key needs none.
var seeds = map[string]string{
	"app.tenants.slug":                 `'t-' || gen_random_uuid()`,
	"app.licenses.seat_per":            `'device'`,
	"app.outbox.topic":                 `'license.changed'`,
	"app.license_keys.key_hash":        `sha256(gen_random_uuid()::text::bytea)`,
	"app.api_keys.key_hash":            `sha256(gen_random_uuid()::text::bytea)`,
	"app.open_sessions.seat_no":        `1 + (random() * 1000000)::int`,
	"app.ended_sessions.status":        `'released'`,
	"app.idempotency_keys.key_hash":    `sha256(gen_random_uuid()::text::bytea)`,
	"app.idempotency_keys.body_hash":   `sha256(gen_random_uuid()::text::bytea)`,
	"app.users.email":                  `'x@' || gen_random_uuid()`,
	"app.users.role":                   `'admin'`,
	"app.users.status":                 `'active'`,
	"app.users.issuer":                 `'https://issuer.example'`,
	"app.users.subject":                `gen_random_uuid()`,
	"app.users.token_hash":             `sha256(gen_random_uuid()::text::bytea)`,
	"app.users.invitation_expires_at":  `now()`,
	"app.audit_chains.hash":            `sha256('')`,
	"app.audit_chains.start_hash":      `sha256('')`,
	"app.audit_entries.action":         `'thing.done'`,
	"app.audit_entries.outcome":        `'done'`,
	"app.audit_entries.details":        `'{}'`,
	"app.audit_entries.previous":       `sha256('')`,
	"app.audit_entries.hash":           `sha256('')`,
	"app.mails.kind":                   `'welcome'`,
	"app.mails.data":                   `'{}'`,
	"app.events.type":                  `'thing.done'`,
	"app.events.data":                  `'{}'`,
	"app.webhooks.url":                 `'https://hooks.example'`,
	"app.webhooks.events":              `'{*}'`,
	"app.checkpoints.seq":              `1 + (random() * 1000000)::int`,
	"app.seat_hours.hour":              `date_trunc('hour', now(), 'UTC') - (random() * 1000000)::int * interval '1 hour'`,
	"app.billing_customers.stripe_id":  `gen_random_uuid()`,
	"app.billing_customers.deleted_at": `now()`,
	"app.subscriptions.status":         `'active'`,
	"app.subscriptions.ended_at":       `now()`,
	"app.subscriptions.cycle":          `'monthly'`,
	"app.stripe_events.status":         `'done'`,
	"app.trials.email_hash":            `sha256(gen_random_uuid()::text::bytea)`,
	"app.trials.hardware_hash":         `sha256(gen_random_uuid()::text::bytea)`,
	"app.usage_events.session_id":      `gen_random_uuid()`,
	"app.usage_months.month":           `date_trunc('month', now(), 'UTC') - (random() * 1000)::int * interval '1 month'`,
	"app.overdraft_counts.counted_to":  `date_trunc('hour', now(), 'UTC') - (random() * 1000000)::int * interval '1 hour'`,
	"app.usage_hours.hour":             `date_trunc('hour', now(), 'UTC') - (random() * 1000000)::int * interval '1 hour'`,
}

// values are by type what any row may have.
var values = map[string]string{
	"uuid": `gen_random_uuid()`, "text": `'x' || gen_random_uuid()`, "text[]": `'{}'`, "json": `'{}'`, "bytea": `'\x00'`,
	"smallint": `1`, "integer": `1`, "bigint": `1`, "numeric": `1`, "boolean": `false`, "date": `current_date`, "timestamp with time zone": `now()`,
}

// relation is a table that holds rows of tenants, or a partition of one.
type relation struct {
	Name    string // with its schema
	Table   string // the table it is a partition of, or its own name
	Tenant  string // the column that says whose a row is
	Key     string // of a partition: the column that decides, and a value that belongs here
	Value   string
	Columns []column
	Links   []link
}

type column struct {
	Name, Type string
	Needed     bool // a row cannot be without it
}

// link is a foreign key.
type link struct {
	To          string
	Here, There []string
}

const readRelations = walled + `
SELECT w.name AS "Name", coalesce(p.inhparent::regclass::text, w.name) AS "Table", w.col AS "Tenant",
       coalesce((SELECT k.attname FROM pg_partitioned_table d JOIN pg_attribute k ON k.attrelid = d.partrelid AND k.attnum = d.partattrs[0]
                  WHERE d.partrelid = p.inhparent), '') AS "Key",
       coalesce(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \((''[^'']+'')\)'), '''2000-01-01Z''') AS "Value",
       (SELECT json_agg(json_build_object('Name', a.attname, 'Type', format_type(a.atttypid, NULL),
               'Needed', a.attnotnull AND NOT a.atthasdef OR EXISTS (
                   SELECT FROM pg_index i WHERE i.indrelid = w.oid AND i.indisprimary AND a.attnum = ANY (i.indkey))) ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS "Columns",
       coalesce((SELECT json_agg(json_build_object('To', f.confrelid::regclass::text,
               'Here', (SELECT json_agg(a.attname ORDER BY u.n) FROM unnest(f.conkey) WITH ORDINALITY u (no, n) JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = u.no),
               'There', (SELECT json_agg(a.attname ORDER BY u.n) FROM unnest(f.confkey) WITH ORDINALITY u (no, n) JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = u.no)))
          FROM pg_constraint f WHERE f.conrelid = w.oid AND f.contype = 'f'), '[]') AS "Links"
  FROM walled w JOIN pg_class c ON c.oid = w.oid LEFT JOIN pg_inherits p ON p.inhrelid = w.oid
 ORDER BY w.oid`

// town is a database with two tenants, A and B, who have a row in every table.
type town struct {
	t         *testing.T
	db        *testenv.DB
	owner     *pgx.Conn
	relations []relation
	a, b      string
	rows      map[string]map[string]map[string]string // of a tenant, in a table: a row as the database has it
	faults    []string
}

func settle(t *testing.T, db *testenv.DB) *town {
	t.Helper()
	w := &town{
		t: t, db: db, owner: db.Owner(t), a: uuid.Must(uuid.NewV7()).String(), b: uuid.Must(uuid.NewV7()).String(),
		rows: map[string]map[string]map[string]string{},
	}
	rows, err := w.owner.Query(t.Context(), readRelations)
	if err == nil {
		w.relations, err = pgx.CollectRows(rows, pgx.RowToStructByName[relation])
	}
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `INSERT INTO app.products (code, name) VALUES ('p', 'p')`)
	db.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('p-1', 'p', 'p')`)
	for _, tenant := range []string{w.a, w.b} {
		w.rows[tenant] = map[string]map[string]string{}
		for left := w.relations; len(left) > 0; { // what others refer to comes first
			var later []relation
			for _, r := range left {
				if slices.ContainsFunc(r.Links, func(l link) bool { return w.isWalled(l.To) && w.rows[tenant][l.To] == nil }) {
					later = append(later, r)
				} else {
					w.seed(r, tenant)
				}
			}
			if len(later) == len(left) {
				t.Fatalf("tables that refer to each other in a circle: %v", later)
			}
			left = later
		}
	}
	return w
}

func (w *town) isWalled(table string) bool {
	return slices.ContainsFunc(w.relations, func(r relation) bool { return r.Name == table })
}

// seed gives the tenant a row.
func (w *town) seed(r relation, tenant string) {
	w.t.Helper()
	row := w.row(r, tenant, tenant)
	names := slices.Sorted(maps.Keys(row))
	var made map[string]*string
	err := w.owner.QueryRow(w.t.Context(), fmt.Sprintf(`INSERT INTO %s AS made (%s) VALUES (%s)
		RETURNING (SELECT json_object_agg(key, value) FROM json_each_text(row_to_json(made)))`,
		r.Name, strings.Join(names, ", "), pick(row, names))).Scan(&made)
	if err != nil {
		w.t.Fatalf("%s: no row could be made: %v. Tell `seeds` in isolation_test.go what its columns ask for.", r.Name, err)
	}
	w.rows[tenant][r.Name] = map[string]string{}
	for name, value := range made {
		if value != nil {
			w.rows[tenant][r.Name][name] = *value
		}
	}
}

// row is a new row of the tenant, column by column in SQL. Where it refers to something, that is the other's.
func (w *town) row(r relation, tenant, other string) map[string]string {
	w.t.Helper()
	row := map[string]string{}
	for _, c := range r.Columns {
		if value, ok := seeds[r.Table+"."+c.Name]; ok {
			row[c.Name] = value
		} else if value, ok := values[c.Type]; c.Needed && ok {
			row[c.Name] = value
		} else if c.Needed {
			w.t.Fatalf("%s.%s: no value of type %s is known. Tell `values` or `seeds` in isolation_test.go one.", r.Name, c.Name, c.Type)
		}
	}
	for _, l := range r.Links {
		for i, here := range l.Here {
			if w.isWalled(l.To) {
				row[here] = quote(w.rows[other][l.To][l.There[i]])
			} else {
				row[here] = quote(testenv.Value[string](w.t, w.db, fmt.Sprintf(`SELECT %s::text FROM %s LIMIT 1`, l.There[i], l.To)))
			}
		}
	}
	if r.Key != "" {
		row[r.Key] = r.Value
	}
	row[r.Tenant] = quote(tenant)
	return row
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func pick(row map[string]string, names []string) string {
	var picked []string
	for _, name := range names {
		picked = append(picked, row[name])
	}
	return strings.Join(picked, ", ")
}

// contents is a digest of all that each tenant has.
func (w *town) contents() map[string]string {
	w.t.Helper()
	var parts []string
	for _, r := range w.relations {
		parts = append(parts, fmt.Sprintf(`SELECT '%[1]s of ' || %[2]s, count(*) || ' rows ' || md5(string_agg(x::text, '' ORDER BY x::text)) FROM %[1]s x GROUP BY %[2]s`,
			r.Name, r.Tenant))
	}
	rows, err := w.owner.Query(w.t.Context(), strings.Join(parts, " UNION ALL "))
	if err != nil {
		w.t.Fatal(err)
	}
	all := map[string]string{}
	var what, digest string
	if _, err := pgx.ForEachRow(rows, []any{&what, &digest}, func() error { all[what] = digest; return nil }); err != nil {
		w.t.Fatal(err)
	}
	return all
}

// visitor is somebody connected as one role.
type visitor struct {
	*town
	role string
	conn *pgconn.PgConn
	may  map[string]rights
}

// rights are the columns of a table that a role may select, insert and update, and whether it may delete.
type rights struct {
	selects, inserts, updates []string
	deletes                   bool
}

func (w *town) visit(role string) *visitor {
	w.t.Helper()
	v := &visitor{town: w, role: role, conn: w.db.Connect(w.t, role).PgConn(), may: map[string]rights{}}
	for _, r := range w.relations {
		var m rights
		err := w.owner.QueryRow(w.t.Context(), `
			SELECT coalesce(array_agg(attname::text) FILTER (WHERE has_column_privilege($1, attrelid, attnum, 'SELECT')), '{}'),
			       coalesce(array_agg(attname::text) FILTER (WHERE has_column_privilege($1, attrelid, attnum, 'INSERT')), '{}'),
			       coalesce(array_agg(attname::text) FILTER (WHERE has_column_privilege($1, attrelid, attnum, 'UPDATE')), '{}'),
			       has_table_privilege($1, $2::regclass, 'DELETE')
			  FROM pg_attribute WHERE attrelid = $2::regclass AND attnum > 0 AND NOT attisdropped`, role, r.Name,
		).Scan(&m.selects, &m.inserts, &m.updates, &m.deletes)
		if err != nil {
			w.t.Fatal(err)
		}
		v.may[r.Name] = m
	}
	return v
}

// setting is what the role says whose transaction it is.
type setting struct{ name, sql string }

var (
	unset   = setting{"with no tenant", ""}
	emptied = setting{"with no tenant any more", `SELECT set_config('app.current_tenant_id', '', true)`}
	garbage = setting{"with garbage for a tenant", `SELECT set_config('app.current_tenant_id', 'garbage', true)`}
)

// settings are those that a statement is tried with. Whoever lacks the privilege is refused before any policy is asked: that
// is tried once.
func (v *visitor) settings(allowed bool) []setting {
	if !allowed {
		return []setting{as(v.a)}
	}
	return []setting{unset, as(v.a), emptied, garbage}
}

func as(tenant string) setting {
	return setting{"as its tenant", `SELECT set_config('app.current_tenant_id', ` + quote(tenant) + `, true)`}
}

// outcome is what a statement answered.
type outcome struct {
	rows  []string // their first column
	count int      // rows seen or touched
	code  string   // SQLSTATE when it was refused
}

const (
	refused   = "42501" // no privilege, or not what the policy lets in
	noParent  = "23503" // a foreign key that leads nowhere
	integrity = "23"    // any constraint: the row was reached
)

// try runs one statement in a transaction of its own, which is committed or rolled back.
func (v *visitor) try(s setting, commit bool, sql string) outcome {
	v.t.Helper()
	script, at := "BEGIN; "+sql, 1
	if s.sql != "" {
		script, at = "BEGIN; "+s.sql+"; "+sql, 2
	}
	if commit {
		script += "; COMMIT"
	} else {
		script += "; ROLLBACK"
	}
	var o outcome
	results := v.conn.Exec(v.t.Context(), script)
	for n := 0; results.NextResult(); n++ {
		result := results.ResultReader()
		for result.NextRow() {
			if n == at {
				o.rows = append(o.rows, string(result.Values()[0]))
			}
		}
		tag, err := result.Close()
		if err == nil && n == at {
			o.count = int(tag.RowsAffected())
		}
	}
	err := results.Close()
	o.code = code(err)
	if err != nil && o.code == "" {
		v.t.Fatalf("%s: %s: %v", v.role, sql, err)
	}
	if err != nil {
		if _, err := v.conn.Exec(v.t.Context(), "ROLLBACK").ReadAll(); err != nil {
			v.t.Fatal(err)
		}
	}
	return o
}

func (v *visitor) fault(s setting, sql string, o outcome, format string, args ...any) {
	v.faults = append(v.faults, fmt.Sprintf("%s %s: %s: %s (rows %q, %d touched, SQLSTATE %q)", v.role, s.name, sql, fmt.Sprintf(format, args...), o.rows, o.count, o.code))
}

// own is how many rows the relation has of tenant A.
func (v *visitor) own(r relation) int {
	if v.isPartitioned(r) {
		n := 1
		for _, p := range v.relations {
			if p.Table == r.Name && p.Name != r.Name {
				n++
			}
		}
		return n
	}
	if r.Key != "" && strings.HasSuffix(r.Name, "_default") {
		return 2 // and that of the parent
	}
	return 1
}

func (v *visitor) isPartitioned(r relation) bool {
	return slices.ContainsFunc(v.relations, func(p relation) bool { return p.Table == r.Name && p.Name != r.Name })
}

// reads tries every way to see rows.
func (v *visitor) reads(r relation) {
	v.t.Helper()
	may := v.may[r.Name]
	what := "1"
	seesTenant := slices.Contains(may.selects, r.Tenant)
	if seesTenant {
		what = r.Tenant
	}
	for _, lock := range []string{"", " FOR UPDATE", " FOR NO KEY UPDATE", " FOR SHARE", " FOR KEY SHARE"} {
		if lock != "" && len(may.selects) == 0 {
			break // refused for want of the same right
		}
		sql := "SELECT " + what + " FROM " + r.Name + lock
		allowed := len(may.selects) > 0 && (lock == "" || len(may.updates) > 0)
		for _, s := range v.settings(allowed) {
			o := v.try(s, false, sql)
			switch {
			case !allowed && o.code != refused:
				v.fault(s, sql, o, "answered without a privilege")
			case !allowed:
			case s == garbage && o.code == "":
				v.fault(s, sql, o, "answered")
			case s == garbage:
			case o.code != "":
				v.fault(s, sql, o, "refused in spite of a privilege")
			case s != as(v.a) && o.count != 0:
				v.fault(s, sql, o, "sees rows")
			case s == as(v.a) && o.count != v.own(r):
				v.fault(s, sql, o, "sees %d rows, has %d", o.count, v.own(r))
			case s == as(v.a) && seesTenant && slices.ContainsFunc(o.rows, func(t string) bool { return t != v.a }):
				v.fault(s, sql, o, "sees another's row")
			}
		}
		if !allowed || !seesTenant {
			continue
		}
		sql = fmt.Sprintf("SELECT 1 FROM %s WHERE %s = '%s'%s", r.Name, r.Tenant, v.b, lock)
		if o := v.try(as(v.a), false, sql); o.count != 0 || o.code != "" {
			v.fault(as(v.a), sql, o, "looks for another's row")
		}
	}
	// A role that could read with row-level security off would be above it: for the others that is an error.
	sql := "SET LOCAL row_security = off; SELECT 1 FROM " + r.Name
	if o := v.try(as(v.a), false, sql); o.code != refused {
		v.fault(as(v.a), sql, o, "row-level security is off")
	}
}

// inserts tries to make rows for another, for nobody, and such that point at another's.
func (v *visitor) inserts(r relation) {
	v.t.Helper()
	insert := func(row map[string]string) string {
		names := slices.Sorted(maps.Keys(row))
		if may := v.may[r.Name].inserts; len(may) > 0 {
			names = slices.DeleteFunc(names, func(name string) bool { return !slices.Contains(may, name) })
		}
		return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", r.Name, strings.Join(names, ", "), pick(row, names))
	}
	mine, theirs, me := v.row(r, v.a, v.a), v.row(r, v.b, v.b), as(v.a)
	if r.Tenant == "id" { // a tenant itself: a new one
		fresh := uuid.Must(uuid.NewV7()).String()
		mine, theirs, me = v.row(r, fresh, ""), v.row(r, uuid.Must(uuid.NewV7()).String(), ""), as(fresh)
	}
	sql := insert(mine)
	o := v.try(me, false, sql)
	if len(v.may[r.Name].inserts) == 0 {
		if o.code != refused {
			v.fault(me, sql, o, "answered without a privilege")
		}
		return
	}
	if o.count != 1 {
		v.fault(me, sql, o, "its own row is refused, so that the refusal of another's proves nothing")
	}
	for _, s := range []setting{unset, emptied, garbage} {
		if o := v.try(s, true, sql); o.code == "" || s != garbage && o.code != refused {
			v.fault(s, sql, o, "is to be refused")
		}
	}
	sql = insert(theirs)
	if o := v.try(as(v.a), true, sql); o.code != refused {
		v.fault(as(v.a), sql, o, "another's row is to be refused")
	}
	if r.Tenant == "id" {
		return
	}
	for _, l := range r.Links {
		if !v.isWalled(l.To) || len(l.Here) == 1 && l.Here[0] == r.Tenant {
			continue
		}
		sql := insert(v.row(r, v.a, v.b))
		if o := v.try(as(v.a), true, sql); o.code != noParent && o.code != refused {
			v.fault(as(v.a), sql, o, "a row may point at another's")
		}
	}
}

// updates tries to change rows: every column of another's, everybody's, and whose a row is.
func (v *visitor) updates(r relation) {
	v.t.Helper()
	may := v.may[r.Name]
	row := v.row(r, v.a, v.a)
	for i, c := range r.Columns {
		if i > 0 && len(may.updates) == 0 {
			break // the same want of a right refuses each
		}
		value, ok := row[c.Name]
		if !ok {
			if value, ok = values[c.Type]; !ok {
				value = "DEFAULT"
			}
		}
		v.changes(r, fmt.Sprintf("UPDATE %s SET %s = %s", r.Name, c.Name, value), slices.Contains(may.updates, c.Name))
	}
	sql := fmt.Sprintf("UPDATE %s SET %s = '%s'", r.Name, r.Tenant, v.b)
	if o := v.try(as(v.a), false, sql); o.code != refused {
		v.fault(as(v.a), sql, o, "a row may be given to another")
	}
	for _, l := range r.Links {
		if !v.isWalled(l.To) {
			continue
		}
		for i, here := range l.Here {
			if here == r.Tenant || !slices.Contains(may.updates, here) {
				continue
			}
			sql := fmt.Sprintf("UPDATE %s SET %s = %s", r.Name, here, quote(v.rows[v.b][l.To][l.There[i]]))
			if o := v.try(as(v.a), false, sql); o.code != noParent && o.code != refused {
				v.fault(as(v.a), sql, o, "a row may point at another's")
			}
		}
	}
}

// changes tries a statement that changes every row it can reach.
func (v *visitor) changes(r relation, sql string, allowed bool) {
	v.t.Helper()
	for _, s := range v.settings(allowed) {
		mine := s == as(v.a)
		o := v.try(s, !mine, sql)
		switch {
		case !allowed && o.code != refused:
			v.fault(s, sql, o, "answered without a privilege")
		case !allowed:
		case s == garbage && o.code == "":
			v.fault(s, sql, o, "answered")
		case s == garbage:
		case mine && strings.HasPrefix(o.code, integrity):
		case o.code != "":
			v.fault(s, sql, o, "refused in spite of a privilege")
		case !mine && o.count != 0, mine && o.count != v.own(r):
			v.fault(s, sql, o, "reaches %d rows", o.count)
		}
	}
	if allowed && slices.Contains(v.may[r.Name].selects, r.Tenant) {
		sql += fmt.Sprintf(" WHERE %s = '%s'", r.Tenant, v.b)
		if o := v.try(as(v.a), true, sql); o.count != 0 || o.code != "" {
			v.fault(as(v.a), sql, o, "reaches another's row")
		}
	}
}

// besiege tries everything, as the roles and on the relations named (none named: on all), and answers what the wall let
// through.
func (w *town) besiege(roles []string, relations ...string) []string {
	w.t.Helper()
	w.faults = nil
	for _, role := range roles {
		before := w.contents()
		v := w.visit(role)
		for _, r := range w.relations {
			if len(relations) > 0 && !slices.Contains(relations, r.Name) {
				continue
			}
			v.reads(r)
			v.inserts(r)
			v.updates(r)
			v.changes(r, "DELETE FROM "+r.Name, v.may[r.Name].deletes)
			for _, sql := range []string{"TRUNCATE " + r.Name, "TRUNCATE " + r.Name + " CASCADE"} {
				if o := v.try(as(w.a), false, sql); o.code != refused {
					v.fault(as(w.a), sql, o, "is to be refused")
				}
			}
		}
		after := w.contents()
		for _, what := range slices.Sorted(maps.Keys(before)) {
			if before[what] != after[what] {
				w.faults = append(w.faults, fmt.Sprintf("%s: %s: had %s, has %s", role, what, before[what], after[what]))
			}
		}
		for _, what := range slices.Sorted(maps.Keys(after)) {
			if before[what] == "" {
				w.faults = append(w.faults, fmt.Sprintf("%s: %s: had nothing, has %s", role, what, after[what]))
			}
		}
	}
	return w.faults
}

func TestNoRoleReachesAnotherTenantsRowsByAnyVerb(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	db.Exec(t, `SELECT app.make_history_partitions(2)`)
	w := settle(t, db)
	contents := w.contents()
	for _, r := range w.relations {
		for _, tenant := range []string{w.a, w.b} {
			if contents[r.Name+" of "+tenant] == "" {
				t.Fatalf("%s: a tenant has no row: nothing would be proved", r.Name)
			}
		}
	}
	roles := testenv.Values[string](t, db, `SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND NOT rolsuper ORDER BY rolname`)
	if len(roles) < 7 || len(w.relations) < 12 {
		t.Fatalf("found only the roles %q and %d tables", roles, len(w.relations))
	}
	for _, fault := range w.besiege(roles) {
		t.Error(fault)
	}
}

// The same test, on databases with a hole in the wall.
func TestTheSiegeFindsEachPlantedHole(t *testing.T) {
	t.Parallel()
	const notes = `
		CREATE TABLE app.notes (tenant_id uuid NOT NULL REFERENCES app.tenants (id), id uuid NOT NULL, PRIMARY KEY (tenant_id, id));
		GRANT SELECT, INSERT, UPDATE, DELETE ON app.notes TO usher_acquire`
	for _, planted := range []struct{ name, mistake, role, table, want string }{
		{"policy shows all", `ALTER POLICY tenant ON app.open_sessions USING (true)`, "usher_acquire", "app.open_sessions", "sees 2 rows, has 1"},
		{"policy lets others' rows in", `ALTER POLICY tenant ON app.open_sessions WITH CHECK (true)`, "usher_release", "app.open_sessions", "another's row is to be refused"},
		{"a second policy", `CREATE POLICY more ON app.devices FOR DELETE USING (true)`, "usher_admin", "app.devices", "app.devices of"},
		{"a second policy for reading", `CREATE POLICY more ON app.devices FOR SELECT TO usher_seats USING (hostname IS NULL)`, "usher_sweep", "app.devices", "sees 2 rows"},
		{"nobody is everybody", `ALTER POLICY tenant ON app.devices USING (app.tenant() IS NULL OR tenant_id = app.tenant())`, "usher_sweep", "app.devices", "with no tenant: SELECT"},
		{
			"garbage is nobody", `CREATE OR REPLACE FUNCTION app.tenant() RETURNS uuid LANGUAGE plpgsql STABLE AS
			$$ BEGIN RETURN nullif(current_setting('app.current_tenant_id', true), '')::uuid; EXCEPTION WHEN others THEN RETURN NULL; END $$`,
			"usher_validate", "app.licenses", "with garbage for a tenant",
		},
		{"no row-level security", `ALTER TABLE app.outbox DISABLE ROW LEVEL SECURITY`, "usher_admin", "app.outbox", "row-level security is off"},
		{"an owner, not forced", `ALTER TABLE app.devices OWNER TO usher_acquire; ALTER TABLE app.devices NO FORCE ROW LEVEL SECURITY`, "usher_acquire", "app.devices", "sees 2 rows"},
		{"truncate for everybody", `GRANT TRUNCATE ON app.devices TO PUBLIC`, "usher_validate", "app.devices", "TRUNCATE app.devices: is to be refused"},
		{
			"a key without the tenant", `
			ALTER TABLE app.licenses ADD UNIQUE (id);
			ALTER TABLE app.devices DROP CONSTRAINT devices_tenant_id_license_id_fkey, ADD FOREIGN KEY (license_id) REFERENCES app.licenses (id)`,
			"usher_acquire", "app.devices", "a row may point at another's",
		},
		{"rows change hands", `GRANT UPDATE ON app.devices TO usher_acquire; ALTER POLICY tenant ON app.devices WITH CHECK (true)`, "usher_acquire", "app.devices", "a row may be given to another"},
		{
			"a partition in reach", `
			ALTER TABLE app.ended_sessions_default DISABLE ROW LEVEL SECURITY; GRANT SELECT ON app.ended_sessions_default TO usher_sweep`,
			"usher_sweep", "app.ended_sessions_default", "sees 4 rows, has 2",
		},
		{
			"a trigger that writes to others", `
			CREATE FUNCTION app.tidy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN DELETE FROM app.outbox; RETURN NULL; END $$;
			CREATE TRIGGER tidy AFTER UPDATE ON app.open_sessions FOR EACH STATEMENT EXECUTE FUNCTION app.tidy()`,
			"usher_admin", "app.open_sessions", "app.outbox of",
		},
		{"a later table without a wall", notes, "usher_acquire", "app.notes", "sees 2 rows"},
	} {
		t.Run(planted.name, func(t *testing.T) {
			t.Parallel()
			db := testenv.Postgres(t)
			db.Exec(t, planted.mistake)
			found := settle(t, db).besiege([]string{planted.role}, planted.table)
			if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, planted.want) }) {
				t.Errorf("%q is not among what was found:\n%s", planted.want, strings.Join(found, "\n"))
			}
		})
	}
}

// The functions that look across tenants answer what they are for; those that write sessions act for one tenant.
func TestSessionFunctionsLeaveAnotherTenantAlone(t *testing.T) {
	t.Parallel()
	w := settle(t, testenv.Postgres(t))
	before := w.contents()
	license, session := w.rows[w.b]["app.open_sessions"]["license_id"], w.rows[w.b]["app.open_sessions"]["id"]
	for _, s := range []setting{as(w.a), unset} {
		v := w.visit("usher_acquire")
		for sql, want := range map[string]string{
			fmt.Sprintf(`SELECT app.session_close('%s', NULL, '{%s}', '{released}', '{x}', '{x}', '{now}')`, license, session): "ok",
			fmt.Sprintf(`SELECT app.session_close('%s', 0, '{%s}', '{released}', '{x}', '{x}', '{now}')`, license, session):    "epoch",
			fmt.Sprintf(`SELECT app.seat_open('%s', gen_random_uuid(), 7, 0, 1, 'x', 'x', NULL, NULL, NULL, '', NULL, '{%s}', '{released}', '{x}', '{x}', '{now}')`,
				license, session): "epoch",
			fmt.Sprintf(`SELECT app.seats_open('{%s}', ARRAY[gen_random_uuid()], '{7}', '{0}', '{1}', '{x}', '{x}', '{NULL}', '{NULL}', '{NULL}', '{x}', '{NULL}',
				'{1}', '{%s}', '{released}', '{x}', '{x}', '{now}')`, license, session): "{busy}",
			fmt.Sprintf(`SELECT count(*)::text FROM app.sessions_release('{%s}', '{%s}', '{released}', '{x}', '{x}', '{now}')`, license, session):          "0",
			fmt.Sprintf(`SELECT count(*)::text FROM app.sessions_release_unlocked('{%s}', '{%s}', '{released}', '{x}', '{x}', '{now}')`, license, session): "0",
		} {
			if o := v.try(s, true, sql); len(o.rows) != 1 || o.rows[0] != want {
				t.Errorf("%s: %s answers %q (SQLSTATE %q), want %s", s.name, sql, o.rows, o.code, want)
			}
		}
	}
	if after := w.contents(); !maps.Equal(before, after) {
		t.Errorf("had %v, has %v", before, after)
	}
}
