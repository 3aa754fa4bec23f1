package license_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

// store is a database with a catalogue and two tenants.
type store struct {
	*testenv.DB
	admin    *tenancy.DB // as function admin logs in
	registry *license.Registry
	a, b     tenancy.ID
	log      *testenv.LogCapture
}

func peppers(t testing.TB, versions ...int) secret.Peppers {
	t.Helper()
	entries := make([]string, len(versions))
	for i, v := range versions {
		entries[i] = fmt.Sprintf("%d:%s", v, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(v)}, 32)))
	}
	var p secret.Peppers
	must(t, p.UnmarshalText([]byte(strings.Join(entries, ","))))
	return p
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := &store{DB: testenv.Postgres(t), log: testenv.Logs(t)}
	s.a, s.b = tenancy.Verified(uuid.Must(uuid.NewV7())), tenancy.Verified(uuid.Must(uuid.NewV7()))
	for i, id := range []tenancy.ID{s.a, s.b} {
		s.Exec(t, `INSERT INTO app.tenants (id, name, slug) VALUES ($1, $2, $2)`, id.UUID(), fmt.Sprintf("tenant-%d", i))
	}
	var err error
	s.registry, err = license.NewRegistry(license.RegistryConfig{Peppers: peppers(t, 1), ShortestTTLSeconds: 60})
	must(t, err)
	s.admin = s.as(t, "usher_admin")
	operator := s.as(t, "usher_operator")
	must(t, operator.As(t.Context(), s.a, func(tx tenancy.Tx) error {
		if _, err := license.PutProduct(t.Context(), tx, license.Product{Code: "editor", Name: "Editor"}); err != nil {
			return err
		}
		for _, plan := range []license.Plan{teamPlan(), soloPlan()} {
			if _, err := license.PutPlan(t.Context(), tx, plan, time.Minute); err != nil {
				return err
			}
		}
		return nil
	}))
	return s
}

func teamPlan() license.Plan {
	return license.Plan{
		Code: "team", Product: "editor", Name: "Team", MaxSeats: 10, OverdraftSeats: 2, BorrowReserve: 4, TTL: 6 * time.Minute, SeatPer: "device",
		Features: []string{"export"}, Versions: ">=2.0", MaxDevices: 20, OfflineGrace: 72 * time.Hour, Drain: time.Hour,
	}
}

func soloPlan() license.Plan {
	return license.Plan{Code: "solo", Product: "editor", Name: "Solo", MaxSeats: 1, TTL: time.Minute, SeatPer: "user", OfflineGrace: 24 * time.Hour}
}

// as is the database as a role sees it.
func (s *store) as(t testing.TB, role string) *tenancy.DB {
	t.Helper()
	db, err := tenancy.OpenURL(context.Background(), s.URL(role), tenancy.Config{}, s.log.Logger)
	must(t, err)
	t.Cleanup(db.Close)
	return db
}

func (s *store) directory(t testing.TB, role string, now func() time.Time) *license.Directory {
	t.Helper()
	d, err := license.NewDirectory(license.DirectoryConfig{Peppers: peppers(t, 1), CacheSeconds: 5, CacheSize: 100}, s.as(t, role), now)
	must(t, err)
	return d
}

// create makes a licence of the team plan.
func (s *store) create(t testing.TB, tenant tenancy.ID, changes ...func(*license.Terms)) (license.License, string) {
	t.Helper()
	var made license.License
	var key secret.Key
	plan := teamPlan()
	terms := plan.Terms()
	for _, change := range changes {
		change(&terms)
	}
	must(t, s.admin.As(t.Context(), tenant, func(tx tenancy.Tx) (err error) {
		made, key, err = s.registry.Create(t.Context(), tx, tenant, terms)
		return err
	}))
	return made, key.Reveal()
}

// setSeats changes a licence, without telling any Directory.
func (s *store) setSeats(t testing.TB, l license.License, seats int) {
	t.Helper()
	must(t, s.do(t, l.Tenant, func(tx tenancy.Tx) error {
		_, err := s.registry.Change(t.Context(), tx, l.Tenant, l.ID, func(terms *license.Terms) error { terms.MaxSeats = seats; return nil })
		return err
	}))
}

