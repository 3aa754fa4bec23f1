package infra_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	promlabels "github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"go.yaml.in/yaml/v4"
)

// alert is one of the plan's.
type alert struct {
	title, query, text string
	hold               time.Duration
}

// alerts are those of the plan, by the heading that says what to do.
func (p plan) alerts(t *testing.T) map[string]alert {
	t.Helper()
	found := map[string]alert{}
	for key, policy := range p.of("google_monitoring_alert_policy", "usher") {
		condition := first(first(policy["conditions"])["condition_prometheus_query_language"])
		hold, err := time.ParseDuration(condition["duration"].(string))
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
		found[key] = alert{policy["display_name"].(string), condition["query"].(string), first(policy["documentation"])["content"].(string), hold}
	}
	if len(found) == 0 {
		t.Fatal("the plan has no alerts")
	}
	return found
}

func TestEveryAlertSaysWhatToDo(t *testing.T) {
	p, _ := readPlan(t)
	page, err := os.ReadFile(filepath.Join("..", "docs", "operations", "alerts.md"))
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, h := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(string(page), -1) {
		headings[h[1]] = true
	}
	for key, a := range p.alerts(t) {
		if !strings.Contains(a.text, "/docs/operations/alerts.md#"+key+")") {
			t.Errorf("%s does not name its heading: %s", key, a.text)
		}
		if !headings[key] {
			t.Errorf("docs/operations/alerts.md does not say what to do about %s", key)
		}
		delete(headings, key)
	}
	for heading := range headings {
		t.Errorf("docs/operations/alerts.md has the heading %s, and there is no such alert", heading)
	}
}

// chart is one of queries.yaml.
type chart struct{ Title, Query string }

