-- +goose Up

-- Founding a tenant is an act, too.
GRANT usher_audits TO usher_register;

-- +goose Down
REVOKE usher_audits FROM usher_register;
