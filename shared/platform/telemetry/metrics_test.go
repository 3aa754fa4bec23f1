package telemetry_test

import (
	"strconv"
	"testing"

	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/coditect/usher/shared/platform/telemetry"
)

var (
	counted  = telemetry.NewCounter("test.counted", "{thing}", "Things.", "kind", "status_code")
	measured = telemetry.NewHistogram("test.measured", "How long things take.", "kind")
	gauge    = telemetry.NewGauge("test.gauge", "{thing}", "Things that are.", "kind")
	reader   = sdkmetric.NewManualReader()
)

// The provider is the process's, as it is in a function.
func init() { otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))) }

func collect(t *testing.T, name string) metricdata.Aggregation {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name == name {
				return m.Data
			}
		}
	}
	return nil
}

func TestALabelThatIsNotBoundedBecomesOneMoreSeries(t *testing.T) {
	t.Parallel()
	for n := range telemetry.MaxSeries + 20 {
		counted.Add(t.Context(), 1, "kind"+strconv.Itoa(n), "200")
	}
	counted.Add(t.Context(), 1, "kind0", "200")
	sum, ok := collect(t, "test.counted").(metricdata.Sum[int64])
	if !ok || len(sum.DataPoints) != telemetry.MaxSeries+1 {
		t.Fatalf("%d series", len(sum.DataPoints))
	}
	for _, p := range sum.DataPoints {
		kind, _ := p.Attributes.Value("kind")
		status, _ := p.Attributes.Value("status_code")
		switch {
		case kind.AsString() == telemetry.Other:
			if p.Value != 20 || status.AsString() != telemetry.Other {
				t.Errorf("beyond the bound are %v of status %v", p.Value, status.AsString())
			}
		case status.AsInt64() != 200:
			t.Errorf("the status code is %v", status)
		case kind.AsString() == "kind0" && p.Value != 2:
			t.Errorf("%v", p.Value)
		}
	}
}

func TestAGaugeSaysWhatIsAndNotWhatWas(t *testing.T) {
	t.Parallel()
	gauge.Replace(func(put func(float64, ...string)) { put(1, "a"); put(2, "b") })
	gauge.Replace(func(put func(float64, ...string)) { put(3, "b") })
	stop := gauge.From(func(put func(float64, ...string)) { put(4, "c") })
	points := func() map[string]float64 {
		t.Helper()
		out := map[string]float64{}
		data, _ := collect(t, "test.gauge").(metricdata.Gauge[float64])
		for _, p := range data.DataPoints {
			kind, _ := p.Attributes.Value("kind")
			out[kind.AsString()] = p.Value
		}
		return out
	}
	if got := points(); len(got) != 2 || got["b"] != 3 || got["c"] != 4 {
		t.Errorf("%v", got)
	}
	stop()
	if got := points(); len(got) != 1 || got["b"] != 3 {
		t.Errorf("after the source has gone: %v", got)
	}
}

func TestWritingOneMorePointMakesNoGarbage(t *testing.T) {
	ctx := t.Context()
	measured.Record(ctx, 0.1, "kind")
	if n := testing.AllocsPerRun(100, func() { measured.Record(ctx, 0.1, "kind") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestEveryMetricIsListed(t *testing.T) {
	t.Parallel()
	found := map[string]string{}
	for _, i := range telemetry.Instruments() {
		found[i.Name] = i.Kind + " " + i.Unit
	}
	for name, want := range map[string]string{"test.counted": "counter {thing}", "test.measured": "histogram s", "test.gauge": "gauge {thing}"} {
		if found[name] != want {
			t.Errorf("%s is listed as %q", name, found[name])
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		measured.Record(b.Context(), 0.1, "kind")
	}
}
