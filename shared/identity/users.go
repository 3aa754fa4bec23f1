package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

// invitationTokens are the tokens of invitations: 160 random bits and a check symbol.
var invitationTokens = secret.Format{Prefix: "usi_", Random: 32, Lower: true}

// What a user can be.
const (
	UserInvited = "invited"
	UserActive  = "active"
	UserRemoved = "removed"
)

// InvitationLife is how long an invitation can be accepted.
const InvitationLife = 7 * 24 * time.Hour

// User is a person in a tenant. One who is invited becomes active by accepting,
// under the same id; one who is removed stays on record.
type User struct {
	ID          uuid.UUID
	Email, Name string
	Role        Role
	Status      string
	// InvitedBy is "" for who registered the tenant.
	InvitedBy string
	// InvitationExpiresAt is nil for who was not invited; Expired says that it has passed and was not accepted.
	InvitationExpiresAt  *time.Time
	Expired              bool
	CreatedAt, UpdatedAt time.Time
	JoinedAt, RemovedAt  *time.Time
	RemovedBy            string
}

// userColumns are what scanUser reads.
const userColumns = `
	id, email, coalesce(name, ''), role, status, coalesce(invited_by, ''), invitation_expires_at,
	status = 'invited' AND invitation_expires_at <= now(), created_at, updated_at, joined_at, removed_at, coalesce(removed_by, '')`

func scanUser(row pgx.Row) (User, error) {
	var u User
	err := row.Scan(&u.ID, &u.Email, &u.Name, &u.Role, &u.Status, &u.InvitedBy, &u.InvitationExpiresAt,
		&u.Expired, &u.CreatedAt, &u.UpdatedAt, &u.JoinedAt, &u.RemovedAt, &u.RemovedBy)
	return u, err
}

// UserFilter says which users are asked for; what is "" does not matter.
type UserFilter struct {
	Role   Role
	Status string
	Email  string
}

// ListUsers answers up to limit of a tenant's users in the order in which they
// were made, from the one after the given id on; uuid.Nil is from the start.
func ListUsers(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, f UserFilter, after uuid.UUID, limit int) ([]User, error) {
	rows, err := tx.Query(ctx, `SELECT`+userColumns+`
		  FROM app.users
		 WHERE tenant_id = $1 AND id > $2 AND ($4 = '' OR role = $4) AND ($5 = '' OR status = $5) AND ($6 = '' OR email = $6)
		 ORDER BY id
		 LIMIT $3`, tenant.UUID(), after, limit, string(f.Role), f.Status, normalEmail(f.Email))
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (User, error) { return scanUser(row) })
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return all, nil
}

// ReadUser answers a user; fault.NotFound when the tenant has none of that id.
func ReadUser(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID) (User, error) {
	return oneUser(id, tx.QueryRow(ctx, `SELECT`+userColumns+`
		  FROM app.users
		 WHERE tenant_id = $1 AND id = $2`, tenant.UUID(), id))
}

func oneUser(id uuid.UUID, row pgx.Row) (User, error) {
	u, err := scanUser(row)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return User{}, fault.NotFound("not_found", "There is no such user.")
	case err != nil:
		return User{}, fmt.Errorf("user %s: %w", id, err)
	}
	return u, nil
}

// Newcomer is who is invited.
type Newcomer struct {
	Email string
	// Name may be "".
	Name string
	Role Role
}

