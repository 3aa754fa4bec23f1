package signing

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/tenancy"
)

// KeysConfig says in whose name receipts are signed.
type KeysConfig struct {
	// Issuer is the "iss" of receipts: the public base URL of the deployment.
	Issuer string `env:"RECEIPT_ISSUER,required"`
}

// Unwrap decrypts what Cloud KMS wrapped, of the key of that id.
type Unwrap func(ctx context.Context, kid string, wrapped []byte) ([]byte, error)

// Clock tells the time of the store, by which keys take turns: an instance's own clock decides nothing.
type Clock func(ctx context.Context) (time.Time, error)

// Keys are the receipt keys of an instance: the one in use, in memory. It asks PostgreSQL every five seconds which that is,
// when somebody signs, and Cloud KMS once for each key. It is safe for concurrent use.
type Keys struct {
	issuer string
	db     *tenancy.DB
	unwrap Unwrap
	store  Clock
	now    func() time.Time
	log    *slog.Logger

	held    atomic.Pointer[held]
	looking sync.Mutex
	looks   atomic.Int64 // how many were made; counted under looking
	failed  error        // why the last one found no key; under looking
	rest    time.Time    // until when Cloud KMS is not asked in vain again; under looking
}

// held is what was found at the last look.
type held struct {
	signer *Signer
	looked time.Time     // by the instance's clock
	at     time.Time     // the same moment, by the store's
	rest   time.Duration // how long after it nobody looks again
}

const (
	// lookEvery is how old the last look may be, and so how soon a revoked key signs no more.
	lookEvery = 5 * time.Second
	// lookWait is how long a look may take, and lookRest how long the next one waits after one that failed.
	lookWait = 5 * time.Second
	lookRest = time.Second
	// rootsInReceipts is how many roots' certificates are in a receipt: those of a year. So an application believes receipts
	// offline for 450 days after its roots were current, and no receipt grows beyond that.
	rootsInReceipts = 4
	// restAfter is how long a key that cannot be unwrapped is left alone while another is good.
	restAfter = time.Minute
)

// OpenKeys reads KeysConfig from the environment. It asks nobody yet. The database must be that of a role that may read
// wrapped keys.
func OpenKeys(getenv func(string) string, db *tenancy.DB, unwrap Unwrap, log *slog.Logger) (*Keys, error) {
	var cfg KeysConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	return NewKeys(cfg, db, unwrap, db.Now, time.Now, log), nil
}

// NewKeys makes Keys of a configuration. Now is the instance's clock, which only counts what has passed between two looks.
func NewKeys(cfg KeysConfig, db *tenancy.DB, unwrap Unwrap, store Clock, now func() time.Time, log *slog.Logger) *Keys {
	return &Keys{issuer: cfg.Issuer, db: db, unwrap: unwrap, store: store, now: now, log: log}
}

// Current is the key to sign with now. A function asks for it before it does what a receipt is to tell: when there is
// none, it must not be done. While PostgreSQL or Cloud KMS are out it is the key of before, as long as that is good;
// afterwards the answer is fault.Unavailable. A key that PostgreSQL says is out of use is not good: its successor signs, or
// nobody. Who asks and goes away keeps nobody from the answer.
func (k *Keys) Current(ctx context.Context) (*Signer, error) {
	now, looks := k.now(), k.looks.Load()
	h := k.held.Load()
	if h.good(now) {
		if since := now.Sub(h.looked); since >= 0 && since < h.rest {
			return h.signer, nil
		}
		if !k.looking.TryLock() {
			return h.signer, nil // somebody else is looking
		}
	} else {
		k.looking.Lock()
	}
	defer k.looking.Unlock()
	if k.looks.Load() != looks { // somebody else has just looked
		if again := k.held.Load(); again.good(now) {
			return again.signer, nil
		}
		if k.failed != nil {
			return nil, k.failed
		}
	}
	k.failed = k.lookAgain(ctx, h, now)
	k.looks.Add(1)
	if k.failed != nil {
		return nil, k.failed
	}
	return k.held.Load().signer, nil
}

// lookAgain looks for the key to sign with, and holds it. h is what was held before. It is called under looking.
func (k *Keys) lookAgain(ctx context.Context, h *held, now time.Time) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookWait)
	defer cancel()
	at, err := k.store(ctx)
	var signer *Signer
	if err == nil {
		signer, err = k.look(ctx, at, now)
	}
	if err == nil {
		k.held.Store(&held{signer, now, at, lookEvery})
		return nil
	}
	if end := k.now(); !errors.Is(err, errNoKey) && h.good(end) {
		k.log.ErrorContext(ctx, "the receipt keys cannot be looked at; the one in use stays", "kid", h.signer.kid, "error", err)
		k.held.Store(&held{h.signer, end, h.time(end), lookRest})
		return nil
	}
	k.held.Store(nil)
	out := fault.Unavailable(fmt.Errorf("no receipt key: %w", err))
	out.Detail = "Receipts cannot be signed right now. Wait for retry_after_seconds, then try again."
	return out
}

