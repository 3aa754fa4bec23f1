package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEveryQuestionOfOneAcquireIsTheSame(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		c.Product, c.User, c.Metadata, c.Wait = "editor", "ann", object{"team": "x"}, true
		n := 0
		s.says(func(q asked) reply {
			n++
			return []reply{refused, problem(503, "store_unavailable", nil).retry(1), problem(409, "idempotency_in_flight", nil).retry(1), seatOf("s1")}[n-1]
		})
		seat := acquire(t, c)
		all := s.all()
		for _, q := range all {
			if q.key == "" || q.key != all[0].key || q.body["instance_id"] != all[0].body["instance_id"] {
				t.Errorf("it asked %+v and %+v", all[0], q)
			}
		}
		b := all[0].body
		if b["license_key"] != "KEY" || b["hardware_id"] != "laptop" || b["version"] != "1.2.3" || b["product"] != "editor" || b["user"] != "ann" ||
			b["wait"] != true || b["metadata"].(object)["team"] != "x" || b["instance_id"] == "" {
			t.Errorf("it asked %v", b)
		}
		s.says(works)
		seat.Release()
	})
}

func TestAcquireSaysWhyThereIsNoSeat(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer reply
		want   error  // errors.Is
		code   string // of the Refusal
		within time.Duration
	}{
		"full":              {problem(409, "no_seats_available", object{"active_seats": 3, "max_seats": 3}).retry(30), ErrNoSeats, "no_seats_available", 0},
		"suspended":         {problem(403, "license_suspended", nil), nil, "license_suspended", 0},
		"unknown":           {problem(404, "license_not_found", nil), nil, "license_not_found", 0},
		"invalid":           {problem(422, "invalid_request", nil), nil, "invalid_request", 0},
		"down":              {refused, ErrUnreachable, "", patience},
		"untrusted":         {reply{err: &tls.CertificateVerificationError{Err: errors.New("unknown authority")}}, ErrUnreachable, "", 0},
		"a page":            {reply{status: 200, header: map[string]string{"Content-Type": "text/html"}, body: "<p>"}, ErrUnreachable, "", patience},
		"out, for a minute": {problem(503, "store_unavailable", nil).retry(60), ErrUnreachable, "store_unavailable", 0},
		"limited":           {problem(429, "rate_limited", nil).retry(1), nil, "rate_limited", patience},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t inside, s *script, client *Client) {
				s.says(func(asked) reply { return c.answer })
				began := time.Now()
				_, err := client.Acquire(t.Context())
				var refusal *Refusal
				switch {
				case err == nil, c.want != nil && !errors.Is(err, c.want), errors.Is(err, ErrNoSeats) != (c.code == "no_seats_available"):
					t.Errorf("it answered %v", err)
				case errors.As(err, &refusal) != (c.code != "") || refusal != nil && refusal.Code != c.code:
					t.Errorf("it answered %v, want the code %q", err, c.code)
				case strings.Contains(err.Error(), "KEY"):
					t.Errorf("the error shows a secret: %v", err)
				}
				// What was perhaps done is looked after in a few seconds more.
				if took := time.Since(began); took > c.within+leaving {
					t.Errorf("it took %s, want %s", took, c.within)
				}
			})
		})
	}
}

func TestAFullLicenceSaysHowManyAndWhen(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		s.says(func(asked) reply {
			return problem(409, "no_seats_available", object{"active_seats": 3, "max_seats": 4}).retry(30)
		})
		_, err := c.Acquire(t.Context())
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.ActiveSeats != 3 || refusal.MaxSeats != 4 || refusal.RetryAfter != 30*time.Second {
			t.Errorf("it answered %#v", err)
		}
	})
}

func queueAt(position int) reply {
	return reply{status: 202, body: object{"position": position, "queue_length": 5, "eta_seconds": nil, "poll_after_seconds": 2}}
}

func TestAWaiterAsksAsOftenAsItIsToldAndGetsItsSeat(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		c.Wait = true
		var places []int
		c.Queued = func(p Place) { places = append(places, p.Position) }
		n := 4
		s.says(func(q asked) reply {
			if n--; n > 0 {
				return queueAt(n)
			}
			return seatOf("s1")
		})
		seat := acquire(t, c)
		if !slices.Equal(places, []int{3, 2, 1}) {
			t.Errorf("it heard of the places %v", places)
		}
		for i, q := range s.all() {
			if q.at != time.Duration(2*i)*time.Second || q.key != s.all()[0].key {
				t.Errorf("question %d came at %s", i, q.at)
			}
		}
		s.says(works)
		seat.Release()
	})
}

func TestAWaiterWhoseContextEndsGivesItsPlaceUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		c.Wait = true
		s.says(func(q asked) reply {
			if q.path == "/v1/release" {
				return reply{status: 200, body: object{"status": "left_queue"}}
			}
			return queueAt(1)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 11*time.Second)
		defer cancel()
		if _, err := c.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it answered %v", err)
		}
		all := s.all()
		last := all[len(all)-1]
		if last.path != "/v1/release" || last.token != "" || last.body["license_key"] != "KEY" || last.body["hardware_id"] != "laptop" {
			t.Errorf("the last question was %+v", last)
		}
	})
}

