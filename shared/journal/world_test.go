package journal_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// world is a database with two tenants, and a journal.
type world struct {
	*testenv.DB
	firestore *testenv.FirestoreServer
	journal   *journal.Journal
	db        *tenancy.DB // as whoever writes checkpoints logs in
	a, b      tenancy.ID
	log       *testenv.LogCapture
}

func newWorld(t testing.TB, firestore *testenv.FirestoreServer) *world {
	t.Helper()
	w := &world{DB: testenv.Postgres(t), firestore: firestore, log: testenv.Logs(t), a: tenancy.Verified(uuid.New()), b: tenancy.Verified(uuid.New())}
	for i, id := range []tenancy.ID{w.a, w.b} {
		w.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, $2, $2)`, id.UUID(), fmt.Sprintf("tenant-%d", i))
	}
	var err error
	w.db, err = tenancy.OpenURL(t.Context(), w.URL("usher_incident"), tenancy.Config{MaxConns: 10}, w.log.Logger)
	must(t, err)
	t.Cleanup(w.db.Close)
	w.journal = open(t, firestore, 30*time.Second) // its first answers take long
	return w
}

func open(t testing.TB, firestore *testenv.FirestoreServer, timeout time.Duration) *journal.Journal {
	t.Helper()
	j, err := journal.New(context.Background(), journal.Config{
		Project: firestore.Project(), Database: "(default)", Emulator: firestore.Addr(), Timeout: timeout,
	})
	must(t, err)
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// acts records so many acts of a tenant.
func (w *world) acts(t testing.TB, tenant tenancy.ID, n int) {
	t.Helper()
	for i := range n {
		must(t, w.db.As(t.Context(), tenant, func(tx tenancy.Tx) error {
			return audit.Record(t.Context(), tx, audit.Entry{Action: "license.suspended", Actor: "user:1", Subject: fmt.Sprintf("license:%d", i)})
		}))
	}
}

// checkpoints are those of the world, of an instance that has just started. They are not signed by anybody here: that is functions/incident's test.
func (w *world) checkpoints() *journal.Checkpoints {
	return &journal.Checkpoints{
		DB: w.db, Journal: w.journal, Issuer: "https://usher.test", Now: time.Now, Log: w.log.Logger,
		Sign: func(_ context.Context, _ string, claims json.Marshaler) (string, error) {
			text, err := claims.MarshalJSON()
			return string(text), err
		},
	}
}

func (w *world) run(t testing.TB) journal.Report {
	t.Helper()
	return runOf(t, w.checkpoints())
}

// runOf is a run of an instance that may have run before.
func runOf(t testing.TB, c *journal.Checkpoints) journal.Report {
	t.Helper()
	report, err := c.Run(t.Context())
	must(t, err)
	return report
}

// seqs are those of a tenant's checkpoints.
func (w *world) seqs(t testing.TB, tenant tenancy.ID) string {
	t.Helper()
	all, err := w.journal.Checkpoints(t.Context(), tenant.UUID(), 0, 1000)
	must(t, err)
	var seqs []int64
	for i, c := range all {
		if c.Number != int64(i+1) || c.Tenant != tenant.String() {
			t.Errorf("checkpoint %d is number %d, of tenant %s", i+1, c.Number, c.Tenant)
		}
		seqs = append(seqs, c.Seq)
	}
	return fmt.Sprint(seqs)
}
