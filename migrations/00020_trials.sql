-- +goose Up

-- Trials, and what a night does: notices before something ends, trials that fall to the free tier, what is owed at the end of
-- its grace, agreement with Stripe, and the dropping of what is over. Functions trial and expire have login roles of their own.

-- +goose StatementBegin
DO $$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['usher_trial', 'usher_expire'] LOOP
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
GRANT usher_facts, usher_replays, usher_audits, usher_notices TO usher_trial;
GRANT usher_facts, usher_seats, usher_audits, usher_notices, usher_billing TO usher_expire;

SET LOCAL ROLE usher_owner;
GRANT USAGE ON SCHEMA app TO usher_trial, usher_expire;

ALTER TABLE app.plans ADD COLUMN trial_falls_to text REFERENCES app.plans (code);
COMMENT ON COLUMN app.plans.trial_falls_to IS
    'The plan is its product''s trial tier: a trial is of it, and falls to this plan when it is over. NULL: there is no trial of it.';
CREATE UNIQUE INDEX plans_trial_key ON app.plans (product_code) WHERE trial_falls_to IS NOT NULL;
COMMENT ON INDEX app.plans_trial_key IS 'A product has one trial tier.';
GRANT UPDATE (trial_falls_to) ON app.plans TO usher_operator;

ALTER TABLE app.licenses ADD COLUMN on_trial boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN app.licenses.on_trial IS 'On trial until expires_at. False again when it has fallen to the free tier, was bought, or was given another plan.';
GRANT INSERT (on_trial), UPDATE (on_trial) ON app.licenses TO usher_admin, usher_billing;
GRANT INSERT (on_trial) ON app.licenses TO usher_register;
GRANT INSERT (tenant_id, id, product_code, plan_code, max_seats, overdraft_seats, ttl_seconds, seat_per, features, versions,
        max_devices, allowed_hardware, offline_grace_seconds, drain_seconds, starts_at, expires_at, grace_until, borrow_reserve_seats,
        on_trial)
    ON app.licenses TO usher_trial;
GRANT INSERT ON app.license_keys TO usher_trial;
CREATE INDEX licenses_by_expiry ON app.licenses (expires_at) WHERE status = 'active';
CREATE INDEX licenses_on_trial ON app.licenses (expires_at) WHERE on_trial;

ALTER TABLE app.tenants ADD COLUMN trial_started_at timestamptz;
COMMENT ON COLUMN app.tenants.trial_started_at IS 'When it began its one trial; NULL until then.';
GRANT UPDATE (trial_started_at) ON app.tenants TO usher_trial;

CREATE TABLE app.trials (
    tenant_id     uuid        NOT NULL REFERENCES app.tenants (id),
    license_id    uuid        NOT NULL,
    product_code  text        NOT NULL REFERENCES app.products (code),
    falls_to      text        NOT NULL REFERENCES app.plans (code),
    email_hash    bytea       NOT NULL CHECK (octet_length(email_hash) = 32),
    hardware_hash bytea       NOT NULL CHECK (octet_length(hardware_hash) = 32),
    started_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, email_hash),
    FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses (tenant_id, id)
);
COMMENT ON TABLE app.trials IS 'Who has had a trial, for good: once for each tenant, each verified e-mail address and each hardware.';
COMMENT ON COLUMN app.trials.email_hash IS 'SHA-256 of the address in lower case, without what follows a plus sign: the table is no list of addresses.';
COMMENT ON COLUMN app.trials.hardware_hash IS 'SHA-256 of the hardware id.';
COMMENT ON COLUMN app.trials.falls_to IS 'As the trial tier said when it began.';
CREATE UNIQUE INDEX trials_email_key ON app.trials (email_hash);
CREATE UNIQUE INDEX trials_hardware_key ON app.trials (hardware_hash);
COMMENT ON INDEX app.trials_email_key IS 'Unique across tenants: one trial for each address, which its owner has verified, so that it tells them alone.';
COMMENT ON INDEX app.trials_hardware_key IS
    'Unique across tenants: one trial for each hardware. Who asks for a trial with the hardware id of another learns that it has had one, and no more.';
