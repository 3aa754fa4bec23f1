package proof_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

// deed is what a client asked for, and between which moments that was done. Moments are ns since the history began.
type deed struct {
	verb     string // acquire, beat or release
	holder   string // of an acquire
	session  string // of the others
	from, to int64
}

// outcome is what a client heard.
type outcome struct {
	word    string // granted (201), found (200), full, alive, released, lapsed; or nothing, when no answer came
	session string
	seat    int
}

const nothing = "nothing"

// never is when a deed ends that was never answered.
const never = math.MaxInt64

// held is a session that has its seat.
type held struct {
	holder      string
	session     string // "" when its holder was never answered
	seat        int    // 0 when not known, either
	early, late int64  // its last renewal lies between these
}

// book is who holds the seats of a licence, by holder. A lease that may have run out stays in it until something that was
// heard says that it did: a lease runs out at any moment that it can.
type book []held

// terms are what a history is checked against.
type terms struct {
	seats int
	// A lease that was granted lasts at least this long, and has surely ended after the longer time.
	lease, leaseEnds time.Duration
	// What was only reserved may end as early as this.
	reservation time.Duration
	ends        map[string]string // session → how it ended, as everybody heard it
	first       map[string]bool   // sessions that a client was granted
}

// slack is what two readings of one clock may differ by, in ms that are cut off.
const slack = 5 * time.Millisecond

// mayLapse says whether the lease may have run out before the deed was done.
func (t *terms) mayLapse(h held, d deed) bool {
	lease := t.lease
	if h.session == "" {
		lease = min(lease, t.reservation)
	}
	return d.to-h.early >= int64(lease) && t.ends[h.session] != "released"
}

// without is the book without some of its sessions.
func (b book) without(gone ...held) book {
	return slices.DeleteFunc(slices.Clone(b), func(h held) bool { return slices.Contains(gone, h) })
}

func (b book) with(h held) book {
	c := append(slices.Clone(b), h)
	slices.SortFunc(c, func(x, y held) int { return cmp.Compare(x.holder, y.holder) })
	return c
}

func (b book) find(is func(held) bool) (held, bool) {
	i := slices.IndexFunc(b, is)
	if i < 0 {
		return held{}, false
	}
	return b[i], true
}

// step is every book that there may be after the deed, when it was done at one moment and had that outcome.
func (t *terms) step(b book, d deed, o outcome) []book {
	for _, h := range b {
		if h.late != never && d.from-h.late > int64(t.leaseEnds+slack) {
			if t.ends[h.session] == "released" {
				return nil // it had surely lapsed, and was released after that
			}
			b = b.without(h)
		}
	}
	if d.verb == "acquire" {
		return t.acquire(b, d, o)
	}
	h, sits := b.find(func(h held) bool { return h.session == d.session })
	renewed := func() book {
		r := h
		r.early, r.late = max(h.early, d.from), max(h.late, d.to)
		return b.without(h).with(r)
	}
	switch {
	case o.word == nothing && !sits:
		return []book{b}
	case o.word == nothing && d.verb == "beat":
		return []book{b, renewed()}
	case o.word == nothing:
		return []book{b, b.without(h)}
	case o.word == "alive":
		if !sits || h.seat != o.seat {
			return nil // what has ended is never renewed
		}
		return []book{renewed()}
	case !sits:
		return []book{b} // it ended before, as it says
	case o.word == "lapsed" && !t.mayLapse(h, d), o.word == "released" && d.verb != "release":
		return nil
	}
	return []book{b.without(h)}
}

