package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coditect/usher/client"
)

// What becomes of the command when its seat is lost.
const (
	lossStops = "stop"
	lossWarns = "warn"
)

func (a *app) run() *cobra.Command {
	var h holder
	r := run{app: a}
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENT…]",
		Short: "Hold a seat while a command runs",
		Long: `Takes a seat, runs the command, keeps the seat while it runs, and gives it back when it has ended. The exit code is the
command's, and 128 and the signal's number when a signal ended it.

Signals are handed on to the command. After SIGTERM, the seat comes free as soon as the command has ended, which it has
--grace to do before it is killed. When usher itself is killed, the seat comes free at the end of its lease, and on Linux the
command gets SIGTERM.

When the seat is lost (the licence was suspended, an administrator ended the session, or the service could not be reached for
longer than the lease), --on-loss says what becomes of the command: "stop" sends it SIGTERM and, after --grace, SIGKILL, so that
there are never more at work than there are seats; "warn" lets it go on, and says so.

The command finds USHER_SESSION_ID and USHER_SEAT_NO in its environment.

Exit codes of its own: 2 wrong command line or configuration, 69 the service cannot be reached, 75 no seat is free, 76 the seat
was lost and the command stopped, 77 the licence is not good, 126 the command cannot be run, 127 it is not found.`,
		Example: `  usher run -- make render
  usher run --wait --on-loss warn -- ./train.sh --epochs 20`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return wrong("which command? usher run [flags] -- COMMAND")
			case r.onLoss != lossStops && r.onLoss != lossWarns:
				return wrong(`--on-loss wants "stop" or "warn"`)
			case r.grace < 0:
				return wrong("--grace wants a duration from 0 on")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(&h)
			if err != nil {
				return err
			}
			return r.do(context.WithoutCancel(cmd.Context()), c, args)
		},
	}
	h.flags(cmd, true)
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the command is its own
	flags.BoolVar(&r.wait, "wait", false, "wait in the queue when no seat is free")
	flags.StringVar(&r.onLoss, "on-loss", lossStops, `what becomes of the command when the seat is lost: "stop" or "warn"`)
	flags.DurationVar(&r.grace, "grace", 8*time.Second, "how long the command may take to end after SIGTERM, before it is killed")
	return cmd
}

// run is one usher run.
type run struct {
	*app
	wait   bool
	onLoss string
	grace  time.Duration

	stopping <-chan time.Time // when a command that was asked to end is killed; nil = it was not asked
	lost     bool             // and stopped because of that
}

// do holds a seat while a command runs.
func (r *run) do(ctx context.Context, c *client.Client, args []string) error {
	command, err := findCommand(args)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 8)
	if heard := heeded(slices.Clone(forwarded)...); len(heard) > 0 {
		signal.Notify(signals, heard...)
		defer signal.Stop(signals)
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	seat, err := r.acquire(ctx, stop, c, signals)
	if err != nil {
		return err
	}
	defer seat.Release()
	status := seat.Status()
	command.Env = append(os.Environ(), "USHER_SESSION_ID="+status.SessionID, "USHER_SEAT_NO="+strconv.Itoa(status.SeatNo))
	child := newChild(command)
	if err := child.start(); err != nil {
		return &failure{exitCannotRun, "cannot_run", fmt.Sprintf("the command cannot be run: %v", cause(err))}
	}
	r.attend(child, seat, signals)
	switch code := child.exitCode(); {
	case r.lost:
		return &failure{exit: exitLost}
	case code != 0:
		return &failure{exit: code}
	default:
		return nil
	}
}

// findCommand is the command, before a seat is taken for it.
func findCommand(args []string) (*exec.Cmd, error) {
	command := exec.Command(args[0], args[1:]...) //nolint:gosec,noctx // what was typed; signals end it
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	switch err := command.Err; {
	case err == nil:
		return command, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return nil, &failure{exitNotFound, "not_found", "the command is not found"}
	default:
		return nil, &failure{exitCannotRun, "cannot_run", fmt.Sprintf("the command cannot be run: %v", cause(err))}
	}
}

