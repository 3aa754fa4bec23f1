package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// License is what a tenant was sold.
type License struct {
	ID                 uuid.UUID   `json:"id"`
	TenantID           uuid.UUID   `json:"tenant_id"`
	Product            string      `json:"product"`
	Plan               string      `json:"plan"`
	Status             string      `json:"status" enum:"active,suspended,revoked"`
	StatusReason       *string     `json:"status_reason" doc:"Why the status is what it is, when somebody said so."`
	EffectiveStatus    string      `json:"effective_status" enum:"active,not_started,trialing,in_grace,expired,suspended,revoked" doc:"The status, or what the dates make of an active licence."`
	MaxSeats           int         `json:"max_seats"`
	OverdraftSeats     int         `json:"overdraft_seats"`
	BorrowReserveSeats int         `json:"borrow_reserve_seats" doc:"So many of max_seats are never borrowed."`
	ActiveSeats        int         `json:"active_seats" doc:"How many sessions hold a seat now."`
	TTLSeconds         int64       `json:"ttl_seconds" doc:"The life of a lease."`
	SeatPer            string      `json:"seat_per" enum:"device,user,instance"`
	Features           []string    `json:"features"`
	Versions           string      `json:"versions" doc:"A range such as >=2.0 <4.0; empty: every version."`
	MaxDevices         *int        `json:"max_devices" doc:"Null: no limit."`
	AllowedHardware    []string    `json:"allowed_hardware" doc:"Empty: every device."`
	StartsAt           *httpx.Time `json:"starts_at"`
	ExpiresAt          *httpx.Time `json:"expires_at"`
	GraceUntil         *httpx.Time `json:"grace_until"`
	OnTrial            bool        `json:"on_trial" doc:"A trial, until expires_at."`
	KeyHint            string      `json:"key_hint" doc:"The first and last characters of the newest key."`
	CreatedAt          httpx.Time  `json:"created_at"`
	UpdatedAt          httpx.Time  `json:"updated_at"`
}

// LicenseAndKey is a licence and its new key.
type LicenseAndKey struct {
	License    License `json:"license"`
	LicenseKey string  `json:"license_key" doc:"Shown this once."`
}

// LicenseTerms are what may be said of a licence and need not. Null is no limit, or no date.
type LicenseTerms struct {
	OverdraftSeats     *int                     `json:"overdraft_seats,omitempty" minimum:"0" maximum:"1000000"`
	BorrowReserveSeats *int                     `json:"borrow_reserve_seats,omitempty" minimum:"0" maximum:"1000000" doc:"So many of max_seats are never borrowed."`
	TTLSeconds         *int64                   `json:"ttl_seconds,omitempty" minimum:"1" maximum:"86400" doc:"The life of a lease."`
	SeatPer            *string                  `json:"seat_per,omitempty" enum:"device,user,instance"`
	Features           *[]string                `json:"features,omitempty" maxItems:"200"`
	Versions           *string                  `json:"versions,omitempty" maxLength:"255" doc:"A range such as >=2.0 <4.0; empty: every version."`
	MaxDevices         httpx.Change[int]        `json:"max_devices,omitzero" minimum:"1" maximum:"1000000"`
	AllowedHardware    *[]string                `json:"allowed_hardware,omitempty" doc:"Empty: every device."`
	StartsAt           httpx.Change[httpx.Time] `json:"starts_at,omitzero"`
	ExpiresAt          httpx.Change[httpx.Time] `json:"expires_at,omitzero"`
	GraceUntil         httpx.Change[httpx.Time] `json:"grace_until,omitzero"`
}

// LicenseRequest makes a licence. What is left out is as the plan says.
type LicenseRequest struct {
	Plan     string `json:"plan" minLength:"1" maxLength:"63"`
	MaxSeats int    `json:"max_seats" minimum:"1" maximum:"1000000"`
	LicenseTerms
}

// LicenseChange alters a licence; what is left out stays as it is, also under another plan.
type LicenseChange struct {
	Plan     *string `json:"plan,omitempty" minLength:"1" maxLength:"63"`
	MaxSeats *int    `json:"max_seats,omitempty" minimum:"1" maximum:"1000000"`
	LicenseTerms
}

