package seat

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

// seam is a line of lib.lua that the state machine replaces, so that a test says what the store says in production.
type seam struct{ was, is string }

var (
	incarnationSeam = seam{
		`return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or 'none'`,
		`return redis.call('GET', 'test:incarnation')`,
	}
	clockSeam = seam{`redis.call('TIME')`, `redis.call('HMGET', 'test:clock', 'seconds', 'micros')`}
)

// lua is the text of the scripts by name; "lib" stands before each of the others.
type lua map[string]string

func luaInProduction() lua {
	return lua{
		"lib": libSource, "acquire": demandSource + acquireSource, "touch": touchSource, "borrow": borrowSource, "release": releaseSource, "leave": leaveSource,
		"evict": evictSource, "peek": peekSource, "stage": stageSource, "rebuild": rebuildSource, "resize": resizeSource, "sweep": sweepSource,
	}
}

// with is the text with one place of it replaced. A text that has no such place, or several, fails the test.
func (l lua) with(t testing.TB, script, was, is string) lua {
	t.Helper()
	if n := strings.Count(l[script], was); n != 1 {
		t.Fatalf("%s.lua has %d places that read %q, want one", script, n, was)
	}
	changed := maps.Clone(l)
	changed[script] = strings.Replace(l[script], was, is, 1)
	return changed
}

// stage is a Redis whose clock and incarnation the test moves, and the scripts for it.
type stage struct {
	t       testing.TB
	rdb     *redis.Client
	scripts map[string]*redis.Script
	setTime func(ms int64)
}

// inMemory is a stage on a Redis that is written in Go and has a clock to set.
func inMemory(t testing.TB, text lua) *stage {
	t.Helper()
	server := miniredis.RunT(t)
	s := &stage{t: t, setTime: func(ms int64) { server.SetTime(time.UnixMilli(ms)) }}
	return s.open(server.Addr(), "", text) // it knows no flags of scripts
}

// onRedis is a stage on a real Redis, whose clock is replaced, too: there is no other way to move it.
func onRedis(t testing.TB, text lua) *stage {
	t.Helper()
	s := &stage{t: t}
	s.setTime = func(ms int64) {
		s.must(s.rdb.HSet(t.Context(), "test:clock", "seconds", ms/1000, "micros", ms%1000*1000).Err())
	}
	return s.open(testenv.Redis(t).Addr(), allowedWhenFull, text.with(t, "lib", clockSeam.was, clockSeam.is))
}

