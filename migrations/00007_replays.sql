-- +goose Up
SET LOCAL ROLE usher_owner;

CREATE TABLE app.idempotency_keys (
    tenant_id    uuid        NOT NULL REFERENCES app.tenants (id),
    scope        text        NOT NULL CHECK (char_length(scope) <= 300),
    key_hash     bytea       NOT NULL CHECK (octet_length(key_hash) = 32),
    body_hash    bytea       NOT NULL CHECK (octet_length(body_hash) = 32),
    state        text        NOT NULL DEFAULT 'in_flight' CHECK (state IN ('in_flight', 'done')),
    held_until   timestamptz NOT NULL,
    http_status  int         CHECK (http_status IN (200, 201)),
    answer       bytea,
    session_id   uuid,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, scope, key_hash),
    CONSTRAINT done_has_answer CHECK (state = 'in_flight' OR (http_status IS NOT NULL AND answer IS NOT NULL))
);
COMMENT ON TABLE app.idempotency_keys IS 'First answers to POSTs that carried an Idempotency-Key, for 24 hours.';
COMMENT ON COLUMN app.idempotency_keys.scope IS 'Credential and route (acquire: licence) the key belongs to.';
COMMENT ON COLUMN app.idempotency_keys.answer IS 'Encrypted under a key derived from the Idempotency-Key, which is not stored: only who knows it can read the answer.';
COMMENT ON COLUMN app.idempotency_keys.held_until IS 'While in_flight: until when a repetition is told to wait; afterwards its sender is taken for dead.';
COMMENT ON COLUMN app.idempotency_keys.session_id IS 'Acquire only: the answer is repeated while this session lives.';
CREATE INDEX idempotency_keys_expiry ON app.idempotency_keys (expires_at);
ALTER TABLE app.idempotency_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.idempotency_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.idempotency_keys
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT, DELETE, UPDATE (body_hash, state, held_until, http_status, answer, session_id, created_at, expires_at)
    ON app.idempotency_keys TO usher_replays;

-- The sweep drops what has expired, without seeing whose it was.
CREATE POLICY resolver_expires ON app.idempotency_keys TO usher_resolver USING (expires_at < now()) WITH CHECK (false);
GRANT SELECT (ctid, expires_at), DELETE ON app.idempotency_keys TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.expire_idempotency_keys() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH gone AS (
        DELETE FROM app.idempotency_keys k
         WHERE k.ctid = ANY (ARRAY(SELECT o.ctid FROM app.idempotency_keys o WHERE o.expires_at < now() ORDER BY o.expires_at LIMIT 20000))
           AND k.expires_at < now()
        RETURNING 1)
    SELECT count(*) FROM gone
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.expire_idempotency_keys() IS
    'Drops what has expired and answers how much that was: at most 20,000 at a time, so that a backlog ends within the statement''s deadline.';
GRANT EXECUTE ON FUNCTION app.expire_idempotency_keys() TO usher_sweep;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.expire_idempotency_keys();
DROP TABLE app.idempotency_keys;
