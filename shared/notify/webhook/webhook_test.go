package webhook

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/secret"
)

func ring(t *testing.T, names ...string) secret.Ring {
	t.Helper()
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name + ":" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(name, 32))) + "\n")
	}
	r, err := secret.ParseRing(text.String())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAStockLibraryVerifiesWhatIsSigned(t *testing.T) {
	t.Parallel()
	k, id, body := notify.NewKeys(ring(t, "a", "b")), uuid.New(), []byte(`{"type":"seat.denied"}`)
	is, was := secretOf(k, id, "a", 2), secretOf(k, id, "b", 1)
	h := http.Header{}
	sign(h, "evt", time.Now(), body, is, was)
	for _, key := range [][]byte{is, was} {
		verifier, err := standardwebhooks.NewWebhook(reveal(key))
		if err != nil {
			t.Fatal(err)
		}
		if err := verifier.Verify(body, h); err != nil {
			t.Errorf("refused: %v", err)
		}
		if err := verifier.Verify(append([]byte(" "), body...), h); err == nil {
			t.Error("another body is believed")
		}
	}
	for name, key := range map[string][]byte{
		"another generation": secretOf(k, id, "a", 3), "another webhook": secretOf(k, uuid.New(), "a", 2), "another key": secretOf(k, id, "b", 2),
	} {
		verifier, err := standardwebhooks.NewWebhook(reveal(key))
		if err != nil {
			t.Fatal(err)
		}
		if verifier.Verify(body, h) == nil {
			t.Errorf("the secret of %s verifies", name)
		}
	}
	if secretOf(k, id, "c", 1) != nil {
		t.Error("a key that is not in the ring makes a secret")
	}
	old := http.Header{}
	sign(old, "evt", time.Now().Add(-10*time.Minute), body, is)
	if verifier, err := standardwebhooks.NewWebhook(reveal(is)); err != nil || verifier.Verify(body, old) == nil {
		t.Error("an old signature is believed")
	}
}

func TestAttemptsGoOnForMoreThanADay(t *testing.T) {
	t.Parallel()
	var at time.Duration
	longest := time.Duration(0)
	for n := 1; ; n++ {
		if after(0, n) == gaveUp {
			if n != Attempts {
				t.Errorf("given up after %d attempts", n)
			}
			break
		}
		d := wait(n)
		at, longest = at+d, max(longest, d)
	}
	if at < 24*time.Hour || at > 30*time.Hour {
		t.Errorf("the last attempt is %s after the first", at)
	}
	if longest > 5*time.Hour {
		t.Errorf("between two attempts are %s", longest)
	}
	for status, want := range map[int]outcome{200: delivered, 204: delivered, 301: postponed, 400: postponed, 500: postponed, 0: postponed} {
		if got := after(status, 1); got != want {
			t.Errorf("%d is %v, want %v", status, got, want)
		}
	}
}

func TestOnlyPublicAddressesAreConnectedTo(t *testing.T) {
	t.Parallel()
	for _, ip := range []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
		"192.0.0.8", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1",
		"fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
		"64:ff9b:1::a00:1", "2002:7f00:1::", "2001::1", "2001:db8::1", "100::1", "fd00:ec2::254",
	} {
		if public(netip.MustParseAddr(ip)) {
			t.Errorf("%s is taken for public", ip)
		}
	}
	for _, ip := range []string{"8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"} {
		if !public(netip.MustParseAddr(ip)) {
			t.Errorf("%s is not taken for public", ip)
		}
	}
	if public(netip.Addr{}) {
		t.Error("no address is taken for public")
	}
}

func TestAURLThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	strict, open := &Guard{}, &Guard{cfg: GuardConfig{AllowPrivate: true}}
	for _, u := range []string{
		"http://hooks.example", "ftp://hooks.example", "https://", "https:hooks", "https://user:pw@hooks.example", "https://hooks.example/#a",
		"https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/computeMetadata/v1/", "https://10.0.0.1:8443/", "//hooks.example", "https://a b/",
	} {
		if strict.Problem(u) == "" {
			t.Errorf("%s is accepted", u)
		}
	}
	if p := strict.Problem("https://hooks.example:8443/a?b=c"); p != "" {
		t.Errorf("refused: %s", p)
	}
	if p := open.Problem("http://127.0.0.1:9000/"); p != "" {
		t.Errorf("refused where it is allowed: %s", p)
	}
}

