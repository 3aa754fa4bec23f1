package bench

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// committers is how many connections commit at once where pgx is alone, about as many as it takes for the most rows a second; and
// how many the yardstick has.
const committers = 16

// acquires compares acquires, each on a seat that nobody had by another instance on a device that is known, with pgx alone
// that commits such rows, no rules, no policies, and with acquires done as plainly as can be.
func (s *stage) acquires(ctx context.Context, r *Report) error {
	s.progress("acquires, pgx alone committing such rows, and plain acquires")
	large := s.large[0]
	var seats, instances atomic.Int64
	seats.Store(1_000_000) // beyond every seat that is given out
	pgx := func(int, int) error {
		n := seats.Add(1)
		_, err := s.db.Exec(ctx, `INSERT INTO app.open_sessions
			(tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, overdraft, holder, hardware_id, instance_id, version)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			s.tenant.String(), uuid.Must(uuid.NewV7()).String(), large.id.String(), n, 1, n, false,
			fmt.Sprintf("instance:8:new-%d@device-0", n), "device-0", fmt.Sprintf("new-%d", n), "1.0.0")
		return err
	}
	acquires := func(d *door) deed {
		answers := make([]fasthttp.Response, s.size.Clients)
		return func(client, n int) error {
			l := s.large[n%len(s.large)]
			q := acquireRequest(d, l.key, fmt.Sprintf("device-%d", client), fmt.Sprintf("new-%d", instances.Add(1)))
			q.Header.Set("License", s.pool(l)) // which the yardstick wants to be told
			return d.send(q, &answers[client], http.StatusCreated)
		}
	}
	rounds, err := s.inTurns(
		contender{"acquire", []*process{s.acquire}, s.closed(ctx, s.size.Clients, acquires(newDoor(s.acquire.address)))},
		contender{"pgx", nil, s.closed(ctx, committers, pgx)},
		contender{"plain", []*process{s.yardstick}, s.closed(ctx, s.size.Clients, acquires(newDoor(s.yardstick.address)))},
	)
	if err != nil {
		return err
	}
	usher, alone, plain := rounds[0], rounds[1], rounds[2]
	r.compare("Acquires", fmt.Sprintf("%d clients, each on a seat that nobody had; pgx alone: %d connections that insert such a row", s.size.Clients, committers), usher, alone,
		row{"acquires a second", perSecond, "%.0f", atLeast(0.8)},
	)
	const beside = "plain: the same scripts and signature, and such a row in a transaction of its own, without any guard"
	r.compare("Acquires, beside plain ones", beside, usher, plain,
		row{"acquires a second", perSecond, "%.0f", nil},
		row{"CPU of an acquire, µs", cpuMicros, "%.0f", nil},
	)
	r.compare("Plain acquires", beside, plain, alone, row{"acquires a second", perSecond, "%.0f", nil})
	if _, err := s.db.Exec(ctx, `DELETE FROM app.open_sessions WHERE seat_no > 1000000`); err != nil {
		return fmt.Errorf("take the rows away: %w", err)
	}
	return nil
}
