package testenv

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/localenv"
)

// RedisServer is a Redis of one test, which it may disturb.
type RedisServer struct{ server *localenv.RedisServer }

// Redis starts a Redis for one test, in memory, with the settings of production (noeviction).
func Redis(t testing.TB) *RedisServer {
	t.Helper()
	return startRedis(t, localenv.RedisOptions{})
}

// RedisCluster starts a Redis Cluster of one node: small, and it refuses every command and script whose keys span
// slots.
func RedisCluster(t testing.TB) *RedisServer {
	t.Helper()
	return startRedis(t, localenv.RedisOptions{Cluster: true})
}

func startRedis(t testing.TB, o localenv.RedisOptions) *RedisServer {
	t.Helper()
	ctx := setUp(t)
	need(ctx, t, localenv.Redis)
	server, err := localenv.StartRedis(ctx, o)
	must(t, err)
	closeAfter(t, server.Close)
	return &RedisServer{server}
}

// URL is the server's address (database 0).
func (r *RedisServer) URL() string { return r.server.URL(0) }

// Database is the address of one of the server's numbered databases; a cluster has only 0.
func (r *RedisServer) Database(n int) string { return r.server.URL(n) }

// Addr is the server's address, "host:port".
func (r *RedisServer) Addr() string { return r.server.Addr() }

// Do runs one command, for setting up and for looking, and answers string, int64, []any, map or nil. An error of Redis
// fails the test.
func (r *RedisServer) Do(t testing.TB, args ...any) any {
	t.Helper()
	value, err := r.server.Do(setUp(t), args...)
	must(t, err)
	return value
}

// Kill ends the server as a crash does (kill -9): connections are cut, new ones are refused, what it held is gone.
func (r *RedisServer) Kill(t testing.TB) {
	t.Helper()
	must(t, r.server.Kill())
}

// Start runs a killed server again at the same address. It holds nothing.
func (r *RedisServer) Start(t testing.TB) {
	t.Helper()
	must(t, r.server.Start(setUp(t)))
}

// RestartEmpty kills the server and runs it again at the same address, holding nothing.
func (r *RedisServer) RestartEmpty(t testing.TB) {
	t.Helper()
	r.Kill(t)
	r.Start(t)
}

// Pause freezes the server: connections stay open, and nothing answers.
func (r *RedisServer) Pause(t testing.TB) {
	t.Helper()
	must(t, r.server.Pause())
}

// Resume lets a frozen server go on.
func (r *RedisServer) Resume(t testing.TB) {
	t.Helper()
	must(t, r.server.Resume())
}

// Pair is a primary Redis and its replica behind one address, like a managed Redis with failover.
type Pair struct {
	Primary, Replica *RedisServer

	front *Wire // what clients connect to
	link  *Wire // what the replica follows
}

// RedisPair starts a primary and a replica that follows it, and waits until it does.
func RedisPair(t testing.TB) *Pair {
	t.Helper()
	primary := Redis(t)
	link := NewWire(t, primary.Addr())
	replica := startRedis(t, localenv.RedisOptions{ReplicaOf: link.Addr(), Args: []string{"--repl-ping-replica-period", "1"}})
	p := &Pair{Primary: primary, Replica: replica, link: link, front: NewWire(t, primary.Addr())}
	p.AwaitReplica(t)
	return p
}

// URL is the address of whichever server is the primary.
func (p *Pair) URL() string { return "redis://" + p.front.Addr() + "/0" }

// AwaitReplica waits until the replica has everything that the primary had when this was called.
func (p *Pair) AwaitReplica(t testing.TB) {
	t.Helper()
	// WAIT would not do: it waits for what its own connection wrote.
	written := offset(fmt.Sprint(p.Primary.Do(t, "INFO", "replication")), "master_repl_offset")
	Eventually(t, 20*time.Second, func() error {
		info := fmt.Sprint(p.Replica.Do(t, "INFO", "replication"))
		if !strings.Contains(info, "master_link_status:up") {
			return errors.New("the replica does not follow its primary")
		}
		if has := offset(info, "slave_repl_offset"); has < written {
			return fmt.Errorf("the replica has %d bytes of %d", has, written)
		}
		return nil
	})
}

// offset is a number in what INFO answered, or -1.
func offset(info, name string) int64 {
	_, rest, _ := strings.Cut(info, name+":")
	digits, _, _ := strings.Cut(rest, "\r")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// CutReplication separates the replica from the primary: from now on it grows stale, and neither is told.
func (p *Pair) CutReplication() { p.link.Cut() }

// Failover kills the primary, makes the replica the primary, and leads the pair's address to it; every connection is
// cut. What the replica had not received is lost, as in production.
func (p *Pair) Failover(t testing.TB) {
	t.Helper()
	p.Primary.Kill(t)
	p.Promote(t)
}

// Promote makes the replica a primary and leads the pair's address to it, while the old primary lives on: what still
// talks to that one directly is on the wrong side.
func (p *Pair) Promote(t testing.TB) {
	t.Helper()
	p.Replica.Do(t, "REPLICAOF", "NO", "ONE")
	p.front.Lead(p.Replica.Addr())
}
