package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

// The ways `make run` ends.
const (
	exitOK      = 0
	exitFault   = 1 // something failed
	exitSetting = 2 // something is in the way that the person who starts it can clear away
)

// dir keeps everything that a run leaves behind.
const dir = ".local"

// Run is `make run`: it starts everything, says what to try, waits for Ctrl-C, and stops everything. It returns the exit
// code.
func Run(getenv func(string) string, out *os.File) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	screen := NewScreen(out, getenv)
	u, err := Start(ctx, Options{Dir: dir, Getenv: getenv, Progress: screen.Progress})
	if ctx.Err() != nil {
		screen.Progress("stopped before it was ready")
		if err == nil {
			err = u.Close()
		}
		return ended(screen, notCanceled(err))
	}
	if err != nil {
		return ended(screen, err)
	}
	screen.ready(u.Demo())
	select {
	case <-ctx.Done():
	case err = <-u.Failed():
	}
	stop() // a second Ctrl-C ends the process at once
	screen.Progress("stopping")
	if err = errors.Join(err, u.Close()); err == nil {
		screen.Progress("stopped; the data stays in %s/ until make clean", dir)
	}
	return ended(screen, err)
}

// notCanceled is err, unless it only says that it was interrupted.
func notCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// ended says why it ended, and answers the exit code.
func ended(screen *Screen, err error) int {
	if err == nil {
		return exitOK
	}
	screen.Line("%s", screen.bold("usher: ")+err.Error())
	if _, ok := errors.AsType[*SettingError](err); ok {
		return exitSetting
	}
	return exitFault
}

// Screen is where a person reads. It may be used at once by several.
type Screen struct {
	mu    sync.Mutex
	out   io.Writer
	plain bool
}

// NewScreen writes to out: plainly when that is no terminal, or when NO_COLOR is set.
func NewScreen(out *os.File, getenv func(string) string) *Screen {
	return &Screen{out: out, plain: getenv("NO_COLOR") != "" || !IsTerminal(out)}
}

// IsTerminal says whether a person looks at the file.
func IsTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Progress writes what is being done.
func (s *Screen) Progress(format string, args ...any) {
	s.Line("%s", s.dim("· "+fmt.Sprintf(format, args...)))
}

// Line writes a line.
func (s *Screen) Line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.out, format+"\n", args...) // nobody looks any more
}

func (s *Screen) bold(text string) string { return s.style("1", text) }
func (s *Screen) dim(text string) string  { return s.style("2", text) }

func (s *Screen) style(code, text string) string {
	if s.plain {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// ready says where the service is, and what to try.
func (s *Screen) ready(d Demo) {
	try := strings.NewReplacer("URL", d.BaseURL, "KEY", d.LicenseKey)
	s.Line("")
	s.Line("%s", s.bold("Usher serves on "+d.BaseURL)+" with the licence key "+s.bold(d.LicenseKey))
	s.Line("It has one seat, and a lease of 30 s. Paste the commands, one by one, into another terminal.")
	for _, step := range steps {
		s.Line("")
		s.Line("%s", step.says)
		s.Line("%s", s.bold(try.Replace(step.command)))
	}
	s.Line("")
	s.Line("make demo shows 25 clients on 10 seats. API keys for administration are in %s/demo.json, the mails", dir)
	s.Line("that were sent in %s/mail, the requests in %s/usher.log. Ctrl-C stops everything; the data stays", dir, dir)
	s.Line("in %s/ until make clean.", dir)
}

// steps are what to try. They need curl and sed, and a shell.
var steps = []struct{ says, command string }{
	{
		"Take the seat, and keep its token:",
		`TOKEN=$(curl -s URL/v1/acquire -H 'Content-Type: application/json' -d '{"license_key":"KEY","hardware_id":"laptop","version":"1.0.0"}' | sed 's/.*"seat_token":"\([^"]*\)".*/\1/'); echo "$TOKEN"`,
	},
	{
		"Keep it, within 30 s; each heartbeat gives it another 30 s:",
		`curl -s -w '\n' -X POST URL/v1/heartbeat -H "Authorization: Bearer $TOKEN"`,
	},
	{
		"Another client is refused, until the seat is given back, or 31 s after its holder fell silent:",
		`curl -s -w '\n' URL/v1/acquire -H 'Content-Type: application/json' -d '{"license_key":"KEY","hardware_id":"desktop","version":"1.0.0"}'`,
	},
	{
		"Report what it used, while it sits; sent twice, it counts once:",
		`curl -s -w '\n' URL/v1/usage -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d "{\"events\":[{\"id\":\"run-$$\",\"metric\":\"agent_invocation\",\"quantity\":3,\"occurred_at\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"}]}"`,
	},
	{
		"See the month's total, the quota and the cap:",
		`curl -s -w '\n' URL/v1/usage -H "Authorization: Bearer $TOKEN"`,
	},
	{
		"Give it back:",
		`curl -s -w '\n' -X POST URL/v1/release -H "Authorization: Bearer $TOKEN"`,
	},
}
