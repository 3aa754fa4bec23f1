// Command register runs the function register.
package main

import (
	"github.com/coditect/usher/functions/register"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("register", register.Open) }
