-- +goose Up

-- Who signs, who publishes, who rotates. The group usher_signers may read wrapped receipt keys, which are of use only to
-- whoever may also ask Cloud KMS to unwrap them: a function that signs receipts is a member, and no other.

-- +goose StatementBegin
DO $$
DECLARE
    r text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_signers') THEN
        CREATE ROLE usher_signers NOLOGIN NOBYPASSRLS;
    END IF;
    FOREACH r IN ARRAY ARRAY['usher_keys', 'usher_rotate'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOBYPASSRLS', r);
        END IF;
        -- Deadlines that hold even when a function forgets its own.
        EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', r, '3s');
        EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', r, '1s');
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', r, '5s');
        EXECUTE format('ALTER ROLE %I SET search_path = %L', r, 'app');
    END LOOP;
END
$$;
-- +goose StatementEnd
GRANT usher_signers TO usher_validate, usher_acquire;

SET LOCAL ROLE usher_owner;
GRANT USAGE ON SCHEMA app TO usher_signers, usher_keys, usher_rotate;

CREATE TABLE app.signing_keys (
    kid            text        PRIMARY KEY,
    kind           text        NOT NULL CHECK (kind IN ('root', 'receipt', 'mac')),
    public_key     bytea,
    certificate    bytea,
    issuer_kid     text        REFERENCES app.signing_keys (kid),
    kms_version    text        UNIQUE,
    wrapped_key    bytea,
    not_before     timestamptz,
    not_after      timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    published_at   timestamptz,
    activated_at   timestamptz,
    retired_at     timestamptz,
    disabled_at    timestamptz,
    destroyed_at   timestamptz,
    revoked_at     timestamptz,
    revoked_reason text        CHECK (char_length(revoked_reason) BETWEEN 1 AND 500),
    revoked_by     text,
    CONSTRAINT kid_fits_kind CHECK (
        CASE kind WHEN 'mac' THEN kid ~ '^[A-Za-z0-9_-]{1,8}$' ELSE kid ~ '^[A-Za-z0-9_-]{43}$' END),
    CONSTRAINT root_is_in_kms CHECK ((kind = 'root') = (kms_version IS NOT NULL)),
    CONSTRAINT receipt_key_is_wrapped CHECK (kind = 'receipt' OR wrapped_key IS NULL),
    CONSTRAINT receipt_key_has_window CHECK (
        CASE kind WHEN 'receipt' THEN not_before IS NOT NULL AND not_after > not_before AND not_after <= not_before + interval '26 hours'
                  ELSE not_before IS NULL AND not_after IS NULL END),
    CONSTRAINT public_key_is_kept CHECK ((kind = 'mac') = (public_key IS NULL)),
    CONSTRAINT receipt_key_is_certified CHECK (kind <> 'receipt' OR (certificate IS NOT NULL AND issuer_kid IS NOT NULL)),
    CONSTRAINT certified_by_somebody CHECK ((certificate IS NULL) = (issuer_kid IS NULL)),
    CONSTRAINT mac_key_is_elsewhere CHECK (kind <> 'mac' OR certificate IS NULL),
    CONSTRAINT active_was_published CHECK (activated_at IS NULL OR published_at IS NOT NULL),
    CONSTRAINT destroyed_was_used_no_more CHECK (destroyed_at IS NULL OR kind = 'receipt' OR retired_at IS NOT NULL OR revoked_at IS NOT NULL),
    CONSTRAINT destroyed_is_not_here CHECK (destroyed_at IS NULL OR wrapped_key IS NULL),
    CONSTRAINT revoked_has_reason CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL) AND (revoked_at IS NULL) = (revoked_by IS NULL))
);
COMMENT ON TABLE app.signing_keys IS
    'Every key that ever signed, or is to sign: roots, whose private half is in Cloud KMS; receipt keys, whose private half is here, '
    'wrapped; and the names of the keys of seat tokens, which are in Secret Manager. What a key is follows from its times. Nothing is '
    'ever deleted: what an old key signed stays verifiable. Signing keys are the deployment''s: there is no tenant.';
COMMENT ON COLUMN app.signing_keys.kid IS 'The RFC 7638 SHA-256 thumbprint in base64url; of a mac key its name on the ring.';
COMMENT ON COLUMN app.signing_keys.public_key IS 'SubjectPublicKeyInfo, DER. Kept here because Cloud KMS answers none of a disabled version.';
COMMENT ON COLUMN app.signing_keys.certificate IS 'X.509, DER, by issuer_kid. NULL for a root for which no root stood up: the first one.';
COMMENT ON COLUMN app.signing_keys.kms_version IS 'The CryptoKeyVersion''s resource name.';
COMMENT ON COLUMN app.signing_keys.wrapped_key IS
    'PKCS #8, encrypted by Cloud KMS with the kid as additional data. Forgotten when the window is over or the key was revoked.';
