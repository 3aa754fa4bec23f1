//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// started is a usher that runs, in a session of its own, without a terminal.
type started struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err written
	done     chan struct{}
}

// written is what a program has written so far.
type written struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// start starts a command line.
func (w world) start(t *testing.T, args ...string) *started {
	t.Helper()
	s := &started{t: t, cmd: w.command(t, args...), done: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.err
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.done
		w.hides(t, s.out.String()+s.err.String())
	})
	return s
}

// awaits waits until a text is written.
func (s *started) awaits(what string) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, func() error {
		if text := s.out.String() + s.err.String(); !strings.Contains(text, what) {
			return fmt.Errorf("%q is not written, but: %s", what, text)
		}
		return nil
	})
}

// signal sends a signal to usher alone.
func (s *started) signal(n syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(n); err != nil {
		s.t.Fatal(err)
	}
}

// ends waits for the end, and wants an exit code; -1 is the death by a signal.
func (s *started) ends(code int) {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(30 * time.Second):
		s.t.Fatalf("usher does not end: %s%s", s.out.String(), s.err.String())
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("usher exits with %d, want %d: %s%s", got, code, s.out.String(), s.err.String())
	}
}

// takes wants that another device can, or cannot, have a seat now.
func (w world) takes(t *testing.T, device string, code int) {
	t.Helper()
	w.usher(t, "run", "--hardware-id", device, "--", "true").want(t, code)
}

func TestRunExitsAsItsCommandDoes(t *testing.T) {
	t.Parallel()
	w := operator(t)
	w = w.holder(w.sell(t, 1, time.Hour))
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct {
		code    int
		command []string
	}{
		{0, []string{"true"}},
		{7, []string{"sh", "-c", "exit 7"}},
		{75, []string{"sh", "-c", "exit 75"}},
		{128 + int(syscall.SIGKILL), []string{"sh", "-c", "kill -9 $$"}},
		{128 + int(syscall.SIGUSR1), []string{"sh", "-c", "kill -USR1 $$"}},
		{exitCannotRun, []string{plain}},
		{exitNotFound, []string{"no-such-command-anywhere"}},
	} {
		w.usher(t, append([]string{"run", "--"}, at.command...)...).want(t, at.code)
	}
	// A flag behind the command is the command's, with "--" and without.
	w.usher(t, "run", "echo", "--json").want(t, exitOK).shows(t, "--json")
	// Each of them gave the seat back: a lease is an hour.
	w.takes(t, "another", exitOK)
}

func TestRunTellsItsCommandOfTheSeatAndLeavesItsStreamsAlone(t *testing.T) {
	t.Parallel()
	w := operator(t)
	w = w.holder(w.sell(t, 1, time.Minute))
	cmd := w.command(t, "run", "--json", "--", "sh", "-c", `read line; echo "$line $USHER_SEAT_NO $USHER_SESSION_ID"; echo trouble >&2`)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("hello\n"), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	words := strings.Fields(out.String())
	if len(words) != 3 || words[0] != "hello" || words[1] != "1" || len(words[2]) != 36 || errs.String() != "trouble\n" {
		t.Errorf("it writes %q and %q", out.String(), errs.String())
	}
}

func TestRunExitsWith75WhenNoSeatIsFreeAndWaitsWhenAskedTo(t *testing.T) {
	t.Parallel()
	w := operator(t)
	w = w.holder(w.sell(t, 1, time.Hour))
	sitter := w.start(t, "run", "--hardware-id", "a", "--", "sh", "-c", "echo sits; sleep 600")
	sitter.awaits("sits")

	full := w.usher(t, "run", "--hardware-id", "b", "--", "echo", "never").want(t, exitNoSeat).says(t, "seats")
	if full.out != "" {
		t.Error("the command ran without a seat")
	}
	w.usher(t, "run", "--json", "--hardware-id", "b", "--", "true").want(t, exitNoSeat).says(t, `"code":"no_seats_available"`)

	gone := w.start(t, "run", "--wait", "--hardware-id", "c", "--", "echo", "never")
	gone.awaits("place 1 of 1")
	waiter := w.start(t, "run", "--wait", "--hardware-id", "d", "--", "echo", "at last")
	waiter.awaits("place 2 of 2")
	gone.signal(syscall.SIGTERM)
	gone.ends(128 + int(syscall.SIGTERM))
	waiter.awaits("place 1 of 1") // whoever goes leaves the queue at once

	sitter.signal(syscall.SIGTERM)
	sitter.ends(128 + int(syscall.SIGTERM))
	waiter.ends(exitOK)
	if waiter.out.String() != "at last\n" || gone.out.String() != "" {
		t.Errorf("the waiters wrote %q and %q", waiter.out.String(), gone.out.String())
	}
}

