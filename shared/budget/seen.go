package budget

import (
	"context"
	_ "embed" // see.lua
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coditect/usher/shared/fault"
)

// Kind is something that should not happen often: it is counted each minute, by who does it.
type Kind string

// The kinds, and by what their sources are named.
const (
	// UnknownKeys are licence keys that nobody has: address:…
	UnknownKeys Kind = "unknown_keys"
	// BadCredentials are API keys and ID tokens that were refused: address:…
	BadCredentials Kind = "bad_credentials"
	// CrossTenant are requests for what is another tenant's: tenant:…, whose credential it was
	CrossTenant Kind = "cross_tenant"
	// OverBudget are requests of holders that asked more often than an honest client can: license:…
	OverBudget Kind = "over_budget"
)

// Kinds lists the kinds.
func Kinds() []Kind { return []Kind{UnknownKeys, BadCredentials, CrossTenant, OverBudget} }

const (
	// mostSources of a kind are kept apart in a minute; the others are counted together.
	mostSources = 200
	// seenFor is how long what was seen in a minute is kept.
	seenFor = 15 * time.Minute
)

// seen is one thing to count.
type seen struct {
	kind   Kind
	source string
}

//go:embed see.lua
var seeLua string

// count queues the counting. The script goes along: it is short, and whoever makes it run pays for it.
func (s seen) count(ctx context.Context, p redis.Scripter, now time.Time) *redis.Cmd {
	return p.Eval(ctx, seeLua, []string{seenKey(s.kind, now)}, s.source, mostSources, int(seenFor.Seconds()))
}

// seenKey is where a kind is counted in the minute of a time.
func seenKey(kind Kind, at time.Time) string {
	return "seen:" + string(kind) + ":" + strconv.FormatInt(at.Unix()/60, 10)
}

// Address is how an address is named as a source: an IPv6 address with its /64.
func Address(a netip.Addr) string { return "address:" + network(a) }

// See counts one thing. It is never the reason that a request fails: when the store is out it is not counted.
func (b *Budgets) See(ctx context.Context, kind Kind, source string) {
	now := b.now()
	if b.rests(now.UnixNano()) {
		return
	}
	call, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	if err := (seen{kind, source}).count(call, b.redis, now).Err(); err != nil && ctx.Err() == nil {
		b.lost(now.UnixNano(), err)
	}
}

// Refused counts a credential that was refused, by where it came from.
func (b *Budgets) Refused(ctx context.Context, from netip.Addr) {
	b.See(ctx, BadCredentials, Address(from))
}

// Count is how often something was seen in a minute, by one source; "" are those beyond the most that are kept apart.
type Count struct {
	Kind   Kind
	Minute time.Time
	Source string
	N      int64
}

// Seen answers what was counted in the minutes from that time on, to the present one. The error is fault.Unavailable.
func (b *Budgets) Seen(ctx context.Context, from time.Time) ([]Count, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	now := b.now()
	if oldest := now.Add(-seenFor); from.Before(oldest) {
		from = oldest
	}
	type asked struct {
		kind   Kind
		minute time.Time
		answer *redis.MapStringStringCmd
	}
	var all []asked
	_, err := b.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for minute := from.UTC().Truncate(time.Minute); !minute.After(now); minute = minute.Add(time.Minute) {
			for _, kind := range Kinds() {
				all = append(all, asked{kind, minute, p.HGetAll(ctx, seenKey(kind, minute))})
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fault.Unavailable(fmt.Errorf("read what was seen: %w", err))
	}
	var counts []Count
	for _, a := range all {
		for source, text := range a.answer.Val() {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read what was seen of %s: %w", source, err)
			}
			counts = append(counts, Count{a.kind, a.minute, source, n})
		}
	}
	return counts, nil
}
