-- +goose Up

-- What goes wrong, and how far the journal outside this database has each audit chain. Function incident has a login role of
-- its own: it may suspend a tenant, revoke what it was sold and its API keys, and end its sessions. It is a member of usher_rotate,
-- because revoking and replacing signing keys is among its actions. Whoever writes checkpoints is a member of usher_checkpoints.

-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_checkpoints') THEN
        CREATE ROLE usher_checkpoints NOLOGIN NOBYPASSRLS;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_incident') THEN
        CREATE ROLE usher_incident LOGIN NOBYPASSRLS;
    END IF;
    ALTER ROLE usher_incident SET statement_timeout = '3s';
    ALTER ROLE usher_incident SET lock_timeout = '1s';
    ALTER ROLE usher_incident SET idle_in_transaction_session_timeout = '5s';
    ALTER ROLE usher_incident SET search_path = 'app';
END
$$;
-- +goose StatementEnd
GRANT usher_audits, usher_checkpoints, usher_facts, usher_notices, usher_replays, usher_rotate, usher_seats TO usher_incident;

SET LOCAL ROLE usher_owner;
GRANT USAGE ON SCHEMA app TO usher_checkpoints, usher_incident;

-- Checkpoints.
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
GRANT SELECT ON app.audit_chains, app.audit_entries TO usher_checkpoints;
-- They are signed by a root.
GRANT SELECT (kid, kind, public_key, certificate, issuer_kid, kms_version, published_at, activated_at, retired_at, revoked_at)
    ON app.signing_keys TO usher_checkpoints;

-- Incidents. They are the operator's, whomever they are about, and stay when that is gone: no row hangs on them or they on one.
CREATE TABLE app.incidents (
    id             uuid        PRIMARY KEY,
    severity       text        NOT NULL CHECK (severity IN ('P0', 'P1', 'P2', 'P3')),
    kind           text        NOT NULL CHECK (kind ~ '^[a-z][a-z0-9_]{0,59}$'),
    summary        text        NOT NULL CHECK (char_length(summary) BETWEEN 1 AND 500),
    status         text        NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'resolved')),
    about_tenant   uuid,
    about_license  uuid,
    about_user     uuid,
    about_api_key  uuid,
    about_kid      text        CHECK (char_length(about_kid) BETWEEN 1 AND 64),
    opened_by      text        NOT NULL CHECK (char_length(opened_by) BETWEEN 1 AND 300),
    opened_at      timestamptz NOT NULL DEFAULT now(),
    respond_by     timestamptz NOT NULL,
    responded_at   timestamptz,
    resolved_at    timestamptz,
    resolved_by    text        CHECK (char_length(resolved_by) BETWEEN 1 AND 300),
    resolution     text        CHECK (char_length(resolution) BETWEEN 1 AND 2000),
    offline        boolean     NOT NULL DEFAULT false,
    detected_as    text        CHECK (char_length(detected_as) BETWEEN 1 AND 200),
    CONSTRAINT resolved_is_whole CHECK ((status = 'resolved') = (resolved_at IS NOT NULL) AND (resolved_at IS NULL) = (resolved_by IS NULL)),
    CONSTRAINT license_has_tenant CHECK (about_tenant IS NOT NULL OR (about_license IS NULL AND about_user IS NULL AND about_api_key IS NULL))
);
COMMENT ON TABLE app.incidents IS
    'What went wrong, whom it is about, and what became of it. Its timeline is in the operator''s audit chain and in the journal.';
COMMENT ON COLUMN app.incidents.about_tenant IS 'Of a licence, a user or an API key: whose it is.';
COMMENT ON COLUMN app.incidents.respond_by IS 'When somebody should have looked at it: as its severity says.';
COMMENT ON COLUMN app.incidents.responded_at IS 'When a person first did something about it: opened it, noted something or resolved it.';
COMMENT ON COLUMN app.incidents.offline IS 'It was opened while this database was out, and came here from the journal.';
COMMENT ON COLUMN app.incidents.detected_as IS 'What was seen, and of whom: of each there is one open incident at a time. NULL when a person opened it.';
CREATE UNIQUE INDEX incidents_one_open ON app.incidents (detected_as) WHERE status = 'open' AND detected_as IS NOT NULL;
CREATE INDEX incidents_by_detection ON app.incidents (detected_as, resolved_at) WHERE detected_as IS NOT NULL;
CREATE INDEX incidents_open ON app.incidents (opened_at) WHERE status = 'open';

CREATE TABLE app.incident_actions (
    incident_id uuid        NOT NULL REFERENCES app.incidents (id),
    action      text        NOT NULL CHECK (action IN ('freeze_tenant', 'end_sessions', 'revoke_licenses', 'revoke_api_keys', 'revoke_signing_key',
                                                       'rotate_signing_key', 'unfreeze_tenant')),
    place       int         NOT NULL,
    outcome     text        NOT NULL DEFAULT 'pending' CHECK (outcome IN ('pending', 'done', 'failed')),
    detail      text        NOT NULL DEFAULT '' CHECK (char_length(detail) <= 500),
    at          timestamptz,
    PRIMARY KEY (incident_id, action),
    CONSTRAINT decided_has_time CHECK ((outcome = 'pending') = (at IS NULL))
);
COMMENT ON TABLE app.incident_actions IS
    'What an incident''s opening asked for, and what became of each. Each may be done again without doing more; what is pending the next '
    'run of the watch does.';
CREATE INDEX incident_actions_pending ON app.incident_actions (incident_id) WHERE outcome = 'pending';

