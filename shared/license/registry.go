package license

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

// LongestOverlap is the longest that a rotated key may live on.
const LongestOverlap = 30 * 24 * time.Hour

// RegistryConfig says how keys are hashed and what may be sold.
type RegistryConfig struct {
	// Peppers hash licence keys: "2:base64,1:base64", the first for new keys.
	Peppers secret.Peppers `env:"LICENSE_KEY_PEPPERS,required"`
	// ShortestTTLSeconds is the shortest lease that may be sold.
	ShortestTTLSeconds int `env:"LICENSE_MIN_TTL_SECONDS" envDefault:"60"`
}

// Registry writes licences. Every method runs in the caller's transaction, as
// the tenant whose licence it is, under the role of function admin.
//
// The database numbers each change (License.PoolVersion) and leaves word of it
// in the outbox, in the same transaction. After the commit the caller tells the
// seat pool, which is how every Directory learns of it.
type Registry struct {
	peppers  secret.Peppers
	shortest time.Duration
}

// OpenRegistry reads RegistryConfig from the environment.
func OpenRegistry(getenv func(string) string) (*Registry, error) {
	var cfg RegistryConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	return NewRegistry(cfg)
}

// NewRegistry makes a Registry.
func NewRegistry(cfg RegistryConfig) (*Registry, error) {
	if cfg.ShortestTTLSeconds < 1 {
		return nil, &config.Fault{Variable: "LICENSE_MIN_TTL_SECONDS", Problem: "must be positive"}
	}
	return &Registry{peppers: cfg.Peppers, shortest: time.Duration(cfg.ShortestTTLSeconds) * time.Second}, nil
}

// ShortestTTL is the shortest lease that may be sold.
func (r *Registry) ShortestTTL() time.Duration { return r.shortest }

