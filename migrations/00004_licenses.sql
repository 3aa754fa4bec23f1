-- +goose Up
SET LOCAL ROLE usher_owner;

CREATE TABLE app.outbox (
    tenant_id  uuid        NOT NULL REFERENCES app.tenants (id),
    id         uuid        NOT NULL DEFAULT app.new_id(),
    topic      text        NOT NULL CHECK (topic ~ '^[a-z_]+\.[a-z_]+$'),
    subject_id uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
COMMENT ON TABLE app.outbox IS
    'What must still be told to somebody outside this database, written in the transaction that made it true. '
    'license.changed and session.evicted go to the seat pool in Redis; what was told is deleted, and the sweep repeats the rest.';
CREATE INDEX outbox_pending ON app.outbox (topic, created_at);
CREATE INDEX outbox_subject ON app.outbox (tenant_id, subject_id);
ALTER TABLE app.outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.outbox
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT (tenant_id, id, topic, subject_id), DELETE ON app.outbox TO usher_seats;

CREATE TABLE app.licenses (
    tenant_id             uuid        NOT NULL REFERENCES app.tenants (id),
    id                    uuid        NOT NULL,
    product_code          text        NOT NULL REFERENCES app.products (code),
    plan_code             text        NOT NULL REFERENCES app.plans (code),
    status                text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'revoked')),
    status_reason         text,
    status_by             text,
    max_seats             int         NOT NULL CHECK (max_seats BETWEEN 1 AND 100000),
    overdraft_seats       int         NOT NULL DEFAULT 0 CHECK (overdraft_seats BETWEEN 0 AND 100000),
    ttl_seconds           int         NOT NULL CHECK (ttl_seconds BETWEEN 1 AND 86400),
    seat_per              text        NOT NULL CHECK (seat_per IN ('device', 'user', 'instance')),
    features              text[]      NOT NULL DEFAULT '{}',
    versions              text        NOT NULL DEFAULT '' CHECK (char_length(versions) <= 255),
    max_devices           int         CHECK (max_devices BETWEEN 1 AND 1000000),
    allowed_hardware      text[]      NOT NULL DEFAULT '{}',
    offline_grace_seconds int         NOT NULL CHECK (offline_grace_seconds BETWEEN 0 AND 31536000),
    drain_seconds         int         NOT NULL CHECK (drain_seconds BETWEEN 0 AND 31536000),
    starts_at             timestamptz,
    expires_at            timestamptz,
    grace_until           timestamptz,
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    -- The seat protocol's own columns: written by triggers and by the seat package only.
    pool_version          bigint      NOT NULL DEFAULT 1,
    seat_epoch            bigint      NOT NULL DEFAULT 0,
    lock_stamp            bigint      NOT NULL DEFAULT 0,
    ttl_floor_seconds     int         NOT NULL DEFAULT 0,
    ttl_floor_until       timestamptz NOT NULL DEFAULT '-infinity',
    drain_until           timestamptz,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT seats_fit_a_rebuild CHECK (max_seats + overdraft_seats <= 100000),
    CONSTRAINT grace_after_expiry CHECK (grace_until IS NULL OR (expires_at IS NOT NULL AND grace_until >= expires_at)),
    CONSTRAINT starts_before_expiry CHECK (starts_at IS NULL OR expires_at IS NULL OR starts_at < expires_at)
);
COMMENT ON TABLE app.licenses IS 'What a tenant was sold.';
COMMENT ON COLUMN app.licenses.versions IS 'A semantic-version range such as >=2.0 <4.0; empty: every version.';
COMMENT ON COLUMN app.licenses.max_devices IS 'NULL: no limit.';
COMMENT ON COLUMN app.licenses.allowed_hardware IS 'Hardware ids that may use the licence; empty: every one.';
COMMENT ON COLUMN app.licenses.pool_version IS 'Grows with every change that the seat pool or a cache of this row must hear of (trigger).';
COMMENT ON COLUMN app.licenses.seat_epoch IS 'Grows whenever the pool in Redis is rebuilt; opening a session, and closing one on evidence, demand the epoch they were decided in.';
COMMENT ON COLUMN app.licenses.lock_stamp IS 'Never written. UPDATE on it is what lets the seat functions take FOR SHARE on the row.';
COMMENT ON COLUMN app.licenses.ttl_floor_seconds IS
    'The longest lease that somebody may still believe in, while ttl_floor_until has not passed: a shortened lease counts only '
    'once the older, longer beliefs have ended. ttl_floor_until is infinity until the pool was told of the shorter lease.';
