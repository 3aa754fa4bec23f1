-- +goose Up
SET LOCAL ROLE usher_owner;

-- No receipt promises more than a week, however long a plan's grace was: now none says more. The owner sees no tenant's rows.
-- No pool holds the grace, so that none is to be told.
ALTER TABLE app.licenses NO FORCE ROW LEVEL SECURITY, DISABLE TRIGGER USER;
UPDATE app.licenses SET offline_grace_seconds = 604800 WHERE offline_grace_seconds > 604800;
ALTER TABLE app.licenses FORCE ROW LEVEL SECURITY, ENABLE TRIGGER USER;
UPDATE app.plans SET offline_grace_seconds = 604800 WHERE offline_grace_seconds > 604800;
ALTER TABLE app.licenses ADD CONSTRAINT grace_of_a_week CHECK (offline_grace_seconds <= 604800);
ALTER TABLE app.plans ADD CONSTRAINT grace_of_a_week CHECK (offline_grace_seconds <= 604800);

-- +goose Down
SET LOCAL ROLE usher_owner;
ALTER TABLE app.plans DROP CONSTRAINT grace_of_a_week;
ALTER TABLE app.licenses DROP CONSTRAINT grace_of_a_week;
