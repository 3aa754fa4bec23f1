package proof_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

// chaos is a deployment in which everything goes wrong.
type chaos struct {
	t       *testing.T
	w       *World
	pair    *testenv.Pair
	crashes *Crashes
	lease   time.Duration
	rand    *rand.Rand

	acquires                  []*Service
	heartbeat, release, sweep *Service
}

// patience is how long a function waits for Redis in the proofs: a machine that is busy with them is no Redis that is out.
const patience = "2s"

// told is how long the sweep, which is called each second but dies often, may have to tell a pool of an eviction.
const told = 20 * time.Second

// seed is PROOF_SEED, or another one each time. It fixes what is done; what becomes of it, the machine's pace decides.
func seed(t *testing.T) uint64 {
	t.Helper()
	if text := os.Getenv("PROOF_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return rand.Uint64()
}

func newChaos(t *testing.T, lease, every time.Duration, seed uint64) *chaos {
	t.Helper()
	c := &chaos{t: t, pair: testenv.RedisPair(t), lease: lease, rand: rand.New(rand.NewPCG(seed, 0))}
	c.crashes = &Crashes{Every: every, Command: commands(t), Statement: statement}
	c.w = New(t, Options{PrivatePostgres: true, Env: map[string]string{"REDIS_URL": c.pair.URL(), "REDIS_TIMEOUT": patience, "LOG_LEVEL": "error"}})
	c.acquires = make([]*Service, 2)
	var starting sync.WaitGroup
	for service, function := range map[**Service]string{
		&c.acquires[0]: "acquire", &c.acquires[1]: "acquire", &c.heartbeat: "heartbeat", &c.release: "release", &c.sweep: "sweep",
	} {
		starting.Go(func() { *service = c.w.Serve(t, function, c.crashes, c.pair.Front.Addr()) })
	}
	starting.Wait()
	return c
}

func (c *chaos) services() []*Service { return append(c.acquires, c.heartbeat, c.release, c.sweep) }

// party is one at these services.
func (c *chaos) party(name string, guests ...Guests) *Hosted {
	c.t.Helper()
	return Party{
		Name: name, Guests: guests,
		Acquires: []string{c.acquires[0].URL, c.acquires[1].URL}, Heartbeat: c.heartbeat.URL, Release: c.release.URL,
	}.Host(c.t)
}

// pause waits for up to so long.
func (c *chaos) pause(most time.Duration) {
	time.Sleep(time.Duration(c.rand.Int64N(int64(most))))
}

// trouble is one of the things that go wrong. Afterwards the stores are whole again.
type trouble struct {
	name string
	loss bool // Redis loses something, or becomes another one
	do   func(c *chaos)
}

var troubles = []trouble{
	{"failover, its tail lost", true, func(c *chaos) {
		c.pair.CutReplication()
		c.pause(c.lease)
		c.pair.Failover(c.t)
		c.pair.Rejoin(c.t)
	}},
	{"failover, the old primary still answers", true, func(c *chaos) {
		c.pair.CutReplication()
		c.pause(c.lease / 2)
		c.pair.PromoteUnheard(c.t)
		time.Sleep(ConnectionLife) // as long as anybody may be answered
		c.pair.Rejoin(c.t)
	}},
	{"kill -9, restarted empty", true, func(c *chaos) {
		c.pair.Primary.RestartEmpty(c.t)
		c.pair.AwaitReplica(c.t)
	}},
	{"FLUSHALL", true, func(c *chaos) { c.pair.Primary.Do(c.t, "FLUSHALL") }},
	{"failover to a replica that is up to date", true, func(c *chaos) {
		c.pair.Failover(c.t)
		c.pair.Rejoin(c.t)
	}},
	{"two losses at once", true, func(c *chaos) {
		c.pair.CutReplication()
		c.pause(c.lease / 2)
		c.pair.Primary.Do(c.t, "FLUSHALL")
		c.pause(200 * time.Millisecond)
		c.pair.Failover(c.t)
		c.pair.Rejoin(c.t)
	}},
	{"SCRIPT FLUSH", false, func(c *chaos) { c.pair.Primary.Do(c.t, "SCRIPT", "FLUSH") }},
	{"Redis stalls", false, func(c *chaos) {
		c.pair.Primary.Pause(c.t)
		c.pause(c.lease / 3)
		c.pair.Primary.Resume(c.t)
	}},
	{"Redis is slow", false, func(c *chaos) {
		c.pair.Front.Slow(40 * time.Millisecond)
		c.pause(c.lease / 2)
		c.pair.Front.Slow(0)
	}},
	{"connections to Redis are cut", false, func(c *chaos) {
		for range 5 {
			c.pair.Front.Snap()
			c.pause(100 * time.Millisecond)
		}
	}},
	{"PostgreSQL crashes", false, func(c *chaos) {
		c.w.Postgres.Stop(c.t)
		c.pause(c.lease / 4)
		c.w.Postgres.Start(c.t)
	}},
	{"PostgreSQL stalls", false, func(c *chaos) {
		c.w.Postgres.Pause(c.t)
		c.pause(c.lease / 4)
		c.w.Postgres.Resume(c.t)
	}},
}

// order is the troubles in some order, and those twice in which Redis loses something.
func (c *chaos) order() []int {
	var which []int
	for i := range troubles {
		which = append(which, i)
		if troubles[i].loss {
			which = append(which, i)
		}
	}
	c.rand.Shuffle(len(which), func(i, j int) { which[i], which[j] = which[j], which[i] })
	return which
}

// sweeping calls the sweep as the scheduler does, only more often, until stop is closed.
func (c *chaos) sweeping(stop <-chan struct{}, every time.Duration) {
	web := &http.Client{Timeout: 20 * time.Second}
	for {
		select {
		case <-stop:
			return
		case <-time.After(every):
		}
		token, err := c.w.Scheduler.Token(map[string]any{"aud": SchedulerAudience, "email": SchedulerEmail, "email_verified": true}, time.Minute)
		if err != nil {
			c.t.Errorf("make the scheduler's token: %v", err)
			return
		}
		_, _, _ = Post(web, c.sweep.URL+"/tasks/sweep", Message{Token: token, Body: "{}"}) // in the midst of trouble it may fail
	}
}

// evict evicts somebody of the licence.
func (c *chaos) evict(l License) (e Eviction) {
	session, err := c.w.EvictAny(c.t.Context(), l, "for the proof")
	e.Session = session
	if err == nil {
		e.Answered = Now()
	}
	return e
}

func TestProofChaos(t *testing.T) {
	t.Parallel()
	parties, crowd, seats, small, lease, every, losses, most := 1, 16, 6, 1, 4*time.Second, 4*time.Second, 3, 5*time.Second
	if testenv.Full() {
		parties, crowd, seats, small, lease, every, losses, most = 4, 85, 100, 5, 5*time.Second, 8*time.Second, 100, 19*time.Minute
	}
	number := seed(t)
	c := newChaos(t, lease, every, number)
	stop := make(chan struct{})
	var running sync.WaitGroup
	end := sync.OnceFunc(func() {
		c.crashes.Stop()
		close(stop)
		running.Wait()
		for _, s := range c.services() {
			s.End()
		}
	})
	defer end()

	big := c.w.Seats(t, seats, lease)
	licenses, of := []License{big}, map[uuid.UUID]int{big.ID: seats}
	for range small {
		l := c.w.Seats(t, 2, lease-time.Second)
		licenses, of[l.ID] = append(licenses, l), 2
	}
	var hosted []*Hosted
	for i := range parties {
		manner := Manner{Pace: lease / 8, Beat: lease / 8, Stay: lease / 2, Vanishes: 25}
		if testenv.Full() {
			manner = Manner{Pace: lease, Beat: lease / 5, Stay: 2 * lease, Vanishes: 25}
		}
		guests := []Guests{{License: big, Number: crowd, Manner: manner}}
		for _, l := range licenses[1:] {
			guests = append(guests, Guests{License: l, Number: 3, Manner: manner})
		}
		hosted = append(hosted, c.party(fmt.Sprint("party-", i), guests...))
	}
	running.Go(func() { c.sweeping(stop, time.Second) })

	began, done, lost, evictions, failovers := time.Now(), map[string]int{}, 0, []Eviction{}, []Span{}
	over := func() bool { return lost == losses || lost > 0 && time.Since(began) > most }
	for !over() {
		for _, i := range c.order() {
			c.pause(lease)
			for range 1 + len(licenses)/3 {
				if e := c.evict(licenses[c.rand.IntN(len(licenses))]); e.Session != uuid.Nil {
					evictions = append(evictions, e)
				}
			}
			trouble, from := troubles[i], Now()
			trouble.do(c)
			if trouble.loss {
				failovers = append(failovers, Span{From: from, To: Now().Add(lease)}) // by then the sweep has been at every pool
			}
			done[trouble.name]++
			if trouble.loss {
				lost++
			}
			if over() {
				break
			}
		}
	}
	AwaitLives(t, hosted, 3)
	took := time.Since(began)
	c.crashes.Stop()
	var lives []Life
	var count Count
	for _, h := range hosted {
		some, counted := h.End(t)
		lives = append(lives, some...)
		count.Add(counted)
	}
	v := Judge(Case{Lives: lives, Seats: of, Evictions: evictions, Failovers: forgetful(failovers), Told: told})

	testenv.Proved(t, "chaos", "seed %d: %d holders in %d processes at one licence of %d seats and %d of 2 seats, for %s, with leases of %s and less",
		number, parties*(crowd+3*small), parties, seats, small, took.Round(time.Second), lease)
	testenv.Proved(t, "chaos", "%d sessions, %d heartbeats answered yes; %d requests were told to try later or never answered", v.Lives, count.Beats, count.Later)
	testenv.Proved(t, "chaos", "%d losses of Redis, and what else went wrong: %s", lost, list(done))
	killed, steps := 0, []string{}
	for _, s := range c.crashes.Steps() {
		n := c.crashes.Hits()[s]
		killed += n
		steps = append(steps, fmt.Sprintf("%s %d", s, n))
	}
	testenv.Proved(t, "chaos", "%d processes of functions were killed, at %d different steps: %s", killed, len(steps), strings.Join(steps, ", "))
	testenv.Proved(t, "chaos", "over-admissions: %d, seats held twice: %d (at most %d believed at once in %d seats)", v.Over, v.Shared, v.Most, seats)
	testenv.Proved(t, "chaos", "live holders lost: %d; %d holders were told to try later for a whole lease and stopped by themselves", len(v.Lost), v.Starved)
	testenv.Proved(t, "chaos", "%d releases and %d evictions were answered; %d sessions were renewed after that by a stale Redis around a failover, %d before the sweep told an eviction, and %d otherwise",
		v.Released, v.Evicted, v.Recalled, v.Untold, len(v.Revived))
	if !v.Holds() {
		t.Errorf("the promise was broken: %+v", v)
	}
	for what, n := range count.Strange {
		t.Errorf("%d times a holder met: %s", n, what)
	}
	if v.Most < seats/2 || v.Released == 0 || lost < min(losses, 1) || killed == 0 {
		t.Errorf("the proof has lost its load: %+v, %d losses, %d killed", v, lost, killed)
	}
	if testenv.Full() {
		if lost < losses {
			t.Errorf("%d losses of Redis, want %d", lost, losses)
		}
		c.wantSteps()
	}
	c.afterwards(big, seats, lives, evictions)
}

// wantSteps wants that processes died on both sides of all that decides.
func (c *chaos) wantSteps() {
	c.t.Helper()
	hits := c.crashes.Hits()
	for function, requests := range map[string][]string{
		"acquire":   {"reserve", "opening the row", "confirm", "the new epoch", "the commit"},
		"heartbeat": {"beat", "the new epoch", "the commit"},
		"release":   {"release", "closing the row"},
		"sweep":     {"sweep", "closing the row"},
	} {
		for _, request := range requests {
			for _, answered := range []bool{false, true} {
				if s := (Step{Function: function, Moment: testenv.Moment{Request: request, Answered: answered}}); hits[s] == 0 {
					c.t.Errorf("no process died %s", s)
				}
			}
		}
	}
	for _, function := range []string{"acquire", "heartbeat", "release"} {
		if s := (Step{Function: function, Moment: testenv.Moment{Request: "its answer", Answered: true}}); hits[s] == 0 {
			c.t.Errorf("no process died %s", s)
		}
	}
}

// afterwards checks what is left when everybody has gone: what was answered is final, and every seat can be had again.
func (c *chaos) afterwards(big License, seats int, lives []Life, evictions []Eviction) {
	c.t.Helper()
	var released, evicted []uuid.UUID
	for _, l := range lives {
		if l.Released {
			released = append(released, l.Session)
		}
	}
	for _, e := range evictions {
		if e.Answered != 0 {
			evicted = append(evicted, e.Session)
		}
	}
	if n := testenv.Value[int64](c.t, c.w.DB, `SELECT count(*) FROM app.open_sessions WHERE id = ANY($1)`, released); n > 0 {
		c.t.Errorf("%d sessions are open although their release was answered", n)
	}
	if n := testenv.Value[int64](c.t, c.w.DB, `SELECT count(*) FROM app.open_sessions WHERE id = ANY($1) AND evicted_at IS NULL`, evicted); n > 0 {
		c.t.Errorf("%d sessions are open although their eviction was answered", n)
	}
	web := &http.Client{Timeout: 10 * time.Second}
	ask := func(n int) (int, string) {
		status, body, err := Post(web, c.acquires[n%2].URL+"/v1/acquire", Message{Body: Ask(big, "later-"+Device(n))})
		return status, fmt.Sprint(string(body), err)
	}
	testenv.Eventually(c.t, Floor(c.lease)+90*time.Second, func() error {
		began := time.Now()
		answers := make([]string, seats)
		var asking sync.WaitGroup
		for n := range seats {
			asking.Go(func() {
				if status, body := ask(n); status != http.StatusCreated && status != http.StatusOK {
					answers[n] = fmt.Sprintf("device %d was answered %d %s", n, status, body)
				}
			})
		}
		asking.Wait()
		for _, refused := range answers {
			if refused != "" {
				return errors.New(refused)
			}
		}
		status, body := ask(seats)
		if took := time.Since(began); took > c.lease-time.Second {
			return fmt.Errorf("to ask for all seats took %s, longer than they are held", took)
		}
		if status != http.StatusConflict {
			return fmt.Errorf("one more than the seats was answered %d %s", status, body)
		}
		return nil
	})
}

// list writes counts as people read them.
func list(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
