package testenv_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coditect/usher/shared/platform/testenv"
)

const module = "github.com/coditect/usher/"

// testSupport opens every function for the tests of each; only tests import it.
const testSupport = "functions/all/functiontest"

// functionsOf lists the folders of functions/, each a function, except all.
func functionsOf(t *testing.T, root string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, "functions"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != "all" {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		t.Fatal("there is no function")
	}
	return names
}

func TestLayoutOfEveryFunctionIsTheSame(t *testing.T) {
	t.Parallel()
	root := testenv.Root(t)
	for _, name := range functionsOf(t, root) {
		for _, file := range []string{
			"functions/" + name + "/" + name + ".go",
			"functions/" + name + "/open.go",
			"functions/" + name + "/" + name + "_test.go",
			"functions/" + name + "/cmd/main.go",
			"docs/flows/" + name + ".md",
		} {
			if _, err := os.Stat(filepath.Join(root, file)); err != nil {
				t.Errorf("function %s has no %s", name, file)
			}
		}
		main, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "functions", name, "cmd", "main.go"), nil, 0)
		if err != nil {
			t.Errorf("function %s: %v", name, err)
			continue
		}
		for _, d := range main.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && (f.Name.Name != "main" || len(f.Body.List) != 1) {
				t.Errorf("functions/%s/cmd/main.go does more than one statement", name)
			}
		}
	}
}

func TestLayoutEveryFlowPageBelongsToAFunction(t *testing.T) {
	t.Parallel()
	root := testenv.Root(t)
	functions := functionsOf(t, root)
	pages, err := filepath.Glob(filepath.Join(root, "docs", "flows", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		name := strings.TrimSuffix(filepath.Base(page), ".md")
		if name != "README" && !slices.Contains(functions, name) {
			t.Errorf("docs/flows/%s.md describes no function", name)
		}
	}
}

// goPackage is what `go list -json` tells of a package.
type goPackage struct {
	ImportPath  string
	Name        string
	Imports     []string
	TestImports []string
	XTestImport []string `json:"XTestImports"`
	Deps        []string
}

func packages(t *testing.T, root string) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Name,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list the packages: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("list the packages: %v", err)
		}
		all = append(all, p)
	}
}

func TestLayoutArrowsPointDown(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t, testenv.Root(t)) {
		from, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue
		}
		for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImport) {
			to, ours := strings.CutPrefix(path, module)
			forTests := to == testSupport && !slices.Contains(p.Imports, path)
			if ours && !forTests && !allowed(from, to) {
				t.Errorf("%s imports %s: arrows point down", from, to)
			}
		}
	}
}

// allowed reports whether one of our packages may import another: functions shared, shared platform, and nothing a
// function but the function itself and all. What clients import imports only its like, and of it we import the
// formats of receipts and of audit chains alone.
func allowed(from, to string) bool {
	function := func(path string) string {
		parts := strings.Split(path, "/")
		if parts[0] != "functions" || len(parts) < 2 {
			return ""
		}
		return parts[1]
	}
	top := func(path string) string {
		first, _, _ := strings.Cut(path, "/")
		return first
	}
	inside := func(path string) bool { return strings.HasPrefix(path, "client/internal/") }
	switch {
	case function(to) != "":
		return function(from) == function(to) || function(from) == "all"
	case strings.HasPrefix(from, "shared/platform/testenv"):
		return to == "migrations" || strings.HasPrefix(to, "shared/platform/")
	case strings.HasPrefix(from, "shared/platform/"), from == "shared/fault":
		return strings.HasPrefix(to, "shared/platform/") || to == "shared/fault"
	case top(from) == "client":
		command := func(path string) bool { return strings.HasPrefix(path, "client/cmd/") }
		low := func(path string) bool { return path == "client/receipt" || inside(path) }
		return top(to) == "client" && (!low(from) || to == from || inside(to)) && (!command(to) || command(from))
	case top(to) == "client":
		return to == "client/receipt" || to == "client/auditchain" || function(from) == "all"
	default:
		return true
	}
}

