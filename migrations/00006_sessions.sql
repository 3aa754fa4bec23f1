-- +goose Up
SET LOCAL ROLE usher_owner;

CREATE TABLE app.open_sessions (
    tenant_id      uuid        NOT NULL,
    id             uuid        NOT NULL,
    license_id     uuid        NOT NULL,
    seat_no        int         NOT NULL CHECK (seat_no > 0),
    fence_epoch    bigint      NOT NULL,
    fence_counter  bigint      NOT NULL,
    overdraft      boolean     NOT NULL DEFAULT false,
    holder         text        NOT NULL CHECK (char_length(holder) BETWEEN 1 AND 600),
    hardware_id    text        NOT NULL CHECK (char_length(hardware_id) <= 255),
    hostname       text        CHECK (char_length(hostname) <= 255),
    user_name      text        CHECK (char_length(user_name) <= 255),
    instance_id    text        CHECK (char_length(instance_id) <= 255),
    version        text        NOT NULL DEFAULT '' CHECK (char_length(version) <= 50),
    metadata       json        CHECK (octet_length(metadata::text) <= 16384),
    acquired_at    timestamptz NOT NULL DEFAULT now(),
    borrowed_until timestamptz,
    evicted_at     timestamptz,
    evict_reason   text,
    evicted_by     text,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT open_sessions_seat_key UNIQUE (tenant_id, license_id, seat_no),
    FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses (tenant_id, id),
    CONSTRAINT evicted_has_reason CHECK ((evicted_at IS NULL) = (evict_reason IS NULL))
);
COMMENT ON TABLE app.open_sessions IS
    'Who sits. Whoever was told "until T" has a row here until T; two rows never share a seat of a licence. '
    'Small on purpose: a session that ended moves to ended_sessions in the same transaction.';
COMMENT ON COLUMN app.open_sessions.holder IS 'device:…, user:… or instance:…, as the licence''s seat_per says.';
COMMENT ON COLUMN app.open_sessions.metadata IS 'The holder''s own JSON object, kept byte for byte.';
COMMENT ON COLUMN app.open_sessions.evicted_at IS 'Evicted, but its holder may still believe: the seat stays taken until the holder heard or its lease ran out.';
-- The sweep pages through a licence's sessions by id, and so do lists: without this each page reads them all.
CREATE INDEX open_sessions_by_license ON app.open_sessions (tenant_id, license_id, id);
ALTER TABLE app.open_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.open_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.open_sessions
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT ON app.open_sessions TO usher_pools;
GRANT INSERT, DELETE ON app.open_sessions TO usher_seats;
GRANT SELECT (tenant_id, license_id) ON app.open_sessions TO usher_facts; -- to count them when the pool in Redis is cold
GRANT UPDATE (evicted_at, evict_reason, evicted_by) ON app.open_sessions TO usher_admin;
GRANT UPDATE (evicted_at, evict_reason, evicted_by) ON app.open_sessions TO usher_sweep; -- to recover marks that a restore lost

CREATE TABLE app.ended_sessions (
    tenant_id      uuid        NOT NULL,
    id             uuid        NOT NULL,
    license_id     uuid        NOT NULL,
    seat_no        int         NOT NULL,
    overdraft      boolean     NOT NULL,
    holder         text        NOT NULL,
    hardware_id    text        NOT NULL,
    hostname       text,
    user_name      text,
    instance_id    text,
    version        text        NOT NULL,
    metadata       json,
    acquired_at    timestamptz NOT NULL,
    status         text        NOT NULL CHECK (status IN ('released', 'lapsed', 'evicted')),
    end_reason     text        NOT NULL,
    ended_by       text        NOT NULL,
    ended_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id, ended_at),
    FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses (tenant_id, id)
) PARTITION BY RANGE (ended_at);
COMMENT ON TABLE app.ended_sessions IS 'Sessions that ended, a partition a month, so that retention drops whole months.';
CREATE INDEX ended_sessions_by_license ON app.ended_sessions (tenant_id, license_id, id);
-- Lists of one status: a rare one would be looked for in the whole history.
CREATE INDEX ended_sessions_by_status ON app.ended_sessions (tenant_id, status, id);
ALTER TABLE app.ended_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.ended_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.ended_sessions
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT ON app.ended_sessions TO usher_pools;
GRANT INSERT ON app.ended_sessions TO usher_seats;

