// Command bootstrap makes the operator of a fresh deployment and prints its first API key, once, on standard output. It
// reads OPERATOR_DATABASE_URL and API_KEY_PEPPERS as function admin does, and may be repeated: an operator that has a key
// gets another only with -new-key. Exit code 0: done; 1: something failed; 2: the environment or a flag is wrong.
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

	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/shared/identity"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, out, messages io.Writer) int {
	flags := flag.NewFlagSet("bootstrap", flag.ContinueOnError)
	flags.SetOutput(messages)
	further := flags.Bool("new-key", false, "make a further API key when the operator has one")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	operator, err1 := admin.OpenOperator(ctx, getenv, slog.New(slog.NewTextHandler(messages, &slog.HandlerOptions{Level: slog.LevelWarn})))
	keys, err2 := identity.Open(getenv, operator)
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(messages, err)
		return 2
	}
	defer operator.Close()
	key, err := admin.Bootstrap(ctx, operator, keys, *further)
	switch {
	case err != nil:
		fmt.Fprintln(messages, err)
		return 1
	case key.IsZero():
		fmt.Fprintln(messages, "The operator has an API key. Run this with -new-key to make another.")
	default:
		fmt.Fprintln(messages, "The operator's API key, shown this once:")
		fmt.Fprintln(out, key.Reveal())
	}
	return 0
}
