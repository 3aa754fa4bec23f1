// Package capacity says on paper what a number of seats takes: instances, shards, connections, disk and dollars. It counts
// with what `make bench` measured (Costs), with Google's list prices, and with assumptions that it prints; nothing in it is a
// promise, and it must know nothing of the functions.
package capacity

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Cost is what one heartbeat, or one session's acquire and release, uses.
type Cost struct {
	FunctionMicros float64 `json:"function_micros"` // CPU of the functions, µs
	RedisMicros    float64 `json:"redis_micros"`    // CPU of Redis, µs
	PostgresMicros float64 `json:"postgres_micros"` // CPU of PostgreSQL, µs
	RedisCommands  float64 `json:"redis_commands"`  // as Redis counts them, those within scripts too
	RedisBytes     float64 `json:"redis_bytes"`     // between functions and Redis, both ways
}

// Costs is what was measured.
type Costs struct {
	Measured  string `json:"measured"` // the day
	Machine   string `json:"machine"`
	Heartbeat Cost   `json:"heartbeat"`
	Session   Cost   `json:"session"`
	// Bytes: of a held seat in Redis, of its row, of a session in the history, indexes included, and of a heartbeat's log line.
	SeatRedisBytes float64 `json:"seat_redis_bytes"`
	SeatRowBytes   float64 `json:"seat_row_bytes"`
	EndedRowBytes  float64 `json:"ended_row_bytes"`
	LogLineBytes   float64 `json:"log_line_bytes"`
}

// Figure is one of them.
type Figure struct {
	What  string
	Value float64
}

// Figures lists them.
func (c Costs) Figures() []Figure {
	return []Figure{
		{"a heartbeat: CPU of the function, µs", c.Heartbeat.FunctionMicros},
		{"a heartbeat: CPU of Redis, µs", c.Heartbeat.RedisMicros},
		{"a heartbeat: CPU of PostgreSQL, µs", c.Heartbeat.PostgresMicros},
		{"a heartbeat: commands of Redis, within its script too", c.Heartbeat.RedisCommands},
		{"a heartbeat: bytes to and from Redis", c.Heartbeat.RedisBytes},
		{"an acquire and a release: CPU of the functions, µs", c.Session.FunctionMicros},
		{"an acquire and a release: CPU of Redis, µs", c.Session.RedisMicros},
		{"an acquire and a release: CPU of PostgreSQL, µs", c.Session.PostgresMicros},
		{"an acquire and a release: commands of Redis, within scripts too", c.Session.RedisCommands},
		{"a held seat in Redis, bytes", c.SeatRedisBytes},
		{"a held seat's row in PostgreSQL with its indexes, bytes", c.SeatRowBytes},
		{"a session in the history, bytes", c.EndedRowBytes},
		{"a heartbeat's line of log, bytes", c.LogLineBytes},
	}
}

// What is assumed of people and machines.
const (
	lease       = 360 * time.Second // the default of a plan
	beatEvery   = lease / 3
	hoursAMonth = 730
	workHours   = 8 * 22              // of a month in which a seat is held; at the peak all are
	sessions    = 2 * 22              // of a seat in a month: one more after lunch
	morning     = 30 * time.Minute    // in which everybody comes
	kept        = 30 * 24 * time.Hour // RETENTION_SESSION_DAYS
	atMost      = 0.5                 // of a core is used: the other half is for TLS, which was not measured, and for failover
	answerBytes = 700                 // of a heartbeat's answer, with headers and its share of TLS

	shardGB      = 10.4 // writable, of redis-highmem-medium
	largestRedis = 300  // GB, of one Memorystore instance
	largestSQL   = 96   // processors, of one Cloud SQL instance
	largestDisk  = 64_000
	connections  = 4 // of an instance of acquire, release and validate
	cellSeats    = 10_000_000
)

