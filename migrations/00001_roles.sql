-- +goose Up

-- Roles are the outer wall. One NOLOGIN role owns everything and is used by the migrate job alone; group
-- roles carry grants; each function logs in as a role of its own, which owns nothing, cannot bypass
-- row-level security, cannot create anything, and holds only the groups its flow needs.
-- Roles belong to the whole cluster, so this file may run in a second database beside them.

-- +goose StatementBegin
DO $$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['usher_owner', 'usher_resolver', 'usher_facts', 'usher_pools', 'usher_seats', 'usher_replays'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOBYPASSRLS', r);
        END IF;
    END LOOP;
    FOREACH r IN ARRAY ARRAY['usher_validate', 'usher_acquire', 'usher_heartbeat', 'usher_release',
                             'usher_sweep', 'usher_admin', 'usher_operator'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOBYPASSRLS', r);
        END IF;
        -- Deadlines that hold even when a function forgets its own.
        EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', r, '3s');
        EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', r, '1s');
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', r, '5s');
        EXECUTE format('ALTER ROLE %I SET search_path = %L', r, 'app');
    END LOOP;
    -- The migrate job must be able to hand objects over to their owners.
    EXECUTE format('GRANT usher_owner, usher_resolver TO %I', current_user);
    -- By default everybody may make temporary tables, which would be found before ours.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;
-- +goose StatementEnd

-- facts: what was sold; pools: to rebuild a pool and to say how a session ended; seats: to open and close sessions, too;
-- replays: idempotent answers.
GRANT usher_pools TO usher_seats;
GRANT usher_facts TO usher_validate, usher_acquire, usher_release, usher_admin;
GRANT usher_pools TO usher_heartbeat;
GRANT usher_seats TO usher_acquire, usher_release, usher_sweep, usher_admin;
GRANT usher_replays TO usher_acquire, usher_admin;

CREATE SCHEMA app AUTHORIZATION usher_owner;
COMMENT ON SCHEMA app IS 'Usher: tenants, what they were sold, and who sits.';
GRANT USAGE ON SCHEMA app TO usher_resolver, usher_validate, usher_acquire, usher_heartbeat, usher_release,
    usher_sweep, usher_admin, usher_operator;
REVOKE ALL ON SCHEMA public FROM PUBLIC;


-- Functions are executable by PUBLIC unless said otherwise; here nothing is.
ALTER DEFAULT PRIVILEGES FOR ROLE usher_owner, usher_resolver REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

SET LOCAL ROLE usher_owner;

-- +goose StatementBegin
CREATE FUNCTION app.tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('app.current_tenant_id', true), '')::uuid $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.tenant() IS
    'The tenant of this transaction, NULL when none was set (after a transaction the setting is the empty string). '
    'Policies read it as (select app.tenant()), so that the planner evaluates it once a statement.';
GRANT EXECUTE ON FUNCTION app.tenant() TO PUBLIC;

-- +goose StatementBegin
CREATE FUNCTION app.new_id() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$
    -- A random UUID (version 4) with the milliseconds written over its first 48 bits, and the bits 52 and 53, which
    -- are 00 in a 4, set: version 7.
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.new_id() IS 'A UUIDv7, for rows that the database itself makes: ids in the order in which they were made.';
GRANT EXECUTE ON FUNCTION app.new_id() TO usher_seats;

-- +goose Down
DROP SCHEMA app CASCADE;
