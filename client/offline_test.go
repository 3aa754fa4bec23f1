package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/client/receipt"
)

// issuer signs receipts as the service does.
type issuer struct {
	t         testing.TB
	roots     string
	root, key *ecdsa.PrivateKey
	head      string
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	der, err := x509.MarshalPKIXPublicKey(root.Public())
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	certificate, err := receipt.CertifyReceiptKey(&key.PublicKey, time.Now().Add(-time.Hour), time.Now().Add(25*time.Hour), root)
	must(err)
	kid, err := receipt.Thumbprint(&key.PublicKey)
	must(err)
	head, err := receipt.EncodeHeader(receipt.TypeReceipt, kid, certificate)
	must(err)
	return &issuer{t, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), root, key, head}
}

// sign is a receipt of a session for the laptop.
func (i *issuer) sign(session string, until time.Time) string {
	i.t.Helper()
	r := receipt.Receipt{
		ID: "j-" + session, License: "l", Product: "editor", IssuedAt: time.Now(), OfflineUntil: until, Session: session, Seat: 1,
		HardwareHash: receipt.HashHardware("laptop"),
	}
	if session == "" {
		r.Seat = 0
	}
	text, err := receipt.Sign(i.head, r, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

// lends is a service that works, and lends its seat.
func (i *issuer) lends(until time.Time) func(asked) reply {
	return func(q asked) reply {
		if q.path == "/v1/borrow" {
			return reply{status: 200, body: object{"borrowed_until": until, "receipt": i.sign("s1", until)}}
		}
		return works(q)
	}
}

// borrow takes a seat and borrows it until then, and ends the program's first life.
func borrow(t testing.TB, s *script, c *Client, until time.Time) *issuer {
	t.Helper()
	i := newIssuer(t)
	c.ReceiptFile, c.Roots, c.Product = filepath.Join(t.TempDir(), "receipt.jws"), i.roots, "editor"
	s.says(i.lends(until))
	seat := acquire(t, c)
	b, err := seat.Borrow(t.Context(), until)
	if err != nil {
		t.Fatal(err)
	}
	if !b.Until.Equal(until) || b.Receipt == "" || !seat.Status().BorrowedUntil.Equal(until) || seat.Status().Receipt != b.Receipt {
		t.Errorf("it borrowed %+v", b)
	}
	seat.Release()
	return i
}

func TestABorrowedSeatOutlivesItsProgramAndIsBelievedInOffline(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		until := time.Now().Add(48 * time.Hour)
		borrow(t, s, c, until)
		if paths := s.paths(0); slices.Contains(paths, "/v1/release") {
			t.Errorf("the end of the program returned it: %s", paths)
		}
		s.says(down)
		began := time.Now()
		seat := acquire(t, c)
		if took := time.Since(began); took > time.Second {
			t.Errorf("offline, it took %s", took)
		}
		if st := seat.Status(); !st.Offline || st.SessionID != "s1" || st.SeatNo != 1 || !st.BorrowedUntil.Equal(until) {
			t.Errorf("the seat is %+v", st)
		}
		pass(time.Hour)
		wantValid(t, seat, true)
		wantKinds(t, heard(seat))
		if _, err := seat.Borrow(t.Context(), until); !errors.Is(err, ErrUnreachable) {
			t.Errorf("borrowing offline answered %v", err)
		}
		if err := seat.Return(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("returning offline answered %v", err)
		}

		// Back online the session is the same, and it can be returned early.
		s.says(works)
		pass(offlinePace + time.Second)
		wantValid(t, seat, true)
		wantKinds(t, heard(seat), "confirmed")
		if st := seat.Status(); st.Offline || !st.BorrowedUntil.Equal(until) {
			t.Errorf("online, the seat is %+v", st)
		}
		if err := seat.Return(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantValid(t, seat, false)
		if paths := s.paths(len(s.all()) - 1); paths[0] != "/v1/release" {
			t.Errorf("the last question was %s", paths)
		}
		s.says(down)
		if _, err := c.Acquire(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("after its return, offline: %v", err)
		}
		if left, _ := filepath.Glob(c.ReceiptFile + "*"); len(left) > 0 {
			t.Errorf("after its return there is %s", left)
		}
	})
}

func TestABorrowedSeatEndsWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		borrow(t, s, c, time.Now().Add(20*time.Minute))
		s.says(down)
		seat := acquire(t, c)
		pass(19 * time.Minute)
		wantValid(t, seat, true)
		pass(time.Minute)
		wantValid(t, seat, false)
		wantKinds(t, heard(seat), "lapsed")
		if _, err := c.Acquire(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("after its end, offline: %v", err)
		}
		seat.Release()
	})
}

