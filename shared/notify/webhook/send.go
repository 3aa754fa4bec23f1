package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/telemetry"
	"github.com/coditect/usher/shared/tenancy"
)

const (
	// atOnce is how many webhooks are served at one time, each by one attempt after the other.
	atOnce = 16
	// atATime is how many webhooks with something due are looked up together.
	atATime = 200
	// perTurn is how many deliveries a webhook gets before others have had their turn.
	perTurn = 100
	// abandonedTogether is how many deliveries of a webhook that is switched off are given up together.
	abandonedTogether = 1000
	// lease is for how long nobody else makes the attempt that somebody is making: longer than GuardConfig.Timeout can be and
	// recording together.
	lease = time.Minute
	// recordFor is how long the outcome of an attempt is tried to be recorded.
	recordFor = 10 * time.Second
	// Attempts is how many are made before a delivery is given up: the last more than 24 hours after the first.
	Attempts = 14
	// endurance is how long a webhook may fail, with no success between, before it is switched off.
	endurance = 5 * 24 * time.Hour
	// triesKept is how many attempts of a delivery are remembered.
	triesKept = 20
	// answerRead is how much of an answer is read, to be thrown away.
	answerRead = 16 << 10
)

// Sender delivers events. It is safe for concurrent use.
type Sender struct {
	db       *tenancy.DB
	operator uuid.UUID
	keys     notify.Keys
	client   *http.Client
	log      *slog.Logger
}

// NewSender makes a Sender; db logs in as usher_deliver, operator is the operator's own tenant.
func NewSender(db *tenancy.DB, operator uuid.UUID, keys notify.Keys, guard *Guard, log *slog.Logger) *Sender {
	return &Sender{db: db, operator: operator, keys: keys, client: guard.Client(), log: log}
}

// Report is what a run did, in numbers.
type Report struct {
	// SeatEvents were read off the rows of sessions.
	SeatEvents int64 `json:"seat_events"`
	// Deliveries were made of events.
	Deliveries int64 `json:"deliveries_made"`
	// Delivered were answered with success.
	Delivered int64 `json:"delivered"`
	// Postponed are tried again later.
	Postponed int64 `json:"postponed"`
	// GivenUp were tried for a day.
	GivenUp int64 `json:"given_up"`
	// Disabled are webhooks that were switched off.
	Disabled int64 `json:"disabled"`
}

var attempts = telemetry.NewCounter("usher.webhook.attempts", "{attempt}",
	"Attempts to deliver an event to a webhook: delivered, postponed (it failed and is tried again) or given_up.", "usher.outcome")

// Run reads seat events, makes deliveries of events, and makes the attempts that are due. Until the given time it begins
// attempts; the last of them ends within GuardConfig.Timeout after it.
func (s *Sender) Run(ctx context.Context, until time.Time) (Report, error) {
	var r Report
	seats, err1 := s.readSeats(ctx, until)
	r.SeatEvents = seats
	made, err2 := s.dispatch(ctx, until)
	r.Deliveries = made
	err3 := s.deliver(ctx, until, &r)
	for outcome, n := range map[string]int64{"delivered": r.Delivered, "postponed": r.Postponed, "given_up": r.GivenUp} {
		attempts.Add(ctx, n, outcome)
	}
	return r, errors.Join(err1, err2, err3)
}

// reference is a webhook's name.
type reference struct {
	tenant tenancy.ID
	id     uuid.UUID
}

// tally counts what became of attempts.
type tally struct{ delivered, postponed, givenUp, disabled atomic.Int64 }

