package proof_test

import (
	"testing"

	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestMain(m *testing.M) { Main(m) }

// forgetful is when a pool may not have known what had been answered. At a small size that is the whole run: the machine is
// busy with other tests then, and the sweep, which ends the ghosts of a rebuild, comes when it can.
func forgetful(measured []Span) []Span {
	if testenv.Full() {
		return measured
	}
	return []Span{{To: Now()}}
}
