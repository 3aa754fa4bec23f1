-- +goose Up

-- Who may have an act recorded.
-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_audits') THEN
        CREATE ROLE usher_audits NOLOGIN NOBYPASSRLS;
    END IF;
END
$$;
-- +goose StatementEnd
GRANT usher_audits TO usher_admin, usher_operator;

SET LOCAL ROLE usher_owner;
GRANT USAGE ON SCHEMA app TO usher_audits;

CREATE TABLE app.audit_chains (
    tenant_id  uuid        NOT NULL PRIMARY KEY REFERENCES app.tenants (id),
    seq        bigint      NOT NULL DEFAULT 0 CHECK (seq >= start_seq),
    hash       bytea       NOT NULL DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000' CHECK (octet_length(hash) = 32),
    at         timestamptz NOT NULL DEFAULT '-infinity',
    start_seq  bigint      NOT NULL DEFAULT 0 CHECK (start_seq >= 0),
    start_hash bytea       NOT NULL DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000' CHECK (octet_length(start_hash) = 32)
) WITH (fillfactor = 50);
COMMENT ON TABLE app.audit_chains IS
    'Where each tenant''s chain of audit entries ends, and where what is kept of it begins. Whoever appends holds the row until it '
    'commits: acts of one tenant wait for each other here, and never for another tenant''s.';
COMMENT ON COLUMN app.audit_chains.at IS 'The time of the last entry: none is earlier than the one before it, so that what is older than a day is a prefix.';
COMMENT ON COLUMN app.audit_chains.start_seq IS 'The last entry that was dropped because it was old, 0 for none; start_hash is its hash, by which the next is verified.';
ALTER TABLE app.audit_chains ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.audit_chains FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.audit_chains
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT ON app.audit_chains TO usher_admin, usher_operator;

CREATE TABLE app.audit_entries (
    tenant_id   uuid        NOT NULL REFERENCES app.audit_chains (tenant_id),
    at          timestamptz(3) NOT NULL,
    seq         bigint      NOT NULL,
    action      text        NOT NULL CHECK (action ~ '^[a-z_]{1,40}\.[a-z_]{1,40}$'),
    outcome     text        NOT NULL CHECK (outcome IN ('done', 'refused')),
    actor       text        NOT NULL CHECK (char_length(actor) BETWEEN 1 AND 300),
    by_operator boolean     NOT NULL,
    credential  text        NOT NULL CHECK (char_length(credential) <= 300),
    address     text        NOT NULL CHECK (char_length(address) <= 64),
    subject     text        NOT NULL CHECK (char_length(subject) BETWEEN 1 AND 300),
    request_id  text        NOT NULL CHECK (char_length(request_id) <= 128),
    details     jsonb       NOT NULL CHECK (jsonb_typeof(details) = 'object'),
    previous    bytea       NOT NULL CHECK (octet_length(previous) = 32),
    hash        bytea       NOT NULL CHECK (octet_length(hash) = 32),
    -- The order of a chain, and of the list that people read; seq alone is unique in a tenant, because app.audit_record counts.
    PRIMARY KEY (tenant_id, at, seq)
) PARTITION BY RANGE (at);
COMMENT ON TABLE app.audit_entries IS
    'Who did what, on what, from where and with which credential: each security- or money-relevant act, each chained to the one '
    'before it. No role may write here: app.audit_record does. A partition a month, so that retention drops whole months.';
COMMENT ON COLUMN app.audit_entries.details IS 'What more there is to say, text by name.';
COMMENT ON COLUMN app.audit_entries.previous IS 'The hash of the entry before.';
CREATE INDEX audit_entries_by_action ON app.audit_entries (tenant_id, action, at, seq);
CREATE INDEX audit_entries_by_actor ON app.audit_entries (tenant_id, actor, at, seq);
CREATE INDEX audit_entries_by_subject ON app.audit_entries (tenant_id, subject, at, seq);
ALTER TABLE app.audit_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.audit_entries FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.audit_entries
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT ON app.audit_entries TO usher_admin, usher_operator;

CREATE TABLE app.audit_entries_default PARTITION OF app.audit_entries DEFAULT;
COMMENT ON TABLE app.audit_entries_default IS 'Months that have no partition of their own: no act fails because nobody made one.';
ALTER TABLE app.audit_entries_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.audit_entries_default FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.audit_entries_default
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));

-- +goose StatementBegin
CREATE FUNCTION app.audit_field(p_value text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT int4send(octet_length(convert_to(p_value, 'UTF8'))) || convert_to(p_value, 'UTF8') $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.audit_field(text) IS 'A value as the hash of an entry reads it: its length in four bytes, the highest first, and its UTF-8.';

-- +goose StatementBegin
CREATE FUNCTION app.audit_record(p_action text, p_outcome text, p_actor text, p_by_operator boolean, p_credential text, p_address text,
                                 p_subject text, p_request_id text, p_details jsonb, p_unless_within interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
-- +goose StatementEnd
COMMENT ON FUNCTION app.audit_record(text, text, text, boolean, text, text, text, text, jsonb, interval) IS
    'Appends an entry to the tenant''s chain and answers its number; 0 when one of the same actor, action, subject and outcome is not '
    'older than p_unless_within. It counts, dates and hashes by itself, and locks the chain until the transaction ends: call it last.';
GRANT EXECUTE ON FUNCTION app.audit_record(text, text, text, boolean, text, text, text, text, jsonb, interval) TO usher_audits;

-- +goose StatementBegin
CREATE FUNCTION app.make_audit_partitions(p_months_ahead int) RETURNS int
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '200ms' -- as app.make_history_partitions, whose comments hold here, too
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
-- +goose StatementEnd
COMMENT ON FUNCTION app.make_audit_partitions(int) IS
    'Makes the partitions of the coming months that are missing, unless the audit log is too busy; answers how many it made.';
GRANT EXECUTE ON FUNCTION app.make_audit_partitions(int) TO usher_sweep;

-- +goose Down
DROP FUNCTION app.make_audit_partitions(int);
DROP FUNCTION app.audit_record(text, text, text, boolean, text, text, text, text, jsonb, interval);
DROP FUNCTION app.audit_field(text);
DROP TABLE app.audit_entries;
DROP TABLE app.audit_chains;
