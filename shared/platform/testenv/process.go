package testenv

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// programVariable names the program that a re-executed test binary is to run instead of its tests.
const programVariable = "USHER_TEST_PROGRAM"

// Main is the body of a package's TestMain when its tests run other processes: the test binary executes itself, so
// that they have the same code and the same race detector. Programs are by name what Process can start; a program that
// returns exits with 0.
//
//	func TestMain(m *testing.M) { testenv.Main(m, map[string]func(){"server": server}) }
func Main(m *testing.M, programs map[string]func()) {
	name := os.Getenv(programVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	program, ok := programs[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no test program %q\n", name)
		os.Exit(2)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends when the test does, however it ends
		os.Exit(3)
	}()
	program()
	os.Exit(0)
}

// Proc is another process, of this test binary.
type Proc struct {
	name   string
	cmd    *exec.Cmd
	output LogCapture
	done   chan struct{} // closed when it has ended
	err    error         // how it ended; read after done
}

// Process starts the named program of Main in a process of its own, with variables added to this process's
// environment. It is killed when the test is over; when the test fails, its output is printed.
func Process(t testing.TB, name string, env map[string]string) *Proc {
	t.Helper()
	binary, err := os.Executable()
	must(t, err)
	return ProcessOf(t, binary, name, env)
}

// ProcessOf is Process with another test binary, whose TestMain is Main, too.
func ProcessOf(t testing.TB, binary, name string, env map[string]string) *Proc {
	t.Helper()
	p := &Proc{name: name, done: make(chan struct{})}
	p.cmd = exec.Command(binary)
	p.cmd.Env = append(os.Environ(), programVariable+"="+name)
	for variable, value := range env {
		p.cmd.Env = append(p.cmd.Env, variable+"="+value)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.WaitDelay = time.Second
	input, err := p.cmd.StdinPipe()
	must(t, err)
	must(t, p.cmd.Start())
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = input.Close()        // as may this
		<-p.done
		if t.Failed() {
			t.Logf("output of process %s:\n%s", name, p.Output())
		}
		if strings.Contains(p.Output(), "WARNING: DATA RACE") {
			t.Errorf("process %s has a data race:\n%s", name, p.Output())
		}
	})
	return p
}

// Output is everything that the process has printed so far, on both its outputs.
func (p *Proc) Output() string { return p.output.Text() }

// Await waits until a line of the output begins with prefix, and answers the rest of that line.
func (p *Proc) Await(t testing.TB, prefix string) string {
	t.Helper()
	var rest string
	Eventually(t, 30*time.Second, func() error {
		ended := false
		select {
		case <-p.done:
			ended = true
		default:
		}
		text := p.Output()
		whole := text[:strings.LastIndexByte(text, '\n')+1]
		for line := range strings.Lines(whole) {
			if after, ok := strings.CutPrefix(line, prefix); ok {
				rest = strings.TrimRight(after, "\r\n")
				return nil
			}
		}
		if ended {
			t.Fatalf("process %s ended (%v) without printing %q:\n%s", p.name, p.err, prefix, text)
		}
		return fmt.Errorf("process %s has not printed %q", p.name, prefix)
	})
	return rest
}

// Signal sends a signal to the process.
func (p *Proc) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	must(t, p.cmd.Process.Signal(signal))
}

// Kill ends the process as a crash does (kill -9) and waits for it to go.
func (p *Proc) Kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	<-p.done
}

// Crash is Kill for whoever cannot wait; the process may have ended.
func (p *Proc) Crash() { _ = p.cmd.Process.Kill() }

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Wait waits until the process ends by itself, at most for within, and answers its exit code (-1 when a signal ended
// it).
func (p *Proc) Wait(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("process %s has not ended within %s", p.name, within)
		return 0
	}
}

// Stop asks the process to end (SIGTERM), and answers its exit code.
func (p *Proc) Stop(t testing.TB) int {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	return p.Wait(t, 15*time.Second)
}
