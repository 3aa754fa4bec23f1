// Package rotation carries out what package signing plans: it makes, publishes, activates, retires and destroys keys, in
// Cloud KMS, in Secret Manager and in PostgreSQL.
//
// Each step changes one store once, and what it writes to PostgreSQL it writes only if that is still to be done. So a run
// may end anywhere: the next look sees what is so, and plans from there. Runs take turns.
//
// The package must not know when a key is due: that is the plan's to say.
package rotation

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/secret/secretmanager"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/tenancy"
)

// Deps is what a rotation works with.
type Deps struct {
	// DB is that of the role usher_rotate.
	DB    *tenancy.DB
	Vault *kms.Vault
	// Ring is the secret that holds the ring of seat token keys.
	Ring *secretmanager.Secret
	// Now is the store's clock.
	Now signing.Clock
	Log *slog.Logger
}

// Rotation carries out plans. It is safe for concurrent use.
type Rotation struct{ Deps }

// New makes a Rotation.
func New(d Deps) *Rotation { return &Rotation{d} }

// Report is what a run did, in numbers.
type Report struct {
	// Done is how often each deed was done.
	Done map[signing.Deed]int
}

// mostSteps ends a run that does not come to an end: the longest plan, of a fresh deployment, has a dozen.
const mostSteps = 100

// Run does what is due, once a run that goes on elsewhere has ended; when that takes longer than ctx allows it is
// fault.Unavailable. What fails with the keys of seat tokens does not keep the others from their turn, nor the other
// way round; the error says both.
func (r *Rotation) Run(ctx context.Context) (Report, error) {
	report := Report{Done: map[signing.Deed]int{}}
	over, err := r.turn(ctx)
	if err != nil {
		return report, unavailable(err)
	}
	defer over()
	var errs []error
	for _, next := range []func(context.Context) (signing.Step, error){r.Next, r.NextOfRing} {
		for range mostSteps {
			step, err := next(ctx)
			if err != nil {
				errs = append(errs, err)
				break
			}
			if step.Do == "" {
				break
			}
			r.Log.InfoContext(ctx, "rotation", "step", step.Do, "kid", step.Key, "version", step.Version)
			report.Done[step.Do]++
		}
	}
	return report, unavailable(errors.Join(errs...))
}

const (
	// turnEnds is when a run that died has had its turn: later than any run may last.
	turnEnds = time.Minute
	// turnAsks is how often a run that waits asks whether the other has ended.
	turnAsks = 200 * time.Millisecond
)

// turn waits until no other run goes on, and answers what ends this one's turn.
func (r *Rotation) turn(ctx context.Context) (over func(), err error) {
	run := uuid.New()
	for {
		var ours bool
		err := r.DB.As(ctx, tenancy.ID{}, func(tx tenancy.Tx) error {
			done, err := tx.Exec(ctx, `
				UPDATE app.rotation_turn
				   SET run = $1, ends = clock_timestamp() + make_interval(secs => $2)
				 WHERE ends <= clock_timestamp()`, run, turnEnds.Seconds())
			ours = done.RowsAffected() == 1
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("ask for a turn: %w", err)
		}
		if ours {
			return func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
				defer cancel()
				if err := r.write(ctx, `UPDATE app.rotation_turn SET ends = '-infinity' WHERE run = $1`, run); err != nil {
					r.Log.WarnContext(ctx, "the next rotation has to wait until this one's turn runs out", "error", err)
				}
			}, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another rotation goes on: %w", ctx.Err())
		case <-time.After(turnAsks):
		}
	}
}

// unavailable is what the caller sees of an error of a store: to ask again.
func unavailable(err error) error {
	if err == nil || fault.As(err) != nil {
		return err
	}
	return fault.Unavailable(err)
}

// Next does the first step that is due with roots and receipt keys, and answers it; the zero Step when none is.
func (r *Rotation) Next(ctx context.Context) (signing.Step, error) {
	keys, err := r.keys(ctx)
	if err != nil {
		return signing.Step{}, err
	}
	versions, err := r.versions(ctx)
	if err != nil {
		return signing.Step{}, err
	}
	now, err := r.Now(ctx)
	if err != nil {
		return signing.Step{}, err
	}
	return r.first(ctx, signing.Plan(keys, versions, now), now, keys)
}

// NextOfRing does the first step that is due with the keys of seat tokens, and answers it; the zero Step when none is.
func (r *Rotation) NextOfRing(ctx context.Context) (signing.Step, error) {
	keys, err := r.keys(ctx)
	if err != nil {
		return signing.Step{}, err
	}
	ring, err := r.ring(ctx)
	if err != nil {
		return signing.Step{}, err
	}
	now, err := r.Now(ctx)
	if err != nil {
		return signing.Step{}, err
	}
	return r.first(ctx, signing.PlanRing(keys, ring.Names(), now), now, keys)
}