COMMENT ON COLUMN app.signing_keys.not_before IS 'The window of a receipt key, as its certificate says; at most 26 hours.';
COMMENT ON COLUMN app.signing_keys.published_at IS 'Since when the key set, or the ring, has it.';
COMMENT ON COLUMN app.signing_keys.activated_at IS 'Since when it signs. Receipt keys have none: their window says it.';
COMMENT ON COLUMN app.signing_keys.retired_at IS 'Since when it signs no more. What it signed before is believed.';
COMMENT ON COLUMN app.signing_keys.disabled_at IS 'Of a root: since when Cloud KMS signs with it no more.';
COMMENT ON COLUMN app.signing_keys.destroyed_at IS 'Of a root: its destruction was asked for. Of a receipt key: forgotten. Of a mac key: off the ring.';
COMMENT ON COLUMN app.signing_keys.revoked_at IS 'Since when nothing that it signed is believed, whenever it was signed.';
-- Two rotations at once make one key for a turn: its end names the turn.
CREATE UNIQUE INDEX signing_keys_one_a_turn ON app.signing_keys (not_after)
    WHERE kind = 'receipt' AND revoked_at IS NULL AND retired_at IS NULL;
CREATE UNIQUE INDEX signing_keys_one_active_root ON app.signing_keys (kind)
    WHERE kind = 'root' AND activated_at IS NOT NULL AND revoked_at IS NULL AND retired_at IS NULL;
CREATE INDEX signing_keys_by_window ON app.signing_keys (kind, not_after);

GRANT SELECT (kid, kind, public_key, certificate, issuer_kid, kms_version, wrapped_key, not_before, not_after, published_at, activated_at,
              retired_at, revoked_at)
    ON app.signing_keys TO usher_signers;
-- Administration signs licence files, with a root.
GRANT SELECT (kid, kind, public_key, certificate, issuer_kid, kms_version, published_at, activated_at, retired_at, revoked_at)
    ON app.signing_keys TO usher_admin;
GRANT SELECT (kid, kind, public_key, certificate, issuer_kid, kms_version, not_before, not_after, created_at, published_at, activated_at,
              retired_at, disabled_at, destroyed_at, revoked_at)
    ON app.signing_keys TO usher_keys;
GRANT SELECT (kid, kind, public_key, certificate, issuer_kid, kms_version, not_before, not_after, created_at, published_at, activated_at,
              retired_at, disabled_at, destroyed_at, revoked_at, revoked_reason, revoked_by),
    INSERT (kid, kind, public_key, certificate, issuer_kid, kms_version, wrapped_key, not_before, not_after, created_at, published_at, activated_at),
    UPDATE (wrapped_key, published_at, activated_at, retired_at, disabled_at, destroyed_at, revoked_at, revoked_reason, revoked_by)
    ON app.signing_keys TO usher_rotate;

CREATE TABLE app.rotation_turn (
    one  boolean     PRIMARY KEY DEFAULT true CHECK (one),
    run  uuid,
    ends timestamptz NOT NULL DEFAULT '-infinity'
);
COMMENT ON TABLE app.rotation_turn IS
    'Which run of function rotate has its turn, and until when: two at once would both make what is missing. It is no lock of a '
    'transaction, because a run talks with Cloud KMS for longer than a transaction may be idle.';
INSERT INTO app.rotation_turn DEFAULT VALUES;
GRANT SELECT (run, ends), UPDATE (run, ends) ON app.rotation_turn TO usher_rotate;

-- The emergency calls of function rotate are the operator's: it recognises API keys.
GRANT SELECT (tenant_id, id, name, scopes, expires_at, revoked_at, last_used_at), UPDATE (last_used_at) ON app.api_keys TO usher_rotate;
GRANT SELECT (id, kind, status) ON app.tenants TO usher_rotate;
RESET ROLE;
SET LOCAL ROLE usher_resolver;
GRANT EXECUTE ON FUNCTION app.find_api_key(bytea[]) TO usher_rotate;
RESET ROLE;
SET LOCAL ROLE usher_owner;

CREATE TABLE app.revocations (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text        NOT NULL CHECK (kind IN ('license', 'session')),
    subject    uuid        NOT NULL,
    license_id uuid        NOT NULL,
    ends_at    timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT license_is_its_own_subject CHECK (kind <> 'license' OR subject = license_id)
);
COMMENT ON TABLE app.revocations IS
    'Promises that were withdrawn before their time: what the signed revocation list says of licences and sessions. Written by triggers '
    'alone. It names ids and no tenant, for so does the list, which everybody may read.';
COMMENT ON COLUMN app.revocations.subject IS 'The licence, or the session.';
COMMENT ON COLUMN app.revocations.license_id IS 'Of whose shard of the list it is.';
COMMENT ON COLUMN app.revocations.ends_at IS 'When the last promise that it withdraws has run out by itself: then the list forgets it.';
CREATE INDEX revocations_alive ON app.revocations (ends_at, id);
GRANT SELECT (id, kind, subject, license_id, ends_at) ON app.revocations TO usher_keys;

