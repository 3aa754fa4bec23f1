package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// Signer makes a compact JWS of a type, as *signing.Roots does.
type Signer func(ctx context.Context, typ string, claims json.Marshaler) (string, error)

// Checkpoints write the signed heads of audit chains to the journal. What they remember of the journal is this instance's: nothing
// that the watched database says keeps a chain from being looked at. All exported fields are needed. It is safe for concurrent use.
type Checkpoints struct {
	// DB is that of a role in the group usher_checkpoints.
	DB      *tenancy.DB
	Journal *Journal
	// Sign signs with the active root; Issuer is in whose name.
	Sign   Signer
	Issuer string
	// Now is this instance's clock, which paces the asking alone.
	Now func() time.Time
	Log *slog.Logger

	mu sync.Mutex
	// known are the heads that this instance has found to be those of the journal's last checkpoints, by tenant; of who has
	// checkpoints and was not looked at yet, the zero Link.
	known map[tenancy.ID]auditchain.Link
	// listed is when the journal was last asked whose chains it has.
	listed time.Time
}

// Report is what a run did, in numbers.
type Report struct {
	// Off says that there is no journal, and that nothing was done.
	Off bool `json:"off"`
	// Written checkpoints.
	Written int64 `json:"written"`
	// Waiting tenants have new entries and a checkpoint of this minute: the next run is theirs.
	Waiting int64 `json:"waiting"`
	// Disagreeing tenants have a chain that is not the one of their last checkpoint. None is written for them any more.
	Disagreeing int64 `json:"disagreeing"`
	// Rewritten are who they are.
	Rewritten []tenancy.ID `json:"-"`
}

const (
	tenantsAtOnce = 1000 // are listed
	writersAtOnce = 8
	// knownFor is how long an instance goes by what it has read of the journal. Then it looks at each chain anew.
	knownFor = time.Hour
	// renewedAfter is how old the last checkpoint of a chain may become: then another one says the same, so that the last never comes to its end.
	renewedAfter = 365 * 24 * time.Hour
	// checkpointLife is how long Firestore keeps a checkpoint. What follows it is no younger by more than a year, and by a month
	// in which the watch does not run: that one is then as old as auditchain.CheckpointsKept, which says why others may be gone.
	checkpointLife = auditchain.CheckpointsKept + renewedAfter + 30*24*time.Hour
)

// Run writes a checkpoint for each tenant whose chain is not the one that the journal is known to have, at most one a minute for
// each. It looks at the chains that changed in any direction since this instance last looked, at those that the journal has and
// the database has not, and once an hour at all. It may be called twice, or at once with itself, and may end anywhere: a checkpoint is
// created under its number, one above the last, and holds more than the last, or after a year the same. What cannot be written now waits; the error says why,
// and the report what was done all the same.
func (c *Checkpoints) Run(ctx context.Context) (Report, error) {
	if c.Journal.Off() {
		return Report{Off: true}, nil
	}
	look, err := c.due(ctx)
	if err != nil {
		return Report{}, err
	}
	var written, waiting atomic.Int64
	var rewritten collected
	var failed failures
	var writers errgroup.Group
	writers.SetLimit(writersAtOnce)
	for _, tenant := range look {
		if failed.out.Load() {
			break // the store is out for the others, too
		}
		writers.Go(func() error {
			outcome, err := c.one(ctx, tenant)
			switch {
			case err != nil:
				failed.add(fmt.Errorf("checkpoint of tenant %s: %w", tenant, err))
			case outcome == checkpointWritten:
				written.Add(1)
			case outcome == checkpointWaits:
				waiting.Add(1)
			case outcome == checkpointDisagrees:
				rewritten.add(tenant)
			}
			return nil
		})
	}
	_ = writers.Wait() // none fails
	return Report{
		Written: written.Load(), Waiting: waiting.Load(), Disagreeing: int64(len(rewritten.all)), Rewritten: rewritten.all,
	}, errors.Join(failed.all...)
}

