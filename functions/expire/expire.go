// Package expire does, each night, what time brings: it tells owners that a licence or a trial ends soon or has ended, lets
// trials that are over fall to the free tier, suspends what is owed at the end of its grace, makes what was sold agree with
// Stripe, and drops what is over long enough.
//
//	POST /tasks/expire   Authorization: Bearer <OIDC token of the scheduler>; body {} or none
//
//	200  what it did, in numbers
//	401  scheduler_token_invalid
//	503  store_unavailable: PostgreSQL or Stripe cannot answer; what was done until then stays done
//
// It may be delivered twice, or at once with itself: each notice is given once, and the rest ends in the same state. It begins
// nothing after four minutes, ends within five, and the next run takes up where it stopped. Access does not wait for it: by
// its dates a licence grants nothing from the moment on at which it is over.
package expire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/billing"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

const (
	deadline = 5 * time.Minute
	beginFor = 4 * time.Minute
	// auditFor is for how long entries of the audit log begin to be dropped.
	auditFor = time.Minute
	// atATime is how many things that are due are asked for at once.
	atATime = 200
)

// Deps is what the function works with.
type Deps struct {
	// DB logs in as usher_expire.
	DB        *tenancy.DB
	Registry  *license.Registry
	Books     *billing.Books
	Seats     *seat.Pools
	Scheduler *identity.SchedulerVerifier
	// SessionDays is for how many days sessions that ended are kept, AuditDays the same of the audit log.
	SessionDays, AuditDays int
	Log                    *slog.Logger
}

// Answer is the body of a 200.
type Answer struct {
	// Noticed are notices that a licence ends soon, or has ended.
	Noticed int `json:"noticed"`
	// Reminded are reminders that a trial ends soon; Fallen are trials that are over and fell to the free tier.
	Reminded int                    `json:"reminded"`
	Fallen   int                    `json:"fallen"`
	Stripe   billing.Reconciliation `json:"stripe"`
	// MonthsDropped are months of the session history, EventsDropped events of Stripe's, that were over long enough.
	MonthsDropped int `json:"months_dropped"`
	// AuditEntriesDropped are entries of the audit log that were; AuditMonthsDropped are its months, of which none was left.
	AuditEntriesDropped int   `json:"audit_entries_dropped"`
	AuditMonthsDropped  int   `json:"audit_months_dropped"`
	EventsDropped       int64 `json:"events_dropped"`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "expire", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "POST", Path: "/tasks/expire", ID: "expire", Tag: "expire",
		Summary:     "Give notices, end trials, agree with Stripe, drop what is over",
		Description: "Called by the scheduler each night.",
		Credentials: []httpx.Credential{httpx.SchedulerToken},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Answer{}, Description: "What was done."}},
		Timeout:     deadline,
		Handle:      d.expire,
	}}
}

