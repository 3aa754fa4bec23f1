package bench

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// committers is how many commit at once.
const committers = 16

// acquires compares acquires, each on a seat that nobody had, with pgx alone that commits such rows: as many connections
// as clients, no rules, no policies.
func (s *stage) acquires(ctx context.Context, r *Report) error {
	s.progress("acquires, and pgx alone committing such rows, %d at once", committers)
	large := s.large[0]
	var seats atomic.Int64
	seats.Store(1_000_000) // beyond every seat that is given out
	theirs := func(int, int) error {
		n := seats.Add(1)
		_, err := s.db.Exec(ctx, `INSERT INTO app.open_sessions
			(tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, overdraft, holder, hardware_id, version)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			s.tenant.String(), uuid.Must(uuid.NewV7()).String(), large.id.String(), n, 1, n, false,
			fmt.Sprintf("device:holder-%d", n), fmt.Sprintf("holder-%d", n), "1.0.0")
		return err
	}
	d := newDoor(s.acquire.address)
	var holders atomic.Int64
	answers := make([]fasthttp.Response, committers)
	ours := func(client, n int) error {
		key := s.large[n%len(s.large)].key
		return d.send(acquireRequest(d, key, fmt.Sprintf("new-%d", holders.Add(1))), &answers[client], http.StatusCreated)
	}
	a, b, err := s.duel(
		contender{"acquire", []*process{s.acquire}, ours},
		contender{"pgx", nil, theirs},
	)(closed(ctx, committers, s.size.Round))
	if err != nil {
		return err
	}
	r.compare("Acquires", fmt.Sprintf("%d clients, each on a seat that nobody had; pgx alone: %d connections that insert such a row", committers, committers), a, b,
		row{"acquires a second", perSecond, "%.0f", atLeast(0.8)},
	)
	if _, err := s.db.Exec(ctx, `DELETE FROM app.open_sessions WHERE seat_no > 1000000`); err != nil {
		return fmt.Errorf("take the rows away: %w", err)
	}
	return nil
}