func charts(t *testing.T) []chart {
	t.Helper()
	text, err := os.ReadFile("queries.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var q struct{ Charts []chart }
	if err := yaml.Unmarshal(text, &q); err != nil {
		t.Fatal(err)
	}
	if len(q.Charts) == 0 {
		t.Fatal("there are no charts")
	}
	return q.Charts
}

func TestTheDashboardShowsEveryChart(t *testing.T) {
	p, _ := readPlan(t)
	for _, r := range p.Planned.Root.Resources {
		if r.Type != "google_monitoring_dashboard" {
			continue
		}
		shown := r.Values["dashboard_json"].(string)
		for _, chart := range charts(t) {
			if !strings.Contains(shown, fmt.Sprintf("%q", chart.Title)) {
				t.Errorf("the dashboard does not show %s", chart.Title)
			}
		}
		return
	}
	t.Error("the plan has no dashboard")
}

// Each uptime check asks what the smoke test asks, in which a release must pass, too, and expects the same.
func TestUptimeChecksExpectWhatTheSmokeTestExpects(t *testing.T) {
	p, _ := readPlan(t)
	smoke, err := os.ReadFile(filepath.Join("..", "functions", "all", "smoke", "smoke.go"))
	if err != nil {
		t.Fatal(err)
	}
	checks := 0
	for _, r := range p.Planned.Root.Resources {
		if r.Type != "google_monitoring_uptime_check_config" {
			continue
		}
		checks++
		asks := first(r.Values["http_check"])
		method, _ := asks["request_method"].(string)
		status, says := 200, ""
		if codes, _ := asks["accepted_response_status_codes"].([]any); len(codes) > 0 {
			status = int(first(codes)["status_value"].(float64))
		}
		if matchers, _ := r.Values["content_matchers"].([]any); len(matchers) > 0 {
			says = first(matchers)["content"].(string)
		}
		line := fmt.Sprintf(`%q, "%s", .*, %d, %q}`, method, regexp.QuoteMeta(asks["path"].(string)), status, says)
		if method == "" {
			line = strings.Replace(line, `""`, `"GET"`, 1)
		}
		if !regexp.MustCompile(line).Match(smoke) {
			t.Errorf("%s expects what the smoke test does not: %s", r.Name, line)
		}
	}
	if checks != 2 {
		t.Errorf("there are %d uptime checks", checks)
	}
}

// What is logged word for word, and the alerts that count it.
func TestWhatIsCountedInLogsIsLogged(t *testing.T) {
	p, _ := readPlan(t)
	var code strings.Builder
	for _, path := range []string{"serve/serve.go", "../seat/sweep.go", "../seat/change.go"} {
		text, err := os.ReadFile(filepath.Join("..", "shared", "platform", path))
		if err != nil {
			t.Fatal(err)
		}
		code.Write(text)
	}
	metrics := p.of("google_logging_metric", "usher")
	if len(metrics) == 0 {
		t.Error("nothing is counted in logs")
	}
	for name, m := range metrics {
		message := regexp.MustCompile(`jsonPayload\.message="(.*)"$`).FindStringSubmatch(m["filter"].(string))
		if message == nil || !strings.Contains(code.String(), fmt.Sprintf("%q", message[1])) {
			t.Errorf("%s counts what nobody logs: %v", name, m["filter"])
		}
		asked := false
		for _, a := range p.alerts(t) {
			asked = asked || strings.Contains(a.query, "logging_googleapis_com:user_"+m["name"].(string)+"{")
		}
		if !asked {
			t.Errorf("no alert asks for %s", name)
		}
	}
}

// Series as promqltest reads them: a value each minute for half an hour. What a query divides by is there too.
var series = map[string]struct{ quiet, loud string }{
	"errors": {
		`{"http.server.request.duration_count", "http.response.status_code"="200"} 0+1000x30
		 {"http.server.request.duration_count", "http.response.status_code"="503"} 0+5x30`,
		`{"http.server.request.duration_count", "http.response.status_code"="200"} 0+1000x30
		 {"http.server.request.duration_count", "http.response.status_code"="503"} 0+20x30`,
	},
	"errors-of-cloud-run": {
		`run_googleapis_com:request_count{monitored_resource="cloud_run_revision", response_code_class="2xx"} 0+1000x30`,
		`run_googleapis_com:request_count{monitored_resource="cloud_run_revision", response_code_class="5xx"} 0+1000x30`,
	},
	"validate-p95":  {latency("validate", "0.1", 96), latency("validate", "0.1", 90)},
	"validate-p99":  {latency("validate", "0.2", 100), latency("validate", "0.2", 98)},
	"heartbeat-p99": {latency("heartbeat", "0.05", 100), latency("heartbeat", "0.05", 98)},
	"seat-denials":  {verdicts("granted", 60, "full", 40), verdicts("granted", 40, "full", 60)},
	"seats-fail":    {verdicts("granted", 99, "failed", 1), verdicts("granted", 95, "failed", 5)},
	"over-admission": {
		`{"usher.seats.over_admitted"} 0x30`,
		`{"usher.seats.over_admitted"} 0x20 1 0x9`,
	},
	"kms-failures": {
		`{"usher.kms.duration_count", "usher.outcome"="failed"} 0+0x28 1 1`,
		`{"usher.kms.duration_count", "usher.outcome"="failed"} 0+1x30`,
	},
	"postgres-pool": {pool("db.client", 3, 4), pool("db.client", 4, 4)},
	"redis-pool": {
		`{"usher.redis.connection.count", "db.client.connection.state"="used"} 10x30
		 {"usher.redis.connection.max"} 50x30`,
		`{"usher.redis.connection.count", "db.client.connection.state"="used"} 49x30
		 {"usher.redis.connection.max"} 50x30`,
	},
	"postgres-connections": {
		`cloudsql_googleapis_com:database_postgresql_num_backends{monitored_resource="cloudsql_database"} 20x30`,
		`cloudsql_googleapis_com:database_postgresql_num_backends{monitored_resource="cloudsql_database"} 10000x30`,
	},
	"postgres-fails": {
		`{"db.client.operation.duration_count", "usher.outcome"="ok"} 0+100x30`,
		`{"db.client.operation.duration_count", "usher.outcome"="ok"} 0+100x30
		 {"db.client.operation.duration_count", "usher.outcome"="failed"} 0+10x30`,
	},
	"redis-memory": {
		`redis_googleapis_com:stats_memory_usage_ratio{monitored_resource="redis_instance", instance_id="x/pools"} 0.5x30`,
		`redis_googleapis_com:stats_memory_usage_ratio{monitored_resource="redis_instance", instance_id="x/pools"} 0.8x30`,
	},
	"redis-lost": {
		`{"usher.sweep.pools", "usher.outcome"="rebuilt"} 0x30`,
		`{"usher.sweep.pools", "usher.outcome"="rebuilt"} 0x25 10 10 10 10 10`,
	},
	"sweep-late": {`{"usher.sweep.rounds"} 0+1x30`, `{"usher.sweep.rounds"} 0+1x10 10x20`},
	"queue-age": {
		`{"usher.queue.age", "usher.queue"="mails"} 60x30
		 {"usher.queue.age", "usher.queue"="stripe_events"} 90000x30`,
		`{"usher.queue.age", "usher.queue"="mails"} 1000x30`,
	},
	"stripe-events": {
		`{"usher.queue.size", "usher.queue"="stripe_events"} 0x30
		 {"usher.queue.size", "usher.queue"="mails"} 7x30`,
		`{"usher.queue.size", "usher.queue"="stripe_events"} 1x30`,
	},
	"stripe-webhook": {
		`{"http.server.request.duration_count", "usher.function"="webhook", "http.response.status_code"="200"} 0+10x30
		 {"http.server.request.duration_count", "usher.function"="admin", "http.response.status_code"="500"} 0+10x30`,
		`{"http.server.request.duration_count", "usher.function"="webhook", "http.response.status_code"="503"} 0+10x30`,
	},
	"stripe-fails": {
		`{"usher.stripe.duration_count", "http.response.status_code"="404"} 0+10x30`,
		`{"usher.stripe.duration_count", "http.response.status_code"="0"} 0+1x30`,
	},
	"webhooks-given-up": {
		`{"usher.webhook.attempts", "usher.outcome"="given_up"} 3x30`,
		`{"usher.webhook.attempts", "usher.outcome"="given_up"} 3x20 4x10`,
	},
	"incident-watch": {watch("200"), watch("503")},
	"from-outside": {
		`monitoring_googleapis_com:uptime_check_check_passed{monitored_resource="uptime_url", check_id="key-set"} 1x30
		 monitoring_googleapis_com:uptime_check_check_passed{monitored_resource="uptime_url", check_id="heartbeat"} 1x30`,
		`monitoring_googleapis_com:uptime_check_check_passed{monitored_resource="uptime_url", check_id="key-set"} 1x30
		 monitoring_googleapis_com:uptime_check_check_passed{monitored_resource="uptime_url", check_id="heartbeat"} 0x30`,
	},
	"standby-late": {
		`cloudsql_googleapis_com:database_replication_replica_lag{monitored_resource="cloudsql_database"} 2x30
		 cloudsql_googleapis_com:database_replication_network_lag{monitored_resource="cloudsql_database"} 299x30`,
		`cloudsql_googleapis_com:database_replication_replica_lag{monitored_resource="cloudsql_database"} 2x30
		 cloudsql_googleapis_com:database_replication_network_lag{monitored_resource="cloudsql_database"} 301x30`,
	},
	"cannot-start": {
		`logging_googleapis_com:user_usher_cannot_start{monitored_resource="cloud_run_revision"} 2x30`,
		`logging_googleapis_com:user_usher_cannot_start{monitored_resource="cloud_run_revision"} 2x25 3x5`,
	},
	"clock-of-redis": {
		`logging_googleapis_com:user_usher_clock_of_redis{monitored_resource="cloud_run_revision"} 0x30`,
		`logging_googleapis_com:user_usher_clock_of_redis{monitored_resource="cloud_run_revision"} 0x25 1x5`,
	},
}

// latency is 100 requests a minute, so many of which take no longer than the bound, and the others up to a second.
func latency(function, bound string, within int) string {
	one := func(le string, n int) string {
		return fmt.Sprintf("{\"http.server.request.duration_bucket\", \"usher.function\"=%q, le=%q} 0+%dx30\n", function, le, n)
	}
	return one(bound, within) + one("1", 100) + one("+Inf", 100)
}

func verdicts(one string, n int, other string, m int) string {
	return fmt.Sprintf("{\"usher.seat.acquire.duration_count\", \"usher.verdict\"=%q} 0+%dx30\n{\"usher.seat.acquire.duration_count\", \"usher.verdict\"=%q} 0+%dx30", one, n, other, m)
}

func pool(metric string, used, most int) string {
	return fmt.Sprintf(`{"%[1]s.connection.count", "db.client.connection.pool.name"="usher_acquire", "db.client.connection.state"="used"} %[2]dx30
		{"%[1]s.connection.count", "db.client.connection.pool.name"="usher_acquire", "db.client.connection.state"="idle"} %[3]dx30
		{"%[1]s.connection.max", "db.client.connection.pool.name"="usher_acquire"} %[3]dx30`, metric, used, most)
}

func watch(status string) string {
	return fmt.Sprintf(`{"http.server.request.duration_count", "http.route"="/tasks/watch", "http.response.status_code"=%q} 0+1x30
		{"http.server.request.duration_count", "http.route"="/v1/incidents", "http.response.status_code"="200"} 0+1x30`, status)
}

// emitted are the series of testdata/emitted.txt, which functions/all holds to what the functions emit, as promqltest reads them: counters and
// histograms grow each minute, and gauges stay.
func emitted(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "emitted.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for line := range strings.Lines(string(text)) {
		m := regexp.MustCompile(`^(counter|gauge|histogram) \{("[^"]+")(.*)\}([ 0-9.]*)\n$`).FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("this is no series: %s", line)
		}
		name, labels := m[2], m[3]
		switch m[1] {
		case "counter":
			fmt.Fprintf(&all, "{%s%s} 0+60x30\n", name, labels)
		case "gauge":
			fmt.Fprintf(&all, "{%s%s} 3x30\n", name, labels)
		default:
			part := func(of, le string, each int) {
				fmt.Fprintf(&all, "{%s%s%s} 0+%dx30\n", strings.TrimSuffix(name, `"`)+of+`"`, labels, le, each)
			}
			bounds := strings.Fields(m[4])
			for i, bound := range bounds {
				part("_bucket", fmt.Sprintf(", le=%q", bound), i+1)
			}
			part("_bucket", `, le="+Inf"`, len(bounds)+1)
			part("_count", "", len(bounds)+1)
			part("_sum", "", 1)
		}
	}
	return all.String()
}

