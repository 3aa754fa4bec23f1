package license

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

const (
	// TrialLength is how long a trial lasts.
	TrialLength = 14 * 24 * time.Hour
	// trialGrace is how long a trial that is over goes on while nobody has made it fall to the free tier, which happens once a
	// day: whoever sits is never without a licence in between.
	trialGrace = 2 * 24 * time.Hour
)

// ErrTrialUsed says that the tenant, the address or the hardware has had a trial.
var ErrTrialUsed = fault.Conflict("trial_already_used", "There is one trial for each organisation, each e-mail address and each device, and this one was used. Subscribe to go on.")

// StartTrial makes a licence of the product's trial tier, and its key, which is shown this once. Email is verified. It is
// ErrTrialUsed when the tenant, the address or the hardware has had one, and fault.NotFound for a product without a trial
// tier.
func (r *Registry) StartTrial(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, product, email, hardware string) (License, secret.Key, error) {
	plan, err := readPlan(tx.QueryRow(ctx, `SELECT`+planColumns+`
		  FROM app.plans
		 WHERE product_code = $1 AND trial_falls_to IS NOT NULL`, product), product)
	if isNotFound(err) {
		return License{}, secret.Key{}, fault.NotFound("not_found", "There is no trial of such a product.")
	} else if err != nil {
		return License{}, secret.Key{}, err
	}
	var now time.Time
	if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return License{}, secret.Key{}, fmt.Errorf("read the database's clock: %w", err)
	}
	terms := plan.Terms()
	terms.OnTrial, terms.ExpiresAt, terms.GraceUntil = true, new(now.Add(TrialLength)), new(now.Add(TrialLength+trialGrace))
	// Whoever asks at once for the same waits here, or below, for this transaction.
	tag, err := tx.Exec(ctx, `UPDATE app.tenants SET trial_started_at = now() WHERE id = $1 AND trial_started_at IS NULL`, tenant.UUID())
	switch {
	case err != nil:
		return License{}, secret.Key{}, fmt.Errorf("begin the trial of tenant %s: %w", tenant, err)
	case tag.RowsAffected() == 0:
		return License{}, secret.Key{}, ErrTrialUsed
	}
	made, key, err := r.Create(ctx, tx, tenant, terms)
	if err != nil {
		return License{}, secret.Key{}, err
	}
	tag, err = tx.Exec(ctx, `
		INSERT INTO app.trials (tenant_id, license_id, product_code, falls_to, email_hash, hardware_hash)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT DO NOTHING`,
		tenant.UUID(), made.ID, plan.Product, plan.TrialFallsTo, hashOf(mailbox(email)), hashOf(hardware))
	switch {
	case err != nil:
		return License{}, secret.Key{}, fmt.Errorf("write the trial of tenant %s: %w", tenant, err)
	case tag.RowsAffected() == 0:
		return License{}, secret.Key{}, ErrTrialUsed
	}
	return made, key, nil
}

// mailbox is where mail to an address ends up, as far as one can tell: what follows a plus sign is its owner's own.
func mailbox(email string) string {
	name, domain, _ := strings.Cut(strings.ToLower(email), "@")
	name, _, _ = strings.Cut(name, "+")
	return name + "@" + domain
}

func hashOf(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// FallTrial makes a licence whose trial is over one of the free tier, without an end. It reports false, and changes nothing,
// when the trial is not over, has fallen before, or was bought. Who sits above the seats of the free tier drains: tell the
// licence's pool.
func (r *Registry) FallTrial(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (License, bool, error) {
	var fallsTo string
	err := tx.QueryRow(ctx, `
		SELECT t.falls_to
		  FROM app.trials t JOIN app.licenses l ON l.tenant_id = t.tenant_id AND l.id = t.license_id
		 WHERE t.tenant_id = $1 AND t.license_id = $2 AND l.on_trial AND l.expires_at <= now()
		   FOR NO KEY UPDATE OF l`, tenant.UUID(), id).Scan(&fallsTo)
	if errors.Is(err, pgx.ErrNoRows) {
		return License{}, false, nil
	} else if err != nil {
		return License{}, false, fmt.Errorf("read the trial of license %s: %w", id, err)
	}
	free, err := ReadPlan(ctx, tx, fallsTo)
	if err != nil {
		return License{}, false, err
	}
	fallen, err := r.Change(ctx, tx, tenant, id, func(t *Terms) error {
		hardware := t.AllowedHardware
		*t = free.Terms()
		t.AllowedHardware = hardware
		return nil
	})
	return fallen, err == nil, err
}

// TrialToBuy answers the licence that was the tenant's trial of the product, whether it still runs or has fallen, for a
// subscription to take over: whoever sits stays, and its key stays good. It is uuid.Nil when there is none, or a subscription
// has it.
func TrialToBuy(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, product string) (uuid.UUID, error) {
	var id uuid.UUID
	err := tx.QueryRow(ctx, `
		SELECT l.id
		  FROM app.trials t JOIN app.licenses l ON l.tenant_id = t.tenant_id AND l.id = t.license_id
		 WHERE t.tenant_id = $1 AND t.product_code = $2 AND l.status = 'active'
		   AND NOT EXISTS (SELECT FROM app.subscriptions s WHERE s.tenant_id = l.tenant_id AND s.license_id = l.id)
		   FOR NO KEY UPDATE OF l`, tenant.UUID(), product).Scan(&id)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, fmt.Errorf("look for a trial of tenant %s: %w", tenant, err)
	}
	return id, nil
}
