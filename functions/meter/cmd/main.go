// Command meter runs the function meter.
package main

import (
	"github.com/coditect/usher/functions/meter"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("meter", meter.Open) }
