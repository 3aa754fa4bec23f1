package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/monitoring/apiv3/v2/monitoringpb"
	"cloud.google.com/go/run/apiv2/runpb"
	"google.golang.org/api/option"
	metricpb "google.golang.org/genproto/googleapis/api/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const parent = "projects/vendor/locations/europe-west1"

// google stands in for Cloud Run and Cloud Monitoring, and speaks their protocol.
type google struct {
	runpb.UnimplementedServicesServer
	monitoringpb.UnimplementedMetricServiceServer

	mu       sync.Mutex
	services map[string]*runpb.Service
	versions map[string]int // writes of a service, its etag
	made     map[string]map[string]bool
	job      *runpb.Job
	ran      []string // images and arguments that the job ran with
	broken   map[string]bool
	stuck    map[string]bool     // services that refuse to be written when traffic moves
	answers  map[string][2]int64 // revision to all requests and failed ones
	moved    func()              // called when traffic has moved
	moving   func(name string)   // called before a service is written
	listed   func()              // called when the services have been read
	out      int                 // so many of the next questions to Cloud Monitoring are not answered
}

func newGoogle(functions ...string) *google {
	g := &google{
		services: map[string]*runpb.Service{}, versions: map[string]int{}, made: map[string]map[string]bool{}, broken: map[string]bool{},
		stuck: map[string]bool{}, answers: map[string][2]int64{},
		job: &runpb.Job{Name: parent + "/jobs/migrate", Template: &runpb.ExecutionTemplate{Template: &runpb.TaskTemplate{Containers: []*runpb.Container{{Image: "migrate@sha256:0"}}}}},
	}
	for _, f := range functions {
		revision := parent + "/services/" + f + "/revisions/" + f + "-1"
		g.services[f] = &runpb.Service{
			Name: parent + "/services/" + f, Etag: "0",
			Template:            &runpb.RevisionTemplate{Containers: []*runpb.Container{{Image: f + "@sha256:1"}}},
			LatestReadyRevision: revision, LatestCreatedRevision: revision,
			Traffic: []*runpb.TrafficTarget{{Type: runpb.TrafficTargetAllocationType_TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST, Percent: 100}},
		}
		g.made[f] = map[string]bool{f + "-1": true}
	}
	return g
}

// jobs is the part of it that runs jobs.
type jobs struct {
	runpb.UnimplementedJobsServer

	g *google
}

func done(answer proto.Message) (*longrunningpb.Operation, error) {
	packed, err := anypb.New(answer)
	if err != nil {
		return nil, err
	}
	return &longrunningpb.Operation{Name: parent + "/operations/1", Done: true, Result: &longrunningpb.Operation_Response{Response: packed}}, nil
}

func (g *google) ListServices(context.Context, *runpb.ListServicesRequest) (*runpb.ListServicesResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listed != nil {
		defer g.listed()
	}
	answer := &runpb.ListServicesResponse{}
	for _, s := range g.services {
		answer.Services = append(answer.Services, proto.CloneOf(s))
	}
	return answer, nil
}

