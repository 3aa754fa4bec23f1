package seat

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/coditect/usher/shared/tenancy"
)

var (
	//go:embed lib.lua
	libSource string
	//go:embed demand.lua
	demandSource string
	//go:embed carry.lua
	carrySource string
	//go:embed acquire.lua
	acquireSource string
	//go:embed touch.lua
	touchSource string
	//go:embed borrow.lua
	borrowSource string
	//go:embed release.lua
	releaseSource string
	//go:embed leave.lua
	leaveSource string
	//go:embed evict.lua
	evictSource string
	//go:embed peek.lua
	peekSource string
	//go:embed stage.lua
	stageSource string
	//go:embed rebuild.lua
	rebuildSource string
	//go:embed resize.lua
	resizeSource string
	//go:embed sweep.lua
	sweepSource string
	//go:embed list.lua
	listSource string
	//go:embed admissions.lua
	admissionsSource string
)

// A Redis that is full must refuse admissions only: whatever keeps or gives back a seat may still write.
const (
	refusedWhenFull = "#!lua\n"
	allowedWhenFull = "#!lua flags=allow-oom\n"
	readsOnly       = "#!lua flags=no-writes,allow-oom\n"
)

var (
	acquireScript = redis.NewScript(AcquireScript())
	carryScript   = redis.NewScript(allowedWhenFull + libSource + demandSource + carrySource)
	touchScript   = redis.NewScript(TouchScript())
	borrowScript  = redis.NewScript(allowedWhenFull + libSource + borrowSource)
	releaseScript = redis.NewScript(ReleaseScript())
	leaveScript   = redis.NewScript(allowedWhenFull + libSource + leaveSource)
	evictScript   = redis.NewScript(allowedWhenFull + libSource + evictSource)
	peekScript    = redis.NewScript(readsOnly + libSource + peekSource)
	stageScript   = redis.NewScript(allowedWhenFull + libSource + stageSource)
	rebuildScript = redis.NewScript(allowedWhenFull + libSource + rebuildSource)
	resizeScript  = redis.NewScript(allowedWhenFull + libSource + resizeSource)
	sweepScript   = redis.NewScript(allowedWhenFull + libSource + sweepSource)
	listScript    = redis.NewScript(readsOnly + libSource + listSource)

	admissionsScript = redis.NewScript(allowedWhenFull + admissionsSource)
)

// TouchScript is the text of the script of a heartbeat, as Redis is given it: for who measures what a heartbeat costs
// beyond it.
func TouchScript() string { return allowedWhenFull + libSource + touchSource }

// AcquireScript is that of taking a seat, before TouchScript confirms it.
func AcquireScript() string { return refusedWhenFull + libSource + demandSource + acquireSource }

// ReleaseScript is that of giving a seat back.
func ReleaseScript() string { return allowedWhenFull + libSource + releaseSource }

// pool names one licence's pool.
type pool struct {
	tenant  tenancy.ID
	license uuid.UUID
}

// A key is seat:{tenant/license}:name. The braces make both together the hash tag: a cluster keeps a pool in one slot, and
// whoever names a licence under another tenant finds no pool.
const (
	keyPrefix  = "seat:{"
	metaSuffix = "}:meta"
)

// keyNames are in the order of lib.lua.
var keyNames = [...]string{"meta", "leases", "sessions", "freed", "dirty", "holders", "tombs", "ends", "queue", "polls"}

// keys are KEYS of every script. They share one string: every heartbeat makes them.
func (l pool) keys() []string {
	head := l.head()
	var all strings.Builder
	all.Grow(len(keyNames) * (len(head) + len("sessions")))
	for _, name := range keyNames {
		all.WriteString(head)
		all.WriteString(name)
	}
	keys := make([]string, 0, len(keyNames)+len(stagedNames)+1)
	from := 0
	for _, name := range keyNames {
		to := from + len(head) + len(name)
		keys = append(keys, all.String()[from:to])
		from = to
	}
	return keys
}

func (l pool) head() string { return keyPrefix + l.tenant.String() + "/" + l.license.String() + "}:" }

// buildingKey holds the epoch of the rebuild that somebody is about.
func (l pool) buildingKey() string { return l.head() + "building" }

// demandKeys are KEYS of the scripts that count the demand.
func (l pool) demandKeys() []string { return append(l.keys(), l.head()+"demand", l.head()+"denied") }

