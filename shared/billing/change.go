package billing

import (
	"cmp"
	"slices"
	"time"
)

// Stripe's statuses of a subscription that the rules below speak of.
const (
	StatusIncomplete        = "incomplete"
	StatusIncompleteExpired = "incomplete_expired"
	StatusTrialing          = "trialing"
	StatusActive            = "active"
	StatusPastDue           = "past_due"
	StatusCanceled          = "canceled"
	StatusPaused            = "paused"
)

// The grace of the contract.
const (
	// firstGrace is what the first failed payment of a period promises, from that failure on.
	firstGrace = 7 * 24 * time.Hour
	// secondGrace is what the second promises. Of both promises the later holds; a third failure promises nothing.
	secondGrace = 3 * 24 * time.Hour
	// renewalGrace is how long a licence goes on after its paid period while nobody has said that the next cannot be paid:
	// Stripe asks for the money an hour after the period began, and some ways of paying take days.
	renewalGrace = 3 * 24 * time.Hour
)

// What is wrong with a subscription. The words are those of status_reason on its licence.
const (
	TroubleFailed   = "payment_failed"
	TroubleRefunded = "payment_refunded"
	TroubleDisputed = "payment_disputed"
	TroublePaused   = "subscription_paused"
)

// Subscription is what Stripe says now, in the words of the catalogue.
type Subscription struct {
	ID, Customer, Status string
	Plan, Cycle          string
	// Seats are those that hold until PeriodEnd; NextSeats those that are paid from then on.
	Seats, NextSeats       int
	PeriodStart, PeriodEnd time.Time
	CancelAtPeriodEnd      bool
	CanceledAt, EndedAt    *time.Time
	CancelReason           string
	Invoices               []Invoice // for a period, the newest first
}

// Invoice is one that asks for a period.
type Invoice struct {
	ID       string
	From, To time.Time
	// Paid says that it was paid, whatever became of the money. Void is one that will not be asked for.
	Paid, Void bool
	// Refunded says that all of the money was given back.
	Refunded bool
	// Disputed is when the payment was disputed, nil when it was not, or the dispute was won.
	Disputed *time.Time
	// Failures are the times at which it could not be paid, the first first.
	Failures []time.Time
}

// good is an invoice whose money we have.
func (i *Invoice) good() bool { return i.Paid && !i.Refunded && i.Disputed == nil }

// Standing is what follows from a subscription for what it sold, whatever is known of its past: the same for all orders
// of events.
type Standing struct {
	// Sold says that something was paid, or is on trial: there is a licence.
	Sold bool
	// Through is the end of what is paid; Grace is how long the licence goes on after it, nil for not at all.
	Through time.Time
	Grace   *time.Time
	// Trouble is why it does not just go on; "" for nothing.
	Trouble string
}

// Until is when the licence stops granting, as things stand.
func (s *Standing) Until() time.Time {
	if s.Grace != nil && s.Grace.After(s.Through) {
		return *s.Grace
	}
	return s.Through
}

// Stand says how a subscription stands.
func Stand(s Subscription) Standing {
	var arrears *Invoice // the oldest that asks for what is not paid
	var through *time.Time
	sold := s.Status == StatusTrialing || s.Status == StatusPaused
	for i := range s.Invoices {
		one := &s.Invoices[i]
		sold = sold || one.Paid
		switch {
		case through != nil || one.Void:
		case one.good():
			through = &one.To
		default:
			arrears = one
		}
	}
	if !sold {
		return Standing{}
	}
	standing := Standing{Sold: true}
	switch {
	case s.Status == StatusTrialing && (through == nil || through.Before(s.PeriodEnd)):
		through, arrears = &s.PeriodEnd, nil
	case through == nil && arrears != nil:
		through = &arrears.From
	case through == nil:
		through = &s.PeriodStart
	}
	standing.Through = *through
	ended := s.Status == StatusCanceled || s.EndedAt != nil
	switch {
	case arrears != nil:
		standing.Trouble, standing.Grace = owing(arrears, ended)
	case ended:
		if s.EndedAt != nil && s.EndedAt.Before(standing.Through) {
			standing.Through = *s.EndedAt
		}
	case s.CancelAtPeriodEnd:
	default:
		standing.Grace = later(standing.Through, renewalGrace)
	}
	if s.Status == StatusPaused {
		standing.Trouble = TroublePaused
	}
	return standing
}

