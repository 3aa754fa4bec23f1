package seat

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"
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
