// Command verify-audit verifies the audit logs of all tenants, the operator's own first, or of one: -tenant ID. It reads
// OPERATOR_DATABASE_URL, and prints a line for each tenant, with the head of its chain, and one for each entry that was
// altered, dropped or inserted. Exit code 0: all are whole; 1: some are not, or something failed; 2: the environment or a
// flag is wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/identity"
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
	if err := flags.Parse(args); err != nil {
		return 2
	}
	db, err := admin.OpenOperator(ctx, getenv, slog.New(slog.NewTextHandler(messages, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		fmt.Fprintln(messages, err)
		return 2
	}
	defer db.Close()
	v := verification{db: db, tenants: identity.NewTenants(db), out: out}
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
	db      *tenancy.DB
	tenants *identity.Tenants
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
			if err := v.one(ctx, after); err != nil {
				return err
			}
		}
		if len(some) < page {
			return nil
		}
	}
}

func (v *verification) one(ctx context.Context, id uuid.UUID) error {
	tenant, err := v.tenants.Find(ctx, id)
	if err != nil {
		return err
	}
	chain, result, err := audit.Verify(ctx, v.db, tenant)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(v.out, "%s: %d entries, head %d %s\n", tenant, result.Entries, chain.Head.Seq, chain.Head.Hash); err != nil {
		return err
	}
	for _, p := range result.Problems {
		v.broken = true
		if _, err := fmt.Fprintf(v.out, "%s: %s\n", tenant, p); err != nil {
			return err
		}
	}
	return nil
}
