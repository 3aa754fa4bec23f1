package identity

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// OperatorID is the operator's own row among the tenants, the same in every deployment.
var OperatorID = uuid.MustParse("00000000-0000-7000-8000-000000000001")

// What a tenant can be.
const (
	StatusActive    = "active"
	StatusSuspended = "suspended"
)

// kindOperator is the kind of the operator's row, and its slug.
const kindOperator = "operator"

// Tenant is a customer organisation.
type Tenant struct {
	ID         uuid.UUID
	Name, Slug string
	// Status is active or suspended; StatusReason and StatusBy say why and by whom, when somebody said so.
	Status, StatusReason, StatusBy string
	CreatedAt, UpdatedAt           time.Time
}

// Tenants are the operator's way to its customers. It needs the operator's role,
// and its callers have asked Principal.AllowOperator.
type Tenants struct {
	db     *tenancy.DB
	record Recorder
}

// Recorder does in the transaction of a change what belongs to it: recording it. Was is the tenant before, nil when it was
// just made.
type Recorder func(ctx context.Context, tx tenancy.Tx, was *Tenant, is Tenant) error

// NewTenants makes Tenants; db logs in as the operator's role.
func NewTenants(db *tenancy.DB) *Tenants { return &Tenants{db: db} }

// Recording is the same, with every change recorded.
func (t *Tenants) Recording(record Recorder) *Tenants { return &Tenants{db: t.db, record: record} }

// recorded records a change, if anybody wants it recorded.
func (t *Tenants) recorded(ctx context.Context, tx tenancy.Tx, was *Tenant, is Tenant) error {
	if t.record == nil {
		return nil
	}
	return t.record(ctx, tx, was, is)
}

// Find answers a tenant, the operator's own row included, as one on whose behalf something is done; fault.NotFound when
// there is none of that id.
func (t *Tenants) Find(ctx context.Context, id uuid.UUID) (tenancy.ID, error) {
	found := tenancy.Verified(id)
	err := t.db.AsReadOnly(ctx, found, func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `SELECT id FROM app.tenants WHERE id = $1`, id).Scan(&id)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return tenancy.ID{}, errNoTenant
	case err != nil:
		return tenancy.ID{}, fmt.Errorf("find tenant %s: %w", id, err)
	}
	return found, nil
}

var slugPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// uniqueViolation is the SQLSTATE of a value that somebody else has.
const uniqueViolation = "23505"

// Create makes a tenant with the id, uuid.Nil being a new one. Who makes it
// again gets the tenant that is there, as it is now. Without a slug one is made
// of the name. A name or slug that is not valid is a fault.Invalid, a slug that
// is taken a fault.Conflict.
func (t *Tenants) Create(ctx context.Context, id uuid.UUID, name, slug string) (Tenant, error) {
	if err := tenantFault(name, slug); err != nil {
		return Tenant{}, err
	}
	if id == uuid.Nil {
		var err error
		if id, err = uuid.NewV7(); err != nil {
			return Tenant{}, fmt.Errorf("number a tenant: %w", err)
		}
	}
	tried := slug
	if slug == "" {
		tried = slugOf(name)
	}
	made, err := t.insert(ctx, id, "customer", name, tried)
	if tenancy.Code(err) == uniqueViolation {
		there, missing := t.Read(ctx, id)
		switch {
		case missing == nil:
			return there, nil
		case !errors.Is(missing, errNoTenant):
			return Tenant{}, missing
		}
	}
	if slug == "" && isSlugTaken(err) {
		made, err = t.insert(ctx, id, "customer", name, anotherSlug(tried))
	}
	if isSlugTaken(err) {
		return Tenant{}, fault.Conflict("slug_taken", "Another tenant has this slug. Choose another.").Because(err)
	}
	return made, err
}

// EnsureOperator makes the operator's own row if it is not there.
func (t *Tenants) EnsureOperator(ctx context.Context, name string) (tenancy.ID, error) {
	id := tenancy.Verified(OperatorID)
	_, err := t.insert(ctx, OperatorID, kindOperator, name, kindOperator)
	if err != nil && tenancy.Code(err) != uniqueViolation {
		return tenancy.ID{}, err
	}
	return id, nil
}

func (t *Tenants) insert(ctx context.Context, id uuid.UUID, kind, name, slug string) (Tenant, error) {
	var made Tenant
	err := t.db.As(ctx, tenancy.Verified(id), func(tx tenancy.Tx) (err error) {
		made, err = scanTenant(tx.QueryRow(ctx, `
			INSERT INTO app.tenants (id, kind, name, slug)
			VALUES ($1, $2, $3, $4)
			RETURNING id, name, slug, status, coalesce(status_reason, ''), coalesce(status_by, ''), created_at, updated_at`,
			id, kind, name, slug))
		if err != nil {
			return err
		}
		return t.recorded(ctx, tx, nil, made)
	})
	if err != nil {
		return Tenant{}, fmt.Errorf("create tenant %s: %w", id, err)
	}
	return made, nil
}

// Read answers a tenant; fault.NotFound when there is none of that id. The
// operator's own row is none.
func (t *Tenants) Read(ctx context.Context, id uuid.UUID) (Tenant, error) {
	var read Tenant
	err := t.db.AsReadOnly(ctx, tenancy.Verified(id), func(tx tenancy.Tx) (err error) {
		read, err = readTenant(ctx, tx, id, "")
		return err
	})
	return read, err
}

