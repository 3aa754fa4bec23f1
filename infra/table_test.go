// Package infra_test holds the table in functions.tf, and the plan that Terraform makes of it, to what the functions'
// composition roots open. `make infra` makes the plans; no cloud is asked.
package infra_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// row is a function's row of the table.
type row struct {
	Caller   string
	Paths    []string
	Schedule *struct{ Cron, Path string }
	Postgres []string
	Redis    []string
	KMS      []string `json:"kms"`
	Secrets  []string
	Writes   []string
	Settings []string
	Armor    string
}

// resource is one that Terraform plans to make.
type resource struct {
	Type   string
	Name   string
	Index  any
	Values map[string]any
}

// plan is what `terraform show -json` says of a plan.
type plan struct {
	Planned struct {
		Outputs map[string]struct{ Value json.RawMessage }
		Root    struct{ Resources []resource } `json:"root_module"`
	} `json:"planned_values"`
}

var environments = []string{"dev", "staging", "prod"}

func readPlanOf(t *testing.T, environment string) plan {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "bin", "infra", "plan-"+environment+".json"))
	if err != nil {
		t.Fatalf("%v: make infra makes the plans", err)
	}
	var p plan
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func readPlan(t *testing.T) (plan, map[string]row) {
	t.Helper()
	p := readPlanOf(t, "prod")
	table := map[string]row{}
	if err := json.Unmarshal(p.Planned.Outputs["functions"].Value, &table); err != nil {
		t.Fatal(err)
	}
	return p, table
}

// first is the block of a resource that has it once, or the first one.
func first(blocks any) map[string]any { return blocks.([]any)[0].(map[string]any) }

func (p plan) of(kind, name string) map[string]map[string]any {
	found := map[string]map[string]any{}
	for _, r := range p.Planned.Root.Resources {
		if index, ok := r.Index.(string); ok && r.Type == kind && r.Name == name {
			found[index] = r.Values
		}
	}
	return found
}

// functions lists the folders of functions/, each a function, except all.
func functions(t *testing.T) []string {
	t.Helper()
	opens, err := filepath.Glob(filepath.Join("..", "functions", "*", "open.go"))
	if err != nil || len(opens) == 0 {
		t.Fatalf("no function found: %v", err)
	}
	var names []string
	for _, path := range opens {
		names = append(names, filepath.Base(filepath.Dir(path)))
	}
	slices.Sort(names)
	return names
}

// need is what a call or a constant in a composition root needs: variables, and doors of the row.
type need struct {
	variables []string
	doors     []string
}

// needs is all that a composition root may open from shared/. A new door belongs here, and in the table.
var needs = map[string]need{
	"tenancy.Open":           {[]string{"DATABASE_URL"}, []string{"postgres"}},
	"tenancy.OpenAt":         {[]string{"OPERATOR_DATABASE_URL"}, []string{"operator"}},
	"seat.Open":              {[]string{"REDIS_URL"}, []string{"redis pools"}},
	"budget.Open":            {[]string{"BUDGET_REDIS_URL"}, []string{"redis budgets"}},
	"budget.OpenBeats":       {},
	"license.OpenDirectory":  {[]string{"LICENSE_KEY_PEPPERS"}, []string{"secret license-key-peppers"}},
	"license.OpenRegistry":   {[]string{"LICENSE_KEY_PEPPERS"}, []string{"secret license-key-peppers"}},
	"identity.Open":          {[]string{"API_KEY_PEPPERS"}, []string{"secret api-key-peppers"}},
	"identity.OpenPeople":    {[]string{"IDENTITY_ISSUER", "IDENTITY_AUDIENCE"}, []string{"people"}},
	"identity.OpenScheduler": {[]string{"SCHEDULER_AUDIENCE", "SCHEDULER_EMAIL"}, []string{"schedule"}},
	"signing.OpenTokens":     {[]string{"SEAT_TOKEN_KEYS_FILE"}, []string{"secret seat-token-keys"}},
	"signing.OpenKeys":       {[]string{"RECEIPT_ISSUER"}, []string{"receipts", "kms decrypt"}},
	"signing.OpenPublisher":  {[]string{"RECEIPT_ISSUER"}, []string{"receipts", "kms sign"}},
	"signing.KeysConfig":     {[]string{"RECEIPT_ISSUER"}, []string{"receipts"}},
	"signing.NewRoots":       {nil, []string{"kms sign"}},
	"kms.Open":               {},
	"kms.Sign":               {},
	"kms.Wrap":               {[]string{"KMS_WRAPPING_KEY"}, nil},
	"kms.Rotate":             {[]string{"KMS_ROOT_KEY"}, nil},
	"rotation.New":           {nil, []string{"kms encrypt", "kms sign", "kms admin"}},
	"rotation.Deps":          {},
	"billing.OpenDB":         {[]string{"DATABASE_URL"}, []string{"postgres"}},
	"billing.OpenStripe":     {[]string{"STRIPE_API_KEY", "STRIPE_CATALOG"}, []string{"secret stripe-api-key", "catalog"}},
	"billing.OpenOrigins":    {[]string{"BILLING_ORIGINS"}, []string{"sites"}},
	"billing.OpenSecrets":    {[]string{"STRIPE_WEBHOOK_SECRETS"}, []string{"secret stripe-webhook-secrets"}},
	"billing.Desk":           {},
	"billing.NewBooks":       {},
	"billing.BooksDeps":      {},
	"billing.StoreTime":      {},
	"billing.NewMeter":       {},
	"billing.MeterDeps":      {},
	"journal.Open":           {[]string{"JOURNAL_PROJECT"}, []string{"entries"}},
	"journal.Checkpoints":    {},
	"journal.OpenCache":      {[]string{"JOURNAL_PROJECT"}, []string{"journal"}},
	"notify.OpenKeys":        {[]string{"NOTIFY_KEYS"}, []string{"secret notify-keys"}},
	"mail.Open":              {[]string{"SMTP_HOST", "SMTP_USERNAME", "SMTP_PASSWORD", "MAIL_FROM"}, []string{"mail", "secret smtp-password"}},
	"webhook.OpenGuard":      {},
	"webhook.NewSender":      {},
	"identity.OperatorID":    {},
	"secretmanager.Open":     {[]string{"SEAT_TOKEN_SECRET"}, []string{"secret seat-token-keys", "writes seat-token-keys"}},
}