CREATE TABLE app.ended_sessions_default PARTITION OF app.ended_sessions DEFAULT;
COMMENT ON TABLE app.ended_sessions_default IS 'Months that have no partition of their own: nothing is refused because nobody made one.';
ALTER TABLE app.ended_sessions_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.ended_sessions_default FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.ended_sessions_default
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));

-- +goose StatementBegin
CREATE FUNCTION app.make_history_partitions(p_months_ahead int) RETURNS int
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    -- A new partition needs the history for itself for a moment. Everybody else queues behind whoever waits for that, so
    -- it waits only this long; the next call tries again.
    SET lock_timeout = '200ms'
    AS $$
DECLARE
    this_month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
    m date;
    n text;
    made int := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('app.make_history_partitions')) THEN
        RETURN 0;
    END IF;
    -- Not this month's: unless it was made ahead, its rows lie in the default partition already, and finding that out
    -- reads all of them with everybody locked out, once a minute until the month is over.
    FOR i IN 1..least(p_months_ahead, 12) LOOP
        m := this_month + make_interval(months => i);
        n := 'ended_sessions_' || to_char(m, 'YYYY_MM');
        IF to_regclass('app.' || n) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE app.%I PARTITION OF app.ended_sessions FOR VALUES FROM (%L) TO (%L)', n,
                    to_char(m, 'YYYY-MM-DD 00:00:00+00'), to_char(m + interval '1 month', 'YYYY-MM-DD 00:00:00+00'));
                EXECUTE format('COMMENT ON TABLE app.%I IS %L', n, 'Sessions that ended in ' || to_char(m, 'YYYY-MM') || ' (UTC).');
                EXECUTE format('ALTER TABLE app.%I ENABLE ROW LEVEL SECURITY', n);
                EXECUTE format('ALTER TABLE app.%I FORCE ROW LEVEL SECURITY', n);
                EXECUTE format('CREATE POLICY tenant ON app.%I USING (tenant_id = (SELECT app.tenant())) '
                    'WITH CHECK (tenant_id = (SELECT app.tenant()))', n);
                made := made + 1;
            EXCEPTION
                WHEN check_violation THEN
                    NULL; -- rows of that month lie in the default partition already: they stay there
                WHEN lock_not_available THEN
                    RETURN made;
            END;
        END IF;
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.make_history_partitions(int) IS
    'Makes the partitions of the coming months that are missing, unless the history is too busy; answers how many it made.';
GRANT EXECUTE ON FUNCTION app.make_history_partitions(int) TO usher_sweep;

-- +goose StatementBegin
CREATE FUNCTION app.session_close(p_license uuid, p_epoch bigint, p_ids uuid[], p_statuses text[], p_reasons text[],
                                  p_bys text[], p_ats timestamptz[]) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF p_epoch IS NOT NULL THEN
        PERFORM FROM app.licenses l WHERE l.tenant_id = (SELECT app.tenant()) AND l.id = p_license AND l.seat_epoch = p_epoch FOR SHARE;
        IF NOT FOUND THEN
            RETURN 'epoch';
        END IF;
    END IF;
    WITH ends AS (
        SELECT * FROM unnest(p_ids, p_statuses, p_reasons, p_bys, p_ats) AS e (id, status, reason, ended_by, ended_at)
    ), gone AS (
        DELETE FROM app.open_sessions o USING ends e
         WHERE o.tenant_id = (SELECT app.tenant()) AND o.license_id = p_license AND o.id = e.id
        RETURNING o.*, e.status, e.reason, e.ended_by, e.ended_at
    )
    INSERT INTO app.ended_sessions (tenant_id, id, license_id, seat_no, overdraft, holder, hardware_id, hostname, user_name,
        instance_id, version, metadata, acquired_at, status, end_reason, ended_by, ended_at)
    SELECT g.tenant_id, g.id, g.license_id, g.seat_no, g.overdraft, g.holder, g.hardware_id, g.hostname, g.user_name,
        g.instance_id, g.version, g.metadata, g.acquired_at,
        CASE WHEN g.evicted_at IS NULL THEN g.status ELSE 'evicted' END,
        coalesce(g.evict_reason, g.reason),
        CASE WHEN g.evicted_at IS NULL THEN g.ended_by ELSE coalesce(g.evicted_by, '') END,
        coalesce(g.evicted_at, g.ended_at, now())
      FROM gone g;
    RETURN 'ok';
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.session_close(uuid, bigint, uuid[], text[], text[], text[], timestamptz[]) IS
    'Moves the open sessions among p_ids to history; those already ended are left as they are. With p_epoch the close rests on '
    'evidence of that epoch and is refused (epoch) in another; without, it is the holder''s own word. An eviction that was '
    'answered outranks every other way to end.';
