package testenv

import (
	"errors"
	"fmt"
	"net"
	"slices"
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

	Front *Wire // what clients connect to
	link  *Wire // what the replica follows
}

// RedisPair starts a primary and a replica that follows it, and waits until it does.
func RedisPair(t testing.TB) *Pair {
	t.Helper()
	primary := Redis(t)
	link := NewWire(t, primary.Addr())
	p := &Pair{Primary: primary, Replica: Redis(t), link: link, Front: NewWire(t, primary.Addr())}
	p.follow(t)
	return p
}

// follow makes the replica follow what the link leads to, and waits until it has everything.
func (p *Pair) follow(t testing.TB) {
	t.Helper()
	host, port, err := net.SplitHostPort(p.link.Addr())
	must(t, err)
	p.Replica.Do(t, "REPLICAOF", host, port)
	p.AwaitReplica(t)
}

// URL is the address of whichever server is the primary.
func (p *Pair) URL() string { return "redis://" + p.Front.Addr() + "/0" }

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
	p.Front.Lead(p.Replica.Addr())
}

// PromoteUnheard is Promote of which connected clients do not hear: their connections lead to the old primary as long as
// they last.
func (p *Pair) PromoteUnheard(t testing.TB) {
	t.Helper()
	p.Replica.Do(t, "REPLICAOF", "NO", "ONE")
	p.Front.Divert(p.Replica.Addr())
}

// Rejoin makes the pair whole again after a failover: the promoted replica is the primary now, and the old primary, ended
// if it still lives, comes back empty as its replica. It waits until that has everything.
func (p *Pair) Rejoin(t testing.TB) {
	t.Helper()
	p.Primary.Kill(t)
	p.Front.Lead(p.Replica.Addr())
	p.Primary, p.Replica = p.Replica, p.Primary
	p.Replica.Start(t)
	p.link.Lead(p.Primary.Addr())
	p.follow(t)
}

// Follow ends what CutReplication began: the replica catches up with its primary.
func (p *Pair) Follow(t testing.TB) {
	t.Helper()
	p.link.Lead(p.Primary.Addr())
	p.AwaitReplica(t)
}

// Masters is a Redis Cluster of several nodes, each of which owns a share of the slots. None has a replica.
type Masters struct {
	Nodes []*RedisServer
	ids   []string
}

// RedisMasters starts a Redis Cluster of so many nodes and waits until they agree on who owns which slot.
func RedisMasters(t testing.TB, nodes int) *Masters {
	t.Helper()
	ctx := setUp(t)
	need(ctx, t, localenv.Redis)
	servers, err := localenv.StartRedisCluster(ctx, nodes)
	must(t, err)
	m := &Masters{}
	for _, server := range servers {
		closeAfter(t, server.Close)
		node := &RedisServer{server}
		m.Nodes = append(m.Nodes, node)
		m.ids = append(m.ids, fmt.Sprint(node.Do(t, "CLUSTER", "MYID")))
	}
	return m
}

// URL is the address of one of the nodes.
func (m *Masters) URL() string { return m.Nodes[0].URL() }

// Slot is the slot of a key.
func (m *Masters) Slot(t testing.TB, key string) int64 {
	t.Helper()
	slot, ok := m.Nodes[0].Do(t, "CLUSTER", "KEYSLOT", key).(int64)
	if !ok {
		t.Fatalf("no slot of %s", key)
	}
	return slot
}

// Owner is the number of the node that owns a slot.
func (m *Masters) Owner(t testing.TB, slot int64) int {
	t.Helper()
	for line := range strings.Lines(fmt.Sprint(m.Nodes[0].Do(t, "CLUSTER", "NODES"))) {
		fields := strings.Fields(line)
		for _, share := range fields[min(8, len(fields)):] {
			first, last, several := strings.Cut(share, "-")
			from, err := strconv.ParseInt(first, 10, 64)
			if err != nil {
				continue // on its way from or to another node
			}
			to := from
			if several {
				to, err = strconv.ParseInt(last, 10, 64)
				must(t, err)
			}
			if slot >= from && slot <= to {
				return slices.Index(m.ids, fields[0])
			}
		}
	}
	t.Fatalf("nobody owns slot %d", slot)
	return -1
}

// Move moves a slot to another node, key by key, while clients go on, and calls halfway when half of its keys have moved.
// It answers how many keys moved.
func (m *Masters) Move(t testing.TB, slot int64, to int, halfway func()) (moved int) {
	t.Helper()
	from := m.Owner(t, slot)
	source, target := m.Nodes[from], m.Nodes[to]
	target.Do(t, "CLUSTER", "SETSLOT", slot, "IMPORTING", m.ids[from])
	source.Do(t, "CLUSTER", "SETSLOT", slot, "MIGRATING", m.ids[to])
	host, port, err := net.SplitHostPort(target.Addr())
	must(t, err)
	some := func(most int64) {
		for most > 0 {
			keys, ok := source.Do(t, "CLUSTER", "GETKEYSINSLOT", slot, min(most, 100)).([]any)
			if !ok {
				t.Fatalf("the keys of slot %d cannot be listed", slot)
			}
			if len(keys) == 0 {
				return
			}
			source.Do(t, append([]any{"MIGRATE", host, port, "", 0, 5000, "KEYS"}, keys...)...)
			moved += len(keys)
			most -= int64(len(keys))
		}
	}
	count, _ := source.Do(t, "CLUSTER", "COUNTKEYSINSLOT", slot).(int64)
	some(count / 2)
	halfway()
	some(1 << 20)
	// The new owner first: were it the old one, the slot would be nobody's for a moment.
	target.Do(t, "CLUSTER", "SETSLOT", slot, "NODE", m.ids[to])
	for i, node := range m.Nodes {
		if i != to {
			node.Do(t, "CLUSTER", "SETSLOT", slot, "NODE", m.ids[to])
		}
	}
	return moved
}
