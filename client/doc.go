// Package client takes a seat of a licence from Usher and keeps it.
//
//	seat, err := client.Acquire(ctx)
//	if err != nil {
//		return err
//	}
//	defer seat.Release()
package client
