package signing

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/coditect/usher/client/receipt"
)

// The times of keys.
const (
	// Turn is how long a receipt key signs. Turns begin at midnight, UTC.
	Turn = 24 * time.Hour
	// Overlap is how long a receipt key can still sign after its turn, where the next cannot be unwrapped.
	Overlap = 2 * time.Hour
	// Ahead is how far ahead turns have a key: two daily runs, so that one may fail.
	Ahead = 50 * time.Hour
	// RootLife is how long a root signs, and a key of seat tokens.
	RootLife = 90 * 24 * time.Hour
	// Caches is how long clients may keep a key set: what is published is not used before.
	Caches = time.Hour
	// DisableAfter is when a retired root cannot sign any more, DestroyAfter when it is gone for good after that.
	DisableAfter = 24 * time.Hour
	DestroyAfter = 30 * 24 * time.Hour
	// Recognised is how long ended sessions are told why they ended, and so how long a retired key of seat tokens stays.
	Recognised = 31 * 24 * time.Hour
	// LongestGrace is how long a receipt may outlive the window of its key.
	LongestGrace = receipt.Longest
	// FileLife is how long licence files may outlive the root that signed them.
	FileLife = 400 * 24 * time.Hour
	// MostPublished is how many keys the key set may have.
	MostPublished = 19
)

// Kind is what a key is for.
type Kind string

// The kinds of keys.
const (
	RootKey    Kind = "root"
	ReceiptKey Kind = "receipt"
	MACKey     Kind = "mac"
)

// Key is what is known of a key, but for the key itself. Times are zero until what they tell has happened.
type Key struct {
	ID      string
	Kind    Kind
	Issuer  string // the root that certified it
	Version string // a root's, in Cloud KMS
	// NotBefore and NotAfter are the window of a receipt key.
	NotBefore, NotAfter time.Time

	Published, Activated, Retired, Disabled, Destroyed, Revoked time.Time
}

// signs says that a key of this kind, which needs activating, signs now.
func (k *Key) signs() bool { return !k.Activated.IsZero() && k.Retired.IsZero() && k.Revoked.IsZero() }

// waits says that it is published and has never signed.
func (k *Key) waits() bool {
	return !k.Published.IsZero() && k.Activated.IsZero() && k.Retired.IsZero() && k.Revoked.IsZero()
}

// Version is a version of the root key in Cloud KMS.
type Version struct {
	Name  string
	State VersionState
}

// VersionState is what can be done with a version.
type VersionState uint8

// The states of a version.
const (
	VersionPending VersionState = iota
	VersionEnabled
	VersionDisabled
	VersionDestroyed
	// VersionForeign is none that Cloud KMS made by itself: it is never used.
	VersionForeign
)

// Deed is one thing that a rotation does. It changes one store, once, so that it has been done or not whenever a process ends.
type Deed string

// The deeds.
const (
	CreateRoot     Deed = "create_root"      // in Cloud KMS
	PublishRoot    Deed = "publish_root"     // certify it, and keep its public half
	ActivateRoot   Deed = "activate_root"    // and retire the one before, at once
	DisableRoot    Deed = "disable_root"     // in Cloud KMS
	DestroyRoot    Deed = "destroy_root"     // in Cloud KMS
	NoteRoot       Deed = "note_root"        // that its version is disabled or destroyed
	MakeReceiptKey Deed = "make_receipt_key" // make, wrap, certify and publish it
	ForgetKey      Deed = "forget_key"       // the private half of a receipt key that is over
	RevokeKey      Deed = "revoke_key"       // a receipt key that a revoked root certified

	MakeMAC  Deed = "make_mac"  // put a new key on the ring
	FrontMAC Deed = "front_mac" // move it to the front of the ring
	DropMAC  Deed = "drop_mac"  // take it off the ring
	NoteMAC  Deed = "note_mac"  // what the ring says of it
)

// Step is a deed, and with what.
type Step struct {
	Do Deed
	// Key is the key's id; of a key that is yet to be made, "" or its name on the ring.
	Key string
	// Version is the root's in Cloud KMS.
	Version string
	// From and Until are the window of a new receipt key.
	From, Until time.Time
	// Front says that a new key goes to the front of the ring at once.
	Front bool
}

