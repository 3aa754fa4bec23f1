-- +goose Up

-- What is used, by the unit: function usage counts it, function meter reports it to Stripe. Each has a login role of its own.

-- +goose StatementBegin
DO $$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['usher_usage', 'usher_meter'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOBYPASSRLS', r);
        END IF;
        EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', r, '3s');
        EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', r, '1s');
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', r, '5s');
        EXECUTE format('ALTER ROLE %I SET search_path = %L', r, 'app');
    END LOOP;
END
$$;
-- +goose StatementEnd
GRANT usher_facts, usher_notices TO usher_usage;

SET LOCAL ROLE usher_owner;
GRANT USAGE ON SCHEMA app TO usher_usage, usher_meter;

CREATE TABLE app.plan_metrics (
    plan_code text   NOT NULL REFERENCES app.plans (code),
    metric    text   NOT NULL CHECK (metric ~ '^[a-z][a-z0-9_]{0,62}$'),
    quota     bigint CHECK (quota BETWEEN 1 AND 1000000000000000),
    cap       bigint CHECK (cap BETWEEN 1 AND 1000000000000000),
    cap_type  text   CHECK (cap_type IN ('soft', 'hard')),
    PRIMARY KEY (plan_code, metric),
    CONSTRAINT a_cap_has_a_type CHECK ((cap IS NULL) = (cap_type IS NULL))
);
COMMENT ON TABLE app.plan_metrics IS
    'What the licences of a plan may report the use of. It holds for every licence of the plan from now on: unlike a plan''s '
    'defaults it is not copied. What a unit costs is configuration (STRIPE_CATALOG).';
COMMENT ON COLUMN app.plan_metrics.quota IS 'So many units of a licence in a calendar month (UTC) are expected: owners are warned at 80 and 100 %. NULL: none.';
COMMENT ON COLUMN app.plan_metrics.cap IS 'The most units of a licence in a calendar month. Beyond it a hard cap refuses, a soft one warns.';
GRANT SELECT ON app.plan_metrics TO usher_facts, usher_operator;
GRANT INSERT, UPDATE (quota, cap, cap_type), DELETE ON app.plan_metrics TO usher_operator;

CREATE TABLE app.usage_events (
    tenant_id   uuid        NOT NULL REFERENCES app.tenants (id),
    id          text        NOT NULL CHECK (char_length(id) BETWEEN 1 AND 100),
    license_id  uuid        NOT NULL,
    metric      text        NOT NULL,
    quantity    bigint      NOT NULL CHECK (quantity BETWEEN 1 AND 1000000000),
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    session_id  uuid,
    api_key_id  uuid,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT one_of_them_sent_it CHECK ((session_id IS NULL) <> (api_key_id IS NULL))
);
COMMENT ON TABLE app.usage_events IS
    'Events that were counted, by the ids that their senders gave them: an id counts once. Kept for 35 days, far longer than an '
    'event may be late; the sums stay.';
CREATE INDEX usage_events_old ON app.usage_events (recorded_at);
ALTER TABLE app.usage_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.usage_events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.usage_events
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT (tenant_id, id, metric, quantity, occurred_at), -- what RETURNING and ON CONFLICT read
    INSERT (tenant_id, id, license_id, metric, quantity, occurred_at, session_id, api_key_id) ON app.usage_events TO usher_usage;

CREATE TABLE app.usage_months (
    tenant_id  uuid        NOT NULL,
    license_id uuid        NOT NULL,
    metric     text        NOT NULL,
    month      timestamptz NOT NULL CHECK (month = date_trunc('month', month, 'UTC')),
    quantity   bigint      NOT NULL DEFAULT 0 CHECK (quantity >= 0),
    warned     smallint    NOT NULL DEFAULT 0 CHECK (warned IN (0, 80, 100)),
    PRIMARY KEY (tenant_id, license_id, metric, month),
    FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses (tenant_id, id)
);
COMMENT ON TABLE app.usage_months IS
    'The sum of a licence''s events of a metric in a calendar month (UTC), which quota and cap are held against. Whoever counts '
    'holds the row until the commit, so that a hard cap is exact.';
COMMENT ON COLUMN app.usage_months.warned IS 'The highest percentage of the quota that owners were warned of.';
ALTER TABLE app.usage_months ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.usage_months FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.usage_months
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT (tenant_id, license_id, metric, month), UPDATE (quantity, warned) ON app.usage_months TO usher_usage;

CREATE TABLE app.usage_hours (
    tenant_id  uuid        NOT NULL,
    license_id uuid        NOT NULL,
    metric     text        NOT NULL,
    hour       timestamptz NOT NULL CHECK (hour = date_trunc('hour', hour, 'UTC')),
    quantity   bigint      NOT NULL,
    settled    bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, license_id, metric, hour),
    FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses (tenant_id, id),
    CONSTRAINT no_more_is_settled_than_used CHECK (settled BETWEEN 0 AND quantity)
);
COMMENT ON TABLE app.usage_hours IS
    'The sum of a licence''s events of a metric in an hour, written in the transaction that counts them, late ones too.';
