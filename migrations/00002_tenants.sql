-- +goose Up
SET LOCAL ROLE usher_owner;

CREATE TABLE app.tenants (
    id            uuid        PRIMARY KEY,
    kind          text        NOT NULL DEFAULT 'customer' CHECK (kind IN ('customer', 'operator')),
    name          text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    slug          text        NOT NULL CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    status        text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    status_reason text,
    status_by     text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_slug_key UNIQUE (slug),
    CONSTRAINT operator_is_active CHECK (kind = 'customer' OR status = 'active')
);
COMMENT ON TABLE app.tenants IS 'Customer organisations, and one row for the operator, whose API keys and staff hang on it like any tenant''s.';
COMMENT ON CONSTRAINT tenants_slug_key ON app.tenants IS
    'Unique across tenants: no role that acts for a tenant can write a slug, so it is no oracle.';

ALTER TABLE app.tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.tenants
    USING (id = (SELECT app.tenant())) WITH CHECK (id = (SELECT app.tenant()));

GRANT SELECT ON app.tenants TO usher_facts, usher_pools, usher_operator;
GRANT INSERT (id, kind, name, slug), UPDATE (name, slug, status, status_reason, status_by, updated_at)
    ON app.tenants TO usher_operator;

-- The operator's list of tenants: the one look across them all, kept from every role but the operator's.
CREATE POLICY resolver_lists ON app.tenants FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (id, kind, name, slug, status, status_reason, status_by, created_at, updated_at) ON app.tenants TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.operator_tenants(p_after uuid, p_limit int)
    RETURNS TABLE (id uuid, name text, slug text, status text, status_reason text, status_by text, created_at timestamptz, updated_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT t.id, t.name, t.slug, t.status, t.status_reason, t.status_by, t.created_at, t.updated_at
      FROM app.tenants t
     WHERE t.kind = 'customer' AND (p_after IS NULL OR t.id > p_after)
     ORDER BY t.id LIMIT least(p_limit, 101)
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.operator_tenants(uuid, int) IS 'Customers, in the order in which they were made, after p_after (NULL: from the start); at most 101.';
GRANT EXECUTE ON FUNCTION app.operator_tenants(uuid, int) TO usher_operator;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.operator_tenants(uuid, int);
DROP TABLE app.tenants;
