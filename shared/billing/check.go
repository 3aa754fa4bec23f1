package billing

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stripe/stripe-go/v76"
)

// The usage types of prices.
const (
	licensed = string(stripe.PriceRecurringUsageTypeLicensed)
	metered  = string(stripe.PriceRecurringUsageTypeMetered)
)

// CheckCatalog holds the catalogue against the prices at Stripe, and answers every difference, each a sentence that names the
// plan, the cycle and the price; none is nil. An error is Stripe that does not answer.
func (s *Stripe) CheckCatalog(ctx context.Context) ([]string, error) {
	var wrong []string
	for _, code := range slices.Sorted(maps.Keys(s.catalog)) {
		plan := s.catalog[code]
		offers := plan.offers()
		for _, cycle := range slices.Sorted(maps.Keys(offers)) {
			type part struct {
				name  string
				price *Price
				usage string // its type at Stripe
				meter string // the event name of a metered price's, "" for one without a meter
			}
			parts := []part{{"base", offers[cycle].Base, licensed, ""}, {"seat", offers[cycle].Seat, licensed, ""}}
			for _, m := range offers[cycle].Metered {
				parts = append(parts, part{"metered", &m.Price, metered, m.EventName})
			}
			for _, part := range parts {
				if part.price == nil {
					continue
				}
				for _, id := range append([]string{part.price.ID}, part.price.Former...) {
					name := part.name
					if id != part.price.ID {
						name = "former " + name
					}
					faults, err := s.checkPrice(ctx, plan.Currency, cycle, id, *part.price, part.usage, part.meter)
					if err != nil {
						return nil, err
					}
					for _, f := range faults {
						wrong = append(wrong, fmt.Sprintf("plan %s, %s, %s price %s: %s", code, cycle, name, id, f))
					}
				}
			}
		}
	}
	return wrong, nil
}

// checkPrice holds a price at Stripe against the catalogue's, or against one that replaced it: then it may have had another amount,
// and be archived.
func (s *Stripe) checkPrice(ctx context.Context, currency, cycle, id string, want Price, wantUsage, meter string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	have, err := s.api.Prices.Get(id, &stripe.PriceParams{Params: params(ctx, "")})
	if isMissing(err) {
		return []string{"there is no such price"}, nil
	} else if err != nil {
		return nil, asked("read price "+id, err)
	}
	var faults []string
	differs := func(what string, have, want any) {
		if have != want {
			faults = append(faults, fmt.Sprintf("its %s is %v at Stripe and %v in the catalogue", what, have, want))
		}
	}
	differs("currency", strings.ToLower(string(have.Currency)), currency)
	if id == want.ID {
		differs("amount", have.UnitAmount, want.Amount)
		if !have.Active {
			faults = append(faults, "it is archived")
		}
	}
	interval, count, usage := "once", int64(0), ""
	if have.Recurring != nil {
		interval, count, usage = string(have.Recurring.Interval), have.Recurring.IntervalCount, string(have.Recurring.UsageType)
	}
	differs("interval", interval, map[string]string{Monthly: "month", Annual: "year"}[cycle])
	if have.Recurring != nil {
		differs("interval count", max(count, 1), int64(1))
		differs("usage type", usage, wantUsage)
		if wantUsage == metered {
			name, err := s.eventName(ctx, have.Recurring.Meter)
			if err != nil {
				return nil, err
			}
			differs("meter's event name", name, meter)
			if meter == "" { // usage is the sum of its records
				differs("aggregation of usage", string(have.Recurring.AggregateUsage), string(stripe.PriceRecurringAggregateUsageSum))
			}
		}
	}
	if have.BillingScheme != "" && have.BillingScheme != stripe.PriceBillingSchemePerUnit {
		faults = append(faults, "its billing scheme is "+string(have.BillingScheme)+", and the catalogue knows only per_unit")
	}
	return faults, nil
}

// eventName is that of a meter; "" when there is none.
func (s *Stripe) eventName(ctx context.Context, meter string) (string, error) {
	if meter == "" {
		return "", nil
	}
	have, err := s.api.BillingMeters.Get(meter, &stripe.BillingMeterParams{Params: params(ctx, "")})
	if isMissing(err) {
		return "", nil
	} else if err != nil {
		return "", asked("read meter "+meter, err)
	}
	return have.EventName, nil
}
