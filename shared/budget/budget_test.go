package budget_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/budget"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/testenv"
)

// small are budgets that come back so slowly that a test sees only their bursts.
var small = budget.Limits{
	HolderPerSecond: 0.01, HolderBurst: 5, LicensePerSeat: 4, LicenseBase: 10, LicenseRefill: time.Hour,
	UnknownPerSecond: 0.01, UnknownBurst: 3,
}

func open(t *testing.T, url string, limits budget.Limits, log *testenv.LogCapture) *budget.Budgets {
	t.Helper()
	b, err := budget.New(budget.Config{URL: config.Secret(url), Timeout: 2 * time.Second, Rest: 50 * time.Millisecond, Limits: limits}, time.Now, log.Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// granted counts how often ask is granted before it is refused, and answers the refusal.
func granted(t *testing.T, ask func() error) (int, *fault.Error) {
	t.Helper()
	for n := range 10_000 {
		err := ask()
		if err == nil {
			continue
		}
		f := fault.As(err)
		if f == nil || f.Kind != fault.KindRateLimited {
			t.Fatalf("asking answers %v", err)
		}
		return n, f
	}
	t.Fatal("asking is never refused")
	return 0, nil
}

func TestAHolderMayAskAsOftenAsItsBudgetSays(t *testing.T) {
	t.Parallel()
	b := open(t, testenv.Redis(t).URL(), small, testenv.Logs(t))
	one, other := uuid.New(), uuid.New()
	n, refusal := granted(t, func() error { return b.Holder(t.Context(), one, 100, "device:1") })
	if n != 5 || refusal.RetryAfter < 50*time.Second || refusal.RetryAfter > 100*time.Second {
		t.Errorf("%d were granted, retry after %s", n, refusal.RetryAfter)
	}
	for name, ask := range map[string]func() error{
		"another holder":                   func() error { return b.Holder(t.Context(), one, 100, "device:2") },
		"the same device, another licence": func() error { return b.Holder(t.Context(), other, 100, "device:1") },
	} {
		if n, _ := granted(t, ask); n != 5 {
			t.Errorf("%s: %d were granted", name, n)
		}
	}
}

func TestALicencesBudgetGrowsWithItsSeats(t *testing.T) {
	t.Parallel()
	b := open(t, testenv.Redis(t).URL(), small, testenv.Logs(t))
	for _, seats := range []int{0, 1, 25} {
		license, holders := uuid.New(), atomic.Int64{}
		n, _ := granted(t, func() error {
			return b.Holder(t.Context(), license, seats, "device:"+string(rune('a'+holders.Add(1)%1000)))
		})
		if n != 4*seats+10 {
			t.Errorf("%d seats: %d were granted", seats, n)
		}
	}
}

func TestARefusalTakesNothing(t *testing.T) {
	t.Parallel()
	b := open(t, testenv.Redis(t).URL(), small, testenv.Logs(t))
	license := uuid.New()
	granted(t, func() error { return b.Holder(t.Context(), license, 0, "greedy") })
	for range 100 {
		if b.Holder(t.Context(), license, 0, "greedy") == nil {
			t.Fatal("the greedy holder is granted more")
		}
	}
	// Of the licence's ten the greedy holder took five, and its refusals none.
	if n, _ := granted(t, func() error { return b.Holder(t.Context(), license, 0, "modest") }); n != 5 {
		t.Errorf("another holder is granted %d", n)
	}
}

func TestABudgetComesBackInTime(t *testing.T) {
	t.Parallel()
	limits := small
	limits.HolderPerSecond, limits.HolderBurst, limits.LicenseBase = 20, 2, 1000
	b := open(t, testenv.Redis(t).URL(), limits, testenv.Logs(t))
	license := uuid.New()
	_, refusal := granted(t, func() error { return b.Holder(t.Context(), license, 0, "h") })
	if refusal.RetryAfter <= 0 || refusal.RetryAfter > 50*time.Millisecond {
		t.Errorf("retry after %s", refusal.RetryAfter)
	}
	refused := time.Now()
	testenv.Eventually(t, 5*time.Second, func() error { return b.Holder(t.Context(), license, 0, "h") })
	if waited := time.Since(refused); waited < refusal.RetryAfter-time.Millisecond {
		t.Errorf("granted after %s, told to wait for %s", waited, refusal.RetryAfter)
	}
}

func TestGuessesCountByAddressAndBlockOfAddresses(t *testing.T) {
	t.Parallel()
	b := open(t, testenv.Redis(t).URL(), small, testenv.Logs(t))
	ask := func(text string) func() error {
		a := netip.MustParseAddr(text)
		return func() error { return b.UnknownKey(t.Context(), a) }
	}
	for _, c := range []struct {
		addr string
		want int
	}{
		{"192.0.2.1", 3}, {"192.0.2.2", 3}, {"::ffff:192.0.2.1", 0}, {"2001:db8::1", 3}, {"2001:db8::ffff:2", 0}, {"2001:db8:0:1::1", 3}, {"fe80::1%eth0", 3}, {"fe80::2%eth1", 0},
	} {
		if n, _ := granted(t, ask(c.addr)); n != c.want {
			t.Errorf("%s: %d were granted, want %d", c.addr, n, c.want)
		}
	}
	if n, _ := granted(t, func() error { return b.UnknownKey(t.Context(), netip.Addr{}) }); n != 3 {
		t.Errorf("no address: %d were granted", n)
	}
}

func TestManyAtOnceAreGrantedTheBudgetExactly(t *testing.T) {
	t.Parallel()
	b := open(t, testenv.Redis(t).URL(), small, testenv.Logs(t))
	license := uuid.New()
	var got atomic.Int64
	var wait sync.WaitGroup
	for i := range 60 {
		wait.Go(func() {
			if b.Holder(t.Context(), license, 5, string(rune('a'+i))) == nil {
				got.Add(1)
			}
		})
	}
	wait.Wait()
	if got.Load() != 30 {
		t.Errorf("%d were granted, want 30", got.Load())
	}
}

func TestWithoutItsStoreEverybodyMayAsk(t *testing.T) {
	t.Parallel()
	server, log := testenv.Redis(t), testenv.Logs(t)
	b := open(t, server.URL(), small, log)
	ask := func() error { return b.UnknownKey(t.Context(), netip.MustParseAddr("192.0.2.1")) }
	granted(t, ask)
	server.Kill(t)
	for range 200 {
		if err := ask(); err != nil {
			t.Fatalf("with the store out: %v", err)
		}
	}
	if n := strings.Count(log.Text(), "the budget store is out"); n != 1 {
		t.Errorf("the log says so %d times, want once a minute", n)
	}
	server.RestartEmpty(t)
	testenv.Eventually(t, 10*time.Second, func() error {
		for range 10 {
			if f := fault.As(ask()); f != nil && f.Kind == fault.KindRateLimited {
				return nil
			}
		}
		return errors.New("nobody is refused again")
	})
}

func TestAStoreThatHangsDelaysNobodyForLong(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	b, err := budget.New(budget.Config{URL: config.Secret(server.URL()), Timeout: 50 * time.Millisecond, Rest: time.Hour, Limits: small}, time.Now, testenv.Logs(t).Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	server.Pause(t)
	t.Cleanup(func() { server.Resume(t) })
	begun := time.Now()
	for range 1000 {
		if err := b.Holder(t.Context(), uuid.New(), 1, "h"); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("a thousand requests waited %s for a store that hangs", took)
	}
}

func TestACallerWhoGoesAwayOpensTheDoorForNobody(t *testing.T) {
	t.Parallel()
	log := testenv.Logs(t)
	b := open(t, testenv.Redis(t).URL(), small, log)
	ask := func(ctx context.Context) error { return b.UnknownKey(ctx, netip.MustParseAddr("192.0.2.1")) }
	granted(t, func() error { return ask(t.Context()) })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ask(gone); err != nil {
		t.Errorf("who went away is told %v", err)
	}
	if ask(t.Context()) == nil || strings.Contains(log.Text(), "the budget store is out") {
		t.Error("a caller who went away is taken for a store that is out")
	}
}

func TestBudgetsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	limits := small
	limits.HolderPerSecond, limits.LicenseRefill = 1000, 10*time.Millisecond
	b := open(t, server.URL(), limits, testenv.Logs(t))
	if err := b.Holder(t.Context(), uuid.New(), 1, "device:secret-serial"); err != nil {
		t.Fatal(err)
	}
	for _, key := range server.Do(t, "KEYS", "*").([]any) {
		if strings.Contains(key.(string), "secret-serial") {
			t.Errorf("the key %v names the device", key)
		}
	}
	testenv.Eventually(t, 5*time.Second, func() error {
		if n := server.Do(t, "DBSIZE"); n != int64(0) {
			return fmt.Errorf("%v keys are left", n)
		}
		return nil
	})
}

func TestABudgetsClusterSlotIsOne(t *testing.T) {
	t.Parallel()
	// In a cluster a script whose keys are in two slots is refused, so everybody would be granted everything.
	b := open(t, testenv.RedisCluster(t).URL(), small, testenv.Logs(t))
	if n, _ := granted(t, func() error { return b.Holder(t.Context(), uuid.Nil, 100, "h") }); n != 5 {
		t.Errorf("%d were granted", n)
	}
}

func TestAHeartbeatCountsInMemory(t *testing.T) {
	t.Parallel()
	now := time.Now()
	limits := small
	limits.HolderPerSecond, limits.HolderBurst = 10, 100
	beats, err := budget.NewBeats(limits, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	one, other := uuid.New(), uuid.New()
	n, refusal := granted(t, func() error { return beats.Session(one) })
	if n != 100 || refusal.RetryAfter != 100*time.Millisecond {
		t.Errorf("%d were granted, retry after %s", n, refusal.RetryAfter)
	}
	if err := beats.Session(other); err != nil {
		t.Errorf("another session: %v", err)
	}
	now = now.Add(time.Second)
	if n, _ := granted(t, func() error { return beats.Session(one) }); n != 10 {
		t.Errorf("a second later %d were granted", n)
	}
	now = now.Add(-time.Hour)
	if beats.Session(one) == nil {
		t.Error("a clock that went back grants more")
	}
}

func TestBudgetsAreConfigured(t *testing.T) {
	t.Parallel()
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	log := testenv.Logs(t).Logger
	b, err := budget.Open(env("BUDGET_REDIS_URL", "redis://127.0.0.1:1/1"), log)
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	if _, err := budget.OpenBeats(env()); err != nil {
		t.Error(err)
	}
	for _, bad := range [][2]string{
		{"BUDGET_REDIS_URL", ""},
		{"BUDGET_REDIS_URL", "http://:hunter2@h"},
		{"BUDGET_HOLDER_BURST", "0"},
		{"BUDGET_UNKNOWN_PER_SECOND", "-1"},
		{"BUDGET_LICENSE_REFILL", "0s"},
		{"BUDGET_TIMEOUT", "0s"},
		{"BUDGET_HOLDER_PER_SECOND", "NaN"},
	} {
		_, err := budget.Open(env(bad[0], bad[1], "BUDGET_REDIS_URL", "redis://127.0.0.1:1/1"), log)
		if err == nil && bad[1] != "" || err != nil && (!strings.Contains(err.Error(), bad[0]) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s=%s: %v", bad[0], bad[1], err)
		}
	}
	if _, err := budget.OpenBeats(env("BUDGET_HOLDER_BURST", "-1")); err == nil {
		t.Error("heartbeats with a negative burst")
	}
}

func TestWhoAsksAsSeldomAsAnHonestClientCostsNoRoundTrip(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	limits := small
	limits.HolderBurst, limits.LicenseBase = 100, 400
	b := open(t, server.URL(), limits, testenv.Logs(t))
	asked := func() bool { return server.Do(t, "DBSIZE") != int64(0) }
	license := uuid.New()
	for n := range 4 {
		for holder := range 5 {
			if err := b.Holder(t.Context(), license, 0, fmt.Sprint(holder)); err != nil {
				t.Fatal(err)
			}
		}
		if asked() {
			t.Fatalf("Redis counted what five holders asked %d times", n+1)
		}
	}
	n, _ := granted(t, func() error { return b.Holder(t.Context(), license, 0, "greedy") })
	if !asked() || n > 100+100/20 {
		t.Errorf("a greedy holder was granted %d, of a budget of 100", n)
	}
}