// owing is what becomes of a licence whose period is not paid.
func owing(i *Invoice, ended bool) (trouble string, grace *time.Time) {
	failures := slices.Clone(i.Failures)
	switch {
	case i.Refunded:
		trouble = TroubleRefunded
	case i.Disputed != nil:
		trouble = TroubleDisputed
	case len(failures) > 0:
		trouble = TroubleFailed
	case ended:
		return "", nil
	default:
		return "", later(i.From, renewalGrace)
	}
	// A dispute that is there, or was before all was refunded, promises what a failure does. A payment that went through in
	// the end has redeemed what its failures promised.
	if i.Paid {
		failures = nil
	}
	if i.Disputed != nil {
		failures = append(failures, *i.Disputed)
	}
	slices.SortFunc(failures, time.Time.Compare)
	for n, promise := range []time.Duration{firstGrace, secondGrace} {
		if n < len(failures) {
			grace = latest(grace, later(failures[n], promise))
		}
	}
	return trouble, grace
}

func later(t time.Time, d time.Duration) *time.Time {
	t = t.Add(d)
	return &t
}

func latest(a, b *time.Time) *time.Time {
	if a == nil || b != nil && b.After(*a) {
		return b
	}
	return a
}

// Kept is what we have of a subscription.
type Kept struct {
	// PaidThrough is what the licence was last made to follow; nil for a subscription that is new to us.
	PaidThrough *time.Time
	// GraceUntil and Trouble are what was last said.
	GraceUntil *time.Time
	Trouble    string
	Ended      bool
	// License is the licence as it stands; nil when there is none yet.
	License *KeptLicense
}

// KeptLicense is a licence as it stands.
type KeptLicense struct {
	Plan                  string
	MaxSeats              int
	ExpiresAt, GraceUntil *time.Time
	Revoked, Suspended    bool
	// Ours says that it was suspended by this package, and may be reinstated by it. What the operator suspended stays so.
	Ours bool
	// Reason is why it is suspended.
	Reason string
}

// Change is what to do.
type Change struct {
	Standing Standing
	// License is what the licence is to be, nil to leave it alone. Create says that there is none yet.
	License *LicenseTerms
	Create  bool
	// Trial says that none had to be made: the tenant's trial became it. Nobody decides that here; it is found.
	Trial bool
	// Suspend says why the licence is to be suspended, "" not to; Reinstate lifts a suspension of ours.
	Suspend   string
	Reinstate bool
	// Notices are what its owners are to be told. They are where mail is to be queued, in the transaction of the change.
	Notices []Notice
}

// Nothing says that all is as it should be.
func (c *Change) Nothing() bool {
	return c.License == nil && c.Suspend == "" && !c.Reinstate && len(c.Notices) == 0
}

// LicenseTerms are what Stripe decides of a licence.
type LicenseTerms struct {
	Plan                  string
	MaxSeats              int
	ExpiresAt, GraceUntil *time.Time
}

// Notice is something that the owners of a tenant are to be told.
type Notice string

// The notices.
const (
	NoticeLicenseCreated = Notice("license_created")
	NoticePlanChanged    = Notice("plan_changed")
	NoticeSeatsRaised    = Notice("seats_raised")
	NoticeSeatsLowered   = Notice("seats_lowered")
	NoticeRenewed        = Notice("renewed")
	NoticePaymentTrouble = Notice("payment_trouble")
	NoticeSuspended      = Notice("suspended")
	NoticeRecovered      = Notice("recovered")
	NoticeEnded          = Notice("subscription_ended")
)

