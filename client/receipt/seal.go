package receipt

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/coditect/usher/client/internal/wholefile"
)

// Back is how far a machine's clock may go back, as when it is set right.
const Back = time.Minute

// Seal guards a receipt, or a licence file, that is kept on a machine. It is a
// file beside it with the latest time at which the machine has looked at it, under
// a MAC that only this machine makes for this document.
//
// It tells a clock that was set back, and a copy on another machine, from honest
// use. It is no secret: a program that knows how can make another one.
type Seal struct {
	// Path is the seal's own file.
	Path string
	// Fingerprint is what no other machine has.
	Fingerprint string
}

// Set seals a document that has just been received: its id is its ID.
func (s *Seal) Set(id string, now time.Time) error {
	if err := s.write(id, now); err != nil {
		return fmt.Errorf("seal %s: %w", id, err)
	}
	return nil
}

// Check refuses a document with ErrCopied when its seal is missing or of another
// machine or document, and with ErrClockSetBack when the time is before the
// latest seen. Otherwise it notes the time. It fails, too, when it cannot.
func (s *Seal) Check(id string, now time.Time) error {
	text, err := os.ReadFile(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no seal", ErrCopied)
	}
	if err != nil {
		return fmt.Errorf("read the seal of %s: %w", id, err)
	}
	seen, err := s.read(id, string(text))
	if err != nil {
		return err
	}
	if now.Before(seen.Add(-Back)) {
		return fmt.Errorf("%w: it is %s, and was %s already", ErrClockSetBack, stamp(now), stamp(seen))
	}
	if !now.After(seen) {
		return nil
	}
	if err := s.write(id, now); err != nil {
		return fmt.Errorf("renew the seal of %s: %w", id, err)
	}
	return nil
}

// A seal is one line: what it is, the time, and the MAC over both.
const sealLabel = "usher-seal-1 "

func (s *Seal) read(id, text string) (time.Time, error) {
	line, whole := strings.CutSuffix(text, "\n")
	at := strings.LastIndexByte(line, ' ') + 1
	sum, err := decode(line[at:])
	if !whole || err != nil {
		return time.Time{}, fmt.Errorf("%w: the seal cannot be read", ErrCopied)
	}
	want, err := s.sum(id, line[:at])
	if err != nil {
		return time.Time{}, err
	}
	if !hmac.Equal(sum, want) {
		return time.Time{}, ErrCopied
	}
	seen, err := time.Parse(timeLayout, strings.TrimSuffix(strings.TrimPrefix(line[:at], sealLabel), " "))
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: the seal cannot be read", ErrCopied)
	}
	return seen, nil
}

// write puts the file in place in one step, so that a reader sees a whole one.
func (s *Seal) write(id string, now time.Time) error {
	text := sealLabel + now.UTC().Format(timeLayout) + " "
	sum, err := s.sum(id, text)
	if err != nil {
		return err
	}
	return wholefile.Write(s.Path, text+encoding.EncodeToString(sum)+"\n")
}

// sum is the MAC of a text under the key of this machine for one document.
func (s *Seal) sum(id, text string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, []byte(s.Fingerprint), []byte(id), "usher seal", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the key of a seal: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(text))
	return mac.Sum(nil), nil
}
