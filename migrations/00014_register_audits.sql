-- +goose Up

-- Founding a tenant is an act, too, and so is taking a signing key out of use.
GRANT usher_audits TO usher_register, usher_rotate;

SET LOCAL ROLE usher_owner;
-- The free licence has the term that came with borrowing, as every other has.
GRANT INSERT (borrow_reserve_seats) ON app.licenses TO usher_register;

-- +goose Down
REVOKE INSERT (borrow_reserve_seats) ON app.licenses FROM usher_register;
REVOKE usher_audits FROM usher_register, usher_rotate;
