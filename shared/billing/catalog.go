package billing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/coditect/usher/shared/fault"
)

// The cycles in which a plan is paid.
const (
	Monthly = "monthly"
	Annual  = "annual"
)

// mostSeats is as many as a licence may have.
const mostSeats = 100_000

// Price is one of Stripe's, and what it has to say there.
type Price struct {
	// ID is Stripe's own: price_…
	ID string `json:"id"`
	// Amount is for one unit and cycle, in minor units of the plan's currency.
	Amount int64 `json:"amount"`
	// Former are the ids of prices that this one has replaced. Nobody buys at them any more; who did keeps them.
	Former []string `json:"former,omitempty"`
}

// is says whether the id is the price's, or that of one it has replaced.
func (p *Price) is(id string) bool { return id == p.ID || slices.Contains(p.Former, id) }

// MeteredPrice is a Price for what is used, billed when a period is over.
type MeteredPrice struct {
	Price
	// Metric is the plan's, whose units are billed.
	Metric string `json:"metric"`
	// EventName is that of the meter at Stripe which the price there goes by. It adds up values, by stripe_customer_id.
	EventName string `json:"event_name,omitempty"`
	// UsageRecords says that the price is of Stripe's older form: it goes by no meter, and hears of usage by usage records of the
	// subscription. There is no EventName then.
	UsageRecords bool `json:"usage_records,omitempty"`
}

// target is by what Stripe knows the usage: the name of meter events, or the price that usage records are for.
func (m *MeteredPrice) target() string {
	if m.UsageRecords {
		return m.ID
	}
	return m.EventName
}

// Offer is what a plan costs in one cycle. Base is paid once, Seat for each seat that is not included; at least one of
// them is there. Metered are the prices of what is used.
type Offer struct {
	Base    *Price         `json:"base,omitempty"`
	Seat    *Price         `json:"seat,omitempty"`
	Metered []MeteredPrice `json:"metered,omitempty"`
}

// metered says whether the id is one of a metered price.
func (o *Offer) metered(price string) bool {
	return slices.ContainsFunc(o.Metered, func(m MeteredPrice) bool { return m.is(price) })
}

// Plan is how a plan of the catalogue is sold.
type Plan struct {
	// IncludedSeats come with Base, and are the fewest that are sold; 0 is one.
	IncludedSeats int `json:"included_seats,omitempty"`
	// Currency is ISO 4217 in lower case: usd.
	Currency string `json:"currency,omitempty"`
	// Monthly and Annual are nil where the plan is not sold so.
	Monthly *Offer `json:"monthly,omitempty"`
	Annual  *Offer `json:"annual,omitempty"`
	// ByInvoice says that the operator sells it, by an invoice and not at the checkout.
	ByInvoice bool `json:"by_invoice,omitempty"`
}

// Catalog says what is sold, by the codes of plans. What is not in it costs nothing, or is not for sale.
type Catalog map[string]Plan

// UnmarshalText reads the catalogue from JSON, as STRIPE_CATALOG holds it, and refuses one that contradicts itself.
func (c *Catalog) UnmarshalText(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	read := map[string]Plan{}
	if err := decoder.Decode(&read); err != nil {
		return fmt.Errorf("read the catalogue: %w", err)
	}
	used := map[string]bool{}
	for _, code := range slices.Sorted(maps.Keys(read)) {
		plan := read[code]
		if plan.ByInvoice == (plan.Monthly != nil || plan.Annual != nil) {
			return fmt.Errorf("plan %s is sold by invoice or has prices, and not both", code)
		}
		for cycle, offer := range plan.offers() {
			if offer.Base == nil && offer.Seat == nil || plan.Currency == "" || offer.Base == nil && plan.IncludedSeats > 1 {
				return fmt.Errorf("plan %s %s has no price, no currency, or seats that are included in nothing", code, cycle)
			}
			for _, price := range []*Price{offer.Base, offer.Seat} {
				if price == nil {
					continue
				}
				if price.Amount <= 0 || !price.claim(used) {
					return fmt.Errorf("plan %s %s has a price without id or amount, or one that is used twice", code, cycle)
				}
			}
			for i, m := range offer.Metered {
				if m.Amount <= 0 || !m.claim(used) || m.Metric == "" || m.UsageRecords != (m.EventName == "") || len(m.target()) > 100 ||
					slices.ContainsFunc(offer.Metered[:i], func(o MeteredPrice) bool { return o.Metric == m.Metric || o.target() == m.target() }) {
					return fmt.Errorf("plan %s %s has a metered price without id, amount, metric, or either event name or usage records, or one that is used twice", code, cycle)
				}
			}
		}
	}
	*c = read
	return nil
}

