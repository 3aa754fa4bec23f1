// Package metering counts what is used: events, each once, into sums by hour and by calendar month, held against a plan's
// quota and cap. What follows from a sum is decided by functions of values (rollup.go).
//
// The package must not know what a unit costs, nor Stripe: package billing reports the sums. Nor must it know who may send
// events: a [Source] is made from a verified credential.
package metering

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/tenancy"
)

// Source is who sends events: the holder of a session, or automation; one of Session and APIKey is uuid.Nil.
type Source struct {
	// License is the one whose use it is. uuid.Nil, which an API key may leave it at, is the licence of the tenant's
	// subscription or else its oldest, among those that are active and whose plan counts something.
	License         uuid.UUID
	Session, APIKey uuid.UUID
}

// Outcome is what became of events.
type Outcome struct {
	// Accepted were counted now, Duplicates before or twice in one request.
	Accepted, Duplicates int
	// License is whose use it is.
	License uuid.UUID
	// Beyond are the metrics whose soft cap is passed.
	Beyond []Beyond
}

// Beyond is a metric whose soft cap is passed in a month.
type Beyond struct {
	Metric    string
	Month     time.Time
	Cap, Used int64
}

// licence is whose use it is.
type licence struct {
	id, plan, planName string
	metrics            []Metric
}

// Record counts events in the transaction, as the tenant's: all that were not counted before, or none. Its errors are
// fault.Invalid, which names the events, for a metric or a time that is not allowed, fault.Forbidden for a licence that
// grants nothing, fault.NotFound for one that the tenant does not have, and fault.PaymentRequired usage_cap_reached when
// a hard cap would be passed. It may be repeated: an id counts once.
//
// Whoever counts a metric of a licence waits for others who do: the row of the month is held until the commit, so that a
// hard cap is exact.
func Record(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, from Source, events []Event) (Outcome, error) {
	l, now, err := licenseOf(ctx, tx, tenant, from.License)
	if err != nil {
		return Outcome{}, err
	}
	if wrong := Faults(events, l.metrics, now); wrong != nil {
		return Outcome{}, fault.Invalid("Some events cannot be counted. Nothing was: correct them or leave them out, and send the others again.", wrong...)
	}
	months, fresh, err := insert(ctx, tx, tenant, l, from, events)
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{Accepted: len(fresh), Duplicates: len(events) - len(fresh), License: uuid.MustParse(l.id)}
	grown := Rollup(fresh, Month)
	for i, m := range months {
		more := int64(0)
		if j := slices.IndexFunc(grown, func(s Sum) bool { return s.Metric == m.Metric && s.From.Equal(m.From) }); j >= 0 {
			more = grown[j].Quantity
		}
		metric := l.metrics[slices.IndexFunc(l.metrics, func(k Metric) bool { return k.Name == m.Metric })]
		v := metric.Decide(m.Quantity, more, m.warned)
		if v.Refused {
			return Outcome{}, fault.PaymentRequired("usage_cap_reached",
				"The plan's cap of this metric would be passed, so that no event was counted. Send fewer, wait for the next month, or ask an owner for a larger plan.").
				With("metric", m.Metric).With("cap", metric.Cap).With("used", m.Quantity).With("license_id", out.License)
		}
		if v.BeyondCap {
			out.Beyond = append(out.Beyond, Beyond{m.Metric, m.From, metric.Cap, m.Quantity + more})
		}
		months[i].Quantity += more
		if v.Warn != 0 {
			months[i].warned = v.Warn
			if err := warn(ctx, tx, l, metric, months[i]); err != nil {
				return Outcome{}, err
			}
		}
	}
	if len(fresh) == 0 {
		return out, nil
	}
	return out, write(ctx, tx, tenant, l, months, Rollup(fresh, Hour))
}

// errNothingCounted says that a key's tenant has no licence with metrics.
var errNothingCounted = fault.Forbidden("usage_not_counted", "The organisation has no active licence whose plan counts usage.")

