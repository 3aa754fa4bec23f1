package testenv

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Receiver is a receiver of OTLP over HTTP, which keeps the last that it was told of each metric, and every span.
type Receiver struct {
	// URL is what OTEL_EXPORTER_OTLP_ENDPOINT is set to.
	URL string

	mu      sync.Mutex
	pushes  int
	metrics map[string]*metricspb.Metric
	from    map[string]string
	spans   []*tracepb.Span
	faults  []error
}

// NewReceiver starts a receiver, which ends with the test.
func NewReceiver(t testing.TB) *Receiver {
	t.Helper()
	r := &Receiver{metrics: map[string]*metricspb.Metric{}, from: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/metrics", func(w http.ResponseWriter, req *http.Request) {
		// What is sent is an ExportMetricsServiceRequest, whose one field is that of MetricsData.
		var data metricspb.MetricsData
		r.take(w, req, &data, func() {
			r.pushes++
			for _, of := range data.GetResourceMetrics() {
				r.resource(of.GetResource().GetAttributes())
				for _, scope := range of.GetScopeMetrics() {
					for _, m := range scope.GetMetrics() {
						r.metrics[m.GetName()] = m
					}
				}
			}
		})
	})
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, req *http.Request) {
		var data tracepb.TracesData
		r.take(w, req, &data, func() {
			for _, of := range data.GetResourceSpans() {
				r.resource(of.GetResource().GetAttributes())
				for _, scope := range of.GetScopeSpans() {
					r.spans = append(r.spans, scope.GetSpans()...)
				}
			}
		})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	r.URL = s.URL
	t.Cleanup(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, err := range r.faults {
			t.Errorf("what was pushed is no OTLP: %v", err)
		}
	})
	return r
}

func (r *Receiver) take(w http.ResponseWriter, req *http.Request, into proto.Message, keep func()) {
	body, err := io.ReadAll(req.Body)
	if err == nil && req.Header.Get("Content-Type") != "application/x-protobuf" {
		err = fmt.Errorf("the content type is %q", req.Header.Get("Content-Type"))
	}
	if err == nil {
		err = proto.Unmarshal(body, into)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.faults = append(r.faults, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	keep()
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (r *Receiver) resource(attributes []*commonpb.KeyValue) {
	for _, a := range attributes {
		r.from[a.GetKey()] = text(a.GetValue())
	}
}

// Pushes is how often metrics were pushed.
func (r *Receiver) Pushes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pushes
}

// From is an attribute of who pushed last, such as service.name.
func (r *Receiver) From(attribute string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.from[attribute]
}

// Spans are all that came.
func (r *Receiver) Spans() []*tracepb.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*tracepb.Span(nil), r.spans...)
}

// Series is one series of a metric, as it was last told.
type Series struct {
	// Kind is "counter", "histogram" or "gauge".
	Kind string
	// Labels are the attributes.
	Labels map[string]string
	// Value is that of a counter or gauge, and the sum of a histogram.
	Value float64
	// Count, Bounds and Buckets are a histogram's: the last bucket is what is beyond all bounds.
	Count   uint64
	Bounds  []float64
	Buckets []uint64
}

// Metrics are the names of all that were told.
func (r *Receiver) Metrics() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.metrics))
	for name := range r.metrics {
		names = append(names, name)
	}
	return names
}

// Series are those of a metric, as it was last told; none when it was never.
func (r *Receiver) Series(metric string) (all []Series) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch m := r.metrics[metric]; data := m.GetData().(type) {
	case *metricspb.Metric_Sum:
		for _, p := range data.Sum.GetDataPoints() {
			all = append(all, Series{Kind: "counter", Labels: labels(p.GetAttributes()), Value: number(p)})
		}
	case *metricspb.Metric_Gauge:
		for _, p := range data.Gauge.GetDataPoints() {
			all = append(all, Series{Kind: "gauge", Labels: labels(p.GetAttributes()), Value: number(p)})
		}
	case *metricspb.Metric_Histogram:
		for _, p := range data.Histogram.GetDataPoints() {
			all = append(all, Series{
				Kind: "histogram", Labels: labels(p.GetAttributes()), Value: p.GetSum(),
				Count: p.GetCount(), Bounds: p.GetExplicitBounds(), Buckets: p.GetBucketCounts(),
			})
		}
	}
	return all
}

// Sum adds up the values of a metric's series that have these labels (name, value, name, value, …): of a histogram, how often
// it was recorded.
func (r *Receiver) Sum(metric string, with ...string) (sum float64) {
	for _, s := range r.Series(metric) {
		matches := true
		for i := 0; i+1 < len(with); i += 2 {
			matches = matches && s.Labels[with[i]] == with[i+1]
		}
		switch {
		case !matches:
		case s.Kind == "histogram":
			sum += float64(s.Count)
		default:
			sum += s.Value
		}
	}
	return sum
}

func number(p *metricspb.NumberDataPoint) float64 {
	if n, ok := p.GetValue().(*metricspb.NumberDataPoint_AsInt); ok {
		return float64(n.AsInt)
	}
	return p.GetAsDouble()
}

func labels(attributes []*commonpb.KeyValue) map[string]string {
	out := make(map[string]string, len(attributes))
	for _, a := range attributes {
		out[a.GetKey()] = text(a.GetValue())
	}
	return out
}

func text(v *commonpb.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *commonpb.AnyValue_BoolValue:
		return fmt.Sprint(v.BoolValue)
	case *commonpb.AnyValue_DoubleValue:
		return fmt.Sprint(v.DoubleValue)
	}
	return ""
}
