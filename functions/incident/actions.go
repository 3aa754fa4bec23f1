package incident

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
	"github.com/coditect/usher/shared/signing/rotation"
	"github.com/coditect/usher/shared/tenancy"
)

// The outcomes of an action.
const (
	pending = "pending"
	done    = "done"
	failed  = "failed"
)

// tellFor is how long an action tells the pools of a tenant, before it leaves the rest to the sweep.
const tellFor = 8 * time.Second

// reasonOfEviction is what a holder is told whose session an incident ended. What the incident is it is not told.
const reasonOfEviction = "incident"

// deed is an action of an incident that is to be done.
type deed struct {
	Deps
	who      actor
	incident *row
	action   string
	tenant   tenancy.ID // whose the things are; the zero ID when it is about no tenant's
}

// actAll does what is pending of an incident, in its order: what fails keeps nothing else from being done.
func (d Deps) actAll(ctx context.Context, who actor, r *row) {
	for _, a := range r.Actions {
		if a.Outcome == pending {
			d.act(ctx, who, r, a.Action)
		}
	}
}

// act does one action, and keeps what became of it.
func (d Deps) act(ctx context.Context, who actor, r *row, action string) {
	a := deed{Deps: d, who: who, incident: r, action: action}
	err := a.do(ctx)
	if err == nil {
		return
	}
	log := d.Log.With(slog.String("incident", r.ID.String()), slog.String("action", action), slog.Any("error", err))
	f := fault.As(err)
	if f == nil || f.Kind == fault.KindUnavailable || f.Kind == fault.KindInternal {
		log.ErrorContext(ctx, "an action of an incident is not done yet")
		a.note(ctx, "It could not be done yet, because a store cannot answer. It is tried again each minute.")
		return
	}
	log.WarnContext(ctx, "an action of an incident failed")
	later, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	err = d.DB.As(later, identity.Operator(), func(tx tenancy.Tx) error {
		return a.settle(later, tx, failed, f.Detail, "incident.action_failed", subjectOf(r.ID), nil)
	})
	if err != nil {
		log.ErrorContext(ctx, "what became of an action could not be kept", slog.Any("because", err))
	}
}

// note says why an action is still pending.
func (a *deed) note(ctx context.Context, detail string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	err := a.DB.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`UPDATE app.incident_actions SET detail = $3 WHERE incident_id = $1 AND action = $2 AND outcome = 'pending' AND detail <> $4`, a.incident.ID, a.action, detail, takenOut)
	})
	if err != nil {
		a.Log.WarnContext(ctx, "why an action is pending could not be kept", slog.Any("error", err))
	}
}

// errResolved says that an incident was resolved before an action of it was done.
var errResolved = fault.Conflict("incident_resolved", "The incident was resolved before this was done.")

// settle keeps what became of the action, in the transaction that did it. It is the last thing in it.
func (a *deed) settle(ctx context.Context, tx tenancy.Tx, outcome, detail, action, subject string, details map[string]string) error {
	var now time.Time
	err := tx.QueryRow(ctx, `
		UPDATE app.incident_actions SET outcome = $3, detail = $4, at = now()
		 WHERE incident_id = $1 AND action = $2 AND outcome = 'pending'
		RETURNING at`, a.incident.ID, a.action, outcome, detail).Scan(&now)
	if errors.Is(err, pgx.ErrNoRows) {
		return a.wanted(ctx, tx) // another run was faster, and did the same
	}
	if err != nil {
		return fmt.Errorf("keep the outcome of %s: %w", a.action, err)
	}
	what := whatActed
	if outcome == failed {
		what = whatFailed
	}
	said := map[string]string{"action": a.action, "outcome": outcome}
	maps.Copy(said, details)
	e, err := newEntry(a.incident.ID, now, what, a.who.by, detail, said)
	if err != nil {
		return err
	}
	return a.record(ctx, tx, a.who, e, action, subject)
}

// wanted is nil while the action is pending, or is done by another run; and errResolved when the incident was resolved before: then
// nothing of it is to be done in this transaction. Until the transaction ends nobody resolves it.
func (a *deed) wanted(ctx context.Context, tx tenancy.Tx) error {
	var is string
	err := tx.QueryRow(ctx, `SELECT outcome FROM app.incident_actions WHERE incident_id = $1 AND action = $2 FOR SHARE`, a.incident.ID, a.action).Scan(&is)
	if err != nil {
		return fmt.Errorf("read the outcome of %s: %w", a.action, err)
	}
	if is == failed {
		return errResolved
	}
	return nil
}

