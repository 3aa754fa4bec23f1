package signing

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/secret"
	"github.com/coditect/usher/shared/tenancy"
)

// ErrToken says that a text is no seat token of ours: malformed, forged, or MACed
// under a key that has been taken off the ring. It never says which.
var ErrToken = errors.New("not a seat token of this service")

// Claims is what a seat token names.
type Claims struct {
	Tenant           tenancy.ID
	License, Session uuid.UUID
	// Seat is the seat's number, from 1.
	Seat int
	// Epoch and Counter are the session's fence.
	Epoch, Counter int64
}

// TokenConfig says which keys MAC the seat tokens. Exactly one of the two is set.
type TokenConfig struct {
	// Keys is a ring like "k2:base64,k1:base64". The first signs, all verify.
	Keys secret.Ring `env:"SEAT_TOKEN_KEYS"`
	// KeysFile holds such a ring, one entry a line. It is read again when it has
	// changed: at most every 10 s, or every second while unknown keys turn up.
	KeysFile string `env:"SEAT_TOKEN_KEYS_FILE"`
}

// Tokens mints and verifies seat tokens. It is safe for concurrent use.
//
// To replace a key, first put the new one second on the ring everywhere, then
// move it to the front, and take the old one off when the last session that was
// opened under it has ended.
type Tokens struct {
	ring atomic.Pointer[ring]
	file *ringFile // nil when the keys are a variable
}

// A token is "ust_" and the base64url of
//
//	version 1 | key name 8 | tenant 16 | licence 16 | session 16 | seat 4 | epoch 8 | counter 8 | MAC 32
//
// with big-endian numbers and the key's name padded with zeros. The MAC is
// HMAC-SHA-256 over a label and all that stands before it.
const (
	tokenPrefix  = "ust_"
	tokenVersion = 1
	tokenLabel   = "usher seat token\x00"

	atKey     = 1
	atTenant  = atKey + 8
	atLicense = atTenant + 16
	atSession = atLicense + 16
	atSeat    = atSession + 16
	atEpoch   = atSeat + 4
	atCounter = atEpoch + 8
	atMAC     = atCounter + 8
	tokenSize = atMAC + sha256.Size
)

// Strict decoding refuses the texts that differ from a token only in bits that base64 leaves unused.
var (
	tokenEncoding = base64.RawURLEncoding.Strict()
	tokenLength   = len(tokenPrefix) + tokenEncoding.EncodedLen(tokenSize)
)

// OpenTokens reads TokenConfig from the environment. It fails when neither or
// both variables are set, or when a ring cannot be read.
func OpenTokens(getenv func(string) string, log *slog.Logger) (*Tokens, error) {
	var cfg TokenConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	return NewTokens(cfg, time.Now, log)
}

// NewTokens makes Tokens of a configuration. Now is the clock that paces
// re-reading the file.
func NewTokens(cfg TokenConfig, now func() time.Time, log *slog.Logger) (*Tokens, error) {
	if (cfg.Keys.Len() == 0) == (cfg.KeysFile == "") {
		return nil, &config.Fault{Variable: "SEAT_TOKEN_KEYS", Problem: "or SEAT_TOKEN_KEYS_FILE must be set, and only one of them"}
	}
	t := &Tokens{}
	if cfg.KeysFile == "" {
		t.ring.Store(newRing(cfg.Keys))
		return t, nil
	}
	t.file = &ringFile{path: cfg.KeysFile, now: now, log: log}
	r, err := t.file.read()
	if err != nil {
		return nil, keysFileFault(err)
	}
	t.ring.Store(r)
	return t, nil
}

// keysFileFault says what is wrong with the file, without its name: that is the variable's value.
func keysFileFault(err error) error {
	problem := "names a file with no key ring in it: " + err.Error()
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		problem = "names a file that cannot be read"
	}
	return &config.Fault{Variable: "SEAT_TOKEN_KEYS_FILE", Problem: problem}
}

// Mint makes the token of a session, under the first key of the ring. It panics
// when the seat's number is not from 1 to 2³¹-1: no such seat exists.
func (t *Tokens) Mint(c Claims) string {
	if c.Seat < 1 || c.Seat > math.MaxInt32 {
		panic(fmt.Sprintf("signing: a token for seat %d", c.Seat))
	}
	key := t.current(fresh).keys[0]
	var b [tokenSize]byte
	b[0] = tokenVersion
	copy(b[atKey:], key.name[:])
	tenant := c.Tenant.UUID()
	copy(b[atTenant:], tenant[:])
	copy(b[atLicense:], c.License[:])
	copy(b[atSession:], c.Session[:])
	binary.BigEndian.PutUint32(b[atSeat:], uint32(c.Seat))
	binary.BigEndian.PutUint64(b[atEpoch:], uint64(c.Epoch))
	binary.BigEndian.PutUint64(b[atCounter:], uint64(c.Counter))
	key.sum(b[atMAC:atMAC], b[:atMAC])
	text := make([]byte, tokenLength)
	copy(text, tokenPrefix)
	tokenEncoding.Encode(text[len(tokenPrefix):], b[:])
	return string(text)
}

