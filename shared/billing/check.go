package billing

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stripe/stripe-go/v76"
)

// CheckCatalog holds the catalogue against the prices at Stripe, and answers every difference, each a sentence that names the
// plan, the cycle and the price; none is nil. An error is Stripe that does not answer.
func (s *Stripe) CheckCatalog(ctx context.Context) ([]string, error) {
	var wrong []string
	for _, code := range slices.Sorted(maps.Keys(s.catalog)) {
		plan := s.catalog[code]
		offers := plan.offers()
		for _, cycle := range slices.Sorted(maps.Keys(offers)) {
			for _, part := range []struct {
				name  string
				price *Price
			}{{"base", offers[cycle].Base}, {"seat", offers[cycle].Seat}} {
				if part.price == nil {
					continue
				}
				faults, err := s.checkPrice(ctx, plan.Currency, cycle, *part.price)
				if err != nil {
					return nil, err
				}
				for _, f := range faults {
					wrong = append(wrong, fmt.Sprintf("plan %s, %s, %s price %s: %s", code, cycle, part.name, part.price.ID, f))
				}
			}
		}
	}
	return wrong, nil
}

func (s *Stripe) checkPrice(ctx context.Context, currency, cycle string, want Price) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	have, err := s.api.Prices.Get(want.ID, &stripe.PriceParams{Params: params(ctx, "")})
	if isMissing(err) {
		return []string{"there is no such price"}, nil
	} else if err != nil {
		return nil, asked("read price "+want.ID, err)
	}
	var faults []string
	differs := func(what string, have, want any) {
		if have != want {
			faults = append(faults, fmt.Sprintf("its %s is %v at Stripe and %v in the catalogue", what, have, want))
		}
	}
	differs("currency", strings.ToLower(string(have.Currency)), currency)
	differs("amount", have.UnitAmount, want.Amount)
	if !have.Active {
		faults = append(faults, "it is archived")
	}
	interval, count, usage := "once", int64(0), ""
	if have.Recurring != nil {
		interval, count, usage = string(have.Recurring.Interval), have.Recurring.IntervalCount, string(have.Recurring.UsageType)
	}
	differs("interval", interval, map[string]string{Monthly: "month", Annual: "year"}[cycle])
	if have.Recurring != nil {
		differs("interval count", max(count, 1), int64(1))
		differs("usage type", usage, "licensed")
	}
	if have.BillingScheme != "" && have.BillingScheme != stripe.PriceBillingSchemePerUnit {
		faults = append(faults, "its billing scheme is "+string(have.BillingScheme)+", and the catalogue knows only per_unit")
	}
	return faults, nil
}
