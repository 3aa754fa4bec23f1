-- +goose Up
SET LOCAL ROLE usher_owner;

-- Many at once: what a statement costs by itself, most of what one opening costs, is paid once. Plans are made once, so they
-- must not rest on statistics, which say nothing of tables that fill within minutes, or of one tenant: OFFSET 0 (and FOR SHARE) keeps
-- a look-up by key what it is.

-- +goose StatementBegin
CREATE FUNCTION app.seats_open(
    p_licenses uuid[], p_sessions uuid[], p_seats int[], p_epochs bigint[], p_counters bigint[],
    p_holders text[], p_hardware text[], p_hostnames text[], p_users text[], p_instances text[], p_versions text[], p_metadata text[],
    p_gone_of int[], p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamptz[]
) RETURNS text[]
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    AS $$
DECLARE
    verdicts text[] := array_fill('busy'::text, ARRAY[cardinality(p_sessions)]);
    locked uuid[];
    displacing bigint[] := '{}';
    opened uuid[];
    new_devices boolean;
    revived uuid[];
BEGIN
    SELECT array_agg(a.id) INTO locked FROM unnest(p_licenses) AS a (id)
     CROSS JOIN LATERAL (SELECT FROM app.licenses l WHERE l.tenant_id = (SELECT app.tenant()) AND l.id = a.id FOR SHARE SKIP LOCKED) l;
    IF cardinality(p_gone_ids) > 0 THEN
        -- Most rows of those who sat there before are closed already: the pool does not hear of that.
        SELECT coalesce(array_agg(g.n), '{}') INTO displacing FROM unnest(p_gone_of, p_gone_ids) AS g (n, id)
         CROSS JOIN LATERAL (SELECT FROM app.open_sessions o WHERE o.tenant_id = (SELECT app.tenant()) AND o.id = g.id OFFSET 0) o;
    END IF;
    WITH asked AS (
        SELECT a.*, l.tenant_id, a.seat > l.max_seats AS overdraft, coalesce(d.last_seen_at < now() - interval '1 hour', true) AS new_device
          FROM unnest(p_licenses, p_sessions, p_seats, p_epochs, p_counters, p_holders, p_hardware, p_hostnames, p_users, p_instances,
                   p_versions, p_metadata) WITH ORDINALITY
               AS a (license_id, id, seat, epoch, counter, holder, hardware, hostname, user_name, instance_id, version, metadata, n)
         CROSS JOIN LATERAL (SELECT x.* FROM app.licenses x WHERE x.tenant_id = (SELECT app.tenant()) AND x.id = a.license_id OFFSET 0) l
          LEFT JOIN LATERAL (SELECT x.last_seen_at FROM app.devices x
             WHERE x.tenant_id = (SELECT app.tenant()) AND x.license_id = a.license_id AND x.hardware_id = a.hardware OFFSET 0) d ON true
         WHERE a.license_id = ANY (locked) AND a.n <> ALL (displacing)
           AND l.seat_epoch = a.epoch AND a.seat <= l.max_seats + l.overdraft_seats
           AND app.license_state((SELECT t.status FROM app.tenants t WHERE t.id = (SELECT app.tenant())), l.status, l.starts_at, l.expires_at,
                   l.grace_until, now()) = 'active'
           AND (d.last_seen_at IS NOT NULL OR l.max_devices IS NULL)
    ), opened AS (
        INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, overdraft, holder, hardware_id,
            hostname, user_name, instance_id, version, metadata)
        SELECT a.tenant_id, a.id, a.license_id, a.seat, a.epoch, a.counter, a.overdraft, a.holder, a.hardware,
            a.hostname, a.user_name, a.instance_id, a.version, a.metadata::json FROM asked a ORDER BY a.n
        ON CONFLICT DO NOTHING RETURNING id
    )
    SELECT array_agg(o.id), bool_or(a.new_device) INTO opened, new_devices FROM opened o JOIN asked a USING (id);
    -- Two callers may open one session; if the other's was opened and ended meanwhile, ours must not revive it.
    SELECT array_agg(a.id) INTO revived FROM unnest(opened) AS a (id)
     CROSS JOIN LATERAL (SELECT FROM app.ended_sessions e WHERE e.tenant_id = (SELECT app.tenant()) AND e.id = a.id OFFSET 0) e;
    IF revived IS NOT NULL THEN
        DELETE FROM app.open_sessions o WHERE o.tenant_id = (SELECT app.tenant()) AND o.id = ANY (revived);
    END IF;
    IF new_devices THEN
        INSERT INTO app.devices AS d (tenant_id, license_id, hardware_id, hostname)
        SELECT DISTINCT ON (a.license_id, a.hardware) (SELECT app.tenant()), a.license_id, a.hardware, a.hostname
          FROM unnest(p_licenses, p_sessions, p_hardware, p_hostnames) AS a (license_id, id, hardware, hostname)
         WHERE a.id = ANY (opened) AND a.id <> ALL (coalesce(revived, '{}'))
         ORDER BY a.license_id, a.hardware
        ON CONFLICT (tenant_id, license_id, hardware_id) DO UPDATE SET last_seen_at = now(), hostname = coalesce(excluded.hostname, d.hostname)
         WHERE d.last_seen_at < now() - interval '1 hour';
    END IF;
    -- Whatever is not plain, and every refusal, is seat_open's.
    FOR i IN 1..cardinality(p_sessions) LOOP
        IF p_sessions[i] = ANY (revived) THEN
            verdicts[i] := 'ended';
        ELSIF p_sessions[i] = ANY (opened) THEN
            verdicts[i] := 'ok';
        ELSIF p_licenses[i] = ANY (locked) THEN
            verdicts[i] := (
                SELECT app.seat_open(p_licenses[i], p_sessions[i], p_seats[i], p_epochs[i], p_counters[i], p_holders[i], p_hardware[i],
                           p_hostnames[i], p_users[i], p_instances[i], p_versions[i], p_metadata[i]::json,
                           coalesce(array_agg(g.id), '{}'), array_agg(g.status), array_agg(g.reason), array_agg(g.ended_by), array_agg(g.ended_at))
                  FROM unnest(p_gone_of, p_gone_ids, p_gone_statuses, p_gone_reasons, p_gone_bys, p_gone_ats)
                       AS g (n, id, status, reason, ended_by, ended_at) WHERE g.n = i);
        END IF;
    END LOOP;
    RETURN verdicts;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.seats_open(uuid[], uuid[], int[], bigint[], bigint[], text[], text[], text[], text[], text[], text[], text[],
                                   int[], uuid[], text[], text[], text[], timestamptz[]) IS
    'seat_open for many sessions of one tenant, by a few statements; the verdicts are in their order. p_gone_of says by number whose place '
    'each of the displaced was. A licence that somebody holds, or that is not there, is not waited for: busy.';