// Invite makes an invitation and its token, which is shown this once. Who is
// invited already gets another token, and the old one is good no more. The
// faults are fault.Invalid for an address that cannot be, fault.Conflict for who
// is in the tenant already, and fault.Forbidden for a role above the inviter's.
func (v *Verifier) Invite(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, by Principal, n Newcomer) (User, secret.Key, error) {
	n.Email = normalEmail(n.Email)
	if !emailCanBe(n.Email) {
		return User{}, secret.Key{}, fault.Invalid("The invitation is not valid.", fault.Field{Field: "email", Code: "bad_format", Detail: "Must be an e-mail address, of at most 254 characters."})
	}
	by, _, err := lockPeople(ctx, tx, tenant, by, uuid.Nil)
	if err != nil {
		return User{}, secret.Key{}, err
	}
	if err := by.allowRole(n.Role); err != nil {
		return User{}, secret.Key{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return User{}, secret.Key{}, fmt.Errorf("number a user: %w", err)
	}
	token := invitationTokens.New()
	hash := v.peppers.Hash(token)
	made, err := scanUser(tx.QueryRow(ctx, `
		INSERT INTO app.users AS u (tenant_id, id, email, name, role, token_hash, pepper_version, invited_by, invitation_expires_at)
		VALUES ($1, $2, $3, nullif($4, ''), $5, $6, $7, $8, now() + $9::interval)
		ON CONFLICT (tenant_id, email) WHERE status <> 'removed' DO UPDATE
		   SET name = coalesce(nullif($4, ''), u.name), role = $5, token_hash = $6, pepper_version = $7, invited_by = $8,
		       invitation_expires_at = now() + $9::interval, updated_at = now()
		 WHERE u.status = 'invited' AND u.role = ANY ($10)
		RETURNING`+userColumns,
		tenant.UUID(), id, n.Email, n.Name, n.Role, hash.MAC, hash.Version, by.By(), InvitationLife, by.manages()))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return User{}, secret.Key{}, refusedInvitation(ctx, tx, tenant, n.Email)
	case err != nil:
		return User{}, secret.Key{}, fmt.Errorf("store an invitation: %w", err)
	}
	return made, token, nil
}

// refusedInvitation is why the address cannot be invited.
func refusedInvitation(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, email string) error {
	var status string
	err := tx.QueryRow(ctx, `
		SELECT status
		  FROM app.users
		 WHERE tenant_id = $1 AND email = $2 AND status <> 'removed'`, tenant.UUID(), email).Scan(&status)
	switch {
	case err != nil:
		return fmt.Errorf("read who is invited: %w", err)
	case status == UserInvited:
		return errAbove
	}
	return fault.Conflict("already_member", "Somebody with this e-mail address is in the organisation already.")
}

// manages are the roles of those whom the caller may manage.
func (p Principal) manages() []string {
	var roles []string
	for _, r := range Roles() {
		if p.rank().AtLeast(r) {
			roles = append(roles, string(r))
		}
	}
	return roles
}

var errAbove = fault.Forbidden("forbidden", "Nobody gives or takes a role above their own.")

// allowRole is nil when the caller may give the role, and manage who has it.
func (p Principal) allowRole(r Role) error {
	if p.rank().AtLeast(r) {
		return nil
	}
	return errAbove
}

// lockPeople keeps a tenant's owners, the caller and the target (uuid.Nil for
// none) as they are until the transaction ends, and answers the caller as they
// are now and how many owners there are. So that of two that change one another
// the second acts as what the first has made of them.
func lockPeople(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, by Principal, target uuid.UUID) (now Principal, owners int, err error) {
	now = by
	here := by.IsPerson() && by.Tenant == tenant
	rows, err := tx.Query(ctx, `
		SELECT id, role, status
		  FROM app.users
		 WHERE tenant_id = $1 AND (role = 'owner' AND status = 'active' OR id IN ($2, $3))
		 ORDER BY id
		   FOR NO KEY UPDATE`, tenant.UUID(), by.User, target)
	if err != nil {
		return now, 0, fmt.Errorf("lock the people of tenant %s: %w", tenant, err)
	}
	var id uuid.UUID
	var role Role
	var status string
	_, err = pgx.ForEachRow(rows, []any{&id, &role, &status}, func() error {
		if role == Owner && status == UserActive {
			owners++
		}
		if here && id == by.User {
			now.Role = role
			if status != UserActive {
				return errRevoked
			}
		}
		return nil
	})
	if fault.As(err) != nil {
		return now, 0, err
	}
	if err != nil {
		return now, 0, fmt.Errorf("lock the people of tenant %s: %w", tenant, err)
	}
	if here && !now.Role.AtLeast(Admin) {
		return now, 0, now.Allow(Need{Role: Admin})
	}
	return now, owners, nil
}

