package testenv_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/coditect/usher/shared/platform/testenv"
)

// witness remembers the moments that a tap shows it, and stops at one.
type witness struct {
	mu     sync.Mutex
	seen   []string
	stopAt testenv.Moment
}

func (w *witness) see(m testenv.Moment) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, fmt.Sprint(m.Request, " ", m.Answered))
	return m != w.stopAt
}

// all is what has been seen so far.
func (w *witness) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

func TestARedisTapShowsPipelinedCommandsAndTheirAnswersInOrder(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	w := &witness{stopAt: testenv.Moment{Request: "INCR", Answered: true}}
	tap := testenv.NewRedisTap(t, server.Addr(), func(command []string) string {
		switch name := strings.ToUpper(command[0]); name {
		case "SET", "MGET", "INCR", "HGETALL":
			return name
		default:
			return ""
		}
	}, w.see)
	c := redis.NewClient(&redis.Options{Addr: tap.Addr(), MaxRetries: -1})
	defer c.Close()
	pipe := c.Pipeline()
	pipe.Set(t.Context(), "a", strings.Repeat("x", 100_000), 0)
	pipe.HSet(t.Context(), "h", "k", "v")
	many, hash := pipe.MGet(t.Context(), "a", "none"), pipe.HGetAll(t.Context(), "h")
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(many.Val()[0].(string)) != 100_000 || many.Val()[1] != nil || hash.Val()["k"] != "v" {
		t.Errorf("what came over the tap was changed: %v", hash.Val())
	}
	if err := c.Incr(t.Context(), "n").Err(); err == nil {
		t.Error("an answer passed that should have been stopped")
	}
	if n := server.Do(t, "GET", "n"); n != "1" {
		t.Errorf("the command before the stopped answer was done %v times, want once", n)
	}
	answers, requests := []string{}, []string{}
	for _, s := range w.all() {
		if name, ok := strings.CutSuffix(s, " true"); ok {
			answers = append(answers, name)
		} else {
			requests = append(requests, strings.TrimSuffix(s, " false"))
		}
	}
	if want := "[SET MGET HGETALL INCR]"; fmt.Sprint(requests) != want || fmt.Sprint(answers) != want {
		t.Errorf("saw the requests %v and the answers %v, want %s", requests, answers, want)
	}
}

func TestAPostgresTapShowsBatchesAndStopsBeforeOrAfterTheCommit(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	db.Exec(t, `CREATE TABLE public.notes (n int)`)
	var w witness
	tap := testenv.NewPostgresTap(t, db.Socket(), func(sql string) string {
		if strings.HasPrefix(sql, "INSERT") {
			return "insert"
		}
		return ""
	}, w.see)
	write := func(n int, answered bool) error {
		conn, err := pgx.Connect(t.Context(), db.Over(tap, "postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(t.Context(), `SELECT repeat('x', 100000)`); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.stopAt = testenv.Moment{Request: "insert", Answered: answered}
		if n == 0 {
			w.stopAt = testenv.Moment{}
		}
		w.mu.Unlock()
		b := &pgx.Batch{}
		b.Queue(`SELECT 1`)
		b.Queue(`INSERT INTO public.notes VALUES ($1)`, n)
		b.Queue(`SELECT 2`)
		return conn.SendBatch(t.Context(), b).Close()
	}
	if err := write(0, false); err != nil {
		t.Fatal(err)
	}
	if write(1, false) == nil {
		t.Error("a batch was answered that never reached the server")
	}
	if write(2, true) == nil {
		t.Error("an answer passed that should have been stopped")
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if got := testenv.Values[int32](t, db, `SELECT n FROM public.notes ORDER BY n`); fmt.Sprint(got) != "[0 2]" {
			return fmt.Errorf("committed %v, want 0 and 2", got)
		}
		return nil
	})
	if got := fmt.Sprint(w.all()); got != "[insert false insert true insert false insert false insert true]" {
		t.Errorf("saw %s", got)
	}
}

func TestAPairIsWholeAgainAfterAFailover(t *testing.T) {
	t.Parallel()
	p := testenv.RedisPair(t)
	c := redis.NewClient(&redis.Options{Addr: p.Front.Addr(), MaxRetries: 3})
	defer c.Close()
	for n := range 3 {
		if err := c.Set(t.Context(), fmt.Sprint("kept ", n), n, 0).Err(); err != nil {
			t.Fatal(err)
		}
		p.AwaitReplica(t)
		p.CutReplication()
		if err := c.Set(t.Context(), fmt.Sprint("lost ", n), n, 0).Err(); err != nil {
			t.Fatal(err)
		}
		p.Failover(t)
		p.Rejoin(t)
		for m := range n + 1 {
			if kept, lost := c.Exists(t.Context(), fmt.Sprint("kept ", m)).Val(), c.Exists(t.Context(), fmt.Sprint("lost ", m)).Val(); kept != 1 || lost != 0 {
				t.Errorf("after %d failovers, %d of what was kept and %d of what was lost is there", n+1, kept, lost)
			}
		}
	}
}

func TestASlotMovesBetweenTheMastersOfACluster(t *testing.T) {
	t.Parallel()
	m := testenv.RedisMasters(t, 3)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{m.Nodes[0].Addr()}})
	defer c.Close()
	for n := range 10 {
		if err := c.Set(t.Context(), fmt.Sprintf("{a}%d", n), n, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	slot := m.Slot(t, "{a}")
	from := m.Owner(t, slot)
	to := (from + 1) % 3
	half := 0
	if moved := m.Move(t, slot, to, func() {
		half++
		if v := c.Get(t.Context(), "{a}9").Val(); v != "9" { // wherever it is
			t.Errorf("read %q while the slot moves", v)
		}
	}); moved != 10 || half != 1 {
		t.Errorf("%d keys moved, and it was half done %d times", moved, half)
	}
	if now := m.Owner(t, slot); now != to {
		t.Errorf("node %d owns the slot, want %d", now, to)
	}
	if n := m.Nodes[to].Do(t, "CLUSTER", "COUNTKEYSINSLOT", slot); n != int64(10) {
		t.Errorf("%v keys are on the new owner", n)
	}
	m.Nodes[to].RestartEmpty(t)
	if now := m.Owner(t, slot); now != to {
		t.Errorf("node %d owns the slot after the restart, want %d", now, to)
	}
}
