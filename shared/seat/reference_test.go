package seat

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// This file is the reference that the state machine holds the scripts to: a pool as one writes it with maps and a slice,
// for one caller at a time, sharing no text with the Lua. Times are ms. An answer is what the script answers, value by value.

// terms are what a licence's row says to its pool.
type terms struct {
	version                             int64
	state, by                           string
	seats, overdraft                    int
	lease, allowance, reservation, poll int64
	drain, ends                         int64 // ms from when the pool hears it, or -1
}

func (s terms) args() []any {
	return []any{s.version, s.state, s.by, s.seats, s.overdraft, s.lease, s.allowance, s.reservation, s.poll, s.drain, s.ends}
}

// end is how a session ended.
type end struct {
	status     string
	at         int64
	reason, by string
}

func (e end) values() []any { return []any{e.status, e.at, e.reason, e.by} }

// sitter is a session on its seat.
type sitter struct {
	id, holder string
	seat       int
	fence      Fence
	mark       string
	until      int64
}

// The marks of lib.lua beside markEvicted.
const (
	markReserved  = "0"
	markConfirmed = "1"
)

// waiter waits in the queue, and loses its place at until.
type waiter struct {
	holder string
	until  int64
}

// row is an open session as PostgreSQL has it.
type row struct {
	id, holder string
	seat       int
	fence      Fence
	borrowed   int64 // until when, by PostgreSQL's clock; in a blueprint, ms that it goes on
	evicted    *end
}

// around is what a pool stands in.
type around struct {
	now         int64 // by the store's clock, which may go back
	incarnation string
}

// reference is a licence's pool. Before it is built nothing else of it means anything, except what survives a rebuild:
// the ends, the queue, and the tickets of that.
type reference struct {
	around
	built           bool
	bornIn          string // incarnation
	epoch           int64
	terms           terms
	drainAt, endsAt int64 // 0: never
	floorAt         int64
	highest         int   // seat used
	fences, tickets int64 // handed out
	clock           int64 // the highest that was written down
	freedAt, gap    int64 // -1: not known
	sitters         map[string]sitter
	holders         map[string]string // holder → the session that its next acquire finds
	dirty           map[string]int    // session → the seat it left
	ends            map[string]end
	forget          map[string]int64 // session → when its end is forgotten
	queue           []waiter
}

func newReference(a around) *reference {
	return &reference{
		around: a, freedAt: -1, gap: -1, sitters: map[string]sitter{}, holders: map[string]string{}, dirty: map[string]int{},
		ends: map[string]end{}, forget: map[string]int64{},
	}
}

// clone is the pool as it is now, for a replica that stays behind.
func (p *reference) clone() *reference {
	c := *p
	c.sitters, c.holders, c.dirty = maps.Clone(p.sitters), maps.Clone(p.holders), maps.Clone(p.dirty)
	c.ends, c.forget, c.queue = maps.Clone(p.ends), maps.Clone(p.forget), slices.Clone(p.queue)
	return &c
}

func (p *reference) warm() bool { return p.built && p.bornIn == p.incarnation }

func (p *reference) time() int64 { return max(p.now, p.clock) }

func (p *reference) size() int { return p.terms.seats + p.terms.overdraft }

func (p *reference) stateAt(at int64) string {
	if p.terms.state == "active" && p.endsAt != 0 && p.endsAt <= at {
		return "license_expired"
	}
	return p.terms.state
}

// live counts the leases that run.
func (p *reference) live() (n int) {
	for _, s := range p.sitters {
		if s.until > p.time() {
			n++
		}
	}
	return n
}

// free is the lowest seat that nobody sits on.
func (p *reference) free() int {
	seat := 1
	for slices.ContainsFunc(slices.Collect(maps.Values(p.sitters)), func(s sitter) bool { return s.seat == seat }) {
		seat++
	}
	return seat
}

// leaves takes a session off its seat, for the reason unless it was evicted before.
func (p *reference) leaves(s sitter, why end) {
	delete(p.sitters, s.id)
	p.dirty[s.id] = s.seat
	if p.holders[s.holder] == s.id {
		delete(p.holders, s.holder)
	}
	if s.mark == markEvicted {
		why = p.ends[s.id]
	}
	p.note(s.id, why)
	if p.freedAt >= 0 {
		gap := p.time() - p.freedAt
		if p.gap >= 0 {
			gap = int64(math.Floor(float64(0.8*float64(p.gap)) + float64(0.2*float64(gap))))
		}
		p.gap = gap
	}
	p.clock = p.time()
	p.freedAt = p.clock
}