// Decide says what is to be done about a subscription as it is at Stripe, given what we have. It is the whole of the rule:
// a function of its arguments. Now decides only whether a licence whose time is over is suspended by now.
func Decide(now time.Time, s Subscription, kept Kept) Change {
	c := Change{Standing: Stand(s)}
	st := &c.Standing
	if !st.Sold {
		return c
	}
	if kept.Trouble == "" && st.Trouble != "" {
		c.Notices = append(c.Notices, NoticePaymentTrouble)
	}
	if kept.PaidThrough != nil && st.Trouble == "" && s.EndedAt == nil && st.Through.After(*kept.PaidThrough) {
		c.Notices = append(c.Notices, NoticeRenewed)
	}
	if kept.PaidThrough != nil && !kept.Ended && s.EndedAt != nil {
		c.Notices = append(c.Notices, NoticeEnded)
	}
	have := kept.License
	switch {
	case have == nil:
		c.Create = true
		c.License = &LicenseTerms{Plan: s.Plan, MaxSeats: s.Seats, ExpiresAt: &st.Through, GraceUntil: graceOf(st.Through, st)}
		c.Notices = append(c.Notices, NoticeLicenseCreated)
		have = &KeptLicense{}
	case have.Revoked:
		return c // for good; the row still says what Stripe says
	default:
		c.amend(s, kept, have)
	}
	blocked := st.Trouble != "" && (st.Trouble == TroublePaused || c.over(now, have))
	switch {
	case blocked && !have.Suspended, blocked && have.Ours && have.Reason != st.Trouble:
		c.Suspend = st.Trouble
		c.Notices = append(c.Notices, NoticeSuspended)
	case !blocked && have.Suspended && have.Ours:
		c.Reinstate = true
		c.Notices = append(c.Notices, NoticeRecovered)
	}
	return c
}

// over says that the licence grants nothing any more: as things stand, and as its own dates say where the operator has moved
// them. One without an end is never over.
func (c *Change) over(now time.Time, have *KeptLicense) bool {
	until := c.Standing.Until()
	expires, grace := have.ExpiresAt, have.GraceUntil
	if c.License != nil {
		expires, grace = c.License.ExpiresAt, c.License.GraceUntil
	}
	if expires == nil {
		return false
	}
	for _, date := range []*time.Time{expires, grace} {
		if date != nil && date.After(until) {
			until = *date
		}
	}
	return !now.Before(until)
}

// amend makes an existing licence what it is to be.
func (c *Change) amend(s Subscription, kept Kept, have *KeptLicense) {
	st := &c.Standing
	// What the operator has added to the licence's life stays added: it moves by as much as what is paid has moved.
	expires := st.Through
	if have.ExpiresAt != nil && kept.PaidThrough != nil {
		expires = have.ExpiresAt.Add(st.Through.Sub(*kept.PaidThrough))
	}
	want := LicenseTerms{Plan: s.Plan, MaxSeats: s.Seats, ExpiresAt: &expires, GraceUntil: graceOf(expires, st)}
	if have.ExpiresAt == nil && kept.PaidThrough != nil { // the operator took the end away that we had given it
		want.ExpiresAt, want.GraceUntil = nil, nil
	}
	if want.Plan != have.Plan {
		c.Notices = append(c.Notices, NoticePlanChanged)
	}
	switch cmp.Compare(want.MaxSeats, have.MaxSeats) {
	case 1:
		c.Notices = append(c.Notices, NoticeSeatsRaised)
	case -1:
		c.Notices = append(c.Notices, NoticeSeatsLowered)
	}
	if want.Plan != have.Plan || want.MaxSeats != have.MaxSeats || !same(want.ExpiresAt, have.ExpiresAt) || !same(want.GraceUntil, have.GraceUntil) {
		c.License = &want
	}
}

// graceOf is a licence's grace_until, which never comes before its expires_at.
func graceOf(expires time.Time, st *Standing) *time.Time {
	if st.Grace == nil || !st.Grace.After(expires) {
		return nil
	}
	return st.Grace
}

func same(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}
