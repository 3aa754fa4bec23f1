-- Made by `make generate` from the migrations. Do not edit.

-- SCHEMA app

CREATE SCHEMA app;

ALTER SCHEMA app OWNER TO usher_owner;

-- COMMENT SCHEMA app

COMMENT ON SCHEMA app IS 'Usher: tenants, what they were sold, and who sits.';

-- FUNCTION audit_field(text)

CREATE FUNCTION app.audit_field(p_value text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT int4send(octet_length(convert_to(p_value, 'UTF8'))) || convert_to(p_value, 'UTF8') $$;

ALTER FUNCTION app.audit_field(p_value text) OWNER TO usher_owner;

-- COMMENT FUNCTION audit_field(p_value text)

COMMENT ON FUNCTION app.audit_field(p_value text) IS 'A value as the hash of an entry reads it: its length in four bytes, the highest first, and its UTF-8.';

-- FUNCTION audit_heads(uuid, integer)

CREATE FUNCTION app.audit_heads(p_after uuid, p_limit integer) RETURNS TABLE(tenant_id uuid, seq bigint, hash bytea)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT c.tenant_id, c.seq, c.hash FROM app.audit_chains c WHERE c.seq > 0 AND c.tenant_id > p_after ORDER BY c.tenant_id LIMIT least(p_limit, 1000)
    $$;

ALTER FUNCTION app.audit_heads(p_after uuid, p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION audit_heads(p_after uuid, p_limit integer)

COMMENT ON FUNCTION app.audit_heads(p_after uuid, p_limit integer) IS 'The last entry of each tenant''s audit chain, of the tenants after p_after.';

-- FUNCTION audit_kept_from(integer)

CREATE FUNCTION app.audit_kept_from(p_days integer) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    AS $$ SELECT date_trunc('month', now() - make_interval(days => greatest(p_days, 90)), 'UTC') $$;

ALTER FUNCTION app.audit_kept_from(p_days integer) OWNER TO usher_owner;

-- COMMENT FUNCTION audit_kept_from(p_days integer)

COMMENT ON FUNCTION app.audit_kept_from(p_days integer) IS 'When the month of the audit log begins in which the oldest entry lies that is so many days old, 90 at the least: what is older is dropped.';

-- FUNCTION audit_record(text, text, text, boolean, text, text, text, text, jsonb, interval)

CREATE FUNCTION app.audit_record(p_action text, p_outcome text, p_actor text, p_by_operator boolean, p_credential text, p_address text, p_subject text, p_request_id text, p_details jsonb, p_unless_within interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    chain app.audit_chains;
    entry app.audit_entries;
BEGIN
    -- Twice: most of what is not to be written is found out without waiting for anybody.
    FOR attempt IN 1..2 LOOP
        IF p_unless_within IS NOT NULL AND EXISTS (
            SELECT FROM app.audit_entries e
             WHERE e.tenant_id = app.tenant() AND e.actor = p_actor AND e.at > clock_timestamp() - p_unless_within
               AND e.action = p_action AND e.subject = p_subject AND e.outcome = p_outcome) THEN
            RETURN 0;
        END IF;
        IF attempt = 1 THEN
            SELECT * INTO chain FROM app.audit_chains c WHERE c.tenant_id = app.tenant() FOR NO KEY UPDATE;
            IF NOT FOUND THEN
                INSERT INTO app.audit_chains (tenant_id) VALUES (app.tenant()) ON CONFLICT DO NOTHING;
                SELECT * INTO chain FROM app.audit_chains c WHERE c.tenant_id = app.tenant() FOR NO KEY UPDATE;
            END IF;
        END IF;
    END LOOP;
    entry := (chain.tenant_id, greatest(date_trunc('milliseconds', clock_timestamp()), chain.at), chain.seq + 1, p_action, p_outcome,
        p_actor, p_by_operator, p_credential, p_address, p_subject, p_request_id, p_details, chain.hash, NULL);
    entry.hash := sha256(
        app.audit_field('usher-audit-1') || app.audit_field(entry.tenant_id::text) || app.audit_field(entry.seq::text)
        || app.audit_field((extract(epoch FROM entry.at) * 1000)::bigint::text)
        || app.audit_field(entry.action) || app.audit_field(entry.outcome)
        || app.audit_field(entry.actor) || app.audit_field(CASE WHEN entry.by_operator THEN '1' ELSE '0' END)
        || app.audit_field(entry.credential) || app.audit_field(entry.address) || app.audit_field(entry.subject)
        || app.audit_field(entry.request_id)
        || coalesce((SELECT string_agg(app.audit_field(d.key) || app.audit_field(d.value), ''::bytea ORDER BY d.key COLLATE "C")
                       FROM jsonb_each_text(entry.details) d), ''::bytea)
        || entry.previous);
    INSERT INTO app.audit_entries VALUES (entry.*);
    UPDATE app.audit_chains SET seq = entry.seq, hash = entry.hash, at = entry.at WHERE tenant_id = entry.tenant_id;
    RETURN entry.seq;
END
$$;

ALTER FUNCTION app.audit_record(p_action text, p_outcome text, p_actor text, p_by_operator boolean, p_credential text, p_address text, p_subject text, p_request_id text, p_details jsonb, p_unless_within interval) OWNER TO usher_owner;

-- COMMENT FUNCTION audit_record(p_action text, p_outcome text, p_actor text, p_by_operator boolean, p_credential text, p_address text, p_subject text, p_request_id text, p_details jsonb, p_unless_within interval)

COMMENT ON FUNCTION app.audit_record(p_action text, p_outcome text, p_actor text, p_by_operator boolean, p_credential text, p_address text, p_subject text, p_request_id text, p_details jsonb, p_unless_within interval) IS 'Appends an entry to the tenant''s chain and answers its number; 0 when one of the same actor, action, subject and outcome is not older than p_unless_within. It counts, dates and hashes by itself, and locks the chain until the transaction ends: call it last.';

-- FUNCTION borrow_withdrawn()

CREATE FUNCTION app.borrow_withdrawn() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO app.revocations (kind, subject, license_id, ends_at) VALUES ('session', OLD.id, OLD.license_id, OLD.borrowed_until);
    RETURN NULL;
END
$$;

ALTER FUNCTION app.borrow_withdrawn() OWNER TO usher_owner;

-- COMMENT FUNCTION borrow_withdrawn()

COMMENT ON FUNCTION app.borrow_withdrawn() IS 'A borrow that ends before its time, because it was returned or taken away, leaves a receipt that verifies offline: the revocation list says that it is void. Once for each session: what was evicted is on the list before its row is closed.';

-- FUNCTION denial_tenants(integer)

CREATE FUNCTION app.denial_tenants(p_limit integer) RETURNS TABLE(tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ SELECT DISTINCT h.tenant_id FROM app.seat_hours h WHERE h.denials > h.denials_told LIMIT p_limit $$;

ALTER FUNCTION app.denial_tenants(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION denial_tenants(p_limit integer)

COMMENT ON FUNCTION app.denial_tenants(p_limit integer) IS 'Tenants in which somebody found no seat, and nobody was told.';

-- FUNCTION drop_audit(integer)

CREATE FUNCTION app.drop_audit(p_days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '200ms'
    AS $_$
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
$_$;

ALTER FUNCTION app.drop_audit(p_days integer) OWNER TO usher_owner;

-- COMMENT FUNCTION drop_audit(p_days integer)

COMMENT ON FUNCTION app.drop_audit(p_days integer) IS 'Drops the months of the audit log that ended so many days ago, 90 at the least, and of which app.expire_audit has left nothing, unless the log is too busy, and answers how many.';

-- FUNCTION drop_history(integer)

CREATE FUNCTION app.drop_history(p_days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '200ms'
    AS $_$
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
$_$;

ALTER FUNCTION app.drop_history(p_days integer) OWNER TO usher_owner;

-- COMMENT FUNCTION drop_history(p_days integer)

COMMENT ON FUNCTION app.drop_history(p_days integer) IS 'Drops the months of the session history that ended so many days ago, unless it is too busy, and answers how many. Rows without a month of their own stay.';

-- FUNCTION due_mails(integer)

CREATE FUNCTION app.due_mails(p_limit integer) RETURNS TABLE(tenant_id uuid, id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ SELECT m.tenant_id, m.id FROM app.mails m WHERE m.status = 'pending' AND m.next_at <= now() ORDER BY m.next_at LIMIT p_limit $$;

ALTER FUNCTION app.due_mails(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION due_mails(p_limit integer)

COMMENT ON FUNCTION app.due_mails(p_limit integer) IS 'Mails whose time has come, the longest waiting first.';

-- FUNCTION due_notices(integer)

CREATE FUNCTION app.due_notices(p_limit integer) RETURNS TABLE(tenant_id uuid, license_id uuid, ends_at timestamp with time zone, days integer)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

ALTER FUNCTION app.due_notices(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION due_notices(p_limit integer)

COMMENT ON FUNCTION app.due_notices(p_limit integer) IS 'Licences whose owners are to be told that they end, within so many days, or that they have ended (0): what comes first, first. Of notices that were missed the nearest is left. A monthly subscription that renews itself is not announced each month.';

-- FUNCTION due_suspensions(integer)

CREATE FUNCTION app.due_suspensions(p_limit integer) RETURNS TABLE(tenant_id uuid, subscription_id text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT s.tenant_id, s.id
      FROM app.subscriptions s JOIN app.licenses l ON l.tenant_id = s.tenant_id AND l.id = s.license_id
     WHERE s.trouble IS NOT NULL AND l.status = 'active' AND greatest(l.expires_at, l.grace_until) <= now()
     ORDER BY s.grace_until LIMIT p_limit
    $$;

ALTER FUNCTION app.due_suspensions(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION due_suspensions(p_limit integer)

COMMENT ON FUNCTION app.due_suspensions(p_limit integer) IS 'Subscriptions in trouble whose licence''s grace is over, and which nobody has suspended yet.';

-- FUNCTION due_trials(integer)

CREATE FUNCTION app.due_trials(p_limit integer) RETURNS TABLE(tenant_id uuid, license_id uuid, ends_at timestamp with time zone, days integer)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

ALTER FUNCTION app.due_trials(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION due_trials(p_limit integer)

COMMENT ON FUNCTION app.due_trials(p_limit integer) IS 'Trials that are over (0), or end within 1 or 3 days and whose owners have not been told so: what comes first, first.';

-- FUNCTION due_webhooks(integer)

CREATE FUNCTION app.due_webhooks(p_limit integer) RETURNS TABLE(tenant_id uuid, id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT w.tenant_id, w.id FROM app.waiting_webhooks() due
      JOIN app.webhooks w ON w.tenant_id = due.tenant_id AND w.id = due.webhook_id
     ORDER BY w.failing_since IS NOT NULL, due.since LIMIT p_limit
    $$;

ALTER FUNCTION app.due_webhooks(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION due_webhooks(p_limit integer)

COMMENT ON FUNCTION app.due_webhooks(p_limit integer) IS 'Webhooks with deliveries whose time has come, the longest waiting first, those that fail after those that do not.';

-- FUNCTION expire_audit(integer)

CREATE FUNCTION app.expire_audit(p_days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_sort TO 'off'
    SET enable_seqscan TO 'off'
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

ALTER FUNCTION app.expire_audit(p_days integer) OWNER TO usher_owner;

-- COMMENT FUNCTION expire_audit(p_days integer)

COMMENT ON FUNCTION app.expire_audit(p_days integer) IS 'Drops the first 2,000 of the tenant''s entries that are older than the month in which so many days ago lies, 90 at the least, moves the chain''s start to the last of them, and answers how many those were: 0 when none is left. Meanwhile the tenant''s own acts wait.';

-- FUNCTION expire_deliveries()

CREATE FUNCTION app.expire_deliveries() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH gone AS (
        DELETE FROM app.webhook_deliveries d USING (
            SELECT o.tenant_id, o.id FROM app.webhook_deliveries o
             WHERE o.finished_at < now() - interval '30 days' AND o.status <> 'pending' LIMIT 5000) o
         WHERE d.tenant_id = o.tenant_id AND d.id = o.id RETURNING 1)
    SELECT count(*) FROM gone
    $$;

ALTER FUNCTION app.expire_deliveries() OWNER TO usher_resolver;

-- COMMENT FUNCTION expire_deliveries()

COMMENT ON FUNCTION app.expire_deliveries() IS 'Drops deliveries whose time is over and answers how many: at most 5,000 at a time.';

-- FUNCTION expire_idempotency_keys()

CREATE FUNCTION app.expire_idempotency_keys() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH gone AS (
        DELETE FROM app.idempotency_keys k
         WHERE k.ctid = ANY (ARRAY(SELECT o.ctid FROM app.idempotency_keys o WHERE o.expires_at < now() ORDER BY o.expires_at LIMIT 20000))
           AND k.expires_at < now()
        RETURNING 1)
    SELECT count(*) FROM gone
    $$;

ALTER FUNCTION app.expire_idempotency_keys() OWNER TO usher_resolver;

-- COMMENT FUNCTION expire_idempotency_keys()

COMMENT ON FUNCTION app.expire_idempotency_keys() IS 'Drops what has expired and answers how much that was: at most 20,000 at a time, so that a backlog ends within the statement''s deadline.';

-- FUNCTION expire_notices()

CREATE FUNCTION app.expire_notices() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH mails AS (
        DELETE FROM app.mails m USING (
            SELECT o.tenant_id, o.id FROM app.mails o WHERE o.finished_at < now() - interval '30 days' AND o.status <> 'pending' LIMIT 5000) o
         WHERE m.tenant_id = o.tenant_id AND m.id = o.id RETURNING 1
    ), events AS (
        DELETE FROM app.events e USING (
            SELECT o.tenant_id, o.id FROM app.events o WHERE o.dispatched_at < now() - interval '7 days' LIMIT 5000) o
         WHERE e.tenant_id = o.tenant_id AND e.id = o.id RETURNING 1
    )
    SELECT (SELECT count(*) FROM mails) + (SELECT count(*) FROM events)
    $$;

ALTER FUNCTION app.expire_notices() OWNER TO usher_resolver;

-- COMMENT FUNCTION expire_notices()

COMMENT ON FUNCTION app.expire_notices() IS 'Drops mails and events whose time is over and answers how many: at most 10,000 at a time.';

-- FUNCTION expire_stripe_events()

CREATE FUNCTION app.expire_stripe_events() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH dropped AS (
        DELETE FROM app.stripe_events e USING (
            SELECT o.tenant_id, o.id FROM app.stripe_events o WHERE o.received_at < now() - interval '7 years' LIMIT 5000) o
         WHERE e.tenant_id = o.tenant_id AND e.id = o.id RETURNING 1)
    SELECT count(*) FROM dropped
    $$;

ALTER FUNCTION app.expire_stripe_events() OWNER TO usher_resolver;

-- COMMENT FUNCTION expire_stripe_events()

COMMENT ON FUNCTION app.expire_stripe_events() IS 'Drops events of Stripe''s that are older than seven years and answers how many: at most 5,000 at a time.';

-- FUNCTION expire_usage_events()

CREATE FUNCTION app.expire_usage_events() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH dropped AS (
        DELETE FROM app.usage_events e USING (
            SELECT o.tenant_id, o.id FROM app.usage_events o WHERE o.recorded_at < now() - interval '35 days' LIMIT 10000) o
         WHERE e.tenant_id = o.tenant_id AND e.id = o.id RETURNING 1
    )
    SELECT count(*) FROM dropped
    $$;

ALTER FUNCTION app.expire_usage_events() OWNER TO usher_resolver;

-- COMMENT FUNCTION expire_usage_events()

COMMENT ON FUNCTION app.expire_usage_events() IS 'Drops events whose time is over and answers how many: at most 10,000 at a time.';

-- FUNCTION failed_stripe_events(integer)

CREATE FUNCTION app.failed_stripe_events(p_limit integer) RETURNS TABLE(id text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT e.id FROM app.stripe_events e
     WHERE e.status = 'failed' AND e.handled_at < now() - interval '10 minutes'
     ORDER BY e.handled_at LIMIT p_limit
    $$;

ALTER FUNCTION app.failed_stripe_events(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION failed_stripe_events(p_limit integer)

COMMENT ON FUNCTION app.failed_stripe_events(p_limit integer) IS 'Events that had no effect, those first that were tried longest ago; none that was tried just now.';

-- FUNCTION find_api_key(bytea[])

CREATE FUNCTION app.find_api_key(p_hashes bytea[]) RETURNS TABLE(tenant_id uuid, api_key_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ SELECT k.tenant_id, k.id FROM app.api_keys k WHERE k.key_hash = ANY (p_hashes) LIMIT 1 $$;

ALTER FUNCTION app.find_api_key(p_hashes bytea[]) OWNER TO usher_resolver;

-- COMMENT FUNCTION find_api_key(p_hashes bytea[])

COMMENT ON FUNCTION app.find_api_key(p_hashes bytea[]) IS 'Whose key it is, by the hashes it may have; also one that was revoked or is over.';

-- FUNCTION find_billing_customer(text)

CREATE FUNCTION app.find_billing_customer(p_stripe_id text) RETURNS TABLE(tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ SELECT c.tenant_id FROM app.billing_customers c WHERE c.stripe_id = p_stripe_id $$;

ALTER FUNCTION app.find_billing_customer(p_stripe_id text) OWNER TO usher_resolver;

-- COMMENT FUNCTION find_billing_customer(p_stripe_id text)

COMMENT ON FUNCTION app.find_billing_customer(p_stripe_id text) IS 'Whose customer of Stripe''s it is, also one that was deleted there.';

-- FUNCTION find_invitation(bytea[])

CREATE FUNCTION app.find_invitation(p_hashes bytea[]) RETURNS TABLE(tenant_id uuid, user_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ SELECT u.tenant_id, u.id FROM app.users u WHERE u.token_hash = ANY (p_hashes) LIMIT 1 $$;

ALTER FUNCTION app.find_invitation(p_hashes bytea[]) OWNER TO usher_resolver;

-- COMMENT FUNCTION find_invitation(p_hashes bytea[])

COMMENT ON FUNCTION app.find_invitation(p_hashes bytea[]) IS 'Whose invitation it is, by the hashes its token may have; also one that is used or over.';

-- FUNCTION find_license_key(bytea[])

CREATE FUNCTION app.find_license_key(p_hashes bytea[]) RETURNS TABLE(tenant_id uuid, license_id uuid, expires_at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT k.tenant_id, k.license_id, k.expires_at FROM app.license_keys k
     WHERE k.key_hash = ANY (p_hashes) AND (k.expires_at IS NULL OR k.expires_at > now()) LIMIT 1
    $$;

ALTER FUNCTION app.find_license_key(p_hashes bytea[]) OWNER TO usher_resolver;

-- COMMENT FUNCTION find_license_key(p_hashes bytea[])

COMMENT ON FUNCTION app.find_license_key(p_hashes bytea[]) IS 'Whose licence a key opens, by the hashes it may have, and until when; no row for a key that is unknown or over.';

-- FUNCTION find_stripe_event(text)

CREATE FUNCTION app.find_stripe_event(p_id text) RETURNS TABLE(tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ SELECT e.tenant_id FROM app.stripe_events e WHERE e.id = p_id LIMIT 1 $$;

ALTER FUNCTION app.find_stripe_event(p_id text) OWNER TO usher_resolver;

-- COMMENT FUNCTION find_stripe_event(p_id text)

COMMENT ON FUNCTION app.find_stripe_event(p_id text) IS 'Whose event it is, for the operator who has it handled again.';

-- FUNCTION find_user(text, text)

CREATE FUNCTION app.find_user(p_issuer text, p_subject text) RETURNS TABLE(tenant_id uuid, user_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT u.tenant_id, u.id FROM app.users u
     WHERE u.issuer = p_issuer AND u.subject = p_subject
     ORDER BY u.status = 'active' DESC, u.founder DESC, u.id DESC LIMIT 1
    $$;

ALTER FUNCTION app.find_user(p_issuer text, p_subject text) OWNER TO usher_resolver;

-- COMMENT FUNCTION find_user(p_issuer text, p_subject text)

COMMENT ON FUNCTION app.find_user(p_issuer text, p_subject text) IS 'Where an identity is a user; when it is none any more, where it was: first where it registered, else where it came last.';

-- FUNCTION has_audit(timestamp with time zone, timestamp with time zone)

CREATE FUNCTION app.has_audit(p_from timestamp with time zone, p_to timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ SELECT EXISTS (SELECT FROM app.audit_entries e WHERE e.at >= p_from AND e.at < p_to) $$;

ALTER FUNCTION app.has_audit(p_from timestamp with time zone, p_to timestamp with time zone) OWNER TO usher_resolver;

-- COMMENT FUNCTION has_audit(p_from timestamp with time zone, p_to timestamp with time zone)

COMMENT ON FUNCTION app.has_audit(p_from timestamp with time zone, p_to timestamp with time zone) IS 'Whether any tenant has an act of that time, p_to not included. For app.drop_audit, whose role sees one tenant at a time.';

-- FUNCTION incident_tenant(uuid, uuid, uuid)

CREATE FUNCTION app.incident_tenant(p_license uuid, p_user uuid, p_api_key uuid) RETURNS TABLE(tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT l.tenant_id FROM app.licenses l WHERE l.id = p_license
    UNION ALL
    SELECT u.tenant_id FROM app.users u WHERE u.id = p_user
    UNION ALL
    SELECT k.tenant_id FROM app.api_keys k WHERE k.id = p_api_key
    $$;

ALTER FUNCTION app.incident_tenant(p_license uuid, p_user uuid, p_api_key uuid) OWNER TO usher_resolver;

-- COMMENT FUNCTION incident_tenant(p_license uuid, p_user uuid, p_api_key uuid)

COMMENT ON FUNCTION app.incident_tenant(p_license uuid, p_user uuid, p_api_key uuid) IS 'Whose the things are that an incident is about: a row for each that is there.';

-- FUNCTION license_changed()

CREATE FUNCTION app.license_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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
    IF NEW.status <> OLD.status AND NEW.status = 'revoked' THEN
        -- Receipts that were given live on, offline: as long as the grace, as it is or was a moment ago, or as a borrow.
        INSERT INTO app.revocations (kind, subject, license_id, ends_at)
        SELECT 'license', NEW.id, NEW.id, greatest(
            now() + make_interval(secs => greatest(OLD.offline_grace_seconds, NEW.offline_grace_seconds, OLD.ttl_seconds)),
            (SELECT max(o.borrowed_until) FROM app.open_sessions o WHERE o.tenant_id = NEW.tenant_id AND o.license_id = NEW.id));
    END IF;
    NEW.pool_version := OLD.pool_version + 1;
    NEW.updated_at := now();
    INSERT INTO app.outbox (tenant_id, topic, subject_id) VALUES (NEW.tenant_id, 'license.changed', NEW.id);
    RETURN NEW;
END
$$;

ALTER FUNCTION app.license_changed() OWNER TO usher_owner;

-- COMMENT FUNCTION license_changed()

COMMENT ON FUNCTION app.license_changed() IS 'Every change of what was sold numbers itself and leaves an outbox row, so that no writer can forget to tell the pool. Suspending and revoking evict every open session; revoking puts the licence on the revocation list.';

-- FUNCTION license_state(text, text, timestamp with time zone, timestamp with time zone, timestamp with time zone, timestamp with time zone)

CREATE FUNCTION app.license_state(p_tenant_status text, p_status text, p_starts_at timestamp with time zone, p_expires_at timestamp with time zone, p_grace_until timestamp with time zone, p_now timestamp with time zone) RETURNS text
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

ALTER FUNCTION app.license_state(p_tenant_status text, p_status text, p_starts_at timestamp with time zone, p_expires_at timestamp with time zone, p_grace_until timestamp with time zone, p_now timestamp with time zone) OWNER TO usher_owner;

-- COMMENT FUNCTION license_state(p_tenant_status text, p_status text, p_starts_at timestamp with time zone, p_expires_at timestamp with time zone, p_grace_until timestamp with time zone, p_now timestamp with time zone)

COMMENT ON FUNCTION app.license_state(p_tenant_status text, p_status text, p_starts_at timestamp with time zone, p_expires_at timestamp with time zone, p_grace_until timestamp with time zone, p_now timestamp with time zone) IS 'active when the licence grants seats, else the code that says why not, in the order of the validation codes.';

-- FUNCTION licenses_touched()

CREATE FUNCTION app.licenses_touched() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

ALTER FUNCTION app.licenses_touched() OWNER TO usher_owner;

-- COMMENT FUNCTION licenses_touched()

COMMENT ON FUNCTION app.licenses_touched() IS 'A tenant''s status and a licence''s keys are part of what caches and pools hold of a licence.';

-- FUNCTION make_audit_partitions(integer)

CREATE FUNCTION app.make_audit_partitions(p_months_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '200ms'
    AS $$
DECLARE
    this_month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
    m date;
    n text;
    made int := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('app.make_audit_partitions')) THEN
        RETURN 0;
    END IF;
    FOR i IN 1..least(p_months_ahead, 12) LOOP
        m := this_month + make_interval(months => i);
        n := 'audit_entries_' || to_char(m, 'YYYY_MM');
        IF to_regclass('app.' || n) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE app.%I PARTITION OF app.audit_entries FOR VALUES FROM (%L) TO (%L)', n,
                    to_char(m, 'YYYY-MM-DD 00:00:00+00'), to_char(m + interval '1 month', 'YYYY-MM-DD 00:00:00+00'));
                EXECUTE format('COMMENT ON TABLE app.%I IS %L', n, 'Acts of ' || to_char(m, 'YYYY-MM') || ' (UTC).');
                EXECUTE format('ALTER TABLE app.%I ENABLE ROW LEVEL SECURITY', n);
                EXECUTE format('ALTER TABLE app.%I FORCE ROW LEVEL SECURITY', n);
                EXECUTE format('CREATE POLICY tenant ON app.%I USING (tenant_id = (SELECT app.tenant())) '
                    'WITH CHECK (tenant_id = (SELECT app.tenant()))', n);
                made := made + 1;
            EXCEPTION
                WHEN check_violation THEN
                    NULL; -- acts of that month lie in the default partition already: they stay there
                WHEN lock_not_available THEN
                    RETURN made;
            END;
        END IF;
    END LOOP;
    RETURN made;
END
$$;

ALTER FUNCTION app.make_audit_partitions(p_months_ahead integer) OWNER TO usher_owner;

-- COMMENT FUNCTION make_audit_partitions(p_months_ahead integer)

COMMENT ON FUNCTION app.make_audit_partitions(p_months_ahead integer) IS 'Makes the partitions of the coming months that are missing, unless the audit log is too busy; answers how many it made.';

-- FUNCTION make_history_partitions(integer)

CREATE FUNCTION app.make_history_partitions(p_months_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '200ms'
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

ALTER FUNCTION app.make_history_partitions(p_months_ahead integer) OWNER TO usher_owner;

-- COMMENT FUNCTION make_history_partitions(p_months_ahead integer)

COMMENT ON FUNCTION app.make_history_partitions(p_months_ahead integer) IS 'Makes the partitions of the coming months that are missing, unless the history is too busy; answers how many it made.';

-- FUNCTION metered_tenants(integer)

CREATE FUNCTION app.metered_tenants(p_limit integer) RETURNS TABLE(tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT d.tenant_id FROM (
        SELECT h.tenant_id, h.hour AS since FROM app.usage_hours h WHERE h.settled < h.quantity AND h.hour <= now() - interval '1 hour'
        UNION ALL
        SELECT r.tenant_id, r.next_at FROM app.usage_reports r WHERE r.status IN ('pending', 'sent') AND r.next_at <= now()) d
     GROUP BY d.tenant_id ORDER BY min(d.since) LIMIT p_limit
    $$;

ALTER FUNCTION app.metered_tenants(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION metered_tenants(p_limit integer)

COMMENT ON FUNCTION app.metered_tenants(p_limit integer) IS 'Tenants with usage of hours that are over, or reports, that Stripe is to be told now, the longest waiting first.';

-- FUNCTION new_id()

CREATE FUNCTION app.new_id() RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS $$
    -- A random UUID (version 4) with the milliseconds written over its first 48 bits, and the bits 52 and 53, which
    -- are 00 in a 4, set: version 7.
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid
    $$;

ALTER FUNCTION app.new_id() OWNER TO usher_owner;

-- COMMENT FUNCTION new_id()

COMMENT ON FUNCTION app.new_id() IS 'A UUIDv7, for rows that the database itself makes: ids in the order in which they were made.';

-- FUNCTION old_audit_tenants(integer, uuid, integer)

CREATE FUNCTION app.old_audit_tenants(p_days integer, p_after uuid, p_limit integer) RETURNS TABLE(tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_sort TO 'off'
    SET enable_seqscan TO 'off'
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

ALTER FUNCTION app.old_audit_tenants(p_days integer, p_after uuid, p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION old_audit_tenants(p_days integer, p_after uuid, p_limit integer)

COMMENT ON FUNCTION app.old_audit_tenants(p_days integer, p_after uuid, p_limit integer) IS 'Tenants after p_after with entries of the audit log that are older than what is kept, in their order. For app.expire_audit, which sees one at a time.';

-- FUNCTION operator_tenants(uuid, integer)

CREATE FUNCTION app.operator_tenants(p_after uuid, p_limit integer) RETURNS TABLE(id uuid, name text, slug text, status text, status_reason text, status_by text, created_at timestamp with time zone, updated_at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT t.id, t.name, t.slug, t.status, t.status_reason, t.status_by, t.created_at, t.updated_at
      FROM app.tenants t
     WHERE t.kind = 'customer' AND (p_after IS NULL OR t.id > p_after)
     ORDER BY t.id LIMIT least(p_limit, 101)
    $$;

ALTER FUNCTION app.operator_tenants(p_after uuid, p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION operator_tenants(p_after uuid, p_limit integer)

COMMENT ON FUNCTION app.operator_tenants(p_after uuid, p_limit integer) IS 'Customers, in the order in which they were made, after p_after (NULL: from the start); at most 101.';

-- FUNCTION overdraft_tenants(integer)

CREATE FUNCTION app.overdraft_tenants(p_limit integer) RETURNS TABLE(tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT t.tenant_id FROM (
        SELECT l.tenant_id FROM app.licenses l WHERE l.overdraft_seats > 0
        UNION
        SELECT k.tenant_id FROM app.overdraft_counts k) t
      LEFT JOIN LATERAL (SELECT max(k.counted_to) AS counted_to FROM app.overdraft_counts k WHERE k.tenant_id = t.tenant_id) c ON true
     WHERE c.counted_to IS NULL OR c.counted_to < date_trunc('hour', now() - interval '5 minutes', 'UTC')
     ORDER BY c.counted_to NULLS FIRST LIMIT p_limit
    $$;

ALTER FUNCTION app.overdraft_tenants(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION overdraft_tenants(p_limit integer)

COMMENT ON FUNCTION app.overdraft_tenants(p_limit integer) IS 'Tenants who have seats beyond their own, or had, and of whom an hour that is over for five minutes is not counted, the longest waiting first.';

-- FUNCTION pending_checkpoints(uuid, integer)

CREATE FUNCTION app.pending_checkpoints(p_after uuid, p_limit integer) RETURNS TABLE(tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT c.tenant_id FROM app.audit_chains c
     WHERE c.seq > coalesce((SELECT max(p.seq) FROM app.checkpoints p WHERE p.tenant_id = c.tenant_id), 0) AND c.tenant_id > p_after
     ORDER BY c.tenant_id LIMIT least(p_limit, 1000)
    $$;

ALTER FUNCTION app.pending_checkpoints(p_after uuid, p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION pending_checkpoints(p_after uuid, p_limit integer)

COMMENT ON FUNCTION app.pending_checkpoints(p_after uuid, p_limit integer) IS 'Tenants whose audit chain is longer than the journal is known to have it, after p_after.';

-- FUNCTION seat_event_tenants(timestamp with time zone, timestamp with time zone, boolean)

CREATE FUNCTION app.seat_event_tenants(p_from timestamp with time zone, p_to timestamp with time zone, p_all boolean) RETURNS TABLE(tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT s.tenant_id FROM (
        SELECT o.tenant_id FROM app.open_sessions o WHERE o.acquired_at >= p_from AND o.acquired_at < p_to OR o.evicted_at >= p_from AND o.evicted_at < p_to
        UNION
        SELECT e.tenant_id FROM app.ended_sessions e WHERE e.recorded_at >= p_from AND e.recorded_at < p_to) s
     WHERE p_all OR EXISTS (SELECT FROM app.webhooks w WHERE w.tenant_id = s.tenant_id AND w.status = 'active')
    $$;

ALTER FUNCTION app.seat_event_tenants(p_from timestamp with time zone, p_to timestamp with time zone, p_all boolean) OWNER TO usher_resolver;

-- COMMENT FUNCTION seat_event_tenants(p_from timestamp with time zone, p_to timestamp with time zone, p_all boolean)

COMMENT ON FUNCTION app.seat_event_tenants(p_from timestamp with time zone, p_to timestamp with time zone, p_all boolean) IS 'Tenants in which sessions began or were evicted, or rows of ended ones were written, in that time: those with a webhook, or all.';

-- FUNCTION seat_open(uuid, uuid, integer, bigint, bigint, text, text, text, text, text, text, json, uuid[], text[], text[], text[], timestamp with time zone[])

CREATE FUNCTION app.seat_open(p_license uuid, p_session uuid, p_seat integer, p_epoch bigint, p_counter bigint, p_holder text, p_hardware text, p_hostname text, p_user text, p_instance text, p_version text, p_metadata json, p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[]) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

ALTER FUNCTION app.seat_open(p_license uuid, p_session uuid, p_seat integer, p_epoch bigint, p_counter bigint, p_holder text, p_hardware text, p_hostname text, p_user text, p_instance text, p_version text, p_metadata json, p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[]) OWNER TO usher_owner;

-- COMMENT FUNCTION seat_open(p_license uuid, p_session uuid, p_seat integer, p_epoch bigint, p_counter bigint, p_holder text, p_hardware text, p_hostname text, p_user text, p_instance text, p_version text, p_metadata json, p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[])

COMMENT ON FUNCTION app.seat_open(p_license uuid, p_session uuid, p_seat integer, p_epoch bigint, p_counter bigint, p_holder text, p_hardware text, p_hostname text, p_user text, p_instance text, p_version text, p_metadata json, p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[]) IS 'Opens a session on the seat that the pool reserved for it in p_epoch, after closing the sessions it displaces, and records the device. ok (also when it is open already), epoch, seat_held, limit, suspended, ended or too_many_devices; only ok writes the session and the device.';

-- FUNCTION seats_open(uuid[], uuid[], integer[], bigint[], bigint[], text[], text[], text[], text[], text[], text[], text[], integer[], uuid[], text[], text[], text[], timestamp with time zone[])

CREATE FUNCTION app.seats_open(p_licenses uuid[], p_sessions uuid[], p_seats integer[], p_epochs bigint[], p_counters bigint[], p_holders text[], p_hardware text[], p_hostnames text[], p_users text[], p_instances text[], p_versions text[], p_metadata text[], p_gone_of integer[], p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[]) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
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

ALTER FUNCTION app.seats_open(p_licenses uuid[], p_sessions uuid[], p_seats integer[], p_epochs bigint[], p_counters bigint[], p_holders text[], p_hardware text[], p_hostnames text[], p_users text[], p_instances text[], p_versions text[], p_metadata text[], p_gone_of integer[], p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[]) OWNER TO usher_owner;

-- COMMENT FUNCTION seats_open(p_licenses uuid[], p_sessions uuid[], p_seats integer[], p_epochs bigint[], p_counters bigint[], p_holders text[], p_hardware text[], p_hostnames text[], p_users text[], p_instances text[], p_versions text[], p_metadata text[], p_gone_of integer[], p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[])

COMMENT ON FUNCTION app.seats_open(p_licenses uuid[], p_sessions uuid[], p_seats integer[], p_epochs bigint[], p_counters bigint[], p_holders text[], p_hardware text[], p_hostnames text[], p_users text[], p_instances text[], p_versions text[], p_metadata text[], p_gone_of integer[], p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[]) IS 'seat_open for many sessions of one tenant, by a few statements; the verdicts are in their order. p_gone_of says by number whose place each of the displaced was. A licence that somebody holds, or that is not there, is not waited for: busy.';

-- FUNCTION session_borrow(uuid, uuid, bigint, bigint, timestamp with time zone, boolean)

CREATE FUNCTION app.session_borrow(p_license uuid, p_session uuid, p_fence_epoch bigint, p_fence_counter bigint, p_until timestamp with time zone, p_beyond_longest boolean, OUT verdict text, OUT epoch bigint, OUT borrowed_until timestamp with time zone, OUT remaining_ms bigint, OUT hardware_id text, OUT reason text, OUT ended_by text, OUT ended_at timestamp with time zone) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    l record;
    s record;
    tenant record;
    ends timestamptz := date_trunc('milliseconds', p_until);
BEGIN
    -- Two borrows wait for each other here, so that they cannot pass the mark together; and so does a rebuild, which reads
    -- this borrow or begins an epoch that the pool is asked for in vain.
    SELECT x.* INTO l FROM app.licenses x WHERE x.tenant_id = (SELECT app.tenant()) AND x.id = p_license FOR NO KEY UPDATE;
    SELECT o.* INTO s FROM app.open_sessions o
     WHERE o.tenant_id = l.tenant_id AND o.license_id = l.id AND o.id = p_session
       AND o.fence_epoch = p_fence_epoch AND o.fence_counter = p_fence_counter FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        verdict := 'ended';
        RETURN;
    END IF;
    epoch := l.seat_epoch;
    hardware_id := s.hardware_id;
    IF s.evicted_at IS NOT NULL THEN
        verdict := 'evicted';
        reason := s.evict_reason;
        ended_by := s.evicted_by;
        ended_at := s.evicted_at;
        RETURN;
    END IF;
    SELECT t.status, t.status_by INTO tenant FROM app.tenants t WHERE t.id = l.tenant_id;
    reason := app.license_state(tenant.status, l.status, l.starts_at, l.expires_at, l.grace_until, now());
    IF reason <> 'active' THEN
        verdict := 'evicted';
        ended_by := CASE WHEN tenant.status <> 'active' THEN tenant.status_by WHEN l.status <> 'active' THEN l.status_by END;
        RETURN;
    END IF;
    reason := NULL;
    IF ends <= now() THEN
        verdict := 'past';
        RETURN;
    END IF;
    ends := least(ends, greatest(l.expires_at, l.grace_until),
        CASE WHEN NOT p_beyond_longest THEN now() + make_interval(secs => l.offline_grace_seconds) END);
    ends := date_trunc('milliseconds', ends);
    IF s.borrowed_until > now() AND s.borrowed_until >= ends THEN
        ends := s.borrowed_until;
    ELSIF ends <= now() OR s.seat_no > l.max_seats + l.overdraft_seats
        OR (SELECT count(*) FROM app.open_sessions o WHERE o.tenant_id = l.tenant_id AND o.license_id = l.id AND o.id <> s.id
               AND o.borrowed_until > now()) >= l.max_seats - l.borrow_reserve_seats THEN
        verdict := 'limit';
        RETURN;
    ELSE
        UPDATE app.open_sessions o SET borrowed_until = ends WHERE o.tenant_id = l.tenant_id AND o.id = s.id;
    END IF;
    verdict := 'ok';
    borrowed_until := ends;
    remaining_ms := ceil(extract(epoch FROM ends - now()) * 1000);
END
$$;

ALTER FUNCTION app.session_borrow(p_license uuid, p_session uuid, p_fence_epoch bigint, p_fence_counter bigint, p_until timestamp with time zone, p_beyond_longest boolean, OUT verdict text, OUT epoch bigint, OUT borrowed_until timestamp with time zone, OUT remaining_ms bigint, OUT hardware_id text, OUT reason text, OUT ended_by text, OUT ended_at timestamp with time zone) OWNER TO usher_owner;

-- COMMENT FUNCTION session_borrow(p_license uuid, p_session uuid, p_fence_epoch bigint, p_fence_counter bigint, p_until timestamp with time zone, p_beyond_longest boolean, OUT verdict text, OUT epoch bigint, OUT borrowed_until timestamp with time zone, OUT remaining_ms bigint, OUT hardware_id text, OUT reason text, OUT ended_by text, OUT ended_at timestamp with time zone)

COMMENT ON FUNCTION app.session_borrow(p_license uuid, p_session uuid, p_fence_epoch bigint, p_fence_counter bigint, p_until timestamp with time zone, p_beyond_longest boolean, OUT verdict text, OUT epoch bigint, OUT borrowed_until timestamp with time zone, OUT remaining_ms bigint, OUT hardware_id text, OUT reason text, OUT ended_by text, OUT ended_at timestamp with time zone) IS 'Writes that a session is borrowed: until p_until, or the licence''s longest borrow from now (unless p_beyond_longest), or when the licence stops granting, and never earlier than the borrow that lasts. ok, with the epoch in which the pool is to be asked; past, limit (the mark, or a seat that the licence has no more), evicted (also when the licence grants nothing now), ended.';

-- FUNCTION session_close(uuid, bigint, uuid[], text[], text[], text[], timestamp with time zone[])

CREATE FUNCTION app.session_close(p_license uuid, p_epoch bigint, p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

ALTER FUNCTION app.session_close(p_license uuid, p_epoch bigint, p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) OWNER TO usher_owner;

-- COMMENT FUNCTION session_close(p_license uuid, p_epoch bigint, p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[])

COMMENT ON FUNCTION app.session_close(p_license uuid, p_epoch bigint, p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) IS 'Moves the open sessions among p_ids to history; those already ended are left as they are. With p_epoch the close rests on evidence of that epoch and is refused (epoch) in another; without, it is the holder''s own word. An eviction that was answered outranks every other way to end.';

-- FUNCTION sessions_release(uuid[], uuid[], text[], text[], text[], timestamp with time zone[])

CREATE FUNCTION app.sessions_release(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) RETURNS TABLE(session_id uuid, status text, end_reason text, ended_by text, ended_at timestamp with time zone)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
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

ALTER FUNCTION app.sessions_release(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) OWNER TO usher_owner;

-- COMMENT FUNCTION sessions_release(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[])

COMMENT ON FUNCTION app.sessions_release(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) IS 'session_close on the word of the holders, for many sessions of one tenant. It answers how each ended, by this call or before, twice perhaps, and nothing of those that nobody knows.';

-- FUNCTION sessions_release_unlocked(uuid[], uuid[], text[], text[], text[], timestamp with time zone[])

CREATE FUNCTION app.sessions_release_unlocked(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) RETURNS TABLE(session_id uuid, status text, end_reason text, ended_by text, ended_at timestamp with time zone)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
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

ALTER FUNCTION app.sessions_release_unlocked(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) OWNER TO usher_owner;

-- COMMENT FUNCTION sessions_release_unlocked(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[])

COMMENT ON FUNCTION app.sessions_release_unlocked(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) IS 'sessions_release, but a row that somebody holds, as a suspension does or an eviction of all, is not waited for: its status is busy.';

-- FUNCTION subscriptions_to_check(timestamp with time zone, integer)

CREATE FUNCTION app.subscriptions_to_check(p_before timestamp with time zone, p_limit integer) RETURNS TABLE(tenant_id uuid, subscription_id text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT s.tenant_id, s.id FROM app.subscriptions s
     WHERE s.checked_at < p_before AND (s.ended_at IS NULL OR s.ended_at > now() - interval '60 days')
     ORDER BY s.checked_at LIMIT p_limit
    $$;

ALTER FUNCTION app.subscriptions_to_check(p_before timestamp with time zone, p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION subscriptions_to_check(p_before timestamp with time zone, p_limit integer)

COMMENT ON FUNCTION app.subscriptions_to_check(p_before timestamp with time zone, p_limit integer) IS 'Subscriptions that were not compared with Stripe since then, those first that were longest ago.';

-- FUNCTION sweep_licenses(uuid, uuid, integer)

CREATE FUNCTION app.sweep_licenses(p_after_tenant uuid, p_after_license uuid, p_limit integer) RETURNS TABLE(tenant_id uuid, license_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

ALTER FUNCTION app.sweep_licenses(p_after_tenant uuid, p_after_license uuid, p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION sweep_licenses(p_after_tenant uuid, p_after_license uuid, p_limit integer)

COMMENT ON FUNCTION app.sweep_licenses(p_after_tenant uuid, p_after_license uuid, p_limit integer) IS 'Licences with open sessions, in the order of tenant and id, after the given one.';

-- FUNCTION sweep_outbox(integer)

CREATE FUNCTION app.sweep_outbox(p_limit integer) RETURNS TABLE(tenant_id uuid, topic text, subject_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT o.tenant_id, o.topic, o.subject_id FROM app.outbox o
     WHERE o.topic IN ('license.changed', 'session.evicted')
     GROUP BY o.tenant_id, o.topic, o.subject_id
     ORDER BY min(o.created_at) LIMIT p_limit
    $$;

ALTER FUNCTION app.sweep_outbox(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION sweep_outbox(p_limit integer)

COMMENT ON FUNCTION app.sweep_outbox(p_limit integer) IS 'What the seat pools were not told, the longest waiting first.';

-- FUNCTION tenant()

CREATE FUNCTION app.tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid $$;

ALTER FUNCTION app.tenant() OWNER TO usher_owner;

-- COMMENT FUNCTION tenant()

COMMENT ON FUNCTION app.tenant() IS 'The tenant of this transaction, NULL when none was set (after a transaction the setting is the empty string). Policies read it as (select app.tenant()), so that the planner evaluates it once a statement.';

-- FUNCTION waiting()

CREATE FUNCTION app.waiting() RETURNS TABLE(queue text, waiting bigint, seconds double precision)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

ALTER FUNCTION app.waiting() OWNER TO usher_resolver;

-- COMMENT FUNCTION waiting()

COMMENT ON FUNCTION app.waiting() IS 'Of each queue, how much is due and how long the longest has waited: pools that were not told, mails, events without their deliveries, deliveries, of which 100,000 are counted at the most, and events of Stripe''s that had no effect. Numbers, of all tenants together.';

-- FUNCTION waiting_events(integer)

CREATE FUNCTION app.waiting_events(p_limit integer) RETURNS TABLE(tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT e.tenant_id FROM app.events e WHERE e.dispatched_at IS NULL
     GROUP BY e.tenant_id ORDER BY min(e.recorded_at) LIMIT p_limit
    $$;

ALTER FUNCTION app.waiting_events(p_limit integer) OWNER TO usher_resolver;

-- COMMENT FUNCTION waiting_events(p_limit integer)

COMMENT ON FUNCTION app.waiting_events(p_limit integer) IS 'Tenants with events that nobody has been told of, the longest waiting first.';

-- FUNCTION waiting_webhooks()

CREATE FUNCTION app.waiting_webhooks() RETURNS TABLE(tenant_id uuid, webhook_id uuid, since timestamp with time zone)
    LANGUAGE sql STABLE
    SET enable_sort TO 'off'
    SET enable_incremental_sort TO 'off'
    SET enable_seqscan TO 'off'
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

ALTER FUNCTION app.waiting_webhooks() OWNER TO usher_resolver;

-- COMMENT FUNCTION waiting_webhooks()

COMMENT ON FUNCTION app.waiting_webhooks() IS 'Webhooks with deliveries whose time has come, and since when the first of each waits. For functions of the resolver''s, who sees all tenants.';

-- FUNCTION wants(text[], text)

CREATE FUNCTION app.wants(p_events text[], p_type text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT p_type = ANY (p_events) OR split_part(p_type, '.', 1) || '.*' = ANY (p_events) OR '*' = ANY (p_events) $$;

ALTER FUNCTION app.wants(p_events text[], p_type text) OWNER TO usher_owner;

-- COMMENT FUNCTION wants(p_events text[], p_type text)

COMMENT ON FUNCTION app.wants(p_events text[], p_type text) IS 'Whether who asked for these events hears of one of that type.';

-- TABLE api_keys

CREATE TABLE app.api_keys (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    key_hash bytea NOT NULL,
    pepper_version integer NOT NULL,
    hint text NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    rotated_at timestamp with time zone,
    CONSTRAINT api_keys_key_hash_check CHECK ((octet_length(key_hash) = 32)),
    CONSTRAINT api_keys_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200)))
);

ALTER TABLE ONLY app.api_keys FORCE ROW LEVEL SECURITY;

ALTER TABLE app.api_keys OWNER TO usher_owner;

-- COMMENT TABLE api_keys

COMMENT ON TABLE app.api_keys IS 'Credentials of automation: a tenant''s, or the operator''s when they hang on the operator''s row. Stored as keyed hashes.';

-- COMMENT COLUMN api_keys.last_used_at

COMMENT ON COLUMN app.api_keys.last_used_at IS 'Exact to the minute.';

-- COMMENT COLUMN api_keys.rotated_at

COMMENT ON COLUMN app.api_keys.rotated_at IS 'When another key took its place. It lives on until expires_at.';

-- TABLE audit_chains

CREATE TABLE app.audit_chains (
    tenant_id uuid NOT NULL,
    seq bigint DEFAULT 0 NOT NULL,
    hash bytea DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000'::bytea NOT NULL,
    at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    start_seq bigint DEFAULT 0 NOT NULL,
    start_hash bytea DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000'::bytea NOT NULL,
    CONSTRAINT audit_chains_check CHECK ((seq >= start_seq)),
    CONSTRAINT audit_chains_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT audit_chains_start_hash_check CHECK ((octet_length(start_hash) = 32)),
    CONSTRAINT audit_chains_start_seq_check CHECK ((start_seq >= 0))
)
WITH (fillfactor='50');

ALTER TABLE ONLY app.audit_chains FORCE ROW LEVEL SECURITY;

ALTER TABLE app.audit_chains OWNER TO usher_owner;

-- COMMENT TABLE audit_chains

COMMENT ON TABLE app.audit_chains IS 'Where each tenant''s chain of audit entries ends, and where what is kept of it begins. Whoever appends holds the row until it commits: acts of one tenant wait for each other here, and never for another tenant''s.';

-- COMMENT COLUMN audit_chains.at

COMMENT ON COLUMN app.audit_chains.at IS 'The time of the last entry: none is earlier than the one before it, so that what is older than a day is a prefix.';

-- COMMENT COLUMN audit_chains.start_seq

COMMENT ON COLUMN app.audit_chains.start_seq IS 'The last entry that was dropped because it was old, 0 for none; start_hash is its hash, by which the next is verified.';

-- TABLE audit_entries

CREATE TABLE app.audit_entries (
    tenant_id uuid NOT NULL,
    at timestamp(3) with time zone NOT NULL,
    seq bigint NOT NULL,
    action text NOT NULL,
    outcome text NOT NULL,
    actor text NOT NULL,
    by_operator boolean NOT NULL,
    credential text NOT NULL,
    address text NOT NULL,
    subject text NOT NULL,
    request_id text NOT NULL,
    details jsonb NOT NULL,
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_entries_action_check CHECK ((action ~ '^[a-z_]{1,40}\.[a-z_]{1,40}$'::text)),
    CONSTRAINT audit_entries_actor_check CHECK (((char_length(actor) >= 1) AND (char_length(actor) <= 300))),
    CONSTRAINT audit_entries_address_check CHECK ((char_length(address) <= 64)),
    CONSTRAINT audit_entries_credential_check CHECK ((char_length(credential) <= 300)),
    CONSTRAINT audit_entries_details_check CHECK ((jsonb_typeof(details) = 'object'::text)),
    CONSTRAINT audit_entries_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT audit_entries_outcome_check CHECK ((outcome = ANY (ARRAY['done'::text, 'refused'::text]))),
    CONSTRAINT audit_entries_previous_check CHECK ((octet_length(previous) = 32)),
    CONSTRAINT audit_entries_request_id_check CHECK ((char_length(request_id) <= 128)),
    CONSTRAINT audit_entries_subject_check CHECK (((char_length(subject) >= 1) AND (char_length(subject) <= 300)))
)
PARTITION BY RANGE (at);

ALTER TABLE ONLY app.audit_entries FORCE ROW LEVEL SECURITY;

ALTER TABLE app.audit_entries OWNER TO usher_owner;

-- COMMENT TABLE audit_entries

COMMENT ON TABLE app.audit_entries IS 'Who did what, on what, from where and with which credential: each security- or money-relevant act, each chained to the one before it. No role may write here: app.audit_record does. A partition a month, so that retention drops whole months.';

-- COMMENT COLUMN audit_entries.details

COMMENT ON COLUMN app.audit_entries.details IS 'What more there is to say, text by name.';

-- COMMENT COLUMN audit_entries.previous

COMMENT ON COLUMN app.audit_entries.previous IS 'The hash of the entry before.';

-- TABLE audit_entries_default

CREATE TABLE app.audit_entries_default (
    tenant_id uuid NOT NULL,
    at timestamp(3) with time zone NOT NULL,
    seq bigint NOT NULL,
    action text NOT NULL,
    outcome text NOT NULL,
    actor text NOT NULL,
    by_operator boolean NOT NULL,
    credential text NOT NULL,
    address text NOT NULL,
    subject text NOT NULL,
    request_id text NOT NULL,
    details jsonb NOT NULL,
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_entries_action_check CHECK ((action ~ '^[a-z_]{1,40}\.[a-z_]{1,40}$'::text)),
    CONSTRAINT audit_entries_actor_check CHECK (((char_length(actor) >= 1) AND (char_length(actor) <= 300))),
    CONSTRAINT audit_entries_address_check CHECK ((char_length(address) <= 64)),
    CONSTRAINT audit_entries_credential_check CHECK ((char_length(credential) <= 300)),
    CONSTRAINT audit_entries_details_check CHECK ((jsonb_typeof(details) = 'object'::text)),
    CONSTRAINT audit_entries_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT audit_entries_outcome_check CHECK ((outcome = ANY (ARRAY['done'::text, 'refused'::text]))),
    CONSTRAINT audit_entries_previous_check CHECK ((octet_length(previous) = 32)),
    CONSTRAINT audit_entries_request_id_check CHECK ((char_length(request_id) <= 128)),
    CONSTRAINT audit_entries_subject_check CHECK (((char_length(subject) >= 1) AND (char_length(subject) <= 300)))
);

ALTER TABLE ONLY app.audit_entries_default FORCE ROW LEVEL SECURITY;

ALTER TABLE app.audit_entries_default OWNER TO usher_owner;

-- COMMENT TABLE audit_entries_default

COMMENT ON TABLE app.audit_entries_default IS 'Months that have no partition of their own: no act fails because nobody made one.';

-- TABLE billing_customers

CREATE TABLE app.billing_customers (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    stripe_id text,
    checkout_session_id text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    offer_taken_at timestamp with time zone,
    CONSTRAINT billing_customers_checkout_session_id_check CHECK (((char_length(checkout_session_id) >= 1) AND (char_length(checkout_session_id) <= 255))),
    CONSTRAINT billing_customers_stripe_id_check CHECK (((char_length(stripe_id) >= 1) AND (char_length(stripe_id) <= 255)))
);

ALTER TABLE ONLY app.billing_customers FORCE ROW LEVEL SECURITY;

ALTER TABLE app.billing_customers OWNER TO usher_owner;

-- COMMENT TABLE billing_customers

COMMENT ON TABLE app.billing_customers IS 'What Stripe knows a tenant by. The row is written before the customer is made at Stripe, and its id is the idempotency key of the making: however often that is tried, one customer comes of it.';

-- COMMENT COLUMN billing_customers.stripe_id

COMMENT ON COLUMN app.billing_customers.stripe_id IS 'NULL until Stripe has answered.';

-- COMMENT COLUMN billing_customers.checkout_session_id

COMMENT ON COLUMN app.billing_customers.checkout_session_id IS 'The newest Checkout Session: the one before it is expired, so that nobody pays twice.';

-- COMMENT COLUMN billing_customers.deleted_at

COMMENT ON COLUMN app.billing_customers.deleted_at IS 'When Stripe said that the customer was deleted there. The next purchase makes another.';

-- COMMENT COLUMN billing_customers.offer_taken_at

COMMENT ON COLUMN app.billing_customers.offer_taken_at IS 'When the customer took the offer that is made to whoever cancels: once.';

-- TABLE checkpoints

CREATE TABLE app.checkpoints (
    tenant_id uuid NOT NULL,
    seq bigint NOT NULL,
    CONSTRAINT checkpoints_seq_check CHECK ((seq > 0))
);

ALTER TABLE ONLY app.checkpoints FORCE ROW LEVEL SECURITY;

ALTER TABLE app.checkpoints OWNER TO usher_owner;

-- COMMENT TABLE checkpoints

COMMENT ON TABLE app.checkpoints IS 'How far the journal is known to have each audit chain, so that it is not asked in vain. The checkpoints are in the journal: whoever writes here delays one, and alters none.';

-- TABLE devices

CREATE TABLE app.devices (
    tenant_id uuid NOT NULL,
    license_id uuid NOT NULL,
    id uuid DEFAULT app.new_id() NOT NULL,
    hardware_id text NOT NULL,
    hostname text,
    first_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT devices_hardware_id_check CHECK (((char_length(hardware_id) >= 1) AND (char_length(hardware_id) <= 255))),
    CONSTRAINT devices_hostname_check CHECK ((char_length(hostname) <= 255))
);

ALTER TABLE ONLY app.devices FORCE ROW LEVEL SECURITY;

ALTER TABLE app.devices OWNER TO usher_owner;

-- COMMENT TABLE devices

COMMENT ON TABLE app.devices IS 'Hardware that has taken a seat of a licence; what max_devices counts. last_seen_at is exact to the hour.';

-- TABLE ended_sessions

CREATE TABLE app.ended_sessions (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    license_id uuid NOT NULL,
    seat_no integer NOT NULL,
    overdraft boolean NOT NULL,
    holder text NOT NULL,
    hardware_id text NOT NULL,
    hostname text,
    user_name text,
    instance_id text,
    version text NOT NULL,
    metadata json,
    acquired_at timestamp with time zone NOT NULL,
    status text NOT NULL,
    end_reason text NOT NULL,
    ended_by text NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT ended_sessions_status_check CHECK ((status = ANY (ARRAY['released'::text, 'lapsed'::text, 'evicted'::text])))
)
PARTITION BY RANGE (ended_at);

ALTER TABLE ONLY app.ended_sessions FORCE ROW LEVEL SECURITY;

ALTER TABLE app.ended_sessions OWNER TO usher_owner;

-- COMMENT TABLE ended_sessions

COMMENT ON TABLE app.ended_sessions IS 'Sessions that ended, a partition a month, so that retention drops whole months.';

-- COMMENT COLUMN ended_sessions.recorded_at

COMMENT ON COLUMN app.ended_sessions.recorded_at IS 'When the row was written, which may be long after the session ended: the row of who fell silent waits for the next taker or the sweep.';

-- TABLE ended_sessions_default

CREATE TABLE app.ended_sessions_default (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    license_id uuid NOT NULL,
    seat_no integer NOT NULL,
    overdraft boolean NOT NULL,
    holder text NOT NULL,
    hardware_id text NOT NULL,
    hostname text,
    user_name text,
    instance_id text,
    version text NOT NULL,
    metadata json,
    acquired_at timestamp with time zone NOT NULL,
    status text NOT NULL,
    end_reason text NOT NULL,
    ended_by text NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT ended_sessions_status_check CHECK ((status = ANY (ARRAY['released'::text, 'lapsed'::text, 'evicted'::text])))
);

ALTER TABLE ONLY app.ended_sessions_default FORCE ROW LEVEL SECURITY;

ALTER TABLE app.ended_sessions_default OWNER TO usher_owner;

-- COMMENT TABLE ended_sessions_default

COMMENT ON TABLE app.ended_sessions_default IS 'Months that have no partition of their own: nothing is refused because nobody made one.';

-- TABLE event_cursor

CREATE TABLE app.event_cursor (
    only_row boolean DEFAULT true NOT NULL,
    seats_to timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT event_cursor_only_row_check CHECK (only_row)
);

ALTER TABLE app.event_cursor OWNER TO usher_owner;

-- COMMENT TABLE event_cursor

COMMENT ON TABLE app.event_cursor IS 'Up to where the rows of sessions were read for events.';

-- TABLE events

CREATE TABLE app.events (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    type text NOT NULL,
    subject text NOT NULL,
    data jsonb NOT NULL,
    occurred_at timestamp with time zone DEFAULT now() NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    dispatched_at timestamp with time zone,
    CONSTRAINT events_data_check CHECK (((jsonb_typeof(data) = 'object'::text) AND (octet_length((data)::text) <= 32768))),
    CONSTRAINT events_subject_check CHECK (((char_length(subject) >= 1) AND (char_length(subject) <= 300))),
    CONSTRAINT events_type_check CHECK ((type ~ '^[a-z_]{1,40}\.[a-z_]{1,40}$'::text))
);

ALTER TABLE ONLY app.events FORCE ROW LEVEL SECURITY;

ALTER TABLE app.events OWNER TO usher_owner;

-- COMMENT TABLE events

COMMENT ON TABLE app.events IS 'What happened that somebody''s system may want to hear of, until a delivery was made for each that does, and for 7 days more: whoever records an event again within them records nothing.';

-- TABLE freezes

CREATE TABLE app.freezes (
    about_tenant uuid NOT NULL,
    frozen boolean NOT NULL,
    reason text NOT NULL,
    by text NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT freezes_by_check CHECK (((char_length(by) >= 1) AND (char_length(by) <= 300))),
    CONSTRAINT freezes_reason_check CHECK (((char_length(reason) >= 1) AND (char_length(reason) <= 500)))
);

ALTER TABLE app.freezes OWNER TO usher_owner;

-- COMMENT TABLE freezes

COMMENT ON TABLE app.freezes IS 'Tenants that an incident or a switch froze, or froze no more, and when: where this and the switches in the journal disagree, because one of them was out, the later word counts.';

-- TABLE idempotency_keys

CREATE TABLE app.idempotency_keys (
    tenant_id uuid NOT NULL,
    scope text NOT NULL,
    key_hash bytea NOT NULL,
    body_hash bytea NOT NULL,
    state text DEFAULT 'in_flight'::text NOT NULL,
    held_until timestamp with time zone NOT NULL,
    http_status integer,
    answer bytea,
    session_id uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT done_has_answer CHECK (((state = 'in_flight'::text) OR ((http_status IS NOT NULL) AND (answer IS NOT NULL)))),
    CONSTRAINT idempotency_keys_body_hash_check CHECK ((octet_length(body_hash) = 32)),
    CONSTRAINT idempotency_keys_http_status_check CHECK ((http_status = ANY (ARRAY[200, 201]))),
    CONSTRAINT idempotency_keys_key_hash_check CHECK ((octet_length(key_hash) = 32)),
    CONSTRAINT idempotency_keys_scope_check CHECK ((char_length(scope) <= 300)),
    CONSTRAINT idempotency_keys_state_check CHECK ((state = ANY (ARRAY['in_flight'::text, 'done'::text])))
);

ALTER TABLE ONLY app.idempotency_keys FORCE ROW LEVEL SECURITY;

ALTER TABLE app.idempotency_keys OWNER TO usher_owner;

-- COMMENT TABLE idempotency_keys

COMMENT ON TABLE app.idempotency_keys IS 'First answers to POSTs that carried an Idempotency-Key, for 24 hours.';

-- COMMENT COLUMN idempotency_keys.scope

COMMENT ON COLUMN app.idempotency_keys.scope IS 'Credential and route (acquire: licence) the key belongs to.';

-- COMMENT COLUMN idempotency_keys.held_until

COMMENT ON COLUMN app.idempotency_keys.held_until IS 'While in_flight: until when a repetition is told to wait; afterwards its sender is taken for dead.';

-- COMMENT COLUMN idempotency_keys.answer

COMMENT ON COLUMN app.idempotency_keys.answer IS 'Encrypted under a key derived from the Idempotency-Key, which is not stored: only who knows it can read the answer.';

-- COMMENT COLUMN idempotency_keys.session_id

COMMENT ON COLUMN app.idempotency_keys.session_id IS 'Acquire only: the answer is repeated while this session lives.';

-- TABLE incident_actions

CREATE TABLE app.incident_actions (
    incident_id uuid NOT NULL,
    action text NOT NULL,
    place integer NOT NULL,
    outcome text DEFAULT 'pending'::text NOT NULL,
    detail text DEFAULT ''::text NOT NULL,
    at timestamp with time zone,
    CONSTRAINT decided_has_time CHECK (((outcome = 'pending'::text) = (at IS NULL))),
    CONSTRAINT incident_actions_action_check CHECK ((action = ANY (ARRAY['freeze_tenant'::text, 'end_sessions'::text, 'revoke_licenses'::text, 'revoke_api_keys'::text, 'revoke_signing_key'::text, 'rotate_signing_key'::text, 'unfreeze_tenant'::text]))),
    CONSTRAINT incident_actions_detail_check CHECK ((char_length(detail) <= 500)),
    CONSTRAINT incident_actions_outcome_check CHECK ((outcome = ANY (ARRAY['pending'::text, 'done'::text, 'failed'::text])))
);

ALTER TABLE app.incident_actions OWNER TO usher_owner;

-- COMMENT TABLE incident_actions

COMMENT ON TABLE app.incident_actions IS 'What an incident''s opening asked for, and what became of each. Each may be done again without doing more; what is pending the next run of the watch does.';

-- TABLE incident_entries

CREATE TABLE app.incident_entries (
    id uuid NOT NULL,
    incident_id uuid NOT NULL,
    body jsonb NOT NULL,
    CONSTRAINT incident_entries_body_check CHECK ((jsonb_typeof(body) = 'object'::text))
);

ALTER TABLE app.incident_entries OWNER TO usher_owner;

-- COMMENT TABLE incident_entries

COMMENT ON TABLE app.incident_entries IS 'Entries of timelines that the journal does not have yet: written in the transaction that does the act, deleted when the journal has them.';

-- TABLE incident_evidence

CREATE TABLE app.incident_evidence (
    incident_id uuid NOT NULL,
    minute timestamp with time zone NOT NULL,
    source text NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT incident_evidence_count_check CHECK ((count > 0)),
    CONSTRAINT incident_evidence_source_check CHECK (((char_length(source) >= 1) AND (char_length(source) <= 200)))
);

ALTER TABLE app.incident_evidence OWNER TO usher_owner;

-- COMMENT TABLE incident_evidence

COMMENT ON TABLE app.incident_evidence IS 'What an incident that opened by itself was opened for: how often it was seen in a minute, from which address or by whom.';

-- TABLE incidents

CREATE TABLE app.incidents (
    id uuid NOT NULL,
    severity text NOT NULL,
    kind text NOT NULL,
    summary text NOT NULL,
    status text DEFAULT 'open'::text NOT NULL,
    about_tenant uuid,
    about_license uuid,
    about_user uuid,
    about_api_key uuid,
    about_kid text,
    opened_by text NOT NULL,
    opened_at timestamp with time zone DEFAULT now() NOT NULL,
    respond_by timestamp with time zone NOT NULL,
    responded_at timestamp with time zone,
    resolved_at timestamp with time zone,
    resolved_by text,
    resolution text,
    offline boolean DEFAULT false NOT NULL,
    detected_as text,
    CONSTRAINT incidents_about_kid_check CHECK (((char_length(about_kid) >= 1) AND (char_length(about_kid) <= 64))),
    CONSTRAINT incidents_detected_as_check CHECK (((char_length(detected_as) >= 1) AND (char_length(detected_as) <= 200))),
    CONSTRAINT incidents_kind_check CHECK ((kind ~ '^[a-z][a-z0-9_]{0,59}$'::text)),
    CONSTRAINT incidents_opened_by_check CHECK (((char_length(opened_by) >= 1) AND (char_length(opened_by) <= 300))),
    CONSTRAINT incidents_resolution_check CHECK (((char_length(resolution) >= 1) AND (char_length(resolution) <= 2000))),
    CONSTRAINT incidents_resolved_by_check CHECK (((char_length(resolved_by) >= 1) AND (char_length(resolved_by) <= 300))),
    CONSTRAINT incidents_severity_check CHECK ((severity = ANY (ARRAY['P0'::text, 'P1'::text, 'P2'::text, 'P3'::text]))),
    CONSTRAINT incidents_status_check CHECK ((status = ANY (ARRAY['open'::text, 'resolved'::text]))),
    CONSTRAINT incidents_summary_check CHECK (((char_length(summary) >= 1) AND (char_length(summary) <= 500))),
    CONSTRAINT license_has_tenant CHECK (((about_tenant IS NOT NULL) OR ((about_license IS NULL) AND (about_user IS NULL) AND (about_api_key IS NULL)))),
    CONSTRAINT resolved_is_whole CHECK ((((status = 'resolved'::text) = (resolved_at IS NOT NULL)) AND ((resolved_at IS NULL) = (resolved_by IS NULL))))
);

ALTER TABLE app.incidents OWNER TO usher_owner;

-- COMMENT TABLE incidents

COMMENT ON TABLE app.incidents IS 'What went wrong, whom it is about, and what became of it. Its timeline is in the operator''s audit chain and in the journal.';

-- COMMENT COLUMN incidents.about_tenant

COMMENT ON COLUMN app.incidents.about_tenant IS 'Of a licence, a user or an API key: whose it is.';

-- COMMENT COLUMN incidents.respond_by

COMMENT ON COLUMN app.incidents.respond_by IS 'When somebody should have looked at it: as its severity says.';

-- COMMENT COLUMN incidents.responded_at

COMMENT ON COLUMN app.incidents.responded_at IS 'When a person first did something about it: opened it, noted something or resolved it.';

-- COMMENT COLUMN incidents.offline

COMMENT ON COLUMN app.incidents.offline IS 'It was opened while this database was out, and came here from the journal.';

-- COMMENT COLUMN incidents.detected_as

COMMENT ON COLUMN app.incidents.detected_as IS 'What was seen, and of whom: of each there is one open incident at a time. NULL when a person opened it.';

-- TABLE license_keys

CREATE TABLE app.license_keys (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    license_id uuid NOT NULL,
    key_hash bytea NOT NULL,
    pepper_version integer NOT NULL,
    hint text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    CONSTRAINT license_keys_key_hash_check CHECK ((octet_length(key_hash) = 32))
);

ALTER TABLE ONLY app.license_keys FORCE ROW LEVEL SECURITY;

ALTER TABLE app.license_keys OWNER TO usher_owner;

-- COMMENT TABLE license_keys

COMMENT ON TABLE app.license_keys IS 'The secrets that applications present, as keyed hashes. A rotated key lives on until expires_at.';

-- COMMENT COLUMN license_keys.key_hash

COMMENT ON COLUMN app.license_keys.key_hash IS 'HMAC-SHA-256 of the key under the pepper of pepper_version.';

-- COMMENT COLUMN license_keys.hint

COMMENT ON COLUMN app.license_keys.hint IS 'The key''s first and last characters, for people to tell keys apart.';

-- TABLE license_notices

CREATE TABLE app.license_notices (
    tenant_id uuid NOT NULL,
    license_id uuid NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    days integer NOT NULL,
    noticed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT license_notices_days_check CHECK (((days >= 0) AND (days <= 30)))
);

ALTER TABLE ONLY app.license_notices FORCE ROW LEVEL SECURITY;

ALTER TABLE app.license_notices OWNER TO usher_owner;

-- COMMENT TABLE license_notices

COMMENT ON TABLE app.license_notices IS 'Which notices a licence''s owners have had of an end, so many days before it; 0 is that it has come. Each once.';

-- TABLE licenses

CREATE TABLE app.licenses (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    product_code text NOT NULL,
    plan_code text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    status_reason text,
    status_by text,
    max_seats integer NOT NULL,
    overdraft_seats integer DEFAULT 0 NOT NULL,
    ttl_seconds integer NOT NULL,
    seat_per text NOT NULL,
    features text[] DEFAULT '{}'::text[] NOT NULL,
    versions text DEFAULT ''::text NOT NULL,
    max_devices integer,
    allowed_hardware text[] DEFAULT '{}'::text[] NOT NULL,
    offline_grace_seconds integer NOT NULL,
    drain_seconds integer NOT NULL,
    starts_at timestamp with time zone,
    expires_at timestamp with time zone,
    grace_until timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    pool_version bigint DEFAULT 1 NOT NULL,
    seat_epoch bigint DEFAULT 0 NOT NULL,
    lock_stamp bigint DEFAULT 0 NOT NULL,
    ttl_floor_seconds integer DEFAULT 0 NOT NULL,
    ttl_floor_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    drain_until timestamp with time zone,
    borrow_reserve_seats integer DEFAULT 0 NOT NULL,
    on_trial boolean DEFAULT false NOT NULL,
    CONSTRAINT grace_after_expiry CHECK (((grace_until IS NULL) OR ((expires_at IS NOT NULL) AND (grace_until >= expires_at)))),
    CONSTRAINT grace_of_a_week CHECK ((offline_grace_seconds <= 604800)),
    CONSTRAINT licenses_borrow_reserve_seats_check CHECK (((borrow_reserve_seats >= 0) AND (borrow_reserve_seats <= 100000))),
    CONSTRAINT licenses_drain_seconds_check CHECK (((drain_seconds >= 0) AND (drain_seconds <= 31536000))),
    CONSTRAINT licenses_max_devices_check CHECK (((max_devices >= 1) AND (max_devices <= 1000000))),
    CONSTRAINT licenses_max_seats_check CHECK (((max_seats >= 1) AND (max_seats <= 100000))),
    CONSTRAINT licenses_offline_grace_seconds_check CHECK (((offline_grace_seconds >= 0) AND (offline_grace_seconds <= 31536000))),
    CONSTRAINT licenses_overdraft_seats_check CHECK (((overdraft_seats >= 0) AND (overdraft_seats <= 100000))),
    CONSTRAINT licenses_seat_per_check CHECK ((seat_per = ANY (ARRAY['device'::text, 'user'::text, 'instance'::text]))),
    CONSTRAINT licenses_status_check CHECK ((status = ANY (ARRAY['active'::text, 'suspended'::text, 'revoked'::text]))),
    CONSTRAINT licenses_ttl_seconds_check CHECK (((ttl_seconds >= 1) AND (ttl_seconds <= 86400))),
    CONSTRAINT licenses_versions_check CHECK ((char_length(versions) <= 255)),
    CONSTRAINT seats_fit_a_rebuild CHECK (((max_seats + overdraft_seats) <= 100000)),
    CONSTRAINT starts_before_expiry CHECK (((starts_at IS NULL) OR (expires_at IS NULL) OR (starts_at < expires_at)))
);

ALTER TABLE ONLY app.licenses FORCE ROW LEVEL SECURITY;

ALTER TABLE app.licenses OWNER TO usher_owner;

-- COMMENT TABLE licenses

COMMENT ON TABLE app.licenses IS 'What a tenant was sold.';

-- COMMENT COLUMN licenses.versions

COMMENT ON COLUMN app.licenses.versions IS 'A semantic-version range such as >=2.0 <4.0; empty: every version.';

-- COMMENT COLUMN licenses.max_devices

COMMENT ON COLUMN app.licenses.max_devices IS 'NULL: no limit.';

-- COMMENT COLUMN licenses.allowed_hardware

COMMENT ON COLUMN app.licenses.allowed_hardware IS 'Hardware ids that may use the licence; empty: every one.';

-- COMMENT COLUMN licenses.pool_version

COMMENT ON COLUMN app.licenses.pool_version IS 'Grows with every change that the seat pool or a cache of this row must hear of (trigger).';

-- COMMENT COLUMN licenses.seat_epoch

COMMENT ON COLUMN app.licenses.seat_epoch IS 'Grows whenever the pool in Redis is rebuilt; opening a session, and closing one on evidence, demand the epoch they were decided in.';

-- COMMENT COLUMN licenses.lock_stamp

COMMENT ON COLUMN app.licenses.lock_stamp IS 'Never written. UPDATE on it is what lets the seat functions take FOR SHARE on the row.';

-- COMMENT COLUMN licenses.ttl_floor_seconds

COMMENT ON COLUMN app.licenses.ttl_floor_seconds IS 'The longest lease that somebody may still believe in, while ttl_floor_until has not passed: a shortened lease counts only once the older, longer beliefs have ended. ttl_floor_until is infinity until the pool was told of the shorter lease.';

-- COMMENT COLUMN licenses.drain_until

COMMENT ON COLUMN app.licenses.drain_until IS 'When sessions on seats above a reduced number of seats are evicted.';

-- COMMENT COLUMN licenses.borrow_reserve_seats

COMMENT ON COLUMN app.licenses.borrow_reserve_seats IS 'The low-water mark: at most max_seats less these are borrowed at once. What is borrowed already stays so when it rises.';

-- COMMENT COLUMN licenses.on_trial

COMMENT ON COLUMN app.licenses.on_trial IS 'On trial until expires_at. False again when it has fallen to the free tier, was bought, or was given another plan.';

-- TABLE mails

CREATE TABLE app.mails (
    tenant_id uuid NOT NULL,
    id uuid DEFAULT app.new_id() NOT NULL,
    kind text NOT NULL,
    recipient text NOT NULL,
    key text NOT NULL,
    data jsonb NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    next_at timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    last_error text,
    CONSTRAINT mails_data_check CHECK (((jsonb_typeof(data) = 'object'::text) AND (octet_length((data)::text) <= 16384))),
    CONSTRAINT mails_key_check CHECK (((char_length(key) >= 1) AND (char_length(key) <= 200))),
    CONSTRAINT mails_kind_check CHECK ((kind ~ '^[a-z_]{1,40}$'::text)),
    CONSTRAINT mails_last_error_check CHECK ((char_length(last_error) <= 500)),
    CONSTRAINT mails_recipient_check CHECK (((char_length(recipient) >= 3) AND (char_length(recipient) <= 254))),
    CONSTRAINT mails_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'sent'::text, 'failed'::text]))),
    CONSTRAINT nothing_is_left_of_what_is_over CHECK (((status = 'pending'::text) OR (data = '{}'::jsonb))),
    CONSTRAINT what_is_over_has_a_time CHECK (((status = 'pending'::text) = (finished_at IS NULL)))
);

ALTER TABLE ONLY app.mails FORCE ROW LEVEL SECURITY;

ALTER TABLE app.mails OWNER TO usher_owner;

-- COMMENT TABLE mails

COMMENT ON TABLE app.mails IS 'Mails that are to be sent, and for 30 days that they were. What a mail says, which may hold an invitation''s token or a licence key, is here until it is sent or given up, and no longer.';

-- COMMENT COLUMN mails.key

COMMENT ON COLUMN app.mails.key IS 'What the mail is about: of one key a tenant gets one mail, however often it is queued.';

-- COMMENT COLUMN mails.next_at

COMMENT ON COLUMN app.mails.next_at IS 'While pending: not before. Who sends it moves this on first, by longer than sending may take, so that nobody else does.';

-- TABLE open_sessions

CREATE TABLE app.open_sessions (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    license_id uuid NOT NULL,
    seat_no integer NOT NULL,
    fence_epoch bigint NOT NULL,
    fence_counter bigint NOT NULL,
    overdraft boolean DEFAULT false NOT NULL,
    holder text NOT NULL,
    hardware_id text NOT NULL,
    hostname text,
    user_name text,
    instance_id text,
    version text DEFAULT ''::text NOT NULL,
    metadata json,
    acquired_at timestamp with time zone DEFAULT now() NOT NULL,
    borrowed_until timestamp with time zone,
    evicted_at timestamp with time zone,
    evict_reason text,
    evicted_by text,
    CONSTRAINT evicted_has_reason CHECK (((evicted_at IS NULL) = (evict_reason IS NULL))),
    CONSTRAINT open_sessions_hardware_id_check CHECK ((char_length(hardware_id) <= 255)),
    CONSTRAINT open_sessions_holder_check CHECK (((char_length(holder) >= 1) AND (char_length(holder) <= 600))),
    CONSTRAINT open_sessions_hostname_check CHECK ((char_length(hostname) <= 255)),
    CONSTRAINT open_sessions_instance_id_check CHECK ((char_length(instance_id) <= 255)),
    CONSTRAINT open_sessions_metadata_check CHECK ((octet_length((metadata)::text) <= 16384)),
    CONSTRAINT open_sessions_seat_no_check CHECK ((seat_no > 0)),
    CONSTRAINT open_sessions_user_name_check CHECK ((char_length(user_name) <= 255)),
    CONSTRAINT open_sessions_version_check CHECK ((char_length(version) <= 50))
);

ALTER TABLE ONLY app.open_sessions FORCE ROW LEVEL SECURITY;

ALTER TABLE app.open_sessions OWNER TO usher_owner;

-- COMMENT TABLE open_sessions

COMMENT ON TABLE app.open_sessions IS 'Who sits. Whoever was told "until T" has a row here until T; two rows never share a seat of a licence. Small on purpose: a session that ended moves to ended_sessions in the same transaction.';

-- COMMENT COLUMN open_sessions.holder

COMMENT ON COLUMN app.open_sessions.holder IS 'device:…, user:… or instance:…, as the licence''s seat_per says.';

-- COMMENT COLUMN open_sessions.metadata

COMMENT ON COLUMN app.open_sessions.metadata IS 'The holder''s own JSON object, kept byte for byte.';

-- COMMENT COLUMN open_sessions.borrowed_until

COMMENT ON COLUMN app.open_sessions.borrowed_until IS 'Its holder may believe, without heartbeats, until then. Written before the holder is told; never made earlier while it lasts.';

-- COMMENT COLUMN open_sessions.evicted_at

COMMENT ON COLUMN app.open_sessions.evicted_at IS 'Evicted, but its holder may still believe: the seat stays taken until the holder heard or its lease ran out.';

-- TABLE outbox

CREATE TABLE app.outbox (
    tenant_id uuid NOT NULL,
    id uuid DEFAULT app.new_id() NOT NULL,
    topic text NOT NULL,
    subject_id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT outbox_topic_check CHECK ((topic ~ '^[a-z_]+\.[a-z_]+$'::text))
);

ALTER TABLE ONLY app.outbox FORCE ROW LEVEL SECURITY;

ALTER TABLE app.outbox OWNER TO usher_owner;

-- COMMENT TABLE outbox

COMMENT ON TABLE app.outbox IS 'What must still be told to somebody outside this database, written in the transaction that made it true. license.changed and session.evicted go to the seat pool in Redis; what was told is deleted, and the sweep repeats the rest.';

-- TABLE overdraft_counts

CREATE TABLE app.overdraft_counts (
    tenant_id uuid NOT NULL,
    counted_to timestamp with time zone NOT NULL,
    CONSTRAINT overdraft_counts_counted_to_check CHECK ((counted_to = date_trunc('hour'::text, counted_to, 'UTC'::text)))
);

ALTER TABLE ONLY app.overdraft_counts FORCE ROW LEVEL SECURITY;

ALTER TABLE app.overdraft_counts OWNER TO usher_owner;

-- COMMENT TABLE overdraft_counts

COMMENT ON TABLE app.overdraft_counts IS 'Up to which hour a tenant''s overdraft seats are counted in usage_hours, as overdraft_seat_hours. Counting an hour again counts no less and nothing twice. Whoever counts writes a row first, for which another waits, and deletes those before it.';

-- TABLE plan_metrics

CREATE TABLE app.plan_metrics (
    plan_code text NOT NULL,
    metric text NOT NULL,
    quota bigint,
    cap bigint,
    cap_type text,
    CONSTRAINT a_cap_has_a_type CHECK (((cap IS NULL) = (cap_type IS NULL))),
    CONSTRAINT plan_metrics_cap_check CHECK (((cap >= 1) AND (cap <= '1000000000000000'::bigint))),
    CONSTRAINT plan_metrics_cap_type_check CHECK ((cap_type = ANY (ARRAY['soft'::text, 'hard'::text]))),
    CONSTRAINT plan_metrics_metric_check CHECK ((metric ~ '^[a-z][a-z0-9_]{0,62}$'::text)),
    CONSTRAINT plan_metrics_quota_check CHECK (((quota >= 1) AND (quota <= '1000000000000000'::bigint)))
);

ALTER TABLE app.plan_metrics OWNER TO usher_owner;

-- COMMENT TABLE plan_metrics

COMMENT ON TABLE app.plan_metrics IS 'What the licences of a plan may report the use of. It holds for every licence of the plan from now on: unlike a plan''s defaults it is not copied. What a unit costs is configuration (STRIPE_CATALOG).';

-- COMMENT COLUMN plan_metrics.quota

COMMENT ON COLUMN app.plan_metrics.quota IS 'So many units of a licence in a calendar month (UTC) are expected: owners are warned at 80 and 100 %. NULL: none.';

-- COMMENT COLUMN plan_metrics.cap

COMMENT ON COLUMN app.plan_metrics.cap IS 'The most units of a licence in a calendar month. Beyond it a hard cap refuses, a soft one warns.';

-- TABLE plans

CREATE TABLE app.plans (
    code text NOT NULL,
    product_code text NOT NULL,
    name text NOT NULL,
    max_seats integer DEFAULT 1 NOT NULL,
    overdraft_seats integer DEFAULT 0 NOT NULL,
    ttl_seconds integer DEFAULT 360 NOT NULL,
    seat_per text DEFAULT 'device'::text NOT NULL,
    features text[] DEFAULT '{}'::text[] NOT NULL,
    versions text DEFAULT ''::text NOT NULL,
    max_devices integer,
    offline_grace_seconds integer DEFAULT 86400 NOT NULL,
    drain_seconds integer DEFAULT 86400 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    borrow_reserve_seats integer DEFAULT 0 NOT NULL,
    trial_falls_to text,
    CONSTRAINT grace_of_a_week CHECK ((offline_grace_seconds <= 604800)),
    CONSTRAINT plans_borrow_reserve_seats_check CHECK (((borrow_reserve_seats >= 0) AND (borrow_reserve_seats <= 100000))),
    CONSTRAINT plans_code_check CHECK ((code ~ '^[a-z0-9][a-z0-9_-]{0,62}$'::text)),
    CONSTRAINT plans_drain_seconds_check CHECK (((drain_seconds >= 0) AND (drain_seconds <= 31536000))),
    CONSTRAINT plans_max_devices_check CHECK (((max_devices >= 1) AND (max_devices <= 1000000))),
    CONSTRAINT plans_max_seats_check CHECK (((max_seats >= 1) AND (max_seats <= 100000))),
    CONSTRAINT plans_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200))),
    CONSTRAINT plans_offline_grace_seconds_check CHECK (((offline_grace_seconds >= 0) AND (offline_grace_seconds <= 31536000))),
    CONSTRAINT plans_overdraft_seats_check CHECK (((overdraft_seats >= 0) AND (overdraft_seats <= 100000))),
    CONSTRAINT plans_seat_per_check CHECK ((seat_per = ANY (ARRAY['device'::text, 'user'::text, 'instance'::text]))),
    CONSTRAINT plans_ttl_seconds_check CHECK (((ttl_seconds >= 1) AND (ttl_seconds <= 86400))),
    CONSTRAINT plans_versions_check CHECK ((char_length(versions) <= 255)),
    CONSTRAINT seats_fit_a_rebuild CHECK (((max_seats + overdraft_seats) <= 100000))
);

ALTER TABLE app.plans OWNER TO usher_owner;

-- COMMENT TABLE plans

COMMENT ON TABLE app.plans IS 'Defaults for the licences sold under a plan; a licence keeps its own copy, so a changed plan changes no licence.';

-- COMMENT COLUMN plans.ttl_seconds

COMMENT ON COLUMN app.plans.ttl_seconds IS 'Lease length. The lower bound offered to callers is configuration; 24 h is the most.';

-- COMMENT COLUMN plans.offline_grace_seconds

COMMENT ON COLUMN app.plans.offline_grace_seconds IS 'Life of a validate receipt, and the longest borrow.';

-- COMMENT COLUMN plans.drain_seconds

COMMENT ON COLUMN app.plans.drain_seconds IS 'How long sessions above a reduced number of seats may go on.';

-- COMMENT COLUMN plans.borrow_reserve_seats

COMMENT ON COLUMN app.plans.borrow_reserve_seats IS 'The low-water mark: so many of max_seats are never borrowed.';

-- COMMENT COLUMN plans.trial_falls_to

COMMENT ON COLUMN app.plans.trial_falls_to IS 'The plan is its product''s trial tier: a trial is of it, and falls to this plan when it is over. NULL: there is no trial of it.';

-- TABLE products

CREATE TABLE app.products (
    code text NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT products_code_check CHECK ((code ~ '^[a-z0-9][a-z0-9_-]{0,62}$'::text)),
    CONSTRAINT products_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200)))
);

ALTER TABLE app.products OWNER TO usher_owner;

-- COMMENT TABLE products

COMMENT ON TABLE app.products IS 'What the operator sells. The catalogue has no tenant: everybody may read it, only the operator writes it.';

-- TABLE revocation_lists

CREATE TABLE app.revocation_lists (
    version bigint NOT NULL,
    list text NOT NULL,
    signer text NOT NULL,
    cutoff timestamp with time zone NOT NULL,
    last_id bigint NOT NULL,
    signed_at timestamp with time zone NOT NULL,
    CONSTRAINT revocation_lists_last_id_check CHECK ((last_id >= 0)),
    CONSTRAINT revocation_lists_version_check CHECK ((version > 0))
);

ALTER TABLE app.revocation_lists OWNER TO usher_owner;

-- COMMENT TABLE revocation_lists

COMMENT ON TABLE app.revocation_lists IS 'The signed revocation lists, so that every instance serves the same and Cloud KMS signs once. The newest counts.';

-- COMMENT COLUMN revocation_lists.cutoff

COMMENT ON COLUMN app.revocation_lists.cutoff IS 'It says what ends after this, of the revocations up to last_id: so its shards can be made again.';

-- TABLE revocations

CREATE TABLE app.revocations (
    id bigint NOT NULL,
    kind text NOT NULL,
    subject uuid NOT NULL,
    license_id uuid NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT license_is_its_own_subject CHECK (((kind <> 'license'::text) OR (subject = license_id))),
    CONSTRAINT revocations_kind_check CHECK ((kind = ANY (ARRAY['license'::text, 'session'::text])))
);

ALTER TABLE app.revocations OWNER TO usher_owner;

-- COMMENT TABLE revocations

COMMENT ON TABLE app.revocations IS 'Promises that were withdrawn before their time: what the signed revocation list says of licences and sessions. Written by triggers alone. It names ids and no tenant, for so does the list, which everybody may read.';

-- COMMENT COLUMN revocations.subject

COMMENT ON COLUMN app.revocations.subject IS 'The licence, or the session.';

-- COMMENT COLUMN revocations.license_id

COMMENT ON COLUMN app.revocations.license_id IS 'Of whose shard of the list it is.';

-- COMMENT COLUMN revocations.ends_at

COMMENT ON COLUMN app.revocations.ends_at IS 'When the last promise that it withdraws has run out by itself: then the list forgets it.';

-- SEQUENCE revocations_id_seq

ALTER TABLE app.revocations ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME app.revocations_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- TABLE rotation_turn

CREATE TABLE app.rotation_turn (
    one boolean DEFAULT true NOT NULL,
    run uuid,
    ends timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT rotation_turn_one_check CHECK (one)
);

ALTER TABLE app.rotation_turn OWNER TO usher_owner;

-- COMMENT TABLE rotation_turn

COMMENT ON TABLE app.rotation_turn IS 'Which run of function rotate has its turn, and until when: two at once would both make what is missing. It is no lock of a transaction, because a run talks with Cloud KMS for longer than a transaction may be idle.';

-- TABLE seat_hours

CREATE TABLE app.seat_hours (
    tenant_id uuid NOT NULL,
    license_id uuid NOT NULL,
    hour timestamp with time zone NOT NULL,
    peak integer NOT NULL,
    denials integer NOT NULL,
    seats_needed integer NOT NULL,
    denials_told integer DEFAULT 0 NOT NULL,
    CONSTRAINT seat_hours_check CHECK ((seats_needed >= peak)),
    CONSTRAINT seat_hours_denials_check CHECK ((denials >= 0)),
    CONSTRAINT seat_hours_hour_check CHECK ((hour = date_trunc('hour'::text, hour, 'UTC'::text))),
    CONSTRAINT seat_hours_peak_check CHECK ((peak >= 0))
);

ALTER TABLE ONLY app.seat_hours FORCE ROW LEVEL SECURITY;

ALTER TABLE app.seat_hours OWNER TO usher_owner;

-- COMMENT TABLE seat_hours

COMMENT ON TABLE app.seat_hours IS 'How a licence''s seats were used, hour by hour: carried here by the sweep from what the pool counted. An hour in which nobody sat or asked has no row. The hour that runs is written again as it goes on.';

-- COMMENT COLUMN seat_hours.peak

COMMENT ON COLUMN app.seat_hours.peak IS 'The most seats that were taken at one time.';

-- COMMENT COLUMN seat_hours.denials

COMMENT ON COLUMN app.seat_hours.denials IS 'How many holders found no seat free, each counted once an hour however often it asked.';

-- COMMENT COLUMN seat_hours.seats_needed

COMMENT ON COLUMN app.seat_hours.seats_needed IS 'How many seats would have denied nobody: the most that sat and still wanted at one time.';

-- COMMENT COLUMN seat_hours.denials_told

COMMENT ON COLUMN app.seat_hours.denials_told IS 'How many of the denials became events, or were wanted by nobody.';

-- TABLE signing_keys

CREATE TABLE app.signing_keys (
    kid text NOT NULL,
    kind text NOT NULL,
    public_key bytea,
    certificate bytea,
    issuer_kid text,
    kms_version text,
    wrapped_key bytea,
    not_before timestamp with time zone,
    not_after timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    published_at timestamp with time zone,
    activated_at timestamp with time zone,
    retired_at timestamp with time zone,
    disabled_at timestamp with time zone,
    destroyed_at timestamp with time zone,
    revoked_at timestamp with time zone,
    revoked_reason text,
    revoked_by text,
    CONSTRAINT active_was_published CHECK (((activated_at IS NULL) OR (published_at IS NOT NULL))),
    CONSTRAINT certified_by_somebody CHECK (((certificate IS NULL) = (issuer_kid IS NULL))),
    CONSTRAINT destroyed_is_not_here CHECK (((destroyed_at IS NULL) OR (wrapped_key IS NULL))),
    CONSTRAINT destroyed_was_used_no_more CHECK (((destroyed_at IS NULL) OR (kind = 'receipt'::text) OR (retired_at IS NOT NULL) OR (revoked_at IS NOT NULL))),
    CONSTRAINT kid_fits_kind CHECK (
CASE kind
    WHEN 'mac'::text THEN (kid ~ '^[A-Za-z0-9_-]{1,8}$'::text)
    ELSE (kid ~ '^[A-Za-z0-9_-]{43}$'::text)
END),
    CONSTRAINT mac_key_is_elsewhere CHECK (((kind <> 'mac'::text) OR (certificate IS NULL))),
    CONSTRAINT public_key_is_kept CHECK (((kind = 'mac'::text) = (public_key IS NULL))),
    CONSTRAINT receipt_key_has_window CHECK (
CASE kind
    WHEN 'receipt'::text THEN ((not_before IS NOT NULL) AND (not_after > not_before) AND (not_after <= (not_before + '26:00:00'::interval)))
    ELSE ((not_before IS NULL) AND (not_after IS NULL))
END),
    CONSTRAINT receipt_key_is_certified CHECK (((kind <> 'receipt'::text) OR ((certificate IS NOT NULL) AND (issuer_kid IS NOT NULL)))),
    CONSTRAINT receipt_key_is_wrapped CHECK (((kind = 'receipt'::text) OR (wrapped_key IS NULL))),
    CONSTRAINT revoked_has_reason CHECK ((((revoked_at IS NULL) = (revoked_reason IS NULL)) AND ((revoked_at IS NULL) = (revoked_by IS NULL)))),
    CONSTRAINT root_is_in_kms CHECK (((kind = 'root'::text) = (kms_version IS NOT NULL))),
    CONSTRAINT signing_keys_kind_check CHECK ((kind = ANY (ARRAY['root'::text, 'receipt'::text, 'mac'::text]))),
    CONSTRAINT signing_keys_revoked_reason_check CHECK (((char_length(revoked_reason) >= 1) AND (char_length(revoked_reason) <= 500)))
);

ALTER TABLE app.signing_keys OWNER TO usher_owner;

-- COMMENT TABLE signing_keys

COMMENT ON TABLE app.signing_keys IS 'Every key that ever signed, or is to sign: roots, whose private half is in Cloud KMS; receipt keys, whose private half is here, wrapped; and the names of the keys of seat tokens, which are in Secret Manager. What a key is follows from its times. Nothing is ever deleted: what an old key signed stays verifiable. Signing keys are the deployment''s: there is no tenant.';

-- COMMENT COLUMN signing_keys.kid

COMMENT ON COLUMN app.signing_keys.kid IS 'The RFC 7638 SHA-256 thumbprint in base64url; of a mac key its name on the ring.';

-- COMMENT COLUMN signing_keys.public_key

COMMENT ON COLUMN app.signing_keys.public_key IS 'SubjectPublicKeyInfo, DER. Kept here because Cloud KMS answers none of a disabled version.';

-- COMMENT COLUMN signing_keys.certificate

COMMENT ON COLUMN app.signing_keys.certificate IS 'X.509, DER, by issuer_kid. NULL for a root for which no root stood up: the first one.';

-- COMMENT COLUMN signing_keys.kms_version

COMMENT ON COLUMN app.signing_keys.kms_version IS 'The CryptoKeyVersion''s resource name.';

-- COMMENT COLUMN signing_keys.wrapped_key

COMMENT ON COLUMN app.signing_keys.wrapped_key IS 'PKCS #8, encrypted by Cloud KMS with the kid as additional data. Forgotten when the window is over or the key was revoked.';

-- COMMENT COLUMN signing_keys.not_before

COMMENT ON COLUMN app.signing_keys.not_before IS 'The window of a receipt key, as its certificate says; at most 26 hours.';

-- COMMENT COLUMN signing_keys.published_at

COMMENT ON COLUMN app.signing_keys.published_at IS 'Since when the key set, or the ring, has it.';

-- COMMENT COLUMN signing_keys.activated_at

COMMENT ON COLUMN app.signing_keys.activated_at IS 'Since when it signs. Receipt keys have none: their window says it.';

-- COMMENT COLUMN signing_keys.retired_at

COMMENT ON COLUMN app.signing_keys.retired_at IS 'Since when it signs no more. What it signed before is believed.';

-- COMMENT COLUMN signing_keys.disabled_at

COMMENT ON COLUMN app.signing_keys.disabled_at IS 'Of a root: since when Cloud KMS signs with it no more.';

-- COMMENT COLUMN signing_keys.destroyed_at

COMMENT ON COLUMN app.signing_keys.destroyed_at IS 'Of a root: its destruction was asked for. Of a receipt key: forgotten. Of a mac key: off the ring.';

-- COMMENT COLUMN signing_keys.revoked_at

COMMENT ON COLUMN app.signing_keys.revoked_at IS 'Since when nothing that it signed is believed, whenever it was signed.';

-- TABLE stripe_events

CREATE TABLE app.stripe_events (
    tenant_id uuid NOT NULL,
    id text NOT NULL,
    type text NOT NULL,
    api_version text NOT NULL,
    object_id text NOT NULL,
    subscription_id text,
    status text NOT NULL,
    attempts integer DEFAULT 1 NOT NULL,
    error text,
    created_at timestamp with time zone NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    handled_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT failed_says_why CHECK (((status = 'done'::text) = (error IS NULL))),
    CONSTRAINT stripe_events_api_version_check CHECK ((char_length(api_version) <= 255)),
    CONSTRAINT stripe_events_error_check CHECK ((char_length(error) <= 1000)),
    CONSTRAINT stripe_events_id_check CHECK (((char_length(id) >= 1) AND (char_length(id) <= 255))),
    CONSTRAINT stripe_events_object_id_check CHECK ((char_length(object_id) <= 255)),
    CONSTRAINT stripe_events_status_check CHECK ((status = ANY (ARRAY['done'::text, 'failed'::text, 'refused'::text]))),
    CONSTRAINT stripe_events_subscription_id_check CHECK ((char_length(subscription_id) <= 255)),
    CONSTRAINT stripe_events_type_check CHECK (((char_length(type) >= 1) AND (char_length(type) <= 255)))
);

ALTER TABLE ONLY app.stripe_events FORCE ROW LEVEL SECURITY;

ALTER TABLE app.stripe_events OWNER TO usher_owner;

-- COMMENT TABLE stripe_events

COMMENT ON TABLE app.stripe_events IS 'Stripe''s events that are about a tenant. One that is done was written in the transaction that had its effect; one that failed stays until it succeeds, by Stripe''s own repetition or by the operator''s. Payloads are not kept: they are only triggers.';

-- COMMENT COLUMN stripe_events.object_id

COMMENT ON COLUMN app.stripe_events.object_id IS 'What the event is about, by Stripe''s id.';

-- COMMENT COLUMN stripe_events.created_at

COMMENT ON COLUMN app.stripe_events.created_at IS 'When it happened, by Stripe''s clock.';

-- TABLE subscriptions

CREATE TABLE app.subscriptions (
    tenant_id uuid NOT NULL,
    id text NOT NULL,
    customer_id uuid NOT NULL,
    license_id uuid,
    status text NOT NULL,
    plan_code text NOT NULL,
    cycle text NOT NULL,
    seats integer NOT NULL,
    next_seats integer NOT NULL,
    period_start timestamp with time zone NOT NULL,
    period_end timestamp with time zone NOT NULL,
    paid_through timestamp with time zone,
    grace_until timestamp with time zone,
    trouble text,
    cancel_at_period_end boolean NOT NULL,
    canceled_at timestamp with time zone,
    ended_at timestamp with time zone,
    cancel_reason text,
    cancel_feedback text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    checked_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT subscriptions_cancel_feedback_check CHECK ((char_length(cancel_feedback) <= 2000)),
    CONSTRAINT subscriptions_cancel_reason_check CHECK ((char_length(cancel_reason) <= 500)),
    CONSTRAINT subscriptions_cycle_check CHECK ((cycle = ANY (ARRAY['monthly'::text, 'annual'::text]))),
    CONSTRAINT subscriptions_id_check CHECK (((char_length(id) >= 1) AND (char_length(id) <= 255))),
    CONSTRAINT subscriptions_next_seats_check CHECK (((next_seats >= 1) AND (next_seats <= 100000))),
    CONSTRAINT subscriptions_seats_check CHECK (((seats >= 1) AND (seats <= 100000))),
    CONSTRAINT subscriptions_status_check CHECK ((status = ANY (ARRAY['incomplete'::text, 'incomplete_expired'::text, 'trialing'::text, 'active'::text, 'past_due'::text, 'canceled'::text, 'unpaid'::text, 'paused'::text]))),
    CONSTRAINT subscriptions_trouble_check CHECK ((trouble = ANY (ARRAY['payment_failed'::text, 'payment_refunded'::text, 'payment_disputed'::text, 'subscription_paused'::text])))
);

ALTER TABLE ONLY app.subscriptions FORCE ROW LEVEL SECURITY;

ALTER TABLE app.subscriptions OWNER TO usher_owner;

-- COMMENT TABLE subscriptions

COMMENT ON TABLE app.subscriptions IS 'What Stripe said of each subscription when it was last asked, and the licence that was made for it. Stripe''s word is final: a row is written only from an object that was fetched under the subscription''s lock.';

-- COMMENT COLUMN subscriptions.id

COMMENT ON COLUMN app.subscriptions.id IS 'Stripe''s own.';

-- COMMENT COLUMN subscriptions.license_id

COMMENT ON COLUMN app.subscriptions.license_id IS 'The one that was made for it. NULL until something was paid.';

-- COMMENT COLUMN subscriptions.next_seats

COMMENT ON COLUMN app.subscriptions.next_seats IS 'The seats from the next period on: fewer than seats after a downgrade.';

-- COMMENT COLUMN subscriptions.paid_through

COMMENT ON COLUMN app.subscriptions.paid_through IS 'The end of the newest period that is paid; what the licence''s expires_at follows.';

-- COMMENT COLUMN subscriptions.grace_until

COMMENT ON COLUMN app.subscriptions.grace_until IS 'How long the licence grants beyond what is paid, as things stand.';

-- COMMENT COLUMN subscriptions.cancel_reason

COMMENT ON COLUMN app.subscriptions.cancel_reason IS 'Why its owner cancelled it, in their words; with cancel_feedback.';

-- COMMENT COLUMN subscriptions.checked_at

COMMENT ON COLUMN app.subscriptions.checked_at IS 'When it was last compared with Stripe whole.';

-- TABLE sweep_cursor

CREATE TABLE app.sweep_cursor (
    only_row boolean DEFAULT true NOT NULL,
    after_tenant uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid NOT NULL,
    after_license uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid NOT NULL,
    CONSTRAINT sweep_cursor_only_row_check CHECK (only_row)
);

ALTER TABLE app.sweep_cursor OWNER TO usher_owner;

-- COMMENT TABLE sweep_cursor

COMMENT ON TABLE app.sweep_cursor IS 'Where the next sweep goes on.';

-- TABLE tenants

CREATE TABLE app.tenants (
    id uuid NOT NULL,
    kind text DEFAULT 'customer'::text NOT NULL,
    name text NOT NULL,
    slug text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    status_reason text,
    status_by text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    trial_started_at timestamp with time zone,
    CONSTRAINT operator_is_active CHECK (((kind = 'customer'::text) OR (status = 'active'::text))),
    CONSTRAINT tenants_kind_check CHECK ((kind = ANY (ARRAY['customer'::text, 'operator'::text]))),
    CONSTRAINT tenants_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200))),
    CONSTRAINT tenants_slug_check CHECK ((slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
    CONSTRAINT tenants_status_check CHECK ((status = ANY (ARRAY['active'::text, 'suspended'::text])))
);

ALTER TABLE ONLY app.tenants FORCE ROW LEVEL SECURITY;

ALTER TABLE app.tenants OWNER TO usher_owner;

-- COMMENT TABLE tenants

COMMENT ON TABLE app.tenants IS 'Customer organisations, and one row for the operator, whose API keys and staff hang on it like any tenant''s.';

-- COMMENT COLUMN tenants.trial_started_at

COMMENT ON COLUMN app.tenants.trial_started_at IS 'When it began its one trial; NULL until then.';

-- TABLE trials

CREATE TABLE app.trials (
    tenant_id uuid NOT NULL,
    license_id uuid NOT NULL,
    product_code text NOT NULL,
    falls_to text NOT NULL,
    email_hash bytea NOT NULL,
    hardware_hash bytea NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT trials_email_hash_check CHECK ((octet_length(email_hash) = 32)),
    CONSTRAINT trials_hardware_hash_check CHECK ((octet_length(hardware_hash) = 32))
);

ALTER TABLE ONLY app.trials FORCE ROW LEVEL SECURITY;

ALTER TABLE app.trials OWNER TO usher_owner;

-- COMMENT TABLE trials

COMMENT ON TABLE app.trials IS 'Who has had a trial, for good: once for each tenant, each verified e-mail address and each hardware.';

-- COMMENT COLUMN trials.falls_to

COMMENT ON COLUMN app.trials.falls_to IS 'As the trial tier said when it began.';

-- COMMENT COLUMN trials.email_hash

COMMENT ON COLUMN app.trials.email_hash IS 'SHA-256 of the address in lower case, without what follows a plus sign: the table is no list of addresses.';

-- COMMENT COLUMN trials.hardware_hash

COMMENT ON COLUMN app.trials.hardware_hash IS 'SHA-256 of the hardware id.';

-- TABLE usage_events

CREATE TABLE app.usage_events (
    tenant_id uuid NOT NULL,
    id text NOT NULL,
    license_id uuid NOT NULL,
    metric text NOT NULL,
    quantity bigint NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    session_id uuid,
    api_key_id uuid,
    CONSTRAINT one_of_them_sent_it CHECK (((session_id IS NULL) <> (api_key_id IS NULL))),
    CONSTRAINT usage_events_id_check CHECK (((char_length(id) >= 1) AND (char_length(id) <= 100))),
    CONSTRAINT usage_events_quantity_check CHECK (((quantity >= 1) AND (quantity <= 1000000000)))
);

ALTER TABLE ONLY app.usage_events FORCE ROW LEVEL SECURITY;

ALTER TABLE app.usage_events OWNER TO usher_owner;

-- COMMENT TABLE usage_events

COMMENT ON TABLE app.usage_events IS 'Events that were counted, by the ids that their senders gave them: an id counts once. Kept for 35 days, far longer than an event may be late; the sums stay.';

-- TABLE usage_hours

CREATE TABLE app.usage_hours (
    tenant_id uuid NOT NULL,
    license_id uuid NOT NULL,
    metric text NOT NULL,
    hour timestamp with time zone NOT NULL,
    quantity bigint NOT NULL,
    settled bigint DEFAULT 0 NOT NULL,
    CONSTRAINT no_more_is_settled_than_used CHECK (((settled >= 0) AND (settled <= quantity))),
    CONSTRAINT usage_hours_hour_check CHECK ((hour = date_trunc('hour'::text, hour, 'UTC'::text)))
);

ALTER TABLE ONLY app.usage_hours FORCE ROW LEVEL SECURITY;

ALTER TABLE app.usage_hours OWNER TO usher_owner;

-- COMMENT TABLE usage_hours

COMMENT ON TABLE app.usage_hours IS 'The sum of a licence''s events of a metric in an hour, written in the transaction that counts them, late ones too.';

-- COMMENT COLUMN usage_hours.settled

COMMENT ON COLUMN app.usage_hours.settled IS 'How much of it is in reports to Stripe, or has no price there.';

-- TABLE usage_months

CREATE TABLE app.usage_months (
    tenant_id uuid NOT NULL,
    license_id uuid NOT NULL,
    metric text NOT NULL,
    month timestamp with time zone NOT NULL,
    quantity bigint DEFAULT 0 NOT NULL,
    warned smallint DEFAULT 0 NOT NULL,
    CONSTRAINT usage_months_month_check CHECK ((month = date_trunc('month'::text, month, 'UTC'::text))),
    CONSTRAINT usage_months_quantity_check CHECK ((quantity >= 0)),
    CONSTRAINT usage_months_warned_check CHECK ((warned = ANY (ARRAY[0, 80, 100])))
);

ALTER TABLE ONLY app.usage_months FORCE ROW LEVEL SECURITY;

ALTER TABLE app.usage_months OWNER TO usher_owner;

-- COMMENT TABLE usage_months

COMMENT ON TABLE app.usage_months IS 'The sum of a licence''s events of a metric in a calendar month (UTC), which quota and cap are held against. Whoever counts holds the row until the commit, so that a hard cap is exact.';

-- COMMENT COLUMN usage_months.warned

COMMENT ON COLUMN app.usage_months.warned IS 'The highest percentage of the quota that owners were warned of.';

-- TABLE usage_reports

CREATE TABLE app.usage_reports (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    license_id uuid NOT NULL,
    metric text NOT NULL,
    hour timestamp with time zone NOT NULL,
    quantity bigint NOT NULL,
    customer text NOT NULL,
    event_name text NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    next_at timestamp with time zone DEFAULT now() NOT NULL,
    sent_at timestamp with time zone,
    finished_at timestamp with time zone,
    error text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    subscription_id text,
    told_at timestamp with time zone,
    CONSTRAINT usage_reports_customer_check CHECK (((char_length(customer) >= 1) AND (char_length(customer) <= 255))),
    CONSTRAINT usage_reports_error_check CHECK ((char_length(error) <= 500)),
    CONSTRAINT usage_reports_event_name_check CHECK (((char_length(event_name) >= 1) AND (char_length(event_name) <= 100))),
    CONSTRAINT usage_reports_quantity_check CHECK ((quantity > 0)),
    CONSTRAINT usage_reports_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'sent'::text, 'acknowledged'::text, 'doubtful'::text]))),
    CONSTRAINT what_is_over_has_a_time CHECK (((status = ANY (ARRAY['acknowledged'::text, 'doubtful'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT what_was_sent_has_a_time CHECK (((status = 'pending'::text) OR (sent_at IS NOT NULL)))
);

ALTER TABLE ONLY app.usage_reports FORCE ROW LEVEL SECURITY;

ALTER TABLE app.usage_reports OWNER TO usher_owner;

-- COMMENT TABLE usage_reports

COMMENT ON TABLE app.usage_reports IS 'What Stripe is told, or was: one row is one meter event, whose identifier is the row''s id and is fixed before it is sent. Events that came after their hour was reported are in another row. Reports of an hour, and what has no price, add up to what is settled.';

-- COMMENT COLUMN usage_reports.status

COMMENT ON COLUMN app.usage_reports.status IS 'pending: not told, or refused, which counts nothing. sent: somebody began to tell it. acknowledged: Stripe has it. doubtful: sent a day ago, and nobody heard whether it came: telling it again could count it twice, so that a person decides.';

-- COMMENT COLUMN usage_reports.next_at

COMMENT ON COLUMN app.usage_reports.next_at IS 'Not before. Who sends it moves this on first, by longer than a run takes, so that nobody else does.';

-- COMMENT COLUMN usage_reports.sent_at

COMMENT ON COLUMN app.usage_reports.sent_at IS 'When it may first have come to Stripe, which knows its identifier for a day from then on.';

-- COMMENT COLUMN usage_reports.subscription_id

COMMENT ON COLUMN app.usage_reports.subscription_id IS 'For a price of the older form: the subscription whose usage record is set; event_name is the price then. NULL: it is a meter event.';

-- COMMENT COLUMN usage_reports.told_at

COMMENT ON COLUMN app.usage_reports.told_at IS 'The second under which Stripe has it, where that is not the last of its hour: of a usage record, and of an hour that ran when its subscription was ended at once. It is fixed before it is first sent: of one second Stripe is told the sum of all records that have it, so that telling it again changes nothing.';

-- TABLE users

CREATE TABLE app.users (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    email text NOT NULL,
    name text,
    role text NOT NULL,
    status text DEFAULT 'invited'::text NOT NULL,
    issuer text,
    subject text,
    founder boolean DEFAULT false NOT NULL,
    token_hash bytea,
    pepper_version integer,
    invited_by text,
    invitation_expires_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    joined_at timestamp with time zone,
    removed_at timestamp with time zone,
    removed_by text,
    CONSTRAINT active_is_somebody CHECK (((status <> 'active'::text) OR (subject IS NOT NULL))),
    CONSTRAINT founder_is_somebody CHECK (((NOT founder) OR (subject IS NOT NULL))),
    CONSTRAINT identity_is_whole CHECK (((issuer IS NULL) = (subject IS NULL))),
    CONSTRAINT invited_has_token CHECK (((status <> 'invited'::text) OR ((subject IS NULL) AND (token_hash IS NOT NULL) AND (invitation_expires_at IS NOT NULL)))),
    CONSTRAINT removed_has_time CHECK (((status = 'removed'::text) = (removed_at IS NOT NULL))),
    CONSTRAINT users_email_check CHECK ((((char_length(email) >= 3) AND (char_length(email) <= 254)) AND (POSITION(('@'::text) IN (email)) > 1) AND (email = lower(email)))),
    CONSTRAINT users_issuer_check CHECK ((char_length(issuer) <= 255)),
    CONSTRAINT users_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200))),
    CONSTRAINT users_role_check CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'member'::text, 'viewer'::text]))),
    CONSTRAINT users_status_check CHECK ((status = ANY (ARRAY['invited'::text, 'active'::text, 'removed'::text]))),
    CONSTRAINT users_subject_check CHECK (((char_length(subject) >= 1) AND (char_length(subject) <= 255))),
    CONSTRAINT users_token_hash_check CHECK ((octet_length(token_hash) = 32))
);

ALTER TABLE ONLY app.users FORCE ROW LEVEL SECURITY;

ALTER TABLE app.users OWNER TO usher_owner;

-- COMMENT TABLE users

COMMENT ON TABLE app.users IS 'People of a tenant; those of the operator''s row are its staff. An invitation is a row that is invited: it becomes active when the invited person accepts it, under the same id. Nobody is deleted: who was removed is told so.';

-- COMMENT COLUMN users.email

COMMENT ON COLUMN app.users.email IS 'In lower case. Of an invited person the only one whose token may accept.';

-- COMMENT COLUMN users.subject

COMMENT ON COLUMN app.users.subject IS 'Who it is at the issuer: iss and sub of the ID token. NULL until the invitation is accepted.';

-- COMMENT COLUMN users.founder

COMMENT ON COLUMN app.users.founder IS 'Registered the tenant: one tenant for each identity, also after it has left.';

-- COMMENT COLUMN users.token_hash

COMMENT ON COLUMN app.users.token_hash IS 'HMAC-SHA-256 of the invitation''s token under the pepper of pepper_version; kept after its use, to say that it was used.';

-- TABLE webhook_deliveries

CREATE TABLE app.webhook_deliveries (
    tenant_id uuid NOT NULL,
    id uuid DEFAULT app.new_id() NOT NULL,
    webhook_id uuid NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    body text NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    round integer DEFAULT 0 NOT NULL,
    next_at timestamp with time zone DEFAULT now() NOT NULL,
    tries jsonb DEFAULT '[]'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT webhook_deliveries_body_check CHECK ((octet_length(body) <= 65536)),
    CONSTRAINT webhook_deliveries_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'delivered'::text, 'failed'::text]))),
    CONSTRAINT webhook_deliveries_tries_check CHECK ((jsonb_typeof(tries) = 'array'::text)),
    CONSTRAINT what_is_over_has_a_time CHECK (((status = 'pending'::text) = (finished_at IS NULL)))
);

ALTER TABLE ONLY app.webhook_deliveries FORCE ROW LEVEL SECURITY;

ALTER TABLE app.webhook_deliveries OWNER TO usher_owner;

-- COMMENT TABLE webhook_deliveries

COMMENT ON TABLE app.webhook_deliveries IS 'One event for one webhook, each once, whose the webhook is; 30 days after its end it is dropped.';

-- COMMENT COLUMN webhook_deliveries.body

COMMENT ON COLUMN app.webhook_deliveries.body IS 'What is sent, to the byte, at every attempt.';

-- COMMENT COLUMN webhook_deliveries.attempts

COMMENT ON COLUMN app.webhook_deliveries.attempts IS 'All that were begun.';

-- COMMENT COLUMN webhook_deliveries.round

COMMENT ON COLUMN app.webhook_deliveries.round IS 'Those since it was made or asked for again: by this the next is timed.';

-- COMMENT COLUMN webhook_deliveries.next_at

COMMENT ON COLUMN app.webhook_deliveries.next_at IS 'While pending: not before. Who sends it moves this on first, by longer than sending may take, so that nobody else does.';

-- COMMENT COLUMN webhook_deliveries.tries

COMMENT ON COLUMN app.webhook_deliveries.tries IS 'How the latest attempts ended: at, ms, status, error.';

-- TABLE webhooks

CREATE TABLE app.webhooks (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    url text NOT NULL,
    description text,
    events text[] NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    disabled_reason text,
    disabled_at timestamp with time zone,
    failing_since timestamp with time zone,
    key_name text NOT NULL,
    generation integer DEFAULT 1 NOT NULL,
    previous_key_name text,
    previous_generation integer,
    previous_until timestamp with time zone,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT disabled_has_reason CHECK (((status <> 'disabled'::text) OR ((disabled_reason IS NOT NULL) AND (disabled_at IS NOT NULL)))),
    CONSTRAINT previous_is_whole CHECK ((((previous_until IS NULL) = (previous_key_name IS NULL)) AND ((previous_until IS NULL) = (previous_generation IS NULL)))),
    CONSTRAINT webhooks_description_check CHECK (((char_length(description) >= 1) AND (char_length(description) <= 200))),
    CONSTRAINT webhooks_events_check CHECK (((cardinality(events) >= 1) AND (cardinality(events) <= 50))),
    CONSTRAINT webhooks_status_check CHECK ((status = ANY (ARRAY['active'::text, 'disabled'::text, 'deleted'::text]))),
    CONSTRAINT webhooks_url_check CHECK (((char_length(url) >= 8) AND (char_length(url) <= 2048)))
);

ALTER TABLE ONLY app.webhooks FORCE ROW LEVEL SECURITY;

ALTER TABLE app.webhooks OWNER TO usher_owner;

-- COMMENT TABLE webhooks

COMMENT ON TABLE app.webhooks IS 'Systems that hear of events: a tenant''s of its own, the operator''s (those of the operator''s row) of every tenant''s.';

-- COMMENT COLUMN webhooks.events

COMMENT ON COLUMN app.webhooks.events IS 'Types such as seat.denied, or seat.* for all of a kind, or * for all.';

-- COMMENT COLUMN webhooks.failing_since

COMMENT ON COLUMN app.webhooks.failing_since IS 'The first failure since the last success.';

-- COMMENT COLUMN webhooks.key_name

COMMENT ON COLUMN app.webhooks.key_name IS 'The signing secret is no row: it is derived of the named key of the ring NOTIFY_KEYS, the webhook''s id and the generation.';

-- COMMENT COLUMN webhooks.previous_until

COMMENT ON COLUMN app.webhooks.previous_until IS 'Until then what is sent is signed with the secret before, too.';

-- TABLE ATTACH audit_entries_default

ALTER TABLE ONLY app.audit_entries ATTACH PARTITION app.audit_entries_default DEFAULT;

-- TABLE ATTACH ended_sessions_default

ALTER TABLE ONLY app.ended_sessions ATTACH PARTITION app.ended_sessions_default DEFAULT;

-- CONSTRAINT api_keys api_keys_pkey

ALTER TABLE ONLY app.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT audit_chains audit_chains_pkey

ALTER TABLE ONLY app.audit_chains
    ADD CONSTRAINT audit_chains_pkey PRIMARY KEY (tenant_id);

-- CONSTRAINT audit_entries audit_entries_pkey

ALTER TABLE ONLY app.audit_entries
    ADD CONSTRAINT audit_entries_pkey PRIMARY KEY (tenant_id, at, seq);

-- CONSTRAINT audit_entries_default audit_entries_default_pkey

ALTER TABLE ONLY app.audit_entries_default
    ADD CONSTRAINT audit_entries_default_pkey PRIMARY KEY (tenant_id, at, seq);

-- CONSTRAINT billing_customers billing_customers_pkey

ALTER TABLE ONLY app.billing_customers
    ADD CONSTRAINT billing_customers_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT checkpoints checkpoints_pkey

ALTER TABLE ONLY app.checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (tenant_id, seq);

-- CONSTRAINT devices devices_pkey

ALTER TABLE ONLY app.devices
    ADD CONSTRAINT devices_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT devices devices_tenant_id_license_id_hardware_id_key

ALTER TABLE ONLY app.devices
    ADD CONSTRAINT devices_tenant_id_license_id_hardware_id_key UNIQUE (tenant_id, license_id, hardware_id);

-- CONSTRAINT ended_sessions ended_sessions_pkey

ALTER TABLE ONLY app.ended_sessions
    ADD CONSTRAINT ended_sessions_pkey PRIMARY KEY (tenant_id, id, ended_at);

-- CONSTRAINT ended_sessions_default ended_sessions_default_pkey

ALTER TABLE ONLY app.ended_sessions_default
    ADD CONSTRAINT ended_sessions_default_pkey PRIMARY KEY (tenant_id, id, ended_at);

-- CONSTRAINT event_cursor event_cursor_pkey

ALTER TABLE ONLY app.event_cursor
    ADD CONSTRAINT event_cursor_pkey PRIMARY KEY (only_row);

-- CONSTRAINT events events_pkey

ALTER TABLE ONLY app.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT freezes freezes_pkey

ALTER TABLE ONLY app.freezes
    ADD CONSTRAINT freezes_pkey PRIMARY KEY (about_tenant);

-- CONSTRAINT idempotency_keys idempotency_keys_pkey

ALTER TABLE ONLY app.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (tenant_id, scope, key_hash);

-- CONSTRAINT incident_actions incident_actions_pkey

ALTER TABLE ONLY app.incident_actions
    ADD CONSTRAINT incident_actions_pkey PRIMARY KEY (incident_id, action);

-- CONSTRAINT incident_entries incident_entries_pkey

ALTER TABLE ONLY app.incident_entries
    ADD CONSTRAINT incident_entries_pkey PRIMARY KEY (id);

-- CONSTRAINT incident_evidence incident_evidence_pkey

ALTER TABLE ONLY app.incident_evidence
    ADD CONSTRAINT incident_evidence_pkey PRIMARY KEY (incident_id, minute, source);

-- CONSTRAINT incidents incidents_pkey

ALTER TABLE ONLY app.incidents
    ADD CONSTRAINT incidents_pkey PRIMARY KEY (id);

-- CONSTRAINT license_keys license_keys_pkey

ALTER TABLE ONLY app.license_keys
    ADD CONSTRAINT license_keys_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT license_notices license_notices_pkey

ALTER TABLE ONLY app.license_notices
    ADD CONSTRAINT license_notices_pkey PRIMARY KEY (tenant_id, license_id, ends_at, days);

-- CONSTRAINT licenses licenses_pkey

ALTER TABLE ONLY app.licenses
    ADD CONSTRAINT licenses_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT mails mails_key

ALTER TABLE ONLY app.mails
    ADD CONSTRAINT mails_key UNIQUE (tenant_id, key);

-- CONSTRAINT mails mails_pkey

ALTER TABLE ONLY app.mails
    ADD CONSTRAINT mails_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT open_sessions open_sessions_pkey

ALTER TABLE ONLY app.open_sessions
    ADD CONSTRAINT open_sessions_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT open_sessions open_sessions_seat_key

ALTER TABLE ONLY app.open_sessions
    ADD CONSTRAINT open_sessions_seat_key UNIQUE (tenant_id, license_id, seat_no);

-- CONSTRAINT outbox outbox_pkey

ALTER TABLE ONLY app.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT overdraft_counts overdraft_counts_pkey

ALTER TABLE ONLY app.overdraft_counts
    ADD CONSTRAINT overdraft_counts_pkey PRIMARY KEY (tenant_id, counted_to);

-- CONSTRAINT plan_metrics plan_metrics_pkey

ALTER TABLE ONLY app.plan_metrics
    ADD CONSTRAINT plan_metrics_pkey PRIMARY KEY (plan_code, metric);

-- CONSTRAINT plans plans_pkey

ALTER TABLE ONLY app.plans
    ADD CONSTRAINT plans_pkey PRIMARY KEY (code);

-- CONSTRAINT products products_pkey

ALTER TABLE ONLY app.products
    ADD CONSTRAINT products_pkey PRIMARY KEY (code);

-- CONSTRAINT revocation_lists revocation_lists_pkey

ALTER TABLE ONLY app.revocation_lists
    ADD CONSTRAINT revocation_lists_pkey PRIMARY KEY (version);

-- CONSTRAINT revocations revocations_pkey

ALTER TABLE ONLY app.revocations
    ADD CONSTRAINT revocations_pkey PRIMARY KEY (id);

-- CONSTRAINT rotation_turn rotation_turn_pkey

ALTER TABLE ONLY app.rotation_turn
    ADD CONSTRAINT rotation_turn_pkey PRIMARY KEY (one);

-- CONSTRAINT seat_hours seat_hours_pkey

ALTER TABLE ONLY app.seat_hours
    ADD CONSTRAINT seat_hours_pkey PRIMARY KEY (tenant_id, license_id, hour);

-- CONSTRAINT signing_keys signing_keys_kms_version_key

ALTER TABLE ONLY app.signing_keys
    ADD CONSTRAINT signing_keys_kms_version_key UNIQUE (kms_version);

-- CONSTRAINT signing_keys signing_keys_pkey

ALTER TABLE ONLY app.signing_keys
    ADD CONSTRAINT signing_keys_pkey PRIMARY KEY (kid);

-- CONSTRAINT stripe_events stripe_events_pkey

ALTER TABLE ONLY app.stripe_events
    ADD CONSTRAINT stripe_events_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT subscriptions subscriptions_pkey

ALTER TABLE ONLY app.subscriptions
    ADD CONSTRAINT subscriptions_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT sweep_cursor sweep_cursor_pkey

ALTER TABLE ONLY app.sweep_cursor
    ADD CONSTRAINT sweep_cursor_pkey PRIMARY KEY (only_row);

-- CONSTRAINT tenants tenants_pkey

ALTER TABLE ONLY app.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (id);

-- CONSTRAINT tenants tenants_slug_key

ALTER TABLE ONLY app.tenants
    ADD CONSTRAINT tenants_slug_key UNIQUE (slug);

-- COMMENT CONSTRAINT tenants_slug_key ON tenants

COMMENT ON CONSTRAINT tenants_slug_key ON app.tenants IS 'Unique across tenants: no role that acts for a tenant can write a slug, so it is no oracle.';

-- CONSTRAINT trials trials_pkey

ALTER TABLE ONLY app.trials
    ADD CONSTRAINT trials_pkey PRIMARY KEY (tenant_id, email_hash);

-- CONSTRAINT usage_events usage_events_pkey

ALTER TABLE ONLY app.usage_events
    ADD CONSTRAINT usage_events_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT usage_hours usage_hours_pkey

ALTER TABLE ONLY app.usage_hours
    ADD CONSTRAINT usage_hours_pkey PRIMARY KEY (tenant_id, license_id, metric, hour);

-- CONSTRAINT usage_months usage_months_pkey

ALTER TABLE ONLY app.usage_months
    ADD CONSTRAINT usage_months_pkey PRIMARY KEY (tenant_id, license_id, metric, month);

-- CONSTRAINT usage_reports usage_reports_pkey

ALTER TABLE ONLY app.usage_reports
    ADD CONSTRAINT usage_reports_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT users users_pkey

ALTER TABLE ONLY app.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT webhook_deliveries webhook_deliveries_event_key

ALTER TABLE ONLY app.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_event_key UNIQUE (tenant_id, webhook_id, event_id);

-- CONSTRAINT webhook_deliveries webhook_deliveries_pkey

ALTER TABLE ONLY app.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (tenant_id, id);

-- CONSTRAINT webhooks webhooks_pkey

ALTER TABLE ONLY app.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (tenant_id, id);

-- INDEX api_keys_by_hash

CREATE INDEX api_keys_by_hash ON app.api_keys USING btree (key_hash);

-- INDEX audit_entries_by_action

CREATE INDEX audit_entries_by_action ON ONLY app.audit_entries USING btree (tenant_id, action, at, seq);

-- INDEX audit_entries_by_actor

CREATE INDEX audit_entries_by_actor ON ONLY app.audit_entries USING btree (tenant_id, actor, at, seq);

-- INDEX audit_entries_by_subject

CREATE INDEX audit_entries_by_subject ON ONLY app.audit_entries USING btree (tenant_id, subject, at, seq);

-- INDEX audit_entries_default_tenant_id_action_at_seq_idx

CREATE INDEX audit_entries_default_tenant_id_action_at_seq_idx ON app.audit_entries_default USING btree (tenant_id, action, at, seq);

-- INDEX audit_entries_default_tenant_id_actor_at_seq_idx

CREATE INDEX audit_entries_default_tenant_id_actor_at_seq_idx ON app.audit_entries_default USING btree (tenant_id, actor, at, seq);

-- INDEX audit_entries_default_tenant_id_subject_at_seq_idx

CREATE INDEX audit_entries_default_tenant_id_subject_at_seq_idx ON app.audit_entries_default USING btree (tenant_id, subject, at, seq);

-- INDEX billing_customers_one_key

CREATE UNIQUE INDEX billing_customers_one_key ON app.billing_customers USING btree (tenant_id) WHERE (deleted_at IS NULL);

-- INDEX billing_customers_stripe_key

CREATE UNIQUE INDEX billing_customers_stripe_key ON app.billing_customers USING btree (stripe_id);

-- COMMENT INDEX billing_customers_stripe_key

COMMENT ON INDEX app.billing_customers_stripe_key IS 'Unique across tenants: a customer of Stripe''s is one tenant''s. What is written is the id that Stripe gave for this tenant, so that it is no oracle.';

-- INDEX ended_sessions_by_license

CREATE INDEX ended_sessions_by_license ON ONLY app.ended_sessions USING btree (tenant_id, license_id, id);

-- INDEX ended_sessions_by_status

CREATE INDEX ended_sessions_by_status ON ONLY app.ended_sessions USING btree (tenant_id, status, id);

-- INDEX ended_sessions_recorded

CREATE INDEX ended_sessions_recorded ON ONLY app.ended_sessions USING brin (recorded_at) WITH (pages_per_range='32', autosummarize='on');

-- INDEX ended_sessions_default_recorded_at_idx

CREATE INDEX ended_sessions_default_recorded_at_idx ON app.ended_sessions_default USING brin (recorded_at) WITH (pages_per_range='32', autosummarize='on');

-- INDEX ended_sessions_default_tenant_id_license_id_id_idx

CREATE INDEX ended_sessions_default_tenant_id_license_id_id_idx ON app.ended_sessions_default USING btree (tenant_id, license_id, id);

-- INDEX ended_sessions_default_tenant_id_status_id_idx

CREATE INDEX ended_sessions_default_tenant_id_status_id_idx ON app.ended_sessions_default USING btree (tenant_id, status, id);

-- INDEX events_over

CREATE INDEX events_over ON app.events USING btree (dispatched_at) WHERE (dispatched_at IS NOT NULL);

-- INDEX events_waiting

CREATE INDEX events_waiting ON app.events USING btree (tenant_id, recorded_at) WHERE (dispatched_at IS NULL);

-- INDEX idempotency_keys_expiry

CREATE INDEX idempotency_keys_expiry ON app.idempotency_keys USING btree (expires_at);

-- INDEX incident_actions_pending

CREATE INDEX incident_actions_pending ON app.incident_actions USING btree (incident_id) WHERE (outcome = 'pending'::text);

-- INDEX incidents_by_detection

CREATE INDEX incidents_by_detection ON app.incidents USING btree (detected_as, resolved_at) WHERE (detected_as IS NOT NULL);

-- INDEX incidents_one_open

CREATE UNIQUE INDEX incidents_one_open ON app.incidents USING btree (detected_as) WHERE ((status = 'open'::text) AND (detected_as IS NOT NULL));

-- INDEX incidents_open

CREATE INDEX incidents_open ON app.incidents USING btree (opened_at) WHERE (status = 'open'::text);

-- INDEX license_keys_by_hash

CREATE INDEX license_keys_by_hash ON app.license_keys USING btree (key_hash);

-- INDEX license_keys_by_license

CREATE INDEX license_keys_by_license ON app.license_keys USING btree (tenant_id, license_id, created_at DESC);

-- INDEX licenses_by_expiry

CREATE INDEX licenses_by_expiry ON app.licenses USING btree (expires_at) WHERE (status = 'active'::text);

-- INDEX licenses_on_trial

CREATE INDEX licenses_on_trial ON app.licenses USING btree (expires_at) WHERE on_trial;

-- INDEX mails_due

CREATE INDEX mails_due ON app.mails USING btree (next_at) WHERE (status = 'pending'::text);

-- INDEX mails_over

CREATE INDEX mails_over ON app.mails USING btree (finished_at) WHERE (status <> 'pending'::text);

-- INDEX open_sessions_by_license

CREATE INDEX open_sessions_by_license ON app.open_sessions USING btree (tenant_id, license_id, id);

-- INDEX outbox_pending

CREATE INDEX outbox_pending ON app.outbox USING btree (topic, created_at);

-- INDEX outbox_subject

CREATE INDEX outbox_subject ON app.outbox USING btree (tenant_id, subject_id);

-- INDEX plans_trial_key

CREATE UNIQUE INDEX plans_trial_key ON app.plans USING btree (product_code) WHERE (trial_falls_to IS NOT NULL);

-- COMMENT INDEX plans_trial_key

COMMENT ON INDEX app.plans_trial_key IS 'A product has one trial tier.';

-- INDEX revocations_alive

CREATE INDEX revocations_alive ON app.revocations USING btree (ends_at, id);

-- INDEX seat_hours_untold

CREATE INDEX seat_hours_untold ON app.seat_hours USING btree (tenant_id) WHERE (denials > denials_told);

-- INDEX signing_keys_by_window

CREATE INDEX signing_keys_by_window ON app.signing_keys USING btree (kind, not_after);

-- INDEX signing_keys_one_a_turn

CREATE UNIQUE INDEX signing_keys_one_a_turn ON app.signing_keys USING btree (not_after) WHERE ((kind = 'receipt'::text) AND (revoked_at IS NULL) AND (retired_at IS NULL));

-- INDEX signing_keys_one_active_root

CREATE UNIQUE INDEX signing_keys_one_active_root ON app.signing_keys USING btree (kind) WHERE ((kind = 'root'::text) AND (activated_at IS NOT NULL) AND (revoked_at IS NULL) AND (retired_at IS NULL));

-- INDEX stripe_events_by_id

CREATE INDEX stripe_events_by_id ON app.stripe_events USING btree (id);

-- INDEX stripe_events_by_receipt

CREATE INDEX stripe_events_by_receipt ON app.stripe_events USING brin (received_at);

-- INDEX stripe_events_failed

CREATE INDEX stripe_events_failed ON app.stripe_events USING btree (received_at) WHERE (status = 'failed'::text);

-- INDEX subscriptions_by_check

CREATE INDEX subscriptions_by_check ON app.subscriptions USING btree (checked_at);

-- INDEX subscriptions_by_customer

CREATE INDEX subscriptions_by_customer ON app.subscriptions USING btree (tenant_id, customer_id);

-- INDEX subscriptions_by_license

CREATE INDEX subscriptions_by_license ON app.subscriptions USING btree (tenant_id, license_id);

-- INDEX subscriptions_license_key

CREATE UNIQUE INDEX subscriptions_license_key ON app.subscriptions USING btree (tenant_id, license_id) WHERE (ended_at IS NULL);

-- COMMENT INDEX subscriptions_license_key

COMMENT ON INDEX app.subscriptions_license_key IS 'A licence is of one subscription that lives.';

-- INDEX trials_by_license

CREATE INDEX trials_by_license ON app.trials USING btree (tenant_id, license_id);

-- INDEX trials_email_key

CREATE UNIQUE INDEX trials_email_key ON app.trials USING btree (email_hash);

-- COMMENT INDEX trials_email_key

COMMENT ON INDEX app.trials_email_key IS 'Unique across tenants: one trial for each address, which its owner has verified, so that it tells them alone.';

-- INDEX trials_hardware_key

CREATE UNIQUE INDEX trials_hardware_key ON app.trials USING btree (hardware_hash);

-- COMMENT INDEX trials_hardware_key

COMMENT ON INDEX app.trials_hardware_key IS 'Unique across tenants: one trial for each hardware. Who asks for a trial with the hardware id of another learns that it has had one, and no more.';

-- INDEX usage_events_old

CREATE INDEX usage_events_old ON app.usage_events USING btree (recorded_at);

-- INDEX usage_hours_due

CREATE INDEX usage_hours_due ON app.usage_hours USING btree (tenant_id, hour) WHERE (settled < quantity);

-- INDEX usage_reports_by_hour

CREATE INDEX usage_reports_by_hour ON app.usage_reports USING btree (tenant_id, license_id, metric, hour);

-- INDEX usage_reports_due

CREATE INDEX usage_reports_due ON app.usage_reports USING btree (tenant_id, next_at) WHERE (status = ANY (ARRAY['pending'::text, 'sent'::text]));

-- INDEX users_by_identity

CREATE INDEX users_by_identity ON app.users USING btree (issuer, subject);

-- INDEX users_by_token

CREATE INDEX users_by_token ON app.users USING btree (token_hash);

-- INDEX users_email_key

CREATE UNIQUE INDEX users_email_key ON app.users USING btree (tenant_id, email) WHERE (status <> 'removed'::text);

-- INDEX users_founder_key

CREATE UNIQUE INDEX users_founder_key ON app.users USING btree (issuer, subject) WHERE founder;

-- COMMENT INDEX users_founder_key

COMMENT ON INDEX app.users_founder_key IS 'As users_identity_key: one registration for each identity.';

-- INDEX users_identity_key

CREATE UNIQUE INDEX users_identity_key ON app.users USING btree (issuer, subject) WHERE (status = 'active'::text);

-- COMMENT INDEX users_identity_key

COMMENT ON INDEX app.users_identity_key IS 'Unique across tenants, one membership for each identity: what is written is the subject of a verified token, so that it tells its owner alone.';

-- INDEX webhook_deliveries_of

CREATE INDEX webhook_deliveries_of ON app.webhook_deliveries USING btree (tenant_id, webhook_id, id);

-- INDEX webhook_deliveries_over

CREATE INDEX webhook_deliveries_over ON app.webhook_deliveries USING btree (finished_at) WHERE (status <> 'pending'::text);

-- INDEX webhook_deliveries_pending

CREATE INDEX webhook_deliveries_pending ON app.webhook_deliveries USING btree (tenant_id, webhook_id, next_at, id) WHERE (status = 'pending'::text);

-- INDEX ATTACH audit_entries_default_pkey

ALTER INDEX app.audit_entries_pkey ATTACH PARTITION app.audit_entries_default_pkey;

-- INDEX ATTACH audit_entries_default_tenant_id_action_at_seq_idx

ALTER INDEX app.audit_entries_by_action ATTACH PARTITION app.audit_entries_default_tenant_id_action_at_seq_idx;

-- INDEX ATTACH audit_entries_default_tenant_id_actor_at_seq_idx

ALTER INDEX app.audit_entries_by_actor ATTACH PARTITION app.audit_entries_default_tenant_id_actor_at_seq_idx;

-- INDEX ATTACH audit_entries_default_tenant_id_subject_at_seq_idx

ALTER INDEX app.audit_entries_by_subject ATTACH PARTITION app.audit_entries_default_tenant_id_subject_at_seq_idx;

-- INDEX ATTACH ended_sessions_default_pkey

ALTER INDEX app.ended_sessions_pkey ATTACH PARTITION app.ended_sessions_default_pkey;

-- INDEX ATTACH ended_sessions_default_recorded_at_idx

ALTER INDEX app.ended_sessions_recorded ATTACH PARTITION app.ended_sessions_default_recorded_at_idx;

-- INDEX ATTACH ended_sessions_default_tenant_id_license_id_id_idx

ALTER INDEX app.ended_sessions_by_license ATTACH PARTITION app.ended_sessions_default_tenant_id_license_id_id_idx;

-- INDEX ATTACH ended_sessions_default_tenant_id_status_id_idx

ALTER INDEX app.ended_sessions_by_status ATTACH PARTITION app.ended_sessions_default_tenant_id_status_id_idx;

-- TRIGGER open_sessions borrow_closed

CREATE TRIGGER borrow_closed AFTER DELETE ON app.open_sessions FOR EACH ROW WHEN (((old.evicted_at IS NULL) AND (old.borrowed_until > now()))) EXECUTE FUNCTION app.borrow_withdrawn();

-- TRIGGER open_sessions borrow_evicted

CREATE TRIGGER borrow_evicted AFTER UPDATE OF evicted_at ON app.open_sessions FOR EACH ROW WHEN (((old.evicted_at IS NULL) AND (new.evicted_at IS NOT NULL) AND (old.borrowed_until > now()))) EXECUTE FUNCTION app.borrow_withdrawn();

-- TRIGGER licenses changed

CREATE TRIGGER changed BEFORE UPDATE OF product_code, plan_code, status, status_reason, status_by, max_seats, overdraft_seats, borrow_reserve_seats, ttl_seconds, seat_per, features, versions, max_devices, allowed_hardware, offline_grace_seconds, drain_seconds, starts_at, expires_at, grace_until ON app.licenses FOR EACH ROW EXECUTE FUNCTION app.license_changed();

-- TRIGGER license_keys keys_changed

CREATE TRIGGER keys_changed AFTER INSERT OR UPDATE ON app.license_keys FOR EACH ROW EXECUTE FUNCTION app.licenses_touched();

-- TRIGGER tenants status_changed

CREATE TRIGGER status_changed AFTER UPDATE OF status ON app.tenants FOR EACH ROW WHEN ((old.status IS DISTINCT FROM new.status)) EXECUTE FUNCTION app.licenses_touched();

-- FK CONSTRAINT api_keys api_keys_tenant_id_fkey

ALTER TABLE ONLY app.api_keys
    ADD CONSTRAINT api_keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT audit_chains audit_chains_tenant_id_fkey

ALTER TABLE ONLY app.audit_chains
    ADD CONSTRAINT audit_chains_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT audit_entries audit_entries_tenant_id_fkey

ALTER TABLE app.audit_entries
    ADD CONSTRAINT audit_entries_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.audit_chains(tenant_id);

-- FK CONSTRAINT billing_customers billing_customers_tenant_id_fkey

ALTER TABLE ONLY app.billing_customers
    ADD CONSTRAINT billing_customers_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT checkpoints checkpoints_tenant_id_fkey

ALTER TABLE ONLY app.checkpoints
    ADD CONSTRAINT checkpoints_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT devices devices_tenant_id_license_id_fkey

ALTER TABLE ONLY app.devices
    ADD CONSTRAINT devices_tenant_id_license_id_fkey FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses(tenant_id, id);

-- FK CONSTRAINT ended_sessions ended_sessions_tenant_id_license_id_fkey

ALTER TABLE app.ended_sessions
    ADD CONSTRAINT ended_sessions_tenant_id_license_id_fkey FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses(tenant_id, id);

-- FK CONSTRAINT events events_tenant_id_fkey

ALTER TABLE ONLY app.events
    ADD CONSTRAINT events_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT idempotency_keys idempotency_keys_tenant_id_fkey

ALTER TABLE ONLY app.idempotency_keys
    ADD CONSTRAINT idempotency_keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT incident_actions incident_actions_incident_id_fkey

ALTER TABLE ONLY app.incident_actions
    ADD CONSTRAINT incident_actions_incident_id_fkey FOREIGN KEY (incident_id) REFERENCES app.incidents(id);

-- FK CONSTRAINT incident_evidence incident_evidence_incident_id_fkey

ALTER TABLE ONLY app.incident_evidence
    ADD CONSTRAINT incident_evidence_incident_id_fkey FOREIGN KEY (incident_id) REFERENCES app.incidents(id);

-- FK CONSTRAINT license_keys license_keys_tenant_id_license_id_fkey

ALTER TABLE ONLY app.license_keys
    ADD CONSTRAINT license_keys_tenant_id_license_id_fkey FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses(tenant_id, id);

-- FK CONSTRAINT license_notices license_notices_tenant_id_license_id_fkey

ALTER TABLE ONLY app.license_notices
    ADD CONSTRAINT license_notices_tenant_id_license_id_fkey FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses(tenant_id, id);

-- FK CONSTRAINT licenses licenses_plan_code_fkey

ALTER TABLE ONLY app.licenses
    ADD CONSTRAINT licenses_plan_code_fkey FOREIGN KEY (plan_code) REFERENCES app.plans(code);

-- FK CONSTRAINT licenses licenses_product_code_fkey

ALTER TABLE ONLY app.licenses
    ADD CONSTRAINT licenses_product_code_fkey FOREIGN KEY (product_code) REFERENCES app.products(code);

-- FK CONSTRAINT licenses licenses_tenant_id_fkey

ALTER TABLE ONLY app.licenses
    ADD CONSTRAINT licenses_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT mails mails_tenant_id_fkey

ALTER TABLE ONLY app.mails
    ADD CONSTRAINT mails_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT open_sessions open_sessions_tenant_id_license_id_fkey

ALTER TABLE ONLY app.open_sessions
    ADD CONSTRAINT open_sessions_tenant_id_license_id_fkey FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses(tenant_id, id);

-- FK CONSTRAINT outbox outbox_tenant_id_fkey

ALTER TABLE ONLY app.outbox
    ADD CONSTRAINT outbox_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT overdraft_counts overdraft_counts_tenant_id_fkey

ALTER TABLE ONLY app.overdraft_counts
    ADD CONSTRAINT overdraft_counts_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT plan_metrics plan_metrics_plan_code_fkey

ALTER TABLE ONLY app.plan_metrics
    ADD CONSTRAINT plan_metrics_plan_code_fkey FOREIGN KEY (plan_code) REFERENCES app.plans(code);

-- FK CONSTRAINT plans plans_product_code_fkey

ALTER TABLE ONLY app.plans
    ADD CONSTRAINT plans_product_code_fkey FOREIGN KEY (product_code) REFERENCES app.products(code);

-- FK CONSTRAINT plans plans_trial_falls_to_fkey

ALTER TABLE ONLY app.plans
    ADD CONSTRAINT plans_trial_falls_to_fkey FOREIGN KEY (trial_falls_to) REFERENCES app.plans(code);

-- FK CONSTRAINT revocation_lists revocation_lists_signer_fkey

ALTER TABLE ONLY app.revocation_lists
    ADD CONSTRAINT revocation_lists_signer_fkey FOREIGN KEY (signer) REFERENCES app.signing_keys(kid);

-- FK CONSTRAINT seat_hours seat_hours_tenant_id_license_id_fkey

ALTER TABLE ONLY app.seat_hours
    ADD CONSTRAINT seat_hours_tenant_id_license_id_fkey FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses(tenant_id, id);

-- FK CONSTRAINT signing_keys signing_keys_issuer_kid_fkey

ALTER TABLE ONLY app.signing_keys
    ADD CONSTRAINT signing_keys_issuer_kid_fkey FOREIGN KEY (issuer_kid) REFERENCES app.signing_keys(kid);

-- FK CONSTRAINT stripe_events stripe_events_tenant_id_fkey

ALTER TABLE ONLY app.stripe_events
    ADD CONSTRAINT stripe_events_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT subscriptions subscriptions_plan_code_fkey

ALTER TABLE ONLY app.subscriptions
    ADD CONSTRAINT subscriptions_plan_code_fkey FOREIGN KEY (plan_code) REFERENCES app.plans(code);

-- FK CONSTRAINT subscriptions subscriptions_tenant_id_customer_id_fkey

ALTER TABLE ONLY app.subscriptions
    ADD CONSTRAINT subscriptions_tenant_id_customer_id_fkey FOREIGN KEY (tenant_id, customer_id) REFERENCES app.billing_customers(tenant_id, id);

-- FK CONSTRAINT subscriptions subscriptions_tenant_id_license_id_fkey

ALTER TABLE ONLY app.subscriptions
    ADD CONSTRAINT subscriptions_tenant_id_license_id_fkey FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses(tenant_id, id);

-- FK CONSTRAINT trials trials_falls_to_fkey

ALTER TABLE ONLY app.trials
    ADD CONSTRAINT trials_falls_to_fkey FOREIGN KEY (falls_to) REFERENCES app.plans(code);

-- FK CONSTRAINT trials trials_product_code_fkey

ALTER TABLE ONLY app.trials
    ADD CONSTRAINT trials_product_code_fkey FOREIGN KEY (product_code) REFERENCES app.products(code);

-- FK CONSTRAINT trials trials_tenant_id_fkey

ALTER TABLE ONLY app.trials
    ADD CONSTRAINT trials_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT trials trials_tenant_id_license_id_fkey

ALTER TABLE ONLY app.trials
    ADD CONSTRAINT trials_tenant_id_license_id_fkey FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses(tenant_id, id);

-- FK CONSTRAINT usage_events usage_events_tenant_id_fkey

ALTER TABLE ONLY app.usage_events
    ADD CONSTRAINT usage_events_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT usage_hours usage_hours_tenant_id_license_id_fkey

ALTER TABLE ONLY app.usage_hours
    ADD CONSTRAINT usage_hours_tenant_id_license_id_fkey FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses(tenant_id, id);

-- FK CONSTRAINT usage_months usage_months_tenant_id_license_id_fkey

ALTER TABLE ONLY app.usage_months
    ADD CONSTRAINT usage_months_tenant_id_license_id_fkey FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses(tenant_id, id);

-- FK CONSTRAINT usage_reports usage_reports_tenant_id_license_id_metric_hour_fkey

ALTER TABLE ONLY app.usage_reports
    ADD CONSTRAINT usage_reports_tenant_id_license_id_metric_hour_fkey FOREIGN KEY (tenant_id, license_id, metric, hour) REFERENCES app.usage_hours(tenant_id, license_id, metric, hour);

-- FK CONSTRAINT users users_tenant_id_fkey

ALTER TABLE ONLY app.users
    ADD CONSTRAINT users_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- FK CONSTRAINT webhook_deliveries webhook_deliveries_tenant_id_webhook_id_fkey

ALTER TABLE ONLY app.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_tenant_id_webhook_id_fkey FOREIGN KEY (tenant_id, webhook_id) REFERENCES app.webhooks(tenant_id, id);

-- FK CONSTRAINT webhooks webhooks_tenant_id_fkey

ALTER TABLE ONLY app.webhooks
    ADD CONSTRAINT webhooks_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES app.tenants(id);

-- ROW SECURITY api_keys

ALTER TABLE app.api_keys ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY audit_chains

ALTER TABLE app.audit_chains ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY audit_entries

ALTER TABLE app.audit_entries ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY audit_entries_default

ALTER TABLE app.audit_entries_default ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY billing_customers

ALTER TABLE app.billing_customers ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY checkpoints

ALTER TABLE app.checkpoints ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY devices

ALTER TABLE app.devices ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY ended_sessions

ALTER TABLE app.ended_sessions ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY ended_sessions_default

ALTER TABLE app.ended_sessions_default ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY events

ALTER TABLE app.events ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY idempotency_keys

ALTER TABLE app.idempotency_keys ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY license_keys

ALTER TABLE app.license_keys ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY license_notices

ALTER TABLE app.license_notices ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY licenses

ALTER TABLE app.licenses ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY mails

ALTER TABLE app.mails ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY open_sessions

ALTER TABLE app.open_sessions ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY outbox

ALTER TABLE app.outbox ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY overdraft_counts

ALTER TABLE app.overdraft_counts ENABLE ROW LEVEL SECURITY;

-- POLICY events resolver_expires

CREATE POLICY resolver_expires ON app.events FOR DELETE TO usher_resolver USING ((dispatched_at < (now() - '7 days'::interval)));

-- POLICY idempotency_keys resolver_expires

CREATE POLICY resolver_expires ON app.idempotency_keys TO usher_resolver USING ((expires_at < now())) WITH CHECK (false);

-- POLICY mails resolver_expires

CREATE POLICY resolver_expires ON app.mails FOR DELETE TO usher_resolver USING ((finished_at < (now() - '30 days'::interval)));

-- POLICY stripe_events resolver_expires

CREATE POLICY resolver_expires ON app.stripe_events FOR DELETE TO usher_resolver USING ((received_at < (now() - '7 years'::interval)));

-- POLICY usage_events resolver_expires

CREATE POLICY resolver_expires ON app.usage_events FOR DELETE TO usher_resolver USING ((recorded_at < (now() - '35 days'::interval)));

-- POLICY webhook_deliveries resolver_expires

CREATE POLICY resolver_expires ON app.webhook_deliveries FOR DELETE TO usher_resolver USING ((finished_at < (now() - '30 days'::interval)));

-- POLICY api_keys resolver_finds

CREATE POLICY resolver_finds ON app.api_keys FOR SELECT TO usher_resolver USING (true);

-- POLICY audit_entries resolver_finds

CREATE POLICY resolver_finds ON app.audit_entries FOR SELECT TO usher_resolver USING (true);

-- POLICY billing_customers resolver_finds

CREATE POLICY resolver_finds ON app.billing_customers FOR SELECT TO usher_resolver USING (true);

-- POLICY ended_sessions resolver_finds

CREATE POLICY resolver_finds ON app.ended_sessions FOR SELECT TO usher_resolver USING (true);

-- POLICY events resolver_finds

CREATE POLICY resolver_finds ON app.events FOR SELECT TO usher_resolver USING (true);

-- POLICY license_keys resolver_finds

CREATE POLICY resolver_finds ON app.license_keys FOR SELECT TO usher_resolver USING (true);

-- POLICY license_notices resolver_finds

CREATE POLICY resolver_finds ON app.license_notices FOR SELECT TO usher_resolver USING (true);

-- POLICY licenses resolver_finds

CREATE POLICY resolver_finds ON app.licenses FOR SELECT TO usher_resolver USING (true);

-- POLICY mails resolver_finds

CREATE POLICY resolver_finds ON app.mails FOR SELECT TO usher_resolver USING (true);

-- POLICY open_sessions resolver_finds

CREATE POLICY resolver_finds ON app.open_sessions FOR SELECT TO usher_resolver USING (true);

-- POLICY outbox resolver_finds

CREATE POLICY resolver_finds ON app.outbox FOR SELECT TO usher_resolver USING (true);

-- POLICY overdraft_counts resolver_finds

CREATE POLICY resolver_finds ON app.overdraft_counts FOR SELECT TO usher_resolver USING (true);

-- POLICY seat_hours resolver_finds

CREATE POLICY resolver_finds ON app.seat_hours FOR SELECT TO usher_resolver USING (true);

-- POLICY stripe_events resolver_finds

CREATE POLICY resolver_finds ON app.stripe_events FOR SELECT TO usher_resolver USING (true);

-- POLICY subscriptions resolver_finds

CREATE POLICY resolver_finds ON app.subscriptions FOR SELECT TO usher_resolver USING (true);

-- POLICY usage_events resolver_finds

CREATE POLICY resolver_finds ON app.usage_events FOR SELECT TO usher_resolver USING (true);

-- POLICY usage_hours resolver_finds

CREATE POLICY resolver_finds ON app.usage_hours FOR SELECT TO usher_resolver USING (true);

-- POLICY usage_reports resolver_finds

CREATE POLICY resolver_finds ON app.usage_reports FOR SELECT TO usher_resolver USING (true);

-- POLICY users resolver_finds

CREATE POLICY resolver_finds ON app.users FOR SELECT TO usher_resolver USING (true);

-- POLICY webhook_deliveries resolver_finds

CREATE POLICY resolver_finds ON app.webhook_deliveries FOR SELECT TO usher_resolver USING (true);

-- POLICY webhooks resolver_finds

CREATE POLICY resolver_finds ON app.webhooks FOR SELECT TO usher_resolver USING (true);

-- POLICY audit_chains resolver_lists

CREATE POLICY resolver_lists ON app.audit_chains FOR SELECT TO usher_resolver USING (true);

-- POLICY checkpoints resolver_lists

CREATE POLICY resolver_lists ON app.checkpoints FOR SELECT TO usher_resolver USING (true);

-- POLICY tenants resolver_lists

CREATE POLICY resolver_lists ON app.tenants FOR SELECT TO usher_resolver USING (true);

-- ROW SECURITY seat_hours

ALTER TABLE app.seat_hours ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY stripe_events

ALTER TABLE app.stripe_events ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY subscriptions

ALTER TABLE app.subscriptions ENABLE ROW LEVEL SECURITY;

-- POLICY api_keys tenant

CREATE POLICY tenant ON app.api_keys USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY audit_chains tenant

CREATE POLICY tenant ON app.audit_chains USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY audit_entries tenant

CREATE POLICY tenant ON app.audit_entries USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY audit_entries_default tenant

CREATE POLICY tenant ON app.audit_entries_default USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY billing_customers tenant

CREATE POLICY tenant ON app.billing_customers USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY checkpoints tenant

CREATE POLICY tenant ON app.checkpoints USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY devices tenant

CREATE POLICY tenant ON app.devices USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY ended_sessions tenant

CREATE POLICY tenant ON app.ended_sessions USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY ended_sessions_default tenant

CREATE POLICY tenant ON app.ended_sessions_default USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY events tenant

CREATE POLICY tenant ON app.events USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY idempotency_keys tenant

CREATE POLICY tenant ON app.idempotency_keys USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY license_keys tenant

CREATE POLICY tenant ON app.license_keys USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY license_notices tenant

CREATE POLICY tenant ON app.license_notices USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY licenses tenant

CREATE POLICY tenant ON app.licenses USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY mails tenant

CREATE POLICY tenant ON app.mails USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY open_sessions tenant

CREATE POLICY tenant ON app.open_sessions USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY outbox tenant

CREATE POLICY tenant ON app.outbox USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY overdraft_counts tenant

CREATE POLICY tenant ON app.overdraft_counts USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY seat_hours tenant

CREATE POLICY tenant ON app.seat_hours USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY stripe_events tenant

CREATE POLICY tenant ON app.stripe_events USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY subscriptions tenant

CREATE POLICY tenant ON app.subscriptions USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY tenants tenant

CREATE POLICY tenant ON app.tenants USING ((id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((id = ( SELECT app.tenant() AS tenant)));

-- POLICY trials tenant

CREATE POLICY tenant ON app.trials USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY usage_events tenant

CREATE POLICY tenant ON app.usage_events USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY usage_hours tenant

CREATE POLICY tenant ON app.usage_hours USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY usage_months tenant

CREATE POLICY tenant ON app.usage_months USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY usage_reports tenant

CREATE POLICY tenant ON app.usage_reports USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY users tenant

CREATE POLICY tenant ON app.users USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY webhook_deliveries tenant

CREATE POLICY tenant ON app.webhook_deliveries USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- POLICY webhooks tenant

CREATE POLICY tenant ON app.webhooks USING ((tenant_id = ( SELECT app.tenant() AS tenant))) WITH CHECK ((tenant_id = ( SELECT app.tenant() AS tenant)));

-- ROW SECURITY tenants

ALTER TABLE app.tenants ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY trials

ALTER TABLE app.trials ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY usage_events

ALTER TABLE app.usage_events ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY usage_hours

ALTER TABLE app.usage_hours ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY usage_months

ALTER TABLE app.usage_months ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY usage_reports

ALTER TABLE app.usage_reports ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY users

ALTER TABLE app.users ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY webhook_deliveries

ALTER TABLE app.webhook_deliveries ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY webhooks

ALTER TABLE app.webhooks ENABLE ROW LEVEL SECURITY;

-- ACL SCHEMA app

GRANT USAGE ON SCHEMA app TO usher_resolver;
GRANT USAGE ON SCHEMA app TO usher_validate;
GRANT USAGE ON SCHEMA app TO usher_acquire;
GRANT USAGE ON SCHEMA app TO usher_heartbeat;
GRANT USAGE ON SCHEMA app TO usher_release;
GRANT USAGE ON SCHEMA app TO usher_sweep;
GRANT USAGE ON SCHEMA app TO usher_admin;
GRANT USAGE ON SCHEMA app TO usher_operator;
GRANT USAGE ON SCHEMA app TO usher_signers;
GRANT USAGE ON SCHEMA app TO usher_keys;
GRANT USAGE ON SCHEMA app TO usher_rotate;
GRANT USAGE ON SCHEMA app TO usher_borrow;
GRANT USAGE ON SCHEMA app TO usher_register;
GRANT USAGE ON SCHEMA app TO usher_audits;
GRANT USAGE ON SCHEMA app TO usher_notices;
GRANT USAGE ON SCHEMA app TO usher_deliver;
GRANT USAGE ON SCHEMA app TO usher_billing;
GRANT USAGE ON SCHEMA app TO usher_checkout;
GRANT USAGE ON SCHEMA app TO usher_webhook;
GRANT USAGE ON SCHEMA app TO usher_subscription;
GRANT USAGE ON SCHEMA app TO usher_trial;
GRANT USAGE ON SCHEMA app TO usher_expire;
GRANT USAGE ON SCHEMA app TO usher_usage;
GRANT USAGE ON SCHEMA app TO usher_meter;
GRANT USAGE ON SCHEMA app TO usher_checkpoints;
GRANT USAGE ON SCHEMA app TO usher_incident;

-- ACL SCHEMA public

REVOKE USAGE ON SCHEMA public FROM PUBLIC;

-- ACL FUNCTION audit_field(p_value text)

REVOKE ALL ON FUNCTION app.audit_field(p_value text) FROM PUBLIC;

-- ACL FUNCTION audit_heads(p_after uuid, p_limit integer)

REVOKE ALL ON FUNCTION app.audit_heads(p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.audit_heads(p_after uuid, p_limit integer) TO usher_checkpoints;

-- ACL FUNCTION audit_kept_from(p_days integer)

REVOKE ALL ON FUNCTION app.audit_kept_from(p_days integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.audit_kept_from(p_days integer) TO usher_resolver;

-- ACL FUNCTION audit_record(p_action text, p_outcome text, p_actor text, p_by_operator boolean, p_credential text, p_address text, p_subject text, p_request_id text, p_details jsonb, p_unless_within interval)

REVOKE ALL ON FUNCTION app.audit_record(p_action text, p_outcome text, p_actor text, p_by_operator boolean, p_credential text, p_address text, p_subject text, p_request_id text, p_details jsonb, p_unless_within interval) FROM PUBLIC;
GRANT ALL ON FUNCTION app.audit_record(p_action text, p_outcome text, p_actor text, p_by_operator boolean, p_credential text, p_address text, p_subject text, p_request_id text, p_details jsonb, p_unless_within interval) TO usher_audits;

-- ACL FUNCTION borrow_withdrawn()

REVOKE ALL ON FUNCTION app.borrow_withdrawn() FROM PUBLIC;

-- ACL FUNCTION denial_tenants(p_limit integer)

REVOKE ALL ON FUNCTION app.denial_tenants(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.denial_tenants(p_limit integer) TO usher_deliver;

-- ACL FUNCTION drop_audit(p_days integer)

REVOKE ALL ON FUNCTION app.drop_audit(p_days integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.drop_audit(p_days integer) TO usher_expire;

-- ACL FUNCTION drop_history(p_days integer)

REVOKE ALL ON FUNCTION app.drop_history(p_days integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.drop_history(p_days integer) TO usher_expire;

-- ACL FUNCTION due_mails(p_limit integer)

REVOKE ALL ON FUNCTION app.due_mails(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.due_mails(p_limit integer) TO usher_deliver;

-- ACL FUNCTION due_notices(p_limit integer)

REVOKE ALL ON FUNCTION app.due_notices(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.due_notices(p_limit integer) TO usher_expire;

-- ACL FUNCTION due_suspensions(p_limit integer)

REVOKE ALL ON FUNCTION app.due_suspensions(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.due_suspensions(p_limit integer) TO usher_expire;

-- ACL FUNCTION due_trials(p_limit integer)

REVOKE ALL ON FUNCTION app.due_trials(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.due_trials(p_limit integer) TO usher_expire;

-- ACL FUNCTION due_webhooks(p_limit integer)

REVOKE ALL ON FUNCTION app.due_webhooks(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.due_webhooks(p_limit integer) TO usher_deliver;

-- ACL FUNCTION expire_audit(p_days integer)

REVOKE ALL ON FUNCTION app.expire_audit(p_days integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.expire_audit(p_days integer) TO usher_expire;

-- ACL FUNCTION expire_deliveries()

REVOKE ALL ON FUNCTION app.expire_deliveries() FROM PUBLIC;
GRANT ALL ON FUNCTION app.expire_deliveries() TO usher_deliver;

-- ACL FUNCTION expire_idempotency_keys()

REVOKE ALL ON FUNCTION app.expire_idempotency_keys() FROM PUBLIC;
GRANT ALL ON FUNCTION app.expire_idempotency_keys() TO usher_sweep;

-- ACL FUNCTION expire_notices()

REVOKE ALL ON FUNCTION app.expire_notices() FROM PUBLIC;
GRANT ALL ON FUNCTION app.expire_notices() TO usher_deliver;

-- ACL FUNCTION expire_stripe_events()

REVOKE ALL ON FUNCTION app.expire_stripe_events() FROM PUBLIC;
GRANT ALL ON FUNCTION app.expire_stripe_events() TO usher_expire;

-- ACL FUNCTION expire_usage_events()

REVOKE ALL ON FUNCTION app.expire_usage_events() FROM PUBLIC;
GRANT ALL ON FUNCTION app.expire_usage_events() TO usher_meter;

-- ACL FUNCTION failed_stripe_events(p_limit integer)

REVOKE ALL ON FUNCTION app.failed_stripe_events(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.failed_stripe_events(p_limit integer) TO usher_expire;

-- ACL FUNCTION find_api_key(p_hashes bytea[])

REVOKE ALL ON FUNCTION app.find_api_key(p_hashes bytea[]) FROM PUBLIC;
GRANT ALL ON FUNCTION app.find_api_key(p_hashes bytea[]) TO usher_admin;
GRANT ALL ON FUNCTION app.find_api_key(p_hashes bytea[]) TO usher_rotate;
GRANT ALL ON FUNCTION app.find_api_key(p_hashes bytea[]) TO usher_webhook;
GRANT ALL ON FUNCTION app.find_api_key(p_hashes bytea[]) TO usher_usage;

-- ACL FUNCTION find_billing_customer(p_stripe_id text)

REVOKE ALL ON FUNCTION app.find_billing_customer(p_stripe_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION app.find_billing_customer(p_stripe_id text) TO usher_webhook;
GRANT ALL ON FUNCTION app.find_billing_customer(p_stripe_id text) TO usher_expire;

-- ACL FUNCTION find_invitation(p_hashes bytea[])

REVOKE ALL ON FUNCTION app.find_invitation(p_hashes bytea[]) FROM PUBLIC;
GRANT ALL ON FUNCTION app.find_invitation(p_hashes bytea[]) TO usher_admin;

-- ACL FUNCTION find_license_key(p_hashes bytea[])

REVOKE ALL ON FUNCTION app.find_license_key(p_hashes bytea[]) FROM PUBLIC;
GRANT ALL ON FUNCTION app.find_license_key(p_hashes bytea[]) TO usher_validate;
GRANT ALL ON FUNCTION app.find_license_key(p_hashes bytea[]) TO usher_acquire;
GRANT ALL ON FUNCTION app.find_license_key(p_hashes bytea[]) TO usher_release;

-- ACL FUNCTION find_stripe_event(p_id text)

REVOKE ALL ON FUNCTION app.find_stripe_event(p_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION app.find_stripe_event(p_id text) TO usher_webhook;
GRANT ALL ON FUNCTION app.find_stripe_event(p_id text) TO usher_expire;

-- ACL FUNCTION find_user(p_issuer text, p_subject text)

REVOKE ALL ON FUNCTION app.find_user(p_issuer text, p_subject text) FROM PUBLIC;
GRANT ALL ON FUNCTION app.find_user(p_issuer text, p_subject text) TO usher_admin;
GRANT ALL ON FUNCTION app.find_user(p_issuer text, p_subject text) TO usher_register;
GRANT ALL ON FUNCTION app.find_user(p_issuer text, p_subject text) TO usher_checkout;
GRANT ALL ON FUNCTION app.find_user(p_issuer text, p_subject text) TO usher_subscription;
GRANT ALL ON FUNCTION app.find_user(p_issuer text, p_subject text) TO usher_webhook;
GRANT ALL ON FUNCTION app.find_user(p_issuer text, p_subject text) TO usher_trial;
GRANT ALL ON FUNCTION app.find_user(p_issuer text, p_subject text) TO usher_usage;
GRANT ALL ON FUNCTION app.find_user(p_issuer text, p_subject text) TO usher_incident;

-- ACL FUNCTION has_audit(p_from timestamp with time zone, p_to timestamp with time zone)

REVOKE ALL ON FUNCTION app.has_audit(p_from timestamp with time zone, p_to timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION app.has_audit(p_from timestamp with time zone, p_to timestamp with time zone) TO usher_owner;

-- ACL FUNCTION incident_tenant(p_license uuid, p_user uuid, p_api_key uuid)

REVOKE ALL ON FUNCTION app.incident_tenant(p_license uuid, p_user uuid, p_api_key uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION app.incident_tenant(p_license uuid, p_user uuid, p_api_key uuid) TO usher_incident;

-- ACL FUNCTION license_changed()

REVOKE ALL ON FUNCTION app.license_changed() FROM PUBLIC;

-- ACL FUNCTION license_state(p_tenant_status text, p_status text, p_starts_at timestamp with time zone, p_expires_at timestamp with time zone, p_grace_until timestamp with time zone, p_now timestamp with time zone)

REVOKE ALL ON FUNCTION app.license_state(p_tenant_status text, p_status text, p_starts_at timestamp with time zone, p_expires_at timestamp with time zone, p_grace_until timestamp with time zone, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION app.license_state(p_tenant_status text, p_status text, p_starts_at timestamp with time zone, p_expires_at timestamp with time zone, p_grace_until timestamp with time zone, p_now timestamp with time zone) TO usher_pools;

-- ACL FUNCTION licenses_touched()

REVOKE ALL ON FUNCTION app.licenses_touched() FROM PUBLIC;

-- ACL FUNCTION make_audit_partitions(p_months_ahead integer)

REVOKE ALL ON FUNCTION app.make_audit_partitions(p_months_ahead integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.make_audit_partitions(p_months_ahead integer) TO usher_sweep;

-- ACL FUNCTION make_history_partitions(p_months_ahead integer)

REVOKE ALL ON FUNCTION app.make_history_partitions(p_months_ahead integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.make_history_partitions(p_months_ahead integer) TO usher_sweep;

-- ACL FUNCTION metered_tenants(p_limit integer)

REVOKE ALL ON FUNCTION app.metered_tenants(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.metered_tenants(p_limit integer) TO usher_meter;

-- ACL FUNCTION new_id()

REVOKE ALL ON FUNCTION app.new_id() FROM PUBLIC;
GRANT ALL ON FUNCTION app.new_id() TO usher_seats;
GRANT ALL ON FUNCTION app.new_id() TO usher_notices;

-- ACL FUNCTION old_audit_tenants(p_days integer, p_after uuid, p_limit integer)

REVOKE ALL ON FUNCTION app.old_audit_tenants(p_days integer, p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.old_audit_tenants(p_days integer, p_after uuid, p_limit integer) TO usher_expire;

-- ACL FUNCTION operator_tenants(p_after uuid, p_limit integer)

REVOKE ALL ON FUNCTION app.operator_tenants(p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.operator_tenants(p_after uuid, p_limit integer) TO usher_operator;

-- ACL FUNCTION overdraft_tenants(p_limit integer)

REVOKE ALL ON FUNCTION app.overdraft_tenants(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.overdraft_tenants(p_limit integer) TO usher_meter;

-- ACL FUNCTION pending_checkpoints(p_after uuid, p_limit integer)

REVOKE ALL ON FUNCTION app.pending_checkpoints(p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.pending_checkpoints(p_after uuid, p_limit integer) TO usher_checkpoints;

-- ACL FUNCTION seat_event_tenants(p_from timestamp with time zone, p_to timestamp with time zone, p_all boolean)

REVOKE ALL ON FUNCTION app.seat_event_tenants(p_from timestamp with time zone, p_to timestamp with time zone, p_all boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION app.seat_event_tenants(p_from timestamp with time zone, p_to timestamp with time zone, p_all boolean) TO usher_deliver;

-- ACL FUNCTION seat_open(p_license uuid, p_session uuid, p_seat integer, p_epoch bigint, p_counter bigint, p_holder text, p_hardware text, p_hostname text, p_user text, p_instance text, p_version text, p_metadata json, p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[])

REVOKE ALL ON FUNCTION app.seat_open(p_license uuid, p_session uuid, p_seat integer, p_epoch bigint, p_counter bigint, p_holder text, p_hardware text, p_hostname text, p_user text, p_instance text, p_version text, p_metadata json, p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[]) FROM PUBLIC;
GRANT ALL ON FUNCTION app.seat_open(p_license uuid, p_session uuid, p_seat integer, p_epoch bigint, p_counter bigint, p_holder text, p_hardware text, p_hostname text, p_user text, p_instance text, p_version text, p_metadata json, p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[]) TO usher_seats;

-- ACL FUNCTION seats_open(p_licenses uuid[], p_sessions uuid[], p_seats integer[], p_epochs bigint[], p_counters bigint[], p_holders text[], p_hardware text[], p_hostnames text[], p_users text[], p_instances text[], p_versions text[], p_metadata text[], p_gone_of integer[], p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[])

REVOKE ALL ON FUNCTION app.seats_open(p_licenses uuid[], p_sessions uuid[], p_seats integer[], p_epochs bigint[], p_counters bigint[], p_holders text[], p_hardware text[], p_hostnames text[], p_users text[], p_instances text[], p_versions text[], p_metadata text[], p_gone_of integer[], p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[]) FROM PUBLIC;
GRANT ALL ON FUNCTION app.seats_open(p_licenses uuid[], p_sessions uuid[], p_seats integer[], p_epochs bigint[], p_counters bigint[], p_holders text[], p_hardware text[], p_hostnames text[], p_users text[], p_instances text[], p_versions text[], p_metadata text[], p_gone_of integer[], p_gone_ids uuid[], p_gone_statuses text[], p_gone_reasons text[], p_gone_bys text[], p_gone_ats timestamp with time zone[]) TO usher_seats;

-- ACL FUNCTION session_borrow(p_license uuid, p_session uuid, p_fence_epoch bigint, p_fence_counter bigint, p_until timestamp with time zone, p_beyond_longest boolean, OUT verdict text, OUT epoch bigint, OUT borrowed_until timestamp with time zone, OUT remaining_ms bigint, OUT hardware_id text, OUT reason text, OUT ended_by text, OUT ended_at timestamp with time zone)

REVOKE ALL ON FUNCTION app.session_borrow(p_license uuid, p_session uuid, p_fence_epoch bigint, p_fence_counter bigint, p_until timestamp with time zone, p_beyond_longest boolean, OUT verdict text, OUT epoch bigint, OUT borrowed_until timestamp with time zone, OUT remaining_ms bigint, OUT hardware_id text, OUT reason text, OUT ended_by text, OUT ended_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION app.session_borrow(p_license uuid, p_session uuid, p_fence_epoch bigint, p_fence_counter bigint, p_until timestamp with time zone, p_beyond_longest boolean, OUT verdict text, OUT epoch bigint, OUT borrowed_until timestamp with time zone, OUT remaining_ms bigint, OUT hardware_id text, OUT reason text, OUT ended_by text, OUT ended_at timestamp with time zone) TO usher_borrow;
GRANT ALL ON FUNCTION app.session_borrow(p_license uuid, p_session uuid, p_fence_epoch bigint, p_fence_counter bigint, p_until timestamp with time zone, p_beyond_longest boolean, OUT verdict text, OUT epoch bigint, OUT borrowed_until timestamp with time zone, OUT remaining_ms bigint, OUT hardware_id text, OUT reason text, OUT ended_by text, OUT ended_at timestamp with time zone) TO usher_admin;

-- ACL FUNCTION session_close(p_license uuid, p_epoch bigint, p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[])

REVOKE ALL ON FUNCTION app.session_close(p_license uuid, p_epoch bigint, p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) FROM PUBLIC;
GRANT ALL ON FUNCTION app.session_close(p_license uuid, p_epoch bigint, p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) TO usher_seats;

-- ACL FUNCTION sessions_release(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[])

REVOKE ALL ON FUNCTION app.sessions_release(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) FROM PUBLIC;
GRANT ALL ON FUNCTION app.sessions_release(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) TO usher_seats;

-- ACL FUNCTION sessions_release_unlocked(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[])

REVOKE ALL ON FUNCTION app.sessions_release_unlocked(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) FROM PUBLIC;
GRANT ALL ON FUNCTION app.sessions_release_unlocked(p_licenses uuid[], p_ids uuid[], p_statuses text[], p_reasons text[], p_bys text[], p_ats timestamp with time zone[]) TO usher_seats;

-- ACL FUNCTION subscriptions_to_check(p_before timestamp with time zone, p_limit integer)

REVOKE ALL ON FUNCTION app.subscriptions_to_check(p_before timestamp with time zone, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.subscriptions_to_check(p_before timestamp with time zone, p_limit integer) TO usher_expire;

-- ACL FUNCTION sweep_licenses(p_after_tenant uuid, p_after_license uuid, p_limit integer)

REVOKE ALL ON FUNCTION app.sweep_licenses(p_after_tenant uuid, p_after_license uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.sweep_licenses(p_after_tenant uuid, p_after_license uuid, p_limit integer) TO usher_sweep;

-- ACL FUNCTION sweep_outbox(p_limit integer)

REVOKE ALL ON FUNCTION app.sweep_outbox(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.sweep_outbox(p_limit integer) TO usher_sweep;

-- ACL FUNCTION waiting()

REVOKE ALL ON FUNCTION app.waiting() FROM PUBLIC;
GRANT ALL ON FUNCTION app.waiting() TO usher_sweep;

-- ACL FUNCTION waiting_events(p_limit integer)

REVOKE ALL ON FUNCTION app.waiting_events(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION app.waiting_events(p_limit integer) TO usher_deliver;

-- ACL FUNCTION waiting_webhooks()

REVOKE ALL ON FUNCTION app.waiting_webhooks() FROM PUBLIC;

-- ACL FUNCTION wants(p_events text[], p_type text)

REVOKE ALL ON FUNCTION app.wants(p_events text[], p_type text) FROM PUBLIC;
GRANT ALL ON FUNCTION app.wants(p_events text[], p_type text) TO usher_deliver;

-- ACL TABLE api_keys

GRANT INSERT ON TABLE app.api_keys TO usher_admin;
GRANT INSERT ON TABLE app.api_keys TO usher_operator;

-- ACL COLUMN api_keys.tenant_id

GRANT SELECT(tenant_id) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(tenant_id) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(tenant_id) ON TABLE app.api_keys TO usher_resolver;
GRANT SELECT(tenant_id) ON TABLE app.api_keys TO usher_rotate;
GRANT SELECT(tenant_id) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(tenant_id) ON TABLE app.api_keys TO usher_usage;

-- ACL COLUMN api_keys.id

GRANT SELECT(id) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(id) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(id) ON TABLE app.api_keys TO usher_resolver;
GRANT SELECT(id) ON TABLE app.api_keys TO usher_rotate;
GRANT SELECT(id) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(id) ON TABLE app.api_keys TO usher_usage;

-- ACL COLUMN api_keys.name

GRANT SELECT(name) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(name) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(name) ON TABLE app.api_keys TO usher_rotate;
GRANT SELECT(name) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(name) ON TABLE app.api_keys TO usher_usage;
GRANT SELECT(name) ON TABLE app.api_keys TO usher_incident;

-- ACL COLUMN api_keys.scopes

GRANT SELECT(scopes) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(scopes) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(scopes) ON TABLE app.api_keys TO usher_rotate;
GRANT SELECT(scopes) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(scopes) ON TABLE app.api_keys TO usher_usage;

-- ACL COLUMN api_keys.key_hash

GRANT SELECT(key_hash) ON TABLE app.api_keys TO usher_resolver;

-- ACL COLUMN api_keys.pepper_version

GRANT SELECT(pepper_version) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(pepper_version) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(pepper_version) ON TABLE app.api_keys TO usher_webhook;

-- ACL COLUMN api_keys.hint

GRANT SELECT(hint) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(hint) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(hint) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(hint) ON TABLE app.api_keys TO usher_incident;

-- ACL COLUMN api_keys.created_by

GRANT SELECT(created_by) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(created_by) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(created_by) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(created_by) ON TABLE app.api_keys TO usher_incident;

-- ACL COLUMN api_keys.created_at

GRANT SELECT(created_at) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(created_at) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(created_at) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(created_at) ON TABLE app.api_keys TO usher_incident;

-- ACL COLUMN api_keys.expires_at

GRANT SELECT(expires_at),UPDATE(expires_at) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(expires_at) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(expires_at) ON TABLE app.api_keys TO usher_rotate;
GRANT SELECT(expires_at) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(expires_at) ON TABLE app.api_keys TO usher_usage;

-- ACL COLUMN api_keys.revoked_at

GRANT SELECT(revoked_at),UPDATE(revoked_at) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(revoked_at) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(revoked_at) ON TABLE app.api_keys TO usher_rotate;
GRANT SELECT(revoked_at) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(revoked_at) ON TABLE app.api_keys TO usher_usage;
GRANT UPDATE(revoked_at) ON TABLE app.api_keys TO usher_incident;

-- ACL COLUMN api_keys.last_used_at

GRANT SELECT(last_used_at),UPDATE(last_used_at) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(last_used_at) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(last_used_at),UPDATE(last_used_at) ON TABLE app.api_keys TO usher_rotate;
GRANT SELECT(last_used_at),UPDATE(last_used_at) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(last_used_at),UPDATE(last_used_at) ON TABLE app.api_keys TO usher_usage;

-- ACL COLUMN api_keys.rotated_at

GRANT SELECT(rotated_at),UPDATE(rotated_at) ON TABLE app.api_keys TO usher_admin;
GRANT SELECT(rotated_at) ON TABLE app.api_keys TO usher_operator;
GRANT SELECT(rotated_at) ON TABLE app.api_keys TO usher_webhook;
GRANT SELECT(rotated_at) ON TABLE app.api_keys TO usher_incident;

-- ACL TABLE audit_chains

GRANT SELECT ON TABLE app.audit_chains TO usher_admin;
GRANT SELECT ON TABLE app.audit_chains TO usher_operator;
GRANT SELECT ON TABLE app.audit_chains TO usher_checkpoints;

-- ACL COLUMN audit_chains.tenant_id

GRANT SELECT(tenant_id) ON TABLE app.audit_chains TO usher_resolver;

-- ACL COLUMN audit_chains.seq

GRANT SELECT(seq) ON TABLE app.audit_chains TO usher_resolver;

-- ACL COLUMN audit_chains.hash

GRANT SELECT(hash) ON TABLE app.audit_chains TO usher_resolver;

-- ACL TABLE audit_entries

GRANT SELECT ON TABLE app.audit_entries TO usher_admin;
GRANT SELECT ON TABLE app.audit_entries TO usher_operator;
GRANT SELECT ON TABLE app.audit_entries TO usher_checkpoints;

-- ACL COLUMN audit_entries.tenant_id

GRANT SELECT(tenant_id) ON TABLE app.audit_entries TO usher_resolver;

-- ACL COLUMN audit_entries.at

GRANT SELECT(at) ON TABLE app.audit_entries TO usher_resolver;

-- ACL TABLE billing_customers

GRANT SELECT ON TABLE app.billing_customers TO usher_checkout;
GRANT SELECT ON TABLE app.billing_customers TO usher_billing;

-- ACL COLUMN billing_customers.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.billing_customers TO usher_checkout;
GRANT SELECT(tenant_id) ON TABLE app.billing_customers TO usher_resolver;
GRANT SELECT(tenant_id) ON TABLE app.billing_customers TO usher_meter;

-- ACL COLUMN billing_customers.id

GRANT INSERT(id) ON TABLE app.billing_customers TO usher_checkout;
GRANT SELECT(id) ON TABLE app.billing_customers TO usher_meter;

-- ACL COLUMN billing_customers.stripe_id

GRANT UPDATE(stripe_id) ON TABLE app.billing_customers TO usher_checkout;
GRANT SELECT(stripe_id) ON TABLE app.billing_customers TO usher_resolver;
GRANT SELECT(stripe_id) ON TABLE app.billing_customers TO usher_meter;

-- ACL COLUMN billing_customers.checkout_session_id

GRANT UPDATE(checkout_session_id) ON TABLE app.billing_customers TO usher_checkout;

-- ACL COLUMN billing_customers.updated_at

GRANT UPDATE(updated_at) ON TABLE app.billing_customers TO usher_checkout;
GRANT UPDATE(updated_at) ON TABLE app.billing_customers TO usher_webhook;
GRANT UPDATE(updated_at) ON TABLE app.billing_customers TO usher_expire;

-- ACL COLUMN billing_customers.deleted_at

GRANT UPDATE(deleted_at) ON TABLE app.billing_customers TO usher_webhook;
GRANT UPDATE(deleted_at) ON TABLE app.billing_customers TO usher_expire;
GRANT SELECT(deleted_at) ON TABLE app.billing_customers TO usher_meter;

-- ACL COLUMN billing_customers.offer_taken_at

GRANT UPDATE(offer_taken_at) ON TABLE app.billing_customers TO usher_subscription;

-- ACL TABLE checkpoints

GRANT SELECT,INSERT,DELETE ON TABLE app.checkpoints TO usher_checkpoints;

-- ACL COLUMN checkpoints.tenant_id

GRANT SELECT(tenant_id) ON TABLE app.checkpoints TO usher_resolver;

-- ACL COLUMN checkpoints.seq

GRANT SELECT(seq) ON TABLE app.checkpoints TO usher_resolver;

-- ACL TABLE devices

GRANT SELECT ON TABLE app.devices TO usher_facts;
GRANT SELECT,INSERT ON TABLE app.devices TO usher_seats;
GRANT DELETE ON TABLE app.devices TO usher_admin;

-- ACL COLUMN devices.hostname

GRANT UPDATE(hostname) ON TABLE app.devices TO usher_seats;

-- ACL COLUMN devices.last_seen_at

GRANT UPDATE(last_seen_at) ON TABLE app.devices TO usher_seats;

-- ACL TABLE ended_sessions

GRANT SELECT ON TABLE app.ended_sessions TO usher_pools;
GRANT INSERT ON TABLE app.ended_sessions TO usher_seats;

-- ACL COLUMN ended_sessions.tenant_id

GRANT SELECT(tenant_id) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(tenant_id) ON TABLE app.ended_sessions TO usher_resolver;
GRANT SELECT(tenant_id) ON TABLE app.ended_sessions TO usher_usage;
GRANT SELECT(tenant_id) ON TABLE app.ended_sessions TO usher_meter;
GRANT SELECT(tenant_id) ON TABLE app.ended_sessions TO usher_subscription;

-- ACL COLUMN ended_sessions.id

GRANT SELECT(id) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(id) ON TABLE app.ended_sessions TO usher_usage;

-- ACL COLUMN ended_sessions.license_id

GRANT SELECT(license_id) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(license_id) ON TABLE app.ended_sessions TO usher_meter;
GRANT SELECT(license_id) ON TABLE app.ended_sessions TO usher_subscription;

-- ACL COLUMN ended_sessions.seat_no

GRANT SELECT(seat_no) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(seat_no) ON TABLE app.ended_sessions TO usher_meter;
GRANT SELECT(seat_no) ON TABLE app.ended_sessions TO usher_subscription;

-- ACL COLUMN ended_sessions.overdraft

GRANT SELECT(overdraft) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(overdraft) ON TABLE app.ended_sessions TO usher_meter;
GRANT SELECT(overdraft) ON TABLE app.ended_sessions TO usher_subscription;

-- ACL COLUMN ended_sessions.holder

GRANT SELECT(holder) ON TABLE app.ended_sessions TO usher_deliver;

-- ACL COLUMN ended_sessions.hostname

GRANT SELECT(hostname) ON TABLE app.ended_sessions TO usher_deliver;

-- ACL COLUMN ended_sessions.user_name

GRANT SELECT(user_name) ON TABLE app.ended_sessions TO usher_deliver;

-- ACL COLUMN ended_sessions.instance_id

GRANT SELECT(instance_id) ON TABLE app.ended_sessions TO usher_deliver;

-- ACL COLUMN ended_sessions.version

GRANT SELECT(version) ON TABLE app.ended_sessions TO usher_deliver;

-- ACL COLUMN ended_sessions.acquired_at

GRANT SELECT(acquired_at) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(acquired_at) ON TABLE app.ended_sessions TO usher_meter;
GRANT SELECT(acquired_at) ON TABLE app.ended_sessions TO usher_subscription;

-- ACL COLUMN ended_sessions.status

GRANT SELECT(status) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(status) ON TABLE app.ended_sessions TO usher_usage;

-- ACL COLUMN ended_sessions.end_reason

GRANT SELECT(end_reason) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(end_reason) ON TABLE app.ended_sessions TO usher_usage;

-- ACL COLUMN ended_sessions.ended_by

GRANT SELECT(ended_by) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(ended_by) ON TABLE app.ended_sessions TO usher_usage;

-- ACL COLUMN ended_sessions.ended_at

GRANT SELECT(ended_at) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(ended_at) ON TABLE app.ended_sessions TO usher_usage;
GRANT SELECT(ended_at) ON TABLE app.ended_sessions TO usher_meter;
GRANT SELECT(ended_at) ON TABLE app.ended_sessions TO usher_subscription;

-- ACL COLUMN ended_sessions.recorded_at

GRANT SELECT(recorded_at) ON TABLE app.ended_sessions TO usher_deliver;
GRANT SELECT(recorded_at) ON TABLE app.ended_sessions TO usher_resolver;
GRANT SELECT(recorded_at) ON TABLE app.ended_sessions TO usher_meter;
GRANT SELECT(recorded_at) ON TABLE app.ended_sessions TO usher_subscription;

-- ACL TABLE event_cursor

GRANT SELECT ON TABLE app.event_cursor TO usher_deliver;

-- ACL COLUMN event_cursor.seats_to

GRANT UPDATE(seats_to) ON TABLE app.event_cursor TO usher_deliver;

-- ACL TABLE events

GRANT SELECT ON TABLE app.events TO usher_deliver;
GRANT DELETE ON TABLE app.events TO usher_resolver;

-- ACL COLUMN events.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.events TO usher_notices;
GRANT SELECT(tenant_id) ON TABLE app.events TO usher_resolver;

-- ACL COLUMN events.id

GRANT INSERT(id) ON TABLE app.events TO usher_notices;
GRANT SELECT(id) ON TABLE app.events TO usher_resolver;

-- ACL COLUMN events.type

GRANT INSERT(type) ON TABLE app.events TO usher_notices;

-- ACL COLUMN events.subject

GRANT INSERT(subject) ON TABLE app.events TO usher_notices;

-- ACL COLUMN events.data

GRANT INSERT(data) ON TABLE app.events TO usher_notices;

-- ACL COLUMN events.occurred_at

GRANT INSERT(occurred_at) ON TABLE app.events TO usher_notices;

-- ACL COLUMN events.recorded_at

GRANT SELECT(recorded_at) ON TABLE app.events TO usher_resolver;

-- ACL COLUMN events.dispatched_at

GRANT UPDATE(dispatched_at) ON TABLE app.events TO usher_deliver;
GRANT SELECT(dispatched_at) ON TABLE app.events TO usher_resolver;

-- ACL TABLE freezes

GRANT SELECT,INSERT ON TABLE app.freezes TO usher_incident;

-- ACL COLUMN freezes.frozen

GRANT UPDATE(frozen) ON TABLE app.freezes TO usher_incident;

-- ACL COLUMN freezes.reason

GRANT UPDATE(reason) ON TABLE app.freezes TO usher_incident;

-- ACL COLUMN freezes.by

GRANT UPDATE(by) ON TABLE app.freezes TO usher_incident;

-- ACL COLUMN freezes.at

GRANT UPDATE(at) ON TABLE app.freezes TO usher_incident;

-- ACL TABLE idempotency_keys

GRANT SELECT,INSERT,DELETE ON TABLE app.idempotency_keys TO usher_replays;
GRANT DELETE ON TABLE app.idempotency_keys TO usher_resolver;

-- ACL COLUMN idempotency_keys.ctid

GRANT SELECT(ctid) ON TABLE app.idempotency_keys TO usher_resolver;

-- ACL COLUMN idempotency_keys.body_hash

GRANT UPDATE(body_hash) ON TABLE app.idempotency_keys TO usher_replays;

-- ACL COLUMN idempotency_keys.state

GRANT UPDATE(state) ON TABLE app.idempotency_keys TO usher_replays;

-- ACL COLUMN idempotency_keys.held_until

GRANT UPDATE(held_until) ON TABLE app.idempotency_keys TO usher_replays;

-- ACL COLUMN idempotency_keys.http_status

GRANT UPDATE(http_status) ON TABLE app.idempotency_keys TO usher_replays;

-- ACL COLUMN idempotency_keys.answer

GRANT UPDATE(answer) ON TABLE app.idempotency_keys TO usher_replays;

-- ACL COLUMN idempotency_keys.session_id

GRANT UPDATE(session_id) ON TABLE app.idempotency_keys TO usher_replays;

-- ACL COLUMN idempotency_keys.created_at

GRANT UPDATE(created_at) ON TABLE app.idempotency_keys TO usher_replays;

-- ACL COLUMN idempotency_keys.expires_at

GRANT UPDATE(expires_at) ON TABLE app.idempotency_keys TO usher_replays;
GRANT SELECT(expires_at) ON TABLE app.idempotency_keys TO usher_resolver;

-- ACL TABLE incident_actions

GRANT SELECT,INSERT ON TABLE app.incident_actions TO usher_incident;

-- ACL COLUMN incident_actions.outcome

GRANT UPDATE(outcome) ON TABLE app.incident_actions TO usher_incident;

-- ACL COLUMN incident_actions.detail

GRANT UPDATE(detail) ON TABLE app.incident_actions TO usher_incident;

-- ACL COLUMN incident_actions.at

GRANT UPDATE(at) ON TABLE app.incident_actions TO usher_incident;

-- ACL TABLE incident_entries

GRANT SELECT,INSERT,DELETE ON TABLE app.incident_entries TO usher_incident;

-- ACL TABLE incident_evidence

GRANT SELECT,INSERT ON TABLE app.incident_evidence TO usher_incident;

-- ACL COLUMN incident_evidence.count

GRANT UPDATE(count) ON TABLE app.incident_evidence TO usher_incident;

-- ACL TABLE incidents

GRANT SELECT,INSERT ON TABLE app.incidents TO usher_incident;

-- ACL COLUMN incidents.status

GRANT UPDATE(status) ON TABLE app.incidents TO usher_incident;

-- ACL COLUMN incidents.responded_at

GRANT UPDATE(responded_at) ON TABLE app.incidents TO usher_incident;

-- ACL COLUMN incidents.resolved_at

GRANT UPDATE(resolved_at) ON TABLE app.incidents TO usher_incident;

-- ACL COLUMN incidents.resolved_by

GRANT UPDATE(resolved_by) ON TABLE app.incidents TO usher_incident;

-- ACL COLUMN incidents.resolution

GRANT UPDATE(resolution) ON TABLE app.incidents TO usher_incident;

-- ACL TABLE license_keys

GRANT INSERT ON TABLE app.license_keys TO usher_admin;
GRANT INSERT ON TABLE app.license_keys TO usher_register;
GRANT INSERT ON TABLE app.license_keys TO usher_billing;
GRANT INSERT ON TABLE app.license_keys TO usher_trial;

-- ACL COLUMN license_keys.tenant_id

GRANT SELECT(tenant_id) ON TABLE app.license_keys TO usher_facts;
GRANT SELECT(tenant_id) ON TABLE app.license_keys TO usher_resolver;

-- ACL COLUMN license_keys.id

GRANT SELECT(id) ON TABLE app.license_keys TO usher_facts;

-- ACL COLUMN license_keys.license_id

GRANT SELECT(license_id) ON TABLE app.license_keys TO usher_facts;
GRANT SELECT(license_id) ON TABLE app.license_keys TO usher_resolver;

-- ACL COLUMN license_keys.key_hash

GRANT SELECT(key_hash) ON TABLE app.license_keys TO usher_resolver;

-- ACL COLUMN license_keys.pepper_version

GRANT SELECT(pepper_version) ON TABLE app.license_keys TO usher_facts;

-- ACL COLUMN license_keys.hint

GRANT SELECT(hint) ON TABLE app.license_keys TO usher_facts;

-- ACL COLUMN license_keys.created_at

GRANT SELECT(created_at) ON TABLE app.license_keys TO usher_facts;

-- ACL COLUMN license_keys.expires_at

GRANT SELECT(expires_at) ON TABLE app.license_keys TO usher_facts;
GRANT UPDATE(expires_at) ON TABLE app.license_keys TO usher_admin;
GRANT SELECT(expires_at) ON TABLE app.license_keys TO usher_resolver;

-- ACL TABLE license_notices

GRANT SELECT ON TABLE app.license_notices TO usher_expire;
GRANT SELECT ON TABLE app.license_notices TO usher_resolver;

-- ACL COLUMN license_notices.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.license_notices TO usher_expire;

-- ACL COLUMN license_notices.license_id

GRANT INSERT(license_id) ON TABLE app.license_notices TO usher_expire;

-- ACL COLUMN license_notices.ends_at

GRANT INSERT(ends_at) ON TABLE app.license_notices TO usher_expire;

-- ACL COLUMN license_notices.days

GRANT INSERT(days) ON TABLE app.license_notices TO usher_expire;

-- ACL TABLE licenses

GRANT SELECT ON TABLE app.licenses TO usher_facts;
GRANT SELECT ON TABLE app.licenses TO usher_pools;

-- ACL COLUMN licenses.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(tenant_id) ON TABLE app.licenses TO usher_register;
GRANT INSERT(tenant_id) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(tenant_id) ON TABLE app.licenses TO usher_trial;
GRANT SELECT(tenant_id) ON TABLE app.licenses TO usher_resolver;
GRANT SELECT(tenant_id) ON TABLE app.licenses TO usher_meter;

-- ACL COLUMN licenses.id

GRANT INSERT(id) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(id) ON TABLE app.licenses TO usher_register;
GRANT INSERT(id) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(id) ON TABLE app.licenses TO usher_trial;
GRANT SELECT(id) ON TABLE app.licenses TO usher_resolver;
GRANT SELECT(id) ON TABLE app.licenses TO usher_meter;

-- ACL COLUMN licenses.product_code

GRANT INSERT(product_code),UPDATE(product_code) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(product_code) ON TABLE app.licenses TO usher_register;
GRANT INSERT(product_code),UPDATE(product_code) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(product_code) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.plan_code

GRANT INSERT(plan_code),UPDATE(plan_code) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(plan_code) ON TABLE app.licenses TO usher_register;
GRANT INSERT(plan_code),UPDATE(plan_code) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(plan_code) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.status

GRANT UPDATE(status) ON TABLE app.licenses TO usher_admin;
GRANT UPDATE(status) ON TABLE app.licenses TO usher_billing;
GRANT SELECT(status) ON TABLE app.licenses TO usher_resolver;
GRANT UPDATE(status) ON TABLE app.licenses TO usher_incident;

-- ACL COLUMN licenses.status_reason

GRANT UPDATE(status_reason) ON TABLE app.licenses TO usher_admin;
GRANT UPDATE(status_reason) ON TABLE app.licenses TO usher_billing;
GRANT UPDATE(status_reason) ON TABLE app.licenses TO usher_incident;

-- ACL COLUMN licenses.status_by

GRANT UPDATE(status_by) ON TABLE app.licenses TO usher_admin;
GRANT UPDATE(status_by) ON TABLE app.licenses TO usher_billing;
GRANT SELECT(status_by) ON TABLE app.licenses TO usher_resolver;
GRANT UPDATE(status_by) ON TABLE app.licenses TO usher_incident;

-- ACL COLUMN licenses.max_seats

GRANT INSERT(max_seats),UPDATE(max_seats) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(max_seats) ON TABLE app.licenses TO usher_register;
GRANT INSERT(max_seats),UPDATE(max_seats) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(max_seats) ON TABLE app.licenses TO usher_trial;
GRANT SELECT(max_seats) ON TABLE app.licenses TO usher_meter;

-- ACL COLUMN licenses.overdraft_seats

GRANT INSERT(overdraft_seats),UPDATE(overdraft_seats) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(overdraft_seats) ON TABLE app.licenses TO usher_register;
GRANT INSERT(overdraft_seats),UPDATE(overdraft_seats) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(overdraft_seats) ON TABLE app.licenses TO usher_trial;
GRANT SELECT(overdraft_seats) ON TABLE app.licenses TO usher_resolver;

-- ACL COLUMN licenses.ttl_seconds

GRANT INSERT(ttl_seconds),UPDATE(ttl_seconds) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(ttl_seconds) ON TABLE app.licenses TO usher_register;
GRANT INSERT(ttl_seconds),UPDATE(ttl_seconds) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(ttl_seconds) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.seat_per

GRANT INSERT(seat_per),UPDATE(seat_per) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(seat_per) ON TABLE app.licenses TO usher_register;
GRANT INSERT(seat_per),UPDATE(seat_per) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(seat_per) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.features

GRANT INSERT(features),UPDATE(features) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(features) ON TABLE app.licenses TO usher_register;
GRANT INSERT(features),UPDATE(features) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(features) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.versions

GRANT INSERT(versions),UPDATE(versions) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(versions) ON TABLE app.licenses TO usher_register;
GRANT INSERT(versions),UPDATE(versions) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(versions) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.max_devices

GRANT INSERT(max_devices),UPDATE(max_devices) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(max_devices) ON TABLE app.licenses TO usher_register;
GRANT INSERT(max_devices),UPDATE(max_devices) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(max_devices) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.allowed_hardware

GRANT INSERT(allowed_hardware),UPDATE(allowed_hardware) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(allowed_hardware) ON TABLE app.licenses TO usher_register;
GRANT INSERT(allowed_hardware),UPDATE(allowed_hardware) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(allowed_hardware) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.offline_grace_seconds

GRANT INSERT(offline_grace_seconds),UPDATE(offline_grace_seconds) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(offline_grace_seconds) ON TABLE app.licenses TO usher_register;
GRANT INSERT(offline_grace_seconds),UPDATE(offline_grace_seconds) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(offline_grace_seconds) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.drain_seconds

GRANT INSERT(drain_seconds),UPDATE(drain_seconds) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(drain_seconds) ON TABLE app.licenses TO usher_register;
GRANT INSERT(drain_seconds),UPDATE(drain_seconds) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(drain_seconds) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.starts_at

GRANT INSERT(starts_at),UPDATE(starts_at) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(starts_at) ON TABLE app.licenses TO usher_register;
GRANT INSERT(starts_at),UPDATE(starts_at) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(starts_at) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.expires_at

GRANT INSERT(expires_at),UPDATE(expires_at) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(expires_at) ON TABLE app.licenses TO usher_register;
GRANT INSERT(expires_at),UPDATE(expires_at) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(expires_at) ON TABLE app.licenses TO usher_trial;
GRANT SELECT(expires_at) ON TABLE app.licenses TO usher_resolver;

-- ACL COLUMN licenses.grace_until

GRANT INSERT(grace_until),UPDATE(grace_until) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(grace_until) ON TABLE app.licenses TO usher_register;
GRANT INSERT(grace_until),UPDATE(grace_until) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(grace_until) ON TABLE app.licenses TO usher_trial;
GRANT SELECT(grace_until) ON TABLE app.licenses TO usher_resolver;

-- ACL COLUMN licenses.updated_at

GRANT UPDATE(updated_at) ON TABLE app.licenses TO usher_admin;
GRANT UPDATE(updated_at) ON TABLE app.licenses TO usher_billing;

-- ACL COLUMN licenses.pool_version

GRANT UPDATE(pool_version) ON TABLE app.licenses TO usher_seats;

-- ACL COLUMN licenses.seat_epoch

GRANT UPDATE(seat_epoch) ON TABLE app.licenses TO usher_pools;

-- ACL COLUMN licenses.lock_stamp

GRANT UPDATE(lock_stamp) ON TABLE app.licenses TO usher_seats;

-- ACL COLUMN licenses.ttl_floor_until

GRANT UPDATE(ttl_floor_until) ON TABLE app.licenses TO usher_seats;

-- ACL COLUMN licenses.borrow_reserve_seats

GRANT INSERT(borrow_reserve_seats),UPDATE(borrow_reserve_seats) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(borrow_reserve_seats) ON TABLE app.licenses TO usher_register;
GRANT INSERT(borrow_reserve_seats),UPDATE(borrow_reserve_seats) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(borrow_reserve_seats) ON TABLE app.licenses TO usher_trial;

-- ACL COLUMN licenses.on_trial

GRANT INSERT(on_trial),UPDATE(on_trial) ON TABLE app.licenses TO usher_admin;
GRANT INSERT(on_trial),UPDATE(on_trial) ON TABLE app.licenses TO usher_billing;
GRANT INSERT(on_trial) ON TABLE app.licenses TO usher_register;
GRANT INSERT(on_trial) ON TABLE app.licenses TO usher_trial;
GRANT SELECT(on_trial) ON TABLE app.licenses TO usher_resolver;

-- ACL TABLE mails

GRANT SELECT ON TABLE app.mails TO usher_deliver;
GRANT DELETE ON TABLE app.mails TO usher_resolver;

-- ACL COLUMN mails.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.mails TO usher_notices;
GRANT SELECT(tenant_id) ON TABLE app.mails TO usher_resolver;

-- ACL COLUMN mails.id

GRANT INSERT(id) ON TABLE app.mails TO usher_notices;
GRANT SELECT(id) ON TABLE app.mails TO usher_resolver;

-- ACL COLUMN mails.kind

GRANT INSERT(kind) ON TABLE app.mails TO usher_notices;

-- ACL COLUMN mails.recipient

GRANT INSERT(recipient) ON TABLE app.mails TO usher_notices;

-- ACL COLUMN mails.key

GRANT INSERT(key) ON TABLE app.mails TO usher_notices;

-- ACL COLUMN mails.data

GRANT INSERT(data) ON TABLE app.mails TO usher_notices;
GRANT UPDATE(data) ON TABLE app.mails TO usher_deliver;

-- ACL COLUMN mails.status

GRANT UPDATE(status) ON TABLE app.mails TO usher_deliver;
GRANT SELECT(status) ON TABLE app.mails TO usher_resolver;

-- ACL COLUMN mails.attempts

GRANT UPDATE(attempts) ON TABLE app.mails TO usher_deliver;

-- ACL COLUMN mails.next_at

GRANT UPDATE(next_at) ON TABLE app.mails TO usher_deliver;
GRANT SELECT(next_at) ON TABLE app.mails TO usher_resolver;

-- ACL COLUMN mails.finished_at

GRANT UPDATE(finished_at) ON TABLE app.mails TO usher_deliver;
GRANT SELECT(finished_at) ON TABLE app.mails TO usher_resolver;

-- ACL COLUMN mails.last_error

GRANT UPDATE(last_error) ON TABLE app.mails TO usher_deliver;

-- ACL TABLE open_sessions

GRANT SELECT ON TABLE app.open_sessions TO usher_pools;
GRANT INSERT,DELETE ON TABLE app.open_sessions TO usher_seats;

-- ACL COLUMN open_sessions.tenant_id

GRANT SELECT(tenant_id) ON TABLE app.open_sessions TO usher_facts;
GRANT SELECT(tenant_id) ON TABLE app.open_sessions TO usher_resolver;
GRANT SELECT(tenant_id) ON TABLE app.open_sessions TO usher_deliver;
GRANT SELECT(tenant_id) ON TABLE app.open_sessions TO usher_usage;
GRANT SELECT(tenant_id) ON TABLE app.open_sessions TO usher_meter;
GRANT SELECT(tenant_id) ON TABLE app.open_sessions TO usher_subscription;

-- ACL COLUMN open_sessions.id

GRANT SELECT(id) ON TABLE app.open_sessions TO usher_deliver;
GRANT SELECT(id) ON TABLE app.open_sessions TO usher_usage;

-- ACL COLUMN open_sessions.license_id

GRANT SELECT(license_id) ON TABLE app.open_sessions TO usher_facts;
GRANT SELECT(license_id) ON TABLE app.open_sessions TO usher_resolver;
GRANT SELECT(license_id) ON TABLE app.open_sessions TO usher_deliver;
GRANT SELECT(license_id) ON TABLE app.open_sessions TO usher_meter;
GRANT SELECT(license_id) ON TABLE app.open_sessions TO usher_subscription;

-- ACL COLUMN open_sessions.seat_no

GRANT SELECT(seat_no) ON TABLE app.open_sessions TO usher_resolver;
GRANT SELECT(seat_no) ON TABLE app.open_sessions TO usher_deliver;
GRANT SELECT(seat_no) ON TABLE app.open_sessions TO usher_meter;
GRANT SELECT(seat_no) ON TABLE app.open_sessions TO usher_subscription;

-- ACL COLUMN open_sessions.fence_epoch

GRANT SELECT(fence_epoch) ON TABLE app.open_sessions TO usher_usage;

-- ACL COLUMN open_sessions.fence_counter

GRANT SELECT(fence_counter) ON TABLE app.open_sessions TO usher_usage;

-- ACL COLUMN open_sessions.overdraft

GRANT SELECT(overdraft) ON TABLE app.open_sessions TO usher_deliver;
GRANT SELECT(overdraft) ON TABLE app.open_sessions TO usher_meter;
GRANT SELECT(overdraft) ON TABLE app.open_sessions TO usher_subscription;

-- ACL COLUMN open_sessions.holder

GRANT SELECT(holder) ON TABLE app.open_sessions TO usher_deliver;

-- ACL COLUMN open_sessions.hostname

GRANT SELECT(hostname) ON TABLE app.open_sessions TO usher_deliver;

-- ACL COLUMN open_sessions.user_name

GRANT SELECT(user_name) ON TABLE app.open_sessions TO usher_deliver;

-- ACL COLUMN open_sessions.instance_id

GRANT SELECT(instance_id) ON TABLE app.open_sessions TO usher_deliver;

-- ACL COLUMN open_sessions.version

GRANT SELECT(version) ON TABLE app.open_sessions TO usher_deliver;
GRANT UPDATE(version) ON TABLE app.open_sessions TO usher_seats;

-- ACL COLUMN open_sessions.acquired_at

GRANT SELECT(acquired_at) ON TABLE app.open_sessions TO usher_deliver;
GRANT SELECT(acquired_at) ON TABLE app.open_sessions TO usher_resolver;
GRANT SELECT(acquired_at) ON TABLE app.open_sessions TO usher_meter;
GRANT SELECT(acquired_at) ON TABLE app.open_sessions TO usher_subscription;

-- ACL COLUMN open_sessions.borrowed_until

GRANT UPDATE(borrowed_until) ON TABLE app.open_sessions TO usher_borrow;
GRANT UPDATE(borrowed_until) ON TABLE app.open_sessions TO usher_admin;
GRANT UPDATE(borrowed_until) ON TABLE app.open_sessions TO usher_sweep;

-- ACL COLUMN open_sessions.evicted_at

GRANT UPDATE(evicted_at) ON TABLE app.open_sessions TO usher_admin;
GRANT UPDATE(evicted_at) ON TABLE app.open_sessions TO usher_sweep;
GRANT SELECT(evicted_at) ON TABLE app.open_sessions TO usher_deliver;
GRANT SELECT(evicted_at) ON TABLE app.open_sessions TO usher_resolver;
GRANT SELECT(evicted_at) ON TABLE app.open_sessions TO usher_usage;
GRANT UPDATE(evicted_at) ON TABLE app.open_sessions TO usher_incident;
GRANT SELECT(evicted_at) ON TABLE app.open_sessions TO usher_meter;
GRANT SELECT(evicted_at) ON TABLE app.open_sessions TO usher_subscription;

-- ACL COLUMN open_sessions.evict_reason

GRANT UPDATE(evict_reason) ON TABLE app.open_sessions TO usher_admin;
GRANT UPDATE(evict_reason) ON TABLE app.open_sessions TO usher_sweep;
GRANT SELECT(evict_reason) ON TABLE app.open_sessions TO usher_deliver;
GRANT SELECT(evict_reason) ON TABLE app.open_sessions TO usher_usage;
GRANT UPDATE(evict_reason) ON TABLE app.open_sessions TO usher_incident;

-- ACL COLUMN open_sessions.evicted_by

GRANT UPDATE(evicted_by) ON TABLE app.open_sessions TO usher_admin;
GRANT UPDATE(evicted_by) ON TABLE app.open_sessions TO usher_sweep;
GRANT SELECT(evicted_by) ON TABLE app.open_sessions TO usher_deliver;
GRANT SELECT(evicted_by) ON TABLE app.open_sessions TO usher_usage;
GRANT UPDATE(evicted_by) ON TABLE app.open_sessions TO usher_incident;

-- ACL TABLE outbox

GRANT SELECT,DELETE ON TABLE app.outbox TO usher_seats;

-- ACL COLUMN outbox.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.outbox TO usher_seats;
GRANT SELECT(tenant_id) ON TABLE app.outbox TO usher_resolver;

-- ACL COLUMN outbox.id

GRANT INSERT(id) ON TABLE app.outbox TO usher_seats;

-- ACL COLUMN outbox.topic

GRANT INSERT(topic) ON TABLE app.outbox TO usher_seats;
GRANT SELECT(topic) ON TABLE app.outbox TO usher_resolver;

-- ACL COLUMN outbox.subject_id

GRANT INSERT(subject_id) ON TABLE app.outbox TO usher_seats;
GRANT SELECT(subject_id) ON TABLE app.outbox TO usher_resolver;

-- ACL COLUMN outbox.created_at

GRANT SELECT(created_at) ON TABLE app.outbox TO usher_resolver;

-- ACL TABLE overdraft_counts

GRANT SELECT,INSERT,DELETE ON TABLE app.overdraft_counts TO usher_meter;
GRANT SELECT ON TABLE app.overdraft_counts TO usher_resolver;
GRANT SELECT,INSERT,DELETE ON TABLE app.overdraft_counts TO usher_subscription;

-- ACL TABLE plan_metrics

GRANT SELECT ON TABLE app.plan_metrics TO usher_facts;
GRANT SELECT,INSERT,DELETE ON TABLE app.plan_metrics TO usher_operator;

-- ACL COLUMN plan_metrics.quota

GRANT UPDATE(quota) ON TABLE app.plan_metrics TO usher_operator;

-- ACL COLUMN plan_metrics.cap

GRANT UPDATE(cap) ON TABLE app.plan_metrics TO usher_operator;

-- ACL COLUMN plan_metrics.cap_type

GRANT UPDATE(cap_type) ON TABLE app.plan_metrics TO usher_operator;

-- ACL TABLE plans

GRANT SELECT ON TABLE app.plans TO usher_facts;
GRANT SELECT,INSERT ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.product_code

GRANT UPDATE(product_code) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.name

GRANT UPDATE(name) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.max_seats

GRANT UPDATE(max_seats) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.overdraft_seats

GRANT UPDATE(overdraft_seats) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.ttl_seconds

GRANT UPDATE(ttl_seconds) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.seat_per

GRANT UPDATE(seat_per) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.features

GRANT UPDATE(features) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.versions

GRANT UPDATE(versions) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.max_devices

GRANT UPDATE(max_devices) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.offline_grace_seconds

GRANT UPDATE(offline_grace_seconds) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.drain_seconds

GRANT UPDATE(drain_seconds) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.updated_at

GRANT UPDATE(updated_at) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.borrow_reserve_seats

GRANT UPDATE(borrow_reserve_seats) ON TABLE app.plans TO usher_operator;

-- ACL COLUMN plans.trial_falls_to

GRANT UPDATE(trial_falls_to) ON TABLE app.plans TO usher_operator;

-- ACL TABLE products

GRANT SELECT ON TABLE app.products TO usher_facts;
GRANT SELECT,INSERT ON TABLE app.products TO usher_operator;

-- ACL COLUMN products.name

GRANT UPDATE(name) ON TABLE app.products TO usher_operator;

-- ACL COLUMN products.updated_at

GRANT UPDATE(updated_at) ON TABLE app.products TO usher_operator;

-- ACL TABLE revocation_lists

GRANT SELECT,INSERT ON TABLE app.revocation_lists TO usher_keys;

-- ACL COLUMN revocation_lists.version

GRANT SELECT(version) ON TABLE app.revocation_lists TO usher_signers;

-- ACL COLUMN revocations.id

GRANT SELECT(id) ON TABLE app.revocations TO usher_keys;

-- ACL COLUMN revocations.kind

GRANT SELECT(kind) ON TABLE app.revocations TO usher_keys;

-- ACL COLUMN revocations.subject

GRANT SELECT(subject) ON TABLE app.revocations TO usher_keys;

-- ACL COLUMN revocations.license_id

GRANT SELECT(license_id) ON TABLE app.revocations TO usher_keys;

-- ACL COLUMN revocations.ends_at

GRANT SELECT(ends_at) ON TABLE app.revocations TO usher_keys;

-- ACL COLUMN rotation_turn.run

GRANT SELECT(run),UPDATE(run) ON TABLE app.rotation_turn TO usher_rotate;

-- ACL COLUMN rotation_turn.ends

GRANT SELECT(ends),UPDATE(ends) ON TABLE app.rotation_turn TO usher_rotate;

-- ACL TABLE seat_hours

GRANT SELECT ON TABLE app.seat_hours TO usher_admin;
GRANT SELECT,INSERT ON TABLE app.seat_hours TO usher_sweep;

-- ACL COLUMN seat_hours.tenant_id

GRANT SELECT(tenant_id) ON TABLE app.seat_hours TO usher_deliver;
GRANT SELECT(tenant_id) ON TABLE app.seat_hours TO usher_resolver;

-- ACL COLUMN seat_hours.license_id

GRANT SELECT(license_id) ON TABLE app.seat_hours TO usher_deliver;

-- ACL COLUMN seat_hours.hour

GRANT SELECT(hour) ON TABLE app.seat_hours TO usher_deliver;

-- ACL COLUMN seat_hours.peak

GRANT UPDATE(peak) ON TABLE app.seat_hours TO usher_sweep;

-- ACL COLUMN seat_hours.denials

GRANT UPDATE(denials) ON TABLE app.seat_hours TO usher_sweep;
GRANT SELECT(denials) ON TABLE app.seat_hours TO usher_deliver;
GRANT SELECT(denials) ON TABLE app.seat_hours TO usher_resolver;

-- ACL COLUMN seat_hours.seats_needed

GRANT UPDATE(seats_needed) ON TABLE app.seat_hours TO usher_sweep;

-- ACL COLUMN seat_hours.denials_told

GRANT SELECT(denials_told),UPDATE(denials_told) ON TABLE app.seat_hours TO usher_deliver;
GRANT SELECT(denials_told) ON TABLE app.seat_hours TO usher_resolver;

-- ACL COLUMN signing_keys.kid

GRANT SELECT(kid) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(kid) ON TABLE app.signing_keys TO usher_admin;
GRANT SELECT(kid) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(kid),INSERT(kid) ON TABLE app.signing_keys TO usher_rotate;
GRANT SELECT(kid) ON TABLE app.signing_keys TO usher_checkpoints;

-- ACL COLUMN signing_keys.kind

GRANT SELECT(kind) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(kind) ON TABLE app.signing_keys TO usher_admin;
GRANT SELECT(kind) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(kind),INSERT(kind) ON TABLE app.signing_keys TO usher_rotate;
GRANT SELECT(kind) ON TABLE app.signing_keys TO usher_checkpoints;

-- ACL COLUMN signing_keys.public_key

GRANT SELECT(public_key) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(public_key) ON TABLE app.signing_keys TO usher_admin;
GRANT SELECT(public_key) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(public_key),INSERT(public_key) ON TABLE app.signing_keys TO usher_rotate;
GRANT SELECT(public_key) ON TABLE app.signing_keys TO usher_checkpoints;

-- ACL COLUMN signing_keys.certificate

GRANT SELECT(certificate) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(certificate) ON TABLE app.signing_keys TO usher_admin;
GRANT SELECT(certificate) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(certificate),INSERT(certificate) ON TABLE app.signing_keys TO usher_rotate;
GRANT SELECT(certificate) ON TABLE app.signing_keys TO usher_checkpoints;

-- ACL COLUMN signing_keys.issuer_kid

GRANT SELECT(issuer_kid) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(issuer_kid) ON TABLE app.signing_keys TO usher_admin;
GRANT SELECT(issuer_kid) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(issuer_kid),INSERT(issuer_kid) ON TABLE app.signing_keys TO usher_rotate;
GRANT SELECT(issuer_kid) ON TABLE app.signing_keys TO usher_checkpoints;

-- ACL COLUMN signing_keys.kms_version

GRANT SELECT(kms_version) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(kms_version) ON TABLE app.signing_keys TO usher_admin;
GRANT SELECT(kms_version) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(kms_version),INSERT(kms_version) ON TABLE app.signing_keys TO usher_rotate;
GRANT SELECT(kms_version) ON TABLE app.signing_keys TO usher_checkpoints;

-- ACL COLUMN signing_keys.wrapped_key

GRANT SELECT(wrapped_key) ON TABLE app.signing_keys TO usher_signers;
GRANT INSERT(wrapped_key),UPDATE(wrapped_key) ON TABLE app.signing_keys TO usher_rotate;

-- ACL COLUMN signing_keys.not_before

GRANT SELECT(not_before) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(not_before) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(not_before),INSERT(not_before) ON TABLE app.signing_keys TO usher_rotate;

-- ACL COLUMN signing_keys.not_after

GRANT SELECT(not_after) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(not_after) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(not_after),INSERT(not_after) ON TABLE app.signing_keys TO usher_rotate;

-- ACL COLUMN signing_keys.created_at

GRANT SELECT(created_at) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(created_at),INSERT(created_at) ON TABLE app.signing_keys TO usher_rotate;

-- ACL COLUMN signing_keys.published_at

GRANT SELECT(published_at) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(published_at) ON TABLE app.signing_keys TO usher_admin;
GRANT SELECT(published_at) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(published_at),INSERT(published_at),UPDATE(published_at) ON TABLE app.signing_keys TO usher_rotate;
GRANT SELECT(published_at) ON TABLE app.signing_keys TO usher_checkpoints;

-- ACL COLUMN signing_keys.activated_at

GRANT SELECT(activated_at) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(activated_at) ON TABLE app.signing_keys TO usher_admin;
GRANT SELECT(activated_at) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(activated_at),INSERT(activated_at),UPDATE(activated_at) ON TABLE app.signing_keys TO usher_rotate;
GRANT SELECT(activated_at) ON TABLE app.signing_keys TO usher_checkpoints;

-- ACL COLUMN signing_keys.retired_at

GRANT SELECT(retired_at) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(retired_at) ON TABLE app.signing_keys TO usher_admin;
GRANT SELECT(retired_at) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(retired_at),UPDATE(retired_at) ON TABLE app.signing_keys TO usher_rotate;
GRANT SELECT(retired_at) ON TABLE app.signing_keys TO usher_checkpoints;

-- ACL COLUMN signing_keys.disabled_at

GRANT SELECT(disabled_at) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(disabled_at),UPDATE(disabled_at) ON TABLE app.signing_keys TO usher_rotate;

-- ACL COLUMN signing_keys.destroyed_at

GRANT SELECT(destroyed_at) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(destroyed_at),UPDATE(destroyed_at) ON TABLE app.signing_keys TO usher_rotate;

-- ACL COLUMN signing_keys.revoked_at

GRANT SELECT(revoked_at) ON TABLE app.signing_keys TO usher_signers;
GRANT SELECT(revoked_at) ON TABLE app.signing_keys TO usher_admin;
GRANT SELECT(revoked_at) ON TABLE app.signing_keys TO usher_keys;
GRANT SELECT(revoked_at),UPDATE(revoked_at) ON TABLE app.signing_keys TO usher_rotate;
GRANT SELECT(revoked_at) ON TABLE app.signing_keys TO usher_checkpoints;

-- ACL COLUMN signing_keys.revoked_reason

GRANT SELECT(revoked_reason),UPDATE(revoked_reason) ON TABLE app.signing_keys TO usher_rotate;

-- ACL COLUMN signing_keys.revoked_by

GRANT SELECT(revoked_by),UPDATE(revoked_by) ON TABLE app.signing_keys TO usher_rotate;

-- ACL TABLE stripe_events

GRANT SELECT ON TABLE app.stripe_events TO usher_webhook;
GRANT SELECT ON TABLE app.stripe_events TO usher_expire;
GRANT DELETE ON TABLE app.stripe_events TO usher_resolver;

-- ACL COLUMN stripe_events.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.stripe_events TO usher_webhook;
GRANT SELECT(tenant_id) ON TABLE app.stripe_events TO usher_resolver;
GRANT INSERT(tenant_id) ON TABLE app.stripe_events TO usher_expire;

-- ACL COLUMN stripe_events.id

GRANT INSERT(id) ON TABLE app.stripe_events TO usher_webhook;
GRANT SELECT(id) ON TABLE app.stripe_events TO usher_resolver;
GRANT INSERT(id) ON TABLE app.stripe_events TO usher_expire;

-- ACL COLUMN stripe_events.type

GRANT INSERT(type) ON TABLE app.stripe_events TO usher_webhook;
GRANT INSERT(type) ON TABLE app.stripe_events TO usher_expire;

-- ACL COLUMN stripe_events.api_version

GRANT INSERT(api_version) ON TABLE app.stripe_events TO usher_webhook;
GRANT INSERT(api_version) ON TABLE app.stripe_events TO usher_expire;

-- ACL COLUMN stripe_events.object_id

GRANT INSERT(object_id) ON TABLE app.stripe_events TO usher_webhook;
GRANT INSERT(object_id) ON TABLE app.stripe_events TO usher_expire;

-- ACL COLUMN stripe_events.subscription_id

GRANT INSERT(subscription_id),UPDATE(subscription_id) ON TABLE app.stripe_events TO usher_webhook;
GRANT INSERT(subscription_id),UPDATE(subscription_id) ON TABLE app.stripe_events TO usher_expire;

-- ACL COLUMN stripe_events.status

GRANT INSERT(status),UPDATE(status) ON TABLE app.stripe_events TO usher_webhook;
GRANT INSERT(status),UPDATE(status) ON TABLE app.stripe_events TO usher_expire;
GRANT SELECT(status) ON TABLE app.stripe_events TO usher_resolver;

-- ACL COLUMN stripe_events.attempts

GRANT UPDATE(attempts) ON TABLE app.stripe_events TO usher_webhook;
GRANT UPDATE(attempts) ON TABLE app.stripe_events TO usher_expire;
GRANT SELECT(attempts) ON TABLE app.stripe_events TO usher_resolver;

-- ACL COLUMN stripe_events.error

GRANT INSERT(error),UPDATE(error) ON TABLE app.stripe_events TO usher_webhook;
GRANT INSERT(error),UPDATE(error) ON TABLE app.stripe_events TO usher_expire;

-- ACL COLUMN stripe_events.created_at

GRANT INSERT(created_at) ON TABLE app.stripe_events TO usher_webhook;
GRANT INSERT(created_at) ON TABLE app.stripe_events TO usher_expire;

-- ACL COLUMN stripe_events.received_at

GRANT SELECT(received_at) ON TABLE app.stripe_events TO usher_resolver;

-- ACL COLUMN stripe_events.handled_at

GRANT UPDATE(handled_at) ON TABLE app.stripe_events TO usher_webhook;
GRANT UPDATE(handled_at) ON TABLE app.stripe_events TO usher_expire;
GRANT SELECT(handled_at) ON TABLE app.stripe_events TO usher_resolver;

-- ACL TABLE subscriptions

GRANT SELECT ON TABLE app.subscriptions TO usher_checkout;
GRANT SELECT ON TABLE app.subscriptions TO usher_billing;

-- ACL COLUMN subscriptions.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(tenant_id) ON TABLE app.subscriptions TO usher_resolver;
GRANT SELECT(tenant_id) ON TABLE app.subscriptions TO usher_usage;
GRANT SELECT(tenant_id) ON TABLE app.subscriptions TO usher_meter;

-- ACL COLUMN subscriptions.id

GRANT INSERT(id) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(id) ON TABLE app.subscriptions TO usher_resolver;
GRANT SELECT(id) ON TABLE app.subscriptions TO usher_usage;
GRANT SELECT(id) ON TABLE app.subscriptions TO usher_meter;

-- ACL COLUMN subscriptions.customer_id

GRANT INSERT(customer_id) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(customer_id) ON TABLE app.subscriptions TO usher_meter;

-- ACL COLUMN subscriptions.license_id

GRANT INSERT(license_id),UPDATE(license_id) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(license_id) ON TABLE app.subscriptions TO usher_resolver;
GRANT SELECT(license_id) ON TABLE app.subscriptions TO usher_usage;
GRANT SELECT(license_id) ON TABLE app.subscriptions TO usher_meter;

-- ACL COLUMN subscriptions.status

GRANT INSERT(status),UPDATE(status) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(status) ON TABLE app.subscriptions TO usher_usage;
GRANT SELECT(status) ON TABLE app.subscriptions TO usher_meter;

-- ACL COLUMN subscriptions.plan_code

GRANT INSERT(plan_code),UPDATE(plan_code) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(plan_code) ON TABLE app.subscriptions TO usher_meter;

-- ACL COLUMN subscriptions.cycle

GRANT INSERT(cycle),UPDATE(cycle) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(cycle) ON TABLE app.subscriptions TO usher_resolver;
GRANT SELECT(cycle) ON TABLE app.subscriptions TO usher_meter;

-- ACL COLUMN subscriptions.seats

GRANT INSERT(seats),UPDATE(seats) ON TABLE app.subscriptions TO usher_billing;

-- ACL COLUMN subscriptions.next_seats

GRANT INSERT(next_seats),UPDATE(next_seats) ON TABLE app.subscriptions TO usher_billing;

-- ACL COLUMN subscriptions.period_start

GRANT INSERT(period_start),UPDATE(period_start) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(period_start) ON TABLE app.subscriptions TO usher_usage;
GRANT SELECT(period_start) ON TABLE app.subscriptions TO usher_meter;

-- ACL COLUMN subscriptions.period_end

GRANT INSERT(period_end),UPDATE(period_end) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(period_end) ON TABLE app.subscriptions TO usher_usage;

-- ACL COLUMN subscriptions.paid_through

GRANT INSERT(paid_through),UPDATE(paid_through) ON TABLE app.subscriptions TO usher_billing;

-- ACL COLUMN subscriptions.grace_until

GRANT INSERT(grace_until),UPDATE(grace_until) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(grace_until) ON TABLE app.subscriptions TO usher_resolver;

-- ACL COLUMN subscriptions.trouble

GRANT INSERT(trouble),UPDATE(trouble) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(trouble) ON TABLE app.subscriptions TO usher_resolver;

-- ACL COLUMN subscriptions.cancel_at_period_end

GRANT INSERT(cancel_at_period_end),UPDATE(cancel_at_period_end) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(cancel_at_period_end) ON TABLE app.subscriptions TO usher_resolver;

-- ACL COLUMN subscriptions.canceled_at

GRANT INSERT(canceled_at),UPDATE(canceled_at) ON TABLE app.subscriptions TO usher_billing;

-- ACL COLUMN subscriptions.ended_at

GRANT INSERT(ended_at),UPDATE(ended_at) ON TABLE app.subscriptions TO usher_billing;
GRANT SELECT(ended_at) ON TABLE app.subscriptions TO usher_resolver;
GRANT SELECT(ended_at) ON TABLE app.subscriptions TO usher_meter;

-- ACL COLUMN subscriptions.cancel_reason

GRANT UPDATE(cancel_reason) ON TABLE app.subscriptions TO usher_subscription;

-- ACL COLUMN subscriptions.cancel_feedback

GRANT UPDATE(cancel_feedback) ON TABLE app.subscriptions TO usher_subscription;

-- ACL COLUMN subscriptions.created_at

GRANT SELECT(created_at) ON TABLE app.subscriptions TO usher_usage;
GRANT SELECT(created_at) ON TABLE app.subscriptions TO usher_meter;

-- ACL COLUMN subscriptions.updated_at

GRANT UPDATE(updated_at) ON TABLE app.subscriptions TO usher_billing;

-- ACL COLUMN subscriptions.checked_at

GRANT UPDATE(checked_at) ON TABLE app.subscriptions TO usher_expire;
GRANT SELECT(checked_at) ON TABLE app.subscriptions TO usher_resolver;

-- ACL TABLE sweep_cursor

GRANT SELECT ON TABLE app.sweep_cursor TO usher_sweep;

-- ACL COLUMN sweep_cursor.after_tenant

GRANT UPDATE(after_tenant) ON TABLE app.sweep_cursor TO usher_sweep;

-- ACL COLUMN sweep_cursor.after_license

GRANT UPDATE(after_license) ON TABLE app.sweep_cursor TO usher_sweep;

-- ACL TABLE tenants

GRANT SELECT ON TABLE app.tenants TO usher_facts;
GRANT SELECT ON TABLE app.tenants TO usher_pools;
GRANT SELECT ON TABLE app.tenants TO usher_operator;
GRANT SELECT ON TABLE app.tenants TO usher_deliver;

-- ACL COLUMN tenants.id

GRANT INSERT(id) ON TABLE app.tenants TO usher_operator;
GRANT SELECT(id) ON TABLE app.tenants TO usher_resolver;
GRANT SELECT(id) ON TABLE app.tenants TO usher_rotate;
GRANT INSERT(id) ON TABLE app.tenants TO usher_register;

-- ACL COLUMN tenants.kind

GRANT INSERT(kind) ON TABLE app.tenants TO usher_operator;
GRANT SELECT(kind) ON TABLE app.tenants TO usher_resolver;
GRANT SELECT(kind) ON TABLE app.tenants TO usher_rotate;

-- ACL COLUMN tenants.name

GRANT INSERT(name),UPDATE(name) ON TABLE app.tenants TO usher_operator;
GRANT SELECT(name) ON TABLE app.tenants TO usher_resolver;
GRANT INSERT(name) ON TABLE app.tenants TO usher_register;

-- ACL COLUMN tenants.slug

GRANT INSERT(slug),UPDATE(slug) ON TABLE app.tenants TO usher_operator;
GRANT SELECT(slug) ON TABLE app.tenants TO usher_resolver;
GRANT INSERT(slug) ON TABLE app.tenants TO usher_register;

-- ACL COLUMN tenants.status

GRANT UPDATE(status) ON TABLE app.tenants TO usher_operator;
GRANT SELECT(status) ON TABLE app.tenants TO usher_resolver;
GRANT SELECT(status) ON TABLE app.tenants TO usher_rotate;
GRANT UPDATE(status) ON TABLE app.tenants TO usher_incident;

-- ACL COLUMN tenants.status_reason

GRANT UPDATE(status_reason) ON TABLE app.tenants TO usher_operator;
GRANT SELECT(status_reason) ON TABLE app.tenants TO usher_resolver;
GRANT UPDATE(status_reason) ON TABLE app.tenants TO usher_incident;

-- ACL COLUMN tenants.status_by

GRANT UPDATE(status_by) ON TABLE app.tenants TO usher_operator;
GRANT SELECT(status_by) ON TABLE app.tenants TO usher_resolver;
GRANT UPDATE(status_by) ON TABLE app.tenants TO usher_incident;

-- ACL COLUMN tenants.created_at

GRANT SELECT(created_at) ON TABLE app.tenants TO usher_resolver;

-- ACL COLUMN tenants.updated_at

GRANT UPDATE(updated_at) ON TABLE app.tenants TO usher_operator;
GRANT SELECT(updated_at) ON TABLE app.tenants TO usher_resolver;
GRANT UPDATE(updated_at) ON TABLE app.tenants TO usher_incident;

-- ACL COLUMN tenants.trial_started_at

GRANT UPDATE(trial_started_at) ON TABLE app.tenants TO usher_trial;

-- ACL TABLE trials

GRANT SELECT ON TABLE app.trials TO usher_trial;

-- ACL COLUMN trials.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.trials TO usher_trial;
GRANT SELECT(tenant_id) ON TABLE app.trials TO usher_billing;

-- ACL COLUMN trials.license_id

GRANT INSERT(license_id) ON TABLE app.trials TO usher_trial;
GRANT SELECT(license_id) ON TABLE app.trials TO usher_billing;

-- ACL COLUMN trials.product_code

GRANT INSERT(product_code) ON TABLE app.trials TO usher_trial;
GRANT SELECT(product_code) ON TABLE app.trials TO usher_billing;

-- ACL COLUMN trials.falls_to

GRANT INSERT(falls_to) ON TABLE app.trials TO usher_trial;
GRANT SELECT(falls_to) ON TABLE app.trials TO usher_billing;

-- ACL COLUMN trials.email_hash

GRANT INSERT(email_hash) ON TABLE app.trials TO usher_trial;

-- ACL COLUMN trials.hardware_hash

GRANT INSERT(hardware_hash) ON TABLE app.trials TO usher_trial;

-- ACL COLUMN trials.started_at

GRANT SELECT(started_at) ON TABLE app.trials TO usher_billing;

-- ACL TABLE usage_events

GRANT DELETE ON TABLE app.usage_events TO usher_resolver;

-- ACL COLUMN usage_events.tenant_id

GRANT SELECT(tenant_id),INSERT(tenant_id) ON TABLE app.usage_events TO usher_usage;
GRANT SELECT(tenant_id) ON TABLE app.usage_events TO usher_resolver;

-- ACL COLUMN usage_events.id

GRANT SELECT(id),INSERT(id) ON TABLE app.usage_events TO usher_usage;
GRANT SELECT(id) ON TABLE app.usage_events TO usher_resolver;

-- ACL COLUMN usage_events.license_id

GRANT INSERT(license_id) ON TABLE app.usage_events TO usher_usage;

-- ACL COLUMN usage_events.metric

GRANT SELECT(metric),INSERT(metric) ON TABLE app.usage_events TO usher_usage;

-- ACL COLUMN usage_events.quantity

GRANT SELECT(quantity),INSERT(quantity) ON TABLE app.usage_events TO usher_usage;

-- ACL COLUMN usage_events.occurred_at

GRANT SELECT(occurred_at),INSERT(occurred_at) ON TABLE app.usage_events TO usher_usage;

-- ACL COLUMN usage_events.recorded_at

GRANT SELECT(recorded_at) ON TABLE app.usage_events TO usher_resolver;

-- ACL COLUMN usage_events.session_id

GRANT INSERT(session_id) ON TABLE app.usage_events TO usher_usage;

-- ACL COLUMN usage_events.api_key_id

GRANT INSERT(api_key_id) ON TABLE app.usage_events TO usher_usage;

-- ACL TABLE usage_hours

GRANT SELECT ON TABLE app.usage_hours TO usher_usage;
GRANT SELECT ON TABLE app.usage_hours TO usher_meter;
GRANT SELECT ON TABLE app.usage_hours TO usher_subscription;

-- ACL COLUMN usage_hours.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.usage_hours TO usher_usage;
GRANT SELECT(tenant_id) ON TABLE app.usage_hours TO usher_resolver;
GRANT INSERT(tenant_id) ON TABLE app.usage_hours TO usher_meter;
GRANT INSERT(tenant_id) ON TABLE app.usage_hours TO usher_subscription;

-- ACL COLUMN usage_hours.license_id

GRANT INSERT(license_id) ON TABLE app.usage_hours TO usher_usage;
GRANT INSERT(license_id) ON TABLE app.usage_hours TO usher_meter;
GRANT INSERT(license_id) ON TABLE app.usage_hours TO usher_subscription;

-- ACL COLUMN usage_hours.metric

GRANT INSERT(metric) ON TABLE app.usage_hours TO usher_usage;
GRANT INSERT(metric) ON TABLE app.usage_hours TO usher_meter;
GRANT INSERT(metric) ON TABLE app.usage_hours TO usher_subscription;

-- ACL COLUMN usage_hours.hour

GRANT INSERT(hour) ON TABLE app.usage_hours TO usher_usage;
GRANT SELECT(hour) ON TABLE app.usage_hours TO usher_resolver;
GRANT INSERT(hour) ON TABLE app.usage_hours TO usher_meter;
GRANT INSERT(hour) ON TABLE app.usage_hours TO usher_subscription;

-- ACL COLUMN usage_hours.quantity

GRANT INSERT(quantity),UPDATE(quantity) ON TABLE app.usage_hours TO usher_usage;
GRANT SELECT(quantity) ON TABLE app.usage_hours TO usher_resolver;
GRANT INSERT(quantity),UPDATE(quantity) ON TABLE app.usage_hours TO usher_meter;
GRANT INSERT(quantity),UPDATE(quantity) ON TABLE app.usage_hours TO usher_subscription;

-- ACL COLUMN usage_hours.settled

GRANT UPDATE(settled) ON TABLE app.usage_hours TO usher_meter;
GRANT SELECT(settled) ON TABLE app.usage_hours TO usher_resolver;
GRANT UPDATE(settled) ON TABLE app.usage_hours TO usher_subscription;

-- ACL TABLE usage_months

GRANT SELECT ON TABLE app.usage_months TO usher_usage;
GRANT SELECT ON TABLE app.usage_months TO usher_meter;
GRANT SELECT ON TABLE app.usage_months TO usher_subscription;

-- ACL COLUMN usage_months.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.usage_months TO usher_usage;
GRANT INSERT(tenant_id) ON TABLE app.usage_months TO usher_meter;
GRANT INSERT(tenant_id) ON TABLE app.usage_months TO usher_subscription;

-- ACL COLUMN usage_months.license_id

GRANT INSERT(license_id) ON TABLE app.usage_months TO usher_usage;
GRANT INSERT(license_id) ON TABLE app.usage_months TO usher_meter;
GRANT INSERT(license_id) ON TABLE app.usage_months TO usher_subscription;

-- ACL COLUMN usage_months.metric

GRANT INSERT(metric) ON TABLE app.usage_months TO usher_usage;
GRANT INSERT(metric) ON TABLE app.usage_months TO usher_meter;
GRANT INSERT(metric) ON TABLE app.usage_months TO usher_subscription;

-- ACL COLUMN usage_months.month

GRANT INSERT(month) ON TABLE app.usage_months TO usher_usage;
GRANT INSERT(month) ON TABLE app.usage_months TO usher_meter;
GRANT INSERT(month) ON TABLE app.usage_months TO usher_subscription;

-- ACL COLUMN usage_months.quantity

GRANT UPDATE(quantity) ON TABLE app.usage_months TO usher_usage;
GRANT INSERT(quantity),UPDATE(quantity) ON TABLE app.usage_months TO usher_meter;
GRANT INSERT(quantity),UPDATE(quantity) ON TABLE app.usage_months TO usher_subscription;

-- ACL COLUMN usage_months.warned

GRANT UPDATE(warned) ON TABLE app.usage_months TO usher_usage;

-- ACL TABLE usage_reports

GRANT SELECT ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(tenant_id) ON TABLE app.usage_reports TO usher_usage;
GRANT SELECT(tenant_id) ON TABLE app.usage_reports TO usher_resolver;
GRANT SELECT(tenant_id) ON TABLE app.usage_reports TO usher_expire;
GRANT INSERT(tenant_id) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.id

GRANT INSERT(id) ON TABLE app.usage_reports TO usher_meter;
GRANT INSERT(id) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.license_id

GRANT INSERT(license_id) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(license_id) ON TABLE app.usage_reports TO usher_usage;
GRANT SELECT(license_id) ON TABLE app.usage_reports TO usher_expire;
GRANT INSERT(license_id) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.metric

GRANT INSERT(metric) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(metric) ON TABLE app.usage_reports TO usher_usage;
GRANT INSERT(metric) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.hour

GRANT INSERT(hour) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(hour) ON TABLE app.usage_reports TO usher_usage;
GRANT SELECT(hour) ON TABLE app.usage_reports TO usher_expire;
GRANT INSERT(hour) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.quantity

GRANT INSERT(quantity) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(quantity) ON TABLE app.usage_reports TO usher_usage;
GRANT SELECT(quantity) ON TABLE app.usage_reports TO usher_expire;
GRANT INSERT(quantity) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.customer

GRANT INSERT(customer) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(customer) ON TABLE app.usage_reports TO usher_expire;
GRANT INSERT(customer) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.event_name

GRANT INSERT(event_name) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(event_name) ON TABLE app.usage_reports TO usher_expire;
GRANT INSERT(event_name) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.status

GRANT UPDATE(status) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(status) ON TABLE app.usage_reports TO usher_usage;
GRANT SELECT(status) ON TABLE app.usage_reports TO usher_resolver;
GRANT SELECT(status) ON TABLE app.usage_reports TO usher_expire;
GRANT UPDATE(status) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.attempts

GRANT UPDATE(attempts) ON TABLE app.usage_reports TO usher_meter;
GRANT UPDATE(attempts) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.next_at

GRANT UPDATE(next_at) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(next_at) ON TABLE app.usage_reports TO usher_resolver;
GRANT UPDATE(next_at) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.sent_at

GRANT UPDATE(sent_at) ON TABLE app.usage_reports TO usher_meter;
GRANT UPDATE(sent_at) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.finished_at

GRANT UPDATE(finished_at) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(finished_at) ON TABLE app.usage_reports TO usher_expire;
GRANT UPDATE(finished_at) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.error

GRANT UPDATE(error) ON TABLE app.usage_reports TO usher_meter;
GRANT UPDATE(error) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.subscription_id

GRANT INSERT(subscription_id) ON TABLE app.usage_reports TO usher_meter;
GRANT SELECT(subscription_id) ON TABLE app.usage_reports TO usher_expire;
GRANT INSERT(subscription_id) ON TABLE app.usage_reports TO usher_subscription;

-- ACL COLUMN usage_reports.told_at

GRANT UPDATE(told_at) ON TABLE app.usage_reports TO usher_meter;
GRANT UPDATE(told_at) ON TABLE app.usage_reports TO usher_subscription;
GRANT SELECT(told_at) ON TABLE app.usage_reports TO usher_expire;

-- ACL COLUMN users.tenant_id

GRANT SELECT(tenant_id),INSERT(tenant_id) ON TABLE app.users TO usher_admin;
GRANT SELECT(tenant_id),INSERT(tenant_id) ON TABLE app.users TO usher_register;
GRANT SELECT(tenant_id) ON TABLE app.users TO usher_resolver;
GRANT SELECT(tenant_id) ON TABLE app.users TO usher_deliver;
GRANT SELECT(tenant_id) ON TABLE app.users TO usher_operator;
GRANT SELECT(tenant_id) ON TABLE app.users TO usher_checkout;
GRANT SELECT(tenant_id) ON TABLE app.users TO usher_subscription;
GRANT SELECT(tenant_id) ON TABLE app.users TO usher_webhook;
GRANT SELECT(tenant_id) ON TABLE app.users TO usher_trial;
GRANT SELECT(tenant_id) ON TABLE app.users TO usher_expire;
GRANT SELECT(tenant_id) ON TABLE app.users TO usher_usage;
GRANT SELECT(tenant_id) ON TABLE app.users TO usher_incident;

-- ACL COLUMN users.id

GRANT SELECT(id),INSERT(id) ON TABLE app.users TO usher_admin;
GRANT SELECT(id),INSERT(id) ON TABLE app.users TO usher_register;
GRANT SELECT(id) ON TABLE app.users TO usher_resolver;
GRANT SELECT(id) ON TABLE app.users TO usher_deliver;
GRANT SELECT(id) ON TABLE app.users TO usher_operator;
GRANT SELECT(id) ON TABLE app.users TO usher_checkout;
GRANT SELECT(id) ON TABLE app.users TO usher_subscription;
GRANT SELECT(id) ON TABLE app.users TO usher_webhook;
GRANT SELECT(id) ON TABLE app.users TO usher_trial;
GRANT SELECT(id) ON TABLE app.users TO usher_expire;
GRANT SELECT(id) ON TABLE app.users TO usher_usage;
GRANT SELECT(id) ON TABLE app.users TO usher_incident;

-- ACL COLUMN users.email

GRANT SELECT(email),INSERT(email) ON TABLE app.users TO usher_admin;
GRANT SELECT(email),INSERT(email) ON TABLE app.users TO usher_register;
GRANT SELECT(email) ON TABLE app.users TO usher_deliver;
GRANT SELECT(email) ON TABLE app.users TO usher_operator;
GRANT SELECT(email) ON TABLE app.users TO usher_checkout;
GRANT SELECT(email) ON TABLE app.users TO usher_subscription;
GRANT SELECT(email) ON TABLE app.users TO usher_webhook;
GRANT SELECT(email) ON TABLE app.users TO usher_trial;
GRANT SELECT(email) ON TABLE app.users TO usher_expire;
GRANT SELECT(email) ON TABLE app.users TO usher_usage;
GRANT SELECT(email) ON TABLE app.users TO usher_incident;

-- ACL COLUMN users.name

GRANT SELECT(name),INSERT(name),UPDATE(name) ON TABLE app.users TO usher_admin;
GRANT SELECT(name),INSERT(name) ON TABLE app.users TO usher_register;
GRANT SELECT(name) ON TABLE app.users TO usher_deliver;
GRANT SELECT(name) ON TABLE app.users TO usher_operator;
GRANT SELECT(name) ON TABLE app.users TO usher_checkout;
GRANT SELECT(name) ON TABLE app.users TO usher_subscription;
GRANT SELECT(name) ON TABLE app.users TO usher_webhook;
GRANT SELECT(name) ON TABLE app.users TO usher_trial;
GRANT SELECT(name) ON TABLE app.users TO usher_usage;
GRANT SELECT(name) ON TABLE app.users TO usher_incident;

-- ACL COLUMN users.role

GRANT SELECT(role),INSERT(role),UPDATE(role) ON TABLE app.users TO usher_admin;
GRANT SELECT(role),INSERT(role) ON TABLE app.users TO usher_register;
GRANT SELECT(role) ON TABLE app.users TO usher_deliver;
GRANT SELECT(role) ON TABLE app.users TO usher_operator;
GRANT SELECT(role) ON TABLE app.users TO usher_checkout;
GRANT SELECT(role) ON TABLE app.users TO usher_subscription;
GRANT SELECT(role) ON TABLE app.users TO usher_webhook;
GRANT SELECT(role) ON TABLE app.users TO usher_trial;
GRANT SELECT(role) ON TABLE app.users TO usher_expire;
GRANT SELECT(role) ON TABLE app.users TO usher_usage;
GRANT SELECT(role) ON TABLE app.users TO usher_incident;

-- ACL COLUMN users.status

GRANT SELECT(status),UPDATE(status) ON TABLE app.users TO usher_admin;
GRANT SELECT(status),INSERT(status) ON TABLE app.users TO usher_register;
GRANT SELECT(status) ON TABLE app.users TO usher_resolver;
GRANT SELECT(status) ON TABLE app.users TO usher_deliver;
GRANT SELECT(status) ON TABLE app.users TO usher_operator;
GRANT SELECT(status) ON TABLE app.users TO usher_checkout;
GRANT SELECT(status) ON TABLE app.users TO usher_subscription;
GRANT SELECT(status) ON TABLE app.users TO usher_webhook;
GRANT SELECT(status) ON TABLE app.users TO usher_trial;
GRANT SELECT(status) ON TABLE app.users TO usher_expire;
GRANT SELECT(status) ON TABLE app.users TO usher_usage;
GRANT SELECT(status) ON TABLE app.users TO usher_incident;

-- ACL COLUMN users.issuer

GRANT SELECT(issuer),UPDATE(issuer) ON TABLE app.users TO usher_admin;
GRANT SELECT(issuer),INSERT(issuer) ON TABLE app.users TO usher_register;
GRANT SELECT(issuer) ON TABLE app.users TO usher_resolver;
GRANT SELECT(issuer) ON TABLE app.users TO usher_checkout;
GRANT SELECT(issuer) ON TABLE app.users TO usher_subscription;
GRANT SELECT(issuer) ON TABLE app.users TO usher_webhook;
GRANT SELECT(issuer) ON TABLE app.users TO usher_trial;
GRANT SELECT(issuer) ON TABLE app.users TO usher_usage;
GRANT SELECT(issuer) ON TABLE app.users TO usher_incident;

-- ACL COLUMN users.subject

GRANT SELECT(subject),UPDATE(subject) ON TABLE app.users TO usher_admin;
GRANT SELECT(subject),INSERT(subject) ON TABLE app.users TO usher_register;
GRANT SELECT(subject) ON TABLE app.users TO usher_resolver;
GRANT SELECT(subject) ON TABLE app.users TO usher_checkout;
GRANT SELECT(subject) ON TABLE app.users TO usher_subscription;
GRANT SELECT(subject) ON TABLE app.users TO usher_webhook;
GRANT SELECT(subject) ON TABLE app.users TO usher_trial;
GRANT SELECT(subject) ON TABLE app.users TO usher_usage;
GRANT SELECT(subject) ON TABLE app.users TO usher_incident;

-- ACL COLUMN users.founder

GRANT SELECT(founder) ON TABLE app.users TO usher_admin;
GRANT SELECT(founder),INSERT(founder) ON TABLE app.users TO usher_register;
GRANT SELECT(founder) ON TABLE app.users TO usher_resolver;
GRANT SELECT(founder) ON TABLE app.users TO usher_checkout;
GRANT SELECT(founder) ON TABLE app.users TO usher_subscription;
GRANT SELECT(founder) ON TABLE app.users TO usher_webhook;
GRANT SELECT(founder) ON TABLE app.users TO usher_trial;

-- ACL COLUMN users.token_hash

GRANT INSERT(token_hash),UPDATE(token_hash) ON TABLE app.users TO usher_admin;
GRANT SELECT(token_hash) ON TABLE app.users TO usher_resolver;

-- ACL COLUMN users.pepper_version

GRANT INSERT(pepper_version),UPDATE(pepper_version) ON TABLE app.users TO usher_admin;

-- ACL COLUMN users.invited_by

GRANT SELECT(invited_by),INSERT(invited_by),UPDATE(invited_by) ON TABLE app.users TO usher_admin;
GRANT SELECT(invited_by) ON TABLE app.users TO usher_register;

-- ACL COLUMN users.invitation_expires_at

GRANT SELECT(invitation_expires_at),INSERT(invitation_expires_at),UPDATE(invitation_expires_at) ON TABLE app.users TO usher_admin;
GRANT SELECT(invitation_expires_at) ON TABLE app.users TO usher_register;

-- ACL COLUMN users.created_at

GRANT SELECT(created_at) ON TABLE app.users TO usher_admin;
GRANT SELECT(created_at) ON TABLE app.users TO usher_register;

-- ACL COLUMN users.updated_at

GRANT SELECT(updated_at),UPDATE(updated_at) ON TABLE app.users TO usher_admin;
GRANT SELECT(updated_at) ON TABLE app.users TO usher_register;

-- ACL COLUMN users.joined_at

GRANT SELECT(joined_at),UPDATE(joined_at) ON TABLE app.users TO usher_admin;
GRANT SELECT(joined_at),INSERT(joined_at) ON TABLE app.users TO usher_register;

-- ACL COLUMN users.removed_at

GRANT SELECT(removed_at),UPDATE(removed_at) ON TABLE app.users TO usher_admin;
GRANT SELECT(removed_at) ON TABLE app.users TO usher_register;

-- ACL COLUMN users.removed_by

GRANT SELECT(removed_by),UPDATE(removed_by) ON TABLE app.users TO usher_admin;
GRANT SELECT(removed_by) ON TABLE app.users TO usher_register;

-- ACL TABLE webhook_deliveries

GRANT SELECT ON TABLE app.webhook_deliveries TO usher_admin;
GRANT SELECT ON TABLE app.webhook_deliveries TO usher_deliver;
GRANT DELETE ON TABLE app.webhook_deliveries TO usher_resolver;

-- ACL COLUMN webhook_deliveries.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.webhook_deliveries TO usher_deliver;
GRANT SELECT(tenant_id) ON TABLE app.webhook_deliveries TO usher_resolver;

-- ACL COLUMN webhook_deliveries.id

GRANT INSERT(id) ON TABLE app.webhook_deliveries TO usher_deliver;
GRANT SELECT(id) ON TABLE app.webhook_deliveries TO usher_resolver;

-- ACL COLUMN webhook_deliveries.webhook_id

GRANT INSERT(webhook_id) ON TABLE app.webhook_deliveries TO usher_deliver;
GRANT SELECT(webhook_id) ON TABLE app.webhook_deliveries TO usher_resolver;

-- ACL COLUMN webhook_deliveries.event_id

GRANT INSERT(event_id) ON TABLE app.webhook_deliveries TO usher_deliver;

-- ACL COLUMN webhook_deliveries.type

GRANT INSERT(type) ON TABLE app.webhook_deliveries TO usher_deliver;

-- ACL COLUMN webhook_deliveries.body

GRANT INSERT(body) ON TABLE app.webhook_deliveries TO usher_deliver;

-- ACL COLUMN webhook_deliveries.status

GRANT UPDATE(status) ON TABLE app.webhook_deliveries TO usher_admin;
GRANT UPDATE(status) ON TABLE app.webhook_deliveries TO usher_deliver;
GRANT SELECT(status) ON TABLE app.webhook_deliveries TO usher_resolver;

-- ACL COLUMN webhook_deliveries.attempts

GRANT UPDATE(attempts) ON TABLE app.webhook_deliveries TO usher_deliver;

-- ACL COLUMN webhook_deliveries.round

GRANT UPDATE(round) ON TABLE app.webhook_deliveries TO usher_admin;
GRANT UPDATE(round) ON TABLE app.webhook_deliveries TO usher_deliver;

-- ACL COLUMN webhook_deliveries.next_at

GRANT UPDATE(next_at) ON TABLE app.webhook_deliveries TO usher_admin;
GRANT UPDATE(next_at) ON TABLE app.webhook_deliveries TO usher_deliver;
GRANT SELECT(next_at) ON TABLE app.webhook_deliveries TO usher_resolver;

-- ACL COLUMN webhook_deliveries.tries

GRANT UPDATE(tries) ON TABLE app.webhook_deliveries TO usher_deliver;

-- ACL COLUMN webhook_deliveries.finished_at

GRANT UPDATE(finished_at) ON TABLE app.webhook_deliveries TO usher_admin;
GRANT UPDATE(finished_at) ON TABLE app.webhook_deliveries TO usher_deliver;
GRANT SELECT(finished_at) ON TABLE app.webhook_deliveries TO usher_resolver;

-- ACL TABLE webhooks

GRANT SELECT ON TABLE app.webhooks TO usher_admin;
GRANT SELECT ON TABLE app.webhooks TO usher_deliver;

-- ACL COLUMN webhooks.tenant_id

GRANT INSERT(tenant_id) ON TABLE app.webhooks TO usher_admin;
GRANT SELECT(tenant_id) ON TABLE app.webhooks TO usher_resolver;

-- ACL COLUMN webhooks.id

GRANT INSERT(id) ON TABLE app.webhooks TO usher_admin;
GRANT SELECT(id) ON TABLE app.webhooks TO usher_resolver;

-- ACL COLUMN webhooks.url

GRANT INSERT(url),UPDATE(url) ON TABLE app.webhooks TO usher_admin;

-- ACL COLUMN webhooks.description

GRANT INSERT(description),UPDATE(description) ON TABLE app.webhooks TO usher_admin;

-- ACL COLUMN webhooks.events

GRANT INSERT(events),UPDATE(events) ON TABLE app.webhooks TO usher_admin;
GRANT SELECT(events) ON TABLE app.webhooks TO usher_resolver;

-- ACL COLUMN webhooks.status

GRANT UPDATE(status) ON TABLE app.webhooks TO usher_admin;
GRANT UPDATE(status) ON TABLE app.webhooks TO usher_deliver;
GRANT SELECT(status) ON TABLE app.webhooks TO usher_resolver;

-- ACL COLUMN webhooks.disabled_reason

GRANT UPDATE(disabled_reason) ON TABLE app.webhooks TO usher_admin;
GRANT UPDATE(disabled_reason) ON TABLE app.webhooks TO usher_deliver;

-- ACL COLUMN webhooks.disabled_at

GRANT UPDATE(disabled_at) ON TABLE app.webhooks TO usher_admin;
GRANT UPDATE(disabled_at) ON TABLE app.webhooks TO usher_deliver;

-- ACL COLUMN webhooks.failing_since

GRANT UPDATE(failing_since) ON TABLE app.webhooks TO usher_admin;
GRANT UPDATE(failing_since) ON TABLE app.webhooks TO usher_deliver;
GRANT SELECT(failing_since) ON TABLE app.webhooks TO usher_resolver;

-- ACL COLUMN webhooks.key_name

GRANT INSERT(key_name),UPDATE(key_name) ON TABLE app.webhooks TO usher_admin;

-- ACL COLUMN webhooks.generation

GRANT UPDATE(generation) ON TABLE app.webhooks TO usher_admin;

-- ACL COLUMN webhooks.previous_key_name

GRANT UPDATE(previous_key_name) ON TABLE app.webhooks TO usher_admin;

-- ACL COLUMN webhooks.previous_generation

GRANT UPDATE(previous_generation) ON TABLE app.webhooks TO usher_admin;

-- ACL COLUMN webhooks.previous_until

GRANT UPDATE(previous_until) ON TABLE app.webhooks TO usher_admin;

-- ACL COLUMN webhooks.created_by

GRANT INSERT(created_by) ON TABLE app.webhooks TO usher_admin;

-- ACL COLUMN webhooks.updated_at

GRANT UPDATE(updated_at) ON TABLE app.webhooks TO usher_admin;
GRANT UPDATE(updated_at) ON TABLE app.webhooks TO usher_deliver;

-- DEFAULT ACL DEFAULT PRIVILEGES FOR FUNCTIONS

ALTER DEFAULT PRIVILEGES FOR ROLE usher_owner REVOKE ALL ON FUNCTIONS  FROM PUBLIC;

-- DEFAULT ACL DEFAULT PRIVILEGES FOR FUNCTIONS

ALTER DEFAULT PRIVILEGES FOR ROLE usher_resolver REVOKE ALL ON FUNCTIONS  FROM PUBLIC;

-- ROLES

CREATE ROLE usher_acquire LOGIN;
CREATE ROLE usher_admin LOGIN;
CREATE ROLE usher_audits NOLOGIN;
CREATE ROLE usher_billing NOLOGIN;
CREATE ROLE usher_borrow LOGIN;
CREATE ROLE usher_checkout LOGIN;
CREATE ROLE usher_checkpoints NOLOGIN;
CREATE ROLE usher_deliver LOGIN;
CREATE ROLE usher_expire LOGIN;
CREATE ROLE usher_facts NOLOGIN;
CREATE ROLE usher_heartbeat LOGIN;
CREATE ROLE usher_incident LOGIN;
CREATE ROLE usher_keys LOGIN;
CREATE ROLE usher_meter LOGIN;
CREATE ROLE usher_notices NOLOGIN;
CREATE ROLE usher_operator LOGIN;
CREATE ROLE usher_owner NOLOGIN;
CREATE ROLE usher_pools NOLOGIN;
CREATE ROLE usher_register LOGIN;
CREATE ROLE usher_release LOGIN;
CREATE ROLE usher_replays NOLOGIN;
CREATE ROLE usher_resolver NOLOGIN;
CREATE ROLE usher_rotate LOGIN;
CREATE ROLE usher_seats NOLOGIN;
CREATE ROLE usher_signers NOLOGIN;
CREATE ROLE usher_subscription LOGIN;
CREATE ROLE usher_sweep LOGIN;
CREATE ROLE usher_trial LOGIN;
CREATE ROLE usher_usage LOGIN;
CREATE ROLE usher_validate LOGIN;
CREATE ROLE usher_webhook LOGIN;
ALTER ROLE usher_acquire SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_acquire SET lock_timeout=1s;
ALTER ROLE usher_acquire SET search_path=app;
ALTER ROLE usher_acquire SET statement_timeout=3s;
ALTER ROLE usher_admin SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_admin SET lock_timeout=1s;
ALTER ROLE usher_admin SET search_path=app;
ALTER ROLE usher_admin SET statement_timeout=3s;
ALTER ROLE usher_borrow SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_borrow SET lock_timeout=1s;
ALTER ROLE usher_borrow SET search_path=app;
ALTER ROLE usher_borrow SET statement_timeout=3s;
ALTER ROLE usher_checkout SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_checkout SET lock_timeout=1s;
ALTER ROLE usher_checkout SET search_path=app;
ALTER ROLE usher_checkout SET statement_timeout=3s;
ALTER ROLE usher_deliver SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_deliver SET lock_timeout=1s;
ALTER ROLE usher_deliver SET search_path=app;
ALTER ROLE usher_deliver SET statement_timeout=3s;
ALTER ROLE usher_expire SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_expire SET lock_timeout=1s;
ALTER ROLE usher_expire SET search_path=app;
ALTER ROLE usher_expire SET statement_timeout=3s;
ALTER ROLE usher_heartbeat SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_heartbeat SET lock_timeout=1s;
ALTER ROLE usher_heartbeat SET search_path=app;
ALTER ROLE usher_heartbeat SET statement_timeout=3s;
ALTER ROLE usher_incident SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_incident SET lock_timeout=1s;
ALTER ROLE usher_incident SET search_path=app;
ALTER ROLE usher_incident SET statement_timeout=3s;
ALTER ROLE usher_keys SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_keys SET lock_timeout=1s;
ALTER ROLE usher_keys SET search_path=app;
ALTER ROLE usher_keys SET statement_timeout=3s;
ALTER ROLE usher_meter SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_meter SET lock_timeout=1s;
ALTER ROLE usher_meter SET search_path=app;
ALTER ROLE usher_meter SET statement_timeout=3s;
ALTER ROLE usher_operator SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_operator SET lock_timeout=1s;
ALTER ROLE usher_operator SET search_path=app;
ALTER ROLE usher_operator SET statement_timeout=3s;
ALTER ROLE usher_register SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_register SET lock_timeout=1s;
ALTER ROLE usher_register SET search_path=app;
ALTER ROLE usher_register SET statement_timeout=3s;
ALTER ROLE usher_release SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_release SET lock_timeout=1s;
ALTER ROLE usher_release SET search_path=app;
ALTER ROLE usher_release SET statement_timeout=3s;
ALTER ROLE usher_rotate SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_rotate SET lock_timeout=1s;
ALTER ROLE usher_rotate SET search_path=app;
ALTER ROLE usher_rotate SET statement_timeout=3s;
ALTER ROLE usher_subscription SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_subscription SET lock_timeout=1s;
ALTER ROLE usher_subscription SET search_path=app;
ALTER ROLE usher_subscription SET statement_timeout=3s;
ALTER ROLE usher_sweep SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_sweep SET lock_timeout=1s;
ALTER ROLE usher_sweep SET search_path=app;
ALTER ROLE usher_sweep SET statement_timeout=3s;
ALTER ROLE usher_trial SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_trial SET lock_timeout=1s;
ALTER ROLE usher_trial SET search_path=app;
ALTER ROLE usher_trial SET statement_timeout=3s;
ALTER ROLE usher_usage SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_usage SET lock_timeout=1s;
ALTER ROLE usher_usage SET search_path=app;
ALTER ROLE usher_usage SET statement_timeout=3s;
ALTER ROLE usher_validate SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_validate SET lock_timeout=1s;
ALTER ROLE usher_validate SET search_path=app;
ALTER ROLE usher_validate SET statement_timeout=3s;
ALTER ROLE usher_webhook SET idle_in_transaction_session_timeout=5s;
ALTER ROLE usher_webhook SET lock_timeout=1s;
ALTER ROLE usher_webhook SET search_path=app;
ALTER ROLE usher_webhook SET statement_timeout=3s;
GRANT usher_audits TO usher_admin;
GRANT usher_audits TO usher_checkout;
GRANT usher_audits TO usher_deliver;
GRANT usher_audits TO usher_expire;
GRANT usher_audits TO usher_incident;
GRANT usher_audits TO usher_operator;
GRANT usher_audits TO usher_register;
GRANT usher_audits TO usher_rotate;
GRANT usher_audits TO usher_subscription;
GRANT usher_audits TO usher_trial;
GRANT usher_audits TO usher_webhook;
GRANT usher_billing TO usher_expire;
GRANT usher_billing TO usher_subscription;
GRANT usher_billing TO usher_webhook;
GRANT usher_checkpoints TO usher_incident;
GRANT usher_facts TO usher_acquire;
GRANT usher_facts TO usher_admin;
GRANT usher_facts TO usher_borrow;
GRANT usher_facts TO usher_checkout;
GRANT usher_facts TO usher_expire;
GRANT usher_facts TO usher_incident;
GRANT usher_facts TO usher_register;
GRANT usher_facts TO usher_release;
GRANT usher_facts TO usher_subscription;
GRANT usher_facts TO usher_trial;
GRANT usher_facts TO usher_usage;
GRANT usher_facts TO usher_validate;
GRANT usher_facts TO usher_webhook;
GRANT usher_notices TO usher_admin;
GRANT usher_notices TO usher_deliver;
GRANT usher_notices TO usher_expire;
GRANT usher_notices TO usher_incident;
GRANT usher_notices TO usher_operator;
GRANT usher_notices TO usher_register;
GRANT usher_notices TO usher_subscription;
GRANT usher_notices TO usher_trial;
GRANT usher_notices TO usher_usage;
GRANT usher_notices TO usher_webhook;
GRANT usher_pools TO usher_borrow;
GRANT usher_pools TO usher_heartbeat;
GRANT usher_pools TO usher_seats;
GRANT usher_replays TO usher_acquire;
GRANT usher_replays TO usher_admin;
GRANT usher_replays TO usher_checkout;
GRANT usher_replays TO usher_incident;
GRANT usher_replays TO usher_register;
GRANT usher_replays TO usher_subscription;
GRANT usher_replays TO usher_trial;
GRANT usher_rotate TO usher_incident;
GRANT usher_seats TO usher_acquire;
GRANT usher_seats TO usher_admin;
GRANT usher_seats TO usher_expire;
GRANT usher_seats TO usher_incident;
GRANT usher_seats TO usher_release;
GRANT usher_seats TO usher_subscription;
GRANT usher_seats TO usher_sweep;
GRANT usher_seats TO usher_webhook;
GRANT usher_signers TO usher_acquire;
GRANT usher_signers TO usher_borrow;
GRANT usher_signers TO usher_validate;
