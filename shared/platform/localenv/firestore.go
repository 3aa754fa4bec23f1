package localenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// ErrNoFirestore says that Google's Firestore emulator is not on this machine. It is not installed by itself: it comes with
// the Google Cloud SDK, which nobody wants as a surprise.
var ErrNoFirestore = errors.New("the Firestore emulator is not here: it comes with the Google Cloud SDK " +
	"(gcloud components install cloud-firestore-emulator, or the Debian package google-cloud-cli-firestore-emulator) and needs Java 11 or newer")

// FirestoreServer is Google's Firestore emulator on loopback, in memory only: what it holds ends with it. Projects are apart from
// each other, and come into being by being named.
type FirestoreServer struct {
	port   int
	dir    string
	log    io.Writer
	server *process
}

// StartFirestore starts the emulator and waits until it answers; ErrNoFirestore when it, or Java, is not here. The caller stops
// it with Close; it ends with this process at the latest.
func StartFirestore(ctx context.Context, log io.Writer) (*FirestoreServer, error) {
	dir, err := account{}.temporary("firestore")
	if err != nil {
		return nil, err
	}
	f := &FirestoreServer{dir: dir, log: log}
	var errs []error
	for range 5 { // a free port may be snatched before the emulator has it
		if f.port, err = freePort(); err != nil {
			errs = append(errs, err)
			break
		}
		if err = f.Start(ctx); err == nil {
			return f, nil
		}
		errs = append(errs, err)
		if errors.Is(err, ErrNoFirestore) {
			break
		}
	}
	return nil, errors.Join(append(errs, os.RemoveAll(dir))...)
}

// Start runs the emulator again after Stop, at the same address, holding nothing.
func (f *FirestoreServer) Start(ctx context.Context) error {
	java, err := Find("java")
	if err != nil {
		return ErrNoFirestore
	}
	jar, err := firestoreJar()
	if err != nil {
		return err
	}
	args := []string{
		"-Xrs", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.io.tmpdir=" + f.dir, "-cp", jar,
		"com.google.cloud.datastore.emulator.firestore.CloudFirestore", "start", "--host", "127.0.0.1", "--port", strconv.Itoa(f.port),
	}
	if f.server, err = (account{}).start("Firestore", java, args, f.dir, f.log, f.dir); err != nil {
		return err
	}
	client := &http.Client{Timeout: startTimeout}
	if err := f.server.ready(ctx, func(ctx context.Context) error { return f.ask(ctx, client, http.MethodGet, "/", "", "Ok") }); err != nil {
		return errors.Join(err, f.server.end(syscall.SIGKILL))
	}
	// Its first answers take seconds, while it loads its own code: they are had here.
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	const documents = "/v1/projects/warm/databases/(default)/documents"
	err = errors.Join(
		f.ask(ctx, client, http.MethodPost, documents+"/warm?documentId=1", `{"fields": {"n": {"integerValue": "1"}}}`, "{"),
		f.ask(ctx, client, http.MethodPost, documents+":runQuery",
			`{"structuredQuery": {"from": [{"collectionId": "warm"}], "orderBy": [{"field": {"fieldPath": "n"}, "direction": "DESCENDING"}], "limit": 1}}`, "["))
	if err != nil {
		return errors.Join(err, f.server.end(syscall.SIGKILL))
	}
	return nil
}

// ask sends a request to the emulator, whose answer must begin like this.
func (f *FirestoreServer) ask(ctx context.Context, client *http.Client, method, path, body, want string) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+f.Addr()+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, 1000))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || !strings.HasPrefix(string(text), want) {
		return fmt.Errorf("the Firestore emulator answers %s with %d: %.200s", path, response.StatusCode, text)
	}
	return nil
}

// Addr is the emulator's address, "host:port".
func (f *FirestoreServer) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(f.port)) }

// Done is closed when the emulator has ended.
func (f *FirestoreServer) Done() <-chan struct{} { return f.server.done }

// Pause freezes the emulator: connections stay open, and nothing answers.
func (f *FirestoreServer) Pause() error { return f.server.signalAll(syscall.SIGSTOP) }

// Resume lets a frozen emulator go on, with all that it held.
func (f *FirestoreServer) Resume() error { return f.server.signalAll(syscall.SIGCONT) }

// Stop ends the emulator: what it held is gone.
func (f *FirestoreServer) Stop() error { return f.server.end(syscall.SIGKILL) }

// Close ends the emulator and removes its directory.
func (f *FirestoreServer) Close() error { return errors.Join(f.Stop(), os.RemoveAll(f.dir)) }

// HasFirestore says that the emulator is on this machine, with or without the Java that it needs.
func HasFirestore() bool {
	_, err := firestoreJar()
	return err == nil
}

// firestoreJar finds the emulator in the Google Cloud SDK: beside gcloud, or where packages put it.
func firestoreJar() (string, error) {
	roots := []string{"/usr/lib/google-cloud-sdk", "/opt/google-cloud-sdk", "/usr/share/google-cloud-sdk", "/snap/google-cloud-cli/current"}
	if gcloud, err := Find("gcloud"); err == nil {
		if gcloud, err = filepath.EvalSymlinks(gcloud); err == nil {
			roots = append([]string{filepath.Dir(filepath.Dir(gcloud))}, roots...)
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		roots = append(roots, filepath.Join(home, "google-cloud-sdk"))
	}
	for _, root := range roots {
		matches, err := filepath.Glob(filepath.Join(root, "platform", "cloud-firestore-emulator", "*.jar"))
		if err != nil {
			return "", fmt.Errorf("find the Firestore emulator: %w", err)
		}
		if len(matches) > 0 {
			return slices.Max(matches), nil
		}
	}
	return "", ErrNoFirestore
}
