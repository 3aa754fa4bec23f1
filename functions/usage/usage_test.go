package usage_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/usage"
	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/metering"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/tenancy"
)

const audience = "usher-test"

// world is a deployment whose plan counts calls (a quota of 100), tokens (a soft cap of 50), and pages (a hard cap of 100).
type world struct {
	*functiontest.World
	issuer *localenv.Issuer
	door   *functiontest.Door
	admin  *tenancy.DB
	keys   *identity.Verifier
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	issuer := testenv.Issuer(t)
	w := &world{issuer: issuer, World: functiontest.New(t, functiontest.Options{Env: map[string]string{
		"IDENTITY_ISSUER": issuer.URL(), "IDENTITY_AUDIENCE": audience, "DATABASE_MAX_CONNS": "8",
	}})}
	getenv, log := w.Getenv("usage"), w.Log.Logger
	db, err := tenancy.Open(t.Context(), getenv, log)
	must(t, err)
	t.Cleanup(db.Close)
	w.admin, err = tenancy.Open(t.Context(), w.Getenv("admin"), log)
	must(t, err)
	t.Cleanup(w.admin.Close)
	w.keys, err = identity.Open(w.Getenv("admin"), w.admin)
	must(t, err)
	d := usage.Deps{DB: db, Log: log}
	d.Tokens, err = signing.OpenTokens(getenv, log)
	must(t, err)
	d.Keys, err = identity.Open(getenv, db)
	must(t, err)
	d.People, err = identity.OpenPeople(getenv, db)
	must(t, err)
	d.Beats, err = budget.OpenBeats(getenv)
	must(t, err)
	w.door = functiontest.NewDoor(t, usage.Routes(d), log)
	w.DB.Exec(t, `INSERT INTO app.plan_metrics (plan_code, metric, quota, cap, cap_type)
		VALUES ('pro', 'calls', 100, NULL, NULL), ('pro', 'tokens', NULL, 50, 'soft'), ('pro', 'pages', NULL, 100, 'hard')`)
	w.DB.Exec(t, `INSERT INTO app.users (tenant_id, id, email, role, status, issuer, subject, joined_at)
		VALUES ($1, gen_random_uuid(), 'olivia@example.com', 'owner', 'active', $2, 'olivia', now())`, w.Tenant.UUID(), issuer.URL())
	return w
}

// key makes an API key of a tenant.
func (w *world) key(t *testing.T, tenant tenancy.ID, scopes ...identity.Scope) (made string) {
	t.Helper()
	must(t, w.admin.As(t.Context(), tenant, func(tx tenancy.Tx) error {
		_, key, err := w.keys.CreateAPIKey(t.Context(), tx, tenant, "test", scopes, nil, "test")
		made = key.Reveal()
		return err
	}))
	return made
}

// event is one of now, which changes alter.
func event(id, metric string, quantity int64, changes ...any) functiontest.Body {
	e := functiontest.Body{"id": id, "metric": metric, "quantity": quantity, "occurred_at": time.Now().UTC().Format(time.RFC3339)}
	for i := 0; i < len(changes); i += 2 {
		e[changes[i].(string)] = changes[i+1]
	}
	return e
}

func (w *world) send(t *testing.T, token string, events ...functiontest.Body) functiontest.Reply {
	t.Helper()
	return w.door.Send(t, functiontest.Message{Token: token, Body: functiontest.Body{"events": events}})
}

func (w *world) totals(t *testing.T, token, query string) map[string]usage.Total {
	t.Helper()
	r := w.door.Send(t, functiontest.Message{Method: "GET", Path: "/v1/usage" + query, Token: token})
	all := map[string]usage.Total{}
	for _, item := range functiontest.Read[usage.Totals](t, r.Want(t, http.StatusOK)).Items {
		all[item.LicenseID.String()+" "+item.Metric] = item
	}
	return all
}

