// Package telemetry writes the logs in the shape Cloud Logging reads, and carries W3C trace context from the request to
// the log line and on to the services that are called.
//
// A trace travels in the context as OpenTelemetry's span context, so that spans, when they come, need no change here or
// in any caller. The package must not know what is logged, nor who asks.
package telemetry

import (
	"context"
	"io"
	"log/slog"
	"net/http"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// New returns a logger that writes one JSON object a line to w: severity, message, time, and the attributes of the call.
// A line logged with a context that carries a trace names it, so that Cloud Logging shows the line with its request;
// project is the Google Cloud project the trace belongs to, and may be empty. Lines below level are dropped.
func New(w io.Writer, service, project string, level slog.Leveler) *slog.Logger {
	h := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: cloudLogging})
	prefix := ""
	if project != "" {
		prefix = "projects/" + project + "/traces/"
	}
	labels := []slog.Attr{slog.Group("logging.googleapis.com/labels", slog.String("service", service))}
	return slog.New(&handler{Handler: h.WithAttrs(labels), traces: prefix})
}

// cloudLogging renames slog's built-in attributes to the ones Cloud Logging knows.
func cloudLogging(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.LevelKey:
		if level, ok := a.Value.Any().(slog.Level); ok {
			return slog.String("severity", severity(level))
		}
	case slog.MessageKey:
		a.Key = "message"
	}
	return a
}

func severity(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "DEBUG"
	case l < slog.LevelWarn:
		return "INFO"
	case l < slog.LevelError:
		return "WARNING"
	default:
		return "ERROR"
	}
}

// handler adds the context's trace to each record. Cloud Logging reads the trace at the top of the line only, so inside
// an open group it is left out rather than written where nobody looks.
type handler struct {
	slog.Handler
	traces  string // "projects/NAME/traces/", or empty when there is no project
	grouped bool
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() && !h.grouped {
		r.AddAttrs(
			slog.String("logging.googleapis.com/trace", h.traces+sc.TraceID().String()),
			slog.String("logging.googleapis.com/spanId", sc.SpanID().String()),
			slog.Bool("logging.googleapis.com/trace_sampled", sc.IsSampled()),
		)
	}
	return h.Handler.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.Handler = h.Handler.WithAttrs(attrs)
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.Handler = h.Handler.WithGroup(name)
	c.grouped = c.grouped || name != ""
	return &c
}

var w3c propagation.TraceContext

// Extract returns ctx with the trace of the traceparent header, or ctx itself when there is none or it is malformed.
func Extract(ctx context.Context, h http.Header) context.Context {
	if len(h["Traceparent"]) == 0 {
		return ctx
	}
	return w3c.Extract(ctx, propagation.HeaderCarrier(h))
}