func (s *stage) open(addr, head string, text lua) *stage {
	s.rdb = redis.NewClient(&redis.Options{Addr: addr})
	s.t.Cleanup(func() { _ = s.rdb.Close() })
	text = text.with(s.t, "lib", incarnationSeam.was, incarnationSeam.is)
	s.scripts = map[string]*redis.Script{}
	for name, body := range text {
		if name != "lib" {
			s.scripts[name] = redis.NewScript(head + text["lib"] + body)
		}
	}
	return s
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// blueprint is what a rebuild read from PostgreSQL, and when.
type blueprint struct {
	epoch       int64
	incarnation string
	terms       terms
	floor       int64
	rows        []row
}

// build gives a blueprint to the pool, a few rows at a time.
func (m *machine) build(b blueprint) (kind string) {
	rows := slices.SortedFunc(slices.Values(b.rows), func(x, y row) int { return x.seat - y.seat })
	staged := 0
	for part := range slices.Chunk(rows, 2) {
		args := []any{b.epoch, b.incarnation, staged, part[len(part)-1].seat, 0, b.floor, b.terms.allowance, 60_000}
		for _, r := range part {
			e := end{}
			if r.evicted != nil {
				e = *r.evicted
			}
			args = append(args, r.id, r.seat, r.fence, r.holder, r.borrowed, e.reason, e.by, e.at)
		}
		if kind := m.call("stage", m.pool.stage(b, part), args...); kind != "ok" {
			return kind
		}
		staged += len(part)
	}
	args := append([]any{b.epoch, b.incarnation}, b.terms.args()...)
	return m.call("rebuild", m.pool.rebuild(b), append(args, b.floor, staged)...)
}

// machine makes random calls of a pool's scripts and holds each answer, and everything that the pool then is, to the
// reference. It also plays PostgreSQL: the licence's row with its epoch, and the rows of the open sessions.
type machine struct {
	t      *rapid.T
	at     *stage
	site   pool
	keys   []string
	pool   *reference
	record *record
	fault  string // of the first disagreement; nothing is done any more

	epoch   int64
	terms   terms
	rows    map[string]row
	closed  map[string]bool // rows that are in the history
	granted []sitter        // every session that a pool ever granted
	tried   int             // acquires, each under an id of its own
	latest  attempt
	wall    int64 // PostgreSQL's clock, and the holders', which goes only forwards
	beliefs map[string]conviction
	written []loan // borrows that are on their row, and the pool has not heard of
	moves   int
	stalled []blueprint // rebuilds that have read and not built yet
	replica *replica
}

// conviction is a holder's that it sits: until when, and on which seat of how many.
type conviction struct {
	until       int64
	seat, seats int
}

// loan is a borrow as its row has it.
type loan struct {
	sitter
	epoch, last int64
}

// replica is a pool as a replica has it that follows no more.
type replica struct {
	pool *reference
	data []stored
}

// stored is a key with what it holds.
type stored struct {
	hash map[string]string
	zset []redis.Z
}

// record counts what the runs of a machine met.
type record struct {
	lives, calls int
	answers      map[string]int
}

// longestLease that any machine's licence has, in ms.
const longestLease = int64(20_000)

// beginning is when every life begins, in ms.
const beginning = int64(1_700_000_000_000)

func newMachine(t *rapid.T, at *stage, r *record) *machine {
	r.lives++
	site := pool{tenant: tenancy.Verified(uuid.New()), license: uuid.New()}
	m := &machine{
		t: t, at: at, record: r, site: site, keys: site.keys(), epoch: 1, rows: map[string]row{}, closed: map[string]bool{},
		terms: terms{version: 1, state: "active", seats: 2, lease: 10_000, allowance: 1000, reservation: 3000, poll: 2000, drain: -1, ends: -1},
		pool:  newReference(around{now: beginning, incarnation: "r1"}),
		wall:  beginning, beliefs: map[string]conviction{},
	}
	at.setTime(beginning)
	at.must(at.rdb.Set(context.Background(), "test:incarnation", "r1", 0).Err())
	return m
}

func (m *machine) disagree(format string, args ...any) {
	m.fault = fmt.Sprintf(format, args...)
	m.t.Log("DISAGREEMENT: " + m.fault)
}

// call runs a script, and compares its answer and what it left with the reference's.
func (m *machine) call(script string, want []any, args ...any) (kind string) {
	if m.fault != "" {
		return ""
	}
	for i, a := range args {
		if f, ok := a.(Fence); ok {
			args[i] = f.String()
		}
		m.latest.heard = m.latest.heard || script != "acquire" && a == any(m.latest.id)
	}
	keys := m.keys
	if script == "stage" || script == "rebuild" {
		keys = m.site.stagedKeys(args[0].(int64))
	} else if script == "acquire" {
		keys = m.site.demandKeys()
	} else if script == "peek" {
		keys = append(slices.Clone(keys), m.site.buildingKey())
	}
	got, err := m.at.scripts[script].Run(context.Background(), m.at.rdb, keys, args...).Slice()
	if err != nil {
		m.at.t.Errorf("%s%v: %v", script, args, err) // whatever the machine was to find, it was not this
		m.disagree("%s%v: %v", script, args, err)
		return ""
	}
	m.record.calls++
	kind = fmt.Sprint(want[0])
	if _, word := want[0].(string); word && script != "peek" {
		m.record.answers[script+" "+kind]++
	} else {
		m.record.answers[script]++
	}
	m.t.Logf("%s%v -> %v", script, args, got)
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		m.disagree("%s answered %s, the reference %s", script, g, w)
		return kind
	}
	m.look()
	return kind
}

