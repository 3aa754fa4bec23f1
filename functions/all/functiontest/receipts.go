package functiontest

import (
	"net/http"
	"testing"
	"time"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/signing"
)

// Verifier is that of a client at a time: it knows the key set that is published now, and nothing else.
func (w *World) Verifier(t testing.TB, now time.Time) *receipt.Verifier {
	t.Helper()
	set, err := receipt.ParseKeySet(w.Keys(t).Send(t, Message{}).Want(t, http.StatusOK).Body)
	must(t, err)
	return &receipt.Verifier{Keys: set, Now: func() time.Time { return now }}
}

// Verify reads a receipt as that client does.
func (w *World) Verify(t testing.TB, text string, now time.Time) receipt.Receipt {
	t.Helper()
	r, err := w.Verifier(t, now).Receipt(text)
	must(t, err)
	return r
}

// Roots are those that an application is built with now.
func (w *World) Roots(t testing.TB) receipt.Roots {
	t.Helper()
	text, err := signing.PinnedRoots(t.Context(), w.database(t, "rotate"))
	must(t, err)
	roots, err := receipt.ParseRoots(text)
	must(t, err)
	return roots
}
