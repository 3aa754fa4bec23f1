package seat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/tenancy"
)

const (
	// sweepDeadline leaves the function time to answer within its 50 s.
	sweepDeadline = 45 * time.Second
	// settleDeadline bounds the telling of pools, so that a long outbox does not keep the sweep from its rounds.
	settleDeadline = 15 * time.Second
	// sweepers are how many licences are told or swept at a time: a sweep needs two connections to PostgreSQL.
	sweepers = 2
	// licensePage is how many licences are swept between two moves of the cursor.
	licensePage = 50
	// sweepPage is how many rows, dirty sessions or messages are handled at once.
	sweepPage = 500
	// monthsAhead is how many months of history have their partition before they begin.
	monthsAhead = 2
)

// Report says what a sweep did.
type Report struct {
	// Licenses with open rows that were looked at.
	Licenses int `json:"licenses"`
	// Lapsed sessions that were taken off their seats by this sweep.
	Lapsed int `json:"lapsed"`
	// Closed rows of sessions that had left their pool.
	Closed int `json:"closed"`
	// Ghosts were in a pool although their row is closed.
	Ghosts int `json:"ghosts"`
	// Rebuilt pools.
	Rebuilt int `json:"rebuilt"`
	// Told pools: changes of licences and evictions that a pool had not heard of.
	Told int `json:"told"`
	// Hours of use that were carried from the pools, for the reports.
	Hours int `json:"hours"`
	// Failed licences; they are tried again by the next sweep.
	Failed int `json:"failed"`
	// Complete says that the sweep came round; otherwise the next one goes on where it stopped.
	Complete bool `json:"complete"`
}

func (r *Report) add(o Report) {
	r.Licenses += o.Licenses
	r.Lapsed += o.Lapsed
	r.Closed += o.Closed
	r.Ghosts += o.Ghosts
	r.Rebuilt += o.Rebuilt
	r.Told += o.Told
	r.Hours += o.Hours
	r.Failed += o.Failed
}

// place is a licence's place in the walk.
type place struct{ tenant, license uuid.UUID }

// Sweep tidies: it tells the pools what they were not told, closes the rows of sessions that ended, and compares open
// rows with pools. Correctness never depends on it: seats whose lease ran out are free without it. It stops before its
// deadline (45 s, or the context's) and the next one goes on from there; two at once only waste work.
func (p *Pools) Sweep(ctx context.Context) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepDeadline)
	defer cancel()
	report, unsettled := p.settle(ctx)
	err := p.walk(ctx, &report)
	p.measureSweep(ctx, report)
	if ctx.Err() != nil {
		return report, nil // the rest waits for the next sweep
	}
	return report, errors.Join(unsettled, err, p.measureWaiting(ctx))
}

// fewAtATime does the work with so many workers as there are sweepers, and says whether there was time for all of it. The
// reports of what was done are added up.
func fewAtATime[T any](ctx context.Context, work []T, report *Report, do func(T) Report) bool {
	next := make(chan T)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range sweepers {
		wg.Go(func() {
			for one := range next {
				done := do(one)
				mu.Lock()
				report.add(done)
				mu.Unlock()
			}
		})
	}
	for _, one := range work {
		if ctx.Err() != nil {
			break
		}
		next <- one
	}
	close(next)
	wg.Wait()
	return ctx.Err() == nil
}

// message is what the outbox has for a pool.
type message struct {
	tenant  uuid.UUID
	topic   string
	subject uuid.UUID
}

