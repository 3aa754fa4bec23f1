package audit_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// store is a database with two tenants, as function admin sees it.
type store struct {
	*testenv.DB
	admin *tenancy.DB
	a, b  tenancy.ID
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := &store{DB: testenv.Postgres(t), a: tenancy.Verified(uuid.New()), b: tenancy.Verified(uuid.New())}
	for i, id := range []tenancy.ID{s.a, s.b} {
		s.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, $2, $2)`, id.UUID(), fmt.Sprintf("tenant-%d", i))
	}
	var err error
	s.admin, err = tenancy.OpenURL(t.Context(), s.URL("usher_admin"), tenancy.Config{MaxConns: 10}, testenv.Logs(t).Logger)
	must(t, err)
	t.Cleanup(s.admin.Close)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// act records an act, and leaves it to the caller what else is done with it.
func (s *store) act(ctx context.Context, tenant tenancy.ID, subject string) error {
	return s.admin.As(ctx, tenant, func(tx tenancy.Tx) error { return audit.Record(ctx, tx, suspended(subject)) })
}

func suspended(subject string) audit.Entry {
	return audit.Entry{
		Action: "license.suspended", Actor: "api_key:1", Credential: "api_key:1", Address: netip.MustParseAddr("2001:db8::1"),
		Subject: subject, RequestID: "r-1", Details: map[string]string{"reason": "Zürich – unpaid", "amount": "12", "Z": "", "a\"b": "\\"},
	}
}

func (s *store) acts(t testing.TB, tenant tenancy.ID, n int) {
	t.Helper()
	for i := range n {
		must(t, s.act(t.Context(), tenant, fmt.Sprintf("license:%d", i+1)))
	}
}

func (s *store) list(t testing.TB, tenant tenancy.ID, f audit.Filter) (all []auditchain.Entry) {
	t.Helper()
	must(t, s.admin.AsReadOnly(t.Context(), tenant, func(tx tenancy.Tx) (err error) {
		all, err = audit.List(t.Context(), tx, tenant, f, audit.End(), 1000)
		return err
	}))
	return all
}

// problems is what a verification names.
func (s *store) problems(t testing.TB, tenant tenancy.ID) string {
	t.Helper()
	_, result, err := audit.Verify(t.Context(), s.admin, tenant)
	must(t, err)
	var all []string
	for _, p := range result.Problems {
		all = append(all, p.String())
	}
	return strings.Join(all, "; ")
}

func TestWhatIsRecordedIsReadAndVerified(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.acts(t, s.a, 5)
	s.acts(t, s.b, 2)
	all := s.list(t, s.a, audit.Filter{})
	if len(all) != 5 || all[0].Seq != 5 || all[4].Seq != 1 {
		t.Fatalf("listed are %+v", all)
	}
	e, want := all[4], suspended("license:1")
	if e.Action != want.Action || e.Outcome != audit.Done || e.Actor != want.Actor || e.ByOperator || e.Credential != want.Credential ||
		e.Address != "2001:db8::1" || e.Subject != want.Subject || e.RequestID != want.RequestID || fmt.Sprint(e.Details) != fmt.Sprint(want.Details) {
		t.Errorf("recorded is %+v, want %+v", e, want)
	}
	chain, result, err := audit.Verify(t.Context(), s.admin, s.a)
	must(t, err)
	if result.Entries != 5 || len(result.Problems) != 0 || chain.Head.Seq != 5 || chain.Head.Hash != all[0].Hash {
		t.Errorf("verified is %+v to %+v", result, chain)
	}
	if _, result, err := audit.Verify(t.Context(), s.admin, tenancy.Verified(uuid.New())); err != nil || result.Entries != 0 || len(result.Problems) != 0 {
		t.Errorf("of nobody: %+v, %v", result, err)
	}
	// A client has them as JSON.
	raw, err := json.Marshal(all[0])
	must(t, err)
	var again auditchain.Entry
	must(t, json.Unmarshal(raw, &again))
	if auditchain.Sum(s.a.String(), &again) != all[0].Hash {
		t.Errorf("after a way as JSON %s has another hash", raw)
	}
}

func TestAnActThatIsUndoneLeavesNoEntry(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.acts(t, s.a, 1)
	undone := fmt.Errorf("undone")
	err := s.admin.As(t.Context(), s.a, func(tx tenancy.Tx) error {
		must(t, audit.Record(t.Context(), tx, suspended("license:9")))
		return undone
	})
	if err != undone { //nolint:errorlint // as it is
		t.Fatal(err)
	}
	s.acts(t, s.a, 1)
	if all := s.list(t, s.a, audit.Filter{}); len(all) != 2 || all[0].Seq != 2 || s.problems(t, s.a) != "" {
		t.Errorf("listed are %+v", all)
	}
}

// past has a tenant's entries happen in those months, counted back from now, each still chained to the one before.
func (s *store) past(t testing.TB, tenant tenancy.ID, back ...int) {
	t.Helper()
	s.acts(t, tenant, len(back))
	all := s.list(t, tenant, audit.Filter{})
	slices.Reverse(all)
	var previous auditchain.Hash
	for i, e := range all {
		e.At, e.Previous = s.month(back[i]).Add(time.Duration(i)*time.Hour), previous
		e.Hash = auditchain.Sum(tenant.String(), &e)
		previous = e.Hash
		s.Exec(t, `UPDATE app.audit_entries SET at = $3, previous = $4, hash = $5 WHERE tenant_id = $1 AND seq = $2`, tenant.UUID(), e.Seq, e.At, e.Previous[:], e.Hash[:])
		s.Exec(t, `UPDATE app.audit_chains SET at = $2, hash = $3 WHERE tenant_id = $1`, tenant.UUID(), e.At, e.Hash[:])
	}
}

// month is when the month began that was so many ago.
func (s *store) month(back int) time.Time {
	year, month, _ := time.Now().UTC().Date()
	return time.Date(year, month-time.Month(back), 1, 0, 0, 0, 0, time.UTC)
}

func TestMonthsOfTheLogAreDroppedAndWhatIsLeftIsVerified(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.months(t) // seven months ago there was none yet
	s.past(t, s.a, 7, 7, 6, 5, 5, 1, 0)
	s.past(t, s.b, 5, 2)
	before := s.list(t, s.a, audit.Filter{})
	fifth := auditchain.Link{Seq: 5, Hash: before[2].Hash}
	// However few days are asked for, 90 are kept: the newest three of these months stay, or two of them late in a month.
	if dropped := retain(t, s, 1); dropped != 3 && dropped != 4 {
		t.Errorf("dropped %d months", dropped)
	}
	if again := retain(t, s, 90); again != 0 {
		t.Errorf("dropped %d more", again)
	}
	point := auditchain.Checkpoint{Number: 2, Seq: fifth.Seq, Hash: fifth.Hash, At: s.month(5)}
	older := auditchain.Checkpoint{Number: 1, Seq: 2, Hash: auditchain.Hash{1}, At: s.month(7)} // of what nobody can say any more
	verify := func(tenant tenancy.ID, points ...auditchain.Checkpoint) (*auditchain.Comparison, auditchain.Chain, auditchain.Result) {
		t.Helper()
		comparison, chain, result, err := audit.VerifyWith(t.Context(), s.admin, tenant, points)
		must(t, err)
		return comparison, chain, result
	}
	comparison, chain, result := verify(s.a, older, point)
	if chain.Start != fifth || result.Entries != 2 || len(result.Problems) != 0 || comparison.First != nil || comparison.Compared != 1 {
		t.Errorf("verified is %+v of %+v, compared %+v", result, chain, comparison)
	}
	point.Hash[0]++
	if comparison, _, _ := verify(s.a, older, point); comparison.First == nil {
		t.Error("a checkpoint of the entry that was dropped last is not compared")
	}
	if _, chain, result := verify(s.b); chain.Start.Seq != 1 || result.Entries != 1 || len(result.Problems) != 0 {
		t.Errorf("verified of the other is %+v of %+v", result, chain)
	}
	// It goes on, and what was done to its beginning is found.
	s.acts(t, s.a, 1)
	if _, chain, result := verify(s.a); chain.Head.Seq != 8 || result.Entries != 3 || len(result.Problems) != 0 {
		t.Errorf("verified is %+v of %+v", result, chain)
	}
	s.Exec(t, `UPDATE app.audit_chains SET start_seq = 6, start_hash = sha256('6') WHERE tenant_id = $1`, s.a.UUID())
	if got := s.problems(t, s.a); got != "entry 6 was inserted; entry 7 was altered" {
		t.Errorf("a beginning that was moved by hand: %q", got)
	}
}

// retain drops what is older, and answers how many months that were.
func retain(t testing.TB, s *store, days int) (dropped int) {
	t.Helper()
	conn := s.Connect(t, "usher_expire")
	rows, err := conn.Query(t.Context(), `SELECT tenant_id FROM app.old_audit_tenants($1, $2, 1000)`, days, uuid.Nil)
	must(t, err)
	tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	must(t, err)
	for _, id := range tenants {
		_, err := conn.Exec(t.Context(), `SELECT set_config('app.current_tenant_id', $1, false)`, id.String())
		must(t, err)
		for gone := 1; gone > 0; {
			must(t, conn.QueryRow(t.Context(), `SELECT app.expire_audit($1)`, days).Scan(&gone))
		}
	}
	must(t, conn.QueryRow(t.Context(), `SELECT app.drop_audit($1)`, days).Scan(&dropped))
	return dropped
}

// months makes partitions of the last six.
func (s *store) months(t testing.TB) {
	t.Helper()
	for back := 1; back <= 6; back++ {
		m := s.month(back)
		s.Exec(t, fmt.Sprintf(`CREATE TABLE app.audit_entries_%s PARTITION OF app.audit_entries FOR VALUES FROM ('%s') TO ('%s');
			ALTER TABLE app.audit_entries_%[1]s OWNER TO usher_owner`, m.Format("2006_01"), m.Format(time.RFC3339), m.AddDate(0, 1, 0).Format(time.RFC3339)))
	}
}

// Of many tenants each is held up for its own entries alone: while one's are dropped, or cannot be, all others act, and theirs go.
func TestWhileATenantsOldEntriesGoOthersAct(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.months(t)
	s.past(t, s.a, 6, 5, 0)
	s.past(t, s.b, 6, 5)
	expire, err := tenancy.OpenURL(t.Context(), s.URL("usher_expire"), tenancy.Config{}, testenv.Logs(t).Logger)
	must(t, err)
	t.Cleanup(expire.Close)
	drop := func(tx tenancy.Tx) (n int, err error) {
		err = tx.QueryRow(t.Context(), `SELECT app.expire_audit(90)`).Scan(&n)
		return n, err
	}
	must(t, expire.As(t.Context(), s.a, func(tx tenancy.Tx) error {
		if n, err := drop(tx); err != nil || n != 2 {
			return fmt.Errorf("dropped are %d: %w", n, err)
		}
		// It is not committed: an act of the other's does not wait, and a month that still has entries is not dropped.
		if err := s.act(t.Context(), s.b, "license:1"); err != nil {
			return err
		}
		var months int
		if err := s.Connect(t, "usher_expire").QueryRow(t.Context(), `SELECT app.drop_audit(90)`).Scan(&months); err != nil || months != 0 {
			return fmt.Errorf("dropped are %d months that are not empty: %w", months, err)
		}
		return nil
	}))
	must(t, s.admin.As(t.Context(), s.a, func(tx tenancy.Tx) error {
		if err := audit.Record(t.Context(), tx, suspended("license:1")); err != nil {
			return err
		}
		// An act of one tenant that is not committed keeps nobody else's entries.
		return expire.As(t.Context(), s.b, func(tx tenancy.Tx) error {
			if n, err := drop(tx); err != nil || n != 2 {
				return fmt.Errorf("dropped are %d of the other's: %w", n, err)
			}
			return nil
		})
	}))
	if months := retain(t, s, 90); months < 2 {
		t.Errorf("dropped are %d months of which nothing was left", months)
	}
	for tenant, entries := range map[tenancy.ID]int64{s.a: 2, s.b: 1} {
		if _, result, err := audit.Verify(t.Context(), s.admin, tenant); err != nil || result.Entries != entries || len(result.Problems) != 0 {
			t.Errorf("verified is %+v, %v, want %d entries", result, err, entries)
		}
	}
}

// Entries go in parts, while others are recorded and read: at each moment the chain is whole from its start on.
func TestOldEntriesGoInPartsAndTheChainIsWholeAtEachMoment(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.months(t)
	s.past(t, s.a, 6)
	// As many more of that month as two parts have, each chained to the one before; verified is the end of it.
	s.Exec(t, `
		WITH RECURSIVE more AS (
		    SELECT e.seq, e.at, e.hash AS previous, e.hash FROM app.audit_entries e WHERE e.tenant_id = $1
		    UNION ALL
		    SELECT seq + 1, (at + interval '1 ms')::timestamptz(3), hash, sha256(seq::text::bytea) FROM more WHERE seq < 2100)
		INSERT INTO app.audit_entries
		SELECT e.tenant_id, m.at, m.seq, e.action, e.outcome, e.actor, e.by_operator, e.credential, e.address, e.subject, e.request_id, e.details, m.previous, m.hash
		  FROM more m, app.audit_entries e WHERE e.tenant_id = $1 AND m.seq > 1`, s.a.UUID())
	s.Exec(t, `UPDATE app.audit_chains c SET (seq, hash, at) = (SELECT e.seq, e.hash, e.at FROM app.audit_entries e WHERE e.tenant_id = $1 ORDER BY seq DESC LIMIT 1)
		WHERE tenant_id = $1`, s.a.UUID())
	conn := s.Connect(t, "usher_expire")
	_, err := conn.Exec(t.Context(), `SELECT set_config('app.current_tenant_id', $1, false)`, s.a.String())
	must(t, err)
	for _, want := range []struct{ gone, start int }{{2000, 2000}, {100, 2100}, {0, 2100}} {
		var gone int
		must(t, conn.QueryRow(t.Context(), `SELECT app.expire_audit(1)`).Scan(&gone))
		s.acts(t, s.a, 1)
		first := testenv.Value[string](t, s.DB, `
			SELECT concat_ws(' ', c.start_seq, c.start_hash = e.previous, e.seq - c.start_seq) FROM app.audit_chains c
			  JOIN LATERAL (SELECT * FROM app.audit_entries e WHERE e.tenant_id = c.tenant_id ORDER BY e.at, e.seq LIMIT 1) e ON true WHERE c.tenant_id = $1`, s.a.UUID())
		if gone != want.gone || first != fmt.Sprint(want.start, " t 1") {
			t.Errorf("%d are gone, and what is left begins with %q, want %+v", gone, first, want)
		}
	}
	if _, result, err := audit.Verify(t.Context(), s.admin, s.a); err != nil || result.Entries != 3 || len(result.Problems) != 0 {
		t.Errorf("verified is %+v, %v", result, err)
	}
}

func TestWhoseEntriesAreOldIsReadOffOncePerTenant(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.months(t)
	s.past(t, s.a, 6)
	s.past(t, s.b, 5, 0)
	s.Exec(t, `INSERT INTO app.audit_entries
		SELECT e.tenant_id, e.at + n * interval '1 ms', e.seq + n, e.action, e.outcome, e.actor, e.by_operator, e.credential, e.address, e.subject, e.request_id,
		       e.details, e.previous, e.hash FROM app.audit_entries e, generate_series(10, 2010) n`)
	expire := s.Connect(t, "usher_expire")
	var tenants int
	var read int64
	must(t, pgx.BeginFunc(t.Context(), expire, func(tx pgx.Tx) error {
		if err := tx.QueryRow(t.Context(), `SELECT count(*) FROM app.old_audit_tenants(90, $1, 1000)`, uuid.Nil).Scan(&tenants); err != nil {
			return err
		}
		return tx.QueryRow(t.Context(), `SELECT coalesce((SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables), 0)::bigint`).Scan(&read)
	}))
	if tenants != 2 || read > 100 {
		t.Errorf("%d tenants were found by reading %d rows", tenants, read)
	}
}

func TestVerificationNamesWhatASuperuserDid(t *testing.T) {
	t.Parallel()
	for _, done := range []struct{ what, sql, want string }{
		{"flipped", `UPDATE app.audit_entries SET outcome = 'refused' WHERE seq = 3`, "entry 3 was altered"},
		{"flipped a detail", `UPDATE app.audit_entries SET details = details || '{"amount": 12}' WHERE seq = 3`, "entry 3 was altered"},
		{"moved in time", `UPDATE app.audit_entries SET at = at + interval '1 ms' WHERE seq = 5`, "entry 5 was altered"},
		{"dropped", `DELETE FROM app.audit_entries WHERE seq = 2`, "entry 2 is missing"},
		{"dropped the last", `DELETE FROM app.audit_entries WHERE seq = 5`, "entry 5 is missing"},
		{"dropped the first", `DELETE FROM app.audit_entries WHERE seq = 1`, "entry 1 is missing"},
		{"inserted behind", `INSERT INTO app.audit_entries SELECT tenant_id, at, 6, action, outcome, actor, by_operator, credential, address,
			subject, request_id, details, hash, previous FROM app.audit_entries WHERE seq = 5`, "entry 6 was inserted"},
		{"inserted of a number that is there", `INSERT INTO app.audit_entries SELECT tenant_id, at + interval '1 ms', 5, action, outcome, actor, by_operator, credential, address,
			subject, request_id, details, previous, previous FROM app.audit_entries WHERE seq = 5`, "entry 5 was inserted"},
		{"dropped all", `DELETE FROM app.audit_entries`, "entries 1 to 5 are missing"},
	} {
		t.Run(done.what, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			s.acts(t, s.a, 5)
			if got := s.problems(t, s.a); got != "" {
				t.Fatalf("before anything was done: %s", got)
			}
			s.Exec(t, done.sql)
			if got := s.problems(t, s.a); got != done.want {
				t.Errorf("got %q, want %q", got, done.want)
			}
		})
	}
}

func TestNoFunctionWritesTheLogButByRecording(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.acts(t, s.a, 1)
	for _, role := range []string{"usher_admin", "usher_operator", "usher_sweep", "usher_acquire", "usher_validate", "usher_heartbeat", "usher_release"} {
		conn := s.Connect(t, role)
		for _, sql := range []string{
			`INSERT INTO app.audit_entries SELECT * FROM app.audit_entries`, `UPDATE app.audit_entries SET actor = 'x'`,
			`DELETE FROM app.audit_entries`, `TRUNCATE app.audit_entries`, `UPDATE app.audit_chains SET seq = 0`, `DELETE FROM app.audit_chains`,
			`INSERT INTO app.audit_chains (tenant_id) VALUES (gen_random_uuid())`, `DELETE FROM app.audit_entries_default`,
		} {
			if _, err := conn.Exec(t.Context(), sql); tenancy.Code(err) != "42501" {
				t.Errorf("%s: %s: %v", role, sql, err)
			}
		}
	}
}

func TestTheChainOutlivesItsOldEntries(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.acts(t, s.a, 6)
	s.Exec(t, `UPDATE app.audit_chains SET (start_seq, start_hash) = (SELECT seq, hash FROM app.audit_entries WHERE seq = 4) WHERE seq > 0`)
	s.Exec(t, `DELETE FROM app.audit_entries WHERE seq <= 4`)
	s.acts(t, s.a, 1)
	if got := s.problems(t, s.a); got != "" {
		t.Error(got)
	}
}

func TestActsAtOnceMakeOneChain(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			for range 5 {
				if err := s.act(t.Context(), s.a, "license:1"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if _, result, err := audit.Verify(t.Context(), s.admin, s.a); err != nil || result.Entries != 50 || len(result.Problems) != 0 {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestOneTenantsActsWaitForNoOtherTenant(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.acts(t, s.a, 1)
	err := s.admin.As(t.Context(), s.a, func(tx tenancy.Tx) error {
		if err := audit.Record(t.Context(), tx, suspended("license:1")); err != nil {
			return err
		}
		// While it is not committed the other tenant's are: the first of a chain, and the next.
		s.acts(t, s.b, 2)
		return nil
	})
	must(t, err)
	if got := s.problems(t, s.a) + s.problems(t, s.b); got != "" {
		t.Error(got)
	}
}

func TestARefusalIsRecordedOnceInAWhile(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	refuse := func(subject string) {
		t.Helper()
		e := suspended(subject)
		e.Refused = true
		must(t, s.admin.As(t.Context(), s.a, func(tx tenancy.Tx) error { return audit.RecordOnce(t.Context(), tx, e, time.Hour) }))
	}
	s.acts(t, s.a, 1)
	for range 3 {
		refuse("license:1")
		refuse("license:2")
	}
	if all := s.list(t, s.a, audit.Filter{Outcome: audit.Refused}); len(all) != 2 {
		t.Errorf("recorded are %+v", all)
	}
	if got := s.problems(t, s.a); got != "" {
		t.Error(got)
	}
}

func TestALongDetailIsCut(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := suspended("license:1")
	e.Details = map[string]string{"request": strings.Repeat("ü", 5000), "odd": "a\x00b\xff"}
	must(t, s.admin.As(t.Context(), s.a, func(tx tenancy.Tx) error { return audit.Record(t.Context(), tx, e) }))
	kept := s.list(t, s.a, audit.Filter{})[0].Details
	if kept["request"] != strings.Repeat("ü", 2000)+"…" || kept["odd"] != "a�b�" || s.problems(t, s.a) != "" {
		t.Errorf("kept is %.20q of %d bytes, and %q", kept["request"], len(kept["request"]), kept["odd"])
	}
}

// BenchmarkRecord is acts a second, of one tenant and of many, by ten callers at once.
func BenchmarkRecord(b *testing.B) {
	s := newStore(b)
	tenants := []tenancy.ID{s.a}
	for i := range 9 {
		id := tenancy.Verified(uuid.New())
		s.Exec(b, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, $2, $2)`, id.UUID(), fmt.Sprintf("more-%d", i))
		tenants = append(tenants, id)
	}
	for name, of := range map[string][]tenancy.ID{"one tenant": tenants[:1], "ten tenants": tenants} {
		b.Run(name, func(b *testing.B) {
			var all sync.WaitGroup
			for i := range 10 {
				all.Go(func() {
					for range b.N/10 + 1 {
						if err := s.act(b.Context(), of[i%len(of)], "license:1"); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acts/s")
		})
	}
}
