// Command sweep runs the function sweep.
package main

import (
	"github.com/coditect/usher/functions/sweep"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("sweep", sweep.Open) }
