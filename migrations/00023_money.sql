-- +goose Up
SET LOCAL ROLE usher_owner;

-- Seats beyond a licence's own are counted by the hour, and billed where the plan has a price for them.

CREATE TABLE app.overdraft_counts (
    tenant_id  uuid        NOT NULL REFERENCES app.tenants (id),
    counted_to timestamptz NOT NULL CHECK (counted_to = date_trunc('hour', counted_to, 'UTC')),
    PRIMARY KEY (tenant_id, counted_to)
);
COMMENT ON TABLE app.overdraft_counts IS
    'Up to which hour a tenant''s overdraft seats are counted in usage_hours, as overdraft_seat_hours. Counting an hour again counts no '
    'less and nothing twice. Whoever counts writes a row first, for which another waits, and deletes those before it.';
ALTER TABLE app.overdraft_counts ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.overdraft_counts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.overdraft_counts
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT, DELETE ON app.overdraft_counts TO usher_meter;

GRANT SELECT (tenant_id, license_id, seat_no, overdraft, acquired_at, evicted_at) ON app.open_sessions TO usher_meter;
GRANT SELECT (tenant_id, license_id, seat_no, overdraft, acquired_at, ended_at, recorded_at) ON app.ended_sessions TO usher_meter;
GRANT SELECT (tenant_id, id, max_seats) ON app.licenses TO usher_meter;
GRANT INSERT (tenant_id, license_id, metric, hour, quantity), UPDATE (quantity) ON app.usage_hours TO usher_meter;
GRANT SELECT, INSERT (tenant_id, license_id, metric, month, quantity), UPDATE (quantity) ON app.usage_months TO usher_meter;

-- Prices of Stripe's older form hear of usage by usage records.
ALTER TABLE app.usage_reports ADD COLUMN subscription_id text, ADD COLUMN told_at timestamptz;
COMMENT ON COLUMN app.usage_reports.subscription_id IS
    'For a price of the older form: the subscription whose usage record is set; event_name is the price then. NULL: it is a meter event.';
COMMENT ON COLUMN app.usage_reports.told_at IS
    'Of a usage record: the second under which Stripe has it. It is fixed before it is first sent: of one second Stripe is told the sum of all '
    'reports that have it, so that telling it again changes nothing.';
GRANT INSERT (subscription_id), UPDATE (told_at) ON app.usage_reports TO usher_meter;
GRANT SELECT (period_start) ON app.subscriptions TO usher_meter;

-- What Stripe has of it is compared each night.
GRANT SELECT (tenant_id, license_id, hour, quantity, customer, event_name, status, finished_at, subscription_id) ON app.usage_reports TO usher_expire;

CREATE POLICY resolver_finds ON app.overdraft_counts FOR SELECT TO usher_resolver USING (true);
GRANT SELECT ON app.overdraft_counts TO usher_resolver;
GRANT SELECT (overdraft_seats) ON app.licenses TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.overdraft_tenants(p_limit int) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT t.tenant_id FROM (
        SELECT l.tenant_id FROM app.licenses l WHERE l.overdraft_seats > 0
        UNION
        SELECT k.tenant_id FROM app.overdraft_counts k) t
      LEFT JOIN LATERAL (SELECT max(k.counted_to) AS counted_to FROM app.overdraft_counts k WHERE k.tenant_id = t.tenant_id) c ON true
     WHERE c.counted_to IS NULL OR c.counted_to < date_trunc('hour', now() - interval '5 minutes', 'UTC')
     ORDER BY c.counted_to NULLS FIRST LIMIT p_limit
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.overdraft_tenants(int) IS
    'Tenants who have seats beyond their own, or had, and of whom an hour that is over for five minutes is not counted, the longest waiting first.';
GRANT EXECUTE ON FUNCTION app.overdraft_tenants(int) TO usher_meter;

-- The audit log is kept for a time.
-- +goose StatementBegin
CREATE FUNCTION app.chained_tenants() RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT c.tenant_id FROM app.audit_chains c WHERE c.seq > 0 $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.chained_tenants() IS 'Tenants who have an audit log. For app.drop_audit, whose role sees one tenant at a time.';
GRANT EXECUTE ON FUNCTION app.chained_tenants() TO usher_owner;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

SET LOCAL ROLE usher_owner;
-- +goose StatementBegin
CREATE FUNCTION app.drop_audit(p_days int) RETURNS int
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
GRANT EXECUTE ON FUNCTION app.drop_audit(int) TO usher_expire;

-- +goose Down
DROP FUNCTION app.drop_audit(int);
DROP FUNCTION app.chained_tenants();
DROP FUNCTION app.overdraft_tenants(int);
DROP TABLE app.overdraft_counts;
REVOKE SELECT (tenant_id, license_id, seat_no, overdraft, acquired_at, evicted_at) ON app.open_sessions FROM usher_meter;
REVOKE SELECT (tenant_id, license_id, seat_no, overdraft, acquired_at, ended_at, recorded_at) ON app.ended_sessions FROM usher_meter;
REVOKE SELECT (tenant_id, id, max_seats) ON app.licenses FROM usher_meter;
REVOKE INSERT (tenant_id, license_id, metric, hour, quantity), UPDATE (quantity) ON app.usage_hours FROM usher_meter;
REVOKE SELECT, INSERT (tenant_id, license_id, metric, month, quantity), UPDATE (quantity) ON app.usage_months FROM usher_meter;
REVOKE SELECT (tenant_id, license_id, hour, quantity, customer, event_name, status, finished_at, subscription_id) ON app.usage_reports FROM usher_expire;
ALTER TABLE app.usage_reports DROP COLUMN subscription_id, DROP COLUMN told_at;
REVOKE SELECT (period_start) ON app.subscriptions FROM usher_meter;
REVOKE SELECT (overdraft_seats) ON app.licenses FROM usher_resolver;