func (a *deed) do(ctx context.Context) error {
	switch a.action {
	case revokeSigningKey:
		return a.revokeSigningKey(ctx)
	case rotateSigningKey:
		return a.rotateSigningKey(ctx)
	}
	var err error
	scope := a.incident.Scope
	switch {
	case scope.LicenseID != nil || scope.UserID != nil || scope.APIKeyID != nil:
		a.tenant, err = a.Keys.OwnerOf(ctx, orNil(scope.LicenseID), orNil(scope.UserID), orNil(scope.APIKeyID))
	default:
		a.tenant, err = a.Keys.Customer(ctx, orNil(scope.TenantID))
	}
	if err != nil {
		return err
	}
	if a.tenant == identity.Operator() && a.action != revokeAPIKeys {
		return errOperators
	}
	switch a.action {
	case freezeTenant:
		err = a.freeze(ctx, a.who, a.tenant, true, "incident "+a.incident.ID.String(), a)
	case unfreezeTenant:
		err = a.freeze(ctx, a.who, a.tenant, false, "incident "+a.incident.ID.String(), a)
	case endSessions:
		err = a.endSessions(ctx)
	case revokeLicenses:
		err = a.revokeLicenses(ctx)
	case revokeAPIKeys:
		err = a.revokeAPIKeys(ctx)
	default:
		err = fmt.Errorf("nobody knows how to %s", a.action)
	}
	return err
}

// errOperators says that the operator is no customer: of what is its own only API keys can be ended.
var errOperators = fault.Conflict("not_a_customer", "The scope is the operator's own: it has no licences and no seats, and cannot be frozen.")

// freeze suspends a tenant or, with on false, reinstates it if it was frozen, and tells its pools. A deed, if there is one, is
// settled in the same transaction. The journal is told last: what it cannot be told now the watch tells it.
func (d Deps) freeze(ctx context.Context, who actor, tenant tenancy.ID, on bool, reason string, a *deed) error {
	var at time.Time
	changed := false
	err := d.DB.As(ctx, tenant, func(tx tenancy.Tx) (err error) {
		action, did := "tenant.suspended", "The tenant is suspended."
		if on {
			changed, err = identity.Freeze(ctx, tx, tenant, reason)
		} else {
			action, did = "tenant.reinstated", "The tenant is reinstated."
			changed, err = identity.Unfreeze(ctx, tx, tenant, reason)
		}
		if err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `
			INSERT INTO app.freezes (about_tenant, frozen, reason, by) VALUES ($1, $2, $3, $4)
			ON CONFLICT (about_tenant) DO UPDATE SET frozen = $2, reason = $3, by = $4, at = now()
			RETURNING at`, tenant.UUID(), on, reason, who.by).Scan(&at)
		if err != nil {
			return fmt.Errorf("note the freeze of tenant %s: %w", tenant, err)
		}
		if changed && on {
			if err := tellFrozen(ctx, tx); err != nil {
				return err
			}
		}
		switch {
		case !changed && on:
			did = "The tenant was suspended already."
		case !changed:
			did = "The tenant is not frozen, or is suspended for another reason as well."
		}
		if a != nil {
			return a.settle(ctx, tx, done, did, action, "tenant:"+tenant.String(), map[string]string{"reason": reason})
		}
		if !changed {
			return nil
		}
		return d.auditSwitch(ctx, tx, who, action, "tenant:"+tenant.String(), reason)
	})
	if err != nil {
		return err
	}
	if changed {
		if err := d.tellPools(ctx, tenant); err != nil {
			d.Log.WarnContext(ctx, "the seat pools were not told of a frozen tenant yet", slog.String("tenant", tenant.String()), slog.Any("error", err))
		}
	}
	if a != nil && !d.Journal.Off() {
		_, err := d.Journal.SetSwitches(ctx, who.by, reason, at, func(s *journal.Switches) error {
			s.SetFrozen(tenant.UUID(), on)
			return nil
		})
		if err != nil {
			d.Log.WarnContext(ctx, "the switches were not told of a frozen tenant yet", slog.String("tenant", tenant.String()), slog.Any("error", err))
		}
	}
	return nil
}

