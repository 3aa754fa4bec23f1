// Package webhook tells other systems what happened, as Standard Webhooks has it: a signed POST for each event, tried for more
// than a day. A tenant's webhooks hear of the tenant's events; those of the operator hear of every tenant's.
//
// An event is delivered at least once, under one id (Webhook-Id), by which a receiver knows a repetition: two senders at once
// send nothing twice, but a sender that dies between an answer and the commit that says so leaves it to be sent again.
// The package must not know what the events mean, but for those of seats, which it reads off the rows that sessions leave.
package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/tenancy"
)

// What a webhook can be.
const (
	Active   = "active"
	Disabled = "disabled"
	deleted  = "deleted"
)

// Most is how many webhooks a tenant may have.
const Most = 20

// Webhook is a system that hears of events.
type Webhook struct {
	ID               uuid.UUID
	URL, Description string
	// Events are types such as seat.denied, seat.* for all of a kind, * for all.
	Events []string
	Status string
	// DisabledReason and DisabledAt say why nothing is sent.
	DisabledReason string
	DisabledAt     *time.Time
	// FailingSince is the first failure since the last success.
	FailingSince *time.Time
	// PreviousUntil is until when the secret before is used, too.
	PreviousUntil        *time.Time
	CreatedBy            string
	CreatedAt, UpdatedAt time.Time

	key, previousKey               string
	generation, previousGeneration int
}

const columns = ` id, url, coalesce(description, ''), events, status, coalesce(disabled_reason, ''), disabled_at, failing_since,
	previous_until, created_by, created_at, updated_at, key_name, generation, coalesce(previous_key_name, ''), coalesce(previous_generation, 0) `

func scan(row pgx.Row) (w Webhook, err error) {
	err = row.Scan(&w.ID, &w.URL, &w.Description, &w.Events, &w.Status, &w.DisabledReason, &w.DisabledAt, &w.FailingSince,
		&w.PreviousUntil, &w.CreatedBy, &w.CreatedAt, &w.UpdatedAt, &w.key, &w.generation, &w.previousKey, &w.previousGeneration)
	return w, err
}

var eventPattern = regexp.MustCompile(`^(\*|(seat|license|subscription|usage|trial|incident)\.(\*|[a-z_]{1,40}))$`)

// Terms are what is said of a webhook.
type Terms struct {
	URL, Description string
	Events           []string
}

// check answers fault.Invalid for terms that cannot be.
func (t *Terms) check(g *Guard) error {
	var faults []fault.Field
	if problem := g.Problem(t.URL); problem != "" {
		faults = append(faults, fault.Field{Field: "url", Code: "not_allowed", Detail: problem})
	}
	for i, e := range t.Events {
		if !eventPattern.MatchString(e) {
			faults = append(faults, fault.Field{
				Field: fmt.Sprintf("events[%d]", i), Code: "not_allowed",
				Detail: "Must be the type of an event, such as seat.denied, or seat.* or *.",
			})
		}
	}
	if faults != nil {
		return fault.Invalid("The webhook is not valid.", faults...)
	}
	return nil
}

