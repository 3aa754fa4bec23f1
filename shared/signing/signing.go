// Package signing makes statements that cannot be forged, and recognises its own.
//
// A seat token is for Usher alone: a MAC under a ring of shared keys, made and
// checked in a few microseconds, because every heartbeat carries one. A receipt
// is for clients: a JWS in the format of package client/receipt, under a key that
// lives for a day and for which a root in Cloud KMS vouches. Licence files and
// revocation lists are signed by a root itself.
//
// When a key is made, used and replaced is a [Plan], decided as data; package
// rotation carries it out.
//
// A seat token is a verified credential, so this package is one of the few that
// make a [tenancy.ID].
//
// The package must not know what a token's session is or whether it still lives:
// that is package seat's to say. It must not know Cloud KMS: whoever opens it
// hands in what unwraps and what signs, so that a function that only checks
// tokens links neither.
package signing