// Reason says why something is done to somebody.
type Reason struct {
	Reason string `json:"reason" minLength:"1" maxLength:"500"`
}

// usualOverlap is how long a rotated key lives on when nobody says.
const usualOverlap = 24 * time.Hour

// Rotation replaces a key.
type Rotation struct {
	OverlapSeconds *int64 `json:"overlap_seconds,omitempty" minimum:"0" maximum:"2592000" doc:"How long the old key lives on: a day when left out, so that applications can be given the new one; 0 ends a leaked key at once."`
}

var licenseRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/licenses", ID: "list_licenses",
		Summary: "List licences", Description: "In the order in which they were made.",
		Query:   TenantPaging{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Page[License]{}}},
	}, do: Deps.listLicenses,
}, {
	Route: httpx.Route{
		Method: "GET", Path: "/v1/licenses/{id}", ID: "show_license",
		Summary: "Show a licence",
		Query:   TenantQuery{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: License{}}},
	}, do: Deps.showLicense,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/licenses", ID: "create_license",
		Summary: "Sell a licence", Description: "Makes an active licence and its first key. The operator's.",
		Query: TenantQuery{}, Body: LicenseRequest{}, Idempotent: true,
		Replies: []httpx.Doc{{Status: http.StatusCreated, Body: LicenseAndKey{}}},
	}, do: Deps.createLicense,
}, {
	Route: httpx.Route{
		Method: "PATCH", Path: "/v1/licenses/{id}", ID: "change_license",
		Summary: "Change a licence", Description: "The operator's. Sessions above a reduced number of seats drain.",
		Query: TenantQuery{}, Body: LicenseChange{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: License{}}},
		Problems: []int{http.StatusConflict},
	}, do: Deps.changeLicense,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/licenses/{id}/suspend", ID: "suspend_license",
		Summary: "Suspend a licence", Description: "The operator's. Its sessions end, and none begins until it is reinstated.",
		Query: TenantQuery{}, Body: Reason{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: License{}}},
		Problems: []int{http.StatusConflict},
	}, do: withReason("license.suspended", license.Suspend),
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/licenses/{id}/reinstate", ID: "reinstate_license",
		Summary: "Reinstate a suspended licence", Description: "The operator's.",
		Query:    TenantQuery{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: License{}}},
		Problems: []int{http.StatusConflict},
	}, do: Deps.reinstate,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/licenses/{id}/revoke", ID: "revoke_license",
		Summary: "Revoke a licence", Description: "The operator's. Its sessions end; it cannot be undone.",
		Query: TenantQuery{}, Body: Reason{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: License{}}},
	}, do: withReason("license.revoked", license.Revoke),
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/licenses/{id}/rotate-key", ID: "rotate_license_key",
		Summary: "Replace a licence's key", Description: "The sessions that the old key opened go on.",
		Query: TenantQuery{}, Body: Rotation{}, BodyOptional: true, Idempotent: true,
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: LicenseAndKey{}}},
		Problems: []int{http.StatusConflict},
	}, do: Deps.rotateKey,
}}

func licenseOf(l *license.License, activeSeats int, now time.Time) License {
	return License{
		ID: l.ID, TenantID: l.Tenant.UUID(), Product: l.Product, Plan: l.Plan,
		Status: l.Status, StatusReason: orNull(l.StatusReason), EffectiveStatus: l.EffectiveStatus(now),
		MaxSeats: l.MaxSeats, OverdraftSeats: l.OverdraftSeats, BorrowReserveSeats: l.BorrowReserve, ActiveSeats: activeSeats, TTLSeconds: seconds(l.TTL), SeatPer: l.SeatPer,
		Features: l.Features, Versions: l.Versions, MaxDevices: orUnlimited(l.MaxDevices), AllowedHardware: l.AllowedHardware,
		StartsAt: httpx.AtOrNull(l.StartsAt), ExpiresAt: httpx.AtOrNull(l.ExpiresAt), GraceUntil: httpx.AtOrNull(l.GraceUntil), OnTrial: l.OnTrial,
		KeyHint: l.KeyHint, CreatedAt: httpx.At(l.CreatedAt), UpdatedAt: httpx.At(l.UpdatedAt),
	}
}

