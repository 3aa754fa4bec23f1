package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/coditect/usher/functions/all/capacity"
)

// Report is what was measured.
type Report struct {
	Size     Size
	Made     time.Time
	Machine  string
	Sections []*Section
	Plots    []Plot
	Costs    *capacity.Costs // nil where the system does not tell CPU times
}

// Section is figures that belong together.
type Section struct {
	Name string
	How  string // it was measured
	Than string // what ours is compared with; empty when it is not
	Rows []Row
}

// Row is one figure.
type Row struct {
	What string
	Ours string
	// Theirs and Ratio are set when it is compared. A ratio is a median, with the least and the most of the rounds.
	Theirs, Ratio string
	// Target is empty when there is none.
	Target string
	Met    bool
}

// target is what a figure should be.
type target struct {
	text string
	met  func(float64) bool
}

func atLeast(n float64) *target {
	return &target{fmt.Sprintf("≥ %.2f", n), func(v float64) bool { return v >= n }}
}

func atMost(n float64) *target {
	return &target{fmt.Sprintf("≤ %g", n), func(v float64) bool { return v <= n }}
}

func below(n float64) *target {
	return &target{fmt.Sprintf("< %g", n), func(v float64) bool { return v < n }}
}

// atMostOf is at most so many times another figure.
func atMostOf(times, figure float64, text string) *target {
	return &target{"≤ " + text, func(v float64) bool { return v <= times*figure }}
}

func (r *Report) section(name string) *Section {
	for _, s := range r.Sections {
		if s.Name == name {
			return s
		}
	}
	s := &Section{Name: name}
	r.Sections = append(r.Sections, s)
	return s
}

// figure adds a figure that is compared with nothing.
func (r *Report) figure(section, what, ours string, t *target, value float64) {
	row := Row{What: what, Ours: ours}
	if t != nil {
		row.Target, row.Met = t.text, t.met(value)
	}
	s := r.section(section)
	s.Rows = append(s.Rows, row)
}

// row is how a figure of rounds is compared; the target is the ratio's.
type row struct {
	what   string
	of     func(round) float64
	format string
	target *target
}

// compare adds figures of two contenders' rounds.
func (r *Report) compare(section, how string, ours, theirs []round, rows ...row) {
	s := r.section(section)
	s.How, s.Than = how, theirs[0].by
	for _, at := range rows {
		a, b, q := of(ours, at.of), of(theirs, at.of), ratio(ours, theirs, at.of)
		if a.Median == 0 || b.Median == 0 || math.IsNaN(q.Median) {
			continue // the system does not tell CPU times, or not of what took less than a tick of its clock
		}
		made := Row{
			What: at.what, Ours: fmt.Sprintf(at.format, a.Median), Theirs: fmt.Sprintf(at.format, b.Median),
			Ratio: fmt.Sprintf("%.2f (%.2f to %.2f)", q.Median, q.Least, q.Most),
		}
		if at.target != nil {
			made.Target, made.Met = at.target.text, at.target.met(q.Median)
		}
		s.Rows = append(s.Rows, made)
	}
	if refused := refusals(ours) + refusals(theirs); refused > 0 {
		s.Rows = append(s.Rows, Row{What: "refused", Ours: fmt.Sprint(refusals(ours)), Theirs: fmt.Sprint(refusals(theirs))})
	}
}

func refusals(rounds []round) (n int) {
	for _, r := range rounds {
		n += r.refused
	}
	return n
}

// curve adds the medians of calls at some points, and their plot. The target is for the last point to the first.
func (r *Report) curve(section, file, axis string, points []int, curve []calls, t *target) {
	s := r.section(section)
	s.How = "medians of single calls of the seat package, one after the other, in µs"
	plot := Plot{File: file + ".svg", Title: section, X: axis, Y: "median, µs", LogX: true}
	for _, of := range []struct {
		name  string
		times func(calls) []time.Duration
	}{
		{"acquire", func(c calls) []time.Duration { return c.acquire }},
		{"release", func(c calls) []time.Duration { return c.release }},
		{"heartbeat", func(c calls) []time.Duration { return c.heartbeat }},
	} {
		line := Line{Name: of.name}
		var values []string
		for i, c := range curve {
			m := medianMicros(of.times(c))
			line.Points = append(line.Points, Point{float64(points[i]), m})
			values = append(values, fmt.Sprintf("%.0f", m))
		}
		plot.Lines = append(plot.Lines, line)
		first, last := line.Points[0].Y, line.Points[len(line.Points)-1].Y
		r.figure(section, fmt.Sprintf("%s, with 1 to %d", of.name, points[len(points)-1]),
			fmt.Sprintf("%s: last to first %.2f", strings.Join(values, ", "), last/first), t, last/first)
	}
	r.Plots = append(r.Plots, plot)
}

