package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestASeatIsKeptAtTheServicesPace(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		seat := acquire(t, c)
		pass(10 * time.Minute)
		wantValid(t, seat, true)
		beats := slices.DeleteFunc(s.all(), func(q asked) bool { return q.path != "/v1/heartbeat" })
		if len(beats) < 30 || len(beats) > 34 {
			t.Errorf("it beat %d times in ten minutes, at a pace of 20 s", len(beats))
		}
		even := true
		for i := range beats[1:] {
			gap := beats[i+1].at - beats[i].at
			even = even && gap == beats[1].at-beats[0].at
			if gap < 18*time.Second || gap > 20*time.Second {
				t.Errorf("between two heartbeats there were %s", gap)
			}
			if beats[i].token != "Bearer token of s1" {
				t.Errorf("it beat with %q", beats[i].token)
			}
		}
		if even {
			t.Error("there is no jitter")
		}
		wantKinds(t, heard(seat))
		seat.Release()
		wantValid(t, seat, false)
		if !errors.Is(seat.Err(), ErrReleased) {
			t.Errorf("after its release: %v", seat.Err())
		}
		wantKinds(t, heard(seat), "released")
		if paths := s.paths(len(s.all()) - 1); paths[0] != "/v1/release" {
			t.Errorf("the last question was %s", paths)
		}
		seat.Release()
	})
}

func TestBelievingIsCountedFromSending(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		s.says(func(asked) reply { return seatOf("s1").after(9 * time.Second) })
		seat := acquire(t, c) // 9 s after it asked
		s.says(down)
		pass(51*time.Second - time.Nanosecond)
		wantValid(t, seat, true)
		pass(time.Nanosecond)
		wantValid(t, seat, false)
		seat.Release()
	})
}

func TestABlipIsSurvivedWithinTheBelief(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		seat := acquire(t, c)
		s.says(down)
		pass(50 * time.Second)
		wantValid(t, seat, true)
		events := heard(seat)
		wantKinds(t, events, "unreachable")
		if left := time.Until(events[0].Until); left < 9*time.Second || left > 10*time.Second {
			t.Errorf("it was told that the belief ends in %s, want 10 s", left)
		}
		s.says(works)
		pass(11 * time.Second)
		wantValid(t, seat, true)
		wantKinds(t, heard(seat), "confirmed")
		seat.Release()
	})
}

func TestALongOutageEndsTheBeliefAndTheTruthIsHeardWithinOneHeartbeatOfItsEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault  func(asked) reply
		answer func(asked) reply // when it is over
		want   []string
		valid  bool
	}{
		"the session lives": {down, works, []string{"confirmed"}, true},
		"it lapsed, and there is a seat": {down, func(q asked) reply {
			switch q.path {
			case "/v1/heartbeat":
				if q.token == "Bearer token of s2" {
					return beatOf("s2")
				}
				return problem(410, "seat_lapsed", object{"reason": "lease_expired", "ended_by": nil, "ended_at": "2030-01-01T00:00:00.000Z"})
			default:
				return seatOf("s2")
			}
		}, []string{"lapsed seat_lapsed", "reacquired"}, true},
		"it lapsed, and there is none": {down, func(q asked) reply {
			if q.path == "/v1/heartbeat" {
				return problem(410, "seat_lapsed", object{"reason": "lease_expired"})
			}
			return problem(409, "no_seats_available", nil).retry(5)
		}, []string{"lapsed seat_lapsed", "lapsed no_seats_available"}, false},
		"it was evicted": {down, func(q asked) reply {
			if q.path == "/v1/heartbeat" {
				return problem(410, "seat_evicted", object{"reason": "license_suspended", "ended_by": "operator:ann", "ended_at": "2030-01-01T00:00:00.000Z"})
			}
			return released
		}, []string{"lost seat_evicted"}, false},
		"it hung":                         {func(asked) reply { return reply{delay: time.Hour} }, works, []string{"confirmed"}, true},
		"it was told to wait for an hour": {func(asked) reply { return problem(429, "rate_limited", nil).retry(3600) }, works, []string{"confirmed"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t inside, s *script, client *Client) {
				seat := acquire(t, client)
				s.says(c.fault)
				pass(61 * time.Second)
				wantValid(t, seat, false)
				if !errors.Is(seat.Err(), ErrLapsed) {
					t.Errorf("the seat says %v", seat.Err())
				}
				if got := kinds(heard(seat)); len(got) != 2 || !strings.HasPrefix(got[0], "unreachable") || !strings.HasPrefix(got[1], "lapsed") {
					t.Errorf("the host heard %q", got)
				}
				pass(10 * time.Minute)
				wantKinds(t, heard(seat))
				s.says(c.answer)
				pass(21 * time.Second)
				wantKinds(t, heard(seat), c.want...)
				wantValid(t, seat, c.valid)
				seat.Release()
			})
		})
	}
}