func (g *google) UpdateService(_ context.Context, r *runpb.UpdateServiceRequest) (*longrunningpb.Operation, error) {
	if g.moving != nil {
		g.moving(path.Base(r.GetService().GetName()))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	name := path.Base(r.GetService().GetName())
	old, wanted := g.services[name], proto.CloneOf(r.GetService())
	if old == nil || old.GetEtag() != wanted.GetEtag() {
		return nil, status.Errorf(codes.Aborted, "%s was changed by somebody else", name)
	}
	sum, tags := int32(0), map[string]bool{}
	for _, t := range wanted.GetTraffic() {
		if t.GetType() == runpb.TrafficTargetAllocationType_TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION && !g.made[name][t.GetRevision()] {
			return nil, status.Errorf(codes.InvalidArgument, "%s has no revision %q", name, t.GetRevision())
		}
		if tag := t.GetTag(); tag != "" && tags[tag] {
			return nil, status.Errorf(codes.InvalidArgument, "the tag %s twice", tag)
		}
		tags[t.GetTag()] = true
		sum += t.GetPercent()
	}
	if sum != 100 {
		return nil, status.Errorf(codes.InvalidArgument, "the traffic adds up to %d", sum)
	}
	image := wanted.GetTemplate().GetContainers()[0].GetImage()
	wanted.TerminalCondition = &runpb.Condition{State: runpb.Condition_CONDITION_SUCCEEDED}
	switch {
	case !proto.Equal(wanted.GetTemplate(), old.GetTemplate()):
		revision := fmt.Sprintf("%s-%d", name, len(g.made[name])+1)
		g.made[name][revision] = true
		wanted.LatestCreatedRevision = wanted.GetName() + "/revisions/" + revision
		if g.broken[image] {
			wanted.TerminalCondition = &runpb.Condition{State: runpb.Condition_CONDITION_FAILED, Message: "The user-provided container failed the configured startup probe checks."}
		} else {
			wanted.LatestReadyRevision = wanted.GetLatestCreatedRevision()
		}
	case g.stuck[name]:
		return nil, status.Errorf(codes.PermissionDenied, "%s may not be changed", name)
	}
	g.versions[name]++
	wanted.Etag = fmt.Sprint(g.versions[name])
	g.services[name] = wanted
	if g.moved != nil && image == old.GetTemplate().GetContainers()[0].GetImage() {
		g.moved()
	}
	return done(proto.CloneOf(wanted))
}

func (j jobs) GetJob(context.Context, *runpb.GetJobRequest) (*runpb.Job, error) {
	j.g.mu.Lock()
	defer j.g.mu.Unlock()
	return proto.CloneOf(j.g.job), nil
}

func (j jobs) UpdateJob(_ context.Context, r *runpb.UpdateJobRequest) (*longrunningpb.Operation, error) {
	j.g.mu.Lock()
	defer j.g.mu.Unlock()
	if r.GetJob().GetEtag() != j.g.job.GetEtag() {
		return nil, status.Errorf(codes.Aborted, "the job was changed by somebody else")
	}
	j.g.job = proto.CloneOf(r.GetJob())
	j.g.versions["job"]++
	j.g.job.Etag = fmt.Sprint(j.g.versions["job"])
	return done(proto.CloneOf(j.g.job))
}

func (j jobs) RunJob(_ context.Context, r *runpb.RunJobRequest) (*longrunningpb.Operation, error) {
	j.g.mu.Lock()
	defer j.g.mu.Unlock()
	image := j.g.job.GetTemplate().GetTemplate().GetContainers()[0].GetImage()
	args := r.GetOverrides().GetContainerOverrides()[0].GetArgs()
	j.g.ran = append(j.g.ran, image+" "+strings.Join(args, " "))
	if j.g.broken[image] {
		return done(&runpb.Execution{FailedCount: 1, LogUri: "https://console.cloud.google.com/logs"})
	}
	return done(&runpb.Execution{SucceededCount: 1})
}

func (g *google) ListTimeSeries(_ context.Context, r *monitoringpb.ListTimeSeriesRequest) (*monitoringpb.ListTimeSeriesResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.out > 0 {
		g.out--
		return nil, status.Error(codes.Internal, "Cloud Monitoring is out")
	}
	answer := &monitoringpb.ListTimeSeriesResponse{}
	for revision, counts := range g.answers {
		if !strings.Contains(r.GetFilter(), `resource.labels.revision_name = "`+revision+`"`) {
			continue
		}
		for class, n := range map[string]int64{"2xx": counts[0] - counts[1], "5xx": counts[1]} {
			answer.TimeSeries = append(answer.TimeSeries, &monitoringpb.TimeSeries{
				Metric: &metricpb.Metric{Labels: map[string]string{"response_code_class": class}},
				Points: []*monitoringpb.Point{{Value: &monitoringpb.TypedValue{Value: &monitoringpb.TypedValue_Int64Value{Int64Value: n}}}},
			})
		}
	}
	return answer, nil
}

// reach is a cloud whose Google is g, and what it says.
func reach(t *testing.T, g *google) (*cloud, *bytes.Buffer) {
	t.Helper()
	server := grpc.NewServer()
	runpb.RegisterServicesServer(server, g)
	runpb.RegisterJobsServer(server, jobs{g: g})
	monitoringpb.RegisterMetricServiceServer(server, g)
	var listen net.ListenConfig
	listener, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	c, err := open(t.Context(), target{"vendor", "europe-west1", "23", "build-1"}, option.WithEndpoint(listener.Addr().String()), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	var says bytes.Buffer
	c.says = &says
	return c, &says
}

// has fails unless the function's traffic is as said: the revision that serves, and tags as in candidate=acquire-2.
func (g *google) has(t *testing.T, function, serves string, tags ...string) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.services[function]
	if got := serving(s); got != serves {
		t.Errorf("%s serves %s, and should serve %s", function, got, serves)
	}
	for _, pair := range tags {
		tag, want, _ := strings.Cut(pair, "=")
		if got := tagged(s, tag); got != want {
			t.Errorf("of %s %q is tagged %s, and should be %q", function, got, tag, want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func images(version int) map[string]string {
	return map[string]string{"migrate": fmt.Sprintf("migrate@sha256:%d", version), "acquire": fmt.Sprintf("acquire@sha256:%d", version), "keys": "keys@sha256:1"}
}

func TestAReleaseIsTriedWithoutTrafficThenServesAndCanBeTakenBack(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	c, says := reach(t, g)
	must(t, c.migrate(t.Context(), images(2)["migrate"]))
	if len(g.ran) != 1 || g.ran[0] != "migrate@sha256:2 up" {
		t.Errorf("the job ran with %v", g.ran)
	}
	for range 2 { // repeated it changes nothing
		must(t, c.candidate(t.Context(), images(2)))
		g.has(t, "acquire", "acquire-1", "candidate=acquire-2")
		g.has(t, "keys", "keys-1", "candidate=keys-1")
	}
	if len(g.made["keys"]) != 1 || len(g.made["acquire"]) != 2 || !strings.Contains(says.String(), "keys is unchanged") {
		t.Errorf("revisions are %v, and it said\n%s", g.made, says)
	}
	for range 2 {
		must(t, c.shift(t.Context()))
		g.has(t, "acquire", "acquire-2", "candidate=acquire-2")
		g.has(t, "keys", "keys-1", "previous=")
	}
}

func TestTheMigrateJobIsToldWhatTheOldestThatServesKnows(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	c, _ := reach(t, g)
	told := func(want string) {
		t.Helper()
		must(t, c.migrate(t.Context(), "m"))
		if got := g.ran[len(g.ran)-1]; got != "m up"+want {
			t.Errorf("the job ran as %q", got)
		}
	}
	told("")
	must(t, c.candidate(t.Context(), images(2)))
	told(" -serving 23") // of acquire nothing is known
	must(t, c.shift(t.Context()))
	told(" -serving 23")
	c.schema = "25"
	must(t, c.candidate(t.Context(), images(3)))
	told(" -serving 23")
	must(t, c.shift(t.Context()))
	told(" -serving 25")
	must(t, c.rollback(t.Context()))
	told(" -serving 23")
	c.schema = "26"
	must(t, c.candidate(t.Context(), images(2)))
	told(" -serving 23")
	// A function that the release leaves as it is knows what the release knows.
	if known := g.services["keys"].GetLabels()[labelSchema]; known != "26" {
		t.Errorf("keys says that it knows %s", known)
	}
	must(t, c.shift(t.Context()))
	told(" -serving 26")
}

func TestTheNewestMigrationIsReadFromTheSources(t *testing.T) {
	t.Parallel()
	if n, err := newestMigration("../../../migrations"); err != nil || len(n) < 2 || n[0] == '0' {
		t.Errorf("%q, %v", n, err)
	}
	if _, err := newestMigration(t.TempDir()); err == nil {
		t.Error("a folder without migrations has a newest")
	}
}

func TestARollbackTakesBackThisReleaseAlone(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	c, _ := reach(t, g)
	first := images(1)
	first["keys"] = "keys@sha256:2"
	for _, release := range []map[string]string{first, {"migrate": "m@sha256:2", "acquire": "acquire@sha256:2", "keys": "keys@sha256:2"}} {
		must(t, c.candidate(t.Context(), release))
		must(t, c.shift(t.Context()))
	}
	g.has(t, "acquire", "acquire-2", "previous=acquire-1")
	g.has(t, "keys", "keys-2", "previous=")
	for range 2 {
		must(t, c.rollback(t.Context()))
		g.has(t, "acquire", "acquire-1", "failed=acquire-2", "previous=")
		g.has(t, "keys", "keys-2")
	}
	// What failed may be released again: the image is the same, and the revision is there.
	must(t, c.candidate(t.Context(), images(2)))
	g.has(t, "acquire", "acquire-1", "candidate=acquire-2")
}

func TestACandidateThatDoesNotGetReadyFailsAndServesNobody(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	g.broken["acquire@sha256:2"] = true
	c, _ := reach(t, g)
	if err := c.candidate(t.Context(), images(2)); err == nil || !strings.Contains(err.Error(), "acquire: is not ready: The user-provided container failed") {
		t.Errorf("the error is %v", err)
	}
	g.has(t, "acquire", "acquire-1")
	g.has(t, "keys", "keys-1", "candidate=keys-1")
	// Its store is back.
	delete(g.broken, "acquire@sha256:2")
	must(t, c.candidate(t.Context(), images(2)))
	g.has(t, "acquire", "acquire-1", "candidate=acquire-3")
}

func TestAFailedMigrationIsAnError(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire")
	g.broken["migrate@sha256:2"] = true
	c, _ := reach(t, g)
	if err := c.migrate(t.Context(), "migrate@sha256:2"); err == nil || !strings.Contains(err.Error(), "its log is at https://") {
		t.Errorf("the error is %v", err)
	}
}

func TestServicesAndImagesMustBeTheSameFunctions(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "borrow")
	c, _ := reach(t, g)
	err := c.candidate(t.Context(), images(2))
	if err == nil || !strings.Contains(err.Error(), "there is no service keys") || !strings.Contains(err.Error(), "service borrow has no image") {
		t.Errorf("the error is %v", err)
	}
}

func TestAShiftThatFailsHalfwayIsUndone(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	c, _ := reach(t, g)
	release := images(2)
	release["keys"] = "keys@sha256:2"
	must(t, c.candidate(t.Context(), release))
	g.stuck["keys"] = true
	if err := c.shift(t.Context()); err == nil || !strings.Contains(err.Error(), "keys may not be changed") {
		t.Errorf("the error is %v", err)
	}
	g.has(t, "acquire", "acquire-1", "failed=acquire-2")
	g.has(t, "keys", "keys-1")
}

func TestErrorsOverOnePercentTakeTheReleaseBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		requests, failed int64
		kept             bool
	}{
		"two of a hundred":          {100, 2, false},
		"one of a hundred":          {100, 1, true},
		"one of very few":           {3, 1, true},
		"nobody asked":              {0, 0, true},
		"all of the fewest counted": {20, 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGoogle("acquire", "keys")
			// What an older revision or another function answers says nothing of this release.
			g.answers["acquire-1"], g.answers["keys-1"] = [2]int64{100, 100}, [2]int64{100, 100}
			g.answers["acquire-2"] = [2]int64{test.requests, test.failed}
			c, _ := reach(t, g)
			must(t, c.candidate(t.Context(), images(2)))
			must(t, c.shift(t.Context()))
			err := c.verify(t.Context(), 0, time.Hour)
			if kept := err == nil; kept != test.kept {
				t.Errorf("it was kept: %v, %v", kept, err)
			}
			if test.kept {
				g.has(t, "acquire", "acquire-2", "previous=acquire-1")
			} else {
				g.has(t, "acquire", "acquire-1", "failed=acquire-2")
			}
		})
	}
}

func TestAWatchThatSeesNothingForAWhileTakesTheReleaseBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		out  int
		kept bool
	}{
		"Cloud Monitoring answers in the end": {mostBlind - 1, true},
		"it does not":                         {mostBlind, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGoogle("acquire", "keys")
			c, says := reach(t, g)
			must(t, c.candidate(t.Context(), images(2)))
			must(t, c.shift(t.Context()))
			g.out = test.out
			// Its time is over at once: it is kept when it was seen once after all.
			err := c.verify(t.Context(), 0, time.Millisecond)
			if test.kept {
				must(t, err)
				g.has(t, "acquire", "acquire-2", "previous=acquire-1")
				return
			}
			if err == nil || !strings.Contains(err.Error(), "cannot be watched") || !strings.Contains(says.String(), "all traffic is where it was before this release") {
				t.Errorf("the error is %v, and it said\n%s", err, says)
			}
			g.has(t, "acquire", "acquire-1", "failed=acquire-2")
		})
	}
}

