package billing_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/coditect/usher/shared/billing"
)

var epoch = time.Date(2026, 1, 10, 12, 0, 0, 0, time.UTC)

func day(n float64) time.Time { return epoch.Add(time.Duration(n * 24 * float64(time.Hour))) }

func on(n float64) *time.Time { t := day(n); return &t }

// period is the invoice of the nth period of 30 days.
func period(n int, change func(*billing.Invoice)) billing.Invoice {
	i := billing.Invoice{ID: fmt.Sprint("in_", n), From: day(float64(n) * 30), To: day(float64(n+1) * 30), Paid: true}
	if change != nil {
		change(&i)
	}
	return i
}

func failed(times ...float64) func(*billing.Invoice) {
	return func(i *billing.Invoice) {
		i.Paid = false
		for _, t := range times {
			i.Failures = append(i.Failures, day(t))
		}
	}
}

func TestHowLongALicenceGoesOn(t *testing.T) {
	t.Parallel()
	paid := period(0, nil)
	for name, c := range map[string]struct {
		s              billing.Subscription
		through, until float64
		trouble        string
	}{
		"paid":                           {billing.Subscription{Status: "active", Invoices: []billing.Invoice{paid}}, 30, 33, ""},
		"cancelled with its period":      {billing.Subscription{Status: "active", CancelAtPeriodEnd: true, Invoices: []billing.Invoice{paid}}, 30, 30, ""},
		"ended with its period":          {billing.Subscription{Status: "canceled", EndedAt: on(30), Invoices: []billing.Invoice{paid}}, 30, 30, ""},
		"cancelled at once":              {billing.Subscription{Status: "canceled", EndedAt: on(7), Invoices: []billing.Invoice{paid}}, 7, 7, ""},
		"the next period is not asked":   {billing.Subscription{Status: "active", Invoices: []billing.Invoice{period(1, failed()), paid}}, 30, 33, ""},
		"one failure":                    {billing.Subscription{Status: "past_due", Invoices: []billing.Invoice{period(1, failed(30)), paid}}, 30, 37, billing.TroubleFailed},
		"two failures, the second soon":  {billing.Subscription{Status: "past_due", Invoices: []billing.Invoice{period(1, failed(30, 33)), paid}}, 30, 37, billing.TroubleFailed},
		"two failures, the second late":  {billing.Subscription{Status: "past_due", Invoices: []billing.Invoice{period(1, failed(30, 36)), paid}}, 30, 39, billing.TroubleFailed},
		"the third adds nothing":         {billing.Subscription{Status: "past_due", Invoices: []billing.Invoice{period(1, failed(30, 36, 38)), paid}}, 30, 39, billing.TroubleFailed},
		"two periods owed, the first's":  {billing.Subscription{Status: "past_due", Invoices: []billing.Invoice{period(2, failed(60)), period(1, failed(30)), paid}}, 30, 37, billing.TroubleFailed},
		"given up: what was promised":    {billing.Subscription{Status: "canceled", EndedAt: on(35), Invoices: []billing.Invoice{period(1, failed(30, 33, 35)), paid}}, 30, 37, billing.TroubleFailed},
		"failed, then paid":              {billing.Subscription{Status: "active", Invoices: []billing.Invoice{period(1, func(i *billing.Invoice) { i.Failures = []time.Time{day(30)} }), paid}}, 60, 63, ""},
		"void is not owed":               {billing.Subscription{Status: "canceled", EndedAt: on(30), Invoices: []billing.Invoice{period(1, func(i *billing.Invoice) { i.Paid, i.Void = false, true }), paid}}, 30, 30, ""},
		"refunded":                       {billing.Subscription{Status: "active", Invoices: []billing.Invoice{period(1, func(i *billing.Invoice) { i.Refunded = true }), paid}}, 30, 30, billing.TroubleRefunded},
		"disputed":                       {billing.Subscription{Status: "active", Invoices: []billing.Invoice{period(1, func(i *billing.Invoice) { i.Disputed = on(40) }), paid}}, 30, 47, billing.TroubleDisputed},
		"refunded while it was disputed": {billing.Subscription{Status: "active", Invoices: []billing.Invoice{period(1, func(i *billing.Invoice) { i.Refunded, i.Disputed = true, on(40) }), paid}}, 30, 47, billing.TroubleRefunded},
		"on trial":                       {billing.Subscription{Status: "trialing", PeriodStart: day(0), PeriodEnd: day(14)}, 14, 17, ""},
	} {
		st := billing.Stand(c.s)
		if !st.Sold || !st.Through.Equal(day(c.through)) || !st.Until().Equal(day(c.until)) || st.Trouble != c.trouble {
			t.Errorf("%s: %+v until %s, want through day %v until day %v, %q", name, st, st.Until(), c.through, c.until, c.trouble)
		}
	}
	for _, s := range []billing.Subscription{
		{Status: "incomplete", Invoices: []billing.Invoice{period(0, failed(0))}}, {Status: "active", Invoices: []billing.Invoice{period(0, failed())}}, {Status: "incomplete_expired"},
	} {
		if st := billing.Stand(s); st.Sold {
			t.Errorf("%+v sold something before anything was paid", s)
		}
	}
}

