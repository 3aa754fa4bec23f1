// Command subscription runs the function subscription.
package main

import (
	"github.com/coditect/usher/functions/subscription"
	"github.com/coditect/usher/shared/platform/serve"
)

func main() { serve.Main("subscription", subscription.Open) }
