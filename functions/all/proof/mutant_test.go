package proof_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

// mutant is the product without one of its safeguards. The product itself has no switch for that: it is built from a source
// file in which a text, that must be there exactly once, is replaced.
type mutant struct {
	name, file, text, by string
	// trouble is what the safeguard is for.
	trouble func(c *mutated)
}

var mutants = []mutant{
	{
		"a pool of another incarnation is used as it is", "shared/seat/lib.lua",
		"if not m or m.inc ~= incarnation() then return nil end\n  return m", "return m",
		(*mutated).loseTail,
	},
	{
		"a rebuild sets no floor", "shared/seat/lib.lua",
		"return math.max(floor, tonumber(redis.call('HGET', META, 'fu') or '0'))", "return 0",
		(*mutated).flush,
	},
}

// build builds this package's test binary, and the functions in it, without the safeguard, and answers where it is.
func (m *mutant) build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(testenv.Root(t), filepath.FromSlash(m.file))
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), m.text); n != 1 {
		t.Fatalf("%q is in %s %d times: the mutant must follow the product", m.text, m.file, n)
	}
	other, overlay, binary := filepath.Join(dir, "source"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "mutant")
	replaced, err := json.Marshal(map[string]any{"Replace": map[string]string{file: other}})
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{other: strings.Replace(string(source), m.text, m.by, 1), overlay: string(replaced)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay, "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build without a safeguard: %v\n%s", err, out)
	}
	return binary
}

// mutated is a small deployment, perhaps of a mutant, and its holders.
type mutated struct {
	t     *testing.T
	pair  *testenv.Pair
	lease time.Duration
	seats map[uuid.UUID]int
	party *Hosted
}

// loseTail is a failover in which the heartbeats of most of a lease are lost.
func (c *mutated) loseTail() {
	c.pair.CutReplication()
	time.Sleep(c.lease * 8 / 10)
	c.pair.Failover(c.t)
	time.Sleep(c.lease)
	c.pair.Rejoin(c.t)
}

func (c *mutated) flush() {
	c.pair.Primary.Do(c.t, "FLUSHALL")
	time.Sleep(c.lease)
}

// settle lets a crowd of holders live at a small licence of a deployment whose functions are of the binary.
func settle(t *testing.T, binary string) *mutated {
	t.Helper()
	c := &mutated{t: t, pair: testenv.RedisPair(t), lease: 2 * time.Second}
	w := New(t, Options{Binary: binary, Env: map[string]string{"REDIS_URL": c.pair.URL(), "REDIS_TIMEOUT": patience, "LOG_LEVEL": "error"}})
	const seats = 4
	l := w.Seats(t, seats, c.lease)
	c.seats = map[uuid.UUID]int{l.ID: seats}
	p := w.StartSeating(t)
	c.party = Party{
		Name: "guest", Acquires: []string{p.Acquires[0].URL, p.Acquires[1].URL}, Heartbeat: p.Heartbeat.URL, Release: p.Release.URL,
		Guests: []Guests{{License: l, Number: 3 * seats, Manner: Manner{
			Pace: 200 * time.Millisecond, Beat: 300 * time.Millisecond, Stay: 2 * time.Second, Vanishes: 50,
		}}},
	}.Host(t)
	return c
}

// finds makes trouble, at most so often, until the judge has seen an over-admission, of the licence or of one of its seats, and
// answers how often and what it saw.
func (c *mutated) finds(most int, trouble func(*mutated)) (rounds int, v Verdict) {
	c.t.Helper()
	for rounds = 1; ; rounds++ {
		trouble(c)
		// Pools are lost again and again: each may have been built from rows that were read before a release.
		if v = Judge(Case{Lives: c.party.Lives(c.t), Seats: c.seats, Failovers: []Span{{To: math.MaxInt64}}}); v.Over+v.Shared > 0 || rounds == most {
			return rounds, v
		}
	}
}

func TestProofChaosSeesAnOverAdmission(t *testing.T) { //nolint:tparallel // its parts follow each other, each with the machine to itself
	t.Parallel()
	if !testenv.Full() {
		seesCredulity(t)
		return
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			const with, most = 8, 20
			_, v := settle(t, "").finds(with, m.trouble)
			if !v.Holds() {
				t.Fatalf("the product with all its safeguards: %+v", v)
			}
			rounds, v := settle(t, m.build(t)).finds(most, m.trouble)
			if v.Over+v.Shared == 0 {
				t.Errorf("with a safeguard removed (%s), no over-admission was found in %d rounds: %+v", m.name, rounds, v)
			}
			testenv.Proved(t, "chaos", "safeguard removed (%s): %d over-admissions and %d seats held twice found in %d rounds (none in %d with it): %s",
				m.name, v.Over, v.Shared, rounds, with, v.Example)
		})
	}
}

// seesCredulity is what the small proof can do: to build the product without a safeguard takes longer than it may. The fault is
// in the holders, which believe for two leases, and the same judge must see that.
func seesCredulity(t *testing.T) {
	t.Helper()
	const seats, lease = 2, time.Second
	w := New(t)
	l := w.Seats(t, seats, lease)
	doors := w.Seating(t)
	var book Book
	stop := make(chan struct{})
	var running sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); running.Wait() })
	defer end()
	for n := range 3 * seats {
		h := &Holder{
			License: l, Name: Device(n), Manner: Manner{Pace: lease / 4, Beat: lease / 4, Stay: lease, Vanishes: 100, Credulous: 1},
			Send: func(function string, m Message) (int, []byte, error) {
				r := map[string]*Door{"acquire": doors.Acquire, "heartbeat": doors.Heartbeat, "release": doors.Release}[function].Send(t, m)
				return r.Status, r.Body, nil
			},
			Each:    book.Add,
			Strange: func(what string) { t.Error(what) },
		}
		running.Go(func() { h.Live(stop) })
	}
	var v Verdict
	testenv.Eventually(t, time.Minute, func() error {
		if v = Judge(Case{Lives: book.Lives(), Seats: map[uuid.UUID]int{l.ID: seats}}); v.Over == 0 {
			return fmt.Errorf("holders that believe too long were not seen: %+v", v)
		}
		return nil
	})
	testenv.Proved(t, "chaos", "with holders that believe for two leases, %d over-admissions were seen: %s", v.Over, v.Example)
}
