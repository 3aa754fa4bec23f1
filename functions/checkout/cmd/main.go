// Command checkout runs the function checkout.
package main

import (
	"github.com/coditect/usher/functions/checkout"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("checkout", checkout.Open) }
