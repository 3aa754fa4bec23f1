// Package otlp pushes a process's metrics and spans to a receiver of the OpenTelemetry protocol: OTLP over HTTP, in protobuf. A
// function that is scaled to zero cannot be asked for its metrics, so it tells them.
//
// On Cloud Run a process has CPU only while it answers a request. So nothing here runs by a timer: a push begins when a
// request comes in and the last one was long enough ago ([Pusher.Tick]), beside the request and without being waited for; what
// nobody waits for, as scheduled work, is pushed before it is answered ([Pusher.Flush]); and the rest when the platform says
// to stop ([Pusher.Close]). Metrics are sums since the process began: one push that is cut off loses nothing, as the next
// says it again.
//
// The package must not know what is measured.
package otlp

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/telemetry"
)

// Config says where telemetry goes. The variables are OpenTelemetry's own; OTEL_RESOURCE_ATTRIBUTES is read
// too, by its SDK: who is measured, in name=value,name=value.
type Config struct {
	// Endpoint is the receiver's base URL, to which /v1/metrics and /v1/traces are added. Without it nothing is measured. At
	// one of Google's the process shows who it runs as.
	Endpoint string `env:"OTEL_EXPORTER_OTLP_ENDPOINT"`
	// Interval is how many milliseconds lie between two pushes, at least.
	Interval int64 `env:"OTEL_METRIC_EXPORT_INTERVAL" envDefault:"60000"`
	// Timeout is how many milliseconds one push may take.
	Timeout int64 `env:"OTEL_EXPORTER_OTLP_TIMEOUT" envDefault:"5000"`
}

const (
	// maxSpans wait for a push; more are dropped. It bounds what somebody costs who marks all their requests as sampled.
	maxSpans = 512
	// never is longer than any process lives.
	never = 10 * 365 * 24 * time.Hour
)

// Pusher pushes what is measured. The nil Pusher pushes nothing. It is safe for concurrent use.
type Pusher struct {
	interval time.Duration
	timeout  time.Duration
	log      *slog.Logger
	metrics  *sdkmetric.MeterProvider
	traces   *sdktrace.TracerProvider

	last    atomic.Int64 // when a push last began, as of time.Since(started)
	started time.Time
	pushing sync.WaitGroup
}

// Open reads Config from the environment, and makes the process's metrics and spans go where it says. It is called once in a
// process, and does not connect. The Pusher is nil when telemetry is off. The caller closes it.
func Open(ctx context.Context, service, version string, getenv func(string) string, log *slog.Logger) (*Pusher, error) {
	var cfg Config
	if err := config.Load(&cfg, getenv); err != nil || cfg.Endpoint == "" {
		return nil, err
	}
	base, err := url.Parse(cfg.Endpoint)
	switch {
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		return nil, &config.Fault{Variable: "OTEL_EXPORTER_OTLP_ENDPOINT", Problem: "is no http or https URL"}
	case cfg.Interval <= 0:
		return nil, &config.Fault{Variable: "OTEL_METRIC_EXPORT_INTERVAL", Problem: "must be above zero"}
	case cfg.Timeout <= 0:
		return nil, &config.Fault{Variable: "OTEL_EXPORTER_OTLP_TIMEOUT", Problem: "must be above zero"}
	}
	p := &Pusher{
		interval: time.Duration(cfg.Interval) * time.Millisecond, timeout: time.Duration(cfg.Timeout) * time.Millisecond,
		log: log, started: time.Now(),
	}
	client := &http.Client{Timeout: p.timeout, Transport: transport(base.Hostname())}
	to := func(path string) sender { return sender{client: client, url: base.JoinPath(path).String()} }
	from, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithFromEnv(), resource.WithAttributes(
		semconv.ServiceNamespace("usher"), semconv.ServiceName(service), semconv.ServiceVersion(version), semconv.ServiceInstanceID(uuid.NewString())))
	if err != nil {
		return nil, &config.Fault{Variable: "OTEL_RESOURCE_ATTRIBUTES", Problem: "is not name=value,name=value"}
	}
	p.metrics = sdkmetric.NewMeterProvider(sdkmetric.WithResource(from), sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter), sdkmetric.WithView(ours),
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(metricSender{to("v1/metrics")}, sdkmetric.WithInterval(never), sdkmetric.WithTimeout(p.timeout))))
	p.traces = sdktrace.NewTracerProvider(sdktrace.WithResource(from), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())),
		sdktrace.WithBatcher(spanSender{to("v1/traces")}, sdktrace.WithBatchTimeout(never), sdktrace.WithExportTimeout(p.timeout),
			sdktrace.WithMaxQueueSize(maxSpans), sdktrace.WithMaxExportBatchSize(maxSpans)))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("telemetry", "error", err.Error()) }))
	otel.SetMeterProvider(p.metrics)
	otel.SetTracerProvider(p.traces)
	return p, nil
}

// ours drops what libraries measure of their own accord, as Google's clients do: nobody asks for it, and nobody has bounded it.
func ours(i sdkmetric.Instrument) (sdkmetric.Stream, bool) {
	return sdkmetric.Stream{Aggregation: sdkmetric.AggregationDrop{}}, i.Scope.Name != telemetry.Scope
}

// transport is a connection of its own, on which Google's receivers are told who we are.
func transport(host string) http.RoundTripper {
	plain := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 1, MaxConnsPerHost: 1,
		IdleConnTimeout: 5 * time.Minute, TLSHandshakeTimeout: 5 * time.Second,
	}
	if host != "googleapis.com" && !strings.HasSuffix(host, ".googleapis.com") {
		return plain
	}
	return &oauth2.Transport{Base: plain, Source: oauth2.ReuseTokenSource(nil, credentials{})}
}

// credentials are the process's own, looked for when first needed: a start does not wait for them.
type credentials struct{}

// Token asks who the process runs as.
func (credentials) Token() (*oauth2.Token, error) {
	source, err := google.DefaultTokenSource(context.Background(), "https://www.googleapis.com/auth/cloud-platform")
	if err != nil {
		return nil, err
	}
	return source.Token()
}

// Tick begins a push when one is due, and does not wait for it. It is called as a request comes in.
func (p *Pusher) Tick() {
	if p == nil {
		return
	}
	last, now := p.last.Load(), int64(time.Since(p.started))
	if now-last < int64(p.interval) || !p.last.CompareAndSwap(last, now) {
		return
	}
	p.pushing.Go(func() { p.push(context.Background()) })
}

// Flush pushes now, and waits for it: no longer than a push may take, or until the context ends. What fails is logged.
func (p *Pusher) Flush(ctx context.Context) {
	if p == nil {
		return
	}
	p.last.Store(int64(time.Since(p.started)))
	p.push(ctx)
}

func (p *Pusher) push(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if err := errors.Join(p.metrics.ForceFlush(ctx), p.traces.ForceFlush(ctx)); err != nil {
		p.log.Warn("telemetry was not delivered", "error", err.Error())
	}
}

// Close pushes what is left, for as long as the context lets it, and measures no more.
func (p *Pusher) Close(ctx context.Context) {
	if p == nil {
		return
	}
	if err := errors.Join(p.metrics.Shutdown(ctx), p.traces.Shutdown(ctx)); err != nil {
		p.log.Warn("telemetry was not delivered", "error", err.Error())
	}
	p.pushing.Wait()
}
