package migrations_test

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// code is the SQLSTATE of an error, "" when it has none.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}
