package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/config"
)

// receiptType is the "typ" of a receipt, so that no other JWS under the same key passes for one.
const receiptType = "usher-receipt+jwt"

// ErrReceipt says that a text is no receipt signed by a key of the set.
var ErrReceipt = errors.New("not a receipt of this service")

// Receipt is a statement for a client to verify offline: this licence, on this
// hardware, until then. With a session it says who sits; without one it proves
// entitlement and permits no seat where the licence counts seats.
type Receipt struct {
	// Issuer and ID ("jti") are filled in by Sign.
	Issuer, ID string
	License    uuid.UUID
	// Product is the audience.
	Product string
	Tenant  uuid.UUID
	// IssuedAt and OfflineUntil are by the store's clock. OfflineUntil is the end of
	// the lease or the borrow that the receipt names, or of the offline grace, and
	// the receipt expires then.
	IssuedAt, OfflineUntil time.Time
	// Session and Seat are zero in a receipt that names none.
	Session uuid.UUID
	Seat    int
	// HardwareHash is HashHardware of the device.
	HardwareHash string
	Plan         string
	Features     []string
	Versions     string
	// Nonce is the client's own, returned; "" is none.
	Nonce string
	// RevocationsVersion is the version of the revocations list that the receipt knows of.
	RevocationsVersion int64
}

// receiptClaims is a receipt's JSON.
type receiptClaims struct {
	Issuer             string   `json:"iss"`
	License            string   `json:"sub"`
	Product            string   `json:"aud"`
	IssuedAt           int64    `json:"iat"`
	Expires            int64    `json:"exp"`
	ID                 string   `json:"jti"`
	Tenant             string   `json:"tenant_id"`
	Session            string   `json:"session_id,omitempty"`
	Seat               int      `json:"seat_no,omitempty"`
	HardwareHash       string   `json:"hardware_id"`
	Plan               string   `json:"plan"`
	Features           []string `json:"features"`
	Versions           string   `json:"versions"`
	OfflineUntil       string   `json:"offline_until"`
	Nonce              string   `json:"nonce,omitempty"`
	RevocationsVersion int64    `json:"revocations_version"`
}

// timeLayout is how the contract writes times.
const timeLayout = "2006-01-02T15:04:05.000Z"

// HashHardware is how a receipt names a device: the unpadded base64url of the
// SHA-256 of its hardware id, which a client computes for itself to compare.
func HashHardware(hardwareID string) string {
	sum := sha256.Sum256([]byte(hardwareID))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// SignerConfig says who signs receipts.
type SignerConfig struct {
	// Key is the private key: PEM, PKCS #8, P-256 or Ed25519.
	Key config.Secret `env:"RECEIPT_SIGNING_KEY,required"`
	// Issuer is the "iss" of receipts: the public base URL of the deployment.
	Issuer string `env:"RECEIPT_ISSUER,required"`
}

// Signer signs receipts: ES256 with a P-256 key, EdDSA with an Ed25519 key. It
// is safe for concurrent use if its key is.
type Signer struct {
	issuer string
	public jose.JSONWebKey
	signer jose.Signer
}

// OpenSigner reads SignerConfig from the environment and signs with its key.
func OpenSigner(getenv func(string) string) (*Signer, error) {
	var cfg SignerConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	key, err := parsePrivateKey([]byte(cfg.Key.Reveal()))
	if err != nil {
		return nil, keyFault("RECEIPT_SIGNING_KEY", err)
	}
	signer, err := NewSigner(key, cfg.Issuer)
	if err != nil {
		return nil, keyFault("RECEIPT_SIGNING_KEY", err)
	}
	return signer, nil
}

// keyFault says what is wrong with the key that a variable holds.
func keyFault(variable string, err error) error {
	return &config.Fault{Variable: variable, Problem: "is " + err.Error()}
}

// NewSigner signs in an issuer's name with any key that can: one in memory, or
// one that never leaves its vault.
func NewSigner(key crypto.Signer, issuer string) (*Signer, error) {
	public, err := publicJWK(key.Public())
	if err != nil {
		return nil, err
	}
	opaque := cryptosigner.Opaque(key)
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.SignatureAlgorithm(public.Algorithm), Key: opaque},
		(&jose.SignerOptions{}).WithType(receiptType).WithHeader("kid", public.KeyID))
	if err != nil {
		return nil, fmt.Errorf("sign with key %s: %w", public.KeyID, err)
	}
	return &Signer{issuer: issuer, public: public, signer: signer}, nil
}