func (t *terms) acquire(b book, d deed, o outcome) (after []book) {
	own, has := b.find(func(h held) bool { return h.holder == d.holder })
	fresh := held{holder: d.holder, session: o.session, seat: o.seat, early: d.from, late: d.to}
	if o.word == "found" || o.word == nothing && has {
		renewed := own
		renewed.early, renewed.late = max(own.early, d.from), max(own.late, d.to)
		switch {
		case !has:
		case o.word == nothing:
			after = append(after, b.without(own).with(renewed))
		case own.session == o.session && own.seat == o.seat:
			after = append(after, b.without(own).with(renewed))
		case own.session == "" && !t.first[o.session]: // now it is known which it was
			renewed.session, renewed.seat = o.session, o.seat
			for _, others := range t.vacate(b.without(own), d, o.seat) {
				after = append(after, others.with(renewed))
			}
		}
	}
	if o.word == "found" && (t.first[o.session] || own.session == o.session) {
		return after
	}
	// A session that nobody was granted began with this: another attempt of the holder had begun to take it.
	if o.word == nothing {
		after = append(after, b) // it was never done
		fresh.late = never
	}
	if has {
		if !t.mayLapse(own, d) {
			return after // a holder has one session
		}
		b = b.without(own)
	}
	if o.word == "full" {
		if len(b) == t.seats {
			after = append(after, b)
		}
		return after
	}
	if o.seat > t.seats {
		return after
	}
	for _, others := range t.vacate(b, d, o.seat) {
		if len(others) < t.seats {
			after = append(after, others.with(fresh))
			continue
		}
		for _, h := range others {
			if t.mayLapse(h, d) {
				after = append(after, others.without(h).with(fresh))
			}
		}
	}
	return after
}

// vacate are the books in which nobody is known to sit on the seat.
func (t *terms) vacate(b book, d deed, seat int) []book {
	sits, taken := b.find(func(h held) bool { return seat != 0 && h.seat == seat })
	switch {
	case !taken:
		return []book{b}
	case t.mayLapse(sits, d):
		return []book{b.without(sits)}
	}
	return nil
}

// history is what the clients of a licence did and heard.
type history struct {
	terms  terms
	mu     sync.Mutex
	ops    []porcupine.Operation
	forged bool // it is known to be wrong, and nobody needs to see it
}

// forge is the history with one more operation, or another in its place.
func (h *history) forge(at int, d deed, o outcome) *history {
	ops := slices.Clone(h.ops[:at])
	ops = append(ops, porcupine.Operation{Input: d, Output: o, Call: d.from, Return: d.to})
	if at < len(h.ops) {
		ops = append(ops, h.ops[at+1:]...)
	}
	return &history{terms: h.terms, ops: ops, forged: true}
}

// last is a moment after all that was answered.
func (h *history) last() (at int64) {
	for _, op := range h.ops {
		if op.Return != never {
			at = max(at, op.Return)
		}
	}
	return at + 1
}

// revived are forged histories, in each of which a session is renewed that was released before.
func (h *history) revived() (all []*history) {
	if slices.ContainsFunc(h.ops, func(op porcupine.Operation) bool { return op.Return == never }) {
		return nil // what may still be done makes the search of all orders long
	}
	seats := map[string]int{}
	for _, op := range h.ops {
		if o := op.Output.(outcome); o.seat > 0 && o.session != "" {
			seats[o.session] = o.seat
		}
	}
	for _, op := range h.ops {
		if d, o := op.Input.(deed), op.Output.(outcome); o.word == "released" && len(all) < 3 {
			at := h.last()
			all = append(all, h.forge(len(h.ops), deed{verb: "beat", session: d.session, from: at, to: at + 1}, outcome{word: "alive", session: d.session, seat: seats[d.session]}))
		}
	}
	return all
}

func (h *history) add(client int, d deed, o outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: d, Output: o, Call: d.from, Return: d.to})
}