// TenantChange is what to alter of a tenant; nil is left as it is. Reason and By
// go with a status.
type TenantChange struct {
	Name, Status *string
	Reason, By   string
}

// Change alters a tenant and answers it. Its faults are Read's, and
// fault.Invalid for a name or a status that cannot be. A tenant that is suspended
// already keeps its first reason, unless it is frozen: then it is suspended for
// this one from now on, and stays so when it is frozen no more. One that is
// frozen is not reinstated: a fault.Conflict (tenant_frozen). When the status changes the database numbers
// every licence of the tenant anew and leaves word in the outbox; the caller
// tells the seat pool.
func (t *Tenants) Change(ctx context.Context, id uuid.UUID, change TenantChange) (Tenant, error) {
	var changed Tenant
	err := t.db.As(ctx, tenancy.Verified(id), func(tx tenancy.Tx) error {
		now, err := readTenant(ctx, tx, id, "FOR UPDATE")
		if err != nil {
			return err
		}
		next := now
		set(&next.Name, change.Name)
		set(&next.Status, change.Status)
		if err := tenantFault(next.Name, ""); err != nil {
			return err
		}
		if next.Status != StatusActive && next.Status != StatusSuspended {
			return fault.Invalid("The tenant is not valid.", fault.Field{Field: "status", Code: "not_allowed", Detail: "A tenant is active or suspended."})
		}
		frozen := now.Status == StatusSuspended && now.StatusBy == frozenBy
		if frozen && next.Status == StatusActive {
			return errFrozen
		}
		if next.Status != now.Status || frozen && change.Status != nil {
			next.StatusReason, next.StatusBy = change.Reason, change.By
		}
		changed, err = scanTenant(tx.QueryRow(ctx, `
			UPDATE app.tenants
			   SET name = $2, status = $3, status_reason = nullif($4, ''), status_by = nullif($5, ''), updated_at = now()
			 WHERE id = $1
			RETURNING id, name, slug, status, coalesce(status_reason, ''), coalesce(status_by, ''), created_at, updated_at`,
			id, next.Name, next.Status, next.StatusReason, next.StatusBy))
		if err != nil {
			return fmt.Errorf("change tenant %s: %w", id, err)
		}
		return t.recorded(ctx, tx, &now, changed)
	})
	return changed, err
}

// List answers up to limit tenants (at most 101) in the order in which they were
// made, from the one after the given id on; uuid.Nil is from the start.
func (t *Tenants) List(ctx context.Context, after uuid.UUID, limit int) ([]Tenant, error) {
	var all []Tenant
	err := t.db.Across(ctx, "the operator lists tenants", func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT id, name, slug, status, coalesce(status_reason, ''), coalesce(status_by, ''), created_at, updated_at
			  FROM app.operator_tenants($1, $2)`, after, limit)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Tenant, error) { return scanTenant(row) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	return all, nil
}

// readTenant reads a customer's row; locking is "" or "FOR UPDATE".
func readTenant(ctx context.Context, tx tenancy.Tx, id uuid.UUID, locking string) (Tenant, error) {
	read, err := scanTenant(tx.QueryRow(ctx, `
		SELECT id, name, slug, status, coalesce(status_reason, ''), coalesce(status_by, ''), created_at, updated_at
		  FROM app.tenants
		 WHERE id = $1 AND kind = 'customer' `+locking, id))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Tenant{}, errNoTenant
	case err != nil:
		return Tenant{}, fmt.Errorf("read tenant %s: %w", id, err)
	}
	return read, nil
}

func scanTenant(row pgx.Row) (Tenant, error) {
	var t Tenant
	err := row.Scan(&t.ID, &t.Name, &t.Slug, &t.Status, &t.StatusReason, &t.StatusBy, &t.CreatedAt, &t.UpdatedAt)
	return t, err
}

// tenantFault is what is wrong with a name and a slug; "" is no slug.
func tenantFault(name, slug string) error {
	var faults []fault.Field
	if n := len([]rune(name)); n < 1 || n > 200 {
		faults = append(faults, fault.Field{Field: "name", Code: "out_of_range", Detail: "A name has 1 to 200 characters."})
	}
	if slug != "" && !slugPattern.MatchString(slug) {
		faults = append(faults, fault.Field{Field: "slug", Code: "bad_format", Detail: "A slug is 1 to 63 lower-case letters and digits, with hyphens between them."})
	}
	if faults != nil {
		return fault.Invalid("The tenant is not valid.", faults...)
	}
	return nil
}

func isSlugTaken(err error) bool {
	return tenancy.Code(err) == uniqueViolation && tenancy.Constraint(err) == "tenants_slug_key"
}

// slugOf makes a slug of a name: what is neither a letter nor a digit of ASCII divides its words.
func slugOf(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	slug := strings.Join(words, "-")
	slug = strings.TrimRight(slug[:min(len(slug), 63)], "-")
	if slug == "" {
		return "tenant"
	}
	return slug
}

// anotherSlug is a slug like the one that is taken.
func anotherSlug(taken string) string {
	return strings.TrimRight(taken[:min(len(taken), 54)], "-") + "-" + strings.ToLower(rand.Text()[:8])
}

func set(at *string, to *string) {
	if to != nil {
		*at = *to
	}
}
