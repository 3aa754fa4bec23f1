package main

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// as is another build that releases to the same project.
func as(t *testing.T, g *google, build string) *cloud {
	t.Helper()
	c, _ := reach(t, g)
	c.release = build
	return c
}

// verb is one of a release of images(2), whose watch is short.
func (c *cloud) verb(t *testing.T, verb string) error {
	t.Helper()
	return c.do(t.Context(), verb, images(2), 0, time.Millisecond)
}

func isRefused(t *testing.T, err error, says string) {
	t.Helper()
	if !lost(err) || !strings.Contains(err.Error(), says) {
		t.Errorf("the error is %v, and should say %q", err, says)
	}
}

func TestOfBuildsAtOnceOneReleasesAndTheOthersAreToldWhoDoes(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	var wins atomic.Int32
	var first atomic.Pointer[cloud]
	var all sync.WaitGroup
	refused := make(chan error, 4)
	for _, build := range []string{"build-a", "build-b", "build-c", "build-d"} {
		c := as(t, g, build)
		all.Go(func() {
			if err := c.verb(t, "migrate"); err != nil {
				refused <- err
				return
			}
			wins.Add(1)
			first.Store(c)
		})
	}
	all.Wait()
	close(refused)
	if wins.Load() != 1 || len(g.ran) != 1 {
		t.Fatalf("%d builds release, and migrations ran %d times", wins.Load(), len(g.ran))
	}
	for err := range refused {
		isRefused(t, err, first.Load().release+" releases to this project, until ")
	}
	for _, verb := range []string{"candidate", "shift", "verify"} {
		must(t, first.Load().verb(t, verb))
	}
	g.has(t, "acquire", "acquire-2")
	// It has come to its end: the next may.
	must(t, as(t, g, "build-e").verb(t, "migrate"))
}

func TestARefusedBuildChangesNothing(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	one, other := as(t, g, "build-a"), as(t, g, "build-b")
	must(t, one.verb(t, "migrate"))
	must(t, one.verb(t, "candidate"))
	for _, verb := range []string{"migrate", "candidate", "shift", "verify"} {
		isRefused(t, other.verb(t, verb), "build-a releases to this project")
	}
	g.has(t, "acquire", "acquire-1", "candidate=acquire-2")
	must(t, one.verb(t, "shift"))
	must(t, one.verb(t, "verify"))
}

func TestAStepThatFailsGivesTheLeaseBack(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	g.broken["migrate@sha256:2"] = true
	if err := as(t, g, "build-a").verb(t, "migrate"); err == nil {
		t.Fatal("the migration did not fail")
	}
	delete(g.broken, "migrate@sha256:2")
	must(t, as(t, g, "build-b").verb(t, "migrate"))
}

func TestTheLeaseOfAKilledBuildEndsAndWhatIsLeftOfItShiftsNothing(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	killed, next := as(t, g, "build-a"), as(t, g, "build-b")
	must(t, killed.verb(t, "migrate"))
	must(t, killed.verb(t, "candidate"))
	next.now = func() time.Time { return time.Now().Add(leaseLife - time.Minute) }
	isRefused(t, next.verb(t, "migrate"), "build-a releases to this project")
	next.now = func() time.Time { return time.Now().Add(leaseLife + time.Minute) }
	must(t, next.verb(t, "migrate"))
	isRefused(t, killed.verb(t, "shift"), "build-b releases to this project now, instead of build-a")
	g.has(t, "acquire", "acquire-1")
	must(t, next.verb(t, "candidate"))
	must(t, next.verb(t, "shift"))
	must(t, next.verb(t, "verify"))
	isRefused(t, killed.verb(t, "shift"), "build-a does not release to this project any more")
}

func TestALeaseIsRenewedWhileAStepWorks(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire")
	c := as(t, g, "build-a")
	c.leaseLife = 2 * time.Second
	must(t, c.under(t.Context(), takeLease, false, func(ctx context.Context) error {
		first := g.lease()
		for ctx.Err() == nil && g.lease() == first {
			time.Sleep(10 * time.Millisecond)
		}
		return ctx.Err()
	}))
}

func (g *google) lease() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.job.GetAnnotations()[untilNote]
}

func TestARollbackByHandStopsAReleaseThatGoesOn(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	c, hand := as(t, g, "build-a"), as(t, g, "rollback of now")
	for _, verb := range []string{"migrate", "candidate", "shift"} {
		must(t, c.verb(t, verb))
	}
	c.leaseLife, hand.leaseLife = 2*time.Second, 2*time.Second
	err := c.under(t.Context(), keepLease, true, func(ctx context.Context) error {
		must(t, hand.verb(t, "rollback"))
		return c.verify(ctx, time.Hour, 10*time.Millisecond)
	})
	isRefused(t, err, "build-a does not release to this project any more")
	g.has(t, "acquire", "acquire-1", "failed=acquire-2")
}

func TestARollbackByHandInTheMiddleOfAShiftLeavesNothingOnTheRelease(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys", "release")
	c, hand := as(t, g, "build-a"), as(t, g, "rollback of now")
	hand.leaseLife = 30 * time.Second
	release := images(2)
	release["keys"], release["release"] = "keys@sha256:2", "release@sha256:2"
	must(t, c.do(t.Context(), "migrate", release, 0, time.Millisecond))
	must(t, c.do(t.Context(), "candidate", release, 0, time.Millisecond))
	rolledBack := make(chan error, 1)
	var moves atomic.Int32
	// The first service has moved, and the write of the second is on its way when the rollback looks at the services.
	g.moving = func(name string) {
		if name == "keys" && moves.Add(1) == 1 {
			looked := make(chan struct{})
			g.mu.Lock()
			g.listed = sync.OnceFunc(func() { close(looked) })
			g.mu.Unlock()
			go func() { rolledBack <- hand.verb(t, "rollback") }()
			<-looked
		}
	}
	isRefused(t, c.do(t.Context(), "shift", release, 0, time.Millisecond), "rollback of now")
	must(t, <-rolledBack)
	for _, function := range []string{"acquire", "keys"} {
		g.has(t, function, function+"-1", "failed="+function+"-2")
	}
	g.has(t, "release", "release-1", "candidate=release-2")
}

func TestAShiftThatLosesItsLeaseMovesNoMoreAndTakesNothingBack(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	c := as(t, g, "build-a")
	release := images(2)
	release["keys"] = "keys@sha256:2"
	must(t, c.candidate(t.Context(), release))
	ctx, stop := context.WithCancelCause(t.Context())
	g.moved = func() { stop(&lostError{"somebody else releases"}) }
	isRefused(t, c.shift(ctx), "somebody else releases")
	g.has(t, "acquire", "acquire-2", "previous=acquire-1")
	g.has(t, "keys", "keys-1")
}