func (d Deps) expire(c *httpx.Call) (httpx.Reply, error) {
	token, _ := c.Bearer()
	if err := d.Scheduler.Verify(c.Context(), token); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.Decode(nil); err != nil {
		return httpx.Reply{}, err
	}
	ctx, until := c.Context(), time.Now().Add(beginFor)
	var a Answer
	var err error
	if a.Noticed, _, err = d.each(ctx, until, "expire: licences that end", `SELECT * FROM app.due_notices($1)`, d.notice); err != nil {
		return httpx.Reply{}, err
	}
	if a.Reminded, a.Fallen, err = d.each(ctx, until, "expire: trials that end", `SELECT * FROM app.due_trials($1)`, d.trial); err != nil {
		return httpx.Reply{}, err
	}
	dropped := d.drop(ctx, &a) // what could not be dropped keeps nobody from what is sold
	var now time.Time
	err = d.DB.Across(ctx, "expire: the clock", func(tx tenancy.Tx) (err error) {
		now, err = billing.StoreTime(ctx, tx)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	// Last, because Stripe may be slow or out.
	a.Stripe, err = d.Books.Reconcile(ctx, now, until, func(tenant tenancy.ID, id uuid.UUID) { d.tellPool(ctx, tenant, id) })
	if err != nil {
		d.Log.WarnContext(ctx, "what was sold could not be compared with Stripe to the end", slog.Any("compared", a), slog.Any("error", err))
		return httpx.Reply{}, err
	}
	if dropped != nil {
		return httpx.Reply{}, dropped
	}
	c.Note(slog.Any("expired", a))
	return httpx.Reply{Body: a}, nil
}

// ending is a licence that ends within so many days, or has ended: 0.
type ending struct {
	Tenant, License uuid.UUID
	EndsAt          time.Time
	Days            int
}

// each does something for each licence that is due, once a run, each in a transaction of its own. It counts those that were
// told of an end to come, or that it came, and those that fell.
func (d Deps) each(ctx context.Context, until time.Time, why, query string, do func(context.Context, tenancy.Tx, tenancy.ID, ending) (told, fell bool, err error)) (told, fallen int, err error) {
	seen := map[ending]bool{}
	stuck := 0 // stay due for now, and must not hide the others
	for time.Now().Before(until) {
		var all []ending
		err := d.DB.Across(ctx, why, func(tx tenancy.Tx) error {
			rows, err := tx.Query(ctx, query, atATime+stuck)
			if err == nil {
				all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ending])
			}
			return err
		})
		if err != nil {
			return told, fallen, fmt.Errorf("%s: %w", why, err)
		}
		fresh := false
		for _, e := range all {
			if seen[e] {
				continue
			}
			fresh, seen[e] = true, true
			var did, fell bool
			tenant := tenancy.Verified(e.Tenant)
			err := d.DB.As(ctx, tenant, func(tx tenancy.Tx) (err error) {
				did, fell, err = do(ctx, tx, tenant, e)
				return err
			})
			switch f := fault.As(err); {
			case err != nil && (ctx.Err() != nil || f != nil && f.Kind == fault.KindUnavailable):
				return told, fallen, err
			case err != nil: // its own trouble is not the others'
				d.Log.ErrorContext(ctx, "a licence that ends could not be dealt with", slog.String("license", e.License.String()), slog.Any("error", err))
				stuck++
				continue
			}
			if did {
				told++
			}
			if !did && !fell {
				stuck++
			}
			if fell {
				fallen++
				d.tellPool(ctx, tenant, e.License)
			}
		}
		if !fresh {
			return told, fallen, nil
		}
	}
	return told, fallen, nil
}

// note writes that a notice is given, and reports false when it was before, or when the licence does not end then any more.
func note(ctx context.Context, tx tenancy.Tx, e ending) (bool, error) {
	tag, err := tx.Exec(ctx, `
		INSERT INTO app.license_notices (tenant_id, license_id, ends_at, days)
		SELECT l.tenant_id, l.id, l.expires_at, $3
		  FROM app.licenses l
		 WHERE l.tenant_id = $1 AND l.id = $2 AND l.expires_at = $4
		ON CONFLICT DO NOTHING`, e.Tenant, e.License, e.Days, e.EndsAt)
	if err != nil {
		return false, fmt.Errorf("note a notice of license %s: %w", e.License, err)
	}
	return tag.RowsAffected() == 1, nil
}

// notice tells owners that a licence ends, or has ended.
func (d Deps) notice(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, e ending) (bool, bool, error) {
	if fresh, err := note(ctx, tx, e); err != nil || !fresh {
		return false, false, err
	}
	l, now, name, err := d.read(ctx, tx, tenant, e)
	if err != nil {
		return false, false, err
	}
	m := notify.Mail{
		Kind: notify.RenewalNotice, Key: key("renewal", e),
		Data: map[string]string{"organization": name, "plan": l.Plan, "expires_at": notify.Date(e.EndsAt)},
	}
	typ := "license.expiring"
	if e.Days == 0 {
		m.Kind, typ = notify.LicenseExpired, "license.expired"
	} else {
		m.Data["days"] = days(e.EndsAt.Sub(now))
	}
	if err := notify.QueueToOwners(ctx, tx, m); err != nil {
		return false, false, err
	}
	return true, false, notify.Event(ctx, tx, typ, "license:"+e.License.String(), l.Snapshot(now))
}