// check says whether the deeds can be put in an order, each at one moment of its time, in which one book explains all that
// was heard.
func (h *history) check(t testing.TB) porcupine.CheckResult {
	t.Helper()
	terms := h.terms
	terms.ends, terms.first = map[string]string{}, map[string]bool{}
	for _, op := range h.ops {
		d, o := op.Input.(deed), op.Output.(outcome)
		switch o.word {
		case "released", "lapsed":
			if was, heard := terms.ends[d.session]; heard && was != o.word {
				t.Logf("session %s ended in two ways", d.session)
				return porcupine.Illegal
			}
			terms.ends[d.session] = o.word
		case "granted":
			if terms.first[o.session] {
				t.Logf("session %s was granted twice", o.session)
				return porcupine.Illegal
			}
			terms.first[o.session] = true
		}
	}
	for _, op := range h.ops {
		for _, found := range h.ops {
			d, o := op.Input.(deed), op.Output.(outcome)
			if f := found.Output.(outcome); f.word == "found" && f.session == d.session && terms.ends[d.session] == o.word && found.Call > op.Return {
				t.Logf("session %s was found after it had ended", d.session)
				return porcupine.Illegal
			}
		}
	}
	model := (&porcupine.NondeterministicModel{
		Init: func() []any { return []any{book(nil)} },
		Step: func(state, input, output any) (after []any) {
			for _, b := range terms.step(state.(book), input.(deed), output.(outcome)) {
				after = append(after, b)
			}
			return after
		},
		Equal: func(x, y any) bool { return slices.Equal(x.(book), y.(book)) },
		DescribeOperation: func(input, output any) string {
			d, o := input.(deed), output.(outcome)
			return fmt.Sprintf("%s %s%.8s: %s %.8s on %d", d.verb, d.holder, d.session, o.word, o.session, o.seat)
		},
		DescribeState: func(state any) string { return fmt.Sprintf("%+v", state) },
	}).ToModel()
	result, info := porcupine.CheckOperationsVerbose(model, h.ops, time.Minute)
	if result != porcupine.Ok && !h.forged {
		page := filepath.Join(os.TempDir(), fmt.Sprintf("usher-history-%d.html", time.Now().UnixNano()))
		if err := porcupine.VisualizePath(model, info, page); err != nil {
			t.Errorf("draw the history: %v", err)
		}
		t.Logf("the history is drawn in %s", page)
	}
	return result
}

// The seat protocol's times of these licences. The shortest lease is a second.
const (
	shortLease = time.Second
	longLease  = time.Minute
)

func termsOf(seats int, lease time.Duration) terms {
	return terms{seats: seats, lease: lease, leaseEnds: lease + ClockAllowance, reservation: Reservation}
}

// town is a deployment with clients that write down what they did and heard.
type town struct {
	t     testing.TB
	w     *World
	p     *Processes
	began time.Time
	http  *http.Client

	mu    sync.Mutex
	words map[string]int // heard
	deeds atomic.Int64
}

func newTown(t testing.TB) *town {
	t.Helper()
	w := New(t, Options{Env: map[string]string{"REDIS_TIMEOUT": "5s"}}) // a busy machine is no fault
	return &town{
		t: t, w: w, p: w.StartSeating(t), began: time.Now(), words: map[string]int{},
		http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 200}},
	}
}

func (n *town) now() int64 { return int64(time.Since(n.began)) }

// clients are how many a licence has.
const clients = 6

// client asks for seats of one licence as one holder.
type client struct {
	*town
	license License
	history *history
	number  int
	hasty   bool // it sometimes does not wait for an answer
}

// do does a deed and writes it down.
func (c *client) do(d deed, url, token string, body any) (outcome, string) {
	ctx := c.t.Context()
	if c.hasty && rand.IntN(40) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(12_000))*time.Microsecond)
		defer cancel()
	}
	d.from = c.now()
	o, newToken := c.ask(ctx, url, token, body)
	d.to = c.now()
	if o.word == nothing {
		d.to = never // it may still be done
	}
	c.history.add(c.number, d, o)
	if o.word == nothing && d.verb == "acquire" {
		// Its process may still be at it when a retry of the holder has found its seat and given that back: then it takes another.
		c.history.add(c.number, d, o)
	}
	c.deeds.Add(1)
	c.town.mu.Lock()
	c.words[o.word]++
	c.town.mu.Unlock()
	return o, newToken
}