// Verify says what a token names, or ErrToken. A good token says nothing of
// whether its session lives.
func (t *Tokens) Verify(token string) (Claims, error) {
	if len(token) != tokenLength || !strings.HasPrefix(token, tokenPrefix) {
		return Claims{}, ErrToken
	}
	// The decoder skips line breaks, which would give one token many texts.
	if strings.ContainsAny(token, "\r\n") {
		return Claims{}, ErrToken
	}
	var b [tokenSize]byte
	if n, err := tokenEncoding.Decode(b[:], []byte(token[len(tokenPrefix):])); err != nil || n != tokenSize || b[0] != tokenVersion {
		return Claims{}, ErrToken
	}
	name := keyName(b[atKey:atTenant])
	key := t.current(fresh).find(name)
	if key == nil {
		// Another instance may have read a newer ring already.
		if key = t.current(unknownKey).find(name); key == nil {
			return Claims{}, ErrToken
		}
	}
	var sum [sha256.Size]byte
	key.sum(sum[:0], b[:atMAC])
	if !hmac.Equal(sum[:], b[atMAC:]) {
		return Claims{}, ErrToken
	}
	return Claims{
		Tenant:  tenancy.Verified(uuid.UUID(b[atTenant:atLicense])),
		License: uuid.UUID(b[atLicense:atSession]),
		Session: uuid.UUID(b[atSession:atSeat]),
		Seat:    int(binary.BigEndian.Uint32(b[atSeat:])),
		Epoch:   int64(binary.BigEndian.Uint64(b[atEpoch:])),
		Counter: int64(binary.BigEndian.Uint64(b[atCounter:])),
	}, nil
}

type keyName [8]byte

// ring is a key ring ready for use.
type ring struct{ keys []*macKey }

// macKey is a key with spare MACs, so that verifying allocates next to nothing.
type macKey struct {
	name keyName
	pool sync.Pool
}

func newRing(r secret.Ring) *ring {
	out := &ring{}
	for name, key := range r.All() {
		k := &macKey{}
		copy(k.name[:], name)
		k.pool.New = func() any { return hmac.New(sha256.New, key) }
		out.keys = append(out.keys, k)
	}
	return out
}

func (r *ring) find(name keyName) *macKey {
	for _, k := range r.keys {
		if k.name == name {
			return k
		}
	}
	return nil
}

// sum appends the MAC of message to dst.
func (k *macKey) sum(dst, message []byte) {
	mac := k.pool.Get().(hash.Hash)
	mac.Reset()
	_, _ = mac.Write([]byte(tokenLabel))
	_, _ = mac.Write(message)
	mac.Sum(dst)
	k.pool.Put(mac)
}

// How old the last look at the file may be.
const (
	fresh      = 10 * time.Second
	unknownKey = time.Second
)

// current is the ring in use, after a look at its file when the last one is
// older than age.
func (t *Tokens) current(age time.Duration) *ring {
	if t.file != nil {
		if r := t.file.reread(age); r != nil {
			t.ring.Store(r)
		}
	}
	return t.ring.Load()
}

// ringFile is a file that holds a ring, such as a mounted secret.
type ringFile struct {
	path string
	now  func() time.Time
	log  *slog.Logger

	looking sync.Mutex
	looked  atomic.Int64 // when, in nanoseconds of the clock
	content []byte
}

// reread returns the file's ring when it has changed, nil when it has not, was
// looked at within age, or cannot be read: then the ring in use stays, and the
// log says why.
func (f *ringFile) reread(age time.Duration) *ring {
	if since := f.now().UnixNano() - f.looked.Load(); since >= 0 && since < int64(age) {
		return nil
	}
	f.looking.Lock()
	defer f.looking.Unlock()
	if since := f.now().UnixNano() - f.looked.Load(); since >= 0 && since < int64(age) {
		return nil // somebody else has just looked
	}
	r, err := f.read()
	if err != nil {
		f.log.Error("the seat token keys cannot be read again; those in use stay", "file", f.path, "error", err)
	}
	return r
}

// read looks at the file. It returns nil when the content is what it was.
func (f *ringFile) read() (*ring, error) {
	f.looked.Store(f.now().UnixNano())
	content, err := os.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	if f.content != nil && bytes.Equal(content, f.content) {
		return nil, nil
	}
	keys, err := secret.ParseRing(string(content))
	if err != nil {
		return nil, err
	}
	f.content = content
	return newRing(keys), nil
}