COMMENT ON COLUMN app.usage_hours.settled IS 'How much of it is in reports to Stripe, or has no price there.';
CREATE INDEX usage_hours_due ON app.usage_hours (tenant_id, hour) WHERE settled < quantity;
ALTER TABLE app.usage_hours ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.usage_hours FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.usage_hours
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT (tenant_id, license_id, metric, hour, quantity), UPDATE (quantity) ON app.usage_hours TO usher_usage;
GRANT SELECT, UPDATE (settled) ON app.usage_hours TO usher_meter;

CREATE TABLE app.usage_reports (
    tenant_id   uuid        NOT NULL,
    id          uuid        NOT NULL,
    license_id  uuid        NOT NULL,
    metric      text        NOT NULL,
    hour        timestamptz NOT NULL,
    quantity    bigint      NOT NULL CHECK (quantity > 0),
    customer    text        NOT NULL CHECK (char_length(customer) BETWEEN 1 AND 255),
    event_name  text        NOT NULL CHECK (char_length(event_name) BETWEEN 1 AND 100),
    status      text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'sent', 'acknowledged', 'doubtful')),
    attempts    int         NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL DEFAULT now(),
    sent_at     timestamptz,
    finished_at timestamptz,
    error       text        CHECK (char_length(error) <= 500),
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, license_id, metric, hour) REFERENCES app.usage_hours (tenant_id, license_id, metric, hour),
    CONSTRAINT what_was_sent_has_a_time CHECK (status = 'pending' OR sent_at IS NOT NULL),
    CONSTRAINT what_is_over_has_a_time CHECK ((status IN ('acknowledged', 'doubtful')) = (finished_at IS NOT NULL))
);
COMMENT ON TABLE app.usage_reports IS
    'What Stripe is told, or was: one row is one meter event, whose identifier is the row''s id and is fixed before it is sent. Events '
    'that came after their hour was reported are in another row. Reports of an hour, and what has no price, add up to what is settled.';
COMMENT ON COLUMN app.usage_reports.status IS
    'pending: not told, or refused, which counts nothing. sent: somebody began to tell it. acknowledged: Stripe has it. doubtful: '
    'sent a day ago, and nobody heard whether it came: telling it again could count it twice, so that a person decides.';
COMMENT ON COLUMN app.usage_reports.next_at IS 'Not before. Who sends it moves this on first, by longer than a run takes, so that nobody else does.';
COMMENT ON COLUMN app.usage_reports.sent_at IS 'When it may first have come to Stripe, which knows its identifier for a day from then on.';
CREATE INDEX usage_reports_by_hour ON app.usage_reports (tenant_id, license_id, metric, hour);
CREATE INDEX usage_reports_due ON app.usage_reports (tenant_id, next_at) WHERE status IN ('pending', 'sent');
ALTER TABLE app.usage_reports ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.usage_reports FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.usage_reports
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT (tenant_id, id, license_id, metric, hour, quantity, customer, event_name),
    UPDATE (status, attempts, next_at, sent_at, finished_at, error) ON app.usage_reports TO usher_meter;