// Sign makes the receipt's compact JWS. Its "exp" is OfflineUntil rounded down
// to the second, so that it never outlives what it promises.
func (s *Signer) Sign(r Receipt) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("number a receipt: %w", err)
	}
	claims := receiptClaims{
		Issuer: s.issuer, ID: id.String(), License: r.License.String(), Product: r.Product, Tenant: r.Tenant.String(),
		IssuedAt: r.IssuedAt.Unix(), Expires: r.OfflineUntil.Unix(),
		OfflineUntil: r.OfflineUntil.UTC().Truncate(time.Millisecond).Format(timeLayout),
		Seat:         r.Seat, HardwareHash: r.HardwareHash, Plan: r.Plan, Features: r.Features, Versions: r.Versions,
		Nonce: r.Nonce, RevocationsVersion: r.RevocationsVersion,
	}
	if r.Session != uuid.Nil {
		claims.Session = r.Session.String()
	}
	if claims.Features == nil {
		claims.Features = []string{}
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("write a receipt of license %s: %w", r.License, err)
	}
	signed, err := s.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign a receipt of license %s: %w", r.License, err)
	}
	return signed.CompactSerialize()
}

// KeySet is a set of public keys, as published for clients.
type KeySet struct{ set jose.JSONWebKeySet }

// NewKeySet makes a set of public keys, P-256 or Ed25519, each of them once.
func NewKeySet(keys ...crypto.PublicKey) (KeySet, error) {
	var out KeySet
	for _, key := range keys {
		jwk, err := publicJWK(key)
		if err != nil {
			return KeySet{}, err
		}
		if len(out.set.Key(jwk.KeyID)) == 0 {
			out.set.Keys = append(out.set.Keys, jwk)
		}
	}
	return out, nil
}

// KeySetConfig says which public keys are published. One of the two is set.
type KeySetConfig struct {
	// PublicKeys is PEM, one or more "PUBLIC KEY" blocks: what a deployment uses, so
	// that the function that publishes keys holds none that signs.
	PublicKeys string `env:"RECEIPT_PUBLIC_KEYS"`
	// SigningKey is the private key whose public half is published, where one process does both.
	SigningKey config.Secret `env:"RECEIPT_SIGNING_KEY"`
}

// OpenKeySet reads KeySetConfig from the environment.
func OpenKeySet(getenv func(string) string) (KeySet, error) {
	var cfg KeySetConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return KeySet{}, err
	}
	switch {
	case cfg.PublicKeys != "":
		keys, err := parsePublicKeys([]byte(cfg.PublicKeys))
		if err != nil {
			return KeySet{}, keyFault("RECEIPT_PUBLIC_KEYS", err)
		}
		return keySetOf("RECEIPT_PUBLIC_KEYS", keys...)
	case cfg.SigningKey.Reveal() != "":
		key, err := parsePrivateKey([]byte(cfg.SigningKey.Reveal()))
		if err != nil {
			return KeySet{}, keyFault("RECEIPT_SIGNING_KEY", err)
		}
		return keySetOf("RECEIPT_SIGNING_KEY", key.Public())
	default:
		return KeySet{}, &config.Fault{Variable: "RECEIPT_PUBLIC_KEYS", Problem: "is required and not set"}
	}
}

// keySetOf is NewKeySet of the keys that a variable holds.
func keySetOf(variable string, keys ...crypto.PublicKey) (KeySet, error) {
	set, err := NewKeySet(keys...)
	if err != nil {
		return KeySet{}, keyFault(variable, err)
	}
	return set, nil
}

// KeySet is the signer's own public key as a set.
func (s *Signer) KeySet() KeySet {
	return KeySet{jose.JSONWebKeySet{Keys: []jose.JSONWebKey{s.public}}}
}

