// Package audit keeps each security- or money-relevant act: who did what, on what, from where, with which credential and
// with what outcome. An act is recorded in the transaction that does it, so that there is neither an act without its entry
// nor an entry without its act.
//
// The entries of a tenant are a chain that package auditchain verifies. They are numbered, dated and hashed by the
// database, and no role may write them otherwise: what a caller says may be wrong, but not whose it is, when it was, or
// what came before. The package must not know what the acts mean.
package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coditect/usher/shared/tenancy"
)

// Entry is an act to be recorded.
type Entry struct {
	// Action is a thing and what was done with it: license.suspended.
	Action string
	// Refused says that it was not done, because the actor may not.
	Refused bool
	// Actor is who did it, as in api_key:… or user:…
	Actor string
	// ByOperator says that the actor acted for the operator.
	ByOperator bool
	// Credential is what the actor showed; "" for a command that needs none.
	Credential string
	// Address is where the request came from; the zero Addr when there was none.
	Address netip.Addr
	// Subject is what it was done to, as in license:…
	Subject string
	// RequestID is what the logs know the request by.
	RequestID string
	// Details are what more there is to say, by name. They must not hold secrets. A text over longestDetail is cut.
	Details map[string]string
}

// The outcomes.
const (
	Done    = "done"
	Refused = "refused"
)

// longestDetail is how many bytes of a detail are kept.
const longestDetail = 4000

// Record appends the entry to the chain of the transaction's tenant. It is the last thing to do in the transaction: from
// here to the commit no other act of this tenant can be recorded.
func Record(ctx context.Context, tx tenancy.Tx, e Entry) error {
	return record(ctx, tx, e, nil)
}

// RecordOnce is Record, unless an entry of the same actor, action, subject and outcome is not older than within. It is for
// what somebody can have done as often as they like at no cost, such as showing a credential that is refused.
func RecordOnce(ctx context.Context, tx tenancy.Tx, e Entry, within time.Duration) error {
	seconds := within.Seconds()
	return record(ctx, tx, e, &seconds)
}

func record(ctx context.Context, tx tenancy.Tx, e Entry, within *float64) error {
	outcome, address := Done, ""
	if e.Refused {
		outcome = Refused
	}
	if e.Address.IsValid() {
		address = e.Address.String()
	}
	details := make(map[string]string, len(e.Details))
	for name, text := range e.Details {
		details[name] = cut(text)
	}
	raw, err := json.Marshal(details)
	if err != nil {
		return fmt.Errorf("record %s: %w", e.Action, err)
	}
	_, err = tx.Exec(ctx, `SELECT app.audit_record($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb, make_interval(secs => $10::float8))`,
		e.Action, outcome, e.Actor, e.ByOperator, e.Credential, address, e.Subject, e.RequestID, string(raw), within)
	if err != nil {
		return fmt.Errorf("record %s: %w", e.Action, err)
	}
	return nil
}

// cut is a text as it is kept: no longer than longestDetail, and without what PostgreSQL cannot store.
func cut(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "�"), "\x00", "�")
	if len(text) <= longestDetail {
		return text
	}
	end := longestDetail
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// MakePartitions makes the coming months' partitions of the entries, and says how many it made. It needs the sweep's role.
func MakePartitions(ctx context.Context, db *tenancy.DB) (made int, err error) {
	err = db.Across(ctx, "sweep: partitions of the audit log", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT app.make_audit_partitions($1)`, monthsAhead).Scan(&made)
	})
	if err != nil {
		return 0, fmt.Errorf("make partitions of the audit log: %w", err)
	}
	return made, nil
}

// monthsAhead is how many months have their partition before they begin.
const monthsAhead = 2