COMMENT ON COLUMN app.licenses.drain_until IS 'When sessions on seats above a reduced number of seats are evicted.';

ALTER TABLE app.licenses ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.licenses FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.licenses
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));

GRANT SELECT ON app.licenses TO usher_facts, usher_pools;
GRANT UPDATE (seat_epoch) ON app.licenses TO usher_pools;
GRANT UPDATE (lock_stamp, ttl_floor_until, pool_version) ON app.licenses TO usher_seats;
GRANT INSERT (tenant_id, id, product_code, plan_code, max_seats, overdraft_seats, ttl_seconds, seat_per, features, versions,
        max_devices, allowed_hardware, offline_grace_seconds, drain_seconds, starts_at, expires_at, grace_until),
    UPDATE (product_code, plan_code, status, status_reason, status_by, max_seats, overdraft_seats, ttl_seconds, seat_per, features,
        versions, max_devices, allowed_hardware, offline_grace_seconds, drain_seconds, starts_at, expires_at, grace_until, updated_at)
    ON app.licenses TO usher_admin;

-- +goose StatementBegin
CREATE FUNCTION app.license_state(p_tenant_status text, p_status text, p_starts_at timestamptz, p_expires_at timestamptz,
                                  p_grace_until timestamptz, p_now timestamptz) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE
        WHEN p_tenant_status <> 'active' THEN 'tenant_suspended'
        WHEN p_status = 'revoked' THEN 'license_revoked'
        WHEN p_status = 'suspended' THEN 'license_suspended'
        WHEN p_starts_at > p_now THEN 'license_not_started'
        WHEN p_expires_at <= p_now AND coalesce(p_grace_until, p_expires_at) <= p_now THEN 'license_expired'
        ELSE 'active'
    END
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.license_state(text, text, timestamptz, timestamptz, timestamptz, timestamptz) IS
    'active when the licence grants seats, else the code that says why not, in the order of the validation codes.';
GRANT EXECUTE ON FUNCTION app.license_state(text, text, timestamptz, timestamptz, timestamptz, timestamptz) TO usher_pools;

-- +goose StatementBegin
CREATE FUNCTION app.license_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF (NEW.ttl_seconds < OLD.ttl_seconds) THEN
        NEW.ttl_floor_seconds := greatest(OLD.ttl_seconds,
            CASE WHEN OLD.ttl_floor_until > now() THEN OLD.ttl_floor_seconds ELSE 0 END);
        NEW.ttl_floor_until := 'infinity';
    END IF;
    IF NEW.max_seats + NEW.overdraft_seats < OLD.max_seats + OLD.overdraft_seats THEN
        NEW.drain_until := now() + make_interval(secs => NEW.drain_seconds);
    END IF;
    IF NEW.status <> OLD.status AND NEW.status IN ('suspended', 'revoked') THEN
        -- What a suspension ends stays ended when it is lifted. Nobody opens a session meanwhile: opening locks this row.
        UPDATE app.open_sessions SET evicted_at = now(), evict_reason = 'license_' || NEW.status, evicted_by = NEW.status_by
         WHERE tenant_id = NEW.tenant_id AND license_id = NEW.id AND evicted_at IS NULL;
    END IF;
    NEW.pool_version := OLD.pool_version + 1;
    NEW.updated_at := now();
    INSERT INTO app.outbox (tenant_id, topic, subject_id) VALUES (NEW.tenant_id, 'license.changed', NEW.id);
    RETURN NEW;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.license_changed() IS
    'Every change of what was sold numbers itself and leaves an outbox row, so that no writer can forget to tell the pool. '
    'Suspending and revoking evict every open session.';
CREATE TRIGGER changed BEFORE UPDATE OF product_code, plan_code, status, status_reason, status_by, max_seats, overdraft_seats,
    ttl_seconds, seat_per, features, versions, max_devices, allowed_hardware, offline_grace_seconds, drain_seconds, starts_at,
    expires_at, grace_until ON app.licenses FOR EACH ROW EXECUTE FUNCTION app.license_changed();

