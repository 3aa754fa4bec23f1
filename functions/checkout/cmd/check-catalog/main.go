// Command check-catalog holds STRIPE_CATALOG against the prices of the Stripe account, and names every difference, one a line,
// on standard output. It reads STRIPE_* as function checkout does, and changes nothing. Exit code 0: they agree; 1: they do
// not; 2: the environment is wrong, or Stripe does not answer.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/coditect/usher/shared/billing"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, getenv func(string) string, out, messages io.Writer) int {
	stripe, err := billing.OpenStripe(getenv)
	if err != nil {
		fmt.Fprintln(messages, err)
		return 2
	}
	wrong, err := stripe.CheckCatalog(ctx)
	if err != nil {
		fmt.Fprintln(messages, err)
		return 2
	}
	for _, line := range wrong {
		fmt.Fprintln(out, line)
	}
	if wrong != nil {
		return 1
	}
	fmt.Fprintln(messages, "Catalogue and Stripe agree.")
	return 0
}