func (d Deps) listLicenses(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q TenantPaging
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	after, err := q.after(uuid.Nil)
	if err != nil {
		return httpx.Reply{}, err
	}
	var rows []license.License
	var now time.Time
	err = d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		if rows, err = license.List(c.Context(), tx, who.tenant, after, q.more()); err != nil {
			return err
		}
		now, err = storeTime(c.Context(), tx)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	rows, next := cut(rows, q.Paging, func(l *license.License) uuid.UUID { return l.ID })
	ids := make([]uuid.UUID, len(rows))
	for i := range rows {
		ids[i] = rows[i].ID
	}
	active, err := d.activeSeats(c.Context(), who.tenant, ids...)
	if err != nil {
		return httpx.Reply{}, err
	}
	page := Page[License]{Items: make([]License, len(rows)), NextCursor: next}
	for i := range rows {
		page.Items[i] = licenseOf(&rows[i], active[i], now)
	}
	return httpx.Reply{Body: page}, nil
}

func (d Deps) showLicense(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := c.DecodeQuery(&TenantQuery{}); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.findLicense(c, who, id))
	}
	var l license.License
	var now time.Time
	err = d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) error {
		l, now, err = readLicense(c.Context(), tx, who.tenant, id)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return d.license(c, &l, now)
}

func (d Deps) createLicense(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q LicenseRequest
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, err
	}
	var made uuid.UUID
	reply, err := d.once(c, who, func(tx tenancy.Tx) (int, any, error) {
		plan, err := license.ReadPlan(c.Context(), tx, q.Plan)
		if f := fault.As(err); f != nil && f.Kind == fault.KindNotFound {
			return 0, nil, fault.Invalid("The licence is not valid.", fault.Field{Field: "plan", Code: "not_allowed", Detail: "There is no such plan."})
		} else if err != nil {
			return 0, nil, err
		}
		terms := plan.Terms()
		terms.MaxSeats = q.MaxSeats
		q.apply(&terms)
		l, key, err := d.Registry.Create(c.Context(), tx, who.tenant, terms)
		if err != nil {
			return 0, nil, err
		}
		now, err := storeTime(c.Context(), tx)
		if err != nil {
			return 0, nil, err
		}
		made = l.ID
		if err := licenseEvent(c.Context(), tx, "license.created", &l, now); err != nil {
			return 0, nil, err
		}
		err = audit.Record(c.Context(), tx, who.act(c, "license.created", licenseSubject(l.ID), asSent(c)))
		return http.StatusCreated, LicenseAndKey{License: licenseOf(&l, 0, now), LicenseKey: key.Reveal()}, err
	})
	if err == nil && made != uuid.Nil {
		d.tellPool(c, who.tenant, made)
	}
	return reply, err
}

// apply alters the terms by what was said.
func (q *LicenseTerms) apply(t *license.Terms) {
	t.OverdraftSeats = or(q.OverdraftSeats, t.OverdraftSeats)
	t.BorrowReserve = or(q.BorrowReserveSeats, t.BorrowReserve)
	t.TTL = duration(q.TTLSeconds, t.TTL)
	t.SeatPer = or(q.SeatPer, t.SeatPer)
	t.Features = or(q.Features, t.Features)
	t.Versions = or(q.Versions, t.Versions)
	if q.MaxDevices.Given {
		t.MaxDevices = or(q.MaxDevices.Value, 0)
	}
	t.AllowedHardware = or(q.AllowedHardware, t.AllowedHardware)
	t.StartsAt = date(q.StartsAt, t.StartsAt)
	t.ExpiresAt = date(q.ExpiresAt, t.ExpiresAt)
	t.GraceUntil = date(q.GraceUntil, t.GraceUntil)
}

