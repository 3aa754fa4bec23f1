package seat

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"

	"github.com/coditect/usher/shared/fault"
)

// switchesKey is beside the pools, and no pool's: in a cluster it has a node of its own.
const switchesKey = "seat:switches"

// admissionsLife is how long an instance goes by what it last read of the switch, so that it costs acquire no trip of its own.
const admissionsLife = 5 * time.Second

// errFrozen is answered to who asks for a seat and has none, while admissions are frozen.
var errFrozen = &fault.Error{
	Kind: fault.KindUnavailable, Code: "admissions_frozen", RetryAfter: 30 * time.Second,
	Detail: "No new seats are given at the moment. Seats that are held stay. Wait for retry_after_seconds, then try again.",
}

// SetAdmissions says whether anybody is admitted: while they are frozen, Acquire gives no seat to who has none, on every instance
// 5 s later at the latest. Who sits is not concerned. Of two settings the later one counts; the zero time is none at all. It is
// kept in Redis alone: when that is lost it must be said again.
func (p *Pools) SetAdmissions(ctx context.Context, frozen bool, at time.Time) error {
	flag, ms := "0", int64(0)
	if frozen {
		flag = "1"
	}
	if !at.IsZero() {
		ms = at.UnixMilli()
	}
	_, err := p.runAlone(ctx, p.cfg.Timeout, admissionsScript, []string{switchesKey}, ms, flag)
	return err
}

// admissions is what an instance knows of the switch.
type admissions struct {
	asking singleflight.Group
	known  atomic.Pointer[admitted]
}

type admitted struct {
	frozen bool
	since  time.Time
}

// frozen is what the switch said at most admissionsLife ago. One asks for all who want to know. When Redis does not answer, it is
// what was known before, and acquire's own script will say so.
func (a *admissions) frozen(ctx context.Context, p *Pools) bool {
	known := a.known.Load()
	if known != nil && time.Since(known.since) < admissionsLife {
		return known.frozen
	}
	asked := a.asking.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.Timeout)
		defer cancel()
		flag, err := p.rdb.HGet(ctx, switchesKey, "frozen").Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
		a.known.Store(&admitted{flag == "1", time.Now()})
		return nil, nil
	})
	select {
	case <-asked:
	case <-ctx.Done():
	}
	known = a.known.Load()
	return known != nil && known.frozen
}
