// Command trial runs the function trial.
package main

import (
	"github.com/coditect/usher/functions/trial"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("trial", trial.Open) }