// UserChange is what to alter of a user; nil is left as it is, a name of "" is cleared.
type UserChange struct {
	Name *string
	Role *Role
}

// ChangeUser alters a user, or what an invited one is going to be, and answers
// what they were and are. Its faults are fault.NotFound, fault.Forbidden for a role above the
// caller's, and fault.Conflict for one who was removed (user_removed) or who
// would leave the tenant without an owner (last_owner).
func ChangeUser(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, by Principal, id uuid.UUID, change UserChange) (was, is User, err error) {
	by, owners, err := lockPeople(ctx, tx, tenant, by, id)
	if err != nil {
		return User{}, User{}, err
	}
	u, err := ReadUser(ctx, tx, tenant, id)
	if err != nil {
		return User{}, User{}, err
	}
	next := u
	if change.Name != nil {
		next.Name = *change.Name
	}
	if change.Role != nil {
		next.Role = *change.Role
	}
	if err := errors.Join(by.allowRole(u.Role), by.allowRole(next.Role)); err != nil {
		return User{}, User{}, errAbove
	}
	switch {
	case u.Status == UserRemoved:
		return User{}, User{}, fault.Conflict("user_removed", "The user was removed. Invite them again.")
	case isLastOwner(&u, owners) && next.Role != Owner:
		return User{}, User{}, errLastOwner
	}
	is, err = oneUser(id, tx.QueryRow(ctx, `
		UPDATE app.users
		   SET name = nullif($3, ''), role = $4, updated_at = now()
		 WHERE tenant_id = $1 AND id = $2
		RETURNING`+userColumns, tenant.UUID(), id, next.Name, next.Role))
	return u, is, err
}

// RemoveUser ends a membership, or withdraws an invitation, at once, and answers
// what the user was and is. Again is the same, and changes nothing. Its faults are those of ChangeUser.
func RemoveUser(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, by Principal, id uuid.UUID) (was, is User, err error) {
	return remove(ctx, tx, tenant, by, id, nil)
}

// WithdrawInvitation is RemoveUser, but that an invitation that was accepted is a
// fault.Conflict (invitation_used).
func WithdrawInvitation(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, by Principal, id uuid.UUID) (was, is User, err error) {
	return remove(ctx, tx, tenant, by, id, func(u *User) error {
		if u.JoinedAt != nil {
			return errUsed
		}
		return nil
	})
}

// remove removes a user unless something forbids it.
func remove(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, by Principal, id uuid.UUID, forbids func(*User) error) (was, is User, err error) {
	by, owners, err := lockPeople(ctx, tx, tenant, by, id)
	if err != nil {
		return User{}, User{}, err
	}
	u, err := ReadUser(ctx, tx, tenant, id)
	if err != nil {
		return User{}, User{}, err
	}
	if err := by.allowRole(u.Role); err != nil {
		return User{}, User{}, err
	}
	if forbids != nil {
		if err := forbids(&u); err != nil {
			return User{}, User{}, err
		}
	}
	switch {
	case u.Status == UserRemoved:
		return u, u, nil
	case isLastOwner(&u, owners):
		return User{}, User{}, errLastOwner
	}
	is, err = oneUser(id, tx.QueryRow(ctx, `
		UPDATE app.users
		   SET status = 'removed', removed_at = now(), removed_by = $3, updated_at = now()
		 WHERE tenant_id = $1 AND id = $2
		RETURNING`+userColumns, tenant.UUID(), id, by.By()))
	return u, is, err
}

var errLastOwner = fault.Conflict("last_owner", "An organisation keeps at least one owner. Make somebody else an owner first.")