// licenseOf finds whose use it is, and what its plan says of metrics.
func licenseOf(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (l licence, now time.Time, err error) {
	var status, tenantStatus string
	var quotas, caps []int64
	var names, types []string
	err = tx.QueryRow(ctx, `
		SELECT now(), l.id::text, l.status, t.status, p.code, p.name, m.names, m.quotas, m.caps, m.types
		  FROM app.licenses l JOIN app.tenants t ON t.id = l.tenant_id JOIN app.plans p ON p.code = l.plan_code
		  CROSS JOIN LATERAL (
		      SELECT coalesce(array_agg(metric), '{}') AS names, coalesce(array_agg(coalesce(quota, 0)), '{}') AS quotas,
		             coalesce(array_agg(coalesce(cap, 0)), '{}') AS caps, coalesce(array_agg(coalesce(cap_type, '')), '{}') AS types
		        FROM app.plan_metrics m WHERE m.plan_code = p.code) m
		 WHERE l.tenant_id = $1 AND (l.id = $2 OR $2 = '00000000-0000-0000-0000-000000000000' AND l.status = 'active' AND m.names <> '{}')
		 ORDER BY EXISTS (SELECT FROM app.subscriptions s
		                   WHERE s.tenant_id = l.tenant_id AND s.license_id = l.id AND s.status NOT IN ('canceled', 'incomplete_expired')) DESC,
		          l.created_at, l.id
		 LIMIT 1`, tenant.UUID(), id).
		Scan(&now, &l.id, &status, &tenantStatus, &l.plan, &l.planName, &names, &quotas, &caps, &types)
	switch {
	case errors.Is(err, pgx.ErrNoRows) && id == uuid.Nil:
		return l, now, errNothingCounted
	case errors.Is(err, pgx.ErrNoRows):
		return l, now, fault.NotFound("not_found", "There is no such licence.")
	case err != nil:
		return l, now, fmt.Errorf("read whose usage it is: %w", err)
	case tenantStatus != "active":
		return l, now, fault.Forbidden("tenant_suspended", "The organisation is suspended. Ask the vendor why.")
	case status != "active":
		return l, now, fault.Forbidden("license_"+status, "The licence is "+status+". Ask the vendor why.")
	}
	for i, name := range names {
		l.metrics = append(l.metrics, Metric{name, quotas[i], caps[i], types[i]})
	}
	return l, now, nil
}

// month is the sum of one, and what was warned of.
type month struct {
	Sum
	warned int
}

// insert holds the months that the events are in, and inserts the events that are new.
func insert(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, l licence, from Source, events []Event) (months []month, fresh []Event, err error) {
	var metrics, ids, names []string
	var begins, times []time.Time
	var quantities []int64
	for _, s := range Rollup(events, Month) {
		metrics, begins = append(metrics, s.Metric), append(begins, s.From)
	}
	// In the order of their ids, so that two requests with the same ones do not wait for each other.
	for _, e := range slices.SortedFunc(slices.Values(events), func(a, b Event) int { return cmp.Compare(a.ID, b.ID) }) {
		ids, names, quantities, times = append(ids, e.ID), append(names, e.Metric), append(quantities, e.Quantity), append(times, e.OccurredAt)
	}
	err = tx.Batch(ctx, func(b *tenancy.Batch) {
		b.Queue(`
			INSERT INTO app.usage_months (tenant_id, license_id, metric, month)
			SELECT $1, $2::text::uuid, m.metric, m.month FROM unnest($3::text[], $4::timestamptz[]) AS m (metric, month)
			 ORDER BY 3, 4
			ON CONFLICT DO NOTHING`, tenant.UUID(), l.id, metrics, begins)
		b.Queue(`
			SELECT m.metric, m.month, m.quantity, m.warned
			  FROM app.usage_months m JOIN unnest($3::text[], $4::timestamptz[]) AS w (metric, month) USING (metric, month)
			 WHERE m.tenant_id = $1 AND m.license_id = $2::text::uuid
			 ORDER BY m.metric, m.month
			   FOR NO KEY UPDATE OF m`, tenant.UUID(), l.id, metrics, begins).
			Query(func(rows pgx.Rows) (err error) {
				months, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m month, err error) {
					err = row.Scan(&m.Metric, &m.From, &m.Quantity, &m.warned)
					m.From = m.From.UTC()
					return m, err
				})
				return err
			})
		b.Queue(`
			INSERT INTO app.usage_events (tenant_id, id, license_id, metric, quantity, occurred_at, session_id, api_key_id)
			SELECT $1, e.id, $2::text::uuid, e.metric, e.quantity, e.occurred_at, nullif($7, '')::uuid, nullif($8, '')::uuid
			  FROM unnest($3::text[], $4::text[], $5::bigint[], $6::timestamptz[]) AS e (id, metric, quantity, occurred_at)
			ON CONFLICT DO NOTHING
			RETURNING id, metric, quantity, occurred_at`,
			tenant.UUID(), l.id, ids, names, quantities, times, text(from.Session), text(from.APIKey)).
			Query(func(rows pgx.Rows) (err error) {
				fresh, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Event, err error) {
					err = row.Scan(&e.ID, &e.Metric, &e.Quantity, &e.OccurredAt)
					return e, err
				})
				return err
			})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("count events of licence %s: %w", l.id, err)
	}
	return months, fresh, nil
}

