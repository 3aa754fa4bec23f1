-- +goose Up
SET LOCAL ROLE usher_owner;

-- Seat events are read off what seats leave behind anyway: nobody who asks for a seat waits for them.

ALTER TABLE app.ended_sessions ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN app.ended_sessions.recorded_at IS
    'When the row was written, which may be long after the session ended: the row of who fell silent waits for the next taker or the sweep.';
-- Rows come in about this order: a few bytes for each 32 pages, where a tree would cost each release a write.
CREATE INDEX ended_sessions_recorded ON app.ended_sessions USING brin (recorded_at) WITH (pages_per_range = 32, autosummarize = on);

ALTER TABLE app.seat_hours ADD COLUMN denials_told int NOT NULL DEFAULT 0;
COMMENT ON COLUMN app.seat_hours.denials_told IS 'How many of the denials became events, or were wanted by nobody.';
CREATE INDEX seat_hours_untold ON app.seat_hours (tenant_id) WHERE denials > denials_told;
-- What was counted before is history.
ALTER TABLE app.seat_hours NO FORCE ROW LEVEL SECURITY;
UPDATE app.seat_hours SET denials_told = denials WHERE denials > 0;
ALTER TABLE app.seat_hours FORCE ROW LEVEL SECURITY;

CREATE TABLE app.event_cursor (
    only_row boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    seats_to timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE app.event_cursor IS 'Up to where the rows of sessions were read for events.';
INSERT INTO app.event_cursor DEFAULT VALUES;
GRANT SELECT, UPDATE (seats_to) ON app.event_cursor TO usher_deliver;

GRANT SELECT (tenant_id, id, license_id, seat_no, overdraft, holder, hostname, user_name, instance_id, version, acquired_at, evicted_at, evict_reason,
        evicted_by) ON app.open_sessions TO usher_deliver;
GRANT SELECT (tenant_id, id, license_id, seat_no, overdraft, holder, hostname, user_name, instance_id, version, acquired_at, status,
        end_reason, ended_by, ended_at, recorded_at) ON app.ended_sessions TO usher_deliver;
GRANT SELECT (tenant_id, license_id, hour, denials, denials_told), UPDATE (denials_told) ON app.seat_hours TO usher_deliver;

GRANT SELECT (acquired_at, evicted_at) ON app.open_sessions TO usher_resolver;
CREATE POLICY resolver_finds ON app.ended_sessions FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, recorded_at) ON app.ended_sessions TO usher_resolver;
CREATE POLICY resolver_finds ON app.seat_hours FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, denials, denials_told) ON app.seat_hours TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
-- +goose StatementBegin
CREATE FUNCTION app.seat_event_tenants(p_from timestamptz, p_to timestamptz, p_all boolean) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT s.tenant_id FROM (
        SELECT o.tenant_id FROM app.open_sessions o WHERE o.acquired_at >= p_from AND o.acquired_at < p_to OR o.evicted_at >= p_from AND o.evicted_at < p_to
        UNION
        SELECT e.tenant_id FROM app.ended_sessions e WHERE e.recorded_at >= p_from AND e.recorded_at < p_to) s
     WHERE p_all OR EXISTS (SELECT FROM app.webhooks w WHERE w.tenant_id = s.tenant_id AND w.status = 'active')
    $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.seat_event_tenants(timestamptz, timestamptz, boolean) IS
    'Tenants in which sessions began or were evicted, or rows of ended ones were written, in that time: those with a webhook, or all.';
-- +goose StatementBegin
CREATE FUNCTION app.denial_tenants(p_limit int) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT DISTINCT h.tenant_id FROM app.seat_hours h WHERE h.denials > h.denials_told LIMIT p_limit $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.denial_tenants(int) IS 'Tenants in which somebody found no seat, and nobody was told.';
GRANT EXECUTE ON FUNCTION app.seat_event_tenants(timestamptz, timestamptz, boolean), app.denial_tenants(int) TO usher_deliver;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.denial_tenants(int);
DROP FUNCTION app.seat_event_tenants(timestamptz, timestamptz, boolean);
DROP POLICY resolver_finds ON app.seat_hours;
REVOKE SELECT (tenant_id, denials, denials_told) ON app.seat_hours FROM usher_resolver;
DROP POLICY resolver_finds ON app.ended_sessions;
REVOKE SELECT (tenant_id, recorded_at) ON app.ended_sessions FROM usher_resolver;
REVOKE SELECT (acquired_at, evicted_at) ON app.open_sessions FROM usher_resolver;
REVOKE SELECT (tenant_id, license_id, hour, denials, denials_told), UPDATE (denials_told) ON app.seat_hours FROM usher_deliver;
REVOKE SELECT ON app.ended_sessions FROM usher_deliver;
REVOKE SELECT ON app.open_sessions FROM usher_deliver;
DROP TABLE app.event_cursor;
DROP INDEX app.seat_hours_untold;
ALTER TABLE app.seat_hours DROP COLUMN denials_told;
DROP INDEX app.ended_sessions_recorded;
ALTER TABLE app.ended_sessions DROP COLUMN recorded_at;
