package migrations_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/coditect/usher/migrations"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

// beyond is a number that no migration of ours has.
const beyond = 90_000

// written is files of migrations in dir, up to number newest.
func written(t *testing.T, dir string, newest int64) fs.FS {
	t.Helper()
	all, files := os.DirFS(dir), fstest.MapFS{}
	names, err := fs.Glob(all, "*_*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var number int64
		if _, err := fmt.Sscanf(name, "%d_", &number); err != nil || number > newest {
			continue
		}
		text, err := fs.ReadFile(all, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: text}
	}
	return files
}

func TestEveryMigrationIsSafeUnderTheVersionBeforeIt(t *testing.T) {
	t.Parallel()
	db, ctx := testenv.EmptyPostgres(t), t.Context()
	url := db.URL(localenv.Superuser)
	_, newest := version(ctx, t, url)
	if err := migrations.UpFrom(ctx, url, written(t, ".", migrations.FirstRelease), -1, io.Discard); err != nil {
		t.Fatal(err)
	}
	for n := int64(migrations.FirstRelease) + 1; n <= newest; n++ {
		if err := migrations.UpFrom(ctx, url, written(t, ".", n), -1, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if have, _ := version(ctx, t, url); have != newest {
		t.Errorf("the version is %d of %d", have, newest)
	}
}

func TestAMigrationThatWhatServesDoesNotSurviveIsRefusedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	db, ctx := testenv.Postgres(t), t.Context()
	url := db.URL(localenv.Superuser)
	have, _ := version(ctx, t, url)
	db.Exec(t, `INSERT INTO app.products (code, name) SELECT 'p' || n, 'x' FROM generate_series(1, 10001) n`)
	const outside = "-- +goose NO TRANSACTION\n"
	for name, test := range map[string]struct{ sql, want string }{
		"a table is dropped":                   {`DROP TABLE app.trials CASCADE`, "drop app.trials: "},
		"a column is dropped":                  {`ALTER TABLE app.products DROP COLUMN name`, "drop app.products.name: "},
		"a column is renamed":                  {`ALTER TABLE app.products RENAME name TO title`, "drop app.products.name: "},
		"a function is dropped":                {`DROP FUNCTION app.make_history_partitions(integer)`, "drop app.make_history_partitions(integer): "},
		"a table is written anew":              {`ALTER TABLE app.products ADD COLUMN n uuid DEFAULT gen_random_uuid()`, "rewrite app.products: "},
		"a type changes":                       {`ALTER TABLE app.products ALTER name TYPE varchar(200)`, "narrow app.products.name: "},
		"a new column must be given":           {`DELETE FROM app.products; ALTER TABLE app.products ADD COLUMN n int NOT NULL`, "narrow app.products.n: "},
		"an old column must be given":          {`ALTER TABLE app.products ALTER created_at DROP DEFAULT`, "narrow app.products.created_at: "},
		"NULL is no longer taken":              {`ALTER TABLE app.licenses ALTER expires_at SET NOT NULL`, "scan app.licenses: "},
		"a constraint reads the table":         {`ALTER TABLE app.products ADD CONSTRAINT short CHECK (char_length(name) < 900)`, "scan app.products: "},
		"a constraint refuses new rows":        {`ALTER TABLE app.products ADD CONSTRAINT short CHECK (char_length(name) < 9) NOT VALID`, "narrow short on app.products: "},
		"writers wait for an index":            {`CREATE INDEX slow ON app.products (name)`, "index app.products: "},
		"an index refuses new rows":            {`CREATE UNIQUE INDEX one ON app.products (code, name)`, "narrow app.one: "},
		"what ON CONFLICT needs is dropped":    {`DROP INDEX app.incidents_one_open`, "drop app.incidents_one_open: "},
		"a right is taken":                     {`REVOKE SELECT ON app.products FROM usher_facts`, "narrow SELECT on app.products to usher_facts: "},
		"a policy is another":                  {`ALTER POLICY tenant ON app.licenses USING (false)`, "narrow tenant on app.licenses: "},
		"a policy restricts":                   {`CREATE POLICY less ON app.licenses AS RESTRICTIVE USING (false)`, "narrow less on app.licenses: "},
		"ten thousand rows change":             {`UPDATE app.products SET name = 'y'`, "rows app.products: 10001 rows"},
		"a contraction comes too early":        {"-- contract: 90000\nALTER TABLE app.products DROP COLUMN name", "versions serve that know migrations up to"},
		"an excuse for something else":         {"-- safe: index app.plans: it is small\nCREATE INDEX slow ON app.products (name)", "index app.products: "},
		"an excuse without a reason":           {"-- safe: index app.products:\nCREATE INDEX slow ON app.products (name)", "index app.products: "},
		"anything else outside a transaction":  {outside + `ALTER TABLE app.products DROP COLUMN name`, "outside a transaction may be only"},
		"an index that would stay half a one":  {outside + `CREATE INDEX CONCURRENTLY IF NOT EXISTS ok ON app.products (name)`, "DROP INDEX CONCURRENTLY IF EXISTS first"},
		"another name space does not hide it":  {`SET search_path = app; DROP TABLE trials CASCADE`, "drop app.trials: "},
		"a view of what serves is dropped":     {`CREATE TABLE app.fine (id int PRIMARY KEY); DROP TABLE app.stripe_events CASCADE`, "drop app.stripe_events: "},
		"a function answers with another type": {`DROP FUNCTION app.tenant() CASCADE; CREATE FUNCTION app.tenant() RETURNS text LANGUAGE sql AS $$SELECT ''$$`, "narrow app.tenant(): "},
	} {
		head, sql := "-- +goose Up\n", test.sql
		if rest, ok := strings.CutPrefix(sql, outside); ok {
			head, sql = outside+head, rest
		}
		if strings.Contains(sql, "$$") {
			sql = "-- +goose StatementBegin\n" + sql + ";\n-- +goose StatementEnd\n"
		} else {
			sql += ";\n"
		}
		files := fstest.MapFS{"90001_bad.sql": {Data: []byte(head + sql)}}
		err := migrations.UpFrom(ctx, url, files, -1, io.Discard)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "not safe under the version that serves") {
			t.Errorf("%s: the error is %v", name, err)
		}
		if now := testenv.Value[int64](t, db, `SELECT max(version_id) FROM `+versions(t, db)); now != have {
			t.Fatalf("%s: the version is %d", name, now)
		}
	}
}

