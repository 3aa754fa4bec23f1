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
	"github.com/coditect/usher/shared/tenancy"
)

// Signer makes a compact JWS of a type, as *signing.Roots does.
type Signer func(ctx context.Context, typ string, claims json.Marshaler) (string, error)

// Checkpoints write the signed heads of audit chains to the journal. All fields are needed.
type Checkpoints struct {
	// DB is that of a role in the group usher_checkpoints.
	DB      *tenancy.DB
	Journal *Journal
	// Sign signs with the active root; Issuer is in whose name.
	Sign   Signer
	Issuer string
	Log    *slog.Logger
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
	tenantsAtOnce = 200 // are listed
	writersAtOnce = 8
)

// Run writes a checkpoint for each tenant whose chain has grown since its last one, at most one a minute for each. It may be
// called twice, or at once with itself, and may end anywhere: a checkpoint is created under its number, one above the last,
// and holds more than the last. What cannot be written now waits; the error says why, and the report what was done all the same.
func (c Checkpoints) Run(ctx context.Context) (Report, error) {
	if c.Journal.Off() {
		return Report{Off: true}, nil
	}
	var written, waiting atomic.Int64
	var rewritten collected
	var errs []error
	for after := uuid.Nil; ; {
		page, err := c.pending(ctx, after)
		if err != nil {
			errs = append(errs, err)
			break
		}
		var writers errgroup.Group
		writers.SetLimit(writersAtOnce)
		var failed atomic.Pointer[error]
		for _, tenant := range page {
			writers.Go(func() error {
				outcome, err := c.one(ctx, tenancy.Verified(tenant))
				switch {
				case err != nil:
					err = fmt.Errorf("checkpoint of tenant %s: %w", tenant, err)
					failed.CompareAndSwap(nil, &err)
				case outcome == checkpointWritten:
					written.Add(1)
				case outcome == checkpointWaits:
					waiting.Add(1)
				case outcome == checkpointDisagrees:
					rewritten.add(tenancy.Verified(tenant))
				}
				return nil
			})
		}
		_ = writers.Wait() // none fails
		if err := failed.Load(); err != nil {
			errs = append(errs, *err)
			break // the store is out for the others, too
		}
		if len(page) < tenantsAtOnce {
			break
		}
		after = page[len(page)-1]
	}
	return Report{
		Written: written.Load(), Waiting: waiting.Load(), Disagreeing: int64(len(rewritten.all)), Rewritten: rewritten.all,
	}, errors.Join(errs...)
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

// pending lists tenants whose chain is longer than what the database knows to be in the journal.
func (c Checkpoints) pending(ctx context.Context, after uuid.UUID) (tenants []uuid.UUID, err error) {
	err = c.DB.Across(ctx, "checkpoints: whose audit chain has grown", func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT tenant_id FROM app.pending_checkpoints($1, $2)`, after, tenantsAtOnce)
		if err != nil {
			return err
		}
		tenants, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tenants with new audit entries: %w", err)
	}
	return tenants, nil
}

// what becomes of a tenant's checkpoint.
type outcome uint8

const (
	checkpointKnown outcome = iota
	checkpointWritten
	checkpointWaits
	checkpointDisagrees
)

func (c Checkpoints) one(ctx context.Context, tenant tenancy.ID) (outcome, error) {
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
	case chain.Head.Seq == newest.Seq: // a run that wrote it did not live to say so
		return checkpointKnown, c.known(ctx, tenant, newest.Seq)
	case !newest.At.IsZero() && !now.Truncate(time.Minute).After(newest.At):
		return checkpointWaits, nil
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
		Number: next.Number, Tenant: next.Tenant, Seq: next.Seq, Hash: next.Hash.String(), At: next.At, Signed: signed,
	})
	if errors.Is(err, errExists) { // another run was faster
		return checkpointWaits, nil
	}
	if err != nil {
		return 0, err
	}
	return checkpointWritten, c.known(ctx, tenant, next.Seq)
}

// known notes in the database how far the journal has a chain, so that it is not asked in vain. It is a hint: whoever changes it
// delays a checkpoint, and alters none.
func (c Checkpoints) known(ctx context.Context, tenant tenancy.ID, seq int64) error {
	return c.DB.Batch(ctx, tenant, func(b *tenancy.Batch) {
		b.Queue(`
			INSERT INTO app.checkpoints (tenant_id, seq) VALUES ($1, $2) ON CONFLICT DO NOTHING`, tenant.UUID(), seq)
		b.Queue(`DELETE FROM app.checkpoints WHERE tenant_id = $1 AND seq < $2`, tenant.UUID(), seq)
	})
}

// checkpointDocument is a checkpoint as Firestore keeps it.
type checkpointDocument struct {
	Number int64     `firestore:"number"`
	Tenant string    `firestore:"tenant"`
	Seq    int64     `firestore:"seq"`
	Hash   string    `firestore:"hash"`
	At     time.Time `firestore:"at"`
	Signed string    `firestore:"signed"`
}

func (d *checkpointDocument) read() (auditchain.Checkpoint, error) {
	point := auditchain.Checkpoint{Number: d.Number, Tenant: d.Tenant, Seq: d.Seq, At: d.At.UTC(), Signed: d.Signed}
	return point, point.Hash.UnmarshalText([]byte(d.Hash))
}

func checkpointsOf(tenant string) string { return "chains/" + tenant + "/checkpoints" }

func checkpointPath(tenant string, number int64) string {
	return fmt.Sprintf("%s/%012d", checkpointsOf(tenant), number)
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
func (j *Journal) Checkpoints(ctx context.Context, tenant tenancy.ID, after int64, limit int) (all []auditchain.Checkpoint, err error) {
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
