package metering_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/coditect/usher/shared/metering"
)

func TestSumsAreByTheHourAndMonthInUTCInWhichAnEventOccurred(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	events := []metering.Event{
		{Metric: "pages", Quantity: 1, OccurredAt: at("2030-01-31T23:59:59.999Z")},
		{Metric: "calls", Quantity: 2, OccurredAt: at("2030-02-01T00:00:00Z")},
		{Metric: "calls", Quantity: 4, OccurredAt: at("2030-02-01T00:30:00+01:00")}, // in UTC it is January
		{Metric: "calls", Quantity: 8, OccurredAt: at("2030-02-01T05:29:59+05:30")}, // and so is this
		{Metric: "calls", Quantity: 16, OccurredAt: at("2030-02-28T23:00:00Z")},
	}
	for _, c := range []struct {
		containing func(time.Time) time.Time
		want       string
	}{
		{metering.Month, "calls 2030-01-01 00:00 12, calls 2030-02-01 00:00 18, pages 2030-01-01 00:00 1, "},
		{metering.Hour, "calls 2030-01-31 23:00 12, calls 2030-02-01 00:00 2, calls 2030-02-28 23:00 16, pages 2030-01-31 23:00 1, "},
	} {
		var got string
		for _, s := range metering.Rollup(events, c.containing) {
			got += fmt.Sprintf("%s %s %d, ", s.Metric, s.From.Format("2006-01-02 15:04"), s.Quantity)
		}
		if got != c.want {
			t.Errorf("the sums are %s, want %s", got, c.want)
		}
	}
}

func TestACapIsReachedByTheLastUnitThatFitsAndPassedByTheNext(t *testing.T) {
	t.Parallel()
	hard, soft := metering.Metric{Cap: 10, CapType: metering.HardCap}, metering.Metric{Cap: 10, CapType: metering.SoftCap}
	quota := metering.Metric{Quota: 101, Cap: 1000, CapType: metering.HardCap}
	huge := metering.Metric{Quota: 1_000_000_000_000_000}
	for _, c := range []struct {
		metric       metering.Metric
		before, more int64
		warned       int
		want         metering.Verdict
	}{
		{hard, 9, 1, 0, metering.Verdict{}},
		{hard, 9, 2, 0, metering.Verdict{Refused: true}},
		{hard, 10, 1, 0, metering.Verdict{Refused: true}},
		{hard, 10, 0, 0, metering.Verdict{}},
		{hard, 12, 0, 0, metering.Verdict{}}, // the cap was lowered; what was counted twice is no reason to refuse
		{soft, 9, 1, 0, metering.Verdict{}},
		{soft, 9, 2, 0, metering.Verdict{BeyondCap: true}},
		{metering.Metric{}, math.MaxInt64 - 500, 500, 0, metering.Verdict{}},
		{quota, 80, 0, 0, metering.Verdict{}},
		{quota, 80, 1, 0, metering.Verdict{Warn: 80}}, // 80 % of 101 is 80.8
		{quota, 81, 19, 80, metering.Verdict{}},
		{quota, 81, 20, 80, metering.Verdict{Warn: 100}},
		{quota, 0, 101, 0, metering.Verdict{Warn: 100}},
		{quota, 101, 1, 100, metering.Verdict{}},
		{quota, 0, 1001, 0, metering.Verdict{Refused: true}},
		{huge, 799_999_999_999_999, 1, 0, metering.Verdict{Warn: 80}},
	} {
		if got := c.metric.Decide(c.before, c.more, c.warned); got != c.want {
			t.Errorf("%+v, %d and %d more, warned of %d: %+v, want %+v", c.metric, c.before, c.more, c.warned, got, c.want)
		}
	}
}