// settle repeats what the outbox says a pool was not told, for a while.
func (p *Pools) settle(ctx context.Context) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, settleDeadline)
	defer cancel()
	var messages []message
	err := p.db.Across(ctx, "sweep: pools that were not told of a change", func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT tenant_id, topic, subject_id FROM app.sweep_outbox($1)`, sweepPage)
		if err != nil {
			return err
		}
		messages, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m message, err error) {
			return m, row.Scan(&m.tenant, &m.topic, &m.subject)
		})
		return err
	})
	if err != nil {
		return Report{}, fmt.Errorf("read outbox: %w", err)
	}
	return p.repeat(ctx, messages), nil
}

// repeat tells the pools the messages, as long as there is time.
func (p *Pools) repeat(ctx context.Context, messages []message) Report {
	var report Report
	fewAtATime(ctx, messages, &report, func(m message) Report {
		tell := p.Changed
		if m.topic == topicSessionEvicted {
			tell = p.tellEviction
		}
		err := tell(ctx, found(m.tenant), m.subject)
		switch {
		case err == nil, errors.Is(err, ErrUnknownSession): // which another sweep has settled
			return Report{Told: 1}
		case ctx.Err() != nil:
			return Report{} // the next sweep tells it
		default:
			p.log.ErrorContext(ctx, "sweep could not tell a pool", "topic", m.topic, "subject", m.subject, "error", err)
			return Report{Failed: 1}
		}
	})
	return report
}

// walk visits every licence with open rows once, from the stored cursor on and round.
func (p *Pools) walk(ctx context.Context, report *Report) error {
	start, err := p.cursor(ctx)
	if err != nil {
		return err
	}
	at, wrapped := start, false
	for ctx.Err() == nil {
		page, err := p.nextLicenses(ctx, at)
		if err != nil {
			return err
		}
		if wrapped {
			page = upTo(page, start)
		}
		if !p.sweepAll(ctx, page, report) {
			return nil
		}
		switch {
		case len(page) == licensePage:
			at = page[len(page)-1]
		case wrapped || start == (place{}):
			report.Complete = true
			return p.moveCursor(ctx, place{})
		default:
			at, wrapped = place{}, true
		}
		if err := p.moveCursor(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// upTo is the part of a page that does not go beyond the place where the walk began.
func upTo(page []place, end place) []place {
	for i, at := range page {
		if c := compare(at.tenant, end.tenant); c > 0 || c == 0 && compare(at.license, end.license) > 0 {
			return page[:i]
		}
	}
	return page
}

func compare(a, b uuid.UUID) int {
	for i := range a {
		if a[i] != b[i] {
			return int(a[i]) - int(b[i])
		}
	}
	return 0
}

func (p *Pools) cursor(ctx context.Context) (at place, err error) {
	err = p.db.Across(ctx, "sweep: where the last one stopped", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT after_tenant, after_license FROM app.sweep_cursor`).Scan(&at.tenant, &at.license)
	})
	if err != nil {
		return place{}, fmt.Errorf("read sweep cursor: %w", err)
	}
	return at, nil
}