func isLastOwner(u *User, owners int) bool {
	return u.Status == UserActive && u.Role == Owner && owners < 2
}

// FindInvitation answers whose invitation a token is, used or over ones too;
// fault.NotFound when it is none.
func (v *Verifier) FindInvitation(ctx context.Context, token string) (tenancy.ID, uuid.UUID, error) {
	var tenant, id uuid.UUID
	err := v.db.Batch(ctx, tenancy.ID{}, func(b *tenancy.Batch) {
		b.Queue(`SELECT tenant_id, user_id FROM app.find_invitation($1)`, v.hashesOf(token)).
			QueryRow(func(row pgx.Row) error { return row.Scan(&tenant, &id) })
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return tenancy.ID{}, uuid.Nil, errNoInvitation
	case err != nil:
		return tenancy.ID{}, uuid.Nil, fmt.Errorf("find an invitation: %w", err)
	}
	return tenancy.Verified(tenant), id, nil
}

var errUsed = fault.Conflict("invitation_used", "The invitation was accepted already.")

// hashesOf are the hashes that an invitation's token may have.
func (v *Verifier) hashesOf(token string) [][]byte {
	key, err := invitationTokens.Parse(token)
	if err != nil {
		return secret.MACs(v.peppers.HashesOfText(token))
	}
	return secret.MACs(v.peppers.Hashes(key))
}

var errNoInvitation = fault.NotFound("not_found", "There is no such invitation. It may have been replaced by a newer one.")

// Accept makes the identity the user that FindInvitation found by the token. It
// is for the invited address alone (fault.Forbidden invitation_for_another),
// good once (fault.Conflict invitation_used) and for its time (fault.Gone
// invitation_expired, or invitation_withdrawn); an identity that has a tenant is
// ErrRegistered, after which the transaction is of no use.
func (v *Verifier) Accept(ctx context.Context, tx tenancy.Tx, tenant tenancy.ID, id uuid.UUID, token string, who Identity) (User, error) {
	u, err := oneUser(id, tx.QueryRow(ctx, `SELECT`+userColumns+`
		  FROM app.users
		 WHERE tenant_id = $1 AND id = $2
		   FOR NO KEY UPDATE`, tenant.UUID(), id))
	if err != nil {
		return User{}, err
	}
	switch {
	case u.Email != who.Email:
		return User{}, fault.Forbidden("invitation_for_another", "The invitation is for another e-mail address. Sign in with the one that was invited.")
	case u.JoinedAt != nil:
		return User{}, errUsed
	case u.Status == UserRemoved:
		return User{}, fault.Gone("invitation_withdrawn", "The invitation was withdrawn. Ask for another.")
	case u.Expired:
		return User{}, fault.Gone("invitation_expired", "The invitation has expired. Ask for another.")
	}
	// Since it was found, the token may have been replaced by a newer one.
	var good bool
	var status string
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM app.find_invitation($2) f WHERE f.user_id = $3), t.status
		  FROM app.tenants t
		 WHERE t.id = $1`, tenant.UUID(), v.hashesOf(token), id).Scan(&good, &status)
	switch {
	case err != nil:
		return User{}, fmt.Errorf("read invitation %s: %w", id, err)
	case !good:
		return User{}, errNoInvitation
	case status != StatusActive:
		return User{}, errSuspended
	}
	u, err = scanUser(tx.QueryRow(ctx, `
		UPDATE app.users
		   SET status = 'active', issuer = $3, subject = $4, name = coalesce(name, nullif($5, '')), joined_at = now(), updated_at = now()
		 WHERE tenant_id = $1 AND id = $2
		RETURNING`+userColumns, tenant.UUID(), id, who.Issuer, who.Subject, who.Name))
	switch {
	case isIdentityTaken(err):
		return User{}, ErrRegistered
	case err != nil:
		return User{}, fmt.Errorf("accept invitation %s: %w", id, err)
	}
	return u, nil
}