// labelled are the labels that a query's answer has, by its outermost grouping.
func labelled(t *testing.T, query parser.Expr) []string {
	t.Helper()
	switch e := query.(type) {
	case *parser.ParenExpr:
		return labelled(t, e.Expr)
	case *parser.BinaryExpr: // of which one side is a number, or both have the same labels
		return labelled(t, e.LHS)
	case *parser.Call: // histogram_quantile
		return slices.DeleteFunc(labelled(t, e.Args[len(e.Args)-1]), func(label string) bool { return label == "le" })
	case *parser.AggregateExpr:
		if e.Op == parser.TOPK {
			return labelled(t, e.Expr)
		}
		return sorted(slices.Clone(e.Grouping))
	default:
		t.Fatalf("what labels has %s?", query)
		return nil
	}
}

// Prometheus evaluates each chart on what the functions emit: it shows something, that is a number, with the labels that it asks for.
func TestEveryChartShowsWhatTheFunctionsEmit(t *testing.T) {
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	storage := promqltest.LoadedStorage(t, "load 1m\n"+regexp.MustCompile(`(?m)^\{`).ReplaceAllString(emitted(t), "  {")+"\n")
	defer func() { _ = storage.Close() }()
	for _, chart := range charts(t) {
		asked, err := parser.NewParser(parser.Options{}).ParseExpr(chart.Query)
		if err != nil {
			t.Errorf("%s: %v", chart.Title, err)
			continue
		}
		q, err := engine.NewInstantQuery(t.Context(), storage, nil, chart.Query, time.Unix(0, 0).Add(30*time.Minute))
		if err != nil {
			t.Errorf("%s: %v", chart.Title, err)
			continue
		}
		vector, err := q.Exec(t.Context()).Vector()
		if err != nil || len(vector) == 0 {
			t.Errorf("%s shows nothing: %v", chart.Title, err)
		}
		want := labelled(t, asked)
		for _, sample := range vector {
			var labels []string
			sample.Metric.Range(func(l promlabels.Label) { labels = append(labels, l.Name) })
			if !slices.Equal(sorted(labels), want) {
				t.Errorf("%s shows %v, and should show the labels %v", chart.Title, sample.Metric, want)
			}
			if math.IsNaN(sample.F) || math.IsInf(sample.F, 0) {
				t.Errorf("%s shows %v of %v", chart.Title, sample.F, sample.Metric)
			}
		}
		q.Close()
	}
}

