package billing_test

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/billing/stripesim"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// client is a client of a history's Stripe with another catalogue.
func (h *history) client(catalog string) *billing.Stripe {
	h.t.Helper()
	var c billing.Catalog
	must(h.t, c.UnmarshalText([]byte(catalog)))
	stripe, err := billing.NewStripe(billing.Config{APIKey: config.Secret(key), URL: h.server.URL, Timeout: 4 * time.Second, Catalog: c})
	must(h.t, err)
	return stripe
}

func TestWhoBoughtAtAPriceThatWasReplacedKeepsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.begin()
	buy(h)
	const replaced = `{"team": {"included_seats": 5, "currency": "usd", "monthly": {
		"base": {"id": "price_base_2", "amount": 39000, "former": ["price_base"]}, "seat": {"id": "price_seat_2", "amount": 6000, "former": ["price_seat"]}}}}`
	books := func(stripe *billing.Stripe) *billing.Books {
		return billing.NewBooks(billing.BooksDeps{DB: w.pool, Stripe: stripe, Registry: w.registry, Notices: w.notices, Now: h.now, Log: w.log.Logger})
	}
	stranded := h.client(strings.NewReplacer(`, "former": ["price_base"]`, "", `, "former": ["price_seat"]`, "").Replace(replaced))
	if _, err := books(stranded).Settle(t.Context(), tenancy.Verified(h.tenant), h.sub, "test"); err == nil {
		t.Fatal("without former prices it is settled: nothing is proved")
	}
	h.stripe = h.client(replaced)
	h.books = books(h.stripe)
	h.sim.Advance(24 * time.Hour)
	seats(9)(h)
	_, err := h.books.Settle(t.Context(), tenancy.Verified(h.tenant), h.sub, "test")
	must(t, err)
	if got := testenv.Value[string](t, w.db, `SELECT s.plan_code || ' ' || s.seats || ' ' || l.max_seats FROM app.subscriptions s JOIN app.licenses l ON l.id = s.license_id WHERE s.tenant_id = $1`, h.tenant); got != "team 9 9" {
		t.Errorf("sold is %s", got)
	}
	var items []string
	for _, item := range h.sim.Get(h.sub)["items"].(map[string]any)["data"].([]any) {
		item := item.(map[string]any)
		items = append(items, fmt.Sprint(item["price"].(map[string]any)["id"], " ", item["quantity"]))
	}
	if want := []string{"price_base 1", "price_seat 4"}; !slices.Equal(items, want) {
		t.Errorf("it is subscribed to %q, want %q", items, want)
	}
	// Nobody buys at it any more, and what there is of it at Stripe is checked.
	var c billing.Catalog
	must(t, c.UnmarshalText([]byte(replaced)))
	lines, err := c.Lines("team", billing.Monthly, 6)
	if err != nil || len(lines) != 2 || lines[0].Price != "price_base_2" || lines[1].Price != "price_seat_2" {
		t.Errorf("sells %v, %v", lines, err)
	}
	missing := h.client(strings.NewReplacer("price_base_2", "price_base", `"former": ["price_base"]`, `"former": ["price_gone"]`, "39000", "29000",
		"price_seat_2", "price_calls", `"former": ["price_seat"]`, `"former": ["price_seat"]`).Replace(replaced))
	wrong, err := missing.CheckCatalog(t.Context())
	must(t, err)
	if text := strings.Join(wrong, "; "); !strings.Contains(text, "former base price price_gone: there is no such price") || strings.Contains(text, "price_seat:") {
		t.Errorf("the check names %q", text)
	}
	for _, twice := range []string{`["price_base_2"]`, `["price_seat_2"]`, `[""]`} {
		if err := new(billing.Catalog).UnmarshalText([]byte(strings.Replace(replaced, `["price_base"]`, twice, 1))); err == nil {
			t.Errorf("a former price %s was accepted", twice)
		}
	}
}

func TestWhatWasUsedIsBilledWhenASubscriptionIsCancelledAtOnceAndNothingIsGivenBack(t *testing.T) {
	t.Parallel()
	sim, err := stripesim.New(stripesim.Options{Key: key, Prices: meteredPrices, Frozen: epoch})
	must(t, err)
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	h := &history{world: &world{t: t}, sim: sim, server: server}
	h.customer = h.made("/v1/customers", "name=Acme")
	h.session = h.made("/v1/checkout/sessions", "mode=subscription&success_url=x&customer="+h.customer+
		"&line_items[0][price]=price_base&line_items[0][quantity]=1&line_items[1][price]=price_calls")
	buy(h)
	sim.Advance(3 * 24 * time.Hour)
	r := httptest.NewRequest("POST", "/v1/billing/meter_events", strings.NewReader(fmt.Sprintf(
		"event_name=calls_used&identifier=1&timestamp=%d&payload[stripe_customer_id]=%s&payload[value]=7", sim.Now().Add(-time.Hour).Unix(), h.customer)))
	r.Header.Set("Authorization", "Bearer "+key)
	recorder := httptest.NewRecorder()
	sim.ServeHTTP(recorder, r)
	if recorder.Code != 200 {
		t.Fatal(recorder.Body)
	}
	h.stripe = h.client(meteredCatalog)
	cancels(true)(h)
	invoices := sim.Find("invoice", h.customer)
	if len(invoices) != 2 {
		t.Fatalf("there are the invoices %v, want one more than of the purchase", invoices)
	}
	if last := sim.Get(invoices[0]); fmt.Sprint(last["total"], last["status"]) != "14paid" {
		t.Errorf("the last invoice asks for %v, %v, want 14 for 7 calls", last["total"], last["status"])
	}
}
