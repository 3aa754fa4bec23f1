package proof_test

import (
	"crypto/sha1"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/coditect/usher/shared/platform/testenv"
)

// shebang finds the first lines that the product puts before its scripts.
var shebang = regexp.MustCompile(`"#!lua[^"]*"`)

// commands names the product's scripts in what is sent to Redis, by their text on disk, and nothing else.
func commands(t *testing.T) func(command []string) string {
	t.Helper()
	dir := filepath.Join(testenv.Root(t), "shared", "seat")
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	lib, demand := read(filepath.Join(dir, "lib.lua")), read(filepath.Join(dir, "demand.lua"))
	files, err := filepath.Glob(filepath.Join(dir, "*.lua"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, quoted := range shebang.FindAllString(read(filepath.Join(dir, "scripts.go")), -1) {
		head, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			for _, before := range []string{"", lib, lib + demand} {
				names[digest(head+before+read(file))] = strings.TrimSuffix(filepath.Base(file), ".lua")
			}
		}
	}
	var mu sync.Mutex
	unknown := map[string]bool{}
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		if len(unknown) > 0 {
			t.Errorf("the proof does not know %d scripts that were run: how the product puts them together has changed", len(unknown))
		}
	})
	return func(command []string) string {
		if len(command) < 2 {
			return ""
		}
		name := ""
		switch strings.ToUpper(command[0]) {
		case "EVALSHA":
			name = names[command[1]]
		case "EVAL":
			name = names[digest(command[1])]
		}
		if name == "" && strings.HasPrefix(strings.ToUpper(command[0]), "EVAL") {
			mu.Lock()
			unknown[command[1]] = true
			mu.Unlock()
		}
		switch {
		case name == "acquire":
			return "reserve"
		case name == "touch" && slices.Contains(command, "confirm"):
			return "confirm"
		case name == "touch":
			return "beat"
		}
		return name
	}
}

func digest(text string) string {
	sum := sha1.Sum([]byte(text)) // as Redis names scripts
	return hex.EncodeToString(sum[:])
}

// statement names what decides in what is sent to PostgreSQL.
func statement(sql string) string {
	for _, known := range []struct{ part, name string }{
		{"app.seats_open(", "opening the row"},
		{"app.seat_open(", "opening the row alone"},
		{"app.sessions_release_unlocked(", "closing the row"},
		{"app.session_close(", "closing the row"},
		{"SET seat_epoch", "the new epoch"},
		{"FOR NO KEY UPDATE", "locking the licence"},
		{"app.sweep_", "looking for work"},
	} {
		if strings.Contains(sql, known.part) {
			return known.name
		}
	}
	if strings.EqualFold(sql, "commit") {
		return "the commit"
	}
	return ""
}
