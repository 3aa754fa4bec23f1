// Command release runs the function release.
package main

import (
	"github.com/coditect/usher/functions/release"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("release", release.Open) }
