package admin

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// Product is something that the operator sells.
type Product struct {
	Code      string     `json:"code"`
	Name      string     `json:"name"`
	CreatedAt httpx.Time `json:"created_at"`
	UpdatedAt httpx.Time `json:"updated_at"`
}

// ProductRequest says what a product is to be.
type ProductRequest struct {
	Name string `json:"name,omitempty" minLength:"1" maxLength:"200" doc:"The code when left out."`
}

// Plan is the defaults of the licences sold under it.
type Plan struct {
	Code                string     `json:"code"`
	Product             string     `json:"product"`
	Name                string     `json:"name"`
	MaxSeats            int        `json:"max_seats"`
	OverdraftSeats      int        `json:"overdraft_seats"`
	BorrowReserveSeats  int        `json:"borrow_reserve_seats" doc:"So many of max_seats are never borrowed."`
	TTLSeconds          int64      `json:"ttl_seconds"`
	SeatPer             string     `json:"seat_per" enum:"device,user,instance"`
	Features            []string   `json:"features"`
	Versions            string     `json:"versions"`
	MaxDevices          *int       `json:"max_devices" doc:"Null: no limit."`
	OfflineGraceSeconds int64      `json:"offline_grace_seconds"`
	DrainSeconds        int64      `json:"drain_seconds"`
	Metrics             []Metric   `json:"metrics" doc:"What may be reported of its licences' use. Holds for every licence of the plan, sold or to be sold."`
	TrialFallsTo        *string    `json:"trial_falls_to" doc:"The plan is its product's trial tier: a trial is of it, and falls to this plan. Null: no trial."`
	CreatedAt           httpx.Time `json:"created_at"`
	UpdatedAt           httpx.Time `json:"updated_at"`
}

// Metric is something whose use is counted, and how much of it a licence may use in a calendar month (UTC).
type Metric struct {
	Metric  string  `json:"metric"`
	Quota   *int64  `json:"quota" doc:"So much is expected: owners are warned at 80 and 100 %. Null: none."`
	Cap     *int64  `json:"cap" doc:"The most. Null: none."`
	CapType *string `json:"cap_type" enum:"soft,hard" doc:"What becomes of more: soft, it is counted with a warning; hard, it is refused. Null without a cap."`
}

// MetricRequest says what a metric is to be.
type MetricRequest struct {
	Metric  string  `json:"metric" minLength:"1" maxLength:"63" doc:"Lower-case letters, digits and underscores; the first is a letter."`
	Quota   *int64  `json:"quota,omitempty" nullable:"true" minimum:"1" maximum:"1000000000000000" doc:"So much is expected; none when null or left out."`
	Cap     *int64  `json:"cap,omitempty" nullable:"true" minimum:"1" maximum:"1000000000000000" doc:"The most; none when null or left out."`
	CapType *string `json:"cap_type,omitempty" nullable:"true" enum:"soft,hard" doc:"What becomes of more: soft, it is counted with a warning; hard, it is refused. With a cap, and only then."`
}

