package client

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coditect/usher/client/hardware"
	"github.com/coditect/usher/client/internal/wholefile"
	"github.com/coditect/usher/client/receipt"
)

// sealSuffix makes the name of a receipt's seal of the receipt's.
const sealSuffix = ".seal"

// drawer is where a borrowed seat's receipt is kept, with its seal beside it.
type drawer struct {
	path     string // "" = nowhere
	pinned   bool   // whether there are roots
	verifier receipt.Verifier
	// review is when a receipt of another session is looked at next.
	review instant
}

// drawer is the client's, for a device.
func (c *Client) drawer(hardwareID string) (*drawer, error) {
	d := &drawer{path: c.ReceiptFile, pinned: c.Roots != "", verifier: receipt.Verifier{Product: c.Product, HardwareID: hardwareID}}
	if !d.pinned {
		return d, nil
	}
	var err error
	d.verifier.Roots, err = receipt.ParseRoots([]byte(c.Roots))
	if err != nil {
		return nil, fmt.Errorf("usher: %w", err)
	}
	return d, nil
}

// seal is the receipt's. It is of the machine itself, whatever name its device was given; of that name where the machine has
// no identity, and of neither, but an error, where it cannot be asked now: a seal of the wrong one would look copied.
func (d *drawer) seal(ctx context.Context) (*receipt.Seal, error) {
	fingerprint, err := hardware.ID(ctx, "usher")
	if errors.Is(err, hardware.ErrNone) {
		fingerprint, err = d.verifier.HardwareID, nil
	}
	return &receipt.Seal{Path: d.path + sealSuffix, Fingerprint: fingerprint}, err
}

// put keeps a receipt that has just been received. Roots, where there are any, must vouch for it.
func (d *drawer) put(ctx context.Context, text string) (receipt.Receipt, error) {
	r, err := d.read(text)
	if err != nil || d.path == "" {
		return r, err
	}
	seal, err := d.seal(ctx)
	if err != nil {
		return r, err
	}
	if err := wholefile.Write(d.path, text+"\n"); err != nil {
		return r, fmt.Errorf("keep the receipt: %w", err)
	}
	return r, seal.Set(r.ID, time.Now())
}

// read believes a receipt that comes from the service itself.
func (d *drawer) read(text string) (receipt.Receipt, error) {
	if d.pinned {
		return d.verifier.Receipt(text)
	}
	return parse(text)
}

// parse reads a receipt's claims without looking who signed them.
func parse(text string) (receipt.Receipt, error) {
	var r receipt.Receipt
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return r, receipt.ErrMalformed
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = r.UnmarshalJSON(claims)
	}
	if err != nil {
		return r, fmt.Errorf("%w: %w", receipt.ErrMalformed, err)
	}
	return r, nil
}

// get believes the receipt that is kept: by pinned roots alone, for this device, and only one that names a session.
func (d *drawer) get(ctx context.Context) (receipt.Receipt, string, error) {
	if d.path == "" || !d.pinned {
		return receipt.Receipt{}, "", os.ErrNotExist
	}
	text, err := os.ReadFile(d.path)
	if err != nil {
		return receipt.Receipt{}, "", err
	}
	v := d.verifier
	if v.Seal, err = d.seal(ctx); err != nil {
		return receipt.Receipt{}, "", err
	}
	compact := strings.TrimSpace(string(text))
	r, err := parse(compact)
	if err != nil {
		return receipt.Receipt{}, "", err
	}
	v.Revocations = d.revocationsFor(r.License)
	r, err = v.Receipt(compact)
	if err == nil && r.Session == "" {
		err = fmt.Errorf("%w: the receipt names no seat", receipt.ErrMalformed)
	}
	return r, compact, err
}

// discard throws the receipt of a session away, if it is the one that is kept.
func (d *drawer) discard(session string) {
	if r, err := d.glance(); err == nil && r.Session == session {
		for _, suffix := range []string{"", sealSuffix, receipt.RevocationsSuffix} {
			_ = os.Remove(d.path + suffix) // the receipt is refused without its seal
		}
	}
}

// empty throws any receipt away.
func (d *drawer) empty() {
	if r, err := d.glance(); err == nil {
		d.discard(r.Session)
	}
}

// recall adds to a grant what the kept receipt promises its session.
func (d *drawer) recall(ctx context.Context, g *grant, now instant) {
	r, _, err := d.get(ctx)
	_, refused := errors.AsType[*receipt.Refusal](err)
	switch {
	case err == nil && r.Session == g.session:
		g.status.BorrowedUntil = r.OfflineUntil
		g.until = max(g.until, now.add(time.Until(r.OfflineUntil)))
	case err != nil && !refused:
		// Nothing can be believed, without roots or at the moment, but a seat that seems to be borrowed is not to be given back by the way.
		if r, err := d.glance(); err == nil && r.Session == g.session && r.OfflineUntil.After(time.Now()) {
			g.status.BorrowedUntil = r.OfflineUntil
		}
	}
}

// recheck looks, after an answer of the service that names a session ("" = none), at a receipt that is kept of another one: a
// borrow that was evicted is on the revocation list, and its seat may be somebody else's by now, but one that is not may live
// on beside, where the licence counts instances or users. It asks for the list once in a pace, for as long as it is given
// patience and no longer than one tries to be polite; a list that cannot be had changes nothing. It answers which session was
// withdrawn, and the refusal that says so.
func (d *drawer) recheck(ctx context.Context, l *line, session string, patience time.Duration) (withdrawn string, no error) {
	if d.path == "" || !d.pinned || l.now() < d.review {
		return "", nil
	}
	r, err := d.glance()
	if err != nil || r.Session == session {
		return "", nil
	}
	d.review = l.now().add(offlinePace)
	if time.Now().Before(r.OfflineUntil) {
		asking, cancel := context.WithTimeout(ctx, min(patience, leaving))
		defer cancel()
		d.refresh(asking, l, r.License)
	}
	if _, _, err := d.get(ctx); errors.Is(err, receipt.ErrRevoked) {
		d.discard(r.Session)
		return r.Session, err
	}
	return "", nil
}