CREATE TABLE app.incident_evidence (
    incident_id uuid        NOT NULL REFERENCES app.incidents (id),
    minute      timestamptz NOT NULL,
    source      text        NOT NULL CHECK (char_length(source) BETWEEN 1 AND 200),
    count       bigint      NOT NULL CHECK (count > 0),
    PRIMARY KEY (incident_id, minute, source)
);
COMMENT ON TABLE app.incident_evidence IS 'What an incident that opened by itself was opened for: how often it was seen in a minute, from which address or by whom.';

CREATE TABLE app.incident_entries (
    id          uuid  PRIMARY KEY,
    incident_id uuid  NOT NULL,
    body        jsonb NOT NULL CHECK (jsonb_typeof(body) = 'object')
);
COMMENT ON TABLE app.incident_entries IS
    'Entries of timelines that the journal does not have yet: written in the transaction that does the act, deleted when the journal has them.';

CREATE TABLE app.freezes (
    about_tenant uuid        PRIMARY KEY,
    frozen       boolean     NOT NULL,
    reason       text        NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    by           text        NOT NULL CHECK (char_length(by) BETWEEN 1 AND 300),
    at           timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE app.freezes IS
    'Tenants that an incident or a switch froze, or froze no more, and when: where this and the switches in the journal disagree, because '
    'one of them was out, the later word counts.';

GRANT SELECT, INSERT, UPDATE (frozen, reason, by, at) ON app.freezes TO usher_incident;
GRANT SELECT, INSERT, UPDATE (status, responded_at, resolved_at, resolved_by, resolution) ON app.incidents TO usher_incident;
GRANT SELECT, INSERT, UPDATE (outcome, detail, at) ON app.incident_actions TO usher_incident;
GRANT SELECT, INSERT, UPDATE (count) ON app.incident_evidence TO usher_incident;
GRANT SELECT, INSERT, DELETE ON app.incident_entries TO usher_incident;

-- What its actions change.
GRANT UPDATE (status, status_reason, status_by, updated_at) ON app.tenants TO usher_incident;
GRANT UPDATE (status, status_reason, status_by) ON app.licenses TO usher_incident;
GRANT SELECT (name, hint, created_by, created_at, rotated_at), UPDATE (revoked_at) ON app.api_keys TO usher_incident;
GRANT UPDATE (evicted_at, evict_reason, evicted_by) ON app.open_sessions TO usher_incident;
GRANT SELECT (tenant_id, id, email, name, role, status, issuer, subject) ON app.users TO usher_incident;
RESET ROLE;
SET LOCAL ROLE usher_resolver;
GRANT EXECUTE ON FUNCTION app.find_user(text, text) TO usher_incident;
RESET ROLE;
SET LOCAL ROLE usher_owner;

-- Across tenants: whose chain has grown; whose a licence, a user or an API key is that an incident is about.
CREATE POLICY resolver_lists ON app.audit_chains FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, seq) ON app.audit_chains TO usher_resolver;
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
-- +goose StatementBegin
CREATE FUNCTION app.incident_tenant(p_license uuid, p_user uuid, p_api_key uuid) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT l.tenant_id FROM app.licenses l WHERE l.id = p_license
    UNION ALL
    SELECT u.tenant_id FROM app.users u WHERE u.id = p_user
    UNION ALL
    SELECT k.tenant_id FROM app.api_keys k WHERE k.id = p_api_key
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.incident_tenant(uuid, uuid, uuid) IS 'Whose the things are that an incident is about: a row for each that is there.';
GRANT EXECUTE ON FUNCTION app.incident_tenant(uuid, uuid, uuid) TO usher_incident;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.incident_tenant(uuid, uuid, uuid);
DROP FUNCTION app.pending_checkpoints(uuid, int);
DROP POLICY resolver_lists ON app.audit_chains;
REVOKE SELECT (tenant_id, seq) ON app.audit_chains FROM usher_resolver;
RESET ROLE;
SET LOCAL ROLE usher_resolver;
REVOKE EXECUTE ON FUNCTION app.find_user(text, text) FROM usher_incident;
RESET ROLE;
SET LOCAL ROLE usher_owner;
REVOKE SELECT (tenant_id, id, email, name, role, status, issuer, subject) ON app.users FROM usher_incident;
REVOKE UPDATE (evicted_at, evict_reason, evicted_by) ON app.open_sessions FROM usher_incident;
REVOKE SELECT (name, hint, created_by, created_at, rotated_at), UPDATE (revoked_at) ON app.api_keys FROM usher_incident;
REVOKE UPDATE (status, status_reason, status_by) ON app.licenses FROM usher_incident;
REVOKE UPDATE (status, status_reason, status_by, updated_at) ON app.tenants FROM usher_incident;
DROP TABLE app.freezes;
DROP TABLE app.incident_entries;
DROP TABLE app.incident_evidence;
DROP TABLE app.incident_actions;
DROP TABLE app.incidents;
REVOKE SELECT (kid, kind, public_key, certificate, issuer_kid, kms_version, published_at, activated_at, retired_at, revoked_at)
    ON app.signing_keys FROM usher_checkpoints;
REVOKE SELECT ON app.audit_chains, app.audit_entries FROM usher_checkpoints;
DROP TABLE app.checkpoints;
REVOKE USAGE ON SCHEMA app FROM usher_checkpoints, usher_incident;
RESET ROLE;
REVOKE usher_audits, usher_checkpoints, usher_facts, usher_notices, usher_replays, usher_rotate, usher_seats FROM usher_incident;
