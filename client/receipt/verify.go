package receipt

import (
	"cmp"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Verifier believes documents, or says with a Refusal why not. It trusts in one
// of two ways.
//
// With Roots it needs nothing but the document: the certificates in its header
// must lead to a pinned root. Keys then only serve certificates that are missing
// there: nobody who answers in the place of the JWKS is believed.
//
// Without Roots it trusts Keys, as any JOSE library does: the key must be in the
// set. Which keys may sign what follows from their certificates there.
//
// A Verifier is safe for concurrent use while nobody changes it.
type Verifier struct {
	Roots Roots
	Keys  KeySet
	// Revocations is the newest list that is known, from RevocationList. Nil, and
	// nothing is known to be withdrawn.
	Revocations *Revocations
	// Product and HardwareID are whom documents must be for. An empty one is not compared.
	Product, HardwareID string
	// Seal is of the document as it is kept. Nil, and the document is not kept: it
	// has just been received.
	Seal *Seal
	// Now is time.Now when nil.
	Now func() time.Time
}

// Receipt believes a receipt: it is good now, here.
func (v *Verifier) Receipt(text string) (Receipt, error) {
	r, err := v.receipt(text)
	if err != nil {
		return Receipt{}, fmt.Errorf("the receipt is refused: %w", err)
	}
	return r, nil
}

func (v *Verifier) receipt(text string) (Receipt, error) {
	var r Receipt
	signed, err := v.open(text, TypeReceipt, ScopeReceipts, &r)
	if err != nil {
		return Receipt{}, err
	}
	if promise := r.OfflineUntil.Truncate(time.Second).Sub(r.IssuedAt); promise > Longest {
		return Receipt{}, fmt.Errorf("%w: a promise of %s, and a receipt's is at most %s", ErrScope, promise, Longest)
	}
	return r, v.judge(terms{
		id: r.ID, product: r.Product, hardwareHash: r.HardwareHash, license: r.License, session: r.Session,
		issuedAt: r.IssuedAt, expiresAt: r.OfflineUntil.Truncate(time.Second),
	}, signed)
}

// LicenseFile believes a licence file, in its PEM: it is good now, here.
func (v *Verifier) LicenseFile(text []byte) (LicenseFile, error) {
	l, err := v.licenseFile(text)
	if err != nil {
		return LicenseFile{}, fmt.Errorf("the licence file is refused: %w", err)
	}
	return l, nil
}

func (v *Verifier) licenseFile(text []byte) (LicenseFile, error) {
	compact, err := unarmour(text, licenseFileBlock)
	if err != nil {
		return LicenseFile{}, err
	}
	var l LicenseFile
	signed, err := v.open(compact, TypeLicenseFile, ScopeRoot, &l)
	if err != nil {
		return LicenseFile{}, err
	}
	return l, v.judge(terms{
		id: l.ID, product: l.Product, hardwareHash: l.HardwareHash, license: l.License, session: l.Session,
		issuedAt: l.IssuedAt, expiresAt: l.ExpiresAt,
	}, signed)
}

// RevocationList believes a revocation list: what GET /v1/revocations answered,
// with a shard or without. It is never older than Revocations, whose shards it
// keeps when it is the same version. The caller sets Revocations to it.
func (v *Verifier) RevocationList(answer []byte) (*Revocations, error) {
	list, err := v.revocationList(answer)
	if err == nil {
		err = inTime(list.IssuedAt, list.ExpiresAt, v.now())
	}
	if err != nil {
		return nil, fmt.Errorf("the revocation list is refused: %w", err)
	}
	return list, nil
}

// RevocationsSuffix makes the name of the file in which an answer that
// RevocationList believed is kept beside a receipt of the receipt's.
const RevocationsSuffix = ".revocations"

// KeptRevocationList believes a list as RevocationList does, even when it has
// expired since: what it names stays withdrawn.
func (v *Verifier) KeptRevocationList(answer []byte) (*Revocations, error) {
	list, err := v.revocationList(answer)
	if err != nil {
		return nil, fmt.Errorf("the revocation list is refused: %w", err)
	}
	return list, nil
}

func (v *Verifier) revocationList(answer []byte) (*Revocations, error) {
	var a RevocationsAnswer
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	list := &Revocations{}
	signed, err := v.open(a.List, TypeRevocations, ScopeRoot, list)
	if err != nil {
		return nil, err
	}
	if held := v.Revocations; held != nil {
		if list.Version < held.Version {
			return nil, fmt.Errorf("%w: version %d after %d", ErrOlderList, list.Version, held.Version)
		}
		if err := held.refuseKeys(signed, list.IssuedAt); err != nil {
			return nil, err
		}
		if list.Version == held.Version && list.Shards == held.Shards && list.Root == held.Root {
			list.keep(held.fetched)
		}
	}
	if err := list.refuseKeys(signed, list.IssuedAt); err != nil {
		return nil, err
	}
	if err := signed.cover(list.IssuedAt); err != nil {
		return nil, err
	}
	if a.Number != nil {
		shard := Shard{Number: *a.Number, Licenses: a.Licenses, Sessions: a.Sessions, Proof: a.Proof}
		if err := list.add(shard); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// terms is what a receipt and a licence file both say.
type terms struct {
	id, product, hardwareHash, license, session string
	issuedAt, expiresAt                         time.Time
}

// judge asks whether a document with a good signature is good now, here. What
// would be wrong at any time comes first.
func (v *Verifier) judge(t terms, signed *trust) error {
	if err := v.Revocations.refuseKeys(signed, t.issuedAt); err != nil {
		return err
	}
	if err := signed.cover(t.issuedAt); err != nil {
		return err
	}
	if v.Product != "" && v.Product != t.product {
		return fmt.Errorf("%w: %.60q", ErrWrongProduct, t.product)
	}
	if v.HardwareID != "" && HashHardware(v.HardwareID) != t.hardwareHash {
		return ErrWrongHardware
	}
	if err := v.Revocations.refuse(t.license, t.session); err != nil {
		return err
	}
	now := v.now()
	if v.Seal != nil {
		if err := v.Seal.Check(t.id, now); err != nil {
			return err
		}
	}
	return inTime(t.issuedAt, t.expiresAt, now)
}

func inTime(issuedAt, expiresAt, now time.Time) error {
	if issuedAt.After(now.Add(Ahead)) {
		return fmt.Errorf("%w: it was issued at %s, and here it is %s", ErrNotYetValid, stamp(issuedAt), stamp(now))
	}
	if !now.Before(expiresAt) {
		return fmt.Errorf("%w: at %s, and it is %s", ErrExpired, stamp(expiresAt), stamp(now))
	}
	return nil
}

// stamp writes a time for a reader.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (v *Verifier) now() time.Time {
	if v.Now == nil {
		return time.Now()
	}
	return v.Now()
}

// open reads the claims of a document that a trusted key of a scope signed.
func (v *Verifier) open(text, typ, scope string, claims json.Unmarshaler) (*trust, error) {
	j, err := parse(text, typ)
	if err != nil {
		return nil, err
	}
	signed, err := v.trust(&j, scope)
	if err != nil {
		return nil, err
	}
	if !j.verify(signed.key) {
		return nil, ErrSignature
	}
	if err := claims.UnmarshalJSON(j.payload); err != nil {
		return nil, fmt.Errorf("%w: the claims: %w", ErrMalformed, err)
	}
	return signed, nil
}

// trust is why a key is believed.
type trust struct {
	key *ecdsa.PublicKey
	// ids are the key's own and those of the roots that lead to it.
	ids []string
	// chain is the certificates that were checked, the key's own first.
	chain []*certificate
}

// cover reports whether what was signed at a time was signed within all certificates' windows.
func (t *trust) cover(at time.Time) error {
	for _, c := range t.chain {
		if at.Before(c.notBefore.Add(-Ahead)) {
			return fmt.Errorf("%w: it was signed before its key was in use", ErrNotYetValid)
		}
		if at.After(c.notAfter) {
			return fmt.Errorf("%w: it was signed at %s, and its key ended at %s", ErrRetiredKey, stamp(at), stamp(c.notAfter))
		}
	}
	return nil
}

// trust finds the key that signed, and believes it for a scope.
func (v *Verifier) trust(j *jws, scope string) (*trust, error) {
	if len(v.Roots.keys) == 0 {
		return v.trustKeySet(j.KeyID, scope)
	}
	if root := v.Roots.find(j.KeyID); root != nil {
		if scope != ScopeRoot {
			return nil, ErrScope
		}
		return &trust{key: root, ids: []string{j.KeyID}}, nil
	}
	return v.trustChain(j, scope)
}

// trustKeySet believes a key because it is in the set. A key that nobody vouches for is the first root.
func (v *Verifier) trustKeySet(id, scope string) (*trust, error) {
	key, ok := v.Keys.Find(id)
	if !ok {
		return nil, fmt.Errorf("%w: %.64q", ErrUnknownKey, id)
	}
	t := &trust{key: key.Public, ids: []string{id}}
	if len(key.Chain) == 0 {
		if scope != ScopeRoot {
			return nil, ErrScope
		}
		return t, nil
	}
	c, err := parseCertificate(key.Chain[0], scope)
	if err != nil {
		return nil, err
	}
	if c.id != id {
		return nil, fmt.Errorf("%w: the certificate of %.64q is of another key", ErrUnknownKey, id)
	}
	t.chain = []*certificate{c}
	return t, nil
}

// maxChain is how many certificates may lead from a pinned root to a key: a root lives for a quarter.
const maxChain = 32

// trustChain believes a key because certificates lead from a pinned root to it.
func (v *Verifier) trustChain(j *jws, scope string) (*trust, error) {
	t := &trust{}
	for id, rest := j.KeyID, j.Chain; len(t.chain) < maxChain; {
		if len(rest) == 0 {
			published, _ := v.Keys.Find(id)
			rest = published.Chain
		}
		if len(rest) == 0 {
			return nil, fmt.Errorf("%w: no certificate leads from a pinned root to %.64q", ErrUnknownKey, id)
		}
		c, err := parseCertificate(rest[0], scope)
		if err != nil {
			return nil, err
		}
		if c.id != id {
			return nil, fmt.Errorf("%w: a certificate is of another key than %.64q", ErrUnknownKey, id)
		}
		if n := len(t.chain); n > 0 && !v.Roots.signed(t.chain[n-1], c.id, c.key) {
			return nil, fmt.Errorf("%w: a certificate's", ErrSignature)
		}
		t.chain, t.ids = append(t.chain, c), append(t.ids, c.id)
		if root := v.Roots.find(c.authority); root != nil {
			if !v.Roots.signed(c, c.authority, root) {
				return nil, fmt.Errorf("%w: a certificate's", ErrSignature)
			}
			t.key, t.ids = t.chain[0].key, append(t.ids, c.authority)
			return t, nil
		}
		id, rest, scope = c.authority, rest[1:], ScopeRoot
	}
	return nil, fmt.Errorf("%w: more than %d certificates", ErrUnknownKey, maxChain)
}

// refuseKeys refuses what was signed at a time by a key that is revoked, or was retired by then; or by one that only a
// revoked root leads to. That its root has retired since is no fault of a receipt key.
func (r *Revocations) refuseKeys(t *trust, at time.Time) error {
	if r == nil {
		return nil
	}
	for i, id := range t.ids {
		n, named := slices.BinarySearchFunc(r.Keys, id, func(k RevokedKey, id string) int { return cmp.Compare(k.ID, id) })
		if !named {
			continue
		}
		key := r.Keys[n]
		if key.Code == KeyRevoked {
			return fmt.Errorf("%w: its key %s, at %s", ErrRevoked, id, stamp(key.At))
		}
		if i == 0 && !at.Before(key.At) {
			return fmt.Errorf("%w: at %s", ErrRetiredKey, stamp(key.At))
		}
	}
	return nil
}
