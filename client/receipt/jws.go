package receipt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// maxSize bounds what is parsed: far beyond the largest document we sign.
const maxSize = 1 << 20

// Strict decoding refuses the texts that differ only in bits that base64 leaves unused.
var encoding = base64.RawURLEncoding.Strict()

// header is the protected header, in the order it is written.
type header struct {
	Algorithm string   `json:"alg"`
	Type      string   `json:"typ"`
	KeyID     string   `json:"kid"`
	Chain     [][]byte `json:"x5c,omitempty"` // DER; its JSON is padded base64, as RFC 7515 wants
	// Critical is refused: there is no extension that we understand.
	Critical json.RawMessage `json:"crit,omitempty"`
}

// EncodeHeader is the first part of a compact JWS: the same for everything of
// one type that one key signs. The chain is certificates in DER, the key's own
// first, and may be empty.
func EncodeHeader(typ, kid string, chain ...[]byte) (string, error) {
	text, err := json.Marshal(header{Algorithm: Algorithm, Type: typ, KeyID: kid, Chain: chain})
	if err != nil {
		return "", fmt.Errorf("write the header of key %s: %w", kid, err)
	}
	return encoding.EncodeToString(text), nil
}

// Sign makes a compact JWS of an encoded header and claims, which are a Receipt,
// a LicenseFile, Revocations, a Checkpoint or an IncidentFile. The key is an
// *ecdsa.PrivateKey, which signs without drawing random numbers (RFC 6979), or
// one in Cloud KMS. Of the two values of s that verify it writes the lower one,
// the only one that a Verifier accepts, so that a document has one text.
func Sign(header string, claims json.Marshaler, key crypto.Signer) (string, error) {
	payload, err := claims.MarshalJSON()
	if err != nil {
		return "", fmt.Errorf("write the claims: %w", err)
	}
	text := make([]byte, 0, len(header)+1+encoding.EncodedLen(len(payload))+1+encoding.EncodedLen(signatureSize))
	text = append(text, header...)
	text = append(text, '.')
	text = encoding.AppendEncode(text, payload)
	digest := sha256.Sum256(text)
	signature, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	raw, err := rawSignature(signature)
	if err != nil {
		return "", err
	}
	text = append(text, '.')
	return string(encoding.AppendEncode(text, raw[:])), nil
}

// signatureSize is that of r and s, one after the other.
const signatureSize = 64

// rawSignature is r and s of a signature as a crypto.Signer makes it, an ASN.1
// sequence of both.
func rawSignature(signature []byte) (raw [signatureSize]byte, err error) {
	var point struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(signature, &point); err != nil || len(rest) != 0 {
		return raw, fmt.Errorf("an ECDSA signature of %d bytes is no sequence of r and s", len(signature))
	}
	order := elliptic.P256().Params().N
	if point.R.Sign() <= 0 || point.S.Sign() <= 0 || point.R.Cmp(order) >= 0 || point.S.Cmp(order) >= 0 {
		return raw, errors.New("an ECDSA signature is not of P-256")
	}
	if point.S.Cmp(halfOrder) > 0 {
		point.S.Sub(order, point.S)
	}
	point.R.FillBytes(raw[:signatureSize/2])
	point.S.FillBytes(raw[signatureSize/2:])
	return raw, nil
}

var halfOrder = new(big.Int).Rsh(elliptic.P256().Params().N, 1)

// jws is a compact JWS of which nothing has been believed yet.
type jws struct {
	header
	payload   []byte
	digest    [sha256.Size]byte
	signature []byte // r and s, 32 bytes each
}

// parse reads a compact JWS of a type.
func parse(text, typ string) (jws, error) {
	if len(text) > maxSize {
		return jws{}, fmt.Errorf("%w: it has %d bytes", ErrMalformed, len(text))
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return jws{}, fmt.Errorf("%w: it has not the three parts of a compact JWS", ErrMalformed)
	}
	var raw [3][]byte
	for i, part := range parts {
		var err error
		if raw[i], err = decode(part); err != nil {
			return jws{}, fmt.Errorf("%w: part %d: %w", ErrMalformed, i+1, err)
		}
	}
	j := jws{payload: raw[1], signature: raw[2], digest: sha256.Sum256([]byte(text[:len(parts[0])+1+len(parts[1])]))}
	if err := json.Unmarshal(raw[0], &j.header); err != nil {
		return jws{}, fmt.Errorf("%w: the header: %w", ErrMalformed, err)
	}
	switch {
	case j.Algorithm != Algorithm:
		return jws{}, fmt.Errorf("%w: alg is %.20q and not %s", ErrMalformed, j.Algorithm, Algorithm)
	case j.Type != typ:
		return jws{}, fmt.Errorf("%w: typ is %.40q and not %s", ErrMalformed, j.Type, typ)
	case j.Critical != nil:
		return jws{}, fmt.Errorf("%w: it has critical extensions", ErrMalformed)
	}
	return j, nil
}

// decode reads strict base64url. The decoder skips line breaks, which would give one document many texts.
func decode(part string) ([]byte, error) {
	if strings.ContainsAny(part, "\r\n") {
		return nil, base64.CorruptInputError(strings.IndexAny(part, "\r\n"))
	}
	return encoding.DecodeString(part)
}

// verify reports whether the key signed it.
func (j *jws) verify(key *ecdsa.PublicKey) bool {
	if len(j.signature) != 64 {
		return false
	}
	r, s := new(big.Int).SetBytes(j.signature[:32]), new(big.Int).SetBytes(j.signature[32:])
	return s.Cmp(halfOrder) <= 0 && ecdsa.Verify(key, j.digest[:], r, s)
}
