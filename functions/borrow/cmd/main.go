// Command borrow runs the function borrow.
package main

import (
	"github.com/coditect/usher/functions/borrow"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("borrow", borrow.Open) }
