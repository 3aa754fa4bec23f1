package rotation_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/secret/secretmanager"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/kms"
	"github.com/coditect/usher/shared/signing/rotation"
	"github.com/coditect/usher/shared/tenancy"
)

const (
	rootKey     = "projects/p/locations/l/keyRings/r/cryptoKeys/roots"
	wrappingKey = "projects/p/locations/l/keyRings/r/cryptoKeys/receipts"
	tokenSecret = "projects/p/secrets/ring"
	issuer      = "https://usher.test"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// world is a deployment's keys, on a clock that the test moves.
type world struct {
	db       *testenv.DB
	cloud    *localenv.Cloud
	log      *testenv.LogCapture
	patience string // how long Cloud KMS is waited for

	mu  sync.Mutex
	now time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		db: testenv.Postgres(t), cloud: testenv.Cloud(t), log: testenv.Logs(t), now: time.Date(2026, 3, 1, 15, 4, 5, 0, time.UTC),
		patience: "10s",
	}
	must(t, w.cloud.MakeSigningKey(rootKey))
	must(t, w.cloud.MakeEncryptionKey(wrappingKey))
	must(t, w.cloud.MakeSecret(tokenSecret))
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// store is the same clock, as the store's.
func (w *world) store(context.Context) (time.Time, error) { return w.clock(), nil }

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) getenv(name string) string {
	return map[string]string{
		"CLOUD_EMULATOR": w.cloud.Addr(), "KMS_ROOT_KEY": rootKey, "KMS_WRAPPING_KEY": wrappingKey, "SEAT_TOKEN_SECRET": tokenSecret,
		"KMS_TIMEOUT": w.patience, "SECRET_MANAGER_TIMEOUT": "10s",
	}[name]
}

func (w *world) open(t testing.TB, role string) (*tenancy.DB, *kms.Vault) {
	t.Helper()
	db, err := tenancy.OpenURL(context.Background(), w.db.URL(role), tenancy.Config{Timeout: 30 * time.Second}, w.log.Logger)
	must(t, err)
	t.Cleanup(db.Close)
	vault, err := kms.Open(w.getenv, kms.Wrap|kms.Rotate)
	must(t, err)
	t.Cleanup(func() { _ = vault.Close() })
	return db, vault
}

// rotation is that of a new process.
func (w *world) rotation(t testing.TB) *rotation.Rotation {
	t.Helper()
	db, vault := w.open(t, "usher_rotate")
	ring, err := secretmanager.Open(w.getenv)
	must(t, err)
	t.Cleanup(func() { _ = ring.Close() })
	return rotation.New(rotation.Deps{DB: db, Vault: vault, Ring: ring, Now: w.store, Log: w.log.Logger})
}

// keys are those of a new instance that signs.
func (w *world) keys(t testing.TB) *signing.Keys {
	t.Helper()
	db, vault := w.open(t, "usher_acquire")
	return signing.NewKeys(signing.KeysConfig{Issuer: issuer}, db, vault.Unwrap, w.store, w.clock, w.log.Logger)
}

// publisher is that of a new instance of function keys.
func (w *world) publisher(t testing.TB) *signing.Publisher {
	t.Helper()
	db, vault := w.open(t, "usher_keys")
	return signing.NewPublisher(signing.KeysConfig{Issuer: issuer}, db, signing.NewRoots(db, vault.Signer), w.store, w.clock, w.log.Logger)
}

func run(t testing.TB, r *rotation.Rotation) rotation.Report {
	t.Helper()
	report, err := r.Run(t.Context())
	must(t, err)
	return report
}

// unrecorded is the order of somebody whose acts nobody records.
var unrecorded = rotation.Order{Reason: "it leaked", By: "operator:test", Record: func(tenancy.Tx, []string) error { return nil }}

// state is what the stores hold in the end, without what chance decides.
func (w *world) state(t *testing.T) string {
	t.Helper()
	return testenv.Value[string](t, w.db, `
		SELECT string_agg(line, E'\n' ORDER BY line)
		  FROM (SELECT concat_ws(' ', kind, CASE kind WHEN 'mac' THEN kid END, not_before, not_after, issuer_kid IS NOT NULL, wrapped_key IS NOT NULL,
		               published_at IS NOT NULL, activated_at IS NOT NULL, retired_at IS NOT NULL, disabled_at IS NOT NULL,
		               destroyed_at IS NOT NULL, revoked_at IS NOT NULL) AS line
		          FROM app.signing_keys) AS s`)
}

