package signing

import (
	"crypto/ecdsa"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/receipt"
)

// Signer signs receipts with one receipt key, in memory. It is safe for concurrent use.
type Signer struct {
	issuer, header      string // the header is encoded, the same for each receipt
	kid                 string
	key                 *ecdsa.PrivateKey
	notBefore, notAfter time.Time
	revocations         int64
}

// NewSigner signs in an issuer's name with a receipt key, for which the first certificate of its chain vouches within a
// window. The others, in each receipt too, are those of the root that made it and of roots before that. Revocations is the
// version of the revocation list that its receipts say is known.
func NewSigner(issuer string, key *ecdsa.PrivateKey, chain [][]byte, notBefore, notAfter time.Time, revocations int64) (*Signer, error) {
	kid, err := receipt.Thumbprint(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("name a receipt key: %w", err)
	}
	header, err := receipt.EncodeHeader(receipt.TypeReceipt, kid, chain...)
	if err != nil {
		return nil, err
	}
	return &Signer{issuer, header, kid, key, notBefore, notAfter, revocations}, nil
}

// Sign makes the receipt's compact JWS. It fills in the issuer, the id and the version of the revocation list.
func (s *Signer) Sign(r receipt.Receipt) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("number a receipt: %w", err)
	}
	r.Issuer, r.ID, r.RevocationsVersion = s.issuer, id.String(), s.revocations
	text, err := receipt.Sign(s.header, r, s.key)
	if err != nil {
		return "", fmt.Errorf("sign a receipt of license %s: %w", r.License, err)
	}
	return text, nil
}

// KeyID is the "kid" of its receipts.
func (s *Signer) KeyID() string { return s.kid }

// good says whether the key may sign at a time.
func (s *Signer) good(now time.Time) bool { return !now.Before(s.notBefore) && now.Before(s.notAfter) }