// Plan is what is due with roots and receipt keys, in order. Whoever carries it out does the first step and plans again:
// so a plan that was cut short, or that two carry out at once, ends like any other.
func Plan(keys []Key, versions []Version, now time.Time) []Step {
	steps := planRoots(keys, versions, now)
	if root := ActiveRoot(keys); root != nil {
		steps = append(steps, planReceiptKeys(keys, now)...)
	}
	return steps
}

// ActiveRoot is the root that signs now, or nil.
func ActiveRoot(keys []Key) *Key {
	for i := range keys {
		if keys[i].Kind == RootKey && keys[i].signs() {
			return &keys[i]
		}
	}
	return nil
}

func planRoots(keys []Key, versions []Version, now time.Time) (steps []Step) {
	state := map[string]VersionState{}
	for _, v := range versions {
		state[v.Name] = v.State
	}
	var standby *Key
	for i := range keys {
		k := &keys[i]
		if k.Kind == RootKey && k.waits() && state[k.Version] == VersionEnabled && (standby == nil || k.Published.Before(standby.Published)) {
			standby = k
		}
	}
	active := ActiveRoot(keys)
	switch {
	case standby == nil:
		steps = append(steps, nextRoot(keys, versions)...)
	case active == nil:
		// The first root, or the one before was revoked or retired in an emergency: nothing is waited for.
		steps = append(steps, Step{Do: ActivateRoot, Key: standby.ID})
	case now.Sub(active.Activated) >= RootLife && now.Sub(standby.Published) >= Caches:
		steps = append(steps, Step{Do: ActivateRoot, Key: standby.ID})
	}
	for i := range keys {
		k := &keys[i]
		if k.Kind != RootKey {
			continue
		}
		over := k.Retired
		if !k.Revoked.IsZero() {
			over = now.Add(-DisableAfter) // at once
		}
		at := state[k.Version]
		switch {
		case over.IsZero():
		case at == VersionEnabled && now.Sub(over) >= DisableAfter:
			steps = append(steps, Step{Do: DisableRoot, Key: k.ID, Version: k.Version})
		case at == VersionDisabled && k.Disabled.IsZero(), at == VersionDestroyed && k.Destroyed.IsZero():
			steps = append(steps, Step{Do: NoteRoot, Key: k.ID, Version: k.Version})
		case at == VersionDisabled && now.Sub(k.Disabled) >= DestroyAfter:
			steps = append(steps, Step{Do: DestroyRoot, Key: k.ID, Version: k.Version})
		}
	}
	return steps
}

// nextRoot makes a root. A version that nobody knows was made by a run that was cut short: it is taken before another is made.
func nextRoot(keys []Key, versions []Version) []Step {
	for _, v := range versions {
		known := slices.ContainsFunc(keys, func(k Key) bool { return k.Version == v.Name })
		switch {
		case known:
		case v.State == VersionEnabled:
			return []Step{{Do: PublishRoot, Version: v.Name}}
		case v.State == VersionPending:
			return nil // it will be there the next time
		}
	}
	return []Step{{Do: CreateRoot}}
}

func planReceiptKeys(keys []Key, now time.Time) (steps []Step) {
	root := map[string]*Key{}
	for i := range keys {
		if keys[i].Kind == RootKey {
			root[keys[i].ID] = &keys[i]
		}
	}
	covered := map[int64]bool{} // turns, by the end of their key's window
	for i := range keys {
		k := &keys[i]
		if k.Kind != ReceiptKey {
			continue
		}
		issuer := root[k.Issuer]
		switch {
		case k.Revoked.IsZero() && issuer != nil && !issuer.Revoked.IsZero() && now.Before(k.NotAfter.Add(LongestGrace)):
			steps = append(steps, Step{Do: RevokeKey, Key: k.ID})
			continue
		case k.Destroyed.IsZero() && (!k.Revoked.IsZero() || !k.Retired.IsZero() || !now.Before(k.NotAfter)):
			steps = append(steps, Step{Do: ForgetKey, Key: k.ID})
		}
		if k.Revoked.IsZero() && k.Retired.IsZero() && k.Destroyed.IsZero() {
			covered[k.NotAfter.Unix()] = true
		}
	}
	// The new keys first: an old one may wait to be forgotten.
	var made []Step
	for start := now.UTC().Truncate(Turn); start.Before(now.Add(Ahead)); start = start.Add(Turn) {
		until := start.Add(Turn + Overlap)
		if covered[until.Unix()] {
			continue
		}
		from := start
		if from.Before(now) {
			from = now.UTC().Truncate(time.Second) // certificates know whole seconds
		}
		made = append(made, Step{Do: MakeReceiptKey, From: from, Until: until})
	}
	return append(made, steps...)
}