CREATE INDEX trials_by_license ON app.trials (tenant_id, license_id);
ALTER TABLE app.trials ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.trials FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.trials
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT (tenant_id, license_id, product_code, falls_to, email_hash, hardware_hash) ON app.trials TO usher_trial;
GRANT SELECT (tenant_id, license_id, product_code, falls_to, started_at) ON app.trials TO usher_billing;

CREATE TABLE app.license_notices (
    tenant_id  uuid        NOT NULL,
    license_id uuid        NOT NULL,
    ends_at    timestamptz NOT NULL,
    days       int         NOT NULL CHECK (days BETWEEN 0 AND 30),
    noticed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, license_id, ends_at, days),
    FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses (tenant_id, id)
);
COMMENT ON TABLE app.license_notices IS 'Which notices a licence''s owners have had of an end, so many days before it; 0 is that it has come. Each once.';
ALTER TABLE app.license_notices ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.license_notices FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.license_notices
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT (tenant_id, license_id, ends_at, days) ON app.license_notices TO usher_expire;

-- Agreement with Stripe: whose turn it is.
ALTER TABLE app.subscriptions ADD COLUMN checked_at timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN app.subscriptions.checked_at IS 'When it was last compared with Stripe whole.';
CREATE INDEX subscriptions_by_check ON app.subscriptions (checked_at);
GRANT UPDATE (checked_at) ON app.subscriptions TO usher_expire;
CREATE UNIQUE INDEX subscriptions_license_key ON app.subscriptions (tenant_id, license_id) WHERE ended_at IS NULL;
COMMENT ON INDEX app.subscriptions_license_key IS 'A licence is of one subscription that lives.';
GRANT SELECT, INSERT (tenant_id, id, type, api_version, object_id, subscription_id, status, error, created_at),
    UPDATE (subscription_id, status, attempts, error, handled_at)
    ON app.stripe_events TO usher_expire;
GRANT UPDATE (deleted_at, updated_at) ON app.billing_customers TO usher_expire;

GRANT SELECT (tenant_id, id, email, name, role, status, issuer, subject, founder) ON app.users TO usher_trial;
GRANT SELECT (tenant_id, email, id, role, status) ON app.users TO usher_expire;

-- An offer to whoever cancels, once.
ALTER TABLE app.billing_customers ADD COLUMN offer_taken_at timestamptz;
COMMENT ON COLUMN app.billing_customers.offer_taken_at IS 'When the customer took the offer that is made to whoever cancels: once.';
GRANT UPDATE (offer_taken_at) ON app.billing_customers TO usher_subscription;

-- Across tenants: what is due, by its name.
CREATE POLICY resolver_finds ON app.license_notices FOR SELECT TO usher_resolver USING (true);
GRANT SELECT ON app.license_notices TO usher_resolver;
CREATE POLICY resolver_finds ON app.subscriptions FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, id, license_id, cycle, cancel_at_period_end, ended_at, trouble, grace_until, checked_at) ON app.subscriptions TO usher_resolver;
GRANT SELECT (status, handled_at, received_at, attempts) ON app.stripe_events TO usher_resolver;
CREATE INDEX stripe_events_by_receipt ON app.stripe_events USING brin (received_at);
CREATE POLICY resolver_expires ON app.stripe_events FOR DELETE TO usher_resolver USING (received_at < now() - interval '7 years');
GRANT DELETE ON app.stripe_events TO usher_resolver;
CREATE POLICY resolver_finds ON app.licenses FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, id, status, status_by, expires_at, grace_until, on_trial) ON app.licenses TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.due_notices(p_limit int) RETURNS TABLE (tenant_id uuid, license_id uuid, ends_at timestamptz, days int)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT d.tenant_id, d.id, d.expires_at, d.days
      FROM (SELECT l.tenant_id, l.id, l.expires_at,
                   CASE WHEN greatest(l.expires_at, l.grace_until) <= now() THEN 0
                        WHEN l.expires_at <= now() + interval '1 day' THEN 1
                        WHEN l.expires_at <= now() + interval '7 days' THEN 7
                        ELSE 30 END AS days
              FROM app.licenses l
             WHERE l.status = 'active' AND NOT l.on_trial
               AND l.expires_at BETWEEN now() - interval '30 days' AND now() + interval '30 days') d
     WHERE NOT EXISTS (SELECT FROM app.license_notices n
                        WHERE n.tenant_id = d.tenant_id AND n.license_id = d.id AND n.ends_at = d.expires_at AND n.days <= d.days)
       AND (d.days = 0 OR NOT EXISTS (SELECT FROM app.subscriptions s
                                       WHERE s.tenant_id = d.tenant_id AND s.license_id = d.id AND s.cycle = 'monthly'
                                         AND NOT s.cancel_at_period_end AND s.ended_at IS NULL))
     ORDER BY d.expires_at LIMIT p_limit
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.due_notices(int) IS
    'Licences whose owners are to be told that they end, within so many days, or that they have ended (0): what comes first, first. Of '
    'notices that were missed the nearest is left. A monthly subscription that renews itself is not announced each month.';
