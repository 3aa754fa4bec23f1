package bench

import (
	"context"
	"fmt"
	"net/http"

	"github.com/valyala/fasthttp"
)

// sessions compares whole sessions, each an acquire, a few heartbeats and a release with its rows committed before each
// answer, with as many requests of the yardstick.
func (s *stage) sessions(ctx context.Context, r *Report) error {
	acquire, heartbeat, release := newDoor(s.acquire.address), newDoor(s.heartbeat.address), newDoor(s.release.address)
	yardstick := newDoor(s.yardstick.address)
	for _, beats := range []int{8, 2} {
		s.progress("sessions of %d heartbeats, and as many requests of the yardstick", beats)
		asks := make([]*fasthttp.Request, s.size.Clients)
		answers := make([]fasthttp.Response, s.size.Clients)
		for client := range asks {
			asks[client] = acquireRequest(acquire, s.free[client%len(s.free)], fmt.Sprintf("client-%d", client))
		}
		ours := func(client, _ int) error {
			answer := &answers[client]
			if err := acquire.send(asks[client], answer, http.StatusCreated); err != nil {
				return err
			}
			token, err := tokenOf(answer.Body())
			if err != nil {
				return err
			}
			beat, leave := bearerRequest(heartbeat, "/v1/heartbeat", token), bearerRequest(release, "/v1/release", token)
			for range beats {
				if err := heartbeat.send(beat, answer, http.StatusOK); err != nil {
					return err
				}
			}
			return release.send(leave, answer, http.StatusOK)
		}
		one := requests(yardstick, s.size.Clients, s.held, asYardstick)
		theirs := func(client, n int) error {
			for i := range beats + 2 {
				if err := one(client, n*(beats+2)+i); err != nil {
					return err
				}
			}
			return nil
		}
		a, b, err := s.duel(
			contender{"session", []*process{s.acquire, s.heartbeat, s.release}, ours},
			contender{"yardstick", []*process{s.yardstick}, theirs},
		)(closed(ctx, s.size.Clients, s.size.Round))
		if err != nil {
			return err
		}
		r.compare(fmt.Sprintf("Sessions of %d heartbeats", beats),
			fmt.Sprintf("acquire, %d heartbeats, release; the yardstick: %d requests; %d clients", beats, beats+2, s.size.Clients), a, b,
			row{"sessions a second", perSecond, "%.0f", atLeast(0.50)},
			row{"CPU of a session, µs", cpuMicros, "%.0f", atMost(1.7)},
		)
	}
	return nil
}
