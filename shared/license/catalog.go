package license

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/metering"
	"github.com/coditect/usher/shared/tenancy"
)

// Product is something the operator sells.
type Product struct {
	Code, Name           string
	CreatedAt, UpdatedAt time.Time
}

// Plan is the defaults of the licences sold under it. A licence keeps its own
// copy, so a changed plan changes no licence, but for Metrics.
type Plan struct {
	Code, Product, Name      string
	MaxSeats, OverdraftSeats int
	// BorrowReserve means what it means in a License.
	BorrowReserve int
	// TTL, OfflineGrace and Drain are whole seconds, and mean what they mean in a License.
	TTL      time.Duration
	SeatPer  string
	Features []string
	Versions string
	// MaxDevices is 0 for no limit.
	MaxDevices          int
	OfflineGrace, Drain time.Duration
	// Metrics is what may be reported of its licences' use. Unlike the rest it is not copied: it holds for every licence
	// of the plan from now on.
	Metrics []Metric
	// TrialFallsTo makes it the trial tier of its product: a trial is of this plan, and falls to that one. "" for none.
	TrialFallsTo         string
	CreatedAt, UpdatedAt time.Time
}

// Metric is something whose use is counted.
type Metric struct {
	// Name is 1 to 63 lower-case letters, digits and underscores, and begins with a letter.
	Name string `json:"metric"`
	// Quota is how much a licence is expected to use in a calendar month, Cap the most; nil is none.
	Quota *int64 `json:"quota"`
	Cap   *int64 `json:"cap"`
	// CapType is soft or hard, and "" without a Cap.
	CapType string `json:"cap_type"`
}

// mostUsage is the largest quota and cap.
const mostUsage = 1_000_000_000_000_000

var metricPattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

func metricFaults(metrics []Metric) []fault.Field {
	var faults []fault.Field
	for i, m := range metrics {
		at := fmt.Sprintf("metrics[%d]", i)
		if !metricPattern.MatchString(m.Name) {
			faults = append(faults, fault.Field{Field: at + ".metric", Code: "bad_format", Detail: "A metric is 1 to 63 lower-case letters, digits and underscores, the first a letter."})
		}
		if m.Name == metering.OverdraftSeatHours {
			faults = append(faults, fault.Field{Field: at + ".metric", Code: "not_allowed", Detail: "Overdraft seats are counted of every licence. Leave this out."})
		}
		if slices.ContainsFunc(metrics[:i], func(o Metric) bool { return o.Name == m.Name }) {
			faults = append(faults, fault.Field{Field: at + ".metric", Code: "not_allowed", Detail: "It is listed before."})
		}
		for field, value := range map[string]*int64{"quota": m.Quota, "cap": m.Cap} {
			if value != nil && (*value < 1 || *value > mostUsage) {
				faults = append(faults, fault.Field{Field: at + "." + field, Code: "out_of_range", Detail: fmt.Sprintf("It is from 1 to %d.", mostUsage)})
			}
		}
		if (m.Cap == nil) != (m.CapType == "") || m.CapType != "" && m.CapType != "soft" && m.CapType != "hard" {
			faults = append(faults, fault.Field{Field: at + ".cap_type", Code: "not_allowed", Detail: "A cap is soft or hard; without a cap there is no type."})
		}
	}
	return faults
}

// longestDrain is the longest drain of a plan: a year.
const longestDrain = 365 * 24 * time.Hour

var codePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// Faults is all that is wrong with the product; nil is nothing.
func (p *Product) Faults() []fault.Field { return nameFaults(p.Code, p.Name) }

// Faults is all that is wrong with the plan, by the names that the fields have
// in a request; nil is nothing. ShortestTTL is the shortest lease that may be sold.
func (p *Plan) Faults(shortestTTL time.Duration) []fault.Field {
	faults := nameFaults(p.Code, p.Name)
	faults = append(faults, limitFaults(p.MaxSeats, p.OverdraftSeats, p.BorrowReserve, p.TTL, p.SeatPer, p.Features, p.Versions, p.MaxDevices, shortestTTL)...)
	faults = append(faults, metricFaults(p.Metrics)...)
	for _, d := range []struct {
		field string
		value time.Duration
		most  time.Duration
	}{{"offline_grace_seconds", p.OfflineGrace, receipt.Longest}, {"drain_seconds", p.Drain, longestDrain}} {
		if d.value < 0 || d.value > d.most || d.value%time.Second != 0 {
			faults = append(faults, fault.Field{Field: d.field, Code: "out_of_range", Detail: fmt.Sprintf("It is from 0 to %d.", int(d.most/time.Second))})
		}
	}
	return faults
}