// look compares everything that the pool is with the reference, and checks what must be so in any pool.
func (m *machine) look() {
	lines := m.lines(m.read())
	if want := m.pool.lines(); !slices.Equal(lines, want) {
		m.disagree("the pool has\n%s\nand the reference\n%s", without(lines, want), without(want, lines))
		return
	}
	seats := map[int]string{}
	sits := map[string]string{}
	for id, s := range m.pool.sitters {
		if other, twice := seats[s.seat]; twice {
			m.disagree("%s and %s sit on seat %d", id, other, s.seat)
		}
		seats[s.seat] = id
		if s.mark != markEvicted && s.fence.Epoch == m.pool.epoch { // rows of one holder may be restored twice
			if other, twice := sits[s.holder]; twice {
				m.disagree("%s holds %s and %s", s.holder, id, other)
			}
			sits[s.holder] = id
		}
	}
}

// believes says that a session's holder was told that it sits, for so many ms from now. There are as many seats as it is told now, or
// were as many as the number of its own when it sat down: it may be draining.
func (m *machine) believes(s sitter, last int64) {
	b := m.beliefs[s.id]
	m.beliefs[s.id] = conviction{max(b.until, m.wall+last), s.seat, max(b.seats, m.terms.seats+m.terms.overdraft, s.seat)}
}

// judge checks what is promised: whoever believes has a row, no two believe in one seat, and never more believe than there
// were seats when somebody of them was told so, or sat down.
func (m *machine) judge() {
	seats := map[int]string{}
	most := 0
	for id, b := range m.beliefs {
		if b.until <= m.wall {
			delete(m.beliefs, id)
			continue
		}
		most = max(most, b.seats)
		if _, open := m.rows[id]; !open {
			m.disagree("%s believes and has no row", id)
		}
		if other, twice := seats[b.seat]; twice {
			m.disagree("%s and %s believe in seat %d", id, other, b.seat)
		}
		seats[b.seat] = id
	}
	if len(seats) > most {
		m.disagree("%d believe in %d seats", len(seats), most)
	}
}

func without(lines, others []string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return slices.Contains(others, l) }), "\n")
}

// read reads all keys of the pool.
func (m *machine) read() []stored {
	ctx := context.Background()
	hashes, zsets := map[int]*redis.MapStringStringCmd{}, map[int]*redis.ZSliceCmd{}
	_, err := m.at.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, name := range keyNames {
			switch name {
			case "meta", "sessions", "holders", "ends":
				hashes[i] = p.HGetAll(ctx, m.keys[i])
			default:
				zsets[i] = p.ZRangeWithScores(ctx, m.keys[i], 0, -1)
			}
		}
		return nil
	})
	m.at.must(err)
	all := make([]stored, len(keyNames))
	for i := range keyNames {
		if h := hashes[i]; h != nil {
			all[i].hash = h.Val()
		} else {
			all[i].zset = zsets[i].Val()
		}
	}
	return all
}

