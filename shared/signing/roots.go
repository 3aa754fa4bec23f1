package signing

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// RootSigner makes what signs SHA-256 digests with a version of the root key, whose public half is this.
type RootSigner func(ctx context.Context, version string, public *ecdsa.PublicKey) crypto.Signer

// Roots sign what no receipt key may: licence files and revocation lists. Each signature is a call of Cloud KMS. The
// database must be that of a role that may read public keys. It is safe for concurrent use.
type Roots struct {
	db     *tenancy.DB
	signer RootSigner
}

// NewRoots signs with the roots that the database knows.
func NewRoots(db *tenancy.DB, signer RootSigner) *Roots { return &Roots{db: db, signer: signer} }

// Sign makes a compact JWS of a type, signed by the active root; its chain is the certificates of that root, back to the
// oldest. When there is no active root, or Cloud KMS does not sign, it answers fault.Unavailable.
func (r *Roots) Sign(ctx context.Context, typ string, claims json.Marshaler) (text string, err error) {
	root, err := r.active(ctx)
	if err != nil {
		return "", err
	}
	return r.sign(ctx, root, typ, claims)
}

// root is a root that signs.
type root struct {
	id, version string
	public      *ecdsa.PublicKey
	chain       [][]byte
}

var errNoRoot = errors.New("there is no active root")

func (r *Roots) active(ctx context.Context) (*root, error) {
	var found root
	var der []byte
	err := r.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`
			SELECT kid, kms_version, public_key
			  FROM app.signing_keys
			 WHERE kind = 'root' AND activated_at IS NOT NULL AND retired_at IS NULL AND revoked_at IS NULL`,
		).QueryRow(func(row pgx.Row) error { return row.Scan(&found.id, &found.version, &der) })
		b.Queue(`
			WITH RECURSIVE chain AS (
			    SELECT kid, certificate, issuer_kid, 0 AS place
			      FROM app.signing_keys
			     WHERE kind = 'root' AND activated_at IS NOT NULL AND retired_at IS NULL AND revoked_at IS NULL
			    UNION ALL
			    SELECT k.kid, k.certificate, k.issuer_kid, c.place + 1
			      FROM chain c JOIN app.signing_keys k ON k.kid = c.issuer_kid
			     WHERE c.place < 16)
			SELECT certificate
			  FROM chain
			 WHERE certificate IS NOT NULL
			 ORDER BY place`,
		).Query(func(rows pgx.Rows) (err error) {
			found.chain, err = pgx.CollectRows(rows, pgx.RowTo[[]byte])
			return err
		})
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fault.Unavailable(errNoRoot)
	case err != nil:
		return nil, fmt.Errorf("read the active root: %w", err)
	}
	if found.public, err = ParsePublic(der); err != nil {
		return nil, fmt.Errorf("read root %s: %w", found.id, err)
	}
	return &found, nil
}

func (r *Roots) sign(ctx context.Context, by *root, typ string, claims json.Marshaler) (string, error) {
	header, err := receipt.EncodeHeader(typ, by.id, by.chain...)
	if err != nil {
		return "", err
	}
	text, err := receipt.Sign(header, claims, r.signer(ctx, by.version, by.public))
	if err != nil {
		return "", fault.Unavailable(fmt.Errorf("sign with root %s: %w", by.id, err))
	}
	return text, nil
}

// ParsePublic reads a public key as it is kept: SubjectPublicKeyInfo, DER.
func ParsePublic(der []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("read a public key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("read a public key: it is not P-256")
	}
	return key, nil
}

// PinnedRoots are the roots that an application is built with, in PEM: the active one and the one that follows it.
func PinnedRoots(ctx context.Context, db *tenancy.DB) (text []byte, err error) {
	var roots [][]byte
	err = db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`
			SELECT public_key
			  FROM app.signing_keys
			 WHERE kind = 'root' AND published_at IS NOT NULL AND retired_at IS NULL AND revoked_at IS NULL
			 ORDER BY activated_at NULLS LAST, published_at`,
		).Query(func(rows pgx.Rows) (err error) {
			roots, err = pgx.CollectRows(rows, pgx.RowTo[[]byte])
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the roots: %w", err)
	}
	for _, der := range roots {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	return text, nil
}
