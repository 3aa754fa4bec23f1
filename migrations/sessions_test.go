package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

// seats is one tenant's licence, and callers who open and close sessions on it as the function acquire does.
type seats struct {
	t               *testing.T
	db              *testenv.DB
	pool            *pgxpool.Pool
	tenant, license uuid.UUID
	many            bool // opens by seats_open instead of seat_open
}

const epoch = 7 // of a new licence here

// sell makes a licence of three seats.
func sell(t *testing.T) *seats {
	t.Helper()
	s := &seats{t: t, db: testenv.Postgres(t), tenant: newID(), license: newID()}
	s.db.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, 'a', 'a')`, s.tenant)
	s.db.Exec(t, `INSERT INTO app.products (code, name) VALUES ('p', 'p')`)
	s.db.Exec(t, `INSERT INTO app.plans (code, product_code, name) VALUES ('p-1', 'p', 'p')`)
	s.db.Exec(t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, overdraft_seats, ttl_seconds, seat_per,
			offline_grace_seconds, drain_seconds, seat_epoch) VALUES ($1, $2, 'p', 'p-1', 2, 1, 60, 'device', 0, 3600, $3)`, s.tenant, s.license, epoch)
	config, err := pgxpool.ParseConfig(s.db.URL("usher_acquire"))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 16
	if s.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pool.Close)
	return s
}

func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// alter changes licences or tenants; the triggers on them write as the tenant.
func (s *seats) alter(table, set string) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.db.URL(localenv.Superuser))
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = conn.Exec(s.t.Context(), fmt.Sprintf(`SET app.current_tenant_id = '%s'; UPDATE app.%s SET %s`, s.tenant, table, set))
	if err := errors.Join(err, conn.Close(s.t.Context())); err != nil {
		s.t.Fatal(err)
	}
}