// text is an id, or "" for none.
func text(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}

// write writes the sums.
func write(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, l licence, months []month, hours []Sum) error {
	var metrics, names []string
	var begins, at []time.Time
	var sums, quantities []int64
	var warned []int32
	for _, m := range months {
		metrics, begins, sums, warned = append(metrics, m.Metric), append(begins, m.From), append(sums, m.Quantity), append(warned, int32(m.warned))
	}
	for _, h := range hours {
		names, at, quantities = append(names, h.Metric), append(at, h.From), append(quantities, h.Quantity)
	}
	err := tx.Batch(ctx, func(b *tenancy.Batch) {
		b.Queue(`
			UPDATE app.usage_months m
			   SET quantity = n.quantity, warned = n.warned
			  FROM unnest($3::text[], $4::timestamptz[], $5::bigint[], $6::int[]) AS n (metric, month, quantity, warned)
			 WHERE m.tenant_id = $1 AND m.license_id = $2::text::uuid AND m.metric = n.metric AND m.month = n.month`,
			tenant.UUID(), l.id, metrics, begins, sums, warned)
		b.Queue(`
			INSERT INTO app.usage_hours AS h (tenant_id, license_id, metric, hour, quantity)
			SELECT $1, $2::text::uuid, n.metric, n.hour, n.quantity
			  FROM unnest($3::text[], $4::timestamptz[], $5::bigint[]) AS n (metric, hour, quantity)
			ON CONFLICT (tenant_id, license_id, metric, hour) DO UPDATE SET quantity = h.quantity + excluded.quantity`,
			tenant.UUID(), l.id, names, at, quantities)
	})
	if err != nil {
		return fmt.Errorf("write the sums of licence %s: %w", l.id, err)
	}
	return nil
}

// Warning is what webhooks hear of a quota, in the event usage.warned.
type Warning struct {
	LicenseID uuid.UUID `json:"license_id"`
	Plan      string    `json:"plan"`
	Metric    string    `json:"metric"`
	Month     time.Time `json:"month"`
	Percent   int       `json:"percent"`
	Used      int64     `json:"used"`
	Quota     int64     `json:"quota"`
	// Cap is 0, and CapType "", when there is none.
	Cap     int64  `json:"cap"`
	CapType string `json:"cap_type"`
}

// warn tells owners and other systems of a month's quota.
func warn(ctx context.Context, tx tenancy.Tx, l licence, metric Metric, m month) error {
	organization, err := notify.Organization(ctx, tx)
	if err != nil {
		return err
	}
	then := "Nothing is stopped: more is counted, and billed as your plan says."
	switch metric.CapType {
	case HardCap:
		then = fmt.Sprintf("At %d in a month no more is accepted.", metric.Cap)
	case SoftCap:
		then = fmt.Sprintf("Nothing is stopped. Beyond %d in a month the application is told so.", metric.Cap)
	}
	err = notify.QueueToOwners(ctx, tx, notify.Mail{
		Kind: notify.UsageWarning, Key: fmt.Sprintf("usage:%s:%s:%s:%d", l.id, metric.Name, m.From.Format("2006-01"), m.warned),
		Data: map[string]string{
			"organization": organization, "plan": l.planName, "metric": metric.Name, "month": m.From.Format("January 2006"), "cap": then,
			"percent": strconv.Itoa(m.warned), "used": strconv.FormatInt(m.Quantity, 10), "quota": strconv.FormatInt(metric.Quota, 10),
		},
	})
	if err != nil {
		return err
	}
	return notify.Event(ctx, tx, "usage.warned", "license:"+l.id, Warning{
		LicenseID: uuid.MustParse(l.id), Plan: l.plan, Metric: metric.Name, Month: m.From, Percent: m.warned, Used: m.Quantity, Quota: metric.Quota,
		Cap: metric.Cap, CapType: metric.CapType,
	})
}
