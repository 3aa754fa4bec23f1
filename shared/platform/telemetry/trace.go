package telemetry

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Serve begins the span of a request that somebody in front of us decided to sample. Of all others, most of them, it
// returns what [Extract] does and a span that costs nothing. The caller calls End with the answer's status.
func Serve(ctx context.Context, h http.Header, method, route string) (context.Context, ServerSpan) {
	ctx = Extract(ctx, h)
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, ServerSpan{}
	}
	name := method
	if route != "" {
		name += " " + route
	}
	ctx, span := otel.Tracer(Scope).Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("http.request.method", method), attribute.String("http.route", route)))
	return ctx, ServerSpan{span}
}

// ServerSpan is a request in a trace.
type ServerSpan struct{ span trace.Span }

// End ends the span with the answer's status and, unless it is empty, the code of its problem.
func (s ServerSpan) End(status int, code string) {
	if s.span == nil {
		return
	}
	s.span.SetAttributes(attribute.Int("http.response.status_code", status))
	if code != "" {
		s.span.SetAttributes(attribute.String("error.type", code))
	}
	if status >= http.StatusInternalServerError {
		s.span.SetStatus(codes.Error, code)
	}
	s.span.End()
}

// Span begins a part of a request that is sampled, such as a call of another service; of others it costs nothing. The caller
// calls end with what became of it. The error's text is not told: it may hold what is nobody's business.
func Span(ctx context.Context, name string) (_ context.Context, end func(error)) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, func(error) {}
	}
	ctx, span := otel.Tracer(Scope).Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, "failed")
		}
		span.End()
	}
}

// Outcome is the value of a label: "ok", or "failed" when there is an error.
func Outcome(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}