func TestWhatTheOperatorDidToALicenceStays(t *testing.T) {
	t.Parallel()
	s := billing.Subscription{Plan: "pro", Seats: 3, Status: "active", Invoices: []billing.Invoice{period(1, nil), period(0, nil)}}
	// Ten days were added by hand: a renewal goes on from there.
	c := billing.Decide(day(30), s, billing.Kept{PaidThrough: on(30), License: &billing.KeptLicense{Plan: "pro", MaxSeats: 3, ExpiresAt: on(40)}})
	if c.License == nil || !c.License.ExpiresAt.Equal(day(70)) || c.License.GraceUntil != nil {
		t.Errorf("a renewal makes it %+v", c.License)
	}
	// Nor does what is owed end it before the day that the operator has given it, and then it does.
	owed := billing.Subscription{Plan: "pro", Seats: 3, Status: "past_due", Invoices: []billing.Invoice{period(1, failed(30)), period(0, nil)}}
	given := billing.Kept{PaidThrough: on(30), Trouble: billing.TroubleFailed, License: &billing.KeptLicense{Plan: "pro", MaxSeats: 3, ExpiresAt: on(60)}}
	for at, want := range map[float64]string{38: "", 59: "", 60: billing.TroubleFailed} {
		if c := billing.Decide(day(at), owed, given); c.Suspend != want {
			t.Errorf("on day %v it is to be suspended for %q, want %q", at, c.Suspend, want)
		}
	}
	// Without an end it has none, whatever is paid or owed; plan and seats follow all the same.
	endless := billing.Kept{PaidThrough: on(30), License: &billing.KeptLicense{Plan: "pro", MaxSeats: 2}}
	for name, sub := range map[string]billing.Subscription{"paid": s, "owed": owed} {
		c := billing.Decide(day(300), sub, endless)
		if c.Suspend != "" || c.License == nil || c.License.ExpiresAt != nil || c.License.GraceUntil != nil || c.License.MaxSeats != 3 {
			t.Errorf("%s: without an end it becomes %+v, suspended for %q", name, c.License, c.Suspend)
		}
	}
	// Suspended by the operator, no payment lifts it; revoked, nothing is done to it.
	kept := billing.Kept{PaidThrough: on(60), License: &billing.KeptLicense{Plan: "pro", MaxSeats: 3, ExpiresAt: on(60), GraceUntil: on(63), Suspended: true}}
	if c := billing.Decide(day(31), s, kept); c.Reinstate || c.Suspend != "" {
		t.Errorf("decided %+v", c)
	}
	kept.License.Ours = true
	if c := billing.Decide(day(31), s, kept); !c.Reinstate {
		t.Errorf("a suspension for want of a payment stays: %+v", c)
	}
	kept.License.Revoked = true
	if c := billing.Decide(day(31), s, kept); c.License != nil || c.Reinstate || c.Suspend != "" {
		t.Errorf("decided %+v about a revoked licence", c)
	}
}