// rebuildCurve adds how long the first acquire of a cold pool took.
func (r *Report) rebuildCurve(points []int, times []float64) {
	for i, n := range points {
		r.figure("The first call after Redis forgot a licence", fmt.Sprintf("acquire, which rebuilds a pool of %d seats, ms", n),
			fmt.Sprintf("%.1f", times[i]), atMost(float64(rebuildDeadline.Milliseconds())), times[i])
	}
}

// Print writes the report for a terminal.
func (r *Report) Print(w io.Writer, plain bool) error {
	style := func(code, text string) string {
		if plain || text == "" {
			return text
		}
		return "\x1b[" + code + "m" + text + "\x1b[0m"
	}
	var b strings.Builder
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n%s", style("1", s.Name))
		if s.How != "" {
			fmt.Fprintf(&b, "  %s", style("2", s.How))
		}
		b.WriteString("\n")
		for _, at := range s.Rows {
			mark := " "
			switch {
			case at.Target != "" && at.Met:
				mark = style("32", "✓")
			case at.Target != "":
				mark = style("31", "✗")
			}
			fmt.Fprintf(&b, "  %s %s: %s", mark, at.What, at.Ours)
			if at.Theirs != "" {
				fmt.Fprintf(&b, ", %s %s", s.Than, at.Theirs)
			}
			if at.Ratio != "" {
				fmt.Fprintf(&b, ", ratio %s", style("1", at.Ratio))
			}
			if at.Target != "" {
				fmt.Fprintf(&b, "  %s", style("2", "target "+at.Target))
			}
			b.WriteString("\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Write writes figures.md and the plots into a folder that has nothing else.
func (r *Report) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of the figures: %w", err)
	}
	files := map[string][]byte{"figures.md": r.markdown()}
	for _, p := range r.Plots {
		files[p.File] = p.SVG()
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("write the figures: %w", err)
		}
	}
	if r.Costs == nil {
		return nil
	}
	return writeCosts(dir, r.Costs)
}

func (r *Report) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Figures\n\nWritten by `make bench` on %s. What they mean and how they are measured is in [performance.md](../performance.md).\n\n%s\n",
		r.Made.UTC().Format(time.DateOnly), r.Machine)
	cell := strings.NewReplacer("|", `\|`).Replace
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n", s.Name)
		if s.How != "" {
			fmt.Fprintf(&b, "%s.\n\n", strings.ToUpper(s.How[:1])+s.How[1:])
		}
		if s.Than != "" {
			fmt.Fprintf(&b, "| | Usher | %s | ratio (least to most of the rounds) | target | |\n|---|---|---|---|---|---|\n", s.Than)
		} else {
			b.WriteString("| | | target | |\n|---|---|---|---|\n")
		}
		for _, at := range s.Rows {
			met := ""
			switch {
			case at.Target != "" && at.Met:
				met = "✓"
			case at.Target != "":
				met = "✗"
			}
			cells := []string{at.What, at.Ours}
			if s.Than != "" {
				cells = append(cells, at.Theirs, at.Ratio)
			}
			fmt.Fprintf(&b, "| %s |\n", cell(strings.Join(append(cells, at.Target, met), " ¦ ")))
		}
	}
	for _, p := range r.Plots {
		fmt.Fprintf(&b, "\n![%s](%s)\n", p.Title, p.File)
	}
	return bytes.ReplaceAll(b.Bytes(), []byte("¦"), []byte("|"))
}

// machine says on what was measured.
func (s *stage) machine(ctx context.Context) (string, error) {
	var postgres string
	if err := s.db.QueryRow(ctx, "SELECT current_setting('server_version')").Scan(&postgres); err != nil {
		return "", fmt.Errorf("ask PostgreSQL for its version: %w", err)
	}
	info, err := s.redis.Do(ctx, "INFO", "server")
	if err != nil {
		return "", fmt.Errorf("ask Redis for its version: %w", err)
	}
	_, rest, _ := strings.Cut(fmt.Sprint(info), "redis_version:")
	redis, _, _ := strings.Cut(rest, "\r")
	return fmt.Sprintf("Functions, yardstick, stores and load shared one machine: %d × %s, %s/%s, %s, PostgreSQL %s with fsync, Redis %s.",
		runtime.NumCPU(), processor(), runtime.GOOS, runtime.GOARCH, runtime.Version(), postgres, redis), nil
}

// processor is the name of the CPU, where the system tells it.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if errors.Is(err, fs.ErrNotExist) {
		return "CPU"
	}
	_, rest, ok := strings.Cut(string(text), "model name")
	_, rest, ok2 := strings.Cut(rest, ": ")
	name, _, _ := strings.Cut(rest, "\n")
	if !ok || !ok2 {
		return "CPU"
	}
	return name
}
