// Command keys runs the function keys.
package main

import (
	"github.com/coditect/usher/functions/keys"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("keys", keys.Open) }
