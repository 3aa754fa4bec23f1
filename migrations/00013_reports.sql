-- +goose Up
SET LOCAL ROLE usher_owner;

CREATE TABLE app.seat_hours (
    tenant_id    uuid        NOT NULL,
    license_id   uuid        NOT NULL,
    hour         timestamptz NOT NULL CHECK (hour = date_trunc('hour', hour, 'UTC')),
    peak         int         NOT NULL CHECK (peak >= 0),
    denials      int         NOT NULL CHECK (denials >= 0),
    seats_needed int         NOT NULL CHECK (seats_needed >= peak),
    PRIMARY KEY (tenant_id, license_id, hour),
    FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses (tenant_id, id)
);
COMMENT ON TABLE app.seat_hours IS
    'How a licence''s seats were used, hour by hour: carried here by the sweep from what the pool counted. An hour in which nobody '
    'sat or asked has no row. The hour that runs is written again as it goes on.';
COMMENT ON COLUMN app.seat_hours.peak IS 'The most seats that were taken at one time.';
COMMENT ON COLUMN app.seat_hours.denials IS 'How many holders found no seat free, each counted once an hour however often it asked.';
COMMENT ON COLUMN app.seat_hours.seats_needed IS 'How many seats would have denied nobody: the most that sat and still wanted at one time.';
ALTER TABLE app.seat_hours ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.seat_hours FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.seat_hours
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT ON app.seat_hours TO usher_admin;
GRANT SELECT, INSERT, UPDATE (peak, denials, seats_needed) ON app.seat_hours TO usher_sweep;

-- +goose Down
DROP TABLE app.seat_hours;
