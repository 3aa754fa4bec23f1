package all_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/platform/testenv"
)

const (
	stripeKey     = "sk_test_all"
	stripeSecret  = "whsec_of_the_tests"
	stripeCatalog = `{"team": {"included_seats": 5, "currency": "usd", "monthly": {
		"base": {"id": "price_base", "amount": 29000}, "seat": {"id": "price_seat", "amount": 5000},
		"metered": [{"id": "price_calls", "amount": 2, "metric": "calls", "event_name": "calls_used"},
		            {"id": "price_overdraft", "amount": 70, "metric": "overdraft_seat_hours", "usage_records": true}]}}, "enterprise": {"by_invoice": true}}`
)

var stripePrices = []stripesim.Price{
	{ID: "price_base", Amount: 29000, Currency: "usd", Interval: "month"},
	{ID: "price_seat", Amount: 5000, Currency: "usd", Interval: "month"},
	{ID: "price_calls", Amount: 2, Currency: "usd", Interval: "month", Meter: "calls_used"},
	{ID: "price_overdraft", Amount: 70, Currency: "usd", Interval: "month", UsageRecords: true},
}

// deliver sends Stripe's events from the nth on, and answers how many there are by then.
func (s *service) deliver(t *testing.T, n int) int {
	t.Helper()
	events := s.stripe.Events()
	for _, e := range events[n:] {
		payload := s.stripe.Payload(e.ID, stripesim.Version)
		if status := s.send(t, payload, stripesim.Sign(payload, time.Now(), stripeSecret)); status != http.StatusOK {
			t.Fatalf("event %s %s was answered %d", e.ID, e.Type, status)
		}
	}
	return len(events)
}

func (s *service) send(t *testing.T, payload []byte, signature string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.url+"/v1/stripe/webhook", bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("Stripe-Signature", signature)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// owner registers an organisation, and answers its owner's token.
func (s *service) owner(t *testing.T) string {
	t.Helper()
	operator := s.operator(t)
	s.must(t, 200, operator, "PUT", "/v1/catalog/products/editor", object{"name": "Editor"})
	plan := object{
		"product": "editor", "ttl_seconds": int(lease / time.Second), "drain_seconds": 1,
		"metrics": []object{{"metric": "calls", "quota": 1000}, {"metric": "clicks", "cap": 10, "cap_type": "hard"}},
	}
	s.must(t, 200, operator, "PUT", "/v1/catalog/plans/free", plan)
	plan["max_seats"], plan["trial_falls_to"] = 3, "free"
	s.must(t, 200, operator, "PUT", "/v1/catalog/plans/team", plan)
	owner := s.token(object{"aud": people, "sub": "olivia", "email": "olivia@example.com", "email_verified": true})
	s.must(t, 201, owner, "POST", "/v1/register", object{"organization_name": "Acme"})
	return owner
}

func order(seats int) object {
	return object{"plan": "team", "cycle": "monthly", "seats": seats, "success_url": audience + "/thanks", "cancel_url": audience + "/shop"}
}

// bought is what the organisation has then.
type bought struct {
	Status    string
	Seats     int
	NextSeats int        `json:"next_seats"`
	LicenseID *uuid.UUID `json:"license_id"`
	Trouble   *string
}

func (s *service) read(t *testing.T, bearer, method, path string, body, into any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	if body == nil {
		text = nil
	}
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+bearer)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil || response.StatusCode > 201 {
		t.Fatalf("%s %s answered %d, %v", method, path, response.StatusCode, err)
	}
}

