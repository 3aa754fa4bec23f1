package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// typist is at a pseudo-terminal with a usher in it, which is in its foreground.
type typist struct {
	*started
	keyboard *os.File
}

// inTerminal starts a command line as a shell does in a terminal.
func (w world) inTerminal(t *testing.T, args ...string) *typist {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("open a terminal: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &started{t: t, cmd: w.command(t, args...), done: make(chan struct{})}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = screen, screen, screen
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = screen.Close()
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := keyboard.Read(buffer)
			if err != nil {
				return // everybody has gone
			}
			_, _ = s.out.Write(buffer[:n])
		}
	}()
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.done
		_ = keyboard.Close()
		w.hides(t, s.out.String())
	})
	return &typist{s, keyboard}
}

func (k *typist) types(text string) {
	k.t.Helper()
	if _, err := k.keyboard.WriteString(text); err != nil {
		k.t.Fatal(err)
	}
}

const ctrlC = "\x03"

func TestInATerminalTheCommandReadsAndHearsCtrlCOnce(t *testing.T) {
	t.Parallel()
	w := operator(t)
	w = w.holder(w.sell(t, 1, time.Hour))
	k := w.inTerminal(t, "run", "--", "sh", "-c", `n=0; trap 'n=$((n+1))' INT; echo who; read name; echo "hello $name"
		for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; done; echo "heard $n"; exit 4`)
	k.awaits("who")
	k.types("typist\n")
	k.awaits("hello typist")
	k.types(ctrlC)
	k.awaits("heard 1")
	k.ends(4)
	w.takes(t, "another", exitOK)
}

func TestInATerminalSeatsAreShownAnewAndInColoursUnlessNoColor(t *testing.T) {
	t.Parallel()
	w := operator(t)
	l := w.sell(t, 2, time.Hour)
	const inBold = "\x1b[1m"
	for variable, colours := range map[string]bool{"": true, "1": false} {
		k := w.with("NO_COLOR", variable, "TERM", "xterm").inTerminal(t, "seats", "--license", l.ID, "--every", "1s")
		k.awaits("0 of 2 seats taken")
		h := w.holder(l).start(t, "run", "--", "sh", "-c", "echo sits; sleep 600")
		h.awaits("sits")
		k.awaits("1 of 2 seats taken")
		k.types(ctrlC)
		k.ends(exitOK)
		h.signal(syscall.SIGTERM)
		h.ends(128 + int(syscall.SIGTERM))
		if strings.Contains(k.out.String(), inBold) != colours {
			t.Errorf("with NO_COLOR=%s it writes %q", variable, k.out.String())
		}
	}
}
