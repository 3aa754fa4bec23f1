package license

import (
	"time"

	"github.com/google/uuid"
)

// Snapshot is a licence as other systems hear of it: how it was at a moment. Who sits on it is not part of it.
type Snapshot struct {
	ID                 uuid.UUID  `json:"id"`
	TenantID           uuid.UUID  `json:"tenant_id"`
	Product            string     `json:"product"`
	Plan               string     `json:"plan"`
	Status             string     `json:"status"`
	StatusReason       *string    `json:"status_reason"`
	EffectiveStatus    string     `json:"effective_status"`
	MaxSeats           int        `json:"max_seats"`
	OverdraftSeats     int        `json:"overdraft_seats"`
	BorrowReserveSeats int        `json:"borrow_reserve_seats"`
	TTLSeconds         int        `json:"ttl_seconds"`
	SeatPer            string     `json:"seat_per"`
	Features           []string   `json:"features"`
	Versions           string     `json:"versions"`
	MaxDevices         *int       `json:"max_devices"`
	AllowedHardware    []string   `json:"allowed_hardware"`
	StartsAt           *time.Time `json:"starts_at"`
	ExpiresAt          *time.Time `json:"expires_at"`
	GraceUntil         *time.Time `json:"grace_until"`
	OnTrial            bool       `json:"on_trial"`
	KeyHint            string     `json:"key_hint"`
	CreatedAt          time.Time  `json:"created_at"`
	UpdatedAt          time.Time  `json:"updated_at"`
}

// Snapshot is the licence as it is at the time. Its times are UTC, to the millisecond.
func (l *License) Snapshot(now time.Time) Snapshot {
	return Snapshot{
		ID: l.ID, TenantID: l.Tenant.UUID(), Product: l.Product, Plan: l.Plan, Status: l.Status, StatusReason: unlessZero(l.StatusReason),
		EffectiveStatus: l.EffectiveStatus(now), MaxSeats: l.MaxSeats, OverdraftSeats: l.OverdraftSeats, BorrowReserveSeats: l.BorrowReserve,
		TTLSeconds: inSeconds(l.TTL), SeatPer: l.SeatPer, Features: l.Features, Versions: l.Versions, MaxDevices: unlessZero(l.MaxDevices),
		AllowedHardware: l.AllowedHardware, StartsAt: toMillis(l.StartsAt), ExpiresAt: toMillis(l.ExpiresAt), GraceUntil: toMillis(l.GraceUntil), OnTrial: l.OnTrial,
		KeyHint: l.KeyHint, CreatedAt: *toMillis(&l.CreatedAt), UpdatedAt: *toMillis(&l.UpdatedAt),
	}
}

func unlessZero[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func toMillis(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	return new(t.UTC().Truncate(time.Millisecond))
}