// note remembers for a day how a session ended, or is to end.
func (p *reference) note(id string, how end) {
	p.ends[id], p.forget[id] = how, p.time()+24*60*60*1000
}

func (p *reference) lapses(s sitter) {
	if state := p.stateAt(s.until); state != "active" {
		p.leaves(s, end{Evicted, s.until, state, p.terms.by})
	} else {
		p.leaves(s, end{Lapsed, s.until, ReasonLeaseExpired, ""})
	}
}

// reap ends what is over by now.
func (p *reference) reap() (reaped int) {
	for _, s := range p.sitters {
		if s.until <= p.time() {
			p.lapses(s)
			reaped++
		}
	}
	for id, at := range p.forget {
		if _, sits := p.sitters[id]; at <= p.time() && sits {
			p.note(id, p.ends[id])
		} else if at <= p.time() {
			delete(p.forget, id)
			delete(p.ends, id)
		}
	}
	p.queue = slices.DeleteFunc(p.queue, func(w waiter) bool { return w.until <= p.time() })
	return reaped
}

// dirtyEnds are the dirty sessions (on the seat, unless that is 0) by seat, each with how it ended.
func (p *reference) dirtyEnds(seat int) (values []any) {
	ids := slices.SortedFunc(maps.Keys(p.dirty), func(a, b string) int {
		return cmp.Or(cmp.Compare(p.dirty[a], p.dirty[b]), cmp.Compare(a, b))
	})
	for _, id := range ids {
		if seat == 0 || p.dirty[id] == seat {
			e, known := p.ends[id]
			if !known {
				e = end{Lapsed, p.time(), ReasonLeaseExpired, ""}
			}
			values = append(append(values, id), e.values()...)
		}
	}
	return values
}

func (p *reference) seatAnswer(s sitter) []any {
	answer := []any{"seat", s.id, s.fence, s.seat, p.epoch, p.terms.version}
	if s.mark == markReserved {
		answer = append(answer, p.dirtyEnds(s.seat)...)
	}
	return answer
}

func (p *reference) place(holder string) int {
	return slices.IndexFunc(p.queue, func(w waiter) bool { return w.holder == holder })
}

func (p *reference) leave(holder string) []any {
	if i := p.place(holder); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		return []any{1}
	}
	return []any{0}
}

func (p *reference) acquire(id, holder string, wait bool) []any {
	if !p.warm() {
		return []any{"rebuild"}
	}
	if state := p.stateAt(p.time()); state != "active" {
		return []any{"refused", state}
	}
	p.clock = p.time()
	p.reap()
	if own := p.sitters[p.holders[holder]]; own.mark == markEvicted {
		p.leaves(own, end{})
	}
	if s, here := p.sitters[id]; here {
		return p.seatAnswer(s)
	}
	if own, has := p.holders[holder]; has {
		p.leave(holder)
		return p.seatAnswer(p.sitters[own])
	}
	before := p.place(holder)
	if before < 0 {
		before = len(p.queue)
	}
	if before >= p.size()-len(p.sitters) {
		if !wait {
			first := p.time()
			if len(p.sitters) > 0 {
				first = math.MaxInt64
			}
			for _, s := range p.sitters {
				first = min(first, s.until)
			}
			return []any{"full", len(p.sitters), p.terms.seats, p.terms.overdraft, len(p.queue), first - p.time()}
		}
		if before == len(p.queue) {
			p.queue = append(p.queue, waiter{holder: holder})
			p.tickets++
		}
		p.queue[before].until = p.time() + 3*p.terms.poll
		return []any{"queued", before + 1, len(p.queue), p.terms.poll, p.gap, len(p.sitters), p.terms.seats, p.terms.overdraft}
	}
	p.leave(holder)
	p.fences++
	s := sitter{
		id: id, holder: holder, seat: p.free(), fence: Fence{p.epoch, p.fences}, mark: markReserved, until: p.time() + p.terms.reservation,
	}
	p.highest = max(p.highest, s.seat)
	p.sitters[id], p.holders[holder] = s, id
	return p.seatAnswer(s)
}

