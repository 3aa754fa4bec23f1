-- +goose Up

-- Which audit chain has grown is decided by the journal and what an instance of function incident has read of it, not by a note in
-- the database that it watches: whoever owns that could write there that there is nothing to do. Nothing uses app.checkpoints and
-- app.pending_checkpoints any more but the version before this one: the release after the next drops them.
SET LOCAL ROLE usher_owner;
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
