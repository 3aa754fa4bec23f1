// Package budget decides who may ask how often.
//
// Budgets protect the service from clients that run wild and from those that
// guess keys; they are no part of any promise about seats. So they live in a
// Redis database of their own, which may be lost at any time, and when it is out
// everybody may ask: a budget is never the reason that a good client is refused.
// For the same reason an address has a budget for unknown keys only: whoever
// shares it with a guesser does not pay.
//
// Heartbeats are counted in the memory of each instance, since a round trip
// would cost more than the heartbeat. For the same reason the first requests of a
// holder and of a licence pass without a look at Redis: an instance has a twentieth
// of each budget to spare, beside what Redis counts, and somebody who asks as seldom
// as an honest client costs no round trip.
//
// The package must not know what a licence is, nor whether a key is good.
package budget

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/time/rate"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
)

// Config says where budgets are kept and how large they are.
type Config struct {
	// URL is the Redis database of the budgets: redis://host:port/1, rediss:// for TLS.
	URL config.Secret `env:"BUDGET_REDIS_URL,required"`
	// Timeout bounds one call. A call that takes longer is not waited for: the request may go on.
	Timeout time.Duration `env:"BUDGET_TIMEOUT" envDefault:"100ms"`
	// Rest is for how long nobody is asked after a call failed.
	Rest time.Duration `env:"BUDGET_REST" envDefault:"1s"`
	Limits
}

// Limits are the sizes of the budgets.
type Limits struct {
	// HolderPerSecond requests of one holder are allowed in the long run, HolderBurst at once.
	HolderPerSecond float64 `env:"BUDGET_HOLDER_PER_SECOND" envDefault:"10"`
	HolderBurst     int     `env:"BUDGET_HOLDER_BURST" envDefault:"100"`
	// LicensePerSeat × seats + LicenseBase requests of one licence are allowed at once,
	// and come back within LicenseRefill.
	LicensePerSeat int           `env:"BUDGET_LICENSE_PER_SEAT" envDefault:"4"`
	LicenseBase    int           `env:"BUDGET_LICENSE_BASE" envDefault:"100"`
	LicenseRefill  time.Duration `env:"BUDGET_LICENSE_REFILL" envDefault:"1s"`
	// UnknownPerSecond unknown keys from one address are answered in the long run, UnknownBurst at once.
	UnknownPerSecond float64 `env:"BUDGET_UNKNOWN_PER_SECOND" envDefault:"20"`
	UnknownBurst     int     `env:"BUDGET_UNKNOWN_BURST" envDefault:"20"`
}

func (l Limits) check() error {
	const positive, rate = "must be positive", "must be positive, and at most a million"
	var faults []error
	for _, at := range []struct {
		variable string
		good     bool
		problem  string
	}{
		{"BUDGET_HOLDER_PER_SECOND", l.HolderPerSecond > 0 && l.HolderPerSecond <= 1e6, rate},
		{"BUDGET_HOLDER_BURST", l.HolderBurst > 0, positive},
		{"BUDGET_LICENSE_PER_SEAT", l.LicensePerSeat > 0, positive},
		{"BUDGET_LICENSE_BASE", l.LicenseBase > 0, positive},
		{"BUDGET_LICENSE_REFILL", l.LicenseRefill > 0, positive},
		{"BUDGET_UNKNOWN_PER_SECOND", l.UnknownPerSecond > 0 && l.UnknownPerSecond <= 1e6, rate},
		{"BUDGET_UNKNOWN_BURST", l.UnknownBurst > 0, positive},
	} {
		if !at.good {
			faults = append(faults, &config.Fault{Variable: at.variable, Problem: at.problem})
		}
	}
	return errors.Join(faults...)
}

// Budgets are what everybody may still ask for. They are safe for concurrent use.
type Budgets struct {
	redis           *redis.Client
	cfg             Config
	now             func() time.Time
	log             *slog.Logger
	resumes, logged atomic.Int64 // nanoseconds of now
	spare           cells[string]
}

//go:embed take.lua
var takeLua string

