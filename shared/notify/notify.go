// Package notify is how an act tells the world: it queues mails to people, and records events for the systems that asked to
// hear of them, in the transaction that does the act. So nobody hears of what was not done, and nothing that was done is
// kept from them: function deliver sends what lies here, package mail and package webhook say how.
//
// Whoever queues waits for one row to be written and for nothing outside. The role needs usher_notices. The package must not
// know what the acts mean, nor how anything is sent.
package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/tenancy"
)

// Kind is what a mail is about; each has its words in package mail.
type Kind string

// The kinds, each with the Data that it needs.
const (
	// Welcome greets the founder of a tenant: organization.
	Welcome Kind = "welcome"
	// Invitation asks somebody in: organization, role, token (sealed), expires_at.
	Invitation Kind = "invitation"
	// TrialEnding says that a trial ends soon: organization, plan, days, ends_at.
	TrialEnding Kind = "trial_ending"
	// TrialEnded says that it has: organization, plan.
	TrialEnded Kind = "trial_ended"
	// RenewalNotice says that a licence ends soon: organization, plan, days, expires_at.
	RenewalNotice Kind = "renewal_notice"
	// LicenseExpired says that it has: organization, plan, expires_at.
	LicenseExpired Kind = "license_expired"
	// PaymentFailed says that a payment did, and until when everything works: organization, plan, grace_until.
	PaymentFailed Kind = "payment_failed"
	// LicenseSuspended says that a licence grants nothing now: organization, plan, reason.
	LicenseSuspended Kind = "license_suspended"
	// TenantSuspended says that none does: organization, reason.
	TenantSuspended Kind = "tenant_suspended"
	// Incident tells of something that went wrong: organization, severity, summary.
	Incident Kind = "incident"
	// LicenseKey brings a licence key: organization, plan, license_key (sealed).
	LicenseKey Kind = "license_key"
	// WebhookDisabled says that a webhook hears nothing more: organization, url, reason.
	WebhookDisabled Kind = "webhook_disabled"
	// UsageWarning says that much of a month's quota is used: organization, plan, metric, percent, used, quota, cap (in words), month.
	UsageWarning Kind = "usage_warning"
)

var needs = map[Kind][]string{
	Welcome:          {"organization"},
	Invitation:       {"expires_at", "organization", "role", "token"},
	TrialEnding:      {"days", "ends_at", "organization", "plan"},
	TrialEnded:       {"organization", "plan"},
	RenewalNotice:    {"days", "expires_at", "organization", "plan"},
	LicenseExpired:   {"expires_at", "organization", "plan"},
	PaymentFailed:    {"grace_until", "organization", "plan"},
	LicenseSuspended: {"organization", "plan", "reason"},
	TenantSuspended:  {"organization", "reason"},
	Incident:         {"organization", "severity", "summary"},
	LicenseKey:       {"license_key", "organization", "plan"},
	WebhookDisabled:  {"organization", "reason", "url"},
	UsageWarning:     {"cap", "metric", "month", "organization", "percent", "plan", "quota", "used"},
}

// Kinds lists the kinds, in the order of their names.
func Kinds() []Kind { return slices.Sorted(maps.Keys(needs)) }

// Needs are the names of the Data that mails of a kind need, sorted.
func Needs(k Kind) []string { return slices.Clone(needs[k]) }

// Mail is a mail that is to be sent.
type Mail struct {
	Kind Kind
	// To is the address of one person.
	To string
	// Key is what it is about, as in "renewal:LICENSE:30": a tenant gets one mail of a key, however often it is queued. With ""
	// each call queues one.
	Key string
	// Data are the texts that its words are made with: exactly those that the kind needs. A token or a key is sealed by Keys.Seal.
	Data map[string]string
}

// Sealed says whether the text of that name is a secret, which only Keys.Seal brings into the database.
func Sealed(name string) bool { return name == "token" || name == "license_key" }

