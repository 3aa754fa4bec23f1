// Command validate runs the function validate.
package main

import (
	"github.com/coditect/usher/functions/validate"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("validate", validate.Open) }
