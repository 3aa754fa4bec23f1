package migrations_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/coditect/usher/migrations"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

// rule is something that holds for the whole database, whatever later migrations add to it: its query reads the
// catalogue and must answer what is wanted, in any order; where nothing is wanted, every row is a breach.
type rule struct {
	name, query string
	want        []string
}

// walled is every table that holds rows of tenants: what has a tenant_id, partitions and all schemas included, and the
// tenants themselves. The column says whose a row is.
const walled = `
WITH walled AS (
    SELECT c.oid, c.oid::regclass::text AS name, c.relrowsecurity, c.relforcerowsecurity, a.attname AS col, a.attnum AS no,
           a.attnotnull, a.atttypid
      FROM pg_class c
      JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
       AND a.attname = CASE WHEN c.oid = 'app.tenants'::regclass THEN 'id' ELSE 'tenant_id' END
     WHERE c.relkind IN ('r', 'p') AND c.relnamespace <> ALL (ARRAY['pg_catalog', 'information_schema']::regnamespace[])
)`

// functions is who may log in and is no superuser: the functions' roles. Groups and owners are the others of ours.
const functions = `
, functions AS (SELECT oid, rolname FROM pg_roles WHERE rolcanlogin AND rolname LIKE 'usher\_%')
, roles AS (SELECT oid, rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE 'usher\_%')`

