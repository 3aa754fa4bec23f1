package proof_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestProofPooler(t *testing.T) { //nolint:tparallel // its parts follow each other, each with the machine to itself
	t.Parallel()
	modes, tenants, each, seats, lease, during, losses := []string{"exec"}, 2, 8, 4, 2*time.Second, 5*time.Second, 1
	if testenv.Full() {
		modes, tenants, each, seats, lease, during, losses = []string{"cache_describe", "exec", "simple_protocol"}, 5, 16, 8, 3*time.Second, 40*time.Second, 4
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			pooled(t, mode, tenants, each, seats, lease, during, losses)
		})
	}
}

// pooled lets holders of several tenants live behind a pooler.
func pooled(t *testing.T, mode string, tenants, each, seats int, lease, during time.Duration, losses int) {
	t.Helper()
	w := New(t, Options{Pooled: true, Env: map[string]string{"DATABASE_EXEC_MODE": mode, "REDIS_TIMEOUT": patience, "LOG_LEVEL": "warn"}})
	p := w.StartSeating(t)
	of := map[uuid.UUID]int{}
	worlds, hosted := []*World{}, []*Hosted{}
	for i := range tenants {
		beside := w.Beside(t, fmt.Sprint("Tenant ", i))
		l := beside.Seats(t, seats, lease)
		of[l.ID] = seats
		worlds = append(worlds, beside)
		hosted = append(hosted, Party{
			Name:     beside.Tenant.String(), // and so every device of this tenant's
			Acquires: []string{p.Acquires[0].URL, p.Acquires[1].URL}, Heartbeat: p.Heartbeat.URL, Release: p.Release.URL,
			Guests: []Guests{{License: l, Number: each, Manner: Manner{Pace: lease / 10, Beat: lease / 8, Stay: lease / 2}}},
		}.Host(t))
	}
	began, rebuilds := time.Now(), []Span{}
	for range losses {
		time.Sleep(during / time.Duration(losses+1))
		from := Now()
		w.Redis.Do(t, "FLUSHALL")
		rebuilds = append(rebuilds, Span{From: from, To: from.Add(2 * lease)}) // a ghost of a rebuild stays for about a lease
	}
	time.Sleep(during / time.Duration(losses+1))
	AwaitLives(t, hosted, 3*tenants)
	took := time.Since(began)

	var lives []Life
	var count Count
	mixed, missing, rows := int64(0), int64(0), int64(0)
	for i, h := range hosted {
		some, counted := h.End(t)
		lives = append(lives, some...)
		count.Add(counted)
		var sessions []uuid.UUID
		for _, l := range some {
			sessions = append(sessions, l.Session)
		}
		tenant := worlds[i].Tenant.UUID()
		const all = `(SELECT id, tenant_id, hardware_id FROM app.open_sessions UNION ALL SELECT id, tenant_id, hardware_id FROM app.ended_sessions) s`
		mixed += testenv.Value[int64](t, w.DB, `SELECT count(*) FROM `+all+` WHERE (tenant_id = $1) <> (hardware_id LIKE $1::text || '-%')`, tenant)
		rows += testenv.Value[int64](t, w.DB, `SELECT count(*) FROM `+all+` WHERE tenant_id = $1`, tenant)
		missing += int64(len(sessions)) - testenv.Value[int64](t, w.DB, `SELECT count(*) FROM `+all+` WHERE tenant_id = $1 AND id = ANY($2)`, tenant, sessions)
	}
	v := Judge(Case{Lives: lives, Seats: of, Failovers: forgetful(rebuilds)})
	testenv.Proved(t, "pooler", "%s: %d holders of %d tenants, each with a licence of %d seats, for %s behind PgBouncer with 3 connections for each role; Redis was emptied %d times",
		mode, tenants*each, tenants, seats, took.Round(time.Second), losses)
	testenv.Proved(t, "pooler", "%s: %d sessions, each with exactly one row of its own tenant (%d rows in all): %d missing or double, %d rows of another tenant's device",
		mode, v.Lives, rows, missing, mixed)
	testenv.Proved(t, "pooler", "%s: %d heartbeats answered yes, %d requests were told to try later; over-admissions: %d, seats held twice: %d, live holders lost: %d, renewed after their release while pools were rebuilt: %d, and otherwise: %d",
		mode, count.Beats, count.Later, v.Over, v.Shared, len(v.Lost), v.Recalled, len(v.Revived))
	if !v.Holds() || mixed != 0 || missing != 0 {
		t.Errorf("the promise was broken: %+v, %d rows of another tenant's device, %d missing or double", v, mixed, missing)
	}
	for what, n := range count.Strange {
		t.Errorf("%d times a holder met: %s", n, what)
	}
	if v.Most < seats || v.Released < 3*tenants {
		t.Errorf("the proof has lost its load: %+v", v)
	}
	p.Each(func(each *Process) {
		for _, symptom := range []string{"prepared statement", "SQLSTATE", `"status":500`} {
			if text := each.Output(); strings.Contains(text, symptom) {
				t.Errorf("a process logged %q: %.3000s", symptom, text)
			}
		}
	})
}
