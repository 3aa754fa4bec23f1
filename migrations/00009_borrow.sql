-- +goose Up

-- Function borrow lends seats: it extends what a session's row promises, and opens and closes none.

-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_borrow') THEN
        CREATE ROLE usher_borrow LOGIN NOBYPASSRLS;
    END IF;
    -- Deadlines that hold even when a function forgets its own.
    ALTER ROLE usher_borrow SET statement_timeout = '3s';
    ALTER ROLE usher_borrow SET lock_timeout = '1s';
    ALTER ROLE usher_borrow SET idle_in_transaction_session_timeout = '5s';
    ALTER ROLE usher_borrow SET search_path = 'app';
END
$$;
-- +goose StatementEnd
GRANT usher_facts, usher_pools, usher_signers TO usher_borrow;

SET LOCAL ROLE usher_owner;
GRANT USAGE ON SCHEMA app TO usher_borrow;

ALTER TABLE app.plans ADD COLUMN borrow_reserve_seats int NOT NULL DEFAULT 0 CHECK (borrow_reserve_seats BETWEEN 0 AND 100000);
COMMENT ON COLUMN app.plans.borrow_reserve_seats IS 'The low-water mark: so many of max_seats are never borrowed.';
GRANT UPDATE (borrow_reserve_seats) ON app.plans TO usher_operator;

ALTER TABLE app.licenses ADD COLUMN borrow_reserve_seats int NOT NULL DEFAULT 0 CHECK (borrow_reserve_seats BETWEEN 0 AND 100000);
COMMENT ON COLUMN app.licenses.borrow_reserve_seats IS
    'The low-water mark: at most max_seats less these are borrowed at once. What is borrowed already stays so when it rises.';
GRANT INSERT (borrow_reserve_seats), UPDATE (borrow_reserve_seats) ON app.licenses TO usher_admin;

-- What reads a licence's row and remembers it reads the mark, too.
DROP TRIGGER changed ON app.licenses;
CREATE TRIGGER changed BEFORE UPDATE OF product_code, plan_code, status, status_reason, status_by, max_seats, overdraft_seats,
    borrow_reserve_seats, ttl_seconds, seat_per, features, versions, max_devices, allowed_hardware, offline_grace_seconds,
    drain_seconds, starts_at, expires_at, grace_until ON app.licenses FOR EACH ROW EXECUTE FUNCTION app.license_changed();

COMMENT ON COLUMN app.open_sessions.borrowed_until IS
    'Its holder may believe, without heartbeats, until then. Written before the holder is told; never made earlier while it lasts.';
GRANT UPDATE (borrowed_until) ON app.open_sessions TO usher_borrow, usher_admin;
GRANT UPDATE (borrowed_until) ON app.open_sessions TO usher_sweep; -- to recover borrows that a restore lost

-- +goose StatementBegin
CREATE FUNCTION app.session_borrow(
    p_license uuid, p_session uuid, p_fence_epoch bigint, p_fence_counter bigint, p_until timestamptz, p_beyond_longest boolean,
    OUT verdict text, OUT epoch bigint, OUT borrowed_until timestamptz, OUT remaining_ms bigint, OUT hardware_id text,
    OUT reason text, OUT ended_by text, OUT ended_at timestamptz)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    l record;
    s record;
    tenant record;
    ends timestamptz := date_trunc('milliseconds', p_until);
