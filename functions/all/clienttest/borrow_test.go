package clienttest_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client"
	"github.com/coditect/usher/client/receipt"
	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/platform/testenv"
)

// roots are the world's root keys, as a vendor pins them: those of the key set that nobody vouches for.
func roots(t *testing.T, w *World) string {
	t.Helper()
	set, err := receipt.ParseKeySet(w.Keys(t).Send(t, Message{}).Want(t, http.StatusOK).Body)
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for _, key := range set.Keys() {
		if len(key.Chain) > 0 {
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	return string(text)
}

func TestABorrowedSeatIsKeptBySeveralLivesOfAProgramOnlineAndOffline(t *testing.T) {
	t.Parallel()
	w := New(t)
	s := serve(t, w)
	l := w.Seats(t, 1, lease)
	c := clientOf(s, l, "laptop")
	c.ReceiptFile, c.Roots, c.Product = filepath.Join(t.TempDir(), "seat.jws"), roots(t, w), Product
	until := time.Now().Add(time.Hour)

	first := acquire(t, c)
	b, err := first.Borrow(t.Context(), until)
	if err != nil {
		t.Fatal(err)
	}
	if off := b.Until.Sub(until).Abs(); off > time.Second {
		t.Errorf("borrowed until %s, asked for %s", b.Until, until)
	}
	first.Release()

	// Its lease would be over by now; nobody else gets the seat.
	time.Sleep(lease + time.Second)
	if _, err := clientOf(s, l, "desktop").Acquire(t.Context()); !errors.Is(err, client.ErrNoSeats) {
		t.Errorf("the desktop heard %v", err)
	}

	s.breaks(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cut(w) })
	offline := acquire(t, c)
	if st := offline.Status(); !offline.Valid() || !st.Offline || st.SessionID != first.Status().SessionID || st.SeatNo != 1 {
		t.Errorf("offline the seat is %+v", st)
	}
	offline.Release()
	s.breaks(nil)

	// The first connection after that finds the session, and gives it back early.
	online := acquire(t, c)
	if st := online.Status(); st.Offline || st.SessionID != first.Status().SessionID || st.BorrowedUntil.IsZero() {
		t.Errorf("online the seat is %+v", st)
	}
	if err := online.Return(t.Context()); err != nil {
		t.Fatal(err)
	}
	free(t, s, l, "desktop", slack)
}

// borrowed is a laptop that has borrowed the one seat of a licence for an hour, and whose program has ended.
func borrowed(t *testing.T) (*World, *service, License, *client.Client) {
	t.Helper()
	w := New(t)
	s := serve(t, w)
	l := w.Seats(t, 1, lease)
	c := clientOf(s, l, "laptop")
	c.ReceiptFile, c.Roots, c.Product = filepath.Join(t.TempDir(), "seat.jws"), roots(t, w), Product
	seat := acquire(t, c)
	defer seat.Release()
	if _, err := seat.Borrow(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	return w, s, l, c
}

func TestABorrowIsRefusedOfflineOnceTheRevocationListNamesIt(t *testing.T) {
	t.Parallel()
	w, s, l, c := borrowed(t)
	text, err := os.ReadFile(c.ReceiptFile + receipt.RevocationsSuffix)
	if err != nil {
		t.Fatal("borrowing brought no revocation list:", err)
	}
	w.Revoke(t, l)

	// Seats cannot be reached, but the list can.
	s.breaks(func(w http.ResponseWriter, r *http.Request, functions http.Handler) {
		if r.URL.Path != "/v1/revocations" {
			cut(w)
		}
		functions.ServeHTTP(w, r)
	})
	testenv.Eventually(t, 30*time.Second, func() error {
		offline, err := c.Acquire(t.Context())
		if errors.Is(err, client.ErrUnreachable) {
			return nil // the receipt is not believed any more
		}
		if err != nil {
			t.Fatal(err)
		}
		defer offline.Release()
		select {
		case e := <-offline.Events():
			if !errors.Is(e.Err, receipt.ErrRevoked) {
				t.Errorf("it heard %+v", e)
			}
			return nil
		case <-time.After(time.Second): // the list is read every few seconds
			return errors.New("the receipt is believed still")
		}
	})
	if now, err := os.ReadFile(c.ReceiptFile + receipt.RevocationsSuffix); err != nil || bytes.Equal(now, text) {
		t.Errorf("there is no newer list, %v", err)
	}
}

func TestABorrowThatWasWithdrawnIsRefusedAtTheNextContact(t *testing.T) {
	t.Parallel()
	w, s, l, c := borrowed(t)
	w.Revoke(t, l)
	var why *client.Refusal
	if _, err := c.Acquire(t.Context()); !errors.As(err, &why) || why.Code != "license_revoked" {
		t.Errorf("the laptop heard %v", err)
	}
	s.breaks(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cut(w) })
	if _, err := c.Acquire(t.Context()); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("offline, after it has heard of it: %v", err)
	}
}

func TestABorrowThatWasEvictedIsNotBelievedAgainOnceTheLaptopHasAskedForAnotherSeat(t *testing.T) {
	t.Parallel()
	w, s, l, c := borrowed(t)
	evicted := acquire(t, c)
	session := evicted.Status().SessionID
	evicted.Release() // it stays borrowed
	w.Evict(t, uuid.MustParse(session), "stolen")

	testenv.Eventually(t, slack, func() error { // the list is read every few seconds
		other := acquire(t, c)
		if other.Status().SessionID == session {
			t.Fatal("the evicted session was granted again")
		}
		other.Release()
		if _, err := os.Stat(c.ReceiptFile); err == nil {
			return errors.New("the receipt is kept")
		}
		return nil
	})
	s.breaks(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cut(w) })
	if _, err := c.Acquire(t.Context()); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("offline the laptop believes in a seat that it was evicted from: %v", err)
	}
	s.breaks(nil)
	free(t, s, l, "desktop", slack)
}
