// Command bench is `make bench`.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coditect/usher/functions/all/bench"
	"github.com/coditect/usher/functions/all/local"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	screen := local.NewScreen(os.Stdout, os.Getenv)
	err := bench.Run(ctx, bench.Options{Progress: screen.Progress, Licenses: 50, Seats: 20, Clients: 64, Rounds: 9, Round: 2000 * time.Millisecond})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
