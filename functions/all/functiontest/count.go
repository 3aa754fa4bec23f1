package functiontest

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/coditect/usher/shared/platform/testenv"
)

// Commands are what clients sent to a Redis while fn ran, in the order of their arrival: not what scripts called, and not
// what connections say about themselves.
func Commands(t testing.TB, r *testenv.RedisServer, fn func()) []string {
	t.Helper()
	var dialer net.Dialer
	monitor, err := dialer.DialContext(t.Context(), "tcp", r.Addr())
	must(t, err)
	defer func() { _ = monitor.Close() }()
	lines := bufio.NewScanner(monitor)
	fmt.Fprint(monitor, "MONITOR\r\n")
	if !lines.Scan() || lines.Text() != "+OK" {
		t.Fatalf("MONITOR answered %q, %v", lines.Text(), lines.Err())
	}
	fn()
	r.Do(t, "ECHO", "the end")
	var commands []string
	for lines.Scan() && !strings.Contains(lines.Text(), "the end") {
		_, command, _ := strings.Cut(lines.Text(), "] ")
		fromScript := strings.Contains(lines.Text(), " lua] ")
		aboutConnection := strings.HasPrefix(strings.ToLower(command), `"hello"`) || strings.HasPrefix(strings.ToLower(command), `"client"`) ||
			strings.HasPrefix(strings.ToLower(command), `"select"`)
		if !fromScript && !aboutConnection {
			commands = append(commands, command)
		}
	}
	return commands
}