// stagedNames are in the order of stage.lua.
var stagedNames = [...]string{"staged", "leases", "sessions", "freed", "holders"}

// stagedKeys are KEYS of the scripts that build a pool: each rebuild has keys of its own beside those of the pool.
func (l pool) stagedKeys(epoch int64) []string {
	keys := append(l.keys(), l.buildingKey())
	for _, name := range stagedNames {
		keys = append(keys, l.head()+strconv.FormatInt(epoch, 10)+":"+name)
	}
	return keys
}

// parsePool is the pool that a meta key belongs to.
func parsePool(metaKey string) (pool, bool) {
	name, ok := strings.CutPrefix(metaKey, keyPrefix)
	name, ok2 := strings.CutSuffix(name, metaSuffix)
	tenant, license, ok3 := strings.Cut(name, "/")
	t, err1 := uuid.Parse(tenant)
	l, err2 := uuid.Parse(license)
	return pool{tenant: found(t), license: l}, ok && ok2 && ok3 && err1 == nil && err2 == nil
}

// reply is what a script returned. The first fault in reading it is kept, so that callers check once.
type reply struct {
	values []any
	next   int
	err    error
}

// run runs a script, outside a cluster together with those of other calls. An error of Redis comes back as fault.Unavailable.
func (p *Pools) run(ctx context.Context, s *redis.Script, keys []string, args ...any) (*reply, error) {
	if p.trips == nil {
		return p.runAlone(ctx, p.cfg.Timeout, s, keys, args...)
	}
	line := make([]any, 0, 3+len(keys)+len(args))
	line = append(line, "evalsha", s.Hash(), len(keys))
	for _, key := range keys {
		line = append(line, key)
	}
	cmd := redis.NewCmd(ctx, append(line, args...)...)
	err := p.trips.do(ctx, cmd)
	if _, answered := errors.AsType[redis.Error](err); answered {
		// Redis does not know the script yet, or is loading: alone, the client does what there is to do.
		return p.runAlone(ctx, p.cfg.Timeout, s, keys, args...)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	values, err := cmd.Slice()
	if err != nil {
		return nil, unavailable(err)
	}
	return &reply{values: values}, nil
}

// runAlone runs a script that takes its time, and must not keep others waiting.
func (p *Pools) runAlone(ctx context.Context, within time.Duration, s *redis.Script, keys []string, args ...any) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	values, err := s.Run(ctx, p.rdb, keys, args...).Slice()
	if err != nil {
		return nil, unavailable(err)
	}
	return &reply{values: values}, nil
}

func (r *reply) more() bool { return r.err == nil && r.next < len(r.values) }

func (r *reply) str() string {
	if r.next >= len(r.values) {
		r.fail("has no value %d", r.next)
		return ""
	}
	v := r.values[r.next]
	r.next++
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	default:
		r.fail("has a %T at %d", v, r.next-1)
		return ""
	}
}

func (r *reply) int() int64 {
	if r.next < len(r.values) {
		if v, ok := r.values[r.next].(int64); ok {
			r.next++
			return v
		}
	}
	n, err := strconv.ParseInt(r.str(), 10, 64)
	if err != nil {
		r.fail("has no number at %d", r.next-1)
	}
	return n
}

// intOr0 reads a number, or the empty text, which is 0.
func (r *reply) intOr0() int64 {
	if r.next < len(r.values) && r.values[r.next] == "" {
		r.next++
		return 0
	}
	return r.int()
}

func (r *reply) uuid() uuid.UUID {
	id, err := uuid.Parse(r.str())
	if err != nil {
		r.fail("has no id at %d", r.next-1)
	}
	return id
}

func (r *reply) millis() time.Duration { return time.Duration(r.int()) * time.Millisecond }

// at reads a time in ms; 0 is the zero time: not known.
func (r *reply) at() time.Time {
	ms := r.int()
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func (r *reply) fence() Fence {
	f, err := parseFence(r.str())
	if err != nil {
		r.fail("has no fence at %d", r.next-1)
	}
	return f
}

func (r *reply) ending() Ending {
	return Ending{Status: r.str(), At: r.at(), Reason: r.str(), By: r.str()}
}

func (r *reply) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("script reply %.200v "+format, append([]any{r.values}, args...)...)
	}
}
