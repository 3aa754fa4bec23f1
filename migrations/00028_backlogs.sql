-- +goose Up

-- What piles up holds nobody else up: a webhook's deliveries, and entries of the audit log that are old.
SET LOCAL ROLE usher_owner;

-- safe: index app.webhook_deliveries: deliver alone waits for it; what it cannot write it takes up in its next run, and an event may come twice
CREATE INDEX webhook_deliveries_pending ON app.webhook_deliveries (tenant_id, webhook_id, next_at, id) WHERE status = 'pending';
DROP INDEX app.webhook_deliveries_due;

-- +goose StatementBegin
CREATE FUNCTION app.audit_kept_from(p_days int) RETURNS timestamptz
    LANGUAGE sql STABLE
    -- No caller can have younger entries dropped, so that none can make its own act unseen.
    AS $$ SELECT date_trunc('month', now() - make_interval(days => greatest(p_days, 90)), 'UTC') $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.audit_kept_from(int) IS
    'When the month of the audit log begins in which the oldest entry lies that is so many days old, 90 at the least: what is older is dropped.';
GRANT EXECUTE ON FUNCTION app.audit_kept_from(int) TO usher_resolver;

CREATE POLICY resolver_finds ON app.audit_entries FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, at) ON app.audit_entries TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;

-- +goose StatementBegin
CREATE FUNCTION app.waiting_webhooks() RETURNS TABLE (tenant_id uuid, webhook_id uuid, since timestamptz)
    LANGUAGE sql STABLE
    -- One index has these orders. By statistics, which know nothing of one webhook that has nearly all there is, another index and a sort cost
    -- as little.
    SET enable_sort = off SET enable_incremental_sort = off SET enable_seqscan = off
    AS $$
    -- A loose index scan: two probes per webhook that has something pending, however much that is.
    WITH RECURSIVE walk AS (
        (SELECT d.tenant_id, d.webhook_id FROM app.webhook_deliveries d
          WHERE d.status = 'pending'
          ORDER BY d.tenant_id, d.webhook_id, d.next_at, d.id LIMIT 1)
        UNION ALL
        SELECT n.tenant_id, n.webhook_id FROM walk k, LATERAL (
            SELECT d.tenant_id, d.webhook_id FROM app.webhook_deliveries d
             WHERE d.status = 'pending' AND (d.tenant_id, d.webhook_id) > (k.tenant_id, k.webhook_id)
             ORDER BY d.tenant_id, d.webhook_id, d.next_at, d.id LIMIT 1) n
    )
    SELECT k.tenant_id, k.webhook_id, due.next_at FROM walk k, LATERAL (
        SELECT d.next_at FROM app.webhook_deliveries d
         WHERE d.tenant_id = k.tenant_id AND d.webhook_id = k.webhook_id AND d.status = 'pending' AND d.next_at <= now()
         ORDER BY d.next_at, d.id LIMIT 1) due
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.waiting_webhooks() IS
    'Webhooks with deliveries whose time has come, and since when the first of each waits. For functions of the resolver''s, who sees all tenants.';
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.due_webhooks(p_limit int) RETURNS TABLE (tenant_id uuid, id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT w.tenant_id, w.id FROM app.waiting_webhooks() due
      JOIN app.webhooks w ON w.tenant_id = due.tenant_id AND w.id = due.webhook_id
     ORDER BY w.failing_since IS NOT NULL, due.since LIMIT p_limit
    $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.waiting() RETURNS TABLE (queue text, waiting bigint, seconds double precision)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT 'pools', count(*), coalesce(extract(epoch FROM now() - min(o.created_at)), 0)
      FROM app.outbox o WHERE o.topic IN ('license.changed', 'session.evicted')
    UNION ALL
    SELECT 'mails', count(*), coalesce(extract(epoch FROM now() - min(m.next_at)), 0)
      FROM app.mails m WHERE m.status = 'pending' AND m.next_at <= now()
    UNION ALL
    SELECT 'events', count(*), coalesce(extract(epoch FROM now() - min(e.recorded_at)), 0)
      FROM app.events e WHERE e.dispatched_at IS NULL
    UNION ALL
    SELECT 'webhooks',
           (SELECT count(*) FROM (SELECT FROM app.webhook_deliveries d WHERE d.status = 'pending' AND d.next_at <= now() LIMIT 100000) d),
           coalesce(extract(epoch FROM now() - (SELECT min(w.since) FROM app.waiting_webhooks() w)), 0)
    UNION ALL
    SELECT 'stripe_events', count(*), coalesce(extract(epoch FROM now() - min(s.received_at)), 0)
      FROM app.stripe_events s WHERE s.status = 'failed'
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.waiting() IS
    'Of each queue, how much is due and how long the longest has waited: pools that were not told, mails, events without their deliveries, '
    'deliveries, of which 100,000 are counted at the most, and events of Stripe''s that had no effect. Numbers, of all tenants together.';

-- The audit log: whose entries are old, and whether a month still has any.
-- +goose StatementBegin
CREATE FUNCTION app.old_audit_tenants(p_days int, p_after uuid, p_limit int) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_sort = off SET enable_seqscan = off -- as app.waiting_webhooks
    AS $$
    -- A loose index scan of the old months: some probes per tenant, however many entries it has.
    WITH RECURSIVE walk AS (
        (SELECT e.tenant_id FROM app.audit_entries e
          WHERE e.at < app.audit_kept_from(p_days) AND e.tenant_id > p_after
          ORDER BY e.tenant_id LIMIT 1)
        UNION ALL
        SELECT n.tenant_id FROM walk k, LATERAL (
            SELECT e.tenant_id FROM app.audit_entries e
             WHERE e.at < app.audit_kept_from(p_days) AND e.tenant_id > k.tenant_id
             ORDER BY e.tenant_id LIMIT 1) n
    )
    SELECT k.tenant_id FROM walk k LIMIT least(p_limit, 1000)
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.old_audit_tenants(int, uuid, int) IS
    'Tenants after p_after with entries of the audit log that are older than what is kept, in their order. For app.expire_audit, which sees one at a time.';
GRANT EXECUTE ON FUNCTION app.old_audit_tenants(int, uuid, int) TO usher_expire;
-- +goose StatementBegin
CREATE FUNCTION app.has_audit(p_from timestamptz, p_to timestamptz) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT EXISTS (SELECT FROM app.audit_entries e WHERE e.at >= p_from AND e.at < p_to) $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.has_audit(timestamptz, timestamptz) IS
    'Whether any tenant has an act of that time, p_to not included. For app.drop_audit, whose role sees one tenant at a time.';
GRANT EXECUTE ON FUNCTION app.has_audit(timestamptz, timestamptz) TO usher_owner;
-- safe: drop app.chained_tenants(): no version calls it; app.drop_audit did
DROP FUNCTION app.chained_tenants();
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

SET LOCAL ROLE usher_owner;
-- +goose StatementBegin
CREATE FUNCTION app.expire_audit(p_days int) RETURNS int
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_sort = off SET enable_seqscan = off -- as app.waiting_webhooks
    AS $$
DECLARE
    newest record;
    gone int;
BEGIN
    -- As acts do: who verifies sees the entries and the start of one moment, and no act of another tenant waits.
    PERFORM FROM app.audit_chains c WHERE c.tenant_id = app.tenant() FOR NO KEY UPDATE;
    SELECT o.at, o.seq, o.hash INTO newest FROM (
        SELECT e.at, e.seq, e.hash FROM app.audit_entries e
         WHERE e.tenant_id = app.tenant() AND e.at < app.audit_kept_from(p_days)
         ORDER BY e.at, e.seq LIMIT 2000) o
     ORDER BY o.at DESC, o.seq DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    DELETE FROM app.audit_entries e WHERE e.tenant_id = app.tenant() AND e.at <= newest.at AND (e.at, e.seq) <= (newest.at, newest.seq);
    GET DIAGNOSTICS gone = ROW_COUNT;
    UPDATE app.audit_chains c SET start_seq = newest.seq, start_hash = newest.hash
     WHERE c.tenant_id = app.tenant() AND c.start_seq < newest.seq;
    RETURN gone;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.expire_audit(int) IS
    'Drops the first 2,000 of the tenant''s entries that are older than the month in which so many days ago lies, 90 at the least, moves the chain''s start '
    'to the last of them, and answers how many those were: 0 when none is left. Meanwhile the tenant''s own acts wait.';
GRANT EXECUTE ON FUNCTION app.expire_audit(int) TO usher_expire;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.drop_audit(p_days int) RETURNS int
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    -- As app.drop_history: whoever waits for the log keeps everybody else waiting.
    SET lock_timeout = '200ms'
    AS $$
DECLARE
    part record;
    empty text[] := '{}';
    n text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('app.make_audit_partitions')) THEN
        RETURN 0;
    END IF;
    FOR part IN
        SELECT m.relname, m.month AT TIME ZONE 'UTC' AS begins, (m.month + interval '1 month') AT TIME ZONE 'UTC' AS ends FROM (
            SELECT c.relname, to_date(right(c.relname, 7) || '_01', 'YYYY_MM_DD')::timestamp AS month
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'app.audit_entries'::regclass AND c.relname ~ '^audit_entries_[0-9]{4}_[0-9]{2}$') m
         WHERE (m.month + interval '1 month') AT TIME ZONE 'UTC' <= app.audit_kept_from(p_days) ORDER BY m.relname
    LOOP
        BEGIN
            -- What has no entries gets none; nobody writes to a month that is over, and so nobody waits.
            EXECUTE format('LOCK TABLE app.%I IN SHARE MODE', part.relname);
            IF NOT app.has_audit(part.begins, part.ends) THEN
                empty := empty || part.relname::text;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            NULL; -- app.expire_audit is at it
        END;
    END LOOP;
    IF empty = '{}' THEN
        RETURN 0;
    END IF;
    -- Acts wait from here on: for nothing that grows with tenants or entries.
    BEGIN
        LOCK TABLE app.audit_entries IN ACCESS EXCLUSIVE MODE;
        FOREACH n IN ARRAY empty LOOP
            EXECUTE format('DROP TABLE app.%I', n);
        END LOOP;
    EXCEPTION WHEN lock_not_available THEN
        RETURN 0;
    END;
    RETURN cardinality(empty);
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.drop_audit(int) IS
    'Drops the months of the audit log that ended so many days ago, 90 at the least, and of which app.expire_audit has left nothing, unless the log '
    'is too busy, and answers how many.';
