package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

// apiKeys are API keys: 160 random bits and a check symbol.
var apiKeys = secret.Format{Prefix: "ush_", Random: 32, Lower: true}

// Config says how API keys and invitations are recognised.
type Config struct {
	// Peppers hash API keys and the tokens of invitations: "2:base64,1:base64", the first for new keys.
	Peppers secret.Peppers `env:"API_KEY_PEPPERS,required"`
}

// Verifier recognises API keys, and invitations. It needs the role of function admin, and is safe
// for concurrent use.
type Verifier struct {
	db      *tenancy.DB
	peppers secret.Peppers
}

// Open reads Config from the environment.
func Open(getenv func(string) string, db *tenancy.DB) (*Verifier, error) {
	var cfg Config
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	return New(cfg, db), nil
}

// New makes a Verifier.
func New(cfg Config, db *tenancy.DB) *Verifier { return &Verifier{db: db, peppers: cfg.Peppers} }

// APIKey says whose key a bearer credential is. One that is no key, unknown,
// revoked or expired is fault.Unauthenticated, after the same look-ups; a
// suspended tenant's is fault.Forbidden; both are Refused when the key was known
// once. Whether it expired is the database's clock's to say.
func (v *Verifier) APIKey(ctx context.Context, bearer string) (Principal, error) {
	hashes := v.peppers.HashesOfText(bearer)
	if key, err := apiKeys.Parse(bearer); err == nil {
		hashes = v.peppers.Hashes(key)
	}
	var tenant, id uuid.UUID
	err := v.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`SELECT tenant_id, api_key_id FROM app.find_api_key($1)`, secret.MACs(hashes)).
			QueryRow(func(row pgx.Row) error { return row.Scan(&tenant, &id) })
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Principal{}, fmt.Errorf("find an API key: %w", err)
	}
	return v.read(ctx, tenancy.Verified(tenant), id)
}

// read answers what is known of a key; of the zero id nothing is.
func (v *Verifier) read(ctx context.Context, tenant tenancy.ID, id uuid.UUID) (Principal, error) {
	p := Principal{Tenant: tenant, APIKey: id}
	var kind, status string
	var revoked, expired bool
	err := v.db.Batch(ctx, tenant, func(b *tenancy.Batch) {
		b.Queue(`
			SELECT k.name, k.scopes, k.expires_at, k.revoked_at IS NOT NULL, coalesce(k.expires_at <= now(), false), t.kind, t.status
			  FROM app.api_keys k JOIN app.tenants t ON t.id = k.tenant_id
			 WHERE k.tenant_id = $1 AND k.id = $2`,
			tenant.UUID(), id,
		).QueryRow(func(row pgx.Row) error {
			return row.Scan(&p.Name, &p.Scopes, &p.ExpiresAt, &revoked, &expired, &kind, &status)
		})
		b.Queue(`
			UPDATE app.api_keys
			   SET last_used_at = now()
			 WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
			   AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')`,
			tenant.UUID(), id)
	})
	p.Operator = kind == kindOperator
	refused := &Refused{Tenant: tenant, APIKey: id, Operator: p.Operator}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Principal{}, fault.Unauthenticated("api_key_invalid", "The API key is not known.")
	case err != nil:
		return Principal{}, fmt.Errorf("read API key %s: %w", id, err)
	case revoked:
		return Principal{}, fault.Unauthenticated("api_key_invalid", "The API key was revoked.").Because(refused)
	case expired:
		return Principal{}, fault.Unauthenticated("api_key_invalid", "The API key has expired.").Because(refused)
	case status != "active":
		return Principal{}, errSuspended.Because(refused)
	}
	return p, nil
}

// Refused is the reason of an error that refuses a credential of somebody who is
// known: whose it is, to be recorded and nothing else.
type Refused struct {
	Tenant tenancy.ID
	// APIKey is the key, User who showed an ID token: one of them is uuid.Nil.
	APIKey, User uuid.UUID
	Operator     bool
}

// Error names whose credential it is.
func (r *Refused) Error() string {
	return Principal{APIKey: r.APIKey, User: r.User}.By() + " of tenant " + r.Tenant.String() + " is refused"
}

// APIKey is what is kept of an API key.
type APIKey struct {
	ID     uuid.UUID
	Name   string
	Scopes []Scope
	// Hint is the key's first and last characters.
	Hint      string
	CreatedBy string
	CreatedAt time.Time
	// ExpiresAt, RotatedAt, RevokedAt and LastUsedAt are nil where there is no such
	// time. LastUsedAt is exact to the minute.
	ExpiresAt, RotatedAt, RevokedAt, LastUsedAt *time.Time
}

// CreateAPIKey makes a key of a tenant, shown this once. What the maker may give
// is Principal.AllowGrant's and AllowExpiry's to say. An expiry may have passed: then nobody can use the key.
// A name that is empty or longer than 200 characters is a fault.Invalid.
func (v *Verifier) CreateAPIKey(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, name string, scopes []Scope, expiresAt *time.Time, by string) (APIKey, secret.Key, error) {
	if n := len([]rune(name)); n < 1 || n > 200 {
		return APIKey{}, secret.Key{}, fault.Invalid("The API key is not valid.", fault.Field{Field: "name", Code: "out_of_range", Detail: "A name has 1 to 200 characters."})
	}
	id, err := uuid.NewV7()
	if err != nil {
		return APIKey{}, secret.Key{}, fmt.Errorf("number an API key: %w", err)
	}
	key := apiKeys.New()
	hash := v.peppers.Hash(key)
	texts := make([]string, len(scopes))
	for i, s := range scopes {
		texts[i] = string(s)
	}
	made, err := scanAPIKey(tx.QueryRow(ctx, `
		INSERT INTO app.api_keys (tenant_id, id, name, scopes, key_hash, pepper_version, hint, created_by, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		RETURNING id, name, scopes, hint, created_by, created_at, expires_at, rotated_at, revoked_at, last_used_at`,
		tenant.UUID(), id, name, texts, hash.MAC, hash.Version, key.Hint(), by, expiresAt))
	if err != nil {
		return APIKey{}, secret.Key{}, fmt.Errorf("store an API key: %w", err)
	}
	return made, key, nil
}

