package infra_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

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

func TestTheDashboardShowsEveryChart(t *testing.T) {
	p, _ := readPlan(t)
	text, err := os.ReadFile("queries.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var q struct {
		Charts []struct{ Title, Query string }
	}
	if err := yaml.Unmarshal(text, &q); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Planned.Root.Resources {
		if r.Type != "google_monitoring_dashboard" {
			continue
		}
		shown := r.Values["dashboard_json"].(string)
		for _, chart := range q.Charts {
			if !strings.Contains(shown, fmt.Sprintf("%q", chart.Title)) {
				t.Errorf("the dashboard does not show %s", chart.Title)
			}
			if _, err := parser.NewParser(parser.Options{}).ParseExpr(chart.Query); err != nil {
				t.Errorf("%s: %v", chart.Title, err)
			}
		}
		return
	}
	t.Error("the plan has no dashboard")
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
	"key-set": {
		`monitoring_googleapis_com:uptime_check_check_passed{monitored_resource="uptime_url"} 1x30`,
		`monitoring_googleapis_com:uptime_check_check_passed{monitored_resource="uptime_url"} 0x30`,
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
