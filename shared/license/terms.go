package license

import (
	"fmt"
	"slices"
	"time"

	"github.com/coditect/usher/shared/fault"
)

// LongestTTL is the longest lease that may be sold.
const LongestTTL = 24 * time.Hour

// The bounds of what may be sold; the database holds the same.
const (
	// mostSeats bounds the seats and overdraft of a licence together. All its open sessions are given to Redis by one script
	// when its pool is rebuilt, which must be far from the seat package's deadlines: for 100,000 that took 1.6 s of 5 s,
	// with reading the rows 2.0 s of 10 s (BenchmarkRebuild there, on a busy machine of two processors).
	mostSeats    = 100_000
	mostDevices  = 1_000_000
	mostFeatures = 200
	mostHardware = 10_000
	longestText  = 255
)

// Terms is everything about a licence that the operator decides.
type Terms struct {
	Plan                     string
	MaxSeats, OverdraftSeats int
	// BorrowReserve is the low-water mark of borrowed seats.
	BorrowReserve int
	// TTL is the life of a lease, in whole seconds.
	TTL     time.Duration
	SeatPer string
	// Features, Versions, MaxDevices and AllowedHardware limit nothing when empty or zero,
	// but for Features: a licence without features includes none.
	Features                        []string
	Versions                        string
	MaxDevices                      int
	AllowedHardware                 []string
	StartsAt, ExpiresAt, GraceUntil *time.Time
	// OnTrial says that it is a trial until ExpiresAt.
	OnTrial bool
}

// Terms are the plan's defaults, to be changed before a licence is made of them.
func (p *Plan) Terms() Terms {
	return Terms{
		Plan: p.Code, MaxSeats: p.MaxSeats, OverdraftSeats: p.OverdraftSeats, BorrowReserve: p.BorrowReserve, TTL: p.TTL, SeatPer: p.SeatPer,
		Features: slices.Clone(p.Features), Versions: p.Versions, MaxDevices: p.MaxDevices,
	}
}

// Terms are the licence's as they stand, to be changed.
func (l *License) Terms() Terms {
	return Terms{
		Plan: l.Plan, MaxSeats: l.MaxSeats, OverdraftSeats: l.OverdraftSeats, BorrowReserve: l.BorrowReserve, TTL: l.TTL, SeatPer: l.SeatPer,
		Features: slices.Clone(l.Features), Versions: l.Versions, MaxDevices: l.MaxDevices,
		AllowedHardware: slices.Clone(l.AllowedHardware),
		StartsAt:        l.StartsAt, ExpiresAt: l.ExpiresAt, GraceUntil: l.GraceUntil, OnTrial: l.OnTrial,
	}
}

// Faults is all that is wrong with the terms, by the names that the fields have
// in a request; nil is nothing. ShortestTTL is the shortest lease that may be sold.
func (t *Terms) Faults(shortestTTL time.Duration) []fault.Field {
	faults := limitFaults(t.MaxSeats, t.OverdraftSeats, t.BorrowReserve, t.TTL, t.SeatPer, t.Features, t.Versions, t.MaxDevices, shortestTTL)
	if len(t.AllowedHardware) > mostHardware {
		faults = append(faults, fault.Field{Field: "allowed_hardware", Code: "too_long", Detail: fmt.Sprintf("At most %d hardware ids can be listed.", mostHardware)})
	}
	faults = append(faults, textFaults("allowed_hardware", t.AllowedHardware)...)
	if t.StartsAt != nil && t.ExpiresAt != nil && !t.StartsAt.Before(*t.ExpiresAt) {
		faults = append(faults, fault.Field{Field: "expires_at", Code: "out_of_range", Detail: "The licence must expire after it starts."})
	}
	if t.GraceUntil != nil {
		switch {
		case t.ExpiresAt == nil:
			faults = append(faults, fault.Field{Field: "grace_until", Code: "not_allowed", Detail: "There is no grace for a licence that does not expire."})
		case t.GraceUntil.Before(*t.ExpiresAt):
			faults = append(faults, fault.Field{Field: "grace_until", Code: "out_of_range", Detail: "Grace must not end before the licence expires."})
		}
	}
	return faults
}

// limitFaults is what a licence's terms and a plan's defaults have in common.
func limitFaults(maxSeats, overdraft, borrowReserve int, ttl time.Duration, seatPer string, features []string, versions string, maxDevices int, shortestTTL time.Duration) []fault.Field {
	var faults []fault.Field
	wrong := func(field, code, format string, args ...any) {
		faults = append(faults, fault.Field{Field: field, Code: code, Detail: fmt.Sprintf(format, args...)})
	}
	if maxSeats < 1 || maxSeats > mostSeats {
		wrong("max_seats", "out_of_range", "The number of seats is from 1 to %d.", mostSeats)
	}
	if overdraft < 0 || overdraft > mostSeats-min(maxSeats, mostSeats) {
		wrong("overdraft_seats", "out_of_range", "The number of overdraft seats is from 0, and at most %d with the other seats.", mostSeats)
	}
	if borrowReserve < 0 || borrowReserve > mostSeats {
		wrong("borrow_reserve_seats", "out_of_range", "The number of seats that are not borrowed is from 0 to %d.", mostSeats)
	}
	if ttl < shortestTTL || ttl > LongestTTL || ttl%time.Second != 0 {
		wrong("ttl_seconds", "out_of_range", "A lease is from %d to %d seconds long.", int(shortestTTL/time.Second), int(LongestTTL/time.Second))
	}
	if !slices.Contains([]string{PerDevice, PerUser, PerInstance}, seatPer) {
		wrong("seat_per", "not_allowed", "A seat is held per device, user or instance.")
	}
	if len(features) > mostFeatures {
		wrong("features", "too_long", "At most %d features can be listed.", mostFeatures)
	}
	faults = append(faults, textFaults("features", features)...)
	if versions != "" {
		if _, err := ParseRange(versions); err != nil {
			wrong("versions", "bad_format", "The versions are a range such as >=2.0 <4.0, of at most %d characters.", maxRange)
		}
	}
	if maxDevices < 0 || maxDevices > mostDevices {
		wrong("max_devices", "out_of_range", "The number of devices is from 1 to %d.", mostDevices)
	}
	return faults
}

// textFaults is what is wrong with the members of a list of names.
func textFaults(field string, list []string) []fault.Field {
	var faults []fault.Field
	seen := make(map[string]bool, len(list))
	for i, text := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case text == "":
			faults = append(faults, fault.Field{Field: at, Code: "too_short", Detail: "It must not be empty."})
		case len([]rune(text)) > longestText:
			faults = append(faults, fault.Field{Field: at, Code: "too_long", Detail: fmt.Sprintf("It has at most %d characters.", longestText)})
		case seen[text]:
			faults = append(faults, fault.Field{Field: at, Code: "not_allowed", Detail: "It is listed before."})
		}
		seen[text] = true
	}
	return faults
}
