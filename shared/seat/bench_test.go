package seat

import (
	"fmt"
	"sync/atomic"
	"testing"
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