func TestAReleaseThatCannotBeTakenBackSaysWhereTheTrafficIs(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	c, _ := reach(t, g)
	must(t, c.candidate(t.Context(), images(2)))
	must(t, c.shift(t.Context()))
	g.out, g.stuck["acquire"] = mostBlind, true
	err := c.verify(t.Context(), 0, time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "may be where it was shifted to") || !strings.Contains(err.Error(), "acquire may not be changed") {
		t.Errorf("the error is %v", err)
	}
	g.has(t, "acquire", "acquire-2")
}

func TestAWatchThatIsStoppedSaysThatNobodyWatches(t *testing.T) {
	t.Parallel()
	g := newGoogle("acquire", "keys")
	c, _ := reach(t, g)
	must(t, c.candidate(t.Context(), images(2)))
	must(t, c.shift(t.Context()))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := c.verify(ctx, time.Hour, time.Hour); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "nobody watches it") {
		t.Errorf("the error is %v", err)
	}
	g.has(t, "acquire", "acquire-2")
}

func TestImagesWithoutADigestAreRefused(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"acquire r/acquire@sha256:1\nmigrate r/migrate@sha256:2\n": true,
		"acquire r/acquire:latest\nmigrate r/migrate@sha256:2\n":   false,
		"acquire r/acquire@sha256:1\n":                             false,
		"migrate r/migrate@sha256:2\n":                             false,
		"":                                                         false,
	} {
		file := filepath.Join(t.TempDir(), "images.txt")
		must(t, os.WriteFile(file, []byte(text), 0o600))
		if _, err := readImages(file); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}