// ask sends a request and says what was heard.
func (c *client) ask(ctx context.Context, url, token string, body any) (outcome, string) {
	text, err := json.Marshal(body)
	if err != nil {
		c.t.Error(err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		c.t.Error(err)
		return outcome{word: nothing}, ""
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return outcome{word: nothing}, ""
	}
	text, err = io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil {
		return outcome{word: nothing}, ""
	}
	var a struct {
		Code      string
		Status    any
		SessionID string `json:"session_id"`
		SeatToken string `json:"seat_token"`
		SeatNo    int    `json:"seat_no"`
	}
	if err := json.Unmarshal(text, &a); err != nil {
		c.t.Errorf("answered %d %s", answer.StatusCode, text)
	}
	o := outcome{session: a.SessionID, seat: a.SeatNo}
	switch status, _ := a.Status.(string); {
	case answer.StatusCode == http.StatusCreated:
		o.word = "granted"
	case answer.StatusCode == http.StatusOK && a.SeatToken != "":
		o.word = "found"
	case answer.StatusCode == http.StatusOK && status != "":
		o = outcome{word: status}
	case answer.StatusCode == http.StatusOK:
		o.word = "alive"
	case a.Code == "no_seats_available":
		o.word = "full"
	case a.Code == "seat_lapsed":
		o.word = "lapsed"
	case a.Code == "seat_released":
		o.word = "released"
	case answer.StatusCode == http.StatusServiceUnavailable:
		o.word = nothing // it may have been done, in part or later
	default:
		c.t.Errorf("answered %d %s", answer.StatusCode, text)
	}
	return o, a.SeatToken
}

func (c *client) acquire(holder string) (o outcome, token string) {
	url := c.p.Acquires[rand.IntN(2)].URL + "/v1/acquire"
	return c.do(deed{verb: "acquire", holder: holder}, url, "", Ask(c.license, holder))
}

func (c *client) beat(session, token string) outcome {
	o, _ := c.do(deed{verb: "beat", session: session}, c.p.Heartbeat.URL+"/v1/heartbeat", token, Body{})
	return o
}

func (c *client) release(session, token string) outcome {
	o, _ := c.do(deed{verb: "release", session: session}, c.p.Release.URL+"/v1/release", token, Body{})
	return o
}

func (c *client) pause(most time.Duration) { time.Sleep(time.Duration(rand.Int64N(int64(most)))) }

// live lets a client come and go until its licence has seen enough.
func (c *client) live(enough int) {
	for !c.t.Failed() {
		c.history.mu.Lock()
		over := len(c.history.ops) >= enough
		c.history.mu.Unlock()
		if over {
			return
		}
		o, token := c.acquire(fmt.Sprint("h", c.number))
		if token == "" {
			c.pause(60 * time.Millisecond)
			continue // the same holder asks again
		}
		session := o.session
		for range rand.IntN(5) {
			c.pause(30 * time.Millisecond)
			if c.beat(session, token).word == "lapsed" {
				break
			}
		}
		switch rand.IntN(12) {
		case 0: // it crashes, and comes back as itself
			c.pause(20 * time.Millisecond)
		case 1: // it sleeps longer than its lease, and then knows better or not
			time.Sleep(c.history.terms.leaseEnds - 50*time.Millisecond + time.Duration(rand.IntN(200))*time.Millisecond)
			if rand.IntN(2) == 0 {
				c.beat(session, token)
			} else {
				c.release(session, token)
			}
		default:
			for c.release(session, token).word == nothing && rand.IntN(4) > 0 {
				c.pause(10 * time.Millisecond)
			}
			if rand.IntN(3) == 0 {
				c.beat(session, token) // it does not know that it has left
			}
		}
	}
}

// record lets clients come and go on a new licence, and answers what they did and heard.
func (n *town) record(hasty bool) *history {
	seats := 1 + rand.IntN(4)
	h := &history{terms: termsOf(seats, shortLease)}
	l := n.w.Seats(n.t, seats, shortLease)
	var living sync.WaitGroup
	for i := range clients {
		living.Go(func() { (&client{town: n, license: l, history: h, number: i, hasty: hasty}).live(120) })
	}
	living.Wait()
	return h
}

func TestProofHistory(t *testing.T) {
	t.Parallel()
	n := newTown(t)
	t.Run("of many licences is linearizable", func(t *testing.T) {
		t.Parallel()
		n.isLinearizable(t)
	})
	t.Run("that is forged is illegal", func(t *testing.T) {
		t.Parallel()
		n.forged(t)
	})
}

// isLinearizable records many licences and checks each.
func (n *town) isLinearizable(t *testing.T) {
	t.Helper()
	enough, tables := int64(1000), 8
	if testenv.Full() {
		enough, tables = 110_000, 24
	}
	var mu sync.Mutex
	verdicts := map[porcupine.CheckResult]int{}
	forged := map[porcupine.CheckResult]int{}
	var recording sync.WaitGroup
	for table := range tables {
		recording.Go(func() {
			for round := table; n.deeds.Load() < enough && !n.t.Failed(); round++ {
				h := n.record(round%2 == 0)
				verdict := h.check(t)
				mu.Lock()
				verdicts[verdict]++
				mu.Unlock()
				if verdict != porcupine.Ok {
					t.Errorf("a history of %d operations on %d seats is %s", len(h.ops), h.terms.seats, verdict)
				}
				for _, wrong := range h.revived() {
					verdict := wrong.check(t)
					mu.Lock()
					forged[verdict]++
					mu.Unlock()
					if verdict != porcupine.Illegal {
						t.Errorf("a history in which a released session is renewed is %s", verdict)
					}
				}
			}
		})
	}
	recording.Wait()
	testenv.Proved(t, "history", "%d operations through HTTP, %d clients to a licence: the histories of %d licences are linearizable, %d are not, %d were not decided",
		n.deeds.Load(), clients, verdicts[porcupine.Ok], verdicts[porcupine.Illegal], verdicts[porcupine.Unknown])
	testenv.Proved(t, "history", "%d seats granted, %d found again, %d times full, %d renewals, %d releases, %d leases that ran out, %d answers that never came",
		n.words["granted"], n.words["found"], n.words["full"], n.words["alive"], n.words["released"], n.words["lapsed"], n.words[nothing])
	testenv.Proved(t, "history", "%d of these histories with one forged answer, in which a released session is renewed: %d were called illegal",
		forged[porcupine.Ok]+forged[porcupine.Illegal]+forged[porcupine.Unknown], forged[porcupine.Illegal])
}

// forged records one licence step by step, and checks that forgeries of that are seen.
func (n *town) forged(t *testing.T) {
	t.Helper()
	h := &history{terms: termsOf(2, longLease)}
	c := &client{town: n, license: n.w.Seats(t, 2, longLease), history: h}
	a, tokenOfA := c.acquire("a")
	b, tokenOfB := c.acquire("b")
	full, _ := c.acquire("c")
	c.beat(a.session, tokenOfA)
	c.release(a.session, tokenOfA)
	over := c.beat(a.session, tokenOfA)
	next, _ := c.acquire("c")
	found, _ := c.acquire("c")
	c.beat(b.session, tokenOfB)
	if full.word != "full" || over.word != "released" || next.word != "granted" || found.word != "found" || h.check(t) != porcupine.Ok {
		t.Fatalf("what was recorded is not as it should be: %+v", h.ops)
	}
	at := func(i int) deed { return h.ops[i].Input.(deed) }
	const forged = "00000000-0000-7000-8000-000000000001"
	wrong := map[string]*history{
		"a third seat of two":                            h.forge(2, at(2), outcome{"granted", forged, 3}),
		"a seat that somebody sits on":                   h.forge(2, at(2), outcome{"granted", forged, 1}),
		"a released session is renewed":                  h.forge(5, at(5), outcome{"alive", a.session, a.seat}),
		"the seat number of another":                     h.forge(6, at(6), outcome{"granted", next.session, b.seat}),
		"a session is granted again":                     h.forge(6, at(6), outcome{"granted", a.session, a.seat}),
		"a session is found after its end":               h.forge(6, at(6), outcome{"found", a.session, a.seat}),
		"a holder gets a second session":                 h.forge(7, at(7), outcome{"granted", forged, 2}),
		"a lease lapses before its time":                 h.forge(8, at(8), outcome{word: "lapsed"}),
		"full, while a seat is free":                     h.forge(6, at(6), outcome{word: "full"}),
		"a session moves to another seat":                h.forge(8, at(8), outcome{"alive", b.session, a.seat}),
		"a session is released that was not asked to be": h.forge(8, at(8), outcome{word: "released"}),
	}
	illegal := 0
	for name, forged := range wrong {
		if result := forged.check(t); result != porcupine.Illegal {
			t.Errorf("%s: %s", name, result)
		} else {
			illegal++
		}
	}
	testenv.Proved(t, "history", "a history recorded step by step, forged in %d ways: %d were called illegal", len(wrong), illegal)
}
