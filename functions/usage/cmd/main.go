// Command usage runs the function usage.
package main

import (
	"github.com/coditect/usher/functions/usage"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("usage", usage.Open) }
