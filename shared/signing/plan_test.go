package signing_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/coditect/usher/shared/signing"
)

// ledger is what the stores hold, in memory: a plan is carried out on it step by step.
type ledger struct {
	keys     []signing.Key
	versions []signing.Version
	ring     []string
	made     int
}

func (l *ledger) find(id string) *signing.Key {
	for i := range l.keys {
		if l.keys[i].ID == id {
			return &l.keys[i]
		}
	}
	return nil
}

func (l *ledger) setState(name string, state signing.VersionState) {
	for i := range l.versions {
		if l.versions[i].Name == name {
			l.versions[i].State = state
		}
	}
}

// do carries out a step, as package rotation does.
func (l *ledger) do(s signing.Step, now time.Time) {
	l.made++
	id := fmt.Sprint("key-", l.made)
	switch s.Do {
	case signing.CreateRoot:
		l.versions = append(l.versions, signing.Version{Name: fmt.Sprint("version-", l.made), State: signing.VersionEnabled})
	case signing.PublishRoot:
		k := signing.Key{ID: id, Kind: signing.RootKey, Version: s.Version, Published: now}
		if active := signing.ActiveRoot(l.keys); active != nil {
			k.Issuer = active.ID
		}
		l.keys = append(l.keys, k)
	case signing.ActivateRoot:
		if active := signing.ActiveRoot(l.keys); active != nil {
			active.Retired = now
		}
		l.find(s.Key).Activated = now
	case signing.DisableRoot:
		l.setState(s.Version, signing.VersionDisabled)
	case signing.DestroyRoot:
		l.setState(s.Version, signing.VersionDestroyed)
	case signing.NoteRoot:
		k := l.find(s.Key)
		if k.Disabled.IsZero() {
			k.Disabled = now
		}
		for _, v := range l.versions {
			if v.Name == s.Version && v.State == signing.VersionDestroyed {
				k.Destroyed = now
			}
		}
	case signing.MakeReceiptKey:
		l.keys = append(l.keys, signing.Key{
			ID: id, Kind: signing.ReceiptKey, Issuer: signing.ActiveRoot(l.keys).ID, NotBefore: s.From, NotAfter: s.Until, Published: now,
		})
	case signing.ForgetKey:
		l.find(s.Key).Destroyed = now
	case signing.RevokeKey:
		l.find(s.Key).Revoked = now
	case signing.MakeMAC:
		if s.Front {
			l.ring = append([]string{s.Key}, l.ring...)
		} else {
			l.ring = append(l.ring, s.Key)
		}
	case signing.FrontMAC:
		l.ring = append([]string{s.Key}, slices.DeleteFunc(l.ring, func(n string) bool { return n == s.Key })...)
	case signing.DropMAC:
		l.ring = slices.DeleteFunc(l.ring, func(n string) bool { return n == s.Key })
	case signing.NoteMAC:
		at := slices.Index(l.ring, s.Key)
		if at < 0 {
			l.find(s.Key).Destroyed = now
			return
		}
		if l.find(s.Key) == nil {
			l.keys = append(l.keys, signing.Key{ID: s.Key, Kind: signing.MACKey, Published: now})
		}
		if at == 0 {
			for i := range l.keys {
				if k := &l.keys[i]; k.Kind == signing.MACKey && k.ID != s.Key && !k.Activated.IsZero() && k.Retired.IsZero() && k.Revoked.IsZero() {
					k.Retired = now
				}
			}
			if k := l.find(s.Key); k.Activated.IsZero() {
				k.Activated = now
			}
		}
	}
}

// run carries out at most so many steps of what is due, and says whether anything is left.
func (l *ledger) run(now time.Time, most int) (done []signing.Step, ended bool) {
	for range most {
		steps := signing.Plan(l.keys, l.versions, now)
		if len(steps) == 0 {
			steps = signing.PlanRing(l.keys, l.ring, now)
		}
		if len(steps) == 0 {
			return done, true
		}
		l.do(steps[0], now)
		done = append(done, steps[0])
	}
	return done, false
}

