package license

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/sync/singleflight"

	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

// ErrUnknownKey says that a licence key opens nothing: it was never made, its
// overlap after a rotation is over, or it is no key at all.
var ErrUnknownKey = errors.New("unknown licence key")

// DirectoryConfig says how keys are recognised and how long facts are kept.
type DirectoryConfig struct {
	// Peppers hash licence keys: "2:base64,1:base64", the first for new keys.
	Peppers secret.Peppers `env:"LICENSE_KEY_PEPPERS,required"`
	// CacheSeconds is how long a found licence is answered from memory; 0 is not at all.
	CacheSeconds int `env:"LICENSE_CACHE_SECONDS" envDefault:"5"`
	// CacheSize is how many licences are kept in memory.
	CacheSize int `env:"LICENSE_CACHE_SIZE" envDefault:"10000"`
}

// Directory finds what a licence key opens. Found licences are kept in memory
// for seconds, unknown keys never. Look-ups of one key at one time are one
// look-up. It is safe for concurrent use.
type Directory struct {
	db      *tenancy.DB
	peppers secret.Peppers
	keep    time.Duration
	now     func() time.Time

	// known are facts by the key's hash under the pepper in use.
	known   *lru.Cache[keyHash, *Facts]
	flights singleflight.Group
}

type keyHash [32]byte

// Facts is a licence as it was at one moment. Several requests share one Facts,
// so nobody may change it.
type Facts struct {
	License License
	// keyUntil is when the key that found it ends; zero is never.
	keyUntil time.Time
	// storeTime is the database's clock, readAt this function's, both when the answer came.
	storeTime, readAt time.Time
}

// Now is the store's time when this function's clock shows clock, so that a
// function whose clock is wrong still judges dates by the store's.
func (f *Facts) Now(clock time.Time) time.Time { return f.storeTime.Add(clock.Sub(f.readAt)) }

// stillOpen is whether the key that found the facts is good, at what this function's clock shows.
func (f *Facts) stillOpen(clock time.Time) bool {
	return f.keyUntil.IsZero() || f.Now(clock).Before(f.keyUntil)
}

// OpenDirectory reads DirectoryConfig from the environment.
func OpenDirectory(getenv func(string) string, db *tenancy.DB) (*Directory, error) {
	var cfg DirectoryConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	return NewDirectory(cfg, db, time.Now)
}

// NewDirectory makes a Directory. Now is this function's clock.
func NewDirectory(cfg DirectoryConfig, db *tenancy.DB, now func() time.Time) (*Directory, error) {
	if cfg.CacheSeconds < 0 {
		return nil, errors.New("LICENSE_CACHE_SECONDS: cannot be negative")
	}
	known, err := lru.New[keyHash, *Facts](cfg.CacheSize)
	if err != nil {
		return nil, errors.New("LICENSE_CACHE_SIZE: must be positive")
	}
	return &Directory{db: db, peppers: cfg.Peppers, keep: time.Duration(cfg.CacheSeconds) * time.Second, now: now, known: known}, nil
}

// Find answers what a key opens, as people write it. A key that opens nothing
// is ErrUnknownKey, after the same look-ups as one that does, however it is
// written. When the database is out the error is a fault.Unavailable.
func (d *Directory) Find(ctx context.Context, key string) (*Facts, error) {
	return d.FindAtLeast(ctx, key, 0)
}

// FindAtLeast is Find for a caller that has heard of a version of the licence:
// facts in memory that are older are read again.
func (d *Directory) FindAtLeast(ctx context.Context, key string, version int64) (*Facts, error) {
	hashes := d.hashes(key)
	hash := keyHash(hashes[0].MAC)
	if facts, ok := d.known.Get(hash); ok && facts.License.PoolVersion >= version {
		if now := d.now(); now.Sub(facts.readAt).Abs() < d.keep && facts.stillOpen(now) {
			return facts, nil
		}
	}
	facts, shared, err := d.readOnce(ctx, hash, hashes)
	if err == nil && shared && facts.License.PoolVersion < version {
		// The look-up that was joined may have begun before the change; the next one begins now.
		facts, _, err = d.readOnce(ctx, hash, hashes)
	}
	return facts, err
}

// Devices answers whether the hardware has taken a seat of the licence before,
// and how many devices have. It asks only where the licence limits devices.
func (d *Directory) Devices(ctx context.Context, l *License, hardware string) (known bool, devices int, err error) {
	if l.MaxDevices == 0 {
		return false, 0, nil
	}
	err = d.db.Batch(ctx, l.Tenant, func(b *tenancy.Batch) {
		b.Queue(`
			SELECT count(*), coalesce(bool_or(hardware_id = $3), false)
			  FROM app.devices
			 WHERE tenant_id = $1 AND license_id = $2`,
			l.Tenant.UUID(), l.ID, hardware,
		).QueryRow(func(row pgx.Row) error { return row.Scan(&devices, &known) })
	})
	if err != nil {
		return false, 0, fmt.Errorf("count the devices of license %s: %w", l.ID, err)
	}
	return known, devices, nil
}