func TestLossSaysWhatWhyByWhomAndWhen(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		seat := acquire(t, c)
		s.says(func(q asked) reply {
			if q.path == "/v1/release" {
				return released
			}
			return problem(410, "seat_evicted", object{"reason": "moved", "ended_by": "user:ann", "ended_at": "2030-01-02T03:04:05.678Z"})
		})
		pass(20 * time.Second)
		select {
		case <-seat.Done():
		default:
			t.Fatal("the seat is not over")
		}
		events := heard(seat)
		wantKinds(t, events, "lost seat_evicted")
		e := events[0]
		if e.Reason != "moved" || e.By != "user:ann" || !e.At.Equal(time.Date(2030, 1, 2, 3, 4, 5, 678e6, time.UTC)) {
			t.Errorf("it heard %+v", e)
		}
		var refusal *Refusal
		if !errors.As(seat.Err(), &refusal) || refusal.Status != 410 || refusal.RequestID != "r-1" || refusal.Detail != "A sentence." {
			t.Errorf("the seat says %v", seat.Err())
		}
		// It frees the seat, which stays taken until then, and asks for no other.
		if paths := s.paths(1); !slices.Equal(paths, []string{"/v1/heartbeat", "/v1/release"}) {
			t.Errorf("it asked %s", paths)
		}
		pass(time.Hour)
		if n := len(s.all()); n != 3 {
			t.Errorf("it asked %d questions", n)
		}
	})
}

func TestASeatThatSomebodyOfTheSameHolderReleasedIsAskedForAgainAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		seat := acquire(t, c)
		s.says(func(q asked) reply {
			switch {
			case q.path == "/v1/acquire":
				return seatOf("s2")
			case q.token == "Bearer token of s1":
				return problem(410, "seat_released", object{"reason": "released", "ended_by": "holder"})
			default:
				return beatOf("s2")
			}
		})
		pass(20 * time.Second)
		wantValid(t, seat, true)
		wantKinds(t, heard(seat), "lapsed seat_released", "reacquired")
		if got := seat.Status().SessionID; got != "s2" {
			t.Errorf("it holds session %s", got)
		}
		asked := s.all()
		if asked[0].key == "" || asked[2].key == "" || asked[0].key == asked[2].key {
			t.Errorf("the first quest had the key %q, the second %q", asked[0].key, asked[2].key)
		}
		seat.Release()
	})
}

func TestATokenThatIsGoodNoMoreIsReplacedWhileTheSeatIsBelievedIn(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		seat := acquire(t, c)
		s.says(func(q asked) reply {
			if q.path == "/v1/heartbeat" {
				return problem(401, "seat_token_invalid", nil)
			}
			return seatOf("s1").after(5 * time.Second)
		})
		pass(22 * time.Second)
		wantValid(t, seat, true)
		s.says(works)
		pass(10 * time.Minute)
		wantValid(t, seat, true)
		wantKinds(t, heard(seat))
		seat.Release()
	})
}

func TestALicenceThatGrantsNoSeatsAnyMoreEndsTheSeat(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		seat := acquire(t, c)
		s.says(func(q asked) reply {
			if q.path == "/v1/heartbeat" {
				return problem(410, "seat_lapsed", nil)
			}
			return problem(403, "license_expired", nil)
		})
		pass(20 * time.Second)
		wantKinds(t, heard(seat), "lapsed seat_lapsed", "lost license_expired")
		<-seat.Done()
	})
}

func TestDrainingIsToldOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		seat := acquire(t, c)
		s.says(func(q asked) reply {
			a := beatOf("s1")
			a.body.(object)["draining"], a.body.(object)["drain_until"] = true, "2030-01-02T00:00:00.000Z"
			return a
		})
		pass(time.Minute)
		events := heard(seat)
		wantKinds(t, events, "draining")
		if until := time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC); !events[0].Until.Equal(until) || !seat.Status().DrainUntil.Equal(until) {
			t.Errorf("it heard %+v", events[0])
		}
		seat.Release()
	})
}

