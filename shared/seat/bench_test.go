package seat

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func BenchmarkHeartbeat(b *testing.B) {
	w := settle(b, 1000)
	w.change(`ttl_seconds = 3600`)
	ref := w.sit("one")
	p := w.pools("usher_heartbeat")
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if beat, err := p.Heartbeat(b.Context(), ref); err != nil || !beat.Alive {
				b.Fatalf("%+v, %v", beat, err)
			}
		}
	})
}

// BenchmarkTouch compares the ways of a script to Redis and back, with 64 callers at once: each alone, all together as the
// product does it, and by go-redis's AutoPipeline. "cpu-µs/op" is this process's own.
func BenchmarkTouch(b *testing.B) {
	w := settle(b, 1000)
	w.change(`ttl_seconds = 3600`)
	ref := w.sit("one")
	p := w.pools("usher_heartbeat")
	auto, err := p.rdb.(*redis.Client).AutoPipeline()
	w.must(err)
	keys := w.pool().keys()
	args := []any{ref.Session.String(), ref.Fence().String(), "beat"}
	for name, touch := range map[string]func(ctx context.Context) error{
		"alone": func(ctx context.Context) error {
			_, err := p.runAlone(ctx, p.cfg.Timeout, touchScript, keys, args...)
			return err
		},
		"together":     func(ctx context.Context) error { _, err := p.run(ctx, touchScript, keys, args...); return err },
		"AutoPipeline": func(ctx context.Context) error { return auto.EvalSha(ctx, touchScript.Hash(), keys, args...).Err() },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			w.must(touch(b.Context()))
			before := ownCPU(b)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := touch(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64((ownCPU(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
		})
	}
}

// ownCPU is the user and system time of this process so far.
func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkSession is an acquire and a release: four scripts, and two commits that do not wait for a disk.
func BenchmarkSession(b *testing.B) {
	w := settle(b, 1000)
	w.change(`ttl_seconds = 3600`)
	acquire, release := w.pools("usher_acquire"), w.pools("usher_release")
	var holders atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		h := device(fmt.Sprint(holders.Add(1)))
		for pb.Next() {
			g, err := acquire.Acquire(b.Context(), w.tenant, w.license, h, Ask{})
			if err != nil || g.Verdict != Granted {
				b.Fatalf("%+v, %v", g, err)
			}
			if _, err := release.Release(b.Context(), g.Ref); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRebuild builds a pool from so many rows. "script" is the part during which Redis does nothing else.
func BenchmarkRebuild(b *testing.B) {
	for _, n := range []int{1000, 20_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := settle(b, n)
			w.db.Exec(b, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id)
				SELECT $1, gen_random_uuid(), $2, n, 1, n, 'device:' || gen_random_uuid(), n FROM generate_series(1, $3::int) n`,
				w.tenant.UUID(), w.license, n)
			var script time.Duration
			for b.Loop() {
				s, err := w.snapshot(b.Context(), w.pool(), w.epoch())
				w.must(err)
				began := time.Now()
				kind, err := w.install(b.Context(), w.pool(), s)
				if script += time.Since(began); err != nil || kind != "ok" {
					b.Fatalf("%s, %v", kind, err)
				}
			}
			b.ReportMetric(float64(script.Milliseconds())/float64(b.N), "script-ms/op")
		})
	}
}
