//go:build unix

package main

import (
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestVersionIsWhatTheBuildSays(t *testing.T) {
	t.Parallel()
	w := world{}
	w.usher(t, "version").want(t, exitOK).shows(t, "usher v0.0.0-test ("+runtime.Version())
	if v := read[map[string]string](t, w.usher(t, "version", "--json")); v["version"] != "v0.0.0-test" || v["os"] != runtime.GOOS {
		t.Errorf("it says %v", v)
	}
}

func TestCompletionIsThereForEachShell(t *testing.T) {
	t.Parallel()
	w := world{}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script := w.usher(t, "completion", shell).want(t, exitOK).out
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // there is no such shell to ask
		}
		check := exec.Command(path, "-n")
		check.Stdin = strings.NewReader(script)
		if text, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s does not understand its script: %v\n%s", shell, err, text)
		}
	}
	w.usher(t, "__complete", "admin", "licenses", "su").want(t, exitOK).shows(t, "suspend")
}

func TestTheBinaryIsStatic(t *testing.T) {
	t.Parallel()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == "CGO_ENABLED" && s.Value != "0" {
			t.Error("it is built with cgo")
		}
	}
	if runtime.GOOS != "linux" {
		return
	}
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if libraries, err := file.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("it needs %v (%v)", libraries, err)
	}
}

// manual is docs/cli.md.
func manual(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// each calls fn with a command and all below it.
func each(cmd *cobra.Command, fn func(*cobra.Command)) {
	fn(cmd)
	for _, c := range cmd.Commands() {
		each(c, fn)
	}
}

func TestTheManualNamesEveryCommandAndFlag(t *testing.T) {
	t.Parallel()
	text := manual(t)
	a := &app{getenv: os.Getenv}
	root := a.root()
	root.InitDefaultCompletionCmd()
	each(root, func(cmd *cobra.Command) {
		if !cmd.HasSubCommands() && !strings.Contains(text, "`"+cmd.CommandPath()) {
			t.Errorf("docs/cli.md does not name %s", cmd.CommandPath())
		}
		if strings.HasPrefix(cmd.CommandPath(), "usher admin ") {
			return // their flags are the contract's
		}
		for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(cmd.LocalFlags().FlagUsages(), -1) {
			if !strings.Contains(text, "`"+flag) {
				t.Errorf("docs/cli.md does not name %s of %s", flag, cmd.CommandPath())
			}
		}
	})
}

func TestTheManualsExitCodesAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	codes := map[int]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(manual(t), -1) {
		var code int
		_, _ = fmt.Sscan(row[1], &code)
		codes[code] = true
	}
	for code := range exitSignal + 1 {
		known := slices.Contains([]int{
			exitOK, exitNo, exitUsage, exitUnreachable, exitRunUnreachable, exitNoSeat, exitLost, exitRefused, exitCannotRun, exitNotFound, exitSignal,
		}, code)
		for _, r := range refusals {
			known = known || r.exit == code
		}
		if known != codes[code] {
			t.Errorf("exit code %d: that docs/cli.md has it is %t", code, codes[code])
		}
	}
}

func TestTheManualsAndTheHelpsExamplesAreCommandLines(t *testing.T) {
	t.Parallel()
	var lines []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(manual(t), -1) {
		lines = append(lines, strings.Split(block[1], "\n")...)
	}
	each((&app{getenv: os.Getenv}).root(), func(cmd *cobra.Command) { lines = append(lines, strings.Split(cmd.Example, "\n")...) })
	examples := 0
	quoted := regexp.MustCompile(`"[^"]*"`)
	for _, line := range lines {
		words := strings.Fields(quoted.ReplaceAllString(line, "quoted"))
		if len(words) == 0 || words[0] != "usher" {
			continue
		}
		words = slices.DeleteFunc(words[1:], func(w string) bool { return w == `\` })
		for i, w := range words {
			if strings.HasPrefix(w, "#") || w == "|" || w == ">" {
				words = words[:i]
				break
			}
		}
		examples++
		root := (&app{getenv: os.Getenv}).root()
		root.InitDefaultCompletionCmd()
		cmd, rest, err := root.Find(words)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if examples < 20 {
		t.Errorf("there are only %d examples", examples)
	}
}
