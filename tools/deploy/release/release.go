package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	monitoring "cloud.google.com/go/monitoring/apiv3/v2"
	"cloud.google.com/go/monitoring/apiv3/v2/monitoringpb"
	cloudrun "cloud.google.com/go/run/apiv2"
	"cloud.google.com/go/run/apiv2/runpb"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	migrateJob = "migrate"

	// The tags of revisions. Each is part of a URL of its own.
	tagCandidate = "candidate" // what is to have the traffic
	tagPrevious  = "previous"  // what had it before the last release
	tagFailed    = "failed"    // what was rolled back

	// The labels of services: the newest migration that knows what has the traffic, and what had it before.
	labelSchema   = "usher-schema"
	labelPrevious = "usher-schema-previous"

	listTimeout    = time.Minute
	serviceTimeout = 5 * time.Minute  // an instance may take a minute and a half until its stores answer
	jobTimeout     = 35 * time.Minute // the job itself has 30

	mostErrors    = 0.01 // the share of answers 5xx above which a release is taken back
	leastRequests = 20   // below as many, one failure says nothing of a share
	mostBlind     = 10   // looks in a row at which Google did not answer, after which a release is taken back: five minutes
)

// target is where Usher runs, the newest migration of what is released there, and by what name it is told from other releases.
type target struct{ project, region, schema, release string }

// cloud is a project's Cloud Run and its measurements.
type cloud struct {
	target

	services *cloudrun.ServicesClient
	jobs     *cloudrun.JobsClient
	metrics  *monitoring.MetricClient
	says     io.Writer

	now       func() time.Time
	leaseLife time.Duration
	editing   sync.Mutex // the migrate job
	leased    bool       // a verb works under the lease
	seized    bool       // which somebody had, who may not know yet
}

func open(ctx context.Context, to target, options ...option.ClientOption) (*cloud, error) {
	services, err1 := cloudrun.NewServicesClient(ctx, options...)
	jobs, err2 := cloudrun.NewJobsClient(ctx, options...)
	metrics, err3 := monitoring.NewMetricClient(ctx, options...)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return &cloud{target: to, services: services, jobs: jobs, metrics: metrics, says: os.Stdout, now: time.Now, leaseLife: leaseLife}, nil
}

func (c *cloud) close() {
	_ = errors.Join(c.services.Close(), c.jobs.Close(), c.metrics.Close())
}

func (c *cloud) parent() string { return "projects/" + c.project + "/locations/" + c.region }

func (c *cloud) jobName() string { return c.parent() + "/jobs/" + migrateJob }

func (c *cloud) say(format string, args ...any) { _, _ = fmt.Fprintf(c.says, format+"\n", args...) }

// migrate runs the job with the image. It is told which migrations the services know that serve meanwhile, and refuses what
// they do not survive.
func (c *cloud) migrate(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	services, err := c.all(ctx)
	if err != nil {
		return err
	}
	err = c.editJob(ctx, func(job *runpb.Job) error {
		job.GetTemplate().GetTemplate().GetContainers()[0].Image = image
		return nil
	})
	if err != nil {
		return err
	}
	started, err := c.jobs.RunJob(ctx, &runpb.RunJobRequest{Name: c.jobName(), Overrides: &runpb.RunJobRequest_Overrides{
		ContainerOverrides: []*runpb.RunJobRequest_Overrides_ContainerOverride{{Args: append([]string{"up"}, knownTo(services)...)}},
	}})
	if err != nil {
		return fmt.Errorf("run the job %s: %w", migrateJob, err)
	}
	execution, err := started.Wait(ctx)
	if err != nil {
		return fmt.Errorf("run the job %s: %w", migrateJob, err)
	}
	if execution.GetSucceededCount() != 1 || execution.GetFailedCount() != 0 {
		return fmt.Errorf("the job %s failed: its log is at %s", migrateJob, execution.GetLogUri())
	}
	c.say("%s succeeded", migrateJob)
	return nil
}