func TestAgainNothingIsDue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := run(t, w.rotation(t))
	if first.Done[signing.CreateRoot] != 2 || first.Done[signing.MakeReceiptKey] < 3 || first.Done[signing.MakeMAC] != 1 {
		t.Errorf("the first run did %v", first.Done)
	}
	if again := run(t, w.rotation(t)); len(again.Done) != 0 {
		t.Errorf("the second run did %v", again.Done)
	}
}

// moments are times at which much is due: at first, at the end of a root's life, and long after.
var moments = []time.Duration{0, 91 * 24 * time.Hour, 2 * time.Hour, 26 * time.Hour, 31 * 24 * time.Hour, 70 * 24 * time.Hour}

// through lives through the moments, and answers how many steps that takes.
func (w *world) through(t *testing.T, rotate func()) string {
	t.Helper()
	for _, d := range moments {
		w.pass(d)
		rotate()
	}
	return w.state(t)
}

func TestARunThatEndsAfterAnyStepIsTakenUp(t *testing.T) {
	t.Parallel()
	calm := newWorld(t)
	want := calm.through(t, func() { run(t, calm.rotation(t)) })

	cut := newWorld(t)
	got := cut.through(t, func() {
		for range 200 {
			r := cut.rotation(t) // each step is another process's, which ends after it
			step, err := r.Next(t.Context())
			must(t, err)
			ring, err := r.NextOfRing(t.Context())
			must(t, err)
			if step.Do == "" && ring.Do == "" {
				return
			}
		}
		t.Fatal("it does not end")
	})
	if got != want {
		t.Errorf("cut short after each step it ends as\n%s\nand else as\n%s", got, want)
	}
}

func TestAnAnswerThatGotLostIsNoHarm(t *testing.T) {
	t.Parallel()
	calm := newWorld(t)
	want := calm.through(t, func() { run(t, calm.rotation(t)) })

	lossy := newWorld(t)
	lost := map[string]int{}
	got := lossy.through(t, func() {
		seen := map[string]bool{}
		lossy.cloud.Interfere(func(method string, answered bool) error {
			lossy.mu.Lock()
			defer lossy.mu.Unlock()
			if !answered || seen[method] {
				return nil
			}
			seen[method] = true // once in each run
			lost[method]++
			return status.Error(codes.Internal, "the answer was lost")
		})
		for range 20 {
			if _, err := lossy.rotation(t).Run(t.Context()); err == nil {
				return
			} else if f := fault.As(err); f == nil || f.Kind != fault.KindUnavailable {
				t.Fatalf("it is not told to come again: %v", err)
			}
		}
		t.Fatal("it does not end")
	})
	for _, method := range []string{"CreateCryptoKeyVersion", "UpdateCryptoKeyVersion", "DestroyCryptoKeyVersion", "AddSecretVersion", "AsymmetricSign", "Encrypt"} {
		if lost[method] == 0 {
			t.Errorf("no answer of %s was lost", method)
		}
	}
	if got != want {
		t.Errorf("with lost answers it ends as\n%s\nand else as\n%s", got, want)
	}
}

