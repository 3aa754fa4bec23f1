// Package seat decides who sits: it takes, keeps and gives back the seats of licences so that there are never more
// believing holders than seats, also when Redis is lost, restarted empty or replaced by a stale replica.
//
// Redis proposes, PostgreSQL disposes, heartbeats touch Redis only. A seat is reserved in the licence's pool in Redis,
// a row opens the session in PostgreSQL, the pool confirms it, and only then the holder hears yes. All lease time is
// the clock of Redis. Four safeguards carry the promise: the row is committed before the answer; a pool belongs to one
// incarnation of Redis and is rebuilt under any other; nothing that a rebuild restored is reaped before everybody who
// could believe in it has stopped; and a row is opened, or closed on evidence, only in the epoch in which that was
// decided. docs/seats.md tells the protocol and its crash table.
//
// The package is the door to the Redis of seats. It knows licences only as the columns of the licence's row that bound
// a pool; it must not know licence keys, tokens, HTTP, or who may ask for what.
package seat
