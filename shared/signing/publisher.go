package signing

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/singleflight"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/tenancy"
)

// QueueKeys reads all that is known of keys.
func QueueKeys(b *tenancy.Batch, keys *[]Key) {
	b.Queue(`
		SELECT kid, kind, coalesce(issuer_kid, ''), coalesce(kms_version, ''), not_before, not_after,
		       published_at, activated_at, retired_at, disabled_at, destroyed_at, revoked_at
		  FROM app.signing_keys
		 ORDER BY created_at, kid`,
	).Query(func(rows pgx.Rows) (err error) {
		*keys, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (k Key, err error) {
			var times [8]*time.Time
			err = row.Scan(&k.ID, &k.Kind, &k.Issuer, &k.Version, &times[0], &times[1], &times[2], &times[3], &times[4], &times[5], &times[6], &times[7])
			for i, to := range []*time.Time{
				&k.NotBefore, &k.NotAfter, &k.Published, &k.Activated, &k.Retired, &k.Disabled, &k.Destroyed, &k.Revoked,
			} {
				if times[i] != nil {
					*to = *times[i]
				}
			}
			return k, err
		})
		return err
	})
}

// Publisher publishes what clients verify with: the key set, and the revocation list. What it has read is good for five
// seconds; when it cannot read or sign anew, it serves what it has, and tries again a second later. It is safe for
// concurrent use.
type Publisher struct {
	db     *tenancy.DB
	roots  *Roots
	issuer string
	store  Clock
	now    func() time.Time
	log    *slog.Logger

	keySet published[keySet]
	list   published[List]
}

// published is something that was read for all who ask.
type published[T any] struct {
	reading singleflight.Group
	// Of one reading at a time: what is known, when that was found out, and for how long it is not asked again.
	known *T
	at    time.Time
	rest  time.Duration
}

// keySet is a JSON Web Key Set.
type keySet struct{ text []byte }

// List is a signed revocation list, and its shards.
type List struct {
	// Text is the compact JWS.
	Text    string
	Version int64
	Shards  []receipt.Shard

	claims receipt.Revocations
	signer string
	signed time.Time
	cutoff time.Time
	lastID int64
}

const (
	readEvery = 5 * time.Second
	// readWait is how long a reading may take, and readRest how long the next one waits after one that failed.
	readWait = 10 * time.Second
	readRest = time.Second
	// signEvery is how long an unchanged list is served before it is signed again, listLife how long it is good.
	signEvery = 24 * time.Hour
	listLife  = 7 * 24 * time.Hour
)

// OpenPublisher reads KeysConfig from the environment. It asks nobody yet. The database must be that of the role usher_keys.
func OpenPublisher(getenv func(string) string, db *tenancy.DB, signer RootSigner, log *slog.Logger) (*Publisher, error) {
	var cfg KeysConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	return NewPublisher(cfg, db, NewRoots(db, signer), db.Now, time.Now, log), nil
}

// NewPublisher makes a Publisher. The database must be that of the role usher_keys. Now is the instance's clock, which only
// says how long ago something was read.
func NewPublisher(cfg KeysConfig, db *tenancy.DB, roots *Roots, store Clock, now func() time.Time, log *slog.Logger) *Publisher {
	return &Publisher{db: db, roots: roots, issuer: cfg.Issuer, store: store, now: now, log: log}
}

// KeySet is the JSON Web Key Set.
func (p *Publisher) KeySet(ctx context.Context) ([]byte, error) {
	set, err := p.keySet.get(ctx, p, "the key set", p.readKeySet)
	if err != nil {
		return nil, err
	}
	return set.text, nil
}