// do runs a write as function admin.
func (s *store) do(t testing.TB, tenant tenancy.ID, act func(tx tenancy.Tx) error) error {
	t.Helper()
	return s.admin.As(t.Context(), tenant, act)
}

func (s *store) outbox(t testing.TB, id uuid.UUID) int64 {
	t.Helper()
	return testenv.Value[int64](t, s.DB, `SELECT count(*) FROM app.outbox WHERE topic = 'license.changed' AND subject_id = $1`, id)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFault(t testing.TB, err error, kind fault.Kind, code string) *fault.Error {
	t.Helper()
	f := fault.As(err)
	if f == nil || f.Kind != kind || f.Code != code {
		t.Fatalf("error %v, want %s %s", err, kind, code)
	}
	return f
}

func TestALicenceIsFoundByItsKeyInEveryFunctionThatAsks(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, key := s.create(t, s.a, func(terms *license.Terms) {
		terms.AllowedHardware = []string{"hw-1"}
		expires := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
		terms.ExpiresAt = &expires
	})
	if made.KeyHint != key[:8]+"…"+key[len(key)-4:] || made.Status != "active" || made.Product != "editor" || made.MaxSeats != 10 {
		t.Errorf("made %+v", made)
	}
	for _, role := range []string{"usher_validate", "usher_acquire", "usher_release"} {
		facts, err := s.directory(t, role, time.Now).Find(t.Context(), strings.ToLower(key))
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		l := facts.License
		if l.ID != made.ID || l.Tenant != s.a || l.TenantStatus != "active" || l.TTL != 6*time.Minute || l.OverdraftSeats != 2 || l.BorrowReserve != 4 ||
			l.Versions != ">=2.0" || l.MaxDevices != 20 || l.OfflineGrace != 72*time.Hour || l.Drain != time.Hour ||
			len(l.AllowedHardware) != 1 || l.ExpiresAt == nil || l.ExpiresAt.Year() != 2031 || l.StartsAt != nil || l.PoolVersion == 0 {
			t.Errorf("%s: facts %+v", role, l)
		}
	}
	s.log.Hides(t, key)
	stored := testenv.Value[string](t, s.DB, `SELECT string_agg(k::text, ' ') FROM app.license_keys k`)
	if strings.Contains(stored, key[9:30]) {
		t.Error("the key is stored as it is")
	}
}

func TestAnUnknownKeyTellsNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, key := s.create(t, s.a)
	d := s.directory(t, "usher_validate", time.Now)
	for name, text := range map[string]string{
		"never made":   license.NewKey().Reveal(),
		"mistyped":     key[:len(key)-1] + "0",
		"no key":       "hello",
		"empty":        "",
		"another kind": "ush_" + strings.Repeat("0", 33),
	} {
		if text == key {
			text = key[:len(key)-1] + "1"
		}
		if facts, err := d.Find(t.Context(), text); !errors.Is(err, license.ErrUnknownKey) || facts != nil {
			t.Errorf("%s: %+v, %v", name, facts, err)
		}
	}
}

