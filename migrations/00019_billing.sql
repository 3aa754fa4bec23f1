-- +goose Up

-- What Stripe knows a tenant by, what the tenant subscribes to there, and which of Stripe's events were taken in.
-- Three functions have login roles of their own: checkout starts a purchase, webhook hears what became of it,
-- subscription changes it. The last two give and take what was sold, through the group usher_billing.

-- +goose StatementBegin
DO $$
DECLARE
    r text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_billing') THEN
        CREATE ROLE usher_billing NOLOGIN NOBYPASSRLS;
    END IF;
    FOREACH r IN ARRAY ARRAY['usher_checkout', 'usher_webhook', 'usher_subscription'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOBYPASSRLS', r);
        END IF;
        EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', r, '3s');
        EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', r, '1s');
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', r, '5s');
        EXECUTE format('ALTER ROLE %I SET search_path = %L', r, 'app');
    END LOOP;
END
$$;
-- +goose StatementEnd
GRANT usher_facts, usher_replays, usher_audits TO usher_checkout;
GRANT usher_facts, usher_seats, usher_audits, usher_notices, usher_billing TO usher_webhook;
GRANT usher_facts, usher_seats, usher_replays, usher_audits, usher_notices, usher_billing TO usher_subscription;

SET LOCAL ROLE usher_owner;
GRANT USAGE ON SCHEMA app TO usher_billing, usher_checkout, usher_webhook, usher_subscription;

CREATE TABLE app.billing_customers (
    tenant_id           uuid        NOT NULL REFERENCES app.tenants (id),
    id                  uuid        NOT NULL,
    stripe_id           text        CHECK (char_length(stripe_id) BETWEEN 1 AND 255),
    checkout_session_id text        CHECK (char_length(checkout_session_id) BETWEEN 1 AND 255),
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    deleted_at          timestamptz,
    PRIMARY KEY (tenant_id, id)
);
COMMENT ON TABLE app.billing_customers IS
    'What Stripe knows a tenant by. The row is written before the customer is made at Stripe, and its id is the idempotency key of '
    'the making: however often that is tried, one customer comes of it.';
COMMENT ON COLUMN app.billing_customers.stripe_id IS 'NULL until Stripe has answered.';
COMMENT ON COLUMN app.billing_customers.checkout_session_id IS 'The newest Checkout Session: the one before it is expired, so that nobody pays twice.';
COMMENT ON COLUMN app.billing_customers.deleted_at IS 'When Stripe said that the customer was deleted there. The next purchase makes another.';
CREATE UNIQUE INDEX billing_customers_one_key ON app.billing_customers (tenant_id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX billing_customers_stripe_key ON app.billing_customers (stripe_id);
COMMENT ON INDEX app.billing_customers_stripe_key IS
    'Unique across tenants: a customer of Stripe''s is one tenant''s. What is written is the id that Stripe gave for this tenant, so that it is no oracle.';
ALTER TABLE app.billing_customers ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.billing_customers FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.billing_customers
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT ON app.billing_customers TO usher_checkout, usher_billing;
GRANT INSERT (tenant_id, id), UPDATE (stripe_id, checkout_session_id, updated_at) ON app.billing_customers TO usher_checkout;
GRANT UPDATE (deleted_at, updated_at) ON app.billing_customers TO usher_webhook;

CREATE TABLE app.subscriptions (
    tenant_id            uuid        NOT NULL,
    id                   text        NOT NULL CHECK (char_length(id) BETWEEN 1 AND 255),
    customer_id          uuid        NOT NULL,
    license_id           uuid,
    status               text        NOT NULL CHECK (status IN ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due',
                                                                'canceled', 'unpaid', 'paused')),
    plan_code            text        NOT NULL REFERENCES app.plans (code),
    cycle                text        NOT NULL CHECK (cycle IN ('monthly', 'annual')),
    seats                int         NOT NULL CHECK (seats BETWEEN 1 AND 100000),
    next_seats           int         NOT NULL CHECK (next_seats BETWEEN 1 AND 100000),
    period_start         timestamptz NOT NULL,
    period_end           timestamptz NOT NULL,
    paid_through         timestamptz,
    grace_until          timestamptz,
    trouble              text        CHECK (trouble IN ('payment_failed', 'payment_refunded', 'payment_disputed', 'subscription_paused')),
    cancel_at_period_end boolean     NOT NULL,
    canceled_at          timestamptz,
    ended_at             timestamptz,
    cancel_reason        text        CHECK (char_length(cancel_reason) <= 500),
    cancel_feedback      text        CHECK (char_length(cancel_feedback) <= 2000),
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES app.billing_customers (tenant_id, id),
    FOREIGN KEY (tenant_id, license_id) REFERENCES app.licenses (tenant_id, id)
);
COMMENT ON TABLE app.subscriptions IS
    'What Stripe said of each subscription when it was last asked, and the licence that was made for it. Stripe''s word is final: '
    'a row is written only from an object that was fetched under the subscription''s lock.';
COMMENT ON COLUMN app.subscriptions.id IS 'Stripe''s own.';
COMMENT ON COLUMN app.subscriptions.license_id IS 'The one that was made for it. NULL until something was paid.';
COMMENT ON COLUMN app.subscriptions.next_seats IS 'The seats from the next period on: fewer than seats after a downgrade.';
COMMENT ON COLUMN app.subscriptions.paid_through IS 'The end of the newest period that is paid; what the licence''s expires_at follows.';
COMMENT ON COLUMN app.subscriptions.grace_until IS 'How long the licence grants beyond what is paid, as things stand.';
COMMENT ON COLUMN app.subscriptions.cancel_reason IS 'Why its owner cancelled it, in their words; with cancel_feedback.';
CREATE INDEX subscriptions_by_license ON app.subscriptions (tenant_id, license_id);
CREATE INDEX subscriptions_by_customer ON app.subscriptions (tenant_id, customer_id);
ALTER TABLE app.subscriptions ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.subscriptions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.subscriptions
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT ON app.subscriptions TO usher_checkout, usher_billing;
GRANT INSERT (tenant_id, id, customer_id, license_id, status, plan_code, cycle, seats, next_seats, period_start, period_end,
        paid_through, grace_until, trouble, cancel_at_period_end, canceled_at, ended_at),
    UPDATE (license_id, status, plan_code, cycle, seats, next_seats, period_start, period_end, paid_through, grace_until, trouble,
        cancel_at_period_end, canceled_at, ended_at, updated_at)
    ON app.subscriptions TO usher_billing;
GRANT UPDATE (cancel_reason, cancel_feedback) ON app.subscriptions TO usher_subscription;

-- What was sold is made and changed as the operator would do it.
GRANT INSERT (tenant_id, id, product_code, plan_code, max_seats, overdraft_seats, ttl_seconds, seat_per, features, versions,
        max_devices, allowed_hardware, offline_grace_seconds, drain_seconds, starts_at, expires_at, grace_until, borrow_reserve_seats),
    UPDATE (product_code, plan_code, status, status_reason, status_by, max_seats, overdraft_seats, ttl_seconds, seat_per, features,
        versions, max_devices, allowed_hardware, offline_grace_seconds, drain_seconds, starts_at, expires_at, grace_until,
        borrow_reserve_seats, updated_at)
    ON app.licenses TO usher_billing;
GRANT INSERT ON app.license_keys TO usher_billing;

CREATE TABLE app.stripe_events (
    tenant_id       uuid        NOT NULL REFERENCES app.tenants (id),
    id              text        NOT NULL CHECK (char_length(id) BETWEEN 1 AND 255),
    type            text        NOT NULL CHECK (char_length(type) BETWEEN 1 AND 255),
    api_version     text        NOT NULL CHECK (char_length(api_version) <= 255),
    object_id       text        NOT NULL CHECK (char_length(object_id) <= 255),
    subscription_id text        CHECK (char_length(subscription_id) <= 255),
    status          text        NOT NULL CHECK (status IN ('done', 'failed', 'refused')),
    attempts        int         NOT NULL DEFAULT 1,
    error           text        CHECK (char_length(error) <= 1000),
    created_at      timestamptz NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now(),
    handled_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT failed_says_why CHECK ((status = 'done') = (error IS NULL))
);
COMMENT ON TABLE app.stripe_events IS
    'Stripe''s events that are about a tenant. One that is done was written in the transaction that had its effect; one that failed '
    'stays until it succeeds, by Stripe''s own repetition or by the operator''s. Payloads are not kept: they are only triggers.';
COMMENT ON COLUMN app.stripe_events.object_id IS 'What the event is about, by Stripe''s id.';
COMMENT ON COLUMN app.stripe_events.created_at IS 'When it happened, by Stripe''s clock.';
CREATE INDEX stripe_events_failed ON app.stripe_events (received_at) WHERE status = 'failed';
CREATE INDEX stripe_events_by_id ON app.stripe_events (id);
ALTER TABLE app.stripe_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.stripe_events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON app.stripe_events
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT (tenant_id, id, type, api_version, object_id, subscription_id, status, error, created_at),
    UPDATE (subscription_id, status, attempts, error, handled_at)
    ON app.stripe_events TO usher_webhook;

-- People use checkout and subscription, the operator's people and keys replay events.
GRANT SELECT (tenant_id, id, email, name, role, status, issuer, subject, founder) ON app.users TO usher_checkout, usher_subscription, usher_webhook;
GRANT SELECT (tenant_id, id, name, scopes, pepper_version, hint, created_by, created_at, expires_at, revoked_at, last_used_at, rotated_at),
    UPDATE (last_used_at) ON app.api_keys TO usher_webhook;

-- Before a tenant is known: Stripe's customer → tenant, and event → tenant.
CREATE POLICY resolver_finds ON app.billing_customers FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, stripe_id) ON app.billing_customers TO usher_resolver;
CREATE POLICY resolver_finds ON app.stripe_events FOR SELECT TO usher_resolver USING (true);
GRANT SELECT (tenant_id, id) ON app.stripe_events TO usher_resolver;
RESET ROLE;
GRANT CREATE ON SCHEMA app TO usher_resolver;
SET LOCAL ROLE usher_resolver;
GRANT EXECUTE ON FUNCTION app.find_user(text, text) TO usher_checkout, usher_subscription, usher_webhook;
GRANT EXECUTE ON FUNCTION app.find_api_key(bytea[]) TO usher_webhook;
-- +goose StatementBegin
CREATE FUNCTION app.find_billing_customer(p_stripe_id text) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT c.tenant_id FROM app.billing_customers c WHERE c.stripe_id = p_stripe_id $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.find_billing_customer(text) IS 'Whose customer of Stripe''s it is, also one that was deleted there.';
GRANT EXECUTE ON FUNCTION app.find_billing_customer(text) TO usher_webhook;
-- +goose StatementBegin
CREATE FUNCTION app.find_stripe_event(p_id text) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT e.tenant_id FROM app.stripe_events e WHERE e.id = p_id LIMIT 1 $$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.find_stripe_event(text) IS 'Whose event it is, for the operator who has it handled again.';
GRANT EXECUTE ON FUNCTION app.find_stripe_event(text) TO usher_webhook;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM usher_resolver;

-- +goose Down
DROP FUNCTION app.find_stripe_event(text);
DROP FUNCTION app.find_billing_customer(text);
DROP TABLE app.stripe_events;
DROP TABLE app.subscriptions;
DROP TABLE app.billing_customers;
REVOKE EXECUTE ON FUNCTION app.find_user(text, text) FROM usher_checkout, usher_subscription, usher_webhook;
REVOKE EXECUTE ON FUNCTION app.find_api_key(bytea[]) FROM usher_webhook;
REVOKE ALL ON app.licenses, app.license_keys, app.users, app.api_keys FROM usher_billing, usher_checkout, usher_subscription, usher_webhook;
REVOKE USAGE ON SCHEMA app FROM usher_billing, usher_checkout, usher_subscription, usher_webhook;
REVOKE usher_facts, usher_replays, usher_audits FROM usher_checkout;
REVOKE usher_facts, usher_seats, usher_audits, usher_notices, usher_billing FROM usher_webhook;
REVOKE usher_facts, usher_seats, usher_replays, usher_audits, usher_notices, usher_billing FROM usher_subscription;
