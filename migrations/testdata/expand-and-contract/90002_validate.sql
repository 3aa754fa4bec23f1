-- +goose NO TRANSACTION
-- +goose Up

-- It reads every row, and nobody waits for it.
ALTER TABLE app.products VALIDATE CONSTRAINT title_is_set;
-- +goose Down