// trial reminds owners of a trial that ends, or lets it fall.
func (d Deps) trial(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, e ending) (bool, bool, error) {
	if e.Days > 0 {
		if fresh, err := note(ctx, tx, e); err != nil || !fresh {
			return false, false, err
		}
	}
	l, now, name, err := d.read(ctx, tx, tenant, e)
	if err != nil {
		return false, false, err
	}
	m := notify.Mail{Kind: notify.TrialEnding, Key: key("trial", e), Data: map[string]string{"organization": name, "plan": l.Plan}}
	if e.Days > 0 {
		m.Data["days"], m.Data["ends_at"] = days(e.EndsAt.Sub(now)), notify.Date(e.EndsAt)
		if err := notify.QueueToOwners(ctx, tx, m); err != nil {
			return false, false, err
		}
		return true, false, notify.Event(ctx, tx, "trial.ending", "license:"+e.License.String(), l.Snapshot(now))
	}
	fallen, fell, err := d.Registry.FallTrial(ctx, tx, tenant, e.License)
	if err != nil || !fell {
		return false, false, err
	}
	m.Kind = notify.TrialEnded
	if err := notify.QueueToOwners(ctx, tx, m); err != nil {
		return false, false, err
	}
	if err := notify.Event(ctx, tx, "trial.ended", "license:"+e.License.String(), fallen.Snapshot(now)); err != nil {
		return false, false, err
	}
	return false, true, audit.Record(ctx, tx, audit.Entry{
		Action: "trial.ended", Actor: "expire", Credential: "scheduler", Subject: "license:" + e.License.String(),
		Details: map[string]string{"from": l.Plan, "to": fallen.Plan},
	})
}

func (d Deps) read(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, e ending) (l license.License, now time.Time, name string, err error) {
	if l, err = license.Read(ctx, tx, tenant, e.License); err != nil {
		return l, now, name, err
	}
	if now, err = billing.StoreTime(ctx, tx); err != nil {
		return l, now, name, err
	}
	name, err = notify.Organization(ctx, tx)
	return l, now, name, err
}

// key is what a mail is about: of one the tenant gets one.
func key(about string, e ending) string {
	return fmt.Sprintf("%s %s %d %d", about, e.License, e.EndsAt.Unix(), e.Days)
}

// days are a time to come as mails say it.
func days(left time.Duration) string {
	if n := int((left + 24*time.Hour - 1) / (24 * time.Hour)); n > 1 {
		return fmt.Sprintf("%d days", n)
	}
	return "a day"
}

// drop drops what is over long enough.
func (d Deps) drop(ctx context.Context, a *Answer) error {
	// Apart: while a month is dropped nobody reads or writes the history.
	err1 := d.DB.Across(ctx, "expire: retention of sessions", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT app.drop_history($1)`, d.SessionDays).Scan(&a.MonthsDropped)
	})
	err4 := d.expireAudit(ctx, time.Now().Add(auditFor), a)
	err3 := d.DB.Across(ctx, "expire: months of the audit log", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT app.drop_audit($1)`, d.AuditDays).Scan(&a.AuditMonthsDropped)
	})
	err2 := d.DB.Across(ctx, "expire: retention of events", func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT app.expire_stripe_events()`).Scan(&a.EventsDropped)
	})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("drop what is over: %w", err)
	}
	return nil
}

// expireAudit drops entries of the audit log that are over, tenant by tenant: one whose entries cannot be dropped keeps nobody
// else's.
func (d Deps) expireAudit(ctx context.Context, until time.Time, a *Answer) error {
	failed := 0
	var last error
	for after, more := uuid.Nil, true; more; {
		var tenants []uuid.UUID
		err := d.DB.Across(ctx, "expire: tenants with old entries in the audit log", func(tx tenancy.Tx) error {
			rows, err := tx.Query(ctx, `SELECT tenant_id FROM app.old_audit_tenants($1, $2, $3)`, d.AuditDays, after, atATime)
			if err == nil {
				tenants, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("list whose audit log is old: %w", err)
		}
		for _, id := range tenants {
			for n := 1; n > 0; {
				if !time.Now().Before(until) || ctx.Err() != nil {
					return last
				}
				err := d.DB.As(ctx, tenancy.Verified(id), func(tx tenancy.Tx) error {
					return tx.QueryRow(ctx, `SELECT app.expire_audit($1)`, d.AuditDays).Scan(&n)
				})
				if err != nil {
					failed++
					last = fmt.Errorf("drop old entries of the audit log: of %d tenants they could not be: the last is %s: %w", failed, id, err)
					d.Log.ErrorContext(ctx, "old entries of a tenant's audit log could not be dropped", slog.String("tenant", id.String()), slog.Any("error", err))
					break
				}
				a.AuditEntriesDropped += n
			}
			after = id
		}
		more = len(tenants) == atATime
	}
	return last
}

// tellPool tells a licence's pool of what is committed.
func (d Deps) tellPool(ctx context.Context, tenant tenancy.ID, id uuid.UUID) {
	if err := d.Seats.Changed(ctx, tenant, id); err != nil { // the sweep tells it again
		d.Log.WarnContext(ctx, "seat pool not told of a change yet", slog.String("license", id.String()), slog.Any("error", err))
	}
}
