package admin

import (
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

// SeatReport is how the seats of a licence were used.
type SeatReport struct {
	LicenseID uuid.UUID  `json:"license_id"`
	From      httpx.Time `json:"from" doc:"The beginning of the first hour."`
	To        httpx.Time `json:"to" doc:"The end of the last hour."`
	SeatUse
	Hours []SeatHour `json:"hours" doc:"In their order. An hour in which nobody sat or asked for a seat is left out. The hour that runs is as far as it was counted, a minute or so ago."`
}

// SeatUse is how seats were used in some time.
type SeatUse struct {
	Peak        int `json:"peak" doc:"The most seats that were taken at one time."`
	Denials     int `json:"denials" doc:"How many holders found no seat free, those that wait in the queue too; each counted once an hour, however often it asked."`
	SeatsNeeded int `json:"seats_needed" doc:"How many seats would have denied nobody: the most holders at one time that sat, or had been denied within the hour and not got a seat since."`
}

// SeatHour is an hour of the report.
type SeatHour struct {
	Hour httpx.Time `json:"hour" doc:"When it began."`
	SeatUse
}

// SeatReportQuery says which report is asked for.
type SeatReportQuery struct {
	TenantQuery
	LicenseID uuid.UUID   `query:"license_id" required:"true" doc:"Of this licence."`
	From      *httpx.Time `query:"from" doc:"From the hour that holds this time; a week before the end when left out."`
	To        *httpx.Time `query:"to" doc:"Up to this time; now when left out. At most 366 days after from."`
}

const (
	usualReport   = 7 * 24 * time.Hour
	longestReport = 366 * 24 * time.Hour
)

var reportRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/reports/seats", ID: "report_seats",
		Summary: "Report how a licence's seats were used, hour by hour",
		Query:   SeatReportQuery{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: SeatReport{}}},
	}, do: Deps.reportSeats,
}}

func (d Deps) reportSeats(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q SeatReportQuery
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	if err := d.findLicense(c, who, q.LicenseID)(); err != nil {
		return httpx.Reply{}, err
	}
	var report SeatReport
	err := d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) error {
		now, err := storeTime(c.Context(), tx)
		if err != nil {
			return err
		}
		from, to, err := q.span(now)
		if err != nil {
			return err
		}
		report = SeatReport{LicenseID: q.LicenseID, From: httpx.At(from), To: httpx.At(to), Hours: []SeatHour{}}
		hours, err := seat.ListHours(c.Context(), tx, who.tenant, q.LicenseID, from, to)
		report.add(hours)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: report}, nil
}

// span is from the beginning of the first hour to the end of the last.
func (q *SeatReportQuery) span(now time.Time) (from, to time.Time, err error) {
	to = now
	if q.To != nil {
		to = q.To.Time
	}
	from = to.Add(-usualReport)
	if q.From != nil {
		from = q.From.Time
	}
	if !from.Before(to) || to.Sub(from) > longestReport {
		return from, to, fault.Invalid("The report's time is not valid.", fault.Field{
			Field: "to", Code: "out_of_range", Detail: "The end comes after the beginning, and at most 366 days later.",
		})
	}
	from = from.UTC().Truncate(time.Hour)
	return from, to.UTC().Add(time.Hour - 1).Truncate(time.Hour), nil
}

func (r *SeatReport) add(hours []seat.Hour) {
	for _, h := range hours {
		use := SeatUse{Peak: h.Peak, Denials: h.Denials, SeatsNeeded: h.Needed}
		r.Hours = append(r.Hours, SeatHour{Hour: httpx.At(h.Start), SeatUse: use})
		r.Peak, r.SeatsNeeded = max(r.Peak, use.Peak), max(r.SeatsNeeded, use.SeatsNeeded)
		r.Denials += use.Denials
	}
}
