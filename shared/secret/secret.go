// Package secret makes, writes and recognises secrets.
//
// There are two kinds. A [Key] is a secret that Usher hands out: a licence key
// or an API key. It is shown once, and only its keyed hash is stored, so a
// stolen database yields no key. A [Ring] is a set of secrets that Usher keeps:
// the peppers of those hashes and the keys that seat tokens are MACed with. The
// first of a ring is in use, the others are still recognised, so that a secret
// is replaced without a moment at which anything is refused.
//
// Nothing here prints a secret by accident: Key, Ring and Peppers show as
// "[hidden]" in logs, in JSON and through fmt.
//
// The package must not know what a key opens: no tenant, no licence, no store.
package secret

import "log/slog"

// hidden is what every secret of this package prints as.
const hidden = "[hidden]"

var hiddenValue = slog.StringValue(hidden)
