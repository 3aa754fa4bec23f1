package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// door is a way in to a process: an HTTP client with connections that stay open.
type door struct {
	client *fasthttp.HostClient
	base   string
}

func newDoor(address string) *door {
	return &door{
		client: &fasthttp.HostClient{Addr: address, MaxConns: 1024, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout},
		base:   "http://" + address,
	}
}

// requestTimeout bounds one request; a process that takes longer is not measured, but broken.
const requestTimeout = 10 * time.Second

// send sends the request and demands the status.
func (d *door) send(q *fasthttp.Request, r *fasthttp.Response, status int) error {
	if err := d.client.Do(q, r); err != nil {
		return err
	}
	if r.StatusCode() != status {
		return fmt.Errorf("%s answered %d, not %d: %.300s", q.URI().Path(), r.StatusCode(), status, r.Body())
	}
	return nil
}

// deed is something that a client does again and again; n is its number, counted over all clients.
type deed func(client, n int) error

// load is what clients did.
type load struct {
	lasted time.Duration
	times  []time.Duration // of each deed, sorted
}

func (l load) perSecond() float64 { return float64(len(l.times)) / l.lasted.Seconds() }

// quantile is the time within which that part of the deeds was done.
func (l load) quantile(part float64) time.Duration {
	if len(l.times) == 0 {
		return 0
	}
	return l.times[min(len(l.times)-1, int(part*float64(len(l.times))))]
}

// closedLoop lets the clients do it for so long, each as soon as it has done it before.
func closedLoop(ctx context.Context, clients int, lasts time.Duration, do deed) (load, error) {
	var next atomic.Int64
	began := time.Now()
	end := began.Add(lasts)
	return gather(clients, began, func(client int) (times []time.Duration, err error) {
		for at := time.Now(); at.Before(end) && ctx.Err() == nil; {
			if err := do(client, int(next.Add(1)-1)); err != nil {
				return nil, err
			}
			now := time.Now()
			times = append(times, now.Sub(at))
			at = now
		}
		return times, ctx.Err()
	})
}

// openLoop lets it be done so many times a second, whether or not what was begun earlier is done. The times count from
// when each was to begin, so that a stall is felt by everybody who came meanwhile.
func openLoop(ctx context.Context, clients int, perSecond float64, lasts time.Duration, do deed) (load, error) {
	var next atomic.Int64
	began := time.Now()
	all := int64(perSecond * lasts.Seconds())
	return gather(clients, began, func(client int) (times []time.Duration, err error) {
		for ctx.Err() == nil {
			n := next.Add(1) - 1
			if n >= all {
				return times, nil
			}
			due := began.Add(time.Duration(float64(n) / perSecond * float64(time.Second)))
			time.Sleep(time.Until(due))
			if err := do(client, int(n)); err != nil {
				return nil, err
			}
			times = append(times, time.Since(due))
		}
		return nil, ctx.Err()
	})
}

// gather runs the clients and gathers the times of what they did.
func gather(clients int, began time.Time, live func(client int) ([]time.Duration, error)) (load, error) {
	var (
		l    load
		mu   sync.Mutex
		errs []error
		wg   sync.WaitGroup
	)
	for client := range clients {
		wg.Go(func() {
			times, err := live(client)
			mu.Lock()
			defer mu.Unlock()
			l.times = append(l.times, times...)
			if err != nil && len(errs) < 3 { // the others say the same
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	l.lasted = time.Since(began)
	slices.Sort(l.times)
	return l, errors.Join(errs...)
}
