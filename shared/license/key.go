package license

import (
	"unicode/utf8"

	"github.com/coditect/usher/shared/secret"
)

// keys are licence keys: 145 random bits and a check symbol, in six groups of five.
var keys = secret.Format{Prefix: "USH-", Random: 29, Group: 5}

// NewKey makes a licence key. It is shown to its owner once and never stored.
func NewKey() secret.Key { return keys.New() }

// ParseKey reads a licence key as people write it, in either case, with or
// without hyphens, O for 0 and I or L for 1. It answers secret.ErrNoKey when a
// symbol is wrong or two neighbours are in the wrong order.
func ParseKey(text string) (secret.Key, error) { return keys.Parse(text) }

// longestKeyText is the most characters that a request may spend on a key (docs/product: field limits).
const longestKeyText = 255

// KeyCanBe is whether a text is worth looking up: not empty, and no longer than a request may make it.
func KeyCanBe(text string) bool { return text != "" && utf8.RuneCountInString(text) <= longestKeyText }
