// Package receipt is the format of what Usher signs for clients to believe
// offline, and its verification: receipts, licence files and revocation lists,
// the keys that sign them, and the certificates that vouch for those keys.
//
// There is one algorithm, ES256, for every type: none is negotiated. A root key
// signs certificates, licence files and revocation lists; a receipt key, which
// lives for a day, signs receipts and nothing else.
//
// The package needs the standard library alone, and is linked into programs that
// are not ours. It must not know how keys are kept, when they are replaced, or
// where documents come from: it makes no request and holds no private key.
package receipt

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

// Algorithm is the "alg" of everything that is signed.
const Algorithm = "ES256"

// The "typ" of what is signed, so that nothing passes for another kind.
const (
	TypeReceipt     = "usher-receipt+jwt"
	TypeLicenseFile = "usher-license+jwt"
	TypeRevocations = "usher-revocations+jwt"
)

// Ahead is how far the clock of a client may be behind the issuer's.
const Ahead = 5 * time.Minute

// Longest is the longest promise of a receipt. A receipt key in wrong hands can
// date a receipt back into its window, but nobody believes that one for longer
// than this after the window's end.
const Longest = 168 * time.Hour

// Receipt is a statement for a client to verify offline: this licence, on this
// hardware, until then. With a session it says who sits; without one it proves
// entitlement and permits no seat where the licence counts seats.
//
// Its JSON is its claims.
type Receipt struct {
	// Issuer is the public base URL of the deployment.
	Issuer  string
	ID      string
	License string
	Tenant  string
	// Product is the audience.
	Product string
	// IssuedAt is by the store's clock, in whole seconds once signed.
	IssuedAt time.Time
	// OfflineUntil is the end of what the receipt promises, in milliseconds once
	// signed: at most Longest after IssuedAt. It expires at the second before or at it.
	OfflineUntil time.Time
	// Session and Seat are zero in a receipt that names none.
	Session string
	Seat    int
	// HardwareHash is HashHardware of the device.
	HardwareHash string
	Plan         string
	Features     []string
	// Versions is a range such as ">=2.0 <4.0".
	Versions string
	// Nonce is the client's own, returned; "" is none.
	Nonce string
	// RevocationsVersion is the version of the revocation list that the issuer knew of.
	RevocationsVersion int64
}

// LicenseFile is a statement for a machine that never asks: it holds a seat of
// its licence until it expires. Its JSON is its claims.
type LicenseFile struct {
	Issuer  string
	ID      string
	License string
	Tenant  string
	// Product is the audience.
	Product string
	// IssuedAt and ExpiresAt are in whole seconds once signed.
	IssuedAt, ExpiresAt time.Time
	Session             string
	Seat                int
	// HardwareHash is HashHardware of the device.
	HardwareHash string
	Plan         string
	Features     []string
	// Versions is a range such as ">=2.0 <4.0".
	Versions string
}