// plain are packages that open nothing.
var plain = []string{"config", "httpx", "serve"}

// opened is what a function's composition root needs, by what it selects from the packages of shared/.
func opened(t *testing.T, function string) (variables, doors []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "functions", function, "open.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]bool{}
	for _, i := range file.Imports {
		if path := strings.Trim(i.Path.Value, `"`); strings.HasPrefix(path, "github.com/coditect/usher/shared/") {
			name := path[strings.LastIndexByte(path, '/')+1:]
			ours[name] = !slices.Contains(plain, name)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := s.X.(*ast.Ident)
		if !ok || !ours[x.Name] || s.Sel.Name == "DB" {
			return true
		}
		need, known := needs[x.Name+"."+s.Sel.Name]
		if !known {
			t.Errorf("functions/%s/open.go uses %s.%s, of which this test does not know what doors it opens: add it to needs", function, x.Name, s.Sel.Name)
		}
		variables, doors = append(variables, need.variables...), append(doors, need.doors...)
		return true
	})
	return sorted(variables), sorted(doors)
}

func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// doors is what a row grants, in the words of needs.
func (r row) doors() []string {
	var all []string
	if len(r.Postgres) > 0 {
		all = append(all, "postgres")
	}
	if len(r.Postgres) > 1 {
		all = append(all, "operator")
	}
	for prefix, list := range map[string][]string{"redis ": r.Redis, "kms ": r.KMS, "secret ": r.Secrets, "writes ": r.Writes, "": r.Settings} {
		for _, one := range list {
			all = append(all, prefix+one)
		}
	}
	if r.Schedule != nil {
		all = append(all, "schedule")
	}
	return sorted(all)
}

func TestEveryFunctionHasARow(t *testing.T) {
	_, table := readPlan(t)
	if got, want := slices.Sorted(maps.Keys(table)), functions(t); !slices.Equal(got, want) {
		t.Errorf("the table has rows for %v, and functions/ has %v", got, want)
	}
}

func TestNoFunctionHasADoorItDoesNotUseOrUsesOneItDoesNotHave(t *testing.T) {
	_, table := readPlan(t)
	for _, name := range functions(t) {
		_, want := opened(t, name)
		if got := table[name].doors(); !slices.Equal(got, want) {
			t.Errorf("%s: the table grants\n\t%v\nand its composition root opens\n\t%v", name, got, want)
		}
	}
}

