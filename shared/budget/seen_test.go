package budget_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/platform/testenv"
)

// seenBy is what was seen of a kind, by source.
func seenBy(t testing.TB, b *budget.Budgets, kind budget.Kind) map[string]int64 {
	t.Helper()
	all, err := b.Seen(t.Context(), time.Now().Add(-5*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]int64{}
	for _, c := range all {
		if c.Kind == kind {
			by[c.Source] += c.N
		}
	}
	return by
}

func TestWhatIsRefusedIsCountedByWhoDidIt(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]*testenv.RedisServer{"alone": testenv.Redis(t), "in a cluster": testenv.RedisCluster(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, ctx := open(t, server.URL(), small, testenv.Logs(t)), t.Context()
			for range 30 { // answered or refused, each unknown key counts
				_ = b.UnknownKey(ctx, netip.MustParseAddr("192.0.2.1"))
			}
			_ = b.UnknownKey(ctx, netip.MustParseAddr("2001:db8::1"))
			_ = b.UnknownKey(ctx, netip.MustParseAddr("2001:db8::2"))
			if got := seenBy(t, b, budget.UnknownKeys); len(got) != 2 || got["address:192.0.2.1"] != 30 || got["address:2001:db8::/64"] != 2 {
				t.Errorf("unknown keys seen are %v", got)
			}
			license, refused := uuid.New(), int64(0)
			for range 400 {
				if b.Holder(ctx, license, 1, "a") != nil {
					refused++
				}
			}
			if got := seenBy(t, b, budget.OverBudget); refused == 0 || got["license:"+license.String()] != refused {
				t.Errorf("%d requests were refused, and seen are %v", refused, got)
			}
			b.See(ctx, budget.CrossTenant, "tenant:1")
			if got := seenBy(t, b, budget.CrossTenant); got["tenant:1"] != 1 || len(got) != 1 {
				t.Errorf("seen are %v", got)
			}
		})
	}
}

func TestManySourcesAreCountedTogether(t *testing.T) {
	t.Parallel()
	b := open(t, testenv.Redis(t).URL(), small, testenv.Logs(t))
	for i := range 230 {
		b.See(t.Context(), budget.BadCredentials, fmt.Sprint("address:", i))
	}
	got := seenBy(t, b, budget.BadCredentials)
	total := int64(0)
	for _, n := range got {
		total += n
	}
	if total != 230 || got[""] < 30-2 || len(got) > 2*201 { // the minute may have passed meanwhile
		t.Errorf("%d sources, %d in all, %d together", len(got), total, got[""])
	}
}
