package testenv

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Wire is a network connection that a test can cut: a loopback address behind which another one lies.
type Wire struct {
	listener net.Listener
	carrier  func(near, far net.Conn) // copies both ways until one end closes
	delay    atomic.Int64             // of what is carried, in ns

	mu    sync.Mutex
	far   string // where it leads; empty = cut
	conns map[net.Conn]struct{}
}

// NewWire lays a wire to a TCP address, or to a unix socket when it is a path.
func NewWire(t testing.TB, far string) *Wire {
	t.Helper()
	return newWire(t, far, copyBoth)
}

func newWire(t testing.TB, far string, carrier func(near, far net.Conn)) *Wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &Wire{listener: l, carrier: carrier, far: far, conns: map[net.Conn]struct{}{}}
	var running sync.WaitGroup
	running.Go(func() { w.serve(&running) })
	t.Cleanup(func() {
		_ = l.Close() // it only ends the loop
		w.Cut()
		running.Wait()
	})
	return w
}

// Addr is the near end, "host:port".
func (w *Wire) Addr() string { return w.listener.Addr().String() }

// Cut ends every connection on the wire, and every later one at once, until Lead.
func (w *Wire) Cut() { w.Lead("") }

// Lead ends every connection on the wire, and leads later ones to another address.
func (w *Wire) Lead(far string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.far = far
	w.end()
}

// Divert leads later connections to another address, and leaves those that there are where they lead: as when a name
// changes its meaning, and clients that are connected do not hear of it.
func (w *Wire) Divert(far string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.far = far
}

// Snap ends every connection on the wire; later ones lead to where they led.
func (w *Wire) Snap() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end()
}

// Slow delays what is carried, each way, by so much; 0 = not at all.
func (w *Wire) Slow(delay time.Duration) { w.delay.Store(int64(delay)) }

func (w *Wire) end() {
	for c := range w.conns {
		_ = c.Close() // its copier has noticed, or will
	}
	clear(w.conns)
}

func (w *Wire) serve(running *sync.WaitGroup) {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		running.Go(func() { w.carry(near) })
	}
}

// carry copies both ways until one end closes.
func (w *Wire) carry(near net.Conn) {
	defer func() { _ = near.Close() }()
	w.mu.Lock()
	to := w.far
	w.mu.Unlock()
	if to == "" {
		return
	}
	network := "tcp"
	if strings.HasPrefix(to, "/") {
		network = "unix"
	}
	far, err := net.DialTimeout(network, to, 5*time.Second)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	if !w.keep(to, near, far) {
		return
	}
	defer w.forget(near, far)
	w.carrier(&slowed{near, &w.delay}, &slowed{far, &w.delay})
}

func copyBoth(near, far net.Conn) {
	bothWays(near, far, func() { _, _ = io.Copy(far, near) }, func() { _, _ = io.Copy(near, far) })
}

// bothWays runs what carries requests and what carries answers, until one of them returns and the other has noticed.
func bothWays(near, far net.Conn, requests, answers func()) {
	var both sync.WaitGroup
	part := func() { _, _ = far.Close(), near.Close() }
	both.Go(func() { defer part(); requests() })
	both.Go(func() { defer part(); answers() })
	both.Wait()
}

// slowed is a connection whose writes are late.
type slowed struct {
	net.Conn
	delay *atomic.Int64
}

func (c *slowed) Write(b []byte) (int, error) {
	if d := c.delay.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
	return c.Conn.Write(b)
}

// keep remembers the two ends, unless the wire has been led elsewhere meanwhile.
func (w *Wire) keep(to string, near, far net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.far != to {
		return false
	}
	w.conns[near], w.conns[far] = struct{}{}, struct{}{}
	return true
}

func (w *Wire) forget(near, far net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, near)
	delete(w.conns, far)
}