var take = redis.NewScript(takeLua)

// Open reads Config from the environment. It does not connect.
func Open(getenv func(string) string, log *slog.Logger) (*Budgets, error) {
	var cfg Config
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	return New(cfg, time.Now, log)
}

// New makes Budgets of a configuration. Now is this function's clock; it paces
// only how the loss of Redis is borne.
func New(cfg Config, now func() time.Time, log *slog.Logger) (*Budgets, error) {
	faults := []error{cfg.check()}
	if cfg.Timeout <= 0 {
		faults = append(faults, &config.Fault{Variable: "BUDGET_TIMEOUT", Problem: "must be positive"})
	}
	if cfg.Rest < 0 {
		faults = append(faults, &config.Fault{Variable: "BUDGET_REST", Problem: "must not be negative"})
	}
	opt, err := redis.ParseURL(cfg.URL.Reveal())
	if err != nil { // the parser's error quotes it
		faults = append(faults, &config.Fault{Variable: "BUDGET_REDIS_URL", Problem: "is no redis:// or rediss:// URL"})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	spare, err := newCells[string]()
	if err != nil {
		return nil, err
	}
	opt.DialTimeout = time.Second
	opt.ReadTimeout = cfg.Timeout
	opt.WriteTimeout = cfg.Timeout
	opt.ContextTimeoutEnabled = true
	opt.MaxRetries = -1 // what was perhaps taken must not be taken twice
	opt.PoolSize = 10
	opt.PoolTimeout = cfg.Timeout
	opt.DisableIdentity = true
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &Budgets{redis: redis.NewClient(opt), cfg: cfg, now: now, log: log, spare: spare}, nil
}

// Close closes the connections.
func (b *Budgets) Close() error { return b.redis.Close() }

// Holder takes one request of a holder of a licence out of the holder's budget
// and the licence's, or out of neither. The holder's key is whatever tells one
// holder of the licence from another. The only error is fault.RateLimited, with
// the time after which asking again helps.
func (b *Budgets) Holder(ctx context.Context, license uuid.UUID, seats int, holder string) error {
	l := b.cfg.Limits
	burst := l.LicensePerSeat*max(seats, 0) + l.LicenseBase
	// The braces keep both keys in one slot of a cluster.
	name := "budget:{" + license.String() + "}"
	own := name + ":holder:" + shorten(holder)
	now := b.now()
	if b.spare.of(own, rate.Limit(l.HolderPerSecond/spareOf), l.HolderBurst/spareOf).AllowN(now, 1) &&
		b.spare.of(name, rate.Limit(float64(burst)/l.LicenseRefill.Seconds()/spareOf), burst/spareOf).AllowN(now, 1) {
		return nil
	}
	err := b.take(ctx, nil,
		cell{own, perSecond(l.HolderPerSecond), l.HolderBurst},
		cell{name, max(l.LicenseRefill/time.Duration(burst), time.Microsecond), burst})
	if err != nil {
		b.See(ctx, OverBudget, "license:"+license.String())
	}
	return err
}

// spareOf is the part of a budget that an instance has to spare: one in so many.
const spareOf = 20

// UnknownKey takes one unknown key out of an address's budget. It is asked after
// a key has proved unknown, never before, and counts it as seen. An IPv6 address shares the budget of
// its /64, since one client has them all. The only error is fault.RateLimited.
func (b *Budgets) UnknownKey(ctx context.Context, from netip.Addr) error {
	l := b.cfg.Limits
	return b.take(ctx, &seen{UnknownKeys, Address(from)}, cell{"budget:unknown:" + network(from), perSecond(l.UnknownPerSecond), l.UnknownBurst})
}

// cell is one budget in Redis.
type cell struct {
	key      string
	interval time.Duration
	burst    int
}

// take takes a request out of the cells, and on the same trip counts what was seen, if anything was.
func (b *Budgets) take(ctx context.Context, s *seen, cells ...cell) error {
	now := b.now().UnixNano()
	if b.rests(now) {
		return nil
	}
	keys := make([]string, len(cells))
	args := make([]any, 0, 2*len(cells))
	for i, c := range cells {
		keys[i] = c.key
		args = append(args, c.interval.Microseconds(), c.burst)
	}
	call, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	answer, err := b.run(call, s, keys, args)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // it is the caller who went away, not the store
	case err != nil || len(answer) != 2:
		b.lost(now, err)
		return nil
	case answer[0] > 0:
		return fault.RateLimited(time.Duration(answer[1]) * time.Microsecond)
	default:
		return nil
	}
}