// Create makes an active licence and its first key, which is shown this once.
// Terms that are not valid, or name a plan that is not there, are a
// fault.Invalid that names every field at once.
func (r *Registry) Create(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, terms Terms) (License, secret.Key, error) {
	plan, err := r.check(ctx, tx, &terms)
	if err != nil {
		return License{}, secret.Key{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return License{}, secret.Key{}, fmt.Errorf("number a license: %w", err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO app.licenses (tenant_id, id, product_code, plan_code, max_seats, overdraft_seats, ttl_seconds, seat_per,
		                          features, versions, max_devices, allowed_hardware, offline_grace_seconds, drain_seconds,
		                          starts_at, expires_at, grace_until, borrow_reserve_seats, on_trial)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, nullif($11, 0), $12, $13, $14, $15, $16, $17, $18, $19)`,
		tenant.UUID(), id, plan.Product, plan.Code, terms.MaxSeats, terms.OverdraftSeats, inSeconds(terms.TTL), terms.SeatPer,
		list(terms.Features), terms.Versions, terms.MaxDevices, list(terms.AllowedHardware), inSeconds(plan.OfflineGrace), inSeconds(plan.Drain),
		terms.StartsAt, terms.ExpiresAt, terms.GraceUntil, terms.BorrowReserve, terms.OnTrial)
	if err != nil {
		return License{}, secret.Key{}, fmt.Errorf("create license %s: %w", id, err)
	}
	key, err := r.addKey(ctx, tx, tenant, id)
	if err != nil {
		return License{}, secret.Key{}, err
	}
	made, err := Read(ctx, tx, tenant, id)
	return made, key, err
}

// Change lets change alter the licence's terms, with the row locked, and writes
// them if they are valid. Terms that stay what they were write nothing. Its
// faults are Create's, change's own, fault.NotFound, and fault.Conflict for a
// revoked licence.
func (r *Registry) Change(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID, change func(*Terms) error) (License, error) {
	l, err := lock(ctx, tx, tenant, id)
	if err != nil {
		return License{}, err
	}
	if l.Status == StatusRevoked {
		return License{}, errRevoked
	}
	terms := l.Terms()
	if err := change(&terms); err != nil {
		return License{}, err
	}
	// A trial is of its plan, and has an end.
	terms.OnTrial = terms.OnTrial && terms.Plan == l.Plan && terms.ExpiresAt != nil
	plan, err := r.check(ctx, tx, &terms)
	if err != nil {
		return License{}, err
	}
	_, err = tx.Exec(ctx, `
		UPDATE app.licenses
		   SET product_code = $3, plan_code = $4, max_seats = $5, overdraft_seats = $6, ttl_seconds = $7, seat_per = $8,
		       features = $9, versions = $10, max_devices = nullif($11, 0), allowed_hardware = $12,
		       offline_grace_seconds = CASE WHEN plan_code = $4 THEN offline_grace_seconds ELSE $13 END,
		       drain_seconds = CASE WHEN plan_code = $4 THEN drain_seconds ELSE $14 END,
		       starts_at = $15, expires_at = $16, grace_until = $17, borrow_reserve_seats = $18, on_trial = $19
		 WHERE tenant_id = $1 AND id = $2
		   AND (product_code, plan_code, max_seats, overdraft_seats, ttl_seconds, seat_per, features, versions, coalesce(max_devices, 0),
		        allowed_hardware, starts_at, expires_at, grace_until, borrow_reserve_seats, on_trial)
		       IS DISTINCT FROM ($3, $4, $5::int, $6::int, $7::int, $8, $9::text[], $10, $11::int, $12::text[], $15::timestamptz, $16::timestamptz, $17::timestamptz, $18::int, $19::bool)`,
		tenant.UUID(), id, plan.Product, plan.Code, terms.MaxSeats, terms.OverdraftSeats, inSeconds(terms.TTL), terms.SeatPer,
		list(terms.Features), terms.Versions, terms.MaxDevices, list(terms.AllowedHardware), inSeconds(plan.OfflineGrace), inSeconds(plan.Drain),
		terms.StartsAt, terms.ExpiresAt, terms.GraceUntil, terms.BorrowReserve, terms.OnTrial)
	if err != nil {
		return License{}, fmt.Errorf("change license %s: %w", id, err)
	}
	return Read(ctx, tx, tenant, id)
}

// check answers the plan of good terms, and a fault.Invalid with everything that is wrong with others.
func (r *Registry) check(ctx context.Context, tx tenancy.Tx, terms *Terms) (Plan, error) {
	faults := terms.Faults(r.shortest)
	plan, err := ReadPlan(ctx, tx, terms.Plan)
	if f := fault.As(err); f != nil && f.Kind == fault.KindNotFound {
		faults = append(faults, fault.Field{Field: "plan", Code: "not_allowed", Detail: "There is no such plan."})
	} else if err != nil {
		return Plan{}, err
	}
	if faults != nil {
		return Plan{}, fault.Invalid("The licence is not valid.", faults...)
	}
	return plan, nil
}

var errRevoked = fault.Conflict(CodeRevoked, "The licence is revoked, which cannot be undone. Create another.")

// ByBilling is who gives and takes what follows from payments, with a colon and a reason behind it.
const ByBilling = "stripe"

// IsByBilling says whether somebody is billing.
func IsByBilling(by string) bool { return by == ByBilling || strings.HasPrefix(by, ByBilling+":") }

// Suspend ends what the licence grants until it is reinstated. A suspended
// licence stays as it is, with its first reason, unless billing suspended it: a payment must not undo what somebody else
// decided. A revoked one is a fault.Conflict.
func Suspend(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID, reason, by string) (License, error) {
	return setStatus(ctx, tx, tenant, id, StatusSuspended, reason, by)
}

// Reinstate makes a suspended licence active. An active one stays as it is; a
// revoked one is a fault.Conflict.
func Reinstate(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID, by string) (License, error) {
	return setStatus(ctx, tx, tenant, id, StatusActive, "", by)
}

// Revoke ends the licence for good. A revoked one stays as it is, with its first reason.
func Revoke(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID, reason, by string) (License, error) {
	return setStatus(ctx, tx, tenant, id, StatusRevoked, reason, by)
}

func setStatus(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID, status, reason, by string) (License, error) {
	l, err := lock(ctx, tx, tenant, id)
	switch {
	case err != nil:
		return License{}, err
	case l.Status == status && (IsByBilling(by) || !IsByBilling(l.StatusBy)):
		return Read(ctx, tx, tenant, id)
	case l.Status == StatusRevoked:
		return License{}, errRevoked
	}
	_, err = tx.Exec(ctx, `
		UPDATE app.licenses
		   SET status = $3, status_reason = nullif($4, ''), status_by = nullif($5, '')
		 WHERE tenant_id = $1 AND id = $2`,
		tenant.UUID(), id, status, reason, by)
	if err != nil {
		return License{}, fmt.Errorf("make license %s %s: %w", id, status, err)
	}
	return Read(ctx, tx, tenant, id)
}

// RotateKey makes a new key, shown this once. The keys before it live on for
// overlap, or until they were to end anyway. An overlap that is negative or
// over LongestOverlap is a fault.Invalid; a revoked licence a fault.Conflict.
func (r *Registry) RotateKey(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID, overlap time.Duration) (License, secret.Key, error) {
	if overlap < 0 || overlap > LongestOverlap {
		return License{}, secret.Key{}, fault.Invalid("The overlap is not valid.", fault.Field{
			Field: "overlap_seconds", Code: "out_of_range",
			Detail: fmt.Sprintf("The old key lives on for 0 to %d seconds.", inSeconds(LongestOverlap)),
		})
	}
	l, err := lock(ctx, tx, tenant, id)
	if err != nil {
		return License{}, secret.Key{}, err
	}
	if l.Status == StatusRevoked {
		return License{}, secret.Key{}, errRevoked
	}
	_, err = tx.Exec(ctx, `
		UPDATE app.license_keys
		   SET expires_at = now() + make_interval(secs => $3)
		 WHERE tenant_id = $1 AND license_id = $2 AND (expires_at IS NULL OR expires_at > now() + make_interval(secs => $3))`,
		tenant.UUID(), id, float64(inSeconds(overlap)))
	if err != nil {
		return License{}, secret.Key{}, fmt.Errorf("end the keys of license %s: %w", id, err)
	}
	key, err := r.addKey(ctx, tx, tenant, id)
	if err != nil {
		return License{}, secret.Key{}, err
	}
	rotated, err := Read(ctx, tx, tenant, id)
	return rotated, key, err
}

// addKey makes a key and stores its hash.
func (r *Registry) addKey(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, license uuid.UUID) (secret.Key, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return secret.Key{}, fmt.Errorf("number a key: %w", err)
	}
	key := NewKey()
	hash := r.peppers.Hash(key)
	_, err = tx.Exec(ctx, `
		INSERT INTO app.license_keys (tenant_id, id, license_id, key_hash, pepper_version, hint)
		VALUES ($1, $2, $3, $4, $5, $6)`,
		tenant.UUID(), id, license, hash.MAC, hash.Version, key.Hint())
	if err != nil {
		return secret.Key{}, fmt.Errorf("store a key of license %s: %w", license, err)
	}
	return key, nil
}

// readColumns are columns and the hint of the newest key, of licenses l, tenants t and license_keys k.
const readColumns = columns + `, coalesce(k.hint, '')`

const readTables = `
	  FROM app.licenses l
	  JOIN app.tenants t ON t.id = l.tenant_id
	  LEFT JOIN LATERAL (
	      SELECT hint FROM app.license_keys
	       WHERE tenant_id = l.tenant_id AND license_id = l.id
	       ORDER BY created_at DESC, id DESC LIMIT 1) k ON true`

// Read answers a licence; fault.NotFound when the tenant has none of that id.
func Read(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (License, error) {
	return readOne(tx.QueryRow(ctx, `SELECT`+readColumns+readTables+`
	 WHERE l.tenant_id = $1 AND l.id = $2`, tenant.UUID(), id), tenant, id)
}

// lock is Read, with nobody else changing the licence until the transaction ends.
func lock(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (License, error) {
	return readOne(tx.QueryRow(ctx, `SELECT`+readColumns+readTables+`
	 WHERE l.tenant_id = $1 AND l.id = $2
	   FOR NO KEY UPDATE OF l`, tenant.UUID(), id), tenant, id)
}

func readOne(row pgx.Row, tenant tenancy.ID, id uuid.UUID) (License, error) {
	l := License{Tenant: tenant}
	switch err := row.Scan(append(l.fields(), &l.KeyHint)...); {
	case errors.Is(err, pgx.ErrNoRows):
		return License{}, fault.NotFound("not_found", "There is no such licence.")
	case err != nil:
		return License{}, fmt.Errorf("read license %s: %w", id, err)
	}
	return l, nil
}

// List answers up to limit of the tenant's licences in the order in which they
// were made, from the one after the given id on; uuid.Nil is from the start.
func List(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, after uuid.UUID, limit int) ([]License, error) {
	rows, err := tx.Query(ctx, `SELECT`+readColumns+readTables+`
	 WHERE l.tenant_id = $1 AND l.id > $2
	 ORDER BY l.id
	 LIMIT $3`, tenant.UUID(), after, limit)
	if err != nil {
		return nil, fmt.Errorf("list licenses: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (License, error) {
		l := License{Tenant: tenant}
		err := row.Scan(append(l.fields(), &l.KeyHint)...)
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("list licenses: %w", err)
	}
	return all, nil
}