// PlanRequest says what a plan is to be; what is left out gets its default.
type PlanRequest struct {
	Product             string          `json:"product" minLength:"1" maxLength:"63"`
	Name                string          `json:"name,omitempty" minLength:"1" maxLength:"200" doc:"The code when left out."`
	MaxSeats            *int            `json:"max_seats,omitempty" minimum:"1" maximum:"1000000" doc:"1 when left out."`
	OverdraftSeats      *int            `json:"overdraft_seats,omitempty" minimum:"0" maximum:"1000000" doc:"0 when left out."`
	BorrowReserveSeats  *int            `json:"borrow_reserve_seats,omitempty" minimum:"0" maximum:"1000000" doc:"So many of max_seats are never borrowed; 0 when left out."`
	TTLSeconds          *int64          `json:"ttl_seconds,omitempty" minimum:"1" maximum:"86400" doc:"The life of a lease; 360 when left out."`
	SeatPer             string          `json:"seat_per,omitempty" enum:"device,user,instance" doc:"Who holds a seat; device when left out."`
	Features            []string        `json:"features,omitempty" maxItems:"200"`
	Versions            string          `json:"versions,omitempty" maxLength:"255" doc:"A range such as >=2.0 <4.0; every version when left out."`
	MaxDevices          *int            `json:"max_devices,omitempty" nullable:"true" minimum:"1" maximum:"1000000" doc:"No limit when null or left out."`
	OfflineGraceSeconds *int64          `json:"offline_grace_seconds,omitempty" minimum:"0" maximum:"604800" doc:"The life of a validate receipt, and the longest borrow; 86400 when left out."`
	DrainSeconds        *int64          `json:"drain_seconds,omitempty" minimum:"0" maximum:"31536000" doc:"How long sessions above a reduced number of seats may go on; 86400 when left out."`
	Metrics             []MetricRequest `json:"metrics,omitempty" maxItems:"50" doc:"What may be reported of its licences' use; nothing when left out."`
	TrialFallsTo        string          `json:"trial_falls_to,omitempty" maxLength:"63" doc:"Makes it the trial tier of its product, whose trials fall to this plan of the same product when they are over; none when left out."`
}

var catalogRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/catalog/products/{code}", ID: "show_product",
		Summary: "Show a product",
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Product{}}},
	}, do: Deps.showProduct,
}, {
	Route: httpx.Route{
		Method: "PUT", Path: "/v1/catalog/products/{code}", ID: "put_product",
		Summary: "Make or change a product",
		Body:    ProductRequest{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Product{}, Description: "The product is as the request says, new or not."}},
	}, do: Deps.putProduct,
}, {
	Route: httpx.Route{
		Method: "GET", Path: "/v1/catalog/plans/{code}", ID: "show_plan",
		Summary: "Show a plan",
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Plan{}}},
	}, do: Deps.showPlan,
}, {
	Route: httpx.Route{
		Method: "PUT", Path: "/v1/catalog/plans/{code}", ID: "put_plan",
		Summary: "Make or change a plan", Description: "Changes no licence that was sold under it, but for metrics: they hold for all.",
		Body:    PlanRequest{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Plan{}, Description: "The plan is as the request says, new or not."}},
	}, do: Deps.putPlan,
}}

func productOf(p *license.Product) Product {
	return Product{Code: p.Code, Name: p.Name, CreatedAt: httpx.At(p.CreatedAt), UpdatedAt: httpx.At(p.UpdatedAt)}
}

func planOf(p *license.Plan) Plan {
	return Plan{
		Code: p.Code, Product: p.Product, Name: p.Name, MaxSeats: p.MaxSeats, OverdraftSeats: p.OverdraftSeats, BorrowReserveSeats: p.BorrowReserve,
		TTLSeconds: seconds(p.TTL), SeatPer: p.SeatPer, Features: p.Features, Versions: p.Versions, MaxDevices: orUnlimited(p.MaxDevices),
		OfflineGraceSeconds: seconds(p.OfflineGrace), DrainSeconds: seconds(p.Drain), Metrics: metricsOf(p.Metrics), TrialFallsTo: orNull(p.TrialFallsTo),
		CreatedAt: httpx.At(p.CreatedAt), UpdatedAt: httpx.At(p.UpdatedAt),
	}
}

func metricsOf(metrics []license.Metric) []Metric {
	shown := make([]Metric, len(metrics))
	for i, m := range metrics {
		shown[i] = Metric{Metric: m.Name, Quota: m.Quota, Cap: m.Cap}
		if m.CapType != "" {
			shown[i].CapType = &m.CapType
		}
	}
	return shown
}

