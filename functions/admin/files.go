package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

// FileRequest says for which machine a licence file is to be.
type FileRequest struct {
	HardwareID string      `json:"hardware_id" minLength:"1" maxLength:"255" doc:"Names the device that the file is for."`
	Version    string      `json:"version,omitempty" maxLength:"50" doc:"The application's version, when it is to be checked: a semantic version."`
	User       string      `json:"user,omitempty" maxLength:"255" doc:"Who uses it; needed where the licence counts users."`
	InstanceID string      `json:"instance_id,omitempty" maxLength:"255" doc:"Names the running instance; needed where the licence counts instances."`
	ExpiresAt  *httpx.Time `json:"expires_at,omitempty" doc:"When the file ends, no later than the licence stops granting: then when left out. Needed where the licence never ends."`
}

// File is a licence file and the seat that it holds.
type File struct {
	LicenseFile string     `json:"license_file" doc:"PEM, signed; verifiable offline until it expires, on that device."`
	SessionID   uuid.UUID  `json:"session_id" doc:"Evicting it withdraws the file: the revocation list says so."`
	SeatNo      int        `json:"seat_no" minimum:"1"`
	ExpiresAt   httpx.Time `json:"expires_at"`
}

var fileRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "POST", Path: "/v1/licenses/{id}/file", ID: "create_license_file",
		Summary:     "Make a licence file for a machine that never asks",
		Description: "Takes a seat for the device, as acquire does, and lends it until the file expires.",
		Query:       TenantQuery{}, Body: FileRequest{}, Idempotent: true,
		Replies:  []httpx.Doc{{Status: http.StatusCreated, Body: File{}}},
		Problems: []int{http.StatusConflict},
	}, do: Deps.createFile,
}}

// afterwards is how long putting things right may take when the time of a request is over.
const afterwards = 2 * time.Second

// createFile answers a repetition with the first answer while its session holds the seat: a file whose session was evicted is withdrawn,
// and a repetition makes another. No transaction lasts while a seat is taken and Cloud KMS signs.
func (d Deps) createFile(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var q FileRequest
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.findLicense(c, who, id))
	}
	if err := d.findLicense(c, who, id)(); err != nil {
		return httpx.Reply{}, err
	}
	request, err := requestOf(c, who)
	if err != nil {
		return httpx.Reply{}, err
	}
	var claim *idempotency.Claim
	if request.Key != "" {
		var first *idempotency.Answer
		err = d.DB.As(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
			claim, first, err = idempotency.Begin(c.Context(), tx, request)
			if err != nil || first == nil {
				return err
			}
			holds, err := holdsSeat(c.Context(), tx, first.Session)
			if err != nil || holds {
				return err
			}
			old := *first
			first = nil
			return claim.Restart(c.Context(), tx, old)
		})
		if err != nil {
			return httpx.Reply{}, err
		}
		if first != nil {
			return httpx.Reply{
				Status: first.Status, Body: httpx.Raw(first.Body), Header: http.Header{idempotency.ReplayedHeader: {"true"}},
			}, nil
		}
	}
	file, err := d.takeFile(c, who, id, &q, claim)
	if err != nil && claim != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), afterwards)
		defer cancel()
		err = errors.Join(err, d.DB.As(ctx, who.tenant, func(tx tenancy.Tx) error { return claim.Abandon(ctx, tx) }))
	}
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Status: http.StatusCreated, Body: file}, nil
}

