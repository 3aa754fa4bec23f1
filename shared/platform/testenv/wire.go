package testenv

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Wire is a network connection that a test can cut: a loopback address behind which another one lies.
type Wire struct {
	listener net.Listener

	mu    sync.Mutex
	far   string // where it leads; empty = cut
	conns map[net.Conn]struct{}
}

// NewWire lays a wire to a TCP address.
func NewWire(t testing.TB, far string) *Wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &Wire{listener: l, far: far, conns: map[net.Conn]struct{}{}}
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
	far, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	if !w.keep(to, near, far) {
		return
	}
	defer w.forget(near, far)
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(far, near); _ = far.Close() })
	both.Go(func() { _, _ = io.Copy(near, far); _ = near.Close() })
	both.Wait()
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
