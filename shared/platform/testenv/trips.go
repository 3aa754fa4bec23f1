package testenv

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Trips lies between a client and a PostgreSQL and counts the round trips: how often the server said that it is ready for
// what comes next.
type Trips struct {
	dir   string
	count atomic.Int64
}

// NewTrips lies before the server of a database.
func NewTrips(t testing.TB, db *DB) *Trips {
	t.Helper()
	far := socketOf(t, db.URL("anybody"))
	dir, err := os.MkdirTemp("", "trips") //nolint:usetesting // that of the test may be too long for a socket
	must(t, err)
	trips := &Trips{dir: dir}
	l, err := net.Listen("unix", filepath.Join(dir, filepath.Base(far)))
	must(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { trips.carry(near, far) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // it only ends the loop
		running.Wait()
		_ = os.RemoveAll(dir)
	})
	return trips
}

func socketOf(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	return filepath.Join(u.Query().Get("host"), ".s.PGSQL."+u.Query().Get("port"))
}

// URL is an address of the database that leads through here.
func (p *Trips) URL(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	q := u.Query()
	q.Set("host", p.dir)
	u.RawQuery = q.Encode()
	return u.String()
}

// Count is how many round trips there were so far.
func (p *Trips) Count() int64 { return p.count.Load() }

// carry copies both ways until one end closes.
func (p *Trips) carry(near net.Conn, socket string) {
	defer func() { _ = near.Close() }()
	far, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(far, near); _ = far.Close() })
	both.Go(func() { p.answers(near, far); _ = near.Close() })
	both.Wait()
}

// answers copies the server's messages: a letter, a length that counts itself, and the rest.
func (p *Trips) answers(near io.Writer, far io.Reader) {
	const readyForQuery = 'Z'
	from := bufio.NewReader(far)
	var head [5]byte
	for {
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return
		}
		if head[0] == readyForQuery {
			p.count.Add(1)
		}
		if _, err := near.Write(head[:]); err != nil {
			return
		}
		if _, err := io.CopyN(near, from, int64(binary.BigEndian.Uint32(head[1:]))-4); err != nil {
			return
		}
	}
}
