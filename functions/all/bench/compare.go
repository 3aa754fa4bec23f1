package bench

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/valyala/fasthttp"
)

// contender is one of those that are compared: the processes that do the work, and the load that they are put under.
type contender struct {
	name      string
	processes []*process
	load      func() (load, error)
}

// round is what a contender did in a while.
type round struct {
	load
	by  string
	cpu time.Duration // of its processes, for each deed; zero where the system does not tell
}

func (c contender) cpu() (sum time.Duration, err error) {
	for _, p := range c.processes {
		used, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// measure runs the load and counts the processes' CPU time.
func (c contender) measure() (round, error) {
	before, err := c.cpu()
	if err != nil {
		return round{}, err
	}
	l, err := c.load()
	if err != nil {
		return round{}, fmt.Errorf("%s: %w", c.name, err)
	}
	after, err := c.cpu()
	if err != nil {
		return round{}, err
	}
	r := round{load: l, by: c.name}
	if len(l.times) > 0 {
		r.cpu = (after - before) / time.Duration(len(l.times))
	}
	return r, nil
}

// inTurns lets the contenders have rounds in turns, after one each that does not count, and swaps who begins. It answers the
// rounds of each.
func (s *stage) inTurns(contenders ...contender) ([][]round, error) {
	rounds := make([][]round, len(contenders))
	order := make([]int, len(contenders))
	for i := range order {
		order[i] = i
	}
	for n := range s.size.Rounds + 1 {
		for _, i := range order {
			r, err := contenders[i].measure()
			if err != nil {
				return nil, err
			}
			if n > 0 {
				rounds[i] = append(rounds[i], r)
			}
		}
		slices.Reverse(order)
	}
	return rounds, nil
}

// spread is a median, with what was least and most.
type spread struct{ Median, Least, Most float64 }

func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	return spread{Median: sorted[len(sorted)/2], Least: sorted[0], Most: sorted[len(sorted)-1]}
}

// of is the spread of a figure of rounds.
func of(rounds []round, figure func(round) float64) spread {
	values := make([]float64, len(rounds))
	for i, r := range rounds {
		values[i] = figure(r)
	}
	return spreadOf(values)
}

// ratio is the spread of a figure of our rounds to theirs, round by round.
func ratio(ours, theirs []round, figure func(round) float64) spread {
	values := make([]float64, len(ours))
	for i := range ours {
		values[i] = figure(ours[i]) / figure(theirs[i])
	}
	return spreadOf(values)
}

func perSecond(r round) float64  { return r.perSecond() }
func cpuMicros(r round) float64  { return micros(r.cpu) }
func p50Millis(r round) float64  { return millis(r.quantile(0.50)) }
func p99Millis(r round) float64  { return millis(r.quantile(0.99)) }
func p999Millis(r round) float64 { return millis(r.quantile(0.999)) }

// count is how many deeds were done in the rounds.
func count(rounds []round) (n int) {
	for _, r := range rounds {
		n += len(r.times)
	}
	return n
}

// requests lets each client send heartbeats of the sessions in turn; fill makes a client's request that of a session.
func requests(d *door, clients int, held []session, fill func(q *fasthttp.Request, h session)) deed {
	type pair struct {
		q fasthttp.Request
		r fasthttp.Response
	}
	pairs := make([]pair, clients)
	for i := range pairs {
		pairs[i].q.SetRequestURI(d.base + "/v1/heartbeat")
		pairs[i].q.Header.SetMethod(http.MethodPost)
	}
	return func(client, n int) error {
		at := &pairs[client]
		fill(&at.q, held[n%len(held)])
		return d.send(&at.q, &at.r, http.StatusOK)
	}
}

// closed is the load of so many clients, each at it again as soon as it is answered, for a round.
func (s *stage) closed(ctx context.Context, clients int, do deed) func() (load, error) {
	return func() (load, error) { return closedLoop(ctx, clients, s.size.Round, do) }
}

// open is the load of so many a second, for a round.
func (s *stage) open(ctx context.Context, rate float64, do deed) func() (load, error) {
	return func() (load, error) { return openLoop(ctx, rate, s.size.Round, do) }
}