// Create makes a webhook and the secret that it signs with, to be shown once. Its faults are fault.Invalid for terms that
// cannot be, and fault.Conflict (too_many_webhooks).
func Create(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, k notify.Keys, g *Guard, t Terms, by string) (Webhook, string, error) {
	if err := t.check(g); err != nil {
		return Webhook{}, "", err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Webhook{}, "", fmt.Errorf("number a webhook: %w", err)
	}
	var have int
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('app.webhooks ' || $1, 0))`, tenant.String()); err != nil {
		return Webhook{}, "", fmt.Errorf("make a webhook: %w", err)
	}
	if err := tx.QueryRow(ctx, `SELECT count(*) FROM app.webhooks WHERE tenant_id = $1 AND status <> 'deleted'`, tenant.UUID()).Scan(&have); err != nil {
		return Webhook{}, "", fmt.Errorf("count webhooks: %w", err)
	}
	if have >= Most {
		return Webhook{}, "", fault.Conflict("too_many_webhooks", fmt.Sprintf("There are %d webhooks already. Delete one first.", Most))
	}
	made, err := scan(tx.QueryRow(ctx, `
		INSERT INTO app.webhooks (tenant_id, id, url, description, events, key_name, created_by)
		VALUES ($1, $2, $3, nullif($4, ''), $5, $6, $7)
		RETURNING`+columns, tenant.UUID(), id, t.URL, t.Description, t.Events, k.InUse(), by))
	if err != nil {
		return Webhook{}, "", fmt.Errorf("store a webhook: %w", err)
	}
	return made, reveal(secretOf(k, id, made.key, made.generation)), nil
}

var errNone = fault.NotFound("not_found", "There is no such webhook.")

// Read answers a webhook; fault.NotFound when there is none.
func Read(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (Webhook, error) {
	return one(tx.QueryRow(ctx, `SELECT`+columns+`FROM app.webhooks WHERE tenant_id = $1 AND id = $2 AND status <> 'deleted'`, tenant.UUID(), id))
}

// one is the webhook of a row, which may be missing.
func one(row pgx.Row) (Webhook, error) {
	w, err := scan(row)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return w, errNone
	case err != nil:
		return w, fmt.Errorf("read a webhook: %w", err)
	}
	return w, nil
}

// List answers up to limit webhooks in the order in which they were made, after the given id.
func List(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, after uuid.UUID, limit int) ([]Webhook, error) {
	rows, err := tx.Query(ctx, `
		SELECT`+columns+`
		  FROM app.webhooks
		 WHERE tenant_id = $1 AND id > $2 AND status <> 'deleted'
		 ORDER BY id LIMIT $3`, tenant.UUID(), after, limit)
	if err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Webhook, error) { return scan(row) })
	if err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	return all, nil
}

// Change is what to alter; nil is left as it is. Status is Active or Disabled.
type Change struct {
	URL, Description, Status *string
	Events                   []string
}

// Alter alters a webhook and answers it. One that is switched on has never failed. Its faults are Read's and Create's.
func Alter(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, g *Guard, id uuid.UUID, c Change) (Webhook, error) {
	w, err := one(tx.QueryRow(ctx, `
		SELECT`+columns+`
		  FROM app.webhooks
		 WHERE tenant_id = $1 AND id = $2 AND status <> 'deleted' FOR UPDATE`, tenant.UUID(), id))
	if err != nil {
		return w, err
	}
	t := Terms{w.URL, w.Description, w.Events}
	status, reason := w.Status, w.DisabledReason
	if c.URL != nil {
		t.URL = *c.URL
	}
	if c.Description != nil {
		t.Description = *c.Description
	}
	if c.Events != nil {
		t.Events = c.Events
	}
	if c.Status != nil && *c.Status != status {
		status, reason = *c.Status, "It was switched off."
	}
	if err := t.check(g); err != nil {
		return w, err
	}
	return one(tx.QueryRow(ctx, `
		UPDATE app.webhooks
		   SET url = $3, description = nullif($4, ''), events = $5, status = $6, updated_at = now(),
		       disabled_reason = CASE WHEN $6 = 'disabled' THEN $7 END,
		       disabled_at = CASE WHEN $6 = 'disabled' THEN coalesce(disabled_at, now()) END,
		       failing_since = CASE WHEN $6 = status THEN failing_since END
		 WHERE tenant_id = $1 AND id = $2
		RETURNING`+columns, tenant.UUID(), id, t.URL, t.Description, t.Events, status, reason))
}

// Delete deletes a webhook for good, and gives up what was to be sent to it.
func Delete(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (Webhook, error) {
	w, err := one(tx.QueryRow(ctx, `
		UPDATE app.webhooks
		   SET status = 'deleted', updated_at = now()
		 WHERE tenant_id = $1 AND id = $2 AND status <> 'deleted'
		RETURNING`+columns, tenant.UUID(), id))
	if err != nil {
		return w, err
	}
	_, err = tx.Exec(ctx, `
		UPDATE app.webhook_deliveries
		   SET status = 'failed', finished_at = now()
		 WHERE tenant_id = $1 AND webhook_id = $2 AND status = 'pending'`, tenant.UUID(), id)
	if err != nil {
		return w, fmt.Errorf("give up what was for webhook %s: %w", id, err)
	}
	return w, nil
}

// Rotate gives a webhook another secret, to be shown once. For overlap what is sent is signed with the one before, too.
func Rotate(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, k notify.Keys, id uuid.UUID, overlap time.Duration) (Webhook, string, error) {
	w, err := one(tx.QueryRow(ctx, `
		UPDATE app.webhooks
		   SET previous_key_name = key_name, previous_generation = generation, previous_until = now() + $4::interval,
		       key_name = $3, generation = generation + 1, updated_at = now()
		 WHERE tenant_id = $1 AND id = $2 AND status <> 'deleted'
		RETURNING`+columns, tenant.UUID(), id, k.InUse(), overlap))
	if err != nil {
		return w, "", err
	}
	return w, reveal(secretOf(k, id, w.key, w.generation)), nil
}

// Delivery is an event on its way to a webhook.
type Delivery struct {
	ID, WebhookID, EventID uuid.UUID
	Type                   string
	// Body is what is sent.
	Body string
	// Status is pending, delivered or failed.
	Status   string
	Attempts int
	// NextAt is when a pending one is tried next.
	NextAt time.Time
	// Tries are the latest attempts, at most 20.
	Tries      []Try
	CreatedAt  time.Time
	FinishedAt *time.Time
}

// Try is how an attempt ended.
type Try struct {
	At time.Time `json:"at"`
	// Millis is how long it took.
	Millis int64 `json:"ms"`
	// Status is the answer's; 0 when there was none, and Error says why.
	Status int    `json:"status,omitempty"`
	Error  string `json:"error,omitempty"`
}

const deliveryColumns = ` id, webhook_id, event_id, type, body, status, attempts, next_at, tries, created_at, finished_at `

func scanDelivery(row pgx.Row) (d Delivery, err error) {
	var tries []byte
	if err := row.Scan(&d.ID, &d.WebhookID, &d.EventID, &d.Type, &d.Body, &d.Status, &d.Attempts, &d.NextAt, &tries, &d.CreatedAt, &d.FinishedAt); err != nil {
		return d, err
	}
	return d, json.Unmarshal(tries, &d.Tries)
}

// ListDeliveries answers up to limit deliveries of a webhook, the newest first, before the given id.
func ListDeliveries(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, webhook uuid.UUID, status string, before uuid.UUID, limit int) ([]Delivery, error) {
	rows, err := tx.Query(ctx, `
		SELECT`+deliveryColumns+`
		  FROM app.webhook_deliveries
		 WHERE tenant_id = $1 AND webhook_id = $2 AND id < $3 AND ($4 = '' OR status = $4)
		 ORDER BY id DESC LIMIT $5`, tenant.UUID(), webhook, before, status, limit)
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Delivery, error) { return scanDelivery(row) })
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	return all, nil
}

var errNoDelivery = fault.NotFound("not_found", "There is no such delivery.")

// ReadDelivery answers a delivery; fault.NotFound when there is none.
func ReadDelivery(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (Delivery, error) {
	return oneDelivery(tx.QueryRow(ctx, `SELECT`+deliveryColumns+`FROM app.webhook_deliveries WHERE tenant_id = $1 AND id = $2`, tenant.UUID(), id))
}

func oneDelivery(row pgx.Row) (Delivery, error) {
	d, err := scanDelivery(row)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return d, errNoDelivery
	case err != nil:
		return d, fmt.Errorf("read a delivery: %w", err)
	}
	return d, nil
}

// Redeliver has a delivery sent again, from the next minute on and as long as a new one. One that is being sent is left alone.
// Its faults are fault.NotFound, and fault.Conflict (webhook_not_active).
func Redeliver(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (Delivery, error) {
	d, err := ReadDelivery(ctx, tx, tenant, id)
	if err != nil {
		return d, err
	}
	var status string
	if err := tx.QueryRow(ctx, `SELECT status FROM app.webhooks WHERE tenant_id = $1 AND id = $2`, tenant.UUID(), d.WebhookID).Scan(&status); err != nil {
		return d, fmt.Errorf("read webhook %s: %w", d.WebhookID, err)
	}
	if status != Active {
		return d, fault.Conflict("webhook_not_active", "The webhook is switched off or deleted. Switch it on first.")
	}
	return oneDelivery(tx.QueryRow(ctx, `
		UPDATE app.webhook_deliveries
		   SET status = 'pending', finished_at = NULL,
		       round = CASE WHEN status = 'pending' THEN round ELSE 0 END,
		       -- A pending one may be under way: who has taken it put its time off by less than two minutes.
		       next_at = CASE WHEN status = 'pending' THEN least(next_at, now() + interval '2 minutes') ELSE now() END
		 WHERE tenant_id = $1 AND id = $2
		RETURNING`+deliveryColumns, tenant.UUID(), id))
}

// typesOf are the types that some of the webhooks want.
func wantedBy(all []Webhook) []string {
	var types []string
	for i := range all {
		types = append(types, all[i].Events...)
	}
	slices.Sort(types)
	return slices.Compact(types)
}
