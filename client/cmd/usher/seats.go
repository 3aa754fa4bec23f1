package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/coditect/usher/client"
)

func (a *app) seats() *cobra.Command {
	s := seats{app: a}
	cmd := &cobra.Command{
		Use:   "seats",
		Short: "Show who sits on the seats of a licence",
		Long: `Shows the sessions that hold the seats of a licence: in a terminal until Ctrl-C, and anew every few seconds; otherwise once.
It needs USHER_API_KEY. The licence is --license, or that of USHER_LICENSE_KEY, or the only one that the tenant has.`,
		Example: `  usher seats
  usher seats --watch=false
  usher seats --json --watch --every 10s | jq .sessions[].holder`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s.every < time.Second {
				return wrong("--every wants a duration from 1s on")
			}
			if !cmd.Flags().Changed("watch") {
				s.watch = isTerminal(a.out) && !a.json
			}
			return s.show(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.license, "license", "", "the licence's id")
	flags.StringVar(&s.tenant, "tenant", "", "the tenant's id, when an operator asks (USHER_TENANT_ID)")
	flags.BoolVar(&s.watch, "watch", false, "show them anew until Ctrl-C; so it is in a terminal, unless --watch=false")
	flags.DurationVar(&s.every, "every", 2*time.Second, "how often")
	return cmd
}

// seats is one usher seats.
type seats struct {
	*app
	license, tenant string
	watch           bool
	every           time.Duration

	service *api
	query   url.Values
}

// mostSessions is how many sessions are shown at most.
const mostSessions = 1000

// frame is what is to be seen at a moment.
type frame struct {
	At       time.Time         `json:"at"`
	License  json.RawMessage   `json:"license"`
	Sessions []json.RawMessage `json:"sessions"`
}

func (s *seats) show(ctx context.Context) error {
	var err error
	if s.service, err = s.administration(); err != nil {
		return err
	}
	s.query = url.Values{}
	if t := s.setting(s.tenant, "USHER_TENANT_ID"); t != "" {
		s.query.Set("tenant_id", t)
	}
	if s.license, err = s.which(ctx); err != nil {
		return err
	}
	f, err := s.look(ctx)
	if err != nil {
		return err
	}
	live := s.watch && !s.json && isTerminal(s.out) && s.getenv("TERM") != "dumb"
	if live {
		_, _ = fmt.Fprint(s.out, "\x1b[2J")
	}
	for trouble := ""; ; {
		if err := s.draw(f, live, trouble); err != nil || !s.watch || !sleep(ctx, s.every) {
			return err
		}
		next, err := s.look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // Ctrl-C is how it ends
		case err != nil && !live:
			s.note("%s", hide(err.Error()))
		case err != nil:
			trouble = hide(err.Error())
		default:
			f, trouble = next, ""
		}
	}
}

// which is the licence that is meant.
func (s *seats) which(ctx context.Context) (string, error) {
	if s.license != "" {
		return s.license, nil
	}
	if key := s.setting(s.licenseKey, "USHER_LICENSE_KEY"); key != "" {
		c := client.Client{URL: s.service.service, LicenseKey: key, HardwareID: "usher-seats", Version: "0.0.0"}
		v, err := c.Validate(ctx, client.Question{})
		switch {
		case err != nil:
			return "", why(err, false)
		case v.License == nil:
			return "", &failure{exitNo, "not_found", "there is no licence with this key"}
		}
		return v.License.ID, nil
	}
	all, err := s.service.read(ctx, "/v1/licenses", s.query, 2)
	switch {
	case err != nil:
		return "", err
	case len(all.Items) == 0:
		return "", &failure{exitNo, "not_found", "the tenant has no licence"}
	case len(all.Items) > 1:
		return "", wrong("the tenant has several licences: say which with --license; usher admin licenses list shows them")
	}
	var only struct{ ID string }
	if err := json.Unmarshal(all.Items[0], &only); err != nil {
		return "", s.service.stranger(http.StatusOK)
	}
	return only.ID, nil
}

// look asks who sits.
func (s *seats) look(ctx context.Context) (frame, error) {
	f := frame{At: time.Now().UTC().Truncate(time.Millisecond)}
	var err error
	if f.License, err = s.service.call(ctx, http.MethodGet, "/v1/licenses/"+url.PathEscape(s.license), s.tenancy(), nil); err != nil {
		return f, err
	}
	query := s.tenancy()
	query.Set("license_id", s.license)
	query.Set("status", "active")
	all, err := s.service.read(ctx, "/v1/sessions", query, mostSessions)
	f.Sessions = all.Items
	return f, err
}

// tenancy is a query that says for which tenant.
func (s *seats) tenancy() url.Values {
	query := url.Values{}
	if t := s.query.Get("tenant_id"); t != "" {
		query.Set("tenant_id", t)
	}
	return query
}

// draw shows a frame, and what is in the way of the next.
func (s *seats) draw(f frame, live bool, trouble string) error {
	if s.json {
		writeJSON(s.out, f)
		return nil
	}
	text, err := s.picture(f)
	if err != nil {
		return err
	}
	if !live {
		_, _ = s.out.Write(text)
		return nil
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if trouble != "" {
		lines = append(lines, s.paint(red, trouble))
	}
	if _, height, err := term.GetSize(int(s.out.Fd())); err == nil && len(lines) >= height && height > 2 {
		lines = append(lines[:height-2], "…")
	}
	// From the top, each line to its end, and nothing below: the screen does not flicker.
	_, _ = fmt.Fprint(s.out, "\x1b[H"+strings.Join(lines, "\x1b[K\n")+"\x1b[K\n\x1b[J")
	return nil
}

// picture is a frame for a person.
func (s *seats) picture(f frame) ([]byte, error) {
	var l struct {
		Product, Plan string
		Effective     string `json:"effective_status"`
		Active        int    `json:"active_seats"`
		Max           int    `json:"max_seats"`
	}
	if err := json.Unmarshal(f.License, &l); err != nil {
		return nil, s.service.stranger(http.StatusOK)
	}
	var text bytes.Buffer
	_, _ = fmt.Fprintf(&text, "%s, plan %s, %s: %d of %s taken  %s\n\n", s.paint(bold, printable(l.Product)), printable(l.Plan), l.Effective,
		l.Active, count(l.Max, "seat"), f.At.Format("15:04:05Z"))
	rows := make([][]string, len(f.Sessions))
	for i, session := range f.Sessions {
		var x struct {
			ID, Holder, Version string
			Hostname            *string
			SeatNo              int       `json:"seat_no"`
			AcquiredAt          time.Time `json:"acquired_at"`
		}
		if err := json.Unmarshal(session, &x); err != nil {
			return nil, s.service.stranger(http.StatusOK)
		}
		host := "-"
		if x.Hostname != nil {
			host = printable(*x.Hostname)
		}
		rows[i] = []string{
			strconv.Itoa(x.SeatNo), printable(x.Holder), host, printable(x.Version),
			max(0, f.At.Sub(x.AcquiredAt)).Truncate(time.Second).String(), x.ID,
		}
	}
	s.table(&text, []string{"seat", "holder", "host", "version", "for", "session"}, rows)
	if len(rows) == mostSessions {
		_, _ = fmt.Fprintf(&text, "and more: these are the newest %d\n", mostSessions)
	}
	return text.Bytes(), nil
}