var began = time.Date(2026, 3, 1, 15, 4, 5, 0, time.UTC)

func TestAFreshDeploymentGetsTwoRootsAndKeysForTheTurnsAhead(t *testing.T) {
	t.Parallel()
	l := &ledger{}
	done, ended := l.run(began, 100)
	var deeds []signing.Deed
	for _, s := range done {
		deeds = append(deeds, s.Do)
	}
	want := []signing.Deed{
		signing.CreateRoot, signing.PublishRoot, signing.ActivateRoot, signing.CreateRoot, signing.PublishRoot,
		signing.MakeReceiptKey, signing.MakeReceiptKey, signing.MakeReceiptKey, signing.MakeMAC, signing.NoteMAC,
	}
	// The receipt keys come as soon as there is a root to vouch for them, before or after the second root.
	slices.Sort(deeds)
	slices.Sort(want)
	if !ended || !slices.Equal(deeds, want) {
		t.Errorf("done was %v, want %v", deeds, want)
	}
	if first := l.find(signing.ActiveRoot(l.keys).ID); first.Issuer != "" {
		t.Errorf("somebody vouches for the first root: %+v", first)
	}
}

func TestWhatAnEmergencyTakesOutIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	for _, kind := range []signing.Kind{signing.RootKey, signing.ReceiptKey, signing.MACKey} {
		for _, revoke := range []bool{true, false} {
			l := &ledger{}
			l.run(began, 100)
			now := began.Add(time.Minute)
			var out []string
			for i := range l.keys {
				k := &l.keys[i]
				if k.Kind != kind || kind != signing.ReceiptKey && k.Activated.IsZero() || kind == signing.ReceiptKey && k.NotBefore.After(now) {
					continue
				}
				if revoke {
					k.Revoked = now
				} else {
					k.Retired = now
				}
				out = append(out, k.ID)
			}
			if _, ended := l.run(now, 100); !ended || len(out) == 0 {
				t.Fatalf("%s: the plan does not end, or nothing was taken out: %v", kind, out)
			}
			l.holds(t, now)
			for _, k := range signing.Published(l.keys, now) {
				if revoke && slices.Contains(out, k.ID) {
					t.Errorf("%s %s was revoked and is published", kind, k.ID)
				}
				if revoke && slices.Contains(out, k.Issuer) && k.Kind == signing.ReceiptKey {
					t.Errorf("the root of receipt key %s was revoked and it is published", k.ID)
				}
			}
			if kind == signing.MACKey && (slices.Contains(out, l.ring[0]) || slices.Contains(l.ring, out[0]) == revoke) {
				t.Errorf("after %v was taken out the ring is %v", out, l.ring)
			}
		}
	}
}

// TestEveryYearOfRotationsKeepsItsRules cuts runs short, misses some, and takes keys out of use, at random.
func TestEveryYearOfRotationsKeepsItsRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l, now := &ledger{}, began
		for day := range 200 {
			now = now.Add(time.Duration(rapid.IntRange(23*60, 25*60).Draw(t, "minutes")) * time.Minute)
			if day > 0 && rapid.IntRange(0, 30).Draw(t, "missed") == 0 {
				l.signsNow(t, now)
				now = now.Add(23 * time.Hour)
			}
			if day > 0 && rapid.IntRange(0, 40).Draw(t, "emergency") == 0 {
				k := &l.keys[rapid.IntRange(0, len(l.keys)-1).Draw(t, "key")]
				if k.Revoked.IsZero() {
					k.Revoked = now
				}
			}
			if rapid.Bool().Draw(t, "cut short") {
				l.run(now, rapid.IntRange(0, 5).Draw(t, "steps")) // and the scheduler tries again
			}
			if done, ended := l.run(now, 100); !ended {
				t.Fatalf("day %d: the plan does not end: %v", day, done[len(done)-3:])
			}
			l.holds(t, now)
		}
	})
}

