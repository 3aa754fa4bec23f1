package receipt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// The scope of a certificate is its only URI: what its key may sign.
const (
	ScopeReceipts = "urn:usher:receipts"
	ScopeRoot     = "urn:usher:root"
)

// CertifyReceiptKey makes the certificate, in DER, by which a root vouches for a
// receipt key during a window. The root signs ECDSA with SHA-256, wherever it is.
func CertifyReceiptKey(key *ecdsa.PublicKey, notBefore, notAfter time.Time, root crypto.Signer) ([]byte, error) {
	return certify(&x509.Certificate{
		Subject:  pkix.Name{CommonName: "usher receipt key"},
		URIs:     []*url.URL{{Scheme: "urn", Opaque: "usher:receipts"}},
		KeyUsage: x509.KeyUsageDigitalSignature,
	}, key, notBefore, notAfter, root)
}

// CertifyRoot makes the certificate, in DER, by which a root vouches for a newer one.
func CertifyRoot(key *ecdsa.PublicKey, notBefore, notAfter time.Time, root crypto.Signer) ([]byte, error) {
	return certify(&x509.Certificate{
		Subject:  pkix.Name{CommonName: "usher root key"},
		URIs:     []*url.URL{{Scheme: "urn", Opaque: "usher:root"}},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA:     true,
	}, key, notBefore, notAfter, root)
}

func certify(template *x509.Certificate, key *ecdsa.PublicKey, notBefore, notAfter time.Time, root crypto.Signer) ([]byte, error) {
	authority, ok := root.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("certify a key: the root is not P-256")
	}
	subjectID, err := RawThumbprint(key)
	if err != nil {
		return nil, fmt.Errorf("certify a key: %w", err)
	}
	authorityID, err := RawThumbprint(authority)
	if err != nil {
		return nil, fmt.Errorf("certify a key: the root: %w", err)
	}
	// Named, because the library leaves it out where both names are the same: they are, of two roots.
	template.SubjectKeyId, template.AuthorityKeyId = subjectID, authorityID
	template.BasicConstraintsValid = true
	template.NotBefore, template.NotAfter = notBefore, notAfter
	template.SignatureAlgorithm = x509.ECDSAWithSHA256
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: "usher root key"}, PublicKey: authority}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, root)
	if err != nil {
		return nil, fmt.Errorf("certify key %s: %w", encoding.EncodeToString(subjectID), err)
	}
	return der, nil
}

// certificate is what a certificate says, which nobody need have signed.
type certificate struct {
	id, authority       string
	key                 *ecdsa.PublicKey
	notBefore, notAfter time.Time
	signed              *x509.Certificate
}

// parseCertificate reads a certificate of a scope.
func parseCertificate(der []byte, scope string) (*certificate, error) {
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: a certificate: %w", ErrMalformed, err)
	}
	key, ok := x.PublicKey.(*ecdsa.PublicKey)
	if !ok || x.SignatureAlgorithm != x509.ECDSAWithSHA256 || len(x.UnhandledCriticalExtensions) > 0 {
		return nil, fmt.Errorf("%w: a certificate of another kind than ours", ErrMalformed)
	}
	id, err := Thumbprint(key)
	if err != nil {
		return nil, fmt.Errorf("%w: a certificate: %w", ErrMalformed, err)
	}
	if encoding.EncodeToString(x.SubjectKeyId) != id {
		return nil, fmt.Errorf("%w: a certificate whose subject key id is not its key's", ErrMalformed)
	}
	root := scope == ScopeRoot
	usage := x509.KeyUsageDigitalSignature
	if root {
		usage |= x509.KeyUsageCertSign
	}
	if len(x.URIs) != 1 || x.URIs[0].String() != scope || x.IsCA != root || x.KeyUsage != usage {
		return nil, ErrScope
	}
	return &certificate{
		id: id, authority: encoding.EncodeToString(x.AuthorityKeyId), key: key,
		notBefore: x.NotBefore, notAfter: x.NotAfter, signed: x,
	}, nil
}

// signedBy reports whether a root signed it.
func (c *certificate) signedBy(root *ecdsa.PublicKey) bool {
	digest := sha256.Sum256(c.signed.RawTBSCertificate)
	return ecdsa.VerifyASN1(root, digest[:], c.signed.Signature)
}
