package model_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

// world is a model at one size, in the letters of its source, and the safeguards whose absence is to be noticed there.
type world struct {
	name       string
	source     string
	size       []string
	full       bool // too large for every run of the tests
	safeguards []string
}

// Each safeguard is in the world where its absence is noticed soonest.
var worlds = []world{
	{
		name:   "two programs at once, a loss of Redis, a rebuild",
		source: "seat.pml",
		size:   []string{"-DN=2", "-DK=1", "-DF=1", "-DG=1", "-DR=0", "-DW=0"},
		safeguards: []string{
			"row_before_answer", "confirm", "incarnation", "incarnation_of_touch", "epoch_of_opening", "floor_of_belief",
			"unique_seat", "row_lock",
		},
	},
	{
		name:       "an eviction, a rebuild, the sweep",
		source:     "seat.pml",
		size:       []string{"-DN=1", "-DK=2", "-DF=0", "-DG=1", "-DR=0", "-DE=1"},
		safeguards: []string{"row_of_existing", "epoch_of_closing", "evicted_seat", "unheard_seat", "refused_row"},
	},
	{
		name:       "two requests of one holder, each of which may be refused, a rebuild",
		source:     "seat.pml",
		size:       []string{"-DN=2", "-DH=1", "-DK=1", "-DF=0", "-DG=1", "-DR=0", "-DW=0", "-DX=1"},
		safeguards: []string{"reservation_alone"},
	},
	{
		name:       "a loss of Redis, a rebuild, the sweep",
		source:     "seat.pml",
		size:       []string{"-DN=1", "-DK=2", "-DF=1", "-DG=1", "-DR=0"},
		safeguards: []string{"staged_count"},
		full:       true,
	},
	{
		name:       "a demoted primary that still answers, two rebuilds, the sweep",
		source:     "seat.pml",
		size:       []string{"-DN=1", "-DK=1", "-DF=1", "-DG=2", "-DR=1"},
		safeguards: []string{"floor_of_demoted", "epoch_of_existing"},
		full:       true,
	},
	{
		name:       "two rebuilds at once, a loss of Redis, the sweep",
		source:     "seat.pml",
		size:       []string{"-DN=1", "-DK=1", "-DF=1", "-DG=2", "-DB=2", "-DR=0"},
		safeguards: []string{"incarnation_of_rebuild", "newer_epoch"},
		full:       true,
	},
	{
		name:   "three holders wait for two seats, a rebuild",
		source: "queue.pml",
		size:   []string{"-DH=3", "-DS=2", "-DQ=1", "-DU=0", "-DL=0", "-DG=1"},
		safeguards: []string{
			"free_seats", "length_of_queue", "rank", "ticket", "poll", "silent_waiter", "admitted_waiter", "left_place",
			"queue_of_rebuild", "lapsed_seat",
		},
	},
	{
		name:   "borrowed seats, a loss of Redis, a rebuild",
		source: "queue.pml",
		size:   []string{"-DH=2", "-DS=1", "-DQ=0", "-DU=3", "-DL=1", "-DG=1"},
		safeguards: []string{
			"row_of_borrow", "epoch_of_borrow", "score_of_borrow", "borrow_of_rebuild", "longer_borrow", "longer_score",
		},
	},
	{
		name:       "two holders borrow, and one of two seats is kept for others",
		source:     "queue.pml",
		size:       []string{"-DH=2", "-DS=2", "-DQ=0", "-DU=2", "-DR=1", "-DL=0", "-DG=1"},
		safeguards: []string{"low_water_mark", "lock_of_mark"},
	},
	{
		name:   "two holders wait for a seat that is borrowed, two rebuilds",
		source: "queue.pml",
		size:   []string{"-DH=2", "-DS=1", "-DQ=1", "-DU=3", "-DL=0", "-DG=2"},
		full:   true,
	},
	{
		name:   "three holders borrow two seats, a rebuild",
		source: "queue.pml",
		size:   []string{"-DH=3", "-DS=2", "-DQ=0", "-DU=3", "-DL=0", "-DG=1"},
		full:   true,
	},
}

