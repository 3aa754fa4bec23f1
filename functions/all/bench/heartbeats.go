package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
)

// inFlight is how many requests of an open loop may be under way at once.
const inFlight = 256

// heartbeats compares heartbeats with the yardstick: as fast as they go, and at a constant rate.
func (s *stage) heartbeats(ctx context.Context, r *Report) error {
	ours, theirs := newDoor(s.heartbeat.address), newDoor(s.yardstick.address)
	contenders := func(clients int, under func(deed) func() (load, error)) []contender {
		return []contender{
			{"heartbeat", []*process{s.heartbeat}, under(requests(ours, clients, s.held, asHolder))},
			{"yardstick", []*process{s.yardstick}, under(requests(theirs, clients, s.held, asYardstick))},
		}
	}

	s.progress("heartbeats and the yardstick in turns: %d rounds of %s each, %d clients", s.size.Rounds, s.size.Round, s.size.Clients)
	lines, err := s.heartbeat.lines()
	if err != nil {
		return err
	}
	rounds, err := s.inTurns(contenders(s.size.Clients, func(do deed) func() (load, error) { return s.closed(ctx, s.size.Clients, do) })...)
	if err != nil {
		return err
	}
	a, b := rounds[0], rounds[1]
	logged, err := s.heartbeat.lines()
	if err != nil {
		return err
	}
	if logged -= lines; logged < count(a) {
		return fmt.Errorf("%d heartbeats wrote %d lines of log: what was measured is not what is deployed", count(a), logged)
	}
	now, most, err := s.heartbeat.memory()
	if err != nil {
		return err
	}
	r.compare("Heartbeats", fmt.Sprintf("%d clients, each beating again as soon as it is answered", s.size.Clients), a, b,
		row{"heartbeats a second", perSecond, "%.0f", atLeast(0.80)},
		row{"CPU of a heartbeat, µs", cpuMicros, "%.1f", atMost(1.3)},
		row{"p99, ms", p99Millis, "%.1f", nil},
	)
	if canAccount {
		r.figure("Heartbeats", fmt.Sprintf("resident memory of heartbeat at %d concurrent requests, MiB", s.size.Clients),
			fmt.Sprintf("%.1f (at most %.1f)", mebi(now), mebi(most)), below(32), mebi(most))
	}

	rate := min(of(a, perSecond).Median, of(b, perSecond).Median) / 2
	s.rate = rate
	s.progress("the same at %.0f requests a second, half of what the slower of the two can do", rate)
	rounds, err = s.inTurns(contenders(inFlight, func(do deed) func() (load, error) { return s.open(ctx, rate, do) })...)
	if err != nil {
		return err
	}
	a, b = rounds[0], rounds[1]
	r.compare("Heartbeats at a constant rate", fmt.Sprintf("%.0f requests a second, timed from when each was to be sent", rate), a, b,
		row{"p50, ms", p50Millis, "%.2f", nil},
		row{"p99, ms", p99Millis, "%.2f", atMost(2)},
		row{"p99.9, ms", p999Millis, "%.2f", nil},
	)
	r.Plots = append(r.Plots, latencyPlot(rate, a, b))
	return nil
}

func mebi(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// lines counts what the process has logged. It is a line for each request.
func (p *process) lines() (int, error) {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return 0, fmt.Errorf("read the log of %s: %w", p.name, err)
	}
	return bytes.Count(text, []byte(`"message":"request"`)), nil
}
