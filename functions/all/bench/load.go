package bench

import (
	"cmp"
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

// send sends the request and demands the status; another comes back as a *refusal.
func (d *door) send(q *fasthttp.Request, r *fasthttp.Response, status int) error {
	if err := d.client.Do(q, r); err != nil {
		return fmt.Errorf("%s: %w", q.URI().Path(), err)
	}
	if r.StatusCode() != status {
		return &refusal{path: string(q.URI().Path()), status: r.StatusCode(), body: string(r.Body())}
	}
	return nil
}

// refusal is an answer of a status that was not wanted.
type refusal struct {
	path   string
	status int
	body   string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s answered %d: %.300s", r.path, r.status, r.body)
}

// deed is something that a client does again and again; n is its number, counted over all clients.
type deed func(client, n int) error

// load is what clients did.
type load struct {
	lasted  time.Duration
	times   []time.Duration // of each deed that succeeded, sorted
	refused int
}

// mostRefused is the part of refusals up to which a load still measures something. The report tells them.
const mostRefused = 0.5

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
	return gather(clients, began, func(client int, tell func(time.Time, error) error) error {
		for at := time.Now(); at.Before(end) && ctx.Err() == nil; at = time.Now() {
			if err := tell(at, do(client, int(next.Add(1)-1))); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}

// openLoop lets it be done so many times a second, inFlight at once at most, whether or not what was begun earlier is done. The times count from
// when each was to begin, so that a stall is felt by everybody who came meanwhile.
func openLoop(ctx context.Context, perSecond float64, lasts time.Duration, do deed) (load, error) {
	var next atomic.Int64
	began := time.Now()
	all := int64(perSecond * lasts.Seconds())
	return gather(inFlight, began, func(client int, tell func(time.Time, error) error) error {
		for ctx.Err() == nil {
			n := next.Add(1) - 1
			if n >= all {
				return nil
			}
			due := began.Add(time.Duration(float64(n) / perSecond * float64(time.Second)))
			time.Sleep(time.Until(due))
			if err := tell(due, do(client, int(n))); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}

// gather runs the clients and gathers what they tell: since when they were at a deed, and how it ended.
func gather(clients int, began time.Time, live func(client int, tell func(since time.Time, err error) error) error) (load, error) {
	var (
		l     load
		mu    sync.Mutex
		fault error
		first error // refusal
		wg    sync.WaitGroup
	)
	for client := range clients {
		wg.Go(func() {
			var times []time.Duration
			refused := 0
			var refusedFirst error
			err := live(client, func(since time.Time, err error) error {
				if err == nil {
					times = append(times, time.Since(since))
					return nil
				}
				if _, ok := errors.AsType[*refusal](err); !ok {
					return err
				}
				refused++
				refusedFirst = cmp.Or(refusedFirst, err)
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			l.times = append(l.times, times...)
			l.refused += refused
			fault, first = cmp.Or(fault, err), cmp.Or(first, refusedFirst)
		})
	}
	wg.Wait()
	l.lasted = time.Since(began)
	slices.Sort(l.times)
	if fault == nil && float64(l.refused) > mostRefused*float64(l.refused+len(l.times)) {
		fault = fmt.Errorf("%d of %d were refused: %w", l.refused, l.refused+len(l.times), first)
	}
	return l, fault
}