func nameFaults(code, name string) []fault.Field {
	var faults []fault.Field
	if !codePattern.MatchString(code) {
		faults = append(faults, fault.Field{Field: "code", Code: "bad_format", Detail: "A code is 1 to 63 lower-case letters, digits, hyphens and underscores."})
	}
	if n := len([]rune(name)); n < 1 || n > 200 {
		faults = append(faults, fault.Field{Field: "name", Code: "out_of_range", Detail: "A name has 1 to 200 characters."})
	}
	return faults
}

// ReadProduct answers a product; fault.NotFound when there is none of that code.
func ReadProduct(ctx context.Context, tx tenancy.Tx, code string) (Product, error) {
	return readProduct(tx.QueryRow(ctx, `
		SELECT code, name, created_at, updated_at
		  FROM app.products
		 WHERE code = $1`, code), code)
}

// PutProduct makes a product or changes the one of the same code, and answers
// it. It needs the operator's role.
func PutProduct(ctx context.Context, tx tenancy.Tx, p Product) (Product, error) {
	if faults := p.Faults(); faults != nil {
		return Product{}, fault.Invalid("The product is not valid.", faults...)
	}
	return readProduct(tx.QueryRow(ctx, `
		INSERT INTO app.products (code, name)
		VALUES ($1, $2)
		ON CONFLICT (code) DO UPDATE SET name = excluded.name, updated_at = now()
		RETURNING code, name, created_at, updated_at`, p.Code, p.Name), p.Code)
}

func readProduct(row pgx.Row, code string) (Product, error) {
	var p Product
	switch err := row.Scan(&p.Code, &p.Name, &p.CreatedAt, &p.UpdatedAt); {
	case errors.Is(err, pgx.ErrNoRows):
		return Product{}, fault.NotFound("not_found", "There is no such product.")
	case err != nil:
		return Product{}, fmt.Errorf("product %q: %w", code, err)
	}
	return p, nil
}

// planColumns are what readPlan reads.
const planColumns = `
	code, product_code, name, max_seats, overdraft_seats, borrow_reserve_seats, ttl_seconds, seat_per, features, versions,
	coalesce(max_devices, 0), offline_grace_seconds, drain_seconds, coalesce(trial_falls_to, ''), created_at, updated_at,
	(SELECT coalesce(json_agg(json_build_object('metric', m.metric, 'quota', m.quota, 'cap', m.cap, 'cap_type', coalesce(m.cap_type, '')) ORDER BY m.metric), '[]')::text
	   FROM app.plan_metrics m WHERE m.plan_code = code)`

// ReadPlan answers a plan; fault.NotFound when there is none of that code.
func ReadPlan(ctx context.Context, tx tenancy.Tx, code string) (Plan, error) {
	return readPlan(tx.QueryRow(ctx, `SELECT`+planColumns+`
		  FROM app.plans
		 WHERE code = $1`, code), code)
}