func TestAProgramThatStartsOnlineKeepsWhatIsBorrowed(t *testing.T) {
	t.Parallel()
	for _, pinned := range []bool{true, false} {
		bubble(t, func(t inside, s *script, c *Client) {
			until := time.Now().Add(2 * time.Hour)
			borrow(t, s, c, until)
			if !pinned {
				c.Roots = ""
			}
			before := len(s.all())
			seat := acquire(t, c)
			if st := seat.Status(); st.Offline || !st.BorrowedUntil.Equal(until) {
				t.Errorf("the seat is %+v", st)
			}
			s.says(down)
			pass(time.Hour)
			wantValid(t, seat, pinned)
			seat.Release()
			if paths := s.paths(before); pinned && slices.Contains(paths, "/v1/release") {
				t.Errorf("it asked %s", paths)
			}
		})
	}
}

func TestAWithdrawnBorrowIsRefusedAtTheNextContact(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		borrow(t, s, c, time.Now().Add(48*time.Hour))
		s.says(down)
		seat := acquire(t, c)
		s.says(func(asked) reply { return problem(403, "license_revoked", nil) })
		pass(offlinePace + time.Second)
		wantValid(t, seat, false)
		wantKinds(t, heard(seat), "lost license_revoked")
		s.says(down)
		if _, err := c.Acquire(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("afterwards, offline: %v", err)
		}
	})
}

func TestABorrowThatWasWithdrawnBeforeTheProgramStartsIsDiscarded(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		borrow(t, s, c, time.Now().Add(48*time.Hour))
		for _, code := range []string{"version_not_entitled", "license_revoked"} {
			s.says(func(asked) reply { return problem(403, code, nil) })
			var refusal *Refusal
			if _, err := c.Acquire(t.Context()); !errors.As(err, &refusal) || refusal.Code != code {
				t.Errorf("it answered %v", err)
			}
			s.says(down)
			seat, err := c.Acquire(t.Context())
			if kept := err == nil; kept != (code == "version_not_entitled") {
				t.Errorf("after %s, offline: %v", code, err)
			}
			if err == nil {
				seat.Release()
			}
		}
	})
}

func TestOfflineNothingIsBelievedThatIsNotProved(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t inside, c *Client, i *issuer){
		"altered": func(t inside, c *Client, i *issuer) {
			text, err := os.ReadFile(c.ReceiptFile)
			if err != nil {
				t.Fatal(err)
			}
			text[len(text)/2] ^= 1
			write(t, c.ReceiptFile, string(text))
		},
		"no seal":       func(_ inside, c *Client, _ *issuer) { _ = os.Remove(c.ReceiptFile + sealSuffix) },
		"other roots":   func(t inside, c *Client, _ *issuer) { c.Roots = newIssuer(t).roots },
		"no roots":      func(_ inside, c *Client, _ *issuer) { c.Roots = "" },
		"other product": func(_ inside, c *Client, _ *issuer) { c.Product = "viewer" },
		"other device":  func(_ inside, c *Client, _ *issuer) { c.HardwareID = "desktop" },
		"names no seat": func(t inside, c *Client, i *issuer) {
			d := drawer{path: c.ReceiptFile}
			if _, err := d.put(t.Context(), i.sign("", time.Now().Add(time.Hour))); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t inside, s *script, c *Client) {
				i := borrow(t, s, c, time.Now().Add(48*time.Hour))
				s.says(down)
				spoil(t, c, i)
				if _, err := c.Acquire(t.Context()); !errors.Is(err, ErrUnreachable) {
					t.Errorf("it answered %v", err)
				}
			})
		})
	}
}