// get answers what is known, and reads it when that is too old. Whoever asks meanwhile waits for the same answer, and whoever
// goes away keeps nobody from it. What could be had in spite of an error is served, else what is known.
func (v *published[T]) get(ctx context.Context, p *Publisher, name string, read func(context.Context) (*T, error)) (*T, error) {
	done := v.reading.DoChan("", func() (any, error) {
		now := p.now()
		if since := now.Sub(v.at); v.known != nil && since >= 0 && since < v.rest {
			return v.known, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readWait)
		defer cancel()
		found, err := read(ctx)
		if err == nil {
			v.known, v.at, v.rest = found, now, readEvery
			return found, nil
		}
		if found == nil {
			found = v.known
		}
		if found == nil {
			return nil, err
		}
		p.log.ErrorContext(ctx, name+" cannot be made anew; the one before is served", "error", err)
		v.known, v.at, v.rest = found, p.now(), readRest
		return found, nil
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %s: %w", name, ctx.Err())
	case answer := <-done:
		found, _ := answer.Val.(*T)
		return found, answer.Err
	}
}

func (p *Publisher) readKeySet(ctx context.Context) (*keySet, error) {
	now, err := p.store(ctx)
	if err != nil {
		return nil, err
	}
	var keys []Key
	public, certificate := map[string][]byte{}, map[string][]byte{}
	err = p.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		QueueKeys(b, &keys)
		b.Queue(`
			SELECT kid, public_key, certificate
			  FROM app.signing_keys
			 WHERE kind IN ('root', 'receipt') AND (not_after IS NULL OR not_after > $1)`, now.Add(-LongestGrace),
		).Query(func(rows pgx.Rows) error {
			var kid string
			var key, by []byte
			_, err := pgx.ForEachRow(rows, []any{&kid, &key, &by}, func() error {
				public[kid], certificate[kid] = slices.Clone(key), slices.Clone(by)
				return nil
			})
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the public keys: %w", err)
	}
	var all []receipt.Key
	for _, k := range Published(keys, now) {
		key, err := ParsePublic(public[k.ID])
		if err != nil {
			return nil, fmt.Errorf("read key %s: %w", k.ID, err)
		}
		var chain [][]byte
		if by := certificate[k.ID]; by != nil {
			chain = [][]byte{by}
		}
		one, err := receipt.NewKey(key, chain...)
		if err != nil {
			return nil, fmt.Errorf("read key %s: %w", k.ID, err)
		}
		all = append(all, one)
	}
	text, err := json.Marshal(receipt.NewKeySet(all...))
	if err != nil {
		return nil, fmt.Errorf("write the key set: %w", err)
	}
	return &keySet{text}, nil
}

// List is the newest revocation list. It is signed anew when what it says has changed, or after a day.
func (p *Publisher) List(ctx context.Context) (*List, error) {
	return p.list.get(ctx, p, "the revocation list", p.readList)
}

// revocationsNow is what the database says beside the newest list.
type revocationsNow struct {
	keys   []Key
	newest *List // without its claims and shards; nil when there is none yet
	count  int
	lastID int64
}

// readList is the list to serve. With an error it is, when there is one, the newest that was signed.
func (p *Publisher) readList(ctx context.Context) (*List, error) {
	now, err := p.store(ctx)
	if err != nil {
		return nil, err
	}
	for range 3 { // each round is lost only to another instance that has signed meanwhile
		s, err := p.look(ctx)
		if err != nil {
			return nil, err
		}
		newest, err := p.understand(ctx, s.newest)
		if err != nil {
			return nil, err
		}
		keys := revokedKeys(s.keys, now)
		active := ActiveRoot(s.keys)
		if newest != nil && active != nil && newest.signer == active.ID && now.Sub(newest.signed) < signEvery &&
			newest.claims.Total == s.count && newest.lastID >= s.lastID && slices.Equal(newest.claims.Keys, keys) {
			return newest, nil
		}
		made, err := p.sign(ctx, now, keys, newest)
		if err != nil || made != nil {
			if err != nil {
				made = newest
			}
			return made, err
		}
	}
	return nil, fault.Unavailable(errors.New("other instances sign revocation lists faster than this one reads them"))
}

// look reads the newest list, and whether it still says what is so.
func (p *Publisher) look(ctx context.Context) (s revocationsNow, err error) {
	err = p.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		QueueKeys(b, &s.keys)
		b.Queue(`
			SELECT version, list, signer, cutoff, last_id, signed_at
			  FROM app.revocation_lists
			 ORDER BY version DESC
			 LIMIT 1`,
		).Query(func(rows pgx.Rows) error {
			lists, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l List, err error) {
				err = row.Scan(&l.Version, &l.Text, &l.signer, &l.cutoff, &l.lastID, &l.signed)
				return l, err
			})
			if len(lists) == 1 {
				s.newest = &lists[0]
			}
			return err
		})
		b.Queue(`
			SELECT count(*), coalesce(max(id), 0)
			  FROM app.revocations
			 WHERE ends_at > coalesce((SELECT cutoff FROM app.revocation_lists ORDER BY version DESC LIMIT 1), '-infinity')`,
		).QueryRow(func(row pgx.Row) error { return row.Scan(&s.count, &s.lastID) })
	})
	if err != nil {
		return s, fmt.Errorf("read the revocations: %w", err)
	}
	return s, nil
}

