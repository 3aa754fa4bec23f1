package functiontest

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/testenv"
)

// Step is a moment in the life of a function's process at which it can be killed.
type Step struct {
	Function string
	testenv.Moment
}

// String is as people read it.
func (s Step) String() string {
	if s.Answered {
		return s.Function + " after " + s.Request
	}
	return s.Function + " before " + s.Request
}

// Crashes decides at which steps processes are killed: at those that were hit least, and each process about once in a period.
type Crashes struct {
	Every time.Duration
	// Command and Statement name what a process says to Redis and to PostgreSQL; what has no name is no step.
	Command   func(command []string) string
	Statement func(sql string) string

	mu   sync.Mutex
	hits map[Step]int
	seen map[Step]time.Time // when last
	next map[*Service]time.Time
	over bool
}

// Hits is how many processes were killed at each step.
func (c *Crashes) Hits() map[Step]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.hits)
}

// Steps are those that were hit, in order.
func (c *Crashes) Steps() []Step {
	return slices.SortedFunc(maps.Keys(c.Hits()), func(a, b Step) int { return strings.Compare(a.String(), b.String()) })
}

// Stop lets every process live from now on.
func (c *Crashes) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

// spare lets the service's process live for a while.
func (c *Crashes) spare(s *Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.hits, c.seen, c.next = map[Step]int{}, map[Step]time.Time{}, map[*Service]time.Time{}
	}
	c.next[s] = time.Now().Add(c.Every/2 + rand.N(c.Every)) //nolint:gosec // a pace is no secret
}

// strike says whether the process of the service is to die at this step, and counts it.
func (c *Crashes) strike(s *Service, at Step) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.seen[at] = now
	late := now.Sub(c.next[s])
	if c.over || late < 0 {
		return false
	}
	// The longer no step comes by that was hit less, the less choosy it is.
	least := c.hits[at]
	for other, when := range c.seen {
		if other.Function == at.Function && now.Sub(when) < 10*c.Every {
			least = min(least, c.hits[other])
		}
	}
	if c.hits[at] > least+int(late/c.Every) {
		return false
	}
	c.hits[at]++
	return true
}

// Service is a function at one address, whichever of its processes serves there: one that dies is followed by another.
type Service struct {
	URL string

	function string
	crashes  *Crashes
	front    *testenv.Wire
	stop     chan struct{}
	stopped  sync.WaitGroup

	mu    sync.Mutex
	proc  *Process // nil while none serves
	dying bool
}

// Serve starts a function behind taps, to the Redis at that address and to PostgreSQL, and lets its processes die at the steps
// that crashes says. The test must end it before it is over.
func (w *World) Serve(t testing.TB, function string, crashes *Crashes, redis string) *Service {
	t.Helper()
	s := &Service{function: function, crashes: crashes, stop: make(chan struct{})}
	s.front = testenv.NewHTTPTap(t, "its answer", s.passes)
	toRedis := testenv.NewRedisTap(t, redis, crashes.Command, s.passes)
	toPostgres := testenv.NewPostgresTap(t, w.DB.Socket(), crashes.Statement, s.passes)
	s.URL = "http://" + s.front.Addr()
	env := map[string]string{"REDIS_URL": "redis://" + toRedis.Addr() + "/0", "DATABASE_URL": w.DB.Over(toPostgres, "usher_"+function)}
	begin := func() *Process {
		s.become(nil)
		p := w.start(t, function, env)
		s.front.Lead(strings.TrimPrefix(p.URL, "http://"))
		s.become(p)
		return p
	}
	p := begin()
	s.stopped.Go(func() {
		for {
			select {
			case <-s.stop:
				return
			case <-p.Done():
				p = begin()
			}
		}
	})
	return s
}

func (s *Service) become(p *Process) {
	s.crashes.spare(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proc, s.dying = p, false
}

// passes says whether a message of the process, or to it, may pass.
func (s *Service) passes(m testenv.Moment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.dying:
		return false
	case s.proc == nil || !s.crashes.strike(s, Step{s.function, m}):
		return true
	}
	s.dying = true
	s.proc.Crash()
	return false
}

// End ends the following of processes by others. What runs goes on until the test is over.
func (s *Service) End() {
	close(s.stop)
	s.stopped.Wait()
}
