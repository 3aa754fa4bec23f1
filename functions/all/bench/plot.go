package bench

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// Plot is a chart of lines.
type Plot struct {
	File  string
	Title string
	X, Y  string // what the axes show, with the unit
	LogX  bool
	// Ticks name places on the x axis; without them, a logarithmic one has the powers of ten.
	Ticks []Tick
	Lines []Line
}

// Line is one line of a Plot.
type Line struct {
	Name   string
	Points []Point
}

// Point is one point of a Line.
type Point struct{ X, Y float64 }

// Tick names a place on an axis.
type Tick struct {
	At   float64
	Name string
}

// latencyPlot shows within what time which part of the requests was answered, over all rounds.
func latencyPlot(rate float64, rounds ...[]round) Plot {
	p := Plot{
		File: "latency.svg", Title: fmt.Sprintf("Answer times at %.0f requests a second", rate), LogX: true,
		X: "part of the requests, %", Y: "answered within, ms (median of the rounds)",
		Ticks: []Tick{{2, "50"}, {10, "90"}, {100, "99"}, {1000, "99.9"}},
	}
	for _, of := range rounds {
		line := Line{Name: of[0].by}
		for _, tail := range []float64{2, 3, 4, 5, 7, 10, 20, 30, 50, 70, 100, 200, 300, 500, 700, 1000} {
			line.Points = append(line.Points, Point{tail, quantileOver(of, 1-1/tail)})
		}
		p.Lines = append(p.Lines, line)
	}
	return p
}

func quantileOver(rounds []round, part float64) float64 {
	return of(rounds, func(r round) float64 { return millis(r.quantile(part)) }).Median
}

// The measures of a plot, in pixels.
const (
	plotWidth, plotHeight = 760, 420
	plotLeft, plotRight   = 76, 130
	plotTop, plotBottom   = 52, 60
)

// colors tell lines apart, also for who sees few colours.
var colors = []string{"#0b62a4", "#d1495b", "#2e8540", "#8d5fd3"}

// SVG draws the plot on a light ground. The y axis begins at zero: a flat line is flat.
func (p Plot) SVG() []byte {
	var b bytes.Buffer
	text := func(x, y float64, anchor, style, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>`+"\n", x, y, anchor, style, html.EscapeString(s))
	}
	line := func(x1, y1, x2, y2 float64, color string) {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, color)
	}
	least, most, top := p.bounds()
	step, highest := niceSteps(top)
	scale := func(x float64) float64 {
		if p.LogX {
			return math.Log10(x)
		}
		return x
	}
	right, bottom := float64(plotWidth-plotRight), float64(plotHeight-plotBottom)
	atX := func(x float64) float64 {
		span := scale(most) - scale(least)
		if span == 0 {
			return plotLeft
		}
		return plotLeft + (scale(x)-scale(least))/span*(right-plotLeft)
	}
	atY := func(y float64) float64 { return bottom - y/highest*(bottom-plotTop) }

	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#222">`+"\n",
		plotWidth, plotHeight, plotWidth, plotHeight)
	fmt.Fprintf(&b, `<title>%s</title>`+"\n"+`<rect width="100%%" height="100%%" fill="#fff"/>`+"\n", html.EscapeString(p.Title))
	text(plotLeft, 28, "start", ` font-size="16" font-weight="bold"`, p.Title)
	for y := 0.0; y <= highest*1.0001; y += step {
		line(plotLeft, atY(y), right, atY(y), "#e3e3e3")
		text(plotLeft-8, atY(y)+4.5, "end", "", fmt.Sprintf("%g", math.Round(y*1e6)/1e6))
	}
	for _, t := range p.ticks(least, most) {
		line(atX(t.At), bottom, atX(t.At), bottom+5, "#222")
		text(atX(t.At), bottom+20, "middle", "", t.Name)
	}
	line(plotLeft, bottom, right, bottom, "#222")
	text((plotLeft+right)/2, plotHeight-14, "middle", "", p.X)
	fmt.Fprintf(&b, `<text transform="translate(20 %.1f) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (plotTop+bottom)/2, html.EscapeString(p.Y))

	labels := p.labels(atY)
	for i, l := range p.Lines {
		color := colors[i%len(colors)]
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="2.2" stroke-linejoin="round" points="`, color)
		for _, at := range l.Points {
			fmt.Fprintf(&b, "%.1f,%.1f ", atX(at.X), atY(at.Y))
		}
		b.WriteString(`"/>` + "\n")
		for _, at := range l.Points {
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", atX(at.X), atY(at.Y), color)
		}
		text(right+10, labels[i]+4.5, "start", ` font-weight="bold" fill="`+color+`"`, l.Name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// bounds are the least and greatest x, and the greatest y.
func (p Plot) bounds() (least, most, top float64) {
	least = math.Inf(1)
	for _, l := range p.Lines {
		for _, at := range l.Points {
			least, most, top = min(least, at.X), max(most, at.X), max(top, at.Y)
		}
	}
	return least, most, top
}

// niceSteps divides an axis from zero into steps of 1, 2 or 5 times a power of ten.
func niceSteps(top float64) (step, highest float64) {
	if top <= 0 {
		return 1, 1
	}
	power := math.Pow(10, math.Floor(math.Log10(top/5)))
	for _, times := range []float64{1, 2, 5, 10} {
		if step = times * power; top/step <= 6 {
			break
		}
	}
	return step, math.Ceil(top/step) * step
}

func (p Plot) ticks(least, most float64) []Tick {
	if p.Ticks != nil || !p.LogX {
		return p.Ticks
	}
	var ticks []Tick
	for at := least; at <= most*1.0001; at *= 10 {
		ticks = append(ticks, Tick{at, thousands(int(math.Round(at)))})
	}
	return ticks
}

// thousands writes 100000 as 100,000.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// labels are the heights of the lines' names: at their ends, moved apart where these are close.
func (p Plot) labels(atY func(float64) float64) []float64 {
	const apart = 17
	heights := make([]float64, len(p.Lines))
	for i, l := range p.Lines {
		heights[i] = atY(l.Points[len(l.Points)-1].Y)
	}
	for range p.Lines { // as often as there are lines is enough for all to have been pushed
		for i := range heights {
			for j := range heights {
				if i != j && heights[i] <= heights[j] && heights[j]-heights[i] < apart {
					heights[i] = heights[j] - apart
				}
			}
		}
	}
	return heights
}
