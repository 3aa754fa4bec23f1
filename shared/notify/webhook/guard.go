package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/coditect/usher/shared/platform/config"
)

// GuardConfig says where webhooks may lead.
type GuardConfig struct {
	// AllowPrivate lets them lead to addresses that the internet does not have, and be http: for one machine and closed networks.
	AllowPrivate bool `env:"WEBHOOK_ALLOW_PRIVATE" envDefault:"false"`
	// Timeout bounds one attempt, from the look-up of the name to the end of the answer.
	Timeout time.Duration `env:"WEBHOOK_TIMEOUT" envDefault:"10s"`
}

// longestAttempt is what a run of function deliver has time for after it began its last attempt.
const longestAttempt = 20 * time.Second

// Guard keeps webhooks away from what is not public.
type Guard struct {
	cfg GuardConfig
	// resolver looks names up; nil is the machine's own way.
	resolver *net.Resolver
}

// OpenGuard reads GuardConfig from the environment.
func OpenGuard(getenv func(string) string) (*Guard, error) {
	var c GuardConfig
	if err := config.Load(&c, getenv); err != nil {
		return nil, err
	}
	if c.Timeout <= 0 || c.Timeout > longestAttempt {
		return nil, &config.Fault{Variable: "WEBHOOK_TIMEOUT", Problem: "must be more than 0 and at most 20s"}
	}
	return &Guard{cfg: c}, nil
}

// Problem says what is wrong with a webhook's URL, or "". It looks no name up: where that leads is decided at each attempt, of
// the address that is connected to, because a name may lead elsewhere by then.
func (g *Guard) Problem(raw string) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return "Must be a URL with a host."
	case u.Scheme != "https" && (u.Scheme != "http" || !g.cfg.AllowPrivate):
		return "Must begin with https://."
	case u.User != nil:
		return "Must hold no user and no password."
	case u.Fragment != "":
		return "Must have no fragment."
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !g.allows(ip) {
		return "Must lead to a public address."
	}
	return ""
}

// errPrivate says that an address is none of the internet's.
var errPrivate = errors.New("the address is not public")

// Client is an HTTP client for webhooks. It connects to public addresses alone, by a check of the very address that is
// connected to, whatever a name led to before; it follows no redirect, knows no proxy, and keeps no connection.
func (g *Guard) Client() *http.Client {
	dialer := &net.Dialer{
		Timeout:  g.cfg.Timeout,
		Resolver: g.resolver,
		ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil || network != "tcp4" && network != "tcp6" || !g.allows(at.Addr()) {
				return errPrivate
			}
			return nil
		},
	}
	return &http.Client{
		Timeout:       g.cfg.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer.DialContext, Proxy: nil, DisableKeepAlives: true, DisableCompression: true, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: g.cfg.Timeout, ResponseHeaderTimeout: g.cfg.Timeout, MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

// allows says whether an address may be connected to.
func (g *Guard) allows(ip netip.Addr) bool {
	return g.cfg.AllowPrivate || public(ip)
}

// public says whether an address is one of the internet's: the registries of IANA of special-purpose addresses say of all
// others what they are. What holds another address within it is judged by both.
func public(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if !ip.IsValid() {
		return false
	}
	for _, n := range special {
		if n.Contains(ip) {
			return false
		}
	}
	if ip.Is4() {
		return true
	}
	// Of IPv6 only 2000::/3 is given out; what translators take for IPv4 is not within it, but for 6to4 and Teredo, which are
	// in the list above.
	return netip.MustParsePrefix("2000::/3").Contains(ip)
}

// special are the prefixes that are not globally reachable, or lead to such through a translator.
var special = func() []netip.Prefix {
	var all []netip.Prefix
	for _, text := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	} {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}()

// explain is what may be told of an attempt that got no answer.
func explain(err error) string {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, errPrivate):
		return "the URL leads to an address that is not public"
	case errors.As(err, &dns):
		return "the name could not be looked up"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection was refused"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "it did not answer in time"
	default:
		return "the connection failed"
	}
}

// problemOf says of a status that is no success what it was.
func problemOf(status int) string {
	switch {
	case status >= 300 && status < 400:
		return fmt.Sprintf("it answered %d; redirects are not followed", status)
	default:
		return fmt.Sprintf("it answered %d", status)
	}
}