func (s *Sender) deliver(ctx context.Context, until time.Time, r *Report) error {
	var t tally
	defer func() {
		r.Delivered, r.Postponed, r.GivenUp, r.Disabled = t.delivered.Load(), t.postponed.Load(), t.givenUp.Load(), t.disabled.Load()
	}()
	served := map[reference]bool{} // a webhook that failed, or with nothing left, has its next turn in the next run
	for time.Now().Before(until) {
		due, err := s.due(ctx)
		if err != nil {
			return err
		}
		var all errgroup.Group
		all.SetLimit(atOnce)
		type turn struct {
			reference
			more bool
		}
		turns := make(chan turn, len(due))
		begun := 0
		for _, w := range due {
			if served[w] {
				continue
			}
			begun++
			all.Go(func() error {
				more, err := s.serve(ctx, until, w, &t)
				turns <- turn{w, more}
				return err
			})
		}
		err = all.Wait()
		close(turns)
		for t := range turns {
			if !t.more {
				served[t.reference] = true
			}
		}
		if err != nil || begun == 0 {
			return err
		}
	}
	return nil
}

// due looks up which webhooks have something due, those that work first.
func (s *Sender) due(ctx context.Context) (due []reference, err error) {
	err = s.db.Across(ctx, "deliver: webhooks with something due", func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT tenant_id, id FROM app.due_webhooks($1)`, atATime)
		if err != nil {
			return err
		}
		due, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r reference, err error) {
			var tenant uuid.UUID
			err = row.Scan(&tenant, &r.id)
			r.tenant = tenancy.Verified(tenant)
			return r, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up the webhooks with something due: %w", err)
	}
	return due, nil
}

// serve makes a webhook's due attempts, so many as a turn has, until one fails; more says that others may be due.
func (s *Sender) serve(ctx context.Context, until time.Time, w reference, t *tally) (more bool, err error) {
	for range perTurn {
		if !time.Now().Before(until) {
			return false, nil
		}
		a, ours, err := s.claim(ctx, w)
		if err != nil || !ours {
			return false, err
		}
		if a.hook.Status != Active {
			t.givenUp.Add(1)
			off := Try{At: time.Now().UTC(), Error: "the webhook is switched off"}
			if err := s.record(ctx, &a, off, gaveUp, t); err != nil {
				return false, err
			}
			n, err := s.abandon(ctx, w, off)
			t.givenUp.Add(n)
			if err != nil {
				return false, err
			}
			continue
		}
		try := s.attempt(ctx, &a)
		how := after(try.Status, a.round)
		switch how {
		case delivered:
			t.delivered.Add(1)
		case postponed:
			t.postponed.Add(1)
		case gaveUp:
			t.givenUp.Add(1)
		}
		if err := s.record(ctx, &a, try, how, t); err != nil {
			return false, err
		}
		if how != delivered {
			return false, nil
		}
	}
	return true, nil
}

type outcome int

const (
	delivered outcome = iota
	postponed
	gaveUp
)

// after is what becomes of a delivery whose nth attempt since it was asked for was answered so; 0 is no answer.
func after(status, n int) outcome {
	switch {
	case status >= 200 && status < 300:
		return delivered
	case n >= Attempts:
		return gaveUp
	default:
		return postponed
	}
}

// claimed is an attempt that is ours to make.
type claimed struct {
	tenant         tenancy.ID
	hook           Webhook
	id, event      uuid.UUID
	body           string
	attempt, round int
	previousLives  bool
}

// inOrder has the transaction find what is due by the one index that has its order, as app.waiting_webhooks does: by statistics, which know
// nothing of one webhook that has nearly all there is, another index and a sort cost as little.
func inOrder(ctx context.Context, tx tenancy.Tx) error {
	_, err := tx.Exec(ctx, `SET LOCAL enable_sort = off`)
	return err
}

// claim takes a due delivery of the webhook, unless there is none or somebody else has it.
func (s *Sender) claim(ctx context.Context, w reference) (a claimed, ours bool, err error) {
	a.tenant = w.tenant
	err = s.db.As(ctx, w.tenant, func(tx tenancy.Tx) (err error) {
		if err := inOrder(ctx, tx); err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `
			UPDATE app.webhook_deliveries
			   SET attempts = attempts + 1, round = round + 1, next_at = now() + $3::interval
			 WHERE tenant_id = $1 AND id = (
			       SELECT o.id FROM app.webhook_deliveries o
			        WHERE o.tenant_id = $1 AND o.webhook_id = $2 AND o.status = 'pending' AND o.next_at <= now()
			        ORDER BY o.next_at, o.id LIMIT 1 FOR UPDATE SKIP LOCKED)
			RETURNING id, event_id, body, attempts, round`, w.tenant.UUID(), w.id, lease,
		).Scan(&a.id, &a.event, &a.body, &a.attempt, &a.round)
		if err != nil {
			return err
		}
		if a.hook, err = scan(tx.QueryRow(ctx, `SELECT`+columns+`FROM app.webhooks WHERE tenant_id = $1 AND id = $2`, w.tenant.UUID(), w.id)); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT coalesce($1::timestamptz > now(), false)`, a.hook.PreviousUntil).Scan(&a.previousLives)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return a, false, nil
	case err != nil:
		return a, false, fmt.Errorf("take a delivery of webhook %s: %w", w.id, err)
	}
	return a, true, nil
}