// all lists the services, by name. Everything in the region is Usher's: a project holds one environment of it.
func (c *cloud) all(ctx context.Context) (map[string]*runpb.Service, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	found := map[string]*runpb.Service{}
	for services := c.services.ListServices(ctx, &runpb.ListServicesRequest{Parent: c.parent()}); ; {
		s, err := services.Next()
		if errors.Is(err, iterator.Done) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the services: %w", err)
		}
		found[path.Base(s.GetName())] = s
	}
}

// knownTo says to the job what the service knows that knows least, of those that say: a function that joined has not served yet. The
// first release finds none that says; the database then does.
func knownTo(services map[string]*runpb.Service) []string {
	least := int64(-1)
	for _, s := range services {
		n, err := strconv.ParseInt(s.GetLabels()[labelSchema], 10, 64)
		if err == nil && (least < 0 || n < least) {
			least = n
		}
	}
	if least < 0 {
		return nil
	}
	return []string{"-serving", strconv.FormatInt(least, 10)}
}

// label writes what a service says of itself.
func label(s *runpb.Service, name, value string) {
	if s.GetLabels() == nil {
		s.Labels = map[string]string{}
	}
	s.Labels[name] = value
}

// newestMigration is the number of the newest in dir.
func newestMigration(dir string) (string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "[0-9]*_*.sql"))
	if err != nil || len(names) == 0 {
		return "", fmt.Errorf("there are no migrations in %s: %w", dir, err)
	}
	digits, _, _ := strings.Cut(filepath.Base(slices.Max(names)), "_")
	n, err := strconv.Atoi(digits)
	return strconv.Itoa(n), err
}

// serving is the revision that has all traffic; empty when several share it.
func serving(s *runpb.Service) string {
	for _, t := range s.GetTraffic() {
		if t.GetPercent() == 100 {
			return revisionOf(s, t)
		}
	}
	if len(s.GetTraffic()) == 0 {
		return path.Base(s.GetLatestReadyRevision())
	}
	return ""
}

// tagged is the revision with the tag; empty when none has it.
func tagged(s *runpb.Service, tag string) string {
	for _, t := range s.GetTraffic() {
		if t.GetTag() == tag {
			return revisionOf(s, t)
		}
	}
	return ""
}

func revisionOf(s *runpb.Service, t *runpb.TrafficTarget) string {
	if t.GetType() == runpb.TrafficTargetAllocationType_TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST {
		return path.Base(s.GetLatestReadyRevision())
	}
	return t.GetRevision()
}

func to(revision string, percent int32, tag string) *runpb.TrafficTarget {
	return &runpb.TrafficTarget{
		Type: runpb.TrafficTargetAllocationType_TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION, Revision: revision, Percent: percent, Tag: tag,
	}
}

// update writes the service, as it was read but for what was changed, and waits until it is so.
func (c *cloud) update(ctx context.Context, s *runpb.Service) (*runpb.Service, error) {
	ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	operation, err := c.services.UpdateService(ctx, &runpb.UpdateServiceRequest{Service: s})
	if err != nil {
		return nil, err
	}
	s, err = operation.Wait(ctx)
	if err != nil {
		return nil, err
	}
	if condition := s.GetTerminalCondition(); condition.GetState() != runpb.Condition_CONDITION_SUCCEEDED {
		return nil, fmt.Errorf("is not ready: %s", condition.GetMessage())
	}
	return s, nil
}

// candidate makes the revisions that are to have the traffic. A function whose image serves already gets none: its own
// revision is tagged. A revision is ready when an instance of it answered /health/ready, so when its stores answered.
func (c *cloud) candidate(ctx context.Context, images map[string]string) error {
	services, err := c.all(ctx)
	if err != nil {
		return err
	}
	var failures []error
	for _, name := range slices.Sorted(maps.Keys(images)) {
		if name == migrateJob {
			continue
		}
		s, ok := services[name]
		if !ok {
			failures = append(failures, fmt.Errorf("there is no service %s: apply infra/ first", name))
			continue
		}
		if err := c.candidateOf(ctx, name, s, images[name]); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
		}
	}
	for name := range services {
		if images[name] == "" {
			failures = append(failures, fmt.Errorf("service %s has no image", name))
		}
	}
	return errors.Join(failures...)
}

