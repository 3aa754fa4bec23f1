-- +goose Up

-- What goes out: mails to people, and events to the systems that asked to hear of them. Whoever does something that somebody
-- is to hear of writes a row here, in the transaction that does it; function deliver, with a login role of its own, sends.

-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_notices') THEN
        CREATE ROLE usher_notices NOLOGIN NOBYPASSRLS;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_deliver') THEN
        CREATE ROLE usher_deliver LOGIN NOBYPASSRLS;
    END IF;
    ALTER ROLE usher_deliver SET statement_timeout = '3s';
    ALTER ROLE usher_deliver SET lock_timeout = '1s';
    ALTER ROLE usher_deliver SET idle_in_transaction_session_timeout = '5s';
    ALTER ROLE usher_deliver SET search_path = 'app';
END
$$;
-- +goose StatementEnd
GRANT usher_notices TO usher_admin, usher_operator, usher_register, usher_deliver;
GRANT usher_audits TO usher_deliver;

SET LOCAL ROLE usher_owner;
GRANT USAGE ON SCHEMA app TO usher_notices, usher_deliver;

CREATE TABLE app.mails (
    tenant_id   uuid        NOT NULL REFERENCES app.tenants (id),
    id          uuid        NOT NULL DEFAULT app.new_id(),
    kind        text        NOT NULL CHECK (kind ~ '^[a-z_]{1,40}$'),
    recipient   text        NOT NULL CHECK (char_length(recipient) BETWEEN 3 AND 254),
    key         text        NOT NULL CHECK (char_length(key) BETWEEN 1 AND 200),
    data        jsonb       NOT NULL CHECK (jsonb_typeof(data) = 'object' AND octet_length(data::text) <= 16384),
    status      text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'sent', 'failed')),
    attempts    int         NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL DEFAULT now(),
    created_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    last_error  text        CHECK (char_length(last_error) <= 500),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT mails_key UNIQUE (tenant_id, key),
    CONSTRAINT nothing_is_left_of_what_is_over CHECK (status = 'pending' OR data = '{}'),
    CONSTRAINT what_is_over_has_a_time CHECK ((status = 'pending') = (finished_at IS NULL))
);
COMMENT ON TABLE app.mails IS
    'Mails that are to be sent, and for 30 days that they were. What a mail says, which may hold an invitation''s token or a licence '
    'key, is here until it is sent or given up, and no longer.';
COMMENT ON COLUMN app.mails.key IS 'What the mail is about: of one key a tenant gets one mail, however often it is queued.';
COMMENT ON COLUMN app.mails.next_at IS 'While pending: not before. Who sends it moves this on first, by longer than sending may take, so that nobody else does.';
CREATE INDEX mails_due ON app.mails (next_at) WHERE status = 'pending';
CREATE INDEX mails_over ON app.mails (finished_at) WHERE status <> 'pending';
ALTER TABLE app.mails ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.mails FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.mails
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT INSERT (tenant_id, id, kind, recipient, key, data) ON app.mails TO usher_notices;
GRANT SELECT, UPDATE (data, status, attempts, next_at, finished_at, last_error) ON app.mails TO usher_deliver;

CREATE TABLE app.events (
    tenant_id     uuid        NOT NULL REFERENCES app.tenants (id),
    id            uuid        NOT NULL,
    type          text        NOT NULL CHECK (type ~ '^[a-z_]{1,40}\.[a-z_]{1,40}$'),
    subject       text        NOT NULL CHECK (char_length(subject) BETWEEN 1 AND 300),
    data          jsonb       NOT NULL CHECK (jsonb_typeof(data) = 'object' AND octet_length(data::text) <= 32768),
    occurred_at   timestamptz NOT NULL DEFAULT now(),
    recorded_at   timestamptz NOT NULL DEFAULT now(),
    dispatched_at timestamptz,
    PRIMARY KEY (tenant_id, id)
);
COMMENT ON TABLE app.events IS
    'What happened that somebody''s system may want to hear of, until a delivery was made for each that does, and for 7 days more: '
    'whoever records an event again within them records nothing.';
CREATE INDEX events_waiting ON app.events (tenant_id, recorded_at) WHERE dispatched_at IS NULL;
CREATE INDEX events_over ON app.events (dispatched_at) WHERE dispatched_at IS NOT NULL;
ALTER TABLE app.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.events
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT INSERT (tenant_id, id, type, subject, data, occurred_at) ON app.events TO usher_notices;
GRANT SELECT, UPDATE (dispatched_at) ON app.events TO usher_deliver;

GRANT SELECT ON app.tenants TO usher_deliver;
-- Whom a tenant's notices go to.
GRANT SELECT (tenant_id, id, email, name, role, status) ON app.users TO usher_deliver, usher_operator;
GRANT EXECUTE ON FUNCTION app.new_id() TO usher_notices;

-- Across tenants: what is due, by its name, and the dropping of what is over.
CREATE POLICY resolver_finds ON app.mails FOR SELECT TO usher_resolver USING (true);
CREATE POLICY resolver_expires ON app.mails FOR DELETE TO usher_resolver USING (finished_at < now() - interval '30 days');
GRANT SELECT (tenant_id, id, status, next_at, finished_at), DELETE ON app.mails TO usher_resolver;
CREATE POLICY resolver_finds ON app.events FOR SELECT TO usher_resolver USING (true);
CREATE POLICY resolver_expires ON app.events FOR DELETE TO usher_resolver USING (dispatched_at < now() - interval '7 days');
GRANT SELECT (tenant_id, id, recorded_at, dispatched_at), DELETE ON app.events TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.due_mails(p_limit int) RETURNS TABLE (tenant_id uuid, id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT m.tenant_id, m.id FROM app.mails m WHERE m.status = 'pending' AND m.next_at <= now() ORDER BY m.next_at LIMIT p_limit $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.due_mails(int) IS 'Mails whose time has come, the longest waiting first.';
-- +goose StatementBegin
CREATE FUNCTION app.waiting_events(p_limit int) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT e.tenant_id FROM app.events e WHERE e.dispatched_at IS NULL
     GROUP BY e.tenant_id ORDER BY min(e.recorded_at) LIMIT p_limit
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.waiting_events(int) IS 'Tenants with events that nobody has been told of, the longest waiting first.';
-- +goose StatementBegin
CREATE FUNCTION app.expire_notices() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
-- +goose StatementEnd
COMMENT ON FUNCTION app.expire_notices() IS 'Drops mails and events whose time is over and answers how many: at most 10,000 at a time.';
GRANT EXECUTE ON FUNCTION app.due_mails(int), app.waiting_events(int), app.expire_notices() TO usher_deliver;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.expire_notices();
DROP FUNCTION app.waiting_events(int);
DROP FUNCTION app.due_mails(int);
REVOKE SELECT (tenant_id, id, email, name, role, status) ON app.users FROM usher_deliver, usher_operator;
REVOKE SELECT ON app.tenants FROM usher_deliver;
REVOKE EXECUTE ON FUNCTION app.new_id() FROM usher_notices;
DROP TABLE app.events;
DROP TABLE app.mails;
REVOKE USAGE ON SCHEMA app FROM usher_notices, usher_deliver;
REVOKE usher_audits FROM usher_deliver;
REVOKE usher_notices FROM usher_admin, usher_operator, usher_register, usher_deliver;
