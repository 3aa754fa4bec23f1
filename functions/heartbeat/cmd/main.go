// Command heartbeat runs the function heartbeat.
package main

import (
	"github.com/coditect/usher/functions/heartbeat"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("heartbeat", heartbeat.Open) }
