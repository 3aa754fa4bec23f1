package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// What usher exits with, when it is not with the exit code of a command that it ran.
const (
	exitOK          = 0
	exitNo          = 1 // the answer is no: not valid, refused, not there
	exitUsage       = 2 // the command line or the configuration is wrong
	exitUnreachable = 3 // the service cannot be reached, or cannot answer now

	// Of receipt verify: why a receipt or a licence file is not good.
	exitMalformed     = 10
	exitSignature     = 11
	exitUnknownKey    = 12
	exitExpired       = 13
	exitNotYetValid   = 14
	exitWrongProduct  = 15
	exitWrongHardware = 16
	exitRevoked       = 17
	exitRetiredKey    = 18
	exitClockSetBack  = 19
	exitCopied        = 20
	exitScope         = 21
	exitMissingShard  = 22

	// Of run, which hands on the exit code of its command, and takes its own from where commands seldom have theirs.
	exitRunUnreachable = 69 // EX_UNAVAILABLE
	exitNoSeat         = 75 // EX_TEMPFAIL
	exitLost           = 76
	exitRefused        = 77 // EX_NOPERM
	exitCannotRun      = 126
	exitNotFound       = 127
	exitSignal         = 128 // and the signal's number
)

// failure is why usher ends with another exit code than 0. Its message is a sentence for a person, its code a word for a
// program; a failure without a message was already told, by the result or by the command that ran.
type failure struct {
	exit    int
	code    string
	message string
}

// Error is the message.
func (f *failure) Error() string { return f.message }

// wrong is a failure of whoever typed the command line, or wrote the configuration.
func wrong(format string, args ...any) error {
	return &failure{exitUsage, "usage", fmt.Sprintf(format, args...)}
}

// interrupted is what Ctrl-C makes of a request.
var interrupted = &failure{exitSignal + 2, "interrupted", "interrupted"}

// tell writes why usher ends, unless that was told, and answers what to exit with. Every error that is no failure is
// cobra's, of the command line.
func (a *app) tell(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitOK
	}
	var f *failure
	hint := ""
	if !errors.As(err, &f) {
		f = &failure{exitUsage, "usage", err.Error()}
	}
	if f.exit == exitUsage {
		hint = fmt.Sprintf("Try %s --help.", cmd.CommandPath())
	}
	if f.message == "" {
		return f.exit
	}
	message := hide(strings.TrimSpace(f.message))
	if a.json {
		type told struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Exit    int    `json:"exit_code"`
		}
		writeJSON(a.err, struct {
			Error told `json:"error"`
		}{told{f.code, message, f.exit}})
		return f.exit
	}
	_, _ = fmt.Fprintf(a.err, "usher: %s\n", message)
	if hint != "" {
		_, _ = fmt.Fprintln(a.err, hint)
	}
	return f.exit
}

// secrets is what licence keys, API keys and seat tokens look like.
var secrets = regexp.MustCompile(`USH-[0-9A-Za-z-]+|us[ht]_[0-9A-Za-z_-]+`)

// hide takes credentials out of a message: a command line that was typed wrong is repeated in it.
func hide(message string) string {
	return secrets.ReplaceAllStringFunc(message, func(s string) string { return s[:4] + "…" })
}

// writeJSON writes a value as one line. What cannot be written nobody reads any more.
func writeJSON(w io.Writer, value any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(value) //nolint:errchkjson // only the writing can fail
}
