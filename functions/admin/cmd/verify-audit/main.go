// Command verify-audit verifies the audit logs of all tenants, the operator's own first, or of one: -tenant ID. It reads
// OPERATOR_DATABASE_URL, and prints a line for each tenant, with the head of its chain, and one for each entry that was
// altered, dropped or inserted. With JOURNAL_* it compares each chain with the checkpoints in the journal, and names the first
// that disagrees: so it finds what was hashed anew by who owns the database. With -roots FILE it also believes no checkpoint that
// none of these roots signed. Exit code 0: all are whole; 1: some are not, or something failed; 2: the environment or a flag is
// wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/tenancy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, out, messages io.Writer) int {
	flags := flag.NewFlagSet("verify-audit", flag.ContinueOnError)
	flags.SetOutput(messages)
	only := flags.String("tenant", "", "verify the log of this tenant alone")
	pinned := flags.String("roots", "", "a PEM file with the public keys of the roots that may have signed checkpoints")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	var roots *receipt.Verifier
	if *pinned != "" {
		text, err := os.ReadFile(*pinned)
		if err != nil {
			fmt.Fprintln(messages, err)
			return 2
		}
		keys, err := receipt.ParseRoots(text)
		if err != nil {
			fmt.Fprintln(messages, "-roots:", err)
			return 2
		}
		roots = &receipt.Verifier{Roots: keys}
	}
	outside, err := journal.Open(ctx, getenv)
	if err != nil {
		fmt.Fprintln(messages, err)
		return 2
	}
	defer func() { _ = outside.Close() }()
	db, err := admin.OpenOperator(ctx, getenv, slog.New(slog.NewTextHandler(messages, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		fmt.Fprintln(messages, err)
		return 2
	}
	defer db.Close()
	v := verification{now: time.Now, db: db, tenants: identity.NewTenants(db), journal: outside, roots: roots, out: out}
	if outside.Off() {
		fmt.Fprintln(messages, "no chain is compared with its checkpoints: the journal is off (JOURNAL_PROJECT is not set)")
	}
	if *only != "" {
		id, err := uuid.Parse(*only)
		if err != nil {
			fmt.Fprintln(messages, "-tenant is no UUID")
			return 2
		}
		err = v.one(ctx, id)
		return v.end(err, messages)
	}
	return v.end(v.all(ctx), messages)
}

// verification goes from tenant to tenant.
type verification struct {
	now     func() time.Time
	db      *tenancy.DB
	tenants *identity.Tenants
	journal *journal.Journal
	roots   *receipt.Verifier // nil: checkpoints are believed unsigned
	out     io.Writer
	broken  bool
}

func (v *verification) end(err error, messages io.Writer) int {
	if err != nil {
		fmt.Fprintln(messages, err)
		return 1
	}
	if v.broken {
		return 1
	}
	return 0
}

// page is how many tenants are listed at once.
const page = 100

func (v *verification) all(ctx context.Context) error {
	seen := map[uuid.UUID]bool{identity.OperatorID: true}
	if err := v.one(ctx, identity.OperatorID); err != nil {
		return err
	}
	for after := uuid.Nil; ; {
		some, err := v.tenants.List(ctx, after, page)
		if err != nil {
			return err
		}
		for i := range some {
			after = some[i].ID
			seen[after] = true
			if err := v.one(ctx, after); err != nil {
				return err
			}
		}
		if len(some) < page {
			return v.gone(ctx, seen)
		}
	}
}

// gone names the tenants that have checkpoints and are not in the database any more.
func (v *verification) gone(ctx context.Context, seen map[uuid.UUID]bool) error {
	if v.journal.Off() {
		return nil
	}
	return v.journal.EachChain(ctx, func(tenant tenancy.ID) error {
		if seen[tenant.UUID()] {
			return nil
		}
		return v.problem(tenant, told("the journal has checkpoints of this tenant, and the database has no such tenant any more"))
	})
}

func (v *verification) one(ctx context.Context, id uuid.UUID) error {
	tenant, err := v.tenants.Find(ctx, id)
	if err != nil {
		return err
	}
	// The checkpoints first: each was the head of a chain that is not shorter when it is read afterwards.
	points, err := v.checkpoints(ctx, tenant)
	if err != nil {
		return err
	}
	comparison, chain, result, err := audit.VerifyWith(ctx, v.db, tenant, points)
	if err != nil {
		return err
	}
	compared := ""
	if !v.journal.Off() {
		compared = fmt.Sprintf(", %d checkpoints", comparison.Compared)
	}
	if _, err := fmt.Fprintf(v.out, "%s: %d entries%s, head %d %s\n", tenant, result.Entries, compared, chain.Head.Seq, chain.Head.Hash); err != nil {
		return err
	}
	for _, p := range result.Problems {
		if err := v.problem(tenant, p); err != nil {
			return err
		}
	}
	if v.journal.Off() {
		return nil
	}
	for _, p := range comparison.Problems(v.now()) {
		if err := v.problem(tenant, told(p)); err != nil {
			return err
		}
	}
	return nil
}

func (v *verification) problem(tenant tenancy.ID, what fmt.Stringer) error {
	v.broken = true
	_, err := fmt.Fprintf(v.out, "%s: %s\n", tenant, what)
	return err
}

// checkpointPage is how many checkpoints are read at once.
const checkpointPage = 500

// checkpoints are a tenant's that can be believed. One that is missing, or that no root signed, is a problem, and named.
func (v *verification) checkpoints(ctx context.Context, tenant tenancy.ID) (all []auditchain.Checkpoint, err error) {
	if v.journal.Off() {
		return nil, nil
	}
	for last := int64(0); ; {
		some, err := v.journal.Checkpoints(ctx, tenant.UUID(), last, checkpointPage)
		if err != nil {
			return nil, err
		}
		for _, p := range some {
			believed := v.believes(&p)
			if p.Number != last+1 && !(believed && p.FollowsExpired(v.now())) {
				err = v.problem(tenant, told(fmt.Sprintf("checkpoint %d is missing from the journal", last+1)))
			}
			if !believed {
				err = errors.Join(err, v.problem(tenant, told(fmt.Sprintf("checkpoint %d was not signed by a root that is known", p.Number))))
			}
			if err != nil {
				return nil, err
			}
			last, p.Signed = p.Number, ""
			if believed {
				all = append(all, p)
			}
		}
		if len(some) < checkpointPage {
			return all, nil
		}
	}
}

// believes says whether a root signed what the checkpoint says. Without roots everything is believed.
func (v *verification) believes(p *auditchain.Checkpoint) bool {
	if v.roots == nil {
		return true
	}
	signed, err := v.roots.Checkpoint(p.Signed)
	return err == nil && signed.Tenant == p.Tenant && signed.Number == p.Number && signed.Seq == p.Seq && signed.Hash == p.Hash.String() && signed.At.Equal(p.At)
}

// told is a problem in words.
type told string

func (t told) String() string { return string(t) }
