// Package signing makes statements that cannot be forged, and recognises its own.
//
// A seat token is for Usher alone: a MAC under a ring of shared keys, made and
// checked in a few microseconds, because every heartbeat carries one. A receipt
// is for clients: a JWS under a private key, which anybody can verify offline
// with the published key set.
//
// A seat token is a verified credential, so this package is one of the few that
// make a [tenancy.ID].
//
// The package must not know what a token's session is or whether it still lives:
// that is package seat's to say. It reads no store.
package signing
