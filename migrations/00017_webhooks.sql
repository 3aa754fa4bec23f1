-- +goose Up
SET LOCAL ROLE usher_owner;

CREATE TABLE app.webhooks (
    tenant_id           uuid        NOT NULL REFERENCES app.tenants (id),
    id                  uuid        NOT NULL,
    url                 text        NOT NULL CHECK (char_length(url) BETWEEN 8 AND 2048),
    description         text        CHECK (char_length(description) BETWEEN 1 AND 200),
    events              text[]      NOT NULL CHECK (cardinality(events) BETWEEN 1 AND 50),
    status              text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled', 'deleted')),
    disabled_reason     text,
    disabled_at         timestamptz,
    failing_since       timestamptz,
    key_name            text        NOT NULL,
    generation          int         NOT NULL DEFAULT 1,
    previous_key_name   text,
    previous_generation int,
    previous_until      timestamptz,
    created_by          text        NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT disabled_has_reason CHECK (status <> 'disabled' OR (disabled_reason IS NOT NULL AND disabled_at IS NOT NULL)),
    CONSTRAINT previous_is_whole CHECK ((previous_until IS NULL) = (previous_key_name IS NULL) AND (previous_until IS NULL) = (previous_generation IS NULL))
);
COMMENT ON TABLE app.webhooks IS
    'Systems that hear of events: a tenant''s of its own, the operator''s (those of the operator''s row) of every tenant''s.';
COMMENT ON COLUMN app.webhooks.events IS 'Types such as seat.denied, or seat.* for all of a kind, or * for all.';
COMMENT ON COLUMN app.webhooks.key_name IS
    'The signing secret is no row: it is derived of the named key of the ring NOTIFY_KEYS, the webhook''s id and the generation.';
COMMENT ON COLUMN app.webhooks.previous_until IS 'Until then what is sent is signed with the secret before, too.';
COMMENT ON COLUMN app.webhooks.failing_since IS 'The first failure since the last success.';
ALTER TABLE app.webhooks ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.webhooks FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.webhooks
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT (tenant_id, id, url, description, events, key_name, created_by),
    UPDATE (url, description, events, status, disabled_reason, disabled_at, failing_since, key_name, generation, previous_key_name,
        previous_generation, previous_until, updated_at) ON app.webhooks TO usher_admin;
GRANT SELECT, UPDATE (status, disabled_reason, disabled_at, failing_since, updated_at) ON app.webhooks TO usher_deliver;

CREATE TABLE app.webhook_deliveries (
    tenant_id   uuid        NOT NULL,
    id          uuid        NOT NULL DEFAULT app.new_id(),
    webhook_id  uuid        NOT NULL,
    event_id    uuid        NOT NULL,
    type        text        NOT NULL,
    body        text        NOT NULL CHECK (octet_length(body) <= 65536),
    status      text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts    int         NOT NULL DEFAULT 0,
    round       int         NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL DEFAULT now(),
    tries       jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(tries) = 'array'),
    created_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT webhook_deliveries_event_key UNIQUE (tenant_id, webhook_id, event_id),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES app.webhooks (tenant_id, id),
    CONSTRAINT what_is_over_has_a_time CHECK ((status = 'pending') = (finished_at IS NULL))
);
COMMENT ON TABLE app.webhook_deliveries IS 'One event for one webhook, each once, whose the webhook is; 30 days after its end it is dropped.';
COMMENT ON COLUMN app.webhook_deliveries.body IS 'What is sent, to the byte, at every attempt.';
COMMENT ON COLUMN app.webhook_deliveries.attempts IS 'All that were begun.';
COMMENT ON COLUMN app.webhook_deliveries.round IS 'Those since it was made or asked for again: by this the next is timed.';
COMMENT ON COLUMN app.webhook_deliveries.next_at IS 'While pending: not before. Who sends it moves this on first, by longer than sending may take, so that nobody else does.';
COMMENT ON COLUMN app.webhook_deliveries.tries IS 'How the latest attempts ended: at, ms, status, error.';
CREATE INDEX webhook_deliveries_due ON app.webhook_deliveries (next_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_of ON app.webhook_deliveries (tenant_id, webhook_id, id);
CREATE INDEX webhook_deliveries_over ON app.webhook_deliveries (finished_at) WHERE status <> 'pending';
ALTER TABLE app.webhook_deliveries ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.webhook_deliveries FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.webhook_deliveries
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, UPDATE (status, round, next_at, finished_at) ON app.webhook_deliveries TO usher_admin;
GRANT SELECT, INSERT (tenant_id, id, webhook_id, event_id, type, body), UPDATE (status, attempts, round, next_at, tries, finished_at)
    ON app.webhook_deliveries TO usher_deliver;

-- +goose StatementBegin
CREATE FUNCTION app.wants(p_events text[], p_type text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT p_type = ANY (p_events) OR split_part(p_type, '.', 1) || '.*' = ANY (p_events) OR '*' = ANY (p_events) $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.wants(text[], text) IS 'Whether who asked for these events hears of one of that type.';
GRANT EXECUTE ON FUNCTION app.wants(text[], text) TO usher_deliver;

-- Across tenants: which webhooks have something due, and the dropping of what is over.
CREATE POLICY resolver_finds ON app.webhooks FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, id, status, events, failing_since) ON app.webhooks TO usher_resolver;
CREATE POLICY resolver_finds ON app.webhook_deliveries FOR SELECT TO usher_resolver USING (true);
CREATE POLICY resolver_expires ON app.webhook_deliveries FOR DELETE TO usher_resolver USING (finished_at < now() - interval '30 days');
GRANT SELECT (tenant_id, id, webhook_id, status, next_at, finished_at), DELETE ON app.webhook_deliveries TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.due_webhooks(p_limit int) RETURNS TABLE (tenant_id uuid, id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT w.tenant_id, w.id FROM (
        SELECT d.tenant_id, d.webhook_id, min(d.next_at) AS since FROM app.webhook_deliveries d
         WHERE d.status = 'pending' AND d.next_at <= now() GROUP BY d.tenant_id, d.webhook_id) due
      JOIN app.webhooks w ON w.tenant_id = due.tenant_id AND w.id = due.webhook_id
     ORDER BY w.failing_since IS NOT NULL, due.since LIMIT p_limit
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.due_webhooks(int) IS
    'Webhooks with deliveries whose time has come, the longest waiting first, those that fail after those that do not.';
-- +goose StatementBegin
CREATE FUNCTION app.expire_deliveries() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH gone AS (
        DELETE FROM app.webhook_deliveries d USING (
            SELECT o.tenant_id, o.id FROM app.webhook_deliveries o
             WHERE o.finished_at < now() - interval '30 days' AND o.status <> 'pending' LIMIT 5000) o
         WHERE d.tenant_id = o.tenant_id AND d.id = o.id RETURNING 1)
    SELECT count(*) FROM gone
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.expire_deliveries() IS 'Drops deliveries whose time is over and answers how many: at most 5,000 at a time.';
GRANT EXECUTE ON FUNCTION app.due_webhooks(int), app.expire_deliveries() TO usher_deliver;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.expire_deliveries();
DROP FUNCTION app.due_webhooks(int);
DROP FUNCTION app.wants(text[], text);
DROP TABLE app.webhook_deliveries;
DROP TABLE app.webhooks;
