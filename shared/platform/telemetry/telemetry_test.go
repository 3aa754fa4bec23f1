package telemetry_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/coditect/usher/shared/platform/telemetry"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func lines(t *testing.T, b *bytes.Buffer) (out []map[string]any) {
	t.Helper()
	for d := json.NewDecoder(b); d.More(); {
		var line map[string]any
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
	return out
}

func TestLinesAreInCloudLoggingsShape(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log := telemetry.New(&b, "acquire", "proj", slog.LevelDebug)
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		log.Log(t.Context(), level, "hello", "n", 1, slog.Group("g", "level", "mine", "msg", "mine"))
	}
	got := lines(t, &b)
	for i, severity := range []string{"DEBUG", "INFO", "WARNING", "ERROR"} {
		line := got[i]
		labels, _ := line["logging.googleapis.com/labels"].(map[string]any)
		if line["severity"] != severity || line["message"] != "hello" || line["time"] == nil || labels["service"] != "acquire" || line["n"] != 1.0 {
			t.Errorf("%v", line)
		}
		if g, _ := line["g"].(map[string]any); g["level"] != "mine" || g["msg"] != "mine" {
			t.Errorf("the caller's own names were changed: %v", line)
		}
		if line["logging.googleapis.com/trace"] != nil || line["level"] != nil || line["msg"] != nil {
			t.Errorf("%v", line)
		}
	}
}

func TestLevelDropsWhatIsBelow(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	telemetry.New(&b, "x", "", slog.LevelWarn).Info("no")
	if b.Len() > 0 {
		t.Error(b.String())
	}
}

func TestTraceGoesFromRequestToLogAndOn(t *testing.T) {
	t.Parallel()
	ctx := telemetry.Extract(t.Context(), http.Header{"Traceparent": {traceparent}})
	var b bytes.Buffer
	log := telemetry.New(&b, "x", "proj", slog.LevelInfo)
	log.InfoContext(ctx, "one")
	log.With("a", 1).InfoContext(ctx, "two")
	log.WithGroup("g").InfoContext(ctx, "three")
	telemetry.New(&b, "x", "", slog.LevelInfo).InfoContext(ctx, "four")
	got := lines(t, &b)
	for i, want := range []any{"projects/proj/traces/0af7651916cd43dd8448eb211c80319c", "projects/proj/traces/0af7651916cd43dd8448eb211c80319c", nil, "0af7651916cd43dd8448eb211c80319c"} {
		if got[i]["logging.googleapis.com/trace"] != want {
			t.Errorf("line %d: %v", i, got[i])
		}
	}
	if got[0]["logging.googleapis.com/spanId"] != "b7ad6b7169203331" || got[0]["logging.googleapis.com/trace_sampled"] != true {
		t.Errorf("%v", got[0])
	}
}

func TestBadTraceparentIsNoTrace(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "x", "00-00000000000000000000000000000000-b7ad6b7169203331-01", traceparent + "-more"} {
		if span := trace.SpanContextFromContext(telemetry.Extract(t.Context(), http.Header{"Traceparent": {s}})); span.IsValid() {
			t.Errorf("%q became %v", s, span)
		}
	}
}
