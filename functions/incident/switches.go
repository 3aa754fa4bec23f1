package incident

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

var errJournalOff = fault.Conflict("journal_off", "Switches are kept in the journal, and this deployment has none: set JOURNAL_PROJECT. An incident freezes a tenant without it.")

// auditSwitch records what a switch did.
func (d Deps) auditSwitch(ctx context.Context, tx tenancy.Tx, who actor, action, subject, reason string) error {
	return audit.Record(ctx, tx, who.act(action, subject, map[string]string{"reason": reason}))
}

func switchesOf(s *journal.Switches, off bool) Switches {
	shown := Switches{FreezeAdmissions: s.FreezeAdmissions, ReadOnly: s.ReadOnly, FrozenTenants: append([]uuid.UUID{}, s.FrozenTenants...), Version: s.Version, Journal: "written"}
	if off {
		shown.Journal = "off"
	}
	if s.Version > 0 {
		at := httpx.At(s.At)
		shown.Reason, shown.SetBy, shown.SetAt = &s.Reason, &s.By, &at
	}
	return shown
}

func (d Deps) showSwitches(c *httpx.Call, who caller) (httpx.Reply, error) {
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	s, err := d.Journal.ReadSwitches(c.Context())
	if errors.Is(err, journal.ErrOff) {
		shown := switchesOf(&s, true)
		if !who.offline {
			freezes, err := d.freezes(c.Context())
			if err != nil {
				return httpx.Reply{}, err
			}
			for tenant, f := range freezes {
				if f.frozen {
					shown.FrozenTenants = append(shown.FrozenTenants, tenant)
				}
			}
			slices.SortFunc(shown.FrozenTenants, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
		}
		return httpx.Reply{Body: shown}, nil
	}
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: switchesOf(&s, false)}, nil
}