// The whole story, through the doors: checkout, payment, licence, seats; more of them; a failed renewal, and its payment.
func TestWhatIsPaidIsSoldAndWhatIsSoldCanBeSatOn(t *testing.T) {
	t.Parallel()
	s := start(t)
	owner := s.owner(t)
	var page struct {
		CheckoutURL string `json:"checkout_url"`
	}
	s.read(t, owner, "POST", "/v1/checkout", order(6), &page)
	sessions := s.stripe.Find("checkout.session", "")
	if len(sessions) != 1 || page.CheckoutURL != "/pay/"+sessions[0] {
		t.Fatalf("sent to %q, sessions %v", page.CheckoutURL, sessions)
	}
	s.stripe.Complete(sessions[0], false)
	n := s.deliver(t, 0)

	var sub bought
	s.read(t, owner, "GET", "/v1/subscription", nil, &sub)
	if sub.Status != "active" || sub.Seats != 6 || sub.LicenseID == nil {
		t.Fatalf("bought %+v", sub)
	}
	if again := s.must(t, 409, owner, "POST", "/v1/checkout", order(6)); again.Code != "already_subscribed" {
		t.Errorf("a second order was answered %s", again.Code)
	}
	key := s.must(t, 200, owner, "POST", fmt.Sprintf("/v1/licenses/%s/rotate-key", sub.LicenseID), object{"overlap_seconds": 0}).LicenseKey
	seat := s.must(t, 201, "", "POST", "/v1/acquire", question(key, "laptop"))
	if seat.MaxSeats != 6 {
		t.Errorf("sits on one of %d seats", seat.MaxSeats)
	}
	s.read(t, owner, "POST", "/v1/subscription/seats", object{"seats": 8}, &sub)
	if again := s.must(t, 200, "", "POST", "/v1/acquire", question(key, "laptop")); sub.Seats != 8 || again.MaxSeats != 8 {
		t.Errorf("after buying two more there are %d of the subscription and %d of the licence", sub.Seats, again.MaxSeats)
	}
	s.read(t, owner, "POST", "/v1/subscription/seats", object{"seats": 5}, &sub)
	if sub.Seats != 8 || sub.NextSeats != 5 {
		t.Errorf("after a downgrade there are %d seats now and %d then", sub.Seats, sub.NextSeats)
	}

	customer := s.stripe.Find("customer", "")[0]
	s.stripe.Card(customer, false)
	s.stripe.Advance(32 * 24 * time.Hour)
	n = s.deliver(t, n)
	s.read(t, owner, "GET", "/v1/subscription", nil, &sub)
	if sub.Status != "past_due" || sub.Seats != 5 || sub.Trouble == nil || *sub.Trouble != "payment_failed" {
		t.Errorf("after a renewal that failed it is %+v", sub)
	}
	s.must(t, 200, seat.SeatToken, "POST", "/v1/heartbeat", nil) // the grace has just begun
	s.stripe.Card(customer, true)
	s.stripe.Pay(customer)
	n = s.deliver(t, n)
	s.read(t, owner, "GET", "/v1/subscription", nil, &sub)
	if sub.Status != "active" || sub.Trouble != nil {
		t.Errorf("after the payment it is %+v", sub)
	}
	s.must(t, 200, seat.SeatToken, "POST", "/v1/heartbeat", nil)

	s.stripe.Refund(customer, 0)
	n = s.deliver(t, n)
	s.must(t, 200, seat.SeatToken, "POST", "/v1/heartbeat", nil) // the period before that one is paid

	// Another organisation has its first payment given back: it loses its seat, and is told why.
	other := s.token(object{"aud": people, "sub": "oskar", "email": "oskar@example.com", "email_verified": true})
	s.must(t, 201, other, "POST", "/v1/register", object{"organization_name": "Other"})
	s.stripe.Rewind()
	s.read(t, other, "POST", "/v1/checkout", order(5), &page)
	s.stripe.Complete(s.stripe.Find("checkout.session", "")[0], false)
	n = s.deliver(t, n)
	s.read(t, other, "GET", "/v1/subscription", nil, &sub)
	if sub.LicenseID == nil || s.stripe.Find("customer", "")[0] == customer {
		t.Fatalf("the other organisation has bought %+v", sub)
	}
	theirs := s.must(t, 200, other, "POST", fmt.Sprintf("/v1/licenses/%s/rotate-key", sub.LicenseID), object{"overlap_seconds": 0}).LicenseKey
	seat = s.must(t, 201, "", "POST", "/v1/acquire", question(theirs, "laptop"))
	s.stripe.Refund(s.stripe.Find("customer", "")[0], 0)
	s.deliver(t, n)
	if kept := testenv.Value[string](t, s.postgres, `SELECT status || ' ' || status_reason FROM app.licenses WHERE id = $1`, *sub.LicenseID); kept != "suspended payment_refunded" {
		t.Errorf("after a refund the licence is %s", kept)
	}
	if lost := s.must(t, 410, seat.SeatToken, "POST", "/v1/heartbeat", nil); lost.Code != "seat_evicted" {
		t.Errorf("after a refund the heartbeat is answered %s", lost.Code)
	}
	if told := testenv.Value[string](t, s.postgres, `SELECT evict_reason || ' by ' || evicted_by FROM app.open_sessions WHERE id = $1`, seat.SessionID); told != "license_suspended by stripe:payment_refunded" {
		t.Errorf("the holder is told %s", told)
	}
	// Whom that concerns was told: by mail, and the vendor's systems by events.
	for query, want := range map[string]string{
		`SELECT string_agg(kind || ' to ' || recipient, ', ' ORDER BY kind, recipient) FROM app.mails WHERE kind <> 'welcome'`: "license_key to olivia@example.com, " +
			"license_key to oskar@example.com, license_suspended to oskar@example.com, payment_failed to olivia@example.com",
		`SELECT string_agg(DISTINCT type, ' ' ORDER BY type) FROM app.events WHERE type !~ '^seat'`: "license.changed license.created license.key_rotated " +
			"license.suspended subscription.changed subscription.created subscription.payment_failed subscription.renewed",
	} {
		if told := testenv.Value[string](t, s.postgres, query); told != want {
			t.Errorf("told are\n%s, want\n%s", told, want)
		}
	}
	for _, at := range []struct {
		path string
		body any
	}{{"cancel", nil}, {"resume", nil}, {"cancel", nil}, {"cancel", object{"accept_offer": true}}, {"portal", nil}, {"cancel", object{"cancel_type": "immediate"}}} {
		s.read(t, owner, "POST", "/v1/subscription/"+at.path, at.body, &struct{}{})
	}
	s.must(t, 200, s.token(schedulerClaims), "POST", "/tasks/expire", nil)
	s.asked.holdToStripe(t)
	s.log.Hides(t, key, stripeSecret, stripeKey)
}

