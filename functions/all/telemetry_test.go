package all_test

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/coditect/usher/functions/all"
	"github.com/coditect/usher/shared/platform/otlp"
	"github.com/coditect/usher/shared/platform/telemetry"
	"github.com/coditect/usher/shared/platform/testenv"
)

// queries is what infra/queries.yaml asks of the telemetry.
type queries struct {
	Alerts map[string]struct{ Title, Hold, Query string }
	Charts []struct{ Title, Query string }
}

func readQueries(t *testing.T) (all map[string]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Root(t), "infra", "queries.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var q queries
	if err := yaml.Load(text, &q, yaml.WithKnownFields()); err != nil {
		t.Fatal(err)
	}
	all = map[string]string{}
	for name, alert := range q.Alerts {
		all["alert "+name] = alert.Query
	}
	for _, chart := range q.Charts {
		all["chart "+chart.Title] = chart.Query
	}
	return all
}

// unusual are values of labels that a query asks for and that the little that happens below does not bring about.
var unusual = []string{"usher.verdict=failed", "usher.outcome=failed", "usher.outcome=rebuilt", "http.response.status_code=0|429|5..", "http.response.status_code=5..", "usher.outcome=given_up"}

// The one test that runs alone: a process has one place where it measures.
//
//nolint:paralleltest // see above
func TestWhatIsMeasuredIsWhatDashboardsAndAlertsAskFor(t *testing.T) {
	r := testenv.NewReceiver(t)
	push, err := otlp.Open(t.Context(), all.Name, "v1", func(variable string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": r.URL}[variable]
	}, testenv.Logs(t).Logger)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t)
	s.useEverything(t)
	push.Flush(t.Context())
	push.Close(t.Context())

	known := map[string]telemetry.Instrument{}
	for _, i := range telemetry.Instruments() {
		known[i.Name] = i
		series := r.Series(i.Name)
		if len(series) == 0 {
			t.Errorf("%s was not measured", i.Name)
		}
		for _, one := range series {
			var labels []string
			for label := range one.Labels {
				labels = append(labels, label)
			}
			slices.Sort(labels)
			if want := slices.Sorted(slices.Values(i.Labels)); one.Kind != i.Kind || !slices.Equal(labels, want) {
				t.Errorf("%s came as a %s with the labels %v, and should be a %s with %v", i.Name, one.Kind, labels, i.Kind, want)
			}
		}
	}
	for _, name := range r.Metrics() {
		if _, ok := known[name]; !ok {
			t.Errorf("%s was measured, and no package says that it is", name)
		}
	}

	for _, want := range []struct {
		value  float64
		metric string
		labels []string
	}{
		{1, "usher.seats.over_admitted", nil},
		{float64(testenv.Value[int64](t, s.postgres, `SELECT count(*) FROM app.open_sessions`)), "usher.sessions.active", nil},
		{6, "usher.seat.acquire.duration", []string{"usher.verdict", "granted"}},
		{1, "usher.seat.acquire.duration", []string{"usher.verdict", "full"}},
		{1, "usher.problems", []string{"usher.function", "acquire", "error.type", "no_seats_available", "http.response.status_code", "409"}},
		{1, "http.server.request.duration", []string{"usher.function", "sweep", "http.request.method", "POST", "http.route", "/tasks/sweep", "http.response.status_code", "200"}},
		{1, "http.server.request.duration", []string{"usher.function", "heartbeat", "http.response.status_code", "401"}},
		{1, "usher.sweep.rounds", nil},
	} {
		if got := r.Sum(want.metric, want.labels...); got != want.value {
			t.Errorf("%s of %v is %v, and should be %v", want.metric, want.labels, got, want.value)
		}
	}

	s.isRecorded(t, r)

	asked := map[string]bool{}
	for name, query := range readQueries(t) {
		for _, fault := range misread(query, known, r, asked) {
			t.Errorf("%s: %s", name, fault)
		}
	}
	for name, i := range known {
		if !asked[name] {
			t.Errorf("no alert and no chart asks for %s", name)
		}
		for _, label := range i.Labels {
			if !asked[name+" "+label] {
				t.Errorf("no alert and no chart asks %s for %s", name, label)
			}
		}
	}
}

