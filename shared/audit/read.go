package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/shared/tenancy"
)

// Filter says which entries are asked for; what is left empty asks for all.
type Filter struct {
	Action, Actor, Subject, Outcome string
	// From and To bound the time; From is within, To is not.
	From, To *time.Time
}

// Place is between the entries of a chain. The zero Place is before the first.
type Place struct {
	At  time.Time
	Seq int64
}

// End is behind the last entry.
func End() Place { return Place{time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), 0} }

const entryColumns = `e.seq, e.at, e.action, e.outcome, e.actor, e.by_operator, e.credential, e.address, e.subject, e.request_id,
	       e.details::text, e.previous, e.hash`

// List answers up to limit entries of a tenant that are before the place, the newest first.
func List(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, f Filter, before Place, limit int) ([]auditchain.Entry, error) {
	sql := `
		SELECT ` + entryColumns + `
		  FROM app.audit_entries e
		 WHERE e.tenant_id = $1 AND (e.at, e.seq) < ($2, $3)`
	args := []any{tenant.UUID(), before.At, before.Seq, limit}
	and := func(condition string, value any) {
		args = append(args, value)
		sql += " AND " + condition + " $" + strconv.Itoa(len(args))
	}
	for _, equal := range []struct{ column, value string }{
		{"e.action", f.Action}, {"e.actor", f.Actor}, {"e.subject", f.Subject}, {"e.outcome", f.Outcome},
	} {
		if equal.value != "" {
			and(equal.column+" =", equal.value)
		}
	}
	if f.From != nil {
		and("e.at >=", *f.From)
	}
	if f.To != nil {
		and("e.at <", *f.To)
	}
	rows, err := tx.Query(ctx, sql+` ORDER BY e.at DESC, e.seq DESC LIMIT $4`, args...)
	if err != nil {
		return nil, fmt.Errorf("list the audit log: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (auditchain.Entry, error) { return scanEntry(row) })
	if err != nil {
		return nil, fmt.Errorf("list the audit log: %w", err)
	}
	return all, nil
}

// ReadChain answers where a tenant's chain begins and ends.
func ReadChain(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID) (auditchain.Chain, error) {
	chain, err := scanChain(tenant, tx.QueryRow(ctx, `
		SELECT start_seq, start_hash, seq, hash FROM app.audit_chains WHERE tenant_id = $1`, tenant.UUID()))
	if err != nil && !errors.Is(err, pgx.ErrNoRows) { // whose first act is still to come
		return chain, fmt.Errorf("read the audit log's ends: %w", err)
	}
	return chain, nil
}

// Holds says whether the chain still has an entry as it was once: of that number, with that hash, not written after the time. Of
// an entry that is not kept any more because it is older than auditchain.Kept nobody can say, and it answers yes.
func Holds(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, at auditchain.Link, written time.Time) (bool, error) {
	var holds bool
	// Backwards in the order of the key, where the entry is among the first.
	err := tx.QueryRow(ctx, `
		SELECT $2 = 0
		    OR coalesce((SELECT $2 = c.start_seq AND $3 = c.start_hash OR $2 < c.start_seq AND $4 < now() - $5::interval
		                   FROM app.audit_chains c WHERE c.tenant_id = $1), false)
		    OR coalesce((SELECT e.seq = $2 AND e.hash = $3
		                   FROM app.audit_entries e
		                  WHERE e.tenant_id = $1 AND e.at <= $4::timestamptz + interval '1 minute' AND e.seq <= $2
		                  ORDER BY e.at DESC, e.seq DESC LIMIT 1), false)`,
		tenant.UUID(), at.Seq, at.Hash[:], written, auditchain.Kept).Scan(&holds)
	if err != nil {
		return false, fmt.Errorf("read an entry of the audit log: %w", err)
	}
	return holds, nil
}

// atOnce is how many entries a verification reads at once.
const atOnce = 2000

// Verify reads a tenant's chain as it is now, and says what is wrong with it. It holds nobody up, however long it takes:
// what is appended meanwhile is left to the next. The chain's ends come with the result.
func Verify(ctx context.Context, db *tenancy.DB, tenant tenancy.ID) (auditchain.Chain, auditchain.Result, error) {
	_, chain, result, err := VerifyWith(ctx, db, tenant, nil)
	return chain, result, err
}

// VerifyWith is Verify, and compares the chain with its checkpoints, which are in their order.
func VerifyWith(ctx context.Context, db *tenancy.DB, tenant tenancy.ID, points []auditchain.Checkpoint) (*auditchain.Comparison, auditchain.Chain, auditchain.Result, error) {
	for {
		chain, err := readChain(ctx, db, tenant)
		if err != nil {
			return nil, chain, auditchain.Result{}, err
		}
		comparison, all := auditchain.Compare(chain, points, entries(ctx, db, tenant, chain))
		result, err := auditchain.Verify(chain, all)
		if err != nil || result.Problems == nil && comparison.First == nil {
			return comparison, chain, result, err
		}
		// What seems to be missing may have been dropped meanwhile because it is old.
		if now, err := readChain(ctx, db, tenant); err != nil || now.Start == chain.Start {
			return comparison, chain, result, err
		}
	}
}

func readChain(ctx context.Context, db *tenancy.DB, tenant tenancy.ID) (chain auditchain.Chain, err error) {
	err = db.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) (err error) {
		chain, err = ReadChain(ctx, tx, tenant)
		return err
	})
	return chain, err
}

