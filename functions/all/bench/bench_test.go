package bench_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/bench"
)

func TestBenchRunsEndToEnd(t *testing.T) {
	t.Parallel()
	tiny := bench.Size{
		Name: "tiny", Licenses: 2, Seats: 2, Clients: 2, Sitters: 2, Rounds: 1, Round: 100 * time.Millisecond, Starts: 1, Most: 10, Calls: 2,
	}
	report, err := bench.Run(t.Context(), tiny, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := report.Write(dir); err != nil {
		t.Fatal(err)
	}
	figures, err := os.ReadFile(filepath.Join(dir, "figures.md"))
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	if err := report.Print(&printed, true); err != nil {
		t.Fatal(err)
	}
	for _, s := range report.Sections {
		if len(s.Rows) == 0 || !strings.Contains(string(figures), "## "+s.Name) || !strings.Contains(printed.String(), s.Name) {
			t.Errorf("%s has no figures: %+v", s.Name, s)
		}
	}
	if text := printed.String(); strings.Contains(text, "\x1b") || strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Errorf("printed %s", text)
	}
	for _, p := range report.Plots {
		if !strings.Contains(string(figures), "("+p.File+")") {
			t.Errorf("figures.md does not show %s", p.File)
		}
		svg, err := os.ReadFile(filepath.Join(dir, p.File))
		if err != nil {
			t.Error(err)
		}
		for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("%s: %v", p.File, err)
				break
			}
		}
		if strings.Contains(string(svg), "NaN") || strings.Contains(string(svg), "Inf") {
			t.Errorf("%s: %s", p.File, svg)
		}
	}
}