// Ready is whether receipts can be signed.
func (k *Keys) Ready(ctx context.Context) error {
	_, err := k.Current(ctx)
	return err
}

func (h *held) good(now time.Time) bool { return h != nil && h.signer.good(h.time(now)) }

// time is the store's, at a moment of the instance's.
func (h *held) time(now time.Time) time.Time { return h.at.Add(now.Sub(h.looked)) }

// errNoKey says that PostgreSQL has answered, and by that the key in use, if any, may sign no more and no other can.
var errNoKey = errors.New("there is none for this time")

// candidate is a receipt key that may sign.
type candidate struct {
	kid                 string
	wrapped             []byte
	notBefore, notAfter time.Time
}

// look finds the key to sign with: the one whose turn it is or, while that cannot be unwrapped, the one in use.
func (k *Keys) look(ctx context.Context, at, now time.Time) (*Signer, error) {
	var candidates []candidate
	var revocations int64
	err := k.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`
			SELECT kid, wrapped_key, not_before, not_after
			  FROM app.signing_keys
			 WHERE kind = 'receipt' AND published_at IS NOT NULL AND retired_at IS NULL AND revoked_at IS NULL
			   AND wrapped_key IS NOT NULL AND not_before <= $1 AND not_after > $1
			 ORDER BY not_before DESC`, at,
		).Query(func(rows pgx.Rows) (err error) {
			candidates, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c candidate, err error) {
				err = row.Scan(&c.kid, &c.wrapped, &c.notBefore, &c.notAfter)
				return c, err
			})
			return err
		})
		b.Queue(`SELECT coalesce(max(version), 0) FROM app.revocation_lists`).
			QueryRow(func(row pgx.Row) error { return row.Scan(&revocations) })
	})
	if err != nil {
		return nil, fmt.Errorf("read the receipt keys: %w", err)
	}
	if len(candidates) == 0 {
		return nil, errNoKey
	}
	inUse := -1
	if h := k.held.Load(); h != nil {
		inUse = slices.IndexFunc(candidates, func(c candidate) bool { return c.kid == h.signer.kid })
	}
	if inUse == 0 || inUse > 0 && now.Before(k.rest) {
		return k.again(revocations), nil
	}
	signer, err := k.open(ctx, &candidates[0], revocations)
	switch {
	case err != nil && inUse > 0:
		k.log.ErrorContext(ctx, "the receipt key of this turn cannot be unwrapped; the one before stays", "kid", candidates[0].kid, "error", err)
		k.rest = now.Add(restAfter)
		return k.again(revocations), nil
	case err != nil:
		return nil, fmt.Errorf("%w that can be unwrapped: %w", errNoKey, err)
	}
	return signer, nil
}

// again is the key in use, with what its receipts now say of the revocation list.
func (k *Keys) again(revocations int64) *Signer {
	signer := *k.held.Load().signer
	signer.revocations = revocations
	return &signer
}

// open unwraps a key.
func (k *Keys) open(ctx context.Context, c *candidate, revocations int64) (*Signer, error) {
	der, err := k.unwrap(ctx, c.kid, c.wrapped)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read receipt key %s: it is no PKCS #8 key", c.kid)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read receipt key %s: it is not P-256", c.kid)
	}
	chain, err := k.chain(ctx, c.kid)
	if err != nil {
		return nil, err
	}
	signer, err := NewSigner(k.issuer, key, chain, c.notBefore, c.notAfter, revocations)
	if err == nil && signer.kid != c.kid {
		err = fmt.Errorf("read receipt key %s: it is key %s", c.kid, signer.kid)
	}
	return signer, err
}

// chain is a receipt key's certificate, and those of the roots that lead to it, the newest first, at most rootsInReceipts.
func (k *Keys) chain(ctx context.Context, kid string) (chain [][]byte, err error) {
	err = k.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`
			WITH RECURSIVE chain AS (
			    SELECT certificate, issuer_kid, 0 AS place
			      FROM app.signing_keys
			     WHERE kid = $1
			    UNION ALL
			    SELECT k.certificate, k.issuer_kid, c.place + 1
			      FROM chain c JOIN app.signing_keys k ON k.kid = c.issuer_kid
			     WHERE c.place < $2)
			SELECT certificate
			  FROM chain
			 WHERE certificate IS NOT NULL
			 ORDER BY place`, kid, rootsInReceipts,
		).Query(func(rows pgx.Rows) (err error) {
			chain, err = pgx.CollectRows(rows, pgx.RowTo[[]byte])
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the certificates of receipt key %s: %w", kid, err)
	}
	return chain, nil
}