// List prices in USD, europe-west1, as the pricing pages had them in 2026. Look before you decide.
const (
	cpuSecond      = 0.000018 // Cloud Run, instance-based
	gibSecond      = 0.000002
	requestCPU     = 0.000024 // Cloud Run, request-based
	requestGiB     = 0.0000025
	millionAsked   = 0.40
	sqlCore        = 0.0413 * hoursAMonth // Cloud SQL Enterprise
	sqlGiB         = 0.007 * hoursAMonth
	sqlDisk        = 0.17
	redisBasicGB   = 0.049 * hoursAMonth // Memorystore, 1 to 4 GB
	redisGB        = 0.064 * hoursAMonth // with a replica
	shardMonth     = 0.20 * hoursAMonth  // a node of Memorystore Cluster, redis-highmem-medium, about; twice with its replica
	balancer       = 0.025 * hoursAMonth
	balancerGiB    = 0.008 * 2
	outGiB         = 0.085
	armorMonth     = 5*4 + 12 // four policies and their rules
	logGiB         = 0.50
	keysMonth      = 2*2.5 + 0.06 // two roots in an HSM, the wrapping key
	secretsMonth   = 30 * 0.06
	instanceMemory = 0.25 // GiB
)

// Need is what so many seats take.
type Need struct {
	Seats float64
	// At the peak.
	Heartbeats, Sessions float64 // a second
	// Instances of heartbeat, and of acquire and release together.
	HeartbeatInstances, SessionInstances float64
	RedisCores, RedisGB, Shards          float64
	PostgresCores, DiskGB, Connections   float64
	Cells                                float64
	// Dollars a month, by what they are for, and together.
	Functions, Redis, Postgres, Network, Logs, Fixed, All float64
}

// Of counts with what was measured. A second core of a machine is there whenever the first is half used.
func (c Costs) Of(seats float64) Need {
	n := Need{Seats: seats, Heartbeats: seats / beatEvery.Seconds(), Sessions: seats / morning.Seconds()}
	const second = 1e6
	cores := func(rate, microsEach float64) float64 { return rate * microsEach / second / atMost }
	n.HeartbeatInstances = math.Max(2, math.Ceil(cores(n.Heartbeats, c.Heartbeat.FunctionMicros)))
	n.SessionInstances = math.Max(2, math.Ceil(cores(n.Sessions, c.Session.FunctionMicros)))
	n.RedisCores = cores(n.Heartbeats, c.Heartbeat.RedisMicros) + cores(n.Sessions, c.Session.RedisMicros)
	n.RedisGB = seats * c.SeatRedisBytes / 0.75 / 1e9
	n.Shards = math.Max(1, math.Ceil(math.Max(n.RedisCores, n.RedisGB/shardGB)))
	n.PostgresCores = math.Max(1, math.Ceil(cores(n.Sessions, c.Session.PostgresMicros)))
	ended := seats * sessions * kept.Hours() / hoursAMonth
	n.DiskGB = math.Max(10, (seats*c.SeatRowBytes+ended*c.EndedRowBytes)/1e9)
	n.Connections = n.SessionInstances*connections + n.HeartbeatInstances
	n.Cells = math.Max(1, math.Ceil(seats/cellSeats))

	busy := seats * workHours * 3600 // seconds for which seats are held, a month
	beats := busy / beatEvery.Seconds()
	come := seats * sessions
	// Heartbeat's two instances are always there; more are there as long as they are needed, at the same half of a core.
	used := math.Max(2*hoursAMonth*3600, beats*c.Heartbeat.FunctionMicros/second/atMost)
	n.Functions = used*(cpuSecond+instanceMemory*gibSecond) +
		come*2*(0.02*requestCPU+0.02*instanceMemory*requestGiB)/10 + come*2/1e6*millionAsked // 20 ms each, ten at once
	n.Functions += 2 * hoursAMonth * 3600 * (cpuSecond/10 + instanceMemory*gibSecond) // acquire and validate stand ready, idle
	n.Redis = redisBasicGB                                                            // the budgets'
	if n.Shards == 1 {
		n.Redis += math.Max(1, math.Ceil(n.RedisGB)) * redisGB
	} else {
		n.Redis += n.Shards * 2 * shardMonth
	}
	// The primary, its standby in another zone, and the replica in another region.
	n.Postgres = 3 * (n.PostgresCores*(sqlCore+3.75*sqlGiB) + n.DiskGB*sqlDisk)
	gib := (beats + come*4) * answerBytes / (1 << 30)
	n.Network = gib * (balancerGiB + outGiB)
	n.Logs = beats * c.LogLineBytes / (1 << 30) * logGiB
	n.Fixed = balancer + armorMonth + keysMonth + secretsMonth
	n.All = n.Functions + n.Redis + n.Postgres + n.Network + n.Logs + n.Fixed
	return n
}

