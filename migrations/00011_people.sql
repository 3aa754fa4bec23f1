-- +goose Up

-- People: who is in a tenant, as what, and who was asked to come. Function register has a login role of its own, which may
-- found a tenant and nothing else.

-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_register') THEN
        CREATE ROLE usher_register LOGIN NOBYPASSRLS;
    END IF;
    ALTER ROLE usher_register SET statement_timeout = '3s';
    ALTER ROLE usher_register SET lock_timeout = '1s';
    ALTER ROLE usher_register SET idle_in_transaction_session_timeout = '5s';
    ALTER ROLE usher_register SET search_path = 'app';
END
$$;
-- +goose StatementEnd
GRANT usher_facts, usher_replays TO usher_register;

SET LOCAL ROLE usher_owner;
GRANT USAGE ON SCHEMA app TO usher_register;

CREATE TABLE app.users (
    tenant_id             uuid        NOT NULL REFERENCES app.tenants (id),
    id                    uuid        NOT NULL,
    email                 text        NOT NULL CHECK (char_length(email) BETWEEN 3 AND 254 AND position('@' IN email) > 1 AND email = lower(email)),
    name                  text        CHECK (char_length(name) BETWEEN 1 AND 200),
    role                  text        NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    status                text        NOT NULL DEFAULT 'invited' CHECK (status IN ('invited', 'active', 'removed')),
    issuer                text        CHECK (char_length(issuer) <= 255),
    subject               text        CHECK (char_length(subject) BETWEEN 1 AND 255),
    founder               boolean     NOT NULL DEFAULT false,
    token_hash            bytea       CHECK (octet_length(token_hash) = 32),
    pepper_version        int,
    invited_by            text,
    invitation_expires_at timestamptz,
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    joined_at             timestamptz,
    removed_at            timestamptz,
    removed_by            text,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT identity_is_whole CHECK ((issuer IS NULL) = (subject IS NULL)),
    CONSTRAINT active_is_somebody CHECK (status <> 'active' OR subject IS NOT NULL),
    CONSTRAINT invited_has_token CHECK (status <> 'invited' OR (subject IS NULL AND token_hash IS NOT NULL AND invitation_expires_at IS NOT NULL)),
    CONSTRAINT removed_has_time CHECK ((status = 'removed') = (removed_at IS NOT NULL)),
    CONSTRAINT founder_is_somebody CHECK (NOT founder OR subject IS NOT NULL)
);
COMMENT ON TABLE app.users IS
    'People of a tenant; those of the operator''s row are its staff. An invitation is a row that is invited: it becomes active when '
    'the invited person accepts it, under the same id. Nobody is deleted: who was removed is told so.';
COMMENT ON COLUMN app.users.email IS 'In lower case. Of an invited person the only one whose token may accept.';
COMMENT ON COLUMN app.users.subject IS 'Who it is at the issuer: iss and sub of the ID token. NULL until the invitation is accepted.';
COMMENT ON COLUMN app.users.founder IS 'Registered the tenant: one tenant for each identity, also after it has left.';
COMMENT ON COLUMN app.users.token_hash IS 'HMAC-SHA-256 of the invitation''s token under the pepper of pepper_version; kept after its use, to say that it was used.';
CREATE UNIQUE INDEX users_identity_key ON app.users (issuer, subject) WHERE status = 'active';
CREATE UNIQUE INDEX users_founder_key ON app.users (issuer, subject) WHERE founder;
COMMENT ON INDEX app.users_identity_key IS
    'Unique across tenants, one membership for each identity: what is written is the subject of a verified token, so that it tells its owner alone.';
COMMENT ON INDEX app.users_founder_key IS 'As users_identity_key: one registration for each identity.';
CREATE UNIQUE INDEX users_email_key ON app.users (tenant_id, email) WHERE status <> 'removed';
CREATE INDEX users_by_identity ON app.users (issuer, subject);
CREATE INDEX users_by_token ON app.users (token_hash);
ALTER TABLE app.users ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.users FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.users
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT (tenant_id, id, email, name, role, status, issuer, subject, founder, invited_by, invitation_expires_at, created_at, updated_at,
        joined_at, removed_at, removed_by) ON app.users TO usher_admin, usher_register;
GRANT INSERT (tenant_id, id, email, name, role, token_hash, pepper_version, invited_by, invitation_expires_at),
    UPDATE (name, role, status, issuer, subject, token_hash, pepper_version, invited_by, invitation_expires_at, updated_at, joined_at,
        removed_at, removed_by)
    ON app.users TO usher_admin;
GRANT INSERT (tenant_id, id, email, name, role, status, issuer, subject, founder, joined_at) ON app.users TO usher_register;

-- What function register makes beside its owner: the tenant, and its free licence.
GRANT INSERT (id, name, slug) ON app.tenants TO usher_register;
GRANT INSERT (tenant_id, id, product_code, plan_code, max_seats, overdraft_seats, ttl_seconds, seat_per, features, versions,
        max_devices, allowed_hardware, offline_grace_seconds, drain_seconds, starts_at, expires_at, grace_until)
    ON app.licenses TO usher_register;
GRANT INSERT ON app.license_keys TO usher_register;

ALTER TABLE app.api_keys ADD COLUMN rotated_at timestamptz;
COMMENT ON COLUMN app.api_keys.rotated_at IS 'When another key took its place. It lives on until expires_at.';
GRANT SELECT (rotated_at) ON app.api_keys TO usher_admin, usher_operator;
GRANT UPDATE (expires_at, rotated_at) ON app.api_keys TO usher_admin;

-- Before a tenant is known: identity → tenant, and invitation → tenant. What became of them is read as that tenant.
CREATE POLICY resolver_finds ON app.users FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, id, issuer, subject, status, founder, token_hash) ON app.users TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.find_user(p_issuer text, p_subject text) RETURNS TABLE (tenant_id uuid, user_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT u.tenant_id, u.id FROM app.users u
     WHERE u.issuer = p_issuer AND u.subject = p_subject
     ORDER BY u.status = 'active' DESC, u.founder DESC, u.id DESC LIMIT 1
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.find_user(text, text) IS
    'Where an identity is a user; when it is none any more, where it was: first where it registered, else where it came last.';
GRANT EXECUTE ON FUNCTION app.find_user(text, text) TO usher_admin, usher_register;
-- +goose StatementBegin
CREATE FUNCTION app.find_invitation(p_hashes bytea[]) RETURNS TABLE (tenant_id uuid, user_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT u.tenant_id, u.id FROM app.users u WHERE u.token_hash = ANY (p_hashes) LIMIT 1 $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.find_invitation(bytea[]) IS 'Whose invitation it is, by the hashes its token may have; also one that is used or over.';
GRANT EXECUTE ON FUNCTION app.find_invitation(bytea[]) TO usher_admin;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.find_invitation(bytea[]);
DROP FUNCTION app.find_user(text, text);
DROP TABLE app.users;
REVOKE UPDATE (expires_at) ON app.api_keys FROM usher_admin;
ALTER TABLE app.api_keys DROP COLUMN rotated_at;
REVOKE INSERT ON app.license_keys FROM usher_register;
REVOKE INSERT (tenant_id, id, product_code, plan_code, max_seats, overdraft_seats, ttl_seconds, seat_per, features, versions,
        max_devices, allowed_hardware, offline_grace_seconds, drain_seconds, starts_at, expires_at, grace_until)
    ON app.licenses FROM usher_register;
REVOKE INSERT (id, name, slug) ON app.tenants FROM usher_register;
REVOKE USAGE ON SCHEMA app FROM usher_register;
