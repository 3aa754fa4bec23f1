// Package model holds the seat protocol small enough to look at every state it can be in: seat.pml, in the language of the
// model checker Spin. Its test demands that the promise holds in all of them, and that it breaks as soon as any one of the
// protocol's safeguards is taken away. docs/proof.md says what that proves and what it does not.
package model