// glance reads the receipt that is kept, and believes nothing.
func (d *drawer) glance() (receipt.Receipt, error) {
	if d.path == "" {
		return receipt.Receipt{}, os.ErrNotExist
	}
	text, err := os.ReadFile(d.path)
	if err != nil {
		return receipt.Receipt{}, err
	}
	return parse(strings.TrimSpace(string(text)))
}

// offline is the seat that the kept receipt names.
func (d *drawer) offline(ctx context.Context, now instant) (*grant, error) {
	r, text, err := d.get(ctx)
	if err != nil {
		return nil, err
	}
	return &grant{
		session: r.Session, until: now.add(time.Until(r.OfflineUntil)), beat: offlinePace,
		status: Status{
			SessionID: r.Session, SeatNo: r.Seat, ExpiresAt: r.OfflineUntil, BorrowedUntil: r.OfflineUntil, Offline: true, Receipt: text,
		},
	}, nil
}

// offlinePace is how often a seat that is borrowed looks whether the service can be reached.
const offlinePace = time.Minute

// Borrowed is a seat that needs no heartbeats for a while.
type Borrowed struct {
	// Until is by the service's clock.
	Until time.Time
	// Receipt proves it offline.
	Receipt string
}

// Borrow keeps the seat until then without heartbeats, for a machine that goes offline, and keeps its receipt in the
// client's ReceiptFile. From then on neither Release nor the end of the context gives the seat back, but Return, or the time.
// When the seat ends while Borrow is under way, it is not borrowed: it is given back, and the error says so.
func (s *Seat) Borrow(ctx context.Context, until time.Time) (Borrowed, error) {
	session, token := s.session()
	if token == "" {
		return Borrowed{}, errAway
	}
	body, err := encode(struct {
		Until string `json:"until"`
	}{until.UTC().Format("2006-01-02T15:04:05.000Z")})
	if err != nil {
		return Borrowed{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	var a struct {
		BorrowedUntil time.Time `json:"borrowed_until"`
		Receipt       string    `json:"receipt"`
	}
	_, sent, err := s.line.send(ctx, message{path: "/v1/borrow", body: body, token: token, key: rand.Text()}, &a)
	if err != nil {
		return Borrowed{}, err
	}
	if !s.still(session, func() {}) {
		return Borrowed{}, s.unborrow(ctx, session, token)
	}
	b := Borrowed{Until: a.BorrowedUntil, Receipt: a.Receipt}
	r, err := s.drawer.put(ctx, a.Receipt)
	if r.OfflineUntil.IsZero() {
		return b, fmt.Errorf("usher: the seat is borrowed, but its receipt is not believed: %w", err)
	}
	// The seat may have ended while its receipt was written.
	if !s.still(session, func() {
		// The receipt's own length, counted from sending, is right whatever this machine's clock says. It was issued within a second.
		s.until = max(s.until, sent.add(r.OfflineUntil.Sub(r.IssuedAt)-time.Second))
		s.status.BorrowedUntil, s.status.Receipt = a.BorrowedUntil, a.Receipt
	}) {
		return Borrowed{}, s.unborrow(ctx, session, token)
	}
	if err != nil {
		return b, fmt.Errorf("usher: the seat is borrowed, but its receipt is not kept: %w", err)
	}
	s.drawer.refresh(ctx, s.line, r.License)
	return b, nil
}

// still does something to the seat while its session is the one that it was, and says whether that session is kept: it is not
// once the seat was given back or lost, or is to be. One that was borrowed before stays so when the seat is over.
func (s *Seat) still(session string, do func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.status.SessionID != session:
		return false
	case s.stays:
		return true
	case s.token == "" || s.ctx.Err() != nil && s.status.BorrowedUntil.IsZero():
		return false
	}
	do()
	return true
}

// unborrow gives a borrow back whose seat has ended before its answer came, and says why it has.
func (s *Seat) unborrow(ctx context.Context, session, token string) error {
	s.drawer.discard(session)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer cancel()
	s.giveBack(ctx, token)
	s.mu.Lock()
	defer s.mu.Unlock()
	why := s.err
	switch {
	case why != nil:
	case s.ctx.Err() != nil:
		why = ErrReleased
	default:
		why = ErrLapsed
	}
	return fmt.Errorf("usher: the seat ended while it was being borrowed, and is given back: %w", why)
}

// Return gives a seat back that may be borrowed, and discards its receipt. It needs the service: with an error, the seat
// stays as it is.
func (s *Seat) Return(ctx context.Context) error {
	session, token := s.session()
	if token == "" {
		return errAway
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	if err := release(ctx, s.line, token); err != nil {
		return err
	}
	s.mu.Lock()
	if s.status.SessionID == session { // otherwise the keeper has another session meanwhile
		s.until, s.token, s.status.BorrowedUntil = 0, "", time.Time{}
	}
	s.mu.Unlock()
	s.drawer.discard(session) // of a Borrow, too, that was faster
	s.Release()
	return nil
}

// errAway says that there is no session at the moment that the service could be asked about.
var errAway = &silence{cause: errors.New("there is no session at the moment")}
