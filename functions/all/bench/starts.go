package bench

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/valyala/fasthttp"
)

// starts measures how long a process of heartbeat takes from its start to its first answers.
func (s *stage) starts(ctx context.Context, r *Report) error {
	s.progress("starting heartbeat %d times", s.size.Starts)
	var healthy, beating []float64
	for range s.size.Starts {
		p, err := s.function(ctx, "heartbeat")
		if err != nil {
			return err
		}
		d := newDoor(p.address)
		began := time.Now()
		var answer fasthttp.Response
		if err := d.send(bearerRequest(d, "/v1/heartbeat", s.held[0].token), &answer, http.StatusOK); err != nil {
			return err
		}
		first := p.took + time.Since(began)
		healthy, beating = append(healthy, millis(p.took)), append(beating, millis(first))
		if err := p.stop(); err != nil {
			return err
		}
	}
	for _, at := range []struct {
		name   string
		values []float64
		target *target
	}{
		{"from the process's start to its first answer of /health, ms", healthy, atMost(50)},
		{"and to the answer of its first heartbeat, with its connection to Redis, ms", beating, nil},
	} {
		sp := spreadOf(at.values)
		r.figure("Start", at.name, fmt.Sprintf("%.1f (%.1f to %.1f, of %d)", sp.Median, sp.Least, sp.Most, len(at.values)), at.target, sp.Median)
	}
	return nil
}

func millis(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