-- +goose StatementBegin
CREATE FUNCTION app.licenses_touched() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF TG_TABLE_NAME = 'tenants' THEN
        -- status = status fires the trigger above for each licence.
        UPDATE app.licenses SET status = status WHERE tenant_id = NEW.id;
        IF NEW.status = 'suspended' THEN
            UPDATE app.open_sessions SET evicted_at = now(), evict_reason = 'tenant_suspended', evicted_by = NEW.status_by
             WHERE tenant_id = NEW.id AND evicted_at IS NULL;
        END IF;
    ELSE
        UPDATE app.licenses SET status = status WHERE tenant_id = NEW.tenant_id AND id = NEW.license_id;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.licenses_touched() IS 'A tenant''s status and a licence''s keys are part of what caches and pools hold of a licence.';
CREATE TRIGGER status_changed AFTER UPDATE OF status ON app.tenants FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION app.licenses_touched();

CREATE TABLE app.license_keys (
    tenant_id      uuid        NOT NULL,
    id             uuid        NOT NULL,
    license_id     uuid        NOT NULL,
    key_hash       bytea       NOT NULL CHECK (octet_length(key_hash) = 32),
    pepper_version int         NOT NULL,
    hint           text        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses (tenant_id, id)
);
COMMENT ON TABLE app.license_keys IS 'The secrets that applications present, as keyed hashes. A rotated key lives on until expires_at.';
COMMENT ON COLUMN app.license_keys.key_hash IS 'HMAC-SHA-256 of the key under the pepper of pepper_version.';
COMMENT ON COLUMN app.license_keys.hint IS 'The key''s first and last characters, for people to tell keys apart.';
-- Not unique: a unique index without tenant_id would tell one tenant what another has.
CREATE INDEX license_keys_by_hash ON app.license_keys (key_hash);
CREATE INDEX license_keys_by_license ON app.license_keys (tenant_id, license_id, created_at DESC);
ALTER TABLE app.license_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.license_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.license_keys
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT (tenant_id, id, license_id, pepper_version, hint, created_at, expires_at) ON app.license_keys TO usher_facts;
GRANT INSERT, UPDATE (expires_at) ON app.license_keys TO usher_admin;
CREATE TRIGGER keys_changed AFTER INSERT OR UPDATE ON app.license_keys FOR EACH ROW EXECUTE FUNCTION app.licenses_touched();

CREATE TABLE app.devices (
    tenant_id     uuid        NOT NULL,
    license_id    uuid        NOT NULL,
    id            uuid        NOT NULL DEFAULT app.new_id(),
    hardware_id   text        NOT NULL CHECK (char_length(hardware_id) BETWEEN 1 AND 255),
    hostname      text        CHECK (char_length(hostname) <= 255),
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, license_id, hardware_id),
    FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses (tenant_id, id)
);
COMMENT ON TABLE app.devices IS 'Hardware that has taken a seat of a licence; what max_devices counts. last_seen_at is exact to the hour.';
ALTER TABLE app.devices ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.devices FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.devices
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT ON app.devices TO usher_facts, usher_seats;
GRANT INSERT, UPDATE (hostname, last_seen_at) ON app.devices TO usher_seats;
GRANT DELETE ON app.devices TO usher_admin;

-- Before a tenant is known: key → tenant and licence, and nothing else.
CREATE POLICY resolver_finds ON app.license_keys FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, license_id, key_hash, expires_at) ON app.license_keys TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.find_license_key(p_hashes bytea[]) RETURNS TABLE (tenant_id uuid, license_id uuid, expires_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT k.tenant_id, k.license_id, k.expires_at FROM app.license_keys k
     WHERE k.key_hash = ANY (p_hashes) AND (k.expires_at IS NULL OR k.expires_at > now()) LIMIT 1
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.find_license_key(bytea[]) IS 'Whose licence a key opens, by the hashes it may have, and until when; no row for a key that is unknown or over.';
GRANT EXECUTE ON FUNCTION app.find_license_key(bytea[]) TO usher_validate, usher_acquire, usher_release;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.find_license_key(bytea[]);
DROP TABLE app.devices;
DROP TABLE app.license_keys;
DROP TRIGGER status_changed ON app.tenants;
DROP TABLE app.licenses;
DROP FUNCTION app.licenses_touched();
DROP FUNCTION app.license_changed();
DROP FUNCTION app.license_state(text, text, timestamptz, timestamptz, timestamptz, timestamptz);
DROP TABLE app.outbox;