func TestLayoutABinaryLinksOnlyWhatItsFunctionNeeds(t *testing.T) {
	t.Parallel()
	seats := []string{"validate", "acquire", "heartbeat", "release", "borrow"}
	for _, p := range packages(t, testenv.Root(t)) {
		path, ours := strings.CutPrefix(p.ImportPath, module)
		parts := strings.Split(path, "/")
		if !ours || p.Name != "main" || parts[0] != "functions" || parts[1] == "all" {
			continue
		}
		never := []string{"testing", module + "shared/platform/localenv", module + "shared/platform/testenv", module + "migrations"}
		if slices.Contains(seats, parts[1]) {
			never = append(never, "cloud.google.com/go/firestore", "github.com/stripe/stripe-go")
		}
		if parts[1] == "heartbeat" { // it signs nothing
			never = append(never, "cloud.google.com/go/kms")
		}
		for _, dep := range p.Deps {
			if slices.ContainsFunc(never, func(n string) bool { return dep == n || strings.HasPrefix(dep, n+"/") }) {
				t.Errorf("the binary of %s links %s", parts[1], dep)
			}
		}
	}
}

// What is linked into programs that are not ours brings nothing with it. The command line is a program of ours.
func TestLayoutTheSDKNeedsTheStandardLibraryAlone(t *testing.T) {
	t.Parallel()
	found := 0
	for _, p := range packages(t, testenv.Root(t)) {
		path, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours || path != "client" && !strings.HasPrefix(path, "client/") || strings.HasPrefix(path, "client/cmd/") {
			continue
		}
		found++
		for _, dep := range p.Deps {
			first, _, _ := strings.Cut(dep, "/")
			standard := !strings.Contains(first, ".") || first == "vendor"
			if !standard && !strings.HasPrefix(dep, module+"client/") {
				t.Errorf("%s links %s", path, dep)
			}
		}
	}
	if found == 0 {
		t.Error("there is no SDK")
	}
}

// verifiers may make a tenancy.ID: from a verified credential or, the sweep, the night, the senders and checkpoints, from rows that
// say whose they are.
var verifiers = []string{
	"shared/tenancy/", "shared/identity/", "shared/license/", "shared/signing/", "shared/billing/", "shared/seat/sweep.go",
	"shared/notify/mail/mail.go", "shared/notify/webhook/send.go", "shared/notify/webhook/events.go", "shared/journal/checkpoints.go",
	"functions/expire/expire.go", testSupport + "/",
}

func TestLayoutOnlyVerifiersMakeATenantID(t *testing.T) {
	t.Parallel()
	eachFile(t, func(path string, file *ast.File) {
		if strings.HasSuffix(path, "_test.go") || slices.ContainsFunc(verifiers, func(v string) bool { return strings.HasPrefix(path, v) }) {
			return
		}
		for _, call := range selections(file, module+"shared/tenancy", "Verified") {
			t.Errorf("%s makes a tenancy.ID (%s): only those may who verify credentials", path, call)
		}
	})
}

func TestLayoutOnlyTenancySetsTheTenantOrHoldsAConnection(t *testing.T) {
	t.Parallel()
	doors := []string{"shared/tenancy/", "shared/platform/testenv/", "shared/platform/localenv/", "migrations/"}
	eachFile(t, func(path string, file *ast.File) {
		if strings.HasSuffix(path, "_test.go") || slices.ContainsFunc(doors, func(d string) bool { return strings.HasPrefix(path, d) }) {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if n.Kind == token.STRING && strings.Contains(n.Value, "app.current_tenant_id") {
					t.Errorf("%s speaks of app.current_tenant_id: tenancy.DB.As sets the tenant", path)
				}
			case *ast.CallExpr:
				// Only rows have it, and it would lead from them past the wall.
				if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Conn" && len(n.Args) == 0 {
					t.Errorf("%s asks for a connection", path)
				}
			}
			return true
		})
	})
}

// eachFile calls fn with every Go file of the module, by its path in the repository.
func eachFile(t *testing.T, fn func(path string, file *ast.File)) {
	t.Helper()
	root := testenv.Root(t)
	for _, top := range []string{"client", "functions", "migrations", "shared"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the folder comes with a later flow
			}
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			relative, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			fn(filepath.ToSlash(relative), file)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// selections lists the uses of a package's name in a file, whatever the file calls the package.
func selections(file *ast.File, pkg, name string) []string {
	local := ""
	for _, i := range file.Imports {
		if path, err := strconv.Unquote(i.Path.Value); err == nil && path == pkg {
			local = pkg[strings.LastIndexByte(pkg, '/')+1:]
			if i.Name != nil {
				local = i.Name.Name
			}
		}
	}
	var uses []string
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == name {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == local {
				uses = append(uses, x.Name+"."+name)
			}
		}
		return true
	})
	return uses
}
