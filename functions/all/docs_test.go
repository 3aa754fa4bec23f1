package all_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coditect/usher/shared/platform/testenv"
)

// pages are the documents, by their path in the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	root := testenv.Root(t)
	found := map[string]string{}
	read := func(path string) {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		found[path] = string(text)
	}
	read("README.md")
	err := fs.WalkDir(os.DirFS(root), "docs", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			read(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDocsLinkToWhatIsThere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)
	for page, text := range pages(t) {
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(testenv.Root(t), filepath.Dir(page), match[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", page, match[1])
			}
		}
	}
}

func TestDocsNameEveryVariable(t *testing.T) {
	t.Parallel()
	operations := pages(t)["docs/operations.md"]
	tag := regexp.MustCompile("`env:\"([A-Z_]+)[,\"]")
	for _, top := range []string{"functions", "shared"} {
		err := filepath.WalkDir(filepath.Join(testenv.Root(t), top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for line := range bytes.Lines(text) {
				match := tag.FindSubmatch(line)
				if match != nil && !bytes.HasPrefix(bytes.TrimSpace(line), []byte("//")) && !strings.Contains(operations, "`"+string(match[1])+"`") {
					t.Errorf("docs/operations.md does not name %s", match[1])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestDocsNameEveryDependency(t *testing.T) {
	t.Parallel()
	text := pages(t)["docs/dependencies.md"]
	list := exec.CommandContext(t.Context(), "go", "list", "-f", `{{join .Imports "\n"}}{{"\n"}}{{join .TestImports "\n"}}{{"\n"}}{{join .XTestImports "\n"}}`, "./...")
	list.Dir = testenv.Root(t)
	out, err := list.Output()
	if err != nil {
		t.Fatalf("list what is imported: %v", err)
	}
	named := regexp.MustCompile("`([a-z0-9.-]+\\.[a-z]+/[^`]+)`").FindAllStringSubmatch(text, -1)
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		host, _, _ := strings.Cut(path, "/")
		if !strings.Contains(host, ".") || strings.HasPrefix(path, "github.com/coditect/usher") {
			continue
		}
		found := false
		for _, name := range named {
			found = found || path == name[1] || strings.HasPrefix(path, name[1]+"/")
		}
		if !found {
			t.Errorf("docs/dependencies.md does not name %s", path)
		}
	}
}

func TestDocsEveryFlowHasItsDiagram(t *testing.T) {
	t.Parallel()
	diagram := regexp.MustCompile("(?s)```mermaid\n(.*?)```")
	for page, text := range pages(t) {
		diagrams := diagram.FindAllStringSubmatch(text, -1)
		if strings.HasPrefix(page, "docs/flows/") && page != "docs/flows/README.md" && len(diagrams) == 0 {
			t.Errorf("%s has no diagram", page)
		}
		for _, d := range diagrams {
			if strings.Contains(d[1], ";") {
				t.Errorf("%s has a diagram with a semicolon, which ends a statement there", page)
			}
		}
	}
}