// Prometheus evaluates each alert's query, on series that must not make it go off and on others that must.
func TestEveryAlertGoesOffWhenItShouldAndOtherwiseNot(t *testing.T) {
	p, _ := readPlan(t)
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	goesOff := func(key, query, series string) bool {
		lines := regexp.MustCompile(`(?m)^\s*`).ReplaceAllString(series, "  ")
		storage := promqltest.LoadedStorage(t, "load 1m\n"+lines+"\n")
		defer func() { _ = storage.Close() }()
		q, err := engine.NewInstantQuery(t.Context(), storage, nil, query, time.Unix(0, 0).Add(30*time.Minute))
		if err != nil {
			t.Errorf("%s: %v", key, err)
			return false
		}
		defer q.Close()
		result := q.Exec(t.Context())
		if result.Err != nil {
			t.Errorf("%s: %v", key, result.Err)
			return false
		}
		vector, ok := result.Value.(promql.Vector)
		if !ok {
			t.Errorf("%s answers a %T", key, result.Value)
		}
		return len(vector) > 0
	}
	alerts := p.alerts(t)
	for key, a := range alerts {
		s, ok := series[key]
		if !ok {
			t.Errorf("this test does not know what makes %s go off", key)
			continue
		}
		if goesOff(key, a.query, s.quiet) {
			t.Errorf("%s goes off when it should not", key)
		}
		if !goesOff(key, a.query, s.loud) {
			t.Errorf("%s does not go off when it should", key)
		}
	}
	for key := range series {
		if _, ok := alerts[key]; !ok {
			t.Errorf("there is no alert %s", key)
		}
	}
	for _, key := range []string{"sweep-late", "incident-watch"} {
		if !goesOff(key, alerts[key].query, `{"something.else"} 1x30`) {
			t.Errorf("%s does not go off when nothing is told at all", key)
		}
	}
}