// setSwitches writes the setting to the journal first: from then on it holds, whoever dies. Then the pools are told, and tenants
// are frozen and unfrozen; what cannot be done now the watch does.
func (d Deps) setSwitches(c *httpx.Call, who caller) (httpx.Reply, error) {
	ctx := c.Context()
	var q SwitchesRequest
	if err := decode(c, &q); err != nil {
		return httpx.Reply{}, err
	}
	if d.Journal.Off() {
		return httpx.Reply{}, errJournalOff
	}
	now := d.Now()
	if !who.offline {
		for _, id := range q.FrozenTenants {
			_, err := d.Keys.Customer(ctx, id)
			if f := fault.As(err); f != nil && f.Kind == fault.KindNotFound {
				return httpx.Reply{}, fault.Invalid("The switches are not valid.", fault.Field{Field: "frozen_tenants", Code: "not_allowed", Detail: "There is no tenant " + id.String() + "."})
			}
			if err != nil {
				return httpx.Reply{}, err
			}
		}
		// What an incident froze while the journal was out is on the list that this one replaces.
		if _, err := d.reconcile(ctx, who.actor); err != nil {
			return httpx.Reply{}, err
		}
		var err error
		if now, err = d.DB.Now(ctx); err != nil {
			return httpx.Reply{}, err
		}
	}
	s, err := d.Journal.SetSwitches(ctx, who.by, q.Reason, now, func(s *journal.Switches) error {
		if q.Version != nil && *q.Version != s.Version {
			return fault.Conflict("switches_changed", "Somebody has set the switches since they were read. Look at them, then try again.")
		}
		s.FreezeAdmissions, s.ReadOnly = q.FreezeAdmissions, q.ReadOnly
		if q.FrozenTenants != nil {
			s.FrozenTenants = slices.Clone(q.FrozenTenants)
		}
		return nil
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	c.Note(slog.Int64("switches", s.Version))
	if err := d.Seats.SetAdmissions(ctx, s.FreezeAdmissions, s.At); err != nil {
		d.Log.ErrorContext(ctx, "the seat functions were not told of the switches yet", slog.Any("error", err))
	}
	if !who.offline {
		err := d.DB.As(ctx, identity.Operator(), func(tx tenancy.Tx) error {
			return audit.Record(ctx, tx, who.act("switches.set", fmt.Sprintf("switches:%d", s.Version), map[string]string{
				"freeze_admissions": fmt.Sprint(s.FreezeAdmissions), "read_only": fmt.Sprint(s.ReadOnly), "frozen_tenants": fmt.Sprint(s.FrozenTenants), "reason": q.Reason,
			}))
		})
		if err != nil {
			return httpx.Reply{}, err
		}
		if _, err := d.reconcile(ctx, who.actor); err != nil {
			return httpx.Reply{}, err
		}
	}
	return httpx.Reply{Body: switchesOf(&s, false)}, nil
}

// freezeRow is what the database has of a tenant that was frozen.
type freezeRow struct {
	frozen bool
	reason string
	by     string
	at     time.Time
}

func (d Deps) freezes(ctx context.Context) (map[uuid.UUID]freezeRow, error) {
	all := map[uuid.UUID]freezeRow{}
	err := d.DB.AsReadOnly(ctx, tenancy.ID{}, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT about_tenant, frozen, reason, by, at FROM app.freezes`)
		if err != nil {
			return err
		}
		var id uuid.UUID
		var f freezeRow
		_, err = pgx.ForEachRow(rows, []any{&id, &f.frozen, &f.reason, &f.by, &f.at}, func() error { all[id] = f; return nil })
		return err
	})
	return all, err
}

// reconcile makes the switches hold: it tells the seat functions what they say of admissions, and makes the database and the
// journal agree on who is frozen. Where they do not, because one was out, the later word counts. Who is frozen by both and was
// reinstated all the same, as one who was suspended for another reason as well can be, is frozen again. Without a journal the
// database's word alone counts. It says how many tenants it froze and unfroze.
func (d Deps) reconcile(ctx context.Context, who actor) (int, error) {
	s, err := d.Journal.ReadSwitches(ctx)
	off := errors.Is(err, journal.ErrOff)
	if err != nil && !off {
		return 0, err
	}
	var errs []error
	if !off {
		errs = append(errs, d.Seats.SetAdmissions(ctx, s.FreezeAdmissions, s.At))
	}
	has, err := d.freezes(ctx)
	if err != nil {
		return 0, errors.Join(append(errs, err)...)
	}
	tenants := slices.Clone(s.FrozenTenants)
	for id := range has {
		tenants = append(tenants, id)
	}
	slices.SortFunc(tenants, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	changed := 0
	for _, id := range slices.Compact(tenants) {
		f, known := has[id]
		wanted := s.Frozen(id) || off && f.frozen
		if f.frozen == wanted {
			if wanted {
				again, err := d.freezeAgain(ctx, who, id, f.reason)
				if again {
					changed++
				}
				errs = append(errs, err)
			}
			continue
		}
		if known && f.at.After(s.At) {
			_, err := d.Journal.SetSwitches(ctx, f.by, "an incident, while the journal was out", f.at, func(s *journal.Switches) error {
				s.SetFrozen(id, f.frozen)
				return nil
			})
			errs = append(errs, err)
			continue
		}
		tenant, err := d.Keys.Customer(ctx, id)
		if err == nil {
			reason := s.Reason
			if reason == "" {
				reason = "the switches"
			}
			if err = d.freeze(ctx, who, tenant, wanted, reason, nil); err == nil {
				changed++
			}
		}
		if f := fault.As(err); f != nil && f.Kind == fault.KindNotFound {
			err = nil // a switch that was set while nobody could look, of a tenant that is none
		}
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// freezeAgain freezes a tenant that is listed as frozen and was reinstated all the same, and says whether it was so.
func (d Deps) freezeAgain(ctx context.Context, who actor, id uuid.UUID, reason string) (bool, error) {
	tenant, err := d.Keys.Customer(ctx, id)
	if err != nil {
		return false, err
	}
	// One statement sees both as they are at one time: who is being unfrozen meanwhile is not frozen again.
	var reinstated bool
	err = d.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT t.status = 'active' AND f.frozen
			  FROM app.tenants t, app.freezes f
			 WHERE t.id = $1 AND f.about_tenant = $1`, id).Scan(&reinstated)
	})
	if err != nil || !reinstated {
		return false, err
	}
	return true, d.freeze(ctx, who, tenant, true, reason, nil)
}