// cause is what went wrong, without the command: an argument of it may be a secret.
func cause(err error) error {
	if e, ok := errors.AsType[*exec.Error](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return err
}

// acquire takes the seat, and waits for it if it may. A signal that would end the command stops it. The seat lives as long as
// the context.
func (r *run) acquire(ctx context.Context, stop context.CancelFunc, c *client.Client, signals <-chan os.Signal) (*client.Seat, error) {
	c.Wait = r.wait
	var told client.Place
	c.Queued = func(p client.Place) {
		p.ETA = 0 // it changes by itself
		if p != told {
			told = p
			r.happened("waiting", fmt.Sprintf("no seat is free: place %d of %d in the queue", p.Position, p.Length),
				details{"position": p.Position, "queue_length": p.Length})
		}
	}
	type answer struct {
		seat *client.Seat
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		seat, err := c.Acquire(ctx)
		answered <- answer{seat, err}
	}()
	for ended := os.Signal(nil); ; {
		select {
		case s := <-signals:
			if ends(s) {
				ended = s
				stop()
			}
		case got := <-answered:
			switch {
			case ended != nil:
				if got.seat != nil {
					got.seat.Release()
				}
				return nil, &failure{exitSignal + signalNumber(ended), "interrupted", "interrupted before there was a seat"}
			case got.err != nil:
				return nil, why(got.err, true)
			default:
				return got.seat, nil
			}
		}
	}
}

// attend waits for the command's end, hands on signals, and watches the seat.
func (r *run) attend(child *child, seat *client.Seat, signals <-chan os.Signal) {
	events := seat.Events()
	for {
		select {
		case <-child.done:
			return
		case s := <-signals:
			child.forward(s)
			if s == syscall.SIGTERM {
				r.killAfterGrace()
			}
		case <-r.stopping:
			child.kill()
		case e, open := <-events:
			if !open {
				events = nil
				continue
			}
			r.hear(child, e)
		}
	}
}

// killAfterGrace begins the time that a command has, which was asked to end.
func (r *run) killAfterGrace() {
	if r.stopping == nil {
		r.stopping = time.After(r.grace)
	}
}

// hear takes notice of what happened to the seat.
func (r *run) hear(child *child, e client.Event) {
	reason := ""
	if words := slices.DeleteFunc([]string{e.Code, e.Reason}, func(w string) bool { return w == "" }); len(words) > 0 {
		reason = " (" + printable(strings.Join(words, ", ")) + ")"
	}
	why := details{"code": e.Code, "reason": e.Reason, "ended_by": e.By}
	switch e.Kind {
	case client.Unreachable:
		r.happened("unreachable", "the service does not answer; the seat is good until "+e.Until.Format(time.TimeOnly), nil)
	case client.Confirmed:
		r.happened("confirmed", "the service answers again, and the seat is the same", nil)
	case client.Reacquired:
		r.happened("reacquired", "there is a seat again", nil)
	case client.Waiting:
		r.happened("waiting", fmt.Sprintf("place %d of %d in the queue", e.Place.Position, e.Place.Length),
			details{"position": e.Place.Position, "queue_length": e.Place.Length})
	case client.Draining:
		r.happened("draining", "the licence has fewer seats now; this one ends at "+e.Until.Format(time.DateTime), why)
	case client.Lapsed, client.Lost:
		if r.onLoss == lossWarns {
			r.happened("lost", "the seat is lost"+reason+"; the command goes on without", why)
			return
		}
		if !r.lost {
			r.happened("lost", "the seat is lost"+reason+"; the command is stopped", why)
			r.lost = true
			child.terminate()
			r.killAfterGrace()
		}
	case client.Released: // by usher itself
	}
}

// details are what --json tells beyond the message.
type details map[string]any

// happened tells of something while the command runs; standard output is the command's.
func (r *run) happened(event, says string, more details) {
	if !r.json {
		r.note("%s", says)
		return
	}
	told := details{"event": event, "message": says}
	for name, value := range more {
		if value != "" {
			told[name] = value
		}
	}
	writeJSON(r.err, told)
}
