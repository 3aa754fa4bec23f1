-- +goose Up
SET LOCAL ROLE usher_owner;

CREATE TABLE app.api_keys (
    tenant_id      uuid        NOT NULL REFERENCES app.tenants (id),
    id             uuid        NOT NULL,
    name           text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    scopes         text[]      NOT NULL,
    key_hash       bytea       NOT NULL CHECK (octet_length(key_hash) = 32),
    pepper_version int         NOT NULL,
    hint           text        NOT NULL,
    created_by     text        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz,
    revoked_at     timestamptz,
    last_used_at   timestamptz,
    PRIMARY KEY (tenant_id, id)
);
COMMENT ON TABLE app.api_keys IS 'Credentials of automation: a tenant''s, or the operator''s when they hang on the operator''s row. Stored as keyed hashes.';
COMMENT ON COLUMN app.api_keys.last_used_at IS 'Exact to the minute.';
CREATE INDEX api_keys_by_hash ON app.api_keys (key_hash);
ALTER TABLE app.api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.api_keys
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT (tenant_id, id, name, scopes, pepper_version, hint, created_by, created_at, expires_at, revoked_at, last_used_at), INSERT
    ON app.api_keys TO usher_admin, usher_operator;
GRANT UPDATE (revoked_at, last_used_at) ON app.api_keys TO usher_admin;

-- Before a tenant is known: key → tenant, and nothing else. Whether the key still lives is read as that tenant.
CREATE POLICY resolver_finds ON app.api_keys FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, id, key_hash) ON app.api_keys TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.find_api_key(p_hashes bytea[]) RETURNS TABLE (tenant_id uuid, api_key_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT k.tenant_id, k.id FROM app.api_keys k WHERE k.key_hash = ANY (p_hashes) LIMIT 1 $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.find_api_key(bytea[]) IS 'Whose key it is, by the hashes it may have; also one that was revoked or is over.';
GRANT EXECUTE ON FUNCTION app.find_api_key(bytea[]) TO usher_admin;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.find_api_key(bytea[]);
DROP TABLE app.api_keys;
