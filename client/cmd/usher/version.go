package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// released is the version of this program; make cli sets it.
var released = "dev"

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which usher this is",
		Args:  takes(),
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				writeJSON(a.out, struct {
					Version string `json:"version"`
					Go      string `json:"go"`
					OS      string `json:"os"`
					Arch    string `json:"arch"`
				}{released, runtime.Version(), runtime.GOOS, runtime.GOARCH})
				return nil
			}
			_, _ = fmt.Fprintf(a.out, "usher %s (%s, %s/%s)\n", released, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
