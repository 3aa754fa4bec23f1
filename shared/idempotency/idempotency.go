// Package idempotency gives a repeated POST its first answer.
//
// A client that lost an answer sends its request again with the same
// Idempotency-Key, and gets what it would have got the first time, instead of a
// second licence or a second key. Only successes are remembered, for a day: what
// failed may be tried again under the same key.
//
// An answer may hold a secret that is shown once. So it is kept encrypted under
// a key that is derived from the Idempotency-Key, and of that only a hash is
// kept: whoever reads the table cannot read the answers.
//
// The package must not know what was asked or answered.
package idempotency

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

const (
	// Header is the request header that names a POST.
	Header = "Idempotency-Key"
	// ReplayedHeader is the response header that is "true" on a repeated answer.
	ReplayedHeader = "Idempotent-Replayed"
)

// Hold is how long a request may take before it is taken for dead: longer than the deadline of any route that is repeated, with the
// two seconds that putting things right may take after it.
const Hold = 30 * time.Second

const (
	// life is how long an answer is remembered.
	life = 24 * time.Hour
	// longestKey is the longest Idempotency-Key, in characters.
	longestKey = 255
)

// Request is a POST that may be repeated.
type Request struct {
	// Tenant is whose rows the request writes.
	Tenant tenancy.ID
	// Scope is what the key is unique in: the credential and the route (acquire: the
	// licence), of at most 300 characters.
	Scope string
	// Key is the Idempotency-Key.
	Key string
	// Body is the request's body as it was sent.
	Body []byte
}

// Answer is what was answered the first time.
type Answer struct {
	// Status is 200 or 201; no other is remembered.
	Status int
	// Body is the JSON that was answered.
	Body []byte
	// Session is the session that the answer is about: who repeats it asks first whether
	// that lives. uuid.Nil for answers that are good by themselves.
	Session uuid.UUID
}

// Claim is the right to answer a request for the first time.
type Claim struct {
	request Request
	keyHash []byte
}

// KeyOf is the Idempotency-Key of a request, or "" when it has none. A header
// that is empty, or sent more than once, is a fault.Malformed.
func KeyOf(header http.Header) (string, error) {
	switch keys := header[Header]; len(keys) {
	case 0:
		return "", nil
	case 1:
		return keys[0], checkKey(keys[0])
	default:
		return "", fault.Malformed("idempotency_key_invalid", "An Idempotency-Key is sent once.")
	}
}