func (p *reference) touch(id string, fence Fence, confirm bool, closed ...string) []any {
	if !p.warm() {
		return []any{"rebuild"}
	}
	s, here := p.sitters[id]
	if !here {
		if e, known := p.ends[id]; known {
			return append([]any{"ended"}, e.values()...)
		}
		if _, left := p.dirty[id]; left {
			return []any{"ended", Lapsed, 0, ReasonLeaseExpired, ""}
		}
		return []any{"unknown", p.epoch}
	}
	if s.fence != fence {
		return []any{"stale", p.epoch}
	}
	if s.mark == markReserved && !confirm {
		return []any{"reserved"}
	}
	live := p.live()
	drain := int64(0)
	if s.seat > p.size() && live > p.size() {
		drain = p.drainAt
	}
	switch state := p.stateAt(p.time()); {
	case s.until <= p.time():
		p.lapses(s)
		return append([]any{"ended"}, p.ends[id].values()...)
	case s.mark == markEvicted:
		return append([]any{"ended"}, p.ends[id].values()...)
	case state != "active":
		return p.evicts(s, state, p.terms.by)
	case drain > 0 && drain <= p.time():
		return p.evicts(s, ReasonSeatsReduced, "")
	}
	until := p.time() + p.terms.lease + p.terms.allowance
	if s.mark == markConfirmed {
		until = max(until, s.until)
	}
	s.mark, s.until = markConfirmed, until
	p.sitters[id] = s
	for _, c := range closed {
		delete(p.dirty, c)
	}
	now := p.time()
	if now >= p.clock+1000 {
		p.clock = now
	}
	return []any{"ok", now, p.terms.lease, live, p.terms.seats, p.terms.overdraft, drain, s.seat}
}

func (p *reference) borrow(id string, fence Fence, epoch, last int64) []any {
	if !p.warm() || p.epoch != epoch {
		return []any{"rebuild"}
	}
	s, here := p.sitters[id]
	if !here || s.fence != fence || s.mark != markConfirmed || s.until <= p.time() || p.stateAt(p.time()) != "active" {
		return []any{"refused"}
	}
	s.until = max(s.until, p.time()+last+p.terms.allowance)
	p.sitters[id] = s
	p.clock = p.time()
	return []any{"ok"}
}

func (p *reference) release(id string, fence Fence, reserved bool) []any {
	s, here := p.sitters[id]
	e, known := p.ends[id]
	switch {
	case !here && known:
		return append([]any{"ended"}, e.values()...)
	case (!here || s.fence != fence) && !p.warm():
		return []any{"rebuild"}
	case !here:
		return []any{"unknown"}
	case s.fence != fence:
		return []any{"stale"}
	case s.until <= p.time():
		p.lapses(s)
	case reserved && s.mark != markReserved:
		return []any{"held"}
	default:
		p.leaves(s, end{Released, p.time(), ReasonReleased, "holder"})
	}
	return append([]any{"ended"}, p.ends[id].values()...)
}

func (p *reference) evict(id, reason, by string) []any {
	if !p.warm() {
		return []any{"rebuild"}
	}
	s, here := p.sitters[id]
	_, known := p.ends[id]
	_, left := p.dirty[id]
	if !here && !known && !left {
		return []any{"unknown", p.epoch}
	}
	if here && s.mark != markEvicted {
		p.evicts(s, reason, by)
	}
	return []any{"ok", p.epoch}
}

// evicts marks the session; its seat stays taken.
func (p *reference) evicts(s sitter, reason, by string) []any {
	s.mark = markEvicted
	p.sitters[s.id] = s
	p.note(s.id, end{Evicted, p.time(), reason, by})
	return append([]any{"ended"}, p.ends[s.id].values()...)
}

func (p *reference) hear(s terms) {
	p.terms, p.drainAt, p.endsAt = s, 0, 0
	if s.drain >= 0 {
		p.drainAt = p.time() + s.drain
	}
	if s.ends >= 0 {
		p.endsAt = p.time() + s.ends
	}
}

func (p *reference) resize(s terms) []any {
	if !p.warm() {
		return []any{"rebuild"}
	}
	if s.version > p.terms.version {
		p.hear(s)
	}
	return []any{"ok", p.epoch}
}

func (p *reference) sweep(most int, closed, open []string) []any {
	for _, id := range closed {
		delete(p.dirty, id)
	}
	if !p.warm() {
		return []any{"rebuild"}
	}
	back := p.time() - p.now
	p.clock = p.time()
	reaped := p.reap()
	var unknown []any
	for _, id := range open {
		_, here := p.sitters[id]
		if _, left := p.dirty[id]; !here && !left {
			unknown = append(unknown, id)
		}
	}
	answer := []any{"ok", p.epoch, p.terms.version, p.stateAt(p.time()), reaped, len(p.sitters), back, len(unknown)}
	dirty := p.dirtyEnds(0)
	return append(append(answer, unknown...), dirty[:min(len(dirty), 5*most)]...)
}

