package localenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisOptions say what kind of Redis to start. The zero value is a throw-away one for tests, in memory only.
type RedisOptions struct {
	Dir        string    // where the data is kept between runs; empty = a temporary directory, deleted at the end
	Port       int       // loopback TCP port; 0 = a free one
	Cluster    bool      // a cluster of this one node, which owns every slot and so refuses what spans slots
	AppendOnly bool      // keep every write (fsync each second) in Dir
	Args       []string  // further arguments of redis-server, such as "--maxmemory", "10mb"
	Log        io.Writer // where the server's log goes; nil = nowhere, though an error tells its last lines

	slots [2]int // with Cluster, the first and the last slot of this node; zero = all of them
}

// RedisServer is a private Redis server on loopback.
type RedisServer struct {
	options RedisOptions
	dir     string
	port    int
	bus     int // the port at which a cluster's nodes talk; 0 until it was first started
	server  *process
	client  *redis.Client
}

// StartRedis starts a server and waits until it answers. The caller stops it with Close; it ends with this process at
// the latest.
func StartRedis(ctx context.Context, o RedisOptions) (*RedisServer, error) {
	r := &RedisServer{options: o, dir: o.Dir, port: o.Port}
	var err error
	if o.Dir == "" {
		r.dir, err = account{}.temporary("redis")
	} else {
		r.dir, err = filepath.Abs(o.Dir)
		err = errors.Join(err, os.MkdirAll(r.dir, 0o700))
	}
	if err != nil {
		return nil, fmt.Errorf("make a directory for Redis: %w", err)
	}
	if err := r.firstStart(ctx); err != nil {
		return nil, errors.Join(err, r.removeTemporary())
	}
	return r, nil
}

// firstStart starts the server on its port, or on a free one: another process may snatch a free port before the server
// has it, so that is tried a few times.
func (r *RedisServer) firstStart(ctx context.Context) error {
	if r.options.Port != 0 {
		return r.Start(ctx)
	}
	var errs []error
	for range 5 {
		port, err := freePort()
		if err != nil {
			return err
		}
		r.port = port
		if err = r.Start(ctx); err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Start runs the server again after Stop or Kill, at the same address, with what its directory holds.
func (r *RedisServer) Start(ctx context.Context) error {
	program, err := Find("redis-server")
	if err != nil {
		return err
	}
	args := []string{
		"--port", strconv.Itoa(r.port),
		"--bind", "127.0.0.1",
		"--dir", r.dir,
		"--save", "",
		"--appendonly", yesNo(r.options.AppendOnly),
		"--maxmemory-policy", "noeviction",
		"--repl-diskless-sync-delay", "0",
	}
	if r.options.Cluster {
		if r.bus == 0 {
			if r.bus, err = freePort(); err != nil {
				return err
			}
		}
		args = append(args, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(r.bus), "--cluster-require-full-coverage", "no")
	}
	args = append(args, r.options.Args...)
	var remove []string
	if r.options.Dir == "" {
		remove = append(remove, r.dir)
	}
	if r.server, err = (account{}).start("Redis", program, args, r.dir, r.options.Log, remove...); err != nil {
		return err
	}
	if r.client == nil {
		r.client = redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1, DialTimeout: time.Second, ReadTimeout: 5 * time.Second})
	}
	err = r.server.ready(ctx, r.answers)
	if err == nil && r.options.Cluster {
		err = r.formCluster(ctx)
	}
	if err != nil {
		return errors.Join(err, r.server.end(syscall.SIGKILL), r.forgetClient())
	}
	return nil
}

// answers succeeds when it is our server that answers at the port, not another process's.
func (r *RedisServer) answers(ctx context.Context) error {
	info, err := r.client.Info(ctx, "server", "persistence").Result()
	if err != nil {
		return err
	}
	if !strings.Contains(info, fmt.Sprintf("process_id:%d\r", r.server.cmd.Process.Pid)) {
		return errors.New("another process has taken the port")
	}
	if strings.Contains(info, "\nloading:1") {
		return errors.New("still loading its data")
	}
	return nil
}