// Queue queues the mail in the transaction of an act, for the transaction's tenant. It fails for a mail that could not be written: of no
// kind, or without its data.
func Queue(ctx context.Context, tx tenancy.Tx, m Mail) error {
	want, known := needs[m.Kind]
	if have := slices.Sorted(maps.Keys(m.Data)); !known || !slices.Equal(have, want) {
		return fmt.Errorf("queue a mail %q: it has %v and needs %v", m.Kind, have, want)
	}
	for name, text := range m.Data {
		if Sealed(name) && !strings.HasPrefix(text, sealedPrefix) {
			return fmt.Errorf("queue a mail %q: its %s is not sealed", m.Kind, name)
		}
	}
	data, err := json.Marshal(m.Data)
	if err != nil {
		return fmt.Errorf("queue a mail %q: %w", m.Kind, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("number a mail: %w", err)
	}
	if m.Key == "" {
		m.Key = id.String()
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO app.mails (tenant_id, id, kind, recipient, key, data)
		VALUES (app.tenant(), $1, $2, $3, $4, $5::text::jsonb)
		ON CONFLICT DO NOTHING`, id, m.Kind, m.To, m.Key, string(data))
	if err != nil {
		return fmt.Errorf("queue a mail %q: %w", m.Kind, err)
	}
	return nil
}

// QueueToOwners queues the mail for each owner of the transaction's tenant, whose addresses take the place of To. The role must be able to
// read who they are.
func QueueToOwners(ctx context.Context, tx tenancy.Tx, m Mail) error {
	return queueToOwners(ctx, tx, m, func(string) error { return nil })
}

// QueueSecretToOwners is QueueToOwners with a text of the Data that is sealed for each.
func QueueSecretToOwners(ctx context.Context, tx tenancy.Tx, m Mail, keys Keys, name, text string) error {
	m.Data = maps.Clone(m.Data)
	return queueToOwners(ctx, tx, m, func(owner string) (err error) {
		m.Data[name], err = keys.Seal(owner, text)
		return err
	})
}

func queueToOwners(ctx context.Context, tx tenancy.Tx, m Mail, before func(owner string) error) error {
	rows, err := tx.Query(ctx, `
		SELECT email
		  FROM app.users
		 WHERE tenant_id = (SELECT app.tenant()) AND role = 'owner' AND status = 'active'
		 ORDER BY id`)
	if err != nil {
		return fmt.Errorf("list a tenant's owners: %w", err)
	}
	owners, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list a tenant's owners: %w", err)
	}
	key := m.Key
	for _, owner := range owners {
		m.To = owner
		if key != "" {
			m.Key = key + " " + owner
			m.Key = m.Key[:min(len(m.Key), 200)]
		}
		if err := before(owner); err != nil {
			return err
		}
		if err := Queue(ctx, tx, m); err != nil {
			return err
		}
	}
	return nil
}

// Organization is the name of the transaction's tenant, which every mail says.
func Organization(ctx context.Context, tx tenancy.Tx) (name string, err error) {
	if err := tx.QueryRow(ctx, `SELECT name FROM app.tenants WHERE id = (SELECT app.tenant())`).Scan(&name); err != nil {
		return "", fmt.Errorf("read a tenant's name: %w", err)
	}
	return name, nil
}

// Date is a time as mails say it.
func Date(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") }

// Event records what happened to the transaction's tenant, for the webhooks that want its type: its own and the operator's. Type is a thing and
// what became of it, as in license.suspended; subject names the thing, as in license:ID; data is what there is to say of
// it, a JSON object without secrets.
func Event(ctx context.Context, tx tenancy.Tx, typ, subject string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("record the event %s: %w", typ, err)
	}
	if !strings.HasPrefix(string(text), "{") {
		return fmt.Errorf("record the event %s: %w", typ, errNoObject)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("number an event: %w", err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO app.events (tenant_id, id, type, subject, data)
		VALUES (app.tenant(), $1, $2, $3, $4::text::jsonb)`, id, typ, subject, string(text))
	if err != nil {
		return fmt.Errorf("record the event %s: %w", typ, err)
	}
	return nil
}

var errNoObject = errors.New("its data is no JSON object")

// Delay is how long after the nth failed attempt, from 1 on, the next is made: a minute, then twice as long each time, up to
// four hours.
func Delay(n int) time.Duration {
	const first, longest = time.Minute, 4 * time.Hour
	return min(first<<min(max(n-1, 0), 10), longest)
}