GRANT EXECUTE ON FUNCTION app.session_close(uuid, bigint, uuid[], text[], text[], text[], timestamptz[]) TO usher_seats;

-- +goose StatementBegin
CREATE FUNCTION app.seat_open(
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
COMMENT ON FUNCTION app.seat_open(uuid, uuid, int, bigint, bigint, text, text, text, text, text, text, json, uuid[], text[], text[], text[], timestamptz[]) IS
    'Opens a session on the seat that the pool reserved for it in p_epoch, after closing the sessions it displaces, and records the device. '
    'ok (also when it is open already), epoch, seat_held, limit, suspended, ended or too_many_devices; only ok writes the session and the device.';
GRANT EXECUTE ON FUNCTION app.seat_open(uuid, uuid, int, bigint, bigint, text, text, text, text, text, text, json, uuid[], text[], text[], text[], timestamptz[])
    TO usher_seats;

CREATE TABLE app.sweep_cursor (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    after_tenant  uuid    NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    after_license uuid    NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);
COMMENT ON TABLE app.sweep_cursor IS 'Where the next sweep goes on.';
INSERT INTO app.sweep_cursor DEFAULT VALUES;
GRANT SELECT, UPDATE (after_tenant, after_license) ON app.sweep_cursor TO usher_sweep;

-- The sweep's look across tenants: which licences have open rows, and which pools were not told something. Names, no contents.
CREATE POLICY resolver_finds ON app.open_sessions FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, license_id, seat_no) ON app.open_sessions TO usher_resolver;
CREATE POLICY resolver_finds ON app.outbox FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, topic, subject_id, created_at) ON app.outbox TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.sweep_licenses(p_after_tenant uuid, p_after_license uuid, p_limit int)
    RETURNS TABLE (tenant_id uuid, license_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    -- A loose index scan: one probe of the unique index per licence, however many sessions it has.
    WITH RECURSIVE walk AS (
        (SELECT o.tenant_id, o.license_id FROM app.open_sessions o
          WHERE (o.tenant_id, o.license_id) > (p_after_tenant, p_after_license)
          ORDER BY o.tenant_id, o.license_id LIMIT 1)
        UNION ALL
        SELECT n.tenant_id, n.license_id FROM walk w, LATERAL (
            SELECT o.tenant_id, o.license_id FROM app.open_sessions o
             WHERE (o.tenant_id, o.license_id) > (w.tenant_id, w.license_id)
             ORDER BY o.tenant_id, o.license_id LIMIT 1) n
    )
    SELECT w.tenant_id, w.license_id FROM walk w LIMIT p_limit
    $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION app.sweep_outbox(p_limit int) RETURNS TABLE (tenant_id uuid, topic text, subject_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT o.tenant_id, o.topic, o.subject_id FROM app.outbox o
     WHERE o.topic IN ('license.changed', 'session.evicted')
     GROUP BY o.tenant_id, o.topic, o.subject_id
     ORDER BY min(o.created_at) LIMIT p_limit
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.sweep_licenses(uuid, uuid, int) IS 'Licences with open sessions, in the order of tenant and id, after the given one.';
COMMENT ON FUNCTION app.sweep_outbox(int) IS 'What the seat pools were not told, the longest waiting first.';
GRANT EXECUTE ON FUNCTION app.sweep_licenses(uuid, uuid, int), app.sweep_outbox(int) TO usher_sweep;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.sweep_outbox(int);
DROP FUNCTION app.sweep_licenses(uuid, uuid, int);
DROP TABLE app.sweep_cursor;
DROP FUNCTION app.seat_open(uuid, uuid, int, bigint, bigint, text, text, text, text, text, text, json, uuid[], text[], text[], text[], timestamptz[]);
DROP FUNCTION app.session_close(uuid, bigint, uuid[], text[], text[], text[], timestamptz[]);
DROP FUNCTION app.make_history_partitions(int);
DROP TABLE app.ended_sessions;
DROP TABLE app.open_sessions;
