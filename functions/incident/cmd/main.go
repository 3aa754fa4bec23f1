// Command incident runs the function incident.
package main

import (
	"github.com/coditect/usher/functions/incident"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("incident", incident.Open) }