// lines are what was read as the reference says it. Tickets only order the queue; their number is in the meta.
func (m *machine) lines(all []stored) (lines []string) {
	for i, name := range keyNames {
		for field, value := range all[i].hash {
			if field != "sv" {
				lines = append(lines, fmt.Sprintf("%s %s %s", name, field, value))
			}
		}
		for place, z := range all[i].zset {
			if name == "queue" {
				lines = append(lines, fmt.Sprintf("queue %s place %d", z.Member, place))
			} else {
				lines = append(lines, fmt.Sprintf("%s %s %s", name, z.Member, strconv.FormatFloat(z.Score, 'f', -1, 64)))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// write makes the pool what was read before.
func (m *machine) write(all []stored) {
	ctx := context.Background()
	_, err := m.at.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, m.keys...)
		for i, key := range m.keys {
			if len(all) > 0 && len(all[i].hash) > 0 {
				p.HSet(ctx, key, all[i].hash)
			}
			if len(all) > 0 && len(all[i].zset) > 0 {
				p.ZAdd(ctx, key, all[i].zset...)
			}
		}
		return nil
	})
	m.at.must(err)
}

// The choices.

func (m *machine) chance(label string) bool { return rapid.Bool().Draw(m.t, label) }

func one[T any](m *machine, label string, of ...T) T { return rapid.SampledFrom(of).Draw(m.t, label) }

func (m *machine) holder() string { return one(m, "holder", "ann", "bob", "cat", "dan", "eve") }

// session is one that was granted at some time, or one that nobody ever heard of.
func (m *machine) session() sitter {
	if len(m.granted) == 0 {
		return sitter{id: "s0", fence: Fence{1, 1}, holder: "ann"}
	}
	// The latest are the most interesting, and shrinking prefers them.
	return m.granted[len(m.granted)-1-rapid.IntRange(0, len(m.granted)-1).Draw(m.t, "session, counted back")]
}

// fence is the session's, or rarely another's.
func (m *machine) fence(s sitter) Fence {
	if one(m, "fence", "its own", "its own", "its own", "another") == "another" {
		return Fence{s.fence.Epoch, s.fence.Counter + 1}
	}
	return s.fence
}

// The calls.

// attempt is one to reserve a seat. Nobody but its own caller repeats it, word for word, a moment later at most, and not when the answer
// has been heard: then the session is spoken of.
type attempt struct {
	id, holder string
	waits      bool
	at         int64
	heard      bool
}

// momentLater is how long after it an attempt may be repeated, in ms: the client of Redis does so when it heard no answer, within its
// deadline.
const momentLater = 500

// acquire reserves a seat under a new id, or repeats the latest attempt.
func (m *machine) acquire() (sitter, bool) {
	if m.tried == 0 || m.latest.heard || m.wall-m.latest.at > momentLater || one(m, "attempt", "new", "new", "new", "repeated") == "new" {
		m.tried++
		m.latest = attempt{id: fmt.Sprintf("s%d", m.tried), holder: m.holder(), waits: m.chance("waits"), at: m.wall}
	}
	id, holder, wait := m.latest.id, m.latest.holder, m.latest.waits
	_, before := m.pool.sitters[id]
	flag := ""
	if wait {
		flag = "1"
	}
	if own := m.pool.sitters[m.pool.holders[holder]]; own.mark == markEvicted {
		delete(m.beliefs, own.id) // whoever asks for a seat believes in none that it was evicted from
	}
	want := m.pool.acquire(id, holder, wait)
	if m.call("acquire", want, id, holder, flag) != "seat" || m.fault != "" {
		return sitter{}, false
	}
	s := m.pool.sitters[want[1].(string)]
	if s.id == id && !before {
		m.grants(s)
	}
	return s, true
}

// grants checks what must be so whenever a pool grants a seat.
func (m *machine) grants(s sitter) {
	if len(m.pool.sitters) > m.pool.size() {
		m.disagree("%d sit on %d seats", len(m.pool.sitters), m.pool.size())
	}
	for _, earlier := range m.granted {
		if older := earlier.fence; older == s.fence || m.pool.epoch == m.epoch && !above(s.fence, older) {
			m.disagree("the fence %s comes after %s", s.fence, older)
		}
	}
	m.granted = append(m.granted, s)
}

func above(f, other Fence) bool {
	return f.Epoch > other.Epoch || f.Epoch == other.Epoch && f.Counter > other.Counter
}

// sit takes a seat as Acquire does, as far as the machine's PostgreSQL lets it.
func (m *machine) sit() {
	if !m.pool.warm() && m.chance("a rebuild first") {
		m.rebuild()
	}
	s, has := m.acquire()
	if !has {
		return
	}
	var from []string
	if s.mark == markReserved {
		for id, seat := range m.pool.dirty {
			if seat == s.seat {
				from = append(from, id)
			}
		}
	}
	slices.Sort(from)
	if _, open := m.rows[s.id]; !open {
		if m.closed[s.id] || m.pool.epoch != m.epoch || s.seat > m.terms.seats+m.terms.overdraft {
			return // ended, epoch, limit
		}
		for _, id := range from {
			m.close(id)
		}
		for _, r := range m.rows {
			if r.seat == s.seat {
				return // seat_held
			}
		}
		m.rows[s.id] = row{id: s.id, holder: s.holder, seat: s.seat, fence: s.fence}
	}
	m.touch(s, s.fence, true, from...)
}

func (m *machine) close(id string) {
	delete(m.rows, id)
	m.closed[id] = true
}

func (m *machine) touch(s sitter, f Fence, confirm bool, closed ...string) {
	word := "beat"
	if confirm {
		word = "confirm"
	}
	args := []any{s.id, f, word}
	for _, id := range closed {
		args = append(args, id)
	}
	want := m.pool.touch(s.id, f, confirm, closed...)
	_, open := m.rows[s.id]
	switch kind := m.call("touch", want, args...); {
	case f != s.fence:
	case kind == "ended":
		delete(m.beliefs, s.id)
	case kind == "ok" && open:
		m.believes(s, m.pool.terms.lease)
	}
}

// borrow writes on a session's row until when it is borrowed, and lets its pool know, now or later.
func (m *machine) borrow() {
	s := m.session()
	r, open := m.rows[s.id]
	if !open || r.evicted != nil || m.terms.state != "active" {
		return
	}
	last := one(m, "borrowed for", int64(30_000), 4000, 90_000)
	if r.borrowed < m.wall+last {
		r.borrowed = m.wall + last
		m.rows[s.id] = r
	}
	l := loan{s, m.epoch, r.borrowed - m.wall}
	if m.stalls("a borrow stalls") {
		m.written = append(m.written, l)
		return
	}
	m.lend(l)
}

func (m *machine) lend(l loan) {
	f := m.fence(l.sitter)
	if m.call("borrow", m.pool.borrow(l.id, f, l.epoch, l.last), l.id, f, l.epoch, l.last) == "ok" {
		m.believes(l.sitter, m.rows[l.id].borrowed-m.wall)
	}
}

// late lets a pool hear of a borrow that stalled.
func (m *machine) late() {
	if len(m.written) == 0 {
		m.borrow()
		return
	}
	i := rapid.IntRange(0, len(m.written)-1).Draw(m.t, "which borrow")
	m.lend(m.written[i])
	m.written = slices.Delete(m.written, i, i+1)
}

func (m *machine) confirm() { s := m.session(); m.touch(s, m.fence(s), true) }

func (m *machine) beat() { s := m.session(); m.touch(s, m.fence(s), false) }

func (m *machine) release() {
	s := m.session()
	f := m.fence(s)
	if f == s.fence {
		delete(m.beliefs, s.id) // it stopped before it says so
	}
	m.call("release", m.pool.release(s.id, f, false), s.id, f)
	if f == s.fence && m.chance("its row is closed") {
		m.close(s.id)
	}
}

func (m *machine) giveBack() {
	s := m.session()
	f := m.fence(s)
	m.call("release", m.pool.release(s.id, f, true), s.id, f, "reserved")
}

func (m *machine) evict() {
	s, reason := m.session(), one(m, "reason", "abuse", "moved out")
	if r, open := m.rows[s.id]; open && r.evicted == nil {
		r.evicted = &end{Evicted, m.pool.now, reason, "admin"}
		m.rows[s.id] = r
	}
	if m.chance("the pool hears of it") {
		m.call("evict", m.pool.evict(s.id, reason, "admin"), s.id, reason, "admin")
	}
}

// resize changes the licence; its pool hears that, or something older.
func (m *machine) resize() {
	change := m.terms
	change.seats, change.overdraft = rapid.IntRange(1, 4).Draw(m.t, "seats"), rapid.IntRange(0, 1).Draw(m.t, "overdraft")
	change.lease = one(m, "lease", int64(10_000), 6000, longestLease)
	change.drain, change.ends = one(m, "drains in", int64(-1), 0, 5000), one(m, "expires in", int64(-1), -1, 0, 15_000)
	change.state, change.by = one(m, "state", "active", "active", "active", "license_suspended"), one(m, "by", "", "admin")
	change.version += one(m, "version", int64(1), 1, 1, 0, -1)
	if change.version > m.terms.version {
		m.terms = change
	}
	m.call("resize", m.pool.resize(change), change.args()...)
}

func (m *machine) leave() {
	holder := m.holder()
	m.call("leave", m.pool.leave(holder), holder)
}

func (m *machine) peek() {
	id := ""
	if m.chance("at a session") {
		id = m.session().id
	}
	m.call("peek", m.pool.peek(id), id)
}

// sweep compares rows and pool, closes what is over, and acknowledges that.
func (m *machine) sweep() {
	most := one(m, "dirty at most", 100, 1)
	open := slices.Sorted(maps.Keys(m.rows))
	args := []any{most, 0}
	for _, id := range open {
		args = append(args, id)
	}
	if m.call("sweep", m.pool.sweep(most, nil, open), args...) != "ok" || m.pool.epoch != m.epoch || m.chance("dies here") {
		return
	}
	closed := slices.Sorted(maps.Keys(m.pool.dirty))
	args = []any{most, len(closed)}
	for _, id := range closed {
		m.close(id)
		args = append(args, id)
	}
	m.call("sweep", m.pool.sweep(most, closed, nil), args...)
}

// rebuild begins a new epoch and reads the rows. What it read reaches the pool at once, or later.
func (m *machine) rebuild() {
	m.epoch++
	b := blueprint{epoch: m.epoch, incarnation: m.pool.incarnation, terms: m.terms, floor: longestLease + one(m, "longer leases were promised", int64(2000), 2000, 9000)}
	b.rows = slices.SortedFunc(maps.Values(m.rows), func(x, y row) int {
		if above(x.fence, y.fence) {
			return 1
		}
		return -1
	})
	for i := range b.rows {
		b.rows[i].borrowed = max(0, b.rows[i].borrowed-m.wall)
	}
	if m.stalls("a rebuild stalls") {
		m.stalled = append(m.stalled, b)
		return
	}
	m.build(b)
}

func (m *machine) stalls(label string) bool { return one(m, label, false, false, false, true) }

// wake lets a rebuild that stalled go on, maybe after the world has changed.
func (m *machine) wake() {
	if len(m.stalled) == 0 {
		m.rebuild()
		return
	}
	i := rapid.IntRange(0, len(m.stalled)-1).Draw(m.t, "which rebuild")
	if m.build(m.stalled[i]) == "ok" {
		m.stalled = slices.Delete(m.stalled, i, i+1)
	}
}

// pass lets time pass, mostly forwards.
func (m *machine) pass() {
	ms := one(m, "ms", int64(700), 1, 2500, 3500, 7000, 12_000, 25_000, -4000, 25*60*60*1000)
	m.pool.now += ms
	m.wall += max(0, ms)
	m.at.setTime(m.pool.now)
	m.t.Logf("the clock of the store shows %d", m.pool.now)
}

// lose empties the store, which stays the same incarnation.
func (m *machine) lose() {
	m.write(make([]stored, len(keyNames)))
	m.pool = newReference(m.pool.around)
	m.t.Log("everything is lost")
	m.look()
}

// move makes the store another incarnation that has everything.
func (m *machine) move() {
	m.moves++
	m.pool.incarnation = fmt.Sprintf("r%d", m.moves+1)
	m.at.must(m.at.rdb.Set(context.Background(), "test:incarnation", m.pool.incarnation, 0).Err())
	m.t.Log("the store is now ", m.pool.incarnation)
}

// stay leaves a replica behind as of now.
func (m *machine) stay() {
	m.replica = &replica{m.pool.clone(), m.read()}
	m.t.Log("a replica follows no more")
}

// promote makes that replica the store.
func (m *machine) promote() {
	if m.replica == nil {
		m.stay()
		return
	}
	a := m.pool.around
	m.pool = m.replica.pool.clone()
	m.pool.around = a
	m.write(m.replica.data)
	m.t.Log("the replica is promoted")
	m.move()
	m.look()
}

// drive makes a random life of a pool, so many times as long as rapid by itself makes it. It answers what the pool and the reference first disagreed about, or "".
func drive(t *rapid.T, at *stage, r *record, parts int) string {
	m := newMachine(t, at, r)
	m.rebuild()
	actions := map[string]func(*rapid.T){}
	for name, act := range map[string]func(){
		"acquire": func() { m.acquire() }, "sit": m.sit, "sit too": m.sit, "sit as well": m.sit, "confirm": m.confirm, "beat": m.beat,
		"beat again": m.beat, "borrow": m.borrow, "late": m.late, "release": m.release, "give back": m.giveBack, "evict": m.evict, "resize": m.resize, "leave": m.leave, "peek": m.peek,
		"sweep": m.sweep, "rebuild": m.rebuild, "wake": m.wake, "pass": m.pass, "pass more": m.pass,
		"trouble": func() { one(m, "trouble", m.stay, m.promote, m.lose, m.move)() },
	} {
		actions[name] = func(*rapid.T) {
			if m.fault == "" {
				act()
				m.judge()
			}
		}
	}
	for range parts {
		t.Repeat(actions)
	}
	return m.fault
}

// agree holds the scripts to the reference in so many times as many lives as rapid checks at once.
func agree(t *testing.T, at *stage, times, parts int) *record {
	t.Helper()
	r := &record{answers: map[string]int{}}
	for range times {
		rapid.Check(t, func(t *rapid.T) {
			if fault := drive(t, at, r, parts); fault != "" {
				t.Fatal(fault)
			}
		})
	}
	return r
}

// proved says what the lives of a machine met. At full size all that a script can answer must be among it.
func (r *record) proved(t *testing.T, where string) {
	t.Helper()
	for _, answer := range []string{
		"acquire seat", "acquire full", "acquire queued", "acquire refused", "acquire rebuild", "touch ok", "touch ended", "touch unknown",
		"touch stale", "touch reserved", "touch rebuild", "borrow ok", "borrow refused", "borrow rebuild", "release ended", "release held", "release unknown", "release stale", "release rebuild",
		"evict ok", "evict unknown", "evict rebuild", "resize ok", "resize rebuild", "sweep ok", "sweep rebuild", "stage ok",
		"stage old", "stage moved", "rebuild ok", "rebuild old", "rebuild moved", "leave", "peek",
	} {
		if testenv.Full() && r.answers[answer] == 0 {
			t.Errorf("no life met the answer %q", answer)
		}
	}
	testenv.Proved(t, "machine", "%s: %d calls in %d random lives of a pool; every answer, and all that the pool then was, agreed with the "+
		"reference, and no more believed than sat (%d seats, %d renewals, %d borrows, %d ends, %d rebuilds, %d rebuilds refused)", where, r.calls,
		r.lives, r.answers["acquire seat"], r.answers["touch ok"], r.answers["borrow ok"], r.answers["touch ended"]+r.answers["release ended"], r.answers["rebuild ok"],
		r.answers["stage old"]+r.answers["stage moved"]+r.answers["rebuild old"]+r.answers["rebuild moved"])
}

func TestProofMachineAgreesWithTheReferenceInMemory(t *testing.T) {
	t.Parallel()
	times, parts := 1, 1
	if testenv.Full() {
		times, parts = 15, 3
	}
	agree(t, inMemory(t, luaInProduction()), times, parts).proved(t, "miniredis")
}

func TestProofMachineAgreesWithTheReferenceOnRedis(t *testing.T) {
	t.Parallel()
	times := 1
	if testenv.Full() {
		times = 60
	}
	agree(t, onRedis(t, luaInProduction()), times, 3).proved(t, "Redis")
}

// mutants are mistakes of one line that somebody might make.
var mutants = []struct{ name, script, was, is string }{
	{"an expired lease revives", "touch", `if score <= now then`, `if false then`},
	{"an evicted session is renewed", "touch", `if s.mark == EVICTED then return`, `if false then return`},
	{"a seat is free when its holder is refused", "touch", `if s.mark == EVICTED then return`, `if s.mark == EVICTED then free_session(id, s, now) return`},
	{"an evicted holder waits for itself", "acquire", `elseif s.mark == EVICTED then`, `elseif false then`},
	{"a heartbeat shortens what a rebuild promised", "touch", `'XX', 'GT', ends`, `'XX', ends`},
	{"a heartbeat confirms a reservation", "touch", `if s.mark == RESERVED and ARGV[3] ~= 'confirm' then`, `if false then`},
	{"touch looks at no fence", "touch", `if s.fence ~= ARGV[2] then`, `if false then`},
	{"a borrow of an older epoch is lent", "borrow", `if not m or m.ep ~= ARGV[3] then`, `if not m then`},
	{"a borrow shortens what was promised", "borrow", `'XX', 'GT', string`, `'XX', string`},
	{"a borrow lasts for its lease", "borrow", `now + tonumber(ARGV[4]) + m.sg`, `now + m.v + m.sg`},
	{"a borrow leaves nothing to clocks", "borrow", `now + tonumber(ARGV[4]) + m.sg`, `now + tonumber(ARGV[4])`},
	{"a borrow looks at no fence", "borrow", `s.fence ~= ARGV[2] or `, ``},
	{"an evicted session is lent", "borrow", `s.mark ~= CONFIRMED or `, ``},
	{"an expired lease is lent", "borrow", ` or tonumber(redis.call('ZSCORE', LEASES, id)) <= now`, ``},
	{"a licence that is suspended lends", "borrow", ` or state_at(m, now) ~= 'active'`, ``},
	{"a rebuild forgets a borrow", "stage", `now + tonumber(ARGV[i + 4]) + tonumber(ARGV[7])`, `now + tonumber(ARGV[7])`},
	{"release looks at no fence", "release", `if s.fence ~= ARGV[2] then`, `if false then`},
	{"what was confirmed is given back", "release", `ARGV[3] == 'reserved' and s.mark ~= RESERVED`, `false`},
	{"an old epoch builds", "rebuild", `if old and tonumber(old.ep) >= tonumber(ARGV[1]) then`, `if false then`},
	{"an old epoch is staged", "stage", `if old and tonumber(old.ep) >= tonumber(ARGV[1]) then`, `if false then`},
	{"a rebuild under another incarnation builds", "rebuild", `if ARGV[2] ~= inc then`, `if false then`},
	{"a rebuild keeps no floor", "stage", `tonumber(ARGV[7]), at_least)`, `tonumber(ARGV[7]), 0)`},
	{"a floor forgets an earlier one", "lib", `tonumber(redis.call('HGET', META, 'fu') or '0')`, `0`},
	{"a holder is given the earlier of its sessions", "stage", `if later(s.fence, other.fence) then`, `if false then`},
	{"who is back keeps a tombstone", "rebuild", `redis.call('ZREM', TOMBS, back[i])`, ``},
	{"a seat between two that are taken is lost", "stage", `if not taken[free] then`, `if free == upto then`},
	{"a pool of another incarnation answers", "lib", `if not m or m.inc ~= incarnation() then return nil end`, `if not m then return nil end`},
	{"the clock goes back", "lib", `if ck and ck > now then return ck, ck - now end`, ``},
	{"the clock of a seat that came free is forgotten", "lib", `'lf', now, 'ck', now`, `'lf', now`},
	{"who left is not dirty", "lib", `redis.call('ZADD', DIRTY, s.seat, id)`, ``},
	{"a licence never expires by itself", "lib", `if m.st == 'active' and m.ex and m.ex <= at then`, `if false then`},
	{"the seat given is not the lowest", "acquire", `'ZPOPMIN'`, `'ZPOPMAX'`},
	{"the queue is ignored", "acquire", `(rank or redis.call('ZCARD', QUEUE)) < free`, `0 < free`},
	{"the limit is off by one", "acquire", `local free = m.max + m.od - taken`, `local free = m.max + m.od - taken + 1`},
	{"a holder's session is not found again", "acquire", `redis.call('HSET', HOLDERS, holder, id)`, ``},
	{"an evicted seat is free at once", "lib", `note_end(id, now, 'evicted', now, reason, by)`, `note_end(id, now, 'evicted', now, reason, by) redis.call('ZADD', FREED, s.seat, s.seat)`},
	{"older limits win", "resize", `if tonumber(ARGV[1]) > m.pv then`, `if true then`},
	{"the sweep takes no acknowledgement", "sweep", `redis.call('ZREM', DIRTY, ARGV[i])`, ``},
}

// livesOfAMutant is how long the machine looks for a mistake.
const livesOfAMutant = 400

func TestProofMachineFindsMistakesOfOneLine(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	found, latest := 0, 0
	tried := mutants
	t.Cleanup(func() {
		testenv.Proved(t, "machine", "%d mistakes of one line, put into the scripts one at a time: %d were found, the latest in life %d",
			len(tried), found, latest)
	})
	if !testenv.Full() { // every third: all of them are the proof's
		tried = nil
		for i := 0; i < len(mutants); i += 3 {
			tried = append(tried, mutants[i])
		}
	}
	for _, m := range tried {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			at := onRedis(t, luaInProduction().with(t, m.script, m.was, m.is))
			r := &record{answers: map[string]int{}}
			life := rapid.Custom(func(t *rapid.T) string { return drive(t, at, r, 3) })
			for seed := range livesOfAMutant {
				if fault := life.Example(seed); fault != "" {
					mu.Lock()
					found, latest = found+1, max(latest, r.lives)
					mu.Unlock()
					t.Logf("found in life %d, after %d calls: %s", r.lives, r.calls, fault)
					return
				}
			}
			t.Errorf("%d lives with %d calls found nothing", r.lives, r.calls)
		})
	}
}