func TestRunHandsOnSIGTERMAndItsSeatIsFreeAtOnce(t *testing.T) {
	t.Parallel()
	w := operator(t)
	w = w.holder(w.sell(t, 1, time.Hour))
	// What the command has started gets the signal, too: nobody is left behind.
	s := w.start(t, "run", "--", "sh", "-c", `trap 'echo heard; exit 3' TERM; echo sits; sleep 600 & wait`)
	s.awaits("sits")
	s.signal(syscall.SIGTERM)
	s.ends(3)
	if !strings.Contains(s.out.String(), "heard") {
		t.Error("the command did not hear SIGTERM")
	}
	w.takes(t, "another", exitOK)

	deaf := w.start(t, "run", "--grace", "500ms", "--", "sh", "-c", `trap '' TERM; echo sits; while :; do sleep 0.1; done`)
	deaf.awaits("sits")
	deaf.signal(syscall.SIGTERM)
	deaf.ends(128 + int(syscall.SIGKILL))
	w.takes(t, "another", exitOK)
}

func TestRunUnderNohupOutlivesSIGHUP(t *testing.T) {
	t.Parallel()
	w := operator(t)
	w = w.holder(w.sell(t, 1, time.Hour))
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	s := w.start(t, "version") // for its environment
	s.ends(exitOK)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `trap '' HUP; exec "$@"`, "sh", binary, "run", "--", "sh", "-c", "echo sits; sleep 1; echo ends")
	cmd.Env = s.cmd.Env
	var out written
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error {
		if !strings.Contains(out.String(), "sits") {
			return errors.New(out.String())
		}
		return nil
	})
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "ends") {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestASeatComesFreeAtTheEndOfItsLeaseWhenRunIsKilled(t *testing.T) {
	t.Parallel()
	const lease = 4 * time.Second
	w := operator(t)
	w = w.holder(w.sell(t, 1, lease))
	s := w.start(t, "run", "--", "sh", "-c", `trap 'echo orphaned; exit' TERM; echo pid $$; while :; do sleep 0.1; done`)
	s.awaits("pid ")
	// It keeps its seat beyond the lease, and meanwhile nobody gets it.
	time.Sleep(lease + time.Second)
	w.takes(t, "another", exitNoSeat)
	s.signal(syscall.SIGKILL)
	s.ends(-1)
	w.takes(t, "another", exitNoSeat)
	eventually(t, lease+10*time.Second, func() error {
		if r := w.usher(t, "run", "--hardware-id", "another", "--", "true"); r.code != exitOK {
			return errors.New(r.err)
		}
		return nil
	})
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(s.out.String(), "pid ")))
	if runtime.GOOS == "linux" {
		s.awaits("orphaned") // the kernel told the command
		return
	}
	if err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
		t.Error("the command is gone")
	}
}

func TestALostSeatStopsTheCommandOrWarns(t *testing.T) {
	t.Parallel()
	w := operator(t)
	l := w.sell(t, 2, 3*time.Second)
	h := w.holder(l)
	stopped := h.start(t, "run", "--hardware-id", "a", "--", "sh", "-c", `trap 'echo stopped; exit 0' TERM; echo sits; while :; do sleep 0.1; done`)
	warned := h.start(t, "run", "--json", "--hardware-id", "b", "--on-loss", "warn", "--", "sh", "-c", `echo sits; sleep 600`)
	stopped.awaits("sits")
	warned.awaits("sits")
	w.usher(t, "admin", "licenses", "suspend", l.ID, "--reason", "unpaid").want(t, exitOK)

	stopped.awaits("the seat is lost (seat_evicted, license_suspended); the command is stopped")
	stopped.ends(exitLost)
	warned.awaits(`"event":"lost"`)
	warned.awaits(`"reason":"license_suspended"`)
	select {
	case <-warned.done:
		t.Error("the command did not go on")
	case <-time.After(time.Second):
	}
	h.takes(t, "another", exitRefused)
}

