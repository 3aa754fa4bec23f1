// Command admin runs the function admin.
package main

import (
	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("admin", admin.Open) }
