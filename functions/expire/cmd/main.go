// Command expire runs the function expire.
package main

import (
	"github.com/coditect/usher/functions/expire"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("expire", expire.Open) }