// What is used is counted, reported, and billed: what the service says of the period is what the invoice asks for.
func TestWhatIsUsedIsOnTheInvoiceToTheUnit(t *testing.T) {
	t.Parallel()
	s := start(t)
	owner := s.owner(t)
	s.stripe.Advance(-48 * time.Hour) // it was bought two days ago
	s.must(t, 201, owner, "POST", "/v1/checkout", order(5))
	s.stripe.Complete(s.stripe.Find("checkout.session", "")[0], false)
	n := s.deliver(t, 0)
	s.stripe.Advance(48 * time.Hour)
	var sub bought
	s.read(t, owner, "GET", "/v1/subscription", nil, &sub)
	if sub.LicenseID == nil {
		t.Fatalf("bought %+v", sub)
	}
	key := s.must(t, 200, owner, "POST", fmt.Sprintf("/v1/licenses/%s/rotate-key", sub.LicenseID), object{"overlap_seconds": 0}).LicenseKey
	seat := s.must(t, 201, "", "POST", "/v1/acquire", question(key, "laptop"))
	event := func(id, metric string, quantity int, ago time.Duration) object {
		return object{"id": id, "metric": metric, "quantity": quantity, "occurred_at": time.Now().Add(-ago).UTC()}
	}
	use := func(status int, events ...object) {
		t.Helper()
		s.must(t, status, seat.SeatToken, "POST", "/v1/usage", object{"events": events})
	}
	use(202, event("a", "calls", 20, 30*time.Hour), event("b", "calls", 3, 5*time.Hour), event("c", "clicks", 10, 5*time.Hour), event("a", "calls", 20, 30*time.Hour))
	// Two more sit than there are seats, within the overdraft, one of them since the day before yesterday, when it was bought.
	operator := s.operator(t)
	var acme struct {
		TenantID uuid.UUID `json:"tenant_id"`
	}
	s.read(t, owner, "GET", "/v1/me", nil, &acme)
	s.must(t, 200, operator, "PATCH", fmt.Sprintf("/v1/licenses/%s?tenant_id=%s", sub.LicenseID, acme.TenantID), object{"overdraft_seats": 2})
	for _, device := range []string{"b", "c", "d", "e", "f", "g"} {
		s.must(t, 201, "", "POST", "/v1/acquire", question(key, device))
	}
	hour := time.Now().UTC().Truncate(time.Hour)
	s.postgres.Exec(t, `UPDATE app.open_sessions SET acquired_at = CASE WHEN seat_no = 6 THEN $1::timestamptz ELSE $2 END WHERE seat_no IN (6, 7)`,
		hour.Add(-30*time.Hour).Add(59*time.Minute), hour.Add(-2*time.Hour).Add(time.Minute))
	overdraft := int64(30 + 2)
	if time.Since(hour) < 6*time.Minute { // the hour before is not counted yet
		overdraft -= 2
	}
	use(402, event("d", "clicks", 1, time.Hour))
	use(422, event("d", "nothing", 1, time.Hour))
	scheduler := s.token(schedulerClaims)
	s.must(t, 401, owner, "POST", "/tasks/meter", nil)
	s.must(t, 200, scheduler, "POST", "/tasks/meter", nil)
	use(202, event("e", "calls", 4, 5*time.Hour)) // late
	s.must(t, 200, scheduler, "POST", "/tasks/meter", nil)
	s.must(t, 200, scheduler, "POST", "/tasks/meter", nil)

	var shown struct {
		Items []struct {
			Metric   string
			Quantity int64
			Quota    *int64
			Billing  *struct{ Quantity, Reported int64 }
		}
	}
	s.read(t, owner, "GET", "/v1/usage?license_id="+sub.LicenseID.String(), nil, &shown)
	if len(shown.Items) != 3 || shown.Items[0].Metric != "calls" || *shown.Items[0].Quota != 1000 || shown.Items[0].Billing == nil ||
		shown.Items[0].Billing.Quantity != 27 || shown.Items[0].Billing.Reported != 27 || shown.Items[1].Billing.Reported != 0 ||
		shown.Items[2].Metric != "overdraft_seat_hours" || shown.Items[2].Billing.Quantity != overdraft || shown.Items[2].Billing.Reported != overdraft {
		t.Fatalf("shown are %+v", shown.Items)
	}
	s.must(t, 200, scheduler, "POST", "/tasks/expire", nil) // compares
	s.asked.holdToStripe(t)
	s.stripe.Advance(31 * 24 * time.Hour)
	s.deliver(t, n)
	lines := s.stripe.Get(s.stripe.Find("invoice", "")[0])["lines"].(object)["data"].([]any)
	billed := map[any]any{}
	for _, line := range lines {
		billed[line.(object)["price"].(object)["id"]] = line.(object)["quantity"]
	}
	if fmt.Sprint(billed) != fmt.Sprintf("map[price_base:1 price_calls:27 price_overdraft:%d]", overdraft) {
		t.Errorf("the invoice asks for %v", billed)
	}
	s.read(t, owner, "GET", "/v1/subscription", nil, &sub)
	if sub.Status != "active" || sub.Seats != 5 {
		t.Errorf("after the renewal it is %+v", sub)
	}
	s.log.Hides(t, key, seat.SeatToken)
}