func (r *Rotation) first(ctx context.Context, steps []signing.Step, now time.Time, keys []signing.Key) (signing.Step, error) {
	if len(steps) == 0 {
		return signing.Step{}, nil
	}
	if err := r.do(ctx, steps[0], now, keys); err != nil {
		return signing.Step{}, fmt.Errorf("%s %s%s: %w", steps[0].Do, steps[0].Key, steps[0].Version, err)
	}
	return steps[0], nil
}

// do does one step, which was due at that time.
func (r *Rotation) do(ctx context.Context, step signing.Step, now time.Time, keys []signing.Key) error {
	switch step.Do {
	case signing.CreateRoot:
		_, err := r.Vault.Create(ctx)
		return err
	case signing.PublishRoot:
		return r.publishRoot(ctx, step, now, keys)
	case signing.ActivateRoot:
		return r.activateRoot(ctx, step, now)
	case signing.DisableRoot:
		return r.Vault.Disable(ctx, step.Version)
	case signing.DestroyRoot:
		return r.Vault.Destroy(ctx, step.Version)
	case signing.NoteRoot:
		return r.noteRoot(ctx, step, now)
	case signing.MakeReceiptKey:
		return r.makeReceiptKey(ctx, step, now, keys)
	case signing.ForgetKey:
		return r.write(ctx, `
			UPDATE app.signing_keys
			   SET wrapped_key = NULL, destroyed_at = $2
			 WHERE kid = $1 AND kind = 'receipt' AND destroyed_at IS NULL`, step.Key, now)
	case signing.RevokeKey:
		return r.write(ctx, `
			UPDATE app.signing_keys k
			   SET revoked_at = $2, revoked_reason = 'its root was revoked', revoked_by = i.revoked_by
			  FROM app.signing_keys i
			 WHERE k.kid = $1 AND k.revoked_at IS NULL AND i.kid = k.issuer_kid AND i.revoked_at IS NOT NULL`, step.Key, now)
	case signing.MakeMAC, signing.FrontMAC, signing.DropMAC:
		return r.writeRing(ctx, step)
	case signing.NoteMAC:
		return r.noteMAC(ctx, step, now)
	default:
		return errors.New("nobody knows how")
	}
}

// write runs statements in one transaction.
func (r *Rotation) write(ctx context.Context, sql string, args ...any) error {
	return r.DB.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) { b.Queue(sql, args...) })
}

// keys is all that is known of keys.
func (r *Rotation) keys(ctx context.Context) (keys []signing.Key, err error) {
	err = r.DB.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) { signing.QueueKeys(b, &keys) })
	if err != nil {
		return nil, fmt.Errorf("read the signing keys: %w", err)
	}
	return keys, nil
}

func (r *Rotation) versions(ctx context.Context) ([]signing.Version, error) {
	found, err := r.Vault.Versions(ctx)
	if err != nil {
		return nil, err
	}
	// In the order they were made: their numbers have no leading zeros.
	slices.SortFunc(found, func(a, b kms.Version) int {
		if len(a.Name) != len(b.Name) {
			return len(a.Name) - len(b.Name)
		}
		return strings.Compare(a.Name, b.Name)
	})
	all := make([]signing.Version, len(found))
	for i, v := range found {
		all[i] = signing.Version{Name: v.Name, State: states[v.State]}
		if v.Foreign {
			all[i].State = signing.VersionForeign
		}
	}
	return all, nil
}

var states = map[kms.State]signing.VersionState{
	kms.Pending: signing.VersionPending, kms.Enabled: signing.VersionEnabled,
	kms.Disabled: signing.VersionDisabled, kms.Destroyed: signing.VersionDestroyed,
}

// rootLife is how long the certificate of a root is good: an application may carry an old pinned root for years.
const rootLife = 10 * 365 * 24 * time.Hour

// publishRoot keeps the public half of a version, certified by the active root if there is one.
func (r *Rotation) publishRoot(ctx context.Context, step signing.Step, now time.Time, keys []signing.Key) error {
	public, err := r.Vault.PublicKey(ctx, step.Version)
	if err != nil {
		return err
	}
	kid, der, err := describe(public)
	if err != nil {
		return err
	}
	var certificate []byte
	var issuer *string
	now = now.UTC()
	if active := signing.ActiveRoot(keys); active != nil {
		root, err := r.root(ctx, active)
		if err != nil {
			return err
		}
		if certificate, err = receipt.CertifyRoot(public, now.Truncate(time.Second), now.Add(rootLife), root); err != nil {
			return err
		}
		issuer = &active.ID
	}
	return r.write(ctx, `
		INSERT INTO app.signing_keys (kid, kind, public_key, certificate, issuer_kid, kms_version, created_at, published_at)
		VALUES ($1, 'root', $2, $3, $4, $5, $6, $6)
		ON CONFLICT DO NOTHING`, kid, der, certificate, issuer, step.Version, now)
}