var rules = []rule{
	{name: "row-level security is enabled and forced", query: `
		SELECT name FROM walled WHERE NOT relrowsecurity OR NOT relforcerowsecurity`},
	{name: "every table of tenants has a policy", query: `
		SELECT name FROM walled WHERE NOT EXISTS (
		    SELECT FROM pg_policy p WHERE p.polrelid = walled.oid AND p.polpermissive AND p.polcmd = '*' AND p.polroles = '{0}')`},
	{name: "every policy that lets somebody write has a WITH CHECK", query: `
		SELECT p.polrelid::regclass || ' ' || p.polname FROM pg_policy p
		 WHERE p.polcmd IN ('*', 'a', 'w') AND p.polwithcheck IS NULL`},
	{name: "what a policy shows to a function is one tenant's", query: `
		SELECT w.name || ' ' || p.polname FROM pg_policy p JOIN walled w ON w.oid = p.polrelid
		 WHERE p.polpermissive AND p.polroles <> ARRAY['usher_resolver'::regrole::oid]
		   AND (pg_get_expr(p.polqual, p.polrelid) IS DISTINCT FROM format('(%s = ( SELECT app.tenant() AS tenant))', w.col)
		     OR pg_get_expr(p.polwithcheck, p.polrelid) IS DISTINCT FROM format('(%s = ( SELECT app.tenant() AS tenant))', w.col))`},
	{
		name: "what the resolver sees across tenants", query: `
		SELECT format('%s %s %s', p.polrelid::regclass, p.polcmd, pg_get_expr(p.polqual, p.polrelid)) FROM pg_policy p
		 WHERE p.polroles <> '{0}'`,
		want: []string{
			"app.tenants r true",
			"app.license_keys r true",
			"app.api_keys r true",
			"app.users r true",
			"app.billing_customers r true",
			"app.stripe_events r true",
			"app.stripe_events d (received_at < (now() - '7 years'::interval))",
			"app.licenses r true",
			"app.license_notices r true",
			"app.subscriptions r true",
			"app.open_sessions r true",
			"app.outbox r true",
			"app.audit_chains r true",
			"app.audit_entries r true",
			"app.checkpoints r true",
			"app.idempotency_keys * (expires_at < now())",
			"app.mails r true",
			"app.mails d (finished_at < (now() - '30 days'::interval))",
			"app.events r true",
			"app.events d (dispatched_at < (now() - '7 days'::interval))",
			"app.webhooks r true",
			"app.webhook_deliveries r true",
			"app.webhook_deliveries d (finished_at < (now() - '30 days'::interval))",
			"app.ended_sessions r true",
			"app.seat_hours r true",
			"app.usage_hours r true",
			"app.usage_reports r true",
			"app.usage_events r true",
			"app.overdraft_counts r true",
			"app.usage_events d (recorded_at < (now() - '35 days'::interval))",
		},
	},
	{
		name: "what the resolver may do", query: `
		SELECT format('%s %s%s', x.privilege_type, a.rel, a.col)
		  FROM (SELECT oid::regclass AS rel, '' AS col, relacl AS acl FROM pg_class
		        UNION ALL
		        SELECT attrelid::regclass, '.' || attname, attacl FROM pg_attribute) a, aclexplode(a.acl) x
		 WHERE x.grantee = 'usher_resolver'::regrole`,
		want: slices.Concat(
			columns("SELECT", "app.tenants", "id kind name slug status status_reason status_by created_at updated_at"),
			columns("SELECT", "app.license_keys", "tenant_id license_id key_hash expires_at"),
			columns("SELECT", "app.api_keys", "tenant_id id key_hash"),
			columns("SELECT", "app.users", "tenant_id id issuer subject status founder token_hash"),
			columns("SELECT", "app.open_sessions", "tenant_id license_id seat_no acquired_at evicted_at"),
			columns("SELECT", "app.billing_customers", "tenant_id stripe_id"),
			columns("SELECT", "app.stripe_events", "tenant_id id status handled_at received_at attempts"),
			columns("SELECT", "app.licenses", "tenant_id id status status_by expires_at grace_until on_trial overdraft_seats"),
			columns("SELECT", "app.subscriptions", "tenant_id id license_id cycle cancel_at_period_end ended_at trouble grace_until checked_at"),
			columns("SELECT", "app.outbox", "tenant_id topic subject_id created_at"),
			columns("SELECT", "app.audit_chains", "tenant_id seq hash"),
			columns("SELECT", "app.audit_entries", "tenant_id at"),
			columns("SELECT", "app.checkpoints", "tenant_id seq"),
			columns("SELECT", "app.idempotency_keys", "ctid expires_at"),
			columns("SELECT", "app.mails", "tenant_id id status next_at finished_at"),
			columns("SELECT", "app.events", "tenant_id id recorded_at dispatched_at"),
			columns("SELECT", "app.webhooks", "tenant_id id status events failing_since"),
			columns("SELECT", "app.webhook_deliveries", "tenant_id id webhook_id status next_at finished_at"),
			columns("SELECT", "app.ended_sessions", "tenant_id recorded_at"),
			columns("SELECT", "app.seat_hours", "tenant_id denials denials_told"),
			columns("SELECT", "app.usage_hours", "tenant_id hour quantity settled"),
			columns("SELECT", "app.usage_reports", "tenant_id status next_at"),
			columns("SELECT", "app.usage_events", "tenant_id id recorded_at"),
			[]string{"SELECT app.license_notices", "SELECT app.overdraft_counts", "DELETE app.stripe_events", "DELETE app.idempotency_keys", "DELETE app.mails", "DELETE app.events", "DELETE app.webhook_deliveries", "DELETE app.usage_events"},
		),
	},
	{
		name: "who may run what, of the functions that act with their owner's rights", query: `
		SELECT format('%s as %s: %s', p.oid::regprocedure, p.proowner::regrole,
		              coalesce(string_agg(r.rolname, ' ' ORDER BY r.rolname) FILTER (WHERE has_function_privilege(r.oid, p.oid, 'EXECUTE')), 'nobody'))
		  FROM pg_proc p, functions r WHERE p.prosecdef AND p.pronamespace <> 'pg_catalog'::regnamespace
		 GROUP BY p.oid, p.proowner`,
		want: []string{
			"app.find_license_key(bytea[]) as usher_resolver: usher_acquire usher_release usher_validate",
			"app.find_api_key(bytea[]) as usher_resolver: usher_admin usher_incident usher_rotate usher_usage usher_webhook",
			"app.find_user(text,text) as usher_resolver: usher_admin usher_checkout usher_incident usher_register usher_subscription usher_trial usher_usage usher_webhook",
			"app.find_invitation(bytea[]) as usher_resolver: usher_admin",
			"app.find_billing_customer(text) as usher_resolver: usher_expire usher_webhook",
			"app.find_stripe_event(text) as usher_resolver: usher_expire usher_webhook",
			"app.due_notices(integer) as usher_resolver: usher_expire",
			"app.due_trials(integer) as usher_resolver: usher_expire",
			"app.due_suspensions(integer) as usher_resolver: usher_expire",
			"app.subscriptions_to_check(timestamp with time zone,integer) as usher_resolver: usher_expire",
			"app.failed_stripe_events(integer) as usher_resolver: usher_expire",
			"app.expire_stripe_events() as usher_resolver: usher_expire",
			"app.drop_history(integer) as usher_owner: usher_expire",
			"app.sweep_licenses(uuid,uuid,integer) as usher_resolver: usher_sweep",
			"app.sweep_outbox(integer) as usher_resolver: usher_sweep",
			"app.waiting() as usher_resolver: usher_sweep",
			"app.expire_idempotency_keys() as usher_resolver: usher_sweep",
			"app.operator_tenants(uuid,integer) as usher_resolver: usher_operator",
			"app.audit_heads(uuid,integer) as usher_resolver: usher_incident",
			"app.pending_checkpoints(uuid,integer) as usher_resolver: usher_incident",
			"app.incident_tenant(uuid,uuid,uuid) as usher_resolver: usher_incident",
			"app.make_history_partitions(integer) as usher_owner: usher_sweep",
			"app.make_audit_partitions(integer) as usher_owner: usher_sweep",
			"app.audit_record(text,text,text,boolean,text,text,text,text,jsonb,interval) as usher_owner: usher_admin usher_checkout usher_deliver usher_expire usher_incident usher_operator usher_register usher_rotate usher_subscription usher_trial usher_webhook",
			"app.due_mails(integer) as usher_resolver: usher_deliver",
			"app.waiting_events(integer) as usher_resolver: usher_deliver",
			"app.expire_notices() as usher_resolver: usher_deliver",
			"app.due_webhooks(integer) as usher_resolver: usher_deliver",
			"app.expire_deliveries() as usher_resolver: usher_deliver",
			"app.seat_event_tenants(timestamp with time zone,timestamp with time zone,boolean) as usher_resolver: usher_deliver",
			"app.denial_tenants(integer) as usher_resolver: usher_deliver",
			"app.metered_tenants(integer) as usher_resolver: usher_meter",
			"app.overdraft_tenants(integer) as usher_resolver: usher_meter",
			"app.old_audit_tenants(integer,uuid,integer) as usher_resolver: usher_expire",
			"app.has_audit(timestamp with time zone,timestamp with time zone) as usher_resolver: nobody",
			"app.expire_audit(integer) as usher_owner: usher_expire",
			"app.drop_audit(integer) as usher_owner: usher_expire",
			"app.expire_usage_events() as usher_resolver: usher_meter",
			"app.license_changed() as usher_owner: nobody",
			"app.borrow_withdrawn() as usher_owner: nobody",
			"app.licenses_touched() as usher_owner: nobody",
		},
	},
	{name: "a function that acts with its owner's rights pins its search_path", query: `
		SELECT oid::regprocedure::text FROM pg_proc
		 WHERE prosecdef AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)`},
	{
		name: "PUBLIC may do nothing but ask for the tenant", query: `
		SELECT format('%s %s', x.privilege_type, a.name)
		  FROM (SELECT c.oid::regclass::text AS name, c.relnamespace AS space, c.relacl AS acl FROM pg_class c
		        UNION ALL
		        SELECT attrelid::regclass || '.' || attname, c.relnamespace, attacl FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
		        UNION ALL
		        SELECT p.oid::regprocedure::text, p.pronamespace, coalesce(p.proacl, acldefault('f', p.proowner)) FROM pg_proc p
		        UNION ALL
		        SELECT n.nspname, n.oid, coalesce(n.nspacl, acldefault('n', n.nspowner)) FROM pg_namespace n) a, aclexplode(a.acl) x
		 WHERE x.grantee = 0 AND a.space IN (SELECT oid FROM pg_namespace WHERE nspname IN ('app', 'public'))`,
		want: []string{"EXECUTE app.tenant()"},
	},
	{name: "later functions are nobody's to run until somebody says so", query: `
		SELECT r FROM unnest(ARRAY['usher_owner', 'usher_resolver']) r WHERE NOT EXISTS (
		    SELECT FROM pg_default_acl d WHERE d.defaclrole = r::regrole AND d.defaclobjtype = 'f' AND d.defaclnamespace = 0
		       AND NOT EXISTS (SELECT FROM aclexplode(d.defaclacl) x WHERE x.grantee = 0))`},
	{name: "no privileges by default", query: `
		SELECT format('%s %s to %s', d.defaclrole::regrole, x.privilege_type, x.grantee::regrole) FROM pg_default_acl d, aclexplode(d.defaclacl) x
		 WHERE x.grantee <> d.defaclrole`},
	{name: "primary keys begin with the tenant", query: `
		SELECT name FROM walled WHERE NOT EXISTS (
		    SELECT FROM pg_index i WHERE i.indrelid = walled.oid AND i.indisprimary AND i.indkey[0] = walled.no)`},
	{name: "the tenant is a uuid and always there", query: `
		SELECT name FROM walled WHERE NOT attnotnull OR atttypid <> 'uuid'::regtype`},
	{name: "nobody may change whose a row is", query: `
		SELECT w.name || ' by ' || r.rolname FROM walled w, roles r
		 WHERE r.rolname <> 'usher_owner' AND has_column_privilege(r.oid, w.oid, w.no, 'UPDATE')`},
	{
		name: "unique only within a tenant", query: `
		SELECT i.indexrelid::regclass::text FROM pg_index i JOIN walled w ON w.oid = i.indrelid
		 WHERE i.indisunique AND w.no <> ALL (i.indkey::int2[])`,
		want: []string{"app.tenants_slug_key", "app.users_identity_key", "app.users_founder_key", "app.billing_customers_stripe_key", "app.trials_email_key", "app.trials_hardware_key"},
	},
	{name: "no exclusion constraint across tenants", query: `
		SELECT conrelid::regclass || ' ' || conname FROM pg_constraint WHERE contype = 'x'`},
	{name: "foreign keys carry the tenant", query: `
		SELECT w.name || ' ' || k.conname FROM pg_constraint k JOIN walled w ON w.oid = k.conrelid JOIN walled f ON f.oid = k.confrelid
		 WHERE k.contype = 'f' AND NOT EXISTS (SELECT FROM unnest(k.conkey, k.confkey) u (here, there) WHERE u.here = w.no AND u.there = f.no)`},
	{name: "every tenant_id is that of a tenant", query: `
		SELECT w.name FROM walled w WHERE w.col = 'tenant_id' AND NOT EXISTS (
		    SELECT FROM pg_constraint k JOIN walled f ON f.oid = k.confrelid
		     WHERE k.contype = 'f' AND k.conrelid = w.oid AND k.convalidated AND w.no = ANY (k.conkey))`},
	{name: "foreign keys between tables of tenants have an index", query: `
		SELECT w.name || ' ' || k.conname FROM pg_constraint k JOIN walled w ON w.oid = k.conrelid JOIN walled f ON f.oid = k.confrelid
		 WHERE k.contype = 'f' AND NOT EXISTS (
		    SELECT FROM pg_index i WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL
		       AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey)`},
	{
		name: "tables without a tenant", query: `
		SELECT c.oid::regclass::text FROM pg_class c
		 WHERE c.relkind IN ('r', 'p', 'f', 'm') AND c.relnamespace <> ALL (ARRAY['pg_catalog', 'information_schema']::regnamespace[])
		   AND c.relnamespace::regnamespace::text NOT LIKE 'pg\_toast%' AND NOT EXISTS (SELECT FROM walled w WHERE w.oid = c.oid)`,
		want: []string{
			"app.products", "app.plans", "app.plan_metrics", "app.sweep_cursor", "app.signing_keys", "app.rotation_turn", "app.revocations", "app.revocation_lists", "app.event_cursor", "goose_db_version",
			"app.incidents", "app.incident_actions", "app.incident_evidence", "app.incident_entries", "app.freezes",
		},
	},
	{name: "views show what their reader may see", query: `
		SELECT c.oid::regclass::text FROM pg_class c
		 WHERE c.relnamespace <> ALL (ARRAY['pg_catalog', 'information_schema']::regnamespace[])
		   AND (c.relkind = 'm' OR c.relkind = 'v' AND NOT coalesce(c.reloptions && ARRAY['security_invoker=true', 'security_invoker=on'], false))`},
	{name: "everything belongs to the owner or the resolver", query: `
		SELECT c.oid::regclass || ' to ' || c.relowner::regrole FROM pg_class c
		 WHERE c.relnamespace = 'app'::regnamespace AND c.relowner <> 'usher_owner'::regrole
		UNION ALL
		SELECT p.oid::regprocedure || ' to ' || p.proowner::regrole FROM pg_proc p
		 WHERE p.pronamespace = 'app'::regnamespace AND p.proowner NOT IN ('usher_owner'::regrole, 'usher_resolver'::regrole)`},
	{name: "functions' roles and groups own nothing", query: `
		SELECT format('%s: a %s', d.refobjid::regrole, d.classid::regclass) FROM pg_shdepend d JOIN roles r ON r.oid = d.refobjid
		 WHERE d.deptype = 'o' AND d.refclassid = 'pg_authid'::regclass AND r.rolname NOT IN ('usher_owner', 'usher_resolver')`},
	{name: "no role of ours is above the law", query: `
		SELECT rolname FROM pg_roles
		 WHERE rolname LIKE 'usher\_%' AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)`},
	{name: "owners, resolver and groups cannot log in", query: `
		SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname IN ('usher_owner', 'usher_resolver', 'usher_facts', 'usher_pools', 'usher_seats', 'usher_replays', 'usher_audits', 'usher_signers', 'usher_notices', 'usher_billing', 'usher_checkpoints')`},
	{
		name: "who is a member of what", query: `
		SELECT format('%s: %s', r.rolname, string_agg(g.rolname, ' ' ORDER BY g.rolname)) FROM roles r, pg_roles g
		 WHERE g.oid <> r.oid AND pg_has_role(r.oid, g.oid, 'MEMBER') GROUP BY r.rolname`,
		want: []string{
			"usher_validate: usher_facts usher_signers",
			"usher_acquire: usher_facts usher_pools usher_replays usher_seats usher_signers",
			"usher_heartbeat: usher_pools",
			"usher_release: usher_facts usher_pools usher_seats",
			"usher_borrow: usher_facts usher_pools usher_signers",
			"usher_sweep: usher_pools usher_seats",
			"usher_admin: usher_audits usher_facts usher_notices usher_pools usher_replays usher_seats",
			"usher_operator: usher_audits usher_notices",
			"usher_deliver: usher_audits usher_notices",
			"usher_register: usher_audits usher_facts usher_notices usher_replays",
			"usher_incident: usher_audits usher_checkpoints usher_facts usher_notices usher_pools usher_replays usher_rotate usher_seats",
			"usher_rotate: usher_audits",
			"usher_checkout: usher_audits usher_facts usher_replays",
			"usher_webhook: usher_audits usher_billing usher_facts usher_notices usher_pools usher_seats",
			"usher_trial: usher_audits usher_facts usher_notices usher_replays",
			"usher_expire: usher_audits usher_billing usher_facts usher_notices usher_pools usher_seats",
			"usher_subscription: usher_audits usher_billing usher_facts usher_notices usher_pools usher_replays usher_seats",
			"usher_usage: usher_facts usher_notices",
			"usher_seats: usher_pools",
		},
	},
	{name: "nobody truncates, refers or hangs triggers", query: `
		SELECT format('%s %s by %s', x.privilege_type, c.oid::regclass, x.grantee::regrole) FROM pg_class c, aclexplode(c.relacl) x
		 WHERE x.grantee <> c.relowner AND c.relkind <> 'S' AND x.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
		   AND x.grantee IN (SELECT oid FROM roles UNION SELECT 0)`},
	{name: "the audit log is written by its function alone", query: `
		SELECT format('%s %s by %s', v, w.name, r.rolname)
		  FROM walled w, roles r, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) v
		 WHERE w.name ~ '^app\.audit_' AND r.rolname <> 'usher_owner'
		   AND (has_table_privilege(r.oid, w.oid, v) OR v IN ('INSERT', 'UPDATE') AND has_any_column_privilege(r.oid, w.oid, v))`},
	{name: "grants are not handed on", query: `
		SELECT format('%s by %s', c.oid::regclass, x.grantee::regrole) FROM pg_class c, aclexplode(c.relacl) x
		 WHERE x.is_grantable AND x.grantee <> c.relowner AND x.grantee IN (SELECT oid FROM roles)`},
	{name: "nobody creates anything", query: `
		SELECT format('%s in %s', r.rolname, n.nspname) FROM roles r, pg_namespace n
		 WHERE r.rolname <> 'usher_owner' AND n.nspname !~ '^pg_(toast_)?temp' AND has_schema_privilege(r.oid, n.oid, 'CREATE')
		UNION ALL
		SELECT format('schemas by %s', rolname) FROM roles WHERE has_database_privilege(oid, current_database(), 'CREATE')`},
	{name: "functions have deadlines", query: `
		SELECT format('%s: %s', r.rolname, s) FROM functions r JOIN pg_roles p USING (oid),
		       unnest(ARRAY['statement_timeout=3s', 'lock_timeout=1s', 'idle_in_transaction_session_timeout=5s', 'search_path=app']) s
		 WHERE s <> ALL (coalesce(p.rolconfig, '{}'))`},
	{name: "every table, function and schema says what it is for", query: `
		SELECT c.oid::regclass::text FROM pg_class c
		 WHERE c.relnamespace = 'app'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND obj_description(c.oid, 'pg_class') IS NULL
		UNION ALL
		SELECT p.oid::regprocedure::text FROM pg_proc p
		 WHERE p.pronamespace = 'app'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
		UNION ALL
		SELECT 'app' WHERE obj_description('app'::regnamespace, 'pg_namespace') IS NULL`},
	{name: "statuses are text and CHECK", query: `
		SELECT c.oid::regclass || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		 WHERE c.relnamespace = 'app'::regnamespace AND c.relkind IN ('r', 'p') AND a.attname IN ('status', 'state', 'kind', 'severity', 'role', 'seat_per')
		   AND (a.atttypid <> 'text'::regtype OR NOT EXISTS (
		       SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.convalidated AND a.attnum = ANY (k.conkey)))
		UNION ALL
		SELECT format('type %s', oid::regtype) FROM pg_type WHERE typtype = 'e'`},
}

