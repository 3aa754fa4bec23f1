package billing

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stripe/stripe-go/v76"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// Discount is what an offer is worth.
type Discount struct {
	PercentOff float64
	// AmountOff is in minor units of Currency.
	AmountOff int64
	Currency  string
	// Duration is forever, once or repeating; Months are those for which it repeats.
	Duration string
	Months   int64
}

// errNoOffer says that there is nothing to take.
var errNoOffer = fault.Conflict("no_offer", "No discount is offered, or it was taken before.")

// Offer is what is offered to a tenant that cancels; false is nothing, or nothing more.
func (d *Desk) Offer(ctx context.Context, tenant tenancy.ID) (Discount, bool, error) {
	if d.Coupon == "" {
		return Discount{}, false, nil
	}
	var taken bool
	err := d.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT offer_taken_at IS NOT NULL FROM app.billing_customers
			 WHERE tenant_id = $1 AND deleted_at IS NULL`, tenant.UUID()).Scan(&taken)
	})
	if err != nil || taken {
		return Discount{}, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.Stripe.timeout)
	defer cancel()
	coupon, err := d.Stripe.api.Coupons.Get(d.Coupon, &stripe.CouponParams{Params: params(ctx, "")})
	if err != nil {
		return Discount{}, false, asked("read the coupon "+d.Coupon, err)
	}
	return Discount{
		PercentOff: coupon.PercentOff, AmountOff: coupon.AmountOff, Currency: string(coupon.Currency),
		Duration: string(coupon.Duration), Months: coupon.DurationInMonths,
	}, coupon.Valid, nil
}

// TakeOffer applies the offer to a subscription, and takes back a cancellation that has not come true. In the caller's
// transaction: what Stripe does and the commit loses is done once when it is asked again, by the customer's key. It is a
// fault.Conflict when nothing is offered, or it was taken before. Settle the subscription afterwards.
func (d *Desk) TakeOffer(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, subscription string) error {
	if d.Coupon == "" {
		return errNoOffer
	}
	var customer uuid.UUID
	err := tx.QueryRow(ctx, `
		UPDATE app.billing_customers SET offer_taken_at = now()
		 WHERE tenant_id = $1 AND deleted_at IS NULL AND offer_taken_at IS NULL
		RETURNING id`, tenant.UUID()).Scan(&customer)
	if errors.Is(err, pgx.ErrNoRows) {
		return errNoOffer
	} else if err != nil {
		return fmt.Errorf("note the offer of tenant %s: %w", tenant, err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.Stripe.timeout)
	defer cancel()
	_, err = d.Stripe.api.Subscriptions.Update(subscription, &stripe.SubscriptionParams{
		Params: params(ctx, "offer-"+customer.String()), Coupon: new(d.Coupon), CancelAtPeriodEnd: new(false),
	})
	return asked("apply the offer to subscription "+subscription, err)
}
