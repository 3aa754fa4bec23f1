package otlp

import (
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/protobuf/encoding/protowire"
)

// What is pushed is written field by field, by the numbers in OpenTelemetry's .proto files (opentelemetry/proto/metrics/v1,
// trace/v1, common/v1, resource/v1; 1.11). OpenTelemetry's own exporters do the same by way of gRPC's code, also over HTTP:
// that doubles the binary of heartbeat, and half again what it takes of memory.

// message is a protobuf message as far as it is written.
type message []byte

func (m *message) varint(field protowire.Number, v uint64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, field, protowire.VarintType), v)
}

func (m *message) fixed(field protowire.Number, v uint64) {
	*m = protowire.AppendFixed64(protowire.AppendTag(*m, field, protowire.Fixed64Type), v)
}

func (m *message) double(field protowire.Number, v float64) { m.fixed(field, math.Float64bits(v)) }

func (m *message) at(field protowire.Number, t time.Time) { m.fixed(field, uint64(t.UnixNano())) }

func (m *message) text(field protowire.Number, s string) {
	if s != "" {
		*m = protowire.AppendString(protowire.AppendTag(*m, field, protowire.BytesType), s)
	}
}

func (m *message) bytes(field protowire.Number, b []byte) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, field, protowire.BytesType), b)
}

// within writes a message as a field of this one.
func (m *message) within(field protowire.Number, write func(*message)) {
	var inner message
	write(&inner)
	m.bytes(field, inner)
}

func (m *message) attributes(field protowire.Number, all []attribute.KeyValue) {
	for _, a := range all {
		m.within(field, func(m *message) {
			m.text(1, string(a.Key))
			m.within(2, func(m *message) {
				switch a.Value.Type() {
				case attribute.BOOL:
					m.varint(2, protowire.EncodeBool(a.Value.AsBool()))
				case attribute.INT64:
					m.varint(3, uint64(a.Value.AsInt64()))
				case attribute.FLOAT64:
					m.double(4, a.Value.AsFloat64())
				default:
					*m = protowire.AppendString(protowire.AppendTag(*m, 1, protowire.BytesType), a.Value.String())
				}
			})
		})
	}
}

func (m *message) resource(from *resource.Resource) {
	m.within(1, func(m *message) { m.attributes(1, from.Attributes()) })
}

// cumulative is AGGREGATION_TEMPORALITY_CUMULATIVE: sums since the process began.
const cumulative = 2

// metrics is the ExportMetricsServiceRequest that tells all of it.
func metrics(all *metricdata.ResourceMetrics) (request message) {
	request.within(1, func(m *message) {
		m.resource(all.Resource)
		for _, of := range all.ScopeMetrics {
			m.within(2, func(m *message) {
				m.within(1, func(m *message) { m.text(1, of.Scope.Name) })
				for _, one := range of.Metrics {
					m.within(2, func(m *message) { m.metric(one) })
				}
			})
		}
	})
	return request
}

// metric writes one of the kinds that package telemetry makes.
func (m *message) metric(one metricdata.Metrics) {
	m.text(1, one.Name)
	m.text(2, one.Description)
	m.text(3, one.Unit)
	switch data := one.Data.(type) {
	case metricdata.Gauge[float64]:
		m.within(5, func(m *message) {
			for _, p := range data.DataPoints {
				m.within(1, func(m *message) {
					m.at(3, p.Time)
					m.double(4, p.Value)
					m.attributes(7, p.Attributes.ToSlice())
				})
			}
		})
	case metricdata.Sum[int64]:
		m.within(7, func(m *message) {
			for _, p := range data.DataPoints {
				m.within(1, func(m *message) {
					m.at(2, p.StartTime)
					m.at(3, p.Time)
					m.fixed(6, uint64(p.Value))
					m.attributes(7, p.Attributes.ToSlice())
				})
			}
			m.varint(2, cumulative)
			m.varint(3, protowire.EncodeBool(data.IsMonotonic))
		})
	case metricdata.Histogram[float64]:
		m.within(9, func(m *message) {
			for _, p := range data.DataPoints {
				m.within(1, func(m *message) { m.histogram(p) })
			}
			m.varint(2, cumulative)
		})
	}
}

func (m *message) histogram(p metricdata.HistogramDataPoint[float64]) {
	m.at(2, p.StartTime)
	m.at(3, p.Time)
	m.fixed(4, p.Count)
	m.double(5, p.Sum)
	var packed message
	for _, n := range p.BucketCounts {
		packed = protowire.AppendFixed64(packed, n)
	}
	m.bytes(6, packed)
	packed = packed[:0]
	for _, bound := range p.Bounds {
		packed = protowire.AppendFixed64(packed, math.Float64bits(bound))
	}
	m.bytes(7, packed)
	m.attributes(9, p.Attributes.ToSlice())
}

// spans is the ExportTraceServiceRequest that tells all of them, which are of one process. Beside ours there are those of Google's
// clients, in other scopes.
func spans(all []sdktrace.ReadOnlySpan) (request message) {
	request.within(1, func(m *message) {
		m.resource(all[0].Resource())
		for len(all) > 0 {
			scope := all[0].InstrumentationScope().Name
			m.within(2, func(m *message) {
				m.within(1, func(m *message) { m.text(1, scope) })
				for len(all) > 0 && all[0].InstrumentationScope().Name == scope {
					m.within(2, func(m *message) { m.span(all[0]) })
					all = all[1:]
				}
			})
		}
	})
	return request
}

func (m *message) span(s sdktrace.ReadOnlySpan) {
	trace, span, parent := s.SpanContext().TraceID(), s.SpanContext().SpanID(), s.Parent().SpanID()
	m.bytes(1, trace[:])
	m.bytes(2, span[:])
	m.text(3, s.SpanContext().TraceState().String())
	if s.Parent().HasSpanID() {
		m.bytes(4, parent[:])
	}
	m.text(5, s.Name())
	m.varint(6, uint64(s.SpanKind())) // the numbers are the same
	m.at(7, s.StartTime())
	m.at(8, s.EndTime())
	m.attributes(9, s.Attributes())
	if s.Status().Code == codes.Error {
		m.within(15, func(m *message) {
			m.text(2, s.Status().Description)
			m.varint(3, 2)
		})
	}
}