// PlanRing is what is due with the keys of seat tokens, in order: the ring as Secret Manager has it, the one in use first,
// against what is known of its keys. It is carried out as Plan is.
func PlanRing(keys []Key, ring []string, now time.Time) []Step {
	known := map[string]*Key{}
	newest := 0
	for _, name := range ring {
		newest = max(newest, number(name))
	}
	for i := range keys {
		if k := &keys[i]; k.Kind == MACKey {
			known[k.ID] = k
			newest = max(newest, number(k.ID))
		}
	}
	next := fmt.Sprintf("k%d", newest+1)
	if len(ring) == 0 {
		return []Step{{Do: MakeMAC, Key: next, Front: true}}
	}
	// First what is known is brought up to what is so.
	for i, name := range ring {
		k := known[name]
		if k == nil || i == 0 && k.Activated.IsZero() && k.Revoked.IsZero() {
			return []Step{{Do: NoteMAC, Key: name}}
		}
	}
	for _, name := range sortedNames(known) {
		if k := known[name]; k.Destroyed.IsZero() && (!k.Retired.IsZero() || !k.Revoked.IsZero()) && !slices.Contains(ring, name) {
			return []Step{{Do: NoteMAC, Key: name}}
		}
	}
	front, second := known[ring[0]], (*Key)(nil)
	for _, name := range ring[1:] {
		if known[name].waits() {
			second = known[name]
			break
		}
	}
	var steps []Step
	emergency := !front.Revoked.IsZero() || !front.Retired.IsZero()
	switch {
	case emergency && second == nil:
		steps = append(steps, Step{Do: MakeMAC, Key: next, Front: true})
	case emergency:
		steps = append(steps, Step{Do: FrontMAC, Key: second.ID})
	case now.Sub(front.Activated) < RootLife:
	case second == nil:
		steps = append(steps, Step{Do: MakeMAC, Key: next})
	case now.Sub(second.Published) >= Caches:
		steps = append(steps, Step{Do: FrontMAC, Key: second.ID})
	}
	for _, name := range ring[1:] {
		k := known[name]
		if !k.Revoked.IsZero() || !k.Retired.IsZero() && now.Sub(k.Retired) >= Recognised {
			steps = append(steps, Step{Do: DropMAC, Key: name})
		}
	}
	return steps
}

// number is that of a name such as k7, and 0 of another.
func number(name string) int {
	var n int
	if _, err := fmt.Sscanf(name, "k%d", &n); err != nil {
		return 0
	}
	return n
}

func sortedNames(known map[string]*Key) []string {
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Published are the keys of the key set: roots that sign, will sign, or signed what may still be believed, then receipt
// keys, the newest first. A revoked key is not among them. They are MostPublished at most: the oldest roots go first.
func Published(keys []Key, now time.Time) []Key {
	var active, waiting, retired, receipts []Key
	for i := range keys {
		k := keys[i]
		switch {
		case k.Published.IsZero() || !k.Revoked.IsZero() || k.Kind == MACKey:
		case k.Kind == ReceiptKey:
			if now.Before(k.NotAfter.Add(LongestGrace)) {
				receipts = append(receipts, k)
			}
		case k.signs():
			active = append(active, k)
		case k.waits():
			waiting = append(waiting, k)
		case now.Before(k.Retired.Add(FileLife)):
			retired = append(retired, k)
		}
	}
	slices.SortFunc(receipts, func(a, b Key) int { return cmp.Or(b.NotBefore.Compare(a.NotBefore), cmp.Compare(a.ID, b.ID)) })
	slices.SortFunc(retired, func(a, b Key) int { return cmp.Or(b.Retired.Compare(a.Retired), cmp.Compare(a.ID, b.ID)) })
	slices.SortFunc(waiting, func(a, b Key) int { return cmp.Or(a.Published.Compare(b.Published), cmp.Compare(a.ID, b.ID)) })
	room := max(MostPublished-len(active)-len(waiting)-len(receipts), 0)
	out := slices.Concat(active, waiting, retired[:min(room, len(retired))], receipts)
	return out[:min(MostPublished, len(out))]
}
