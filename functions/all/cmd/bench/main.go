// Command bench is `make bench`: it measures the hot path against a yardstick, prints a table with the verdict on each
// target, and writes the figures that the documentation shows. With the argument quick it looks for less than a minute
// and writes nothing.
//
// A target that is missed is no failure: timings are no tests. It exits with 1 when it could not measure.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coditect/usher/functions/all/bench"
	"github.com/coditect/usher/functions/all/local"
)

// figures is the folder that is written.
var figures = filepath.Join("docs", "performance")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	size, write := bench.Full, true
	switch {
	case len(args) == 1 && args[0] == bench.Quick.Name:
		size, write = bench.Quick, false
	case len(args) > 0:
		return errors.New("the only argument is quick")
	}
	screen := local.NewScreen(os.Stdout, os.Getenv)
	began := time.Now()
	report, err := bench.Run(ctx, size, screen.Progress)
	if err != nil {
		return err
	}
	if err := report.Print(os.Stdout, os.Getenv("NO_COLOR") != "" || !local.IsTerminal(os.Stdout)); err != nil {
		return err
	}
	screen.Line("\n%s\n%d s.", report.Machine, int(time.Since(began).Seconds()))
	if !write {
		return nil
	}
	if err := report.Write(figures); err != nil {
		return err
	}
	screen.Line("The figures are in %s.", filepath.Join(figures, "figures.md"))
	return nil
}
