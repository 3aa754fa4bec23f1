-- +goose Up
SET LOCAL ROLE usher_owner;

-- A row lock is taken with the right to update; nobody updates this column.
GRANT UPDATE (version) ON app.open_sessions TO usher_seats;

-- +goose StatementBegin
CREATE FUNCTION app.sessions_release_unlocked(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamptz[])
    RETURNS TABLE (session_id uuid, status text, end_reason text, ended_by text, ended_at timestamptz)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    AS $$
BEGIN
    FOR i IN 1..cardinality(p_ids) LOOP
        PERFORM FROM app.open_sessions x WHERE x.tenant_id = (SELECT app.tenant()) AND x.id = p_ids[i] FOR UPDATE SKIP LOCKED;
        IF NOT FOUND AND EXISTS (SELECT FROM app.open_sessions x WHERE x.tenant_id = (SELECT app.tenant()) AND x.id = p_ids[i]) THEN
            RETURN QUERY SELECT p_ids[i], 'busy', '', '', now();
            p_ids[i] := NULL;
        END IF;
    END LOOP;
    RETURN QUERY SELECT r.* FROM app.sessions_release(p_licenses, p_ids, p_statuses, p_reasons, p_bys, p_ats) r;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.sessions_release_unlocked(uuid[], uuid[], text[], text[], text[], timestamptz[]) IS
    'sessions_release, but a row that somebody holds, as a suspension does or an eviction of all, is not waited for: its status is busy.';
GRANT EXECUTE ON FUNCTION app.sessions_release_unlocked(uuid[], uuid[], text[], text[], text[], timestamptz[]) TO usher_seats;

-- As before, but a device that shares a seat, as another of the same user may, takes a place among the devices, too.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.seat_open(
    p_license uuid, p_session uuid, p_seat int, p_epoch bigint, p_counter bigint,
    p_holder text, p_hardware text, p_hostname text, p_user text, p_instance text, p_version text, p_metadata json,
    p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamptz[]
) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    l record;
    is_open boolean;
    tenant_status text;
    state text;
    device record;
BEGIN
    SELECT x.tenant_id, x.seat_epoch, x.status, x.max_seats, x.overdraft_seats, x.max_devices, x.starts_at, x.expires_at, x.grace_until
      INTO l FROM app.licenses x WHERE x.tenant_id = (SELECT app.tenant()) AND x.id = p_license FOR SHARE;
    IF NOT FOUND THEN
        RETURN 'epoch';
    END IF;
    -- Also a session that is open: a primary that was demoted may have let go of it in a newer epoch.
    IF l.seat_epoch IS DISTINCT FROM p_epoch THEN
        RETURN 'epoch';
    END IF;
    is_open := EXISTS (SELECT FROM app.open_sessions o WHERE o.tenant_id = l.tenant_id AND o.id = p_session);
    IF NOT is_open THEN
        IF EXISTS (SELECT FROM app.ended_sessions e WHERE e.tenant_id = l.tenant_id AND e.id = p_session) THEN
            RETURN 'ended';
        END IF;
        SELECT t.status INTO tenant_status FROM app.tenants t WHERE t.id = l.tenant_id;
        state := app.license_state(tenant_status, l.status, l.starts_at, l.expires_at, l.grace_until, now());
        IF state <> 'active' THEN
            RETURN 'suspended';
        END IF;
        IF p_seat > l.max_seats + l.overdraft_seats THEN
            RETURN 'limit';
        END IF;
    END IF;

    SELECT d.id, d.last_seen_at INTO device FROM app.devices d
     WHERE d.tenant_id = l.tenant_id AND d.license_id = p_license AND d.hardware_id = p_hardware;
    IF NOT FOUND AND l.max_devices IS NOT NULL THEN
        -- Two new devices may not both be the last one; known devices do not wait here.
        PERFORM pg_advisory_xact_lock(hashtextextended('app.devices:' || p_license::text, 0));
        IF (SELECT count(*) FROM app.devices d WHERE d.tenant_id = l.tenant_id AND d.license_id = p_license
               AND d.hardware_id <> p_hardware) >= l.max_devices THEN
            RETURN 'too_many_devices';
        END IF;
    END IF;

    IF NOT is_open THEN
        IF cardinality(p_gone_ids) > 0 THEN
            PERFORM app.session_close(p_license, NULL, p_gone_ids, p_gone_statuses, p_gone_reasons, p_gone_bys, p_gone_ats);
        END IF;
        INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, overdraft, holder, hardware_id,
            hostname, user_name, instance_id, version, metadata)
        VALUES (l.tenant_id, p_session, p_license, p_seat, p_epoch, p_counter, p_seat > l.max_seats, p_holder, p_hardware,
            p_hostname, p_user, p_instance, p_version, p_metadata)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND AND NOT EXISTS (SELECT FROM app.open_sessions o WHERE o.tenant_id = l.tenant_id AND o.id = p_session) THEN
            RETURN 'seat_held';
        END IF;
        -- Two callers may open one session; if the other's was opened and ended meanwhile, ours must not revive it.
        IF EXISTS (SELECT FROM app.ended_sessions e WHERE e.tenant_id = l.tenant_id AND e.id = p_session) THEN
            DELETE FROM app.open_sessions o WHERE o.tenant_id = l.tenant_id AND o.id = p_session;
            RETURN 'ended';
        END IF;
    END IF;
    -- Only who sits takes a place among the devices.
    IF device.id IS NULL THEN
        INSERT INTO app.devices (tenant_id, license_id, hardware_id, hostname) VALUES (l.tenant_id, p_license, p_hardware, p_hostname)
            ON CONFLICT (tenant_id, license_id, hardware_id) DO NOTHING;
    ELSIF device.last_seen_at < now() - interval '1 hour' THEN
        UPDATE app.devices d SET last_seen_at = now(), hostname = coalesce(p_hostname, d.hostname)
         WHERE d.tenant_id = l.tenant_id AND d.id = device.id;
    END IF;
    RETURN 'ok';
