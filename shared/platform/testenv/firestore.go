package testenv

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/localenv"
)

// emulator is the Firestore emulator that the tests of this process share.
var emulator = sync.OnceValues(func() (*localenv.FirestoreServer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return localenv.StartFirestore(ctx, nil)
})

// FirestoreServer is a Firestore of one test: a project of its own on an emulator.
type FirestoreServer struct {
	server  *localenv.FirestoreServer
	project string
}

// Firestore gives a test an empty Firestore. Where the emulator is not on this machine the test is skipped, and says what to
// install; in CI (CI=true) it fails.
func Firestore(t testing.TB) *FirestoreServer {
	t.Helper()
	server, err := emulator()
	absent(t, err)
	return &FirestoreServer{server, newProject()}
}

// PrivateFirestore is Firestore with an emulator of its own, which the test may freeze.
func PrivateFirestore(t testing.TB) *FirestoreServer {
	t.Helper()
	server, err := localenv.StartFirestore(setUp(t), nil)
	absent(t, err)
	closeAfter(t, server.Close)
	return &FirestoreServer{server, newProject()}
}

// newProject names a project that nobody has named: what one test writes no other sees.
func newProject() string { return "test-" + strings.ReplaceAll(uuid.NewString(), "-", "")[:16] }

func absent(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, localenv.ErrNoFirestore) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	must(t, err)
}

// Addr is the emulator's address, "host:port".
func (f *FirestoreServer) Addr() string { return f.server.Addr() }

// Project is the project's name.
func (f *FirestoreServer) Project() string { return f.project }

// Pause freezes the emulator: nothing answers. It may be called for a private one alone.
func (f *FirestoreServer) Pause(t testing.TB) {
	t.Helper()
	must(t, f.server.Pause())
}

// Resume lets a frozen emulator go on with what it held.
func (f *FirestoreServer) Resume(t testing.TB) {
	t.Helper()
	must(t, f.server.Resume())
}