// holdsSeat says whether a session of the transaction's tenant is open, and nobody evicted it.
func holdsSeat(ctx context.Context, tx tenancy.Tx, session uuid.UUID) (holds bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM app.open_sessions WHERE tenant_id = (SELECT app.tenant()) AND id = $1 AND evicted_at IS NULL)`,
		session).Scan(&holds)
	if err != nil {
		return false, fmt.Errorf("read whether session %s holds its seat: %w", session, err)
	}
	return holds, nil
}

// takeFile takes a seat and makes its file. When that fails, a seat that nobody had before is given back.
func (d Deps) takeFile(c *httpx.Call, who caller, id uuid.UUID, q *FileRequest, claim *idempotency.Claim) (File, error) {
	at, err := d.admit(c.Context(), who.tenant, id, q)
	if err != nil {
		return File{}, err
	}
	grant, err := d.Seats.Acquire(c.Context(), who.tenant, id, at.holder, seat.Ask{
		PoolVersion: at.PoolVersion,
		Recheck: func(ctx context.Context, _ int64) error {
			newer, err := d.admit(ctx, who.tenant, id, q)
			if err == nil && newer.holder.Key != at.holder.Key {
				err = errOvertaken
			}
			at = newer
			return err
		},
	})
	if err != nil {
		return File{}, err
	}
	switch grant.Verdict {
	case seat.Granted, seat.Existing:
	case seat.Full:
		return File{}, fault.Conflict("no_seats_available", "All seats of this licence are taken. Evict a session, or try again later.").
			With("active_seats", grant.Counts.Active).With("max_seats", grant.Counts.Max).Retry(min(max(grant.RetryAfter, time.Second), time.Minute))
	case seat.Refused:
		detail := "This licence grants no seats now."
		if grant.Code == license.CodeTooManyDevices {
			detail = "As many devices as this licence allows have used it. Remove one that is not used any more."
		}
		return File{}, fault.Forbidden(grant.Code, detail)
	default:
		return File{}, fmt.Errorf("make a licence file: verdict %d", grant.Verdict)
	}
	c.Note(slog.String("license", id.String()), slog.String("session", grant.Ref.Session.String()))
	file, err := d.lendFile(c, who, &at, grant, claim)
	if err != nil && grant.Verdict == seat.Granted {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), afterwards)
		defer cancel()
		_, failed := d.Seats.Release(ctx, grant.Ref)
		err = errors.Join(err, failed)
	}
	return file, err
}

// lendFile signs before it lends: what cannot be signed is lent to nobody.
func (d Deps) lendFile(c *httpx.Call, who caller, at *admission, grant seat.Grant, claim *idempotency.Claim) (File, error) {
	ctx := c.Context()
	number, err := uuid.NewV7()
	if err != nil {
		return File{}, err
	}
	text, err := d.Roots.Sign(ctx, receipt.TypeLicenseFile, receipt.LicenseFile{
		Issuer: d.Issuer, ID: number.String(), License: at.ID.String(), Tenant: at.Tenant.String(), Product: at.Product,
		IssuedAt: grant.At, ExpiresAt: at.ends, Session: grant.Ref.Session.String(), Seat: grant.Ref.Seat,
		HardwareHash: receipt.HashHardware(at.holder.HardwareID), Plan: at.Plan, Features: at.Features, Versions: at.Versions,
	})
	if err != nil {
		return File{}, err
	}
	loan, err := d.Seats.Borrow(ctx, grant.Ref, seat.Term{Until: at.ends, BeyondLongest: true})
	switch {
	case err != nil:
		return File{}, err
	case loan.Verdict == seat.LimitReached:
		return File{}, fault.Conflict("borrow_limit_reached", "This licence allows no more borrowed seats at once, and a licence file is one.")
	case loan.Verdict != seat.Lent, loan.Until.Before(at.ends):
		return File{}, errOvertaken
	}
	file := File{
		LicenseFile: string(receipt.EncodeLicenseFile(text)), SessionID: grant.Ref.Session, SeatNo: grant.Ref.Seat, ExpiresAt: httpx.At(at.ends),
	}
	answer, err := idempotency.Encode(file)
	if err != nil {
		return File{}, err
	}
	return file, d.DB.As(ctx, who.tenant, func(tx tenancy.Tx) error {
		if claim != nil {
			if err := claim.Complete(ctx, tx, idempotency.Answer{Status: http.StatusCreated, Body: answer, Session: file.SessionID}); err != nil {
				return err
			}
		}
		return audit.Record(ctx, tx, who.act(c, "license_file.created", licenseSubject(at.ID), map[string]string{
			"session": file.SessionID.String(), "hardware_id": at.holder.HardwareID, "expires_at": at.ends.Format(time.RFC3339),
		}))
	})
}

// errOvertaken says that the licence became another one, or the session ended, while the file was being made.
var errOvertaken = &fault.Error{
	Kind: fault.KindConflict, Code: "license_changed", RetryAfter: time.Second,
	Detail: "The licence or the seat was changed while the file was being made. Try again.",
}

// admission is a licence that is good for a file, for whom, and until when.
type admission struct {
	license.License
	holder seat.Holder
	// ends is in whole seconds, as the file says it.
	ends time.Time
}

// admit is whether the licence is good for the file that is asked for. Whether there is room for the device the seat's row says.
func (d Deps) admit(ctx context.Context, tenant tenancy.ID, id uuid.UUID, q *FileRequest) (admission, error) {
	var at admission
	var now time.Time
	err := d.DB.AsReadOnly(ctx, tenant, func(tx tenancy.Tx) (err error) {
		at.License, now, err = readLicense(ctx, tx, tenant, id)
		return err
	})
	if err != nil {
		return admission{}, err
	}
	checks := at.Checks(license.Question{Hardware: q.HardwareID, Version: q.Version, KnownDevice: true}, now)
	if q.Version == "" { // the file says for which versions it is
		checks = slices.DeleteFunc(checks, func(c license.Check) bool { return c.Name == "version" })
	}
	if failed, ok := license.Refusal(checks); ok {
		return admission{}, fault.Forbidden(failed.Code, failed.Detail)
	}
	key, err := at.HolderKey(q.HardwareID, q.User, q.InstanceID)
	if err != nil {
		return admission{}, err
	}
	at.holder = seat.Holder{Key: key, HardwareID: q.HardwareID, User: q.User, InstanceID: q.InstanceID, Version: q.Version}
	at.ends, err = q.ends(at.Until(), now)
	return at, err
}

// ends is when the file ends, of a licence that grants until then; nil is for ever.
func (q *FileRequest) ends(granted *time.Time, now time.Time) (time.Time, error) {
	wrong := func(code, detail string) error {
		return fault.Invalid("The licence file is not valid.", fault.Field{Field: "expires_at", Code: code, Detail: detail})
	}
	asked := q.ExpiresAt.Or()
	switch {
	case asked == nil && granted == nil:
		return time.Time{}, wrong("required", "This licence never ends: say when the file does.")
	case asked == nil:
		asked = granted
	case granted != nil && asked.After(*granted):
		return time.Time{}, wrong("out_of_range", "The licence stops granting before that.")
	}
	ends := asked.UTC().Truncate(time.Second)
	if !ends.After(now) {
		return time.Time{}, wrong("out_of_range", "A licence file ends in the future.")
	}
	return ends, nil
}
