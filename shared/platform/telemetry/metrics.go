package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Scope is whose instruments and spans these are, in OpenTelemetry's sense.
const Scope = "github.com/coditect/usher"

// MaxSeries is how many series one instrument of a process may have. What comes beyond them is counted in one more, whose
// labels all say [Other]: a label that is not as bounded as was thought costs precision, not money.
const MaxSeries = 500

// Other is the value of every label of the series that stands for what is beyond a bound.
const Other = "other"

// Instrument describes a metric, for who documents it or queries it.
type Instrument struct {
	// Name is its name in OpenTelemetry, such as "http.server.request.duration".
	Name string
	// Kind is "counter", "histogram" or "gauge".
	Kind string
	// Unit is in UCUM: "s" for seconds, "{session}" for a number of sessions.
	Unit string
	// Help says what is measured.
	Help string
	// Labels are the attributes that every point has, at most four.
	Labels []string
}

var (
	registryMu sync.Mutex
	registry   []Instrument
)

// Instruments lists the metrics of all packages that are linked, by name.
func Instruments() []Instrument {
	registryMu.Lock()
	defer registryMu.Unlock()
	return slices.SortedFunc(slices.Values(registry), func(a, b Instrument) int { return cmp.Compare(a.Name, b.Name) })
}

func register(kind, name, unit, help string, labels []string) Instrument {
	i := Instrument{Name: name, Kind: kind, Unit: unit, Help: help, Labels: labels}
	if len(labels) > len(values{}) {
		panic("telemetry: " + name + " has more labels than there is room for")
	}
	registryMu.Lock()
	defer registryMu.Unlock()
	if slices.ContainsFunc(registry, func(o Instrument) bool { return o.Name == name }) {
		panic("telemetry: there are two metrics " + name)
	}
	registry = append(registry, i)
	return i
}

// values are those of an instrument's labels, in their order.
type values [4]string

func (i *Instrument) values(given []string) (v values) {
	if len(given) != len(i.Labels) {
		panic(fmt.Sprintf("telemetry: %s has %d labels and was given %d values", i.Name, len(i.Labels), len(given)))
	}
	copy(v[:], given)
	return v
}

func (i *Instrument) attributes(v values) attribute.Set {
	pairs := make([]attribute.KeyValue, len(i.Labels))
	for n, label := range i.Labels {
		pairs[n] = attribute.String(label, v[n])
		if code, err := strconv.Atoi(v[n]); err == nil && strings.HasSuffix(label, "_code") {
			pairs[n] = attribute.Int(label, code)
		}
	}
	return attribute.NewSet(pairs...)
}

// series remembers the options by which each series is written, so that writing one more point makes no garbage.
type series[O any] struct {
	of   *Instrument
	make func(attribute.Set) []O
	mu   sync.RWMutex
	made map[values][]O
}

func newSeries[O any](of *Instrument, option func(attribute.Set) []O) *series[O] {
	return &series[O]{of: of, make: option, made: map[values][]O{}}
}

func (s *series[O]) options(given []string) []O {
	v := s.of.values(given)
	s.mu.RLock()
	options, known := s.made[v]
	s.mu.RUnlock()
	if known {
		return options
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.made[v]; !known && len(s.made) >= MaxSeries {
		for i := range s.of.Labels {
			v[i] = Other
		}
	}
	if s.made[v] == nil {
		s.made[v] = s.make(s.of.attributes(v))
	}
	return s.made[v]
}

// must panics on an instrument that OpenTelemetry does not take: a mistake in the program, seen at its first start.
func must[T any](made T, err error) T {
	if err != nil {
		panic(err)
	}
	return made
}

// Counter counts what happens. Until a process pushes telemetry, counting costs next to nothing.
type Counter struct {
	Instrument
	counter metric.Int64Counter
	series  *series[metric.AddOption]
}

// NewCounter makes a counter. It is called once for each name, by a package's variables.
func NewCounter(name, unit, help string, labels ...string) *Counter {
	c := &Counter{Instrument: register("counter", name, unit, help, labels)}
	c.counter = must(otel.Meter(Scope).Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(help)))
	c.series = newSeries(&c.Instrument, func(set attribute.Set) []metric.AddOption { return []metric.AddOption{metric.WithAttributeSet(set)} })
	return c
}

// Add counts n more. The values are those of the labels, in their order, and must be bounded in number.
func (c *Counter) Add(ctx context.Context, n int64, values ...string) {
	c.counter.Add(ctx, n, c.series.options(values)...)
}

// seconds are the bounds of histograms: between what a heartbeat takes and the longest timeout of a request, with the targets of
// heartbeat (50 ms) and validate (100 ms, 200 ms) among them.
var seconds = []float64{0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10}

// Histogram is how long something takes, in seconds.
type Histogram struct {
	Instrument
	histogram metric.Float64Histogram
	series    *series[metric.RecordOption]
}

// NewHistogram makes a histogram of durations. It is called once for each name, by a package's variables.
func NewHistogram(name, help string, labels ...string) *Histogram {
	h := &Histogram{Instrument: register("histogram", name, "s", help, labels)}
	h.histogram = must(otel.Meter(Scope).Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(help), metric.WithExplicitBucketBoundaries(seconds...)))
	h.series = newSeries(&h.Instrument, func(set attribute.Set) []metric.RecordOption {
		return []metric.RecordOption{metric.WithAttributeSet(set)}
	})
	return h
}

// Record adds one duration, in seconds. The values are those of the labels, in their order, and must be bounded in number.
func (h *Histogram) Record(ctx context.Context, seconds float64, values ...string) {
	h.histogram.Record(ctx, seconds, h.series.options(values)...)
}

// Gauge is how much of something there is. What it says is what it was last told, or what its sources say when it is asked.
type Gauge struct {
	Instrument
	mu      sync.Mutex
	points  map[values]float64
	sources map[int]func(put func(value float64, labels ...string))
	next    int
}

// NewGauge makes a gauge. It is called once for each name, by a package's variables.
func NewGauge(name, unit, help string, labels ...string) *Gauge {
	g := &Gauge{
		Instrument: register("gauge", name, unit, help, labels), points: map[values]float64{},
		sources: map[int]func(func(float64, ...string)){},
	}
	must(otel.Meter(Scope).Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help), metric.WithFloat64Callback(g.observe)))
	return g
}

// Set says how much there is. The values are those of the labels, in their order, and must be bounded in number.
func (g *Gauge) Set(value float64, values ...string) {
	v := g.values(values)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.points[v] = value
}

// Replace says how much there is of everything: what it does not name is no more.
func (g *Gauge) Replace(say func(put func(value float64, labels ...string))) {
	points := map[values]float64{}
	say(func(value float64, labels ...string) { points[g.values(labels)] = value })
	g.mu.Lock()
	defer g.mu.Unlock()
	g.points = points
}

// From asks the source each time that the gauge is read, until stop is called.
func (g *Gauge) From(source func(put func(value float64, labels ...string))) (stop func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.next
	g.next++
	g.sources[n] = source
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.sources, n)
	}
}

func (g *Gauge) observe(_ context.Context, o metric.Float64Observer) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := maps.Clone(g.points)
	for _, source := range g.sources {
		source(func(value float64, labels ...string) { all[g.values(labels)] += value })
	}
	n := 0
	for v, value := range all {
		if n++; n > MaxSeries {
			break
		}
		o.Observe(value, metric.WithAttributeSet(g.attributes(v)))
	}
	return nil
}