func TestAnEventCountsOnceHoweverOftenAndByWhomItIsSent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, l := w.Seating(t), w.Seats(t, 2, time.Hour)
	token := s.Sit(t, l, "laptop").SeatToken
	key := w.key(t, w.Tenant, identity.UsageWrite)

	answer := functiontest.Read[usage.Answer](t, w.send(t, token, event("a", "calls", 2), event("b", "calls", 3), event("a", "calls", 2)).Want(t, http.StatusAccepted))
	if answer.Accepted != 2 || answer.Duplicates != 1 || len(answer.Warnings) != 0 {
		t.Errorf("the first time: %+v", answer)
	}
	late := time.Now().Add(-metering.Latest + time.Hour)
	answer = functiontest.Read[usage.Answer](t, w.send(t, key, event("b", "calls", 3), event("c", "calls", 5, "occurred_at", late)).Want(t, http.StatusAccepted))
	if answer.Accepted != 1 || answer.Duplicates != 1 {
		t.Errorf("by the key: %+v", answer)
	}
	// The sums of months and of hours are the sum of the events.
	if sums := testenv.Value[string](t, w.DB, `SELECT (SELECT sum(quantity) FROM app.usage_events) || ' ' || (SELECT sum(quantity) FROM app.usage_months)
		|| ' ' || (SELECT sum(quantity) FROM app.usage_hours) || ' ' || (SELECT count(*) FROM app.usage_hours)`); sums != "10 10 10 2" {
		t.Errorf("the sums are %s", sums)
	}
	month := func(at time.Time) string { return "?month=" + at.UTC().Format("2006-01") }
	var total int64
	seen := map[string]bool{}
	for _, query := range []string{month(late), month(time.Now())} {
		if !seen[query] {
			seen[query] = true
			total += w.totals(t, key, query)[l.ID.String()+" calls"].Quantity
		}
	}
	now := w.totals(t, token, "")
	calls, pages := now[l.ID.String()+" calls"], now[l.ID.String()+" pages"]
	if total != 10 || len(now) != 3 || *calls.Quota != 100 || calls.Cap != nil || pages.Quantity != 0 || *pages.Cap != 100 || *pages.CapType != "hard" || calls.Billing != nil {
		t.Errorf("in all %d; now %+v", total, now)
	}
	owner, err := w.issuer.Token(map[string]any{"aud": audience, "sub": "olivia", "email": "olivia@example.com", "email_verified": true}, time.Hour)
	must(t, err)
	if seen := w.totals(t, owner, ""); len(seen) != 3 {
		t.Errorf("an owner sees %+v", seen)
	}
	w.send(t, owner, event("p", "calls", 1)).Want(t, http.StatusForbidden, "forbidden")

	// Another tenant's ids are its own, and so are its licences and totals.
	other := w.Beside(t, "Other")
	theirs := other.Seats(t, 1, time.Hour)
	foreign := w.key(t, other.Tenant, identity.UsageWrite)
	answer = functiontest.Read[usage.Answer](t, w.send(t, foreign, event("a", "calls", 7)).Want(t, http.StatusAccepted))
	if got := w.totals(t, foreign, ""); answer.Accepted != 1 || len(got) != 3 || got[theirs.ID.String()+" calls"].Quantity != 7 {
		t.Errorf("another tenant: %+v, %+v", answer, got)
	}
	w.door.Send(t, functiontest.Message{Token: foreign, Body: functiontest.Body{"license_id": l.ID, "events": []any{event("x", "calls", 1)}}}).Want(t, http.StatusNotFound, "not_found")

	// What is refused is refused as a whole.
	r := w.send(t, key, event("d", "calls", 1), event("e", "nothing", 1), event("f", "calls", 1, "occurred_at", time.Now().Add(-metering.Latest-time.Minute)),
		event("g", "calls", 1, "occurred_at", time.Now().Add(metering.Earliest+time.Minute)))
	r.Want(t, http.StatusUnprocessableEntity, "invalid_request")
	for _, field := range []string{"events[1].metric", "events[2].occurred_at", "events[3].occurred_at"} {
		if !strings.Contains(string(r.Body), `"`+field+`"`) {
			t.Errorf("%s is not named: %s", field, r.Body)
		}
	}
	for _, events := range []any{[]any{}, []any{event("", "calls", 1)}, []any{event("h", "calls", 0)}, []any{event("h", "calls", 1_000_000_001)}} {
		w.door.Send(t, functiontest.Message{Token: key, Body: functiontest.Body{"events": events}}).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	}
	many := make([]functiontest.Body, 501)
	for i := range many {
		many[i] = event(fmt.Sprint(i), "calls", 1)
	}
	w.send(t, key, many...).Want(t, http.StatusUnprocessableEntity, "invalid_request")
	if n := testenv.Value[int64](t, w.DB, `SELECT count(*) FROM app.usage_events`); n != 4 {
		t.Errorf("%d events are kept, want 4", n)
	}

	// Whoever may not, may not.
	reader := w.key(t, w.Tenant, identity.ReportsRead)
	if seen := w.totals(t, reader, "?license_id="+l.ID.String()); len(seen) != 3 {
		t.Errorf("a reader sees %+v", seen)
	}
	w.send(t, reader, event("i", "calls", 1)).Want(t, http.StatusForbidden, "forbidden")
	w.send(t, w.OperatorKey(t, identity.UsageWrite), event("i", "calls", 1)).Want(t, http.StatusForbidden, "forbidden")
	w.send(t, w.key(t, w.Tenant, identity.LicensesRead), event("i", "calls", 1)).Want(t, http.StatusForbidden, "forbidden")
	w.send(t, "", event("i", "calls", 1)).Want(t, http.StatusUnauthorized)
	w.send(t, token[:len(token)-2]+"AA", event("i", "calls", 1)).Want(t, http.StatusUnauthorized, "seat_token_invalid")
	w.send(t, "ush_unknown", event("i", "calls", 1)).Want(t, http.StatusUnauthorized, "api_key_invalid")
	second := s.Sit(t, l, "desktop")
	w.send(t, second.SeatToken, event("i", "calls", 1)).Want(t, http.StatusAccepted)
	w.Evict(t, second.SessionID, "test")
	w.send(t, second.SeatToken, event("j", "calls", 1)).Want(t, http.StatusGone, "seat_evicted")
	s.Leave(t, token).Want(t, http.StatusOK)
	w.send(t, token, event("j", "calls", 1)).Want(t, http.StatusGone, "seat_released")
	w.Suspend(t, l)
	w.door.Send(t, functiontest.Message{Token: key, Body: functiontest.Body{"license_id": l.ID, "events": []any{event("k", "calls", 1)}}}).Want(t, http.StatusForbidden, "license_suspended")
	w.send(t, key, event("k", "calls", 1)).Want(t, http.StatusForbidden, "usage_not_counted")
	w.Hides(t, token, key, owner)
}