-- +goose StatementBegin
CREATE FUNCTION app.due_trials(p_limit int) RETURNS TABLE (tenant_id uuid, license_id uuid, ends_at timestamptz, days int)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT d.tenant_id, d.id, d.expires_at, d.days
      FROM (SELECT l.tenant_id, l.id, l.expires_at,
                   CASE WHEN l.expires_at <= now() THEN 0
                        WHEN l.expires_at <= now() + interval '1 day' THEN 1
                        ELSE 3 END AS days
              FROM app.licenses l
             WHERE l.on_trial AND l.expires_at <= now() + interval '3 days' AND l.status <> 'revoked') d
     WHERE d.days = 0 OR NOT EXISTS (SELECT FROM app.license_notices n
                                      WHERE n.tenant_id = d.tenant_id AND n.license_id = d.id AND n.ends_at = d.expires_at AND n.days <= d.days)
     ORDER BY d.expires_at LIMIT p_limit
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.due_trials(int) IS 'Trials that are over (0), or end within 1 or 3 days and whose owners have not been told so: what comes first, first.';
-- +goose StatementBegin
CREATE FUNCTION app.due_suspensions(p_limit int) RETURNS TABLE (tenant_id uuid, subscription_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT s.tenant_id, s.id
      FROM app.subscriptions s JOIN app.licenses l ON l.tenant_id = s.tenant_id AND l.id = s.license_id
     WHERE s.trouble IS NOT NULL AND l.status = 'active' AND greatest(l.expires_at, l.grace_until) <= now()
     ORDER BY s.grace_until LIMIT p_limit
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.due_suspensions(int) IS 'Subscriptions in trouble whose licence''s grace is over, and which nobody has suspended yet.';
-- +goose StatementBegin
CREATE FUNCTION app.subscriptions_to_check(p_before timestamptz, p_limit int) RETURNS TABLE (tenant_id uuid, subscription_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT s.tenant_id, s.id FROM app.subscriptions s
     WHERE s.checked_at < p_before AND (s.ended_at IS NULL OR s.ended_at > now() - interval '60 days')
     ORDER BY s.checked_at LIMIT p_limit
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.subscriptions_to_check(timestamptz, int) IS 'Subscriptions that were not compared with Stripe since then, those first that were longest ago.';
-- +goose StatementBegin
CREATE FUNCTION app.failed_stripe_events(p_limit int) RETURNS TABLE (id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT e.id FROM app.stripe_events e
     WHERE e.status = 'failed' AND e.handled_at < now() - interval '10 minutes'
     ORDER BY e.handled_at LIMIT p_limit
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.failed_stripe_events(int) IS 'Events that had no effect, those first that were tried longest ago; none that was tried just now.';
-- +goose StatementBegin
CREATE FUNCTION app.expire_stripe_events() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH dropped AS (
        DELETE FROM app.stripe_events e USING (
            SELECT o.tenant_id, o.id FROM app.stripe_events o WHERE o.received_at < now() - interval '7 years' LIMIT 5000) o
         WHERE e.tenant_id = o.tenant_id AND e.id = o.id RETURNING 1)
    SELECT count(*) FROM dropped
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.expire_stripe_events() IS 'Drops events of Stripe''s that are older than seven years and answers how many: at most 5,000 at a time.';
GRANT EXECUTE ON FUNCTION app.due_notices(int), app.due_trials(int), app.due_suspensions(int), app.subscriptions_to_check(timestamptz, int),
    app.failed_stripe_events(int), app.expire_stripe_events(), app.find_stripe_event(text), app.find_billing_customer(text) TO usher_expire;
GRANT EXECUTE ON FUNCTION app.find_user(text, text) TO usher_trial;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

SET LOCAL ROLE usher_owner;
-- +goose StatementBegin
CREATE FUNCTION app.drop_history(p_days int) RETURNS int
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    -- As where they are made: whoever waits for the history keeps everybody else waiting.
    SET lock_timeout = '200ms'
    AS $$
DECLARE
    keep_from timestamptz := now() - make_interval(days => greatest(p_days, 1));
    part record;
    dropped int := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('app.make_history_partitions')) THEN
        RETURN 0;
    END IF;
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'app.ended_sessions'::regclass AND c.relname ~ '^ended_sessions_[0-9]{4}_[0-9]{2}$'
           AND (to_timestamp(right(c.relname, 7) || '_01+00', 'YYYY_MM_DDTZH') + interval '1 month') <= keep_from
         ORDER BY c.relname
    LOOP
        BEGIN
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
COMMENT ON FUNCTION app.drop_history(int) IS
    'Drops the months of the session history that ended so many days ago, unless it is too busy, and answers how many. Rows without a '
    'month of their own stay.';
GRANT EXECUTE ON FUNCTION app.drop_history(int) TO usher_expire;

-- +goose Down
DROP FUNCTION app.drop_history(int);
DROP FUNCTION app.expire_stripe_events();
DROP FUNCTION app.failed_stripe_events(int);
DROP FUNCTION app.subscriptions_to_check(timestamptz, int);
DROP FUNCTION app.due_suspensions(int);
DROP FUNCTION app.due_trials(int);
DROP FUNCTION app.due_notices(int);
REVOKE EXECUTE ON FUNCTION app.find_stripe_event(text), app.find_billing_customer(text) FROM usher_expire;
REVOKE EXECUTE ON FUNCTION app.find_user(text, text) FROM usher_trial;
DROP POLICY resolver_finds ON app.licenses;
REVOKE SELECT (tenant_id, id, status, status_by, expires_at, grace_until, on_trial) ON app.licenses FROM usher_resolver;
DROP POLICY resolver_expires ON app.stripe_events;
DROP INDEX app.stripe_events_by_receipt;
REVOKE SELECT (status, handled_at, received_at, attempts), DELETE ON app.stripe_events FROM usher_resolver;
DROP POLICY resolver_finds ON app.subscriptions;
REVOKE SELECT ON app.subscriptions FROM usher_resolver;
REVOKE ALL ON app.subscriptions, app.stripe_events, app.billing_customers, app.licenses, app.license_keys, app.users FROM usher_expire, usher_trial;
ALTER TABLE app.billing_customers DROP COLUMN offer_taken_at;
DROP INDEX app.subscriptions_license_key;
ALTER TABLE app.subscriptions DROP COLUMN checked_at;
DROP TABLE app.license_notices;
DROP TABLE app.trials;
ALTER TABLE app.tenants DROP COLUMN trial_started_at;
DROP INDEX app.licenses_by_expiry;
ALTER TABLE app.licenses DROP COLUMN on_trial;
ALTER TABLE app.plans DROP COLUMN trial_falls_to;
REVOKE USAGE ON SCHEMA app FROM usher_trial, usher_expire;
REVOKE usher_facts, usher_replays, usher_audits, usher_notices FROM usher_trial;
REVOKE usher_facts, usher_seats, usher_audits, usher_notices, usher_billing FROM usher_expire;