// understand fills in what a signed list says, and its shards. A list that does not say what the database does is nil: it
// is to be signed anew.
func (p *Publisher) understand(ctx context.Context, l *List) (*List, error) {
	if l == nil {
		return nil, nil
	}
	if held := p.list.known; held != nil && held.Version == l.Version {
		return held, nil
	}
	_, rest, _ := strings.Cut(l.Text, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err == nil {
		err = json.Unmarshal(text, &l.claims)
	}
	if err != nil {
		return nil, fmt.Errorf("read revocation list %d: %w", l.Version, err)
	}
	entries, _, err := p.entries(ctx, l.cutoff, l.lastID)
	if err != nil {
		return nil, err
	}
	again := l.claims
	l.Shards = again.File(entries)
	if again.Total != l.claims.Total || again.Root != l.claims.Root ||
		!slices.Equal(again.Licenses, l.claims.Licenses) || !slices.Equal(again.Sessions, l.claims.Sessions) {
		// A transaction that began before the list was signed has been committed since. The keys and the time decide about
		// the rest, and the count about this.
		l.Shards, l.lastID = nil, -1
	}
	return l, nil
}

// entries are the revocations that end after a time, up to an id; 0 is all.
func (p *Publisher) entries(ctx context.Context, after time.Time, upTo int64) (entries []receipt.Entry, lastID int64, err error) {
	err = p.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`
			SELECT id, kind, subject, license_id
			  FROM app.revocations
			 WHERE ends_at > $1 AND ($2::bigint = 0 OR id <= $2)
			 ORDER BY id`, after, upTo,
		).Query(func(rows pgx.Rows) error {
			var id int64
			var kind string
			var subject, license uuid.UUID
			_, err := pgx.ForEachRow(rows, []any{&id, &kind, &subject, &license}, func() error {
				e := receipt.Entry{License: license.String()}
				if kind == "session" {
					e.Session = subject.String()
				}
				lastID, entries = id, append(entries, e)
				return nil
			})
			return err
		})
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read the revocations: %w", err)
	}
	return entries, lastID, nil
}

// sign makes the next list. It answers nil when another instance was faster. Its version is the time, in seconds, or one
// more than before: clients keep the newest, and after a restore of the database the next is newer than what was lost.
func (p *Publisher) sign(ctx context.Context, now time.Time, keys []receipt.RevokedKey, before *List) (*List, error) {
	by, err := p.roots.active(ctx)
	if err != nil {
		return nil, err
	}
	entries, lastID, err := p.entries(ctx, now, 0)
	if err != nil {
		return nil, err
	}
	made := &List{
		Version: max(1, now.Unix()), signer: by.id, signed: now, cutoff: now, lastID: lastID,
		claims: receipt.Revocations{Issuer: p.issuer, IssuedAt: now, ExpiresAt: now.Add(listLife), Keys: keys},
	}
	var last int64
	if before != nil {
		last = before.Version
		made.Version = max(last+1, made.Version)
	}
	made.claims.Version = made.Version
	made.Shards = made.claims.File(entries)
	if made.Text, err = p.roots.sign(ctx, by, receipt.TypeRevocations, made.claims); err != nil {
		return nil, err
	}
	var kept bool
	err = p.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		// One after the other: what was read before another list was made must not come after it.
		b.Queue(`SELECT pg_advisory_xact_lock(hashtextextended('app.revocation_lists', 0))`)
		b.Queue(`
			INSERT INTO app.revocation_lists (version, list, signer, cutoff, last_id, signed_at)
			SELECT $1, $2, $3, $4, $5, $6
			 WHERE NOT EXISTS (SELECT FROM app.revocation_lists WHERE version > $7)
			RETURNING true`, made.Version, made.Text, made.signer, made.cutoff, made.lastID, made.signed, last,
		).Query(func(rows pgx.Rows) error {
			kept = rows.Next()
			rows.Close()
			return rows.Err()
		})
	})
	if err != nil {
		return nil, fmt.Errorf("keep revocation list %d: %w", made.Version, err)
	}
	if !kept {
		return nil, nil
	}
	return made, nil
}

// revokedKeys is what the list says of keys: the revoked ones, while something that they signed could still be believed,
// and the retired roots. A receipt key that was replaced is not on it: instances that have not heard of that yet sign with
// it, and its certificate bounds them.
func revokedKeys(keys []Key, now time.Time) []receipt.RevokedKey {
	out := []receipt.RevokedKey{}
	for i := range keys {
		k := &keys[i]
		if k.Kind == MACKey || k.Kind == ReceiptKey && !now.Before(k.NotAfter.Add(LongestGrace)) {
			continue
		}
		switch {
		case !k.Revoked.IsZero():
			out = append(out, receipt.RevokedKey{ID: k.ID, Code: receipt.KeyRevoked, At: k.Revoked.UTC().Truncate(time.Second)})
		case !k.Retired.IsZero() && k.Kind == RootKey:
			out = append(out, receipt.RevokedKey{ID: k.ID, Code: receipt.KeyRetired, At: k.Retired.UTC().Truncate(time.Second)})
		}
	}
	slices.SortFunc(out, func(a, b receipt.RevokedKey) int { return strings.Compare(a.ID, b.ID) })
	return out
}