// rests says that the store is left alone, because it was out a moment ago.
func (b *Budgets) rests(now int64) bool {
	resumes := b.resumes.Load()
	return now < resumes && resumes-now <= int64(b.cfg.Rest)
}

// run runs take.lua, and what counts the seen beside it.
func (b *Budgets) run(ctx context.Context, s *seen, keys []string, args []any) ([]int64, error) {
	if s == nil {
		return take.Run(ctx, b.redis, keys, args...).Int64Slice()
	}
	var taken *redis.Cmd
	_, err := b.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		s.count(ctx, p, b.now())
		taken = take.Eval(ctx, p, keys, args...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return taken.Int64Slice()
}

// lost bears the loss of the store: it is left alone for a while, and named in the log once a minute.
func (b *Budgets) lost(now int64, err error) {
	b.resumes.Store(now + int64(b.cfg.Rest))
	if last := b.logged.Load(); (now-last >= int64(time.Minute) || now < last || last == 0) && b.logged.CompareAndSwap(last, now) {
		b.log.Warn("the budget store is out; everybody may ask", "error", err)
	}
}

func perSecond(n float64) time.Duration {
	return max(time.Duration(math.Ceil(float64(time.Second)/n)), time.Microsecond)
}

// shorten makes a key of bounded length, without what somebody might recognise.
func shorten(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// network is an IPv4 address, or the /64 of an IPv6 one.
func network(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// cells are budgets in the memory of this instance. They are safe for concurrent use.
type cells[K comparable] struct{ kept *lru.Cache[K, *rate.Limiter] }

// cellsKept is how many of them an instance remembers; the one longest silent is forgotten first.
const cellsKept = 20_000

func newCells[K comparable]() (cells[K], error) {
	kept, err := lru.New[K, *rate.Limiter](cellsKept)
	return cells[K]{kept}, err
}

// of is the budget of that key, which is made full of this size when there is none.
func (c cells[K]) of(key K, limit rate.Limit, burst int) *rate.Limiter {
	if cell, ok := c.kept.Get(key); ok {
		return cell
	}
	fresh := rate.NewLimiter(limit, burst)
	if old, there, _ := c.kept.PeekOrAdd(key, fresh); there {
		return old
	}
	return fresh
}

// Beats are the budgets of heartbeats, in the memory of this instance. They are
// safe for concurrent use.
type Beats struct {
	limit rate.Limit
	burst int
	now   func() time.Time
	cells cells[uuid.UUID]
}

// NewBeats makes heartbeats' budgets, of the size of a holder's.
func NewBeats(l Limits, now func() time.Time) (*Beats, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	cells, err := newCells[uuid.UUID]()
	if err != nil {
		return nil, err
	}
	return &Beats{limit: rate.Limit(l.HolderPerSecond), burst: l.HolderBurst, now: now, cells: cells}, nil
}

// OpenBeats reads Limits from the environment.
func OpenBeats(getenv func(string) string) (*Beats, error) {
	var l Limits
	if err := config.Load(&l, getenv); err != nil {
		return nil, err
	}
	return NewBeats(l, time.Now)
}

// Session takes one heartbeat out of a session's budget. The only error is
// fault.RateLimited.
func (b *Beats) Session(session uuid.UUID) error {
	cell := b.cells.of(session, b.limit, b.burst)
	now := b.now()
	if cell.AllowN(now, 1) {
		return nil
	}
	missing := 1 - cell.TokensAt(now)
	return fault.RateLimited(time.Duration(missing / float64(b.limit) * float64(time.Second)))
}