func TestTwoAtOnceDoTheWorkOnce(t *testing.T) {
	t.Parallel()
	calm, both := newWorld(t), newWorld(t)
	want := calm.through(t, func() { run(t, calm.rotation(t)) })
	got := both.through(t, func() {
		var running sync.WaitGroup
		for range 3 {
			r := both.rotation(t)
			running.Go(func() {
				if _, err := r.Run(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		running.Wait()
	})
	if got != want {
		t.Errorf("three at once end as\n%s\nand one as\n%s", got, want)
	}
}

func TestARunThatDiedIsWaitedForUntilItsTurnIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.Exec(t, `UPDATE app.rotation_turn SET run = gen_random_uuid(), ends = clock_timestamp() + interval '1 hour'`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := w.rotation(t).Run(ctx); fault.As(err) == nil || fault.As(err).Kind != fault.KindUnavailable {
		t.Errorf("while another has its turn: %v", err)
	}
	w.db.Exec(t, `UPDATE app.rotation_turn SET ends = clock_timestamp() - interval '1 millisecond'`)
	if report := run(t, w.rotation(t)); len(report.Done) == 0 {
		t.Error("it did nothing")
	}
	run(t, w.rotation(t)) // gave its turn back
}

// client verifies as one does that reads the key set when an hour has passed, or a key is unknown to it.
type client struct {
	w         *world
	publisher *signing.Publisher
	read      time.Time
	set       receipt.KeySet
	list      *receipt.Revocations
}

func (c *client) refresh(t *testing.T) {
	t.Helper()
	text, err := c.publisher.KeySet(t.Context())
	must(t, err)
	c.set, err = receipt.ParseKeySet(text)
	must(t, err)
	list, err := c.publisher.List(t.Context())
	must(t, err)
	answer, err := json.Marshal(map[string]any{"list": list.Text, "version": list.Version})
	must(t, err)
	v := receipt.Verifier{Keys: c.set, Revocations: c.list, Now: c.w.clock}
	c.list, err = v.RevocationList(answer)
	must(t, err)
	c.read = c.w.clock()
}

func (c *client) verify(t *testing.T, text string) error {
	t.Helper()
	if c.w.clock().Sub(c.read) >= time.Hour {
		c.refresh(t)
	}
	_, err := (&receipt.Verifier{Keys: c.set, Revocations: c.list, Now: c.w.clock}).Receipt(text)
	return err
}

func (w *world) sign(t *testing.T, keys *signing.Keys) string {
	t.Helper()
	s, err := keys.Current(t.Context())
	must(t, err)
	now := w.clock()
	text, err := s.Sign(receipt.Receipt{
		License: "l", Product: "p", Tenant: "t", HardwareHash: receipt.HashHardware("h"), IssuedAt: now, OfflineUntil: now.Add(receipt.Longest),
	})
	must(t, err)
	return text
}

// TestRotationDuringTrafficRefusesNobody lets half an hour pass at a time, for a hundred days: keys take turns, roots are
// replaced, versions are disabled and destroyed, while receipts are signed and verified, also old ones.
func TestRotationDuringTrafficRefusesNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.rotation(t))
	r, keys := w.rotation(t), w.keys(t)
	clients := []*client{{w: w, publisher: w.publisher(t)}, {w: w, publisher: w.publisher(t)}}
	type promise struct {
		text  string
		until time.Time
	}
	var old []promise
	step := 3*time.Hour + 7*time.Minute
	if testenv.Full() {
		step = 37 * time.Minute
	}
	unwraps, days := w.cloud.Calls()["Decrypt"], 0
	for i := 0; days < 100; i++ {
		w.pass(step)
		if elapsed := int(time.Duration(i) * step / (24 * time.Hour)); elapsed > days {
			days = elapsed
			run(t, r)
		}
		text := w.sign(t, keys)
		if i%40 == 0 {
			old = append(old, promise{text, w.clock().Add(receipt.Longest - time.Second)})
		}
		old = slices.DeleteFunc(old, func(p promise) bool { return !w.clock().Before(p.until) })
		for _, c := range clients {
			if err := c.verify(t, text); err != nil {
				t.Fatalf("%s: a fresh receipt: %v", w.clock(), err)
			}
			for _, p := range old {
				if err := c.verify(t, p.text); err != nil {
					t.Fatalf("%s: a receipt that is good until %s: %v", w.clock(), p.until, err)
				}
			}
		}
	}
	if n := w.cloud.Calls()["Decrypt"] - unwraps; n > days+2 {
		t.Errorf("in %d days one instance unwrapped %d keys", days, n)
	}
	if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.signing_keys WHERE kind = 'root' AND disabled_at IS NOT NULL`); n == 0 {
		t.Error("no root was replaced and disabled")
	}
	if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.signing_keys WHERE kind = 'receipt' AND not_after < $1 AND wrapped_key IS NOT NULL`, w.clock().Add(-48*time.Hour)); n != 0 {
		t.Errorf("%d private keys that are over are kept", n)
	}
}

func TestWithoutCloudKMSReceiptsGoOnWhileAKeyLives(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.rotation(t))
	c := &client{w: w, publisher: w.publisher(t)}
	w.patience = "1s"
	keys, fresh := w.keys(t), w.keys(t)
	if err := c.verify(t, w.sign(t, keys)); err != nil {
		t.Fatal(err)
	}
	w.cloud.Interfere(func(string, bool) error { return status.Error(codes.Unavailable, "it is out") })
	if _, err := fresh.Current(t.Context()); fault.As(err) == nil || fault.As(err).Kind != fault.KindUnavailable {
		t.Errorf("an instance without a key answers %v", err)
	}
	began, last := w.clock(), time.Time{}
	for range 60 {
		s, err := keys.Current(t.Context())
		if err != nil {
			if f := fault.As(err); f == nil || f.Kind != fault.KindUnavailable || !strings.Contains(f.Detail, "Receipts cannot be signed") {
				t.Fatalf("it answers %v", err)
			}
			break
		}
		last = w.clock()
		now := w.clock()
		text, err := s.Sign(receipt.Receipt{
			License: "l", Product: "p", Tenant: "t", HardwareHash: "h", IssuedAt: now, OfflineUntil: now.Add(time.Hour),
		})
		must(t, err)
		if err := c.verify(t, text); err != nil {
			t.Fatalf("a receipt from the time without Cloud KMS: %v", err)
		}
		w.pass(30 * time.Minute)
	}
	// From 15:04 to the end of the overlap, at 02:00.
	if lived := last.Sub(began); lived < 10*time.Hour || lived > 11*time.Hour {
		t.Errorf("it signed for %s", lived)
	}
	w.cloud.Interfere(nil)
	if err := c.verify(t, w.sign(t, keys)); err != nil {
		t.Errorf("when Cloud KMS is back: %v", err)
	}
}

