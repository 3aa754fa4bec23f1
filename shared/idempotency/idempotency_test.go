package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

type store struct {
	*testenv.DB
	db   *tenancy.DB // as function acquire logs in
	a, b tenancy.ID
	log  *testenv.LogCapture
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := &store{DB: testenv.Postgres(t), log: testenv.Logs(t)}
	s.a, s.b = tenancy.Verified(uuid.Must(uuid.NewV7())), tenancy.Verified(uuid.Must(uuid.NewV7()))
	for i, id := range []tenancy.ID{s.a, s.b} {
		s.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, $2, $2)`, id.UUID(), fmt.Sprintf("tenant-%d", i))
	}
	s.db = s.as(t, "usher_acquire")
	return s
}

func (s *store) as(t testing.TB, role string) *tenancy.DB {
	t.Helper()
	db, err := tenancy.OpenURL(context.Background(), s.URL(role), tenancy.Config{MaxConns: 8}, s.log.Logger)
	must(t, err)
	t.Cleanup(db.Close)
	return db
}

func (s *store) request(key string) idempotency.Request {
	return idempotency.Request{Tenant: s.a, Scope: "api_key:1 POST /v1/licenses", Key: key, Body: []byte(`{"plan":"team"}`)}
}

// begin is Begin in a transaction of its own, committed when there is no error.
func (s *store) begin(t testing.TB, r idempotency.Request) (claim *idempotency.Claim, answer *idempotency.Answer, err error) {
	t.Helper()
	err = s.db.As(t.Context(), r.Tenant, func(tx tenancy.Tx) error {
		claim, answer, err = idempotency.Begin(t.Context(), tx, r)
		return err
	})
	return claim, answer, err
}

// do is Do in a transaction of its own.
func (s *store) do(t testing.TB, r idempotency.Request, act func() (int, any, error)) (answer idempotency.Answer, replayed bool, err error) {
	t.Helper()
	err = s.db.As(t.Context(), r.Tenant, func(tx tenancy.Tx) error {
		answer, replayed, err = idempotency.Do(t.Context(), tx, r, act)
		return err
	})
	return answer, replayed, err
}

// within runs one of a claim's methods in a transaction of its own.
func (s *store) within(t testing.TB, tenant tenancy.ID, act func(tx tenancy.Tx) error) error {
	t.Helper()
	return s.db.As(t.Context(), tenant, act)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFault(t testing.TB, err error, kind fault.Kind, code string) {
	t.Helper()
	if f := fault.As(err); f == nil || f.Kind != kind || f.Code != code {
		t.Fatalf("error %v, want %s %s", err, kind, code)
	}
}

func TestARepeatedPOSTGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	acts := 0
	act := func() (int, any, error) {
		acts++
		return 201, map[string]any{"n": acts, "html": "<&>"}, nil
	}
	first, replayed, err := s.do(t, s.request("k1"), act)
	if err != nil || replayed || first.Status != 201 || string(first.Body) != `{"html":"<&>","n":1}` {
		t.Fatalf("first %+v, %v, %v", first, replayed, err)
	}
	again, replayed, err := s.do(t, s.request("k1"), act)
	if err != nil || !replayed || again.Status != 201 || string(again.Body) != string(first.Body) || acts != 1 {
		t.Errorf("again %+v, %v, %v, %d acts", again, replayed, err, acts)
	}
	for name, change := range map[string]func(*idempotency.Request){
		"another key":    func(r *idempotency.Request) { r.Key = "k2" },
		"another scope":  func(r *idempotency.Request) { r.Scope = "api_key:2 POST /v1/licenses" },
		"another tenant": func(r *idempotency.Request) { r.Tenant = s.b },
		"no key":         func(r *idempotency.Request) { r.Key = "" },
	} {
		r, before := s.request("k1"), acts
		change(&r)
		if _, replayed, err := s.do(t, r, act); err != nil || replayed || acts != before+1 {
			t.Errorf("%s: replayed %v, %v", name, replayed, err)
		}
	}
}

func TestAKeyUsedForAnotherBodyIsRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, _, err := s.do(t, s.request("k1"), func() (int, any, error) { return 200, nil, nil })
	must(t, err)
	other := s.request("k1")
	other.Body = []byte(`{"plan":"solo"}`)
	_, _, err = s.do(t, other, func() (int, any, error) { return 200, nil, errors.New("acted") })
	wantFault(t, err, fault.KindInvalid, "idempotency_key_reused")

	inFlight := s.request("k2")
	if _, _, err = s.begin(t, inFlight); err != nil {
		t.Fatal(err)
	}
	inFlight.Body = other.Body
	_, _, err = s.begin(t, inFlight)
	wantFault(t, err, fault.KindInvalid, "idempotency_key_reused")
}

func TestAFailureIsNotRemembered(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	failure := errors.New("no")
	if _, _, err := s.do(t, s.request("k1"), func() (int, any, error) { return 0, nil, failure }); !errors.Is(err, failure) {
		t.Fatal(err)
	}
	if _, replayed, err := s.do(t, s.request("k1"), func() (int, any, error) { return 202, "wait", nil }); err != nil || replayed {
		t.Fatalf("after a failure: %v, %v", replayed, err)
	}
	if _, replayed, err := s.do(t, s.request("k1"), func() (int, any, error) { return 201, "yes", nil }); err != nil || replayed {
		t.Fatalf("after a 202: %v, %v", replayed, err)
	}
	if answer, replayed, err := s.do(t, s.request("k1"), nil); err != nil || !replayed || string(answer.Body) != `"yes"` {
		t.Fatalf("after a success: %v, %v", replayed, err)
	}
}

func TestOfManyAtOnceOneActs(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var acts, wins, replays, told atomic.Int64
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			_, replayed, err := s.do(t, s.request("k1"), func() (int, any, error) {
				acts.Add(1)
				return 201, "made", nil
			})
			switch {
			case err == nil && replayed:
				replays.Add(1)
			case err == nil:
				wins.Add(1)
			case fault.As(err) != nil && fault.As(err).Code == "idempotency_in_flight":
				told.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if acts.Load() != 1 || wins.Load() != 1 || wins.Load()+replays.Load()+told.Load() != 20 {
		t.Errorf("%d acted, %d won, %d were answered again, %d were told to wait", acts.Load(), wins.Load(), replays.Load(), told.Load())
	}
}

func TestARequestInFlightIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	acting, goOn := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, _, err := s.do(t, s.request("k1"), func() (int, any, error) {
			close(acting)
			<-goOn
			return 201, "made", nil
		})
		done <- err
	}()
	<-acting
	begun := time.Now()
	_, _, err := s.do(t, s.request("k1"), nil)
	close(goOn)
	wantFault(t, err, fault.KindConflict, "idempotency_in_flight")
	if fault.As(err).RetryAfter <= 0 {
		t.Error("no time to retry after is given")
	}
	if took := time.Since(begun); took > 900*time.Millisecond {
		t.Errorf("the second waited %s for the first", took)
	}
	must(t, <-done)
}

func TestAClaimCommittedFirstIsCompletedAbandonedOrOutlived(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	claim, answer, err := s.begin(t, s.request("k1"))
	if err != nil || answer != nil {
		t.Fatal(answer, err)
	}
	_, _, err = s.begin(t, s.request("k1"))
	wantFault(t, err, fault.KindConflict, "idempotency_in_flight")

	must(t, s.within(t, s.a, func(tx tenancy.Tx) error { return claim.Abandon(t.Context(), tx) }))
	if claim, answer, err = s.begin(t, s.request("k1")); err != nil || answer != nil {
		t.Fatalf("after it was abandoned: %v, %v", answer, err)
	}
	// Its sender died: the claim is given up when its time is over.
	s.Exec(t, `UPDATE app.idempotency_keys SET held_until = now() - interval '1 second'`)
	if claim, answer, err = s.begin(t, s.request("k1")); err != nil || answer != nil {
		t.Fatalf("after its time was over: %v, %v", answer, err)
	}
	first := idempotency.Answer{Status: 201, Body: []byte(`{"a":1}`)}
	must(t, s.within(t, s.a, func(tx tenancy.Tx) error { return claim.Complete(t.Context(), tx, first) }))
	must(t, s.within(t, s.a, func(tx tenancy.Tx) error {
		return claim.Complete(t.Context(), tx, idempotency.Answer{Status: 200, Body: []byte(`{"a":2}`)})
	}))
	must(t, s.within(t, s.a, func(tx tenancy.Tx) error { return claim.Abandon(t.Context(), tx) }))
	if _, answer, err = s.begin(t, s.request("k1")); err != nil || answer == nil || string(answer.Body) != `{"a":1}` || answer.Status != 201 {
		t.Errorf("the first answer is not what is repeated: %+v, %v", answer, err)
	}
}

func TestAnAnswerOfAnEndedSessionIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	claim, _, err := s.begin(t, s.request("k1"))
	must(t, err)
	session := uuid.New()
	must(t, s.within(t, s.a, func(tx tenancy.Tx) error {
		return claim.Complete(t.Context(), tx, idempotency.Answer{Status: 201, Body: []byte(`1`), Session: session})
	}))
	claim, answer, err := s.begin(t, s.request("k1"))
	if err != nil || answer == nil || answer.Session != session {
		t.Fatalf("%+v, %v", answer, err)
	}
	restart := func() error {
		return s.within(t, s.a, func(tx tenancy.Tx) error { return claim.Restart(t.Context(), tx, *answer) })
	}
	must(t, restart())
	wantFault(t, restart(), fault.KindConflict, "idempotency_in_flight")
	_, _, err = s.begin(t, s.request("k1"))
	wantFault(t, err, fault.KindConflict, "idempotency_in_flight")
	next := uuid.New()
	must(t, s.within(t, s.a, func(tx tenancy.Tx) error {
		return claim.Complete(t.Context(), tx, idempotency.Answer{Status: 201, Body: []byte(`2`), Session: next})
	}))
	if _, answer, err := s.begin(t, s.request("k1")); err != nil || answer == nil || answer.Session != next || string(answer.Body) != `2` {
		t.Errorf("%+v, %v", answer, err)
	}
}

func TestAnswersAreForgottenAfterADay(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, key := range []string{"k1", "k2"} {
		_, _, err := s.do(t, s.request(key), func() (int, any, error) { return 201, key, nil })
		must(t, err)
	}
	if hours := testenv.Value[float64](t, s.DB, `SELECT max(extract(epoch FROM expires_at - now()) / 3600)::float8 FROM app.idempotency_keys`); hours < 23.9 || hours > 24 {
		t.Errorf("an answer is kept for %v hours", hours)
	}
	s.Exec(t, `UPDATE app.idempotency_keys SET expires_at = now() - interval '1 second'`)
	other := s.request("k1")
	other.Body = []byte(`{}`)
	if _, replayed, err := s.do(t, other, func() (int, any, error) { return 201, "new", nil }); err != nil || replayed {
		t.Errorf("after a day: %v, %v", replayed, err)
	}
	sweep := s.as(t, "usher_sweep")
	if n, err := idempotency.Expire(t.Context(), sweep); err != nil || n != 1 {
		t.Errorf("dropped %d, %v", n, err)
	}
	if n := testenv.Value[int64](t, s.DB, `SELECT count(*) FROM app.idempotency_keys`); n != 1 {
		t.Errorf("%d are left", n)
	}
	if _, err := idempotency.Expire(t.Context(), s.db); tenancy.Code(err) != "42501" {
		t.Errorf("another role than the sweep's drops answers: %v", err)
	}
}

func TestWhoReadsTheTableReadsNoAnswer(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const word = "ush_averysecretkey"
	for _, key := range []string{"key-one", "key-two"} {
		_, _, err := s.do(t, s.request(key), func() (int, any, error) { return 201, word, nil })
		must(t, err)
	}
	rows := testenv.Values[string](t, s.DB, `SELECT i::text || encode(answer, 'escape') FROM app.idempotency_keys i`)
	for _, row := range rows {
		if strings.Contains(row, word) || strings.Contains(row, "key-one") || strings.Contains(row, "team") {
			t.Errorf("the row shows what it should not: %s", row)
		}
	}
	s.log.Hides(t, word, "key-one")
	// An answer that was moved to another key's row, or altered, is not read at all.
	s.Exec(t, `UPDATE app.idempotency_keys a SET answer = b.answer FROM app.idempotency_keys b WHERE a.key_hash <> b.key_hash AND a.key_hash < b.key_hash`)
	broken := 0
	for _, key := range []string{"key-one", "key-two"} {
		if _, _, err := s.do(t, s.request(key), nil); err != nil {
			broken++
			if fault.As(err) != nil {
				t.Errorf("the caller is told %v", err)
			}
		}
	}
	if broken != 1 {
		t.Errorf("%d of two exchanged answers are refused, want 1", broken)
	}
	for _, cut := range []int{0, 5, 20, 40} {
		s.Exec(t, `UPDATE app.idempotency_keys SET answer = substr(answer, 1, $1)`, cut)
		if _, _, err := s.do(t, s.request("key-one"), nil); err == nil {
			t.Errorf("an answer cut to %d bytes is repeated", cut)
		}
	}
}

func TestKeysAreVisibleASCII(t *testing.T) {
	t.Parallel()
	for key, good := range map[string]bool{
		"a": true, strings.Repeat("~", 255): true, "0b5e6a4c-6a53-4b8e-9df4-2f9be3a3f9a1": true, `"quoted"`: true,
		"": false, strings.Repeat("a", 256): false, "a b": false, "a\tb": false, "é": false, "a\x7f": false,
	} {
		got, err := idempotency.KeyOf(http.Header{"Idempotency-Key": {key}})
		if (err == nil) != good || good && got != key {
			t.Errorf("%q: %q, %v", key, got, err)
		} else if err != nil {
			wantFault(t, err, fault.KindMalformed, "idempotency_key_invalid")
		}
	}
	if none, err := idempotency.KeyOf(http.Header{}); none != "" || err != nil {
		t.Errorf("without a header: %q, %v", none, err)
	}
	_, err := idempotency.KeyOf(http.Header{"Idempotency-Key": {"a", "a"}})
	wantFault(t, err, fault.KindMalformed, "idempotency_key_invalid")
}

func TestWhatARequestMakesHasANumberOfItsOwn(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	request := s.request("key-one")
	id := request.ID()
	if id.Version() != 7 || id.Variant() != uuid.RFC4122 || id != s.request("key-one").ID() {
		t.Errorf("numbered %s, then %s", id, s.request("key-one").ID())
	}
	other, elsewhere := request, request
	other.Body, elsewhere.Scope = []byte("another"), "another"
	for _, r := range []idempotency.Request{s.request("key-two"), other, elsewhere} {
		if r.ID() == id {
			t.Errorf("%+v has the same number", r)
		}
	}
	request.Key = ""
	if request.ID() != uuid.Nil {
		t.Error("a request without a key has a number")
	}
}

func TestThroughAPoolerEverythingIsTheSame(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, mode := range []string{"cache_describe", "exec", "simple_protocol"} {
		db, err := tenancy.OpenURL(t.Context(), s.URL("usher_admin"), tenancy.Config{ExecMode: mode}, s.log.Logger)
		must(t, err)
		t.Cleanup(db.Close)
		for _, replay := range []bool{false, true} {
			err := db.As(t.Context(), s.a, func(tx tenancy.Tx) error {
				answer, replayed, err := idempotency.Do(t.Context(), tx, s.request("key-"+mode), func() (int, any, error) { return 200, mode, nil })
				if err == nil && (replayed != replay || string(answer.Body) != `"`+mode+`"`) {
					t.Errorf("%s: %+v, %v", mode, answer, replayed)
				}
				return err
			})
			if err != nil {
				t.Errorf("%s: %v", mode, err)
			}
		}
	}
}