func (c *cloud) candidateOf(ctx context.Context, name string, s *runpb.Service, image string) error {
	current := serving(s)
	if current == "" {
		return errors.New("several revisions share its traffic: end the release that is going on, or roll it back")
	}
	same := s.GetTemplate().GetContainers()[0].GetImage() == image
	if same && path.Base(s.GetLatestReadyRevision()) == current && s.GetLatestReadyRevision() == s.GetLatestCreatedRevision() {
		c.say("%s is unchanged", name)
		if tagged(s, tagCandidate) == current && tagged(s, tagPrevious) == "" && s.GetLabels()[labelSchema] == c.schema {
			return nil
		}
		label(s, labelSchema, c.schema) // what is built from this commit is what serves
		// Not of this release: a rollback leaves it alone.
		s.Traffic = []*runpb.TrafficTarget{to(current, 100, tagCandidate)}
		_, err := c.update(ctx, s)
		return err
	}
	s.GetTemplate().GetContainers()[0].Image = image
	s.GetTemplate().Revision = "" // Cloud Run names it
	if s.GetLatestReadyRevision() != s.GetLatestCreatedRevision() {
		// The last one never got ready, and may only have met a store that was out: without a change there would be no new one.
		if s.GetTemplate().Labels == nil {
			s.GetTemplate().Labels = map[string]string{}
		}
		s.GetTemplate().Labels["usher-attempt"] = strconv.FormatInt(time.Now().UnixMilli(), 10)
	}
	s.Traffic = []*runpb.TrafficTarget{
		to(current, 100, ""),
		{Type: runpb.TrafficTargetAllocationType_TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST, Tag: tagCandidate},
	}
	s, err := c.update(ctx, s)
	if err != nil {
		return err
	}
	if s.GetLatestReadyRevision() != s.GetLatestCreatedRevision() {
		return fmt.Errorf("%s did not get ready", path.Base(s.GetLatestCreatedRevision()))
	}
	c.say("%s has the candidate %s", name, path.Base(s.GetLatestReadyRevision()))
	return nil
}

// shift gives every candidate the traffic. What served before stays, tagged, to go back to; when one of them cannot have it,
// those that got it give it back.
func (c *cloud) shift(ctx context.Context) error {
	err := c.each(ctx, func(name string, s *runpb.Service) (bool, error) {
		next, current := tagged(s, tagCandidate), serving(s)
		if next == "" {
			return false, errors.New("has no candidate")
		}
		if next == current {
			return false, nil // not of this release, or shifted by a run that did not come to its end
		}
		s.Traffic = []*runpb.TrafficTarget{to(next, 100, tagCandidate), to(current, 0, tagPrevious)}
		label(s, labelPrevious, s.GetLabels()[labelSchema])
		label(s, labelSchema, c.schema)
		c.say("%s: %s takes over from %s", name, next, current)
		return true, nil
	})
	if err == nil || lost(err) {
		return err // whoever has the lease now moves the traffic
	}
	return errors.Join(err, c.takeBack(ctx))
}

// takeBack is rollback in the middle of a release, and says in its error where the traffic is if not where it was. Whoever stopped
// the build must not stop this.
func (c *cloud) takeBack(ctx context.Context) error {
	if err := c.rollback(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("of these functions the traffic may be where it was shifted to (make rollback, when Cloud Run answers): %w", err)
	}
	c.say("all traffic is where it was before this release")
	return nil
}

// rollback gives what served before the last release its traffic again. The database stays as it is: each migration is safe
// under the version before it.
func (c *cloud) rollback(ctx context.Context) error {
	return c.each(ctx, func(name string, s *runpb.Service) (bool, error) {
		before, current := tagged(s, tagPrevious), serving(s)
		if before == "" {
			return false, nil
		}
		s.Traffic = []*runpb.TrafficTarget{to(before, 100, tagCandidate), to(current, 0, tagFailed)}
		label(s, labelSchema, s.GetLabels()[labelPrevious])
		c.say("%s: back from %s to %s", name, current, before)
		return true, nil
	})
}