// entries reads a chain in its order, up to the head that the chain had; and what stands beyond it, unless it was appended
// since.
func entries(ctx context.Context, db *tenancy.DB, tenant tenancy.ID, chain auditchain.Chain) iter.Seq2[auditchain.Entry, error] {
	return func(yield func(auditchain.Entry, error) bool) {
		var after Place
		for {
			var page []auditchain.Entry
			err := db.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
				// What came since is between the head then and the head now: in one statement, so that both are of one moment.
				rows, err := tx.Query(ctx, `
					SELECT `+entryColumns+`
					  FROM app.audit_entries e
					 WHERE e.tenant_id = $1 AND (e.at, e.seq) > ($2, $3)
					   AND NOT (e.seq > $5 AND e.seq <= (SELECT c.seq FROM app.audit_chains c WHERE c.tenant_id = $1))
					 ORDER BY e.at, e.seq LIMIT $4`, tenant.UUID(), after.At, after.Seq, atOnce, chain.Head.Seq)
				if err != nil {
					return err
				}
				page, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (auditchain.Entry, error) { return scanEntry(row) })
				return err
			})
			if err != nil {
				yield(auditchain.Entry{}, fmt.Errorf("read the audit log: %w", err))
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
			if len(page) < atOnce {
				return
			}
			last := page[len(page)-1]
			after = Place{last.At, last.Seq}
		}
	}
}

func scanChain(tenant tenancy.ID, row pgx.Row) (auditchain.Chain, error) {
	chain := auditchain.Chain{Tenant: tenant.String()}
	var start, head []byte
	err := row.Scan(&chain.Start.Seq, &start, &chain.Head.Seq, &head)
	copy(chain.Start.Hash[:], start)
	copy(chain.Head.Hash[:], head)
	return chain, err
}

func scanEntry(row pgx.Row) (e auditchain.Entry, err error) {
	var details string
	var previous, hash []byte
	if err := row.Scan(&e.Seq, &e.At, &e.Action, &e.Outcome, &e.Actor, &e.ByOperator, &e.Credential, &e.Address, &e.Subject,
		&e.RequestID, &details, &previous, &hash); err != nil {
		return e, err
	}
	e.At = e.At.UTC()
	copy(e.Previous[:], previous)
	copy(e.Hash[:], hash)
	e.Details, err = readDetails(details)
	return e, err
}

// readDetails reads the details of an entry. What is no text was not written by Record: it is shown so that no hash of an
// entry can be that of another.
func readDetails(raw string) (map[string]string, error) {
	var all map[string]any
	if err := json.Unmarshal([]byte(raw), &all); err != nil {
		return nil, err
	}
	details := make(map[string]string, len(all))
	for name, value := range all {
		text, ok := value.(string)
		if !ok {
			text = fmt.Sprintf("\x00%v", value)
		}
		details[name] = text
	}
	return details, nil
}