BEGIN
    -- Two borrows wait for each other here, so that they cannot pass the mark together; and so does a rebuild, which reads
    -- this borrow or begins an epoch that the pool is asked for in vain.
    SELECT x.* INTO l FROM app.licenses x WHERE x.tenant_id = (SELECT app.tenant()) AND x.id = p_license FOR NO KEY UPDATE;
    SELECT o.* INTO s FROM app.open_sessions o
     WHERE o.tenant_id = l.tenant_id AND o.license_id = l.id AND o.id = p_session
       AND o.fence_epoch = p_fence_epoch AND o.fence_counter = p_fence_counter FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        verdict := 'ended';
        RETURN;
    END IF;
    epoch := l.seat_epoch;
    hardware_id := s.hardware_id;
    IF s.evicted_at IS NOT NULL THEN
        verdict := 'evicted';
        reason := s.evict_reason;
        ended_by := s.evicted_by;
        ended_at := s.evicted_at;
        RETURN;
    END IF;
    SELECT t.status, t.status_by INTO tenant FROM app.tenants t WHERE t.id = l.tenant_id;
    reason := app.license_state(tenant.status, l.status, l.starts_at, l.expires_at, l.grace_until, now());
    IF reason <> 'active' THEN
        verdict := 'evicted';
        ended_by := CASE WHEN tenant.status <> 'active' THEN tenant.status_by WHEN l.status <> 'active' THEN l.status_by END;
        RETURN;
    END IF;
    reason := NULL;
    IF ends <= now() THEN
        verdict := 'past';
        RETURN;
    END IF;
    ends := least(ends, greatest(l.expires_at, l.grace_until),
        CASE WHEN NOT p_beyond_longest THEN now() + make_interval(secs => l.offline_grace_seconds) END);
    ends := date_trunc('milliseconds', ends);
    IF s.borrowed_until > now() AND s.borrowed_until >= ends THEN
        ends := s.borrowed_until;
    ELSIF ends <= now() OR s.seat_no > l.max_seats + l.overdraft_seats
        OR (SELECT count(*) FROM app.open_sessions o WHERE o.tenant_id = l.tenant_id AND o.license_id = l.id AND o.id <> s.id
               AND o.borrowed_until > now()) >= l.max_seats - l.borrow_reserve_seats THEN
        verdict := 'limit';
        RETURN;
    ELSE
        UPDATE app.open_sessions o SET borrowed_until = ends WHERE o.tenant_id = l.tenant_id AND o.id = s.id;
    END IF;
    verdict := 'ok';
    borrowed_until := ends;
    remaining_ms := ceil(extract(epoch FROM ends - now()) * 1000);
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.session_borrow(uuid, uuid, bigint, bigint, timestamptz, boolean) IS
    'Writes that a session is borrowed: until p_until, or the licence''s longest borrow from now (unless p_beyond_longest), or when the '
    'licence stops granting, and never earlier than the borrow that lasts. ok, with the epoch in which the pool is to be asked; past, '
    'limit (the mark, or a seat that the licence has no more), evicted (also when the licence grants nothing now), ended.';
GRANT EXECUTE ON FUNCTION app.session_borrow(uuid, uuid, bigint, bigint, timestamptz, boolean) TO usher_borrow, usher_admin;

-- +goose StatementBegin
CREATE FUNCTION app.borrow_withdrawn() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO app.revocations (kind, subject, license_id, ends_at) VALUES ('session', OLD.id, OLD.license_id, OLD.borrowed_until);
    RETURN NULL;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.borrow_withdrawn() IS
    'A borrow that ends before its time, because it was returned or taken away, leaves a receipt that verifies offline: the revocation '
    'list says that it is void. Once for each session: what was evicted is on the list before its row is closed.';
CREATE TRIGGER borrow_evicted AFTER UPDATE OF evicted_at ON app.open_sessions FOR EACH ROW
    WHEN (OLD.evicted_at IS NULL AND NEW.evicted_at IS NOT NULL AND OLD.borrowed_until > now())
    EXECUTE FUNCTION app.borrow_withdrawn();
CREATE TRIGGER borrow_closed AFTER DELETE ON app.open_sessions FOR EACH ROW
    WHEN (OLD.evicted_at IS NULL AND OLD.borrowed_until > now())
    EXECUTE FUNCTION app.borrow_withdrawn();

-- +goose Down
SET LOCAL ROLE usher_owner;
DROP TRIGGER borrow_closed ON app.open_sessions;
DROP TRIGGER borrow_evicted ON app.open_sessions;
DROP FUNCTION app.borrow_withdrawn();
DROP FUNCTION app.session_borrow(uuid, uuid, bigint, bigint, timestamptz, boolean);
REVOKE UPDATE (borrowed_until) ON app.open_sessions FROM usher_borrow, usher_admin, usher_sweep;
COMMENT ON COLUMN app.open_sessions.borrowed_until IS NULL;
DROP TRIGGER changed ON app.licenses;
CREATE TRIGGER changed BEFORE UPDATE OF product_code, plan_code, status, status_reason, status_by, max_seats, overdraft_seats,
    ttl_seconds, seat_per, features, versions, max_devices, allowed_hardware, offline_grace_seconds, drain_seconds, starts_at,
    expires_at, grace_until ON app.licenses FOR EACH ROW EXECUTE FUNCTION app.license_changed();
ALTER TABLE app.licenses DROP COLUMN borrow_reserve_seats;
ALTER TABLE app.plans DROP COLUMN borrow_reserve_seats;
REVOKE USAGE ON SCHEMA app FROM usher_borrow;
RESET ROLE;
REVOKE usher_facts, usher_pools, usher_signers FROM usher_borrow;
