package receipt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
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
	template.SubjectKeyId = subjectID
	template.BasicConstraintsValid = true
	template.NotBefore, template.NotAfter = notBefore, notAfter
	template.SignatureAlgorithm = x509.ECDSAWithSHA256
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: "usher root key"}, SubjectKeyId: authorityID, PublicKey: authority}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, root)
	if err != nil {
		return nil, fmt.Errorf("certify key %s: %w", encoding.EncodeToString(subjectID), err)
	}
	return der, nil
}