func (p *reference) peek(id string) []any {
	if !p.built {
		return []any{p.incarnation, "", 0, 0, "", 0, 0, 0, len(p.queue), 0, ""}
	}
	return []any{
		p.incarnation, p.epoch, bit(p.warm()), p.terms.version, p.stateAt(p.time()), p.live(), p.terms.seats, p.terms.overdraft,
		len(p.queue), bit(p.sitters[id].until > p.time()), "",
	}
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// refuses is why the pool is not built from the blueprint, or ok.
func (p *reference) refuses(b blueprint) string {
	switch {
	case p.built && p.epoch >= b.epoch:
		return "old"
	case b.incarnation != p.incarnation:
		return "moved"
	}
	return "ok"
}

// stage puts rows beside the pool; in it, only how evicted sessions are to end shows.
func (p *reference) stage(b blueprint, rows []row) []any {
	verdict := p.refuses(b)
	if verdict == "ok" {
		for _, r := range rows {
			if r.evicted != nil {
				p.note(r.id, *r.evicted)
			}
		}
	}
	return []any{verdict}
}

func (p *reference) rebuild(b blueprint) []any {
	if verdict := p.refuses(b); verdict != "ok" {
		return []any{verdict}
	}
	now, floorAt := p.time(), p.floorAt
	if !p.built {
		floorAt = 0
	}
	next := newReference(p.around)
	next.built, next.bornIn, next.epoch, next.clock = true, p.incarnation, b.epoch, now
	next.ends, next.forget, next.queue, next.tickets = p.ends, p.forget, p.queue, p.tickets
	next.floorAt = max(now+b.floor, floorAt)
	next.hear(b.terms)
	for _, r := range b.rows {
		s := sitter{
			id: r.id, holder: r.holder, seat: r.seat, fence: r.fence, mark: markConfirmed,
			until: max(now+r.borrowed+b.terms.allowance, next.floorAt),
		}
		if r.evicted != nil {
			s.mark = markEvicted
		} else {
			delete(next.ends, r.id)
			delete(next.forget, r.id)
		}
		next.holders[r.holder] = r.id
		next.sitters[r.id] = s
		next.highest = max(next.highest, r.seat)
	}
	*p = *next
	return []any{"ok"}
}

// lines are all that there is to see of the pool, sorted.
func (p *reference) lines() (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if p.built {
		for name, value := range map[string]any{
			"inc": p.bornIn, "ep": p.epoch, "pv": p.terms.version, "st": p.terms.state, "by": p.terms.by,
			"max": p.terms.seats, "od": p.terms.overdraft, "v": p.terms.lease, "sg": p.terms.allowance, "p": p.terms.reservation,
			"pl": p.terms.poll, "fu": p.floorAt, "hi": p.highest, "fc": p.fences, "tk": p.tickets, "ck": p.clock,
		} {
			add("meta %s %v", name, value)
		}
		for name, at := range map[string]int64{"du": p.drainAt, "ex": p.endsAt} {
			if at != 0 {
				add("meta %s %d", name, at)
			}
		}
		for name, value := range map[string]int64{"lf": p.freedAt, "gp": p.gap} {
			if value >= 0 {
				add("meta %s %d", name, value)
			}
		}
	}
	taken := map[int]bool{}
	for id, s := range p.sitters {
		add("leases %s %d", id, s.until)
		add("sessions %s %s|%d|%s|%s", id, s.fence, s.seat, s.mark, s.holder)
		taken[s.seat] = true
	}
	for seat := 1; seat <= p.highest; seat++ {
		if !taken[seat] {
			add("freed %d %d", seat, seat)
		}
	}
	for id, seat := range p.dirty {
		add("dirty %s %d", id, seat)
	}
	for holder, id := range p.holders {
		add("holders %s %s", holder, id)
	}
	for id, at := range p.forget {
		add("tombs %s %d", id, at)
	}
	for id, e := range p.ends {
		add("ends %s %s\x1f%d\x1f%s\x1f%s", id, e.status, e.at, e.reason, e.by)
	}
	for i, w := range p.queue {
		add("queue %s place %d", w.holder, i)
		add("polls %s %d", w.holder, w.until)
	}
	slices.Sort(lines)
	return lines
}
