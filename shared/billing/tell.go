package billing

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

// SubscriptionEvent is what webhooks hear of a subscription: how it is now. Times are UTC.
type SubscriptionEvent struct {
	ID                string     `json:"id"`
	LicenseID         *uuid.UUID `json:"license_id"`
	Status            string     `json:"status"`
	Plan              string     `json:"plan"`
	Cycle             string     `json:"cycle"`
	Seats             int        `json:"seats"`
	NextSeats         int        `json:"next_seats"`
	PeriodStart       time.Time  `json:"period_start"`
	PeriodEnd         time.Time  `json:"period_end"`
	PaidThrough       time.Time  `json:"paid_through"`
	GraceUntil        *time.Time `json:"grace_until"`
	Trouble           *string    `json:"trouble"`
	CancelAtPeriodEnd bool       `json:"cancel_at_period_end"`
	EndedAt           *time.Time `json:"ended_at"`
}

// heard is what webhooks hear of a notice; several may be one event.
var heard = map[Notice]string{
	NoticeLicenseCreated: "subscription.created", NoticePlanChanged: "subscription.changed", NoticeSeatsRaised: "subscription.changed",
	NoticeSeatsLowered: "subscription.changed", NoticeRenewed: "subscription.renewed", NoticePaymentTrouble: "subscription.payment_failed",
	NoticeRecovered: "subscription.recovered", NoticeEnded: "subscription.ended",
}

// reasons are the troubles in words for people.
var reasons = map[string]string{
	TroubleFailed: "a payment did not go through", TroubleRefunded: "its payment was given back",
	TroubleDisputed: "its payment is disputed", TroublePaused: "its subscription is paused",
}

// tell queues what owners and other systems are to hear of a change, in its transaction. The key is the licence's when that
// was made just now.
func (b *Books) tell(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, s *Subscription, sold uuid.UUID, key secret.Key, c *Change, now time.Time) error {
	l, err := license.Read(ctx, tx, tenant, sold)
	if err != nil {
		return err
	}
	for _, happened := range []struct {
		what string
		did  bool
	}{
		{"license.created", c.Create && !c.Trial},
		{"license.changed", c.License != nil && (!c.Create || c.Trial)},
		{"trial.bought", c.Trial},
		{"license.suspended", c.Suspend != ""},
		{"license.reinstated", c.Reinstate},
	} {
		if !happened.did {
			continue
		}
		if err := notify.Event(ctx, tx, happened.what, "license:"+sold.String(), l.Snapshot(now)); err != nil {
			return err
		}
	}
	var told []string
	for _, n := range c.Notices {
		if typ := heard[n]; typ != "" && !slices.Contains(told, typ) {
			told = append(told, typ)
			if err := notify.Event(ctx, tx, typ, "subscription:"+s.ID, eventOf(s, sold, c)); err != nil {
				return err
			}
		}
		if err := b.mail(ctx, tx, s, &l, key, c, n); err != nil {
			return err
		}
	}
	return nil
}

// mail queues the mail of a notice that has one.
func (b *Books) mail(ctx context.Context, tx tenancy.Tx, s *Subscription, l *license.License, key secret.Key, c *Change, n Notice) error {
	name, err := notify.Organization(ctx, tx)
	if err != nil {
		return err
	}
	m := notify.Mail{Data: map[string]string{"organization": name, "plan": l.Plan}}
	switch {
	case n == NoticeLicenseCreated && !c.Trial:
		m.Kind, m.Key = notify.LicenseKey, "license_key "+l.ID.String()
		return notify.QueueSecretToOwners(ctx, tx, m, b.Notices, "license_key", key.Reveal())
	case n == NoticePaymentTrouble && c.Standing.Trouble == TroubleFailed && c.Standing.Grace != nil:
		m.Kind, m.Key = notify.PaymentFailed, fmt.Sprintf("payment_failed %s %d", s.ID, c.Standing.Through.Unix())
		m.Data["grace_until"] = notify.Date(*c.Standing.Grace)
	case n == NoticeSuspended:
		m.Kind, m.Key = notify.LicenseSuspended, fmt.Sprintf("suspended %s %d", l.ID, l.UpdatedAt.UnixMicro())
		m.Data["reason"] = reasons[c.Suspend]
	default:
		return nil
	}
	return notify.QueueToOwners(ctx, tx, m)
}

func eventOf(s *Subscription, sold uuid.UUID, c *Change) SubscriptionEvent {
	e := SubscriptionEvent{
		ID: s.ID, LicenseID: orNull(sold), Status: s.Status, Plan: s.Plan, Cycle: s.Cycle, Seats: s.Seats, NextSeats: s.NextSeats,
		PeriodStart: s.PeriodStart.UTC(), PeriodEnd: s.PeriodEnd.UTC(), PaidThrough: c.Standing.Through.UTC(), GraceUntil: c.Standing.Grace,
		CancelAtPeriodEnd: s.CancelAtPeriodEnd, EndedAt: s.EndedAt,
	}
	if c.Standing.Trouble != "" {
		e.Trouble = &c.Standing.Trouble
	}
	return e
}