func TestAnUnknownKeyCostsTheSameLookUps(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, key := s.create(t, s.a)
	// Both look-ups of an unknown key are made: with the second forbidden it fails, as a known one's does.
	s.Exec(t, `REVOKE SELECT ON app.licenses FROM usher_facts, usher_pools`)
	d := s.directory(t, "usher_validate", time.Now)
	for _, text := range []string{key, license.NewKey().Reveal(), "hello"} {
		if _, err := d.Find(t.Context(), text); tenancy.Code(err) != "42501" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestFoundLicencesAreAnsweredFromMemoryForSeconds(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, key := s.create(t, s.a)
	clock := &clock{at: time.Now()}
	d := s.directory(t, "usher_validate", clock.now)
	first, err := d.Find(t.Context(), key)
	must(t, err)
	s.setSeats(t, made, 11)

	if again, err := d.Find(t.Context(), key); err != nil || again != first {
		t.Errorf("within seconds: %v, %v", again, err)
	}
	clock.move(5 * time.Second)
	later, err := d.Find(t.Context(), key)
	if err != nil || later.License.MaxSeats != 11 {
		t.Errorf("after 5 seconds: %v, %v", later, err)
	}

	s.setSeats(t, made, 13)
	version := testenv.Value[int64](t, s.DB, `SELECT pool_version FROM app.licenses WHERE id = $1`, made.ID)
	if fresh, err := d.FindAtLeast(t.Context(), key, version); err != nil || fresh.License.MaxSeats != 13 {
		t.Errorf("asked for a version that memory does not have: %v, %v", fresh, err)
	}
	if _, err := d.FindAtLeast(t.Context(), key, version+100); err != nil {
		t.Errorf("asked for a version that nobody has: %v", err)
	}
}

func TestAKeyThatEndsIsNotRememberedBeyondItsEnd(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, key := s.create(t, s.a)
	d := s.directory(t, "usher_validate", time.Now)
	s.Exec(t, `ALTER TABLE app.license_keys DISABLE TRIGGER keys_changed`)
	s.Exec(t, `UPDATE app.license_keys SET expires_at = now() + interval '500 milliseconds' WHERE license_id = $1`, made.ID)
	begun := time.Now()
	if _, err := d.Find(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 30*time.Second, func() error {
		if _, err := d.Find(t.Context(), key); !errors.Is(err, license.ErrUnknownKey) {
			return errors.New("the key still opens")
		}
		return nil
	})
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("it opened for %s: as long as facts are kept, not as long as it lives", took)
	}
}

func TestAnUnknownKeyIsNotRemembered(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, _ := s.create(t, s.a)
	d := s.directory(t, "usher_validate", time.Now)
	key := license.NewKey()
	if _, err := d.Find(t.Context(), key.Reveal()); !errors.Is(err, license.ErrUnknownKey) {
		t.Fatal(err)
	}
	hash := peppers(t, 1).Hash(key)
	s.Exec(t, `INSERT INTO app.license_keys (tenant_id, id, license_id, key_hash, pepper_version, hint) VALUES ($1, $2, $3, $4, $5, '')`,
		s.a.UUID(), uuid.New(), made.ID, hash.MAC, hash.Version)
	if _, err := d.Find(t.Context(), key.Reveal()); err != nil {
		t.Errorf("the key that was made a moment later: %v", err)
	}
}

func TestAKeyUnderAnOlderPepperIsFound(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, key := s.create(t, s.a)
	for _, c := range []struct {
		versions []int
		found    bool
	}{{[]int{2, 1}, true}, {[]int{1}, true}, {[]int{2}, false}} {
		d, err := license.NewDirectory(license.DirectoryConfig{Peppers: peppers(t, c.versions...), CacheSize: 1}, s.as(t, "usher_acquire"), time.Now)
		must(t, err)
		facts, err := d.Find(t.Context(), key)
		if found := err == nil && facts.License.ID == made.ID; found != c.found {
			t.Errorf("with peppers %v: found %v, %v", c.versions, found, err)
		}
	}
}

func TestAWrongFunctionClockJudgesByTheStores(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, key := s.create(t, s.a)
	for _, wrong := range []time.Duration{-5 * time.Minute, 0, 5 * time.Minute} {
		now := func() time.Time { return time.Now().Add(wrong) }
		facts, err := s.directory(t, "usher_validate", now).Find(t.Context(), key)
		must(t, err)
		if off := time.Until(facts.Now(now())); off.Abs() > 30*time.Second {
			t.Errorf("a clock off by %s judges by a time off by %s", wrong, off)
		}
		if ahead := facts.Now(now().Add(time.Hour)).Sub(facts.Now(now())); (ahead - time.Hour).Abs() > time.Minute {
			t.Errorf("an hour takes %s", ahead)
		}
	}
}

func TestManyWhoAskAtOnceAreAnsweredAlike(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, key := s.create(t, s.a)
	d := s.directory(t, "usher_acquire", time.Now)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var wait sync.WaitGroup
	for i := range 60 {
		wait.Go(func() {
			switch i % 3 {
			case 0:
				if _, err := d.Find(gone, key); err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case 1:
				if _, err := d.FindAtLeast(t.Context(), key, int64(i)); err != nil {
					t.Error(err)
				}
			default:
				if facts, err := d.Find(t.Context(), key); err != nil || facts.License.ID != made.ID {
					t.Errorf("%+v, %v", facts, err)
				}
			}
		})
	}
	wait.Wait()
}

func TestAChangeWhileALookUpIsUnderWayIsNotHidden(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, key := s.create(t, s.a)
	d := s.directory(t, "usher_acquire", time.Now)
	for seats := 20; seats < 60; seats++ {
		begun := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() {
			close(begun)
			_, _ = d.Find(t.Context(), key) // whatever it saw must not be answered to who knows better
		})
		<-begun
		s.setSeats(t, made, seats)
		version := testenv.Value[int64](t, s.DB, `SELECT pool_version FROM app.licenses WHERE id = $1`, made.ID)
		if facts, err := d.FindAtLeast(t.Context(), key, version); err != nil || facts.License.MaxSeats != seats {
			t.Fatalf("after the change %d seats are answered as %v, %v", seats, facts, err)
		}
		wait.Wait()
	}
}

