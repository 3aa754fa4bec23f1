-- +goose Up

-- Who cancels at once pays for what was used until then: function subscription tells Stripe of it, as the meter does, before the
-- subscription ends there.
SET LOCAL ROLE usher_owner;
GRANT SELECT, INSERT (tenant_id, license_id, metric, hour, quantity), UPDATE (quantity, settled) ON app.usage_hours TO usher_subscription;
GRANT SELECT, INSERT (tenant_id, license_id, metric, month, quantity), UPDATE (quantity) ON app.usage_months TO usher_subscription;
GRANT SELECT, INSERT (tenant_id, id, license_id, metric, hour, quantity, customer, event_name, subscription_id),
    UPDATE (status, attempts, next_at, sent_at, finished_at, error, told_at) ON app.usage_reports TO usher_subscription;
GRANT SELECT, INSERT, DELETE ON app.overdraft_counts TO usher_subscription;
GRANT SELECT (tenant_id, license_id, seat_no, overdraft, acquired_at, evicted_at) ON app.open_sessions TO usher_subscription;
GRANT SELECT (tenant_id, license_id, seat_no, overdraft, acquired_at, ended_at, recorded_at) ON app.ended_sessions TO usher_subscription;
-- Usage records, too, are compared with Stripe each night.
GRANT SELECT (told_at) ON app.usage_reports TO usher_expire;
COMMENT ON COLUMN app.usage_reports.told_at IS
    'The second under which Stripe has it, where that is not the last of its hour: of a usage record, and of an hour that ran when its '
    'subscription was ended at once. It is fixed before it is first sent: of one second Stripe is told the sum of all records that have it, so that '
    'telling it again changes nothing.';
RESET ROLE;

-- +goose Down
SET LOCAL ROLE usher_owner;
COMMENT ON COLUMN app.usage_reports.told_at IS
    'Of a usage record: the second under which Stripe has it. It is fixed before it is first sent: of one second Stripe is told the sum of all '
    'reports that have it, so that telling it again changes nothing.';
REVOKE SELECT (told_at) ON app.usage_reports FROM usher_expire;
REVOKE SELECT (tenant_id, license_id, seat_no, overdraft, acquired_at, ended_at, recorded_at) ON app.ended_sessions FROM usher_subscription;
REVOKE SELECT (tenant_id, license_id, seat_no, overdraft, acquired_at, evicted_at) ON app.open_sessions FROM usher_subscription;
REVOKE ALL ON app.overdraft_counts FROM usher_subscription;
REVOKE ALL ON app.usage_reports FROM usher_subscription;
REVOKE ALL ON app.usage_months FROM usher_subscription;
REVOKE ALL ON app.usage_hours FROM usher_subscription;
RESET ROLE;
