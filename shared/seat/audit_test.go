package seat

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/tenancy"
)

// BenchmarkSeatsBesideActs is an acquire and a release while acts are recorded without a pause: of the seats' own tenant, of
// another, or none. Its own tenant's chain must cost the seats no more than another's.
func BenchmarkSeatsBesideActs(b *testing.B) {
	w := settle(b, 1000)
	other := tenancy.Verified(uuid.New())
	w.found(other)
	acts := w.pools("usher_admin").db
	for name, tenant := range map[string]*tenancy.ID{"none": nil, "of another tenant": &other, "of the same tenant": &w.tenant} {
		b.Run(name, func(b *testing.B) {
			ctx, stop := context.WithCancel(b.Context())
			recorded := make(chan int, 1)
			go func() {
				n := 0
				for tenant != nil && ctx.Err() == nil {
					if err := acts.As(ctx, *tenant, func(tx tenancy.Tx) error {
						return audit.Record(ctx, tx, audit.Entry{Action: "license.changed", Actor: "api_key:1", Subject: "license:1"})
					}); err != nil && ctx.Err() == nil {
						b.Error(err)
					}
					n++
				}
				recorded <- n
			}()
			for b.Loop() {
				w.release(w.sit("one"))
			}
			elapsed := b.Elapsed()
			stop()
			b.ReportMetric(float64(<-recorded)/elapsed.Seconds(), "acts/s")
		})
	}
}
