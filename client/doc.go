// Package client takes a seat of a licence from Usher and keeps it while a program runs.
//
//	seat, err := client.Acquire(ctx)
//	if err != nil {
//		return err
//	}
//	defer seat.Release()
//
// That is all that a program needs: USHER_URL and USHER_LICENSE_KEY say where and with which key, heartbeats are sent in the
// background, and the seat is given back when the program is done or ctx ends. A [Client] says the same in code, and more.
//
// A seat is believed in for as long as the service promised, counted from sending the question, on a clock that runs while
// the machine sleeps. [Seat.Valid] says whether it is now. While the service is out of reach the program goes on, and nothing
// of the package stops it, panics or waits for longer than it says: [Seat.Events] tells what happens, for those who want to
// know. When the belief has ended, the seat is asked for again until there is one, until ctx ends, or until the service says
// that there will be none.
//
// Only the service's own words are believed. A page, a redirect, a broken answer or a bad certificate are the same as none.
//
// The package needs the standard library alone, keeps no connection and no goroutine beyond a seat, and handles no signals
// unless it is asked to. It must not know what the seat is for, and what becomes of the program without one is the program's
// decision.
package client
