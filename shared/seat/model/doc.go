// Package model holds the seat protocol small enough to look at every state it can be in, in the language of the model checker
// Spin: seat.pml, and queue.pml for the queue and the borrow. Its test demands that the promises hold in all of them, and that
// they break as soon as any one of the protocol's safeguards is taken away. docs/proof.md says what that proves and what it does
// not.
package model