// due are the tenants whose chains are to be looked at.
func (c *Checkpoints) due(ctx context.Context) ([]tenancy.ID, error) {
	heads, err := c.heads(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.Now(); c.listed.IsZero() || now.Sub(c.listed) >= knownFor || now.Before(c.listed) {
		all := map[tenancy.ID]auditchain.Link{}
		err := c.Journal.EachChain(ctx, func(tenant tenancy.ID) error {
			all[tenant] = auditchain.Link{}
			return nil
		})
		if err != nil {
			return nil, err
		}
		c.known, c.listed = all, now
	}
	var look []tenancy.ID
	for tenant, head := range heads {
		if c.known[tenant] != head {
			look = append(look, tenant)
		}
	}
	for tenant := range c.known {
		if _, there := heads[tenant]; !there {
			look = append(look, tenant)
		}
	}
	return look, nil
}

// remember notes that the journal's last checkpoint of a tenant has this head.
func (c *Checkpoints) remember(tenant tenancy.ID, head auditchain.Link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[tenant] = head
}

// isListed says whether the journal is known to have the tenant among its Chains.
func (c *Checkpoints) isListed(tenant tenancy.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, listed := c.known[tenant]
	return listed
}

// heads are what the database says that the heads of all chains are.
func (c *Checkpoints) heads(ctx context.Context) (map[tenancy.ID]auditchain.Link, error) {
	heads := map[tenancy.ID]auditchain.Link{}
	for after := uuid.Nil; ; {
		listed := 0
		err := c.DB.Across(ctx, "checkpoints: whose audit chain has grown", func(tx tenancy.Tx) error {
			rows, err := tx.Query(ctx, `SELECT tenant_id, seq, hash FROM app.audit_heads($1, $2)`, after, tenantsAtOnce)
			if err != nil {
				return err
			}
			var head auditchain.Link
			var hash []byte
			_, err = pgx.ForEachRow(rows, []any{&after, &head.Seq, &hash}, func() error {
				listed++
				head.Hash = auditchain.Hash{}
				copy(head.Hash[:], hash)
				heads[tenancy.Verified(after)] = head
				return nil
			})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list the heads of the audit chains: %w", err)
		}
		if listed < tenantsAtOnce {
			return heads, nil
		}
	}
}

// collected are tenants that several writers found.
type collected struct {
	mu  sync.Mutex
	all []tenancy.ID
}

func (c *collected) add(tenant tenancy.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, tenant)
}

// failures are errors of several writers; out says that one of them is that a store is out.
type failures struct {
	mu  sync.Mutex
	all []error
	out atomic.Bool
}

func (f *failures) add(err error) {
	if known := fault.As(err); known != nil && known.Kind == fault.KindUnavailable {
		f.out.Store(true)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, err)
}

// what becomes of a tenant's checkpoint.
type outcome uint8

const (
	checkpointKnown outcome = iota
	checkpointWritten
	checkpointWaits
	checkpointDisagrees
)

func (c *Checkpoints) one(ctx context.Context, tenant tenancy.ID) (outcome, error) {
	// The newest first: what the chain is read to say then cannot be older.
	newest, err := c.Journal.newestCheckpoint(ctx, tenant)
	if err != nil {
		return 0, err
	}
	var chain auditchain.Chain
	var now time.Time
	agrees := true
	err = c.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) (err error) {
		if chain, err = audit.ReadChain(ctx, tx, tenant); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
			return err
		}
		agrees, err = audit.Holds(ctx, tx, tenant, newest.Link(), newest.At)
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case !agrees || chain.Head.Seq < newest.Seq:
		c.Log.ErrorContext(ctx, "an audit chain is not the one of its last checkpoint", "tenant", tenant.String(), "seq", newest.Seq, "checkpoint", newest.Number)
		return checkpointDisagrees, nil
	case chain.Head.Seq == newest.Seq && (newest.Number == 0 || c.Now().Sub(newest.At) < renewedAfter):
		c.remember(tenant, chain.Head)
		return checkpointKnown, nil
	case !newest.At.IsZero() && !now.Truncate(time.Minute).After(newest.At):
		return checkpointWaits, nil
	}
	if !c.isListed(tenant) {
		if err := c.Journal.createOnce(ctx, chainPath(tenant.String()), chainDocument{tenant.String()}); err != nil {
			return 0, err
		}
	}
	next := auditchain.Checkpoint{
		Number: newest.Number + 1, Tenant: tenant.String(), Seq: chain.Head.Seq, Hash: chain.Head.Hash, At: now.UTC().Truncate(time.Millisecond),
	}
	signed, err := c.Sign(ctx, receipt.TypeCheckpoint, receipt.Checkpoint{
		Issuer: c.Issuer, Number: next.Number, Tenant: next.Tenant, Seq: next.Seq, Hash: next.Hash.String(), At: next.At,
	})
	if err != nil {
		return 0, err
	}
	err = c.Journal.create(ctx, checkpointPath(tenant.String(), next.Number), checkpointDocument{
		Number: next.Number, Tenant: next.Tenant, Seq: next.Seq, Hash: next.Hash.String(), At: next.At, Signed: signed, Expires: next.At.Add(checkpointLife),
	})
	if errors.Is(err, errExists) { // another run was faster
		return checkpointWaits, nil
	}
	if err != nil {
		return 0, err
	}
	c.remember(tenant, next.Link())
	return checkpointWritten, nil
}

