package metering

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/coditect/usher/shared/fault"
)

// How far from now an event may have occurred, by the store's clock.
const (
	// Latest is how late an event may come: a week, so that a client that was offline over a weekend loses nothing. Stripe
	// takes usage that is up to 35 days old.
	Latest = 7 * 24 * time.Hour
	// Earliest is how far a client's clock may be ahead.
	Earliest = 5 * time.Minute
)

// The types of a cap.
const (
	SoftCap = "soft"
	HardCap = "hard"
)

// Event is a use that somebody reports.
type Event struct {
	// ID is the sender's own, 1 to 100 characters: within a tenant an id counts once.
	ID string
	// Metric is what was used, as a plan names it.
	Metric string
	// Quantity is from 1 to 1,000,000,000.
	Quantity   int64
	OccurredAt time.Time
}

// Metric is what a plan says of one.
type Metric struct {
	Name string
	// Quota is how many units a licence is expected to use in a calendar month; 0 is none.
	Quota int64
	// Cap is the most in a calendar month, and CapType, SoftCap or HardCap, what becomes of more; 0 and "" are none.
	Cap     int64
	CapType string
}

// Faults is what is wrong with events, by the fields of a request: a metric that is not the plan's, a time outside the
// window. Nil is nothing.
func Faults(events []Event, metrics []Metric, now time.Time) []fault.Field {
	var wrong []fault.Field
	for i, e := range events {
		if !slices.ContainsFunc(metrics, func(m Metric) bool { return m.Name == e.Metric }) {
			wrong = append(wrong, fault.Field{
				Field: fmt.Sprintf("events[%d].metric", i), Code: "not_allowed", Detail: "The licence's plan counts no such metric.",
			})
		}
		switch at := fmt.Sprintf("events[%d].occurred_at", i); {
		case e.OccurredAt.Before(now.Add(-Latest)):
			wrong = append(wrong, fault.Field{Field: at, Code: "out_of_range", Detail: "An event is reported within 7 days."})
		case e.OccurredAt.After(now.Add(Earliest)):
			wrong = append(wrong, fault.Field{Field: at, Code: "out_of_range", Detail: "An event lies at most 5 minutes ahead of the service's clock."})
		}
	}
	return wrong
}

// Sum is what was used of a metric in an hour, or in a month, that begins then.
type Sum struct {
	Metric   string
	From     time.Time
	Quantity int64
}

// Hour is the beginning of the hour in which a time lies, in UTC.
func Hour(t time.Time) time.Time { return t.UTC().Truncate(time.Hour) }

// Month is the beginning of the calendar month in which a time lies, in UTC.
func Month(t time.Time) time.Time {
	year, month, _ := t.UTC().Date()
	return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
}

// Rollup adds events up, by metric and by what contains the time of each, in that order.
func Rollup(events []Event, containing func(time.Time) time.Time) []Sum {
	type key struct {
		metric string
		from   time.Time
	}
	sums := map[key]int64{}
	for _, e := range events {
		sums[key{e.Metric, containing(e.OccurredAt)}] += e.Quantity
	}
	order := slices.SortedFunc(maps.Keys(sums), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.metric, b.metric), a.from.Compare(b.from))
	})
	all := make([]Sum, len(order))
	for i, k := range order {
		all[i] = Sum{k.metric, k.from, sums[k]}
	}
	return all
}

// Verdict is what follows when a month's sum grows.
type Verdict struct {
	// Refused says that a hard cap forbids it: nothing is counted.
	Refused bool
	// BeyondCap says that a soft cap was passed, now or before.
	BeyondCap bool
	// Warn is the percentage of the quota that is to be told of, 80 or 100; 0 is none. What was told is not told again, nor
	// is 80 beside 100.
	Warn int
}

// Decide says what follows when a month's sum of before grows by more, and the owners were warned of so many percent.
func (m Metric) Decide(before, more int64, warned int) Verdict {
	after := before + more
	var v Verdict
	v.Refused = m.CapType == HardCap && more > 0 && after > m.Cap
	v.BeyondCap = m.CapType == SoftCap && after > m.Cap
	switch {
	case m.Quota == 0 || v.Refused:
	case after >= m.Quota && warned < 100:
		v.Warn = 100
	case after >= m.Quota-m.Quota/5 && warned < 80:
		v.Warn = 80
	}
	return v
}