func TestAClockThatIsSetBackEndsABeliefThatRestsOnAReceipt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		borrow(t, s, c, time.Now().Add(48*time.Hour))
		s.says(down)
		seat := acquire(t, c)
		// The machine has looked at a later time already, as its seal says.
		d, err := c.drawer("laptop")
		if err != nil {
			t.Fatal(err)
		}
		seal, err := d.seal(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := seal.Set("j-s1", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		pass(offlinePace + time.Second)
		wantValid(t, seat, false)
		events := heard(seat)
		wantKinds(t, events, "lapsed")
		if !errors.Is(events[0].Err, receipt.ErrClockSetBack) || !errors.Is(seat.Err(), receipt.ErrClockSetBack) {
			t.Errorf("it heard %v", events[0].Err)
		}
		if _, err := c.Acquire(t.Context()); err == nil {
			t.Error("a new start believes it")
		}
		seat.Release()
	})
}

func TestAReceiptThatNobodyVouchesForIsNotKept(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		until := time.Now().Add(time.Hour)
		c.ReceiptFile, c.Roots, c.Product = filepath.Join(t.TempDir(), "receipt.jws"), newIssuer(t).roots, "editor"
		s.says(newIssuer(t).lends(until))
		seat := acquire(t, c)
		if _, err := seat.Borrow(t.Context(), until); err == nil || !strings.Contains(err.Error(), "receipt") {
			t.Errorf("it answered %v", err)
		}
		if _, err := os.Stat(c.ReceiptFile); err == nil {
			t.Error("it was kept")
		}
		seat.Release()
	})
}

func TestRootsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	c := &Client{URL: "https://usher.test", LicenseKey: "k", HardwareID: "h", Roots: "x"}
	if _, err := c.Acquire(t.Context()); err == nil || !strings.Contains(err.Error(), "root keys") {
		t.Errorf("it answered %v", err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTroubleWithFilesDoesNotEndABorrowThatIsBelievedIn(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]func(c *Client) string{
		"the receipt cannot be read":         func(c *Client) string { return c.ReceiptFile },
		"the seal cannot be read or written": func(c *Client) string { return c.ReceiptFile + sealSuffix },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t inside, s *script, c *Client) {
				borrow(t, s, c, time.Now().Add(time.Hour))
				s.says(down)
				seat := acquire(t, c)
				file, aside := path(c), filepath.Join(t.TempDir(), "aside")
				move := func(from, to string) {
					t.Helper()
					if err := os.Rename(from, to); err != nil {
						t.Fatal(err)
					}
				}
				move(file, aside)
				if err := os.Mkdir(file, 0o700); err != nil { // a folder is no file, nor can one be put in its place
					t.Fatal(err)
				}
				pass(3 * offlinePace)
				wantValid(t, seat, true)
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				move(aside, file)
				pass(3 * offlinePace)
				wantValid(t, seat, true)
				wantKinds(t, heard(seat))

				// Trouble lengthens nothing.
				move(file, aside)
				if err := os.Mkdir(file, 0o700); err != nil {
					t.Fatal(err)
				}
				pass(time.Hour - 6*offlinePace)
				wantValid(t, seat, false)
				seat.Release()
			})
		})
	}
}

func TestAReceiptThatIsGoneEndsABeliefThatRestsOnIt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		borrow(t, s, c, time.Now().Add(time.Hour))
		s.says(down)
		seat := acquire(t, c)
		if err := os.Remove(c.ReceiptFile); err != nil {
			t.Fatal(err)
		}
		pass(offlinePace + time.Second)
		wantValid(t, seat, false)
		seat.Release()
	})
}

// slowly lends the seat, and answers that late.
func (i *issuer) slowly(until time.Time, delay time.Duration) func(asked) reply {
	lends := i.lends(until)
	return func(q asked) reply {
		a := lends(q)
		if q.path == "/v1/borrow" {
			a.delay = delay
		}
		return a
	}
}

