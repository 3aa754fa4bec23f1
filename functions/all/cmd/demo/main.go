// Command demo is `make demo`: 25 clients share 10 seats for a minute, in the terminal. It shows who sits, who waits in
// which place, who is refused, and two clients that crash and whose seats come free by themselves. It uses the service
// that `make run` serves, or starts its own.
//
// It also counts: a client believes in its seat for ttl_seconds from sending the request that was granted. If there are
// ever more believing clients than seats, or two on one seat, it says so and exits with 1. DEMO_SECONDS is how long it
// lasts (60).
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/all/local"
)

const (
	seats   = 10
	clients = 25
	dir     = ".local"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	over, err := run(ctx)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err != nil && !interrupted:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	case over:
		os.Exit(1)
	}
}

// run is the demo; over says that there were more believing clients than seats.
func run(ctx context.Context) (over bool, err error) {
	lasts, err := duration(os.Getenv("DEMO_SECONDS"))
	if err != nil {
		return false, err
	}
	screen := local.NewScreen(os.Stdout, os.Getenv)
	service, ok := local.Running(ctx, dir)
	if !ok {
		own, err := local.Start(ctx, local.Options{Dir: dir, Getenv: anyPort, Progress: screen.Progress})
		if err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, own.Close()) }()
		service = own.Demo()
	}
	license, err := makeLicense(ctx, service, lasts)
	if err != nil {
		return false, err
	}
	s := newStage(license.lease)
	drawn := s.show(lasts)
	play(ctx, s, license, lasts)
	drawn()
	s.summary(screen)
	return s.overAdmitted(), license.revoke()
}

// duration reads DEMO_SECONDS.
func duration(text string) (time.Duration, error) {
	if text == "" {
		return time.Minute, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 10 || n > 3600 {
		return 0, errors.New("DEMO_SECONDS is a number from 10 to 3600")
	}
	return time.Duration(n) * time.Second, nil
}

// anyPort is the environment, but for the port: nobody needs to know it.
func anyPort(variable string) string {
	if variable == "PORT" {
		return "0"
	}
	return os.Getenv(variable)
}

// license is the one that the clients share.
type license struct {
	operator local.API
	path     string
	key      string
	lease    time.Duration
}

// makeLicense makes a licence for this demo alone, with a lease that is short enough to watch.
func makeLicense(ctx context.Context, service local.Demo, lasts time.Duration) (license, error) {
	l := license{
		operator: local.API{URL: service.BaseURL, Bearer: service.OperatorAPIKey},
		lease:    min(max(lasts/10, 2*time.Second), 6*time.Second).Truncate(time.Second),
	}
	var made struct {
		License    struct{ ID uuid.UUID }
		LicenseKey string `json:"license_key"`
	}
	terms := map[string]any{"plan": service.Plan, "max_seats": seats, "ttl_seconds": int(l.lease / time.Second)}
	_, err := l.operator.Call(ctx, http.MethodPost, "/v1/licenses?tenant_id="+service.TenantID.String(), terms, &made)
	if err != nil {
		return license{}, fmt.Errorf("make a licence: %w", err)
	}
	l.path, l.key = "/v1/licenses/"+made.License.ID.String()+"/revoke?tenant_id="+service.TenantID.String(), made.LicenseKey
	return l, nil
}

// revoke ends the licence, also when the demo was interrupted.
func (l license) revoke() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := l.operator.Call(ctx, http.MethodPost, l.path, map[string]any{"reason": "the demo is over"}, nil)
	return err
}

// play lets the clients come, one after the other, and waits until all have gone.
func play(ctx context.Context, s *stage, l license, lasts time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, lasts)
	defer cancel()
	var wg sync.WaitGroup
	for n := 1; n <= clients; n++ {
		c := &client{stage: s, name: fmt.Sprintf("client-%02d", n), api: l.operator.As(""), key: l.key, lease: l.lease}
		c.patient = n%4 != 0
		switch n { // these two sit from the beginning
		case 3:
			c.crashAfter = lasts / 5
		case 7:
			c.crashAfter = lasts / 3
		}
		wg.Go(func() { c.live(ctx) })
		pause(ctx, lasts/200)
	}
	wg.Wait()
}

// pause waits, unless the context is over first, and says whether there is time left.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
