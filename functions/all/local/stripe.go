package local

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/billing/stripesim"
)

// stripePath is where the stand-in for Stripe is, beside the functions.
const stripePath = "/local/stripe"

// demoCatalog is what the demo sells. Enterprise is sold by invoice, and the plan free costs nothing.
var demoCatalog = billing.Catalog{
	"pro": {
		Currency: "usd", Monthly: &billing.Offer{Seat: &billing.Price{ID: "price_pro_seat_monthly", Amount: 5800}},
		Annual: &billing.Offer{Seat: &billing.Price{ID: "price_pro_seat_annual", Amount: 58000}},
	},
	"team": {
		IncludedSeats: 5, Currency: "usd", Monthly: &billing.Offer{
			Base: &billing.Price{ID: "price_team_monthly", Amount: 29000}, Seat: &billing.Price{ID: "price_team_seat_monthly", Amount: 5000},
			Metered: []billing.MeteredPrice{{
				Price: billing.Price{ID: "price_team_agent_invocation", Amount: 1}, Metric: demoMetric, EventName: demoMetric,
			}},
		},
	},
	"enterprise": {ByInvoice: true},
}

// startStripe plays Stripe, with a state that is kept, and answers the settings by which functions find it.
func startStripe(dir, base, secret string) (*stripesim.Sim, map[string]string, error) {
	const key = "sk_test_local"
	sim, err := stripesim.New(stripesim.Options{
		URL: base + stripePath, Key: key, Prices: prices(demoCatalog), Coupon: "stay", File: filepath.Join(dir, "stripe.json"),
		Webhook: base + "/v1/stripe/webhook", Secret: secret,
	})
	if err != nil {
		return nil, nil, err
	}
	catalog, err := json.Marshal(demoCatalog)
	if err != nil {
		return nil, nil, fmt.Errorf("write the catalogue: %w", err)
	}
	return sim, map[string]string{
		"STRIPE_API_KEY": key, "STRIPE_URL": base + stripePath, "STRIPE_CATALOG": string(catalog),
		"BILLING_ORIGINS": base, "STRIPE_RETENTION_COUPON": "stay",
	}, nil
}

// prices are what a catalogue asks Stripe to have.
func prices(c billing.Catalog) []stripesim.Price {
	var all []stripesim.Price
	for _, plan := range c {
		for interval, offer := range map[string]*billing.Offer{"month": plan.Monthly, "year": plan.Annual} {
			if offer == nil {
				continue
			}
			for _, price := range []*billing.Price{offer.Base, offer.Seat} {
				if price != nil {
					all = append(all, stripesim.Price{ID: price.ID, Amount: price.Amount, Currency: plan.Currency, Interval: interval})
				}
			}
			for _, m := range offer.Metered {
				all = append(all, stripesim.Price{ID: m.ID, Amount: m.Amount, Currency: plan.Currency, Interval: interval, Meter: m.EventName, UsageRecords: m.UsageRecords})
			}
		}
	}
	return all
}