// checkpointDocument is a checkpoint as Firestore keeps it.
type checkpointDocument struct {
	Number int64     `firestore:"number"`
	Tenant string    `firestore:"tenant"`
	Seq    int64     `firestore:"seq"`
	Hash   string    `firestore:"hash"`
	At     time.Time `firestore:"at"`
	Signed string    `firestore:"signed"`
	// Expires is when Firestore may delete it (infra/journal.tf).
	Expires time.Time `firestore:"expires"`
}

func (d *checkpointDocument) read() (auditchain.Checkpoint, error) {
	point := auditchain.Checkpoint{Number: d.Number, Tenant: d.Tenant, Seq: d.Seq, At: d.At.UTC(), Signed: d.Signed}
	return point, point.Hash.UnmarshalText([]byte(d.Hash))
}

const chains = "chains"

func checkpointsOf(tenant string) string { return chainPath(tenant) + "/checkpoints" }

func checkpointPath(tenant string, number int64) string {
	return fmt.Sprintf("%s/%012d", checkpointsOf(tenant), number)
}

// chainDocument says that a tenant has checkpoints, from before the first on: of a collection that nothing stands in itself, what is under it
// cannot be listed.
type chainDocument struct {
	Tenant string `firestore:"tenant"`
}

func chainPath(tenant string) string { return chains + "/" + tenant }

// Chains answers up to limit of the tenants that have checkpoints, whatever has become of them in the database, from the one after
// that id on. Errors: ErrOff, fault.Unavailable.
func (j *Journal) Chains(ctx context.Context, after uuid.UUID, limit int) (tenants []tenancy.ID, err error) {
	err = j.list(ctx, chains, func(q firestore.Query) firestore.Query {
		return q.OrderBy(firestore.DocumentID, firestore.Asc).StartAfter(after.String()).Limit(limit)
	}, func(found *firestore.DocumentSnapshot) error {
		id, err := uuid.Parse(found.Ref.ID)
		if err == nil {
			tenants = append(tenants, tenancy.Verified(id))
		}
		return err
	})
	return tenants, err
}

// EachChain calls each with all of them. Errors: as Chains, and each's.
func (j *Journal) EachChain(ctx context.Context, each func(tenancy.ID) error) error {
	for after := uuid.Nil; ; {
		some, err := j.Chains(ctx, after, PageSize)
		if err != nil {
			return err
		}
		for _, tenant := range some {
			after = tenant.UUID()
			if err := each(tenant); err != nil {
				return err
			}
		}
		if len(some) < PageSize {
			return nil
		}
	}
}

// newestCheckpoint answers a tenant's last checkpoint; the zero Checkpoint when there is none.
func (j *Journal) newestCheckpoint(ctx context.Context, tenant tenancy.ID) (newest auditchain.Checkpoint, err error) {
	err = j.list(ctx, checkpointsOf(tenant.String()), func(q firestore.Query) firestore.Query {
		return q.OrderBy("number", firestore.Desc).Limit(1)
	}, func(found *firestore.DocumentSnapshot) (err error) {
		newest, err = readCheckpoint(found)
		return err
	})
	return newest, err
}

// Checkpoints answers up to limit of a tenant's checkpoints, in their order, from the one after the number on. None of their
// signatures has been verified. Errors: ErrOff, fault.Unavailable.
func (j *Journal) Checkpoints(ctx context.Context, tenant uuid.UUID, after int64, limit int) (all []auditchain.Checkpoint, err error) {
	err = j.list(ctx, checkpointsOf(tenant.String()), func(q firestore.Query) firestore.Query {
		return q.Where("number", ">", after).OrderBy("number", firestore.Asc).Limit(limit)
	}, func(found *firestore.DocumentSnapshot) error {
		point, err := readCheckpoint(found)
		all = append(all, point)
		return err
	})
	return all, err
}

func readCheckpoint(found *firestore.DocumentSnapshot) (auditchain.Checkpoint, error) {
	var d checkpointDocument
	if err := found.DataTo(&d); err != nil {
		return auditchain.Checkpoint{}, err
	}
	return d.read()
}