func TestASeatWhoseAnswerWasLostIsGivenBackWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		s.says(func(q asked) reply {
			if q.at < 3*time.Second {
				return reply{delay: time.Hour} // it was taken, and the answer does not come
			}
			return works(q)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := c.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it answered %v", err)
		}
		all := s.all()
		if paths := s.paths(0); !slices.Equal(paths, []string{"/v1/acquire", "/v1/acquire", "/v1/release"}) ||
			all[0].key != all[1].key || all[2].token != "Bearer token of s1" {
			t.Errorf("it asked %+v", all)
		}
	})
}

func TestASeatWhoseAnswerWasLostIsGivenBackWhenAcquireGivesUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		s.says(func(q asked) reply {
			switch {
			case q.at == 0:
				return refused // it was taken, and the answer was lost
			case q.at < patience:
				return problem(429, "rate_limited", nil).retry(4)
			default:
				return works(q)
			}
		})
		if _, err := c.Acquire(t.Context()); err == nil {
			t.Error("it did not give up")
		}
		if paths := s.paths(len(s.all()) - 2); !slices.Equal(paths, []string{"/v1/acquire", "/v1/release"}) {
			t.Errorf("at last it asked %s", paths)
		}
	})
}

func TestAWaiterSurvivesWhateverHappensMeanwhile(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		c.Wait = true
		time.AfterFunc(time.Hour, func() { s.says(works) })
		n := 0
		s.says(func(asked) reply {
			n++
			return []reply{refused, problem(503, "x", nil), problem(409, "no_seats_available", nil).retry(10), queueAt(1), {status: 200, body: "<p>"}}[n%5]
		})
		seat := acquire(t, c)
		s.says(works)
		seat.Release()
	})
}

func TestAReacquiringSeatWaitsInTheQueueWhenAskedTo(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		c.Wait = true
		seat := acquire(t, c)
		s.says(func(q asked) reply {
			switch q.path {
			case "/v1/heartbeat":
				return problem(410, "seat_lapsed", nil)
			case "/v1/acquire":
				return queueAt(2)
			default:
				return released
			}
		})
		pass(30 * time.Second)
		events := heard(seat)
		if len(events) < 2 || events[0].Kind != Lapsed || events[1].Kind != Waiting || events[1].Place != (Place{Position: 2, Length: 5}) {
			t.Errorf("it heard %+v", events)
		}
		wantValid(t, seat, false)
		seat.Release()
		all := s.all()
		if last := all[len(all)-1]; last.path != "/v1/release" || last.body["license_key"] != "KEY" {
			t.Errorf("the last question was %+v", last)
		}
	})
}

func TestValidateTellsEveryCheck(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		s.says(func(q asked) reply {
			if q.body["nonce"] != "n" || q.body["wait"] != nil || q.body["instance_id"] != nil || q.body["features"].([]any)[0] != "export" {
				t.Errorf("it asked %v", q.body)
			}
			return reply{status: 200, body: object{
				"valid": false, "code": "license_expired", "checks": []object{{"name": "dates", "ok": false, "code": "license_expired", "detail": "D."}},
				"license": object{"id": "l", "product": "editor", "plan": "pro", "status": "expired", "features": []string{"f"}, "max_seats": 3, "active_seats": 1, "expires_at": "2020-01-01T00:00:00.000Z", "grace_until": nil},
				"nonce":   "n", "receipt": nil,
			}}
		})
		v, err := c.Validate(t.Context(), Question{Features: []string{"export"}, Nonce: "n"})
		if err != nil {
			t.Fatal(err)
		}
		if v.Valid || v.Code != "license_expired" || len(v.Checks) != 1 || v.License.ExpiresAt.Year() != 2020 || v.Receipt != "" || v.Nonce != "n" {
			t.Errorf("it answered %+v", v)
		}
	})
}

func TestAHostThatHangsIsGivenUpAfterFifteenSecondsAndFiveToBePolite(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		s.says(func(asked) reply { return reply{delay: time.Hour} })
		_, err := c.Acquire(t.Context())
		if took := time.Since(s.began); !errors.Is(err, ErrUnreachable) || took != patience+leaving {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

func TestAProgramThatDoesNotKnowItsVersionAsksWithOne(t *testing.T) {
	t.Parallel()
	bubble(t, func(t inside, s *script, c *Client) {
		s.says(works)
		c.Version = ""
		seat, err := c.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if asked := fmt.Sprint(s.all()[0].body["version"]); !regexp.MustCompile(`^\d+\.\d+\.\d+`).MatchString(asked) {
			t.Errorf("it asked with version %q, which the service refuses", asked)
		}
		seat.Release()
	})
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	for name, c := range map[string]*Client{
		EnvURL:        {LicenseKey: "k", HardwareID: "h"},
		EnvLicenseKey: {URL: "https://usher.test", HardwareID: "h"},
	} {
		t.Setenv(name, "")
		if _, err := c.Acquire(t.Context()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	for _, bad := range []string{"usher.example.com", "ftp://usher", "https://", "://"} {
		c := &Client{URL: bad, LicenseKey: "k", HardwareID: "h"}
		if _, err := c.Acquire(t.Context()); err == nil {
			t.Errorf("%q is taken for a URL", bad)
		}
	}
}