// rollbackAgainst is rollback, and once more when a release went on whose lease was seized: it looks at its lease before each write, so
// that one may have been on its way.
func (c *cloud) rollbackAgainst(ctx context.Context) error {
	err := c.rollback(ctx)
	if !c.seized {
		return err
	}
	c.say("looking once more, in %v, for what the release that went on has shifted", c.leaseLife/60)
	select {
	case <-ctx.Done():
	case <-time.After(c.leaseLife / 60):
	}
	return errors.Join(err, c.rollback(ctx))
}

// each changes every service; whether it is to be written is the change's first result. One that fails does not keep the
// others. Before each it looks whether the lease is still ours.
func (c *cloud) each(ctx context.Context, change func(name string, s *runpb.Service) (bool, error)) error {
	services, err := c.all(ctx)
	if err != nil {
		return err
	}
	var failures []error
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if ctx.Err() != nil {
			return errors.Join(append(failures, context.Cause(ctx))...)
		}
		if c.leased {
			if err := c.claims(ctx, keepLease); err != nil {
				return errors.Join(append(failures, err)...)
			}
		}
		changed, err := change(name, services[name])
		if err == nil && changed {
			_, err = c.update(ctx, services[name])
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(failures...)
}

// verify watches the revisions of this release. Errors over the limit take it back, and are an error. So does a watch that sees
// nothing for a while: what served before was watched once, and the database is good for it.
func (c *cloud) verify(ctx context.Context, watch, every time.Duration) error {
	begin, blind := time.Now(), 0
	for {
		bad, err := c.look(ctx, begin)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%w: the release has all traffic, and nobody watches it (make rollback takes it back)", context.Cause(ctx))
		case err != nil:
			if blind++; blind >= mostBlind {
				c.say("nothing was seen %d times: rolling back", blind)
				return errors.Join(fmt.Errorf("the release cannot be watched: %w", err), c.takeBack(ctx))
			}
			c.say("looking again: %v", err)
		case bad != "":
			c.say("%s: rolling back", bad)
			return errors.Join(errors.New(bad), c.takeBack(ctx))
		case time.Since(begin) >= watch:
			c.say("kept")
			return nil
		default:
			blind = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}
}

// look answers which function of this release has too many errors since then, in words; empty when none has.
func (c *cloud) look(ctx context.Context, since time.Time) (bad string, err error) {
	services, err := c.all(ctx)
	if err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if tagged(services[name], tagPrevious) == "" {
			continue
		}
		all, failed, err := c.requests(ctx, serving(services[name]), since)
		if err != nil {
			return "", err
		}
		if all >= leastRequests && float64(failed) > mostErrors*float64(all) {
			return fmt.Sprintf("%s has too many errors: %d of %d requests", name, failed, all), nil
		}
	}
	return "", nil
}

// requests counts what a revision answered since then, and how much of it with 5xx.
func (c *cloud) requests(ctx context.Context, revision string, since time.Time) (all, failed int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	series := c.metrics.ListTimeSeries(ctx, &monitoringpb.ListTimeSeriesRequest{
		Name: "projects/" + c.project,
		Filter: fmt.Sprintf(`metric.type = "run.googleapis.com/request_count" AND resource.type = "cloud_run_revision"`+
			` AND resource.labels.revision_name = %q`, revision),
		Interval: &monitoringpb.TimeInterval{StartTime: timestamppb.New(since), EndTime: timestamppb.New(time.Now())},
		Aggregation: &monitoringpb.Aggregation{
			AlignmentPeriod: durationpb.New(time.Minute), PerSeriesAligner: monitoringpb.Aggregation_ALIGN_DELTA,
			CrossSeriesReducer: monitoringpb.Aggregation_REDUCE_SUM, GroupByFields: []string{"metric.labels.response_code_class"},
		},
	})
	for {
		s, err := series.Next()
		if errors.Is(err, iterator.Done) {
			return all, failed, nil
		}
		if err != nil {
			return 0, 0, fmt.Errorf("count the requests of %s: %w", revision, err)
		}
		for _, point := range s.GetPoints() {
			n := point.GetValue().GetInt64Value()
			all += n
			if s.GetMetric().GetLabels()["response_code_class"] == "5xx" {
				failed += n
			}
		}
	}
}
