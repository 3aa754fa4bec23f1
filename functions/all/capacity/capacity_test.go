package capacity_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coditect/usher/functions/all/capacity"
	"github.com/coditect/usher/shared/platform/testenv"
)

var measured = capacity.Costs{
	Measured: "2026-01-02", Machine: "a machine",
	Heartbeat:      capacity.Cost{FunctionMicros: 100, RedisMicros: 50, RedisCommands: 8, RedisBytes: 1000},
	Session:        capacity.Cost{FunctionMicros: 800, RedisMicros: 200, PostgresMicros: 400, RedisCommands: 40, RedisBytes: 5000},
	SeatRedisBytes: 240, SeatRowBytes: 1200, EndedRowBytes: 500, LogLineBytes: 400,
}

func near(got, want float64) bool { return math.Abs(got-want) < 0.01*math.Max(1, want) }

func TestAMillionSeatsByHand(t *testing.T) {
	t.Parallel()
	n := measured.Of(1e6)
	for what, at := range map[string][2]float64{
		"heartbeats a second: 1e6 / 120":                  {n.Heartbeats, 8333.3},
		"acquires a second: 1e6 / 1800":                   {n.Sessions, 555.6},
		"instances of heartbeat: 8333 × 100 µs / 0.5":     {n.HeartbeatInstances, 2},
		"cores of Redis: (8333 × 50 + 556 × 200) µs / .5": {n.RedisCores, 1.0556},
		"shards: more than one core":                      {n.Shards, 2},
		"cores of PostgreSQL: 556 × 400 µs / 0.5":         {n.PostgresCores, 1},
		"cells": {n.Cells, 1},
		"logs: 1e6 × 176 h × 30 an hour × 400 B × 0.5 $": {n.Logs, 1e6 * 176 * 30 * 400 / (1 << 30) * 0.5},
	} {
		if !near(at[0], at[1]) {
			t.Errorf("%s: %v, want %v", what, at[0], at[1])
		}
	}
	if sum := n.Functions + n.Redis + n.Postgres + n.Network + n.Logs + n.Fixed; !near(n.All, sum) {
		t.Errorf("all is %v, the parts are %v", n.All, sum)
	}
}

func TestMoreSeatsNeverTakeLess(t *testing.T) {
	t.Parallel()
	last := measured.Of(0)
	for seats := 1.0; seats <= 1e9; seats *= 3 {
		n := measured.Of(seats)
		if n.All < last.All || n.Shards < last.Shards || n.HeartbeatInstances < last.HeartbeatInstances || n.PostgresCores < last.PostgresCores {
			t.Errorf("%v seats take %+v, and fewer %+v", seats, n, last)
		}
		last = n
	}
}

func TestThePageShowsEverySize(t *testing.T) {
	t.Parallel()
	var page bytes.Buffer
	if err := measured.Write(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1,000 seats | 1,000,000 seats | 100,000,000 seats", "a machine", "| heartbeats a second | 8.3 | 8,333 | 833,333 |", "Idle, a month costs"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page does not say %q:\n%s", want, page.String())
		}
	}
	if strings.Contains(page.String(), "NaN") || strings.Contains(page.String(), "Inf") {
		t.Error(page.String())
	}
}

// The page that is in the repository is what the command writes of what was measured.
func TestTheFiguresOfCapacityAreThoseOfTheBench(t *testing.T) {
	t.Parallel()
	root := testenv.Root(t)
	text, err := os.ReadFile(filepath.Join(root, "docs", "performance", "costs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var costs capacity.Costs
	if err := json.Unmarshal(text, &costs); err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := costs.Write(&page); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(filepath.Join(root, "docs", "capacity", "figures.md"))
	if err != nil {
		t.Fatal(err)
	}
	if page.String() != string(have) {
		t.Error("docs/capacity/figures.md is not what is counted from docs/performance/costs.json: run `make capacity`")
	}
}
