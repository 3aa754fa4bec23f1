package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// process is a running binary of ours. Its output goes to a file, as a line of its log for each request must.
type process struct {
	name    string
	address string
	cmd     *exec.Cmd
	log     string // path
	ended   chan struct{}
	took    time.Duration // from its start to its first answer
}

// build compiles commands of this module, as they are deployed: without the race detector.
func build(ctx context.Context, dir string, packages map[string]string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for name, path := range packages {
		group.Go(func() error {
			cmd := exec.CommandContext(ctx, "go", "build", "-race=false", "-o", filepath.Join(dir, name), path)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("build %s: %w\n%s", name, err, out)
			}
			return nil
		})
	}
	return group.Wait()
}

// startProcess starts a binary with this environment and nothing else, and waits until /health answers.
func startProcess(ctx context.Context, dir, name, log string, env func(host, port string) map[string]string) (*process, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, address: net.JoinHostPort("127.0.0.1", port), log: filepath.Join(dir, log), ended: make(chan struct{})}
	output, err := os.OpenFile(p.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write the log of %s: %w", name, err)
	}
	defer func() { _ = output.Close() }()          // the process has its own
	p.cmd = exec.Command(filepath.Join(dir, name)) //nolint:noctx // it ends with stop
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.Env = []string{}
	for variable, value := range env("127.0.0.1", port) {
		p.cmd.Env = append(p.cmd.Env, variable+"="+value)
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended, its log says
		close(p.ended)
	}()
	if err := p.ready(ctx); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	p.took = time.Since(began)
	return p, nil
}

// ready waits until the process answers.
func (p *process) ready(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(10 * time.Second); ; {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+"/health", nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("/health answered %d", response.StatusCode)
		}
		select {
		case <-p.ended:
			text, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s ended before it answered: %s", p.name, text)
		case <-time.After(500 * time.Microsecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w", p.name, err)
		}
	}
}

// stop ends the process.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
	}
	return nil
}

// tick is the unit of times in /proc, on every architecture that Go knows.
const tick = 10 * time.Millisecond

// canAccount says whether the system tells what CPU and memory a process has used.
var canAccount = runtime.GOOS == "linux"

// cpu is what the process has used so far, in user and kernel together; zero where the system does not tell.
func (p *process) cpu() (time.Duration, error) {
	if !canAccount {
		return 0, nil
	}
	stat, err := statOf(p.cmd.Process.Pid)
	if err != nil {
		return 0, fmt.Errorf("of %s: %w", p.name, err)
	}
	return stat.own, nil
}

// stat is what Linux says of a process: CPU time in user and kernel together, also of its children that ended.
type stat struct {
	parent     int
	own, ended time.Duration
}

func statOf(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, fmt.Errorf("read the CPU time of a process: %w", err)
	}
	// "pid (name) state ppid …": utime, stime, cutime and cstime are the 14th to 17th, and the name may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("read the CPU time of a process: %q", text)
	}
	number := func(i int) int64 {
		v, parseErr := strconv.ParseInt(fields[i], 10, 64)
		err = errors.Join(err, parseErr)
		return v
	}
	found := stat{int(number(1)), time.Duration(number(11)+number(12)) * tick, time.Duration(number(13)+number(14)) * tick}
	return found, err
}

// memory is what is resident of the process now, and what was at most, in bytes; zeros where the system does not tell.
func (p *process) memory() (now, most int64, err error) {
	if !canAccount {
		return 0, 0, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read the memory of %s: %w", p.name, err)
	}
	of := func(name string) int64 {
		_, rest, _ := strings.Cut(string(text), name+":")
		var kB int64
		if _, scanErr := fmt.Sscan(rest, &kB); scanErr != nil {
			err = fmt.Errorf("read %s of %s: %w", name, p.name, scanErr)
		}
		return kB << 10
	}
	return of("VmRSS"), of("VmHWM"), err
}

// freePort finds a loopback port that nobody listens on now.
func freePort(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}
