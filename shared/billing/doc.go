// Package billing makes what was sold follow what was paid. It is the door to Stripe: no other package links its library,
// whose version pins the API's, 2023-10-16.
//
// An event of Stripe's is only a trigger. [Books] take it in: they fetch the subscription that it is about, holding a lock
// on it, let [Decide], which is a function of values and a time, say what follows, and write that and the event in one
// transaction. So events that come late, twice, in another order or at once end in the same state. A [Desk] starts
// purchases and changes them at Stripe, each request under an idempotency key of its own.
//
// The package must not know HTTP's answers, nor seats: after a commit the caller tells the licence's pool.
package billing
