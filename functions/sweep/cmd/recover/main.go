// Command recover writes the rows of open sessions anew from the pools in Redis, after PostgreSQL was restored to an
// earlier time and before any function runs again. It reads the environment of function sweep, prints what it did as
// JSON, and may be repeated. Exit code 0: all recovered; 1: something failed; 2: the environment is not complete.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx))
}

func run(ctx context.Context) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	db, err1 := tenancy.Open(ctx, os.Getenv, log)
	seats, err2 := seat.Open(os.Getenv, db, log)
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer db.Close()
	defer func() { _ = seats.Close() }()
	done, err := seats.Recover(ctx)
	if err := errors.Join(err, json.NewEncoder(os.Stdout).Encode(done)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
