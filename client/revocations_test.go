package client

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/coditect/usher/client/receipt"
)

// lists is a service of which only the revocation list can be had: a list with a version, good for an hour.
func (i *issuer) lists(version int64, keys []receipt.RevokedKey, withdrawn ...receipt.Entry) func(asked) reply {
	i.t.Helper()
	list := receipt.Revocations{Version: version, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), Keys: keys}
	shards := list.File(withdrawn)
	head, err := receipt.EncodeHeader(receipt.TypeRevocations, i.name(i.root))
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := receipt.Sign(head, list, i.root)
	if err != nil {
		i.t.Fatal(err)
	}
	return func(q asked) reply {
		if q.path != "/v1/revocations" {
			return refused
		}
		a := receipt.RevocationsAnswer{List: text, Version: version}
		if q.query != "" {
			n, err := strconv.Atoi(q.query[len("shard="):])
			if err != nil || n >= len(shards) {
				return problem(404, "not_found", nil)
			}
			a.Number, a.Licenses, a.Sessions, a.Proof = &n, shards[n].Licenses, shards[n].Sessions, shards[n].Proof
		}
		return reply{status: 200, body: a}
	}
}

func (i *issuer) name(key *ecdsa.PrivateKey) string {
	i.t.Helper()
	id, err := receipt.Thumbprint(&key.PublicKey)
	if err != nil {
		i.t.Fatal(err)
	}
	return id
}

func TestOfflineAReceiptIsRefusedAsSoonAsTheRevocationListNamesIt(t *testing.T) {
	t.Parallel()
	session := receipt.Entry{License: "l", Session: "s1"}
	for name, answers := range map[string]func(i *issuer) func(asked) reply{
		"its session": func(i *issuer) func(asked) reply { return i.lists(7, nil, session) },
		"its licence": func(i *issuer) func(asked) reply { return i.lists(7, nil, receipt.Entry{License: "l"}) },
		"its key": func(i *issuer) func(asked) reply {
			return i.lists(7, []receipt.RevokedKey{{ID: i.name(i.key), Code: receipt.KeyRevoked, At: time.Now()}})
		},
		"its session, in a shard": func(i *issuer) func(asked) reply {
			many := []receipt.Entry{session}
			for n := range 3 * receipt.ShardSize {
				many = append(many, receipt.Entry{License: "other-" + strconv.Itoa(n)})
			}
			return i.lists(7, nil, many...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t inside, s *script, c *Client) {
				i := borrow(t, s, c, time.Now().Add(48*time.Hour))
				s.says(down)
				seat := acquire(t, c)
				pass(offlinePace + time.Second)
				wantValid(t, seat, true)
				s.says(answers(i))
				pass(offlinePace + time.Second)
				wantValid(t, seat, false)
				events := heard(seat)
				wantKinds(t, events, "lapsed")
				if !errors.Is(events[0].Err, receipt.ErrRevoked) {
					t.Errorf("it heard %v", events[0].Err)
				}
				seat.Release()

				// It stays refused: by a list that has expired, and where an older one is answered.
				s.says(i.lists(6, nil))
				pass(2 * time.Hour)
				if _, err := c.Acquire(t.Context()); !errors.Is(err, ErrUnreachable) {
					t.Errorf("a new start answered %v", err)
				}
			})
		})
	}
}

func TestBorrowingBringsTheRevocationListAlong(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		until := time.Now().Add(48 * time.Hour)
		i := borrow(t, s, c, until)
		if _, err := os.Stat(c.ReceiptFile + receipt.RevocationsSuffix); err == nil {
			t.Error("a list was kept that nobody answered")
		}
		lists, lends := i.lists(7, nil, receipt.Entry{License: "l", Session: "s0"}), i.lends(until)
		s.says(func(q asked) reply {
			if q.path == "/v1/revocations" {
				return lists(q)
			}
			return lends(q)
		})
		seat := acquire(t, c)
		if _, err := seat.Borrow(t.Context(), until); err != nil {
			t.Fatal(err)
		}
		seat.Release()
		d, err := c.drawer("laptop")
		if err != nil {
			t.Fatal(err)
		}
		if list := d.revocations(); list == nil || list.Version != 7 {
			t.Errorf("the list that is kept is %+v", list)
		}
		s.says(down)
		seat = acquire(t, c)
		wantValid(t, seat, true)
		seat.Release()
	})
}

func TestAListOfNobodyKnownChangesNothing(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		borrow(t, s, c, time.Now().Add(48*time.Hour))
		s.says(newIssuer(t).lists(7, nil, receipt.Entry{License: "l", Session: "s1"}))
		seat := acquire(t, c)
		pass(offlinePace + time.Second)
		wantValid(t, seat, true)
		write(t, c.ReceiptFile+receipt.RevocationsSuffix, "spoilt")
		pass(offlinePace + time.Second)
		wantValid(t, seat, true)
		seat.Release()
	})
}