// attempt sends the event once.
func (s *Sender) attempt(ctx context.Context, a *claimed) Try {
	began := time.Now()
	status, problem := s.post(ctx, a)
	return Try{At: began.UTC().Truncate(time.Millisecond), Millis: time.Since(began).Milliseconds(), Status: status, Error: problem}
}

func (s *Sender) post(ctx context.Context, a *claimed) (status int, problem string) {
	secrets := [][]byte{secretOf(s.keys, a.hook.ID, a.hook.key, a.hook.generation)}
	if secrets[0] == nil {
		s.log.ErrorContext(ctx, "NOTIFY_KEYS lacks the key of a webhook", slog.String("webhook", a.hook.ID.String()), slog.String("key", a.hook.key))
		return 0, "it could not be signed"
	}
	if old := secretOf(s.keys, a.hook.ID, a.hook.previousKey, a.hook.previousGeneration); a.previousLives && old != nil {
		secrets = append(secrets, old)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.hook.URL, strings.NewReader(a.body))
	if err != nil {
		return 0, "the URL cannot be used"
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "usher-webhooks/1")
	sign(request.Header, a.event.String(), time.Now(), []byte(a.body), secrets...)
	response, err := s.client.Do(request)
	if err != nil {
		return 0, explain(err)
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.CopyN(io.Discard, response.Body, answerRead) // the status was the answer
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		return response.StatusCode, ""
	}
	return response.StatusCode, problemOf(response.StatusCode)
}

// wait is how long after an attempt the next is made: as notify.Delay says, and up to a tenth more, so that what failed
// together does not come back together.
func wait(n int) time.Duration {
	d := notify.Delay(n)
	return d + rand.N(d/10) //nolint:gosec // it is no secret
}

