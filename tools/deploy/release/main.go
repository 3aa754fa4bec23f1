// Command release brings images to a project's Cloud Run services, and takes them back.
//
//	release [flags] migrate FILE    run the migrate job with its new image, and wait for its end
//	release [flags] candidate FILE  make a revision of each function whose image is new: tagged candidate, without traffic
//	release [flags] shift           give the candidates all traffic, and tag what served before previous
//	release [flags] verify          watch errors for -for; roll back and fail when they are over 1 %
//	release [flags] rollback        give what is tagged previous all traffic again
//
// One releases to a project at a time, -as a name of its own: migrate takes a lease, which candidate, shift and verify must still have, and which
// verify, or a step that fails, gives back; the lease of a build that was killed ends ten minutes later. Who has not got it is told who has, and changes
// nothing. Rollback takes it from whoever has it.
//
// It runs in this repository's tools/deploy, whose commit is what is released. FILE has a line for each image: its name and its reference, as command images prints them. Each verb may be repeated: what
// is as it should be stays as it is.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	var to target
	flag.StringVar(&to.project, "project", "", "id of the Google Cloud project")
	flag.StringVar(&to.region, "region", "europe-west1", "region of its services")
	flag.StringVar(&to.release, "as", "", "name of this release, such as the build's: the same for all its verbs")
	watch := flag.Duration("for", 10*time.Minute, "how long to verify: Cloud Monitoring tells requests up to four minutes late")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, to, *watch, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, to target, watch time.Duration, args []string) error {
	if to.project == "" || len(args) == 0 {
		return errors.New("a -project and one of migrate, candidate, shift, verify, rollback are needed")
	}
	if to.release == "" {
		if args[0] != "rollback" {
			return errors.New("name the release: -as")
		}
		to.release = "rollback of " + time.Now().UTC().Format(time.RFC3339Nano)
	}
	schema, err := newestMigration("../../migrations")
	if err != nil {
		return err
	}
	to.schema = schema
	cloud, err := open(ctx, to)
	if err != nil {
		return err
	}
	defer cloud.close()
	var images map[string]string
	if verb := args[0]; verb == "migrate" || verb == "candidate" {
		if len(args) != 2 {
			return fmt.Errorf("%s: name the file of images", verb)
		}
		if images, err = readImages(args[1]); err != nil {
			return err
		}
	}
	return cloud.do(ctx, args[0], images, watch, 30*time.Second)
}

// do does what the verb says, with the lease.
func (c *cloud) do(ctx context.Context, verb string, images map[string]string, watch, every time.Duration) error {
	switch verb {
	case "migrate":
		return c.under(ctx, takeLease, false, func(ctx context.Context) error { return c.migrate(ctx, images[migrateJob]) })
	case "candidate":
		return c.under(ctx, keepLease, false, func(ctx context.Context) error { return c.candidate(ctx, images) })
	case "shift":
		return c.under(ctx, keepLease, false, c.shift)
	case "verify":
		return c.under(ctx, keepLease, true, func(ctx context.Context) error { return c.verify(ctx, watch, every) })
	case "rollback":
		return c.under(ctx, seizeLease, true, c.rollbackAgainst)
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
}

// readImages reads lines of a name and a reference. A reference without a digest is refused: what it leads to may change.
func readImages(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	images := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, reference, ok := strings.Cut(lines.Text(), " ")
		if !ok || !strings.Contains(reference, "@sha256:") {
			return nil, fmt.Errorf("%s: %q is no name and reference with a digest", file, lines.Text())
		}
		images[name] = reference
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if images[migrateJob] == "" || len(images) < 2 {
		return nil, fmt.Errorf("%s names no image of %s, or of no function", file, migrateJob)
	}
	return images, nil
}
