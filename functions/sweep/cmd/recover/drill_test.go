package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/seat"
)

// page runs the n-th block of shell commands in the page about restoring, in dir as its reader would in a clone of the
// repository, with these variables.
func page(t *testing.T, n int, dir string, variables ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs/operations/restore.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(text, -1)
	if len(blocks) != 2 {
		t.Fatalf("the page has %d blocks of commands", len(blocks))
	}
	pgDump, err := localenv.Find("pg_dump")
	if err != nil {
		t.Fatal(err)
	}
	// The files are written and read in dir, the commands of ours are run at the root.
	script := regexp.MustCompile(`\b(roles\.sql|usher\.dump)\b`).ReplaceAllString(string(blocks[n][1]), dir+"/$1")
	command := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	command.Dir = testenv.Root(t)
	command.Env = append(os.Environ(), "PATH="+filepath.Dir(pgDump)+":"+os.Getenv("PATH"))
	command.Env = append(command.Env, variables...)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s\n%s", err, script, out)
	}
	return string(out)
}

func TestTheRestoreDrill(t *testing.T) {
	t.Parallel()
	w := functiontest.New(t, functiontest.Options{PrivatePostgres: true})
	l := w.Seats(t, 3, 2*time.Minute)
	seats := w.Seating(t)
	stayed, left := seats.Sit(t, l, "stayed"), seats.Sit(t, l, "left")
	dir := t.TempDir()
	page(t, 0, dir, "OWNER_URL="+w.DB.URL(localenv.Superuser))

	// The lost time: one goes, two come.
	seats.Leave(t, left.SeatToken).Want(t, http.StatusOK)
	came, late := seats.Sit(t, l, "came"), seats.Sit(t, l, "late")
	w.Postgres.Stop(t)

	server, err := localenv.StartPostgres(t.Context(), localenv.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	empty := server.URL("postgres", localenv.Superuser)
	restored := w.Moved(func(role string) string { return server.URL("postgres", role) })
	environment := []string{"EMPTY_URL=" + empty}
	for _, name := range []string{"DATABASE_URL", "REDIS_URL", "SEAT_RESERVATION", "SEAT_CONNECTION_LIFE", "SEAT_CLOCK_ALLOWANCE", "SEAT_POLL"} {
		value := restored.Getenv("sweep")(name)
		environment = append(environment, name+"="+value)
	}
	out := page(t, 1, dir, environment...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var done seat.Recovery
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &done); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if done.Licenses != 1 || done.Restored != 2 || done.Closed != 1 || len(done.Unknown) != 0 {
		t.Errorf("%+v:\n%s", done, out)
	}

	after := restored.Seating(t)
	for name, token := range map[string]string{"stayed": stayed.SeatToken, "came": came.SeatToken, "late": late.SeatToken} {
		if r := after.Beat(t, token); r.Status != http.StatusOK {
			t.Errorf("%s hears %d %s", name, r.Status, r.Body)
		}
	}
	r := after.Acquire.Send(t, functiontest.Message{Body: functiontest.Ask(l, "fourth")})
	r.Want(t, http.StatusConflict, "no_seats_available")
	after.Leave(t, late.SeatToken).Want(t, http.StatusOK)
	testenv.Eventually(t, 10*time.Second, func() error {
		if r := after.Acquire.Send(t, functiontest.Message{Body: functiontest.Ask(l, "fifth")}); r.Status != http.StatusCreated {
			return fmt.Errorf("the seat that came free: %d %s", r.Status, r.Body)
		}
		return nil
	})
}