var record = flag.Bool("record", false, "write infra/testdata/emitted.txt anew, and compare nothing with it")

// isRecorded holds infra/testdata/emitted.txt, on which infra's tests evaluate the charts, to what was emitted: each of its series came, and it has
// some of each metric.
func (s *service) isRecorded(t *testing.T, r *testenv.Receiver) {
	t.Helper()
	file := filepath.Join(testenv.Root(t), "infra", "testdata", "emitted.txt")
	var emitted []string
	for _, metric := range r.Metrics() {
		for _, one := range r.Series(metric) {
			line := fmt.Sprintf("%s {%q", one.Kind, metric)
			for _, label := range slices.Sorted(maps.Keys(one.Labels)) {
				value := one.Labels[label]
				if strings.HasSuffix(label, ".id") && value != "other" {
					value = "an id"
				}
				line += fmt.Sprintf(", %q=%q", label, value)
			}
			line += "}"
			for _, bound := range one.Bounds {
				line += fmt.Sprint(" ", bound)
			}
			emitted = append(emitted, line)
		}
	}
	slices.Sort(emitted)
	emitted = slices.Compact(emitted)
	if *record {
		if err := os.WriteFile(file, []byte(strings.Join(emitted, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSuffix(line, "\n"); !slices.Contains(emitted, line) {
			t.Errorf("infra/testdata/emitted.txt has a series that was not emitted (go test ./functions/all -run Measured -record writes it anew): %s", line)
		}
	}
	for _, metric := range r.Metrics() {
		if !strings.Contains(string(text), fmt.Sprintf(" {%q", metric)) {
			t.Errorf("infra/testdata/emitted.txt has no series of %s (go test ./functions/all -run Measured -record writes it anew)", metric)
		}
	}
}

// useEverything does a little of what each metric measures.
func (s *service) useEverything(t *testing.T) {
	t.Helper()
	owner := s.owner(t)
	s.read(t, owner, "POST", "/v1/checkout", order(6), &struct{}{})
	s.stripe.Complete(s.stripe.Find("checkout.session", "")[0], false)
	s.deliver(t, 0)
	var sub bought
	s.read(t, owner, "GET", "/v1/subscription", nil, &sub)
	license := sub.LicenseID.String()
	key := s.must(t, 200, owner, "POST", "/v1/licenses/"+license+"/rotate-key", object{"overlap_seconds": 0}).LicenseKey
	s.must(t, 200, "", "POST", "/v1/validate", question(key, "laptop"))
	var seat answer
	for n := range sub.Seats {
		seat = s.must(t, 201, "", "POST", "/v1/acquire", question(key, fmt.Sprint("device-", n)))
	}
	s.must(t, 409, "", "POST", "/v1/acquire", question(key, "one-too-many"))
	s.must(t, 200, seat.SeatToken, "POST", "/v1/heartbeat", nil)
	s.must(t, 401, "ust_nonsense", "POST", "/v1/heartbeat", nil)
	// A row that no code of ours would write. The sweep counts it, and then closes it: no pool knows it.
	s.postgres.Exec(t, `INSERT INTO app.open_sessions (tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, holder, hardware_id)
		SELECT tenant_id, gen_random_uuid(), id, 99, 0, 0, 'nobody', 'nobody' FROM app.licenses WHERE id = $1`, license)
	for _, path := range []string{"/tasks/sweep", "/tasks/deliver", "/tasks/watch"} {
		s.must(t, http.StatusOK, s.token(schedulerClaims), "POST", path, nil)
	}
}

var (
	selector = regexp.MustCompile(`\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`^"([^"]+)"\s*(=~|!~|!=|=)\s*"([^"]*)"$`)
	grouping = regexp.MustCompile(`\bby\s*\(([^)]*)\)`)
	parts    = regexp.MustCompile(`_(bucket|count|sum)$`)
)

// misread says what a query asks for that is not there, and notes in asked what it does ask for: metrics, and their labels.
func misread(query string, known map[string]telemetry.Instrument, r *testenv.Receiver, asked map[string]bool) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	var metrics []telemetry.Instrument
	buckets := false
	for _, match := range selector.FindAllStringSubmatch(query, -1) {
		fields := strings.Split(match[1], ", ")
		name := strings.Trim(fields[0], `"`)
		i, ok := known[name]
		if base := parts.ReplaceAllString(name, ""); base != name {
			i, ok = known[base]
			ok = ok && i.Kind == "histogram"
			buckets = buckets || strings.HasSuffix(name, "_bucket")
		} else if ok && i.Kind == "histogram" {
			ok = false // of which there are only parts
		}
		if !ok {
			fault("there is no %s", name)
			continue
		}
		metrics, asked[i.Name] = append(metrics, i), true
		for _, field := range fields[1:] {
			m := matcher.FindStringSubmatch(field)
			if m == nil || !slices.Contains(i.Labels, m[1]) {
				fault("%s has no label of %s", i.Name, field)
				continue
			}
			asked[i.Name+" "+m[1]] = true
			matches, err := regexp.Compile("^(?:" + m[3] + ")$")
			if m[2] == "=" {
				matches = regexp.MustCompile("^" + regexp.QuoteMeta(m[3]) + "$")
			}
			if err != nil || !slices.Contains(unusual, m[1]+"="+m[3]) && !slices.ContainsFunc(r.Series(i.Name), func(s testenv.Series) bool { return matches.MatchString(s.Labels[m[1]]) }) {
				fault("no series of %s has %s", i.Name, field)
			}
		}
	}
	if len(metrics) == 0 {
		fault("it asks for nothing")
	}
	for _, match := range grouping.FindAllStringSubmatch(query, -1) {
		for field := range strings.SplitSeq(match[1], ", ") {
			label := strings.Trim(field, `"`)
			if field == "le" && buckets {
				continue
			}
			for _, i := range metrics {
				if !slices.Contains(i.Labels, label) {
					fault("%s has no label %s to group by", i.Name, field)
				}
				asked[i.Name+" "+label] = true
			}
		}
	}
	return faults
}

func TestAQueryForWhatIsNotThereIsSeen(t *testing.T) {
	t.Parallel()
	known := map[string]telemetry.Instrument{
		"a.duration": {Name: "a.duration", Kind: "histogram", Labels: []string{"kind"}},
		"b":          {Name: "b", Kind: "gauge"},
	}
	for _, bad := range []string{
		`1 > 0`, `max({"c"})`, `rate({"a.duration"}[5m])`, `max({"b_count"})`, `max({"b", "kind"="x"})`, `rate({"a.duration_count", "kind"="x"}[5m])`,
		`sum by ("kinds") (rate({"a.duration_count"}[5m]))`, `sum by (le) (rate({"a.duration_count"}[5m]))`,
	} {
		if len(misread(bad, known, testenv.NewReceiver(t), map[string]bool{})) == 0 {
			t.Errorf("nothing is wrong with %s", bad)
		}
	}
	for _, good := range []string{`max({"b"}) > 0`, `histogram_quantile(0.9, sum by (le, "kind") (rate({"a.duration_bucket"}[5m])))`} {
		if faults := misread(good, known, testenv.NewReceiver(t), map[string]bool{}); faults != nil {
			t.Errorf("%s: %v", good, faults)
		}
	}
}

// The table of docs/telemetry.md is what the code says.
func TestDocsListEveryMetric(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	for _, i := range telemetry.Instruments() {
		labels := "–"
		if len(i.Labels) > 0 {
			labels = "`" + strings.Join(i.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s | %s |\n", i.Name, i.Kind, i.Unit, labels, i.Help)
	}
	if page := pages(t)["docs/telemetry.md"]; !strings.HasSuffix(page, "|---|---|---|---|---|\n"+table.String()) {
		t.Errorf("docs/telemetry.md does not have the table\n%s", table.String())
	}
}
