// Package bench measures the hot path as ratios, in one run on one machine, against a yardstick: a bare handler that
// does the same work in Redis and nothing else.
package bench

import (
	"context"
	"errors"
	"time"

	"github.com/valyala/fasthttp"
)

// Options say how much is measured.
type Options struct {
	// Progress is told what is being done, a line each time.
	Progress func(format string, args ...any)
	// Licenses of Seats seats each, all held, are what heartbeats are spread over.
	Licenses, Seats int
	// Clients send at once.
	Clients int
	// Rounds of so long are measured of each that is compared.
	Rounds int
	Round  time.Duration
}

// Run measures.
func Run(ctx context.Context, o Options) (err error) {
	s, err := setStage(ctx, o.Progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	o.Progress("making %d licences of %d seats", o.Licenses, o.Seats)
	keys, err := s.sellMany(ctx, o.Licenses, o.Seats)
	if err != nil {
		return err
	}
	if err := s.quiet(); err != nil {
		return err
	}
	acquire, err := s.function(ctx, "acquire")
	if err != nil {
		return err
	}
	o.Progress("seating %d holders", o.Licenses*o.Seats)
	sessions, err := s.seatAll(ctx, newDoor(acquire.address), keys, o.Seats)
	if err != nil {
		return err
	}
	heartbeat, err := s.function(ctx, "heartbeat")
	if err != nil {
		return err
	}
	yardstick, err := s.yardstick(ctx)
	if err != nil {
		return err
	}
	ours, theirs := newDoor(heartbeat.address), newDoor(yardstick.address)
	var beats, bare []*fasthttp.Request
	for _, h := range sessions {
		beats = append(beats, bearerRequest(ours, "/v1/heartbeat", h.token))
		bare = append(bare, yardstickRequest(theirs, h))
	}
	o.Progress("heartbeats against the yardstick: %d rounds of %s each, %d clients", o.Rounds, o.Round, o.Clients)
	a, b, err := duel(o.Rounds,
		contender{"heartbeat", []*process{heartbeat}, requests(ours, o.Clients, beats)},
		contender{"yardstick", []*process{yardstick}, requests(theirs, o.Clients, bare)},
		closed(ctx, o.Clients, o.Round))
	if err != nil {
		return err
	}
	o.Progress("requests/s  heartbeat %.0f, yardstick %.0f, ratio %.2f", of(a, perSecond), of(b, perSecond), ratio(a, b, perSecond))
	o.Progress("CPU µs/req  heartbeat %.1f, yardstick %.1f, ratio %.2f", of(a, cpuMicros), of(b, cpuMicros), ratio(a, b, cpuMicros))
	o.Progress("p99 ms      heartbeat %.1f, yardstick %.1f", of(a, p99Millis), of(b, p99Millis))
	now, most, err := heartbeat.memory()
	if err != nil {
		return err
	}
	o.Progress("memory: %d MiB, at most %d MiB", now>>20, most>>20)
	rate := min(of(a, perSecond).Median, of(b, perSecond).Median) / 2
	a, b, err = duel(o.Rounds,
		contender{"heartbeat", []*process{heartbeat}, requests(ours, 256, beats)},
		contender{"yardstick", []*process{yardstick}, requests(theirs, 256, bare)},
		open(ctx, 256, rate, o.Round))
	if err != nil {
		return err
	}
	o.Progress("open loop at %.0f/s: p50 ms %.2f, %.2f; p99 ms heartbeat %.2f, yardstick %.2f, ratio %.2f", rate,
		of(a, p50Millis), of(b, p50Millis), of(a, p99Millis), of(b, p99Millis), ratio(a, b, p99Millis))
	return nil
}