// Outcome: who tries it keeps key and seat through the end of the trial and through buying it.
func TestATrialFallsToTheFreeTierAndIsBoughtUnderTheSameKey(t *testing.T) {
	t.Parallel()
	s := start(t)
	owner := s.owner(t)
	trial := s.must(t, 201, owner, "POST", "/v1/trial", object{"product": "editor", "hardware_id": "laptop"})
	first := s.must(t, 201, "", "POST", "/v1/acquire", question(trial.LicenseKey, "laptop"))
	second := s.must(t, 201, "", "POST", "/v1/acquire", question(trial.LicenseKey, "desktop"))
	if first.SeatNo != 1 || second.SeatNo != 2 || second.MaxSeats != 3 {
		t.Fatalf("sit on %d and %d of %d", first.SeatNo, second.SeatNo, second.MaxSeats)
	}
	s.postgres.Exec(t, fmt.Sprintf(`SELECT set_config('app.current_tenant_id', tenant_id::text, true) FROM app.licenses WHERE on_trial;
		UPDATE app.licenses SET expires_at = now() - interval '1 minute', grace_until = now() + interval '1 day' WHERE id = '%s'`, trial.License.ID))
	s.must(t, 200, s.token(schedulerClaims), "POST", "/tasks/expire", nil)
	if kept := s.must(t, 200, first.SeatToken, "POST", "/v1/heartbeat", nil); kept.MaxSeats != 1 {
		t.Errorf("after the trial there are %d seats", kept.MaxSeats)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if status, got := s.call(t, second.SeatToken, "POST", "/v1/heartbeat", nil); status != 410 {
			return fmt.Errorf("who sits above the free tier's seats is answered %d %s", status, got.Code)
		}
		return nil
	})

	var page struct{}
	s.read(t, owner, "POST", "/v1/checkout", order(5), &page)
	s.stripe.Complete(s.stripe.Find("checkout.session", "")[0], false)
	s.deliver(t, 0)
	var sub bought
	s.read(t, owner, "GET", "/v1/subscription", nil, &sub)
	if sub.LicenseID == nil || *sub.LicenseID != trial.License.ID {
		t.Errorf("what was bought is %+v, and the trial's licence is %s", sub, trial.License.ID)
	}
	if seat := s.must(t, 201, "", "POST", "/v1/acquire", question(trial.LicenseKey, "tablet")); seat.MaxSeats != 5 {
		t.Errorf("the trial's key opens %d seats", seat.MaxSeats)
	}
	if told := testenv.Value[string](t, s.postgres, `SELECT string_agg(type, ' ' ORDER BY type) FROM app.events WHERE type ~ '^(trial|subscription)'`); told != "subscription.created trial.bought trial.ended trial.started" {
		t.Errorf("told is %s", told)
	}
	s.log.Hides(t, trial.LicenseKey)
}