func TestDevicesAreCountedWhereTheyAreLimited(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, key := s.create(t, s.a, func(terms *license.Terms) { terms.MaxDevices = 2 })
	other, otherKey := s.create(t, s.a, func(terms *license.Terms) { terms.MaxDevices = 0 })
	for _, hw := range []string{"hw-1", "hw-2"} {
		s.Exec(t, `INSERT INTO app.devices (tenant_id, license_id, hardware_id, hostname) VALUES ($1, $2, $3, 'host'), ($1, $4, $3, NULL)`,
			s.a.UUID(), made.ID, hw, other.ID)
	}
	d := s.directory(t, "usher_validate", time.Now)
	facts, err := d.Find(t.Context(), key)
	must(t, err)
	for hw, want := range map[string]bool{"hw-1": true, "hw-3": false} {
		known, devices, err := d.Devices(t.Context(), &facts.License, hw)
		if err != nil || known != want || devices != 2 {
			t.Errorf("%s: known %v of %d, %v", hw, known, devices, err)
		}
		valid, _ := license.Verdict(facts.License.Checks(license.Question{Hardware: hw, Version: "2.0", KnownDevice: known, Devices: devices}, facts.Now(time.Now())))
		if valid != want {
			t.Errorf("%s: valid %v", hw, valid)
		}
	}
	unlimited, err := d.Find(t.Context(), otherKey)
	must(t, err)
	if known, devices, err := d.Devices(t.Context(), &unlimited.License, "hw-1"); known || devices != 0 || err != nil {
		t.Errorf("without a limit: %v, %d, %v", known, devices, err)
	}

	var listed []license.Device
	must(t, s.do(t, s.a, func(tx tenancy.Tx) (err error) {
		listed, err = license.ListDevices(t.Context(), tx, s.a, made.ID, uuid.Nil, 10)
		return err
	}))
	if len(listed) != 2 || listed[0].Hostname != "host" {
		t.Fatalf("listed %+v", listed)
	}
	must(t, s.do(t, s.a, func(tx tenancy.Tx) (err error) {
		listed, err = license.ListDevices(t.Context(), tx, s.a, made.ID, listed[0].ID, 10)
		return err
	}))
	if len(listed) != 1 {
		t.Fatalf("after the first: %+v", listed)
	}
	remove := func(tenant tenancy.ID, id, device uuid.UUID) error {
		return s.do(t, tenant, func(tx tenancy.Tx) error {
			_, err := license.RemoveDevice(t.Context(), tx, tenant, id, device)
			return err
		})
	}
	wantFault(t, remove(s.a, other.ID, listed[0].ID), fault.KindNotFound, "not_found")
	wantFault(t, remove(s.b, made.ID, listed[0].ID), fault.KindNotFound, "not_found")
	must(t, remove(s.a, made.ID, listed[0].ID))
	wantFault(t, remove(s.a, made.ID, listed[0].ID), fault.KindNotFound, "not_found")
	if _, devices, err := d.Devices(t.Context(), &facts.License, "hw-9"); err != nil || devices != 1 {
		t.Errorf("after one was removed there are %d, %v", devices, err)
	}
}