// ask runs a query under the tenant in one transaction, committed.
func (s *seats) ask(ctx context.Context, sql string, args ...any) (answer string, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('app.current_tenant_id', $1, true)`, s.tenant.String()); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql, args...).Scan(&answer)
	})
	return answer, err
}

// try opens a session and answers the verdict. The sessions it displaces are closed as lapsed.
func (s *seats) try(ctx context.Context, session uuid.UUID, seat int, epoch any, hardware string, displaced ...uuid.UUID) (string, error) {
	gone := append([]uuid.UUID{}, displaced...)
	if s.many {
		verdict, err := s.tryMany(ctx, opening{session, seat, epoch, hardware, displaced})
		return strings.Trim(verdict, "{}"), err
	}
	return s.ask(ctx, `SELECT app.seat_open($1, $2, $3, $4, 1, $5, $6, NULL, NULL, NULL, '1.0.0', '{"k":1,  "k": 1e400}', $7,
		array_fill('lapsed'::text, ARRAY[cardinality($7::uuid[])]), array_fill('lease_expired'::text, ARRAY[cardinality($7::uuid[])]),
		array_fill(''::text, ARRAY[cardinality($7::uuid[])]), array_fill(NULL::timestamptz, ARRAY[cardinality($7::uuid[])]))`,
		s.license, session, seat, epoch, "device:"+hardware, hardware, gone)
}

// opening is one of those that are opened together.
type opening struct {
	session   uuid.UUID
	seat      int
	epoch     any
	hardware  string
	displaced []uuid.UUID
}

// tryMany opens sessions together and answers the verdicts as PostgreSQL writes a list: {ok,seat_held}.
func (s *seats) tryMany(ctx context.Context, all ...opening) (string, error) {
	var licenses, sessions, gone []uuid.UUID
	var seats, goneOf []int
	var epochs []*int64
	var holders, hardware []string
	for i, o := range all {
		licenses, sessions, seats = append(licenses, s.license), append(sessions, o.session), append(seats, o.seat)
		var e *int64
		switch v := o.epoch.(type) {
		case int:
			e = new(int64(v))
		case int64:
			e = &v
		}
		epochs, holders, hardware = append(epochs, e), append(holders, "device:"+o.hardware), append(hardware, o.hardware)
		for _, id := range o.displaced {
			gone, goneOf = append(gone, id), append(goneOf, i+1)
		}
	}
	return s.ask(ctx, `SELECT app.seats_open($1, $2, $3, $4, array_fill(1::bigint, c), $5, $6, n, n, n, array_fill('1.0.0'::text, c),
			array_fill('{"k":1,  "k": 1e400}'::text, c), coalesce($7::int[], '{}'), coalesce($8::uuid[], '{}'),
			array_fill('lapsed'::text, g), array_fill('lease_expired'::text, g), array_fill(''::text, g), array_fill(NULL::timestamptz, g))::text
		FROM (SELECT ARRAY[cardinality($1::uuid[])], ARRAY[coalesce(cardinality($8::uuid[]), 0)], array_fill(NULL::text, ARRAY[cardinality($1::uuid[])])) x (c, g, n)`,
		licenses, sessions, seats, epochs, holders, hardware, goneOf, gone)
}

// eachWay runs a test of opening by seat_open, and of opening by seats_open.
func eachWay(t *testing.T, test func(t *testing.T, s *seats)) {
	t.Helper()
	for name, many := range map[string]bool{"alone": false, "together": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sell(t)
			s.many = many
			test(t, s)
		})
	}
}

func (s *seats) open(want string, session uuid.UUID, seat int, epoch any, hardware string, displaced ...uuid.UUID) {
	s.t.Helper()
	got, err := s.try(s.t.Context(), session, seat, epoch, hardware, displaced...)
	if err != nil || got != want {
		s.t.Fatalf("opening seat %d in epoch %v for %s answers %q (%v), want %s", seat, epoch, hardware, got, err, want)
	}
}

func (s *seats) close(want string, epoch any, session uuid.UUID, status, reason string) {
	s.t.Helper()
	got, err := s.ask(s.t.Context(), `SELECT app.session_close($1, $2, ARRAY[$3]::uuid[], ARRAY[$4::text], ARRAY[$5::text], '{holder}', '{NULL}')`,
		s.license, epoch, session, status, reason)
	if err != nil || got != want {
		s.t.Fatalf("closing in epoch %v answers %q (%v), want %s", epoch, got, err, want)
	}
}

// is checks what the database has of a session: "open on SEAT", "STATUS REASON" of an ended one, or "nothing".
func (s *seats) is(session uuid.UUID, want string) {
	s.t.Helper()
	got := testenv.Value[string](s.t, s.db, `SELECT coalesce(string_agg(x, ' and '), 'nothing') FROM (
		SELECT 'open on ' || seat_no FROM app.open_sessions WHERE id = $1 UNION ALL
		SELECT status || ' ' || end_reason FROM app.ended_sessions WHERE id = $1) s (x)`, session)
	if got != want {
		s.t.Errorf("the session is %q, want %q", got, want)
	}
}

// knows checks which devices are known.
func (s *seats) knows(want ...string) {
	s.t.Helper()
	if got := testenv.Values[string](s.t, s.db, `SELECT hardware_id FROM app.devices ORDER BY hardware_id`); !slices.Equal(got, want) {
		s.t.Errorf("devices %q are known, want %q", got, want)
	}
}

func (s *seats) openSessions() int {
	s.t.Helper()
	return testenv.Value[int](s.t, s.db, `SELECT count(*) FROM app.open_sessions`)
}

func TestSeatOpenSaysWhyNot(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *seats) {
		t.Helper()
		one, two := newID(), newID()
		s.open("epoch", one, 1, epoch-1, "h1")
		s.open("epoch", one, 1, epoch+1, "h1")
		s.open("epoch", one, 1, nil, "h1")
		s.open("limit", one, 4, epoch, "h1")
		s.is(one, "nothing")
		s.open("ok", one, 1, epoch, "h1")
		s.is(one, "open on 1")
		s.open("seat_held", two, 1, epoch, "h2")
		s.is(two, "nothing")
		s.knows("h1")
		s.open("ok", two, 3, epoch, "h2")
		if over := testenv.Values[bool](t, s.db, `SELECT overdraft FROM app.open_sessions ORDER BY seat_no`); !slices.Equal(over, []bool{false, true}) {
			t.Errorf("seats 1 and 3 of 2 + 1 are overdrafts: %v", over)
		}
		stranger, unknown := *s, "epoch"
		if s.many {
			unknown = "busy"
		}
		stranger.license = newID()
		stranger.open(unknown, newID(), 2, epoch, "h3")
		stranger = *s
		stranger.tenant = newID()
		stranger.open(unknown, newID(), 2, epoch, "h3")

		for _, state := range []string{
			`status = 'suspended'`, `status = 'revoked'`, `starts_at = now() + interval '1 hour'`, `expires_at = now()`,
			`expires_at = now() - interval '2 hours', grace_until = now() - interval '1 hour'`,
		} {
			s.alter("licenses", state)
			s.open("suspended", newID(), 2, epoch, "h3")
			s.open("ok", one, 1, epoch, "h1") // it is open already
			s.alter("licenses", `status = 'active', starts_at = NULL, expires_at = NULL, grace_until = NULL`)
		}
		s.alter("licenses", `expires_at = now() - interval '1 hour', grace_until = now() + interval '1 hour'`)
		s.alter("tenants", `status = 'suspended'`)
		s.open("suspended", newID(), 2, epoch, "h3")
		s.alter("tenants", `status = 'active'`)
		s.open("ok", newID(), 2, epoch, "h3")

		s.alter("licenses", `max_devices = 3`)
		s.open("too_many_devices", newID(), 1, epoch, "h4", one)
		s.is(one, "open on 1") // refused: nothing is displaced
		s.knows("h1", "h2", "h3")
		s.alter("licenses", `max_seats = 1, overdraft_seats = 0`)
		s.open("limit", newID(), 2, epoch, "h3")
	})
}

func TestSeatOpenIsIdempotentAndNeverReopens(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *seats) {
		t.Helper()
		one, two := newID(), newID()
		s.open("ok", one, 1, epoch, "h1")
		s.open("ok", one, 1, epoch, "h1")
		s.alter("licenses", `seat_epoch = seat_epoch + 1`)
		s.open("epoch", one, 1, epoch, "h1") // what an older world knows of a session is worth nothing, though it is open
		s.open("ok", one, 1, epoch+1, "h1")
		s.close("ok", nil, one, "released", "released")
		s.is(one, "released released")
		s.open("epoch", one, 1, epoch, "h1")
		s.open("ended", one, 1, epoch+1, "h1")
		s.open("ended", one, 1, epoch+1, "h9")
		s.knows("h1")
		s.close("ok", nil, one, "evicted", "again")
		s.is(one, "released released")

		// What is displaced ends in the same transaction; what had ended stays as it was.
		s.open("ok", two, 1, epoch+1, "h2")
		s.open("ok", newID(), 1, epoch+1, "h3", one, two)
		s.is(one, "released released")
		s.is(two, "lapsed lease_expired")
		if got := testenv.Value[string](t, s.db, `SELECT format('%s %s %s %s', seat_no, holder, version, metadata) FROM app.ended_sessions WHERE id = $1`, two); got != `1 device:h2 1.0.0 {"k":1,  "k": 1e400}` {
			t.Errorf("the history of a session is %s", got)
		}
	})
}

func TestSessionCloseOnEvidenceDemandsItsEpoch(t *testing.T) {
	t.Parallel()
	s := sell(t)
	one := newID()
	s.open("ok", one, 1, epoch, "h1")
	s.close("epoch", epoch-1, one, "lapsed", "lease_expired")
	s.close("epoch", epoch+1, one, "lapsed", "lease_expired")
	s.is(one, "open on 1")
	s.close("ok", epoch, one, "lapsed", "lease_expired")
	s.is(one, "lapsed lease_expired")
	s.close("ok", epoch, newID(), "lapsed", "lease_expired") // nobody's
	if n := testenv.Value[int](t, s.db, `SELECT count(*) FROM app.ended_sessions`); n != 1 {
		t.Errorf("the history has %d rows, want 1", n)
	}

	two := newID()
	s.open("ok", two, 1, epoch, "h1")
	s.db.Exec(t, `UPDATE app.open_sessions SET evicted_at = now() - interval '1 minute', evict_reason = 'misuse', evicted_by = 'ada'`)
	s.open("ok", two, 1, epoch, "h1")
	s.close("ok", nil, two, "released", "released") // an eviction that was answered outranks it
	s.is(two, "evicted misuse")
	if by := testenv.Value[string](t, s.db, `SELECT ended_by FROM app.ended_sessions WHERE id = $1 AND ended_at < now()`, two); by != "ada" {
		t.Errorf("it was ended by %q", by)
	}

	four := newID()
	s.open("ok", four, 1, epoch, "h1")
	if _, err := s.ask(t.Context(), `SELECT app.session_close($1, NULL, ARRAY[$2]::uuid[], '{vanished}', '{x}', '{x}', '{now}')`, s.license, four); code(err) != "23514" {
		t.Errorf("a status that there is not: %v", err)
	}
	s.is(four, "open on 1")
}

// together runs fn so many times at once and counts the answers.
func together(t *testing.T, times int, fn func(n int) (string, error)) map[string]int {
	t.Helper()
	var (
		all     sync.WaitGroup
		mu      sync.Mutex
		answers = map[string]int{}
		start   = make(chan struct{})
	)
	for n := range times {
		all.Go(func() {
			<-start
			answer, err := fn(n)
			if err != nil {
				answer = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			answers[answer]++
		})
	}
	close(start)
	all.Wait()
	return answers
}

func TestOneOfTwoOpenersGetsTheSeat(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *seats) {
		t.Helper()
		for round := range 10 {
			got := together(t, 8, func(n int) (string, error) {
				return s.try(t.Context(), newID(), 1, epoch, fmt.Sprint("h", n))
			})
			if got["ok"] != 1 || got["seat_held"] != 7 || s.openSessions() != 1 {
				t.Fatalf("round %d: 8 openers of one seat: %v, and %d sessions", round, got, s.openSessions())
			}
			s.db.Exec(t, `DELETE FROM app.open_sessions`)
		}
	})
}

func TestOpenersOfOneSessionAllHearYesOnce(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *seats) {
		t.Helper()
		for round := range 10 {
			session := newID()
			got := together(t, 8, func(int) (string, error) { return s.try(t.Context(), session, 1, epoch, "h") })
			if got["ok"] != 8 || s.openSessions() != 1 {
				t.Fatalf("round %d: 8 openers of one session: %v, and %d sessions", round, got, s.openSessions())
			}
			s.close("ok", nil, session, "released", "released")
		}
	})
}

func TestNoOpenerRevivesASessionThatAnotherEnds(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *seats) {
		t.Helper()
		for round := range 30 {
			session := newID()
			got := together(t, 6, func(n int) (string, error) {
				if n%3 > 0 {
					return s.try(t.Context(), session, 1, epoch, "h")
				}
				return s.ask(t.Context(), `SELECT 'close ' || app.session_close($1, NULL, ARRAY[$2]::uuid[], '{released}', '{released}', '{x}', '{NULL}')`, s.license, session)
			})
			// An opener that meets the row of another at the moment when that is closed may be told that the seat is held.
			if got["close ok"] != 2 || got["ok"]+got["ended"]+got["seat_held"] != 4 {
				t.Fatalf("round %d: %v", round, got)
			}
			s.close("ok", nil, session, "released", "released")
			s.is(session, "released released")
		}
	})
}

func TestNoTwoNewDevicesAreTheLastOne(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *seats) {
		t.Helper()
		s.alter("licenses", `max_devices = 3, max_seats = 100`)
		for round := range 8 {
			got := together(t, 10, func(n int) (string, error) {
				return s.try(t.Context(), newID(), n+1, epoch, fmt.Sprint("h", n/2)) // each device twice
			})
			devices := testenv.Value[int](t, s.db, `SELECT count(*) FROM app.devices`)
			if got["ok"] != 6 || got["too_many_devices"] != 4 || devices != 3 {
				t.Fatalf("round %d: %v, and %d devices of 3", round, got, devices)
			}
			s.db.Exec(t, `DELETE FROM app.open_sessions`)
			s.db.Exec(t, `DELETE FROM app.devices`)
		}
	})
}

func TestOfManyOpenedTogetherEachHearsItsOwnVerdict(t *testing.T) {
	t.Parallel()
	s := sell(t)
	s.alter("licenses", `max_seats = 9`)
	sits, left, ended := newID(), newID(), newID()
	s.open("ok", sits, 1, epoch, "h1")
	s.open("ok", left, 2, epoch, "h2")
	s.open("ok", ended, 3, epoch, "h3")
	s.close("ok", nil, ended, "released", "released")
	plain, after, device := newID(), newID(), newID()
	got, err := s.tryMany(t.Context(),
		opening{plain, 5, epoch, "new", nil},
		opening{newID(), 1, epoch, "h4", nil},
		opening{after, 2, epoch, "h4", []uuid.UUID{left, newID()}},
		opening{ended, 3, epoch, "h3", nil},
		opening{newID(), 4, epoch - 1, "h5", nil},
		opening{newID(), 11, epoch, "h5", nil},
		opening{plain, 5, epoch, "new", nil},
		opening{device, 6, epoch, "new", []uuid.UUID{ended, newID()}},
		opening{sits, 1, epoch, "h1", nil},
	)
	if want := "{ok,seat_held,ok,ended,epoch,limit,ok,ok,ok}"; err != nil || got != want {
		t.Errorf("heard %s (%v), want %s", got, err, want)
	}
	s.is(plain, "open on 5")
	s.is(after, "open on 2")
	s.is(left, "lapsed lease_expired")
	s.is(ended, "released released")
	s.is(device, "open on 6")
	s.knows("h1", "h2", "h3", "h4", "new")
	if n := s.openSessions(); n != 4 {
		t.Errorf("%d sessions are open, want 4", n)
	}
}

func TestOpeningTogetherDoesNotWaitForALicence(t *testing.T) {
	t.Parallel()
	s := sell(t)
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), fmt.Sprintf(`SET LOCAL app.current_tenant_id = '%s'; SELECT FROM app.licenses FOR NO KEY UPDATE`, s.tenant))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.tryMany(t.Context(), opening{newID(), 1, epoch, "h", nil}); got != "{busy}" {
		t.Errorf("while its licence is changed an opening hears %s (%v), want busy", got, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.openSessions(); n != 0 {
		t.Errorf("%d sessions are open", n)
	}
}

// release closes sessions on their holders' word, and answers how each ended.
func (s *seats) release(sessions ...uuid.UUID) string {
	s.t.Helper()
	got, err := s.ask(s.t.Context(), `SELECT coalesce(string_agg(r.status || ' ' || r.end_reason || ' ' || r.ended_by, ', ' ORDER BY array_position($2, r.session_id)), 'nothing')
		FROM (SELECT DISTINCT * FROM app.sessions_release_unlocked(array_fill($1::uuid, ARRAY[cardinality($2::uuid[])]), $2, array_fill('released'::text, ARRAY[cardinality($2)]),
			array_fill('released'::text, ARRAY[cardinality($2)]), array_fill('holder'::text, ARRAY[cardinality($2)]),
			array_fill(NULL::timestamptz, ARRAY[cardinality($2)]))) r`, s.license, sessions)
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

func TestOfManyReleasedTogetherEachHearsHowItEnded(t *testing.T) {
	t.Parallel()
	s := sell(t)
	one, two, three := newID(), newID(), newID()
	s.open("ok", one, 1, epoch, "h1")
	s.open("ok", two, 2, epoch, "h2")
	s.open("ok", three, 3, epoch, "h3")
	s.db.Exec(t, `UPDATE app.open_sessions SET evicted_at = now(), evict_reason = 'misuse', evicted_by = 'ada' WHERE id = $1`, two)
	s.close("ok", nil, three, "lapsed", "lease_expired")
	if got, want := s.release(one, two, three, newID()), "released released holder, evicted misuse ada, lapsed lease_expired holder"; got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
	s.is(one, "released released")
	s.is(two, "evicted misuse")
	s.is(three, "lapsed lease_expired")
	if got := s.release(newID()); got != "nothing" {
		t.Errorf("of a session that nobody knows: %q", got)
	}
	stranger, four := *s, newID()
	stranger.license = newID()
	s.open("ok", four, 1, epoch, "h1")
	if got := stranger.release(four); got != "nothing" {
		t.Errorf("by another licence's name: %q", got)
	}
	s.is(four, "open on 1")
}

func TestARowThatSomebodyHoldsIsNotReleasedTogetherWithOthers(t *testing.T) {
	t.Parallel()
	s := sell(t)
	one, two := newID(), newID()
	s.open("ok", one, 1, epoch, "h1")
	s.open("ok", two, 2, epoch, "h2")
	tx, err := s.db.Owner(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), `UPDATE app.open_sessions SET evicted_at = now(), evict_reason = 'misuse', evicted_by = 'ada' WHERE id = $1`, one); err != nil {
		t.Fatal(err)
	}
	if got, want := s.release(one, two), "busy  , released released holder"; got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := s.release(one, two), "released released holder, released released holder"; got != want {
		t.Errorf("afterwards heard %q, want %q", got, want)
	}
}

// Statistics say nothing of tables that fill within minutes: no plan may rest on them.
func TestOpeningAndReleasingReadByKeyAlone(t *testing.T) {
	t.Parallel()
	s := sell(t)
	s.alter("licenses", `max_seats = 99999`)
	const many = 3000
	s.db.Exec(t, `INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, ttl_seconds, seat_per, offline_grace_seconds, drain_seconds)
		SELECT $1, gen_random_uuid(), 'p', 'p-1', 1, 60, 'device', 0, 0 FROM generate_series(1, $2::int)`, s.tenant, many)
	s.db.Exec(t, `INSERT INTO app.devices (tenant_id, license_id, hardware_id) SELECT $1, $2, i FROM generate_series(1, $3::int) i`, s.tenant, s.license, many)
	s.db.Exec(t, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id)
		SELECT $1, gen_random_uuid(), $2, 1000 + i, 1, i, i, i FROM generate_series(1, $3::int) i`, s.tenant, s.license, many)
	s.db.Exec(t, `INSERT INTO app.ended_sessions (tenant_id, id, license_id, seat_no, overdraft, holder, hardware_id, version, acquired_at, status, end_reason, ended_by, ended_at)
		SELECT $1, gen_random_uuid(), $2, 1, false, i, i, '', now(), 'lapsed', '', '', now() FROM generate_series(1, $3::int) i`, s.tenant, s.license, many)
	conn, err := pgx.Connect(t.Context(), s.db.URL("usher_acquire"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	const calls = 10
	var read int64
	for n := range calls {
		session, gone := newID(), newID()
		b := &pgx.Batch{}
		b.Queue(`SELECT set_config('app.current_tenant_id', $1, true)`, s.tenant.String())
		b.Queue(`SELECT app.seats_open(ARRAY[$1::uuid], ARRAY[$2::uuid], ARRAY[$3::int], ARRAY[$4::bigint], ARRAY[1], ARRAY['device:h'], ARRAY['h'],
			ARRAY[NULL], ARRAY[NULL], ARRAY[NULL], ARRAY['1'], ARRAY[NULL], ARRAY[1], ARRAY[$5::uuid], ARRAY['lapsed'], ARRAY['x'], ARRAY['x'], ARRAY[NULL::timestamptz])`,
			s.license, session, n+1, epoch, gone)
		b.Queue(`SELECT app.sessions_release_unlocked(ARRAY[$1::uuid, $1], ARRAY[$2::uuid, $3], ARRAY['released', 'released'], ARRAY['x', 'x'], ARRAY['x', 'x'],
			ARRAY[NULL::timestamptz, NULL])`, s.license, session, gone)
		b.Queue(`SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables`).QueryRow(func(row pgx.Row) error {
			return row.Scan(&read) // since this connection's last report
		})
		if err := conn.SendBatch(t.Context(), b).Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := testenv.Value[int64](t, s.db, `SELECT count(*) FROM app.ended_sessions`); n != many+calls {
		t.Fatalf("%d sessions have ended, want %d", n-many, calls)
	}
	if read < calls || read > 20*calls {
		t.Errorf("%d openings and releases read %d rows", calls, read)
	}
}

// TestNothingOfAnOldEpochIsWrittenAfterItsBump is what a rebuild rests on: once it has bumped the epoch and read the open
// sessions, no session of an older epoch comes to be any more.
func TestNothingOfAnOldEpochIsWrittenAfterItsBump(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *seats) {
		t.Helper()
		s.alter("licenses", `max_seats = 99999`)
		ctx := t.Context()
		var (
			openers sync.WaitGroup
			mu      sync.Mutex
			opened  int
			current = int64(epoch) // what the pool in Redis would say
			done    = make(chan struct{})
		)
		for n := range 6 {
			openers.Go(func() {
				for seat := n + 1; ; seat += 6 {
					select {
					case <-done:
						return
					default:
					}
					mu.Lock()
					e := current
					mu.Unlock()
					verdict, err := s.try(ctx, newID(), seat, e, fmt.Sprint("h", n))
					if err != nil || verdict != "ok" && verdict != "epoch" && verdict != "busy" {
						t.Errorf("an opener hears %q (%v)", verdict, err)
						return
					}
					if verdict == "ok" {
						mu.Lock()
						opened++
						mu.Unlock()
					}
				}
			})
		}
		bump := func() (bumped int64, seen []uuid.UUID, err error) {
			err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `SELECT set_config('app.current_tenant_id', $1, true)`, s.tenant.String()); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `SELECT FROM app.licenses WHERE id = $1 FOR NO KEY UPDATE`, s.license); err != nil {
					return err
				}
				if err := tx.QueryRow(ctx, `UPDATE app.licenses SET seat_epoch = seat_epoch + 1 WHERE id = $1 RETURNING seat_epoch`, s.license).Scan(&bumped); err != nil {
					return err
				}
				rows, err := tx.Query(ctx, `SELECT id FROM app.open_sessions WHERE license_id = $1`, s.license)
				if err != nil {
					return err
				}
				seen, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
				return err
			})
			return bumped, seen, err
		}
		older := map[int64][]uuid.UUID{}
		for range 25 {
			bumped, seen, err := bump()
			if err != nil {
				t.Errorf("a bump among openers: %v", err)
				break
			}
			older[bumped] = seen
			mu.Lock()
			current = bumped
			mu.Unlock()
		}
		testenv.Eventually(t, 10*time.Second, func() error { // so that the last epoch is opened in, too
			mu.Lock()
			defer mu.Unlock()
			if opened < 50 {
				return fmt.Errorf("%d sessions are open", opened)
			}
			return nil
		})
		close(done)
		openers.Wait()
		for bumped, seen := range older {
			if late := testenv.Value[int](t, s.db, `SELECT count(*) FROM app.open_sessions WHERE fence_epoch < $1 AND id <> ALL ($2)`, bumped, seen); late > 0 {
				t.Errorf("%d sessions of an older epoch came to be after the bump to %d", late, bumped)
			}
		}
	})
}

func TestADeviceIsRememberedByTheHour(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, s *seats) {
		t.Helper()
		s.open("ok", newID(), 1, epoch, "h")
		id := testenv.Value[uuid.UUID](t, s.db, `SELECT id FROM app.devices`)
		if id.Version() != 7 || time.Since(time.Unix(id.Time().UnixTime())).Abs() > time.Minute {
			t.Errorf("a device's id is %s, want a UUIDv7 of now", id)
		}
		const seen = `SELECT last_seen_at > now() - interval '1 minute' FROM app.devices`
		for age, want := range map[string]bool{"59 minutes": false, "61 minutes": true} {
			s.db.Exec(t, `UPDATE app.devices SET last_seen_at = now() - $1::interval`, age)
			s.db.Exec(t, `DELETE FROM app.open_sessions`)
			s.open("ok", newID(), 1, epoch, "h")
			if got := testenv.Value[bool](t, s.db, seen); got != want {
				t.Errorf("last seen %s ago and again now: written down is %v, want %v", age, got, want)
			}
		}
	})
}