func describe(public *ecdsa.PublicKey) (kid string, der []byte, err error) {
	if kid, err = receipt.Thumbprint(public); err != nil {
		return "", nil, err
	}
	der, err = x509.MarshalPKIXPublicKey(public)
	return kid, der, err
}

// root signs with a root that we know.
func (r *Rotation) root(ctx context.Context, key *signing.Key) (crypto.Signer, error) {
	var der []byte
	err := r.DB.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`SELECT public_key FROM app.signing_keys WHERE kid = $1`, key.ID).
			QueryRow(func(row pgx.Row) error { return row.Scan(&der) })
	})
	if err != nil {
		return nil, fmt.Errorf("read root %s: %w", key.ID, err)
	}
	public, err := signing.ParsePublic(der)
	if err != nil {
		return nil, err
	}
	return r.Vault.Signer(ctx, key.Version, public), nil
}

// activateRoot lets a root sign, and the one before sign no more, at once. The index of the one active root refuses a
// second that was decided on meanwhile; the next look sees it.
func (r *Rotation) activateRoot(ctx context.Context, step signing.Step, now time.Time) error {
	err := r.DB.As(ctx, tenancy.ID{}, func(tx tenancy.Tx) error {
		// Whoever was first has activated it: then there is nothing to retire.
		_, err := tx.Exec(ctx, `
			UPDATE app.signing_keys
			   SET retired_at = $2
			 WHERE kind = 'root' AND activated_at IS NOT NULL AND retired_at IS NULL AND revoked_at IS NULL AND kid <> $1
			   AND EXISTS (SELECT FROM app.signing_keys n WHERE n.kid = $1 AND n.activated_at IS NULL AND n.revoked_at IS NULL)`, step.Key, now)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE app.signing_keys
			   SET activated_at = $2
			 WHERE kid = $1 AND kind = 'root' AND activated_at IS NULL AND revoked_at IS NULL AND retired_at IS NULL`, step.Key, now)
		return err
	})
	if tenancy.Code(err) == uniqueViolation {
		return nil
	}
	return err
}

const uniqueViolation = "23505"

// noteRoot writes down what Cloud KMS says of a version.
func (r *Rotation) noteRoot(ctx context.Context, step signing.Step, now time.Time) error {
	found, err := r.Vault.Versions(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(found, func(v kms.Version) bool { return v.Name == step.Version })
	if i < 0 {
		return errors.New("the version is not there any more")
	}
	return r.write(ctx, `
		UPDATE app.signing_keys
		   SET disabled_at = coalesce(disabled_at, $2), destroyed_at = CASE WHEN $3 THEN coalesce(destroyed_at, $2) END
		 WHERE kid = $1`, step.Key, now, found[i].State == kms.Destroyed)
}

// makeReceiptKey makes the key of a turn. Of two at once one is kept: the index of a turn's key says which.
func (r *Rotation) makeReceiptKey(ctx context.Context, step signing.Step, now time.Time, keys []signing.Key) error {
	active := signing.ActiveRoot(keys)
	root, err := r.root(ctx, active)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	kid, der, err := describe(&key.PublicKey)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	wrapped, err := r.Vault.Wrap(ctx, kid, private)
	if err != nil {
		return err
	}
	certificate, err := receipt.CertifyReceiptKey(&key.PublicKey, step.From, step.Until, root)
	if err != nil {
		return err
	}
	return r.write(ctx, `
		INSERT INTO app.signing_keys (kid, kind, public_key, certificate, issuer_kid, wrapped_key, not_before, not_after, created_at, published_at)
		SELECT $1, 'receipt', $2, $3, $4, $5, $6, $7, $8, $8
		 WHERE EXISTS (SELECT FROM app.signing_keys i WHERE i.kid = $4 AND i.revoked_at IS NULL)
		ON CONFLICT DO NOTHING`, kid, der, certificate, active.ID, wrapped, step.From, step.Until, now)
}

// ring is the newest ring; an empty one when there is none yet.
func (r *Rotation) ring(ctx context.Context) (secret.Ring, error) {
	text, err := r.Ring.Latest(ctx)
	if errors.Is(err, secretmanager.ErrNoVersion) {
		return secret.Ring{}, nil
	}
	if err != nil {
		return secret.Ring{}, err
	}
	return secret.ParseRing(string(text))
}

// writeRing adds a version with another ring.
func (r *Rotation) writeRing(ctx context.Context, step signing.Step) error {
	ring, err := r.ring(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(ring.Names(), step.Key) == (step.Do == signing.MakeMAC) {
		return nil // another run has done it
	}
	switch step.Do {
	case signing.MakeMAC:
		ring, err = ring.With(step.Key, newMAC(), step.Front)
	case signing.FrontMAC:
		ring, err = ring.Fronted(step.Key)
	case signing.DropMAC:
		ring, err = ring.Without(step.Key)
	}
	if err != nil {
		return err
	}
	return r.Ring.Add(ctx, []byte(ring.Reveal()))
}

func newMAC() []byte {
	key := make([]byte, secret.MinBytes)
	_, _ = rand.Read(key) // never fails
	return key
}

// noteMAC writes down what the ring says of a key.
func (r *Rotation) noteMAC(ctx context.Context, step signing.Step, now time.Time) error {
	ring, err := r.ring(ctx)
	if err != nil {
		return err
	}
	names := ring.Names()
	at := slices.Index(names, step.Key)
	return r.DB.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		if at < 0 {
			b.Queue(`UPDATE app.signing_keys SET destroyed_at = $2 WHERE kid = $1 AND kind = 'mac' AND destroyed_at IS NULL`, step.Key, now)
			return
		}
		b.Queue(`
			INSERT INTO app.signing_keys (kid, kind, created_at, published_at)
			VALUES ($1, 'mac', $2, $2)
			ON CONFLICT DO NOTHING`, step.Key, now)
		if at > 0 {
			return
		}
		b.Queue(`
			UPDATE app.signing_keys
			   SET retired_at = $2
			 WHERE kind = 'mac' AND kid <> $1 AND activated_at IS NOT NULL AND retired_at IS NULL AND revoked_at IS NULL`, step.Key, now)
		b.Queue(`UPDATE app.signing_keys SET activated_at = $2 WHERE kid = $1 AND kind = 'mac' AND activated_at IS NULL`, step.Key, now)
	})
}

// errNoSuchKey is answered for a key that nobody knows.
var errNoSuchKey = fault.NotFound("not_found", "There is no signing key with this id.")

// Order is who takes keys out of use, and how that is recorded.
type Order struct {
	// Tenant is the operator's own.
	Tenant tenancy.ID
	// Reason is the operator's, 1 to 500 characters; of a retirement it is not kept with the key.
	Reason string
	// By is who, as in api_key:…
	By string
	// Record is called in the transaction, last, with the keys that were taken out of use, when there are any.
	Record func(tx tenancy.Tx, kids []string) error
}

// Revoke withdraws a key, and with a root every receipt key that it certified: nothing they signed is believed any more.
// What replaces them is for Run to make. Again it changes nothing.
func (r *Rotation) Revoke(ctx context.Context, kid string, o Order) (revoked []string, err error) {
	now, err := r.Now(ctx)
	if err != nil {
		return nil, err
	}
	err = r.DB.As(ctx, o.Tenant, func(tx tenancy.Tx) error {
		var kind string
		if err := tx.QueryRow(ctx, `SELECT kind FROM app.signing_keys WHERE kid = $1`, kid).Scan(&kind); errors.Is(err, pgx.ErrNoRows) {
			return errNoSuchKey
		} else if err != nil {
			return fmt.Errorf("find signing key %s: %w", kid, err)
		}
		rows, err := tx.Query(ctx, `
			UPDATE app.signing_keys
			   SET revoked_at = $2, revoked_reason = $3, revoked_by = $4
			 WHERE (kid = $1 OR kind = 'receipt' AND issuer_kid = $1) AND revoked_at IS NULL
			RETURNING kid`, kid, now, o.Reason, o.By)
		if err != nil {
			return fmt.Errorf("revoke signing key %s: %w", kid, err)
		}
		if revoked, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return fmt.Errorf("revoke signing key %s: %w", kid, err)
		}
		return o.record(tx, revoked)
	})
	return revoked, err
}

func (o Order) record(tx tenancy.Tx, kids []string) error {
	if len(kids) == 0 {
		return nil
	}
	return o.Record(tx, kids)
}

// Retire lets the keys of a kind that sign now sign no more. What replaces them is for Run to make.
func (r *Rotation) Retire(ctx context.Context, kind signing.Kind, o Order) (retired []string, err error) {
	now, err := r.Now(ctx)
	if err != nil {
		return nil, err
	}
	err = r.DB.As(ctx, o.Tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `
			UPDATE app.signing_keys
			   SET retired_at = $2
			 WHERE kind = $1 AND retired_at IS NULL AND revoked_at IS NULL
			   AND CASE kind WHEN 'receipt' THEN not_before <= $2 AND not_after > $2 ELSE activated_at IS NOT NULL END
			RETURNING kid`, string(kind), now)
		if err != nil {
			return fmt.Errorf("retire the %s keys: %w", kind, err)
		}
		if retired, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return fmt.Errorf("retire the %s keys: %w", kind, err)
		}
		return o.record(tx, retired)
	})
	return retired, err
}