func (p *Pools) moveCursor(ctx context.Context, at place) error {
	err := p.db.Across(ctx, "sweep: where the next one goes on", func(tx tenancy.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE app.sweep_cursor SET after_tenant = $1::uuid, after_license = $2::uuid`,
			at.tenant.String(), at.license.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("move sweep cursor: %w", err)
	}
	return nil
}

func (p *Pools) nextLicenses(ctx context.Context, after place) (page []place, err error) {
	err = p.db.Across(ctx, "sweep: licences with open sessions", func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT tenant_id, license_id FROM app.sweep_licenses($1::uuid, $2::uuid, $3)`,
			after.tenant.String(), after.license.String(), licensePage)
		if err != nil {
			return err
		}
		page, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (at place, err error) {
			return at, row.Scan(&at.tenant, &at.license)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list licences with open sessions: %w", err)
	}
	return page, nil
}

// sweepAll sweeps the licences of a page, a few at a time, and says whether there was time for all of them. One that fails
// is logged and does not hold up the others.
func (p *Pools) sweepAll(ctx context.Context, page []place, report *Report) bool {
	return fewAtATime(ctx, page, report, func(at place) Report {
		l := pool{tenant: found(at.tenant), license: at.license}
		one, err := p.sweepLicense(ctx, l)
		if err == nil {
			one.Hours, err = p.carryHours(ctx, l)
		}
		if err != nil && ctx.Err() == nil {
			one.Failed++
			p.log.ErrorContext(ctx, "sweep of a licence failed", "license", at.license, "error", err)
		}
		return one
	})
}

// swept is what sweep.lua answered.
type swept struct {
	rebuild   bool
	epoch     int64
	version   int64
	state     string
	lapsed    int
	sessions  int
	clockBack time.Duration
	unknown   []uuid.UUID
	dirty     []gone
}

func (p *Pools) tidy(ctx context.Context, l pool, acknowledged []gone, open []uuid.UUID) (swept, error) {
	args := make([]any, 0, 2+len(acknowledged)+len(open))
	args = append(args, sweepPage, len(acknowledged))
	for _, g := range acknowledged {
		args = append(args, g.session.String())
	}
	for _, id := range open {
		args = append(args, id.String())
	}
	rep, err := p.runAlone(ctx, rebuildTimeout, sweepScript, l.keys(), args...)
	if err != nil {
		return swept{}, fmt.Errorf("sweep pool of license %s: %w", l.license, err)
	}
	var s swept
	switch kind := rep.str(); kind {
	case "rebuild":
		s.rebuild = true
	case "ok":
		s.epoch, s.version, s.state, s.lapsed, s.sessions = rep.int(), rep.int(), rep.str(), int(rep.int()), int(rep.int())
		s.clockBack = rep.millis()
		for range rep.int() {
			s.unknown = append(s.unknown, rep.uuid())
		}
		for rep.more() {
			s.dirty = append(s.dirty, gone{rep.uuid(), rep.ending()})
		}
	default:
		rep.fail("begins with %q", kind)
	}
	return s, rep.err
}

// sweepLicense compares one licence's open rows with its pool, a page of rows at a time. Rows are read first: an open
// row's session was in the pool then or before, and what has left a pool comes back only with a rebuild, which has
// another epoch.
func (p *Pools) sweepLicense(ctx context.Context, l pool) (report Report, err error) {
	report.Licenses = 1
	var after uuid.UUID
	var over int                 // seats beyond what was sold
	seen := map[uuid.UUID]bool{} // the open rows
	defer func() {
		if err == nil {
			p.census.found(place{l.tenant.UUID(), l.license}, max(len(seen)-report.Closed, 0), over)
		}
	}()
	for {
		row, open, err := p.openSessions(ctx, l, after)
		if err != nil {
			return report, err
		}
		if after == uuid.Nil {
			if over, err = p.overAdmitted(ctx, l); err != nil {
				return report, err
			}
		}
		for _, id := range open {
			seen[id] = true
		}
		s, err := p.tidy(ctx, l, nil, open)
		if err != nil {
			return report, err
		}
		if s.clockBack > p.allowance(row.lease) {
			p.log.ErrorContext(ctx, "the clock of Redis went back: leases end later than they should",
				"license", l.license, slog.Duration("back", s.clockBack))
		}
		report.Lapsed += s.lapsed
		if s.rebuild || s.epoch != row.epoch {
			if err := p.rebuild(ctx, l, 0); err != nil {
				return report, err
			}
			report.Rebuilt++
			return report, nil
		}
		if s.state != row.state || s.version < row.version || !row.told {
			if err := p.changed(ctx, l, s.state != row.state); err != nil {
				return report, err
			}
			report.Told++
		}
		ended := s.dirty
		for _, id := range s.unknown {
			ended = append(ended, gone{id, Ending{Status: Lapsed, Reason: ReasonLeaseExpired}})
		}
		for len(ended) > 0 {
			closed, err := p.closeRows(ctx, l, s.epoch, ended)
			if errors.Is(err, errEpoch) {
				return report, nil // decided in an older world
			}
			if err != nil {
				return report, err
			}
			report.Closed += closed
			if s, err = p.tidy(ctx, l, ended, nil); err != nil || s.rebuild {
				return report, err
			}
			report.Lapsed += s.lapsed
			ended = s.dirty
		}
		if len(open) < sweepPage {
			if s.sessions > len(seen) {
				ghosts, err := p.freeGhosts(ctx, l, seen)
				report.Ghosts += ghosts
				return report, err
			}
			return report, nil
		}
		after = open[len(open)-1]
	}
}

// openSessions reads the licence's limits and a page of its open sessions.
func (p *Pools) openSessions(ctx context.Context, l pool, after uuid.UUID) (row limits, open []uuid.UUID, err error) {
	err = p.db.As(ctx, l.tenant, func(tx tenancy.Tx) error {
		if row, err = scanLimits(tx.QueryRow(ctx, selectLimits, l.license.String())); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT id FROM app.open_sessions
			 WHERE tenant_id = (SELECT app.tenant()) AND license_id = $1::uuid AND id > $2::uuid ORDER BY id LIMIT $3`,
			l.license.String(), after.String(), sweepPage)
		if err != nil {
			return err
		}
		open, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	if err != nil {
		return limits{}, nil, fmt.Errorf("read open sessions of license %s: %w", l.license, err)
	}
	return row, open, nil
}

// overAdmitted counts the seats of a licence that are taken beyond what was sold, by one statement, so that the row of the licence and
// those of its sessions are of one moment. Seats above a number that was lowered may go on until they are drained, and a borrowed one
// until it is due; what is evicted leaves within a few minutes.
func (p *Pools) overAdmitted(ctx context.Context, l pool) (seats int, err error) {
	err = p.db.Batch(ctx, l.tenant, func(b *tenancy.Batch) {
		b.Queue(`SELECT count(*) FROM app.licenses l JOIN app.open_sessions o ON o.tenant_id = l.tenant_id AND o.license_id = l.id
			 WHERE l.tenant_id = (SELECT app.tenant()) AND l.id = $1::uuid AND o.seat_no > l.max_seats + l.overdraft_seats
			   AND o.evicted_at IS NULL AND coalesce(o.borrowed_until, '-infinity') < now() - interval '10 minutes'
			   AND coalesce(l.drain_until, '-infinity') < now() - interval '10 minutes'`, l.license.String()).QueryRow(func(row pgx.Row) error {
			return row.Scan(&seats)
		})
	})
	if err != nil {
		return 0, fmt.Errorf("count the seats of license %s beyond what was sold: %w", l.license, err)
	}
	if seats > 0 {
		p.log.ErrorContext(ctx, "more seats are taken than were sold", "license", l.license, "seats", seats)
	}
	return seats, nil
}

// pooled is a confirmed session as its pool has it.
type pooled struct {
	session uuid.UUID
	fence   Fence
	seat    int
	holder  string
	left    int64  // ms until it is reaped
	evicted bool   // and its holder has not heard yet
	ending  Ending // when evicted
}

// markEvicted is lib.lua's EVICTED.
const markEvicted = "2"

// list reads all confirmed sessions of a pool; cold says that the pool must be rebuilt.
func (p *Pools) list(ctx context.Context, l pool) (sessions []pooled, cold bool, err error) {
	seen := map[uuid.UUID]bool{}
	for cursor := "0"; ; {
		rep, err := p.runAlone(ctx, rebuildTimeout, listScript, l.keys(), cursor, sweepPage)
		if err != nil {
			return nil, false, fmt.Errorf("list pool of license %s: %w", l.license, err)
		}
		if rep.str() == "rebuild" {
			return nil, true, rep.err
		}
		cursor = rep.str()
		for rep.more() {
			s := pooled{session: rep.uuid(), fence: rep.fence(), seat: int(rep.int()), holder: rep.str()}
			s.evicted, s.left, s.ending = rep.str() == markEvicted, rep.int(), rep.ending()
			if !seen[s.session] {
				seen[s.session] = true
				sessions = append(sessions, s)
			}
		}
		if rep.err != nil {
			return nil, false, rep.err
		}
		if cursor == "0" {
			return sessions, false, nil
		}
	}
}

// freeGhosts frees the seats of sessions whose row was closed between a rebuild's snapshot and its script. Nobody
// believes in a session whose row is closed. Those in open had an open row a moment ago, and are not looked up.
func (p *Pools) freeGhosts(ctx context.Context, l pool, open map[uuid.UUID]bool) (int, error) {
	sessions, cold, err := p.list(ctx, l)
	if err != nil || cold {
		return 0, err
	}
	sessions = slices.DeleteFunc(sessions, func(s pooled) bool { return open[s.session] })
	if len(sessions) == 0 {
		return 0, nil // what is more is reserved
	}
	ids := make([]string, len(sessions))
	for i, s := range sessions {
		ids[i] = s.session.String()
	}
	ended := map[uuid.UUID]bool{}
	err = p.db.As(ctx, l.tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id FROM app.ended_sessions
			 WHERE tenant_id = (SELECT app.tenant()) AND id = ANY ($1::text[]::uuid[])`, ids)
		if err != nil {
			return err
		}
		var id uuid.UUID
		_, err = pgx.ForEachRow(rows, []any{&id}, func() error { ended[id] = true; return nil })
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("compare pool of license %s with history: %w", l.license, err)
	}
	ghosts := 0
	for _, s := range sessions {
		if ended[s.session] {
			if err := p.letGo(ctx, l, s.session, s.fence); err != nil {
				return ghosts, err
			}
			ghosts++
		}
	}
	return ghosts, nil
}

// MakeHistory makes the coming months' partitions of the history, and says how many it made.
func (p *Pools) MakeHistory(ctx context.Context) (made int, err error) {
	err = p.db.Across(ctx, "sweep: partitions of the history", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT app.make_history_partitions($1)`, monthsAhead).Scan(&made)
	})
	if err != nil {
		return 0, fmt.Errorf("make partitions of the history: %w", err)
	}
	return made, nil
}

// found is the tenant of a licence that a look-up across tenants answered: no credential is involved in a sweep, the
// rows themselves say whose they are.
func found(tenant uuid.UUID) tenancy.ID { return tenancy.Verified(tenant) }