// hashes are what a key may be stored as. A text that is no key is looked for
// as well, in vain, so that a guess tells nothing by how long its answer takes.
func (d *Directory) hashes(text string) []secret.Hash {
	key, err := ParseKey(text)
	if err != nil {
		return d.peppers.HashesOfText(text)
	}
	return d.peppers.Hashes(key)
}

// readOnce is read, joined by everybody who asks for the same key meanwhile. A
// caller who goes away does not take the others' answer along.
func (d *Directory) readOnce(ctx context.Context, hash keyHash, hashes []secret.Hash) (facts *Facts, shared bool, err error) {
	done := d.flights.DoChan(string(hash[:]), func() (any, error) { return d.read(context.WithoutCancel(ctx), hash, hashes) })
	select {
	case <-ctx.Done():
		return nil, false, fmt.Errorf("find a licence key: %w", ctx.Err())
	case result := <-done:
		facts, _ = result.Val.(*Facts)
		return facts, result.Shared, result.Err
	}
}

func (d *Directory) read(ctx context.Context, hash keyHash, hashes []secret.Hash) (*Facts, error) {
	tenant, license, until, err := d.resolve(ctx, secret.MACs(hashes))
	if err != nil {
		return nil, fmt.Errorf("find a licence key: %w", err)
	}
	// For an unknown key this asks for no licence on nobody's behalf.
	facts := &Facts{keyUntil: until}
	err = d.db.Batch(ctx, tenant, func(b *tenancy.Batch) {
		b.Queue(`SELECT clock_timestamp(),`+columns+`
			  FROM app.licenses l JOIN app.tenants t ON t.id = l.tenant_id
			 WHERE l.tenant_id = $1 AND l.id = $2`,
			tenant.UUID(), license,
		).QueryRow(func(row pgx.Row) error {
			return row.Scan(append([]any{&facts.storeTime}, facts.License.fields()...)...)
		})
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, ErrUnknownKey
	case err != nil:
		return nil, fmt.Errorf("read license %s: %w", license, err)
	}
	facts.License.Tenant = tenant
	facts.readAt = d.now()
	if d.keep > 0 {
		d.known.Add(hash, facts)
	}
	return facts, nil
}

// resolve answers whose key it is, and until when: zero values for an unknown one.
func (d *Directory) resolve(ctx context.Context, macs [][]byte) (tenancy.ID, uuid.UUID, time.Time, error) {
	var tenant, license uuid.UUID
	var until *time.Time
	err := d.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`SELECT tenant_id, license_id, expires_at FROM app.find_license_key($1)`, macs).
			QueryRow(func(row pgx.Row) error { return row.Scan(&tenant, &license, &until) })
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return tenancy.ID{}, uuid.Nil, time.Time{}, err
	}
	if until == nil {
		until = new(time.Time)
	}
	return tenancy.Verified(tenant), license, *until, nil
}

// columns are what License.fields reads, of licenses l and tenants t.
const columns = `
	l.id, l.product_code, l.plan_code, l.status, coalesce(l.status_reason, ''), coalesce(l.status_by, ''), t.status,
	l.max_seats, l.overdraft_seats, l.borrow_reserve_seats, l.ttl_seconds, l.seat_per, l.features, l.versions, coalesce(l.max_devices, 0),
	l.allowed_hardware, l.offline_grace_seconds, l.drain_seconds, l.starts_at, l.expires_at, l.grace_until, l.on_trial,
	l.pool_version, l.created_at, l.updated_at`

// fields are where the columns go.
func (l *License) fields() []any {
	return []any{
		&l.ID, &l.Product, &l.Plan, &l.Status, &l.StatusReason, &l.StatusBy, &l.TenantStatus,
		&l.MaxSeats, &l.OverdraftSeats, &l.BorrowReserve,
		seconds{&l.TTL},
		&l.SeatPer, &l.Features, &l.Versions, &l.MaxDevices,
		&l.AllowedHardware,
		seconds{&l.OfflineGrace},
		seconds{&l.Drain},
		&l.StartsAt, &l.ExpiresAt, &l.GraceUntil, &l.OnTrial,
		&l.PoolVersion, &l.CreatedAt, &l.UpdatedAt,
	}
}

// seconds reads whole seconds into a duration.
type seconds struct{ d *time.Duration }

// ScanInt64 takes a number of seconds; the columns cannot be NULL.
func (s seconds) ScanInt64(v pgtype.Int8) error {
	if !v.Valid {
		return errors.New("a duration is NULL")
	}
	*s.d = time.Duration(v.Int64) * time.Second
	return nil
}
