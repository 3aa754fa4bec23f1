-- +goose Up

-- No version since 90002 uses name: the one before it may be what a rollback leads to.
-- contract: 90002
-- safe: scan app.products: the constraint is valid, and PostgreSQL goes by it
SET LOCAL ROLE usher_owner;
DROP TRIGGER title ON app.products;
DROP FUNCTION app.product_title();
ALTER TABLE app.products ALTER COLUMN title SET NOT NULL, DROP COLUMN name;

-- +goose Down
SET LOCAL ROLE usher_owner;
ALTER TABLE app.products ADD COLUMN name text;
