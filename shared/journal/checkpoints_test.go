package journal_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/firestore"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// aMinuteLater makes the tenants' last checkpoints a minute older, which only who owns Firestore can do.
func (w *world) aMinuteLater(t testing.TB) {
	t.Helper()
	w.later(t, time.Minute)
}

func (w *world) later(t testing.TB, by time.Duration) {
	t.Helper()
	ctx := t.Context()
	client := w.owner(t)
	found, err := client.CollectionGroup("checkpoints").Documents(ctx).GetAll()
	must(t, err)
	for _, d := range found {
		at, err := d.DataAt("at")
		must(t, err)
		_, err = d.Ref.Update(ctx, []firestore.Update{{Path: "at", Value: at.(time.Time).Add(-by)}})
		must(t, err)
	}
}

func TestEachTenantWithNewEntriesHasACheckpointAMinute(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	w.acts(t, w.a, 3)
	w.acts(t, w.b, 1)
	if r := w.run(t); r.Written != 2 || r.Waiting != 0 || r.Off {
		t.Errorf("the first run: %+v", r)
	}
	if r := w.run(t); r.Written+r.Waiting != 0 {
		t.Errorf("nothing is new, and a run: %+v", r)
	}
	w.acts(t, w.a, 2)
	if r := w.run(t); r.Written != 0 || r.Waiting != 1 {
		t.Errorf("in the same minute: %+v", r)
	}
	w.aMinuteLater(t)
	if r := w.run(t); r.Written != 1 || r.Waiting != 0 {
		t.Errorf("a minute later: %+v", r)
	}
	if a, b := w.seqs(t, w.a), w.seqs(t, w.b); a != "[3 5]" || b != "[1]" {
		t.Errorf("checkpoints are %s and %s", a, b)
	}
}

func TestTheLastCheckpointOfAQuietTenantIsRenewedLongBeforeItExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	w.acts(t, w.a, 2)
	w.run(t)
	w.aMinuteLater(t)
	for _, at := range []struct {
		days int
		seqs string
	}{{364, "[2]"}, {366, "[2 2]"}} {
		later := w.checkpoints()
		later.Now = func() time.Time { return time.Now().Add(time.Duration(at.days) * 24 * time.Hour) }
		runOf(t, later)
		if got := w.seqs(t, w.a); got != at.seqs {
			t.Errorf("after %d days checkpoints are %s, and should be %s", at.days, got, at.seqs)
		}
	}
	points, err := w.journal.Checkpoints(t.Context(), w.a.UUID(), 0, 10)
	must(t, err)
	if c, r := w.verify(t, w.a, points); c.First != nil || c.Compared != 2 || len(r.Problems) != 0 {
		t.Errorf("verified is %+v, %+v", c, r)
	}
	// Each says when its end is: no earlier than a year after what is kept of it must be.
	found, err := w.owner(t).Collection("chains/" + w.a.String() + "/checkpoints").Documents(t.Context()).GetAll()
	must(t, err)
	for i, d := range found {
		expires, err := d.DataAt("expires")
		must(t, err)
		if left := time.Until(expires.(time.Time)); left < auditchain.CheckpointsKept+365*24*time.Hour {
			t.Errorf("checkpoint %d expires in %v", i+1, left)
		}
	}
}

func TestRunsAtOnceWriteACheckpointOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	for range 2 {
		w.acts(t, w.a, 2)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if _, err := w.checkpoints().Run(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		w.aMinuteLater(t)
	}
	if got := w.seqs(t, w.a); got != "[2 4]" {
		t.Errorf("checkpoints are %s", got)
	}
}

func TestARunThatDiedAfterItsCheckpointIsNotRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	w.acts(t, w.a, 2)
	w.run(t)
	w.aMinuteLater(t)
	if r := w.run(t); r.Written != 0 { // of an instance that does not know
		t.Errorf("it wrote again: %+v", r)
	}
	if got := w.seqs(t, w.a); got != "[2]" {
		t.Errorf("checkpoints are %s", got)
	}
}

