// Command webhook runs the function webhook.
package main

import (
	"github.com/coditect/usher/functions/webhook"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("webhook", webhook.Open) }