// tellFrozen tells the owners of the transaction's tenant by mail that it is suspended. What the incident is they hear from people.
func tellFrozen(ctx context.Context, tx tenancy.Tx) error {
	name, err := notify.Organization(ctx, tx)
	if err != nil {
		return err
	}
	return notify.QueueToOwners(ctx, tx, notify.Mail{Kind: notify.TenantSuspended, Data: map[string]string{
		"organization": name, "reason": "We are looking into something that concerns its security.",
	}})
}

// tellPools tells the pool of every licence of a tenant what its row says now.
func (d Deps) tellPools(ctx context.Context, tenant tenancy.ID) error {
	ctx, cancel := context.WithTimeout(ctx, tellFor)
	defer cancel()
	licenses, err := d.licensesOf(ctx, tenant)
	if err != nil {
		return err
	}
	d.Seats.ChangedAll(ctx, tenant, licenses)
	return nil
}

func (d Deps) licensesOf(ctx context.Context, tenant tenancy.ID) (ids []uuid.UUID, err error) {
	err = d.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id FROM app.licenses WHERE tenant_id = $1 ORDER BY id`, tenant.UUID())
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the licenses of tenant %s: %w", tenant, err)
	}
	return ids, nil
}

// endSessions evicts the sessions of the scope: of its licence, its user, or its tenant.
func (a *deed) endSessions(ctx context.Context) error {
	of := seat.Whose{License: orNil(a.incident.Scope.LicenseID)}
	if user := a.incident.Scope.UserID; user != nil {
		err := a.DB.AsReadOnly(ctx, a.tenant, func(tx tenancy.Tx) (err error) {
			of.Users, err = identity.UserNames(ctx, tx, a.tenant, *user)
			return err
		})
		if err != nil {
			return err
		}
	}
	_, err := a.Seats.EvictAll(ctx, a.tenant, of, reasonOfEviction, a.who.by, func(tx tenancy.Tx, evicted int) error {
		return a.settle(ctx, tx, done, count(evicted, "session was", "sessions were")+" ended.", "session.evicted", a.subject(), nil)
	})
	return err
}

// count says how many there are of something.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// subject is what the action is done to.
func (a *deed) subject() string {
	s := a.incident.Scope
	switch {
	case s.LicenseID != nil:
		return "license:" + s.LicenseID.String()
	case s.UserID != nil:
		return "user:" + s.UserID.String()
	case s.APIKeyID != nil:
		return "api_key:" + s.APIKeyID.String()
	}
	return "tenant:" + a.tenant.String()
}

// licensesAtOnce is how many licences are revoked in one transaction.
const licensesAtOnce = 50

// revokeLicenses revokes the licence of the scope, or all of its tenant.
func (a *deed) revokeLicenses(ctx context.Context) error {
	var ids []uuid.UUID
	if id := a.incident.Scope.LicenseID; id != nil {
		ids = []uuid.UUID{*id}
	} else {
		var err error
		if ids, err = a.licensesOf(ctx, a.tenant); err != nil {
			return err
		}
	}
	for from := 0; ; from += licensesAtOnce {
		some := ids[min(from, len(ids)):min(from+licensesAtOnce, len(ids))]
		last := from+licensesAtOnce >= len(ids)
		err := a.DB.As(ctx, a.tenant, func(tx tenancy.Tx) error {
			for _, id := range some {
				if err := a.revokeLicense(ctx, tx, id); err != nil {
					return err
				}
			}
			if !last {
				return a.wanted(ctx, tx)
			}
			return a.settle(ctx, tx, done, count(len(ids), "licence is", "licences are")+" revoked.", "license.revoked", a.subject(), nil)
		})
		if err != nil {
			return err
		}
		if last {
			break
		}
	}
	tell, cancel := context.WithTimeout(ctx, tellFor)
	defer cancel()
	a.Seats.ChangedAll(tell, a.tenant, ids)
	return nil
}

// revokeLicense revokes a licence, and tells the webhooks, unless it is revoked already.
func (a *deed) revokeLicense(ctx context.Context, tx tenancy.Tx, id uuid.UUID) error {
	was, err := license.Read(ctx, tx, a.tenant, id)
	if err != nil || was.Status == license.StatusRevoked {
		return err
	}
	l, err := license.Revoke(ctx, tx, a.tenant, id, "incident "+a.incident.ID.String(), a.who.by)
	if err != nil {
		return err
	}
	return notify.Event(ctx, tx, "license.revoked", "license:"+id.String(), l.Snapshot(l.UpdatedAt))
}

// revokeAPIKeys ends the API key of the scope, those that its user made, or all of its tenant.
func (a *deed) revokeAPIKeys(ctx context.Context) error {
	return a.DB.As(ctx, a.tenant, func(tx tenancy.Tx) error {
		ended := 1
		if id := a.incident.Scope.APIKeyID; id != nil {
			if _, err := identity.RevokeAPIKey(ctx, tx, a.tenant, *id); err != nil {
				return err
			}
		} else {
			keys, err := identity.RevokeAPIKeys(ctx, tx, a.tenant, orNil(a.incident.Scope.UserID))
			if err != nil {
				return err
			}
			ended = len(keys)
		}
		return a.settle(ctx, tx, done, count(ended, "API key is", "API keys are")+" revoked.", "api_key.revoked", a.subject(), nil)
	})
}

// takenOut is what is kept of an action on a signing key when the key is out of use, and its successor is not made yet.
const takenOut = "The key is out of use. Its successor is still to be made."

// revokeSigningKey takes the key out of use for good, and lets its successor sign. Until that is made it is pending, although the
// key is out of use.
func (a *deed) revokeSigningKey(ctx context.Context) error {
	kid := ""
	if a.incident.Scope.SigningKeyID != nil {
		kid = *a.incident.Scope.SigningKeyID
	}
	if _, err := a.Rotation.Revoke(ctx, kid, a.order(ctx, "signing_key.revoked")); err != nil {
		return err
	}
	return a.succeed(ctx, "The key is revoked, and the next signs.")
}

// rotateSigningKey lets the next key of a kind sign: of the kind of the key in the scope, or of receipts. What was taken out of use
// by an earlier attempt is not followed by another.
func (a *deed) rotateSigningKey(ctx context.Context) error {
	kind := signing.ReceiptKey
	var before, outcome string
	err := a.DB.AsReadOnly(ctx, tenancy.ID{}, func(tx tenancy.Tx) error {
		err := tx.QueryRow(ctx, `SELECT detail, outcome FROM app.incident_actions WHERE incident_id = $1 AND action = $2`, a.incident.ID, a.action).Scan(&before, &outcome)
		if kid := a.incident.Scope.SigningKeyID; err == nil && kid != nil {
			err = tx.QueryRow(ctx, `SELECT kind FROM app.signing_keys WHERE kid = $1`, *kid).Scan(&kind)
		}
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.NotFound("not_found", "There is no signing key with this id.")
	}
	if err != nil {
		return fmt.Errorf("find the kind of a signing key: %w", err)
	}
	if outcome != pending {
		return nil // another request has done it meanwhile
	}
	if before != takenOut {
		if _, err := a.Rotation.Retire(ctx, kind, a.order(ctx, "signing_key.retired")); err != nil {
			return err
		}
	}
	return a.succeed(ctx, "The next key of the kind "+string(kind)+" signs.")
}

// order takes keys out of use in the incident's name, with an entry in the operator's audit log for each.
func (a *deed) order(ctx context.Context, action string) rotation.Order {
	reason := "incident " + a.incident.ID.String()
	return rotation.Order{
		Tenant: identity.Operator(), Reason: reason, By: a.who.by,
		Record: func(tx tenancy.Tx, kids []string) error {
			_, err := tx.Exec(ctx, `UPDATE app.incident_actions SET detail = $3 WHERE incident_id = $1 AND action = $2 AND outcome = 'pending'`,
				a.incident.ID, a.action, takenOut)
			for _, kid := range kids {
				if err == nil {
					err = audit.Record(ctx, tx, a.who.act(action, "signing_key:"+kid, map[string]string{"reason": reason}))
				}
			}
			return err
		},
	}
}

// succeed makes what is due with signing keys, and settles the action.
func (a *deed) succeed(ctx context.Context, did string) error {
	if _, err := a.Rotation.Run(ctx); err != nil {
		return err
	}
	return a.DB.As(ctx, identity.Operator(), func(tx tenancy.Tx) error {
		return a.settle(ctx, tx, done, did, "incident.acted", subjectOf(a.incident.ID), nil)
	})
}