// metricsAsked are a request's metrics.
func metricsAsked(metrics []MetricRequest) []license.Metric {
	asked := make([]license.Metric, len(metrics))
	for i, m := range metrics {
		asked[i] = license.Metric{Name: m.Metric, Quota: m.Quota, Cap: m.Cap, CapType: or(m.CapType, "")}
	}
	return asked
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// duration is a number of whole seconds, or what it is when left out.
func duration(seconds *int64, otherwise time.Duration) time.Duration {
	if seconds == nil {
		return otherwise
	}
	return time.Duration(*seconds) * time.Second
}

// orUnlimited shows a number of devices, of which zero is no limit.
func orUnlimited(devices int) *int {
	if devices == 0 {
		return nil
	}
	return &devices
}

// or is what p points to, or what it is when left out.
func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func (d Deps) showProduct(c *httpx.Call, who caller) (httpx.Reply, error) {
	code, err := pathCode(c)
	if err != nil {
		return httpx.Reply{}, err
	}
	var p license.Product
	err = d.Operator.AsReadOnly(c.Context(), who.Tenant, func(tx tenancy.Tx) (err error) {
		p, err = license.ReadProduct(c.Context(), tx, code)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: productOf(&p)}, nil
}

func (d Deps) putProduct(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q ProductRequest
	if err := decode(c, nil, &q); err != nil {
		return httpx.Reply{}, err
	}
	p := license.Product{Code: c.PathValue("code"), Name: cmp.Or(q.Name, c.PathValue("code"))}
	err := d.Operator.As(c.Context(), who.Tenant, func(tx tenancy.Tx) (err error) {
		if p, err = license.PutProduct(c.Context(), tx, p); err != nil {
			return err
		}
		return audit.Record(c.Context(), tx, who.act(c, "catalog.product_put", "product:"+p.Code, asSent(c)))
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: productOf(&p)}, nil
}

func (d Deps) showPlan(c *httpx.Call, who caller) (httpx.Reply, error) {
	code, err := pathCode(c)
	if err != nil {
		return httpx.Reply{}, err
	}
	var p license.Plan
	err = d.Operator.AsReadOnly(c.Context(), who.Tenant, func(tx tenancy.Tx) (err error) {
		p, err = license.ReadPlan(c.Context(), tx, code)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := c.DecodeQuery(nil); err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: planOf(&p)}, nil
}

func (d Deps) putPlan(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q PlanRequest
	if err := decode(c, nil, &q); err != nil {
		return httpx.Reply{}, err
	}
	p := license.Plan{
		Code: c.PathValue("code"), Product: q.Product, Name: cmp.Or(q.Name, c.PathValue("code")),
		MaxSeats: or(q.MaxSeats, 1), OverdraftSeats: or(q.OverdraftSeats, 0), BorrowReserve: or(q.BorrowReserveSeats, 0), TTL: duration(q.TTLSeconds, 6*time.Minute),
		SeatPer: cmp.Or(q.SeatPer, license.PerDevice), Features: q.Features, Versions: q.Versions, MaxDevices: or(q.MaxDevices, 0),
		OfflineGrace: duration(q.OfflineGraceSeconds, 24*time.Hour), Drain: duration(q.DrainSeconds, 24*time.Hour), TrialFallsTo: q.TrialFallsTo,
		Metrics: metricsAsked(q.Metrics),
	}
	err := d.Operator.As(c.Context(), who.Tenant, func(tx tenancy.Tx) (err error) {
		if p, err = license.PutPlan(c.Context(), tx, p, d.Registry.ShortestTTL()); err != nil {
			return err
		}
		return audit.Record(c.Context(), tx, who.act(c, "catalog.plan_put", "plan:"+p.Code, asSent(c)))
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: planOf(&p)}, nil
}

// pathCode is the code in the path. What holds a character that no code has is not there.
func pathCode(c *httpx.Call) (string, error) {
	code := c.PathValue("code")
	if strings.Trim(code, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		return "", fault.NotFound("not_found", "There is nothing in the catalogue by that code.")
	}
	return code, nil
}

// decode reads the query and the body.
func decode(c *httpx.Call, query, body any) error {
	if err := c.DecodeQuery(query); err != nil {
		return err
	}
	return c.Decode(body)
}
