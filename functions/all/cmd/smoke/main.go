// Command smoke asks each public function at a base URL, as in https://licences.example.com, whether it is what it should be.
// It needs no credential, changes nothing, and exits with 1 when one of them is not.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/coditect/usher/functions/all/smoke"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "smoke: name the base URL")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := smoke.Test(ctx, os.Args[1])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "smoke:", err)
		os.Exit(1)
	}
	fmt.Printf("%d functions answer as they should\n", len(smoke.Functions()))
}
