// Command rotate runs the function rotate.
package main

import (
	"github.com/coditect/usher/functions/rotate"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("rotate", rotate.Open) }
