package billing

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
)

// EventLimit is how many bytes an event may have: 1 MiB.
const EventLimit = 1 << 20

// How far the time of a signature may be from ours.
const (
	oldest = 300 * time.Second
	newest = 60 * time.Second
)

// Secrets sign Stripe's events. While one is being replaced there are two, and Stripe signs with both.
type Secrets []config.Secret

// SecretsConfig says what signs.
type SecretsConfig struct {
	// Secrets of the endpoint at Stripe, whsec_…, with commas between them. Every one that is live is listed.
	Secrets Secrets `env:"STRIPE_WEBHOOK_SECRETS,required"`
}

// OpenSecrets reads SecretsConfig from the environment.
func OpenSecrets(getenv func(string) string) (Secrets, error) {
	var cfg SecretsConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(cfg.Secrets, func(s config.Secret) bool { return !strings.HasPrefix(s.Reveal(), "whsec_") || len(s) < 12 }) {
		return nil, &config.Fault{Variable: "STRIPE_WEBHOOK_SECRETS", Problem: "has a part that is no signing secret of an endpoint"}
	}
	return cfg.Secrets, nil
}

// ErrSignature is what is said of every payload that Stripe did not sign just now.
var ErrSignature = fault.Malformed("signature_invalid", "The event is not signed by Stripe, or not now. Check the signing secret of the endpoint, and the clock.")

// Verify is nil when the header signs the payload with one of the secrets, at a time that is at most 300 s ago and 60 s
// ahead. Else it is ErrSignature, with the reason for the log.
func (s Secrets) Verify(payload []byte, header string, now time.Time) error {
	signed, err := signedAt(header)
	if err != nil {
		return ErrSignature.Because(err)
	}
	switch age := now.Sub(signed); {
	case age > oldest:
		return ErrSignature.Because(fmt.Errorf("signed %s ago", age.Round(time.Second)))
	case age < -newest:
		return ErrSignature.Because(fmt.Errorf("signed %s from now", -age.Round(time.Second)))
	}
	for _, secret := range s {
		if webhook.ValidatePayloadIgnoringTolerance(payload, header, secret.Reveal()) == nil {
			return nil
		}
	}
	return ErrSignature.Because(errors.New("no secret of ours signed it"))
}

// signedAt is the time that a Stripe-Signature says. There must be one, so that what is compared is what was signed.
func signedAt(header string) (time.Time, error) {
	var found []string
	for pair := range strings.SplitSeq(header, ",") {
		if value, ok := strings.CutPrefix(pair, "t="); ok {
			found = append(found, value)
		}
	}
	if len(found) != 1 {
		return time.Time{}, errors.New("no signature, or one of several times")
	}
	unix, err := strconv.ParseInt(found[0], 10, 64)
	if err != nil {
		return time.Time{}, errors.New("the time of the signature is no number")
	}
	return time.Unix(unix, 0), nil
}

// Event is what is believed of an event of Stripe's: what it is about, and nothing of what it says about that.
type Event struct {
	ID, Type, APIVersion string
	Live                 bool
	CreatedAt            time.Time
	// Object is the id of what it is about.
	Object string
	// Customer and Subscription are as the payload has them; "" where it does not say.
	Customer, Subscription string
	// Charge is the charge that a dispute is about.
	Charge string
}

// kinds are the types of events that have an effect.
var kinds = []string{
	"checkout.session.completed", "checkout.session.async_payment_succeeded", "checkout.session.async_payment_failed", "checkout.session.expired",
	"customer.subscription.created", "customer.subscription.updated", "customer.subscription.deleted", "customer.subscription.paused",
	"customer.subscription.resumed", "customer.subscription.trial_will_end", "customer.subscription.pending_update_applied",
	"customer.subscription.pending_update_expired",
	"invoice.created", "invoice.paid", "invoice.payment_failed", "invoice.payment_action_required",
	"charge.refunded", "charge.dispute.created", "charge.dispute.closed", "customer.deleted",
}

// Known says whether events of the type have an effect; others are acknowledged.
func (e *Event) Known() bool { return slices.Contains(kinds, e.Type) }

// ForeignVersion says that the payload is of another version of the API than ours. Its object is fetched in ours anyway.
func (e *Event) ForeignVersion() bool { return e.APIVersion != stripe.APIVersion }

// named is an id, or an expanded object that has one.
type named string

func (n *named) UnmarshalJSON(text []byte) error {
	var object struct{ ID string }
	if len(text) > 0 && text[0] == '{' {
		err := json.Unmarshal(text, &object)
		*n = named(object.ID)
		return err
	}
	return json.Unmarshal(text, (*string)(n)) // null leaves it empty
}

// ParseEvent reads an event. What is none is a fault.Malformed.
func ParseEvent(payload []byte) (Event, error) {
	var read struct {
		ID         string
		Object     string
		Type       string
		APIVersion string `json:"api_version"`
		Livemode   bool
		Created    int64
		Data       struct {
			Object struct {
				ID           string
				Customer     named
				Subscription named
				Charge       named
				// Where newer versions of the API keep an invoice's subscription.
				Parent struct {
					SubscriptionDetails struct{ Subscription named } `json:"subscription_details"`
				}
			}
		}
	}
	if err := json.Unmarshal(payload, &read); err != nil {
		return Event{}, fault.Malformed("malformed_json", "The body is no event of Stripe's.").Because(err)
	}
	object := read.Data.Object
	if read.ID == "" || read.Object != "event" || read.Type == "" {
		return Event{}, fault.Malformed("event_invalid", "The body is no event of Stripe's.")
	}
	e := Event{
		ID: read.ID, Type: read.Type, APIVersion: read.APIVersion, Live: read.Livemode, CreatedAt: at(read.Created), Object: object.ID,
		Customer: string(object.Customer), Subscription: string(object.Subscription), Charge: string(object.Charge),
	}
	if e.Subscription == "" {
		e.Subscription = string(object.Parent.SubscriptionDetails.Subscription)
	}
	switch {
	case strings.HasPrefix(e.Type, "customer.subscription."):
		e.Subscription = object.ID
	case e.Type == "customer.deleted":
		e.Customer = object.ID
	case e.Type == "charge.refunded":
		e.Charge = object.ID
	}
	if len(e.ID) > 255 || len(e.Type) > 255 || len(e.APIVersion) > 255 || len(e.Object) > 255 || len(e.Subscription) > 255 {
		return Event{}, fault.Malformed("event_invalid", "The body is no event of Stripe's.")
	}
	return e, nil
}
