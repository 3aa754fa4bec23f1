// Package localenv starts the real services that Usher stands on, privately, on one machine: PostgreSQL, Redis,
// PgBouncer and an OpenID Connect issuer. `make run` and the tests use it; nothing that is deployed may link it.
//
// Every service listens on loopback or on a unix socket, and ends with the process that started it, however that
// process ends. The package knows nothing of Usher's schema, keys or flows.
package localenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	startTimeout = 30 * time.Second      // for a service to answer after its process was started
	stopTimeout  = 10 * time.Second      // for a process to end by itself before it is killed
	pollInterval = 10 * time.Millisecond // between two looks whether a service answers
)

// account is the user that a service runs as. The zero value is the user of this process.
type account struct {
	name     string
	uid, gid int
}

// serviceAccount is the user that a service which refuses root runs as: PostgreSQL's own user when this process is
// root, otherwise the user of this process.
func serviceAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return account{}, fmt.Errorf("find the user that PostgreSQL runs as: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, fmt.Errorf("read the uid of user postgres: %w", err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return account{}, fmt.Errorf("read the gid of user postgres: %w", err)
	}
	return account{name: u.Username, uid: uid, gid: gid}, nil
}

// own makes the account the owner of a directory or file.
func (a account) own(path string) error {
	if a.name == "" {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// reaches reports whether the account can walk to dir: every parent lets it through.
func (a account) reaches(dir string) bool {
	if a.name == "" {
		return true
	}
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err == nil && info.Mode().Perm()&0o001 == 0 {
			if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != a.uid {
				return false
			}
		}
		if parent == filepath.Dir(parent) {
			return true
		}
	}
}

// temporary makes a fresh directory that the account owns and reaches, with a path short enough for a unix socket.
func (a account) temporary(name string) (string, error) {
	base := os.TempDir()
	if len(base) > 40 || !a.reaches(filepath.Join(base, name)) {
		base = "/tmp"
	}
	dir, err := os.MkdirTemp(base, "usher-"+name+"-")
	if err != nil {
		return "", fmt.Errorf("make a directory for %s: %w", name, err)
	}
	if err := a.own(dir); err != nil {
		return "", errors.Join(fmt.Errorf("give the directory of %s to %s: %w", name, a.name, err), os.RemoveAll(dir))
	}
	return dir, nil
}

// process is a running service. It ends when this process does.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read after done

	frozen atomic.Bool
	wake   io.WriteCloser

	trouble tail // the last of what it printed
}

// start runs a program as the account. What it prints goes to log, which may be nil. When this process ends without
// having stopped it, it is ended and the directories in remove are deleted.
func (a account) start(name, program string, args []string, dir string, log io.Writer, remove ...string) (*process, error) {
	p := &process{name: name, done: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir = dir
	p.cmd.SysProcAttr = a.attributes()
	out := io.Writer(&p.trouble)
	if log != nil {
		out = io.MultiWriter(&p.trouble, log)
	}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.WaitDelay = time.Second

	// The kernel ends a child when the *thread* that started it goes, so one thread stays with it to the end.
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := p.watch(remove); err != nil {
		return nil, errors.Join(err, p.end(syscall.SIGKILL))
	}
	return p, nil
}

// lastRites waits on its input. A line means that all is well and in order; the end of the input means that the
// process which started the service has gone, and left the service and its directories behind.
const lastRites = `
if read -r _; then exit 0; fi
pid=$1; shift
kill -QUIT "$pid" 2>/dev/null
i=0
while kill -0 "$pid" 2>/dev/null && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done
kill -KILL "$pid" 2>/dev/null
[ $# -eq 0 ] || rm -rf -- "$@"
`

// watch starts the shell that tidies up when this process is gone.
func (p *process) watch(remove []string) error {
	args := append([]string{"-c", lastRites, "usher-" + p.name, strconv.Itoa(p.cmd.Process.Pid)}, remove...)
	watcher := exec.Command("/bin/sh", args...)
	watcher.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	wake, err := watcher.StdinPipe()
	if err != nil {
		return fmt.Errorf("watch over %s: %w", p.name, err)
	}
	if err := watcher.Start(); err != nil {
		return fmt.Errorf("watch over %s: %w", p.name, err)
	}
	p.wake = wake
	go func() {
		<-p.done
		_, _ = io.WriteString(wake, "over\n")
		_ = wake.Close()
		_ = watcher.Wait()
	}()
	return nil
}

// ready waits until probe succeeds. It fails at once when the process has ended.
func (p *process) ready(ctx context.Context, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", p.name, errors.Join(p.err, err), &p.trouble)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.name, err, &p.trouble)
		case <-time.After(pollInterval):
		}
	}
}

// end sends the signal and waits for the process to go; when it stays it is killed. An ended process is no error.
func (p *process) end(signal syscall.Signal) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if p.frozen.Load() { // and would not hear anything else
		if err := p.signalAll(syscall.SIGCONT); err != nil {
			return err
		}
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.done
	return nil
}

// signalAll sends the signal, which freezes or resumes, to the process and to its children.
func (p *process) signalAll(signal syscall.Signal) error {
	p.frozen.Store(signal == syscall.SIGSTOP)
	children, err := childrenOf(p.cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("find the children of %s: %w", p.name, err)
	}
	var errs []error
	for _, pid := range append([]int{p.cmd.Process.Pid}, children...) {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("signal %s: %w", p.name, err))
		}
	}
	return errors.Join(errs...)
}

// tail keeps the last few kilobytes written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(b []byte) (int, error) {
	const keep = 8 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - keep; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

// freePort finds a loopback port that nobody listens on now. Another process may take it before it is used.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	_, text, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, errors.Join(err, l.Close())
	}
	port, err := strconv.Atoi(text)
	return port, errors.Join(err, l.Close())
}
