// Command deliver runs the function deliver.
package main

import (
	"github.com/coditect/usher/functions/deliver"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("deliver", deliver.Open) }
