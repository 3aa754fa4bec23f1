package otlp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// sender sends requests of OTLP to one URL. It tries once: metrics are told again by the next push, and spans are not worth a
// wait. It is not compressed, because what compresses takes a megabyte to save a few kilobytes a minute.
type sender struct {
	client *http.Client
	url    string
}

func (s sender) send(ctx context.Context, body message) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s: %q", s.url, resp.Status, said)
	}
	return err
}

// Shutdown has nothing to do.
func (sender) Shutdown(context.Context) error { return nil }

// metricSender sends metrics.
type metricSender struct{ sender }

// Temporality is that of sums since the process began.
func (metricSender) Temporality(sdkmetric.InstrumentKind) metricdata.Temporality {
	return metricdata.CumulativeTemporality
}

// Aggregation is what each instrument asks for.
func (metricSender) Aggregation(k sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	return sdkmetric.DefaultAggregationSelector(k)
}

// Export sends all of it.
func (s metricSender) Export(ctx context.Context, all *metricdata.ResourceMetrics) error {
	return s.send(ctx, metrics(all))
}

// ForceFlush has nothing to do: nothing is kept.
func (metricSender) ForceFlush(context.Context) error { return nil }

// spanSender sends spans.
type spanSender struct{ sender }

// ExportSpans sends them.
func (s spanSender) ExportSpans(ctx context.Context, all []sdktrace.ReadOnlySpan) error {
	if len(all) == 0 {
		return nil
	}
	return s.send(ctx, spans(all))
}
