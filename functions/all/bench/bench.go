// Package bench measures the hot path in one run on one machine, as ratios to a yardstick: a bare handler that does the
// same work in Redis and nothing else. What is measured are the functions' binaries, in processes of their own, on
// private stores, as they are deployed.
//
// Timings are no tests: a target that is missed is said, and fails nothing.
package bench

import (
	"context"
	"errors"
	"time"
)

// Size says how much is measured.
type Size struct {
	// Name is for the report.
	Name string
	// Licenses of Seats seats each, all held, are what heartbeats are spread over.
	Licenses, Seats int
	// Clients send at once; Sitters have a session at once, and most of them beat.
	Clients, Sitters int
	// Rounds of so long count, of each of two that are compared.
	Rounds int
	Round  time.Duration
	// Starts are how often a process is started.
	Starts int
	// Most is the largest number of licences, and of seats of one licence.
	Most int
	// Calls are timed for each point of a curve.
	Calls int
}

// The sizes: Full for figures that are published, within five minutes; Quick for a look, within one.
var (
	Full = Size{
		Name: "full", Licenses: 200, Seats: 20, Clients: 64, Sitters: 256, Rounds: 5, Round: 2 * time.Second, Starts: 20, Most: 100_000, Calls: 400,
	}
	Quick = Size{
		Name: "quick", Licenses: 50, Seats: 20, Clients: 64, Sitters: 256, Rounds: 3, Round: 800 * time.Millisecond, Starts: 5, Most: 10_000, Calls: 100,
	}
)

// Run measures. Progress is told what is being done, a line each time.
func Run(ctx context.Context, size Size, progress func(format string, args ...any)) (r *Report, err error) {
	s, err := setStage(ctx, size, progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r = &Report{Size: size, Made: time.Now()}
	if r.Machine, err = s.machine(ctx); err != nil {
		return nil, err
	}
	for _, measure := range []func(context.Context, *Report) error{
		s.heartbeats, s.sessions, s.acquires, s.costs, s.starts, s.licenseCurve, s.seatCurve, s.rebuilding,
	} {
		if err := measure(ctx, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}