// TestWhoeverAsksAndGoesAwayKeepsNobodyFromWhatIsNew has a caller of each kind whose connection ends while its question is
// read anew for all.
func TestWhoeverAsksAndGoesAwayKeepsNobodyFromWhatIsNew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.rotation(t)
	run(t, r)
	var leave, fail atomic.Bool
	var goAway context.CancelFunc
	store := func(ctx context.Context) (time.Time, error) {
		if leave.CompareAndSwap(true, false) {
			goAway()
		}
		if fail.Load() {
			return time.Time{}, errors.New("not now")
		}
		return w.clock(), ctx.Err()
	}
	db, vault := w.open(t, "usher_keys")
	publisher := signing.NewPublisher(signing.KeysConfig{Issuer: issuer}, db, signing.NewRoots(db, vault.Signer), store, w.clock, w.log.Logger)
	db, vault = w.open(t, "usher_acquire")
	keys := signing.NewKeys(signing.KeysConfig{Issuer: issuer}, db, vault.Unwrap, store, w.clock, w.log.Logger)
	ask := map[string]func(context.Context) string{
		"the key set": func(ctx context.Context) string {
			set, _ := publisher.KeySet(ctx)
			return string(set)
		},
		"the revocation list": func(ctx context.Context) string {
			list, err := publisher.List(ctx)
			if err != nil {
				return ""
			}
			return list.Text
		},
		"the receipt key": func(ctx context.Context) string {
			s, err := keys.Current(ctx)
			if err != nil {
				return ""
			}
			return s.KeyID()
		},
	}
	revoke := func() {
		s, err := w.keys(t).Current(t.Context())
		must(t, err)
		_, err = r.Revoke(t.Context(), s.KeyID(), unrecorded)
		must(t, err)
		run(t, r)
	}
	before := map[string]string{}
	for name, one := range ask {
		before[name] = one(t.Context())
	}
	revoke()
	w.pass(6 * time.Second)
	for name, one := range ask {
		var ctx context.Context
		ctx, goAway = context.WithCancel(t.Context())
		leave.Store(true)
		one(ctx)
		goAway()
		if got := one(t.Context()); got == before[name] || got == "" {
			t.Errorf("the next who asks for %s hears the old one, or nothing: %.40q", name, got)
		} else {
			before[name] = got
		}
	}
	// What could not be read is tried again soon.
	revoke()
	w.pass(6 * time.Second)
	fail.Store(true)
	for name, one := range ask {
		if got := one(t.Context()); got != before[name] {
			t.Errorf("while nothing can be read, %s is not the one before", name)
		}
	}
	fail.Store(false)
	w.pass(time.Second)
	for name, one := range ask {
		if got := one(t.Context()); got == before[name] || got == "" {
			t.Errorf("a second later %s is still the old one, or nothing: %.40q", name, got)
		}
	}
}