func TestABorrowWhoseSeatEndsMeanwhileIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]struct {
		meanwhile func(s *script, seat *Seat)
		over      bool
	}{
		"released":          {func(_ *script, seat *Seat) { seat.Release() }, true},
		"returned":          {func(_ *script, seat *Seat) { _ = seat.Return(seat.ctx) }, true},
		"its context ended": {func(_ *script, seat *Seat) { seat.leave() }, true},
		"evicted": {func(s *script, _ *Seat) {
			answer := s.answer
			s.says(func(q asked) reply {
				if q.path == "/v1/heartbeat" {
					return problem(410, "seat_evicted", nil)
				}
				return answer(q)
			})
		}, true},
		"followed by another session": {func(s *script, _ *Seat) {
			s.says(func(q asked) reply {
				switch {
				case q.path == "/v1/acquire":
					return seatOf("s2")
				case q.path == "/v1/heartbeat" && q.token == "Bearer token of s1":
					return problem(410, "seat_lapsed", nil)
				case q.path == "/v1/heartbeat":
					return beatOf("s2")
				default:
					return released
				}
			})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t inside, s *script, c *Client) {
				until := time.Now().Add(48 * time.Hour)
				i := newIssuer(t)
				c.ReceiptFile, c.Roots, c.Product = filepath.Join(t.TempDir(), "receipt.jws"), i.roots, "editor"
				s.says(i.slowly(until, 8*time.Second))
				seat := acquire(t, c)
				pass(15 * time.Second)
				before := len(s.all())
				lent := make(chan error)
				go func() {
					_, err := seat.Borrow(t.Context(), until)
					lent <- err
				}()
				pass(time.Second)
				step.meanwhile(s, seat)
				err := <-lent
				if err == nil || !strings.Contains(err.Error(), "ended while it was being borrowed") {
					t.Errorf("borrowing answered %v", err)
				}
				asked := s.all()[before:]
				if last := asked[len(asked)-1]; last.path != "/v1/release" || last.token != "Bearer token of s1" {
					t.Errorf("it asked %s", s.paths(before))
				}
				if left, _ := filepath.Glob(c.ReceiptFile + "*"); len(left) > 0 {
					t.Errorf("there is %s", left)
				}
				s.says(down)
				pass(2 * time.Minute)
				wantValid(t, seat, false)
				if over := errors.Is(seat.Err(), ErrLapsed); over == step.over {
					t.Errorf("it is over: %v", seat.Err())
				}
				if _, err := c.Acquire(t.Context()); !errors.Is(err, ErrUnreachable) {
					t.Errorf("offline, a new start answered %v", err)
				}
				seat.Release()
			})
		})
	}
}

func TestABorrowThatIsLengthenedWhileItsProgramEndsStaysBorrowed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		until := time.Now().Add(48 * time.Hour)
		i := newIssuer(t)
		c.ReceiptFile, c.Roots, c.Product = filepath.Join(t.TempDir(), "receipt.jws"), i.roots, "editor"
		s.says(i.lends(until))
		seat := acquire(t, c)
		if _, err := seat.Borrow(t.Context(), until); err != nil {
			t.Fatal(err)
		}
		s.says(i.slowly(until.Add(time.Hour), 8*time.Second))
		lent := make(chan error)
		go func() {
			_, err := seat.Borrow(t.Context(), until.Add(time.Hour))
			lent <- err
		}()
		pass(time.Second)
		seat.Release()
		if err := <-lent; err != nil {
			t.Error(err)
		}
		wantValid(t, seat, false)
		if slices.Contains(s.paths(0), "/v1/release") {
			t.Errorf("it was given back: %s", s.paths(0))
		}
		s.says(down)
		again := acquire(t, c)
		if got := again.Status().BorrowedUntil; !got.Equal(until.Add(time.Hour)) {
			t.Errorf("it is borrowed until %s", got)
		}
		again.Release()
	})
}
