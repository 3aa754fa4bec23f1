package seat

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// trips carry the scripts of concurrent calls to Redis and their answers back, many in one write: a heartbeat alone costs
// more in system calls than in anything else. A script that comes while a trip is under way waits for the next one and
// shares it with all that came meanwhile; one that comes alone leaves at once. Two trips at a time were measured to gain
// less: they carry half as much.
//
// The pipelines are go-redis's own. Its AutoPipeline does not serve: a call waits beyond its deadline when Redis is silent.
type trips struct {
	rdb    redis.UniversalClient
	within time.Duration // the deadline of one trip

	mu       sync.Mutex
	waiting  []passenger
	underWay bool
}

// passenger is one call's command. Nobody reads cmd before done is closed, nor afterwards when the call has left.
type passenger struct {
	ctx  context.Context
	cmd  *redis.Cmd
	done chan struct{}
}

// do sends the command and waits for its answer, no longer than the context allows. When it returns the context's error,
// the command may have been carried out, or may be yet, unless it was still waiting then.
func (t *trips) do(ctx context.Context, cmd *redis.Cmd) error {
	p := passenger{ctx, cmd, make(chan struct{})}
	t.mu.Lock()
	t.waiting = append(t.waiting, p)
	leaves := !t.underWay
	t.underWay = true
	t.mu.Unlock()
	if leaves {
		go t.run()
	}
	select {
	case <-p.done:
		return cmd.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run makes trips until nobody waits.
func (t *trips) run() {
	for {
		t.mu.Lock()
		aboard := t.waiting
		t.waiting = nil
		if len(aboard) == 0 {
			t.underWay = false
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		t.trip(aboard)
	}
}

func (t *trips) trip(aboard []passenger) {
	ctx, cancel := context.WithTimeout(context.Background(), t.within)
	defer cancel()
	pipe := t.rdb.Pipeline()
	for _, p := range aboard {
		if err := p.ctx.Err(); err != nil {
			p.cmd.SetErr(err) // it waits no more
			continue
		}
		_ = pipe.Process(ctx, p.cmd) // it only queues
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for _, p := range aboard {
		close(p.done)
	}
}