func TestAKeyInWrongHandsIsRefusedAtTheNextRefresh(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"receipt", "root"} {
		w := newWorld(t)
		r := w.rotation(t)
		run(t, r)
		keys, c := w.keys(t), &client{w: w, publisher: w.publisher(t)}
		leaked, err := keys.Current(t.Context())
		must(t, err)
		before := w.sign(t, keys)
		must(t, c.verify(t, before))
		kid := leaked.KeyID()
		if kind == "root" {
			kid = testenv.Value[string](t, w.db, `SELECT kid FROM app.signing_keys WHERE kind = 'root' AND activated_at IS NOT NULL`)
		}
		revoked, err := r.Revoke(t.Context(), kid, unrecorded)
		must(t, err)
		run(t, r)
		if again, err := r.Revoke(t.Context(), kid, unrecorded); err != nil || len(again) != 0 || len(revoked) == 0 {
			t.Errorf("%s: revoked were %v and then %v, %v", kind, revoked, again, err)
		}
		w.pass(11 * time.Second) // an instance looks every ten
		c.refresh(t)
		if err := c.verify(t, before); err == nil {
			t.Errorf("%s: a receipt of the key is believed", kind)
		}
		after := w.sign(t, keys)
		if err := c.verify(t, after); err != nil {
			t.Errorf("%s: the next key's receipt: %v", kind, err)
		}
		// With pinned roots the revocation list tells.
		text, err := signing.PinnedRoots(t.Context(), func() *tenancy.DB { db, _ := w.open(t, "usher_rotate"); return db }())
		must(t, err)
		roots, err := receipt.ParseRoots(text)
		must(t, err)
		v := &receipt.Verifier{Roots: roots, Keys: c.set, Revocations: c.list, Now: w.clock}
		if _, err := v.Receipt(before); err == nil {
			t.Errorf("%s: with pinned roots and the list a receipt of the key is believed", kind)
		}
		if _, err := v.Receipt(after); err != nil {
			t.Errorf("%s: with pinned roots the next key's receipt: %v", kind, err)
		}
	}
	w := newWorld(t)
	if _, err := w.rotation(t).Revoke(t.Context(), "nobody's", unrecorded); fault.As(err) == nil || fault.As(err).Kind != fault.KindNotFound {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestAKeyOutOfUseSignsNoMoreThoughItsSuccessorCannotBeUnwrapped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.rotation(t)
	run(t, r)
	keys := w.keys(t)
	leaked, err := keys.Current(t.Context())
	must(t, err)
	_, err = r.Revoke(t.Context(), leaked.KeyID(), unrecorded)
	must(t, err)
	run(t, r)
	w.cloud.Interfere(func(method string, _ bool) error {
		if method == "Decrypt" {
			return status.Error(codes.PermissionDenied, "not now")
		}
		return nil
	})
	w.pass(6 * time.Second)
	if _, err := keys.Current(t.Context()); fault.As(err) == nil || fault.As(err).Kind != fault.KindUnavailable {
		t.Errorf("the revoked key signs, or the answer is %v", err)
	}
	w.cloud.Interfere(nil)
	s, err := keys.Current(t.Context())
	must(t, err)
	if s.KeyID() == leaked.KeyID() {
		t.Error("the revoked key signs again")
	}
}