// get asks for a URL as a webhook's sender does.
func get(t *testing.T, g *Guard, u string) (int, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := g.Client().Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

func TestANameThatLeadsElsewhereWhenItIsUsedReachesNothing(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	t.Cleanup(sink.Close)
	at, err := url.Parse(sink.URL)
	if err != nil {
		t.Fatal(err)
	}
	// The name is public when somebody looks, and private when it is connected to.
	var asked atomic.Int64
	resolver := names(t, func() netip.Addr {
		if asked.Add(1) == 1 {
			return netip.MustParseAddr("8.8.8.8")
		}
		return netip.MustParseAddr("127.0.0.1")
	})
	if ips, err := resolver.LookupNetIP(t.Context(), "ip4", "rebind.test"); err != nil || !public(ips[0]) {
		t.Fatalf("the first look-up answers %v, %v", ips, err)
	}
	g := &Guard{cfg: GuardConfig{Timeout: 5 * time.Second}, resolver: resolver}
	if _, err := get(t, g, "http://rebind.test:"+at.Port()); !errors.Is(err, errPrivate) {
		t.Errorf("the error is %v", err)
	}
	for _, u := range []string{sink.URL, "http://localhost:" + at.Port(), "http://[::ffff:127.0.0.1]:" + at.Port(), "http://2130706433:" + at.Port()} {
		if _, err := get(t, &Guard{cfg: GuardConfig{Timeout: 5 * time.Second}}, u); err == nil {
			t.Errorf("%s was reached", u)
		}
	}
	if reached.Load() != 0 {
		t.Error("what is private was reached")
	}
	open := &Guard{cfg: GuardConfig{Timeout: 5 * time.Second, AllowPrivate: true}, resolver: resolver}
	if status, err := get(t, open, "http://rebind.test:"+at.Port()); status != http.StatusOK {
		t.Errorf("where it is allowed: %d, %v", status, err)
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	t.Cleanup(inside.Close)
	sink := httptest.NewServer(http.RedirectHandler(inside.URL, http.StatusTemporaryRedirect))
	t.Cleanup(sink.Close)
	status, err := get(t, &Guard{cfg: GuardConfig{Timeout: 5 * time.Second, AllowPrivate: true}}, sink.URL)
	if err != nil || status != http.StatusTemporaryRedirect || reached.Load() != 0 {
		t.Errorf("answered %d, %v; the redirect led %d times", status, err, reached.Load())
	}
}

// names is a resolver for which every name leads where answer says.
func names(t *testing.T, answer func() netip.Addr) *net.Resolver {
	t.Helper()
	socket, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	go func() {
		for buffer := make([]byte, 512); ; {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if q.Unpack(buffer[:n]) != nil || len(q.Questions) == 0 {
				continue
			}
			q.Response, q.Authoritative, q.Additionals = true, true, nil
			if question := q.Questions[0]; question.Type == dnsmessage.TypeA {
				q.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class},
					Body:   &dnsmessage.AResource{A: answer().As4()},
				}}
			}
			if packed, err := q.Pack(); err == nil {
				_, _ = socket.WriteTo(packed, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
}

func TestWhoAskedForAKindHearsOfAllOfIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		events []string
		typ    string
		want   bool
	}{
		{[]string{"*"}, "seat.denied", true},
		{[]string{"seat.*"}, "seat.denied", true},
		{[]string{"license.*", "seat.denied"}, "seat.denied", true},
		{[]string{"seat.*"}, "license.created", false},
		{[]string{"seat.lapsed"}, "seat.denied", false},
		{nil, "seat.denied", false},
	} {
		if got := wants(c.events, c.typ); got != c.want {
			t.Errorf("%v wants %s: %v", c.events, c.typ, got)
		}
	}
}
