// Package license knows what was sold and decides whether it is good: the rules
// of validity, which are functions of values and a time, and the queries that
// read and write licences, their keys, devices and the catalogue under a
// [tenancy.Tx].
//
// The rules' answer is a list of every check, in the order of the contract's
// codes, so that a caller learns all that is wrong at once. A [Directory] finds
// the licence that a key opens before anything is known about its caller.
//
// The package must not know seats, HTTP or receipts: who sits is package seat's,
// and what is answered is the functions'.
package license

import (
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/tenancy"
)

// The stored statuses of a licence.
const (
	StatusActive    = "active"
	StatusSuspended = "suspended"
	StatusRevoked   = "revoked"
)

// What dates make of an active licence.
const (
	StatusNotStarted = "not_started"
	StatusTrialing   = "trialing"
	StatusInGrace    = "in_grace"
	StatusExpired    = "expired"
)

// License is what a tenant was sold.
type License struct {
	ID            uuid.UUID
	Tenant        tenancy.ID
	Product, Plan string
	// Status is as stored: active, suspended or revoked. StatusReason and
	// StatusBy say why and by whom, when somebody said so.
	Status, StatusReason, StatusBy string
	// TenantStatus is active or suspended: a suspended tenant's licences grant nothing.
	TenantStatus             string
	MaxSeats, OverdraftSeats int
	// BorrowReserve is the low-water mark: so many of MaxSeats are never borrowed.
	BorrowReserve int
	// TTL is the life of a lease, in whole seconds.
	TTL time.Duration
	// SeatPer says who holds a seat: device, user or instance.
	SeatPer  string
	Features []string
	// Versions is a range as ParseRange reads it; "" is every version.
	Versions string
	// MaxDevices is how many devices may ever take a seat; 0 is no limit.
	MaxDevices int
	// AllowedHardware lists the hardware ids that may use the licence; empty is every one.
	AllowedHardware []string
	// OfflineGrace is the life of a validate receipt and the longest borrow; Drain
	// is how long sessions above a reduced number of seats may go on. Whole seconds.
	OfflineGrace, Drain time.Duration
	// StartsAt, ExpiresAt and GraceUntil are nil where there is no such date.
	StartsAt, ExpiresAt, GraceUntil *time.Time
	// OnTrial says that it is a trial until ExpiresAt.
	OnTrial bool
	// PoolVersion grows with every change of the licence, its keys and its tenant's status.
	PoolVersion          int64
	CreatedAt, UpdatedAt time.Time
	// KeyHint is the first and last characters of its newest key. Only Read and List fill it in.
	KeyHint string
}

// EffectiveStatus is the stored status, or what the dates make of an active
// licence: revoked, suspended, not_started, trialing, active, in_grace or expired. It
// grants from StartsAt on and up to, not including, ExpiresAt, then until
// GraceUntil if there is one. The tenant's status is not part of it.
func (l *License) EffectiveStatus(now time.Time) string {
	switch {
	case l.Status != StatusActive:
		return l.Status
	case l.StartsAt != nil && now.Before(*l.StartsAt):
		return StatusNotStarted
	case l.ExpiresAt == nil || now.Before(*l.ExpiresAt):
		if l.OnTrial {
			return StatusTrialing
		}
		return StatusActive
	case l.GraceUntil != nil && now.Before(*l.GraceUntil):
		return StatusInGrace
	default:
		return StatusExpired
	}
}

// Grants says whether seats are to be had at all: the tenant is active, and the
// licence is active, on trial or in grace.
func (l *License) Grants(now time.Time) bool {
	if l.TenantStatus != StatusActive {
		return false
	}
	switch l.EffectiveStatus(now) {
	case StatusActive, StatusTrialing, StatusInGrace:
		return true
	default:
		return false
	}
}

// Until is when the licence stops granting as things stand: the end of its
// grace, or else of its life; nil is never.
func (l *License) Until() *time.Time {
	if l.ExpiresAt != nil && l.GraceUntil != nil && l.GraceUntil.After(*l.ExpiresAt) {
		return l.GraceUntil
	}
	return l.ExpiresAt
}