// Encode writes what is answered and remembered as JSON. Lists in it must not be nil.
func Encode(body any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		return nil, fmt.Errorf("write an answer: %w", err)
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

// ID is a number for what the request makes: the same whenever it is repeated,
// and another for every other request. So what was made, but whose answer could
// not be remembered any more, is found again. It is uuid.Nil without a Key.
func (r Request) ID() uuid.UUID {
	if r.Key == "" {
		return uuid.Nil
	}
	id := uuid.UUID(r.hash("usher idempotent thing", r.Key, string(r.Body))[:16])
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80 // shaped like every id, a UUIDv7; its time means nothing
	return id
}

// checkKey is nil when a header can be an Idempotency-Key: 1 to 255 visible
// characters of ASCII.
func checkKey(header string) error {
	ok := header != "" && len(header) <= longestKey
	for i := range len(header) {
		ok = ok && header[i] > ' ' && header[i] < 0x7f
	}
	if !ok {
		return fault.Malformed("idempotency_key_invalid", "An Idempotency-Key has 1 to 255 visible ASCII characters, without spaces.")
	}
	return nil
}

// Begin claims a request, or answers what it was answered before.
//
// With a nil Answer the caller goes on, and calls Complete in the transaction
// that makes its success true. That may be this one: then a failure, which rolls
// back, leaves no trace. Or the caller commits this one first and Completes in
// a later one; then it Abandons the claim when it fails, and if it dies, the
// claim is given up 30 seconds after it was made.
//
// With an Answer the caller repeats it; where that is not to be repeated any
// more, because its session has ended, the caller calls Restart and goes on.
//
// The same key with another body is a fault.Invalid (idempotency_key_reused); a
// request that is still in flight is a fault.Conflict (idempotency_in_flight).
func Begin(ctx context.Context, tx tenancy.Tx, request Request) (*Claim, *Answer, error) {
	if err := checkKey(request.Key); err != nil {
		return nil, nil, err
	}
	claim := &Claim{request: request, keyHash: request.hash("usher idempotency key", request.Key)}
	body := sha256.Sum256(request.Body)
	var claimed bool
	var held struct {
		body, answer []byte
		state        string
		status       int
		session      *uuid.UUID
		there        bool
	}
	err := tx.Batch(ctx, func(b *tenancy.Batch) {
		// The lock keeps the second of two at once from waiting for the first's commit.
		b.Queue(`
			INSERT INTO app.idempotency_keys AS i (tenant_id, scope, key_hash, body_hash, held_until, expires_at)
			SELECT $1, $2, $3, $4, now() + $6::interval, now() + $7::interval
			 WHERE pg_try_advisory_xact_lock($5)
			ON CONFLICT (tenant_id, scope, key_hash) DO UPDATE
			   SET body_hash = excluded.body_hash, state = 'in_flight', held_until = excluded.held_until, http_status = NULL,
			       answer = NULL, session_id = NULL, created_at = now(), expires_at = excluded.expires_at
			 WHERE i.expires_at <= now() OR (i.state = 'in_flight' AND i.held_until <= now() AND i.body_hash = excluded.body_hash)
			RETURNING true`,
			request.Tenant.UUID(), request.Scope, claim.keyHash, body[:], claim.lock(), Hold, life,
		).QueryRow(func(row pgx.Row) error { return orNone(row.Scan(&claimed)) })
		b.Queue(`
			SELECT body_hash, state, coalesce(http_status, 0), answer, session_id, true
			  FROM app.idempotency_keys
			 WHERE tenant_id = $1 AND scope = $2 AND key_hash = $3`,
			request.Tenant.UUID(), request.Scope, claim.keyHash,
		).QueryRow(func(row pgx.Row) error {
			return orNone(row.Scan(&held.body, &held.state, &held.status, &held.answer, &held.session, &held.there))
		})
	})
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("claim an idempotency key: %w", err)
	case claimed:
		return claim, nil, nil
	case held.there && !bytes.Equal(held.body, body[:]):
		reused := fault.Invalid("This Idempotency-Key was used for another request. Use a new one for each request.")
		reused.Code = "idempotency_key_reused"
		return nil, nil, reused
	case held.state != "done":
		return nil, nil, fault.Conflict("idempotency_in_flight", "The first request with this Idempotency-Key is still being answered. Send it again in a second.").Retry(time.Second)
	}
	text, err := claim.open(held.answer)
	if err != nil {
		return nil, nil, fmt.Errorf("read a remembered answer: %w", err)
	}
	answer := &Answer{Status: held.status, Body: text}
	if held.session != nil {
		answer.Session = *held.session
	}
	return claim, answer, nil
}

// Restart makes a claim of an answer that is not to be repeated any more. When
// somebody else has restarted it meanwhile, that is a fault.Conflict
// (idempotency_in_flight).
func (c *Claim) Restart(ctx context.Context, tx tenancy.Tx, old Answer) error {
	done, err := tx.Exec(ctx, `
		UPDATE app.idempotency_keys
		   SET state = 'in_flight', held_until = now() + $5::interval, http_status = NULL, answer = NULL, session_id = NULL,
		       created_at = now(), expires_at = now() + $6::interval
		 WHERE tenant_id = $1 AND scope = $2 AND key_hash = $3 AND state = 'done' AND session_id IS NOT DISTINCT FROM $4`,
		c.request.Tenant.UUID(), c.request.Scope, c.keyHash, orNull(old.Session), Hold, life)
	switch {
	case err != nil:
		return fmt.Errorf("restart an idempotent request: %w", err)
	case done.RowsAffected() == 0:
		return fault.Conflict("idempotency_in_flight", "The first request with this Idempotency-Key is still being answered. Send it again in a second.").Retry(time.Second)
	}
	return nil
}

// Complete remembers the first answer, from the commit of tx on. An answer with
// another status than 200 and 201 is not remembered: the claim is given up.
func (c *Claim) Complete(ctx context.Context, tx tenancy.Tx, answer Answer) error {
	if answer.Status != 200 && answer.Status != 201 {
		return c.Abandon(ctx, tx)
	}
	sealed, err := c.seal(answer.Body)
	if err != nil {
		return fmt.Errorf("encrypt an answer: %w", err)
	}
	_, err = tx.Exec(ctx, `
		UPDATE app.idempotency_keys
		   SET state = 'done', http_status = $4, answer = $5, session_id = $6, expires_at = now() + $7::interval
		 WHERE tenant_id = $1 AND scope = $2 AND key_hash = $3 AND state = 'in_flight'`,
		c.request.Tenant.UUID(), c.request.Scope, c.keyHash, answer.Status, sealed, orNull(answer.Session), life)
	if err != nil {
		return fmt.Errorf("remember an answer: %w", err)
	}
	return nil
}