// signsNow says that there is a key for receipts without anybody having rotated.
func (l *ledger) signsNow(t interface{ Errorf(string, ...any) }, now time.Time) {
	for _, k := range l.keys {
		if k.Kind == signing.ReceiptKey && k.Revoked.IsZero() && k.Retired.IsZero() && k.Destroyed.IsZero() && !now.Before(k.NotBefore) && now.Before(k.NotAfter) {
			return
		}
	}
	t.Errorf("%s: no key signs receipts", now)
}

// holds says that the rules hold when nothing is due.
func (l *ledger) holds(t interface{ Errorf(string, ...any) }, now time.Time) {
	l.signsNow(t, now)
	published := signing.Published(l.keys, now)
	if len(published) >= 20 {
		t.Errorf("%s: %d keys are published", now, len(published))
	}
	roots, standbys, turns := 0, 0, map[time.Time]int{}
	for _, k := range l.keys {
		switch {
		case k.Kind == signing.RootKey && k.Revoked.IsZero() && k.Retired.IsZero() && !k.Activated.IsZero():
			roots++
			if now.Sub(k.Activated) >= signing.RootLife+48*time.Hour {
				t.Errorf("%s: root %s signs since %s", now, k.ID, k.Activated)
			}
		case k.Kind == signing.RootKey && k.Revoked.IsZero() && k.Retired.IsZero():
			standbys++
		case k.Kind == signing.ReceiptKey && k.Revoked.IsZero():
			turns[k.NotAfter]++
			if k.NotAfter.Sub(k.NotBefore) > 26*time.Hour {
				t.Errorf("receipt key %s lives for %s", k.ID, k.NotAfter.Sub(k.NotBefore))
			}
			if signed := k.NotAfter.Add(signing.LongestGrace); now.Before(signed) && !slices.ContainsFunc(published, func(p signing.Key) bool { return p.ID == k.ID }) {
				t.Errorf("%s: receipts of key %s may live, and it is not published", now, k.ID)
			}
		case k.Kind == signing.MACKey && k.Revoked.IsZero() && !k.Retired.IsZero() && now.Sub(k.Retired) < signing.Recognised && !slices.Contains(l.ring, k.ID):
			t.Errorf("%s: mac key %s was retired at %s and is off the ring", now, k.ID, k.Retired)
		}
	}
	if roots != 1 || standbys != 1 {
		t.Errorf("%s: %d roots sign and %d wait", now, roots, standbys)
	}
	if front := l.find(l.ring[0]); !front.Revoked.IsZero() || !front.Retired.IsZero() || front.Activated.IsZero() {
		t.Errorf("%s: at the front of the ring is %+v", now, front)
	}
	if len(l.ring) > 4 {
		t.Errorf("%s: the ring is %v", now, l.ring)
	}
}

func TestNothingIsUsedBeforeCachesKnowIt(t *testing.T) {
	t.Parallel()
	l, now := &ledger{}, began
	for range 200 {
		l.run(now, 100)
		for _, k := range l.keys {
			if !k.Activated.IsZero() && !k.Activated.Equal(began) && k.Activated.Sub(k.Published) < signing.Caches {
				t.Fatalf("%s %s signs since %s and is published since %s", k.Kind, k.ID, k.Activated, k.Published)
			}
			if k.Kind == signing.ReceiptKey && !k.Published.Equal(began) && k.NotBefore.Sub(k.Published) < 2*time.Hour {
				t.Fatalf("receipt key %s signs from %s and is published since %s", k.ID, k.NotBefore, k.Published)
			}
		}
		now = now.Add(24 * time.Hour)
	}
	if signing.ActiveRoot(l.keys).Activated.Equal(began) {
		t.Error("the first root still signs")
	}
}

func TestAVersionThatCameFromOutsideIsNeverARoot(t *testing.T) {
	t.Parallel()
	l := &ledger{versions: []signing.Version{{Name: "imported", State: signing.VersionForeign}}}
	l.run(began, 100)
	for _, k := range l.keys {
		if k.Version == "imported" {
			t.Errorf("it is root %s", k.ID)
		}
	}
}
