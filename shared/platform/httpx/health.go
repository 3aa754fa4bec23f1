package httpx

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coditect/usher/shared/fault"
)

// Health is what /health and /health/ready answer.
type Health struct {
	// Status is "ok" or "ready".
	Status string `json:"status" enum:"ok,ready"`
	// Service is the service's name.
	Service string `json:"service"`
	// Version is what is running.
	Version string `json:"version"`
	// Off are the stores that are not configured, and without which the service works.
	Off []string `json:"off,omitempty" doc:"The stores that the service works without, because none is configured."`
}

// pingTimeout is how long a store may take to say that it is there.
const pingTimeout = 2 * time.Second

func healthRoutes(s Service) []Route {
	return []Route{{
		Method: http.MethodGet, Path: "/health", ID: "health", Tag: "health",
		Summary: "Whether the service runs",
		Replies: []Doc{{Status: http.StatusOK, Body: Health{}, Description: "It runs."}},
		Handle: func(*Call) (Reply, error) {
			return Reply{Body: Health{Status: "ok", Service: s.Name, Version: s.Version}}, nil
		},
	}, {
		Method: http.MethodGet, Path: "/health/ready", ID: "ready", Tag: "health",
		Summary:     "Whether the service's stores answer",
		Description: "503 names the stores that are out in `stores`.",
		Replies:     []Doc{{Status: http.StatusOK, Body: Health{}, Description: "All stores answer."}},
		Handle: func(c *Call) (Reply, error) {
			if err := ready(c.Context(), s.Ready); err != nil {
				return Reply{}, err
			}
			return Reply{Body: Health{Status: "ready", Service: s.Name, Version: s.Version, Off: off(s.Ready)}}, nil
		},
	}}
}

// off names the stores that are not configured.
func off(checks []Check) (names []string) {
	for _, check := range checks {
		if check.Off {
			names = append(names, check.Name)
		}
	}
	return names
}

// ready asks all stores at once, and names those that do not answer.
func ready(ctx context.Context, checks []Check) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	faults := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, check := range checks {
		wg.Go(func() { faults[i] = ping(ctx, check) })
	}
	wg.Wait()
	var out []string
	for i, err := range faults {
		if err != nil {
			out = append(out, checks[i].Name)
		}
	}
	if out == nil {
		return nil
	}
	return fault.Unavailable(errors.Join(faults...)).With("stores", out)
}

// ping returns when the store has answered or the context has ended, whichever is first.
func ping(ctx context.Context, check Check) error {
	answer := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				answer <- fmt.Errorf("panic: %v", p)
			}
		}()
		answer <- check.Ping(ctx)
	}()
	select {
	case err := <-answer:
		if err != nil {
			return fmt.Errorf("ping %s: %w", check.Name, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("ping %s: %w", check.Name, ctx.Err())
	}
}