// versions is the table in which goose keeps what was applied.
func versions(t *testing.T, db *testenv.DB) string {
	t.Helper()
	return testenv.Value[string](t, db, `SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = 'version_id'`)
}

func TestWhatEverybodySurvivesIsApplied(t *testing.T) {
	t.Parallel()
	db, ctx := testenv.Postgres(t), t.Context()
	number := beyond
	for _, sql := range []string{
		`CREATE TABLE app.more (id int PRIMARY KEY, of_product text NOT NULL REFERENCES app.products (code), CHECK (id > 0))`,
		`ALTER TABLE app.products ADD COLUMN note text, ADD COLUMN rank int NOT NULL DEFAULT 0; GRANT UPDATE (note) ON app.products TO usher_operator`,
		`ALTER TABLE app.products ALTER name DROP NOT NULL`,
		"-- safe: index app.products: it has few rows\nCREATE INDEX slow ON app.products (name)",
		`DROP INDEX app.slow`,
	} {
		number++
		files := fstest.MapFS{fmt.Sprintf("%05d_good.sql", number): {Data: []byte("-- +goose Up\n" + sql + ";\n")}}
		if err := migrations.UpFrom(ctx, db.URL(localenv.Superuser), files, -1, io.Discard); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	number++
	concurrent := "-- +goose NO TRANSACTION\n-- +goose Up\nDROP INDEX CONCURRENTLY IF EXISTS app.slow;\nCREATE INDEX CONCURRENTLY slow ON app.products (name);\n"
	files := fstest.MapFS{fmt.Sprintf("%05d_good.sql", number): {Data: []byte(concurrent)}}
	if err := migrations.UpFrom(ctx, db.URL(localenv.Superuser), files, -1, io.Discard); err != nil {
		t.Error(err)
	}
}

// What a column is called changes without anybody noticing: the version that writes the old one serves until the one that
// writes the new one does, and for as long as a rollback may bring it back.
func TestAColumnIsRenamedByExpandingAndContractingWhileBothVersionsServe(t *testing.T) {
	t.Parallel()
	db, ctx := testenv.Postgres(t), t.Context()
	const dir = "testdata/expand-and-contract"
	url := db.URL(localenv.Superuser)
	have, _ := version(ctx, t, url)
	operator := db.Connect(t, "usher_operator")
	exec := func(sql string) {
		t.Helper()
		if _, err := operator.Exec(ctx, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	apply := func(newest, serving int64) error {
		return migrations.UpFrom(ctx, url, written(t, dir, newest), serving, io.Discard)
	}
	// both writes as each of the versions does, and compares.
	both := func() {
		t.Helper()
		exec(`INSERT INTO app.products (code, name) VALUES ('old', 'Old') ON CONFLICT (code) DO UPDATE SET name = excluded.name, updated_at = now()`)
		exec(`INSERT INTO app.products (code, title) VALUES ('new', 'New') ON CONFLICT (code) DO UPDATE SET title = excluded.title, updated_at = now()`)
		exec(`UPDATE app.products SET title = 'Newer' WHERE code = 'old'`)
		exec(`UPDATE app.products SET name = 'Older' WHERE code = 'new'`)
		if n := testenv.Value[int](t, db, `SELECT count(*) FROM app.products WHERE name <> title OR (code = 'old') <> (name = 'Newer') AND code IN ('old', 'new')`); n != 0 {
			t.Errorf("%d rows differ", n)
		}
	}
	exec(`INSERT INTO app.products (code, name) SELECT 'p' || n, 'Product ' || n FROM generate_series(1, 2500) n`)

	if err := apply(90001, have); err != nil {
		t.Fatal(err)
	}
	both()
	backfill, err := os.ReadFile(dir + "/backfill.sql")
	if err != nil {
		t.Fatal(err)
	}
	batches := 0
	for db.Exec(t, string(backfill)) > 0 {
		batches++
	}
	if batches != 3 {
		t.Errorf("%d batches", batches)
	}
	if err := apply(90002, 90001); err != nil {
		t.Fatal(err)
	}
	both()
	// The versions that know 90001 alone still serve, or a rollback has brought one back.
	for _, serving := range []int64{have, 90001} {
		if err := apply(90003, serving); err == nil || !strings.Contains(err.Error(), "drop app.products.name: versions serve that know migrations up to") {
			t.Errorf("contracted while %d serves: %v", serving, err)
		}
	}
	both()
	if err := apply(90003, 90002); err != nil {
		t.Fatal(err)
	}
	exec(`INSERT INTO app.products (code, title) VALUES ('last', 'Last')`)
	if n := testenv.Value[int](t, db, `SELECT count(title) FROM app.products`); n != 2503 {
		t.Errorf("%d products have a title", n)
	}
}

func TestAMigrationDoesNotMakeEverybodyWaitForATableThatIsInUse(t *testing.T) {
	t.Parallel()
	db, ctx := testenv.Postgres(t), t.Context()
	user := db.Owner(t)
	tx, err := user.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `LOCK app.products IN ACCESS SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{"90001_note.sql": {Data: []byte("-- +goose Up\nALTER TABLE app.products ADD COLUMN note text;\n")}}
	var log bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- migrations.UpFrom(ctx, db.URL(localenv.Superuser), files, -1, &log) }()
	const waits = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'migrate' AND datname = current_database() AND wait_event_type = 'Lock'`
	for _, want := range []int{1, 0, 1} { // it waits, gives way, and comes back
		testenv.Eventually(t, 20*time.Second, func() error {
			if n := testenv.Value[int](t, db, waits); n != want {
				return fmt.Errorf("%d wait instead of %d", n, want)
			}
			return nil
		})
	}
	if err := tx.Rollback(context.WithoutCancel(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || !strings.Contains(log.String(), "a table is in use: trying again") {
		t.Errorf("%v\n%s", err, log.String())
	}
}

func TestWhoeverSaysThatWhatServesKnowsNothingIsBelieved(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	files := fstest.MapFS{"90001_bad.sql": {Data: []byte("-- +goose Up\n-- contract: 00022\nALTER TABLE app.products DROP COLUMN name;\n")}}
	err := migrations.UpFrom(t.Context(), db.URL(localenv.Superuser), files, 0, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "versions serve that know migrations up to 00000 only") {
		t.Errorf("the error is %v", err)
	}
}
