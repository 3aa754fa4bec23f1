package license

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// maxRange is the longest range, in bytes; the database's own limit too.
const maxRange = 255

// Range is a set of versions, written like ">=2.0 <4.0". Conditions divided by
// spaces or commas must all hold; "||" divides alternatives. Beside the
// comparisons there are "~2.1" (2.1.x), "^2.1" (2.x from 2.1 on), "2.x" and
// "2.0 - 3.5". A part that is missing at an upper end is any: "<=2.5" includes
// 2.5.9.
//
// A prerelease is judged by the release it leads to: whoever may run 4.0.0 may
// run 4.0.0-rc.1, and nobody else. Compared as semantic versioning orders them,
// 4.0.0-rc.1 would be inside "<4.0", the very versions a buyer of "<4.0" did not
// pay for, and 2.0.0-rc.1 would be outside of ">=2.0". Where an alternative names
// a prerelease itself (">=2.0.0-rc.2"), that one is compared in full.
//
// Build metadata ("+abc") never matters.
type Range struct{ alternatives []alternative }

type alternative struct {
	conditions *semver.Constraints
	// inFull says that the alternative names a prerelease.
	inFull bool
}

// namesPrerelease finds the hyphen of a prerelease; the one of "2.0 - 3.5" stands between spaces.
var namesPrerelease = regexp.MustCompile(`[0-9xX*]-[0-9A-Za-z]`)

// ParseRange reads a range. It refuses one that no version could be asked about:
// empty, longer than 255 bytes, or not written as Range says.
func ParseRange(text string) (Range, error) {
	if strings.TrimSpace(text) == "" {
		return Range{}, errors.New("a version range is empty")
	}
	if len(text) > maxRange {
		return Range{}, fmt.Errorf("a version range is longer than %d bytes", maxRange)
	}
	var r Range
	for part := range strings.SplitSeq(text, "||") {
		conditions, err := semver.NewConstraint(part)
		if err != nil {
			return Range{}, errors.New("a version range is not written like >=2.0 <4.0")
		}
		r.alternatives = append(r.alternatives, alternative{conditions, namesPrerelease.MatchString(part)})
	}
	return r, nil
}

// isVersion says whether a text is a semantic version, written as [Range.Includes] takes it.
func isVersion(text string) bool {
	_, err := semver.NewVersion(text)
	return err == nil
}

// Includes says whether a version is in the range. The version may have a "v" in
// front, and minor and patch may be missing ("2.1" is 2.1.0); it is an error when
// it is no semantic version even so.
func (r Range) Includes(version string) (bool, error) {
	full, err := semver.NewVersion(version)
	if err != nil {
		return false, errors.New("not a semantic version")
	}
	release := semver.New(full.Major(), full.Minor(), full.Patch(), "", "")
	for _, a := range r.alternatives {
		asked := release
		if a.inFull {
			asked = full
		}
		if a.conditions.Check(asked) {
			return true, nil
		}
	}
	return false, nil
}