// date is what was given, which may be none, or what it is when left out.
func date(given httpx.Change[httpx.Time], otherwise *time.Time) *time.Time {
	if given.Given {
		return given.Value.Or()
	}
	return otherwise
}

func (d Deps) changeLicense(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var q LicenseChange
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.findLicense(c, who, id))
	}
	return d.change(c, who, "license.changed", func(ctx context.Context, tx tenancy.Tx) (license.License, error) {
		return d.Registry.Change(ctx, tx, who.tenant, id, func(t *license.Terms) error {
			t.Plan = or(q.Plan, t.Plan)
			t.MaxSeats = or(q.MaxSeats, t.MaxSeats)
			q.apply(t)
			return nil
		})
	})
}

// withReason handles a verb that ends what a licence grants.
func withReason(action string, verb func(context.Context, tenancy.Tx, tenancy.ID, uuid.UUID, string, string) (license.License, error)) func(Deps, *httpx.Call, caller) (httpx.Reply, error) {
	return func(d Deps, c *httpx.Call, who caller) (httpx.Reply, error) {
		id, err := c.PathUUID("id")
		if err != nil {
			return httpx.Reply{}, err
		}
		var q Reason
		if err := decode(c, &TenantQuery{}, &q); err != nil {
			return httpx.Reply{}, unlessMissing(err, d.findLicense(c, who, id))
		}
		return d.change(c, who, action, func(ctx context.Context, tx tenancy.Tx) (license.License, error) {
			return verb(ctx, tx, who.tenant, id, q.Reason, who.By())
		})
	}
}

func (d Deps) reinstate(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := decode(c, &TenantQuery{}, nil); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.findLicense(c, who, id))
	}
	return d.change(c, who, "license.reinstated", func(ctx context.Context, tx tenancy.Tx) (license.License, error) {
		return license.Reinstate(ctx, tx, who.tenant, id, who.By())
	})
}

func (d Deps) rotateKey(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var q Rotation
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.findLicense(c, who, id))
	}
	active, err := d.activeSeats(c.Context(), who.tenant, id)
	if err != nil {
		return httpx.Reply{}, err
	}
	reply, err := d.once(c, who, func(tx tenancy.Tx) (int, any, error) {
		l, key, err := d.Registry.RotateKey(c.Context(), tx, who.tenant, id, duration(q.OverlapSeconds, usualOverlap))
		if err != nil {
			return 0, nil, err
		}
		now, err := storeTime(c.Context(), tx)
		if err != nil {
			return 0, nil, err
		}
		if err := licenseEvent(c.Context(), tx, "license.key_rotated", &l, now); err != nil {
			return 0, nil, err
		}
		err = audit.Record(c.Context(), tx, who.act(c, "license_key.rotated", licenseSubject(id), asSent(c)))
		return http.StatusOK, LicenseAndKey{License: licenseOf(&l, active[0], now), LicenseKey: key.Reveal()}, err
	})
	if err == nil {
		d.tellPool(c, who.tenant, id)
	}
	return reply, err
}

// change changes a licence and records it, tells its pool, and answers it as it is then.
func (d Deps) change(c *httpx.Call, who caller, action string, act func(context.Context, tenancy.Tx) (license.License, error)) (httpx.Reply, error) {
	var l license.License
	var now time.Time
	err := d.DB.As(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		if l, err = act(c.Context(), tx); err != nil {
			return err
		}
		if now, err = storeTime(c.Context(), tx); err != nil {
			return err
		}
		if err := licenseEvent(c.Context(), tx, action, &l, now); err != nil {
			return err
		}
		return audit.Record(c.Context(), tx, who.act(c, action, licenseSubject(l.ID), asSent(c)))
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	d.tellPool(c, who.tenant, l.ID)
	return d.license(c, &l, now)
}

// licenseEvent tells of what became of a licence: webhooks and, of a suspension, its tenant's owners.
func licenseEvent(ctx context.Context, tx tenancy.Tx, action string, l *license.License, now time.Time) error {
	if action == "license.suspended" {
		name, err := notify.Organization(ctx, tx)
		if err != nil {
			return err
		}
		err = notify.QueueToOwners(ctx, tx, notify.Mail{
			Kind: notify.LicenseSuspended, Key: fmt.Sprintf("suspended %s %d", l.ID, l.UpdatedAt.UnixMicro()),
			Data: map[string]string{"organization": name, "plan": l.Plan, "reason": l.StatusReason},
		})
		if err != nil {
			return err
		}
	}
	return notify.Event(ctx, tx, action, licenseSubject(l.ID), l.Snapshot(now))
}

// license answers a licence.
func (d Deps) license(c *httpx.Call, l *license.License, now time.Time) (httpx.Reply, error) {
	active, err := d.activeSeats(c.Context(), l.Tenant, l.ID)
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: licenseOf(l, active[0], now)}, nil
}