// optional are variables of a deployment that no function needs to start.
var optional = []string{"GOOGLE_CLOUD_PROJECT", "DATABASE_IAM", "DATABASE_MAX_CONNS", "TRUSTED_HOPS", "SSL_CERT_DIR", "JOURNAL_DATABASE", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_RESOURCE_ATTRIBUTES"}

func TestEveryFunctionIsGivenTheVariablesItNeedsAndNoOthers(t *testing.T) {
	p, _ := readPlan(t)
	services := p.of("google_cloud_run_v2_service", "function")
	for _, name := range functions(t) {
		want, _ := opened(t, name)
		var got []string
		for _, c := range first(first(services[name]["template"])["containers"])["env"].([]any) {
			if variable := c.(map[string]any)["name"].(string); !slices.Contains(optional, variable) {
				got = append(got, variable)
			}
		}
		if got := sorted(got); !slices.Equal(got, want) {
			t.Errorf("%s is given\n\t%v\nand reads\n\t%v", name, got, want)
		}
	}
}

// Who a function is in the database, and as whom it may act, is what the table says; nothing of ours knows a password there but
// the job that migrates.
func TestEachFunctionLogsInAsItsAccountAndActsAsItsRoles(t *testing.T) {
	p, table := readPlan(t)
	users, services, grants := p.of("google_sql_user", "function"), p.of("google_cloud_run_v2_service", "function"), map[string][]string{}
	for _, r := range p.Planned.Root.Resources {
		switch {
		case r.Type == "google_cloud_run_v2_job" && r.Name == "migrate":
			for _, e := range first(first(first(r.Values["template"])["template"])["containers"])["env"].([]any) {
				if variable := e.(map[string]any); variable["name"] == "DATABASE_LOGINS" {
					if err := json.Unmarshal([]byte(variable["value"].(string)), &grants); err != nil {
						t.Fatal(err)
					}
				}
			}
		case r.Type == "google_sql_user" && r.Values["type"] != "CLOUD_IAM_SERVICE_ACCOUNT":
			t.Errorf("%s[%v] is a user of type %v", r.Type, r.Index, r.Values["type"])
		case r.Type == "google_secret_manager_secret" && strings.HasSuffix(r.Index.(string), "-url") && !slices.Contains([]string{"pools-url", "budgets-url", "migrate-url"}, r.Index.(string)):
			t.Errorf("there is a secret %v", r.Index)
		}
	}
	if len(grants) != len(table) {
		t.Errorf("the job that migrates lets %d accounts act, and there are %d functions", len(grants), len(table))
	}
	for name, r := range table {
		login := "fn-" + name + "@usher-check.iam"
		if got := users[name]["name"]; got != login {
			t.Errorf("%s is %v in the database, want %s", name, got, login)
		}
		if got := grants[login]; !slices.Equal(got, r.Postgres) {
			t.Errorf("%s may act as %v, and the table says %v", login, got, r.Postgres)
		}
		byIAM := false
		for _, e := range first(first(services[name]["template"])["containers"])["env"].([]any) {
			variable := e.(map[string]any)
			byIAM = byIAM || variable["name"] == "DATABASE_IAM" && variable["value"] == "true"
			if sources, _ := variable["value_source"].([]any); strings.HasSuffix(variable["name"].(string), "DATABASE_URL") && len(sources) > 0 {
				t.Errorf("%s takes %s from a secret", name, variable["name"])
			}
		}
		if !byIAM {
			t.Errorf("%s does not log in by IAM", name)
		}
	}
}

func TestEachLoginRoleIsOneFunctionsAndExistsInTheDatabase(t *testing.T) {
	_, table := readPlan(t)
	schema, err := os.ReadFile(filepath.Join("..", "migrations", "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	owner := map[string]string{}
	for name, r := range table {
		if r.Postgres[0] != "usher_"+name {
			t.Errorf("%s logs in as %s, and not as usher_%s", name, r.Postgres[0], name)
		}
		for _, role := range r.Postgres {
			if other := owner[role]; other != "" {
				t.Errorf("%s and %s share the role %s", name, other, role)
			}
			owner[role] = name
			if !strings.Contains(string(schema), "CREATE ROLE "+role+" LOGIN;") {
				t.Errorf("%s logs in as %s, which no migration makes", name, role)
			}
		}
	}
	for _, made := range regexp.MustCompile(`CREATE ROLE (\w+) LOGIN;`).FindAllStringSubmatch(string(schema), -1) {
		if owner[made[1]] == "" {
			t.Errorf("a migration makes the login role %s, which no function has", made[1])
		}
	}
}

func TestThePublicCallsOnlyWhatIsPublic(t *testing.T) {
	p, table := readPlan(t)
	services, open := p.of("google_cloud_run_v2_service", "function"), p.of("google_cloud_run_v2_service_iam_member", "public")
	backends := p.of("google_compute_backend_service", "function")
	for _, name := range []string{"sweep", "deliver", "expire", "meter"} {
		if r, exists := table[name]; exists && (r.Caller != "scheduler" || len(r.Paths) > 0) {
			t.Errorf("%s is scheduled work, and its caller is %s with paths %v", name, r.Caller, r.Paths)
		}
	}
	for name, r := range table {
		public := r.Caller == "public" || r.Caller == "stripe"
		if !public && r.Caller != "scheduler" {
			t.Errorf("%s: its caller is %q", name, r.Caller)
		}
		if _, everybody := open[name]; everybody != public {
			t.Errorf("%s: its caller is %s, and everybody may call it: %v", name, r.Caller, everybody)
		}
		for _, backend := range []string{name, name + "-candidate"} {
			if _, behind := backends[backend]; behind != public {
				t.Errorf("%s: its caller is %s, and it is behind the load balancer: %v", backend, r.Caller, behind)
			}
		}
		if ingress := services[name]["ingress"]; public != (ingress == "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER") {
			t.Errorf("%s: its caller is %s, and its ingress is %v", name, r.Caller, ingress)
		}
		if guarded := r.Armor != ""; guarded != (public && name != "heartbeat") {
			t.Errorf("%s: its caller is %s, and its policy of Cloud Armor is %q", name, r.Caller, r.Armor)
		}
	}
	for _, r := range p.Planned.Root.Resources {
		member, _ := r.Values["member"].(string)
		if strings.HasPrefix(member, "all") && r.Name != "public" {
			t.Errorf("%s.%s[%v] grants something to %s", r.Type, r.Name, r.Index, member)
		}
	}
}

// Rotate by its plan, and incident when a key must be replaced at once. Nobody else.
func TestOnlyRotateAndIncidentAdministerKeys(t *testing.T) {
	p, table := readPlan(t)
	for name, r := range table {
		if slices.Contains(r.KMS, "admin") != (name == "rotate" || name == "incident") {
			t.Errorf("%s: kms %v", name, r.KMS)
		}
	}
	found := 0
	for _, r := range p.Planned.Root.Resources {
		role, _ := r.Values["role"].(string)
		switch {
		case role == "projects/usher-check/roles/usherKeyRotator":
			if found++; r.Index != "rotate-admin" && r.Index != "incident-admin" {
				t.Errorf("%s[%v] grants %s", r.Type, r.Index, role)
			}
		case role == "roles/cloudkms.admin" || role == "roles/owner" || role == "roles/editor":
			t.Errorf("%s[%v] grants %s", r.Type, r.Index, role)
		}
	}
	if found != 2 {
		t.Errorf("%d grants administer keys, and two should", found)
	}
}

// All that an account of a function may do is said by the table, of one thing each: nothing is granted in the whole project
// but to who deploys, to who reads or writes the journal, whose roles Firestore does not know of less, to log in to the database, and
// to tell what is measured.
func TestNoFunctionIsGrantedAnythingInTheWholeProject(t *testing.T) {
	p, _ := readPlan(t)
	var got []string
	for _, r := range p.Planned.Root.Resources {
		if strings.HasPrefix(r.Type, "google_project_iam_") && r.Type != "google_project_iam_custom_role" {
			if r.Name == "journal" && first(r.Values["condition"])["expression"] == `resource.name == "projects/usher-check/databases/usher-journal"` {
				continue // of one database
			}
			if r.Name == "database" && r.Values["role"] == "roles/cloudsql.instanceUser" {
				continue // they log in; what they may do there is what their roles may
			}
			if role := r.Values["role"]; r.Name == "telemetry" && (role == "roles/telemetry.metricsWriter" || role == "roles/telemetry.tracesWriter") {
				continue // they write, and read nothing
			}
			got = append(got, r.Type+"."+r.Name+" "+r.Values["role"].(string))
		}
	}
	want := []string{"google_project_iam_member.deployer projects/usher-check/roles/usherDeployer", "google_project_iam_member.deployer roles/logging.logWriter", "google_project_iam_member.deployer roles/monitoring.viewer"}
	if got := sorted(got); !slices.Equal(got, want) {
		t.Errorf("in the whole project are granted\n\t%v\nand should be\n\t%v", got, want)
	}
}

// sdks are the packages by which a binary can reach what a door leads to.
var sdks = map[string]string{
	"postgres": "github.com/jackc/pgx/v5/pgxpool",
	"redis":    "github.com/redis/go-redis/v9",
	"kms":      "cloud.google.com/go/kms/apiv1",
	"writes":   "cloud.google.com/go/secretmanager/apiv1",
	"catalog":  "github.com/stripe/stripe-go/v76",
	"mail":     "github.com/wneessen/go-mail",
	"journal":  "cloud.google.com/go/firestore",
}

// The linker is part of the wall: a binary holds the code of a door exactly when its row has the door.
func TestABinaryLinksTheCodeOfItsDoorsAndOfNoOther(t *testing.T) {
	_, table := readPlan(t)
	list := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}} {{join .Deps \" \"}}", "./functions/.../cmd")
	list.Dir = ".."
	out, err := list.Output()
	if err != nil {
		t.Fatalf("list what the binaries link: %v", err)
	}
	linked := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		packages := strings.Fields(line)
		linked[filepath.Base(filepath.Dir(packages[0]))] = packages[1:]
	}
	for _, name := range functions(t) {
		if len(linked[name]) == 0 {
			t.Errorf("%s has no binary", name)
		}
		doors := table[name].doors()
		for door, sdk := range sdks {
			declared := slices.ContainsFunc(doors, func(d string) bool {
				return strings.Fields(d)[0] == door || door == "journal" && d == "entries"
			})
			if links := slices.ContainsFunc(linked[name], func(p string) bool { return p == sdk || strings.HasPrefix(p, sdk+"/") }); links != declared {
				t.Errorf("%s: the table has the door %s: %v, and its binary links %s: %v", name, door, declared, sdk, links)
			}
		}
	}
}

// Each path of the OpenAPI document reaches the function that serves it; its tag is the function's name.
func TestTheURLMapKnowsEveryPublicPath(t *testing.T) {
	_, table := readPlan(t)
	text, err := os.ReadFile(filepath.Join("..", "docs", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]struct{ Tags []string }
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	matches := func(pattern, path string) bool {
		prefix, wild := strings.CutSuffix(pattern, "/*")
		return pattern == path || wild && strings.HasPrefix(path, prefix+"/")
	}
	scheduled := map[string]bool{}
	for path, methods := range document.Paths {
		for _, operation := range methods {
			name := operation.Tags[0]
			r, isFunction := table[name]
			if !isFunction {
				continue // health, which each serves to its platform
			}
			if r.Schedule != nil && path == r.Schedule.Path || r.Caller == "scheduler" {
				scheduled[name+" "+path] = true
				continue
			}
			reached := "admin" // what is left
			for other, r := range table {
				for _, pattern := range r.Paths {
					if matches(pattern, path) {
						reached = other
					}
				}
			}
			if reached != name {
				t.Errorf("%s is served by %s, and the URL map leads to %s", path, name, reached)
			}
		}
	}
	for name, r := range table {
		if r.Schedule != nil && !scheduled[name+" "+r.Schedule.Path] {
			t.Errorf("%s is to be called at %s, which it does not serve", name, r.Schedule.Path)
		}
	}
}

// All instances at their maxima, each with all its connections, leave the server ten: for the migrate job, for people, and for
// itself. Counted from what is planned, and not by the expression in the table's file.
func TestTheServerHasAConnectionForEveryInstance(t *testing.T) {
	for _, environment := range environments {
		p := readPlanOf(t, environment)
		total := 0
		for name, service := range p.of("google_cloud_run_v2_service", "function") {
			template := first(service["template"])
			instances := first(template["scaling"])["max_instance_count"].(float64)
			each, pools := 0, 0
			for _, e := range first(template["containers"])["env"].([]any) {
				switch variable := e.(map[string]any); variable["name"] {
				case "DATABASE_MAX_CONNS":
					each, _ = strconv.Atoi(variable["value"].(string))
				case "DATABASE_URL", "OPERATOR_DATABASE_URL":
					pools++
				}
			}
			if instances*float64(each*pools) == 0 {
				t.Errorf("%s: %s has %v instances, %d pools and %d connections for each", environment, name, instances, pools, each)
			}
			total += int(instances) * each * pools
		}
		most := 0
		for _, r := range p.Planned.Root.Resources {
			if r.Type == "google_sql_database_instance" {
				for _, f := range first(r.Values["settings"])["database_flags"].([]any) {
					if flag := f.(map[string]any); flag["name"] == "max_connections" {
						most, _ = strconv.Atoi(flag["value"].(string))
					}
				}
			}
		}
		if total > most-10 {
			t.Errorf("%s: all instances together may open %d connections, and the server has %d", environment, total, most)
		}
	}
}

func TestNothingWithDataInItIsDestroyedByMistake(t *testing.T) {
	p, _ := readPlan(t)
	for _, r := range p.Planned.Root.Resources {
		if r.Type == "google_sql_database_instance" && r.Values["deletion_protection"] != true {
			t.Errorf("%s.%s can be deleted", r.Type, r.Name)
		}
		if r.Type == "google_redis_instance" && r.Name == "pools" && r.Values["redis_configs"].(map[string]any)["maxmemory-policy"] != "noeviction" {
			t.Error("the Redis of the pools may evict seats")
		}
	}
}

func TestProductionIsReleasedToWhenSomebodyAgrees(t *testing.T) {
	for _, environment := range environments {
		found := 0
		for _, r := range readPlanOf(t, environment).Planned.Root.Resources {
			if r.Type != "google_cloudbuild_trigger" {
				continue
			}
			found++
			if needed := first(r.Values["approval_config"])["approval_required"]; needed != (environment == "prod") {
				t.Errorf("%s: a release needs somebody to agree: %v", environment, needed)
			}
			push := first(first(r.Values["repository_event_config"])["push"])
			if _, branch := push["branch"].(string); branch != (environment == "dev") {
				t.Errorf("%s: a release begins with a push of %v", environment, push)
			}
			if tag, _ := push["tag"].(string); tag != "" {
				pattern := regexp.MustCompile(tag)
				if final, candidate := pattern.MatchString("v1.2.0"), pattern.MatchString("v1.2.0-rc.1"); final != (environment == "prod") || candidate != (environment == "staging") {
					t.Errorf("%s: a release begins with tags like %s", environment, tag)
				}
			}
		}
		if found != 1 {
			t.Errorf("%s: %d triggers begin releases", environment, found)
		}
	}
}

// What stands in the journal stays as it was written: an account of a function may create and read, and nothing else.
func TestNobodyChangesWhatIsInTheJournal(t *testing.T) {
	p, _ := readPlan(t)
	roles := p.of("google_project_iam_custom_role", "journal")
	if len(roles) != 2 {
		t.Errorf("%d roles reach the journal", len(roles))
	}
	for name, r := range roles {
		for _, permission := range r["permissions"].([]any) {
			switch verb := permission.(string); {
			case verb == "datastore.databases.get", verb == "datastore.entities.get", verb == "datastore.entities.list":
			case verb == "datastore.entities.create" && name == "entries":
			default:
				t.Errorf("the role %s permits %s", name, verb)
			}
		}
	}
}

// What the policy deletes is what shared/journal says has an end, and nothing else: in which collection, and by which field.
func TestCheckpointsAloneHaveAnEndAndItIsTheOneThatTheJournalWrites(t *testing.T) {
	p, _ := readPlan(t)
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "shared", "journal", "checkpoints.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var fields, collections []string
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field: // of a document, as Firestore has it
			if n.Tag != nil && len(n.Names) == 1 && n.Names[0].Name == "Expires" {
				tag, _ := strconv.Unquote(n.Tag.Value)
				fields = append(fields, reflect.StructTag(tag).Get("firestore"))
			}
		case *ast.FuncDecl:
			if n.Name.Name == "checkpointsOf" {
				ast.Inspect(n, func(n ast.Node) bool {
					if l, ok := n.(*ast.BasicLit); ok {
						text, _ := strconv.Unquote(l.Value)
						collections = append(collections, strings.Trim(text, "/"))
					}
					return true
				})
			}
		}
		return true
	})
	if len(fields) != 1 || len(collections) != 1 {
		t.Fatalf("the journal writes an end as %v, in %v", fields, collections)
	}
	policies := 0
	for _, r := range p.Planned.Root.Resources {
		if r.Type != "google_firestore_field" {
			continue
		}
		policies++
		if r.Values["database"] != "usher-journal" || r.Values["collection"] != collections[0] || r.Values["field"] != fields[0] {
			t.Errorf("%s.%s is of %v, %v in %v; the journal writes %s in %s", r.Type, r.Name, r.Values["database"], r.Values["field"], r.Values["collection"], fields[0], collections[0])
		}
		if ttl, _ := r.Values["ttl_config"].([]any); len(ttl) != 1 {
			t.Errorf("%s.%s has no TTL", r.Type, r.Name)
		}
	}
	if policies != 1 {
		t.Errorf("%d fields have a policy", policies)
	}
}
