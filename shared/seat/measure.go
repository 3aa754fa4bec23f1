package seat

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/coditect/usher/shared/platform/telemetry"
	"github.com/coditect/usher/shared/tenancy"
)

// mostLicenses is how many licences have a series of their own: those with the most sessions. What the others have together
// is one more.
const mostLicenses = 50

var (
	acquisitions = telemetry.NewHistogram("usher.seat.acquire.duration",
		"Attempts to take a seat, and how long each took: granted, existing, full, queued, refused, or failed.", "usher.verdict")
	poolConnections = telemetry.NewGauge("usher.redis.connection.count", "{connection}",
		"Connections of an instance to the Redis of the pools, idle or used at the moment of the push.", "db.client.connection.state")
	mostPoolConnections = telemetry.NewGauge("usher.redis.connection.max", "{connection}",
		"The most connections that an instance opens to the Redis of the pools (to each node of a cluster).")

	sweptSessions = telemetry.NewCounter("usher.sweep.sessions", "{session}",
		"Sessions that a sweep tidied up: lapsed (zombies, taken off their seats), closed (their rows) or ghost (in a pool without a row).", "usher.outcome")
	sweptPools = telemetry.NewCounter("usher.sweep.pools", "{pool}",
		"Pools that a sweep put right: told (of a change), rebuilt (Redis had lost it), or failed (tried again by the next sweep).", "usher.outcome")
	rounds = telemetry.NewCounter("usher.sweep.rounds", "{round}", "Times that the sweep came round all licences with open sessions.")

	activeSessions = telemetry.NewGauge("usher.sessions.active", "{session}",
		"Open sessions, as the sweep found them: of the 50 licences that have the most, and of all others together (other).",
		"usher.tenant.id", "usher.license.id")
	overAdmitted = telemetry.NewGauge("usher.seats.over_admitted", "{seat}",
		"Seats that PostgreSQL has taken beyond what a licence was sold, overdraft included, and that are not draining: always 0.")
	waitingAge = telemetry.NewGauge("usher.queue.age", "s",
		"For how long the longest has been due in a queue of the database: pools (not told of a change), mails, events, webhooks, stripe_events (failed).", "usher.queue")
	waitingSize = telemetry.NewGauge("usher.queue.size", "{item}", "How much is due in it.", "usher.queue")
)

var verdicts = map[Verdict]string{Granted: "granted", Existing: "existing", Full: "full", Queued: "queued", Refused: "refused"}

// measureConnections measures those to Redis, until it is told to stop.
func measureConnections(rdb redis.UniversalClient, most int) (stop func()) {
	stop1 := poolConnections.From(func(put func(float64, ...string)) {
		s := rdb.PoolStats()
		put(float64(s.TotalConns-s.IdleConns), "used")
		put(float64(s.IdleConns), "idle")
	})
	stop2 := mostPoolConnections.From(func(put func(float64, ...string)) { put(float64(most)) })
	return func() { stop1(); stop2() }
}

// census is what a round of the sweep found. A round may take several sweeps.
type census struct {
	mu       sync.Mutex
	sessions map[place]int
	over     map[place]int
}

// found notes a licence's open sessions, and how many seats it has beyond what was sold.
func (c *census) found(at place, sessions, over int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions == nil {
		c.sessions, c.over = map[place]int{}, map[place]int{}
	}
	c.sessions[at] = sessions
	delete(c.over, at)
	if over > 0 {
		c.over[at] = over
	}
}

// tell says what was found. Seats beyond what was sold are told at once, sessions when the round is complete: then a new
// one begins.
func (c *census) tell(complete bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	over := 0
	for _, n := range c.over {
		over += n
	}
	overAdmitted.Set(float64(over))
	if !complete {
		return
	}
	licenses := make([]place, 0, len(c.sessions))
	for at := range c.sessions {
		licenses = append(licenses, at)
	}
	slices.SortFunc(licenses, func(a, b place) int { return cmp.Compare(c.sessions[b], c.sessions[a]) })
	activeSessions.Replace(func(put func(float64, ...string)) {
		others := 0
		for i, at := range licenses {
			if i < mostLicenses {
				put(float64(c.sessions[at]), at.tenant.String(), at.license.String())
			} else {
				others += c.sessions[at]
			}
		}
		put(float64(others), telemetry.Other, telemetry.Other)
	})
	c.sessions, c.over = nil, nil
}

// measureSweep says what a sweep did and found.
func (p *Pools) measureSweep(ctx context.Context, r Report) {
	for outcome, n := range map[string]int{"lapsed": r.Lapsed, "closed": r.Closed, "ghost": r.Ghosts} {
		sweptSessions.Add(ctx, int64(n), outcome)
	}
	for outcome, n := range map[string]int{"told": r.Told, "rebuilt": r.Rebuilt, "failed": r.Failed} {
		sweptPools.Add(ctx, int64(n), outcome)
	}
	if r.Complete {
		rounds.Add(ctx, 1)
	}
	p.census.tell(r.Complete)
}

// measureWaiting says how long what is due has waited.
func (p *Pools) measureWaiting(ctx context.Context) error {
	err := p.db.Across(ctx, "sweep: how long what is due has waited", func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT queue, waiting, seconds FROM app.waiting()`)
		if err != nil {
			return err
		}
		var queue string
		var size int64
		var seconds float64
		_, err = pgx.ForEachRow(rows, []any{&queue, &size, &seconds}, func() error {
			waitingSize.Set(float64(size), queue)
			waitingAge.Set(seconds, queue)
			return nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("measure what waits: %w", err)
	}
	return nil
}
