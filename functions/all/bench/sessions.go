package bench

import (
	"context"
	"fmt"
	"net/http"

	"github.com/valyala/fasthttp"
)

// sessions compares whole sessions, each an acquire, some heartbeats and a release with its rows committed before each
// answer, with as many requests of the yardstick; the shortest also with sessions done as plainly as can be. At the usual
// lease of six minutes, a beat every two, thirty heartbeats are an hour.
func (s *stage) sessions(ctx context.Context, r *Report) error {
	yardstick := newDoor(s.yardstick.address)
	for _, beats := range []int{30, 8, 2} {
		s.progress("sessions of %d heartbeats, and as many requests of the yardstick", beats)
		one := requests(yardstick, s.size.Sitters, s.held, asYardstick)
		theirs := func(client, n int) error {
			for i := range beats + 2 {
				if err := one(client, n*(beats+2)+i); err != nil {
					return err
				}
			}
			return nil
		}
		under := func(do deed) func() (load, error) { return s.closed(ctx, s.size.Sitters, do) }
		contenders := []contender{
			{"session", []*process{s.acquire, s.heartbeat, s.release}, under(s.session(beats))},
			{"yardstick", []*process{s.yardstick}, under(theirs)},
		}
		if beats == 2 {
			contenders = append(contenders, contender{"plain", []*process{s.yardstick}, under(s.plainSession(beats))})
		}
		rounds, err := s.inTurns(contenders...)
		if err != nil {
			return err
		}
		r.compare(fmt.Sprintf("Sessions of %d heartbeats", beats),
			fmt.Sprintf("acquire, %d heartbeats, release; the yardstick: %d requests; %d clients", beats, beats+2, s.size.Sitters), rounds[0], rounds[1],
			row{"sessions a second", perSecond, "%.0f", atLeast(0.50)},
			row{"CPU of a session, µs", cpuMicros, "%.0f", atMost(1.7)},
		)
		if len(rounds) > 2 {
			r.compare(fmt.Sprintf("Sessions of %d heartbeats, beside plain ones", beats),
				"plain: the same scripts, rows and signature by one process, each row in a transaction of its own, without any guard", rounds[0], rounds[2],
				row{"sessions a second", perSecond, "%.0f", nil},
				row{"CPU of a session, µs", cpuMicros, "%.0f", nil},
			)
		}
	}
	return nil
}

// session lets each client sit for a while, again and again, each on a licence of its own.
func (s *stage) session(beats int) deed {
	acquire, heartbeat, release := newDoor(s.acquire.address), newDoor(s.heartbeat.address), newDoor(s.release.address)
	asks, answers := s.asks(acquire)
	return func(client, _ int) error {
		answer := &answers[client]
		if err := acquire.send(asks[client], answer, http.StatusCreated); err != nil {
			return err
		}
		token, err := member(answer.Body(), "seat_token")
		if err != nil {
			return err
		}
		return sit(heartbeat, release, beats, answer, func(q *fasthttp.Request) { asHolder(q, session{token: token}) })
	}
}

// plainSession is session with the yardstick.
func (s *stage) plainSession(beats int) deed {
	d := newDoor(s.yardstick.address)
	asks, answers := s.asks(d)
	return func(client, _ int) error {
		ask, answer := asks[client], &answers[client]
		pool := s.pool(s.free[client%len(s.free)])
		ask.Header.Set("License", pool)
		if err := d.send(ask, answer, http.StatusCreated); err != nil {
			return err
		}
		fence, err := member(answer.Body(), "seat_token")
		if err != nil {
			return err
		}
		id, err := member(answer.Body(), "session_id")
		if err != nil {
			return err
		}
		return sit(d, d, beats, answer, func(q *fasthttp.Request) { asYardstick(q, session{pool: pool, id: id, fence: fence}) })
	}
}

// sit beats so often, and gives the seat back; as makes a request that of its holder.
func sit(heartbeat, release *door, beats int, answer *fasthttp.Response, as func(*fasthttp.Request)) error {
	beat, leave := request(heartbeat, "/v1/heartbeat"), request(release, "/v1/release")
	as(beat)
	as(leave)
	for range beats {
		if err := heartbeat.send(beat, answer, http.StatusOK); err != nil {
			return err
		}
	}
	return release.send(leave, answer, http.StatusOK)
}

// asks are an acquire for each client, and room for its answers.
func (s *stage) asks(d *door) ([]*fasthttp.Request, []fasthttp.Response) {
	asks := make([]*fasthttp.Request, s.size.Sitters)
	for client := range asks {
		asks[client] = acquireRequest(d, s.free[client%len(s.free)].key, fmt.Sprintf("client-%d", client), "")
	}
	return asks, make([]fasthttp.Response, s.size.Sitters)
}