func TestAReplacedKeySignsNoMoreAndWhatItSignedIsBelieved(t *testing.T) {
	t.Parallel()
	for _, kind := range []signing.Kind{signing.ReceiptKey, signing.RootKey, signing.MACKey} {
		w := newWorld(t)
		r := w.rotation(t)
		run(t, r)
		keys, c := w.keys(t), &client{w: w, publisher: w.publisher(t)}
		before := w.sign(t, keys)
		w.pass(2 * time.Second)
		retired, err := r.Retire(t.Context(), kind, unrecorded)
		must(t, err)
		if len(retired) != 1 {
			t.Errorf("%s: retired were %v", kind, retired)
		}
		meanwhile := w.sign(t, keys) // this instance has not heard of it yet
		run(t, r)
		w.pass(11 * time.Second)
		after := w.sign(t, keys)
		c.refresh(t)
		for name, text := range map[string]string{"before": before, "meanwhile": meanwhile, "after": after} {
			if err := c.verify(t, text); err != nil {
				t.Errorf("%s: the receipt of %s: %v", kind, name, err)
			}
		}
	}
}

func TestAnApplicationBuiltAYearAgoBelievesReceiptsOffline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const last, quarter, days = 6, signing.RootLife + 2*time.Hour, 3 * signing.Turn
	w.now = time.Now().Add(-last * (quarter + days))
	run(t, w.rotation(t))
	db, _ := w.open(t, "usher_rotate")
	pem, err := signing.PinnedRoots(t.Context(), db)
	must(t, err)
	roots, err := receipt.ParseRoots(pem)
	must(t, err)
	pinned := &receipt.Verifier{Roots: roots, Now: w.clock}
	for rotations := range last + 1 {
		if rotations > 0 {
			w.pass(quarter)
			run(t, w.rotation(t)) // another root signs,
			w.pass(days)
			run(t, w.rotation(t)) // and has made the receipt key of the day
		}
		text := w.sign(t, w.keys(t))
		header, _, _ := strings.Cut(text, ".")
		t.Logf("after %d rotations the header has %d bytes, the receipt %d", rotations, len(header), len(text))
		if _, err := pinned.Receipt(text); rotations <= 5 && err != nil || rotations > 5 && !errors.Is(err, receipt.ErrUnknownKey) {
			t.Errorf("after %d rotations: %v", rotations, err)
		}
		if len(header) > 4608 {
			t.Errorf("after %d rotations the header has %d bytes", rotations, len(header))
		}
		set, err := w.publisher(t).KeySet(t.Context())
		must(t, err)
		own, err := receipt.ParseKeySet(set)
		must(t, err)
		if _, err := (&receipt.Verifier{Keys: own, Now: w.clock}).Receipt(text); err != nil {
			t.Errorf("after %d rotations, with the key set: %v", rotations, err)
		}
		if rotations < last {
			continue
		}
		// Another library, which knows the key set alone and the machine's clock, believes the longest as well.
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/jwk-set+json")
			_, _ = w.Write(set)
		}))
		t.Cleanup(server.Close)
		if answers := testenv.AskJose(t, server.URL, receipt.TypeReceipt, text); answers[0].Claims == nil {
			t.Errorf("jose says %s", answers[0].Code)
		}
	}
}

// withdraw puts a licence on the revocation list.
func (w *world) withdraw(t *testing.T) (license string) {
	t.Helper()
	return testenv.Value[string](t, w.db, `
		WITH made AS (
		    INSERT INTO app.revocations (kind, subject, license_id, ends_at)
		    SELECT 'license', id, id, $1 FROM (SELECT app.new_id() AS id) AS s
		    RETURNING license_id)
		SELECT license_id::text FROM made`, w.clock().Add(30*24*time.Hour))
}

func TestAfterARestoreTheNextListIsNewerThanWhatWasLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.rotation(t))
	c := &client{w: w, publisher: w.publisher(t)}
	c.refresh(t)
	backup := c.list.Version
	for range 3 {
		w.withdraw(t)
		w.pass(6 * time.Second)
		c.refresh(t)
	}
	lost := c.list.Version
	if lost < backup+3 {
		t.Fatalf("after three changes the version is %d, and was %d", lost, backup)
	}
	w.db.Exec(t, `DELETE FROM app.revocation_lists WHERE version > $1`, backup)
	w.db.Exec(t, `DELETE FROM app.revocations`)
	w.pass(15 * time.Minute)
	again := w.withdraw(t)
	c.publisher = w.publisher(t)
	c.refresh(t) // refuses an older list
	if c.list.Version <= lost || !slices.Equal(c.list.Licenses, []string{again}) {
		t.Errorf("the list is of version %d after %d, and has %v", c.list.Version, lost, c.list.Licenses)
	}
}

