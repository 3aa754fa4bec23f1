package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/coditect/usher/functions/all/capacity"
)

// costsFile is where what capacity is counted with is kept, in the folder of the figures.
const costsFile = "costs.json"

// used is what the machines have used so far.
type used struct {
	function, redis, postgres time.Duration
	commands                  int64
	network                   int64 // bytes in and out of Redis
}

// costs measures what a heartbeat and a session cost each machine: what capacity is counted with.
func (s *stage) costs(ctx context.Context, r *Report) error {
	if !canAccount {
		return nil // without CPU times there is nothing to count with
	}
	s.progress("what a heartbeat, and a session, cost each machine")
	// Half busy, as an instance is when there are enough of them; a session costs about ten times a heartbeat.
	per := func(processes []*process, rate float64, do deed) (of used, n float64, err error) {
		before, err := s.used(ctx, processes)
		if err != nil {
			return used{}, 0, err
		}
		l, err := openLoop(ctx, rate, s.size.Round*time.Duration(s.size.Rounds), do)
		if err != nil {
			return used{}, 0, err
		}
		after, err := s.used(ctx, processes)
		return used{
			after.function - before.function, after.redis - before.redis, after.postgres - before.postgres, after.commands - before.commands, after.network - before.network,
		}, float64(max(1, len(l.times))), err
	}

	c := capacity.Costs{Measured: r.Made.UTC().Format(time.DateOnly), Machine: r.Machine}
	beats, n, err := per([]*process{s.heartbeat}, s.rate, requests(newDoor(s.heartbeat.address), inFlight, s.held, asHolder))
	if err != nil {
		return err
	}
	c.Heartbeat = capacity.Cost{
		FunctionMicros: micros(beats.function) / n, RedisMicros: micros(beats.redis) / n, PostgresMicros: micros(beats.postgres) / n,
		RedisCommands: float64(beats.commands) / n, RedisBytes: float64(beats.network) / n,
	}
	sessions, n, err := per([]*process{s.acquire, s.release}, s.rate/10, s.comings())
	if err != nil {
		return err
	}
	c.Session = capacity.Cost{
		FunctionMicros: micros(sessions.function) / n, RedisMicros: micros(sessions.redis) / n, PostgresMicros: micros(sessions.postgres) / n,
		RedisCommands: float64(sessions.commands) / n, RedisBytes: float64(sessions.network) / n,
	}
	lines, err := s.heartbeat.lines()
	if err != nil {
		return err
	}
	log, err := os.Stat(s.heartbeat.log)
	if err != nil {
		return fmt.Errorf("measure the log of heartbeat: %w", err)
	}
	c.LogLineBytes = float64(log.Size()) / float64(max(1, lines))
	if err := s.room(ctx, &c); err != nil {
		return err
	}
	for _, at := range c.Figures() {
		r.figure("What capacity is counted with", at.What, fmt.Sprintf("%.1f", at.Value), nil, 0)
	}
	r.section("What capacity is counted with").How = fmt.Sprintf("at %.0f heartbeats, and %.0f sessions, a second; Redis and PostgreSQL as they account for themselves", s.rate, s.rate/10)
	r.Costs = &c
	return nil
}

// comings are sessions of an acquire and a release.
func (s *stage) comings() deed {
	acquire, release := newDoor(s.acquire.address), newDoor(s.release.address)
	return func(client, _ int) error {
		var answer fasthttp.Response
		ask := acquireRequest(acquire, s.free[client%len(s.free)].key, fmt.Sprintf("costs-%d", client), "")
		if err := acquire.send(ask, &answer, http.StatusCreated); err != nil {
			return err
		}
		token, err := member(answer.Body(), "seat_token")
		if err != nil {
			return err
		}
		return release.send(bearerRequest(release, "/v1/release", token), &answer, http.StatusOK)
	}
}

func (s *stage) used(ctx context.Context, processes []*process) (u used, err error) {
	for _, p := range processes {
		cpu, err := p.cpu()
		if err != nil {
			return used{}, err
		}
		u.function += cpu
	}
	answer, err := s.redis.Do(ctx, "INFO", "cpu", "stats")
	if err != nil {
		return used{}, fmt.Errorf("ask Redis what it used: %w", err)
	}
	info := fmt.Sprint(answer)
	value := func(name string) float64 {
		_, rest, _ := strings.Cut(info, "\n"+name+":")
		text, _, _ := strings.Cut(rest, "\r")
		v, parseErr := strconv.ParseFloat(text, 64)
		if parseErr != nil && err == nil {
			err = fmt.Errorf("ask Redis for %s: %w", name, parseErr)
		}
		return v
	}
	u.redis = time.Duration((value("used_cpu_user") + value("used_cpu_sys")) * float64(time.Second))
	u.commands = int64(value("total_commands_processed"))
	u.network = int64(value("total_net_input_bytes") + value("total_net_output_bytes"))
	if err != nil {
		return used{}, err
	}
	u.postgres, err = s.postgresCPU(ctx)
	return u, err
}

// postgresCPU is what the server and all its processes have used, those that ended too.
func (s *stage) postgresCPU(ctx context.Context) (sum time.Duration, err error) {
	var backend int
	if err := s.db.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&backend); err != nil {
		return 0, fmt.Errorf("ask PostgreSQL who it is: %w", err)
	}
	stat, err := statOf(backend)
	if err != nil {
		return 0, err
	}
	server := stat.parent
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range processes {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		stat, err := statOf(pid)
		switch {
		case err != nil: // it has ended
		case pid == server:
			sum += stat.own + stat.ended
		case stat.parent == server:
			sum += stat.own
		}
	}
	return sum, nil
}

// room measures what a seat, and a session in the history, take.
func (s *stage) room(ctx context.Context, c *capacity.Costs) error {
	keys, err := s.redis.Do(ctx, "KEYS", "*"+s.held[0].License.String()+"*") // nobody else is served here
	if err != nil {
		return fmt.Errorf("look for a pool's keys: %w", err)
	}
	names, _ := keys.([]any)
	var bytes int64
	for _, key := range names {
		n, err := s.redis.Do(ctx, "MEMORY", "USAGE", key, "SAMPLES", 0)
		if err != nil {
			return fmt.Errorf("ask for the size of %v: %w", key, err)
		}
		size, _ := n.(int64)
		bytes += size
	}
	c.SeatRedisBytes = float64(bytes) / float64(s.size.Seats)
	err = s.db.QueryRow(ctx, `
		SELECT coalesce(pg_total_relation_size('app.open_sessions') / nullif((SELECT count(*) FROM app.open_sessions), 0), 0),
		       coalesce((SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('app.ended_sessions'))
		           / nullif((SELECT count(*) FROM app.ended_sessions), 0), 0)`).Scan(&c.SeatRowBytes, &c.EndedRowBytes)
	if err != nil {
		return fmt.Errorf("ask PostgreSQL what rows take: %w", err)
	}
	return nil
}

// writeCosts keeps them for the model of capacity.
func writeCosts(dir string, c *capacity.Costs) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, costsFile), append(text, '\n'), 0o644)
}