func TestNothingButTheServicesOwnWordIsBelieved(t *testing.T) {
	t.Parallel()
	html := map[string]string{"Content-Type": "text/html"}
	for name, a := range map[string]reply{
		"a page that says yes":         {status: 200, header: html, body: "<p>ok"},
		"a page that says gone":        {status: 410, header: html, body: "<p>gone"},
		"a page that forbids":          {status: 403, header: html, body: "<p>no"},
		"a problem of somebody else's": {status: 410, body: object{"title": "Gone"}},
		"gone, in broken JSON":         {status: 410, body: `{"code":"seat_evicted"`},
		"yes, in broken JSON":          {status: 200, body: `{"ttl_seconds":60`},
		"yes, of another shape":        {status: 200, body: object{"ttl_seconds": "long"}},
		"yes, of nothing":              {status: 200, body: object{}},
		"a negative lease":             {status: 200, body: object{"ttl_seconds": -5}},
		"no content":                   {status: 204, body: ""},
		"a redirect":                   {status: 307, header: map[string]string{"Location": "https://elsewhere.test/"}, body: ""},
		"a huge body":                  {status: 200, body: huge},
		"an error of the server's":     problem(500, "internal", nil),
		"a store that is out":          problem(503, "store_unavailable", nil).retry(1),
		"too many":                     problem(429, "rate_limited", nil).retry(1),
		"nobody at this path":          problem(404, "not_found", nil),
		"a yes that comes too late":    beatOf("s1").after(time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t inside, s *script, c *Client) {
				seat := acquire(t, c)
				s.says(func(asked) reply { return a })
				pass(59 * time.Second)
				wantValid(t, seat, true)
				if got := heard(seat); len(got) != 1 || got[0].Kind != Unreachable || got[0].Err == nil {
					t.Errorf("the host heard %+v", got)
				}
				pass(2 * time.Second)
				wantValid(t, seat, false)
				s.says(works)
				pass(21 * time.Second)
				wantValid(t, seat, true)
				for _, q := range s.all() {
					if strings.Contains(q.path, "elsewhere") || q.token != "" && q.token != "Bearer token of s1" {
						t.Errorf("it asked %+v", q)
					}
				}
				seat.Release()
			})
		})
	}
}

func TestAnEnormousLeaseIsNoOverflow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		s.says(func(asked) reply {
			a := seatOf("s1")
			a.body.(object)["ttl_seconds"], a.body.(object)["heartbeat_after_seconds"] = int64(1)<<62, int64(1)<<62
			return a
		})
		seat := acquire(t, c)
		pass(24 * time.Hour)
		wantValid(t, seat, true)
		s.says(works)
		seat.Release()
	})
}

func TestAMachineThatSleptAsksBeforeItBelievesAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		seat := acquire(t, c)
		pass(time.Second)
		before := len(s.all())
		s.says(func(q asked) reply { return works(q).after(time.Second) })
		s.suspends(8 * time.Hour)
		wantValid(t, seat, false)
		pass(time.Second - time.Nanosecond)
		wantValid(t, seat, false) // asked, and not yet answered
		pass(time.Nanosecond)
		wantValid(t, seat, true)
		if paths := s.paths(before); !slices.Equal(paths, []string{"/v1/heartbeat"}) {
			t.Errorf("on waking it asked %s", paths)
		}
		wantKinds(t, heard(seat), "lapsed", "confirmed")

		// Also when nobody asks whether it is valid, within moments.
		s.suspends(8 * time.Hour)
		pass(nap + 2*time.Second)
		wantKinds(t, heard(seat), "lapsed", "confirmed")

		// A short sleep leaves what was promised, and the heartbeat is sent by the clock that ran on.
		pass(time.Second)
		n := len(s.all())
		s.suspends(30 * time.Second)
		wantValid(t, seat, true)
		pass(nap + 2*time.Second)
		if paths := s.paths(n); !slices.Equal(paths, []string{"/v1/heartbeat"}) {
			t.Errorf("after a short sleep it asked %s", paths)
		}
		wantKinds(t, heard(seat))
		seat.Release()
	})
}

func TestAnAnswerThatWasSleptThroughIsNotBelieved(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		seat := acquire(t, c)
		s.says(func(q asked) reply { return works(q).after(2 * time.Second) })
		pass(20 * time.Second) // the heartbeat is under way
		s.suspends(time.Hour)
		pass(2 * time.Second)
		wantValid(t, seat, false)
		s.says(works)
		pass(2 * time.Second)
		wantValid(t, seat, true)
		seat.Release()
	})
}

func TestReleaseNeverTakesLong(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		for name, fault := range map[string]func(asked) reply{
			"down": down, "hung": func(asked) reply { return reply{delay: time.Hour} },
			"busy": func(asked) reply { return problem(503, "store_unavailable", nil).retry(3600) },
		} {
			s.says(works)
			seat := acquire(t, c)
			s.says(fault)
			began := time.Now()
			seat.Release()
			if took := time.Since(began); took > leaving {
				t.Errorf("%s: it took %s", name, took)
			}
			wantKinds(t, heard(seat), "released")
		}
	})
}

func TestTheEndOfTheContextGivesTheSeatBack(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		ctx, cancel := context.WithCancel(t.Context())
		seat, err := c.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		<-seat.Done()
		wantValid(t, seat, false)
		if paths := s.paths(1); !slices.Equal(paths, []string{"/v1/release"}) {
			t.Errorf("it asked %s", paths)
		}
	})
}

func TestAHostThatDoesNotListenIsNotBlockedAndHearsTheLastEvents(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		seat := acquire(t, c)
		for range 20 {
			s.says(down)
			pass(50 * time.Second)
			s.says(works)
			pass(15 * time.Second)
		}
		wantValid(t, seat, true)
		seat.Release()
		events := heard(seat)
		if len(events) != 16 || events[15].Kind != Released || events[14].Kind != Confirmed {
			t.Errorf("the host heard %q", kinds(events))
		}
	})
}