GRANT EXECUTE ON FUNCTION app.seats_open(uuid[], uuid[], int[], bigint[], bigint[], text[], text[], text[], text[], text[], text[], text[],
                                         int[], uuid[], text[], text[], text[], timestamptz[]) TO usher_seats;

-- +goose StatementBegin
CREATE FUNCTION app.sessions_release(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamptz[])
    RETURNS TABLE (session_id uuid, status text, end_reason text, ended_by text, ended_at timestamptz)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    AS $$
#variable_conflict use_column
DECLARE
    o app.open_sessions;
    gone app.open_sessions[];
    which int[];
BEGIN
    FOR i IN 1..cardinality(p_ids) LOOP
        DELETE FROM app.open_sessions x WHERE x.tenant_id = (SELECT app.tenant()) AND x.license_id = p_licenses[i] AND x.id = p_ids[i]
            RETURNING x.* INTO o;
        IF FOUND THEN
            gone := gone || o;
            which := which || i;
        END IF;
    END LOOP;
    IF gone IS NOT NULL THEN
        RETURN QUERY INSERT INTO app.ended_sessions AS s (tenant_id, id, license_id, seat_no, overdraft, holder, hardware_id, hostname, user_name,
            instance_id, version, metadata, acquired_at, status, end_reason, ended_by, ended_at)
        SELECT g.tenant_id, g.id, g.license_id, g.seat_no, g.overdraft, g.holder, g.hardware_id, g.hostname, g.user_name,
            g.instance_id, g.version, g.metadata, g.acquired_at,
            CASE WHEN g.evicted_at IS NULL THEN p_statuses[w.i] ELSE 'evicted' END,
            coalesce(g.evict_reason, p_reasons[w.i]),
            CASE WHEN g.evicted_at IS NULL THEN p_bys[w.i] ELSE coalesce(g.evicted_by, '') END,
            coalesce(g.evicted_at, p_ats[w.i], now())
          FROM unnest(gone) WITH ORDINALITY AS g JOIN unnest(which) WITH ORDINALITY AS w (i, ordinality) USING (ordinality)
        RETURNING s.id, s.status, s.end_reason, s.ended_by, s.ended_at;
    END IF;
    IF cardinality(which) IS DISTINCT FROM cardinality(p_ids) THEN -- some had ended
        RETURN QUERY SELECT s.* FROM unnest(p_ids) AS a (id) CROSS JOIN LATERAL (
            SELECT s.id, s.status, s.end_reason, s.ended_by, s.ended_at FROM app.ended_sessions s
             WHERE s.tenant_id = (SELECT app.tenant()) AND s.id = a.id OFFSET 0) s;
    END IF;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.sessions_release(uuid[], uuid[], text[], text[], text[], timestamptz[]) IS
    'session_close on the word of the holders, for many sessions of one tenant. It answers how each ended, by this call or before, '
    'twice perhaps, and nothing of those that nobody knows.';
GRANT EXECUTE ON FUNCTION app.sessions_release(uuid[], uuid[], text[], text[], text[], timestamptz[]) TO usher_seats;

-- +goose Down
DROP FUNCTION app.sessions_release(uuid[], uuid[], text[], text[], text[], timestamptz[]);
DROP FUNCTION app.seats_open(uuid[], uuid[], int[], bigint[], bigint[], text[], text[], text[], text[], text[], text[], text[],
                             int[], uuid[], text[], text[], text[], timestamptz[]);
