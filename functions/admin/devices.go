package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/tenancy"
)

// Device is hardware that has taken a seat of a licence.
type Device struct {
	ID          uuid.UUID  `json:"id"`
	LicenseID   uuid.UUID  `json:"license_id"`
	HardwareID  string     `json:"hardware_id"`
	Hostname    *string    `json:"hostname" doc:"What the device called itself last."`
	FirstSeenAt httpx.Time `json:"first_seen_at"`
	LastSeenAt  httpx.Time `json:"last_seen_at" doc:"Exact to the hour."`
}

// reasonDeviceRemoved is why the sessions of a removed device end.
const reasonDeviceRemoved = "device_removed"

var deviceRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/licenses/{id}/devices", ID: "list_devices",
		Summary: "List the devices that have used a licence",
		Query:   TenantPaging{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Page[Device]{}}},
	}, do: Deps.listDevices,
}, {
	Route: httpx.Route{
		Method: "DELETE", Path: "/v1/licenses/{id}/devices/{device_id}", ID: "remove_device",
		Summary:     "Remove a device from a licence",
		Description: "Makes room for another where the licence limits devices. Its sessions are evicted with the reason device_removed.",
		Query:       TenantQuery{},
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: Device{}, Description: "The device as it was."}},
		Problems:    []int{http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, do: Deps.removeDevice,
}}

func deviceOf(licenseID uuid.UUID) func(*license.Device) Device {
	return func(d *license.Device) Device {
		return Device{
			ID: d.ID, LicenseID: licenseID, HardwareID: d.HardwareID, Hostname: orNull(d.Hostname),
			FirstSeenAt: httpx.At(d.FirstSeenAt), LastSeenAt: httpx.At(d.LastSeenAt),
		}
	}
}

func (d Deps) listDevices(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var q TenantPaging
	err = c.DecodeQuery(&q)
	var after uuid.UUID
	if err == nil {
		after, err = q.after(uuid.Nil)
	}
	if err != nil {
		return httpx.Reply{}, unlessMissing(err, d.findLicense(c, who, id))
	}
	var rows []license.Device
	err = d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		rows, err = license.ListDevices(c.Context(), tx, who.tenant, id, after, q.more())
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: pageOf(rows, q.Paging, func(d *license.Device) uuid.UUID { return d.ID }, deviceOf(id))}, nil
}

// removeDevice evicts the device's sessions before it forgets the device, so that a repetition after a failure finds what
// is left to do. A session that the device opened in between is evicted afterwards.
func (d Deps) removeDevice(c *httpx.Call, who caller) (httpx.Reply, error) {
	ctx := c.Context()
	id, err1 := c.PathUUID("id")
	deviceID, err2 := c.PathUUID("device_id")
	if err := errors.Join(err1, err2); err != nil {
		return httpx.Reply{}, err
	}
	var device license.Device
	var sessions []uuid.UUID
	err := d.DB.AsReadOnly(ctx, who.tenant, func(tx tenancy.Tx) (err error) {
		if device, err = license.ReadDevice(ctx, tx, who.tenant, id, deviceID); err != nil {
			return err
		}
		sessions, err = sessionsOf(ctx, tx, who.tenant, id, device.HardwareID)
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := decode(c, &TenantQuery{}, nil); err != nil {
		return httpx.Reply{}, err
	}
	if err := d.evictAll(c, who, sessions); err != nil {
		return httpx.Reply{}, err
	}
	err = d.DB.As(ctx, who.tenant, func(tx tenancy.Tx) (err error) {
		if device, err = license.RemoveDevice(ctx, tx, who.tenant, id, deviceID); err != nil {
			return err
		}
		if sessions, err = sessionsOf(ctx, tx, who.tenant, id, device.HardwareID); err != nil {
			return err
		}
		return audit.Record(ctx, tx, who.act(c, "device.removed", "device:"+deviceID.String(),
			map[string]string{"license": id.String(), "hardware_id": device.HardwareID}))
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := d.evictAll(c, who, sessions); err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: deviceOf(id)(&device)}, nil
}

// evictAll ends the sessions of a device; those that ended by themselves meanwhile are left as they are.
func (d Deps) evictAll(c *httpx.Call, who caller, sessions []uuid.UUID) error {
	for _, session := range sessions {
		err := d.Seats.Evict(c.Context(), who.tenant, session, reasonDeviceRemoved, who.By(), who.eviction(c, session, reasonDeviceRemoved))
		if err != nil && !errors.Is(err, seat.ErrUnknownSession) {
			return err
		}
	}
	return nil
}

// sessionsOf is the open sessions of a device that are not evicted.
func sessionsOf(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, licenseID uuid.UUID, hardware string) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, `
		SELECT id
		  FROM app.open_sessions
		 WHERE tenant_id = $1 AND license_id = $2 AND hardware_id = $3 AND evicted_at IS NULL`, tenant.UUID(), licenseID, hardware)
	if err != nil {
		return nil, fmt.Errorf("find the sessions of a device: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("find the sessions of a device: %w", err)
	}
	return ids, nil
}