GRANT SELECT (tenant_id, license_id, metric, hour, quantity, status) ON app.usage_reports TO usher_usage;

-- Who sends usage: the holder of a session, or automation. People look at it.
GRANT SELECT (tenant_id, id, fence_epoch, fence_counter, evicted_at, evict_reason, evicted_by) ON app.open_sessions TO usher_usage;
GRANT SELECT (tenant_id, id, status, end_reason, ended_by, ended_at) ON app.ended_sessions TO usher_usage;
GRANT SELECT (tenant_id, id, name, scopes, expires_at, revoked_at, last_used_at), UPDATE (last_used_at) ON app.api_keys TO usher_usage;
GRANT SELECT (tenant_id, id, email, name, role, status, issuer, subject) ON app.users TO usher_usage;
-- Who pays for it.
GRANT SELECT (tenant_id, id, license_id, status, period_start, period_end, created_at) ON app.subscriptions TO usher_usage;
GRANT SELECT (tenant_id, id, license_id, customer_id, status, plan_code, cycle, ended_at, created_at) ON app.subscriptions TO usher_meter;
GRANT SELECT (tenant_id, id, stripe_id, deleted_at) ON app.billing_customers TO usher_meter;

-- Across tenants: whose usage is to be told, and the dropping of old events.
CREATE POLICY resolver_finds ON app.usage_hours FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, hour, quantity, settled) ON app.usage_hours TO usher_resolver;
CREATE POLICY resolver_finds ON app.usage_reports FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, status, next_at) ON app.usage_reports TO usher_resolver;
CREATE POLICY resolver_finds ON app.usage_events FOR SELECT TO usher_resolver USING (true);
CREATE POLICY resolver_expires ON app.usage_events FOR DELETE TO usher_resolver USING (recorded_at < now() - interval '35 days');
GRANT SELECT (tenant_id, id, recorded_at), DELETE ON app.usage_events TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
GRANT EXECUTE ON FUNCTION app.find_user(text, text), app.find_api_key(bytea[]) TO usher_usage;
-- +goose StatementBegin
CREATE FUNCTION app.metered_tenants(p_limit int) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT d.tenant_id FROM (
        SELECT h.tenant_id, h.hour AS since FROM app.usage_hours h WHERE h.settled < h.quantity AND h.hour <= now() - interval '1 hour'
        UNION ALL
        SELECT r.tenant_id, r.next_at FROM app.usage_reports r WHERE r.status IN ('pending', 'sent') AND r.next_at <= now()) d
     GROUP BY d.tenant_id ORDER BY min(d.since) LIMIT p_limit
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.metered_tenants(int) IS 'Tenants with usage of hours that are over, or reports, that Stripe is to be told now, the longest waiting first.';
-- +goose StatementBegin
CREATE FUNCTION app.expire_usage_events() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH dropped AS (
        DELETE FROM app.usage_events e USING (
            SELECT o.tenant_id, o.id FROM app.usage_events o WHERE o.recorded_at < now() - interval '35 days' LIMIT 10000) o
         WHERE e.tenant_id = o.tenant_id AND e.id = o.id RETURNING 1
    )
    SELECT count(*) FROM dropped
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.expire_usage_events() IS 'Drops events whose time is over and answers how many: at most 10,000 at a time.';
GRANT EXECUTE ON FUNCTION app.metered_tenants(int), app.expire_usage_events() TO usher_meter;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.expire_usage_events();
DROP FUNCTION app.metered_tenants(int);
DROP TABLE app.usage_reports;
DROP TABLE app.usage_hours;
DROP TABLE app.usage_months;
DROP TABLE app.usage_events;
DROP TABLE app.plan_metrics;
REVOKE EXECUTE ON FUNCTION app.find_user(text, text), app.find_api_key(bytea[]) FROM usher_usage;
REVOKE ALL ON app.open_sessions, app.ended_sessions, app.api_keys, app.users, app.subscriptions, app.billing_customers FROM usher_usage, usher_meter;
REVOKE USAGE ON SCHEMA app FROM usher_usage, usher_meter;
REVOKE usher_facts, usher_notices FROM usher_usage;
