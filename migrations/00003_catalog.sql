-- +goose Up
SET LOCAL ROLE usher_owner;

CREATE TABLE app.products (
    code       text        PRIMARY KEY CHECK (code ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name       text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE app.products IS 'What the operator sells. The catalogue has no tenant: everybody may read it, only the operator writes it.';

CREATE TABLE app.plans (
    code                  text        PRIMARY KEY CHECK (code ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    product_code          text        NOT NULL REFERENCES app.products (code),
    name                  text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    max_seats             int         NOT NULL DEFAULT 1 CHECK (max_seats BETWEEN 1 AND 100000),
    overdraft_seats       int         NOT NULL DEFAULT 0 CHECK (overdraft_seats BETWEEN 0 AND 100000),
    ttl_seconds           int         NOT NULL DEFAULT 360 CHECK (ttl_seconds BETWEEN 1 AND 86400),
    seat_per              text        NOT NULL DEFAULT 'device' CHECK (seat_per IN ('device', 'user', 'instance')),
    features              text[]      NOT NULL DEFAULT '{}',
    versions              text        NOT NULL DEFAULT '' CHECK (char_length(versions) <= 255),
    max_devices           int         CHECK (max_devices BETWEEN 1 AND 1000000),
    offline_grace_seconds int         NOT NULL DEFAULT 86400 CHECK (offline_grace_seconds BETWEEN 0 AND 31536000),
    drain_seconds         int         NOT NULL DEFAULT 86400 CHECK (drain_seconds BETWEEN 0 AND 31536000),
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT seats_fit_a_rebuild CHECK (max_seats + overdraft_seats <= 100000)
);
COMMENT ON TABLE app.plans IS 'Defaults for the licences sold under a plan; a licence keeps its own copy, so a changed plan changes no licence.';
COMMENT ON COLUMN app.plans.ttl_seconds IS 'Lease length. The lower bound offered to callers is configuration; 24 h is the most.';
COMMENT ON COLUMN app.plans.offline_grace_seconds IS 'Life of a validate receipt, and the longest borrow.';
COMMENT ON COLUMN app.plans.drain_seconds IS 'How long sessions above a reduced number of seats may go on.';

GRANT SELECT ON app.products, app.plans TO usher_facts, usher_operator;
-- Codes never change: licences point at them.
GRANT INSERT, UPDATE (name, updated_at) ON app.products TO usher_operator;
GRANT INSERT, UPDATE (product_code, name, max_seats, overdraft_seats, ttl_seconds, seat_per, features, versions, max_devices,
        offline_grace_seconds, drain_seconds, updated_at)
    ON app.plans TO usher_operator;

-- +goose Down
DROP TABLE app.plans;
DROP TABLE app.products;
