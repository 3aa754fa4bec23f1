-- +goose Up

-- How long what waits has waited: for the sweep to measure, whose alerts notice that a function does not do its work.
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
CREATE FUNCTION app.waiting() RETURNS TABLE (queue text, waiting bigint, seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'pools', count(*), coalesce(extract(epoch FROM now() - min(o.created_at)), 0)
      FROM app.outbox o WHERE o.topic IN ('license.changed', 'session.evicted')
    UNION ALL
    SELECT 'mails', count(*), coalesce(extract(epoch FROM now() - min(m.next_at)), 0)
      FROM app.mails m WHERE m.status = 'pending' AND m.next_at <= now()
    UNION ALL
    SELECT 'events', count(*), coalesce(extract(epoch FROM now() - min(e.recorded_at)), 0)
      FROM app.events e WHERE e.dispatched_at IS NULL
    UNION ALL
    SELECT 'webhooks', count(*), coalesce(extract(epoch FROM now() - min(d.next_at)), 0)
      FROM app.webhook_deliveries d WHERE d.status = 'pending' AND d.next_at <= now()
    UNION ALL
    SELECT 'stripe_events', count(*), coalesce(extract(epoch FROM now() - min(s.received_at)), 0)
      FROM app.stripe_events s WHERE s.status = 'failed'
$$;
COMMENT ON FUNCTION app.waiting() IS
    'Of each queue, how much is due and how long the longest has waited: pools that were not told, mails, events without their deliveries, '
    'deliveries, and events of Stripe''s that had no effect. Numbers, of all tenants together.';
REVOKE ALL ON FUNCTION app.waiting() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.waiting() TO usher_sweep;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.waiting();
