-- +goose Up

-- Which audit chain has grown is decided by the journal and what an instance of function incident has read of it, not by a note in
-- the database that it watches: whoever owns that could write there that there is nothing to do. Until the function that belongs to
-- this is deployed, the watch before it writes no checkpoints; they wait.
SET LOCAL ROLE usher_resolver;
DROP FUNCTION app.pending_checkpoints(uuid, int);
RESET ROLE;
SET LOCAL ROLE usher_owner;
DROP TABLE app.checkpoints;
GRANT SELECT (hash) ON app.audit_chains TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.audit_heads(p_after uuid, p_limit int) RETURNS TABLE (tenant_id uuid, seq bigint, hash bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT c.tenant_id, c.seq, c.hash FROM app.audit_chains c WHERE c.seq > 0 AND c.tenant_id > p_after ORDER BY c.tenant_id LIMIT least(p_limit, 1000)
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.audit_heads(uuid, int) IS 'The last entry of each tenant''s audit chain, of the tenants after p_after.';
GRANT EXECUTE ON FUNCTION app.audit_heads(uuid, int) TO usher_checkpoints;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
SET LOCAL ROLE usher_resolver;
DROP FUNCTION app.audit_heads(uuid, int);
RESET ROLE;
SET LOCAL ROLE usher_owner;
REVOKE SELECT (hash) ON app.audit_chains FROM usher_resolver;
CREATE TABLE app.checkpoints (
    tenant_id uuid   NOT NULL REFERENCES app.tenants (id),
    seq       bigint NOT NULL CHECK (seq > 0),
    PRIMARY KEY (tenant_id, seq)
);
COMMENT ON TABLE app.checkpoints IS
    'How far the journal is known to have each audit chain, so that it is not asked in vain. The checkpoints are in the journal: '
    'whoever writes here delays one, and alters none.';
ALTER TABLE app.checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.checkpoints FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.checkpoints
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT, DELETE ON app.checkpoints TO usher_checkpoints;
CREATE POLICY resolver_lists ON app.checkpoints FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, seq) ON app.checkpoints TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.pending_checkpoints(p_after uuid, p_limit int) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT c.tenant_id FROM app.audit_chains c
     WHERE c.seq > coalesce((SELECT max(p.seq) FROM app.checkpoints p WHERE p.tenant_id = c.tenant_id), 0) AND c.tenant_id > p_after
     ORDER BY c.tenant_id LIMIT least(p_limit, 1000)
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.pending_checkpoints(uuid, int) IS 'Tenants whose audit chain is longer than the journal is known to have it, after p_after.';
GRANT EXECUTE ON FUNCTION app.pending_checkpoints(uuid, int) TO usher_checkpoints;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;