CREATE TABLE app.revocation_lists (
    version   bigint      PRIMARY KEY CHECK (version > 0),
    list      text        NOT NULL,
    signer    text        NOT NULL REFERENCES app.signing_keys (kid),
    cutoff    timestamptz NOT NULL,
    last_id   bigint      NOT NULL CHECK (last_id >= 0),
    signed_at timestamptz NOT NULL
);
COMMENT ON TABLE app.revocation_lists IS
    'The signed revocation lists, so that every instance serves the same and Cloud KMS signs once. The newest counts.';
COMMENT ON COLUMN app.revocation_lists.cutoff IS 'It says what ends after this, of the revocations up to last_id: so its shards can be made again.';
GRANT SELECT, INSERT ON app.revocation_lists TO usher_keys;
GRANT SELECT (version) ON app.revocation_lists TO usher_signers;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.license_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF (NEW.ttl_seconds < OLD.ttl_seconds) THEN
        NEW.ttl_floor_seconds := greatest(OLD.ttl_seconds,
            CASE WHEN OLD.ttl_floor_until > now() THEN OLD.ttl_floor_seconds ELSE 0 END);
        NEW.ttl_floor_until := 'infinity';
    END IF;
    IF NEW.max_seats + NEW.overdraft_seats < OLD.max_seats + OLD.overdraft_seats THEN
        NEW.drain_until := now() + make_interval(secs => NEW.drain_seconds);
    END IF;
    IF NEW.status <> OLD.status AND NEW.status IN ('suspended', 'revoked') THEN
        -- What a suspension ends stays ended when it is lifted. Nobody opens a session meanwhile: opening locks this row.
        UPDATE app.open_sessions SET evicted_at = now(), evict_reason = 'license_' || NEW.status, evicted_by = NEW.status_by
         WHERE tenant_id = NEW.tenant_id AND license_id = NEW.id AND evicted_at IS NULL;
    END IF;
    IF NEW.status <> OLD.status AND NEW.status = 'revoked' THEN
        -- Receipts that were given live on, offline: as long as the grace, as it is or was a moment ago, or as a borrow.
        INSERT INTO app.revocations (kind, subject, license_id, ends_at)
        SELECT 'license', NEW.id, NEW.id, greatest(
            now() + make_interval(secs => greatest(OLD.offline_grace_seconds, NEW.offline_grace_seconds, OLD.ttl_seconds)),
            (SELECT max(o.borrowed_until) FROM app.open_sessions o WHERE o.tenant_id = NEW.tenant_id AND o.license_id = NEW.id));
    END IF;
    NEW.pool_version := OLD.pool_version + 1;
    NEW.updated_at := now();
    INSERT INTO app.outbox (tenant_id, topic, subject_id) VALUES (NEW.tenant_id, 'license.changed', NEW.id);
    RETURN NEW;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.license_changed() IS
    'Every change of what was sold numbers itself and leaves an outbox row, so that no writer can forget to tell the pool. '
    'Suspending and revoking evict every open session; revoking puts the licence on the revocation list.';

-- +goose Down
SET LOCAL ROLE usher_owner;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.license_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF (NEW.ttl_seconds < OLD.ttl_seconds) THEN
        NEW.ttl_floor_seconds := greatest(OLD.ttl_seconds,
            CASE WHEN OLD.ttl_floor_until > now() THEN OLD.ttl_floor_seconds ELSE 0 END);
        NEW.ttl_floor_until := 'infinity';
    END IF;
    IF NEW.max_seats + NEW.overdraft_seats < OLD.max_seats + OLD.overdraft_seats THEN
        NEW.drain_until := now() + make_interval(secs => NEW.drain_seconds);
    END IF;
    IF NEW.status <> OLD.status AND NEW.status IN ('suspended', 'revoked') THEN
        UPDATE app.open_sessions SET evicted_at = now(), evict_reason = 'license_' || NEW.status, evicted_by = NEW.status_by
         WHERE tenant_id = NEW.tenant_id AND license_id = NEW.id AND evicted_at IS NULL;
    END IF;
    NEW.pool_version := OLD.pool_version + 1;
    NEW.updated_at := now();
    INSERT INTO app.outbox (tenant_id, topic, subject_id) VALUES (NEW.tenant_id, 'license.changed', NEW.id);
    RETURN NEW;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION app.license_changed() IS
    'Every change of what was sold numbers itself and leaves an outbox row, so that no writer can forget to tell the pool. '
    'Suspending and revoking evict every open session.';
DROP TABLE app.revocation_lists;
DROP TABLE app.revocations;
DROP TABLE app.rotation_turn;
DROP TABLE app.signing_keys;
REVOKE SELECT (tenant_id, id, name, scopes, expires_at, revoked_at, last_used_at), UPDATE (last_used_at) ON app.api_keys FROM usher_rotate;
REVOKE SELECT (id, kind, status) ON app.tenants FROM usher_rotate;
RESET ROLE;
SET LOCAL ROLE usher_resolver;
REVOKE EXECUTE ON FUNCTION app.find_api_key(bytea[]) FROM usher_rotate;
RESET ROLE;