RESET ROLE;

-- +goose Down
SET LOCAL ROLE usher_owner;
DROP FUNCTION app.expire_audit(int);
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.chained_tenants() RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT c.tenant_id FROM app.audit_chains c WHERE c.seq > 0 $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.chained_tenants() IS 'Tenants who have an audit log. For app.drop_audit, whose role sees one tenant at a time.';
GRANT EXECUTE ON FUNCTION app.chained_tenants() TO usher_owner;
DROP FUNCTION app.has_audit(timestamptz, timestamptz);
DROP FUNCTION app.old_audit_tenants(int, uuid, int);
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.due_webhooks(p_limit int) RETURNS TABLE (tenant_id uuid, id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT w.tenant_id, w.id FROM (
        SELECT d.tenant_id, d.webhook_id, min(d.next_at) AS since FROM app.webhook_deliveries d
         WHERE d.status = 'pending' AND d.next_at <= now() GROUP BY d.tenant_id, d.webhook_id) due
      JOIN app.webhooks w ON w.tenant_id = due.tenant_id AND w.id = due.webhook_id
     ORDER BY w.failing_since IS NOT NULL, due.since LIMIT p_limit
    $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.waiting() RETURNS TABLE (queue text, waiting bigint, seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'pools', count(*), coalesce(extract(epoch FROM now() - min(o.created_at)), 0)
      FROM app.outbox o WHERE o.topic IN ('license.changed', 'session.evicted')
    UNION ALL
    SELECT 'mails', count(*), coalesce(extract(epoch FROM now() - min(m.next_at)), 0)
      FROM app.mails m WHERE m.status = 'pending' AND m.next_at <= now()
    UNION ALL
    SELECT 'events', count(*), coalesce(extract(epoch FROM now() - min(e.recorded_at)), 0)
      FROM app.events e WHERE e.dispatched_at IS NULL
    UNION ALL
    SELECT 'webhooks', count(*), coalesce(extract(epoch FROM now() - min(d.next_at)), 0)
      FROM app.webhook_deliveries d WHERE d.status = 'pending' AND d.next_at <= now()
    UNION ALL
    SELECT 'stripe_events', count(*), coalesce(extract(epoch FROM now() - min(s.received_at)), 0)
      FROM app.stripe_events s WHERE s.status = 'failed'
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.waiting() IS
    'Of each queue, how much is due and how long the longest has waited: pools that were not told, mails, events without their deliveries, '
    'deliveries, and events of Stripe''s that had no effect. Numbers, of all tenants together.';
DROP FUNCTION app.waiting_webhooks();
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;
SET LOCAL ROLE usher_owner;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.drop_audit(p_days int) RETURNS int
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    -- As app.drop_history: whoever waits for the log keeps everybody else waiting.
    SET lock_timeout = '200ms'
    AS $$
DECLARE
    -- No caller can have younger entries dropped, so that none can make its own act unseen.
    keep_from timestamptz := now() - make_interval(days => greatest(p_days, 90));
    part record;
    t uuid;
    dropped int := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('app.make_audit_partitions')) THEN
        RETURN 0;
    END IF;
    FOR part IN
        SELECT m.relname, m.ends FROM (
            SELECT c.relname, (to_date(right(c.relname, 7) || '_01', 'YYYY_MM_DD') + interval '1 month') AT TIME ZONE 'UTC' AS ends
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'app.audit_entries'::regclass AND c.relname ~ '^audit_entries_[0-9]{4}_[0-9]{2}$') m
         WHERE m.ends <= keep_from ORDER BY m.relname
    LOOP
        BEGIN
            -- Before any row of a chain: in this order acts take them, too.
            LOCK TABLE app.audit_entries IN ACCESS EXCLUSIVE MODE;
            FOR t IN SELECT c.tenant_id FROM app.chained_tenants() c LOOP
                PERFORM set_config('app.current_tenant_id', t::text, true);
                UPDATE app.audit_chains c SET start_seq = e.seq, start_hash = e.hash
                  FROM (SELECT p.seq, p.hash FROM app.audit_entries p WHERE p.tenant_id = t AND p.at < part.ends
                         ORDER BY p.at DESC, p.seq DESC LIMIT 1) e
                 WHERE c.tenant_id = t AND c.start_seq < e.seq;
                -- Older entries that have no month of their own are part of the same beginning.
                DELETE FROM app.audit_entries_default p WHERE p.tenant_id = t AND p.at < part.ends;
            END LOOP;
            PERFORM set_config('app.current_tenant_id', '', true);
            EXECUTE format('DROP TABLE app.%I', part.relname);
            dropped := dropped + 1;
        EXCEPTION WHEN lock_not_available THEN
            RETURN dropped;
        END;
    END LOOP;
    RETURN dropped;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.drop_audit(int) IS
    'Drops the months of the audit log that ended so many days ago, 90 at the least, unless it is too busy, and answers how many. With a '
    'month go older entries without one of their own, and each chain''s start moves to the last entry that was dropped.';
REVOKE SELECT (tenant_id, at) ON app.audit_entries FROM usher_resolver;
DROP POLICY resolver_finds ON app.audit_entries;
DROP FUNCTION app.audit_kept_from(int);
CREATE INDEX webhook_deliveries_due ON app.webhook_deliveries (next_at) WHERE status = 'pending';
DROP INDEX app.webhook_deliveries_pending;
RESET ROLE;
