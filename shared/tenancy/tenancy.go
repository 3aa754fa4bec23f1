// Package tenancy is the door to PostgreSQL, and the wall between tenants. An ID says on whose behalf something is
// done; DB.As is the only way to a transaction, and the transaction sees and writes that tenant's rows alone, because
// row-level security in the database says so. Every query in Usher wants a Tx, so none can forget whose it is.
//
// The package knows nothing of what the rows mean, and nothing of how a caller proved who they are.
package tenancy

import "github.com/google/uuid"

// ID names the tenant on whose behalf something is done. It can be compared. The zero ID names nobody: a transaction
// as nobody sees no tenant's rows and can write none, which is what the look-ups for an unknown credential run as.
type ID struct{ id uuid.UUID }

// Verified makes the ID of a tenant that a verified credential belongs to. Only the packages that verify credentials
// (identity, license, signing, billing) may call it; the layout test holds them to that.
func Verified(id uuid.UUID) ID { return ID{id} }

// UUID is the tenant's id as it is stored and shown.
func (i ID) UUID() uuid.UUID { return i.id }

// String is the tenant's id in its canonical form.
func (i ID) String() string { return i.id.String() }