func TestAListThatWasReadBeforeAnotherWasMadeDoesNotComeAfterIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.rotation(t))
	quick := w.publisher(t)
	db, vault := w.open(t, "usher_keys")
	var later string
	slow := signing.NewPublisher(signing.KeysConfig{Issuer: issuer}, db, signing.NewRoots(db, func(ctx context.Context, version string, public *ecdsa.PublicKey) crypto.Signer {
		if later == "" { // it has read what it signs, and another instance signs what has changed since
			later = w.withdraw(t)
			if _, err := quick.List(ctx); err != nil {
				t.Error(err)
			}
		}
		return vault.Signer(ctx, version, public)
	}), func(context.Context) (time.Time, error) { return w.clock().Add(time.Second), nil }, w.clock, w.log.Logger)
	c := &client{w: w, publisher: slow}
	c.refresh(t)
	if !slices.Contains(c.list.Licenses, later) {
		t.Error("the slow instance's list lacks what is on the quick one's")
	}
	if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.revocation_lists`); n != 1 {
		t.Errorf("%d lists are kept", n)
	}
}

func TestInstancesShareASignedListAndSignNoneThatSaysTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.rotation(t))
	signed := w.cloud.Calls()["AsymmetricSign"]
	var texts []string
	for range 3 {
		list, err := w.publisher(t).List(t.Context())
		must(t, err)
		texts = append(texts, list.Text)
		w.pass(time.Hour)
	}
	if texts[0] != texts[1] || texts[0] != texts[2] {
		t.Error("instances serve different lists")
	}
	if n := w.cloud.Calls()["AsymmetricSign"] - signed; n != 1 {
		t.Errorf("%d lists were signed", n)
	}
	p := w.publisher(t)
	for i, at := range []struct {
		entries, shards int
	}{{0, 0}, {200, 0}, {3000, 16}} {
		w.db.Exec(t, `
			INSERT INTO app.revocations (kind, subject, license_id, ends_at)
			SELECT 'license', id, id, $2 FROM (SELECT app.new_id() AS id FROM generate_series(1, $1)) AS s`,
			at.entries, w.clock().Add(time.Hour))
		w.pass(11 * time.Second)
		c := &client{w: w, publisher: p}
		c.refresh(t)
		list, err := p.List(t.Context())
		must(t, err)
		if len(list.Shards) != at.shards {
			t.Errorf("round %d: %d shards", i, len(list.Shards))
		}
		again, err := w.publisher(t).List(t.Context()) // an instance that did not sign it
		must(t, err)
		if again.Text != list.Text || fmt.Sprint(again.Shards) != fmt.Sprint(list.Shards) {
			t.Errorf("round %d: another instance serves another list", i)
		}
		if len(list.Text) > 14_000 {
			t.Errorf("round %d: the list has %d bytes", i, len(list.Text))
		}
	}
	// What has run out is forgotten, at the latest when the list is a day old.
	w.pass(25 * time.Hour)
	list, err := p.List(t.Context())
	must(t, err)
	if len(list.Shards) != 0 {
		t.Errorf("after a day the list has %d shards", len(list.Shards))
	}
	// Without Cloud KMS the last one is served.
	w.db.Exec(t, `INSERT INTO app.revocations (kind, subject, license_id, ends_at) SELECT 'license', id, id, $1 FROM (SELECT app.new_id() AS id) AS s`,
		w.clock().Add(time.Hour))
	w.cloud.Interfere(func(string, bool) error { return status.Error(codes.PermissionDenied, "not now") })
	w.pass(time.Minute)
	for _, p := range []*signing.Publisher{p, w.publisher(t)} {
		if got, err := p.List(t.Context()); err != nil || got.Text != list.Text {
			t.Errorf("without Cloud KMS: %v", err)
		}
	}
}