func TestALicenceIsChangedAndSaysSo(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, _ := s.create(t, s.a)
	before := s.outbox(t, made.ID)
	change := func(fn func(*license.Terms) error) (changed license.License, err error) {
		err = s.do(t, s.a, func(tx tenancy.Tx) error {
			changed, err = s.registry.Change(t.Context(), tx, s.a, made.ID, fn)
			return err
		})
		return changed, err
	}

	same, err := change(func(*license.Terms) error { return nil })
	if err != nil || same.PoolVersion != made.PoolVersion || s.outbox(t, made.ID) != before {
		t.Errorf("a change of nothing: version %d after %d, %v", same.PoolVersion, made.PoolVersion, err)
	}
	expires := time.Date(2030, 1, 1, 0, 0, 0, 123_456_789, time.UTC)
	changed, err := change(func(t *license.Terms) error {
		t.MaxSeats, t.TTL, t.MaxDevices, t.Features, t.Versions = 3, 2*time.Minute, 0, nil, ""
		t.ExpiresAt, t.GraceUntil, t.AllowedHardware = &expires, &expires, []string{"hw-1"}
		return nil
	})
	must(t, err)
	if changed.MaxSeats != 3 || changed.TTL != 2*time.Minute || changed.MaxDevices != 0 || len(changed.Features) != 0 || changed.Versions != "" ||
		!changed.ExpiresAt.Equal(expires.Truncate(time.Microsecond)) || len(changed.AllowedHardware) != 1 {
		t.Errorf("changed %+v", changed)
	}
	if changed.PoolVersion != made.PoolVersion+1 || s.outbox(t, made.ID) != before+1 {
		t.Errorf("version %d after %d, %d words in the outbox after %d", changed.PoolVersion, made.PoolVersion, s.outbox(t, made.ID), before)
	}
	moved, err := change(func(t *license.Terms) error { t.Plan, t.ExpiresAt, t.GraceUntil = "solo", nil, nil; return nil })
	if err != nil || moved.Plan != "solo" || moved.OfflineGrace != 24*time.Hour || moved.MaxSeats != 3 || moved.ExpiresAt != nil {
		t.Errorf("moved to another plan: %+v, %v", moved, err)
	}
	same, err = change(func(*license.Terms) error { return nil })
	if err != nil || same.PoolVersion != moved.PoolVersion {
		t.Errorf("a change of nothing without dates: version %d after %d, %v", same.PoolVersion, moved.PoolVersion, err)
	}

	stop := errors.New("no")
	if _, err := change(func(*license.Terms) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's own error: %v", err)
	}
	_, err = change(func(t *license.Terms) error { t.MaxSeats, t.Plan, t.Versions = 0, "none", "two"; return nil })
	f := wantFault(t, err, fault.KindInvalid, "invalid_request")
	if len(f.Fields) != 3 {
		t.Errorf("faults %v", f.Fields)
	}
	after := testenv.Value[int64](t, s.DB, `SELECT pool_version FROM app.licenses WHERE id = $1`, made.ID)
	if after != moved.PoolVersion {
		t.Error("a refused change was written")
	}
}

