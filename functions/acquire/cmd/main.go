// Command acquire runs the function acquire.
package main

import (
	"github.com/coditect/usher/functions/acquire"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("acquire", acquire.Open) }