// PutPlan makes a plan or changes the one of the same code, and answers it. It
// needs the operator's role. A product that is not there is a fault.Invalid.
func PutPlan(ctx context.Context, tx tenancy.Tx, p Plan, shortestTTL time.Duration) (Plan, error) {
	if faults := p.Faults(shortestTTL); faults != nil {
		return Plan{}, fault.Invalid("The plan is not valid.", faults...)
	}
	if p.TrialFallsTo != "" {
		if free, err := ReadPlan(ctx, tx, p.TrialFallsTo); err != nil && !isNotFound(err) {
			return Plan{}, err
		} else if err != nil || free.Product != p.Product || free.Code == p.Code {
			return Plan{}, fault.Invalid("The plan is not valid.", fault.Field{
				Field: "trial_falls_to", Code: "not_allowed", Detail: "A trial falls to another plan of the same product.",
			})
		}
	}
	put, err := readPlan(tx.QueryRow(ctx, `
		INSERT INTO app.plans (code, product_code, name, max_seats, overdraft_seats, ttl_seconds, seat_per, features, versions,
		                       max_devices, offline_grace_seconds, drain_seconds, borrow_reserve_seats, trial_falls_to)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, nullif($10, 0), $11, $12, $13, nullif($14, ''))
		ON CONFLICT (code) DO UPDATE SET
		    product_code = excluded.product_code, name = excluded.name, max_seats = excluded.max_seats,
		    overdraft_seats = excluded.overdraft_seats, ttl_seconds = excluded.ttl_seconds, seat_per = excluded.seat_per,
		    features = excluded.features, versions = excluded.versions, max_devices = excluded.max_devices,
		    offline_grace_seconds = excluded.offline_grace_seconds, drain_seconds = excluded.drain_seconds,
		    borrow_reserve_seats = excluded.borrow_reserve_seats, trial_falls_to = excluded.trial_falls_to, updated_at = now()
		RETURNING`+planColumns,
		p.Code, p.Product, p.Name, p.MaxSeats, p.OverdraftSeats, inSeconds(p.TTL), p.SeatPer, list(p.Features), p.Versions,
		p.MaxDevices, inSeconds(p.OfflineGrace), inSeconds(p.Drain), p.BorrowReserve, p.TrialFallsTo), p.Code)
	switch tenancy.Code(err) {
	case uniqueViolation:
		return Plan{}, fault.Invalid("The plan is not valid.", fault.Field{
			Field: "trial_falls_to", Code: "not_allowed", Detail: "Another plan is the trial tier of the product. Put that one without trial_falls_to first.",
		}).Because(err)
	case foreignKeyViolation:
		return Plan{}, fault.Invalid("The plan is not valid.", fault.Field{Field: "product", Code: "not_allowed", Detail: "There is no such product."}).Because(err)
	}
	if err != nil {
		return Plan{}, err
	}
	if err := putMetrics(ctx, tx, p.Code, p.Metrics); err != nil {
		return Plan{}, err
	}
	put.Metrics = slices.SortedFunc(slices.Values(p.Metrics), func(a, b Metric) int { return cmp.Compare(a.Name, b.Name) })
	return put, nil
}

// putMetrics makes a plan's metrics these.
func putMetrics(ctx context.Context, tx tenancy.Tx, plan string, metrics []Metric) error {
	names, quotas, caps, types := []string{}, []*int64{}, []*int64{}, []string{}
	for _, m := range metrics {
		names, quotas, caps, types = append(names, m.Name), append(quotas, m.Quota), append(caps, m.Cap), append(types, m.CapType)
	}
	err := tx.Batch(ctx, func(b *tenancy.Batch) {
		b.Queue(`DELETE FROM app.plan_metrics WHERE plan_code = $1 AND metric <> ALL ($2::text[])`, plan, names)
		b.Queue(`
			INSERT INTO app.plan_metrics (plan_code, metric, quota, cap, cap_type)
			SELECT $1, m.metric, m.quota, m.cap, nullif(m.cap_type, '')
			  FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[]) AS m (metric, quota, cap, cap_type)
			ON CONFLICT (plan_code, metric) DO UPDATE SET quota = excluded.quota, cap = excluded.cap, cap_type = excluded.cap_type`,
			plan, names, quotas, caps, types)
	})
	if err != nil {
		return fmt.Errorf("put the metrics of plan %q: %w", plan, err)
	}
	return nil
}

func readPlan(row pgx.Row, code string) (Plan, error) {
	var p Plan
	var metrics string
	err := row.Scan(&p.Code, &p.Product, &p.Name, &p.MaxSeats, &p.OverdraftSeats, &p.BorrowReserve, seconds{&p.TTL}, &p.SeatPer, &p.Features, &p.Versions,
		&p.MaxDevices, seconds{&p.OfflineGrace}, seconds{&p.Drain}, &p.TrialFallsTo, &p.CreatedAt, &p.UpdatedAt, &metrics)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Plan{}, fault.NotFound("not_found", "There is no such plan.")
	case err != nil:
		return Plan{}, fmt.Errorf("plan %q: %w", code, err)
	}
	if err := json.Unmarshal([]byte(metrics), &p.Metrics); err != nil {
		return Plan{}, fmt.Errorf("plan %q: %w", code, err)
	}
	return p, nil
}

// The SQLSTATEs of a row that points nowhere, and of one that is there already.
const (
	foreignKeyViolation = "23503"
	uniqueViolation     = "23505"
)

func isNotFound(err error) bool {
	f := fault.As(err)
	return f != nil && f.Kind == fault.KindNotFound
}

func inSeconds(d time.Duration) int { return int(d / time.Second) }

// list is never NULL.
func list(in []string) []string {
	if in == nil {
		return []string{}
	}
	return in
}