// record writes down what became of an attempt and what that says of the webhook, unless another sender has taken the delivery
// since. It outlives the run.
func (s *Sender) record(ctx context.Context, a *claimed, try Try, how outcome, t *tally) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
	defer cancel()
	tries, err := json.Marshal([]Try{try})
	if err != nil {
		return fmt.Errorf("record an attempt: %w", err)
	}
	status := map[outcome]string{delivered: "delivered", postponed: "pending", gaveUp: "failed"}[how]
	for {
		switchedOff := false
		err := s.db.As(ctx, a.tenant, func(tx tenancy.Tx) error {
			tag, err := tx.Exec(ctx, `
				UPDATE app.webhook_deliveries
				   SET status = $4, next_at = now() + $5::interval, finished_at = CASE WHEN $4 <> 'pending' THEN now() END,
				       tries = jsonb_path_query_array(tries || $6::text::jsonb, '$[last - $n to last]', jsonb_build_object('n', least(jsonb_array_length(tries), $7::int)))
				 WHERE tenant_id = $1 AND id = $2 AND attempts = $3 AND status = 'pending'`,
				a.tenant.UUID(), a.id, a.attempt, status, wait(a.round), string(tries), triesKept-1)
			if err != nil || tag.RowsAffected() == 0 || a.hook.Status != Active {
				return err
			}
			switchedOff, err = s.judge(ctx, tx, a, try)
			return err
		})
		if err == nil {
			if switchedOff {
				t.disabled.Add(1)
			}
			return nil
		}
		if f := fault.As(err); f == nil || f.Kind != fault.KindUnavailable || ctx.Err() != nil {
			return fmt.Errorf("record an attempt of delivery %s: %w", a.id, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// abandon gives up what else is due of a webhook that is switched off, as much as is taken together, and answers how much it was.
func (s *Sender) abandon(ctx context.Context, w reference, off Try) (n int64, err error) {
	tries, err := json.Marshal([]Try{off})
	if err != nil {
		return 0, fmt.Errorf("give up deliveries: %w", err)
	}
	err = s.db.As(ctx, w.tenant, func(tx tenancy.Tx) error {
		if err := inOrder(ctx, tx); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			WITH due AS (
			    SELECT o.id FROM app.webhook_deliveries o
			     WHERE o.tenant_id = $1 AND o.webhook_id = $2 AND o.status = 'pending' AND o.next_at <= now()
			       AND EXISTS (SELECT FROM app.webhooks h WHERE h.tenant_id = $1 AND h.id = $2 AND h.status <> 'active')
			     ORDER BY o.next_at, o.id LIMIT $3 FOR UPDATE SKIP LOCKED
			)
			UPDATE app.webhook_deliveries d
			   SET status = 'failed', finished_at = now(),
			       tries = jsonb_path_query_array(tries || $4::text::jsonb, '$[last - $n to last]', jsonb_build_object('n', least(jsonb_array_length(tries), $5::int)))
			  FROM due WHERE d.tenant_id = $1 AND d.id = due.id`, w.tenant.UUID(), w.id, abandonedTogether, string(tries), triesKept-1)
		n = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("give up deliveries of webhook %s, which is switched off: %w", w.id, err)
	}
	return n, nil
}

// judge keeps since when a webhook fails, and switches it off when that is too long ago, or when it says by 410 that it is
// gone. The owners are told.
func (s *Sender) judge(ctx context.Context, tx tenancy.Tx, a *claimed, try Try) (switchedOff bool, err error) {
	hook := a.hook.ID
	if try.Status >= 200 && try.Status < 300 {
		if a.hook.FailingSince != nil {
			_, err = tx.Exec(ctx, `UPDATE app.webhooks SET failing_since = NULL WHERE tenant_id = $1 AND id = $2`, a.tenant.UUID(), hook)
		}
		return false, err
	}
	reason := fmt.Sprintf("For %d days it answered nothing that could be taken for success; at last %s.", int(endurance/(24*time.Hour)), try.Error)
	if try.Status == http.StatusGone {
		reason = "It answered 410: that it is gone."
	}
	err = tx.QueryRow(ctx, `
		UPDATE app.webhooks AS w
		   SET failing_since = coalesce(failing_since, now()), updated_at = CASE WHEN x.off THEN now() ELSE updated_at END,
		       status = CASE WHEN x.off THEN 'disabled' ELSE status END,
		       disabled_reason = CASE WHEN x.off THEN $4 END, disabled_at = CASE WHEN x.off THEN now() END
		  FROM (SELECT $3 OR coalesce(failing_since <= now() - $5::interval, false) AS off
		          FROM app.webhooks WHERE tenant_id = $1 AND id = $2) x
		 WHERE tenant_id = $1 AND id = $2 AND status = 'active'
		RETURNING x.off`, a.tenant.UUID(), hook, try.Status == http.StatusGone, reason, endurance).Scan(&switchedOff)
	if errors.Is(err, pgx.ErrNoRows) { // it was switched off meanwhile
		return false, nil
	}
	if err != nil || !switchedOff {
		return false, err
	}
	name, err := notify.Organization(ctx, tx)
	if err != nil {
		return false, err
	}
	err = notify.QueueToOwners(ctx, tx, notify.Mail{
		Kind: notify.WebhookDisabled,
		Data: map[string]string{"organization": name, "url": a.hook.URL, "reason": reason},
	})
	if err != nil {
		return false, err
	}
	return true, audit.Record(ctx, tx, audit.Entry{
		Action: "webhook.disabled", Actor: "deliver", Subject: "webhook:" + hook.String(), Details: map[string]string{"reason": reason},
	})
}