func TestWhileFirestoreIsOutActsGoOnAndCheckpointsWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.PrivateFirestore(t))
	w.journal = open(t, w.firestore, 300*time.Millisecond)
	w.acts(t, w.a, 1)
	testenv.Eventually(t, 20*time.Second, func() error { // the emulator's first answers take longer
		_, err := w.checkpoints().Run(t.Context())
		return err
	})
	w.firestore.Pause(t)
	for range 2 {
		w.acts(t, w.a, 2)
		if _, err := w.checkpoints().Run(t.Context()); fault.As(err) == nil || fault.As(err).Kind != fault.KindUnavailable {
			t.Errorf("with Firestore out a run answers %v", err)
		}
	}
	w.firestore.Resume(t)
	w.journal = open(t, w.firestore, 5*time.Second)
	w.aMinuteLater(t)
	w.run(t)
	if got := w.seqs(t, w.a); got != "[1 5]" {
		t.Errorf("checkpoints are %s", got)
	}
	points, err := w.journal.Checkpoints(t.Context(), w.a.UUID(), 0, 10)
	must(t, err)
	if c, r := w.verify(t, w.a, points); c.First != nil || c.Compared != 2 || len(r.Problems) != 0 {
		t.Errorf("verified is %+v, %+v", c, r)
	}
}

// verify verifies a chain and compares it with its checkpoints.
func (w *world) verify(t testing.TB, tenant tenancy.ID, points []auditchain.Checkpoint) (*auditchain.Comparison, auditchain.Result) {
	t.Helper()
	comparison, _, result, err := audit.VerifyWith(t.Context(), w.db, tenant, points)
	must(t, err)
	return comparison, result
}

func TestARewrittenChainDisagreesWithTheFirstCheckpointAfterIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	for range 3 { // entries 2, 4 and 6 have checkpoints
		w.acts(t, w.a, 2)
		w.run(t)
		w.aMinuteLater(t)
	}
	points, err := w.journal.Checkpoints(t.Context(), w.a.UUID(), 0, 10)
	must(t, err)
	testenv.RewriteAudit(t, w.DB, w.a.UUID(), 3)
	comparison, result := w.verify(t, w.a, points)
	if len(result.Problems) != 0 {
		t.Fatalf("the rewritten chain is not whole: %v", result.Problems)
	}
	if comparison.First == nil || comparison.First.Checkpoint.Number != 2 || !strings.Contains(comparison.First.String(), "checkpoint 2 of ") ||
		!strings.HasSuffix(comparison.First.String(), "disagrees at entry 4: the entry was rewritten") {
		t.Errorf("the first that disagrees is %v", comparison.First)
	}
	// Nor is a checkpoint written over it.
	w.acts(t, w.a, 1)
	if r := w.run(t); r.Disagreeing != 1 || r.Written != 0 {
		t.Errorf("a run: %+v", r)
	}
	if !strings.Contains(w.log.Text(), "an audit chain is not the one of its last checkpoint") {
		t.Error("the log does not say so")
	}
}

func TestAChainThatWasCutDisagrees(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	w.acts(t, w.a, 5)
	w.run(t)
	points, err := w.journal.Checkpoints(t.Context(), w.a.UUID(), 0, 10)
	must(t, err)
	w.Exec(t, `UPDATE app.audit_chains SET (seq, hash, at) = (SELECT seq, hash, at FROM app.audit_entries WHERE seq = 3) WHERE seq > 0`)
	w.Exec(t, `DELETE FROM app.audit_entries WHERE seq > 3`)
	comparison, result := w.verify(t, w.a, points)
	if len(result.Problems) != 0 || comparison.First == nil || !strings.HasSuffix(comparison.First.String(), "disagrees at entry 5: the entry is not there") {
		t.Errorf("verified is %v, %v", comparison.First, result.Problems)
	}
}

func TestWhatWasDroppedBecauseItWasOldAgreesAndWhatWasYoungDoesNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	for range 2 {
		w.acts(t, w.a, 3)
		w.run(t)
		w.aMinuteLater(t)
	}
	w.Exec(t, `UPDATE app.audit_chains SET (start_seq, start_hash) = (SELECT seq, hash FROM app.audit_entries WHERE seq = 4) WHERE seq > 0`)
	w.Exec(t, `DELETE FROM app.audit_entries WHERE seq <= 4`)
	problems := func() []string {
		points, err := w.journal.Checkpoints(t.Context(), w.a.UUID(), 0, 10)
		must(t, err)
		comparison, result := w.verify(t, w.a, points)
		if len(result.Problems) != 0 || comparison.First != nil || comparison.Compared != 1 {
			t.Errorf("verified is %+v, %v", comparison, result.Problems)
		}
		return comparison.Problems(time.Now())
	}
	if said := problems(); len(said) != 1 || !strings.HasSuffix(said[0], "the entry 3 was dropped before it was old") {
		t.Errorf("of young entries that are gone it says %q", said)
	}
	w.later(t, auditchain.Kept)
	if said := problems(); len(said) != 0 {
		t.Errorf("of old entries that are gone it says %q", said)
	}
	w.Exec(t, `UPDATE app.audit_chains SET (start_seq, start_hash) = (seq, hash) WHERE seq > 0`)
	w.Exec(t, `DELETE FROM app.audit_entries`)
	if r := w.run(t); r.Disagreeing != 0 {
		t.Errorf("of old entries that are gone a run says %+v", r)
	}
	w.later(t, -auditchain.Kept)
	w.Exec(t, `UPDATE app.audit_chains SET (start_seq, start_hash, seq) = (seq + 1, decode(repeat('00', 32), 'hex'), seq + 1) WHERE seq > 0`)
	if r := w.run(t); r.Disagreeing != 1 {
		t.Errorf("of a chain that has dropped what is young a run says %+v", r)
	}
}

