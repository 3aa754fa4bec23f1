package localenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// installTimeout bounds one run of a package manager.
const installTimeout = 10 * time.Minute

// Software is something that Install can provide.
type Software struct {
	name     string
	programs []string // all of these, and it is installed
	debian   string   // its Debian packages, with spaces between
	homebrew string   // its Homebrew formula
	oneOf    bool     // one of the programs is enough
}

// The software that `make run` and the tests stand on.
var (
	PostgreSQL = Software{name: "PostgreSQL", programs: []string{"initdb", "postgres", "pg_dump"}, debian: "postgresql", homebrew: "postgresql@15"}
	Redis      = Software{name: "Redis", programs: []string{"redis-server"}, debian: "redis-server", homebrew: "redis"}
	PgBouncer  = Software{name: "PgBouncer", programs: []string{"pgbouncer"}, debian: "pgbouncer", homebrew: "pgbouncer"}
	// CCompiler is what Go's race detector links with. A Mac has it with its command line tools.
	CCompiler = Software{name: "a C compiler", programs: []string{"cc"}, debian: "gcc libc6-dev", homebrew: "gcc"}
	// Spin checks the model of the seat protocol; what it generates is C.
	Spin = Software{name: "Spin", programs: []string{"spin"}, debian: "spin", homebrew: "spin"}
	// Java runs the emulator of Firestore, where that is (HasFirestore).
	Java = Software{name: "Java", programs: []string{"java"}, debian: "default-jre-headless", homebrew: "openjdk"}
	// Node runs other implementations than ours that tests compare with.
	Node = Software{name: "Node.js", programs: []string{"node", "npm"}, debian: "nodejs npm", homebrew: "node"}
	// Chromium is the browser that tests click with; Google's Chrome will do.
	Chromium = Software{name: "Chromium", programs: []string{
		"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium",
	}, debian: "chromium", homebrew: "google-chrome", oneOf: true}
)

// Install makes sure that each piece of software is there. What is missing it installs with the system's package
// manager (apt-get as root or through a sudo that asks nothing, or Homebrew), one line of progress each to log; where
// it cannot, the error names the exact command to type.
func Install(ctx context.Context, log io.Writer, wanted ...Software) error {
	var missing []Software
	for _, s := range wanted {
		if !s.installed() {
			missing = append(missing, s)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	commands := installCommands(missing)
	if len(commands) == 0 {
		return fmt.Errorf("%s missing, and neither apt-get nor brew is here to install it: put %s on the PATH",
			names(missing), strings.Join(missing[0].programs, ", "))
	}
	if _, err := fmt.Fprintf(log, "installing %s ...\n", names(missing)); err != nil {
		return fmt.Errorf("report progress: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	for _, command := range commands {
		var trouble tail
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Stdout, cmd.Stderr = &trouble, &trouble
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s missing, and installing failed: %w\n%s\nInstall by hand with:\n  %s",
				names(missing), err, &trouble, byHand(commands))
		}
	}
	var errs []error
	for _, s := range missing {
		if !s.installed() {
			errs = append(errs, fmt.Errorf("%s was installed, but %s is nowhere to be found", s.name, strings.Join(s.programs, ", ")))
		}
	}
	return errors.Join(errs...)
}

func (s Software) installed() bool {
	if s.oneOf {
		return slices.ContainsFunc(s.programs, func(program string) bool {
			_, err := Find(program)
			return err == nil
		})
	}
	return !slices.ContainsFunc(s.programs, func(program string) bool {
		_, err := Find(program)
		return err != nil
	})
}

// Find answers the path of a program: PostgreSQL's from the newest version's own directory, others from the PATH.
func Find(program string) (string, error) {
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin/",
		"/opt/homebrew/opt/postgresql@*/bin/",
		"/usr/local/opt/postgresql@*/bin/",
	} {
		matches, _ := filepath.Glob(pattern + program) // the patterns are well-formed
		if len(matches) > 0 {
			return slices.MaxFunc(matches, newer), nil
		}
	}
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	// Debian keeps daemons where the PATH of an ordinary user does not look.
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin", "/usr/local/bin"} {
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: %w", program, exec.ErrNotFound)
}

// FindBrowser answers the path of Chromium or Chrome.
func FindBrowser() (string, error) {
	for _, program := range Chromium.programs {
		if path, err := Find(program); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: %w", strings.Join(Chromium.programs, ", "), exec.ErrNotFound)
}

// newer orders paths that differ in a version number: the shorter number is the smaller one.
func newer(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func names(software []Software) string {
	var list []string
	for _, s := range software {
		list = append(list, s.name)
	}
	return strings.Join(list, ", ")
}

// installCommands are the commands that install what is missing here; none when no package manager is known.
func installCommands(missing []Software) [][]string {
	if runtime.GOOS == "darwin" {
		brew, err := Find("brew")
		if err != nil {
			return nil
		}
		command := []string{brew, "install", "--quiet"}
		for _, s := range missing {
			command = append(command, s.homebrew)
		}
		return [][]string{command}
	}
	if _, err := Find("apt-get"); err != nil {
		return nil
	}
	// Debian starts each service it installs, on its usual port; policy-rc.d is Debian's own way to say no, and
	// belongs to the administrator, so a service that starts is left running: ours use other ports.
	prefix := []string{"env", "DEBIAN_FRONTEND=noninteractive"}
	if os.Geteuid() != 0 {
		prefix = append([]string{"sudo", "--non-interactive"}, prefix...)
	}
	install := append(slices.Clone(prefix), "apt-get", "install", "--yes", "--quiet", "--no-install-recommends")
	for _, s := range missing {
		install = append(install, strings.Fields(s.debian)...)
	}
	return [][]string{append(slices.Clone(prefix), "apt-get", "update", "--quiet"), install}
}

// byHand spells commands as a person types them.
func byHand(commands [][]string) string {
	var lines []string
	for _, command := range commands {
		lines = append(lines, strings.ReplaceAll(strings.Join(command, " "), "--non-interactive ", ""))
	}
	return strings.Join(lines, " && ")
}
