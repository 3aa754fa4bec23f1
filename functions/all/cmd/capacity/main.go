// Command capacity is `make capacity`: it reads what `make bench` measured, counts what a thousand, a million and a hundred
// million seats take, and writes the page of figures that the documentation shows. It exits with 1 when nothing was measured.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coditect/usher/functions/all/capacity"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "capacity:", err)
		os.Exit(1)
	}
}

func run() error {
	text, err := os.ReadFile(filepath.Join("docs", "performance", "costs.json"))
	if err != nil {
		return fmt.Errorf("read what was measured (make bench writes it): %w", err)
	}
	var costs capacity.Costs
	if err := json.Unmarshal(text, &costs); err != nil {
		return fmt.Errorf("read what was measured: %w", err)
	}
	var page bytes.Buffer
	if err := costs.Write(&page); err != nil {
		return err
	}
	dir := filepath.Join("docs", "capacity")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "figures.md"), page.Bytes(), 0o644); err != nil {
		return err
	}
	_, err = os.Stdout.Write(page.Bytes())
	return err
}