// Abandon gives a claim up that was committed before its request failed, so that
// the same key may be tried again at once.
func (c *Claim) Abandon(ctx context.Context, tx tenancy.Tx) error {
	_, err := tx.Exec(ctx, `
		DELETE FROM app.idempotency_keys
		 WHERE tenant_id = $1 AND scope = $2 AND key_hash = $3 AND state = 'in_flight'`,
		c.request.Tenant.UUID(), c.request.Scope, c.keyHash)
	if err != nil {
		return fmt.Errorf("give up an idempotency key: %w", err)
	}
	return nil
}

// Do runs act in the transaction and answers what it answers, or what it
// answered the first time. Body is written as JSON. A request without a key is
// just acted upon. The transaction must be rolled back when Do fails.
func Do(ctx context.Context, tx tenancy.Tx, request Request, act func() (status int, body any, err error)) (answer Answer, replayed bool, err error) {
	var claim *Claim
	if request.Key != "" {
		var first *Answer
		claim, first, err = Begin(ctx, tx, request)
		if err != nil {
			return Answer{}, false, err
		}
		if first != nil {
			return *first, true, nil
		}
	}
	status, body, err := act()
	if err != nil {
		return Answer{}, false, err
	}
	text, err := Encode(body)
	if err != nil {
		return Answer{}, false, err
	}
	answer = Answer{Status: status, Body: text}
	if claim == nil {
		return answer, false, nil
	}
	return answer, false, claim.Complete(ctx, tx, answer)
}

// Expire drops the answers whose day is over, whosever they are, and says how
// many. It is the sweep's.
func Expire(ctx context.Context, db *tenancy.DB) (int64, error) {
	var dropped int64
	err := db.Across(ctx, "drop remembered answers whose day is over", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT app.expire_idempotency_keys()`).Scan(&dropped)
	})
	if err != nil {
		return 0, fmt.Errorf("drop remembered answers: %w", err)
	}
	return dropped, nil
}

// hash is a hash of the parts for one purpose, different for each tenant and scope.
func (r Request) hash(purpose string, parts ...string) []byte {
	h := sha256.New()
	tenant := r.Tenant.UUID()
	for _, part := range append([]string{purpose, string(tenant[:]), r.Scope}, parts...) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		_, _ = h.Write(length[:])
		_, _ = h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// lock is the number of the advisory lock of a key.
func (c *Claim) lock() int64 {
	return int64(binary.BigEndian.Uint64(c.request.hash("usher idempotency lock", string(c.keyHash))))
}

// An encrypted answer is a version byte, a salt, a nonce and the AES-256-GCM of
// the text, bound to the row that it stands in.
const (
	sealVersion = 1
	saltSize    = 16
)

// aead is the cipher for a salt, under a key that only the holder of the Idempotency-Key can derive.
func (c *Claim) aead(salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(c.request.Key), salt, "usher idempotency answer", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (c *Claim) seal(text []byte) ([]byte, error) {
	sealed := make([]byte, 1+saltSize, 1+saltSize+12+len(text)+16)
	sealed[0] = sealVersion
	_, _ = rand.Read(sealed[1:]) // never fails
	aead, err := c.aead(sealed[1:])
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce)
	return aead.Seal(append(sealed, nonce...), nonce, text, c.keyHash), nil
}

func (c *Claim) open(sealed []byte) ([]byte, error) {
	if len(sealed) < 1+saltSize || sealed[0] != sealVersion {
		return nil, errors.New("not an encrypted answer")
	}
	aead, err := c.aead(sealed[1 : 1+saltSize])
	if err != nil {
		return nil, err
	}
	rest := sealed[1+saltSize:]
	if len(rest) < aead.NonceSize() {
		return nil, errors.New("not an encrypted answer")
	}
	return aead.Open(nil, rest[:aead.NonceSize()], rest[aead.NonceSize():], c.keyHash)
}

// orNone lets a statement answer no row.
func orNone(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

func orNull(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
