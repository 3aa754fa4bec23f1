// Command openapi writes the OpenAPI document of all functions, which follows from their code, to the file it is given.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/coditect/usher/functions/all"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("name the file to write")
	}
	document, err := all.Document(context.Background())
	if err != nil {
		return err
	}
	return os.WriteFile(args[0], document, 0o644)
}