func TestSeatsShowsWhoSits(t *testing.T) {
	t.Parallel()
	w := operator(t)
	l := w.sell(t, 3, time.Hour)
	h := w.holder(l)
	for _, device := range []string{"a", "b"} {
		h.start(t, "run", "--hardware-id", device, "--version", "1.2.3", "--", "sh", "-c", "echo sits; sleep 600").awaits("sits")
	}
	type seats struct {
		License struct {
			ID     string
			Active int `json:"active_seats"`
		}
		Sessions []struct{ Holder, Version string }
	}
	both := w.with("USHER_LICENSE_KEY", l.Key) // which licence its key says
	for _, r := range []result{both.usher(t, "seats", "--json"), w.usher(t, "seats", "--json", "--license", l.ID)} {
		s := read[seats](t, r)
		if s.License.ID != l.ID || s.License.Active != 2 || len(s.Sessions) != 2 || s.Sessions[0].Holder != "device:b" || s.Sessions[0].Version != "1.2.3" {
			t.Errorf("seats are %+v", s)
		}
	}
	table := w.usher(t, "seats", "--license", l.ID).want(t, exitOK).shows(t, "2 of 3 seats taken").shows(t, "device:a")
	if strings.Contains(table.out, "\x1b") {
		t.Error("a table for a file has colours")
	}

	watching := w.start(t, "seats", "--license", l.ID, "--watch", "--every", "1s", "--json")
	watching.awaits(`"active_seats":2`)
	h.start(t, "run", "--hardware-id", "c", "--", "sh", "-c", "echo sits; sleep 600").awaits("sits")
	watching.awaits(`"active_seats":3`)
	watching.signal(syscall.SIGINT)
	watching.ends(exitOK)
	for line := range strings.Lines(watching.out.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line is no document: %s", line)
		}
	}

	w.with("USHER_API_KEY", "").usher(t, "seats", "--license", l.ID).want(t, exitUsage)
	w.usher(t, "seats", "--license", "01a20901-033d-793b-b0e8-b9caa70a4d00").want(t, exitNo).says(t, "not_found")
	w.with("USHER_LICENSE_KEY", "USH-9MQJJ-HBXXN-WMX7Z-Q7FM7-N4374-AKHNB").usher(t, "seats").want(t, exitNo)
}

func TestValidateSaysYesWith0AndNoWith1(t *testing.T) {
	t.Parallel()
	w := operator(t)
	l := w.sell(t, 2, time.Minute, "--features", "2d", "--versions", ">=2.0 <3.0")
	h := w.holder(l)
	h.usher(t, "validate", "--version", "2.1.0", "--feature", "2d", "--product", service.Product).want(t, exitOK).
		shows(t, "valid (valid)").shows(t, "0 of 2 seats taken")
	no := h.usher(t, "validate", "--version", "3.0.0", "--feature", "3d").want(t, exitNo).
		shows(t, "version_not_entitled").shows(t, "feature_not_entitled")
	if no.err != "" {
		t.Errorf("it complains: %s", no.err)
	}
	v := h.usher(t, "validate", "--json", "--version", "3.0.0").want(t, exitNo)
	var said struct {
		Valid bool
		Code  string
	}
	if err := json.Unmarshal([]byte(v.out), &said); err != nil || said.Valid || said.Code != "version_not_entitled" {
		t.Errorf("it says %s", v.out)
	}
	w.usher(t, "admin", "licenses", "suspend", l.ID, "--reason", "unpaid").want(t, exitOK)
	h.usher(t, "validate", "--version", "2.1.0").want(t, exitNo).shows(t, "license_suspended")

	h.with("USHER_LICENSE_KEY", "").usher(t, "validate").want(t, exitUsage).says(t, "USHER_LICENSE_KEY")
	h.with("USHER_URL", "").usher(t, "validate").want(t, exitUsage).says(t, "USHER_URL")
	h.with("USHER_URL", "http://127.0.0.1:1").usher(t, "validate").want(t, exitUnreachable).says(t, "cannot be reached")
}