// ListAPIKeys answers up to limit of a tenant's keys, revoked ones too, in the
// order in which they were made, from the one after the given id on; uuid.Nil is
// from the start.
func ListAPIKeys(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, after uuid.UUID, limit int) ([]APIKey, error) {
	rows, err := tx.Query(ctx, `
		SELECT id, name, scopes, hint, created_by, created_at, expires_at, rotated_at, revoked_at, last_used_at
		  FROM app.api_keys
		 WHERE tenant_id = $1 AND id > $2
		 ORDER BY id
		 LIMIT $3`, tenant.UUID(), after, limit)
	if err != nil {
		return nil, fmt.Errorf("list API keys: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (APIKey, error) { return scanAPIKey(row) })
	if err != nil {
		return nil, fmt.Errorf("list API keys: %w", err)
	}
	return all, nil
}

// ReadAPIKey answers a key; fault.NotFound when the tenant has none of that id.
func ReadAPIKey(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (APIKey, error) {
	return oneAPIKey(id, tx.QueryRow(ctx, `
		SELECT id, name, scopes, hint, created_by, created_at, expires_at, rotated_at, revoked_at, last_used_at
		  FROM app.api_keys
		 WHERE tenant_id = $1 AND id = $2`, tenant.UUID(), id))
}

// RevokeAPIKey ends a key at once and for good, and answers it. Again is the
// same; a key that the tenant does not have is a fault.NotFound.
func RevokeAPIKey(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (APIKey, error) {
	return oneAPIKey(id, tx.QueryRow(ctx, `
		UPDATE app.api_keys
		   SET revoked_at = coalesce(revoked_at, now())
		 WHERE tenant_id = $1 AND id = $2
		RETURNING id, name, scopes, hint, created_by, created_at, expires_at, rotated_at, revoked_at, last_used_at`, tenant.UUID(), id))
}

// LongestOverlap is the longest that a rotated key may live on.
const LongestOverlap = 30 * 24 * time.Hour

// RotateAPIKey makes a key like another one, of the same name, scopes and expiry,
// shown this once; the other lives on for the overlap, or until it was to end
// anyway. Its faults are ReadAPIKey's, fault.Invalid for an overlap that is
// negative or over LongestOverlap, fault.Conflict for a key that has ended or
// was rotated before (api_key_ended), and the caller's AllowGrant and AllowExpiry.
func (v *Verifier) RotateAPIKey(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID, overlap time.Duration, by Principal) (APIKey, secret.Key, error) {
	if overlap < 0 || overlap > LongestOverlap {
		return APIKey{}, secret.Key{}, fault.Invalid("The overlap is not valid.", fault.Field{
			Field: "overlap_seconds", Code: "out_of_range",
			Detail: fmt.Sprintf("The old key lives on for 0 to %d seconds.", int(LongestOverlap/time.Second)),
		})
	}
	old, err := ReadAPIKey(ctx, tx, tenant, id)
	if err != nil {
		return APIKey{}, secret.Key{}, err
	}
	if err := errors.Join(by.AllowGrant(old.Scopes, tenant.UUID() == OperatorID), by.AllowExpiry(old.ExpiresAt)); err != nil {
		return APIKey{}, secret.Key{}, err
	}
	ended, err := tx.Exec(ctx, `
		UPDATE app.api_keys
		   SET expires_at = least(expires_at, now() + make_interval(secs => $3)), rotated_at = now()
		 WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL AND rotated_at IS NULL AND (expires_at IS NULL OR expires_at > now())`,
		tenant.UUID(), id, overlap.Seconds())
	switch {
	case err != nil:
		return APIKey{}, secret.Key{}, fmt.Errorf("end API key %s: %w", id, err)
	case ended.RowsAffected() == 0:
		return APIKey{}, secret.Key{}, fault.Conflict("api_key_ended", "The API key was rotated or revoked, or has expired. Rotate its successor, or make another.")
	}
	return v.CreateAPIKey(ctx, tx, tenant, old.Name, old.Scopes, old.ExpiresAt, by.By())
}

func oneAPIKey(id uuid.UUID, row pgx.Row) (APIKey, error) {
	k, err := scanAPIKey(row)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return APIKey{}, fault.NotFound("not_found", "There is no such API key.")
	case err != nil:
		return APIKey{}, fmt.Errorf("API key %s: %w", id, err)
	}
	return k, nil
}

func scanAPIKey(row pgx.Row) (APIKey, error) {
	var k APIKey
	err := row.Scan(&k.ID, &k.Name, &k.Scopes, &k.Hint, &k.CreatedBy, &k.CreatedAt, &k.ExpiresAt, &k.RotatedAt, &k.RevokedAt, &k.LastUsedAt)
	return k, err
}