// Whatever the owner of the database does there, a run sees it that knows the chain, and one that begins to.
func TestARewriteIsSeenWhoeverOwnsTheDatabase(t *testing.T) {
	t.Parallel()
	for name, attack := range map[string]struct {
		rewrites bool
		sql      []string // $1 is the tenant
	}{
		"rewritten, and as long as it was": {rewrites: true},
		"said to be shorter":               {sql: []string{`UPDATE app.audit_chains SET seq = 1 WHERE tenant_id = $1`}},
		"said to be longer":                {rewrites: true, sql: []string{`UPDATE app.audit_chains SET seq = 1000000 WHERE tenant_id = $1`}},
		"deleted": {sql: []string{
			`DELETE FROM app.audit_entries WHERE tenant_id = $1`, `DELETE FROM app.audit_chains WHERE tenant_id = $1`, `DELETE FROM app.tenants WHERE id = $1`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testenv.Firestore(t))
			w.acts(t, w.a, 3)
			w.acts(t, w.b, 1)
			knows := w.checkpoints()
			if r := runOf(t, knows); r.Written != 2 {
				t.Fatalf("the first run: %+v", r)
			}
			if attack.rewrites {
				testenv.RewriteAudit(t, w.DB, w.a.UUID(), 2)
			}
			for _, sql := range attack.sql {
				w.Exec(t, sql, w.a.UUID())
			}
			for who, c := range map[string]*journal.Checkpoints{"that knows the chain": knows, "that has just started": w.checkpoints()} {
				if r := runOf(t, c); r.Disagreeing != 1 || len(r.Rewritten) != 1 || r.Rewritten[0] != w.a {
					t.Errorf("an instance %s says %+v", who, r)
				}
			}
		})
	}
}

func TestAnInstanceThatIsLiedToLooksForItselfOnceAnHour(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	w.acts(t, w.a, 3)
	now := time.Now()
	c := w.checkpoints()
	c.Now = func() time.Time { return now }
	runOf(t, c)
	head := testenv.Value[[]byte](t, w.DB, `SELECT hash FROM app.audit_chains WHERE tenant_id = $1`, w.a.UUID())
	w.Exec(t, fmt.Sprintf(`
		CREATE OR REPLACE FUNCTION app.audit_heads(p_after uuid, p_limit int) RETURNS TABLE (tenant_id uuid, seq bigint, hash bytea) LANGUAGE sql STABLE SECURITY DEFINER
		AS $$ SELECT '%s'::uuid, 3::bigint, decode('%x', 'hex') $$`, w.a, head))
	testenv.RewriteAudit(t, w.DB, w.a.UUID(), 2)
	if r := runOf(t, c); r.Disagreeing != 0 {
		t.Fatalf("it is not lied to: %+v", r)
	}
	now = now.Add(time.Hour)
	if r := runOf(t, c); r.Disagreeing != 1 {
		t.Errorf("an hour later: %+v", r)
	}
}

func TestEntriesThatShouldHaveACheckpointAndHaveNoneAreNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	w.acts(t, w.a, 2)
	w.run(t)
	w.acts(t, w.a, 2)
	points, err := w.journal.Checkpoints(t.Context(), w.a.UUID(), 0, 10)
	must(t, err)
	comparison, _ := w.verify(t, w.a, points)
	if said := comparison.Problems(time.Now()); len(said) != 0 {
		t.Errorf("a moment later it says %q", said)
	}
	if said := comparison.Problems(time.Now().Add(auditchain.Due + time.Minute)); len(said) != 1 || !strings.HasPrefix(said[0], "entry 3 of ") {
		t.Errorf("much later it says %q", said)
	}
}