// Idle is what a deployment costs in a month in which nobody comes, in dollars: kept warm with standbys, as in production, and
// without both, as in development.
func (c Costs) Idle() (production, development float64) {
	production = c.Of(0).All
	development = redisBasicGB*2 + sqlCore + 3.75*sqlGiB + 10*sqlDisk + balancer + armorMonth + keysMonth + secretsMonth
	return production, development
}

// Sizes are the numbers of seats that are shown.
var Sizes = []float64{1e3, 1e6, 1e8}

// Write writes the page of figures, in Markdown.
func (c Costs) Write(w io.Writer) error {
	p := &page{w: w}
	p.line("# Figures of capacity\n")
	p.line("Written by `make capacity`. What they mean, and what changes at each size, is in [capacity.md](../capacity.md).\n")
	p.line("## What is counted with\n")
	p.line("Measured by `make bench` on %s: %s.\n", c.Measured, c.Machine)
	p.line("| what | |\n|---|---|")
	for _, f := range c.Figures() {
		p.line("| %s | %s |", f.What, short(f.Value))
	}
	p.line("\nAssumed: a lease of %.0f s, so a heartbeat each %.0f s; a seat is held %d hours a month, and at the peak all are; %d sessions of a seat a month, and in", lease.Seconds(), beatEvery.Seconds(), workHours, sessions)
	p.line("the morning all come within %.0f minutes; a core is used by half; the history keeps %.0f days; an answer is %d bytes on the wire.\n", morning.Minutes(), kept.Hours()/24, answerBytes)
	p.line("## What it takes\n")
	var needs []Need
	head, rule := "| |", "|---|"
	for _, seats := range Sizes {
		needs = append(needs, c.Of(seats))
		head += " " + grouped(seats) + " seats |"
		rule += "---|"
	}
	p.line("%s\n%s", head, rule)
	for _, at := range []struct {
		what string
		of   func(Need) float64
	}{
		{"heartbeats a second", func(n Need) float64 { return n.Heartbeats }},
		{"acquires a second, in the morning", func(n Need) float64 { return n.Sessions }},
		{"instances of heartbeat", func(n Need) float64 { return n.HeartbeatInstances }},
		{"instances of acquire and release", func(n Need) float64 { return n.SessionInstances }},
		{"cores of Redis", func(n Need) float64 { return n.RedisCores }},
		{"memory of Redis, GB", func(n Need) float64 { return n.RedisGB }},
		{"shards of Redis", func(n Need) float64 { return n.Shards }},
		{"cores of PostgreSQL", func(n Need) float64 { return n.PostgresCores }},
		{"disk of PostgreSQL, GB", func(n Need) float64 { return n.DiskGB }},
		{"connections to PostgreSQL", func(n Need) float64 { return n.Connections }},
		{"cells", func(n Need) float64 { return n.Cells }},
		{"USD a month: functions", func(n Need) float64 { return n.Functions }},
		{"USD a month: Redis", func(n Need) float64 { return n.Redis }},
		{"USD a month: PostgreSQL", func(n Need) float64 { return n.Postgres }},
		{"USD a month: network", func(n Need) float64 { return n.Network }},
		{"USD a month: logs", func(n Need) float64 { return n.Logs }},
		{"USD a month: load balancer, Cloud Armor, keys, secrets", func(n Need) float64 { return n.Fixed }},
		{"**USD a month**", func(n Need) float64 { return n.All }},
		{"USD a month for a seat", func(n Need) float64 { return n.All / n.Seats }},
	} {
		cells := []string{at.what}
		for _, n := range needs {
			cells = append(cells, short(at.of(n)))
		}
		p.line("| %s |", strings.Join(cells, " | "))
	}
	production, development := c.Idle()
	p.line("\nIdle, a month costs %s USD in production (warm, with standbys) and %s in development, before taxes and with no free tier counted.", short(production), short(development))
	return p.err
}

// page remembers the first failure.
type page struct {
	w   io.Writer
	err error
}

func (p *page) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// short writes a number with the digits that mean something.
func short(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.01:
		return fmt.Sprintf("%.4f", v)
	case v < 1:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	default:
		return grouped(v)
	}
}

// grouped writes a whole number with its thousands apart.
func grouped(v float64) string {
	text := fmt.Sprintf("%.0f", v)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
