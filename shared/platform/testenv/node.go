package testenv

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coditect/usher/shared/platform/localenv"
)

// Jose is what a stock JOSE library says of a compact JWS.
type Jose struct {
	// Claims are nil when it does not believe it.
	Claims json.RawMessage `json:"claims"`
	// Code is the library's own word for why.
	Code string `json:"code"`
}

// AskJose shows texts to npm's jose, which knows nothing of them but the URL of a JWKS and the type to expect, and
// answers what it says of each.
func AskJose(t testing.TB, jwksURL, typ string, texts ...string) []Jose {
	t.Helper()
	root := Root(t)
	ctx := setUp(t)
	dir, err := localenv.InstallNode(ctx, os.Stderr, filepath.Join(root, "tools", "jose"), filepath.Join(root, ".local", "node"))
	must(t, err)
	node, err := localenv.Find("node")
	must(t, err)
	cmd := exec.CommandContext(ctx, node, filepath.Join(dir, "verify.mjs"), jwksURL, typ)
	cmd.Stdin = strings.NewReader(strings.Join(texts, "\n") + "\n")
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ask jose: %v\n%s", err, &trouble)
	}
	answers := make([]Jose, 0, len(texts))
	for line := range bytes.Lines(out) {
		var answer Jose
		must(t, json.Unmarshal(line, &answer))
		answers = append(answers, answer)
	}
	if len(answers) != len(texts) {
		t.Fatalf("jose answered %d of %d questions:\n%s", len(answers), len(texts), out)
	}
	return answers
}