// findLicense says whether the licence is there.
func (d Deps) findLicense(c *httpx.Call, who caller, id uuid.UUID) func() error {
	return func() error {
		return d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) error {
			_, err := license.Read(c.Context(), tx, who.tenant, id)
			return err
		})
	}
}

// readLicense reads a licence, and the database's clock.
func readLicense(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (l license.License, now time.Time, err error) {
	if l, err = license.Read(ctx, tx, tenant, id); err != nil {
		return l, now, err
	}
	now, err = storeTime(ctx, tx)
	return l, now, err
}

// storeTime is the database's clock, by which licences begin and end.
func storeTime(ctx context.Context, tx tenancy.Tx) (now time.Time, err error) {
	if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return now, fmt.Errorf("read the database's clock: %w", err)
	}
	return now, nil
}

// tellPool tells a licence's seat pool that the licence changed. That is committed, and in the outbox: what cannot be
// told now the sweep tells.
func (d Deps) tellPool(c *httpx.Call, tenant tenancy.ID, id uuid.UUID) {
	c.Note(slog.String("license", id.String()))
	if err := d.Seats.Changed(c.Context(), tenant, id); err != nil {
		d.Log.WarnContext(c.Context(), "a seat pool was not told of a change yet", slog.String("license", id.String()), slog.Any("error", err))
	}
}

// activeSeats counts the sessions of each licence, as their pools do; when Redis cannot answer, by the rows, which still
// count a session that lapsed until the sweep has seen it.
func (d Deps) activeSeats(ctx context.Context, tenant tenancy.ID, licenses ...uuid.UUID) ([]int, error) {
	counts := make([]int, len(licenses))
	look, lookCtx := errgroup.WithContext(ctx)
	look.SetLimit(atOnce)
	for i, id := range licenses {
		look.Go(func() error {
			sight, err := d.Seats.Peek(lookCtx, tenant, id)
			counts[i] = sight.Counts.Active
			return err
		})
	}
	err := look.Wait()
	if err == nil {
		return counts, nil
	}
	if f := fault.As(err); f == nil || f.Kind != fault.KindUnavailable {
		return nil, err
	}
	d.Log.WarnContext(ctx, "seats are counted without their pools", slog.Any("error", err))
	open, err := d.openSeats(ctx, tenant, licenses)
	for i, id := range licenses {
		counts[i] = open[id]
	}
	return counts, err
}

// openSeats counts the rows of open sessions by licence.
func (d Deps) openSeats(ctx context.Context, tenant tenancy.ID, licenses []uuid.UUID) (map[uuid.UUID]int, error) {
	texts := make([]string, len(licenses))
	for i, id := range licenses {
		texts[i] = id.String()
	}
	counts := make(map[uuid.UUID]int, len(licenses))
	err := d.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT license_id, count(*)
			  FROM app.open_sessions
			 WHERE tenant_id = $1 AND license_id = ANY ($2::text[]::uuid[])
			 GROUP BY license_id`, tenant.UUID(), texts)
		if err != nil {
			return err
		}
		var id uuid.UUID
		var n int
		_, err = pgx.ForEachRow(rows, []any{&id, &n}, func() error {
			counts[id] = n
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count the open sessions of tenant %s: %w", tenant, err)
	}
	return counts, nil
}