// ParseKeySet reads a published JSON Web Key Set. It refuses private keys and
// keys that sign no receipts.
func ParseKeySet(text []byte) (KeySet, error) {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil {
		return KeySet{}, fmt.Errorf("read a key set: %w", err)
	}
	keys := make([]crypto.PublicKey, len(set.Keys))
	for i, key := range set.Keys {
		keys[i] = key.Key
	}
	return NewKeySet(keys...)
}

// MarshalJSON writes the set as a JSON Web Key Set.
func (k KeySet) MarshalJSON() ([]byte, error) {
	set := k.set
	if set.Keys == nil {
		set.Keys = []jose.JSONWebKey{}
	}
	return json.Marshal(set)
}

// Verify reads a receipt as a client does, with the key set alone, at a time:
// its type, its key, its signature, and that it has not expired. Whose licence
// and which device it names is for the caller to compare. It answers ErrReceipt
// for everything else.
func (k KeySet) Verify(receipt string, now time.Time) (Receipt, error) {
	signed, err := jose.ParseSignedCompact(receipt, []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA})
	if err != nil || len(signed.Signatures) != 1 {
		return Receipt{}, ErrReceipt
	}
	header := signed.Signatures[0].Protected
	keys := k.set.Key(header.KeyID)
	if header.ExtraHeaders[jose.HeaderType] != receiptType || len(keys) != 1 || keys[0].Algorithm != header.Algorithm {
		return Receipt{}, ErrReceipt
	}
	payload, err := signed.Verify(keys[0])
	if err != nil {
		return Receipt{}, ErrReceipt
	}
	var c receiptClaims
	if err := json.Unmarshal(payload, &c); err != nil {
		return Receipt{}, ErrReceipt
	}
	r, err := c.receipt()
	if err != nil || !now.Before(time.Unix(c.Expires, 0)) {
		return Receipt{}, ErrReceipt
	}
	return r, nil
}

func (c *receiptClaims) receipt() (Receipt, error) {
	r := Receipt{
		Issuer: c.Issuer, ID: c.ID, Product: c.Product, IssuedAt: time.Unix(c.IssuedAt, 0).UTC(),
		Seat: c.Seat, HardwareHash: c.HardwareHash, Plan: c.Plan, Features: c.Features, Versions: c.Versions,
		Nonce: c.Nonce, RevocationsVersion: c.RevocationsVersion,
	}
	var faults [4]error
	r.License, faults[0] = uuid.Parse(c.License)
	r.Tenant, faults[1] = uuid.Parse(c.Tenant)
	r.OfflineUntil, faults[2] = time.Parse(timeLayout, c.OfflineUntil)
	if c.Session != "" {
		r.Session, faults[3] = uuid.Parse(c.Session)
	}
	return r, errors.Join(faults[:]...)
}

// publicJWK describes a public key: its algorithm follows from its type, its id is its thumbprint.
func publicJWK(key crypto.PublicKey) (jose.JSONWebKey, error) {
	jwk := jose.JSONWebKey{Key: key, Use: "sig"}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return jose.JSONWebKey{}, errors.New("a receipt key on another curve than P-256")
		}
		jwk.Algorithm = string(jose.ES256)
	case ed25519.PublicKey:
		jwk.Algorithm = string(jose.EdDSA)
	default:
		return jose.JSONWebKey{}, errors.New("a receipt key that is neither P-256 nor Ed25519")
	}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("number a receipt key: %w", err)
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	return jwk, nil
}

// parsePrivateKey reads one PEM block with a PKCS #8 key. Its errors never show it.
func parsePrivateKey(text []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("not a PEM block of type PRIVATE KEY")
	}
	if again, _ := pem.Decode(rest); again != nil {
		return nil, errors.New("more than one PEM block")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not a PKCS #8 private key")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("a private key that cannot sign")
	}
	return signer, nil
}

// parsePublicKeys reads PEM blocks with public keys.
func parsePublicKeys(text []byte) ([]crypto.PublicKey, error) {
	var keys []crypto.PublicKey
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "PUBLIC KEY" {
			return nil, errors.New("a PEM block that is not of type PUBLIC KEY")
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, errors.New("not a public key")
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("not a PEM block of type PUBLIC KEY")
	}
	return keys, nil
}
