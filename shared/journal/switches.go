package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
)

// Switches are the kill switches as they are set together. The zero Switches are all off.
type Switches struct {
	// Version counts the settings; 0 is none yet.
	Version int64
	// FreezeAdmissions: nobody gets a seat who has none. Who sits keeps it.
	FreezeAdmissions bool
	// ReadOnly: no person and no automation changes anything. Seats are taken, kept and given back.
	ReadOnly bool
	// FrozenTenants are suspended until they are frozen no more. Sorted.
	FrozenTenants []uuid.UUID
	// Reason, By and At say why, who set them so, and when.
	Reason, By string
	At         time.Time
}

// Frozen says whether a tenant is frozen.
func (s *Switches) Frozen(tenant uuid.UUID) bool { return slices.Contains(s.FrozenTenants, tenant) }

// switchesDocument is Switches as Firestore keeps them.
type switchesDocument struct {
	Version          int64     `firestore:"version"`
	FreezeAdmissions bool      `firestore:"freeze_admissions"`
	ReadOnly         bool      `firestore:"read_only"`
	FrozenTenants    []string  `firestore:"frozen_tenants"`
	Reason           string    `firestore:"reason"`
	By               string    `firestore:"by"`
	At               time.Time `firestore:"at"`
}

// ReadSwitches answers the newest setting.
func (j *Journal) ReadSwitches(ctx context.Context) (newest Switches, err error) {
	err = j.list(ctx, "switches", func(q firestore.Query) firestore.Query {
		return q.OrderBy("version", firestore.Desc).Limit(1)
	}, func(found *firestore.DocumentSnapshot) error {
		var d switchesDocument
		if err := found.DataTo(&d); err != nil {
			return err
		}
		newest = Switches{
			Version: d.Version, FreezeAdmissions: d.FreezeAdmissions, ReadOnly: d.ReadOnly, Reason: d.Reason, By: d.By, At: d.At.UTC(),
		}
		for _, text := range d.FrozenTenants {
			id, err := uuid.Parse(text)
			if err != nil {
				return err
			}
			newest.FrozenTenants = append(newest.FrozenTenants, id)
		}
		return nil
	})
	return newest, err
}

// MostFrozen is how many tenants can be frozen at once: then freeze admissions.
const MostFrozen = 1000

// setTries bounds how often a setting is made again because somebody else made one meanwhile.
const setTries = 10

// SetSwitches lets change alter the newest setting, and writes what came of it as the newest, by whom and why. Change may be
// called again, when somebody else was faster; a setting that it leaves as it is is not written. Errors: ErrOff,
// fault.Unavailable, fault.Conflict when others are faster all the time, and change's.
func (j *Journal) SetSwitches(ctx context.Context, by, reason string, at time.Time, change func(*Switches) error) (Switches, error) {
	for range setTries {
		was, err := j.ReadSwitches(ctx)
		if err != nil {
			return Switches{}, err
		}
		is := was
		is.FrozenTenants = slices.Clone(was.FrozenTenants)
		if err := change(&is); err != nil {
			return Switches{}, err
		}
		slices.SortFunc(is.FrozenTenants, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
		is.FrozenTenants = slices.Compact(is.FrozenTenants)
		if is.ReadOnly == was.ReadOnly && is.FreezeAdmissions == was.FreezeAdmissions && slices.Equal(is.FrozenTenants, was.FrozenTenants) {
			return was, nil
		}
		is.Version, is.By, is.Reason, is.At = was.Version+1, by, reason, at.UTC().Truncate(time.Millisecond)
		d := switchesDocument{
			Version: is.Version, FreezeAdmissions: is.FreezeAdmissions, ReadOnly: is.ReadOnly, Reason: reason, By: by, At: is.At,
			FrozenTenants: make([]string, len(is.FrozenTenants)),
		}
		for i, id := range is.FrozenTenants {
			d.FrozenTenants[i] = id.String()
		}
		err = j.create(ctx, fmt.Sprintf("switches/%012d", is.Version), d)
		if !errors.Is(err, errExists) {
			return is, err
		}
	}
	return Switches{}, fault.Conflict("switches_changed", "Others set the switches at the same time. Look at them, then try again.")
}

const (
	// switchesLife is how long an instance answers from memory what the switches say.
	switchesLife = 5 * time.Second
	// switchesWait is how long a request waits for the journal to say it anew; the first one, when nothing is known, waits for
	// as long as a call may take.
	switchesWait = 500 * time.Millisecond
	// switchesRest is for how long nobody asks again after the journal did not answer.
	switchesRest = time.Second
)

// Cache answers what the switches say from memory, and asks the journal when that is 5 s old. It is safe for concurrent use.
type Cache struct {
	journal *Journal
	now     func() time.Time
	log     *slog.Logger

	mu    sync.Mutex
	known Switches
	heard bool // once
	asked time.Time
	good  time.Duration // for how long what is known, or that nobody answers, is good from then on
}

// OpenCache makes a Cache of the journal that Config, read from the environment, says. It does not connect. The caller closes it.
func OpenCache(ctx context.Context, getenv func(string) string, log *slog.Logger) (*Cache, error) {
	j, err := Open(ctx, getenv)
	if err != nil {
		return nil, err
	}
	return j.NewCache(time.Now, log), nil
}

// Close closes the connections to the journal.
func (c *Cache) Close() error { return c.journal.Close() }

// errReadOnly is answered to who wants to change something while nobody may.
var errReadOnly = &fault.Error{
	Kind: fault.KindUnavailable, Code: "read_only", RetryAfter: 30 * time.Second,
	Detail: "Nothing can be changed at the moment: the operator has made the service read-only. Reading goes on, and so do seats. Wait for retry_after_seconds, then try again.",
}

// Writable is nil unless the switches say that nobody may change anything: then it is 503 read_only.
func (c *Cache) Writable(ctx context.Context) error {
	if s := c.Switches(ctx); s.ReadOnly {
		return errReadOnly
	}
	return nil
}

// NewCache makes a Cache. Now is this instance's clock, which paces the asking alone.
func (j *Journal) NewCache(now func() time.Time, log *slog.Logger) *Cache {
	return &Cache{journal: j, now: now, log: log}
}

// Switches answers what the switches say. When the journal is off they are all off; when it cannot answer they are what they
// were when it last could: a journal that is out stops nobody, and starts nobody who was stopped.
func (c *Cache) Switches(ctx context.Context) Switches {
	if c.journal.Off() {
		return Switches{}
	}
	c.mu.Lock()
	defer c.mu.Unlock() // who comes while it is asked waits for the same answer
	if now := c.now(); c.asked.IsZero() || now.Sub(c.asked) >= c.good || now.Before(c.asked) {
		c.asked, c.good = now, switchesRest
		// Whoever asks and goes away must not keep the others from hearing it.
		ctx = context.WithoutCancel(ctx)
		if c.heard {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, switchesWait)
			defer cancel()
		}
		newest, err := c.journal.ReadSwitches(ctx)
		if err == nil {
			c.known, c.heard, c.good = newest, true, switchesLife
		} else {
			c.log.WarnContext(ctx, "the switches cannot be read; they stay as they were", "error", err)
		}
	}
	return c.known
}

// SetFrozen puts a tenant on the list of the frozen, or takes it off.
func (s *Switches) SetFrozen(tenant uuid.UUID, frozen bool) {
	s.FrozenTenants = slices.DeleteFunc(s.FrozenTenants, func(id uuid.UUID) bool { return id == tenant })
	if frozen {
		s.FrozenTenants = append(s.FrozenTenants, tenant)
	}
}
