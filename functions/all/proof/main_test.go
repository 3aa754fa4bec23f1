package proof_test

import (
	"testing"

	"github.com/coditect/usher/functions/all/functiontest"
)

func TestMain(m *testing.M) { functiontest.Main(m) }
