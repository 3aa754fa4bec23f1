// Package journal is an independent store outside the database that it watches: Firestore. What stands in it is created and
// never changed, and in production the functions' service accounts may do no more; so whoever owns PostgreSQL cannot rewrite
// what was written here before.
//
// It keeps three things: checkpoints, which are the signed heads of the tenants' audit chains; the timelines of incidents; and
// the kill switches, of which the newest counts. What is numbered is created under its number, one above the newest that was
// seen: of two writers at once one is refused, and looks again. So there are no transactions and no counters, which Firestore
// is slow at.
//
// Without JOURNAL_PROJECT the journal is off: it holds nothing, and everything that asks is told so by ErrOff.
//
// The package is the door to Firestore. It must not know HTTP, nor what an incident does; functions that seat people never link
// it: what a switch says reaches them through the Redis of the pools.
package journal

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
)

// Config says where the journal is.
type Config struct {
	// Project is the Google Cloud project whose Firestore it is, which should be another than the database's; empty turns the
	// journal off.
	Project string `env:"JOURNAL_PROJECT"`
	// Database is the Firestore database in it.
	Database string `env:"JOURNAL_DATABASE" envDefault:"(default)"`
	// Timeout bounds one call, with its repetitions.
	Timeout time.Duration `env:"JOURNAL_TIMEOUT" envDefault:"2s"`
	// Emulator is host:port of Google's emulator, which asks nobody who they are. It is for `make run` and for tests: an
	// address that is not loopback, and any on Cloud Run, is refused.
	Emulator string `env:"JOURNAL_EMULATOR"`
	// Revision is set by Cloud Run.
	Revision string `env:"K_REVISION"`
}

// ErrOff says that no journal is configured.
var ErrOff = errors.New("the journal is off: JOURNAL_PROJECT is not set")

// errExists says that a document of that name is there already.
var errExists = errors.New("the journal has it already")

// errMissing says that there is no such document.
var errMissing = errors.New("the journal does not have it")

// Journal is the way to Firestore. It is safe for concurrent use.
type Journal struct {
	client  *firestore.Client // nil when it is off
	timeout time.Duration
}

// Open reads Config from the environment. It does not connect: a Firestore that is out at the start is found out by Ping. The
// caller closes it.
func Open(ctx context.Context, getenv func(string) string) (*Journal, error) {
	var c Config
	if err := config.Load(&c, getenv); err != nil {
		return nil, err
	}
	return New(ctx, c)
}

// New is Open with a Config at hand.
func New(ctx context.Context, c Config) (*Journal, error) {
	var faults []error
	if c.Timeout <= 0 {
		faults = append(faults, &config.Fault{Variable: "JOURNAL_TIMEOUT", Problem: "must be positive"})
	}
	options, err := c.options()
	faults = append(faults, err)
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if c.Project == "" {
		return &Journal{timeout: c.Timeout}, nil
	}
	client, err := firestore.NewClientWithDatabase(ctx, c.Project, c.Database, options...)
	if err != nil { // it may quote what it was given
		return nil, &config.Fault{Variable: "JOURNAL_PROJECT", Problem: "names no Firestore that a client can be made for"}
	}
	return &Journal{client: client, timeout: c.Timeout}, nil
}

func (c Config) options() ([]option.ClientOption, error) {
	if os.Getenv("FIRESTORE_EMULATOR_HOST") != "" {
		// The client would obey it, whatever our own setting says.
		return nil, &config.Fault{Variable: "FIRESTORE_EMULATOR_HOST", Problem: "turns to an emulator behind our back: unset it, and set JOURNAL_EMULATOR"}
	}
	if c.Emulator == "" {
		return nil, nil
	}
	address, err := netip.ParseAddrPort(c.Emulator)
	switch {
	case err != nil || !address.Addr().IsLoopback():
		return nil, &config.Fault{Variable: "JOURNAL_EMULATOR", Problem: "is not host:port of a loopback address"}
	case c.Revision != "":
		return nil, &config.Fault{Variable: "JOURNAL_EMULATOR", Problem: "must not be set on Cloud Run"}
	}
	return []option.ClientOption{
		option.WithEndpoint(c.Emulator), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}, nil
}

// Off says that there is no journal.
func (j *Journal) Off() bool { return j.client == nil }

// Close closes the connections.
func (j *Journal) Close() error {
	if j.Off() {
		return nil
	}
	return j.client.Close()
}

// Ping reports whether Firestore answers; of a journal that is off it is nil.
func (j *Journal) Ping(ctx context.Context) error {
	_, err := j.get(ctx, "switches/0")
	if errors.Is(err, errMissing) || errors.Is(err, ErrOff) {
		return nil
	}
	return err
}

// create writes a document that is not there yet: else errExists. When nobody can say whether it was written, because the
// answer was lost, it is fault.Unavailable; whoever asks again finds out.
func (j *Journal) create(ctx context.Context, path string, document any) error {
	if j.Off() {
		return ErrOff
	}
	ctx, cancel := context.WithTimeout(ctx, j.timeout)
	defer cancel()
	_, err := j.client.Doc(path).Create(ctx, document)
	return explain("write "+path, err)
}

// get reads a document, or answers errMissing.
func (j *Journal) get(ctx context.Context, path string) (*firestore.DocumentSnapshot, error) {
	if j.Off() {
		return nil, ErrOff
	}
	ctx, cancel := context.WithTimeout(ctx, j.timeout)
	defer cancel()
	found, err := j.client.Doc(path).Get(ctx)
	return found, explain("read "+path, err)
}

// list calls each with the documents of a query.
func (j *Journal) list(ctx context.Context, collection string, narrow func(firestore.Query) firestore.Query, each func(*firestore.DocumentSnapshot) error) error {
	if j.Off() {
		return ErrOff
	}
	ctx, cancel := context.WithTimeout(ctx, j.timeout)
	defer cancel()
	found := narrow(j.client.Collection(collection).Query).Documents(ctx)
	defer found.Stop()
	for {
		document, err := found.Next()
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return explain("list "+collection, err)
		}
		if err := each(document); err != nil {
			return fmt.Errorf("read %s: %w", document.Ref.Path, err)
		}
	}
}

// PageSize is how many documents are asked for in one call, of those that are read all.
const PageSize = 300

// all calls each with all documents of a query, in the order of their names, however many calls to Firestore that takes.
func (j *Journal) all(ctx context.Context, collection string, narrow func(firestore.Query) firestore.Query, each func(*firestore.DocumentSnapshot) error) error {
	for last := ""; ; {
		read := 0
		err := j.list(ctx, collection, func(q firestore.Query) firestore.Query {
			q = narrow(q).OrderBy(firestore.DocumentID, firestore.Asc).Limit(PageSize)
			if last != "" {
				q = q.StartAfter(last)
			}
			return q
		}, func(found *firestore.DocumentSnapshot) error {
			last = found.Ref.ID
			read++
			return each(found)
		})
		if err != nil || read < PageSize {
			return err
		}
	}
}

// explain turns an error of Firestore into what the package's callers know.
func explain(deed string, err error) error {
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.AlreadyExists:
		return fmt.Errorf("%s: %w", deed, errExists)
	case codes.NotFound:
		return fmt.Errorf("%s: %w", deed, errMissing)
	case codes.InvalidArgument:
		return fmt.Errorf("%s: %w", deed, err)
	default:
		return fault.Unavailable(fmt.Errorf("%s in the journal: %w", deed, err))
	}
}