END
$$;
-- +goose StatementEnd
RESET ROLE;

-- +goose Down
SET LOCAL ROLE usher_owner;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.seat_open(
    p_license uuid, p_session uuid, p_seat int, p_epoch bigint, p_counter bigint,
    p_holder text, p_hardware text, p_hostname text, p_user text, p_instance text, p_version text, p_metadata json,
    p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamptz[]
) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    l record;
    tenant_status text;
    state text;
    device record;
BEGIN
    SELECT x.tenant_id, x.seat_epoch, x.status, x.max_seats, x.overdraft_seats, x.max_devices, x.starts_at, x.expires_at, x.grace_until
      INTO l FROM app.licenses x WHERE x.tenant_id = (SELECT app.tenant()) AND x.id = p_license FOR SHARE;
    IF NOT FOUND THEN
        RETURN 'epoch';
    END IF;
    -- Also a session that is open: a primary that was demoted may have let go of it in a newer epoch.
    IF l.seat_epoch IS DISTINCT FROM p_epoch THEN
        RETURN 'epoch';
    END IF;
    IF EXISTS (SELECT FROM app.open_sessions o WHERE o.tenant_id = l.tenant_id AND o.id = p_session) THEN
        RETURN 'ok';
    END IF;
    IF EXISTS (SELECT FROM app.ended_sessions e WHERE e.tenant_id = l.tenant_id AND e.id = p_session) THEN
        RETURN 'ended';
    END IF;
    SELECT t.status INTO tenant_status FROM app.tenants t WHERE t.id = l.tenant_id;
    state := app.license_state(tenant_status, l.status, l.starts_at, l.expires_at, l.grace_until, now());
    IF state <> 'active' THEN
        RETURN 'suspended';
    END IF;
    IF p_seat > l.max_seats + l.overdraft_seats THEN
        RETURN 'limit';
    END IF;

    SELECT d.id, d.last_seen_at INTO device FROM app.devices d
     WHERE d.tenant_id = l.tenant_id AND d.license_id = p_license AND d.hardware_id = p_hardware;
    IF NOT FOUND AND l.max_devices IS NOT NULL THEN
        -- Two new devices may not both be the last one; known devices do not wait here.
        PERFORM pg_advisory_xact_lock(hashtextextended('app.devices:' || p_license::text, 0));
        IF (SELECT count(*) FROM app.devices d WHERE d.tenant_id = l.tenant_id AND d.license_id = p_license
               AND d.hardware_id <> p_hardware) >= l.max_devices THEN
            RETURN 'too_many_devices';
        END IF;
    END IF;

    IF cardinality(p_gone_ids) > 0 THEN
        PERFORM app.session_close(p_license, NULL, p_gone_ids, p_gone_statuses, p_gone_reasons, p_gone_bys, p_gone_ats);
    END IF;
    INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, overdraft, holder, hardware_id,
        hostname, user_name, instance_id, version, metadata)
    VALUES (l.tenant_id, p_session, p_license, p_seat, p_epoch, p_counter, p_seat > l.max_seats, p_holder, p_hardware,
        p_hostname, p_user, p_instance, p_version, p_metadata)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND AND NOT EXISTS (SELECT FROM app.open_sessions o WHERE o.tenant_id = l.tenant_id AND o.id = p_session) THEN
        RETURN 'seat_held';
    END IF;
    -- Two callers may open one session; if the other's was opened and ended meanwhile, ours must not revive it.
    IF EXISTS (SELECT FROM app.ended_sessions e WHERE e.tenant_id = l.tenant_id AND e.id = p_session) THEN
        DELETE FROM app.open_sessions o WHERE o.tenant_id = l.tenant_id AND o.id = p_session;
        RETURN 'ended';
    END IF;
    -- Only who sits takes a place among the devices.
    IF device.id IS NULL THEN
        INSERT INTO app.devices (tenant_id, license_id, hardware_id, hostname) VALUES (l.tenant_id, p_license, p_hardware, p_hostname)
            ON CONFLICT (tenant_id, license_id, hardware_id) DO NOTHING;
    ELSIF device.last_seen_at < now() - interval '1 hour' THEN
        UPDATE app.devices d SET last_seen_at = now(), hostname = coalesce(p_hostname, d.hostname)
         WHERE d.tenant_id = l.tenant_id AND d.id = device.id;
    END IF;
    RETURN 'ok';
END
$$;
-- +goose StatementEnd
DROP FUNCTION app.sessions_release_unlocked(uuid[], uuid[], text[], text[], text[], timestamptz[]);
REVOKE UPDATE (version) ON app.open_sessions FROM usher_seats;
RESET ROLE;