// columns writes privileges on columns down as the rule above reads them.
func columns(privilege, table, names string) []string {
	var all []string
	for name := range strings.FieldsSeq(names) {
		all = append(all, privilege+" "+table+"."+name)
	}
	return all
}

// breaches holds the database, as the connection sees it, to the rules whose names begin so. Each breach begins with its
// rule's name.
func breaches(ctx context.Context, t *testing.T, conn *pgx.Conn, names string) []string {
	t.Helper()
	var found []string
	for _, r := range rules {
		if !strings.HasPrefix(r.name, names) {
			continue
		}
		rows, err := conn.Query(ctx, walled+functions+r.query)
		if err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		for _, line := range got {
			if !slices.Contains(r.want, line) {
				found = append(found, r.name+": "+line)
			}
		}
		for _, line := range r.want {
			if !slices.Contains(got, line) {
				found = append(found, r.name+": missing is "+line)
			}
		}
	}
	return found
}

func TestSchemaKeepsTheRules(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	db.Exec(t, `SELECT app.make_history_partitions(2)`)
	for _, breach := range breaches(t.Context(), t, db.Owner(t), "") {
		t.Error(breach)
	}
}

func TestSchemaRulesSeeEachPlantedMistake(t *testing.T) {
	t.Parallel()
	conn, ctx := testenv.Postgres(t).Owner(t), t.Context()
	for _, planted := range []struct{ rule, mistake string }{
		{"row-level security is enabled and forced", `ALTER TABLE app.devices DISABLE ROW LEVEL SECURITY`},
		{"row-level security is enabled and forced", `ALTER TABLE app.devices NO FORCE ROW LEVEL SECURITY`},
		{"row-level security is enabled and forced", `ALTER TABLE app.ended_sessions_default NO FORCE ROW LEVEL SECURITY`},
		{"row-level security is enabled and forced", `CREATE TABLE public.notes (tenant_id uuid)`},
		{"every table of tenants has a policy", `DROP POLICY tenant ON app.devices`},
		{
			"every policy that lets somebody write has a WITH CHECK",
			`DROP POLICY tenant ON app.devices; CREATE POLICY tenant ON app.devices USING (tenant_id = (SELECT app.tenant()))`,
		},
		{
			"what a policy shows to a function is one tenant's",
			`DROP POLICY tenant ON app.devices; CREATE POLICY tenant ON app.devices USING (true) WITH CHECK (tenant_id = (SELECT app.tenant()))`,
		},
		{"what a policy shows to a function is one tenant's", `CREATE POLICY more ON app.devices FOR SELECT TO usher_seats USING (true)`},
		{"what a policy shows to a function is one tenant's", `CREATE POLICY more ON app.tenants FOR SELECT USING (status = 'active')`},
		{"what the resolver sees across tenants", `CREATE POLICY more ON app.devices FOR SELECT TO usher_resolver USING (true)`},
		{"what the resolver may do", `GRANT SELECT (name) ON app.api_keys TO usher_resolver`},
		{"what the resolver may do", `GRANT DELETE ON app.tenants TO usher_resolver`},
		{"who may run what", `GRANT EXECUTE ON FUNCTION app.operator_tenants TO usher_admin`},
		{"who may run what", `CREATE FUNCTION app.all_devices() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM app.devices'`},
		{"a function that acts with its owner's rights pins", `ALTER FUNCTION app.find_api_key RESET search_path`},
		{"a function that acts with its owner's rights pins", `ALTER FUNCTION app.find_api_key SET search_path = app, pg_temp`},
		{"PUBLIC may do nothing", `GRANT EXECUTE ON FUNCTION app.find_api_key TO PUBLIC`},
		{"PUBLIC may do nothing", `GRANT SELECT ON app.devices TO PUBLIC`},
		{"PUBLIC may do nothing", `GRANT SELECT (hostname) ON app.devices TO PUBLIC`},
		{"PUBLIC may do nothing", `GRANT USAGE ON SCHEMA app TO PUBLIC`},
		{"later functions are nobody's", `ALTER DEFAULT PRIVILEGES FOR ROLE usher_resolver GRANT EXECUTE ON FUNCTIONS TO PUBLIC`},
		{"no privileges by default", `ALTER DEFAULT PRIVILEGES FOR ROLE usher_owner GRANT SELECT ON TABLES TO usher_admin`},
		{"primary keys begin with the tenant", `ALTER TABLE app.api_keys DROP CONSTRAINT api_keys_pkey, ADD PRIMARY KEY (id, tenant_id)`},
		{"the tenant is a uuid and always there", `CREATE TABLE app.notes (tenant_id text PRIMARY KEY)`},
		{"nobody may change whose a row is", `GRANT UPDATE ON app.devices TO usher_seats`},
		{"nobody may change whose a row is", `GRANT UPDATE (tenant_id) ON app.outbox TO usher_sweep`},
		{"unique only within a tenant", `CREATE UNIQUE INDEX ON app.license_keys (key_hash)`},
		{"no exclusion constraint", `ALTER TABLE app.api_keys ADD EXCLUDE (name WITH =)`},
		{
			"foreign keys carry the tenant",
			`ALTER TABLE app.licenses ADD UNIQUE (id); ALTER TABLE app.devices ADD FOREIGN KEY (license_id) REFERENCES app.licenses (id)`,
		},
		{"every tenant_id is that of a tenant", `ALTER TABLE app.outbox DROP CONSTRAINT outbox_tenant_id_fkey`},
		{"foreign keys between tables of tenants have an index", `DROP INDEX app.license_keys_by_license`},
		{"tables without a tenant", `CREATE TABLE app.notes (id uuid PRIMARY KEY, customer uuid)`},
		{"views show what their reader may see", `CREATE VIEW app.everybody AS SELECT name FROM app.tenants`},
		{"views show what their reader may see", `CREATE MATERIALIZED VIEW app.everybody AS SELECT name FROM app.tenants`},
		{"everything belongs to the owner", `ALTER TABLE app.devices OWNER TO postgres`},
		{"functions' roles and groups own nothing", `ALTER TABLE app.devices OWNER TO usher_acquire`},
		{"functions' roles and groups own nothing", `CREATE SCHEMA mine AUTHORIZATION usher_seats`},
		{"no role of ours is above the law", `ALTER ROLE usher_sweep BYPASSRLS`},
		{"no role of ours is above the law", `ALTER ROLE usher_owner CREATEROLE`},
		{"owners, resolver and groups cannot log in", `ALTER ROLE usher_owner LOGIN`},
		{"who is a member of what", `GRANT usher_owner TO usher_acquire`},
		{"who is a member of what", `GRANT usher_resolver TO usher_facts`},
		{"who is a member of what", `GRANT pg_read_all_data TO usher_sweep`},
		{"nobody truncates", `GRANT TRUNCATE ON app.devices TO usher_seats`},
		{"nobody truncates", `GRANT ALL ON app.devices TO usher_admin`},
		{"grants are not handed on", `GRANT SELECT ON app.devices TO usher_admin WITH GRANT OPTION`},
		{"nobody creates anything", `GRANT CREATE ON SCHEMA app TO usher_resolver`},
		{"nobody creates anything", `GRANT CREATE ON SCHEMA public TO PUBLIC`},
		{"functions have deadlines", `ALTER ROLE usher_validate RESET statement_timeout`},
		{"functions have deadlines", `ALTER ROLE usher_validate SET lock_timeout = 0`},
		{"functions have deadlines", `CREATE ROLE usher_later LOGIN`},
		{"every table, function and schema", `COMMENT ON TABLE app.devices IS NULL`},
		{"every table, function and schema", `CREATE FUNCTION app.one() RETURNS int LANGUAGE sql AS 'SELECT 1'`},
		{"statuses are text and CHECK", `CREATE TYPE app.mood AS ENUM ('good', 'bad')`},
		{"statuses are text and CHECK", `ALTER TABLE app.licenses DROP CONSTRAINT licenses_status_check`},
	} {
		tx, err := conn.Begin(ctx) // roles belong to the cluster, which other tests use: nothing of this is committed
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(ctx, planted.mistake); err != nil {
			t.Errorf("%s: %v", planted.mistake, err)
		} else if len(breaches(ctx, t, conn, planted.rule)) == 0 {
			t.Errorf("%q does not see %s", planted.rule, planted.mistake)
		}
		if err := tx.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// What belongs to the database itself is not copied with it, and so cannot be looked at in a copy.
func TestSchemaLetsNobodyMakeTemporaryTables(t *testing.T) {
	t.Parallel()
	db := testenv.PrivatePostgres(t)
	for _, role := range testenv.Values[string](t, db.DB, `SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND NOT rolsuper`) {
		conn := db.Connect(t, role)
		for statement, want := range map[string]string{
			`CREATE TEMPORARY TABLE licenses (id uuid)`: "42501",
			`CREATE TABLE app.notes (id uuid)`:          "42501",
			`CREATE TABLE public.notes (id uuid)`:       "42501",
			`SET ROLE usher_owner`:                      "42501",
			`SET ROLE usher_resolver`:                   "42501",
			`SET ROLE ` + localenv.Superuser:            "42501",
			`SELECT * FROM public.goose_db_version`:     "42501",
		} {
			_, err := conn.Exec(t.Context(), statement)
			if code(err) != want {
				t.Errorf("%s: %s answers %v, want SQLSTATE %s", role, statement, err, want)
			}
		}
	}
	if have, newest, err := migrations.Version(t.Context(), db.URL(localenv.Superuser)); err != nil || have != newest {
		t.Errorf("version %d of %d (%v)", have, newest, err)
	}
}