// claim takes the price's ids for it alone; false when one is empty or was taken before.
func (p *Price) claim(used map[string]bool) bool {
	for _, id := range append([]string{p.ID}, p.Former...) {
		if id == "" || used[id] {
			return false
		}
		used[id] = true
	}
	return true
}

func (p Plan) offers() map[string]*Offer {
	offers := map[string]*Offer{}
	if p.Monthly != nil {
		offers[Monthly] = p.Monthly
	}
	if p.Annual != nil {
		offers[Annual] = p.Annual
	}
	return offers
}

// included is how many seats are paid by the base price; without one it is none.
func (p Plan) included(offer *Offer) int {
	if offer.Base == nil {
		return 0
	}
	return max(p.IncludedSeats, 1)
}

// Metered is the price of what is used of a metric; not ok where it has none.
func (c Catalog) Metered(code, cycle, metric string) (price MeteredPrice, ok bool) {
	offer := c[code].offers()[cycle]
	if offer == nil {
		return MeteredPrice{}, false
	}
	i := slices.IndexFunc(offer.Metered, func(m MeteredPrice) bool { return m.Metric == metric })
	if i < 0 {
		return MeteredPrice{}, false
	}
	return offer.Metered[i], true
}

// same says whether the id is that of the metered price, or of one that it has replaced.
func (c Catalog) same(price, id string) bool {
	for _, plan := range c {
		for _, offer := range plan.offers() {
			for _, m := range offer.Metered {
				if m.ID == price {
					return m.is(id)
				}
			}
		}
	}
	return id == price
}

// Line is so many of a price; 0 of a metered one, which is bought without a number.
type Line struct {
	Price    string
	Quantity int64

	former []string
}

// is says whether the id is that of the line's price, or of one that it has replaced.
func (l Line) is(id string) bool { return id == l.Price || slices.Contains(l.former, id) }

// Lines are what is bought. What is not sold so is a fault.Invalid that names the field.
func (c Catalog) Lines(code, cycle string, seats int) ([]Line, error) {
	wrong := func(field, codeWord, format string, args ...any) error {
		return fault.Invalid("This is not for sale.", fault.Field{Field: field, Code: codeWord, Detail: fmt.Sprintf(format, args...)})
	}
	plan, ok := c[code]
	switch {
	case !ok:
		return nil, wrong("plan", "not_allowed", "There is no such plan to subscribe to.")
	case plan.ByInvoice:
		return nil, wrong("plan", "not_allowed", "This plan is sold by invoice. Ask the vendor.")
	}
	offer := plan.offers()[cycle]
	if offer == nil {
		return nil, wrong("cycle", "not_allowed", "The plan is not sold in this cycle.")
	}
	included := plan.included(offer)
	least := max(included, 1)
	most := mostSeats
	if offer.Seat == nil {
		most = included
	}
	if seats < least || seats > most {
		return nil, wrong("seats", "out_of_range", "The plan is sold with %d to %d seats.", least, most)
	}
	var lines []Line
	if offer.Base != nil {
		lines = append(lines, Line{offer.Base.ID, 1, offer.Base.Former})
	}
	if further := seats - included; offer.Seat != nil && further > 0 {
		lines = append(lines, Line{offer.Seat.ID, int64(further), offer.Seat.Former})
	}
	for _, m := range offer.Metered {
		lines = append(lines, Line{m.ID, 0, m.Former})
	}
	return lines, nil
}

// Reads answers what the lines of a subscription buy, the other way round than Lines; not ok when they are not of one
// plan and cycle of the catalogue.
func (c Catalog) Reads(lines []Line) (code, cycle string, seats int, ok bool) {
	for code, plan := range c {
		for cycle, offer := range plan.offers() {
			if seats, ok := plan.reads(offer, lines); ok {
				return code, cycle, seats, true
			}
		}
	}
	return "", "", 0, false
}

func (p Plan) reads(offer *Offer, lines []Line) (seats int, ok bool) {
	base := offer.Base == nil
	for _, line := range lines {
		switch {
		case offer.Base != nil && offer.Base.is(line.Price) && line.Quantity == 1:
			base = true
		case offer.Seat != nil && offer.Seat.is(line.Price) && line.Quantity >= 0 && line.Quantity <= mostSeats:
			seats += int(line.Quantity)
		case offer.metered(line.Price):
		default:
			return 0, false
		}
	}
	seats += p.included(offer)
	return seats, base && seats >= 1 && seats <= mostSeats
}
