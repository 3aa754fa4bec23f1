package seat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/sync/singleflight"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/tenancy"
)

// Config is read from the environment. The times are those of the seat protocol; their defaults are for production, and
// all functions of one deployment must agree on them.
type Config struct {
	// URL of the Redis that holds the pools: redis://[user:password@]host:port/db, rediss:// for TLS, or unix://path.
	// With Cluster it names one node of it.
	URL config.Secret `env:"REDIS_URL,required"`
	// Cluster says that URL is a node of a Redis Cluster.
	Cluster bool `env:"REDIS_CLUSTER" envDefault:"false"`
	// Connections is the most an instance opens (to each node of a cluster).
	Connections int `env:"REDIS_POOL_SIZE" envDefault:"50"`
	// Timeout bounds one trip to Redis: the scripts that travel together, with their one retry. A script may have to wait for
	// as long before it leaves. One that ships many sessions of a licence has longer.
	Timeout time.Duration `env:"REDIS_TIMEOUT" envDefault:"500ms"`
	// Reservation is P: how long a seat stays reserved for a session that was not confirmed yet.
	Reservation time.Duration `env:"SEAT_RESERVATION" envDefault:"15s"`
	// ConnectionLife is R: the longest life of one connection to Redis, so of one to a primary that was demoted.
	ConnectionLife time.Duration `env:"SEAT_CONNECTION_LIFE" envDefault:"30s"`
	// ClockAllowance is the least σ: how far the clocks of a client and of Redis may drift apart during a lease. A
	// thousandth of the lease when that is more.
	ClockAllowance time.Duration `env:"SEAT_CLOCK_ALLOWANCE" envDefault:"5s"`
	// Poll is how often a waiter should ask again; it loses its place when it stays away for three of them.
	Poll time.Duration `env:"SEAT_POLL" envDefault:"5s"`
}

const (
	// dialTimeout bounds the making of one connection to Redis.
	dialTimeout = time.Second
	// rebuildTimeout bounds a script that ships all sessions of a licence.
	rebuildTimeout = 5 * time.Second
	// rebuildDeadline bounds a rebuild with all its tries.
	rebuildDeadline = 10 * time.Second
)

// Pools are the seat pools of all licences. It is safe for concurrent use.
type Pools struct {
	rdb      redis.UniversalClient
	trips    *trips // nil in a cluster, where those of one trip would wait for the slowest node
	db       *tenancy.DB
	cfg      Config
	log      *slog.Logger
	rebuilds singleflight.Group // of this process, by pool
	census   census
	unwatch  func() // what measures the connections

	admissions admissions
}

// Open reads the Config and makes the pools' connections, which are opened when first used. The db is that of a role in
// the group usher_seats; one in usher_pools may Heartbeat, and usher_validate may Peek.
func Open(getenv func(string) string, db *tenancy.DB, log *slog.Logger) (*Pools, error) {
	var cfg Config
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	return New(cfg, db, log)
}

// New is Open with a Config at hand; no Timeout means half a second.
func New(cfg Config, db *tenancy.DB, log *slog.Logger) (*Pools, error) {
	cfg.Timeout = cmp.Or(cfg.Timeout, 500*time.Millisecond)
	opts, err := redis.ParseURL(cfg.URL.Reveal())
	var faults []error
	for _, at := range []struct {
		variable string
		good     bool
		problem  string
	}{
		{"REDIS_URL", err == nil, "is not a URL such as redis://host:6379/0"}, // the parser's error may quote a password
		{"REDIS_POOL_SIZE", cfg.Connections > 0, "must be above zero"},
		{"REDIS_TIMEOUT", cfg.Timeout > 0, "must be above zero"},
		{"SEAT_RESERVATION", cfg.Reservation > 0, "must be above zero"},
		{"SEAT_CONNECTION_LIFE", cfg.ConnectionLife > 0, "must be above zero"},
		{"SEAT_CLOCK_ALLOWANCE", cfg.ClockAllowance > 0, "must be above zero"},
		{"SEAT_POLL", cfg.Poll >= time.Second, "must be at least 1s"},
	} {
		if !at.good {
			faults = append(faults, &config.Fault{Variable: at.variable, Problem: at.problem})
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	u := &redis.UniversalOptions{
		Addrs: []string{opts.Addr}, DB: opts.DB, Username: opts.Username, Password: opts.Password, TLSConfig: opts.TLSConfig,
		IsClusterMode: cfg.Cluster, ClientName: "usher",
		PoolSize: cfg.Connections, PipelinePoolSize: -1, // one pool for all, so that Connections is the most there are
		DialTimeout: dialTimeout, ReadTimeout: rebuildTimeout, WriteTimeout: rebuildTimeout,
		PoolTimeout: cfg.Timeout, ContextTimeoutEnabled: true,
		ConnMaxLifetime: cfg.ConnectionLife,
		// Every script is safe to repeat, so one lost connection need not become an error.
		MaxRetries: 1, MinRetryBackoff: 4 * time.Millisecond, MaxRetryBackoff: 20 * time.Millisecond,
		MaxRedirects:  3,
		DialerRetries: 1,
		// A managed Redis tells of maintenance in other ways; asking would cost every connection a round trip.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	logging.Disable() // every error comes back from its call, and is logged once by whoever handles it
	if opts.Network == "unix" {
		simple := u.Simple()
		simple.Network = "unix"
		return on(redis.NewClient(simple), cfg, db, log), nil
	}
	return on(redis.NewUniversalClient(u), cfg, db, log), nil
}

func on(rdb redis.UniversalClient, cfg Config, db *tenancy.DB, log *slog.Logger) *Pools {
	p := &Pools{rdb: rdb, db: db, cfg: cfg, log: log, unwatch: measureConnections(rdb, cfg.Connections)}
	if !cfg.Cluster {
		p.trips = &trips{rdb: rdb, within: cfg.Timeout}
	}
	return p
}

// Close closes the connections to Redis.
func (p *Pools) Close() error {
	p.unwatch()
	return p.rdb.Close()
}

// Ping reports whether Redis answers and may hold pools: it must never evict keys by itself, because a pool that lost
// some of its keys would give seats away twice.
func (p *Pools) Ping(ctx context.Context) error {
	check := func(ctx context.Context, c *redis.Client) error {
		info, err := c.Info(ctx, "memory").Result()
		if err != nil {
			return unavailable(err)
		}
		if policy, ok := infoField(info, "maxmemory_policy"); ok && policy != "noeviction" {
			return fault.Unavailable(fmt.Errorf("redis: maxmemory-policy is %q and must be noeviction", policy))
		}
		return nil
	}
	switch c := p.rdb.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, check)
	case *redis.Client:
		return check(ctx, c)
	default:
		return fmt.Errorf("redis: unexpected client %T", c)
	}
}

func infoField(info, name string) (string, bool) {
	_, rest, ok := strings.Cut(info, name+":")
	if !ok {
		return "", false
	}
	value, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(value), true
}

// unavailable turns an error of Redis into the fault that callers may see.
func unavailable(err error) error {
	return fault.Unavailable(fmt.Errorf("redis: %w", err))
}