func TestStatusesFollowTheirStateMachine(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, key := s.create(t, s.a)
	type verb func(tx tenancy.Tx) (license.License, error)
	suspend := func(reason string) verb {
		return func(tx tenancy.Tx) (license.License, error) {
			return license.Suspend(t.Context(), tx, s.a, made.ID, reason, "api_key:1")
		}
	}
	reinstate := func(tx tenancy.Tx) (license.License, error) {
		return license.Reinstate(t.Context(), tx, s.a, made.ID, "api_key:1")
	}
	revoke := func(reason string) verb {
		return func(tx tenancy.Tx) (license.License, error) {
			return license.Revoke(t.Context(), tx, s.a, made.ID, reason, "api_key:2")
		}
	}
	version := made.PoolVersion
	for i, step := range []struct {
		verb                        verb
		status, reason, by, refusal string
		changes                     bool
	}{
		{reinstate, "active", "", "", "", false},
		{suspend("unpaid"), "suspended", "unpaid", "api_key:1", "", true},
		{suspend("again"), "suspended", "unpaid", "api_key:1", "", false},
		{reinstate, "active", "", "api_key:1", "", true},
		{suspend("unpaid"), "suspended", "unpaid", "api_key:1", "", true},
		{revoke("stolen"), "revoked", "stolen", "api_key:2", "", true},
		{revoke("again"), "revoked", "stolen", "api_key:2", "", false},
		{suspend("late"), "", "", "", "license_revoked", false},
		{reinstate, "", "", "", "license_revoked", false},
	} {
		var now license.License
		err := s.do(t, s.a, func(tx tenancy.Tx) (err error) { now, err = step.verb(tx); return err })
		if step.refusal != "" {
			wantFault(t, err, fault.KindConflict, step.refusal)
			continue
		}
		must(t, err)
		if now.Status != step.status || now.StatusReason != step.reason || now.StatusBy != step.by {
			t.Errorf("step %d: %s because %q by %q", i, now.Status, now.StatusReason, now.StatusBy)
		}
		if (now.PoolVersion > version) != step.changes {
			t.Errorf("step %d: version %d after %d", i, now.PoolVersion, version)
		}
		version = now.PoolVersion
	}
	facts, err := s.directory(t, "usher_acquire", time.Now).Find(t.Context(), key)
	must(t, err)
	if refusal, _ := license.Refusal(facts.License.Checks(license.Question{Version: "2"}, facts.Now(time.Now()))); refusal.Code != "license_revoked" {
		t.Errorf("the key of a revoked licence is refused as %q", refusal.Code)
	}
	for name, act := range map[string]func(tx tenancy.Tx) error{
		"changed": func(tx tenancy.Tx) error {
			_, err := s.registry.Change(t.Context(), tx, s.a, made.ID, func(*license.Terms) error { return nil })
			return err
		},
		"given a key": func(tx tenancy.Tx) error {
			_, _, err := s.registry.RotateKey(t.Context(), tx, s.a, made.ID, 0)
			return err
		},
	} {
		err := s.do(t, s.a, act)
		if f := fault.As(err); f == nil || f.Kind != fault.KindConflict || f.Code != "license_revoked" {
			t.Errorf("a revoked licence is %s: %v", name, err)
		}
	}
}

func TestARotatedKeyLivesForItsOverlap(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, first := s.create(t, s.a)
	find := func(key string) error {
		_, err := s.directory(t, "usher_acquire", time.Now).Find(t.Context(), key)
		return err
	}
	rotate := func(overlap time.Duration) (key string, l license.License, err error) {
		err = s.do(t, s.a, func(tx tenancy.Tx) error {
			rotated, k, err := s.registry.RotateKey(t.Context(), tx, s.a, made.ID, overlap)
			l, key = rotated, k.Reveal()
			return err
		})
		return key, l, err
	}
	second, l, err := rotate(time.Hour)
	must(t, err)
	if second == first || l.KeyHint[:8] != second[:8] || l.PoolVersion == made.PoolVersion {
		t.Errorf("rotated to %+v", l)
	}
	must(t, find(first))
	must(t, find(second))
	third, _, err := rotate(0)
	must(t, err)
	for key, want := range map[string]bool{first: false, second: false, third: true} {
		if err := find(key); (err == nil) != want {
			t.Errorf("after a rotation without overlap: %v", err)
		}
	}
	for _, overlap := range []time.Duration{-time.Second, license.LongestOverlap + time.Second} {
		_, _, err := rotate(overlap)
		wantFault(t, err, fault.KindInvalid, "invalid_request")
	}
}

