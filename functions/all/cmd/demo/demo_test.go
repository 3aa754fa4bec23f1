package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m, map[string]func(){"demo": func() {
		if err := os.Chdir(os.Getenv("RUN_IN")); err != nil {
			panic(err)
		}
		main()
	}})
}

func TestTheDemoShowsWhatItPromises(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Cleanup(func() {
		if target, err := os.Readlink(filepath.Join(dir, ".local", "postgres")); err == nil {
			if err := os.RemoveAll(target); err != nil {
				t.Error(err)
			}
		}
	})
	p := testenv.Process(t, "demo", map[string]string{"RUN_IN": dir, "DEMO_SECONDS": "12", "DATABASE_URL": "", "REDIS_URL": ""})
	if code := p.Wait(t, 90*time.Second); code != 0 {
		t.Fatalf("it exits with %d:\n%s", code, p.Output())
	}
	for _, want := range []string{
		`client-\d\d sits on seat 1\n`,
		`client-\d\d waits in place [2-9]`,
		`client-\d\d is refused: no_seats_available, again in \d+ s`,
		`client-\d\d gives seat \d+ back`,
		`client-03 crashed, and \d+\.\d s later its seat \d+ was client-\d\d's`,
		`client-07 crashed, and \d+\.\d s later its seat \d+ was client-\d\d's`,
		`At most 10 clients believed in a seat at once, of 10`,
	} {
		if !regexp.MustCompile(want).MatchString(p.Output()) {
			t.Errorf("it does not say %s", want)
		}
	}
	if t.Failed() {
		t.Log(p.Output())
	}
}

func TestTheAuditSeesTooManyBelievers(t *testing.T) {
	t.Parallel()
	later := time.Now().Add(time.Hour)
	s := newStage(time.Second)
	for seat := 1; seat <= seats; seat++ {
		s.sits(strings.Repeat("x", seat), seat, later)
	}
	if s.overAdmitted() {
		t.Fatalf("%d clients on %d seats are too many: %v", seats, seats, s.faults)
	}
	s.sits("one more", seats+1, later)
	if !s.overAdmitted() {
		t.Error("one client more than seats is not noticed")
	}
	two := newStage(time.Second)
	two.sits("a", 4, later)
	two.sits("b", 4, later)
	if !two.overAdmitted() {
		t.Error("two clients on one seat are not noticed")
	}
	gone := newStage(time.Second)
	gone.sits("a", 4, time.Now())
	gone.sits("b", 4, later)
	if gone.overAdmitted() {
		t.Errorf("who no longer believes is counted: %v", gone.faults)
	}
}
