package license

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/tenancy"
)

// Device is hardware that has taken a seat of a licence.
type Device struct {
	ID         uuid.UUID
	HardwareID string
	// Hostname is what the device called itself last; "" when it did not.
	Hostname string
	// LastSeenAt is exact to the hour.
	FirstSeenAt, LastSeenAt time.Time
}

// ListDevices answers up to limit of a licence's devices, ordered by id, from
// the one after the given id on; uuid.Nil is from the start. A licence that the
// tenant does not have is a fault.NotFound.
func ListDevices(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, license, after uuid.UUID, limit int) ([]Device, error) {
	if _, err := Read(ctx, tx, tenant, license); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `
		SELECT id, hardware_id, coalesce(hostname, ''), first_seen_at, last_seen_at
		  FROM app.devices
		 WHERE tenant_id = $1 AND license_id = $2 AND id > $3
		 ORDER BY id
		 LIMIT $4`, tenant.UUID(), license, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list the devices of license %s: %w", license, err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Device, error) { return scanDevice(row) })
	if err != nil {
		return nil, fmt.Errorf("list the devices of license %s: %w", license, err)
	}
	return all, nil
}

// ReadDevice answers a device; fault.NotFound when the licence has none of that id.
func ReadDevice(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, license, device uuid.UUID) (Device, error) {
	return oneDevice(device, tx.QueryRow(ctx, `
		SELECT id, hardware_id, coalesce(hostname, ''), first_seen_at, last_seen_at
		  FROM app.devices
		 WHERE tenant_id = $1 AND license_id = $2 AND id = $3`, tenant.UUID(), license, device))
}

// RemoveDevice makes room for another device, and answers the removed one as it
// was. It may come back if there is room then. A device that the licence does
// not have is a fault.NotFound.
func RemoveDevice(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, license, device uuid.UUID) (Device, error) {
	return oneDevice(device, tx.QueryRow(ctx, `
		DELETE FROM app.devices
		 WHERE tenant_id = $1 AND license_id = $2 AND id = $3
		RETURNING id, hardware_id, coalesce(hostname, ''), first_seen_at, last_seen_at`, tenant.UUID(), license, device))
}

func oneDevice(id uuid.UUID, row pgx.Row) (Device, error) {
	d, err := scanDevice(row)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Device{}, fault.NotFound("not_found", "There is no such device.")
	case err != nil:
		return Device{}, fmt.Errorf("device %s: %w", id, err)
	}
	return d, nil
}

func scanDevice(row pgx.Row) (Device, error) {
	var d Device
	err := row.Scan(&d.ID, &d.HardwareID, &d.Hostname, &d.FirstSeenAt, &d.LastSeenAt)
	return d, err
}
