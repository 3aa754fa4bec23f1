package cloud_test

import (
	"strings"
	"testing"

	"github.com/coditect/usher/shared/platform/cloud"
)

func TestAStandInIsOnlyEverOnThisMachine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		emulator, revision string
		ok, options        bool
	}{
		"none":               {"", "", true, false},
		"none in production": {"", "acquire-00001", true, false},
		"loopback":           {"127.0.0.1:9000", "", true, true},
		"loopback, IPv6":     {"[::1]:9000", "", true, true},
		"on Cloud Run":       {"127.0.0.1:9000", "acquire-00001", false, false},
		"elsewhere":          {"10.0.0.1:9000", "", false, false},
		"a name":             {"localhost:9000", "", false, false},
		"all addresses":      {"0.0.0.0:9000", "", false, false},
		"no port":            {"127.0.0.1", "", false, false},
	} {
		options, err := cloud.Open(func(variable string) string {
			return map[string]string{"CLOUD_EMULATOR": c.emulator, "K_REVISION": c.revision}[variable]
		})
		if (err == nil) != c.ok || (len(options) > 0) != c.options {
			t.Errorf("%s: %d options, %v", name, len(options), err)
		}
		if err != nil && !strings.Contains(err.Error(), "CLOUD_EMULATOR") {
			t.Errorf("%s: the error names no variable: %v", name, err)
		}
	}
}