// StartRedisCluster starts a Redis Cluster of so many masters with equal shares of the slots, in memory only, and waits until
// they agree. Each is closed by itself; one that was killed comes back with its slots, empty.
func StartRedisCluster(ctx context.Context, masters int) (nodes []*RedisServer, err error) {
	defer func() {
		if err != nil {
			for _, node := range nodes {
				err = errors.Join(err, node.Close())
			}
		}
	}()
	for i := range masters {
		node, err := StartRedis(ctx, RedisOptions{
			Cluster: true, slots: [2]int{slots * i / masters, slots*(i+1)/masters - 1}, Args: []string{"--cluster-node-timeout", "3000"},
		})
		if err != nil {
			return nodes, err
		}
		nodes = append(nodes, node)
		if err := node.client.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return nodes, fmt.Errorf("number the nodes of the cluster: %w", err)
		}
	}
	for _, node := range nodes[1:] {
		if err := nodes[0].client.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", node.port, node.bus).Err(); err != nil {
			return nodes, fmt.Errorf("introduce the nodes of the cluster: %w", err)
		}
	}
	for _, node := range nodes {
		if err := node.server.ready(ctx, node.inCluster); err != nil {
			return nodes, err
		}
	}
	return nodes, nil
}

// slots is how many a Redis Cluster has.
const slots = 16384

// formCluster gives its slots to this node and waits until the cluster calls itself well.
func (r *RedisServer) formCluster(ctx context.Context) error {
	info, err := r.client.ClusterInfo(ctx).Result()
	if err != nil {
		return fmt.Errorf("read the state of the cluster: %w", err)
	}
	if strings.Contains(info, "cluster_slots_assigned:0\r") {
		first, last := r.options.slots[0], r.options.slots[1]
		if last == 0 {
			last = slots - 1
		}
		if err := r.client.ClusterAddSlotsRange(ctx, first, last).Err(); err != nil {
			return fmt.Errorf("assign the slots of the cluster: %w", err)
		}
		if last-first < slots-1 {
			return nil // it has not met the others yet
		}
	}
	return r.server.ready(ctx, r.inCluster)
}

// inCluster succeeds when the node knows of a cluster in which every slot is owned.
func (r *RedisServer) inCluster(ctx context.Context) error {
	info, err := r.client.ClusterInfo(ctx).Result()
	if err != nil {
		return err
	}
	if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_slots_ok:16384\r") {
		return errors.New("the cluster is not ready")
	}
	return nil
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Addr is the server's address, "host:port".
func (r *RedisServer) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

// URL is the address of one of the server's numbered databases. A cluster has only database 0.
func (r *RedisServer) URL(database int) string {
	return fmt.Sprintf("redis://%s/%d", r.Addr(), database)
}

// Do runs one command on database 0 and answers as go-redis does: string, int64, []any, map or nil.
func (r *RedisServer) Do(ctx context.Context, args ...any) (any, error) {
	value, err := r.client.Do(ctx, args...).Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return value, err
}

// Stop ends the server in order: what it keeps, it writes. Start runs it again.
func (r *RedisServer) Stop() error { return r.server.end(syscall.SIGTERM) }

// Kill ends the server as a crash does (kill -9).
func (r *RedisServer) Kill() error { return r.server.end(syscall.SIGKILL) }

// Pause freezes the server: connections stay open and nothing answers. Resume lets it go on.
func (r *RedisServer) Pause() error { return r.server.signalAll(syscall.SIGSTOP) }

// Resume lets a frozen server go on.
func (r *RedisServer) Resume() error { return r.server.signalAll(syscall.SIGCONT) }

// Close stops the server and deletes what was temporary. Start does not run it again.
func (r *RedisServer) Close() error {
	return errors.Join(r.Stop(), r.forgetClient(), r.removeTemporary())
}

// Done is closed when the server that runs now has ended, wanted or not.
func (r *RedisServer) Done() <-chan struct{} { return r.server.done }

func (r *RedisServer) forgetClient() error {
	if r.client == nil {
		return nil
	}
	err := r.client.Close()
	r.client = nil
	return err
}

func (r *RedisServer) removeTemporary() error {
	if r.options.Dir != "" {
		return nil
	}
	return os.RemoveAll(r.dir)
}