func TestAHardCapIsExactAndASoftOneWarns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.Seats(t, 1, time.Hour)
	key := w.key(t, w.Tenant, identity.UsageWrite)
	var running sync.WaitGroup
	var counted, refused atomic.Int64
	for i := range 50 {
		running.Go(func() {
			for {
				// 99 and 1 would fit, too: a request counts as a whole or not at all.
				switch r := w.send(t, key, event(fmt.Sprint("three ", i), "pages", 3), event(fmt.Sprint("one ", i), "pages", 1)); r.Status {
				case http.StatusAccepted:
					counted.Add(4)
				case http.StatusPaymentRequired:
					refused.Add(1)
				case http.StatusServiceUnavailable: // somebody waited too long for the others
					continue
				default:
					t.Errorf("answered %d %s", r.Status, r.Body)
				}
				return
			}
		})
	}
	running.Wait()
	if counted.Load() != 100 || refused.Load() != 25 {
		t.Errorf("counted %d in requests of 4 below a cap of 100, refused %d", counted.Load(), refused.Load())
	}
	if got := w.totals(t, key, "")[l.ID.String()+" pages"].Quantity; got != 100 {
		t.Errorf("the total is %d", got)
	}
	r := w.send(t, key, event("more", "pages", 1))
	if r.Want(t, http.StatusPaymentRequired, "usage_cap_reached"); !strings.Contains(string(r.Body), `"cap":100`) || !strings.Contains(string(r.Body), `"used":100`) {
		t.Errorf("refused with %s", r.Body)
	}
	answer := functiontest.Read[usage.Answer](t, w.send(t, key, event("within", "tokens", 50)).Want(t, http.StatusAccepted))
	if len(answer.Warnings) != 0 {
		t.Errorf("at the soft cap: %+v", answer)
	}
	answer = functiontest.Read[usage.Answer](t, w.send(t, key, event("beyond", "tokens", 1)).Want(t, http.StatusAccepted))
	if len(answer.Warnings) != 1 || answer.Warnings[0].Code != "usage_cap_passed" || answer.Warnings[0].Used != 51 {
		t.Errorf("beyond the soft cap: %+v", answer)
	}

	// Owners hear of 80 % and of 100 % of a quota, once each, and so do other systems.
	for i, quantity := range []int64{79, 1, 5, 20, 200} {
		w.send(t, key, event(fmt.Sprint("quota ", i), "calls", quantity)).Want(t, http.StatusAccepted)
	}
	w.send(t, key, event("quota 4", "calls", 200)).Want(t, http.StatusAccepted)
	for query, want := range map[string]string{
		`SELECT string_agg(recipient || ' ' || (data ->> 'percent') || ' ' || (data ->> 'used'), ', ' ORDER BY data ->> 'percent' DESC) FROM app.mails WHERE kind = 'usage_warning'`: "olivia@example.com 80 80, olivia@example.com 100 105",
		`SELECT string_agg((data ->> 'percent') || ' ' || (data ->> 'used'), ', ' ORDER BY recorded_at) FROM app.events WHERE type = 'usage.warned'`:                                 "80 80, 100 105",
	} {
		if told := testenv.Value[string](t, w.DB, query); told != want {
			t.Errorf("told are %q, want %q", told, want)
		}
	}
	// Redis may be out.
	w.Redis.Kill(t)
	w.send(t, key, event(uuid.NewString(), "calls", 1)).Want(t, http.StatusAccepted)
}
