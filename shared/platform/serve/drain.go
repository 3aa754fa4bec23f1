package serve

import (
	"net/http"
	"sync"
	"time"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/otlp"
)

// drain counts the requests in flight. The framework's server cannot be shut down, so the handler does what a server's
// Shutdown would: it takes no new requests and waits for those it has.
//
// It also says when telemetry is pushed: beside a request that somebody waits for, and before the answer of one that nobody does.
type drain struct {
	next      http.Handler
	push      *otlp.Pusher
	scheduled map[string]bool // paths that the scheduler calls

	mu       sync.Mutex
	inFlight int
	stopping bool
	idle     chan struct{} // closed when stopping and nothing is in flight
}

var errStopping = &fault.Error{
	Kind: fault.KindUnavailable, Code: "shutting_down", RetryAfter: time.Second,
	Detail: "This instance is shutting down. Try again; another one will answer.",
}

func (d *drain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !d.enter() {
		w.Header().Set("Connection", "close")
		httpx.Refuse(w, r, errStopping)
		return
	}
	defer d.leave()
	scheduled := d.scheduled[r.URL.Path]
	if !scheduled {
		d.push.Tick()
	}
	d.next.ServeHTTP(w, r)
	if scheduled {
		d.push.Flush(r.Context())
	}
	// The server sends what it has buffered only after the handler has returned, when the request is no longer counted
	// and the process may end. An error means that the client has gone.
	_ = http.NewResponseController(w).Flush()
}

func (d *drain) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return false
	}
	d.inFlight++
	return true
}

func (d *drain) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inFlight--; d.inFlight == 0 && d.stopping {
		close(d.idle)
	}
}

// wait takes no more requests and reports whether those in flight ended in time. It is called once.
func (d *drain) wait(most time.Duration) bool {
	d.mu.Lock()
	d.stopping, d.idle = true, make(chan struct{})
	if d.inFlight == 0 {
		close(d.idle)
	}
	d.mu.Unlock()
	select {
	case <-d.idle:
		return true
	case <-time.After(most):
		return false
	}
}