func TestProofModelHoldsAndNoSafeguardIsIdle(t *testing.T) {
	t.Parallel()
	for _, w := range worlds {
		if w.full && !testenv.Full() {
			continue
		}
		c := compile(t, w)
		control := c.check(t, "")
		if control.broken || !control.complete {
			t.Fatalf("the promise in the world of %s: broken %t, searched to the end %t\n%s",
				w.name, control.broken, control.complete, c.trail(t))
		}
		testenv.Proved(t, "model", "%s: the promise holds in all %d states", w.name, control.states)
		for _, safeguard := range w.safeguards {
			found := c.check(t, safeguard)
			if !found.broken {
				t.Errorf("without %s nothing breaks in %d states of %s", safeguard, found.states, w.name)
				continue
			}
			testenv.Proved(t, "model", "without %s it breaks after %d steps", safeguard, found.steps)
		}
	}
}

// checker is a world's program that visits its states.
type checker struct{ dir, source string }

func compile(t *testing.T, w world) checker {
	t.Helper()
	source, err := filepath.Abs(w.source)
	if err != nil {
		t.Fatal(err)
	}
	c := checker{dir: t.TempDir(), source: w.source}
	c.run(t, nil, "spin", append(append([]string{"-a"}, w.size...), source)...)
	// COLLAPSE stores states compactly, and exactly: none is taken for another.
	c.run(t, nil, "cc", "-w", "-O2", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=6000", "-o", "pan", "pan.c")
	return c
}

// verdict is what a search found.
type verdict struct {
	broken   bool // an assertion
	complete bool // every state was visited
	states   int
	steps    int // until the assertion broke
}

var (
	storedStates = regexp.MustCompile(`(?m)^\s*(\S+) states, stored`)
	brokenAt     = regexp.MustCompile(`assertion violated .*\(at depth (\d+)\)`)
)

// check visits the states of the world, without the safeguard when one is named.
func (c checker) check(t *testing.T, safeguard string) verdict {
	t.Helper()
	var without []string
	if safeguard != "" {
		without = []string{"WITHOUT=" + safeguard}
	}
	out := c.run(t, without, filepath.Join(c.dir, "pan"), "-m100000", "-w22")
	stored := storedStates.FindStringSubmatch(out)
	if stored == nil {
		t.Fatalf("the search without %q says nothing of states:\n%s", safeguard, out)
	}
	states, err := strconv.ParseFloat(stored[1], 64) // it may be written as 1.2e+07
	if err != nil {
		t.Fatal(err)
	}
	v := verdict{
		states: int(states),
		complete: strings.Contains(out, "errors: 0") && !strings.Contains(out, "Search not completed") &&
			!strings.Contains(out, "max search depth too small") && !strings.Contains(out, "reached -DMEMLIM"),
	}
	if at := brokenAt.FindStringSubmatch(out); at != nil {
		v.broken = true
		if v.steps, err = strconv.Atoi(at[1]); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// trail is the end of the way to where the last search broke an assertion, a line a step.
func (c checker) trail(t *testing.T) string {
	t.Helper()
	const last = 60
	name := filepath.Join(c.dir, c.source+".trail")
	if _, err := os.Stat(name); err != nil {
		return "no assertion broke"
	}
	var steps []string
	for line := range strings.Lines(c.run(t, nil, filepath.Join(c.dir, "pan"), "-r", c.source+".trail")) {
		if strings.Contains(line, "proc ") {
			steps = append(steps, line)
		}
	}
	return strings.Join(steps[max(0, len(steps)-last):], "")
}

// run runs a program in the checker's folder and answers what it wrote. A search that breaks an assertion exits well.
func (c checker) run(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	path := program
	if !filepath.IsAbs(program) {
		var err error
		if path, err = localenv.Find(program); err != nil {
			t.Fatalf("%v: make install brings it", err)
		}
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "assertion violated") {
		t.Fatalf("run %s: %v\n%s", program, err, out)
	}
	return string(out)
}