// HashHardware is how a receipt names a device: the unpadded base64url of the
// SHA-256 of its hardware id, which a client computes for itself to compare.
func HashHardware(hardwareID string) string {
	sum := sha256.Sum256([]byte(hardwareID))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// claims is the JSON of receipts and licence files.
type claims struct {
	Issuer       string   `json:"iss"`
	License      string   `json:"sub"`
	Product      string   `json:"aud"`
	IssuedAt     int64    `json:"iat"`
	Expires      int64    `json:"exp"`
	ID           string   `json:"jti"`
	Tenant       string   `json:"tenant_id"`
	Session      string   `json:"session_id,omitempty"`
	Seat         int      `json:"seat_no,omitempty"`
	HardwareHash string   `json:"hardware_id"`
	Plan         string   `json:"plan"`
	Features     []string `json:"features"`
	Versions     string   `json:"versions"`
}

// receiptClaims is what a receipt says beyond a licence file.
type receiptClaims struct {
	claims

	OfflineUntil       string `json:"offline_until"`
	Nonce              string `json:"nonce,omitempty"`
	RevocationsVersion int64  `json:"revocations_version"`
}

// timeLayout is how the contract writes times.
const timeLayout = "2006-01-02T15:04:05.000Z"

// MarshalJSON writes the receipt's claims. Its "exp" is OfflineUntil rounded down
// to the second, so that it never outlives what it promises.
func (r Receipt) MarshalJSON() ([]byte, error) {
	return json.Marshal(receiptClaims{
		claims: claims{
			Issuer: r.Issuer, License: r.License, Product: r.Product, IssuedAt: r.IssuedAt.Unix(), Expires: r.OfflineUntil.Unix(),
			ID: r.ID, Tenant: r.Tenant, Session: r.Session, Seat: r.Seat, HardwareHash: r.HardwareHash,
			Plan: r.Plan, Features: listed(r.Features), Versions: r.Versions,
		},
		OfflineUntil: r.OfflineUntil.UTC().Truncate(time.Millisecond).Format(timeLayout),
		Nonce:        r.Nonce, RevocationsVersion: r.RevocationsVersion,
	})
}

// UnmarshalJSON reads a receipt's claims. It refuses those whose "exp" and
// "offline_until" contradict each other.
func (r *Receipt) UnmarshalJSON(text []byte) error {
	var c receiptClaims
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	until, err := time.Parse(timeLayout, c.OfflineUntil)
	if err != nil {
		return fmt.Errorf("offline_until is no time: %w", err)
	}
	if until.Unix() != c.Expires {
		return fmt.Errorf("exp %d is not offline_until %s", c.Expires, c.OfflineUntil)
	}
	if err := c.complete(); err != nil {
		return err
	}
	*r = Receipt{
		Issuer: c.Issuer, ID: c.ID, License: c.License, Tenant: c.Tenant, Product: c.Product,
		IssuedAt: time.Unix(c.IssuedAt, 0).UTC(), OfflineUntil: until, Session: c.Session, Seat: c.Seat,
		HardwareHash: c.HardwareHash, Plan: c.Plan, Features: c.Features, Versions: c.Versions,
		Nonce: c.Nonce, RevocationsVersion: c.RevocationsVersion,
	}
	return nil
}

// MarshalJSON writes the licence file's claims.
func (l LicenseFile) MarshalJSON() ([]byte, error) {
	return json.Marshal(claims{
		Issuer: l.Issuer, License: l.License, Product: l.Product, IssuedAt: l.IssuedAt.Unix(), Expires: l.ExpiresAt.Unix(),
		ID: l.ID, Tenant: l.Tenant, Session: l.Session, Seat: l.Seat, HardwareHash: l.HardwareHash,
		Plan: l.Plan, Features: listed(l.Features), Versions: l.Versions,
	})
}

// UnmarshalJSON reads a licence file's claims.
func (l *LicenseFile) UnmarshalJSON(text []byte) error {
	var c claims
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	if err := c.complete(); err != nil {
		return err
	}
	*l = LicenseFile{
		Issuer: c.Issuer, ID: c.ID, License: c.License, Tenant: c.Tenant, Product: c.Product,
		IssuedAt: time.Unix(c.IssuedAt, 0).UTC(), ExpiresAt: time.Unix(c.Expires, 0).UTC(), Session: c.Session, Seat: c.Seat,
		HardwareHash: c.HardwareHash, Plan: c.Plan, Features: c.Features, Versions: c.Versions,
	}
	return nil
}

// complete says which of the claims that are always there is not.
func (c *claims) complete() error {
	for _, claim := range [...]struct{ name, value string }{
		{"sub", c.License}, {"aud", c.Product}, {"jti", c.ID}, {"hardware_id", c.HardwareHash},
	} {
		if claim.value == "" {
			return fmt.Errorf("there is no %s", claim.name)
		}
	}
	if c.IssuedAt == 0 || c.Expires == 0 {
		return fmt.Errorf("iat %d and exp %d are not both set", c.IssuedAt, c.Expires)
	}
	return nil
}

// listed is the list that JSON writes as [] and not as null.
func listed(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
