package httpx_test

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/telemetry"
)

// discard is a ResponseWriter that costs nothing, so that the benchmark counts the adapter alone.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkHeartbeat is the adapter's share of a heartbeat: routing, an empty body, an answer, a log line.
func BenchmarkHeartbeat(b *testing.B) {
	type beat struct {
		SessionID uuid.UUID  `json:"session_id"`
		SeatNo    int        `json:"seat_no"`
		ExpiresAt httpx.Time `json:"expires_at"`
		TTL       int        `json:"ttl_seconds"`
		Draining  bool       `json:"draining"`
	}
	out := beat{SessionID: seatID, SeatNo: 7, ExpiresAt: seat().Since, TTL: 90}
	h := httpx.New(httpx.Service{Name: "heartbeat", Log: telemetry.New(io.Discard, "heartbeat", "proj", slog.LevelInfo)}, httpx.Route{
		Method: "POST", Path: "/v1/heartbeat", ID: "heartbeat",
		Handle: func(c *httpx.Call) (httpx.Reply, error) {
			if _, ok := c.Bearer(); !ok {
				b.Error("no token")
			}
			if err := c.Decode(nil); err != nil {
				return httpx.Reply{}, err
			}
			return httpx.Reply{Body: &out}, nil
		},
	})
	for name, body := range map[string]string{"empty": "", "object": "{}"} {
		b.Run(name, func(b *testing.B) {
			r, err := http.NewRequest("POST", "http://localhost/v1/heartbeat", http.NoBody)
			if err != nil {
				b.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer ust_abc")
			r.Header.Set("X-Request-Id", "r1")
			r.Header.Set("Content-Type", "application/json")
			in := strings.NewReader(body)
			b.ReportAllocs()
			for b.Loop() {
				if body != "" {
					in.Reset(body)
					r.Body, r.ContentLength = io.NopCloser(in), int64(len(body))
				}
				h.ServeHTTP(&discard{make(http.Header, 8)}, r)
			}
		})
	}
}
