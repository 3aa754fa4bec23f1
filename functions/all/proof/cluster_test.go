package proof_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestProofCluster(t *testing.T) {
	t.Parallel()
	licences, parties, each, lease, during, restarts := 8, 1, 4, 6*time.Second, 6*time.Second, 1
	if testenv.Full() {
		licences, parties, each, lease, during, restarts = 60, 3, 2, 6*time.Second, 3*time.Minute, 6
	}
	number := seed(t)
	random := rand.New(rand.NewPCG(number, 0))
	const seats, nodes = 3, 3
	masters := testenv.RedisMasters(t, nodes)
	w := New(t, Options{Env: map[string]string{"REDIS_URL": masters.URL(), "REDIS_CLUSTER": "true", "REDIS_TIMEOUT": patience, "LOG_LEVEL": "error"}})
	p := w.StartSeating(t)

	of, slots, on := map[uuid.UUID]int{}, []int64{}, map[int]bool{}
	var guests []Guests
	for range licences {
		l := w.Seats(t, seats, lease)
		of[l.ID] = seats
		guests = append(guests, Guests{License: l, Number: each, Manner: Manner{Pace: lease / 6, Beat: lease / 8, Stay: lease, Vanishes: 25}})
		slot := masters.Slot(t, "{"+w.Tenant.String()+"/"+l.ID.String()+"}")
		slots = append(slots, slot)
		on[masters.Owner(t, slot)] = true
	}
	if len(on) != nodes {
		t.Logf("the licences lie on %d of %d masters", len(on), nodes)
	}
	var hosted []*Hosted
	for i := range parties {
		hosted = append(hosted, Party{
			Name: "party-" + Device(i), Guests: guests,
			Acquires: []string{p.Acquires[0].URL, p.Acquires[1].URL}, Heartbeat: p.Heartbeat.URL, Release: p.Release.URL,
		}.Host(t))
	}
	sweep := w.Sweep(t)
	stop := make(chan struct{})
	var running sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); running.Wait() })
	defer end()
	running.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
			token, err := w.Scheduler.Token(map[string]any{"aud": SchedulerAudience, "email": SchedulerEmail, "email_verified": true}, time.Minute)
			if err != nil {
				t.Errorf("make the scheduler's token: %v", err)
				return
			}
			sweep.SendBare(t, Message{Token: token, Body: "{}"})
		}
	})

	began, moves, keys, halfway, empty, rebuilds := time.Now(), 0, 0, 0, 0, []Span{}
	for time.Since(began) < during || empty < restarts {
		time.Sleep(time.Duration(random.Int64N(int64(lease / 10))))
		slot, from := slots[random.IntN(len(slots))], Now()
		to := (masters.Owner(t, slot) + 1 + random.IntN(nodes-1)) % nodes
		keys += masters.Move(t, slot, to, func() {
			if random.IntN(2) == 0 {
				halfway++
				time.Sleep(time.Duration(random.Int64N(int64(lease / 10)))) // the pool is in two places
			}
		})
		moves++
		if time.Since(began) > during*time.Duration(empty+1)/time.Duration(restarts+1) && empty < restarts {
			masters.Nodes[random.IntN(nodes)].RestartEmpty(t)
			empty++
		}
		rebuilds = append(rebuilds, Span{From: from, To: Now().Add(lease)}) // by then the sweep has been at every pool
	}
	AwaitLives(t, hosted, 3)
	took := time.Since(began)
	end()
	var lives []Life
	var count Count
	for _, h := range hosted {
		some, counted := h.End(t)
		lives = append(lives, some...)
		count.Add(counted)
	}
	v := Judge(Case{Lives: lives, Seats: of, Failovers: forgetful(rebuilds)})
	testenv.Proved(t, "cluster", "seed %d: %d holders at %d licences of %d seats on %d masters, for %s, with leases of %s",
		number, parties*licences*each, licences, seats, nodes, took.Round(time.Second), lease)
	testenv.Proved(t, "cluster", "%d sessions, %d heartbeats answered yes; %d requests were told to try later or never answered", v.Lives, count.Beats, count.Later)
	testenv.Proved(t, "cluster", "%d slots of busy licences moved to another master with %d keys, %d of them lying in two places for a while; %d masters killed and restarted empty",
		moves, keys, halfway, empty)
	testenv.Proved(t, "cluster", "over-admissions: %d, seats held twice: %d (at most %d believed at once in %d seats)", v.Over, v.Shared, v.Most, seats)
	testenv.Proved(t, "cluster", "live holders lost: %d; %d holders were told to try later for a whole lease and stopped by themselves; %d releases were answered, %d sessions renewed after that while pools were rebuilt, and %d otherwise",
		len(v.Lost), v.Starved, v.Released, v.Recalled, len(v.Revived))
	if !v.Holds() {
		t.Errorf("the promise was broken: %+v", v)
	}
	for what, n := range count.Strange {
		t.Errorf("%d times a holder met: %s", n, what)
	}
	if v.Most < seats || v.Lives == 0 || keys == 0 || moves < 3 {
		t.Errorf("the proof has lost its load: %+v after %d moves of %d keys", v, moves, keys)
	}
}
