package testenv

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// rewrite alters an entry, and hashes everything anew from there to the head.
const rewrite = `
DO $$
DECLARE e app.audit_entries; prev bytea;
BEGIN
    FOR e IN SELECT * FROM app.audit_entries WHERE tenant_id = 'TENANT' AND seq >= FROM_SEQ ORDER BY seq LOOP
        IF prev IS NULL THEN prev := e.previous; e.actor := 'user:nobody'; END IF;
        e.previous := prev;
        e.hash := sha256(
            app.audit_field('usher-audit-1') || app.audit_field(e.tenant_id::text) || app.audit_field(e.seq::text)
            || app.audit_field((extract(epoch FROM e.at) * 1000)::bigint::text)
            || app.audit_field(e.action) || app.audit_field(e.outcome)
            || app.audit_field(e.actor) || app.audit_field(CASE WHEN e.by_operator THEN '1' ELSE '0' END)
            || app.audit_field(e.credential) || app.audit_field(e.address) || app.audit_field(e.subject)
            || app.audit_field(e.request_id) || e.previous);
        UPDATE app.audit_entries SET actor = e.actor, previous = e.previous, hash = e.hash WHERE tenant_id = e.tenant_id AND at = e.at AND seq = e.seq;
        prev := e.hash;
        UPDATE app.audit_chains SET hash = e.hash WHERE tenant_id = e.tenant_id;
    END LOOP;
END $$`

// RewriteAudit does to a tenant's audit chain what the database's owner can: it says that somebody else did the entry of that
// number, and hashes everything anew from there to the head. The entries from there on must have no details.
func RewriteAudit(t testing.TB, db *DB, tenant uuid.UUID, from int) {
	t.Helper()
	db.Exec(t, strings.NewReplacer("TENANT", tenant.String(), "FROM_SEQ", strconv.Itoa(from)).Replace(rewrite))
}