func TestNobodySeesAnothersLicence(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, _ := s.create(t, s.a)
	s.create(t, s.b)
	for name, act := range map[string]func(tx tenancy.Tx) error{
		"read": func(tx tenancy.Tx) error { _, err := license.Read(t.Context(), tx, s.b, made.ID); return err },
		"suspend": func(tx tenancy.Tx) error {
			_, err := license.Suspend(t.Context(), tx, s.b, made.ID, "x", "y")
			return err
		},
		"change": func(tx tenancy.Tx) error {
			_, err := s.registry.Change(t.Context(), tx, s.b, made.ID, func(t *license.Terms) error { t.MaxSeats = 99; return nil })
			return err
		},
		"rotate": func(tx tenancy.Tx) error {
			_, _, err := s.registry.RotateKey(t.Context(), tx, s.b, made.ID, 0)
			return err
		},
		"list its devices": func(tx tenancy.Tx) error {
			_, err := license.ListDevices(t.Context(), tx, s.b, made.ID, uuid.Nil, 10)
			return err
		},
		// Even a mistaken tenant in the query does not get through the wall.
		"read as its owner": func(tx tenancy.Tx) error { _, err := license.Read(t.Context(), tx, s.a, made.ID); return err },
	} {
		err := s.do(t, s.b, act)
		if f := fault.As(err); f == nil || f.Kind != fault.KindNotFound || f.Code != "not_found" {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := s.do(t, s.b, func(tx tenancy.Tx) error {
		plan := teamPlan()
		_, _, err := s.registry.Create(t.Context(), tx, s.a, plan.Terms())
		return err
	})
	if tenancy.Code(err) != "42501" {
		t.Errorf("a licence was made for another tenant: %v", err)
	}
}

func TestLicencesAreListedInPages(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var want []uuid.UUID
	for range 5 {
		made, _ := s.create(t, s.a)
		want = append(want, made.ID)
	}
	s.create(t, s.b)
	var got []uuid.UUID
	after := uuid.Nil
	for {
		var page []license.License
		must(t, s.do(t, s.a, func(tx tenancy.Tx) (err error) {
			page, err = license.List(t.Context(), tx, s.a, after, 2)
			return err
		}))
		if len(page) == 0 {
			break
		}
		for _, l := range page {
			got = append(got, l.ID)
			after = l.ID
			if l.KeyHint == "" || l.Tenant != s.a {
				t.Errorf("listed %+v", l)
			}
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("listed %v, want %v", got, want)
	}
}

func TestALicenceIsMadeOfValidTermsOnly(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	err := s.do(t, s.a, func(tx tenancy.Tx) error {
		_, _, err := s.registry.Create(t.Context(), tx, s.a, license.Terms{Plan: "none", TTL: time.Second, SeatPer: "device", MaxSeats: 1})
		return err
	})
	f := wantFault(t, err, fault.KindInvalid, "invalid_request")
	if len(f.Fields) != 2 || f.Fields[0].Field != "ttl_seconds" || f.Fields[1].Field != "plan" {
		t.Errorf("faults %+v", f.Fields)
	}
}

func TestTheCatalogueIsTheOperators(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	operator := s.as(t, "usher_operator")
	put := func(db *tenancy.DB, p license.Plan) (out license.Plan, err error) {
		err = db.As(t.Context(), s.a, func(tx tenancy.Tx) error { out, err = license.PutPlan(t.Context(), tx, p, time.Minute); return err })
		return out, err
	}
	plan := teamPlan()
	plan.Name, plan.MaxSeats, plan.MaxDevices, plan.Features = "Bigger team", 50, 0, nil
	changed, err := put(operator, plan)
	if err != nil || changed.Name != "Bigger team" || changed.MaxSeats != 50 || changed.MaxDevices != 0 || len(changed.Features) != 0 ||
		changed.TTL != 6*time.Minute || changed.Drain != time.Hour || !changed.UpdatedAt.After(changed.CreatedAt) {
		t.Errorf("changed %+v, %v", changed, err)
	}
	plan.Product = "none"
	_, err = put(operator, plan)
	if f := wantFault(t, err, fault.KindInvalid, "invalid_request"); len(f.Fields) != 1 || f.Fields[0].Field != "product" {
		t.Errorf("faults %+v", f.Fields)
	}
	_, err = put(operator, license.Plan{Code: "Bad Code", Product: "editor", TTL: time.Hour * 25, OfflineGrace: -1})
	if f := wantFault(t, err, fault.KindInvalid, "invalid_request"); len(f.Fields) != 6 {
		t.Errorf("faults %+v", f.Fields)
	}
	if _, err := put(s.admin, teamPlan()); tenancy.Code(err) != "42501" {
		t.Errorf("function admin's own role wrote the catalogue: %v", err)
	}
	must(t, s.admin.AsReadOnly(t.Context(), s.a, func(tx tenancy.Tx) error {
		read, err := license.ReadPlan(t.Context(), tx, "team")
		if err != nil || read.Name != "Bigger team" {
			t.Errorf("read %+v, %v", read, err)
		}
		product, err := license.ReadProduct(t.Context(), tx, "editor")
		if err != nil || product.Name != "Editor" {
			t.Errorf("read %+v, %v", product, err)
		}
		_, err = license.ReadPlan(t.Context(), tx, "none")
		wantFault(t, err, fault.KindNotFound, "not_found")
		_, err = license.ReadProduct(t.Context(), tx, "none")
		wantFault(t, err, fault.KindNotFound, "not_found")
		return nil
	}))
	err = operator.As(t.Context(), s.a, func(tx tenancy.Tx) error {
		_, err := license.PutProduct(t.Context(), tx, license.Product{Code: "-", Name: ""})
		return err
	})
	if f := wantFault(t, err, fault.KindInvalid, "invalid_request"); len(f.Fields) != 2 {
		t.Errorf("faults %+v", f.Fields)
	}
}

func TestThroughAPoolerEverythingIsTheSame(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, key := s.create(t, s.a)
	for _, mode := range []string{"cache_describe", "exec", "simple_protocol"} {
		db, err := tenancy.OpenURL(t.Context(), s.URL("usher_acquire"), tenancy.Config{ExecMode: mode}, s.log.Logger)
		must(t, err)
		t.Cleanup(db.Close)
		d, err := license.NewDirectory(license.DirectoryConfig{Peppers: peppers(t, 2, 1), CacheSize: 1}, db, time.Now)
		must(t, err)
		facts, err := d.Find(t.Context(), key)
		if err != nil || facts.License.Features[0] != "export" {
			t.Errorf("%s: %v", mode, err)
			continue
		}
		if _, _, err := d.Devices(t.Context(), &facts.License, "hw"); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		admin, err := tenancy.OpenURL(t.Context(), s.URL("usher_admin"), tenancy.Config{ExecMode: mode}, s.log.Logger)
		must(t, err)
		t.Cleanup(admin.Close)
		err = admin.As(t.Context(), s.a, func(tx tenancy.Tx) error {
			if _, err := s.registry.Change(t.Context(), tx, s.a, facts.License.ID, func(terms *license.Terms) error {
				until := time.Now().Add(time.Hour)
				terms.MaxSeats, terms.ExpiresAt, terms.AllowedHardware = 7, &until, []string{"a,b", `c"d`}
				return nil
			}); err != nil {
				return err
			}
			_, _, err := s.registry.RotateKey(t.Context(), tx, s.a, facts.License.ID, time.Hour)
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

func TestDirectoryAndRegistryAreConfigured(t *testing.T) {
	t.Parallel()
	good := map[string]string{"LICENSE_KEY_PEPPERS": "1:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))}
	env := func(more ...string) func(string) string {
		return func(name string) string {
			if len(more) == 2 && more[0] == name {
				return more[1]
			}
			return good[name]
		}
	}
	if _, err := license.OpenDirectory(env(), nil); err != nil {
		t.Error(err)
	}
	if r, err := license.OpenRegistry(env("LICENSE_MIN_TTL_SECONDS", "2")); err != nil || r.ShortestTTL() != 2*time.Second {
		t.Error(err)
	}
	for _, bad := range [][2]string{{"LICENSE_KEY_PEPPERS", "1:c2hvcnQ="}, {"LICENSE_CACHE_SECONDS", "-1"}, {"LICENSE_CACHE_SIZE", "0"}, {"LICENSE_MIN_TTL_SECONDS", "0"}} {
		_, err := license.OpenDirectory(env(bad[0], bad[1]), nil)
		if err == nil {
			_, err = license.OpenRegistry(env(bad[0], bad[1]))
		}
		if err == nil || !strings.Contains(err.Error(), bad[0]) || strings.Contains(err.Error(), "c2hvcnQ") {
			t.Errorf("%s: %v", bad[0], err)
		}
	}
}

// clock is a clock that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// A payment lifts what billing suspended; what somebody else suspended, before or after, it does not.
func TestASuspensionByTheOperatorOutranksBillings(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	made, _ := s.create(t, s.a)
	suspend := func(reason, by string) license.License {
		var l license.License
		err := s.do(t, s.a, func(tx tenancy.Tx) (err error) {
			l, err = license.Suspend(t.Context(), tx, s.a, made.ID, reason, by)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	suspend("payment_failed", license.ByBilling+":payment_failed")
	if l := suspend("abuse", "api_key:1"); l.StatusBy != "api_key:1" || l.StatusReason != "abuse" {
		t.Errorf("after the operator it is suspended by %s for %s", l.StatusBy, l.StatusReason)
	}
	if l := suspend("payment_failed", license.ByBilling+":payment_failed"); l.StatusBy != "api_key:1" {
		t.Errorf("after billing it is suspended by %s", l.StatusBy)
	}
}