func TestABorrowThatWasTakenAwayIsNotBelievedAgainAfterTheServiceHasAnswered(t *testing.T) {
	t.Parallel()
	second := func(q asked) reply {
		switch q.path {
		case "/v1/acquire":
			return seatOf("s2")
		case "/v1/heartbeat":
			return beatOf("s2")
		default:
			return released
		}
	}
	full := func(asked) reply { return problem(409, "no_seats_available", nil) }
	online := func(t inside, c *Client) {
		if seat, err := c.Acquire(t.Context()); err == nil {
			seat.Release()
		}
	}
	for name, step := range map[string]struct {
		answer func(asked) reply
		meet   func(t inside, c *Client)
	}{
		"it has granted another seat": {second, online},
		"it has granted none":         {full, online},
		"it has granted another to a program that runs": {second, func(t inside, c *Client) {
			c.InstanceID = "another"
			seat := acquire(t, c)
			pass(offlinePace + 30*time.Second)
			seat.Release()
		}},
		"it has told a place in the queue": {
			func(q asked) reply {
				if q.path == "/v1/release" {
					return released
				}
				return reply{status: 202, body: object{"position": 1, "queue_length": 1, "poll_after_seconds": 5}}
			}, func(t inside, c *Client) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				waiting := *c
				waiting.Wait = true
				if _, err := waiting.Acquire(ctx); err == nil {
					t.Error("there is a seat")
				}
			},
		},
	} {
		for _, evicted := range []bool{true, false} {
			t.Run(name+", evicted "+strconv.FormatBool(evicted), func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t inside, s *script, c *Client) {
					i := borrow(t, s, c, time.Now().Add(48*time.Hour))
					var withdrawn []receipt.Entry
					if evicted {
						withdrawn = append(withdrawn, receipt.Entry{License: "l", Session: "s1"})
					}
					lists := i.lists(7, nil, withdrawn...)
					s.says(func(q asked) reply {
						if q.path == "/v1/revocations" {
							return lists(q)
						}
						return step.answer(q)
					})
					step.meet(t, c)
					s.says(down)
					seat, err := c.Acquire(t.Context())
					if believed := err == nil; believed == evicted {
						t.Errorf("offline, it answered %v", err)
					}
					if err == nil {
						seat.Release()
					}
				})
			})
		}
	}
}

// A keeper that has to take another seat asks, too, and a list that is late is asked for again.
func TestABorrowThatWasTakenAwayIsDiscardedByAProgramThatRuns(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		until := time.Now().Add(48 * time.Hour)
		i := borrow(t, s, c, until)
		seat := acquire(t, c)
		s.says(func(q asked) reply {
			switch q.path {
			case "/v1/revocations":
				return refused
			case "/v1/acquire":
				return seatOf("s2")
			case "/v1/heartbeat":
				if q.token == "Bearer token of s1" {
					return problem(401, "seat_token_invalid", nil)
				}
				return beatOf("s2")
			default:
				return released
			}
		})
		pass(time.Minute)
		wantKinds(t, heard(seat), "reacquired")
		if _, err := os.Stat(c.ReceiptFile); err != nil {
			t.Error("without a list, the receipt is gone:", err)
		}
		lists := i.lists(7, nil, receipt.Entry{License: "l", Session: "s1"})
		s.says(func(q asked) reply {
			if q.path == "/v1/revocations" {
				return lists(q)
			}
			return beatOf("s2")
		})
		pass(offlinePace + 30*time.Second)
		if _, err := os.Stat(c.ReceiptFile); err == nil {
			t.Error("a receipt that was withdrawn is kept")
		}
		wantValid(t, seat, true)
		s.says(works)
		seat.Release()
	})
}

func TestAListThatIsNotAnsweredHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		borrow(t, s, c, time.Now().Add(48*time.Hour))
		s.says(func(q asked) reply {
			if q.path == "/v1/revocations" {
				return refused.after(time.Hour)
			}
			return problem(409, "no_seats_available", nil)
		})
		began := time.Now()
		if _, err := c.Acquire(t.Context()); !errors.Is(err, ErrNoSeats) {
			t.Errorf("it answered %v", err)
		}
		if took := time.Since(began); took > leaving {
			t.Errorf("it took %s", took)
		}
		if _, err := os.Stat(c.ReceiptFile); err != nil {
			t.Error("the receipt is gone:", err)
		}
	})
}

func TestABeliefInABorrowThatWasTakenAwayEndsWhileItsProgramWaitsForAnotherSeat(t *testing.T) {
	t.Parallel()
	for _, evicted := range []bool{true, false} {
		bubble(t, func(t inside, s *script, c *Client) {
			i := borrow(t, s, c, time.Now().Add(48*time.Hour))
			c.Wait = true
			s.says(down)
			seat := acquire(t, c)
			pass(time.Second)
			entry := receipt.Entry{License: "l", Session: "s1"}
			if !evicted {
				entry.Session = "s0"
			}
			lists := i.lists(7, nil, entry)
			s.says(func(q asked) reply {
				switch q.path {
				case "/v1/revocations":
					return lists(q)
				case "/v1/acquire":
					return reply{status: 202, body: object{"position": 1, "queue_length": 1, "poll_after_seconds": 5}}
				default:
					return released
				}
			})
			pass(2 * offlinePace)
			wantValid(t, seat, !evicted)
			if evicted {
				wantKinds(t, heard(seat), "waiting", "lapsed")
			}
			seat.Release()
		})
	}
}
