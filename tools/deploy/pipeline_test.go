// Package deploy_test holds cloudbuild.yaml to the schema of Cloud Build, and to what it calls.
package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/cloudbuild/apiv1/v2/cloudbuildpb"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"
)

var root = filepath.Join("..", "..")

func read(t *testing.T) *cloudbuildpb.Build {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "cloudbuild.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	document, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		t.Fatal(err)
	}
	var build cloudbuildpb.Build
	if err := protojson.Unmarshal(document, &build); err != nil {
		t.Fatal(err)
	}
	return &build
}

func step(t *testing.T, build *cloudbuildpb.Build, id string) *cloudbuildpb.BuildStep {
	t.Helper()
	for _, s := range build.GetSteps() {
		if s.GetId() == id {
			return s
		}
	}
	t.Fatalf("there is no step %s", id)
	return nil
}

// before says whether a step has ended when another begins.
func before(t *testing.T, build *cloudbuildpb.Build, first, then string) bool {
	t.Helper()
	for _, awaited := range step(t, build, then).GetWaitFor() {
		if awaited == first || awaited != "-" && before(t, build, first, awaited) {
			return true
		}
	}
	return false
}

func TestStepsWaitForStepsThatAreThereAndBeforeThem(t *testing.T) {
	t.Parallel()
	known := []string{"-"}
	for _, s := range read(t).GetSteps() {
		if s.GetId() == "" || slices.Contains(known, s.GetId()) {
			t.Errorf("the id %q is none, or a second one", s.GetId())
		}
		// Without it a step waits for all before it, which hides what it needs.
		if len(s.GetWaitFor()) == 0 {
			t.Errorf("%s does not say what it waits for", s.GetId())
		}
		for _, awaited := range s.GetWaitFor() {
			if !slices.Contains(known, awaited) {
				t.Errorf("%s waits for %s, which is not before it", s.GetId(), awaited)
			}
		}
		known = append(known, s.GetId())
	}
}

func TestNothingServesBeforeItWasTestedMigratedForAndTried(t *testing.T) {
	t.Parallel()
	build := read(t)
	order := []string{"migrate", "candidate", "smoke", "shift", "verify"}
	for _, first := range []string{"check", "test", "images"} {
		if !before(t, build, first, order[0]) {
			t.Errorf("%s does not wait for %s", order[0], first)
		}
		for _, awaited := range step(t, build, first).GetWaitFor() {
			if awaited != "-" && step(t, build, awaited).GetEntrypoint() != "install" {
				t.Errorf("%s waits for %s, and does not need it", first, awaited)
			}
		}
	}
	for i := range order[1:] {
		if !before(t, build, order[i], order[i+1]) {
			t.Errorf("%s does not wait for %s", order[i+1], order[i])
		}
	}
	last := build.GetSteps()[len(build.GetSteps())-1]
	if last.GetId() != "verify" || len(build.GetSteps()) != 5+len(order) {
		t.Errorf("the last of %d steps is %s", len(build.GetSteps()), last.GetId())
	}
	for _, s := range build.GetSteps() {
		if s.GetAllowFailure() || len(s.GetAllowExitCodes()) > 0 {
			t.Errorf("%s may fail", s.GetId())
		}
	}
}

// given are the substitutions that Cloud Build makes of its own accord, for builds without a trigger too.
var given = []string{"PROJECT_ID", "BUILD_ID"}

func TestSubstitutionsAreDeclaredAndUsed(t *testing.T) {
	t.Parallel()
	build := read(t)
	used := map[string]bool{}
	texts := []string{build.GetServiceAccount()}
	for _, s := range build.GetSteps() {
		texts = append(append(append(texts, s.GetName(), s.GetEntrypoint()), s.GetArgs()...), s.GetEnv()...)
	}
	for _, text := range texts {
		for _, match := range regexp.MustCompile(`\$(?:\{(\w+)\}|(\w+))`).FindAllStringSubmatch(text, -1) {
			name := match[1] + match[2]
			used[name] = true
			if _, declared := build.GetSubstitutions()[name]; !declared && !slices.Contains(given, name) {
				t.Errorf("%q uses %s, which nobody gives", text, name)
			}
		}
	}
	for name := range build.GetSubstitutions() {
		if !used[name] {
			t.Errorf("%s is declared and not used", name)
		}
	}
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(string(text))[1]
	if got := build.GetSubstitutions()["_GO"]; !strings.HasPrefix(got, "golang:"+version+"-") {
		t.Errorf("the steps run in %s, and go.mod asks for Go %s", got, version)
	}
}

// What the steps call is there: targets of the Makefile, and commands of Go.
func TestWhatTheStepsCallExists(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range read(t).GetSteps() {
		args, directory := s.GetArgs(), root
		switch s.GetEntrypoint() {
		case "make":
			if !regexp.MustCompile(`(?m)^` + args[0] + `:`).Match(makefile) {
				t.Errorf("%s: there is no make %s", s.GetId(), args[0])
			}
			continue
		case "bash":
			args = strings.Fields(strings.TrimPrefix(args[len(args)-1], "go "))
		case "go":
		case "install":
			continue
		default:
			t.Errorf("%s runs %q", s.GetId(), s.GetEntrypoint())
			continue
		}
		if args[0] == "-C" {
			directory, args = filepath.Join(root, args[1]), args[2:]
		}
		if args[0] != "run" {
			t.Errorf("%s calls go %s", s.GetId(), args[0])
		}
		if _, err := os.Stat(filepath.Join(directory, args[1], "main.go")); err != nil {
			t.Errorf("%s: %v", s.GetId(), err)
		}
	}
}

// A name is not spelled here, so none can be forgotten: all that is built is released, and what has a service and no image
// is an error (command release).
func TestWhatIsBuiltIsWhatIsReleased(t *testing.T) {
	t.Parallel()
	build := read(t)
	images := step(t, build, "images").GetArgs()
	if line := images[len(images)-1]; !strings.HasSuffix(line, "| tee /workspace/images.txt") || !strings.Contains(line, " -tag $BUILD_ID |") {
		t.Errorf("images writes %s", line)
	}
	for id, verb := range map[string][]string{
		"migrate": {"migrate", "/workspace/images.txt"}, "candidate": {"candidate", "/workspace/images.txt"}, "shift": {"shift"}, "verify": {"verify"},
	} {
		args := step(t, build, id).GetArgs()
		if got := args[len(args)-len(verb):]; !slices.Equal(got, verb) {
			t.Errorf("%s ends with %v, want %v", id, got, verb)
		}
		if i := slices.Index(args, "-as"); i < 0 || args[i+1] != "$BUILD_ID" {
			t.Errorf("%s does not say which release it is of: %v", id, args)
		}
		if !slices.Contains(args, "$PROJECT_ID") || !slices.Contains(args, "$_REGION") {
			t.Errorf("%s does not say where: %v", id, args)
		}
	}
}

// Tests that need the emulator of Firestore fail where it is missing, and are not skipped; it lies where they look for it.
func TestTheTestsOfABuildHaveTheEmulator(t *testing.T) {
	t.Parallel()
	build := read(t)
	args := step(t, build, "firestore").GetArgs()
	if target := args[slices.Index(args, "-t")+1]; target != "/builder/home/google-cloud-sdk/platform/cloud-firestore-emulator" {
		t.Errorf("the emulator is put into %s", target)
	}
	if !before(t, build, "firestore", "test") || !slices.Contains(step(t, build, "test").GetEnv(), "CI=true") {
		t.Error("the tests may be skipped")
	}
}
