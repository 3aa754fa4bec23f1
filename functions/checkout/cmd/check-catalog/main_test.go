package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coditect/usher/shared/billing/stripesim"
)

func TestEveryDifferenceBetweenCatalogueAndStripeIsNamed(t *testing.T) {
	t.Parallel()
	sim, err := stripesim.New(stripesim.Options{Key: "sk_test_catalog", Prices: []stripesim.Price{
		{ID: "price_base", Amount: 29000, Currency: "usd", Interval: "month"},
		{ID: "price_seat", Amount: 5000, Currency: "eur", Interval: "year"},
		{ID: "price_calls", Amount: 2, Currency: "usd", Interval: "month", Meter: "calls_used"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim)
	defer server.Close()
	check := func(catalog, key string) (int, string) {
		var out, messages strings.Builder
		code := run(t.Context(), func(name string) string {
			return map[string]string{"STRIPE_API_KEY": key, "STRIPE_URL": server.URL, "STRIPE_CATALOG": catalog}[name]
		}, &out, &messages)
		return code, out.String() + messages.String()
	}
	for _, c := range []struct {
		catalog, key string
		code         int
		says         string
	}{
		{`{"team": {"currency": "usd", "monthly": {"base": {"id": "price_base", "amount": 29000}}}, "enterprise": {"by_invoice": true}}`, "sk_test_catalog", 0, "Catalogue and Stripe agree.\n"},
		{
			`{"team": {"currency": "usd", "monthly": {"base": {"id": "price_base", "amount": 1}, "seat": {"id": "price_seat", "amount": 5000}}, "annual": {"base": {"id": "price_none", "amount": 1}}}}`, "sk_test_catalog", 1,
			"plan team, annual, base price price_none: there is no such price\n" +
				"plan team, monthly, base price price_base: its amount is 29000 at Stripe and 1 in the catalogue\n" +
				"plan team, monthly, seat price price_seat: its currency is eur at Stripe and usd in the catalogue\n" +
				"plan team, monthly, seat price price_seat: its interval is year at Stripe and month in the catalogue\n",
		},
		{
			`{"team": {"currency": "usd", "monthly": {"base": {"id": "price_base", "amount": 29000}, "metered": [
			    {"id": "price_calls", "amount": 2, "metric": "calls", "event_name": "calls_used"}]}}}`, "sk_test_catalog", 0, "Catalogue and Stripe agree.\n",
		},
		{
			`{"team": {"currency": "usd", "monthly": {"base": {"id": "price_calls", "amount": 2}, "metered": [
			    {"id": "price_base", "amount": 29000, "metric": "pages", "event_name": "pages_used"}]}}}`, "sk_test_catalog", 1,
			"plan team, monthly, base price price_calls: its usage type is metered at Stripe and licensed in the catalogue\n" +
				"plan team, monthly, metered price price_base: its usage type is licensed at Stripe and metered in the catalogue\n" +
				"plan team, monthly, metered price price_base: its meter's event name is  at Stripe and pages_used in the catalogue\n",
		},
		{`{`, "sk_test_catalog", 2, "STRIPE_CATALOG"},
		{`{"team": {"currency": "usd", "monthly": {"base": {"id": "price_base", "amount": 29000}}}}`, "sk_test_other", 2, "price_base"},
	} {
		code, says := check(c.catalog, c.key)
		if code != c.code || says != c.says && (c.code < 2 || !strings.Contains(says, c.says)) || strings.Contains(says, c.key) {
			t.Errorf("%s: exit code %d, says\n%s", c.catalog, code, says)
		}
	}
}
